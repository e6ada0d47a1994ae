//! How soon a revocation is in force: three replicas over one Redis decide on tokens all the time while these are revoked,
//! each at one replica.

mod table;
mod watch;

use std::path::Path;
use std::time::Duration;

use clap::Args;
use futures_util::future::try_join_all;
use tokio::task::JoinSet;
use tollgate::decide::ports::Clock as _;
use tollgate::proto as pb;
use tollgate::proto::decision_service_client::DecisionServiceClient;
use tollgate::proto::token_service_client::TokenServiceClient;
use tollgate::server::SystemClock;
use tollgate::server::dev::{AUDIENCE, DevIssuer, ISSUER};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;

pub(crate) use self::table::Table;
use self::watch::{Sight, Watch};
use crate::cores::Cores;
use crate::orders::question;
use crate::process::Programs;
use crate::redis::{Done, Redis};
use crate::subject::Subject;
use crate::{load, say, table::host};

/// Servers over one Redis.
const REPLICAS: usize = 3;

/// Tokens that are revoked, one by one.
const REVOCATIONS: usize = 10_000;
const REVOCATIONS_QUICK: usize = 1_000;

/// The time from one revocation to the next.
const INTERVAL: Duration = Duration::from_millis(4);

/// For so long Redis is watched while nothing is revoked.
const IDLE: Duration = Duration::from_secs(2);

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct Measure {
    /// 1,000 revocations instead of 10,000.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    programs: Programs,
}

/// Everything that takes part.
struct Field {
    redis: Redis,
    /// Kept until the end.
    _servers: Vec<Subject>,
    channels: Vec<Channel>,
    issuer: DevIssuer,
    operator: MetadataValue<Ascii>,
    clock: SystemClock,
}

/// Revokes tokens, and says how soon that was in force.
pub(crate) async fn take(measure: &Measure, cores: Cores) -> Result<Table, String> {
    let count = if measure.quick { REVOCATIONS_QUICK } else { REVOCATIONS };
    let folder = tempfile::tempdir().map_err(|error| format!("cannot make a temporary folder: {error}"))?;
    let field = Field::start(measure, folder.path(), cores).await?;
    let idle = field.idle().await?;
    say(&format!("{count} revocations, one every {INTERVAL:?} …"));
    let mut under_way = JoinSet::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    for index in 0..count {
        ticks.tick().await;
        under_way.spawn(field.revocation(index)?.run());
    }
    let mut table = Table::new(format!(
        "{} {REPLICAS} replicas on one core; {count} revocations, one every {INTERVAL:?}. With nothing to tell, they ask \
         Redis {idle}.",
        host(&cores, &measure.programs.redis)?
    ));
    while let Some(seen) = under_way.join_next().await {
        table.add(seen.map_err(|error| format!("a revocation was not watched to its end: {error}"))??);
    }
    Ok(table)
}

/// One token on its way from being good on all replicas to being refused on all.
struct Revocation {
    token: String,
    /// The replica that is told.
    told: usize,
    channels: Vec<Channel>,
    operator: MetadataValue<Ascii>,
    clock: SystemClock,
}

impl Field {
    async fn start(measure: &Measure, folder: &Path, cores: Cores) -> Result<Self, String> {
        let redis = Redis::start(&measure.programs.redis, folder, cores)?;
        let clock = SystemClock::start();
        let issuer = DevIssuer::new().map_err(|_| "the system has no randomness".to_owned())?;
        let mut servers = Vec::new();
        for index in 0..REPLICAS {
            let config = (folder.join(format!("replica-{index}.yaml")), configuration(&redis, &issuer));
            servers.push(
                Subject::start(format!("replica {index}"), &measure.programs.binary, &config, cores, None).await?,
            );
        }
        let channels = try_join_all(servers.iter().map(|server| load::connect(server.grpc))).await?;
        let operator = token(&issuer, "operator", "tollgate:revoke", clock)?;
        let operator = format!("Bearer {operator}").parse().map_err(|_| "the operator's token is no header")?;
        Ok(Self { redis, _servers: servers, channels, issuer, operator, clock })
    }

