//! Undo from the journal alone: newest change first, each step's undo in reverse, then what makes the running system
//! follow. Goes on past errors and tells each one. The same code serves a failing run and a later `rollback`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::audit;
use crate::change::{Action, Note, Stage};
use crate::error::{Failure, Kind, Result};
use crate::host::ledger::Ledger;
use crate::host::shelf::Shelf;
use crate::host::{Host, Image};
use crate::journal::{self, Journal, Marks, Record, Undo};
use crate::outcome::{Event, Exit, Sink};
use crate::types::AbsPath;

use super::older::{forget_what_is_older, is_gone};
use super::step::{self, TakenBack};
use super::{Outcome, last_resort};

/// A change as the journal tells it.
pub struct Made {
    pub(super) key: String,
    pub(super) summary: String,
    pub(super) stage: Option<Stage>,
    pub(super) forward: Vec<Action>,
    pub(super) backward: Vec<Action>,
    pub(super) undos: Vec<Undo>,
    pub(super) undone: bool,
}

/// Which changes are to be undone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of the run.
    All,
    /// Only the proof's temporary ones.
    Temporary,
}

/// Whether daemons run that have to follow what is put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// Yes.
    Running,
    /// No, as before a boot has started them: they will read the files when they start.
    Down,
}

/// What could not be undone.
#[derive(Default)]
pub struct Remains {
    /// Steps that should have been undone and were not.
    pub failures: Vec<Failure>,
    /// Things left on purpose.
    pub kept: Vec<String>,
    /// What the reader must know of others' work.
    pub told: Vec<String>,
    /// Accounts that could not go while somebody is logged in by them.
    pub disabled: Vec<String>,
}

/// Whether edits made after the run are overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaterEdits {
    /// Refuse, naming them.
    Respect,
    /// Overwrite them.
    Overwrite,
}

/// What `rollback` needs.
pub struct Rollback<'a> {
    /// The host.
    pub host: &'a dyn Host,
    /// Where journals are.
    pub shelf: &'a dyn Shelf,
    /// Where the audit log goes.
    pub audit: &'a dyn Ledger,
    /// Which run; `None` for the newest that is not rolled back.
    pub run: Option<&'a str>,
    /// What to do with edits made since.
    pub later_edits: LaterEdits,
    /// Whether it runs.
    pub machine: Machine,
    /// Shown the summaries of what will be undone, newest first; false declines.
    pub approve: &'a mut dyn FnMut(&str, &[String]) -> bool,
}

pub(super) fn made(records: &[Record]) -> Vec<Made> {
    let mut list: Vec<Made> = Vec::new();
    for record in records {
        match record {
            Record::Change { key, summary, stage, forward, backward } => list.push(Made {
                key: key.clone(),
                summary: summary.clone(),
                stage: *stage,
                forward: forward.clone(),
                backward: backward.clone(),
                undos: Vec::new(),
                undone: false,
            }),
            Record::Intent { key, undo, .. } => {
                if let Some(change) = list.iter_mut().rev().find(|change| change.key == *key) {
                    change.undos.push(undo.clone());
                }
            }
            Record::Undone { key, failures } if failures.is_empty() => {
                if let Some(at) = list.iter().rposition(|change| change.key == *key && !change.undone) {
                    let (before, later) = list.split_at_mut(at + 1);
                    if let Some(change) = before.last_mut() {
                        change.undone = true;
                        forget_what_is_older(change, later);
                    }
                }
            }
            _ => {}
        }
    }
    list
}

