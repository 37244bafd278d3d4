//! The far end in a copy of a host: the same program, told by its caller what to do, saying what happens. Its proof
//! requests travel to the caller, who asks a worker that stands outside of the copy.
//!
//! One JSON value a line: an [`Order`] first, then [`Said`] one way and answers to [`Said::Ask`] the other.

use std::io::{BufRead as _, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::{self, Apply};
use crate::error::{Failure, Result};
use crate::host::real::{RealHost, prepare_process};
use crate::outcome::{Event, Exit, Reach, Sink};
use crate::proof::{OutsideProver, Reply, Request, RootKey, Route, Worker};
use crate::resource::{LoadedFile, Unguarded};
use crate::target::sandbox::{INSIDE_V4, INSIDE_V6, sources};

use super::job::{Handed, Job, NoJob};
use super::{Ending, state};

/// The hidden verb.
pub const ARG: &str = "__agent";

/// What the agent is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Look, and send the plan.
    Plan,
    /// Plan, apply and prove.
    Rehearse,
}

/// The first line that the agent reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// What to do.
    pub act: Act,
    /// The playbook as the user named it.
    pub playbook: String,
    /// All that it is made of.
    pub sources: Vec<LoadedFile>,
}

/// A line that the agent writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// Something happened.
    Event(Box<Event>),
    /// Ask the worker outside, and answer with [`Answer`].
    Ask(Vec<Request>),
}

/// What the worker outside answered.
pub type Answer = std::result::Result<Vec<Reply>, Failure>;

/// Says events to the caller. A caller that is gone stops nothing here: the warden ends the whole copy with it.
struct Teller;

impl Sink for Teller {
    fn event(&mut self, event: Event) {
        let _ = say(&Said::Event(Box::new(event)));
    }
}

/// Asks through the caller.
struct Relay;

impl Worker for Relay {
    fn ask(&mut self, requests: &[Request]) -> Result<Vec<Reply>> {
        let lost = || Failure::unknown("proof", "the caller outside of the copy does not answer");
        say(&Said::Ask(requests.to_vec())).map_err(|error| lost().why(error))?;
        let line = hear().ok_or_else(lost)?;
        serde_json::from_str::<Answer>(&line).map_err(|error| lost().why(error))?
    }
}

fn say(said: &Said) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

fn hear() -> Option<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).ok().filter(|length| *length > 0).map(|_| line)
}

/// The hidden verb.
pub fn main() -> ExitCode {
    let began = std::time::Instant::now();
    let ending = match run(&mut Teller) {
        Ok(ending) => ending,
        Err(failure) => {
            let exit = Exit::from(failure.kind);
            Teller.event(Event::Failed { failure });
            Ending::new(exit, "", "")
        }
    };
    let code = ending.exit.code();
    Teller.event(ending.finished(began));
    ExitCode::from(code)
}

fn run(sink: &mut dyn Sink) -> Result<Ending> {
    prepare_process()?;
    let broken = || Failure::unknown("agent", "was not told what to do");
    let order: Order = serde_json::from_str(&hear().ok_or_else(broken)?).map_err(|error| broken().why(error))?;
    let job = Job::load(&order.playbook, &Handed(order.sources)).map_err(|fault| match fault {
        NoJob::Place(failure) => failure,
        NoJob::Faults(faults) => faults.failure(),
    })?;
    let host = RealHost::new();
    let (facts, plan) = match job.assess(&host, Duration::ZERO, sink) {
        Ok(found) => found,
        Err(ending) => return Ok(ending),
    };
    sink.event(Event::Planned { plan: Box::new(crate::report::json::without_contents(&plan)) });
    if order.act == Act::Plan {
        return Ok(Ending::of_plan(&plan));
    }
    let (shelf, ledger) = (state::shelf()?, state::ledger()?);
    let route = Route {
        addresses: vec![IpAddr::V4(INSIDE_V4), IpAddr::V6(INSIDE_V6)],
        sources: sources().collect(),
        reach: Reach::L2,
    };
    let mut prover = OutsideProver::new(Box::new(Relay), route, RootKey::Add);
    let outcome = engine::apply(
        Apply {
            host: &host,
            shelf: &shelf,
            audit: &ledger,
            tasks: &job.tasks,
            about: &job.about,
            facts: &facts,
            plan,
            access: &job.access,
            prover: Some(&mut prover),
            prove: engine::Prove::Changes,
            guard: &mut Unguarded,
            approve: &mut |_| true,
        },
        sink,
    );
    Ok(Ending::from(outcome))
}
