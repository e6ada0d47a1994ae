//! What expressions are about: the caller, the call and the moment, lent to the interpreter. Only what an expression
//! names is made into a value, when it is looked at.

use cel::ExecutionError;
use cel::common::traits::{self, Container, Indexer, Iterable, Sizer};
use cel::common::types::{CelInt, CelString, LIST_TYPE, Type};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use std::borrow::Cow;

use super::check::Record;
use super::functions::Constant;
use super::{ITEM_BYTES_MAX, ITEMS_MAX, NAMES_MAX, VALUE_BYTES_MAX};
use crate::domain::demand::Call;
use crate::domain::identity::{Identity, IdentityKind};
use crate::domain::question::Header;
use crate::domain::time::Micros;

static GROUP_TYPE: Type = Type::new_unspecified_type("group");

/// Who asks for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'v> {
    pub(super) identity: &'v Identity,
    pub(super) call: Call<'v>,
    pub(super) constants: &'v [Constant],
}

/// Attributes that are looked up by their names.
#[derive(Clone, Copy, Debug)]
struct Group<'v> {
    facts: Facts<'v>,
    of: Record,
}

/// A list of texts that are there already.
#[derive(Clone, Debug)]
struct Texts<'v>(Vec<CelString<'v>>);

/// A value, or why there is none.
type Answer<'v> = Result<CowVal<'v, 'v>, ExecutionError>;

impl VariableResolver for Facts<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        if variable == "now" {
            return Some(seconds(self.call.now));
        }
        if let Some(index) = variable.strip_prefix('@') {
            let constant = index.parse().ok().and_then(|index: usize| self.constants.get(index));
            return constant.map(|constant| CowVal::Borrowed(constant));
        }
        let of = Record::variable(variable)?;
        Some(CowVal::owned(Group { facts: *self, of }))
    }
}

impl<'v> Group<'v> {
    /// The attribute `name`. That it is not there, and that it is larger than what is reckoned with, are told apart: `has`
    /// asks for the first only.
    fn attribute(&self, name: &str) -> Answer<'v> {
        let Facts { identity, call, .. } = self.facts;
        let question = call.question;
        let absent = || ExecutionError::no_such_key(name);
        match self.of {
            Record::Identity => match name {
                "kind" => Ok(word(kind(identity.kind))),
                "issuer" => text(&identity.issuer),
                "subject" => text(identity.subject.as_deref().ok_or_else(absent)?),
                "client" => text(identity.client.as_deref().ok_or_else(absent)?),
                "username" => text(identity.username.as_deref().ok_or_else(absent)?),
                "tenant" => text(identity.tenant.as_deref().ok_or_else(absent)?),
                "session" => text(identity.session.as_deref().ok_or_else(absent)?),
                "token_id" => text(identity.token_id.as_deref().ok_or_else(absent)?),
                "scopes" => texts(&identity.scopes),
                "roles" => texts(&identity.roles),
                "audiences" => texts(&identity.audiences),
                "names" => texts(&identity.names),
                "claims" => Ok(self.group(Record::Claims)),
                "actor" if !identity.actors.is_empty() => Ok(self.group(Record::Actor)),
                "expires_at" => identity.expires_at.map(seconds).ok_or_else(absent),
                "issued_at" => identity.issued_at.map(seconds).ok_or_else(absent),
                "logged_in_at" => identity.logged_in_at.map(seconds).ok_or_else(absent),
                _ => Err(absent()),
            },
            Record::Actor => {
                let actor = identity.actors.first().ok_or_else(absent)?;
                let value = match name {
                    "issuer" => &actor.issuer,
                    "subject" => &actor.subject,
                    "client" => &actor.client,
                    _ => return Err(absent()),
                };
                text(value.as_deref().ok_or_else(absent)?)
            }
            Record::Request => match name {
                "method" => Ok(word(question.method.as_str())),
                "host" => text(question.host.as_ref().ok_or_else(absent)?.as_str()),
                "path" => text(question.target.path().ok_or_else(absent)?.as_str()),
                "scheme" => Ok(word(if question.proofs.plain_http { "http" } else { "https" })),
                "source" => {
                    let address = question.source.ok_or_else(absent)?.to_canonical();
                    Ok(CowVal::owned(CelString::from(address.to_string())))
                }
                "body_bytes" => question.body.map(whole).ok_or_else(absent),
                "headers" => Ok(self.group(Record::Headers)),
                _ => Err(absent()),
            },
            Record::Segments => {
                let path = question.target.path().ok_or_else(absent)?;
                match call.pattern.and_then(|pattern| pattern.parameter(name, path)).ok_or_else(absent)? {
                    Cow::Borrowed(segment) => text(segment),
                    // Decoded: no longer than the path, which is bounded.
                    Cow::Owned(segment) => Ok(CowVal::owned(CelString::from(segment))),
                }
            }
            Record::Claims => {
                few(identity.claims.len())?;
                let claim = identity.claims.iter().find(|(own, _)| **own == *name);
                text(claim.map(|(_, value)| &**value).ok_or_else(absent)?)
            }
            Record::Resource => {
                few(question.resource.len())?;
                let attribute = question.resource.iter().find(|(own, _)| *own == name);
                text(attribute.map(|(_, value)| *value).ok_or_else(absent)?)
            }
            Record::Headers => {
                few(question.headers.iter().count())?;
                match question.headers.get(name) {
                    Header::Absent => Err(absent()),
                    Header::Text(value) => text(value),
                    Header::Unreadable => Err(ExecutionError::function_error("headers", "no text")),
                }
            }
        }
    }

    fn group(&self, of: Record) -> CowVal<'v, 'v> {
        CowVal::owned(Group { facts: self.facts, of })
    }
}

