//! The user databases under the lock of lckpwdf(3), each file replaced at most once.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::libc;
use nix::sys::stat::Mode;

use super::act::{self, Work};
use super::place::limited;
use super::{fault, walk};
use crate::error::{Failure, Kind, Result};
use crate::formats::accounts::Records;
use crate::host::edits::{self, Databases, Edited};
use crate::host::rules;
use crate::host::{AccountEdit, Database, Image, Node, Owner};
use crate::types::AbsPath;

/// lckpwdf(3) gives up after this long, and so do the shadow tools.
const LOCK_WAIT: Duration = Duration::from_secs(15);
/// Some hosts have tens of thousands of accounts.
const DATABASE_LIMIT: u64 = 64 << 20;

/// Locks of fcntl(2) belong to the process, so threads need one of their own.
static HERE: Mutex<()> = Mutex::new(());

/// The held lock; gone with this value.
struct Lock {
    _file: File,
    _here: MutexGuard<'static, ()>,
}

/// Applies edits and gives back their inverse; `write` false only computes it.
///
/// # Errors
/// As [`crate::host::Host::account`].
pub fn account(edits: &[AccountEdit], write: bool) -> Result<Vec<AccountEdit>> {
    if !write {
        return edited(edits).map(|(_, edited)| edited.undo);
    }
    let _lock = lock()?;
    for edit in edits {
        no_stale_lock(edits::database(edit))?;
    }
    // What a killed run left half made beside them goes now: an undo of entries looks at no other file here.
    super::sweep(&AbsPath::fixed("/etc"))?;
    let (before, edited) = edited(edits)?;
    let mut written: Vec<Database> = Vec::new();
    for (db, bytes) in &edited.writes {
        if let Err(failure) = replace(*db, bytes) {
            // All or nothing: what was written goes back to what it was, still under the lock.
            for db in written.iter().rev() {
                if let Some(records) = before.get(db) {
                    replace(*db, &records.render())?;
                }
            }
            return Err(failure);
        }
        written.push(*db);
    }
    Ok(edited.undo)
}

fn edited(edits: &[AccountEdit]) -> Result<(Databases, Edited)> {
    let mut before = Databases::new();
    for db in edits.iter().map(edits::database) {
        if !before.contains_key(&db)
            && let Some(bytes) = read_database(db)?
        {
            before.insert(db, Records::parse(&bytes));
        }
    }
    let edited = edits::apply(&before, edits)?;
    Ok((before, edited))
}

/// The bytes of a database; `None` when it is not there.
///
/// # Errors
/// When it is no regular file or cannot be read.
pub fn read_database(db: Database) -> Result<Option<Vec<u8>>> {
    let path = db.path();
    match super::open_followed(&path)? {
        Some(file) => limited(&file, &path, DATABASE_LIMIT).map(Some),
        None => Ok(None),
    }
}

/// Replaces a database, keeping its mode, owner and attributes.
fn replace(db: Database, bytes: &[u8]) -> Result<()> {
    let path = db.path();
    let act::Done::Meta(meta) = act::as_root(&path, &Work::Meta)? else {
        return Err(Failure::failed(path.as_str(), "went away while it was edited").hint("run again"));
    };
    let owner = Owner::Ids { uid: meta.uid, gid: meta.gid };
    let node = Node::File { content: bytes.to_vec(), mode: meta.mode, owner };
    act::as_root(&path, &Work::Put(node)).map(|_| ())
}

/// Takes the lock of lckpwdf(3): a write lock on /etc/.pwd.lock.
fn lock() -> Result<Lock> {
    let path = AbsPath::fixed("/etc/.pwd.lock");
    let here = HERE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(dir) = walk::trusted(&AbsPath::fixed("/etc"))? else {
        return Err(Failure::failed("/etc", "is not there").hint("look at the root directory: ls -l /"));
    };
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let fd = openat(&dir.file, ".pwd.lock", flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(|errno| fault(Kind::Failed, &path, "the lock of the user databases cannot be opened", errno))?;
    let file = File::from(fd);
    let until = Instant::now() + LOCK_WAIT;
    let mut pause = Duration::from_millis(1);
    loop {
        match fcntl(&file, FcntlArg::F_SETLK(&whole(libc::F_WRLCK))) {
            Ok(_) => return Ok(Lock { _file: file, _here: here }),
            Err(Errno::EACCES | Errno::EAGAIN) if Instant::now() < until => {}
            Err(Errno::EACCES | Errno::EAGAIN) => return Err(busy(&path, holder(&file))),
            Err(errno) => return Err(fault(Kind::Failed, &path, "the user databases cannot be locked", errno)),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn whole(kind: libc::c_int) -> libc::flock {
    #[allow(clippy::cast_possible_truncation, reason = "lock kinds and SEEK_SET are small constants")]
    libc::flock { l_type: kind as _, l_whence: libc::SEEK_SET as _, l_start: 0, l_len: 0, l_pid: 0 }
}

fn holder(file: impl AsFd) -> Option<i32> {
    let mut found = whole(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_GETLK(&mut found)).ok()?;
    (found.l_pid > 0).then_some(found.l_pid)
}

fn busy(path: &AbsPath, pid: Option<i32>) -> Failure {
    let who = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}{}", super::named(pid)));
    let what = "the user databases are locked";
    Failure::new(Kind::Busy, path.as_str(), what).why(format!("{who} has held the lock for 15 s")).hint(
        pid.map_or_else(|| "wait for it, then run again".to_owned(), |pid| format!("wait for it to end: ps -fp {pid}")),
    )
}

/// The shadow tools lock each file besides, by a file holding a pid.
fn no_stale_lock(db: Database) -> Result<()> {
    let Some((file, path)) = rules::shadow_lock(db) else { return Ok(()) };
    let act::Done::Meta(meta) = act::as_root(&path, &Work::Meta)? else { return Ok(()) };
    if meta.size == 0 {
        return Err(rules::stale_lock(&file, &path));
    }
    let text = match act::as_root(&path, &Work::Capture)? {
        act::Done::Image(Image::File { content, .. }) => String::from_utf8_lossy(&content).into_owned(),
        _ => String::new(),
    };
    let pid = text.trim_end_matches('\0').trim().parse::<i32>().ok().filter(|pid| *pid > 0);
    match pid {
        Some(pid) if nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) != Err(Errno::ESRCH) => Err(
            Failure::new(Kind::Busy, path.as_str(), format!("{file} is locked by process {pid}{}", super::named(pid)))
                .hint(format!("wait for it to end: ps -fp {pid}")),
        ),
        // A dead holder's lock is broken by whoever comes next, as the shadow tools do; it is not ours to remove.
        _ => Ok(()),
    }
}
