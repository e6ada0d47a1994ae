//! Several real Redis servers that work together: a master with its Sentinels, and a cluster.

use std::time::Duration;

use super::{Kind, LOOKS_MAX, RedisServer, free_port};

/// The name by which the Sentinels know the master.
const SERVICE: &str = "tollgate";

/// A master, its replica, and three Sentinels who watch them.
#[expect(clippy::struct_field_names, reason = "it is theirs, beside the servers that they watch")]
pub(crate) struct Sentinels {
    /// The first one begins as the master.
    pub(crate) servers: [RedisServer; 2],
    pub(crate) sentinels: [RedisServer; 3],
    /// Where each Sentinel is reached by TLS; empty where there is none.
    tls_ports: Vec<u16>,
}

impl Sentinels {
    /// All of them, knowing each other; a master counts as down after half a second.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// All of them, who speak TLS, with each other, too: `options` name the certificates.
    pub(crate) fn with_tls(options: &[&str]) -> Option<Self> {
        Self::start_with(options)
    }

    fn start_with(tls: &[&str]) -> Option<Self> {
        const QUICK: [&str; 4] = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
        // Where the others reach it, and the options for that.
        let place = |options: &[&str]| {
            let port = free_port().to_string();
            let own = ["--tls-replication", "yes", "--tls-port", &port];
            let own = if tls.is_empty() { Vec::new() } else { [tls, &own].concat() };
            let options: Vec<String> = options.iter().chain(&own).map(|&option| option.to_owned()).collect();
            (port, options)
        };
        let server = || {
            let (tls_port, options) = place(&QUICK);
            let server = RedisServer::start_with(&options.iter().map(String::as_str).collect::<Vec<_>>())?;
            let port = if tls.is_empty() { server.port().to_string() } else { tls_port };
            Some((server, port))
        };
        let ((master, port), (replica, _)) = (server()?, server()?);
        good(&replica, &["REPLICAOF", "127.0.0.1", &port]);
        wait("the replica follows", || replica.command(&["INFO", "replication"]).contains("master_link_status:up"));
        let watch = format!(
            "sentinel monitor {SERVICE} 127.0.0.1 {port} 2\nsentinel down-after-milliseconds {SERVICE} 500\n\
             sentinel failover-timeout {SERVICE} 3000"
        );
        let mut tls_ports = Vec::new();
        let sentinels = [(); 3].map(|()| {
            let (port, options) = place(&[]);
            // Options as lines of a file.
            let lines = options.chunks(2).map(|pair| format!("{}\n", pair.join(" ").trim_start_matches('-')));
            let sentinel = RedisServer::start_as(&Kind::Sentinel(lines.chain([watch.clone()]).collect()));
            tls_ports.extend(port.parse::<u16>().ok().filter(|_| !tls.is_empty()));
            sentinel
        });
        let all = Self { servers: [master, replica], sentinels, tls_ports };
        for sentinel in &all.sentinels {
            wait("the Sentinels know each other", || {
                let known = sentinel.command(&["SENTINEL", "MASTER", SERVICE]);
                known.contains("num-other-sentinels\n2") && known.contains("num-slaves\n1")
            });
        }
        Some(all)
    }

    pub(crate) const fn service() -> &'static str {
        SERVICE
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::url).collect()
    }

    /// How they are reached by TLS.
    pub(crate) fn tls_urls(&self) -> Vec<String> {
        tls_urls(&self.tls_ports)
    }
}

/// Nodes of a cluster on which slots are spread evenly.
pub(crate) struct RedisCluster {
    /// Three masters, and behind them, if there are, a replica for each in the same order.
    pub(crate) nodes: Vec<RedisServer>,
    /// Where each is reached, and reaches the others, by TLS; empty where there is none.
    tls_ports: Vec<u16>,
}

/// How many masters there are.
const MASTERS: usize = 3;

const SLOTS: usize = 16_384;

