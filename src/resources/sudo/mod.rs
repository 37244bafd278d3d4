//! What an account may do by sudo: one rule in a file of its own, checked with the whole set, and last in it.
//!
//! The last rule that matches decides, so a rule of somebody else that comes after ours is found and either sorted
//! before it or refused with its place. The file holds typed values alone: no comment with text of the user's.

mod grant;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::change::Claim;
use crate::error::Result;
use crate::facts::Facts;
use crate::facts::sudo_policy::{self as policy, Policy, SUDO};
use crate::formats::accounts::Records;
use crate::formats::sudoers::{Allowed, Subject, SudoCommand, listed};
use crate::host::{Actor, Command, FileKind, Meta, Probe};
use crate::resource::{Document, Fault, Planned, Resource, Section};
use crate::types::{AbsPath, GroupName, Password, UserName, Word as _};

/// The resource.
pub struct Sudo;

/// What an account may do, as it should be.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Desired {
    /// Login name.
    pub name: UserName,
    /// Counts as a way in: must be able to log in by key and to become root.
    #[serde(default)]
    pub admin: bool,
    /// Supplementary groups; added to those it has.
    #[serde(default)]
    pub groups: Vec<GroupName>,
    /// `locked`, `keep` or `{ hash: ... }`; by default a new account is locked and an existing one stays as it is.
    #[serde(default)]
    pub password: Option<Password>,
    /// What it may do by sudo: everything, or the commands listed.
    #[serde(default)]
    pub sudo: Option<Grant>,
}

/// A sudo rule.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Grant {
    /// True: sudo asks no password.
    #[serde(default)]
    pub nopasswd: bool,
    /// Commands that it may run; by default all.
    #[serde(default)]
    pub commands: Option<Vec<SudoCommand>>,
    /// As whom; by default root for listed commands, anybody for all.
    #[serde(default)]
    pub run_as: Option<UserName>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Observed {
    /// False: sudo is not installed.
    installed: bool,
    /// The checker of the sudo that is in use.
    visudo: &'static str,
    policy: Policy,
    /// /etc/sudoers.d is there.
    directory: bool,
    /// Files in it that sudo does not read today, as its main file does not name the directory.
    dormant: Vec<AbsPath>,
    /// Mode bits of /etc/sudoers.
    main_mode: u32,
    /// keyward's own files for this account that are there, trusted by sudo or not.
    own: Vec<(AbsPath, Meta, Vec<u8>)>,
    subject: Subject,
    /// True when shadow(5) has a hash that some password could match.
    has_password: bool,
    /// `sudo -l -U NAME`, when the account and the rule are there.
    listed: Option<Vec<Allowed>>,
    /// Commands of the rule that sudo-rs, asked for each, does not grant.
    denied: Vec<String>,
    /// Programs of the rule that are not there, or that others than root can change.
    programs: Vec<(String, Program)>,
}

/// What is wrong with a program of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Program {
    Missing,
    /// This path can be changed by others than root.
    Open(String),
}

/// sudo's checker.
const VISUDO: &str = "/usr/sbin/visudo";
/// Those of sudo-rs: where sudo-rs is made the host's sudo, [`VISUDO`] may still be the other one's, or not be there.
const REWRITE_VISUDO: [&str; 2] = ["/usr/bin/visudo-rs", "/usr/lib/cargo/bin/visudo"];

impl Resource for Sudo {
    const NAME: &'static str = "sudo";
    const SUMMARY: &'static str = "what accounts may do by sudo: everything or listed commands";
    const EXAMPLE: &'static str = "users:\n  - name: deploy\n    sudo: { nopasswd: true }\n  - name: web\n    \
        sudo: { commands: [ /usr/bin/systemctl restart nginx ], nopasswd: true }\n";
    const SECTION: Section = Section::Each("users");

    type Desired = Desired;
    type Observed = Observed;

    fn select(desired: Desired, _document: &Document) -> Option<Desired> {
        (desired.admin || desired.sudo.is_some()).then_some(desired)
    }

