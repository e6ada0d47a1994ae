//! The façades: one file or folder a protocol. Each turns a wire message into a
//! [`Question`](crate::domain::question::Question), has it decided, and turns the
//! [`Decision`](crate::domain::decision::Decision) into a wire message. Nothing is decided in here.

mod asker;
pub mod codec;
pub mod codes;
pub mod envoy_authz;
pub mod envoy_rls;
pub mod http;
mod http_answer;
mod known;
pub mod native;
mod peer;
mod route;
pub mod unary;
mod wire;

use std::time::Duration;

pub use peer::Peer;

/// How long a call or a request may take to come whole: it holds its place among those in flight meanwhile.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
