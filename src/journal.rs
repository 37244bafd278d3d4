//! The write-ahead record of a run: every undo is durable before its step runs. Rollback needs this and a host, never
//! the playbook. Must not decide anything.
//!
//! One line a record: `{"seq":N,"sum":"...","rec":{...}}`, the sum being the first 16 hexadecimal digits of SHA-256 over
//! `N` and the record's text. A last line that is torn is ignored; a broken line before the last makes the journal
//! unreadable, and says so.

pub(crate) mod line;
mod marks;

pub use marks::Marks;

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use crate::change::{Action, Plan, Stage};
use crate::error::{Failure, Result};
use crate::facts::Doors;
use crate::host::shelf::{Durability, RESERVE, Settled, Shelf};
use crate::host::{AccountEdit, Actor, Command, Database, Image};
use crate::outcome::{Evidence, Exit};
use crate::types::AbsPath;

/// How one step is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "undo")]
pub enum Undo {
    /// Puts a before-image back.
    Restore {
        /// Where.
        path: AbsPath,
        /// In whose name.
        actor: Actor,
        /// What stood there.
        image: Image,
        /// Digest of what the step leaves, or of what may come there without being an edit, to notice later edits;
        /// `None` when it leaves nothing.
        left: Option<String>,
        /// What else the step leaves; `None` in journals that did not keep it, and where it leaves nothing.
        #[serde(default)]
        marks: Option<Marks>,
    },
    /// Edits the user databases.
    Account {
        /// In this order.
        edits: Vec<AccountEdit>,
    },
    /// Runs a program.
    Run {
        /// Which.
        command: Command,
        /// What it takes back.
        #[serde(default)]
        made_by: Option<Command>,
    },
    /// Cannot be undone.
    Irreversible {
        /// Why.
        why: String,
    },
    /// Nothing to undo.
    Nothing,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "record")]
pub enum Record {
    /// First line: what this run is.
    Begin {
        /// Layout; readers refuse others.
        version: u32,
        /// Run id.
        run: String,
        /// Start, RFC 3339.
        at: String,
        /// The plan as shown, step contents left out.
        plan: Box<Plan>,
    },
    /// The plan that became known once packages were installed, as shown.
    Replanned {
        /// Step contents left out.
        plan: Box<Plan>,
    },
    /// How somebody got in before the run, for the worst end of an undo.
    Doors {
        /// The doors.
        doors: Doors,
    },
    /// A change is about to be made.
    Change {
        /// Its key.
        key: String,
        /// Its summary.
        summary: String,
        /// Its stage; `None` for the proof's own temporary changes.
        stage: Option<Stage>,
        /// What makes the running system follow its steps; for taking an undo back.
        #[serde(default)]
        forward: Vec<Action>,
        /// What makes the running system follow after its steps were undone.
        backward: Vec<Action>,
    },
    /// A step is about to run.
    Intent {
        /// Key of the change.
        key: String,
        /// Index of the step.
        step: usize,
        /// How to take it back.
        undo: Undo,
    },
    /// A change is through, activation included.
    Done {
        /// Key of the change.
        key: String,
    },
    /// A proof was tried.
    Evidence {
        /// What came out.
        evidence: Evidence,
    },
    /// The one decision: old doors may close.
    Decided {
        /// Why.
        because: String,
    },
    /// Undoing begins.
    RollingBack {
        /// Why.
        reason: String,
    },
    /// A change was undone as far as possible.
    Undone {
        /// Key of the change.
        key: String,
        /// What could not be undone, empty when all was.
        failures: Vec<String>,
    },
    /// Last line.
    Closed {
        /// How it ended.
        exit: Exit,
        /// One line.
        verdict: String,
        /// End, RFC 3339.
        at: String,
    },
}

/// Record of a run with its journal as it was when a line of it was found damaged.
const DAMAGED: &str = "damaged";

/// Layout of the journal written today.
pub const VERSION: u32 = 1;

/// An open journal.
pub struct Journal<'a> {
    shelf: &'a dyn Shelf,
    run: String,
    /// What was written so far: an undo must not depend on reading the disk back.
    written: RefCell<Vec<Record>>,
}

