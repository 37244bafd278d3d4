//! Durable private storage for the journals of runs: one append-only file a run, under a directory that only root can
//! reach. Knows nothing of what the lines say.

mod memory;

pub use memory::MemoryShelf;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, posix_fallocate};

use crate::error::{Failure, Kind, Result};
use crate::types::AbsPath;

/// Whether an append must have reached the disk on return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// fdatasync(2) before return.
    Synced,
    /// May be lost by a power cut; the reader copes.
    Lazy,
}

/// Holds the host for one run until dropped.
pub trait Held {}

/// Where journals are kept.
pub trait Shelf {
    /// Takes the host-wide lock for a run.
    ///
    /// # Errors
    /// Busy when another run holds it.
    fn lock(&self) -> Result<Box<dyn Held>>;

    /// Makes an empty journal; the run id must be new.
    ///
    /// # Errors
    /// When it exists or cannot be made durable.
    fn create(&self, run: &str) -> Result<()>;

    /// Takes away what was made for a run that never began, as far as that can be.
    fn discard(&self, run: &str);

    /// Appends one line (without its newline).
    ///
    /// # Errors
    /// When it cannot be written whole.
    fn append(&self, run: &str, line: &str, durability: Durability) -> Result<()>;

    /// The whole journal; `None` when there is no such run.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self, run: &str) -> Result<Option<String>>;

    /// Replaces a journal in one step.
    ///
    /// # Errors
    /// When it cannot be written; then the old one stands.
    fn replace(&self, run: &str, text: &str) -> Result<()>;

    /// All run ids, oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn runs(&self) -> Result<Vec<String>>;

    /// Sets the one durable record `name` of a run, first writer wins: compare-and-set by link(2), which neither a
    /// crash nor a race can leave half done.
    ///
    /// # Errors
    /// When it cannot be made durable; then it is not set by this call.
    fn settle(&self, run: &str, name: &str, text: &str) -> Result<Settled>;

    /// Sets room on the disk aside for the way back of a run.
    ///
    /// # Errors
    /// Refused when there is none.
    fn reserve(&self, run: &str) -> Result<()>;

    /// Takes the record `name` away, [`RESERVE`] among them; nothing depends on it any more.
    fn forget(&self, run: &str, name: &str);

    /// Where that record stands, for the reader.
    fn place(&self, run: &str, name: &str) -> String;

    /// The record `name` of a run, when it is set.
    ///
    /// # Errors
    /// When it cannot be read.
    fn settled(&self, run: &str, name: &str) -> Result<Option<String>>;
}

/// Who won a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// This call set it.
    Won,
    /// It was set before, to this.
    Lost(String),
}

/// Journals as files: `DIR/runs/RUN.journal`, lock at the path given.
#[derive(Debug)]
pub struct DirShelf {
    dir: PathBuf,
    lock: PathBuf,
}

/// Name of the file that holds room for the way back, and its size in bytes: an undo writes each file anew beside the old
/// one, the user databases and firewall rules among them.
pub const RESERVE: &str = "reserve";
const RESERVED: i64 = 256 << 10;

struct FileLock {
    _lock: Flock<fs::File>,
}

impl Held for FileLock {}

impl DirShelf {
    /// A shelf below `dir` (made 0700 when missing) with its lock file at `lock`.
    ///
    /// # Errors
    /// Refused when a component is a link or could be written by others; failed when it cannot be made.
    pub fn open(dir: &AbsPath, lock: &AbsPath) -> Result<Self> {
        private_dir(dir, Parents::RootAlone)?;
        let runs = dir.join("runs").map_err(|invalid| Failure::refused(dir.as_str(), invalid.why))?;
        private_dir(&runs, Parents::RootAlone)?;
        if let Some(parent) = lock.parent() {
            private_dir(&parent, Parents::RootAlone)?;
        }
        Ok(Self { dir: runs.as_path().to_owned(), lock: lock.as_path().to_owned() })
    }

    /// A shelf that exists already; `None` when nothing was ever kept there.
    ///
    /// # Errors
    /// As [`DirShelf::open`].
    pub fn open_existing(dir: &AbsPath, lock: &AbsPath) -> Result<Option<Self>> {
        match fs::symlink_metadata(dir.as_path()) {
            Ok(_) => Self::open(dir, lock).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::unknown(dir.as_str(), "cannot be looked at").why(error)),
        }
    }

    fn record(&self, run: &str, name: &str) -> Result<PathBuf> {
        Ok(self.file(run)?.with_extension(name))
    }

    fn file(&self, run: &str) -> Result<PathBuf> {
        let plain = !run.is_empty() && run.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if plain {
            Ok(self.dir.join(format!("{run}.journal")))
        } else {
            Err(Failure::input(run.escape_debug().to_string(), "not a run id")
                .hint("list the runs with: keyward history"))
        }
    }
}

