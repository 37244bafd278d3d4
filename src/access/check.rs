//! Who can get in, before and after a plan: which administrators are promised, what root and passwords may do, and who
//! could still log in at the provider's console. Reads the host, changes nothing, and when in doubt refuses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::change::{Change, Note, Promise, Risk, Stage, Step};
use crate::error::{Failure, Result};
use crate::facts::{Facts, SshdMode, ask_sshd, socket_ports};
use crate::formats::accounts::{Hash, Records};
use crate::formats::sshd_effective::Effective;
use crate::host::{AccountEdit, Actor, Database, Output, Probe};
use crate::outcome::Proven;
use crate::outcome::ways::Account;
use crate::resource::AccessCheck;
use crate::types::{AbsPath, UserName};

use super::after::After;
use super::model::{from_address, tries, ways};
use super::stays::stay;

/// What notes of this check are about; the report gives them a heading of their own.
pub const ABOUT: &str = "access";

/// The rule of a playbook.
#[derive(Debug, Clone)]
pub struct WaysIn {
    /// Proven administrators that must remain.
    pub at_least: usize,
    /// Accounts that the playbook calls administrators, promised or not yet judged.
    pub declared: Vec<String>,
    /// Finds the operator, who may sit in an SSH session of this host; asked only where a plan touches ways in, since
    /// sshd's log has to tell.
    pub present: fn(&dyn Probe) -> Option<Present>,
}

/// Where the operator's present session comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// The client's address.
    pub from: IpAddr,
    /// The account that logged in, when that is known.
    pub user: Option<String>,
}

/// Fewer tries than an agent usually has keys.
const TRIES: u32 = 3;

/// What sshd does now, as far as it can be told without knowing the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Door {
    ports: Vec<String>,
    root: String,
    passwords: bool,
}

impl AccessCheck for WaysIn {
    fn check(&self, promises: &[Promise], changes: &[Change], facts: &Facts, probe: &dyn Probe) -> Result<Vec<Note>> {
        let admins = admins(promises);
        let closes = closes(promises, changes);
        let waits = changes.iter().any(|change| change.stage == Stage::Packages);
        let mut notes = Vec::new();
        if closes && admins.len() < self.at_least {
            if !waits || self.declared.len() < self.at_least {
                return Err(self.too_few(admins.len()));
            }
            // The engine asks again once the packages are there, and proves the way in before it closes another.
            notes.push(Note::info(ABOUT, "ways in are judged again once the packages are installed"));
        }
        let touched = changes.iter().any(|change| change.risk == Risk::Access);
        if touched {
            let before = door(facts, probe);
            notes.push(Note::info(ABOUT, format!("before  {}", before_text(before.as_ref(), facts.sshd_mode, probe))));
            let after = After::new(probe, changes, promises)?;
            let names: Vec<String> = admins.iter().map(|(user, _)| user.as_str().to_owned()).collect();
            let stay = stay(&names, door_after(&after, before.as_ref()).as_ref(), facts, &after);
            notes.push(Note::info(ABOUT, format!("after   {}", after_text(promises, before.as_ref(), &stay))));
            notes.extend(console(changes, probe)?);
            notes.extend(self.afterwards(&names, changes, facts, &after, closes && !waits)?);
            if !closes && !waits {
                self.enough_remain(changes, facts, &after)?;
            }
        }
        Ok(notes)
    }

    fn limited(&self, user: &str, facts: &Facts, probe: &dyn Probe) -> Option<String> {
        let ways = ways(facts, probe, None, &[user.to_owned()]).ok()?;
        let from = &ways.accounts.first().filter(|account| account.ssh != Proven::No)?.from;
        let places = [&from.only, &from.unsure, &from.but];
        let named = places.iter().any(|list| !list.is_empty());
        (from.everywhere != Proven::Yes && named).then(|| {
            let list: Vec<&str> = from.only.iter().chain(&from.unsure).map(String::as_str).collect();
            list.join(", ")
        })
    }
}

