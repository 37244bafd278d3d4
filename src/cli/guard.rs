//! What a live apply needs around it: a unit of its own on systemd, signals that do not kill it, the words that tell the
//! operator how to confirm, and the hidden verb of the copy that undoes a run.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::change::{Plan, Promise};
use crate::engine::guard::{self, Pending};
use crate::error::{Failure, Result};
use crate::facts::{Facts, Init};
use crate::host::real::RealHost;
use crate::host::shelf::Shelf;
use crate::host::{self, Probe as _};
use crate::outcome::Event;
use crate::types::Word as _;

use super::state;
use super::terminal::progress;

/// The hidden verb.
pub const ARG: &str = guard::VERB;
const SYSTEMD_RUN: &str = "/usr/bin/systemd-run";
const SCOPE: &str = "keyward-apply-";

/// Moves this process into a systemd scope of its own, where neither the end of the login session nor a restart of
/// sshd reaches it. Gives back the scope's name; empty where systemd does not run. Does not return when it moves.
///
/// # Errors
/// Refused when systemd is there and cannot do it.
pub fn own_unit(facts: &Facts, agreed: &Plan) -> Result<String> {
    if facts.init != Init::Systemd {
        return Ok(String::new());
    }
    let cgroups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let found = cgroups.lines().find_map(|line| line.rsplit('/').next().filter(|unit| unit.starts_with(SCOPE)));
    if let Some(unit) = found {
        return Ok(unit.to_owned());
    }
    let cannot = |why: &dyn std::fmt::Display| {
        Failure::refused("systemd-run", "cannot give the apply a unit of its own, so a lost session could end it")
            .why(why)
    };
    let own = std::env::current_exe().map_err(|error| cannot(&error))?;
    let unit = format!("{SCOPE}{}.scope", std::process::id());
    let mut command = Command::new(SYSTEMD_RUN);
    // When the deadline comes, a stuck agent must go at once: it holds SIGTERM back, and the undo waits for its end.
    command.args(["-p", "KillSignal=SIGKILL", "-p", "TimeoutStopSec=2s"]);
    command.args(["--scope", "--quiet", "--collect", "--unit", &unit, "--"]).arg(own).args(std::env::args_os().skip(1));
    // The plan was shown and the question answered here; over there only a plan that differs stops it.
    command.arg("--as-agreed").arg(&agreed.observation_digest);
    Err(cannot(&command.exec()))
}

/// Keeps a hang-up, a closed terminal and a polite kill from ending the run; Ctrl-C is noticed instead.
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals in this thread and in those it starts. Children start with none blocked.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn hold() -> Result<Self> {
        let mut held = SigSet::empty();
        for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGTSTP, Signal::SIGQUIT] {
            held.add(signal);
        }
        let refused = |errno: nix::errno::Errno| Failure::refused("signals", "cannot be held").why(errno.desc());
        held.thread_block().map_err(refused)?;
        SignalFd::with_flags(&held, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map(Self).map_err(refused)
    }

    /// True when Ctrl-C was typed since the last look.
    pub fn interrupted(&self) -> bool {
        let mut found = false;
        while let Ok(Some(info)) = self.0.read_signal() {
            found |= i32::try_from(info.ssi_signo).is_ok_and(|signal| signal == Signal::SIGINT as i32);
        }
        found
    }
}

/// What the operator reads before the first change.
pub fn announce(pending: &Pending, shelf: &dyn Shelf) {
    let local = pending.deadline.wall.parse::<jiff::Timestamp>().map_or_else(
        |_| pending.deadline.wall.clone(),
        |at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S %Z").to_string(),
    );
    let run = &pending.run;
    let mut text = format!("armed: run {run} is undone at {local} unless it is confirmed\n");
    text.push_str(&format!("  confirm from a NEW login, once both doors are open:  {}\n", command(shelf, run)));
    text.push_str(&format!("  undo at once:  sudo keyward cancel {run}   (or Ctrl-C here)\n"));
    progress(&text);
    let line = format!("keyward: run {run} changes ways in and is undone at {local} unless confirmed (keyward status)");
    wall(&line);
}

