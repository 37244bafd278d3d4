//! A run on this very host, whatever verb began it: asks, moves into a unit of its own, guards, proves, and hands the
//! plan to the engine.

use std::time::Duration;

use crate::change::{Note, Plan, Promise, Risk};
use crate::engine::guard::{LiveGuard, Terms, Wanted, keeper_of};
use crate::engine::{self, About, Apply, Prove};
use crate::error::{Failure, Result};
use crate::facts::{Facts, Init, SshdMode};
use crate::host::real::RealHost;
use crate::host::shelf::Held;
use crate::outcome::{Event, Exit, Sink as _};
use crate::resource::{AccessCheck, Task, Unguarded};

use super::args::LiveArgs;
use super::terminal::{self, Terminal};
use super::{Ending, detach, guard, motd, outside, state};

/// How long a person at a terminal has to confirm.
const WITH_A_PERSON: Duration = Duration::from_secs(300);
/// How long anybody else has.
const UNATTENDED: Duration = Duration::from_secs(120);

/// A plan that was shown, and what it takes to carry it out here.
pub struct Live<'a> {
    /// `apply` or `rollback`, for messages.
    pub verb: &'static str,
    /// What follows the verb on a command line: the playbook or the run.
    pub object: String,
    /// The question on a terminal.
    pub question: &'static str,
    /// As typed.
    pub args: &'a LiveArgs,
    /// The host.
    pub host: &'a RealHost,
    /// What kind of host it is.
    pub facts: &'a Facts,
    /// As shown.
    pub plan: Plan,
    /// The host's lock, where the plan was made under it.
    pub held: Option<Box<dyn Held>>,
    /// What makes the plan.
    pub tasks: &'a [Box<dyn Task>],
    /// What it is called.
    pub about: &'a About,
    /// The rule about ways in.
    pub access: &'a dyn AccessCheck,
    /// When logins are made.
    pub prove: Prove,
    /// Set when evidence from another network namespace may decide; how a declared key was shown to be held.
    pub accepted: Option<String>,
}

