//! All accounts together: each judged at each place, and summed up.

use std::net::IpAddr;

use crate::error::Result;
use crate::facts::Facts;
use crate::formats::accounts::{Hash, PasswdEntry};
use crate::host::Probe;
use crate::outcome::Proven;
use crate::outcome::ways::{Account, Door, Method, Sudo, Ways};

use super::account::{At, at, hash, is_closed};
use super::after::After;
use super::door::Doors;
use super::keys;
use super::look::Look;
use super::pam::Pam;
use super::place::{Place, places, sum};
use super::sudo::Rules;

/// Groups whose members become root by design.
pub const STRONG: [&str; 5] = ["docker", "lxd", "incus", "incus-admin", "disk"];

/// Who can get in; with a plan, who could after it. `only`: just these accounts, none: all.
///
/// # Errors
/// When the databases, sshd's files or the sockets cannot be read.
pub fn ways(facts: &Facts, probe: &dyn Probe, after: Option<&After<'_>>, only: &[String]) -> Result<Ways> {
    ways_of(&Look::new(facts, after.map_or(probe, |after| after as &dyn Probe), after)?, only)
}

/// The same by a look that was taken.
///
/// # Errors
/// When the sockets, or what PAM and the network's sources are configured by, cannot be read.
pub fn ways_of(look: &Look<'_>, only: &[String]) -> Result<Ways> {
    let (doors, pam, rules) = (Doors::new(look)?, Pam::new(look)?, Rules::new(look));
    let mut ways = Ways { unknown: doors.unknown.clone(), ..Ways::default() };
    let shared: Vec<String> = doors.named().into_iter().chain(pam.named()).chain(of_sshd(look)).collect();
    let (everywhere, left_out) = places(shared.iter().cloned());
    if left_out > 0 {
        ways.unknown.push(format!("{left_out} more ranges that rules name were not followed"));
    }
    for port in &doors.ports {
        let held: Vec<(&Place, Proven)> =
            everywhere.iter().map(|place| (place, doors.passes_to(*port, place).0)).collect();
        ways.doors.push(Door { port: port.number, from: sum(&held, doors.has_v6()) });
    }
    if let Some(source) = of_the_network(look)? {
        ways.unknown.push(format!("accounts of {source} (nsswitch.conf) are not judged"));
    }
    for account in &look.passwd {
        if !only.is_empty() && !only.contains(&account.name) {
            continue;
        }
        if let Some(one) = one(look, &doors, &pam, &rules, account, &shared)? {
            ways.accounts.push(one);
        }
        if console(look, &pam, account) {
            ways.console.push(account.name.clone());
        }
    }
    ways.accounts.sort_by_key(|account| (std::cmp::Reverse(badness(account)), account.uid));
    Ok(ways)
}

/// What sshd would say to each of `names` from one address, in one look.
///
/// # Errors
/// As [`ways`].
pub fn from_address(
    facts: &Facts,
    after: &After<'_>,
    names: &[String],
    address: IpAddr,
) -> Result<Vec<(String, Proven, Vec<String>)>> {
    let look = Look::new(facts, after, Some(after))?;
    let (doors, pam) = (Doors::new(&look)?, Pam::new(&look)?);
    let place = Place { label: Some(address.to_string()), address };
    let mut said = Vec::new();
    for account in look.passwd.iter().filter(|account| names.contains(&account.name)) {
        let (door, why) = doors.passes(&place);
        let at = at(&look, &pam, account, &place)?;
        let held = both(door, at.proven());
        let mut because = if at.no.is_empty() { at.unknown } else { at.no };
        because.extend(Some(why).filter(|_| door != Proven::Yes));
        // A key line that is bound to other places is a reason too.
        because.extend(at.remarks.into_iter().filter(|remark| held != Proven::Yes && remark.contains("from=")));
        because.dedup();
        said.push((account.name.clone(), held, because));
    }
    Ok(said)
}

/// How often a client may try to authenticate, by the configuration after the plan.
///
/// # Errors
/// As [`ways`].
pub fn tries(facts: &Facts, after: &After<'_>) -> Result<Option<u32>> {
    let look = Look::new(facts, after, Some(after))?;
    Ok(look.everybody().ok().and_then(|effective| effective.get("maxauthtries")?.parse().ok()))
}

