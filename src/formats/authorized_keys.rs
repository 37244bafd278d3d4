//! `authorized_keys`, as sshd(8) reads it: one key a line, options before it, the first line that lets a key in decides.
//!
//! [`KeyFile`] keeps every line that no call names byte for byte: comments, dead lines, CRLF, a byte order mark, NUL
//! bytes and a missing final newline. Must not open files.

use crate::types::{Cidr, PlainText, PublicKey, Word};

/// A file of keys, line by line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyFile {
    /// Each with its newline, if it has one.
    lines: Vec<Vec<u8>>,
}

/// What sshd makes of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Blank, or a comment.
    Nothing,
    /// A key with its options.
    Key(Entry),
    /// Neither; sshd passes over it. The reason, for messages.
    Dead(&'static str),
}

/// A line with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Options in their order.
    pub options: Vec<KeyOption>,
    /// Key type as written.
    pub algorithm: String,
    /// The key, base64 as written.
    pub blob: String,
}

/// One option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyOption {
    /// Its name in lower case; sshd compares without case.
    pub name: String,
    /// The value without its quotes; `None` for a flag.
    pub value: Option<String>,
}

/// A line that keyward writes: a key and the options a playbook can give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The key.
    pub key: PublicKey,
    /// `from=`: addresses from which it counts; empty means everywhere.
    pub from: Vec<Cidr>,
    /// `restrict`: no forwarding, no terminal, no user rc.
    pub restrict: bool,
    /// `command=`: the one command it runs.
    pub command: Option<PlainText>,
}

/// Options of sshd(8), "AUTHORIZED_KEYS FILE FORMAT": flags, and those that take a quoted value. Another word voids the
/// line.
const FLAGS: [&str; 15] = [
    "restrict",
    "cert-authority",
    "port-forwarding",
    "no-port-forwarding",
    "agent-forwarding",
    "no-agent-forwarding",
    "x11-forwarding",
    "no-x11-forwarding",
    "pty",
    "no-pty",
    "user-rc",
    "no-user-rc",
    "touch-required",
    "no-touch-required",
    "verify-required",
];
const VALUED: [&str; 8] =
    ["command", "principals", "from", "expiry-time", "environment", "permitopen", "permitlisten", "tunnel"];

impl KeyFile {
    /// Splits a file; never fails, and [`KeyFile::render`] gives the same bytes back.
    pub fn parse(bytes: &[u8]) -> Self {
        Self { lines: bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect() }
    }

    /// The file.
    pub fn render(&self) -> Vec<u8> {
        self.lines.concat()
    }

    /// What each line means, with its number from 1.
    pub fn meanings(&self) -> impl Iterator<Item = (usize, Meaning)> + '_ {
        self.lines.iter().enumerate().map(|(at, line)| (at + 1, meaning(line)))
    }

    /// Adds a line at the end; a last line without newline gets one first, else the two would become one.
    pub fn append(&mut self, text: &str) {
        if let Some(last) = self.lines.last_mut().filter(|last| !last.ends_with(b"\n")) {
            last.push(b'\n');
        }
        self.lines.push(format!("{text}\n").into_bytes());
    }

    /// Puts `text` in the place of line `number`.
    pub fn replace(&mut self, number: usize, text: &str) {
        if let Some(line) = number.checked_sub(1).and_then(|at| self.lines.get_mut(at)) {
            *line = format!("{text}\n").into_bytes();
        }
    }

    /// Keeps the lines whose number and meaning `keep` accepts.
    pub fn retain(&mut self, mut keep: impl FnMut(usize, &Meaning) -> bool) {
        let mut number = 0;
        self.lines.retain(|line| {
            number += 1;
            keep(number, &meaning(line))
        });
    }

    /// True when the first line begins with a byte order mark, which makes sshd pass over that line.
    pub fn has_byte_order_mark(&self) -> bool {
        self.lines.first().is_some_and(|line| line.starts_with(b"\xef\xbb\xbf"))
    }
}

impl Entry {
    /// True when this is the same key: the encoded key decides, padding aside.
    pub fn is_key(&self, key: &PublicKey) -> bool {
        self.algorithm == key.algorithm() && self.blob.trim_end_matches('=') == key.blob().trim_end_matches('=')
    }

    /// True for a certificate authority, which lets no plain key in.
    pub fn is_authority(&self) -> bool {
        self.options.iter().any(|option| option.name == "cert-authority")
    }

    /// The options that a playbook did not ask for by name; a playbook may only replace what it speaks of.
    pub fn options_beyond(&self, grant: &Grant) -> Vec<String> {
        let asked = grant.option_names();
        let names = self.options.iter().map(|option| option.name.clone());
        names.filter(|name| !asked.contains(&name.as_str())).collect()
    }

