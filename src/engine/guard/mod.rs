//! The dead-man switch of a live run: a deadline held by somebody who outlives the agent, one durable decision, and
//! rollback from the journal when the decision does not come, the agent dies or the machine reboots.
//!
//! Three records of the run decide everything, each set once, first writer wins: `pending` (armed, with the deadline),
//! `decision` (confirmed or cancelled) and `end` (committed, or who undoes it). Must not know any resource.

pub mod clock;
mod expire;
mod keeper;
mod live;

pub use expire::{expire, recover};
pub use keeper::{Keeper, PROGRAM, SystemdKeeper, VERB, WatchKeeper};
pub use live::{Decision, LiveGuard, Wanted, decide};

use serde::{Deserialize, Serialize};

use crate::error::{Failure, Result};
use crate::host::shelf::Shelf;

/// Names of the records.
const PENDING: &str = "pending";
const DECISION: &str = "decision";
const END: &str = "end";

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

/// The run that waits for its end, if any.
///
/// # Errors
/// When the shelf cannot be read.
pub fn pending(shelf: &dyn Shelf) -> Result<Option<Pending>> {
    for run in shelf.runs()?.into_iter().rev() {
        if shelf.settled(&run, END)?.is_none()
            && let Some(pending) = record::<Pending>(shelf, &run, PENDING)?
        {
            return Ok(Some(pending));
        }
    }
    Ok(None)
}
