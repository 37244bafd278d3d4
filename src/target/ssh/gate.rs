//! What is decided while the keys are exchanged: whether the host is the right one and the exchange a strong one. Both
//! before any credential is sent.

use std::sync::{Arc, Mutex, PoisonError};

use russh::client::{self, DisconnectReason, Session};
use russh::keys::{Algorithm, HashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Names, Preferred, compression};

use super::known_hosts::{Known, Verdict};
use super::trouble::{Setback, Trouble};
use crate::proof::KEX;
use crate::proof::wire::plain;

/// By what a host key is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// By the known_hosts files alone.
    KnownHosts,
    /// Also a host of which nothing is known yet; its key is written down. A changed key is refused all the same.
    AcceptNew,
    /// By one of these SHA256 fingerprints, as the provider's console shows them (`SHA256:...`); revocations count.
    Pinned(Vec<String>),
}

/// What was seen of the server.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// The host key that it proved to have.
    pub(super) key: Option<PublicKey>,
    /// What was made of it.
    pub(super) verdict: Option<Verdict>,
    /// True when the exchange is open to a cut in its beginning (CVE-2023-48795).
    pub(super) weak: bool,
    /// Its last words.
    pub(super) goodbye: Option<String>,
}

/// [`Seen`], shared with the task that speaks to the server.
#[derive(Debug, Clone, Default)]
pub(super) struct Eye(Arc<Mutex<Seen>>);

impl Eye {
    /// What was seen so far.
    pub(super) fn seen(&self) -> Seen {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True when the server hung up because of MaxAuthTries, in sshd's own words.
    pub(super) fn out_of_tries(&self) -> bool {
        self.seen().goodbye.is_some_and(|words| words.contains("Too many authentication failures"))
    }

    fn note(&self, with: impl FnOnce(&mut Seen)) {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The judge of one connection.
#[derive(Debug)]
pub(super) struct Gate {
    trust: Trust,
    known: Known,
    eye: Eye,
    /// True after the first exchange.
    exchanged: bool,
}

impl Gate {
    pub(super) const fn new(trust: Trust, known: Known, eye: Eye) -> Self {
        Self { trust, known, eye, exchanged: false }
    }

    /// The algorithms to offer: only host keys that can be checked, no SHA-1, no CBC, and no compression, with which a
    /// small packet becomes a large one.
    ///
    /// For a pinned key, `round` 0 asks for any, 1 for ECDSA, 2 for RSA.
    pub(super) fn preferred(&self, round: usize) -> Preferred {
        let (mut keys, certificates) = match self.trust {
            Trust::Pinned(_) => (Known::default().algorithms(), Vec::new()),
            _ => (self.known.algorithms(), self.known.certificate_algorithms()),
        };
        keys.retain(|kind| match round {
            1 => matches!(kind, Algorithm::Ecdsa { .. }),
            2 => matches!(kind, Algorithm::Rsa { .. }),
            _ => true,
        });
        Preferred {
            kex: KEX.into(),
            key: keys.into(),
            host_key_certificates: certificates.into(),
            compression: vec![compression::NONE].into(),
            ..Preferred::DEFAULT
        }
    }

    fn judge(&self, shown: &PublicKeyOrCertificate) -> Verdict {
        let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
        let judged = self.known.judge(shown, now);
        match (&self.trust, judged) {
            (_, judged @ Verdict::Revoked { .. }) => judged,
            (Trust::Pinned(pins), _) => {
                let fingerprint = shown.public_key().fingerprint(HashAlg::Sha256).to_string();
                let pinned = pins.iter().any(|pin| pin.trim_end_matches('=') == fingerprint);
                if pinned { Verdict::Known } else { Verdict::Changed { file: String::new(), line: 0 } }
            }
            (_, judged) => judged,
        }
    }
}

impl client::Handler for Gate {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let verdict = self.judge(shown);
        let good = verdict == Verdict::Known || verdict == Verdict::Unknown && self.trust == Trust::AcceptNew;
        self.eye.note(|seen| {
            seen.key = Some(shown.public_key());
            seen.verdict = Some(verdict);
        });
        Ok(good)
    }

    async fn kex_done(&mut self, _: Option<&[u8]>, names: &Names, _: &mut Session) -> Result<(), Self::Error> {
        // A later exchange does not say it again.
        let first = !std::mem::replace(&mut self.exchanged, true);
        if first && !names.strict_kex() {
            self.eye.note(|seen| seen.weak = true);
            return Err(russh::Error::Kex);
        }
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                self.eye.note(|seen| seen.goodbye = Some(plain(&info.message)));
                Ok(())
            }
            DisconnectReason::Error(error) => Err(error),
        }
    }
}

/// The setback of a host key that was not taken; `None` for one that was.
pub(super) fn refusal(seen: &Seen, place: &str, name: (&str, u16)) -> Option<Setback> {
    let fingerprint = seen.key.as_ref().map_or_else(String::new, |key| key.fingerprint(HashAlg::Sha256).to_string());
    let (host, port) = name;
    let known_as = if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") };
    match seen.verdict.as_ref()? {
        Verdict::Known => None,
        Verdict::Unknown => Some(
            Setback::new(
                Trouble::HostKeyUnknown { fingerprint: fingerprint.clone() },
                place,
                "the host key is not known",
            )
            .why(format!("it showed {fingerprint}"))
            .hint("compare it with the provider's console, then give it: --host-key FINGERPRINT; or take a new host as it is: --accept-new"),
        ),
        Verdict::Changed { file, .. } if file.is_empty() => Some(
            Setback::new(
                Trouble::HostKeyChanged { file: String::new(), line: 0 },
                place,
                "the host shows another key than the pinned one",
            )
            .why(format!("it showed {fingerprint}"))
            .hint("this is another machine, or somebody in between: compare with the provider's console"),
        ),
        Verdict::Changed { file, line } => Some(
            Setback::new(
                Trouble::HostKeyChanged { file: file.clone(), line: *line },
                place,
                format!("the host key has changed: another one is known in {file}:{line}"),
            )
            .why(format!("it showed {fingerprint}; this is another machine, or somebody in between"))
            .hint(format!("only if you know why it changed: ssh-keygen -f {file} -R '{known_as}'")),
        ),
        Verdict::Revoked { file, line } => Some(
            Setback::new(
                Trouble::HostKeyRevoked { file: file.clone(), line: *line },
                place,
                format!("the host key is revoked in {file}:{line}"),
            )
            .why(format!("it showed {fingerprint}"))
            .hint("this key is in wrong hands: give the host new keys by its console"),
        ),
    }
}
