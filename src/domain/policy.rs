//! Rules: which demands and limits a request meets. The first rule that matches decides; none: deny.

mod rules;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::iter;
use std::sync::Arc;

use super::client::Client;
pub use super::demand::{Caller, Demand};
use super::gateway::Gateways;
use super::guard::{Guard, preflight};
use super::identity::Identity;
use super::identity_headers::{IdentityHeader, RESERVATION, is_taken_for};
use super::limit::{Attribute, CounterKey, Limit, Occasion};
use super::name::NamePattern;
use super::path::{Host, Leniency, Method, Path, ROOT, Unclear};
pub use super::pattern::{HostPattern, PathPattern, ValuePattern};
use super::question::{Header, Pairs, Question};
use super::ratelimit::RateLimits;
use super::revocation::Lifetimes;

pub use self::rules::Rules;

/// Everything that decisions are made by. Replaced whole on reload, never changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Counts reloads, from 1.
    pub version: u64,
    /// In the order of the configuration: the first match decides.
    pub rules: Rules,
    /// How paths are read, beyond what rules say.
    pub paths: Paths,
    /// Every configured limit, sorted by name.
    pub limits: Vec<Arc<Limit>>,
    /// Who may operate by certificate.
    pub operators: Operators,
    /// Who may ask about tokens with a name and a secret; each name once.
    pub clients: Vec<Client>,
    /// Headers that tell services who calls; each name once.
    pub identity_headers: Vec<IdentityHeader>,
    /// How far gateways are trusted.
    pub gateways: Gateways,
    /// Limits by descriptors.
    pub rate_limits: RateLimits,
    /// How long the tokens of each issuer live.
    pub lifetimes: BTreeMap<Box<str>, Lifetimes>,
}

/// How paths are read, beyond what rules say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// `normalization: trust_gateway`: the gateway has read every path before, and what it left is data: empty segments,
    /// `%2F`, `\`, `%25`. Else a path with one of these is refused.
    pub trusts_gateway: bool,
    /// On these hosts, letters of ASCII in paths are the same in either case.
    pub case_insensitive_hosts: Vec<HostPattern>,
}

/// Who may call administrative methods by the certificate of their connection; others need a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operators {
    /// Those with one of these names; empty: nobody.
    pub names: Vec<NamePattern>,
    /// The administrative scopes that they have.
    pub scopes: Vec<String>,
}

/// The most limits that a rule may name, early ones included: a call to the store is for so many, and a question's own, at
/// most.
pub const LIMITS_MAX: usize = 16;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name in answers, logs and metrics; unique.
    pub name: String,
    /// Which requests it is for.
    pub matches: Match,
    /// How the servers behind read paths that others read differently.
    pub leniency: Leniency,
    /// What is demanded of the call itself; none: nothing.
    pub guard: Option<Box<Guard>>,
    /// The limits that are consumed before anybody knows who calls; none: there are none, and nobody looks for them.
    pub early: Option<Box<EarlyLimits>>,
    /// Who may.
    pub demand: Demand,
    /// The limits that an allowed call consumes, in order, each once; at most [`LIMITS_MAX`].
    pub limits: Vec<Arc<Limit>>,
}

/// Limits of a rule that are consumed before anybody knows who calls. Never without any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EarlyLimits {
    /// By every call, before its credential is looked at; in order, each once.
    pub before_auth: Vec<Arc<Limit>>,
    /// By calls whose credential is not accepted; in order, each once.
    pub on_failure: Vec<Arc<Limit>>,
}

/// Which requests a rule is for. Every part that is there must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Methods, upper-case; empty: any. `GET` covers `HEAD`.
    pub methods: Vec<String>,
    /// The host; none: any.
    pub host: Option<HostPattern>,
    /// The path; none: any target, `*` and `CONNECT`'s included.
    pub path: Option<PathPattern>,
    /// Headers and attributes; none: any.
    pub attributes: Option<Box<Attributes>>,
}

/// What a call must have beside method, host and path. Never without any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Its headers, by name in lower case. Several of one name are one value, joined by commas.
    pub headers: Vec<(String, ValuePattern)>,
    /// Attributes of the thing that is accessed, by name.
    pub resource: Vec<(String, ValuePattern)>,
}

