//! Who may see whom: the arrows of ARCHITECTURE.md, and the home of each crate that is not for everybody.

use std::collections::BTreeSet;

use super::Source;
use super::paths::{Named, module_of, named};

/// What each module may see of the others; a path stands for everything below it. A module that sees all has no row in
/// here but in [`SEE_ALL`].
const ARROWS: [(&str, &[&str]); 10] = [
    ("domain", &[]),
    ("telemetry", &["domain"]),
    ("decide", &["domain", "telemetry"]),
    ("quotas", &["domain", "decide::ports", "telemetry"]),
    ("stores", &["domain", "decide::ports", "telemetry"]),
    ("tokens", &["domain", "decide::ports", "telemetry"]),
    ("revocation", &["domain", "decide::ports", "telemetry"]),
    ("api", &["domain", "decide", "telemetry", "proto"]),
    ("config", &["domain"]),
    ("cli", &["config", "decide::ports", "domain", "proto", "server", "telemetry"]),
];

/// The composition root, and the program's entry.
const SEE_ALL: [&str; 3] = ["server", "main", "lib"];

/// Crates, and parts of the standard library, that only these modules may name.
const HOMES: [(&str, &[&str]); 20] = [
    ("tonic", &["api", "server", "cli", "lib"]),
    ("tonic_prost", &["api", "server", "lib"]),
    ("tonic_types", &["api", "server", "cli"]),
    ("tonic_health", &["server"]),
    ("tonic_reflection", &["server"]),
    ("prost", &["api", "server", "lib"]),
    ("prost_types", &["api", "server", "cli", "lib"]),
    ("axum", &["api", "server"]),
    ("redis", &["stores", "quotas", "tokens", "revocation"]),
    ("dashmap", &["stores", "quotas", "tokens", "revocation"]),
    ("jsonwebtoken", &["tokens", "server"]),
    ("granit_parser", &["config"]),
    ("metrics_exporter_prometheus", &["telemetry"]),
    ("mimalloc", &["main"]),
    ("clap", &["main", "cli", "telemetry"]),
    ("notify", &["server"]),
    ("tokio_rustls", &["server"]),
    ("x509_parser", &["domain"]),
    ("cel", &["domain"]),
    ("regex", &["domain"]),
];

/// Crates that do no input or output, start nothing and keep no time: all that `domain` may name beside `std`.
const PURE: [&str; 15] = [
    "aws_lc_rs",
    "base64",
    "cel",
    "foldhash",
    "hashbrown",
    "http",
    "ipnet",
    "proptest",
    "rcgen",
    "regex",
    "serde",
    "smallvec",
    "thiserror",
    "x509_parser",
    "xxhash_rust",
];

/// Parts of the standard library that reach outside or keep time: nothing for `domain` and `decide`.
const OUTSIDE: [&str; 12] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
];

/// The modules that are functions of their arguments, time included.
const NOTHING_OUTSIDE: [&str; 2] = ["domain", "decide"];

/// Every path in `sources` that breaks a rule, as `file:line: what is wrong`. `dependencies` are the names of all
/// crates that `Cargo.toml` names, as Rust writes them.
pub(super) fn broken(sources: &[Source], dependencies: &BTreeSet<String>) -> Vec<String> {
    let mut problems = Vec::new();
    for Source { file, text } in sources.iter().filter(|source| source.file.starts_with("src/")) {
        let module = module_of(file);
        let top = module.first().map_or("lib", String::as_str);
        if !SEE_ALL.contains(&top) && !ARROWS.iter().any(|(from, _)| *from == top) {
            problems.push(format!("{file}:1: `{top}` has no row in ARROWS of tests/tidy/arrows.rs"));
            continue;
        }
        match named(text, &module) {
            Err(error) => problems.push(format!("{file}:1: {error}")),
            Ok(paths) => {
                let rules = [across, at_home, pure, inside];
                for path in &paths {
                    let broken = rules.iter().filter_map(|rule| rule(top, path, dependencies));
                    problems.extend(broken.map(|problem| format!("{file}:{}: {problem}", path.line)));
                }
            }
        }
    }
    problems
}

/// An arrow between two of our modules.
fn across(top: &str, path: &Named, _: &BTreeSet<String>) -> Option<String> {
    let inside = path.segments.strip_prefix(&["crate".to_owned()])?;
    if SEE_ALL.contains(&top) || inside.first().is_some_and(|to| to == top) {
        return None;
    }
    let (_, seen) = ARROWS.iter().find(|(from, _)| *from == top)?;
    if seen.iter().any(|seen| begins(inside, seen)) {
        return None;
    }
    let seen = if seen.is_empty() { "nothing of ours".to_owned() } else { seen.join(", ") };
    Some(format!("`{top}` sees {seen}; it names `{}`", path.segments.join("::")))
}

/// A crate that is named away from home.
fn at_home(top: &str, path: &Named, _: &BTreeSet<String>) -> Option<String> {
    let (name, homes) = HOMES.iter().find(|(name, _)| path.segments[0] == *name)?;
    if homes.contains(&top) {
        return None;
    }
    Some(format!("`{name}` stays in {}; `{top}` names `{}`", homes.join(", "), path.segments.join("::")))
}

