//! known_hosts as OpenSSH reads it: patterns, negation, hashed names, ports, `@revoked` and `@cert-authority`. A file
//! that cannot be read is an error and never "no keys" (a line that makes no sense is passed over, as by ssh), and a host with known keys that shows another one has changed. Judges only;
//! the one thing it writes is a line that the user asked for.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit as _, Mac as _};
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::known_hosts::HostPatterns;
use russh::keys::{Algorithm, Certificate, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate};
use sha1::Sha1;

use super::config::FILE_LIMIT;
use super::config_file::matches;
use crate::error::{Failure, Result};

/// What the files say about a key that a host has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is this host's.
    Known,
    /// Nothing is known of this host.
    Unknown,
    /// Another key is known, or a certificate authority that did not sign this one.
    Changed {
        /// The file that knows.
        file: String,
        /// Its line, from 1.
        line: usize,
    },
    /// The key, or the authority that signed it, is marked as revoked.
    Revoked {
        /// The file that says so.
        file: String,
        /// Its line, from 1.
        line: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    None,
    Authority,
    Revoked,
}

#[derive(Debug, Clone)]
struct Entry {
    file: String,
    line: usize,
    mark: Mark,
    key: PublicKey,
}

/// The lines that speak of one host.
#[derive(Debug, Clone, Default)]
pub struct Known {
    name: String,
    entries: Vec<Entry>,
}

