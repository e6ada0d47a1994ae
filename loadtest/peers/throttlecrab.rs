//! throttlecrab-server, as a yardstick: its process, and the messages that it is asked with.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use prost::Message;

use super::connected;
use crate::cores::{Cores, command_on};
use crate::load::connection::{Connection, Question};
use crate::load::message::Answer;
use crate::process::Process;
use crate::redis::free_port;

/// The most that a question can ask for, a minute and at once.
const UNITS: i32 = i32::MAX;

/// In seconds.
const WINDOW: i32 = 60;

/// A running throttlecrab-server.
pub(crate) struct Throttlecrab {
    /// Its process.
    pub process: Process,
    /// Where it serves gRPC.
    pub grpc: SocketAddr,
}

impl Throttlecrab {
    /// Starts it as it comes, with gRPC alone, and makes sure that it limits.
    pub(crate) async fn start(program: &Path, cores: Cores) -> Result<Self, String> {
        let grpc: SocketAddr = (Ipv4Addr::LOCALHOST, free_port()?).into();
        let mut command = command_on(cores.server, program);
        command.args(["--grpc", "--grpc-host", "127.0.0.1", "--grpc-port", &grpc.port().to_string()]);
        let process = Process::start("throttlecrab-server", command)?;
        // It answers like any other.
        drop(connected("throttlecrab-server", grpc).await?);
        let connection = Connection::<Throttled>::open(grpc).await?;
        // With a burst of one it forgets each key at once (version 0.4.40), and limits nothing.
        let two = Throttle { max_burst: 2, count_per_period: 1, ..Throttle::new("two".to_owned()) };
        let two = Question::call(&two.encode_to_vec());
        for _ in 0..2 {
            connection.ask(two.clone()).await.map_err(|problem| format!("throttlecrab-server: {problem}"))?;
        }
        match connection.ask(two).await {
            Err(_) => Ok(Self { process, grpc }),
            Ok(_) => Err("throttlecrab-server allows more than the limit".to_owned()),
        }
    }
}

/// The question for two limits: one call for each of them, since a call has one key.
pub(crate) fn question(key: u64) -> Question {
    let [first, second] = [1, 2].map(|limit| Throttle::new(format!("limit-{limit}_{key}")).encode_to_vec());
    Question::calls(&first, &second)
}

/// `throttlecrab.ThrottleRequest`.
#[derive(Clone, PartialEq, Message)]
struct Throttle {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(int32, tag = "2")]
    max_burst: i32,
    #[prost(int32, tag = "3")]
    count_per_period: i32,
    #[prost(int32, tag = "4")]
    period: i32,
    #[prost(int32, tag = "5")]
    quantity: i32,
}

impl Throttle {
    /// One unit of a limit that is never reached.
    const fn new(key: String) -> Self {
        Self { key, max_burst: UNITS, count_per_period: UNITS, period: WINDOW, quantity: 1 }
    }
}

/// `throttlecrab.ThrottleResponse`, as far as it is read.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Throttled {
    #[prost(bool, tag = "1")]
    allowed: bool,
}

impl Answer for Throttled {
    const PATH: &'static str = "/throttlecrab.RateLimiter/Throttle";

    fn allows(&self) -> Option<u64> {
        self.allowed.then_some(1)
    }
}
