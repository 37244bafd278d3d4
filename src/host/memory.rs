//! The in-memory twin of a host, for law tests. It refuses what the machine refuses, by the same rules; programs are
//! answered by small models that tests plug in. It does not know permission bits: whoever may work in a directory can read
//! all that is there. Must not touch the machine.

mod acts;
mod world;

pub use world::{Entry, Stuff, World};

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use self::acts::{Way, bytes_of, capture, edited, no_stale_lock, put, remove, restore, way};
use super::rules::{self, Who};
use super::{AccountEdit, Actor, Command, Host, Image, Listener, Meta, Node, Output, Owner, Probe, Staged, edits};
use crate::error::{Failure, Result};
use crate::types::{AbsPath, Port, Proto};

/// A small stand-in for a program: sees and may change the world.
type Model = Rc<dyn Fn(&mut World, &Command) -> Output>;
/// What a daemon does on SIGHUP.
type OnHangup = Rc<dyn Fn(&mut World) -> Result<()>>;

/// Where staged files lie while a model looks at them.
const STAGE: &str = "/run/keyward/stage";

/// A host that is a value.
#[derive(Default)]
pub struct MemoryHost {
    world: RefCell<World>,
    programs: RefCell<BTreeMap<String, Model>>,
    daemons: RefCell<BTreeMap<String, OnHangup>>,
    /// How many mutating operations still succeed; `None` for all.
    left: Cell<Option<u64>>,
    changes: Cell<u64>,
}

impl std::fmt::Debug for MemoryHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryHost").field("world", &self.world.borrow()).finish_non_exhaustive()
    }
}

impl MemoryHost {
    /// A host in this state.
    pub fn new(world: World) -> Self {
        Self { world: RefCell::new(world), ..Self::default() }
    }

    /// Answers the program at `path` by `model`, and puts an executable file there if there is none.
    pub fn program(&self, path: &str, model: impl Fn(&mut World, &Command) -> Output + 'static) {
        let mut world = self.world.borrow_mut();
        if world.entry(path).is_none() {
            world.file(path, "", 0o755);
        }
        self.programs.borrow_mut().insert(path.to_owned(), Rc::new(model));
    }

    /// Lets a daemon with this executable run: [`Host::hangup`] finds it when its pid file is there.
    pub fn daemon(&self, program: &str, on_hangup: impl Fn(&mut World) -> Result<()> + 'static) {
        self.daemons.borrow_mut().insert(program.to_owned(), Rc::new(on_hangup));
    }

