//! One step: its undo, computed and made durable before it runs, and the act itself.

use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::change::{Action, Change, Inverse, Step};
use crate::error::{Failure, Result};
use crate::facts;
use crate::host::{Actor, Command, Host, Image, Node};
use crate::journal::{Journal, Marks, Record, Undo};
use crate::types::{AbsPath, Port};

use super::live_account;

const SYSTEMCTL: &str = "/usr/bin/systemctl";
/// How long a socket that systemd cannot restart is tried; within that time no new login would be let in.
const RESTART: Duration = Duration::from_secs(2);

/// Journals the change, then each step's undo before the step itself. Gives back what was done otherwise than planned: an
/// account that is to go, but that somebody is logged in by, is shut.
///
/// # Errors
/// The first step that fails; what was done stands in the journal.
pub fn make(
    change: &Change,
    host: &dyn Host,
    journal: &Journal<'_>,
    stage: Option<crate::change::Stage>,
) -> Result<Option<String>> {
    let record = Record::Change {
        key: change.key.clone(),
        summary: change.summary.clone(),
        stage,
        forward: change.activation.forward.clone(),
        backward: change.activation.backward.clone(),
    };
    // The first intent carries this record to the disk; a change that only activates has none.
    if change.steps.is_empty() {
        journal.write(&record)?
    } else {
        journal.note(&record)?
    }
    let mut told = None;
    for (index, step) in change.steps.iter().enumerate() {
        let spared = match step {
            Step::Account { edits } => Some(live_account::spared(edits, host)),
            _ => None,
        };
        let shut = spared.and_then(|(edits, why)| {
            told = Some(why?);
            Some(Step::Account { edits })
        });
        let step = shut.as_ref().unwrap_or(step);
        let undo = undo_of(step, host)?;
        journal.write(&Record::Intent { key: change.key.clone(), step: index, undo })?;
        perform(step, host)?;
    }
    Ok(told)
}

/// How a step will be taken back: what it replaces, as it is now.
///
/// # Errors
/// When that cannot be looked at.
pub fn undo_of(step: &Step, host: &dyn Host) -> Result<Undo> {
    Ok(match step {
        Step::Put { path, actor, node } => {
            let left = match node {
                Node::File { content, .. } => Some(digest(content)),
                Node::Dir { .. } => None,
            };
            let before = host.capture(path, actor)?;
            let marks = Some(Marks::put(node, actor, &before));
            Undo::Restore { path: path.clone(), actor: actor.clone(), image: before, left, marks }
        }
        Step::Remove { path, actor } => {
            let (path, actor, image) = (path.clone(), actor.clone(), host.capture(path, actor)?);
            // Where nothing was to remove, an empty file that comes later is no edit: there is nothing of it to lose.
            let left = (image == Image::Absent).then(|| digest(b""));
            Undo::Restore { path, actor, image, left, marks: None }
        }
        Step::Restore { path, actor, image } => {
            let left = match image {
                Image::File { content, .. } => Some(digest(content)),
                _ => None,
            };
            let (marks, before) = (Marks::restored(image, actor), host.capture(path, actor)?);
            Undo::Restore { path: path.clone(), actor: actor.clone(), image: before, left, marks }
        }
        Step::Account { edits } => Undo::Account { edits: host.account_undo(edits)? },
        Step::Run { command: made_by, inverse } => match inverse {
            Inverse::Command(command) => Undo::Run { command: command.clone(), made_by: Some(made_by.clone()) },
            Inverse::Irreversible(why) => Undo::Irreversible { why: why.clone() },
            Inverse::Nothing => Undo::Nothing,
        },
    })
}

fn perform(step: &Step, host: &dyn Host) -> Result<()> {
    match step {
        Step::Put { path, actor, node } => host.put(path, actor, node),
        Step::Remove { path, actor } => host.remove(path, actor),
        Step::Restore { path, actor, image } => put_back(path, actor, image, host).map(drop),
        Step::Account { edits } => host.account(edits).map(drop),
        Step::Run { command, .. } => run(command, host),
    }
}

/// Runs a program that must exit 0.
pub fn run(command: &Command, host: &dyn Host) -> Result<()> {
    let output = host.run(command)?;
    if output.ok() {
        return Ok(());
    }
    Err(Failure::failed(command.program(), format!("exit code {}", output.code)).why(output.last_line()))
}

/// SHA-256 of a file's content, hexadecimal.
pub fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes the running system follow.
///
/// # Errors
/// When the program fails, the daemon is not there, or the listeners do not come or go in time.
pub fn activate(action: &Action, host: &dyn Host) -> Result<()> {
    match action {
        Action::Run(command) => run(command, host),
        Action::When { check, codes, run: then } => {
            let answer = host.ask(check)?;
            match answer.code {
                code if codes.contains(&code) => run(then, host),
                0..=2 => Ok(()),
                // Killed, or it could not look: no answer, and nothing to go by.
                code => Err(Failure::unknown(check.program(), format!("exit code {code}")).why(answer.last_line())),
            }
        }
        Action::Hangup { pidfile, program, by } => host.hangup(pidfile, program, by.as_ref()),
        Action::RestartSocket { socket, service } => restart_socket(socket, service.as_deref(), host),
        Action::KeepSessions { ports } => host.keep_sessions(ports),
        Action::AwaitListeners { open, closed, deadline_ms } => await_listeners(open, closed, *deadline_ms, host),
    }
}

