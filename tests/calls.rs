//! Calls of gRPC as no client library makes them, to the services that gateways ask.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tollgate::proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use tollgate::proto::envoy::service::auth::v3::CheckRequest;
use tollgate::proto::envoy::service::ratelimit::v3::RateLimitRequest;
use tonic::Code;

use crate::support::server::{SOON, Tollgate, question};

/// A connection over which anything can be called.
struct Caller(SendRequest<Bytes>);

impl Caller {
    async fn connect(server: SocketAddr) -> Self {
        let socket = TcpStream::connect(server).await.expect("the server listens");
        let (caller, connection) = h2::client::handshake(socket).await.expect("it speaks HTTP/2");
        tokio::spawn(connection);
        Self(caller)
    }

    /// Calls with these frames of data. The status that the call ends with, what else stands beside it, and the bytes of the answer.
    async fn call(&self, path: &str, encoding: &str, frames: &[Vec<u8>]) -> (Code, HeaderMap, Vec<u8>) {
        let asking = async {
            let mut caller = self.0.clone().ready().await.expect("the connection stands");
            let request = Request::post(format!("http://tollgate{path}"))
                .header("content-type", "application/grpc")
                .header("grpc-encoding", encoding)
                .body(())
                .unwrap();
            let (response, mut body) = caller.send_request(request, false).unwrap();
            for frame in frames {
                // Who is refused already is not read to the end.
                let _ = body.send_data(frame.clone().into(), false);
                tokio::task::yield_now().await;
            }
            let _ = body.send_data(Bytes::new(), true);
            let (head, mut body) = response.await.expect("there is an answer").into_parts();
            assert_eq!(
                (head.status.as_u16(), head.headers["content-type"].as_bytes()),
                (200, &b"application/grpc"[..])
            );
            let mut answer = Vec::new();
            while let Some(data) = body.data().await {
                answer.extend_from_slice(&data.expect("it is whole"));
            }
            let trailers = body.trailers().await.expect("it ends").unwrap_or(head.headers);
            (Code::from_bytes(trailers["grpc-status"].as_bytes()), trailers, answer)
        };
        timeout(SOON, asking).await.expect("it is answered")
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

/// The methods that a gateway calls for each of its requests, with a message of each.
fn methods() -> [(&'static str, Vec<u8>); 3] {
    let descriptors = vec![RateLimitDescriptor::default()];
    let limits = RateLimitRequest { domain: "d".to_owned(), descriptors, hits_addend: 1 };
    [
        ("/tollgate.v1.DecisionService/Decide", question("GET", "/", None).encode_to_vec()),
        ("/envoy.service.auth.v3.Authorization/Check", CheckRequest::default().encode_to_vec()),
        ("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", limits.encode_to_vec()),
    ]
}

#[tokio::test]
async fn a_call_has_one_message_in_any_frames_and_not_compressed() {
    let one = Tollgate::start("rules: []").await;
    let caller = Caller::connect(one.server.grpc).await;
    for (path, message) in methods() {
        let whole = framed(&message);
        let (code, _, answer) = caller.call(path, "identity", std::slice::from_ref(&whole)).await;
        assert_eq!(code, Code::Ok, "{path}");
        assert_eq!(answer[..1], [0], "{path}");
        assert_eq!(answer[1..5], u32::try_from(answer.len() - 5).unwrap().to_be_bytes(), "{path}");
        let bytes: Vec<_> = whole.iter().map(|byte| vec![*byte]).collect();
        assert_eq!(caller.call(path, "identity", &bytes).await.0, Code::Ok, "{path}");

        let announced = framed(&[0; 10])[..8].to_vec();
        for frames in
            [vec![], vec![vec![]], vec![announced], vec![whole.clone(), whole.clone()], vec![vec![0xff; 4_000]]]
        {
            let (code, said, answer) = caller.call(path, "identity", &frames).await;
            assert_eq!((code, answer.len()), (Code::InvalidArgument, 0), "{path} {frames:?}");
            assert!(said["grpc-message"].to_str().unwrap().starts_with("message"), "{path} {said:?}");
        }
        let (code, said, _) = caller.call(path, "gzip", std::slice::from_ref(&whole)).await;
        assert_eq!((code, said["grpc-accept-encoding"].as_bytes()), (Code::Unimplemented, &b"identity"[..]), "{path}");
        assert_eq!(caller.call(path, "identity", &[whole]).await.0, Code::Ok, "on the same connection");
    }
}

#[tokio::test]
async fn a_method_that_is_not_there_is_told_so() {
    let one = Tollgate::start("rules: []").await;
    let caller = Caller::connect(one.server.grpc).await;
    for (path, message) in methods() {
        let (service, method) = path.rsplit_once('/').unwrap();
        let (_, package) = service.split_once('/').unwrap();
        for path in [
            format!("{service}/{method}s"),
            format!("{service}/"),
            format!("{service}/{method}/"),
            format!("{service}s/{method}"),
            format!("/{package}"),
            format!("/x{service}/{method}"),
        ] {
            let (code, _, answer) = caller.call(&path, "identity", &[framed(&message)]).await;
            assert_eq!((code, answer.len()), (Code::Unimplemented, 0), "{path}");
        }
    }
}
