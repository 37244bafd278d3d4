//! Host keys that are missing, and those that are there and do not load. The first are made as the package makes them;
//! the others are the administrator's to mend, since clients know the host by them. Must not replace a key, and must not
//! remove one that keyward did not make.

use crate::change::{Inverse, Step};
use crate::error::{Failure, Result};
use crate::formats::sshd_config::Tree;
use crate::host::{Actor, Command, FileKind, Meta, Probe};
use crate::types::{AbsPath, Word as _};

/// What sshd loads without a HostKey line.
const KINDS: [&str; 3] = ["rsa", "ecdsa", "ed25519"];

/// The key files that sshd is to load, when it loads none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostKeys(Vec<KeyFile>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct KeyFile {
    path: AbsPath,
    /// Who names it: a HostKey line, or nobody.
    place: Option<String>,
    /// What stands there.
    meta: Option<Meta>,
    /// Whether a public half stands beside it.
    public: bool,
}

/// Looks at the files that sshd would load.
///
/// # Errors
/// When a file cannot be looked at.
pub fn look(probe: &dyn Probe, tree: &Tree) -> Result<HostKeys> {
    let lines = tree.flatten().into_iter().filter(|item| item.is_global() && item.directive.keyword == "hostkey");
    let mut named: Vec<(AbsPath, Option<String>)> = lines
        .filter_map(|item| Some((AbsPath::parse(item.directive.args.first()?).ok()?, Some(item.place()))))
        .collect();
    if named.is_empty() {
        named = KINDS.iter().filter_map(|kind| Some((usual(kind)?, None))).collect();
    }
    let mut files = Vec::new();
    for (path, place) in named {
        let meta = probe.meta(&path, &Actor::Root)?;
        let public = match public(&path) {
            Some(public) => probe.meta(&public, &Actor::Root)?.is_some(),
            None => false,
        };
        files.push(KeyFile { path, place, meta, public });
    }
    Ok(HostKeys(files))
}

/// Where a kind of key is by default.
fn usual(kind: &str) -> Option<AbsPath> {
    AbsPath::parse(&format!("/etc/ssh/ssh_host_{kind}_key")).ok()
}

fn public(path: &AbsPath) -> Option<AbsPath> {
    AbsPath::parse(&format!("{path}.pub")).ok()
}

impl KeyFile {
    /// The kind to make, where the path tells it.
    fn kind(&self) -> Option<&'static str> {
        KINDS.into_iter().find(|kind| usual(kind).as_ref() == Some(&self.path))
    }

    /// Why sshd passes over a key that is there, as far as its file tells, and the fix.
    fn does_not_load(&self) -> Option<Failure> {
        let meta = self.meta.as_ref()?;
        let path = &self.path;
        let refused = |what: String| Failure::refused(path.as_str(), what);
        Some(match meta.kind {
            FileKind::File if meta.uid == 0 && meta.mode & 0o077 != 0 => {
                refused(format!("sshd does not load this host key: its mode is {:04o}", meta.mode))
                    .why("it passes over private keys that others than root may read or write")
                    .hint(format!("chmod 600 {path}; when others could read it, replace it with a new key"))
            }
            FileKind::File if meta.size == 0 => refused("this host key is empty".to_owned())
                .why("sshd does not load it, and nothing tells what it was")
                .hint(format!("rm {path} {path}.pub, and keyward makes a new one")),
            FileKind::File => refused(format!("sshd does not load this host key (mode {:04o})", meta.mode))
                .why("the file is damaged or asks for a passphrase, and clients know the host by this key")
                .hint(format!("see what it is with: ssh-keygen -l -f {path}; put the right one back or move it away")),
            FileKind::Dir | FileKind::Link | FileKind::Other => refused("sshd loads no host key from here".to_owned())
                .why("it is not a regular file, and keyward replaces no link and no directory by a key")
                .hint(format!("see what it is with: ls -lL {path}, and mend or remove it")),
        })
    }

    /// Nothing stands here, and nothing is put here either.
    fn cannot_be_made(&self) -> Failure {
        let path = &self.path;
        let place = self.place.clone().unwrap_or_else(|| path.as_str().to_owned());
        let failure = Failure::refused(place, format!("the host key {path} is missing"));
        if self.public {
            return failure
                .why("public halves of the missing keys are still there, and a new key would be written over them")
                .hint(format!("put the private half back, or: rm {path}.pub, and keyward makes a new key"));
        }
        failure
            .why("sshd starts with none of the keys that its HostKey lines name")
            .hint(format!("make it with: ssh-keygen -q -t ed25519 -N '' -f {path}, or take the line out"))
    }
}

impl HostKeys {
    /// The steps that make what is missing.
    ///
    /// # Errors
    /// `Refused` when a key is there and does not load, or when none can be made without a guess.
    pub fn steps(&self) -> Result<Vec<Step>> {
        if let Some(failure) = self.0.iter().find_map(KeyFile::does_not_load) {
            return Err(failure);
        }
        let mut steps = Vec::new();
        // ssh-keygen would write over a public half that was left behind, and no undo would bring it back.
        for file in self.0.iter().filter(|file| !file.public) {
            let (Some(kind), Some(public)) = (file.kind(), public(&file.path)) else { continue };
            let path = &file.path;
            let make = ["/usr/bin/ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path.as_str()];
            let unmake = ["/bin/rm", "-f", "--", path.as_str(), public.as_str()];
            let (command, unmake) = (Command::new(make), Command::new(unmake));
            steps.push(Step::Run { command, inverse: Inverse::Command(unmake) });
        }
        match self.0.first() {
            Some(file) if steps.is_empty() => Err(file.cannot_be_made()),
            _ => Ok(steps),
        }
    }
}