/// systemd refuses to start a socket whose service is active, and whoever connects while that stops starts it again; nor
/// can it listen while a child that the daemon has just made still holds the old listener. Both pass, so a restart that was
/// refused is tried again. systemd itself waits for the end of the service, so that what is asked of it goes through
/// whether or not its caller lives on. Each start of the service counts towards systemd's limit, at which the socket would
/// fail: the count begins anew.
///
/// # Errors
/// When the last of the tries fails.
pub(super) fn restart_socket(socket: &str, service: Option<&str>, host: &dyn Host) -> Result<()> {
    let systemctl = |words: &[&str]| run(&Command::new([&[SYSTEMCTL], words].concat()), host);
    let restart = || {
        systemctl(&["reset-failed", socket])?;
        if let Some(service) = service {
            systemctl(&["reset-failed", service])?;
            systemctl(&["stop", "--no-block", service])?;
        }
        systemctl(&["restart", socket])
    };
    let end = Instant::now() + RESTART;
    loop {
        match restart() {
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            done => return done,
        }
    }
}

fn await_listeners(open: &[Port], closed: &[Port], deadline_ms: u64, host: &dyn Host) -> Result<()> {
    let end = Instant::now() + Duration::from_millis(deadline_ms);
    loop {
        let listeners = host.listeners()?;
        let served = |port: &&Port| listeners.iter().any(|one| one.port == port.get() && facts::serves_ssh(one));
        let missing = open.iter().find(|port| !served(port));
        let lingering = closed.iter().find(|port| listeners.iter().any(|one| one.port == port.get()));
        let failure = match (missing, lingering) {
            (None, None) => return Ok(()),
            (Some(port), _) => {
                let other = listeners.iter().find(|one| one.port == port.get()).map(|one| one.programs.join(", "));
                let what =
                    other.map_or_else(|| "nothing listens on it".to_owned(), |name| format!("{name} has it, not sshd"));
                Failure::failed(format!("port {port}"), what)
            }
            (None, Some(port)) => Failure::failed(format!("port {port}"), "something still listens on it"),
        };
        if Instant::now() >= end {
            return Err(failure.why(format!("waited {deadline_ms} ms")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What taking a step back came to.
pub enum TakenBack {
    /// The path, entry or system is as it was.
    Whole,
    /// Left in place on purpose; why.
    Kept(String),
    /// An account was shut instead of removed; which and why.
    Disabled(String),
}

/// Takes one step back.
///
/// # Errors
/// When it cannot be taken back; the caller goes on with the next.
pub fn take_back(undo: &Undo, host: &dyn Host) -> Result<TakenBack> {
    match undo {
        Undo::Restore { path, actor, image, .. } => return put_back(path, actor, image, host),
        Undo::Account { edits } => {
            let (edits, spared) = live_account::spared(edits, host);
            host.account(&edits)?;
            if let Some(told) = spared {
                return Ok(TakenBack::Disabled(told));
            }
        }
        Undo::Run { command, .. } => run(command, host)?,
        Undo::Irreversible { why } => return Ok(TakenBack::Kept(why.clone())),
        Undo::Nothing => {}
    }
    Ok(TakenBack::Whole)
}

fn put_back(path: &AbsPath, actor: &Actor, image: &Image, host: &dyn Host) -> Result<TakenBack> {
    let filled = host.list(path, actor).is_ok_and(|names| names.is_some_and(|names| !names.is_empty()));
    if *image == Image::Absent && filled {
        return Ok(TakenBack::Kept(format!("{path} holds files that keyward did not put there")));
    }
    host.restore(path, actor, image)?;
    Ok(TakenBack::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::{MemoryHost, World};
    use crate::host::{Output, Probe as _};

    #[test]
    fn a_check_that_gives_no_answer_is_a_failure() {
        let (check, then) = ("/usr/sbin/check", "/usr/sbin/then");
        for (code, acts) in [(0, Some(false)), (1, Some(true)), (2, Some(true)), (4, None), (137, None)] {
            let host = MemoryHost::new(World::default());
            host.program(check, move |_, _| Output { code, stdout: String::new(), stderr: String::new() });
            host.program(then, |world, _| {
                world.file("/acted", "", 0o644);
                Output { code: 0, stdout: String::new(), stderr: String::new() }
            });
            let (check, run) = (Command::new([check]), Command::new([then]));
            let done = activate(&Action::When { check, codes: vec![1, 2], run }, &host);
            assert_eq!(done.is_ok(), acts.is_some(), "{code}");
            assert_eq!(
                host.meta(&AbsPath::fixed("/acted"), &Actor::Root).unwrap().is_some(),
                acts == Some(true),
                "{code}"
            );
        }
    }
}
