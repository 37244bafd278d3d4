//! What a live apply needs around it: a unit of its own on systemd, signals that do not kill it, the words that tell the
//! operator how to confirm, and the hidden verb of the copy that undoes a run.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::change::{Change, Plan, Promise, Stage};
use crate::engine::guard::{self, Pending};
use crate::engine::last_resort;
use crate::error::{Failure, Kind, Result};
use crate::facts::{Facts, Init};
use crate::host::real::RealHost;
use crate::host::shelf::Shelf;
use crate::host::{self, Probe as _};
use crate::journal::Record;
use crate::outcome::{Event, Exit};
use crate::types::{AbsPath, Port, Word as _};

use super::signals::Signals;
use super::terminal::progress;
use super::{handed, state};

/// The hidden verb.
pub const ARG: &str = guard::VERB;
const SYSTEMCTL: &str = "/usr/bin/systemctl";
const SYSTEMD_RUN: &str = "/usr/bin/systemd-run";
const UNIT: &str = "keyward-apply-";

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
    let found = cgroups.lines().find_map(|line| line.rsplit('/').next().filter(|unit| unit.starts_with(UNIT)));
    if let Some(unit) = found {
        return Ok(unit.to_owned());
    }
    let cannot = |why: &dyn std::fmt::Display| {
        Failure::refused("systemd-run", "cannot give the apply a unit of its own, so a lost session could end it")
            .why(why)
    };
    let own = std::env::current_exe().map_err(|error| cannot(&error))?;
    let mut command = unit_command("scope");
    command.args(["--scope", "--"]).arg(own).args(super::handed::words()?);
    // The plan was shown and the question answered here; over there only a plan that differs stops it.
    command.arg("--as-agreed").arg(&agreed.observation_digest);
    let failed = command.exec();
    super::handed::forget();
    Err(cannot(&failed))
}

/// `systemd-run` for a unit in which an apply runs; `kind` is `scope` or `service`.
pub fn unit_command(kind: &str) -> Command {
    let unit = format!("{UNIT}{}.{kind}", std::process::id());
    let mut command = Command::new(SYSTEMD_RUN);
    // When the deadline comes, a stuck agent must go at once: it ignores SIGTERM, and the undo waits for its end.
    command.args(["-p", "KillSignal=SIGKILL", "-p", "TimeoutStopSec=2s", "--quiet", "--collect", "--unit", &unit]);
    command
}

/// What the operator reads before the first change; with `events`, programs do as well.
pub fn announce(pending: &Pending, shelf: &dyn Shelf, events: bool) {
    if events {
        handed::say(&armed(pending));
    }
    let run = &pending.run;
    let local = local(&pending.deadline.wall, &jiff::tz::TimeZone::system());
    if !handed::is_far() {
        let changes = super::confirm::plan(shelf, run).map(|plan| plan.changes).unwrap_or_default();
        progress(&announcement(run, &local, &changes, &command(shelf, run), &state::own_command()));
    }
    let line = format!("keyward: run {run} changes ways in and is undone at {local} unless confirmed (keyward status)");
    wall(&line);
    super::motd::tell(&line);
}

/// A deadline as the operator's clock shows it, with its day: a window may be a whole one.
fn local(wall: &str, zone: &jiff::tz::TimeZone) -> String {
    wall.parse::<jiff::Timestamp>()
        .map_or_else(|_| wall.to_owned(), |at| at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string())
}

/// Run, deadline, what is undone then, and both commands. The plan with all details was shown before.
fn announcement(run: &str, local: &str, changes: &[Change], confirm: &str, program: &str) -> String {
    let mut text = format!("armed: run {run} is undone at {local} unless it is confirmed\n");
    let summaries = changes.iter().filter(|change| change.stage != Stage::Packages).map(|change| &*change.summary);
    let undone = summaries.collect::<Vec<_>>().join("; ");
    text.push_str(&format!("  undone then:  {}\n", crate::report::escape::line(&undone)));
    text.push_str(&format!("  confirm from a NEW login, once both doors are open:  {confirm}\n"));
    text.push_str(&format!("  undo at once:  sudo {program} cancel {run}   (or Ctrl-C here)\n"));
    text
}

/// The event of an armed run.
pub fn armed(pending: &Pending) -> Event {
    let Pending { run, nonce, deadline, window_ms, .. } = pending.clone();
    Event::Armed { run, nonce, until: deadline.wall, window_ms }
}

