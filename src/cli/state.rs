//! Where keyward keeps its own state on a host: journals, lock and audit log, and who may look at them.

use std::path::Path;

use crate::error::{Failure, Result};
use crate::host::ledger::{FileLedger, Ledger, MemoryLedger};
use crate::host::shelf::DirShelf;
use crate::types::AbsPath;

use super::args::Global;
use super::target::TargetArg;

/// Journals and the head of the audit log; 0700.
pub const STATE: &str = "/var/lib/keyward";
/// Where in it the journals are.
pub const RUNS: &str = "/var/lib/keyward/runs";
/// The lock; 0700, gone with a reboot.
pub const RUN: &str = "/run/keyward";
/// The audit log; 0600, the one thing `uninstall` leaves.
pub const AUDIT: &str = "/var/log/keyward/audit.jsonl";

const LOCK: &str = "/run/keyward/lock";
/// The head of the audit log, kept apart from it.
pub const AUDIT_HEAD: &str = "/var/lib/keyward/audit.head";

/// Opens the journals, making their directory when it is missing.
///
/// # Errors
/// As [`DirShelf::open`].
pub fn shelf() -> Result<DirShelf> {
    DirShelf::open(&AbsPath::fixed(STATE), &AbsPath::fixed(LOCK))
}

/// The journals when there are any; makes nothing.
///
/// # Errors
/// As [`DirShelf::open_existing`].
pub fn shelf_if_any() -> Result<Option<DirShelf>> {
    DirShelf::open_existing(&AbsPath::fixed(STATE), &AbsPath::fixed(LOCK))
}

/// True where [`STATE`], or what it will be made in, is a file system in memory: tmpfs(5), or ramfs.
pub fn is_in_memory() -> bool {
    const RAMFS: nix::sys::statfs::FsType = nix::sys::statfs::FsType(0x8584_58f6);
    let kinds = Path::new(STATE).ancestors().find_map(|path| nix::sys::statfs::statfs(path).ok());
    kinds.is_some_and(|found| [nix::sys::statfs::TMPFS_MAGIC, RAMFS].contains(&found.filesystem_type()))
}

/// Opens the audit log.
///
/// # Errors
/// As [`FileLedger::open`].
pub fn ledger() -> Result<FileLedger> {
    FileLedger::open(&AbsPath::fixed(AUDIT), &AbsPath::fixed(AUDIT_HEAD))
}

/// Where sudo looks for programs (its usual `secure_path`).
const FOUND: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// This program as somebody else types it behind sudo: by name where sudo finds it, else by path.
pub fn own_command() -> String {
    let by_path = std::env::current_exe().ok().filter(|path| {
        path.is_file() && !path.parent().is_some_and(|dir| FOUND.iter().any(|found| dir == std::path::Path::new(found)))
    });
    by_path.and_then(|path| path.to_str().map(quoted)).unwrap_or_else(|| "keyward".to_owned())
}

/// A program of ours that is there to be typed behind sudo, whichever this process is: the guard's own copy goes with it.
pub fn there_to_type() -> String {
    if FOUND.iter().any(|dir| std::path::Path::new(dir).join("keyward").is_file()) {
        return "keyward".to_owned();
    }
    let pushed = std::fs::read_dir(crate::target::ssh::push::DIRECTORY).into_iter().flatten().flatten();
    // An upload under way is hidden.
    let whole = pushed.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    let path = whole.map(|entry| entry.path()).find(|path| path.is_file());
    path.and_then(|path| path.to_str().map(quoted)).unwrap_or_else(own_command)
}

/// The audit log as it is; makes nothing.
///
/// # Errors
/// As [`FileLedger::existing`].
pub fn ledger_to_read() -> Result<FileLedger> {
    FileLedger::existing(&AbsPath::fixed(AUDIT), &AbsPath::fixed(AUDIT_HEAD))
}

/// The audit log, or one in memory when it cannot be opened: an undo must not wait for it.
pub fn ledger_or_none() -> Box<dyn Ledger> {
    match ledger() {
        Ok(ledger) => Box::new(ledger),
        Err(_) => Box::new(MemoryLedger::default()),
    }
}

/// Root is needed for the host itself.
///
/// # Errors
/// Refused, with the command that works.
pub fn need_root(why: &str) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let words: Vec<String> = std::env::args().skip(1).map(|word| quoted(&word)).collect();
    Err(Failure::refused("keyward", format!("must be root {why}")).hint(format!("sudo keyward {}", words.join(" "))))
}

pub use crate::types::quoted;

/// Verbs about this machine's own records take no other target.
///
/// # Errors
/// Input when another target was given.
pub fn only_local(global: &Global) -> Result<()> {
    match global.target() {
        TargetArg::Local => Ok(()),
        _ => Err(Failure::input("--target", "this verb works on the machine's own records only").hint("leave it out")),
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn commands_in_hints_can_be_copied() {
        assert_eq!(quoted("playbooks/first-login.yml"), "playbooks/first-login.yml");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