/// Who may write into the parents of a private directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parents {
    /// root alone.
    RootAlone,
    /// A system group too: Ubuntu's /var/log belongs to root:syslog 0775.
    SystemGroup,
}

/// Makes `path` a directory of root with mode 0700, or checks that it is one; every parent must be safe.
///
/// # Errors
/// Refused when a component could be swapped by others; failed when it cannot be made.
pub fn private_dir(path: &AbsPath, writers: Parents) -> Result<()> {
    let others = if writers == Parents::RootAlone { 0o022 } else { 0o002 };
    let mut parents = Vec::new();
    let mut at = path.parent();
    while let Some(parent) = at {
        at = parent.parent();
        parents.push(parent);
    }
    for parent in parents.iter().rev() {
        let meta = fs::symlink_metadata(parent.as_path());
        let meta = meta.map_err(|error| Failure::failed(parent.as_str(), "cannot be looked at").why(error))?;
        let sticky = meta.mode() & 0o1000 != 0;
        if !meta.is_dir() || meta.uid() != own_uid() && meta.uid() != 0 || (meta.mode() & others != 0 && !sticky) {
            return Err(Failure::refused(parent.as_str(), "others could swap what keyward keeps below it")
                .why(format!("owner {}, mode {:04o}", meta.uid(), meta.mode() & 0o7777))
                .hint(format!("chown root: {parent} && chmod go-w {parent}")));
        }
    }
    match fs::DirBuilder::new().mode(0o700).create(path.as_path()) {
        Ok(()) => sync_parent(path.as_path()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => check_private(path),
        Err(error) => Err(Failure::failed(path.as_str(), "cannot be made").why(error)),
    }
}

fn check_private(path: &AbsPath) -> Result<()> {
    let meta = fs::symlink_metadata(path.as_path());
    let meta = meta.map_err(|error| Failure::failed(path.as_str(), "cannot be looked at").why(error))?;
    if meta.is_dir() && meta.uid() == own_uid() && meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(Failure::refused(path.as_str(), "not a private directory of root")
        .why(format!("owner {}, mode {:04o}", meta.uid(), meta.mode() & 0o7777))
        .hint(format!("look at what is in it; then: rm -rf {path}")))
}

fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

pub(super) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    let synced = fs::File::open(parent).and_then(|dir| dir.sync_all());
    synced.map_err(|error| Failure::failed(parent.display().to_string(), "cannot be made durable").why(error))
}

