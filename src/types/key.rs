//! SSH public keys as they stand in `authorized_keys` (sshd(8)).

use russh::keys::ssh_key;

use super::{Invalid, Word, is_forbidden, word_serde};

/// A public key that sshd can use for a login: type, base64 blob and comment, on one line.
///
/// Never a certificate, DSA, or RSA under 2048 bits; between 2048 and 3071 bits [`PublicKey::is_short_rsa`] tells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey {
    algorithm: String,
    blob: String,
    comment: String,
    rsa_bits: Option<u32>,
}

/// Why a text is not a usable public key.
pub type KeyError = Invalid;

/// Key types that OpenSSH 8.4 to 10.6 accept by default for a login.
const TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

impl PublicKey {
    /// The key type, such as `ssh-ed25519`.
    pub fn algorithm(&self) -> &str {
        &self.algorithm
    }

    /// The key itself, base64 without line breaks; two lines with the same blob are the same key.
    pub fn blob(&self) -> &str {
        &self.blob
    }

    /// The comment, possibly empty.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// The canonical line without options.
    pub fn line(&self) -> String {
        if self.comment.is_empty() {
            format!("{} {}", self.algorithm, self.blob)
        } else {
            format!("{} {} {}", self.algorithm, self.blob, self.comment)
        }
    }

    /// The fingerprint, `SHA256:...`.
    pub fn fingerprint(&self) -> String {
        ssh_key::PublicKey::from_openssh(&format!("{} {}", self.algorithm, self.blob))
            .map(|key| key.fingerprint(ssh_key::HashAlg::Sha256).to_string())
            .unwrap_or_default()
    }

    /// True for an RSA key of 2048 to 3071 bits, which is accepted only on request.
    pub const fn is_short_rsa(&self) -> bool {
        matches!(self.rsa_bits, Some(bits) if bits < 3072)
    }

    /// Size of an RSA key in bits.
    pub const fn rsa_bits(&self) -> Option<u32> {
        self.rsa_bits
    }
}

/// Refuses what is clearly something else than a public key, with the fix.
fn check_kind(text: &str) -> Result<(), Invalid> {
    let hint = "give the public half: the one line of a .pub file, such as ~/.ssh/id_ed25519.pub";
    if text.contains("PRIVATE KEY") || text.starts_with("PuTTY-User-Key-File") {
        return Err(Invalid::new("this is a private key; it must never leave the machine it was made on", hint));
    }
    if text.contains("-----BEGIN") || text.contains("---- BEGIN") {
        return Err(Invalid::new("this is not in the one-line OpenSSH form", "convert it with: ssh-keygen -i -f FILE"));
    }
    if let Some(c) = text.chars().find(|c| is_forbidden(*c)) {
        return Err(Invalid::new(format!("character {} in a key line", c.escape_unicode()), hint));
    }
    Ok(())
}

fn check_type(algorithm: &str) -> Result<(), Invalid> {
    if algorithm.contains("-cert-v01@") {
        return Err(Invalid::new(
            "this is a certificate, not a key",
            "give the plain public key (the .pub file without -cert)",
        ));
    }
    if algorithm == "ssh-dss" {
        return Err(Invalid::new("DSA keys are refused by OpenSSH", "make a new key with: ssh-keygen -t ed25519"));
    }
    if !TYPES.contains(&algorithm) {
        return Err(Invalid::new(
            format!("'{}' is not a key type", algorithm.chars().take(40).collect::<String>()),
            "a key line is TYPE BASE64 COMMENT, such as: ssh-ed25519 AAAA... ops@laptop (options go into their own fields)",
        ));
    }
    Ok(())
}

impl Word for PublicKey {
    const FORMAT: &'static str = "public-key";
    const PATTERN: &'static str = "^(ssh-|ecdsa-|sk-)";
    const ABOUT: &'static str = "one line of a .pub file: TYPE BASE64 COMMENT";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let text = text.trim_matches([' ', '\t']);
        check_kind(text)?;
        let mut parts = text.splitn(3, [' ', '\t']);
        let algorithm = parts.next().unwrap_or_default();
        check_type(algorithm)?;
        let blob = parts.next().unwrap_or_default();
        let comment = parts.next().unwrap_or_default().trim();
        let broken = |why: String| Invalid::new(why, "copy the whole line of the .pub file again");
        let key = ssh_key::PublicKey::from_openssh(&format!("{algorithm} {blob}"))
            .map_err(|error| broken(format!("the key does not decode ({error})")))?;
        if key.algorithm().as_str() != algorithm {
            return Err(broken(format!("the line says {algorithm}, the key inside is {}", key.algorithm().as_str())));
        }
        let rsa_bits = key.key_data().rsa().map(rsa_size);
        if let Some(bits) = rsa_bits.filter(|bits| *bits < 2048) {
            return Err(Invalid::new(format!("RSA key of {bits} bits"), "make a new key with: ssh-keygen -t ed25519"));
        }
        Ok(Self { algorithm: algorithm.to_owned(), blob: blob.to_owned(), comment: comment.to_owned(), rsa_bits })
    }

    fn text(&self) -> String {
        self.line()
    }
}

/// Size in bits of the RSA key in a base64 blob; `None` when it is none, or does not decode.
pub fn rsa_bits_of(blob: &str) -> Option<u32> {
    let key = ssh_key::PublicKey::from_openssh(&format!("ssh-rsa {blob}")).ok()?;
    key.key_data().rsa().map(rsa_size)
}

fn rsa_size(key: &ssh_key::public::RsaPublicKey) -> u32 {
    let bytes = key.n().as_positive_bytes().unwrap_or_default();
    let top = bytes.first().map_or(0, |byte| byte.leading_zeros());
    u32::try_from(bytes.len() * 8).unwrap_or(u32::MAX).saturating_sub(top)
}

word_serde!(PublicKey);
