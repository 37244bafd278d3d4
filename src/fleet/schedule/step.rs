//! What a schedule and its executor tell each other.

use std::collections::BTreeMap;

use super::Verdict;

/// What the store of an earlier controller tells of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It ended; it is not touched again.
    Ended(Verdict),
    /// It was started, and no end is recorded.
    Begun,
}

/// What the executor does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Start the rollout on this host.
    Start(usize),
    /// Ask this host what became of the run that an earlier controller began.
    Ask(usize),
    /// Interrupt this host: a run that is armed and not decided undoes itself. It still has to end.
    Cancel(usize),
    /// Nothing to do before something is told, or before that time.
    Wait {
        /// When to ask again at the latest; `None` when only something told leads on.
        until: Option<u64>,
    },
    /// Nothing runs, and nothing will.
    Done(Summary),
}

/// What came of a host that was started or asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is over.
    Is(Verdict),
    /// It is over because it was interrupted, and this is how it is then, which is a failure unless all was stopped.
    Cancelled(Verdict),
    /// It could not be reached for now, and nothing was changed; to be tried again, not before this time is over.
    Again {
        /// At least so long; a part that differs from host to host is added.
        after_ms: u64,
    },
    /// Nothing was begun there.
    NotBegun,
}

/// Why no host is started any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// A failure too many, or one in the first of several waves.
    Host {
        /// Where.
        host: usize,
        /// How it ended.
        verdict: Verdict,
    },
    /// A wave took too long.
    Wave {
        /// Which, the first one being 1.
        wave: usize,
    },
    /// Somebody wanted it.
    Asked(String),
}

/// How a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Number of hosts for each verdict that occurs.
    pub counts: BTreeMap<Verdict, usize>,
    /// Hosts that were started, by this controller or an earlier one.
    pub started: usize,
    /// Hosts that never were.
    pub never_started: usize,
    /// Set when it stopped before its end.
    pub stopped: Option<Stopped>,
}

impl Summary {
    /// Number of hosts that ended so.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.counts.get(&verdict).copied().unwrap_or(0)
    }
}
