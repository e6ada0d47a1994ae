//! Whom or what a security event is about (RFC 9493; complex subjects: Shared Signals Framework §3), as far as the
//! issuer's own tokens name the same.

use crate::domain::event::{EventFlaw, EventKind};
use crate::domain::revocation::Target;
use crate::tokens::json::{Object, Value};

/// Other names of one subject.
const ALIASES_MAX: usize = 16;

/// What an identifier says that tokens say, too.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Subject<'o> {
    /// `sub`.
    user: Option<&'o str>,
    /// `sid`.
    session: Option<&'o str>,
    /// `jti`.
    token: Option<&'o str>,
    /// Either of the first two: an opaque identifier does not say what it is of.
    any: Option<&'o str>,
}

impl<'o> Subject<'o> {
    /// Reads an identifier in a token of `issuer`. One of a format that means nothing here, or of another
    /// issuer, is empty: whoever signs speaks of its own only.
    pub(super) fn read(value: &'o Value<'_>, issuer: &str) -> Result<Self, EventFlaw> {
        let Value::Object(subject) = value else { return Err(EventFlaw::Form) };
        match subject.string("format")? {
            // Drafts had no format for it.
            Some("complex") | None => {
                let member = |name| match subject.get(name) {
                    None => Ok(Self::default()),
                    Some(Value::Object(member)) => Self::simple(member, issuer),
                    Some(_) => Err(EventFlaw::Form),
                };
                let (user, session) = (member("user")?, member("session")?);
                Ok(Self { user: user.user.or(user.any), session: session.any, token: session.token, any: None })
            }
            Some("aliases") => {
                let Some(Value::Array(aliases)) = subject.get("identifiers") else { return Err(EventFlaw::Form) };
                for alias in aliases.iter().take(ALIASES_MAX) {
                    let Value::Object(alias) = alias else { return Err(EventFlaw::Form) };
                    let read = Self::simple(alias, issuer)?;
                    if read != Self::default() {
                        return Ok(read);
                    }
                }
                Ok(Self::default())
            }
            Some(_) => Self::simple(subject, issuer),
        }
    }

    fn simple(subject: &'o Object<'_>, issuer: &str) -> Result<Self, EventFlaw> {
        let text = |name| subject.string(name)?.filter(|text| !text.is_empty()).ok_or(EventFlaw::Form);
        let of_issuer = |name| {
            let (given, text) = (text("iss")?, text(name)?);
            Ok::<_, EventFlaw>((given == issuer).then_some(text))
        };
        let none = Self::default();
        match text("format")? {
            "iss_sub" => Ok(Self { user: of_issuer("sub")?, ..none }),
            "jwt_id" => Ok(Self { token: of_issuer("jti")?, ..none }),
            "opaque" => Ok(Self { any: Some(text("id")?), ..none }),
            _ => Ok(none),
        }
    }

    /// What an event of that kind takes back; nothing where no token names its subject. The narrowest, where a session
    /// ended; all that the user has, where a credential or the account is another.
    pub(super) fn targets(&self, kind: EventKind, issuer: &str) -> Vec<Target> {
        let user = |user: &str| Target::subject(issuer, user);
        let session = |session: &str| Target::session(issuer, session);
        let token = |token: &str| Target::token(issuer, token);
        let target = match kind {
            EventKind::SessionRevoked | EventKind::Logout => {
                if let Some(any) = self.any {
                    return vec![session(any), user(any)];
                }
                self.session.map(session).or(self.token.map(token)).or(self.user.map(user))
            }
            EventKind::CredentialChange
            | EventKind::AccountDisabled
            | EventKind::AccountPurged
            | EventKind::CredentialCompromise => {
                self.user.or(self.any).map(user).or(self.session.map(session)).or(self.token.map(token))
            }
        };
        target.into_iter().collect()
    }
}
