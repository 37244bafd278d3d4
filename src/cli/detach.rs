//! `--detach`: the run goes on by itself, and this process ends once both doors are open, or the run is over.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::change::Plan;
use crate::engine::guard::{self, Pending};
use crate::error::{Failure, Kind, Result};
use crate::facts::{Facts, Init};
use crate::host::shelf::{DirShelf, Shelf as _};
use crate::journal::{self, Record};
use crate::outcome::{Exit, Sink as _};

use super::terminal::{Terminal, progress};
use super::{Ending, state};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// The run's own limits end it earlier; this only keeps a lost one from being waited for.
const LIMIT: Duration = Duration::from_secs(1200);

/// Starts the run that was agreed to, and waits until it waits.
///
/// # Errors
/// When it cannot be started, or ended before it armed anything.
pub fn run(facts: &Facts, agreed: &Plan, terminal: &mut Terminal) -> Result<Ending> {
    let shelf = state::shelf()?;
    let before: BTreeSet<String> = shelf.runs()?.into_iter().collect();
    let output = format!("{}/detached-{}", state::RUN, std::process::id());
    let child = start(facts, agreed, &output)?;
    let ending = follow(&shelf, &before, child, &output, terminal);
    // What the run says from now on is in its journal.
    let _ = std::fs::remove_file(&output);
    ending
}

fn follow(
    shelf: &DirShelf,
    before: &BTreeSet<String>,
    mut child: Child,
    output: &str,
    terminal: &mut Terminal,
) -> Result<Ending> {
    let until = Instant::now() + LIMIT;
    while Instant::now() < until {
        let ended = !child.try_wait().is_ok_and(|status| status.is_none());
        let mut cut_off = None;
        for run in shelf.runs()?.into_iter().filter(|run| !before.contains(run)) {
            // Its first line is not written yet.
            if !ended && journal::read(shelf, &run)?.is_empty() {
                continue;
            }
            if let Some((exit, verdict)) = guard::ending(shelf, &run)? {
                return Ok(Ending::new(exit, verdict, format!("keyward show {run}")));
            }
            if let Some(pending) = guard::pending(shelf, Some(&run))?
                && guard::opened(shelf, &run)?.is_some()
                && has_proven(shelf, &run)?
            {
                return Ok(waits(&pending, shelf, terminal));
            }
            cut_off = Some(run);
        }
        if let Some(run) = cut_off.filter(|_| ended) {
            return Ok(lost(guard::pending(shelf, Some(&run))?.is_some(), &run));
        }
        if ended {
            let said = std::fs::read_to_string(output).unwrap_or_default();
            progress(&crate::report::escape::text(&said));
            if child.wait().is_ok_and(|status| status.code() == Some(i32::from(Exit::Busy.code()))) {
                return Err(
                    Failure::new(Kind::Busy, "keyward", "another keyward run has this host").hint("keyward status")
                );
            }
            return Err(Failure::refused("keyward", "the detached run ended before it armed anything"));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(Ending::new(Exit::Pending, "the detached run still works on its first stage", "keyward status"))
}

/// True once the host's own proof beside the open doors is through, and has not failed.
fn has_proven(shelf: &DirShelf, run: &str) -> Result<bool> {
    let seen = |records: &[Record]| records.iter().any(|record| matches!(record, Record::Evidence { .. }));
    let promised = !super::confirm::plan(shelf, run).map(|plan| plan.promises).unwrap_or_default().is_empty();
    if promised && !seen(&journal::read(shelf, run)?) {
        return Ok(false);
    }
    // What it shows is judged right after it was written.
    std::thread::sleep(PAUSE);
    Ok(!journal::read(shelf, run)?.iter().any(|record| matches!(record, Record::RollingBack { .. })))
}

fn waits(pending: &Pending, shelf: &DirShelf, terminal: &mut Terminal) -> Ending {
    if terminal.is_json() {
        terminal.event(super::guard::armed(pending));
    }
    super::guard::opened(pending, shelf, terminal.is_json());
    let verdict = format!("run {} waits for its confirmation by itself", pending.run);
    let ending = Ending::new(Exit::Pending, verdict, format!("keyward confirm {}", pending.run));
    Ending { run: Some(pending.run.clone()), ..ending }
}

/// The process ended and its run did not.
fn lost(armed: bool, run: &str) -> Ending {
    if armed {
        return Ending::new(Exit::Pending, format!("run {run} was cut off; its guard undoes it"), "keyward status");
    }
    let verdict = format!("run {run} was cut off before its guard was armed");
    Ending::new(Exit::RollbackIncomplete, verdict, format!("keyward rollback {run}"))
}

/// On systemd a service of its own; elsewhere a process group of its own, which no hang-up reaches.
fn start(facts: &Facts, agreed: &Plan, output: &str) -> Result<Child> {
    let cannot = |why: &dyn std::fmt::Display| Failure::refused("keyward", "cannot detach the run").why(why);
    let own = std::env::current_exe().map_err(|error| cannot(&error))?;
    let directory = std::env::current_dir().map_err(|error| cannot(&error))?;
    let words = super::handed::words()?.into_iter().filter(|word| word != "--detach");
    let agreed = ["--as-agreed".to_owned(), agreed.observation_digest.clone()];
    let log = std::fs::File::create(output).map_err(|error| cannot(&error))?;
    let again = log.try_clone().map_err(|error| cannot(&error))?;
    let mut command = if facts.init == Init::Systemd {
        let mut command = super::guard::unit_command("service");
        let place = format!("WorkingDirectory={}", directory.display());
        command.args(["-p", &place, "--wait", "--pipe", "--"]).arg(own);
        command
    } else {
        Command::new(own)
    };
    command.args(words).args(agreed).stdin(Stdio::null()).stdout(log).stderr(again);
    command.process_group(0).spawn().map_err(|error| {
        super::handed::forget();
        cannot(&error)
    })
}
