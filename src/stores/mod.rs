//! Where counters are kept: in memory or in Redis, where a gate before each node bounds waiting. Each store implements
//! [`QuotaStore`](crate::decide::ports::QuotaStore) and passes the same suite of behaviour tests; so do the logs of used
//! proofs, which implement [`ProofLog`](crate::decide::ports::ProofLog), and the logs of revocations, which implement
//! [`RevocationLog`](crate::decide::ports::RevocationLog).

pub mod memory;
pub mod proofs;
pub mod redis;
pub mod revocations;

#[cfg(test)]
mod algorithms;
#[cfg(test)]
mod comparison;
#[cfg(test)]
mod proof_suite;
#[cfg(test)]
mod redis_clock;
#[cfg(test)]
mod redis_faults;
#[cfg(test)]
mod redis_held;
#[cfg(test)]
mod redis_keys;
#[cfg(test)]
mod redis_revocations;
#[cfg(test)]
#[path = "../../tests/support/redis.rs"]
mod redis_server;
#[cfg(test)]
mod redis_slots;
#[cfg(test)]
mod redis_together;
#[cfg(test)]
mod redis_topologies;
#[cfg(test)]
mod reservations;
#[cfg(test)]
mod revocation_comparison;
#[cfg(test)]
mod revocation_suite;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod told;
#[cfg(test)]
mod worked;
