//! A verb in a container, or in one that is made of an image for it and removed: the same program is put in there through
//! `exec`, and heeded as a host over SSH is. Nobody logs in from outside; what is changed in there is proven from within.

use std::time::Duration;

use crate::change::Note;
use crate::error::{Failure, Result};
use crate::host::real::RealHost;
use crate::outcome::{Event, Sink};
use crate::target::container::{Container, Named};
use crate::target::talk::Limits;

use super::super::Ending;
use super::super::args::{Cli, Verb};
use super::super::live;
use super::super::signals::Signals;
use super::super::state::quoted;
use super::super::terminal::Terminal;
use super::door::{SAID, read_programs};
use super::heed::Heed;
use super::relay::{self, Heard, Relay};
use super::words;

/// How long a look may take.
const LOOK: Duration = Duration::from_secs(600);

/// Does a verb in there.
///
/// # Errors
/// Everything that stops it before anything was changed.
pub fn run(cli: &Cli, named: &Named, terminal: &mut Terminal) -> Result<Ending> {
    refuse(cli, named)?;
    let mut verb = cli.verb.clone();
    if let (Verb::Audit(args), Named::Image { .. }) = (&mut verb, named) {
        args.at_rest = true;
    }
    let job = match words::playbook(&verb) {
        None => None,
        Some(path) => match terminal.job(path)? {
            Ok(job) => Some(job),
            Err(ending) => return Ok(ending),
        },
    };
    let window = words::live(&verb).and_then(|live| live.confirm_within);
    let words = words::of(&verb, &cli.global.leave_out, window)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let programs = read_programs(&cli.global.login.agent_binary)?;
    // Ctrl-C must not leave a container of ours behind.
    let signals = matches!(named, Named::Image { .. }).then(Signals::hold_once).transpose()?;
    let container = Container::open(named, &RealHost::new())?;
    let limits = Limits { stdout: SAID, ..Limits::default() };
    let started = container.start(&programs, &words, limits)?;
    // What only looks has an end.
    let looks = matches!(verb, Verb::Audit(_) | Verb::Plan(_) | Verb::Access(_));
    let longest = if looks { LOOK } else { relay::LONGEST };
    let mut relay = Relay::with(Box::new(started), container.place(), job.as_ref(), longest)?;
    let mut heed = Heed::new(&verb, format!("keyward --target {}", quoted(container.place())));
    let object = job.map(|job| job.about.playbook).unwrap_or_default();
    let ending = converse(&mut relay, &mut heed, (&verb, &object), signals.as_ref(), terminal);
    drop(relay);
    if let Err(failure) = container.close() {
        terminal.event(Event::Note { note: Note::warning("image", failure.line()) });
    }
    ending
}

/// What makes no sense there.
fn refuse(cli: &Cli, named: &Named) -> Result<()> {
    let login = &cli.global.login;
    if let Some(option) = login.given().filter(|option| *option != "--agent-binary") {
        return Err(Failure::input(option, "is about a host over SSH, not about a container").hint("leave it out"));
    }
    if let Named::Image { .. } = named
        && !matches!(cli.verb, Verb::Audit(_) | Verb::Plan(_) | Verb::Access(_))
    {
        return Err(Failure::input("--target", "an image is looked at, not changed")
            .why("what is done in a container of it would be gone with that")
            .hint("harden its tree while it is built: --target rootfs:DIR; or a container: --target docker:NAME"));
    }
    words::refuse(&cli.verb)
}

/// Shows what it says and asks what it asks, until it has finished.
fn converse(
    relay: &mut Relay,
    heed: &mut Heed,
    (verb, object): (&Verb, &str),
    signals: Option<&Signals>,
    sink: &mut dyn Sink,
) -> Result<Ending> {
    loop {
        if signals.is_some_and(Signals::interrupted) {
            return Err(Failure::refused("keyward", "interrupted").hint("nothing was changed"));
        }
        match relay.next(Duration::from_secs(1))? {
            Heard::Silence => {}
            Heard::Finished(ending) => return heed.ending(ending).map_err(|why| relay.lie(why)),
            Heard::Event(event) => match heed.event(*event).map_err(|why| relay.lie(why))? {
                Event::Asked { question } => {
                    let yes = words::live(verb).is_some_and(|live| live.yes);
                    let agreed = live::agree(yes, verb_name(verb), object, &crate::report::escape::line(&question));
                    relay.answer(agreed.is_ok())?;
                    if let Err(failure) = agreed {
                        sink.event(Event::Failed { failure });
                    }
                }
                event => sink.event(event),
            },
        }
    }
}

const fn verb_name(verb: &Verb) -> &'static str {
    match verb {
        Verb::Rollback(_) => "rollback",
        Verb::Uninstall(_) => "uninstall",
        _ => "apply",
    }
}