/// Tells everybody who is logged in that both doors are open.
pub fn tell_all(pending: &Pending) {
    wall(&format!("keyward: run {}: both doors are open; the old one is about to close", pending.run));
}

/// What the operator reads when a confirmation is awaited; with `events`, programs do as well.
pub fn opened(pending: &Pending, shelf: &dyn Shelf, events: bool) {
    if events {
        handed::say(&Event::Opened { run: pending.run.clone() });
    }
    if handed::is_far() {
        return;
    }
    let left = pending.window_ms / 1000;
    progress(&format!(
        "both doors are open; to keep the change, log in anew and confirm within the window of {left} s:\n  {}\n",
        command(shelf, &pending.run)
    ));
}

fn command(shelf: &dyn Shelf, run: &str) -> String {
    let mut promises = super::confirm::plan(shelf, run).map(|plan| plan.promises).unwrap_or_default();
    // A run that moves no port keeps the present ones.
    if !promises.iter().any(|promise| matches!(promise, Promise::SshPort { .. })) {
        let doors = crate::journal::read(shelf, run).unwrap_or_default().into_iter().find_map(|record| match record {
            Record::Doors { doors } => doors.ports.first().copied(),
            _ => None,
        });
        promises.extend(doors.and_then(|port| Port::new(port).ok()).map(|port| Promise::SshPort { port }));
    }
    typed(&promises, &own_address(), &state::own_command(), run)
}

/// This host as the operator's own session reached it; sudo drops that variable, so it is looked for in the processes
/// around this one. It is for the reader only: whoever sets it tells himself another address.
fn own_address() -> String {
    let mut pid = std::process::id();
    // The chain of ancestors is short; a bound keeps a lying /proc from holding us.
    for _ in 0..64 {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if let Some(address) = reached(&environment) {
            return address;
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        match status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()) {
            Some(parent) if parent > 1 => pid = parent,
            _ => break,
        }
    }
    "THIS-HOST".to_owned()
}

/// The server's address in `SSH_CONNECTION` of an environment (ssh(1)), unless only this host knows it.
fn reached(environment: &[u8]) -> Option<String> {
    let mut variables = environment.split(|byte| *byte == 0).filter_map(|one| std::str::from_utf8(one).ok());
    let given = variables.find_map(|one| one.strip_prefix("SSH_CONNECTION="))?;
    let address: IpAddr = given.split(' ').nth(2)?.parse().ok()?;
    (!address.is_loopback()).then(|| address.to_string())
}

