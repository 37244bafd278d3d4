//! An account that an undo would remove while somebody is logged in by it: it is shut instead, since its processes would
//! go on under a number that the next account may get.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::facts;
use crate::host::{self, AccountEdit, Actor, Database, Probe};
use crate::types::{AbsPath, Word as _};

/// A session that was closed a moment ago takes as long to go.
const LINGER: Duration = Duration::from_secs(2);
/// Field of shadow(5) with the day on which the account ends, and one long ago.
const EXPIRES: (usize, &str) = (7, "1");

/// Whether there is anything left to do for these edits, where an account that was shut instead of removed is all that could
/// be.
///
/// # Errors
/// When the user databases cannot be read.
pub fn left(edits: &[AccountEdit], probe: &dyn Probe) -> Result<bool> {
    match shut(edits) {
        Some((_, shut)) => Ok(host::would_change(edits, probe)? && host::would_change(&shut, probe)?),
        None => host::would_change(edits, probe),
    }
}

/// The account that these edits remove, and the edits that shut it instead.
fn shut(edits: &[AccountEdit]) -> Option<(String, Vec<AccountEdit>)> {
    let name = edits.iter().find_map(|edit| match edit {
        AccountEdit::Remove { db: Database::Passwd, key } => Some(key.clone()),
        _ => None,
    })?;
    let entry = |edit: &&AccountEdit| !matches!(edit, AccountEdit::Remove { key, .. } if *key == name);
    let mut shut: Vec<AccountEdit> = edits.iter().filter(entry).cloned().collect();
    let (index, value) = EXPIRES;
    shut.push(AccountEdit::Field { db: Database::Shadow, key: name.clone(), index, value: value.to_owned() });
    Some((name, shut))
}

/// The edits that take an account back; those that shut it, and what is to be told of it, where somebody is logged in.
pub fn spared(edits: &[AccountEdit], probe: &dyn Probe) -> (Vec<AccountEdit>, Option<String>) {
    let in_use = |(name, shut): (String, Vec<AccountEdit>)| {
        let process = stays(uid_of(&name, probe)?, probe)?;
        let told = format!(
            "account {name} is shut but still there, since somebody is logged in by it ({process}); afterwards: userdel {name}"
        );
        Some((shut, Some(told)))
    };
    shut(edits).and_then(in_use).unwrap_or_else(|| (edits.to_vec(), None))
}

