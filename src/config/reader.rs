//! Reads the tree strictly and collects every problem on the way.
//!
//! Each reading answers `None` where it reported a problem, and the caller goes on with the rest: all problems are
//! found in one pass. A configuration is made of what was read only where no error was reported.

use std::fs::File;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::problem::{PROBLEMS_MAX, Position, Problem, Problems, Severity, nearest, shown};
use super::yaml::{self, Entry, Flaw, Node, PlainKind, Scalar, Value};

/// The longest list: comparing its values with each other stays quick.
const ITEMS_MAX: usize = 10_000;

/// What YAML 1.1 takes for true.
const TRUE: [&str; 11] = ["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"];

/// What YAML 1.1 takes for false.
const FALSE: [&str; 11] = ["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"];

/// Answers what an environment variable holds.
pub(super) type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// What reading needs, and what it found.
pub(super) struct Reader<'e> {
    file: String,
    /// What relative paths start from.
    base: PathBuf,
    environment: Environment<'e>,
    problems: Vec<Problem>,
    omitted: usize,
    failed: bool,
    /// Files, and folders, that the configuration refers to.
    files: Vec<PathBuf>,
    /// The keys that were asked for, by section, and whether they are required: what the schema is held to.
    #[cfg(test)]
    pub(super) known: std::collections::BTreeMap<&'static str, std::collections::BTreeMap<&'static str, bool>>,
}

/// A value and the way to it.
#[derive(Clone)]
pub(super) struct Item<'n> {
    node: &'n Node,
    at: Position,
    path: String,
}

/// The values of a mapping that has a closed set of keys.
pub(super) struct Fields<'n> {
    item: Item<'n>,
    entries: &'n [Entry],
    section: &'static str,
    known: Vec<&'static str>,
}

impl<'e> Reader<'e> {
    pub(super) fn new(path: &Path, environment: Environment<'e>) -> Self {
        let base = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Self {
            file: path.display().to_string(),
            base,
            environment,
            problems: Vec::new(),
            omitted: 0,
            failed: false,
            files: Vec::new(),
            #[cfg(test)]
            known: std::collections::BTreeMap::new(),
        }
    }

    /// What was read, with the warnings and the files that it depends on; or every problem.
    pub(super) fn end<T>(mut self, read: Option<T>) -> Result<(T, Vec<Problem>, Vec<PathBuf>), Problems> {
        // Stable: problems of one place stay in the order in which they were found, and files in the order of their names
        // behind the configuration's own.
        let place = |problem: &Problem| (problem.file != self.file).then(|| problem.file.clone());
        self.problems.sort_by_cached_key(|problem| (place(problem), problem.position));
        self.files.sort();
        self.files.dedup();
        match read {
            Some(read) if !self.failed => Ok((read, self.problems, self.files)),
            _ => Err(Problems { listed: self.problems, omitted: self.omitted, files: self.files }),
        }
    }

    /// Whether an error was reported.
    pub(super) const fn failed(&self) -> bool {
        self.failed
    }

    /// Reports an error at `item`.
    pub(super) fn error(&mut self, item: &Item<'_>, message: impl Into<String>) {
        self.report(Severity::Error, Some(item.at), item.path.clone(), message.into());
    }

    /// Reports a warning at `item`.
    pub(super) fn warning(&mut self, item: &Item<'_>, message: impl Into<String>) {
        self.report(Severity::Warning, Some(item.at), item.path.clone(), message.into());
    }

    /// Reports that there is no tree.
    pub(super) fn flaw(&mut self, flaw: Flaw) {
        self.report(Severity::Error, flaw.at, String::new(), flaw.message);
    }

    fn report(&mut self, severity: Severity, position: Option<Position>, key: String, message: String) {
        self.failed |= severity == Severity::Error;
        if self.problems.len() == PROBLEMS_MAX {
            self.omitted += 1;
            // No crowd of warnings hides an error.
            let warning = self.problems.iter().rposition(|problem| problem.severity == Severity::Warning);
            match warning {
                Some(index) if severity == Severity::Error => drop(self.problems.swap_remove(index)),
                _ => return,
            }
        }
        self.problems.push(Problem { severity, file: self.file.clone(), position, key, message });
    }

