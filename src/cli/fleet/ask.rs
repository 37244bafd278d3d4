//! What became of a run that another controller began: asked of the host's own history, until it says that it is over.

use std::time::{Duration, Instant};

use crate::error::Failure;
use crate::fleet::schedule::{End, Verdict};
use crate::outcome::{Event, Exit};
use crate::target::ssh::Setback;

use super::super::far::Wish;
use super::told::{Over, Told};

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(2);
/// After the window within which a run that nobody confirms is undone.
const PATIENCE: Duration = Duration::from_secs(180);

/// What the host says.
#[derive(Debug)]
pub enum Answer {
    /// The run is over, and left something.
    Over {
        /// Its id.
        run: String,
        /// How it ended.
        exit: Exit,
        /// In a line.
        verdict: String,
    },
    /// There is none, or nothing of it is left: the host is as before.
    NotBegun,
    /// It could not be asked, or does not come to an end.
    Lost(Setback),
}

/// Asks until the run is over, for its `window` and a while. `run` is its id, where the other controller heard it; without
/// one a run that is open is waited for. Nothing is left of one that was rolled back: it is begun again, and fails again if
/// it was not the lost controller that undid it. So is one that ended well by the host's own word: nothing is to be done
/// there then, and a login shows it.
pub fn outcome(
    run: Option<&str>,
    window: Duration,
    look: &dyn Fn() -> Result<Vec<Event>, Setback>,
    interrupted: &dyn Fn() -> bool,
) -> Answer {
    let until = Instant::now() + window + PATIENCE;
    loop {
        let over = || interrupted() || Instant::now() > until;
        let events = match look() {
            Ok(events) => events,
            // A run moves the door, and for a moment nothing may listen: that tells nothing of its end.
            Err(setback) if setback.trouble.passes() && !over() => {
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(setback) => return Answer::Lost(setback),
        };
        match judge(run, &events) {
            Some(answer) => return answer,
            None if over() => {
                let what = "its run does not come to an end";
                return Answer::Lost(Setback::from(Failure::unknown("host", what).hint("look there: keyward status")));
            }
            None => std::thread::sleep(PAUSE),
        }
    }
}

/// `None` while a run is open.
fn judge(run: Option<&str>, events: &[Event]) -> Option<Answer> {
    let mut newest = Some(Answer::NotBegun);
    for event in events {
        let Event::Run { run: id, exit, verdict, .. } = event else { continue };
        match (exit, run) {
            (None, _) => return None,
            (Some(exit), Some(wanted)) if wanted == id => {
                newest = Some(match exit {
                    Exit::AsAsked | Exit::RolledBack | Exit::Refused | Exit::Usage | Exit::Busy => Answer::NotBegun,
                    exit => Answer::Over { run: id.clone(), exit: *exit, verdict: verdict.clone() },
                });
            }
            _ => {}
        }
    }
    newest
}

impl Told {
    /// Takes the answer; gives back what the schedule is told.
    pub fn answered(&mut self, answer: Answer) -> End {
        match answer {
            Answer::NotBegun => End::NotBegun,
            Answer::Lost(setback) => match self.finish(Err(setback), false, &Wish::default()) {
                // What was begun there nobody can tell.
                End::Is(_) | End::Cancelled(_) => {
                    if let Some(end) = self.end.as_mut() {
                        end.verdict = Verdict::Unknown;
                    }
                    End::Is(Verdict::Unknown)
                }
                again => again,
            },
            Answer::Over { run, exit, verdict } => {
                self.millis =
                    self.began.map_or(0, |began| u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
                self.run = Some(run);
                // It was a run with changes, or it would have none.
                let of = Verdict::of(exit, 1);
                self.end = Some(Over { verdict: of, exit: Some(exit), text: verdict, next: String::new() });
                End::Is(of)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::ssh::Trouble;

    fn run(id: &str, exit: Option<Exit>) -> Event {
        let (began, playbook, verdict) = (String::new(), String::new(), String::new());
        Event::Run { run: id.to_owned(), began, playbook, changes: 1, exit, verdict }
    }

    #[test]
    fn a_door_that_is_shut_for_a_moment_is_tried_again() {
        let tries = std::cell::Cell::new(0);
        let look = || {
            tries.set(tries.get() + 1);
            match tries.get() {
                1 => Err(Setback { trouble: Trouble::Refused, failure: Box::new(Failure::unknown("host", "refused")) }),
                _ => Ok(vec![run("b", Some(Exit::Unverified))]),
            }
        };
        assert!(matches!(outcome(Some("b"), Duration::ZERO, &look, &|| false), Answer::Over { .. }));
        let gone = || Err(Setback::from(Failure::refused("host", "another key")));
        assert!(matches!(outcome(Some("b"), Duration::ZERO, &gone, &|| false), Answer::Lost(_)));
        tries.set(0);
        assert!(matches!(outcome(Some("b"), Duration::ZERO, &look, &|| true), Answer::Lost(_)), "nobody waits");
    }

    #[test]
    fn a_begun_host_that_cannot_be_asked_is_unknown_and_no_untouched_one() {
        let lost = |trouble: Trouble| {
            let setback = Setback { trouble, failure: Box::new(Failure::refused("host", "no")) };
            let mut told = Told::default();
            let end = told.answered(Answer::Lost(setback));
            (end, told.end.map(|end| end.verdict))
        };
        for trouble in [Trouble::Timeout, Trouble::Credentials { offered: Vec::new() }, Trouble::Local] {
            assert_eq!(lost(trouble), (End::Is(Verdict::Unknown), Some(Verdict::Unknown)));
        }
        assert!(matches!(lost(Trouble::Banned).0, End::Again { .. }));
        let mut told = Told::default();
        let answer = Answer::Over { run: "r".into(), exit: Exit::Unverified, verdict: String::new() };
        assert_eq!((told.answered(answer), told.run), (End::Is(Verdict::Unverified), Some("r".to_owned())));
    }

    #[test]
    fn only_what_stands_counts_as_done() {
        let old = run("a", Some(Exit::AsAsked));
        let is_not_begun = |wanted, events: &[Event]| matches!(judge(wanted, events), Some(Answer::NotBegun));
        assert!(is_not_begun(None, &[]));
        assert!(is_not_begun(None, std::slice::from_ref(&old)), "somebody else's");
        for exit in [Exit::RolledBack, Exit::AsAsked] {
            assert!(is_not_begun(Some("b"), &[old.clone(), run("b", Some(exit))]), "{exit:?}");
        }
        assert!(judge(Some("b"), &[old.clone(), run("b", None)]).is_none(), "it goes on");
        assert!(judge(None, &[old.clone(), run("b", None)]).is_none(), "it may be ours");
        for exit in [Exit::Pending, Exit::Unverified, Exit::RollbackIncomplete] {
            let answer = judge(Some("b"), &[old.clone(), run("b", Some(exit))]);
            assert!(matches!(answer, Some(Answer::Over { exit: of, .. }) if of == exit), "{exit:?}");
        }
    }
}
