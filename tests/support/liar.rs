//! A web server that answers as no honest one would: for issuers that lie, stall or never end.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// No request of an honest caller is larger.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// However patient a caller is: nothing is said for longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// What is answered at a place.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Says {
    /// 200, and that text.
    Text(String),
    /// 200, and that text with its tag; 304 to whoever has it already (RFC 9110 §13.1.2). The other headers are sent either way.
    Tagged { tag: String, text: String, headers: String },
    /// That status, and nothing else.
    Status(u16),
    /// See there.
    Redirect(String),
    /// 200, and spaces for ever.
    Endless,
    /// 200, and so many spaces, announced.
    Large(usize),
    /// 200, and a byte now and then.
    Dripping,
    /// Nothing, while the connection stays.
    Silent,
    /// Nothing, until there is something else to say.
    Held,
}

/// The server; it ends with the test.
pub(crate) struct Liar {
    base: String,
    places: Places,
    task: JoinHandle<()>,
}

type Places = Arc<Mutex<HashMap<String, Place>>>;

struct Place {
    says: Says,
    visits: usize,
    /// The body of the last request.
    heard: String,
    /// What its last visitor had already (`If-None-Match`).
    shown: Option<String>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Liar {
    /// Starts one, which has nothing to say yet.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are free ports");
        let base = format!("http://{}", listener.local_addr().expect("it is bound"));
        let places = Places::default();
        let known = Arc::clone(&places);
        let task = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                let known = Arc::clone(&known);
                // Callers who hang up in the middle are what this server is for.
                tokio::spawn(async move { timeout(PATIENCE, answer(caller, &known)).await });
            }
        });
        Self { base, places, task }
    }

    /// The URL of a place.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Answers that from now on.
    pub(crate) fn says(&self, path: &str, says: Says) {
        let mut places = self.places.lock().expect("no test failed in between");
        let place = places.entry(path.to_owned()).or_insert(Place {
            says: says.clone(),
            visits: 0,
            heard: String::new(),
            shown: None,
        });
        place.says = says;
    }

    /// The body of the last request of a place.
    #[allow(dead_code, reason = "each side uses its part")]
    pub(crate) fn heard(&self, path: &str) -> String {
        let places = self.places.lock().expect("no test failed in between");
        places.get(path).map(|place| place.heard.clone()).unwrap_or_default()
    }

    /// The tag that the last visitor of a place had already.
    #[allow(dead_code, reason = "not every test that has this server asks")]
    pub(crate) fn shown(&self, path: &str) -> Option<String> {
        self.places.lock().expect("no test failed in between").get(path).and_then(|place| place.shown.clone())
    }

    /// How often a place was asked.
    pub(crate) fn visits(&self, path: &str) -> usize {
        self.places.lock().expect("no test failed in between").get(path).map_or(0, |place| place.visits)
    }
}

/// Answers one request and hangs up.
async fn answer(mut caller: TcpStream, places: &Places) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        request.push(caller.read_u8().await?);
        // Whoever begins otherwise speaks no HTTP: TLS, mostly.
        if !request[0].is_ascii_uppercase() {
            return Ok(());
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    // What is sent is not looked at, but whoever sends it wants to be heard to the end.
    let header = |wanted: &str| {
        let mut headers = request.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned())
    };
    let length = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length.min(REQUEST_BYTES_MAX)];
    caller.read_exact(&mut body).await?;
    let path = request.split(' ').nth(1).unwrap_or_default();
    let mut says = places.lock().expect("no test failed in between").get_mut(path).map(|place| {
        place.visits += 1;
        place.heard = String::from_utf8_lossy(&body).into_owned();
        place.shown = header("if-none-match");
        place.says.clone()
    });
    while matches!(says, Some(Says::Held)) {
        sleep(Duration::from_millis(2)).await;
        says = places.lock().expect("no test failed in between").get(path).map(|place| place.says.clone());
    }
    let head = |status: u16, more: &str| format!("HTTP/1.1 {status} Some\r\nConnection: close\r\n{more}\r\n");
    match says.unwrap_or(Says::Status(404)) {
        Says::Text(text) => {
            let head = head(200, &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", text.len()));
            caller.write_all((head + &text).as_bytes()).await?;
        }
        Says::Tagged { tag, headers, .. } if header("if-none-match").as_ref() == Some(&tag) => {
            caller.write_all(head(304, &format!("ETag: {tag}\r\n{headers}")).as_bytes()).await?;
        }
        Says::Tagged { tag, text, headers } => {
            let head = head(200, &format!("ETag: {tag}\r\n{headers}Content-Length: {}\r\n", text.len()));
            caller.write_all((head + &text).as_bytes()).await?;
        }
        Says::Status(status) => caller.write_all(head(status, "Content-Length: 0\r\n").as_bytes()).await?,
        Says::Redirect(to) => {
            let head = head(302, &format!("Location: {to}\r\nContent-Length: 0\r\n"));
            caller.write_all(head.as_bytes()).await?;
        }
        Says::Endless => {
            caller.write_all(head(200, "").as_bytes()).await?;
            loop {
                caller.write_all(&[b' '; 8192]).await?;
            }
        }
        Says::Large(bytes) => {
            caller.write_all(head(200, &format!("Content-Length: {bytes}\r\n")).as_bytes()).await?;
            for _ in 0..bytes.div_ceil(8192) {
                caller.write_all(&[b' '; 8192]).await?;
            }
        }
        Says::Dripping => {
            caller.write_all(head(200, "").as_bytes()).await?;
            loop {
                caller.write_all(b" ").await?;
                sleep(Duration::from_millis(500)).await;
            }
        }
        Says::Silent | Says::Held => sleep(PATIENCE).await,
    }
    Ok(())
}
