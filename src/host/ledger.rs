//! An append-only text file that only root can read, with a small head file kept apart: the storage of the audit log.
//! Knows nothing of what the lines say.

use std::cell::RefCell;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use crate::error::{Failure, Result};
use crate::types::AbsPath;

use super::shelf::{Parents, private_dir, sync_parent};

/// Storage for lines that are never taken back.
pub trait Ledger {
    /// Appends one line (without its newline) and replaces the head; both are on disk on return.
    ///
    /// # Errors
    /// Refused when the line cannot be kept: nothing may then be changed.
    fn append(&self, line: &str, head: &str) -> Result<()>;

    /// The whole file, empty when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self) -> Result<String>;

    /// The head, as last written; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    fn head(&self) -> Result<Option<String>>;
}

/// A ledger in two files.
#[derive(Debug)]
pub struct FileLedger {
    log: AbsPath,
    head: AbsPath,
}

impl FileLedger {
    /// A ledger at `log` with its head at `head`; the directories are made 0700 when missing.
    ///
    /// # Errors
    /// Refused when a directory or the file could be written by others.
    pub fn open(log: &AbsPath, head: &AbsPath) -> Result<Self> {
        for path in [log, head] {
            if let Some(dir) = path.parent() {
                private_dir(&dir, Parents::SystemGroup)?;
            }
        }
        Self::existing(log, head)
    }

    /// The same without making anything: for those who only read.
    ///
    /// # Errors
    /// Refused when the file could be written by others.
    pub fn existing(log: &AbsPath, head: &AbsPath) -> Result<Self> {
        if let Ok(meta) = fs::symlink_metadata(log.as_path())
            && (!meta.is_file() || meta.mode() & 0o077 != 0)
        {
            return Err(Failure::refused(log.as_str(), "not a private file of root")
                .why(format!("mode {:04o}", meta.mode() & 0o7777))
                .hint(format!("chmod 0600 {log}")));
        }
        Ok(Self { log: log.clone(), head: head.clone() })
    }
}

fn text(path: &AbsPath) -> Result<Option<String>> {
    match fs::read(path.as_path()) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::unknown(path.as_str(), "cannot be read").why(error)),
    }
}

impl Ledger for FileLedger {
    fn append(&self, line: &str, head: &str) -> Result<()> {
        let refused = |error| {
            Failure::refused(self.log.as_str(), "the audit log cannot be written, so nothing may be changed").why(error)
        };
        let fresh = !self.log.as_path().exists();
        let mut options = fs::OpenOptions::new();
        options.append(true).create(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        let written = options.open(self.log.as_path()).and_then(|mut file| {
            let before = file.metadata()?.len();
            let written = file.write_all(format!("{line}\n").as_bytes()).and_then(|()| file.sync_data());
            if written.is_err() {
                // A torn line would end the chain for good.
                file.set_len(before)?;
            }
            written
        });
        written.map_err(refused)?;
        if fresh {
            // A power cut must not take the whole file, which has no name on the disk yet.
            sync_parent(self.log.as_path())?;
        }
        let next = self.head.as_path().with_extension("next");
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        let replaced = options.open(&next).and_then(|mut file| {
            file.write_all(head.as_bytes())?;
            file.sync_data()?;
            fs::rename(&next, self.head.as_path())
        });
        replaced.map_err(refused)
    }

    fn read(&self) -> Result<String> {
        Ok(text(&self.log)?.unwrap_or_default())
    }

    fn head(&self) -> Result<Option<String>> {
        text(&self.head)
    }
}

/// A ledger in memory, for tests.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    /// The lines.
    pub log: RefCell<String>,
    /// The head.
    pub head: RefCell<Option<String>>,
}

impl Ledger for MemoryLedger {
    fn append(&self, line: &str, head: &str) -> Result<()> {
        self.log.borrow_mut().push_str(&format!("{line}\n"));
        *self.head.borrow_mut() = Some(head.to_owned());
        Ok(())
    }

    fn read(&self) -> Result<String> {
        Ok(self.log.borrow().clone())
    }

    fn head(&self) -> Result<Option<String>> {
        Ok(self.head.borrow().clone())
    }
}
