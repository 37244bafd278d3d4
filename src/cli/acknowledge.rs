//! `keyward acknowledge [RUN]`: sshd is mended, so the one of last resort that an undo had to start may end; with RUN:
//! what that run could not undo was mended by hand.

use crate::audit;
use crate::engine::last_resort;
use crate::error::{Failure, Kind, Result};
use crate::host::real::RealHost;
use crate::host::shelf::Shelf as _;
use crate::journal::{self, Journal};
use crate::outcome::Exit;

use super::args::AcknowledgeArgs;
use super::{Ending, state};

/// Ends it, and closes the run.
pub fn run(args: &AcknowledgeArgs) -> Result<Ending> {
    state::need_root("to end what an undo left")?;
    let host = RealHost::new();
    let open = last_resort::is_open(&host)?;
    if open {
        match last_resort::acknowledge(&host) {
            Err(failure) if failure.kind == Kind::Failed => {
                return Ok(Ending::new(Exit::RollbackIncomplete, failure.line(), failure.hint));
            }
            other => other?,
        }
        audit::record(&state::ledger()?, "", "acknowledged", SERVES)?;
        super::motd::forget();
        // The guard that would have started it again after a boot.
        if let Some(shelf) = state::shelf_if_any()? {
            super::guard::sweep(&host, &shelf)?;
        }
    }
    match &args.run {
        Some(run) => mended(run),
        None if open => Ok(Ending::new(Exit::AsAsked, SERVES, "keyward status")),
        None => Ok(Ending::new(Exit::AsAsked, "nothing to acknowledge: no sshd of last resort runs", "keyward status")),
    }
}

const SERVES: &str = "sshd serves again; the one of last resort was ended";

fn mended(run: &str) -> Result<Ending> {
    let none = || Failure::input(format!("run {run}"), "there is no such run").hint("keyward history");
    let shelf = state::shelf_if_any()?.ok_or_else(none)?;
    let _held = shelf.lock()?;
    if !journal::is_degraded(&journal::read(&shelf, run)?) {
        return Err(Failure::refused(format!("run {run}"), "has nothing to acknowledge: its undo is not incomplete")
            .hint(format!("keyward show {run}")));
    }
    let told = "what could not be undone was mended by hand, as the administrator says";
    audit::record(&state::ledger()?, run, "acknowledged", told)?;
    Journal::reopen(&shelf, run)?.close(Exit::RolledBack, told, &jiff::Timestamp::now().to_string())?;
    super::motd::forget();
    Ok(Ending::new(Exit::AsAsked, format!("run {run} is closed: {told}"), format!("keyward show {run}")))
}
