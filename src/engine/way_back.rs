//! Taking a closed run back as a run of its own: a task that wants what the journal's before-images hold. What the run
//! closed is opened again first; what it opened is closed last, after a decision, under the same guard as any apply.

use std::collections::{BTreeMap, BTreeSet};

use crate::change::{
    Action, Activation, Change, Claim, Difference, Inverse, Note, Plan, Promise, Risk, Stage, Step, TextDiff,
};
use crate::error::{Failure, Result};
use crate::facts::{self, Facts, SshdMode};
use crate::host::shelf::Shelf;
use crate::host::{AccountEdit, Actor, FileKind, Host, Image, Probe};
use crate::journal::{self, Record, Undo};
use crate::outcome::Exit;
use crate::resource::{Planned, Task};
use crate::types::{AbsPath, Port, Word as _};

use super::live_account;
use super::rollback::{self, Made};

/// How the plan of such a run names its playbook.
const NAME: &str = "rollback of ";

/// A closed run, to be taken back.
pub struct WayBack {
    run: String,
    plan: Plan,
    made: Vec<Made>,
    /// Where sshd listens now, for a run that moved no port.
    listening: Vec<Port>,
    /// Keys that will count again, of accounts that lose others.
    keys: Vec<Promise>,
    /// The changes whose undo takes those others away.
    of_keys: BTreeSet<String>,
}

/// True when this run took another one back.
pub fn is_one(records: &[Record]) -> bool {
    matches!(records.first(), Some(Record::Begin { plan, .. }) if plan.playbook.starts_with(NAME))
}

impl WayBack {
    /// Reads the run. Edits made since are refused unless `force`.
    ///
    /// # Errors
    /// When the journal cannot be read, or paths of the run were edited since.
    pub fn open(shelf: &dyn Shelf, run: &str, host: &dyn Host, force: bool) -> Result<Self> {
        let records = journal::read(shelf, run)?;
        let made = rollback::made(&records);
        refuse_built_upon(shelf, run, &made)?;
        if !force {
            rollback::refuse_later_edits(&made, host)?;
        }
        let plan = records.iter().rev().find_map(|record| match record {
            Record::Begin { plan, .. } | Record::Replanned { plan } => Some((**plan).clone()),
            _ => None,
        });
        let plan = plan.ok_or_else(|| Failure::unknown(format!("run {run}"), "its journal has no beginning"))?;
        refuse_one_way(run, &made)?;
        let listening = doors(host)?;
        Ok(Self { run: run.to_owned(), plan, made, listening, keys: Vec::new(), of_keys: BTreeSet::new() })
    }

