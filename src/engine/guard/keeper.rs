//! Who holds the deadline while the agent may die: systemd where it is PID 1, else a detached watchdog process.

use std::time::{Duration, Instant};

use crate::error::{Failure, Result};
use crate::host::{Actor, Command, Host, Image, Node, Owner};
use crate::types::{AbsPath, Word as _};

use super::Pending;

/// Where the copy of this program stands that undoes `run`: outside homes and /tmp, on the system's own disk. Each run
/// has its own copy and units, so that the end of one takes nothing away from another.
fn program(run: &str) -> String {
    let (dir, start) = PROGRAM;
    format!("{dir}/{start}{run}")
}

/// Directory and beginning of the name of those copies.
pub(super) const PROGRAM: (&str, &str) = ("/var/lib/keyward", "guard-");

/// Hidden verb of that copy; followed by `expire RUN`, `recover`, `doors RUN WHEN`, `watch RUN` or `ready`.
pub const VERB: &str = "__guard";

/// The last word of `doors` in the boot that undid the run.
pub const UNDONE: &str = "undone";

/// Units that the usual target starts at boot.
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";
const SYSTEMCTL: &str = "/usr/bin/systemctl";
/// The agent watches the deadline too, and undoes its own work in good order; systemd comes after it.
const GRACE: Duration = Duration::from_secs(4);

fn recover_unit(run: &str) -> String {
    format!("keyward-recover-{run}.service")
}

/// Holds the deadline of one run.
pub trait Keeper {
    /// Takes the deadline over and proves that it did.
    ///
    /// # Errors
    /// When it cannot: nothing may be changed then.
    fn arm(&mut self, pending: &Pending, host: &dyn Host) -> Result<()>;

    /// Lets go; leaves nothing behind.
    ///
    /// # Errors
    /// When something stays.
    fn disarm(&mut self, pending: &Pending, host: &dyn Host) -> Result<()>;
}

fn program_path(run: &str) -> Result<AbsPath> {
    AbsPath::parse(&program(run)).map_err(|invalid| Failure::failed(run.to_owned(), invalid.why))
}

fn must(host: &dyn Host, argv: &[&str]) -> Result<String> {
    let command = Command::new(argv.iter().copied()).deadline(Duration::from_secs(20));
    let output = host.run(&command)?;
    if output.ok() {
        return Ok(output.stdout);
    }
    Err(Failure::failed(argv.join(" "), format!("exit code {}", output.code)).why(output.last_line()))
}

/// Puts a copy of the running program where the rollback finds it, whatever becomes of the path it was started from.
fn install_program(run: &str, host: &dyn Host) -> Result<()> {
    let program = program(run);
    // Not by its name: the file may have been replaced, removed, or stand outside of this root.
    let node = Node::File { content: host.own_program()?, mode: 0o700, owner: Owner::Actor };
    host.put(&program_path(run)?, &Actor::Root, &node)?;
    let why = match must(host, &[&program, VERB, "ready"]) {
        Ok(answer) if answer.trim() == "ready" => return Ok(()),
        Ok(_) => "it does not answer".to_owned(),
        Err(failure) if failure.why.is_empty() => failure.what,
        Err(failure) => failure.why,
    };
    Err(Failure::failed(program, "the copy of keyward that would undo the run does not start").why(why).hint(
        "is it noexec there? findmnt -T /var/lib/keyward; if so: mount -o remount,exec MOUNTPOINT, and mend /etc/fstab",
    ))
}

/// systemd holds the deadline in a timer of its own; a boot unit covers a reboot.
#[derive(Debug, Default)]
pub struct SystemdKeeper;

impl SystemdKeeper {
    fn timer(run: &str) -> String {
        format!("keyward-rollback-{run}.timer")
    }

    fn service(run: &str) -> String {
        format!("keyward-rollback-{run}.service")
    }

    fn unit(directory: &'static str, name: &str) -> Result<AbsPath> {
        AbsPath::fixed(directory).join(name).map_err(|invalid| Failure::failed(name.to_owned(), invalid.why))
    }

