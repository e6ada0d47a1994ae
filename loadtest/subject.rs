//! What is measured: the floor, and servers with each store.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tollgate::domain::time::Micros;
use tollgate::proto as pb;
use tollgate::proto::decision_service_client::DecisionServiceClient;

use crate::cores::{Cores, command_on};
use crate::figures::Account;
use crate::floor::{LISTENS, Service, Transport};
use crate::load;
use crate::metrics;
use crate::process::{Process, START_MAX};
use crate::question::Questions;
use crate::redis::Redis;

/// How long the metrics or the state of a server may take.
const ADMIN_MAX: Duration = Duration::from_secs(10);

/// How often a server that starts is asked whether it is ready.
const READY_INTERVAL: Duration = Duration::from_millis(10);

/// Everything that is measured, the floors first.
pub(crate) struct Subjects {
    /// In the order of the table.
    pub list: Vec<Subject>,
}

/// A server that is measured.
pub(crate) struct Subject {
    /// Its name in the table.
    pub name: String,
    /// Where it serves gRPC.
    pub grpc: SocketAddr,
    /// The core for what puts it under load.
    pub load_core: Option<usize>,
    process: Process,
    admin: Option<Admin>,
    redis: Option<Redis>,
}

/// A server's admin port.
struct Admin {
    address: SocketAddr,
    http: reqwest::Client,
}

impl Subjects {
    /// Starts each server of `binaries` with the memory store, the first one with Redis too, and the floors,
    /// which repeat an answer of the first.
    pub(crate) async fn start(
        binaries: &[PathBuf],
        redis: &Path,
        folder: &Path,
        questions: &Questions,
        cores: Cores,
    ) -> Result<Self, String> {
        let redis = Redis::start(redis, folder, cores)?;
        let mut servers = Vec::new();
        for (index, binary) in binaries.iter().enumerate() {
            let name = match binaries.len() {
                1 => "memory".to_owned(),
                _ => format!("memory, {}", binary.file_name().unwrap_or(binary.as_os_str()).display()),
            };
            let config = (folder.join(format!("memory-{index}.yaml")), questions.config(None));
            servers.push(Subject::start(name, binary, &config, cores, None).await?);
        }
        if let Some(binary) = binaries.first() {
            let config = (folder.join("redis.yaml"), questions.config(Some(redis.port)));
            servers.push(Subject::start("Redis".to_owned(), binary, &config, cores, Some(redis)).await?);
        }
        let mut answers = Vec::new();
        for server in &servers {
            answers.push(warm(server, questions).await.map_err(|problem| format!("{}: {problem}", server.name))?);
        }
        let answer = answers.first().ok_or("there is no server to measure")?;
        let mut list = Vec::from(Subject::floors(Service::Decision, answer, folder, cores)?);
        list.extend(servers);
        Ok(Self { list })
    }
}