    /// Reports that `item` is not what it must be.
    fn wrong(&mut self, item: &Item<'_>, must: &str) {
        let found = match &item.node.value {
            Value::List(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
            Value::Scalar(scalar) if scalar.kind() == PlainKind::Nothing => "nothing".to_owned(),
            Value::Scalar(scalar) => shown(&scalar.text),
        };
        self.error(item, format!("{must}; found {found}"));
    }

    /// The mapping at `item`, whose keys are those that are asked for until [`Fields::finish`].
    pub(super) fn fields<'n>(&mut self, item: &Item<'n>, section: &'static str) -> Option<Fields<'n>> {
        let Value::Mapping(entries) = &item.node.value else {
            self.wrong(item, "must be a mapping (`key: value`)");
            return None;
        };
        self.refuse_repeated(item, entries);
        Some(Fields { item: item.clone(), entries, section, known: Vec::new() })
    }

    /// The names and values of a mapping whose keys the operator chooses.
    pub(super) fn named<'n>(&mut self, item: &Item<'n>) -> Option<Vec<(Item<'n>, &'n str, Item<'n>)>> {
        let Value::Mapping(entries) = &item.node.value else {
            self.wrong(item, "must be a mapping from names to what they mean");
            return None;
        };
        self.refuse_repeated(item, entries);
        let mut seen = std::collections::HashSet::new();
        let first = entries.iter().filter(|entry| seen.insert(entry.key.as_str()));
        Some(first.map(|entry| (item.at_key(entry), entry.key.as_str(), item.below(entry))).collect())
    }

    fn refuse_repeated(&mut self, item: &Item<'_>, entries: &[Entry]) {
        for (entry, first) in yaml::repeated(entries) {
            let message = format!("is there already, in line {}; keep one of them", first.line);
            self.report(Severity::Error, Some(entry.at), item.below(entry).path, message);
        }
    }

