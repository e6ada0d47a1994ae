//! Which paths a source file names, exactly: read from its tokens, so that imports, code, attributes and the insides of
//! macros count alike, and comments and strings do not.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// A path that a source file names. Paths into the crate begin with `crate`, whether they were written with `crate`,
/// `self`, `super` or the crate's name; the others begin with the name of another crate, or of anything local.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// The segments; a glob is the segment `*`.
    pub(super) segments: Vec<String>,
    /// The line that it stands on, from 1.
    pub(super) line: usize,
}

/// The modules that a file is, from the crate's root: `src/domain/time.rs` is `["domain", "time"]`.
pub(super) fn module_of(file: &str) -> Vec<String> {
    let inside = file.strip_prefix("src/").unwrap_or(file);
    let inside = inside.strip_suffix(".rs").unwrap_or(inside);
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    if inside == "lib" {
        return Vec::new();
    }
    inside.split('/').map(str::to_owned).collect()
}

/// Every path of two segments or more, and every import, in `source`, which is the module `module` of the crate
/// `tollgate`.
///
/// # Errors
/// A sentence, when the text is no Rust.
pub(super) fn named(source: &str, module: &[String]) -> Result<Vec<Named>, String> {
    let stream: TokenStream = source.parse().map_err(|error| format!("cannot be read as Rust: {error}"))?;
    let mut reader = Reader { module: module.to_vec(), found: Vec::new(), ours: BTreeSet::new() };
    reader.read(stream);
    let Reader { mut found, ours, .. } = reader;
    // `redis::Store` after `use crate::stores::redis` is ours: the import was found, and is judged, by itself.
    found.retain(|named| named.segments.len() < 2 || !ours.contains(&named.segments[0]));
    Ok(found)
}

struct Reader {
    module: Vec<String>,
    found: Vec<Named>,
    /// Names that stand for modules of the crate: declared here, or imported.
    ours: BTreeSet<String>,
}

impl Reader {
    fn read(&mut self, stream: TokenStream) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = self.read_at(&tokens, at);
        }
    }

    /// Reads what begins at `at`, and says where the next thing begins.
    fn read_at(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        match &tokens[at] {
            TokenTree::Group(group) => {
                self.read(group.stream());
                at + 1
            }
            TokenTree::Ident(word) if word == "use" && is_import(tokens.get(at + 1)) => {
                let end = (at..tokens.len()).find(|&end| is_punct(tokens.get(end), ';')).unwrap_or(tokens.len());
                self.read_import(&tokens[at + 1..end], &[]);
                end
            }
            TokenTree::Ident(word) if word == "mod" => self.read_module(tokens, at),
            TokenTree::Ident(_) => self.read_path(tokens, at),
            // What follows `::` after a `>` goes on from a type, so it is no path of its own.
            TokenTree::Punct(punct) if punct.as_char() == '>' && is_separator(tokens, at + 1) => {
                past_path(tokens, at + 3)
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => at + 1,
        }
    }

    fn read_module(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let Some(TokenTree::Ident(name)) = tokens.get(at + 1) else { return at + 1 };
        self.ours.insert(name.to_string());
        let Some(TokenTree::Group(body)) = tokens.get(at + 2) else { return at + 2 };
        self.module.push(name.to_string());
        self.read(body.stream());
        self.module.pop();
        at + 3
    }

    fn read_path(&mut self, tokens: &[TokenTree], start: usize) -> usize {
        let end = past_path(tokens, start);
        let segments = words(&tokens[start..end]);
        if segments.len() > 1 {
            self.find(segments, &tokens[start]);
        }
        end
    }

    /// Reads what stands between `use` and its semicolon, or in its braces, below `prefix`.
    fn read_import(&mut self, tokens: &[TokenTree], prefix: &[String]) {
        for tree in tokens.split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')) {
            let Some(first) = tree.first() else { continue };
            let named = tree.iter().position(|token| matches!(token, TokenTree::Ident(word) if word == "as"));
            let mut path = prefix.to_vec();
            path.extend(words(&tree[..named.unwrap_or(tree.len())]));
            match tree.last() {
                Some(TokenTree::Group(braces)) if braces.delimiter() == Delimiter::Brace => {
                    let inside: Vec<TokenTree> = braces.stream().into_iter().collect();
                    self.read_import(&inside, &path);
                }
                Some(TokenTree::Punct(star)) if star.as_char() == '*' => {
                    path.push("*".to_owned());
                    self.find(path, first);
                }
                _ => {
                    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                        path.pop();
                    }
                    let name = tree.last().map(std::slice::from_ref).map(words).and_then(|mut name| name.pop());
                    let name = name.filter(|name| name != "self").or_else(|| path.last().cloned());
                    self.find(path, first);
                    let found = self.found.last().is_some_and(|named| named.segments[0] == "crate");
                    self.ours.extend(name.filter(|name| found && name != "crate"));
                }
            }
        }
    }

    fn find(&mut self, path: Vec<String>, at: &TokenTree) {
        let segments = self.rooted(path);
        self.found.push(Named { segments, line: at.span().start().line });
    }

    /// The path as seen from the crate's root, where it leads into the crate.
    fn rooted(&self, path: Vec<String>) -> Vec<String> {
        let supers = path.iter().skip_while(|segment| *segment == "self").take_while(|segment| *segment == "super");
        let supers = supers.count();
        let selves = usize::from(path.first().is_some_and(|first| first == "self"));
        let inside = match path.first().map(String::as_str) {
            Some("crate" | "tollgate") => &[][..],
            Some("self" | "super") => &self.module[..self.module.len().saturating_sub(supers)],
            _ => return path,
        };
        let written = path.iter().skip(if selves + supers == 0 { 1 } else { selves + supers });
        let root = "crate".to_owned();
        [&root].into_iter().chain(inside).chain(written).cloned().collect()
    }
}

