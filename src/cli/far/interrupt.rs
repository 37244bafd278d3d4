//! Who may want a run undone while it is under way: somebody at the keyboard, or whoever drives many hosts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::super::signals::Signals;

/// The wish of whoever drives many hosts, and whether it was heeded; and whether the host was reached at all.
#[derive(Debug, Default)]
pub struct Wish(AtomicU8, AtomicBool);

/// Nobody wants it undone.
const NONE: u8 = 0;
/// Somebody does.
const ASKED: u8 = 1;
/// It was seen in time to do something about it.
const HEEDED: u8 = 2;

impl Wish {
    /// From now on the run is to be undone, or not to begin.
    pub fn ask(&self) {
        let _ = self.0.compare_exchange(NONE, ASKED, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// True once somebody asked.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) != NONE
    }

    /// True once the host has let us in.
    pub fn is_reached(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }

    /// True once the wish was seen by the one who can fulfil it.
    pub fn is_heeded(&self) -> bool {
        self.0.load(Ordering::Relaxed) == HEEDED
    }
}

/// Where the wish comes from.
pub enum Interrupt {
    /// Ctrl-C; the signals are held from the moment at which the host acts.
    Keyboard(Option<Signals>),
    /// Set by somebody else in this process.
    Flag(Arc<Wish>),
}

impl Interrupt {
    /// Nobody has asked yet; Ctrl-C ends the process until [`Interrupt::hold`].
    pub const fn keyboard() -> Self {
        Self::Keyboard(None)
    }

    /// From here on the host acts, and a Ctrl-C is a wish to undo, not an end.
    pub fn hold(&mut self) {
        if let Self::Keyboard(signals) = self {
            *signals = signals.take().or_else(|| Signals::hold_once().ok());
        }
    }

    /// True once for each wish. The next Ctrl-C ends the process: the host could keep us here for long.
    pub fn taken(&self) -> bool {
        match self {
            Self::Keyboard(Some(signals)) if signals.interrupted() => {
                signals.let_go();
                true
            }
            Self::Keyboard(_) => false,
            Self::Flag(wish) => wish.0.compare_exchange(ASKED, HEEDED, Ordering::Relaxed, Ordering::Relaxed).is_ok(),
        }
    }

    /// True while there is a wish that nobody has looked at.
    pub fn waits(&self) -> bool {
        match self {
            Self::Keyboard(signals) => signals.as_ref().is_some_and(Signals::was_interrupted),
            Self::Flag(wish) => wish.is_asked(),
        }
    }

    /// True where other hosts wait for the place of this one.
    pub const fn is_of_many(&self) -> bool {
        matches!(self, Self::Flag(_))
    }

    /// The host has let us in.
    pub fn reached(&self) {
        if let Self::Flag(wish) = self {
            wish.1.store(true, Ordering::Relaxed);
        }
    }

    /// What is said of it.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Keyboard(_) => "interrupted at the keyboard",
            Self::Flag(_) => "the rollout was stopped, or this host took too long",
        }
    }
}
