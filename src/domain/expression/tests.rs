//! What expressions promise: their kinds, their errors, their cost, and that they are true where CEL says so.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashMap;

use proptest::prelude::*;

use super::check::{Kind, Record};
use super::*;
use crate::domain::identity::{Actor, IdentityKind};
use crate::domain::path::{Host, Method, Target};
use crate::domain::policy::PathPattern;
use crate::domain::question::{Headers, Question};
use crate::domain::time::Micros;

/// What the expressions of the tests are about.
struct Asked {
    identity: Identity,
    question: Question<'static>,
    pattern: PathPattern,
}

const NOW: Micros = Micros(1_700_000_000_999_999);

fn asked() -> Asked {
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.into()).collect();
    let method = Method::parse("DELETE").unwrap();
    let host = Host::parse("api.example.com").unwrap();
    let identity = Identity {
        kind: IdentityKind::Opaque,
        subject: Some("alice".into()),
        client: Some("shop".into()),
        username: Some("Alice".into()),
        tenant: Some("acme".into()),
        session: Some("s-1".into()),
        token_id: Some("t-1".into()),
        scopes: texts(&["orders:read", "orders:write"]),
        roles: texts(&["USER", "OWNER"]),
        audiences: texts(&["orders"]),
        names: texts(&["spiffe://td/ns/prod/web"]),
        claims: Box::new([("level".into(), "3".into()), ("my-claim".into(), "x".into())]),
        actors: Box::new([Actor {
            issuer: Some("https://b.example".into()),
            subject: Some("gateway".into()),
            client: Some("edge".into()),
        }]),
        expires_at: Some(Micros::from_secs(1_700_000_300)),
        issued_at: Some(Micros::from_secs(1_699_999_900)),
        logged_in_at: Some(Micros::from_secs(1_699_999_000)),
        ..Identity::vouched_by("https://a.example")
    };
    let target = Target::parse("/api/orders/alice", method, Some(&host)).unwrap();
    let question = Question {
        host: Some(host),
        source: Some("::ffff:10.1.2.3".parse().unwrap()),
        headers: Headers::new(vec![("x-tenant", Some("acme")), ("x-broken", None), ("b3", Some("1"))]),
        body: Some(512),
        resource: vec![("owner", "alice"), ("tags", "a,b")],
        ..Question::of(method, target)
    };
    Asked { identity, question, pattern: PathPattern::parse("/api/orders/{id}").unwrap() }
}

impl Asked {
    fn holds(&self, text: &str) -> bool {
        let expression = Expression::compile(text, &["id"]).unwrap_or_else(|flaw| panic!("{text}: {flaw}"));
        expression.holds(&self.identity, self.call())
    }

    fn call(&self) -> Call<'_> {
        Call { question: &self.question, pattern: Some(&self.pattern), now: NOW }
    }
}

/// Holds `text` and what is not so against a call: an error is neither.
fn outcome(asked: &Asked, text: &str) -> Option<bool> {
    match (asked.holds(text), asked.holds(&format!("!({text})"))) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
        (true, true) => panic!("{text} is true and not true"),
    }
}

fn flaw(text: &str) -> String {
    Expression::compile(text, &["id"]).err().map_or_else(String::new, |flaw| flaw.to_string())
}

#[test]
fn the_owner_or_an_admin_may_delete() {
    let text = r#""ADMIN" in identity.roles || resource.owner == identity.subject"#;
    let mut asked = asked();
    assert!(asked.holds(text), "alice owns it");
    asked.question.resource = vec![("owner", "bob")];
    assert!(!asked.holds(text));
    asked.question.resource = Vec::new();
    assert!(!asked.holds(text), "nobody says whose it is");
    asked.identity.roles = Box::new(["ADMIN".into()]);
    assert!(asked.holds(text), "an admin need not own it");
}

