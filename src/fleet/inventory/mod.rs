//! An inventory: which hosts there are, how each is reached, which groups they are in, and the variables that hold there.
//! Read are keyward's own YAML (strict) and Ansible's INI and YAML with `group_vars` and `host_vars` beside them, as they
//! are (Ansible docs: "How to build your inventory"). What keyward does not understand in Ansible's files is listed in
//! [`Inventory::unread`] and never guessed; what decides where a connection goes and cannot be read is a fault.
//!
//! `text -> Draft (what is said, with places) -> Inventory (parents and precedence resolved)`
//!
//! Must not touch the system. Values of connection variables are never repeated in a message: some are passwords. The
//! name of a host or group never becomes part of a path: directories are listed, and names are compared (CVE-2019-3828).

mod beside;
mod connection;
mod draft;
mod graph;
mod ini;
mod literal;
mod notes;
mod own;
mod pattern;
mod range;
mod resolve;
mod tree;
mod words;
mod yaml;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::error::{Failure, Result};
use crate::target::ssh::Destination;

use draft::Draft;

/// Most hosts of one inventory.
pub const MAX_HOSTS: usize = 100_000;
/// Most bytes of an inventory and of all that is read beside it.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Reads the inventory and what stands beside it; handed by the caller.
pub trait Files {
    /// The text of the file `name`, relative to the inventory's directory, parts separated by `/`; `None` if absent. The
    /// inventory itself is asked for by the last part of its name; other names come from [`Files::list`] only.
    ///
    /// # Errors
    /// When it is there and cannot be read, is not UTF-8, or is larger than [`MAX_BYTES`].
    fn read(&self, name: &str) -> Result<Option<String>>;

    /// The names in `directory`, relative to the inventory's directory; `None` if it is absent or no directory.
    ///
    /// # Errors
    /// When it is there and cannot be listed.
    fn list(&self, directory: &str) -> Result<Option<Vec<String>>>;
}

/// The hosts that an inventory names.
#[derive(Debug, Clone, PartialEq)]
pub struct Inventory {
    /// In order of first mention.
    pub hosts: Vec<Host>,
    /// What was not understood, or not used, by place; to be shown to the user.
    pub unread: Vec<Unread>,
}

/// One host with everything that its groups say resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    /// As in the inventory; printable, without `/`, never `.` or `..`; not always a name that resolves.
    pub name: String,
    /// Where to connect. What the inventory leaves open is `None`: the user's ssh configuration decides.
    pub place: Destination,
    /// The groups it is in, with all their parents, sorted; without `all`; `ungrouped` if there is no other.
    pub groups: Vec<String>,
    /// Files of private keys, as written: `~` is kept, and a relative path is relative to what the caller decides.
    pub keys: Vec<PathBuf>,
    /// Hosts to go through, the first one first; empty if none is named.
    pub jump: Vec<Destination>,
    /// Variables after precedence; connection variables (`ansible_...`) are left out, and so is what was not understood.
    pub vars: BTreeMap<String, Value>,
    /// Where it is named first: `file:line:column`.
    pub at: String,
}

/// Something in an inventory that keyward does not use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// `file:line[:column]`.
    pub at: String,
    /// What it is, lower case; never a password.
    pub what: String,
    /// What can be done, or empty.
    pub hint: String,
}

/// What language an inventory is written in.
#[derive(Debug, PartialEq, Eq)]
enum Form {
    Own,
    Yaml,
    Ini,
    /// Not read: what it is, and the fix.
    Refused(&'static str, &'static str),
}

const LIST: &str = "have Ansible write it out, and use that: ansible-inventory -i INVENTORY --list --yaml > hosts.yml";

