//! Taking back, with a log that keeps what it is told.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;

use super::super::ports::{AwayCause, News, Place, RevocationLog, Snapshot};
use super::super::tests::World;
use super::super::tests::logged::{Logged, logged};
use super::*;
use crate::domain::client::{Client, MayRevoke, Sight, secret_hash};
use crate::domain::revocation::{Cutoff, Entry, MARGIN, Mark, unnamed};
use crate::domain::time::Moment;
use crate::telemetry::Telemetry;

const NOW: Micros = Micros(100_000_500_000);
const DAY: u64 = 86_400;

/// A log that writes down what it is told, by a clock of its own.
#[derive(Default)]
struct Ledger {
    told: Mutex<Vec<Wish>>,
    kept: Mutex<Vec<Revocation>>,
    away: AtomicBool,
    /// It writes, and never answers.
    hangs: AtomicBool,
}

impl Ledger {
    fn ask<'a, T: 'a>(&self, answer: impl FnOnce() -> T) -> Answer<'a, Result<T, Away>> {
        if self.hangs.load(Ordering::Relaxed) {
            answer();
            return Answer::later(std::future::pending());
        }
        let away = self.away.load(Ordering::Relaxed);
        Answer::Now(if away { Err(Away { because: AwayCause::Deadline }) } else { Ok(answer()) })
    }

    fn told(&self) -> Vec<Wish> {
        std::mem::take(&mut self.told.lock().unwrap())
    }
}

impl RevocationLog for Ledger {
    fn add(&self, wishes: Vec<Wish>, _: Moment) -> Answer<'_, Result<Vec<Revocation>, Away>> {
        self.ask(|| {
            self.told.lock().unwrap().extend(wishes.clone());
            let written = wishes.into_iter().map(|wish| wish.written_at(NOW));
            let written: Vec<_> = written.filter(|written| !written.cutoff.is_over(NOW)).collect();
            self.kept.lock().unwrap().extend(written.clone());
            written
        })
    }

    fn undo(&self, id: MarkId, _: Moment) -> Answer<'_, Result<Option<ListedRevocation>, Away>> {
        self.ask(|| {
            let mut kept = self.kept.lock().unwrap();
            let at = kept.iter().position(|kept| MarkId::of(kept.target.borrowed()) == id)?;
            Some(listed(kept.remove(at)))
        })
    }

    fn find(&self, _: Vec<Mark>, _: Moment) -> Answer<'_, Result<Vec<Option<Cutoff>>, Away>> {
        self.ask(Vec::new)
    }

    fn list(&self, _: Cursor, _: Moment) -> Answer<'_, Result<Listed, Away>> {
        self.ask(|| {
            let kept = self.kept.lock().unwrap();
            let restored = Entry { mark: Mark::of(Target::session("i", "lost").borrowed()), cutoff: Cutoff::ALWAYS };
            let restored = ListedRevocation { entry: restored, written: None };
            Listed { entries: kept.iter().cloned().map(listed).chain([restored]).collect(), next: Some(Cursor(7)) }
        })
    }

    fn news(&self, _: Place, _: Moment) -> Answer<'_, Result<News, Away>> {
        self.ask(|| News::Gone(Place::default()))
    }

    fn snapshot(&self, _: Cursor, _: Moment) -> Answer<'_, Result<Snapshot, Away>> {
        self.ask(|| Snapshot { place: Place::default(), entries: Vec::new(), next: None, unreadable: 0 })
    }

    fn restore(&self, _: Vec<Entry>, _: Moment) -> Answer<'_, Result<(), Away>> {
        self.ask(|| ())
    }
}

fn listed(revocation: Revocation) -> ListedRevocation {
    ListedRevocation { entry: revocation.entry(), written: Some(revocation) }
}

struct Bench {
    world: Arc<World>,
    ledger: Arc<Ledger>,
    decider: Decider,
}

