//! `keyward status`: whether a run is pending, until when, and what to type.

use crate::change::Note;
use crate::engine::guard;
use crate::engine::guard::clock::Now;
use crate::error::Result;
use crate::host::real::RealHost;
use crate::outcome::{Event, Exit, Sink};

use super::{Ending, state};

/// Says it.
pub fn run(sink: &mut dyn Sink) -> Result<Ending> {
    state::need_root("to read the runs of this host")?;
    let Some(shelf) = state::shelf_if_any()? else {
        return Ok(Ending::new(Exit::AsAsked, "no run is pending; none was ever made here", "keyward plan PLAYBOOK"));
    };
    if let Some(pending) = guard::pending(&shelf, None)? {
        let left = pending.deadline.left_ms(&Now::read(&RealHost::new())?) / 1000;
        let opened = guard::opened(&shelf, &pending.run)?.is_some();
        let door = if opened { "the new door is open" } else { "the new door is not open yet" };
        sink.event(Event::Note {
            note: Note::info(&pending.run, format!("{door}; {left} s left; nonce {}", pending.nonce)),
        });
        let verdict = format!("run {} is pending: undone in {left} s unless confirmed", pending.run);
        return Ok(Ending::new(Exit::Pending, verdict, format!("keyward confirm {}", pending.run)));
    }
    match guard::open_runs(&shelf)?.last() {
        Some(run) => Ok(Ending::new(
            Exit::RollbackIncomplete,
            format!("run {run} was cut off and never ended"),
            format!("keyward rollback {run}"),
        )),
        None => Ok(Ending::new(Exit::AsAsked, "no run is pending", "keyward history")),
    }
}
