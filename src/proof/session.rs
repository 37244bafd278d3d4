//! The SSH session that a command runs in: found through its ancestors, since sudo drops SSH_CONNECTION, and told with
//! the port it came through, when it began and how its user authenticated. Reads /proc and sshd's own log; must not
//! guess: what cannot be told is `None`.

use std::net::{IpAddr, SocketAddr};
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
    /// Where it came from, by the same log.
    pub from: Option<IpAddr>,
    /// Fingerprint of the key that let it in, by the same log.
    pub key: Option<String>,
    /// True when sudo stands between the session and the process that asks.
    pub by_sudo: bool,
}

/// Names under which sshd serves a session: `sshd` to 9.7, `sshd-session` since 9.8.
const SERVERS: [&str; 2] = ["sshd", "sshd-session"];

/// The session around the process `pid`; `None` when it does not run below sshd.
///
/// # Errors
/// When /proc cannot be read.
pub fn around(pid: u32, probe: &dyn Probe) -> Result<Option<Session>> {
    let mut at = pid;
    let mut by_sudo = false;
    // The chain of ancestors is short; a bound keeps a lying /proc from holding us.
    for _ in 0..64 {
        let Some(status) = proc_text(probe, at, "status")? else { return Ok(None) };
        let name = field(&status, "Name").unwrap_or_default();
        if SERVERS.contains(&name.as_str())
            && let Some(session) = serving(at, probe)?
        {
            return Ok(Some(Session { by_sudo, ..session }));
        }
        by_sudo |= name == "sudo";
        match field(&status, "PPid").and_then(|parent| parent.parse().ok()) {
            Some(parent) if parent > 1 => at = parent,
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// What `pid` serves, when it holds an established connection.
fn serving(pid: u32, probe: &dyn Probe) -> Result<Option<Session>> {
    let Some(began_ms) = proc_text(probe, pid, "stat")?.and_then(|stat| began_ms(&stat)) else { return Ok(None) };
    // sshd writes `sshd: USER@pts/0` or `sshd-session: USER [priv]` into its own command line.
    let title = proc_text(probe, pid, "cmdline")?.unwrap_or_default();
    let Some(user) = user_of(&title) else { return Ok(None) };
    // sshd's monitor, the parent, writes the log; the child that has become the user holds the connection.
    let parent = proc_text(probe, pid, "status")?.and_then(|status| field(&status, "PPid")?.parse().ok());
    let pids: Vec<u32> = [Some(pid), parent].into_iter().flatten().collect();
    let accepted = logged(&pids, &user, probe);
    let port = match port_of(pid, probe)? {
        Some(port) => Some(port),
        // Without CAP_SYS_PTRACE (containers) another process's descriptors are hidden; the log names the peer.
        None => match &accepted {
            Some(accepted) => port_towards(pid, accepted.peer, probe)?,
            None => None,
        },
    };
    let from = accepted.as_ref().map(|accepted| accepted.peer.ip());
    let (method, key) = accepted.map_or((None, None), |accepted| (Some(accepted.method), accepted.key));
    Ok(port.map(|port| Session { pid, user, port, began_ms, method, from, key, by_sudo: false }))
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
    let Ok(Some(names)) = probe.list(&directory, &Actor::Root) else { return Ok(None) };
    for name in names {
        let Ok(path) = directory.join(&name) else { continue };
        let Ok(Some(target)) = probe.link(&path) else { continue };
        inodes.extend(target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).map(str::to_owned));
    }
    for table in ["net/tcp", "net/tcp6"] {
        let text = proc_text(probe, pid, table)?.unwrap_or_default();
        if let Some(port) =
            established(&text, |fields| fields.inode.is_some_and(|inode| inodes.iter().any(|i| i == inode)))
        {
            return Ok(Some(port));
        }
    }
    Ok(None)
}

/// The local port of the connection from this peer.
fn port_towards(pid: u32, peer: SocketAddr, probe: &dyn Probe) -> Result<Option<u16>> {
    let wanted = kernel_form(peer);
    for table in ["net/tcp", "net/tcp6"] {
        let text = proc_text(probe, pid, table)?.unwrap_or_default();
        if let Some(port) =
            established(&text, |fields| fields.remote.is_some_and(|remote| wanted.iter().any(|w| w == remote)))
        {
            return Ok(Some(port));
        }
    }
    Ok(None)
}

/// An address as proc_net_tcp(5) writes it; an IPv4 one also in its IPv6 form, for sockets of both families.
fn kernel_form(peer: SocketAddr) -> Vec<String> {
    let words = |bytes: &[u8]| -> String {
        bytes.chunks(4).map(|word| word.iter().rev().map(|byte| format!("{byte:02X}")).collect::<String>()).collect()
    };
    let port = peer.port();
    match peer.ip() {
        IpAddr::V4(v4) => vec![
            format!("{}:{port:04X}", words(&v4.octets())),
            format!("{}:{port:04X}", words(&v4.to_ipv6_mapped().octets())),
        ],
        IpAddr::V6(v6) => vec![format!("{}:{port:04X}", words(&v6.octets()))],
    }
}

/// What is looked at in a line of the connection table.
struct Fields<'a> {
    remote: Option<&'a str>,
    inode: Option<&'a str>,
}

/// The local port of the first socket in state ESTABLISHED (01) that is `ours`.
fn established(table: &str, ours: impl Fn(&Fields<'_>) -> bool) -> Option<u16> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state) = (fields.get(1)?, fields.get(3)?);
        let looked_at = Fields { remote: fields.get(2).copied(), inode: fields.get(9).copied() };
        if *state == "01" && ours(&looked_at) { u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok() } else { None }
    })
}

