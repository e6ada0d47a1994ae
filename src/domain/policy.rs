//! Rules: which demands and limits a request meets. The first rule that matches decides; none: deny.

use std::sync::Arc;

use super::limit::Limit;
use super::path::{Host, Method, Path, Target};

/// Everything that decisions are made by. Replaced whole on reload, never changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Counts reloads, from 1.
    pub version: u64,
    /// In the order of the configuration: the first match decides.
    pub rules: Vec<Rule>,
    /// Every configured limit, sorted by name.
    pub limits: Vec<Arc<Limit>>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name in answers, logs and metrics; unique.
    pub name: String,
    /// Which requests it is for.
    pub matches: Match,
    /// Who may.
    pub demand: Demand,
    /// The limits that an allowed call consumes, in order, each once.
    pub limits: Vec<Arc<Limit>>,
}

/// Which requests a rule is for. Every part that is there must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Methods, upper-case; empty: any. `GET` covers `HEAD`.
    pub methods: Vec<String>,
    /// The host; none: any.
    pub host: Option<HostPattern>,
    /// The path; none: any target, `*` and `CONNECT`'s included.
    pub path: Option<PathPattern>,
}

/// Who may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Anyone, with or without a credential. A credential that is not accepted counts as none.
    Anyone,
    /// Whoever is authenticated and has these.
    Caller {
        /// One of these roles, where any is named.
        roles: Vec<String>,
        /// All of these scopes.
        scopes: Vec<String>,
    },
}

/// A host, or every name below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This very host; canonical.
    Exact(String),
    /// `*.example.com`: any host that ends in `.example.com`; held with the leading dot.
    Below(String),
}

/// A path pattern: `/api/orders/{id}`, `/api/public/**`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    /// As written.
    text: String,
    /// One for each segment.
    segments: Vec<SegmentPattern>,
    /// Whether it ends in `/**`: the path and all below.
    open: bool,
}

/// What one segment must be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SegmentPattern {
    /// This, case-sensitively.
    Literal(String),
    /// `*`: any.
    Any,
    /// `{name}`: any, and limits can be keyed by it.
    Named(String),
}