    /// Files as they will be again, each with the key of a change that replaced it.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let before = self.before_images();
        let replaced = self.in_force().flat_map(|made| made.undos.iter().map(|undo| (&made.key, undo)));
        let file = |(key, undo): (&String, &Undo)| match undo {
            Undo::Restore { path, .. } => match before.get(path) {
                Some((_, Image::File { content, .. })) => Some((key.clone(), content.clone())),
                _ => None,
            },
            _ => None,
        };
        replaced.filter_map(file).collect()
    }

    /// With the keys that count again once these changes are undone: their accounts lose other keys and nothing else, so
    /// that they may confirm by one of these.
    #[must_use]
    pub fn with_keys(mut self, changes: BTreeSet<String>, keys: Vec<Promise>) -> Self {
        (self.of_keys, self.keys) = (changes, keys);
        self
    }

    /// How the plan names itself.
    pub fn name(&self) -> String {
        format!("{NAME}{}", self.run)
    }

    /// What the plan of the run said of the ways in before it.
    pub fn before(&self, about: &str) -> Option<String> {
        let of = |note: &Note| (note.about == about).then(|| note.text.strip_prefix("before  ").map(str::to_owned));
        self.plan.notes.iter().find_map(|note| of(note).flatten())
    }

    /// True when sshd listens, so that there is a way in to lose.
    pub fn has_door(&self) -> bool {
        !self.listening.is_empty()
    }

    fn in_force(&self) -> impl DoubleEndedIterator<Item = &Made> {
        self.made.iter().filter(|made| !made.undone && made.stage.is_some_and(|stage| stage != Stage::Packages))
    }

    /// Paths that were not there before the run.
    fn new_paths(&self) -> BTreeSet<&AbsPath> {
        let undos = self.in_force().flat_map(|made| &made.undos);
        let new = undos.filter_map(|undo| match undo {
            Undo::Restore { path, image: Image::Absent, .. } => Some(path),
            _ => None,
        });
        new.collect()
    }

    /// Accounts that the run made or touched: their entries, keys and sudo.
    fn accounts(&self) -> Vec<String> {
        let mut names = BTreeSet::new();
        let all = || self.in_force().filter(|made| !self.of_keys.contains(&made.key));
        for undo in all().flat_map(|made| &made.undos) {
            match undo {
                Undo::Account { edits } => names.extend(edits.iter().filter_map(|edit| match edit {
                    AccountEdit::Remove { key, .. } | AccountEdit::Field { key, .. } => Some(key.clone()),
                    AccountEdit::Member { user, .. } => Some(user.clone()),
                    _ => None,
                })),
                Undo::Restore { actor: Actor::User(user), .. } => drop(names.insert(user.text())),
                _ => {}
            }
        }
        // A key names its object in the middle: `sudo:deploy:grant`.
        for made in all() {
            if let [_, object, _] = made.key.split(':').collect::<Vec<_>>().as_slice() {
                names.insert((*object).to_owned());
            }
        }
        names.into_iter().collect()
    }

    /// The door as it was before the run answers again, and the one that the run opened is shut.
    fn promises(&self) -> Vec<Promise> {
        let ports = |closed: bool| {
            self.plan.promises.iter().filter_map(move |promise| match promise {
                Promise::SshPortClosed { port } if closed => Some(*port),
                Promise::SshPort { port } if !closed => Some(*port),
                _ => None,
            })
        };
        // When nothing closes after the decision, whoever logs in then shows what will be.
        let closes = self.in_force().any(|made| made.stage == Some(Stage::Additive));
        let than = if closes { self.accounts() } else { Vec::new() };
        let mut promises = vec![Promise::SomebodyElse { than }];
        promises.extend(self.keys.iter().cloned());
        if ports(true).next().is_none() {
            promises.extend(self.listening.iter().map(|port| Promise::SshPort { port: *port }));
            return promises;
        }
        promises.extend(ports(true).map(|port| Promise::SshPort { port }));
        promises.extend(ports(false).map(|port| Promise::SshPortClosed { port }));
        promises
    }

    /// What stood at each path before the run: the image of its first step there counts.
    fn before_images(&self) -> BTreeMap<&AbsPath, (&Actor, &Image)> {
        let mut first = BTreeMap::new();
        for undo in self.in_force().flat_map(|made| &made.undos) {
            if let Undo::Restore { path, actor, image, .. } = undo {
                first.entry(path).or_insert((actor, image));
            }
        }
        first
    }

    /// What of the host is not as before the run.
    fn look(&self, probe: &dyn Probe) -> Result<Left<'_>> {
        let mut left = Left { paths: BTreeMap::new(), kept: Vec::new(), accounts: false };
        for (path, (actor, image)) in self.before_images() {
            match self.state(path, actor, image, probe)? {
                State::Restored => {}
                State::Kept => left.kept.push(path),
                State::Differs(now) => drop(left.paths.insert(path, now)),
            }
        }
        let newest_first = self.in_force().rev().flat_map(|made| made.undos.iter().rev());
        let edits: Vec<AccountEdit> = newest_first
            .filter_map(|undo| match undo {
                Undo::Account { edits } => Some(edits.clone()),
                _ => None,
            })
            .flatten()
            .collect();
        left.accounts = live_account::left(&edits, probe)?;
        Ok(left)
    }

    /// What is to be undone of one change; `None` when the host is there already.
    fn change(&self, made: &Made, left: &Left<'_>, notes: &mut Vec<Note>) -> Option<Change> {
        let opened = made.stage == Some(Stage::Additive);
        let stage = if opened { Stage::Subtractive } else { Stage::Additive };
        let planned = self.plan.changes.iter().find(|change| change.key == made.key);
        let risk = planned.map_or(Risk::Access, |change| change.risk);
        let mut change = Change::new("rollback", format!("undo:{}", made.key), "", stage, risk);
        change.summary = format!("undo: {}", made.summary);
        let mut pending = false;
        for undo in made.undos.iter().rev() {
            match undo {
                Undo::Restore { path, actor, image, .. } => {
                    let restore = Step::Restore { path: path.clone(), actor: actor.clone(), image: image.clone() };
                    let Some((what, content)) = left.paths.get(path) else {
                        // It may come until the directory goes, which could not go then.
                        change
                            .steps
                            .extend(Some(restore).filter(|_| *image == Image::Absent && goes(path, made, left)));
                        continue;
                    };
                    pending = true;
                    change.differences.push(Difference::new(path.as_str(), described(image), what));
                    change.diffs.extend(diff(path, content, image));
                    change.steps.push(restore);
                }
                Undo::Account { edits } if left.accounts => {
                    pending = true;
                    change.steps.push(Step::Account { edits: edits.clone() });
                }
                Undo::Run { command, made_by } => {
                    let inverse = made_by.clone().map_or_else(
                        || Inverse::Irreversible("what it takes back is not in the journal".to_owned()),
                        Inverse::Command,
                    );
                    change.steps.push(Step::Run { command: command.clone(), inverse });
                }
                Undo::Irreversible { why } => notes.push(Note::info("rollback", why.clone())),
                Undo::Account { .. } | Undo::Nothing => {}
            }
        }
        if !pending {
            return None;
        }
        change.activation = turned(made);
        Some(change)
    }

    fn state(&self, path: &AbsPath, actor: &Actor, image: &Image, probe: &dyn Probe) -> Result<State> {
        let meta = match probe.meta(path, actor) {
            // The account may be gone already; then only root can look.
            Err(failure) => match probe.meta(path, &Actor::Root) {
                Ok(None) => None,
                _ => return Err(failure),
            },
            Ok(meta) => meta,
        };
        let Some(meta) = meta else {
            let now = ("not there".to_owned(), Vec::new());
            return Ok(if *image == Image::Absent { State::Restored } else { State::Differs(now) });
        };
        let attributes = (meta.mode, meta.uid, meta.gid);
        let mut content = Vec::new();
        let same = match (meta.kind, image) {
            (FileKind::File, image) => {
                content = probe.read(path, actor)?.unwrap_or_default();
                matches!(image, Image::File { content: before, mode, uid, gid, .. }
                    if *before == content && (*mode, *uid, *gid) == attributes)
            }
            (FileKind::Dir, Image::Absent) => {
                let names = probe.list(path, actor)?.unwrap_or_default();
                let new = self.new_paths();
                let foreign = names.iter().any(|name| path.join(name).map_or(true, |below| !new.contains(&below)));
                if foreign {
                    return Ok(State::Kept);
                }
                false
            }
            (FileKind::Dir, Image::Dir { mode, uid, gid, .. }) => (*mode, *uid, *gid) == attributes,
            (FileKind::Link, Image::Link { target, .. }) => probe.link(path)?.as_ref() == Some(target),
            _ => false,
        };
        let what = match meta.kind {
            FileKind::File => "file",
            FileKind::Dir => "directory",
            FileKind::Link => "link",
            FileKind::Other => "something else",
        };
        let now = (format!("{what} {:04o}", meta.mode), content);
        Ok(if same { State::Restored } else { State::Differs(now) })
    }
}

