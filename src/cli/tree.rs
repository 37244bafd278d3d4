//! Verbs on a tree that is not running (`--root DIR`). A plan is rehearsed on a booted copy, made on the tree in files
//! only, and proven on a booted copy of the result. All work on the tree happens inside the sandbox's walls.

use std::path::Path;

use crate::change::Note;
use crate::engine::Settle;
use crate::error::{Failure, Result};
use crate::outcome::{Event, Evidence, Exit, Proven, Sink};
use crate::target::sandbox::{Options, Sandbox};
use crate::types::AbsPath;

use super::agent::{Act, Order, Question, Records};
use super::args::{ApplyArgs, LiveArgs, Verb};
use super::job::Job;
use super::live::agree;
use super::talk::{absolute, talk};
use super::terminal::Terminal;
use super::{Ending, example, fetch, rollback, state};

/// The tree and where events go.
struct Site<'a> {
    root: AbsPath,
    leave_out: &'a [AbsPath],
    terminal: &'a mut Terminal,
}

/// What of the agent's events the reader gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    /// All of it.
    All,
    /// What may be a reason not to go on: a copy's steps are not the tree's.
    Trouble,
    /// The proof as well.
    Proof,
}

/// Passes events on, with `--root` in the commands that they name.
struct Teller<'a> {
    show: Show,
    root: &'a AbsPath,
    sink: &'a mut dyn Sink,
    evidence: Vec<Evidence>,
}

impl Sink for Teller<'_> {
    fn event(&mut self, event: Event) {
        let copy = self.show != Show::All;
        match event {
            Event::Proof { evidence } => {
                self.evidence.push(evidence.clone());
                if self.show != Show::Trouble || evidence.proven != Proven::Yes {
                    self.sink.event(Event::Proof { evidence });
                }
            }
            Event::Failed { mut failure } => {
                failure.hint = at_root(&failure.hint, self.root);
                self.sink.event(Event::Failed { failure });
            }
            Event::Started { .. }
            | Event::Stage { .. }
            | Event::Gate { .. }
            | Event::Changed { .. }
            | Event::Decided { .. }
            | Event::RollingBack { .. }
            | Event::Undone { .. }
                if copy => {}
            other => self.sink.event(other),
        }
    }
}

/// Commands that are about a host, pointed at the tree.
fn at_root(text: &str, root: &AbsPath) -> String {
    const VERBS: [&str; 7] = ["plan", "apply", "rehearse", "rollback", "history", "show", "log"];
    let about_a_host = VERBS.iter().any(|verb| text.contains(&format!("keyward {verb}")));
    if about_a_host && !text.contains("--root") {
        format!("{text} --root {}", state::quoted(root.as_str()))
    } else {
        text.to_owned()
    }
}

impl Site<'_> {
    fn open(&self, with_tree: bool) -> Result<Sandbox> {
        let leave_out = self.leave_out.to_vec();
        Sandbox::open(&Options { leave_out, with_tree, ..Options::new(self.root.clone()) })
    }

    /// Gives an order; the ending, and the evidence that came with it.
    fn order(&mut self, sandbox: &Sandbox, order: &Order, show: Show) -> Result<(Ending, Vec<Evidence>)> {
        self.ask(sandbox, order, show, Vec::new(), &mut |_| Err(Failure::unknown("sandbox", "asks out of turn")))
    }

    fn ask(
        &mut self,
        sandbox: &Sandbox,
        order: &Order,
        show: Show,
        notes: Vec<Note>,
        agree: &mut dyn FnMut(Question) -> Result<()>,
    ) -> Result<(Ending, Vec<Evidence>)> {
        let mut teller = Teller { show, root: &self.root, sink: &mut *self.terminal, evidence: Vec::new() };
        let told = talk(sandbox, order, notes, agree, None, &mut teller);
        let evidence = teller.evidence;
        let mut ending = told.map_err(|mut failure| {
            failure.hint = at_root(&failure.hint, &self.root);
            failure
        })?;
        ending.next = at_root(&ending.next, &self.root);
        Ok((ending, evidence))
    }

    fn note(&mut self, text: impl Into<String>) {
        self.terminal.event(Event::Note { note: Note::info("tree", text) });
    }
}

/// Holds on a booted copy: everything, or all but what could not be told.
const fn holds(exit: Exit) -> bool {
    matches!(exit, Exit::AsAsked | Exit::Unverified)
}

