//! `keyward status`: whether a run is pending, until when, and what to type.

use crate::change::Note;
use crate::engine::guard::{self, Standing};
use crate::engine::last_resort;
use crate::error::Result;
use crate::host::real::RealHost;
use crate::host::shelf::{DirShelf, Shelf as _};
use crate::journal;
use crate::outcome::{Event, Exit, Sink};

use super::{Ending, state};

/// Says it.
pub fn run(sink: &mut dyn Sink) -> Result<Ending> {
    state::need_root("to read the runs of this host")?;
    if last_resort::is_open(&RealHost::new())? {
        let verdict = "an sshd of last resort is what lets you in: the undo of a run could not bring sshd back";
        return Ok(Ending::new(Exit::RollbackIncomplete, verdict, "mend sshd, then: keyward acknowledge"));
    }
    let Some(shelf) = state::shelf_if_any()? else {
        return Ok(Ending::new(Exit::AsAsked, "no run is pending; none was ever made here", "keyward plan PLAYBOOK"));
    };
    let waits = guard::pending(&shelf, None)?;
    let open = guard::open_runs(&shelf)?.pop();
    let Some(run) = waits.as_ref().map(|pending| pending.run.clone()).or(open) else {
        if let Some(run) = degraded(&shelf)? {
            let verdict = format!("run {run} could not be undone whole");
            let next = format!("keyward rollback {run}, or once it is mended by hand: keyward acknowledge {run}");
            return Ok(Ending::new(Exit::RollbackIncomplete, verdict, next));
        }
        return Ok(Ending::new(Exit::AsAsked, "no run is pending", "keyward history"));
    };
    Ok(match guard::standing(&RealHost::new(), &shelf, &run)? {
        Standing::Waits(left) => {
            let left = left / 1000;
            let opened = guard::opened(&shelf, &run)?.is_some();
            let door = if opened { "the new door is open" } else { "the new door is not open yet" };
            let nonce = waits.map(|pending| pending.nonce).unwrap_or_default();
            sink.event(Event::Note { note: Note::info(&run, format!("{door}; {left} s left; nonce {nonce}")) });
            let verdict = format!("run {run} is pending: undone in {left} s unless confirmed");
            Ending::new(Exit::Pending, verdict, format!("keyward confirm {run}"))
        }
        Standing::Orphaned(left) => {
            let left = left / 1000;
            let verdict = format!("run {run} lost the process that carried it out: it is undone in {left} s");
            Ending::new(Exit::Pending, verdict, format!("keyward cancel {run}"))
        }
        Standing::Confirmed => {
            let verdict = format!("run {run} is confirmed, and goes on to close the old doors");
            Ending::new(Exit::Pending, verdict, "keyward status")
        }
        Standing::Undoing => {
            Ending::new(Exit::Pending, format!("run {run} is being rolled back now"), "keyward status")
        }
        Standing::Holds => Ending::new(
            Exit::AsAsked,
            format!("no run is pending; run {run} holds, though its agent died before it could note that"),
            "keyward history",
        ),
        Standing::AtWork => Ending::new(Exit::Busy, format!("run {run} is at work"), "keyward status"),
        Standing::Unchanged => {
            let verdict =
                format!("no run is pending; run {run} was cut off before its first change: nothing was changed");
            let mut ending = Ending::new(Exit::AsAsked, verdict, "keyward history");
            ending.run = Some(run);
            ending
        }
        Standing::CutOff => Ending::new(
            Exit::RollbackIncomplete,
            format!("run {run} was cut off and never ended"),
            format!("keyward rollback {run}"),
        ),
    })
}

/// The newest run whose undo is incomplete.
fn degraded(shelf: &DirShelf) -> Result<Option<String>> {
    let runs = shelf.runs()?.into_iter().rev();
    let incomplete = |run: &String| journal::read(shelf, run).is_ok_and(|records| journal::is_degraded(&records));
    Ok(runs.into_iter().find(incomplete))
}
