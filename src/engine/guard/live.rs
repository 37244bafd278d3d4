//! The agent's side: arms, waits for the decision, settles the end.

use std::time::Duration;

use crate::error::{Failure, Kind, Result};
use crate::host::Host;
use crate::host::shelf::{Settled, Shelf};
use crate::outcome::{Evidence, Proven, Reach};
use crate::resource::Guard;

use super::super::last_resort;
use super::clock::{Deadline, Now};
use super::keeper::Keeper;
use super::{Agent, BY_AGENT, COMMITTED, DECISION, END, OPENED, PENDING, Pending, Said, encode, record};

/// Between two looks for the decision: it is one small file, and a controller waits for what follows.
const PAUSE: Duration = Duration::from_millis(10);

/// What the decision needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A confirmation by a person or a controller (L3, L4).
    Confirmation,
    /// Evidence from another network namespace is enough (L2), as the user asked, since a declared key is known to be
    /// held: how, in words.
    L2(String),
}

/// How a confirmation or a cancel came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// This call decided.
    Made,
    /// It was decided before, the same way.
    Already,
    /// It was decided before, the other way; why.
    Against(String),
    /// The deadline has passed.
    Late,
}

/// How a live run is guarded.
pub struct Terms<'a> {
    /// Who holds the deadline.
    pub keeper: &'a mut dyn Keeper,
    /// What the decision needs.
    pub wanted: Wanted,
    /// Length of the window in milliseconds.
    pub window_ms: u64,
    /// The systemd unit in which this process runs, or empty.
    pub unit: String,
    /// Tells the operator, once armed: what is pending and until when.
    pub announce: &'a mut dyn FnMut(&Pending),
    /// Tells everybody that both doors stand open, also where evidence decides and nobody has to confirm.
    pub tell: &'a mut dyn FnMut(&Pending),
    /// Tells the operator that both doors stand open and a confirmation is awaited; the host's own proof goes on.
    pub opened: &'a mut dyn FnMut(&Pending),
    /// True when the operator wants out (a signal came).
    pub interrupted: &'a dyn Fn() -> bool,
}

/// Guards a live run.
pub struct LiveGuard<'a> {
    host: &'a dyn Host,
    shelf: &'a dyn Shelf,
    terms: Terms<'a>,
    pending: Option<Pending>,
}

impl<'a> LiveGuard<'a> {
    /// A guard that is not armed yet.
    pub fn new(host: &'a dyn Host, shelf: &'a dyn Shelf, terms: Terms<'a>) -> Self {
        Self { host, shelf, terms, pending: None }
    }

    fn is_committed(&self, run: &str) -> bool {
        self.shelf.settled(run, END).is_ok_and(|end| end.as_deref() == Some(COMMITTED))
    }

    fn left_ms(&self) -> Result<u64> {
        let Some(pending) = &self.pending else { return Ok(0) };
        Ok(pending.deadline.left_ms(&Now::read(self.host)?))
    }
}

fn too_late(run: &str) -> Failure {
    Failure::failed(format!("run {run}"), "was not confirmed in time")
}

