//! Which hosts, and what each of them is told: the inventory and the files beside it, the playbook with what the inventory
//! says of its variables, and how each host is reached.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::error::{Failure, Result};
use crate::fleet::inventory::{Files, Inventory, MAX_BYTES};
use crate::resource::{LoadedFile, OVERLAY};
use crate::target::ssh::Destination;

use super::super::args::Cli;
use super::super::far::args::LoginArgs;
use super::super::job::{Handed, Job, NoJob};
use super::super::loader::Beside;

/// One host.
pub struct Host {
    /// As the inventory names it.
    pub name: String,
    /// Where it is.
    pub place: Destination,
    /// How to get in.
    pub login: LoginArgs,
    /// What an inventory says of the playbook's variables, as a playbook; empty when nothing.
    overlay: String,
}

/// The hosts that are meant, and what they are told.
pub struct Crew {
    /// In the order of the inventory.
    pub hosts: Vec<Host>,
    /// Number of the bastion that a host shares with others.
    pub lanes: Vec<Option<u32>>,
    /// Digest of what the inventory says of them.
    pub digest: String,
    /// What was not understood: a line each, and what to do.
    pub unread: Vec<(String, String)>,
    /// The playbook as the user named it, and all that it is made of.
    playbook: Option<(String, Vec<LoadedFile>)>,
    /// What came of it with each overlay; most hosts share theirs.
    jobs: Mutex<BTreeMap<String, Result<Arc<Job>>>>,
}

impl Crew {
    /// Reads the inventory and chooses its hosts. `job` is the playbook as it is without an inventory.
    ///
    /// # Errors
    /// Every fault of the inventory; that nobody is meant.
    pub fn gather(cli: &Cli, job: Option<&Job>) -> std::result::Result<Self, Vec<Failure>> {
        let args = &cli.global.fleet;
        let file = args.inventory.as_deref().unwrap_or_else(|| Path::new("-"));
        let name = file.to_str().ok_or_else(|| vec![Failure::input("inventory", "the path is not UTF-8")])?;
        let beside = Beside::open(name, MAX_BYTES).map_err(|failure| vec![failure])?;
        let inventory = Inventory::read(name, &beside)?;
        let chosen = match &args.limit {
            None => (0..inventory.hosts.len()).collect(),
            Some(pattern) => inventory.limit(pattern).map_err(|failure| vec![failure])?,
        };
        if chosen.is_empty() {
            return Err(vec![
                Failure::input(name, "names no host").hint("keyward's own form: version: 1, hosts: { web1: {} }"),
            ]);
        }
        let unread =
            inventory.unread.iter().map(|one| (format!("{}: {}", one.at, one.what), one.hint.clone())).collect();
        let directory = file.parent().unwrap_or_else(|| Path::new("")).to_owned();
        let (mut hosts, mut sum) = (Vec::new(), Sha256::new());
        for host in chosen.into_iter().filter_map(|index| inventory.hosts.get(index)) {
            let overlay = overlay(&host.vars, job.map(|job| job.vars.as_slice()).unwrap_or_default());
            for part in [&host.name, &host.place.to_string(), &overlay] {
                sum.update(part.len().to_be_bytes());
                sum.update(part);
            }
            let mut login = cli.global.login.clone();
            login.login_key.extend(host.keys.iter().map(|key| expanded(key, &directory)));
            login.jump.clone_from(&host.jump);
            hosts.push(Host { name: host.name.clone(), place: host.place.clone(), login, overlay });
        }
        let lanes = lanes(&hosts);
        let digest = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let playbook = job.map(|job| (job.about.playbook.clone(), job.sources.clone()));
        Ok(Self { hosts, lanes, digest, unread, playbook, jobs: Mutex::default() })
    }

    /// The playbook as it is for one host.
    ///
    /// # Errors
    /// A fault that only this host's variables make.
    pub fn job(&self, host: usize) -> Result<Option<Arc<Job>>> {
        let (Some((name, sources)), Some(host)) = (&self.playbook, self.hosts.get(host)) else { return Ok(None) };
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = jobs.get(&host.overlay) {
            return known.clone().map(Some);
        }
        let job = with_overlay(name, sources.clone(), &host.overlay).map(Arc::new);
        jobs.insert(host.overlay.clone(), job.clone());
        job.map(Some)
    }
}

fn with_overlay(name: &str, mut sources: Vec<LoadedFile>, overlay: &str) -> Result<Job> {
    if !overlay.is_empty() {
        sources.push(LoadedFile { name: OVERLAY.to_owned(), text: overlay.to_owned() });
    }
    Job::load(name, &Handed(sources)).map_err(|none| match none {
        NoJob::Place(failure) => failure,
        NoJob::Faults(faults) => faults.items.first().map_or_else(
            || Failure::input(name, "is faulty for this host"),
            |item| Failure::input(format!("{}:{}", item.file, item.line), &item.what).hint(&item.hint),
        ),
    })
}

/// The variables that the playbook declares, as a playbook that lays them over its own; JSON is YAML. Others, which may be
/// secrets of somebody else's, stay here.
fn overlay(vars: &BTreeMap<String, serde_json::Value>, declared: &[String]) -> String {
    let vars: BTreeMap<_, _> = vars.iter().filter(|(name, _)| declared.contains(name)).collect();
    if vars.is_empty() {
        return String::new();
    }
    serde_json::to_string(&serde_json::json!({ "version": 1, "vars": vars })).unwrap_or_default()
}

/// `~` is this user's home; another path is seen from the inventory.
fn expanded(path: &Path, directory: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => directory.join(path),
    }
}

/// Hosts behind the same jump host share a lane.
fn lanes(hosts: &[Host]) -> Vec<Option<u32>> {
    let mut known: BTreeMap<String, u32> = BTreeMap::new();
    let lane = |host: &Host| {
        let jump = host.login.jump.first()?.to_string();
        let next = u32::try_from(known.len()).ok()?;
        Some(*known.entry(jump).or_insert(next))
    };
    hosts.iter().map(lane).collect()
}

impl Files for Beside {
    fn read(&self, name: &str) -> Result<Option<String>> {
        Self::text(self, name)
    }

    fn list(&self, directory: &str) -> Result<Option<Vec<String>>> {
        Self::names(self, directory)
    }
}

/// What all hosts share.
pub type Shared = Arc<Crew>;

#[cfg(test)]
impl Crew {
    /// So many hosts that refuse every connection, on loopback.
    pub fn shut(count: usize) -> Self {
        let place = || Destination { user: Some("nobody".into()), host: "127.0.0.1".into(), port: Some(1) };
        let host =
            |n| Host { name: format!("h{n}"), place: place(), login: LoginArgs::default(), overlay: String::new() };
        let (hosts, lanes) = ((0..count).map(host).collect(), vec![None; count]);
        Self { hosts, lanes, digest: String::new(), unread: Vec::new(), playbook: None, jobs: Mutex::default() }
    }
}
