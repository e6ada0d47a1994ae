//! The server's own account of its decisions, from its metrics.

use tollgate::telemetry::names;

/// Allows, and other decisions, in Prometheus's text format.
pub(crate) fn decisions(text: &str) -> Result<(u64, u64), String> {
    let (mut allowed, mut other) = (0, 0);
    for line in text.lines().filter(|line| line.starts_with(names::DECISIONS)) {
        let count = line.rsplit_once(' ').and_then(|(_, count)| count.parse::<u64>().ok());
        let count = count.ok_or_else(|| format!("the metrics are not understood: {line}"))?;
        if line.contains(r#"reason="allowed""#) {
            allowed += count;
        } else {
            other += count;
        }
    }
    Ok((allowed, other))
}
