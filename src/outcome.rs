//! What happened, as data: events while a run goes on, and the exit code at its end.

pub mod audit;
pub mod drift;
pub mod ways;

use serde::{Deserialize, Serialize};

use crate::change::{Note, Plan, Stage};
use crate::error::{Failure, Kind};

/// The exit codes: the one table behind code, manual and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// 0
    AsAsked,
    /// 1
    Usage,
    /// 2
    Differs,
    /// 3
    RolledBack,
    /// 4
    RollbackIncomplete,
    /// 5
    Refused,
    /// 6
    Busy,
    /// 7
    CannotJudge,
    /// 8
    Pending,
    /// 9
    Unverified,
}

impl Exit {
    /// All codes with their meaning, in order.
    pub const TABLE: [(Self, &'static str); 10] = [
        (Self::AsAsked, "as asked"),
        (Self::Usage, "usage or playbook error, nothing changed"),
        (Self::Differs, "the host differs from the playbook (plan), or an audit failed"),
        (Self::RolledBack, "failed and rolled back"),
        (Self::RollbackIncomplete, "failed, and the rollback is incomplete"),
        (Self::Refused, "refused or declined, nothing changed"),
        (Self::Busy, "the host is busy (another run, the package manager)"),
        (Self::CannotJudge, "the host cannot be judged"),
        (Self::Pending, "pending, waits for confirmation"),
        (Self::Unverified, "applied, unverified"),
    ];

    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// How a verb ends that met this before it changed anything. What fails later ends rolled back, or incomplete.
    pub const fn before_any_change(kind: Kind) -> Self {
        match kind {
            Kind::Input => Self::Usage,
            Kind::Refused | Kind::Failed => Self::Refused,
            Kind::Busy => Self::Busy,
            Kind::Unknown => Self::CannotJudge,
        }
    }
}

/// When a proof is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// After the additive stage: the new door must be open, the old one still is.
    BeforeClosing,
    /// Between two steps that close something: the administrators still get in by the new door.
    WhileClosing,
    /// After everything: new door open, closed ones shut.
    Final,
}

/// How far a proof reaches (safe apply: L0 to L4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reach {
    /// L0: configuration tests.
    L0,
    /// L1: loopback.
    L1,
    /// L2: another network namespace, through the firewall.
    L2,
    /// L3: a fresh connection from a controller.
    L3,
    /// L4: the operator.
    L4,
}

/// Outcome of one proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proven {
    /// It holds.
    Yes,
    /// It does not hold.
    No,
    /// It could not be told; never a pass.
    Unknown,
}

/// One piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was tried, such as `login as deploy on port 2222, IPv6`.
    pub what: String,
    /// Whether it holds.
    pub proven: Proven,
    /// How far it reaches.
    pub reach: Reach,
    /// What was seen.
    pub seen: String,
    /// How long it took.
    pub millis: u64,
}

impl Evidence {
    /// How the evidence of an administrator's own login begins.
    pub const LOGIN: &'static str = "login as ";

    /// The account of a login that should succeed.
    pub fn login_of(&self) -> Option<&str> {
        let what = self.what.strip_prefix("old door: ").unwrap_or(&self.what);
        let rest = what.strip_prefix(Self::LOGIN).filter(|rest| !rest.contains("refused"))?;
        rest.split([' ', ',']).next()
    }

    /// True for an administrator's own login (not for one that has to be refused).
    pub fn is_login(&self) -> bool {
        self.what.starts_with(Self::LOGIN) && !self.what.contains("refused")
    }
}