    /// True when the options mean what `grant` asks, whatever their order.
    pub fn has_options_of(&self, grant: &Grant) -> bool {
        let asked = grant.options();
        let have: Vec<KeyOption> = self.options.iter().map(KeyOption::sorted).collect();
        asked.len() == have.len() && asked.iter().all(|option| have.contains(&option.sorted()))
    }
}

impl KeyOption {
    /// With the patterns of `from` in one order, so that two lists of the same addresses are equal.
    fn sorted(&self) -> Self {
        let value = match &self.value {
            Some(list) if self.name == "from" => {
                let mut items: Vec<&str> = list.split(',').collect();
                items.sort_unstable();
                items.dedup();
                Some(items.join(","))
            }
            other => other.clone(),
        };
        Self { name: self.name.clone(), value }
    }
}

impl Grant {
    /// The line, without its newline: `restrict,from="...",command="..." TYPE KEY COMMENT`.
    pub fn line(&self) -> String {
        let options: Vec<String> = self.options().iter().map(render_option).collect();
        if options.is_empty() { self.key.line() } else { format!("{} {}", options.join(","), self.key.line()) }
    }

    /// The options, in the order in which they are written.
    fn options(&self) -> Vec<KeyOption> {
        let flag = |name: &str| KeyOption { name: name.to_owned(), value: None };
        let valued = |name: &str, value: String| KeyOption { name: name.to_owned(), value: Some(value) };
        let mut options = Vec::new();
        if self.restrict {
            options.push(flag("restrict"));
        }
        if !self.from.is_empty() {
            options.push(valued("from", self.from.iter().map(Word::text).collect::<Vec<_>>().join(",")));
        }
        if let Some(command) = &self.command {
            options.push(valued("command", command.as_str().to_owned()));
        }
        options
    }

    fn option_names(&self) -> Vec<&'static str> {
        let asked = [(self.restrict, "restrict"), (!self.from.is_empty(), "from"), (self.command.is_some(), "command")];
        asked.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect()
    }

    /// True when the key alone decides: from everywhere, any command.
    pub fn is_plain(&self) -> bool {
        self.options().is_empty()
    }
}

fn render_option(option: &KeyOption) -> String {
    match &option.value {
        None => option.name.clone(),
        Some(value) => format!("{}=\"{}\"", option.name, value.replace('"', "\\\"")),
    }
}

/// sshd reads a line as a C string: a NUL ends it. Bytes that are not UTF-8 can only stand where they do not matter.
fn meaning(line: &[u8]) -> Meaning {
    let body = line.split(|byte| matches!(byte, 0 | b'\n')).next().unwrap_or_default();
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start_matches([' ', '\t']);
    if text.trim_end_matches('\r').is_empty() || text.starts_with('#') {
        return Meaning::Nothing;
    }
    if let Some((algorithm, blob)) = key_at(text) {
        return Meaning::Key(Entry { options: Vec::new(), algorithm, blob });
    }
    let Some((options, rest)) = split_options(text) else {
        return Meaning::Dead("a quote is not closed");
    };
    let Some((algorithm, blob)) = key_at(rest.trim_start_matches([' ', '\t'])) else {
        return Meaning::Dead("no key");
    };
    match parse_options(options) {
        Some(options) => Meaning::Key(Entry { options, algorithm, blob }),
        None => Meaning::Dead("an option that sshd does not know"),
    }
}

/// The key at the start of a text, as its type and base64 words.
fn key_at(text: &str) -> Option<(String, String)> {
    let mut words = text.split([' ', '\t', '\r']).filter(|word| !word.is_empty());
    let algorithm = words.next()?;
    let known = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-", "webauthn-sk-"];
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '@' | '.');
    if !known.iter().any(|prefix| algorithm.starts_with(prefix)) || !algorithm.chars().all(plain) {
        return None;
    }
    let blob = words.next()?;
    let base64 = blob.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '='));
    (base64 && blob.starts_with("AAAA")).then(|| (algorithm.to_owned(), blob.to_owned()))
}

/// Splits at the first blank outside quotes; `\"` does not end a quote. `None` when a quote stays open.
fn split_options(text: &str) -> Option<(&str, &str)> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if text.get(at + 1..).is_some_and(|rest| rest.starts_with('"')) => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => return Some((text.get(..at)?, text.get(at..)?)),
            _ => {}
        }
    }
    (!quoted).then_some((text, ""))
}

/// `name,name="value",...`; `None` when sshd would void the line.
fn parse_options(text: &str) -> Option<Vec<KeyOption>> {
    let mut options = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find([',', '=']).unwrap_or(rest.len());
        let name = rest.get(..end)?.to_ascii_lowercase();
        let tail = rest.get(end..)?;
        let value;
        (value, rest) = match tail.strip_prefix("=\"") {
            Some(quoted) if VALUED.contains(&name.as_str()) => {
                let (value, tail) = dequote(quoted)?;
                (Some(value), tail)
            }
            None if FLAGS.contains(&name.as_str()) => (None, tail),
            _ => return None,
        };
        options.push(KeyOption { name, value });
        rest = match rest.strip_prefix(',') {
            Some(more) if !more.is_empty() => more,
            None if rest.is_empty() => rest,
            _ => return None,
        };
    }
    Some(options)
}

