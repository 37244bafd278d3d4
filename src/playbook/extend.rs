//! `extends`: loads what a playbook builds on and joins it: mappings key by key, `users` by name, other lists and values
//! by the later one. Order: parents as listed, then the playbook itself.

use super::node::{Data, Node, shown};
use super::source::{At, Report};
use super::vars::Vars;
use crate::error::Failure;
use crate::resource::{LoadedFile, Loader, OVERLAY};

/// Longest chain of playbooks that extend each other.
const MAX_DEPTH: usize = 8;
/// Most playbooks in one run, so that a few lines cannot ask for thousands of reads.
const MAX_FILES: usize = 64;

/// A playbook and what it extends, loaded but not joined: parents before children.
pub(super) struct Family<'l> {
    pub report: Report,
    pub loader: &'l dyn Loader,
    /// Texts read, as named.
    pub texts: Vec<LoadedFile>,
    roots: Vec<Node>,
    /// What an inventory lays over the variables.
    overlay: Option<Node>,
    /// Names of the variables that it declares, once it was joined.
    pub declared: Vec<String>,
    /// Shown before the names of files in the playbook's directory.
    directory: String,
}

impl<'l> Family<'l> {
    /// Loads `name` (a path as the user typed it, `-` or `builtin:NAME`) and all that it extends.
    pub fn load(name: &str, loader: &'l dyn Loader) -> Self {
        let (directory, file) = match name.rsplit_once('/') {
            Some((head, tail)) => (format!("{head}/"), tail),
            None => (String::new(), name),
        };
        let mut family = Self {
            report: Report::default(),
            loader,
            texts: Vec::new(),
            roots: Vec::new(),
            overlay: None,
            declared: Vec::new(),
            directory,
        };
        match loader.load(file) {
            Ok(text) => {
                family.add(file, text, &mut vec![file.to_owned()]);
                if let Some(text) = loader.overlay() {
                    let before = family.roots.len();
                    family.add(OVERLAY, text, &mut vec![OVERLAY.to_owned()]);
                    family.overlay = if family.roots.len() > before { family.roots.pop() } else { None };
                }
            }
            Err(failure) => {
                let (at, _) = family.report.open(name, "");
                let what = if failure.place == name {
                    Failure { place: String::new(), ..failure.clone() }
                } else {
                    failure.clone()
                };
                family.report.add(At { file: at, ..At::default() }, what.line(), failure.hint);
            }
        }
        family
    }

    fn add(&mut self, name: &str, text: String, chain: &mut Vec<String>) {
        let display = if name.contains(':') || name == "-" || name == OVERLAY {
            name.to_owned()
        } else {
            format!("{}{name}", self.directory)
        };
        let shown = if name == "-" { "(standard input)".to_owned() } else { display };
        if text.len() > super::MAX_BYTES {
            let (file, _) = self.report.open(&shown, "");
            let what = format!("larger than {} bytes", super::MAX_BYTES);
            self.report.add(At { file, ..At::default() }, what, "split it, or name the right file");
            return;
        }
        let (file, clean) = self.report.open(&shown, &text);
        self.texts.push(LoadedFile { name: name.to_owned(), text });
        let Some(root) = super::node::parse(&mut self.report, file, &clean) else { return };
        // A parent's version is checked here; the joined playbook has only one.
        if chain.len() > 1 && root.get("version").is_none() {
            self.report.add(root.at, "'version' is missing", "add version: 1");
        }
        self.parents(&root, chain);
        self.roots.push(root);
    }

    fn parents(&mut self, root: &Node, chain: &mut Vec<String>) {
        let Some(list) = root.get("extends") else { return };
        if matches!(list.data, Data::Scalar(_) | Data::Map(_)) {
            self.report.add(list.at, "extends is a list", "write extends: [ builtin:baseline ]");
        }
        for node in list.items() {
            let Some(name) = node.text() else {
                if !matches!(node.data, Data::Broken) {
                    self.report.add(node.at, "expected the name of a playbook", "write extends: [ builtin:baseline ]");
                }
                continue;
            };
            if let Some((what, hint)) = self.refuse(name, chain) {
                self.report.add(node.at, what, hint);
                continue;
            }
            match self.loader.load(name) {
                Ok(text) => {
                    chain.push(name.to_owned());
                    self.add(name, text, chain);
                    chain.pop();
                }
                Err(failure) => self.report.add(node.at, failure.line(), failure.hint),
            }
        }
    }

