//! What a rollout finds of those before it: one to go on with, or one to take back; and the store that it begins or goes on
//! with.

use std::collections::BTreeMap;

use crate::change::Note;
use crate::error::{Failure, Result};
use crate::fleet::schedule::{Known, Policy, Verdict};
use crate::fleet::store::{Begin, HostRecord, Playbook, Record, Remembered, VERSION, Writer};
use crate::outcome::{Event, Sink as _};
use crate::report::style::count;

use super::super::args::Cli;
use super::super::job::Job;
use super::super::terminal::Terminal;
use super::gather::Crew;
use super::kept::Kept;
use super::{again, names};

/// The rollout that was cut off, where it is to be gone on with.
///
/// # Errors
/// Refused when there is one and nobody says what is to become of it, and the other way round.
pub fn earlier(cli: &Cli, digest: &(String, String), terminal: &mut Terminal) -> Result<Option<(Kept, Remembered)>> {
    let fleet = &cli.global.fleet;
    if fleet.anew {
        return Ok(None);
    }
    let ours = |one: &Remembered| one.begin.inventory == digest.0 && one.begin.playbook.digest == digest.1;
    // A rollout of the same hosts with the same playbook that came to its end hides older ones.
    let mut skipped = Vec::new();
    let found = Kept::newest(&ours, &mut |failure| skipped.push(failure))?.filter(|(_, one)| !one.is_closed);
    for failure in skipped.iter().filter(|_| fleet.resume && found.is_none()) {
        terminal.warn(&failure.place, &failure.what);
    }
    let Some((path, remembered)) = found else {
        if !fleet.resume {
            return Ok(None);
        }
        let failure = Failure::refused("--resume", "no rollout of these hosts with this playbook was cut off");
        return Err(failure
            .why("it goes on with the same hosts, variables and playbook only")
            .hint("leave the option out"));
    };
    if !fleet.resume {
        // One that goes on was not cut off.
        drop(Kept::hold(path)?);
        let ended = remembered.hosts.iter().filter(|host| host.ended.is_some()).count();
        let what = format!("was cut off after {ended} of {}", count(remembered.hosts.len(), "host"));
        return Err(Failure::refused(format!("rollout {}", remembered.begin.rollout), what).hint(format!(
            "go on: {}; or leave it, and begin a new one: {}",
            again("--resume"),
            again("--anew")
        )));
    }
    let (kept, remembered) = Kept::hold(path)?;
    remembered.may_resume(&digest.0, &digest.1)?;
    Ok(Some((kept, remembered)))
}

/// Runs to take back, and hosts that are left alone.
pub type Undo = (BTreeMap<usize, String>, Vec<(usize, Known)>);

/// Which run is taken back on which host: that of the newest rollout over them. Others are left alone.
///
/// # Errors
/// When there is none, or it left nothing that could be taken back.
pub fn to_undo(crew: &Crew, run: Option<&str>, terminal: &mut Terminal) -> Result<Undo> {
    if run.is_some() {
        return Err(
            Failure::input("rollback", "a run is one host's").hint("--host HOST; many hosts go back by their rollout")
        );
    }
    let names = names(crew);
    // One that found everything as asked has nothing to take back.
    let applied = |one: &Remembered| {
        let mut hosts = one.begin.hosts.iter().zip(&one.hosts);
        let stood = |record: &HostRecord| record.ended.as_ref().is_some_and(|ended| ended.verdict == Verdict::Done);
        !one.begin.playbook.digest.is_empty() && hosts.any(|(name, record)| names.contains(name) && stood(record))
    };
    let Some((path, remembered)) = Kept::newest(&applied, &mut |_| {})? else {
        return Err(Failure::refused("rollback", "no rollout over these hosts is known here")
            .hint("rollouts are kept where they were begun; one host by itself: --host HOST rollback"));
    };
    let (mut runs, mut known) = (BTreeMap::new(), Vec::new());
    for (host, name) in names.iter().enumerate() {
        let at = remembered.begin.hosts.iter().position(|one| one == name);
        let record = at.and_then(|at| remembered.hosts.get(at));
        // What ended otherwise has nothing that stands, or has to be looked at.
        let stood = record.filter(|one| one.ended.as_ref().is_some_and(|ended| ended.verdict == Verdict::Done));
        match stood.and_then(|one| one.run.clone()) {
            Some(run) => drop(runs.insert(host, run)),
            None => known.push((host, Known::Ended(Verdict::Unchanged))),
        }
    }
    if runs.is_empty() {
        return Err(Failure::refused("rollback", "the newest rollout over these hosts changed none of them")
            .why(path.display()));
    }
    let begin = &remembered.begin;
    let text =
        format!("takes back rollout {} of {} on {}", begin.rollout, begin.playbook.name, count(runs.len(), "host"));
    if terminal.is_json() {
        terminal.event(Event::Note { note: Note::info("rollback", text) });
    } else {
        // The first line of the result is the verdict.
        super::super::terminal::progress(&format!("{}\n", crate::report::escape::line(&text)));
    }
    Ok((runs, known))
}