fn typed(promises: &[Promise], host: &str, program: &str, run: &str) -> String {
    let (user, port) = door(promises);
    let keeps_a_key = promises.iter().find_map(|promise| match promise {
        Promise::Key { user, .. } => Some(user.text()),
        _ => None,
    });
    if let Some(user) = keeps_a_key.filter(|_| promises.iter().any(|one| matches!(one, Promise::SomebodyElse { .. }))) {
        return format!(
            "ssh -t -p {port} -o ControlPath=none {user}@{host} sudo {program} confirm {run}   (by a key that stays)"
        );
    }
    if promises.iter().any(|promise| matches!(promise, Promise::SomebodyElse { .. })) {
        return format!(
            "ssh -t -p {port} -o ControlPath=none root@{host} {program} confirm {run}   (or another administrator, by sudo)"
        );
    }
    // sudo asks its password on a terminal only.
    let silent =
        |promise: &Promise| matches!(promise, Promise::Admin { nopasswd: true, user: one } if one.text() == user);
    let terminal = if promises.iter().any(silent) { "" } else { "-t " };
    format!("ssh {terminal}-p {port} -o ControlPath=none {user}@{host} sudo {program} confirm {run}")
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

/// The hidden verb: `ready`, `expire RUN`, `watch RUN`, `recover`, `doors RUN WHEN`. Its words go to the journal of its unit.
pub fn main(words: &[OsString]) -> ExitCode {
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let done = match words.as_slice() {
        ["ready"] => {
            super::terminal::result("ready\n");
            Ok(())
        }
        ["expire", run] => expire(run),
        ["watch", run] => quietly().and_then(|()| watch(run)),
        ["recover"] => recover(),
        ["doors", run, when] => doors(run, *when == guard::UNDONE),
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
pub fn quietly() -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed("/dev/null", "cannot be opened").why(error);
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(|error| failed(&error))?;
    nix::unistd::dup2_stdin(&null).map_err(|errno| failed(&errno))?;
    nix::unistd::dup2_stdout(&null).map_err(|errno| failed(&errno))?;
    nix::unistd::dup2_stderr(&null).map_err(|errno| failed(&errno))
}

/// Between two tries of a watchdog, as of systemd; meanwhile it looks so often whether its run is over.
const AGAIN: (u32, Duration) = (10, Duration::from_millis(500));

/// Nobody starts a watchdog again: what fails now may pass later, and until the run is over it is the only way back.
fn watch(run: &str) -> Result<()> {
    let over = || {
        state::shelf_if_any().is_ok_and(|shelf| {
            shelf.is_none_or(|shelf| match shelf.read(run) {
                Ok(text) => text.is_none() || guard::ending(&shelf, run).is_ok_and(|end| end.is_some()),
                Err(_) => false,
            })
        })
    };
    loop {
        let failure = match expire(run) {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        for _ in 0..AGAIN.0 {
            if over() {
                return Err(failure);
            }
            std::thread::sleep(AGAIN.1);
        }
    }
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
    super::motd::ended(&shelf, run);
    let keeper = guard::keeper_of(&Facts::gather(&host)?);
    undone.and(guard::disarm(&host, &shelf, run, keeper)).and(sweep_halves())
}

/// What was cut off in the making, such as the copy of the program that would have been the guard's, and what was laid out
/// for a program that judges.
///
/// # Errors
/// When the directories cannot be looked at.
pub fn sweep_halves() -> Result<()> {
    host::real::sweep_stages();
    let sweep = |dir: &'static str| host::real::sweep(&AbsPath::fixed(dir));
    sweep(state::STATE).and(sweep(state::RUNS))
}

/// Closes what is over and takes away the guards of closed runs: a kill may have come between a run's end, its journal's and
/// its guard's, or before its guard.
///
/// # Errors
/// The first that stays; all are tried.
pub fn sweep(host: &RealHost, shelf: &dyn Shelf) -> Result<()> {
    sweep_but(host, shelf, &[])
}

fn sweep_but(host: &RealHost, shelf: &dyn Shelf, needed: &[String]) -> Result<()> {
    // Early in a boot not all facts can be had; the unit that comes here then is systemd's.
    let keeper =
        || Facts::gather(host).map_or_else(|_| Box::new(guard::SystemdKeeper) as _, |facts| guard::keeper_of(&facts));
    let mut swept = guard::close_over(host, shelf, state::ledger_or_none().as_ref());
    swept = swept.and(crate::journal::forget_secrets(shelf));
    for run in guard::armed_runs(host)?.into_iter().filter(|run| !needed.contains(run)) {
        swept = swept.and(guard::disarm(host, shelf, &run, keeper()));
    }
    swept.and(sweep_halves())
}

fn recover() -> Result<()> {
    host::real::prepare_process()?;
    let (host, shelf, ledger) = (RealHost::new(), state::shelf()?, state::ledger_or_none());
    let mut events: Vec<Event> = Vec::new();
    let open = guard::open_runs(&shelf)?;
    let recovered = guard::recover(&host, &shelf, ledger.as_ref(), &mut events);
    // Units that systemd has read before this are files that were put back meanwhile.
    reread_units(&host);
    open.iter().for_each(|run| super::motd::ended(&shelf, run));
    let undone =
        |run: &String| matches!(guard::ending(&shelf, run), Ok(Some((Exit::RolledBack | Exit::RollbackIncomplete, _))));
    // Their guards look at the doors, and go if those are open. One that cannot be asked to stays until the next apply.
    let boots = Init::of(&host)? == Init::Systemd;
    let needed: Vec<String> = guard::armed_runs(&host)?.into_iter().filter(|run| boots && undone(run)).collect();
    for run in &needed {
        // A boot unit of another run may have asked before; whatever it is, the unit's log tells.
        if let Err(failure) = guard::SystemdKeeper::look_at_doors(run, open.contains(run), &host) {
            progress(&format!("{failure}\n"));
        }
    }
    recovered.and(sweep_but(&host, &shelf, &needed))
}

/// How long a look at the doors waits for whoever holds the host, and between two tries.
const LOOK: (Duration, Duration) = (Duration::from_secs(300), Duration::from_millis(500));

/// Later in a boot that undid `run` (`just`), or in a later one: whether a door is open. Otherwise the sshd of last resort
/// is started, and the guard of `run` stays, so that the next boot looks again.
fn doors(run: &str, just: bool) -> Result<()> {
    host::real::prepare_process()?;
    let (host, shelf, ledger) = (RealHost::new(), state::shelf()?, state::ledger_or_none());
    let begun = std::time::Instant::now();
    // Whoever is at work need not have come in by a door, and may not know that there is none.
    let _held = loop {
        match shelf.lock() {
            Err(failure) if failure.kind == Kind::Busy && begun.elapsed() < LOOK.0 => std::thread::sleep(LOOK.1),
            other => break other?,
        }
    };
    let records = crate::journal::read(&shelf, run)?;
    if let Some(failure) = last_resort::keep_a_door(&records, just, &host) {
        drop(crate::audit::record(ledger.as_ref(), run, "last_resort", &failure.line()));
        let line = format!("keyward: after the boot that undid run {run}: {} (keyward status)", failure.line());
        wall(&line);
        super::motd::tell(&line);
        return Ok(());
    }
    guard::disarm(&host, &shelf, run, guard::keeper_of(&Facts::gather(&host)?))
}

fn reread_units(host: &RealHost) {
    if host.has_program(SYSTEMCTL) {
        let command = host::Command::new([SYSTEMCTL, "daemon-reload"]);
        drop(host::Host::run(host, &command));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::UserName;

    #[test]
    fn the_announcement_says_until_when_what_and_where() {
        assert_eq!(local("2026-11-27T23:59:30Z", &jiff::tz::TimeZone::UTC), "2026-11-27 23:59:30 UTC");
        let change = |summary: &str, stage| Change::new("sshd", summary, summary, stage, crate::change::Risk::Access);
        let changes = [
            change("install ufw", Stage::Packages),
            change("listen on port 2222\u{1b}[2J", Stage::Additive),
            change("close port 22", Stage::Subtractive),
        ];
        let text = announcement("r1", "tomorrow", &changes, "ssh ...", "keyward");
        assert!(text.starts_with("armed: run r1 is undone at tomorrow unless"), "{text}");
        assert!(text.contains("undone then:  listen on port 2222") && text.contains("; close port 22\n"), "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains("ufw"), "packages stay: {text}");
        assert!(text.contains("sudo keyward cancel r1"), "{text}");
        let address = |text: &str| reached(text.as_bytes());
        assert_eq!(address("A=b\0SSH_CONNECTION=198.51.100.9 5 192.0.2.1 22\0"), Some("192.0.2.1".to_owned()));
        assert_eq!(address("SSH_CONNECTION=2001:db8::9 5 2001:db8::5 22"), Some("2001:db8::5".to_owned()));
        for bad in ["", "SSH_CONNECTION=", "SSH_CONNECTION=a b; c d", "SSH_CONNECTION=::1 5 ::1 22"] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_command_that_confirms_works_as_printed() {
        let promises = |nopasswd| {
            let admin = Promise::Admin { user: UserName::parse("deploy").unwrap(), nopasswd };
            [admin, Promise::SshPort { port: Port::new(2222).unwrap() }]
        };
        let line = typed(&promises(true), "THIS-HOST", "keyward", "r1");
        assert_eq!(line, "ssh -p 2222 -o ControlPath=none deploy@THIS-HOST sudo keyward confirm r1");
        let key =
            Promise::Key { user: UserName::parse("ops").unwrap(), fingerprint: String::new(), from: String::new() };
        let back = [Promise::SomebodyElse { than: Vec::new() }, Promise::SshPort { port: Port::new(22).unwrap() }];
        assert!(typed(&back, "192.0.2.1", "keyward", "r1").contains(" root@192.0.2.1 keyward confirm"));
        let back = back.into_iter().chain([key]).collect::<Vec<_>>();
        assert!(typed(&back, "THIS-HOST", "keyward", "r1").contains(" ops@THIS-HOST sudo keyward confirm"));
        let line = typed(&promises(false), "2001:db8::5", "/root/keyward", "r1");
        assert_eq!(line, "ssh -t -p 2222 -o ControlPath=none deploy@2001:db8::5 sudo /root/keyward confirm r1");
    }
}
