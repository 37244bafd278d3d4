//! The one seam to the machine: [`Probe`] reads, [`Host`] changes. Everything above is handed one of the two and never
//! opens a file or starts a program by itself. `real` is the machine, `memory` its twin for law tests.

mod account;
pub mod bytes_text;
mod edits;
pub mod ledger;
pub mod memory;
pub mod real;
mod rules;
pub mod shelf;

pub use account::{AccountEdit, Database};
pub use edits::{as_edited, would_change};

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::types::{AbsPath, Port, Proto, UserName};

/// Largest file that [`Probe::read`] gives back; a larger one is a failure, never a cut text.
pub const READ_LIMIT: u64 = 1 << 20;
/// Largest output of a child that is kept; more is a failure.
pub const OUTPUT_LIMIT: usize = 1 << 20;

/// In whose name file work is done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// root, in directories that only root can write.
    Root,
    /// This account, in a child that has become it, inside its home, following no link at all.
    User(UserName),
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A fifo, socket or device.
    Other,
}

/// lstat(2) of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Number of hard links.
    pub links: u64,
}

/// A before-image: all that is needed to put a path back byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Image {
    /// Nothing stood there.
    Absent,
    /// A regular file.
    File {
        /// Its bytes.
        #[serde(with = "bytes_text")]
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Extended attributes, ACLs and labels among them.
        xattrs: BTreeMap<String, Vec<u8>>,
    },
    /// A directory (its entries are not part of the image).
    Dir {
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Extended attributes.
        xattrs: BTreeMap<String, Vec<u8>>,
    },
    /// A symbolic link.
    Link {
        /// Where it points.
        target: String,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// Who owns what a step puts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The acting account and its primary group (root:root for [`Actor::Root`]).
    Actor,
    /// These ids.
    Ids {
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// What a step puts at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Node {
    /// A regular file; replaces one that is there by rename, keeping its extended attributes.
    File {
        /// The whole new content.
        #[serde(with = "bytes_text")]
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner.
        owner: Owner,
    },
    /// A directory; one that is there gets this mode and owner.
    Dir {
        /// Permission bits.
        mode: u32,
        /// Owner.
        owner: Owner,
    },
}

/// A child process: absolute program, clean environment, no standard input but `stdin`, a deadline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program (absolute) and arguments; never a shell string.
    pub argv: Vec<String>,
    /// Bytes for standard input; empty means /dev/null.
    #[serde(default, with = "bytes_text")]
    pub stdin: Vec<u8>,
    /// Environment beyond the fixed PATH, LC_ALL=C.UTF-8, TZ=UTC, HOME=/root.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// After this many milliseconds the child and all its descendants are killed and the run counts as failed.
    pub deadline_ms: u64,
    /// True: it is left alone at its deadline instead, since a kill would do harm (dpkg); the run counts as failed.
    #[serde(default)]
    pub never_killed: bool,
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Exit code; 128 + signal for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// A socket that takes what strangers send: TCP in state LISTEN, or UDP without a peer of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    /// Local address.
    pub address: std::net::IpAddr,
    /// Local port.
    pub port: u16,
    /// Its protocol.
    pub proto: Proto,
    /// Names (comm) of the processes that hold it; empty when they cannot be seen.
    pub programs: Vec<String>,
}

impl Command {
    /// A command with the usual deadline of 20 s.
    pub fn new<I, S>(argv: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            stdin: Vec::new(),
            env: BTreeMap::new(),
            deadline_ms: 20_000,
            never_killed: false,
        }
    }

    /// Leaves the child alone when its deadline is over.
    #[must_use]
    pub const fn never_killed(mut self) -> Self {
        self.never_killed = true;
        self
    }

    /// Gives the child this standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Adds a variable to the child's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the deadline.
    #[must_use]
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// The program's absolute path as written, or empty.
    pub fn program(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }
}

impl Output {
    /// True for exit code 0.
    pub const fn ok(&self) -> bool {
        self.code == 0
    }