/// What a question meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// No rule.
    Nothing,
    /// This rule, as an index into [`Policy::rules`].
    Rule(usize),
    /// It is about a CORS preflight, and the call that it asks for meets this rule, which names its origin: it goes on
    /// without a credential, and costs nothing.
    Preflight(usize),
}

/// Why no rule can be chosen for a question although each of its parts is well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatchable<'p> {
    /// Servers read its path differently, and the first rule that one of the readings leads to does not say which one is
    /// meant; or none leads to a rule.
    Path(Unclear),
    /// A rule looks at this header, which is no text: what it says to others, nobody knows.
    Header {
        /// The header's name.
        name: &'p str,
        /// The rule's.
        rule: &'p str,
    },
}

/// Why a question cannot be decided although each of its parts is well formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unkeyed<'a> {
    /// The caller's token lacks the claim that the limit counts by.
    Claim(&'a Attribute),
    /// The question lacks the attribute that the limit counts by.
    Attribute(&'a Attribute),
}

impl Policy {
    /// The names of the headers that tell the service behind a gateway, and that no caller is to write.
    pub fn reserved_headers(&self) -> impl Iterator<Item = &str> {
        self.identity_headers.iter().map(|header| &*header.name).chain([RESERVATION])
    }

    /// Whether some services would take the header `name`, in lower case, for one of those: a caller wrote it.
    pub fn is_taken_for_reserved(&self, name: &str) -> bool {
        self.reserved_headers().any(|reserved| is_taken_for(name, reserved))
    }

    /// What the question meets.
    ///
    /// A CORS preflight is a call like any other with the method `OPTIONS`, with one exception: where the call that it asks
    /// for would meet a rule that names its origin, and no rule before that one is for the preflight itself, it goes on by
    /// that rule.
    ///
    /// # Errors
    /// It cannot be said which rule it meets.
    pub fn find<'p>(&'p self, question: &Question<'_>) -> Result<Met, Unmatchable<'p>> {
        if let Some((method, origin)) = preflight(question)
            && let Ok(Some(asked)) = self.first(self.rules.len(), method, question)
            && self.rules[asked].guard.as_ref().is_some_and(|guard| guard.names_origin(origin))
            && self.first(asked, question.method, question)?.is_none()
        {
            return Ok(Met::Preflight(asked));
        }
        match self.first(self.rules.len(), question.method, question)? {
            Some(rule) => Ok(Met::Rule(rule)),
            None => match question.target.path().and_then(Path::doubt) {
                // That no rule is for it is not sure either.
                Some(doubt) if !doubt.is_settled_by(Leniency::default(), self.paths.trusts_gateway) => {
                    Err(Unmatchable::Path(doubt.why()))
                }
                Some(_) | None => Ok(Met::Nothing),
            },
        }
    }

    /// The first of the rules before `end` that a call with this method and everything else that `question` says meets.
    fn first<'p>(
        &'p self,
        end: usize,
        method: Method<'_>,
        question: &Question<'_>,
    ) -> Result<Option<usize>, Unmatchable<'p>> {
        let host = question.host.as_ref();
        let folds = self.paths.fold(host);
        let path = question.target.path();
        let Some((path, doubt)) = path.and_then(|path| Some((path, path.doubt()?))) else {
            let covers =
                |pattern: &PathPattern| path.is_some_and(|path| pattern.covers_segments(path.segments(), folds));
            let segments = path.unwrap_or(&ROOT).segments();
            return self
                .rules
                .first(end, question, iter::once(segments), |rule| rule.matches.covers_by(method, host, covers));
        };
        let trusts_gateway = self.paths.trusts_gateway;
        let readings = path.readings(trusts_gateway);
        let read = |pattern: &PathPattern, segments: &[&str]| pattern.covers_segments(segments.iter().copied(), folds);
        let in_any = |pattern: &PathPattern| readings.iter().any(|segments| read(pattern, segments));
        let segments = readings.iter().map(|segments| segments.iter().copied());
        let found = self.rules.first(end, question, segments, |rule| rule.matches.covers_by(method, host, in_any))?;
        let Some(rule) = found.and_then(|index| self.rules.get(index)) else { return Ok(None) };
        let in_its_own = |pattern: &PathPattern| read(pattern, &readings[0]);
        let is_meant =
            doubt.is_settled_by(rule.leniency, trusts_gateway) && rule.matches.covers_by(method, host, in_its_own);
        if is_meant { Ok(found) } else { Err(Unmatchable::Path(doubt.why())) }
    }

    /// The limit of that name.
    pub fn limit(&self, name: &str) -> Option<&Arc<Limit>> {
        let index = self.limits.binary_search_by(|limit| limit.name.as_str().cmp(name)).ok()?;
        self.limits.get(index)
    }
}

