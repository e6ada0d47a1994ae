//! What entries hit and for how long, and what targets are known by.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[expect(clippy::unnecessary_wraps, reason = "as cutoffs have it")]
fn secs(secs: u64) -> Option<Micros> {
    Some(Micros::from_secs(secs))
}

#[test]
fn a_token_of_the_very_second_is_hit_and_one_of_the_next_is_not() {
    let cutoff = Cutoff { before: Some(Micros(100_999_999)), until: None };
    for (issued_at, hit) in [(secs(0), true), (secs(100), true), (Some(Micros(100_999_999)), true)] {
        assert_eq!(cutoff.hits(issued_at), hit, "{issued_at:?}");
    }
    assert!(!cutoff.hits(secs(101)));
    assert!(cutoff.hits(None), "nobody knows when it was issued");
    assert!(Cutoff::ALWAYS.hits(secs(u64::MAX)));
}

#[test]
fn joined_cutoffs_hit_what_either_hits_for_as_long_as_either_is_needed() {
    let cutoff = |before, until| Cutoff { before, until };
    assert_eq!(cutoff(secs(5), secs(50)).joined(cutoff(secs(7), secs(20))), cutoff(secs(7), secs(50)));
    assert_eq!(cutoff(None, secs(50)).joined(cutoff(secs(7), None)), Cutoff::ALWAYS);
}

#[test]
fn a_wish_is_written_by_the_clock_of_the_log() {
    let wish = |which, keep| Wish {
        target: Target::issuer("i"),
        which,
        ahead: Micros::ZERO,
        keep,
        reason: "".into(),
        by: "".into(),
    };
    let now = Micros::from_secs(1_000);
    let written = |which, keep| wish(which, keep).written_at(now).cutoff;
    let for_10 = Keep::For(Micros::from_secs(10));
    for (which, keep, before, until) in [
        (Which::All, Keep::Always, None, None),
        (Which::All, for_10, None, secs(1_010)),
        (Which::All, Keep::Until(Micros::from_secs(5)), None, secs(5)),
        (Which::All, Keep::Until(Micros(u64::MAX)), None, Some(LAST_MOMENT)),
        (Which::All, Keep::For(Micros(u64::MAX)), None, Some(LAST_MOMENT)),
        (Which::IssuedByNow, for_10, secs(1_000), secs(1_010)),
        (Which::IssuedBy(Micros::from_secs(900)), for_10, secs(900), secs(910)),
        (Which::IssuedBy(Micros(u64::MAX)), for_10, secs(1_000), secs(1_010)),
    ] {
        assert_eq!(written(which, keep), Cutoff { before, until }, "{which:?} {keep:?}");
    }
    assert_eq!(wish(Which::All, Keep::Always).written_at(now).at, now);

    // The issuer's clock may be ahead by 5 s.
    let ahead = |which| Wish { ahead: Micros::from_secs(5), ..wish(which, for_10) }.written_at(now).cutoff;
    for (which, before, until) in [
        (Which::All, None, secs(1_010)),
        (Which::IssuedByNow, secs(1_005), secs(1_015)),
        (Which::IssuedBy(Micros::from_secs(900)), secs(905), secs(915)),
        (Which::IssuedBy(Micros(u64::MAX)), secs(1_005), secs(1_015)),
    ] {
        assert_eq!(ahead(which), Cutoff { before, until }, "{which:?}");
    }
}

#[test]
fn every_kind_has_a_letter_and_a_name_of_its_own() {
    for kind in TargetKind::ALL {
        assert_eq!(TargetKind::from_letter(kind.letter()), Some(kind));
        assert_eq!(TargetKind::from_name(kind.name()), Some(kind));
        assert_eq!(TargetKind::ALL[kind.index()], kind);
    }
}

#[test]
fn a_mark_is_the_same_in_every_version() {
    let mark = Mark::of(Target::session("https://auth.example", "s-1").borrowed());
    assert_eq!((mark.id.hex().as_str(), mark.tag), ("5dc04936d4765211ca695fd663dd19e8", 1_724_302_480_086_080_795));
}

#[test]
fn parts_of_targets_do_not_run_into_one_another() {
    let targets = [
        Target::session("ab", "c"),
        Target::session("a", "bc"),
        Target::session("abc", ""),
        Target::subject("ab", "c"),
        Target::token("ab", "c"),
        Target::issuer("abc"),
        Target::issuer("ab"),
    ];
    let marks: BTreeSet<_> = targets.iter().map(|target| MarkId::of(target.borrowed())).collect();
    assert_eq!(marks.len(), targets.len());
    let tags: BTreeSet<_> = targets.iter().map(|target| tag(target.borrowed())).collect();
    assert_eq!(tags.len(), targets.len());
    assert_ne!(unnamed("ab", "c"), unnamed("a", "bc"));
}

