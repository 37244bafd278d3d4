//! One text of a playbook: cleaned for the parser, with its lines kept for the reader. Must not interpret YAML.

use super::fault::{Faults, Located, mask};
use crate::error::Failure;
use crate::types::is_forbidden;

/// The greatest size of a playbook, of what it extends, and of a file it names, in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;

/// Characters reported in one file; a binary file has many.
const MAX_CHARACTERS: usize = 200;

/// Characters of a line that are kept for the reader.
const MAX_SHOWN: usize = 1000;

/// A stretch of one line in one file; `line` 0 is the file as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    /// Index into [`Report::sources`].
    pub file: usize,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// In characters, at least 1.
    pub length: usize,
}

/// A text with its name.
pub(crate) struct Source {
    pub name: String,
    lines: Vec<String>,
}

/// A fault whose line is not looked up yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spot {
    pub at: At,
    pub what: String,
    pub hint: String,
}

/// Collects the faults of all files.
#[derive(Default)]
pub(crate) struct Report {
    pub sources: Vec<Source>,
    pub spots: Vec<Spot>,
    /// A file could be read in part only: what is missing may stand in the rest.
    pub partial: bool,
}

impl Report {
    /// Notes a fault.
    pub fn add(&mut self, at: At, what: impl Into<String>, hint: impl Into<String>) {
        self.spots.push(Spot { at, what: what.into(), hint: hint.into() });
    }

    /// Takes a text in: notes what no playbook may hold and gives back the text for the parser, in which such characters
    /// are replaced one for one, so that the rest of the file is judged in the same run.
    pub fn open(&mut self, name: &str, text: &str) -> (usize, String) {
        let file = self.sources.len();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
        self.sources.push(Source { name: name.to_owned(), lines: text.split('\n').map(str::to_owned).collect() });
        let mut clean = String::with_capacity(text.len());
        let (mut line, mut column, mut bad) = (1, 1, 0);
        for c in text.chars() {
            let at = At { file, line, column, length: 1 };
            if c == '\n' {
                (line, column) = (line + 1, 0);
                clean.push(c);
            } else if let Some((what, hint)) = judge(c) {
                bad += 1;
                if bad <= MAX_CHARACTERS {
                    self.add(at, what, hint);
                }
                clean.push(if c == '\t' { ' ' } else { '\u{fffd}' });
            } else {
                clean.push(c);
            }
            column += 1;
        }
        (file, clean)
    }

    /// The text of a line, from 1.
    pub fn line(&self, at: At) -> &str {
        self.sources
            .get(at.file)
            .and_then(|source| source.lines.get(at.line.checked_sub(1)?))
            .map_or("", String::as_str)
    }

    /// `file:line:column`.
    pub fn place(&self, at: At) -> String {
        let name = self.sources.get(at.file).map_or("", |source| source.name.as_str());
        if at.line == 0 { name.to_owned() } else { format!("{name}:{}:{}", at.line, at.column) }
    }

    /// All faults, sorted, equal ones once.
    pub fn finish(mut self) -> Faults {
        self.spots.sort_by(|a, b| (a.at, &a.what).cmp(&(b.at, &b.what)));
        self.spots.dedup();
        let items = self.spots.iter().map(|spot| self.locate(spot)).collect();
        Faults { items }
    }

    fn locate(&self, spot: &Spot) -> Located {
        // A line may be a megabyte long; what lies beyond a few screens is not shown.
        let line: String = self.line(spot.at).chars().take(MAX_SHOWN).collect();
        let long = spot.at.column > MAX_SHOWN;
        let left = line.chars().count().saturating_sub(spot.at.column.saturating_sub(1));
        Located {
            file: self.sources.get(spot.at.file).map_or_else(String::new, |source| source.name.clone()),
            line: spot.at.line,
            column: spot.at.column,
            length: spot.at.length.min(left).max(1),
            line_text: if long { String::new() } else { mask(&line) },
            what: spot.what.clone(),
            hint: spot.hint.clone(),
        }
    }
}

/// Why no playbook may hold `c`, with the fix.
fn judge(c: char) -> Option<(String, String)> {
    if c == '\t' {
        return Some(("tab".to_owned(), "write spaces".to_owned()));
    }
    if c == '\u{fffd}' {
        return Some((
            "replacement character: the text was damaged by a conversion".to_owned(),
            "write the character again, in UTF-8".to_owned(),
        ));
    }
    if !is_forbidden(c) {
        return None;
    }
    let kind = match c {
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => "character that changes the direction of text",
        '\u{2028}' | '\u{2029}' => "line separator",
        '\u{feff}' => "byte order mark inside the text",
        _ => "control character",
    };
    Some((format!("{kind} {}", escape(c)), "remove it".to_owned()))
}

/// `U+001B`, which is safe on a terminal.
pub(crate) fn escape(c: char) -> String {
    format!("U+{:04X}", u32::from(c))
}

/// Bytes as the text of a playbook or of a file that it names.
///
/// # Errors
/// Over [`MAX_BYTES`], or not UTF-8 (naming the byte).
pub fn decode(name: &str, bytes: Vec<u8>) -> Result<String, Failure> {
    decode_up_to(MAX_BYTES, name, bytes)
}

/// As [`decode`], for a text of at most so many bytes.
///
/// # Errors
/// As [`decode`].
pub fn decode_up_to(most: usize, name: &str, bytes: Vec<u8>) -> Result<String, Failure> {
    if bytes.len() > most {
        return Err(Failure::input(name, format!("larger than {most} bytes")).hint("split it, or name the right file"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let before = error.as_bytes().get(..offset).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Failure::input(name, format!("not UTF-8: byte {offset} (line {line})"))
            .hint(format!("convert it: iconv -f LATIN1 -t UTF-8 {name}"))
    })
}
