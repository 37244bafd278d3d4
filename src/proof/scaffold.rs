//! The temporary key of a proof: made in memory, its public half put as one line into the file that sshd really reads,
//! as a [`Change`] that the engine journals, makes and undoes.
//!
//! The line is good for minutes, from loopback and documentation addresses only, and for one fixed command. The private
//! half never reaches a file. Must not connect.

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, HashAlg, PrivateKey};

use super::wire::PrivateHalf;
use super::word::Effective;
use crate::change::{Change, Difference, Risk, Stage, Step};
use crate::error::{Failure, Result};
use crate::facts::Facts;
use crate::formats::accounts::{PasswdEntry, Records};
use crate::formats::authorized_keys::KeyFile;
use crate::host::{Actor, Command, FileKind, Node, Owner, Probe};
use crate::types::{AbsPath, UserName, Word};

/// Where a proof may come from: loopback and the documentation networks that the outside namespace uses (RFC 5737,
/// RFC 3849). None of them can be reached from elsewhere.
const SOURCES: &str = "203.0.113.0/24,198.51.100.0/24,2001:db8::/32,127.0.0.1,::1";
/// How long the key is good for.
const MINUTES: i64 = 15;

/// A temporary key for one account.
#[derive(Debug, Clone)]
pub struct Pass {
    /// The account.
    pub user: UserName,
    /// True when the command asks sudo too.
    pub sudo: bool,
    /// The private half.
    pub private: PrivateHalf,
    /// The public half, `TYPE BASE64`.
    pub public: String,
    /// What the command prints first.
    pub nonce: String,
}

impl Pass {
    /// A fresh ed25519 key.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new(user: &UserName, sudo: bool) -> Result<Self> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::unknown("proof", "cannot make a temporary key").why(error);
        let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).map_err(|e| failed(&e))?;
        let private = key.to_openssh(LineEnding::LF).map_err(|e| failed(&e))?.to_string();
        let public = key.public_key().to_openssh().map_err(|e| failed(&e))?;
        let nonce = key.public_key().fingerprint(HashAlg::Sha256).to_string();
        let nonce = nonce.chars().skip(7).filter(char::is_ascii_alphanumeric).take(20).collect();
        Ok(Self { user: user.clone(), sudo, private: PrivateHalf::new(private), public, nonce })
    }

    /// The command that the key is tied to: plain words and `;` only, so that every login shell reads it alike. Prints
    /// the nonce, the account, the connection as sshd sees it, and the user id that sudo gives.
    pub fn command(&self) -> String {
        let sudo = if self.sudo { "; /usr/bin/sudo -n /usr/bin/id -u" } else { "" };
        format!("echo keyward-{}; /usr/bin/id -un; echo $SSH_CONNECTION{sudo}", self.nonce)
    }

    /// The whole key line, without its newline (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
    pub fn line(&self, expiry: &str) -> String {
        format!(
            "restrict,from=\"{SOURCES}\",expiry-time=\"{expiry}\",command=\"{}\" {} keyward-proof",
            self.command(),
            self.public
        )
    }
}

/// The account's entry, from the file or from the name service.
///
/// # Errors
/// When there is no such account.
pub fn account(user: &UserName, probe: &dyn Probe) -> Result<PasswdEntry> {
    let local = probe.read(&AbsPath::fixed("/etc/passwd"), &Actor::Root)?.unwrap_or_default();
    if let Some(entry) = Records::parse(&local).passwd_entry(user.as_str()) {
        return Ok(entry);
    }
    let asked = probe.ask(&Command::new(["/usr/bin/getent", "passwd", "--", user.as_str()]))?;
    Records::parse(asked.stdout.as_bytes())
        .passwd_entry(user.as_str())
        .ok_or_else(|| Failure::unknown(format!("account {}", user.as_str()), "there is no such account to log in as"))
}

/// The file of `AuthorizedKeysFile` that takes the line, and in whose name: the first within the home, else the first
/// absolute one (sshd_config(5): %%, %h, %u, %U; relative paths start at the home).
///
/// # Errors
/// When sshd reads no file at all for this account.
pub fn key_file(account: &PasswdEntry, user: &UserName, effective: &Effective) -> Result<(AbsPath, Actor)> {
    let home = AbsPath::parse(&account.home)
        .map_err(|invalid| Failure::unknown(format!("home of {}", user.as_str()), "not a plain path").why(invalid))?;
    let paths: Vec<AbsPath> = effective
        .first("authorizedkeysfile")
        .split_whitespace()
        .filter(|pattern| !pattern.eq_ignore_ascii_case("none"))
        .filter_map(|pattern| {
            let path = expand(pattern, account);
            if path.starts_with('/') { AbsPath::parse(&path).ok() } else { home.join(&path).ok() }
        })
        .collect();
    if let Some(path) = paths.iter().find(|path| path.is_within(&home)) {
        return Ok((path.clone(), Actor::User(user.clone())));
    }
    paths.into_iter().next().map(|path| (path, Actor::Root)).ok_or_else(|| {
        Failure::unknown(format!("keys of {}", user.as_str()), "sshd reads no key file for this account")
            .hint("set AuthorizedKeysFile to: .ssh/authorized_keys")
    })
}

fn expand(pattern: &str, account: &PasswdEntry) -> String {
    let mut out = String::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match (c, if c == '%' { rest.next() } else { None }) {
            ('%', Some('h')) => out.push_str(&account.home),
            ('%', Some('u')) => out.push_str(&account.name),
            ('%', Some('U')) => out.push_str(&account.uid.to_string()),
            ('%', Some('%')) => out.push('%'),
            ('%', other) => {
                out.push('%');
                out.extend(other);
            }
            (c, _) => out.push(c),
        }
    }
    out
}

