//! The section `rules`.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread;

use super::certificates;
use super::guards::{attributes, guard, leniency};
use super::issuers::{TEXT_BYTES_MAX, binding};
use super::limits::Limits;
use super::order;
use super::problem::nearest;
use super::reader::{Fields, Item, Reader};
use super::values::{duration, scope, word};
use crate::domain::expression::Expression;
use crate::domain::guard::Guard;
use crate::domain::issuer::BindingDemand;
use crate::domain::limit::{Attribute, Limit};
use crate::domain::path::{Leniency, Method};
use crate::domain::policy::{Caller, Demand, EarlyLimits, HostPattern, LIMITS_MAX, Match, PathPattern, Rule};
use crate::domain::time::Micros;

/// The longest name of a rule, in bytes.
const RULE_NAME_BYTES_MAX: usize = 128;

/// How old a rule may let logins be.
const LOGIN_AGES: RangeInclusive<Micros> = Micros::from_secs(1)..=Micros::from_secs(366 * 24 * 60 * 60);

/// A rule as it was read, before it surely has a name of its own.
struct Draft<'n> {
    item: Item<'n>,
    name: Option<String>,
    matches: Match,
    leniency: Leniency,
    guard: Option<Box<Guard>>,
    early: Option<Box<EarlyLimits>>,
    demand: Demand,
    limits: Vec<Arc<Limit>>,
}

impl<'n> Draft<'n> {
    fn named(self, name: String) -> (Item<'n>, Rule) {
        let Self { item, name: _, matches, leniency, guard, early, demand, limits } = self;
        (item, Rule { name, matches, leniency, guard, early, demand, limits })
    }
}

/// What rules refer to by name.
pub(super) struct Known<'k> {
    pub(super) limits: &'k Limits,
    /// Who vouches for callers.
    pub(super) issuers: &'k [&'k str],
}

pub(super) fn rules(reader: &mut Reader<'_>, item: &Item<'_>, known: &Known<'_>) -> Option<Vec<Rule>> {
    let items = reader.items(item)?;
    let count = items.len();
    let drafts: Vec<Draft<'_>> = items.iter().filter_map(|item| rule(reader, item, known)).collect();
    let names = names(reader, &drafts);
    let (items, rules): (Vec<Item<'_>>, Vec<Rule>) =
        drafts.into_iter().zip(names).map(|(draft, name)| draft.named(name)).unzip();
    for (index, doubt) in order::doubts(&rules) {
        reader.warning(&items[index], doubt);
    }
    (rules.len() == count).then_some(rules)
}

fn rule<'n>(reader: &mut Reader<'_>, item: &Item<'n>, known: &Known<'_>) -> Option<Draft<'n>> {
    let mut fields = reader.fields(item, "rule")?;
    let name =
        fields.optional(reader, "name", |reader, item| reader.parse(item, word("a rule's name", RULE_NAME_BYTES_MAX)));
    let matches = fields.required(reader, "match", matching);
    let permit = fields.optional(reader, "permit", |reader, item| reader.one_of(item, &[("anyone", Demand::Anyone)]));
    let require = fields
        .optional(reader, "require", |reader, item| caller(reader, item, known, matches.as_ref()).map(Demand::Caller));
    let demand = match (permit, require) {
        (Some(Some(_)), Some(Some(Demand::Caller(Caller { when: Some(_), .. })))) => {
            reader.error(
                item,
                "has `when` beside `permit: anyone`; an expression is about a caller: keep `require` alone",
            );
            None
        }
        (Some(Some(_)), Some(Some(_))) => {
            reader.error(item, "has both `permit` and `require`; keep one: `permit: anyone` demands nothing");
            None
        }
        (Some(permit), Some(require)) => Some(permit.or(require).unwrap_or_else(Demand::authenticated)),
        _ => None,
    };
    let limits = fields.or(reader, "limits", Vec::new(), |reader, item| {
        reader.few(item, LIMITS_MAX, |reader, item| {
            named_limit(reader, item, known.limits, matches.as_ref(), demand.as_ref())
        })
    });
    let guard = guard(reader, &mut fields, demand.as_ref());
    let leniency = leniency(reader, &mut fields);
    fields.finish(reader);
    let (limits, early) = EarlyLimits::apart(limits?.into_iter().filter_map(|(_, limit)| limit));
    let (name, matches, leniency) = (name?, matches?, leniency?);
    Some(Draft { item: item.clone(), name, matches, leniency, guard: guard?, early, demand: demand?, limits })
}

