//! An account that is there: only what the playbook names is changed, and for an administrator what shuts it out.

use crate::change::{Change, Difference, Note, Risk, Stage, Step};
use crate::error::{Failure, Result};
use crate::formats::accounts::{PasswdEntry, ShadowEntry};
use crate::host::{AccountEdit, Actor, Database, FileKind, Node, Owner};
use crate::resource::Planned;
use crate::types::{GroupName, Password, PlainText};

use super::{Desired, Home, Observed, create, ground};

/// Field indices of passwd(5) and shadow(5).
const GECOS: usize = 4;
const SHELL: usize = 6;
const HASH: usize = 1;
const LAST_CHANGE: usize = 2;
const MAX: usize = 4;
const EXPIRE: usize = 7;
/// Groups that amount to root, or to reading everything.
const STRONG: [&str; 9] = ["root", "sudo", "wheel", "admin", "adm", "docker", "lxd", "disk", "shadow"];

/// One stage's worth of edits.
struct Draft {
    edits: Vec<AccountEdit>,
    differences: Vec<Difference>,
    words: Vec<String>,
    risk: Risk,
}

struct Drafts {
    name: String,
    additive: Draft,
    subtractive: Draft,
    notes: Vec<Note>,
}

impl Draft {
    const fn new() -> Self {
        Self { edits: Vec::new(), differences: Vec::new(), words: Vec::new(), risk: Risk::None }
    }
}

impl Drafts {
    fn set(&mut self, stage: Stage, risk: Risk, db: Database, index: usize, value: &str) {
        let edit = AccountEdit::Field { db, key: self.name.clone(), index, value: value.to_owned() };
        let draft = self.draft(stage);
        draft.edits.push(edit);
        draft.risk = draft.risk.max(risk);
    }

    fn say(&mut self, stage: Stage, field: &str, want: &str, have: &str, words: &str) {
        let path = format!("users.{}.{field}", self.name);
        let draft = self.draft(stage);
        draft.differences.push(Difference::new(path, want, have));
        draft.words.push(words.to_owned());
    }

    const fn draft(&mut self, stage: Stage) -> &mut Draft {
        match stage {
            Stage::Subtractive => &mut self.subtractive,
            _ => &mut self.additive,
        }
    }
}

/// The changes that bring an existing account to what is asked.
pub fn plan(desired: &Desired, observed: &Observed, entry: &PasswdEntry) -> Result<Planned> {
    let name = desired.name.as_str();
    let mut drafts =
        Drafts { name: name.to_owned(), additive: Draft::new(), subtractive: Draft::new(), notes: Vec::new() };
    let Some(shadow) = observed.databases.shadow.shadow_entry(name) else {
        return Err(Failure::refused(name, "/etc/shadow has no entry for this account").hint("make one with: pwconv"));
    };
    fixed_fields(desired, entry)?;
    comment(desired, entry, &mut drafts);
    shell(desired, observed, entry, &mut drafts)?;
    password(desired, observed, &shadow, &mut drafts);
    groups(desired, observed, entry, &mut drafts)?;
    if desired.admin && !desired.name.is_root() {
        admitted(desired, observed, entry, &shadow, &mut drafts)?;
    }
    let mut planned = Planned::default();
    let home = home(desired, observed, entry, &mut drafts)?;
    for (draft, stage, what) in
        [(drafts.additive, Stage::Additive, "adjust"), (drafts.subtractive, Stage::Subtractive, "restrict")]
    {
        let steps = if stage == Stage::Additive { home.clone() } else { Vec::new() };
        if draft.edits.is_empty() && steps.is_empty() {
            continue;
        }
        let summary = format!("account {name}: {}", draft.words.join(", "));
        let mut change = Change::new("user", format!("user:{name}:{what}"), summary, stage, draft.risk);
        change.differences = draft.differences;
        if !draft.edits.is_empty() {
            change.steps.push(Step::Account { edits: draft.edits });
        }
        change.steps.extend(steps);
        planned.changes.push(change);
    }
    planned.notes = drafts.notes;
    let about = format!("users.{name}");
    planned.notes.extend(observed.remarks.iter().map(|remark| Note::warning(&about, remark.clone())));
    Ok(planned)
}

