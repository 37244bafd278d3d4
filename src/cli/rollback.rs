//! `keyward rollback [RUN]`: undoes a run from its journal. One that was cut off is undone at once; one that ended well
//! and touched ways in is taken back by a run of its own, planned, guarded and decided like any apply.

use crate::access::{ABOUT, Restored};
use crate::change::Risk;
use crate::engine::{self, About, LaterEdits, Machine, Prove, Rollback, WayBack, guard};
use crate::error::{Failure, Result};
use crate::facts::Facts;
use crate::host::ledger::Ledger;
use crate::host::real::RealHost;
use crate::host::shelf::DirShelf;
use crate::journal::{self, Record};
use crate::outcome::{Event, Exit, Sink};
use crate::resource::Task;
use crate::resources::authorized_keys::keys_again;

use super::args::RollbackArgs;
use super::live::{Live, agree};
use super::terminal::{self, Terminal};
use super::{Ending, job, state};

/// What is asked before the first change.
pub const QUESTION: &str = "Undo this run? Type yes: ";

/// Rolls back on this machine.
pub fn run(args: &RollbackArgs, terminal: &mut Terminal) -> Result<Ending> {
    state::need_root("to change this host")?;
    let host = RealHost::new();
    if let Some(shelf) = state::shelf_if_any()? {
        // What a killed run left must not stop the way back.
        let _ = super::guard::sweep(&host, &shelf);
    }
    let (shelf, run) = named(args.run.as_deref())?;
    let accepted = args.live.i_accept_that_this_host_may_lock_me_out;
    if !accepted && touches_ways_in(&shelf, &run)? {
        let back = WayBack::open(&shelf, &run, &host, args.force)?;
        let returning = back.files().into_iter().map(|(change, text)| (keys_again(&change, &text), change));
        let returning: Vec<_> = returning.filter(|(keys, _)| !keys.is_empty()).collect();
        let changes = returning.iter().map(|(_, change)| change.clone()).collect();
        let back = back.with_keys(changes, returning.into_iter().flat_map(|(keys, _)| keys).collect());
        // Without sshd there is no way in to lose but the console, where somebody sits.
        if back.has_door() {
            return guarded(args, &run, back, &shelf, &host, terminal);
        }
    }
    // What was cut off a moment ago may have ended well before the lock was had.
    let ended_meanwhile = |run: &str| {
        Failure::refused(format!("run {run}"), "ended well just now, and undoing it closes the door in use")
            .hint(format!("say it again: keyward rollback {run}"))
    };
    let closed = touches_ways_in(&shelf, &run)?;
    let mut agree = |run: &str, summaries: &[String]| {
        if !accepted && !closed && touches_ways_in(&shelf, run)? {
            return Err(ended_meanwhile(run));
        }
        agree_to(args.live.yes, run, summaries)?;
        // A session that ends from here on must not stop the undo half way.
        super::signals::Signals::hold().map(drop)
    };
    at_once(&run, args.force, Machine::Running, &shelf, &host, &mut agree, terminal)
}

/// A run that takes another one back.
fn guarded(
    args: &RollbackArgs,
    run: &str,
    back: WayBack,
    shelf: &DirShelf,
    host: &RealHost,
    terminal: &mut Terminal,
) -> Result<Ending> {
    let about = About { playbook: back.name(), digest: run.to_owned() };
    let access = Restored { before: back.before(ABOUT) };
    let tasks: Vec<Box<dyn Task>> = vec![Box::new(back)];
    let (facts, plan) = match engine::look(&tasks, &about, host, &access) {
        Ok(found) => found,
        Err(failures) => return Ok(job::all_failed(failures, terminal)),
    };
    if !Live::still_agreed(&args.live, &plan, &format!("keyward rollback {run}"))? {
        terminal.event(Event::Planned { plan: Box::new(plan.clone()) });
    }
    if plan.is_converged() {
        return Ok(Ending::new(Exit::AsAsked, format!("nothing to roll back: the host is as before run {run}"), ""));
    }
    let live = Live {
        verb: "rollback",
        object: run.to_owned(),
        question: QUESTION,
        args: &args.live,
        host,
        facts: &facts,
        plan,
        held: None,
        tasks: &tasks,
        about: &about,
        access: &access,
        prove: Prove::Changes,
        accepted: None,
    };
    let mut ending = live.run(terminal)?;
    if ending.exit == Exit::AsAsked {
        ending.verdict = format!("rolled back run {run}, and the host proves it");
    }
    if let (Exit::AsAsked | Exit::Unverified, Some(by)) = (ending.exit, &ending.run) {
        // The rollback holds all the same; only the other journal does not say so.
        if let Err(failure) = engine::taken_back(shelf, run, by) {
            terminal.event(Event::Failed { failure });
        }
    }
    Ok(ending)
}