/// What sshd logged of a login.
#[derive(Debug, PartialEq, Eq)]
struct Accepted {
    method: String,
    peer: SocketAddr,
    key: Option<String>,
}

/// `Accepted METHOD for USER from ADDRESS port PORT` of this process, from the journal or from auth.log.
fn logged(pids: &[u32], user: &str, probe: &dyn Probe) -> Option<Accepted> {
    let found = |text: &str| pids.iter().find_map(|pid| accepted(text, *pid, user));
    let ask = |argv: Vec<String>| {
        let asked = probe.ask(&Command::new(argv).deadline(Duration::from_secs(5)));
        asked.ok().and_then(|output| found(&output.stdout))
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut journal = words(&["/usr/bin/journalctl", "-q", "-b", "-o", "short", "--no-pager"]);
    // Several of one field mean any of them (journalctl(1)).
    journal.extend(pids.iter().map(|pid| format!("_PID={pid}")));
    let in_journal = if probe.has_program("/usr/bin/journalctl") { ask(journal) } else { None };
    in_journal.or_else(|| ask(words(&["/usr/bin/tail", "-n", "5000", "/var/log/auth.log"])))
}

fn accepted(log: &str, pid: u32, user: &str) -> Option<Accepted> {
    let mark = format!("[{pid}]: Accepted ");
    log.lines().rev().find_map(|line| {
        let (method, rest) = line.split_once(&mark)?.1.split_once(" for ")?;
        let words: Vec<&str> = rest.split_whitespace().collect();
        let [who, "from", address, "port", port, ..] = words.as_slice() else { return None };
        let peer = SocketAddr::new(address.parse().ok()?, port.parse().ok()?);
        let key = words.last().filter(|word| word.starts_with("SHA256:")).map(|word| (*word).to_owned());
        (*who == user).then(|| Accepted { method: method.to_owned(), peer, key })
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
        let by_inode = |inode: &str| established(table, |fields| fields.inode == Some(inode));
        assert_eq!(by_inode("12"), Some(2222));
        assert_eq!(by_inode("11"), None);
        let peer = kernel_form("127.0.0.1:40000".parse().unwrap());
        assert_eq!(established(table, |fields| fields.remote == Some(&peer[0])), Some(2222));
        assert_eq!(kernel_form("[::1]:22".parse().unwrap()), ["00000000000000000000000001000000:0016"]);
    }

    #[test]
    fn methods_of_one_process_and_user() {
        let log = "Nov 22 h sshd[41]: Accepted password for deploy from 1.2.3.4 port 9 ssh2\n\
                   Nov 22 h sshd-session[42]: Accepted publickey for deploy from 1.2.3.4 port 5 ssh2: ED25519\n";
        let method = |pid| accepted(log, pid, "deploy").map(|accepted| accepted.method);
        assert_eq!(method(42), Some("publickey".into()));
        assert_eq!(method(41), Some("password".into()));
        assert_eq!(accepted(log, 42, "root"), None);
        assert_eq!(began_ms("7 (a) b) S 1 1 1 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 123 0"), Some(1230));
    }
}
