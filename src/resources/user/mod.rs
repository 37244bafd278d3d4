//! Accounts: made as useradd(8) makes them, or taken over without touching what the playbook does not name.
//!
//! Differences from `useradd -m -s /bin/bash` are meant: no password is `*` and not `!` (which shuts out keys where sshd
//! has `UsePAM no`), an account without a password does not age, and the own primary group is always made. Must not
//! write below a home except as its owner, and must not show a hash.

mod adopt;
mod create;
mod ground;
mod pam_access;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::change::Claim;
use crate::error::{Failure, Result};
use crate::facts::{self, Facts, SSHD};
use crate::formats::accounts::PasswdEntry;
use crate::host::{Actor, Command, Probe};
use crate::resource::{Document, Fault, Planned, Resource, Section};
use crate::types::{AbsPath, GroupName, Password, PlainText, UserName, Word};

use ground::{Databases, Home, LoginDefs, Skeleton};

/// The resource.
pub struct User;

/// An account as it should be.
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
    /// True: it leaves all other supplementary groups.
    #[serde(default)]
    pub exclusive_groups: bool,
    /// `locked`, `keep` or `{ hash: ... }`; by default a new account is locked and an existing one stays as it is.
    #[serde(default)]
    pub password: Option<Password>,
    /// Login shell; by default /bin/bash, or as it is.
    #[serde(default)]
    pub shell: Option<AbsPath>,
    /// Home directory; by default /home/NAME, or as it is. A home is never moved.
    #[serde(default)]
    pub home: Option<AbsPath>,
    /// User id of a new account; by default the next free one.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Full name or purpose (GECOS), without `:` and `,`.
    #[serde(default)]
    pub comment: Option<PlainText>,
    /// The other accounts of the playbook with the uids given for them, and how many stand before this one: several new
    /// accounts of one plan must not get the same ids.
    #[serde(skip)]
    pub others: (Vec<(String, Option<u32>)>, usize),
}

/// What was found.
pub struct Observed {
    databases: Databases,
    defs: LoginDefs,
    today: i64,
    /// Where the home is or is to be.
    place: AbsPath,
    home: Home,
    skeleton: Vec<Skeleton>,
    /// For the reader: what cannot be copied, what waits for the account.
    remarks: Vec<String>,
    /// uid to paths that it owns although nobody has it; looked at for a new account only.
    leftovers: BTreeMap<u32, Vec<String>>,
    /// The ids for a new account.
    ids: Option<(u32, u32)>,
    /// `UsePAM` of sshd; asked only when it matters.
    pam: Option<bool>,
    /// A file that shuts out everybody but root.
    nologin: Option<&'static str>,
    /// Whether the shell it has or gets is an executable file, and stands in /etc/shells.
    shell: Shell,
}

/// What is known of a login shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shell {
    runs: bool,
    listed: bool,
}

impl Resource for User {
    const NAME: &'static str = "user";
    const SUMMARY: &'static str = "accounts: made or taken over, with groups, password, shell and home";
    const EXAMPLE: &'static str =
        "users:\n  - name: deploy\n    admin: true\n    groups: [ sudo ]\n    password: locked\n";
    const SECTION: Section = Section::Each("users");

    type Desired = Desired;
    type Observed = Observed;

    fn select(mut desired: Desired, document: &Document) -> Option<Desired> {
        let text = |item: &serde_json::Value| item.get("name").and_then(|name| name.as_str()).map(str::to_owned);
        let uid = |item: &serde_json::Value| item.get("uid").and_then(serde_json::Value::as_u64);
        let items = document.section("users").as_array().map(Vec::as_slice).unwrap_or_default();
        let mut all: Vec<(String, Option<u32>)> = items
            .iter()
            .filter_map(|item| Some((text(item)?, uid(item).and_then(|uid| u32::try_from(uid).ok()))))
            .collect();
        let before = all.iter().position(|(name, _)| name == desired.name.as_str()).unwrap_or(0);
        all.retain(|(name, _)| name != desired.name.as_str());
        desired.others = (all, before);
        Some(desired)
    }