/// Before an undo is tried again that met a lock: whoever holds it may let go. Nothing else gets better by waiting, and an
/// sshd of last resort must not wait for it.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// Undoes what the journal holds.
pub fn unwind(journal: &Journal<'_>, scope: Scope, machine: Machine, host: &dyn Host, sink: &mut dyn Sink) -> Remains {
    let mut remains = Remains::default();
    if scope == Scope::All {
        journal.release();
    }
    once(journal, scope, machine, host, sink, &mut remains);
    for pause in PAUSES.iter().filter(|_| scope == Scope::All) {
        if !remains.failures.iter().any(|failure| failure.kind == Kind::Busy) {
            break;
        }
        std::thread::sleep(*pause);
        remains.failures.clear();
        once(journal, scope, machine, host, sink, &mut remains);
    }
    if scope == Scope::All && machine == Machine::Running {
        let lost = last_resort::keep_a_door(&journal.records(), true, host);
        remains.failures.extend(lost.inspect(|failure| sink.event(Event::Failed { failure: failure.clone() })));
    }
    remains
}

/// One pass over everything that is not undone yet.
fn once(
    journal: &Journal<'_>,
    scope: Scope,
    machine: Machine,
    host: &dyn Host,
    sink: &mut dyn Sink,
    remains: &mut Remains,
) {
    let records = journal.records();
    let list = made(&records);
    let known = Known::of(&list);
    for (at, change) in list.iter().enumerate().rev().filter(|(_, change)| !change.undone) {
        if scope == Scope::Temporary && change.stage.is_some() {
            continue;
        }
        for text in set_aside(change, &known, journal, host) {
            sink.event(Event::Note { note: Note::warning(change.key.clone(), text.clone()) });
            remains.told.push(text);
        }
        let older = list.get(..at).unwrap_or_default();
        let (failures, kept) = undo_change(change, older, machine, host, &mut remains.disabled);
        let texts = failures.iter().map(Failure::line).collect();
        // A record that cannot be written must not stop the undo: a second rollback does the same again, harmlessly.
        let _ = journal.note(&Record::Undone { key: change.key.clone(), failures: texts });
        if change.stage.is_some() {
            sink.event(Event::Undone { change: change.key.clone(), failure: failures.first().cloned() });
        }
        for text in &kept {
            sink.event(Event::Note { note: Note::info(change.key.clone(), format!("kept: {text}")) });
        }
        remains.failures.extend(failures);
        remains.kept.extend(kept);
    }
}

/// What keyward itself left at each path of a run, or found there: contents by digest, and modes, owners and attributes.
/// Everything else is somebody else's edit.
struct Known<'a>(BTreeMap<&'a AbsPath, (Vec<String>, Vec<Marks>)>);

impl<'a> Known<'a> {
    fn of(list: &'a [Made]) -> Self {
        let mut known: BTreeMap<&AbsPath, (Vec<String>, Vec<Marks>)> = BTreeMap::new();
        for undo in list.iter().flat_map(|change| &change.undos) {
            if let Undo::Restore { path, image, left, marks, .. } = undo {
                let (digests, all) = known.entry(path).or_default();
                digests.extend(left.clone());
                all.extend(marks.iter().cloned().chain(Marks::of(image)));
                if let Image::File { content, .. } = image {
                    digests.push(step::digest(content));
                }
            }
        }
        Self(known)
    }
}

/// Keeps what others wrote meanwhile into files that are about to be put back: the way in comes first, but their work is
/// not lost. A copy that cannot be written stops nothing.
fn set_aside(change: &Made, known: &Known<'_>, journal: &Journal<'_>, host: &dyn Host) -> Vec<String> {
    let mut told = Vec::new();
    for undo in &change.undos {
        let Undo::Restore { path, actor, .. } = undo else { continue };
        let Ok(now) = host.capture(path, actor) else { continue };
        let Some((digests, marks)) = known.0.get(path) else { continue };
        let noted = marked(undo);
        if noted && !marks.iter().any(|marks| marks.fit(&now)) {
            told.push(format!(
                "somebody else changed mode, owner or attributes of {path} meanwhile{}",
                described(&now)
            ));
        }
        let Image::File { content, .. } = &now else { continue };
        if digests.contains(&step::digest(content)) {
            continue;
        }
        told.push(match journal.set_aside(content) {
            Ok(place) => format!("somebody else edited {path} meanwhile: their text is kept in {place}"),
            Err(failure) => {
                format!("somebody else edited {path} meanwhile, and their text could not be kept: {}", failure.line())
            }
        });
    }
    told.dedup();
    told
}

