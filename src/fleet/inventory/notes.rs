//! What is wrong with an inventory and what of it is not used, by place. Must not interpret anything.

use std::borrow::Cow;

use super::{MAX_BYTES, Unread};
use crate::error::Failure;
use crate::playbook::{At, Located, Report, escape, mask};
use crate::types::is_forbidden;

/// Faults that are kept, and the same of what is unread; the rest is counted.
const MOST: usize = 1_000;
/// Forbidden characters that are reported in one file; a binary file has many.
const MOST_CHARACTERS: usize = 50;

/// A place in one of the files; `line` 0 is the file as a whole, `column` 0 the line as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    /// Index of the file, in the order of reading.
    pub file: u32,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

impl Mark {
    /// Another place in the same file.
    pub fn to(self, line: usize, column: usize) -> Self {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self { file: self.file, line: number(line), column: number(column) }
    }
}

/// The name of a file, whatever its directory holds.
fn printable(name: &str) -> String {
    name.chars().map(|c| if is_forbidden(c) { '?' } else { c }).collect()
}

struct Fault {
    at: Mark,
    length: usize,
    what: String,
    hint: String,
}

/// Collects both.
#[derive(Default)]
pub(super) struct Notes {
    /// Stands before the names of files, as the user typed it.
    prefix: String,
    names: Vec<String>,
    bytes: usize,
    faults: Vec<Fault>,
    unread: Vec<(Mark, String, String)>,
    more_faults: usize,
    more_unread: usize,
    /// Holds the lines of keyward's own form, which are shown with their faults.
    pub lines: Option<Report>,
}

impl Notes {
    pub fn new(prefix: String) -> Self {
        Self { prefix: printable(&prefix), ..Self::default() }
    }

    /// Takes a file in; `None` when all files together are too large, which is then noted.
    pub fn open(&mut self, name: &str, bytes: usize) -> Option<Mark> {
        let at = Mark { file: u32::try_from(self.names.len()).unwrap_or(u32::MAX), ..Mark::default() };
        self.names.push(printable(name));
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MAX_BYTES {
            self.fault(at, format!("more than {MAX_BYTES} bytes of inventory"), "split the inventory");
            return None;
        }
        Some(at)
    }

