//! ghz asks, one question a call.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message as _;
use serde::Deserialize;

use crate::cores::command_on;
use crate::figures::Tally;
use crate::process::Process;
use crate::question::Questions;

/// How much longer than asked for ghz may take: it starts, waits for the last answers and writes what it saw.
const SLACK: Duration = Duration::from_secs(30);

/// ghz, ready to ask.
pub(crate) struct Ghz {
    program: PathBuf,
    protos: PathBuf,
    question: PathBuf,
    report: PathBuf,
}

/// What ghz writes with `--format json`, as far as it matters.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Calls.
    count: u64,
    /// Nanoseconds.
    total: u64,
    status_code_distribution: std::collections::BTreeMap<String, u64>,
    latency_distribution: Option<Vec<Percentile>>,
}

#[derive(Debug, Deserialize)]
struct Percentile {
    percentage: u8,
    /// Nanoseconds.
    latency: u64,
}

impl Ghz {
    /// Prepares files in `folder`.
    pub(crate) fn new(program: &Path, folder: &Path, questions: &Questions) -> Result<Self, String> {
        let ghz = Self {
            program: program.to_owned(),
            protos: folder.join("protos.bin"),
            question: folder.join("question.bin"),
            report: folder.join("ghz.json"),
        };
        let write =
            |file: &Path, bytes: &[u8]| fs::write(file, bytes).map_err(|error| format!("{}: {error}", file.display()));
        write(&ghz.protos, tollgate::proto::DESCRIPTORS)?;
        // With its length before it: ghz tries that reading first, and now and then takes a bare message for one.
        write(&ghz.question, &questions.question.encode_length_delimited_to_vec())?;
        Ok(ghz)
    }

    /// Asks on so many connections, with so many calls in flight on each, for a while.
    pub(crate) async fn ask(
        &self,
        server: SocketAddr,
        connections: usize,
        calls: usize,
        length: Duration,
        core: Option<usize>,
    ) -> Result<Tally, String> {
        // Lest an earlier one be taken for this one.
        File::create(&self.report).map_err(|error| format!("{}: {error}", self.report.display()))?;
        let mut command = command_on(core, &self.program);
        command.args(["--insecure", "--call", "tollgate.v1.DecisionService/Decide", "--protoset"]).arg(&self.protos);
        command.arg("--binary-file").arg(&self.question);
        command.args(["--disable-template-functions", "--disable-template-data"]);
        command.args(["--connections", &connections.to_string(), "--concurrency", &(connections * calls).to_string()]);
        // Calls in flight at the end are waited for, so that every call counts, here and there.
        command.args(["--duration", &format!("{}ms", length.as_millis()), "--duration-stop", "wait", "--cpus", "1"]);
        command.args(["--format", "json", "--output"]).arg(&self.report).arg(server.to_string());
        Process::start("ghz", command)?.ended(length + SLACK).await?;
        let file = File::open(&self.report).map_err(|error| format!("ghz wrote no report: {error}"))?;
        let report = serde_json::from_reader(std::io::BufReader::new(file));
        tally(&report.map_err(|error| format!("ghz's report is not understood: {error}"))?)
    }
}

/// An error where any call ended in something else than an answer.
fn tally(report: &Report) -> Result<Tally, String> {
    let Report { count, total, status_code_distribution, latency_distribution } = report;
    if status_code_distribution.values().sum::<u64>() != *count || status_code_distribution.get("OK") != Some(count) {
        return Err(format!("ghz made {count} calls and got {status_code_distribution:?}"));
    }
    let percentile = |wanted| {
        let found = latency_distribution.iter().flatten().find(|found| found.percentage == wanted);
        found.map(|found| Duration::from_nanos(found.latency)).ok_or(format!("ghz's report has no p{wanted}"))
    };
    let took = Duration::from_nanos(*total);
    Ok(Tally { decisions: *count, took, p50: percentile(50)?, p99: percentile(99)?, p999: None })
}
