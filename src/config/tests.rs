//! Configurations to values, and to problems.
#[test]
fn probe() {
    for text in [
        "",
        "# only\n",
        "---\n",
        "{}",
        "[]",
        "a",
        "\u{feff}{}",
        "\tlisten: {}\n",
        "listen:\n\tgrpc: x\n",
        "limits:\n  a:\n    units: \n    window: 1s\n    by:\n",
        "a: [",
        "rules: [{]",
        "a: &x b\n",
        "*x",
        "a: !!str b\n",
        "--- {}\n--- {}\n",
        "%YAML 1.2\n---\n{}\n",
        "? [a]\n: b\n",
        "a: 'x",
        "rules:\n- \n",
        ": x\n",
        "a: b: c\n",
        "\"\\ud800\": 1",
        "a: b\nc\n",
        "limits: {a: {units: ${UNITS}, window: 1s}}",
        "a: 1\n b: 2\n",
        "'a': |\n  x",
        "\0",
    ] {
        match super::parse(text, "t.yaml", &|_| None) {
            Ok((_, w)) => println!("{text:?} ok {w:?}"),
            Err(p) => println!("{text:?}\n{p}"),
        }
    }
    let deep = "[".repeat(4 << 20);
    println!("{}", super::parse(&deep, "deep", &|_| None).unwrap_err());
}
