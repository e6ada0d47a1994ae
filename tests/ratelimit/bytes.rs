//! Whatever bytes are sent as a request: there is an answer, and the server goes on.

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};
use prost::Message as _;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use super::{Bench, descriptor, passes, request};
use tollgate::proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use tollgate::proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
use tollgate::proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};

/// Sends bytes as they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = RateLimitResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = RateLimitResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<RateLimitResponse>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        RateLimitResponse::decode(bytes).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Requests that mean something to the files, and some that do not.
fn requests() -> impl Strategy<Value = RateLimitRequest> {
    let key = prop_oneof![
        8 => prop::sample::select(vec!["user", "all", "small", "watched", "free", "nothing", ""]).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let any_bytes = prop::collection::vec(any::<u8>(), 0..20);
    let value = prop_oneof![4 => any::<String>().prop_map(String::into_bytes), 1 => any_bytes];
    let entry = (key, value).prop_map(|(key, value)| Entry { key: key.into(), value });
    let limit =
        (any::<u32>(), -1..9_i32).prop_map(|(requests_per_unit, unit)| RateLimitOverride { requests_per_unit, unit });
    let hits = prop::option::of(prop_oneof![0..4_u64, any::<u64>()]);
    let descriptor =
        (prop::collection::vec(entry, 0..4), prop::option::weighted(0.2, limit), hits, prop::bool::weighted(0.05))
            .prop_map(|(entries, limit, hits_addend, is_negative_hits)| RateLimitDescriptor {
                entries,
                limit,
                hits_addend,
                is_negative_hits,
            });
    let domain = prop::sample::select(vec!["strict", "compatible", "nowhere", ""]).prop_map(str::to_owned);
    let descriptors = prop_oneof![20 => prop::collection::vec(descriptor.clone(), 0..6), 1 => prop::collection::vec(descriptor, 0..140)];
    (domain, descriptors, prop_oneof![0..3_u32, any::<u32>()])
        .prop_map(|(domain, descriptors, hits_addend)| RateLimitRequest { domain, descriptors, hits_addend })
}

/// The same as bytes, some of them changed, or cut off; or any bytes.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let written = requests().prop_map(|request| request.encode_to_vec()).boxed();
    let changed =
        (written.clone(), prop::collection::vec((any::<Index>(), any::<u8>()), 0..4), any::<Index>(), any::<bool>())
            .prop_map(|(mut bytes, changes, end, cuts)| {
                if bytes.is_empty() {
                    return bytes;
                }
                for (place, byte) in changes {
                    let place = place.index(bytes.len());
                    bytes[place] = byte;
                }
                if cuts {
                    bytes.truncate(end.index(bytes.len()));
                }
                bytes
            });
    prop_oneof![4 => written, 4 => changed, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

#[tokio::test]
async fn any_bytes_have_an_answer() {
    let bench = Bench::start("").await;
    let mut client = Grpc::new(bench.one.channel().await);
    let path = PathAndQuery::from_static("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit");
    let mut runner = TestRunner::new(Config::default());
    let (mut answered, mut refused) = (0, 0);
    for _ in 0..2_000 {
        let message = messages().new_tree(&mut runner).unwrap().current();
        client.ready().await.expect("the server listens");
        let answer = client.unary(Request::new(Bytes::from(message.clone())), path.clone(), Raw).await;
        match answer.map_err(|status| (status.code(), status)) {
            Ok(_) => answered += 1,
            // The last is for those who would take something back.
            Err((Code::InvalidArgument | Code::Unauthenticated, _)) => refused += 1,
            Err((code, status)) => panic!("{code:?} {status:?} to {message:?}"),
        }
    }
    assert!(answered > 100 && refused > 100, "{answered} answered, {refused} refused");
    assert!(passes(&bench.ask(request("strict", [descriptor(&[("user", "somebody else")])])).await));
}