fn uid_of(name: &str, probe: &dyn Probe) -> Option<u32> {
    let passwd = probe.read(&Database::Passwd.path(), &Actor::Root).ok()??;
    let text = String::from_utf8_lossy(&passwd).into_owned();
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// The process of somebody who is logged in, and still is a moment later.
fn stays(uid: u32, probe: &dyn Probe) -> Option<String> {
    let end = Instant::now() + LINGER;
    loop {
        let process = logged_in(uid, probe)?;
        if Instant::now() >= end {
            return Some(process);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A process of this account that has a terminal, or serves an SSH session. Not counted is what goes by itself: what a
/// service manager started for the account, and a session without a terminal in which keyward itself was called, such as
/// the one that confirmed.
fn logged_in(uid: u32, probe: &dyn Probe) -> Option<String> {
    let names = probe.list(&AbsPath::fixed("/proc"), &Actor::Root).ok().flatten().unwrap_or_default();
    let pids = names.iter().filter_map(|name| name.parse::<u32>().ok());
    let all: Vec<Process> = pids.filter_map(|pid| Process::look(pid, probe)).collect();
    let of_account = all.iter().filter(|one| one.uid == uid);
    let session = |one: &&Process| one.terminal || one.name.starts_with("sshd") && !calls_keyward(one, &all);
    of_account.filter(|one| !one.dead).find(session).map(|one| format!("process {}, {}", one.pid, one.name))
}

/// True when keyward runs below this process, or a controller is about to start it there.
fn calls_keyward(session: &Process, all: &[Process]) -> bool {
    let below = |one: &Process| {
        let mut at = one.parent;
        // The way up is short; a bound keeps a lying /proc from holding us.
        for _ in 0..32 {
            if at == session.pid {
                return true;
            }
            let Some(parent) = all.iter().find(|process| process.pid == at) else { return false };
            at = parent.parent;
        }
        false
    };
    all.iter().any(|one| one.is_ours && below(one))
}

/// What is looked at of a process.
struct Process {
    pid: u32,
    parent: u32,
    uid: u32,
    name: String,
    dead: bool,
    terminal: bool,
    is_ours: bool,
}

impl Process {
    fn look(pid: u32, probe: &dyn Probe) -> Option<Self> {
        let text = |name: &str| {
            let path = AbsPath::parse(&format!("/proc/{pid}/{name}")).ok()?;
            Some(String::from_utf8_lossy(&probe.read(&path, &Actor::Root).ok()??).into_owned())
        };
        let mut process = Self::parse(pid, &text("stat")?, &text("status")?)?;
        // What is executed tells, and not what somebody calls it; a controller's program is named by its hash.
        let program = AbsPath::parse(&format!("/proc/{pid}/exe")).ok().and_then(|path| probe.link(&path).ok()?);
        let program = program.unwrap_or_default();
        let path = program.strip_suffix(" (deleted)").unwrap_or(&program);
        let (dir, name) = path.rsplit_once('/').unwrap_or_default();
        process.is_ours = name == "keyward"
            || dir == facts::AGENTS
            || text("cmdline").is_some_and(|text| text.split('\0').any(|word| word == facts::SUDO_PROMPT));
        Some(process)
    }

    /// From proc_pid_stat(5), fields 2, 3, 4 and 7, and the real user id of proc_pid_status(5): the owner of the
    /// directory is root for a process that has changed its user.
    fn parse(pid: u32, stat: &str, status: &str) -> Option<Self> {
        let (head, rest) = stat.rsplit_once(')')?;
        let (_, name) = head.split_once('(')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let [state, parent, _, _, terminal, ..] = fields.as_slice() else { return None };
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?;
        Some(Self {
            pid,
            parent: parent.parse().ok()?,
            uid: uid.parse().ok()?,
            name: name.to_owned(),
            dead: matches!(*state, "Z" | "X"),
            terminal: *terminal != "0",
            is_ours: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::{MemoryHost, World};

    /// Whether one of these processes (number, stat, user id) shows that somebody is logged in as user 1000.
    fn shows(processes: &[(u32, &str, u32)]) -> bool {
        called(processes, "", "")
    }

    /// The same; process 9 executes `program` and has these arguments.
    fn called(processes: &[(u32, &str, u32)], program: &str, arguments: &str) -> bool {
        let mut world = World::default();
        world.file("/proc/9/cmdline", arguments, 0o444);
        world.link("/proc/9/exe", program);
        for (pid, stat, uid) in processes {
            world.file(&format!("/proc/{pid}/stat"), format!("{pid} {stat}"), 0o444);
            world.file(&format!("/proc/{pid}/status"), format!("Name:\tx\nUid:\t{uid}\t0\t0\t0\n"), 0o444);
        }
        logged_in(1000, &MemoryHost::new(world)).is_some()
    }

    #[test]
    fn a_session_is_told_from_what_goes_by_itself() {
        let serves = (7, "(sshd-session) S 1 7 7 0 -1 4 0", 1000);
        assert!(shows(&[serves]), "serves a connection");
        assert!(!shows(&[(7, "(sshd-session) S 1 7 7 0 -1 4 0", 1001)]), "somebody else's");
        assert!(shows(&[(7, "(bash) S 1 7 7 34816 7 4 0", 1000)]), "has a terminal");
        assert!(!shows(&[(7, "(bash) Z 1 7 7 34816 7 4 0", 1000)]), "is dead");
        assert!(!shows(&[(7, "(a) systemd) S 1 7 7 0 -1 4 0", 1000)]), "a user's service manager");
        let (shell, child) = ((8, "(sh) S 7 8 8 0 -1 4 0", 1000), (9, "(5f1c) S 8 8 8 0 -1 4 0", 0));
        for program in
            ["/usr/local/bin/keyward", "/var/lib/keyward-agent/5f1c", "/var/lib/keyward-agent/5f1c (deleted)"]
        {
            assert!(!called(&[serves, shell, child], program, ""), "the session that calls {program}");
            let typed = (8, "(sh) S 7 8 8 34816 -1 4 0", 1000);
            assert!(called(&[serves, typed, child], program, ""), "typed in a shell that stays");
        }
        assert!(!called(&[serves, shell, child], "/usr/bin/sudo", "sudo\0-p\0keyward-password:\0sh\0"), "a controller");
        assert!(called(&[serves, shell, child], "/usr/bin/tail", "tail\0-f\0keyward\0"), "somebody who reads of it");
    }
}