/// False for an undo in a journal of an earlier version, which tells nothing of mode and owner.
const fn marked(undo: &Undo) -> bool {
    matches!(undo, Undo::Restore { marks: Some(_), .. })
}

/// Mode and owner, for the reader.
fn described(image: &Image) -> String {
    match image {
        Image::File { mode, uid, gid, .. } | Image::Dir { mode, uid, gid, .. } => {
            format!(": it was {mode:04o} {uid}:{gid} and is put back")
        }
        Image::Absent | Image::Link { .. } => String::new(),
    }
}

fn undo_change(
    change: &Made,
    older: &[Made],
    machine: Machine,
    host: &dyn Host,
    disabled: &mut Vec<String>,
) -> (Vec<Failure>, Vec<String>) {
    let (mut failures, mut kept) = (Vec::new(), Vec::new());
    let gone = |undo: &&Undo| matches!(undo, Undo::Restore { path, .. } if is_gone(path, older, host));
    for undo in change.undos.iter().rev().filter(|undo| !gone(undo)) {
        match step::take_back(undo, host) {
            Ok(TakenBack::Whole) => {}
            Ok(TakenBack::Kept(why)) => kept.push(why),
            Ok(TakenBack::Disabled(why)) => disabled.push(why),
            Err(failure) => failures.push(failure),
        }
    }
    let follows = if machine == Machine::Running { change.backward.as_slice() } else { &[] };
    for action in follows {
        failures.extend(step::activate(action, host).err());
    }
    (failures, kept)
}

/// Rolls a run back: one that was killed, or one that closed.
pub fn rollback(request: Rollback<'_>, sink: &mut dyn Sink) -> Outcome {
    match try_rollback(request, sink) {
        Ok(outcome) => outcome,
        Err(failure) => {
            // Nothing was undone yet: what failed is the way there.
            let exit = Exit::before_any_change(failure.kind);
            let verdict = format!("not rolled back: {}", failure.line());
            let next = failure.hint.clone();
            sink.event(Event::Failed { failure });
            Outcome { exit, verdict, next, run: None }
        }
    }
}

fn try_rollback(request: Rollback<'_>, sink: &mut dyn Sink) -> Result<Outcome> {
    let Rollback { host, shelf, audit, run, later_edits, machine, approve } = request;
    let _held = super::guard::lock(shelf)?;
    let run = match run {
        Some(run) => run.to_owned(),
        None => newest(shelf)?,
    };
    let (journal, damage) = Journal::salvage(shelf, &run)?;
    let records = journal.records();
    let list = made(&records);
    let closed = journal::is_over(&records);
    if list.iter().all(|change| change.undone) && journal::was_damaged(shelf, &run)? {
        let what = "what is left of its journal is undone, the rest is not known";
        if !closed {
            journal.close(Exit::RollbackIncomplete, what, &jiff::Timestamp::now().to_string())?;
        }
        return Err(Failure::refused(format!("run {run}"), what)
            .why(format!("a line was damaged; the journal as it was: {}", journal::damaged(shelf, &run)))
            .hint(format!("look what that held; once it is mended by hand: keyward acknowledge {run}")));
    }
    if list.iter().all(|change| change.undone) {
        let verdict = match (closed, journal::is_degraded(&records)) {
            (false, _) => Some("was cut off before it changed anything"),
            (true, true) => Some("rolled back; nothing of it is left to undo"),
            (true, false) => None,
        };
        if let Some(verdict) = verdict {
            journal.close(Exit::RolledBack, verdict, &jiff::Timestamp::now().to_string())?;
        }
        let nothing = Outcome {
            exit: Exit::AsAsked,
            verdict: format!("nothing to roll back: run {run} has no change in force"),
            next: String::new(),
            run: Some(run),
        };
        return Ok(nothing);
    }
    if closed && later_edits == LaterEdits::Respect {
        refuse_later_edits(&list, host)?;
    }
    let summaries: Vec<String> =
        list.iter().rev().filter(|change| !change.undone).map(|change| change.summary.clone()).collect();
    if !approve(&run, &summaries) {
        return Err(Failure::refused(run, "declined, nothing changed"));
    }
    let reason = Failure::new(Kind::Failed, run.as_str(), "rollback asked for");
    let told = audit::record(audit, journal.run(), "rolling_back", &reason.line())
        .and_then(|()| journal.write(&Record::RollingBack { reason: reason.line() }));
    // The way back from a run that was cut off must not wait for room on a disk; that from a closed one can.
    if closed {
        told?;
    }
    sink.event(Event::RollingBack { reason });
    let mut remains = unwind(&journal, Scope::All, machine, host, sink);
    remains.failures.extend(damage);
    let outcome = finish(&journal, &remains, &format!("rolled back run {run}"), Exit::AsAsked);
    let _ = audit::record(audit, &run, "rolled_back", &outcome.verdict);
    Ok(outcome)
}

