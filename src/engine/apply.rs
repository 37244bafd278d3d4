//! The transaction on one host: gates, additive changes, proof, the decision, subtractive changes, proof again.
//! Anything that fails on the way is rolled back from the journal.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Instant;

use jiff::ToSpan as _;
use jiff::civil::DateTime;

use crate::audit;
use crate::change::{Action, Change, Note, Plan, Promise, Risk, Stage};
use crate::error::{Failure, Result};
use crate::facts::{Doors, Facts};
use crate::host::Host;
use crate::host::ledger::Ledger;
use crate::host::shelf::{Held, Shelf};
use crate::journal::{self, Journal, Record};
use crate::outcome::{Event, Exit, Moment, Sink};
use crate::resource::{AccessCheck, Guard, Prover, Task};

use super::rollback::{self, Machine, Scope, count};
use super::{About, Outcome, gate, look, step};

/// Whether a host that is as wanted is still proven by real logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prove {
    /// Only what a change calls for.
    Changes,
    /// Always.
    Always,
}

/// What `apply` needs.
pub struct Apply<'a> {
    /// The host.
    pub host: &'a dyn Host,
    /// Where journals go.
    pub shelf: &'a dyn Shelf,
    /// Where the audit log goes.
    pub audit: &'a dyn Ledger,
    /// In registry order.
    pub tasks: &'a [Box<dyn Task>],
    /// Which playbook.
    pub about: &'a About,
    /// As gathered for the plan.
    pub facts: &'a Facts,
    /// As shown to the user.
    pub plan: Plan,
    /// The host's lock, where the plan was made under it; otherwise it is taken, and the plan made again.
    pub held: Option<Box<dyn Held>>,
    /// Judges who can get in.
    pub access: &'a dyn AccessCheck,
    /// Shows that promises hold; without one the result is unverified.
    pub prover: Option<&'a mut dyn Prover>,
    /// When logins are made.
    pub prove: Prove,
    /// Keeps the way back open.
    pub guard: &'a mut dyn Guard,
    /// Shown the plan that only becomes known once packages are installed; false declines.
    pub approve: &'a mut dyn FnMut(&Plan) -> bool,
}

pub(super) struct Run<'a, 'b> {
    pub(super) request: Apply<'a>,
    pub(super) journal: Journal<'a>,
    pub(super) sink: &'b mut dyn Sink,
    /// Something could not be told for sure.
    pub(super) unverified: bool,
    /// Logins that this host cannot make, since they count from some addresses only.
    pub(super) limited: BTreeSet<String>,
    /// What the prover put down for its logins, while it stands.
    pub(super) scaffold: Option<Vec<Change>>,
}

/// Applies a plan that was shown.
pub fn apply(mut request: Apply<'_>, sink: &mut dyn Sink) -> Outcome {
    let held = request.held.take();
    match prepare(&request, held, sink) {
        Err(failure) => stopped(failure, sink),
        Ok(None) => Outcome {
            exit: Exit::AsAsked,
            verdict: "nothing to do: the host is as the playbook says".to_owned(),
            next: String::new(),
            run: None,
        },
        Ok(Some(held)) => {
            let outcome = transaction(request, sink);
            drop(held);
            outcome
        }
    }
}

pub(super) fn stopped(failure: Failure, sink: &mut dyn Sink) -> Outcome {
    let exit = Exit::before_any_change(failure.kind);
    let verdict = format!("nothing was changed: {}", failure.line());
    let next = failure.hint.clone();
    sink.event(Event::Failed { failure });
    Outcome { exit, verdict, next, run: None }
}

/// Everything that can be refused before the first change.
fn prepare(request: &Apply<'_>, held: Option<Box<dyn Held>>, sink: &mut dyn Sink) -> Result<Option<Box<dyn Held>>> {
    let fresh = held.is_some();
    let held = held.map_or_else(|| super::guard::lock(request.shelf), Ok)?;
    refuse_unfinished(request.shelf)?;
    if !fresh {
        let (_, now) = plan_again(request)?;
        if now.observation_digest != request.plan.observation_digest {
            return Err(Failure::refused(now.host, "the host changed since the plan was made")
                .hint("look at the new plan: keyward plan"));
        }
    }
    if request.plan.is_converged() && request.prove == Prove::Changes {
        return Ok(None);
    }
    if request.prover.is_none() && closes_access(&request.plan.changes) {
        return Err(Failure::refused("proof", "the plan closes ways in and nothing here can prove the new one first"));
    }
    gate::pass_all(&request.plan.changes, request.host, sink)?;
    Ok(Some(held))
}

