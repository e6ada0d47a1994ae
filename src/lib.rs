//! Tollgate answers one question on every request of every service behind it: *may this call go on?*

pub mod api;
pub mod config;
pub mod decide;
pub mod domain;
pub mod quotas;
pub mod revocation;
pub mod server;
pub mod stores;
pub mod telemetry;
pub mod tokens;

/// The native API's messages and services, generated from `proto/`.
#[expect(clippy::all, clippy::pedantic, reason = "generated; documented in proto/")]
pub mod proto {
    tonic::include_proto!("tollgate.v1");

    /// The descriptors of all files, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
