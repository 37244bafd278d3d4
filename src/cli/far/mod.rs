//! A host over SSH (`--host`, `--target ssh://`): this same program is put there and told which verb to do; its events
//! come back and are shown here. This side reads the playbook, holds the keys, answers the questions, and is the outside
//! world: it logs in anew through the new door before a run is kept. It opens no file that the host names, and shows
//! nothing that the host says unescaped.

mod after;
pub mod args;
mod door;
mod heed;
mod last;
mod proof;
mod relay;
pub mod secret;
mod ways;
mod words;

use std::time::Duration;

use crate::error::Result;
use crate::outcome::{Event, Exit, Sink as _};
use crate::target::ssh::Destination;

use super::Ending;
use super::args::{Cli, Verb};
use super::terminal::{self, Terminal};

use door::{Door, Early};
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
    crate::host::real::keep_to_itself()?;
    let early = Early::begin(destination, login);
    let job = match words::playbook(&cli.verb) {
        None => None,
        Some(path) => match terminal.job(path)? {
            Ok(job) => Some(job),
            Err(ending) => return Ok(ending),
        },
    };
    let mut door = Door::new(destination, login, job.as_ref(), early);
    let live = words::live(&cli.verb);
    let by_itself = matches!(cli.verb, Verb::Apply(_)) && !door.held()?.is_empty();
    let usual = if !by_itself && terminal::can_ask() { WITH_A_PERSON } else { BY_ITSELF };
    let window = live.map(|live| live.confirm_within.unwrap_or(usual));
    let words = words::of(&cli.verb, &cli.global, window)?;
    let link = door.open(terminal)?;
    let mut relay = Relay::start(&door, &link, &words, job.as_ref(), relay::LONGEST)?;
    let mut proof = Proof::new(&cli.verb, live, job.as_ref(), &door, window.unwrap_or(BY_ITSELF));
    let told = converse(&mut relay, &mut proof, terminal);
    let lied = relay.lied();
    drop(relay);
    let mut ending = match told {
        Ok(ending) => ending,
        Err(failure) if lied => proof.refused(failure, terminal),
        Err(failure) => proof.afterwards(&link, failure, terminal)?,
    };
    if let Some(place) = proof.last(&link, &mut ending, terminal) {
        // What is typed next goes through the new door.
        ending.next = ending.next.replacen(&proof.heed.command, &door.command(&place), 1);
    }
    if let (Exit::Pending, Some(place), Some(run)) = (ending.exit, proof.confirms_from(), &ending.run) {
        // Through the door that closes nobody confirms.
        ending.next = format!("{} confirm {run}", door.command(&place));
    }
    if matches!(cli.verb, Verb::Cancel(_)) || matches!(cli.verb, Verb::Rollback(_)) && ending.exit == Exit::AsAsked {
        // The door that this came through may be the one that was just taken back.
        ending.next.clear();
    }
    if (login.leave_nothing || matches!(cli.verb, Verb::Uninstall(_))) && ending.exit != Exit::Pending {
        // After a port move the first connection may be the only one that still has root.
        door.clean(&link, terminal);
    }
    Ok(ending)
}

/// Shows what the host says and answers what it asks, until it has finished.
fn converse(relay: &mut Relay, proof: &mut Proof<'_>, terminal: &mut Terminal) -> Result<Ending> {
    loop {
        match relay.next(Duration::from_millis(100))? {
            relay::Heard::Silence => {}
            relay::Heard::Finished(ending) => return proof.heed.ending(ending).map_err(|why| relay.lie(why)),
            relay::Heard::Event(event) => match proof.heed.event(*event).map_err(|why| relay.lie(why))? {
                Event::Asked { question } => {
                    let answer = proof.answer(&question, terminal)?;
                    relay.answer(answer)?;
                }
                event => {
                    let told = proof.see(&event);
                    terminal.event(event);
                    told.into_iter().flatten().for_each(|note| terminal.event(Event::Note { note }));
                }
            },
        }
        proof.go_on(relay, terminal);
    }
}