/// Key types in the order of preference; RSA with SHA-2 only.
const ALGORITHMS: [Algorithm; 6] = [
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

fn same_kind(algorithm: &Algorithm, key: &PublicKey) -> bool {
    match (algorithm, key.algorithm()) {
        (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => true,
        (algorithm, of_key) => *algorithm == of_key,
    }
}

impl Known {
    /// What `files` know of `name` (in lower case) at `port`.
    ///
    /// # Errors
    /// When a file is there and cannot be read, or a line that revokes a key cannot.
    pub fn read(files: &[PathBuf], name: &str, port: u16) -> Result<Self> {
        let mut known = Self { name: name.to_owned(), entries: Vec::new() };
        let names = if port == 22 { vec![name.to_owned()] } else { vec![format!("[{name}]:{port}"), name.to_owned()] };
        let texts: Vec<(String, String)> = files.iter().map(|file| text_of(file)).collect::<Result<Vec<_>>>()?;
        for name in &names {
            // A key of the host itself counts at any port, as ssh has it, unless the port has one of its own.
            let settled = !known.is_empty();
            for (file, text) in &texts {
                known.add(file, text, name, settled)?;
            }
        }
        Ok(known)
    }

    /// Adds the lines that speak of `name`; when `settled`, its revocations only.
    fn add(&mut self, file: &str, text: &str, name: &str, settled: bool) -> Result<()> {
        for (index, line) in text.lines().enumerate() {
            let line_number = index + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let Some(first) = words.next() else { continue };
            let (mark, hosts) = match first {
                "@revoked" => (Mark::Revoked, words.next()),
                "@cert-authority" => (Mark::Authority, words.next()),
                word if word.starts_with('@') => continue,
                word => (Mark::None, Some(word)),
            };
            let key = match (words.next(), words.next()) {
                (Some(kind), Some(blob)) => PublicKey::from_openssh(&format!("{kind} {blob}")).ok(),
                _ => None,
            };
            let about = hosts.is_some_and(|hosts| speaks_of(hosts, name));
            match key {
                Some(key) if about && (mark == Mark::Revoked || !settled) => {
                    self.entries.push(Entry { file: file.to_owned(), line: line_number, mark, key })
                }
                Some(_) => {}
                // A key of a type that nobody here can check is never shown to us either; a revocation is another thing.
                None if mark == Mark::Revoked && about => {
                    return Err(Failure::refused(format!("{file}:{line_number}"), "a revoked key cannot be read")
                        .why("so no key can be told from it")
                        .hint("mend or remove the line"));
                }
                None => {}
            }
        }
        Ok(())
    }

    fn keys(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.mark == Mark::None)
    }

    fn authorities(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.mark == Mark::Authority)
    }

    /// True when nothing but revocations is known.
    pub fn is_empty(&self) -> bool {
        self.keys().next().is_none() && self.authorities().next().is_none()
    }

    /// The key types to ask the server for: those that can be checked, or all where nothing is known.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        if self.keys().next().is_none() {
            return ALGORITHMS.to_vec();
        }
        ALGORITHMS.into_iter().filter(|kind| self.keys().any(|entry| same_kind(kind, &entry.key))).collect()
    }

    /// The certificate types to ask for: none where no authority is known.
    pub(super) fn certificate_algorithms(&self) -> Vec<Algorithm> {
        if self.authorities().next().is_none() { Vec::new() } else { ALGORITHMS.to_vec() }
    }

    /// What the files say about the key shown. `now` is in seconds since 1970.
    pub fn judge(&self, shown: &PublicKeyOrCertificate, now: u64) -> Verdict {
        let key = shown.public_key();
        let same = |entry: &&Entry| entry.key.key_data() == key.key_data();
        let signer = shown.certificate().map(Certificate::signature_key);
        let revoked = |entry: &&Entry| {
            entry.mark == Mark::Revoked && (same(entry) || signer.is_some_and(|signer| entry.key.key_data() == signer))
        };
        if let Some(entry) = self.entries.iter().find(revoked) {
            return Verdict::Revoked { file: entry.file.clone(), line: entry.line };
        }
        let known = match shown.certificate() {
            Some(certificate) => self.authorities().any(|entry| self.vouches(entry, certificate, now)),
            None => self.keys().any(|entry| same(&entry)),
        };
        match self.keys().chain(self.authorities()).next() {
            _ if known => Verdict::Known,
            Some(entry) => Verdict::Changed { file: entry.file.clone(), line: entry.line },
            None => Verdict::Unknown,
        }
    }

    /// True when the certificate is of this authority, for a host, for this name, now, and asks for nothing more.
    fn vouches(&self, authority: &Entry, certificate: &Certificate, now: u64) -> bool {
        let fingerprint = authority.key.fingerprint(HashAlg::Sha256);
        certificate.cert_type() == CertType::Host
            && certificate.signature_key() == authority.key.key_data()
            && certificate.validate_at(now, [&fingerprint]).is_ok()
            && certificate.valid_principals().iter().any(|name| matches(&name.to_ascii_lowercase(), &self.name))
            && certificate.critical_options().is_empty()
    }
}

/// Name and text of a file; a missing one is empty.
fn text_of(file: &Path) -> Result<(String, String)> {
    let name = file.display().to_string();
    let cannot = |why: String| {
        Failure::refused(&name, "known_hosts cannot be read, so no host key can be judged")
            .why(why)
            .hint(format!("ls -l {name}"))
    };
    let opened = match std::fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((name, String::new())),
        Err(error) => return Err(cannot(error.to_string())),
    };
    let meta = opened.metadata().map_err(|error| cannot(error.to_string()))?;
    // /dev/null is how people say "no such file".
    if !meta.is_file() && file != Path::new("/dev/null") {
        return Err(cannot("it is no regular file".to_owned()));
    }
    if meta.len() > FILE_LIMIT {
        return Err(cannot(format!("more than {FILE_LIMIT} bytes")));
    }
    let mut bytes = Vec::new();
    opened.take(FILE_LIMIT).read_to_end(&mut bytes).map_err(|error| cannot(error.to_string()))?;
    Ok((name, String::from_utf8_lossy(&bytes).into_owned()))
}

