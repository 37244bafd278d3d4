//! What a controller keeps of a rollout, below the user's own state directory: the store, under a lock, and a log a host.
//! File names come from here, never from a host's name.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::error::{Failure, Kind, Result};
use crate::fleet::store::{Remembered, Store};
use crate::host::shelf::{Parents, private_dir};
use crate::types::{AbsPath, Word as _};

const STORE: &str = "store.jsonl";
/// Largest store that is read: 100,000 hosts have some 50 MB.
const LONGEST: u64 = 512 << 20;

/// Where rollouts are kept.
///
/// # Errors
/// When there is no home, or it cannot be made.
pub fn directory() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    let state = state
        .ok_or_else(|| Failure::refused("HOME", "is not set, so there is no place for what is kept of a rollout"))?;
    let (above, path) = (state.join("keyward"), state.join("keyward/rollouts"));
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(&above).map_err(|error| cannot(&above, "cannot be made", &error))?;
    let name = path.to_str().ok_or_else(|| Failure::refused(path.display().to_string(), "the path is not UTF-8"))?;
    let checked = AbsPath::parse(name).map_err(|invalid| Failure::refused(name, invalid.why).hint(invalid.hint))?;
    // A group of the user's own is nobody else.
    private_dir(&checked, Parents::SystemGroup)?;
    Ok(path)
}

fn cannot(path: &Path, what: &str, why: &std::io::Error) -> Failure {
    Failure::refused(path.display().to_string(), what).why(why).hint("df -h; ls -ld, and see who owns it")
}

/// One rollout, held by this process alone.
pub struct Kept {
    directory: PathBuf,
    file: Flock<File>,
}

impl Kept {
    /// A new one.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn new(id: &str) -> Result<Self> {
        let path = directory()?.join(id);
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| cannot(&path, "cannot be made", &error))?;
        let kept = Self::held(path, true)?;
        // The store's name must be there when its first line is.
        sync_directory(&kept.directory)?;
        Ok(kept)
    }

    /// The newest rollout that `is_wanted`, without holding it; `None` where there is none. One that cannot be read is passed
    /// over, and told to `skipped`.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn newest(
        is_wanted: &dyn Fn(&Remembered) -> bool,
        skipped: &mut dyn FnMut(Failure),
    ) -> Result<Option<(PathBuf, Remembered)>> {
        let base = directory()?;
        let entries = fs::read_dir(&base).map_err(|error| cannot(&base, "cannot be read", &error))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths.into_iter().rev() {
            let text = match File::open(path.join(STORE)) {
                // A rollout that was cut off before it began.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                opened => opened.and_then(|file| text(&file)).map_err(|error| cannot(&path, "cannot be read", &error)),
            };
            match text.and_then(|text| Remembered::read(&text)) {
                Ok(Some(remembered)) if is_wanted(&remembered) => return Ok(Some((path, remembered))),
                Ok(_) => {}
                Err(failure) => skipped(Failure { place: path.display().to_string(), ..failure }),
            }
        }
        Ok(None)
    }

    /// Holds a rollout that was found, as it is now.
    ///
    /// # Errors
    /// When another process has it, or it cannot be read.
    pub fn hold(path: PathBuf) -> Result<(Self, Remembered)> {
        let gone = || Failure::unknown(path.display().to_string(), "is gone");
        let kept = Self::held(path.clone(), false)?;
        let text = text(&kept.file).map_err(|error| cannot(&path, "cannot be read", &error))?;
        let remembered = Remembered::read(&text)?.ok_or_else(gone)?;
        Ok((kept, remembered))
    }

    fn held(directory: PathBuf, is_new: bool) -> Result<Self> {
        let path = directory.join(STORE);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create_new(is_new).mode(0o600);
        let file = options.open(&path).map_err(|error| cannot(&path, "cannot be opened", &error))?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
            Failure::new(Kind::Busy, path.display().to_string(), "another keyward is at this rollout")
                .hint("wait for it, or stop it")
        })?;
        Ok(Self { directory, file })
    }

    /// Cuts off what a killed process left half written.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn cut(&self, bytes: usize) -> Result<()> {
        let path = self.directory.join(STORE);
        let length = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.file.set_len(length).map_err(|error| cannot(&path, "cannot be written", &error))
    }

    /// Where its files are.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// What opens the log of the host of a number.
    pub fn logs(directory: &Path) -> Box<dyn Fn(usize) -> Option<File>> {
        let directory = directory.to_owned();
        Box::new(move |host| {
            let path = directory.join(format!("{host:06}.log"));
            OpenOptions::new().create(true).append(true).mode(0o600).open(path).ok()
        })
    }
}

/// What a store that was just opened holds.
fn text(file: &File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    std::io::Read::take(file, LONGEST).read_to_end(&mut bytes)?;
    // A torn tail may end within a character.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Store for Kept {
    fn append(&mut self, line: &str, is_synced: bool) -> Result<()> {
        let path = self.directory.join(STORE);
        let before = self.file.metadata().map(|meta| meta.len());
        let mut text = String::with_capacity(line.len() + 1);
        text.push_str(line);
        text.push('\n');
        let mut file: &File = &self.file;
        let sync = || if is_synced { file.sync_data() } else { Ok(()) };
        let written = file.write_all(text.as_bytes()).and_then(|()| sync());
        written.map_err(|error| {
            if let Ok(length) = before {
                let _ = self.file.set_len(length);
            }
            cannot(&path, "cannot be written", &error)
        })
    }
}

fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| cannot(path, "cannot be synced", &error))
}