impl Shelf for DirShelf {
    fn lock(&self) -> Result<Box<dyn Held>> {
        let place = self.lock.display().to_string();
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        let opened = options.open(&self.lock).or_else(|error| match self.lock.parent() {
            // A `plan` beside this removed the directory, empty as it was.
            Some(parent) if error.kind() == std::io::ErrorKind::NotFound => {
                let _ = fs::DirBuilder::new().mode(0o700).create(parent);
                options.open(&self.lock)
            }
            _ => Err(error),
        });
        let file = opened.map_err(|error| Failure::failed(&place, "cannot be opened").why(error))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Box::new(FileLock { _lock: lock })),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                Err(Failure::new(Kind::Busy, place, "another keyward run has this host")
                    .hint("wait for it to end, or look at it with: keyward status"))
            }
            Err((_, error)) => Err(Failure::failed(place, "cannot be locked").why(error)),
        }
    }

    fn create(&self, run: &str) -> Result<()> {
        let path = self.file(run)?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let failed = |error: std::io::Error| Failure::failed(path.display().to_string(), "cannot be made").why(error);
        let file = options.open(&path).map_err(failed)?;
        file.sync_all().map_err(failed).and_then(|()| sync_parent(&path)).inspect_err(|_| self.discard(run))
    }

    fn discard(&self, run: &str) {
        for path in [self.file(run), self.record(run, RESERVE)].into_iter().flatten() {
            let _ = fs::remove_file(path);
        }
    }

    fn append(&self, run: &str, line: &str, durability: Durability) -> Result<()> {
        let path = self.file(run)?;
        let mut options = fs::OpenOptions::new();
        options.append(true).custom_flags(nix::libc::O_NOFOLLOW);
        let written = options.open(&path).and_then(|mut file| {
            let before = file.metadata()?.len();
            let mut written = file.write_all(format!("{line}\n").as_bytes());
            if durability == Durability::Synced {
                written = written.and_then(|()| file.sync_data());
            }
            if written.is_err() {
                // A line that is torn, or of which the caller believes that it is not there, must not stay.
                file.set_len(before)?;
            }
            written
        });
        written.map_err(|error| Failure::failed(path.display().to_string(), "cannot be written").why(error))
    }

    fn read(&self, run: &str) -> Result<Option<String>> {
        let path = self.file(run)?;
        let mut bytes = Vec::new();
        match fs::File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)) {
            Ok(_) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::unknown(path.display().to_string(), "cannot be read").why(error)),
        }
    }

    fn replace(&self, run: &str, text: &str) -> Result<()> {
        let path = self.file(run)?;
        let next = path.with_extension("next");
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        let written = options.open(&next).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            // The old text may hold hashes: overwritten by rename, its blocks go back to the file system.
            fs::rename(&next, &path)
        });
        let Err(error) = written else { return sync_parent(&path) };
        let _ = fs::remove_file(&next);
        // On a full disk there is no second file, but to cut off a torn tail takes no room.
        if fs::read(&path).is_ok_and(|now| now.starts_with(text.as_bytes())) {
            let file = fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NOFOLLOW).open(&path);
            let cut = file.and_then(|file| file.set_len(text.len() as u64).and_then(|()| file.sync_all()));
            if cut.is_ok() {
                return Ok(());
            }
        }
        Err(Failure::failed(path.display().to_string(), "cannot be replaced").why(error))
    }

    fn runs(&self) -> Result<Vec<String>> {
        let place = self.dir.display().to_string();
        let entries = fs::read_dir(&self.dir).map_err(|error| Failure::unknown(&place, "cannot be read").why(error))?;
        let mut found: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.strip_suffix(".journal").map(str::to_owned))
            .collect();
        found.sort();
        Ok(found)
    }

    fn settle(&self, run: &str, name: &str, text: &str) -> Result<Settled> {
        let path = self.record(run, name)?;
        let place = path.display().to_string();
        // Named like every file of ours in the making, so that it is swept like one.
        let maker = format!("{}-{name}-{:?}", std::process::id(), std::thread::current().id());
        let fresh = self.dir.join(format!(".keyward-{maker}.tmp"));
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        let linked = options.open(&fresh).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::hard_link(&fresh, &path)
        });
        // The spare name is removed whether or not it won; a crash in between leaves a file that nothing reads.
        let _ = fs::remove_file(&fresh);
        match linked {
            Ok(()) => sync_parent(&path).map(|()| Settled::Won),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Ok(Settled::Lost(self.settled(run, name)?.unwrap_or_default()))
            }
            Err(error) => Err(Failure::failed(place, "cannot be written").why(error)),
        }
    }

    fn reserve(&self, run: &str) -> Result<()> {
        let path = self.record(run, RESERVE)?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        let made = options.open(&path).map_err(|error| error.to_string()).and_then(|file| {
            posix_fallocate(&file, 0, RESERVED).map_err(|errno| errno.desc().to_owned())?;
            file.sync_all().map_err(|error| error.to_string())
        });
        made.map_err(|why| {
            let _ = fs::remove_file(&path);
            Failure::refused(path.display().to_string(), "no room for the way back")
                .why(why)
                .hint("make room, see: df -h /var/lib/keyward")
        })
    }

    fn forget(&self, run: &str, name: &str) {
        if let Ok(path) = self.record(run, name) {
            let _ = fs::remove_file(path);
        }
    }

    fn place(&self, run: &str, name: &str) -> String {
        self.dir.join(format!("{run}.{name}")).display().to_string()
    }

    fn settled(&self, run: &str, name: &str) -> Result<Option<String>> {
        let path = self.record(run, name)?;
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::unknown(path.display().to_string(), "cannot be read").why(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_writers_one_wins_and_all_agree() {
        let dir = std::env::temp_dir().join(format!("keyward-shelf-{}", std::process::id()));
        let shelf = || DirShelf { dir: dir.clone(), lock: dir.join("lock") };
        std::fs::create_dir_all(&dir).unwrap();
        for round in 0..50 {
            let run = format!("r{round}");
            let said: Vec<Settled> = std::thread::scope(|scope| {
                let writers: Vec<_> = (0..8)
                    .map(|at| {
                        let (shelf, run) = (shelf(), run.clone());
                        scope.spawn(move || {
                            shelf.settle(&run, &format!("end{at}"), "x").and(shelf.settle(&run, "end", &at.to_string()))
                        })
                    })
                    .collect();
                writers.into_iter().map(|writer| writer.join().unwrap().unwrap()).collect()
            });
            assert_eq!(said.iter().filter(|one| **one == Settled::Won).count(), 1);
            let winner = said.iter().position(|one| *one == Settled::Won).unwrap().to_string();
            assert!(said.iter().all(|one| *one == Settled::Won || *one == Settled::Lost(winner.clone())));
            assert_eq!(shelf().settled(&run, "end").unwrap(), Some(winner));
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
