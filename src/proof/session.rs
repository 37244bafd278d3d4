//! The SSH session that a command runs in: found through its ancestors, since sudo drops SSH_CONNECTION, and told with
//! the port it came through, when it began and how its user authenticated. Reads /proc and sshd's own log; must not
//! guess: what cannot be told is `None`.

use std::time::Duration;

use crate::error::Result;
use crate::host::{Actor, Command, Probe};
use crate::types::{AbsPath, Word as _};

/// A login session of sshd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Process that serves the connection.
    pub pid: u32,
    /// The account that logged in.
    pub user: String,
    /// The server's port.
    pub port: u16,
    /// When its process began, in milliseconds since boot.
    pub began_ms: u64,
    /// `publickey`, `password`, ... as sshd logged it; `None` when its log cannot be read.
    pub method: Option<String>,
}

/// Names under which sshd serves a session: `sshd` to 9.7, `sshd-session` since 9.8.
const SERVERS: [&str; 2] = ["sshd", "sshd-session"];

/// The session around the process `pid`; `None` when it does not run below sshd.
///
/// # Errors
/// When /proc cannot be read.
pub fn around(pid: u32, probe: &dyn Probe) -> Result<Option<Session>> {
    let mut at = pid;
    // The chain of ancestors is short; a bound keeps a lying /proc from holding us.
    for _ in 0..64 {
        let Some(status) = proc_text(probe, at, "status")? else { return Ok(None) };
        let name = field(&status, "Name").unwrap_or_default();
        if SERVERS.contains(&name.as_str())
            && let Some(session) = serving(at, probe)?
        {
            return Ok(Some(session));
        }
        match field(&status, "PPid").and_then(|parent| parent.parse().ok()) {
            Some(parent) if parent > 1 => at = parent,
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// What `pid` serves, when it holds an established connection.
fn serving(pid: u32, probe: &dyn Probe) -> Result<Option<Session>> {
    let Some(port) = port_of(pid, probe)? else { return Ok(None) };
    let Some(began_ms) = proc_text(probe, pid, "stat")?.and_then(|stat| began_ms(&stat)) else { return Ok(None) };
    // sshd writes `sshd: USER@pts/0` or `sshd-session: USER [priv]` into its own command line.
    let title = proc_text(probe, pid, "cmdline")?.unwrap_or_default();
    let Some(user) = user_of(&title) else { return Ok(None) };
    let method = method_of(pid, &user, probe);
    Ok(Some(Session { pid, user, port, began_ms, method }))
}

fn proc_path(pid: u32, name: &str) -> Option<AbsPath> {
    AbsPath::parse(&format!("/proc/{pid}/{name}")).ok()
}

fn proc_text(probe: &dyn Probe, pid: u32, name: &str) -> Result<Option<String>> {
    let Some(path) = proc_path(pid, name) else { return Ok(None) };
    Ok(probe.read(&path, &Actor::Root)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

fn field(status: &str, name: &str) -> Option<String> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned()))
}

/// The user in sshd's title.
fn user_of(title: &str) -> Option<String> {
    let title = title.trim_end_matches('\0');
    let rest = title.strip_prefix("sshd-session: ").or_else(|| title.strip_prefix("sshd: "))?;
    let user: String = rest.chars().take_while(|c| !matches!(c, '@' | ' ' | '\0')).collect();
    let real = !user.is_empty() && !user.starts_with('/') && user != "unknown";
    real.then_some(user)
}

/// Field 22 of proc_pid_stat(5), in ticks of 10 ms (USER_HZ is 100 on every Linux that keyward runs on).
fn began_ms(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse::<u64>().ok()?.checked_mul(10)
}

fn port_of(pid: u32, probe: &dyn Probe) -> Result<Option<u16>> {
    let Some(directory) = proc_path(pid, "fd") else { return Ok(None) };
    let mut inodes = Vec::new();
    for name in probe.list(&directory, &Actor::Root)?.unwrap_or_default() {
        let Ok(path) = directory.join(&name) else { continue };
        let target = probe.link(&path)?.unwrap_or_default();
        inodes.extend(target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).map(str::to_owned));
    }
    for table in ["net/tcp", "net/tcp6"] {
        let text = proc_text(probe, pid, table)?.unwrap_or_default();
        if let Some(port) = established(&text, &inodes) {
            return Ok(Some(port));
        }
    }
    Ok(None)
}

/// The local port of the first socket in state ESTABLISHED (01) whose inode is one of `inodes`.
fn established(table: &str, inodes: &[String]) -> Option<u16> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let ours = *state == "01" && inodes.iter().any(|known| known == inode);
        if ours { u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok() } else { None }
    })
}

/// `Accepted METHOD for USER` of this process, from the journal or from auth.log.
fn method_of(pid: u32, user: &str, probe: &dyn Probe) -> Option<String> {
    let mut texts = Vec::new();
    if probe.has_program("/usr/bin/journalctl") {
        let argv =
            ["/usr/bin/journalctl", "-q", "-b", "-o", "short", "--no-pager", &format!("_PID={pid}")].map(str::to_owned);
        let asked = probe.ask(&Command::new(argv).deadline(Duration::from_secs(5)));
        texts.extend(asked.map(|output| output.stdout));
    }
    let tail = Command::new(["/usr/bin/tail", "-n", "5000", "/var/log/auth.log"]).deadline(Duration::from_secs(5));
    texts.extend(probe.ask(&tail).map(|output| output.stdout));
    texts.iter().find_map(|text| accepted(text, pid, user))
}

fn accepted(log: &str, pid: u32, user: &str) -> Option<String> {
    let mark = format!("[{pid}]: Accepted ");
    log.lines().rev().find_map(|line| {
        let (method, rest) = line.split_once(&mark)?.1.split_once(" for ")?;
        (rest.split_whitespace().next() == Some(user)).then(|| method.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_of_sshd() {
        assert_eq!(user_of("sshd: deploy@pts/0\0"), Some("deploy".into()));
        assert_eq!(user_of("sshd-session: deploy [priv]\0"), Some("deploy".into()));
        assert_eq!(user_of("sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups\0"), None);
        assert_eq!(user_of("sshd: unknown [priv]"), None);
        assert_eq!(user_of("bash"), None);
    }

    #[test]
    fn a_connection_is_found_by_its_inode() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 00000000:08AE 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1\n   \
            1: 0100007F:08AE 0100007F:9C40 01 00000000:00000000 02:00000000 00000000     0        0 12 2\n";
        assert_eq!(established(table, &["12".into()]), Some(2222));
        assert_eq!(established(table, &["11".into()]), None);
    }

    #[test]
    fn methods_of_one_process_and_user() {
        let log = "Nov 22 h sshd[41]: Accepted password for deploy from 1.2.3.4\n\
                   Nov 22 h sshd-session[42]: Accepted publickey for deploy from 1.2.3.4 port 5 ssh2: ED25519\n";
        assert_eq!(accepted(log, 42, "deploy"), Some("publickey".into()));
        assert_eq!(accepted(log, 41, "deploy"), Some("password".into()));
        assert_eq!(accepted(log, 42, "root"), None);
        assert_eq!(began_ms("7 (a) b) S 1 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 123 0"), Some(1230));
    }
}
