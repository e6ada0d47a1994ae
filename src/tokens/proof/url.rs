//! Whether the URL that a `DPoP` proof names is the one that is asked for (RFC 9449 §4.3, check 9): compared after RFC 3986's
//! normalization by syntax and scheme (§6.2.2, §6.2.3), without query and fragment.
//!
//! Spring compares bytes, so there `https://API.example/`, or a port that goes without saying, is another URL. Dot segments
//! are not resolved: a question never has any, so a proof with some is for none.

use super::dpop::Flaw;
use crate::domain::path::Host;
use crate::domain::question::Question;

/// Whether `htu` is the URL of the call that the question is for. One without host or path has no URL.
pub(super) fn check(htu: &str, question: &Question<'_>) -> Result<(), Flaw> {
    let host = question.host.as_ref().ok_or(Flaw::NoHost)?;
    let path = question.target.path().ok_or(Flaw::Url)?;
    let (scheme, default_port) = if question.proofs.plain_http { ("http", 80) } else { ("https", 443) };
    let named = Named::read(htu).ok_or(Flaw::Url)?;
    let port = |host: &Host<'_>| host.port().unwrap_or(default_port);
    let is_it = named.scheme.eq_ignore_ascii_case(scheme)
        && named.host.as_str() == host.as_str()
        && port(&named.host) == port(host)
        && octets(named.path).eq(octets(path.as_written()));
    if is_it { Ok(()) } else { Err(Flaw::Url) }
}

/// The parts of an absolute URL that count.
struct Named<'u> {
    scheme: &'u str,
    host: Host<'u>,
    path: &'u str,
}

impl<'u> Named<'u> {
    fn read(url: &'u str) -> Option<Self> {
        let url = url.find(['?', '#']).map_or(url, |end| &url[..end]);
        let (scheme, rest) = url.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // An empty path is the root (RFC 3986 §6.2.3).
        Some(Self { scheme, host: Host::parse(authority).ok()?, path: if path.is_empty() { "/" } else { path } })
    }
}

/// What stands for one octet of a path that was percent-encoded and has to stay so.
const ENCODED: u16 = 0x100;

/// A path's octets. One that needs no encoding (RFC 3986 §2.3) is the same with and without; so is one that cannot go
/// without (RFC 3987 §3.1).
fn octets(path: &str) -> impl Iterator<Item = u16> {
    let mut rest = path.as_bytes();
    std::iter::from_fn(move || {
        let (&first, after) = rest.split_first()?;
        if let (b'%', [high, low, beyond @ ..]) = (first, after)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            rest = beyond;
            let octet = high << 4 | low;
            return Some(if is_unreserved(octet) { u16::from(octet) } else { u16::from(octet) | ENCODED });
        }
        rest = after;
        Some(if first.is_ascii() { u16::from(first) } else { u16::from(first) | ENCODED })
    })
}

