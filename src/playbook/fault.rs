//! Faults of a playbook with their places, and how they are shown. Must not show a secret: lines are masked first.

use std::fmt;

use serde::Serialize;

use crate::error::Failure;
use crate::types::is_forbidden;

/// Faults shown to a reader; the rest is counted.
const SHOWN: usize = 50;
/// A longer line is cut around the fault.
const WIDTH: usize = 100;

/// One fault with its place. `line` 0 means the whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Located {
    /// As the user named it, or `builtin:NAME`.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Length of the faulty text on that line, in characters, at least 1.
    pub length: usize,
    /// The line, secrets and control characters masked; empty when the place is far out on a very long line.
    pub line_text: String,
    /// What is wrong, lower case.
    pub what: String,
    /// The fix.
    pub hint: String,
}

/// All faults of a playbook and of what it extends: by file, then by position.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// At least one.
    pub items: Vec<Located>,
}

impl Faults {
    /// One failure that carries the whole text, for callers that know nothing of places.
    pub fn failure(&self) -> Failure {
        let file = self.items.first().map_or("", |item| item.file.as_str());
        let count = match self.items.len() {
            1 => "1 error".to_owned(),
            many => format!("{many} errors"),
        };
        Failure::input(file, count).why(format!("\n{self}"))
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.items.iter().take(SHOWN).enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            item.fmt(f)?;
        }
        match self.items.len().checked_sub(SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, "\n\nand {more} more"),
        }
    }
}

impl std::error::Error for Faults {}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: error: {}", self.file, self.what)?;
        } else if self.line_text.is_empty() {
            write!(f, "{}:{}:{}: error: {}", self.file, self.line, self.column, self.what)?;
        } else {
            writeln!(f, "{}:{}:{}: error: {}", self.file, self.line, self.column, self.what)?;
            let number = self.line.to_string();
            let before = self.column.saturating_sub(1);
            // A long line is cut so that the caret stays in view.
            let from = if before > WIDTH - 30 { before - (WIDTH - 40) } else { 0 };
            let shown: String = self.line_text.chars().skip(from).take(WIDTH).collect();
            let (head, tail) = (if from > 0 { "..." } else { "" }, self.line_text.chars().count() > from + WIDTH);
            let carets = self.length.clamp(1, (from + WIDTH).saturating_sub(before).max(1));
            writeln!(f, "  {number} | {head}{shown}{}", if tail { "..." } else { "" })?;
            let blank = " ".repeat(number.len());
            write!(f, "  {blank} | {}{}", " ".repeat(before - from + head.len()), "^".repeat(carets))?;
        }
        if !self.hint.is_empty() {
            write!(f, "\n  help: {}", self.hint)?;
        }
        Ok(())
    }
}

/// Words that stand for themselves where a secret could stand.
const NOT_SECRET: [&str; 7] = ["locked", "keep", "true", "false", "no", "yes", "{"];
/// Keys whose value is not shown.
const SECRET_KEYS: [&str; 6] = ["password", "passwd", "passphrase", "hash", "secret", "token"];

/// `line` as it may be shown: password hashes, values of keys that name a secret and what follows the head of a private
/// key become `*`; control characters become `?`. The number of characters stays the same.
pub(crate) fn mask(line: &str) -> String {
    let mut chars: Vec<char> = line.chars().map(|c| if is_forbidden(c) { '?' } else { c }).collect();
    for key in SECRET_KEYS {
        for end in ends_of(&chars, key) {
            hide_value(&mut chars, end);
        }
    }
    for end in ends_of(&chars, "PRIVATE KEY-----") {
        chars.iter_mut().skip(end).for_each(|c| *c = '*');
    }
    hide_hashes(&mut chars);
    chars.into_iter().collect()
}

/// Where the occurrences of `word` end.
fn ends_of(chars: &[char], word: &str) -> Vec<usize> {
    let word: Vec<char> = word.chars().collect();
    chars.windows(word.len()).enumerate().filter(|(_, w)| *w == word).map(|(at, _)| at + word.len()).collect()
}

/// Hides the scalar after `key:`, which ends at `from`.
fn hide_value(chars: &mut [char], from: usize) {
    let mut at = from;
    while chars.get(at).is_some_and(|c| matches!(c, '"' | '\'' | ' ')) {
        at += 1;
    }
    if chars.get(at) != Some(&':') {
        return;
    }
    at += 1;
    while chars.get(at).is_some_and(|c| *c == ' ') {
        at += 1;
    }
    let quote = chars.get(at).copied().filter(|c| matches!(c, '"' | '\''));
    let start = at + usize::from(quote.is_some());
    let ends = |c: &char| quote.map_or(matches!(c, ',' | '}' | ' '), |quote| *c == quote);
    let length = chars.iter().skip(start).take_while(|c| !ends(c)).count();
    let word: String = chars.iter().skip(start).take(length).collect();
    if !NOT_SECRET.contains(&word.as_str()) && !word.starts_with("{{") {
        chars.iter_mut().skip(start).take(length).for_each(|c| *c = '*');
    }
}

/// Hides every word that looks like a crypt(5) hash: `$id$...`.
fn hide_hashes(chars: &mut [char]) {
    let mut at = 0;
    while at < chars.len() {
        let id = chars.iter().skip(at + 1).take(4).position(|c| *c == '$');
        if chars.get(at) == Some(&'$') && id.is_some_and(|id| id > 0) {
            let ends = |c: &char| matches!(c, '"' | '\'' | ' ' | ',' | '}' | ']');
            let length = chars.iter().skip(at).take_while(|c| !ends(c)).count();
            chars.iter_mut().skip(at).take(length).for_each(|c| *c = '*');
            at += length;
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        assert_eq!(mask("  hash: \"$6$abc$def\" # x"), "  hash: \"**********\" # x");
        assert_eq!(mask("  password: hunter2"), "  password: *******");
        assert_eq!(mask("  password: locked"), "  password: locked");
        assert_eq!(mask("  password: { hash: $y$j9T$x }"), "  password: { hash: ******** }");
        assert_eq!(mask("vars: { pw: $6$a$b }"), "vars: { pw: ****** }");
        assert_eq!(
            mask("key: -----BEGIN OPENSSH PRIVATE KEY-----\\nabc"),
            "key: -----BEGIN OPENSSH PRIVATE KEY-----*****"
        );
        assert_eq!(mask("a\u{1b}[31m"), "a?[31m");
    }

    #[test]
    fn a_caret_stays_in_view_on_a_long_line() {
        let item = Located {
            file: "p.yml".into(),
            line: 3,
            column: 501,
            length: 4,
            line_text: format!("{}oops{}", "x".repeat(500), "y".repeat(500)),
            what: "bad".into(),
            hint: "good".into(),
        };
        let text = item.to_string();
        let lines: Vec<&str> = text.lines().collect();
        let caret = lines[2].find("^^^^").unwrap();
        assert_eq!(&lines[1][caret..caret + 4], "oops");
        assert!(lines.iter().all(|line| line.len() < 130));
    }
}
