//! Calls that are made to be read in two ways, asked about over gRPC.

use std::collections::BTreeSet;

use tollgate::decide::ports::Clock as _;
use tollgate::proto as pb;
use tollgate::server::dev::DevIssuer;
use tonic::Code;

use crate::support::calls::fields;
use crate::support::paths::{Case, Reading, Shown, cases, policy};
use crate::support::server::{Tollgate, question};

/// Tricks that this project promised to know at the least: 1 to this.
const ROWS_PROMISED: u8 = 38;

#[test]
fn every_trick_that_was_promised_is_tried() {
    let tried: BTreeSet<u8> = cases().iter().map(|case| case.row).collect();
    let missing: Vec<u8> = (1..=ROWS_PROMISED).filter(|row| !tried.contains(row)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test]
async fn a_call_with_two_readings_is_refused_before_any_rule() {
    assert_answers(Reading::Strict).await;
}

/// Every call of `reading` gets the answer that the table has.
async fn assert_answers(reading: Reading) {
    let issuer = DevIssuer::new().expect("the system has randomness");
    let key = issuer.public_key();
    let policy = policy(reading);
    let yaml = format!(
        "issuers: [{{ issuer: 'https://dev.tollgate.invalid', audiences: [demo], jwks: {{ keys: [{key}] }} }}]\n{policy}"
    );
    let tollgate = Tollgate::start(&yaml).await;
    let token = issuer.token("ann", "orders", tollgate.clock.now().wall).expect("the system has randomness");
    let mut decisions = tollgate.decisions().await;
    let mut wrong = Vec::new();
    for case in cases().into_iter().filter(|case| case.reading == reading) {
        let Case { row, method, host, target, headers, shown, native, .. } = case;
        let token = match shown {
            Shown::Good => Some(token.as_str()),
            Shown::Bad => Some("no.such.token"),
            Shown::Nothing => None,
        };
        let mut wire = question(method, &target, token);
        if let Some(request) = &mut wire.request {
            host.clone_into(&mut request.host);
            request.headers = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        }
        let told = match decisions.decide(wire).await {
            Ok(answer) => told(&answer.into_inner()),
            Err(status) if status.code() == Code::InvalidArgument && !fields(&status).is_empty() => "400".to_owned(),
            Err(status) => format!("{status:?}"),
        };
        if told != native {
            let target: String = target.chars().take(80).collect();
            wrong.push(format!("{row}: {method} {target:?} at {host} with {headers:?}: {told}, not {native}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {reading:?} are answered otherwise:\n{}", wrong.len(), wrong.join("\n"));
}

/// The rule and the reason.
fn told(answer: &pb::DecideResponse) -> String {
    let rule = if answer.rule.is_empty() { "-" } else { &answer.rule };
    format!("{rule} {}", answer.detail)
}
