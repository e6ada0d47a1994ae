//! Who may: what a rule demands of its caller.

use super::decision::Reason;
use super::expression::Expression;
use super::identity::{Binding, Identity, IdentityKind};
use super::issuer::BindingDemand;
use super::name::NamePattern;
use super::policy::PathPattern;
use super::question::Question;
use super::time::Micros;

/// Who may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Anyone, with or without a credential. A credential that is not accepted counts as none.
    Anyone,
    /// Whoever is authenticated and is such a caller.
    Caller(Caller),
}

/// What a caller must have. What is left out is not demanded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// One of these issuers vouches, where any is named.
    pub issuers: Vec<String>,
    /// The credential is meant for one of these, where any is named.
    pub audiences: Vec<String>,
    /// Who may act for the caller, by `sub` (RFC 8693 §4.1); empty: nobody, none: whoever the issuer lets.
    pub actors: Option<Vec<String>>,
    /// How long ago the caller may have logged in (`auth_time`, RFC 9470).
    pub max_login_age: Option<Micros>,
    /// Which keys the credential is bound to. What it is bound to has been proved by now; a certificate that is the
    /// credential itself is bound to itself.
    pub binding: BindingDemand,
    /// The call comes with a certificate that has one of these names, where any is named: as the credential, or beside it.
    pub names: Vec<NamePattern>,
    /// One of these roles, where any is named.
    pub roles: Vec<String>,
    /// All of these scopes.
    pub scopes: Vec<String>,
    /// What must be true of the caller and the call together.
    pub when: Option<Box<Expression>>,
}

/// What a demand sees of a call besides who makes it.
#[derive(Clone, Copy, Debug)]
pub struct Call<'c> {
    /// What is asked.
    pub question: &'c Question<'c>,
    /// The pattern by which the rule matched the path, where it has one.
    pub pattern: Option<&'c PathPattern>,
    /// The moment of the decision, by the wall clock.
    pub now: Micros,
}

impl Demand {
    /// Whoever is authenticated.
    pub fn authenticated() -> Self {
        Self::Caller(Caller::default())
    }

    /// Whether `identity` (none: an anonymous caller) may do what `call` is about; quotas aside.
    pub fn admits(&self, identity: Option<&Identity>, call: Call<'_>) -> Result<(), Reason> {
        match (self, identity) {
            (Self::Anyone, _) => Ok(()),
            (Self::Caller(_), None) => Err(Reason::NoCredential),
            (Self::Caller(caller), Some(identity)) => caller.admits(identity, call),
        }
    }

    /// Whether everyone who meets this meets `measure` too.
    pub fn demands_as_much(&self, measure: &Self) -> bool {
        match (self, measure) {
            (_, Self::Anyone) => true,
            (Self::Anyone, Self::Caller(_)) => false,
            (Self::Caller(caller), Self::Caller(measure)) => caller.demands_as_much(measure),
        }
    }
}

impl Caller {
    /// First what another credential would change, then what the caller may.
    fn admits(&self, identity: &Identity, call: Call<'_>) -> Result<(), Reason> {
        // What is left out is taken apart by name, so that whatever is added is demanded.
        let Self { issuers, audiences, actors, max_login_age, binding, names, roles, scopes, when } = self;
        if !issuers.is_empty() && !issuers.iter().any(|issuer| **issuer == *identity.issuer) {
            return Err(Reason::WrongCaller);
        }
        let now = call.now;
        let certificate = call.question.proofs.certificate.as_ref();
        let certificate = certificate.filter(|certificate| certificate.standing(now).is_ok());
        if !names.is_empty() && !certificate.is_some_and(|certificate| certificate.has_name(names)) {
            return Err(Reason::WrongCaller);
        }
        if !binding.is_met_by(held(identity)) {
            return Err(Reason::BindingRequired);
        }
        if !audiences.is_empty() && !audiences.iter().any(|audience| identity.is_meant_for(audience)) {
            return Err(Reason::WrongAudience);
        }
        if max_login_age.is_some_and(|age| identity.logged_in_at.is_none_or(|at| now >= at + age)) {
            return Err(Reason::TokenTooOld);
        }
        if actors.as_ref().is_some_and(|actors| !acts_only(identity, actors)) {
            return Err(Reason::WrongCaller);
        }
        if !roles.is_empty() && !roles.iter().any(|role| identity.has_role(role)) {
            return Err(Reason::InsufficientRole);
        }
        if !scopes.iter().all(|scope| identity.has_scope(scope)) {
            return Err(Reason::InsufficientScope);
        }
        if when.as_ref().is_some_and(|condition| !condition.holds(identity, call)) {
            return Err(Reason::ConditionNotMet);
        }
        Ok(())
    }

