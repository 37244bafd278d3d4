//! Whether somebody holds the private half of a key that the playbook declares: shown by an earlier login, or by signing
//! a challenge. An ephemeral key proves a door; this tells that there is a hand on the other side of it.

use std::time::Duration;

use russh::keys::{HashAlg, PrivateKey, PublicKey as Public};

use crate::error::{Failure, Result};
use crate::host::{Command, Probe};
use crate::types::{PublicKey, UserName};

/// Domain of the signature, see PROTOCOL.sshsig of OpenSSH.
const NAMESPACE: &str = "keyward";
const JOURNALCTL: &str = "/usr/bin/journalctl";

/// How the key was shown to be held, in words; `None` when sshd's log does not tell of a login with it.
///
/// # Errors
/// When the log cannot be asked.
pub fn logged_in(user: &UserName, key: &PublicKey, probe: &dyn Probe) -> Result<Option<String>> {
    let (name, fingerprint) = (user.as_str(), key.fingerprint());
    // A text file does not tell who wrote a line: anybody can put one there with logger(1).
    if !probe.has_program(JOURNALCTL) {
        return Ok(None);
    }
    // These fields are the journal's own words. root's services pass on what others say, so the user alone is not enough.
    let pattern = format!("^Accepted publickey for {name} .* {}$", escaped(&fingerprint));
    let argv = [JOURNALCTL, "-q", "--no-pager", "-o", "cat", "-n", "1", "-g", &pattern, "_UID=0"];
    let argv = argv.into_iter().chain(["_COMM=sshd", "_COMM=sshd-session"]);
    let text = probe.ask(&Command::new(argv).deadline(Duration::from_secs(20)))?.stdout;
    let mark = format!("Accepted publickey for {name} ");
    let found = text
        .lines()
        .any(|line| line.starts_with(&mark) && line.split_whitespace().next_back() == Some(fingerprint.as_str()));
    Ok(found.then(|| format!("{name}'s key {fingerprint} has logged in before")))
}

/// For a regular expression; base64 has one special character.
fn escaped(fingerprint: &str) -> String {
    fingerprint.replace('+', "\\+")
}

/// How `identity`, the text of a private key file, was shown to be the other half of `key`; `None` when it is not.
///
/// # Errors
/// Input when it is no private key, or protected by a passphrase.
pub fn signed(identity: &str, user: &UserName, key: &PublicKey, challenge: &[u8]) -> Result<Option<String>> {
    let wrong = |why: &dyn std::fmt::Display| {
        Failure::input("--identity", "no private key that can sign")
            .why(why)
            .hint("name an OpenSSH private key without passphrase, made for this use")
    };
    let private = PrivateKey::from_openssh(identity).map_err(|error| wrong(&error))?;
    if private.is_encrypted() {
        return Err(wrong(&"it is protected by a passphrase"));
    }
    let public = Public::from_openssh(&key.line()).map_err(|error| wrong(&error))?;
    if public.key_data() != private.public_key().key_data() {
        return Ok(None);
    }
    let signature = private.sign(NAMESPACE, HashAlg::Sha512, challenge).map_err(|error| wrong(&error))?;
    public.verify(NAMESPACE, challenge, &signature).map_err(|error| wrong(&error))?;
    Ok(Some(format!("{}'s key {} signed a challenge", user.as_str(), key.fingerprint())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Output;
    use crate::host::memory::{MemoryHost, World};
    use crate::types::Word as _;
    use russh::keys::Algorithm;
    use russh::keys::ssh_key::LineEnding;

    #[test]
    fn a_line_that_anybody_can_write_is_no_login() {
        let mine = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
        let (user, declared) = (UserName::parse("deploy").unwrap(), mine.public_key().to_openssh().unwrap());
        let declared = PublicKey::parse(&declared).unwrap();
        let line = format!("Accepted publickey for deploy from 192.0.2.1 port 5 ssh2: X {}\n", declared.fingerprint());
        let said = |stdout: String| Output { code: 0, stdout, stderr: String::new() };
        let host = MemoryHost::new(World::default());
        let forged = said(format!("Nov 22 h sshd[1]: {line}"));
        host.program("/usr/bin/tail", move |_, _| forged.clone());
        assert_eq!(logged_in(&user, &declared, &host).unwrap(), None, "auth.log");
        let relayed = said(format!("guest says: {line}"));
        host.program(JOURNALCTL, move |_, _| relayed.clone());
        assert_eq!(logged_in(&user, &declared, &host).unwrap(), None, "in the middle of a line");
        let real = said(line);
        host.program(JOURNALCTL, move |_, command| {
            assert!(command.argv.iter().any(|word| word == "_COMM=sshd"), "{:?}", command.argv);
            real.clone()
        });
        assert!(logged_in(&user, &declared, &host).unwrap().is_some());
    }

    #[test]
    fn only_the_other_half_signs() {
        let mine = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
        let other = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
        let user = UserName::parse("deploy").unwrap();
        let declared = PublicKey::parse(&mine.public_key().to_openssh().unwrap()).unwrap();
        let text = |key: &PrivateKey| key.to_openssh(LineEnding::LF).unwrap().to_string();
        assert!(signed(&text(&mine), &user, &declared, b"nonce").unwrap().is_some());
        assert!(signed(&text(&other), &user, &declared, b"nonce").unwrap().is_none());
        assert!(signed("ssh-ed25519 AAAA", &user, &declared, b"nonce").is_err());
    }
}
