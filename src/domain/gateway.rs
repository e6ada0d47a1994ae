//! What is believed of calls that gateways ask about, beyond what they saw themselves.

use std::net::{IpAddr, SocketAddr};

use super::network::Network;
use super::question::Header;

/// The most proxies that can stand before a gateway.
pub const HOPS_MAX: u64 = 16;

/// The most networks of gateways that can be listed.
pub const PEERS_MAX: usize = 64;

/// How far gateways, and the proxies before them, are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateways {
    /// How many addresses at the end of `x-forwarded-for` were written by those who are trusted; 0: the gateway's own word
    /// counts alone. At most [`HOPS_MAX`].
    pub trusted_hops: usize,
    /// Whether the caller's certificate is what `x-forwarded-client-cert` says, where the gateway hands on none itself.
    pub forwarded_certificates: bool,
    /// Who may ask at `/forward-auth`, where a call is told of in headers that anybody could write: those who connect from
    /// these networks. Each was read by [`peers`].
    pub forward_auth_peers: Vec<Network>,
}

/// The gateway's own word counts alone, and only this machine may ask at `/forward-auth`.
impl Default for Gateways {
    fn default() -> Self {
        Self { trusted_hops: 0, forwarded_certificates: false, forward_auth_peers: Network::LOOPBACK.into() }
    }
}

impl Gateways {
    /// Whether whoever connects from `address` may ask at `/forward-auth`.
    pub fn may_forward(&self, address: IpAddr) -> bool {
        self.forward_auth_peers.iter().any(|network| network.covers(address))
    }

    /// Where a call comes from: with no trusted hops from `peer`, the other end of the gateway's connection; else from the
    /// first address that a trusted one wrote into `forwarded_for`. None: not known, since there are fewer.
    ///
    /// # Errors
    /// What stands there is no address, so nobody can say what it means.
    pub fn source(&self, peer: Option<IpAddr>, forwarded_for: Header<'_>) -> Result<Option<IpAddr>, &'static str> {
        let Some(at) = self.trusted_hops.checked_sub(1) else { return Ok(peer) };
        match forwarded_for {
            Header::Absent => Ok(None),
            Header::Text(list) => {
                list.rsplit(',').nth(at).map(|text| address(text.trim_matches([' ', '\t']))).transpose()
            }
            Header::Unreadable => Err(NO_ADDRESS),
        }
    }
}

/// Reads a network of gateways, or the address of one; else what it must be.
pub fn peers(text: &str) -> Result<Network, String> {
    let network = Network::parse(text)?;
    if network.is_wider_than_private() {
        return Err(
            "must be no wider than /8 (IPv4) or /7 (IPv6): whoever is in it is believed what it tells of a call"
                .to_owned(),
        );
    }
    Ok(network)
}

const NO_ADDRESS: &str = "must have IP addresses, separated by commas";

/// Some proxies write the port, too. An IPv4 address that came mapped into IPv6 is the same client.
fn address(text: &str) -> Result<IpAddr, &'static str> {
    let address = text.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.map(|address| address.to_canonical()).map_err(|_| NO_ADDRESS)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn source(trusted_hops: usize, forwarded_for: Header<'_>) -> Result<Option<IpAddr>, &'static str> {
        let gateways = Gateways { trusted_hops, ..Gateways::default() };
        gateways.source(Some(at("10.0.0.1")), forwarded_for)
    }

    fn at(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    #[test]
    fn this_machine_and_nobody_else_may_ask_unless_it_is_said() {
        let may = |gateways: &Gateways, peer: &str| gateways.may_forward(peer.parse().unwrap());
        let nothing_said = Gateways::default();
        for peer in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert!(may(&nothing_said, peer), "{peer}");
        }
        for peer in ["10.0.0.1", "128.0.0.1", "0.0.0.0", "::", "::2", "::ffff:10.0.0.1", "fe80::1"] {
            assert!(!may(&nothing_said, peer), "{peer}");
        }
        let listed = Gateways { forward_auth_peers: vec![peers("10.1.0.0/16").unwrap()], ..nothing_said };
        assert!(may(&listed, "10.1.2.3") && may(&listed, "::ffff:10.1.2.3"));
        assert!(!may(&listed, "127.0.0.1") && !may(&listed, "10.2.0.0"));
    }

    #[test]
    fn networks_of_gateways_are_canonical_and_no_wider_than_private_ones() {
        for text in ["10.1.2.3", "10.0.0.0/8", "fc00::/7"] {
            assert!(peers(text).is_ok(), "{text}");
        }
        let odd = ["", "localhost", "10.1.2.3/16", "::ffff:0:0/96"];
        for text in ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "8000::/1"].into_iter().chain(odd) {
            assert!(peers(text).is_err(), "{text}");
        }
    }

    #[test]
    fn without_trusted_hops_nothing_is_believed_but_the_gateway() {
        for header in [Header::Absent, Header::Text("192.0.2.7"), Header::Text("x"), Header::Unreadable] {
            assert_eq!(source(0, header), Ok(Some(at("10.0.0.1"))), "{header:?}");
        }
    }

    #[test]
    fn trusted_hops_are_counted_from_the_end() {
        let forged = Header::Text("203.0.113.9, 198.51.100.4,\t192.0.2.7 , 2001:db8::1");
        assert_eq!(source(1, forged), Ok(Some(at("2001:db8::1"))));
        assert_eq!(source(2, forged), Ok(Some(at("192.0.2.7"))));
        assert_eq!(source(3, forged), Ok(Some(at("198.51.100.4"))));
        assert_eq!(source(1, Header::Text("[2001:db8::1]:80")), Ok(Some(at("2001:db8::1"))));
        assert_eq!(source(1, Header::Text("::ffff:192.0.2.7")), Ok(Some(at("192.0.2.7"))));
        assert_eq!(source(1, Header::Text("192.0.2.7:4711")), Ok(Some(at("192.0.2.7"))));
    }

    #[test]
    fn what_the_trusted_did_not_write_is_not_known() {
        assert_eq!(source(2, Header::Text("192.0.2.7")), Ok(None));
        assert_eq!(source(1, Header::Absent), Ok(None));
        for odd in ["", "unknown", "192.0.2.7,", "for=192.0.2.7", "_hidden"] {
            assert!(source(1, Header::Text(odd)).is_err(), "{odd}");
        }
        assert!(source(1, Header::Unreadable).is_err());
    }
}
