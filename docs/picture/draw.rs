//! The picture of docs/quotas.md.

use std::fmt::Write as _;

use tollgate::domain::time::Micros;

use super::play::{Admitted, FIRST_EDGE, LAST_EDGE, UNITS, WINDOW, Way};
use super::svg::{self, line, rect, text};

const WIDTH: f64 = 800.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 620.0;

/// The top of the first plot, the height of each, and the way from one to the next.
const TOP: f64 = 152.0;
const HEIGHT: f64 = 92.0;
const PITCH: f64 = 138.0;

/// The plots begin a little before anything happens.
const FROM: f64 = 0.6;

/// As many limits as the plots are high.
const LIMITS_HIGH: f64 = 2.1;

const NAMES: [(&str, &str); 4] = [
    ("Fixed window", "counts from edge to edge"),
    ("Two buckets", "the window before, weighted, and this one"),
    ("Token bucket (GCRA)", "burst 100, rate 100 a window"),
    ("Sliding window of Tollgate", "32 sub-windows, the oldest counted whole"),
];

/// All of it.
pub(crate) fn picture() -> String {
    let played = Way::all().map(Way::asked_by_the_adversary);
    let height = TOP + 3.0 * PITCH + HEIGHT + 60.0;
    let mut lines = vec![text(
        "faint",
        20.0,
        58.0,
        "start",
        "Silent at first; just before an edge it takes all that it gets, and from then on asks 20 times a window.",
    )];
    lines.extend(legend(88.0));
    for (index, (admitted, name)) in played.iter().zip(NAMES).enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "one of four")]
        lines.extend(plot(TOP + PITCH * index as f64, name, admitted));
    }
    let bottom = TOP + 3.0 * PITCH + HEIGHT;
    for edge in FIRST_EDGE..=LAST_EDGE {
        lines.push(text("faint", x(WINDOW.0 * edge), bottom + 20.0, "middle", &edge.to_string()));
    }
    lines.push(text(
        "faint",
        f64::midpoint(LEFT, RIGHT),
        bottom + 42.0,
        "middle",
        "time in windows; those of the clock begin at the whole numbers",
    ));
    let title = "What one adversary gets out of a limit of 100 units a window";
    svg::picture(WIDTH, height, title, &described(&played), lines)
}

/// The same for those who do not see it.
fn described(played: &[Admitted]) -> String {
    let most = |(name, _): (&str, &str), admitted: &Admitted| format!("{name}: {}", admitted.most());
    let all: Vec<String> = NAMES.into_iter().zip(played).map(|(name, admitted)| most(name, admitted)).collect();
    format!(
        "Four plots over the same time. Each shows what was admitted, and how much of it in the window before. \
         The most units in any one window, where the limit is {UNITS}: {}.",
        all.join("; ")
    )
}

fn legend(y: f64) -> Vec<String> {
    vec![
        rect("bar", 20.0, y - 12.0, 4.0, 14.0),
        text("text", 32.0, y, "start", "admitted at that moment"),
        rect("within", 224.0, y - 12.0, 18.0, 14.0),
        text("text", 248.0, y, "start", "in the window up to it"),
        rect("over", 428.0, y - 12.0, 18.0, 14.0),
        text("text", 452.0, y, "start", "of that, over the limit"),
        line("limit", (640.0, y - 5.0), (672.0, y - 5.0)),
        text("text", 680.0, y, "start", "the limit"),
    ]
}

/// One way to count, with its name above and the most that it admitted beside it.
fn plot(top: f64, (name, how): (&str, &str), admitted: &Admitted) -> Vec<String> {
    let bottom = top + HEIGHT;
    let y = |units: u64| units_at(bottom, units);
    let mut lines = vec![format!(
        r#"  <text x="{LEFT:.1}" y="{:.1}"><tspan class="text name">{name}</tspan><tspan class="faint">, {how}</tspan></text>"#,
        top - 10.0
    )];
    for edge in FIRST_EDGE..=LAST_EDGE {
        lines.push(line("edge", (x(WINDOW.0 * edge), top), (x(WINDOW.0 * edge), bottom)));
    }
    let area = area(bottom, &admitted.in_the_window_before(), 0, UNITS);
    lines.push(format!(r#"  <path class="within" d="{area}"/>"#));
    if admitted.most() > UNITS {
        let over = self::area(bottom, &admitted.in_the_window_before(), UNITS, u64::MAX);
        lines.push(format!(r#"  <path class="over" d="{over}"/>"#));
    }
    for &(at, units) in &admitted.0 {
        lines.push(rect("bar", x(at.0) - 2.0, y(units), 4.0, bottom - y(units)));
    }
    lines.push(line("limit", (LEFT, y(UNITS)), (RIGHT, y(UNITS))));
    lines.push(line("axis", (LEFT, bottom), (RIGHT, bottom)));
    for units in [0, UNITS, 2 * UNITS] {
        lines.push(text("faint", LEFT - 8.0, y(units) + 5.0, "end", &units.to_string()));
    }
    lines.push(text("faint", LEFT - 8.0, top - 10.0, "end", "units"));
    let verdict = if admitted.most() > UNITS { "broken" } else { "kept" };
    lines.push(text(&format!("most {verdict}"), RIGHT + 24.0, top + 42.0, "start", &admitted.most().to_string()));
    lines.push(text("faint", RIGHT + 24.0, top + 64.0, "start", "units at most in"));
    lines.push(text("faint", RIGHT + 24.0, top + 82.0, "start", "any one window"));
    lines
}

/// What lies between two heights, of steps.
fn area(bottom: f64, steps: &[(Micros, u64)], low: u64, high: u64) -> String {
    let y = |units: u64| units_at(bottom, units.clamp(low, high));
    let mut path = format!("M{LEFT} {:.1}", y(0));
    for &(at, units) in steps.iter().filter(|(at, _)| x(at.0) <= RIGHT) {
        // Writing to a `String` cannot fail.
        let _ = write!(path, "H{:.1}V{:.1}", x(at.0), y(units));
    }
    let _ = write!(path, "H{RIGHT}V{:.1}Z", y(0));
    path
}

#[expect(clippy::cast_precision_loss, reason = "some minutes in microseconds")]
fn x(micros: u64) -> f64 {
    let windows = micros as f64 / WINDOW.0 as f64;
    LEFT + (RIGHT - LEFT) * (windows - FROM) / (LAST_EDGE as f64 - FROM)
}

#[expect(clippy::cast_precision_loss, reason = "some hundred units")]
fn units_at(bottom: f64, units: u64) -> f64 {
    bottom - HEIGHT * units as f64 / (LIMITS_HIGH * UNITS as f64)
}