    /// Changes the world from outside, as another administrator would.
    pub fn edit<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        change(&mut self.world.borrow_mut())
    }

    /// The whole state, to be compared with another one.
    pub fn snapshot(&self) -> World {
        self.world.borrow().clone()
    }

    /// Lets the `n`-th mutating operation from now on fail without effect, once; 1 is the next one.
    pub fn fail_after(&self, n: u64) {
        self.left.set(n.checked_sub(1));
    }

    /// How many mutating operations were asked for so far.
    pub const fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// Counts a mutating operation, and fails it when it is its turn.
    fn mutate(&self, place: &str) -> Result<()> {
        self.changes.set(self.changes.get() + 1);
        match self.left.get() {
            Some(0) => {
                self.left.set(None);
                Err(Failure::failed(place, "was made to fail").why("the test asked for it").hint("none"))
            }
            Some(left) => {
                self.left.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn answer(&self, world: &mut World, command: &Command) -> Result<Output> {
        let unknown = || {
            Failure::unknown(command.program(), "cannot be started")
                .why("no model answers it")
                .hint("plug one in with MemoryHost::program")
        };
        let path = world.resolve(command.program(), true).ok_or_else(unknown)?;
        let model = {
            let programs = self.programs.borrow();
            programs.get(command.program()).or_else(|| programs.get(&path)).cloned().ok_or_else(unknown)?
        };
        Ok(model(world, command))
    }
}

impl Probe for MemoryHost {
    fn meta(&self, path: &AbsPath, actor: &Actor) -> Result<Option<Meta>> {
        let world = self.world.borrow();
        let found = if *actor == Actor::Root {
            world.resolve(path.as_str(), false).and_then(|path| world.entry(&path))
        } else {
            match way(&world, path, actor)? {
                Way::Missing => None,
                Way::Open(_) | Way::Home => world.entry(path.as_str()),
            }
        };
        Ok(found.map(Entry::meta))
    }

    fn read(&self, path: &AbsPath, actor: &Actor) -> Result<Option<Vec<u8>>> {
        let world = self.world.borrow();
        if *actor == Actor::Root {
            let found = world.resolve(path.as_str(), true).and_then(|path| world.entry(&path));
            return found.map(|entry| bytes_of(path, entry)).transpose();
        }
        let uid = match way(&world, path, actor)? {
            Way::Open(Who::User { uid, .. }) => uid,
            Way::Open(Who::Root) | Way::Missing => return Ok(None),
            Way::Home => return Err(rules::home_itself(path)),
        };
        let Some(entry) = world.entry(path.as_str()) else { return Ok(None) };
        rules::readable_in_home(path, &entry.meta(), uid)?;
        bytes_of(path, entry).map(Some)
    }

    fn list(&self, path: &AbsPath, actor: &Actor) -> Result<Option<Vec<String>>> {
        let world = self.world.borrow();
        let place = if *actor == Actor::Root {
            world.resolve(path.as_str(), true)
        } else {
            match way(&world, path, actor)? {
                Way::Missing => None,
                Way::Open(Who::User { uid, .. }) => {
                    let found = world.entry(path.as_str());
                    found.iter().try_for_each(|entry| rules::home_dir_seen(path, &entry.meta(), uid))?;
                    Some(path.as_str().to_owned())
                }
                Way::Open(_) | Way::Home => Some(path.as_str().to_owned()),
            }
        };
        let Some((place, entry)) = place.and_then(|place| world.entry(&place).map(|entry| (place.clone(), entry)))
        else {
            return Ok(None);
        };
        rules::real_dir(path, &entry.meta()).map_err(|_| rules::no_directory(path))?;
        Ok(Some(world.names(&place)))
    }

    fn link(&self, path: &AbsPath) -> Result<Option<String>> {
        let world = self.world.borrow();
        let found = world.resolve(path.as_str(), false).and_then(|path| world.entry(&path));
        Ok(found.and_then(|entry| match &entry.stuff {
            Stuff::Link(target) => Some(target.clone()),
            _ => None,
        }))
    }

    /// A program that only reads changes nothing: its model works on a copy.
    fn ask(&self, command: &Command) -> Result<Output> {
        let mut copy = self.snapshot();
        self.answer(&mut copy, command)
    }

    fn has_program(&self, path: &str) -> bool {
        let world = self.world.borrow();
        let found = world.resolve(path, true).and_then(|path| world.entry(&path));
        found.is_some_and(|entry| matches!(entry.stuff, Stuff::File(_)) && entry.mode & 0o111 != 0)
    }

    fn listeners(&self) -> Result<Vec<Listener>> {
        Ok(self.world.borrow().sockets(Proto::Tcp))
    }

    fn datagram_sockets(&self) -> Result<Vec<Listener>> {
        Ok(self.world.borrow().sockets(Proto::Udp))
    }

    fn ask_staged(&self, files: &[Staged], command: &Command) -> Result<Output> {
        let mut copy = self.snapshot();
        let filled = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) => text.replace("{stage}", STAGE).into_bytes(),
            Err(_) => bytes.to_vec(),
        };
        copy.dir(STAGE, 0o700);
        for file in files {
            copy.file(&format!("{STAGE}/{}", file.name), filled(&file.content), file.mode);
        }
        let argv = command.argv.iter().map(|word| word.replace("{stage}", STAGE)).collect();
        self.answer(&mut copy, &Command { argv, stdin: filled(&command.stdin), ..command.clone() })
    }
}

impl Host for MemoryHost {
    fn capture(&self, path: &AbsPath, actor: &Actor) -> Result<Image> {
        let world = self.world.borrow();
        match way(&world, path, actor)? {
            Way::Open(who) => capture(&world, path, &who),
            Way::Missing => Ok(Image::Absent),
            Way::Home => Err(rules::home_itself(path)),
        }
    }

    fn put(&self, path: &AbsPath, actor: &Actor, node: &Node) -> Result<()> {
        self.mutate(path.as_str())?;
        let mut world = self.world.borrow_mut();
        match way(&world, path, actor)? {
            Way::Open(who) => put(&mut world, path, &who, node),
            Way::Missing => Err(rules::no_parent(path)),
            Way::Home => Err(rules::home_itself(path)),
        }
    }

    fn remove(&self, path: &AbsPath, actor: &Actor) -> Result<()> {
        self.mutate(path.as_str())?;
        let mut world = self.world.borrow_mut();
        match way(&world, path, actor)? {
            Way::Open(who) => remove(&mut world, path, &who),
            Way::Missing => Ok(()),
            Way::Home => Err(rules::home_itself(path)),
        }
    }

    fn restore(&self, path: &AbsPath, actor: &Actor, image: &Image) -> Result<()> {
        self.mutate(path.as_str())?;
        let mut world = self.world.borrow_mut();
        match way(&world, path, actor)? {
            Way::Open(who) => restore(&mut world, path, &who, image),
            Way::Missing if *image == Image::Absent => Ok(()),
            Way::Missing => Err(rules::no_parent(path)),
            Way::Home => Err(rules::home_itself(path)),
        }
    }

