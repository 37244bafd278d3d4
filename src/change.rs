//! What is to be changed, as data: claims, differences, gates, steps, changes and the plan. Nothing here acts.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::host::{AccountEdit, Actor, Command, Image, Node, Staged};
use crate::types::{AbsPath, Port, UserName};

/// Something that exactly one task may own; two owners are an error that names both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Claim {
    /// A file or directory.
    Path(AbsPath),
    /// An account.
    Account(UserName),
    /// A service, by what it does: `sshd`, `firewall`.
    Service(String),
}

/// One property that is not as wanted: the one shape shown in plans, failures and reports. Secrets never reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What property, such as `ssh.port` or `users.deploy.groups`.
    pub path: String,
    /// As it should be.
    pub want: String,
    /// As it is.
    pub have: String,
}

impl Difference {
    /// A difference.
    pub fn new(path: impl Into<String>, want: impl Into<String>, have: impl Into<String>) -> Self {
        Self { path: path.into(), want: want.into(), have: have.into() }
    }
}

/// What can go wrong with a change, from the administrator's chair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Nothing that anyone would notice.
    None,
    /// A service is reloaded or could stop answering.
    Service,
    /// A way in could be taken away or opened.
    Access,
}

/// When a change happens. The order of the variants is the order of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Packages, before anything else; cannot be undone.
    Packages,
    /// Opens, creates, adds: every old door stays open.
    Additive,
    /// Closes and takes away; only after the new door was proven.
    Subtractive,
}

/// What a gate's command must answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Exit code 0.
    Success,
    /// Exit code 0, and for each keyword (compared without case) the output has a line `keyword value` with one of
    /// the values (compared without case); several lines of one keyword are compared as a set.
    Lines(Vec<(String, Vec<String>)>),
}

/// A check of the staged candidate before it goes live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// What is checked, such as `sshd -T for deploy from 192.0.2.1`.
    pub what: String,
    /// Candidate files, laid into a private directory; `{stage}` stands for it.
    pub staged: Vec<Staged>,
    /// The program that judges.
    pub command: Command,
    /// The right answer.
    pub expect: Expect,
}

/// One act of the engine. The set is closed: a resource composes its changes from these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step")]
pub enum Step {
    /// Puts a file or directory.
    Put {
        /// Where.
        path: AbsPath,
        /// In whose name.
        actor: Actor,
        /// What.
        node: Node,
    },
    /// Removes a file, link or empty directory.
    Remove {
        /// Where.
        path: AbsPath,
        /// In whose name.
        actor: Actor,
    },
    /// Puts a before-image of an earlier run back, with everything that it knows of the path.
    Restore {
        /// Where.
        path: AbsPath,
        /// In whose name.
        actor: Actor,
        /// What stood there.
        image: Image,
    },
    /// Edits the user databases per entry, all edits under one lock.
    Account {
        /// The edits.
        edits: Vec<AccountEdit>,
    },
    /// Runs a program.
    Run {
        /// What to run.
        command: Command,
        /// How to take it back.
        inverse: Inverse,
    },
}

/// How a [`Step::Run`] is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inverse {
    /// By this command.
    Command(Command),
    /// Not at all; the reason is shown in the plan.
    Irreversible(String),
    /// There is nothing to take back.
    Nothing,
}

/// Makes the running system agree with the files. Idempotent: may run again at any time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Runs a program that must exit 0.
    Run(Command),
    /// Runs `run`, which must exit 0, when `check` exits with one of `codes`; when it exits with another of 0, 1 and 2 there
    /// is nothing to do, and any other exit code is a failure. Makes acts idempotent that are not so by themselves, such
    /// as hooking a chain. `check` only reads.
    When {
        /// Looks.
        check: Command,
        /// Exit codes of `check` that call for `run`.
        codes: Vec<i32>,
        /// Acts.
        run: Command,
    },
    /// SIGHUP to the daemon in this pid file with this executable; through only when the daemon has read its files
    /// again, which it tells by writing its pid file anew. A second hangup before that would be lost.
    Hangup {
        /// Its pid file.
        pidfile: AbsPath,
        /// Its executable.
        program: AbsPath,
        /// Sends the signal, such as `systemctl reload`; `None`: keyward sends it itself.
        by: Option<Command>,
    },
    /// Makes systemd listen as a socket unit says now. A socket unit cannot be started while its service runs, so the
    /// service goes first, and its sessions live on (KillMode=process). Where somebody connects in between and starts it
    /// again, that is repeated.
    RestartSocket {
        /// The socket unit.
        socket: String,
        /// The one service that takes all of its connections; `None` where each connection gets its own (`Accept=yes`).
        service: Option<String>,
    },
    /// Makes the sessions of these TCP ports known to the firewall, before a rule of it shuts the ports. Where that cannot
    /// be, it is said, and the run goes on: who is logged in may log in anew.
    KeepSessions {
        /// What is about to be shut.
        ports: Vec<Port>,
    },
    /// Waits until exactly these TCP ports (of those named) have, or no longer have, a listener.
    AwaitListeners {
        /// Must listen.
        open: Vec<Port>,
        /// Must not listen.
        closed: Vec<Port>,
        /// After this many milliseconds the action failed.
        deadline_ms: u64,
    },
}

/// What follows a change's steps, and what follows their undo.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// After the steps. Equal actions of several changes of one stage run once, at the end of the last of them.
    pub forward: Vec<Action>,
    /// After all steps of the change were undone.
    pub backward: Vec<Action>,
}

