//! Logging in: keys first, passwords only when the caller allows them. Counts what it offers, since sshd hangs up after
//! MaxAuthTries and OpenSSH 9.8 and later shuts an address out after a few of those.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use russh::MethodSet;
use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse};
use russh::keys::agent::AgentIdentity;
use russh::keys::signature::Signer as _;
use russh::keys::ssh_key::Signature;
use russh::keys::ssh_key::encoding::Encode as _;
use russh::keys::{Algorithm, HashAlg, PrivateKey};

use super::agent::Agent;
use super::gate::{Eye, Gate};
use super::keys::{self, Candidate, Holder};
use super::trouble::{Outcome, Setback, Trouble};
use crate::proof::wire::plain;
use crate::types::Secret;

/// Most rounds of questions that one keyboard-interactive login may have, and most questions of a round.
const ROUNDS: usize = 8;

/// What the caller is asked while logging in. `attempt` counts from 0: a source that cannot give another answer says
/// `None` the second time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The passphrase of a key file.
    Passphrase {
        /// Which.
        file: PathBuf,
        /// How often it was asked before.
        attempt: u32,
    },
    /// The password of an account.
    Password {
        /// The account.
        user: String,
        /// The host.
        host: String,
        /// How often it was asked before.
        attempt: u32,
    },
    /// A question of the server's (keyboard-interactive).
    Prompt {
        /// The account.
        user: String,
        /// The host.
        host: String,
        /// The question, safe to show.
        text: String,
        /// True when the answer is no secret.
        echo: bool,
        /// How often it was asked before.
        attempt: u32,
    },
}

/// Answers a [`Question`]; `None` gives up.
pub type Ask<'a> = &'a dyn Fn(&Question) -> Option<Secret<String>>;

/// How long the server may keep us waiting in all; the time that people take to answer is not counted.
#[derive(Debug)]
pub(super) struct Patience {
    left: Duration,
    place: String,
}

impl Patience {
    pub(super) fn new(limit: Duration, place: &str) -> Self {
        Self { left: limit, place: place.to_owned() }
    }

    /// Waits for `future`, within what is left.
    pub(super) async fn wait<T>(&mut self, future: impl Future<Output = T>) -> Outcome<T> {
        let begun = Instant::now();
        let done = tokio::time::timeout(self.left, future).await;
        self.left = self.left.saturating_sub(begun.elapsed());
        done.map_err(|_| {
            Setback::new(Trouble::Timeout, &self.place, "the server takes too long to let us in")
                .hint("is the host overloaded? Look at it by its console")
        })
    }
}

/// What is left to be offered, over all connections of one login.
#[derive(Debug)]
pub(super) struct Offer {
    keys: Vec<Candidate>,
    next: usize,
    /// Most keys to be refused on one connection.
    cap: usize,
    passwords: bool,
    notes: Vec<String>,
    /// The key that opened, alone and without a certificate.
    pub(super) by: Option<Candidate>,
}

impl Offer {
    pub(super) fn new(keys: Vec<Candidate>, notes: Vec<String>, cap: usize, passwords: bool) -> Self {
        Self { keys, next: 0, cap: cap.max(1), passwords, notes, by: None }
    }
}

/// Whom to log in, and where.
pub(super) struct Who<'a> {
    pub(super) user: &'a str,
    pub(super) host: &'a str,
    pub(super) place: &'a str,
    pub(super) ask: Ask<'a>,
    pub(super) eye: &'a Eye,
}

/// How one connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Logged in.
    In,
    /// There is more to offer, on a new connection.
    Again,
}

/// What became of one credential.
enum Tried {
    In,
    Refused(MethodSet),
    /// It was right, and the server wants another one as well.
    Partly(MethodSet),
    /// It was not offered, or not used.
    Skipped,
}