    fn account(&self, edits: &[AccountEdit]) -> Result<Vec<AccountEdit>> {
        self.mutate("/etc/passwd")?;
        let mut world = self.world.borrow_mut();
        edits.iter().map(edits::database).try_for_each(|db| no_stale_lock(&world, db))?;
        let edited = edited(&world, edits)?;
        let mut after = world.clone();
        for (db, bytes) in edited.writes {
            let path = db.path();
            let Some(meta) = after.entry(path.as_str()).map(Entry::meta) else { continue };
            let owner = Owner::Ids { uid: meta.uid, gid: meta.gid };
            put(&mut after, &path, &Who::Root, &Node::File { content: bytes, mode: meta.mode, owner })?;
        }
        *world = after;
        Ok(edited.undo)
    }

    fn account_undo(&self, edits: &[AccountEdit]) -> Result<Vec<AccountEdit>> {
        edited(&self.world.borrow(), edits).map(|edited| edited.undo)
    }

    fn run(&self, command: &Command) -> Result<Output> {
        self.mutate(command.program())?;
        self.answer(&mut self.world.borrow_mut(), command)
    }

    fn hangup(&self, pidfile: &AbsPath, program: &AbsPath, _by: Option<&Command>) -> Result<()> {
        self.mutate(program.as_str())?;
        let daemon = self.daemons.borrow().get(program.as_str()).cloned();
        let mut world = self.world.borrow_mut();
        match (world.text(pidfile.as_str()), daemon) {
            (Some(_), Some(on_hangup)) => on_hangup(&mut world),
            _ => Err(rules::not_running(pidfile, program, "does not run")),
        }
    }

    fn keep_sessions(&self, _: &[Port]) -> Result<()> {
        // It has no connections.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    const TOOL: &str = "/usr/bin/tool";

    fn host() -> MemoryHost {
        let mut world = World::default();
        world.file("/etc/f", "old", 0o640);
        let host = MemoryHost::new(world);
        host.program(TOOL, |world, command| {
            let seen = command.argv.get(1).and_then(|path| world.text(path)).unwrap_or_default();
            world.file("/etc/made", seen.clone(), 0o600);
            Output { code: 0, stdout: seen, stderr: String::new() }
        });
        host
    }

    #[test]
    fn asking_changes_nothing_and_running_does() {
        let host = host();
        let before = host.snapshot();
        assert_eq!(host.ask(&Command::new([TOOL, "/etc/f"])).unwrap().stdout, "old");
        let staged = [Staged { name: "a/b".to_owned(), content: b"in {stage}".to_vec(), mode: 0o600 }];
        let output = host.ask_staged(&staged, &Command::new([TOOL, "{stage}/a/b"])).unwrap();
        assert_eq!(output.stdout, format!("in {STAGE}"));
        assert_eq!((host.snapshot(), host.changes()), (before, 0));
        assert!(host.run(&Command::new([TOOL, "/etc/f"])).unwrap().ok());
        assert_eq!(host.edit(|world| world.text("/etc/made")).unwrap(), "old");
        assert_eq!(host.changes(), 1);
        for run in [host.ask(&Command::new(["/usr/bin/other"])), host.run(&Command::new(["/usr/bin/other"]))] {
            assert_eq!(run.unwrap_err().kind, Kind::Unknown);
        }
        assert!(host.has_program(TOOL) && !host.has_program("/etc/f") && !host.has_program("/usr/bin/other"));
    }

    #[test]
    fn one_operation_fails_when_it_is_its_turn() {
        let path = AbsPath::fixed("/etc/f");
        let node = Node::File { content: b"new".to_vec(), mode: 0o600, owner: Owner::Actor };
        for turn in 1..4 {
            let host = host();
            let before = host.snapshot();
            host.fail_after(turn);
            let outcome: Vec<bool> = vec![
                host.put(&path, &Actor::Root, &node).is_ok(),
                host.run(&Command::new([TOOL, "/etc/f"])).is_ok(),
                host.remove(&path, &Actor::Root).is_ok(),
                host.remove(&path, &Actor::Root).is_ok(),
            ];
            let wanted: Vec<bool> = (1..5).map(|at| at != turn).collect();
            assert_eq!(outcome, wanted);
            assert_ne!(host.snapshot(), before);
        }
    }

    #[test]
    fn a_hangup_needs_a_daemon_and_its_pid_file() {
        let host = host();
        let (pidfile, program) = (AbsPath::fixed("/run/d.pid"), AbsPath::fixed("/usr/sbin/d"));
        host.daemon("/usr/sbin/d", |world| {
            world.file("/run/seen", "", 0o600);
            Ok(())
        });
        assert!(host.hangup(&pidfile, &program, None).is_err());
        host.edit(|world| world.file("/run/d.pid", "7\n", 0o644));
        assert!(host.hangup(&pidfile, &AbsPath::fixed("/usr/sbin/e"), None).is_err());
        host.hangup(&pidfile, &program, None).unwrap();
        assert!(host.snapshot().entry("/run/seen").is_some());
    }
}
