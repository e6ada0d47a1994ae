//! Keys that are listed and keys that are shared, shown rightly and in every wrong way, with a store that is told what to
//! say and when.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use tokio::sync::Semaphore;
use tokio::task::yield_now;

use super::shared::{FRESH_FOR, KNOWN_FOR};
use super::*;
use crate::decide::ports::{AwayCause, KeyEnding, ListedKeys};
use crate::domain::api_key::DrawnKey;

const WALL: Micros = Micros::from_secs(1_800_000_000);
const AWAY: Away = Away { because: AwayCause::Unreachable };

/// A store, and the clock.
struct World {
    keys: Mutex<HashMap<KeyId, ApiKey>>,
    away: Mutex<Option<Away>>,
    /// How many readings may end.
    lets: Semaphore,
    reads: AtomicUsize,
    uses: AtomicUsize,
    now: Mutex<Moment>,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            keys: Mutex::default(),
            away: Mutex::default(),
            lets: Semaphore::new(Semaphore::MAX_PERMITS),
            reads: AtomicUsize::default(),
            uses: AtomicUsize::default(),
            now: Mutex::new(Moment { wall: WALL, steady: Micros::from_secs(50) }),
        })
    }

    fn pass(&self, time: Micros) {
        let mut now = self.now.lock().unwrap();
        *now = Moment { wall: now.wall + time, steady: now.steady + time };
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    fn is_away(&self, away: bool) {
        *self.away.lock().unwrap() = away.then_some(AWAY);
    }

    fn keep(&self, key: ApiKey) {
        self.keys.lock().unwrap().insert(key.id, key);
    }
}

impl Clock for World {
    fn now(&self) -> Moment {
        *self.now.lock().unwrap()
    }
}

impl ApiKeyRecords for World {
    fn find(&self, id: KeyId) -> Answer<'_, Result<Option<ApiKey>, Away>> {
        Answer::later(async move {
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.lets.acquire().await.unwrap().forget();
            match *self.away.lock().unwrap() {
                Some(away) => Err(away),
                None => Ok(self.keys.lock().unwrap().get(&id).cloned()),
            }
        })
    }

    fn add(&self, _: ApiKey) -> Answer<'_, Result<bool, Away>> {
        panic!("nobody adds keys here")
    }

    fn end(&self, _: KeyId, _: KeyEnding) -> Answer<'_, Result<bool, Away>> {
        panic!("nobody ends keys here")
    }

    fn note_use(&self, _: KeyId) -> Answer<'_, Result<(), Away>> {
        self.uses.fetch_add(1, Ordering::Relaxed);
        Answer::Now(Ok(()))
    }

    fn list(&self) -> Answer<'_, Result<ListedKeys, Away>> {
        panic!("nobody lists keys here")
    }
}

fn draw() -> DrawnKey {
    DrawnKey::draw(aws_lc_rs::rand::fill).unwrap()
}

/// A key with that id and another secret, well formed: what somebody makes who knows the id.
fn forged(id: KeyId) -> DrawnKey {
    let place = |byte: u8| match byte {
        b'0'..=b'9' => byte - b'0',
        b'A'..=b'Z' => byte - b'A' + 10,
        _ => byte - b'a' + 36,
    };
    let mut asked = 0;
    let forged = DrawnKey::draw(|bytes: &mut [u8]| {
        aws_lc_rs::rand::fill(bytes)?;
        if asked == 0 {
            bytes.iter_mut().zip(id.as_str().bytes()).for_each(|(byte, char)| *byte = place(char));
        }
        asked += 1;
        Ok::<_, aws_lc_rs::error::Unspecified>(())
    });
    forged.unwrap()
}

fn kept(drawn: &DrawnKey) -> ApiKey {
    ApiKey {
        tenant: Some("acme".into()),
        scopes: ["orders:read".into()].into(),
        roles: ["USER".into()].into(),
        created: Some(WALL),
        ..ApiKey::plain(drawn.id(), drawn.hash(), "billing")
    }
}

struct Bench {
    world: Arc<World>,
    telemetry: Arc<Telemetry>,
    keys: ApiKeys,
}

