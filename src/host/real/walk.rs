//! Resolves a path once, component by component, following no link, and hands out a descriptor of its directory. All
//! later work goes by that descriptor, so nobody can swap a directory between a check and its use.
//!
//! Each component is opened with `O_NOFOLLOW` from the descriptor of the one before and judged by fstat(2). That gives
//! what `RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH` of openat2(2) gives (clean paths have no `..`), looks at the owner of every
//! directory on the way in the same pass, and works where a seccomp filter forbids openat2.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use super::fault;
use crate::error::{Kind, Result};
use crate::host::rules::{self, Who};
use crate::host::{FileKind, Meta};
use crate::types::{AbsPath, UserName};

/// How a directory on the way is judged.
type Judge<'a> = &'a dyn Fn(&AbsPath, &Meta) -> Result<()>;

/// A directory held open, with its path for messages.
pub struct Dir {
    /// The descriptor, readable, so that it can be listed and synced.
    pub file: File,
    /// Where it is.
    pub path: AbsPath,
}

/// stat(2) as the contract's [`Meta`].
pub fn meta_of(stat: &FileStat) -> Meta {
    let kind = match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => FileKind::File,
        SFlag::S_IFDIR => FileKind::Dir,
        SFlag::S_IFLNK => FileKind::Link,
        _ => FileKind::Other,
    };
    Meta {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        #[allow(clippy::useless_conversion, reason = "st_nlink is 32 bits wide on some architectures")]
        links: u64::from(stat.st_nlink),
    }
}

/// lstat(2) of a name in a directory; `None` when nothing is there.
///
/// # Errors
/// Those of fstatat(2), of kind Unknown.
pub fn look(dir: impl AsFd, name: &str, path: &AbsPath) -> Result<Option<Meta>> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(meta_of(&stat))),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(fault(Kind::Unknown, path, "cannot be looked at", errno)),
    }
}

fn components(path: &AbsPath) -> impl Iterator<Item = &str> {
    path.as_str().split('/').filter(|part| !part.is_empty())
}

/// Opens one component; `None` when it is not there.
fn step(at: &OwnedFd, name: &str, path: &AbsPath, flags: OFlag, judge: Judge<'_>) -> Result<Option<OwnedFd>> {
    let flags = flags | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(at, name, flags, Mode::empty()) {
        Ok(fd) => {
            let stat = fstat(&fd).map_err(|errno| fault(Kind::Unknown, path, "cannot be looked at", errno))?;
            judge(path, &meta_of(&stat))?;
            Ok(Some(fd))
        }
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => {
            if let Some(meta) = look(at, name, path)? {
                judge(path, &meta)?;
            }
            Err(fault(Kind::Unknown, path, "cannot be opened", errno))
        }
    }
}

fn root() -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open("/", flags, Mode::empty())
        .map_err(|errno| fault(Kind::Unknown, &AbsPath::fixed("/"), "cannot be opened", errno))
}

/// Walks from `at` (standing at `from`) down to `to`. The last directory is opened for reading; `closed` says why it may
/// be one that cannot.
fn descend(at: OwnedFd, from: &AbsPath, to: &AbsPath, judge: Judge<'_>, closed: Judge<'_>) -> Result<Option<Dir>> {
    let mut fd = at;
    let mut path = from.clone();
    let rest = to.as_str().get(from.as_str().len()..).unwrap_or_default();
    for name in rest.split('/').filter(|part| !part.is_empty()) {
        let Ok(next) = path.join(name) else { return Ok(None) };
        let Some(down) = step(&fd, name, &next, OFlag::O_PATH, judge)? else { return Ok(None) };
        (fd, path) = (down, next);
    }
    match openat(&fd, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(readable) => Ok(Some(Dir { file: File::from(readable), path })),
        Err(errno) => {
            if errno == Errno::EACCES
                && let Ok(stat) = fstat(&fd)
            {
                closed(&path, &meta_of(&stat))?;
            }
            Err(fault(Kind::Unknown, &path, "cannot be opened", errno))
        }
    }
}

