//! Texts to values: each parser's error says what the text must be.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use url::{Host, Url};

use crate::domain::limit::{Limit, NAME_BYTES_MAX, UNITS_MAX};
use crate::domain::question::is_scope;
use crate::domain::time::Micros;

/// The units that durations are written in, the longest first.
const UNITS: [(&str, Micros); 5] = [
    ("d", Micros::from_secs(24 * 60 * 60)),
    ("h", Micros::from_secs(60 * 60)),
    ("m", Micros::from_secs(60)),
    ("s", Micros::from_secs(1)),
    ("ms", Micros::from_millis(1)),
];

/// A duration within `range`: one whole number and one unit.
pub(super) fn duration(range: RangeInclusive<Micros>) -> impl FnOnce(&str) -> Result<Micros, String> {
    move |text| {
        let (shortest, longest) = (spelled(*range.start()), spelled(*range.end()));
        let must = format!("must be a duration from {shortest} to {longest}, such as 500ms, 30s, 1m, 2h or 7d");
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (count, unit) = text.split_at(end);
        let unit = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, length)| length.0);
        let micros = count.parse::<u64>().ok().zip(unit).and_then(|(count, unit)| count.checked_mul(unit)).map(Micros);
        micros.filter(|micros| range.contains(micros)).ok_or(must)
    }
}

/// The units that sizes are written in.
const SIZES: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// A size in bytes within `range`: one whole number and one unit.
pub(super) fn size(range: RangeInclusive<u64>) -> impl FnOnce(&str) -> Result<u64, String> {
    move |text| {
        let gibibytes = range.end() / SIZES[3].1;
        let must = || format!("must be a size of at most {gibibytes}GiB, such as 0B, 64KiB, 1MiB or 2GiB");
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (count, unit) = text.split_at(end);
        let unit = SIZES.iter().find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes);
        let bytes = count.parse::<u64>().ok().zip(unit).and_then(|(count, unit)| count.checked_mul(unit));
        bytes.filter(|bytes| range.contains(bytes)).ok_or_else(must)
    }
}

/// So many units in so much time: a whole number, a slash and one unit of time.
pub(super) fn rate(text: &str) -> Result<(u64, Micros), String> {
    let must = || format!("must be units per s, m, h or d, such as 10/s or 5000/h, 1 to {UNITS_MAX} of them");
    let (count, unit) = text.split_once('/').ok_or_else(must)?;
    let per = UNITS.iter().find(|(name, _)| *name == unit && unit != "ms").map(|(_, length)| *length);
    let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    let units = count.parse::<u64>().ok().filter(|units| digits && (1..=UNITS_MAX).contains(units));
    units.zip(per).ok_or_else(must)
}

/// A duration as it is written.
pub(super) fn spelled(duration: Micros) -> String {
    if duration == Micros::ZERO {
        return "0s".to_owned();
    }
    let unit = UNITS.iter().find(|(_, length)| duration.0 >= length.0 && duration.0.is_multiple_of(length.0));
    unit.map_or_else(|| format!("{}ms", duration.0 / 1000), |(name, length)| format!("{}{name}", duration.0 / length.0))
}

/// An address to listen on.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "must be an IP address and a port, such as 127.0.0.1:50051, or 0.0.0.0:50051 for every interface".to_owned()
    })
}

/// A limit's name.
pub(super) fn limit_name(text: &str) -> Result<String, String> {
    if Limit::is_name(text) {
        return Ok(text.to_owned());
    }
    Err(format!("a limit's name must be 1 to {NAME_BYTES_MAX} lower-case letters, digits, `_`, `.` and `-`"))
}

/// A string that stands for itself: not empty, no control characters, of at most `bytes_max` bytes.
pub(super) fn word(what: &'static str, bytes_max: usize) -> impl Fn(&str) -> Result<String, String> {
    move |text| {
        let fits = (1..=bytes_max).contains(&text.len()) && !text.chars().any(char::is_control);
        if fits && text.trim() == text {
            return Ok(text.to_owned());
        }
        Err(format!("must be {what}: 1 to {bytes_max} bytes, no control characters, no spaces around it"))
    }
}

/// A scope (RFC 6749 §3.3): tokens carry them separated by spaces.
pub(super) fn scope(text: &str) -> Result<String, String> {
    if is_scope(text) {
        return Ok(text.to_owned());
    }
    Err("must be one scope: 1 to 256 printable ASCII characters without space, `\"` and `\\`".to_owned())
}

/// An address to fetch keys and metadata from: `https`, or `http` to this machine, or to any where `plain_http` allows
/// it; no user, no fragment, and not link-local, where clouds keep their machines' secrets. Whoever fetches refuses the
/// others, too; said here, it has a line.
pub(super) fn fetchable(text: &str, plain_http: bool) -> Result<Url, String> {
    let must = "must be an https URL (http only to loopback) without user name and fragment, to no link-local address";
    let url = Url::parse(text).map_err(|_| must.to_owned())?;
    let plain_user = url.username().is_empty() && url.password().is_none();
    let secure = url.scheme() == "https" || (url.scheme() == "http" && (plain_http || is_loopback(&url)));
    // The parser drops what surrounds and interrupts a URL: what is compared and logged must be what is fetched.
    let clean = text.chars().all(|c| c.is_ascii_graphic());
    if plain_user && secure && clean && url.has_host() && url.fragment().is_none() && !is_link_local(&url) {
        return Ok(url);
    }
    Err(must.to_owned())
}

