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

    /// What an Envoy asks; see `proto/envoy/README.md`.
    #[expect(missing_docs, reason = "others' messages; the origin documents them")]
    pub mod envoy {
        pub mod config {
            pub mod core {
                pub mod v3 {
                    tonic::include_proto!("envoy.config.core.v3");
                }
            }
        }
        pub mod r#type {
            pub mod v3 {
                tonic::include_proto!("envoy.r#type.v3");
            }
        }
        pub mod extensions {
            pub mod common {
                pub mod ratelimit {
                    pub mod v3 {
                        tonic::include_proto!("envoy.extensions.common.ratelimit.v3");
                    }
                }
            }
        }
        pub mod service {
            pub mod auth {
                pub mod v3 {
                    tonic::include_proto!("envoy.service.auth.v3");
                }
            }
            pub mod ratelimit {
                pub mod v3 {
                    tonic::include_proto!("envoy.service.ratelimit.v3");
                }
            }
        }
    }

    /// The descriptors of all files, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