impl Subject {
    /// Starts `binary` with that configuration, and waits until it is ready. The Redis that it uses, if any, ends with it.
    pub(crate) async fn start(
        name: String,
        binary: &Path,
        (file, config): &(PathBuf, String),
        cores: Cores,
        redis: Option<Redis>,
    ) -> Result<Self, String> {
        fs::write(file, config).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut command = command_on(cores.server, binary);
        command.arg("serve").arg("--config").arg(file).args(["--log", "info", "--log-format", "json"]);
        let mut process = Process::start(&format!("the server ({name})"), command)?;
        let (grpc, admin) = process.wait_for("where it listens", |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let address = |key: &str| line.get(key)?.as_str()?.parse::<SocketAddr>().ok();
            Some((address("grpc")?, address("admin")?))
        })?;
        let http = reqwest::Client::builder().no_proxy().timeout(ADMIN_MAX).build();
        let http = http.map_err(|error| format!("an HTTP client: {error}"))?;
        let admin = Admin { address: admin, http };
        admin.ready().await?;
        Ok(Self { name, grpc, load_core: cores.load, process, admin: Some(admin), redis })
    }

    /// Starts the floors of `service`, which repeat `answer`: on tonic's server, and on what the server stands on.
    pub(crate) fn floors(
        service: Service,
        answer: &impl prost::Message,
        folder: &Path,
        cores: Cores,
    ) -> Result<[Self; 2], String> {
        let file = folder.join(format!("{}.bin", service.name()));
        fs::write(&file, answer.encode_to_vec()).map_err(|error| format!("{}: {error}", file.display()))?;
        let own = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let floor = |transport: Transport, name: &str| {
            let mut command = command_on(cores.server, &own);
            command.arg("floor").arg(service.name()).arg(transport.argument()).arg(&file);
            let mut process = Process::start("the floor", command)?;
            let grpc = process.wait_for("where it listens", |line| line.strip_prefix(LISTENS)?.parse().ok())?;
            Ok::<_, String>(Self {
                name: name.to_owned(),
                grpc,
                load_core: cores.load,
                process,
                admin: None,
                redis: None,
            })
        };
        Ok([floor(Transport::Tonic, "no-op")?, floor(Transport::Own, "no-op, own transport")?])
    }

    /// The id of its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The CPU time that it has used so far.
    pub(crate) fn cpu(&self) -> Result<Micros, String> {
        self.process.cpu()
    }

    /// The memory that it takes up, in bytes (`VmRSS`).
    pub(crate) fn resident(&self) -> Result<f64, String> {
        self.process.resident()
    }

    /// What it has used and counted so far.
    pub(crate) async fn account(&self) -> Result<Account, String> {
        let counted = match &self.admin {
            None => None,
            Some(admin) => Some(metrics::decisions(&admin.get("/metrics").await?.1)?),
        };
        let redis = self.redis.as_ref().map(|redis| redis.process.cpu()).transpose()?;
        Ok(Account { server: self.cpu()?, redis, counted })
    }
}

impl Admin {
    /// Waits until the server is ready.
    async fn ready(&self) -> Result<(), String> {
        let ready = async {
            while self.get("/readyz").await?.0 != 200 {
                tokio::time::sleep(READY_INTERVAL).await;
            }
            Ok(())
        };
        tokio::time::timeout(START_MAX, ready).await.map_err(|_| format!("was not ready within {START_MAX:?}"))?
    }

    /// Status and text.
    async fn get(&self, path: &str) -> Result<(u16, String), String> {
        let url = format!("http://{}{path}", self.address);
        let problem = |error: reqwest::Error| format!("{url}: {error}");
        let response = self.http.get(&url).send().await.map_err(problem)?;
        let status = response.status().as_u16();
        Ok((status, response.text().await.map_err(problem)?))
    }
}

/// Asks until the token is remembered, and answers what every question gets from then on.
async fn warm(server: &Subject, questions: &Questions) -> Result<pb::DecideResponse, String> {
    let mut client = DecisionServiceClient::new(load::connect(server.grpc).await?);
    let explained = pb::DecideRequest { explain: true, ..questions.question.clone() };
    for question in [questions.question.clone(), explained] {
        let answer = client.decide(question).await.map_err(|status| format!("no decision: {status}"))?.into_inner();
        allowed(&answer)?;
        if answer.explanation.is_some_and(|seen| seen.token() != pb::Provenance::Memory) {
            return Err("the token is not remembered".to_owned());
        }
    }
    let answer = client.decide(questions.question.clone()).await;
    let answer = answer.map_err(|status| format!("no decision: {status}"))?.into_inner();
    allowed(&answer)?;
    Ok(answer)
}

/// An answer that allows, with two quotas granted.
fn allowed(answer: &pb::DecideResponse) -> Result<(), String> {
    let granted = |quota: &pb::QuotaStatus| quota.outcome() == pb::QuotaOutcome::Granted;
    if answer.allowed && answer.quotas.len() == 2 && answer.quotas.iter().all(granted) {
        return Ok(());
    }
    Err(format!("the answer is not an allow by two quotas: {answer:?}"))
}
