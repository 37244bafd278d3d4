//! What an inventory says, before parents and precedence: hosts, groups, who is in which, each with its place. Names are
//! checked here, whatever form they come from. Must not know a form.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::rc::Rc;

use super::connection::{Layer, check_port};
use super::notes::{Mark, Notes};
use super::{MAX_HOSTS, range};
use crate::playbook::{nearest, shown};
use crate::types::is_forbidden;

/// Most groups of one inventory.
const MAX_GROUPS: usize = 10_000;
/// How often hosts may be named in all, ranges counted as what they make.
const MAX_MENTIONS: usize = 1_000_000;
/// Longest name of a host or group.
const LONGEST: usize = 255;

/// Index of the group `all`.
pub(super) const ALL: usize = 0;
/// Index of the group `ungrouped`.
pub(super) const UNGROUPED: usize = 1;

/// A host as it is named.
pub(super) struct HostDraft {
    pub name: String,
    pub at: Mark,
    /// Groups that name it, in any order, some perhaps twice.
    pub groups: Vec<usize>,
    /// What the inventory says, the last one wins; shared by the hosts of a range.
    pub layers: Vec<Rc<Layer>>,
    /// What files beside it say.
    pub beside: Layer,
}

/// A group as it is named.
#[derive(Default)]
pub(super) struct GroupDraft {
    pub name: String,
    pub at: Mark,
    /// Groups whose child it is, `all` left out, with the place that says so.
    pub parents: Vec<(usize, Mark)>,
    pub layer: Layer,
    pub beside: Layer,
    /// False while it was only referred to.
    pub declared: bool,
}

/// Everything that was read.
pub(super) struct Draft {
    pub notes: Notes,
    pub hosts: Vec<HostDraft>,
    pub groups: Vec<GroupDraft>,
    /// Set for keyward's own form, where what others read over is a fault.
    pub strict: bool,
    host_index: HashMap<String, usize>,
    group_index: HashMap<String, usize>,
    mentions: usize,
}

/// Whether a name may end with `:PORT`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ports {
    Allowed,
    Refused,
}

/// The hosts of one name or range.
#[derive(Default)]
pub(super) struct Named {
    pub hosts: Vec<usize>,
    pub port: Option<u16>,
}

impl Draft {
    /// With the groups that always are.
    pub fn new(prefix: String) -> Self {
        let mut draft = Self {
            notes: Notes::new(prefix),
            hosts: Vec::new(),
            groups: Vec::new(),
            strict: false,
            host_index: HashMap::new(),
            group_index: HashMap::new(),
            mentions: 0,
        };
        for name in ["all", "ungrouped"] {
            draft.group_index.insert(name.to_owned(), draft.groups.len());
            draft.groups.push(GroupDraft { name: name.to_owned(), declared: true, ..GroupDraft::default() });
        }
        draft
    }

    pub fn host_named(&self, name: &str) -> Option<usize> {
        self.host_index.get(name).copied()
    }

    pub fn group_named(&self, name: &str) -> Option<usize> {
        self.group_index.get(name).copied()
    }

    /// The group `name`, made if it is new; `None` when it cannot be one, which is noted.
    pub fn declare(&mut self, name: &str, at: Mark) -> Option<usize> {
        let index = self.refer(name, at)?;
        if let Some(group) = self.groups.get_mut(index).filter(|group| !group.declared) {
            (group.declared, group.at) = (true, at);
        }
        Some(index)
    }

    /// The group `name`, which is to be declared somewhere: [`Draft::undeclared`] notes a fault if it is not.
    pub fn refer(&mut self, name: &str, at: Mark) -> Option<usize> {
        if let Some(index) = self.group_named(name) {
            return Some(index);
        }
        if let Err(why) = check_name(name) {
            let what = format!("'{}' cannot be the name of a group: {why}", shown(name));
            self.notes.fault(at, what, "write letters, digits and '_'");
            return None;
        }
        if self.groups.len() >= MAX_GROUPS {
            self.notes.fault(at, format!("more than {MAX_GROUPS} groups"), "split the inventory");
            return None;
        }
        let index = self.groups.len();
        self.group_index.insert(name.to_owned(), index);
        self.groups.push(GroupDraft { name: name.to_owned(), at, ..GroupDraft::default() });
        Some(index)
    }

    /// Notes groups that were referred to and never declared.
    pub fn undeclared(&mut self) {
        for group in self.groups.iter().filter(|group| !group.declared) {
            let known = self.groups.iter().filter(|other| other.declared).map(|other| other.name.as_str());
            let hint = match nearest(&group.name, known) {
                Some(near) => format!("did you mean '{near}'?"),
                None => "declare the group, or remove its name here".to_owned(),
            };
            self.notes.fault(group.at, format!("there is no group '{}'", shown(&group.name)), hint);
        }
    }