#[test]
fn both_spellings_of_a_signature_are_one_token() {
    assert_eq!(unnamed("i", "h.p.signature"), unnamed("i", "h.p.twin"));
    for (one, other) in
        [("h.p.s", "h.q.s"), ("h.p.s", "h.p"), ("opaque", "opaquf"), ("a.b.c.d", "a.b.c.e"), ("a.b", "a.c")]
    {
        assert_ne!(unnamed("i", one), unnamed("i", other), "{one} {other}");
    }
}

#[test]
fn an_identity_is_hit_by_what_names_it_and_by_nothing_else() {
    let identity = Identity {
        subject: Some("ann".into()),
        client: Some("shop".into()),
        session: Some("s".into()),
        token_id: Some("t".into()),
        signed_by: Some([7; 32].into()),
        ..Identity::vouched_by("i")
    };
    let targets = |identity: &Identity| {
        let found = TargetKind::ALL.into_iter().filter_map(|kind| target_of(identity, kind));
        found.map(|TargetRef { kind, issuer, name }| Target::new(kind, issuer, name)).collect::<Vec<_>>()
    };
    let subject = Target::subject("i", "ann");
    let others = [Target::session("i", "s"), subject, Target::client("i", "shop"), Target::issuer("i")];
    let mut expected = vec![Target::token("i", "t")];
    expected.extend(others.clone());
    expected.push(Target::signing_key("i", &[7; 32]));
    assert_eq!(targets(&identity), expected);

    let unnamed = Identity { token_id: None, token_hash: Some([8; 32].into()), signed_by: None, ..identity.clone() };
    let mut expected = vec![Target::unnamed_token("i", &[8; 32])];
    expected.extend(others);
    assert_eq!(targets(&unnamed), expected);

    let key = Identity { kind: IdentityKind::ApiKey, token_id: Some("0123".into()), ..Identity::vouched_by("keys") };
    assert_eq!(targets(&key), [Target::issuer("keys"), Target::new(TargetKind::ApiKey, "", b"0123")]);
}

#[test]
fn tags_are_those_of_the_very_identity() {
    let ann = Arc::new(Identity { subject: Some("ann".into()), ..Identity::vouched_by("i") });
    let [subject, issuer] = [Target::subject("i", "ann"), Target::issuer("i")].map(|target| tag(target.borrowed()));
    assert_eq!(*Tags::of(&ann), [Tags::NONE, Tags::NONE, subject, Tags::NONE, issuer, Tags::NONE]);
    let bob = Arc::new(Identity { subject: Some("bob".into()), ..Identity::clone(&ann) });
    assert_eq!(Tags::of(&bob)[2], tag(Target::subject("i", "bob").borrowed()), "a copy begins without");
}

#[test]
fn every_kind_has_a_facet_in_which_it_is_never_beside_another() {
    let mut kinds: Vec<_> = FACETS.concat();
    kinds.sort();
    assert_eq!(kinds, TargetKind::ALL);
    for kind in [IdentityKind::Jwt, IdentityKind::Opaque, IdentityKind::ApiKey, IdentityKind::Certificate] {
        let all = Identity {
            kind,
            subject: Some("p".into()),
            client: Some("c".into()),
            session: Some("s".into()),
            token_id: Some("t".into()),
            token_hash: Some([8; 32].into()),
            signed_by: Some([7; 32].into()),
            ..Identity::vouched_by("i")
        };
        for identity in [Identity { token_id: None, ..all.clone() }, all] {
            for facet in FACETS {
                let targets = facet.iter().filter(|kind| target_of(&identity, **kind).is_some());
                assert!(targets.count() <= 1, "{facet:?} of {identity:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn ids_are_read_as_they_are_written(bytes: [u8; 16]) {
        let id = MarkId(bytes);
        prop_assert_eq!(MarkId::from_hex(&id.hex()), Some(id));
    }

    #[test]
    fn any_text_is_an_id_or_none(text in ".{0,40}|[0-9a-fA-F]{32}") {
        if let Some(id) = MarkId::from_hex(&text) {
            prop_assert_eq!(id.hex(), text);
        }
    }

    #[test]
    fn no_token_of_before_outlives_its_entry(
        at in 0_u64..4_000_000_000, ahead in 0_u64..60, lived in 0_u64..=86_400,
    ) {
        // A token that was issued at the moment, by a clock that is ahead, and lives as long as any may.
        let lifetimes = Lifetimes {
            longest: Micros::from_secs(86_400),
            leeway: Micros::from_secs(60),
            clock_ahead: Micros::ZERO,
        };
        let expires_at = Micros::from_secs(at + ahead + lived);
        prop_assert!(Micros::from_secs(at) + lifetimes.after_issuing() >= lifetimes.end_of(expires_at));
    }
}
