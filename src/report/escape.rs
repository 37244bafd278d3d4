//! Makes text from hosts and playbooks harmless for terminals and logs: no control sequence, no hidden direction.
//! Must not shorten or judge anything.

use std::fmt::Write as _;

use crate::types::is_forbidden;

/// True for characters that never reach a terminal or a log as they are: C0 and C1 controls (CSI is U+009B), DEL, line
/// separators, byte order marks and everything that changes the reading direction (CVE-2021-42574).
pub fn is_hostile(c: char) -> bool {
    is_forbidden(c) || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2065}')
}

/// `text` as one harmless line: hostile characters become `\n`, `\t` or `\u{9b}`.
pub fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hostile(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Like [`line()`], but line feeds and tabs stay.
pub fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hostile(c) && !matches!(c, '\n' | '\t') { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// JSON text with every hostile character as a `\u` escape. They stand only within strings, and none is beyond U+FFFF, so
/// the value stays the same.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hostile(c) && c != '\n' {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// Text of an element or an attribute of HTML, on one line.
pub fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in line(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_cursor_or_the_reading_direction() {
        let bad = "a\u{1b}[2Jb\u{9b}31mc\u{202e}d\u{200f}e\u{7f}\r\nf";
        for shown in [line(bad), text(bad), json(bad)] {
            assert!(!shown.chars().any(|c| is_hostile(c) && c != '\n'), "{shown:?}");
        }
        assert!(!line(bad).contains('\n'));
        assert!(text("a\n\tb").contains("\n\t"));
        assert_eq!(line("plain é ✓"), "plain é ✓");
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({ "a": "x\u{9b}y\u{202e}z\u{7f}\u{feff}" });
        let shown = json(&value.to_string());
        assert!(shown.is_ascii());
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
