//! A running copy of a lab tree as [`Probe`], and the prover on it.

use std::net::IpAddr;

use keyward::change::{Change, Promise, Step};
use keyward::error::{Failure, Result};
use keyward::facts::Facts;
use keyward::host::{Actor, Command, FileKind, Listener, Meta, Node, Output, Probe, Staged};
use keyward::outcome::{Evidence, Moment, Proven, Reach};
use keyward::proof::{OutsideProver, RootKey, Route, WORKER_ARG};
use keyward::resource::Prover as _;
use keyward::target::sandbox::{INSIDE_V4, INSIDE_V6, sources};
use keyward::types::{AbsPath, Port, Proto, UserName, Word as _};

use super::Outside;
use super::support::Bed;

/// Reads the copy through its own programs.
pub struct Looks<'a>(pub &'a Bed);

impl Probe for Looks<'_> {
    fn meta(&self, path: &AbsPath, _: &Actor) -> Result<Option<Meta>> {
        let done = self.0.run(&["/usr/bin/stat", "-c", "%f %u %g %s %h", path.as_str()]);
        if done.code != 0 {
            return Ok(None);
        }
        let mut words = done.stdout.split_whitespace();
        let raw = u32::from_str_radix(words.next().unwrap(), 16).unwrap();
        let kind = match raw & 0o170_000 {
            0o100_000 => FileKind::File,
            0o040_000 => FileKind::Dir,
            0o120_000 => FileKind::Link,
            _ => FileKind::Other,
        };
        let mut next = || words.next().unwrap().parse::<u64>().unwrap();
        let (uid, gid) = (u32::try_from(next()).unwrap(), u32::try_from(next()).unwrap());
        Ok(Some(Meta { kind, mode: raw & 0o7777, uid, gid, size: next(), links: next() }))
    }

    fn read(&self, path: &AbsPath, _: &Actor) -> Result<Option<Vec<u8>>> {
        // Zone files are not UTF-8, so bytes travel as hexadecimal digits.
        let done = self.0.run(&["/usr/bin/od", "-An", "-v", "-tx1", path.as_str()]);
        let bytes = done.stdout.split_whitespace().map(|hex| u8::from_str_radix(hex, 16).unwrap()).collect();
        Ok((done.code == 0).then_some(bytes))
    }

    fn list(&self, _: &AbsPath, _: &Actor) -> Result<Option<Vec<String>>> {
        Err(Failure::unknown("copy", "not asked for in these tests"))
    }

    fn link(&self, _: &AbsPath) -> Result<Option<String>> {
        Err(Failure::unknown("copy", "not asked for in these tests"))
    }

    fn ask(&self, command: &Command) -> Result<Output> {
        let argv: Vec<&str> = command.argv.iter().map(String::as_str).collect();
        let done = self.0.run_with(&argv, &command.stdin);
        Ok(Output { code: done.code, stdout: done.stdout, stderr: done.stderr })
    }

    fn has_program(&self, path: &str) -> bool {
        self.0.run(&["/usr/bin/test", "-x", path]).code == 0
    }

    fn listeners(&self) -> Result<Vec<Listener>> {
        let table = self.0.run(&["/usr/bin/ss", "-Hltnp"]).ok().stdout;
        let listener = |line: &str| {
            let local = line.split_whitespace().nth(3)?;
            let (address, port) = local.rsplit_once(':')?;
            let address = address.trim_matches(['[', ']']).replace('*', "::");
            let programs = if line.contains("\"sshd\"") { vec!["sshd".to_owned()] } else { Vec::new() };
            Some(Listener { address: address.parse().ok()?, port: port.parse().ok()?, proto: Proto::Tcp, programs })
        };
        Ok(table.lines().filter_map(listener).collect())
    }

    fn datagram_sockets(&self) -> Result<Vec<Listener>> {
        Err(Failure::unknown("copy", "not asked for in these tests"))
    }

    fn ask_staged(&self, _: &[Staged], _: &Command) -> Result<Output> {
        Err(Failure::unknown("copy", "not asked for in these tests"))
    }
}

/// A copy with the account `deploy` (sudo without password, a home with `~/.ssh`).
pub struct Host {
    pub bed: Bed,
}

pub fn user(name: &str) -> UserName {
    UserName::parse(name).unwrap()
}

