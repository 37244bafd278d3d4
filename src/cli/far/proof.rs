//! The run, watched from outside (L3): once both doors are open, this side logs in anew through the new one, with a key
//! that the playbook declares and the host key that it has seen, and confirms from there by sudo. What does not let it in
//! in time is undone at once. It gives up before the host does.

use std::time::{Duration, Instant};

use crate::change::{Note, Plan, Promise, Risk};
use crate::error::{Failure, Result};
use crate::outcome::{Event, Evidence, Exit, Proven, Reach, Sink};
use crate::target::ssh::{Destination, Link, Outcome, Setback, Trouble};
use crate::types::{PublicKey, UserName, Word as _};

use super::super::args::{LiveArgs, Verb};
use super::super::guard::Signals;
use super::super::handed;
use super::super::job::Job;
use super::super::state::quoted;
use super::super::{Ending, live, terminal};
use super::Teller;
use super::door::{Door, Way, fingerprint};
use super::relay::{Heard, Relay};

/// Between two tries to log in.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the end of a lost run is asked for, after its window.
const PATIENCE: Duration = Duration::from_secs(90);

/// Longest reason that is kept, in characters.
const WHY: usize = 300;

/// What the host said of a run that waits.
#[derive(Debug, Clone)]
struct Armed {
    run: String,
    nonce: String,
    window: Duration,
    at: Instant,
}

/// How far the run has come.
enum Stage {
    /// Both doors are not open yet, or nothing has to be confirmed.
    Waits,
    /// They are.
    Opened,
    /// The program that confirms waits for the end.
    Confirming(Box<Relay>),
    /// It did, or a person has to.
    Settled,
}

/// One verb on one host, seen from outside.
pub struct Proof<'a> {
    door: &'a Door<'a>,
    verb: &'static str,
    object: String,
    live: Option<&'a LiveArgs>,
    /// Keys of administrators that can be signed with here; none for a verb that only a person can confirm.
    held: Vec<(UserName, PublicKey)>,
    plan: Option<Plan>,
    started: Option<String>,
    armed: Option<Armed>,
    stage: Stage,
    /// The new door, once it has opened.
    way: Option<Way>,
    signals: Option<Signals>,
}

impl<'a> Proof<'a> {
    /// Nothing was seen yet.
    pub fn new(verb: &Verb, live: Option<&'a LiveArgs>, job: Option<&Job>, door: &'a Door<'a>) -> Self {
        let (verb, object) = match verb {
            Verb::Apply(_) => ("apply", job.map(|job| job.about.playbook.clone()).unwrap_or_default()),
            Verb::Rollback(args) => ("rollback", args.run.clone().unwrap_or_default()),
            _ => ("keyward", String::new()),
        };
        // Nobody can prove somebody else's key, and those that a rollback brings back are not the playbook's.
        let held = if verb == "apply" { door.held().unwrap_or_default() } else { Vec::new() };
        let (plan, started, armed, way, signals) = (None, None, None, None, None);
        Self { door, verb, object, live, held, plan, started, armed, stage: Stage::Waits, way, signals }
    }

    /// Takes note of an event.
    pub fn see(&mut self, event: &Event) {
        match event {
            Event::Planned { plan } => self.plan = Some((**plan).clone()),
            Event::Started { run } => self.started = Some(run.clone()),
            Event::Armed { run, nonce, window_ms, .. } if is_word(run) && is_word(nonce) => {
                let window = Duration::from_millis(*window_ms);
                self.armed = Some(Armed { run: run.clone(), nonce: nonce.clone(), window, at: Instant::now() });
                // From here on a Ctrl-C is a wish to undo, not an end.
                self.signals = Signals::hold().ok();
            }
            Event::Opened { run } if self.armed.as_ref().is_some_and(|armed| armed.run == *run) => {
                self.stage = Stage::Opened;
            }
            Event::Decided { .. } if matches!(self.stage, Stage::Opened) => self.stage = Stage::Settled,
            _ => {}
        }
    }