/// Ranges that sshd's own rules name: Match Address, and user@host of AllowUsers and DenyUsers.
fn of_sshd(look: &Look<'_>) -> Vec<String> {
    let mut named = Vec::new();
    for (_, directive) in look.directives() {
        match directive.keyword.as_str() {
            "match" => {
                let mut words = directive.args.iter().flat_map(|arg| arg.splitn(2, '='));
                while let Some(word) = words.next() {
                    if word.eq_ignore_ascii_case("address") {
                        named.extend(words.next().unwrap_or_default().split(',').map(str::to_owned));
                    }
                }
            }
            "allowusers" | "denyusers" => {
                named.extend(directive.args.iter().filter_map(|arg| Some(arg.rsplit_once('@')?.1.to_owned())));
            }
            _ => {}
        }
    }
    named.into_iter().map(|part| part.trim_start_matches('!').to_owned()).collect()
}

/// Other sources of accounts than the files.
fn of_the_network(look: &Look<'_>) -> Result<Option<String>> {
    let text = look.text("/etc/nsswitch.conf")?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("passwd:"));
    let others: Vec<&str> = line
        .unwrap_or_default()
        .split_whitespace()
        .filter(|word| !matches!(*word, "files" | "compat" | "systemd") && !word.starts_with('['))
        .collect();
    Ok((!others.is_empty()).then(|| others.join(", ")))
}

/// One account; `None` when it is no way in by design: a closed shell, no key and no password.
fn one(
    look: &Look<'_>,
    doors: &Doors,
    pam: &Pam,
    rules: &Rules,
    account: &PasswdEntry,
    shared: &[String],
) -> Result<Option<Account>> {
    let own_keys = match look.everybody() {
        Ok(effective) => keys::look(look, account, &effective).lines,
        Err(_) => Vec::new(),
    };
    let shadow = look.shadow(&account.name);
    let hash = hash(shadow.as_ref());
    if is_closed(&account.shell) && own_keys.is_empty() && hash == Hash::Locked {
        return Ok(None);
    }
    // Its own come first: they are what is cut off least.
    let named = own_keys.iter().flat_map(keys::Line::from).chain(shared.iter().cloned());
    let (places, left_out) = places(named);
    let mut seen: Vec<(&Place, Proven, At, String)> = Vec::new();
    for place in &places {
        let (door, why) = doors.passes(place);
        let said = at(look, pam, account, place)?;
        let held = both(door, said.proven());
        seen.push((place, held, said, if door == Proven::Yes { String::new() } else { why }));
    }
    let held: Vec<(&Place, Proven)> = seen.iter().map(|(place, held, ..)| (*place, *held)).collect();
    let from = sum(&held, doors.has_v6());
    let mut ssh = held.iter().map(|(_, held)| *held).min_by_key(|held| rank(*held)).unwrap_or(Proven::No);
    // The place that tells most: where it gets in, else everywhere.
    let best = seen.iter().position(|(_, held, ..)| *held == ssh).unwrap_or(0);
    let more = elsewhere(&seen, best);
    let open = || seen.iter().filter(|(_, held, ..)| *held != Proven::No);
    let mut others: Vec<Method> = Vec::new();
    for method in open().flat_map(|(_, _, said, _)| &said.methods) {
        let told = seen.get(best).is_some_and(|(_, _, said, _)| said.methods.contains(method));
        if !told && !others.contains(method) {
            others.push(method.clone());
        }
    }
    let mut doubts: Vec<String> = open().flat_map(|(_, _, said, _)| said.doubts.iter().cloned()).collect();
    doubts.sort();
    doubts.dedup();
    let Some((_, _, said, door)) = seen.into_iter().nth(best) else { return Ok(None) };
    let mut because: Vec<String> = Vec::new();
    if ssh != Proven::Yes {
        because = if said.no.is_empty() { said.unknown } else { said.no };
        because.extend(Some(door).filter(|why| !why.is_empty()));
    }
    if left_out > 0 && ssh == Proven::No {
        ssh = Proven::Unknown;
        because = vec!["more address ranges are named than are tried".to_owned()];
    }
    because.dedup();
    let may = rules.of(look, account)?;
    let mut warnings = more;
    warnings.extend(said.remarks);
    warnings.dedup();
    let root = root(account, &said.limited_to, &may.sudo, may.others_password, hash, &mut warnings);
    let groups = look.groups(account);
    let strong_groups = STRONG.iter().filter(|strong| groups.iter().any(|(name, _)| name == *strong));
    Ok(Some(Account {
        name: account.name.clone(),
        uid: account.uid,
        ssh,
        because,
        from,
        methods: said.methods,
        others,
        doubts,
        limited_to: said.limited_to,
        sudo: may.sudo,
        root,
        soon: said.soon,
        strong_groups: strong_groups.map(|group| (*group).to_owned()).collect(),
        warnings,
    }))
}

