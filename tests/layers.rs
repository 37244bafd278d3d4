//! Holds the layers of ARCHITECTURE.md: every import goes down, resources know no sibling and no `Host`, the machine is
//! touched only in `host`, `target` and `cli`, files stay short, and the printed diagram is this table.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Most lines of a file without its tests.
const LINES: usize = 450;

struct Row {
    layer: u8,
    module: &'static str,
    purpose: &'static str,
    may_import: &'static [&'static str],
}

const fn row(layer: u8, module: &'static str, purpose: &'static str, may_import: &'static [&'static str]) -> Row {
    Row { layer, module, purpose, may_import }
}

/// The one list behind the test and the diagram in ARCHITECTURE.md.
const TABLE: &[Row] = &[
    row(0, "types", "checked words: paths, names, ports, keys, secrets", &[]),
    row(0, "error", "what failed, where, why, and the fix", &["types"]),
    row(0, "formats", "system files as text, lossless both ways", &["types", "error"]),
    row(1, "host", "the one seam to the machine: Probe reads, Host acts", &["types", "error", "formats"]),
    row(1, "facts", "what kind of host this is, gathered once", &["types", "error", "formats", "host"]),
    row(1, "change", "plans as data: claims, gates, steps, promises", &["types", "error", "host"]),
    row(1, "outcome", "events, evidence and exit codes as data", &["types", "error", "change"]),
    row(
        2,
        "resource",
        "the contract of a resource; traits handed as values",
        &["types", "error", "formats", "host", "facts", "change", "outcome"],
    ),
    row(2, "journal", "write-ahead record of a run", &["types", "error", "host", "facts", "change", "outcome"]),
    row(2, "audit", "the chained log of what was done", &["types", "error", "host"]),
    row(
        3,
        "playbook",
        "YAML to tasks, every fault with its place",
        &["types", "error", "formats", "facts", "change", "resource"],
    ),
    row(
        3,
        "engine",
        "assess, order, apply, prove, roll back",
        &["types", "error", "host", "facts", "change", "outcome", "resource", "journal", "audit"],
    ),
    row(
        3,
        "access",
        "who can get in, before and after a plan",
        &["types", "error", "formats", "host", "facts", "change", "outcome", "resource"],
    ),
    row(
        4,
        "judge",
        "checks of what is in effect, for audits",
        &["types", "error", "formats", "host", "facts", "outcome", "access"],
    ),
    row(
        4,
        "resources",
        "one file a resource, and the registry",
        &["types", "error", "formats", "host", "facts", "change", "resource"],
    ),
    row(
        4,
        "proof",
        "evidence from real logins and connections",
        &["types", "error", "formats", "host", "facts", "change", "outcome", "resource"],
    ),
    row(
        5,
        "target",
        "a copy of a host; a host over SSH; a container",
        &["types", "error", "formats", "host", "facts", "change", "outcome", "resource", "journal", "engine", "proof"],
    ),
    row(5, "report", "events as text for people and as JSON lines", &["types", "error", "host", "change", "outcome"]),
    row(
        6,
        "fleet",
        "many hosts: inventory, waves, stop rule, resume",
        &["types", "error", "change", "outcome", "resource", "journal", "playbook", "target", "report"],
    ),
    row(
        7,
        "cli",
        "arguments, one file a verb, the wiring",
        &[
            "types",
            "error",
            "formats",
            "host",
            "facts",
            "change",
            "outcome",
            "resource",
            "journal",
            "audit",
            "playbook",
            "engine",
            "access",
            "judge",
            "resources",
            "proof",
            "target",
            "report",
            "fleet",
        ],
    ),
    row(8, "main", "calls cli", &["cli"]),
];

/// The imports within one layer that are wanted; all others go to a lower layer.
const SIDEWAYS: &[(&str, &str)] = &[
    ("error", "types"),
    ("formats", "types"),
    ("formats", "error"),
    ("facts", "host"),
    ("change", "host"),
    ("outcome", "change"),
];

fn find(module: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.module == module)
}