pub fn port(number: u16) -> Port {
    Port::new(number).unwrap()
}

pub fn admin() -> Promise {
    Promise::Admin { user: user("deploy"), nopasswd: true }
}

/// The evidence whose text begins so; there must be some.
#[track_caller]
pub fn about<'a>(evidence: &'a [Evidence], start: &str) -> Vec<&'a Evidence> {
    let found: Vec<_> = evidence.iter().filter(|piece| piece.what.starts_with(start)).collect();
    assert!(!found.is_empty(), "no evidence about '{start}' in {evidence:#?}");
    found
}

#[track_caller]
pub fn all(evidence: &[Evidence], start: &str, proven: Proven) {
    for piece in about(evidence, start) {
        assert_eq!(piece.proven, proven, "{piece:#?}");
    }
}

impl Host {
    #[track_caller]
    pub fn new(name: &str, suite: &str) -> Option<Self> {
        let bed = Bed::new(name, suite)?;
        bed.sh("useradd -m -s /bin/bash -G sudo -p '*' deploy
             install -d -m 700 -o deploy -g deploy /home/deploy/.ssh
             echo 'deploy ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/deploy
             chmod 440 /etc/sudoers.d/deploy")
            .ok();
        Some(Self { bed })
    }

    /// Lays a drop-in before all others and reloads sshd.
    #[track_caller]
    pub fn sshd(&self, text: &str) {
        self.bed.plant("/etc/ssh/sshd_config.d/00-test.conf", text.as_bytes(), 0o600, (0, 0));
        // The pid file is written anew once the sockets of the new configuration are open.
        let reload = "sshd -t; old=$(cat /run/sshd.pid); rm /run/sshd.pid; kill -HUP $old
             i=0; until [ -s /run/sshd.pid ] || [ $i -gt 200 ]; do i=$((i+1)); sleep 0.02; done; [ -s /run/sshd.pid ]";
        self.bed.sh(reload).ok();
    }

    /// A prover in the outside world.
    pub fn prover(&self, root_key: RootKey) -> (OutsideProver, std::process::Child) {
        let mut command = self.bed.sandbox.outside().unwrap();
        command.arg(WORKER_ARG);
        let (pipe, child) = Outside::of(&mut command).part();
        let route = Route {
            addresses: vec![IpAddr::V4(INSIDE_V4), IpAddr::V6(INSIDE_V6)],
            sources: sources().collect(),
            reach: Reach::L2,
        };
        (OutsideProver::new(Box::new(pipe), route, root_key), child)
    }

    /// Makes the prover's changes as the engine would, proves, and takes them back.
    #[track_caller]
    pub fn proves(&self, prover: &mut OutsideProver, moment: Moment, promises: &[Promise]) -> Vec<Evidence> {
        let looks = Looks(&self.bed);
        let facts = Facts::gather(&looks).unwrap();
        let changes = prover.scaffold(promises, &facts, &looks).unwrap();
        let before: Vec<_> = changes.iter().flat_map(|change| self.make(change)).collect();
        let evidence = prover.prove(moment, promises, &looks).unwrap();
        for (path, content) in before.into_iter().rev() {
            match content {
                Some(bytes) => self.bed.plant(&path, &bytes, 0o600, owner(&path)),
                None => drop(self.bed.run(&["/bin/rm", "-f", &path]).ok()),
            }
        }
        evidence
    }

    #[track_caller]
    fn make(&self, change: &Change) -> Vec<(String, Option<Vec<u8>>)> {
        let mut before = Vec::new();
        for step in &change.steps {
            let Step::Put { path, actor, node } = step else { panic!("only files are put: {step:?}") };
            match node {
                Node::Dir { .. } => drop(self.bed.sh(&format!("install -d -m 700 {path}")).ok()),
                Node::File { content, mode, .. } => {
                    before.push((path.to_string(), Looks(&self.bed).read(path, actor).unwrap()));
                    self.bed.plant(path.as_str(), content, *mode, owner(path.as_str()));
                }
            }
        }
        before
    }
}

/// The first account of a Debian has user id 1000.
fn owner(path: &str) -> (u32, u32) {
    if path.starts_with("/home/") { (1000, 1000) } else { (0, 0) }
}
