//! `keyward show RUN`: one run again, from its journal, as the events it once sent.

use crate::change::Note;
use crate::error::{Failure, Kind, Result};
use crate::journal::{self, Record, Undo};
use crate::outcome::{Event, Exit, Sink};

use super::args::ShowArgs;
use super::{Ending, state};

/// Replays a journal. Exit 0 whatever the run's own end was.
pub fn run(args: &ShowArgs, sink: &mut dyn Sink) -> Result<Ending> {
    state::need_root("to read the runs of this host")?;
    let none = || Failure::input(&args.run, "no such run").hint("list the runs with: keyward history");
    let shelf = state::shelf_if_any()?.ok_or_else(none)?;
    let mut ending = Ending::new(
        Exit::AsAsked,
        format!("run {} never ended: it was interrupted, or runs now", args.run),
        format!("keyward rollback {}", args.run),
    );
    let mut undone = false;
    for record in journal::read(&shelf, &args.run)? {
        // The proof's temporary changes are undone in every run.
        undone |= matches!(record, Record::RollingBack { .. });
        undone |= matches!(record, Record::Closed { exit: Exit::RolledBack, .. });
        if let Record::Closed { exit, verdict, at } = &record {
            let verdict = format!("{verdict} (exit {}, {at})", exit.code());
            let holds = *exit == Exit::AsAsked && !undone;
            let next = if holds { format!("keyward rollback {}", args.run) } else { String::new() };
            ending = Ending::new(Exit::AsAsked, verdict, next);
        }
        for event in events(record) {
            sink.event(event);
        }
    }
    ending.run = Some(args.run.clone());
    Ok(ending)
}

fn events(record: Record) -> Vec<Event> {
    match record {
        Record::Begin { run, at, plan, .. } => {
            let began = Note::info("", format!("run {run}, begun {at}"));
            vec![Event::Planned { plan }, Event::Note { note: began }]
        }
        Record::Replanned { plan } => vec![Event::Planned { plan }],
        Record::Change { key, summary, stage: Some(_), .. } => {
            vec![Event::Note { note: Note::info(key, summary) }]
        }
        Record::Intent { undo: Undo::Irreversible { why }, key, .. } => {
            vec![Event::Note { note: Note::warning(key, format!("cannot be undone: {why}")) }]
        }
        Record::Evidence { evidence } => vec![Event::Proof { evidence }],
        Record::Decided { because } => vec![Event::Decided { because }],
        Record::RollingBack { reason } => vec![Event::RollingBack { reason: Failure::new(Kind::Failed, "", reason) }],
        Record::Undone { key, failures } => {
            let failure = failures.first().map(|text| Failure::new(Kind::Failed, "", text));
            vec![Event::Undone { change: key, failure }]
        }
        Record::Doors { .. }
        | Record::Change { .. }
        | Record::Intent { .. }
        | Record::Done { .. }
        | Record::Closed { .. } => Vec::new(),
    }
}
