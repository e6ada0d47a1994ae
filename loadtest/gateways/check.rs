//! `Authorization/Check`, as an Envoy asks it, with a token that is remembered and two limits.

use std::path::Path;
use std::time::Duration;

use prost::Message;
use prost::bytes::Bytes;
use serde_json::json;
use tollgate::decide::ports::Clock as _;
use tollgate::domain::time::Micros;
use tollgate::proto as pb;
use tollgate::proto::decision_service_client::DecisionServiceClient;
use tollgate::proto::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use tollgate::proto::envoy::service::auth::v3::check_response::HttpResponse;
use tollgate::proto::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use tollgate::server::SystemClock;
use tollgate::server::dev::{AUDIENCE, DevIssuer, ISSUER};

use super::Measure;
use crate::cores::Cores;
use crate::figures::Figures;
use crate::floor::Service;
use crate::load::connection::{Connection, Question};
use crate::load::message::Answer;
use crate::question::{config, issuer};
use crate::redis::Redis;
use crate::subject::Subject;
use crate::{checked, load, orders};

/// Calls in flight on one connection.
pub(crate) const IN_FLIGHT: usize = 100;

/// Everything that takes part, the floors first.
pub(crate) struct Field {
    subjects: Vec<Subject>,
    message: Vec<u8>,
    clock: SystemClock,
}

impl Field {
    /// Starts all of it.
    pub(crate) async fn start(
        measure: &Measure,
        folder: &Path,
        cores: Cores,
        clock: SystemClock,
    ) -> Result<Self, String> {
        let dev = DevIssuer::new().map_err(|_| "the system has no randomness".to_owned())?;
        let token = token(&dev, clock.now().wall)?;
        let question = checked::question(&token);
        let issuer = issuer(&dev)?;
        let mut servers = Vec::new();
        for (index, binary) in measure.binary.iter().enumerate() {
            let name = match measure.binary.len() {
                1 => "memory".to_owned(),
                _ => format!("memory, {}", binary.display()),
            };
            let config = (folder.join(format!("check-{index}.yaml")), config(&issuer, None));
            servers.push(Subject::start(name, binary, &config, cores, None).await?);
        }
        if let Some(binary) = measure.binary.first() {
            let redis = Redis::start(&measure.redis, folder, cores)?;
            let config = (folder.join("check-redis.yaml"), config(&issuer, Some(redis.port)));
            servers.push(Subject::start("Redis".to_owned(), binary, &config, cores, Some(redis)).await?);
        }
        let mut answers = Vec::new();
        for server in &servers {
            let answer = warm(server, &question, &token).await;
            answers.push(answer.map_err(|problem| format!("{}: {problem}", server.name))?);
        }
        let answer = answers.first().ok_or("there is no server")?;
        let mut subjects = Vec::from(Subject::floors(Service::Authorization, answer, folder, cores)?);
        subjects.extend(servers);
        Ok(Self { subjects, message: question.encode_to_vec(), clock })
    }

    /// What is asked, and by which size.
    pub(crate) fn bytes(&self) -> usize {
        self.message.len()
    }

    /// So many slices of each, in turns.
    pub(crate) async fn row(&self, slices: usize, length: Duration) -> Result<Vec<(&str, Figures)>, String> {
        let mut all: Vec<_> = self.subjects.iter().map(|subject| (&*subject.name, Figures::default())).collect();
        for _ in 0..slices {
            for (subject, (name, figures)) in self.subjects.iter().zip(&mut all) {
                let slice = self.slice(subject, length).await;
                figures.add(slice.map_err(|problem| format!("ext_authz, {name}: {problem}"))?);
            }
        }
        Ok(all)
    }

    async fn slice(&self, subject: &Subject, length: Duration) -> Result<crate::figures::Slice, String> {
        let connection = [Connection::<Checked>::open(subject.grpc).await?];
        let question = Question::call(&self.message);
        let before = subject.account().await?;
        let tally = load::ask_calls(&connection, IN_FLIGHT, || question.clone(), self.clock, length).await?;
        subject.account().await?.since(&before, tally)
    }
}

/// `CheckResponse`, as far as it is read.
#[derive(Clone, PartialEq, Message)]
struct Checked {
    /// Whatever it says: the request may go on.
    #[prost(bytes = "bytes", optional, tag = "3")]
    ok_response: Option<Bytes>,
}

impl Answer for Checked {
    const PATH: &'static str = "/envoy.service.auth.v3.Authorization/Check";

    fn allows(&self) -> Option<u64> {
        self.ok_response.is_some().then_some(1)
    }
}

/// A token of about a KiB, with the claims that identity providers write.
fn token(dev: &DevIssuer, now: Micros) -> Result<String, String> {
    let claims = json!({
        "iss": ISSUER, "aud": [AUDIENCE, "account"], "sub": "6a1f3d52-9a0b-4a55-9f43-2b6f2f0f8a11", "typ": "Bearer",
        "azp": "storefront", "client_id": "storefront", "sid": "0d7fb4a3-6a1e-4d2c-8a3e-52f1a2f4f0c7",
        "jti": "onrtac:7e0c3f0e-52d5-43be-9b8e-3c9c5a6ef1d0", "acr": "1", "allowed-origins": ["https://shop.example.com"],
        "realm_access": { "roles": ["default-roles-shop", "offline_access", "uma_authorization", "customer"] },
        "resource_access": { "account": { "roles": ["manage-account", "view-profile"] } },
        "scope": "openid profile email orders:read", "email_verified": true, "name": "Alice Example",
        "preferred_username": "alice", "given_name": "Alice", "family_name": "Example", "email": "alice@example.com",
        "iat": now.as_secs(), "exp": (now + Micros::from_secs(3_600)).as_secs(),
    });
    let key = dev.public_key();
    let kid = key["kid"].as_str().ok_or("the first run's key has no name")?;
    dev.sign(Some("at+jwt"), kid, &claims).map_err(|error| format!("no token: {error}"))
}

/// Asks until the token is remembered, and answers what every question gets from then on.
async fn warm(server: &Subject, question: &CheckRequest, token: &str) -> Result<CheckResponse, String> {
    let channel = load::connect(server.grpc).await?;
    let mut client = AuthorizationClient::new(channel.clone());
    let mut ask = async || client.check(question.clone()).await.map(tonic::Response::into_inner);
    ask().await.map_err(|status| load::refused(&status))?;
    let explained = pb::DecideRequest { explain: true, ..orders::question(token.to_owned()) };
    let explained = DecisionServiceClient::new(channel).decide(explained).await;
    let explained = explained.map_err(|status| load::refused(&status))?.into_inner();
    if explained.explanation.is_none_or(|seen| seen.token() != pb::Provenance::Memory) {
        return Err("the token is not remembered".to_owned());
    }
    let answer = ask().await.map_err(|status| load::refused(&status))?;
    let Some(HttpResponse::OkResponse(ok)) = &answer.http_response else {
        return Err(format!("the request may not go on: {answer:?}"));
    };
    let told = ok.response_headers_to_add.iter().filter_map(|told| told.header.as_ref());
    if !told.into_iter().any(|told| told.key == "ratelimit" && told.value.matches(";r=").count() == 2) {
        return Err(format!("the answer is not by two limits: {answer:?}"));
    }
    Ok(answer)
}
