//! Assess, order, apply, prove, decide, roll back for one host. Knows no concrete resource: it is handed tasks, a
//! prover and an access check as values, and acts only through [`crate::host::Host`].

mod apply;
mod assess;
mod gate;
pub mod guard;
pub mod last_resort;
mod limited;
mod live_account;
mod older;
mod proving;
mod rollback;
mod step;
mod tree;
mod way_back;

pub use apply::{Apply, Prove, apply, refuse_unfinished};
pub use assess::{About, assess, look};
pub use rollback::{LaterEdits, Machine, Rollback, newest, rollback};
pub use tree::{Agreed, Settle, Tree, make, replaced, settle};
pub use way_back::{WayBack, taken_back};

use crate::journal::{self, Record};
use crate::outcome::Exit;

/// How a verb of the engine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code.
    pub exit: Exit,
    /// One line.
    pub verdict: String,
    /// What to type next, or empty.
    pub next: String,
    /// Run id, when a run was begun.
    pub run: Option<String>,
}

/// A line of the history.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Run id.
    pub run: String,
    /// Start, RFC 3339.
    pub at: String,
    /// The playbook as named then.
    pub playbook: String,
    /// How many changes its plan had.
    pub changes: usize,
    /// How it ended; `None` when it never closed (killed, power cut).
    pub exit: Option<Exit>,
    /// Its verdict, empty when it never closed.
    pub verdict: String,
}

/// All runs of this host, oldest first. A journal that cannot be read is listed with the reason as its verdict.
///
/// # Errors
/// When the shelf cannot be read.
pub fn history(shelf: &dyn crate::host::shelf::Shelf) -> crate::error::Result<Vec<Summary>> {
    let runs = shelf.runs()?;
    Ok(runs.into_iter().map(|run| summary(shelf, run)).collect())
}

fn summary(shelf: &dyn crate::host::shelf::Shelf, run: String) -> Summary {
    let mut found =
        Summary { run, at: String::new(), playbook: String::new(), changes: 0, exit: None, verdict: String::new() };
    let records = match journal::read(shelf, &found.run) {
        Ok(records) => records,
        Err(failure) => {
            found.verdict = failure.line();
            return found;
        }
    };
    if records.is_empty() {
        (found.exit, found.verdict) = (Some(Exit::Refused), "never began, nothing was changed".to_owned());
    }
    for record in records {
        match record {
            Record::Begin { at, plan, .. } => {
                found.at = at;
                found.playbook.clone_from(&plan.playbook);
            }
            Record::Change { stage: Some(_), .. } => found.changes += 1,
            Record::Closed { exit, verdict, .. } => {
                found.exit = Some(exit);
                found.verdict = verdict;
            }
            _ => {}
        }
    }
    found
}
