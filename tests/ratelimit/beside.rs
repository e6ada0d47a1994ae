//! envoyproxy/ratelimit itself, with the same files: a compatible domain answers as it does.

use std::fs;
use std::process::Command;

use tempfile::TempDir;
use tollgate::decide::ports::Clock as _;
use tollgate::domain::time::Micros;
use tollgate::proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use tollgate::proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::RateLimitOverride;
use tollgate::proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use tollgate::proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tollgate::server::SystemClock;
use tonic::transport::{Channel, Endpoint};

use super::{configured, descriptor, request};
use crate::support::redis::{RedisServer, free_port};
use crate::support::server::{SOON, TestClock, Tollgate, in_redis};
use crate::support::{Process, poll, tool};

/// All that the language has which changes an answer.
const FILE: &str = "
domain: both
descriptors:
- { key: user, rate_limit: { unit: day, requests_per_unit: 9 } }
- key: user
  value: ann
  rate_limit: { name: for-ann, unit: hour, requests_per_unit: 20 }
  descriptors:
  - { key: path, rate_limit: { unit: month, requests_per_unit: 6 } }
  - { key: path, value: /free, rate_limit: { unlimited: true } }
  - { key: path, value: /watched, shadow_mode: true, rate_limit: { unit: year, requests_per_unit: 3 } }
