//! The state of the in-memory host: a tree of nodes and the sockets that listen. A plain value: cloned, compared, edited
//! by tests and by program models. Must not refuse anything; that is the host's part.

use std::collections::BTreeMap;

use crate::host::{FileKind, Listener, Meta};
use crate::types::{AbsPath, Proto, Word};

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stuff {
    /// A regular file and its bytes.
    File(Vec<u8>),
    /// A directory.
    Dir,
    /// A symbolic link and its target.
    Link(String),
    /// A fifo, socket or device.
    Other,
}

/// A node of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub stuff: Stuff,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Number of hard links; the twin knows one name of each file, so this is only a number.
    pub links: u64,
}

/// A whole host as a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    nodes: BTreeMap<String, Entry>,
    /// Sockets that take what strangers send.
    pub listeners: Vec<Listener>,
}

/// As many links as path_resolution(7) follows.
const LINKS: usize = 40;

impl Entry {
    /// A node owned by root.
    pub const fn new(stuff: Stuff, mode: u32) -> Self {
        Self { stuff, mode, uid: 0, gid: 0, xattrs: BTreeMap::new(), links: 1 }
    }

    /// lstat(2) of it.
    pub fn meta(&self) -> Meta {
        let (kind, size) = match &self.stuff {
            Stuff::File(bytes) => (FileKind::File, bytes.len()),
            Stuff::Dir => (FileKind::Dir, 0),
            Stuff::Link(target) => (FileKind::Link, target.len()),
            Stuff::Other => (FileKind::Other, 0),
        };
        let size = u64::try_from(size).unwrap_or(u64::MAX);
        Meta { kind, mode: self.mode, uid: self.uid, gid: self.gid, size, links: self.links }
    }
}

impl Default for World {
    fn default() -> Self {
        let nodes = BTreeMap::from([("/".to_owned(), Entry::new(Stuff::Dir, 0o755))]);
        Self { nodes, listeners: Vec::new() }
    }
}

impl World {
    /// The sockets of a protocol, sorted.
    pub fn sockets(&self, proto: Proto) -> Vec<Listener> {
        let mut found: Vec<Listener> = self.listeners.iter().filter(|socket| socket.proto == proto).cloned().collect();
        found.sort();
        found
    }

    /// Puts a node at a clean absolute path, with its missing parents as root's directories of mode 0755.
    /// A path that is not clean is left out.
    pub fn set(&mut self, path: &str, entry: Entry) {
        let Ok(clean) = AbsPath::parse(path) else { return };
        let mut above = clean.parent();
        while let Some(parent) = above {
            self.nodes.entry(parent.as_str().to_owned()).or_insert_with(|| Entry::new(Stuff::Dir, 0o755));
            above = parent.parent();
        }
        self.nodes.insert(path.to_owned(), entry);
    }

    /// A file of root's.
    pub fn file(&mut self, path: &str, text: impl Into<Vec<u8>>, mode: u32) {
        self.set(path, Entry::new(Stuff::File(text.into()), mode));
    }

    /// A directory of root's.
    pub fn dir(&mut self, path: &str, mode: u32) {
        self.set(path, Entry::new(Stuff::Dir, mode));
    }

    /// A symbolic link of root's.
    pub fn link(&mut self, path: &str, target: &str) {
        self.set(path, Entry::new(Stuff::Link(target.to_owned()), 0o777));
    }

    /// Gives a node to somebody.
    pub fn own(&mut self, path: &str, uid: u32, gid: u32) {
        if let Some(entry) = self.nodes.get_mut(path) {
            (entry.uid, entry.gid) = (uid, gid);
        }
    }

    /// The node at exactly this path, following nothing.
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        self.nodes.get(path)
    }

    /// The same, to be changed.
    pub fn entry_mut(&mut self, path: &str) -> Option<&mut Entry> {
        self.nodes.get_mut(path)
    }

    /// The text of the file that a program sees at this path, links followed.
    pub fn text(&self, path: &str) -> Option<String> {
        let path = self.resolve(path, true)?;
        match &self.nodes.get(&path)?.stuff {
            Stuff::File(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    /// Takes a node and all below it away.
    pub fn clear(&mut self, path: &str) {
        let below = format!("{path}/");
        self.nodes.retain(|name, _| name != path && !name.starts_with(&below));
    }

    /// Names in a directory, sorted by byte.
    pub fn names(&self, path: &str) -> Vec<String> {
        let head = if path == "/" { "/".to_owned() } else { format!("{path}/") };
        let inside = self.nodes.range(head.clone()..).map(|(name, _)| name);
        let mut names: Vec<String> = inside
            .take_while(|name| name.starts_with(&head))
            .filter_map(|name| name.strip_prefix(&head))
            .filter(|name| !name.is_empty() && !name.contains('/'))
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }

    /// All nodes by path.
    pub const fn nodes(&self) -> &BTreeMap<String, Entry> {
        &self.nodes
    }

    /// The path a program ends up at: links in parents followed, the last one too if `last`. `None` when a parent is
    /// missing or no directory, or for a loop. The last component itself need not be there.
    pub fn resolve(&self, path: &str, last: bool) -> Option<String> {
        let mut rest: Vec<String> = path.split('/').rev().filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let mut here = String::new();
        let mut followed = 0;
        while let Some(name) = rest.pop() {
            match name.as_str() {
                "." => continue,
                ".." => {
                    here.truncate(here.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let next = format!("{here}/{name}");
            match self.nodes.get(&next).map(|entry| &entry.stuff) {
                Some(Stuff::Link(target)) if last || !rest.is_empty() => {
                    followed += 1;
                    if followed > LINKS {
                        return None;
                    }
                    if target.starts_with('/') {
                        here.clear();
                    }
                    rest.extend(target.split('/').rev().filter(|part| !part.is_empty()).map(str::to_owned));
                }
                Some(Stuff::Dir) => here = next,
                _ if rest.is_empty() => here = next,
                _ => return None,
            }
        }
        Some(if here.is_empty() { "/".to_owned() } else { here })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_where_programs_end_up() {
        let mut world = World::default();
        world.file("/a/b/c", "text", 0o644);
        world.link("/a/l", "b/../b");
        world.link("/up", "/a/l/c");
        world.link("/loop", "/loop");
        let seen = |path, last| world.resolve(path, last);
        assert_eq!(seen("/up", true).as_deref(), Some("/a/b/c"));
        assert_eq!(seen("/up", false).as_deref(), Some("/up"));
        assert_eq!(seen("/a/l/c", false).as_deref(), Some("/a/b/c"));
        assert_eq!(seen("/a/l/new", false).as_deref(), Some("/a/b/new"));
        assert_eq!(seen("/", true).as_deref(), Some("/"));
        assert_eq!(seen("/loop/x", true), None);
        assert_eq!(seen("/a/b/c/d", true), None);
        assert_eq!(world.text("/up").as_deref(), Some("text"));
        assert_eq!(world.names("/a"), ["b", "l"]);
        assert_eq!(world.names("/"), ["a", "loop", "up"]);
        world.clear("/a/b");
        assert_eq!(world.names("/a"), ["l"]);
    }
}
