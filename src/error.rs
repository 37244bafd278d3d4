//! The one error type: what failed, where, why, and the command or edit that mends it.
//!
//! The [`Kind`] alone decides the exit code; the text never does.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What sort of failure this is; decides the exit code (see [`crate::outcome::Exit`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The command line, the playbook or a file it names is wrong.
    Input,
    /// keyward refuses: the host is in a state it must not touch, or the plan would take a way in away.
    Refused,
    /// Another run, the package manager or a lock holder has the host.
    Busy,
    /// The host could not be looked at, so nothing can be said about it.
    Unknown,
    /// A step, a gate or a proof failed while applying.
    Failed,
}

/// A failure as it is shown: `where: what: why`, then `help: hint`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: Kind,
    /// A file with line, a resource key or a program; empty when the whole run is meant.
    pub place: String,
    /// What is wrong, lower case, no full stop.
    pub what: String,
    /// Why, or empty.
    pub why: String,
    /// The fix: a command that can be run or an edit that can be made; empty if none is known.
    pub hint: String,
}

/// Shorthand used across the crate.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure of `kind` at `place`.
    pub fn new(kind: Kind, place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { kind, place: place.into(), what: what.into(), why: String::new(), hint: String::new() }
    }

    /// A wrong command line or playbook.
    pub fn input(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Kind::Input, place, what)
    }

    /// A refusal: nothing was changed.
    pub fn refused(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Kind::Refused, place, what)
    }

    /// The host could not be looked at.
    pub fn unknown(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Kind::Unknown, place, what)
    }

    /// A step, gate or proof failed.
    pub fn failed(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(Kind::Failed, place, what)
    }

    /// Adds the reason.
    #[must_use]
    pub fn why(mut self, why: impl fmt::Display) -> Self {
        self.why = why.to_string();
        self
    }

    /// Adds the fix.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The first line, without the hint.
    pub fn line(&self) -> String {
        [self.place.as_str(), self.what.as_str(), self.why.as_str()]
            .iter()
            .filter(|part| !part.is_empty())
            .copied()
            .collect::<Vec<_>>()
            .join(": ")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())?;
        if !self.hint.is_empty() {
            write!(f, "\n  help: {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
