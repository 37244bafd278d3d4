//! A name in a directory held open: capture, put, remove, restore. All by descriptor, each replacement by rename.
//! The same code serves root and, in the child that has become one, a user. Must not resolve paths.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{Mode, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{AccessFlags, Gid, Uid, UnlinkatFlags, faccessat, fchown, fchownat, symlinkat, unlinkat};
use xattr::FileExt;

use super::walk::{self, Dir, meta_of};
use super::{fault, io_fault, tree};
use crate::error::{Failure, Kind, Result};
use crate::host::rules::{self, Who};
use crate::host::{FileKind, Image, Meta, Node, READ_LIMIT};
use crate::types::AbsPath;

/// Extended attributes by name.
type Xattrs = BTreeMap<String, Vec<u8>>;

/// Beginning and end of the names of files in the making: the dots keep sudo, sshd and run-parts from reading them.
const TEMP: (&str, &str) = (".keyward-", ".tmp");

/// Room on a disk is given out in blocks; all usual file systems have this size or a smaller one.
const BLOCK: u64 = 4096;
/// How many names are tried; only leftovers of a killed run with the same pid can stand in the way.
const TRIES: u32 = 100;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A name in an open directory, and in whose name work is done there.
pub struct Place<'a> {
    dir: &'a Dir,
    name: &'a str,
    path: &'a AbsPath,
    who: &'a Who,
}

/// Mode, owner and attributes of a node in the making.
struct Attributes<'a> {
    mode: u32,
    ids: (u32, u32),
    /// `None`: leave those that the system gave a new node.
    xattrs: Option<&'a Xattrs>,
}

/// A file in the making; gone with this value unless renamed.
struct Temp<'a> {
    dir: &'a Dir,
    name: String,
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if unlinkat(&self.dir.file, self.name.as_str(), UnlinkatFlags::NoRemoveDir) == Err(Errno::EISDIR) {
            let _ = unlinkat(&self.dir.file, self.name.as_str(), UnlinkatFlags::RemoveDir);
        }
    }
}

