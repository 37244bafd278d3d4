//! The whole sudoers set in the order in which sudo reads it, and which rule decides.

use std::collections::BTreeMap;

use crate::error::{Failure, Result};
use crate::formats::sudoers::{self, Allowed, Item, Line, Matching, Subject};
use crate::host::{Actor, FileKind, Probe, Staged};
use crate::types::AbsPath;

/// sudo itself.
pub const SUDO: &str = "/usr/bin/sudo";
/// The main file.
pub const MAIN: &str = "/etc/sudoers";
/// The main file that sudo-rs reads in its place, where there is one.
const REWRITE_MAIN: &str = "/etc/sudoers-rs";
/// The directory that keyward writes to.
pub const DIRECTORY: &str = "/etc/sudoers.d";

/// One file as sudo reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where it is.
    pub path: AbsPath,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// All files that are read, and their lines in the order of evaluation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// In the order in which they are read.
    pub files: Vec<File>,
    /// Includes replaced by what they bring.
    pub lines: Vec<Placed>,
    /// True when the main file reads [`DIRECTORY`].
    pub reads_directory: bool,
    /// The host's sudo is sudo-rs, the rewrite in Rust: it knows fewer settings, passes over lines that it does not
    /// understand, and lists what it grants in words of its own.
    pub rewrite: bool,
}

/// A line with its file and its place in the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The file.
    pub path: AbsPath,
    /// The line.
    pub line: Line,
    /// Its place in the order.
    pub order: Order,
}

/// Where a line stands from the viewpoint of a file in [`DIRECTORY`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Before the directory is read.
    Before,
    /// In the drop-in of this name, or in what that includes.
    Within(String),
    /// After it.
    After,
}

impl Order {
    /// True when it is read after the drop-in `name`, and so wins over it.
    pub fn is_after(&self, name: &str) -> bool {
        match self {
            Self::Before => false,
            Self::Within(other) => other.as_str() > name,
            Self::After => true,
        }
    }
}

/// A rule that decides for somebody, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deciding {
    /// File and line.
    pub place: String,
    /// The file.
    pub path: AbsPath,
    /// Its place in the order.
    pub order: Order,
    /// Commands of the rule; `None` when the line was not understood.
    pub commands: Option<Vec<Allowed>>,
    /// False when it may concern the account, or may not.
    pub sure: bool,
}

/// The most files and the deepest nesting that are followed (sudo itself stops at 128).
const FILES: usize = 512;
const DEPTH: usize = 16;

