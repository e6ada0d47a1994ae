//! `tollgate api-key …`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tollgate::config::{self, Config, api_keys};
use tollgate::decide::ports::{ApiKeyRecords, Away, Clock as _, KeptKey, KeyEnding};
use tollgate::domain::api_key::{ApiKey, DrawnKey, KeyId, LIMITS_MAX, hex};
use tollgate::domain::date;
use tollgate::domain::time::Micros;
use tollgate::server::{self, SystemClock};

use super::{Done, block_on, environment, print};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key: print it, this once, and the line for the file of `api_keys.file`.
    New(Draft),
    /// Make a key, keep it in the Redis of a configuration with `api_keys: { redis: true }`, and print it, this once.
    Add {
        #[command(flatten)]
        draft: Draft,
        #[command(flatten)]
        place: Place,
    },
    /// Revoke a key in Redis: every replica refuses it within two seconds. Exit code: 0 done, 1 no such key.
    Revoke {
        /// The key's id.
        #[arg(value_parser = api_keys::id)]
        id: KeyId,
        #[command(flatten)]
        place: Place,
    },
    /// Make a key in Redis that takes the place of another: the same but for id and secret, printed this once. The old one
    /// goes on for a while. Exit code: 0 done, 1 no such key.
    Rotate {
        /// The old key's id.
        #[arg(value_parser = api_keys::id)]
        id: KeyId,
        /// How long the old key goes on beside the new one.
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = api_keys::duration)]
        overlap: Micros,
        /// When the new key ends: a date, a duration from now, or `never`.
        #[arg(long, value_name = "WHEN", default_value = EXPIRES, value_parser = when)]
        expires: When,
        #[command(flatten)]
        place: Place,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the keys in Redis, with their ends and last uses.
    List {
        #[command(flatten)]
        place: Place,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// So that a key that is forgotten ends some day.
const EXPIRES: &str = "365d";

/// What a new key is to be.
#[derive(Debug, Args)]
pub(super) struct Draft {
    /// Whom the key speaks for: the subject of its calls.
    #[arg(long, value_parser = api_keys::owner)]
    owner: String,
    /// A scope that it has; may be repeated.
    #[arg(long, value_parser = api_keys::scope)]
    scope: Vec<String>,
    /// A role that it has; may be repeated.
    #[arg(long, value_parser = api_keys::role)]
    role: Vec<String>,
    /// The organisation that the owner belongs to.
    #[arg(long, value_parser = api_keys::tenant)]
    tenant: Option<String>,
    /// A limit that its calls consume besides those of the rule; may be repeated.
    #[arg(long, value_parser = api_keys::limit)]
    limit: Vec<String>,
    /// When it ends: a date such as 2027-01-31, a duration from now such as 90d, or `never`.
    #[arg(long, value_name = "WHEN", default_value = EXPIRES, value_parser = when)]
    expires: When,
    /// When it begins, if not at once: a date.
    #[arg(long, value_name = "DATE", value_parser = api_keys::date)]
    not_before: Option<Micros>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Where keys are kept.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The configuration file that says where Redis is.
    #[arg(long, env = "TOLLGATE_CONFIG", value_name = "FILE")]
    config: PathBuf,
}

/// When a key ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    Never,
    At(Micros),
    In(Micros),
}

fn when(text: &str) -> Result<When, String> {
    if text == "never" {
        return Ok(When::Never);
    }
    let read = api_keys::date(text).map(When::At).or_else(|_| api_keys::duration(text).map(When::In));
    read.map_err(|_| "must be a date such as 2027-01-31, a duration such as 90d, or `never`".to_owned())
}

impl When {
    const fn from(self, now: Micros) -> Option<Micros> {
        match self {
            Self::Never => None,
            Self::At(end) => Some(end),
            Self::In(time) => Some(Micros(now.0.saturating_add(time.0))),
        }
    }
}

