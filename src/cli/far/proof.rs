//! The run, watched from outside (L3): once both doors are open, this side logs in anew through the new one, with a key
//! that the playbook declares and the host key that it has seen, and confirms from there by sudo. What does not let it in
//! in time is undone at once. It gives up before the host does.

use std::time::{Duration, Instant};

use crate::change::{Note, Plan, Risk};
use crate::error::{Failure, Result};
use crate::outcome::{Event, Evidence, Proven, Reach, Sink};
use crate::target::ssh::{Link, Outcome, Setback, Trouble};
use crate::types::{PublicKey, UserName};

use super::super::args::{LiveArgs, Verb};
use super::super::handed;
use super::super::job::Job;
use super::super::state::quoted;
use super::super::{live, terminal};
use super::door::{Door, Way};
use super::heed::Heed;
use super::interrupt::Interrupt;
use super::relay::{Heard, Relay};

/// Between two tries to log in.
const PAUSE: Duration = Duration::from_secs(1);
/// The host counts the beginning of a login in steps of so long, and one in the step of the opening is too early for it.
const GRAIN: Duration = Duration::from_millis(10);
/// How long the end of a lost run is asked for, after its window.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);
/// How long a verb on one of many hosts may go on that nobody wants any more, and that cannot have begun a run.
const HASTE: Duration = Duration::from_secs(5);
/// How long a run that was confirmed may take for its last stage.
const LAST_STAGE: Duration = Duration::from_secs(600);

/// How long one that nobody wants any more may say nothing meanwhile, before its place is given up.
const LAST_SILENCE: Duration = Duration::from_secs(300);

/// Longest reason that is kept, in characters.
const WHY: usize = 300;

/// What the host said of a run that waits.
#[derive(Debug, Clone)]
pub(super) struct Armed {
    pub(super) run: String,
    nonce: String,
    window: Duration,
    at: Instant,
}

impl Armed {
    /// Until the host undoes it.
    pub(super) fn left(&self) -> Duration {
        self.window.saturating_sub(self.at.elapsed())
    }
}

/// How far the run has come.
pub(super) enum Stage {
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
    pub(super) door: &'a Door<'a>,
    pub(super) verb: &'static str,
    object: String,
    pub(super) live: Option<&'a LiveArgs>,
    /// Keys of administrators that can be signed with here; none for a verb that only a person can confirm.
    pub(super) held: Vec<(UserName, PublicKey)>,
    pub(super) plan: Option<Plan>,
    pub(super) started: Option<String>,
    pub(super) armed: Option<Armed>,
    pub(super) stage: Stage,
    /// The new door, once it has opened.
    pub(super) way: Option<Way>,
    /// True once this side has confirmed through it.
    pub(super) confirmed: bool,
    /// How many of the changes that close were made, as the host says.
    pub(super) closed: usize,
    /// True from the last of them until the last login is tried.
    pub(super) all_closed: bool,
    /// True once the last login was made.
    pub(super) seen_last: bool,
    /// How long the run waits, as it was told from here: what the host says of it may only be less.
    window: Duration,
    interrupt: Interrupt,
    /// What was agreed to before ([`Plan::agreement`]); none: a yes is asked for.
    pub agreed: Option<String>,
    /// True once that was held against the host's plan.
    was_agreed: bool,
    /// The host was told to go on.
    said_yes: bool,
    /// Somebody wants the run undone.
    interrupted: bool,
    /// What the host may say.
    pub(super) heed: Heed,
}

