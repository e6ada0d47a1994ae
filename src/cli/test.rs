//! `tollgate test`: policy cases, decided by the real engine while the clock is moved by hand.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use tokio::runtime::Builder;
use tollgate::config::cases::{self, Asked, Caller, Case, Cases, Expected, Fault, Outcome, Shows, Step};
use tollgate::config::{self, Severity};
use tollgate::domain::decision::Reason;
use tollgate::domain::time::Micros;
use tollgate::proto as pb;
use tollgate::server::rehearsal::{Answered, Rehearsal, Stage, TokenPlan};

use super::{Done, environment, print};

/// What files of cases are called. Others are passed over where they were not written out one by one.
const ENDINGS: [&str; 2] = ["cases.yaml", "cases.yml"];

/// By how much a token is too old or too young that is to be: more than any leeway.
const FAR: Micros = Micros::from_secs(7 * 24 * 60 * 60);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Files of cases, and folders with such (every file below that is called cases.yaml, or something.cases.yaml). Of several
    /// files those with other names are passed over, so that a shell's `**` can be given.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Only cases whose name contains this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// What became of cases.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    left_out: usize,
    broken: usize,
}

pub(super) fn run(arguments: &Arguments) -> Done {
    let files = found(&arguments.files)?;
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start the runtime: {error}"))?;
    let mut tally = Tally::default();
    for file in &files {
        runtime.block_on(try_out(file, arguments.filter.as_deref(), &mut tally));
    }
    let Tally { passed, failed, left_out, broken } = tally;
    let mut summary = format!("{passed} passed, {failed} failed");
    if left_out > 0 {
        let _ = write!(summary, ", {left_out} left out by --filter");
    }
    if broken > 0 {
        let _ = write!(summary, "; {broken} of {} files could not be used", files.len());
    }
    print::line(&summary);
    if passed + failed + broken == 0 {
        return Err("no case was tried out: --filter leaves none".to_owned());
    }
    Ok(match (broken, failed) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::FAILURE,
        _ => ExitCode::from(super::COULD_NOT),
    })
}

/// The files of cases among and below `named`.
fn found(named: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for path in named {
        if path.is_dir() {
            below(path, &mut files)?;
        } else if named.len() == 1 || is_cases(path) {
            files.push(path.clone());
        }
    }
    files.sort();
    files.dedup();
    if files.is_empty() {
        return Err(format!("there is no file of cases: they are called {} or something.{0}", ENDINGS[0]));
    }
    Ok(files)
}

