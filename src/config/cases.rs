//! Files of policy cases: what is asked under a configuration, and what is expected of the answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::problem::nearest;
use super::reader::{Environment, Fields, Item, Reader};
use super::values::{duration, word};
use super::{Problem, Problems, yaml};
use crate::domain::api_key::KeyId;
use crate::domain::date;
use crate::domain::decision::Reason;
use crate::domain::limit::UNITS_MAX;
use crate::domain::revocation::TargetKind;
use crate::domain::time::Micros;

/// How often a question may be asked in a row.
const TIMES_MAX: u64 = 100_000;

/// The longest time that may pass between two steps, and that a token may live.
const SPAN_MAX: Micros = Micros::from_secs(366 * 24 * 60 * 60);

/// The longest name, and the longest text of a question.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// When cases begin unless they say it: it is always the same moment.
const BEGINNING: &str = "2026-01-01T12:00:00Z";

/// How long tokens live unless it is said.
const LIFE: Micros = Micros::from_secs(60 * 60);

/// What a case can expect besides the reasons.
const OUTCOMES: [(&str, Outcome); 3] =
    [("allowed", Outcome::Allowed), ("denied", Outcome::Denied), ("malformed", Outcome::Malformed)];

/// The faults that a token can have, by name.
const FAULTS: [(&str, Fault); 4] = [
    ("expired", Fault::Expired),
    ("not_yet_valid", Fault::NotYetValid),
    ("bad_signature", Fault::BadSignature),
    ("unknown_key", Fault::UnknownKey),
];

/// A file of cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cases {
    /// The configuration that they are about.
    pub config: PathBuf,
    /// What stands for variables of the environment that the configuration refers to, before the real ones.
    pub environment: BTreeMap<String, String>,
    /// In their order.
    pub cases: Vec<Case>,
}

/// A case: steps that share counters, one after the other. It shares nothing with other cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What it is about; unique in its file.
    pub name: String,
    /// The line that it begins in.
    pub line: usize,
    /// When it begins, since the Unix epoch.
    pub at: Micros,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// One step of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The line that it begins in.
    pub line: usize,
    /// What passes before it.
    pub after: Micros,
    /// What is taken back before it is asked.
    pub revoke: Option<Revoked>,
    /// What is asked, where something is.
    pub ask: Option<Asked>,
}

/// Something that is taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// What kind of thing it is.
    pub kind: TargetKind,
    /// Under which issuer; none: the only one.
    pub issuer: Option<String>,
    /// Its name; empty for an issuer itself.
    pub name: String,
}

/// A question, how often it is asked in a row, and what is expected each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who calls; none: nobody says who.
    pub caller: Option<Caller>,
    /// The method, as it is written.
    pub method: String,
    /// The path, as it is written.
    pub path: String,
    /// The host.
    pub host: String,
    /// The scheme.
    pub scheme: String,
    /// Where the call comes from.
    pub source: String,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// The size of its body in bytes.
    pub body_bytes: Option<u64>,
    /// Attributes of what is accessed.
    pub resource: BTreeMap<String, String>,
    /// Scopes that the asker demands.
    pub scopes: Vec<String>,
    /// Limits that the asker names, with their units.
    pub limits: BTreeMap<String, u64>,
    /// What the call costs.
    pub units: Option<u64>,
    /// Whether nothing is consumed.
    pub peek: bool,
    /// How often; at least once.
    pub times: u64,
    /// What is expected.
    pub expected: Expected,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// By what it is called in the file, or where it stands: one of the same name shows the same token.
    pub name: String,
    /// What it shows.
    pub shows: Shows,
    /// The names in the certificate of its connection.
    pub certificate: Vec<String>,
}

/// What a caller shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Nothing but perhaps its certificate.
    Nothing,
    /// A token with these claims; `iss`, `aud`, `jti`, `iat` and `exp` are put in where they are not named, and null leaves
    /// one out.
    Token {
        /// The claims.
        claims: Map<String, Json>,
        /// How long it lives.
        lives: Micros,
        /// What is wrong with it.
        fault: Option<Fault>,
    },
    /// The API key of the configuration that has this id.
    ApiKey(KeyId),
    /// The value of an `Authorization` header, as it is.
    Authorization(String),
}