    /// The items of a list.
    pub(super) fn items<'n>(&mut self, item: &Item<'n>) -> Option<Vec<Item<'n>>> {
        let Value::List(nodes) = &item.node.value else {
            self.wrong(item, "must be a list (`[a, b]`)");
            return None;
        };
        if nodes.len() > ITEMS_MAX {
            self.error(item, format!("has more than {ITEMS_MAX} entries; make it shorter"));
            return None;
        }
        let below =
            |(index, node): (usize, &'n Node)| Item { node, at: node.at, path: format!("{}[{index}]", item.path) };
        Some(nodes.iter().enumerate().map(below).collect())
    }

    /// A list of distinct values, each read by `read`. Those that cannot be read are reported and left out.
    pub(super) fn list<T: PartialEq>(
        &mut self,
        item: &Item<'_>,
        mut read: impl FnMut(&mut Self, &Item<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut values = Vec::new();
        for item in self.items(item)? {
            match read(self, &item) {
                Some(value) if values.contains(&value) => self.wrong(&item, "is in the list already; remove it"),
                Some(value) => values.push(value),
                None => {}
            }
        }
        Some(values)
    }

    /// Like [`Reader::list`], with at least one value.
    pub(super) fn some<T: PartialEq>(
        &mut self,
        item: &Item<'_>,
        read: impl FnMut(&mut Self, &Item<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        if matches!(&item.node.value, Value::List(nodes) if nodes.is_empty()) {
            self.error(item, "is empty; name at least one, or leave the key out where it has a default");
            return None;
        }
        self.list(item, read)
    }

    /// Like [`Reader::list`], with at most `most` values.
    pub(super) fn few<T: PartialEq>(
        &mut self,
        item: &Item<'_>,
        most: usize,
        read: impl FnMut(&mut Self, &Item<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        if matches!(&item.node.value, Value::List(nodes) if nodes.len() > most) {
            self.error(item, format!("has more than {most} entries; make it shorter"));
            return None;
        }
        self.list(item, read)
    }

    /// A string that `parse` turns into a value; its error is what the string must be. The environment's part in it is
    /// put in before.
    pub(super) fn parse<T>(&mut self, item: &Item<'_>, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let Value::Scalar(scalar) = &item.node.value else {
            self.wrong(item, "must be a string");
            return None;
        };
        let must = match scalar.kind() {
            PlainKind::Text => {
                let text = self.refer(item, scalar)?;
                match parse(&text) {
                    Ok(value) => return Some(value),
                    Err(must) => must,
                }
            }
            PlainKind::Nothing => "must be a string; give it a value or remove the key".to_owned(),
            PlainKind::Boolean | PlainKind::Number => match parse(&scalar.text) {
                Ok(_) => "must be a string; YAML takes this for another kind of value, so put it in quotes".to_owned(),
                Err(must) => must,
            },
        };
        self.wrong(item, &must);
        None
    }

    /// Like [`Reader::parse`], of a value that no message may show.
    pub(super) fn parse_secret<T>(
        &mut self,
        item: &Item<'_>,
        parse: impl FnOnce(String) -> Result<T, String>,
    ) -> Option<T> {
        let text = match &item.node.value {
            Value::Mapping(_) => self.secret_file(item)?,
            Value::Scalar(scalar) if scalar.kind() == PlainKind::Text => self.refer(item, scalar)?,
            Value::Scalar(_) | Value::List(_) => {
                self.error(item, "must be a string in quotes, a reference such as `${NAME}`, or `{ file: path }`");
                return None;
            }
        };
        parse(text).map_err(|must| self.error(item, must)).ok()
    }

    /// A whole number within `range`: in digits only, without quotes; or from the environment.
    pub(super) fn whole(&mut self, item: &Item<'_>, range: RangeInclusive<u64>) -> Option<u64> {
        let must = format!("must be a whole number from {} to {}", range.start(), range.end());
        let text = match &item.node.value {
            Value::Scalar(scalar) if scalar.kind() == PlainKind::Number => scalar.text.clone(),
            Value::Scalar(scalar) if scalar.text.contains("${") => self.refer(item, scalar)?,
            Value::Scalar(scalar) if !scalar.plain && is_digits(&scalar.text) => {
                self.wrong(item, &format!("{must}, without quotes"));
                return None;
            }
            _ => {
                self.wrong(item, &must);
                return None;
            }
        };
        // Which not all who read YAML take for the same number.
        let leads_with_zero = text.len() > 1 && text.starts_with('0');
        let number = (is_digits(&text) && !leads_with_zero).then(|| text.parse().ok()).flatten();
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let remedy = match (is_digits(&text), leads_with_zero) {
                (false, _) => ", in digits only",
                (true, true) => ", without leading zeros",
                (true, false) => "",
            };
            self.wrong(item, &format!("{must}{remedy}"));
        }
        number
    }

    /// Text as it stands, for `parse`: what YAML takes for a whole number, or for true and false, is text as well, and
    /// nothing in it refers to the environment. So read files that were written for other readers, which refuse numbers
    /// with a fraction all the same.
    pub(super) fn parse_verbatim<T>(
        &mut self,
        item: &Item<'_>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let Value::Scalar(scalar) = &item.node.value else {
            self.wrong(item, "must be a string");
            return None;
        };
        let kind = scalar.kind();
        if kind == PlainKind::Number && !is_whole(&scalar.text) {
            self.wrong(item, "must be a string; YAML takes this for a number with a fraction, so put it in quotes");
            return None;
        }
        let text = if kind == PlainKind::Nothing { "" } else { &scalar.text };
        parse(text).map_err(|must| self.wrong(item, &must)).ok()
    }

    /// True or false, in all words that YAML 1.1 has for them: for files that were written for other readers.
    pub(super) fn old_flag(&mut self, item: &Item<'_>) -> Option<bool> {
        match &item.node.value {
            Value::Scalar(Scalar { text, plain: true }) if TRUE.contains(&text.as_str()) => Some(true),
            Value::Scalar(Scalar { text, plain: true }) if FALSE.contains(&text.as_str()) => Some(false),
            _ => self.flag(item),
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, item: &Item<'_>) -> Option<bool> {
        match &item.node.value {
            Value::Scalar(Scalar { text, plain: true }) if text == "true" => Some(true),
            Value::Scalar(Scalar { text, plain: true }) if text == "false" => Some(false),
            _ => {
                self.wrong(item, "must be true or false");
                None
            }
        }
    }

    /// Any value, as JSON: plain scalars as YAML's core schema takes them.
    pub(super) fn json(&mut self, item: &Item<'_>) -> Option<Json> {
        match &item.node.value {
            Value::List(_) => {
                let values = self.items(item)?.iter().map(|item| self.json(item)).collect::<Option<_>>();
                values.map(Json::Array)
            }
            Value::Mapping(_) => {
                let mut object = serde_json::Map::new();
                for (_, name, item) in self.named(item)? {
                    object.insert(name.to_owned(), self.json(&item)?);
                }
                Some(Json::Object(object))
            }
            Value::Scalar(scalar) => match scalar.kind() {
                PlainKind::Nothing => Some(Json::Null),
                PlainKind::Boolean => self.flag(item).map(Json::Bool),
                PlainKind::Number => {
                    let number = serde_json::from_str(&scalar.text).ok().map(Json::Number);
                    if number.is_none() {
                        self.wrong(item, "must be a number as in JSON, or a string in quotes");
                    }
                    number
                }
                PlainKind::Text => self.refer(item, scalar).map(Json::String),
            },
        }
    }

    /// One of a closed list of names.
    pub(super) fn one_of<T: Clone>(&mut self, item: &Item<'_>, choices: &[(&str, T)]) -> Option<T> {
        self.parse(item, |text| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let chosen = choices.iter().find(|(name, _)| *name == text);
            chosen.map(|(_, value)| value.clone()).ok_or_else(|| format!("must be {}", names.join(" or ")))
        })
    }

    /// The path of a file that the configuration depends on, and its first `bytes_max` bytes; more is an error.
    pub(super) fn file(&mut self, item: &Item<'_>, bytes_max: u64) -> Option<(PathBuf, Vec<u8>)> {
        let path = self.path(item)?;
        self.files.push(path.clone());
        let bytes = self.held(item, &path, bytes_max)?;
        Some((path, bytes))
    }

    /// The configuration is to be read again when what is at `path` changes: a file, or the names in a folder.
    pub(super) fn depends_on(&mut self, path: PathBuf) {
        self.files.push(path);
    }

    /// The path of a file that whoever uses it reads each time: no change of it makes another configuration. It must be
    /// there, with at most `bytes_max` bytes.
    pub(super) fn living_file(&mut self, item: &Item<'_>, bytes_max: u64) -> Option<PathBuf> {
        let path = self.path(item)?;
        self.held(item, &path, bytes_max).map(|_| path)
    }

    /// The path of a file that need not be there.
    pub(super) fn path(&mut self, item: &Item<'_>) -> Option<PathBuf> {
        let base = self.base.clone();
        self.parse(item, |text| match text {
            "" => Err("must be the path of a file".to_owned()),
            text => Ok(base.join(text)),
        })
    }

    fn held(&mut self, item: &Item<'_>, path: &Path, bytes_max: u64) -> Option<Vec<u8>> {
        let wrong = |why| format!("{why}; relative paths start at the configuration file's folder");
        read_file(path, bytes_max).map_err(|why| self.wrong(item, &wrong(why))).ok()
    }

    /// Reads another file: problems are that one's meanwhile.
    pub(super) fn within<T>(&mut self, path: &Path, read: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.file, path.display().to_string());
        let read = read(self);
        self.file = outer;
        read
    }

    /// The text of `{ file: path }`, without its last line break.
    fn secret_file(&mut self, item: &Item<'_>) -> Option<String> {
        /// Secrets are short; this is room for any.
        const SECRET_BYTES_MAX: u64 = 64 * 1024;
        let mut fields = self.fields(item, "secretFile")?;
        let bytes = fields.required(self, "file", |reader, item| reader.file(item, SECRET_BYTES_MAX));
        fields.finish(self);
        let Ok(mut text) = String::from_utf8(bytes?.1) else {
            self.error(item, "the file is not UTF-8 text");
            return None;
        };
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        Some(text)
    }

    /// Replaces `${NAME}` by what the environment holds; `$${` stands for `${`.
    fn refer(&mut self, item: &Item<'_>, scalar: &Scalar) -> Option<String> {
        let mut value = String::new();
        let mut rest = scalar.text.as_str();
        while let Some(at) = rest.find("${") {
            if let Some(literal) = rest[..at].strip_suffix('$') {
                value.push_str(literal);
                value.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            value.push_str(&rest[..at]);
            let Some((name, behind)) = rest[at + 2..].split_once('}').filter(|(name, _)| is_variable(name)) else {
                let form = "letters, digits and `_`";
                self.error(
                    item,
                    format!("`${{` must be followed by a variable's name ({form}) and `}}`; `$${{` is `${{` itself"),
                );
                return None;
            };
            let Some(held) = (self.environment)(name) else {
                self.error(
                    item,
                    format!("the environment variable {name} is not set; set it, or write the value here"),
                );
                return None;
            };
            value.push_str(&held);
            rest = behind;
        }
        value.push_str(rest);
        Some(value)
    }
}