/// The journal must tell how the running system follows both ways: without that, a rollback that nobody confirms would put
/// the files back and leave the daemons as it had opened them.
fn refuse_one_way(run: &str, made: &[Made]) -> Result<()> {
    let one_way = |made: &Made| !made.undone && made.forward.is_empty() && !made.backward.is_empty();
    if !made.iter().any(one_way) {
        return Ok(());
    }
    Err(Failure::refused(format!("run {run}"), "cannot be taken back under guard")
        .why("its journal was written by an earlier keyward and does not tell how to undo the undo")
        .hint(format!(
            "apply a playbook that says what you want; or, from a console: keyward rollback \
             --i-accept-that-this-host-may-lock-me-out {run}"
        )))
}

/// Where sshd lets in now; none where nothing listens that could be it.
fn doors(probe: &dyn Probe) -> Result<Vec<Port>> {
    let facts = Facts::gather(probe)?;
    let listeners = probe.listeners()?;
    // A listener that does not tell its program may be an sshd.
    let hidden = listeners.iter().any(|listener| !listener.address.is_loopback() && listener.programs.is_empty());
    if !hidden && matches!(facts.sshd_mode, SshdMode::Stopped | SshdMode::Missing) {
        return Ok(Vec::new());
    }
    let ports = facts::ssh_ports(&facts, probe, &listeners)?;
    Ok(ports.into_iter().filter_map(|port| Port::new(port).ok()).collect())
}