impl From<AuthResult> for Tried {
    fn from(result: AuthResult) -> Self {
        match result {
            AuthResult::Success => Self::In,
            AuthResult::Failure { partial_success: true, remaining_methods } => Self::Partly(remaining_methods),
            AuthResult::Failure { remaining_methods, .. } => Self::Refused(remaining_methods),
        }
    }
}

/// One connection's worth of trying. `last`: there will be no further connection, so what is likeliest goes first.
pub(super) async fn log_in(
    handle: &mut Handle<Gate>,
    offer: &mut Offer,
    who: &Who<'_>,
    mut agent: Option<&mut Agent>,
    patience: &mut Patience,
    last: bool,
) -> Outcome<End> {
    let lost = |error: russh::Error| {
        Setback::new(Trouble::Broken, who.place, "the connection ended during the login").why(error)
    };
    // Tells the methods, and costs no failure (RFC 4252, 5.2).
    let mut methods = match patience.wait(handle.authenticate_none(who.user)).await?.map_err(lost)? {
        AuthResult::Success => return Ok(End::In),
        AuthResult::Failure { remaining_methods, .. } => names(&remaining_methods),
    };
    if handle.is_closed() && methods.is_empty() {
        return Err(lost(russh::Error::Disconnect));
    }
    let mut refused = 0;
    let mut partly = false;
    loop {
        let by_password =
            offer.passwords && methods.iter().any(|name| name == "password" || name == "keyboard-interactive");
        let hold_back = by_password && last && !partly;
        let key = offer
            .keys
            .get(offer.next)
            .filter(|_| methods.iter().any(|name| name == "publickey") && !hold_back)
            .cloned();
        let Some(key) = key else { break };
        if refused >= offer.cap {
            if by_password {
                break;
            }
            return if last { Err(no_way(offer, who, methods)) } else { Ok(End::Again) };
        }
        offer.next += 1;
        match try_key(handle, &key, offer, who, agent.as_deref_mut(), patience).await? {
            Tried::In => {
                offer.by = Some(key).filter(|key| !partly && key.certificate.is_none());
                return Ok(End::In);
            }
            Tried::Partly(left) => {
                methods = names(&left);
                partly = true;
            }
            Tried::Refused(left) => {
                refused += 1;
                if left.is_empty() && gone(handle).await {
                    if !who.eye.out_of_tries() {
                        return Err(lost(russh::Error::Disconnect));
                    }
                    // MaxAuthTries is smaller than we thought; the next connection stops before it.
                    offer.cap = refused.saturating_sub(1).max(1);
                    let more = offer.next < offer.keys.len() || by_password;
                    return if more && !last { Ok(End::Again) } else { Err(no_way(offer, who, methods)) };
                }
                methods = names(&left);
            }
            Tried::Skipped => {}
        }
    }
    if offer.passwords {
        for method in ["password", "keyboard-interactive"] {
            if !methods.iter().any(|name| name == method) {
                continue;
            }
            for attempt in 0..3 {
                let tried = match method {
                    "password" => by_password(handle, who, attempt, patience).await?,
                    _ => by_questions(handle, who, attempt, patience).await?,
                };
                match tried {
                    Tried::In => return Ok(End::In),
                    Tried::Partly(left) => {
                        methods = names(&left);
                        break;
                    }
                    Tried::Refused(left) if left.is_empty() && gone(handle).await => {
                        if !who.eye.out_of_tries() {
                            return Err(lost(russh::Error::Disconnect));
                        }
                        return Err(no_way(offer, who, methods));
                    }
                    Tried::Refused(_) => {}
                    Tried::Skipped => return Err(no_way(offer, who, methods)),
                }
            }
        }
    }
    Err(no_way(offer, who, methods))
}

