//! Other services that limit rates, as yardsticks: their processes, and the messages that they are asked with.

pub(crate) mod ratelimit;
pub(crate) mod throttlecrab;

use std::net::SocketAddr;
use std::time::Duration;

use tollgate::decide::ports::Clock as _;
use tollgate::server::SystemClock;
use tonic::transport::Channel;

use crate::load;
use crate::process::START_MAX;

/// How often one is tried while it starts.
const TRY_INTERVAL: Duration = Duration::from_millis(50);

/// Connects to `name` as soon as it listens.
async fn connected(name: &str, address: SocketAddr) -> Result<Channel, String> {
    let clock = SystemClock::start();
    let deadline = clock.steady() + START_MAX.into();
    loop {
        match load::connect(address).await {
            Ok(channel) => return Ok(channel),
            Err(_) if clock.steady() < deadline => tokio::time::sleep(TRY_INTERVAL).await,
            Err(problem) => return Err(format!("{name} did not listen within {START_MAX:?}: {problem}")),
        }
    }
}