/// A run that was cut off has to be undone before the next.
///
/// # Errors
/// Refused, naming the run and the command; unknown when a journal cannot be read.
pub fn refuse_unfinished(shelf: &dyn Shelf) -> Result<()> {
    for run in shelf.runs()? {
        let records = journal::read(shelf, &run)?;
        if journal::is_degraded(&records) {
            return Err(Failure::refused(format!("run {run}"), "could not be undone whole")
                .why("what it left is not what a plan may build on")
                .hint(format!("try again: keyward rollback {run}; mended by hand: keyward acknowledge {run}")));
        }
        if !journal::is_over(&records) {
            return Err(Failure::refused(format!("run {run}"), "was cut off and never ended")
                .hint(format!("undo what it did first: keyward rollback {run}")));
        }
    }
    Ok(())
}

fn plan_again(request: &Apply<'_>) -> Result<(Facts, Plan)> {
    look(request.tasks, request.about, request.host, request.access)
        .map_err(|failures| failures.into_iter().next().unwrap_or_else(|| Failure::unknown("plan", "cannot be made")))
}

/// What opens or closes a way in is decided on evidence, and so is whatever closes anything.
fn needs_decision(changes: &[Change]) -> bool {
    changes.iter().any(|change| change.stage == Stage::Subtractive || change.risk == Risk::Access)
}

pub(super) fn closes_access(changes: &[Change]) -> bool {
    changes.iter().any(|change| change.stage == Stage::Subtractive && change.risk == Risk::Access)
}