#[test]
fn every_attribute_is_there_under_its_name() {
    let asked = asked();
    for text in [
        r#"identity.kind == "opaque" && identity.issuer == "https://a.example" && identity.subject == "alice""#,
        r#"identity.client == "shop" && identity.username == "Alice" && identity.tenant == "acme""#,
        r#"identity.session == "s-1" && identity.token_id == "t-1""#,
        r#"identity.scopes[1] == "orders:write" && size(identity.roles) == 2 && identity.audiences.size() == 1"#,
        r#"identity.names.exists(n, n.startsWith("spiffe://td/ns/prod/"))"#,
        r#"identity.claims.level == "3" && identity.claims["my-claim"] == "x" && "level" in identity.claims"#,
        r#"identity.actor.subject == "gateway" && identity.actor.client == "edge""#,
        "identity.actor.issuer != identity.issuer",
        "now == 1700000000 && identity.expires_at - now == 300",
        "identity.issued_at < now && now - identity.logged_in_at > 900",
        r#"request.method == "DELETE" && request.host == "api.example.com" && request.scheme == "https""#,
        r#"request.path == "/api/orders/alice" && path.id == identity.subject"#,
        r#"request.source == "10.1.2.3" && inCidr(request.source, "10.0.0.0/8")"#,
        r#"request.headers["x-tenant"] == identity.tenant && request.headers.b3 == "1" && request.body_bytes <= 512"#,
        r#"resource.owner in [identity.subject, identity.client] && resource["tags"].contains("b")"#,
    ] {
        assert_eq!(outcome(&asked, text), Some(true), "{text}");
    }
    // What the check knows, the facts have: none of them is an error where it is there.
    for (record, name) in
        [(Record::Identity, "identity"), (Record::Actor, "identity.actor"), (Record::Request, "request")]
    {
        for (attribute, _) in record.attributes() {
            assert_eq!(outcome(&asked, &format!("has({name}.{attribute})")), Some(true), "{name}.{attribute}");
        }
    }
}

#[test]
fn what_is_not_there_is_an_error_unless_it_is_asked_for() {
    let mut asked = asked();
    asked.identity = Identity::vouched_by("https://a.example");
    asked.question = Question {
        host: None,
        target: Target::Authority,
        source: None,
        body: None,
        headers: Headers::default(),
        resource: Vec::new(),
        ..asked.question
    };
    for (record, name) in [(Record::Identity, "identity"), (Record::Request, "request")] {
        for (attribute, kind) in record.attributes() {
            let value = format!("{name}.{attribute}");
            let is_there = matches!(kind, Kind::List(_))
                || ["kind", "issuer", "claims", "method", "scheme", "headers"].contains(attribute);
            assert_eq!(outcome(&asked, &format!("has({value})")), Some(is_there), "{value}");
            if !is_there && !matches!(kind, Kind::Record(_)) {
                assert_eq!(outcome(&asked, &format!("{value} == {value}")), None, "{value}");
            }
        }
    }
    for value in ["path.id", "identity.claims.x", "resource.owner", "request.headers.b3", "request.headers[\"b3\"]"] {
        assert_eq!(outcome(&asked, &format!("{value} == {value}")), None, "{value}");
        assert_eq!(outcome(&asked, &format!("{value} != \"x\"")), None, "{value}: and it is not something else");
    }
    assert_eq!(outcome(&asked, "has(identity.actor.subject)"), None, "nobody acts");
    assert_eq!(outcome(&asked, "has(path.id) || has(resource.owner)"), Some(false));
    assert_eq!(outcome(&asked, "\"b3\" in request.headers"), Some(false));
    assert_eq!(outcome(&asked, "has(resource.owner) && resource.owner == identity.subject"), Some(false));
    assert_eq!(outcome(&asked, "identity.scopes[0] == \"x\""), None);
}

#[test]
fn errors_are_overcome_by_what_decides_alone() {
    let asked = asked();
    let error = "resource.missing == \"x\"";
    for (text, expected) in [
        (format!("{error} || true"), Some(true)),
        (format!("true || {error}"), Some(true)),
        (format!("{error} || false"), None),
        (format!("false || {error}"), None),
        (format!("{error} || {error}"), None),
        (format!("{error} && false"), Some(false)),
        (format!("false && {error}"), Some(false)),
        (format!("{error} && true"), None),
        (format!("true && {error}"), None),
        (format!("{error} ? true : true"), None),
        (format!("true ? true : {error}"), Some(true)),
        ("identity.roles.exists(r, r == \"USER\" || resource.missing == r)".to_owned(), Some(true)),
        ("identity.roles.exists(r, r == \"NONE\" || resource.missing == r)".to_owned(), None),
        ("identity.roles.all(r, resource.missing == r)".to_owned(), None),
        ("identity.roles.all(r, r != \"OWNER\" && resource.missing == r)".to_owned(), Some(false)),
    ] {
        assert_eq!(outcome(&asked, &text), expected, "{text}");
    }
}