fn is_cases(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    ENDINGS.iter().any(|ending| name.strip_suffix(ending).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

fn below(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let cannot = |error: std::io::Error| format!("{}: cannot be read ({error})", folder.display());
    for entry in folder.read_dir().map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let kind = entry.file_type().map_err(cannot)?;
        // A link to a folder could lead in a circle.
        if kind.is_dir() {
            below(&entry.path(), files)?;
        } else if is_cases(&entry.path()) {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Tries out one file, and says what is wrong.
async fn try_out(file: &Path, filter: Option<&str>, tally: &mut Tally) {
    let Some((stage, cases)) = read(file) else {
        tally.broken += 1;
        return;
    };
    let is_meant = |case: &Case| filter.is_none_or(|text| case.name.contains(text));
    for case in &cases.cases {
        if !is_meant(case) {
            tally.left_out += 1;
            continue;
        }
        match play(&stage, case).await {
            Ok(()) => tally.passed += 1,
            Err(Failure { line, what }) => {
                tally.failed += 1;
                print::line(format_args!("FAILED {}:{line}: {}\n{what}", file.display(), case.name));
            }
        }
    }
}

/// The cases of a file and the configuration that they are about; else everything that is wrong was said.
fn read(file: &Path) -> Option<(Stage, Cases)> {
    let cases = match cases::load(file, &environment) {
        Ok((cases, warnings)) => {
            warnings.iter().for_each(print::line);
            cases
        }
        Err(problems) => {
            print::line(problems);
            return None;
        }
    };
    let held = |name: &str| cases.environment.get(name).cloned().or_else(|| environment(name));
    let config = match config::load(&cases.config, &held) {
        // What is doubtful of a configuration, `config check` says.
        Ok((config, _)) => config,
        Err(problems) => {
            let errors = problems.listed.iter().filter(|problem| problem.severity == Severity::Error);
            errors.for_each(print::line);
            return None;
        }
    };
    match Stage::new(config) {
        Ok(stage) => Some((stage, cases)),
        Err(problem) => {
            print::line(format_args!("{}: {problem}", file.display()));
            None
        }
    }
}

/// Why a case failed.
struct Failure {
    /// Of the step.
    line: usize,
    /// Lines, indented.
    what: String,
}

async fn play(stage: &Stage, case: &Case) -> Result<(), Failure> {
    let at = |line| move |why: String| Failure { line, what: format!("  {why}") };
    let mut rehearsal = stage.begin(case.at).await.map_err(at(case.line))?;
    let mut tokens = BTreeMap::new();
    for Step { line, after, revoke, ask } in &case.steps {
        rehearsal.pass(*after);
        if let Some(revoked) = revoke {
            let done = rehearsal.revoke(revoked.kind, revoked.issuer.as_deref(), &revoked.name).await;
            done.map_err(|why| format!("revoke: {why}")).map_err(at(*line))?;
        }
        let Some(asked) = ask else { continue };
        let question = question(&mut rehearsal, &mut tokens, asked).map_err(at(*line))?;
        for time in 1..=asked.times {
            let answered = rehearsal.ask(question.clone()).await.map_err(at(*line))?;
            let differences = differences(&asked.expected, &answered);
            if !differences.is_empty() {
                return Err(Failure { line: *line, what: told(asked, time, &differences, &answered) });
            }
        }
    }
    Ok(())
}

fn question(
    rehearsal: &mut Rehearsal<'_>,
    tokens: &mut BTreeMap<String, String>,
    asked: &Asked,
) -> Result<pb::DecideRequest, String> {
    let credential = asked.caller.as_ref().map(|caller| credential(rehearsal, tokens, caller)).transpose()?;
    let limits = asked.limits.iter();
    Ok(pb::DecideRequest {
        credential,
        request: Some(pb::RequestAttributes {
            method: asked.method.clone(),
            path: asked.path.clone(),
            host: asked.host.clone(),
            source_address: asked.source.clone(),
            scheme: asked.scheme.clone(),
            headers: asked.headers.clone(),
            body_bytes: asked.body_bytes,
        }),
        resource: asked.resource.clone(),
        limits: limits.map(|(limit, units)| pb::LimitCharge { limit: limit.clone(), units: Some(*units) }).collect(),
        units: asked.units,
        mode: if asked.peek { pb::QuotaMode::Peek } else { pb::QuotaMode::Consume }.into(),
        explain: true,
        scopes: asked.scopes.clone(),
    })
}

fn credential(
    rehearsal: &mut Rehearsal<'_>,
    tokens: &mut BTreeMap<String, String>,
    caller: &Caller,
) -> Result<pb::Credential, String> {
    use pb::credential::Kind;
    let Caller { name, shows, certificate } = caller;
    let of_caller = |why: String| format!("caller {name}: {why}");
    let kind = match shows {
        Shows::Nothing => None,
        Shows::Authorization(value) => Some(Kind::Authorization(value.clone())),
        Shows::ApiKey(id) => Some(Kind::ApiKey(rehearsal.api_key(*id).map_err(of_caller)?.to_owned())),
        Shows::Token { claims, lives, fault } => {
            if !tokens.contains_key(name) {
                let earlier = if *fault == Some(Fault::Expired) { FAR + *lives } else { Micros::ZERO };
                let plan = TokenPlan {
                    claims: Some(claims),
                    lives: *lives,
                    earlier,
                    later: if *fault == Some(Fault::NotYetValid) { FAR } else { Micros::ZERO },
                    forged: *fault == Some(Fault::BadSignature),
                    unknown_key: *fault == Some(Fault::UnknownKey),
                };
                tokens.insert(name.clone(), rehearsal.token(&plan).map_err(of_caller)?);
            }
            tokens.get(name).cloned().map(Kind::BearerToken)
        }
    };
    let client_certificate = (!certificate.is_empty()).then(|| {
        let field = |name: &String| format!("{}={name}", if name.contains("://") { "URI" } else { "DNS" });
        // A certificate of which only the names are handed on, as gateways do.
        let fields: Vec<String> = certificate.iter().map(field).collect();
        let value = format!("Hash={};{}", "0".repeat(64), fields.join(";"));
        pb::ClientCertificate { kind: Some(pb::client_certificate::Kind::Forwarded(value)) }
    });
    Ok(pb::Credential { kind, dpop_proofs: Vec::new(), client_certificate })
}

/// What is not as expected.
struct Difference {
    what: String,
    expected: String,
    got: String,
}

fn differences(expected: &Expected, answered: &Answered) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut differ = |what: &str, expected: String, got: String| {
        if expected != got {
            differences.push(Difference { what: what.to_owned(), expected, got });
        }
    };
    let Expected { outcome, rule, status, subject, quotas, identity_headers, violations } = expected;
    let (answer, code) = match answered {
        Answered::Decided(answer, code) => (&**answer, *code),
        Answered::Malformed(fields) => {
            match outcome {
                Some(Outcome::Malformed) => {}
                Some(outcome) => differ("outcome", spelled(*outcome).to_owned(), "malformed".to_owned()),
                None => differ("outcome", "a decision".to_owned(), "malformed".to_owned()),
            }
            if !violations.is_empty() {
                differ("violations", sorted(violations), sorted(fields.iter().map(|(field, _)| field)));
            }
            return differences;
        }
    };
    let got = if answer.allowed { "allowed" } else { &answer.detail };
    match outcome {
        Some(Outcome::Denied) if !answer.allowed => {}
        Some(outcome) => differ("outcome", spelled(*outcome).to_owned(), got.to_owned()),
        None => {}
    }
    if !violations.is_empty() {
        differ("outcome", "malformed".to_owned(), got.to_owned());
    }
    if let Some(rule) = rule {
        differ("rule", rule.clone(), or_none(&answer.rule));
    }
    if let Some(status) = status {
        differ("status", status.to_string(), code.to_string());
    }
    if let Some(subject) = subject {
        differ("subject", subject.clone(), or_none(answer.identity.as_ref().map_or("", |who| &who.subject)));
    }
    for (limit, expected) in quotas {
        let Some(quota) = answer.quotas.iter().find(|quota| quota.limit == *limit) else {
            differ(&format!("quota {limit}"), "asked".to_owned(), "not asked".to_owned());
            continue;
        };
        if let Some(remaining) = expected.remaining {
            differ(&format!("quota {limit}, remaining"), remaining.to_string(), quota.remaining.to_string());
        }
        if let Some(retry_after) = expected.retry_after {
            let got = quota.retry_after.map_or_else(|| "none".to_owned(), |time| micros(time).to_string());
            differ(&format!("quota {limit}, retry_after"), retry_after.to_string(), got);
        }
    }
    for (name, expected) in identity_headers {
        let header = answer.identity_headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        let shown = |value: Option<&String>| value.map_or_else(|| "none".to_owned(), |value| format!("{value:?}"));
        differ(&format!("header {name}"), shown(expected.as_ref()), shown(header.map(|header| &header.value)));
    }
    differences
}

fn spelled(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Allowed => "allowed",
        Outcome::Denied => "denied",
        Outcome::Malformed => "malformed",
        Outcome::Because(reason) => Reason::name(reason),
    }
}

fn sorted<'a>(fields: impl IntoIterator<Item = &'a String>) -> String {
    let mut fields: Vec<&str> = fields.into_iter().map(String::as_str).collect();
    fields.sort_unstable();
    fields.join(", ")
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "none".to_owned() } else { text.to_owned() }
}

