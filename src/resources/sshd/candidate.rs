//! The configuration tree as it would be: keyward's file first, other lines taken out of force where nothing else
//! helps. Works on texts only.

use super::observe::Observed;
use super::ports::Ports;
use super::wanted::{Setting, known_as, matchable};
use super::{DROP_IN, TOP};
use crate::change::{Change, Step, TextDiff};
use crate::error::{Failure, Result};
use crate::facts::Facts;
use crate::formats::sshd_config::{ConfigText, Item, Tree};
use crate::host::{Actor, FileKind, Node, Owner};
use crate::types::{AbsPath, Word as _};

const HEADER: &str = "# Written by keyward. sshd takes the first value it reads, so this file comes first.\n";
const INCLUDE: &str = "# keyward: read first, for sshd takes the first value of a setting\n\
                       Include /etc/ssh/keyward.conf\n";

/// Where keyward's file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// [`DROP_IN`] or [`TOP`].
    pub own: &'static str,
    /// The main file gets an Include line at its top.
    pub include: bool,
}

/// The lines of keyward's file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Own {
    /// Port and ListenAddress.
    pub ports: Vec<String>,
    /// Settings of the global section.
    pub globals: Vec<String>,
    /// Settings repeated under `Match all`.
    pub overrides: Vec<String>,
}

/// A line of somebody's Match block that loosens a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loosened {
    /// The setting.
    pub setting: Setting,
    /// The line.
    pub item: Item,
    /// True when keyward's `Match all` already beats it.
    pub beaten: bool,
}

fn mine(item: &Item) -> bool {
    item.file == DROP_IN || item.file == TOP
}

/// The name of an item's keyword for this sshd.
fn key<'a>(item: &'a Item, facts: &Facts) -> &'a str {
    known_as(&item.directive.keyword, facts)
}

/// The value of an item.
fn value(item: &Item) -> String {
    item.directive.args.join(" ")
}

/// Lines in Match blocks of others that loosen what is asked for.
pub fn loosened(tree: &Tree, settings: &[Setting], facts: &Facts) -> Vec<Loosened> {
    let items = tree.flatten();
    let mut out = Vec::new();
    for (index, item) in items.iter().enumerate().filter(|(_, item)| !mine(item) && !item.scope.is_empty()) {
        let Some(setting) = settings.iter().find(|setting| setting.key() == key(item, facts)) else { continue };
        if setting.allows(&value(item)) {
            continue;
        }
        let beats = |other: &Item| {
            mine(other) && is_all(other) && key(other, facts) == setting.key() && setting.allows(&value(other))
        };
        let beaten = items.iter().take(index).any(beats);
        out.push(Loosened { setting: setting.clone(), item: item.clone(), beaten });
    }
    out
}

/// Values in Match blocks of others that are stricter than asked for; they stay.
pub fn stricter(tree: &Tree, setting: &Setting, facts: &Facts) -> Vec<Item> {
    let stands = |item: &Item| {
        !mine(item) && !item.scope.is_empty() && key(item, facts) == setting.key() && setting.allows(&value(item))
    };
    tree.flatten().into_iter().filter(|item| stands(item) && !setting.is_met(&value(item))).collect()
}

fn is_all(item: &Item) -> bool {
    matches!(item.scope.as_slice(), [args] if args.len() == 1 && args.iter().any(|arg| arg.eq_ignore_ascii_case("all")))
}

/// What keyward's file says now of keywords other than `asked`; those stay as they are.
///
/// # Errors
/// `Refused` when somebody put a Match block of their own into it.
pub fn carried(observed: &Observed, asked: &[String], facts: &Facts) -> Result<Own> {
    let mut own = Own::default();
    for path in [TOP, DROP_IN] {
        let Some(text) = observed.tree.files.get(path) else { continue };
        let alone = Tree {
            main: path.to_owned(),
            files: [(path.to_owned(), text.clone())].into(),
            globs: std::collections::BTreeMap::new(),
        };
        for item in alone.flatten() {
            let keyword = key(&item, facts).to_owned();
            let section = match item.directive.keyword.as_str() {
                "match" if is_all(&item) => continue,
                "match" | "include" => return Err(foreign(&item)),
                "port" | "listenaddress" => continue,
                _ if asked.contains(&keyword) => continue,
                _ if item.scope.is_empty() => &mut own.globals,
                _ => &mut own.overrides,
            };
            let line = text.lines().get(item.line - 1).map(|line| line.text()).unwrap_or_default();
            if !section.contains(&line) {
                section.push(line);
            }
        }
    }
    Ok(own)
}

