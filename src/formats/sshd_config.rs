//! sshd_config(5): lossless text, the Include tree, and who says what in which order. Must not open files: the caller
//! hands the texts and what each Include pattern names.
//!
//! The reading rules are those of servconf.c of OpenSSH 8.4 to 10.6: a keyword ends at white space or one `=`, quotes
//! group, ` #` ends the arguments, keywords have no case, a NUL ends the line.

use std::collections::BTreeMap;

/// sshd refuses Includes nested deeper than this.
pub const MAX_DEPTH: usize = 16;
/// Relative Includes are below this directory (sshd_config(5), Include).
pub const DIRECTORY: &str = "/etc/ssh";
/// What stands before a line that keyward has taken out of force.
pub const MARK: &str = "# keyward: ";

/// One directive: the keyword in lower case (aliases resolved) and its arguments without quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// Lower case; aliases are given the name of today.
    pub keyword: String,
    /// In order, unquoted.
    pub args: Vec<String>,
}

/// A line with its end, and what sshd reads in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    raw: Vec<u8>,
    directive: Option<Directive>,
}

/// The text of one file; [`ConfigText::render`] gives back what [`ConfigText::parse`] took, byte for byte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigText {
    lines: Vec<Line>,
}

impl Line {
    fn new(raw: &[u8]) -> Self {
        Self { raw: raw.to_vec(), directive: read_line(raw) }
    }

    /// What sshd reads here; `None` for blank lines and comments.
    pub const fn directive(&self) -> Option<&Directive> {
        self.directive.as_ref()
    }

    /// The line as text without its end, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).trim().to_owned()
    }
}

impl ConfigText {
    /// Reads a text. Never fails: what sshd would refuse is for sshd to say.
    pub fn parse(bytes: &[u8]) -> Self {
        Self { lines: bytes.split_inclusive(|byte| *byte == b'\n').map(Line::new).collect() }
    }

    /// The bytes.
    pub fn render(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| line.raw.iter().copied()).collect()
    }

    /// All lines; line numbers count from 1.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The directives with their line numbers.
    pub fn directives(&self) -> impl Iterator<Item = (usize, &Directive)> {
        self.lines.iter().enumerate().filter_map(|(index, line)| Some((index + 1, line.directive()?)))
    }

    /// Takes line `number` out of force by a marked comment; everything else stays byte for byte.
    pub fn comment_out(&mut self, number: usize) {
        if let Some(line) = number.checked_sub(1).and_then(|index| self.lines.get_mut(index)) {
            let raw = [MARK.as_bytes(), &line.raw].concat();
            *line = Line::new(&raw);
        }
    }

    /// Puts lines (with their ends) before all others.
    pub fn prepend(&mut self, text: &str) {
        let mut lines = Self::parse(text.as_bytes()).lines;
        lines.append(&mut self.lines);
        self.lines = lines;
    }

    /// Replaces line `number` by `text`, which gets a line end.
    pub fn replace(&mut self, number: usize, text: &str) {
        if let Some(line) = number.checked_sub(1).and_then(|index| self.lines.get_mut(index)) {
            *line = Line::new(format!("{text}\n").as_bytes());
        }
    }
}

/// Reads one line as sshd does.
fn read_line(raw: &[u8]) -> Option<Directive> {
    let cut = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
    let text = String::from_utf8_lossy(raw.get(..cut).unwrap_or_default()).into_owned();
    let text = text.trim_matches([' ', '\t', '\r', '\n', '\u{c}']);
    if text.is_empty() || text.starts_with('#') {
        return None;
    }
    let (keyword, rest) = split_keyword(text);
    if keyword.is_empty() || keyword.starts_with('#') {
        return None;
    }
    Some(Directive { keyword: canonical(&keyword.to_ascii_lowercase()).to_owned(), args: split_args(rest) })
}

/// The keyword ends at white space or one `=`; it may be quoted.
fn split_keyword(text: &str) -> (String, &str) {
    if let Some(quoted) = text.strip_prefix('"') {
        let (head, tail) = quoted.split_once('"').unwrap_or((quoted, ""));
        return (head.to_owned(), tail);
    }
    let end = text.find([' ', '\t', '\r', '=', '"']).unwrap_or(text.len());
    let (head, tail) = text.split_at(end);
    let tail = tail.trim_start_matches([' ', '\t', '\r']);
    let tail = tail.strip_prefix('=').unwrap_or(tail);
    (head.to_owned(), tail.trim_start_matches([' ', '\t', '\r']))
}

/// Arguments in shell-like quotes; a `#` at the start of one ends the line.
fn split_args(text: &str) -> Vec<String> {
    let mut args = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| matches!(c, ' ' | '\t')).is_some() {}
        match chars.peek() {
            None | Some('#') => return args,
            Some(_) => {}
        }
        let (mut word, mut quote) = (String::new(), None);
        while let Some(c) = chars.next_if(|c| quote.is_some() || !matches!(c, ' ' | '\t')) {
            match (c, quote) {
                ('\\', _) => match chars.next_if(|next| matches!(next, '\'' | '"' | '\\') || *next == ' ') {
                    Some(next) => word.push(next),
                    None => word.push('\\'),
                },
                ('"' | '\'', None) => quote = Some(c),
                (_, Some(open)) if c == open => quote = None,
                _ => word.push(c),
            }
        }
        args.push(word);
    }
}