/// Closes the journal after an unwind and says how it ended.
pub fn finish(journal: &Journal<'_>, remains: &Remains, done: &str, whole: Exit) -> Outcome {
    let run = journal.run().to_owned();
    let told: String = remains.told.iter().chain(&remains.disabled).map(|text| format!("; {text}")).collect();
    let (exit, verdict, next) = match remains.failures.first() {
        None => (whole, format!("{done}{told}"), format!("keyward show {run}")),
        Some(first) => (
            Exit::RollbackIncomplete,
            format!(
                "{done}, but {} could not be undone: {}{told}",
                count(remains.failures.len(), "step"),
                first.line()
            ),
            format!("mend what is named above, then: keyward rollback {run}"),
        ),
    };
    // The journal's end is for the reader; when the disk refuses it the undo still happened.
    let _ = journal.close(exit, &verdict, &jiff::Timestamp::now().to_string());
    Outcome { exit, verdict, next, run: Some(run) }
}

/// `1 step`, `2 steps`.
pub fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// The newest run with a change in force, or one that never ended, or whose undo was incomplete.
///
/// # Errors
/// Input when there is none.
pub fn newest(shelf: &dyn Shelf) -> Result<String> {
    for run in shelf.runs()?.into_iter().rev() {
        let records = journal::read(shelf, &run)?;
        let closed = journal::is_over(&records);
        // Taking a taking back back is asked for by name.
        if closed && super::way_back::is_one(&records) {
            continue;
        }
        if !closed || journal::is_degraded(&records) || made(&records).iter().any(|change| !change.undone) {
            return Ok(run);
        }
    }
    Err(Failure::input("rollback", "there is no run to roll back").hint("list the runs with: keyward history"))
}

/// A path that is neither as the run left it nor as it was before one of its changes was edited since: an undo whose records
/// could not be written may have come further than the journal tells.
pub(super) fn refuse_later_edits(list: &[Made], host: &dyn Host) -> Result<()> {
    let stood = |place: &AbsPath, now: &Image| {
        list.iter()
            .flat_map(|made| &made.undos)
            .any(|undo| matches!(undo, Undo::Restore { path, image, .. } if path == place && image == now))
    };
    let mut seen: Vec<&str> = Vec::new();
    let mut edited: Vec<String> = Vec::new();
    for undo in list.iter().rev().filter(|change| !change.undone).flat_map(|change| change.undos.iter().rev()) {
        let Undo::Restore { path, actor, left, marks, .. } = undo else { continue };
        if seen.contains(&path.as_str()) {
            continue;
        }
        seen.push(path.as_str());
        let now = host.capture(path, actor)?;
        if was_edited(&now, left.as_deref(), marks.as_ref()) && !stood(path, &now) {
            edited.push(path.to_string());
        }
    }
    if edited.is_empty() {
        return Ok(());
    }
    Err(Failure::refused(edited.join(", "), "edited since that run; rolling back would lose the edits")
        .hint("look at them; to overwrite them: keyward rollback --force RUN"))
}

