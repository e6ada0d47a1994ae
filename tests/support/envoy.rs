//! A real Envoy, and a service behind it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::server::SOON;
use super::{Process, poll, root};

/// Set to 1 where there is no Envoy: the tests that need it then say that they were skipped.
const SKIP: &str = "TOLLGATE_TEST_SKIP_ENVOY";

/// How long an Envoy may take to start: its file is larger than most, and may have to be read first.
const START: Duration = Duration::from_mins(1);

/// An Envoy that ends with its test.
pub(crate) struct Envoy {
    /// Ends the process when nobody is there any more to do so: Envoy does not read its standard input. Dropped first,
    /// since the process's id may be another's once it has ended.
    _watch: Process,
    process: Process,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _folder: TempDir,
}

impl Envoy {
    /// Starts one by a file of `tests/envoy/`, in which what stands left in `changes` is replaced by what stands right.
    /// None where the tests are told to go without, by the environment.
    pub(crate) async fn start(file: &str, changes: &[(&str, String)]) -> Option<Self> {
        Self::start_in(tempfile::tempdir().unwrap(), file, changes).await
    }

    /// The same, in a folder with files that the configuration names.
    pub(crate) async fn start_in(folder: TempDir, file: &str, changes: &[(&str, String)]) -> Option<Self> {
        if std::env::var_os(SKIP).is_some_and(|value| value == "1") {
            println!("skipped: it needs Envoy, and {SKIP}=1");
            return None;
        }
        let mut yaml = std::fs::read_to_string(root().join("tests/envoy").join(file)).unwrap();
        for (old, new) in [("port_value: 9901", "port_value: 0"), ("port_value: 8000", "port_value: 0")] {
            yaml = replaced(&yaml, old, new);
        }
        for (old, new) in changes {
            yaml = replaced(&yaml, old, new);
        }
        std::fs::write(folder.path().join("envoy.yaml"), yaml).unwrap();
        let mut command = Command::new(super::tool("envoy"));
        command.current_dir(folder.path());
        command.args(["-c", "envoy.yaml", "--disable-hot-restart", "--concurrency", "1", "-l", "error"]);
        command.args(["--admin-address-path", "admin"]);
        let process = Process::start(command, &format!("run ./scripts/test --install, or set {SKIP}=1"));
        let mut watch = Command::new("sh");
        watch.args(["-c", "read -r _; kill -KILL \"$1\"", "sh", &process.id().to_string()]);
        let watch = Process::start(watch, "a test needs a shell");
        let address = listener(folder.path().join("admin"), &process).await;
        Some(Self { _watch: watch, process, address, _folder: folder })
    }

    /// What the next entry of the access log says of the decision, by Tollgate's word; Envoy adds how long it took.
    pub(crate) async fn decision(&mut self) -> Value {
        let line = self.process.line(SOON).await;
        let mut entry: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        if let Some(decision) = entry["decision"].as_object_mut() {
            decision.remove("ext_authz_duration");
        }
        entry["decision"].take()
    }

    /// What is answered to these very bytes, until the other end closes the connection or the answer is whole.
    pub(crate) async fn send(&self, request: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut read = Vec::new();
        let has_body = !request.starts_with(b"HEAD ");
        loop {
            if let Some(answer) = Answer::read(&read, has_body) {
                return answer;
            }
            let mut part = [0; 4096];
            let taken = timeout(SOON, stream.read(&mut part)).await.expect("it answers in time").unwrap();
            assert!(taken > 0, "it closed the connection after {:?}", String::from_utf8_lossy(&read));
            read.extend_from_slice(&part[..taken]);
        }
    }

    /// What is answered to a request with this head, `Host` and no body.
    pub(crate) async fn get(&self, target: &str, headers: &[&str]) -> Answer {
        self.ask("GET", target, headers).await
    }

    /// The same with another method.
    pub(crate) async fn ask(&self, method: &str, target: &str, headers: &[&str]) -> Answer {
        let headers: String = headers.iter().flat_map(|header| [header, "\r\n"]).collect();
        self.send(format!("{method} {target} HTTP/1.1\r\nHost: api.example\r\n{headers}\r\n").as_bytes()).await
    }
}

fn replaced(yaml: &str, old: &str, new: &str) -> String {
    assert!(yaml.contains(old), "the file has no `{old}`");
    yaml.replace(old, new)
}

/// Asks the admin port where the first listener is.
async fn listener(admin: PathBuf, process: &Process) -> SocketAddr {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let what = format!("an Envoy that listens: {process}");
    poll(START, &what, async || {
        let admin = std::fs::read_to_string(&admin).ok()?;
        let url = format!("http://{}/listeners?format=json", admin.trim());
        let listeners: Value = serde_json::from_str(&client.get(url).send().await.ok()?.text().await.ok()?).ok()?;
        let address = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
        format!("{}:{}", address["address"].as_str()?, address["port_value"]).parse().ok()
    })
    .await
}

/// An answer of HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// None while something is missing. Envoy and the service both say how long their bodies are.
    fn read(bytes: &[u8], has_body: bool) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        let answer = Self { status, headers, body: body.to_owned() };
        let length: usize = answer.header("content-length")?.parse().ok()?;
        (!has_body || answer.body.len() >= length).then_some(answer)
    }

    /// The values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The only value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        match self.all(name)[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// The body, which is JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    /// The status, and the reason of a refusal.
    pub(crate) fn verdict(&self) -> String {
        match self.status {
            200 => "200".to_owned(),
            status => format!("{status} {}", self.json()["reason"].as_str().unwrap_or("-")),
        }
    }
}

/// A service that says what has come to it.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

/// A request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) target: String,
    headers: Vec<(String, Vec<u8>)>,
}

impl Seen {
    /// The values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        let values = self.headers.iter().filter(|(own, _)| own == name);
        values.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }
}

impl Service {
    /// Serves HTTP/1.1 and HTTP/2, and what `more` does.
    pub(crate) async fn start(more: Router) -> Self {
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let kept = Arc::clone(&seen);
        let fallback = move |request: Request| note(Arc::clone(&kept), request);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = more.fallback(fallback);
        let task =
            tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves until it is dropped") });
        Self { address, seen, task }
    }

    /// What came since this was asked last.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn note(seen: Arc<Mutex<Vec<Seen>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    let request = Seen { target: parts.uri.to_string(), headers };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    let text = format!("served {} bytes", body.len());
    Response::builder().header("ratelimit", "\"own\";r=1").body(Body::from(text)).unwrap()
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}