fn millis(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// `YYYYMMDD-HHMMSS-xxxx`, in UTC: sorts by time, plain in a path and on a command line. Above all that are there, since
/// the newest run is found by name: after a clock was set back, and for a second run in one second, it goes on from those.
pub(super) fn run_id(now: jiff::Timestamp, earlier: &[String]) -> String {
    let began = |run: &String| DateTime::strptime("%Y%m%d-%H%M%S", run.get(..15)?).ok();
    let now = now.to_zoned(jiff::tz::TimeZone::UTC).datetime();
    let after_all = earlier.iter().filter_map(began).max().and_then(|newest| newest.checked_add(1.second()).ok());
    let at = after_all.map_or(now, |after_all| now.max(after_all));
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish() & 0xffff;
    format!("{}-{random:04x}", at.strftime("%Y%m%d-%H%M%S"))
}

fn transaction(request: Apply<'_>, sink: &mut dyn Sink) -> Outcome {
    let now = jiff::Timestamp::now();
    let id = match request.shelf.runs() {
        Ok(earlier) => run_id(now, &earlier),
        Err(failure) => return stopped(failure, sink),
    };
    let words = format!(
        "{} ({}), {}",
        request.about.playbook,
        request.about.digest,
        count(request.plan.changes.len(), "change")
    );
    if let Err(failure) = audit::record(request.audit, &id, "begin", &words) {
        return stopped(failure, sink);
    }
    let journal = match Journal::begin(request.shelf, &id, &now.to_string(), &request.plan) {
        Ok(journal) => journal,
        Err(failure) => return stopped(failure, sink),
    };
    sink.event(Event::Started { run: journal.run().to_owned() });
    let mut run = Run { request, journal, sink, unverified: false, limited: BTreeSet::new(), scaffold: None };
    match run.stages() {
        Ok(changes) => run.committed(changes),
        Err(failure) => run.rolled_back(failure),
    }
}

impl Run<'_, '_> {
    /// The number of changes made.
    fn stages(&mut self) -> Result<usize> {
        let mut plan = self.request.plan.clone();
        let mut made = self.stage(&plan.changes, Stage::Packages)?;
        if made > 0 {
            plan = self.plan_after_packages()?;
        }
        if !plan.changes.is_empty() {
            if let Some(doors) = Doors::look(self.request.facts, self.request.host)? {
                self.journal.note(&Record::Doors { doors })?;
            }
            self.request.guard.arm(self.journal.run())?;
        }
        made += self.stage(&plan.changes, Stage::Additive)?;
        if needs_decision(&plan.changes) {
            self.request.guard.opened(self.journal.run())?;
            let evidence = self.prove(Moment::BeforeClosing, &plan.promises, closes_access(&plan.changes))?;
            let because = self.request.guard.decide(self.journal.run(), &evidence)?;
            audit::record(self.request.audit, self.journal.run(), "decided", &because)?;
            self.journal.write(&Record::Decided { because: because.clone() })?;
            self.sink.event(Event::Decided { because });
            made += self.closing(&plan)?;
        }
        let evidence = self.prove(Moment::Final, &plan.promises, false)?;
        self.still_let_in(&evidence, &plan.changes)?;
        self.settled()?;
        if made > 0 {
            self.request.guard.commit(self.journal.run())?;
        }
        Ok(made)
    }

    fn plan_after_packages(&mut self) -> Result<Plan> {
        let (_, plan) = plan_again(&self.request)?;
        if let Some((task, on)) = plan.deferred.first() {
            return Err(Failure::failed(task, format!("still waits for {on}, which should be installed now")));
        }
        let shown = Box::new(journal::without_contents(&plan));
        self.journal.note(&Record::Replanned { plan: shown.clone() })?;
        self.sink.event(Event::Planned { plan: shown });
        if !(self.request.approve)(&plan) {
            return Err(Failure::refused("plan", "declined; only the packages were installed"));
        }
        gate::pass_all(&plan.changes, self.request.host, self.sink)?;
        Ok(plan)
    }

    fn stage(&mut self, changes: &[Change], stage: Stage) -> Result<usize> {
        let changes: Vec<&Change> = changes.iter().filter(|change| change.stage == stage).collect();
        if changes.is_empty() {
            return Ok(0);
        }
        self.sink.event(Event::Stage { stage, changes: changes.len() });
        for (at, change) in changes.iter().enumerate() {
            let later = changes.get(at + 1..).unwrap_or_default();
            self.change(change, later)?;
        }
        Ok(changes.len())
    }

    /// The subtractive changes. After each that touches ways in the administrators log in again, so that the one that shuts
    /// them out is the last that was made; what follows the last is the final proof.
    fn closing(&mut self, plan: &Plan) -> Result<usize> {
        let changes: Vec<&Change> = plan.changes.iter().filter(|change| change.stage == Stage::Subtractive).collect();
        if changes.is_empty() {
            return Ok(0);
        }
        self.sink.event(Event::Stage { stage: Stage::Subtractive, changes: changes.len() });
        let somebody = plan.promises.iter().any(|promise| matches!(promise, Promise::Admin { .. }));
        for (at, change) in changes.iter().enumerate() {
            self.clear_for(change)?;
            self.change(change, &[])?;
            let more = changes.get(at + 1..).unwrap_or_default().iter().any(|next| next.risk == Risk::Access);
            if somebody && more && change.risk == Risk::Access {
                self.prove(Moment::WhileClosing, &plan.promises, true)?;
            }
        }
        Ok(changes.len())
    }

    fn change(&mut self, change: &Change, later: &[&Change]) -> Result<()> {
        let start = Instant::now();
        let host = self.request.host;
        let told =
            step::make(change, host, &self.journal, Some(change.stage)).map_err(|failure| at(change, failure))?;
        if let Some(text) = told {
            self.sink.event(Event::Note { note: Note::warning(&change.resource, text) });
        }
        // What opens may be activated once for several changes; what closes is given no later ones.
        let again = |action: &Action| later.iter().any(|next| next.activation.forward.contains(action));
        for action in change.activation.forward.iter().filter(|action| !again(action)) {
            match step::activate(action, host) {
                Err(failure) if matches!(action, Action::KeepSessions { .. }) => {
                    let text = format!("older sessions that say nothing meanwhile may be cut off: {}", failure.line());
                    self.sink.event(Event::Note { note: Note::warning(&change.resource, text) });
                }
                done => done.map_err(|failure| at(change, failure))?,
            }
        }
        self.journal.note(&Record::Done { key: change.key.clone() })?;
        let (key, summary) = (change.key.clone(), change.summary.clone());
        self.sink.event(Event::Changed { change: key, summary, millis: millis(start) });
        Ok(())
    }

    /// Assesses again: nothing may be left to do.
    fn settled(&mut self) -> Result<()> {
        let (_, plan) = plan_again(&self.request)?;
        let Some(left) = plan.changes.first() else { return Ok(()) };
        let why = left.differences.first().map_or_else(
            || left.summary.clone(),
            |difference| format!("{} is {}, wanted {}", difference.path, difference.have, difference.want),
        );
        Err(Failure::failed(&left.key, "was applied and does not hold").why(why))
    }

    fn committed(mut self, changes: usize) -> Outcome {
        let (exit, verdict) = if self.unverified {
            (Exit::Unverified, format!("applied {}, but not everything could be proven", count(changes, "change")))
        } else {
            let done =
                if changes == 0 { "nothing to do".to_owned() } else { format!("applied {}", count(changes, "change")) };
            (Exit::AsAsked, format!("{done}, and the host proves it"))
        };
        let run = self.journal.run().to_owned();
        if let Err(failure) = self.journal.close(exit, &verdict, &jiff::Timestamp::now().to_string()) {
            // Everything holds and is proven; only the record's last line is missing, and the next run says so.
            self.sink.event(Event::Failed { failure });
        }
        if let Err(failure) = audit::record(self.request.audit, &run, "committed", &verdict) {
            self.sink.event(Event::Failed { failure });
        }
        self.disarm();
        Outcome { exit, verdict, next: format!("keyward show {run}"), run: Some(run) }
    }

    /// What the guard put down goes; what stays of it is told, and removed by the next run's guard.
    fn disarm(&mut self) {
        if let Err(failure) = self.request.guard.disarm(self.journal.run()) {
            self.sink.event(Event::Failed { failure });
        }
    }

    fn rolled_back(mut self, failure: Failure) -> Outcome {
        if !self.request.guard.roll_back(self.journal.run()) {
            let run = self.journal.run().to_owned();
            let verdict = format!("run {run} is being rolled back by its guard: {}", failure.line());
            return Outcome { exit: Exit::Pending, verdict, next: "keyward status".to_owned(), run: Some(run) };
        }
        let (reason, kind) = (failure.line(), failure.kind);
        self.sink.event(Event::RollingBack { reason: failure });
        // Undo goes on whatever the journal's disk says.
        let _ = self.journal.write(&Record::RollingBack { reason: reason.clone() });
        let _ = audit::record(self.request.audit, self.journal.run(), "rolling_back", &reason);
        let remains = rollback::unwind(&self.journal, Scope::All, Machine::Running, self.request.host, self.sink);
        let acted = self.journal.records().iter().any(|record| matches!(record, Record::Change { .. }));
        // Packages stay installed, so "nothing changed" would be a lie.
        let whole = if acted { Exit::RolledBack } else { Exit::before_any_change(kind) };
        let done = if acted { format!("rolled back: {reason}") } else { format!("nothing was changed: {reason}") };
        let outcome = rollback::finish(&self.journal, &remains, &done, whole);
        let _ = audit::record(self.request.audit, self.journal.run(), "rolled_back", &outcome.verdict);
        self.disarm();
        outcome
    }
}

pub(super) fn at(change: &Change, mut failure: Failure) -> Failure {
    failure.place =
        if failure.place.is_empty() { change.key.clone() } else { format!("{}: {}", change.key, failure.place) };
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_the_newest_whatever_the_clock_says() {
        let now: jiff::Timestamp = "2026-11-27T07:00:00Z".parse().unwrap();
        assert!(run_id(now, &[]).starts_with("20261127-070000-"));
        let earlier = ["20261127-065959-ffff", "20251127-070000-ffff"].map(str::to_owned);
        assert!(run_id(now, &earlier).starts_with("20261127-070000-"), "the clock goes on");
        for newest in ["20261127-070000-ffff", "20261231-235959-ffff", "20990228-120000-0000"] {
            let mut runs = vec!["20200101-000000-0000".to_owned(), newest.to_owned(), "notes".to_owned()];
            for _ in 0..3 {
                runs.sort();
                let next = run_id(now, &runs);
                assert!(runs.iter().filter(|run| *run != "notes").all(|run| next > *run), "{next} after {newest}");
                assert!(next.len() == newest.len() && next.split('-').count() == 3, "{next}");
                runs.push(next);
            }
        }
    }
}
