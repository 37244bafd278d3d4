//! `keyward history`: the runs of this host, oldest first.

use crate::engine;
use crate::error::Result;
use crate::outcome::{Event, Exit, Sink};

use super::{Ending, state};

/// Lists the runs.
pub fn run(sink: &mut dyn Sink) -> Result<Ending> {
    state::need_root("to read the runs of this host")?;
    let runs = match state::shelf_if_any()? {
        Some(shelf) => engine::history(&shelf)?,
        None => Vec::new(),
    };
    let Some(last) = runs.last().map(|summary| summary.run.clone()) else {
        return Ok(Ending::new(Exit::AsAsked, "no run yet on this host", "keyward plan PLAYBOOK"));
    };
    for summary in runs {
        sink.event(Event::Run {
            run: summary.run,
            began: summary.at,
            playbook: summary.playbook,
            changes: summary.changes,
            exit: summary.exit,
            verdict: summary.verdict,
        });
    }
    Ok(Ending::new(Exit::AsAsked, "", format!("keyward show {last}")))
}
