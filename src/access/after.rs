//! A host as it would be after a plan: reads go through the plan's own steps first, then to the machine. What a program
//! would say afterwards cannot be asked, but for sshd, whose composed candidate the plan carries, and the firewall, whose
//! commits are replayed on a model.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::change::{Action, Change, Gate, Promise, Step};
use crate::error::Result;
use crate::formats::accounts::Records;
use crate::formats::netfilter::Ruleset;
use crate::host::{
    AccountEdit, Actor, Command, Database, FileKind, Image, Listener, Meta, Node, Output, Owner, Probe, Staged,
    as_edited,
};
use crate::types::AbsPath;

/// What stands at a path after the plan.
#[derive(Debug, Clone)]
enum Spot {
    Gone,
    Link(String),
    Is(Meta, Vec<u8>),
}

/// The host after `changes`.
pub struct After<'a> {
    probe: &'a dyn Probe,
    changes: &'a [Change],
    /// What is promised of it.
    pub promises: &'a [Promise],
    spots: RefCell<BTreeMap<AbsPath, Spot>>,
    /// What sshd said about its candidate, by the criteria: each account asks, and without conditions all ask the same.
    said: RefCell<BTreeMap<Option<String>, Result<Output>>>,
}

impl<'a> After<'a> {
    /// Applies the steps to what is read.
    ///
    /// # Errors
    /// When the databases cannot be read or edited so.
    pub fn new(probe: &'a dyn Probe, changes: &'a [Change], promises: &'a [Promise]) -> Result<Self> {
        let after = Self { probe, changes, promises, spots: RefCell::default(), said: RefCell::default() };
        for step in changes.iter().flat_map(|change| &change.steps) {
            after.take(step)?;
        }
        Ok(after)
    }

    /// The machine as it is.
    pub fn now(&self) -> &'a dyn Probe {
        self.probe
    }

    fn take(&self, step: &Step) -> Result<()> {
        match step {
            Step::Account { edits } => self.databases(edits)?,
            Step::Put { path, actor, node } => {
                let spot = self.put(actor, node)?;
                self.spots.borrow_mut().insert(path.clone(), spot);
            }
            Step::Remove { path, .. } => {
                self.spots.borrow_mut().insert(path.clone(), Spot::Gone);
            }
            Step::Restore { path, image, .. } => {
                self.spots.borrow_mut().insert(path.clone(), restored(image));
            }
            Step::Run { .. } => {}
        }
        Ok(())
    }

    fn databases(&self, edits: &[AccountEdit]) -> Result<()> {
        for (db, bytes) in as_edited(edits, self)? {
            let meta = self.meta(&db.path(), &Actor::Root)?;
            let meta = meta.unwrap_or_else(|| file(0o644, 0, 0, 0));
            self.spots.borrow_mut().insert(db.path(), Spot::Is(meta, bytes));
        }
        Ok(())
    }

    fn put(&self, actor: &Actor, node: &Node) -> Result<Spot> {
        let (Node::File { mode, owner, .. } | Node::Dir { mode, owner }) = node;
        let (uid, gid) = match (owner, actor) {
            (Owner::Ids { uid, gid }, _) => (*uid, *gid),
            (Owner::Actor, Actor::Root) => (0, 0),
            (Owner::Actor, Actor::User(name)) => {
                let bytes = self.read(&Database::Passwd.path(), &Actor::Root)?.unwrap_or_default();
                let entry = Records::parse(&bytes).passwd_entry(name.as_str());
                entry.map_or((0, 0), |entry| (entry.uid, entry.gid))
            }
        };
        Ok(match node {
            Node::File { content, .. } => Spot::Is(file(*mode, uid, gid, content.len()), content.clone()),
            Node::Dir { .. } => Spot::Is(Meta { kind: FileKind::Dir, ..file(*mode, uid, gid, 0) }, Vec::new()),
        })
    }

    /// The check of the final configuration of sshd, when the plan changes it.
    fn candidate(&self) -> Option<&Gate> {
        let mut gates = self.changes.iter().filter(|change| change.resource == "sshd").flat_map(|change| &change.gates);
        let whole = |gate: &&Gate| {
            let has = |word: &str| gate.command.argv.iter().any(|arg| arg == word);
            has("-T") && !has("-C")
        };
        gates.rfind(whole)
    }

    /// Asks sshd about the configuration that it will have; `None` when the plan leaves it as it is.
    pub fn ask_sshd(&self, criteria: Option<&str>) -> Option<Result<Output>> {
        let gate = self.candidate()?;
        let criteria = criteria.map(str::to_owned);
        if let Some(said) = self.said.borrow().get(&criteria) {
            return Some(said.clone());
        }
        let mut command = gate.command.clone();
        command.argv.extend(criteria.iter().flat_map(|criteria| ["-C".to_owned(), criteria.clone()]));
        let said = self.probe.ask_staged(&gate.staged, &command);
        self.said.borrow_mut().insert(criteria, said.clone());
        Some(said)
    }

    /// Replays the commits of a family (`iptables` or `ip6tables`) on its rules.
    ///
    /// # Errors
    /// The line that makes no sense.
    pub fn replay(&self, name: &str, rules: &mut Ruleset) -> std::result::Result<(), String> {
        let program = format!("/usr/sbin/{name}-restore");
        for action in self.changes.iter().flat_map(|change| &change.activation.forward) {
            let (Action::Run(command) | Action::When { run: command, .. }) = action else { continue };
            if command.program() != program {
                continue;
            }
            // Without an input it reads a file of ufw's, as the plan leaves it.
            let named = || command.argv.last().and_then(|path| <AbsPath as crate::types::Word>::parse(path).ok());
            let text = match (command.stdin.is_empty(), named()) {
                (false, _) => command.stdin.clone(),
                (true, Some(path)) => self.read(&path, &Actor::Root).ok().flatten().unwrap_or_default(),
                (true, None) => continue,
            };
            rules.restore(&String::from_utf8_lossy(&text))?;
        }
        Ok(())
    }

    fn spot(&self, path: &AbsPath) -> Option<Spot> {
        self.spots.borrow().get(path).cloned()
    }
}