/// True when the host field of a line means `name`, in lower case.
fn speaks_of(hosts: &str, name: &str) -> bool {
    if hosts.starts_with('|') {
        let Ok(HostPatterns::HashedName { salt, hash }) = hosts.parse() else { return false };
        let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(&salt) else { return false };
        mac.update(name.as_bytes());
        return mac.verify_slice(&hash).is_ok();
    }
    let mut found = false;
    for pattern in hosts.split(',') {
        match pattern.strip_prefix('!') {
            Some(negated) if matches(&negated.to_ascii_lowercase(), name) => return false,
            Some(_) => {}
            None => found |= matches(&pattern.to_ascii_lowercase(), name),
        }
    }
    found
}

/// Adds a plain line for a key that the user accepted, durable before the connection goes on.
///
/// # Errors
/// When it cannot be written: the key is then not accepted either.
pub(super) fn accept(file: &Path, name: &str, port: u16, key: &PublicKey) -> Result<String> {
    let shown = file.display().to_string();
    let cannot = |error: std::io::Error| {
        Failure::failed(&shown, "the host key cannot be added").why(error).hint(format!("ls -l {shown}"))
    };
    let host = if port == 22 { name.to_owned() } else { format!("[{name}]:{port}") };
    let bare = PublicKey::new(key.key_data().clone(), "");
    let text = bare.to_openssh().map_err(|error| cannot(std::io::Error::other(error.to_string())))?;
    if let Some(parent) = file.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(cannot)?;
    }
    let mut opened =
        std::fs::OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(file).map_err(cannot)?;
    // A last line without an end would swallow ours.
    let mut last = [b'\n'];
    if opened.seek(SeekFrom::End(-1)).is_ok() {
        opened.read_exact(&mut last).map_err(cannot)?;
    }
    let line = format!("{host} {}\n", text.trim());
    let line = if last == [b'\n'] { line } else { format!("\n{line}") };
    opened.write_all(line.as_bytes()).and_then(|()| opened.sync_all()).map_err(cannot)?;
    Ok(format!("the host key of {host}, {}, was added to {shown}", key.fingerprint(HashAlg::Sha256)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use russh::keys::PrivateKey;
    use russh::keys::ssh_key::certificate::Builder;

    use super::*;

    fn fresh() -> PrivateKey {
        PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap()
    }

    fn text(key: &PrivateKey) -> String {
        PublicKey::new(key.public_key().key_data().clone(), "").to_openssh().unwrap()
    }

    fn known(lines: &str, name: &str, port: u16) -> Result<Known> {
        let mut known = Known { name: name.to_owned(), entries: Vec::new() };
        let names = if port == 22 { vec![name.to_owned()] } else { vec![format!("[{name}]:{port}"), name.to_owned()] };
        for name in names {
            let settled = !known.is_empty();
            known.add("f", lines, &name, settled)?;
        }
        Ok(known)
    }

    fn plain(key: &PrivateKey) -> PublicKeyOrCertificate {
        key.public_key().clone().into()
    }

    #[test]
    fn a_table_of_lines() {
        let (key, other) = (fresh(), fresh());
        let (k, o) = (text(&key), text(&other));
        let changed = |line| Verdict::Changed { file: "f".into(), line };
        let revoked = |line| Verdict::Revoked { file: "f".into(), line };
        // Of some other name.
        let hashed = "|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg=";
        let cases: Vec<(String, &str, u16, Verdict)> = vec![
            (String::new(), "host", 22, Verdict::Unknown),
            (format!("host {k}"), "host", 22, Verdict::Known),
            (format!("HOST\t {k} comment with  spaces"), "host", 22, Verdict::Known),
            (format!("host {o}"), "host", 22, changed(1)),
            (format!("# x\n\nhost {o}\nhost {k}"), "host", 22, Verdict::Known),
            (format!("hos {k}"), "host", 22, Verdict::Unknown),
            (format!("*.example,!bad.example {k}"), "a.example", 22, Verdict::Known),
            (format!("*.example,!bad.example {k}"), "bad.example", 22, Verdict::Unknown),
            (format!("!bad.example,*.example {k}"), "bad.example", 22, Verdict::Unknown),
            (format!("h?st,203.0.113.1 {k}"), "host", 22, Verdict::Known),
            (format!("host,203.0.113.1 {k}"), "203.0.113.1", 22, Verdict::Known),
            (format!("[host]:2222 {k}"), "host", 2222, Verdict::Known),
            (format!("[host]:2222 {k}"), "host", 22, Verdict::Unknown),
            (format!("[host]:2222 {k}"), "host", 2223, Verdict::Unknown),
            (format!("[host]:2222 {o}\nhost {k}"), "host", 2222, changed(1)),
            (format!("host {k}"), "host", 2222, Verdict::Known),
            (format!("[*]:2222 {k}"), "host", 2222, Verdict::Known),
            (format!("[2001:db8::1]:2222 {k}"), "2001:db8::1", 2222, Verdict::Known),
            (format!("2001:db8::1 {k}"), "2001:db8::1", 22, Verdict::Known),
            (format!("@revoked * {k}\nhost {k}"), "host", 22, revoked(1)),
            (format!("host {k}\n@revoked host {k}"), "host", 22, revoked(2)),
            (format!("@revoked other {k}\nhost {k}"), "host", 22, Verdict::Known),
            (format!("@revoked host {k}\n[host]:2222 {o}"), "host", 22, revoked(1)),
            (format!("@revoked host {k}\n[host]:2222 {k}"), "host", 2222, revoked(1)),
            (format!("@revoked host {o}"), "host", 22, Verdict::Unknown),
            (format!("@cert-authority host {k}"), "host", 22, changed(1)),
            (format!("@something host {k}"), "host", 22, Verdict::Unknown),
            (format!("host {}", k.replace("ssh-ed25519", "ssh-rsa")), "host", 22, Verdict::Unknown),
            ("host ssh-mldsa44-ed25519 AAAA".to_owned(), "host", 22, Verdict::Unknown),
            ("host".to_owned(), "host", 22, Verdict::Unknown),
            ("host 1024 35 1234".to_owned(), "host", 22, Verdict::Unknown),
            (format!("|1|bad|x {k}"), "host", 22, Verdict::Unknown),
            (format!("|1|| {k}"), "host", 22, Verdict::Unknown),
            (format!("{hashed} {k}"), "other", 22, Verdict::Unknown),
            (format!("{} {k}", "*".repeat(5000)), "host", 22, Verdict::Known),
        ];
        for (lines, name, port, expected) in cases {
            let judged = known(&lines, name, port).unwrap().judge(&plain(&key), 0);
            assert_eq!(judged, expected, "{name}:{port} in {lines:.80}");
        }
        assert!(known("@revoked host ssh-ed25519 AAAA", "host", 22).is_err(), "a revocation that cannot be read");
        assert!(known("@revoked other ssh-ed25519 AAAA", "host", 22).is_ok());
    }

    #[test]
    fn a_hashed_name_is_found() {
        let key = fresh();
        let mut mac = Hmac::<Sha1>::new_from_slice(b"twenty bytes of salt").unwrap();
        mac.update(b"[host]:2222");
        let hash: [u8; 20] = mac.finalize().into_bytes().into();
        let field = HostPatterns::HashedName { salt: b"twenty bytes of salt".to_vec(), hash }.to_string();
        let lines = format!("{field} {}", text(&key));
        assert_eq!(known(&lines, "host", 2222).unwrap().judge(&plain(&key), 0), Verdict::Known);
        assert_eq!(known(&lines, "host", 22).unwrap().judge(&plain(&key), 0), Verdict::Unknown);
    }

    #[test]
    fn certificates_need_authority_name_kind_and_time() {
        let (authority, host) = (fresh(), fresh());
        let certificate = |kind: CertType, principal: &str, critical: bool| {
            let mut builder =
                Builder::new_with_random_nonce(&mut russh::keys::key::safe_rng(), host.public_key(), 100, 200).unwrap();
            builder.cert_type(kind).unwrap().key_id("x").unwrap();
            if principal.is_empty() {
                builder.all_principals_valid().unwrap()
            } else {
                builder.valid_principal(principal).unwrap()
            };
            if critical {
                builder.critical_option("force", "x").unwrap();
            }
            PublicKeyOrCertificate::from(builder.sign(&authority).unwrap())
        };
        let lines = format!("@cert-authority *.example {}", text(&authority));
        let known_to = known(&lines, "a.example", 2222).unwrap();
        let good = certificate(CertType::Host, "a.example", false);
        assert_eq!(known_to.judge(&good, 150), Verdict::Known);
        assert_eq!(known_to.judge(&certificate(CertType::Host, "*.example", false), 150), Verdict::Known);
        for (what, shown, now) in [
            ("early", good, 99),
            ("late", certificate(CertType::Host, "a.example", false), 200),
            ("a user's", certificate(CertType::User, "a.example", false), 150),
            ("another's", certificate(CertType::Host, "b.example", false), 150),
            ("anybody's", certificate(CertType::Host, "", false), 150),
            ("with a condition", certificate(CertType::Host, "a.example", true), 150),
        ] {
            assert_ne!(known_to.judge(&shown, now), Verdict::Known, "{what}");
        }
        let good = certificate(CertType::Host, "a.example", false);
        let lines = format!("{lines}\n@revoked * {}", text(&authority));
        assert!(matches!(known(&lines, "a.example", 22).unwrap().judge(&good, 150), Verdict::Revoked { line: 2, .. }));
        // A plain line with the certificate's key does not vouch for a certificate, and no authority means no offer.
        let lines = format!("a.example {}", text(&host));
        let known_to = known(&lines, "a.example", 22).unwrap();
        assert_ne!(known_to.judge(&good, 150), Verdict::Known);
        assert!(known_to.certificate_algorithms().is_empty() && known_to.algorithms() == [Algorithm::Ed25519]);
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        let key = fresh();
        let mut state = 1_u64;
        for _ in 0..2000 {
            let mut line = String::new();
            for _ in 0..40 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let alphabet = [
                    "host",
                    " ",
                    "*",
                    "?",
                    "!",
                    ",",
                    "[",
                    "]",
                    ":",
                    "22",
                    "|1|",
                    "|",
                    "=",
                    "@revoked",
                    "\t",
                    "\n",
                    "ssh-ed25519",
                    "AAAA",
                    "\u{0}",
                    "é",
                ];
                line.push_str(alphabet[(state >> 33) as usize % alphabet.len()]);
            }
            if let Ok(found) = known(&line, "host", 22) {
                assert_ne!(found.judge(&plain(&key), 0), Verdict::Known, "{line:?}");
            }
        }
    }

    #[test]
    fn what_is_accepted_is_a_line_of_its_own() {
        let dir = std::env::temp_dir().join(format!("keyward-known-{}", std::process::id()));
        let file = dir.join("deep/known_hosts");
        let (one, two) = (fresh(), fresh());
        accept(&file, "one", 22, one.public_key()).unwrap();
        std::fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(b"# no end").unwrap();
        let said = accept(&file, "two", 2222, two.public_key()).unwrap();
        assert!(said.contains("[two]:2222") && said.contains("SHA256:"), "{said}");
        let lines = std::fs::read_to_string(&file).unwrap();
        assert_eq!(lines, format!("one {}\n# no end\n[two]:2222 {}\n", text(&one), text(&two)));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        let files = [file.clone(), "/dev/null".into(), dir.join("missing")];
        assert_eq!(Known::read(&files, "two", 2222).unwrap().judge(&plain(&two), 0), Verdict::Known);
        assert!(Known::read(std::slice::from_ref(&dir), "two", 22).is_err(), "a directory is no empty file");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
