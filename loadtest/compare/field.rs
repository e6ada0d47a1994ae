//! Who is compared: their processes, and how each is asked.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use futures_util::future::try_join_all;
use prost::Message as _;
use tollgate::domain::time::Micros;
use tollgate::server::SystemClock;

use super::Measure;
use crate::cores::Cores;
use crate::costs::{Cost, Usage};
use crate::figures::Tally;
use crate::floor::Service;
use crate::load::connection::{Connection, Question};
use crate::load::message::Answer;
use crate::load::{ask_calls, open};
use crate::peers::ratelimit::{Limited, Ratelimit, answer, configuration_of_tollgate, request, write_files};
use crate::peers::throttlecrab::{self, Throttlecrab, Throttled};
use crate::process::Process;
use crate::redis::{Done, Redis, sent_by_tollgate};
use crate::say;
use crate::subject::Subject;
use crate::traffic::{EVEN_KEYS, Keys};

/// Limits on a question.
pub(super) const LIMITS: usize = 2;

/// The domain of the limits.
const DOMAIN: &str = "load";

/// For so long it is asked before each slice, unmeasured: leases end while the others have their turn.
const WARM_UP: Duration = Duration::from_millis(500);

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    /// A service that decides nothing on tonic's own server: the floor.
    Floor,
    /// The same on what Tollgate stands on.
    OwnFloor,
    /// Tollgate with the memory store.
    Memory,
    /// Tollgate with Redis and leases.
    Redis,
    /// envoyproxy/ratelimit, as it comes.
    Ratelimit,
    /// throttlecrab-server, as it comes.
    Throttlecrab,
}

/// How it is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    /// The next question as soon as an answer comes.
    Closed {
        /// Connections.
        connections: usize,
        /// Questions in flight on each.
        calls: usize,
    },
    /// Evenly, whatever became of the questions before.
    Open {
        /// Connections.
        connections: usize,
        /// Questions in a second.
        rate: u32,
    },
}

/// Everything that takes part. Each that keeps its counters in Redis has one of its own.
pub(super) struct Field {
    players: Vec<Player>,
    clock: SystemClock,
}

struct Player {
    contender: Contender,
    grpc: SocketAddr,
    server: Server,
    redis: Option<(Redis, MultiplexedConnection)>,
    /// What each key is asked for with.
    questions: Vec<Question>,
}

/// A running server.
enum Server {
    Ours(Box<Subject>),
    Peer(Process),
}

impl Contender {
    /// Its name in the table.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Floor => "no-op",
            Self::OwnFloor => "no-op, own transport",
            Self::Memory => "Tollgate, memory",
            Self::Redis => "Tollgate, Redis",
            Self::Ratelimit => "envoyproxy/ratelimit",
            Self::Throttlecrab => "throttlecrab-server",
        }
    }

    /// Whether a client sends such a command, rather than a script runs it.
    fn sends(self, command: &str) -> bool {
        match self {
            Self::Ratelimit => true,
            Self::Floor | Self::OwnFloor | Self::Memory | Self::Redis | Self::Throttlecrab => sent_by_tollgate(command),
        }
    }

    fn questions(self) -> Vec<Question> {
        let question = |key| match self {
            Self::Throttlecrab => throttlecrab::question(key),
            Self::Floor | Self::OwnFloor | Self::Memory | Self::Redis | Self::Ratelimit => {
                Question::call(&request(DOMAIN, LIMITS, key).encode_to_vec())
            }
        };
        (0..EVEN_KEYS).map(question).collect()
    }
}