impl<'a> Proof<'a> {
    /// Nothing was seen yet.
    pub fn new(
        verb: &Verb,
        live: Option<&'a LiveArgs>,
        job: Option<&Job>,
        door: &'a Door<'a>,
        window: Duration,
        interrupt: Interrupt,
    ) -> Self {
        let heed = Heed::new(verb, door.command(door.place()));
        let (verb, object) = match verb {
            Verb::Apply(_) => ("apply", job.map(|job| job.about.playbook.clone()).unwrap_or_default()),
            Verb::Rollback(args) => ("rollback", args.run.clone().unwrap_or_default()),
            Verb::Uninstall(_) => ("uninstall", String::new()),
            _ => ("keyward", String::new()),
        };
        // Nobody can prove somebody else's key, and those that a rollback brings back are not the playbook's.
        let held = if verb == "apply" { door.held().unwrap_or_default() } else { Vec::new() };
        let (plan, started, armed, way) = (None, None, None, None);
        let (stage, confirmed) = (Stage::Waits, false);
        let interrupted = false;
        Self {
            door,
            verb,
            object,
            live,
            held,
            plan,
            started,
            armed,
            stage,
            way,
            confirmed,
            closed: 0,
            all_closed: false,
            seen_last: false,
            window,
            interrupt,
            agreed: None,
            was_agreed: false,
            said_yes: false,
            interrupted,
            heed,
        }
    }

    /// Takes note of an event; gives back what the operator has to read after it.
    pub fn see(&mut self, event: &Event) -> Option<[Note; 2]> {
        match event {
            Event::Planned { plan } => self.plan = Some((**plan).clone()),
            Event::Changed { change, .. } => self.count(change),
            Event::Started { run } => self.started = Some(run.clone()),
            // The first one counts: a host that says it again must not move the deadline.
            Event::Armed { run, nonce, window_ms, .. } if self.armed.is_none() => {
                let window = Duration::from_millis(*window_ms).min(self.window);
                self.armed = Some(Armed { run: run.clone(), nonce: nonce.clone(), window, at: Instant::now() });
                // A host that did not ask before.
                self.interrupt.hold();
                return self.armed.as_ref().map(|armed| self.announcement(armed));
            }
            // One that was cancelled meanwhile opens nothing that this side would wait for.
            Event::Opened { run } if self.armed.as_ref().is_some_and(|armed| armed.run == *run) => {
                if matches!(self.stage, Stage::Waits) {
                    self.stage = Stage::Opened;
                }
            }
            _ => {}
        }
        None
    }

    /// The answer to a question of the host.
    ///
    /// # Errors
    /// Refused when nobody is here who could confirm, or say yes; nothing was changed then.
    pub fn answer(&mut self, question: &str, sink: &mut dyn Sink) -> Result<bool> {
        let agreed = self.not_interrupted().and_then(|()| self.may_be_confirmed(sink)).and_then(|()| match self.live {
            _ if self.agreed.is_some() => self.is_as_agreed(),
            Some(live) => live::agree(live.yes, self.verb, &self.object, &crate::report::escape::line(question)),
            None => live::agree(false, self.verb, &self.object, &crate::report::escape::line(question)),
        });
        match agreed {
            Ok(()) => {
                self.door.unlock();
                self.interrupt.hold();
                self.said_yes = true;
                Ok(true)
            }
            Err(failure) if self.started.is_some() => {
                // The run has begun: it says itself how it ends.
                sink.event(Event::Failed { failure: self.typed(failure) });
                Ok(false)
            }
            Err(failure) => Err(self.typed(failure)),
        }
    }

    /// A run that is not wanted any more does not begin.
    ///
    /// # Errors
    /// Refused once somebody wants it undone.
    pub fn not_interrupted(&mut self) -> Result<()> {
        self.interrupted |= self.interrupt.taken();
        if !self.interrupted {
            return Ok(());
        }
        let what = if self.said_yes { "interrupted" } else { "interrupted before anything was changed" };
        Err(Failure::refused(self.verb, what).why(self.interrupt.reason()))
    }

    /// What follows once packages are there was agreed to with the plan that waits for them.
    fn is_as_agreed(&mut self) -> Result<()> {
        let is_first = !std::mem::replace(&mut self.was_agreed, true);
        let seen = self.plan.as_ref().and_then(Plan::agreement);
        if !is_first || seen.is_some() && self.agreed == seen {
            return Ok(());
        }
        Err(Failure::refused(self.verb, "the host's plan is not the one that was agreed to; nothing was changed")
            .why("the host has changed since it was shown")
            .hint("look again: keyward plan"))
    }