/// Undoes a run from its journal, on this machine or on a tree that is not running.
///
/// # Errors
/// The one of `agree`, or that the audit log or the guard's remains cannot be reached.
pub fn at_once(
    run: &str,
    force: bool,
    machine: Machine,
    shelf: &DirShelf,
    host: &RealHost,
    agree: &mut dyn FnMut(&str, &[String]) -> Result<()>,
    sink: &mut dyn Sink,
) -> Result<Ending> {
    // The way back from a run that was cut off must not wait for a log.
    let over = journal::read(shelf, run).is_ok_and(|records| journal::is_over(&records));
    let ledger: Box<dyn Ledger> = if over { Box::new(state::ledger()?) } else { state::ledger_or_none() };
    let mut refused = None;
    let outcome = engine::rollback(
        Rollback {
            host,
            shelf,
            audit: ledger.as_ref(),
            run: Some(run),
            later_edits: if force { LaterEdits::Overwrite } else { LaterEdits::Respect },
            machine,
            approve: &mut |run, summaries| {
                refused = agree(run, summaries).err();
                refused.is_none()
            },
        },
        sink,
    );
    if let Some(failure) = refused {
        return Err(failure);
    }
    // What guarded that run has nothing left to guard. Nothing guards a tree.
    if machine == Machine::Running {
        guard::disarm(host, shelf, run, guard::keeper_of(&Facts::gather(host)?))?;
    }
    Ok(Ending::from(outcome))
}

/// The shelf, and the run that is meant: named once, so that what is judged is what is undone.
///
/// # Errors
/// When there is none.
pub fn named(run: Option<&str>) -> Result<(DirShelf, String)> {
    let none = || Failure::input("rollback", "there is no run on this host").hint("keyward history");
    let shelf = state::shelf_if_any()?.ok_or_else(none)?;
    let run = match run {
        Some(run) => run.to_owned(),
        None => engine::newest(&shelf)?,
    };
    Ok((shelf, run))
}

/// Shows what will be undone, and takes a yes.
///
/// # Errors
/// As [`agree`].
pub fn agree_to(yes: bool, run: &str, summaries: &[String]) -> Result<()> {
    let mut text =
        format!("run {run}: {} will be undone, newest first\n", crate::report::style::count(summaries.len(), "change"));
    for summary in summaries {
        text.push_str(&format!("  undo: {}\n", crate::report::escape::line(summary)));
    }
    terminal::progress(&text);
    agree(yes, "rollback", run, QUESTION)
}

/// True for a run that ended well and touched ways in: undoing it closes the door that is in use. One that was cut off,
/// or whose undo is incomplete, only opens old doors again.
fn touches_ways_in(shelf: &DirShelf, run: &str) -> Result<bool> {
    let records = journal::read(shelf, run)?;
    let last = records.iter().rev().find_map(|record| match record {
        Record::Closed { exit, .. } => Some(*exit),
        _ => None,
    });
    let ended = last.is_some_and(|exit| exit != Exit::RollbackIncomplete);
    let touches = records.iter().any(|record| match record {
        Record::Begin { plan, .. } | Record::Replanned { plan } => {
            plan.risk() == Risk::Access || !plan.deferred.is_empty()
        }
        _ => false,
    });
    Ok(ended && touches)
}
