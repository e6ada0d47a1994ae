//! What quotas cost: Redis commands and CPU time for each decision, with hot, mixed and cold counters, beside the least that
//! a fixed window costs and beside envoyproxy/ratelimit; all at the same Redis, in one run.

mod asker;
mod costs;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use clap::Args;
use futures_util::future::try_join_all;
use tollgate::decide::ports::Clock as _;
use tollgate::domain::slots::SLOTS_MAX;
use tollgate::domain::time::Micros;
use tollgate::server::SystemClock;
use tollgate::stores::redis::{Bounds, Gates, Reach, RedisStore, Settings};
use tollgate::telemetry::Telemetry;
use tonic::transport::Channel;

use self::asker::{Asker, Take};
use self::costs::{Cost, Costs, Usage};
use crate::cores::Cores;
use crate::peers::ratelimit::{self, Ratelimit};
use crate::process::Programs;
use crate::redis::{Done, Redis, sent_by_tollgate};
use crate::subject::Subject;
use crate::traffic::{Keys, Traffic};
use crate::{Pace, load, say, table::machine};

pub(crate) use self::table::Table;

/// Which keys are asked for.
const TRAFFICS: [Traffic; 4] = [Traffic::OneKey, Traffic::TenKeys, Traffic::Mixed, Traffic::Cold];

/// Limits on a question.
const LIMITS: [usize; 3] = [1, 2, 4];

/// The domain of envoyproxy/ratelimit's limits.
const DOMAIN: &str = "load";

/// Questions in flight.
const IN_FLIGHT: usize = 100;

/// For so long it is asked before each slice, unmeasured: leases end while the others have their turn, and steady load is
/// what is measured. So do slots that expire, and sub-windows of the short windows that scripts are asked for. Not with cold
/// keys, which know none of them.
const WARM_UP: Duration = Duration::from_millis(500);

/// For so long Redis is watched while nobody asks.
const IDLE: Duration = Duration::from_secs(1);

/// Questions in one slice with cold keys at most: each of them leaves counters in Redis for a minute.
const COLD_MAX: u64 = 20_000;

/// Questions in one slice for slots at most: a counter has no more of them.
const SLOTS: u64 = SLOTS_MAX;

/// What is measured, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Measure {
    /// Short rows: 2 s instead of 10 s for each of those that are compared.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    programs: Programs,
    /// envoyproxy/ratelimit; without it, it is left out.
    #[arg(long, value_name = "FILE")]
    ratelimit: Option<PathBuf>,
}

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// A script that counts in fixed windows, called directly: the floor.
    FixedWindow,
    /// The script that Tollgate asks Redis with, called directly for each question.
    Acquire,
    /// The same, taking a lease each time.
    Lease,
    /// The same, reserving each time.
    Reservation,
    /// The same, taking slots each time.
    Slots,
    /// The same, where those of earlier questions expire.
    ExpiringSlots,
    /// The whole server, with leases.
    Tollgate,
    /// envoyproxy/ratelimit, as it comes.
    Envoy,
}

impl Contender {
    const fn name(self) -> &'static str {
        match self {
            Self::FixedWindow => "fixed-window script",
            Self::Acquire => "acquire script, no leases",
            Self::Lease => "acquire script, a lease each time",
            Self::Reservation => "acquire script, a reservation each time",
            Self::Slots => "acquire script, slots each time",
            Self::ExpiringSlots => "acquire script, slots that expire",
            Self::Tollgate => "Tollgate",
            Self::Envoy => "envoyproxy/ratelimit",
        }
    }

    /// Whether it is the acquire script, called directly.
    const fn is_script(self) -> bool {
        match self {
            Self::Acquire | Self::Lease | Self::Reservation | Self::Slots | Self::ExpiringSlots => true,
            Self::FixedWindow | Self::Tollgate | Self::Envoy => false,
        }
    }

    /// Whether a client sends such a command, rather than a script runs it.
    fn sends(self, command: &str) -> bool {
        self == Self::Envoy || sent_by_tollgate(command)
    }

    /// Whether what a question costs depends on those before it.
    const fn warms_up(self, traffic: Traffic) -> bool {
        match self {
            Self::FixedWindow | Self::Slots | Self::Envoy => false,
            Self::Acquire | Self::Lease | Self::Reservation | Self::ExpiringSlots | Self::Tollgate => {
                !matches!(traffic, Traffic::Cold)
            }
        }
    }
}