/// What keyward does not change on an account that is in use.
fn fixed_fields(desired: &Desired, entry: &PasswdEntry) -> Result<()> {
    let name = desired.name.as_str();
    if let Some(uid) = desired.uid.filter(|uid| *uid != entry.uid) {
        return Err(Failure::refused(format!("users.{name}.uid"), format!("{name} has uid {}, not {uid}", entry.uid))
            .why("files, jobs and processes belong to the present one")
            .hint(format!("write uid: {}, or leave it out", entry.uid)));
    }
    if let Some(home) = desired.home.as_ref().filter(|home| home.as_str() != entry.home) {
        return Err(Failure::refused(format!("users.{name}.home"), format!("the home of {name} is {}", entry.home))
            .why("keyward moves no homes")
            .hint(format!("leave 'home' out, or move it first: usermod --move-home --home {home} {name}")));
    }
    Ok(())
}

fn comment(desired: &Desired, entry: &PasswdEntry, drafts: &mut Drafts) {
    let Some(comment) = desired.comment.as_ref().map(PlainText::as_str) else { return };
    let (first, rest) = entry.gecos.split_once(',').map_or((entry.gecos.as_str(), None), |(a, b)| (a, Some(b)));
    if first != comment {
        let value = rest.map_or_else(|| comment.to_owned(), |rest| format!("{comment},{rest}"));
        drafts.set(Stage::Additive, Risk::None, Database::Passwd, GECOS, &value);
        drafts.say(Stage::Additive, "comment", comment, first, "set its comment");
    }
}

/// Shells that end a session at once.
fn is_closed(shell: &str) -> bool {
    let last = shell.rsplit('/').next().unwrap_or_default();
    matches!(last, "nologin" | "false" | "true" | "sync" | "halt" | "shutdown")
}

fn shell(desired: &Desired, observed: &Observed, entry: &PasswdEntry, drafts: &mut Drafts) -> Result<()> {
    let name = desired.name.as_str();
    let missing = |shell: &str| {
        Failure::refused(format!("users.{name}.shell"), format!("the shell {shell} is not there"))
            .hint("install it, or give shell: /bin/bash")
    };
    if let Some(shell) = desired.shell.as_ref() {
        if !observed.shell.runs {
            return Err(missing(shell.as_str()));
        }
        if desired.admin && is_closed(shell.as_str()) {
            return Err(Failure::refused(
                format!("users.{name}.shell"),
                format!("{shell} lets nobody in, and {name} is an administrator"),
            )
            .hint("give shell: /bin/bash"));
        }
        if shell.as_str() != entry.shell {
            let risk = if desired.admin { Risk::Access } else { Risk::None };
            drafts.set(Stage::Additive, risk, Database::Passwd, SHELL, shell.as_str());
            drafts.say(Stage::Additive, "shell", shell.as_str(), &entry.shell, &format!("set its shell to {shell}"));
        }
    } else if desired.admin && (is_closed(&entry.shell) || !observed.shell.runs) {
        if entry.uid < observed.defs.or("UID_MIN", 1000) {
            return Err(Failure::refused(
                name,
                format!("this is a system account (uid {}) with the shell {}", entry.uid, entry.shell),
            )
            .why("a service runs under it; it should not become an administrator by a default")
            .hint("choose another account, or give shell: /bin/bash"));
        }
        drafts.set(Stage::Additive, Risk::Access, Database::Passwd, SHELL, "/bin/bash");
        drafts.say(Stage::Additive, "shell", "/bin/bash", &entry.shell, "give it a shell that lets it in");
    }
    if !observed.shell.listed && desired.shell.is_some() {
        drafts.notes.push(Note::warning(
            format!("users.{name}"),
            "the shell is not in /etc/shells; some services refuse such accounts",
        ));
    }
    Ok(())
}

/// What a shadow(5) password field is, in words that show nothing of it.
fn in_words(hash: &str) -> &'static str {
    match hash.chars().next() {
        None => "empty: no password is asked for",
        Some('*') => "locked (*)",
        Some('!') if hash.trim_start_matches('!').starts_with('$') => "locked (! before a hash)",
        Some('!') => "locked (!)",
        Some(_) => "(a hash)",
    }
}

