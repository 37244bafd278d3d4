//! A valid playbook with everything that is needed to judge one host by it: the wiring of registry, packages and access
//! check. Used by the verbs on this machine and by the agent in a copy.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::access::{Present, WaysIn};
use crate::change::Plan;
use crate::engine::{self, About};
use crate::error::{Failure, Kind, Result};
use crate::facts::Facts;
use crate::host::Probe;
use crate::outcome::{Event, Exit, Sink};
use crate::playbook::{self, Faults, Playbook};
use crate::proof::session;
use crate::resource::{LoadedFile, Loader, OVERLAY, Task};
use crate::resources::audit::{self, Waiver};
use crate::resources::{REGISTRY, packages};
use crate::types::{PublicKey, UserName, Word as _};

use super::Ending;
use super::loader::FileLoader;

/// Between two looks at a busy host.
const PAUSE: Duration = Duration::from_secs(1);

/// A playbook that was found valid.
pub struct Job {
    /// Which playbook.
    pub about: About,
    /// In registry order, packages first.
    pub tasks: Vec<Box<dyn Task>>,
    /// The rule about ways in.
    pub access: WaysIn,
    /// Debian packages that the tasks need.
    pub packages: Vec<&'static str>,
    /// Keys of the playbook's administrators that open a session.
    pub declared: Vec<Declared>,
    /// Where the playbook puts sshd.
    pub ssh_port: Option<u16>,
    /// True when root gets in over SSH no more.
    pub without_root: bool,
    /// What an audit bears.
    pub waivers: Vec<Waiver>,
    /// Names of the playbook's variables.
    pub vars: Vec<String>,
    /// Every text that was read, to make the same job elsewhere.
    pub sources: Vec<LoadedFile>,
}

/// A key that the playbook declares for an administrator.
#[derive(Debug, Clone)]
pub struct Declared {
    /// The account.
    pub user: UserName,
    /// The key.
    pub key: PublicKey,
    /// False when it counts from some addresses only.
    pub everywhere: bool,
}

/// Texts read elsewhere, handed on.
pub struct Handed(pub Vec<LoadedFile>);

impl Loader for Handed {
    fn load(&self, name: &str) -> Result<String> {
        let found = self.0.iter().find(|file| file.name == name);
        found.map(|file| file.text.clone()).ok_or_else(|| Failure::input(name, "was not handed on"))
    }

    fn overlay(&self) -> Option<String> {
        self.0.iter().find(|file| file.name == OVERLAY).map(|file| file.text.clone())
    }
}

/// Why there is no job.
pub enum NoJob {
    /// The playbook's directory cannot be trusted or opened.
    Place(Failure),
    /// The playbook is wrong.
    Faults(Faults),
}

impl Job {
    /// Reads and checks the playbook that the user named.
    ///
    /// # Errors
    /// Every fault of it.
    pub fn open(name: &str) -> std::result::Result<Self, NoJob> {
        let loader = FileLoader::open(name).map_err(NoJob::Place)?;
        Self::load(name, &loader)
    }

    /// Checks a playbook read by any loader.
    ///
    /// # Errors
    /// Every fault of it.
    pub fn load(name: &str, loader: &dyn Loader) -> std::result::Result<Self, NoJob> {
        let playbook = playbook::load(name, REGISTRY, loader).map_err(NoJob::Faults)?;
        let needed: BTreeSet<&'static str> = playbook.tasks.iter().flat_map(|task| task.packages()).copied().collect();
        let needed: Vec<&'static str> = needed.into_iter().collect();
        let (access, declared, ssh) =
            (ways_in(&playbook), declared(&playbook), playbook.document.section("ssh").clone());
        let waivers = waivers(&playbook);
        let Playbook { digest, sources, tasks, vars, .. } = playbook;
        let mut all: Vec<Box<dyn Task>> = Vec::with_capacity(tasks.len() + 1);
        if !needed.is_empty() {
            all.push(packages::task(&needed));
        }
        all.extend(tasks);
        let about = About { playbook: name.to_owned(), digest };
        let (ssh_port, without_root) =
            (wanted_port(&ssh), ssh.get("permit_root_login").is_some_and(|value| value == "no"));
        Ok(Self {
            about,
            tasks: all,
            access,
            packages: needed,
            declared,
            ssh_port,
            without_root,
            waivers,
            vars,
            sources,
        })
    }

    /// With what can be known of the operator's own session, whose next login the plan must not surprise.
    pub fn for_operator(mut self) -> Self {
        self.access.present = operator;
        self
    }

