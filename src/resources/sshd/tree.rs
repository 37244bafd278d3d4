//! The main configuration file and all that it includes, read from the host as sshd would. Must not judge it.

use crate::error::{Failure, Result};
use crate::formats::sshd_config::{ConfigText, MAX_DEPTH, Tree, absolute, component};
use crate::host::{Actor, FileKind, Probe};
use crate::types::{AbsPath, Word as _};

/// Reads `main` and its Include tree.
///
/// # Errors
/// `Refused` when the main file is missing or an Include cannot be followed, `Unknown` when a file cannot be read.
pub fn load(probe: &dyn Probe, main: &str) -> Result<Tree> {
    let mut tree = Tree { main: main.to_owned(), ..Tree::default() };
    if !load_file(probe, main, 0, &mut tree)? {
        return Err(Failure::refused(main, "sshd's configuration file is missing")
            .hint("put it back with: cp /usr/share/openssh/sshd_config /etc/ssh/sshd_config"));
    }
    Ok(tree)
}

fn load_file(probe: &dyn Probe, path: &str, depth: usize, tree: &mut Tree) -> Result<bool> {
    if depth > MAX_DEPTH || tree.files.contains_key(path) {
        return Ok(true);
    }
    let Some(bytes) = probe.read(&clean(path, path)?, &Actor::Root)? else { return Ok(false) };
    if let Some(line) = bytes.split(|byte| *byte == b'\n').position(|line| line.contains(&0)) {
        // sshd drops the rest of such a line with its end, and reads the next line as a part of it.
        return Err(Failure::refused(format!("{path}:{}", line + 1), "a NUL byte in sshd's configuration")
            .why("sshd glues the next line to this one")
            .hint(format!("take the byte out: sed -i 's/\\x00//g' {path}")));
    }
    let text = ConfigText::parse(&bytes);
    tree.files.insert(path.to_owned(), text.clone());
    for (line, directive) in text.directives().filter(|(_, directive)| directive.keyword == "include") {
        for pattern in &directive.args {
            let pattern = absolute(pattern);
            if !tree.globs.contains_key(&pattern) {
                let files = expand(probe, &pattern, &format!("{path}:{line}"))?;
                tree.globs.insert(pattern.clone(), files);
            }
            for file in tree.globs.get(&pattern).cloned().unwrap_or_default() {
                load_file(probe, &file, depth + 1, tree)?;
            }
        }
    }
    Ok(true)
}

fn clean(path: &str, place: &str) -> Result<AbsPath> {
    AbsPath::parse(path).map_err(|why| {
        Failure::refused(place, format!("keyward does not follow the path '{path}'"))
            .why(why)
            .hint("write it as a plain absolute path")
    })
}

/// The files that a pattern names, sorted by byte.
fn expand(probe: &dyn Probe, pattern: &str, place: &str) -> Result<Vec<String>> {
    let mut found = vec![String::new()];
    for part in pattern.split('/').skip(1) {
        let mut next = Vec::new();
        for base in &found {
            if part.contains(['*', '?', '[', '\\']) {
                let dir = clean(if base.is_empty() { "/" } else { base }, place)?;
                let is_dir = directory(probe, &dir)?;
                let names = if is_dir { probe.list(&dir, &Actor::Root)?.unwrap_or_default() } else { Vec::new() };
                next.extend(names.iter().filter(|name| component(part, name)).map(|name| format!("{base}/{name}")));
            } else {
                next.push(format!("{base}/{part}"));
            }
        }
        found = next;
    }
    let mut files = Vec::new();
    for path in found {
        if probe.meta(&clean(&path, place)?, &Actor::Root)?.is_some() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// True for a directory, or a link (which may lead to one).
fn directory(probe: &dyn Probe, path: &AbsPath) -> Result<bool> {
    let meta = probe.meta(path, &Actor::Root)?;
    Ok(meta.is_some_and(|meta| matches!(meta.kind, FileKind::Dir | FileKind::Link)))
}
