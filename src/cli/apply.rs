//! `keyward apply PLAYBOOK`: shows the plan, asks, and hands it to the engine.

use std::time::Duration;

use crate::change::Risk;
use crate::engine::guard::{LiveGuard, Terms, Wanted, keeper_of};
use crate::engine::{self, Apply, Prove};
use crate::error::{Failure, Result};
use crate::facts::{Facts, Init};
use crate::host::real::RealHost;
use crate::outcome::{Event, Sink as _};
use crate::resource::Unguarded;

use super::agent::Act;
use super::args::{ApplyArgs, Global, TargetArg};
use super::job::Job;
use super::terminal::{self, Terminal};
use super::{Ending, evidence, guard, outside, rehearse, state};

/// How long a person has to confirm.
const WINDOW: Duration = Duration::from_secs(300);

/// Applies a playbook.
pub fn run(args: &ApplyArgs, global: &Global, terminal: &mut Terminal) -> Result<Ending> {
    let job = match terminal.job(&args.playbook)? {
        Ok(job) => job,
        Err(ending) => return Ok(ending),
    };
    match global.target() {
        TargetArg::Sandbox => return rehearse::run(&job, Act::Rehearse, "/".as_ref(), &global.leave_out, terminal),
        TargetArg::Rootfs(dir) => return Err(no_trees(&dir, &job)),
        TargetArg::Local => {}
    }
    state::need_root("to change this host")?;
    let host = RealHost::new();
    let (facts, plan) = match job.assess(&host, Duration::from_secs(args.wait), terminal) {
        Ok(found) => found,
        Err(ending) => return Ok(ending),
    };
    let agreed_to = args.as_agreed.as_deref();
    if agreed_to.is_some_and(|digest| digest != plan.observation_digest) {
        return Err(Failure::refused("apply", "the host changed since the plan was shown, nothing changed")
            .hint(format!("look at the new plan: keyward plan {}", state::quoted(&job.about.playbook))));
    }
    if agreed_to.is_none() {
        terminal.event(Event::Planned { plan: Box::new(plan.clone()) });
    }
    if plan.is_converged() && !args.prove {
        evidence::tell_last(terminal)?;
        return Ok(Ending::of_plan(&plan));
    }
    let risky = plan.risk() == Risk::Access || !plan.deferred.is_empty();
    let accepted = args.i_accept_that_this_host_may_lock_me_out;
    let guarded = risky && !accepted;
    if guarded {
        refuse_the_example_key(&job)?;
        may_wait(args, &facts, &job)?;
    }
    let yes = args.yes || agreed_to.is_some();
    agree(yes, &job)?;
    // From here on the run must outlive this terminal: it starts over in a unit of its own, already agreed to.
    let unit = if guarded { guard::own_unit(&facts, &plan)? } else { String::new() };
    let signals = guard::Signals::hold()?;
    let (shelf, ledger) = (state::shelf()?, state::ledger()?);
    let (_outside, mut prover) = outside::prover(terminal)?;
    let mut keeper = keeper_of(&facts);
    let terms = Terms {
        keeper: keeper.as_mut(),
        wanted: Wanted::Confirmation,
        window_ms: u64::try_from(args.confirm_within.unwrap_or(WINDOW).as_millis()).unwrap_or(u64::MAX),
        unit,
        announce: &mut |pending| guard::announce(pending, &shelf),
        opened: &mut |pending| guard::opened(pending, &shelf),
        interrupted: &|| signals.interrupted(),
    };
    let mut live = LiveGuard::new(&host, &shelf, terms);
    let mut free = Unguarded;
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
            prove: if args.prove { Prove::Always } else { Prove::Changes },
            guard: if guarded { &mut live } else { &mut free },
            approve: &mut |_| agree(args.yes, &job).is_ok(),
        },
        terminal,
    );
    Ok(Ending::from(outcome))
}

/// Whether there is somebody who could confirm, and somebody who would undo.
fn may_wait(args: &ApplyArgs, facts: &Facts, job: &Job) -> Result<()> {
    if facts.init == Init::Other && !args.without_boot_guard {
        return Err(Failure::refused("apply", "nothing on this host would undo a run after a reboot")
            .why("PID 1 is not systemd, and the plan touches ways in")
            .hint("accept that with --without-boot-guard, or rehearse instead"));
    }
    if std::io::IsTerminal::is_terminal(&std::io::stderr()) || args.confirm_within.is_some() {
        return Ok(());
    }
    Err(Failure::refused("apply", "the plan touches ways in and nobody is at a terminal to confirm it").hint(format!(
        "name the time in which somebody will confirm: keyward apply --yes --confirm-within 300s {}",
        state::quoted(&job.about.playbook)
    )))
}

/// The key beside the example playbook belongs to nobody: whoever applies it unchanged could never log in.
fn refuse_the_example_key(job: &Job) -> Result<()> {
    let example = include_str!("../../playbooks/first-login.pub");
    let Some(blob) = example.split_whitespace().nth(1) else { return Ok(()) };
    match job.sources.iter().find(|file| file.text.contains(blob)) {
        None => Ok(()),
        Some(file) => Err(Failure::refused(&file.name, "this is the example's public key, and nobody has its private half")
            .why("with it alone you would be locked out")
            .hint("put your own public key there, such as ~/.ssh/id_ed25519.pub; or let keyward write a playbook: keyward init")),
    }
}

fn no_trees(dir: &std::path::Path, job: &Job) -> Failure {
    let command = format!("keyward rehearse {} --root {}", state::quoted(&job.about.playbook), dir.display());
    Failure::refused(dir.display().to_string(), "applying to a tree that is not running is not built yet").hint(command)
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