    fn validate(desired: &Desired) -> Vec<Fault> {
        let mut faults = Vec::new();
        let Some(grant) = &desired.sudo else {
            let strong = desired.groups.iter().any(|group| matches!(group.as_str(), "sudo" | "wheel" | "admin"));
            if !strong && !desired.name.is_root() {
                let hint = "add sudo: { nopasswd: true }";
                faults.push(Fault::new("admin", "an administrator needs a way to become root", hint));
            } else if !desired.name.is_root() && desired.password == Some(Password::Locked) {
                faults.push(locked_fault("password"));
            }
            return faults;
        };
        if desired.name.is_root() {
            faults.push(Fault::new("sudo", "root needs no sudo", "remove 'sudo'"));
        }
        if grant.commands.as_ref().is_some_and(Vec::is_empty) {
            faults.push(Fault::new(
                "sudo.commands",
                "no command is listed",
                "list one, or remove 'commands' to allow all",
            ));
        }
        if desired.admin && grant.commands.is_some() {
            faults.push(Fault::new(
                "sudo.commands",
                "an administrator may run everything",
                "remove 'commands', or admin: true",
            ));
        }
        if desired.admin && grant.run_as.as_ref().is_some_and(|user| !user.is_root()) {
            faults.push(Fault::new("sudo.run_as", "an administrator must be able to become root", "remove 'run_as'"));
        }
        if !grant.nopasswd && desired.password == Some(Password::Locked) {
            faults.push(locked_fault("sudo.nopasswd"));
        }
        faults
    }

    fn claims(desired: &Desired) -> Vec<Claim> {
        let path = desired.sudo.as_ref().and_then(|_| grant::paths(&desired.name).into_iter().next());
        path.map(Claim::Path).into_iter().collect()
    }

    fn packages(desired: &Desired) -> &'static [&'static str] {
        if desired.name.is_root() { &[] } else { &["sudo"] }
    }

    fn questions(desired: &Desired, probe: &dyn Probe) -> Vec<Command> {
        // sudo would log a question about an account that is not there.
        let passwd = probe.read(&AbsPath::fixed("/etc/passwd"), &Actor::Root).ok().flatten().unwrap_or_default();
        let name = desired.name.as_str();
        let asks = probe.has_program(SUDO) && Records::parse(&passwd).passwd_entry(name).is_some();
        asks.then(|| list(name)).into_iter().collect()
    }

    fn observe(desired: &Desired, _facts: &Facts, probe: &dyn Probe) -> Result<Observed> {
        if !probe.has_program(SUDO) || desired.name.is_root() {
            return Ok(Observed::default());
        }
        let set = Policy::read(probe)?;
        let main = probe.meta(&set.main(), &Actor::Root)?;
        let own = REWRITE_VISUDO.into_iter().find(|path| set.rewrite && probe.has_program(path));
        let mut found = Observed {
            installed: true,
            visudo: own.unwrap_or(VISUDO),
            policy: set,
            directory: policy::check_directory(probe)?,
            main_mode: main.map_or(0o440, |meta| meta.mode),
            ..Observed::default()
        };
        if !found.policy.reads_directory {
            found.dormant = policy::dormant(probe)?;
        }
        for path in grant::paths(&desired.name) {
            if let Some(meta) = probe.meta(&path, &Actor::Root)? {
                let content = if meta.kind == FileKind::File { probe.read(&path, &Actor::Root)? } else { None };
                found.own.push((path, meta, content.unwrap_or_default()));
            }
        }
        let exists = found.look_at_account(desired, probe)?;
        for command in desired.sudo.iter().filter_map(|grant| grant.commands.as_ref()).flatten() {
            if let Some(trouble) = program(command.program(), probe)? {
                found.programs.push((command.program().to_owned(), trouble));
            }
        }
        match grant::candidate(desired, &found)? {
            // What visudo would refuse at the gate is better refused before the first change.
            Some(candidate) => grant::check(&candidate, &found, probe)?,
            None if exists => {
                let answer = probe.ask(&list(desired.name.as_str()))?;
                // With `Defaults requiretty` sudo answers nobody without a terminal, not even root.
                found.listed = (!answer.stderr.contains("must have a tty")).then(|| listed(&answer.stdout));
                found.ask_for_each(desired, &answer.stdout, probe)?;
            }
            None => {}
        }
        Ok(found)
    }

    fn plan(desired: &Desired, _facts: &Facts, observed: &Observed) -> Result<Planned> {
        grant::plan(desired, observed)
    }
}