impl Paths {
    /// Whether the case of letters does not matter in paths on `host`.
    fn fold(&self, host: Option<&Host<'_>>) -> bool {
        !self.case_insensitive_hosts.is_empty()
            && host.is_some_and(|host| self.case_insensitive_hosts.iter().any(|pattern| pattern.covers(host)))
    }

    /// What a counter is selected by that counts `text`, which is of a path on `host`: one text for all spellings.
    fn key<'t>(&self, text: Cow<'t, str>, host: Option<&Host<'_>>) -> Cow<'t, str> {
        if self.fold(host) { Cow::Owned(text.to_ascii_lowercase()) } else { text }
    }
}

impl EarlyLimits {
    /// Takes the limits that a rule names apart: those that are consumed last, and the early ones.
    pub fn apart(named: impl IntoIterator<Item = Arc<Limit>>) -> (Vec<Arc<Limit>>, Option<Box<Self>>) {
        let (mut last, mut early) = (Vec::new(), Self::default());
        for limit in named {
            match limit.charge {
                Occasion::AfterAuth => last.push(limit),
                Occasion::BeforeAuth => early.before_auth.push(limit),
                Occasion::OnFailure => early.on_failure.push(limit),
            }
        }
        (last, (early != Self::default()).then(|| Box::new(early)))
    }
}

impl Rule {
    /// Every limit that its calls may consume.
    pub fn every_limit(&self) -> impl Iterator<Item = &Arc<Limit>> {
        let early = self.early.iter().flat_map(|early| early.before_auth.iter().chain(&early.on_failure));
        early.chain(&self.limits)
    }

    /// Whether the call has the headers and attributes that the rule is for.
    fn suits(&self, question: &Question<'_>) -> Result<bool, Unmatchable<'_>> {
        let Some(attributes) = &self.matches.attributes else { return Ok(true) };
        attributes.cover(question).map_err(|name| Unmatchable::Header { name, rule: &self.name })
    }

    /// Whether every call that this lets go on `measure` lets go on, too, quotas aside.
    pub fn demands_as_much(&self, measure: &Self) -> bool {
        let nothing = Guard::default();
        let own = self.guard.as_deref().unwrap_or(&nothing);
        own.demands_as_much(measure.guard.as_deref().unwrap_or(&nothing))
            && self.demand.demands_as_much(&measure.demand)
    }

    /// Which counter of `limit` the question falls on under this rule, where paths are read so.
    pub fn counter<'l>(
        &self,
        limit: &'l Limit,
        question: &Question<'_>,
        identity: Option<&Identity>,
        paths: &Paths,
    ) -> Result<CounterKey, Unkeyed<'l>> {
        let mut key = CounterKey::new(&limit.name);
        for attribute in &limit.by {
            let of_identity = |value: fn(&Identity) -> Option<&str>| {
                let identity = identity.ok_or(Unkeyed::Claim(attribute))?;
                let value = value(identity).filter(|value| !value.is_empty()).ok_or(Unkeyed::Claim(attribute))?;
                Ok((&*identity.issuer, value))
            };
            let missing = Unkeyed::Attribute(attribute);
            match attribute {
                Attribute::Issuer => key.push(of_identity(|identity| Some(&identity.issuer))?.1),
                Attribute::Subject => key.push_under(of_identity(|identity| identity.subject.as_deref())?),
                Attribute::Client => key.push_under(of_identity(|identity| identity.client.as_deref())?),
                Attribute::Session => key.push_under(of_identity(|identity| identity.session.as_deref())?),
                Attribute::SourceAddress => key.push_display(question.source.ok_or(missing)?),
                Attribute::Method => key.push(question.method.as_str()),
                Attribute::Host => key.push(question.host.as_ref().ok_or(missing)?.as_str()),
                Attribute::Path => {
                    let path = question.target.path().ok_or(missing)?.as_str();
                    key.push(&paths.key(path.into(), question.host.as_ref()));
                }
                Attribute::PathParameter(name) => {
                    let pattern = self.matches.path.as_ref().ok_or(missing)?;
                    let path = question.target.path().ok_or(missing)?;
                    let segment = pattern.parameter(name, path).ok_or(missing)?;
                    key.push(&paths.key(segment, question.host.as_ref()));
                }
                Attribute::Resource(name) => key.push(value_of(&question.resource, name).ok_or(missing)?),
                Attribute::Rule => key.push(&self.name),
            }
        }
        Ok(key)
    }
}

