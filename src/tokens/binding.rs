//! `cnf` (RFC 7800): which keys whoever shows a token must hold besides.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::json::{Object, Value};
use crate::domain::decision::Reason;
use crate::domain::identity::{Binding, Thumbprint};

/// Reads what claims, or the answer to an introspection, say of the keys that they are bound to. None where there is no
/// `cnf`; where both kinds of keys are named, both are needed.
///
/// Members that are not known are ignored (RFC 7800 §3.1), but where no other is there the token must not turn into a
/// plain bearer token: [`Reason::BindingRequired`]. [`Reason::MalformedToken`] for anything else than an object, and for
/// thumbprints that are none.
pub(super) fn read(claims: &Object<'_>) -> Result<Option<Box<Binding>>, Reason> {
    let confirmation = match claims.get("cnf") {
        None => return Ok(None),
        Some(Value::Object(confirmation)) => confirmation,
        Some(_) => return Err(Reason::MalformedToken),
    };
    let binding = Binding { certificate: thumbprint(confirmation, "x5t#S256")?, key: thumbprint(confirmation, "jkt")? };
    if binding.is_none() { Err(Reason::BindingRequired) } else { Ok(Some(Box::new(binding))) }
}

/// A SHA-256 hash in base64url, strictly: no padding, no stray bits.
fn thumbprint(confirmation: &Object<'_>, name: &str) -> Result<Option<Thumbprint>, Reason> {
    let Some(text) = confirmation.string(name)? else { return Ok(None) };
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Reason::MalformedToken)?;
    Thumbprint::try_from(bytes).map(Some).map_err(|_| Reason::MalformedToken)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::tokens::json::{self, Bounds};

    const BOUNDS: Bounds = Bounds { depth: 32, members: 512, name_bytes: 1024 };

    fn read(claims: &str) -> Result<Option<Binding>, Reason> {
        super::read(&json::object(claims.as_bytes(), BOUNDS).unwrap()).map(|binding| binding.map(|boxed| *boxed))
    }

    fn text(byte: u8) -> String {
        URL_SAFE_NO_PAD.encode([byte; 32])
    }

    #[test]
    fn every_key_that_is_named_is_needed() {
        assert_eq!(read("{}"), Ok(None));
        let (certificate, key) = (Some([1; 32]), Some([2; 32]));
        let (x5t, jkt) = (format!(r#""x5t#S256":"{}""#, text(1)), format!(r#""jkt":"{}""#, text(2)));
        assert_eq!(read(&format!(r#"{{"cnf":{{{x5t}}}}}"#)), Ok(Some(Binding { certificate, key: None })));
        assert_eq!(read(&format!(r#"{{"cnf":{{{jkt}}}}}"#)), Ok(Some(Binding { certificate: None, key })));
        assert_eq!(read(&format!(r#"{{"cnf":{{{jkt},{x5t}}}}}"#)), Ok(Some(Binding { certificate, key })));
        assert_eq!(read(&format!(r#"{{"cnf":{{{jkt},"later":[1]}}}}"#)), Ok(Some(Binding { certificate: None, key })));
    }

    #[test]
    fn a_token_that_is_bound_in_an_unknown_way_is_no_bearer_token() {
        for confirmation in ["{}", r#"{"jwk":{"kty":"EC"}}"#, r#"{"kid":"k"}"#, r#"{"JKT":"x","x5t#s256":"x"}"#] {
            assert_eq!(read(&format!(r#"{{"cnf":{confirmation}}}"#)), Err(Reason::BindingRequired), "{confirmation}");
        }
    }

    #[test]
    fn what_is_no_thumbprint_is_malformed_even_beside_one_that_is() {
        for confirmation in ["null", "1", "\"x\"", "[]", "true"] {
            assert_eq!(read(&format!(r#"{{"cnf":{confirmation}}}"#)), Err(Reason::MalformedToken), "{confirmation}");
        }
        let good = text(0);
        let stray = format!("{}B", &good[..42]);
        let long = URL_SAFE_NO_PAD.encode([0; 33]);
        let plain = format!("{}+", &good[..42]);
        let texts = ["", "AA", &good[..42], &stray, &long, &plain, &format!("{good}="), &format!("{good} ")];
        let values = texts.map(|text| format!("\"{text}\"")).into_iter();
        for value in values.chain(["null".to_owned(), "1".to_owned(), "{}".to_owned(), format!("[\"{good}\"]")]) {
            for (bad, other) in [("jkt", "x5t#S256"), ("x5t#S256", "jkt")] {
                let claims = format!(r#"{{"cnf":{{"{bad}":{value},"{other}":"{good}"}}}}"#);
                assert_eq!(read(&claims), Err(Reason::MalformedToken), "{claims}");
            }
        }
    }
}
