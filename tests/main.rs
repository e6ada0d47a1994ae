//! The one test binary: every test that needs more than the library's own values.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod algorithms;
mod api;
mod api_keys;
mod attacks;
mod away;
mod bad_tokens;
mod batches;
mod budgets;
mod calls;
mod cases;
mod charge;
mod counters;
mod deploy;
mod envoy;
mod flood;
mod gateways;
mod guards;
mod held;
mod http;
mod in_flight;
mod introspection;
mod keycloak;
mod logout;
mod opaque;
mod paths;
mod picture;
mod program;
mod proofs;
mod provider;
mod ratelimit;
mod ratelimit_files;
mod redis;
mod revocation;
mod revoked;
mod spring;
mod stopping;
mod strict;
mod support;
mod tidy;
mod tls;
mod tokens;
