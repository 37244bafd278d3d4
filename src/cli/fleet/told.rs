//! What came of one host, gathered from what was said.

use std::time::Instant;

use crate::change::{Plan, Stage};
use crate::error::Failure;
use crate::fleet::schedule::{End, Verdict};
use crate::fleet::table::Row;
use crate::outcome::{Event, Exit, Proven, Reach};
use crate::target::ssh::{Setback, Trouble};

use super::super::Ending;
use super::super::far::Wish;

/// After sshd said that it lets nobody in for a while.
const PENALTY_MS: u64 = 60_000;
/// After it had no place for another login, or hung up before it said anything.
const CROWD_MS: u64 = 3_000;

/// What is known of one host.
#[derive(Debug, Default)]
pub struct Told {
    /// The run there, once it has begun.
    pub run: Option<String>,
    /// How many changes were made.
    pub changes: usize,
    /// How many were taken back.
    undone: usize,
    /// How far the proof of a login reached.
    pub reach: Option<Reach>,
    /// The last plan, where it is shown or held on to.
    pub plan: Option<Box<Plan>>,
    /// What went wrong first.
    pub why: Option<String>,
    /// How it ended.
    pub end: Option<Over>,
    /// When it was started.
    pub began: Option<Instant>,
    /// When it was heard of last.
    pub heard: Option<Instant>,
    /// How long it took.
    pub millis: u64,
    /// What it is at, for who watches.
    pub phase: &'static str,
}

/// How it ended.
#[derive(Debug, Clone)]
pub struct Over {
    /// How.
    pub verdict: Verdict,
    /// The code that the verb ended with there; `None` when it was not done.
    pub exit: Option<Exit>,
    /// One line.
    pub text: String,
    /// What to type next, or empty.
    pub next: String,
}

impl Told {
    /// Started, once more perhaps.
    pub fn start(&mut self) {
        let now = Some(Instant::now());
        *self = Self { began: now, heard: now, phase: "connecting", ..Self::default() };
    }

    /// Takes note of an event.
    pub fn hear(&mut self, event: &Event) {
        self.heard = Some(Instant::now());
        match event {
            Event::Planned { plan } => {
                self.plan = Some(plan.clone());
                self.phase = "planned";
            }
            Event::Started { run } | Event::Armed { run, .. } => {
                self.run = Some(run.clone());
                self.phase = "armed";
            }
            Event::Stage { stage, .. } => {
                self.phase = match stage {
                    Stage::Packages => "installing",
                    Stage::Additive => "opening",
                    Stage::Subtractive => "closing",
                };
            }
            Event::Changed { .. } => self.changes += 1,
            Event::Opened { .. } => self.phase = "proving",
            Event::Decided { .. } => self.phase = "closing",
            Event::RollingBack { reason } => {
                self.phase = "rolling back";
                self.changes = 0;
                self.why.get_or_insert_with(|| reason.line());
            }
            Event::Undone { failure: None, .. } => self.undone += 1,
            Event::Failed { failure } => {
                self.why.get_or_insert_with(|| failure.line());
            }
            Event::Proof { evidence } if evidence.proven == Proven::Yes && evidence.is_login() => {
                self.reach = self.reach.max(Some(evidence.reach));
            }
            _ => {}
        }
    }

