//! Which files a path with `*` in its last part names.

use std::fs;
use std::path::{Path, PathBuf};

/// The files that `pattern` names. Without a `*` it is the path of one, whether that is there or not. `*` stands for any
/// characters of a name, but not for a dot at its beginning, as in a shell. A link that leads nowhere is named as well: a
/// file should be there.
///
/// # Errors
/// Why nobody can say.
pub(super) fn files(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let Some(folder) = folder(pattern) else {
        let elsewhere = pattern.to_string_lossy().contains('*');
        let refused = || "has `*` in the name of a folder; only the last part of a path may have it".to_owned();
        return if elsewhere { Err(refused()) } else { Ok(vec![pattern.to_owned()]) };
    };
    if folder.to_string_lossy().contains('*') {
        return Err("has `*` in the name of a folder; only the last part of a path may have it".to_owned());
    }
    let names = pattern.file_name().unwrap_or_default().to_string_lossy();
    let cannot = |error: std::io::Error| format!("the folder {} cannot be read ({error})", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let path = entry.path();
        // Through links: Kubernetes mounts files as links.
        let is_file = fs::metadata(&path).map_or(true, |found| found.is_file());
        if is_file && matches(&names, &entry.file_name().to_string_lossy()) {
            files.push(path);
        }
    }
    Ok(files)
}

/// The folder that a pattern looks into; none where it is no pattern.
pub(super) fn folder(pattern: &Path) -> Option<&Path> {
    let name = pattern.file_name()?.to_string_lossy();
    let folder = pattern.parent()?;
    name.contains('*').then(|| if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

/// Whether `pattern` matches the whole of `name`.
fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    // Without a `*` nothing may be left.
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_but_a_dot_at_the_beginning() {
        for (pattern, names, others) in [
            ("*.yaml", &["a.yaml", "a.b.yaml"][..], &[".yaml", ".a.yaml", "a.yml", "yaml", "a.yaml~"][..]),
            ("*", &["a", "ab.c"], &[".a", "..data"]),
            ("a*b*c", &["abc", "a-b-c", "abbcc"], &["ab", "acb", "abcd", "xabc"]),
            (".*", &[".a"], &["a"]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("**", &["a", "abc"], &[".a"]),
        ] {
            for name in names {
                assert!(matches(pattern, name), "{pattern} {name}");
            }
            for name in others {
                assert!(!matches(pattern, name), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn a_path_without_a_star_names_itself_and_a_star_in_a_folder_nothing() {
        assert_eq!(files(Path::new("no/such.yaml")), Ok(vec!["no/such.yaml".into()]));
        assert!(files(Path::new("a*/b.yaml")).is_err());
        assert!(files(Path::new("a*/*.yaml")).is_err());
        assert!(files(Path::new("no/such/*.yaml")).is_err());
        assert_eq!(folder(Path::new("*.yaml")), Some(Path::new(".")));
        assert_eq!(folder(Path::new("a/b.yaml")), None);
    }
}