    /// What `systemctl enable` links for the boot unit.
    fn wanted(run: &str) -> Result<AbsPath> {
        Self::unit(WANTS, &recover_unit(run))
    }

    fn enable(run: &str, host: &dyn Host) -> Result<()> {
        if host.meta(&AbsPath::fixed(WANTS), &Actor::Root)?.is_none() {
            return must(host, &[SYSTEMCTL, "enable", "--quiet", &recover_unit(run)]).map(drop);
        }
        let target = format!("/etc/systemd/system/{}", recover_unit(run));
        host.restore(&Self::wanted(run)?, &Actor::Root, &Image::Link { target, uid: 0, gid: 0 })
    }

    fn put(host: &dyn Host, path: &AbsPath, text: String) -> Result<()> {
        let node = Node::File { content: text.into_bytes(), mode: 0o644, owner: Owner::Actor };
        host.put(path, &Actor::Root, &node)
    }

    /// Seconds since the manager started at which the deadline falls: `OnStartupSec=` counts from there, and neither
    /// daemon-reload nor a step of the wall clock moves it (systemd.timer(5)).
    fn on_startup(pending: &Pending, host: &dyn Host) -> Result<f64> {
        let shown = must(host, &[SYSTEMCTL, "show", "-p", "UserspaceTimestampMonotonic", "--value"])?;
        let started: u64 = shown
            .trim()
            .parse()
            .map_err(|error| Failure::failed("systemctl", "does not tell when systemd started").why(error))?;
        let uptime = super::clock::Now::read(host)?;
        let left = pending.deadline.left_ms(&uptime);
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
            .map_err(|error| Failure::failed("clock_gettime", "fails").why(error))?;
        let now = Duration::from(now).as_secs_f64();
        let started = Duration::from_micros(started).as_secs_f64();
        Ok((now - started).max(0.0) + (Duration::from_millis(left) + GRACE).as_secs_f64())
    }

    /// Has systemd undo the run before its deadline: an agent that hangs in its own unit is ended first.
    ///
    /// # Errors
    /// When systemd does not take the order.
    pub fn undo_now(run: &str, host: &dyn Host) -> Result<()> {
        must(host, &[SYSTEMCTL, "start", "--no-block", &Self::service(run)]).map(drop)
    }

    /// Has the doors of `run` looked at as soon as this boot, which undid it (`undone`) or is a later one, has brought up
    /// what opens them.
    ///
    /// # Errors
    /// When systemd does not take the order.
    pub fn look_at_doors(run: &str, undone: bool, host: &dyn Host) -> Result<()> {
        let (unit, program) = (format!("keyward-doors-{run}"), program(run));
        let order = ["/usr/bin/systemd-run", "--quiet", "--no-block", "--collect", "--unit", &unit, "-p"];
        let when = if undone { UNDONE } else { "later" };
        let after = "After=ssh.service ssh.socket sshd.service ufw.service";
        let words: Vec<&str> = order.into_iter().chain([after, &program, VERB, "doors", run, when]).collect();
        must(host, &words).map(drop)
    }

    fn prove(run: &str, host: &dyn Host) -> Result<()> {
        let (timer, recover) = (Self::timer(run), recover_unit(run));
        let asked = ["-p", "ActiveState", "-p", "NextElapseUSecMonotonic", "-p", "UnitFileState"];
        let words: Vec<&str> = [SYSTEMCTL, "show"].into_iter().chain(asked).chain([&*timer, &*recover]).collect();
        let shown = must(host, &words)?;
        // One block a unit, in the order in which they were asked for.
        let (of_timer, of_recover) = shown.trim().split_once("\n\n").unwrap_or((shown.trim(), ""));
        if !waits(of_timer) {
            return Err(Failure::failed(timer, "does not wait for the deadline").why(of_timer.replace('\n', ", ")));
        }
        if of_recover.lines().any(|line| line == "UnitFileState=enabled") {
            return Ok(());
        }
        let why = of_recover.replace('\n', ", ");
        Err(Failure::failed(recover, "is not enabled, so a reboot would not roll back").why(why))
    }
}

