//! A host that does everything for real, but for one act that fails before it does anything.

use std::cell::Cell;

use keyward::error::{Failure, Result};
use keyward::host::{AccountEdit, Actor, Command, Host, Image, Listener, Meta, Node, Output, Probe, Staged};
use keyward::types::{AbsPath, Port};

pub struct FailingHost<'a> {
    host: &'a dyn Host,
    fail_at: Option<usize>,
    acts: Cell<usize>,
}

impl<'a> FailingHost<'a> {
    pub fn new(host: &'a dyn Host, fail_at: Option<usize>) -> Self {
        Self { host, fail_at, acts: Cell::new(0) }
    }

    /// How many acts were asked for before or while it failed; acts of the undo do not count.
    pub fn acts(&self) -> usize {
        self.acts.get()
    }

    fn act(&self) -> Result<()> {
        if self.fail_at.is_some_and(|at| self.acts.get() >= at) {
            return Ok(());
        }
        self.acts.set(self.acts.get() + 1);
        if self.fail_at == Some(self.acts.get()) {
            return Err(Failure::failed("test", "this act was made to fail"));
        }
        Ok(())
    }
}

impl Probe for FailingHost<'_> {
    fn meta(&self, path: &AbsPath, actor: &Actor) -> Result<Option<Meta>> {
        self.host.meta(path, actor)
    }
    fn read(&self, path: &AbsPath, actor: &Actor) -> Result<Option<Vec<u8>>> {
        self.host.read(path, actor)
    }
    fn list(&self, path: &AbsPath, actor: &Actor) -> Result<Option<Vec<String>>> {
        self.host.list(path, actor)
    }
    fn link(&self, path: &AbsPath) -> Result<Option<String>> {
        self.host.link(path)
    }
    fn ask(&self, command: &Command) -> Result<Output> {
        self.host.ask(command)
    }
    fn has_program(&self, path: &str) -> bool {
        self.host.has_program(path)
    }
    fn listeners(&self) -> Result<Vec<Listener>> {
        self.host.listeners()
    }

    fn datagram_sockets(&self) -> Result<Vec<Listener>> {
        self.host.datagram_sockets()
    }
    fn ask_staged(&self, files: &[Staged], command: &Command) -> Result<Output> {
        self.host.ask_staged(files, command)
    }
}

impl Host for FailingHost<'_> {
    fn capture(&self, path: &AbsPath, actor: &Actor) -> Result<Image> {
        self.host.capture(path, actor)
    }
    fn put(&self, path: &AbsPath, actor: &Actor, node: &Node) -> Result<()> {
        self.act()?;
        self.host.put(path, actor, node)
    }
    fn remove(&self, path: &AbsPath, actor: &Actor) -> Result<()> {
        self.act()?;
        self.host.remove(path, actor)
    }
    fn restore(&self, path: &AbsPath, actor: &Actor, image: &Image) -> Result<()> {
        self.host.restore(path, actor, image)
    }
    fn account(&self, edits: &[AccountEdit]) -> Result<Vec<AccountEdit>> {
        self.act()?;
        self.host.account(edits)
    }
    fn account_undo(&self, edits: &[AccountEdit]) -> Result<Vec<AccountEdit>> {
        self.host.account_undo(edits)
    }
    fn run(&self, command: &Command) -> Result<Output> {
        self.act()?;
        self.host.run(command)
    }
    fn hangup(&self, pidfile: &AbsPath, program: &AbsPath, by: Option<&Command>) -> Result<()> {
        self.act()?;
        self.host.hangup(pidfile, program, by)
    }
    fn keep_sessions(&self, ports: &[Port]) -> Result<()> {
        self.host.keep_sessions(ports)
    }
}
