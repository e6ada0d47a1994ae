//! Texts that are no configuration at all, and any text whatever.

use proptest::prelude::*;

use super::*;

#[test]
fn what_is_no_mapping_is_told_where() {
    for (yaml, expected) in [
        ("", "1:1: is empty; where that is meant, write `{}`"),
        ("# only a comment\n", "1:1: is empty; where that is meant, write `{}`"),
        ("---\n", "1:1: is empty; where that is meant, write `{}`"),
        ("null", "1:1: is empty; where that is meant, write `{}`"),
        ("rules", "1:1: must be a mapping (`key: value`); found \"rules\""),
        ("\n  [rules]", "2:3: must be a mapping (`key: value`); found a list"),
        ("5", "1:1: must be a mapping (`key: value`); found \"5\""),
    ] {
        assert_eq!(said(yaml), expected, "{yaml}");
    }
}

#[test]
fn a_byte_order_mark_does_no_harm() {
    assert_eq!(said("\u{feff}rules: 5"), "1:8: rules: must be a list (`[a, b]`); found \"5\"");
}

#[test]
fn what_is_no_yaml_is_told_where() {
    for (yaml, expected) in [
        ("listen:\n\tgrpc: x\n", "2:2: is not YAML: tabs disallowed within this context (block indentation)"),
        ("rules: [\n", "1:8: is not YAML: unclosed bracket '['"),
        ("rules: [}", "1:8: is not YAML: mismatched bracket '[' closed by '}'"),
        ("rules: 'x", "1:8: is not YAML: unclosed quote"),
        ("rules: []\n  limits: {}\n", "2:3: is not YAML: while parsing a block mapping, did not find expected key"),
        ("rules: []\nlimits\n", "2:1: is not YAML: simple key expected ':'"),
        ("%YAML 1.2\n---\n{}\n", "1:1: is not YAML: YAML directives are disallowed"),
        ("rules: *x\n", "1:8: is not YAML: while parsing node, found unknown anchor"),
    ] {
        let said = said(yaml);
        assert!(said.starts_with(expected) && !said.contains('\n'), "{yaml}\n{said}");
        assert!(said.ends_with("; check indentation, quotes and brackets here and just above"), "{said}");
    }
}

#[test]
fn what_makes_one_text_mean_two_things_is_refused() {
    for (yaml, expected) in [
        ("rules: &r []\n", "1:11: anchors (`&name`) are refused, since aliases are; remove it"),
        ("rules: !!seq []\n", "1:14: tags (\"!!seq\") are refused; a string can be put in quotes"),
        ("limits: !include x\n", "1:18: tags (\"!include\") are refused; a string can be put in quotes"),
        ("{}\n---\n{}\n", "3:1: a second document starts here; a configuration is one document"),
        ("? [a]\n: b\n", "1:3: a key must be a name, not a list or mapping"),
        (": b\n", "1:1: a key is missing before `:`"),
        ("~: b\n", "1:1: a key is missing before `:`"),
    ] {
        assert_eq!(said(yaml), expected, "{yaml}");
    }
}

#[test]
fn an_alias_bomb_stops_at_its_first_anchor() {
    let bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n";
    assert_eq!(said(bomb), "1:7: anchors (`&name`) are refused, since aliases are; remove it");
}

#[test]
fn depth_size_and_number_are_bounded() {
    let flow = format!("rules: {}", "[".repeat(40));
    assert!(said(&flow).contains("is nested more than 32 levels deep") || said(&flow).contains("is not YAML"));
    let block = (0..40).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<Vec<_>>().concat();
    assert_eq!(said(&block), "33:33: is nested more than 32 levels deep; nothing here needs that");
    assert!(said(&"[".repeat(4 << 20)).contains("recursion limit exceeded"));
    assert_eq!(said(&"#".repeat((4 << 20) + 1)), " is larger than 4 MiB; split it or remove what is not configuration");
    let many = format!("rules: [{}]", "a,".repeat(210_000));
    assert!(said(&many).contains("has more than 200000 values"), "{}", said(&many));
    let long = format!("rules: [{}]", "a,".repeat(10_001));
    assert_eq!(said(&long), "1:8: rules: has more than 10000 entries; make it shorter");
}

#[test]
fn many_problems_are_counted_but_not_kept() {
    let yaml = (0..1000).map(|index| format!("k{index}: 1\n")).collect::<Vec<_>>().concat();
    let Err(problems) = read(&yaml) else { panic!() };
    assert_eq!((problems.listed.len(), problems.omitted), (100, 900));
    assert!(problems.to_string().ends_with("\nand 900 more"));
}

#[test]
fn no_crowd_of_warnings_hides_an_error() {
    let rule = "  - { match: { path: /a }, permit: anyone }\n";
    let Err(problems) = read(&format!("rules:\n{}bounds: 5\n", rule.repeat(200))) else { panic!() };
    assert_eq!((problems.listed.len(), problems.omitted), (100, 100));
    assert!(problems.listed.last().is_some_and(|problem| problem.severity == Severity::Error));
}

/// Pieces that configurations are made of, and some that they are not.
fn pieces() -> impl Strategy<Value = String> {
    const WORDS: &str = "listen_grpc_store_redis_urls_issuers_issuer_audiences_jwks_keys_limits_units_window_by_rules\
        _match_method_path_host_permit_require_roles_bounds_anyone_GET_/a/{id}_/**_1m_5_1e3_true_null_~_${UNITS}_${\
        _$${x}_'_\"_: _: _: _- _- _\n_\n_\n  _\n    _{_}_[_]_, _# _|\n_>_&a_*a_!!str _---\n_? _\t_\u{feff}_é_\u{2028}\
        _\r\n_\u{85}_%_@_`";
    let words: Vec<&str> = WORDS.split('_').collect();
    prop::collection::vec(prop::sample::select(words), 0..40).prop_map(|pieces| pieces.concat())
}

/// Every problem of `text` has a place within it.
fn places_are_within(text: &str) {
    let listed = match read(text) {
        Ok((_, warnings)) => warnings,
        Err(problems) => problems.listed,
    };
    for problem in listed {
        let Position { line, column } = problem.position.unwrap();
        // YAML's own line breaks are these; the parser counts the characters of a line without them.
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let lines: Vec<&str> = text.split('\n').collect();
        assert!((1..=lines.len()).contains(&line), "{problem} in {text:?}");
        assert!((1..=lines[line - 1].chars().count() + 1).contains(&column), "{problem} in {text:?}");
        assert!(!problem.to_string().contains('\n'), "{problem}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_pieces_are_read_or_have_problems_with_a_place(text in pieces()) {
        places_are_within(&text);
    }

    #[test]
    fn any_text_is_read_or_has_problems_with_a_place(text in any::<String>()) {
        places_are_within(&text);
    }

    #[test]
    fn a_good_text_with_a_hole_is_read_or_has_problems_with_a_place(start in 0_usize..2000, length in 1_usize..40) {
        let text: String = EVERYTHING.chars().enumerate()
            .filter(|(index, _)| !(start..start + length).contains(index)).map(|(_, c)| c).collect();
        places_are_within(&text);
    }
}