impl Policy {
    /// Reads the set from the host.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(probe: &dyn Probe) -> Result<Self> {
        let mut policy = Self { rewrite: is_rewrite(probe)?, ..Self::default() };
        let own = AbsPath::fixed(REWRITE_MAIN);
        let has_own = policy.rewrite && probe.meta(&own, &Actor::Root)?.is_some();
        let main = if has_own { own } else { AbsPath::fixed(MAIN) };
        if probe.meta(&main, &Actor::Root)?.is_some() {
            policy.follow(probe, &main, DEPTH, None)?;
        }
        Ok(policy)
    }

    /// The file that is read first.
    pub fn main(&self) -> AbsPath {
        self.files.first().map_or(AbsPath::fixed(MAIN), |file| file.path.clone())
    }

    fn follow(&mut self, probe: &dyn Probe, path: &AbsPath, depth: usize, within: Option<&str>) -> Result<()> {
        let bytes = probe.read(path, &Actor::Root)?;
        let Some(content) = bytes.filter(|_| depth > 0 && self.files.len() < FILES) else { return Ok(()) };
        let lines = sudoers::parse(&String::from_utf8_lossy(&content));
        self.files.push(File { path: path.clone(), content });
        for line in lines {
            let Item::Include { path: target, dir } = &line.item else {
                self.place(path, line, within);
                continue;
            };
            // A name with %h (the host's) is not followed: it may or may not be there.
            let Some(target) = resolve(path, target) else {
                self.place(path, Line { item: Item::Unclear, ..line }, within);
                continue;
            };
            if !*dir {
                self.follow(probe, &target, depth - 1, within)?;
                continue;
            }
            let ours = target.as_str() == DIRECTORY;
            for file in drop_ins(probe, &target)? {
                let name = if ours { Some(file.file_name()) } else { within };
                self.follow(probe, &file, depth - 1, name)?;
            }
            self.reads_directory |= ours;
        }
        Ok(())
    }

    fn place(&mut self, path: &AbsPath, line: Line, within: Option<&str>) {
        let order = match within {
            Some(name) => Order::Within(name.to_owned()),
            None if self.reads_directory => Order::After,
            None => Order::Before,
        };
        self.lines.push(Placed { path: path.clone(), line, order });
    }

    /// The set without some files, such as keyward's own.
    pub fn without(&self, paths: &[AbsPath]) -> Self {
        let mut rest = self.clone();
        rest.lines.retain(|placed| !paths.contains(&placed.path));
        rest
    }

    fn aliases(&self) -> BTreeMap<String, Vec<String>> {
        let alias = |placed: &Placed| match &placed.line.item {
            Item::UserAlias { name, members } => Some((name.clone(), members.clone())),
            _ => None,
        };
        self.lines.iter().filter_map(alias).collect()
    }

    /// The rules that may concern an account, in order. What is not understood may concern anybody.
    pub fn rules_for(&self, subject: &Subject) -> Vec<Deciding> {
        let aliases = self.aliases();
        let lookup = |name: &str| aliases.get(name).cloned();
        let rule = |Placed { path, line, order }: &Placed| {
            let (sure, commands) = match &line.item {
                Item::Unclear => (false, None),
                Item::Rule { users, commands } => match subject.matched(users, &lookup) {
                    Matching::No => return None,
                    Matching::Maybe => (false, Some(commands.clone())),
                    Matching::Yes => (true, Some(commands.clone())),
                },
                _ => return None,
            };
            let place = format!("{path}:{}", line.number);
            Some(Deciding { place, path: path.clone(), order: order.clone(), commands, sure })
        };
        self.lines.iter().filter_map(rule).collect()
    }

    /// Where a Defaults flag is switched on for an account at the end of all lines, if it is.
    pub fn flag_on(&self, flag: &str, subject: &Subject) -> Option<(String, Order)> {
        let aliases = self.aliases();
        let lookup = |name: &str| aliases.get(name).cloned();
        let mut on = None;
        for Placed { path, line, order } in &self.lines {
            let Item::Defaults { users, settings } = &line.item else { continue };
            let concerned = users.as_ref().is_none_or(|users| subject.matched(users, &lookup) != Matching::No);
            for setting in settings.iter().filter(|_| concerned) {
                match setting.strip_prefix('!') {
                    Some(name) if name.trim() == flag => on = None,
                    None if setting == flag => on = Some((format!("{path}:{}", line.number), order.clone())),
                    _ => {}
                }
            }
        }
        on
    }

    /// The set as candidate files for visudo, with `new` in the place of the file of that path, and includes pointing
    /// into the stage.
    pub fn staged(&self, new: &[File]) -> Vec<Staged> {
        let replaced = |path: &AbsPath| new.iter().find(|file| file.path == *path);
        let mut files: Vec<&File> = self.files.iter().map(|file| replaced(&file.path).unwrap_or(file)).collect();
        files.extend(new.iter().filter(|file| !self.files.iter().any(|old| old.path == file.path)));
        files.into_iter().map(stage).collect()
    }
}

impl Deciding {
    /// Takes password-free use of a command as `target` away, or forbids it. `ours` empty means all commands.
    pub fn cancels(&self, target: &str, ours: &[String], nopasswd: bool) -> bool {
        let Some(commands) = &self.commands else { return true };
        commands.iter().any(|other| {
            let who = |user: &String| user == "ALL" || user == target || user.starts_with(['#', '%', '+', '!']);
            let as_target = if other.run_as.is_empty() { target == "root" } else { other.run_as.iter().any(who) };
            let same = ours.is_empty()
                || other.command == "ALL"
                || ours.iter().any(|command| overlap(command, &other.command));
            as_target && same && (other.forbidden || nopasswd && !other.nopasswd)
        })
    }

