//! Where a run stands that is not closed, for those who look on: what is said of it must be true while others act.

use crate::error::{Kind, Result};
use crate::host::Probe;
use crate::host::shelf::Shelf;
use crate::journal;

use super::clock::Now;
use super::{COMMITTED, DECISION, END, PENDING, Pending, Said, armed_runs, record};

/// After the deadline the keeper comes within so many milliseconds; later nobody comes any more.
const KEEPER_MS: u64 = 10_000;

/// Where an open run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is undone after so many milliseconds unless it is confirmed.
    Waits(u64),
    /// The same, but the process that carried it out is gone, and nobody can confirm it any more.
    Orphaned(u64),
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
    /// Nobody is at it, and it was cut off before its first change.
    Unchanged,
}

/// Where `run`, which is not closed, stands.
///
/// # Errors
/// When its records or the clock cannot be read.
pub fn standing(probe: &dyn Probe, shelf: &dyn Shelf, run: &str) -> Result<Standing> {
    // Asked for last: whoever looks holds the lock for a moment.
    let at_it = || matches!(shelf.lock(), Err(failure) if failure.kind == Kind::Busy);
    let unchanged = !journal::has_changed(&journal::read(shelf, run)?);
    let cut_off = if unchanged { Standing::Unchanged } else { Standing::CutOff };
    let Some(pending) = record::<Pending>(shelf, run, PENDING)? else {
        return Ok(if at_it() { Standing::AtWork } else { cut_off });
    };
    let guarded = armed_runs(probe)?.iter().any(|armed| armed == run);
    let now = Now::read(probe)?;
    let left = pending.deadline.left_ms(&now);
    // A deadline of another boot has passed long ago.
    let comes =
        guarded && now.boot == pending.deadline.boot && now.at_ms < pending.deadline.at_ms.saturating_add(KEEPER_MS);
    let undoing = || if comes || at_it() { Standing::Undoing } else { cut_off.clone() };
    Ok(match (shelf.settled(run, END)?.as_deref(), record::<Said>(shelf, run, DECISION)?) {
        (Some(COMMITTED), _) if at_it() => Standing::Confirmed,
        (Some(COMMITTED), _) => Standing::Holds,
        (Some(_), _) | (None, Some(Said { confirmed: false, .. })) => undoing(),
        (None, Some(Said { confirmed: true, .. })) if at_it() => Standing::Confirmed,
        (None, _) if left > 0 && at_it() => Standing::Waits(left),
        (None, _) if left > 0 && guarded => Standing::Orphaned(left),
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
    use crate::journal::{Journal, Record};
    use crate::outcome::Exit;

    /// At second 100 of boot `b`, of a run that has a guard and nobody holds the lock for.
    fn stands(boot: &str, deadline_s: u64, confirmed: Option<bool>, end: Option<&str>) -> Standing {
        of(true, true, boot, deadline_s, confirmed, end)
    }

    fn of(
        guarded: bool,
        changed: bool,
        boot: &str,
        deadline_s: u64,
        confirmed: Option<bool>,
        end: Option<&str>,
    ) -> Standing {
        let mut world = World::default();
        if guarded {
            world.file("/var/lib/keyward/guard-r1", "", 0o700);
        }
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
        begun(&shelf, "r1", changed);
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
        assert_eq!(stands("b", 130, None, None), Standing::Orphaned(30_000));
        assert_eq!(of(false, false, "b", 130, None, None), Standing::Unchanged, "no guard will ever come");
        assert_eq!(of(false, true, "b", 130, None, None), Standing::CutOff, "nor here");
        assert_eq!(stands("b", 130, Some(false), None), Standing::Undoing, "cancelled");
        assert_eq!(stands("b", 100, None, None), Standing::Undoing, "the keeper comes at once");
        assert_eq!(stands("b", 95, None, Some("the deadline passed")), Standing::Undoing);
        assert_eq!(stands("b", 60, None, None), Standing::CutOff, "nobody came");
        assert_eq!(stands("another", 130, None, None), Standing::CutOff, "of another boot");
        assert_eq!(stands("b", 130, Some(true), Some(COMMITTED)), Standing::Holds, "the agent died while closing");
        let (shelf, host) = (MemoryShelf::default(), MemoryHost::new(World::default()));
        begun(&shelf, "r1", true);
        assert_eq!(standing(&host, &shelf, "r1").unwrap(), Standing::CutOff, "never armed");
    }

    /// A run that has begun, and has made a change if `changed`.
    fn begun(shelf: &MemoryShelf, run: &str, changed: bool) {
        let text = serde_json::json!({"version": 1, "host": "", "playbook": "", "playbook_digest": "",
            "observation_digest": "", "changes": [], "notes": [], "deferred": [], "promises": [], "met": []});
        let journal = Journal::begin(shelf, run, "now", &serde_json::from_value(text).unwrap()).unwrap();
        let (key, summary) = ("a".to_owned(), String::new());
        let change = Record::Change { key, summary, stage: None, forward: Vec::new(), backward: Vec::new() };
        if changed {
            journal.write(&change).unwrap();
        }
    }

    #[test]
    fn what_is_over_is_closed_and_not_taken_for_cut_off() {
        let shelf = MemoryShelf::default();
        let runs = [
            ("r1", true, Some(COMMITTED)),
            ("r2", true, Some("the deadline passed")),
            ("r3", false, None),
            ("r4", false, None),
        ];
        for (run, changed, end) in runs {
            begun(&shelf, run, changed);
            if let Some(end) = end {
                shelf.settle(run, END, end).unwrap();
            }
        }
        let mut world = World::default();
        world.file("/var/lib/keyward/guard-r4", "", 0o700);
        let (host, ledger) = (MemoryHost::new(world), crate::host::ledger::MemoryLedger::default());
        assert!(crate::engine::refuse_unfinished(&shelf).unwrap_err().hint.contains("r1"));
        super::super::close_over(&host, &shelf, &ledger).unwrap();
        assert_eq!(super::super::open_runs(&shelf).unwrap(), ["r2", "r4"], "one must be undone, one has a guard");
        let ended = |run| super::super::ending(&shelf, run).unwrap().unwrap().0;
        assert_eq!((ended("r1"), ended("r3")), (Exit::AsAsked, Exit::Refused));
    }
}