/// Everything that takes part.
struct Field {
    redis: Redis,
    connection: MultiplexedConnection,
    store: Arc<RedisStore>,
    /// How often slots were asked for: each time of other counters, with room enough.
    turns: AtomicU64,
    server: Subject,
    channel: Channel,
    ratelimit: Option<Ratelimit>,
    clock: SystemClock,
}

/// Measures every row.
pub(crate) async fn take(measure: &Measure, cores: Cores) -> Result<Table, String> {
    let pace = if measure.quick { Pace::QUICK } else { Pace::USUAL };
    let folder = tempfile::tempdir().map_err(|error| format!("cannot make a temporary folder: {error}"))?;
    let field = Field::start(measure, folder.path(), cores).await?;
    let machine = machine(&cores, pace, &measure.programs.redis)?;
    let mut table =
        Table::new(format!("{machine} With nobody asking, Redis uses {} of CPU a second.", field.idle().await?));
    for traffic in TRAFFICS {
        // The same for all rows: what is cold is asked for once in the whole run.
        let keys = Keys::new(traffic);
        for limits in LIMITS {
            say(&format!("{}, limits: {limits} …", traffic.name()));
            let mut rows: Vec<(Contender, Costs)> =
                field.contenders().into_iter().map(|contender| (contender, Costs::default())).collect();
            for _ in 0..pace.slices {
                for (contender, costs) in &mut rows {
                    let of = |problem| format!("{}, limits: {limits}, {}: {problem}", traffic.name(), contender.name());
                    costs.add(field.slice(*contender, &keys, limits, traffic, pace.slice).await.map_err(of)?);
                }
            }
            table.add(traffic, limits, rows)?;
        }
    }
    Ok(table)
}

impl Field {
    async fn start(measure: &Measure, folder: &Path, cores: Cores) -> Result<Self, String> {
        let redis = Redis::start(&measure.programs.redis, folder, cores)?;
        let connection = redis.connect().await?;
        let clock = SystemClock::start();
        let store = connect(&redis, clock)?;
        let config = (folder.join("quotas.yaml"), configuration(&redis));
        let server = Subject::start("Tollgate".to_owned(), &measure.programs.binary, &config, cores, None).await?;
        let channel = load::connect(server.grpc).await?;
        let ratelimit = if let Some(program) = &measure.ratelimit {
            let files = ratelimit::write_files(folder, &[DOMAIN])?;
            Some(Ratelimit::start(program, &files, redis.port, cores).await?)
        } else {
            say("envoyproxy/ratelimit is left out: it is not here, nor is Go, which installs it.");
            None
        };
        Ok(Self {
            redis,
            connection,
            store: Arc::new(store),
            turns: AtomicU64::new(0),
            server,
            channel,
            ratelimit,
            clock,
        })
    }

    fn contenders(&self) -> Vec<Contender> {
        let mut all = vec![Contender::FixedWindow, Contender::Acquire, Contender::Lease, Contender::Reservation];
        all.extend([Contender::Slots, Contender::ExpiringSlots, Contender::Tollgate]);
        all.extend(self.ratelimit.as_ref().map(|_| Contender::Envoy));
        all
    }

    /// Puts one of them under load for a while.
    async fn slice(
        &self,
        contender: Contender,
        keys: &Keys,
        limits: usize,
        traffic: Traffic,
        length: Duration,
    ) -> Result<Cost, String> {
        let asker = self.asker(contender, limits).await?;
        let most = match (contender, traffic) {
            (Contender::Slots, _) => SLOTS,
            (_, Traffic::Cold) => COLD_MAX,
            (_, Traffic::OneKey | Traffic::TenKeys | Traffic::Even | Traffic::Mixed) => u64::MAX,
        };
        if contender.warms_up(traffic) {
            drive(&asker, keys, most, self.clock, self.clock.steady() + WARM_UP.into()).await?;
        }
        let before = self.usage(contender).await?;
        let start = self.clock.steady();
        let decisions = drive(&asker, keys, most, self.clock, start + length.into()).await?;
        let took = self.clock.steady() - start;
        let after = self.usage(contender).await?;
        after.since(&before, contender, decisions, took)
    }

