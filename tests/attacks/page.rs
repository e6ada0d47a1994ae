//! docs/threats.md, made of the list.

use std::fmt::Write as _;
use std::fs;

use super::catalogue::{self, Attack, Section};
use crate::support::root;

/// The remark below which the page is made.
const REMARK: &str = "<!-- From here on the page is made of the list; a test holds it to that. -->\n";

/// Whether a file and a function in it are a test.
pub(super) fn is_test(named: &str) -> bool {
    let Some((file, function)) = named.split_once(' ') else { return false };
    let Ok(text) = fs::read_to_string(root().join(file)) else { return false };
    let Some(at) = text.find(&format!("fn {function}(")) else { return false };
    // Attributes stand right above; properties are in a macro, with theirs.
    text[..at].lines().rev().take(4).any(|line| line.contains("test]"))
}

/// The tables.
fn tables(sections: &[Section]) -> String {
    let mut page = String::new();
    for section in sections {
        let written = write!(
            page,
            "\n## {}\n\nThe tries are in `tests/attacks/{}`.\n\n\
             | # | attack | what Tollgate does | shown by |\n| --- | --- | --- | --- |\n",
            section.title, section.file
        );
        written.expect("a text takes everything");
        for attack in &section.attacks {
            let row = [&attack.id.to_string(), &attack.aim, &attack.answer, &shown_by(attack)];
            let row: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            writeln!(page, "| {} |", row.join(" | ")).expect("a text takes everything");
        }
    }
    page
}

fn shown_by(attack: &Attack) -> String {
    let mut shown = Vec::new();
    match attack.tries().len() {
        0 => {}
        1 => shown.push("1 try".to_owned()),
        tries => shown.push(format!("{tries} tries")),
    }
    match attack.refused.len() {
        0 => {}
        1 => shown.push("1 configuration".to_owned()),
        refused => shown.push(format!("{refused} configurations")),
    }
    let tests = attack.shown.iter().filter_map(|test| test.split_once(' '));
    shown.extend(tests.map(|(file, function)| format!("`{file}`: {function}")));
    shown.extend(attack.not_yet.iter().map(|why| format!("**not yet**: {why}")));
    shown.join("; ")
}

#[test]
fn the_page_of_threats_is_the_list() {
    let page = fs::read_to_string(root().join("docs/threats.md")).expect("the page is there");
    let (head, below) = page.split_once(REMARK).expect("the page has the remark");
    let expected = tables(&catalogue::read());
    if below != expected {
        let made = root().join("target/threats.md");
        fs::write(&made, format!("{head}{REMARK}{expected}")).expect("target is there");
        panic!("docs/threats.md is not what the list makes of it; compare it with target/threats.md");
    }
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    assert!(is_test("tests/attacks/page.rs the_page_of_threats_is_the_list"));
    assert!(!is_test("tests/attacks/page.rs the_page"));
    assert!(!is_test("tests/attacks/page.rs shown_by"));
    assert!(!is_test("tests/attacks/nowhere.rs the_page_of_threats_is_the_list"));
}
