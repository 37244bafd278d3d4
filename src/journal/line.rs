//! The form of one line of a journal, for whatever its records are: `{"seq":N,"sum":"...","rec":{...}}`. Knows no record.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::error::{Failure, Result};

#[derive(Deserialize)]
struct Line<'a> {
    seq: u64,
    sum: String,
    #[serde(borrow)]
    rec: &'a RawValue,
}

/// What a text holds up to its first line that does not match.
pub(crate) struct Whole<T> {
    /// The records of the lines that match.
    pub records: Vec<T>,
    /// How many bytes these lines take.
    pub bytes: usize,
    /// Number of the first line that does not match, where others follow it; a last one is torn.
    pub broken: Option<usize>,
}

/// Digest of the record `text` in the line `seq`.
fn sum(seq: u64, text: &str) -> String {
    let digest = Sha256::digest(format!("{seq}\n{text}").as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A record as the line `seq`, without its newline.
///
/// # Errors
/// When it has no JSON form.
pub(crate) fn write<T: Serialize>(seq: u64, record: &T) -> Result<String> {
    let text =
        serde_json::to_string(record).map_err(|error| Failure::failed("journal", "cannot be encoded").why(error))?;
    Ok(format!("{{\"seq\":{seq},\"sum\":\"{}\",\"rec\":{text}}}", sum(seq, &text)))
}

/// The record of one line; `None` when it is not whole, or not the line `seq`.
fn parse<T: DeserializeOwned>(seq: u64, raw: &str) -> Option<T> {
    let line: Line<'_> = serde_json::from_str(raw.strip_suffix('\n')?).ok()?;
    let text = line.rec.get();
    if line.seq != seq || line.sum != sum(seq, text) {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// Reads `text` up to its first line that does not match.
pub(crate) fn whole<T: DeserializeOwned>(text: &str) -> Whole<T> {
    let mut whole = Whole { records: Vec::new(), bytes: 0, broken: None };
    for (seq, raw) in (0_u64..).zip(text.split_inclusive('\n')) {
        let Some(record) = parse(seq, raw) else {
            let last = whole.bytes + raw.len() == text.len();
            whole.broken = (!last).then_some(whole.records.len() + 1);
            break;
        };
        whole.records.push(record);
        whole.bytes += raw.len();
    }
    whole
}

/// The failure of a line that does not match, the `number`th of `what`.
pub(crate) fn broken(what: &str, number: usize) -> Failure {
    Failure::unknown(format!("{what}, line {number}"), "does not match its checksum")
}
