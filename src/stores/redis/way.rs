//! The way to the server that a link leads to: straight, or by asking Sentinels which one is the master now.

use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, Value, cmd};
use tokio::time::timeout;
use tracing::warn;

use super::access::{Access, Address};
use super::cause_of;
use super::turns::Driven;
use crate::decide::ports::AwayCause;

/// How long one attempt to connect may take, the greeting included; and one answer, where the caller has no shorter
/// deadline.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long one Sentinel may take, connecting included, before the next one is asked.
const SENTINEL_TIMEOUT: Duration = Duration::from_millis(500);

/// Commands that may queue for the socket before callers wait.
const QUEUE: usize = 1_024;

/// Where a link leads.
pub(super) enum Way {
    /// To this server, whatever it is.
    Straight(Box<Client>),
    /// To the one that the Sentinels say is the master.
    Master(Box<Sentinels>),
}

pub(super) struct Sentinels {
    /// The one that is asked first is the one that knew last.
    pub(super) addresses: Vec<Address>,
    pub(super) access: Access,
    /// How the master is reached.
    pub(super) master: Access,
    pub(super) service: String,
    /// Whether it was logged already that the configuration is wrong.
    pub(super) warned: bool,
}

impl Way {
    /// A connection to where the way leads now.
    pub(super) async fn connect(&mut self) -> Result<Driven, AwayCause> {
        match self {
            Self::Straight(client) => Driven::to(client).await.map_err(|error| cause_of(&error)),
            Self::Master(sentinels) => sentinels.connect().await,
        }
    }

    /// Whether a connection that is idle still leads to where it should; else why not.
    pub(super) async fn check(&self, connection: &mut MultiplexedConnection) -> Result<(), AwayCause> {
        let answer = match self {
            Self::Straight(_) => cmd("PING").query_async::<()>(connection).await,
            Self::Master(_) => return is_master(connection).await,
        };
        match answer {
            Err(error) if error.is_io_error() || error.is_unrecoverable_error() => Err(AwayCause::Unreachable),
            // A server that refuses the command is there.
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Sentinels {
    async fn connect(&mut self) -> Result<Driven, AwayCause> {
        let mut because = AwayCause::Unreachable;
        for place in 0..self.addresses.len() {
            match timeout(SENTINEL_TIMEOUT, self.ask(place)).await.unwrap_or(Err(AwayCause::Unreachable)) {
                Ok(master) => {
                    self.warned = false;
                    self.addresses.swap(0, place);
                    let client = self.master.client(&master).map_err(|_| AwayCause::Garbled)?;
                    let mut driven = Driven::to(&client).await.map_err(|error| cause_of(&error))?;
                    // It may have been demoted, and the Sentinel not know yet.
                    return is_master(&mut driven.connection).await.map(|()| driven);
                }
                // What is wrong with one is told only if no other knows better.
                Err(cause) if because == AwayCause::Unreachable => because = cause,
                Err(_) => {}
            }
        }
        Err(because)
    }

    /// Where one of them says that the master is.
    async fn ask(&mut self, place: usize) -> Result<Address, AwayCause> {
        let Some(sentinel) = self.addresses.get(place) else { return Err(AwayCause::Unreachable) };
        let (because, problem) = match self.master_by(sentinel).await {
            Ok(Some((host, port))) => return Ok(Address { host, port }),
            Ok(None) => (
                AwayCause::Mistaken,
                format!(
                    "service: {sentinel} knows no master named {:?}; name it as `sentinel monitor` does",
                    self.service
                ),
            ),
            Err(error) if is_unknown_command(&error) => (
                AwayCause::Mistaken,
                format!("urls: {sentinel} is no Sentinel; name Sentinels, by default at port 26379"),
            ),
            // Else nobody knew whether it was this one or the master.
            Err(error) if cause_of(&error) == AwayCause::Denied => (
                AwayCause::Denied,
                format!(
                    "password: {sentinel} refuses who asks; user and password here are the Sentinels', not the master's"
                ),
            ),
            Err(error) => return Err(cause_of(&error)),
        };
        if !std::mem::replace(&mut self.warned, true) {
            warn!("store.redis.sentinel.{problem}");
        }
        Err(because)
    }

    async fn master_by(&self, sentinel: &Address) -> Result<Option<(String, u16)>, RedisError> {
        let client = self.access.client(sentinel).map_err(|_| (ErrorKind::InvalidClientConfig, "no such address"))?;
        let mut connection = connect(&client).await?;
        let mut question = cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(&self.service).query_async(&mut connection).await
    }
}

/// A connection that answers within a time of its own, whatever its caller does.
pub(super) async fn connect(client: &Client) -> Result<MultiplexedConnection, RedisError> {
    client.get_multiplexed_async_connection_with_config(&configuration()).await
}

/// What holds for each connection.
pub(super) fn configuration() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(CONNECT_TIMEOUT))
        .set_pipeline_buffer_size(QUEUE)
}

async fn is_master(connection: &mut MultiplexedConnection) -> Result<(), AwayCause> {
    match cmd("ROLE").query_async::<Vec<Value>>(connection).await {
        Ok(role) => match role.first() {
            Some(Value::BulkString(name)) if name == b"master" => Ok(()),
            _ => Err(AwayCause::ReadOnly),
        },
        Err(error) if error.is_io_error() => Err(AwayCause::Unreachable),
        Err(error) => Err(cause_of(&error)),
    }
}

fn is_unknown_command(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("unknown command"))
}
