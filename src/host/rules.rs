//! What may be touched, judged on [`Meta`] alone, so that the machine and its in-memory twin refuse the same things with
//! the same words. Must not look at anything itself.

use super::{Database, FileKind, Meta, Owner};
use crate::error::{Failure, Result};
use crate::types::{AbsPath, UserName, Word};

/// The account in whose name file work is done, with its ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// root, in directories that only root can write.
    Root,
    /// This account, beneath its home.
    User {
        /// Login name.
        name: UserName,
        /// User id.
        uid: u32,
        /// Primary group.
        gid: u32,
    },
}

impl Who {
    /// The ids that a new node gets.
    pub fn ids(&self, owner: Owner) -> (u32, u32) {
        match (owner, self) {
            (Owner::Ids { uid, gid }, _) => (uid, gid),
            (Owner::Actor, Self::Root) => (0, 0),
            (Owner::Actor, Self::User { uid, gid, .. }) => (*uid, *gid),
        }
    }
}

fn kind_word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "a regular file",
        FileKind::Dir => "a directory",
        FileKind::Link => "a symbolic link",
        FileKind::Other => "a fifo, socket or device",
    }
}

/// A directory on the way to what root writes, or to a home: it must be a real directory that only root can change.
/// Whoever can write to a directory can swap what stands in it between two looks.
pub fn trusted_dir(path: &AbsPath, meta: &Meta) -> Result<()> {
    real_dir(path, meta)?;
    if meta.uid != 0 {
        return Err(Failure::refused(path.as_str(), "keyward does not write below it as root")
            .why(format!("the directory belongs to uid {}, which could put anything in its place", meta.uid))
            .hint(format!("chown -h root: {path}")));
    }
    if meta.mode & 0o022 != 0 {
        return Err(Failure::refused(path.as_str(), "keyward does not write below it as root")
            .why(format!("the directory has mode {:04o}, others than root can write to it", meta.mode))
            .hint(format!("chmod go-w {path}")));
    }
    Ok(())
}

/// A parent must be a directory, and no link.
pub fn real_dir(path: &AbsPath, meta: &Meta) -> Result<()> {
    match meta.kind {
        FileKind::Dir => Ok(()),
        FileKind::Link => Err(Failure::refused(path.as_str(), "is a symbolic link, and keyward follows none")
            .hint(format!("name the real path, or put a directory in its place: readlink -f {path}"))),
        other => Err(Failure::refused(path.as_str(), format!("is {} where a directory has to be", kind_word(other)))
            .hint(format!("ls -ld {path}"))),
    }
}

/// A home must belong to its user.
pub fn home(path: &AbsPath, meta: &Meta, user: &UserName, uid: u32) -> Result<()> {
    real_dir(path, meta)?;
    if meta.uid == uid {
        return Ok(());
    }
    Err(Failure::refused(path.as_str(), format!("the home of '{}' belongs to uid {}", user.as_str(), meta.uid))
        .why("keyward works in a home only as the user, and only when it is the user's own")
        .hint(format!("chown -h {}: {path}  (not for an sftp chroot: that has to stay root's)", user.as_str())))
}

/// A directory beneath a home, on the way to what is looked at.
pub fn home_dir_seen(path: &AbsPath, meta: &Meta, uid: u32) -> Result<()> {
    real_dir(path, meta)?;
    if meta.uid == uid || meta.uid == 0 {
        return Ok(());
    }
    Err(foreign(path, meta))
}

/// The directory beneath a home in which something is changed.
pub fn home_dir_written(path: &AbsPath, meta: &Meta, user: &UserName, uid: u32) -> Result<()> {
    home_dir_seen(path, meta, uid)?;
    if meta.uid == uid {
        return Ok(());
    }
    Err(Failure::refused(path.as_str(), format!("belongs to root, so '{}' cannot change it", user.as_str()))
        .why("keyward works in a home only as the user")
        .hint(format!("chown -h {}: {path}", user.as_str())))
}

