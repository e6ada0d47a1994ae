//! The picture of docs/quotas.md is what the algorithms do now, and says what it is there to say.

#[path = "../docs/picture/draw.rs"]
mod draw;
#[path = "../docs/picture/play.rs"]
mod play;
#[path = "../docs/picture/svg.rs"]
mod svg;

use self::play::{Admitted, UNITS, Way};
use crate::support::root;

const FILE: &str = "docs/quotas.svg";

#[test]
fn the_picture_is_as_it_would_be_drawn_now() {
    let kept = std::fs::read_to_string(root().join(FILE)).unwrap_or_default();
    let drawn = draw::picture();
    let differs = kept.lines().zip(drawn.lines()).find(|(kept, drawn)| kept != drawn);
    assert!(kept == drawn, "{FILE} is stale: cargo run --example picture > {FILE}\n{differs:?}");
}

#[test]
fn the_adversary_gets_nearly_twice_the_limit_from_all_but_the_sliding_window() {
    let [fixed, buckets, gcra, sliding] = Way::all().map(|way| way.asked_by_the_adversary().most());
    assert_eq!(fixed, 2 * UNITS);
    assert!((UNITS * 19 / 10..2 * UNITS).contains(&buckets), "{buckets}");
    assert!((UNITS * 19 / 10..2 * UNITS).contains(&gcra), "{gcra}");
    assert_eq!(sliding, UNITS, "all of the limit, and not a unit more");
}

#[test]
fn the_most_in_any_window_is_counted_over_half_open_intervals() {
    use tollgate::domain::time::Micros;
    let a_window_later = Micros(5) + play::WINDOW;
    let apart = Admitted(vec![(Micros(5), 3), (a_window_later, 4)]);
    assert_eq!((apart.most(), apart.in_the_window_before()[1]), (4, (a_window_later, 4)));
    assert_eq!(Admitted(vec![(Micros(5), 3), (a_window_later - Micros(1), 4)]).most(), 7);
}