/// A source file: its path below `src` and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// `engine/apply.rs` is in the module `engine`; `lib.rs` names all modules and is in none.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// How many `super::` lead from this file to the crate's root.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count();
        if self.path.ends_with("/mod.rs") { parts - 1 } else { parts }
    }

    /// Numbered lines of code: without the tests at the end and without comments.
    fn code(&self) -> Vec<(usize, String)> {
        let mut lines = Vec::new();
        let all: Vec<&str> = self.text.lines().collect();
        for (index, line) in all.iter().enumerate() {
            let next = all.get(index + 1).copied().unwrap_or_default().trim_start();
            if line.starts_with("#[cfg(test)]") && next.starts_with("mod ") {
                break;
            }
            let code = line.find("//").map_or(*line, |at| &line[..at]);
            lines.push((index + 1, code.to_owned()));
        }
        lines
    }
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    paths
        .iter()
        .map(|path| Source {
            path: path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(),
            text: std::fs::read_to_string(path).unwrap(),
        })
        .collect()
}

fn ident(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Top-level modules that a line names through `crate::`, `keyward::` (in main) or enough `super::`.
fn imports(source: &Source, line: &str) -> BTreeSet<String> {
    let to_root = "super::".repeat(source.depth());
    let mut roots = vec!["crate::".to_owned(), to_root];
    if source.module() == "main" {
        roots.push("keyward::".to_owned());
    }
    let mut found = BTreeSet::new();
    for root in roots {
        for (at, _) in line.match_indices(&root) {
            let before = line[..at].chars().last();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let rest = &line[at + root.len()..];
            if rest.starts_with("super::") {
                continue;
            }
            match rest.strip_prefix('{') {
                Some(group) => found.extend(group.split(',').map(|part| ident(part.trim()))),
                None => {
                    found.insert(ident(rest));
                }
            }
        }
    }
    found.retain(|name| find(name).is_some());
    found
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// Every offence of one file as `file:line: what`.
fn offences(source: &Source, resources: &BTreeSet<String>) -> Vec<String> {
    let mut out = Vec::new();
    let module = source.module();
    let at = |line: usize, what: String| format!("src/{}:{line}: {what}", source.path);
    let code = source.code();
    if module != "lib" {
        let Some(row) = find(module) else { return vec![at(1, format!("module {module} is not in the table"))] };
        for (number, line) in &code {
            for name in imports(source, line).iter().filter(|name| *name != module) {
                if !row.may_import.contains(&name.as_str()) {
                    out.push(at(*number, format!("{module} must not import {name}")));
                }
            }
            let plain = line.replace("std::process::ExitCode", "");
            let machine = ["std::fs", "std::process", "std::env"].iter().find(|path| plain.contains(**path));
            if let Some(path) = machine.filter(|_| !["host", "target", "cli", "main"].contains(&module)) {
                out.push(at(*number, format!("{path} belongs to host, target and cli")));
            }
            if module == "resources" {
                out.extend(resource_offence(source, line, resources).map(|what| at(*number, what)));
            }
        }
    }
    if code.len() > LINES {
        out.push(at(code.len(), format!("{} lines without tests, {LINES} is the most", code.len())));
    }
    let stem = source.path.rsplit('/').next().unwrap_or_default();
    if ["util.rs", "utils.rs", "common.rs", "helpers.rs"].contains(&stem) {
        out.push(at(1, "name the file after what it holds".to_owned()));
    }
    out
}

/// A resource must not know the `Host` trait, nor a sibling (the registry in `mod.rs` knows all).
fn resource_offence(source: &Source, line: &str, resources: &BTreeSet<String>) -> Option<String> {
    if words(line).any(|word| word == "Host") {
        return Some("a resource must not act: Host belongs to the engine".to_owned());
    }
    if source.path == "resources/mod.rs" {
        return None;
    }
    let own = source.path.split('/').nth(1).map(|name| name.trim_end_matches(".rs").to_owned())?;
    let to_siblings = "super::".repeat(source.depth() - 1);
    let named =
        |prefix: &str| line.match_indices(prefix).map(|(at, _)| ident(&line[at + prefix.len()..])).collect::<Vec<_>>();
    let deeper = format!("super::{to_siblings}");
    let mut reached = named("crate::resources::");
    if !line.contains(&deeper) {
        reached.extend(named(&to_siblings));
    }
    let sibling = reached.into_iter().find(|name| *name != own && resources.contains(name))?;
    Some(format!("resource {own} must not import its sibling {sibling}"))
}

fn resource_names(sources: &[Source]) -> BTreeSet<String> {
    sources
        .iter()
        .filter_map(|source| source.path.strip_prefix("resources/"))
        .filter_map(|path| path.split('/').next())
        .map(|name| name.trim_end_matches(".rs").to_owned())
        .filter(|name| name != "mod")
        .collect()
}

fn diagram() -> String {
    let mut out = String::new();
    for row in TABLE {
        out.push_str(&format!("{}  {:<10} {}\n", row.layer, row.module, row.purpose));
    }
    out
}

#[test]
fn imports_go_down() {
    let sources = sources();
    let resources = resource_names(&sources);
    let found: Vec<String> = sources.iter().flat_map(|source| offences(source, &resources)).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn the_table_itself_goes_down() {
    for row in TABLE {
        for name in row.may_import {
            let below = find(name).unwrap_or_else(|| panic!("{name} is not in the table"));
            let fine = below.layer < row.layer || SIDEWAYS.contains(&(row.module, name));
            assert!(fine, "{} may not import {name}", row.module);
        }
    }
    let here: BTreeSet<String> = sources().iter().map(|source| source.module().to_owned()).collect();
    for row in TABLE {
        assert!(here.contains(row.module), "{} is in the table and not in src", row.module);
    }
}

#[test]
fn the_diagram_in_the_documents_is_this_table() {
    let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let diagram = diagram();
    assert!(document.contains(&diagram), "ARCHITECTURE.md must hold this text:\n{diagram}");
}

#[test]
fn the_scan_finds_what_it_must() {
    let resources = BTreeSet::from(["user".to_owned(), "sshd".to_owned()]);
    let check = |path: &str, text: &str| offences(&Source { path: path.into(), text: text.into() }, &resources);
    for (path, text) in [
        ("engine/mod.rs", "use crate::resources::REGISTRY;"),
        ("engine/apply.rs", "fn f() { crate::report::x() }"),
        ("report/mod.rs", "use crate::{outcome::Event, engine};"),
        ("report/plan.rs", "use super::super::engine::x;"),
        ("journal.rs", "use super::engine;"),
        ("resources/user.rs", "use super::sshd::x;"),
        ("resources/user.rs", "use crate::resources::sshd::x;"),
        ("resources/sshd/port.rs", "use super::super::user::x;"),
        ("resources/user.rs", "use crate::host::{Probe, Host};"),
        ("resources/user.rs", "use crate::journal::Store;"),
        ("playbook/mod.rs", "let x = std::fs::read(y);"),
        ("types/util.rs", ""),
        ("newcomer.rs", ""),
    ] {
        assert_eq!(check(path, text).len(), 1, "{path}: {text}: {:?}", check(path, text));
    }
    let long = "x\n".repeat(LINES + 1);
    assert_eq!(check("types/key.rs", &long), ["src/types/key.rs:451: 451 lines without tests, 450 is the most"]);
    for (path, text) in [
        ("error.rs", "/// see [`crate::outcome::Exit`]"),
        ("engine/mod.rs", "use crate::journal::Store;\n#[cfg(test)]\nmod tests {\n use crate::report::x;\n}"),
        ("resources/user.rs", "use crate::host::Probe;\nuse crate::formats::passwd;"),
        ("resources/sshd/port.rs", "use super::user::x;"),
        ("resources/mod.rs", "use crate::resource::Kind;"),
        ("report/plan.rs", "use super::style::Style;"),
        ("main.rs", "keyward::cli::main()"),
    ] {
        assert_eq!(check(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}
