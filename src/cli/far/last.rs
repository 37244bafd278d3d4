//! The last login of an apply that went well: after the old doors were closed somebody of the playbook still gets in from
//! here, and has sudo.

use std::time::Instant;

use crate::change::Stage;
use crate::error::Failure;
use crate::outcome::{Event, Evidence, Exit, Proven, Reach, Sink};
use crate::target::ssh::{Destination, Link};

use super::super::{Ending, terminal};
use super::door::Way;
use super::proof::Proof;

impl Proof<'_> {
    /// Takes note of a change that was made; once the last one that closes is, the last login need not wait for the host's
    /// own last proof.
    pub(super) fn count(&mut self, change: &str) {
        let Some(plan) = &self.plan else { return };
        let closing = || plan.changes.iter().filter(|one| one.stage == Stage::Subtractive);
        if closing().any(|one| one.key == change) {
            self.closed += 1;
            self.all_closed = self.closed == closing().count();
        }
    }

    /// The last login, made while the host is still at its own last proof. One that fails is made again at the end.
    pub(super) fn early(&mut self, sink: &mut dyn Sink) {
        if !std::mem::take(&mut self.all_closed) || !self.confirmed {
            return;
        }
        let Some(way) = self.way.clone() else { return };
        let (evidence, done) = self.try_last(&way);
        if done.is_ok() {
            sink.event(Event::Proof { evidence });
            self.seen_last = true;
        }
    }

    fn try_last(&self, way: &Way) -> (Evidence, Result<(), Failure>) {
        let begun = Instant::now();
        let tried = self.door.through(way).map_err(Failure::from).and_then(|link| self.door.root_is_had(&link));
        let (proven, seen) = match &tried {
            Ok(()) if self.confirmed => {
                (Proven::Yes, "sudo works; the host says that the old doors are closed".to_owned())
            }
            Ok(()) => (Proven::Yes, "sudo works".to_owned()),
            Err(failure) => (Proven::No, failure.line()),
        };
        let what = format!("{}{}", Evidence::LOGIN, way.place);
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        (Evidence { what, proven, reach: Reach::L3, seen, millis }, tried)
    }

    /// The last proof of an apply that went well: one more fresh login, after the old doors were closed. Gives back where
    /// the host is from now on. A host's word alone is no success where ways in were touched and nobody here confirmed.
    pub fn last(&mut self, link: &Link, ending: &mut Ending, sink: &mut dyn Sink) -> Option<Destination> {
        if self.verb != "apply" || ending.exit != Exit::AsAsked {
            return None;
        }
        let by_choice = self.live.is_some_and(|live| live.i_accept_that_this_host_may_lock_me_out);
        let by_hand = self.held.is_empty()
            && self.live.is_some_and(|live| terminal::can_ask() || live.confirm_within.is_some() || live.detach);
        if self.is_risky() && !self.confirmed && !by_choice && !by_hand {
            *ending = self.unverified(ending, "not confirmed from here; the host says: ", "");
            return None;
        }
        let ways = self.ways(link);
        let way = self.way.take().or_else(|| ways.first().cloned())?;
        if self.seen_last {
            return Some(way.place);
        }
        if let Some(way) = ways.iter().find(|way| self.is_this_login(link, way)) {
            let what = format!("{}{}", Evidence::LOGIN, way.place);
            let seen = "this connection, by a key of the playbook; sudo works".to_owned();
            let evidence = Evidence { what, proven: Proven::Yes, reach: Reach::L3, seen, millis: 0 };
            sink.event(Event::Proof { evidence });
            return Some(way.place.clone());
        }
        let (evidence, tried) = self.try_last(&way);
        sink.event(Event::Proof { evidence });
        if tried.is_err() {
            *ending = self.unverified(ending, "", ", but the last login from here failed");
            return None;
        }
        Some(way.place)
    }

    /// True when nothing was changed, and the connection that this came by is the login that is to be shown: as this
    /// administrator, by a key of the playbook, through its port, with sudo.
    fn is_this_login(&self, link: &Link, way: &Way) -> bool {
        let begun = self.started.is_some() || self.armed.is_some() || self.confirmed;
        let unchanged = !begun && self.plan.as_ref().is_some_and(|plan| plan.is_converged());
        let port = way.place.port.unwrap_or(22);
        unchanged
            && way.place.user.as_deref() == Some(link.user())
            && link.peer().is_some_and(|peer| peer.port() == port)
            && way.keys.as_ref().is_some_and(|keys| link.is_by(keys))
    }

    /// The ending of a run whose success this side has not seen.
    fn unverified(&self, ending: &Ending, before: &str, after: &str) -> Ending {
        let run = ending.run.clone();
        let next = run.as_ref().map_or_else(|| "keyward history".to_owned(), |run| format!("keyward show {run}"));
        let verdict = format!("{before}{}{after}", ending.verdict);
        Ending { exit: Exit::Unverified, verdict, next: self.heed.here(&next).unwrap_or_default(), run }
    }
}
