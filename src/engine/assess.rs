//! From tasks to one ordered plan. Reads the host, changes nothing.

use sha2::{Digest as _, Sha256};

use crate::change::{Change, Claim, Plan, Stage};
use crate::error::{Failure, Kind};
use crate::facts::Facts;
use crate::host::Probe;
use crate::resource::{AccessCheck, Task};

/// Which playbook a plan comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// As the user named it.
    pub playbook: String,
    /// SHA-256 of it and all it loaded, hexadecimal.
    pub digest: String,
}

/// Looks at the host once: its facts, and the plan that follows. Answers of programs are fetched side by side.
///
/// # Errors
/// As [`Facts::gather`] and [`assess`].
pub fn look(
    tasks: &[Box<dyn Task>],
    about: &About,
    probe: &dyn Probe,
    access: &dyn AccessCheck,
) -> Result<(Facts, Plan), Vec<Failure>> {
    probe.end_look();
    probe.look_ahead(&[]);
    // Each task's programs start before the next task looks for its own.
    for task in tasks {
        probe.look_ahead(&task.questions(probe));
    }
    for user in tasks.iter().filter_map(|task| task.looks_as(probe)) {
        probe.expect(&user);
    }
    probe.look_ahead(&Facts::questions(probe));
    let found = Facts::gather(probe)
        .map_err(|failure| vec![failure])
        .and_then(|facts| assess(tasks, about, &facts, probe, access).map(|plan| (facts, plan)));
    probe.end_look();
    found
}

/// Makes the plan: every task observed, changes in the order of the safety rules.
///
/// Packages first; then additive changes in registry order (the caller gives tasks in that order); then subtractive
/// ones in the reverse of it, so that what was built last is closed first.
///
/// # Errors
/// Every failure of every task; the worst kind decides the exit code.
pub fn assess(
    tasks: &[Box<dyn Task>],
    about: &About,
    facts: &Facts,
    probe: &dyn Probe,
    access: &dyn AccessCheck,
) -> Result<Plan, Vec<Failure>> {
    let mut plan = Plan {
        version: Plan::VERSION,
        host: facts.hostname.clone(),
        playbook: about.playbook.clone(),
        playbook_digest: about.digest.clone(),
        observation_digest: String::new(),
        changes: Vec::new(),
        notes: Vec::new(),
        deferred: Vec::new(),
        promises: Vec::new(),
        met: Vec::new(),
    };
    let mut failures = unclaimed_twice(tasks);
    for task in tasks {
        match task.assess(facts, probe) {
            Ok(planned) => {
                match planned.deferred {
                    Some(on) => plan.deferred.push((task.resource().to_owned(), on)),
                    None if planned.changes.is_empty() => count_met(&mut plan.met, task.resource()),
                    None => {}
                }
                plan.changes.extend(planned.changes);
                plan.notes.extend(planned.notes);
                plan.promises.extend(planned.promises);
            }
            Err(failure) => failures.push(failure),
        }
    }
    if failures.is_empty() {
        order(&mut plan.changes);
        match access.check(&plan.promises, &plan.changes, facts, probe) {
            Ok(notes) => plan.notes.extend(notes),
            Err(failure) => failures.push(failure),
        }
    }
    if !failures.is_empty() {
        return Err(worst_first(failures));
    }
    plan.observation_digest = digest(&plan.changes).map_err(|failure| vec![failure])?;
    Ok(plan)
}

fn count_met(met: &mut Vec<(String, usize)>, resource: &str) {
    match met.iter_mut().find(|(name, _)| name == resource) {
        Some((_, count)) => *count += 1,
        None => met.push((resource.to_owned(), 1)),
    }
}

/// Unknown outranks refused outranks the rest: what cannot be seen cannot be refused on good grounds either.
fn worst_first(mut failures: Vec<Failure>) -> Vec<Failure> {
    failures.sort_by_key(|failure| match failure.kind {
        Kind::Input => 0,
        Kind::Busy => 1,
        Kind::Unknown => 2,
        Kind::Refused => 3,
        Kind::Failed => 4,
    });
    failures
}

fn unclaimed_twice(tasks: &[Box<dyn Task>]) -> Vec<Failure> {
    let mut owners: Vec<(Claim, &'static str)> = Vec::new();
    let mut failures = Vec::new();
    for task in tasks {
        for claim in task.claims() {
            match owners.iter().find(|(owned, _)| *owned == claim) {
                Some((_, other)) => failures.push(
                    Failure::input(task.resource(), format!("claims {claim:?}, which {other} claims too"))
                        .hint("describe each object once in the playbook"),
                ),
                None => owners.push((claim, task.resource())),
            }
        }
    }
    failures
}

fn order(changes: &mut Vec<Change>) {
    let (mut closing, mut opening): (Vec<Change>, Vec<Change>) =
        changes.drain(..).partition(|change| change.stage == Stage::Subtractive);
    opening.sort_by_key(|change| change.stage);
    closing = in_reverse_by_task(closing);
    changes.append(&mut opening);
    changes.append(&mut closing);
}

/// Reverses the order of resources, but keeps the order of the changes of one resource.
fn in_reverse_by_task(changes: Vec<Change>) -> Vec<Change> {
    let mut groups: Vec<Vec<Change>> = Vec::new();
    for change in changes {
        match groups.last_mut() {
            Some(group) if group.first().is_some_and(|first| first.resource == change.resource) => group.push(change),
            _ => groups.push(vec![change]),
        }
    }
    groups.into_iter().rev().flatten().collect()
}

fn digest(changes: &[Change]) -> crate::error::Result<String> {
    let text = serde_json::to_vec(changes).map_err(|error| Failure::failed("plan", "cannot be encoded").why(error))?;
    Ok(Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect())
}
