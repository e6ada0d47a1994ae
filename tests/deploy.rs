//! The files in `deploy/` fit the program: they parse, name metrics that are there, and agree with each other.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use tollgate::config;

use crate::support::root;

fn text_of(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The documents of a YAML file.
fn documents(file: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&text_of(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The Kubernetes object of that kind.
fn object(kind: &str) -> Value {
    let mut found = documents("deploy/kubernetes.yaml").into_iter().filter(|object| object["kind"] == kind);
    found.next().unwrap_or_else(|| panic!("there is no {kind}"))
}

fn container() -> Value {
    object("Deployment")["spec"]["template"]["spec"]["containers"][0].clone()
}

/// The names of metrics that stand in `text`, without what a histogram's series add to them.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("tollgate_"));
    let suffixes = ["_bucket", "_sum", "_count"];
    names.map(|name| suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name).to_owned()).collect()
}

/// The names of all metrics, as `telemetry::names` has them.
fn known_metrics() -> BTreeSet<String> {
    let source = text_of("src/telemetry.rs");
    let (_, names) = source.split_once("pub mod names {").expect("there is a module of names");
    let (names, _) = names.split_once("\n}").expect("it ends");
    let quoted =
        names.lines().filter(|line| !line.trim_start().starts_with("//")).filter_map(|line| line.split('"').nth(1));
    quoted.map(str::to_owned).collect()
}

/// Names in `text` that no metric has.
fn unknown_metrics(text: &str) -> Vec<String> {
    metrics_in(text).difference(&known_metrics()).cloned().collect()
}

#[test]
fn every_file_parses() {
    let paths = fs::read_dir(root().join("deploy")).unwrap().map(|entry| entry.unwrap().path());
    let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    let files: Vec<String> = paths.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        assert!(!documents(&format!("deploy/{file}")).is_empty(), "{file} is empty");
    }
}

#[test]
fn alerts_name_only_metrics_that_are_there() {
    let known = known_metrics();
    assert!(known.contains(tollgate::telemetry::names::DECISIONS) && known.len() > 10, "{known:?}");
    let rules = text_of("deploy/prometheus.rules.yaml");
    assert!(metrics_in(&rules).len() > 5);
    assert_eq!(unknown_metrics(&rules), Vec::<String>::new());
    assert_eq!(unknown_metrics(&text_of("deploy/prometheus.yaml")), Vec::<String>::new());
}

#[test]
fn documents_name_every_metric_and_no_other() {
    assert_eq!(metrics_in(&text_of("docs/metrics.md")), known_metrics());
    for page in ["README.md", "ARCHITECTURE.md", "docs/quotas.md", "docs/performance.md", "loadtest/README.md"] {
        assert_eq!(unknown_metrics(&text_of(page)), Vec::<String>::new(), "{page}");
    }
}

#[test]
fn a_metric_that_is_gone_is_found() {
    let rule = r#"expr: rate(tollgate_decision_duration_seconds_bucket[5m]) / tollgate_gone{instance="tollgate_up"}"#;
    assert_eq!(unknown_metrics(rule), ["tollgate_gone", "tollgate_up"]);
}

#[test]
fn alerts_say_what_happened_and_what_it_means() {
    for group in documents("deploy/prometheus.rules.yaml")[0]["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap().iter().filter(|rule| rule["alert"].is_string()) {
            assert!(rule["annotations"]["summary"].is_string(), "{rule}");
            assert!(rule["annotations"]["description"].is_string(), "{rule}");
            assert!(rule["labels"]["severity"].is_string(), "{rule}");
        }
    }
}

#[test]
fn one_replica_may_go_while_another_stays() {
    let replicas = object("Deployment")["spec"]["replicas"].as_u64().unwrap();
    let stay = object("PodDisruptionBudget")["spec"]["minAvailable"].as_u64().unwrap();
    assert!(replicas >= 2 && stay >= 1 && stay < replicas);
}

#[test]
fn the_service_and_the_budget_select_the_pods() {
    let labels = object("Deployment")["spec"]["template"]["metadata"]["labels"].clone();
    assert_eq!(object("Deployment")["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(object("PodDisruptionBudget")["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(object("Service")["spec"]["selector"], labels);
}

#[test]
fn ports_are_those_that_the_configuration_listens_on() {
    let config = object("ConfigMap")["data"]["tollgate.yaml"].as_str().unwrap().to_owned();
    let config: Value = serde_saphyr::from_str(&config).unwrap();
    for port in container()["ports"].as_array().unwrap() {
        let name = port["name"].as_str().unwrap();
        assert_eq!(config["listen"][name], format!("0.0.0.0:{}", port["containerPort"]), "{name}");
        let number = port["containerPort"].to_string();
        let image = text_of("deploy/Dockerfile");
        let exposed = image.lines().find_map(|line| line.strip_prefix("EXPOSE ")).unwrap();
        assert!(exposed.split(' ').any(|exposed| exposed == number), "{name}");
    }
}

#[test]
fn the_configuration_is_one_that_the_program_takes() {
    let text = object("ConfigMap")["data"]["tollgate.yaml"].as_str().unwrap().to_owned();
    let environment = |name: &str| (name == "TOLLGATE_REDIS_URL").then(|| "rediss://redis.example:6379".to_owned());
    let (config, warnings) = config::parse(&text, "tollgate.yaml", &environment).unwrap();
    assert_eq!(warnings, []);
    assert!(matches!(config.store, config::Store::Redis(_)), "replicas share their quotas");
    let variables = container()["env"].as_array().unwrap().clone();
    assert!(variables.iter().any(|variable| variable["name"] == "TOLLGATE_REDIS_URL"));
}

#[test]
fn probes_ask_the_admin_port() {
    let container = container();
    for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
        assert_eq!(container[probe]["httpGet"]["path"], path);
        assert_eq!(container[probe]["httpGet"]["port"], "admin");
    }
}

#[test]
fn the_pod_outlives_the_drain() {
    let pod = object("Deployment")["spec"]["template"]["spec"].clone();
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    let wait = container()["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
    let config = object("ConfigMap")["data"]["tollgate.yaml"].as_str().unwrap().to_owned();
    let config: Value = serde_saphyr::from_str(&config).unwrap();
    let drain: u64 = config["bounds"]["drain"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
    assert!(grace > wait + drain, "{grace} s must be more than {wait} s and {drain} s");
}

#[test]
fn nothing_runs_as_root() {
    let pod = object("Deployment")["spec"]["template"]["spec"].clone();
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    let user = pod["securityContext"]["runAsUser"].to_string();
    assert!(text_of("deploy/Dockerfile").contains(&format!("USER {user}:")));
    assert_eq!(container()["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(container()["securityContext"]["readOnlyRootFilesystem"], true);
}

#[test]
fn the_image_is_built_by_the_compiler_that_everybody_uses() {
    let toolchain = text_of("rust-toolchain.toml");
    let channel = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    assert!(text_of("deploy/Dockerfile").contains(&format!("FROM rust:{channel}-slim")));
}
