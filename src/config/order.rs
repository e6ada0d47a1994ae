//! Doubts about the order of rules: the first match decides, so an earlier rule can take a later one's calls.

use crate::domain::policy::Rule;

/// Beyond this many rules their order is not looked into: the work grows with the square.
const RULES_COMPARED_MAX: usize = 2_000;

/// The methods that are not meant to change anything (RFC 9110 §9.2.1).
const SAFE_METHODS: [&str; 4] = ["GET", "HEAD", "OPTIONS", "TRACE"];

/// What is doubtful, by the rule's index.
pub(super) fn doubts(rules: &[Rule]) -> Vec<(usize, String)> {
    let rules = &rules[..rules.len().min(RULES_COMPARED_MAX)];
    let mut doubts = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let (earlier, later) = (&rules[..index], &rules[index + 1..]);
        if let Some(shadow) = earlier.iter().find(|earlier| earlier.matches.includes(&rule.matches)) {
            doubts.push((
                index,
                format!("never decides: the earlier rule `{}` has all its calls; move it up or remove it", shadow.name),
            ));
        } else if let Some(twin) = weaker_twin(rule, earlier, later) {
            doubts.push((index, twin));
        }
    }
    doubts
}

/// `DELETE /orders/{id}` for admins says nothing of `DELETE /orders`. Where a later rule takes that call and demands
/// less, the rule hardly does what was meant.
fn weaker_twin(rule: &Rule, earlier: &[Rule], later: &[Rule]) -> Option<String> {
    let unsafe_only = !rule.matches.methods.is_empty()
        && !rule.matches.methods.iter().any(|method| SAFE_METHODS.contains(&method.as_str()));
    let mut parent = rule.matches.clone();
    parent.path = Some(rule.matches.path.as_ref()?.above()?);
    if !unsafe_only || earlier.iter().any(|earlier| earlier.matches.includes(&parent)) {
        return None;
    }
    let taker = later.iter().find(|later| later.matches.includes(&parent))?;
    if taker.demands_as_much(rule) {
        return None;
    }
    let above = parent.path.as_ref()?.as_str();
    Some(format!(
        "is for the segments below `{above}` only: `{above}` itself goes by `{}`, which demands less; \
         write `{above}/**` where that is not meant",
        taker.name
    ))
}