    /// A failure of this side's, with its command as it is typed here.
    pub(super) fn typed(&self, failure: Failure) -> Failure {
        Failure { hint: self.heed.here(&failure.hint).unwrap_or(failure.hint), ..failure }
    }

    /// True when the run touches ways in, or nobody has said what it touches.
    pub(super) fn is_risky(&self) -> bool {
        let risky = |plan: &Plan| plan.risk() == Risk::Access || !plan.deferred.is_empty();
        self.armed.is_some() || self.plan.as_ref().is_none_or(risky)
    }

    /// Somebody must be able to confirm a run that touches ways in: this side, or a person.
    fn may_be_confirmed(&self, sink: &mut dyn Sink) -> Result<()> {
        let Some(live) = self.live.filter(|_| self.plan.is_some() && self.is_risky()) else { return Ok(()) };
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
            sink.event(Event::Note { note: Note::warning("confirm", text) });
            return Ok(());
        }
        if live.confirm_within.is_some() {
            return Ok(());
        }
        Err(Failure::refused(self.verb, "the plan touches ways in, and nobody could confirm it").why(why).hint(format!(
            "ssh-add the key, or name it: --login-key FILE; or name the time in which somebody will confirm: keyward {}{} \
             --confirm-within 300s{}",
            self.verb,
            if live.yes { " --yes" } else { "" },
            if self.object.is_empty() { String::new() } else { format!(" {}", quoted(&self.object)) }
        )))
    }

    /// One turn: logs in and confirms when both doors are open, listens to the program that confirms, undoes on Ctrl-C.
    pub fn go_on(&mut self, main: &mut Relay, link: &Link, sink: &mut dyn Sink) {
        if self.interrupt.taken() {
            let text = if self.confirmed {
                "interrupted, but the run is confirmed: it goes on, and can be rolled back once it is over"
            } else {
                "interrupted: the run is undone as soon as it can be; once more, and keyward leaves, and the host undoes \
                 what nobody confirms"
            };
            sink.event(Event::Note { note: Note::warning("cancel", text) });
            self.interrupted = !self.confirmed;
            if self.armed.is_none() && self.interrupted && self.interrupt.is_of_many() {
                // One host must not hold the place of others. Once it has a yes it may be about to begin.
                main.within(if self.said_yes { PATIENCE } else { HASTE });
            }
        }
        if self.confirmed && self.interrupt.is_of_many() && self.interrupt.waits() {
            // It closes what is left, and says so step by step.
            main.silence_within(LAST_SILENCE);
        }
        if self.interrupted && self.armed.is_some() {
            self.interrupted = false;
            if !matches!(self.stage, Stage::Settled) {
                let why = self.interrupt.reason();
                self.cancel(link, why, sink);
            }
        }
        if let Some(armed) = &self.armed {
            let more = if self.confirmed || self.held.is_empty() { LAST_STAGE } else { PATIENCE };
            main.within(armed.left() + more);
        }
        self.early(sink);
        match &mut self.stage {
            Stage::Waits | Stage::Settled => {}
            Stage::Opened => self.confirm(link, sink),
            Stage::Confirming(relay) => match relay.next(Duration::ZERO) {
                Ok(Heard::Silence) => {}
                Ok(Heard::Event(event)) => {
                    if let Event::Failed { failure } = *event {
                        let why = self.heed.failure(failure).line();
                        self.cancel(link, &format!("the host does not take this login for a proof: {why}"), sink);
                    }
                }
                // It waited for the end, which the program that applies tells itself.
                Ok(Heard::Finished(_)) | Err(_) => self.stage = Stage::Settled,
            },
        }
    }

    fn confirm(&mut self, link: &Link, sink: &mut dyn Sink) {
        let Some(armed) = self.armed.clone() else { return };
        if self.held.is_empty() {
            self.stage = Stage::Settled;
            sink.event(Event::Note { note: Note::info("confirm", self.by_hand(&armed)) });
            return;
        }
        std::thread::sleep(GRAIN);
        let begun = Instant::now();
        let (what, tried) = self.log_in(link, &armed, armed.window / 2, sink);
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let reach = Reach::L3;
        match tried {
            Ok((way, new)) => {
                let seen = "a fresh connection from here, by a key of the playbook".to_owned();
                let evidence = Evidence { what, proven: Proven::Yes, reach, seen, millis };
                sink.event(Event::Proof { evidence });
                self.way = Some(way);
                let words = ["confirm", "--from-controller", "--nonce", &armed.nonce, &armed.run];
                let longest = armed.window + LAST_STAGE;
                match Relay::start(self.door, &new, &spoken(&words), None, longest) {
                    Ok(relay) => (self.stage, self.confirmed) = (Stage::Confirming(Box::new(relay)), true),
                    Err(failure) => {
                        self.cancel(link, &format!("no root through the new door: {}", failure.line()), sink);
                    }
                }
            }
            Err(setback) => {
                let seen = setback.failure.line();
                let evidence = Evidence { what, proven: Proven::No, reach, seen: seen.clone(), millis };
                sink.event(Event::Proof { evidence });
                self.cancel(link, &format!("the new door does not open from here: {seen}"), sink);
            }
        }
    }

    /// Logs in through the new door, within `limit` where the trouble may pass.
    fn log_in(
        &self,
        link: &Link,
        armed: &Armed,
        limit: Duration,
        sink: &mut dyn Sink,
    ) -> (String, Outcome<(Way, Link)>) {
        let ways = self.ways(link);
        let named = ways.first().map_or_else(|| "an administrator".to_owned(), |way| way.place.to_string());
        let what = format!("{}{named}", Evidence::LOGIN);
        let mut last = Setback::new(Trouble::Local, link.place(), "no administrator of the plan has a key here");
        let mut told = false;
        loop {
            for way in &ways {
                // A port that nobody answers at must not take the time that the cancelling needs.
                let left = limit.saturating_sub(armed.at.elapsed()).max(PAUSE);
                match self.door.within(left, way) {
                    Ok(new) => return (format!("{}{}", Evidence::LOGIN, way.place), Ok((way.clone(), new))),
                    Err(setback) => last = setback,
                }
            }
            let interrupted = self.interrupt.waits();
            if !last.trouble.passes() || interrupted || armed.at.elapsed() + PAUSE > limit {
                return (what, Err(last));
            }
            if !std::mem::replace(&mut told, true) {
                let seconds = limit.saturating_sub(armed.at.elapsed()).as_secs();
                let text = format!("{named} does not open yet; trying for another {seconds} s, then the run is undone");
                sink.event(Event::Note { note: Note::warning("confirm", text) });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Undoes the run at once; the program that applies then tells how that went.
    fn cancel(&mut self, link: &Link, why: &str, sink: &mut dyn Sink) {
        (self.stage, self.confirmed) = (Stage::Settled, false);
        let Some(armed) = self.armed.clone() else { return };
        sink.event(Event::Note { note: Note::warning("cancel", format!("undoing run {}: {why}", armed.run)) });
        // For the history of the host.
        let because: String = why.chars().filter(|c| !c.is_control()).take(WHY).collect();
        let words = spoken(&["cancel", &format!("--because={because}"), &armed.run]);
        let cancelled = Relay::start(self.door, link, &words, None, PATIENCE).and_then(|mut relay| {
            loop {
                match relay.next(PATIENCE)? {
                    Heard::Finished(_) => return Ok(()),
                    Heard::Event(event) => {
                        if let Event::Failed { failure } = *event {
                            return Err(self.heed.failure(failure));
                        }
                    }
                    Heard::Silence => return Err(Failure::unknown("cancel", "no answer in time")),
                }
            }
        });
        if let Err(failure) = cancelled {
            let text = format!("{}; the host undoes it at its deadline", failure.line());
            sink.event(Event::Note { note: Note::warning("cancel", text) });
        }
    }
}

/// A verb's words for the program there.
pub(super) fn spoken(words: &[&str]) -> Vec<String> {
    let before = ["--format", "json", handed::OPTION, handed::STDIN];
    before.iter().chain(words).map(|word| (*word).to_owned()).collect()
}