/// `use` begins an import, unless it is the bound `use<…>`.
fn is_import(next: Option<&TokenTree>) -> bool {
    next.is_some() && !is_punct(next, '<')
}

fn is_punct(token: Option<&TokenTree>, expected: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == expected)
}

/// Whether `::` stands at `at`.
fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    let joined = matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.spacing() == Spacing::Joint);
    joined && is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':')
}

/// Where the path that begins at `start` has ended: words with `::` between them.
fn past_path(tokens: &[TokenTree], start: usize) -> usize {
    let mut end = start + 1;
    while is_separator(tokens, end) && matches!(tokens.get(end + 2), Some(TokenTree::Ident(_))) {
        end += 3;
    }
    end
}

fn words(tokens: &[TokenTree]) -> Vec<String> {
    let word = |token: &TokenTree| match token {
        TokenTree::Ident(word) => Some(word.to_string().trim_start_matches("r#").to_owned()),
        TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => None,
    };
    tokens.iter().filter_map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: &[&str]) {
        let found = named(source, &["domain".to_owned(), "time".to_owned()]).unwrap();
        let found: Vec<String> =
            found.iter().map(|named| format!("{}: {}", named.line, named.segments.join("::"))).collect();
        assert_eq!(found, expected, "{source}");
    }

    #[test]
    fn imports_are_taken_apart_whatever_their_braces() {
        check("use crate::{a, b::{c, d::*}};", &["1: crate::a", "1: crate::b::c", "1: crate::b::d::*"]);
        check(
            "use std::{\n  fmt::{self, Write as _},\n  io,\n};",
            &["2: std::fmt", "2: std::fmt::Write", "3: std::io"],
        );
        check("pub(crate) use ::tokio::net as network;", &["1: tokio::net"]);
        check("use redis;", &["1: redis"]);
        check("use tollgate::{self, api};", &["1: crate", "1: crate::api"]);
    }

    #[test]
    fn relative_paths_are_followed_from_their_module() {
        check("use super::window::Window;", &["1: crate::domain::window::Window"]);
        check("use self::super::super::stores::Memory;", &["1: crate::stores::Memory"]);
        check(
            "mod tests { use super::*; fn f() { super::super::g() } }",
            &["1: crate::domain::time::*", "1: crate::domain::g"],
        );
        check("mod tests { use self::inner::x; }", &["1: crate::domain::time::tests::inner::x"]);
        check("use super::super as top;", &["1: crate"]);
    }

    #[test]
    fn paths_count_in_code_types_attributes_and_macros() {
        check("fn f() -> crate::api::X { crate::api::y::<u8>(1) }", &["1: crate::api::X", "1: crate::api::y"]);
        check("#[tokio::test]\nasync fn f() {}", &["1: tokio::test"]);
        check("fn f() { log!(\"{}\", redis::cmd(\"GET\")) }", &["1: redis::cmd"]);
        check("macro_rules! m { () => { $crate::stores::get() } }", &["1: crate::stores::get"]);
        check("fn f() { ::redis::cmd(\"GET\") }", &["1: redis::cmd"]);
        check("type T = <u8 as std::str::FromStr>::Err;", &["1: std::str::FromStr"]);
    }

    #[test]
    fn a_module_of_ours_may_be_called_like_a_crate() {
        check("use crate::stores::redis; fn f() { redis::Store::new() }", &["1: crate::stores::redis"]);
        check("use crate::stores as redis; fn f() { redis::cmd() }", &["1: crate::stores"]);
        check("use crate::stores::redis::{self}; fn f() { redis::Store::new() }", &["1: crate::stores::redis"]);
        check("mod redis; pub use self::redis::Store;", &["1: crate::domain::time::redis::Store"]);
        check("use redis::cmd; fn f() { redis::cmd() }", &["1: redis::cmd", "1: redis::cmd"]);
    }

    #[test]
    fn comments_strings_members_and_bounds_are_no_paths() {
        check("//! crate::api\n/// [`crate::stores`]\nfn f() { \"redis::cmd\"; self.redis.get() }", &[]);
        check("fn f<'a>(x: &'a u8) -> impl Sized + use<'a> { x.collect::<u8>() }", &[]);
    }

    #[test]
    fn a_file_is_a_module() {
        assert_eq!(module_of("src/domain/time.rs"), ["domain", "time"]);
        assert_eq!(module_of("src/api/native/mod.rs"), ["api", "native"]);
        assert_eq!(module_of("src/telemetry.rs"), ["telemetry"]);
        assert!(module_of("src/lib.rs").is_empty());
    }
}
