//! The audit log: who ran what, what was decided and how it ended, as a chain of hashed lines that shows any edit.
//! Each line is durable before what it tells of happens. Must not hold secrets: it gets words and digests only.
//!
//! One line a record: `{"seq":N,"at":"...","run":"...","what":"...","text":"...","prev":"...","hash":"..."}`, the hash
//! being SHA-256 over the line up to and including the value of `prev`. Against root on this host nothing holds: root
//! can write a new chain. What holds is that a copy kept elsewhere, or the head kept apart, no longer fits.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Failure, Result};
use crate::host::ledger::Ledger;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Place in the chain, from 0.
    pub seq: u64,
    /// RFC 3339, UTC.
    pub at: String,
    /// Run id, or empty.
    pub run: String,
    /// A fixed word: `begin`, `decided`, `committed`, `rolling_back`, `rolled_back` ...
    pub what: String,
    /// For the reader, one line.
    pub text: String,
    /// Hash of the line before; empty for the first.
    pub prev: String,
    /// Hash of this line.
    pub hash: String,
}

/// What a check of the chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chain {
    /// Whole, with this many records; the head says so too.
    Whole(u64),
    /// Whole, and its last record tells of the uninstall, which takes the head away.
    Uninstalled(u64),
    /// Whole, but the head kept apart is missing: a cut tail would not show.
    NoHead(u64),
    /// Whole, but the head tells of the record before the last one: a kill or a power cut came between the two.
    HeadBehind(u64),
    /// Broken; the line number (from 1) of the first bad record, and why.
    Broken(u64, String),
}

/// `what` of the last record before keyward's state, and the head with it, is removed.
pub const UNINSTALLED: &str = "uninstalled";

#[derive(Serialize, Deserialize)]
struct Head {
    seq: u64,
    hash: String,
}

fn body(entry: &Entry) -> String {
    let text = |value: &str| serde_json::Value::from(value).to_string();
    format!(
        "{{\"seq\":{},\"at\":{},\"run\":{},\"what\":{},\"text\":{},\"prev\":{}",
        entry.seq,
        text(&entry.at),
        text(&entry.run),
        text(&entry.what),
        text(&entry.text),
        text(&entry.prev)
    )
}