impl Inventory {
    /// Reads the inventory `name`, a path as the user typed it. The form is told by the content: a `version: 1` at the
    /// left edge makes it keyward's own; a name that ends with `.yml`, `.yaml` or `.json`, or a first line that begins a
    /// mapping, makes it Ansible's YAML; all else is Ansible's INI. The directories `group_vars` and `host_vars` beside it
    /// belong to Ansible's forms only.
    ///
    /// # Errors
    /// All faults, by file and line.
    pub fn read(name: &str, files: &dyn Files) -> std::result::Result<Self, Vec<Failure>> {
        let (directory, file) = name.rsplit_once('/').map_or(("", name), |(head, tail)| (head, tail));
        let text = match files.read(file) {
            Ok(Some(text)) => text,
            Ok(None) => {
                let failure = Failure::input(crate::playbook::shown(name), "there is no such inventory");
                return Err(vec![failure.hint("name a file: keyward's own YAML, or an inventory of Ansible")]);
            }
            Err(failure) => return Err(vec![failure]),
        };
        let prefix = if name.contains('/') { format!("{directory}/") } else { String::new() };
        let mut draft = Draft::new(prefix);
        let Some(source) = draft.notes.open(file, text.len()) else { return Err(draft.notes.into_faults()) };
        match form(file, &text) {
            Form::Refused(what, hint) => draft.notes.fault(source, what, hint),
            Form::Own => own::read(&mut draft, name, &text),
            Form::Yaml => {
                let text = draft.notes.clean(source, &text);
                yaml::read(&mut draft, source, &text);
                beside::read(&mut draft, files);
            }
            Form::Ini => {
                let text = draft.notes.clean(source, &text);
                ini::read(&mut draft, source, &text);
                beside::read(&mut draft, files);
            }
        }
        resolve::resolve(draft)
    }
}

fn form(name: &str, text: &str) -> Form {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.starts_with("#!") {
        return Form::Refused("a program, not a list of hosts: keyward runs no code of an inventory", LIST);
    }
    if text.starts_with("$ANSIBLE_VAULT") {
        return Form::Refused("encrypted by ansible-vault", "decrypt it first: ansible-vault decrypt FILE");
    }
    let value = |line: &str, key: &str| {
        let rest = line.strip_prefix(key).or_else(|| line.strip_prefix('"')?.strip_prefix(key)?.strip_prefix('"'));
        rest.and_then(|rest| rest.strip_prefix(':'))
            .map(|rest| rest.split('#').next().unwrap_or_default().trim().to_owned())
    };
    let mut significant = text.lines().filter(|line| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with(['#', ';'])
    });
    let first = significant.clone().next().unwrap_or_default();
    let flow = first.trim_start_matches('{').trim_start();
    let own = |line: &str| value(line, "version").is_some_and(|value| !value.is_empty());
    if text.lines().any(own) || first.starts_with('{') && own(flow) {
        return Form::Own;
    }
    let named = [".yml", ".yaml", ".json"].iter().any(|end| name.ends_with(end));
    if !named && !begins_mapping(first) {
        return Form::Ini;
    }
    if significant.any(|line| value(line, "plugin").is_some_and(|value| !value.is_empty())) {
        return Form::Refused("it asks an inventory plugin of Ansible, which keyward does not run", LIST);
    }
    Form::Yaml
}