const fn file(mode: u32, uid: u32, gid: u32, size: usize) -> Meta {
    Meta { kind: FileKind::File, mode, uid, gid, size: size as u64, links: 1 }
}

fn restored(image: &Image) -> Spot {
    match image {
        Image::Absent => Spot::Gone,
        Image::File { content, mode, uid, gid, .. } => {
            Spot::Is(file(*mode, *uid, *gid, content.len()), content.clone())
        }
        Image::Dir { mode, uid, gid, .. } => {
            Spot::Is(Meta { kind: FileKind::Dir, ..file(*mode, *uid, *gid, 0) }, Vec::new())
        }
        Image::Link { target, .. } => Spot::Link(target.clone()),
    }
}

impl Probe for After<'_> {
    fn meta(&self, path: &AbsPath, actor: &Actor) -> Result<Option<Meta>> {
        match self.spot(path) {
            Some(Spot::Gone) => Ok(None),
            Some(Spot::Link(_)) => Ok(Some(Meta { kind: FileKind::Link, ..file(0o777, 0, 0, 0) })),
            Some(Spot::Is(meta, _)) => Ok(Some(meta)),
            None => self.probe.meta(path, actor),
        }
    }

    fn read(&self, path: &AbsPath, actor: &Actor) -> Result<Option<Vec<u8>>> {
        match self.spot(path) {
            Some(Spot::Gone) => Ok(None),
            Some(Spot::Is(_, bytes)) => Ok(Some(bytes)),
            Some(Spot::Link(_)) | None => self.probe.read(path, actor),
        }
    }

    fn list(&self, path: &AbsPath, actor: &Actor) -> Result<Option<Vec<String>>> {
        let mut names = match self.spot(path) {
            Some(Spot::Gone) => return Ok(None),
            _ => self.probe.list(path, actor)?,
        };
        for (at, spot) in self.spots.borrow().iter().filter(|(at, _)| at.parent().as_ref() == Some(path)) {
            let there = names.get_or_insert_default();
            there.retain(|name| name != at.file_name());
            if !matches!(spot, Spot::Gone) {
                there.push(at.file_name().to_owned());
            }
            there.sort();
        }
        Ok(names)
    }

    fn link(&self, path: &AbsPath) -> Result<Option<String>> {
        match self.spot(path) {
            Some(Spot::Link(target)) => Ok(Some(target)),
            Some(_) => Ok(None),
            None => self.probe.link(path),
        }
    }

    fn ask(&self, command: &Command) -> Result<Output> {
        self.probe.ask(command)
    }

    fn has_program(&self, path: &str) -> bool {
        self.probe.has_program(path)
    }

    fn listeners(&self) -> Result<Vec<Listener>> {
        self.probe.listeners()
    }

    fn datagram_sockets(&self) -> Result<Vec<Listener>> {
        self.probe.datagram_sockets()
    }

    fn ask_staged(&self, files: &[Staged], command: &Command) -> Result<Output> {
        self.probe.ask_staged(files, command)
    }
}
