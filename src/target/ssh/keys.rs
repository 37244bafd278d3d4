//! The keys that may be offered, and in which order: those the user named, then the rest of the agent, then the default
//! files. Knows public halves only; a private key is opened when the server has said that it would take it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use russh::keys::{Algorithm, Certificate, PrivateKey, PublicKey};

use super::agent::Agent;
use super::config::{Around, Settings};
use super::driver::runtime;
use crate::types::Secret;

/// Largest key file.
const KEY_LIMIT: u64 = 64 << 10;

/// Where the private half is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    /// In the agent.
    Agent,
    /// In this file.
    File(PathBuf),
}

/// A key to offer, perhaps with a certificate.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) public: PublicKey,
    pub(super) certificate: Option<Certificate>,
    pub(super) holder: Holder,
}

impl Candidate {
    /// True for this key, whatever its comment.
    pub(super) fn is(&self, key: &crate::types::PublicKey) -> bool {
        let line = PublicKey::new(self.public.key_data().clone(), "").to_openssh().unwrap_or_default();
        line.split(' ').nth(1) == Some(key.blob())
    }
}

/// Which of `wanted` can be signed with here, by the agent or a key file; `named` are key files besides those of the
/// settings. Opens no connection to a host and asks nobody: a file with a passphrase counts, and is given with its key.
///
/// # Errors
/// When the kernel gives no descriptors.
pub fn held(
    wanted: &[crate::types::PublicKey],
    settings: &Settings,
    around: &Around,
    named: &[PathBuf],
) -> crate::error::Result<Vec<(crate::types::PublicKey, Option<PathBuf>)>> {
    let gathering = async {
        let mut agent = match &settings.agent {
            Some(socket) => Agent::connect(socket).await.ok(),
            None => None,
        };
        gather(named, settings, around, agent.as_mut()).await.0
    };
    let runtime = runtime().map_err(|error| crate::error::Failure::unknown("ssh", "no runtime").why(error))?;
    let found = runtime.block_on(gathering);
    let with = |key: &crate::types::PublicKey| {
        let one = found.iter().find(|one| one.is(key))?;
        let locked = match &one.holder {
            Holder::File(file) => Some(file.clone()).filter(|file| is_locked(file)),
            Holder::Agent => None,
        };
        Some((key.clone(), locked))
    };
    Ok(wanted.iter().filter_map(with).collect())
}

/// True when a passphrase opens this key file.
fn is_locked(file: &Path) -> bool {
    let text = Secret::new(small_text(file).ok().flatten().unwrap_or_default());
    match PrivateKey::from_openssh(text.reveal()) {
        Ok(key) => key.is_encrypted(),
        Err(_) => russh::keys::decode_secret_key(text.reveal(), None).is_err(),
    }
}

/// All keys in the order in which they are offered, and why some files are not among them.
pub(super) async fn gather(
    named: &[PathBuf],
    settings: &Settings,
    around: &Around,
    agent: Option<&mut Agent>,
) -> (Vec<Candidate>, Vec<String>) {
    let (mut keys, mut notes) = (Vec::new(), Vec::new());
    let held = match agent {
        Some(agent) => agent.identities().await.unwrap_or_else(|why| {
            notes.push(format!("the agent is not used: {why}"));
            Vec::new()
        }),
        None => Vec::new(),
    };
    let is_default = |file: &PathBuf| around.default_keys().any(|default| default == *file);
    let certificates: Vec<Certificate> =
        settings.certificate_files.iter().filter_map(|file| certificate(file)).collect();
    let files = |wanted: bool, keys: &mut Vec<Candidate>, notes: &mut Vec<String>| {
        let own = settings.identity_files.iter().filter(|file| is_default(file) != wanted);
        for file in named.iter().filter(|_| wanted).chain(own) {
            match of_file(file, &held) {
                Ok(Some((public, holder))) => {
                    let beside = certificate(&suffixed(file, "-cert.pub"));
                    let fitting = certificates.iter().chain(&beside).find(|one| one.public_key() == public.key_data());
                    let held = held
                        .iter()
                        .find_map(|(key, one)| (key.key_data() == public.key_data()).then_some(one.as_ref())?);
                    add(keys, public, fitting.or(held).cloned(), holder);
                }
                Ok(None) => {}
                Err(why) => notes.push(format!("{} is not used: {why}", file.display())),
            }
        }
    };
    files(true, &mut keys, &mut notes);
    if !settings.identities_only {
        for (public, certificate) in &held {
            add(&mut keys, public.clone(), certificate.clone(), Holder::Agent);
        }
    }
    files(false, &mut keys, &mut notes);
    (keys, notes)
}