    fn refuse(&self, name: &str, chain: &[String]) -> Option<(String, &'static str)> {
        if name.contains("{{") {
            return Some(("extends is read before the variables".to_owned(), "write the name out"));
        }
        if name.is_empty() || name == "-" {
            return Some((
                "not the name of a playbook".to_owned(),
                "write builtin:NAME or a file in the playbook's directory",
            ));
        }
        if chain.iter().any(|other| other == name) {
            let round = chain.iter().map(|link| shown(link)).collect::<Vec<_>>().join(" -> ");
            return Some((
                format!("extends goes in a circle: {round} -> {}", shown(name)),
                "remove one of these extends",
            ));
        }
        if chain.len() >= MAX_DEPTH {
            return Some((format!("more than {MAX_DEPTH} playbooks extend each other"), "flatten them"));
        }
        if self.texts.len() >= MAX_FILES {
            return Some((format!("more than {MAX_FILES} playbooks"), "flatten them"));
        }
        None
    }

    /// Fills the variables in and joins everything into one tree.
    pub fn join(&mut self) -> Option<Node> {
        let mut vars = Vars::default();
        for root in &self.roots {
            vars.take(root, &mut self.report);
        }
        self.declared = vars.names().cloned().collect();
        if let Some(root) = self.overlay.take() {
            vars.take_over(&root, &mut self.report);
        }
        let mut joined: Option<Node> = None;
        for mut root in std::mem::take(&mut self.roots) {
            if let Data::Map(entries) = &mut root.data {
                let own = entries.iter_mut().filter(|entry| entry.key != "vars" && entry.key != "extends");
                own.for_each(|entry| vars.fill(&mut entry.value, &mut self.report));
            }
            joined = Some(match joined {
                None => root,
                Some(parent) => join(parent, root, true),
            });
        }
        joined
    }
}

/// Lays `child` over `parent`.
fn join(parent: Node, child: Node, is_root: bool) -> Node {
    let at = child.at;
    match (parent.data, child.data) {
        (Data::Map(mut have), Data::Map(more)) => {
            for entry in more {
                match have.iter_mut().find(|old| old.key == entry.key) {
                    None => have.push(entry),
                    Some(old) => {
                        let before = std::mem::replace(&mut old.value, Node { at, data: Data::Broken });
                        let by_name = is_root && entry.key == "users";
                        old.key_at = entry.key_at;
                        old.value =
                            if by_name { join_users(before, entry.value) } else { join(before, entry.value, false) };
                    }
                }
            }
            Node { at, data: Data::Map(have) }
        }
        (_, data) => Node { at, data },
    }
}

/// Users of one name are joined; others are added behind.
fn join_users(parent: Node, child: Node) -> Node {
    let at = child.at;
    let name_of = |node: &Node| node.get("name").and_then(Node::text).map(str::to_owned);
    match (parent.data, child.data) {
        (Data::List(mut have), Data::List(more)) => {
            // Only the parent's users are joined with: two of one name in one file are a fault, found later.
            let old = have.len();
            for user in more {
                let name = name_of(&user);
                let twin = have.iter().take(old).position(|other| name.is_some() && name_of(other) == name);
                match twin.and_then(|index| have.get_mut(index)).filter(|twin| twin.at.file != user.at.file) {
                    None => have.push(user),
                    Some(twin) => {
                        let before = std::mem::replace(twin, Node { at, data: Data::Broken });
                        *twin = join(before, user, false);
                    }
                }
            }
            Node { at, data: Data::List(have) }
        }
        (_, data) => Node { at, data },
    }
}
