//! The promise against the real thing: three server processes and a real store, load from outside at several times the
//! limit, and harm. In no window are more units admitted, of calls both sent and answered in it, than the limit has.

mod load;

use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message as _;
use tempfile::TempDir;
use tokio::time::{Instant, sleep_until, timeout};
use tollgate::proto as pb;

use self::load::{Call, Chance, Seen, load};
use crate::program::{decides, served};
use crate::support::redis::{RedisCluster, RedisServer};
use crate::support::{Process, Signal, tool};

const LIMIT: &str = "strict";
const UNITS: u64 = 1_200;
const WINDOW: Duration = Duration::from_secs(2);

const REPLICAS: usize = 3;

/// Nothing is harmed before: so long the limit is to be used well.
const QUIET: Duration = Duration::from_millis(4_200);

/// Two windows: what was asked and admitted until then tells how well the limit was used.
const FULL: Duration = Duration::from_secs(4);

/// After that, calm and storm take turns.
const TURN: Duration = Duration::from_millis(4_600);

/// When in a turn the counter is empty again and leases are large, …
const ROUNDS: Duration = Duration::from_millis(2_200);

/// … and when the storm begins.
const STORM: Duration = Duration::from_millis(2_350);

const LENGTH: Duration = QUIET.saturating_add(TURN).saturating_add(TURN).saturating_add(WINDOW);

/// Names the seed of a run that is to be repeated.
const SEED: &str = "TOLLGATE_TEST_SEED";

/// Runs take turns: two at once would be too much load for a small machine, and harm to other tests.
static TURNS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What callers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// As many calls as can be.
    Storm,
    /// None.
    Silence,
    /// Bursts just before leases end.
    Rounds,
}

fn weather(elapsed: Duration) -> Weather {
    let Some(turning) = elapsed.checked_sub(QUIET).filter(|turning| *turning < 2 * TURN) else { return Weather::Storm };
    match turning.checked_sub(TURN).unwrap_or(turning) {
        early if early < ROUNDS => Weather::Silence,
        early if early < STORM => Weather::Rounds,
        _ => Weather::Storm,
    }
}

/// The store of a run, and the harm that it can suffer.
trait Store {
    /// The `store` section of the configuration.
    fn section(&self) -> String;

    /// Does it the harm with that number, counted by the run's plan.
    fn harm(&mut self, number: usize);
}

/// Stands still at first, and goes on then.
impl Store for RedisServer {
    fn section(&self) -> String {
        format!("store: {{ redis: {{ urls: ['{}'], deadline: 50ms }} }}", self.url())
    }

    fn harm(&mut self, number: usize) {
        if number == 0 { self.pause() } else { self.resume() }
    }
}

/// A cluster in which the counter's slot moves from one master to the next. The third dies: with one of the other two, what
/// its replica had not heard yet would be lost, and the promise with it.
struct Moving {
    cluster: RedisCluster,
    slot: String,
    master: usize,
}

impl Moving {
    const BEGIN: usize = 0;
    const END: usize = 1;
    const KILL: usize = 2;

    fn start() -> Option<Self> {
        let cluster = RedisCluster::start()?;
        let key = format!("tollgate:{{{LIMIT}}}");
        let (slot, master) = (cluster.slot(&key), cluster.place_at_first(&key));
        Some(Self { cluster, slot, master })
    }
}

impl Store for Moving {
    fn section(&self) -> String {
        format!("store: {{ redis: {{ urls: ['{}'], deadline: 50ms }} }}", self.cluster.urls().join("', '"))
    }