/// Old names for what is now called otherwise (servconf.c). ChallengeResponseAuthentication is kept apart: to 8.6 it
/// is a switch of its own.
fn canonical(keyword: &str) -> &str {
    match keyword {
        "skeyauthentication" => "challengeresponseauthentication",
        "dsaauthentication" => "pubkeyauthentication",
        "pubkeyacceptedkeytypes" => "pubkeyacceptedalgorithms",
        "hostbasedacceptedkeytypes" => "hostbasedacceptedalgorithms",
        "hostdsakey" => "hostkey",
        "keepalive" => "tcpkeepalive",
        other => other,
    }
}

/// A main file and everything it includes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// Path of the main file.
    pub main: String,
    /// Each file's text, by path.
    pub files: BTreeMap<String, ConfigText>,
    /// What each Include pattern (absolute, see [`absolute`]) names, sorted by byte.
    pub globs: BTreeMap<String, Vec<String>>,
}

/// Where a directive stands, and in which Match blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Path of the file.
    pub file: String,
    /// Line number from 1.
    pub line: usize,
    /// The directive.
    pub directive: Directive,
    /// The conditions of the enclosing Match blocks, outermost first; empty in the global section.
    pub scope: Vec<Vec<String>>,
}

impl Item {
    /// `file:line`, as messages name it.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }

    /// True when no condition limits it: global, or below nothing but `Match all`.
    pub fn is_global(&self) -> bool {
        self.scope.is_empty()
    }

    /// The innermost condition as written, or empty.
    pub fn condition(&self) -> String {
        self.scope.last().map(|args| args.join(" ")).unwrap_or_default()
    }
}

/// The Include pattern as sshd reads it: relative ones are below /etc/ssh.
pub fn absolute(pattern: &str) -> String {
    if pattern.starts_with('/') { pattern.to_owned() } else { format!("{DIRECTORY}/{pattern}") }
}

impl Tree {
    /// Every directive in reading order, Includes expanded, with file, line and Match context. Include and Match
    /// themselves are listed too, in the scope in which they stand (a Match in that which it opens).
    pub fn flatten(&self) -> Vec<Item> {
        let mut out = Vec::new();
        self.flatten_file(&self.main, &[], 0, &mut out);
        out
    }

    fn flatten_file(&self, path: &str, outer: &[Vec<String>], depth: usize, out: &mut Vec<Item>) {
        let Some(text) = self.files.get(path) else { return };
        if depth > MAX_DEPTH {
            return;
        }
        let mut scope = outer.to_vec();
        for (line, directive) in text.directives() {
            if directive.keyword == "match" {
                // A Match ends the one before it in the same file; that of the including file stays around it.
                scope = outer.to_vec();
                scope.push(directive.args.clone());
            }
            let item = Item { file: path.to_owned(), line, directive: directive.clone(), scope: scope.clone() };
            out.push(item);
            if directive.keyword == "include" {
                for file in self.included(directive) {
                    self.flatten_file(&file, &scope, depth + 1, out);
                }
            }
        }
    }

    /// The files that an Include directive names, in reading order.
    pub fn included(&self, directive: &Directive) -> Vec<String> {
        let known = |pattern: &String| self.globs.get(&absolute(pattern)).cloned().unwrap_or_default();
        directive.args.iter().flat_map(known).collect()
    }

    /// The first place that names `keyword` in the global section.
    pub fn first_global(&self, keyword: &str) -> Option<Item> {
        self.flatten().into_iter().find(|item| item.is_global() && item.directive.keyword == keyword)
    }

    /// Puts or replaces a file and lets every pattern that names it find it.
    pub fn put(&mut self, path: &str, text: ConfigText) {
        for (pattern, files) in &mut self.globs {
            if glob_names(pattern, path) && !files.iter().any(|file| file == path) {
                files.push(path.to_owned());
                files.sort();
            }
        }
        self.files.insert(path.to_owned(), text);
    }
}

/// True when the path pattern (as in glob(3)) names `path`: component by component, no wildcard matches a leading dot.
pub fn glob_names(pattern: &str, path: &str) -> bool {
    let (mut left, mut right) = (pattern.split('/'), path.split('/'));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (Some(pattern), Some(name)) if component(pattern, name) => {}
            _ => return false,
        }
    }
}

/// Matches one path component as glob(3) does.
pub fn component(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    wild(&pattern, &name)
}

