//! A new account, as useradd(8) makes it.

use crate::change::{Change, Difference, Note, Risk, Stage, Step};
use crate::error::{Failure, Result};
use crate::formats::accounts::Records;
use crate::host::{AccountEdit, Actor, Database, FileKind, Node, Owner, Probe};
use crate::resource::Planned;
use crate::types::{AbsPath, GroupName, Password, PlainText};

use super::{Desired, Home, Observed, default_home, ground, is_system_place};

/// Shadow's aging for an account that has no password to change; see shadow(5).
const NEVER_AGES: &str = "99999";

/// uid and gid, chosen as useradd chooses: the highest in use plus one, passing over ids that own somebody's leftovers.
pub fn ids(desired: &Desired, observed: &Observed, probe: &dyn Probe) -> Result<(u32, u32)> {
    let databases = &observed.databases;
    let mut uids: Vec<u32> = databases.passwd.passwd().iter().map(|entry| entry.uid).collect();
    let mut gids: Vec<u32> = databases.group.group().iter().map(|entry| entry.gid).collect();
    let (others, _) = &desired.others;
    uids.extend(others.iter().filter_map(|(_, uid)| *uid));
    // What the accounts made before this one will get.
    for (_, uid) in newcomers(desired, observed) {
        let (uid, gid) = pick(desired, observed, probe, uid, &uids, &gids)?;
        uids.push(uid);
        gids.push(gid);
    }
    pick(desired, observed, probe, desired.uid, &uids, &gids)
}

/// The accounts that this plan makes before this one.
fn newcomers<'a>(desired: &'a Desired, observed: &'a Observed) -> impl Iterator<Item = (&'a str, Option<u32>)> {
    let (others, before) = &desired.others;
    let absent = |name: &str| observed.databases.passwd.count(name) == 0;
    others.iter().take(*before).filter(move |(name, _)| absent(name)).map(|(name, uid)| (name.as_str(), *uid))
}

fn pick(
    desired: &Desired,
    observed: &Observed,
    probe: &dyn Probe,
    given: Option<u32>,
    uids: &[u32],
    gids: &[u32],
) -> Result<(u32, u32)> {
    let uid = match given {
        Some(uid) => uid,
        None => {
            let range = observed.defs.or("UID_MIN", 1000)..=observed.defs.or("UID_MAX", 60_000);
            free(range, uids, |uid| {
                Ok(!observed.leftovers.contains_key(&uid)
                    && !ground::known_elsewhere(probe, "passwd", &uid.to_string())?)
            })?
            .ok_or_else(|| no_id(desired, "uid"))?
        }
    };
    let unknown = |gid: u32| Ok(!ground::known_elsewhere(probe, "group", &gid.to_string())?);
    if !gids.contains(&uid) && unknown(uid)? {
        return Ok((uid, uid));
    }
    let range = observed.defs.or("GID_MIN", 1000)..=observed.defs.or("GID_MAX", 60_000);
    let gid = free(range, gids, unknown)?.ok_or_else(|| no_id(desired, "gid"))?;
    Ok((uid, gid))
}

fn no_id(desired: &Desired, what: &str) -> Failure {
    Failure::refused(desired.name.as_str(), format!("no {what} is free in the range of /etc/login.defs"))
        .hint("give one: uid: NUMBER")
}