/// True for a line that begins a YAML document: `---`, `{`, `all:`, `key: value`.
fn begins_mapping(line: &str) -> bool {
    let line = line.split(" #").next().unwrap_or_default().trim_end();
    if line.starts_with('{') || line == "---" || line.starts_with("--- ") || line.starts_with("%YAML") {
        return true;
    }
    let key = line.strip_suffix(':').or_else(|| line.split_once(": ").map(|(key, _)| key));
    key.is_some_and(|key| !key.is_empty() && !key.contains(['[', ']', '=', ' ']))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;

    use super::*;

    /// Files in memory, and the names that were asked for.
    #[derive(Default)]
    pub(super) struct Memory {
        files: HashMap<String, String>,
        pub asked: RefCell<Vec<String>>,
    }

    impl Memory {
        pub fn new(files: &[(&str, &str)]) -> Self {
            let (first, _) = files[0];
            let alone = |name: &str| if name == first { name.rsplit('/').next().unwrap() } else { name }.to_owned();
            let files = files.iter().map(|(name, text)| (alone(name), (*text).to_owned())).collect();
            Self { files, asked: RefCell::default() }
        }
    }

    impl Files for Memory {
        fn read(&self, name: &str) -> Result<Option<String>> {
            self.asked.borrow_mut().push(name.to_owned());
            Ok(self.files.get(name).cloned())
        }

        fn list(&self, directory: &str) -> Result<Option<Vec<String>>> {
            self.asked.borrow_mut().push(directory.to_owned());
            let below = format!("{directory}/");
            let mut names: Vec<String> = self
                .files
                .keys()
                .filter_map(|name| name.strip_prefix(&below))
                .map(|rest| rest.split('/').next().unwrap_or_default().to_owned())
                .collect();
            names.sort();
            names.dedup();
            Ok(if names.is_empty() { None } else { Some(names) })
        }
    }

    pub(super) fn read(files: &[(&str, &str)]) -> Inventory {
        let name = files[0].0;
        Inventory::read(name, &Memory::new(files)).unwrap_or_else(|faults| panic!("{}", lines(&faults)))
    }

    /// The faults, one a line: `place: what`, cut before the excerpt.
    pub(super) fn faults(files: &[(&str, &str)]) -> Vec<String> {
        let found = Inventory::read(files[0].0, &Memory::new(files)).expect_err("it has faults");
        found.iter().map(|fault| format!("{}: {}", fault.place, fault.what)).collect()
    }

    fn lines(faults: &[Failure]) -> String {
        faults.iter().map(|fault| format!("{fault}\n")).collect()
    }

    #[test]
    fn the_form_is_told_by_the_content() {
        for (name, text, want) in [
            ("hosts", "# c\n\nversion: 1\nhosts: {}", Form::Own),
            ("hosts.ini", "{ version: 1, hosts: {} }", Form::Own),
            ("hosts", "version:\n  hosts:\n", Form::Yaml),
            ("hosts", "---\nall:\n", Form::Yaml),
            ("hosts", "all: # everything\n  hosts:\n", Form::Yaml),
            ("hosts.yaml", "[web]\n", Form::Yaml),
            ("hosts", "[web]\na\n", Form::Ini),
            ("hosts", "web1:22\n", Form::Ini),
            ("hosts", "web1 a='x: y'\n", Form::Ini),
            ("hosts", "", Form::Ini),
        ] {
            assert_eq!(form(name, text), want, "{name}: {text:?}");
        }
        for (name, text) in [
            ("hosts", "#!/bin/sh\necho"),
            ("hosts.yml", "---\nplugin: aws_ec2\n"),
            ("hosts", "plugin: \"nmap\" # x\n"),
            ("hosts", "$ANSIBLE_VAULT;1.1;AES256\n6162"),
        ] {
            assert!(matches!(form(name, text), Form::Refused(..)), "{name}: {text:?}");
            assert_eq!(faults(&[(name, text)]).len(), 1);
        }
    }

    #[test]
    fn an_inventory_that_is_not_there_or_too_large_is_one_fault() {
        let found = Inventory::read("a/hosts", &Memory::default()).unwrap_err();
        assert_eq!((found.len(), found[0].place.as_str()), (1, "a/hosts"));
        let large = "#".repeat(MAX_BYTES + 1);
        assert_eq!(faults(&[("hosts", &large)]), [format!("hosts: more than {MAX_BYTES} bytes of inventory")]);
    }

    #[test]
    fn a_hundred_thousand_hosts_are_read_at_once() {
        let mut text = String::from("[web]\nweb[00001:50000].example a=1\n[db]\n");
        for number in 0..50_000 {
            text.push_str(&format!("db{number} ansible_host=192.0.2.1 ansible_port=22 role='x'\n"));
        }
        text.push_str("[all:vars]\nsite=here\n");
        let start = std::time::Instant::now();
        let inventory = read(&[("hosts", &text)]);
        assert_eq!(inventory.hosts.len(), MAX_HOSTS);
        assert_eq!(inventory.limit("web:!web0*").unwrap().len(), 40_001);
        // Release does it in a tenth of this; the bound only catches what is not linear.
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