/// What the operator reads when a confirmation is awaited.
pub fn opened(pending: &Pending, shelf: &dyn Shelf) {
    let left = pending.window_ms / 1000;
    progress(&format!(
        "both doors are open; to keep the change, log in anew and confirm within the window of {left} s:\n  {}\n",
        command(shelf, &pending.run)
    ));
}

fn command(shelf: &dyn Shelf, run: &str) -> String {
    let (user, port) = super::confirm::plan(shelf, run).map_or_else(|_| door(&[]), |plan| door(&plan.promises));
    format!("ssh -p {port} -o ControlPath=none {user}@THIS-HOST sudo keyward confirm {run}")
}

/// The first administrator and the first port of the plan, for the command that confirms.
fn door(promises: &[Promise]) -> (String, String) {
    let user = promises.iter().find_map(|promise| match promise {
        Promise::Admin { user, .. } => Some(user.text()),
        _ => None,
    });
    let port = promises.iter().find_map(|promise| match promise {
        Promise::SshPort { port } => Some(port.to_string()),
        _ => None,
    });
    (user.unwrap_or_else(|| "ADMIN".to_owned()), port.unwrap_or_else(|| "22".to_owned()))
}

/// Tells everybody who is logged in; a host without wall(1) goes without.
fn wall(line: &str) {
    let host = RealHost::new();
    if host.has_program("/usr/bin/wall") {
        let command = host::Command::new(["/usr/bin/wall"]).stdin(format!("{line}\n"));
        drop(host::Host::run(&host, &command));
    }
}

/// The hidden verb: `ready`, `expire RUN`, `watch RUN`, `recover`. Its words go to the journal of its unit.
pub fn main(words: &[OsString]) -> ExitCode {
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let done = match words.as_slice() {
        ["ready"] => {
            super::terminal::result("ready\n");
            Ok(())
        }
        ["expire", run] => expire(run),
        ["watch", run] => quietly().and_then(|()| expire(run)),
        ["recover"] => recover(),
        _ => Err(Failure::input("guard", "not a call of this verb")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            progress(&format!("{failure}\n"));
            ExitCode::from(4)
        }
    }
}

/// A watchdog must not hold the pipes of whoever started it.
fn quietly() -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed("/dev/null", "cannot be opened").why(error);
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(|error| failed(&error))?;
    nix::unistd::dup2_stdin(&null).map_err(|errno| failed(&errno))?;
    nix::unistd::dup2_stdout(&null).map_err(|errno| failed(&errno))?;
    nix::unistd::dup2_stderr(&null).map_err(|errno| failed(&errno))
}

fn expire(run: &str) -> Result<()> {
    host::real::prepare_process()?;
    // A watchdog outlives the session that armed it.
    let _signals = Signals::hold()?;
    let (host, shelf, ledger) = (RealHost::new(), state::shelf()?, state::ledger_or_none());
    let mut events: Vec<Event> = Vec::new();
    let undone = guard::expire(&host, &shelf, ledger.as_ref(), run, &mut events);
    if events.iter().any(|event| matches!(event, Event::Undone { .. })) {
        wall(&format!("keyward: run {run} was not confirmed and is rolled back (keyward show {run})"));
    }
    let keeper = guard::keeper_of(&Facts::gather(&host)?);
    undone.and(guard::disarm(&host, &shelf, run, keeper))
}

fn recover() -> Result<()> {
    host::real::prepare_process()?;
    let (host, shelf, ledger) = (RealHost::new(), state::shelf()?, state::ledger_or_none());
    let runs = guard::open_runs(&shelf)?;
    let mut events: Vec<Event> = Vec::new();
    let undone = guard::recover(&host, &shelf, ledger.as_ref(), &mut events);
    let mut cleaned = Ok(());
    for run in runs {
        cleaned = cleaned.and(guard::disarm(&host, &shelf, &run, Box::new(guard::SystemdKeeper)));
    }
    undone.and(cleaned)
}
