//! The data file of an awkward host. Head lines `word: value`, then sections `== NAME`, each to the next one:
//!
//! - `suites: bookworm sid` (default bookworm); `outcome: hardened`, `outcome: refused PLACE` or `outcome: nothing`;
//! - `daemon: ARGS` options for the running sshd, `daemon: stopped`, or `daemon: ssh.service` and `daemon: ssh.socket`
//!   for a unit of systemd (on suites named `systemd/SUITE`, in a container);
//! - `want: keyword value` (global) or `want: USER@ADDRESS keyword value`: what the real sshd must say at the end;
//! - `untouched: PATH` files that must not change; `note: TEXT` part of a note of the plan;
//! - `== playbook`, YAML, default [`REFERENCE`]; `== run`, a shell script run before sshd starts;
//! - `== /path [crlf] [noeol]`, a file to plant.

/// The sshd part of the reference job.
pub const REFERENCE: &str = "users:\n- { name: deploy, admin: true, groups: [sudo], password: locked }\nssh:\n  port: 2222\n  \
                             permit_root_login: \"no\"\n  password_authentication: false\n  pubkey_authentication: true\n  \
                             max_auth_tries: 3\n  login_grace_time: 30s\n  x11_forwarding: false\n";

/// What must come out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Everything asked for holds, and the old ports are shut.
    Hardened,
    /// Refused before the first change, at this place.
    Refused(String),
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
    /// Options of the running sshd; `None`: it is stopped.
    pub daemon: Option<Vec<String>>,
    /// Connection (empty for the global section), keyword, value.
    pub wants: Vec<(String, String, String)>,
    /// Files that stay as they are.
    pub untouched: Vec<String>,
    /// Parts of notes.
    pub notes: Vec<String>,
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
            daemon: Some(Vec::new()),
            wants: Vec::new(),
            untouched: Vec::new(),
            notes: Vec::new(),
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
        let list = |value: &str| value.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        match (word, value) {
            ("suites", "all") => self.suites = super::support::SUITES.map(str::to_owned).to_vec(),
            ("suites", _) => self.suites = list(value),
            ("outcome", "hardened") => self.outcome = Wanted::Hardened,
            ("outcome", "nothing") => self.outcome = Wanted::Nothing,
            ("outcome", _) => self.outcome = Wanted::Refused(value.strip_prefix("refused ").unwrap().to_owned()),
            ("daemon", "stopped") => self.daemon = None,
            ("daemon", _) => self.daemon = Some(list(value)),
            ("untouched", _) => self.untouched.push(value.to_owned()),
            ("note", _) => self.notes.push(value.to_owned()),
            ("want", _) => {
                let words = list(value);
                let (who, rest) =
                    if words[0].contains('@') { (words[0].clone(), &words[1..]) } else { (String::new(), &words[..]) };
                self.wants.push((who, rest[0].clone(), rest[1..].join(" ")));
            }
            _ => panic!("not a head line: {line}"),
        }
    }

    fn section(&mut self, title: &str, body: &str) {
        let mut words = title.split_whitespace();
        match words.next().unwrap() {
            "playbook" => self.playbook = body.to_owned(),
            "run" => self.script = body.to_owned(),
            path => {
                let mut body =
                    if body.is_empty() || body.ends_with('\n') { body.to_owned() } else { format!("{body}\n") };
                for word in words {
                    match word {
                        "crlf" => body = body.replace('\n', "\r\n"),
                        "noeol" => body = body.trim_end().to_owned(),
                        _ => panic!("not a file flag: {word}"),
                    }
                }
                self.files.push((path.to_owned(), body.into_bytes()));
            }
        }
    }
}
