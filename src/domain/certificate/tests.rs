//! What certificates say, in every form.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, SanType};

use super::*;

/// A certificate with these names, in DER and PEM.
fn holder(names: &[&str]) -> (Vec<u8>, String) {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names
        .iter()
        .map(|name| {
            let text = (*name).try_into().unwrap();
            if name.contains(':') { SanType::URI(text) } else { SanType::DnsName(text) }
        })
        .collect();
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    (certificate.der().to_vec(), certificate.pem())
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "%{byte:02x}");
        text
    })
}

fn hash(der: &[u8]) -> String {
    thumbprint(der).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

const NOW: Micros = Micros::from_secs(1_800_000_000);

fn identified(names: &[&str], accepted: &[&str]) -> Result<(String, String), Reason> {
    let accepted: Vec<_> = accepted.iter().map(|text| NamePattern::parse(text).unwrap()).collect();
    let identity = Certificate::from_der(&holder(names).0).unwrap().identify(&accepted, NOW)?;
    Ok((identity.issuer.to_string(), identity.subject.unwrap().into()))
}

#[test]
fn every_form_says_the_same() {
    let (der, pem) = holder(&["spiffe://td/a", "WWW.Example.com"]);
    let read = Certificate::from_der(&der).unwrap();
    assert_eq!(read.names, ["spiffe://td/a", "www.example.com"]);
    assert_eq!(Certificate::from_pem(&pem).unwrap(), read);
    assert_eq!(Certificate::from_pem(&pem.replace('\n', "\r\n")).unwrap(), read);
    assert_eq!(Certificate::from_pem(&encoded(&pem)).unwrap(), read);
    assert_eq!(Certificate::from_client_cert(&format!(":{}:", STANDARD.encode(&der))).unwrap(), read);
    let (cert, hash) = (encoded(&pem), hash(&der));
    for element in [
        format!("Cert=\"{cert}\""),
        format!("cert={cert};HASH={hash}"),
        format!(
            "By=spiffe://td/me;Hash={hash};Cert=\"{cert}\";Subject=\"CN=a,O=\\\"b;c\\\"\";URI=spiffe://td/a;DNS=www.example.com;DNS="
        ),
        format!("Chain=\"{cert}{}\"", encoded(&holder(&["ca"]).1)),
        format!("Hash={};Cert=\"bad\"", "0".repeat(64)).replace("Cert=\"bad\"", "URI=spiffe://td/first")
            + &format!(",Cert={cert}"),
    ] {
        assert_eq!(Certificate::from_forwarded(&element).as_ref(), Ok(&read), "{element}");
    }
}

#[test]
fn a_hash_alone_is_the_gateways_word() {
    let text = format!("Hash={};URI=spiffe://td/a;URI=;DNS=B.example", "ab".repeat(32));
    let read = Certificate::from_forwarded(&text).unwrap();
    assert_eq!((read.thumbprint, read.validity), ([0xab; 32], None));
    assert_eq!(read.names, ["spiffe://td/a", "b.example"]);
    assert_eq!(read.standing(NOW), Ok(()));
}

#[test]
fn what_is_no_certificate_is_refused() {
    let (der, pem) = holder(&["spiffe://td/a"]);
    let longer = [&der[..], &[0]].concat();
    for bytes in [&der[..der.len() - 1], &longer, b"", b"x", &vec![0x30; CERTIFICATE_BYTES_MAX + 1]] {
        assert!(Certificate::from_der(bytes).is_err(), "{} bytes", bytes.len());
    }
    let base64 = STANDARD.encode(&der);
    for value in [
        base64.clone(),
        format!(":{base64}"),
        format!("{base64}:"),
        format!(":{base64}:;x"),
        format!(": {base64}:"),
        "::".to_owned(),
        ":".to_owned(),
    ] {
        assert!(Certificate::from_client_cert(&value).is_err(), "{value}");
    }
    for text in [
        String::new(),
        format!("x{pem}"),
        format!("{pem}{pem}"),
        format!("{pem}x"),
        pem.replace("BEGIN CERT", "BEGIN OTHER CERT"),
        format!("{}%", encoded(&pem)),
        "%ff".to_owned(),
        pem.replace("END", "EN"),
    ] {
        assert!(Certificate::from_pem(&text).is_err(), "{text}");
    }
}

#[test]
fn elements_that_are_unclear_or_contradict_themselves_are_refused() {
    let (der, pem) = holder(&["spiffe://td/a"]);
    let (cert, hash, other) = (encoded(&pem), hash(&der), "0".repeat(64));
    for text in [
        String::new(),
        "Hash".to_owned(),
        "Hash=".to_owned(),
        "URI=spiffe://td/a".to_owned(),
        format!("Hash={}", &hash[1..]),
        format!("Hash={}", hash.replace(&hash[..1], "g")),
        format!("Hash={hash};"),
        format!("Hash={hash},"),
        format!("Hash={hash};;URI=spiffe://td/a"),
        format!("Hash={hash};Hash={hash}"),
        format!("Cert={cert};Cert={cert}"),
        format!("Hash={other};Cert={cert}"),
        format!("Cert={cert};URI=spiffe://td/b"),
        format!("Cert={cert};Chain={}", encoded(&holder(&["b"]).1)),
        format!("Cert={cert};URI=a b"),
        format!("Hash={hash};Subject=\"CN=x"),
        format!("Hash={hash};Subject=\"CN=x\\\""),
        format!("Hash={hash};Subject=\"CN=x\"y"),
        format!("Hash={hash};Subject=x\"y"),
        // What a client sends first must not swallow what the gateway appends.
        format!("x=\",By=a;Hash={hash};Subject=\"CN=b\";URI=spiffe://td/a"),
        format!("Cert={cert},Hash={hash},Subject=\"CN=b\""),
    ] {
        assert!(Certificate::from_forwarded(&text).is_err(), "{text}");
    }
}

#[test]
fn the_subject_is_the_spiffe_id_or_the_first_name_that_is_accepted() {
    let td = |subject: &str| Ok(("spiffe://td".to_owned(), subject.to_owned()));
    let x509 = |subject: &str| Ok((DNS_ISSUER.to_owned(), subject.to_owned()));
    let both = ["spiffe://td/**", "*.example"];
    assert_eq!(identified(&["a.example", "spiffe://td/x"], &both), td("spiffe://td/x"));
    assert_eq!(identified(&["a.other", "b.example", "c.example"], &both), x509("b.example"));
    assert_eq!(identified(&["urn:a", "b.example"], &["urn:a"]), x509("urn:a"));
    for (names, accepted) in [
        (&["a.example", "spiffe://other/x"][..], &both[..]),
        (&["spiffe://td/x", "spiffe://td/y"], &both),
        (&["spiffe://td/x", "urn:y"], &both),
        (&["SPIFFE://td/x", "a.example"], &both),
        (&["spiffe://td/x/../y", "a.example"], &both),
        (&["a.other"], &both),
        (&[], &both),
        (&["*.example"], &both),
    ] {
        assert_eq!(identified(names, accepted), Err(Reason::UnknownIssuer), "{names:?}");
    }
    assert_eq!(identified(&["a.example"], &[]), Err(Reason::NoCredential));
}

#[test]
fn whoever_is_identified_as_nobody_has_no_name_for_a_rule_either() {
    let has = |names: &[&str], pattern: &str| {
        Certificate::from_der(&holder(names).0).unwrap().has_name(&[NamePattern::parse(pattern).unwrap()])
    };
    assert!(has(&["spiffe://td/x", "a.example"], "spiffe://td/x") && has(&["urn:a", "urn:b"], "urn:b"));
    // What a client's URI smuggles into the header of a gateway that does not quote it ends here, too.
    let smuggled = format!("Hash={};URI=spiffe://td/x;URI=spiffe://td/admin", "0".repeat(64));
    assert!(
        !Certificate::from_forwarded(&smuggled).unwrap().has_name(&[NamePattern::parse("spiffe://td/admin").unwrap()])
    );
    for names in
        [&["spiffe://td/x", "spiffe://td/y"][..], &["urn:y", "spiffe://td/x"], &["SPIFFE://td/z", "spiffe://td/x"]]
    {
        assert!(!has(names, "spiffe://td/x"), "{names:?}");
    }
}

#[test]
fn a_name_that_is_not_well_formed_is_left_out_and_lets_nobody_pass() {
    let odd_dns = holder(&["spiffe://td/x", "a b", "a.example"]).0;
    let read = Certificate::from_der(&odd_dns).unwrap();
    assert_eq!(
        (read.names.as_slice(), read.thumbprint),
        (&["spiffe://td/x".into(), "a.example".into()][..], thumbprint(&odd_dns))
    );
    assert!(read.has_name(&[NamePattern::parse("spiffe://td/x").unwrap()]));
    // Not in ASCII: the reader itself takes these for invalid.
    let latin = |name: &str| {
        let mut der = holder(&[name, "a.example"]).0;
        let at = der.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
        der[at + name.len() - 1] = 0xe9;
        Certificate::from_der(&der).unwrap()
    };
    let patterns = ["a.example", "urn:b", "spiffe://td/**"].map(|text| NamePattern::parse(text).unwrap());
    let hash = "0".repeat(64);
    let told = |names: &str| Certificate::from_forwarded(&format!("Hash={hash};{names}")).unwrap();
    for good in [latin("b.example"), told("DNS=b:c;DNS=a.example"), told("DNS=;URI=;DNS=a.example")] {
        assert_eq!(good.names, ["a.example"]);
        assert!(good.has_name(&patterns) && good.identify(&patterns, NOW).is_ok(), "{good:?}");
    }
    for odd in [
        latin("spiffe://td/x"),
        latin("urn:x"),
        Certificate::from_der(&holder(&["spiffe://td/x y", "a.example"]).0).unwrap(),
        Certificate::from_der(&holder(&["urn:a b", "urn:b", "a.example"]).0).unwrap(),
        Certificate::from_der(&holder(&["urn:a b", "spiffe://td/x"]).0).unwrap(),
        told("URI=a b;DNS=a.example"),
        told("URI=no-scheme;URI=spiffe://td/x"),
    ] {
        assert!(!odd.has_name(&patterns), "{odd:?}");
        assert_eq!(odd.identify(&patterns, NOW), Err(Reason::UnknownIssuer), "{odd:?}");
    }
    let many: Vec<String> = (0..=NAMES_MAX).map(|number| format!("n{number}.example")).collect();
    assert!(Certificate::from_der(&holder(&many.iter().map(String::as_str).collect::<Vec<_>>()).0).is_err());
}

#[test]
fn a_certificate_is_good_from_its_first_second_to_its_last() {
    let [from, until] = [Micros::from_secs(100), Micros::from_secs(200)];
    let validity = Some(Validity { not_before: from, not_after: until });
    let standing = |now: u64| Certificate { validity, ..Certificate::default() }.standing(Micros(now));
    assert_eq!(standing(99_999_999), Err(Reason::NotYetValid));
    assert_eq!(standing(100_000_000), Ok(()));
    assert_eq!(standing(200_999_999), Ok(()));
    assert_eq!(standing(201_000_000), Err(Reason::Expired));
}

proptest! {
    #[test]
    fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300), text in ".{0,200}") {
        let _ = Certificate::from_der(&bytes);
        let _ = (Certificate::from_pem(&text), Certificate::from_client_cert(&text), Certificate::from_forwarded(&text));
    }

    #[test]
    fn any_elements_have_an_answer(text in "((Hash|Cert|URI|DNS|x)?[=]?(\"|[a-f0-9]{64}|a|%41|\\\\)?[;,\"]?){0,12}") {
        let _ = Certificate::from_forwarded(&text);
    }

    /// Whatever a client sends in the header itself, it does not change what the gateway appends.
    #[test]
    fn what_stands_before_the_last_element_changes_nothing_of_it(
        before in "((Hash|URI|Cert|By|x)?=?[\\\\\";,= a]{0,2}([a]{64})?[\";,]?){0,8}",
        subject in "(;Subject=\"(CN=a(\\\\\"b)?(,O=c;URI=d)?)?\")?",
    ) {
        let last = format!("By=spiffe://td/g;Hash={}{subject};URI=spiffe://td/a", "ab".repeat(32));
        let alone = Certificate::from_forwarded(&last).unwrap();
        if let Ok(read) = Certificate::from_forwarded(&format!("{before},{last}")) {
            prop_assert_eq!(read, alone);
        }
    }

    #[test]
    fn a_changed_byte_is_another_certificate_or_none(at in any::<prop::sample::Index>(), flip in 1u8..) {
        let (mut der, _) = holder(&["spiffe://td/a"]);
        let before = Certificate::from_der(&der).unwrap();
        let at = at.index(der.len());
        der[at] ^= flip;
        prop_assert!(Certificate::from_der(&der).map_or(true, |read| read.thumbprint != before.thumbprint));
    }
}