impl Bench {
    fn new() -> Self {
        let world = Arc::new(World::default());
        let ledger = Arc::new(Ledger::default());
        let identity = Identity {
            subject: Some("ann".into()),
            client: Some("shop".into()),
            token_id: Some("jti-1".into()),
            expires_at: Some(Micros::from_secs(200_000)),
            ..Identity::vouched_by("https://i")
        };
        let operator = Identity { may_operate: true, scopes: [REVOKE_SCOPE.into()].into(), ..identity.clone() };
        let unnamed = Identity {
            token_id: None,
            token_hash: Some(Box::new(unnamed("https://i", "h.p.s"))),
            expires_at: None,
            ..identity.clone()
        };
        let key = Identity {
            kind: IdentityKind::ApiKey,
            token_id: Some("0123456789ab".into()),
            ..Identity { issuer: api_key::ISSUER.into(), ..identity.clone() }
        };
        let forged = Err(Reason::BadSignature);
        let verdicts = [
            ("named", Ok(identity.clone())),
            ("operator", Ok(operator)),
            ("unnamed", Ok(unnamed)),
            ("key", Ok(key)),
            ("theirs", Ok(Identity { client: Some("bank".into()), ..identity })),
            ("forged", forged),
            ("expired", Err(Reason::Expired)),
            ("away", Err(Reason::KeysAway)),
        ];
        let verdicts = verdicts.map(|(token, verdict)| (token.to_owned(), verdict.map(Arc::new)));
        world.verdicts.lock().unwrap().extend(verdicts);
        let (clock, telemetry) = (Arc::clone(&world) as _, Arc::new(Telemetry::default()));
        let log = Arc::clone(&ledger) as _;
        let [tokens, view, quotas] = [(); 3].map(|()| Arc::clone(&world));
        let decider = Decider::new(clock, tokens, view, log, quotas, telemetry);
        let lifetimes = |ahead| Lifetimes {
            longest: Micros::from_secs(DAY),
            leeway: Micros::from_secs(60),
            clock_ahead: Micros::from_secs(ahead),
        };
        let client = |id: &str, may_revoke| Client {
            id: id.into(),
            hash: secret_hash("secret"),
            sight: Sight::Every,
            may_revoke,
        };
        decider.adopt(Policy {
            lifetimes: [("https://i".into(), lifetimes(0)), ("https://ahead".into(), lifetimes(5))].into(),
            clients: vec![client("shop", MayRevoke::Own), client("desk", MayRevoke::Every)],
            ..Policy::default()
        });
        Self { world, ledger, decider }
    }

    fn revoker(&self, asker: Asker<'_>) -> Result<Revoker, Unpermitted> {
        self.decider.permit_revoker(asker, Way::Grpc).get().now_or_never().unwrap()
    }

    fn operator(&self) -> Revoker {
        self.revoker(Asker::Operator(Credential::Bearer("operator"), None)).unwrap()
    }

    fn client(&self, id: &str) -> Revoker {
        self.revoker(Asker::Client(&[(id.to_owned(), "secret".to_owned())])).unwrap()
    }

    fn revoke(&self, revoker: &Revoker, asked: Vec<Asked<'_>>) -> Result<Vec<TakenBack>, NotRevoked> {
        self.decider.revoke(revoker, asked, "why").get().now_or_never().unwrap()
    }

