//! The data file of an awkward host. Head lines `word: value`, then sections `== NAME`, each to the next one:
//!
//! - `suites: bookworm sid` (default bookworm), or `all`; `outcome: hardened`, `outcome: refused PLACE`, `outcome: busy
//!   PLACE` or `outcome: nothing`;
//! - `note: TEXT` part of a note of the plan; `says: TEXT` part of a refusal; `untouched: PATH` a file that must not change;
//! - `check: COMMAND` shell run after apply, must succeed;
//! - `== playbook`, YAML, default [`REFERENCE`]; `== run`, a shell script run before sshd starts;
//! - `== /path [crlf] [noeol] [bom]`, a file to plant.
//!
//! `@KEY@` and `@OTHER@` stand for two public keys; the private half of the first one is used for the login.

/// The account part of the reference job.
pub const REFERENCE: &str = "users:\n- name: deploy\n  admin: true\n  groups: [ sudo ]\n  password: locked\n  \
                             sudo: { nopasswd: true }\n  authorized_keys:\n  - key: \"@KEY@\"\n";

/// What must come out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Everything asked for holds: each administrator logs in by key and becomes root.
    Hardened,
    /// Refused before the first change, at this place.
    Refused(String),
    /// Busy, at this place.
    Busy(String),
    /// The host is as asked already.
    Nothing,
}

/// One awkward host.
#[derive(Debug, Clone)]
pub struct Case {
    /// Lab trees to run it on.
    pub suites: Vec<String>,
    /// What must come out.
    pub outcome: Wanted,
    /// Parts of notes.
    pub notes: Vec<String>,
    /// Parts of the refusal.
    pub says: Vec<String>,
    /// Files that stay as they are.
    pub untouched: Vec<String>,
    /// Shell commands that must succeed afterwards.
    pub checks: Vec<String>,
    /// The playbook.
    pub playbook: String,
    /// A script run first.
    pub script: String,
    /// Path and content.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Case {
    /// Reads a data file.
    pub fn parse(text: &str) -> Self {
        let mut case = Self {
            suites: vec!["bookworm".to_owned()],
            outcome: Wanted::Hardened,
            notes: Vec::new(),
            says: Vec::new(),
            untouched: Vec::new(),
            checks: Vec::new(),
            playbook: REFERENCE.to_owned(),
            script: String::new(),
            files: Vec::new(),
        };
        let mut sections = format!("\n{text}").split("\n== ").map(str::to_owned).collect::<Vec<_>>().into_iter();
        for line in sections.next().unwrap().lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            case.head(line);
        }
        for section in sections {
            let (title, body) = section.split_once('\n').unwrap_or((&section, ""));
            case.section(title, body);
        }
        case
    }

    fn head(&mut self, line: &str) {
        let (word, value) = line.split_once(": ").unwrap_or_else(|| panic!("not a head line: {line}"));
        let value = value.to_owned();
        match (word, value.split_once(' ').unwrap_or((&value, ""))) {
            ("suites", ("all", _)) => self.suites = super::support::SUITES.map(str::to_owned).to_vec(),
            ("suites", _) => self.suites = value.split_whitespace().map(str::to_owned).collect(),
            ("outcome", ("hardened", _)) => self.outcome = Wanted::Hardened,
            ("outcome", ("nothing", _)) => self.outcome = Wanted::Nothing,
            ("outcome", ("refused", place)) => self.outcome = Wanted::Refused(place.to_owned()),
            ("outcome", ("busy", place)) => self.outcome = Wanted::Busy(place.to_owned()),
            ("note", _) => self.notes.push(value),
            ("says", _) => self.says.push(value),
            ("untouched", _) => self.untouched.push(value),
            ("check", _) => self.checks.push(value),
            _ => panic!("not a head line: {line}"),
        }
    }

    fn section(&mut self, title: &str, body: &str) {
        let mut words = title.split_whitespace();
        let body = if body.is_empty() || body.ends_with('\n') { body.to_owned() } else { format!("{body}\n") };
        match words.next().unwrap() {
            "playbook" => self.playbook = body,
            "run" => self.script = body,
            path => {
                let mut body = body;
                for word in words {
                    match word {
                        "crlf" => body = body.replace('\n', "\r\n"),
                        "noeol" => body = body.trim_end().to_owned(),
                        "bom" => body.insert(0, '\u{feff}'),
                        _ => panic!("not a file flag: {word}"),
                    }
                }
                self.files.push((path.to_owned(), body.into_bytes()));
            }
        }
    }
}