/// What is not as before the run.
struct Left<'a> {
    /// What is there now, in words, and its content.
    paths: BTreeMap<&'a AbsPath, (String, Vec<u8>)>,
    /// Directories that others use by now.
    kept: Vec<&'a AbsPath>,
    /// True: the user databases differ.
    accounts: bool,
}

/// True when `path` is below a directory that the undo of its change takes away.
fn goes(path: &AbsPath, made: &Made, left: &Left<'_>) -> bool {
    made.undos.iter().any(|undo| {
        matches!(undo, Undo::Restore { path: above, image: Image::Absent, .. }
            if path.is_within(above) && left.paths.contains_key(above))
    })
}

enum State {
    /// As before the run.
    Restored,
    /// A directory that others use by now.
    Kept,
    /// What is there, and its content.
    Differs((String, Vec<u8>)),
}

fn described(image: &Image) -> String {
    match image {
        Image::Absent => "not there".to_owned(),
        Image::File { mode, .. } => format!("file {mode:04o}"),
        Image::Dir { mode, .. } => format!("directory {mode:04o}"),
        Image::Link { target, .. } => format!("link to {target}"),
    }
}

/// Of texts only.
fn diff(path: &AbsPath, now: &[u8], image: &Image) -> Option<TextDiff> {
    let after = match image {
        Image::File { content, .. } => String::from_utf8(content.clone()).ok()?,
        Image::Absent => String::new(),
        _ => return None,
    };
    let before = String::from_utf8(now.to_vec()).ok()?;
    (before != after).then(|| TextDiff { path: path.clone(), before, after })
}

impl Task for WayBack {
    fn resource(&self) -> &'static str {
        "rollback"
    }

    fn claims(&self) -> Vec<Claim> {
        Vec::new()
    }

    fn packages(&self) -> &'static [&'static str] {
        &[]
    }

    fn assess(&self, _: &Facts, probe: &dyn Probe) -> Result<Planned> {
        let mut planned = Planned { promises: self.promises(), ..Planned::default() };
        let left = self.look(probe)?;
        for path in &left.kept {
            planned.notes.push(Note::info("rollback", format!("{path} stays: it holds other files")));
        }
        for made in self.in_force().rev() {
            if made.undos.is_empty() {
                let text = format!("stays as it is, since undoing it could stop what lets you in: {}", made.summary);
                planned.notes.push(Note::info("rollback", text));
                continue;
            }
            planned.changes.extend(self.change(made, &left, &mut planned.notes));
        }
        Ok(planned)
    }
}

/// A later run that is in force and wrote the same files stands on this one: the door of today may be its.
fn refuse_built_upon(shelf: &dyn Shelf, run: &str, made: &[Made]) -> Result<()> {
    let paths = |made: &[Made]| -> BTreeSet<AbsPath> {
        let undos = made.iter().filter(|made| !made.undone && made.stage.is_some()).flat_map(|made| &made.undos);
        let written = undos.filter_map(|undo| match undo {
            Undo::Restore { path, .. } => Some(path.clone()),
            _ => None,
        });
        written.collect()
    };
    let own = paths(made);
    for later in shelf.runs()?.into_iter().filter(|later| later.as_str() > run) {
        let records = journal::read(shelf, &later)?;
        // What took a later run back left things as this one did.
        if is_one(&records) {
            continue;
        }
        let shared = paths(&rollback::made(&records));
        if let Some(path) = shared.intersection(&own).next() {
            return Err(Failure::refused(
                format!("run {run}"),
                format!("run {later} came after it and changed {path} too"),
            )
            .why("undoing the earlier one first could close the door in use")
            .hint(format!("keyward rollback {later}, and this one after it")));
        }
    }
    Ok(())
}