    fn validate(desired: &Desired) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Some(uid) = desired.uid.filter(|uid| matches!(*uid, 0 | 65_534 | 65_535 | u32::MAX)) {
            faults.push(Fault::new(
                "uid",
                format!("uid {uid} has a meaning of its own"),
                "choose one from 1000 to 60000",
            ));
        }
        if desired.comment.as_ref().is_some_and(|comment| comment.as_str().contains([':', ','])) {
            faults.push(Fault::new("comment", "':' or ',' in the comment", "leave it out: passwd(5) splits there"));
        }
        if let Some(home) = desired.home.as_ref().filter(|home| !desired.name.is_root() && is_no_place_for_a_home(home))
        {
            faults.push(Fault::new("home", format!("{home} belongs to the system"), "give a home such as /home/NAME"));
        }
        if desired.name.is_root() {
            let named = [
                (desired.uid.is_some(), "uid"),
                (desired.home.is_some(), "home"),
                (desired.shell.is_some(), "shell"),
                (desired.exclusive_groups || !desired.groups.is_empty(), "groups"),
            ];
            for (_, field) in named.into_iter().filter(|(on, _)| *on) {
                faults.push(Fault::new(field, "root's account is not rearranged", format!("remove '{field}'")));
            }
            if desired.password.is_some() {
                faults.push(Fault::new(
                    "password",
                    "root's password has its own section",
                    "write: root: { password: ... }",
                ));
            }
        }
        faults
    }

    fn claims(desired: &Desired) -> Vec<Claim> {
        vec![Claim::Account(desired.name.clone())]
    }

    fn questions(desired: &Desired, probe: &dyn Probe) -> Vec<Command> {
        let name = desired.name.as_str();
        let mut asked: Vec<Command> =
            probe.has_program(SSHD).then(|| facts::sshd_for(name, probe)).into_iter().collect();
        // One that is to be made must be known to no name service either.
        let known = Databases::read(probe).is_ok_and(|databases| databases.passwd.passwd_entry(name).is_some());
        if !known {
            asked.extend(["passwd", "group"].iter().filter_map(|database| ground::elsewhere(probe, database, name)));
        }
        asked
    }

    fn observe(desired: &Desired, _facts: &Facts, probe: &dyn Probe) -> Result<Observed> {
        let databases = Databases::read(probe)?;
        let defs = LoginDefs::read(probe)?;
        let name = desired.name.as_str();
        let entry = present(&databases, desired)?;
        let home_path = match &entry {
            Some(entry) => AbsPath::parse(&entry.home).ok(),
            None => Some(default_home(desired)),
        };
        let mut found = Observed {
            databases,
            defs,
            today: ground::today(),
            place: AbsPath::fixed("/"),
            home: Home::Absent,
            skeleton: Vec::new(),
            remarks: Vec::new(),
            leftovers: BTreeMap::new(),
            ids: None,
            pam: None,
            nologin: None,
            shell: Shell { runs: true, listed: true },
        };
        // The home of an account that stays as it is and need not log in is none of keyward's business.
        if let Some(path) = home_path.filter(|_| entry.is_none() || desired.admin && !desired.name.is_root()) {
            ground::check_parents(probe, &path)?;
            found.home = ground::home(probe, &path)?;
            found.place = path;
        }
        let shell = desired.shell.as_ref().map_or_else(
            || entry.as_ref().map_or("/bin/bash", |entry| entry.shell.as_str()).to_owned(),
            |shell| shell.as_str().to_owned(),
        );
        found.shell = shell_state(probe, &shell)?;
        if desired.admin && !desired.name.is_root() {
            found.nologin = nologin(probe)?;
            let mut groups: Vec<&str> = desired.groups.iter().map(GroupName::as_str).collect();
            groups.push(name);
            let all = found.databases.group.group();
            let has = |members: &[String]| members.iter().any(|member| member == name);
            groups.extend(all.iter().filter(|group| has(&group.members)).map(|group| group.name.as_str()));
            found.remarks.extend(pam_access::check(probe, name, &groups)?);
        }
        match &entry {
            None => found.look_for_new(desired, probe)?,
            Some(_) => {
                let bang = found.databases.shadow.shadow_entry(name).is_some_and(|e| e.hash.reveal().starts_with('!'));
                if bang && desired.admin {
                    found.pam = uses_pam(probe, name)?;
                }
                if found.home == Home::Absent && desired.admin {
                    found.look_at_skeleton(probe)?;
                }
            }
        }
        Ok(found)
    }

    fn plan(desired: &Desired, _facts: &Facts, observed: &Observed) -> Result<Planned> {
        if desired.admin {
            match observed.nologin {
                Some("/etc/nologin") => {
                    return Err(Failure::refused(
                        "/etc/nologin",
                        "nobody but root can log in while this file is there",
                    )
                    .hint("remove it: rm /etc/nologin"));
                }
                Some(path) => {
                    return Err(Failure::new(crate::error::Kind::Busy, path, "the system is starting or going down")
                        .why("nobody but root can log in while this file is there")
                        .hint("try again when the system is up, or remove it"));
                }
                None => {}
            }
        }
        match present(&observed.databases, desired)? {
            None => create::plan(desired, observed),
            Some(entry) => adopt::plan(desired, observed, &entry),
        }
    }
}

impl Observed {
    /// What only a new account needs to know.
    fn look_for_new(&mut self, desired: &Desired, probe: &dyn Probe) -> Result<()> {
        let name = desired.name.as_str();
        for database in ["passwd", "group"] {
            let local = database == "group" && self.databases.group.count(name) > 0;
            if !local && ground::known_elsewhere(probe, database, name)? {
                let kind = if database == "passwd" { "account" } else { "group" };
                return Err(Failure::refused(
                    name,
                    format!("the {kind} {name} comes from the network, not from /etc/{database}"),
                )
                .why("a local one of the same name would hide it")
                .hint("choose another name, or manage it where it is kept"));
            }
        }
        self.leftovers = ground::leftovers(probe)?;
        self.ids = Some(create::ids(desired, self, probe)?);
        for path in ground::waiting(probe, name)? {
            self.remarks.push(format!("{path} is left from an earlier {name} and will belong to the new one"));
        }
        self.look_at_skeleton(probe)
    }

