//! The last evidence of this host and its age: what a converged host is judged by besides its effective state.

use crate::change::Note;
use crate::error::Result;
use crate::host::shelf::Shelf as _;
use crate::journal::{self, Record};
use crate::outcome::{Event, Proven, Sink};

use super::state;

/// Tells when this host was last proven, and how much of it held.
///
/// # Errors
/// When the journals cannot be read.
pub fn tell_last(sink: &mut dyn Sink) -> Result<()> {
    let Some(shelf) = state::shelf_if_any()? else { return Ok(()) };
    for run in shelf.runs()?.into_iter().rev() {
        // A journal that cannot be read proves nothing; history tells of it.
        let Ok(records) = journal::read(&shelf, &run) else { continue };
        let (mut held, mut all, mut ended) = (0_usize, 0_usize, None);
        for record in &records {
            match record {
                Record::Evidence { evidence } => {
                    all += 1;
                    held += usize::from(evidence.proven == Proven::Yes);
                }
                Record::Closed { at, .. } => ended = Some(at.as_str()),
                _ => {}
            }
        }
        if let (Some(at), true) = (ended, all > 0) {
            let text = format!(
                "last proven {} ago by run {run}: {held} of {all} held; keyward apply --prove logs in again",
                age(at)
            );
            sink.event(Event::Note { note: Note::info("evidence", text) });
            return Ok(());
        }
    }
    sink.event(Event::Note { note: Note::info("evidence", "never proven by a login on this host; --prove does it") });
    Ok(())
}

/// `3 days`, `2 hours`, `5 minutes`, `40 seconds`.
fn age(at: &str) -> String {
    let Ok(then) = at.parse::<jiff::Timestamp>() else { return "an unknown time".to_owned() };
    let seconds = jiff::Timestamp::now().duration_since(then).as_secs().max(0);
    let (number, unit) = match seconds {
        0..=119 => (seconds, "second"),
        120..=7_199 => (seconds / 60, "minute"),
        7_200..=172_799 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    crate::report::style::count(usize::try_from(number).unwrap_or_default(), unit)
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn ages() {
        let before = |seconds: i64| (jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds)).to_string();
        assert_eq!(age(&before(180)), "3 minutes");
        assert_eq!(age(&before(3 * 86_400)), "3 days");
        assert_eq!(age("yesterday"), "an unknown time");
    }
}
