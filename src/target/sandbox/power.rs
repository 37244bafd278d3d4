//! One boot of the copy: a process that makes the copy's namespaces and is the parent of its process 1, seen from the
//! warden ([`Power`]) and from inside ([`main`]). Mounts nothing and starts no service itself.

use std::io::{BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::enter::{own_file, without_powers};
use super::wire::{Boot, Booted, Root, hear, say};
use super::{BOOT, INIT, os};
use crate::error::{Failure, Result};

/// What the boot process and process 1 report, in this order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The namespaces exist; identities and links can be set.
    Unshared,
    /// Process 1 exists.
    Born(u32),
    /// Everything is mounted; from here on programs of the copy run, which can speak in the name of process 1.
    Mounted,
    /// What is to be started has been.
    Ready(Booted),
    /// It did not work.
    Failed(Failure),
}

/// A boot as the warden holds it.
pub struct Power {
    process: Child,
    reports: BufReader<ChildStdout>,
    go: Option<ChildStdin>,
    first: Option<Pid>,
    mounted: bool,
}

impl Power {
    /// Makes the namespaces of a boot.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn on(boot: &Boot) -> Result<Self> {
        let words = serde_json::to_string(boot).map_err(|error| lost().why(error))?;
        let mut process = Command::new("/proc/self/exe")
            .args([BOOT, &words])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| lost().why(error))?;
        let reports = BufReader::new(process.stdout.take().ok_or_else(lost)?);
        let go = process.stdin.take();
        let mut power = Self { process, reports, go, first: None, mounted: false };
        let Report::Unshared = power.report()? else { return Err(lost()) };
        if boot.root == Root::Own {
            identity(power.pid())?;
        }
        Ok(power)
    }

    /// The process whose network namespace is the copy's.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Lets the boot go on, and waits until it is ready.
    ///
    /// # Errors
    /// What process 1 says, or that it died.
    pub fn start(&mut self) -> Result<Booted> {
        if let Some(mut go) = self.go.take() {
            go.write_all(b"go\n").map_err(|error| lost().why(error))?;
        }
        let Report::Born(pid) = self.report()? else { return Err(lost()) };
        self.first = i32::try_from(pid).ok().map(Pid::from_raw);
        let Report::Mounted = self.report()? else { return Err(lost()) };
        self.mounted = true;
        let Report::Ready(booted) = self.report()? else { return Err(lost()) };
        Ok(Booted { pid, ..booted })
    }

    /// True once programs of the copy may have run.
    pub const fn is_mounted(&self) -> bool {
        self.mounted
    }

    /// Kills every process in the copy and waits until the last one is gone.
    ///
    /// # Errors
    /// When they cannot be killed.
    pub fn off(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.go = None;
        match self.first.take() {
            // The kernel kills the whole pid namespace with its process 1, and only then lets the boot process end.
            Some(first) => kill(first, Signal::SIGKILL).map_err(os("the copy does not stop"))?,
            None => drop(self.process.kill()),
        }
        self.process.wait().map(drop).map_err(|error| lost().why(error))
    }

    fn report(&mut self) -> Result<Report> {
        match hear(&mut self.reports)? {
            Some(Report::Failed(failure)) => Err(failure),
            Some(report) => Ok(report),
            None => Err(lost()),
        }
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        if !matches!(self.process.try_wait(), Ok(Some(_))) {
            let _ = self.end();
        }
    }
}

fn lost() -> Failure {
    Failure::unknown("sandbox", "the copy did not boot")
}

/// Gives the user namespace of `pid` the same identities as this one. The copy's root is then root over the copy's
/// files, but has no power over the machine: it can load no module, set no clock, write no log of the kernel's.
///
/// The map is written in two parts, so that it differs from the machine's own: `pam_loginuid` takes that as the mark
/// of a container and lets sessions begin though it may not set the audit identity.
fn identity(pid: u32) -> Result<()> {
    for file in ["uid_map", "gid_map"] {
        let failed = |error: std::io::Error| Failure::unknown("sandbox", "no identities").why(error);
        let own = std::fs::read_to_string(format!("/proc/self/{file}")).map_err(failed)?;
        std::fs::write(format!("/proc/{pid}/{file}"), same(&own)).map_err(failed)?;
    }
    Ok(())
}

/// A map of all identities that `own` (user_namespaces(7)) has to themselves.
fn same(own: &str) -> String {
    let mut map = String::new();
    for line in own.lines() {
        let mut fields = line.split_whitespace().filter_map(|field| field.parse::<u64>().ok());
        let (Some(first), Some(_), Some(count)) = (fields.next(), fields.next(), fields.next()) else { continue };
        if first == 0 && count > 1 {
            map.push_str(&format!("0 0 1\n1 1 {}\n", count - 1));
        } else {
            map.push_str(&format!("{first} {first} {count}\n"));
        }
    }
    map
}

/// The hidden verb: makes the namespaces, reports, waits for `go`, starts process 1 and ends with it.
pub fn main(arguments: &[String]) -> ExitCode {
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = say(std::io::stdout(), &Report::Failed(failure));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let words = arguments.first().ok_or_else(lost)?;
    let boot: Boot = serde_json::from_str(words).map_err(|error| lost().why(error))?;
    raise_limits();
    let mut spaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    if boot.root == Root::Own {
        spaces |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(spaces).map_err(os("no namespaces for the copy"))?;
    // After unshare(2), which would clear it.
    set_pdeathsig(Signal::SIGKILL).map_err(os("no signal at the warden's end"))?;
    say(std::io::stdout(), &Report::Unshared)?;
    let mut go = String::new();
    if std::io::stdin().read_line(&mut go).unwrap_or(0) == 0 {
        return Ok(());
    }
    let exe = "/proc/self/exe";
    let mut first = if boot.root == Root::Machine { without_powers(exe, &own_file()?)? } else { Command::new(exe) };
    let mut first = first.args([INIT, words]).stdin(Stdio::piped()).spawn().map_err(|error| lost().why(error))?;
    say(std::io::stdout(), &Report::Born(first.id()))?;
    // It waits for the end of its input: its own reports come after this one, which no program of the copy may forge.
    drop(first.stdin.take());
    first.wait().map(drop).map_err(|error| lost().why(error))
}

/// Raises the hard limits as far as they go, as a service manager has them: inside the user namespace nobody may raise
/// them again, and a limits.conf(5) that asks for more than there is refuses the login.
fn raise_limits() {
    let open_files = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let limits = [
        (Resource::RLIMIT_NOFILE, open_files.unwrap_or(1_048_576)),
        (Resource::RLIMIT_CORE, RLIM_INFINITY),
        (Resource::RLIMIT_MEMLOCK, RLIM_INFINITY),
        (Resource::RLIMIT_NPROC, RLIM_INFINITY),
        (Resource::RLIMIT_STACK, RLIM_INFINITY),
    ];
    for (resource, hard) in limits {
        if let Ok((soft, _)) = getrlimit(resource) {
            let _ = setrlimit(resource, soft, hard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn the_map_is_complete_and_not_the_machines_own() {
        assert_eq!(same("         0          0 4294967295\n"), "0 0 1\n1 1 4294967294\n");
        assert_eq!(same("0 1000 1\n1 100000 65536\n"), "0 0 1\n1 1 65536\n");
    }
}
