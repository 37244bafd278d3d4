//! Talking by lines with a program that runs elsewhere, whatever carries them. What it says is counted and cut: it can
//! neither fill this side's memory nor keep it waiting.

use std::time::Duration;

use crate::error::Result;

/// Longest line of a conversation.
const LINE_LIMIT: usize = 1 << 20;
/// What a message or a line costs here besides its bytes: empty ones count as well.
const EACH: usize = 64;

/// What a command may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The whole command where it runs to its end, its input included; in a conversation each call brings its own.
    pub deadline: Duration,
    /// Most bytes of standard output in all, and 64 for each line; more ends the command.
    pub stdout: usize,
    /// Most bytes of standard error that are kept.
    pub stderr: usize,
    /// Longest line of a conversation.
    pub line: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(30), stdout: 1 << 20, stderr: 64 << 10, line: LINE_LIMIT }
    }
}

/// What came of waiting for a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A line without its end; bytes that are no UTF-8 are replaced.
    Line(String),
    /// Nothing in time.
    Silence,
    /// The command ended its output.
    End,
}

/// A program that runs, with its standard input and output.
pub trait Talk {
    /// Sends bytes.
    ///
    /// # Errors
    /// When they are not taken in time, or the program has ended.
    fn send(&mut self, bytes: Vec<u8>, limit: Duration) -> Result<()>;

    /// Sends a line; `line` holds no line end.
    ///
    /// # Errors
    /// As [`Talk::send`].
    fn send_line(&mut self, line: &str, limit: Duration) -> Result<()> {
        self.send(format!("{line}\n").into_bytes(), limit)
    }

    /// The next line of standard output.
    ///
    /// # Errors
    /// When a limit was broken, or what carries the lines ended before the program did.
    fn next_line(&mut self, limit: Duration) -> Result<Heard>;

    /// What it wrote to standard error so far.
    fn stderr(&self) -> Vec<u8>;

    /// Waits for the end and gives the exit code; lines that were not read are dropped.
    ///
    /// # Errors
    /// As [`Talk::next_line`], and when it does not end in time.
    fn finish(&mut self, limit: Duration) -> Result<u32>;
}

/// Counts what a program prints, and cuts it into lines.
#[derive(Debug)]
pub struct Lines {
    line: Vec<u8>,
    left: usize,
    longest: usize,
}

impl Lines {
    /// At most `most` bytes in all, and `longest` in a line.
    pub const fn new(most: usize, longest: usize) -> Self {
        Self { line: Vec::new(), left: most, longest }
    }

    /// Counts a piece.
    ///
    /// # Errors
    /// What the program did wrong.
    pub fn count(&mut self, data: &[u8]) -> std::result::Result<(), &'static str> {
        let lines = data.iter().filter(|byte| **byte == b'\n').count().saturating_add(1);
        let cost = data.len().saturating_add(lines.saturating_mul(EACH));
        self.left = self.left.checked_sub(cost).ok_or("it prints more than it may")?;
        Ok(())
    }

    /// Counts a piece, and hands over each line that it ends.
    ///
    /// # Errors
    /// What the program did wrong.
    pub fn cut(&mut self, data: &[u8], mut each: impl FnMut(Vec<u8>)) -> std::result::Result<(), &'static str> {
        self.count(data)?;
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
                each(std::mem::take(&mut self.line));
            }
        }
        if self.line.len() > self.longest {
            let is_usual = self.longest == LINE_LIMIT;
            return Err(if is_usual {
                "it prints a line of more than 1 MiB"
            } else {
                "it prints a line that is too long"
            });
        }
        Ok(())
    }

    /// A last line without its end.
    pub fn rest(self) -> Option<Vec<u8>> {
        Some(self.line).filter(|line| !line.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_anywhere_and_counted() {
        let mut lines = Lines::new(1000, LINE_LIMIT);
        let mut said = Vec::new();
        for piece in ["a", "b\nc\n", "\n", "d"] {
            lines.cut(piece.as_bytes(), |line| said.push(String::from_utf8(line).unwrap())).unwrap();
        }
        assert_eq!(said, ["ab", "c", ""]);
        assert_eq!(lines.rest(), Some(b"d".to_vec()));
        let mut empty = Lines::new(1000, LINE_LIMIT);
        assert!((0..100).any(|_| empty.cut(b"\n", |_| ()).is_err()), "empty lines cost too");
        let mut long = Lines::new(usize::MAX, LINE_LIMIT);
        assert!(long.cut(&vec![b'x'; LINE_LIMIT + 1], |_| ()).is_err());
        assert!(Lines::new(10, LINE_LIMIT).cut(&[b'x'; 11], |_| ()).is_err());
    }
}