/// Notes in the journal of a run that another run has taken it back.
///
/// # Errors
/// When the journal cannot be written.
pub fn taken_back(shelf: &dyn Shelf, run: &str, by: &str) -> Result<()> {
    let journal = journal::Journal::reopen(shelf, run)?;
    for made in rollback::made(&journal.records()).iter().filter(|made| !made.undone) {
        journal.note(&Record::Undone { key: made.key.clone(), failures: Vec::new() })?;
    }
    journal.close(Exit::RolledBack, &format!("rolled back by run {by}"), &jiff::Timestamp::now().to_string())
}

/// What follows the undo of a change follows now, and the other way round.
fn turned(made: &Made) -> Activation {
    // Sessions are kept before a port closes; where it opens again, that is no reason to call an undo incomplete.
    let needed = |action: &&Action| !matches!(action, Action::KeepSessions { .. });
    Activation { forward: made.backward.clone(), backward: made.forward.iter().filter(needed).cloned().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::SSHD;
    use crate::host::memory::{MemoryHost, World};
    use crate::host::{Command, Listener, Output};

    fn ports(listeners: &[(&str, u16, &str)]) -> Vec<u16> {
        let mut world = World::default();
        world.file("/etc/os-release", "ID=debian\n", 0o644);
        world.listeners = listeners
            .iter()
            .map(|(address, port, program)| Listener {
                address: address.parse().unwrap(),
                port: *port,
                proto: crate::types::Proto::Tcp,
                programs: program.split_whitespace().map(str::to_owned).collect(),
            })
            .collect();
        let host = MemoryHost::new(world);
        host.program(SSHD, |_, _| Output { code: 0, stdout: "port 22\nport 2222\n".into(), stderr: String::new() });
        doors(&host).unwrap().iter().map(|port| port.get()).collect()
    }

    #[test]
    fn a_journal_that_tells_one_way_only_is_not_taken_back_under_guard() {
        let made = |forward: &[Action], undone| Made {
            key: String::new(),
            summary: String::new(),
            stage: Some(Stage::Subtractive),
            forward: forward.to_vec(),
            backward: vec![Action::Run(Command::new(["/bin/true"]))],
            undos: Vec::new(),
            undone,
        };
        let both = [Action::Run(Command::new(["/bin/true"]))];
        let kept = [Action::KeepSessions { ports: Vec::new() }, both[0].clone()];
        assert_eq!(turned(&made(&kept, false)), Activation { forward: both.to_vec(), backward: both.to_vec() });
        assert!(refuse_one_way("r1", &[made(&both, false), made(&[], true)]).is_ok());
        assert!(refuse_one_way("r1", &[made(&both, false), made(&[], false)]).is_err());
    }

    #[test]
    fn only_sshds_own_ports_are_doors() {
        assert_eq!(ports(&[("0.0.0.0", 2222, "sshd"), ("::", 9090, "systemd")]), [2222], "a socket of another daemon");
        assert_eq!(ports(&[("0.0.0.0", 2222, "sshd"), ("127.0.0.1", 6010, "sshd")]), [2222], "a forwarded display");
        assert_eq!(ports(&[("0.0.0.0", 2222, "sshd"), ("0.0.0.0", 5000, "sshd")]), [2222], "a forwarded port");
        assert_eq!(ports(&[("0.0.0.0", 22, "sshd"), ("0.0.0.0", 9, "sshd-mine")]), [22], "anybody's process");
        assert_eq!(ports(&[("0.0.0.0", 80, "nginx")]), [0; 0], "no sshd");
        assert_eq!(ports(&[("0.0.0.0", 22, "")]), [22, 2222], "whose it is cannot be seen");
    }
}