/// The value of `name` among `pairs`.
fn value_of<'a>(pairs: &Pairs<'a>, name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
}

impl Match {
    /// Whether a request is one of those that the rule is for, as far as method, host and path say; `path` says it of the
    /// path.
    #[inline]
    fn covers_by(&self, method: Method<'_>, host: Option<&Host<'_>>, path: impl FnOnce(&PathPattern) -> bool) -> bool {
        let method = method.as_str();
        let covers_method = self.methods.is_empty()
            || self.methods.iter().any(|named| named == method || (named == "GET" && method == "HEAD"));
        covers_method
            && self.host.as_ref().is_none_or(|pattern| host.is_some_and(|host| pattern.covers(host)))
            && self.path.as_ref().is_none_or(path)
    }

    /// Whether it covers every request that `other` covers.
    pub fn includes(&self, other: &Self) -> bool {
        let covers_method = |method: &String| {
            self.methods.contains(method) || (method == "HEAD" && self.methods.contains(&"GET".into()))
        };
        let methods = self.methods.is_empty() || (!other.methods.is_empty() && other.methods.iter().all(covers_method));
        let host = |pattern: &HostPattern| other.host.as_ref().is_some_and(|other| pattern.includes(other));
        let path = |pattern: &PathPattern| other.path.as_ref().is_some_and(|other| pattern.includes(other));
        let attributes =
            |own: &Attributes| other.attributes.as_deref().is_some_and(|attributes| own.includes(attributes));
        methods
            && self.host.as_ref().is_none_or(host)
            && self.path.as_ref().is_none_or(path)
            && self.attributes.as_deref().is_none_or(attributes)
    }
}

impl Attributes {
    /// Whether the call has them; the name of the header that it cannot be said of.
    fn cover(&self, question: &Question<'_>) -> Result<bool, &str> {
        let Self { headers, resource } = self;
        let is_there = |(name, pattern): &(String, ValuePattern)| {
            value_of(&question.resource, name).is_some_and(|value| pattern.covers(value))
        };
        let mut unreadable = None;
        for (name, pattern) in headers {
            match question.headers.get(name) {
                Header::Text(value) if pattern.covers(value) => {}
                Header::Text(_) | Header::Absent => return Ok(false),
                Header::Unreadable => unreadable = Some(name.as_str()),
            }
        }
        match unreadable {
            _ if !resource.iter().all(is_there) => Ok(false),
            Some(name) => Err(name),
            None => Ok(true),
        }
    }

    /// Whether every call that has all that `other` names has all that is named here.
    fn includes(&self, other: &Self) -> bool {
        let among = |own: &[(String, ValuePattern)], others: &[(String, ValuePattern)]| {
            let narrower = |(name, pattern): &(String, ValuePattern)| {
                others.iter().any(|(other, narrower)| other == name && pattern.includes(narrower))
            };
            own.iter().all(narrower)
        };
        among(&self.headers, &other.headers) && among(&self.resource, &other.resource)
    }
}

#[cfg(test)]
mod tests;