/// What sudo lets this account do (sudo(8), `-l`), in the one language that it need not load: it speaks English in
/// both, and writes the rules as they stand.
fn list(name: &str) -> Command {
    Command::new([SUDO, "-n", "-l", "-U", name]).env("LC_ALL", "C")
}

impl Observed {
    /// Ids, groups and whether a password could be typed; true when the account is there.
    fn look_at_account(&mut self, desired: &Desired, probe: &dyn Probe) -> Result<bool> {
        let records = |path: &'static str| -> Result<Records> {
            Ok(Records::parse(&probe.read(&AbsPath::fixed(path), &Actor::Root)?.unwrap_or_default()))
        };
        let name = desired.name.as_str();
        let entry = records("/etc/passwd")?.passwd_entry(name);
        let groups = records("/etc/group")?.group();
        let gid = entry.as_ref().map(|entry| entry.gid);
        self.subject.name = name.to_owned();
        self.subject.uid = entry.as_ref().map(|entry| entry.uid);
        for group in groups {
            let joins = desired.groups.iter().any(|wanted| wanted.as_str() == group.name);
            if Some(group.gid) == gid || joins || group.members.iter().any(|member| member == name) {
                self.subject.groups.push((group.name, Some(group.gid)));
            }
        }
        if entry.is_none() {
            self.subject.groups.push((name.to_owned(), None));
        }
        let shadow = records("/etc/shadow")?.shadow_entry(name);
        self.has_password = shadow.is_some_and(|entry| !entry.hash.reveal().starts_with(['!', '*']));
        Ok(entry.is_some())
    }

    /// Asks sudo-rs for each command of the rule: it lists them as where links lead and without what sudoers wants
    /// escaped, so its list cannot be compared. It grants nothing that is not there, so that is not asked for.
    fn ask_for_each(&mut self, desired: &Desired, list: &str, probe: &dyn Probe) -> Result<()> {
        let Some(grant) = desired.sudo.as_ref().filter(|_| self.policy.rewrite) else { return Ok(()) };
        let free =
            !grant.nopasswd || list.lines().any(|line| line.starts_with("    (") && line.contains(") NOPASSWD: "));
        for command in grant.commands.iter().flatten() {
            if self.programs.iter().any(|(missing, _)| missing == command.program()) {
                continue;
            }
            let target = grant.run_as.as_ref().map_or("root", UserName::as_str);
            let words = command.words().map(str::to_owned);
            let question = [SUDO, "-n", "-l", "-U", desired.name.as_str(), "-u", target, "--"].map(str::to_owned);
            if !free || !probe.ask(&Command::new(question.into_iter().chain(words)))?.ok() {
                self.denied.push(command.text());
            }
        }
        Ok(())
    }
}

fn locked_fault(path: &str) -> Fault {
    Fault::new(
        path,
        "sudo would ask for a password, and a locked one can never be given",
        "write sudo: { nopasswd: true }, or password: { hash: ... }",
    )
}

/// What makes a program unfit for a rule: whoever can change it, or a directory above it, would be root.
fn program(path: &str, probe: &dyn Probe) -> Result<Option<Program>> {
    let Ok(path) = AbsPath::parse(path) else { return Ok(Some(Program::Missing)) };
    for place in std::iter::successors(Some(path.clone()), AbsPath::parent) {
        let Some(meta) = probe.meta(&place, &Actor::Root)? else { continue };
        let open = meta.kind != FileKind::Link && meta.mode & 0o022 != 0;
        if meta.uid != 0 || open {
            return Ok(Some(Program::Open(place.as_str().to_owned())));
        }
    }
    Ok(if probe.has_program(path.as_str()) { None } else { Some(Program::Missing) })
}
