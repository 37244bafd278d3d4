//! The caller's side of a conversation with the agent in a copy, or on a tree: orders go in, events come out, proof
//! requests are handed to a worker outside, questions to whoever may answer them.

use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::change::Note;
use crate::error::{Failure, Result};
use crate::outcome::{Event, Sink};
use crate::proof::{PipeWorker, WORKER_ARG, Worker};
use crate::target::exec::Exec;
use crate::target::put::last_words;
use crate::target::sandbox::Sandbox;
use crate::target::talk::{Heard, Limits, Talk as _};
use crate::types::{AbsPath, Word as _};

use super::Ending;
use super::agent::{self, Answer, Order, Question, Said};
use super::far::Heed;

/// Answers a question with yes; anything else is an error, and ends the conversation.
pub type Agree<'a> = dyn FnMut(Question) -> Result<()> + 'a;

/// What an agent may say: plans with all their contents.
const LIMITS: Limits =
    Limits { deadline: Duration::from_secs(3600), stdout: 256 << 20, stderr: 16 << 10, line: 64 << 20 };
/// Longest silence of an agent.
const SILENCE: Duration = Duration::from_secs(3600);
/// For an agent to take a line.
const TAKEN: Duration = Duration::from_secs(60);

/// Gives an order and relays until the agent has finished. Notes about the copy wait until the plan has been shown: its
/// verdict is the first line. What is in the copy may be anybody's, and speak in the agent's name: with `heed` its events are
/// heeded.
///
/// # Errors
/// The one of `agree`, or that a process was lost, or lied; the agent is then to be ended with its sandbox.
pub fn talk(
    sandbox: &Sandbox,
    order: &Order,
    notes: Vec<Note>,
    agree: &mut Agree<'_>,
    heed: Option<&mut Heed>,
    sink: &mut dyn Sink,
) -> Result<Ending> {
    let mut command = sandbox.agent()?;
    command.arg(agent::ARG);
    let mut agent = Exec::start(command, "sandbox", LIMITS)?;
    // Nothing on a tree that is not running is proven.
    let mut worker = order.act.proves().then(|| start(sandbox.outside()?, WORKER_ARG)).transpose()?;
    let ending = converse(order, &mut agent, worker.as_mut(), notes, agree, heed, sink);
    // Whatever was said last was the end, and so is the end of its input. Killed, the process that stands for the agent out
    // here would leave the real one to whoever adopts orphans (process 1 of a container may be keyward itself), and a copy
    // does not end before somebody has waited for each of its processes.
    let _ = agent.finish(PATIENCE);
    worker.into_iter().for_each(end);
    ending
}

/// How long a program that has said its last word may take to end.
const PATIENCE: Duration = Duration::from_secs(2);

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
    agent: &mut Exec,
    worker: Option<&mut Child>,
    mut notes: Vec<Note>,
    agree: &mut Agree<'_>,
    mut heed: Option<&mut Heed>,
    sink: &mut dyn Sink,
) -> Result<Ending> {
    let worker = worker.map(pipes).transpose()?;
    let mut outside = worker.map(|(to_worker, from_worker)| PipeWorker::new(from_worker, to_worker));
    write(agent, order)?;
    loop {
        let line = match agent.next_line(SILENCE)? {
            Heard::Line(line) => line,
            Heard::Silence => return Err(lost().why("it says nothing")),
            Heard::End => return Err(lost().why(last_words(&agent.stderr()))),
        };
        match serde_json::from_str(&line).map_err(|error| lost().why(error))? {
            Said::Ask(requests) => {
                let answer: Answer = outside.as_mut().ok_or_else(lost)?.ask(&requests);
                write(agent, &answer)?;
            }
            Said::Agree(question) => {
                agree(*question)?;
                write(agent, &true)?;
            }
            Said::Event(event) => {
                if let Event::Finished { exit, verdict, next, run, .. } = *event {
                    notes.drain(..).for_each(|note| sink.event(Event::Note { note }));
                    let ending = Ending { exit, verdict, next, run };
                    return match heed {
                        None => Ok(ending),
                        Some(heed) => heed.ending(ending).map_err(lied),
                    };
                }
                let planned = matches!(*event, Event::Planned { .. });
                sink.event(match heed.as_mut() {
                    None => *event,
                    Some(heed) => heed.event(*event).map_err(lied)?,
                });
                if planned {
                    notes.drain(..).for_each(|note| sink.event(Event::Note { note }));
                }
            }
        }
    }
}

fn lied(why: &str) -> Failure {
    Failure::unknown("copy", "its answer is refused").why(why).hint("look at the tree without starting anything of it")
}

fn pipes(child: &mut Child) -> Result<(ChildStdin, ChildStdout)> {
    child.stdin.take().zip(child.stdout.take()).ok_or_else(lost)
}

fn write(to: &mut Exec, what: &impl serde::Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(what).map_err(|error| lost().why(error))?;
    line.push(b'\n');
    to.send(line, TAKEN)
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
