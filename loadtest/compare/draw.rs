//! The picture of what the tables say: CPU for a decision, and times until the answer.

use std::time::Duration;

use super::field::Contender;
use super::table::{Table, redis_cpu, server_cpu};
use super::{Row, SATURATED, Shape};
use crate::costs::{Cost, Costs};
use crate::svg::{Picture, line, rect, text};
use crate::table::micros;

const WIDTH: f64 = 800.0;

/// Where names end, and where plots begin and end.
const NAMES: f64 = 168.0;
const LEFT: f64 = 180.0;
const RIGHT: f64 = 785.0;

/// From one contender to the next.
const PITCH: f64 = 22.0;

/// From one plot's beginning to the next's within a block, beyond the contenders.
const ABOVE: f64 = 40.0;
const BELOW: f64 = 26.0;

/// Room for figures beside bars, and between plots.
const FIGURES: f64 = 88.0;
const GAP: f64 = 24.0;

const STYLE: &str = "
    .within { fill: #0969da; fill-opacity: 0.22; } .bar { fill: #0550ae; }
    .other { fill: #818b98; } .beside { fill: #818b98; fill-opacity: 0.4; }
    .span { stroke: #0550ae; stroke-width: 2; } .otherspan { stroke: #818b98; stroke-width: 2; }
    .small { font-size: 12px; }";
const STYLE_DARK: &str = "
      .within { fill: #4493f8; fill-opacity: 0.3; } .bar { fill: #79c0ff; }
      .other { fill: #9198a1; } .beside { fill: #9198a1; fill-opacity: 0.4; }
      .span { stroke: #79c0ff; } .otherspan { stroke: #9198a1; }";

const TITLE: &str = "What a decision by two limits costs";

/// All of it. None where a figure is missing.
pub(super) fn picture(table: &Table) -> Option<String> {
    let mut lines = vec![text(
        "faint",
        20.0,
        58.0,
        "start",
        "CPU for each decision, µs: the server's, and Redis's behind it; by connections × questions in flight on each.",
    )];
    let mut top = 64.0;
    for rows in table.closed.chunk_by(|(one, ..), (other, ..)| one == other) {
        lines.extend(bars(top, rows)?);
        top += height(&rows.first()?.2);
    }
    let caption =
        "Time until the answer, where questions come evenly: p50 (dot), p99 (bar) and p99.9 (end of the line).";
    lines.push(text("faint", 20.0, top + 20.0, "start", caption));
    top += 26.0;
    for rows in table.open.chunk_by(|(one, ..), (other, ..)| one == other) {
        lines.extend(times(top, rows)?);
        top += height(&rows.first()?.2);
    }
    let picture = Picture {
        width: WIDTH,
        height: top + 10.0,
        title: TITLE,
        description: &described(table)?,
        style: STYLE,
        style_dark: STYLE_DARK,
    };
    Some(picture.of(&lines))
}

/// The most telling figures, for those who do not see them.
fn described(table: &Table) -> Option<String> {
    let mut said = Vec::new();
    for (traffic, shape, row) in table.closed.iter().filter(|(_, shape, _)| *shape == SATURATED) {
        for (contender, costs) in row {
            let Shape(connections, calls) = shape;
            said.push(format!(
                "{}, {connections} × {calls}, {}: {}",
                traffic.name(),
                contender.name(),
                figures(costs)?
            ));
        }
    }
    Some(format!("Server CPU for a decision in µs, and that of Redis where there is one. {}.", said.join("; ")))
}

#[expect(clippy::cast_precision_loss, reason = "a handful")]
fn height(row: &Row) -> f64 {
    ABOVE + PITCH * row.len() as f64 + BELOW
}

/// Where the plot of that number among so many begins, and where it ends.
#[expect(clippy::cast_precision_loss, reason = "a handful")]
fn column(index: usize, count: usize) -> (f64, f64) {
    let width = (RIGHT - LEFT - GAP * (count as f64 - 1.0)) / count as f64;
    let left = LEFT + (width + GAP) * index as f64;
    (left, left + width)
}

/// The name of the keys, those of the contenders, and the middle of the line of each.
fn names(top: f64, keys: &str, row: &Row) -> (Vec<String>, Vec<f64>) {
    let mut lines = vec![text("text name", 20.0, top + ABOVE - 10.0, "start", keys)];
    let mut middles = Vec::new();
    let mut middle = top + ABOVE + PITCH / 2.0;
    for (contender, _) in row {
        lines.push(text(
            if is_ours(*contender) { "text" } else { "faint" },
            NAMES,
            middle + 5.0,
            "end",
            contender.name(),
        ));
        middles.push(middle);
        middle += PITCH;
    }
    (lines, middles)
}

/// What decisions cost with the same keys, a plot for each shape, all at the same scale.
fn bars(top: f64, rows: &[(crate::traffic::Traffic, Shape, Row)]) -> Option<Vec<String>> {
    let (traffic, _, row) = rows.first()?;
    let (mut lines, middles) = names(top, traffic.name(), row);
    let all = rows.iter().flat_map(|(.., row)| row);
    let most = all.map(|(_, costs)| total(costs)).collect::<Option<Vec<f64>>>()?.into_iter().fold(0.0, f64::max);
    for (index, (_, Shape(connections, calls), row)) in rows.iter().enumerate() {
        let (left, right) = column(index, rows.len());
        let scale = (right - left - FIGURES) / most;
        lines.push(text("text", left, top + ABOVE - 10.0, "start", &format!("{connections} × {calls}")));
        for ((contender, costs), middle) in row.iter().zip(&middles) {
            let (server, y) = (costs.median(server_cpu)? * scale, middle - 6.0);
            let (own, behind) = if is_ours(*contender) { ("bar", "within") } else { ("other", "beside") };
            lines.push(rect(own, left, y, server, 12.0));
            if let Some(redis) = costs.median(redis_cpu) {
                lines.push(rect(behind, left + server, y, redis * scale, 12.0));
            }
            lines.push(text(
                "faint small",
                left + total(costs)? * scale + 5.0,
                middle + 4.0,
                "start",
                &figures(costs)?,
            ));
        }
        let (first, last) = (top + ABOVE, top + ABOVE + PITCH * rows_of(row));
        lines.push(line("axis", (left, first), (left, last)));
    }
    Some(lines)
}

/// How long answers take with the same keys, a plot for each load, all at the same scale: logarithmic.
fn times(top: f64, rows: &[(crate::traffic::Traffic, u32, Row)]) -> Option<Vec<String>> {
    let (traffic, _, row) = rows.first()?;
    let (mut lines, middles) = names(top, traffic.name(), row);
    let all: Vec<[f64; 3]> =
        rows.iter().flat_map(|(.., row)| row).map(|(_, costs)| spread(costs)).collect::<Option<_>>()?;
    let least = all.iter().map(|[least, ..]| least.log10()).fold(f64::INFINITY, f64::min).floor();
    let most = all.iter().map(|[.., most]| most.log10()).fold(f64::NEG_INFINITY, f64::max).ceil();
    for (index, (_, percent, row)) in rows.iter().enumerate() {
        let (left, right) = column(index, rows.len());
        let x = |micros: f64| left + (right - left) * (micros.log10() - least) / (most - least);
        lines.push(text("text", left, top + ABOVE - 10.0, "start", &format!("at {percent} % of what each can do")));
        let (upper, lower) = (top + ABOVE, top + ABOVE + PITCH * rows_of(row));
        let mut decade = least;
        while decade <= most {
            let at = 10_f64.powf(decade);
            lines.push(line("edge", (x(at), upper), (x(at), lower)));
            // Within the plot, lest those of two plots overlap.
            let anchor = if decade <= least {
                "start"
            } else if decade >= most {
                "end"
            } else {
                "middle"
            };
            lines.push(text("faint small", x(at), lower + 14.0, anchor, &micros(Duration::from_secs_f64(at / 1e6))));
            decade += 1.0;
        }
        for ((contender, costs), middle) in row.iter().zip(&middles) {
            let [p50, p99, p999] = spread(costs)?.map(x);
            let (span, mark) = if is_ours(*contender) { ("span", "bar") } else { ("otherspan", "other") };
            lines.push(line(span, (p50, *middle), (p999, *middle)));
            lines.push(format!(r#"  <circle class="{mark}" cx="{p50:.1}" cy="{middle:.1}" r="4"/>"#));
            lines.push(rect(mark, p99 - 1.5, middle - 6.0, 3.0, 12.0));
        }
    }
    Some(lines)
}

const fn is_ours(contender: Contender) -> bool {
    matches!(contender, Contender::Memory | Contender::Redis)
}

#[expect(clippy::cast_precision_loss, reason = "a handful")]
const fn rows_of(row: &Row) -> f64 {
    row.len() as f64
}

/// Of the server and Redis.
fn total(costs: &Costs) -> Option<f64> {
    Some(costs.median(server_cpu)? + costs.median(redis_cpu).unwrap_or(0.0))
}

fn figures(costs: &Costs) -> Option<String> {
    let server = costs.median(server_cpu)?;
    Some(match costs.median(redis_cpu) {
        Some(redis) => format!("{server:.1} + {redis:.1}"),
        None => format!("{server:.1}"),
    })
}

/// p50, p99 and p99.9, in µs.
fn spread(costs: &Costs) -> Option<[f64; 3]> {
    let time = |figure: fn(&Cost) -> Option<Duration>| {
        costs.median(|cost| figure(cost).map(|time| time.as_secs_f64().max(1e-6) * 1e6))
    };
    Some([time(|cost| Some(cost.tally.p50))?, time(|cost| Some(cost.tally.p99))?, time(|cost| cost.tally.p999)?])
}
