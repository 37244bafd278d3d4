//! The end of a run whose conversation ended first: by a lost link, or by a host that said what no program of ours says.

use std::time::{Duration, Instant};

use crate::change::Note;
use crate::error::{Failure, Result};
use crate::outcome::{Event, Exit, Sink};
use crate::target::ssh::Link;

use super::super::Ending;
use super::door::{Way, fingerprint};
use super::proof::{PATIENCE, Proof, Stage, spoken};
use super::relay::{Heard, Relay};

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(3);

impl Proof<'_> {
    /// The run that has begun, as far as the host has named one.
    fn run(&self) -> Option<String> {
        self.armed.as_ref().map(|armed| armed.run.clone()).or_else(|| self.started.clone())
    }

    /// Nobody asks a host again that does not keep to the conversation.
    pub fn refused(&self, failure: Failure, sink: &mut dyn Sink) -> Ending {
        sink.event(Event::Failed { failure: self.typed(failure) });
        let run = self.run();
        let verdict = match &run {
            Some(run) => format!("nothing is known of run {run}; a host that works undoes what nobody confirms"),
            None => "nothing is known of what the host did".to_owned(),
        };
        Ending { exit: Exit::CannotJudge, verdict, next: self.heed.here("keyward history").unwrap_or_default(), run }
    }

    /// The link was lost: how did the run end?
    ///
    /// # Errors
    /// The failure itself when no run had begun.
    pub fn afterwards(&mut self, link: &Link, failure: Failure, sink: &mut dyn Sink) -> Result<Ending> {
        let failure = self.typed(failure);
        let Some(run) = self.run() else { return Err(failure) };
        let left = self.armed.as_ref().map_or(Duration::ZERO, |armed| armed.left());
        let until = Instant::now() + left + PATIENCE;
        sink.event(Event::Failed { failure });
        let text = format!(
            "asking the host how run {run} ended; without a confirmation it is undone within {} s",
            left.as_secs()
        );
        sink.event(Event::Note { note: Note::info("ssh", text) });
        if let Stage::Confirming(relay) = &mut self.stage {
            while Instant::now() < until {
                match relay.next(PAUSE) {
                    Ok(Heard::Finished(ending)) if ending.run.as_ref() == Some(&run) => {
                        return self.heed.ending(ending).map_err(|why| relay.lie(why));
                    }
                    Ok(Heard::Finished(_)) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        }
        // The host key that it had is the one that it has.
        let pin = fingerprint(link.host_key());
        let typed = Way { place: self.door.place().clone(), keys: None, pin, key_port: None };
        let ways: Vec<Way> = self.way.iter().cloned().chain([typed]).collect();
        let next = self.heed.here(&format!("keyward show {run}")).unwrap_or_default();
        while Instant::now() < until {
            for way in &ways {
                let Ok(link) = self.door.through(way) else { continue };
                if let Some((exit, verdict)) = self.ended(&link, &run) {
                    return Ok(Ending { exit, verdict, next, run: Some(run) });
                }
                // Before its guard stands nobody but a person undoes a run.
                match self.armed.is_none().then(|| self.standing(&link)).flatten() {
                    Some(ending)
                        if ending.exit == Exit::RollbackIncomplete
                            && ending.next == format!("keyward rollback {run}") =>
                    {
                        let verdict = format!("run {run} was cut off before its guard stood, and nobody is at it");
                        let next = self.heed.here(&ending.next).unwrap_or_default();
                        return Ok(Ending { exit: Exit::RollbackIncomplete, verdict, next, run: Some(run) });
                    }
                    Some(ending) if ending.exit == Exit::AsAsked && ending.run.as_ref() == Some(&run) => {
                        let verdict = format!("run {run} was cut off before its first change: nothing was changed");
                        return Ok(Ending { exit: Exit::Refused, verdict, next: String::new(), run: Some(run) });
                    }
                    _ => {}
                }
            }
            std::thread::sleep(PAUSE);
        }
        let verdict = format!("the link was lost, and run {run} cannot be asked about; unconfirmed it was undone");
        Ok(Ending { exit: Exit::CannotJudge, verdict, next, run: Some(run) })
    }

    /// What the host's `status` comes to.
    fn standing(&self, link: &Link) -> Option<Ending> {
        let mut relay = Relay::start(self.door, link, &spoken(&["status"]), None, PATIENCE).ok()?;
        loop {
            match relay.next(PATIENCE).ok()? {
                Heard::Finished(ending) => return Some(ending),
                Heard::Event(_) => {}
                Heard::Silence => return None,
            }
        }
    }

    /// How the run ended, by the host's history; `None` while it goes on, or nobody says.
    fn ended(&self, link: &Link, wanted: &str) -> Option<(Exit, String)> {
        let mut relay = Relay::start(self.door, link, &spoken(&["history"]), None, PATIENCE).ok()?;
        let mut found = None;
        loop {
            match relay.next(PATIENCE).ok()? {
                Heard::Event(event) => {
                    if let Event::Run { run, exit, verdict, .. } = *event
                        && run == wanted
                    {
                        found = exit.map(|exit| (exit, super::heed::short(&verdict)));
                    }
                }
                Heard::Finished(_) => return found,
                Heard::Silence => return None,
            }
        }
    }
}
