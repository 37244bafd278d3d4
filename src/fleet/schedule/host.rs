//! What a schedule keeps of one host.

use super::Verdict;

/// How one host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not started, as far as anybody knows.
    Fresh,
    /// Started, did not get through, is tried again.
    Tried,
    /// Begun by an earlier controller; its outcome is to be asked.
    Begun,
    Ended(Verdict),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Host {
    pub lane: usize,
    /// How often it was started or asked since it was told anything else than to try again.
    pub tries: u32,
    pub state: State,
}

/// A host that a step was given for, and whose end was not told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    pub is_asked: bool,
    /// When to interrupt it; `None` once that was asked for.
    pub limit: Option<u64>,
    /// Its place was given to another one.
    pub is_aside: bool,
}

/// Most hosts that run in all, for each place: those that say nothing included.
pub(super) const ASIDE: usize = 3;
