//! Where a password comes from. Never the command line itself: everybody on the machine can read that (ps(1)).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::error::{Failure, Result};
use crate::host::real::RealHost;
use crate::host::{Command, Probe as _};
use crate::target::ssh::Question;
use crate::types::Secret;

use super::super::terminal;

/// Longest password, in bytes.
const LONGEST: u64 = 4096;
/// For a program that is asked for a password.
const COMMAND_LIMIT: std::time::Duration = std::time::Duration::from_secs(60);
/// How often a person may mistype.
const TRIES: u32 = 3;

/// Where a password comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A person at the terminal.
    Ask,
    /// A variable of the environment.
    Env(String),
    /// The first line of a file.
    File(String),
    /// The first line of a descriptor that was inherited.
    Fd(i32),
    /// The first line that a command prints; run by sh.
    Command(String),
    /// Read already, for all hosts.
    Told(Secret<String>),
    /// None of these. What was typed is not kept: it may be the password itself.
    Unclear,
}

impl Source {
    /// Reads `ask`, `env:NAME`, `file:PATH`, `fd:NUMBER`, `command:COMMAND`.
    ///
    /// # Errors
    /// Never here, since the error of an option repeats what was typed; see [`Source::check`].
    #[allow(clippy::unnecessary_wraps, reason = "the shape that clap wants")]
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        Ok(match (text, text.split_once(':')) {
            ("ask", _) => Self::Ask,
            (_, Some(("env", name))) if !name.is_empty() => Self::Env(name.to_owned()),
            (_, Some(("file", path))) if !path.is_empty() => Self::File(path.to_owned()),
            (_, Some(("fd", number))) => match number.parse() {
                Ok(number @ 3..=1024) => Self::Fd(number),
                _ => Self::Unclear,
            },
            (_, Some(("command", command))) if !command.is_empty() => Self::Command(command.to_owned()),
            _ => Self::Unclear,
        })
    }

    /// As it is typed.
    pub fn typed(&self) -> String {
        match self {
            Self::Ask => "ask".to_owned(),
            Self::Env(name) => format!("env:{name}"),
            Self::File(path) => format!("file:{path}"),
            Self::Fd(number) => format!("fd:{number}"),
            Self::Command(command) => format!("command:{command}"),
            Self::Told(_) | Self::Unclear => String::new(),
        }
    }

    /// For many hosts: what can be had only once, from a person or a descriptor, is read now.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn once(self, prompt: &str) -> Result<Self> {
        match self {
            Self::Ask | Self::Fd(_) => self.read(prompt).map(Self::Told),
            other => Ok(other),
        }
    }

    /// # Errors
    /// When it is no source.
    pub fn check(&self, option: &str) -> Result<()> {
        match self {
            Self::Unclear => Err(Failure::input(option, "does not say where the password comes from")
                .why("the password itself is never given on a command line: everybody on this machine can read those")
                .hint("write ask, env:NAME, file:PATH, fd:NUMBER (from 3) or command:COMMAND")),
            _ => Ok(()),
        }
    }

    /// The password; `prompt` is for a person.
    ///
    /// # Errors
    /// When it cannot be had, or is empty.
    fn read(&self, prompt: &str) -> Result<Secret<String>> {
        let cannot = |place: &str, why: &dyn std::fmt::Display| Failure::input(place, "gives no password").why(why);
        let text = match self {
            Self::Told(secret) => return Ok(secret.clone()),
            Self::Unclear => return Err(cannot("--password", &"it names no source")),
            Self::Ask => {
                return asked(prompt).ok_or_else(|| cannot("--password ask", &"there is no terminal to ask on"));
            }
            Self::Env(name) => {
                let place = format!("env:{name}");
                std::env::var(name).map_err(|error| cannot(&place, &error))?
            }
            Self::File(path) => {
                let file = File::open(path).map_err(|error| cannot(&format!("file:{path}"), &error))?;
                whole(file).map_err(|error| cannot(&format!("file:{path}"), &error))?
            }
            Self::Fd(number) => {
                let failed = |error: std::io::Error| cannot(&format!("fd:{number}"), &error);
                File::open(format!("/dev/fd/{number}")).and_then(whole).map_err(failed)?
            }
            Self::Command(command) => {
                // Neither its words nor what it prints is shown: both may hold the password. It runs where it was typed.
                let here = std::env::current_dir().unwrap_or_default().display().to_string();
                let there = "cd -- \"$1\" && eval \"$2\"";
                let mut asked = Command::new(["/bin/sh", "-c", there, "sh", &here, command]).deadline(COMMAND_LIMIT);
                for name in
                    ["HOME", "PATH", "USER", "SSH_AUTH_SOCK", "GPG_TTY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"]
                {
                    if let Ok(value) = std::env::var(name) {
                        asked = asked.env(name, value);
                    }
                }
                let output = RealHost::new().ask(&asked)?;
                if !output.ok() {
                    return Err(cannot("the command of the source", &format!("it ended with {}", output.code)));
                }
                output.stdout
            }
        };
        match text.lines().next() {
            Some(line) if !line.is_empty() => Ok(Secret::new(line.to_owned())),
            _ => Err(cannot("--password", &"the source is empty")),
        }
    }
}

