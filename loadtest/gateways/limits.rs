//! `RateLimitService`, asked for the same descriptors of the same files in the same Redis: by whom it is served, and what that
//! costs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use futures_util::future::try_join_all;
use prost::Message as _;
use tollgate::domain::time::Micros;
use tollgate::proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use tollgate::proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tollgate::server::SystemClock;
use tonic::transport::Channel;

use super::{Measure, open};
use crate::cores::Cores;
use crate::figures::{Tally, median};
use crate::floor::Service;
use crate::quotas::envoy::{Files, Limited, Ratelimit, request, write_files};
use crate::quotas::traffic::{Keys, Traffic};
use crate::redis::{Done, Redis};
use crate::subject::Subject;
use crate::{load, say};

/// Which keys are asked for.
pub(crate) const TRAFFICS: [Traffic; 3] = [Traffic::OneKey, Traffic::TenKeys, Traffic::Cold];

/// A question begins so often: 4,000 in a second. All that are compared bear it on one core, even one that is shared.
pub(crate) const INTERVAL: Micros = Micros(250);

/// Connections: an Envoy has one for each of its threads.
pub(crate) const CONNECTIONS: usize = 4;

/// Descriptors of a question.
const DESCRIPTORS: usize = 2;

/// For so long it is asked before each slice with hot keys, unmeasured: leases end while the others have their turn.
const WARM_UP: Duration = Duration::from_millis(500);

/// The domain that Tollgate pays with sliding windows.
const STRICT: &str = "strict";

/// That which it pays as envoyproxy/ratelimit does.
const COMPATIBLE: &str = "compatible";

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// envoyproxy/ratelimit, as it comes.
    Envoy,
    /// A service that decides nothing, on tonic's server.
    Floor,
    /// The same, on what the server stands on.
    OwnFloor,
    /// Tollgate, with `mode: strict`.
    Strict,
    /// The same server, with `mode: compatible`.
    Compatible,
}

impl Contender {
    /// Its name in the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoyproxy/ratelimit",
            Self::Floor => "no-op",
            Self::OwnFloor => "no-op, own transport",
            Self::Strict => "Tollgate, strict",
            Self::Compatible => "Tollgate, compatible",
        }
    }

    const fn domain(self) -> &'static str {
        match self {
            Self::Envoy | Self::Floor | Self::OwnFloor | Self::Strict => STRICT,
            Self::Compatible => COMPATIBLE,
        }
    }

    /// Whether a client sends such a command, rather than a script runs it.
    fn sends(self, command: &str) -> bool {
        self == Self::Envoy || matches!(command, "eval" | "evalsha" | "ping")
    }
}

/// What a question cost in one slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// As the asker saw it.
    pub tally: Tally,
    /// Server CPU, µs per question.
    pub server: f64,
    /// Redis commands that were sent, per question.
    pub commands: f64,
    /// Redis CPU, µs per question.
    pub redis: f64,
}

/// All slices of one contender in one row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Costs(Vec<Cost>);

impl Costs {
    /// The median of what `figure` takes from each slice. None where there is none.
    pub(crate) fn median(&self, figure: impl Fn(&Cost) -> f64) -> Option<f64> {
        median(self.0.iter().map(figure).collect())
    }

    /// The median of how many times as much that is as with `other`, slice by slice: both were disturbed by the same things.
    pub(crate) fn ratio(&self, other: &Self, figure: impl Fn(&Cost) -> f64) -> Option<f64> {
        median(self.0.iter().zip(&other.0).map(|(own, other)| figure(own) / figure(other)).collect())
    }
}

/// Everything that takes part.
pub(crate) struct Field {
    connection: MultiplexedConnection,
    players: Vec<Player>,
    envoy: Option<Ratelimit>,
    floors: [Subject; 2],
    server: Subject,
    clock: SystemClock,
    _redis: Redis,
}

struct Player {
    contender: Contender,
    channels: Vec<Channel>,
}