/// What can be wrong with a token whose claims are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It ended before the case began, beyond any leeway.
    Expired,
    /// It is good only later, beyond any leeway.
    NotYetValid,
    /// Somebody else signed it.
    BadSignature,
    /// It names a key that its issuer does not have.
    UnknownKey,
}

/// What is expected of an answer. What is left out is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// What it comes to.
    pub outcome: Option<Outcome>,
    /// The rule that decides, by name.
    pub rule: Option<String>,
    /// The HTTP status that a gateway answers.
    pub status: Option<u64>,
    /// The subject that calls.
    pub subject: Option<String>,
    /// What becomes of quotas, by the limits' names.
    pub quotas: BTreeMap<String, ExpectedQuota>,
    /// Headers for the service behind; none: the answer has no such header.
    pub identity_headers: BTreeMap<String, Option<String>>,
    /// The fields that are wrong, in any order.
    pub violations: Vec<String>,
}

/// What is expected of a quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpectedQuota {
    /// Units left.
    pub remaining: Option<u64>,
    /// Time until the cost fits.
    pub retry_after: Option<Micros>,
}

/// What an answer comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The call may go on.
    Allowed,
    /// It may not, for whatever reason.
    Denied,
    /// It may not, for this reason.
    Because(Reason),
    /// The question is not well formed, so nothing was decided.
    Malformed,
}

/// The names of callers that a file has.
type Callers = BTreeMap<String, Option<Caller>>;

/// Reads a file of cases. Its environment references are answered by `environment`; relative paths in it start at its
/// folder. Answers the cases and the warnings.
///
/// # Errors
/// Every problem that there is, warnings included.
pub fn load(path: &Path, environment: Environment<'_>) -> Result<(Cases, Vec<Problem>), Problems> {
    let mut reader = Reader::new(path, environment);
    let node = super::reader::read_file(path, yaml::TEXT_BYTES_MAX as u64)
        .map_err(|message| yaml::Flaw { at: None, message })
        .and_then(yaml::text)
        .and_then(|text| yaml::read(&text));
    let cases = match &node {
        Ok(node) => file(&mut reader, &Item::root(node)),
        Err(flaw) => {
            reader.flaw(flaw.clone());
            None
        }
    };
    reader.end(cases).map(|(cases, warnings, _)| (cases, warnings))
}

pub(super) fn file(reader: &mut Reader<'_>, root: &Item<'_>) -> Option<Cases> {
    let mut fields = reader.fields(root, "cases")?;
    let config = fields.required(reader, "config", |reader, item| reader.path(item));
    let environment = fields.or(reader, "environment", BTreeMap::new(), texts);
    let at = fields.or(reader, "at", date::parse(BEGINNING).unwrap_or_default(), moment);
    let callers = fields.or(reader, "callers", Callers::new(), callers);
    let callers = callers.unwrap_or_default();
    let cases = fields.required(reader, "cases", |reader, item| {
        let items = reader.items(item)?;
        if items.is_empty() {
            reader.error(item, "is empty; write at least one case");
        }
        let mut names = BTreeMap::new();
        let mut cases = Vec::new();
        for item in &items {
            let Some(case) = case(reader, item, at.unwrap_or_default(), &callers) else { continue };
            if let Some(first) = names.insert(case.name.clone(), case.line) {
                reader.error(item, format!("has the name of the case in line {first}; names are unique"));
            }
            cases.push(case);
        }
        (cases.len() == items.len()).then_some(cases)
    });
    fields.finish(reader);
    Some(Cases { config: config?, environment: environment?, cases: cases? })
}

