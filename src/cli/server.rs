//! The server that a command asks, and what is shown to it.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

/// The longest text that is read from standard input: more is no token.
const INPUT_BYTES_MAX: u64 = 64 * 1024;

/// Which server, and how it is reached.
#[derive(Clone, Debug, Args)]
pub(super) struct Server {
    /// The server to ask.
    #[arg(long, env = "TOLLGATE_URL", default_value = "http://127.0.0.1:50051")]
    url: String,
    /// The authorities (PEM) that an https server is trusted by, instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The certificate (PEM) to show to an https server that asks for one.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// How long to wait for the answer, in milliseconds.
    #[arg(long, default_value_t = 5_000)]
    timeout_ms: u64,
}

impl Server {
    /// A connection to it.
    pub(super) async fn connect(&self) -> Result<Channel, String> {
        let url = &self.url;
        let timeout = Duration::from_millis(self.timeout_ms);
        let not_one = || format!("--url: `{url}` is not a URL such as http://127.0.0.1:50051");
        let mut endpoint =
            Endpoint::from_shared(url.clone()).map_err(|_| not_one())?.connect_timeout(timeout).timeout(timeout);
        match endpoint.uri().scheme_str() {
            Some("http") if self.ca.is_some() || self.cert.is_some() => {
                return Err(format!("--ca and --cert are of use with https only; --url is `{url}`"));
            }
            Some("http") => {}
            Some("https") => {
                endpoint = endpoint.tls_config(self.trust()?).map_err(|error| format!("cannot set up TLS: {error}"))?;
            }
            _ => return Err(not_one()),
        }
        let connected = endpoint.connect().await;
        connected.map_err(|error| format!("cannot reach {url}: {}; is the server running there?", chain(&error)))
    }

    /// Whom an https server is trusted by, and what is shown to it.
    fn trust(&self) -> Result<ClientTlsConfig, String> {
        let read = |file: &PathBuf| std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()));
        let mut tls = match &self.ca {
            Some(file) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(file)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some((cert, key)) = self.cert.as_ref().zip(self.key.as_ref()) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(tls)
    }
}

/// Who asks for what not everybody may have.
#[derive(Clone, Debug, Args)]
pub(super) struct Operator {
    /// The token or API key of who asks, with the scope that the command needs. Not needed where --cert may ask.
    #[arg(long, env = "TOLLGATE_OPERATOR_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    operator_token: Option<String>,
    /// A file that holds it.
    #[arg(long, conflicts_with = "operator_token", value_name = "FILE")]
    operator_token_file: Option<PathBuf>,
}

impl Operator {
    /// The message, with who asks.
    pub(super) fn request<T>(&self, message: T) -> Result<Request<T>, String> {
        let mut request = Request::new(message);
        if let Some(operator) = token(self.operator_token.clone(), self.operator_token_file.as_deref())? {
            let value = MetadataValue::try_from(format!("Bearer {operator}"));
            let value = value.map_err(|_| "the operator's token has characters that no token has".to_owned())?;
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// The token that is given; `-` reads it from standard input, which shows it to nobody.
pub(super) fn shown(token: String) -> Result<String, String> {
    if token != "-" {
        return Ok(token);
    }
    let mut text = String::new();
    let read = std::io::stdin().lock().take(INPUT_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| format!("standard input: {error}"))?;
    Ok(text.trim().to_owned())
}

/// Why there is no answer, with every field that was wrong.
pub(super) fn complaint(what: &str, status: &Status) -> String {
    let Some(bad) = status.get_details_bad_request() else {
        return format!("{what}: {}: {}", status.code(), status.message());
    };
    let mut text = format!("{what}: the request is not well formed:");
    for violation in bad.field_violations {
        let _ = write!(text, "\n  {}: {}", violation.field, violation.description);
    }
    text
}

/// The token that is given, or in a file. A variable that is set to nothing holds none.
pub(super) fn token(given: Option<String>, file: Option<&Path>) -> Result<Option<String>, String> {
    let Some(file) = file else { return Ok(given.filter(|token| !token.is_empty())) };
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(Some(text.trim().to_owned()))
}

/// An error and what it came from.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}
