//! The dead-man switch of a live run: a deadline held by somebody who outlives the agent, one durable decision, and
//! rollback from the journal when the decision does not come, the agent dies or the machine reboots.
//!
//! Three records of the run decide everything, each set once, first writer wins: `pending` (armed, with the deadline),
//! `decision` (confirmed or cancelled) and `end` (committed, or who undoes it). Must not know any resource.

pub mod clock;
mod expire;
mod fence;
mod keeper;
mod live;
mod standing;

pub use expire::{expire, recover};
pub use keeper::{Keeper, SystemdKeeper, UNDONE, VERB, WatchKeeper};
pub use live::{Decision, LiveGuard, Terms, Wanted, decide};
pub use standing::{Standing, standing};

use serde::{Deserialize, Serialize};

use super::last_resort;
use crate::audit;
use crate::error::{Failure, Kind, Result};
use crate::facts::{Facts, Init};
use crate::host::ledger::Ledger;
use crate::host::shelf::{Held, Shelf};
use crate::host::{Actor, Host, Probe};
use crate::journal::{self, Record};
use crate::outcome::Exit;
use crate::types::AbsPath;

/// Names of the records.
const PENDING: &str = "pending";
const DECISION: &str = "decision";
const END: &str = "end";

/// When both doors stood open: a confirming session must have begun after it.
const OPENED: &str = "opened";

/// `end`: the run holds.
const COMMITTED: &str = "committed";
/// `end`: the agent that applied undoes it itself.
const BY_AGENT: &str = "rolled back by the agent";

/// What stands in `pending`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Run id.
    pub run: String,
    /// Binds a confirmation to this run: 16 hexadecimal digits.
    pub nonce: String,
    /// When it is undone.
    pub deadline: clock::Deadline,
    /// Length of the window in milliseconds.
    pub window_ms: u64,
    /// The systemd unit in which the agent runs, so that a stuck one can be ended; empty where there is none.
    pub unit: String,
    /// The agent's process, so that a stuck one can be ended where there is no unit.
    #[serde(default)]
    pub agent: Option<Agent>,
}

/// A process, told from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its number.
    pub pid: u32,
    /// When it began, in the unit of proc_pid_stat(5), field 22.
    pub started: u64,
}

/// What stands in `decision`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Said {
    /// True: confirmed; false: cancelled.
    pub confirmed: bool,
    /// Who, and on what evidence.
    pub because: String,
}

/// When both doors of a run stood open, on the clock of its boot; `None` before.
///
/// # Errors
/// When the record cannot be read.
pub fn opened(shelf: &dyn Shelf, run: &str) -> Result<Option<clock::Now>> {
    record(shelf, run, OPENED)
}

/// Reads a record.
fn record<T: serde::de::DeserializeOwned>(shelf: &dyn Shelf, run: &str, name: &str) -> Result<Option<T>> {
    let Some(text) = shelf.settled(run, name)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| Failure::unknown(format!("run {run}, record '{name}'"), "cannot be read").why(error))
}

fn encode<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Failure::failed("guard", "a record cannot be encoded").why(error))
}

/// The run that waits for its end, if any; with `wanted`, that run, whether or not it is over.
///
/// # Errors
/// When the shelf cannot be read.
pub fn pending(shelf: &dyn Shelf, wanted: Option<&str>) -> Result<Option<Pending>> {
    if let Some(run) = wanted {
        return record(shelf, run, PENDING);
    }
    for run in shelf.runs()?.into_iter().rev() {
        // A journal that cannot be read does not say that its run is over.
        if shelf.settled(&run, END)?.is_none()
            && !is_closed(shelf, &run).unwrap_or(false)
            && let Some(pending) = record::<Pending>(shelf, &run, PENDING)?
        {
            return Ok(Some(pending));
        }
    }
    Ok(None)
}

/// Takes the host-wide lock; whoever meets a run that is pending is told how to end it.
///
/// # Errors
/// Busy when another run holds it.
pub fn lock(shelf: &dyn Shelf) -> Result<Box<dyn Held>> {
    shelf.lock().map_err(|failure| match pending(shelf, None) {
        Ok(Some(Pending { run, .. })) if failure.kind == Kind::Busy => {
            let ways = format!("keep it with keyward confirm {run}; undo it with keyward cancel {run}");
            failure.why(format!("run {run} is pending")).hint(format!("look at it with keyward status; {ways}"))
        }
        _ => failure,
    })
}

