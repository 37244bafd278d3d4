//! The user's ssh-agent: asked for its list and for signatures, and for nothing else. It is never forwarded. Keys of types
//! that are not known here are passed over instead of spoiling the list.

use std::path::Path;
use std::time::Duration;

use russh::keys::agent::client::AgentClient;
use russh::keys::agent::{AgentIdentity, AgentSessionBinding};
use russh::keys::signature::Verifier;
use russh::keys::ssh_key::encoding::{Decode as _, Reader as _};
use russh::keys::ssh_key::{Signature, SshSig};
use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::error::Failure;

/// Domain of a signature that shows only that a key is held.
const NAMESPACE: &str = "keyward";
/// Largest answer; OpenSSH's own limit.
const FRAME_LIMIT: usize = 256 << 10;
/// Most keys that are looked at.
const MOST_KEYS: u32 = 1024;
/// For the list.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// For a signature: somebody may have to touch a token or confirm.
const SIGN_LIMIT: Duration = Duration::from_secs(60);

/// Message numbers of draft-miller-ssh-agent.
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;

/// A connection to the agent.
#[derive(Debug)]
pub(super) struct Agent {
    stream: UnixStream,
}

impl Agent {
    /// Connects to the socket.
    pub(super) async fn connect(socket: &Path) -> Result<Self, String> {
        let connected = tokio::time::timeout(ASK_LIMIT, UnixStream::connect(socket)).await;
        let stream = connected.map_err(|_| "it does not answer".to_owned())?.map_err(|error| error.to_string())?;
        Ok(Self { stream })
    }

    /// Tells the agent which server the signatures are for: keys that are bound to destinations need it, and an agent
    /// that does not know the message says no, which changes nothing.
    pub(super) async fn bind(&mut self, binding: &AgentSessionBinding) {
        let mut client = AgentClient::connect(&mut self.stream);
        let _ = tokio::time::timeout(ASK_LIMIT, client.bind_session(binding, false)).await;
    }

    /// The keys it holds, in its order, each with its certificate if it has one.
    pub(super) async fn identities(&mut self) -> Result<Vec<(PublicKey, Option<Certificate>)>, String> {
        let frame = tokio::time::timeout(ASK_LIMIT, self.list()).await;
        let frame = frame.map_err(|_| "it does not answer".to_owned())?.map_err(|error| error.to_string())?;
        read_list(&frame).ok_or_else(|| "its answer cannot be read".to_owned())
    }

    async fn list(&mut self) -> std::io::Result<Vec<u8>> {
        self.stream.write_all(&[0, 0, 0, 1, REQUEST_IDENTITIES]).await?;
        let length = usize::try_from(self.stream.read_u32().await?).unwrap_or(usize::MAX);
        if length > FRAME_LIMIT {
            return Err(std::io::Error::other("its answer is too large"));
        }
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame).await?;
        Ok(frame)
    }

    /// `data` with the agent's signature over it behind it.
    pub(super) async fn sign(
        &mut self,
        key: &AgentIdentity,
        hash: Option<HashAlg>,
        data: Vec<u8>,
    ) -> Result<Vec<u8>, String> {
        let mut client = AgentClient::connect(&mut self.stream);
        match tokio::time::timeout(SIGN_LIMIT, client.sign_request(key, hash, data)).await {
            Ok(Ok(signed)) => Ok(signed),
            Ok(Err(error)) => Err(format!("the agent does not sign: {error}")),
            Err(_) => Err("the agent did not sign in time".to_owned()),
        }
    }
}