    /// The target and the cutoff of what was written; `over` or `not good` where nothing was.
    fn outcome(&self, revoker: &Revoker, asked: Asked<'_>) -> Result<(Target, Cutoff), &'static str> {
        let mut outcomes = self.revoke(revoker, vec![asked]).unwrap();
        match outcomes.remove(0) {
            TakenBack::Written(Revocation { target, cutoff, .. }) => Ok((target, cutoff)),
            TakenBack::NothingLeft => Err("over"),
            TakenBack::NotGood => Err("not good"),
        }
    }
}

fn until(secs: u64) -> Cutoff {
    Cutoff { before: None, until: Some(Micros::from_secs(secs)) }
}

#[test]
fn a_token_that_is_shown_is_taken_back_by_what_names_it_alone() {
    let bench = Bench::new();
    let operator = bench.operator();
    let ends = 200_000 + 60 + MARGIN.as_secs();
    let hash = unnamed("https://i", "h.p.s");
    for (token, target, cutoff) in [
        ("named", Target::token("https://i", "jti-1"), until(ends)),
        // Nobody knows when it ends: not within any time that is demanded of others.
        ("unnamed", Target::unnamed_token("https://i", &hash), Cutoff { until: Some(LAST_MOMENT), before: None }),
        // It may be given a longer life later.
        ("key", Target::new(TargetKind::ApiKey, "", b"0123456789ab"), Cutoff::ALWAYS),
    ] {
        assert_eq!(bench.outcome(&operator, Asked::Shown(token)), Ok((target, cutoff)), "{token}");
    }
}

#[test]
fn a_token_that_is_good_nowhere_is_not_written_down() {
    let bench = Bench::new();
    let operator = bench.operator();
    for token in ["forged", "expired", "made up", ""] {
        assert_eq!(bench.outcome(&operator, Asked::Shown(token)), Err("not good"), "{token}");
    }
    assert_eq!(bench.ledger.told(), []);
    let asked = vec![Asked::Shown("named"), Asked::Shown("away")];
    assert_eq!(bench.revoke(&operator, asked), Err(NotRevoked::Unknown(Reason::KeysAway)));
    assert_eq!(bench.ledger.told(), [], "all or nothing");
    let asked = ["forged", "named", "expired"].map(Asked::Shown).to_vec();
    let outcomes = bench.revoke(&operator, asked).unwrap();
    assert!(
        matches!(outcomes.as_slice(), [TakenBack::NotGood, TakenBack::Written(_), TakenBack::NotGood]),
        "{outcomes:?}"
    );
}

#[test]
fn a_client_takes_back_its_own_tokens_and_with_the_scope_everything() {
    let bench = Bench::new();
    let (shop, desk) = (bench.client("shop"), bench.client("desk"));
    assert!(bench.outcome(&shop, Asked::Shown("named")).is_ok());
    // Of another's token it hears what it hears of one that does not exist.
    for token in ["theirs", "key", "forged"] {
        assert_eq!(bench.outcome(&shop, Asked::Shown(token)), Err("not good"), "{token}");
    }
    bench.ledger.told();
    let own = || Asked::Named(Target::client("https://i", "shop"), Which::IssuedByNow);
    assert_eq!(bench.revoke(&shop, vec![Asked::Shown("named"), own()]), Err(NotRevoked::OnlyItsOwn));
    let kid = Asked::KeyId { issuer: "https://i", kid: "a" };
    assert_eq!(bench.revoke(&shop, vec![kid]), Err(NotRevoked::OnlyItsOwn));
    let id = MarkId::of(Target::token("https://i", "jti-1").borrowed());
    assert_eq!(bench.decider.unrevoke(&shop, id, "").get().now_or_never(), Some(Err(NotRevoked::OnlyItsOwn)));
    let listed = bench.decider.revocations(&shop, Cursor(0), Filter::default()).get().now_or_never();
    assert_eq!(listed, Some(Err(NotRevoked::OnlyItsOwn)));
    assert_eq!(bench.ledger.told(), []);
    for asked in [Asked::Shown("theirs"), Asked::Shown("key"), own()] {
        assert!(bench.outcome(&desk, asked).is_ok());
    }
}

#[test]
fn who_asked_is_kept_in_few_words() {
    let named = |subject: &str, client: &str| {
        let name = |text: &str| (!text.is_empty()).then(|| text.into());
        let identity = Identity { subject: name(subject), client: name(client), ..Identity::vouched_by("https://i") };
        described(&Arc::new(identity))
    };
    assert_eq!(&*named("ann", "shop"), "ann of https://i");
    assert_eq!(&*named("", "shop"), "shop of https://i");
    assert_eq!(&*named(&"é".repeat(16_000), ""), format!("{} of https://i", "é".repeat(256)));
}

#[test]
fn nobody_else_may() {
    let bench = Bench::new();
    let pair = |id: &str, secret: &str| [(id.to_owned(), secret.to_owned())];
    for wrong in [pair("shop", "another"), pair("nobody", "secret"), pair("", "")] {
        assert_eq!(bench.revoker(Asker::Client(&wrong)), Err(Unpermitted::Client), "{wrong:?}");
    }
    for (credential, reason) in [
        (Credential::None, Reason::NoCredential),
        (Credential::Bearer("named"), Reason::InsufficientScope),
        (Credential::Bearer("forged"), Reason::BadSignature),
        (Credential::ApiKey("key"), Reason::InsufficientScope),
        (Credential::Unreadable, Reason::MalformedToken),
    ] {
        let refused = bench.revoker(Asker::Operator(credential, None));
        assert_eq!(refused, Err(Unpermitted::Operator(reason)), "{credential:?}");
    }
    bench.world.revoked.store(true, Ordering::Relaxed);
    let refused = bench.revoker(Asker::Operator(Credential::Bearer("operator"), None));
    assert_eq!(refused, Err(Unpermitted::Operator(Reason::Revoked)), "an operator who is revoked is none");
}

#[test]
fn what_is_not_there_is_named_with_its_field() {
    let bench = Bench::new();
    let operator = bench.operator();
    let named = |target| Asked::Named(target, Which::All);
    let kid = |issuer, kid| Asked::KeyId { issuer, kid };
    let asked = vec![
        named(Target::session("https://I", "s")),
        named(Target::issuer("https://i/")),
        kid("https://i", "a"),
        kid("https://i", "twins"),
        kid("https://i", "none"),
        kid("https://elsewhere", "a"),
        named(Target::signing_key("https://elsewhere", &[7; 32])),
        Asked::Shown("forged"),
    ];
    let Err(NotRevoked::Undecidable(Undecidable { violations })) = bench.revoke(&operator, asked) else {
        unreachable!()
    };
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "targets[0].session.issuer",
            "targets[1].issuer",
            "targets[3].signing_key.kid",
            "targets[4].signing_key.kid",
            "targets[5].signing_key.issuer",
            "targets[6].signing_key.issuer",
        ]
    );
    assert_eq!(bench.ledger.told(), []);
    let away = bench.revoke(&operator, vec![kid("https://away", "a")]);
    assert_eq!(away, Err(NotRevoked::Unknown(Reason::KeysAway)));
    let key = Target::signing_key("https://i", &[1; 32]);
    assert_eq!(bench.outcome(&operator, kid("https://i", "a")), Ok((key, Cutoff::ALWAYS)));
}