fn hash(body: &str) -> String {
    Sha256::digest(body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Appends a record; it is durable on return.
///
/// # Errors
/// Refused when the log cannot be written or its last line cannot be read: then nothing may be changed.
pub fn record(ledger: &dyn Ledger, run: &str, what: &str, text: &str) -> Result<()> {
    let last = last(ledger)?.map(|entry| (entry.seq, entry.hash));
    // A head that is ahead of the log was there when the log was longer: the gap must go on to show.
    let head =
        ledger.head()?.and_then(|head| serde_json::from_str::<Head>(&head).ok()).map(|head| (head.seq, head.hash));
    let ahead = head.filter(|head| last.as_ref().is_none_or(|last| head.0 > last.0));
    let (seq, prev) = match ahead.or(last) {
        Some((seq, hash)) => (seq.checked_add(1).ok_or_else(|| broken("its number is the last one"))?, hash),
        None => (0, String::new()),
    };
    let at = jiff::Timestamp::now().to_string();
    let mut entry = Entry { seq, at, run: run.into(), what: what.into(), text: text.into(), prev, hash: String::new() };
    let body = body(&entry);
    entry.hash = hash(&body);
    let line = format!("{body},\"hash\":\"{}\"}}", entry.hash);
    let head = serde_json::to_string(&Head { seq, hash: entry.hash });
    let head = head.map_err(|error| Failure::refused("audit log", "the head cannot be encoded").why(error))?;
    ledger.append(&line, &head)
}

fn last(ledger: &dyn Ledger) -> Result<Option<Entry>> {
    let text = ledger.read()?;
    let Some(line) = text.lines().last() else { return Ok(None) };
    serde_json::from_str(line).map(Some).map_err(broken)
}

fn broken(why: impl std::fmt::Display) -> Failure {
    Failure::refused("audit log", "its last line is broken, so nothing can be added to the chain")
        .why(why)
        .hint("see what is wrong: keyward log verify")
}

/// All records that can be read, oldest first.
///
/// # Errors
/// When the log cannot be read.
pub fn entries(ledger: &dyn Ledger) -> Result<Vec<Entry>> {
    Ok(ledger.read()?.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Checks every line, the links between them, and the head.
///
/// # Errors
/// When the log cannot be read at all.
pub fn verify(ledger: &dyn Ledger) -> Result<Chain> {
    let text = ledger.read()?;
    let mut expected: (u64, String) = (0, String::new());
    let mut before = expected.clone();
    let mut last = String::new();
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        match check(line, &expected) {
            Ok(entry) => {
                before = std::mem::replace(&mut expected, (entry.seq + 1, entry.hash));
                last = entry.what;
            }
            Err(why) => return Ok(Chain::Broken(number, why)),
        }
    }
    let Some(head) = ledger.head()? else {
        return Ok(if last == UNINSTALLED { Chain::Uninstalled(expected.0) } else { Chain::NoHead(expected.0) });
    };
    match serde_json::from_str::<Head>(&head) {
        Ok(head) if (head.seq.checked_add(1), &head.hash) == (Some(expected.0), &expected.1) => {
            Ok(Chain::Whole(expected.0))
        }
        Ok(head) if (head.seq.checked_add(1), &head.hash) == (Some(before.0), &before.1) => {
            Ok(Chain::HeadBehind(expected.0))
        }
        Ok(head) => Ok(Chain::Broken(expected.0 + 1, format!("the head's last record is {}", head.seq))),
        Err(error) => Ok(Chain::Broken(expected.0 + 1, format!("the head is broken ({error})"))),
    }
}

fn check(line: &str, expected: &(u64, String)) -> std::result::Result<Entry, String> {
    let line = line.strip_suffix('\n').ok_or("the line is cut off")?;
    let entry: Entry = serde_json::from_str(line).map_err(|error| format!("not a record ({error})"))?;
    let body = body(&entry);
    if line != format!("{body},\"hash\":\"{}\"}}", entry.hash) || entry.hash != hash(&body) {
        return Err("the record does not match its hash".to_owned());
    }
    if entry.seq != expected.0 {
        return Err(format!("record {} where {} belongs", entry.seq, expected.0));
    }
    if entry.prev != expected.1 {
        return Err("the record does not follow the one before".to_owned());
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::ledger::MemoryLedger;

    fn written(count: u64) -> MemoryLedger {
        let ledger = MemoryLedger::default();
        for at in 0..count {
            record(&ledger, "r1", "begin", &format!("record \"{at}\"\n\u{1b}")).unwrap();
        }
        ledger
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let ledger = written(4);
        assert_eq!(verify(&ledger).unwrap(), Chain::Whole(4));
        let whole = ledger.log.borrow().clone();
        for at in 0..whole.len() {
            let mut bytes = whole.clone().into_bytes();
            bytes[at] ^= 1;
            *ledger.log.borrow_mut() = String::from_utf8_lossy(&bytes).into_owned();
            assert!(matches!(verify(&ledger).unwrap(), Chain::Broken(..)), "byte {at}");
        }
    }

    #[test]
    fn dropped_swapped_and_cut_lines_are_found() {
        let ledger = written(5);
        let whole = ledger.log.borrow().clone();
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        for drop in 0..5 {
            let kept: String = lines.iter().enumerate().filter(|(at, _)| *at != drop).map(|(_, line)| *line).collect();
            *ledger.log.borrow_mut() = kept;
            let found = verify(&ledger).unwrap();
            assert!(matches!(found, Chain::Broken(line, _) if line == drop as u64 + 1), "{drop}: {found:?}");
        }
        for at in 0..4 {
            let mut swapped = lines.clone();
            swapped.swap(at, at + 1);
            *ledger.log.borrow_mut() = swapped.concat();
            assert!(matches!(verify(&ledger).unwrap(), Chain::Broken(line, _) if line == at as u64 + 1));
        }
        *ledger.log.borrow_mut() = lines[..3].concat();
        assert!(matches!(verify(&ledger).unwrap(), Chain::Broken(4, _)));
        *ledger.head.borrow_mut() = None;
        assert_eq!(verify(&ledger).unwrap(), Chain::NoHead(3));
    }

    /// A kill between the line and the head is no edit; anything further apart is.
    #[test]
    fn a_head_that_is_one_record_behind_is_told_as_that() {
        let ledger = written(2);
        let behind = ledger.head.borrow().clone();
        record(&ledger, "r1", "decided", "third").unwrap();
        let right = ledger.head.borrow().clone();
        *ledger.head.borrow_mut() = behind.clone();
        assert_eq!(verify(&ledger).unwrap(), Chain::HeadBehind(3));
        record(&ledger, "r1", "committed", "fourth").unwrap();
        assert_eq!(verify(&ledger).unwrap(), Chain::Whole(4), "the next record mends it");
        *ledger.head.borrow_mut() = behind.clone();
        assert!(matches!(verify(&ledger).unwrap(), Chain::Broken(5, _)), "two behind");
        // Its number alone is not enough.
        let other = behind.unwrap().replace("\"seq\":1", "\"seq\":2");
        *ledger.head.borrow_mut() = Some(other);
        assert!(matches!(verify(&ledger).unwrap(), Chain::Broken(5, _)));
        *ledger.head.borrow_mut() = right;
        assert_eq!(verify(&ledger).unwrap(), Chain::HeadBehind(4));
        // A line without any record before it cannot be behind a head.
        let first = written(1);
        *first.head.borrow_mut() = Some("{\"seq\":18446744073709551615,\"hash\":\"\"}".to_owned());
        assert!(matches!(verify(&first).unwrap(), Chain::Broken(2, _)));
    }

    /// The record after a cut end would make the head fit again.
    #[test]
    fn a_cut_end_shows_for_good() {
        for kept in [0, 2] {
            let ledger = written(4);
            let whole = ledger.log.borrow().clone();
            *ledger.log.borrow_mut() = whole.split_inclusive('\n').take(kept).collect();
            assert!(matches!(verify(&ledger).unwrap(), Chain::Broken(..)), "{kept}");
            record(&ledger, "r2", "begin", "later").unwrap();
            let found = verify(&ledger).unwrap();
            assert!(matches!(found, Chain::Broken(line, _) if line == kept as u64 + 1), "{kept}: {found:?}");
        }
    }

    #[test]
    fn an_uninstall_takes_the_head_away_and_nothing_else_does() {
        let ledger = written(3);
        record(&ledger, "", UNINSTALLED, "keyward's state was removed").unwrap();
        *ledger.head.borrow_mut() = None;
        assert_eq!(verify(&ledger).unwrap(), Chain::Uninstalled(4));
        let whole = ledger.log.borrow().clone();
        let cut: String = whole.split_inclusive('\n').take(3).collect();
        *ledger.log.borrow_mut() = cut;
        assert_eq!(verify(&ledger).unwrap(), Chain::NoHead(3));
        *ledger.log.borrow_mut() = whole.replace("\"seq\":1", "\"seq\":7");
        assert!(matches!(verify(&ledger).unwrap(), Chain::Broken(2, _)));
        // A later run goes on where the log ended.
        *ledger.log.borrow_mut() = whole;
        record(&ledger, "r2", "begin", "again").unwrap();
        assert_eq!(verify(&ledger).unwrap(), Chain::Whole(5));
        *ledger.head.borrow_mut() = None;
        assert_eq!(verify(&ledger).unwrap(), Chain::NoHead(5));
    }
}