    /// Facts of the host, and the plan. Every failure goes to the sink; the first decides the ending. A busy host is
    /// asked again until `wait` is over.
    ///
    /// # Errors
    /// How the verb ends.
    pub fn assess(
        &self,
        probe: &dyn Probe,
        wait: Duration,
        sink: &mut dyn Sink,
    ) -> std::result::Result<(Facts, Plan), Ending> {
        let deadline = Instant::now() + wait;
        loop {
            let failures = match engine::look(&self.tasks, &self.about, probe, &self.access) {
                Ok(found) => return Ok(found),
                Err(failures) => failures,
            };
            let busy = failures.first().is_some_and(|failure| failure.kind == Kind::Busy);
            if !busy || Instant::now() >= deadline {
                return Err(all_failed(failures, sink));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Tells every failure; the first is the worst.
pub fn all_failed(failures: Vec<Failure>, sink: &mut dyn Sink) -> Ending {
    let exit = failures.first().map_or(Exit::CannotJudge, |failure| Exit::before_any_change(failure.kind));
    for failure in failures {
        sink.event(Event::Failed { failure });
    }
    Ending::new(exit, "nothing was changed", "")
}

/// The failures that the playbook bears; it was found valid.
fn waivers(playbook: &Playbook) -> Vec<Waiver> {
    let section = playbook.document.section("audit").clone();
    serde_json::from_value::<audit::Desired>(section).map(|desired| desired.waive).unwrap_or_default()
}

fn wanted_port(ssh: &serde_json::Value) -> Option<u16> {
    u16::try_from(ssh.get("port")?.as_u64()?).ok()
}

/// The keys that administrators are declared with, but for those that run one command only.
fn declared(playbook: &Playbook) -> Vec<Declared> {
    let users = playbook.document.section("users").as_array().map(Vec::as_slice).unwrap_or_default();
    let mut found = Vec::new();
    for user in users.iter().filter(|user| user.get("admin").and_then(serde_json::Value::as_bool) == Some(true)) {
        let Some(name) = user.get("name").and_then(|name| UserName::parse(name.as_str()?).ok()) else { continue };
        let sources = user.get("authorized_keys").and_then(serde_json::Value::as_array);
        let given = |source: &&serde_json::Value, name: &str| match source.get(name) {
            None | Some(serde_json::Value::Null) => false,
            Some(value) => value.as_array().is_none_or(|list| !list.is_empty()),
        };
        for source in sources.into_iter().flatten().filter(|source| !given(source, "command")) {
            let everywhere = !given(&source, "from");
            let text = |value: Option<&serde_json::Value>| value.and_then(|v| v.as_str()).map(str::to_owned);
            let file = source.get("file").and_then(|file| text(file.get("text")));
            let texts = file.into_iter().chain(text(source.get("key")));
            let lines: Vec<String> =
                texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
            let keys = lines.iter().filter_map(|line| PublicKey::parse(line.trim()).ok());
            found.extend(keys.map(|key| Declared { user: name.clone(), key, everywhere }));
        }
    }
    found
}

/// Whose session this process belongs to.
fn operator(probe: &dyn Probe) -> Option<Present> {
    let session = session::around(std::process::id(), probe).ok().flatten();
    // Without a log that names the peer, what sshd gave the shell has to do; it only ever adds a warning.
    let given = || std::env::var("SSH_CONNECTION").ok()?.split(' ').next()?.parse().ok();
    let from = session.as_ref().and_then(|session| session.from).or_else(given);
    let user = session.map(|session| session.user);
    from.filter(|from: &IpAddr| !from.is_loopback()).map(|from| Present { from, user })
}

fn ways_in(playbook: &Playbook) -> WaysIn {
    let users = playbook.document.section("users").as_array().map(Vec::as_slice).unwrap_or_default();
    let admin = |user: &&serde_json::Value| user.get("admin").and_then(serde_json::Value::as_bool) == Some(true);
    let name = |user: &serde_json::Value| user.get("name").and_then(|name| name.as_str()).map(str::to_owned);
    WaysIn {
        at_least: usize::try_from(playbook.min_ways_in).unwrap_or(usize::MAX),
        declared: users.iter().filter(admin).filter_map(name).collect(),
        present: |_| None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_fills_in_what_the_playbook_declares_and_nothing_else() {
        let text = "version: 1\nvars: { admin: deploy }\nusers:\n  - { name: '{{ admin }}', password: locked }\n";
        let file = |name: &str, text: &str| LoadedFile { name: name.to_owned(), text: text.to_owned() };
        let load = |overlay: &str| {
            let sources = vec![file("p.yml", text), file(OVERLAY, overlay)];
            Job::load("dir/p.yml", &Handed(sources)).map(|job| (job.about.digest, job.sources.len()))
        };
        let claims = |overlay: &str| {
            let sources = vec![file("p.yml", text), file(OVERLAY, overlay)];
            let job = Job::load("p.yml", &Handed(sources)).ok().unwrap();
            job.tasks.iter().map(|task| format!("{:?}", task.claims())).collect::<String>()
        };
        assert!(claims("version: 1\nvars: { admin: ada, other: [1] }").contains("ada"));
        assert!(claims("version: 1\nvars: { other: {x: 1} }").contains("deploy"), "not declared");
        assert!(load("version: 1\nvars: { admin: [ada] }").is_err(), "no value for it");
        assert!(load("{").is_err());
        // What is handed on makes the same job there: the overlay goes with the files, and is in the digest.
        let (one, other) = (load("version: 1\nvars: { admin: ada }"), load("version: 1\nvars: { admin: bob }"));
        let (one, other) = (one.ok().unwrap(), other.ok().unwrap());
        assert!(one.1 == 2 && one.0 != other.0);
    }
}