impl<'a> Journal<'a> {
    /// Begins the journal of a new run with its first record.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub fn begin(shelf: &'a dyn Shelf, run: &str, at: &str, plan: &Plan) -> Result<Self> {
        shelf.create(run)?;
        let journal = Self { shelf, run: run.to_owned(), written: RefCell::default() };
        let plan = Box::new(without_contents(plan));
        let begin = Record::Begin { version: VERSION, run: run.to_owned(), at: at.to_owned(), plan };
        let begun = shelf.reserve(run).and_then(|()| journal.write(&begin));
        // What never began is no run. Where it cannot be removed, it is empty, and says so itself.
        begun.inspect_err(|_| shelf.discard(run))?;
        Ok(journal)
    }

    /// Opens the journal of an earlier run for more records.
    ///
    /// # Errors
    /// When there is none or it is unreadable.
    pub fn reopen(shelf: &'a dyn Shelf, run: &str) -> Result<Self> {
        let records = read(shelf, run)?;
        // A torn tail would glue itself to the next line.
        let text = rendered(&records)?;
        if shelf.read(run)?.is_some_and(|now| now != text) {
            shelf.replace(run, &text)?;
        }
        Ok(Self { shelf, run: run.to_owned(), written: RefCell::new(records) })
    }

    /// Opens the journal of an earlier run for its undo, whatever became of it: a line that does not match ends what can
    /// be known, and what stands before it is undone all the same. Gives back what is wrong, too; the damaged text is
    /// kept beside the journal.
    ///
    /// # Errors
    /// As [`Journal::reopen`], when not even its beginning can be read.
    pub fn salvage(shelf: &'a dyn Shelf, run: &str) -> Result<(Self, Option<Failure>)> {
        let damage = match Self::reopen(shelf, run) {
            Ok(journal) => return Ok((journal, None)),
            Err(failure) => failure,
        };
        let text = shelf.read(run)?.unwrap_or_default();
        let records: Vec<Record> = line::whole(&text).records;
        if !matches!(records.first(), Some(Record::Begin { version: VERSION, .. })) {
            return Err(damage);
        }
        // Where the disk takes neither, the undo still goes by what was read.
        let _ = shelf.settle(run, DAMAGED, &text);
        let _ = shelf.replace(run, &rendered(&records)?);
        Ok((Self { shelf, run: run.to_owned(), written: RefCell::new(records) }, Some(damage)))
    }

    /// The run's id.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Gives the room back that was set aside for an undo, which begins.
    pub fn release(&self) {
        self.shelf.forget(&self.run, RESERVE);
    }

    /// Keeps a file's bytes beside the journal and says where. What is no UTF-8 loses the bytes that are none.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn set_aside(&self, bytes: &[u8]) -> Result<String> {
        let text = String::from_utf8_lossy(bytes);
        for number in 1_u32..100 {
            let name = format!("kept-{number}");
            match self.shelf.settle(&self.run, &name, &text)? {
                Settled::Won => return Ok(self.shelf.place(&self.run, &name)),
                // An undo that was cut off kept it before.
                Settled::Lost(kept) if kept == text => return Ok(self.shelf.place(&self.run, &name)),
                Settled::Lost(_) => {}
            }
        }
        Err(Failure::failed(format!("run {}", self.run), "keeps 99 files already"))
    }

    /// All records so far.
    pub fn records(&self) -> Vec<Record> {
        self.written.borrow().clone()
    }

    /// Appends a record that must be on disk before what it tells of happens.
    ///
    /// # Errors
    /// When it is not durable.
    pub fn write(&self, record: &Record) -> Result<()> {
        self.append(record, Durability::Synced)
    }

    /// Appends a record whose loss in a power cut changes nothing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&self, record: &Record) -> Result<()> {
        self.append(record, Durability::Lazy)
    }

    fn append(&self, record: &Record, durability: Durability) -> Result<()> {
        let seq = u64::try_from(self.written.borrow().len()).unwrap_or(u64::MAX);
        self.shelf.append(&self.run, &line::write(seq, record)?, durability)?;
        self.written.borrow_mut().push(record.clone());
        Ok(())
    }

    /// Closes the run: its last record and the end of the secrets in its before-images, in one step. One whose undo is
    /// incomplete keeps them: whoever undoes the rest needs them.
    ///
    /// # Errors
    /// When it cannot be written; the journal then stands as it was.
    pub fn close(&self, exit: Exit, verdict: &str, at: &str) -> Result<()> {
        self.release();
        let closed = Record::Closed { exit, verdict: verdict.to_owned(), at: at.to_owned() };
        if exit == Exit::RollbackIncomplete {
            return self.write(&closed);
        }
        // It holds the same secrets.
        self.shelf.forget(&self.run, DAMAGED);
        let mut records = self.records();
        records.push(closed.clone());
        match self.shelf.replace(&self.run, &without_secrets(&records)?) {
            Ok(()) => {
                self.written.borrow_mut().push(closed);
                Ok(())
            }
            // A full disk may have room for a line; forget_secrets does the rest once there is more.
            Err(_) => self.write(&closed),
        }
    }
}

