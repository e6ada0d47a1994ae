//! The rules of a policy, in order, and how the first of them that is for a question is found.
//!
//! Few rules are looked at one by one. Of many, an index names those that can be for the question by their hosts and the
//! segments of their paths; whether one is for it, the rule itself says either way. So the index may name too many (it knows
//! nothing of methods, headers and the case of letters), but never one too few.

use std::fmt;
use std::ops::Deref;

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::{HostPattern, PathPattern, Rule, Unmatchable};
use crate::domain::path::Host;
use crate::domain::question::Question;

/// Up to so many rules are looked at one by one: that is about as quick as asking an index, whichever of them matches.
const FEW: usize = 4;

/// Rules in the order of the configuration. Never changed, since an index is made of them.
#[derive(Clone, Default)]
pub struct Rules {
    list: Box<[Rule]>,
    /// Where there are many.
    index: Option<Index>,
}

/// The first rule for a question among those that were looked at.
struct Found<'r> {
    /// As an index; only those before it can still be of interest.
    rule: usize,
    /// Unless it cannot be said whether it is for the question.
    outcome: Result<(), Unmatchable<'r>>,
}

impl Rules {
    /// The first of the rules before `end` that is for the question, as an index. `readings` are the segments of the question's
    /// path, once for each way to read it. `covers` says of method, host and path whether a rule is for them: of none for which
    /// neither the host nor one of the readings is.
    pub(super) fn first<'r, 's, S: Iterator<Item = &'s str>>(
        &'r self,
        end: usize,
        question: &Question<'_>,
        readings: impl Iterator<Item = S>,
        covers: impl Fn(&Rule) -> bool,
    ) -> Result<Option<usize>, Unmatchable<'r>> {
        let Some(index) = &self.index else { return one_by_one(&self.list[..end], question, covers) };
        let mut found = Found { rule: end, outcome: Ok(()) };
        let is_for_it = |at: usize| {
            let rule = &self.list[at];
            if covers(rule) { rule.suits(question) } else { Ok(false) }
        };
        for segments in readings {
            index.search(question.host.as_ref(), segments, &mut found, is_for_it);
        }
        found.outcome.map(|()| Some(found.rule).filter(|&rule| rule < end))
    }
}

/// The first of `rules` that is for the question.
fn one_by_one<'r>(
    rules: &'r [Rule],
    question: &Question<'_>,
    covers: impl Fn(&Rule) -> bool,
) -> Result<Option<usize>, Unmatchable<'r>> {
    for (at, rule) in rules.iter().enumerate().filter(|(_, rule)| covers(rule)) {
        if rule.suits(question)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

impl From<Vec<Rule>> for Rules {
    fn from(rules: Vec<Rule>) -> Self {
        let index = if rules.len() > FEW { Index::of(&rules) } else { None };
        Self { list: rules.into(), index }
    }
}

impl FromIterator<Rule> for Rules {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Self {
        Vec::from_iter(rules).into()
    }
}

impl Deref for Rules {
    type Target = [Rule];

    fn deref(&self) -> &[Rule] {
        &self.list
    }
}

/// Nothing but the rules themselves: the index follows from them.
impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for Rules {}

/// Nor does it say anything that the rules do not.
impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.fmt(f)
    }
}

/// Where nothing is: no rule, no node.
const NOTHING: u32 = u32::MAX;

/// The node of the rules that are for any host, where paths begin.
const ANY_HOST: u32 = 0;

/// Stands for the node above those of hosts.
const HOSTS: u32 = NOTHING;

/// For each pattern of hosts a tree of the patterns of paths, segment by segment.
#[derive(Clone)]
struct Index {
    nodes: Vec<Node>,
    /// Nodes by the one above and the hash of the name that leads there. The name itself is not kept: where two names have one
    /// hash, the rules of both are looked at.
    named: HashTable<(u64, u32)>,
    /// Of each rule the next one that ends at the same node.
    next: Box<[u32]>,
    /// Whether some rules are for certain hosts only.
    knows_hosts: bool,
}

