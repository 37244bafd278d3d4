//! `keyward cancel [RUN]`: undoes a pending run at once.

use std::time::{Duration, Instant};

use crate::engine::guard::{self, Decision, Said};
use crate::error::{Failure, Result};
use crate::facts::Facts;
use crate::host::real::RealHost;
use crate::host::shelf::{DirShelf, Shelf as _};
use crate::outcome::{Event, Exit};

use super::args::CancelArgs;
use super::{Ending, confirm, state};

/// Cancels.
pub fn run(args: &CancelArgs) -> Result<Ending> {
    state::need_root("to cancel a run")?;
    let (host, shelf, ledger) = (RealHost::new(), confirm::shelf()?, state::ledger_or_none());
    let pending = confirm::find(&shelf, "cancel", args.run.as_deref())?;
    let run = &pending.run;
    let said = Said { confirmed: false, because: args.because.clone().unwrap_or_else(|| "by the operator".to_owned()) };
    if let Decision::Against(because) = guard::decide(&host, &shelf, run, None, &said)? {
        return Err(Failure::refused(format!("run {run}"), "was decided before: it cannot be cancelled any more")
            .why(because)
            .hint(format!("once it is over: keyward rollback {run}")));
    }
    // A session that ends now must not stop the undo half way.
    let _signals = super::signals::Signals::hold()?;
    // Where the agent lives it sees the decision and undoes its own work; a dead one's lock is free at once. One that hangs
    // in a unit is ended by the unit of its guard, which conflicts with it.
    if !pending.unit.is_empty() && !over_soon(&shelf, run) {
        guard::SystemdKeeper::undo_now(run, &host)?;
    }
    let mut events: Vec<Event> = Vec::new();
    let undone = guard::expire(&host, &shelf, ledger.as_ref(), run, &mut events);
    super::motd::ended(&shelf, run);
    // Whoever undid it: the guard goes. Doing so twice is harmless.
    let keeper = guard::keeper_of(&Facts::gather(&host)?);
    let disarmed = guard::disarm(&host, &shelf, run, keeper).and(super::guard::sweep_halves());
    let end = guard::ending(&shelf, run)?;
    // What could not be undone is told by how the run ended.
    if end.is_none() {
        undone?;
    }
    disarmed?;
    match end {
        Some((Exit::RolledBack, verdict)) => Ok(Ending::new(Exit::AsAsked, verdict, format!("keyward show {run}"))),
        Some((exit, verdict)) => Ok(Ending::new(exit, verdict, format!("keyward show {run}"))),
        None => Ok(Ending::new(Exit::Pending, format!("run {run} is still being undone"), "keyward status")),
    }
}

/// How long an agent may take to undo its own work before it is taken for stuck.
const PATIENCE: Duration = Duration::from_secs(15);

/// True when the run is over, or nobody holds the host, within that time.
fn over_soon(shelf: &DirShelf, run: &str) -> bool {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if guard::ending(shelf, run).is_ok_and(|end| end.is_some()) || shelf.lock().is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}
