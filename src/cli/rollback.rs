//! `keyward rollback [RUN]`: undoes a run from its journal.

use crate::change::Risk;
use crate::engine::{self, LaterEdits, Rollback, guard};
use crate::error::{Failure, Result};
use crate::facts::Facts;
use crate::host::real::RealHost;
use crate::host::shelf::DirShelf;
use crate::journal::{self, Record};
use crate::outcome::Exit;

use super::args::RollbackArgs;
use super::terminal::{self, Terminal};
use super::{Ending, state};

/// Rolls back.
pub fn run(args: &RollbackArgs, terminal: &mut Terminal) -> Result<Ending> {
    state::need_root("to change this host")?;
    let none = || Failure::input("rollback", "there is no run on this host").hint("keyward history");
    let shelf = state::shelf_if_any()?.ok_or_else(none)?;
    // One run, named once: what is judged is what is undone.
    let run = match &args.run {
        Some(run) => run.clone(),
        None => engine::newest(&shelf)?,
    };
    if !args.i_accept_that_this_host_may_lock_me_out {
        refuse_ways_in(&shelf, &run)?;
    }
    let host = RealHost::new();
    let ledger = state::ledger()?;
    let mut refused = None;
    let outcome = engine::rollback(
        Rollback {
            host: &host,
            shelf: &shelf,
            audit: &ledger,
            run: Some(&run),
            later_edits: if args.force { LaterEdits::Overwrite } else { LaterEdits::Respect },
            approve: &mut |run, summaries| {
                terminal::progress(&shown(run, summaries));
                match agree(args.yes, run) {
                    Ok(()) => true,
                    Err(failure) => {
                        refused = Some(failure);
                        false
                    }
                }
            },
        },
        terminal,
    );
    // What guarded that run has nothing left to guard.
    if refused.is_none() {
        guard::disarm(&host, &shelf, &run, guard::keeper_of(&Facts::gather(&host)?))?;
    }
    match refused {
        Some(failure) => Err(failure),
        None => Ok(Ending::from(outcome)),
    }
}

fn shown(run: &str, summaries: &[String]) -> String {
    let mut text =
        format!("run {run}: {} will be undone, newest first\n", crate::report::style::count(summaries.len(), "change"));
    for summary in summaries {
        text.push_str(&format!("  undo: {}\n", crate::report::escape::line(summary)));
    }
    text
}

fn agree(yes: bool, run: &str) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !terminal::can_ask() {
        return Err(Failure::refused("rollback", "needs a yes and there is no terminal to ask on")
            .hint(format!("keyward rollback --yes {run}")));
    }
    if terminal::ask("Undo this run? Type yes: ") == "yes" {
        return Ok(());
    }
    Err(Failure::refused("rollback", "declined, nothing changed"))
}

/// A run that was cut off may always be undone. One that ended well and touched ways in would close the door in use:
/// refused on a live host until a rollback is guarded like an apply.
fn refuse_ways_in(shelf: &DirShelf, run: &str) -> Result<()> {
    let records = journal::read(shelf, run)?;
    // One whose undo is incomplete may always be undone further.
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
    if !ended || !touches {
        return Ok(());
    }
    Err(Failure::refused(format!("run {run}"), "touched ways in, and so does undoing it")
        .why("a rollback is not guarded yet, so this is refused on a live host")
        .hint(format!("keyward show {run}")))
}