fn password(desired: &Desired, observed: &Observed, shadow: &ShadowEntry, drafts: &mut Drafts) {
    let have = shadow.hash.reveal().as_str();
    let name = desired.name.as_str();
    match &desired.password {
        Some(Password::Locked) if !have.starts_with('*') => {
            // Taking a password away closes a door; changing `!` to `*` opens none.
            let usable = !have.starts_with('!');
            let stage = if usable { Stage::Subtractive } else { Stage::Additive };
            drafts.set(stage, if usable { Risk::Access } else { Risk::None }, Database::Shadow, HASH, "*");
            drafts.say(stage, "password", "locked (*)", in_words(have), "lock its password with *");
        }
        Some(Password::Hash(hash)) if hash.reveal() != have => {
            let usable = !have.starts_with(['!', '*']);
            let stage = if usable { Stage::Subtractive } else { Stage::Additive };
            drafts.set(stage, Risk::Access, Database::Shadow, HASH, hash.reveal());
            drafts.set(stage, Risk::Access, Database::Shadow, LAST_CHANGE, &observed.today.to_string());
            drafts.say(stage, "password", "(hash set)", in_words(have), "set its password hash");
        }
        _ if have.is_empty() => drafts.notes.push(Note::warning(
            format!("users.{name}"),
            "its password is empty: anyone can become this account at the console; write password: locked",
        )),
        _ => {}
    }
}

fn groups(desired: &Desired, observed: &Observed, entry: &PasswdEntry, drafts: &mut Drafts) -> Result<()> {
    let name = desired.name.as_str();
    let all = observed.databases.group.group();
    let joins = create::memberships(desired, observed)?;
    if !joins.is_empty() {
        let now = member_of(&all, name);
        let wanted: Vec<&str> = desired.groups.iter().map(GroupName::as_str).collect();
        let strong = wanted.iter().any(|group| STRONG.contains(group) && !now.contains(group));
        drafts.additive.risk = drafts.additive.risk.max(if strong { Risk::Access } else { Risk::None });
        drafts.additive.edits.extend(joins);
        let new: Vec<&str> = wanted.iter().filter(|group| !now.contains(*group)).copied().collect();
        let words = format!("join {}", if new.is_empty() { wanted.join(", ") } else { new.join(", ") });
        drafts.say(Stage::Additive, "groups", &wanted.join(", "), &now.join(", "), &words);
    }
    if !desired.exclusive_groups {
        return Ok(());
    }
    let databases =
        [(Database::Group, Some(&observed.databases.group)), (Database::Gshadow, observed.databases.gshadow.as_ref())];
    let mut left = Vec::new();
    for (db, records) in databases {
        let Some(records) = records else { continue };
        for group in records.keys().filter(|group| records.is_member(group, name)) {
            let kept = desired.groups.iter().any(|wanted| wanted.as_str() == group);
            let primary = all.iter().any(|other| other.name == group && other.gid == entry.gid);
            if !kept && !primary {
                let edit = AccountEdit::Member { db, group: group.clone(), user: name.to_owned(), present: false };
                drafts.subtractive.edits.push(edit);
                left.push(group);
            }
        }
    }
    left.sort();
    left.dedup();
    if !left.is_empty() {
        drafts.subtractive.risk = Risk::Access;
        let wanted: Vec<&str> = desired.groups.iter().map(GroupName::as_str).collect();
        let now = member_of(&all, name).join(", ");
        drafts.say(Stage::Subtractive, "groups", &wanted.join(", "), &now, &format!("leave {}", left.join(", ")));
    }
    Ok(())
}

fn member_of<'a>(groups: &'a [crate::formats::accounts::GroupEntry], name: &str) -> Vec<&'a str> {
    let has = |members: &[String]| members.iter().any(|member| member == name);
    groups.iter().filter(|group| has(&group.members)).map(|group| group.name.as_str()).collect()
}

