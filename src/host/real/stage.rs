//! Candidate files in a private directory for the programs that judge them.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use super::tree;
use crate::error::{Failure, Result};
use crate::host::{Command, Staged};

/// Where stages are made: in memory, else on the disk.
const PLACES: [&str; 2] = ["/run/keyward", "/var/lib/keyward"];
/// What stands for the stage in arguments and texts.
const MARK: &str = "{stage}";

static COUNTER: AtomicU32 = AtomicU32::new(0);
static SWEPT: Once = Once::new();

/// A directory of mode 0700 that is gone with this value; so is the place around it when nothing else is in it, since a
/// mere look at a host must leave nothing.
pub struct Stage {
    path: PathBuf,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        let _ = self.path.parent().map(std::fs::remove_dir);
    }
}

/// Takes away the stages of processes that are gone; each process does so before its own first one.
pub fn sweep() {
    for place in PLACES.map(Path::new) {
        if !std::fs::symlink_metadata(place).is_ok_and(|meta| private_of_root(&meta)) {
            continue;
        }
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let maker = name.to_str().and_then(|name| name.strip_prefix("stage-")?.split_once('-')?.0.parse().ok());
            let (Some(pid), Ok(meta)) = (maker, entry.metadata()) else { continue };
            if meta.is_dir() && !tree::may_have_made(pid, (meta.ctime(), meta.ctime_nsec())) {
                drop(Stage { path: entry.path() });
            }
        }
    }
}

fn private_of_root(meta: &std::fs::Metadata) -> bool {
    meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o022 == 0
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::unknown(path.to_string_lossy(), "candidate files cannot be laid out")
        .why(error)
        .hint(format!("df -h {}", path.parent().unwrap_or(path).display()))
}

impl Stage {
    /// Lays `files` into a fresh directory.
    ///
    /// # Errors
    /// When no place for it can be written, or a name leads out of it.
    pub fn new(files: &[Staged]) -> Result<Self> {
        let mut last = Failure::unknown(MARK, "candidate files cannot be laid out");
        for place in PLACES {
            match Self::make(Path::new(place)) {
                Ok(stage) => {
                    for file in files {
                        stage.lay(file)?;
                    }
                    return Ok(stage);
                }
                Err(error) => last = unwritable(Path::new(place), &error),
            }
        }
        Err(last)
    }

    fn make(place: &Path) -> std::io::Result<Self> {
        SWEPT.call_once(sweep);
        let private = |path: &Path| std::fs::DirBuilder::new().mode(0o700).create(path);
        loop {
            match private(place) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let meta = match std::fs::symlink_metadata(place) {
                // The last stage of another process took the place away.
                Err(error) if gone(&error) && number < 10_000 => continue,
                found => found?,
            };
            if !private_of_root(&meta) {
                return Err(std::io::Error::other("it is not a directory that only root can write to"));
            }
            let path = place.join(format!("stage-{}-{number}", std::process::id()));
            match private(&path) {
                Ok(()) => return Ok(Self { path }),
                Err(error)
                    if (gone(&error) || error.kind() == std::io::ErrorKind::AlreadyExists) && number < 10_000 => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn lay(&self, file: &Staged) -> Result<()> {
        let clean = !file.name.is_empty()
            && file.name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
            && !file.name.contains('\0');
        if !clean {
            return Err(Failure::unknown(file.name.as_str(), "is no relative path for a candidate file")
                .hint("report this as a defect of keyward"));
        }
        let path = self.path.join(&file.name);
        let fail = |error: std::io::Error| unwritable(&path, &error);
        if let Some(parent) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(fail)?;
        }
        let mut target =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(fail)?;
        target.write_all(&self.filled(&file.content)).map_err(fail)?;
        target.set_permissions(std::fs::Permissions::from_mode(file.mode & 0o7777)).map_err(fail)
    }

    /// `command` with the stage's path put in.
    pub fn command(&self, command: &Command) -> Command {
        let path = self.path.to_string_lossy();
        Command {
            argv: command.argv.iter().map(|word| word.replace(MARK, &path)).collect(),
            stdin: self.filled(&command.stdin),
            ..command.clone()
        }
    }

    fn filled(&self, bytes: &[u8]) -> Vec<u8> {
        let path = self.path.as_os_str().as_encoded_bytes();
        let mut filled = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK.as_bytes()) {
            filled.extend_from_slice(rest.get(..at).unwrap_or_default());
            filled.extend_from_slice(path);
            rest = rest.get(at + MARK.len()..).unwrap_or_default();
        }
        filled.extend_from_slice(rest);
        filled
    }
}
