//! Values in, values out: what Tollgate decides about, without a socket, a clock or a lock.
//!
//! Nothing in here performs I/O, reads a clock or knows a wire format. Everything that is hard to get right (the
//! limit algorithms, path matching, policy) is a function of its arguments, so it is tested and argued about in here.

pub mod admitted;
pub mod api_key;
pub mod bucket;
pub mod certificate;
pub mod client;
pub mod connection;
pub mod counter;
pub mod date;
pub mod decision;
pub mod demand;
pub mod event;
#[cfg(test)]
pub(crate) mod exact_log;
pub mod fixed;
pub mod gateway;
pub mod guard;
pub mod identity;
pub mod identity_headers;
pub mod introspection;
pub mod issuer;
pub mod lease;
pub mod leases;
pub mod limit;
pub mod name;
pub mod path;
pub mod policy;
pub mod question;
pub mod ratelimit;
pub mod revocation;
pub mod secret;
#[cfg(test)]
pub(crate) mod simulation;
pub mod slots;
pub mod status;
pub mod time;
pub mod window;