/// The runs that never closed.
///
/// # Errors
/// When a journal cannot be read.
pub fn open_runs(shelf: &dyn Shelf) -> Result<Vec<String>> {
    let mut open = Vec::new();
    for run in shelf.runs()? {
        // One unreadable journal must not stand in the way of undoing the others.
        if !is_closed(shelf, &run).unwrap_or(true) {
            open.push(run);
        }
    }
    Ok(open)
}

/// Closes the runs that are over although nobody could say so: one that was committed by an agent that died then holds, and
/// nothing may take it for cut off; one that was cut off before its guard and before its first change has changed nothing.
/// One that somebody is at is left alone.
///
/// # Errors
/// When a record cannot be read or written.
pub fn close_over(host: &dyn Host, shelf: &dyn Shelf, ledger: &dyn Ledger) -> Result<()> {
    let open = open_runs(shelf)?;
    if open.is_empty() {
        return Ok(());
    }
    let Ok(_held) = shelf.lock() else { return Ok(()) };
    let guarded = armed_runs(host)?;
    for run in open.iter().filter(|run| !is_closed(shelf, run).unwrap_or(true)) {
        let journal = journal::Journal::reopen(shelf, run)?;
        let (what, exit, verdict) = if shelf.settled(run, END)?.as_deref() == Some(COMMITTED) {
            ("committed", Exit::AsAsked, expire::DIED_COMMITTED)
        } else if !guarded.contains(run) && !journal::has_changed(&journal.records()) {
            ("cut_off", Exit::Refused, "was cut off before its first change: nothing was changed")
        } else {
            continue;
        };
        let _ = audit::record(ledger, run, what, verdict);
        journal.close(exit, verdict, &jiff::Timestamp::now().to_string())?;
    }
    Ok(())
}

/// How a run ended; `None` while it goes on.
///
/// # Errors
/// When its journal cannot be read.
pub fn ending(shelf: &dyn Shelf, run: &str) -> Result<Option<(Exit, String)>> {
    let records = journal::read(shelf, run)?;
    if records.is_empty() {
        return Ok(Some((Exit::Refused, "never began, nothing was changed".to_owned())));
    }
    Ok(records.into_iter().rev().find_map(|record| match record {
        Record::Closed { exit, verdict, .. } => Some((exit, verdict)),
        _ => None,
    }))
}

fn is_closed(shelf: &dyn Shelf, run: &str) -> Result<bool> {
    Ok(ending(shelf, run)?.is_some())
}

/// Who holds a deadline on such a host.
pub fn keeper_of(facts: &Facts) -> Box<dyn Keeper> {
    match facts.init {
        Init::Systemd => Box::new(SystemdKeeper),
        Init::Other => Box::new(WatchKeeper),
    }
}

/// The runs whose guard still stands, closed or not: a power cut may have come between the two. The program is the last
/// thing that a keeper takes away.
///
/// # Errors
/// When its directory cannot be read.
pub fn armed_runs(probe: &dyn Probe) -> Result<Vec<String>> {
    let (dir, start) = keeper::PROGRAM;
    let names = probe.list(&AbsPath::fixed(dir), &Actor::Root)?.unwrap_or_default();
    Ok(names.iter().filter_map(|name| name.strip_prefix(start).map(str::to_owned)).collect())
}

/// Takes away what arming `run` put down, once the run is over; nothing when it was never armed. While it is not over,
/// the guard is the way back and stays; and while the sshd of last resort is what lets people in, so that a reboot does
/// not end that.
///
/// # Errors
/// When something of it stays.
pub fn disarm(host: &dyn Host, shelf: &dyn Shelf, run: &str, mut keeper: Box<dyn Keeper>) -> Result<()> {
    match record::<Pending>(shelf, run, PENDING)?.filter(|_| is_closed(shelf, run).unwrap_or(false)) {
        Some(pending) if !last_resort::is_open(host)? => keeper.disarm(&pending, host),
        _ => Ok(()),
    }
}
