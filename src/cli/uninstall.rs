//! `keyward uninstall`: removes keyward's own state from this host, and the program that a controller put there. What it
//! hardened stays, and so does the audit log.

use std::path::Path;

use crate::audit;
use crate::engine::{guard, last_resort};
use crate::error::{Failure, Result};
use crate::host::real::RealHost;
use crate::host::shelf::Shelf as _;
use crate::journal::{self, Record, Undo};
use crate::outcome::{Event, Exit, Sink};
use crate::target::ssh::push;

use super::args::UninstallArgs;
use super::{Ending, state, terminal};

/// What is asked first.
pub fn question() -> String {
    format!("Remove {}, {} and {}? Type yes: ", state::STATE, state::RUN, push::DIRECTORY)
}

/// Removes the state, after a question.
pub fn run(args: &UninstallArgs, sink: &mut dyn Sink) -> Result<Ending> {
    state::need_root("to remove keyward's state")?;
    let host = RealHost::new();
    if last_resort::is_open(&host)? {
        return Err(Failure::refused("uninstall", "the sshd of last resort is what lets you in")
            .hint("mend sshd (sshd -t), then: keyward acknowledge"));
    }
    let Some(shelf) = state::shelf_if_any()? else {
        let pushed = Path::new(push::DIRECTORY).symlink_metadata().is_ok();
        remove(state::RUN).and_then(|()| remove(push::DIRECTORY))?;
        let verdict = if pushed {
            format!("{} is gone; keyward keeps no other state on this host", push::DIRECTORY)
        } else {
            "nothing to remove: keyward keeps no state on this host".to_owned()
        };
        return Ok(Ending::new(Exit::AsAsked, verdict, ""));
    };
    let held = guard::lock(&shelf)?;
    let stays = files_that_stay(&shelf)?;
    if !stays.is_empty() {
        let text = format!(
            "These files were written by keyward and stay as they are; once its state is gone, no run can be rolled \
             back any more:\n  {}",
            stays.join("\n  ")
        );
        sink.event(Event::Text { name: "files that stay".to_owned(), text });
    }
    if !args.yes {
        if !terminal::can_ask() {
            return Err(Failure::refused("uninstall", "needs a yes and there is no terminal to ask on")
                .hint("keyward uninstall --yes"));
        }
        if terminal::ask(&question()) != "yes" {
            return Err(Failure::refused("uninstall", "declined, nothing changed"));
        }
    }
    // What guarded runs that are over goes with them: their units would start a program that is no more.
    super::guard::sweep(&host, &shelf)?;
    audit::record(&state::ledger()?, "", audit::UNINSTALLED, "keyward's state was removed")?;
    // A controller may be running this very program from there: an open file outlives its name.
    let removed = remove(state::STATE).and_then(|()| remove(state::RUN)).and_then(|()| remove(push::DIRECTORY));
    super::motd::forget();
    drop(held);
    if let Err(failure) = removed {
        return Ok(Ending::new(
            Exit::RollbackIncomplete,
            format!("only in part: {}", failure.line()),
            "keyward uninstall",
        ));
    }
    Ok(Ending::new(Exit::AsAsked, format!("keyward's state is gone; only {} is left", state::AUDIT), ""))
}

/// Paths that runs in force have written, each once.
///
/// # Errors
/// Refused while a run is pending, or when a journal cannot be read.
fn files_that_stay(shelf: &crate::host::shelf::DirShelf) -> Result<Vec<String>> {
    let mut paths = std::collections::BTreeSet::new();
    for run in shelf.runs()? {
        let records = journal::read(shelf, &run)?;
        if journal::is_degraded(&records) {
            return Err(Failure::refused(format!("run {run}"), "could not be undone whole")
                .why("its journal is needed to undo the rest")
                .hint(format!("keyward rollback {run}; mended by hand: keyward acknowledge {run}")));
        }
        if !journal::is_over(&records) {
            return Err(Failure::refused(format!("run {run}"), "was cut off and never ended")
                .why("its journal is needed to undo it")
                .hint(format!("keyward rollback {run}")));
        }
        let undone = |key: &str| {
            records.iter().any(|record| matches!(record, Record::Undone { key: other, failures } if other == key && failures.is_empty()))
        };
        for record in &records {
            if let Record::Intent { key, undo: Undo::Restore { path, left: Some(_), .. }, .. } = record
                && !undone(key)
            {
                paths.insert(path.to_string());
            }
        }
    }
    Ok(paths.into_iter().filter(|path| Path::new(path).symlink_metadata().is_ok()).collect())
}

/// Removes a directory of keyward's own; `remove_dir_all` follows no link.
fn remove(path: &str) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::failed(path, "cannot be removed").why(error))
        }
        _ => Ok(()),
    }
}
