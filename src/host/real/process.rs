//! What this process inherited from whoever started it, put right before it does anything as root.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{getegid, geteuid, getgid, getuid};

use crate::error::{Failure, Result};

/// Makes the process fit for privileged work: umask 077, no core dumps, no file-size limit, no inherited descriptors
/// beyond the three standard ones, no ignored or blocked signals. Call it first, before any file or thread is opened.
///
/// The working directory stays, since paths on the command line are relative to it; children get `/`. Descriptors 0 to 2
/// are opened by the Rust runtime when they are closed. SIGPIPE stays ignored, so that a closed pipe on standard output
/// is an error and not the end of a run; children get its default action.
///
/// # Errors
/// Refused when the program runs with the rights of someone else (set-user-id), or under a hard file-size limit: a write
/// as root would then be cut off midway (RLIMIT_FSIZE in setrlimit(2)).
pub fn prepare_process() -> Result<()> {
    prepare_process_with(&[])
}

/// Like [`prepare_process`], but these inherited descriptors stay, for this process and no child of it.
///
/// # Errors
/// As of [`prepare_process`].
pub fn prepare_process_with(keep: &[i32]) -> Result<()> {
    if getuid() != geteuid() || getgid() != getegid() {
        return Err(Failure::refused("keyward", "must not be set-user-id or set-group-id")
            .hint("take the bits off and use sudo: chmod ug-s $(command -v keyward)"));
    }
    umask(Mode::from_bits_truncate(0o077));
    let limit = |what: Resource| {
        getrlimit(what)
            .map_err(|errno| Failure::unknown("keyward", "its resource limits cannot be read").why(errno.desc()))
    };
    let (soft, hard) = limit(Resource::RLIMIT_FSIZE)?;
    if hard != RLIM_INFINITY {
        return Err(Failure::refused("keyward", format!("runs under a hard file-size limit of {hard} bytes"))
            .why("a write could be cut off midway")
            .hint("start it without the limit: ulimit -f unlimited in a new login, or through systemd-run"));
    }
    let fail = |what: &str| {
        let what = what.to_owned();
        move |errno: nix::errno::Errno| Failure::refused("keyward", what).why(errno.desc()).hint("run keyward as root")
    };
    if soft != hard {
        setrlimit(Resource::RLIMIT_FSIZE, hard, hard).map_err(fail("cannot lift its file-size limit"))?;
    }
    let (_, core) = limit(Resource::RLIMIT_CORE)?;
    setrlimit(Resource::RLIMIT_CORE, 0, core).map_err(fail("cannot switch off core dumps"))?;
    if geteuid().is_root() {
        // A plain user's own files in /proc would become root's by it, its id maps among them (proc(5)).
        nix::sys::prctl::set_dumpable(false).map_err(fail("cannot switch off core dumps"))?;
    }
    default_signals().map_err(fail("cannot take up signals again"))?;
    close_inherited(keep);
    Ok(())
}

/// For a process of a plain user that holds secrets: no other program of the user's may look into it, and no core file is
/// written of it, also by a program that the kernel hands it to and that passes over the limit (core(5)).
///
/// # Errors
/// When the kernel refuses.
pub fn keep_to_itself() -> Result<()> {
    nix::sys::prctl::set_dumpable(false)
        .map_err(|errno| Failure::refused("keyward", "cannot switch off core dumps").why(errno.desc()))
}

/// sudo and nohup hand down ignored signals; children would ignore them too (signal(7)).
fn default_signals() -> nix::Result<()> {
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGCHLD] {
        // SAFETY: SIG_DFL installs no handler, so no code can run in signal context.
        #[allow(unsafe_code, reason = "the default action runs no code; nix marks all of signal(2) unsafe")]
        unsafe {
            nix::sys::signal::signal(signal, SigHandler::SigDfl)?;
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// A descriptor left open by the caller would stay open in every daemon that is started.
fn close_inherited(keep: &[i32]) {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())).collect();
    // The listing's own descriptor is closed by now, and closing it again only gives EBADF.
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        if keep.contains(&fd) {
            // SAFETY: the descriptor was inherited and is used by nobody yet; only its flag is set.
            #[allow(unsafe_code, reason = "a number that was given on the command line is borrowed for one call")]
            let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
            let flag = nix::fcntl::FdFlag::FD_CLOEXEC;
            let _ = nix::fcntl::fcntl(borrowed, nix::fcntl::FcntlArg::F_SETFD(flag));
            continue;
        }
        let _ = nix::unistd::close(fd);
    }
}
