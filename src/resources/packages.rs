//! Debian packages that other tasks need, in a stage of their own before anything else.
//!
//! Not a section of the playbook: the needs come from the tasks. Never kills dpkg, never starts a service (a policy-rc.d
//! holds them back), and cannot be undone, which the plan says.

use std::time::Duration;

use crate::change::{Change, Claim, Difference, Inverse, Note, Risk, Stage, Step};
use crate::error::{Failure, Kind, Result};
use crate::facts::Facts;
use crate::host::{Actor, Command, Node, Owner, Probe};
use crate::resource::{Planned, Task};
use crate::types::AbsPath;

/// Programs by which a package that is there is known without asking dpkg.
const PROGRAMS: [(&str, &str); 3] =
    [("openssh-server", "/usr/sbin/sshd"), ("sudo", "/usr/bin/sudo"), ("ufw", "/usr/sbin/ufw")];
const APT_GET: &str = "/usr/bin/apt-get";
const DPKG_QUERY: &str = "/usr/bin/dpkg-query";
const CLOUD_INIT: &str = "/usr/bin/cloud-init";
/// Asked by invoke-rc.d(8) and deb-systemd-invoke(1p) before they start a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// Exit code 101: "action forbidden by policy". Inert when no keyward holds its lock, so that one that was cut off here
/// leaves no host whose services do not start.
const FORBID: &str = "#!/bin/sh
# Written by keyward while it installs packages: services are started later, when they are configured.
[ -e /run/keyward/lock ] || exit 0
/usr/bin/flock --nonblock /run/keyward/lock /bin/true && exit 0
exit 101
";
/// Packages come over the network; this is for the slowest of it.
const DEADLINE: Duration = Duration::from_secs(600);

struct Packages(Vec<&'static str>);

/// A task that installs those of `needed` (Debian names) that are missing; for the caller to put first.
pub fn task(needed: &[&'static str]) -> Box<dyn Task> {
    let mut names = needed.to_vec();
    names.sort_unstable();
    names.dedup();
    Box::new(Packages(names))
}

impl Task for Packages {
    fn resource(&self) -> &'static str {
        "packages"
    }

    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Service("packages".to_owned())]
    }

    fn packages(&self) -> &'static [&'static str] {
        &[]
    }

    fn assess(&self, _facts: &Facts, probe: &dyn Probe) -> Result<Planned> {
        let missing = missing(&self.0, probe)?;
        if missing.is_empty() {
            return Ok(Planned::default());
        }
        if !probe.has_program(APT_GET) {
            return Err(Failure::refused(missing.join(", "), "not installed, and there is no apt-get")
                .hint(format!("install by hand: {}", missing.join(" "))));
        }
        refuse_when_busy(probe)?;
        let update = lists_are_old(&missing, probe)?;
        let held_back = probe.meta(&AbsPath::fixed(POLICY), &Actor::Root)?.is_some();
        let mut planned = Planned { changes: vec![install(&missing, update, held_back)], ..Planned::default() };
        planned.notes.push(Note::info("packages", "the plan is made again once they are installed"));
        Ok(planned)
    }
}