    /// Takes its end; gives back what the schedule is told.
    ///
    /// `looks`: the verb changes nothing. `is_asked` and `is_heeded`: it was to be interrupted, and was.
    pub fn finish(&mut self, ended: Result<Ending, Setback>, looks: bool, wish: &Wish) -> End {
        self.millis = self.began.map_or(0, |began| u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        match ended {
            Ok(ending) => {
                // A rollback that ended well.
                if ending.exit == Exit::AsAsked && self.changes == 0 {
                    self.changes = self.undone;
                }
                let verdict = match Verdict::of(ending.exit, self.changes) {
                    // A plan tells what differs; that it was told is what was asked for.
                    Verdict::Unknown if looks && ending.exit == Exit::Differs => Verdict::Done,
                    Verdict::Unchanged if looks && self.plan.is_none() => Verdict::Done,
                    verdict => verdict,
                };
                let heeded = matches!(verdict, Verdict::RolledBack | Verdict::Refused) && wish.is_heeded();
                let text =
                    if ending.verdict.is_empty() { self.why.clone().unwrap_or_default() } else { ending.verdict };
                self.run = ending.run.or(self.run.take());
                self.end = Some(Over { verdict, exit: Some(ending.exit), text, next: ending.next });
                if heeded { End::Cancelled(verdict) } else { End::Is(verdict) }
            }
            Err(setback) => {
                let Setback { trouble, failure } = setback;
                let again = match trouble {
                    Trouble::Banned => Some(PENALTY_MS),
                    Trouble::Crowded | Trouble::Reset { before_banner: true } => Some(CROWD_MS),
                    _ => None,
                };
                let verdict = unreached(&trouble, &failure);
                let heeded = match verdict {
                    // Whatever kept it from being reached, nobody wanted it any more; an unknown end stays one.
                    Verdict::Unreachable => wish.is_asked(),
                    Verdict::Refused => wish.is_heeded() && trouble == Trouble::Local,
                    Verdict::Unknown => wish.is_heeded() && looks,
                    _ => false,
                };
                self.end = Some(Over { verdict, exit: None, text: failure.line(), next: failure.hint.clone() });
                match again.filter(|_| !wish.is_asked()) {
                    Some(after_ms) => End::Again { after_ms },
                    None if heeded => End::Cancelled(verdict),
                    None => End::Is(verdict),
                }
            }
        }
    }

    /// Its line of the table.
    pub fn row(&self, name: &str) -> Row {
        let end = self.end.as_ref();
        Row {
            host: name.to_owned(),
            verdict: end.map(|end| end.verdict),
            exit: end.and_then(|end| end.exit),
            reach: self.reach,
            changes: match (&self.plan, end.and_then(|end| end.exit)) {
                (Some(plan), Some(Exit::Differs)) => plan.changes.len(),
                _ => self.changes,
            },
            millis: self.millis,
            run: self.run.clone(),
            text: end.map(|end| end.text.clone()).unwrap_or_default(),
            why: self.why.clone(),
            next: end.map(|end| end.next.clone()).unwrap_or_default(),
        }
    }
}

/// A host that shut us out was reached, and refused; one that cannot be reached is another matter.
fn unreached(trouble: &Trouble, failure: &Failure) -> Verdict {
    match trouble {
        Trouble::Local => Verdict::of(Exit::before_any_change(failure.kind), 0),
        Trouble::Credentials { .. }
        | Trouble::HostKeyUnknown { .. }
        | Trouble::HostKeyChanged { .. }
        | Trouble::HostKeyRevoked { .. }
        | Trouble::NoCommonAlgorithm => Verdict::Refused,
        _ => Verdict::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(exit: Exit) -> Result<Ending, Setback> {
        Ok(Ending::new(exit, "", ""))
    }

    fn setback(trouble: Trouble) -> Result<Ending, Setback> {
        Err(Setback { trouble, failure: Box::new(Failure::unknown("host", "gone")) })
    }

    fn finish(ended: Result<Ending, Setback>, looks: bool, wish: &Wish) -> End {
        Told { changes: 1, ..Told::default() }.finish(ended, looks, wish)
    }

    #[test]
    fn only_what_was_interrupted_counts_as_cancelled() {
        let (calm, asked) = (Wish::default(), Wish::default());
        asked.ask();
        let is = |verdict| End::Is(verdict);
        // It failed by itself in the same moment.
        assert_eq!(finish(ended(Exit::RolledBack), false, &asked), is(Verdict::RolledBack));
        let heeded = std::sync::Arc::new(Wish::default());
        heeded.ask();
        assert!(super::super::super::far::Interrupt::Flag(heeded.clone()).taken());
        assert_eq!(finish(ended(Exit::RolledBack), false, &heeded), End::Cancelled(Verdict::RolledBack));
        assert_eq!(finish(ended(Exit::AsAsked), false, &heeded), is(Verdict::Done), "it was confirmed already");
        assert_eq!(finish(ended(Exit::RollbackIncomplete), false, &heeded), is(Verdict::Incomplete));
        // A link that was lost is no answer.
        assert_eq!(finish(setback(Trouble::Local), false, &heeded), is(Verdict::Unknown));
        assert_eq!(finish(setback(Trouble::Timeout), false, &asked), End::Cancelled(Verdict::Unreachable));
        assert_eq!(finish(setback(Trouble::Timeout), false, &calm), is(Verdict::Unreachable));
        assert_eq!(
            finish(setback(Trouble::HostKeyChanged { file: String::new(), line: 1 }), false, &asked),
            is(Verdict::Refused)
        );
    }

    #[test]
    fn what_passes_is_tried_again_unless_nobody_wants_it() {
        let wish = Wish::default();
        for trouble in [Trouble::Banned, Trouble::Crowded, Trouble::Reset { before_banner: true }] {
            assert!(matches!(finish(setback(trouble), false, &wish), End::Again { .. }));
        }
        assert!(matches!(finish(setback(Trouble::Reset { before_banner: false }), false, &wish), End::Is(_)));
        wish.ask();
        assert!(matches!(finish(setback(Trouble::Crowded), false, &wish), End::Cancelled(Verdict::Unreachable)));
    }

    #[test]
    fn an_apply_that_says_that_the_host_differs_is_none() {
        let wish = Wish::default();
        assert_eq!(finish(ended(Exit::Differs), true, &wish), End::Is(Verdict::Done));
        assert_eq!(finish(ended(Exit::Differs), false, &wish), End::Is(Verdict::Unknown));
    }
}