    /// Makes `child` a child of `parent`.
    pub fn child(&mut self, parent: usize, child: usize, at: Mark) {
        if child == ALL || child == UNGROUPED && parent != ALL {
            let name = if child == ALL { "all" } else { "ungrouped" };
            self.notes.fault(at, format!("'{name}' cannot be the child of a group"), "name the groups that are meant");
        } else if let Some(group) = self.groups.get_mut(child).filter(|_| parent != ALL) {
            group.parents.push((parent, at));
        }
    }

    /// The hosts of `pattern`, a name or a range of names, each made if it is new, all in `group`.
    pub fn hosts(&mut self, pattern: &str, at: Mark, group: usize, ports: Ports) -> Named {
        let (name, port) = match split_port(pattern) {
            Ok((name, port)) => (name, port),
            Err(why) => {
                self.bad_host(pattern, at, why);
                return Named::default();
            }
        };
        if port.is_some() && ports == Ports::Refused {
            self.bad_host(pattern, at, "the port does not belong into the name");
            return Named::default();
        }
        let names = if name.parse::<Ipv6Addr>().is_ok() { Ok(vec![name.to_owned()]) } else { range::expand(name) };
        let names = match names {
            Ok(names) => names,
            Err(wrong) => {
                self.notes.fault(at, format!("'{}': {}", shown(pattern), wrong.what), wrong.hint);
                return Named::default();
            }
        };
        self.mentions += names.len();
        if self.mentions > MAX_MENTIONS {
            let what = format!("hosts are named more than {MAX_MENTIONS} times");
            self.notes.fault(at, what, "make the ranges smaller");
            self.mentions = MAX_MENTIONS;
            return Named::default();
        }
        // Names of one range differ in digits and letters only: if one is bad, all are.
        if let Some(Err(why)) = names.first().map(|name| check_name(name)) {
            self.bad_host(pattern, at, why);
            return Named::default();
        }
        let hosts = names.into_iter().map_while(|name| self.host(name, at, group)).collect();
        Named { hosts, port }
    }

    fn host(&mut self, name: String, at: Mark, group: usize) -> Option<usize> {
        let index = match self.host_index.get(&name) {
            Some(index) => *index,
            None if self.hosts.len() >= MAX_HOSTS => {
                self.notes.fault(at, format!("more than {MAX_HOSTS} hosts"), "split the inventory");
                return None;
            }
            None => {
                let index = self.hosts.len();
                self.host_index.insert(name.clone(), index);
                let (groups, layers) = (Vec::new(), Vec::new());
                self.hosts.push(HostDraft { name, at, groups, layers, beside: Layer::default() });
                index
            }
        };
        self.hosts.get_mut(index)?.groups.push(group);
        Some(index)
    }

    /// Puts a host into another group.
    pub fn join(&mut self, host: usize, group: usize, at: Mark) {
        self.mentions += 1;
        if self.mentions > MAX_MENTIONS {
            self.mentions = MAX_MENTIONS;
            let what = format!("hosts are named more than {MAX_MENTIONS} times");
            self.notes.fault(at, what, "make the ranges smaller");
        } else if let Some(host) = self.hosts.get_mut(host) {
            host.groups.push(group);
        }
    }

    fn bad_host(&mut self, pattern: &str, at: Mark, why: &str) {
        let hint = if pattern.contains('@') {
            "write the host only, and the account as its user (ansible_user in an inventory of Ansible)"
        } else {
            "write a name or an address, and a port as the host's port (ansible_port in an inventory of Ansible)"
        };
        // What stands in the place of a name may be anything, after a slip of quotes: it is shown if it looks like one.
        let plain = pattern.len() <= 64 && !pattern.contains(['=', ' ']);
        let what =
            if plain { format!("'{}' cannot be a host: {why}", shown(pattern)) } else { format!("not a host: {why}") };
        self.notes.fault(at, what, hint);
    }

    /// Lays `layer` over what was said of `hosts`.
    pub fn say(&mut self, hosts: &[usize], layer: Layer) {
        if layer.is_empty() {
            return;
        }
        let layer = Rc::new(layer);
        for index in hosts {
            if let Some(host) = self.hosts.get_mut(*index) {
                host.layers.push(Rc::clone(&layer));
            }
        }
    }
}