/// What begins with the same segments.
#[derive(Clone)]
struct Node {
    /// The first of all rules here and below: as long as they are sought before it, nothing here is looked at.
    first: u32,
    /// The first rule whose pattern ends here.
    closed: u32,
    /// The first one whose pattern ends here with `/**`, or that has none.
    open: u32,
    /// The node below for `*` and `{name}`.
    any: u32,
}

impl Index {
    /// None where there are more rules than can be counted here.
    fn of(rules: &[Rule]) -> Option<Self> {
        let next = vec![NOTHING; rules.len()].into();
        let mut index = Self { nodes: vec![Node::EMPTY], named: HashTable::new(), next, knows_hosts: false };
        // From the last to the first: then each is the first of those that are there already.
        for (at, rule) in rules.iter().enumerate().rev() {
            index.add(u32::try_from(at).ok().filter(|&at| at < NOTHING)?, rule)?;
        }
        index.named.shrink_to_fit(|(key, _)| *key);
        index.nodes.shrink_to_fit();
        Some(index)
    }

    fn add(&mut self, rule: u32, Rule { matches, .. }: &Rule) -> Option<()> {
        let mut node = match &matches.host {
            None => ANY_HOST,
            Some(HostPattern::Exact(name) | HostPattern::Below(name)) => {
                self.knows_hosts = true;
                self.below(HOSTS, Some(name))?
            }
        };
        self.nodes[node as usize].first = rule;
        for segment in matches.path.iter().flat_map(PathPattern::literals) {
            node = self.below(node, segment)?;
            self.nodes[node as usize].first = rule;
        }
        let node = &mut self.nodes[node as usize];
        let is_open = matches.path.as_ref().is_none_or(PathPattern::is_open);
        let first = if is_open { &mut node.open } else { &mut node.closed };
        self.next[rule as usize] = std::mem::replace(first, rule);
        Some(())
    }

    /// The node below `node` for segments of this name, or for any; a new one where there is none.
    fn below(&mut self, node: u32, name: Option<&str>) -> Option<u32> {
        let new = u32::try_from(self.nodes.len()).ok().filter(|&new| new < NOTHING)?;
        let below = match name {
            None => {
                let any = &mut self.nodes[node as usize].any;
                if *any == NOTHING {
                    *any = new;
                }
                *any
            }
            Some(name) => {
                let key = key(node, hash(name));
                let entry = self.named.entry(key, |(other, _)| *other == key, |(key, _)| *key);
                entry.or_insert((key, new)).get().1
            }
        };
        if below == new {
            self.nodes.push(Node::EMPTY);
        }
        Some(below)
    }

    /// Looks for a rule before the one that was found. Looks at no node twice, and at none whose rules all come later.
    fn search<'r, 's>(
        &self,
        host: Option<&Host<'_>>,
        mut path: impl Iterator<Item = &'s str>,
        found: &mut Found<'r>,
        is_for_it: impl Fn(usize) -> Result<bool, Unmatchable<'r>>,
    ) {
        let mut hashes: SmallVec<[u64; 16]> = SmallVec::new();
        let mut ahead: SmallVec<[(u32, usize); 8]> = SmallVec::new();
        self.of_host(host, |node| ahead.push((node, 0)));
        let mut next = Some((ANY_HOST, 0));
        while let Some((place, depth)) = next.take().or_else(|| ahead.pop()) {
            let node = &self.nodes[place as usize];
            if node.first as usize >= found.rule {
                continue;
            }
            self.look(node.open, found, &is_for_it);
            if depth == hashes.len() {
                hashes.extend(path.next().map(hash));
            }
            let Some(&segment) = hashes.get(depth) else {
                self.look(node.closed, found, &is_for_it);
                continue;
            };
            if node.any != NOTHING {
                ahead.push((node.any, depth + 1));
            }
            next = self.named(place, segment).map(|below| (below, depth + 1));
        }
    }

    /// Where the paths of this host begin, besides those of any.
    fn of_host(&self, host: Option<&Host<'_>>, begin: impl FnMut(u32)) {
        let Some(host) = host.filter(|_| self.knows_hosts).map(Host::as_str) else { return };
        let below = host.match_indices('.').map(|(dot, _)| &host[dot..]);
        below.chain([host]).filter_map(|name| self.named(HOSTS, hash(name))).for_each(begin);
    }

