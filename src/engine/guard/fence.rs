//! Ends an agent that does not let go of the host, on hosts where systemd does not do it: two writers at a time would be
//! worse than none.

use crate::error::{Failure, Result};
use crate::host::{Actor, Command, Host, Probe};
use crate::types::{AbsPath, Word as _};

use super::Agent;

impl Agent {
    /// This very process; `None` when /proc does not tell.
    pub fn this(probe: &dyn Probe) -> Option<Self> {
        let pid = own_pid(probe)?;
        started(pid, probe).map(|started| Self { pid, started })
    }

    /// True while it lives, stopped or not.
    pub fn lives(&self, probe: &dyn Probe) -> bool {
        started(self.pid, probe) == Some(self.started)
    }

    /// Kills it and all it started, if it is still the same process.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn end(&self, host: &dyn Host) -> Result<()> {
        if started(self.pid, host) != Some(self.started) {
            return Ok(());
        }
        // Stopped first, so that it starts nothing more while its children are looked for.
        signal("STOP", &[self.pid], host)?;
        let me = own_pid(host);
        let mut family = vec![self.pid];
        let mut at = 0;
        while let Some(pid) = family.get(at).copied() {
            // Orphans fall to the agent, and so did the watchdog that it started.
            family.extend(children(pid, host).into_iter().filter(|child| Some(*child) != me && !guards(*child, host)));
            at += 1;
        }
        signal("KILL", &[self.pid], host)?;
        // Of these one may have ended by itself meanwhile, which is no failure.
        drop(signal("KILL", family.get(1..).unwrap_or_default(), host));
        Ok(())
    }
}

/// True for a watchdog: it must outlive whoever ends the agent.
fn guards(pid: u32, probe: &dyn Probe) -> bool {
    let exe = AbsPath::parse(&format!("/proc/{pid}/exe")).ok().and_then(|path| probe.link(&path).ok().flatten());
    exe.is_some_and(|exe| exe.starts_with("/var/lib/keyward/guard-"))
}

/// Where /proc/self points (proc(5)).
fn own_pid(probe: &dyn Probe) -> Option<u32> {
    probe.link(&AbsPath::fixed("/proc/self")).ok()??.parse().ok()
}

fn signal(name: &str, pids: &[u32], host: &dyn Host) -> Result<()> {
    // The shell's own: not every host has a program of that name.
    let mut argv = vec!["/bin/sh".to_owned(), "-c".into(), "kill -s \"$@\"".into(), "sh".into(), name.into()];
    argv.extend(pids.iter().map(u32::to_string));
    let output = host.run(&Command::new(argv))?;
    if output.ok() {
        return Ok(());
    }
    Err(Failure::failed("kill", "cannot end the agent").why(output.last_line()))
}

fn proc(pid: u32, name: &str, probe: &dyn Probe) -> Option<String> {
    let path = AbsPath::parse(&format!("/proc/{pid}/{name}")).ok()?;
    let bytes = probe.read(&path, &Actor::Root).ok()??;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Field 22 of proc_pid_stat(5); `None` when there is no such process, or only its remains.
fn started(pid: u32, probe: &dyn Probe) -> Option<u64> {
    let stat = proc(pid, "stat", probe)?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let gone = fields.first().is_some_and(|state| matches!(*state, "Z" | "X"));
    if gone { None } else { fields.get(19)?.parse().ok() }
}

fn children(pid: u32, probe: &dyn Probe) -> Vec<u32> {
    let text = proc(pid, &format!("task/{pid}/children"), probe).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