/// The one after the highest in use, else the lowest free one, that `fit` accepts.
fn free(
    range: std::ops::RangeInclusive<u32>,
    used: &[u32],
    mut fit: impl FnMut(u32) -> Result<bool>,
) -> Result<Option<u32>> {
    let highest = used.iter().copied().filter(|id| range.contains(id)).max();
    let first = highest.map_or(*range.start(), |id| id.saturating_add(1));
    for id in (first..=*range.end()).chain(range.clone()) {
        if !used.contains(&id) && fit(id)? {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// The change that makes the account.
pub fn plan(desired: &Desired, observed: &Observed) -> Result<Planned> {
    let name = desired.name.as_str();
    if desired.name.is_root() {
        return Err(Failure::refused("root", "/etc/passwd has no root").hint("repair it with: vipw"));
    }
    let Some((uid, gid)) = observed.ids else {
        return Err(Failure::unknown(name, "no ids were chosen for the new account").hint("plan again"));
    };
    refuse_clashes(desired, observed, uid)?;
    let mut planned = Planned::default();
    notes(desired, observed, uid, &mut planned.notes);
    let home = default_home(desired);
    let shell = desired.shell.as_ref().map_or("/bin/bash", |shell| shell.as_str());
    if !observed.shell.runs {
        return Err(Failure::refused(name, format!("the shell {shell} is not there"))
            .hint("install it, or give shell: /bin/bash"));
    }
    let mut edits = entries(desired, observed, uid, gid, shell);
    edits.extend(memberships(desired, observed)?);
    let mut change =
        Change::new("user", format!("user:{name}:create"), summary(desired, uid), Stage::Additive, risk(desired));
    change.differences.push(Difference::new(
        format!("users.{name}"),
        format!("uid {uid}, home {home}, shell {shell}"),
        "no such account",
    ));
    if !desired.groups.is_empty() {
        let list = desired.groups.iter().map(GroupName::as_str).collect::<Vec<_>>().join(", ");
        change.differences.push(Difference::new(format!("users.{name}.groups"), list, "no such account"));
    }
    let password = if matches!(desired.password, Some(Password::Hash(_))) { "(hash set)" } else { "locked (*)" };
    change.differences.push(Difference::new(format!("users.{name}.password"), password, "no such account"));
    change.steps.push(Step::Account { edits });
    change.steps.extend(home_steps(desired, observed, uid, gid)?);
    planned.changes.push(change);
    Ok(planned)
}

fn summary(desired: &Desired, uid: u32) -> String {
    let name = desired.name.as_str();
    match desired.groups.is_empty() {
        true => format!("create account {name} (uid {uid})"),
        false => {
            let list = desired.groups.iter().map(GroupName::as_str).collect::<Vec<_>>().join(", ");
            format!("create account {name} (uid {uid}) in {list}")
        }
    }
}

/// An account that nobody can log in to yet endangers nothing; a password opens a way in.
const fn risk(desired: &Desired) -> Risk {
    if matches!(desired.password, Some(Password::Hash(_))) { Risk::Access } else { Risk::None }
}

fn refuse_clashes(desired: &Desired, observed: &Observed, uid: u32) -> Result<()> {
    let name = desired.name.as_str();
    let entries = observed.databases.passwd.passwd();
    if let Some(other) = entries.iter().find(|entry| entry.uid == uid) {
        return Err(Failure::refused(name, format!("uid {uid} belongs to {}", other.name))
            .hint("give another uid, or leave it out"));
    }
    let home = default_home(desired);
    if let Some(other) = entries.iter().find(|entry| entry.home == home.as_str() && entry.uid >= 1000) {
        return Err(Failure::refused(name, format!("{home} is the home of {}", other.name)).hint("give another home"));
    }
    if observed.databases.group.count(name) > 0 {
        return Err(Failure::refused(name, format!("there is a group {name} already, and no account of that name"))
            .why("the new account needs a group of its own, and taking that one over could hand it rights")
            .hint(format!("when the group is a leftover, remove it: groupdel {name}")));
    }
    Ok(())
}

fn notes(desired: &Desired, observed: &Observed, uid: u32, notes: &mut Vec<Note>) {
    let name = desired.name.as_str();
    let about = format!("users.{name}");
    for remark in &observed.remarks {
        notes.push(Note::warning(&about, remark.clone()));
    }
    let entries = observed.databases.passwd.passwd();
    for (owner, paths) in &observed.leftovers {
        if *owner == uid {
            notes.push(Note::warning(
                &about,
                format!("uid {uid} owns what an earlier account left: {}", paths.join(", ")),
            ));
        } else if !entries.iter().any(|entry| entry.uid == *owner) {
            notes.push(Note::info(
                &about,
                format!("uid {owner} is passed over; a removed account left: {}", paths.join(", ")),
            ));
        }
    }
    if !observed.shell.listed {
        notes.push(Note::warning(&about, "the shell is not in /etc/shells; some services refuse such accounts"));
    }
    let (low, high) = (observed.defs.or("UID_MIN", 1000), observed.defs.or("UID_MAX", 60_000));
    if !(low..=high).contains(&uid) {
        notes.push(Note::info(&about, format!("uid {uid} is outside {low} to {high} of /etc/login.defs")));
    }
}

fn entries(desired: &Desired, observed: &Observed, uid: u32, gid: u32, shell: &str) -> Vec<AccountEdit> {
    let name = desired.name.as_str();
    let defs = &observed.defs;
    let comment = desired.comment.as_ref().map_or("", PlainText::as_str);
    let (hash, max) = match &desired.password {
        Some(Password::Hash(hash)) => (hash.reveal().as_str(), defs.days("PASS_MAX_DAYS")),
        _ => ("*", NEVER_AGES.to_owned()),
    };
    let (min, warn) = (defs.days("PASS_MIN_DAYS"), defs.days("PASS_WARN_AGE"));
    let shadow = format!("{name}:{hash}:{}:{min}:{max}:{warn}:::", observed.today);
    let add = |db, line| AccountEdit::Add { db, line };
    let mut edits = vec![
        add(Database::Group, format!("{name}:x:{gid}:")),
        add(Database::Passwd, format!("{name}:x:{uid}:{gid}:{comment}:{}:{shell}", default_home(desired))),
        add(Database::Shadow, shadow),
    ];
    if observed.databases.gshadow.as_ref().is_some_and(|records| records.count(name) == 0) {
        edits.push(add(Database::Gshadow, format!("{name}:!::")));
    }
    edits.extend(subordinate(desired, observed, uid));
    edits
}

/// Ranges of subordinate ids, as useradd gives them to ordinary accounts where the files exist.
fn subordinate(desired: &Desired, observed: &Observed, uid: u32) -> Vec<AccountEdit> {
    let name = desired.name.as_str();
    let defs = &observed.defs;
    if !(defs.or("UID_MIN", 1000)..=defs.or("UID_MAX", 60_000)).contains(&uid) {
        return Vec::new();
    }
    let mut edits = Vec::new();
    let files = [
        (Database::Subuid, &observed.databases.subuid, "SUB_UID"),
        (Database::Subgid, &observed.databases.subgid, "SUB_GID"),
    ];
    for (db, records, prefix) in files {
        let Some(records) = records.as_ref().filter(|records| records.count(name) == 0) else { continue };
        let count = defs.or(&format!("{prefix}_COUNT"), 65_536);
        let low = defs.or(&format!("{prefix}_MIN"), 100_000);
        let high = defs.or(&format!("{prefix}_MAX"), 600_100_000);
        let mut records = records.clone();
        for (other, _) in newcomers(desired, observed) {
            if let Some(start) = gap(&records, low, high, count) {
                // One that has a range already needs none.
                let _ = records.add(&format!("{other}:{start}:{count}"));
            }
        }
        if let Some(start) = gap(&records, low, high, count).filter(|_| count > 0) {
            edits.push(AccountEdit::Add { db, line: format!("{name}:{start}:{count}") });
        }
    }
    edits
}

/// The start of the first gap of `count` ids from `low` on that no line of `records` touches.
fn gap(records: &Records, low: u32, high: u32, count: u32) -> Option<u32> {
    // Line by line: one owner may have several ranges.
    let text = String::from_utf8_lossy(&records.render()).into_owned();
    let range = |line: &str| {
        let mut fields = line.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?))
    };
    let mut taken: Vec<(u32, u32)> = text.lines().filter_map(range).collect();
    taken.sort_unstable();
    let mut start = low;
    for (first, length) in taken {
        if first >= start.saturating_add(count) {
            break;
        }
        start = start.max(first.saturating_add(length));
    }
    start.checked_add(count).filter(|end| *end <= high.saturating_add(1)).map(|_| start)
}

/// Supplementary groups that the account is not in yet. They must be there: a group made up here would mean nothing.
pub fn memberships(desired: &Desired, observed: &Observed) -> Result<Vec<AccountEdit>> {
    let name = desired.name.as_str();
    let databases = &observed.databases;
    let mut edits = Vec::new();
    for group in &desired.groups {
        let group = group.as_str();
        if databases.group.count(group) != 1 {
            return Err(Failure::refused(format!("users.{name}.groups"), format!("there is no group {group}"))
                .hint(format!("{}, or take it out of the list", origin(group))));
        }
        let primary = databases.passwd.passwd_entry(name).map(|entry| entry.gid);
        let is_primary = primary.is_some() && databases.group.group_entry(group).map(|entry| entry.gid) == primary;
        let mut join = |db, records: &Records| {
            if records.count(group) == 1 && !records.is_member(group, name) {
                edits.push(AccountEdit::Member { db, group: group.to_owned(), user: name.to_owned(), present: true });
            }
        };
        if is_primary {
            continue;
        }
        join(Database::Group, &databases.group);
        if let Some(gshadow) = &databases.gshadow {
            join(Database::Gshadow, gshadow);
        }
    }
    Ok(edits)
}

/// How a missing group comes about.
fn origin(group: &str) -> String {
    match group {
        "sudo" | "adm" | "staff" | "users" => {
            "it comes with package base-passwd; make it with: groupadd --system ".to_owned() + group
        }
        "docker" => "it comes with package docker.io: apt-get install docker.io".to_owned(),
        "www-data" => "it comes with package base-passwd: update-passwd".to_owned(),
        _ => format!("make it with: groupadd {group}"),
    }
}

/// A directory is made, or an empty one of root's given away, only where no package could count on it.
fn ours_to_give(name: &str, home: &AbsPath, found: &Home) -> Result<()> {
    let refused = |what: String| Failure::refused(format!("users.{name}.home"), what);
    let elsewhere = format!("choose /home/{name}; for an account that is there: usermod --home /home/{name} {name}");
    if is_system_place(home) {
        return Err(refused(format!("{home} belongs to the system"))
            .why("keyward makes no home there, and gives nothing away that is there")
            .hint(elsewhere));
    }
    let for_people = ["/home", "/srv", "/opt"].iter().any(|place| home.is_within(&AbsPath::fixed(place)));
    if *found != Home::Absent && !for_people {
        return Err(refused(format!("{home} is there already, and is root's"))
            .why("an empty directory is taken over below /home, /srv and /opt only: elsewhere a package may need it")
            .hint(format!("if nothing needs it: rmdir {home}; else {elsewhere}")));
    }
    Ok(())
}

/// The empty file that Debian's sudo leaves in the home of a member of the group sudo or admin at the first use
/// (sudoers(5), `admin_flag`).
const SUDO_MARK: &str = ".sudo_as_admin_successful";

/// The home, and the skeleton in the name of its new owner.
pub fn home_steps(desired: &Desired, observed: &Observed, uid: u32, gid: u32) -> Result<Vec<Step>> {
    let name = desired.name.as_str();
    let home = default_home(desired);
    let fill = match &observed.home {
        Home::Absent => true,
        Home::Dir { empty: true, .. } => true,
        Home::Dir { meta, .. } if meta.uid == uid => false,
        Home::Dir { meta, .. } => {
            return Err(Failure::refused(name, format!("{home} is there already and belongs to uid {}", meta.uid))
                .why("its content would come to the new account unseen")
                .hint(format!("move it away: mv {home} {home}.old, or take it over with: uid: {}", meta.uid)));
        }
        Home::Other(kind) => {
            return Err(Failure::refused(
                name,
                format!("{} is {}, not a directory", observed.place, ground::word(*kind)),
            )
            .hint(if *kind == FileKind::Link {
                "give the plain path as home"
            } else {
                "remove it, or give another home"
            }));
        }
    };
    if !fill {
        return Ok(Vec::new());
    }
    ours_to_give(name, &home, &observed.home)?;
    let owner = Owner::Ids { uid, gid };
    let node = Node::Dir { mode: observed.defs.home_mode(), owner };
    let mut steps = vec![Step::Put { path: observed.place.clone(), actor: Actor::Root, node }];
    for thing in &observed.skeleton {
        let Ok(path) = home.join(&thing.name) else { continue };
        steps.push(Step::Put { path, actor: Actor::User(desired.name.clone()), node: thing.node.clone() });
    }
    // Nothing is there yet; but an undo makes that so again, and the home can go.
    if let Ok(path) = home.join(SUDO_MARK) {
        steps.push(Step::Remove { path, actor: Actor::User(desired.name.clone()) });
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_highest() {
        let any = |_| Ok(true);
        assert_eq!(free(1000..=1005, &[0, 65534], any).unwrap(), Some(1000));
        assert_eq!(free(1000..=1005, &[1000, 1003], any).unwrap(), Some(1004));
        assert_eq!(free(1000..=1005, &[1000, 1005], any).unwrap(), Some(1001));
        assert_eq!(free(1000..=1001, &[1000, 1001], any).unwrap(), None);
        assert_eq!(free(1000..=1005, &[], |id| Ok(id != 1000)).unwrap(), Some(1001));
    }

    #[test]
    fn subordinate_ranges_do_not_overlap() {
        let records = Records::parse(b"a:100000:65536\nb:165536:65536\n1000:300000:65536\n");
        assert_eq!(gap(&records, 100_000, 600_100_000, 65_536), Some(231_072));
        assert_eq!(gap(&Records::default(), 100_000, 600_100_000, 65_536), Some(100_000));
        assert_eq!(gap(&records, 100_000, 300_000, 65_536), Some(231_072));
        assert_eq!(gap(&records, 100_000, 240_000, 65_536), None);
    }
}
