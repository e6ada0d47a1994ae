//! What is wrong with a question that no decision is made of, by the fields of the native API's message.

use super::{Undecidable, Violation};
use crate::domain::guard::Lack;
use crate::domain::limit::Attribute;
use crate::domain::policy::Unmatchable;

/// Why it cannot be said which rule a question meets.
pub(super) fn unmatchable(why: Unmatchable<'_>) -> Undecidable {
    match why {
        Unmatchable::Path(why) => {
            let remedy = why.opt_in().map(|opt_in| format!("; {opt_in}")).unwrap_or_default();
            of("request.path".to_owned(), format!("{why}{remedy}"))
        }
        Unmatchable::Header { name, rule } => unreadable(name, rule),
    }
}

/// What a question lacks that the rule of that name demands to know of every call.
pub(super) fn lacking(lack: Lack, rule: &str) -> Undecidable {
    match lack {
        Lack::Source => {
            let field = "request.source_address".to_owned();
            of(field, format!("is needed: the rule `{rule}` lets in some addresses only"))
        }
        Lack::Text(name) => unreadable(name, rule),
        Lack::Method(name) => {
            of(header(name), format!("asks for another method than the call has, which the rule `{rule}` refuses"))
        }
    }
}

fn unreadable(name: &str, rule: &str) -> Undecidable {
    of(header(name), format!("is no visible ASCII text, and the rule `{rule}` looks at it"))
}

fn header(name: &str) -> String {
    format!("request.headers[\"{name}\"]")
}

fn of(field: String, description: String) -> Undecidable {
    Undecidable { violations: vec![Violation { field, description }] }
}

/// `name` is no limit.
pub(super) fn unknown_limit(field: String, name: &str) -> Violation {
    let name: String = name.chars().take(64).flat_map(char::escape_default).collect();
    Violation { field, description: format!("`{name}` is no limit of the configuration") }
}

/// Where in the native API's message an attribute comes from.
pub(super) fn field_of(attribute: &Attribute) -> String {
    match attribute {
        Attribute::SourceAddress => "request.source_address".to_owned(),
        Attribute::Host => "request.host".to_owned(),
        Attribute::Path | Attribute::PathParameter(_) => "request.path".to_owned(),
        Attribute::Resource(name) => format!("resource[\"{name}\"]"),
        Attribute::Method => "request.method".to_owned(),
        Attribute::Issuer | Attribute::Subject | Attribute::Client | Attribute::Session | Attribute::Rule => {
            "credential".to_owned()
        }
    }
}