#[test]
fn a_moment_counts_by_the_clock_of_the_log_and_of_the_issuer() {
    let bench = Bench::new();
    let operator = bench.operator();
    let subject = |issuer, which| Asked::Named(Target::subject(issuer, "ann"), which);
    let issued_by = |secs| Which::IssuedBy(Micros::from_secs(secs));
    let before = |asked| bench.outcome(&operator, asked).map(|(_, cutoff)| cutoff.before.unwrap());
    assert_eq!(before(subject("https://i", Which::IssuedByNow)), Ok(NOW));
    assert_eq!(before(subject("https://i", issued_by(90_000))), Ok(Micros::from_secs(90_000)));
    assert_eq!(before(subject("https://i", issued_by(900_000))), Ok(NOW), "what lies ahead counts as now");
    assert_eq!(before(subject("https://i", Which::IssuedBy(Micros(u64::MAX)))), Ok(NOW));
    assert_eq!(before(subject("https://i", issued_by(5))), Err("over"), "the last of these tokens has ended");
    assert_eq!(before(subject("https://ahead", Which::IssuedByNow)), Ok(NOW + Micros::from_secs(5)));
    // The last second that still matters: a day and twice the leeway, and the margin, before now.
    let matters = NOW.as_secs() - DAY - 120 - MARGIN.as_secs();
    assert!(before(subject("https://i", issued_by(matters + 1))).is_ok());
    assert_eq!(before(subject("https://i", issued_by(matters))), Err("over"));
    let both = vec![subject("https://i", issued_by(5)), subject("https://ahead", Which::IssuedByNow)];
    let outcomes = bench.revoke(&operator, both).unwrap();
    assert!(matches!(outcomes.as_slice(), [TakenBack::NothingLeft, TakenBack::Written(_)]), "{outcomes:?}");
    let keys = Target::subject(api_key::ISSUER, "ann");
    let outcome = bench.outcome(&operator, Asked::Named(keys.clone(), Which::IssuedByNow));
    assert_eq!(outcome, Ok((keys, Cutoff { before: Some(NOW), until: None })), "keys of our own may live for ever");
}

