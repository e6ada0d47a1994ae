//! The section `rules`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::limits::Limits;
use super::order;
use super::problem::nearest;
use super::reader::{Item, Reader};
use super::values::{scope, word};
use crate::domain::limit::{Attribute, Limit};
use crate::domain::path::Method;
use crate::domain::policy::{Demand, HostPattern, LIMITS_MAX, Match, PathPattern, Rule};

/// The longest name of a rule, in bytes.
const RULE_NAME_BYTES_MAX: usize = 128;

/// A rule as it was read, before it surely has a name of its own.
struct Draft<'n> {
    item: Item<'n>,
    name: Option<String>,
    matches: Match,
    demand: Demand,
    limits: Vec<Arc<Limit>>,
}

pub(super) fn rules(reader: &mut Reader<'_>, item: &Item<'_>, limits: &Limits) -> Option<Vec<Rule>> {
    let items = reader.items(item)?;
    let count = items.len();
    let drafts: Vec<Draft<'_>> = items.iter().filter_map(|item| rule(reader, item, limits)).collect();
    let names = names(reader, &drafts);
    let (items, rules): (Vec<Item<'_>>, Vec<Rule>) = drafts
        .into_iter()
        .zip(names)
        .map(|(Draft { item, name: _, matches, demand, limits }, name)| (item, Rule { name, matches, demand, limits }))
        .unzip();
    for (index, doubt) in order::doubts(&rules) {
        reader.warning(&items[index], doubt);
    }
    (rules.len() == count).then_some(rules)
}

fn rule<'n>(reader: &mut Reader<'_>, item: &Item<'n>, known: &Limits) -> Option<Draft<'n>> {
    let mut fields = reader.fields(item, "rule")?;
    let name =
        fields.optional(reader, "name", |reader, item| reader.parse(item, word("a rule's name", RULE_NAME_BYTES_MAX)));
    let matches = fields.required(reader, "match", matching);
    let permit = fields.optional(reader, "permit", |reader, item| reader.one_of(item, &[("anyone", Demand::Anyone)]));
    let require = fields.optional(reader, "require", demand);
    let demand = match (permit, require) {
        (Some(Some(_)), Some(Some(_))) => {
            reader.error(item, "has both `permit` and `require`; keep one: `permit: anyone` demands nothing");
            None
        }
        (Some(permit), Some(require)) => Some(permit.or(require).unwrap_or_else(Demand::authenticated)),
        _ => None,
    };
    let limits = fields.or(reader, "limits", Vec::new(), |reader, item| {
        reader.few(item, LIMITS_MAX, |reader, item| named_limit(reader, item, known, matches.as_ref(), demand.as_ref()))
    });
    fields.finish(reader);
    let limits = limits?.into_iter().filter_map(|(_, limit)| limit).collect();
    Some(Draft { item: item.clone(), name: name?, matches: matches?, demand: demand?, limits })
}

fn matching(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Match> {
    let mut fields = reader.fields(item, "match")?;
    let methods = fields.optional(reader, "method", |reader, item| {
        if item.is_list() { reader.some(item, method) } else { method(reader, item).map(|method| vec![method]) }
    });
    let host = fields.optional(reader, "host", |reader, item| reader.parse(item, HostPattern::parse));
    let path = fields.optional(reader, "path", |reader, item| reader.parse(item, PathPattern::parse));
    fields.finish(reader);
    let matches = Match { methods: methods?.unwrap_or_default(), host: host?, path: path? };
    if matches == Match::default() {
        reader.error(item, "must have `method`, `host` or `path`; `path: /**` is every path");
        return None;
    }
    Some(matches)
}

fn method(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<String> {
    reader.parse(item, |text| Method::parse(text).map(|method| method.to_string()).map_err(|why| why.to_string()))
}

fn demand(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Demand> {
    let mut fields = reader.fields(item, "require")?;
    let roles = fields.optional(reader, "roles", |reader, item| {
        reader.some(item, |reader, item| reader.parse(item, word("a role", 256)))
    });
    let scopes =
        fields.optional(reader, "scopes", |reader, item| reader.some(item, |reader, item| reader.parse(item, scope)));
    fields.finish(reader);
    let (roles, scopes) = (roles?, scopes?);
    if roles.is_none() && scopes.is_none() {
        reader.error(
            item,
            "must have `roles` or `scopes`; a rule without `require` demands a caller who is authenticated",
        );
        return None;
    }
    Some(Demand::Caller { roles: roles.unwrap_or_default(), scopes: scopes.unwrap_or_default() })
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
