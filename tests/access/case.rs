//! The data file of an awkward host. Head lines `word: value`, then sections `== NAME`, each to the next one:
//!
//! - `suites: bookworm trixie` (default bookworm), of those that have OpenSSH's client;
//! - `in: USER@ADDRESS METHOD` and `out: USER@ADDRESS METHOD`, METHOD being `key` or `password`: keyward must say so, and
//!   a real login from that address must agree;
//! - `root: USER yes` or `no`: keyward must say so, and the real sudo must agree;
//! - `console: USERS` all who have the console; `says: USER TEXT` part of what is said of an account;
//! - `told: USER@ADDRESS TEXT` and `untold: USER@ADDRESS TEXT`: from a real session of that user, `keyward plan
//!   /srv/job.yml` says so, or does not;
//! - `== run`, a shell script run before sshd starts, up to a line `# files` before the files are planted;
//! - `== /path`, a file to plant. `@KEY@` stands for the public key that logs in, `@OTHER@` for another one.
//!
//! Every password is `secret`, set by the script. The host has the addresses 192.0.2.1, 10.1.1.1, 198.51.100.7 and
//! 2001:db8::1 for clients, 192.0.2.9 and 2001:db8::9 for itself.

/// A login to try.
#[derive(Debug, Clone)]
pub struct Try {
    /// Account.
    pub user: String,
    /// Where from.
    pub address: String,
    /// `key` or `password`.
    pub method: String,
    /// Whether it must get in.
    pub gets_in: bool,
}

/// One awkward host.
#[derive(Debug, Clone, Default)]
pub struct Case {
    /// Lab trees to run it on.
    pub suites: Vec<String>,
    /// Logins.
    pub tries: Vec<Try>,
    /// Account, and whether it becomes root.
    pub root: Vec<(String, bool)>,
    /// Who has the console.
    pub console: Option<String>,
    /// Account, and part of what is said of it.
    pub says: Vec<(String, String)>,
    /// Session, part of what a plan says there, and whether it must.
    pub told: Vec<(Try, String, bool)>,
    /// A script run first.
    pub script: String,
    /// Path and content.
    pub files: Vec<(String, String)>,
}

impl Case {
    /// Reads a data file.
    pub fn parse(text: &str) -> Self {
        let mut case = Self { suites: vec!["bookworm".to_owned()], ..Self::default() };
        let mut sections = format!("\n{text}").split("\n== ").map(str::to_owned).collect::<Vec<_>>().into_iter();
        for line in sections.next().unwrap().lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            case.head(line);
        }
        for section in sections {
            let (title, body) = section.split_once('\n').unwrap_or((&section, ""));
            let body = if body.is_empty() || body.ends_with('\n') { body.to_owned() } else { format!("{body}\n") };
            match title {
                "run" => case.script = body,
                path => case.files.push((path.to_owned(), body)),
            }
        }
        assert!(!case.tries.is_empty() || case.console.is_some(), "nothing is asked");
        case
    }

    fn head(&mut self, line: &str) {
        let (word, value) = line.split_once(": ").unwrap_or_else(|| panic!("not a head line: {line}"));
        let (first, rest) = value.split_once(' ').unwrap_or((value, ""));
        match word {
            "suites" => self.suites = value.split_whitespace().map(str::to_owned).collect(),
            "in" | "out" => {
                let (user, address) = first.split_once('@').unwrap();
                self.tries.push(Try {
                    user: user.to_owned(),
                    address: address.to_owned(),
                    method: rest.to_owned(),
                    gets_in: word == "in",
                });
            }
            "told" | "untold" => {
                let (user, address) = first.split_once('@').unwrap();
                let session =
                    Try { user: user.to_owned(), address: address.to_owned(), method: "key".to_owned(), gets_in: true };
                self.told.push((session, rest.to_owned(), word == "told"));
            }
            "root" => self.root.push((first.to_owned(), rest == "yes")),
            "console" => self.console = Some(value.to_owned()),
            "says" => self.says.push((first.to_owned(), rest.to_owned())),
            _ => panic!("not a head line: {line}"),
        }
    }
}