/// Methods that open the door at some places only, beyond those of the place that is told.
fn elsewhere(seen: &[(&Place, Proven, At, String)], best: usize) -> Vec<String> {
    let told = seen.get(best).map(|(_, _, said, _)| said.methods.as_slice()).unwrap_or_default();
    let mut found: Vec<String> = Vec::new();
    for (place, _, said, _) in seen.iter().filter(|(_, held, ..)| *held == Proven::Yes) {
        for method in said.methods.iter().filter(|method| !told.contains(method)) {
            let place = place.label.clone().unwrap_or_else(|| family(place).to_owned());
            let text = format!("from {place} also by {}", method.words());
            if !found.contains(&text) {
                found.push(text);
            }
        }
    }
    found
}

const fn family(place: &Place) -> &'static str {
    if place.address.is_ipv6() { "everywhere over IPv6" } else { "everywhere over IPv4" }
}

const fn rank(proven: Proven) -> u8 {
    match proven {
        Proven::Yes => 0,
        Proven::Unknown => 1,
        Proven::No => 2,
    }
}

fn both(one: Proven, other: Proven) -> Proven {
    if rank(one) > rank(other) { one } else { other }
}

fn root(
    account: &PasswdEntry,
    limited_to: &Option<String>,
    sudo: &Sudo,
    others_password: bool,
    hash: Hash,
    warnings: &mut Vec<String>,
) -> Proven {
    let free = match (account.uid, sudo) {
        (0, _) | (_, Sudo::WithoutPassword) => Proven::Yes,
        (_, Sudo::WithPassword) if others_password => Proven::Unknown,
        (_, Sudo::WithPassword) if hash == Hash::Locked => {
            warnings.push("sudo asks for its password, and it has none".to_owned());
            Proven::No
        }
        (_, Sudo::WithPassword) => Proven::Yes,
        (_, Sudo::Unknown) => Proven::Unknown,
        (_, Sudo::Nothing | Sudo::Some) => Proven::No,
    };
    // What a forced command allows is its own matter.
    if limited_to.is_some() && free == Proven::Yes { Proven::Unknown } else { free }
}

/// Whether the console lets it in: some password matches, or none is asked for and PAM takes that.
fn console(look: &Look<'_>, pam: &Pam, account: &PasswdEntry) -> bool {
    let shadow = look.shadow(&account.name);
    let groups = look.groups(account);
    let names: Vec<&str> = groups.iter().map(|(name, _)| name.as_str()).collect();
    let password = match hash(shadow.as_ref()) {
        Hash::Usable => true,
        Hash::Empty => pam.takes_empty(),
        Hash::Locked => false,
    };
    password
        && !is_closed(&account.shell)
        && shadow.and_then(|entry| entry.expire).is_none_or(|day| day > look.today())
        && pam.console(&account.name, account.uid, &names).no.is_empty()
}

/// Worst first: no proof at all, root by password, who becomes root, what is unknown, the rest; who cannot get in last.
fn badness(account: &Account) -> u8 {
    let by = |wanted: &dyn Fn(&Method) -> bool| account.methods.iter().any(wanted);
    let password = by(&|method| matches!(method, Method::Password | Method::KeyboardInteractive));
    let root = account.root == Proven::Yes;
    match account.ssh {
        Proven::No => 0,
        Proven::Unknown => 3,
        Proven::Yes if by(&|method| *method == Method::Nothing) => 9,
        Proven::Yes if account.uid == 0 && password => 8,
        Proven::Yes if root && password => 7,
        Proven::Yes if root => 5,
        Proven::Yes if password => 4,
        Proven::Yes => 2,
    }
}