/// True when the server hung up. Its last message and its end come in two steps.
async fn gone(handle: &Handle<Gate>) -> bool {
    for _ in 0..20 {
        if handle.is_closed() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

fn names(methods: &MethodSet) -> Vec<String> {
    methods.iter().map(String::from).collect()
}

fn no_way(offer: &Offer, who: &Who<'_>, offered: Vec<String>) -> Setback {
    let takes_passwords = offered.iter().any(|name| name == "password" || name == "keyboard-interactive");
    let keys = match offer.next {
        0 => "no key was offered".to_owned(),
        1 => "one key was refused".to_owned(),
        count => format!("{count} keys were refused"),
    };
    let mut why = vec![keys];
    if offer.next < offer.keys.len() {
        why.push(format!("{} more were held back, since the server counts", offer.keys.len() - offer.next));
    }
    why.push(match (takes_passwords, offer.passwords) {
        (true, true) => "no password was taken".to_owned(),
        (true, false) => "the server takes passwords, but none may be asked for".to_owned(),
        (false, _) => format!(
            "the server takes {} only",
            if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") }
        ),
    });
    why.extend(offer.notes.iter().cloned());
    let hint = match (takes_passwords, offer.next < offer.keys.len()) {
        (_, true) => "name the right key: IdentityFile and IdentitiesOnly in ~/.ssh/config",
        (true, false) => "check the account and the password, or put your public key into its authorized_keys",
        (false, false) => {
            "put your public key into the account's authorized_keys by the provider's console; ssh-add -l lists what the agent holds"
        }
    };
    Setback::new(Trouble::Credentials { offered }, who.place, format!("{} is not let in", who.user))
        .why(why.join("; "))
        .hint(hint)
}

/// Signs for a public key, by the agent or by a key at hand.
struct Hand<'a> {
    agent: Option<&'a mut Agent>,
    key: Option<&'a PrivateKey>,
    /// Set when the server took the public key and asked for the signature.
    asked: bool,
}

/// Why there is no signature.
#[derive(Debug)]
struct NoSignature(String);

impl From<russh::SendError> for NoSignature {
    fn from(error: russh::SendError) -> Self {
        Self(error.to_string())
    }
}

impl russh::Signer for Hand<'_> {
    type Error = NoSignature;

    async fn auth_sign(
        &mut self,
        key: &AgentIdentity,
        hash: Option<HashAlg>,
        mut data: Vec<u8>,
    ) -> Result<Vec<u8>, NoSignature> {
        self.asked = true;
        if let Some(agent) = self.agent.as_deref_mut() {
            return agent.sign(key, hash, data).await.map_err(NoSignature);
        }
        let key = self.key.ok_or_else(|| NoSignature("the key is not open yet".to_owned()))?;
        // RSA signs with SHA-512 here, never with SHA-1.
        let signature: Signature = key.try_sign(&data).map_err(|error| NoSignature(error.to_string()))?;
        signature.encode_prefixed(&mut data).map_err(|error| NoSignature(error.to_string()))?;
        Ok(data)
    }
}

/// Offers one key. A file with a passphrase is opened only when the server would take its key.
async fn try_key(
    handle: &mut Handle<Gate>,
    candidate: &Candidate,
    offer: &mut Offer,
    who: &Who<'_>,
    agent: Option<&mut Agent>,
    patience: &mut Patience,
) -> Outcome<Tried> {
    let file = match &candidate.holder {
        Holder::Agent => {
            let mut hand = Hand { agent, key: None, asked: false };
            return Ok(one(handle, candidate, who, &mut hand, patience).await?.unwrap_or_else(|why| {
                offer.notes.push(plain(&why));
                Tried::Skipped
            }));
        }
        Holder::File(file) => file,
    };
    let free = keys::open(file, &|_| None).ok();
    if free.is_none() {
        let mut probe = Hand { agent: None, key: None, asked: false };
        let tried = one(handle, candidate, who, &mut probe, patience).await?;
        if !probe.asked {
            return Ok(tried.unwrap_or(Tried::Skipped));
        }
    }
    let key = free.map_or_else(|| locked(file, who), Ok);
    let key = match key {
        Ok(key) => key,
        Err(why) => {
            offer.notes.push(note(file, &why));
            return Ok(Tried::Skipped);
        }
    };
    if key.public_key().key_data() != candidate.public.key_data() {
        offer.notes.push(note(file, "its .pub is of another key"));
        return Ok(Tried::Skipped);
    }
    let mut hand = Hand { agent: None, key: Some(&key), asked: false };
    Ok(one(handle, candidate, who, &mut hand, patience).await?.unwrap_or_else(|why| {
        offer.notes.push(note(file, &why));
        Tried::Skipped
    }))
}

