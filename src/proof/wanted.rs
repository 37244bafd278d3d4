//! What a plan's promises come to, sorted by what has to be tried. Pure.

use crate::change::Promise;
use crate::types::{Port, UserName};

/// What the promises come to.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Administrators, and whether their sudo asks no password.
    pub(super) admins: Vec<(UserName, bool)>,
    /// Where sshd must answer.
    pub(super) ports: Vec<Port>,
    /// Where it must not.
    pub(super) closed: Vec<Port>,
    /// `Some(true)`: no method at all.
    pub(super) root_refused: Option<bool>,
    /// Nobody may try a password.
    pub(super) passwords_refused: bool,
    /// What the firewall lets in.
    pub(super) open: Option<Vec<Port>>,
}

impl Wanted {
    pub(super) fn of(promises: &[Promise]) -> Self {
        let mut wanted = Self::default();
        for promise in promises {
            match promise {
                Promise::Admin { user, nopasswd } => wanted.admins.push((user.clone(), *nopasswd)),
                Promise::SshPort { port } => wanted.ports.push(*port),
                Promise::SshPortClosed { port } => wanted.closed.push(*port),
                Promise::RootRefused { entirely } => {
                    wanted.root_refused = Some(*entirely || wanted.root_refused == Some(true));
                }
                // Nobody here holds a key or a password of such an account.
                Promise::SomebodyElse { .. } | Promise::Key { .. } => {}
                Promise::PasswordsRefused => wanted.passwords_refused = true,
                Promise::Firewall { open } => wanted.open.get_or_insert_default().extend(open),
            }
        }
        wanted
    }

    pub(super) fn needs_sshd(&self) -> bool {
        !self.admins.is_empty() || !self.ports.is_empty() || self.root_refused.is_some() || self.passwords_refused
    }
}
