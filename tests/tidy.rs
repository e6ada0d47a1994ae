//! What holds for the repository as a whole, and would otherwise be forgotten: the arrows between the modules, the map
//! of them, and the form of the files. Each check is shown to fail below, or beside its code.

mod arrows;
mod paths;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::root;

/// Longer files hold a second noun.
const SOURCE_LINES_MAX: usize = 700;

/// A map that takes longer to read than this is none.
const MAP_LINES_MAX: usize = 199;

/// Marks of what is not finished. Written in two parts, lest this file be one of them.
const UNFINISHED: [&str; 6] = [
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("db", "g!("),
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// Folders of one machine or another, which mean nothing on the next one.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];

/// A text file of the repository.
#[derive(Clone, Debug)]
struct Source {
    /// Its path from the root, with `/`.
    file: String,
    text: String,
}

impl Source {
    fn is(&self, extension: &str) -> bool {
        Path::new(&self.file).extension().is_some_and(|found| found == extension)
    }
}

/// Every text file that is tracked, or new and not ignored.
fn tracked() -> Vec<Source> {
    let listed = Command::new("git")
        .current_dir(root())
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .expect("git lists the files");
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).expect("file names are text");
    let files: BTreeSet<&str> = listed.split_terminator('\0').collect();
    // A file that is deleted is listed until that is committed; one that is no UTF-8 is no text.
    let read = |file: &str| Some(Source { file: file.to_owned(), text: fs::read_to_string(root().join(file)).ok()? });
    files.into_iter().filter_map(read).collect()
}

fn rust() -> Vec<Source> {
    let sources: Vec<Source> = tracked().into_iter().filter(|source| source.is("rs")).collect();
    assert!(sources.iter().any(|source| source.file == "src/lib.rs"), "the sources were not found");
    sources
}

fn text_of(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// The names of the crates in a `Cargo.toml`, as Rust writes them.
fn dependencies(cargo_toml: &str) -> BTreeSet<String> {
    let mut within = false;
    let mut names = BTreeSet::new();
    for line in cargo_toml.lines() {
        if let Some(section) = line.strip_prefix('[') {
            within = section.trim_end_matches(']').ends_with("dependencies");
        } else if let Some((name, _)) = line.split_once(['=', '.']).filter(|_| within && !line.starts_with('#')) {
            names.insert(name.trim().replace('-', "_"));
        }
    }
    names
}

/// Modules at the top of `src/` that the map does not name.
fn unmapped(files: &[Source], map: &str) -> Vec<String> {
    let within = files.iter().filter_map(|source| source.file.strip_prefix("src/"));
    let modules: BTreeSet<String> =
        within.map(|file| file.split_once('/').map_or(file.to_owned(), |(folder, _)| format!("{folder}/"))).collect();
    let names = |word: &String| map.split(|c: char| c.is_whitespace() || c == '`').any(|named| named == word);
    let unnamed = modules.into_iter().filter(|module| !names(module));
    unnamed.map(|module| format!("ARCHITECTURE.md: does not name src/{module}")).collect()
}

/// Files named in a document that are not there: paths in backquotes that begin with a folder of the repository, or with
/// one of `src/`.
fn gone(document: &Source, files: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, line) in document.text.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2) {
            let plain = quoted.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
            let Some((folder, _)) = quoted.split_once('/').filter(|_| plain) else { continue };
            let begins = |start: &str| files.iter().any(|source| source.file.starts_with(start));
            let named = ["", "src/"].into_iter().find(|above| begins(&format!("{above}{folder}/")));
            let Some(path) = named.map(|above| format!("{above}{}", quoted.trim_end_matches('/'))) else { continue };
            if !begins(&format!("{path}/")) && !files.iter().any(|source| source.file == path) {
                problems.push(format!("{}:{}: names `{quoted}`, which is not there", document.file, index + 1));
            }
        }
    }
    problems
}