    fn demands_as_much(&self, measure: &Self) -> bool {
        let Self { issuers, audiences, actors, max_login_age, binding, names, roles, scopes, when } = measure;
        one_of(&self.issuers, issuers)
            && one_of(&self.audiences, audiences)
            && self.binding.demands_as_much(*binding)
            && one_of(&self.names, names)
            && one_of(&self.roles, roles)
            && scopes.iter().all(|scope| self.scopes.contains(scope))
            && max_login_age.is_none_or(|age| self.max_login_age.is_some_and(|own| own <= age))
            && actors.as_ref().is_none_or(|actors| {
                self.actors.as_ref().is_some_and(|own| own.iter().all(|actor| actors.contains(actor)))
            })
            && when.as_ref().is_none_or(|when| self.when.as_ref().is_some_and(|own| own.demands_as_much(when)))
    }
}

/// What the credential is bound to. Which certificate it is that is the credential does not matter here.
fn held(identity: &Identity) -> Binding {
    match identity.kind {
        IdentityKind::Certificate => Binding { certificate: Some([0; 32]), key: None },
        IdentityKind::Jwt | IdentityKind::Opaque | IdentityKind::ApiKey => identity.binding(),
    }
}

/// Whether whoever is one of `own` is one of `measure`; where none is named, anyone is.
fn one_of<T: PartialEq>(own: &[T], measure: &[T]) -> bool {
    measure.is_empty() || (!own.is_empty() && own.iter().all(|one| measure.contains(one)))
}