/// `apply --root DIR`.
pub fn apply(
    job: &Job,
    args: &ApplyArgs,
    dir: &Path,
    leave_out: &[AbsPath],
    terminal: &mut Terminal,
) -> Result<Ending> {
    state::need_root("to change a tree")?;
    nobody_waits(&args.live, args.accept_evidence.is_some())?;
    let mut site = Site { root: absolute(dir)?, leave_out, terminal };
    let order = |act| Order { act, playbook: job.about.playbook.clone(), sources: job.sources.clone() };
    let mut sandbox = site.open(true)?;
    let mut notes: Vec<Note> = sandbox.notes().iter().map(|text| Note::info("copy", text)).collect();
    notes.extend(fetch::packages(&job.packages, &site.root, &mut sandbox)?);
    notes.extend(sandbox.boot()?.notes.iter().map(|text| Note::info("copy", text)));
    let mut plans = Vec::new();
    let mut answer = |question| {
        let Question::Plan(agreed) = question else { return Err(Failure::unknown("sandbox", "asks out of turn")) };
        if !args.live.i_accept_that_this_host_may_lock_me_out {
            example::refuse(job)?;
        }
        agree(args.live.yes, "apply", &job.about.playbook, "Apply this plan? Type yes: ")?;
        plans.push(agreed);
        Ok(())
    };
    let (ending, _) = site.ask(&sandbox, &order(Act::Rehearse { ask: true }), Show::Trouble, notes, &mut answer)?;
    if plans.is_empty() {
        // Nothing to do, or nothing that can be done.
        if ending.exit != Exit::AsAsked || !args.prove {
            return Ok(ending);
        }
        return site.order(&sandbox, &order(Act::Prove), Show::Proof).map(|(ending, _)| as_copy(ending, &site.root));
    }
    if !holds(ending.exit) {
        return Ok(untouched(ending, "its rehearsal", &site.root));
    }
    // An image is booted before anybody uses it.
    sandbox.boot()?;
    let (ending, evidence) = site.order(&sandbox, &order(Act::Prove), Show::Trouble)?;
    if !holds(ending.exit) {
        return Ok(untouched(ending, "its rehearsal, booted again,", &site.root));
    }
    let held = evidence.iter().filter(|piece| piece.proven == Proven::Yes).count();
    site.note(format!("rehearsed on a copy, which booted, {held} of {} proofs held; now the tree", evidence.len()));
    sandbox.enter_tree()?;
    let (made, _) = site.order(&sandbox, &order(Act::Make(plans)), Show::All)?;
    let (Exit::Pending, Some(run)) = (made.exit, made.run.clone()) else { return Ok(made) };
    sandbox.halt()?;
    // From here on the run is pending: whatever fails leads to taking it back.
    let proven = prove_anew(&mut site, &order(Act::Prove));
    let how = match proven {
        Ok((ending, evidence)) if holds(ending.exit) => {
            let of = if ending.exit == Exit::AsAsked { "proven" } else { "but not everything could be proven" };
            let verdict = format!("applied {} to the tree, {of} on a booted copy of it", made.verdict);
            Settle::Keep { exit: ending.exit, verdict, evidence }
        }
        Ok((ending, _)) => Settle::TakeBack(Failure::failed("proof on a booted copy", ending.verdict)),
        Err(failure) => Settle::TakeBack(failure),
    };
    sandbox.enter_tree()?;
    let (ending, _) = site.order(&sandbox, &order(Act::Settle { run, how }), Show::All)?;
    site.note("nothing was started in the tree; in its copies PID 1 is not systemd, and the kernel is this machine's");
    sandbox.close()?;
    Ok(ending)
}

/// Options of a run that waits for a person mean nothing where no door is in use.
fn nobody_waits(args: &LiveArgs, accept_evidence: bool) -> Result<()> {
    if args.confirm_within.is_none() && !args.detach && !args.without_boot_guard && !accept_evidence {
        return Ok(());
    }
    Err(Failure::input("--root", "a tree that is not running waits for no confirmation")
        .hint("leave out --confirm-within, --detach, --accept-evidence and --without-boot-guard"))
}

/// Boots a fresh copy of the tree as it is now.
fn prove_anew(site: &mut Site<'_>, order: &Order) -> Result<(Ending, Vec<Evidence>)> {
    let mut copy = site.open(false)?;
    copy.boot()?;
    let proven = site.order(&copy, order, Show::Proof);
    copy.close()?;
    proven
}

/// A proof of what was there already.
fn as_copy(mut ending: Ending, root: &AbsPath) -> Ending {
    ending.run = None;
    ending.next = String::new();
    if holds(ending.exit) {
        ending.verdict = format!("{} (a booted copy of {root})", ending.verdict);
    }
    ending
}

/// A failure in the copy, which never reached the tree.
fn untouched(ending: Ending, what: &str, root: &AbsPath) -> Ending {
    let exit = match ending.exit {
        Exit::RolledBack | Exit::RollbackIncomplete | Exit::Differs | Exit::Pending => Exit::Refused,
        other => other,
    };
    Ending::new(exit, format!("nothing on {root} was changed: {what} on a copy failed: {}", ending.verdict), "")
}

/// Verbs about the runs of a tree: where they are built for one.
pub fn records(verb: &Verb, dir: &Path, leave_out: &[AbsPath], terminal: &mut Terminal) -> Result<Option<Ending>> {
    let (records, yes) = match verb {
        Verb::History => (Records::History, false),
        Verb::Show(args) => (Records::Show(args.run.clone()), false),
        Verb::Log(args) => (Records::Log(args.verb), false),
        Verb::Rollback(args) => (Records::Rollback { run: args.run.clone(), force: args.force }, args.live.yes),
        _ => return Ok(None),
    };
    state::need_root("to work on a tree")?;
    if let Verb::Rollback(args) = verb {
        nobody_waits(&args.live, false)?;
    }
    let mut site = Site { root: absolute(dir)?, leave_out, terminal };
    let mut sandbox = site.open(true)?;
    sandbox.enter_tree()?;
    let order = Order { act: Act::Records(records), playbook: String::new(), sources: Vec::new() };
    let mut agree = |question| match question {
        Question::Undo { run, summaries } => rollback::agree_to(yes, &run, &summaries),
        Question::Plan(_) => Err(Failure::unknown("sandbox", "asks out of turn")),
    };
    let (ending, _) = site.ask(&sandbox, &order, Show::All, Vec::new(), &mut agree)?;
    sandbox.close()?;
    Ok(Some(ending))
}
