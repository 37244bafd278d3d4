//! Signals that must not end a run half way: noticed by atomics, and let go again.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::error::{Failure, Result};

/// Set when Ctrl-C was typed.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// A rollout starts no host for now.
static PAUSED: AtomicBool = AtomicBool::new(false);

/// Keeps a hang-up, a closed terminal and a polite kill from ending the run; Ctrl-C is noticed instead.
pub struct Signals(());

extern "C" fn notice(signal: nix::libc::c_int) {
    match signal {
        nix::libc::SIGINT => INTERRUPTED.store(true, Ordering::Relaxed),
        nix::libc::SIGUSR1 => PAUSED.store(true, Ordering::Relaxed),
        nix::libc::SIGUSR2 => PAUSED.store(false, Ordering::Relaxed),
        _ => {}
    }
}

impl Signals {
    /// Takes the signals over. By handlers, since these end with exec(3): children start with the default actions, where
    /// blocked or ignored signals would stay so.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn hold() -> Result<Self> {
        let all = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGTSTP, Signal::SIGQUIT];
        Self::take(SigHandler::Handler(notice), &all)
    }

    /// For a controller: a closed terminal ends nothing, and the first Ctrl-C is noticed. Whatever the host says, the
    /// second one and a kill end it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn hold_once() -> Result<Self> {
        Self::take(SigHandler::Handler(notice), &[Signal::SIGHUP, Signal::SIGINT])
    }

    /// For a rollout over many hosts: like [`Signals::hold_once`], and SIGUSR1 begins a pause that SIGUSR2 ends.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn hold_rollout() -> Result<Self> {
        let all = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGUSR2];
        Self::take(SigHandler::Handler(notice), &all)
    }

    /// True in a pause.
    pub fn is_paused(&self) -> bool {
        PAUSED.load(Ordering::Relaxed)
    }

    /// From now on Ctrl-C ends the process.
    pub fn let_go(&self) {
        drop(Self::take(SigHandler::SigDfl, &[Signal::SIGINT]));
    }

    /// From now on none of them is noticed; what was, is forgotten.
    pub fn let_all_go(&self) {
        drop(Self::take(SigHandler::SigDfl, &[Signal::SIGHUP, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGUSR2]));
        INTERRUPTED.store(false, Ordering::Relaxed);
        PAUSED.store(false, Ordering::Relaxed);
    }

    fn take(handler: SigHandler, signals: &[Signal]) -> Result<Self> {
        let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
        for signal in signals {
            // SAFETY: the handler stores to an atomic and does nothing else, which is safe at any moment.
            #[allow(unsafe_code, reason = "nix marks all of sigaction(2) unsafe; the handler only stores to an atomic")]
            unsafe {
                sigaction(*signal, &action)
                    .map_err(|errno| Failure::refused("signals", "cannot be taken over").why(errno.desc()))?;
            }
        }
        Ok(Self(()))
    }

    /// True when Ctrl-C was typed, as long as nobody has looked.
    pub fn was_interrupted(&self) -> bool {
        INTERRUPTED.load(Ordering::Relaxed)
    }

    /// True when Ctrl-C was typed since the last look.
    pub fn interrupted(&self) -> bool {
        INTERRUPTED.swap(false, Ordering::Relaxed)
    }
}