#[test]
fn a_flood_from_one_caller_is_refused_and_hinders_no_other() {
    let bench = Bench::new();
    let (operator, desk) = (bench.operator(), bench.client("desk"));
    let thousand = || vec![Asked::Named(Target::session("https://i", "s"), Which::All); 1_000];
    for _ in 0..10 {
        assert!(bench.revoke(&operator, thousand()).is_ok());
    }
    bench.ledger.told();
    let wait = Micros::from_secs(1);
    assert_eq!(bench.revoke(&operator, thousand()), Err(NotRevoked::TooMany { retry_after: wait }));
    let one = NotRevoked::TooMany { retry_after: Micros::from_millis(1) };
    assert_eq!(bench.revoke(&operator, vec![Asked::Shown("forged")]), Err(one.clone()), "looking costs, too");
    let undone = bench.decider.unrevoke(&operator, MarkId([0; 16]), "").get().now_or_never();
    assert_eq!(undone, Some(Err(one)));
    assert_eq!(bench.ledger.told(), []);
    assert!(bench.revoke(&desk, thousand()).is_ok());
    bench.world.steady.store(1_000_001, Ordering::Relaxed);
    assert!(bench.revoke(&operator, thousand()).is_ok(), "who waits as told is served");

    let wanted = |count| {
        let one = Wanted {
            target: Target::session("https://i", "s"),
            which: Which::All,
            expires_at: None,
            reason: "".into(),
            by: "the provider".into(),
        };
        bench.decider.take_back(vec![one; count], Way::SecurityEvent).get().now_or_never().unwrap()
    };
    assert!(wanted(10_000).is_ok());
    assert_eq!(wanted(1), Err(NotTakenBack::TooMany { retry_after: Micros::from_millis(1) }));
}

#[test]
fn a_log_that_is_away_is_told_as_that() {
    let bench = Bench::new();
    let operator = bench.operator();
    bench.ledger.away.store(true, Ordering::Relaxed);
    let away = Away { because: AwayCause::Deadline };
    assert_eq!(bench.revoke(&operator, vec![Asked::Shown("named")]), Err(NotRevoked::Away(away)));
    assert!(bench.revoke(&operator, vec![Asked::Shown("forged")]).is_ok(), "nothing had to be written");
    let undone = bench.decider.unrevoke(&operator, MarkId([0; 16]), "").get().now_or_never();
    assert_eq!(undone, Some(Err(NotRevoked::Away(away))));
}

#[test]
fn what_is_listed_is_of_the_kind_and_issuer_and_is_undone_by_its_id() {
    let bench = Bench::new();
    let operator = bench.operator();
    let target = Target::session("https://i", "s");
    for target in [target.clone(), Target::subject("https://i", "ann"), Target::session("https://ahead", "s")] {
        bench.outcome(&operator, Asked::Named(target, Which::All)).unwrap();
    }
    let list = |kind, issuer| {
        let listed = bench.decider.revocations(&operator, Cursor(0), Filter { kind, issuer }).get();
        let Listed { entries, next } = listed.now_or_never().unwrap().unwrap();
        assert_eq!(next, Some(Cursor(7)));
        entries.len()
    };
    assert_eq!(list(None, None), 4);
    assert_eq!(list(Some(TargetKind::Session), None), 3);
    assert_eq!(list(Some(TargetKind::Session), Some("https://i")), 1);
    assert_eq!(list(Some(TargetKind::Issuer), None), 0);
    let id = MarkId::of(target.borrowed());
    let undo = || bench.decider.unrevoke(&operator, id, "").get().now_or_never().unwrap().unwrap();
    assert_eq!(undo().and_then(|gone| gone.written).map(|written| written.target), Some(target));
    assert_eq!(undo(), None);
}

/// The fields of what is noted while `act` runs, one event a line.
fn noted(act: impl FnOnce()) -> String {
    let audit = logged(act).into_iter().filter(|logged| logged.target == "tollgate::audit");
    let line = |logged: Logged| {
        let fields = logged.fields.into_iter().filter(|(name, _)| *name != "message");
        fields.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ") + "\n"
    };
    audit.map(line).collect()
}

