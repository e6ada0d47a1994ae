//! Decides.
pub mod ports;