/// One documented event per line of `--format json`; the human report is made from the same stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The first event of a program that was started by a controller over SSH.
    Hello {
        /// Version of the conversation between the two.
        protocol: u32,
        /// Version of the program.
        version: String,
    },
    /// A controller is asked; it answers with one line, `yes` or anything else.
    Asked {
        /// The question.
        question: String,
    },
    /// The dead-man switch of a run is armed: it is undone at its deadline unless it is confirmed.
    Armed {
        /// Run id.
        run: String,
        /// Binds a confirmation to this run.
        nonce: String,
        /// The deadline by the host's wall clock, RFC 3339.
        until: String,
        /// Length of the window.
        window_ms: u64,
    },
    /// Old and new doors stand open: a login from now on may confirm.
    Opened {
        /// Run id.
        run: String,
    },
    /// A plan was made.
    Planned {
        /// The plan; step contents are left out.
        plan: Box<Plan>,
    },
    /// A run began; from here on it is in `history`.
    Started {
        /// Run id.
        run: String,
    },
    /// A stage of a run began.
    Stage {
        /// Which.
        stage: Stage,
        /// How many changes it has.
        changes: usize,
    },
    /// A gate was passed.
    Gate {
        /// Key of the change.
        change: String,
        /// What was checked.
        what: String,
        /// How long it took.
        millis: u64,
    },
    /// A change was made and its activation is through.
    Changed {
        /// Key of the change.
        change: String,
        /// Its summary.
        summary: String,
        /// How long it took.
        millis: u64,
    },
    /// Something was proven, or not.
    Proof {
        /// The evidence.
        evidence: Evidence,
    },
    /// The new door is proven: old ones may close.
    Decided {
        /// Why this was decided.
        because: String,
    },
    /// Undoing began.
    RollingBack {
        /// Why.
        reason: Failure,
    },
    /// A change was undone.
    Undone {
        /// Key of the change.
        change: String,
        /// Set when the undo failed or could not be done.
        failure: Option<Failure>,
    },
    /// For the reader.
    Note {
        /// The note.
        note: Note,
    },
    /// Who can get in.
    Access {
        /// As it is.
        now: ways::Ways,
        /// As it would be after a plan; `None` when none was asked for.
        after: Option<ways::Ways>,
    },
    /// What an audit found.
    Audited {
        /// All of it.
        audit: Box<audit::Audit>,
    },
    /// What moved between two audits of a host.
    Drifted {
        /// All of it.
        drift: Box<drift::Drift>,
    },
    /// A whole text that a verb prints: a schema, a manual page, an explanation.
    Text {
        /// What it is.
        name: String,
        /// The text.
        text: String,
    },
    /// One run of this host's history.
    Run {
        /// Run id.
        run: String,
        /// When it began, RFC 3339.
        began: String,
        /// The playbook as the user named it.
        playbook: String,
        /// How many changes its plan has.
        changes: usize,
        /// How it ended; `None` while it is not closed.
        exit: Option<Exit>,
        /// One line.
        verdict: String,
    },
    /// One of many hosts said something.
    Host {
        /// Its name in the inventory.
        host: String,
        /// What it said.
        said: Box<Event>,
    },
    /// One of many hosts is over.
    HostEnded {
        /// Its name in the inventory.
        host: String,
        /// How it ended, in a word or two.
        result: String,
        /// The code that the verb ended with there; `None` when it was not done.
        exit: Option<Exit>,
        /// How far the proof of a login reached.
        evidence: Option<Reach>,
        /// How many changes were made, or would be.
        changes: usize,
        /// How long it took.
        millis: u64,
        /// The run there.
        run: Option<String>,
        /// One line.
        verdict: String,
        /// What to type next, or empty.
        next: String,
    },
    /// Something failed.
    Failed {
        /// The failure.
        failure: Failure,
    },
    /// The end; always the last event.
    Finished {
        /// Exit code.
        code: u8,
        /// Exit as a word.
        exit: Exit,
        /// One line.
        verdict: String,
        /// What to type next, or empty.
        next: String,
        /// Run id, when a run was begun.
        run: Option<String>,
        /// Whole time.
        millis: u64,
    },
}

/// Where events go while a run is on; must not fail the run when nobody listens.
pub trait Sink {
    /// Takes one event.
    fn event(&mut self, event: Event);
}

impl Sink for Vec<Event> {
    fn event(&mut self, event: Event) {
        self.push(event);
    }
}
