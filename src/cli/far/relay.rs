//! The conversation with the program on the host, or in the container: words and playbook go in, events come out, one JSON value a line.

use std::time::{Duration, Instant};

use crate::error::{Failure, Result};
use crate::outcome::Event;
use crate::proof::wire::plain;
use crate::target::ssh::Link;
use crate::target::talk::{self, Talk};

use super::super::Ending;
use super::super::handed::{Order, PROTOCOL};
use super::super::job::Job;
use super::door::Door;
use super::heed;

/// For the first word, and for the host to take a line.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest time of a verb that nobody bounds: packages from a slow mirror, and a person who reads a plan.
pub const LONGEST: Duration = Duration::from_secs(4 * 3600);
/// Longest silence of a verb: packages come from a slow mirror, a rollback waits for locks.
const SILENCE: Duration = Duration::from_secs(1800);

/// What came.
pub enum Heard {
    /// Something happened.
    Event(Box<Event>),
    /// How the verb ended.
    Finished(Ending),
    /// Nothing in time.
    Silence,
}

/// A program that runs on the host.
pub struct Relay {
    /// Where, for messages.
    place: String,
    talk: Box<dyn Talk>,
    /// When it last said something.
    heard: Instant,
    /// How long it may say nothing.
    silence: Duration,
    /// When it must have ended, however much it says.
    until: Instant,
    /// True once it said what no program of ours says: it is not asked again.
    lied: bool,
}

impl Relay {
    /// Starts the program on a host with these words, for at most `longest`.
    ///
    /// # Errors
    /// When it cannot be started, or is not what it should be.
    pub fn start(door: &Door<'_>, link: &Link, words: &[String], job: Option<&Job>, longest: Duration) -> Result<Self> {
        Self::with(Box::new(door.start(link, words)?.talk), link.place(), job, longest)
    }

    /// Begins the conversation with a program that was started.
    ///
    /// # Errors
    /// When it is not what it should be.
    pub fn with(talk: Box<dyn Talk>, place: &str, job: Option<&Job>, longest: Duration) -> Result<Self> {
        let (place, now) = (place.to_owned(), Instant::now());
        let mut relay = Self { place, talk, heard: now, silence: SILENCE, until: now + longest, lied: false };
        let sources = job.map(|job| job.sources.clone()).unwrap_or_default();
        let order = serde_json::to_string(&Order { protocol: PROTOCOL, sources });
        let order = order.map_err(|error| relay.broken(&error.to_string()))?;
        relay.talk.send_line(&order, LIMIT)?;
        match relay.next(LIMIT)? {
            Heard::Event(event) => match *event {
                Event::Hello { protocol: PROTOCOL, .. } => Ok(relay),
                Event::Hello { version, .. } => Err(relay
                    .broken(&format!("it is version {version}"))
                    .hint("build the program of --agent-binary from the same version")),
                Event::Failed { failure } => Err(heed::told(failure)),
                _ => Err(relay.broken("it does not say hello")),
            },
            Heard::Finished(_) => Err(relay.broken("it ended")),
            Heard::Silence => Err(relay.broken("it says nothing")),
        }
    }

    /// What it says next.
    ///
    /// # Errors
    /// When the connection was lost, it ended without an ending, or it says what it should not.
    pub fn next(&mut self, limit: Duration) -> Result<Heard> {
        if Instant::now() > self.until {
            return Err(self.broken("it has not ended in time"));
        }
        match self.talk.next_line(limit)? {
            talk::Heard::Line(line) => {
                self.heard = Instant::now();
                let event = serde_json::from_str(&line).map_err(|error| self.lie(&error.to_string()))?;
                Ok(match event {
                    Event::Finished { exit, verdict, next, run, .. } => {
                        Heard::Finished(Ending { exit, verdict, next, run })
                    }
                    event => Heard::Event(Box::new(event)),
                })
            }
            talk::Heard::Silence if self.heard.elapsed() > self.silence => {
                Err(self.broken("it has said nothing for too long"))
            }
            talk::Heard::Silence => Ok(Heard::Silence),
            talk::Heard::End => {
                let stderr = self.talk.stderr();
                let stderr = String::from_utf8_lossy(&stderr);
                let last = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it ended");
                Err(self.broken(last))
            }
        }
    }

    /// Answers its question.
    ///
    /// # Errors
    /// When it does not listen any more.
    pub fn answer(&mut self, yes: bool) -> Result<()> {
        self.talk.send_line(if yes { "yes" } else { "no" }, LIMIT)
    }

    /// From now on at most so long.
    pub fn within(&mut self, longest: Duration) {
        self.until = self.until.min(Instant::now() + longest);
    }

    /// From now on it may say nothing for at most so long.
    pub fn silence_within(&mut self, longest: Duration) {
        self.silence = self.silence.min(longest);
    }

    /// What it said is nothing that a program of ours says.
    pub fn lie(&mut self, why: &str) -> Failure {
        self.lied = true;
        Failure { what: "the host's answer is refused".to_owned(), ..self.broken(why) }
            .hint("look at the host by its console")
    }

    /// True once it said what no program of ours says.
    pub const fn lied(&self) -> bool {
        self.lied
    }

    fn broken(&self, why: &str) -> Failure {
        Failure::unknown(&self.place, "the program there did not say how it ended")
            .why(plain(why))
            .hint("look there: keyward status")
    }
}
