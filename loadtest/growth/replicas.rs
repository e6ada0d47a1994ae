//! Replicas over one Redis, a cluster's only node: the same traffic, divided among more and more of them.

use super::counters::{configuration, question};
use super::load::{Load, Target, measure};
use super::{Field, Growing, Point, say_at};
use crate::redis::Done;
use crate::traffic::{Keys, Traffic};

/// All of them on one core.
const SIZES: [u64; 5] = [1, 2, 3, 4, 5];

/// Calls in flight, at all replicas together.
const CALLS: usize = 60;

/// Measures every size.
pub(super) async fn take(field: &Field<'_>) -> Result<Vec<Point>, String> {
    let mut points = Vec::new();
    for &size in field.sizes(&SIZES, 5) {
        say_at(Growing::Replicas, size);
        // A Redis of their own, so that nobody counts those of before.
        let redis = field.cluster().await?;
        let mut connection = redis.connect().await?;
        let mut servers = Vec::new();
        for replica in 0..size {
            servers.push(field.server(&format!("replica {replica} of {size}"), configuration(Some(&redis))).await?);
        }
        let target = Target::new(servers, Some(connection.clone())).await?;
        let keys = Keys::new(Traffic::Mixed);
        let draw = |_| keys.draw();
        let calls = CALLS / usize::try_from(size).unwrap_or(1);
        let load = Load { calls, draw: &draw, question: &question, all_allowed: true };
        let costs = measure(None, (&target, &load), field.pace, field.clock).await?;
        let memory = Done::so_far(&mut connection).await?.memory;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let redis_memory = Some(memory as f64);
        points.push(Point { redis_memory, ..Point::new(size, costs, target.resident()?) });
    }
    Ok(points)
}