- { key: file, value: docs/*, share_threshold: true, rate_limit: { unit: week, requests_per_unit: 12 } }
- { key: file, value: img/*, rate_limit: { unit: week, requests_per_unit: 5 } }
- { key: quota, quota_mode: true, rate_limit: { unit: day, requests_per_unit: 4 } }
- key: tier
  rate_limit: { name: tier, unit: day, requests_per_unit: 15, replaces: [ { name: for-ann }, { name: spare } ] }
- { key: spare, rate_limit: { name: spare, unit: day, requests_per_unit: 2 } }
- { key: silent, shadow_mode: true, quota_mode: true, rate_limit: { unit: day, requests_per_unit: 2 } }
- { key: none, rate_limit: { unit: day, requests_per_unit: 0 } }
";

/// How many questions both are asked.
const QUESTIONS: usize = 1_500;

/// Tells the tests to go without the real one.
const SKIP: &str = "TOLLGATE_TEST_SKIP_RATELIMIT";

/// Names the seed of a run that is to be repeated.
const SEED: &str = "TOLLGATE_TEST_SEED";

/// The real one, with the files of a folder.
struct Other {
    client: RateLimitServiceClient<Channel>,
    _process: Process,
    _folder: TempDir,
}

impl Other {
    /// Nothing where the tests are told to go without: it takes Go.
    async fn start(redis: &RedisServer) -> Option<Self> {
        if std::env::var_os(SKIP).is_some_and(|value| value == "1") {
            println!("skipped: it needs envoyproxy/ratelimit, and {SKIP}=1");
            return None;
        }
        let program = tool("ratelimit");
        let folder = TempDir::new().unwrap();
        let files = folder.path().join("ratelimit/config");
        fs::create_dir_all(&files).unwrap();
        fs::write(files.join("both.yaml"), FILE).unwrap();
        let grpc = free_port();
        let mut command = Command::new(program);
        command.envs([("HOST", "127.0.0.1"), ("GRPC_HOST", "127.0.0.1"), ("DEBUG_HOST", "127.0.0.1")]);
        command.envs(
            [("PORT", free_port()), ("GRPC_PORT", grpc), ("DEBUG_PORT", free_port())]
                .map(|(name, port)| (name, port.to_string())),
        );
        command.envs([("REDIS_SOCKET_TYPE", "tcp"), ("USE_STATSD", "false"), ("RUNTIME_WATCH_ROOT", "false")]);
        command.envs([("LIMIT_RESPONSE_HEADERS_ENABLED", "true"), ("RESPONSE_DYNAMIC_METADATA", "true")]);
        command.env("REDIS_URL", format!("127.0.0.1:{}", redis.port()));
        command.env("RUNTIME_ROOT", folder.path()).env("RUNTIME_SUBDIRECTORY", "ratelimit");
        let process = Process::start(command, "run ./scripts/test");
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{grpc}")).unwrap();
        let channel = poll(SOON, "envoyproxy/ratelimit listens", async || endpoint.connect().await.ok()).await;
        Some(Self { client: RateLimitServiceClient::new(channel), _process: process, _folder: folder })
    }
}

/// A small generator of numbers, that a seed repeats.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }

    /// Few values, so that limits are reached.
    fn descriptor(&mut self) -> RateLimitDescriptor {
        let user = self.one_of(&["ann", "bob", "carol", ""]);
        let mut asked = match self.below(10) {
            0 | 1 => descriptor(&[("user", user)]),
            2 => descriptor(&[("user", user), ("path", self.one_of(&["/free", "/watched", "/a", "/b"]))]),
            3 | 4 => descriptor(&[("file", self.one_of(&["docs/a", "docs/b", "img/a", "img/b", "other"]))]),
            5 => descriptor(&[("quota", self.one_of(&["x", "y"]))]),
            6 => descriptor(&[("tier", self.one_of(&["gold", "silver"]))]),
            7 => descriptor(&[(self.one_of(&["spare", "silent"]), "")]),
            8 => descriptor(&[("none", ""), ("user", user)]),
            _ => descriptor(&[(self.one_of(&["none", "nothing"]), "")]),
        };
        if self.below(12) == 0 {
            asked.entries.clear();
        }
        asked.hits_addend = match self.below(6) {
            0 => Some(0),
            1 => Some(self.below(5)),
            2 if self.below(8) == 0 => Some(1 << 40),
            _ => None,
        };
        if self.below(15) == 0 {
            let unit = i32::try_from(self.below(7) + 1).unwrap();
            // A second or a minute may pass in between.
            let unit = if unit < 3 { 4 } else { unit };
            asked.limit = Some(RateLimitOverride { requests_per_unit: u32::try_from(self.below(12)).unwrap(), unit });
        }
        asked
    }

    fn request(&mut self) -> RateLimitRequest {
        let domain = if self.below(40) == 0 { "nowhere" } else { "both" };
        let descriptors: Vec<RateLimitDescriptor> = (0..=self.below(4)).map(|_| self.descriptor()).collect();
        let hits_addend = if self.below(5) == 0 { u32::try_from(self.below(4)).unwrap() } else { 0 };
        RateLimitRequest { hits_addend, ..request(domain, descriptors) }
    }
}

/// What both must agree on. The seconds until windows end may differ by one, if a second passed in between: they are apart.
fn said(answer: &RateLimitResponse) -> (String, Vec<i64>) {
    let mut answer = answer.clone();
    let mut seconds: Vec<i64> = Vec::new();
    for status in &mut answer.statuses {
        seconds.push(status.duration_until_reset.take().map_or(-9, |duration| duration.seconds));
    }
    for header in &mut answer.response_headers_to_add {
        if header.key == "RateLimit-Reset" {
            seconds.push(std::mem::take(&mut header.value).parse().unwrap());
        }
    }
    let metadata = answer.dynamic_metadata.take();
    // The question is repeated there, and everything is told of limits that have no quota mode, too.
    let field = |name| metadata.as_ref().and_then(|metadata| metadata.fields.get(name)).cloned();
    (format!("{answer:?} {:?}", field("quotaModeViolations")), seconds)
}

/// The hour, in which nothing that is asked here begins anew.
fn hour() -> u64 {
    SystemClock::start().now().wall.0 / Micros::from_secs(3_600).0
}

#[tokio::test]
async fn a_compatible_domain_answers_as_envoyproxy_does() {
    let Some(redis) = RedisServer::start() else { return };
    let Some(mut other) = Other::start(&redis).await else { return };
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("both.yaml"), FILE).unwrap();
    let config = configured(&folder, &in_redis(&redis), "mode: compatible, response_headers: true");
    let one = Tollgate::start_as(config, TestClock::running()).await;
    let mut own = RateLimitServiceClient::new(one.channel().await);
    let named = std::env::var_os(SEED).map(|seed| seed.to_string_lossy().parse().expect("a seed is a number"));
    let seed: u64 = named.unwrap_or_else(|| SystemClock::start().now().wall.0);
    println!("{SEED}={seed}");
    let mut chance = Chance(seed | 1);
    let (mut over, mut began) = (0, hour());
    for number in 0..QUESTIONS {
        if hour() != began {
            // Some windows have begun anew, for one of them before the other.
            redis.command(&["FLUSHALL"]);
            began = hour();
        }
        let asked = chance.request();
        let (theirs, ours) =
            (other.client.should_rate_limit(asked.clone()).await, own.should_rate_limit(asked.clone()).await);
        let (theirs, ours) = (theirs.expect("an answer").into_inner(), ours.expect("an answer").into_inner());
        if hour() != began {
            continue;
        }
        let ((theirs_said, their_seconds), (ours_said, our_seconds)) = (said(&theirs), said(&ours));
        assert_eq!(theirs_said, ours_said, "question {number} of seed {seed}: {asked:?}");
        let close = |(theirs, ours): (&i64, &i64)| theirs.abs_diff(*ours) <= 1;
        assert!(
            their_seconds.len() == our_seconds.len() && their_seconds.iter().zip(&our_seconds).all(close),
            "{their_seconds:?} there, {our_seconds:?} here, question {number} of seed {seed}: {asked:?}"
        );
        over += usize::from(ours.overall_code == 2);
    }
    assert!((QUESTIONS / 10..QUESTIONS * 9 / 10).contains(&over), "{over} were over: that tells too little");
    println!("{QUESTIONS} questions were answered alike, {over} of them with OVER_LIMIT");
}
