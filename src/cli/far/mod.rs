//! A host over SSH (`--host`, `--target ssh://`), or a container: this same program is put there and told which verb to do; its events
//! come back and are shown here. This side reads the playbook, holds the keys, answers the questions, and is the outside
//! world: it logs in anew through the new door before a run is kept. It opens no file that the host names, and shows
//! nothing that the host says unescaped.

mod after;
pub mod args;
pub mod container;
mod door;
mod heed;
mod interrupt;
mod last;
mod proof;
mod relay;
pub mod secret;
mod ways;
mod words;

use std::time::Duration;

use crate::error::{Failure, Result};
use crate::outcome::{Event, Exit, Sink};
use crate::target::ssh::{Destination, Link, Outcome};
use crate::types::AbsPath;

use super::Ending;
use super::args::{Cli, Verb};
use super::job::Job;
use super::terminal::{self, Terminal};

use args::LoginArgs;
use door::Door;
pub use door::{Early, Shelf};
pub use heed::{Heed, short};
pub use interrupt::{Interrupt, Wish};
use proof::Proof;
use relay::Relay;
pub use words::{agreed_to, live, of_run, playbook};

/// How long a run waits for its confirmation when this side can log in by itself.
pub const BY_ITSELF: Duration = Duration::from_secs(120);
/// And when a person has to.
const WITH_A_PERSON: Duration = Duration::from_secs(300);

/// A verb for one host, with all that this side knows for it.
pub struct Errand<'a> {
    /// What to do there.
    pub verb: &'a Verb,
    /// Mounts that a copy does without.
    pub leave_out: &'a [AbsPath],
    /// How to get in.
    pub login: &'a LoginArgs,
    /// Where, as it was typed.
    pub destination: &'a Destination,
    /// The playbook, for verbs that have one.
    pub job: Option<&'a Job>,
    /// What was agreed to ([`crate::change::Plan::agreement`]); `None`: it is asked about.
    pub agreed: Option<&'a str>,
    /// Who may want the run undone.
    pub interrupt: Interrupt,
}

/// Does a verb on a host over SSH.
///
/// # Errors
/// Everything that stops it before anything was changed; afterwards the ending says what is known.
pub fn run(cli: &Cli, destination: &Destination, terminal: &mut Terminal) -> Result<Ending> {
    let login = &cli.global.login;
    prepare(cli)?;
    let early = Early::begin(destination, login);
    let job = match words::playbook(&cli.verb) {
        None => None,
        Some(path) => match terminal.job(path)? {
            Ok(job) => Some(job),
            Err(ending) => return Ok(ending),
        },
    };
    let errand = Errand {
        verb: &cli.verb,
        leave_out: &cli.global.leave_out,
        login,
        destination,
        job: job.as_ref(),
        agreed: None,
        interrupt: Interrupt::keyboard(),
    };
    errand.run(early, terminal).map_err(Failure::from)
}

/// What holds for every host: secrets come from somewhere, the verb can be done over SSH, and nothing of this process is
/// left in a core.
///
/// # Errors
/// Input and refused, before any connection.
pub fn prepare(cli: &Cli) -> Result<()> {
    let login = &cli.global.login;
    for (source, option) in [(&login.password, "--password"), (&login.sudo_password, "--sudo-password")] {
        source.as_ref().map_or(Ok(()), |source| source.check(option))?;
    }
    words::refuse(&cli.verb)?;
    crate::host::real::keep_to_itself()
}

impl Errand<'_> {
    /// Connects, does it, and tells how it ended.
    ///
    /// # Errors
    /// Everything that stops it before anything was changed; afterwards the ending says what is known.
    pub fn run(self, early: Early, sink: &mut dyn Sink) -> Outcome<Ending> {
        let Self { verb, leave_out, login, destination, job, agreed, interrupt } = self;
        let mut door = Door::new(destination, login, job, early);
        let live = words::live(verb);
        let by_itself = matches!(verb, Verb::Apply(_)) && !door.held()?.is_empty();
        let usual = if !by_itself && terminal::can_ask() { WITH_A_PERSON } else { BY_ITSELF };
        let window = live.map(|live| live.confirm_within.unwrap_or(usual));
        let words = words::of(verb, leave_out, window)?;
        let link = door.open(sink)?;
        interrupt.reached();
        let mut proof = Proof::new(verb, live, job, &door, window.unwrap_or(BY_ITSELF), interrupt);
        proof.agreed = agreed.map(str::to_owned);
        proof.not_interrupted()?;
        let mut relay = Relay::start(&door, &link, &words, job, relay::LONGEST)?;
        let told = converse(&mut relay, &link, &mut proof, sink);
        let lied = relay.lied();
        drop(relay);
        let mut ending = match told {
            Ok(ending) => ending,
            Err(failure) if lied => proof.refused(failure, sink),
            Err(failure) => proof.afterwards(&link, failure, sink)?,
        };
        if let Some(place) = proof.last(&link, &mut ending, sink) {
            // What is typed next goes through the new door.
            ending.next = ending.next.replacen(&proof.heed.command, &door.command(&place), 1);
        }
        if let (Exit::Pending, Some(place), Some(run)) = (ending.exit, proof.confirms_from(), &ending.run) {
            // Through the door that closes nobody confirms.
            ending.next = format!("{} confirm {run}", door.command(&place));
        }
        if matches!(verb, Verb::Cancel(_)) || matches!(verb, Verb::Rollback(_)) && ending.exit == Exit::AsAsked {
            // The door that this came through may be the one that was just taken back.
            ending.next.clear();
        }
        if (login.leave_nothing || matches!(verb, Verb::Uninstall(_))) && ending.exit != Exit::Pending {
            // After a port move the first connection may be the only one that still has root.
            door.clean(&link, sink);
        }
        Ok(ending)
    }
}

/// Shows what the host says and answers what it asks, until it has finished.
fn converse(relay: &mut Relay, link: &Link, proof: &mut Proof<'_>, sink: &mut dyn Sink) -> Result<Ending> {
    loop {
        match relay.next(Duration::from_millis(100))? {
            relay::Heard::Silence => {}
            relay::Heard::Finished(ending) => return proof.heed.ending(ending).map_err(|why| relay.lie(why)),
            relay::Heard::Event(event) => match proof.heed.event(*event).map_err(|why| relay.lie(why))? {
                Event::Asked { question } => {
                    let answer = proof.answer(&question, sink)?;
                    relay.answer(answer)?;
                }
                event => {
                    let told = proof.see(&event);
                    sink.event(event);
                    told.into_iter().flatten().for_each(|note| sink.event(Event::Note { note }));
                }
            },
        }
        proof.go_on(relay, link, sink);
    }
}