/// Durations of answers are never negative.
fn micros(time: prost_types::Duration) -> Micros {
    let part = |value| u64::try_from(value).unwrap_or(0);
    Micros::from_secs(part(time.seconds)) + Micros(part(i64::from(time.nanos)) / 1_000)
}

/// What was asked, what differs, and what else helps to see why.
fn told(asked: &Asked, time: u64, differences: &[Difference], answered: &Answered) -> String {
    let mut text = format!("  {} {}", asked.method, asked.path);
    if let Some(caller) = &asked.caller {
        let _ = write!(text, " by {}", caller.name);
    }
    if asked.times > 1 {
        let _ = write!(text, ", time {time} of {}", asked.times);
    }
    for difference in differences {
        let _ = write!(text, "\n{difference}");
    }
    let mut seen = |line: fmt::Arguments<'_>| {
        let _ = write!(text, "\n    {line}");
    };
    match answered {
        Answered::Malformed(fields) => {
            for (field, why) in fields {
                seen(format_args!("{field} {why}"));
            }
        }
        Answered::Decided(answer, _) => {
            seen(format_args!("decided by {}", if answer.rule.is_empty() { "no rule" } else { &answer.rule }));
            if let Some(explanation) = &answer.explanation {
                seen(format_args!("{}", explanation.text));
            }
        }
    }
    text
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, expected, got } = self;
        write!(f, "    {what}:\n      expected  {expected}\n      got       {got}")
    }
}