    fn harm(&mut self, number: usize) {
        let [next, third] = [1, 2].map(|steps| (self.master + steps) % 3);
        match number {
            Self::BEGIN => self.cluster.begin_move(&self.slot, self.master, next),
            Self::END => self.cluster.end_move(&self.slot, self.master, next),
            _ => self.cluster.nodes[third].kill(),
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Harm {
    /// A replica dies (SIGKILL).
    Kill(usize),
    /// A replica stands still (SIGSTOP), …
    Stop(usize),
    /// … and goes on (SIGCONT).
    Continue(usize),
    /// The store suffers its harm with that number.
    Store(usize),
}

/// Harm to the replicas: one stands still for longer than a lease while it holds one, another dies later.
fn harm_to_replicas(chance: &mut Chance) -> Vec<(Duration, Harm)> {
    let stopped = usize::try_from(chance.between(0, 2)).unwrap_or(0);
    let killed = (stopped + usize::try_from(chance.between(1, 2)).unwrap_or(1)) % REPLICAS;
    let stop = QUIET + ROUNDS + chance.millis(25, 70);
    let go_on = stop + chance.millis(150, 900);
    let kill = QUIET + TURN + ROUNDS + chance.millis(0, 1_500);
    vec![(stop, Harm::Stop(stopped)), (go_on, Harm::Continue(stopped)), (kill, Harm::Kill(killed))]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_holds_more_than_the_limit_whatever_happens_to_three_servers_and_a_redis() {
    let Some(mut redis) = RedisServer::start() else { return };
    let mut chance = chance();
    let mut plan = harm_to_replicas(&mut chance);
    let stop = QUIET + TURN + ROUNDS + chance.millis(30, 300);
    plan.extend([(stop, Harm::Store(0)), (stop + Duration::from_secs(1), Harm::Store(1))]);
    judge(&run(&mut redis, plan, &mut chance).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_holds_more_than_the_limit_while_slots_of_a_cluster_move_and_a_master_dies() {
    let Some(mut moving) = Moving::start() else { return };
    let mut chance = chance();
    let mut plan = harm_to_replicas(&mut chance);
    let begin = QUIET + ROUNDS + chance.millis(0, 1_000);
    plan.extend([
        (begin, Harm::Store(Moving::BEGIN)),
        (begin + chance.millis(50, 500), Harm::Store(Moving::END)),
        (QUIET + TURN + chance.millis(0, 2_500), Harm::Store(Moving::KILL)),
    ]);
    judge(&run(&mut moving, plan, &mut chance).await);
}

/// By a seed that is printed, and can be given.
#[expect(clippy::print_stderr, reason = "a failure is found again by its seed")]
fn chance() -> Chance {
    let given = std::env::var_os(SEED)
        .map(|seed| seed.to_str().and_then(|seed| seed.parse().ok()).expect("a seed is a number"));
    let seed = given.unwrap_or_else(|| RandomState::new().hash_one(SEED));
    eprintln!("seed {seed}; {SEED}={seed} repeats its moments");
    Chance(seed)
}

/// Three servers, their callers, and the plan's harm; then what the callers saw.
#[expect(clippy::print_stderr, reason = "a failure is understood by what happened when")]
async fn run(store: &mut dyn Store, mut plan: Vec<(Duration, Harm)>, chance: &mut Chance) -> Seen {
    let _turn = TURNS.lock().await;
    let section = store.section();
    let yaml = format!(
        "{section}\nlimits:\n  {LIMIT}: {{ units: {UNITS}, window: 2s }}\n  other: {{ units: 100000, window: 2s }}\n\
         rules: [{{ match: {{ path: /free }}, permit: anyone }}]"
    );
    let mut servers: Vec<Option<(Process, TempDir, String)>> = Vec::new();
    for _ in 0..REPLICAS {
        let server = served(&yaml).await;
        decides(&server.2, "/free", 0).await;
        servers.push(Some(server));
    }
    let seen = Arc::<Mutex<Seen>>::default();
    let urls: Vec<String> = servers.iter().flatten().map(|(_, _, url)| url.clone()).collect();
    let pressure = pressed(&urls[0]);
    let start = Instant::now();
    let callers = urls.into_iter().map(|url| {
        let (seen, mut chance) = (Arc::clone(&seen), Chance(chance.between(0, u64::MAX - 1)));
        tokio::spawn(async move { load(&url, start, LENGTH, &seen, &mut chance).await })
    });
    let callers: Vec<_> = callers.collect();
    plan.sort_by_key(|(at, _)| *at);
    for (at, harm) in plan {
        sleep_until(start + at).await;
        eprintln!("{:?}: {harm:?}", start.elapsed());
        match harm {
            Harm::Kill(replica) => servers[replica] = None,
            Harm::Stop(replica) => signal(&servers, replica, Signal::Stop),
            Harm::Continue(replica) => signal(&servers, replica, Signal::Continue),
            Harm::Store(number) => store.harm(number),
        }
    }
    for caller in callers {
        timeout(LENGTH + Duration::from_secs(20), caller).await.expect("it ends").expect("it does not panic");
    }
    drop(pressure);
    Arc::into_inner(seen).expect("the callers are gone").into_inner().expect("no caller panicked")
}

fn signal(servers: &[Option<(Process, TempDir, String)>], replica: usize, signal: Signal) {
    if let Some((process, ..)) = &servers[replica] {
        process.signal(signal);
    }
}

/// ghz beside the callers, if it is there, on another counter of one server; until it is dropped.
fn pressed(url: &str) -> Option<(Process, TempDir)> {
    let ghz = tool("ghz");
    if Command::new(&ghz).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return None;
    }
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).expect("the folder can be written to");
        folder.path().join(name)
    };
    let counter = Some(pb::Counter { limit: "other".to_owned(), ..pb::Counter::default() });
    let charges = vec![pb::QuotaCharge { counter, units: None }];
    let protos = file("protos.bin", pb::DESCRIPTORS);
    let question = file("question.bin", &pb::ConsumeRequest { charges }.encode_length_delimited_to_vec());
    let mut command = Command::new(ghz);
    let path = |path: &Path| path.to_str().expect("the path is UTF-8").to_owned();
    command.args(["--insecure", "--call", "tollgate.v1.QuotaService/Consume"]);
    command.args(["--protoset", &path(&protos), "--binary-file", &path(&question)]);
    command.args(["--rps", "300", "--concurrency", "4", "--duration", &format!("{}s", LENGTH.as_secs())]);
    command.args(["--disable-template-functions", "--disable-template-data"]);
    command.arg(url.trim_start_matches("http://"));
    Some((Process::start(command, "run ./scripts/test"), folder))
}

/// Holds what was seen to the promises.
#[expect(clippy::print_stderr, reason = "the numbers are to be seen")]
fn judge(seen: &Seen) {
    let most = most_in_any_window(&seen.admitted);
    let units = |calls: &mut dyn Iterator<Item = u64>| calls.sum::<u64>();
    let early = units(&mut seen.admitted.iter().filter(|call| call.answered < FULL).map(|call| call.units));
    let wanted = units(&mut seen.answered.iter().filter(|(at, _)| *at < FULL).map(|(_, units)| *units));
    eprintln!(
        "{} calls admitted of {}, {} failed; at most {most} of {UNITS} units in any window; before all harm {early} units \
         of {wanted} wanted, where an exact log admits {}",
        seen.admitted.len(),
        seen.answered.len(),
        seen.failed,
        2 * UNITS
    );
    assert!(most <= UNITS, "{most} units in a window");
    assert!(wanted >= 3 * 2 * UNITS, "the load was no load: {wanted} units");
    // In two windows; the last sub-window of the second may not have come back yet.
    assert!(early * 10 >= 2 * UNITS * 8, "{early} units in two windows");
    assert!(seen.failed > 0, "a server was killed, and nobody noticed");
}

/// The most units of calls that were both sent and answered within a half-open window, wherever it begins.
fn most_in_any_window(calls: &[Call]) -> u64 {
    let mut calls = calls.to_vec();
    calls.sort_unstable_by_key(|call| call.sent);
    let within = |first: usize| {
        let end = calls[first].sent + WINDOW;
        let sent = calls[first..].iter().take_while(|call| call.sent < end);
        sent.filter(|call| call.answered < end).map(|call| call.units).sum()
    };
    (0..calls.len()).map(within).max().unwrap_or(0)
}

#[test]
fn a_window_counts_the_calls_that_lie_in_it_whole() {
    let call = |sent, answered, units| {
        let (sent, answered) = (Duration::from_millis(sent), Duration::from_millis(answered));
        Call { sent, answered, units }
    };
    assert_eq!(most_in_any_window(&[]), 0);
    assert_eq!(most_in_any_window(&[call(0, 10, 3), call(1_900, 1_999, 4)]), 7);
    assert_eq!(most_in_any_window(&[call(0, 10, 3), call(1_900, 2_000, 4)]), 4, "it ends before its end");
    assert_eq!(most_in_any_window(&[call(0, 2_500, 9), call(100, 2_050, 4), call(2_099, 2_099, 1)]), 5);
}
