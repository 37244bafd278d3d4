//! How the rollout ended on one host.

use serde::{Deserialize, Serialize};

use crate::outcome::Exit;

/// How one host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As asked, and proven.
    Done,
    /// As asked already, nothing was changed.
    Unchanged,
    /// Applied, unverified (9).
    Unverified,
    /// Failed and rolled back (3).
    RolledBack,
    /// Failed, and the rollback is incomplete (4).
    Incomplete,
    /// Refused, nothing was changed (5, 1).
    Refused,
    /// Another run or the package manager has the host (6).
    Busy,
    /// The host cannot be judged (7).
    Unknown,
    /// Waits for a confirmation (8).
    Pending,
    /// Not reached, nothing was changed.
    Unreachable,
    /// Interrupted because the rollout stopped.
    Cancelled,
}

impl Verdict {
    /// All verdicts, in order.
    pub const ALL: [Self; 11] = [
        Self::Done,
        Self::Unchanged,
        Self::Unverified,
        Self::RolledBack,
        Self::Incomplete,
        Self::Refused,
        Self::Busy,
        Self::Unknown,
        Self::Pending,
        Self::Unreachable,
        Self::Cancelled,
    ];

    /// The verdict on an apply that ended so, with this many changes made. A code that no apply ends with tells nothing.
    pub const fn of(exit: Exit, changes: usize) -> Self {
        match exit {
            Exit::AsAsked if changes == 0 => Self::Unchanged,
            Exit::AsAsked => Self::Done,
            Exit::Usage | Exit::Refused => Self::Refused,
            Exit::Differs | Exit::CannotJudge => Self::Unknown,
            Exit::RolledBack => Self::RolledBack,
            Exit::RollbackIncomplete => Self::Incomplete,
            Exit::Busy => Self::Busy,
            Exit::Pending => Self::Pending,
            Exit::Unverified => Self::Unverified,
        }
    }

    /// True for what counts towards the stop rule.
    pub const fn is_failure(self) -> bool {
        !matches!(self, Self::Done | Self::Unchanged | Self::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apply_that_ends_well_is_the_only_success() {
        for (exit, _) in Exit::TABLE {
            for changes in [0, 3] {
                let verdict = Verdict::of(exit, changes);
                assert_eq!(verdict.is_failure(), exit != Exit::AsAsked, "{verdict:?}");
                assert_eq!(verdict == Verdict::Unchanged, exit == Exit::AsAsked && changes == 0);
            }
        }
        assert!(!Verdict::Cancelled.is_failure() && Verdict::Unreachable.is_failure());
    }
}