/// What keeps an administrator out although the key is right: see shadow(5), pam_unix(8) and sshd_config(5) `UsePAM`.
///
/// Mended here, as shown in the plan: an account expiry in the past; `!` without a hash behind it where sshd has
/// `UsePAM no`; a demanded or overdue change of a password that nobody has. Refused: the same where a hash is at stake.
fn admitted(
    desired: &Desired,
    observed: &Observed,
    entry: &PasswdEntry,
    shadow: &ShadowEntry,
    drafts: &mut Drafts,
) -> Result<()> {
    let name = desired.name.as_str();
    let today = observed.today;
    if shadow.expire.is_some_and(|day| day <= today) {
        drafts.set(Stage::Additive, Risk::Access, Database::Shadow, EXPIRE, "");
        drafts.say(Stage::Additive, "expiry", "none", "expired", "take its expiry away");
    }
    let have = shadow.hash.reveal().as_str();
    let becomes_star = matches!(desired.password, Some(Password::Locked));
    if have.starts_with('!') && observed.pam == Some(false) && !becomes_star && !is_hash(desired) {
        if have.contains('$') || desired.password.is_some() {
            return Err(Failure::refused(
                name,
                "sshd has UsePAM no and refuses an account whose password begins with '!'",
            )
            .why("there is a hash behind the '!', or the playbook says to keep it")
            .hint("write password: locked, or set UsePAM yes in /etc/ssh/sshd_config"));
        }
        drafts.set(Stage::Additive, Risk::None, Database::Shadow, HASH, "*");
        drafts.say(Stage::Additive, "password", "locked (*)", in_words(have), "lock its password with * instead of !");
    }
    let overdue = shadow.last_change.zip(shadow.max).is_some_and(|(last, max)| max >= 0 && last + max < today);
    if is_hash(desired) || !(shadow.last_change == Some(0) || overdue) {
        return Ok(());
    }
    let usable = !have.starts_with(['!', '*']);
    if usable && !becomes_star {
        return Err(Failure::refused(name, "its password must be changed at the next login")
            .why("until then a login by key ends in a question for the old password")
            .hint(format!(
                "let {name} change it, or: chage --lastday {} {name}; or write password: locked",
                day(today)
            )));
    }
    drafts.set(Stage::Additive, Risk::None, Database::Shadow, LAST_CHANGE, &today.to_string());
    if overdue {
        drafts.set(Stage::Additive, Risk::None, Database::Shadow, MAX, "99999");
    }
    drafts.say(
        Stage::Additive,
        "password_age",
        "not demanded",
        "a change is due",
        "demand no change of a password it does not have",
    );
    let _ = entry;
    Ok(())
}

const fn is_hash(desired: &Desired) -> bool {
    matches!(desired.password, Some(Password::Hash(_)))
}

/// A day of shadow(5) as a date for chage(1).
fn day(days: i64) -> String {
    jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(days)).map(|d| d.to_string()).unwrap_or_default()
}

/// The home of an administrator: made when missing, and not writable by others than its owner.
fn home(desired: &Desired, observed: &Observed, entry: &PasswdEntry, drafts: &mut Drafts) -> Result<Vec<Step>> {
    if !desired.admin || desired.name.is_root() {
        return Ok(Vec::new());
    }
    let name = desired.name.as_str();
    let place = format!("home of {name}");
    match &observed.home {
        Home::Absent => {
            drafts.say(Stage::Additive, "home", &entry.home, "missing", "make its home");
            let own = Desired { home: crate::types::Word::parse(&entry.home).ok(), ..desired.clone() };
            create::home_steps(&own, observed, entry.uid, entry.gid)
        }
        Home::Dir { meta, .. } if meta.uid == entry.uid && meta.mode & 0o022 != 0 => {
            let mode = meta.mode & !0o022;
            let (want, have) = (format!("{mode:04o}"), format!("{:04o}", meta.mode));
            drafts.say(Stage::Additive, "home", &want, &have, "make its home writable by itself alone");
            let node = Node::Dir { mode, owner: Owner::Ids { uid: meta.uid, gid: meta.gid } };
            Ok(vec![Step::Put { path: observed.place.clone(), actor: Actor::Root, node }])
        }
        Home::Dir { meta, .. } if meta.uid == entry.uid || meta.uid == 0 => Ok(Vec::new()),
        Home::Dir { meta, .. } => Err(Failure::refused(place, format!("{} belongs to uid {}", entry.home, meta.uid))
            .why("sshd passes over keys in a home that belongs to somebody else")
            .hint(format!("give it back: chown {name} {}", entry.home))),
        Home::Other(kind) => Err(Failure::refused(place, format!("{} is {}", observed.place, ground::word(*kind)))
            .hint(match kind {
                FileKind::Link => "put the plain path into /etc/passwd: usermod --home PATH NAME",
                _ => "give the account a home directory: usermod --home PATH NAME",
            })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_fields_in_words() {
        for (hash, word) in [
            ("", "empty: no password is asked for"),
            ("*", "locked (*)"),
            ("!$6$x", "locked (! before a hash)"),
            ("!!", "locked (!)"),
            ("$6$s$canary", "(a hash)"),
        ] {
            assert_eq!(in_words(hash), word);
        }
        assert_eq!(day(19_000), "2022-01-08");
    }
}