/// Those that are not installed. A package known by its program costs no child process.
fn missing(names: &[&'static str], probe: &dyn Probe) -> Result<Vec<&'static str>> {
    let there = |name: &str| PROGRAMS.iter().any(|(package, path)| *package == name && probe.has_program(path));
    let mut missing = Vec::new();
    for name in names.iter().copied().filter(|name| !there(name)) {
        let known = PROGRAMS.iter().any(|(package, _)| *package == name);
        if known || !is_installed(name, probe)? {
            missing.push(name);
        }
    }
    Ok(missing)
}

fn is_installed(name: &str, probe: &dyn Probe) -> Result<bool> {
    if !probe.has_program(DPKG_QUERY) {
        return Ok(false);
    }
    let answer = probe.ask(&Command::new([DPKG_QUERY, "-W", "-f", "${db:Status-Status}", "--", name]))?;
    Ok(answer.ok() && answer.stdout.trim() == "installed")
}

/// Somebody else installs: wait for them, do not race them.
fn refuse_when_busy(probe: &dyn Probe) -> Result<()> {
    if probe.has_program(CLOUD_INIT) {
        let answer = probe.ask(&Command::new([CLOUD_INIT, "status"]))?;
        if answer.stdout.contains("status: running") {
            return Err(Failure::new(Kind::Busy, "cloud-init", "still sets this host up")
                .hint("wait for it: cloud-init status --wait"));
        }
    }
    // `check` takes dpkg's lock and gives it back; without caches it writes nothing.
    let words = [APT_GET, "check", "-qq", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="];
    let answer = probe.ask(&Command::new(words).deadline(Duration::from_secs(60)))?;
    if answer.ok() {
        return Ok(());
    }
    if answer.stderr.contains("lock") {
        return Err(Failure::new(Kind::Busy, "dpkg", "another program installs packages")
            .why(answer.last_line())
            .hint("try again when it is through; see who holds the lock: fuser -v /var/lib/dpkg/lock-frontend"));
    }
    Err(Failure::refused("dpkg", "the packages of this host are not in order")
        .why(answer.last_line())
        .hint("repair it first: dpkg --configure -a && apt-get install --fix-broken"))
}

/// True when apt knows no candidate for one of the packages, as with lists never fetched.
fn lists_are_old(missing: &[&str], probe: &dyn Probe) -> Result<bool> {
    let words = ["/usr/bin/apt-cache", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "policy", "--"];
    let argv = words.iter().chain(missing).map(|word| (*word).to_owned());
    let answer = probe.ask(&Command::new(argv).deadline(Duration::from_secs(60)))?;
    let candidates = answer.stdout.lines().filter_map(|line| line.trim().strip_prefix("Candidate:"));
    Ok(candidates.filter(|version| version.trim() != "(none)").count() < missing.len())
}

fn apt(words: &[&str]) -> Command {
    let fixed = [APT_GET, "-qq", "-o", "DPkg::Lock::Timeout=60"];
    let mut command = Command::new(fixed.iter().chain(words).copied()).deadline(DEADLINE);
    command.env.insert("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned());
    // needrestart(1) asks, and restarts services, unless told to list only.
    command.env.insert("NEEDRESTART_MODE".to_owned(), "l".to_owned());
    command
}

fn install(missing: &[&str], update: bool, held_back: bool) -> Change {
    let list = missing.join(", ");
    let mut change = Change::new(
        "packages",
        "packages:install",
        format!("install {list}{}", if update { " (after fetching the package lists)" } else { "" }),
        Stage::Packages,
        Risk::Service,
    );
    for name in missing {
        change.differences.push(Difference::new(format!("package {name}"), "installed", "not installed"));
    }
    let policy = AbsPath::fixed(POLICY);
    let run = |command, inverse| Step::Run { command, inverse };
    if update {
        change.steps.push(run(apt(&["update"]), Inverse::Nothing));
    }
    if !held_back {
        let node = Node::File { content: FORBID.as_bytes().to_vec(), mode: 0o755, owner: Owner::Actor };
        change.steps.push(Step::Put { path: policy.clone(), actor: Actor::Root, node });
    }
    let options = ["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold", "--"];
    let words = |first: &[&'static str]| {
        let mut words = first.to_vec();
        words.extend(["--yes", "--no-install-recommends"]);
        words.extend(options);
        words.extend(missing);
        words
    };
    // Fetching may be cut off; dpkg may not.
    change.steps.push(run(apt(&words(&["install", "--download-only"])), Inverse::Nothing));
    // Without --no-download, which older apt releases refuse for local archives; all of it is there already.
    let installing = apt(&words(&["install"])).never_killed();
    change.steps.push(run(installing, Inverse::Irreversible(format!("packages stay installed: {list}"))));
    if !held_back {
        change.steps.push(Step::Remove { path: policy, actor: Actor::Root });
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_held_back_and_nothing_asks() {
        let change = install(&["sudo", "ufw"], true, false);
        let words: Vec<String> = change
            .steps
            .iter()
            .map(|step| match step {
                Step::Run { command, .. } => {
                    assert_eq!(command.env.get("DEBIAN_FRONTEND").map(String::as_str), Some("noninteractive"));
                    command.argv.iter().find(|word| ["update", "install"].contains(&word.as_str())).unwrap().clone()
                }
                Step::Put { path, .. } => format!("put {path}"),
                Step::Remove { path, .. } => format!("remove {path}"),
                Step::Restore { .. } | Step::Account { .. } => panic!("nothing else is touched"),
            })
            .collect();
        let patience: Vec<(bool, bool)> = change
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Run { command, .. } => {
                    Some((command.argv.iter().any(|word| word == "--download-only"), command.never_killed))
                }
                _ => None,
            })
            .collect();
        assert_eq!(patience, [(false, false), (true, false), (false, true)], "only dpkg is left alone");
        let policy = ["put /usr/sbin/policy-rc.d", "remove /usr/sbin/policy-rc.d"];
        assert_eq!(words, ["update", policy[0], "install", "install", policy[1]]);
        assert!(change.irreversible().unwrap().contains("sudo, ufw"));
        // A policy of somebody else's stays.
        assert_eq!(install(&["sudo"], false, true).steps.len(), 2);
    }
}