fn moment(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Micros> {
    let must = || "must be a moment in UTC, such as 2026-01-31 or 2026-01-31T12:00:00Z".to_owned();
    reader.parse(item, |text| date::parse(text).ok_or_else(must))
}

fn text(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<String> {
    reader.parse(item, |text| match text.len() {
        0..=TEXT_BYTES_MAX => Ok(text.to_owned()),
        _ => Err(format!("must be at most {TEXT_BYTES_MAX} bytes")),
    })
}

fn span(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Micros> {
    reader.parse(item, duration(Micros::from_millis(1)..=SPAN_MAX))
}

fn texts(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<BTreeMap<String, String>> {
    let named = reader.named(item)?;
    let count = named.len();
    let read = named.into_iter().filter_map(|(_, name, item)| Some((name.to_owned(), text(reader, &item)?)));
    let read: BTreeMap<_, _> = read.collect();
    (read.len() == count).then_some(read)
}

fn callers(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Callers> {
    let mut callers = Callers::new();
    for (_, name, item) in reader.named(item)? {
        let caller = caller(reader, &item, name.to_owned());
        callers.insert(name.to_owned(), caller);
    }
    Some(callers)
}

fn caller(reader: &mut Reader<'_>, item: &Item<'_>, name: String) -> Option<Caller> {
    let mut fields = reader.fields(item, "caller")?;
    let claims = fields.optional(reader, "token", |reader, item| {
        let read = reader.json(item)?;
        if let Json::Object(claims) = read {
            return Some(claims);
        }
        reader.error(item, "must be a mapping of claims, such as `{ sub: alice }`");
        None
    });
    let lives = fields.optional(reader, "lives", span);
    let fault = fields.optional(reader, "fault", |reader, item| reader.one_of(item, &FAULTS));
    for key in ["lives", "fault"] {
        if let Some(item) = fields.item(reader, key)
            && !fields.has("token")
        {
            reader.error(&item, "is of use with a `token` only");
        }
    }
    let key = fields.optional(reader, "api_key", |reader, item| {
        let must = || "must be the id of a key, 12 letters and digits, as the file of keys has it".to_owned();
        reader.parse(item, |text| KeyId::parse(text).ok_or_else(must))
    });
    let authorization = fields.optional(reader, "authorization", text);
    let certificate = fields.or(reader, "certificate", Vec::new(), |reader, item| {
        reader.some(item, |reader, item| reader.parse(item, certificate_name))
    });
    fields.finish(reader);
    let claims = claims?.map(|claims| (claims, lives.flatten().unwrap_or(LIFE), fault.flatten()));
    let shows = match (claims, key?, authorization?) {
        (Some((claims, lives, fault)), None, None) => Shows::Token { claims, lives, fault },
        (None, Some(key), None) => Shows::ApiKey(key),
        (None, None, Some(value)) => Shows::Authorization(value),
        (None, None, None) => Shows::Nothing,
        _ => {
            reader.error(item, "shows several credentials; keep one of `token`, `api_key` and `authorization`");
            return None;
        }
    };
    Some(Caller { name, shows, certificate: certificate? })
}

/// A name as it stands in the header by which gateways hand certificates on.
fn certificate_name(text: &str) -> Result<String, String> {
    let name = word("a name of the certificate, such as spiffe://example.org/web or web.example.com", 2048)(text)?;
    if name.contains(['"', '\\', ',', ';', '=']) {
        return Err("must have no quotes, backslashes, commas, semicolons and equals signs".to_owned());
    }
    Ok(name)
}

fn case(reader: &mut Reader<'_>, item: &Item<'_>, at: Micros, callers: &Callers) -> Option<Case> {
    let mut fields = reader.fields(item, "case")?;
    let name = fields.required(reader, "name", |reader, item| reader.parse(item, word("what the case is about", 1024)));
    let at = fields.or(reader, "at", at, moment);
    let steps = if fields.has("steps") {
        let steps = fields.required(reader, "steps", |reader, item| {
            let items = reader.items(item)?;
            if items.is_empty() {
                reader.error(item, "is empty; write at least one step");
            }
            let steps: Vec<Step> = items
                .iter()
                .filter_map(|item| {
                    let mut fields = reader.fields(item, "step")?;
                    let step = step(reader, item, &mut fields, callers);
                    fields.finish(reader);
                    step
                })
                .collect();
            (steps.len() == items.len()).then_some(steps)
        });
        fields.finish(reader);
        steps
    } else {
        // A case of one step is written without a list.
        fields.item(reader, "steps");
        let step = step(reader, item, &mut fields, callers);
        fields.finish(reader);
        step.map(|step| vec![step])
    };
    Some(Case { name: name?, line: item.line(), at: at?, steps: steps? })
}

fn step<'n>(reader: &mut Reader<'_>, item: &Item<'n>, fields: &mut Fields<'n>, callers: &Callers) -> Option<Step> {
    let after = fields.or(reader, "after", Micros::ZERO, span);
    let revoke = fields.optional(reader, "revoke", revoked);
    let ask = if fields.has("ask") { Some(asked(reader, fields, callers)) } else { None };
    if ask.is_none() {
        fields.item(reader, "ask");
        if !fields.has("revoke") && !fields.has("after") {
            reader.error(item, "must have `ask`, such as `ask: GET /orders/1`; or `revoke`, or `after`");
        }
    }
    let ask = match ask {
        Some(asked) => Some(asked?),
        None => None,
    };
    Some(Step { line: item.line(), after: after?, revoke: revoke?, ask })
}

fn revoked(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Revoked> {
    const KINDS: [(&str, TargetKind); 5] = [
        ("jti", TargetKind::Token),
        ("sid", TargetKind::Session),
        ("sub", TargetKind::Subject),
        ("client", TargetKind::Client),
        ("api_key", TargetKind::ApiKey),
    ];
    let mut fields = reader.fields(item, "revoked")?;
    let issuer = fields.optional(reader, "issuer", text);
    let mut named = Vec::new();
    for (key, kind) in KINDS {
        if let Some(name) = fields.optional(reader, key, text)? {
            named.push((kind, name));
        }
    }
    fields.finish(reader);
    let issuer = issuer?;
    match (named.pop(), named.is_empty(), &issuer) {
        (Some((kind, name)), true, _) => Some(Revoked { kind, issuer, name }),
        (None, _, Some(_)) => Some(Revoked { kind: TargetKind::Issuer, issuer, name: String::new() }),
        (Some(_), false, _) | (None, _, None) => {
            reader.error(item, "must name one thing: `jti`, `sid`, `sub`, `client`, `api_key`, or `issuer` alone");
            None
        }
    }
}

fn asked(reader: &mut Reader<'_>, fields: &mut Fields<'_>, callers: &Callers) -> Option<Asked> {
    let question = fields.needed(reader, "ask", |reader, item| {
        let text = text(reader, item)?;
        let (method, path) = text.split_once(' ').unwrap_or((&text, ""));
        Some((method.to_owned(), path.to_owned()))
    });
    let caller = fields.optional(reader, "caller", |reader, item| {
        if item.is_mapping() {
            return caller(reader, item, format!("in line {}", item.line()));
        }
        let known = reader.parse(item, |name| {
            let unknown = || match nearest(name, callers.keys().map(String::as_str)) {
                Some(near) => format!("must be one of `callers`; did you mean `{near}`?"),
                None => {
                    "must be one of `callers`, or what a caller shows, such as `{ token: { sub: alice } }`".to_owned()
                }
            };
            callers.get(name).cloned().ok_or_else(unknown)
        });
        known?
    });
    let mut one = |reader: &mut Reader<'_>, key| fields.or(reader, key, String::new(), text);
    let (host, scheme, source) = (one(reader, "host"), one(reader, "scheme"), one(reader, "source"));
    let mut pairs = |reader: &mut Reader<'_>, key| fields.or(reader, key, BTreeMap::new(), texts);
    let (headers, resource) = (pairs(reader, "headers"), pairs(reader, "resource"));
    let body_bytes = fields.optional(reader, "body_bytes", |reader, item| reader.whole(item, 0..=u64::MAX));
    let scopes = fields.or(reader, "scopes", Vec::new(), |reader, item| reader.list(item, text));
    let limits = fields.or(reader, "limits", BTreeMap::new(), |reader, item| {
        let named = reader.named(item)?;
        named.into_iter().map(|(_, name, item)| Some((name.to_owned(), reader.whole(&item, 0..=UNITS_MAX)?))).collect()
    });
    let units = fields.optional(reader, "units", |reader, item| reader.whole(item, 0..=UNITS_MAX));
    let peek = fields.or(reader, "peek", false, |reader, item| reader.flag(item));
    let times = fields.or(reader, "times", 1, |reader, item| reader.whole(item, 1..=TIMES_MAX));
    let expected = fields.needed(reader, "expect", expected);
    let (method, path) = question?;
    Some(Asked {
        caller: caller?,
        method,
        path,
        host: host?,
        scheme: scheme?,
        source: source?,
        headers: headers?,
        body_bytes: body_bytes?,
        resource: resource?,
        scopes: scopes?,
        limits: limits?,
        units: units?,
        peek: peek?,
        times: times?,
        expected: expected?,
    })
}

fn expected(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Expected> {
    if !item.is_mapping() {
        return outcome(reader, item).map(|outcome| Expected { outcome: Some(outcome), ..Expected::default() });
    }
    let mut fields = reader.fields(item, "expected")?;
    let outcome = fields.optional(reader, "outcome", outcome);
    let rule = fields.optional(reader, "rule", text);
    let status = fields.optional(reader, "status", |reader, item| reader.whole(item, 100..=599));
    let subject = fields.optional(reader, "subject", text);
    let quotas = fields.or(reader, "quotas", BTreeMap::new(), |reader, item| {
        let named = reader.named(item)?;
        named.into_iter().map(|(_, name, item)| Some((name.to_owned(), quota(reader, &item)?))).collect()
    });
    let identity_headers = fields.or(reader, "identity_headers", BTreeMap::new(), |reader, item| {
        let named = reader.named(item)?;
        let header = |(_, name, item): (_, &str, Item<'_>)| {
            let value = if item.is_nothing() { None } else { Some(text(reader, &item)?) };
            Some((name.to_owned(), value))
        };
        named.into_iter().map(header).collect()
    });
    let violations = fields.or(reader, "violations", Vec::new(), |reader, item| reader.some(item, text));
    fields.finish(reader);
    let expected = Expected {
        outcome: outcome?,
        rule: rule?,
        status: status?,
        subject: subject?,
        quotas: quotas?,
        identity_headers: identity_headers?,
        violations: violations?,
    };
    if expected == Expected::default() {
        reader.error(item, "expects nothing; say at least `allowed` or `denied`");
        return None;
    }
    Some(expected)
}

fn outcome(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Outcome> {
    reader.parse(item, |text| {
        let reasons = Reason::ALL.into_iter().filter(|reason| !reason.allows());
        let reasons = reasons.map(|reason| (reason.name(), Outcome::Because(reason)));
        let all: Vec<(&str, Outcome)> = OUTCOMES.into_iter().chain(reasons).collect();
        let found = all.iter().find(|(name, _)| *name == text).map(|(_, outcome)| *outcome);
        found.ok_or_else(|| match nearest(text, all.iter().map(|(name, _)| *name)) {
            Some(near) => format!("must be an outcome; did you mean `{near}`?"),
            None => "must be allowed, denied, malformed, or a reason of docs/reasons.md such as expired".to_owned(),
        })
    })
}

fn quota(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<ExpectedQuota> {
    let mut fields = reader.fields(item, "expectedQuota")?;
    let remaining = fields.optional(reader, "remaining", |reader, item| reader.whole(item, 0..=UNITS_MAX));
    let retry_after = fields.optional(reader, "retry_after", span);
    fields.finish(reader);
    Some(ExpectedQuota { remaining: remaining?, retry_after: retry_after? })
}