/// Adds a key with its certificate first; each is offered once.
fn add(keys: &mut Vec<Candidate>, public: PublicKey, certificate: Option<Certificate>, holder: Holder) {
    let has = |keys: &[Candidate], wanted: Option<&Certificate>| {
        keys.iter().any(|one| one.public.key_data() == public.key_data() && one.certificate.as_ref() == wanted)
    };
    if let Some(certificate) = certificate
        && !has(keys, Some(&certificate))
    {
        keys.push(Candidate { public: public.clone(), certificate: Some(certificate), holder: holder.clone() });
    }
    if !has(keys, None) {
        keys.push(Candidate { public, certificate: None, holder });
    }
}

fn suffixed(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn small_text(file: &Path) -> Result<Option<String>, String> {
    match std::fs::metadata(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(meta) if !meta.is_file() || meta.len() > KEY_LIMIT => return Err("no key file".to_owned()),
        Ok(_) => {}
    }
    std::fs::read_to_string(file).map(Some).map_err(|error| error.to_string())
}

fn certificate(file: &Path) -> Option<Certificate> {
    let text = small_text(file).ok()??;
    Certificate::from_openssh(text.trim()).ok()
}

/// The public half that belongs to `file`, and who can sign with it.
fn of_file(file: &Path, held: &[(PublicKey, Option<Certificate>)]) -> Result<Option<(PublicKey, Holder)>, String> {
    let beside = small_text(&suffixed(file, ".pub")).ok().flatten();
    let own = small_text(file)?;
    let public = |text: &str| PublicKey::from_openssh(text.trim()).ok();
    // What is named may be the public half of a key that only the agent has.
    let named = own.as_deref().and_then(public);
    let private = own.as_deref().filter(|_| named.is_none());
    let of_private = private.and_then(|text| PrivateKey::from_openssh(text).ok()).map(|key| key.public_key().clone());
    let Some(key) = named.or(of_private).or_else(|| beside.as_deref().and_then(public)).or_else(|| old_form(private))
    else {
        return if own.is_some() { Err("neither the key nor FILE.pub can be read".to_owned()) } else { Ok(None) };
    };
    if held.iter().any(|(one, _)| one.key_data() == key.key_data()) {
        return Ok(Some((key, Holder::Agent)));
    }
    if private.is_none() {
        return if own.is_some() {
            Err("it is a public key, and the agent does not hold the private one".to_owned())
        } else {
            Ok(None)
        };
    }
    if matches!(key.algorithm(), Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256) {
        return Err("a key on a token is used through an agent only: ssh-add it".to_owned());
    }
    let meta = std::fs::metadata(file).map_err(|error| error.to_string())?;
    if meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o077 != 0 {
        return Err(format!("others can read it (mode {:o}): chmod 600 it", meta.mode() & 0o777));
    }
    Ok(Some((key, Holder::File(file.to_owned()))))
}

/// PKCS#1, PKCS#8 and SEC1 keys without a passphrase.
fn old_form(text: Option<&str>) -> Option<PublicKey> {
    russh::keys::decode_secret_key(text?, None).ok().map(|key| key.public_key().clone())
}

/// Opens the private key in `file`; `passphrase` is asked for when there is one, three times at most.
///
/// # Errors
/// Why it cannot be used.
pub(super) fn open(file: &Path, passphrase: &dyn Fn(u32) -> Option<Secret<String>>) -> Result<PrivateKey, String> {
    let text = small_text(file)?.ok_or_else(|| "it is gone".to_owned())?;
    let text = Secret::new(text);
    if let Ok(key) = russh::keys::decode_secret_key(text.reveal(), None)
        && !key.is_encrypted()
    {
        return Ok(key);
    }
    for attempt in 0..3 {
        let Some(passphrase) = passphrase(attempt) else {
            return Err("it has a passphrase, and none was given".to_owned());
        };
        if let Ok(key) = russh::keys::decode_secret_key(text.reveal(), Some(passphrase.reveal()))
            && !key.is_encrypted()
        {
            return Ok(key);
        }
    }
    Err("the passphrase does not open it".to_owned())
}