fn foreign(path: &AbsPath, meta: &Meta) -> Failure {
    Failure::refused(path.as_str(), format!("belongs to uid {}, neither the user nor root", meta.uid))
        .why("somebody else rules what stands there")
        .hint(format!("look at it, then remove or chown it: ls -ln {path}"))
}

fn no_links(path: &AbsPath, meta: &Meta) -> Result<()> {
    match meta.kind {
        FileKind::Link => Err(Failure::refused(path.as_str(), "is a symbolic link, and keyward follows none")
            .hint(format!("put a plain file in its place: readlink -f {path}"))),
        FileKind::File if meta.links > 1 => {
            Err(Failure::refused(path.as_str(), format!("is a hard link with {} names", meta.links))
                .why("a change would part it from the other names, or reach a file that is not meant")
                .hint(format!("find the others with: find / -xdev -samefile {path}")))
        }
        _ => Ok(()),
    }
}

/// What stands at `path` may be replaced by a regular file.
pub fn replace_by_file(path: &AbsPath, meta: &Meta, who: &Who) -> Result<()> {
    no_links(path, meta)?;
    owned(path, meta, who)?;
    match meta.kind {
        FileKind::File => Ok(()),
        other => Err(Failure::refused(path.as_str(), format!("is {} where a file has to be", kind_word(other)))
            .hint(format!("look at it and move it away: ls -ld {path}"))),
    }
}

/// What stands at `path` may become this directory.
pub fn become_dir(path: &AbsPath, meta: &Meta, who: &Who) -> Result<()> {
    real_dir(path, meta)?;
    owned(path, meta, who)
}

/// What stands at `path` may be removed.
pub fn removable(path: &AbsPath, meta: &Meta, who: &Who) -> Result<()> {
    if meta.kind != FileKind::Link {
        no_links(path, meta)?;
        owned(path, meta, who)?;
    }
    match meta.kind {
        FileKind::Other => Err(Failure::refused(path.as_str(), "is a fifo, socket or device; keyward removes none")
            .hint(format!("look at it: ls -l {path}"))),
        _ => Ok(()),
    }
}

/// What stands at `path` can be put back from an [`super::Image`].
pub fn capturable(path: &AbsPath, meta: &Meta, who: &Who) -> Result<()> {
    if meta.kind == FileKind::Other {
        return Err(Failure::refused(path.as_str(), "is a fifo, socket or device, which cannot be put back")
            .hint(format!("look at it and move it away: ls -l {path}")));
    }
    if meta.kind == FileKind::Link {
        return Ok(());
    }
    no_links(path, meta)?;
    owned(path, meta, who)
}

/// As a user: only what is the user's own is replaced, since only that can be put back with its owner.
fn owned(path: &AbsPath, meta: &Meta, who: &Who) -> Result<()> {
    match who {
        Who::User { uid, .. } if meta.uid != *uid && meta.uid != 0 => Err(foreign(path, meta)),
        Who::User { name, uid, .. } if meta.uid != *uid => {
            Err(Failure::refused(path.as_str(), format!("belongs to root, so '{}' cannot put it back", name.as_str()))
                .why("keyward works in a home only as the user")
                .hint(format!("chown -h {}: {path}", name.as_str())))
        }
        _ => Ok(()),
    }
}

/// A user can give nothing away.
pub fn givable(path: &AbsPath, who: &Who, uid: u32) -> Result<()> {
    match who {
        Who::User { name, uid: own, .. } if uid != *own => {
            Err(Failure::refused(path.as_str(), format!("cannot be given to uid {uid} by '{}'", name.as_str()))
                .why("keyward works in a home only as the user")
                .hint(format!("chown -h {uid} {path}")))
        }
        _ => Ok(()),
    }
}

/// What stands at `path` beneath a home may be read as the user.
pub fn readable_in_home(path: &AbsPath, meta: &Meta, uid: u32) -> Result<()> {
    no_links(path, meta)?;
    if meta.kind != FileKind::File {
        return Err(Failure::refused(path.as_str(), format!("is {} where a file has to be", kind_word(meta.kind)))
            .hint(format!("look at it and move it away: ls -ld {path}")));
    }
    if meta.uid == uid || meta.uid == 0 { Ok(()) } else { Err(foreign(path, meta)) }
}