/// A crate in `domain` that is not known to be pure.
fn pure(top: &str, path: &Named, dependencies: &BTreeSet<String>) -> Option<String> {
    let name = &path.segments[0];
    if top != "domain" || !dependencies.contains(name) || PURE.contains(&name.as_str()) {
        return None;
    }
    Some(format!("`domain` uses no crate but those in PURE; it names `{}`", path.segments.join("::")))
}

/// Input, output or a clock where everything comes as an argument.
fn inside(top: &str, path: &Named, _: &BTreeSet<String>) -> Option<String> {
    if !NOTHING_OUTSIDE.contains(&top) {
        return None;
    }
    let glob = path.segments.strip_suffix(&["*".to_owned()]);
    let reaches = |outside: &str| {
        begins(&path.segments, outside) || glob.is_some_and(|within| outside.starts_with(&within.join("::")))
    };
    let outside = OUTSIDE.iter().find(|outside| reaches(outside))?;
    Some(format!("`{outside}` is not for `{top}`, where time and input are arguments"))
}

/// Whether `path` is `start`, which is written with `::`, or lies below it.
fn begins(path: &[String], start: &str) -> bool {
    let start: Vec<&str> = start.split("::").collect();
    path.len() >= start.len() && path.iter().zip(&start).all(|(segment, start)| segment == start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, text: &str, expected: &[&str]) {
        let dependencies = ["tokio", "redis", "arc_swap", "smallvec"].map(str::to_owned).into();
        let source = Source { file: file.to_owned(), text: text.to_owned() };
        assert_eq!(broken(&[source], &dependencies), expected, "{file}: {text}");
    }

    #[test]
    fn an_arrow_the_wrong_way_is_found() {
        check(
            "src/domain/time.rs",
            "\nuse crate::decide::Decider;",
            &["src/domain/time.rs:2: `domain` sees nothing of ours; it names `crate::decide::Decider`"],
        );
        check(
            "src/stores/redis.rs",
            "use super::super::{domain::time::Micros, quotas::Leases};",
            &[
                "src/stores/redis.rs:1: `stores` sees domain, decide::ports, telemetry; it names `crate::quotas::Leases`",
            ],
        );
        check(
            "src/tokens/jwt.rs",
            "use crate::decide::{Decider, ports::TokenInspector};",
            &["src/tokens/jwt.rs:1: `tokens` sees domain, decide::ports, telemetry; it names `crate::decide::Decider`"],
        );
        check(
            "src/config/mod.rs",
            "fn f() { let x = crate::server::build(); }",
            &["src/config/mod.rs:1: `config` sees domain; it names `crate::server::build`"],
        );
        check(
            "src/api/mod.rs",
            "use crate as all;",
            &["src/api/mod.rs:1: `api` sees domain, decide, telemetry, proto; it names `crate`"],
        );
    }

    #[test]
    fn an_arrow_the_right_way_is_none_of_our_business() {
        check("src/stores/redis.rs", "use crate::decide::ports::{self, Clock};", &[]);
        check("src/api/native/mod.rs", "use crate::decide::Decider; use super::codes; use crate::api::codes;", &[]);
        check("src/server/build.rs", "use crate::{api, config, stores}; use tonic::Status;", &[]);
        check("src/main.rs", "use tollgate::server;", &[]);
        check("src/lib.rs", "pub mod proto { tonic::include_proto!(\"tollgate.v1\"); }", &[]);
    }

    #[test]
    fn a_crate_away_from_home_is_found() {
        check(
            "src/decide/mod.rs",
            "fn f() { tonic::Status::ok(\"\") }",
            &["src/decide/mod.rs:1: `tonic` stays in api, server, cli, lib; `decide` names `tonic::Status::ok`"],
        );
        check(
            "src/api/native/mod.rs",
            "fn f(c: &mut redis::Client) {}",
            &[
                "src/api/native/mod.rs:1: `redis` stays in stores, quotas, tokens, revocation; `api` names `redis::Client`",
            ],
        );
    }

    #[test]
    fn input_output_and_clocks_in_the_core_are_found() {
        check(
            "src/domain/window.rs",
            "use tokio::sync::Mutex; use smallvec::SmallVec;",
            &["src/domain/window.rs:1: `domain` uses no crate but those in PURE; it names `tokio::sync::Mutex`"],
        );
        check(
            "src/domain/window.rs",
            "use std::net::{IpAddr, TcpStream};",
            &["src/domain/window.rs:1: `std::net::TcpStream` is not for `domain`, where time and input are arguments"],
        );
        check(
            "src/decide/mod.rs",
            "fn f() { std::time::Instant::now() }",
            &["src/decide/mod.rs:1: `std::time::Instant` is not for `decide`, where time and input are arguments"],
        );
        check(
            "src/domain/window.rs",
            "use std::time::*;",
            &["src/domain/window.rs:1: `std::time::Instant` is not for `domain`, where time and input are arguments"],
        );
        check("src/domain/window.rs", "use std::time::Duration; use std::net::IpAddr;", &[]);
    }

    #[test]
    fn a_new_module_needs_a_row() {
        check("src/audit/mod.rs", "", &["src/audit/mod.rs:1: `audit` has no row in ARROWS of tests/tidy/arrows.rs"]);
    }

    #[test]
    fn what_is_no_rust_is_found() {
        check(
            "src/domain/time.rs",
            "fn f( {",
            &["src/domain/time.rs:1: cannot be read as Rust: cannot parse string into token stream"],
        );
    }
}
