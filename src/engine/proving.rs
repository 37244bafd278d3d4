//! The proofs of a run: what the prover puts down for them, what it sees, and what of that is good enough.

use crate::change::{Change, Promise, Step};
use crate::error::{Failure, Result};
use crate::facts::Facts;
use crate::journal::Record;
use crate::outcome::{Event, Evidence, Moment, Proven};
use crate::resource::Prover;

use super::apply::{Run, closes_access};
use super::rollback::{self, Machine, Scope};
use super::{limited, step};

impl Run<'_, '_> {
    pub(super) fn prove(&mut self, moment: Moment, promises: &[Promise], closing: bool) -> Result<Vec<Evidence>> {
        if promises.is_empty() {
            return Ok(Vec::new());
        }
        let mut evidence = match self.request.prover.take() {
            None => Vec::new(),
            Some(prover) => {
                let gathered = self.gather(&mut *prover, moment, promises);
                self.request.prover = Some(prover);
                gathered?
            }
        };
        self.limited.extend(limited::mark(&mut evidence, self.request.access, self.request.host));
        for piece in &evidence {
            self.journal.note(&Record::Evidence { evidence: piece.clone() })?;
            self.sink.event(Event::Proof { evidence: piece.clone() });
        }
        self.judge(&evidence, closing)?;
        Ok(evidence)
    }

    fn gather(&mut self, prover: &mut dyn Prover, moment: Moment, promises: &[Promise]) -> Result<Vec<Evidence>> {
        let host = self.request.host;
        if self.scaffold.is_none() {
            let facts = Facts::gather(host)?;
            let changes = prover.scaffold(promises, &facts, host)?;
            for change in &changes {
                drop(step::make(change, host, &self.journal, None)?);
                for action in &change.activation.forward {
                    step::activate(action, host)?;
                }
            }
            self.scaffold = Some(changes);
        }
        let evidence = prover.prove(moment, promises, host);
        // The next proof of this stage comes at once; before anybody is waited for, nothing temporary stays.
        if moment == Moment::WhileClosing && evidence.is_ok() {
            return evidence;
        }
        self.clear().and(evidence)
    }

    /// Takes away what the prover put down where `change` may write.
    pub(super) fn clear_for(&mut self, change: &Change) -> Result<()> {
        match &self.scaffold {
            Some(scaffold) if meddles(change, scaffold) => self.clear(),
            _ => Ok(()),
        }
    }

    /// Takes away what the prover put down.
    fn clear(&mut self) -> Result<()> {
        self.scaffold = None;
        let host = self.request.host;
        let remains = rollback::unwind(&self.journal, Scope::Temporary, Machine::Running, host, self.sink);
        remains.failures.into_iter().next().map_or(Ok(()), Err)
    }

    fn judge(&mut self, evidence: &[Evidence], closing: bool) -> Result<()> {
        if let Some(piece) = evidence.iter().find(|piece| piece.proven == Proven::No) {
            return Err(Failure::failed("proof", &piece.what).why(&piece.seen));
        }
        let unknown = evidence.iter().find(|piece| piece.proven == Proven::Unknown);
        let shown = evidence.iter().any(|piece| piece.proven == Proven::Yes);
        // Who confirms comes from such an address, through the new door.
        let by_somebody = self.request.guard.confirms() && !self.limited.is_empty();
        let open =
            |piece: &&Evidence| piece.proven == Proven::Unknown && !(by_somebody && self.limited.contains(&piece.what));
        let left = evidence.iter().find(open);
        if closing && (left.is_some() || !(shown || by_somebody)) {
            let why =
                left.map_or_else(|| "nothing was tried".to_owned(), |piece| format!("{}: {}", piece.what, piece.seen));
            return Err(Failure::failed("proof", "the new way in could not be shown, so the old one stays").why(why));
        }
        self.unverified |= unknown.is_some() || !shown;
        Ok(())
    }

    /// Once doors were closed, an administrator's login that cannot be told is no reason to keep them closed, but for
    /// one that this host cannot make, and somebody made it to confirm.
    pub(super) fn still_let_in(&self, evidence: &[Evidence], changes: &[Change]) -> Result<()> {
        let excused = |piece: &Evidence| self.request.guard.confirms() && self.limited.contains(&piece.what);
        let lost = evidence.iter().find(|piece| piece.is_login() && piece.proven != Proven::Yes && !excused(piece));
        match lost.filter(|_| closes_access(changes)) {
            None => Ok(()),
            Some(piece) => Err(Failure::failed("proof", &piece.what).why(&piece.seen)),
        }
    }
}

/// True when `change` may write where the scaffold of a proof stands: what is put back later must be what stands there then.
fn meddles(change: &Change, scaffold: &[Change]) -> bool {
    let path = |step: &Step| match step {
        Step::Put { path, .. } | Step::Remove { path, .. } | Step::Restore { path, .. } => Some(path.clone()),
        Step::Account { .. } | Step::Run { .. } => None,
    };
    let steps = |changes: &[Change]| changes.iter().flat_map(|one| one.steps.iter().map(path)).collect::<Vec<_>>();
    let stands = steps(scaffold);
    steps(std::slice::from_ref(change)).iter().any(|written| match written {
        None => true,
        Some(written) => stands.iter().any(|one| {
            one.as_ref().is_none_or(|one| one == written || one.is_within(written) || written.is_within(one))
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Risk, Stage};
    use crate::host::Actor;
    use crate::types::AbsPath;

    #[test]
    fn a_scaffold_goes_before_a_change_that_writes_where_it_stands() {
        let change = |step: Option<Step>| {
            let mut change = Change::new("r", "k", "s", Stage::Subtractive, Risk::Access);
            change.steps.extend(step);
            change
        };
        let remove = |path: &'static str| Some(Step::Remove { path: AbsPath::fixed(path), actor: Actor::Root });
        let scaffold = [change(remove("/home/ops/.ssh/authorized_keys"))];
        for (step, meddling) in [
            (None, false),
            (remove("/etc/ssh/sshd_config"), false),
            (remove("/home/ops/.sshd"), false),
            (remove("/home/ops/.ssh/authorized_keys"), true),
            (remove("/home/ops/.ssh"), true),
            (remove("/home/ops/.ssh/authorized_keys/x"), true),
            (Some(Step::Account { edits: Vec::new() }), true),
        ] {
            assert_eq!(meddles(&change(step.clone()), &scaffold), meddling, "{step:?}");
        }
    }
}