/// What is wrong with the form of a Rust source.
fn misshapen(source: &Source) -> Vec<String> {
    let Source { file, text } = source;
    let mut problems = Vec::new();
    if !text.starts_with("//!") {
        problems.push(format!("{file}:1: must begin with `//!` and what the file is for"));
    }
    let lines = text.lines().count();
    if lines > SOURCE_LINES_MAX {
        problems.push(format!("{file}:{lines}: is longer than {SOURCE_LINES_MAX} lines; split it by noun"));
    }
    problems
}

/// Lines that contain one of `words`, which they must not.
fn containing(source: &Source, words: &[&str], because: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        let found = words.iter().filter(|word| line.contains(**word));
        problems.extend(found.map(|word| format!("{}:{}: `{word}` {because}", source.file, index + 1)));
    }
    problems
}

/// Rust files below `folder` that no module declares, so that nothing compiles them.
fn undeclared(sources: &[Source], folder: &str, roots: &[&str]) -> Vec<String> {
    let mut problems = Vec::new();
    for Source { file, .. } in sources {
        let Some(inside) = file.strip_prefix(folder).and_then(|inside| inside.strip_suffix(".rs")) else { continue };
        if roots.contains(&inside) {
            continue;
        }
        let inside = inside.strip_suffix("/mod").unwrap_or(inside);
        let (parents, name) = match inside.rsplit_once('/') {
            Some((parent, name)) => (vec![format!("{folder}{parent}.rs"), format!("{folder}{parent}/mod.rs")], name),
            None => (roots.iter().map(|root| format!("{folder}{root}.rs")).collect(), inside),
        };
        let names_it = |line: &str| line.ends_with(&format!("mod {name};"));
        let declared = |source: &Source| parents.contains(&source.file) && source.text.lines().any(names_it);
        // A module may also be brought in by the path of its file, from wherever.
        let brings = |line: &str| line.starts_with("#[path = \"") && line.ends_with(&format!("/{file}\"]"));
        if !sources.iter().any(|source| declared(source) || source.text.lines().any(brings)) {
            problems.push(format!("{file}:1: is compiled by nobody: no `mod {name};` in {}", parents.join(" or ")));
        }
    }
    problems
}

#[test]
fn the_arrows_hold() {
    let dependencies = dependencies(&text_of("Cargo.toml"));
    assert!(dependencies.contains("tokio") && dependencies.contains("proc_macro2"), "{dependencies:?}");
    assert_none(&arrows::broken(&rust(), &dependencies));
}

#[test]
fn the_map_names_every_module_and_stays_short() {
    let map = text_of("ARCHITECTURE.md");
    assert_none(&unmapped(&rust(), &map));
    let lines = map.lines().count();
    assert!(lines <= MAP_LINES_MAX, "ARCHITECTURE.md has {lines} lines, {MAP_LINES_MAX} is the most");
}

#[test]
fn documents_name_only_files_that_are_there() {
    let files = tracked();
    let documents = files.iter().filter(|source| source.is("md"));
    assert_none(&documents.flat_map(|document| gone(document, &files)).collect::<Vec<_>>());
}

#[test]
fn every_source_says_what_it_is_for_and_is_of_a_readable_length() {
    assert_none(&rust().iter().flat_map(misshapen).collect::<Vec<_>>());
}

#[test]
fn nothing_is_left_unfinished() {
    let problems = rust().into_iter().flat_map(|source| containing(&source, &UNFINISHED, "marks what is not finished"));
    assert_none(&problems.collect::<Vec<_>>());
}

#[test]
fn no_file_names_a_folder_of_one_machine() {
    let problems =
        tracked().into_iter().flat_map(|source| containing(&source, &MACHINE_PATHS, "is a folder of one machine"));
    assert_none(&problems.collect::<Vec<_>>());
}

#[test]
fn lock_files_name_no_registry_but_that_of_crates() {
    let lock = tracked().into_iter().find(|source| source.file == "tests/oidc/package-lock.json").expect("it is kept");
    assert_none(&containing(&lock, &["\"resolved\"", "http://"], "names where a package came from"));
}