fn foreign(item: &Item) -> Failure {
    Failure::refused(item.place(), "keyward's own file holds a line that keyward did not write")
        .why(format!("{} {}", item.directive.keyword, value(item)))
        .hint("move that block to a file of its own, such as /etc/ssh/sshd_config.d/50-local.conf")
}

impl Own {
    /// Adds settings to the global section.
    pub fn set(&mut self, settings: &[Setting]) {
        self.globals.extend(settings.iter().map(|setting| format!("{} {}", setting.keyword, setting.value)));
    }

    /// Repeats a setting under `Match all`, which beats every later Match block.
    pub fn override_by(&mut self, setting: &Setting) {
        let line = format!("{} {}", setting.keyword, setting.value);
        if !self.overrides.contains(&line) {
            self.overrides.push(line);
        }
    }

    /// The file's text.
    pub fn text(&self) -> ConfigText {
        let mut out = HEADER.to_owned();
        for line in self.ports.iter().chain(&self.globals) {
            out.push_str(line);
            out.push('\n');
        }
        if !self.overrides.is_empty() {
            out.push_str("# Match blocks of other files would loosen these; the first matching one wins.\nMatch all\n");
            for line in &self.overrides {
                out.push_str(&format!("    {line}\n"));
            }
        }
        ConfigText::parse(out.as_bytes())
    }
}

/// Decides where keyward's file goes, so that nothing that it sets is read before it.
pub fn layout(observed: &Observed, keys: &[String], facts: &Facts) -> Layout {
    let early = |own: &'static str| {
        let mut tree = observed.tree.clone();
        tree.files.remove(if own == TOP { DROP_IN } else { TOP });
        tree.put(own, ConfigText::parse(b"Include /nothing\n"));
        let items = tree.flatten();
        let at: Vec<usize> = items.iter().enumerate().filter(|(_, item)| item.file == own).map(|(at, _)| at).collect();
        let [at] = at.as_slice() else { return false };
        let free =
            |item: &Item| item.directive.keyword != "match" && !keys.iter().any(|asked| asked == key(item, facts));
        items.iter().take(*at).all(free) && items.get(*at).is_some_and(|item| item.scope.is_empty())
    };
    if early(TOP) {
        Layout { own: TOP, include: false }
    } else if early(DROP_IN) {
        Layout { own: DROP_IN, include: false }
    } else {
        Layout { own: TOP, include: true }
    }
}

/// The tree with keyward's file in place and lines of others taken out of force.
///
/// # Errors
/// `Refused` when a file that must change is not keyward's to change.
pub fn compose(observed: &Observed, layout: Layout, own: &Own, out_of_force: &[(String, usize)]) -> Result<Tree> {
    let mut tree = observed.tree.clone();
    for (file, line) in out_of_force {
        editable(observed, file, &format!("{file}:{line}"))?;
        if let Some(text) = tree.files.get_mut(file) {
            text.comment_out(*line);
        }
    }
    if layout.include {
        let main = tree.main.clone();
        editable(observed, &main, &main)?;
        if let Some(text) = tree.files.get_mut(&main) {
            text.prepend(INCLUDE);
        }
        tree.globs.insert(TOP.to_owned(), Vec::new());
    }
    let other = if layout.own == TOP { DROP_IN } else { TOP };
    if tree.files.remove(other).is_some() {
        for files in tree.globs.values_mut() {
            files.retain(|file| file != other);
        }
    }
    tree.put(layout.own, own.text());
    Ok(tree)
}