impl Bench {
    fn new(kept: impl FnOnce(&Arc<World>) -> Kept) -> Self {
        let (world, telemetry) = (World::new(), Arc::new(Telemetry::default()));
        let keys = ApiKeys::new(Arc::clone(&world) as _, Arc::clone(&telemetry));
        keys.adopt(KeyRing { kept: kept(&world), operators: false, limits: vec!["per-key".to_owned()] });
        Self { world, telemetry, keys }
    }

    fn listed(keys: impl IntoIterator<Item = ApiKey>) -> Self {
        Self::new(|_| Kept::Listed(keys.into_iter().collect()))
    }

    fn shared() -> Self {
        Self::new(|world| Kept::Shared(Arc::clone(world) as _))
    }

    /// The answer of a moment, which must not be one to wait for.
    fn at_once(&self, text: &str) -> Reason {
        match self.keys.inspect(text, self.world.now()) {
            Answer::Now(Inspected { verdict, remembered: true }) => verdict.err().unwrap_or(Reason::Allowed),
            Answer::Now(_) | Answer::Later(_) => panic!("it is to be waited for"),
        }
    }

    async fn asked(&self, text: &str) -> Reason {
        let inspected = self.keys.inspect(text, self.world.now()).get().await;
        inspected.verdict.err().unwrap_or(Reason::Allowed)
    }

    /// Lets whatever runs in the background come to its end, as far as it can.
    async fn settle(&self) {
        for _ in 0..20 {
            yield_now().await;
        }
    }
}

#[test]
fn a_listed_key_says_who_calls_without_waiting() {
    let drawn = draw();
    let bench = Bench::listed([ApiKey { expires: Some(WALL + Micros(1)), ..kept(&drawn) }]);
    let answer = bench.keys.inspect(drawn.reveal(), bench.world.now()).get().now_or_never().unwrap();
    let identity = answer.verdict.unwrap();
    assert_eq!((&*identity.issuer, identity.subject.as_deref()), ("tollgate:api-keys", Some("billing")));
    assert_eq!(identity.client.as_deref(), Some(drawn.id().as_str()));
    assert_eq!(identity.token_id, identity.client);
    assert_eq!((identity.tenant.as_deref(), identity.may_operate), (Some("acme"), false));
    assert!(identity.has_scope("orders:read") && identity.has_role("USER"));
    assert_eq!((identity.issued_at, identity.expires_at), (Some(WALL), Some(WALL + Micros(1))));
    let again = bench.keys.inspect(drawn.reveal(), bench.world.now()).get().now_or_never().unwrap();
    assert!(Arc::ptr_eq(&identity, &again.verdict.unwrap()), "it is made once");
    assert!(bench.telemetry.render().contains("tollgate_api_keys 1\n"));
}

#[test]
fn whatever_is_wrong_with_a_key_there_is_one_answer() {
    let [good, other, ended, early, revoked] = std::array::from_fn(|_| draw());
    let bench = Bench::listed([
        kept(&good),
        kept(&other),
        ApiKey { expires: Some(WALL), ..kept(&ended) },
        ApiKey { not_before: Some(WALL + Micros(1)), ..kept(&early) },
        ApiKey { revoked: true, ..kept(&revoked) },
    ]);
    assert_eq!(bench.at_once(good.reveal()), Reason::Allowed);
    assert_eq!(bench.at_once(other.reveal()), Reason::Allowed);
    let (_, secret) = other.reveal().rsplit_once('_').unwrap();
    let mixed = format!("tg_{}_{secret}", good.id());
    let forged = forged(good.id());
    assert_eq!(forged.id(), good.id());
    let longer = format!("{}0", good.reveal());
    let shorter = &good.reveal()[..64];
    let wrong = [forged.reveal(), &mixed, &longer, shorter, "", "tg_", draw().reveal(), ended.reveal(), early.reveal()]
        .map(|text| (text.to_owned(), bench.at_once(text)));
    for (text, reason) in wrong {
        assert_eq!(reason, Reason::UnknownApiKey, "{text}");
    }
    assert_eq!(bench.at_once(revoked.reveal()), Reason::UnknownApiKey);
    bench.world.pass(Micros(1));
    assert_eq!(bench.at_once(early.reveal()), Reason::Allowed, "its time has come");
}

