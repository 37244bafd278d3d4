//! What happens when nobody confirmed: the keeper's side, run by a copy of the program that outlives the agent.

use std::time::{Duration, Instant};

use crate::audit;
use crate::error::{Failure, Kind, Result};
use crate::host::Host;
use crate::host::ledger::Ledger;
use crate::host::shelf::{Held, Shelf};
use crate::journal::{Journal, Record};
use crate::outcome::{Exit, Sink};

use super::clock::Now;
use super::{Agent, COMMITTED, DECISION, END, PENDING, Pending, Said, is_closed, record};
use crate::engine::rollback::{self, Machine, Scope, count};

/// How long an undo waits for the agent to let go of the host.
const LET_GO: Duration = Duration::from_secs(30);
/// The agent watches the deadline too; one that still holds the host so long after it hangs.
const STUCK: Duration = Duration::from_secs(4);
/// How long an agent that lives has to begin with the undo itself; past the deadline it cannot commit any more.
const AGENT_FIRST: Duration = Duration::from_secs(2);

/// How a run ended whose agent died between its commit and its last words.
pub(super) const DIED_COMMITTED: &str = "committed; the agent died before it could say so";

/// The deadline of `run` has come: undoes it, unless it was committed. Sleeps when it was called too early.
///
/// # Errors
/// When the run cannot be read or the host stays locked.
pub fn expire(host: &dyn Host, shelf: &dyn Shelf, ledger: &dyn Ledger, run: &str, sink: &mut dyn Sink) -> Result<()> {
    let Some(pending) = record::<Pending>(shelf, run, PENDING)? else {
        return Err(Failure::input(format!("run {run}"), "was never armed"));
    };
    let because = loop {
        // A journal that is damaged does not say that its run is over.
        if is_closed(shelf, run).unwrap_or(false) {
            return Ok(());
        }
        let left = pending.deadline.left_ms(&Now::read(host)?);
        // A cancelled run whose agent is gone need not wait.
        if let Some(said) = record::<Said>(shelf, run, DECISION)?.filter(|said| !said.confirmed) {
            break said.because;
        }
        if left == 0 {
            break "the deadline passed without a confirmation".to_owned();
        }
        std::thread::sleep(Duration::from_millis(left.min(500)));
    };
    undo(host, shelf, ledger, run, &because, Machine::Running, sink)
}

/// After a boot: undoes every run that a reboot cut off, in files only, since nothing runs yet.
///
/// # Errors
/// The first run that could not be undone whole; all are tried.
pub fn recover(host: &dyn Host, shelf: &dyn Shelf, ledger: &dyn Ledger, sink: &mut dyn Sink) -> Result<usize> {
    let (mut undone, mut failed) = (0, None);
    for run in shelf.runs()?.into_iter().rev() {
        if is_closed(shelf, &run).unwrap_or(false) {
            continue;
        }
        match undo(host, shelf, ledger, &run, "the machine rebooted before the run was over", Machine::Down, sink) {
            Ok(()) => undone += 1,
            Err(failure) => failed = Some(failure),
        }
    }
    failed.map_or(Ok(undone), Err)
}

fn undo(
    host: &dyn Host,
    shelf: &dyn Shelf,
    ledger: &dyn Ledger,
    run: &str,
    because: &str,
    machine: Machine,
    sink: &mut dyn Sink,
) -> Result<()> {
    // An agent that lives sees the same and undoes its own work: then its caller learns how it ended. It holds the lock.
    let gone = wait_for_lock(shelf, AGENT_FIRST, None, host).ok();
    // Whoever set it means to undo; if that was the agent and it is still at it, the lock makes us wait. On a full disk
    // it cannot be set, and undoing is right all the same: a commit would have needed the record too.
    let _ = shelf.settle(run, END, because);
    let agent = record::<Pending>(shelf, run, PENDING)?.filter(|pending| pending.unit.is_empty());
    let _held = match gone {
        Some(held) => held,
        None => wait_for_lock(shelf, LET_GO, agent.and_then(|pending| pending.agent), host)?,
    };
    if is_closed(shelf, run).unwrap_or(false) {
        return Ok(());
    }
    let (journal, damage) = Journal::salvage(shelf, run)?;
    if shelf.settled(run, END)?.as_deref() == Some(COMMITTED) {
        let _ = audit::record(ledger, run, "committed", DIED_COMMITTED);
        return journal.close(Exit::AsAsked, DIED_COMMITTED, &now());
    }
    // The undo must not wait for a log that cannot be written.
    let _ = audit::record(ledger, run, "rolling_back", because);
    let _ = journal.write(&Record::RollingBack { reason: because.to_owned() });
    let mut remains = rollback::unwind(&journal, Scope::All, machine, host, sink);
    remains.failures.extend(damage);
    let outcome = rollback::finish(&journal, &remains, &format!("rolled back: {because}"), Exit::RolledBack);
    let _ = audit::record(ledger, run, "rolled_back", &outcome.verdict);
    match remains.failures.len() {
        0 => Ok(()),
        left => Err(Failure::new(Kind::Failed, format!("run {run}"), format!("{} not undone", count(left, "step")))),
    }
}

