//! What a rule demands of the call itself, whoever makes it: where it comes from, whose page made it, how large it is.

use std::net::IpAddr;

use super::decision::Reason;
use super::network::Networks;
use super::path::{Host, Method};
use super::question::{Header, Headers, Question};

/// Headers by which some servers take a call for one with another method.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-method-override", "x-http-method"];

/// Methods whose calls have no body unless they say so (RFC 9110 §9.3).
const BODILESS_METHODS: [&str; 6] = ["GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT"];

/// What a rule demands of the call itself. What is left out is not demanded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Where calls may come from.
    pub sources: Sources,
    /// The most bytes that the body may have.
    pub body_max: Option<u64>,
    /// Whose pages may make calls, where any is named: a call with another `Origin` is refused.
    pub origins: Vec<Origin>,
    /// Whether a credential that is not accepted is refused where anyone may pass; else it counts as none.
    pub refuses_bad_credentials: bool,
    /// Whether a call is refused that asks to be taken for one with another method.
    pub refuses_method_override: bool,
}

/// Where calls may come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// From one of these, where any is named.
    pub allow: Networks,
    /// And from none of these.
    pub deny: Networks,
}

/// An origin as browsers write it (RFC 6454 §6.2): scheme, host, and the port where it is not the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// Why a call does not get past a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// It may not.
    Denied(Reason),
    /// The question does not say what has to be known.
    Unclear(Lack),
}

/// What a question lacks, so that nobody can say whether its call may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Where it comes from.
    Source,
    /// What this header says: it is no text.
    Text(&'static str),
    /// One method: by this header it asks to be taken for a call with another.
    Method(&'static str),
}

impl Guard {
    /// Whether the call is one that may go on, its caller aside.
    pub fn check(&self, question: &Question<'_>) -> Result<(), Unmet> {
        let Self { sources, body_max, origins, refuses_bad_credentials: _, refuses_method_override } = self;
        if let Some(name) = refuses_method_override.then(|| overridden(&question.headers)).flatten() {
            return Err(Unmet::Unclear(Lack::Method(name)));
        }
        sources.check(question.source)?;
        if !origins.is_empty() {
            match question.headers.get("origin") {
                Header::Absent => {}
                Header::Text(origin) if self.names_origin(origin) => {}
                Header::Text(_) => return Err(Unmet::Denied(Reason::WrongOrigin)),
                Header::Unreadable => return Err(Unmet::Unclear(Lack::Text("origin"))),
            }
        }
        match (body_max, question.body) {
            (Some(_), None) => Err(Unmet::Denied(Reason::LengthRequired)),
            (Some(most), Some(bytes)) if bytes > *most => Err(Unmet::Denied(Reason::BodyTooLarge)),
            (None, _) | (Some(_), Some(_)) => Ok(()),
        }
    }

    /// Whether pages of `origin` are named.
    pub fn names_origin(&self, origin: &str) -> bool {
        self.origins.iter().any(|named| named.0 == origin)
    }

    /// Whether every call that this lets go on `measure` lets go on, too.
    pub fn demands_as_much(&self, measure: &Self) -> bool {
        let Self { sources, body_max, origins, refuses_bad_credentials, refuses_method_override } = measure;
        let named = |origin: &Origin| origins.contains(origin);
        self.sources.demands_as_much(sources)
            && body_max.is_none_or(|most| self.body_max.is_some_and(|own| own <= most))
            && (origins.is_empty() || (!self.origins.is_empty() && self.origins.iter().all(named)))
            && (self.refuses_bad_credentials || !refuses_bad_credentials)
            && (self.refuses_method_override || !refuses_method_override)
    }
}

impl Sources {
    fn check(&self, source: Option<IpAddr>) -> Result<(), Unmet> {
        let Self { allow, deny } = self;
        if allow.is_empty() && deny.is_empty() {
            return Ok(());
        }
        let source = source.ok_or(Unmet::Unclear(Lack::Source))?;
        let may = (allow.is_empty() || allow.cover(source)) && !deny.cover(source);
        if may { Ok(()) } else { Err(Unmet::Denied(Reason::WrongAddress)) }
    }

    /// Network by network: what several of them cover together is not looked into.
    fn demands_as_much(&self, measure: &Self) -> bool {
        let is_allowed = |network| measure.allow.contains(network);
        let allows = measure.allow.is_empty() || (!self.allow.is_empty() && self.allow.iter().all(is_allowed));
        allows && measure.deny.iter().all(|network| self.deny.contains(network))
    }
}

impl Origin {
    /// Reads `https://app.example.com`, as browsers write it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let must = || {
            "must be an origin as browsers write it, such as https://app.example.com or http://localhost:3000: scheme, host, \
             and the port where it is not the scheme's own"
                .to_owned()
        };
        let (scheme, authority) = text.split_once("://").ok_or_else(must)?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte));
        let host = Host::parse(authority).ok().filter(|_| is_scheme).ok_or_else(must)?;
        let spelled = match (scheme, host.port()) {
            ("https", Some(443)) | ("http", Some(80)) | (_, None) => format!("{scheme}://{}", host.as_str()),
            (_, Some(port)) => format!("{scheme}://{}:{port}", host.as_str()),
        };
        if spelled == text { Ok(Self(spelled)) } else { Err(format!("must be written as browsers do: `{spelled}`")) }
    }
}

