//! The far end in a copy of a host, or on a tree: the same program, told by its caller what to do, saying what happens. Its proof
//! requests travel to the caller, who asks a worker that stands outside of the copy.
//!
//! One JSON value a line: an [`Order`] first, then [`Said`] one way and answers to [`Said::Ask`] the other.

use std::io::{BufRead as _, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::change::Plan;
use crate::engine::{self, Agreed, Apply, Prove, Settle};
use crate::error::{Failure, Result};
use crate::host::ledger::MemoryLedger;
use crate::host::real::{RealHost, prepare_process};
use crate::host::shelf::MemoryShelf;
use crate::outcome::{Event, Exit, Reach, Sink};
use crate::proof::{OutsideProver, Reply, Request, RootKey, Route, Worker};
use crate::resource::{LoadedFile, Unguarded};
use crate::target::sandbox::{INSIDE_V4, INSIDE_V6, sources};

use super::args::LogVerb;
use super::audit::{self, Asked};
use super::job::{Handed, Job, NoJob};
use super::strike::{self, Fault};
use super::{Ending, inside, state};

/// The hidden verb.
pub const ARG: &str = "__agent";

/// What the agent is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// In a copy: look, and send the plan.
    Plan,
    /// In a copy: plan, apply and prove.
    Rehearse {
        /// True: ask for a yes to each plan, as [`Question::Plan`]; it is meant for the tree.
        ask: bool,
    },
    /// In a copy that was booted with the changes in it: nothing may be left to do, and all is proven.
    Prove,
    /// In a copy: judge it, and hold it against the playbook if there is one.
    Audit(Asked),
    /// In a copy: a guarded run that is struck in the middle.
    Fault(Fault),
    /// On a tree: make what was agreed to and rehearsed. Its run is then pending.
    Make(Vec<Agreed>),
    /// On a tree: end the pending run.
    Settle {
        /// Which.
        run: String,
        /// How.
        how: Settle,
    },
    /// On a tree: what was done there.
    Records(Records),
}

impl Act {
    /// True when it makes proof requests.
    pub fn proves(&self) -> bool {
        matches!(self, Self::Rehearse { .. } | Self::Prove)
    }
}

/// A verb about the runs of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Records {
    /// `history`
    History,
    /// `show RUN`
    Show(String),
    /// `log`.
    Log(Option<LogVerb>),
    /// `rollback`
    Rollback {
        /// Which; `None` for the newest in force.
        run: Option<String>,
        /// Overwrite later edits.
        force: bool,
    },
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
    /// Ask whoever may say yes, and answer with `true`; no answer is a no.
    Agree(Box<Question>),
}

/// What needs a yes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// This plan, on the tree.
    Plan(Agreed),
    /// Undoing a run.
    Undo {
        /// Run id.
        run: String,
        /// Of its changes, newest first.
        summaries: Vec<String>,
    },
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
            let exit = Exit::before_any_change(failure.kind);
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
    let host = RealHost::new();
    let job = |sources| {
        Job::load(&order.playbook, &Handed(sources)).map_err(|fault| match fault {
            NoJob::Place(failure) => failure,
            NoJob::Faults(faults) => faults.failure(),
        })
    };
    match order.act {
        Act::Plan => plan(&job(order.sources)?, &host, sink),
        Act::Audit(asked) => {
            let job = (!order.playbook.is_empty()).then(|| job(order.sources)).transpose()?;
            audit::judged(asked, job, &host, sink)
        }
        Act::Rehearse { ask } => rehearse(&job(order.sources)?, &host, ask, sink),
        Act::Fault(fault) => strike::run(&job(order.sources)?, &host, fault, sink),
        Act::Prove => prove(&job(order.sources)?, &host, sink),
        Act::Make(plans) => inside::make(&host, &plans, sink),
        Act::Settle { run, how } => inside::settle(&host, &run, how, sink),
        Act::Records(records) => inside::records(&host, &records, &mut ask, sink),
    }
}

/// No answer is a no.
fn ask(question: Question) -> bool {
    say(&Said::Agree(Box::new(question))).is_ok() && hear().is_some_and(|answer| answer.trim() == "true")
}

fn plan(job: &Job, host: &RealHost, sink: &mut dyn Sink) -> Result<Ending> {
    Ok(match job.assess(host, Duration::ZERO, sink) {
        Ok((_, plan)) => {
            let ending = Ending::of_plan(&plan);
            sink.event(shown(&plan));
            ending
        }
        Err(ending) => ending,
    })
}

fn shown(plan: &Plan) -> Event {
    Event::Planned { plan: Box::new(crate::report::json::without_contents(plan)) }
}

fn rehearse(job: &Job, host: &RealHost, ask_first: bool, sink: &mut dyn Sink) -> Result<Ending> {
    let (facts, plan) = match job.assess(host, Duration::ZERO, sink) {
        Ok(found) => found,
        Err(ending) => return Ok(ending),
    };
    sink.event(shown(&plan));
    let mut approve = |plan: &Plan| {
        let replaces = engine::replaced(plan, host);
        !ask_first || ask(Question::Plan(Agreed { plan: plan.clone(), replaces }))
    };
    if ask_first {
        inside::refuse_unprovable(host)?;
        if plan.is_converged() {
            return Ok(Ending::of_plan(&plan));
        }
        if !approve(&plan) {
            return Err(Failure::refused("apply", "declined, nothing changed"));
        }
    }
    let (shelf, ledger) = (state::shelf()?, state::ledger()?);
    let mut prover = prover();
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
            guard: &mut Unguarded,
            approve: &mut approve,
        },
        sink,
    );
    Ok(Ending::from(outcome))
}

/// Connections come from outside of the copy.
fn prover() -> OutsideProver {
    let route = Route {
        addresses: vec![IpAddr::V4(INSIDE_V4), IpAddr::V6(INSIDE_V6)],
        sources: sources().collect(),
        reach: Reach::L2,
    };
    OutsideProver::new(Box::new(Relay), route, RootKey::Add)
}

/// What a boot made of the changed files: as the playbook says, and every promise shown. Its run is nobody's history.
fn prove(job: &Job, host: &RealHost, sink: &mut dyn Sink) -> Result<Ending> {
    let (facts, plan) = match job.assess(host, Duration::ZERO, sink) {
        Ok(found) => found,
        Err(ending) => return Ok(ending),
    };
    if let Some(left) = plan.changes.first() {
        let why = left.differences.first().map(|one| format!("{} is {}, wanted {}", one.path, one.have, one.want));
        return Err(Failure::failed(&left.key, "does not hold once it has booted")
            .why(why.unwrap_or_else(|| left.summary.clone())));
    }
    let mut prover = prover();
    let outcome = engine::apply(
        Apply {
            host,
            shelf: &MemoryShelf::default(),
            audit: &MemoryLedger::default(),
            tasks: &job.tasks,
            about: &job.about,
            facts: &facts,
            plan,
            held: None,
            access: &job.access,
            prover: Some(&mut prover),
            prove: Prove::Always,
            guard: &mut Unguarded,
            approve: &mut |_| true,
        },
        sink,
    );
    Ok(Ending::from(outcome))
}