/// The rule of a rollback: what was possible before the run is possible again, and a person shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What the plan of that run said of the time before it.
    pub before: Option<String>,
}

impl AccessCheck for Restored {
    fn check(&self, _: &[Promise], changes: &[Change], facts: &Facts, probe: &dyn Probe) -> Result<Vec<Note>> {
        if !changes.iter().any(|change| change.risk == Risk::Access) {
            return Ok(Vec::new());
        }
        let now = door(facts, probe);
        let after = self.before.as_deref().unwrap_or("as before that run");
        let mut notes = vec![
            Note::info(ABOUT, format!("before  {}", before_text(now.as_ref(), facts.sshd_mode, probe))),
            Note::info(ABOUT, format!("after   {after}")),
        ];
        notes.extend(console(changes, probe)?);
        Ok(notes)
    }
}

impl WaysIn {
    /// Judges the promised administrators on a model of the host after the plan. Only what is certain refuses: what the
    /// model cannot tell is proven by a login before anything closes.
    fn afterwards(
        &self,
        names: &[String],
        changes: &[Change],
        facts: &Facts,
        after: &After<'_>,
        closes: bool,
    ) -> Result<Vec<Note>> {
        // No names would mean every account.
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let ways = ways(facts, after.now(), Some(after), names)?;
        if ways.doors.is_empty() {
            return Ok(Vec::new());
        }
        let mut notes = Vec::new();
        let (shut, open): (Vec<&Account>, Vec<&Account>) =
            ways.accounts.iter().partition(|account| account.ssh == Proven::No || account.root == Proven::No);
        if closes && open.len() < self.at_least {
            return Err(self.shut_out(open.len(), &shut));
        }
        for account in &shut {
            notes.push(Note::warning(ABOUT, format!("{} will not get in: {}", account.name, reasons(account))));
        }
        for account in &open {
            let unsure = account.ssh == Proven::Unknown;
            notes.extend(unsure.then(|| {
                Note::info(ABOUT, format!("{} cannot be told before a login: {}", account.name, reasons(account)))
            }));
            let soon = account.soon.iter().map(|soon| format!("{}: {soon}; see: chage -l {0}", account.name));
            notes.extend(soon.map(|text| Note::warning(ABOUT, text)));
        }
        if changes.iter().any(|change| change.resource == "sshd")
            && let Some(tries) = tries(facts, after)?.filter(|tries| *tries < TRIES)
        {
            let text = format!(
                "MaxAuthTries {tries}: a client that offers more keys is cut off before the right one; \
                 log in with: ssh -o IdentitiesOnly=yes -i KEYFILE"
            );
            notes.push(Note::warning(ABOUT, text));
        }
        notes.extend(self.operator(names, facts, after)?);
        Ok(notes)
    }

    /// A plan that closes no door but takes keys, sudo or a password away must leave as many administrators as the
    /// playbook asks for, of whatever name; only what is certain refuses.
    fn enough_remain(&self, changes: &[Change], facts: &Facts, after: &After<'_>) -> Result<()> {
        if !changes.iter().any(|change| change.stage == Stage::Subtractive && change.risk == Risk::Access) {
            return Ok(());
        }
        let gets_in = |account: &&Account| {
            account.ssh != Proven::No && account.root != Proven::No && account.limited_to.is_none()
        };
        let then = ways(facts, after.now(), Some(after), &[])?;
        let left = then.accounts.iter().filter(gets_in).count();
        if then.doors.is_empty() || left >= self.at_least {
            return Ok(());
        }
        let now = ways(facts, after.now(), None, &[])?;
        let before: Vec<&Account> = now.accounts.iter().filter(gets_in).collect();
        if before.len() <= left {
            return Ok(());
        }
        let lost = before.iter().filter_map(|one| {
            let account = then.accounts.iter().find(|account| account.name == one.name)?;
            (!gets_in(&account)).then(|| format!("{}: {}", account.name, reasons(account)))
        });
        let what = format!("the plan takes ways in away and leaves {left} of {} administrators", self.at_least);
        Err(Failure::refused(ABOUT, what).why(lost.collect::<Vec<_>>().join(". ")).hint(
            "leave a key or a sudo rule that is in use, or name who gets in instead; see: keyward access PLAYBOOK",
        ))
    }