fn whole(file: File) -> std::io::Result<String> {
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// What a person types, unseen.
fn asked(prompt: &str) -> Option<Secret<String>> {
    if !terminal::can_ask() {
        return None;
    }
    rpassword::prompt_password(prompt).ok().filter(|text| !text.is_empty()).map(Secret::new)
}

/// Answers whatever a login asks for.
#[derive(Debug, Default)]
pub struct Keychain {
    login: Option<Source>,
    sudo: Option<Source>,
    /// What was given last, and for which account, so that nobody types it twice.
    given: RefCell<Option<(String, Secret<String>)>>,
    /// What sudo is told.
    given_sudo: RefCell<Option<Secret<String>>>,
    /// Passphrases of key files.
    passphrases: RefCell<BTreeMap<PathBuf, Secret<String>>>,
    /// Why a source gave nothing.
    trouble: RefCell<Option<Failure>>,
}

impl Keychain {
    /// With these sources; without one a person is asked, where one is there.
    pub fn new(login: Option<Source>, sudo: Option<Source>) -> Self {
        Self { login, sudo, ..Self::default() }
    }

    /// True when a password may be asked for.
    pub fn has_passwords(&self) -> bool {
        self.login.is_some() || terminal::can_ask()
    }

    /// The answer to a question of a login.
    pub fn answer(&self, question: &Question) -> Option<Secret<String>> {
        match question {
            Question::Passphrase { file, attempt } => self.passphrase(file, *attempt),
            Question::Password { user, host, attempt } => {
                self.password(user, &format!("Password of {user}@{host}: "), *attempt)
            }
            // The words are the server's: who asks stands before them, as ssh has it.
            Question::Prompt { user, host, text, echo: false, attempt } => {
                self.password(user, &format!("({user}@{host}) {text} "), *attempt)
            }
            Question::Prompt { user, host, text, attempt, .. } if *attempt < TRIES && terminal::can_ask() => {
                Some(Secret::new(terminal::ask(&format!("({user}@{host}) {text} "))))
            }
            Question::Prompt { .. } => None,
        }
    }

    /// One that was right once is not asked for again: a run may be waiting.
    fn passphrase(&self, file: &Path, attempt: u32) -> Option<Secret<String>> {
        let before = self.passphrases.borrow().get(file).cloned().filter(|_| attempt == 0);
        if before.is_some() || attempt >= TRIES {
            return before;
        }
        let given = asked(&format!("Passphrase of {}: ", file.display()))?;
        self.passphrases.borrow_mut().insert(file.to_owned(), given.clone());
        Some(given)
    }

    fn password(&self, user: &str, prompt: &str, attempt: u32) -> Option<Secret<String>> {
        let before = self.given.borrow().clone().filter(|(of, _)| of == user && attempt == 0);
        if let Some((_, given)) = before {
            return Some(given);
        }
        let source = self.login.clone().unwrap_or(Source::Ask);
        // Only a person has another answer.
        if attempt > 0 && (source != Source::Ask || attempt >= TRIES) {
            return None;
        }
        match source.read(prompt) {
            Ok(secret) => {
                *self.given.borrow_mut() = Some((user.to_owned(), secret.clone()));
                Some(secret)
            }
            Err(failure) => {
                *self.trouble.borrow_mut() = Some(failure);
                None
            }
        }
    }

    /// What sudo may be told: its own source, else what the login was told, or would have been: `typed` says that this is
    /// the account that the password was given for.
    ///
    /// # Errors
    /// When the source gives nothing.
    pub fn for_sudo(&self, user: &str, host: &str, typed: bool) -> Result<Option<Secret<String>>> {
        if let Some(given) = self.given_sudo.borrow().clone() {
            return Ok(Some(given));
        }
        let Some(source) = &self.sudo else {
            // Another account's password is none of sudo's business.
            let given = self.given.borrow().clone().filter(|(of, _)| of == user).map(|(_, given)| given);
            let source = self.login.as_ref().filter(|_| typed && given.is_none());
            return match source {
                Some(source) => source.read(&format!("Password of {user}@{host}: ")).map(Some),
                None => Ok(given),
            };
        };
        self.ask_for_sudo(source, user, host).map(Some)
    }

    /// What a person says when sudo turned out to ask; `None` where nobody is there.
    pub fn sudo_asks(&self, user: &str, host: &str) -> Option<Secret<String>> {
        let asks = self.sudo.is_none() && terminal::can_ask();
        asks.then(|| self.ask_for_sudo(&Source::Ask, user, host).ok()).flatten()
    }

    fn ask_for_sudo(&self, source: &Source, user: &str, host: &str) -> Result<Secret<String>> {
        let secret = source.read(&format!("Password of {user}@{host} for sudo: "))?;
        *self.given_sudo.borrow_mut() = Some(secret.clone());
        Ok(secret)
    }

    /// Why a source gave nothing, once.
    pub fn trouble(&self) -> Option<Failure> {
        self.trouble.borrow_mut().take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart_and_never_a_password() {
        assert_eq!(Source::parse("ask"), Ok(Source::Ask));
        assert_eq!(Source::parse("env:PW"), Ok(Source::Env("PW".into())));
        assert_eq!(Source::parse("file:/a:b"), Ok(Source::File("/a:b".into())));
        assert_eq!(Source::parse("fd:3"), Ok(Source::Fd(3)));
        assert_eq!(Source::parse("command:pass show x"), Ok(Source::Command("pass show x".into())));
        for bad in ["hunter2", "env:", "file:", "fd:0", "fd:x", "command:", ""] {
            let source = Source::parse(bad).unwrap();
            assert_eq!(source, Source::Unclear, "{bad}");
            assert!(!source.check("--password").unwrap_err().to_string().contains("hunter2"));
        }
    }

    #[test]
    fn the_first_line_counts_and_an_empty_one_is_none() {
        let line = |command: &str| Source::Command(command.into()).read("").map(|secret| secret.reveal().clone());
        assert_eq!(line("printf 'a b\\nc\\n'"), Ok("a b".to_owned()));
        assert!(line("true").is_err());
        assert_eq!(line("pwd"), Ok(std::env::current_dir().unwrap().display().to_string()), "where it was typed");
        let failure = line("echo hunter2; exit 1").unwrap_err();
        assert!(!failure.to_string().contains("hunter2"), "{failure}");
    }

    #[test]
    fn a_source_without_a_person_is_asked_once() {
        let keychain = Keychain::new(Some(Source::Command("echo once".into())), None);
        let question = |attempt| Question::Password { user: "u".into(), host: "h".into(), attempt };
        assert_eq!(keychain.answer(&question(0)).unwrap().reveal(), "once");
        assert!(keychain.answer(&question(1)).is_none());
        assert_eq!(keychain.for_sudo("u", "h", false).unwrap().unwrap().reveal(), "once");
        assert_eq!(keychain.for_sudo("other", "h", false).unwrap(), None, "another account's password");
        let by_key = Keychain::new(Some(Source::Command("echo mine".into())), None);
        assert_eq!(by_key.for_sudo("u", "h", true).unwrap().unwrap().reveal(), "mine", "a key let the login in");
    }
}