impl Val for Group<'_> {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &GROUP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'w>(&'b self) -> Option<&'b (dyn Indexer + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn clone_as_boxed<'w>(&self) -> Box<dyn Val + 'w>
    where
        Self: 'w,
    {
        Box::new(*self)
    }
}

impl Indexer for Group<'_> {
    fn get<'b, 'w>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        self.attribute(name(index)?)
    }

    fn steal<'w>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'w>, ExecutionError>
    where
        Self: 'w,
    {
        self.attribute(name(index)?).map(CowVal::into_owned)
    }
}

impl Container for Group<'_> {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        match self.attribute(name(value)?) {
            Ok(_) => Ok(true),
            Err(ExecutionError::NoSuchKey(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Val for Texts<'_> {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &LIST_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'w>(&'b self) -> Option<&'b (dyn Indexer + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_iterable<'b, 'w>(&'b self) -> Option<&'b (dyn Iterable + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }

    fn clone_as_boxed<'w>(&self) -> Box<dyn Val + 'w>
    where
        Self: 'w,
    {
        Box::new(self.clone())
    }
}

impl Container for Texts<'_> {
    fn contains(&self, value: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.0.iter().any(|item| item.equals(value)))
    }
}

impl Indexer for Texts<'_> {
    fn get<'b, 'w>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        let index = index.downcast_ref::<CelInt>().and_then(|index| usize::try_from(*index.inner()).ok());
        let item = index.and_then(|index| self.0.get(index));
        item.map(|item| CowVal::Borrowed(item)).ok_or_else(|| ExecutionError::function_error("[]", "no such item"))
    }

    fn steal<'w>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'w>, ExecutionError>
    where
        Self: 'w,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

impl Iterable for Texts<'_> {
    fn iter<'b, 'w>(&'b self) -> Box<dyn traits::Iterator<'b, 'w> + 'b>
    where
        Self: 'w,
    {
        Box::new(Items(self.0.iter()))
    }
}

impl Sizer for Texts<'_> {
    fn size(&self) -> CelInt {
        CelInt::from(i64::try_from(self.0.len()).unwrap_or(i64::MAX))
    }
}

struct Items<'b, 'v>(std::slice::Iter<'b, CelString<'v>>);

impl<'b, 'v: 'w, 'w> traits::Iterator<'b, 'w> for Items<'b, 'v> {
    fn next(&mut self) -> Option<&'b (dyn Val + 'w)> {
        self.0.next().map(|item| item as &(dyn Val + 'w))
    }
}

/// The name by which something is looked up.
fn name(index: &dyn Val) -> Result<&str, ExecutionError> {
    let text = index.downcast_ref::<CelString>();
    text.map(CelString::inner).ok_or_else(|| ExecutionError::function_error("[]", "no name"))
}

/// A text that is short by itself.
fn word(text: &str) -> CowVal<'_, '_> {
    CowVal::owned(CelString::from(text))
}

fn text(text: &str) -> Answer<'_> {
    if text.len() > VALUE_BYTES_MAX { Err(too_large()) } else { Ok(word(text)) }
}

fn texts(texts: &[Box<str>]) -> Answer<'_> {
    if texts.len() > ITEMS_MAX || texts.iter().any(|text| text.len() > ITEM_BYTES_MAX) {
        return Err(too_large());
    }
    Ok(CowVal::owned(Texts(texts.iter().map(|text| CelString::from(&**text)).collect())))
}

fn few(names: usize) -> Result<(), ExecutionError> {
    if names > NAMES_MAX { Err(too_large()) } else { Ok(()) }
}

fn too_large() -> ExecutionError {
    ExecutionError::function_error("attribute", "larger than what is looked at")
}

/// Whole seconds since the Unix epoch, as tokens tell time.
fn seconds<'v>(moment: Micros) -> CowVal<'v, 'v> {
    whole(moment.as_secs())
}

fn whole<'v>(number: u64) -> CowVal<'v, 'v> {
    CowVal::owned(CelInt::from(i64::try_from(number).unwrap_or(i64::MAX)))
}

const fn kind(kind: IdentityKind) -> &'static str {
    match kind {
        IdentityKind::Jwt => "jwt",
        IdentityKind::Opaque => "opaque",
        IdentityKind::ApiKey => "api_key",
        IdentityKind::Certificate => "certificate",
    }
}