/// Refuses to edit what cannot be put back or is not the administrator's.
fn editable(observed: &Observed, file: &str, place: &str) -> Result<()> {
    let refuse = |why: &str| {
        Err(Failure::refused(place, "this line has to go, and keyward must not edit the file")
            .why(why)
            .hint(format!("edit {file} yourself, check with: sshd -t, then run keyward again")))
    };
    match observed.metas.get(file) {
        _ if !file.starts_with("/etc/") => refuse("it is outside /etc"),
        None => refuse("it is not there"),
        Some(meta) if meta.kind != FileKind::File => refuse("it is not a regular file"),
        Some(meta) if meta.uid != 0 => refuse("it does not belong to root"),
        Some(meta) if meta.links > 1 => refuse("it has several hard links"),
        Some(_) => Ok(()),
    }
}

/// Adds to `change` the steps and diffs that lead from `before` to `after`.
pub fn steps(change: &mut Change, observed: &Observed, before: &Tree, after: &Tree) {
    for (path, text) in &after.files {
        let old = before.files.get(path);
        if old == Some(text) {
            continue;
        }
        let Ok(clean) = AbsPath::parse(path) else { continue };
        if path == DROP_IN
            && !observed.drop_in_dir
            && let Some(parent) = clean.parent()
        {
            let node = Node::Dir { mode: 0o755, owner: Owner::Actor };
            change.steps.push(Step::Put { path: parent, actor: Actor::Root, node });
        }
        let meta = observed.metas.get(path);
        let node = Node::File {
            content: text.render(),
            mode: meta.map_or(0o644, |meta| meta.mode),
            owner: meta.map_or(Owner::Actor, |meta| Owner::Ids { uid: meta.uid, gid: meta.gid }),
        };
        change.diffs.push(diff(&clean, old, Some(text)));
        change.steps.push(Step::Put { path: clean, actor: Actor::Root, node });
    }
    for (path, text) in before.files.iter().filter(|(path, _)| !after.files.contains_key(*path)) {
        let Ok(clean) = AbsPath::parse(path) else { continue };
        change.diffs.push(diff(&clean, Some(text), None));
        change.steps.push(Step::Remove { path: clean, actor: Actor::Root });
    }
    // keyward's file first: while the main file does not include it yet, it does nothing.
    change.steps.sort_by_key(|step| matches!(step, Step::Put { path, .. } if path.as_str() == after.main));
}

fn diff(path: &AbsPath, before: Option<&ConfigText>, after: Option<&ConfigText>) -> TextDiff {
    let text = |text: Option<&ConfigText>| {
        text.map(|text| String::from_utf8_lossy(&text.render()).into_owned()).unwrap_or_default()
    };
    TextDiff { path: path.clone(), before: text(before), after: text(after) }
}

/// Lines that must go out of force because `Match all` would loosen a stricter exception along with them.
pub fn to_silence(tree: &Tree, loosened: &[Loosened], facts: &Facts) -> Vec<(String, usize)> {
    let mixed =
        |entry: &&Loosened| !matchable(&entry.setting.key()) || !stricter(tree, &entry.setting, facts).is_empty();
    loosened.iter().filter(mixed).map(|entry| (entry.item.file.clone(), entry.item.line)).collect()
}

/// keyward's file for the end: everything asked for, what it said before of other keywords, and the last ports.
///
/// # Errors
/// As [`carried`].
pub fn final_own(
    observed: &Observed,
    settings: &[Setting],
    loosened: &[Loosened],
    silenced: &[(String, usize)],
    facts: &Facts,
    ports: &Ports,
) -> Result<Own> {
    let asked: Vec<String> = settings.iter().map(Setting::key).collect();
    let mut own = carried(observed, &asked, facts)?;
    own.ports.clone_from(&ports.last);
    own.set(settings);
    for entry in loosened {
        if !silenced.iter().any(|(file, line)| *file == entry.item.file && *line == entry.item.line) {
            own.override_by(&entry.setting);
        }
    }
    Ok(own)
}
