//! sshd in the moment in which it starts or reads its files anew, and has no socket.

use std::time::{Duration, Instant};

use super::SSHD;
use crate::error::Result;
use crate::host::{Actor, Listener, Probe};
use crate::types::{AbsPath, Word as _};

/// True when sshd listens by itself, or does so after that moment.
///
/// # Errors
/// When the sockets or the processes cannot be looked at.
pub fn listens(probe: &dyn Probe, listeners: &[Listener]) -> Result<bool> {
    let end = Instant::now() + REREAD;
    let mut serves = has_sshd(listeners);
    while !serves && Instant::now() < end && is_between_sockets(probe)? {
        // What this look has found already was found too early.
        probe.end_look();
        std::thread::sleep(Duration::from_millis(10));
        serves = has_sshd(&probe.listeners()?);
    }
    if !serves {
        // It may have begun to listen between the two looks.
        probe.end_look();
        serves = has_sshd(&probe.listeners()?);
    }
    Ok(serves)
}

fn has_sshd(listeners: &[Listener]) -> bool {
    listeners.iter().any(|listener| listener.programs.iter().any(|name| name == "sshd"))
}

/// How long a daemon that starts or reads its files anew may be without a socket.
const REREAD: Duration = Duration::from_secs(2);

/// True when a daemon of this network runs, though none listens. Told to read its files, sshd closes its sockets and starts
/// itself anew (sshd(8), SIGHUP): it listens again a moment later.
fn is_between_sockets(probe: &dyn Probe) -> Result<bool> {
    let proc = AbsPath::fixed("/proc");
    let below = |pid: &str, name: &str| AbsPath::parse(&format!("/proc/{pid}/{name}")).ok();
    let network = |pid: &str| probe.link(&below(pid, "ns/net")?).ok().flatten();
    let own = network("self");
    for pid in probe.list(&proc, &Actor::Root)?.unwrap_or_default() {
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        // It may be gone by now.
        let Some(title) = below(&pid, "cmdline").and_then(|path| probe.read(&path, &Actor::Root).ok()?) else {
            continue;
        };
        // In the middle of execve(2) there is a name and no command line, as there is of one that has ended.
        let starts = || {
            let said = |name: &str| below(&pid, name).and_then(|path| probe.read(&path, &Actor::Root).ok()?);
            let status = said("status").unwrap_or_default();
            let status = String::from_utf8_lossy(&status);
            status.starts_with("Name:\tsshd\n") && !status.contains("\nState:\tZ")
        };
        let is_daemon = title.strip_prefix(b"sshd: ").unwrap_or(&title).starts_with(SSHD.as_bytes())
            || title.is_empty() && starts();
        if is_daemon && network(&pid) == own {
            return Ok(true);
        }
    }
    Ok(false)
}