const fn is_unreserved(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~')
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tokens::proof::tests::question;

    /// `host` and `path` as a gateway hands them on.
    fn is_it(htu: &str, host: &str, path: &str, plain_http: bool) -> bool {
        let mut question = question("GET", host, path);
        question.proofs.plain_http = plain_http;
        check(htu, &question).is_ok()
    }

    #[test]
    fn spellings_of_one_url_are_one() {
        for (htu, host, path) in [
            ("https://api.example/orders/1", "api.example", "/orders/1"),
            ("HTTPS://API.Example/orders/1", "api.example", "/orders/1"),
            ("https://api.example/orders/1", "API.EXAMPLE:443", "/orders/1"),
            ("https://api.example:443/orders/1", "api.example", "/orders/1"),
            ("https://api.example:/orders/1", "api.example", "/orders/1"),
            ("https://api.example:8443/orders/1", "api.example:8443", "/orders/1"),
            ("https://api.example/orders/1?a=b#c", "api.example", "/orders/1"),
            ("https://api.example/orders/1", "api.example", "/orders/1?a=/x"),
            ("https://api.example/%6frders/%7E1", "api.example", "/orders/~1"),
            ("https://api.example/orders/~1", "api.example", "/%6Frders/%7e1"),
            ("https://api.example/a%2bb", "api.example", "/a%2Bb"),
            ("https://api.example/caf%c3%a9", "api.example", "/café"),
            ("https://api.example/orders/", "api.example", "/orders/"),
            ("https://api.example", "api.example", "/"),
            ("https://api.example?x", "api.example", "/"),
            ("https://[2001:DB8::0001]/x", "[2001:db8::1]", "/x"),
        ] {
            assert!(is_it(htu, host, path, false), "{htu} is {host}{path}");
        }
        assert!(is_it("http://api.example:80/x", "api.example", "/x", true));
    }

    #[test]
    fn another_url_is_another() {
        for (htu, host, path) in [
            ("http://api.example/orders/1", "api.example", "/orders/1"),
            ("https://api.example/orders/2", "api.example", "/orders/1"),
            ("https://api.example/Orders/1", "api.example", "/orders/1"),
            ("https://api.example/orders/1/", "api.example", "/orders/1"),
            ("https://api.example/orders", "api.example", "/orders/"),
            ("https://api.example/a%2Bb", "api.example", "/a+b"),
            ("https://other.example/orders/1", "api.example", "/orders/1"),
            ("https://api.example.evil/orders/1", "api.example", "/orders/1"),
            ("https://api.example@evil/orders/1", "api.example", "/orders/1"),
            ("https://evil@api.example/orders/1", "api.example", "/orders/1"),
            ("https://api.example:8443/orders/1", "api.example", "/orders/1"),
            ("https://api.example:80/orders/1", "api.example", "/orders/1"),
            ("https://api.example:65979/orders/1", "api.example", "/orders/1"),
            ("https://api.example/orders/1", "api.example:8443", "/orders/1"),
            ("https://api.example/x/../orders/1", "api.example", "/orders/1"),
            ("https://api.example//orders/1", "api.example", "/orders/1"),
            ("https://api.example/orders/1%", "api.example", "/orders/1"),
            ("https://api.example/orders/1 ", "api.example", "/orders/1"),
            (" https://api.example/orders/1", "api.example", "/orders/1"),
            ("https:/api.example/orders/1", "api.example", "/orders/1"),
            ("//api.example/orders/1", "api.example", "/orders/1"),
            ("api.example/orders/1", "api.example", "/orders/1"),
            ("/orders/1", "api.example", "/orders/1"),
            ("https:///orders/1", "api.example", "/orders/1"),
            ("", "api.example", "/orders/1"),
        ] {
            assert!(!is_it(htu, host, path, false), "{htu} is not {host}{path}");
        }
        assert!(!is_it("https://api.example/x", "api.example", "/x", true));
        assert!(!is_it("http://api.example:443/x", "api.example", "/x", true));
    }

    /// The same path with some octets percent-encoded that need not be.
    fn respelt(path: &str, which: &[bool]) -> String {
        let spell = |(index, octet): (usize, u8)| {
            let encode = octet != b'/' && (!octet.is_ascii() || which[index % which.len()]);
            if encode { format!("%{octet:02x}") } else { char::from(octet).to_string() }
        };
        path.bytes().enumerate().map(spell).collect()
    }

    proptest! {
        #[test]
        fn any_path_is_itself_however_it_is_spelt(
            path in "(/[a-zA-Z0-9_~é-]{1,8}){1,4}/?",
            which in prop::collection::vec(any::<bool>(), 1..9),
            port in prop::option::of(1_u16..),
        ) {
            let host = port.map_or("a.example".to_owned(), |port| format!("A.example:{port}"));
            let htu = format!("https://{host}{}", respelt(&path, &which));
            prop_assert!(is_it(&htu, &host, &path, false));
            let (plain, other) = (format!("https://{host}{path}"), format!("{htu}x"));
            prop_assert!(is_it(&plain, &host, &respelt(&path, &which), false));
            prop_assert!(!is_it(&other, &host, &path, false));
        }

        #[test]
        fn any_text_leads_to_an_answer(htu in any::<String>()) {
            let _ = is_it(&htu, "a.example", "/", false);
        }
    }
}