/// True when this is what `systemctl show` says of a timer that will elapse.
fn waits(shown: &str) -> bool {
    let elapses = |line: &str| {
        line.strip_prefix("NextElapseUSecMonotonic=").is_some_and(|when| !matches!(when, "" | "0" | "infinity"))
    };
    shown.lines().any(|line| line == "ActiveState=active") && shown.lines().any(elapses)
}

/// The unit conflicts with the agent's own, so that systemd ends a stuck agent before the undo starts.
fn service_text(pending: &Pending) -> String {
    let run = &pending.run;
    let fence = match pending.unit.as_str() {
        "" => String::new(),
        unit => format!("Conflicts={unit}\nAfter={unit}\n"),
    };
    format!(
        "# keyward: undoes run {run} unless it is confirmed in time. Goes when the run ends.\n\
         [Unit]\nDescription=keyward: roll back run {run}\nDefaultDependencies=no\nStartLimitIntervalSec=0\n\
         {fence}\n\
         [Service]\nType=oneshot\nExecStart={program} {VERB} expire {run}\nTimeoutStartSec=600\n\
         Restart=on-failure\nRestartSec=5s\n",
        program = program(run),
    )
}

fn timer_text(run: &str, on_startup: f64) -> String {
    format!(
        "# keyward: the deadline of run {run}. Goes when the run ends.\n\
         [Unit]\nDescription=keyward: deadline of run {run}\nDefaultDependencies=no\nIgnoreOnIsolate=yes\n\n\
         [Timer]\nOnStartupSec={on_startup:.3}\nAccuracySec=100ms\nUnit={}\n",
        SystemdKeeper::service(run)
    )
}

/// Before the firewall and sshd start, since both read what the undo puts back.
fn recover_text(run: &str) -> String {
    format!(
        "# keyward: undoes a run that a reboot cut off. Goes when the run ends.\n\
         [Unit]\nDescription=keyward: undo a run that was cut off by a reboot\nDefaultDependencies=no\n\
         RequiresMountsFor=/var/lib/keyward\nAfter=local-fs.target\n\
         ConditionPathExists=!/run/systemd/system/{timer}\n\
         Before=network-pre.target ufw.service nftables.service firewalld.service ssh.service ssh.socket sshd.service\n\
         Conflicts=shutdown.target\nBefore=shutdown.target\n\n\
         [Service]\nType=oneshot\nExecStart=-{program} {VERB} recover\nTimeoutStartSec=120\n\n\
         [Install]\nWantedBy=multi-user.target\n",
        program = program(run),
        // Gone with a reboot: while it stands, a change of the target or a start by hand is no boot.
        timer = SystemdKeeper::timer(run)
    )
}

impl Keeper for SystemdKeeper {
    fn arm(&mut self, pending: &Pending, host: &dyn Host) -> Result<()> {
        let run = &pending.run;
        install_program(run, host)?;
        let on_startup = Self::on_startup(pending, host)?;
        Self::put(host, &Self::unit("/etc/systemd/system", &recover_unit(run))?, recover_text(run))?;
        Self::put(host, &Self::unit("/run/systemd/system", &Self::service(run))?, service_text(pending))?;
        Self::put(host, &Self::unit("/run/systemd/system", &Self::timer(run))?, timer_text(run, on_startup))?;
        // systemd reads units that it has not seen yet by itself; to have it read all of them again costs many times all
        // the rest of this.
        Self::enable(run, host)?;
        must(host, &[SYSTEMCTL, "start", &Self::timer(run)])?;
        Self::prove(run, host)
    }

