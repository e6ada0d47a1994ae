//! The addressed method, host and path: read strictly, never repaired.
//!
//! Tollgate only advises: the gateway forwards the original bytes. Whoever reads an ambiguous path one way and forwards
//! it to a server that reads it another way has opened a door. So a path that two servers could read differently is
//! refused before any rule is looked at.

use std::borrow::Cow;

/// A well-formed request method (RFC 9110 §9.1), upper-case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method<'a>(&'a str);

/// A host in canonical form: lower-case, without trailing dot and default port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host<'a>(Cow<'a, str>);

/// What is addressed (RFC 9112 §3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A path, the query cut off.
    Path(Path<'a>),
    /// `*`, as in `OPTIONS *`.
    Asterisk,
    /// No path: `CONNECT`.
    Authority,
}

/// An absolute path that has one reading only: unreserved characters decoded, everything else as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path<'a>(Cow<'a, str>);