    async fn asker(&self, contender: Contender, limits: usize) -> Result<Asker, String> {
        Ok(match contender {
            Contender::FixedWindow => Asker::fixed_window(self.redis.connect().await?, limits),
            Contender::Acquire => Asker::acquire(Arc::clone(&self.store), limits, Take::Units, self.clock),
            Contender::Lease => Asker::acquire(Arc::clone(&self.store), limits, Take::Lease, self.clock),
            Contender::Reservation => Asker::acquire(Arc::clone(&self.store), limits, Take::Reservation, self.clock),
            Contender::Slots => {
                let turn = self.turns.fetch_add(1, Relaxed);
                Asker::acquire(Arc::clone(&self.store), limits, Take::Slots { turn }, self.clock)
            }
            Contender::ExpiringSlots => {
                Asker::acquire(Arc::clone(&self.store), limits, Take::ExpiringSlots, self.clock)
            }
            Contender::Tollgate => Asker::tollgate(self.channel.clone(), limits),
            Contender::Envoy => {
                let ratelimit = self.ratelimit.as_ref().ok_or("it is not there")?;
                Asker::envoy(ratelimit.channel.clone(), limits)
            }
        })
    }

    /// The CPU time that Redis uses in a second in which nobody asks but for beats.
    async fn idle(&self) -> Result<Micros, String> {
        let mut connection = self.connection.clone();
        let before = Done::so_far(&mut connection).await?;
        tokio::time::sleep(IDLE).await;
        Ok(Done::so_far(&mut connection).await?.cpu - before.cpu)
    }

    async fn usage(&self, contender: Contender) -> Result<Usage, String> {
        let server = match contender {
            Contender::Tollgate => Some(self.server.cpu()?),
            Contender::Envoy => self.ratelimit.as_ref().map(|ratelimit| ratelimit.process.cpu()).transpose()?,
            Contender::FixedWindow
            | Contender::Acquire
            | Contender::Lease
            | Contender::Reservation
            | Contender::Slots
            | Contender::ExpiringSlots => None,
        };
        Ok(Usage { server, redis: Done::so_far(&mut self.connection.clone()).await? })
    }
}

/// The store as the server has it, but for the deadline: a busy machine is not what is measured.
pub(crate) fn connect(redis: &Redis, clock: SystemClock) -> Result<RedisStore, String> {
    let settings = Settings { reach: Reach::Servers(vec![redis.url()]), ..Settings::default() };
    let telemetry = Telemetry::default();
    let bounds = Bounds { deadline: Micros::from_secs(2), ..Bounds::default() };
    let gates = Gates::new(bounds, Arc::new(clock), Arc::new(telemetry));
    RedisStore::connect(&settings, gates).map_err(|error| error.to_string())
}

/// Asks until the time is up or the questions are used up: how many were answered. All of them are allowed.
async fn drive(asker: &Asker, keys: &Keys, most: u64, clock: SystemClock, until: Micros) -> Result<u64, String> {
    let left = AtomicU64::new(most);
    let in_turn = |mut asker: Asker| {
        let left = &left;
        async move {
            let mut answered = 0_u64;
            while clock.steady() < until && left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                asker.ask(keys.draw()).await?;
                answered += 1;
            }
            Ok::<u64, String>(answered)
        }
    };
    Ok(try_join_all((0..IN_FLIGHT).map(|_| in_turn(asker.clone()))).await?.into_iter().sum())
}

/// A rule for each number of limits.
fn configuration(redis: &Redis) -> String {
    // A busy machine is not what is measured: the deadline is too long to be met by it.
    format!(
        r#"listen: {{ grpc: "127.0.0.1:0", http: "127.0.0.1:0", admin: "127.0.0.1:0" }}
store: {{ redis: {{ urls: ["{url}"], deadline: 2s }} }}
limits:
  a: {{ units: 1000000000000, window: 1m, by: [resource.key] }}
  b: {{ units: 1000000000000, window: 1m, by: [resource.key] }}
  c: {{ units: 1000000000000, window: 1m, by: [resource.key] }}
  d: {{ units: 1000000000000, window: 1m, by: [resource.key] }}
rules:
  - {{ match: {{ path: /1 }}, permit: anyone, limits: [a] }}
  - {{ match: {{ path: /2 }}, permit: anyone, limits: [a, b] }}
  - {{ match: {{ path: /4 }}, permit: anyone, limits: [a, b, c, d] }}
"#,
        url = redis.url()
    )
}