    /// Tells the operator when neither the present account nor one of the plan would get in from the present address.
    fn operator(&self, names: &[String], facts: &Facts, after: &After<'_>) -> Result<Option<Note>> {
        let Some(present) = (self.present)(after.now()) else { return Ok(None) };
        let mut names = names.to_vec();
        names.extend(present.user.clone());
        let said = from_address(facts, after, &names, present.from)?;
        if said.is_empty() || said.iter().any(|(_, held, _)| *held != Proven::No) {
            return Ok(None);
        }
        let why: Vec<String> = said.iter().map(|(name, _, why)| format!("{name}: {}", why.join("; "))).collect();
        let text = format!("your own next login from {} will fail: {}", present.from, why.join(". "));
        Ok(Some(Note::warning(ABOUT, text)))
    }

    fn shut_out(&self, found: usize, shut: &[&Account]) -> Failure {
        let why: Vec<String> = shut.iter().map(|account| format!("{}: {}", account.name, reasons(account))).collect();
        let what =
            format!("the plan closes ways in, and {found} of {} administrators would get in afterwards", self.at_least);
        Failure::refused(ABOUT, what)
            .why(why.join(". "))
            .hint("mend what is named there, then look again: keyward access PLAYBOOK")
    }

    fn too_few(&self, found: usize) -> Failure {
        let missing = format!("the plan closes ways in and leaves {found} of {} administrators", self.at_least);
        Failure::refused(ABOUT, missing)
            .why("nobody in this playbook is sure to get in afterwards")
            .hint("give a user 'admin: true', an authorized key and sudo; see: keyward explain user")
    }
}

/// Why an account does not get in, or does not become root.
fn reasons(account: &Account) -> String {
    let mut why = account.because.clone();
    if why.is_empty() {
        why.extend(account.warnings.iter().cloned());
    }
    if why.is_empty() { "it does not become root".to_owned() } else { why.join("; ") }
}

/// True when the plan takes away a method or a port by which somebody could get in.
fn closes(promises: &[Promise], changes: &[Change]) -> bool {
    let shut = |promise: &Promise| {
        matches!(promise, Promise::RootRefused { .. } | Promise::PasswordsRefused | Promise::SshPortClosed { .. })
    };
    changes.iter().any(|change| change.stage == Stage::Subtractive && change.risk == Risk::Access)
        && promises.iter().any(shut)
}

fn admins(promises: &[Promise]) -> Vec<(&UserName, bool)> {
    let mut found: Vec<(&UserName, bool)> = promises
        .iter()
        .filter_map(|promise| match promise {
            Promise::Admin { user, nopasswd } => Some((user, *nopasswd)),
            _ => None,
        })
        .collect();
    found.sort();
    found.dedup_by_key(|(user, _)| *user);
    found
}

/// Asks sshd itself (`-T`, sshd(8)); `None` when it is missing or does not say. Match blocks are the sshd resource's
/// business: its gates ask per account.
fn door(facts: &Facts, probe: &dyn Probe) -> Option<Door> {
    facts.sshd?;
    let output = ask_sshd(probe, &["-T"]).ok().filter(Output::ok)?;
    let effective = Effective::parse(&output.stdout);
    // Where systemd listens, Port of the configuration opens nothing.
    let ports = match facts.sshd_mode {
        SshdMode::Socket => socket_ports(probe).ok()?,
        _ => effective.ports(),
    };
    Some(Door::new(&effective, &ports))
}