/// An issuer whose metadata is fetched (RFC 8414 §2, `OpenID` Connect Discovery §3).
pub(super) fn discoverable(text: &str, plain_http: bool) -> Result<String, String> {
    match fetchable(text, plain_http) {
        Ok(url) if url.query().is_none() => Ok(text.to_owned()),
        _ => Err("must be an https URL (http only to loopback) without query and fragment, \
                  since the issuer's keys are found from it; with `jwks` it may be any string"
            .to_owned()),
    }
}

/// Whether `url` names this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

/// Whether `url` names a link-local address.
fn is_link_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_link_local(),
        Some(Host::Ipv6(address)) => {
            address.is_unicast_link_local() || address.to_ipv4_mapped().is_some_and(|address| address.is_link_local())
        }
        Some(Host::Domain(_)) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_one_number_and_one_unit() {
        let read = |text: &str| duration(Micros::ZERO..=Micros::from_secs(366 * 24 * 60 * 60))(text);
        for (text, micros) in [
            ("0s", 0),
            ("12ms", 12_000),
            ("500ms", 500_000),
            ("90s", 90_000_000),
            ("1m", 60_000_000),
            ("1h", 3_600_000_000),
            ("366d", 31_622_400_000_000),
        ] {
            assert_eq!(read(text), Ok(Micros(micros)), "{text}");
        }
        for text in
            ["", "1", "s", "1 s", " 1s", "1s ", "-1s", "+1s", "1.5s", "1m30s", "1S", "1us", "367d", "1e3s", "٣s"]
        {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(read("99999999999999999999d").is_err());
        assert!(read("18446744073709551615d").is_err());
    }

    #[test]
    fn rates_are_one_number_and_one_unit_of_time() {
        for (text, units, per) in [
            ("10/s", 10, 1),
            ("1/m", 1, 60),
            ("5000/h", 5_000, 3_600),
            ("007/d", 7, 86_400),
            ("1000000000000/s", UNITS_MAX, 1),
        ] {
            assert_eq!(rate(text), Ok((units, Micros::from_secs(per))), "{text}");
        }
        for text in [
            "",
            "/",
            "10",
            "/s",
            "10/",
            "0/s",
            "-1/s",
            "+1/s",
            "1.5/s",
            "1/ms",
            "1/S",
            "1 /s",
            "1/ s",
            "1/s ",
            "1/2s",
            "1/s/s",
            "1000000000001/s",
            "99999999999999999999/s",
            "٣/s",
        ] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_one_number_and_one_unit() {
        let read = |text: &str| size(0..=1 << 40)(text);
        for (text, bytes) in
            [("0B", 0), ("1B", 1), ("64KiB", 65_536), ("1MiB", 1_048_576), ("007GiB", 7 << 30), ("1024GiB", 1 << 40)]
        {
            assert_eq!(read(text), Ok(bytes), "{text}");
        }
        for text in ["", "1", "B", "1 MiB", "1MB", "1mib", "-1B", "+1B", "1.5MiB", "1025GiB", "1B ", "٣B"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(read("99999999999999999999B").is_err());
        assert!(read("18446744073709551615GiB").is_err());
    }

    #[test]
    fn durations_are_spelled_as_they_are_read() {
        for text in ["1ms", "100ms", "1s", "90s", "5m", "36h", "2d"] {
            let read = duration(Micros::ZERO..=Micros(u64::MAX))(text);
            assert_eq!(read.map(spelled).as_deref(), Ok(text));
        }
    }

    #[test]
    fn keys_are_fetched_securely_or_from_this_machine() {
        for text in [
            "https://auth.example.com/realms/a",
            "https://auth.example.com:8443?x=y",
            "http://127.0.0.1:8080/jwks",
            "http://[::1]/",
            "http://localhost:3000",
        ] {
            assert!(fetchable(text, false).is_ok(), "{text}");
        }
        for text in [
            "",
            "auth.example.com",
            "http://auth.example.com",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
            "https://user@auth.example.com",
            "https://auth.example.com/#x",
            "https://",
            "ftp://auth.example.com",
            "file:///etc/passwd",
            " https://auth.example.com",
            "https://auth.exa\tmple.com",
            "https://169.254.169.254/latest",
            "https://2852039166/",
            "https://[fe80::1]/",
            "https://[::ffff:169.254.169.254]/",
        ] {
            assert!(fetchable(text, false).is_err(), "{text}");
            let elsewhere = ["http://auth.", "http://localhost.", "http://127.0.0.1."];
            let is_plain = elsewhere.iter().any(|start| text.starts_with(start));
            assert_eq!(fetchable(text, true).is_ok(), is_plain, "{text}");
        }
    }
}