impl Guard for LiveGuard<'_> {
    fn arm(&mut self, run: &str) -> Result<()> {
        let now = Now::read(self.host)?;
        let deadline = Deadline::after(&now, self.terms.window_ms);
        let (window_ms, unit) = (self.terms.window_ms, self.terms.unit.clone());
        let agent = Agent::this(self.host);
        let pending = Pending { run: run.to_owned(), nonce: nonce(), deadline, window_ms, unit, agent };
        if let Settled::Lost(_) = self.shelf.settle(run, PENDING, &encode(&pending)?)? {
            return Err(Failure::refused(format!("run {run}"), "was armed before"));
        }
        if let Err(failure) = self.terms.keeper.arm(&pending, self.host) {
            // Nothing was changed; a half-armed keeper would find a closed run and leave it alone.
            drop(self.terms.keeper.disarm(&pending, self.host));
            return Err(Failure { kind: Kind::Refused, ..failure });
        }
        (self.terms.announce)(&pending);
        self.pending = Some(pending);
        Ok(())
    }

    fn opened(&mut self, run: &str) -> Result<()> {
        // A session that is to confirm must begin after this moment.
        self.shelf.settle(run, OPENED, &encode(&Now::read(self.host)?)?)?;
        if let Some(pending) = &self.pending {
            if self.confirms() {
                (self.terms.opened)(pending);
            }
            (self.terms.tell)(pending);
        }
        Ok(())
    }

    fn decide(&mut self, run: &str, evidence: &[Evidence]) -> Result<String> {
        // The weakest counts: one administrator's login says nothing about another's.
        let reach = |piece: &Evidence| if piece.proven == Proven::Yes { piece.reach } else { Reach::L0 };
        let reached = evidence.iter().filter(|piece| piece.is_login()).map(reach).min();
        if let Wanted::L2(held) = &self.terms.wanted
            && reached >= Some(Reach::L2)
        {
            let because = format!("every planned way in is open, proven at L2, which was accepted; {held}");
            return match self.shelf.settle(
                run,
                DECISION,
                &encode(&Said { confirmed: true, because: because.clone() })?,
            )? {
                Settled::Won => Ok(because),
                Settled::Lost(text) => said(run, &text),
            };
        }
        // The evidence that was accepted was not reached: somebody has to confirm after all.
        if let (false, Some(pending)) = (self.confirms(), &self.pending) {
            (self.terms.opened)(pending);
        }
        loop {
            if let Some(text) = self.shelf.settled(run, DECISION)? {
                return said(run, &text);
            }
            if self.left_ms()? == 0 {
                return Err(too_late(run));
            }
            if (self.terms.interrupted)() {
                return Err(Failure::failed(format!("run {run}"), "was interrupted at the keyboard"));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn confirms(&self) -> bool {
        self.terms.wanted == Wanted::Confirmation
    }

    fn commit(&mut self, run: &str) -> Result<()> {
        if self.left_ms()? == 0 {
            return Err(too_late(run));
        }
        match self.shelf.settle(run, END, COMMITTED) {
            Ok(Settled::Won) => Ok(()),
            Ok(Settled::Lost(end)) => Err(Failure::failed(format!("run {run}"), end)),
            // It stands, and whoever comes goes by it, although a disk that fails could not make it durable.
            Err(_) if self.is_committed(run) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    fn roll_back(&mut self, run: &str) -> bool {
        // When the record cannot even be written, undoing is still right: the keeper would do the same.
        match self.shelf.settle(run, END, BY_AGENT) {
            Ok(Settled::Lost(end)) => end == BY_AGENT,
            Ok(Settled::Won) => true,
            Err(_) => !self.is_committed(run),
        }
    }

    fn disarm(&mut self, _: &str) -> Result<()> {
        match self.pending.take() {
            Some(pending) if !last_resort::is_open(self.host)? => self.terms.keeper.disarm(&pending, self.host),
            _ => Ok(()),
        }
    }
}

fn said(run: &str, text: &str) -> Result<String> {
    match serde_json::from_str::<Said>(text) {
        Ok(Said { confirmed: true, because }) => Ok(because),
        Ok(Said { because, .. }) => Err(Failure::failed(format!("run {run}"), "was cancelled").why(because)),
        Err(error) => Err(Failure::failed(format!("run {run}"), "its decision cannot be read").why(error)),
    }
}

fn nonce() -> String {
    use std::hash::{BuildHasher as _, Hasher as _};
    format!("{:016x}", std::collections::hash_map::RandomState::new().build_hasher().finish())
}

/// Decides a pending run from another process: `confirmed` true keeps it, false cancels it.
///
/// # Errors
/// When there is no such pending run, the nonce is another one's, or the record cannot be written.
pub fn decide(host: &dyn Host, shelf: &dyn Shelf, run: &str, nonce: Option<&str>, said: &Said) -> Result<Decision> {
    let pending: Pending = record(shelf, run, PENDING)?
        .ok_or_else(|| Failure::refused(format!("run {run}"), "was never armed").hint("see: keyward status"))?;
    if nonce.is_some_and(|nonce| nonce != pending.nonce) {
        return Err(
            Failure::refused(format!("run {run}"), "the nonce belongs to another run").hint("see: keyward status")
        );
    }
    let before: Option<Said> = record(shelf, run, DECISION)?;
    let against = |before: Said| {
        if before.confirmed == said.confirmed { Decision::Already } else { Decision::Against(before.because) }
    };
    if let Some(before) = before {
        return Ok(against(before));
    }
    if let Some(end) = shelf.settled(run, END)? {
        return Ok(Decision::Against(end));
    }
    if said.confirmed && pending.deadline.left_ms(&Now::read(host)?) == 0 {
        return Ok(Decision::Late);
    }
    match shelf.settle(run, DECISION, &encode(said)?)? {
        Settled::Won => Ok(Decision::Made),
        Settled::Lost(_) => match record(shelf, run, DECISION)? {
            Some(before) => Ok(against(before)),
            None => Err(Failure::unknown(format!("run {run}"), "its decision cannot be read")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::guard::WatchKeeper;
    use crate::host::memory::{MemoryHost, World};
    use crate::host::shelf::MemoryShelf;

    /// True when this evidence decides by itself. Otherwise somebody is called, and comes too late.
    fn decides(evidence: &[(&str, Proven, Reach)]) -> bool {
        let mut world = World::default();
        world.file("/proc/uptime", "100.00 1.00\n", 0o444);
        world.file("/proc/sys/kernel/random/boot_id", "b\n", 0o444);
        let (host, shelf) = (MemoryHost::new(world), MemoryShelf::default());
        let mut called = false;
        let terms = Terms {
            keeper: &mut WatchKeeper,
            wanted: Wanted::L2("held".into()),
            window_ms: 1,
            unit: String::new(),
            announce: &mut |_| {},
            tell: &mut |_| {},
            opened: &mut |_| called = true,
            interrupted: &|| false,
        };
        let evidence: Vec<Evidence> = evidence
            .iter()
            .map(|(what, proven, reach)| {
                let (what, seen) = ((*what).to_owned(), String::new());
                Evidence { what, proven: *proven, reach: *reach, seen, millis: 0 }
            })
            .collect();
        let deadline = Deadline { boot: "b".into(), at_ms: 1, wall: String::new() };
        let (unit, nonce) = (String::new(), String::new());
        let mut guard = LiveGuard::new(&host, &shelf, terms);
        guard.pending = Some(Pending { run: "r1".into(), nonce, deadline, window_ms: 1, unit, agent: None });
        guard.opened("r1").unwrap();
        let decides = guard.decide("r1", &evidence).is_ok();
        assert_eq!(called, !decides, "who has to confirm is told so");
        decides
    }

    #[test]
    fn accepted_evidence_covers_every_login() {
        let (deploy, ops) = ("login as deploy, port 22, IPv4", "login as ops, port 22, IPv4");
        assert!(decides(&[(deploy, Proven::Yes, Reach::L2), (ops, Proven::Yes, Reach::L2)]));
        assert!(!decides(&[(deploy, Proven::Yes, Reach::L2), (ops, Proven::Unknown, Reach::L2)]));
        assert!(!decides(&[(deploy, Proven::Yes, Reach::L2), (ops, Proven::Yes, Reach::L1)]));
        assert!(!decides(&[("sshd answers", Proven::Yes, Reach::L2)]));
    }
}