/// Takes the secrets out of closed journals that a full disk or a kill left in them.
///
/// # Errors
/// The first journal that cannot be rewritten; all are tried.
pub fn forget_secrets(shelf: &dyn Shelf) -> Result<()> {
    let mut done = Ok(());
    for run in shelf.runs()? {
        let Ok(records) = read(shelf, &run) else { continue };
        let holds = |record: &Record| {
            let mut without = record.clone();
            scrub(&mut without);
            without != *record
        };
        if is_over(&records) && !is_degraded(&records) && records.iter().any(holds) {
            done = done.and(without_secrets(&records).and_then(|text| shelf.replace(&run, &text)));
        }
    }
    done
}

fn without_secrets(records: &[Record]) -> Result<String> {
    let mut records = records.to_vec();
    records.iter_mut().for_each(scrub);
    rendered(&records)
}

fn rendered(records: &[Record]) -> Result<String> {
    let mut text = String::new();
    for (seq, record) in (0_u64..).zip(records) {
        text.push_str(&line::write(seq, record)?);
        text.push('\n');
    }
    Ok(text)
}

/// Where the journal of a run stands as it was when it was found damaged.
pub fn damaged(shelf: &dyn Shelf, run: &str) -> String {
    shelf.place(run, DAMAGED)
}

/// True when a line of the journal was damaged: what it held may still be in force, whatever else was undone.
///
/// # Errors
/// When that cannot be read.
pub fn was_damaged(shelf: &dyn Shelf, run: &str) -> Result<bool> {
    Ok(shelf.settled(run, DAMAGED)?.is_some())
}

/// True when the undo of the run is incomplete, and nobody has undone the rest or said that it was mended.
pub fn is_degraded(records: &[Record]) -> bool {
    let end = records.iter().rev().find_map(|record| match record {
        Record::Closed { exit, .. } => Some(*exit),
        _ => None,
    });
    end == Some(Exit::RollbackIncomplete)
}

/// True for the records of a run that ended, or never began: a full disk may refuse the very first record, and nothing is
/// changed before that one stands.
pub fn is_over(records: &[Record]) -> bool {
    records.is_empty() || records.iter().any(|record| matches!(record, Record::Closed { .. }))
}

/// True once a change of the run was about to be made, one of the proof's own among them.
pub fn has_changed(records: &[Record]) -> bool {
    records.iter().any(|record| matches!(record, Record::Change { .. } | Record::Intent { .. }))
}

/// All whole records of a run.
///
/// # Errors
/// Input when there is no such run, unknown when a line before the last is broken or the layout is another.
pub fn read(shelf: &dyn Shelf, run: &str) -> Result<Vec<Record>> {
    let text = shelf.read(run)?.ok_or_else(|| {
        Failure::input(run.escape_debug().to_string(), "no such run").hint("list the runs with: keyward history")
    })?;
    let whole = line::whole(&text);
    if let Some(number) = whole.broken {
        return Err(line::broken(&format!("journal of {run}"), number)
            .hint("the file was edited or the disk is failing; restore by hand from the lines around it"));
    }
    let records = whole.records;
    match records.first() {
        Some(Record::Begin { version: VERSION, .. } | Record::Closed { .. }) | None => Ok(records),
        Some(_) => Err(Failure::unknown(format!("journal of {run}"), "was written by another version of keyward")),
    }
}

/// The plan without what its steps hold: they are in the intents, as undo, and may be secret.
pub fn without_contents(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    for change in &mut plan.changes {
        change.steps.clear();
        change.gates.clear();
    }
    plan
}

