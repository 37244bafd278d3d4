//! `keyward apply PLAYBOOK`: shows the plan, asks, and hands it to the engine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::change::{Plan, Risk};
use crate::engine::{self, Apply};
use crate::error::{Failure, Result};
use crate::host::real::RealHost;
use crate::outcome::{Event, Reach, Sink as _};
use crate::proof::{OutsideProver, PipeWorker, RootKey, Route, WORKER_ARG};
use crate::resource::Unguarded;

use super::agent::Act;
use super::args::{ApplyArgs, Global, TargetArg};
use super::job::Job;
use super::terminal::{self, Terminal};
use super::{Ending, evidence, rehearse, state};

/// Applies a playbook.
pub fn run(args: &ApplyArgs, global: &Global, terminal: &mut Terminal) -> Result<Ending> {
    let job = match terminal.job(&args.playbook)? {
        Ok(job) => job,
        Err(ending) => return Ok(ending),
    };
    match global.target() {
        TargetArg::Sandbox => return rehearse::run(&job, Act::Rehearse, "/".as_ref(), terminal),
        TargetArg::Rootfs(dir) => return Err(no_trees(&dir, &job)),
        TargetArg::Local => {}
    }
    state::need_root("to change this host")?;
    let host = RealHost::new();
    let (facts, plan) = match job.assess(&host, Duration::from_secs(args.wait), terminal) {
        Ok(found) => found,
        Err(ending) => return Ok(ending),
    };
    terminal.event(Event::Planned { plan: Box::new(plan.clone()) });
    if plan.is_converged() && !args.prove {
        evidence::tell_last(terminal)?;
        return Ok(Ending::of_plan(&plan));
    }
    let accepted = args.i_accept_that_this_host_may_lock_me_out;
    may_apply(&plan, accepted, &job)?;
    agree(args.yes, &job)?;
    let (shelf, ledger) = (state::shelf()?, state::ledger()?);
    let mut worker = Loopback::start()?;
    let mut prover = worker.prover()?;
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
            guard: &mut Unguarded,
            approve: &mut |fresh| may_apply(fresh, accepted, &job).is_ok() && agree(args.yes, &job).is_ok(),
        },
        terminal,
    );
    Ok(Ending::from(outcome))
}

fn no_trees(dir: &std::path::Path, job: &Job) -> Failure {
    let command = format!("keyward rehearse {} --root {}", state::quoted(&job.about.playbook), dir.display());
    Failure::refused(dir.display().to_string(), "applying to a tree that is not running is not built yet").hint(command)
}

/// Until somebody outlives this process who would undo it, ways in of a live host are not touched. What cannot be
/// judged yet may turn out to be one.
fn may_apply(plan: &Plan, accepted: bool, job: &Job) -> Result<()> {
    if accepted || (plan.risk() < Risk::Access && plan.deferred.is_empty()) {
        return Ok(());
    }
    let what = if plan.risk() == Risk::Access { "the plan touches ways in" } else { "the plan may touch ways in" };
    Err(Failure::refused("apply", what)
        .why("the guard that would undo a cut-off run is not there yet, so this is refused on a live host")
        .hint(format!("rehearsing works: keyward rehearse {}", state::quoted(&job.about.playbook))))
}

fn agree(yes: bool, job: &Job) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !terminal::can_ask() {
        return Err(Failure::refused("apply", "needs a yes and there is no terminal to ask on")
            .hint(format!("read the plan above; then: keyward apply --yes {}", state::quoted(&job.about.playbook))));
    }
    if terminal::ask("Apply this plan? Type yes: ") == "yes" {
        return Ok(());
    }
    Err(Failure::refused("apply", "declined, nothing changed"))
}

/// A worker that connects over this host's own loopback: proves the door (L1), not the firewall.
struct Loopback(Child);

impl Loopback {
    fn start() -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(WORKER_ARG).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().map(Self).map_err(|error| Failure::unknown("proof", "its worker cannot be started").why(error))
    }

    fn prover(&mut self) -> Result<OutsideProver> {
        let pipes = self.0.stdout.take().zip(self.0.stdin.take());
        let (from, to) = pipes.ok_or_else(|| Failure::unknown("proof", "its worker has no pipes"))?;
        let addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let route = Route { addresses, sources: Vec::new(), reach: Reach::L1 };
        Ok(OutsideProver::new(Box::new(PipeWorker::new(from, to)), route, RootKey::Leave))
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