    fn named(&self, node: u32, name: u64) -> Option<u32> {
        let key = key(node, name);
        self.named.find(key, |(other, _)| *other == key).map(|&(_, below)| below)
    }

    /// Looks at the rules that end at one node, from this one on.
    fn look<'r>(
        &self,
        mut rule: u32,
        found: &mut Found<'r>,
        is_for_it: impl Fn(usize) -> Result<bool, Unmatchable<'r>>,
    ) {
        while (rule as usize) < found.rule {
            let outcome = is_for_it(rule as usize);
            if outcome != Ok(false) {
                *found = Found { rule: rule as usize, outcome: outcome.map(drop) };
                return;
            }
            rule = self.next[rule as usize];
        }
    }
}

impl Node {
    const EMPTY: Self = Self { first: NOTHING, closed: NOTHING, open: NOTHING, any: NOTHING };
}

/// By which a name is found, whatever the case of its letters: the bit that makes the difference is set in all bytes. Names with
/// one hash are no danger: only the configuration has names in the tree, and the rules themselves are looked at.
fn hash(name: &str) -> u64 {
    const SMALL: u64 = u64::from_le_bytes([b' '; 8]);
    name.as_bytes().chunks(8).fold(name.len() as u64, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let product = (hash ^ (u64::from_le_bytes(word) | SMALL)).wrapping_mul(SPREAD);
        product ^ (product >> 32)
    })
}

/// A name below a node.
const fn key(node: u32, name: u64) -> u64 {
    name.wrapping_add((node as u64).wrapping_mul(SPREAD))
}