#[test]
fn a_listed_key_is_known_where_it_is_good() {
    let [good, ended] = [draw(), draw()];
    let bench = Bench::listed([kept(&good), ApiKey { expires: Some(WALL), ..kept(&ended) }]);
    let knows = |text: &str| bench.keys.knows(text, bench.world.now());
    assert!(knows(good.reveal()));
    for text in [ended.reveal(), forged(good.id()).reveal(), draw().reveal(), "tg_"] {
        assert!(!knows(text), "{text}");
    }
}

/// Whoever shares an address with somebody who guesses is let through by it.
#[tokio::test]
async fn a_shared_key_is_known_for_as_long_as_it_goes_on_without_its_store() {
    let (bench, drawn) = (Bench::shared(), draw());
    bench.world.keep(kept(&drawn));
    let knows = |text: &str| bench.keys.knows(text, bench.world.now());
    assert!(!knows(drawn.reveal()), "nobody has read it");
    assert_eq!(bench.asked(drawn.reveal()).await, Reason::Allowed);
    assert!(knows(drawn.reveal()) && !knows(forged(drawn.id()).reveal()));
    bench.world.pass(KNOWN_FOR - Micros(1));
    assert!(knows(drawn.reveal()));
    bench.world.pass(Micros(1));
    assert!(!knows(drawn.reveal()));
    assert_eq!(bench.world.reads(), 1, "nothing is read to say so");
}

#[test]
fn a_reload_takes_keys_back_at_once() {
    let [one, other] = [draw(), draw()];
    let bench = Bench::listed([kept(&one), kept(&other)]);
    assert_eq!(bench.at_once(one.reveal()), Reason::Allowed);
    let listed = Kept::Listed(vec![ApiKey { revoked: true, ..kept(&one) }]);
    bench.keys.adopt(KeyRing { kept: listed, operators: true, limits: Vec::new() });
    assert_eq!(bench.at_once(one.reveal()), Reason::UnknownApiKey);
    assert_eq!(bench.at_once(other.reveal()), Reason::UnknownApiKey);
    bench.keys.adopt(KeyRing { kept: Kept::Listed(vec![kept(&one)]), operators: true, limits: Vec::new() });
    let answer = bench.keys.inspect(one.reveal(), bench.world.now()).get().now_or_never().unwrap();
    assert!(answer.verdict.unwrap().may_operate);
    bench.keys.adopt(KeyRing::default());
    assert_eq!(bench.at_once(one.reveal()), Reason::UnknownApiKey);
}