#[test]
fn each_revocation_and_each_refusal_is_noted_with_who_and_what_and_without_a_token() {
    let bench = Bench::new();
    let operator = bench.operator();
    let shop = bench.client("shop");
    let own = |asked| {
        noted(|| {
            drop(bench.revoke(&operator, vec![asked]));
        })
    };
    let line = own(Asked::Shown("named"));
    let id = MarkId::of(Target::token("https://i", "jti-1").borrowed()).hex();
    assert_eq!(
        line,
        format!(
            "at=1970-01-02T03:46:40Z by=ann of https://i id={id} issuer=https://i kind=token name=jti-1 outcome=revoked \
             reason=why until=1970-01-03T07:35:20Z way=grpc\n"
        )
    );
    let subject = Target::subject("https://i", "ann\n2026 feigned");
    let line = own(Asked::Named(subject.clone(), Which::IssuedByNow));
    assert!(
        line.contains("issued_before=1970-01-02T03:46:40Z") && line.contains("name=ann\u{fffd}2026 feigned"),
        "{line}"
    );
    let line = own(Asked::Named(subject, Which::IssuedBy(Micros(1))));
    assert!(line.contains("outcome=nothing_left"), "{line}");
    assert_eq!(own(Asked::Shown("forged")), "by=ann of https://i outcome=not_good reason=why way=grpc\n");

    let refused = noted(|| {
        drop(bench.revoker(Asker::Operator(Credential::Bearer("named"), None)));
        drop(bench.revoker(Asker::Operator(Credential::Bearer("forged"), None)));
        drop(bench.revoker(Asker::Client(&[("shop".to_owned(), "guessed".to_owned())])));
        drop(bench.revoke(&shop, vec![Asked::Named(Target::issuer("https://i"), Which::All)]));
    });
    assert_eq!(
        refused,
        "by=ann of https://i cause=insufficient_scope outcome=refused way=grpc\n\
         by= cause=bad_signature outcome=refused way=grpc\n\
         by= cause=unknown_client outcome=refused way=grpc\n\
         by=client shop cause=insufficient_scope outcome=refused way=grpc\n"
    );
    let undone = noted(|| {
        let id = MarkId::of(Target::token("https://i", "jti-1").borrowed());
        drop(bench.decider.unrevoke(&operator, id, "a mistake").get().now_or_never());
        drop(bench.decider.unrevoke(&operator, id, "").get().now_or_never());
    });
    assert_eq!(
        undone,
        format!(
            "by=ann of https://i id={id} issuer=https://i kind=token name=jti-1 outcome=unrevoked reason=a mistake \
             until=1970-01-03T07:35:20Z way=grpc\n\
             by=ann of https://i id={id} outcome=no_such_entry reason= way=grpc\n"
        )
    );
    bench.ledger.away.store(true, Ordering::Relaxed);
    let away = own(Asked::Shown("named"));
    assert!(away.contains("cause=did not answer within its deadline") && away.contains("outcome=away"), "{away}");
    bench.ledger.away.store(false, Ordering::Relaxed);
    bench.ledger.hangs.store(true, Ordering::Relaxed);
    let undo = || drop(bench.decider.unrevoke(&operator, MarkId([0; 16]), "").get().now_or_never());
    let gone = noted(|| {
        let asked = vec![Asked::Shown("named"), Asked::Named(Target::session("https://i", "s"), Which::All)];
        assert_eq!(bench.decider.revoke(&operator, asked, "why").get().now_or_never(), None);
        undo();
    });
    let session = MarkId::of(Target::session("https://i", "s").borrowed()).hex();
    assert_eq!(
        gone,
        format!(
            "by=ann of https://i cause=abandoned entries=2 outcome=away reason=why way=grpc\n\
             by=ann of https://i id={id} issuer=https://i kind=token name=jti-1 outcome=away reason=why way=grpc\n\
             by=ann of https://i id={session} issuer=https://i kind=session name=s outcome=away reason=why way=grpc\n\
             by=ann of https://i cause=abandoned entries=1 outcome=away reason= way=grpc\n"
        ),
        "what may have been written is noted, though nobody waited for the answer"
    );
    for _ in 0..300 {
        drop(bench.revoker(Asker::Client(&[("shop".to_owned(), "guessed".to_owned())])));
    }
    let flood = noted(|| drop(bench.revoker(Asker::Client(&[("shop".to_owned(), "guessed".to_owned())]))));
    assert_eq!(flood, "", "refusals are counted all the same, but fill no disk");
    let counted = bench.decider.telemetry.render();
    let series = r#"tollgate_revocation_requests_total{way="grpc",outcome="refused"} 305"#;
    assert!(counted.contains(series), "{counted}");
}
