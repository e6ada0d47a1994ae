//! The calls of the table that are made to be read in two ways, by a real Envoy: whatever is refused natively does not get
//! to the service, and what Envoy lets through to Tollgate gets the same answer.

use std::collections::BTreeSet;

use super::{Bench, PATIENT, Setup};
use crate::support::envoy::Answer;
use crate::support::paths::{Case, Reading, Shown, cases, policy};
use crate::support::signer::Signer;

/// What became of a call.
#[derive(Debug, PartialEq, Eq)]
enum Became {
    /// Envoy refused it without asking.
    Envoys(u16),
    /// Tollgate's answer, as the table writes it, without the rule.
    Ours(String),
}

impl Became {
    fn of(answer: &Answer) -> Self {
        match (answer.status, answer.header("content-type")) {
            (200, _) => Self::Ours("allowed".to_owned()),
            (400, Some("application/problem+json")) => Self::Ours("400".to_owned()),
            // An answer to HEAD has no body, and says no more.
            (403, Some("application/problem+json")) if answer.body.is_empty() => {
                Self::Ours("insufficient_role".to_owned())
            }
            (_, Some("application/problem+json")) => Self::Ours(answer.json()["reason"].as_str().unwrap().to_owned()),
            (status, _) => Self::Envoys(status),
        }
    }
}

/// Rows of which Envoy refuses some calls itself: what is no request of HTTP/1.1, methods that it does not know, what has a
/// NUL, a `#` or other bytes than ASCII in it, and what is larger than it reads.
const ENVOYS: [u8; 13] = [11, 12, 20, 21, 22, 25, 26, 27, 28, 30, 34, 40, 44];

/// Calls that Envoy has read before it asks, and forwards as it has read them: spaces around a target or method are none of
/// it, and a target in absolute form replaces `Host`.
const READ_BEFORE: [(&str, &str, &str, &str); 7] = [
    ("GET", "http://evil/api/public", "allowed", "evil"),
    ("GET", "http://api.example.com@evil/api/public", "allowed", "evil"),
    ("GET", "HTTP://api.example.com/api/public/x", "allowed", "api.example.com"),
    ("GET", " /api/admin", "insufficient_role", ""),
    ("GET", "/api/admin ", "insufficient_role", ""),
    ("GET", "/api/admin\t", "insufficient_role", ""),
    ("DELETE\t", "/api/orders/1", "insufficient_role", ""),
];

#[tokio::test]
async fn no_call_of_two_readings_gets_to_the_service() {
    let signer = Signer::ec("k");
    let yaml = format!(
        "issuers: [{{ issuer: 'https://auth.example', audiences: [orders], jwks: {{ keys: [{}] }} }}]\n{}",
        signer.jwk(),
        policy(Reading::Strict)
    );
    let Some(bench) = Bench::start_by(&yaml, signer, Setup { envoy: &[PATIENT], ..Setup::default() }).await else {
        return;
    };
    let good = bench.bearer("ann", "orders");
    let (mut wrong, mut envoys) = (Vec::new(), BTreeSet::new());
    for case in cases().into_iter().filter(|case| case.reading == Reading::Strict) {
        let Case { row, method, host, target, headers, shown, native, .. } = case;
        let shown = match shown {
            Shown::Good => format!("{good}\r\n"),
            Shown::Bad => "Authorization: Bearer no.such.token\r\n".to_owned(),
            Shown::Nothing => String::new(),
        };
        let headers: String = headers.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{shown}{headers}\r\n");
        let became = Became::of(&bench.envoy.send(head.as_bytes()).await);
        let seen = bench.service.seen();
        let read_before = READ_BEFORE.iter().find(|(of, at, ..)| (*of, *at) == (method, target.as_str()));
        let wanted = read_before.map_or_else(|| native.rsplit(' ').next().unwrap(), |(_, _, reason, _)| reason);
        let fits = match &became {
            Became::Envoys(status) => {
                envoys.insert(row);
                (400..500).contains(status)
            }
            Became::Ours(told) => told == wanted,
        };
        let passed = became == Became::Ours("allowed".to_owned());
        // What goes on is what was asked about.
        let as_read = read_before.is_none_or(|(.., host)| {
            seen.iter().all(|seen| seen.all("host") == [*host] && target.ends_with(seen.target.as_str()))
        });
        if !fits || seen.len() != usize::from(passed) || !as_read {
            let target: String = target.chars().take(80).collect();
            wrong.push(format!("{row}: {method} {target:?} at {host}: {became:?}, not {wanted}; {seen:?} went on"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(envoys.into_iter().collect::<Vec<_>>(), ENVOYS);
}
