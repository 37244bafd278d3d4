//! The agent's side of `rehearse --fault`: a guarded run in a copy, struck right after one of its changes.

use std::io::Write as _;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::change::{Note, Plan, Stage};
use crate::engine::guard::{LiveGuard, Terms, Wanted, keeper_of};
use crate::engine::{self, Apply, Prove};
use crate::error::Result;
use crate::host::real::RealHost;
use crate::outcome::{Event, Sink};

use super::job::Job;
use super::{Ending, guard, outside, state};

/// How long a run in a copy waits: what is struck is undone when this is over.
const WINDOW_MS: u64 = 15_000;

/// What happens to the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blow {
    /// The agent is killed (SIGKILL).
    Kill,
    /// Everything is killed, and the copy boots again.
    Reboot,
    /// The terminal and the link of the operator go: hang-up, and streams that lead nowhere.
    Drop,
}

/// A fault and the change after which it strikes, counted from 1 as in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What.
    pub blow: Blow,
    /// When.
    pub after: usize,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let blow = match self.blow {
            Blow::Kill => "kill",
            Blow::Reboot => "reboot",
            Blow::Drop => "drop",
        };
        write!(f, "{blow}@{}", self.after)
    }
}

impl std::str::FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let usage = || "write kill@N, reboot@N or drop@N, N being the number of a change in the plan".to_owned();
        let (blow, after) = text.split_once('@').ok_or_else(usage)?;
        let blow = match blow {
            "kill" => Blow::Kill,
            "reboot" => Blow::Reboot,
            "drop" => Blow::Drop,
            _ => return Err(usage()),
        };
        let after = after.parse().ok().filter(|after| *after > 0).ok_or_else(usage)?;
        Ok(Self { blow, after })
    }
}

/// Passes events on, and strikes.
struct Striking<'a> {
    fault: Fault,
    made: usize,
    packages: bool,
    sink: &'a mut dyn Sink,
}

impl Sink for Striking<'_> {
    fn event(&mut self, event: Event) {
        if let Event::Stage { stage, .. } = &event {
            self.packages = *stage == Stage::Packages;
        }
        let counts = matches!(event, Event::Changed { .. }) && !self.packages;
        self.sink.event(event);
        self.made += usize::from(counts);
        if counts && self.made == self.fault.after {
            self.strike();
        }
    }
}

impl Striking<'_> {
    fn strike(&mut self) {
        let text = match self.fault.blow {
            Blow::Kill => "now the agent is killed (SIGKILL)",
            Blow::Reboot => "now the power is cut: everything in the copy is killed, and it boots again",
            Blow::Drop => "now the laptop's lid closes: the terminal hangs up and nobody listens any more",
        };
        self.sink.event(Event::Note { note: Note::info(super::fault::FAULT, text) });
        let _ = std::io::stdout().flush();
        if self.fault.blow == Blow::Drop {
            // What a lost connection does to a program: streams that lead nowhere, and SIGHUP.
            drop(guard::quietly());
            let _ = nix::sys::signal::raise(Signal::SIGHUP);
        } else {
            let _ = kill(Pid::this(), Signal::SIGKILL);
        }
    }
}

/// True when nobody is left to confirm: the fault strikes before the decision.
fn before_decision(plan: &Plan, fault: Fault) -> bool {
    let opening = plan.changes.iter().filter(|change| change.stage == Stage::Additive).count();
    fault.after <= opening
}

/// The run; does not come back when it is killed.
pub fn run(job: &Job, host: &RealHost, fault: Fault, sink: &mut dyn Sink) -> Result<Ending> {
    let (facts, plan) = match job.assess(host, std::time::Duration::ZERO, sink) {
        Ok(found) => found,
        Err(ending) => return Ok(ending),
    };
    sink.event(Event::Planned { plan: Box::new(crate::report::json::without_contents(&plan)) });
    let signals = super::signals::Signals::hold()?;
    let (shelf, ledger) = (state::shelf()?, state::ledger()?);
    let (_outside, mut prover) = outside::prover(sink)?;
    let mut keeper = keeper_of(&facts);
    // Past the decision there was somebody who confirmed; here the proof stands for that person.
    let wanted = match before_decision(&plan, fault) && plan.deferred.is_empty() {
        true => Wanted::Confirmation,
        false => Wanted::L2("rehearsed without a person".to_owned()),
    };
    let terms = Terms {
        keeper: keeper.as_mut(),
        wanted,
        window_ms: WINDOW_MS,
        unit: String::new(),
        announce: &mut |_| {},
        tell: &mut |_| {},
        opened: &mut |_| {},
        interrupted: &|| signals.interrupted(),
    };
    let mut live = LiveGuard::new(host, &shelf, terms);
    let mut striking = Striking { fault, made: 0, packages: false, sink };
    let outcome = engine::apply(
        Apply {
            host,
            shelf: &shelf,
            audit: &ledger,
            tasks: &job.tasks,
            about: &job.about,
            facts: &facts,
            plan,
            held: None,
            access: &job.access,
            prover: Some(&mut prover),
            prove: Prove::Changes,
            guard: &mut live,
            approve: &mut |_| true,
        },
        &mut striking,
    );
    Ok(Ending::from(outcome))
}

#[cfg(test)]
mod tests {
    use super::{Blow, Fault};

    #[test]
    fn faults_as_they_are_written() {
        assert_eq!("kill@3".parse(), Ok(Fault { blow: Blow::Kill, after: 3 }));
        for bad in ["", "kill", "kill@", "kill@0", "kill@x", "freeze@1"] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }
}