/// True when the agent behind `socket` holds the private half of `key`: it signs `challenge`, in the form of
/// PROTOCOL.sshsig (OpenSSH), and the signature fits.
///
/// # Errors
/// When the agent cannot be asked, or does not sign with a key that it lists.
pub fn signs(socket: &Path, key: &crate::types::PublicKey, challenge: &[u8]) -> crate::error::Result<bool> {
    let failed = |why: &dyn std::fmt::Display| {
        Failure::unknown("ssh-agent", "cannot be asked").why(crate::proof::wire::plain(&why.to_string()))
    };
    let public = PublicKey::from_openssh(&key.line()).map_err(|error| failed(&error))?;
    let data = SshSig::signed_data(NAMESPACE, HashAlg::Sha512, challenge).map_err(|error| failed(&error))?;
    let hash = matches!(public.algorithm(), Algorithm::Rsa { .. }).then_some(HashAlg::Sha512);
    let length = data.len();
    let signing = async {
        let mut agent = Agent::connect(socket).await?;
        if !agent.identities().await?.iter().any(|(one, _)| one.key_data() == public.key_data()) {
            return Ok(None);
        }
        let identity = AgentIdentity::PublicKey { key: public.clone(), comment: String::new() };
        agent.sign(&identity, hash, data.clone()).await.map(Some)
    };
    let signed = super::driver::runtime().map_err(|error| failed(&error))?.block_on(signing);
    let Some(signed) = signed.map_err(|why: String| failed(&why))? else { return Ok(false) };
    let mut blob = signed.get(length..).unwrap_or_default();
    let blob = Vec::<u8>::decode(&mut blob).map_err(|error| failed(&error))?;
    let signature = Signature::try_from(blob.as_slice()).map_err(|error| failed(&error))?;
    Ok(Verifier::verify(public.key_data(), &data, &signature).is_ok())
}

/// Reads an IDENTITIES_ANSWER; `None` when it is none. A certificate comes as an identity of its own; it is given with
/// its key.
pub fn read_list(frame: &[u8]) -> Option<Vec<(PublicKey, Option<Certificate>)>> {
    let (kind, mut rest) = frame.split_first()?;
    if *kind != IDENTITIES_ANSWER {
        return None;
    }
    let reader = &mut rest;
    let count = u32::decode(reader).ok()?;
    let mut keys: Vec<(PublicKey, Option<Certificate>)> = Vec::new();
    for _ in 0..count.min(MOST_KEYS) {
        let blob = Vec::<u8>::decode(reader).ok()?;
        Vec::<u8>::decode(reader).ok()?;
        if let Some(certificate) = certificate(&blob) {
            let key = PublicKey::new(certificate.public_key().clone(), "");
            keys.push((key, Some(certificate)));
        } else if let Ok(key) = russh::keys::key::parse_public_key(&blob) {
            keys.push((key, None));
        }
    }
    let _ = reader.remaining_len();
    Some(keys)
}

fn certificate(blob: &[u8]) -> Option<Certificate> {
    let marker = b"-cert-v01@";
    // A certificate in a certificate in a certificate is decoded without a bound on its depth.
    let nested = blob.windows(marker.len()).filter(|window| window == marker).count();
    if nested == 1 { Certificate::from_bytes(blob).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use russh::keys::{Algorithm, PrivateKey};

    use super::*;

    fn frame(blobs: &[Vec<u8>]) -> Vec<u8> {
        let mut frame = vec![IDENTITIES_ANSWER];
        frame.extend(u32::try_from(blobs.len()).unwrap().to_be_bytes());
        for blob in blobs {
            frame.extend(u32::try_from(blob.len()).unwrap().to_be_bytes());
            frame.extend(blob);
            frame.extend([0, 0, 0, 1, b'c']);
        }
        frame
    }

    #[test]
    fn unknown_keys_are_passed_over_and_nonsense_is_an_error() {
        let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
        let blob = key.public_key().to_bytes().unwrap();
        let good = frame(&[b"\0\0\0\x05other???".to_vec(), Vec::new(), blob]);
        let found = read_list(&good).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0.key_data(), key.public_key().key_data());
        for cut in 0..good.len() {
            let _ = read_list(&good[..cut]);
        }
        assert!(read_list(&good[..20]).is_none() && read_list(&[5]).is_none() && read_list(&[]).is_none());
        let mut many = vec![IDENTITIES_ANSWER, 255, 255, 255, 255];
        many.extend([0, 0, 0, 0, 0, 0, 0, 0]);
        assert!(read_list(&many).is_none());
    }
}