impl Field {
    /// Starts all of it.
    pub(super) async fn start(
        measure: &Measure,
        folder: &Path,
        cores: Cores,
        clock: SystemClock,
    ) -> Result<Self, String> {
        let files = write_files(folder, &[DOMAIN])?;
        let start = async |name: &str, redis: Option<&Redis>| {
            let config = (folder.join(format!("{name}.yaml")), configuration_of_tollgate(&files, redis, ""));
            Subject::start(name.to_owned(), &measure.programs.binary, &config, cores, None).await
        };
        let memory = start("memory", None).await?;
        let answer = answer(memory.grpc, DOMAIN, LIMITS).await?;
        let [floor, own_floor] = Subject::floors(Service::RateLimit, &answer, folder, cores)?;
        let redis = Redis::start(&measure.programs.redis, folder, cores)?;
        let server = start("redis", Some(&redis)).await?;
        let mut players = vec![
            Player::ours(Contender::Floor, floor),
            Player::ours(Contender::OwnFloor, own_floor),
            Player::ours(Contender::Memory, memory),
            Player { redis: Some(with_connection(redis).await?), ..Player::ours(Contender::Redis, server) },
        ];
        if let Some(program) = &measure.ratelimit {
            let redis = Redis::start(&measure.programs.redis, folder, cores)?;
            let Ratelimit { process, grpc, channel: _ } = Ratelimit::start(program, &files, redis.port, cores).await?;
            let redis = Some(with_connection(redis).await?);
            players.push(Player { redis, ..Player::new(Contender::Ratelimit, grpc, Server::Peer(process)) });
        } else {
            say("envoyproxy/ratelimit is left out: it is not here, nor is Go, which installs it.");
        }
        if let Some(program) = &measure.throttlecrab {
            let Throttlecrab { process, grpc } = Throttlecrab::start(program, cores).await?;
            players.push(Player::new(Contender::Throttlecrab, grpc, Server::Peer(process)));
        } else {
            say("throttlecrab-server is left out: it is not here, and cannot be installed.");
        }
        Ok(Self { players, clock })
    }

    /// Who takes part, the floor first.
    pub(super) fn contenders(&self) -> impl Iterator<Item = Contender> {
        self.players.iter().map(|player| player.contender)
    }

    /// Puts the one at that place under load for a while.
    pub(super) async fn slice(&self, index: usize, keys: &Keys, load: Load, length: Duration) -> Result<Cost, String> {
        let player = self.players.get(index).ok_or("there is no such contender")?;
        match player.contender {
            Contender::Throttlecrab => self.slice_of::<Throttled>(player, keys, load, length).await,
            Contender::Floor | Contender::OwnFloor | Contender::Memory | Contender::Redis | Contender::Ratelimit => {
                self.slice_of::<Limited>(player, keys, load, length).await
            }
        }
    }

    async fn slice_of<A: Answer>(
        &self,
        player: &Player,
        keys: &Keys,
        load: Load,
        length: Duration,
    ) -> Result<Cost, String> {
        let (Load::Closed { connections, .. } | Load::Open { connections, .. }) = load;
        let connections = try_join_all((0..connections).map(|_| Connection::<A>::open(player.grpc))).await?;
        self.drive(player, &connections, keys, load, WARM_UP).await?;
        let before = player.usage().await?;
        let tally = self.drive(player, &connections, keys, load, length).await?;
        Ok(player.usage().await?.since(&before, tally, |command| player.contender.sends(command)))
    }

    async fn drive<A: Answer>(
        &self,
        player: &Player,
        connections: &[Connection<A>],
        keys: &Keys,
        load: Load,
        length: Duration,
    ) -> Result<Tally, String> {
        let question = || player.question(keys.draw());
        match load {
            Load::Closed { calls, .. } => ask_calls(connections, calls, question, self.clock, length).await,
            Load::Open { rate, .. } => open::ask(connections, rate, length, question, self.clock).await,
        }
    }
}

impl Player {
    fn new(contender: Contender, grpc: SocketAddr, server: Server) -> Self {
        Self { contender, grpc, server, redis: None, questions: contender.questions() }
    }

    fn ours(contender: Contender, server: Subject) -> Self {
        Self::new(contender, server.grpc, Server::Ours(Box::new(server)))
    }

    fn question(&self, key: u64) -> Question {
        let index = usize::try_from(key).unwrap_or_default() % self.questions.len();
        self.questions[index].clone()
    }

    fn cpu(&self) -> Result<Micros, String> {
        match &self.server {
            Server::Ours(subject) => subject.cpu(),
            Server::Peer(process) => process.cpu(),
        }
    }

    async fn usage(&self) -> Result<Usage, String> {
        let redis = match &self.redis {
            Some((_, connection)) => Some(Done::so_far(&mut connection.clone()).await?),
            None => None,
        };
        Ok(Usage::new(self.cpu()?, redis))
    }
}

async fn with_connection(redis: Redis) -> Result<(Redis, MultiplexedConnection), String> {
    let connection = redis.connect().await?;
    Ok((redis, connection))
}
