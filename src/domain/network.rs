//! Networks: addresses that begin with the same bits (RFC 4632, RFC 4291 §2.3).

use std::cmp::Reverse;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

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

    /// This machine's own addresses (RFC 1122 §3.2.1.3, RFC 4291 §2.5.3).
    pub const LOOPBACK: [Self; 2] = [
        Self(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8))),
        Self(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128))),
    ];

    /// Whether it is wider than the largest private networks (RFC 1918 §3, RFC 4193 §3).
    pub const fn is_wider_than_private(&self) -> bool {
        match self.0 {
            IpNet::V4(network) => network.prefix_len() < 8,
            IpNet::V6(network) => network.prefix_len() < 7,
        }
    }

    /// Whether `address` is in it.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// Several networks in the order in which they were written. Whether an address is in one of them is found by halving, so
/// lists of thousands cost little more than short ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    list: Vec<Network>,
    ipv4: Ranges<u32>,
    ipv6: Ranges<u128>,
}

/// First and last addresses in ascending order. No two of them have an address in common.
type Ranges<A> = Vec<(A, A)>;

impl Networks {
    /// Whether `address` is in one of them.
    pub fn cover(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => is_in(&self.ipv4, address.to_bits()),
            IpAddr::V6(address) => is_in(&self.ipv6, address.to_bits()),
        }
    }
}

impl From<Vec<Network>> for Networks {
    fn from(list: Vec<Network>) -> Self {
        let (mut ipv4, mut ipv6) = (Ranges::new(), Ranges::new());
        for Network(network) in &list {
            match network {
                IpNet::V4(network) => ipv4.push((network.network().to_bits(), network.broadcast().to_bits())),
                IpNet::V6(network) => ipv6.push((network.network().to_bits(), network.broadcast().to_bits())),
            }
        }
        Self { list, ipv4: joined(ipv4), ipv6: joined(ipv6) }
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Vec::from_iter(networks).into()
    }
}

/// As they were written.
impl Deref for Networks {
    type Target = [Network];

    fn deref(&self) -> &[Network] {
        &self.list
    }
}

/// In ascending order. Of two networks that have an address in common one is within the other.
fn joined<A: Copy + Ord>(mut ranges: Ranges<A>) -> Ranges<A> {
    ranges.sort_unstable_by_key(|&(first, last)| (first, Reverse(last)));
    ranges.dedup_by(|(_, last), (_, before)| *last <= *before);
    ranges
}

fn is_in<A: Copy + Ord>(ranges: &Ranges<A>, address: A) -> bool {
    let behind = ranges.partition_point(|&(first, _)| first <= address);
    behind.checked_sub(1).is_some_and(|at| address <= ranges[at].1)
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

    use proptest::prelude::*;

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

    /// Networks near each other, of either kind.
    fn network() -> impl Strategy<Value = Network> {
        let ipv4 = (0..=u32::MAX, 0..=32_u8).prop_map(|(bits, length)| {
            let address = Ipv4Addr::from_bits(0x0a00_0000 | (bits & 0x8000_03ff));
            Network(IpNet::V4(Ipv4Net::new(address, length).unwrap().trunc()))
        });
        let ipv6 = (0..=u128::MAX, 0..=128_u8).prop_map(|(bits, length)| {
            let address = Ipv6Addr::from_bits(0x2001_0db8 << 96 | (bits & (1 << 127 | 0x3ff)));
            Network(IpNet::V6(Ipv6Net::new(address, length).unwrap().trunc()))
        });
        prop_oneof![ipv4, ipv6]
    }

    proptest! {
        #[test]
        fn networks_cover_what_one_of_them_covers(
            list in prop::collection::vec(network(), 0..20),
            at in any::<prop::sample::Index>(),
            (low, high) in (0..0x800_u32, any::<bool>()),
        ) {
            let networks = Networks::from(list.clone());
            let near = list.get(at.index(list.len().max(1))).map(|Network(network)| network.addr());
            let edges = list.iter().flat_map(|Network(network)| [network.network(), network.broadcast()]);
            let ipv4 = Ipv4Addr::from_bits((0x0a00_0000 | u32::from(high) << 31) + low);
            let ipv6 = Ipv6Addr::from_bits((0x2001_0db8 << 96 | u128::from(high) << 127) + u128::from(low));
            for address in edges.chain(near).chain([ipv4.into(), ipv4.to_ipv6_mapped().into(), ipv6.into()]) {
                let beside = match address {
                    IpAddr::V4(address) => {
                        let bits = address.to_bits();
                        [bits.wrapping_sub(1), bits, bits.wrapping_add(1)].map(|bits| Ipv4Addr::from_bits(bits).into())
                    }
                    IpAddr::V6(address) => {
                        let bits = address.to_bits();
                        [bits.wrapping_sub(1), bits, bits.wrapping_add(1)].map(|bits| Ipv6Addr::from_bits(bits).into())
                    }
                };
                for address in beside {
                    let expected = list.iter().any(|network| network.covers(address));
                    prop_assert_eq!(networks.cover(address), expected, "{} {:?}", address, networks);
                }
            }
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