fn wild(pattern: &[char], name: &[char]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some(('*', rest)) => (0..=name.len()).any(|skip| name.get(skip..).is_some_and(|tail| wild(rest, tail))),
        Some(('?', rest)) => name.split_first().is_some_and(|(_, tail)| wild(rest, tail)),
        Some(('[', rest)) if rest.iter().skip(1).any(|c| *c == ']') => {
            let Some((first, tail)) = name.split_first() else { return false };
            let (inside, after) = set(rest, *first);
            inside && wild(after, tail)
        }
        Some(('\\', rest)) => match (rest.split_first(), name.split_first()) {
            (Some((want, rest)), Some((have, tail))) => want == have && wild(rest, tail),
            _ => false,
        },
        Some((want, rest)) => name.split_first().is_some_and(|(have, tail)| want == have && wild(rest, tail)),
    }
}

/// A bracket expression: whether `c` is in it, and what follows it.
fn set(body: &[char], c: char) -> (bool, &[char]) {
    let negated = matches!(body.first(), Some('!' | '^'));
    let start = usize::from(negated);
    let end = body.iter().skip(start + 1).position(|c| *c == ']').map_or(body.len(), |at| at + start + 1);
    let inner = body.get(start..end).unwrap_or_default();
    let mut hit = false;
    let mut at = 0;
    while let Some(low) = inner.get(at) {
        if let (Some('-'), Some(high)) = (inner.get(at + 1), inner.get(at + 2)) {
            hit |= *low <= c && c <= *high;
            at += 3;
        } else {
            hit |= *low == c;
            at += 1;
        }
    }
    (hit != negated, body.get(end + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Option<(String, Vec<String>)> {
        ConfigText::parse(text.as_bytes()).directives().next().map(|(_, d)| (d.keyword.clone(), d.args.clone()))
    }

    #[test]
    fn reading_rules() {
        let want = |keyword: &str, args: &[&str]| {
            Some((keyword.to_owned(), args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>()))
        };
        for text in
            ["Port 22", "port=22", "PORT = 22", "  Port\t22\r\n", "Port \"22\" # x", "\"Port\" 22", "Port 22\0 23"]
        {
            assert_eq!(one(text), want("port", &["22"]), "{text:?}");
        }
        assert_eq!(one("AllowUsers a b #c d"), want("allowusers", &["a", "b"]));
        assert_eq!(one("AllowUsers a#b 'x y'"), want("allowusers", &["a#b", "x y"]));
        assert_eq!(one("  # Port 22"), None);
        assert_eq!(one("SkeyAuthentication no"), want("challengeresponseauthentication", &["no"]));
    }

    #[test]
    fn text_comes_back_byte_for_byte() {
        for text in [&b""[..], b"a", b"Port 22\r\n\r\n# \xff\xfe\nX\n", b"\n\n", b"Match all\n\tPort 1\0\n", b"x\\\ny"]
        {
            assert_eq!(ConfigText::parse(text).render(), text);
        }
        let mut text = ConfigText::parse(b"A 1\r\n  Port 22\r\nB 2");
        text.comment_out(2);
        assert_eq!(text.render(), b"A 1\r\n# keyward:   Port 22\r\nB 2");
        text.prepend("Include x\n");
        assert!(text.render().starts_with(b"Include x\nA 1\r\n"));
    }

    #[test]
    fn includes_and_scopes() {
        let mut tree = Tree { main: "/etc/ssh/sshd_config".into(), ..Tree::default() };
        let main = "Match User a\nInclude d/*.conf\nX11Forwarding no\nMatch all\nPort 1\n";
        tree.files.insert(tree.main.clone(), ConfigText::parse(main.as_bytes()));
        tree.globs.insert("/etc/ssh/d/*.conf".into(), vec![]);
        tree.put("/etc/ssh/d/b.conf", ConfigText::parse(b"MaxAuthTries 2\nMatch Group g\nBanner none\n"));
        tree.put("/etc/ssh/d/a.conf", ConfigText::parse(b"Banner x\n"));
        tree.put("/etc/ssh/d/.c.conf", ConfigText::parse(b"Banner y\n"));
        let seen: Vec<String> = tree
            .flatten()
            .iter()
            .map(|item| format!("{} {} {}", item.place(), item.directive.keyword, item.scope.concat().join(" ")))
            .collect();
        assert_eq!(
            seen,
            [
                "/etc/ssh/sshd_config:1 match User a",
                "/etc/ssh/sshd_config:2 include User a",
                "/etc/ssh/d/a.conf:1 banner User a",
                "/etc/ssh/d/b.conf:1 maxauthtries User a",
                "/etc/ssh/d/b.conf:2 match User a Group g",
                "/etc/ssh/d/b.conf:3 banner User a Group g",
                "/etc/ssh/sshd_config:3 x11forwarding User a",
                "/etc/ssh/sshd_config:4 match all",
                "/etc/ssh/sshd_config:5 port all",
            ]
        );
    }

    #[test]
    fn globs() {
        for (pattern, name, want) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".a.conf", false),
            ("*.conf", "a.confx", false),
            ("[0-9]?-*", "50-x", true),
            ("[!0-9]*", "5", false),
            ("a[b", "a[b", true),
            ("*", "", true),
        ] {
            assert_eq!(component(pattern, name), want, "{pattern} {name}");
        }
        assert!(glob_names("/etc/*/x", "/etc/ssh/x"));
        assert!(!glob_names("/etc/*", "/etc/ssh/x"));
    }
}
