//! A host over SSH (`--host`, `--target ssh://`): this same program is put there and told which verb to do; its events
//! come back and are shown here. This side reads the playbook, holds the keys, answers the questions, and is the outside
//! world: it logs in anew through the new door before a run is kept. It opens no file that the host names, and shows
//! nothing that the host says unescaped.

pub mod args;
mod door;
mod proof;
mod relay;
pub mod secret;
mod words;

use std::time::Duration;

use crate::error::{Failure, Result};
use crate::outcome::{Event, Exit, Sink};
use crate::target::ssh::Destination;

use super::Ending;
use super::args::{Cli, Verb};
use super::terminal::{self, Terminal};

use door::Door;
use proof::Proof;
use relay::Relay;

/// How long a run waits for its confirmation when this side can log in by itself.
const BY_ITSELF: Duration = Duration::from_secs(120);
/// And when a person has to.
const WITH_A_PERSON: Duration = Duration::from_secs(300);

/// Does a verb on a host over SSH.
///
/// # Errors
/// Everything that stops it before anything was changed; afterwards the ending says what is known.
pub fn run(cli: &Cli, destination: &Destination, terminal: &mut Terminal) -> Result<Ending> {
    let login = &cli.global.login;
    for (source, option) in [(&login.password, "--password"), (&login.sudo_password, "--sudo-password")] {
        source.as_ref().map_or(Ok(()), |source| source.check(option))?;
    }
    words::refuse(&cli.verb)?;
    let job = match words::playbook(&cli.verb) {
        None => None,
        Some(path) => match terminal.job(path)? {
            Ok(job) => Some(job),
            Err(ending) => return Ok(ending),
        },
    };
    let mut door = Door::new(destination, login, job.as_ref());
    let live = words::live(&cli.verb);
    let by_itself = matches!(cli.verb, Verb::Apply(_)) && !door.held()?.is_empty();
    let usual = if !by_itself && terminal::can_ask() { WITH_A_PERSON } else { BY_ITSELF };
    let words = words::of(&cli.verb, &cli.global, live.map(|live| live.confirm_within.unwrap_or(usual)))?;
    let link = door.open(terminal)?;
    let mut relay = Relay::start(&door, &link, &words, job.as_ref())?;
    let mut proof = Proof::new(&cli.verb, live, job.as_ref(), &door);
    let mut teller = Teller { command: command(door.place()), sink: terminal };
    let told = converse(&mut relay, &mut proof, &mut teller);
    drop(relay);
    let mut ending = match told {
        Ok(ending) => ending,
        Err(failure) => proof.afterwards(failure, &mut teller)?,
    };
    if let Some(place) = proof.last(&mut ending, &mut teller) {
        teller.command = command(&place);
    }
    ending.next = teller.here(&ending.next);
    if (login.leave_nothing || matches!(cli.verb, Verb::Uninstall(_))) && ending.exit != Exit::Pending {
        // After a port move the first connection may be the only one that still has root.
        door.clean(&link, &mut teller);
    }
    Ok(ending)
}

fn command(place: &Destination) -> String {
    format!("keyward --host {}", super::state::quoted(&place.to_string()))
}

/// Shows what the host says and answers what it asks, until it has finished.
fn converse(relay: &mut Relay, proof: &mut Proof<'_>, teller: &mut Teller<'_>) -> Result<Ending> {
    loop {
        match relay.next(Duration::from_millis(100))? {
            relay::Heard::Silence => {}
            relay::Heard::Finished(ending) => return Ok(ending),
            relay::Heard::Event(event) => match *event {
                Event::Asked { question } => {
                    let answer = proof.answer(&question, teller)?;
                    relay.answer(answer)?;
                }
                event => {
                    proof.see(&event);
                    teller.event(event);
                }
            },
        }
        proof.go_on(relay.link(), teller);
    }
}

/// Shows events, with `--host` in the commands that they name.
struct Teller<'a> {
    /// `keyward --host HOST`.
    command: String,
    sink: &'a mut Terminal,
}

impl Teller<'_> {
    /// A command for the host itself, as it is typed here.
    fn here(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for verb in words::VERBS {
            let bare = format!("keyward {verb}");
            // A word of another command (`sudo keyward confirm`) is typed on the host.
            let typed =
                out.starts_with(&bare) || out.contains(&format!(": {bare}")) || out.contains(&format!("; {bare}"));
            if typed {
                out = out.replace(&bare, &format!("{} {verb}", self.command));
            }
        }
        out
    }
}

impl Sink for Teller<'_> {
    fn event(&mut self, event: Event) {
        let event = match event {
            Event::Failed { failure } => Event::Failed { failure: self.failure(failure) },
            Event::RollingBack { reason } => Event::RollingBack { reason: self.failure(reason) },
            other => other,
        };
        self.sink.event(event);
    }
}

impl Teller<'_> {
    fn failure(&self, failure: Failure) -> Failure {
        Failure { hint: self.here(&failure.hint), ..failure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;

    #[test]
    fn commands_of_the_host_are_typed_here() {
        let words = ["keyward", "status"].map(std::ffi::OsString::from);
        let cli = args::parse(words).unwrap();
        let mut terminal = Terminal::new(&cli.global, false, false);
        let teller = Teller { command: "keyward --host root@web".into(), sink: &mut terminal };
        let here = |text: &str| teller.here(text);
        assert_eq!(here("keyward show r1"), "keyward --host root@web show r1");
        assert_eq!(here("undo it now: keyward cancel r1"), "undo it now: keyward --host root@web cancel r1");
        assert_eq!(here("ssh -p 1 x sudo keyward confirm r1"), "ssh -p 1 x sudo keyward confirm r1");
        assert_eq!(here("once it is over: keyward rollback r"), "once it is over: keyward --host root@web rollback r");
        assert_eq!(here(""), "");
    }
}