/// Whether nobody acts for the caller, or one of `actors` does. Only the current actor counts: those before are told
/// for information (RFC 8693 §4.1). One that another issuer knows is somebody else, whatever its `sub`.
fn acts_only(identity: &Identity, actors: &[String]) -> bool {
    identity.actors.first().is_none_or(|current| {
        let subject = current.subject.as_deref().filter(|_| current.issuer.is_none());
        subject.is_some_and(|subject| actors.iter().any(|actor| actor == subject))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::domain::certificate::{Certificate, Validity};
    use crate::domain::identity::Actor;
    use crate::domain::path::{Method, Target};
    use crate::domain::question::Proofs;

    fn names(patterns: &[&str]) -> Vec<NamePattern> {
        patterns.iter().filter_map(|pattern| NamePattern::parse(pattern).ok()).collect()
    }

    fn expression(text: &str) -> Expression {
        Expression::compile(text, &["id"]).unwrap()
    }

    const NOW: Micros = Micros::from_secs(1_000);

    fn identity() -> Identity {
        Identity {
            audiences: Box::new(["orders".into(), "invoices".into()]),
            roles: Box::new(["USER".into()]),
            scopes: Box::new(["read".into()]),
            ..Identity::vouched_by("https://a.example")
        }
    }

    fn acted_by(actors: &[Actor]) -> Identity {
        Identity { actors: actors.into(), ..identity() }
    }

    fn actor(subject: &str) -> Actor {
        Actor { issuer: None, subject: Some(subject.into()), client: None }
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// A call by the holder of this certificate's key.
    fn question(certificate: Option<Certificate<'_>>) -> Question<'_> {
        Question {
            proofs: Proofs { certificate, ..Proofs::default() },
            ..Question::of(Method::parse("GET").unwrap(), Target::Authority)
        }
    }

    fn admits(
        demand: &Demand,
        identity: Option<&Identity>,
        question: &Question<'_>,
        now: Micros,
    ) -> Result<(), Reason> {
        demand.admits(identity, Call { question, pattern: None, now })
    }

    fn reason(caller: Caller, identity: &Identity) -> Reason {
        admits(&Demand::Caller(caller), Some(identity), &question(None), NOW).err().unwrap_or(Reason::Allowed)
    }

    #[test]
    fn whoever_is_not_anyone_must_be_somebody() {
        let of = |demand: Demand, identity: Option<&Identity>| admits(&demand, identity, &question(None), NOW);
        assert_eq!(of(Demand::Anyone, None), Ok(()));
        assert_eq!(of(Demand::authenticated(), None), Err(Reason::NoCredential));
        assert_eq!(of(Demand::authenticated(), Some(&identity())), Ok(()));
    }

    #[test]
    fn a_rule_takes_the_tokens_of_the_issuers_that_it_names() {
        let of = |issuers: &[&str]| reason(Caller { issuers: list(issuers), ..Caller::default() }, &identity());
        assert_eq!(of(&["https://b.example", "https://a.example"]), Reason::Allowed);
        for other in ["https://b.example", "https://a.example/", "https://A.example", "https://a.exampl"] {
            assert_eq!(of(&[other]), Reason::WrongCaller, "{other}");
        }
    }

    #[test]
    fn a_rule_takes_tokens_that_are_meant_for_one_of_its_audiences() {
        let of = |audiences: &[&str]| reason(Caller { audiences: list(audiences), ..Caller::default() }, &identity());
        assert_eq!(of(&["invoices"]), Reason::Allowed);
        assert_eq!(of(&["other", "orders"]), Reason::Allowed);
        for other in ["other", "order", "Orders", "orders-admin", ""] {
            assert_eq!(of(&[other]), Reason::WrongAudience, "{other}");
        }
    }

    #[test]
    fn who_may_act_for_the_caller_is_the_rules_to_say() {
        let of = |actors: Option<&[&str]>, identity: &Identity| {
            reason(Caller { actors: actors.map(list), ..Caller::default() }, identity)
        };
        let foreign = Actor { issuer: Some("https://b.example".into()), ..actor("gateway") };
        let nameless = Actor { issuer: None, subject: None, client: Some("gateway".into()) };
        assert_eq!(of(None, &acted_by(&[actor("anybody")])), Reason::Allowed);
        assert_eq!(of(Some(&[]), &identity()), Reason::Allowed, "nobody acts");
        assert_eq!(of(Some(&["gateway"]), &identity()), Reason::Allowed);
        assert_eq!(of(Some(&[]), &acted_by(&[actor("gateway")])), Reason::WrongCaller);
        assert_eq!(of(Some(&["other", "gateway"]), &acted_by(&[actor("gateway")])), Reason::Allowed);
        assert_eq!(of(Some(&["gateway"]), &acted_by(&[actor("stranger")])), Reason::WrongCaller);
        assert_eq!(of(Some(&["gateway"]), &acted_by(&[foreign])), Reason::WrongCaller, "of another issuer");
        assert_eq!(of(Some(&["gateway"]), &acted_by(&[nameless])), Reason::WrongCaller);
        // Who acted before is told for information.
        assert_eq!(of(Some(&["gateway"]), &acted_by(&[actor("gateway"), actor("before")])), Reason::Allowed);
        assert_eq!(of(Some(&["before"]), &acted_by(&[actor("gateway"), actor("before")])), Reason::WrongCaller);
    }

    #[test]
    fn a_login_may_be_no_older_than_the_rule_says() {
        let of = |logged_in_at: Option<u64>| {
            let logged_in_at = logged_in_at.map(Micros::from_secs);
            let caller = Caller { max_login_age: Some(Micros::from_secs(300)), ..Caller::default() };
            reason(caller, &Identity { logged_in_at, ..identity() })
        };
        assert_eq!(of(Some(1_000)), Reason::Allowed);
        assert_eq!(of(Some(701)), Reason::Allowed);
        assert_eq!(of(Some(700)), Reason::TokenTooOld);
        assert_eq!(of(None), Reason::TokenTooOld, "nobody says when");
    }

    #[test]
    fn one_role_and_every_scope_is_needed() {
        let of = |roles: &[&str], scopes: &[&str]| {
            reason(Caller { roles: list(roles), scopes: list(scopes), ..Caller::default() }, &identity())
        };
        assert_eq!(of(&["ADMIN", "USER"], &["read"]), Reason::Allowed);
        assert_eq!(of(&["ADMIN"], &["read"]), Reason::InsufficientRole);
        assert_eq!(of(&["USER"], &["read", "write"]), Reason::InsufficientScope);
    }

    #[test]
    fn the_rules_expression_must_be_true_of_the_caller_and_the_call() {
        let caller = Caller {
            roles: list(&["USER"]),
            when: Some(Box::new(expression("resource.owner == identity.subject"))),
            ..Caller::default()
        };
        let alice = Identity { subject: Some("alice".into()), ..identity() };
        let of = |owner: Option<&'static str>, identity: &Identity| {
            let resource = owner.map(|owner| ("owner", owner)).into_iter().collect();
            let question = Question { resource, ..question(None) };
            admits(&Demand::Caller(caller.clone()), Some(identity), &question, NOW)
        };
        assert_eq!(of(Some("alice"), &alice), Ok(()));
        assert_eq!(of(Some("bob"), &alice), Err(Reason::ConditionNotMet));
        assert_eq!(of(None, &alice), Err(Reason::ConditionNotMet), "nobody says whose it is");
        assert_eq!(of(Some("alice"), &identity()), Err(Reason::ConditionNotMet), "nobody says who calls");
        // What the caller lacks by itself is said first.
        let stranger = Identity { roles: Box::default(), ..alice };
        assert_eq!(of(Some("bob"), &stranger), Err(Reason::InsufficientRole));
    }

    #[test]
    fn a_certificate_with_one_of_the_names_is_needed_beside_the_credential() {
        let caller = Caller { names: names(&["spiffe://td/ns/prod/**", "*.example.com"]), ..Caller::default() };
        let at = |certificate: Option<&Certificate<'_>>, now: Micros| {
            admits(&Demand::Caller(caller.clone()), Some(&identity()), &question(certificate.cloned()), now)
        };
        let with = |certificate: Option<&Certificate<'_>>| at(certificate, NOW);
        let named = |name: &'static str| Certificate { names: vec![name.into()], ..Certificate::default() };
        assert_eq!(with(Some(&named("spiffe://td/ns/prod/web"))), Ok(()));
        assert_eq!(with(Some(&named("a.example.com"))), Ok(()));
        assert_eq!(with(Some(&named("spiffe://td/ns/dev/web"))), Err(Reason::WrongCaller));
        assert_eq!(with(None), Err(Reason::WrongCaller));
        let validity = Some(Validity { not_before: Micros::ZERO, not_after: NOW });
        let ended = Certificate { validity, ..named("a.example.com") };
        let later = at(Some(&ended), NOW + NOW);
        assert_eq!((with(Some(&ended)), later), (Ok(()), Err(Reason::WrongCaller)));
    }

    #[test]
    fn a_bound_credential_is_needed_where_the_rule_says_so() {
        let of = |binding, identity: &Identity| reason(Caller { binding, ..Caller::default() }, identity);
        let bound = |certificate: Option<u8>, key: Option<u8>| Identity {
            binding: Some(Box::new(Binding {
                certificate: certificate.map(|byte| [byte; 32]),
                key: key.map(|byte| [byte; 32]),
            })),
            ..identity()
        };
        let of_kind = |kind| Identity { kind, ..identity() };
        for (identity, any, certificate, dpop) in [
            (identity(), false, false, false),
            (of_kind(IdentityKind::Opaque), false, false, false),
            (of_kind(IdentityKind::ApiKey), false, false, false),
            (of_kind(IdentityKind::Certificate), true, true, false),
            (bound(Some(1), None), true, true, false),
            (bound(None, Some(1)), true, false, true),
            (bound(Some(1), Some(1)), true, true, true),
        ] {
            assert_eq!(of(BindingDemand::Nothing, &identity), Reason::Allowed);
            for (demand, is_met) in
                [(BindingDemand::AnyKey, any), (BindingDemand::Certificate, certificate), (BindingDemand::Dpop, dpop)]
            {
                let expected = if is_met { Reason::Allowed } else { Reason::BindingRequired };
                assert_eq!(of(demand, &identity), expected, "{demand:?} {identity:?}");
            }
        }
        let certificate = Caller { binding: BindingDemand::Certificate, ..Caller::default() };
        let dpop = Caller { binding: BindingDemand::Dpop, ..Caller::default() };
        assert!(!certificate.demands_as_much(&dpop) && !dpop.demands_as_much(&certificate));
    }

    #[test]
    fn a_demand_is_measured_by_who_meets_it() {
        let base = Caller {
            issuers: list(&["a"]),
            audiences: list(&["o"]),
            actors: Some(Vec::new()),
            max_login_age: Some(NOW),
            binding: BindingDemand::Dpop,
            names: names(&["*.example.com"]),
            roles: list(&["R"]),
            scopes: list(&["s"]),
            when: Some(Box::new(expression("identity.subject == resource.owner"))),
        };
        let as_much = |own: Caller, measure: Caller| Demand::Caller(own).demands_as_much(&Demand::Caller(measure));
        assert!(as_much(base.clone(), base.clone()));
        assert!(as_much(base.clone(), Caller::default()));
        assert!(!Demand::Anyone.demands_as_much(&Demand::authenticated()));
        assert!(Demand::authenticated().demands_as_much(&Demand::Anyone));
        let weaker = [
            Caller { issuers: Vec::new(), ..base.clone() },
            Caller { audiences: list(&["o", "p"]), ..base.clone() },
            Caller { actors: Some(list(&["x"])), ..base.clone() },
            Caller { actors: None, ..base.clone() },
            Caller { max_login_age: Some(NOW + NOW), ..base.clone() },
            Caller { binding: BindingDemand::AnyKey, ..base.clone() },
            Caller { binding: BindingDemand::Nothing, ..base.clone() },
            Caller { names: Vec::new(), ..base.clone() },
            Caller { roles: list(&["R", "S"]), ..base.clone() },
            Caller { scopes: Vec::new(), ..base.clone() },
            Caller { when: None, ..base.clone() },
        ];
        for weaker in weaker {
            assert!(!as_much(weaker.clone(), base.clone()), "{weaker:?}");
            assert!(as_much(base.clone(), weaker), "and the other way about");
        }
        // Of two expressions that differ nobody says which demands more.
        let other = Caller { when: Some(Box::new(expression("identity.subject == resource.reader"))), ..base.clone() };
        assert!(!as_much(other.clone(), base.clone()) && !as_much(base.clone(), other));
        // Two paths may have a segment of that name in two places.
        let segment = Caller { when: Some(Box::new(expression("identity.subject == path.id"))), ..base };
        assert!(!as_much(segment.clone(), segment));
    }
}
