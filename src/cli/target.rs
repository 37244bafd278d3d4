//! Which host a verb is about, as it was typed.

use std::path::PathBuf;

use super::far::args::destination;
use crate::target::container::Named;
use crate::target::ssh::Destination;

/// Which host is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetArg {
    /// This machine.
    Local,
    /// A throw-away copy of it.
    Sandbox,
    /// A tree.
    Rootfs(PathBuf),
    /// A host over SSH; see [`Global::far`].
    Ssh(Destination),
    /// A container, or one of an image.
    Container(Named),
}

impl TargetArg {
    /// `local`, `sandbox`, `rootfs:DIR`, `docker:NAME`, `podman:NAME`, `image:REF` or `ssh://...`.
    ///
    /// # Errors
    /// What can be written instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        match (text, text.split_once(':')) {
            ("local", _) => Ok(Self::Local),
            ("sandbox", _) => Ok(Self::Sandbox),
            (_, Some(("rootfs", dir))) if !dir.is_empty() => Ok(Self::Rootfs(PathBuf::from(dir))),
            (_, Some(("ssh", _))) => destination(text).map(Self::Ssh),
            _ => Named::parse(text).map(Self::Container).ok_or_else(|| {
                "write local, sandbox, rootfs:DIR, docker:NAME, podman:NAME, image:REF or ssh://USER@HOST".to_owned()
            }),
        }
    }
}