#[test]
fn every_source_is_compiled() {
    let sources = rust();
    let mut problems = undeclared(&sources, "src/", &["lib", "main"]);
    problems.extend(undeclared(&sources, "tests/", &["main"]));
    assert_none(&problems);
}

#[test]
fn there_is_one_build() {
    let cargo_toml = Source { file: "Cargo.toml".to_owned(), text: text_of("Cargo.toml") };
    assert_none(&containing(&cargo_toml, &["[features]", "= \"*\"", "git = "], "makes more than one build of it"));
}

mod shown_to_fail {
    //! Each check on sources that were made up to break it.

    use super::*;

    fn source(file: &str, text: &str) -> Source {
        Source { file: file.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_module_that_the_map_forgot_is_found() {
        let files = [source("src/domain/mod.rs", ""), source("src/audit/mod.rs", ""), source("src/x.rs", "")];
        let map = "  domain/   values in, values out\n  audited/  something else\n";
        assert_eq!(
            unmapped(&files, map),
            ["ARCHITECTURE.md: does not name src/audit/", "ARCHITECTURE.md: does not name src/x.rs"]
        );
    }

    #[test]
    fn a_document_that_names_what_is_gone_is_found() {
        let files = [source("src/domain/mod.rs", "")];
        let document = source(
            "docs/x.md",
            "see `src/domain/mod.rs`, `domain/`\nand `src/gone.rs`, `domain/gone.rs`, `application/json`",
        );
        assert_eq!(
            gone(&document, &files),
            [
                "docs/x.md:2: names `src/gone.rs`, which is not there",
                "docs/x.md:2: names `domain/gone.rs`, which is not there",
            ]
        );
    }

    #[test]
    fn a_source_without_a_purpose_or_without_an_end_is_found() {
        assert_eq!(
            misshapen(&source("src/x.rs", "use x;")),
            ["src/x.rs:1: must begin with `//!` and what the file is for"]
        );
        let long = format!("//! Long.{}", "\n//".repeat(SOURCE_LINES_MAX));
        assert_eq!(misshapen(&source("src/x.rs", &long)), ["src/x.rs:701: is longer than 700 lines; split it by noun"]);
        assert!(misshapen(&source("src/x.rs", &long[..long.len() - 3])).is_empty());
    }

    #[test]
    fn words_that_must_not_be_there_are_found() {
        for word in UNFINISHED.iter().chain(&MACHINE_PATHS) {
            let found = containing(&source("src/x.rs", &format!("//! x\nfn f() {{ {word} }}")), &[word], "is wrong");
            assert_eq!(found, [format!("src/x.rs:2: `{word}` is wrong")]);
        }
        assert!(containing(&source("src/x.rs", "//! It is done."), &UNFINISHED, "is wrong").is_empty());
    }

    #[test]
    fn a_source_that_nobody_compiles_is_found() {
        let files = [
            source("tests/main.rs", "mod a;\n#[cfg(test)]\npub(crate) mod b;\n// mod d;x"),
            source("tests/a.rs", "mod c;"),
            source("tests/a/c.rs", ""),
            source("tests/b/mod.rs", ""),
            source("tests/d.rs", ""),
            source("tests/a/e.rs", ""),
            source("tests/f.rs", ""),
            source("src/g.rs", "#[path = \"../tests/f.rs\"]\nmod f;"),
        ];
        assert_eq!(
            undeclared(&files, "tests/", &["main"]),
            [
                "tests/d.rs:1: is compiled by nobody: no `mod d;` in tests/main.rs",
                "tests/a/e.rs:1: is compiled by nobody: no `mod e;` in tests/a.rs or tests/a/mod.rs",
            ]
        );
    }

    #[test]
    fn dependencies_are_read_from_their_sections_only() {
        let text = "[package]\nname = \"x\"\n[dependencies]\n# a = 1\ntokio-util = \"1\"\nserde.workspace = true\n[lints.rust]\nunsafe_code = \"forbid\"\n[dev-dependencies]\nproptest = { version = \"1\" }\n";
        assert_eq!(dependencies(text).into_iter().collect::<Vec<_>>(), ["proptest", "serde", "tokio_util"]);
    }
}