impl Door {
    const fn by(&self) -> &'static str {
        if self.passwords { "key or password" } else { "key" }
    }

    fn new(effective: &Effective, ports: &[u16]) -> Self {
        let yes = |keyword| effective.is(keyword, "yes");
        Self {
            ports: ports.iter().map(u16::to_string).collect(),
            root: effective.get("permitrootlogin").unwrap_or_default().to_ascii_lowercase(),
            passwords: yes("passwordauthentication") || yes("kbdinteractiveauthentication"),
        }
    }
}

/// What the plan's own candidate says; the door of now where the plan leaves sshd's files alone.
fn door_after(after: &After<'_>, before: Option<&Door>) -> Option<Door> {
    let Some(asked) = after.ask_sshd(None) else { return before.cloned() };
    let effective = Effective::parse(&asked.ok().filter(Output::ok)?.stdout);
    Some(Door::new(&effective, &effective.ports()))
}

fn before_text(door: Option<&Door>, mode: SshdMode, probe: &dyn Probe) -> String {
    match mode {
        SshdMode::Missing => return "no sshd is installed; only the console".to_owned(),
        SshdMode::Stopped => return "no sshd listens; only the console".to_owned(),
        SshdMode::Service | SshdMode::Socket => {}
    }
    let Some(door) = door else { return "unknown: sshd does not tell its configuration".to_owned() };
    format!("port {}: {}; other accounts by {}", door.ports.join(", "), root_text(door, probe), door.by())
}

/// What root may do at a door.
pub(super) fn root_text(door: &Door, probe: &dyn Probe) -> String {
    match (door.root.as_str(), root_keys(probe)) {
        ("no", _) => "root refused".to_owned(),
        ("yes", keys) => format!("root by {} ({keys})", door.by()),
        (_, keys) => format!("root by key ({keys})"),
    }
}

fn root_keys(probe: &dyn Probe) -> String {
    let read = probe.read(&AbsPath::fixed("/root/.ssh/authorized_keys"), &Actor::Root);
    let count = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        text.lines().filter(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')).count()
    };
    match read {
        Err(_) => "keys unknown".to_owned(),
        Ok(None) => "no key".to_owned(),
        Ok(Some(bytes)) => match count(&bytes) {
            0 => "no key".to_owned(),
            1 => "1 key".to_owned(),
            more => format!("{more} keys"),
        },
    }
}

/// `stay`: who gets in beside the promised administrators.
fn after_text(promises: &[Promise], before: Option<&Door>, stay: &[String]) -> String {
    let ports: Vec<String> = promises
        .iter()
        .filter_map(|promise| match promise {
            Promise::SshPort { port } => Some(port.to_string()),
            _ => None,
        })
        .collect();
    let ports = if ports.is_empty() { before.map_or_else(Vec::new, |door| door.ports.clone()) } else { ports };
    let mut parts: Vec<String> = admins(promises)
        .iter()
        .map(|(user, nopasswd)| {
            let sudo = if *nopasswd { "sudo without password" } else { "sudo with password" };
            format!("{} by key, {sudo}", user.as_str())
        })
        .collect();
    parts.extend_from_slice(stay);
    let refused = promises.iter().find_map(|promise| match promise {
        Promise::RootRefused { entirely: true } => Some("root refused"),
        Promise::RootRefused { entirely: false } => Some("root by key only"),
        _ => None,
    });
    parts.extend(refused.map(str::to_owned));
    if promises.contains(&Promise::PasswordsRefused) {
        parts.push("passwords refused".to_owned());
    }
    if parts.is_empty() {
        parts.push("as before".to_owned());
    }
    let port = if ports.is_empty() { String::new() } else { format!("port {}: ", ports.join(", ")) };
    format!("{port}{}", parts.join("; "))
}

