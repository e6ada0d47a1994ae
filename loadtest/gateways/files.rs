//! How long it takes to read limits from many files.

use std::fs;
use std::path::{Path, PathBuf};

use tollgate::decide::ports::Clock as _;
use tollgate::server::SystemClock;

use crate::cores::{Cores, command_on};
use crate::figures::median;

/// Files, and descriptors in each.
pub(crate) const MANY: (usize, usize) = (100, 100);

/// What starting a process costs, and reading next to nothing.
pub(crate) const FEW: (usize, usize) = (1, 1);

/// The median time in µs that `tollgate config check` takes for so many files with so many descriptors each.
pub(crate) fn check(
    binary: &Path,
    folder: &Path,
    (files, descriptors): (usize, usize),
    runs: usize,
    cores: Cores,
    clock: SystemClock,
) -> Result<f64, String> {
    let config = write(&folder.join(format!("{files}-files")), files, descriptors)?;
    let mut times = Vec::new();
    for _ in 0..runs {
        let mut command = command_on(cores.server, binary);
        command.args(["config", "check"]).arg(&config);
        let start = clock.steady();
        let checked = command.output().map_err(|error| format!("{} cannot be run: {error}", binary.display()))?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        times.push((clock.steady() - start).0 as f64);
        if !checked.status.success() {
            return Err(format!("config check: {}", String::from_utf8_lossy(&checked.stderr)));
        }
    }
    median(times).ok_or_else(|| "nothing was measured".to_owned())
}

/// A configuration whose limits stand in so many files, a domain each; every descriptor has two entries.
fn write(folder: &Path, files: usize, descriptors: usize) -> Result<PathBuf, String> {
    let config = folder.join("tollgate.yaml");
    let write = || {
        fs::create_dir_all(folder)?;
        fs::write(&config, "envoy_ratelimit: { files: ['limits-*.yaml'] }\n")?;
        for file in 0..files {
            let mut text = format!("domain: domain-{file}\ndescriptors:\n");
            for number in 0..descriptors {
                text.push_str(&descriptor(number));
            }
            fs::write(folder.join(format!("limits-{file}.yaml")), text)?;
        }
        Ok(())
    };
    write().map_err(|error: std::io::Error| format!("{}: {error}", folder.display()))?;
    Ok(config)
}

fn descriptor(number: usize) -> String {
    format!(
        "  - key: tenant
    value: tenant-{number}
    descriptors:
      - key: path
        rate_limit: {{ unit: minute, requests_per_unit: 100 }}
"
    )
}
