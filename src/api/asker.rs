//! Who asks about tokens: read from the headers of a call, over HTTP and gRPC alike.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use url::form_urlencoded;

use crate::decide::{Asker, Decider, Revoker, Unpermitted, Way};
use crate::domain::client::Sight;
use crate::domain::question::{Certificate, Credential};

/// Which tokens the sender of these headers learns of, if any; `certificate` is that of its connection.
pub(super) async fn sight(
    decider: &Decider,
    headers: &HeaderMap,
    certificate: Option<&Certificate<'_>>,
) -> Result<Sight, Unpermitted> {
    let spellings = spellings(headers);
    decider.permit_asker(asker(headers, certificate, spellings.as_deref())).get().await
}

/// Who the sender of these headers is, if it may take something back.
pub(super) async fn revoker(
    decider: &Decider,
    headers: &HeaderMap,
    certificate: Option<&Certificate<'_>>,
    way: Way,
) -> Result<Revoker, Unpermitted> {
    let spellings = spellings(headers);
    decider.permit_revoker(asker(headers, certificate, spellings.as_deref()), way).get().await
}

fn asker<'a>(
    headers: &'a HeaderMap,
    certificate: Option<&'a Certificate<'a>>,
    spellings: Option<&'a [(String, String)]>,
) -> Asker<'a> {
    spellings.map_or(Asker::Operator(credential(headers), certificate), Asker::Client)
}

/// What HTTP Basic may mean; none where the headers have something else.
fn spellings(headers: &HeaderMap) -> Option<Vec<(String, String)>> {
    only_authorization(headers).and_then(Basic::read).map(|basic| basic.spellings().collect())
}

/// What the headers' sender shows. Two `Authorization` values are none that can be read.
pub(super) fn credential(headers: &HeaderMap) -> Credential<'_> {
    if !headers.contains_key(AUTHORIZATION) {
        return Credential::None;
    }
    only_authorization(headers).map_or(Credential::Unreadable, Credential::from_authorization)
}

/// Whether there is a credential that is none of a kind that is known.
pub(super) fn is_unreadable(headers: &HeaderMap) -> bool {
    matches!(credential(headers), Credential::Unreadable)
}

fn only_authorization(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// A name and a secret, as HTTP Basic carries them (RFC 7617).
struct Basic {
    id: String,
    secret: String,
}

impl Basic {
    /// Reads the value of an `Authorization` header; none where it has another scheme or is not well formed.
    fn read(value: &str) -> Option<Self> {
        let (scheme, encoded) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        let (id, secret) = decoded.split_once(':')?;
        Some(Self { id: id.to_owned(), secret: secret.to_owned() })
    }

    /// What may be meant. OAuth has clients encode name and secret as forms do (RFC 6749 §2.3.1), and Spring Security does so
    /// since version 6.5; before, and in most other clients, they are sent as they are.
    fn spellings(self) -> impl Iterator<Item = (String, String)> {
        let decoded = form_decoded(&self.id).zip(form_decoded(&self.secret));
        let plain = (self.id, self.secret);
        let decoded = decoded.filter(|decoded| *decoded != plain);
        [Some(plain), decoded].into_iter().flatten()
    }
}

/// A text as it was before a form encoded it; none where that is not what happened to it.
fn form_decoded(text: &str) -> Option<String> {
    if text.contains(['&', '=']) {
        return None;
    }
    form_urlencoded::parse(text.as_bytes()).next().map(|(name, _)| name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spellings(value: &str) -> Vec<(String, String)> {
        Basic::read(value).map(|basic| basic.spellings().collect()).unwrap_or_default()
    }

    fn basic(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn names_and_secrets_are_read_as_they_are_and_as_forms_encode_them() {
        let pair = |id: &str, secret: &str| (id.to_owned(), secret.to_owned());
        assert_eq!(spellings(&basic("orders:a secret")), [pair("orders", "a secret")]);
        assert_eq!(spellings(&basic("orders:a:b")), [pair("orders", "a:b")]);
        assert_eq!(spellings(&basic("a%20b:c%2Bd+e")), [pair("a%20b", "c%2Bd+e"), pair("a b", "c+d e")]);
        assert_eq!(spellings(&basic("a:b&c=d")), [pair("a", "b&c=d")]);
        assert_eq!(spellings(&basic("a:b").replace("Basic", "bAsIc")), [pair("a", "b")]);
    }

    #[test]
    fn what_is_no_name_with_a_secret_is_not_read() {
        for value in
            ["Basic", "Basic ", "Basic !", "Basic YTpi ", "Basic  YTpi", "Basic YTpi, Basic YTpi", "Bearer YTpi"]
        {
            assert!(spellings(value).is_empty(), "{value}");
        }
        assert!(spellings(&basic("no colon")).is_empty());
        assert!(spellings(&format!("Basic {}", STANDARD.encode([b'a', b':', 0xff]))).is_empty());
    }
}