/// Accounts with a password that crypt(5) can match, now and after the plan: the only ones sure to get in at a console.
fn console(changes: &[Change], probe: &dyn Probe) -> Result<Vec<Note>> {
    let Some(bytes) = probe.read(&Database::Shadow.path(), &Actor::Root)? else { return Ok(Vec::new()) };
    let mut hashes: BTreeMap<String, String> = BTreeMap::new();
    for entry in Records::parse(&bytes).shadow() {
        hashes.insert(entry.name.clone(), entry.hash.reveal().clone());
    }
    let before = usable(&hashes);
    for edit in changes.iter().flat_map(|change| &change.steps).filter_map(edits).flatten() {
        match edit {
            AccountEdit::Add { db: Database::Shadow, line } => {
                let mut fields = line.split(':');
                let (name, hash) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
                hashes.insert(name.to_owned(), hash.to_owned());
            }
            AccountEdit::Remove { db: Database::Shadow, key } => {
                hashes.remove(key);
            }
            AccountEdit::Field { db: Database::Shadow, key, index: 1, value } => {
                hashes.insert(key.clone(), value.clone());
            }
            _ => {}
        }
    }
    let after = usable(&hashes);
    let mut notes = vec![match (before.is_empty(), after.is_empty()) {
        (_, false) => Note::info(ABOUT, format!("console {} by password", after.join(", "))),
        (true, true) => Note::info(ABOUT, "console nobody, as before: no account has a password"),
        (false, true) => Note::warning(ABOUT, "console nobody any more: no account keeps a password"),
    }];
    let empty = named(&hashes, Hash::Empty).join(", ");
    if !empty.is_empty() {
        let text = format!(
            "console {empty} without any password, where PAM has nullok: give one, or lock with: usermod -p '*'"
        );
        notes.push(Note::warning(ABOUT, text));
    }
    Ok(notes)
}

fn edits(step: &Step) -> Option<&[AccountEdit]> {
    match step {
        Step::Account { edits } => Some(edits),
        _ => None,
    }
}

/// Names of those whose field is of a kind.
fn named(hashes: &BTreeMap<String, String>, kind: Hash) -> Vec<String> {
    hashes.iter().filter(|(_, hash)| Hash::of(hash) == kind).map(|(name, _)| name.clone()).collect()
}

/// Names whose hash some password matches.
fn usable(hashes: &BTreeMap<String, String>) -> Vec<String> {
    named(hashes, Hash::Usable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Port, Word as _};

    fn admin(name: &str) -> Promise {
        Promise::Admin { user: UserName::parse(name).unwrap(), nopasswd: true }
    }

    #[test]
    fn two_promises_of_one_account_are_one_way_in() {
        assert_eq!(admins(&[admin("a"), admin("a"), Promise::PasswordsRefused, admin("b")]).len(), 2);
    }

    #[test]
    fn a_door_that_closes_needs_an_administrator() {
        let change = Change::new("sshd", "sshd:close", "close", Stage::Subtractive, Risk::Access);
        assert!(closes(&[Promise::PasswordsRefused], std::slice::from_ref(&change)));
        assert!(!closes(&[Promise::SshPort { port: Port::SSH }], std::slice::from_ref(&change)));
        assert!(!closes(&[Promise::PasswordsRefused], &[]));
    }

    #[test]
    fn after_says_who_and_where() {
        let promises = [
            admin("deploy"),
            Promise::SshPort { port: Port::new(2222).unwrap() },
            Promise::RootRefused { entirely: true },
            Promise::PasswordsRefused,
        ];
        let text = after_text(&promises, None, &[]);
        assert_eq!(text, "port 2222: deploy by key, sudo without password; root refused; passwords refused");
        let before = Door { ports: vec!["22".into()], root: "yes".into(), passwords: true };
        assert_eq!(after_text(&[], Some(&before), &[]), "port 22: as before");
    }

    #[test]
    fn only_a_matchable_hash_opens_the_console() {
        let entry = |hash: &str| BTreeMap::from([("root".to_owned(), hash.to_owned())]);
        assert_eq!(usable(&entry("ab0123456789.")), ["root"], "the oldest kind of hash is one");
        for closed in ["", "*", "!", "!$6$x", "!*", "x", "NP"] {
            assert!(usable(&entry(closed)).is_empty(), "{closed:?}");
        }
        assert_eq!(usable(&entry("$y$j9T$x$y")), ["root"]);
    }
}