impl<'n> Item<'n> {
    /// Whether it is a list.
    pub(super) const fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    /// Whether it has no value.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(&self.node.value, Value::Scalar(scalar) if scalar.kind() == PlainKind::Nothing)
    }

    /// Where it is.
    pub(super) const fn line(&self) -> usize {
        self.at.line
    }

    /// The whole text.
    pub(super) const fn root(node: &'n Node) -> Self {
        Self { node, at: node.at, path: String::new() }
    }

    /// The value of `entry`.
    fn below(&self, entry: &'n Entry) -> Self {
        let readable = !entry.key.is_empty()
            && entry.key.len() <= 64
            && entry.key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        let key = if readable { entry.key.clone() } else { shown(&entry.key) };
        let path = if self.path.is_empty() { key } else { format!("{}.{key}", self.path) };
        Self { node: &entry.value, at: entry.value.at, path }
    }

    /// The value of `entry`, at the place of the key: for what is wrong with the key itself.
    fn at_key(&self, entry: &'n Entry) -> Self {
        Self { at: entry.at, ..self.below(entry) }
    }
}

impl<'n> Fields<'n> {
    /// The item of `key`, where it is there.
    pub(super) fn item(&mut self, reader: &mut Reader<'_>, key: &'static str) -> Option<Item<'n>> {
        self.know(reader, key, false);
        self.get(key)
    }

    /// Whether `key` is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The value of `key`, which must be there.
    pub(super) fn required<T>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'_>, &Item<'n>) -> Option<T>,
    ) -> Option<T> {
        self.know(reader, key, true);
        self.there(reader, key, read)
    }

    /// The value of `key`, which must be there because of what another key says.
    pub(super) fn needed<T>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'_>, &Item<'n>) -> Option<T>,
    ) -> Option<T> {
        self.know(reader, key, false);
        self.there(reader, key, read)
    }

    /// The value of `key`; without it, `default`.
    pub(super) fn or<T>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        default: T,
        read: impl FnOnce(&mut Reader<'_>, &Item<'n>) -> Option<T>,
    ) -> Option<T> {
        match self.item(reader, key) {
            Some(item) => read(reader, &item),
            None => Some(default),
        }
    }

    /// The value of `key`, which may be missing: `Some(None)` then.
    #[expect(
        clippy::option_option,
        reason = "the outer one says whether it could be read, the inner whether it is there"
    )]
    pub(super) fn optional<T>(
        &mut self,
        reader: &mut Reader<'_>,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'_>, &Item<'n>) -> Option<T>,
    ) -> Option<Option<T>> {
        self.or(reader, key, None, |reader, item| read(reader, item).map(Some))
    }

    /// Warns of those among `keys` that nobody asked for: they mean something, but not here. More than a word is refused.
    pub(super) fn overlook(&mut self, reader: &mut Reader<'_>, keys: &[&'static str], why: &str) {
        for entry in self.entries {
            let misplaced = keys.iter().find(|key| **key == entry.key && !self.known.contains(key));
            let Some(key) = misplaced else { continue };
            self.known.push(key);
            if reader.parse_verbatim(&self.item.below(entry), |_| Ok(())).is_some() {
                reader.warning(&self.item.at_key(entry), why);
            }
        }
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self, reader: &mut Reader<'_>) {
        for entry in self.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str())) {
            let remedy = match nearest(&entry.key, self.known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", self.known.join(", ")),
            };
            let path = self.item.below(entry).path;
            reader.report(Severity::Error, Some(entry.at), path, format!("is not a known key; {remedy}"));
        }
    }

    fn there<T>(
        &self,
        reader: &mut Reader<'_>,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'_>, &Item<'n>) -> Option<T>,
    ) -> Option<T> {
        let Some(item) = self.get(key) else {
            reader.error(&self.item, format!("must have `{key}`"));
            return None;
        };
        read(reader, &item)
    }

    fn get(&self, key: &str) -> Option<Item<'n>> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| self.item.below(entry))
    }

    fn know(&mut self, reader: &mut Reader<'_>, key: &'static str, required: bool) {
        self.known.push(key);
        #[cfg(test)]
        reader.known.entry(self.section).or_default().insert(key, required);
        #[cfg(not(test))]
        let _ = (reader, self.section, required);
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether YAML takes a number for a whole one of 64 bits.
fn is_whole(text: &str) -> bool {
    text.parse::<i64>().is_ok() || text.starts_with("0x") || text.starts_with("0o")
}

fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The whole file, of at most `bytes_max` bytes; else what is wrong with it.
pub(super) fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("cannot be read ({error})");
    let mut bytes = Vec::new();
    File::open(path).map_err(cannot)?.take(bytes_max + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("is larger than {bytes_max} bytes"));
    }
    Ok(bytes)
}