/// Makes something under a name that is still free; what stands there already is never touched.
fn fresh<'a, T>(dir: &'a Dir, make: impl Fn(&str) -> nix::Result<T>) -> nix::Result<(Temp<'a>, T)> {
    let (head, tail) = TEMP;
    for _ in 0..TRIES {
        let name = format!("{head}{}-{}{tail}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        match make(&name) {
            Ok(made) => return Ok((Temp { dir, name }, made)),
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::EEXIST)
}

impl<'a> Place<'a> {
    /// `name` in `dir`.
    pub const fn new(dir: &'a Dir, name: &'a str, path: &'a AbsPath, who: &'a Who) -> Self {
        Self { dir, name, path, who }
    }

    /// lstat(2).
    pub fn meta(&self) -> Result<Option<Meta>> {
        walk::look(&self.dir.file, self.name, self.path)
    }

    fn failed(&self, what: &str, errno: Errno) -> Failure {
        fault(Kind::Failed, self.path, what, errno)
    }

    /// A state of the host that keyward must not touch: flags of chattr(1), mount points, a read-only file system.
    fn stuck(&self, what: &str, errno: Errno) -> Failure {
        let refused = matches!(errno, Errno::EPERM | Errno::EBUSY | Errno::EROFS);
        fault(if refused { Kind::Refused } else { Kind::Failed }, self.path, what, errno)
    }

    fn io_failed(&self, what: &str, error: &std::io::Error) -> Failure {
        io_fault(Kind::Failed, self.path, what, error)
    }

    /// Opens what stands here for reading, following nothing and blocking on nothing.
    fn open(&self, kind: FileKind) -> Result<(File, Meta)> {
        let mut flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        if kind == FileKind::Dir {
            flags |= OFlag::O_DIRECTORY;
        }
        let unknown = |errno| fault(Kind::Unknown, self.path, "cannot be read", errno);
        let fd = openat(&self.dir.file, self.name, flags, Mode::empty()).map_err(unknown)?;
        let meta = meta_of(&fstat(&fd).map_err(unknown)?);
        if meta.kind == kind {
            Ok((File::from(fd), meta))
        } else {
            Err(Failure::unknown(self.path.as_str(), "was replaced while it was being read").hint("run again"))
        }
    }

    /// The bytes of the regular file here, as a user sees them in its home.
    pub fn read(&self, uid: u32) -> Result<Option<Vec<u8>>> {
        let Some(meta) = self.meta()? else { return Ok(None) };
        rules::readable_in_home(self.path, &meta, uid)?;
        let (file, meta) = self.open(FileKind::File)?;
        rules::readable_in_home(self.path, &meta, uid)?;
        bounded(&file, self.path).map(Some)
    }

    /// Everything needed to put back what stands here.
    pub fn capture(&self) -> Result<Image> {
        self.changeable(".")?;
        let Some(meta) = self.meta()? else { return Ok(Image::Absent) };
        rules::capturable(self.path, &meta, self.who)?;
        walk::judge_written(self.dir, self.who)?;
        if meta.kind == FileKind::Link {
            let target = readlinkat(&self.dir.file, self.name)
                .map_err(|errno| fault(Kind::Unknown, self.path, "cannot be read", errno))?;
            let target = target.into_string().map_err(|_| {
                Failure::refused(self.path.as_str(), "is a link whose target is not UTF-8").hint("make the link again")
            })?;
            return Ok(Image::Link { target, uid: meta.uid, gid: meta.gid });
        }
        let (file, meta) = self.open(meta.kind)?;
        rules::capturable(self.path, &meta, self.who)?;
        self.changeable(self.name)?;
        let xattrs = xattrs_of(&file)
            .map_err(|error| io_fault(Kind::Unknown, self.path, "its extended attributes cannot be read", &error))?;
        let Meta { mode, uid, gid, .. } = meta;
        match meta.kind {
            FileKind::Dir => Ok(Image::Dir { mode, uid, gid, xattrs }),
            _ => Ok(Image::File { content: bounded(&file, self.path)?, mode, uid, gid, xattrs }),
        }
    }

    /// Asks the kernel whether `name` in the directory could be changed: immutable files and read-only file systems are found before the
    /// first change and not midway. access(2) changes nothing, not even for watchers.
    fn changeable(&self, name: &str) -> Result<()> {
        match faccessat(&self.dir.file, name, AccessFlags::W_OK, AtFlags::empty()) {
            Err(errno @ (Errno::EPERM | Errno::EROFS)) => {
                Err(fault(Kind::Refused, self.path, "cannot be changed", errno))
            }
            _ => Ok(()),
        }
    }

    /// Puts a node down, owned as it says.
    pub fn put(&self, node: &Node) -> Result<()> {
        walk::judge_written(self.dir, self.who)?;
        let (Node::File { owner, .. } | Node::Dir { owner, .. }) = node;
        rules::givable(self.path, self.who, self.who.ids(*owner).0)?;
        match node {
            Node::File { content, mode, owner } => {
                let old = self.meta()?;
                let kept = old.map(|meta| self.kept_xattrs(&meta)).transpose()?;
                let attributes = Attributes { mode: *mode, ids: self.who.ids(*owner), xattrs: kept.as_ref() };
                self.put_file(content, &attributes)
            }
            Node::Dir { mode, owner } => {
                self.put_dir(&Attributes { mode: *mode, ids: self.who.ids(*owner), xattrs: None })
            }
        }
    }

    fn kept_xattrs(&self, meta: &Meta) -> Result<Xattrs> {
        rules::replace_by_file(self.path, meta, self.who)?;
        let (file, _) = self.open(FileKind::File)?;
        xattrs_of(&file).map_err(|error| self.io_failed("its extended attributes cannot be read", &error))
    }

    fn put_file(&self, content: &[u8], attributes: &Attributes<'_>) -> Result<()> {
        if let Some(meta) = self.meta()? {
            rules::replace_by_file(self.path, &meta, self.who)?;
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(attributes.mode & 0o700);
        let (temp, fd) = fresh(self.dir, |name| openat(&self.dir.file, name, flags, mode))
            .map_err(|errno| self.stuck("no new file can be made in its directory", errno))?;
        let mut file = File::from(fd);
        file.write_all(content).map_err(|error| self.io_failed("cannot be written", &error))?;
        self.dress(&file, attributes)?;
        file.sync_all().map_err(|error| self.io_failed("cannot be written to the disk", &error))?;
        self.rename(temp)
    }

    fn put_dir(&self, attributes: &Attributes<'_>) -> Result<()> {
        if let Some(meta) = self.meta()? {
            rules::become_dir(self.path, &meta, self.who)?;
            let (file, meta) = self.open(FileKind::Dir)?;
            rules::become_dir(self.path, &meta, self.who)?;
            self.dress(&file, attributes)?;
            return file.sync_all().map_err(|error| self.io_failed("cannot be written to the disk", &error));
        }
        let (temp, ()) = fresh(self.dir, |name| mkdirat(&self.dir.file, name, Mode::S_IRWXU))
            .map_err(|errno| self.stuck("the directory cannot be made", errno))?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.dir.file, temp.name.as_str(), flags, Mode::empty())
            .map_err(|errno| self.failed("the new directory cannot be opened", errno))?;
        let file = File::from(fd);
        self.dress(&file, attributes)?;
        file.sync_all().map_err(|error| self.io_failed("cannot be written to the disk", &error))?;
        self.rename(temp)
    }

    /// Owner, attributes, then mode: a change of owner clears set-id bits and capabilities, and an ACL sets group bits.
    fn dress(&self, file: &File, attributes: &Attributes<'_>) -> Result<()> {
        let (uid, gid) = attributes.ids;
        let now = meta_of(&fstat(file).map_err(|errno| self.failed("cannot be looked at", errno))?);
        if (now.uid, now.gid) != (uid, gid) {
            fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|errno| self.failed(&format!("cannot be given to {uid}:{gid}"), errno))?;
        }
        if let Some(wanted) = attributes.xattrs {
            set_xattrs(file, wanted)
                .map_err(|(name, error)| self.io_failed(&format!("attribute {name} cannot be set"), &error))?;
        }
        fchmod(file, Mode::from_bits_truncate(attributes.mode))
            .map_err(|errno| self.failed("its mode cannot be set", errno))
    }

    fn rename(&self, temp: Temp<'_>) -> Result<()> {
        renameat(&self.dir.file, temp.name.as_str(), &self.dir.file, self.name)
            .map_err(|errno| self.stuck("cannot be replaced", errno))?;
        // The name is gone from the directory, so there is nothing left for the guard.
        std::mem::forget(temp);
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<()> {
        self.dir.file.sync_all().map_err(|error| self.io_failed("its directory cannot be written to the disk", &error))
    }

    /// Removes what stands here, and what a killed run left half made beside it; nothing there is success.
    pub fn remove(&self) -> Result<()> {
        sweep(self.dir);
        let Some(meta) = self.meta()? else { return Ok(()) };
        walk::judge_written(self.dir, self.who)?;
        rules::removable(self.path, &meta, self.who)?;
        let how = if meta.kind == FileKind::Dir { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        match unlinkat(&self.dir.file, self.name, how) {
            Ok(()) => self.sync_dir(),
            Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(self.stuck("cannot be removed", errno)),
        }
    }

    /// Puts an image back, and clears away what a killed run left half made beside it.
    pub fn restore(&self, image: &Image) -> Result<()> {
        sweep(self.dir);
        if let Image::File { uid, .. } | Image::Dir { uid, .. } | Image::Link { uid, .. } = image {
            rules::givable(self.path, self.who, *uid)?;
        }
        match image {
            Image::Absent => self.remove(),
            Image::File { content, mode, uid, gid, xattrs } => {
                walk::judge_written(self.dir, self.who)?;
                let attributes = Attributes { mode: *mode, ids: (*uid, *gid), xattrs: Some(xattrs) };
                match self.put_file(content, &attributes) {
                    Err(failure) if failure.kind == Kind::Failed => {
                        self.overwrite(content, &attributes).map_err(|_| failure)
                    }
                    done => done,
                }
            }
            Image::Dir { mode, uid, gid, xattrs } => {
                walk::judge_written(self.dir, self.who)?;
                self.put_dir(&Attributes { mode: *mode, ids: (*uid, *gid), xattrs: Some(xattrs) })
            }
            Image::Link { target, uid, gid } => self.restore_link(target, *uid, *gid),
        }
    }

    /// The way back must work on a full disk, where no second file can be made: as the last resort the file that stands
    /// here is overwritten, if the old content takes no more room. Not atomic; a restore may be repeated after a crash.
    fn overwrite(&self, content: &[u8], attributes: &Attributes<'_>) -> Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = openat(&self.dir.file, self.name, flags, Mode::empty())
            .map_err(|errno| self.failed("cannot be written", errno))?;
        let meta = meta_of(&fstat(&fd).map_err(|errno| self.failed("cannot be looked at", errno))?);
        rules::replace_by_file(self.path, &meta, self.who)?;
        let blocks = |bytes: u64| bytes.div_ceil(BLOCK);
        if blocks(content.len() as u64) > blocks(meta.size) {
            return Err(self.failed("cannot be written", Errno::ENOSPC));
        }
        let mut file = File::from(fd);
        file.write_all(content)
            .and_then(|()| file.set_len(content.len() as u64))
            .map_err(|error| self.io_failed("cannot be written", &error))?;
        self.dress(&file, attributes)?;
        file.sync_all().map_err(|error| self.io_failed("cannot be written to the disk", &error))
    }

    fn restore_link(&self, target: &str, uid: u32, gid: u32) -> Result<()> {
        walk::judge_written(self.dir, self.who)?;
        match self.meta()? {
            Some(meta) if meta.kind == FileKind::Link => {
                let now =
                    readlinkat(&self.dir.file, self.name).map_err(|errno| self.failed("cannot be read", errno))?;
                if now.to_str() == Some(target) && (meta.uid, meta.gid) == (uid, gid) {
                    return Ok(());
                }
                rules::replace_by_file(self.path, &meta, self.who)?;
            }
            Some(meta) => rules::replace_by_file(self.path, &meta, self.who)?,
            None => {}
        }
        let (temp, ()) = fresh(self.dir, |name| symlinkat(target, &self.dir.file, name))
            .map_err(|errno| self.failed("the link cannot be made", errno))?;
        let ids = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fchownat(&self.dir.file, temp.name.as_str(), ids.0, ids.1, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|errno| self.failed(&format!("cannot be given to {uid}:{gid}"), errno))?;
        self.rename(temp)
    }
}

/// Removes files in the making whose maker is gone. On the way back, where the tree must become what it was, where the
/// user databases are written, and where keyward keeps its own.
pub fn sweep(dir: &Dir) {
    let Ok(names) = names_of(&dir.file) else { return };
    for name in names {
        let (head, tail) = TEMP;
        let maker =
            name.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail)).and_then(|rest| rest.split_once('-'));
        let Some(pid) = maker.and_then(|(pid, _)| pid.parse::<i32>().ok()) else { continue };
        let Ok(stat) = fstatat(&dir.file, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        if !tree::may_have_made(pid, (stat.st_ctime, stat.st_ctime_nsec)) {
            drop(Temp { dir, name });
        }
    }
}

/// Reads a file up to [`READ_LIMIT`]; more is a failure.
pub fn bounded(file: &File, path: &AbsPath) -> Result<Vec<u8>> {
    limited(file, path, READ_LIMIT)
}

/// Reads a file up to `limit` bytes; more is a failure.
pub fn limited(file: &File, path: &AbsPath, limit: u64) -> Result<Vec<u8>> {
    // Most files fit, and those in /proc are made anew for each read.
    let mut bytes = Vec::with_capacity(4096);
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| io_fault(Kind::Unknown, path, "cannot be read", &error))?;
    if bytes.len() as u64 > limit {
        return Err(rules::too_large(path, limit));
    }
    Ok(bytes)
}

