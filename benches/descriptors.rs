//! Finding what limits a request by its descriptors, and reading the files that say it.

use std::fs;

use divan::{Bencher, black_box};
use tempfile::TempDir;
use tollgate::config::{self, Config};
use tollgate::domain::ratelimit::Entry;

/// Files that the descriptors are spread over.
const FILES: usize = 100;

/// So many descriptors in one domain, each with a value of its own; the one in the middle is met.
#[divan::bench(args = [10, 10_000])]
fn descriptors_exact(bencher: Bencher<'_, '_>, descriptors: usize) {
    let folder = folder(descriptors, 1, "");
    let config = load(&folder);
    let domain = &config.policy.rate_limits.domains["domain-0"];
    let value = format!("value-{}", descriptors / 2);
    let entries = [Entry { key: "tenant", value: &value }, Entry { key: "path", value: "/orders" }];
    bencher.bench(|| domain.find(black_box(&entries)).unwrap());
}

/// The same of wildcards, whose beginnings have one length or four.
#[divan::bench(args = [10, 10_000])]
fn descriptors_wildcard(bencher: Bencher<'_, '_>, descriptors: usize) {
    let folder = folder(descriptors, 1, "*");
    let config = load(&folder);
    let domain = &config.policy.rate_limits.domains["domain-0"];
    let value = format!("value-{}0", descriptors - 1);
    let entries = [Entry { key: "tenant", value: &value }, Entry { key: "path", value: "/orders" }];
    bencher.bench(|| domain.find(black_box(&entries)).unwrap());
}

/// Reads 10,000 descriptors from 100 files; one sample, since it takes its time.
#[divan::bench(sample_count = 1)]
fn descriptors_load(bencher: Bencher<'_, '_>) {
    let folder = folder(10_000, FILES, "");
    bencher.bench(|| load(black_box(&folder)));
}

/// A configuration with so many descriptors in so many files, a domain each.
pub(crate) fn folder(descriptors: usize, files: usize, end: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tollgate.yaml"), "envoy_ratelimit: { files: ['*.limits'] }\n").unwrap();
    let each = descriptors / files;
    for file in 0..files {
        let mut text = format!("domain: domain-{file}\ndescriptors:\n");
        for number in file * each..(file + 1) * each {
            text.push_str(&descriptor(number, end));
        }
        fs::write(folder.path().join(format!("{file}.limits")), text).unwrap();
    }
    folder
}

fn descriptor(number: usize, end: &str) -> String {
    format!(
        "  - key: tenant
    value: value-{number}{end}
    descriptors:
      - key: path
        rate_limit:
          unit: minute
          requests_per_unit: 1000000000
"
    )
}

pub(crate) fn load(folder: &TempDir) -> Config {
    config::load(&folder.path().join("tollgate.yaml"), &|_| None).unwrap().0
}
