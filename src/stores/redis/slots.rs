//! Which slot a key falls on, and which node has which slots, as the Redis Cluster specification has it.

use std::sync::Arc;

use ::redis::Value;

use super::access::Address;
use super::node::Node;
use crate::domain::limit::CounterKey;

/// How many slots there are.
pub(super) const SLOTS: u16 = 16_384;

/// How many counters' names are tried to find one that falls on a node: of a node that has a hundredth of the slots, all
/// of them miss once in 10^17 times.
const NAMES_MAX: u32 = 4_096;

/// The slot of a counter's keys: that of their hash tag, which ends at the first `}`.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|&byte| byte == b'{').map(|open| &key[open + 1..]);
    let tag = tag.and_then(|tag| tag.get(..tag.iter().position(|&byte| byte == b'}')?)).filter(|tag| !tag.is_empty());
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| crc << 8 ^ CRC[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC: [u16; 256] = {
    let mut table = [0_u16; 256];
    let mut index = 0_u16;
    while index < 256 {
        let (mut crc, mut bit) = (index << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        table[index as usize] = crc;
        index += 1;
    }
    table
};

/// Who has which slots.
pub(super) struct Slots {
    /// Sorted, without overlaps; there may be gaps.
    ranges: Vec<(Range, Arc<Node>)>,
    /// Each node once, with a counter of its own that falls on it.
    nodes: Vec<(Arc<Node>, CounterKey)>,
}

/// The first slot and the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
}

impl Slots {
    pub(super) fn new(mut ranges: Vec<(Range, Arc<Node>)>) -> Self {
        ranges.sort_by_key(|(range, _)| *range);
        let mut slots = Self { ranges, nodes: Vec::new() };
        let mut nodes: Vec<Arc<Node>> = Vec::new();
        for (_, node) in &slots.ranges {
            if !nodes.iter().any(|known| Arc::ptr_eq(known, node)) {
                nodes.push(Arc::clone(node));
            }
        }
        slots.nodes = nodes.into_iter().filter_map(|node| slots.name_on(&node).map(|name| (node, name))).collect();
        slots
    }

    pub(super) fn owner(&self, slot: u16) -> Option<&Arc<Node>> {
        let after = self.ranges.partition_point(|(range, _)| range.first <= slot);
        let (range, node) = self.ranges.get(after.checked_sub(1)?)?;
        (slot <= range.last).then_some(node)
    }

    /// Whether every slot has a node.
    pub(super) fn are_complete(&self) -> bool {
        let covered: u32 = self.ranges.iter().map(|(range, _)| u32::from(range.last - range.first) + 1).sum();
        covered == u32::from(SLOTS)
    }

    pub(super) fn nodes(&self) -> &[(Arc<Node>, CounterKey)] {
        &self.nodes
    }

    /// A counter's name that falls on `node`.
    fn name_on(&self, node: &Arc<Node>) -> Option<CounterKey> {
        let names = (0..NAMES_MAX).map(|number| {
            let mut name = own_counter();
            name.push_display(number);
            name
        });
        names.into_iter().find(|name| {
            let slot = crc16(name.as_bytes()) % SLOTS;
            self.owner(slot).is_some_and(|owner| Arc::ptr_eq(owner, node))
        })
    }
}

/// What a store that charges a counter of its own calls it. No configured limit has a name with a space, so no key begins
/// like that.
pub(super) fn own_counter() -> CounterKey {
    CounterKey::new(" probe")
}

/// What a node says of the cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// Who has which slots.
    pub(super) ranges: Vec<(Range, Address)>,
    /// Who else may know of changes.
    pub(super) replicas: Vec<Address>,
}

impl Told {
    /// The answer of `teller` to `CLUSTER SLOTS`; nothing where it makes no sense, or names no slot.
    pub(super) fn read(answer: &Value, teller: &Address) -> Option<Self> {
        let Value::Array(rows) = answer else { return None };
        let mut told = Self { ranges: Vec::new(), replicas: Vec::new() };
        for row in rows {
            let Value::Array(row) = row else { return None };
            let [Value::Int(first), Value::Int(last), master, replicas @ ..] = row.as_slice() else { return None };
            let range = Range { first: u16::try_from(*first).ok()?, last: u16::try_from(*last).ok()? };
            if range.last >= SLOTS || range.first > range.last {
                return None;
            }
            told.ranges.push((range, address(master, teller)?));
            told.replicas.extend(replicas.iter().filter_map(|replica| address(replica, teller)));
        }
        (!told.ranges.is_empty()).then_some(told)
    }
}

/// Host and port, with more behind them. A node that does not know its host says so by an empty or null one.
fn address(node: &Value, teller: &Address) -> Option<Address> {
    let Value::Array(parts) = node else { return None };
    let [host, Value::Int(port), ..] = parts.as_slice() else { return None };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::Nil => "",
        _ => return None,
    };
    Address::told(&format!("{host}:{port}"), teller)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn keys_fall_on_the_slots_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        for (key, slot) in [("foo", 12_182), ("{foo}bar", 12_182), ("x{foo}{bar}", 12_182), ("", 0)] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(slot_of(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot_of(b"foo{{bar}}zap"), crc16(b"{bar") % SLOTS);
    }

    fn teller() -> Address {
        Address { host: "seed".to_owned(), port: 1 }
    }

    fn row(first: i64, last: i64, nodes: &[(Value, i64)]) -> Value {
        let node = |(host, port): &(Value, i64)| {
            Value::Array(vec![host.clone(), Value::Int(*port), Value::BulkString(b"id".to_vec())])
        };
        Value::Array([Value::Int(first), Value::Int(last)].into_iter().chain(nodes.iter().map(node)).collect())
    }

    fn text(host: &str) -> Value {
        Value::BulkString(host.as_bytes().to_vec())
    }

    #[test]
    fn what_a_node_tells_of_the_cluster_is_read() {
        let answer = Value::Array(vec![
            row(0, 99, &[(text("a"), 7_000), (text("b"), 7_001)]),
            row(100, 16_383, &[(Value::Nil, 7_002)]),
        ]);
        let told = Told::read(&answer, &teller()).unwrap();
        let ranges: Vec<_> = told.ranges.iter().map(|(range, at)| (range.first, range.last, at.to_string())).collect();
        assert_eq!(ranges, [(0, 99, "a:7000".to_owned()), (100, 16_383, "seed:7002".to_owned())]);
        assert_eq!(told.replicas.iter().map(ToString::to_string).collect::<Vec<_>>(), ["b:7001"]);
    }

    #[test]
    fn what_makes_no_sense_is_not_taken_for_a_cluster() {
        let good = &[(text("a"), 7_000)];
        for wrong in [
            Value::Okay,
            Value::Array(vec![]),
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![Value::Array(vec![])]),
            Value::Array(vec![row(5, 4, good)]),
            Value::Array(vec![row(-1, 4, good)]),
            Value::Array(vec![row(0, 16_384, good)]),
            Value::Array(vec![row(0, 1, &[])]),
            Value::Array(vec![row(0, 1, &[(text("a"), 0)])]),
            Value::Array(vec![row(0, 1, &[(Value::Int(5), 7_000)])]),
            Value::Array(vec![row(0, 1, good), row(2, 3, &[(text("a"), 70_000)])]),
        ] {
            assert_eq!(Told::read(&wrong, &teller()), None, "{wrong:?}");
        }
    }
}