/// 2⁶⁴ over the golden ratio: spreads numbers that follow each other.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::guard::{Guard, Origin};
    use crate::domain::path::Leniency;
    use crate::domain::policy::tests::{matching, question, rule};
    use crate::domain::policy::{Match, Paths, Policy};
    use crate::domain::question::Question;

    impl Rules {
        /// The same with an index, however few they are.
        pub(in crate::domain::policy) fn indexed(&self) -> Self {
            Self { list: self.list.clone(), index: Some(Index::of(&self.list).unwrap()) }
        }

        /// The same without one: what an index is held to.
        fn one_by_one(&self) -> Self {
            Self { list: self.list.clone(), index: None }
        }
    }

    const PAGE: &str = "https://app.example";

    fn any_rule() -> impl Strategy<Value = Rule> {
        (matching(), any::<[bool; 3]>()).prop_map(|(matches, [encoded_slash, path_parameters, named])| {
            let guard = Guard { origins: vec![Origin::parse(PAGE).unwrap()], ..Guard::default() };
            let leniency = Leniency { encoded_slash, path_parameters };
            Rule { matches, leniency, guard: named.then(|| Box::new(guard)), ..rule("r", &[], None) }
        })
    }

    fn any_paths() -> impl Strategy<Value = Paths> {
        let hosts = prop::sample::subsequence(vec!["b.c", "*.b.c"], 0..=2);
        (any::<bool>(), hosts).prop_map(|(trusts_gateway, hosts)| {
            let case_insensitive_hosts = hosts.into_iter().map(|host| HostPattern::parse(host).unwrap()).collect();
            Paths { trusts_gateway, case_insensitive_hosts }
        })
    }

    /// Method, host, path, the value of the header `x`, and that of the attribute.
    type Asked = (&'static str, Option<&'static str>, String, Option<Option<&'static str>>, Option<&'static str>);

    fn asked() -> impl Strategy<Value = Asked> {
        let method = prop::sample::select(vec!["GET", "HEAD", "PUT", "OPTIONS", "CONNECT"]);
        let host = prop::option::of(prop::sample::select(vec!["c", "b.c", "B.c", "a.b.c", "x.b.c", "y.x.B.c:80"]));
        let path = prop_oneof![
            4 => "(/(a|b|A|c)){0,5}/?",
            2 => "(/(a|b|a;b|b;|a%2Fb|%2fa|a%2F|A%2fB||%25)){1,4}/?",
            1 => prop_oneof![Just("*".to_owned()), Just(String::new())],
        ];
        let header = prop::option::of(prop::sample::select(vec![Some("1"), Some("2"), Some("3"), None]));
        (method, host, path, header, prop::option::of(prop::sample::select(vec!["1", "2"])))
    }

    proptest! {
        #[test]
        fn the_index_finds_what_looking_at_each_rule_finds(
            rules in prop::collection::vec(any_rule(), 0..40),
            paths in any_paths(),
            questions in prop::collection::vec(asked(), 20),
        ) {
            let rules = Rules::from(rules);
            let [model, indexed] = [rules.one_by_one(), rules.indexed()]
                .map(|rules| Policy { version: 1, rules, paths: paths.clone(), ..Policy::default() });
            for (method, host, path, header, resource) in questions {
                let preflight = [("origin", Some(PAGE)), ("access-control-request-method", Some("PUT"))];
                let headers = header.map(|value| ("x", value)).into_iter().chain(preflight).collect::<Vec<_>>();
                let Ok(question) = question(method, host, &path, &headers) else { continue };
                let question = Question { resource: resource.map(|value| ("x", value)).into_iter().collect(), ..question };
                prop_assert_eq!(indexed.find(&question), model.find(&question), "{:?}", question);
            }
        }
    }

    /// Which rule a call meets, and how many are looked at for that.
    fn looked_at(rules: &Rules, host: Option<&str>, path: &str) -> (Option<usize>, usize) {
        let looks = Cell::new(0);
        let question = question("GET", host, path, &[]).unwrap();
        let path = question.target.path().unwrap();
        let found = rules.first(rules.len(), &question, [path.segments()].into_iter(), |rule| {
            looks.set(looks.get() + 1);
            let covers = |pattern: &PathPattern| pattern.covers(path);
            rule.matches.covers_by(question.method, question.host.as_ref(), covers)
        });
        (found.unwrap(), looks.get())
    }

    #[test]
    fn of_many_rules_few_are_looked_at() {
        const RULES: usize = 2_000;
        let by_path =
            |pattern: fn(usize) -> String| (0..RULES).map(|at| rule("r", &[], Some(&pattern(at)))).collect::<Rules>();
        let services = by_path(|at| format!("/service-{at}/items/{{id}}"));
        let tenants = by_path(|at| format!("/{{tenant}}/*/service-{at}/**"));
        let hosts: Rules = (0..RULES)
            .map(|at| {
                let host = format!("{}h{at}.example", if at % 2 == 0 { "*." } else { "" });
                let rule = rule("r", &[], Some("/**"));
                Rule { matches: Match { host: Some(HostPattern::parse(&host).unwrap()), ..rule.matches }, ..rule }
            })
            .collect();
        for at in [0, 1, 998, 999, RULES - 1] {
            assert_eq!(looked_at(&services, None, &format!("/service-{at}/items/7")), (Some(at), 1));
            assert_eq!(looked_at(&tenants, None, &format!("/acme/eu/service-{at}")), (Some(at), 1));
            assert_eq!(
                looked_at(&hosts, Some(&format!("a.b.h{at}.example")), "/x"),
                ((at % 2 == 0).then_some(at), 1 - at % 2)
            );
            assert_eq!(looked_at(&hosts, Some(&format!("h{at}.example")), "/x"), ((at % 2 == 1).then_some(at), at % 2));
        }
        for path in ["/service-0", "/service-0/items", "/service-0/items/7/8", "/", "/service-2000/items/7", "/a/b/c"] {
            assert_eq!(looked_at(&services, None, path), (None, 0), "{path}");
        }
    }

    /// The first of them takes all, so that nothing after it matters.
    #[test]
    fn nothing_is_looked_at_behind_the_rule_that_was_found() {
        let patterns = ["/**"].into_iter().chain(["/a/b", "/{x}/b", "/a/*"].into_iter().cycle().take(FEW + 1));
        let rules: Rules = patterns.map(|pattern| rule("r", &[], Some(pattern))).collect();
        assert!(rules.index.is_some());
        assert_eq!(looked_at(&rules, None, "/a/b"), (Some(0), 1));
    }
}