    fn disarm(&mut self, pending: &Pending, host: &dyn Host) -> Result<()> {
        let run = &pending.run;
        // `stop` of a timer that was never started is an error that means nothing here.
        drop(must(host, &[SYSTEMCTL, "stop", &Self::timer(run)]));
        let units = [
            Self::wanted(run)?,
            Self::unit("/etc/systemd/system", &recover_unit(run))?,
            Self::unit("/run/systemd/system", &Self::timer(run))?,
            Self::unit("/run/systemd/system", &Self::service(run))?,
        ];
        for path in &units {
            host.remove(path, &Actor::Root)?;
        }
        // systemd forgets what no longer runs and has no file. The program goes last: it may be what does this.
        host.remove(&program_path(run)?, &Actor::Root)
    }
}

/// How long a watchdog may take to start.
const WATCHES: Duration = Duration::from_secs(5);

/// True when a process runs this program.
fn watches(program: &str, host: &dyn Host) -> Result<bool> {
    for name in host.list(&AbsPath::fixed("/proc"), &Actor::Root)?.unwrap_or_default() {
        if !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let Ok(path) = AbsPath::parse(&format!("/proc/{name}/exe")) else { continue };
        let watches = match host.link(&path) {
            Ok(Some(target)) => target == program,
            // What it executes is hidden without CAP_SYS_PTRACE (containers); what root's process is called is not.
            _ => is_called(&name, program, host),
        };
        if watches {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True for a process of root's that was started as `program`.
fn is_called(pid: &str, program: &str, host: &dyn Host) -> bool {
    let text = |file: &str| {
        let path = AbsPath::parse(&format!("/proc/{pid}/{file}")).ok()?;
        Some(String::from_utf8_lossy(&host.read(&path, &Actor::Root).ok()??).into_owned())
    };
    let is_roots = text("status").is_some_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t0\t0\t")));
    is_roots && text("cmdline").is_some_and(|line| line.split('\0').next() == Some(program))
}

/// A watchdog in a session of its own holds the deadline. It does not outlive the machine: without a boot hook a reboot
/// inside the window leaves the run as it was, so it is used only where the user accepts that.
#[derive(Debug, Default)]
pub struct WatchKeeper;

impl Keeper for WatchKeeper {
    fn arm(&mut self, pending: &Pending, host: &dyn Host) -> Result<()> {
        install_program(&pending.run, host)?;
        let program = program(&pending.run);
        must(host, &["/usr/bin/setsid", "--fork", &program, VERB, "watch", &pending.run])?;
        let end = Instant::now() + WATCHES;
        while !watches(&program, host)? {
            if Instant::now() > end {
                return Err(Failure::failed(program, "the watchdog does not run"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn disarm(&mut self, pending: &Pending, host: &dyn Host) -> Result<()> {
        // The watchdog sees the end of the run by itself and goes.
        host.remove(&program_path(&pending.run)?, &Actor::Root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_name_the_run_and_stand_before_the_doors() {
        let text = recover_text("r1");
        for unit in ["ufw.service", "ssh.service", "ssh.socket", "network-pre.target"] {
            assert!(text.lines().any(|line| line.starts_with("Before=") && line.contains(unit)), "{unit}");
        }
        let deadline = super::super::clock::Deadline { boot: String::new(), at_ms: 0, wall: String::new() };
        let unit = "keyward-apply-7.scope".to_owned();
        let pending = Pending { run: "r1".into(), nonce: String::new(), deadline, window_ms: 1, unit, agent: None };
        assert!(service_text(&pending).contains("Conflicts=keyward-apply-7.scope\n"));
        assert!(!service_text(&Pending { unit: String::new(), ..pending }).contains("Conflicts"));
        assert!(waits("ActiveState=active\nNextElapseUSecMonotonic=1min 4s"));
        for not in [
            "",
            "ActiveState=active\nNextElapseUSecMonotonic=infinity",
            "ActiveState=inactive\nNextElapseUSecMonotonic=4s",
        ] {
            assert!(!waits(not), "{not}");
        }
        assert!(timer_text("r1", 12.5).contains("OnStartupSec=12.500\n"));
    }
}