impl Live<'_> {
    /// The plan of the unit that this process moved into must be the one that was agreed to.
    ///
    /// # Errors
    /// Refused when the host changed in between.
    pub fn still_agreed(args: &LiveArgs, plan: &Plan, command: &str) -> Result<bool> {
        match args.as_agreed.as_deref() {
            Some(digest) if digest != plan.observation_digest => {
                Err(Failure::refused("keyward", "the host changed since the plan was shown, nothing changed")
                    .hint(format!("look at the new plan: {command}")))
            }
            agreed => Ok(agreed.is_some()),
        }
    }

    /// Carries it out.
    ///
    /// # Errors
    /// Everything that stops it before the first change.
    pub fn run(mut self, terminal: &mut Terminal) -> Result<Ending> {
        let risky = self.plan.risk() == Risk::Access || !self.plan.deferred.is_empty();
        let guarded = risky && self.has_door() && !self.args.i_accept_that_this_host_may_lock_me_out;
        if guarded {
            self.may_wait()?;
        }
        if self.args.detach && !self.args.yes && !self.plan.deferred.is_empty() {
            let (verb, object) = (self.verb, state::quoted(&self.object));
            return Err(Failure::refused("--detach", "the plan is made again once packages are installed")
                .why("a detached run cannot ask whether you agree to that one")
                .hint(format!("agree beforehand: keyward {verb} --yes --detach {object}")));
        }
        self.agree(self.args.yes || self.args.as_agreed.is_some())?;
        if guarded && self.args.detach {
            return detach::run(self.facts, &self.plan, terminal);
        }
        // From here on the run must outlive this terminal: it starts over in a unit of its own, already agreed to.
        let unit = if guarded { guard::own_unit(self.facts, &self.plan)? } else { String::new() };
        let signals = super::signals::Signals::hold()?;
        let (shelf, ledger) = (state::shelf()?, state::ledger()?);
        let held = self.held.take();
        if held.is_none() {
            // What a killed run left is no reason to stop; the next boot sweeps, too.
            let _ = guard::sweep(self.host, &shelf);
        }
        let (_outside, mut prover) = outside::prover(terminal)?;
        let mut keeper = keeper_of(self.facts);
        let events = terminal.is_json();
        let window =
            self.args.confirm_within.unwrap_or(if terminal::is_watched() { WITH_A_PERSON } else { UNATTENDED });
        let terms = Terms {
            keeper: keeper.as_mut(),
            wanted: self.accepted.clone().map_or(Wanted::Confirmation, Wanted::L2),
            window_ms: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            unit,
            announce: &mut |pending| guard::announce(pending, &shelf, events),
            tell: &mut guard::tell_all,
            opened: &mut |pending| guard::opened(pending, &shelf, events),
            interrupted: &|| signals.interrupted(),
        };
        let mut live = LiveGuard::new(self.host, &shelf, terms);
        let mut free = Unguarded;
        let outcome = engine::apply(
            Apply {
                host: self.host,
                shelf: &shelf,
                audit: &ledger,
                tasks: self.tasks,
                about: self.about,
                facts: self.facts,
                plan: self.plan.clone(),
                held,
                access: self.access,
                prover: Some(&mut prover),
                prove: self.prove,
                guard: if guarded { &mut live } else { &mut free },
                approve: &mut |_| self.agree(self.args.yes).is_ok(),
            },
            terminal,
        );
        if let Some(run) = outcome.run.as_deref().filter(|_| guarded) {
            motd::ended(&shelf, run);
        }
        let stands = outcome.run.is_some() && matches!(outcome.exit, Exit::AsAsked | Exit::Unverified);
        if stands && signals.interrupted() {
            let text = "Ctrl-C came when this run was no more to be stopped; it can be rolled back now";
            terminal.event(Event::Note { note: Note::info("keyward", text) });
        }
        Ok(Ending::from(outcome))
    }

    /// True when there is, or will be, a way in over SSH. Without one whoever runs this sits at the console, and nobody
    /// could confirm through a door.
    fn has_door(&self) -> bool {
        let none = matches!(self.facts.sshd_mode, SshdMode::Missing | SshdMode::Stopped);
        let opens = |promise: &Promise| matches!(promise, Promise::SshPort { .. } | Promise::Admin { .. });
        !none || !self.plan.deferred.is_empty() || self.plan.promises.iter().any(opens)
    }

    /// Whether there is somebody who could confirm, and somebody who would undo.
    fn may_wait(&self) -> Result<()> {
        let (verb, object) = (self.verb, state::quoted(&self.object));
        if self.facts.init == Init::Other && !self.args.without_boot_guard {
            return Err(Failure::refused(verb, "nothing on this host would undo a run after a reboot")
                .why("PID 1 is not systemd, and the plan touches ways in")
                .hint("accept that with --without-boot-guard, or rehearse instead"));
        }
        if !self.args.without_boot_guard && state::is_in_memory() {
            return Err(Failure::refused(verb, format!("{} does not outlive a reboot", state::STATE))
                .why("it is on a file system in memory, and the undo of a run that was cut off is read from there")
                .hint("put it on a disk; or accept that with --without-boot-guard"));
        }
        let somebody = terminal::is_watched() || self.args.confirm_within.is_some() || self.args.detach;
        if somebody || self.accepted.is_some() {
            return Ok(());
        }
        Err(Failure::refused(verb, "the plan touches ways in and nobody is at a terminal to confirm it").hint(format!(
            "name the time in which somebody will confirm: keyward {verb} --yes --confirm-within 300s {object}"
        )))
    }

    fn agree(&self, yes: bool) -> Result<()> {
        agree(yes, self.verb, &self.object, self.question)
    }
}

/// A yes: given before, or on a terminal.
///
/// # Errors
/// Refused without one, with the command that carries it.
pub fn agree(yes: bool, verb: &str, object: &str, question: &str) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !terminal::can_ask() {
        let object = if object.is_empty() { String::new() } else { format!(" {}", state::quoted(object)) };
        let command = format!("keyward {verb} --yes{object}");
        return Err(Failure::refused(verb, "needs a yes and there is no terminal to ask on")
            .hint(format!("read the plan above; then: {command}")));
    }
    if terminal::ask(question) == "yes" {
        return Ok(());
    }
    Err(Failure::refused(verb, "declined, nothing changed"))
}