#[tokio::test]
async fn a_shared_key_is_asked_for_once_and_then_known() {
    let (bench, drawn) = (Bench::shared(), draw());
    bench.world.keep(kept(&drawn));
    assert_eq!(bench.asked(drawn.reveal()).await, Reason::Allowed);
    for _ in 0..5 {
        assert_eq!(bench.at_once(drawn.reveal()), Reason::Allowed);
    }
    let mistyped = drawn.reveal().replace('_', "-");
    assert_eq!(bench.at_once(&mistyped), Reason::UnknownApiKey);
    assert_eq!(bench.world.reads(), 1, "a typo costs no look-up");
    let text = bench.telemetry.render();
    assert!(text.contains("tollgate_api_keys 1\n"), "{text}");
    assert!(text.contains(r#"tollgate_api_key_reads_total{outcome="found"} 1"#), "{text}");
}

#[tokio::test]
async fn many_who_ask_for_one_key_ask_once_and_a_caller_who_leaves_takes_nothing_along() {
    let (bench, drawn) = (Bench::shared(), draw());
    bench.world.keep(kept(&drawn));
    bench.world.lets.forget_permits(Semaphore::MAX_PERMITS);
    let mut first = Box::pin(bench.asked(drawn.reveal()));
    assert!(first.as_mut().now_or_never().is_none());
    drop(first);
    let all = futures_util::future::join_all((0..1_000).map(|_| bench.asked(drawn.reveal())));
    let (all, ()) = tokio::join!(all, async {
        bench.settle().await;
        bench.world.lets.add_permits(1_000);
    });
    assert!(all.iter().all(|reason| *reason == Reason::Allowed));
    assert_eq!(bench.world.reads(), 1);
}

#[tokio::test]
async fn a_key_in_use_is_read_again_in_the_background_and_one_that_is_gone_counts_no_more() {
    let (bench, drawn) = (Bench::shared(), draw());
    bench.world.keep(kept(&drawn));
    assert_eq!(bench.asked(drawn.reveal()).await, Reason::Allowed);
    bench.world.pass(Micros::from_millis(999));
    assert_eq!(bench.at_once(drawn.reveal()), Reason::Allowed);
    bench.settle().await;
    assert_eq!(bench.world.reads(), 1);
    // Revoked: what was read is believed for a moment more, and read again meanwhile.
    bench.world.keep(ApiKey { revoked: true, ..kept(&drawn) });
    bench.world.pass(Micros::from_millis(1));
    assert_eq!(bench.at_once(drawn.reveal()), Reason::Allowed);
    bench.settle().await;
    assert_eq!((bench.at_once(drawn.reveal()), bench.world.reads()), (Reason::UnknownApiKey, 2));
    // One that nobody used for a while is asked for before it is believed.
    bench.world.keep(kept(&drawn));
    bench.world.pass(FRESH_FOR);
    assert_eq!(bench.asked(drawn.reveal()).await, Reason::Allowed);
    bench.world.keys.lock().unwrap().clear();
    bench.world.pass(FRESH_FOR);
    assert_eq!((bench.asked(drawn.reveal()).await, bench.world.reads()), (Reason::UnknownApiKey, 4));
}

#[tokio::test]
async fn an_id_that_is_nobodys_is_remembered_for_two_seconds() {
    let (bench, drawn) = (Bench::shared(), draw());
    assert_eq!(bench.asked(drawn.reveal()).await, Reason::UnknownApiKey);
    bench.world.keep(kept(&drawn));
    bench.world.pass(Micros(FRESH_FOR.0 - 1));
    assert_eq!((bench.at_once(drawn.reveal()), bench.world.reads()), (Reason::UnknownApiKey, 1));
    bench.world.pass(Micros(1));
    assert_eq!(bench.asked(drawn.reveal()).await, Reason::Allowed);
    assert_eq!(bench.at_once(drawn.reveal()), Reason::Allowed);
}

#[tokio::test]
async fn while_the_store_is_away_known_keys_go_on_for_five_minutes_and_others_cannot_be_told() {
    let (bench, known, other) = (Bench::shared(), draw(), draw());
    bench.world.keep(kept(&known));
    assert_eq!(bench.asked(known.reveal()).await, Reason::Allowed);
    bench.world.is_away(true);
    assert_eq!(bench.asked(other.reveal()).await, Reason::StoreAway);
    bench.world.pass(FRESH_FOR);
    assert_eq!(bench.asked(known.reveal()).await, Reason::Allowed, "the one who asked in vain");
    let reads = bench.world.reads();
    for _ in 0..100 {
        assert_eq!(bench.at_once(known.reveal()), Reason::Allowed, "nobody else waits within a second");
    }
    bench.settle().await;
    assert_eq!(bench.world.reads(), reads);
    assert_eq!(bench.at_once(forged(known.id()).reveal()), Reason::UnknownApiKey, "whatever is away");
    bench.world.pass(Micros(KNOWN_FOR.0 - FRESH_FOR.0 - 1));
    assert_eq!(bench.asked(known.reveal()).await, Reason::Allowed);
    bench.world.pass(Micros(1));
    assert_eq!(bench.asked(known.reveal()).await, Reason::StoreAway);
    bench.world.is_away(false);
    assert_eq!(bench.asked(known.reveal()).await, Reason::Allowed);
    assert!(bench.telemetry.render().contains(r#"tollgate_api_key_reads_total{outcome="away"} "#));
}

/// The store is shared with the counters.
#[tokio::test]
async fn made_up_ids_wait_in_a_bounded_number_and_hold_up_no_known_key() {
    let (bench, known) = (Bench::shared(), draw());
    bench.world.keep(kept(&known));
    assert_eq!(bench.asked(known.reveal()).await, Reason::Allowed);
    bench.world.lets.forget_permits(Semaphore::MAX_PERMITS);
    let made_up: Vec<DrawnKey> = (0..300).map(|_| draw()).collect();
    let mut waiting = Vec::new();
    let mut refused = 0;
    for key in &made_up {
        let mut asked = Box::pin(bench.asked(key.reveal()));
        match asked.as_mut().now_or_never() {
            None => waiting.push(asked),
            Some(reason) => {
                assert_eq!(reason, Reason::StoreAway);
                refused += 1;
            }
        }
    }
    assert_eq!((waiting.len(), refused), (256, 44));
    bench.world.pass(FRESH_FOR);
    let mut asked = Box::pin(bench.asked(known.reveal()));
    assert!(asked.as_mut().now_or_never().is_none(), "it is asked for");
    bench.world.lets.add_permits(1_000);
    assert_eq!(asked.await, Reason::Allowed);
    for reason in futures_util::future::join_all(waiting).await {
        assert_eq!(reason, Reason::UnknownApiKey);
    }
}

#[tokio::test]
async fn a_key_that_names_a_limit_that_is_not_there_is_refused() {
    let (bench, drawn) = (Bench::shared(), draw());
    let with = |limit: &str| ApiKey { limits: [limit.into()].into(), ..kept(&drawn) };
    bench.world.keep(with("per-kye"));
    assert_eq!(bench.asked(drawn.reveal()).await, Reason::UnknownApiKey);
    assert!(bench.telemetry.render().contains(r#"tollgate_api_key_reads_total{outcome="unusable"} 1"#));
    bench.world.keep(with("per-key"));
    bench.world.pass(FRESH_FOR);
    assert_eq!(bench.asked(drawn.reveal()).await, Reason::Allowed);
    // The configuration loses the limit: what is known is read anew.
    let kept = Kept::Shared(Arc::clone(&bench.world) as _);
    bench.keys.adopt(KeyRing { kept, operators: false, limits: Vec::new() });
    assert_eq!(bench.asked(drawn.reveal()).await, Reason::UnknownApiKey);
}

#[tokio::test]
async fn a_reload_that_changes_nothing_keeps_what_is_known() {
    let (bench, drawn) = (Bench::shared(), draw());
    bench.world.keep(kept(&drawn));
    assert_eq!(bench.asked(drawn.reveal()).await, Reason::Allowed);
    bench.world.is_away(true);
    let kept = Kept::Shared(Arc::clone(&bench.world) as _);
    bench.keys.adopt(KeyRing { kept, operators: false, limits: vec!["per-key".to_owned()] });
    assert_eq!(bench.at_once(drawn.reveal()), Reason::Allowed);
}

#[tokio::test]
async fn a_reload_that_changes_something_else_keeps_what_is_known_as_old_as_it_is() {
    let (bench, drawn, limited) = (Bench::shared(), draw(), draw());
    bench.world.keep(kept(&drawn));
    bench.world.keep(ApiKey { limits: ["per-key".into()].into(), ..kept(&limited) });
    for key in [&drawn, &limited] {
        assert_eq!(bench.asked(key.reveal()).await, Reason::Allowed);
    }
    bench.world.is_away(true);
    bench.world.pass(FRESH_FOR);
    let adopt = |operators, limits: &[&str]| {
        let limits = limits.iter().map(|&limit| limit.to_owned()).collect();
        bench.keys.adopt(KeyRing { kept: Kept::Shared(Arc::clone(&bench.world) as _), operators, limits });
    };
    adopt(true, &["other"]);
    let inspected = bench.keys.inspect(drawn.reveal(), bench.world.now()).get().await;
    assert!(inspected.verdict.unwrap().may_operate, "under the settings of now");
    assert_eq!(bench.asked(limited.reveal()).await, Reason::StoreAway, "its limit is gone");
    bench.world.pass(KNOWN_FOR);
    assert_eq!(bench.asked(drawn.reveal()).await, Reason::StoreAway);
}

#[tokio::test]
async fn that_a_key_was_used_is_noted_once_a_minute() {
    let (bench, drawn) = (Bench::shared(), draw());
    bench.world.keep(kept(&drawn));
    let uses = || bench.world.uses.load(Ordering::Relaxed);
    for second in 0..=60 {
        for _ in 0..3 {
            assert_eq!(bench.asked(drawn.reveal()).await, Reason::Allowed);
            bench.settle().await;
        }
        assert_eq!(uses(), if second < 60 { 1 } else { 2 }, "{second}");
        bench.world.pass(Micros::from_secs(1));
        // A record that changes is the same key.
        let scopes = [format!("s{second}").into()].into();
        bench.world.keep(ApiKey { scopes, ..kept(&drawn) });
    }
    let stranger = draw();
    assert_eq!(bench.asked(stranger.reveal()).await, Reason::UnknownApiKey);
    bench.settle().await;
    assert_eq!(uses(), 2, "a key that is refused was not used");
}