/// The header, if one is there, by which a call asks to be taken for one with another method.
fn overridden(headers: &Headers<'_>) -> Option<&'static str> {
    METHOD_OVERRIDES.into_iter().find(|name| headers.get(name) != Header::Absent)
}

/// The method of the call that a CORS preflight asks for, and the origin of the page that wants to make it (Fetch, "CORS
/// protocol"). None: the question is not about a preflight. One that asks to be taken for a call with another method is none:
/// no browser writes that, and a server that obeys would do what nobody showed a credential for.
pub fn preflight<'q>(question: &Question<'q>) -> Option<(Method<'q>, &'q str)> {
    if question.method.as_str() != "OPTIONS" || overridden(&question.headers).is_some() {
        return None;
    }
    match (question.headers.get("origin"), question.headers.get("access-control-request-method")) {
        (Header::Text(origin), Header::Text(method)) => Some((Method::parse(method).ok()?, origin)),
        _ => None,
    }
}

/// The size of a call's body in bytes, as its method and headers announce it; none: nobody can say.
///
/// One that is sent in chunks (`transfer-encoding`) has no size beforehand, whatever else it says (RFC 9112 §6.3). Without
/// that and without a `content-length`, calls with a method that goes without a body have none; of others it is not known:
/// HTTP/2 needs no `content-length`, and whoever asks need not hand on all headers.
pub fn announced_body(method: Method<'_>, headers: &Headers<'_>) -> Option<u64> {
    match (headers.get("transfer-encoding"), headers.get("content-length")) {
        (Header::Absent, Header::Absent) => BODILESS_METHODS.contains(&method.as_str()).then_some(0),
        // `parse` alone would take a sign.
        (Header::Absent, Header::Text(digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::domain::network::Network;
    use crate::domain::path::Target;

    fn question<'a>(method: &'a str, headers: &[(&'a str, Option<&'a str>)]) -> Question<'a> {
        let method = Method::parse(method).unwrap();
        Question {
            headers: Headers::new(headers.to_vec()),
            ..Question::of(method, Target::parse("/", method, None).unwrap())
        }
    }

    fn networks(texts: &[&str]) -> Networks {
        texts.iter().map(|text| Network::parse(text).unwrap()).collect()
    }

    fn origins(texts: &[&str]) -> Vec<Origin> {
        texts.iter().map(|text| Origin::parse(text).unwrap()).collect()
    }

    #[test]
    fn a_call_comes_from_where_it_may_and_from_nowhere_that_is_denied() {
        let check = |allow: &[&str], deny: &[&str], source: Option<&str>| {
            let sources = Sources { allow: networks(allow), deny: networks(deny) };
            let source = source.map(|source| source.parse().unwrap());
            Guard { sources, ..Guard::default() }.check(&Question { source, ..question("GET", &[]) })
        };
        let (inner, guests) = (["10.0.0.0/8"], ["10.9.0.0/16"]);
        let wrong = Err(Unmet::Denied(Reason::WrongAddress));
        assert_eq!(check(&inner, &[], Some("10.1.2.3")), Ok(()));
        assert_eq!(check(&inner, &[], Some("::ffff:10.1.2.3")), Ok(()));
        assert_eq!(check(&inner, &[], Some("192.0.2.1")), wrong);
        assert_eq!(check(&inner, &guests, Some("10.9.2.3")), wrong, "deny wins");
        assert_eq!(check(&inner, &guests, Some("10.8.2.3")), Ok(()));
        assert_eq!(check(&[], &guests, Some("192.0.2.1")), Ok(()));
        assert_eq!(check(&[], &guests, Some("::ffff:10.9.2.3")), wrong);
        assert_eq!(check(&inner, &[], None), Err(Unmet::Unclear(Lack::Source)));
        assert_eq!(check(&[], &guests, None), Err(Unmet::Unclear(Lack::Source)));
        assert_eq!(check(&[], &[], None), Ok(()));
    }

    #[test]
    fn a_body_is_no_larger_than_it_may_be_and_says_how_large_it_is() {
        let check =
            |body_max, body| Guard { body_max, ..Guard::default() }.check(&Question { body, ..question("POST", &[]) });
        assert_eq!(check(Some(10), Some(10)), Ok(()));
        assert_eq!(check(Some(10), Some(11)), Err(Unmet::Denied(Reason::BodyTooLarge)));
        assert_eq!(check(Some(0), Some(0)), Ok(()));
        assert_eq!(check(Some(0), Some(1)), Err(Unmet::Denied(Reason::BodyTooLarge)));
        assert_eq!(check(Some(10), None), Err(Unmet::Denied(Reason::LengthRequired)));
        assert_eq!(check(None, None), Ok(()));
    }

    #[test]
    fn the_size_of_a_body_is_what_is_announced() {
        let size = |method: &str, headers: &[(&str, Option<&str>)]| {
            announced_body(Method::parse(method).unwrap(), &Headers::new(headers.to_vec()))
        };
        for method in ["GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT"] {
            assert_eq!(size(method, &[]), Some(0), "{method}");
        }
        for method in ["POST", "PUT", "PATCH", "QUERY", "FOO"] {
            assert_eq!(size(method, &[]), None, "{method}");
        }
        assert_eq!(size("POST", &[("content-length", Some("17"))]), Some(17));
        assert_eq!(size("GET", &[("content-length", Some("17"))]), Some(17));
        assert_eq!(size("POST", &[("content-length", Some("18446744073709551615"))]), Some(u64::MAX));
        for odd in ["", "+5", "-5", "5, 5", "5,6", " 5", "0x5", "5.0", "18446744073709551616"] {
            assert_eq!(size("GET", &[("content-length", Some(odd))]), None, "{odd}");
        }
        assert_eq!(size("GET", &[("content-length", None)]), None);
        for chunked in [Some("chunked"), Some("identity"), None] {
            assert_eq!(size("GET", &[("transfer-encoding", chunked)]), None);
            assert_eq!(size("POST", &[("transfer-encoding", chunked), ("content-length", Some("5"))]), None);
        }
    }

    #[test]
    fn a_page_that_makes_a_call_is_of_an_origin_that_is_named() {
        let guard = Guard { origins: origins(&["https://app.example", "http://localhost:3000"]), ..Guard::default() };
        let check = |headers: &[(&str, Option<&str>)]| guard.check(&question("POST", headers));
        assert_eq!(check(&[]), Ok(()), "no page");
        assert_eq!(check(&[("origin", Some("https://app.example"))]), Ok(()));
        assert_eq!(check(&[("origin", Some("http://localhost:3000"))]), Ok(()));
        for other in [
            "",
            "null",
            "https://app.example:443",
            "https://app.example/",
            "http://app.example",
            "https://app.example.evil",
            "https://xapp.example",
            "https://APP.example",
            "https://app.example, https://evil.example",
        ] {
            let told = check(&[("origin", Some(other))]);
            assert_eq!(told, Err(Unmet::Denied(Reason::WrongOrigin)), "{other}");
        }
        assert_eq!(check(&[("origin", None)]), Err(Unmet::Unclear(Lack::Text("origin"))));
        assert_eq!(Guard::default().check(&question("POST", &[("origin", None)])), Ok(()));
    }

    #[test]
    fn an_origin_has_the_spelling_that_browsers_send() {
        for text in ["https://app.example.com", "http://localhost:3000", "https://[::1]:8443", "capacitor://localhost"]
        {
            assert_eq!(Origin::parse(text), Ok(Origin(text.to_owned())));
        }
        for text in [
            "",
            "*",
            "null",
            "app.example.com",
            "https://",
            "https://*.example.com",
            "https://App.example.com",
            "https://app.example.com/",
            "https://app.example.com/x",
            "https://app.example.com:443",
            "http://app.example.com:80",
            "https://user@app.example.com",
            "HTTPS://app.example.com",
            "https://app.example.com.",
        ] {
            assert!(Origin::parse(text).is_err(), "{text}");
        }
        assert!(Origin::parse("https://app.example.com:443").unwrap_err().contains("`https://app.example.com`"));
    }

    #[test]
    fn a_call_that_asks_for_another_method_is_refused_where_the_rule_says_so() {
        let guard = Guard { refuses_method_override: true, ..Guard::default() };
        for name in METHOD_OVERRIDES {
            for value in [Some("DELETE"), Some("POST"), Some(""), None] {
                let question = question("POST", &[(name, value)]);
                assert_eq!(guard.check(&question), Err(Unmet::Unclear(Lack::Method(name))), "{value:?}");
                assert_eq!(Guard::default().check(&question), Ok(()));
            }
        }
        assert_eq!(guard.check(&question("POST", &[("x-method", Some("DELETE"))])), Ok(()));
    }

    #[test]
    fn a_guard_is_measured_by_the_calls_that_it_lets_go_on() {
        let base = Guard {
            sources: Sources { allow: networks(&["10.0.0.0/8"]), deny: networks(&["10.9.0.0/16"]) },
            body_max: Some(10),
            origins: origins(&["https://a.example"]),
            refuses_bad_credentials: true,
            refuses_method_override: true,
        };
        let with = |allow: &[&str], deny: &[&str]| Sources { allow: networks(allow), deny: networks(deny) };
        assert!(base.demands_as_much(&base) && base.demands_as_much(&Guard::default()));
        let weaker = [
            Guard { sources: with(&[], &["10.9.0.0/16"]), ..base.clone() },
            Guard { sources: with(&["10.0.0.0/8", "192.0.2.7"], &["10.9.0.0/16"]), ..base.clone() },
            Guard { sources: with(&["10.0.0.0/8"], &[]), ..base.clone() },
            Guard { body_max: None, ..base.clone() },
            Guard { body_max: Some(11), ..base.clone() },
            Guard { origins: Vec::new(), ..base.clone() },
            Guard { origins: origins(&["https://a.example", "https://b.example"]), ..base.clone() },
            Guard { refuses_bad_credentials: false, ..base.clone() },
            Guard { refuses_method_override: false, ..base.clone() },
        ];
        for weaker in weaker {
            assert!(base.demands_as_much(&weaker) && !weaker.demands_as_much(&base), "{weaker:?}");
        }
    }
}