    /// The last non-empty line of stderr, else of stdout, for messages; no more of it than a message can hold.
    pub fn last_line(&self) -> String {
        let last =
            |text: &str| text.lines().rev().find(|line| !line.trim().is_empty()).map(str::trim).map(str::to_owned);
        let line = last(&self.stderr).or_else(|| last(&self.stdout));
        line.map_or_else(|| format!("exit code {}", self.code), |line| line.chars().take(400).collect())
    }
}

/// Reads a machine. Never changes it.
///
/// File reads as [`Actor::Root`] follow links (as the daemons do) and open only regular files, without blocking; as
/// [`Actor::User`] they happen in a child that has become the user, beneath its home, and follow nothing.
/// Errors are [`crate::error::Kind::Unknown`]: "could not look" is never "is not there".
pub trait Probe {
    /// lstat(2); `None` when nothing is there.
    ///
    /// # Errors
    /// When the path cannot be looked at.
    fn meta(&self, path: &AbsPath, actor: &Actor) -> Result<Option<Meta>>;

    /// The bytes of a regular file up to [`READ_LIMIT`]; `None` when nothing is there.
    ///
    /// # Errors
    /// When it is not a regular file, too large or cannot be read.
    fn read(&self, path: &AbsPath, actor: &Actor) -> Result<Option<Vec<u8>>>;

    /// The names in a directory, sorted by byte; `None` when it is not there.
    ///
    /// # Errors
    /// When it is not a directory or cannot be read.
    fn list(&self, path: &AbsPath, actor: &Actor) -> Result<Option<Vec<String>>>;

    /// Where a symbolic link points; `None` when the path is absent or not a link.
    ///
    /// # Errors
    /// When it cannot be looked at.
    fn link(&self, path: &AbsPath) -> Result<Option<String>>;

    /// Runs a program that only reads, and gives back how it ended whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started, is killed by its deadline or floods its output. A missing program is
    /// [`crate::error::Kind::Unknown`] too; see [`Probe::has_program`].
    fn ask(&self, command: &Command) -> Result<Output>;

    /// Begins one look at the host, during which nothing of it is changed, or adds to the one that is on: the answers to
    /// these questions are fetched side by side, and each [`Probe::ask`] for one of them, and each [`Probe::listeners`],
    /// gives the answer of this look, as does each [`Probe::read`] and [`Probe::list`] as root. Speed only: a probe may do
    /// nothing here.
    fn look_ahead(&self, _questions: &[Command]) {}

    /// Makes ready to act as this account; see [`Actor::User`]. Speed only.
    fn expect(&self, _user: &UserName) {}

    /// Ends the look: from here on everything is asked anew.
    fn end_look(&self) {}

    /// The bytes of a program; `None` when they cannot be read, so that it has to be asked.
    fn program(&self, _path: &AbsPath) -> Option<Vec<u8>> {
        None
    }

    /// The bytes of the running program, whatever became of its name.
    ///
    /// # Errors
    /// When it cannot be read, or this host is not the one that runs it.
    fn own_program(&self) -> Result<Vec<u8>> {
        Err(crate::error::Failure::unknown("/proc/self/exe", "this host does not run the program"))
    }

    /// True when `path` is an executable regular file.
    fn has_program(&self, path: &str) -> bool;

    /// All TCP sockets in state LISTEN of this network namespace, both families. No UDP: a port number of the one says
    /// nothing of the other.
    ///
    /// # Errors
    /// When the kernel does not show them.
    fn listeners(&self) -> Result<Vec<Listener>>;

    /// All UDP sockets that have no peer, both families: services, but also clients that wait for an answer.
    ///
    /// # Errors
    /// When the kernel does not show them.
    fn datagram_sockets(&self) -> Result<Vec<Listener>>;

    /// Like [`Probe::ask`] with files laid into a fresh private directory first; every `{stage}` in `argv`, `stdin`
    /// and in the files' text becomes its path. The directory is gone afterwards.
    ///
    /// # Errors
    /// As [`Probe::ask`], or when the stage cannot be written.
    fn ask_staged(&self, files: &[Staged], command: &Command) -> Result<Output>;