/// Opens a directory in which root works: every component must be root's alone; `None` when one is not there.
///
/// # Errors
/// Refused by [`rules::trusted_dir`], or it cannot be looked at.
pub fn trusted(path: &AbsPath) -> Result<Option<Dir>> {
    let at = root()?;
    let stat = fstat(&at).map_err(|errno| fault(Kind::Unknown, path, "cannot be looked at", errno))?;
    rules::trusted_dir(&AbsPath::fixed("/"), &meta_of(&stat))?;
    descend(at, &AbsPath::fixed("/"), path, &rules::trusted_dir, &|_, _| Ok(()))
}

/// True when something stands at `path`, below directories that only root can change.
///
/// # Errors
/// As [`trusted`].
pub fn stands(path: &AbsPath) -> Result<bool> {
    let mut at = root()?;
    let mut here = AbsPath::fixed("/");
    let names: Vec<&str> = components(path).collect();
    for (index, name) in names.iter().enumerate() {
        let Ok(next) = here.join(name) else { return Ok(false) };
        if index + 1 == names.len() {
            return Ok(look(&at, name, &next)?.is_some());
        }
        let Some(down) = step(&at, name, &next, OFlag::O_PATH, &rules::trusted_dir)? else { return Ok(false) };
        (at, here) = (down, next);
    }
    Ok(true)
}

/// Opens a home: every directory above it must be root's alone, and it must be the user's; `None` when it is not there.
///
/// # Errors
/// Refused by the rules for homes, or it cannot be looked at.
pub fn home(path: &AbsPath, user: &UserName, uid: u32) -> Result<Option<Dir>> {
    let judge = |place: &AbsPath, meta: &Meta| {
        if place == path { rules::home(place, meta, user, uid) } else { rules::trusted_dir(place, meta) }
    };
    let at = root()?;
    let stat = fstat(&at).map_err(|errno| fault(Kind::Unknown, path, "cannot be looked at", errno))?;
    judge(&AbsPath::fixed("/"), &meta_of(&stat))?;
    descend(at, &AbsPath::fixed("/"), path, &judge, &|_, _| Ok(()))
}

/// Opens a directory beneath a home that [`home`] opened; `None` when it is not there.
///
/// # Errors
/// Refused when a component is a link or somebody else's, or it cannot be looked at.
pub fn beneath(home: &Dir, path: &AbsPath, user: &UserName, uid: u32) -> Result<Option<Dir>> {
    let again =
        home.file.try_clone().map_err(|error| super::io_fault(Kind::Unknown, path, "cannot be opened", &error))?;
    let judge = |place: &AbsPath, meta: &Meta| rules::home_dir_seen(place, meta, uid);
    // What root keeps closed even to the user's eyes cannot be the user's to change.
    let closed = |place: &AbsPath, meta: &Meta| rules::home_dir_written(place, meta, user, uid);
    descend(OwnedFd::from(again), &home.path, path, &judge, &closed)
}

/// Judges a directory in which `who` is about to change something.
///
/// # Errors
/// Refused when the acting account does not rule it.
pub fn judge_written(dir: &Dir, who: &Who) -> Result<()> {
    match who {
        Who::Root => Ok(()),
        Who::User { name, uid, .. } => {
            let stat =
                fstat(&dir.file).map_err(|errno| fault(Kind::Unknown, &dir.path, "cannot be looked at", errno))?;
            rules::home_dir_written(&dir.path, &meta_of(&stat), name, *uid)
        }
    }
}

/// fstat(2) of an open directory.
///
/// # Errors
/// When it cannot be looked at.
pub fn meta(dir: &Dir) -> Result<Meta> {
    fstat(&dir.file)
        .map(|stat| meta_of(&stat))
        .map_err(|errno| fault(Kind::Unknown, &dir.path, "cannot be looked at", errno))
}
