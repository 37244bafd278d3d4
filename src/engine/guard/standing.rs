//! Where a run stands that is not closed, for those who look on: what is said of it must be true while others act.

use crate::error::{Kind, Result};
use crate::host::Probe;
use crate::host::shelf::Shelf;

use super::clock::Now;
use super::{COMMITTED, DECISION, END, PENDING, Pending, Said, record};

/// After the deadline the keeper comes within so many milliseconds; later nobody comes any more.
const KEEPER_MS: u64 = 10_000;

/// Where an open run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is undone after so many milliseconds unless it is confirmed.
    Waits(u64),
    /// It was confirmed, and goes on to close the old doors, once the host's own proof is through as well.
    Confirmed,
    /// It is being undone now.
    Undoing,
    /// It is at work, and nothing waits for a person.
    AtWork,
    /// It was committed, and its agent died before it could say so: it holds.
    Holds,
    /// Nobody is at it.
    CutOff,
}

/// Where `run`, which is not closed, stands.
///
/// # Errors
/// When its records or the clock cannot be read.
pub fn standing(probe: &dyn Probe, shelf: &dyn Shelf, run: &str) -> Result<Standing> {
    // Asked for last: whoever looks holds the lock for a moment.
    let at_it = || matches!(shelf.lock(), Err(failure) if failure.kind == Kind::Busy);
    let Some(pending) = record::<Pending>(shelf, run, PENDING)? else {
        return Ok(if at_it() { Standing::AtWork } else { Standing::CutOff });
    };
    let now = Now::read(probe)?;
    let left = pending.deadline.left_ms(&now);
    // A deadline of another boot has passed long ago.
    let comes = now.boot == pending.deadline.boot && now.at_ms < pending.deadline.at_ms.saturating_add(KEEPER_MS);
    let undoing = || if comes || at_it() { Standing::Undoing } else { Standing::CutOff };
    Ok(match (shelf.settled(run, END)?.as_deref(), record::<Said>(shelf, run, DECISION)?) {
        (Some(COMMITTED), _) if at_it() => Standing::Confirmed,
        (Some(COMMITTED), _) => Standing::Holds,
        (Some(_), _) | (None, Some(Said { confirmed: false, .. })) => undoing(),
        (None, Some(Said { confirmed: true, .. })) if at_it() => Standing::Confirmed,
        (None, _) if left > 0 => Standing::Waits(left),
        (None, _) => undoing(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::clock::Deadline;
    use super::super::encode;
    use super::*;
    use crate::host::memory::{MemoryHost, World};
    use crate::host::shelf::MemoryShelf;

    /// At second 100 of boot `b`, of a run nobody holds the lock for.
    fn stands(boot: &str, deadline_s: u64, confirmed: Option<bool>, end: Option<&str>) -> Standing {
        let mut world = World::default();
        world.file("/proc/uptime", "100.00 1.00\n", 0o444);
        world.file("/proc/sys/kernel/random/boot_id", "b\n", 0o444);
        let deadline = Deadline { boot: boot.into(), at_ms: deadline_s * 1000, wall: String::new() };
        let pending = Pending {
            run: "r1".into(),
            nonce: String::new(),
            deadline,
            window_ms: 1,
            unit: String::new(),
            agent: None,
        };
        let shelf = MemoryShelf::default();
        shelf.settle("r1", PENDING, &encode(&pending).unwrap()).unwrap();
        if let Some(confirmed) = confirmed {
            shelf.settle("r1", DECISION, &encode(&Said { confirmed, because: String::new() }).unwrap()).unwrap();
        }
        if let Some(end) = end {
            shelf.settle("r1", END, end).unwrap();
        }
        standing(&MemoryHost::new(world), &shelf, "r1").unwrap()
    }

    #[test]
    fn only_what_has_time_left_and_no_end_waits() {
        assert_eq!(stands("b", 130, None, None), Standing::Waits(30_000));
        assert_eq!(stands("b", 130, Some(false), None), Standing::Undoing, "cancelled");
        assert_eq!(stands("b", 100, None, None), Standing::Undoing, "the keeper comes at once");
        assert_eq!(stands("b", 95, None, Some("the deadline passed")), Standing::Undoing);
        assert_eq!(stands("b", 60, None, None), Standing::CutOff, "nobody came");
        assert_eq!(stands("another", 130, None, None), Standing::CutOff, "of another boot");
        assert_eq!(stands("b", 130, Some(true), Some(COMMITTED)), Standing::Holds, "the agent died while closing");
        let (shelf, host) = (MemoryShelf::default(), MemoryHost::new(World::default()));
        assert_eq!(standing(&host, &shelf, "r1").unwrap(), Standing::CutOff, "never armed");
    }

    #[test]
    fn what_was_committed_is_closed_and_not_taken_for_cut_off() {
        use crate::journal::Journal;
        let text = serde_json::json!({"version": 1, "host": "", "playbook": "", "playbook_digest": "",
            "observation_digest": "", "changes": [], "notes": [], "deferred": [], "promises": [], "met": []});
        let (plan, shelf) = (serde_json::from_value(text).unwrap(), MemoryShelf::default());
        for (run, end) in [("r1", COMMITTED), ("r2", "the deadline passed")] {
            Journal::begin(&shelf, run, "now", &plan).unwrap();
            shelf.settle(run, END, end).unwrap();
        }
        assert!(crate::engine::refuse_unfinished(&shelf).unwrap_err().hint.contains("r1"));
        super::super::close_committed(&shelf, &crate::host::ledger::MemoryLedger::default()).unwrap();
        assert_eq!(super::super::open_runs(&shelf).unwrap(), ["r2"]);
        assert_eq!(super::super::ending(&shelf, "r1").unwrap().unwrap().0, crate::outcome::Exit::AsAsked);
    }
}
