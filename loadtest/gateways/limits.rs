//! `RateLimitService`, asked for the same descriptors of the same files in the same Redis: by whom it is served, and what that
//! costs.

use std::path::Path;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use futures_util::future::try_join_all;
use prost::Message as _;
use tollgate::server::SystemClock;

use super::Measure;
use super::check::IN_FLIGHT;
use crate::cores::Cores;
use crate::costs::{Cost, Costs, Usage};
use crate::figures::Tally;
use crate::floor::Service;
use crate::load::connection::{Connection, Question};
use crate::load::{ask_calls, open};
use crate::peers::ratelimit::{Limited, Ratelimit, answer, configuration_of_tollgate, request, write_files};
use crate::redis::{Done, Redis, sent_by_tollgate};
use crate::say;
use crate::subject::Subject;
use crate::table::thousands;
use crate::traffic::{Keys, Traffic};

/// Which keys are asked for.
pub(crate) const TRAFFICS: [Traffic; 3] = [Traffic::OneKey, Traffic::TenKeys, Traffic::Cold];

/// How it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// [`RATE`] questions in a second, in turns on [`CONNECTIONS`] connections, whatever became of those before.
    Steady,
    /// As fast as answers come, with [`IN_FLIGHT`] questions on one connection.
    Full,
}

impl Load {
    /// Its name in the table.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Steady => format!("{} a second", thousands(f64::from(RATE))),
            Self::Full => format!("{IN_FLIGHT} in flight"),
        }
    }
}

/// How it is asked, one after the other.
pub(crate) const LOADS: [Load; 2] = [Load::Steady, Load::Full];

/// Questions in a second. All that are compared bear it on one core, even one that is shared.
pub(crate) const RATE: u32 = 4_000;

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
        self == Self::Envoy || sent_by_tollgate(command)
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
    connections: Vec<Connection<Limited>>,
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
        let domains = format!(", domains: {{ {COMPATIBLE}: {{ mode: compatible }} }}");
        let config = (folder.join("limits.yaml"), configuration_of_tollgate(&files, Some(&redis), &domains));
        let server = Subject::start("Tollgate".to_owned(), binary, &config, cores, None).await?;
        let answer = answer(server.grpc, STRICT, DESCRIPTORS).await?;
        let floors = Subject::floors(Service::RateLimit, &answer, folder, cores)?;
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
            let connections = try_join_all((0..CONNECTIONS).map(|_| Connection::open(address))).await?;
            players.push(Player { contender, connections });
        }
        Ok(Self { connection: redis.connect().await?, players, envoy, floors, server, clock, _redis: redis })
    }

    /// Measures one row: so many slices of each, in turns.
    pub(crate) async fn row(
        &self,
        (load, keys): (Load, &Keys),
        slices: usize,
        length: Duration,
    ) -> Result<Vec<(Contender, Costs)>, String> {
        let traffic = keys.traffic();
        let mut costs: Vec<_> = self.players.iter().map(|player| (player.contender, Costs::default())).collect();
        for _ in 0..slices {
            for (player, (contender, costs)) in self.players.iter().zip(&mut costs) {
                let of = |problem| format!("{}, {}, {}: {problem}", traffic.name(), load.name(), contender.name());
                costs.add(self.slice(player, (load, keys), length).await.map_err(of)?);
            }
        }
        Ok(costs)
    }

    async fn slice(&self, player: &Player, asked: (Load, &Keys), length: Duration) -> Result<Cost, String> {
        let contender = player.contender;
        if asked.1.traffic().is_hot() {
            self.drive(player, asked, WARM_UP).await?;
        }
        let before = self.usage(contender).await?;
        let tally = self.drive(player, asked, length).await?;
        Ok(self.usage(contender).await?.since(&before, tally, |command| contender.sends(command)))
    }

    async fn drive(&self, player: &Player, (load, keys): (Load, &Keys), length: Duration) -> Result<Tally, String> {
        let Player { contender, connections } = player;
        let question = || Question::call(&request(contender.domain(), DESCRIPTORS, keys.draw()).encode_to_vec());
        match load {
            Load::Steady => open::ask(connections, RATE, length, question, self.clock).await,
            Load::Full => ask_calls(&connections[..1], IN_FLIGHT, question, self.clock, length).await,
        }
    }

    async fn usage(&self, contender: Contender) -> Result<Usage, String> {
        let redis = Done::so_far(&mut self.connection.clone()).await?;
        Ok(match contender {
            Contender::Envoy => Usage::new(self.envoy.as_ref().ok_or("it is not there")?.process.cpu()?, Some(redis)),
            Contender::Floor => Usage::new(self.floors[0].cpu()?, None),
            Contender::OwnFloor => Usage::new(self.floors[1].cpu()?, None),
            Contender::Strict | Contender::Compatible => Usage::new(self.server.cpu()?, Some(redis)),
        })
    }
}