/// `expiry-time` for a key that is good for some minutes: UTC with a `Z` from OpenSSH 9.1 on, before that the local time
/// of the host, which sshd reads from /etc/localtime.
///
/// # Errors
/// When the time zone cannot be read.
pub fn expiry(now: Timestamp, facts: &Facts, probe: &dyn Probe) -> Result<String> {
    let until = now + MINUTES.minutes();
    if facts.sshd_at_least(9, 1) {
        return Ok(until.to_zoned(TimeZone::UTC).strftime("%Y%m%d%H%M%SZ").to_string());
    }
    let file = probe.read(&AbsPath::fixed("/etc/localtime"), &Actor::Root)?;
    let zone = match file {
        None => TimeZone::UTC,
        Some(bytes) => TimeZone::tzif("localtime", &bytes)
            .map_err(|error| Failure::unknown("/etc/localtime", "not a time zone").why(error))?,
    };
    Ok(until.to_zoned(zone).strftime("%Y%m%d%H%M%S").to_string())
}

/// The change that adds the line of `pass`.
///
/// # Errors
/// When the key file cannot be found or read, or is not a regular file.
pub fn change(pass: &Pass, effective: &Effective, expiry: &str, probe: &dyn Probe) -> Result<Change> {
    let account = account(&pass.user, probe)?;
    let (path, actor) = key_file(&account, &pass.user, effective)?;
    let summary = format!("add a key of {MINUTES} minutes for the proof, usable from here only");
    let mut change =
        Change::new("proof", format!("proof:{}:key", pass.user.as_str()), summary, Stage::Additive, Risk::None);
    change.steps.extend(flag(pass, &account, probe)?);
    let (content, mode) = match probe.meta(&path, &actor)? {
        // sshd reads the file as the user, so one that root owns must be readable by all.
        None => (Vec::new(), if actor == Actor::Root { 0o644 } else { 0o600 }),
        Some(meta) if meta.kind == FileKind::File => (probe.read(&path, &actor)?.unwrap_or_default(), meta.mode),
        Some(_) => {
            return Err(Failure::refused(path.as_str(), "not a regular file, so sshd's key file is not touched"));
        }
    };
    if let Some(parent) = path.parent()
        && content.is_empty()
        && probe.meta(&parent, &actor)?.is_none()
    {
        let node = Node::Dir { mode: 0o700, owner: Owner::Actor };
        change.steps.push(Step::Put { path: parent, actor: actor.clone(), node });
    }
    let mut keys = KeyFile::parse(&content);
    keys.append(&pass.line(expiry));
    let node = Node::File { content: keys.render(), mode, owner: Owner::Actor };
    change.differences.push(Difference::new(path.as_str(), "a temporary key", "without"));
    change.steps.push(Step::Put { path, actor, node });
    Ok(change)
}

/// The empty file that Debian's sudo leaves in the home of a member of the group sudo or admin at the first use
/// (sudoers(5), `admin_flag`), put there before sudo can, so that it goes with the temporary key.
fn flag(pass: &Pass, account: &PasswdEntry, probe: &dyn Probe) -> Result<Option<Step>> {
    let actor = Actor::User(pass.user.clone());
    let Ok(home) = AbsPath::parse(&account.home) else { return Ok(None) };
    let Ok(path) = home.join(".sudo_as_admin_successful") else { return Ok(None) };
    // Where the user cannot write, sudo in the user's name cannot either.
    let own = probe.meta(&home, &actor)?.is_some_and(|meta| meta.kind == FileKind::Dir && meta.uid == account.uid);
    if !pass.sudo || !own || probe.meta(&path, &actor)?.is_some() {
        return Ok(None);
    }
    let node = Node::File { content: Vec::new(), mode: 0o644, owner: Owner::Actor };
    Ok(Some(Step::Put { path, actor, node }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(home: &str) -> PasswdEntry {
        let line = format!("deploy:x:1000:1000::{home}:/bin/sh");
        Records::parse(line.as_bytes()).passwd_entry("deploy").unwrap()
    }

    fn user() -> UserName {
        UserName::parse("deploy").unwrap()
    }

    #[test]
    fn the_file_that_sshd_reads() {
        let file = |patterns: &str, home: &str| {
            let effective = Effective::parse(&format!("AuthorizedKeysFile {patterns}\n"));
            key_file(&entry(home), &user(), &effective).map(|(path, actor)| (path.to_string(), actor))
        };
        let own = Actor::User(user());
        let home = "/home/deploy";
        assert_eq!(
            file(".ssh/authorized_keys .ssh/keys2", home).unwrap(),
            (format!("{home}/.ssh/authorized_keys"), own.clone())
        );
        assert_eq!(file("/etc/ssh/keys/%u %h/k", home).unwrap(), (format!("{home}/k"), own));
        assert_eq!(file("/etc/ssh/keys/%U%%u", home).unwrap(), ("/etc/ssh/keys/1000%u".to_owned(), Actor::Root));
        assert!(file("none", home).is_err());
        assert!(file("", home).is_err());
        assert!(file("%h/../root/.ssh/authorized_keys", home).is_err());
    }

    #[test]
    fn the_line_is_one_line_and_keeps_the_secret() {
        let pass = Pass::new(&user(), true).unwrap();
        let line = pass.line("20260101000000Z");
        assert!(!line.contains('\n') && line.starts_with("restrict,from=\""));
        assert!(!format!("{pass:?}").contains("PRIVATE"));
        assert!(!line.contains("PRIVATE"));
        assert!(pass.command().contains("sudo -n"));
        assert_ne!(Pass::new(&user(), true).unwrap().nonce, pass.nonce);
        assert!(!Pass::new(&user(), false).unwrap().command().contains("sudo"));
    }
}
