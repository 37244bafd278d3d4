//! The caller's side of a conversation with the agent in a copy, or on a tree: orders go in, events come out, proof
//! requests are handed to a worker outside, questions to whoever may answer them.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::change::Note;
use crate::error::{Failure, Result};
use crate::outcome::{Event, Sink};
use crate::proof::{PipeWorker, WORKER_ARG, Worker};
use crate::target::sandbox::Sandbox;
use crate::types::{AbsPath, Word as _};

use super::Ending;
use super::agent::{self, Answer, Order, Question, Said};

/// Answers a question with yes; anything else is an error, and ends the conversation.
pub type Agree<'a> = dyn FnMut(Question) -> Result<()> + 'a;

/// Gives an order and relays until the agent has finished. Notes about the copy wait until the plan has been shown: its
/// verdict is the first line.
///
/// # Errors
/// The one of `agree`, or that a process was lost; the agent is then to be ended with its sandbox.
pub fn talk(
    sandbox: &Sandbox,
    order: &Order,
    notes: Vec<Note>,
    agree: &mut Agree<'_>,
    sink: &mut dyn Sink,
) -> Result<Ending> {
    let mut agent = start(sandbox.agent()?, agent::ARG)?;
    // Nothing on a tree that is not running is proven.
    let mut worker = order.act.proves().then(|| start(sandbox.outside()?, WORKER_ARG)).transpose()?;
    let ending = converse(order, &mut agent, worker.as_mut(), notes, agree, sink);
    for child in [Some(agent), worker].into_iter().flatten() {
        end(child);
    }
    ending
}

/// How long a program that has said its last word may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whatever was said last was the end, and so is the end of its input. Killed, the process that stands for the agent out
/// here would leave the real one to whoever adopts orphans (process 1 of a container may be keyward itself), and a copy
/// does not end before somebody has waited for each of its processes.
fn end(mut child: Child) {
    let until = Instant::now() + PATIENCE;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn start(mut command: Command, verb: &str) -> Result<Child> {
    let command = command.arg(verb).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().map_err(|error| lost().why(error))
}

fn converse(
    order: &Order,
    agent: &mut Child,
    worker: Option<&mut Child>,
    mut notes: Vec<Note>,
    agree: &mut Agree<'_>,
    sink: &mut dyn Sink,
) -> Result<Ending> {
    let (mut orders, said) = pipes(agent)?;
    let worker = worker.map(pipes).transpose()?;
    let mut outside = worker.map(|(to_worker, from_worker)| PipeWorker::new(from_worker, to_worker));
    write(&mut orders, order)?;
    for line in BufReader::new(said).lines() {
        let line = line.map_err(|error| lost().why(error))?;
        match serde_json::from_str(&line).map_err(|error| lost().why(error))? {
            Said::Ask(requests) => {
                let answer: Answer = outside.as_mut().ok_or_else(lost)?.ask(&requests);
                write(&mut orders, &answer)?;
            }
            Said::Agree(question) => {
                agree(*question)?;
                write(&mut orders, &true)?;
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

fn pipes(child: &mut Child) -> Result<(ChildStdin, ChildStdout)> {
    child.stdin.take().zip(child.stdout.take()).ok_or_else(lost)
}

fn write(to: &mut impl std::io::Write, what: &impl serde::Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(what).map_err(|error| lost().why(error))?;
    line.push(b'\n');
    to.write_all(&line).and_then(|()| to.flush()).map_err(|error| lost().why(error))
}

fn lost() -> Failure {
    Failure::unknown("sandbox", "the program in it ended before it had finished")
        .hint("look for its last words above, or run it again")
}

/// A directory that was named, as an absolute path without links.
///
/// # Errors
/// When there is none.
pub fn absolute(root: &Path) -> Result<AbsPath> {
    let shown = root.display().to_string();
    let found = std::fs::canonicalize(root).map_err(|error| Failure::input(&shown, "no host to copy").why(error))?;
    let text = found.to_str().ok_or_else(|| Failure::input(&shown, "the path is not UTF-8"))?;
    AbsPath::parse(text).map_err(|invalid| Failure::input(shown, invalid.why).hint(invalid.hint))
}