/// A missing parent of what is to be put down.
pub fn no_parent(path: &AbsPath) -> Failure {
    let parent = path.parent().map_or_else(|| "/".to_owned(), |parent| parent.as_str().to_owned());
    Failure::failed(path.as_str(), "its directory is not there").hint(format!("mkdir -p {parent}"))
}

/// A path that is not beneath the acting user's home.
pub fn outside_home(path: &AbsPath, user: &UserName, home: &AbsPath) -> Failure {
    Failure::refused(path.as_str(), format!("is not beneath {home}, the home of '{}'", user.as_str()))
        .why("work in the name of a user stays beneath its home")
        .hint(format!("getent passwd {}", user.as_str()))
}

/// `/` itself is nobody's to replace.
pub fn root_directory(path: &AbsPath) -> Failure {
    Failure::refused(path.as_str(), "the root directory is not replaced").hint("name a file below it")
}

/// A home is made by root, beneath a parent that is root's.
pub fn home_itself(path: &AbsPath) -> Failure {
    Failure::refused(path.as_str(), "a home is not changed in the name of its user").hint("change what is below it")
}

/// A home as passwd(5) has it, if it is a plain absolute path and not `/`.
pub fn home_path(user: &UserName, home: &str) -> Result<AbsPath> {
    let user = user.as_str();
    AbsPath::parse(home).ok().filter(|path| path.as_str() != "/").ok_or_else(|| {
        Failure::refused(format!("/etc/passwd: {user}"), "the home is not a plain absolute path below '/'")
            .why(format!("'{}'", home.escape_default()))
            .hint(format!("usermod -d /home/{user} {user}"))
    })
}

/// Work in the name of an account that is not in passwd(5), where something stands.
pub fn no_account(user: &UserName, path: &AbsPath) -> Failure {
    Failure::unknown(path.as_str(), "stands there, and its user is no local account")
        .why(format!("there is no '{}' in /etc/passwd", user.as_str()))
        .hint(format!("getent passwd {}; ls -ld {path}", user.as_str()))
}

/// A file beyond the limit of what is read.
pub fn too_large(path: &AbsPath, limit: u64) -> Failure {
    Failure::unknown(path.as_str(), format!("is larger than {limit} bytes"))
        .why("no file that keyward manages is")
        .hint(format!("ls -l {path}"))
}

/// Something else than a file is to be read.
pub fn no_file(path: &AbsPath) -> Failure {
    Failure::unknown(path.as_str(), "is no regular file").hint(format!("ls -ld {path}"))
}

/// Something else than a directory is to be listed.
pub fn no_directory(path: &AbsPath) -> Failure {
    Failure::unknown(path.as_str(), "is no directory").hint(format!("ls -ld {path}"))
}

/// A directory that is to be removed.
pub fn not_empty(path: &AbsPath) -> Failure {
    Failure::failed(path.as_str(), "cannot be removed").why("the directory is not empty").hint(format!("ls -A {path}"))
}

/// A daemon that is to be sent a signal.
pub fn not_running(pidfile: &AbsPath, program: &AbsPath, what: &str) -> Failure {
    Failure::failed(program.as_str(), what).hint(format!("start it; its pid file is {pidfile}"))
}

/// A database and the lock file that the shadow tools keep beside it.
pub fn shadow_lock(db: Database) -> Option<(AbsPath, AbsPath)> {
    let file = db.path();
    let lock = file.parent()?.join(&format!("{}.lock", file.file_name())).ok()?;
    Some((file, lock))
}

/// An empty lock file makes the shadow tools fail for ever: an account made now could not be removed by them.
pub fn stale_lock(file: &AbsPath, lock: &AbsPath) -> Failure {
    Failure::refused(lock.as_str(), "is an empty lock file, left by a crash")
        .why(format!("useradd, usermod and passwd fail on {file} as long as it is there"))
        .hint(format!("rm {lock}"))
}
