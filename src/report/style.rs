//! Colour and line breaking for the human report. Knows nothing of terminals: the caller says whether colour is wanted.

/// Columns of the tired reader's terminal; every line that keyward composes fits (diffs stay as they are).
pub const WIDTH: usize = 80;
/// Rows of that terminal.
pub const HEIGHT: usize = 24;

/// How words are painted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// No escape sequence at all.
    #[default]
    Plain,
    /// SGR sequences.
    Colour,
}

/// What a word means; decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Headings and verdicts.
    Strong,
    /// It is as it should be, or is added.
    Good,
    /// Read this.
    Warn,
    /// It failed, or is taken away.
    Bad,
    /// Less important.
    Faint,
}

impl Style {
    /// `text` in the colour of `tone`.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        if self == Self::Plain || text.is_empty() {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Strong => "1",
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Breaks `text` at spaces into lines of at most [`WIDTH`] columns; the first begins with `lead`, the others with as
/// many spaces. A word that is too long stays whole, so that commands can be copied.
pub fn wrap(lead: &str, text: &str) -> Vec<String> {
    let indent = " ".repeat(lead.chars().count());
    let mut lines = Vec::new();
    let mut current = lead.to_owned();
    let mut filled = false;
    for word in text.split(' ') {
        let wide = current.chars().count() + usize::from(filled) + word.chars().count();
        if filled && wide > WIDTH {
            lines.push(std::mem::replace(&mut current, indent.clone()));
            filled = false;
        }
        if filled {
            current.push(' ');
        }
        current.push_str(word);
        filled = true;
    }
    lines.push(current);
    lines
}

/// `1 change`, `2 changes`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_lose_no_word() {
        let words = "word ".repeat(60);
        let lines = wrap("  1 ", words.trim());
        assert!(lines.len() > 3 && lines.iter().all(|line| line.chars().count() <= WIDTH));
        assert_eq!(lines.join(" ").matches("word").count(), 60);
        assert!(lines[1].starts_with("    word"));
        let long = "x".repeat(100);
        assert_eq!(wrap("- ", &long), [format!("- {long}")]);
    }
}
