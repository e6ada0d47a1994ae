//! The rows of the table: how questions are asked.

/// One row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Its name in the table.
    pub name: &'static str,
    /// Who asks, and how.
    pub asker: Asker,
}

/// Who asks, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asker {
    /// ghz: one question a call.
    Ghz {
        /// Connections.
        connections: usize,
        /// Calls in flight on each.
        calls: usize,
    },
    /// This program, on one connection.
    Own(Own),
}

/// How this program asks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Own {
    /// One question a call.
    Unary {
        /// Calls in flight.
        calls: usize,
    },
    /// One stream.
    Stream {
        /// Questions in flight.
        pending: usize,
    },
    /// Several questions a call.
    Batch {
        /// Questions in each call.
        questions: usize,
        /// Calls in flight.
        calls: usize,
    },
}

/// Every row. Connections × calls in flight on each.
pub(crate) const ROWS: [Row; 6] = [
    Row { name: "unary 1 × 1", asker: Asker::Ghz { connections: 1, calls: 1 } },
    Row { name: "unary 10 × 10", asker: Asker::Ghz { connections: 10, calls: 10 } },
    Row { name: "unary 1 × 100", asker: Asker::Ghz { connections: 1, calls: 100 } },
    Row { name: "unary 1 × 100, own client", asker: Asker::Own(Own::Unary { calls: 100 }) },
    Row { name: "stream, 100 in flight", asker: Asker::Own(Own::Stream { pending: 100 }) },
    Row { name: "batches of 64, 2 in flight", asker: Asker::Own(Own::Batch { questions: 64, calls: 2 }) },
];