    /// Allows every command as root.
    pub fn allows_all(&self) -> Option<&Allowed> {
        let all = |allowed: &&Allowed| {
            allowed.command == "ALL"
                && !allowed.forbidden
                && (allowed.run_as.is_empty() || allowed.run_as.iter().any(|user| user == "ALL" || user == "root"))
        };
        self.commands.as_ref().filter(|_| self.sure).and_then(|commands| commands.iter().rev().find(all))
    }
}

/// Whether two commands of rules can be the same call: equal programs, or one that is an alias or a pattern.
fn overlap(ours: &str, other: &str) -> bool {
    let program = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
    !other.starts_with('/')
        || other.contains(['*', '?', '['])
        || other.ends_with('/')
        || program(ours) == program(other)
}

/// True when sudo is sudo-rs, found by where the name leads, without starting it.
fn is_rewrite(probe: &dyn Probe) -> Result<bool> {
    for path in [SUDO, "/etc/alternatives/sudo"] {
        let target = probe.link(&AbsPath::fixed(path))?.unwrap_or_default();
        if target.contains("sudo-rs") || target.contains("/cargo/") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An include's path: relative to the file that names it.
fn resolve(from: &AbsPath, target: &str) -> Option<AbsPath> {
    use crate::types::Word;
    if target.contains('%') {
        return None;
    }
    let target = target.trim_end_matches('/');
    if target.starts_with('/') { AbsPath::parse(target).ok() } else { from.parent()?.join(target).ok() }
}

/// The files of an include directory in sudo's order: by byte, without names that hold a dot or end in `~`.
fn drop_ins(probe: &dyn Probe, directory: &AbsPath) -> Result<Vec<AbsPath>> {
    let mut files = Vec::new();
    for name in probe.list(directory, &Actor::Root)?.unwrap_or_default() {
        let Some(path) = directory.join(&name).ok().filter(|_| sudoers::is_read(&name)) else { continue };
        let Some(meta) = probe.meta(&path, &Actor::Root)? else { continue };
        match meta.kind {
            // sudo passes over what is not root's or what others can write (with a message nobody sees); root's own
            // group may write it.
            FileKind::File if meta.uid == 0 && meta.mode & 0o002 == 0 && (meta.mode & 0o020 == 0 || meta.gid == 0) => {
                files.push(path);
            }
            FileKind::Link => files.push(path),
            _ => {}
        }
    }
    Ok(files)
}

/// Drop-ins with rules that would come into force once the directory is read.
///
/// # Errors
/// When a file cannot be read.
pub fn dormant(probe: &dyn Probe) -> Result<Vec<AbsPath>> {
    let mut sleeping = Vec::new();
    for path in drop_ins(probe, &AbsPath::fixed(DIRECTORY))? {
        let content = probe.read(&path, &Actor::Root)?.unwrap_or_default();
        if !sudoers::parse(&String::from_utf8_lossy(&content)).is_empty() {
            sleeping.push(path);
        }
    }
    Ok(sleeping)
}

/// A file of the set below `{stage}`, its include lines pointing there too.
fn stage(file: &File) -> Staged {
    let text = String::from_utf8_lossy(&file.content);
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_start();
        let words = ["@includedir", "#includedir", "@include", "#include"];
        let word =
            words.iter().find(|word| trimmed.strip_prefix(**word).is_some_and(|rest| rest.starts_with([' ', '\t'])));
        match word.and_then(|word| Some((word, trimmed.strip_prefix(word)?.trim_start()))) {
            Some((word, rest)) if rest.starts_with('/') => out.push_str(&format!("{word} {{stage}}{rest}")),
            Some((word, rest)) if rest.starts_with("\"/") => {
                out.push_str(&format!("{word} \"{{stage}}{}", rest.trim_start_matches('"')));
            }
            _ => out.push_str(line),
        }
    }
    let name = file.path.as_str().trim_start_matches('/').to_owned();
    Staged { name, content: out.into_bytes(), mode: 0o440 }
}

/// Refuses a directory of drop-ins that sudo would not trust; false when it is not there.
///
/// # Errors
/// `Refused`, or when it cannot be looked at.
pub fn check_directory(probe: &dyn Probe) -> Result<bool> {
    let path = AbsPath::fixed(DIRECTORY);
    let Some(meta) = probe.meta(&path, &Actor::Root)? else { return Ok(false) };
    if meta.kind == FileKind::Dir && meta.uid == 0 && meta.mode & 0o022 == 0 {
        return Ok(true);
    }
    Err(Failure::refused(DIRECTORY, "sudo does not trust this directory")
        .why(format!("owner uid {}, mode {:04o}", meta.uid, meta.mode))
        .hint(format!("chown root:root {DIRECTORY} && chmod 0750 {DIRECTORY}")))
}

/// A set of files without a host.
#[cfg(test)]
pub fn of(files: &[(&'static str, &str)]) -> Policy {
    let mut policy = Policy::default();
    for (path, text) in files {
        let path = AbsPath::fixed(path);
        for line in sudoers::parse(text) {
            let within = path.is_within(&AbsPath::fixed(DIRECTORY)).then(|| path.file_name().to_owned());
            policy.place(&path, line, within.as_deref());
        }
        policy.files.push(File { path, content: text.as_bytes().to_vec() });
    }
    policy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        let groups = vec![("deploy".to_owned(), Some(1000)), ("sudo".to_owned(), Some(27))];
        Subject { name: "deploy".to_owned(), uid: Some(1000), groups }
    }

    #[test]
    fn later_rules_that_cancel() {
        let cancels = |line: &'static str, ours: &[&str], nopasswd| {
            let ours: Vec<String> = ours.iter().map(|command| (*command).to_owned()).collect();
            of(&[("/etc/sudoers.d/x", line)])
                .rules_for(&subject())
                .iter()
                .any(|rule| rule.cancels("root", &ours, nopasswd))
        };
        assert!(cancels("%sudo ALL=(ALL:ALL) ALL", &[], true));
        assert!(!cancels("%sudo ALL=(ALL:ALL) ALL", &[], false));
        assert!(!cancels("%adm ALL=(ALL:ALL) ALL", &[], true));
        assert!(!cancels("deploy ALL=(postgres) ALL", &[], true));
        assert!(cancels("ALL ALL=!/bin/su", &[], false));
        assert!(cancels("deploy ALL=(root) /bin/b", &[], true));
        assert!(!cancels("deploy ALL=(root) /bin/b", &["/bin/a x"], true));
        assert!(cancels("deploy ALL=(root) /bin/a", &["/bin/a x"], true));
        assert!(cancels("deploy ALL=CWD=/ ALL", &[], true)); // not understood
        assert!(!cancels("deploy ALL=NOPASSWD: ALL", &[], true));
    }

    #[test]
    fn flags_of_defaults() {
        let policy =
            of(&[("/etc/sudoers", "Defaults targetpw, requiretty\nDefaults:%sudo !targetpw\nDefaults:alice rootpw\n")]);
        assert_eq!(policy.flag_on("targetpw", &subject()), None);
        assert_eq!(policy.flag_on("requiretty", &subject()), Some(("/etc/sudoers:1".to_owned(), Order::Before)));
        assert_eq!(policy.flag_on("rootpw", &subject()), None);
    }

    #[test]
    fn the_stage_is_closed() {
        let policy = of(&[
            ("/etc/sudoers", "#includedir /etc/sudoers.d\n@include \"/etc/x y\"\n# includedir /z\n"),
            ("/etc/sudoers.d/a", "a ALL=ALL"),
        ]);
        let new = File { path: AbsPath::fixed("/etc/sudoers.d/b"), content: b"b".to_vec() };
        let staged = policy.staged(&[new]);
        let main = String::from_utf8(staged[0].content.clone()).unwrap();
        assert_eq!(main, "#includedir {stage}/etc/sudoers.d\n@include \"{stage}/etc/x y\"\n# includedir /z\n");
        assert_eq!(
            staged.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(),
            ["etc/sudoers", "etc/sudoers.d/a", "etc/sudoers.d/b"]
        );
    }
}