pub(super) fn run(command: Command) -> Done {
    match command {
        Command::New(draft) => {
            let json = draft.json;
            let (drawn, key) = make(draft)?;
            print::once(if json { shown_as_json(&drawn, &key) } else { shown(&drawn, &api_keys::line(&key)) })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Add { draft, place } => with(&place, async |config, records| add(config, &*records, draft).await),
        Command::Revoke { id, place } => with(&place, async |_, records| {
            let revoked = records.end(id, KeyEnding::Revoked).get().await.map_err(cannot)?;
            Ok(if revoked { done(format_args!("{id}: revoked")) } else { absent(id) })
        }),
        Command::Rotate { id, overlap, expires, place, json } => {
            with(&place, async |_, records| rotate(&*records, id, overlap, expires, json).await)
        }
        Command::List { place, json } => with(&place, async |_, records| {
            let keys = records.list().get().await.map_err(cannot)?;
            if json {
                print::line(keys.iter().map(|(id, kept)| listed_as_json(*id, kept.as_ref())).collect::<Value>());
            } else {
                for (id, kept) in &keys {
                    print::line(listed(*id, kept.as_ref()));
                }
            }
            Ok(ExitCode::SUCCESS)
        }),
    }
}

/// Does `task` with the keys of a configuration.
fn with(place: &Place, task: impl AsyncFnOnce(&Config, Arc<dyn ApiKeyRecords>) -> Done) -> Done {
    block_on(&mut tokio::runtime::Builder::new_current_thread(), async {
        let (config, _) = config::load(&place.config, &environment).map_err(|problems| problems.to_string())?;
        let records = server::api_key_records(&config).map_err(|why| format!("{}: {why}", place.config.display()))?;
        task(&config, records).await
    })
}

fn make(draft: Draft) -> Result<(DrawnKey, ApiKey), String> {
    let now = SystemClock::start().now().wall;
    let Draft { owner, scope, role, tenant, limit, expires, not_before, json: _ } = draft;
    if limit.len() > LIMITS_MAX {
        return Err(format!("--limit: a key names at most {LIMITS_MAX} limits"));
    }
    let expires = end(expires, not_before, now)?;
    let drawn = draw()?;
    let key = ApiKey {
        tenant: tenant.map(Into::into),
        scopes: boxed(scope),
        roles: boxed(role),
        limits: boxed(limit),
        created: Some(now),
        not_before,
        expires,
        ..ApiKey::plain(drawn.id(), drawn.hash(), owner)
    };
    Ok((drawn, key))
}

/// When a key ends that is made at `now` and begins at `begins`, or at once.
fn end(expires: When, begins: Option<Micros>, now: Micros) -> Result<Option<Micros>, String> {
    let expires = expires.from(now);
    if expires.is_some_and(|end| end <= now) {
        return Err("--expires: the key would have ended already; choose a later moment".to_owned());
    }
    if expires.zip(begins).is_some_and(|(end, begins)| end <= begins) {
        return Err("--expires: the key would end before it begins; choose a later moment".to_owned());
    }
    Ok(expires)
}

fn boxed(mut texts: Vec<String>) -> Box<[Box<str>]> {
    let mut seen = std::collections::HashSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    texts.into_iter().map(Into::into).collect()
}

fn draw() -> Result<DrawnKey, String> {
    server::draw_api_key().map_err(|_| "the system has no randomness for a key".to_owned())
}

async fn add(config: &Config, records: &dyn ApiKeyRecords, draft: Draft) -> Done {
    let json = draft.json;
    for limit in &draft.limit {
        api_keys::suits(limit, &config.policy).map_err(|why| format!("--limit: {why}"))?;
    }
    let (drawn, key) = make(draft)?;
    keep(records, &key).await?;
    hand_out(records, &drawn, &key, json).await?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a key that is kept. One that nobody has seen is taken back.
async fn hand_out(records: &dyn ApiKeyRecords, drawn: &DrawnKey, key: &ApiKey, json: bool) -> Result<(), String> {
    let id = key.id;
    let text = if json { shown_as_json(drawn, key) } else { shown(drawn, &format!("It is kept as {id}.")) };
    let Err(why) = print::once(text) else { return Ok(()) };
    Err(match records.end(id, KeyEnding::Revoked).get().await {
        Ok(_) => format!("{why}, so {id} is revoked"),
        Err(away) => format!("{why}, and {id} is not revoked: {}", cannot(away)),
    })
}

/// The new key first, in its holder's hands: there is no moment without one that is good.
async fn rotate(records: &dyn ApiKeyRecords, id: KeyId, overlap: Micros, expires: When, json: bool) -> Done {
    let now = SystemClock::start().now().wall;
    let expires = end(expires, None, now)?;
    let Some(old) = records.find(id).get().await.map_err(cannot)? else { return Ok(absent(id)) };
    if !old.holds(now) {
        return Err(format!(
            "{id}: is revoked, has ended or has not begun, and is not to come back; make a key with `api-key add`"
        ));
    }
    let drawn = draw()?;
    let key = ApiKey { id: drawn.id(), hash: drawn.hash(), created: Some(now), not_before: None, expires, ..old };
    keep(records, &key).await?;
    hand_out(records, &drawn, &key, json).await?;
    let end = now + overlap;
    match records.end(id, KeyEnding::At(end)).get().await {
        Ok(_) if json => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(done(format_args!("The old one, {id}, ends at {} at the latest.", date::written(end)))),
        Err(away) => Err(format!("the new key is good, but the old one goes on: {}", cannot(away))),
    }
}

async fn keep(records: &dyn ApiKeyRecords, key: &ApiKey) -> Result<(), String> {
    if records.add(key.clone()).get().await.map_err(cannot)? {
        return Ok(());
    }
    Err(format!("the id {} is taken already; try again", key.id))
}

fn cannot(away: Away) -> String {
    format!("store.redis: Redis {away}")
}

fn done(text: impl std::fmt::Display) -> ExitCode {
    print::line(text);
    ExitCode::SUCCESS
}

fn absent(id: KeyId) -> ExitCode {
    print::error(format_args!("{id}: there is no such key, or its record makes no sense"));
    ExitCode::FAILURE
}

fn shown(drawn: &DrawnKey, rest: &str) -> String {
    format!("The key, shown this once:\n\n{}\n\n{rest}", drawn.reveal())
}

fn shown_as_json(drawn: &DrawnKey, key: &ApiKey) -> String {
    let mut shown = key_as_json(key);
    shown["key"] = drawn.reveal().into();
    shown["line"] = api_keys::line(key).into();
    shown.to_string()
}

fn listed(id: KeyId, kept: Option<&KeptKey>) -> String {
    let Some(KeptKey { key, used }) = kept else { return format!("{id}  its record makes no sense, so it is refused") };
    let moment = |moment: Option<Micros>| moment.map_or_else(|| "never".to_owned(), date::written);
    let revoked = if key.revoked { "  revoked" } else { "" };
    let (expires, used) = (moment(key.expires), moment(*used));
    format!("{id}  {}  expires {expires}  used {used}{revoked}", key.owner)
}

fn listed_as_json(id: KeyId, kept: Option<&KeptKey>) -> Value {
    let Some(KeptKey { key, used }) = kept else { return json!({ "id": id.as_str(), "unreadable": true }) };
    let mut listed = key_as_json(key);
    listed["used"] = used.map(date::written).into();
    listed
}

fn key_as_json(key: &ApiKey) -> Value {
    let ApiKey { id, hash, owner, tenant, scopes, roles, limits, created, not_before, expires, revoked } = key;
    json!({
        "id": id.as_str(),
        "sha256": hex(hash),
        "owner": owner,
        "tenant": tenant,
        "scopes": scopes,
        "roles": roles,
        "limits": limits,
        "created": created.map(date::written),
        "notBefore": not_before.map(date::written),
        "expires": expires.map(date::written),
        "revoked": revoked,
    })
}