#[test]
fn operators_and_functions_do_what_cel_says() {
    let asked = asked();
    for (text, expected) in [
        ("1 + 2 * 3 == 7 && 7 / 2 == 3 && -7 % 4 == -3 && 5 - 8 == -3", Some(true)),
        ("9223372036854775807 + 1 == 0", None),
        ("-9223372036854775807 - 2 == 0", None),
        ("9223372036854775807 * 2 == 0", None),
        (&*format!("1{} == 46", " + 1".repeat(45)), Some(true)),
        ("1 / 0 == 1", None),
        ("1 % 0 == 1", None),
        ("-9223372036854775808 / -1 == 0", None),
        ("-(-9223372036854775808) == 0", None),
        ("\"a\" + \"b\" == 'ab' && \"B\" < \"a\"", Some(true)),
        ("size(\"\u{e9}\u{1f600}\") == 2 && \"x\\n\\x41\\u00e9\".endsWith(\"A\u{e9}\")", Some(true)),
        (r#""api-7".matches(r"^api-\d+$") && !"api-x".matches("^api-[0-9]+$")"#, Some(true)),
        ("\"xapiy\".matches(\"api\")", Some(true)),
        ("int(\"-12\") == -12 && string(-12) == \"-12\"", Some(true)),
        ("int(identity.claims.level) >= 3", Some(true)),
        ("int(\"012\") == 12", None),
        ("int(\"+1\") == 1", None),
        ("int(\" 1\") == 1", None),
        ("int(\"9223372036854775808\") == 1", None),
        ("[1, 2, 3].exists_one(n, n > 2) && ![1, 2, 3].exists_one(n, n > 1) && [1, 2].all(n, n > 0)", Some(true)),
        ("2 in [1, 2] && !(\"b\" in [\"a\"])", Some(true)),
        ("inCidr(\"2001:db8::1\", \"2001:db8::/32\") && !inCidr(\"2001:db9::1\", \"2001:db8::/32\")", Some(true)),
        ("inCidr(\"10.1.2.3\", \"::/0\")", Some(false)),
        ("inCidr(\"elsewhere\", \"0.0.0.0/0\")", None),
        ("identity.roles.exists(r, [\"A\", \"OWNER\"].exists(w, w == r))", Some(true)),
        ("(true ? [\"a\"] : identity.roles).size() == 1", Some(true)),
    ] {
        assert_eq!(outcome(&asked, text), expected, "{text}");
    }
}

/// A header that is no text may be read by others as anything.
#[test]
fn what_looks_at_a_header_that_is_no_text_is_an_error() {
    let asked = asked();
    for text in [
        "request.headers[\"x-broken\"] == \"x\"",
        "request.headers[\"x-broken\"] != \"x\"",
        "\"x-broken\" in request.headers",
        "request.headers[\"x-\" + \"broken\"].size() == 0",
    ] {
        assert_eq!(outcome(&asked, text), None, "{text}");
    }
    assert_eq!(outcome(&asked, "has(request.headers.b3)"), Some(true), "the others are as they were");
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (text, expected) in [
        ("", "line 1, column 1 of the expression: ends too early"),
        ("identity.subject ==", "line 1, column 20 of the expression: ends too early"),
        (
            "true &&\n  identity.rolez == []",
            "line 2, column 11 of the expression: there is no attribute `rolez`; there are kind, issuer",
        ),
        (
            "\"\u{e9}\" == user.name",
            "line 1, column 8 of the expression: there is no `user`; there are identity, request, path, resource and now",
        ),
        (
            "path.name == \"x\"",
            "line 1, column 5 of the expression: the rule's path has no segment `{name}`; name it there",
        ),
        ("identity.subject", "line 1, column 9 of the expression: must be true or false; this is a text"),
        (
            "identity.claims.level == 3",
            "line 1, column 23 of the expression: `==` cannot be used on a text and a whole number",
        ),
        ("identity.roles == [\"a\"]", "column 16 of the expression: `==` cannot be used on a list and a list"),
        ("identity.roles.exist(r, r == \"a\")", "there is no `r`"),
        ("size(now) == 1", "`size` cannot be called in this way with a whole number; there are size(x), "),
        ("duration(\"1s\") == now", "there is no function `duration`; there are size(x), "),
        ("startsWith(\"a\", \"b\")", "`startsWith` cannot be called in this way with a text and a text"),
        ("identity.roles.map(r, r) == []", "`map` and `filter` make lists; ask by `exists`, `exists_one` or `all`"),
        ("identity.roles.filter(r, true).size() > 1", "`map` and `filter` make lists"),
        ("request.headers.exists(h, true)", "goes through a map; only lists can be gone through"),
        ("identity.roles.exists(now, true)", "`now` stands for something else already"),
        ("identity.roles.exists(identity, true)", "`identity` stands for something else already"),
        ("[1].exists(a, [2].exists(a, true))", "`a` stands for something else already"),
        ("[1, \"a\"].size() == 2", "stands in a list of others: this is a text"),
        ("[].size() == 0", "the list is empty"),
        ("[[1]].size() == 1", "a list can hold texts and numbers, not a list"),
        ("1.5 < 2.5", "only texts in quotes, whole numbers, true and false can be written"),
        ("null == null", "only texts in quotes"),
        ("b\"a\" == b\"a\"", "a string begins inside a word"),
        ("{\"a\": 1}.a == 1", "has braces; there are no maps to be written"),
        ("identity == identity", "`==` cannot be used on a group of attributes and a group of attributes"),
        ("now.x == 1", "a whole number has no attribute `x`"),
        (".now == 1", "there is no `.now`"),
        ("\"a\".matches(identity.subject)", "must be written out, in quotes"),
        ("\"a\".matches(\"(\")", "column 13 of the expression: the pattern cannot be read: unclosed group"),
        ("\"a\".matches(\"(a{100}){100}{100}\")", "the pattern is larger than 64 KiB when it is compiled"),
        ("\"a\".matches()", "`matches` cannot be called in this way with a text"),
        ("inCidr(request.source, \"10.0.0.1/8\")", "the network has bits behind its prefix; write 10.0.0.0/8"),
        ("inCidr(request.source, \"10.0.0.1\")", "must be a network"),
        ("inCidr(request.source, \"::ffff:10.0.0.0/104\")", "must be written as an IPv4 network"),
        ("true // always", "column 6 of the expression: has a comment"),
        ("identity.`subject` == \"a\"", "has a backtick"),
        ("\"\"\"a\"\"\" == \"a\"", "has a triple quote"),
        ("\"a\\q\" == \"a\"", "column 1 of the expression: has an escape that there is not"),
        ("\"\\u12\" == \"a\"", "has an escape without all its digits"),
        ("\"a\n\" == \"a\"", "a string has no end on its line"),
        ("identity.subject == \u{ab}a\u{bb}", "has a sign that can stand in a string only"),
        ("((((((((true))))))))", ""),
        ("[[[[[[[[1]]]]]]]] == 1", "a list can hold texts and numbers, not a list"),
        ("{1:{1:{1:{1:{1:{1:{1:{1:1}}}}}}}} == 1", "has braces"),
        ("!(-(!(-(!(-(!(-(1))))))))", "`!` cannot be used on a whole number"),
        ("size(string(size(string(size(string(size(string(1)))))))) == 1", ""),
        ("(((((((((true)))))))))", "column 9 of the expression: brackets are nested more than 8 deep"),
        ("\"((((((((((\" == \"a\"", ""),
        ("r\"\\\" == '(((((((((('", ""),
    ] {
        let said = flaw(text);
        assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{text}: {said}");
    }
    assert!(flaw(&format!("\"{}\" == \"\"", "a".repeat(TEXT_BYTES_MAX))).contains("longer than 2048 bytes"));
    assert!(flaw(&format!("1{} == 1", "+1".repeat(60))).contains("nested more than 48 deep"));
    assert_eq!(flaw(&format!("true{}", " && true".repeat(200))), "", "what is joined is not nested");
    for part in [".a", "[0]", ".a()", "+1", "==1", " in a", "?a:1"] {
        assert!(!flaw(&format!("a{}", part.repeat(2_000 / part.len()))).is_empty(), "{part}");
    }
    for sign in ["!", "-", "(", "[", "{", "\"", "\\", ".", "a?"] {
        assert!(!flaw(&sign.repeat(2_000 / sign.len())).is_empty(), "{sign}");
    }
}

#[test]
fn what_an_expression_can_cost_is_known_and_bounded() {
    let steps = |text: &str| Expression::compile(text, &[]).unwrap().steps_max();
    assert_eq!(steps("true"), 1);
    // Two groups and two attributes by name, one of them among 256, and 8 KiB compared in blocks of 64 bytes.
    assert_eq!(steps("identity.subject == resource.owner"), 1 + (4 + 5) + (4 + 5 + 16) + 128);
    // 1,024 items of 512 bytes at most are gathered, and compared with a text of five bytes: in one block each.
    assert_eq!(steps("\"ADMIN\" in identity.roles"), 1 + 1 + (4 + 5 + 1_024) + 1_024 * 2);
    // What is sought is longer than any item: it is not looked for.
    let sought = steps("identity.roles.exists(r, r.contains(resource.a))");
    assert!(sought < steps("identity.roles.exists(r, r.contains(\"a\"))") + 1_024 * 40, "{sought}");
    let once = steps("identity.roles.exists(r, r.startsWith(\"a\"))");
    assert!((1_024 * 8..STEPS_MAX).contains(&once), "{once}");
    let twice = flaw("identity.roles.exists(r, r in identity.scopes)");
    assert!(twice.contains("steps for a large call, more than 140000"), "{twice}");
    // Texts that grow from loop to loop are reckoned with.
    let doubled = (0..5).fold("x4.size() > 0".to_owned(), |inner, at| {
        let of = if at == 4 { "identity.subject".to_owned() } else { format!("x{}", 3 - at) };
        format!("[{of} + {of} + {of} + {of}].exists(x{}, {inner})", 4 - at)
    });
    assert!(flaw(&doubled).contains("steps for a large call"), "{doubled}");
}

#[test]
fn what_is_larger_than_what_was_reckoned_with_has_no_value() {
    let mut asked = asked();
    let long: &'static str = Box::leak("x".repeat(VALUE_BYTES_MAX + 1).into_boxed_str());
    let names: Vec<String> = (0..=NAMES_MAX).map(|number| format!("h{number}")).collect();
    let names: &'static [String] = names.leak();
    for (count, expected) in [(NAMES_MAX, Some(true)), (NAMES_MAX + 1, None)] {
        asked.question.headers = Headers::new(names[..count].iter().map(|name| (name.as_str(), Some("1"))).collect());
        assert_eq!(outcome(&asked, "request.headers.h0 == \"1\""), expected, "{count} headers");
    }
    for (value, expected) in [(&long[1..], Some(true)), (long, None)] {
        asked.question.resource = vec![("note", value)];
        assert_eq!(outcome(&asked, "resource.note.contains(\"x\")"), expected, "{} bytes", value.len());
        assert_eq!(outcome(&asked, "has(resource.note)"), expected, "{} bytes", value.len());
    }
    for (items, bytes, expected) in
        [(ITEMS_MAX, ITEM_BYTES_MAX, Some(true)), (ITEMS_MAX + 1, 1, None), (1, ITEM_BYTES_MAX + 1, None)]
    {
        asked.identity.roles = vec![long[..bytes].into(); items].into();
        assert_eq!(outcome(&asked, "!(\"a\" in identity.roles)"), expected, "{items} of {bytes} bytes");
    }
}

/// Expressions whose kinds fit, small enough to be many.
fn expressions() -> impl Strategy<Value = String> {
    let words =
        ["identity.subject", "identity.client", "resource.owner", "path.id", "identity.roles[0]", "request.method"];
    let word = prop_oneof![
        prop::sample::select(words.map(str::to_owned).to_vec()),
        "[a-c\u{e9}]{0,2}".prop_map(|text| format!("\"{text}\"")),
    ];
    let text = prop_oneof![word.clone(), (word.clone(), word).prop_map(|(left, right)| format!("({left} + {right})"))];
    let figure = prop_oneof![
        prop::sample::select(["now", "identity.expires_at", "identity.issued_at"].map(str::to_owned).to_vec()),
        any::<i64>().prop_map(|number| number.to_string()),
        (-2_i64..3).prop_map(|number| number.to_string()),
        text.clone().prop_map(|text| format!("size({text})")),
    ];
    let signs = prop::sample::select(["+", "-", "*", "/", "%"].to_vec());
    let number = (figure.clone(), signs, figure).prop_map(|(left, sign, right)| format!("({left} {sign} {right})"));
    let compares = || prop::sample::select(["==", "!=", "<", "<=", ">", ">="].to_vec());
    let leaf = prop_oneof![
        prop::sample::select(vec![
            "true".to_owned(),
            "false".to_owned(),
            "has(resource.owner)".to_owned(),
            "has(identity.subject)".to_owned(),
            "\"owner\" in resource".to_owned(),
        ]),
        (text.clone(), compares(), text.clone()).prop_map(|(left, sign, right)| format!("{left} {sign} {right}")),
        (number.clone(), compares(), number).prop_map(|(left, sign, right)| format!("{left} {sign} {right}")),
        text.clone().prop_map(|text| format!("{text} in identity.roles")),
        (text.clone(), text.clone()).prop_map(|(of, part)| format!("{of}.contains({part})")),
        (text.clone(), text).prop_map(|(of, part)| format!("{of}.startsWith({part})")),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            pair.clone().prop_map(|(left, right)| format!("({left} || {right})")),
            pair.clone().prop_map(|(left, right)| format!("({left} && {right})")),
            pair.prop_map(|(left, right)| format!("identity.roles.exists(x, x == \"a\" || {left}) && {right}")),
            inner.clone().prop_map(|each| format!("[\"a\", \"b\"].all(y, y != \"a\" && {each})")),
            inner.clone().prop_map(|of| format!("!({of})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(of, yes, no)| format!("({of} ? {yes} : {no})")),
        ]
    })
}

/// The same by the crate alone: its own functions, and plain maps and lists of all there is.
fn by_the_book(text: &str, asked: &Asked, owner: Option<&str>) -> bool {
    let Identity { subject, client, roles, expires_at, issued_at, .. } = &asked.identity;
    let list = |texts: &[Box<str>]| Value::from(texts.iter().map(|text| Value::from(&**text)).collect::<Vec<_>>());
    let number = |moment: Micros| Value::Int(i64::try_from(moment.as_secs()).unwrap());
    let identity = [
        ("subject", subject.as_deref().map(Value::from)),
        ("client", client.as_deref().map(Value::from)),
        ("roles", Some(list(roles))),
        ("expires_at", expires_at.map(number)),
        ("issued_at", issued_at.map(number)),
    ];
    let there = |pairs: &[(&'static str, Option<Value>)]| -> HashMap<&'static str, Value> {
        pairs.iter().filter_map(|(name, value)| Some((*name, value.clone()?))).collect()
    };
    let mut context = Context::default();
    context.add_variable_from_value("identity", there(&identity));
    context.add_variable_from_value("resource", there(&[("owner", owner.map(Value::from))]));
    context.add_variable_from_value("request", there(&[("method", Some("DELETE".into()))]));
    context.add_variable_from_value("path", there(&[("id", Some("alice".into()))]));
    context.add_variable_from_value("now", number(NOW));
    cel::Program::compile(text).unwrap().execute(&context) == Ok(Value::Bool(true))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any text is compiled or refused, at a place that is in it.
    #[test]
    fn any_text_is_an_expression_or_has_a_flaw(text in prop_oneof![
        any::<String>(),
        "[a-z0-9 \"'(){}\\[\\].,:?!&|<>=+*/%@`\\\\\n-]{0,64}",
        "(identity|request|has|\\.|\\(|\\)|\\[|\\]|\"|\\\\|r\"|b'|\"\"\"|//|==|&&| in |1|u|e|\\?|:|\\{|\\}|\u{e9}){0,40}",
    ]) {
        match Expression::compile(&text, &["id"]) {
            Ok(expression) => prop_assert!(expression.steps_max() <= STEPS_MAX),
            Err(Flaw { line, column, message }) => {
                let lines = text.matches('\n').count() + 1;
                prop_assert!((1..=lines).contains(&line) && column >= 1, "{line}:{column} {message}");
                prop_assert!(!message.chars().any(char::is_control), "{message}");
            }
        }
    }

    /// What fits is accepted, but for what it could cost, and is true of a call where CEL says so.
    #[test]
    fn what_is_true_is_what_cel_says(
        text in expressions(),
        subject in prop::option::of("[a-c]{0,2}"),
        roles in prop::collection::vec("[a-c]{0,2}", 0..3),
        owner in prop::option::of("[a-c]{0,2}"),
    ) {
        let mut asked = asked();
        asked.identity.subject = subject.map(Into::into);
        asked.identity.roles = roles.into_iter().map(Into::into).collect();
        let resource = owner.as_deref().map(|owner| ("owner", owner)).into_iter().collect();
        let question = Question { resource, ..asked.question.clone() };
        let call = Call { question: &question, pattern: Some(&asked.pattern), now: NOW };
        for text in [&text, &format!("!({text})")] {
            match Expression::compile(text, &["id"]) {
                Ok(expression) => {
                    let expected = by_the_book(text, &asked, owner.as_deref());
                    prop_assert_eq!(expression.holds(&asked.identity, call), expected, "{}", text);
                }
                Err(flaw) => {
                    let is_of_size = ["steps for a large call", "deep", "stands for something else", "longer than"];
                    prop_assert!(is_of_size.iter().any(|why| flaw.message.contains(why)), "{text}: {flaw}");
                }
            }
        }
    }
}