    fn revocation(&self, index: usize) -> Result<Revocation, String> {
        Ok(Revocation {
            token: token(&self.issuer, &format!("subject-{index}"), "orders:read", self.clock)?,
            told: index % REPLICAS,
            channels: self.channels.clone(),
            operator: self.operator.clone(),
            clock: self.clock,
        })
    }

    /// What the replicas ask of Redis in a second in which nothing happens, beats and all.
    async fn idle(&self) -> Result<String, String> {
        let mut connection = self.redis.connect().await?;
        let before = Done::so_far(&mut connection).await?;
        tokio::time::sleep(IDLE).await;
        let after = Done::so_far(&mut connection).await?;
        let commands = after.calls_since(&before, |command| matches!(command, "eval" | "evalsha" | "ping"));
        let seconds = IDLE.as_secs();
        Ok(format!(
            "{} commands a second, which costs it {:?} of CPU",
            commands / seconds,
            Duration::from(after.cpu - before.cpu) / u32::try_from(seconds).unwrap_or(u32::MAX)
        ))
    }
}

impl Revocation {
    /// Watches the token at all replicas while one of them is told to revoke it: what each was seen to do, by replica.
    async fn run(self) -> Result<Vec<(Sight, bool)>, String> {
        let Self { token, told, channels, operator, clock } = self;
        let ask = question(token.clone());
        let watches =
            channels.iter().map(|channel| Watch::new(DecisionServiceClient::new(channel.clone()), ask.clone(), clock));
        let mut watches: Vec<Watch> = watches.collect();
        for watch in &mut watches {
            watch.must_be_allowed().await?;
        }
        let answers: Vec<_> = watches.into_iter().map(|watch| tokio::spawn(watch.until_over())).collect();
        let channel = channels.get(told).ok_or("there is no such replica")?;
        let mut request = Request::new(pb::RevokeRequest {
            targets: vec![pb::RevokeTarget { kind: Some(pb::revoke_target::Kind::Token(token)) }],
            issued_before: None,
            reason: "load test".to_owned(),
        });
        request.metadata_mut().insert("authorization", operator);
        let answer = TokenServiceClient::new(channel.clone()).revoke(request).await;
        let answered = clock.steady();
        let answer = answer.map_err(|status| load::refused(&status))?.into_inner();
        if answer.results.iter().any(|result| result.outcome() != pb::RevokeOutcome::Revoked) {
            return Err(format!("a token was not revoked: {answer:?}"));
        }
        let mut sights = Vec::new();
        for (replica, calls) in answers.into_iter().enumerate() {
            let calls = calls.await.map_err(|error| format!("a watch ended early: {error}"))??;
            sights.push((Sight::of(&calls, answered)?, replica == told));
        }
        Ok(sights)
    }
}

fn token(issuer: &DevIssuer, subject: &str, scope: &str, clock: SystemClock) -> Result<String, String> {
    issuer.token(subject, scope, clock.now().wall).map_err(|error| format!("no token: {error}"))
}

/// An issuer that may say who operates, and a rule that asks for one of its tokens.
fn configuration(redis: &Redis, issuer: &DevIssuer) -> String {
    // A busy machine is not what is measured: the deadline is too long to be met by it.
    format!(
        r#"listen: {{ grpc: "127.0.0.1:0", http: "127.0.0.1:0", admin: "127.0.0.1:0" }}
store: {{ redis: {{ urls: ["{url}"], deadline: 2s }} }}
issuers:
  - {{ issuer: "{ISSUER}", audiences: ["{AUDIENCE}"], operators: true, jwks: {{ keys: [{key}] }} }}
rules:
  - {{ match: {{ path: /orders/** }}, require: {{ scopes: ["orders:read"] }} }}
"#,
        url = redis.url(),
        key = issuer.public_key(),
    )
}