/// A store, and where it is.
pub struct Opened {
    /// Writes it.
    pub writer: Writer<Kept>,
    /// Its directory.
    pub path: std::path::PathBuf,
}

/// What is known of hosts, and their runs.
pub type Past = (Vec<(usize, Known)>, BTreeMap<usize, String>);

/// The store of this rollout, and what it tells of hosts where it goes on.
///
/// # Errors
/// When it cannot be kept.
pub fn opened(
    crew: &Crew,
    job: Option<&Job>,
    policy: &Policy,
    digest: &(String, String),
    earlier: Option<(Kept, Remembered)>,
) -> Result<(Opened, Option<Past>)> {
    if let Some((kept, remembered)) = earlier {
        kept.cut(remembered.bytes)?;
        let runs =
            remembered.hosts.iter().enumerate().filter_map(|(host, one)| Some((host, one.run.clone()?))).collect();
        let known = remembered.known().into_iter().filter_map(|(host, known)| Some((host, kept_so(known)?))).collect();
        let path = kept.path().to_owned();
        return Ok((Opened { writer: Writer::resume(kept, &remembered), path }, Some((known, runs))));
    }
    let at = jiff::Timestamp::now();
    let id = format!("{}-{:04x}", at.strftime("%Y%m%d-%H%M%S"), std::process::id() & 0xffff);
    let kept = Kept::new(&id)?;
    let path = kept.path().to_owned();
    let playbook = job.map(|job| job.about.playbook.clone()).unwrap_or_default();
    let begin = Begin {
        version: VERSION,
        rollout: id,
        at: at.to_string(),
        inventory: digest.0.clone(),
        playbook: Playbook { name: playbook, digest: digest.1.clone() },
        hosts: names(crew),
        policy: policy.clone(),
    };
    Ok((Opened { writer: Writer::begin(kept, begin)?, path }, None))
}

/// What a rollout that goes on knows of a host: what stands is not touched again, what may stand is asked, and what left
/// nothing is begun anew.
fn kept_so(known: Known) -> Option<Known> {
    match known {
        Known::Begun => Some(known),
        Known::Ended(Verdict::Done | Verdict::Unchanged) => Some(known),
        Known::Ended(Verdict::Unknown | Verdict::Pending | Verdict::Unverified | Verdict::Incomplete) => {
            Some(Known::Begun)
        }
        Known::Ended(_) => None,
    }
}

/// Ends a rollout that has nothing left to do.
///
/// # Errors
/// When it cannot be written.
pub fn close(kept: Kept, remembered: &Remembered) -> Result<()> {
    kept.cut(remembered.bytes)?;
    Writer::resume(kept, remembered).write(&Record::Closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_that_goes_on_touches_nothing_that_stands_and_asks_what_may() {
        for verdict in Verdict::ALL {
            let known = kept_so(Known::Ended(verdict));
            let expected = match verdict {
                Verdict::Done | Verdict::Unchanged => Some(Known::Ended(verdict)),
                Verdict::Unverified | Verdict::Incomplete | Verdict::Unknown | Verdict::Pending => Some(Known::Begun),
                Verdict::RolledBack | Verdict::Refused | Verdict::Busy | Verdict::Unreachable | Verdict::Cancelled => {
                    None
                }
            };
            assert_eq!(known, expected, "{verdict:?}");
        }
        assert_eq!(kept_so(Known::Begun), Some(Known::Begun));
    }
}