/// The value up to its closing quote, and what follows.
fn dequote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                value.push('"');
                chars.next();
            }
            '"' => return Some((value, text.get(at + 1..)?)),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIMVnF1RyJk2sVq1ZzNmL6xk0eHk9mQ8b0V6z1uJr0a1b";

    fn key() -> PublicKey {
        PublicKey::parse(&format!("ssh-ed25519 {BLOB} ops@laptop")).unwrap()
    }

    fn grant() -> Grant {
        Grant { key: key(), from: Vec::new(), restrict: false, command: None }
    }

    fn only(line: &str) -> Meaning {
        KeyFile::parse(line.as_bytes()).meanings().next().unwrap().1
    }

    #[test]
    fn parse_then_render_is_the_identity() {
        let long = [b"x".repeat(70_000).as_slice(), b"\nend"].concat();
        let cases: [&[u8]; 8] =
            [b"", b"\n", b"\r\n", b"a", b"\xef\xbb\xbfa\n\0b\n", b"\xff\xfe\n", &long, b"#c\n\n ssh-rsa AAAA\r\n"];
        for bytes in cases {
            assert_eq!(KeyFile::parse(bytes).render(), bytes);
        }
    }

    #[test]
    fn lines_as_sshd_reads_them() {
        for text in ["", " \t", "# ssh-ed25519 AAAA", "\r"] {
            assert_eq!(only(&format!("{text}\n")), Meaning::Nothing, "{text:?}");
        }
        for text in [
            format!("\u{feff}ssh-ed25519 {BLOB}"),
            format!("frobnicate ssh-ed25519 {BLOB}"),
            format!("command=\"x ssh-ed25519 {BLOB}"),
            format!("command=x ssh-ed25519 {BLOB}"),
            format!("no-pty, ssh-ed25519 {BLOB}"),
            format!("restrict\0 ssh-ed25519 {BLOB}"),
            "ssh-ed25519".to_owned(),
        ] {
            assert!(matches!(only(&text), Meaning::Dead(_)), "{text:?}");
        }
        for text in [
            format!("ssh-ed25519 {BLOB}"),
            format!("  ssh-ed25519\t{BLOB}\r\n"),
            format!("NO-PTY,Command=\"echo \\\"a b\\\"\" ssh-ed25519 {BLOB} c d"),
            format!("from=\"10.0.0.0/8\"  ssh-ed25519 {BLOB}"),
        ] {
            let Meaning::Key(entry) = only(&text) else { panic!("{text:?}") };
            assert!(entry.is_key(&key()), "{text:?}");
        }
    }

    #[test]
    fn a_grant_reads_back_as_itself() {
        let cidr = |text| Cidr::parse(text).unwrap();
        let full = Grant {
            from: vec![cidr("198.51.100.0/24"), cidr("2001:db8::/32")],
            restrict: true,
            command: Some(PlainText::parse("echo \"hello, world\" #1").unwrap()),
            ..grant()
        };
        for grant in [grant(), full.clone(), Grant { command: None, ..full }] {
            let Meaning::Key(entry) = only(&grant.line()) else { panic!("{}", grant.line()) };
            assert!(entry.is_key(&grant.key) && entry.has_options_of(&grant), "{}", grant.line());
            assert!(entry.options_beyond(&grant).is_empty());
        }
    }

    #[test]
    fn options_are_told_apart() {
        let Meaning::Key(entry) = only(&format!("command=\"x\",from=\"1.2.3.4\" ssh-ed25519 {BLOB}")) else { panic!() };
        assert_eq!(entry.options_beyond(&grant()), ["command", "from"]);
        assert!(!entry.has_options_of(&grant()));
        let order = |text: &str| {
            let Meaning::Key(entry) = only(&format!("from=\"{text}\" ssh-ed25519 {BLOB}")) else { panic!() };
            let from = vec![Cidr::parse("10.0.0.1").unwrap(), Cidr::parse("10.0.0.2").unwrap()];
            entry.has_options_of(&Grant { from, ..grant() })
        };
        assert!(order("10.0.0.2,10.0.0.1"));
        assert!(!order("10.0.0.2"));
    }

    #[test]
    fn appending_never_glues_lines() {
        let mut file = KeyFile::parse(b"ssh-ed25519 AAAAx old");
        file.append(&grant().line());
        assert_eq!(file.render(), format!("ssh-ed25519 AAAAx old\nssh-ed25519 {BLOB} ops@laptop\n").as_bytes());
        file.replace(1, "# gone");
        file.retain(|number, _| number == 1);
        assert_eq!(file.render(), b"# gone\n");
    }
}
