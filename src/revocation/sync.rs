//! What the table is shared by. The interleaving test puts another in its place, which tries out who comes first.

use std::sync::Arc;

pub(super) use arc_swap::ArcSwap as Swap;
pub(super) use std::sync::atomic::{AtomicU64, Ordering};

/// What was in a [`Swap`] when somebody looked, for as long as it is needed.
pub(super) type Loaded<T> = arc_swap::Guard<Arc<T>>;
