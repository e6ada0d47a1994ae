//! Real gateways on free ports of the loopback, set up by the very text that a page of docs/gateways tells to paste.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::{Json, Router};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;

use super::redis::Watched;
use super::server::SOON;
use super::{poll, tool};

/// A port may be taken by someone else between its choice and its use.
const STARTS_MAX: usize = 5;

/// A gateway that listens until it is dropped.
pub(crate) struct Gateway {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _process: Watched,
    folder: TempDir,
}

impl Gateway {
    /// nginx with the configuration of `page`, which leads to that Tollgate and that service.
    pub(crate) async fn nginx(page: &str, tollgate: SocketAddr, service: SocketAddr) -> Self {
        let site = block(page, "nginx");
        Self::start(|folder, address| {
            let places = [
                ("listen 80;", format!("listen {address};")),
                ("server 127.0.0.1:8080;", format!("server {tollgate};")),
                ("server 127.0.0.1:9000;", format!("server {service};")),
            ];
            // One process, which writes nowhere else than here.
            let own: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|what| format!("  {what}_temp_path {what};\n"))
                .concat();
            let whole = format!(
                "daemon off;\nmaster_process off;\npid nginx.pid;\nevents {{}}\nhttp {{\n  access_log off;\n{own}{}}}\n",
                replaced(&site, &places)
            );
            fs::write(folder.join("nginx.conf"), whole).expect("the folder is ours");
            // Not in everybody's path.
            let program = Path::new("/usr/sbin/nginx");
            let mut command = Command::new(if program.is_file() { program } else { Path::new("nginx") });
            command.arg("-p").arg(folder).args(["-c", "nginx.conf", "-e", "error.log"]);
            command
        })
        .await
    }

    /// Caddy likewise. None where `scripts/test` says that it cannot be had.
    pub(crate) async fn caddy(page: &str, tollgate: SocketAddr, service: SocketAddr) -> Option<Self> {
        if std::env::var_os("TOLLGATE_TEST_SKIP_CADDY").is_some_and(|value| value == "1") {
            println!("skipped: it needs Caddy, and TOLLGATE_TEST_SKIP_CADDY=1");
            return None;
        }
        let site = block(page, "caddyfile");
        let gateway = Self::start(|folder, address| {
            let places = [
                ("http://:80 {", format!("http://:{} {{\n\tbind {}", address.port(), address.ip())),
                ("forward_auth 127.0.0.1:8080 {", format!("forward_auth {tollgate} {{")),
                ("reverse_proxy 127.0.0.1:9000", format!("reverse_proxy {service}")),
            ];
            let global = "{\n\tadmin off\n\tpersist_config off\n}\n";
            let whole = format!("{global}{}", replaced(&site, &places));
            fs::write(folder.join("Caddyfile"), whole).expect("the folder is ours");
            let mut command = Command::new(tool("caddy"));
            command.args(["run", "--adapter", "caddyfile", "--config"]).arg(folder.join("Caddyfile"));
            command.env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder).env("HOME", folder);
            command
        });
        Some(gateway.await)
    }

    /// `command` makes what is to be run, in a folder of its own, to listen at an address.
    async fn start(command: impl Fn(&Path, SocketAddr) -> Command) -> Self {
        for _ in 0..STARTS_MAX {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
            let address = free.expect("there are free ports");
            let folder = tempfile::tempdir().expect("there is room");
            let complaints = fs::File::create(folder.path().join("complaints")).expect("the folder is ours");
            let mut command = command(folder.path(), address);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(complaints);
            let child = command.spawn().unwrap_or_else(|error| {
                panic!("{} cannot be started: {error}; run ./scripts/test --install", command.get_program().display())
            });
            let mut process = Watched::new(child);
            let listens = poll(SOON, "a gateway that listens, or ends", async || {
                if TcpStream::connect(address).await.is_ok() {
                    return Some(true);
                }
                process.has_ended().then_some(false)
            });
            if listens.await {
                return Self { address, _process: process, folder };
            }
            println!("{}", complaints_in(folder.path()));
        }
        panic!("a gateway did not start");
    }

    /// What it has complained about.
    pub(crate) fn complaints(&self) -> String {
        complaints_in(self.folder.path())
    }
}

fn complaints_in(folder: &Path) -> String {
    // nginx has a file of its own for it.
    ["complaints", "error.log"].map(|name| fs::read_to_string(folder.join(name)).unwrap_or_default()).concat()
}

/// The only block of code in that language.
fn block(page: &str, language: &str) -> String {
    let begin = format!("```{language}\n");
    let mut blocks = page.split(&begin).skip(1);
    let block = blocks.next().and_then(|rest| rest.split_once("```")).map(|(block, _)| block.to_owned());
    assert!(blocks.next().is_none(), "several blocks of {language}");
    block.unwrap_or_else(|| panic!("no block of {language}"))
}

/// `text` with what each place has in the page replaced by what it has here; each is there once.
fn replaced(text: &str, places: &[(&str, String)]) -> String {
    places.iter().fold(text.to_owned(), |text, (here, there)| {
        assert_eq!(text.matches(here).count(), 1, "{here}");
        text.replace(here, there)
    })
}

/// A service behind a gateway, which answers with what it was asked, and with the status of the query `answer=…`.
pub(crate) struct Service {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    asked: UnboundedReceiver<Value>,
    task: JoinHandle<()>,
}

impl Service {
    pub(crate) async fn start() -> Self {
        let (sender, asked) = mpsc::unbounded_channel();
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there are free ports");
        let address = listener.local_addr().expect("it is bound");
        let router = Router::new().fallback(serve).with_state(sender);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves for ever") });
        Self { address, asked, task }
    }

    /// What it has been asked since the last time.
    pub(crate) fn asked(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.asked.try_recv().ok()).collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    State(asked): State<UnboundedSender<Value>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (axum::http::StatusCode, Json<Value>) {
    let values =
        |name| headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let headers: serde_json::Map<String, Value> =
        headers.keys().map(|name| (name.to_string(), values(name).collect::<Vec<_>>().join(" | ").into())).collect();
    let told = json!({ "method": method.as_str(), "uri": uri.to_string(), "headers": headers, "body": body.len() });
    // Nobody listens any more once the test is over.
    let _ = asked.send(told.clone());
    let wanted = uri.query().and_then(|query| query.strip_prefix("answer=")?.parse().ok());
    (wanted.unwrap_or(axum::http::StatusCode::OK), Json(told))
}
