//! What the commands about API keys need: new keys, and the place where a configuration keeps them.

use std::sync::Arc;

use aws_lc_rs::error::Unspecified;

use super::{SystemClock, redis_store};
use crate::config::{self, Config, KeptKeys, Store};
use crate::decide::ports::ApiKeyRecords;
use crate::domain::api_key::DrawnKey;
use crate::domain::time::Micros;
use crate::telemetry::Telemetry;

/// How long a command waits for Redis; connecting is part of it.
const DEADLINE: Micros = Micros::from_secs(5);

/// Draws a key.
///
/// # Errors
/// The system has no randomness.
pub fn draw_api_key() -> Result<DrawnKey, Unspecified> {
    DrawnKey::draw(aws_lc_rs::rand::fill)
}

/// Where `config` keeps API keys. To be called within a Tokio runtime.
///
/// # Errors
/// It does not keep them in Redis, or the settings of Redis cannot work.
pub fn api_key_records(config: &Config) -> Result<Arc<dyn ApiKeyRecords>, String> {
    let (KeptKeys::Redis, Store::Redis(settings)) = (&config.api_keys.kept, &config.store) else {
        return Err("does not keep API keys in Redis; say `api_keys: { redis: true }`, or make a key with `tollgate \
                    api-key new` and add its line to the file of `api_keys.file`"
            .to_owned());
    };
    let telemetry = Telemetry::default();
    let settings = config::Redis { deadline: DEADLINE, ..settings.clone() };
    let store = redis_store(&settings, &(Arc::new(SystemClock::start()) as _), &Arc::new(telemetry));
    store.map(|store| Arc::new(store) as _).map_err(|problem| problem.to_string())
}