/// Takes password hashes out of a record: a closed run can be rolled back, but hashes stay as they are.
fn scrub(record: &mut Record) {
    let Record::Intent { undo: Undo::Account { edits }, .. } = record else { return };
    edits.retain(|edit| !matches!(edit, AccountEdit::Field { db: Database::Shadow | Database::Gshadow, index: 1, .. }));
    for edit in edits {
        if let AccountEdit::Add { db: Database::Shadow | Database::Gshadow, line } = edit {
            let mut fields: Vec<&str> = line.split(':').collect();
            if let Some(hash) = fields.get_mut(1) {
                *hash = "*";
            }
            *line = fields.join(":");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::shelf::MemoryShelf;

    fn plan() -> Plan {
        Plan {
            version: Plan::VERSION,
            host: "h".into(),
            playbook: "p.yml".into(),
            playbook_digest: String::new(),
            observation_digest: String::new(),
            changes: Vec::new(),
            notes: Vec::new(),
            deferred: Vec::new(),
            promises: Vec::new(),
            met: Vec::new(),
        }
    }

    #[test]
    fn secrets_stay_as_long_as_an_undo_may_need_them() {
        let shelf = MemoryShelf::default();
        let journal = Journal::begin(&shelf, "r1", "now", &plan()).unwrap();
        let (db, key, value) = (Database::Shadow, "root".to_owned(), "$y$secret".to_owned());
        let undo = Undo::Account { edits: vec![AccountEdit::Field { db, key, index: 1, value }] };
        journal.write(&Record::Intent { key: "root".into(), step: 0, undo }).unwrap();
        let holds = || shelf.read("r1").unwrap().unwrap().contains("$y$secret");
        journal.close(Exit::RollbackIncomplete, "", "now").unwrap();
        forget_secrets(&shelf).unwrap();
        assert!(holds() && is_degraded(&read(&shelf, "r1").unwrap()), "the rest is still to be undone");
        // A kill came between the last record and the new text.
        journal.write(&Record::Closed { exit: Exit::RolledBack, verdict: String::new(), at: "now".into() }).unwrap();
        assert!(holds());
        forget_secrets(&shelf).unwrap();
        assert!(!holds());
    }

    #[test]
    fn a_torn_tail_is_ignored_and_a_broken_middle_is_not() {
        let shelf = MemoryShelf::default();
        let journal = Journal::begin(&shelf, "r1", "now", &plan()).unwrap();
        journal.write(&Record::Decided { because: "a".into() }).unwrap();
        journal.write(&Record::Done { key: "b".into() }).unwrap();
        let whole = shelf.read("r1").unwrap().unwrap();
        for cut in 0..whole.len() {
            shelf.replace("r1", &whole[..cut]).unwrap();
            let kept = read(&shelf, "r1").unwrap().len();
            assert_eq!(kept, whole[..cut].matches('\n').count(), "cut at {cut}");
        }
        let first = whole.find('\n').unwrap();
        for at in [5, first + 40] {
            let mut bytes = whole.clone().into_bytes();
            bytes[at] ^= 1;
            shelf.replace("r1", &String::from_utf8_lossy(&bytes)).unwrap();
            assert!(read(&shelf, "r1").is_err(), "flip at {at}");
        }
    }

    #[test]
    fn reopening_continues_after_a_torn_tail() {
        let shelf = MemoryShelf::default();
        let journal = Journal::begin(&shelf, "r1", "now", &plan()).unwrap();
        journal.write(&Record::Done { key: "a".into() }).unwrap();
        shelf.append("r1", "{\"seq\":2,\"su", Durability::Lazy).unwrap();
        let journal = Journal::reopen(&shelf, "r1").unwrap();
        assert_eq!(journal.records().len(), 2);
        journal.write(&Record::Done { key: "b".into() }).unwrap();
        assert_eq!(read(&shelf, "r1").unwrap().len(), 3);
    }

    #[test]
    fn a_run_whose_first_record_did_not_fit_never_began() {
        let shelf = MemoryShelf::default();
        shelf.create("r1").unwrap();
        assert!(is_over(&read(&shelf, "r1").unwrap()));
        Journal::reopen(&shelf, "r1").unwrap().close(Exit::Refused, "never began", "now").unwrap();
        assert!(is_over(&read(&shelf, "r1").unwrap()), "and may be read when somebody closed it");
    }

    #[test]
    fn a_closed_journal_holds_no_hash() {
        let shelf = MemoryShelf::default();
        let journal = Journal::begin(&shelf, "r1", "now", &plan()).unwrap();
        let field = AccountEdit::Field { db: Database::Shadow, key: "u".into(), index: 1, value: "CANARY1".into() };
        let add = AccountEdit::Add { db: Database::Shadow, line: "u:CANARY2:1:0:99999:7:::".into() };
        let undo = Undo::Account { edits: vec![field, add] };
        journal.write(&Record::Intent { key: "k".into(), step: 0, undo }).unwrap();
        assert!(shelf.read("r1").unwrap().unwrap().contains("CANARY1"));
        journal.close(Exit::AsAsked, "done", "now").unwrap();
        let text = shelf.read("r1").unwrap().unwrap();
        assert!(!text.contains("CANARY"), "{text}");
        assert!(matches!(read(&shelf, "r1").unwrap().last(), Some(Record::Closed { .. })));
    }
}