fn was_edited(now: &Image, left: Option<&str>, marks: Option<&Marks>) -> bool {
    let as_left = match (now, left) {
        (Image::File { content, .. }, Some(left)) => step::digest(content) == left,
        (Image::Dir { .. }, None) => true,
        (Image::Absent, None) => true,
        _ => false,
    };
    !as_left || marks.is_some_and(|marks| !marks.fit(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Change, Plan, Risk, Step};
    use crate::host::ledger::MemoryLedger;
    use crate::host::memory::{Entry, MemoryHost, World};
    use crate::host::shelf::MemoryShelf;
    use crate::host::{Actor, Node, Owner};

    const PATH: &str = "/etc/file";

    /// A run that replaced a file of root's, ended well, was followed by `later`, and is rolled back.
    fn rolled_back(later: fn(&mut Entry), later_edits: LaterEdits, old_journal: bool) -> (Outcome, Image) {
        let plan = serde_json::json!({"version": 1, "host": "", "playbook": "", "playbook_digest": "",
            "observation_digest": "", "changes": [], "notes": [], "deferred": [], "promises": [], "met": []});
        let plan: Plan = serde_json::from_value(plan).unwrap();
        let (path, mut world) = (AbsPath::fixed(PATH), World::default());
        world.file(PATH, "old", 0o644);
        let (shelf, host, audit) = (MemoryShelf::default(), MemoryHost::new(world), MemoryLedger::default());
        let mut change = Change::new("a", "a:b", "write", Stage::Additive, Risk::None);
        let node = Node::File { content: b"new".to_vec(), mode: 0o640, owner: Owner::Actor };
        change.steps.push(Step::Put { path: path.clone(), actor: Actor::Root, node });
        let journal = Journal::begin(&shelf, "r1", "now", &plan).unwrap();
        if old_journal {
            let mut undo = step::undo_of(&change.steps[0], &host).unwrap();
            if let Undo::Restore { marks, .. } = &mut undo {
                *marks = None;
            }
            let (key, summary, stage) = (change.key.clone(), String::new(), Some(Stage::Additive));
            let (forward, backward) = (Vec::new(), Vec::new());
            journal.write(&Record::Change { key: key.clone(), summary, stage, forward, backward }).unwrap();
            journal.write(&Record::Intent { key, step: 0, undo }).unwrap();
            host.edit(|world| world.file(PATH, "new", 0o640));
        } else {
            step::make(&change, &host, &journal, Some(Stage::Additive)).unwrap();
        }
        journal.close(Exit::AsAsked, "done", "now").unwrap();
        host.edit(|world| later(world.entry_mut(PATH).unwrap()));
        let (machine, approve) = (Machine::Down, &mut |_: &str, _: &[String]| true);
        let request = Rollback { host: &host, shelf: &shelf, audit: &audit, run: None, later_edits, machine, approve };
        let outcome = rollback(request, &mut Vec::new());
        (outcome, host.capture(&path, &Actor::Root).unwrap())
    }

    #[test]
    fn a_later_change_of_mode_or_owner_is_an_edit() {
        let edits: [fn(&mut Entry); 2] = [|entry| entry.mode = 0o600, |entry| entry.gid = 4];
        let respect = |edit, old| rolled_back(edit, LaterEdits::Respect, old);
        let restored =
            |image: &Image| matches!(image, Image::File { content, mode: 0o644, gid: 0, .. } if content == b"old");
        let (outcome, image) = respect(|_| {}, false);
        assert!(
            outcome.exit == Exit::AsAsked && restored(&image) && !outcome.verdict.contains("somebody"),
            "{outcome:?}"
        );
        for (at, edit) in edits.into_iter().enumerate() {
            let (outcome, image) = respect(edit, false);
            assert!(outcome.exit == Exit::Refused && outcome.verdict.contains(PATH), "{at}: {outcome:?}");
            assert!(matches!(image, Image::File { content, .. } if content == b"new"), "{at}: left alone");
            let (outcome, image) = rolled_back(edit, LaterEdits::Overwrite, false);
            assert!(outcome.exit == Exit::AsAsked && restored(&image), "{at}: {outcome:?}");
            assert!(
                outcome.verdict.contains("somebody else changed mode, owner or attributes of /etc/file"),
                "{outcome:?}"
            );
            // A journal of an earlier version does not know.
            let (outcome, image) = respect(edit, true);
            assert!(outcome.exit == Exit::AsAsked && restored(&image), "{at}: {outcome:?}");
        }
        // Back to what stood there before: nothing is lost.
        let as_before: fn(&mut Entry) =
            |entry| *entry = Entry::new(crate::host::memory::Stuff::File(b"old".to_vec()), 0o644);
        let (outcome, _) = respect(as_before, false);
        assert_eq!(outcome.exit, Exit::AsAsked, "{outcome:?}");
    }

    /// The undo of the newest change met a full disk, that of the first had only to remove, and neither could say so.
    #[test]
    fn what_an_undo_without_records_has_put_back_is_no_edit() {
        let plan = serde_json::json!({"version": 1, "host": "", "playbook": "", "playbook_digest": "",
            "observation_digest": "", "changes": [], "notes": [], "deferred": [], "promises": [], "met": []});
        let (path, mut world) = (AbsPath::fixed(PATH), World::default());
        world.file("/etc/other", "", 0o644);
        let (shelf, host, audit) = (MemoryShelf::default(), MemoryHost::new(world), MemoryLedger::default());
        let journal = Journal::begin(&shelf, "r1", "now", &serde_json::from_value(plan).unwrap()).unwrap();
        for (key, text) in [("a:b:c", "first"), ("a:b:d", "second")] {
            let mut change = Change::new("a", key, "write", Stage::Additive, Risk::None);
            let node = Node::File { content: text.as_bytes().to_vec(), mode: 0o640, owner: Owner::Actor };
            change.steps.push(Step::Put { path: path.clone(), actor: Actor::Root, node });
            step::make(&change, &host, &journal, Some(Stage::Additive)).unwrap();
        }
        journal.close(Exit::RollbackIncomplete, "no space", "now").unwrap();
        host.remove(&path, &Actor::Root).unwrap();
        let (machine, approve) = (Machine::Down, &mut |_: &str, _: &[String]| true);
        let later_edits = LaterEdits::Respect;
        let request = Rollback { host: &host, shelf: &shelf, audit: &audit, run: None, later_edits, machine, approve };
        let outcome = rollback(request, &mut Vec::new());
        assert_eq!(outcome.exit, Exit::AsAsked, "{outcome:?}");
        assert_eq!(host.capture(&path, &Actor::Root).unwrap(), Image::Absent);
    }

    #[test]
    fn marks_tell_attributes_where_they_are_known() {
        let file = |mode, note: &[u8]| {
            let xattrs = BTreeMap::from([("user.note".to_owned(), note.to_vec())]);
            Image::File { content: Vec::new(), mode, uid: 0, gid: 0, xattrs }
        };
        let node = Node::File { content: Vec::new(), mode: 0o644, owner: Owner::Actor };
        let kept = Marks::put(&node, &Actor::Root, &file(0o644, b"a"));
        assert!(kept.fit(&file(0o644, b"a")) && !kept.fit(&file(0o644, b"b")) && !kept.fit(&file(0o600, b"a")));
        // A new mode changes an access list, and a new file may inherit one.
        for before in [file(0o640, b"a"), Image::Absent] {
            assert!(Marks::put(&node, &Actor::Root, &before).fit(&file(0o644, b"b")));
        }
    }
}