impl RedisCluster {
    /// Three masters with a replica each. One that is down for a second is replaced; the others serve meanwhile.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(2 * MASTERS, &[], false)
    }

    /// Three masters, with more options.
    pub(crate) fn masters_with(options: &[&str]) -> Option<Self> {
        Self::start_with(MASTERS, options, false)
    }

    /// Three masters who speak TLS, as the options say.
    pub(crate) fn with_tls(options: &[&str]) -> Option<Self> {
        Self::start_with(MASTERS, options, true)
    }

    fn start_with(nodes: usize, options: &[&str], tls: bool) -> Option<Self> {
        let common = [
            ["--cluster-enabled", "yes"],
            ["--cluster-node-timeout", "1000"],
            ["--cluster-require-full-coverage", "no"],
            ["--cluster-replica-validity-factor", "0"],
            ["--repl-diskless-sync-delay", "0"],
        ];
        let options: Vec<&str> = common.as_flattened().iter().chain(options).copied().collect();
        let mut cluster = Self { nodes: Vec::new(), tls_ports: Vec::new() };
        for _ in 0..nodes {
            if tls {
                let port = Kind::Server(vec!["--cluster-enabled".to_owned()]).free_port();
                let own = ["--tls-cluster", "yes", "--tls-port", &port.to_string()];
                cluster.nodes.push(RedisServer::start_with(&[&options[..], &own].concat())?);
                cluster.tls_ports.push(port);
            } else {
                cluster.nodes.push(RedisServer::start_with(&options)?);
            }
        }
        let gate = cluster.tls_ports.first().copied().unwrap_or_else(|| cluster.nodes[0].port()).to_string();
        for (place, node) in cluster.nodes.iter().enumerate() {
            good(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]);
            if place < MASTERS {
                let slots: Vec<String> = Self::slots_at_first(place).map(|slot| slot.to_string()).collect();
                good(
                    node,
                    &[&["CLUSTER", "ADDSLOTS"][..], &slots.iter().map(String::as_str).collect::<Vec<_>>()].concat(),
                );
            }
            good(node, &["CLUSTER", "MEET", "127.0.0.1", &gate]);
        }
        let all = format!("cluster_known_nodes:{}", cluster.nodes.len());
        for node in &cluster.nodes {
            wait("the nodes know each other", || node.command(&["CLUSTER", "INFO"]).contains(&all));
        }
        for (place, replica) in cluster.nodes.iter().enumerate().skip(MASTERS) {
            let master = cluster.id(place - MASTERS);
            wait("it follows", || replica.command(&["CLUSTER", "REPLICATE", &master]) == "OK");
            wait("it has followed", || replica.command(&["INFO", "replication"]).contains("master_link_status:up"));
        }
        for node in &cluster.nodes {
            wait("all know who has which slots", || {
                let info = node.command(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
            });
        }
        // Replicas are told of by the others only some time after they have begun.
        wait("all know the replicas", || {
            let replicas = cluster.nodes.len() - MASTERS;
            cluster.nodes.iter().all(|node| node.command(&["CLUSTER", "NODES"]).matches("slave").count() == replicas)
        });
        Some(cluster)
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::url).collect()
    }

    /// How nodes are reached by TLS.
    pub(crate) fn tls_urls(&self) -> Vec<String> {
        tls_urls(&self.tls_ports)
    }

    /// The slots that a master has at first.
    pub(crate) fn slots_at_first(master: usize) -> std::ops::Range<usize> {
        master * SLOTS / MASTERS..(master + 1) * SLOTS / MASTERS
    }

    /// The master that a key falls on at first.
    pub(crate) fn place_at_first(&self, key: &str) -> usize {
        let slot: usize = self.slot(key).parse().unwrap();
        (0..MASTERS).find(|&master| Self::slots_at_first(master).contains(&slot)).unwrap()
    }

    pub(crate) fn slot(&self, key: &str) -> String {
        self.nodes[0].command(&["CLUSTER", "KEYSLOT", key])
    }

    pub(crate) fn flush(&self) {
        for node in &self.nodes[..MASTERS] {
            good(node, &["FLUSHALL"]);
        }
    }

    /// Begins to move a slot: new keys go to `to`.
    pub(crate) fn begin_move(&self, slot: &str, from: usize, to: usize) {
        good(&self.nodes[to], &["CLUSTER", "SETSLOT", slot, "IMPORTING", &self.id(from)]);
        good(&self.nodes[from], &["CLUSTER", "SETSLOT", slot, "MIGRATING", &self.id(to)]);
    }

    /// Moves the keys of a slot, and then the slot.
    pub(crate) fn end_move(&self, slot: &str, from: usize, to: usize) {
        let port = self.nodes[to].port().to_string();
        for _ in 0..LOOKS_MAX {
            let keys = self.nodes[from].command(&["CLUSTER", "GETKEYSINSLOT", slot, "10"]);
            if keys.is_empty() {
                break;
            }
            let words = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            let moved = self.nodes[from].command(&words.into_iter().chain(keys.lines()).collect::<Vec<_>>());
            assert!(moved == "OK" || moved == "NOKEY", "{moved}");
        }
        let owner = self.id(to);
        // First at the new owner, so that nobody is without one.
        for node in [&self.nodes[to], &self.nodes[from]].into_iter().chain(&self.nodes[..MASTERS]) {
            good(node, &["CLUSTER", "SETSLOT", slot, "NODE", &owner]);
        }
    }

    fn id(&self, place: usize) -> String {
        self.nodes[place].command(&["CLUSTER", "MYID"])
    }
}

fn tls_urls(ports: &[u16]) -> Vec<String> {
    ports.iter().map(|port| format!("rediss://127.0.0.1:{port}")).collect()
}

fn good(server: &RedisServer, words: &[&str]) {
    let answer = server.command(words);
    assert_eq!(answer, "OK", "{:?}", &words[..words.len().min(5)]);
}

fn wait(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..3 * LOOKS_MAX {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited for 30 s until {what}");
}