/// Opens a key file with a passphrase.
fn locked(file: &Path, who: &Who<'_>) -> Result<PrivateKey, String> {
    keys::open(file, &|attempt| (who.ask)(&Question::Passphrase { file: file.to_owned(), attempt }))
}

fn note(file: &Path, why: &str) -> String {
    format!("{}: {why}", file.display())
}

async fn one(
    handle: &mut Handle<Gate>,
    candidate: &Candidate,
    who: &Who<'_>,
    hand: &mut Hand<'_>,
    patience: &mut Patience,
) -> Outcome<Result<Tried, String>> {
    let hash = matches!(candidate.public.algorithm(), Algorithm::Rsa { .. }).then_some(HashAlg::Sha512);
    let result = match &candidate.certificate {
        Some(certificate) => {
            patience.wait(handle.authenticate_certificate_with(who.user, certificate.clone(), hash, hand)).await?
        }
        None => {
            patience.wait(handle.authenticate_publickey_with(who.user, candidate.public.clone(), hash, hand)).await?
        }
    };
    Ok(result.map(Tried::from).map_err(|error| error.0))
}

async fn by_password(
    handle: &mut Handle<Gate>,
    who: &Who<'_>,
    attempt: u32,
    patience: &mut Patience,
) -> Outcome<Tried> {
    let question = Question::Password { user: who.user.to_owned(), host: who.host.to_owned(), attempt };
    let Some(password) = (who.ask)(&question) else { return Ok(Tried::Skipped) };
    let result = patience.wait(handle.authenticate_password(who.user, password.reveal().clone())).await?;
    result
        .map(Tried::from)
        .map_err(|error| Setback::new(Trouble::Broken, who.place, "the connection ended during the login").why(error))
}

async fn by_questions(
    handle: &mut Handle<Gate>,
    who: &Who<'_>,
    attempt: u32,
    patience: &mut Patience,
) -> Outcome<Tried> {
    let lost = |error: russh::Error| {
        Setback::new(Trouble::Broken, who.place, "the connection ended during the login").why(error)
    };
    let mut state =
        patience.wait(handle.authenticate_keyboard_interactive_start(who.user, None::<String>)).await?.map_err(lost)?;
    for _ in 0..ROUNDS {
        let prompts = match state {
            KeyboardInteractiveAuthResponse::Success => return Ok(Tried::In),
            KeyboardInteractiveAuthResponse::Failure { remaining_methods, partial_success } => {
                return Ok(if partial_success {
                    Tried::Partly(remaining_methods)
                } else {
                    Tried::Refused(remaining_methods)
                });
            }
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => prompts,
        };
        if prompts.len() > ROUNDS {
            return Err(Setback::new(Trouble::NotSsh, who.place, "the server asks too many questions"));
        }
        let mut answers = Vec::new();
        for prompt in prompts {
            let (user, host) = (who.user.to_owned(), who.host.to_owned());
            let question = Question::Prompt { user, host, text: plain(&prompt.prompt), echo: prompt.echo, attempt };
            let Some(answer) = (who.ask)(&question) else { return Ok(Tried::Skipped) };
            answers.push(answer.reveal().clone());
        }
        state = patience.wait(handle.authenticate_keyboard_interactive_respond(answers)).await?.map_err(lost)?;
    }
    Err(Setback::new(Trouble::NotSsh, who.place, "the server asks too many questions"))
}