/// Before and after of a text, for the plan's diff. Never made from secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextDiff {
    /// Which file.
    pub path: AbsPath,
    /// Text before; empty when there was none.
    pub before: String,
    /// Text after; empty when it goes.
    pub after: String,
}

/// A group of steps that belong together, with everything needed to judge, do and undo them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Unique in the plan: `resource:object:what`.
    pub key: String,
    /// Name of the resource.
    pub resource: String,
    /// One line for the plan, in the imperative, such as `listen on port 2222 beside 22`.
    pub summary: String,
    /// What differs.
    pub differences: Vec<Difference>,
    /// What could go wrong.
    pub risk: Risk,
    /// When it happens.
    pub stage: Stage,
    /// Checks before it goes live.
    pub gates: Vec<Gate>,
    /// The acts, in order.
    pub steps: Vec<Step>,
    /// What follows them.
    pub activation: Activation,
    /// Diffs for the reader.
    pub diffs: Vec<TextDiff>,
}

impl Change {
    /// An empty change; callers fill in the rest.
    pub fn new(resource: &str, key: impl Into<String>, summary: impl Into<String>, stage: Stage, risk: Risk) -> Self {
        Self {
            key: key.into(),
            resource: resource.to_owned(),
            summary: summary.into(),
            differences: Vec::new(),
            risk,
            stage,
            gates: Vec::new(),
            steps: Vec::new(),
            activation: Activation::default(),
            diffs: Vec::new(),
        }
    }

    /// Why this change cannot be undone, if so.
    pub fn irreversible(&self) -> Option<&str> {
        self.steps.iter().find_map(|step| match step {
            Step::Run { inverse: Inverse::Irreversible(why), .. } => Some(why.as_str()),
            _ => None,
        })
    }
}

/// What a task promises about the running host once applied; the prover turns each into evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "promise")]
pub enum Promise {
    /// This administrator can log in by key and use sudo.
    Admin {
        /// The account.
        user: UserName,
        /// True when sudo asks no password.
        nopasswd: bool,
    },
    /// sshd answers on this port.
    SshPort {
        /// The port.
        port: Port,
    },
    /// sshd no longer answers on this port.
    SshPortClosed {
        /// The port.
        port: Port,
    },
    /// root cannot log in over SSH by the methods named as refused.
    RootRefused {
        /// True: no method at all; false: no password (keys stay allowed).
        entirely: bool,
    },
    /// Passwords (and keyboard-interactive) are not offered.
    PasswordsRefused,
    /// Somebody other than these accounts, which the run takes away, can log in: what only a person can show.
    SomebodyElse {
        /// The accounts that do not count.
        than: Vec<String>,
    },
    /// This key still counts for this account at the end of a run that takes others away: the one to confirm with.
    Key {
        /// The account.
        user: UserName,
        /// SHA256:..., as ssh-keygen(1) shows it.
        fingerprint: String,
        /// `from=` of its line (sshd(8)): where it counts from; empty means everywhere.
        from: String,
    },
    /// The firewall lets these TCP ports in and no other port that listens.
    Firewall {
        /// Open TCP ports.
        open: Vec<Port>,
    },
}

/// Something the reader of a plan should know that is not a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// How loud.
    pub level: Level,
    /// Resource or task.
    pub about: String,
    /// The text, one line.
    pub text: String,
}

/// How loud a note is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Good to know.
    Info,
    /// Read this before you say yes.
    Warning,
}

impl Note {
    /// An informing note.
    pub fn info(about: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level: Level::Info, about: about.into(), text: text.into() }
    }

    /// A warning.
    pub fn warning(about: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level: Level::Warning, about: about.into(), text: text.into() }
    }
}

/// What a run is going to do, as data: shown, journaled, applied exactly as shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Layout of this record; readers refuse others.
    pub version: u32,
    /// Host name as the facts give it.
    pub host: String,
    /// The playbook as the user named it.
    pub playbook: String,
    /// SHA-256 of the playbook and all it loaded, hexadecimal.
    pub playbook_digest: String,
    /// SHA-256 over the changes and what they replace; apply refuses when it moved since the plan was shown.
    pub observation_digest: String,
    /// In the order in which they run.
    pub changes: Vec<Change>,
    /// For the reader.
    pub notes: Vec<Note>,
    /// Tasks that cannot be judged yet: task and what has to happen first.
    pub deferred: Vec<(String, String)>,
    /// What will be proven.
    pub promises: Vec<Promise>,
    /// Resources that are as wanted, with the number of tasks of each.
    pub met: Vec<(String, usize)>,
}

impl Plan {
    /// The layout written today.
    pub const VERSION: u32 = 1;

    /// SHA-256, hexadecimal, of what it does and promises: equal for hosts on which the same is to be done. `None` when it has
    /// no JSON form.
    pub fn digest(&self) -> Option<String> {
        let text = serde_json::to_vec(&(&self.changes, &self.promises, &self.deferred)).ok()?;
        Some(Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// What a yes to this plan stands for: what it does, and what it was made from.
    pub fn agreement(&self) -> Option<String> {
        Some(format!("{} {}", self.digest()?, self.observation_digest))
    }

    /// The greatest risk in the plan.
    pub fn risk(&self) -> Risk {
        self.changes.iter().map(|change| change.risk).max().unwrap_or(Risk::None)
    }

    /// True when there is nothing to do and nothing is deferred.
    pub fn is_converged(&self) -> bool {
        self.changes.is_empty() && self.deferred.is_empty()
    }
}
