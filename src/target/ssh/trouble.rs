//! Why there is no connection, told apart: what to do next depends on it, and the text must say the right thing. A reset
//! is never "locked out", a refused key is never "down".

use std::fmt;

use crate::error::{Failure, Kind};

/// What kept a connection from coming about, or ended it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The name has no address.
    Resolve,
    /// Nothing listens there, or a firewall rejects.
    Refused,
    /// No answer at all: a firewall or a security group drops.
    Filtered,
    /// No route.
    Unreachable,
    /// The server hung up.
    Reset {
        /// Before it said that it speaks SSH: sshd's MaxStartups or a penalty, fail2ban, or no sshd at all.
        before_banner: bool,
    },
    /// sshd said that too many connections wait to log in (MaxStartups, before OpenSSH 9.8).
    Crowded,
    /// sshd said that it lets nobody in from this address for a while. OpenSSH 9.8 and later say the same words for a
    /// penalty (PerSourcePenalties) and for MaxStartups.
    Banned,
    /// What answers does not speak SSH, or breaks its rules.
    NotSsh,
    /// The host key is in no known_hosts file and not pinned.
    HostKeyUnknown {
        /// SHA256 fingerprint of the key it showed.
        fingerprint: String,
    },
    /// The host showed another key than the one that is known.
    HostKeyChanged {
        /// The file that knows another key; empty for a pinned one.
        file: String,
        /// Its line, from 1.
        line: usize,
    },
    /// The key is marked as revoked.
    HostKeyRevoked {
        /// The file that says so.
        file: String,
        /// Its line, from 1.
        line: usize,
    },
    /// The server offers weak algorithms only.
    NoCommonAlgorithm,
    /// No key and no password was taken.
    Credentials {
        /// The methods that the server offered last.
        offered: Vec<String>,
    },
    /// It took longer than allowed.
    Timeout,
    /// It sent more than a login needs.
    Flood,
    /// The ProxyCommand or a jump host did not lead there.
    Proxy,
    /// What was asked for, or a file of this side, is wrong: no connection was tried.
    Local,
    /// The connection ended later.
    Broken,
}

impl Trouble {
    /// True for what may be otherwise in a moment: a door that a run moves, a host that boots, a crowd before it.
    pub const fn passes(&self) -> bool {
        matches!(
            self,
            Self::Refused
                | Self::Filtered
                | Self::Unreachable
                | Self::Timeout
                | Self::Reset { .. }
                | Self::Crowded
                | Self::Broken
        )
    }
}

/// A [`Trouble`] with the text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setback {
    /// For the program.
    pub trouble: Trouble,
    /// For the reader.
    pub failure: Box<Failure>,
}

/// Shorthand in this module.
pub type Outcome<T> = std::result::Result<T, Setback>;

impl Setback {
    /// A setback at `place`: the host could not be looked at.
    pub fn new(trouble: Trouble, place: &str, what: impl Into<String>) -> Self {
        let kind = match trouble {
            Trouble::HostKeyChanged { .. } | Trouble::HostKeyRevoked { .. } | Trouble::HostKeyUnknown { .. } => {
                Kind::Refused
            }
            Trouble::Local => Kind::Input,
            _ => Kind::Unknown,
        };
        Self { trouble, failure: Box::new(Failure::new(kind, place, what)) }
    }

    /// Adds the reason; text of the other side is made safe.
    #[must_use]
    pub fn why(mut self, why: impl fmt::Display) -> Self {
        self.failure.why = crate::proof::wire::plain(&why.to_string());
        self
    }

    /// Adds the fix.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.failure.hint = hint.into();
        self
    }

    /// The same failure, after what had happened on the way.
    #[must_use]
    pub(super) fn after(mut self, notes: &[String]) -> Self {
        for note in notes {
            self.failure.why = format!("{}; {note}", self.failure.why);
        }
        self
    }

    /// The same failure, met on the way to another host.
    #[must_use]
    pub fn on_the_way_to(mut self, goal: &str) -> Self {
        self.failure.what = format!("{} (on the way to {goal})", self.failure.what);
        self
    }
}

impl From<Failure> for Setback {
    fn from(failure: Failure) -> Self {
        Self { trouble: Trouble::Local, failure: Box::new(failure) }
    }
}

impl From<Setback> for Failure {
    fn from(setback: Setback) -> Self {
        *setback.failure
    }
}

impl fmt::Display for Setback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(f)
    }
}

impl std::error::Error for Setback {}
