//! `keyward rehearse PLAYBOOK`: the whole transaction on a throw-away copy of this machine, or of a tree. Also the way
//! in which `plan` judges a copy.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use crate::change::Note;
use crate::error::{Failure, Result};
use crate::outcome::{Event, Exit, Sink};
use crate::proof::{PipeWorker, WORKER_ARG, Worker};
use crate::target::sandbox::{Options, Sandbox};
use crate::types::{AbsPath, Word as _};

use super::agent::{self, Act, Answer, Order, Said};
use super::job::Job;
use super::{Ending, fetch, state};

/// Rehearses on a copy of `root`.
pub fn run(job: &Job, act: Act, root: &Path, leave_out: &[AbsPath], sink: &mut dyn Sink) -> Result<Ending> {
    let root = absolute(root)?;
    let mut sandbox = Sandbox::open(&Options { leave_out: leave_out.to_vec(), ..Options::new(root.clone()) })?;
    let mut notes: Vec<Note> = sandbox.notes().iter().map(|text| Note::info("copy", text)).collect();
    if act == Act::Rehearse {
        notes.extend(fetch::packages(&job.packages, &root, &mut sandbox)?);
    }
    let booted = sandbox.boot()?;
    notes.extend(booted.notes.iter().map(|text| Note::info("copy", text)));
    let mut agent = sandbox.agent()?;
    let mut agent = agent
        .arg(agent::ARG)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| lost().why(error))?;
    let mut outside = sandbox.outside()?;
    let mut worker = outside
        .arg(WORKER_ARG)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| lost().why(error))?;
    let ending = talk(job, act, &mut agent, &mut worker, notes, sink);
    let modules = sandbox.modules_loaded();
    // The copy's end is the end of everything in it, whatever was said.
    let closed = sandbox.close();
    let _ = (agent.wait(), worker.wait());
    let ending = ending?;
    closed?;
    Ok(told(ending, act, job, &root, &modules, sink))
}

/// What the reader must know about a rehearsal, and what to type next.
fn told(mut ending: Ending, act: Act, job: &Job, root: &AbsPath, modules: &[String], sink: &mut dyn Sink) -> Ending {
    if !modules.is_empty() {
        let text = format!(
            "the kernel loaded modules for the copy, which stay until they are unloaded: {}",
            modules.join(", ")
        );
        sink.event(Event::Note { note: Note::info("copy", text) });
    }
    let of = if root.as_str() == "/" { "this machine".to_owned() } else { root.to_string() };
    let text = format!("nothing on {of} was changed: this was a copy of it, gone now; PID 1 in there is not systemd");
    sink.event(Event::Note { note: Note::info("copy", text) });
    ending.run = None;
    let playbook = &job.about.playbook;
    ending.next = match (act, ending.exit) {
        (Act::Plan, _) if root.as_str() == "/" => format!("keyward rehearse {}", state::quoted(playbook)),
        (Act::Plan, _) => {
            format!("keyward rehearse {} --root {}", state::quoted(playbook), state::quoted(root.as_str()))
        }
        (Act::Rehearse, Exit::AsAsked | Exit::Unverified) if root.as_str() == "/" => {
            format!("keyward apply {}", state::quoted(playbook))
        }
        _ => String::new(),
    };
    if act == Act::Rehearse && !ending.verdict.is_empty() {
        ending.verdict = format!("rehearsed: {}", ending.verdict);
    }
    ending
}

/// Relays events to the sink and proof requests to the worker, until the agent has finished. Notes about the copy wait
/// until the plan has been shown: its verdict is the first line.
fn talk(
    job: &Job,
    act: Act,
    agent: &mut Child,
    worker: &mut Child,
    mut notes: Vec<Note>,
    sink: &mut dyn Sink,
) -> Result<Ending> {
    let (mut orders, said) = pipes(agent)?;
    let (to_worker, from_worker) = pipes(worker)?;
    let mut outside = PipeWorker::new(from_worker, to_worker);
    let order = Order { act, playbook: job.about.playbook.clone(), sources: job.sources.clone() };
    write(&mut orders, &order)?;
    for line in BufReader::new(said).lines() {
        let line = line.map_err(|error| lost().why(error))?;
        match serde_json::from_str(&line).map_err(|error| lost().why(error))? {
            Said::Ask(requests) => {
                let answer: Answer = outside.ask(&requests);
                write(&mut orders, &answer)?;
            }
            Said::Event(event) => {
                if let Event::Finished { exit, verdict, next, run, .. } = *event {
                    notes.drain(..).for_each(|note| sink.event(Event::Note { note }));
                    return Ok(Ending { exit, verdict, next, run });
                }
                let planned = matches!(*event, Event::Planned { .. });
                sink.event(*event);
                if planned {
                    notes.drain(..).for_each(|note| sink.event(Event::Note { note }));
                }
            }
        }
    }
    Err(lost())
}

fn pipes(child: &mut Child) -> Result<(std::process::ChildStdin, std::process::ChildStdout)> {
    child.stdin.take().zip(child.stdout.take()).ok_or_else(lost)
}

fn write(to: &mut impl std::io::Write, what: &impl serde::Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(what).map_err(|error| lost().why(error))?;
    line.push(b'\n');
    to.write_all(&line).and_then(|()| to.flush()).map_err(|error| lost().why(error))
}

fn lost() -> Failure {
    Failure::unknown("rehearsal", "the program in the copy ended before it had finished")
        .hint("look for its last words above, or run it again")
}

/// A directory that was named, as an absolute path without links.
fn absolute(root: &Path) -> Result<AbsPath> {
    let shown = root.display().to_string();
    let found = std::fs::canonicalize(root).map_err(|error| Failure::input(&shown, "no host to copy").why(error))?;
    let text = found.to_str().ok_or_else(|| Failure::input(&shown, "the path is not UTF-8"))?;
    AbsPath::parse(text).map_err(|invalid| Failure::input(shown, invalid.why).hint(invalid.hint))
}
