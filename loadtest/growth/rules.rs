//! Rules: a path of its own for each.

use std::fmt::Write as _;

use prost::Message as _;
use tollgate::decide::ports::Clock as _;
use tollgate::proto as pb;

use super::load::{Load, Target, any_of, measure};
use super::{Field, Growing, Point, say_at};

/// A configuration has no more of anything.
const SIZES: [u64; 4] = [10, 100, 1_000, 10_000];

/// Calls in flight.
const CALLS: usize = 2;

/// Measures every size.
pub(super) async fn take(field: &Field<'_>) -> Result<Vec<Point>, String> {
    let start = async |name: &str, size| {
        let asked = field.clock.steady();
        let server = field.server(name, configuration(size)).await?;
        let ready = field.clock.steady() - asked;
        Ok::<_, String>((Target::new(vec![server], None).await?, ready.into()))
    };
    let sizes = field.sizes(&SIZES, 4);
    let fewest = sizes.first().copied().unwrap_or(0);
    let (few, _) = start("few rules", fewest).await?;
    let mut points = Vec::new();
    for &size in sizes {
        say_at(Growing::Rules, size);
        let (many, ready) = start(&format!("{size} rules"), size).await?;
        let (any, any_of_few) = (any_of(size), any_of(fewest));
        let load = |draw| Load { calls: CALLS, draw, question: &question, all_allowed: true };
        let costs = measure(Some((&few, &load(&any_of_few))), (&many, &load(&any)), field.pace, field.clock).await?;
        points.push(Point { ready: Some(ready), ..Point::new(size, costs, many.resident()?) });
    }
    Ok(points)
}

fn question(rule: u64) -> Vec<u8> {
    let request = pb::RequestAttributes {
        method: "GET".to_owned(),
        path: format!("/service-{rule}/orders/1"),
        ..pb::RequestAttributes::default()
    };
    pb::DecideRequest { request: Some(request), ..pb::DecideRequest::default() }.encode_to_vec()
}

fn configuration(rules: u64) -> String {
    let mut text = r#"listen: { grpc: "127.0.0.1:0", http: "127.0.0.1:0", admin: "127.0.0.1:0" }
limits:
  all: { units: 1000000000000, window: 1h }
rules:
"#
    .to_owned();
    for rule in 0..rules {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "  - {{ match: {{ path: \"/service-{rule}/**\" }}, permit: anyone, limits: [all] }}");
    }
    text
}