    fn look_at_skeleton(&mut self, probe: &dyn Probe) -> Result<()> {
        let (skeleton, odd) = ground::skeleton(probe)?;
        self.skeleton = skeleton;
        self.remarks.extend(odd.into_iter().map(|name| format!("/etc/skel/{name} is not copied: it is no plain file")));
        Ok(())
    }
}

/// The account's entry, checked to be one that can be worked with.
fn present(databases: &Databases, desired: &Desired) -> Result<Option<PasswdEntry>> {
    let name = desired.name.as_str();
    let refused = |what: &str, hint: &str| Err(Failure::refused(name, what).hint(hint));
    let place = databases.passwd.count(name);
    if place > 1 || databases.shadow.count(name) > 1 {
        return refused("there are several entries of this name", "leave one of them, with: vipw and vipw -s");
    }
    if place == 0 {
        if databases.shadow.count(name) > 0 {
            return refused("/etc/shadow has an entry for this name and /etc/passwd has none", "repair it with: pwck");
        }
        return Ok(None);
    }
    let Some(entry) = databases.passwd.passwd_entry(name) else {
        return refused("its line in /etc/passwd is damaged", "repair it with: vipw");
    };
    if databases.shadow.shadow_entry(name).is_none() {
        return refused("/etc/shadow has no entry for this account", "make one with: pwconv");
    }
    if entry.uid == 0 && !desired.name.is_root() {
        return refused(
            "this account is root under another name (uid 0)",
            "use root itself, or give it a uid of its own",
        );
    }
    Ok(Some(entry))
}

fn default_home(desired: &Desired) -> AbsPath {
    let home = AbsPath::fixed("/home");
    desired.home.clone().unwrap_or_else(|| home.join(desired.name.as_str()).unwrap_or(home))
}

/// Directories that belong to the kernel, to the boot or to everybody: no account has its home there, whatever the host.
fn is_no_place_for_a_home(home: &AbsPath) -> bool {
    let whole =
        ["/", "/home", "/srv", "/opt", "/var", "/mnt", "/media", "/usr", "/usr/local", "/var/lib", "/var/cache"];
    let below = [
        "/etc",
        "/bin",
        "/sbin",
        "/lib",
        "/lib32",
        "/lib64",
        "/libx32",
        "/boot",
        "/dev",
        "/proc",
        "/sys",
        "/run",
        "/tmp",
        "/var/tmp",
        "/var/run",
        "/root",
        "/var/spool",
        "/var/log",
        "/var/mail",
    ];
    whole.iter().any(|place| home.as_str() == *place)
        || below.iter().any(|place| home.is_within(&AbsPath::fixed(place)))
}

/// These and what packages fill: accounts of services have their homes there, but keyward makes and gives away nothing.
fn is_system_place(home: &AbsPath) -> bool {
    let packages = ["/usr", "/var/lib", "/var/cache"];
    is_no_place_for_a_home(home) || packages.iter().any(|place| home.is_within(&AbsPath::fixed(place)))
}

/// /etc/nologin and /run/nologin, which pam_nologin(8) obeys.
fn nologin(probe: &dyn Probe) -> Result<Option<&'static str>> {
    for path in ["/etc/nologin", "/run/nologin"] {
        if probe.meta(&AbsPath::fixed(path), &Actor::Root)?.is_some() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn shell_state(probe: &dyn Probe, shell: &str) -> Result<Shell> {
    let shells = probe.read(&AbsPath::fixed("/etc/shells"), &Actor::Root)?.unwrap_or_default();
    let listed = String::from_utf8_lossy(&shells).lines().any(|line| line.trim() == shell);
    // An empty field means /bin/sh, see passwd(5).
    Ok(Shell { runs: shell.is_empty() || probe.has_program(shell), listed: shell.is_empty() || listed })
}

/// `UsePAM` as sshd takes it for this account; `None` without sshd, or when it does not say.
fn uses_pam(probe: &dyn Probe, name: &str) -> Result<Option<bool>> {
    if !probe.has_program(SSHD) {
        return Ok(None);
    }
    let answer = probe.ask(&facts::sshd_for(name, probe))?;
    if answer.ok() {
        // OpenSSH 10 spells keywords as in the manual, earlier ones in lower case.
        let text = answer.stdout.to_ascii_lowercase();
        return Ok(text.lines().find_map(|line| line.strip_prefix("usepam ")).map(|value| value == "yes"));
    }
    // sshd says nothing without host keys or /run/sshd; then its main file has to do.
    let bytes = probe.read(&AbsPath::fixed("/etc/ssh/sshd_config"), &Actor::Root)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    let word = |line: &str| line.replace('=', " ").split_whitespace().nth(1).map(|value| value == "yes");
    Ok(Some(text.lines().find(|line| line.trim_start().starts_with("usepam")).and_then(word).unwrap_or(false)))
}
