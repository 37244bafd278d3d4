//! The tree itself, mounted beside its copy: for work whose results stay. Locked against other runs as long as its
//! warden lives. Mounts only; writes nothing into the tree.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};

use super::layers::{Layer, Way};
use super::os;
use super::warden::make_dir;
use crate::error::{Failure, Kind, Result};

/// Directories that are covered while work goes on. They must be there: making one would leave it in the tree.
const COVERED: [&str; 4] = ["dev", "proc", "run", "sys"];

/// Keeps others out; of the directory itself, so that no file of it is left.
pub type Lock = Flock<File>;

/// A mounted tree.
#[derive(Debug)]
pub struct Tree {
    /// Where it is mounted, in the warden's own mount namespace.
    pub place: PathBuf,
    _lock: Lock,
}

/// Takes the tree at `root`, which has to be another one than the machine's own.
///
/// # Errors
/// Busy when another run has it; refused when it is this machine's, or a directory to be covered is no directory.
pub fn lock(root: &Path) -> Result<Lock> {
    use std::os::unix::fs::MetadataExt as _;
    let shown = root.display().to_string();
    let failed = |error: std::io::Error| Failure::unknown(&shown, "cannot be looked at").why(error);
    let dir = File::open(root).map_err(failed)?;
    let (meta, own) = (dir.metadata().map_err(failed)?, std::fs::metadata("/").map_err(failed)?);
    if (meta.dev(), meta.ino()) == (own.dev(), own.ino()) {
        return Err(Failure::refused(&shown, "this is the running machine, no tree").hint("leave --root out"));
    }
    for name in COVERED {
        if !std::fs::symlink_metadata(root.join(name)).is_ok_and(|meta| meta.is_dir()) {
            return Err(Failure::refused(format!("{shown}/{name}"), "is not there, or is no directory")
                .hint(format!("a system needs it to boot: mkdir {shown}/{name}")));
        }
    }
    Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => Failure::new(Kind::Busy, &shown, "another run has this tree").hint("wait for it to end"),
        other => Failure::unknown(&shown, "cannot be locked").why(other.desc()),
    })
}

/// Mounts the tree at `place`: of each layer the original, without what else is mounted below it.
///
/// # Errors
/// When the kernel refuses a mount.
pub fn mount_at(place: &Path, layers: &[Layer], lock: Lock) -> Result<Tree> {
    make_dir(place)?;
    for layer in layers {
        let target = place.join(&layer.place);
        // As in the copy: nothing to mount it on.
        if !target.exists() {
            continue;
        }
        mount(Some(&layer.lower), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(os("no bind mount"))?;
        let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | layer.flags;
        flags.set(MsFlags::MS_RDONLY, layer.way == Way::Bind || layer.flags.contains(MsFlags::MS_RDONLY));
        mount(None::<&str>, &target, None::<&str>, flags, None::<&str>).map_err(os("no bind mount"))?;
    }
    Ok(Tree { place: place.to_owned(), _lock: lock })
}
