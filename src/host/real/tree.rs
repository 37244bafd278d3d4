//! The processes that a child started, also those that turned themselves into daemons: found in /proc and killed.
//!
//! This process is made a subreaper (prctl(2)), so that an orphan becomes its child instead of init's and can be told
//! from a stranger. Commands that change anything run one after the other; of those that only read, two at a time may take
//! each other's orphans for their own when one of them has to be killed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Child;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill as signal, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// How long killed processes are waited for.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// The unit of a process' start in /proc (proc_pid_stat(5), USER_HZ).
const TICK_MS: u64 = 10;
/// Both times have a grain; within it nothing is told apart.
const GRAIN: Duration = Duration::from_millis(20);

/// Children that were started on purpose and are no orphans.
static KNOWN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Starts a child that is not to be taken for an orphan, not even in its first moment.
pub fn start(spawn: impl FnOnce() -> std::io::Result<Child>) -> std::io::Result<Child> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let child = spawn()?;
    known.insert(child.id());
    Ok(child)
}

/// The child has ended.
pub fn unregister(pid: u32) {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
}

/// Makes this process the one to which orphans among its descendants fall.
pub fn adopt_orphans() {
    // Linux has had it since 3.4; without it double forks are merely harder to find.
    let _ = nix::sys::prctl::set_child_subreaper(true);
}

/// The moment a child began, in the unit of /proc/PID/stat: what began earlier is not of its making.
#[derive(Debug, Clone, Copy)]
pub struct Began(u64);

impl Began {
    /// Looks at a child just started.
    pub fn of(child: &Child) -> Self {
        let pid = i32::try_from(child.id()).unwrap_or(0);
        Self(look(pid).map_or(0, |process| process.started))
    }
}

struct Process {
    parent: i32,
    started: u64,
    zombie: bool,
}

fn look(pid: i32) -> Option<Process> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything, so fields are counted after the last bracket (proc_pid_stat(5)).
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let zombie = fields.first().is_some_and(|state| matches!(*state, "Z" | "X"));
    Some(Process { parent: fields.get(1)?.parse().ok()?, started: fields.get(19)?.parse().ok()?, zombie })
}

/// False when process `pid` is gone, or is another one that got its number after `changed`, a file's last change in seconds
/// and nanoseconds since the epoch as stat(2) gives it: after a reboot the numbers begin anew.
pub fn may_have_made(pid: i32, changed: (i64, i64)) -> bool {
    let changed = Duration::new(u64::try_from(changed.0).unwrap_or(u64::MAX), u32::try_from(changed.1).unwrap_or(0));
    let Some(process) = look(pid) else { return signal(Pid::from_raw(pid), None) != Err(Errno::ESRCH) };
    let now = |clock| clock_gettime(clock).map(Duration::from);
    let (Ok(wall), Ok(boot)) = (now(ClockId::CLOCK_REALTIME), now(ClockId::CLOCK_BOOTTIME)) else { return true };
    let began = wall.saturating_sub(boot) + Duration::from_millis(process.started * TICK_MS);
    !process.zombie && began <= changed + GRAIN
}

fn processes() -> BTreeMap<i32, Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|pid| Some((pid, look(pid)?)))
        .collect()
}

/// Descendants of `child`, and orphans that fell to this process since it began.
fn family(child: i32, began: Began, all: &BTreeMap<i32, Process>) -> BTreeSet<i32> {
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut family: BTreeSet<i32> = all
        .iter()
        .filter(|(pid, process)| {
            let strange = u32::try_from(**pid).is_ok_and(|pid| !known.contains(&pid));
            **pid == child || (process.parent == me && strange && process.started >= began.0)
        })
        .map(|(pid, _)| *pid)
        .collect();
    loop {
        let more: Vec<i32> = all
            .iter()
            .filter(|(pid, process)| !family.contains(*pid) && family.contains(&process.parent))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return family;
        }
        family.extend(more);
    }
}

/// Kills the child, its process group and all it started, and gives back who could not be made to go.
pub fn kill(child: &mut Child, began: Began) -> BTreeSet<i32> {
    let pid = i32::try_from(child.id()).unwrap_or(0);
    let until = Instant::now() + KILL_WAIT;
    let mut pause = Duration::from_millis(1);
    let _ = killpg(Pid::from_raw(pid), Signal::SIGSTOP);
    loop {
        let all = processes();
        let members = family(pid, began, &all);
        let alive: BTreeSet<i32> =
            members.iter().copied().filter(|pid| all.get(pid).is_some_and(|process| !process.zombie)).collect();
        // Stopped first, so that none of them can fork on while the others are looked for.
        for member in &alive {
            let _ = signal(Pid::from_raw(*member), Signal::SIGSTOP);
        }
        for member in &alive {
            let _ = signal(Pid::from_raw(*member), Signal::SIGKILL);
        }
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        for member in members.iter().filter(|member| **member != pid) {
            let _ = waitpid(Pid::from_raw(*member), Some(WaitPidFlag::WNOHANG));
        }
        if alive.is_empty() && signal(Pid::from_raw(-pid), None) != Ok(()) || Instant::now() > until {
            let _ = child.try_wait();
            return alive.into_iter().filter(|pid| signal(Pid::from_raw(*pid), None) != Err(Errno::ESRCH)).collect();
        }
        let _ = child.try_wait();
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
