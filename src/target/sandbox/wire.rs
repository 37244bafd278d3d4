//! What the processes of a sandbox say to each other: one JSON value a line. Data only.

use std::io::{BufRead, Read as _, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Failure, Result};

/// What the warden is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Build the copy; the first order.
    Build(Build),
    /// The identities of the warden's user namespace are mapped.
    Mapped,
    /// Boot the copy.
    Boot(Purpose),
    /// Kill every process in the copy; its files stay for the next boot.
    Halt,
}

/// How to build the copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Build {
    /// The directory to copy.
    pub root: PathBuf,
    /// Cap for all that is written in the copy, in bytes.
    pub size: u64,
    /// Mounts that stay out.
    pub leave_out: Vec<PathBuf>,
    /// True for a plain user: everything happens in a user namespace of its subordinate ids.
    pub plain_user: bool,
    /// True when the directory itself is to be worked on too, see [`Purpose::Tree`].
    pub with_tree: bool,
}

/// What a boot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Fetching packages: no service is started, nothing of the kernel's network settings can be written, and
    /// [`super::Sandbox::fetch`] runs in the machine's own network.
    Fetch,
    /// The rehearsal: cut off from every network but the outside end of the veth pair, services started.
    Run,
    /// Work on the tree itself: its own files instead of the overlays, nothing started, no network at all.
    Tree,
}

/// What the warden answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Map the identities of this process' user namespace, then say [`Order::Mapped`].
    MapMe,
    /// The copy stands; `notes` are for the reader.
    Built {
        /// What was left out or is different.
        notes: Vec<String>,
    },
    /// The copy runs.
    Booted(Booted),
    /// Done.
    Halted,
    /// It did not work; after a failed [`Order::Build`] the warden ends.
    Failed(Failure),
}

/// What root in a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Root {
    /// Root of a user namespace of the boot's own: no power over the machine.
    Own,
    /// Root of the warden's user namespace, which is the plain user on the machine.
    Plain,
    /// The machine's root, less its powers over the kernel: where there are no user namespaces.
    Machine,
}

/// A running copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booted {
    /// Process 1 of the copy, by its number on the machine.
    pub pid: u32,
    /// What was started, such as `sshd`.
    pub started: Vec<String>,
    /// What could not be started or is different from the machine.
    pub notes: Vec<String>,
}

/// What one boot needs to know; an argument of the hidden verbs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Boot {
    /// Where the copy's overlay is mounted; for [`Purpose::Tree`] the tree itself.
    pub copy: PathBuf,
    /// Where the overlay is, for [`Purpose::Tree`]: what was fetched into it is lent to the tree.
    pub lender: Option<PathBuf>,
    /// What it is for.
    pub purpose: Purpose,
    /// What root in the copy is.
    pub root: Root,
    /// Host name inside; `None` keeps the machine's.
    pub hostname: Option<String>,
    /// The machine's resolv.conf(5), for fetching.
    pub resolver: Option<String>,
    /// True when sshd runs on the copied machine, enabled or not.
    pub ssh_runs: bool,
}

/// Longest line that is read: a copy's own programs may write one.
const LINE_LIMIT: u64 = 1 << 20;

/// Writes one line.
///
/// # Errors
/// When the other side is gone.
pub fn say(mut to: impl Write, what: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(what).map_err(|error| broken(&error))?;
    line.push(b'\n');
    to.write_all(&line).and_then(|()| to.flush()).map_err(|error| broken(&error))
}

/// Reads one line; `None` when the other side is gone.
///
/// # Errors
/// When the line is not what it should be.
pub fn hear<T: DeserializeOwned>(from: &mut impl BufRead) -> Result<Option<T>> {
    let mut line = String::new();
    if from.take(LINE_LIMIT).read_line(&mut line).map_err(|error| broken(&error))? == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).map_err(|error| broken(&error))
}

fn broken(error: &dyn std::fmt::Display) -> Failure {
    Failure::unknown("sandbox", "its processes do not understand each other").why(error)
}
