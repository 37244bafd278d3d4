//! A plan on a tree that is not running: files only. What was planned, agreed to and proven on a booted copy is made
//! here step by step, undo first, and nothing is activated. The run stays open until a copy of the result was proven.

use sha2::{Digest as _, Sha256};

use crate::audit;
use crate::change::{Change, Plan, Stage, Step};
use crate::error::{Failure, Result};
use crate::host::Host;
use crate::host::ledger::Ledger;
use crate::host::shelf::Shelf;
use crate::journal::{self, Journal, Record};
use crate::outcome::{Event, Evidence, Exit, Sink};

use super::apply::{at, refuse_unfinished, run_id};
use super::rollback::{self, Machine, Scope, count};
use super::{Outcome, step};

/// Memory of the running system: what a plan puts there is gone before the tree boots.
const VOLATILE: &str = "/run";

/// A plan with what it replaces.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Agreed {
    /// The plan, step contents and all.
    pub plan: Plan,
    /// [`replaced`] when it was made.
    pub replaces: String,
}

/// What a run on a tree works with.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    /// The tree as a host on which nothing runs.
    pub host: &'a dyn Host,
    /// Where journals go, in the tree.
    pub shelf: &'a dyn Shelf,
    /// Where the audit log goes, in the tree.
    pub audit: &'a dyn Ledger,
}

