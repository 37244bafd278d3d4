//! An account that an undo would remove while somebody is logged in by it: it is shut instead, since its processes would
//! go on under a number that the next account may get.

use std::time::{Duration, Instant};

use crate::host::{AccountEdit, Actor, Database, Probe};
use crate::types::{AbsPath, Word as _};

/// A session that was closed a moment ago takes as long to go.
const LINGER: Duration = Duration::from_secs(2);
/// Field of shadow(5) with the day on which the account ends, and one long ago.
const EXPIRES: (usize, &str) = (7, "1");

/// The edits that take an account back, less the removal of one that somebody is logged in by; and its name then.
pub fn spared(edits: &[AccountEdit], probe: &dyn Probe) -> (Vec<AccountEdit>, Option<String>) {
    let removed = edits.iter().find_map(|edit| match edit {
        AccountEdit::Remove { db: Database::Passwd, key } => Some(key.clone()),
        _ => None,
    });
    let Some(name) = removed.filter(|name| uid_of(name, probe).is_some_and(|uid| stays(uid, probe))) else {
        return (edits.to_vec(), None);
    };
    let entry = |edit: &&AccountEdit| !matches!(edit, AccountEdit::Remove { key, .. } if *key == name);
    let mut spared: Vec<AccountEdit> = edits.iter().filter(entry).cloned().collect();
    let (index, value) = EXPIRES;
    spared.push(AccountEdit::Field { db: Database::Shadow, key: name.clone(), index, value: value.to_owned() });
    (spared, Some(name))
}

fn uid_of(name: &str, probe: &dyn Probe) -> Option<u32> {
    let passwd = probe.read(&Database::Passwd.path(), &Actor::Root).ok()??;
    let text = String::from_utf8_lossy(&passwd).into_owned();
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// True when somebody is logged in, and still is a moment later.
fn stays(uid: u32, probe: &dyn Probe) -> bool {
    let end = Instant::now() + LINGER;
    while logged_in(uid, probe) {
        if Instant::now() >= end {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// A process of this account that serves an SSH session, or has a terminal. What a service manager started for it goes by
/// itself.
fn logged_in(uid: u32, probe: &dyn Probe) -> bool {
    let names = probe.list(&AbsPath::fixed("/proc"), &Actor::Root).ok().flatten().unwrap_or_default();
    let processes = names.iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    processes.filter_map(|pid| AbsPath::parse(&format!("/proc/{pid}")).ok()).any(|process| {
        let own = probe.meta(&process, &Actor::Root).ok().flatten().is_some_and(|meta| meta.uid == uid);
        own && process.join("stat").ok().and_then(|stat| probe.read(&stat, &Actor::Root).ok()?).is_some_and(session)
    })
}

/// Judges proc_pid_stat(5): the name in parentheses, and field 7, the terminal.
fn session(stat: Vec<u8>) -> bool {
    let stat = String::from_utf8_lossy(&stat).into_owned();
    let Some((head, rest)) = stat.rsplit_once(')') else { return false };
    let name = head.split_once('(').map_or("", |(_, name)| name);
    let mut fields = rest.split_whitespace();
    let dead = fields.next().is_some_and(|state| matches!(state, "Z" | "X"));
    !dead && (name.starts_with("sshd") || fields.nth(3).is_some_and(|terminal| terminal != "0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_told_from_what_runs_by_itself() {
        let judge = |text: &str| session(text.as_bytes().to_vec());
        assert!(judge("7 (sshd) S 1 7 7 0 -1 4 0"), "serves a connection");
        assert!(judge("7 (sshd-session) S 1 7 7 0 -1 4 0"));
        assert!(judge("7 (bash) S 1 7 7 34816 7 4 0"), "has a terminal");
        assert!(!judge("7 (bash) Z 1 7 7 34816 7 4 0"), "is dead");
        assert!(!judge("7 (a) systemd) S 1 7 7 0 -1 4 0"), "a user's service manager");
    }
}