fn matching(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Match> {
    let mut fields = reader.fields(item, "match")?;
    let methods = fields.optional(reader, "method", |reader, item| {
        if item.is_list() { reader.some(item, method) } else { method(reader, item).map(|method| vec![method]) }
    });
    let host = fields.optional(reader, "host", |reader, item| reader.parse(item, HostPattern::parse));
    let path = fields.optional(reader, "path", |reader, item| reader.parse(item, PathPattern::parse));
    let attributes = attributes(reader, &mut fields);
    fields.finish(reader);
    let methods = methods?.unwrap_or_default();
    let matches = Match { methods, host: host?, path: path?, attributes: attributes? };
    if matches == Match::default() {
        reader.error(item, "must have `method`, `host`, `path` or another part; `path: /**` is every path");
        return None;
    }
    Some(matches)
}

fn method(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<String> {
    reader.parse(item, |text| Method::parse(text).map(|method| method.to_string()).map_err(|why| why.to_string()))
}

fn caller(reader: &mut Reader<'_>, item: &Item<'_>, known: &Known<'_>, matches: Option<&Match>) -> Option<Caller> {
    let mut fields = reader.fields(item, "require")?;
    let issuers = fields.or(reader, "issuers", Vec::new(), |reader, item| {
        reader.some(item, |reader, item| issuer(reader, item, known.issuers))
    });
    let audiences = words(reader, &mut fields, "audiences", "an audience");
    let actors = fields.optional(reader, "actors", |reader, item| {
        reader.list(item, |reader, item| reader.parse(item, word("an actor's `sub`", TEXT_BYTES_MAX)))
    });
    let max_login_age =
        fields.optional(reader, "max_login_age", |reader, item| reader.parse(item, duration(LOGIN_AGES)));
    let binding = fields.or(reader, "binding", BindingDemand::Nothing, binding);
    let names = fields.or(reader, "names", Vec::new(), certificates::names);
    let roles = words(reader, &mut fields, "roles", "a role");
    let scopes = fields
        .or(reader, "scopes", Vec::new(), |reader, item| reader.some(item, |reader, item| reader.parse(item, scope)));
    let when = fields.optional(reader, "when", |reader, item| condition(reader, item, matches));
    fields.finish(reader);
    let caller = Caller {
        issuers: issuers?,
        audiences: audiences?,
        actors: actors?,
        max_login_age: max_login_age?,
        binding: binding?,
        names: names?,
        roles: roles?,
        scopes: scopes?,
        when: when?,
    };
    if caller == Caller::default() {
        reader.error(
            item,
            "must have `scopes`, `roles` or another demand; a rule without `require` demands a caller who is authenticated",
        );
        return None;
    }
    Some(caller)
}

/// What must be true of the caller and the call. It may name the segments of the rule's path.
fn condition(reader: &mut Reader<'_>, item: &Item<'_>, matches: Option<&Match>) -> Option<Box<Expression>> {
    let segments: Vec<&str> = matches?.path.iter().flat_map(PathPattern::parameters).collect();
    reader.parse(item, |text| compiled(text, &segments).map(Box::new))
}

/// Reads an expression on a stack of its own, since its parser takes more of it than a task may have left.
fn compiled(text: &str, segments: &[&str]) -> Result<Expression, String> {
    const STACK_BYTES: usize = 8 << 20;
    let unread = |why: &str| format!("must be an expression that can be read; {why}");
    thread::scope(|scope| {
        let reading = thread::Builder::new().name("expression".to_owned()).stack_size(STACK_BYTES);
        let reading = reading.spawn_scoped(scope, || Expression::compile(text, segments));
        let read = reading.map_err(|error| unread(&format!("there was no thread to read it: {error}")))?.join();
        let read = read.map_err(|_| unread("reading it failed, which is a fault of the program"))?;
        read.map_err(|flaw| format!("must be a condition in CEL: {flaw}"))
    })
}

fn words(
    reader: &mut Reader<'_>,
    fields: &mut Fields<'_>,
    key: &'static str,
    what: &'static str,
) -> Option<Vec<String>> {
    fields.or(reader, key, Vec::new(), |reader, item| {
        reader.some(item, |reader, item| reader.parse(item, word(what, TEXT_BYTES_MAX)))
    })
}

/// Who vouches for a caller. One who vouches for nobody is a slip, or is still to come.
fn issuer(reader: &mut Reader<'_>, item: &Item<'_>, known: &[&str]) -> Option<String> {
    let name = reader.parse(item, word("the `issuer` of an entry of `issuers`", TEXT_BYTES_MAX))?;
    if !known.contains(&&*name) {
        let remedy = match nearest(&name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "add it under `issuers`".to_owned(),
        };
        reader.warning(item, format!("vouches for nobody: no issuer has that name, byte by byte; {remedy}"));
    }
    Some(name)
}

/// A limit and its name; the name alone where there is such a limit but it could not be read.
fn named_limit(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    known: &Limits,
    matches: Option<&Match>,
    demand: Option<&Demand>,
) -> Option<(String, Option<Arc<Limit>>)> {
    let (name, limit) = reader.parse(item, |name| {
        let unknown = || match nearest(name, known.keys().map(String::as_str)) {
            Some(near) => format!("must be the name of a limit; did you mean `{near}`?"),
            None => "must be the name of a limit; add it under `limits`".to_owned(),
        };
        known.get(name).map(|limit| (name.to_owned(), limit.clone())).ok_or_else(unknown)
    })?;
    for attribute in limit.iter().flat_map(|limit| &limit.by) {
        if let Some(why) = uncountable(attribute, matches, demand) {
            reader.error(item, why);
        }
    }
    Some((name, limit))
}

/// Why no call that a rule is for can be counted by `attribute`.
fn uncountable(attribute: &Attribute, matches: Option<&Match>, demand: Option<&Demand>) -> Option<String> {
    if attribute.needs_identity() && demand == Some(&Demand::Anyone) {
        return Some(format!(
            "counts by {attribute}, which anonymous callers do not have, and the rule permits anyone; \
             count by source.address, or require a caller"
        ));
    }
    let Attribute::PathParameter(name) = attribute else { return None };
    let named = matches?.path.iter().any(|path| path.parameters().any(|parameter| parameter == &**name));
    (!named).then(|| format!("counts by {attribute}, and the rule's path has no segment `{{{name}}}`; name it there"))
}

/// A name for each rule: its own, or one made of what it matches.
fn names(reader: &mut Reader<'_>, drafts: &[Draft<'_>]) -> Vec<String> {
    let mut taken: HashSet<String> = HashSet::new();
    for draft in drafts {
        if let Some(name) = &draft.name
            && !taken.insert(name.clone())
        {
            reader.error(&draft.item, "has the name of an earlier rule; names are unique");
        }
    }
    let mut copies: HashMap<String, usize> = HashMap::new();
    let name = |draft: &Draft<'_>| match &draft.name {
        Some(name) => name.clone(),
        None => free_name(&spelled(&draft.matches), &mut taken, &mut copies),
    };
    drafts.iter().map(name).collect()
}

/// `GET,POST api.example.com/orders/**`
fn spelled(matches: &Match) -> String {
    let methods = matches.methods.join(",");
    let host = matches.host.as_ref().map_or_else(String::new, ToString::to_string);
    let path = matches.path.as_ref().map_or("", PathPattern::as_str);
    let place = format!("{host}{path}");
    [methods, place].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// `plain`; with `#2` where that is taken.
fn free_name(plain: &str, taken: &mut HashSet<String>, copies: &mut HashMap<String, usize>) -> String {
    let count = copies.entry(plain.to_owned()).or_insert(0);
    loop {
        *count += 1;
        let name = if *count == 1 { plain.to_owned() } else { format!("{plain} #{count}") };
        if taken.insert(name.clone()) {
            return name;
        }
    }
}