/// Digest of all that the lasting steps of a plan replace, hexadecimal: equal on a tree and on its fresh copy.
pub fn replaced(plan: &Plan, host: &dyn Host) -> String {
    let mut digest = Sha256::new();
    for step in plan.changes.iter().flat_map(lasting) {
        // A file in the home of an account that is yet to be made cannot be looked at, in neither of the two.
        let text = step::undo_of(step, host)
            .and_then(|undo| serde_json::to_string(&undo).map_err(|error| Failure::failed("plan", "").why(error)))
            .unwrap_or_else(|failure| failure.line());
        digest.update(text.len().to_le_bytes());
        digest.update(text);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The steps that leave something in the tree.
fn lasting(change: &Change) -> impl Iterator<Item = &Step> {
    change.steps.iter().filter(|step| match step {
        Step::Put { path, .. } | Step::Remove { path, .. } | Step::Restore { path, .. } => {
            !path.as_path().starts_with(VOLATILE)
        }
        Step::Account { .. } | Step::Run { .. } => true,
    })
}

/// Makes the plans that were agreed to: one, or two when packages came in between. On success the run is pending; on
/// failure all of it was taken back.
pub fn make(tree: Tree<'_>, plans: &[Agreed], sink: &mut dyn Sink) -> Outcome {
    match begin(tree, plans, sink) {
        Ok(outcome) => outcome,
        Err(failure) => super::apply::stopped(failure, sink),
    }
}

fn begin(tree: Tree<'_>, plans: &[Agreed], sink: &mut dyn Sink) -> Result<Outcome> {
    let [first, rest @ ..] = plans else { return Err(Failure::unknown("plan", "there is none")) };
    unmoved(first, tree.host)?;
    let _held = tree.shelf.lock()?;
    refuse_unfinished(tree.shelf)?;
    let now = jiff::Timestamp::now();
    let id = run_id(now, &tree.shelf.runs()?);
    let plan = &first.plan;
    let words = format!("{} ({}), {}", plan.playbook, plan.playbook_digest, count(plan.changes.len(), "change"));
    audit::record(tree.audit, &id, "begin", &words)?;
    let journal = Journal::begin(tree.shelf, &id, &now.to_string(), plan)?;
    sink.event(Event::Started { run: id.clone() });
    match stages(tree, &journal, plan, rest, sink) {
        Ok(changes) => {
            Ok(Outcome { exit: Exit::Pending, verdict: count(changes, "change"), next: String::new(), run: Some(id) })
        }
        Err(failure) => Ok(back(tree, &journal, failure, sink)),
    }
}

/// The number of changes made.
fn stages(tree: Tree<'_>, journal: &Journal<'_>, first: &Plan, rest: &[Agreed], sink: &mut dyn Sink) -> Result<usize> {
    let mut made = stage(tree, journal, first, Stage::Packages, sink)?;
    let mut plan = first;
    for agreed in rest {
        unmoved(agreed, tree.host)?;
        journal.note(&Record::Replanned { plan: Box::new(journal::without_contents(&agreed.plan)) })?;
        plan = &agreed.plan;
    }
    for which in [Stage::Additive, Stage::Subtractive] {
        made += stage(tree, journal, plan, which, sink)?;
    }
    Ok(made)
}

fn unmoved(agreed: &Agreed, host: &dyn Host) -> Result<()> {
    if replaced(&agreed.plan, host) == agreed.replaces {
        return Ok(());
    }
    Err(Failure::refused(&agreed.plan.host, "the tree is not as its copy was when the plan was made")
        .hint("look at the new plan: keyward plan"))
}

fn stage(tree: Tree<'_>, journal: &Journal<'_>, plan: &Plan, stage: Stage, sink: &mut dyn Sink) -> Result<usize> {
    let files_only = |change: &Change| Change { steps: lasting(change).cloned().collect(), ..change.clone() };
    let changes = plan.changes.iter().filter(|change| change.stage == stage).map(files_only);
    let changes: Vec<Change> = changes.filter(|change| !change.steps.is_empty()).collect();
    if changes.is_empty() {
        return Ok(0);
    }
    sink.event(Event::Stage { stage, changes: changes.len() });
    for change in &changes {
        let start = std::time::Instant::now();
        drop(step::make(change, tree.host, journal, Some(stage)).map_err(|failure| at(change, failure))?);
        journal.note(&Record::Done { key: change.key.clone() })?;
        let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        sink.event(Event::Changed { change: change.key.clone(), summary: change.summary.clone(), millis });
    }
    Ok(changes.len())
}

fn back(tree: Tree<'_>, journal: &Journal<'_>, failure: Failure, sink: &mut dyn Sink) -> Outcome {
    let reason = failure.line();
    sink.event(Event::RollingBack { reason: failure });
    // Undo goes on whatever the journal's disk says.
    let _ = journal.write(&Record::RollingBack { reason: reason.clone() });
    let _ = audit::record(tree.audit, journal.run(), "rolling_back", &reason);
    let remains = rollback::unwind(journal, Scope::All, Machine::Down, tree.host, sink);
    let outcome = rollback::finish(journal, &remains, &format!("rolled back: {reason}"), Exit::RolledBack);
    let _ = audit::record(tree.audit, journal.run(), "rolled_back", &outcome.verdict);
    outcome
}

/// How a pending run ends.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settle {
    /// It holds, and this is how it was proven.
    Keep {
        /// As asked, or unverified.
        exit: Exit,
        /// One line.
        verdict: String,
        /// From a booted copy.
        evidence: Vec<Evidence>,
    },
    /// It does not.
    TakeBack(Failure),
}

/// Ends a pending run.
///
/// # Errors
/// When its journal cannot be read or closed; it then stays open.
pub fn settle(tree: Tree<'_>, run: &str, settle: Settle, sink: &mut dyn Sink) -> Result<Outcome> {
    let _held = tree.shelf.lock()?;
    let journal = Journal::reopen(tree.shelf, run)?;
    let (exit, verdict, evidence) = match settle {
        Settle::TakeBack(failure) => return Ok(back(tree, &journal, failure, sink)),
        Settle::Keep { exit, verdict, evidence } => (exit, verdict, evidence),
    };
    for evidence in evidence {
        journal.note(&Record::Evidence { evidence })?;
    }
    audit::record(tree.audit, run, "committed", &verdict)?;
    journal.close(exit, &verdict, &jiff::Timestamp::now().to_string())?;
    Ok(Outcome { exit, verdict, next: format!("keyward show {run}"), run: Some(run.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Action, Inverse, Risk};
    use crate::host::ledger::MemoryLedger;
    use crate::host::memory::{MemoryHost, World};
    use crate::host::shelf::MemoryShelf;
    use crate::host::{Actor, Command, Node, Output, Owner};
    use crate::types::AbsPath;

    const TOOL: &str = "/usr/bin/tool";

    fn put(path: &'static str) -> Step {
        let node = Node::File { content: b"new".to_vec(), mode: 0o644, owner: Owner::Actor };
        Step::Put { path: AbsPath::fixed(path), actor: Actor::Root, node }
    }

    /// Puts a file, runs a program and activates; puts another; touches nothing but the running system.
    fn plan() -> Plan {
        let change = |key: &str, stage| Change::new("x", key, key, stage, Risk::Access);
        let mut open = change("open", Stage::Additive);
        open.steps = vec![put("/etc/f"), put("/run/f")];
        open.steps.push(Step::Run { command: Command::new([TOOL]), inverse: Inverse::Nothing });
        open.activation.forward = vec![Action::Run(Command::new(["/usr/bin/must-not-run"]))];
        open.activation.backward = open.activation.forward.clone();
        let mut start = change("start", Stage::Additive);
        start.activation.forward = open.activation.forward.clone();
        let mut close = change("close", Stage::Subtractive);
        close.steps = vec![put("/etc/g")];
        Plan {
            version: Plan::VERSION,
            host: "h".into(),
            playbook: "p.yml".into(),
            playbook_digest: String::new(),
            observation_digest: String::new(),
            changes: vec![open, start, close],
            notes: Vec::new(),
            deferred: Vec::new(),
            promises: Vec::new(),
            met: Vec::new(),
        }
    }

    fn host() -> MemoryHost {
        let mut world = World::default();
        world.file("/etc/f", "old", 0o600);
        world.dir("/run", 0o755);
        let host = MemoryHost::new(world);
        host.program(TOOL, |_, _| Output { code: 0, stdout: String::new(), stderr: String::new() });
        host
    }

    fn agreed(host: &MemoryHost) -> Vec<Agreed> {
        vec![Agreed { replaces: replaced(&plan(), host), plan: plan() }]
    }

    #[test]
    fn files_only_and_pending_until_settled() {
        let (host, shelf, audit) = (host(), MemoryShelf::default(), MemoryLedger::default());
        let tree = Tree { host: &host, shelf: &shelf, audit: &audit };
        let before = host.snapshot();
        let made = make(tree, &agreed(&host), &mut Vec::new());
        assert_eq!((made.exit, made.verdict.as_str()), (Exit::Pending, "2 changes"), "{made:?}");
        let text = |path| host.edit(|world| world.text(path));
        assert_eq!((text("/etc/f").as_deref(), text("/etc/g").as_deref()), (Some("new"), Some("new")));
        assert_eq!(text("/run/f"), None);
        let run = made.run.unwrap();
        assert!(refuse_unfinished(&shelf).unwrap_err().hint.contains(&run));
        // A second run has to wait, and changes nothing.
        let acts = host.changes();
        assert_eq!(make(tree, &agreed(&host), &mut Vec::new()).exit, Exit::Refused);
        assert_eq!(host.changes(), acts);
        let back = settle(tree, &run, Settle::TakeBack(Failure::failed("proof", "no")), &mut Vec::new()).unwrap();
        assert_eq!((back.exit, host.snapshot()), (Exit::RolledBack, before));
        assert!(refuse_unfinished(&shelf).is_ok());
    }

    #[test]
    fn a_run_that_holds_is_closed_with_its_evidence() {
        let (host, shelf, audit) = (host(), MemoryShelf::default(), MemoryLedger::default());
        let tree = Tree { host: &host, shelf: &shelf, audit: &audit };
        let run = make(tree, &agreed(&host), &mut Vec::new()).run.unwrap();
        let keep = Settle::Keep { exit: Exit::Unverified, verdict: "as far as seen".into(), evidence: Vec::new() };
        assert_eq!(settle(tree, &run, keep, &mut Vec::new()).unwrap().exit, Exit::Unverified);
        let last = journal::read(&shelf, &run).unwrap().pop();
        assert!(matches!(last, Some(Record::Closed { exit: Exit::Unverified, .. })), "{last:?}");
        assert_eq!(host.edit(|world| world.text("/etc/g")).as_deref(), Some("new"));
    }

    #[test]
    fn a_tree_that_moved_is_left_alone() {
        let (host, shelf, audit) = (host(), MemoryShelf::default(), MemoryLedger::default());
        let plans = agreed(&host);
        host.edit(|world| world.file("/etc/f", "other", 0o600));
        let before = host.snapshot();
        let made = make(Tree { host: &host, shelf: &shelf, audit: &audit }, &plans, &mut Vec::new());
        assert_eq!((made.exit, host.snapshot()), (Exit::Refused, before), "{made:?}");
        assert_eq!(shelf.runs().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_failure_at_each_act_is_taken_back() {
        for turn in 1..=3 {
            let (host, shelf, audit) = (host(), MemoryShelf::default(), MemoryLedger::default());
            let (plans, before) = (agreed(&host), host.snapshot());
            host.fail_after(turn);
            let made = make(Tree { host: &host, shelf: &shelf, audit: &audit }, &plans, &mut Vec::new());
            assert_eq!((made.exit, host.snapshot()), (Exit::RolledBack, before), "act {turn}: {made:?}");
            assert!(refuse_unfinished(&shelf).is_ok());
        }
    }
}
