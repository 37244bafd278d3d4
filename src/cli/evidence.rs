//! The last evidence of this host and its age: what a converged host is judged by besides its effective state.

use crate::change::Note;
use crate::error::Result;
use crate::host::shelf::Shelf;
use crate::journal::{self, Record};
use crate::outcome::{Event, Exit, Proven, Sink};

use super::state;

/// Tells when this host was last proven, and how much of it held.
///
/// # Errors
/// When the journals cannot be read.
pub fn tell_last(sink: &mut dyn Sink) -> Result<()> {
    let Some(shelf) = state::shelf_if_any()? else { return Ok(()) };
    let text = match last(&shelf)? {
        Some(Proof { run, at, held, all }) => format!(
            "last proven {} ago by run {run}: {held} of {all} held; keyward apply --prove logs in again",
            age(&at)
        ),
        None => "never proven by a login on this host; --prove does it".to_owned(),
    };
    sink.event(Event::Note { note: Note::info("evidence", text) });
    Ok(())
}

/// What a run proved.
#[derive(Debug, PartialEq, Eq)]
struct Proof {
    run: String,
    at: String,
    held: usize,
    all: usize,
}

/// The newest proof of a state that holds: what a run proved before it was rolled back is no more.
fn last(shelf: &dyn Shelf) -> Result<Option<Proof>> {
    for run in shelf.runs()?.into_iter().rev() {
        // A journal that cannot be read proves nothing; history tells of it.
        let Ok(records) = journal::read(shelf, &run) else { continue };
        let (mut held, mut all, mut ended) = (0_usize, 0_usize, None);
        for record in &records {
            match record {
                Record::Evidence { evidence } => {
                    all += 1;
                    held += usize::from(evidence.proven == Proven::Yes);
                }
                Record::Closed { at, exit: Exit::AsAsked | Exit::Unverified, .. } => ended = Some(at.clone()),
                _ => {}
            }
        }
        // A rollback by hand ends as asked too.
        let undone = records.iter().any(|record| matches!(record, Record::RollingBack { .. }));
        if let (Some(at), true, false) = (ended, all > 0, undone) {
            return Ok(Some(Proof { run, at, held, all }));
        }
    }
    Ok(None)
}

/// `3 days`, `2 hours`, `5 minutes`, `40 seconds`.
fn age(at: &str) -> String {
    let Ok(then) = at.parse::<jiff::Timestamp>() else { return "an unknown time".to_owned() };
    let seconds = jiff::Timestamp::now().duration_since(then).as_secs().max(0);
    let (number, unit) = match seconds {
        0..=119 => (seconds, "second"),
        120..=7_199 => (seconds / 60, "minute"),
        7_200..=172_799 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    crate::report::style::count(usize::try_from(number).unwrap_or_default(), unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Plan;
    use crate::host::shelf::MemoryShelf;
    use crate::journal::Journal;
    use crate::outcome::{Evidence, Reach};

    fn run(shelf: &MemoryShelf, id: &str, exit: Exit, undone: bool) {
        let plan = serde_json::json!({"version": 1, "host": "", "playbook": "", "playbook_digest": "",
            "observation_digest": "", "changes": [], "notes": [], "deferred": [], "promises": [], "met": []});
        let plan: Plan = serde_json::from_value(plan).unwrap();
        let journal = Journal::begin(shelf, id, "2026-01-01T00:00:00Z", &plan).unwrap();
        let evidence =
            Evidence { what: "login".into(), proven: Proven::Yes, reach: Reach::L1, seen: String::new(), millis: 1 };
        journal.write(&Record::Evidence { evidence }).unwrap();
        if undone {
            journal.write(&Record::RollingBack { reason: "asked for".into() }).unwrap();
        }
        journal.close(exit, "", &format!("end of {id}")).unwrap();
    }

    #[test]
    fn only_a_state_that_holds_was_proven() {
        let shelf = MemoryShelf::default();
        assert_eq!(last(&shelf).unwrap(), None);
        run(&shelf, "r1", Exit::Unverified, false);
        for (id, exit, undone) in [
            ("r2", Exit::RolledBack, true),
            ("r3", Exit::RollbackIncomplete, true),
            ("r4", Exit::AsAsked, true),
            ("r5", Exit::Refused, false),
        ] {
            run(&shelf, id, exit, undone);
            assert_eq!(last(&shelf).unwrap().unwrap().run, "r1", "{id} holds no more");
        }
        run(&shelf, "r6", Exit::AsAsked, false);
        let proof = Proof { run: "r6".into(), at: "end of r6".into(), held: 1, all: 1 };
        assert_eq!(last(&shelf).unwrap(), Some(proof));
    }

    #[test]
    fn ages() {
        let before = |seconds: i64| (jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds)).to_string();
        assert_eq!(age(&before(180)), "3 minutes");
        assert_eq!(age(&before(3 * 86_400)), "3 days");
        assert_eq!(age("yesterday"), "an unknown time");
    }
}