    /// Several [`Probe::ask_staged`], each with its time in milliseconds, in their order; side by side where that is quicker.
    fn ask_all_staged(&self, questions: &[(&[Staged], &Command)]) -> Vec<(Result<Output>, u64)> {
        questions.iter().map(|(files, command)| timed(|| self.ask_staged(files, command))).collect()
    }
}

/// What `ask` gives, and how many milliseconds it took.
fn timed<T>(ask: impl FnOnce() -> T) -> (T, u64) {
    let begun = std::time::Instant::now();
    let answer = ask();
    (answer, u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// A candidate file for [`Probe::ask_staged`], mode 0600 (0440 below `sudoers.d`-like checks is the caller's `mode`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Relative path below the stage.
    pub name: String,
    /// Content.
    #[serde(with = "bytes_text")]
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Changes a machine. Only the engine holds one.
///
/// Every change of a file is atomic: old or new bytes, mode, owner and attributes, never a mixture, durable on return.
pub trait Host: Probe {
    /// Everything needed to restore `path` later.
    ///
    /// # Errors
    /// When it cannot be read whole, or is of a kind that cannot be restored (device, socket, hard-linked file).
    fn capture(&self, path: &AbsPath, actor: &Actor) -> Result<Image>;

    /// Puts a file or directory down.
    ///
    /// # Errors
    /// When the path or a parent is a link or belongs to the wrong account, or the write fails; then nothing changed.
    fn put(&self, path: &AbsPath, actor: &Actor, node: &Node) -> Result<()>;

    /// Removes a file, link or empty directory; nothing there is success.
    ///
    /// # Errors
    /// When it cannot be removed (a directory with entries among them).
    fn remove(&self, path: &AbsPath, actor: &Actor) -> Result<()>;

    /// Puts a before-image back. Where no second file can be made (a full disk), a file is overwritten in place if the old
    /// content takes no more room: then it is not atomic, and may be repeated after a crash.
    ///
    /// # Errors
    /// When the path or a parent is now a link, or the write fails.
    fn restore(&self, path: &AbsPath, actor: &Actor, image: &Image) -> Result<()>;

    /// Applies edits to the user databases under the lock of lckpwdf(3), each file replaced at most once, and gives
    /// back the edits that undo them, in the order in which to apply them.
    ///
    /// # Errors
    /// When the lock is held for 15 s (busy), an entry is not as the edit expects, or a write fails.
    fn account(&self, edits: &[AccountEdit]) -> Result<Vec<AccountEdit>>;

    /// What [`Host::account`] would give back, without changing anything.
    ///
    /// # Errors
    /// As [`Host::account`].
    fn account_undo(&self, edits: &[AccountEdit]) -> Result<Vec<AccountEdit>>;

    /// Runs a program that changes the machine.
    ///
    /// # Errors
    /// As [`Probe::ask`].
    fn run(&self, command: &Command) -> Result<Output>;

    /// Sends SIGHUP to the daemon whose pid stands in `pidfile` and whose executable is `program`, or has `by` send it
    /// (such as `systemctl reload`), and waits until it has started over and written its pid file anew: sshd ignores a second hangup until then, and would go on with
    /// the configuration that it read first.
    ///
    /// # Errors
    /// When no such process runs, `by` fails, or it does not come back within 5 s.
    fn hangup(&self, pidfile: &AbsPath, program: &AbsPath, by: Option<&Command>) -> Result<()>;

    /// Makes the firewall know the established TCP connections to these local ports. It has not seen those begin that are
    /// older than itself, and takes the next packet of one for a new connection, which a port that was shut refuses.
    ///
    /// # Errors
    /// When one of them cannot be made known; the others are, unless the kernel does not answer at all.
    fn keep_sessions(&self, ports: &[Port]) -> Result<()>;
}