/// The names in an open directory, sorted by byte. Names that are not UTF-8 are shown with replacement characters.
pub fn names_of(dir: &File) -> nix::Result<Vec<String>> {
    let mut stream =
        nix::dir::Dir::openat(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut names = Vec::new();
    for entry in stream.iter() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn xattrs_of(file: &File) -> std::io::Result<Xattrs> {
    let names = match file.list_xattr() {
        Ok(names) => names,
        // A file system without attributes has none.
        Err(error) if error.raw_os_error() == Some(Errno::ENOTSUP as i32) => return Ok(Xattrs::new()),
        Err(error) => return Err(error),
    };
    let mut xattrs = Xattrs::new();
    for name in names {
        let Ok(name) = name.into_string() else { continue };
        if let Some(value) = file.get_xattr(&name)? {
            xattrs.insert(name, value);
        }
    }
    Ok(xattrs)
}

/// Makes the attributes of `file` those of `wanted`. Labels that the kernel's policy gave a new file cannot be taken off.
fn set_xattrs(file: &File, wanted: &Xattrs) -> std::result::Result<(), (String, std::io::Error)> {
    let present = xattrs_of(file).map_err(|error| ("list".to_owned(), error))?;
    for (name, value) in wanted {
        if present.get(name) != Some(value) {
            file.set_xattr(name, value).map_err(|error| (name.clone(), error))?;
        }
    }
    for name in present.keys().filter(|name| !wanted.contains_key(*name) && !name.starts_with("security.")) {
        file.remove_xattr(name).map_err(|error| (name.clone(), error))?;
    }
    Ok(())
}
