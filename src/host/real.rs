//! The machine itself, rooted at `/`. The one place that opens system files, starts programs and changes either.

mod act;
mod ahead;
mod child;
mod databases;
mod diag;
mod place;
mod process;
mod sockets;
mod stage;
mod tracking;
mod tree;
mod user;
mod walk;

pub use process::{keep_to_itself, prepare_process, prepare_process_with};
pub use stage::sweep as sweep_stages;
pub use user::{AS_USER_ARG, as_user_main};

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::act::{Done, Work};
use super::{
    AccountEdit, Actor, Command, FileKind, Host, Image, Listener, Meta, Node, Output, Owner, Probe, Staged, rules,
};
use crate::error::{Failure, Kind, Result};
use crate::types::{AbsPath, Port, Proto, UserName};

/// The machine this process runs on.
#[derive(Debug)]
pub struct RealHost {
    program: PathBuf,
    /// One child per user, and per group beyond the user's own that a restore needs.
    sessions: Mutex<BTreeMap<(UserName, Option<u32>), user::Session>>,
    ahead: ahead::Ahead,
}

/// Longest program that is looked into.
const PROGRAM_LIMIT: u64 = 16 << 20;

/// How long a daemon may take to start over after a hangup.
const HANGUP_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// What changes when a daemon writes its pid file anew; `None` while there is no pid in it.
fn pid_file_mark(path: &AbsPath) -> Option<(u64, i64, i64)> {
    let meta = std::fs::metadata(path.as_path()).ok()?;
    (meta.size() > 0).then_some((meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

/// Waits until `done`, at most [`HANGUP_LIMIT`]; false when it took longer.
fn wait_until(done: impl Fn() -> bool) -> bool {
    let start = std::time::Instant::now();
    while !done() {
        if start.elapsed() > HANGUP_LIMIT {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    true
}

impl Default for RealHost {
    fn default() -> Self {
        Self::new()
    }
}

impl RealHost {
    /// The machine; work as a user is done by this very program, which must hand [`AS_USER_ARG`] to [`as_user_main`].
    pub fn new() -> Self {
        Self::with_program("/proc/self/exe")
    }

    /// The same with another program for the children, for tests.
    pub fn with_program(path: impl Into<PathBuf>) -> Self {
        tree::adopt_orphans();
        Self { program: path.into(), sessions: Mutex::default(), ahead: ahead::Ahead::default() }
    }

    fn work(&self, path: &AbsPath, actor: &Actor, work: &Work) -> Result<Done> {
        let Actor::User(user) = actor else { return act::as_root(path, work) };
        let group = match work {
            Work::Restore(Image::File { gid, .. } | Image::Dir { gid, .. } | Image::Link { gid, .. })
            | Work::Put(
                Node::File { owner: Owner::Ids { gid, .. }, .. } | Node::Dir { owner: Owner::Ids { gid, .. }, .. },
            ) => Some(*gid),
            _ => None,
        };
        let key = (user.clone(), group);
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut session = match sessions.remove(&key) {
            Some(session) => session,
            None => user::Session::start(&self.program, user, group)?,
        };
        let answer = session.ask(path, work)?;
        sessions.insert(key, session);
        answer
    }

    /// The children know accounts and homes as they were when they began.
    fn forget_users(&self) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A failed system call on `path`, with the usual reasons and how to see them.
fn fault(kind: Kind, path: &AbsPath, what: &str, errno: Errno) -> Failure {
    let (why, hint) = match errno {
        Errno::EPERM => (
            "operation not permitted: it or its directory is immutable or append-only, or root is confined".to_owned(),
            format!("lsattr -d {path} {}; take the flag off with chattr", parent_text(path)),
        ),
        Errno::EROFS => ("the file system is read-only".to_owned(), format!("findmnt -T {path}")),
        Errno::EBUSY => ("it is a mount point or in use".to_owned(), format!("findmnt {path}")),
        Errno::ENOSPC | Errno::EDQUOT => {
            (errno.desc().to_lowercase(), format!("df -h {0}; df -i {0}", parent_text(path)))
        }
        Errno::ENOTEMPTY => ("the directory is not empty".to_owned(), format!("ls -A {path}")),
        Errno::EACCES => ("permission denied".to_owned(), format!("namei -l {path}")),
        _ => (errno.desc().to_lowercase(), format!("ls -ld {path}")),
    };
    Failure::new(kind, path.as_str(), what).why(why).hint(hint)
}

fn parent_text(path: &AbsPath) -> String {
    path.parent().map_or_else(|| "/".to_owned(), |parent| parent.to_string())
}

fn io_fault(kind: Kind, path: &AbsPath, what: &str, error: &std::io::Error) -> Failure {
    match error.raw_os_error() {
        Some(code) => fault(kind, path, what, Errno::from_raw(code)),
        None => Failure::new(kind, path.as_str(), what).why(error).hint(format!("ls -ld {path}")),
    }
}

/// ` (NAME)` of a process, or nothing.
fn named(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .map(|name| format!(" ({})", name.trim_end()))
        .unwrap_or_default()
}

/// Opens a regular file for reading the way daemons do, following links but never blocking; `None` when it is not there.
/// What is looked at is what is read: a user who swaps it in between gets nothing else opened, and opening some devices
/// acts on them.
fn open_followed(path: &AbsPath) -> Result<Option<File>> {
    let looked = |error: &std::io::Error| io_fault(Kind::Unknown, path, "cannot be looked at", error);
    let found = match File::options().read(true).custom_flags(libc::O_PATH).open(path.as_path()) {
        Ok(found) => found,
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err(looked(&error)),
    };
    if !found.metadata().map_err(|error| looked(&error))?.is_file() {
        return Err(rules::no_file(path));
    }
    let held = format!("/proc/self/fd/{}", found.as_raw_fd());
    match File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(held) {
        Ok(file) => Ok(Some(file)),
        Err(error) => Err(io_fault(Kind::Unknown, path, "cannot be read", &error)),
    }
}

/// Nothing is there, and nothing can be: a parent is missing or no directory.
fn absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

fn root_meta(path: &AbsPath) -> Result<Option<Meta>> {
    let meta = match std::fs::symlink_metadata(path.as_path()) {
        Ok(meta) => meta,
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err(io_fault(Kind::Unknown, path, "cannot be looked at", &error)),
    };
    let kind = match meta.file_type() {
        kind if kind.is_file() => FileKind::File,
        kind if kind.is_dir() => FileKind::Dir,
        kind if kind.is_symlink() => FileKind::Link,
        _ => FileKind::Other,
    };
    Ok(Some(Meta {
        kind,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        size: meta.size(),
        links: meta.nlink(),
    }))
}

fn root_list(path: &AbsPath) -> Result<Option<Vec<String>>> {
    let fail = |error: std::io::Error| io_fault(Kind::Unknown, path, "cannot be listed", &error);
    let entries = match std::fs::read_dir(path.as_path()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return if root_meta(path)?.is_some() { Err(rules::no_directory(path)) } else { Ok(None) };
        }
        Err(error) => return Err(fail(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(fail)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(Some(names))
}

/// Removes from a directory of root's the files in the making of keyward processes that are gone.
///
/// # Errors
/// When the directory cannot be looked at, or somebody else could have written to it.
pub fn sweep(path: &AbsPath) -> Result<()> {
    if let Some(dir) = walk::trusted(path)? {
        place::sweep(&dir);
    }
    Ok(())
}

/// An answer of another shape than asked for cannot come from this program.
fn mismatch(path: &AbsPath) -> Failure {
    Failure::unknown(path.as_str(), "the child that works as the user answered something else")
        .hint("report this as a defect of keyward")
}

impl Probe for RealHost {
    fn meta(&self, path: &AbsPath, actor: &Actor) -> Result<Option<Meta>> {
        if *actor == Actor::Root {
            return root_meta(path);
        }
        match self.work(path, actor, &Work::Meta)? {
            Done::Meta(meta) => Ok(Some(meta)),
            Done::Absent => Ok(None),
            _ => Err(mismatch(path)),
        }
    }

    fn read(&self, path: &AbsPath, actor: &Actor) -> Result<Option<Vec<u8>>> {
        if *actor == Actor::Root {
            let read = || open_followed(path)?.map(|file| place::bounded(&file, path)).transpose();
            return self.ahead.file(path, read);
        }
        match self.work(path, actor, &Work::Read)? {
            Done::Read(bytes) => Ok(Some(bytes.0)),
            Done::Absent => Ok(None),
            _ => Err(mismatch(path)),
        }
    }

    fn list(&self, path: &AbsPath, actor: &Actor) -> Result<Option<Vec<String>>> {
        if *actor == Actor::Root {
            return self.ahead.names(path, || root_list(path));
        }
        match self.work(path, actor, &Work::List)? {
            Done::List(names) => Ok(Some(names)),
            Done::Absent => Ok(None),
            _ => Err(mismatch(path)),
        }
    }

    fn link(&self, path: &AbsPath) -> Result<Option<String>> {
        match std::fs::read_link(path.as_path()) {
            Ok(target) => Ok(Some(target.to_string_lossy().into_owned())),
            Err(error) if absent(&error) || error.kind() == std::io::ErrorKind::InvalidInput => Ok(None),
            Err(error) => Err(io_fault(Kind::Unknown, path, "cannot be looked at", &error)),
        }
    }

    fn ask(&self, command: &Command) -> Result<Output> {
        self.ahead.answer(command).unwrap_or_else(|| child::run(command, Kind::Unknown))
    }

    fn look_ahead(&self, questions: &[Command]) {
        self.ahead.add(questions);
    }

    fn expect(&self, user: &UserName) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Vacant(place) = sessions.entry((user.clone(), None))
            // What is wrong is told to whoever needs it.
            && let Ok(session) = user::Session::start(&self.program, user, None)
        {
            place.insert(session);
        }
    }

    fn end_look(&self) {
        self.ahead.end();
    }

    fn program(&self, path: &AbsPath) -> Option<Vec<u8>> {
        place::limited(&open_followed(path).ok()??, path, PROGRAM_LIMIT).ok()
    }

    fn own_program(&self) -> Result<Vec<u8>> {
        std::fs::read("/proc/self/exe").map_err(|error| {
            Failure::unknown("/proc/self/exe", "cannot be read").why(error).hint("mount -t proc proc /proc")
        })
    }

    fn has_program(&self, path: &str) -> bool {
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    }

    fn listeners(&self) -> Result<Vec<Listener>> {
        Ok(self.ahead.listeners()?.into_iter().filter(|socket| socket.proto == Proto::Tcp).collect())
    }

    fn datagram_sockets(&self) -> Result<Vec<Listener>> {
        Ok(self.ahead.listeners()?.into_iter().filter(|socket| socket.proto == Proto::Udp).collect())
    }

    fn ask_staged(&self, files: &[Staged], command: &Command) -> Result<Output> {
        staged(files, command)
    }

    fn ask_all_staged(&self, questions: &[(&[Staged], &Command)]) -> Vec<(Result<Output>, u64)> {
        questions.chunks(AT_ONCE).flat_map(all_staged).collect()
    }
}

/// Most programs that judge candidates at the same time: a host with many accounts and conditions has hundreds of them.
const AT_ONCE: usize = 8;

fn all_staged(questions: &[(&[Staged], &Command)]) -> Vec<(Result<Output>, u64)> {
    let ask = |(files, command): (&[Staged], &Command)| super::timed(|| staged(files, command));
    std::thread::scope(|scope| {
        let begun: Vec<_> = questions
            .iter()
            .map(|question| (*question, std::thread::Builder::new().spawn_scoped(scope, move || ask(*question))))
            .collect();
        // Without a thread it is asked when its turn comes.
        let answers = begun.into_iter().map(|(question, thread)| {
            thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(|| ask(question))
        });
        answers.collect()
    })
}

/// Asks with candidate files in a directory of their own.
fn staged(files: &[Staged], command: &Command) -> Result<Output> {
    let stage = stage::Stage::new(files)?;
    child::run(&stage.command(command), Kind::Unknown)
}

impl Host for RealHost {
    fn capture(&self, path: &AbsPath, actor: &Actor) -> Result<Image> {
        match self.work(path, actor, &Work::Capture)? {
            Done::Image(image) => Ok(image),
            _ => Err(mismatch(path)),
        }
    }

    fn put(&self, path: &AbsPath, actor: &Actor, node: &Node) -> Result<()> {
        self.work(path, actor, &Work::Put(node.clone())).map(|_| ())
    }

    fn remove(&self, path: &AbsPath, actor: &Actor) -> Result<()> {
        self.work(path, actor, &Work::Remove).map(|_| ())
    }

    fn restore(&self, path: &AbsPath, actor: &Actor, image: &Image) -> Result<()> {
        self.work(path, actor, &Work::Restore(image.clone())).map(|_| ())
    }

    fn account(&self, edits: &[AccountEdit]) -> Result<Vec<AccountEdit>> {
        self.forget_users();
        databases::account(edits, true)
    }

    fn account_undo(&self, edits: &[AccountEdit]) -> Result<Vec<AccountEdit>> {
        databases::account(edits, false)
    }

    fn run(&self, command: &Command) -> Result<Output> {
        self.forget_users();
        child::run(command, Kind::Failed)
    }

    fn hangup(&self, pidfile: &AbsPath, program: &AbsPath, by: Option<&Command>) -> Result<()> {
        let not_running = |what: &str| rules::not_running(pidfile, program, what);
        // While it starts over, the daemon has no pid file and ignores a hangup.
        wait_until(|| pid_file_mark(pidfile).is_some());
        let bytes = self.read(pidfile, &Actor::Root)?.ok_or_else(|| not_running("does not run: no pid file"))?;
        let pid = String::from_utf8_lossy(&bytes).trim().parse::<i32>().ok().filter(|pid| *pid > 0);
        let Some(pid) = pid else { return Err(not_running("its pid file holds no pid")) };
        let runs = std::fs::read_link(format!("/proc/{pid}/exe"))
            .map_err(|_| not_running("does not run: its pid file is stale"))?;
        // After an upgrade the running file is deleted, and the kernel says so behind its name.
        let runs = runs.to_string_lossy();
        if runs.strip_suffix(" (deleted)").unwrap_or(&runs) != program.as_str() {
            return Err(not_running("does not run: the pid in its pid file belongs to another program").why(runs));
        }
        let before = pid_file_mark(pidfile);
        match by {
            Some(command) => {
                let output = self.run(command)?;
                if !output.ok() {
                    let what = format!("exit code {}", output.code);
                    return Err(Failure::failed(command.argv.join(" "), what).why(output.last_line()));
                }
            }
            None => kill(Pid::from_raw(pid), Signal::SIGHUP)
                .map_err(|errno| not_running("cannot be sent a hangup").why(errno.desc().to_lowercase()))?,
        }
        let there = || pid_file_mark(pidfile).is_some_and(|mark| Some(mark) != before);
        if wait_until(there) { Ok(()) } else { Err(not_running("did not come back after the hangup")) }
    }

    fn keep_sessions(&self, ports: &[Port]) -> Result<()> {
        tracking::make_known(ports)
    }
}
