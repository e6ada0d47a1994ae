//! Networks: addresses that begin with the same bits (RFC 4632, RFC 4291 §2.3).

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// A network, or one address. What IPv6 maps from IPv4 (RFC 4291 §2.5.5.2) is IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Reads `10.0.0.0/8`, `2001:db8::/32` or a single address, each in its one spelling.
    pub fn parse(text: &str) -> Result<Self, String> {
        let must =
            || "must be a network such as 10.0.0.0/8 or 2001:db8::/32, or an address such as 192.0.2.7".to_owned();
        let address = text.parse::<IpAddr>().ok();
        let network = match address {
            Some(address) => IpNet::from(address),
            None => text.parse::<IpNet>().map_err(|_| must())?.trunc(),
        };
        let spelled = address.map_or_else(|| network.to_string(), |address| address.to_string());
        if network.addr() != network.addr().to_canonical() {
            return Err(
                "is mapped from IPv4; write the IPv4 network itself, which mapped addresses count to".to_owned()
            );
        }
        if spelled != text {
            return Err(format!("must be canonical: `{spelled}`, without bits beyond the prefix"));
        }
        Ok(Self(network))
    }

    /// Whether `address` is in it.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// As it is written, with the length of the prefix.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn a_network_covers_the_addresses_that_begin_as_it_does() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.6/31", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "255.255.255.255", "2001:db8::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("2001:db8::7", "2001:db8::7", "2001:db8::8"),
            ("::/0", "::1", "192.0.2.7"),
            // IPv4, whoever maps it into IPv6.
            ("::/0", "fe80::1", "::ffff:192.0.2.7"),
        ] {
            let covers = |address: &str| Network::parse(network).unwrap().covers(address.parse().unwrap());
            assert!(covers(inside) && !covers(outside), "{network} {inside} {outside}");
        }
    }

    #[test]
    fn a_network_has_one_spelling() {
        assert_eq!(Network::parse("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/",
            "10.0.0/8",
            "010.0.0.0/8",
            "10.0.0.0/08",
            "10.0.0.1/8",
            "10.0.0.0/255.0.0.0",
            "2001:DB8::/32",
            "2001:db8::1/32",
            "2001:0db8::/32",
            "::ffff:10.0.0.0/104",
            "::ffff:10.0.0.1",
            "fe80::1%eth0",
            "api.example.com",
            " 10.0.0.0/8",
        ] {
            assert!(Network::parse(text).is_err(), "{text}");
        }
        assert!(Network::parse("10.1.2.3/8").unwrap_err().contains("`10.0.0.0/8`"));
        assert!(Network::parse("::ffff:10.0.0.0/104").unwrap_err().contains("IPv4"));
    }
}