    /// The answer to a question of the host.
    ///
    /// # Errors
    /// Refused when nobody is here who could confirm, or say yes; nothing was changed then.
    pub fn answer(&self, question: &str, teller: &mut Teller<'_>) -> Result<bool> {
        let agreed = self.may_be_confirmed(teller).and_then(|()| match self.live {
            Some(live) => live::agree(live.yes, self.verb, &self.object, &crate::report::escape::line(question)),
            None => live::agree(false, self.verb, &self.object, &crate::report::escape::line(question)),
        });
        match agreed {
            Ok(()) => Ok(true),
            Err(failure) if self.started.is_some() => {
                // The run has begun: it says itself how it ends.
                teller.event(Event::Failed { failure });
                Ok(false)
            }
            Err(failure) => Err(Failure { hint: teller.here(&failure.hint), ..failure }),
        }
    }

    /// Somebody must be able to confirm a run that touches ways in: this side, or a person.
    fn may_be_confirmed(&self, teller: &mut Teller<'_>) -> Result<()> {
        let risky = |plan: &Plan| plan.risk() == Risk::Access || !plan.deferred.is_empty();
        let Some(live) = self.live.filter(|_| self.plan.as_ref().is_some_and(risky)) else { return Ok(()) };
        if !self.held.is_empty() || live.detach || live.i_accept_that_this_host_may_lock_me_out {
            return Ok(());
        }
        let why = if self.verb == "apply" {
            "no private key of an administrator of the playbook is here: not in the agent, not in a key file of ~/.ssh"
        } else {
            "a rollback is confirmed by a person, through the door that comes back"
        };
        if terminal::can_ask() {
            let text = format!("{why}; you will have to confirm the run from a second terminal");
            teller.event(Event::Note { note: Note::warning("confirm", text) });
            return Ok(());
        }
        if live.confirm_within.is_some() {
            return Ok(());
        }
        Err(Failure::refused(self.verb, "the plan touches ways in, and nobody could confirm it").why(why).hint(format!(
            "ssh-add the key, or name it: --login-key FILE; or name the time in which somebody will confirm: keyward {} \
             --confirm-within 300s {}",
            self.verb,
            quoted(&self.object)
        )))
    }

    /// One turn: logs in and confirms when both doors are open, listens to the program that confirms, undoes on Ctrl-C.
    pub fn go_on(&mut self, link: &Link, teller: &mut Teller<'_>) {
        if self.signals.as_ref().is_some_and(Signals::interrupted) && !matches!(self.stage, Stage::Settled) {
            self.cancel(link, "interrupted at the keyboard", teller);
        }
        match &mut self.stage {
            Stage::Waits | Stage::Settled => {}
            Stage::Opened => self.confirm(link, teller),
            Stage::Confirming(relay) => match relay.next(Duration::ZERO) {
                Ok(Heard::Silence) => {}
                Ok(Heard::Event(event)) => {
                    if let Event::Failed { failure } = *event {
                        let why = format!("the host does not take this login for a proof: {}", failure.line());
                        self.cancel(link, &why, teller);
                    }
                }
                // It waited for the end, which the program that applies tells itself.
                Ok(Heard::Finished(_)) => self.stage = Stage::Settled,
                Err(_) => self.stage = Stage::Settled,
            },
        }
    }

    fn confirm(&mut self, link: &Link, teller: &mut Teller<'_>) {
        let Some(armed) = self.armed.clone() else { return };
        if self.held.is_empty() {
            self.stage = Stage::Settled;
            teller.event(Event::Note { note: Note::info("confirm", self.by_hand(&armed)) });
            return;
        }
        let begun = Instant::now();
        let (what, tried) = self.log_in(link, &armed, armed.window / 2);
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let reach = Reach::L3;
        match tried {
            Ok((way, new)) => {
                let seen = "a fresh connection from here, by a key of the playbook".to_owned();
                let evidence = Evidence { what, proven: Proven::Yes, reach, seen, millis };
                teller.event(Event::Proof { evidence });
                self.way = Some(way);
                let words = ["confirm", "--from-controller", "--nonce", &armed.nonce, &armed.run];
                match Relay::start(self.door, &new, &spoken(&words), None) {
                    Ok(relay) => self.stage = Stage::Confirming(Box::new(relay)),
                    Err(failure) => {
                        self.cancel(link, &format!("no root through the new door: {}", failure.line()), teller);
                    }
                }
            }
            Err(setback) => {
                let seen = setback.failure.line();
                let evidence = Evidence { what, proven: Proven::No, reach, seen: seen.clone(), millis };
                teller.event(Event::Proof { evidence });
                self.cancel(link, &format!("the new door does not open from here: {seen}"), teller);
            }
        }
    }