    /// The text for a parser: without byte order mark and carriage returns. Control characters and those that change the
    /// direction of text are faults, also in comments: what a reader sees must be what is there.
    pub fn clean<'t>(&mut self, source: Mark, text: &'t str) -> Cow<'t, str> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let text = if text.contains('\r') { Cow::Owned(text.replace("\r\n", "\n")) } else { Cow::Borrowed(text) };
        let bad = |c: char| !matches!(c, '\n' | '\t') && (is_forbidden(c) || c == '\u{fffd}');
        if !text.contains(bad) {
            return text;
        }
        let found = text.lines().enumerate().flat_map(|(row, line)| {
            line.chars().enumerate().filter(move |(_, c)| bad(*c)).map(move |(column, c)| (row + 1, column + 1, c))
        });
        for (line, column, c) in found.take(MOST_CHARACTERS) {
            let what = format!("control character or character that changes the direction of text: {}", escape(c));
            self.fault(source.to(line, column), what, "remove it");
        }
        Cow::Owned(text.replace(bad, "?"))
    }

    /// Notes a fault.
    pub fn fault(&mut self, at: Mark, what: impl Into<String>, hint: impl Into<String>) {
        self.long_fault(at, 1, what, hint);
    }

    /// Notes a fault of `length` characters.
    pub fn long_fault(&mut self, at: Mark, length: usize, what: impl Into<String>, hint: impl Into<String>) {
        if self.faults.len() < MOST {
            self.faults.push(Fault { at, length, what: what.into(), hint: hint.into() });
        } else {
            self.more_faults += 1;
        }
    }

    /// Notes what is not used.
    pub fn unread(&mut self, at: Mark, what: impl Into<String>, hint: impl Into<String>) {
        if self.unread.len() < MOST {
            self.unread.push((at, what.into(), hint.into()));
        } else {
            self.more_unread += 1;
        }
    }

    /// True when a fault was noted.
    pub fn is_faulty(&self) -> bool {
        !self.faults.is_empty()
    }

    /// `file:line:column`.
    pub fn place(&self, at: Mark) -> String {
        let name = self.names.get(at.file as usize).map_or("", String::as_str);
        let prefix = &self.prefix;
        match (at.line, at.column) {
            (0, _) => format!("{prefix}{name}"),
            (line, 0) => format!("{prefix}{name}:{line}"),
            (line, column) => format!("{prefix}{name}:{line}:{column}"),
        }
    }

    /// All faults, by place, equal ones once.
    pub fn into_faults(mut self) -> Vec<Failure> {
        let mut faults = std::mem::take(&mut self.faults);
        faults.sort_by(|a, b| (a.at, &a.what).cmp(&(b.at, &b.what)));
        faults.dedup_by(|a, b| (a.at, &a.what) == (b.at, &b.what));
        let mut out: Vec<Failure> = faults.iter().map(|fault| self.failure(fault)).collect();
        if self.more_faults > 0 {
            let rest = format!("{} more faults are not listed", self.more_faults);
            out.push(Failure::input(self.place(Mark::default()), rest).hint("mend the first ones, and look again"));
        }
        out
    }

    fn failure(&self, fault: &Fault) -> Failure {
        let failure = Failure::input(self.place(fault.at), fault.what.as_str()).hint(fault.hint.as_str());
        match self.excerpt(fault) {
            Some(excerpt) => failure.why(excerpt),
            None => failure,
        }
    }

    /// The line with a caret, as under the faults of a playbook; not where a secret may stand.
    fn excerpt(&self, fault: &Fault) -> Option<String> {
        let place = |n: u32| usize::try_from(n).ok();
        let (line, column) = (place(fault.at.line)?, place(fault.at.column)?);
        let text = self.lines.as_ref()?.line(At { file: 0, line, column, length: 1 });
        let lower = text.to_lowercase();
        if column == 0 || text.len() > 1000 || ["pass", "secret", "token"].iter().any(|word| lower.contains(word)) {
            return None;
        }
        let left = text.chars().count().saturating_sub(column - 1).max(1);
        let located = Located {
            file: String::new(),
            line,
            column,
            length: fault.length.min(left),
            line_text: mask(text),
            what: String::new(),
            hint: String::new(),
        };
        located.to_string().split_once('\n').map(|(_, lines)| format!("\n{lines}"))
    }

    /// All that is unread, by place.
    pub fn into_unread(mut self) -> Vec<Unread> {
        let mut unread = std::mem::take(&mut self.unread);
        unread.sort();
        unread.dedup();
        let mut out: Vec<Unread> =
            unread.into_iter().map(|(at, what, hint)| Unread { at: self.place(at), what, hint }).collect();
        if self.more_unread > 0 {
            let what = format!("{} more places are not understood and not listed", self.more_unread);
            out.push(Unread { at: self.place(Mark::default()), what, hint: String::new() });
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_sorted_told_once_and_counted() {
        let mut notes = Notes::new("dir/".into());
        let source = notes.open("hosts", 3).unwrap();
        notes.fault(source.to(2, 5), "b", "");
        notes.fault(source.to(1, 0), "a", "");
        notes.fault(source.to(2, 5), "b", "");
        for _ in 0..MOST {
            notes.fault(source.to(3, 1), "c", "");
        }
        let lines: Vec<String> = notes.into_faults().iter().map(Failure::line).collect();
        assert_eq!(
            lines,
            ["dir/hosts:1: a", "dir/hosts:2:5: b", "dir/hosts:3:1: c", "dir/hosts: 3 more faults are not listed"]
        );
    }

    #[test]
    fn names_of_files_are_safe_to_show() {
        let mut notes = Notes::new("d\u{1b}/".into());
        let source = notes.open("f\u{202e}", 0).unwrap();
        assert_eq!(notes.place(source), "d?/f?");
    }

    #[test]
    fn what_is_unread_is_told_once_and_counted() {
        let mut notes = Notes::default();
        let source = notes.open("hosts", 3).unwrap();
        (0..=MOST).for_each(|_| notes.unread(source.to(3, 0), "d", ""));
        let told: Vec<String> =
            notes.into_unread().into_iter().map(|unread| format!("{}: {}", unread.at, unread.what)).collect();
        assert_eq!(told, ["hosts:3: d", "hosts: 1 more places are not understood and not listed"]);
    }

    #[test]
    fn what_a_reader_cannot_see_is_a_fault() {
        for c in ['\u{1b}', '\u{202e}', '\u{2066}', '\0', '\u{fffd}', '\r'] {
            let mut notes = Notes::new(String::new());
            let source = notes.open("hosts", 3).unwrap();
            assert_eq!(notes.clean(source, &format!("ok\r\n\ta{c}b")), "ok\n\ta?b");
            assert_eq!(notes.into_faults()[0].place, "hosts:2:3", "{c:?}");
        }
    }
}
