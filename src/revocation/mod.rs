//! What has been taken back: in memory, and kept up with the log that replicas share.
//!
//! The path asks after every verdict, remembered or new: that order is what makes revocation safe. No order of events lets
//! a revoked token back in, since no verdict says "not revoked".

mod follow;
#[cfg(test)]
mod interleaved;
mod set;
#[cfg(test)]
mod simulation;
mod sync;
mod table;
#[cfg(test)]
mod tests;

pub use self::follow::{Follower, Health, Revocations};