impl Field {
    /// Starts all of it.
    pub(crate) async fn start(
        measure: &Measure,
        binary: &Path,
        folder: &Path,
        cores: Cores,
        clock: SystemClock,
    ) -> Result<Self, String> {
        let redis = Redis::start(&measure.redis, folder, cores)?;
        let files = write_files(folder, &[STRICT, COMPATIBLE])?;
        let config = (folder.join("limits.yaml"), configuration(&redis, &files));
        let server = Subject::start("Tollgate".to_owned(), binary, &config, cores, None).await?;
        let floors = Subject::floors(Service::RateLimit, &answer(server.grpc).await?, folder, cores)?;
        let envoy = if let Some(program) = &measure.ratelimit {
            Some(Ratelimit::start(program, &files, redis.port, cores).await?)
        } else {
            say("envoyproxy/ratelimit is left out: it is not here, nor is Go, which installs it.");
            None
        };
        let mut players = Vec::new();
        let all = [
            (Contender::Envoy, envoy.as_ref().map(|envoy| envoy.grpc)),
            (Contender::Floor, Some(floors[0].grpc)),
            (Contender::OwnFloor, Some(floors[1].grpc)),
            (Contender::Strict, Some(server.grpc)),
            (Contender::Compatible, Some(server.grpc)),
        ];
        for (contender, address) in all {
            let Some(address) = address else { continue };
            let channels = try_join_all((0..CONNECTIONS).map(|_| load::connect(address))).await?;
            players.push(Player { contender, channels });
        }
        Ok(Self { connection: redis.connect().await?, players, envoy, floors, server, clock, _redis: redis })
    }

    /// Measures one row: so many slices of each, in turns.
    pub(crate) async fn row(
        &self,
        traffic: Traffic,
        slices: usize,
        length: Duration,
    ) -> Result<Vec<(Contender, Costs)>, String> {
        let keys = Keys::new(traffic);
        let mut costs: Vec<_> = self.players.iter().map(|player| (player.contender, Costs::default())).collect();
        for _ in 0..slices {
            for (player, (contender, costs)) in self.players.iter().zip(&mut costs) {
                let of = |problem| format!("{}, {}: {problem}", traffic.name(), contender.name());
                costs.0.push(self.slice(player, &keys, traffic, length).await.map_err(of)?);
            }
        }
        Ok(costs)
    }

    async fn slice(&self, player: &Player, keys: &Keys, traffic: Traffic, length: Duration) -> Result<Cost, String> {
        let Player { contender, channels } = player;
        let message = || request(contender.domain(), DESCRIPTORS, keys.draw()).encode_to_vec().into();
        if traffic.is_hot() {
            open::ask::<Limited>(channels, INTERVAL, WARM_UP, message, self.clock).await?;
        }
        let mut connection = self.connection.clone();
        let before = (self.cpu(*contender)?, Done::so_far(&mut connection).await?);
        let tally = open::ask::<Limited>(channels, INTERVAL, length, message, self.clock).await?;
        let after = (self.cpu(*contender)?, Done::so_far(&mut connection).await?);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let each = |count: u64| count as f64 / tally.decisions as f64;
        Ok(Cost {
            tally,
            server: each((after.0 - before.0).0),
            commands: each(after.1.calls_since(&before.1, |command| contender.sends(command))),
            redis: each((after.1.cpu - before.1.cpu).0),
        })
    }

    fn cpu(&self, contender: Contender) -> Result<Micros, String> {
        match contender {
            Contender::Envoy => self.envoy.as_ref().ok_or("it is not there")?.process.cpu(),
            Contender::Floor => self.floors[0].cpu(),
            Contender::OwnFloor => self.floors[1].cpu(),
            Contender::Strict | Contender::Compatible => self.server.cpu(),
        }
    }
}

/// What the server says of a question as it is asked all the time; the floor repeats it.
async fn answer(server: SocketAddr) -> Result<RateLimitResponse, String> {
    let question = request(STRICT, DESCRIPTORS, 0).encode_to_vec();
    let question = RateLimitRequest::decode(question.as_slice()).map_err(|error| format!("the question: {error}"))?;
    let mut client = RateLimitServiceClient::new(load::connect(server).await?);
    let answer = client.should_rate_limit(question).await.map_err(|status| load::refused(&status))?.into_inner();
    let limited = answer.statuses.iter().filter(|status| status.current_limit.is_some()).count();
    if limited == DESCRIPTORS { Ok(answer) } else { Err(format!("not every descriptor has a limit: {answer:?}")) }
}

/// The very files that envoyproxy/ratelimit reads.
fn configuration(redis: &Redis, files: &Files) -> String {
    let every: PathBuf = files.config.join("*.yaml");
    // A busy machine is not what is measured: the deadline is too long to be met by it.
    format!(
        r#"listen: {{ grpc: "127.0.0.1:0", http: "127.0.0.1:0", admin: "127.0.0.1:0" }}
store: {{ redis: {{ urls: ["{url}"], deadline: 2s }} }}
envoy_ratelimit: {{ files: ["{every}"], domains: {{ {COMPATIBLE}: {{ mode: compatible }} }} }}
"#,
        url = redis.url(),
        every = every.display(),
    )
}
