//! What is logged while something is done, for the tests that promise it.
//!
//! One subscriber for the process, in place before anything of this module can log: `tracing` keeps for each place in the code
//! whether anybody listens, and asks, where there is one subscriber alone, only the one of the thread that comes there first.
//! A subscriber of one thread could be deaf by what another thread did.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata};

/// An event.
#[derive(Debug)]
pub(in crate::decide) struct Logged {
    pub(in crate::decide) target: &'static str,
    pub(in crate::decide) level: Level,
    pub(in crate::decide) fields: BTreeMap<&'static str, String>,
}

thread_local! {
    /// What this thread logged since it began to collect.
    static COLLECTED: RefCell<Option<Vec<Logged>>> = const { RefCell::new(None) };
}

/// Whoever holds one is heard.
#[derive(Debug)]
pub(super) struct Listening(());

impl Default for Listening {
    fn default() -> Self {
        static BEGUN: Once = Once::new();
        BEGUN.call_once(|| tracing::subscriber::set_global_default(Collector).unwrap());
        Self(())
    }
}

/// What this thread logs while `act` runs.
pub(in crate::decide) fn logged(act: impl FnOnce()) -> Vec<Logged> {
    let _listening = Listening::default();
    COLLECTED.with_borrow_mut(|collected| *collected = Some(Vec::new()));
    act();
    COLLECTED.take().unwrap()
}

struct Collector;

impl Visit for Logged {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

impl tracing::Subscriber for Collector {
    /// Asked anew for each event, since only some threads collect, and only at times.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("tollgate") && COLLECTED.with_borrow(Option::is_some)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut logged = Logged { target: metadata.target(), level: *metadata.level(), fields: BTreeMap::new() };
        event.record(&mut logged);
        COLLECTED.with_borrow_mut(|collected| collected.as_mut().unwrap().push(logged));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