/// Waits for the host; where nobody else does it, ends an agent that hangs.
fn wait_for_lock(
    shelf: &dyn Shelf,
    limit: Duration,
    mut agent: Option<Agent>,
    host: &dyn Host,
) -> Result<Box<dyn Held>> {
    let begun = Instant::now();
    loop {
        match shelf.lock() {
            Err(failure) if failure.kind == Kind::Busy && begun.elapsed() < limit => {
                if begun.elapsed() > STUCK
                    && let Some(agent) = agent.take()
                {
                    agent.end(host)?;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Plan, Stage};
    use crate::host::memory::{MemoryHost, World};
    use crate::host::shelf::MemoryShelf;
    use crate::host::{Actor, Image, Node, Owner, Probe as _};
    use crate::journal::{self, Undo};
    use crate::types::AbsPath;

    #[test]
    fn what_stands_before_a_damaged_line_is_undone() {
        let plan = serde_json::json!({"version": 1, "host": "", "playbook": "", "playbook_digest": "",
            "observation_digest": "", "changes": [], "notes": [], "deferred": [], "promises": [], "met": []});
        let plan: Plan = serde_json::from_value(plan).unwrap();
        let (shelf, host) = (MemoryShelf::default(), MemoryHost::new(World::default()));
        let journal = Journal::begin(&shelf, "r1", "now", &plan).unwrap();
        let (path, key) = (AbsPath::fixed("/new"), "a:b:c".to_owned());
        let (forward, backward) = (Vec::new(), Vec::new());
        let summary = String::new();
        journal
            .write(&Record::Change { key: key.clone(), summary, stage: Some(Stage::Additive), forward, backward })
            .unwrap();
        let undo =
            Undo::Restore { path: path.clone(), actor: Actor::Root, image: Image::Absent, left: None, marks: None };
        journal.write(&Record::Intent { key: key.clone(), step: 0, undo }).unwrap();
        host.put(&path, &Actor::Root, &Node::File { content: b"x".to_vec(), mode: 0o644, owner: Owner::Actor })
            .unwrap();
        journal.write(&Record::Done { key: key.clone() }).unwrap();
        journal.write(&Record::Done { key }).unwrap();
        let text = shelf.read("r1").unwrap().unwrap();
        let damaged: Vec<&str> = text.lines().enumerate().map(|(at, line)| if at == 3 { "{}" } else { line }).collect();
        shelf.replace("r1", &format!("{}\n", damaged.join("\n"))).unwrap();

        let ledger = crate::host::ledger::MemoryLedger::default();
        assert!(recover(&host, &shelf, &ledger, &mut Vec::new()).is_err(), "it says that something is wrong");
        assert_eq!(host.meta(&path, &Actor::Root).unwrap(), None, "undone");
        assert!(journal::is_degraded(&journal::read(&shelf, "r1").unwrap()));
        assert!(shelf.settled("r1", "damaged").unwrap().is_some());
        // Asking again must not turn what is not known into an undo that was whole.
        let again = || {
            let (audit, machine, later_edits) = (&ledger, Machine::Down, crate::engine::LaterEdits::Respect);
            let (host, shelf, run) = (&host, &shelf, Some("r1"));
            let approve = &mut |_: &str, _: &[String]| true;
            rollback::rollback(
                rollback::Rollback { host, shelf, audit, run, later_edits, machine, approve },
                &mut Vec::new(),
            )
        };
        assert_eq!(again().exit, Exit::Refused);
        assert!(journal::is_degraded(&journal::read(&shelf, "r1").unwrap()));
        Journal::reopen(&shelf, "r1").unwrap().close(Exit::RolledBack, "mended by hand", "now").unwrap();
        assert!(shelf.settled("r1", "damaged").unwrap().is_none(), "it may hold secrets");
    }
}
