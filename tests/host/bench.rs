//! Tests inside a throw-away root, and what can be seen of it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::support::{self, again};

pub use again::PROGRAM;

/// Runs `body` in a throw-away copy of bookworm; `name` is the test's path.
#[track_caller]
pub fn inside(name: &str, body: fn()) {
    if std::env::var_os(again::CASE).is_some() {
        return body();
    }
    let tree = match support::tree("bookworm") {
        Ok(tree) => tree,
        Err(reason) => return support::skipped(name, &reason),
    };
    let text = again::run(&tree, name, "x").unwrap_or_else(|said| panic!("{said}"));
    for seen in text.lines().filter_map(|line| line.split_once("SEEN ")) {
        println!("{name}: {}", seen.1);
    }
}

/// Runs a shell script in the root and gives back its output.
#[track_caller]
pub fn sh(script: &str) -> String {
    let output = Command::new("/bin/sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Short content as it is, long content as a number.
fn content(bytes: &[u8]) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(bytes, &mut hasher);
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() < 200 => format!("{text:?}"),
        _ => format!("{} bytes {:x}", bytes.len(), std::hash::Hasher::finish(&hasher)),
    }
}

/// One line for each path below `root`: kind, mode, owner, links, attributes and content, but no times.
pub fn digest(root: &str) -> Vec<String> {
    let mut lines = Vec::new();
    walk(Path::new(root), &mut lines);
    lines
}

fn walk(path: &Path, lines: &mut Vec<String>) {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let content = if meta.is_file() {
        content(&std::fs::read(path).unwrap())
    } else if meta.is_symlink() {
        std::fs::read_link(path).unwrap().display().to_string()
    } else {
        String::new()
    };
    let mut xattrs: Vec<String> = if meta.is_symlink() {
        Vec::new()
    } else {
        xattr::list(path)
            .map(|names| names.map(|name| format!("{name:?}={:?}", xattr::get(path, &name).unwrap())).collect())
            .unwrap_or_default()
    };
    xattrs.sort();
    let mode = meta.permissions().mode();
    let links = if meta.is_dir() { 0 } else { meta.nlink() };
    lines.push(format!("{} {mode:o} {}:{} {links} {xattrs:?} {content}", path.display(), meta.uid(), meta.gid()));
    if meta.is_dir() {
        let mut names: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for name in names {
            walk(&name, lines);
        }
    }
}