    /// Logs in through the new door, within `limit` where the trouble may pass.
    fn log_in(&self, link: &Link, armed: &Armed, limit: Duration) -> (String, Outcome<(Way, Link)>) {
        let ways = self.ways(link);
        let named = ways.first().map_or_else(|| "an administrator".to_owned(), |way| way.place.to_string());
        let what = format!("{}{named}", Evidence::LOGIN);
        let mut last = Setback::new(Trouble::Local, link.place(), "no administrator of the plan has a key here");
        loop {
            for way in &ways {
                match self.door.through(way) {
                    Ok(new) => return (format!("{}{}", Evidence::LOGIN, way.place), Ok((way.clone(), new))),
                    Err(setback) => last = setback,
                }
            }
            let passes = matches!(
                last.trouble,
                Trouble::Refused
                    | Trouble::Filtered
                    | Trouble::Unreachable
                    | Trouble::Timeout
                    | Trouble::Reset { .. }
                    | Trouble::Crowded
                    | Trouble::Broken
            );
            if !passes || armed.at.elapsed() + PAUSE > limit {
                return (what, Err(last));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The planned administrators, at the planned port, each with the keys that are here.
    fn ways(&self, link: &Link) -> Vec<Way> {
        let Some(plan) = &self.plan else { return Vec::new() };
        let port = plan.promises.iter().find_map(|promise| match promise {
            Promise::SshPort { port } => Some(port.get()),
            _ => None,
        });
        let pin = fingerprint(link.host_key());
        let planned = plan.promises.iter().filter_map(|promise| match promise {
            Promise::Admin { user, .. } => Some(user),
            _ => None,
        });
        let mut ways: Vec<Way> = Vec::new();
        for user in planned {
            let keys: Vec<PublicKey> =
                self.held.iter().filter(|(one, _)| one == user).map(|(_, key)| key.clone()).collect();
            if keys.is_empty() || pin.is_none() {
                continue;
            }
            let typed = self.door.place();
            let place = Destination { user: Some(user.text()), host: typed.host.clone(), port: port.or(typed.port) };
            ways.push(Way { place, keys: Some(keys), pin: pin.clone(), key_port: None });
        }
        ways
    }

    /// What a person types to confirm.
    fn by_hand(&self, armed: &Armed) -> String {
        let promises = self.plan.as_ref().map(|plan| plan.promises.as_slice()).unwrap_or_default();
        // A rollback is confirmed by an account that it leaves, by a key that it leaves where it takes any.
        let leaves = promises.iter().any(|promise| matches!(promise, Promise::SomebodyElse { .. }));
        let user = promises.iter().find_map(|promise| match promise {
            Promise::Admin { user, .. } if !leaves => Some(user.text()),
            Promise::Key { user, .. } if leaves => Some(user.text()),
            _ => None,
        });
        let user = user.or_else(|| leaves.then(|| "root".to_owned()));
        let port = promises.iter().find_map(|promise| match promise {
            Promise::SshPort { port } => Some(port.get()),
            _ => None,
        });
        let typed = self.door.place();
        let user = user.or_else(|| typed.user.clone()).unwrap_or_else(|| "ADMIN".to_owned());
        let place = Destination { user: Some(user), host: typed.host.clone(), port: port.or(typed.port) };
        format!(
            "both doors are open; to keep the change, within {} s, in a second terminal: keyward --host {place} confirm {}",
            armed.window.saturating_sub(armed.at.elapsed()).as_secs(),
            armed.run
        )
    }

    /// Undoes the run at once; the program that applies then tells how that went.
    fn cancel(&mut self, link: &Link, why: &str, teller: &mut Teller<'_>) {
        self.stage = Stage::Settled;
        let Some(armed) = self.armed.clone() else { return };
        teller.event(Event::Note { note: Note::warning("cancel", format!("undoing run {}: {why}", armed.run)) });
        // For the history of the host.
        let because: String = why.chars().filter(|c| !c.is_control()).take(WHY).collect();
        let words = spoken(&["cancel", &format!("--because={because}"), &armed.run]);
        let cancelled = Relay::start(self.door, link, &words, None).and_then(|mut relay| {
            loop {
                match relay.next(PATIENCE)? {
                    Heard::Finished(_) => return Ok(()),
                    Heard::Event(event) => {
                        if let Event::Failed { failure } = *event {
                            return Err(failure);
                        }
                    }
                    Heard::Silence => return Err(Failure::unknown("cancel", "no answer in time")),
                }
            }
        });
        if let Err(failure) = cancelled {
            let text = format!("{}; the host undoes it at its deadline", failure.line());
            teller.event(Event::Note { note: Note::warning("cancel", text) });
        }
    }

    /// The last proof: one more fresh login, after the old doors were closed. Gives back where the host is from now on.
    pub fn last(&self, ending: &mut Ending, teller: &mut Teller<'_>) -> Option<Destination> {
        let way = self.way.as_ref().filter(|_| ending.exit == Exit::AsAsked)?;
        let begun = Instant::now();
        let tried = self
            .door
            .through(way)
            .map_err(Failure::from)
            .and_then(|link| Relay::start(self.door, &link, &spoken(&["status"]), None).map(drop));
        let (proven, seen) = match &tried {
            Ok(()) => (Proven::Yes, "sudo works; the old doors are closed".to_owned()),
            Err(failure) => (Proven::No, failure.line()),
        };
        let what = format!("{}{}", Evidence::LOGIN, way.place);
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        teller.event(Event::Proof { evidence: Evidence { what, proven, reach: Reach::L3, seen, millis } });
        if tried.is_err() {
            ending.exit = Exit::Unverified;
            ending.verdict = format!("{}, but the last login from here failed", ending.verdict);
            ending.next = format!("keyward rollback {}", ending.run.clone().unwrap_or_default());
            return None;
        }
        Some(way.place.clone())
    }

    /// The link was lost, or the host said what cannot be understood: how did the run end?
    ///
    /// # Errors
    /// The failure itself when no run had begun.
    pub fn afterwards(&mut self, failure: Failure, teller: &mut Teller<'_>) -> Result<Ending> {
        let run = self.armed.as_ref().map(|armed| armed.run.clone()).or_else(|| self.started.clone());
        let Some(run) = run else { return Err(failure) };
        let left = self.armed.as_ref().map_or(Duration::ZERO, |armed| armed.window.saturating_sub(armed.at.elapsed()));
        let until = Instant::now() + left + PATIENCE;
        teller.event(Event::Failed { failure });
        let text = format!(
            "asking the host how run {run} ended; without a confirmation it is undone within {} s",
            left.as_secs()
        );
        teller.event(Event::Note { note: Note::info("ssh", text) });
        if let Stage::Confirming(relay) = &mut self.stage {
            while Instant::now() < until {
                match relay.next(PAUSE) {
                    Ok(Heard::Finished(ending)) => return Ok(ending),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
        let typed = Way { place: self.door.place().clone(), keys: None, pin: None, key_port: None };
        let ways: Vec<Way> = self.way.iter().cloned().chain([typed]).collect();
        while Instant::now() < until {
            for way in &ways {
                if let Some((exit, verdict)) = self.door.through(way).ok().and_then(|link| self.ended(&link, &run)) {
                    return Ok(Ending { exit, verdict, next: format!("keyward show {run}"), run: Some(run) });
                }
            }
            std::thread::sleep(PAUSE * 3);
        }
        let verdict = format!("the link was lost, and run {run} cannot be asked about; unconfirmed it was undone");
        Ok(Ending { exit: Exit::CannotJudge, verdict, next: format!("keyward show {run}"), run: Some(run) })
    }

    /// How the run ended, by the host's history; `None` while it goes on, or nobody says.
    fn ended(&self, link: &Link, wanted: &str) -> Option<(Exit, String)> {
        let mut relay = Relay::start(self.door, link, &spoken(&["history"]), None).ok()?;
        let mut found = None;
        loop {
            match relay.next(PATIENCE).ok()? {
                Heard::Event(event) => {
                    if let Event::Run { run, exit, verdict, .. } = *event
                        && run == wanted
                    {
                        found = exit.map(|exit| (exit, verdict));
                    }
                }
                Heard::Finished(_) => return found,
                Heard::Silence => return None,
            }
        }
    }
}

/// A verb's words for the program there.
fn spoken(words: &[&str]) -> Vec<String> {
    let before = ["--format", "json", handed::OPTION, handed::STDIN];
    before.iter().chain(words).map(|word| (*word).to_owned()).collect()
}

/// What the host gives as a name goes back to it as a word of a command line.
fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
    !text.is_empty() && text.len() <= 100 && text.chars().all(plain) && !text.starts_with('-')
}