/// Host and port of `web:22`, `[2001:db8::1]:22`, `2001:db8::1`. Colons in the brackets of a range are no ports.
fn split_port(pattern: &str) -> Result<(&str, Option<u16>), &'static str> {
    let address = |text: &str| text.split('%').next().unwrap_or_default().parse::<Ipv6Addr>().is_ok();
    if address(pattern) {
        return Ok((pattern, None));
    }
    let bracketed = pattern.strip_prefix('[').and_then(|rest| rest.split_once(']')).filter(|(inner, _)| address(inner));
    let (host, port) = match bracketed {
        Some((inner, "")) => return Ok((inner, None)),
        Some((inner, rest)) => (inner, rest.strip_prefix(':').ok_or("something follows the bracket that is no port")?),
        None => match pattern.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => return Ok((pattern, None)),
        },
    };
    check_port(port)?;
    Ok((host, port.parse().ok()))
}

/// The rule for names of hosts and groups: looser than for what is connected to, but nothing that a terminal or a path
/// would read as more.
fn check_name(name: &str) -> Result<(), &'static str> {
    // Zero-width characters, joiners and tags: two names that look the same.
    let hidden = |c: char| {
        matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{fff9}'..='\u{fffb}'
            | '\u{fffd}' | '\u{e0000}'..='\u{e007f}')
    };
    if name.is_empty() || name.len() > LONGEST {
        return Err("the name is empty or longer than 255 bytes");
    }
    if name.contains(is_forbidden) || name.contains(hidden) || name.contains(|c: char| c.is_whitespace() && c != ' ') {
        return Err("the name holds a character that cannot be seen");
    }
    if name.contains(['/', '\\']) || name == "." || name == ".." {
        return Err("the name would read as a path");
    }
    if name.starts_with(['-', '!', '&', '~', '@', ' '])
        || name.ends_with(' ')
        || name.contains([',', '*', '?', '[', ']'])
    {
        return Err("the name would read as an option or a pattern");
    }
    if name.contains("{{") || name.contains("{%") {
        return Err("the name is a template");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(pattern: &str) -> (Vec<String>, Option<u16>, usize) {
        let mut draft = Draft::new(String::new());
        draft.notes.open("hosts", 0);
        let named = draft.hosts(pattern, Mark::default(), ALL, Ports::Allowed);
        let names = named.hosts.iter().map(|index| draft.hosts[*index].name.clone()).collect();
        (names, named.port, draft.notes.into_faults().len())
    }

    #[test]
    fn a_port_is_told_from_a_range_and_an_address() {
        for (pattern, host, port) in [
            ("web", "web", None),
            ("web:2222", "web", Some(2222)),
            ("[2001:db8::1]:22", "2001:db8::1", Some(22)),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("2001:db8::1", "2001:db8::1", None),
            ("fe80::1%eth0", "fe80::1%eth0", None),
            ("web[1:1]", "web1", None),
            ("web[1:1]:22", "web1", Some(22)),
            ("[a:a].x:22", "a.x", Some(22)),
        ] {
            assert_eq!(named(pattern), (vec![host.to_owned()], port, 0), "{pattern}");
        }
        for pattern in ["web:", "web:0", "web:x", "web:65536", "[2001:db8::1]22", "[2001:db8::1]:", ":22", "a:b:c"] {
            assert_eq!(named(pattern), (vec![], None, 1), "{pattern}");
        }
    }

    #[test]
    fn hostile_names_are_no_hosts_and_no_groups() {
        for name in [
            "",
            "../x",
            "a/b",
            "..",
            ".",
            "a\\b",
            "-oProxyCommand=id",
            "a\u{1b}[2J",
            "a\nb",
            "a\u{202e}b",
            "a\u{200b}b",
            "a\u{a0}b",
            "a*",
            "a?",
            "!a",
            "&a",
            "~a",
            "@a",
            "a,b",
            "{{ a }}",
            " a",
            "a ",
            &"a".repeat(256),
        ] {
            assert_eq!(named(name), (vec![], None, 1), "{name:?}");
            let mut draft = Draft::new(String::new());
            draft.notes.open("hosts", 0);
            assert_eq!((draft.declare(name, Mark::default()), draft.notes.into_faults().len()), (None, 1), "{name:?}");
        }
    }

    #[test]
    fn ranges_over_and_over_end() {
        let mut draft = Draft::new(String::new());
        draft.notes.open("hosts", 0);
        for _ in 0..12 {
            draft.hosts("n[1:100000]", Mark::default(), ALL, Ports::Allowed);
        }
        assert_eq!((draft.hosts.len(), draft.hosts[0].groups.len()), (MAX_HOSTS, 10));
        assert!(draft.notes.into_faults()[0].what.contains("more than 1000000 times"));
        let mut draft = Draft::new(String::new());
        draft.notes.open("hosts", 0);
        draft.hosts("n[1:100000]", Mark::default(), ALL, Ports::Allowed);
        draft.hosts("m[1:100000]", Mark::default(), ALL, Ports::Allowed);
        assert_eq!(draft.notes.into_faults()[0].what, "more than 100000 hosts");
    }
}
