//! `keyward log`: the audit log of this host, and whether its chain is whole.

use crate::audit::{self, Chain};
use crate::error::{Failure, Result};
use crate::host::ledger::Ledger as _;
use crate::outcome::{Event, Exit, Sink};

use super::args::{Format, LogVerb};
use super::{Ending, state};

/// Bytes of the log in one event, as long as a line is no longer than that; escaped they stay far below 1 MiB.
const PART: usize = 128 << 10;

/// Prints, checks or exports the log; without a format everything goes to the sink.
pub fn run(verb: Option<LogVerb>, format: Option<Format>, sink: &mut dyn Sink) -> Result<Ending> {
    state::need_root("to read the audit log")?;
    let (log, head) = (std::path::Path::new(state::AUDIT), std::path::Path::new(state::AUDIT_HEAD));
    if !log.exists() && !head.exists() {
        return Ok(Ending::new(Exit::AsAsked, format!("{} does not exist: nothing was done yet", log.display()), ""));
    }
    let ledger = state::ledger_to_read()?;
    match verb {
        None => {
            for entry in audit::entries(&ledger)? {
                let run = if entry.run.is_empty() { String::new() } else { format!(" {}", entry.run) };
                let text = format!("{}{run} {}: {}", entry.at, entry.what, entry.text);
                sink.event(Event::Text { name: "audit".to_owned(), text });
            }
            Ok(Ending::new(Exit::AsAsked, "", "keyward log verify"))
        }
        // A chain that is broken is exported all the same; the exit code says so.
        Some(LogVerb::Export) => {
            let (name, text) = ("audit.jsonl".to_owned(), ledger.read()?);
            match format {
                // To the byte, as the hashes are of bytes.
                Some(Format::Human) => drop(super::print_file(&name, &text, Format::Human)?),
                Some(format) => parts(&text).try_for_each(|part| super::print_file(&name, part, format).map(drop))?,
                None => parts(&text).for_each(|part| {
                    sink.event(Event::Text { name: name.clone(), text: part.to_owned() });
                }),
            }
            checked(audit::verify(&ledger)?).map(|_| Ending::new(Exit::AsAsked, "", ""))
        }
        Some(LogVerb::Verify) => checked(audit::verify(&ledger)?),
    }
}

/// Whole lines, some at a time: whoever reads events bounds their length.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut end = 0;
        for line in rest.split_inclusive('\n') {
            if end > 0 && end + line.len() > PART {
                break;
            }
            end += line.len();
        }
        let (part, later) = rest.split_at(end);
        rest = later;
        (end > 0).then_some(part)
    })
}

/// What the check of the chain comes to.
fn checked(chain: Chain) -> Result<Ending> {
    match chain {
        Chain::Whole(records) => Ok(Ending::new(Exit::AsAsked, format!("the chain of {records} records is whole"), "")),
        Chain::Uninstalled(records) => Ok(Ending::new(
            Exit::AsAsked,
            format!(
                "the chain of {records} records is whole; the last one tells of the uninstall, which took the head \
                     away: there is none to compare with"
            ),
            "",
        )),
        Chain::HeadBehind(records) => Ok(Ending::new(
            Exit::AsAsked,
            format!(
                "the chain of {records} records is whole; the head tells of the one before the last, as after a kill or a \
                     power cut between the two; the next record mends it"
            ),
            "",
        )),
        Chain::NoHead(records) => Err(Failure::unknown(
            state::AUDIT,
            format!("{records} records fit together, but the head kept apart is missing: a cut end would not show"),
        )),
        Chain::Broken(line, why) => {
            Err(Failure::unknown(format!("{}:{line}", state::AUDIT), "the chain is broken").why(why).hint(format!(
                "compare with a copy kept elsewhere; to begin a new chain: mv {0} {0}.broken; mv {1} {1}.broken",
                state::AUDIT,
                state::AUDIT_HEAD
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PART, parts};

    #[test]
    fn parts_are_whole_lines_and_come_to_the_whole() {
        let line = format!("{}\n", "x".repeat(1000));
        let long = "y".repeat(PART + 1);
        for text in [String::new(), "no end".to_owned(), line.repeat(500), format!("{line}{long}\n{line}z")] {
            let found: Vec<&str> = parts(&text).collect();
            assert_eq!(found.concat(), text);
            for part in &found {
                assert!(part.len() <= PART || part.lines().count() == 1, "{}", part.len());
            }
            assert!(found.iter().rev().skip(1).all(|part| part.ends_with('\n')));
        }
        assert_eq!(parts(&line.repeat(500)).count(), 4);
    }
}
