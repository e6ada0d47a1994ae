//! Where the status of a token stands: one of many in a list that its issuer publishes (Token Status List,
//! draft-ietf-oauth-status-list).

/// Where a token's status stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRef {
    /// The URI of the list, which is the list's `sub` too.
    pub list: Box<str>,
    /// Its place in the list, from 0 on.
    pub index: u64,
}

/// Which lists are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusLists {
    /// Whether any are.
    pub check: bool,
    /// Servers where lists may be beside the issuer's own, as `https://host[:port]`.
    pub origins: Vec<String>,
}

impl Default for StatusLists {
    fn default() -> Self {
        Self { check: true, origins: Vec::new() }
    }
}

/// The statuses of many tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusList {
    bits: u8,
    bytes: Box<[u8]>,
}

impl StatusList {
    /// Statuses of `bits` bits each, packed into bytes from the least significant bit on (§4.1). None: a status has not 1, 2, 4 or
    /// 8 bits.
    pub fn new(bits: u64, bytes: Vec<u8>) -> Option<Self> {
        let bits = u8::try_from(bits).ok().filter(|bits| matches!(bits, 1 | 2 | 4 | 8))?;
        Some(Self { bits, bytes: bytes.into() })
    }

    /// The status at a place; none: the list ends before it. 0 is a token that is valid (§7.1).
    pub fn get(&self, index: u64) -> Option<u8> {
        let in_byte = u64::from(8 / self.bits);
        let byte = self.bytes.get(usize::try_from(index / in_byte).ok()?)?;
        // Less than 8.
        let shift = u8::try_from(index % in_byte).ok()? * self.bits;
        Some((byte >> shift) & (0xff >> (8 - self.bits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_packed_from_the_least_significant_bit_on() {
        // The examples of §4.1.
        let list = StatusList::new(1, vec![0xb9, 0xa3]);
        let statuses = |list: Option<StatusList>| -> Vec<u8> {
            list.into_iter().flat_map(|list| (0..).map_while(move |index| list.get(index))).collect()
        };
        assert_eq!(statuses(list), [1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1]);
        assert_eq!(statuses(StatusList::new(2, vec![0xc9, 0x44, 0xf9])), [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3]);
        assert_eq!(statuses(StatusList::new(4, vec![0x21, 0xf3])), [1, 2, 3, 15]);
        assert_eq!(statuses(StatusList::new(8, vec![0, 255])), [0, 255]);
        assert!(statuses(StatusList::new(1, vec![])).is_empty());
        for bits in [0, 3, 5, 16, 256, u64::MAX] {
            assert_eq!(StatusList::new(bits, vec![0]), None, "{bits}");
        }
        assert_eq!(StatusList::new(8, vec![1]).and_then(|list| list.get(u64::MAX)), None);
    }
}
