//! Every field wrong in every way: the cases are in `problems.txt`.

/// A case of `problems.txt`.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// Whether the schema sees that something is wrong.
    pub(super) by_schema: bool,
    pub(super) yaml: &'static str,
    expected: &'static str,
}

pub(super) fn cases() -> Vec<Case> {
    let text = include_str!("problems.txt");
    let case = |case: &'static str| {
        let (head, rest) = case.split_once('\n').unwrap();
        let (yaml, expected) = rest.split_once(">>>\n").unwrap();
        let name = head.strip_prefix("# ").unwrap();
        let by_schema = name.ends_with(", seen by the schema");
        Case { name, by_schema, yaml, expected: expected.trim_end() }
    };
    text.split("---\n").skip(1).map(case).collect()
}

#[test]
fn every_problem_is_told_at_once_with_place_key_and_remedy() {
    let cases = cases();
    assert!(cases.len() > 30);
    for case in cases {
        let said = super::said(case.yaml);
        assert_eq!(said, case.expected, "{}\n{}\nsaid:\n{said}\n", case.name, case.yaml);
    }
}

#[test]
fn no_problem_shows_a_secret() {
    for case in cases() {
        let said = super::said(case.yaml);
        assert!(!said.contains("hunter2") && !said.contains("orders-"), "{}\n{said}", case.name);
    }
}
