//! The picture of a row: what a decision costs, and what is taken up, over the number of whatever grows.

use super::table::bytes;
use super::{Growing, Point};
use crate::svg::{Picture, line, rect, text};
use crate::table::thousands;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 330.0;

/// Top and bottom of both plots; left and right of each.
const TOP: f64 = 110.0;
const BOTTOM: f64 = 270.0;
const SIDES: [(f64, f64); 2] = [(60.0, 380.0), (470.0, 780.0)];

/// From the middle of one size's label to that of the next, at least: else that one has none.
const LABEL: f64 = 44.0;

/// Lines across a plot, at most.
const TICKS: f64 = 4.0;

const STYLE: &str = "
    .server { stroke: #0969da; fill: #0969da; stroke-width: 2; } .redis { stroke: #bc4c00; fill: #bc4c00; stroke-width: 2; }";
const STYLE_DARK: &str = "
      .server { stroke: #4493f8; fill: #4493f8; } .redis { stroke: #db6d28; fill: #db6d28; }";

/// Values over sizes.
struct Series {
    class: &'static str,
    values: Vec<(u64, f64)>,
}

/// One of the two plots.
struct Plot {
    title: &'static str,
    side: (f64, f64),
    series: Vec<Series>,
    /// Whether each line across means ten times the one below.
    by_tens: bool,
    label: fn(f64) -> String,
}

/// All of it.
pub(super) fn of(growing: Growing, points: &[Point]) -> String {
    let series = |class, value: &dyn Fn(&Point) -> Option<f64>| {
        let values: Vec<(u64, f64)> = points.iter().filter_map(|point| Some((point.size, value(point)?))).collect();
        Some(Series { class, values }).filter(|series| !series.values.is_empty())
    };
    let both = |server: Option<Series>, redis: Option<Series>| server.into_iter().chain(redis).collect();
    let plots = [
        Plot {
            title: "CPU, µs a decision",
            side: SIDES[0],
            series: both(
                series("server", &|point| Some(point.cost.server)),
                series("redis", &|point| point.cost.redis),
            ),
            by_tens: false,
            label: |value| format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
        },
        Plot {
            title: "memory",
            side: SIDES[1],
            series: both(series("server", &|point| Some(point.memory)), series("redis", &|point| point.redis_memory)),
            by_tens: true,
            label: bytes,
        },
    ];
    let sizes: Vec<u64> = points.iter().map(|point| point.size).collect();
    let mut lines = legend(plots[0].series.len() > 1);
    lines.extend(plots.iter().flat_map(|plot| plot.lines(&sizes)));
    Picture {
        width: WIDTH,
        height: HEIGHT,
        title: growing.title(),
        description: &described(points),
        style: STYLE,
        style_dark: STYLE_DARK,
    }
    .of(&lines)
}

/// The same for those who do not see it.
fn described(points: &[Point]) -> String {
    let each =
        |point: &Point| format!("with {}: {:.2} µs and {}", size(point.size), point.cost.server, bytes(point.memory));
    let all: Vec<String> = points.iter().map(each).collect();
    format!("What a decision costs the server, and what the server takes up: {}.", all.join("; "))
}

fn legend(has_redis: bool) -> Vec<String> {
    let mut lines = vec![rect("server", 20.0, 56.0, 14.0, 4.0), text("text", 42.0, 63.0, "start", "server")];
    if has_redis {
        lines.push(rect("redis", 120.0, 56.0, 14.0, 4.0));
        lines.push(text("text", 142.0, 63.0, "start", "Redis"));
    }
    lines
}

impl Plot {
    fn lines(&self, sizes: &[u64]) -> Vec<String> {
        let (left, right) = self.side;
        let values = || self.series.iter().flat_map(|series| &series.values).map(|(_, value)| *value);
        let (low, high, ticks) = self.ticks(values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
        let y = |value: f64| {
            let part = if self.by_tens { (value / low).log10() / (high / low).log10() } else { value / high };
            BOTTOM - part * (BOTTOM - TOP)
        };
        let mut lines = vec![text("text name", left, TOP - 16.0, "start", self.title)];
        for tick in ticks {
            lines.push(line("edge", (left, y(tick)), (right, y(tick))));
            lines.push(text("faint", left - 8.0, y(tick) + 5.0, "end", &(self.label)(tick)));
        }
        lines.push(line("axis", (left, BOTTOM), (right, BOTTOM)));
        let x = |number| place(number, sizes, self.side);
        let mut free_from = 0.0;
        for &number in sizes {
            if x(number) >= free_from {
                lines.push(text("faint", x(number), BOTTOM + 22.0, "middle", &size(number)));
                free_from = x(number) + LABEL;
            }
        }
        for Series { class, values } in &self.series {
            for pair in values.windows(2) {
                if let [(from, low), (to, high)] = *pair {
                    lines.push(line(class, (x(from), y(low)), (x(to), y(high))));
                }
            }
            lines.extend(values.iter().map(|(number, value)| rect(class, x(*number) - 3.0, y(*value) - 3.0, 6.0, 6.0)));
        }
        lines
    }

    /// The ends of the scale, and the lines across.
    fn ticks(&self, least: f64, most: f64) -> (f64, f64, Vec<f64>) {
        if self.by_tens {
            let (low, high) = (least.max(1.0).log10().floor(), most.max(1.0).log10().ceil());
            let high = if high > low { high } else { low + 1.0 };
            let ticks = std::iter::successors(Some(low), |power| Some(power + 1.0)).take_while(|power| *power <= high);
            return (10_f64.powf(low), 10_f64.powf(high), ticks.map(|power| 10_f64.powf(power)).collect());
        }
        let rough = most.max(f64::MIN_POSITIVE) / TICKS;
        let ten = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0].into_iter().map(|part| part * ten).find(|step| *step >= rough).unwrap_or(10.0 * ten);
        let count = (most / step).ceil();
        let ticks = std::iter::successors(Some(0.0), |index| Some(index + 1.0)).take_while(|index| *index <= count);
        (0.0, count * step, ticks.map(|index| index * step).collect())
    }
}

/// Where a size stands: sizes by their tens, and few replicas one by one.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn place(number: u64, sizes: &[u64], (left, right): (f64, f64)) -> f64 {
    let (first, last) = (sizes.first().copied().unwrap_or(1), sizes.last().copied().unwrap_or(1));
    let scale = |number: u64| if last < 10 { number as f64 } else { (number.max(1) as f64).log10() };
    let span = scale(last) - scale(first);
    let part = if span > 0.0 { (scale(number) - scale(first)) / span } else { 0.5 };
    left + 14.0 + part * (right - left - 28.0)
}

/// `300 k`, `5 M`.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn size(number: u64) -> String {
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{} k", thousands(number as f64 / 1e3)),
        _ => format!("{} M", number as f64 / 1e6),
    }
}
