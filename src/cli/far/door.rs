//! The connections to one host: as the user typed it, and, after a run has moved the door, as the playbook says.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use russh::keys::{HashAlg, PublicKey as HostKey};

use crate::change::Note;
use crate::error::{Failure, Result};
use crate::host::real::RealHost;
use crate::outcome::{Event, Sink};
use crate::target::put::Programs;
use crate::target::ssh::push::{self, Become, Started};
use crate::target::ssh::{
    Around, Destination, Link, Outcome, Question, Setback, Settings, Trouble, Trust, Wishes, held,
};
use crate::target::talk::Limits;
use crate::types::{PublicKey, UserName, Word as _};

use super::super::job::{Declared, Job};
use super::super::state::quoted;
use super::super::terminal;
use super::args::LoginArgs;
use super::secret::Keychain;

/// Most that a program there may say in a whole run: a plan has some 100 KiB.
pub const SAID: usize = 64 << 20;

/// How long a TCP connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take before the other port is tried that the playbook names; the first has its time afterwards.
const HASTE: Duration = Duration::from_millis(600);

/// Where a host is, and how to get in.
pub struct Door<'a> {
    /// As typed, and moved to where the host was found.
    place: Destination,
    /// As typed.
    typed: Destination,
    login: &'a LoginArgs,
    around: Around,
    probe: RealHost,
    /// The settings of each place. Asking for them starts a program, so each is asked for once in a run.
    settings: RefCell<Vec<(Destination, Settings)>>,
    /// What can be put on the host; read and hashed while the connection is made.
    programs: Shelf,
    keychain: Keychain,
    /// The administrators of the playbook with their keys.
    declared: Vec<Declared>,
    /// Where the playbook puts sshd.
    port: Option<u16>,
    /// True when the playbook lets root in no more.
    without_root: bool,
    /// Key files of administrators that have a passphrase.
    locked: RefCell<BTreeSet<PathBuf>>,
}

/// An account that logs in, and where.
#[derive(Debug, Clone)]
pub struct Way {
    /// Who and where.
    pub place: Destination,
    /// By which keys; `None`: by whatever opens it.
    pub keys: Option<Vec<PublicKey>>,
    /// The fingerprint of the host key, when the host has shown one before.
    pub pin: Option<String>,
    /// The port under which the host key is known, when sshd has moved.
    pub key_port: Option<u16>,
}

/// What can be put on hosts, once it was read.
pub type Shelf = Arc<OnceLock<Result<Programs>>>;

/// What takes its time and depends on nothing but the command line: begun while the playbook is read.
pub struct Early {
    settings: Option<JoinHandle<Result<Settings>>>,
    programs: Shelf,
}

impl Early {
    /// Begins. Where there are no threads, it is done when it is wanted.
    pub fn begin(destination: &Destination, login: &LoginArgs) -> Self {
        let programs = Arc::new(OnceLock::new());
        let (shelf, others) = (programs.clone(), login.agent_binary.clone());
        drop(std::thread::Builder::new().spawn(move || {
            shelf.get_or_init(|| read_programs(&others));
        }));
        let place = destination.clone();
        let ask = move || Settings::of(&place, &Around::here(), &RealHost::new());
        Self { settings: std::thread::Builder::new().spawn(ask).ok(), programs }
    }

    /// For one of many hosts, which share the programs.
    pub const fn shared(programs: Shelf) -> Self {
        Self { settings: None, programs }
    }
}

impl<'a> Door<'a> {
    /// Opens nothing yet.
    pub fn new(destination: &Destination, login: &'a LoginArgs, job: Option<&Job>, early: Early) -> Self {
        let typed = early.settings.and_then(|thread| thread.join().ok()?.ok());
        Self {
            place: destination.clone(),
            typed: destination.clone(),
            login,
            around: Around::here(),
            probe: RealHost::new(),
            // What failed is asked again, and then told.
            settings: RefCell::new(typed.map(|settings| (destination.clone(), settings)).into_iter().collect()),
            programs: early.programs,
            keychain: Keychain::new(login.password.clone(), login.sudo_password.clone()),
            declared: job.map(|job| job.declared.clone()).unwrap_or_default(),
            port: job.and_then(|job| job.ssh_port),
            without_root: job.is_some_and(|job| job.without_root),
            locked: RefCell::default(),
        }
    }

    /// Where the host was found.
    pub const fn place(&self) -> &Destination {
        &self.place
    }

    /// keyward for this host, or another place of it, as it is typed to get in again.
    pub fn command(&self, place: &Destination) -> String {
        // A password is the typed account's; the others come by their keys.
        let user = place.user.as_ref();
        let passwords = user.is_none() || user == self.typed.user.as_ref();
        format!("keyward --host {}{}", quoted(&place.to_string()), self.login.again(passwords))
    }

    /// Asks for the passphrases of the administrators' keys before anything waits for them.
    pub fn unlock(&self) {
        for file in self.locked.borrow().iter() {
            drop(self.keychain.answer(&Question::Passphrase { file: file.clone(), attempt: 0 }));
        }
    }

    /// Where the playbook puts sshd.
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// What the user's ssh client would do for a place.
    fn settings(&self, place: &Destination) -> Result<Settings> {
        if let Some((_, known)) = self.settings.borrow().iter().find(|(of, _)| of == place) {
            return Ok(known.clone());
        }
        let mut settings = Settings::of(place, &self.around, &self.probe)?;
        if !self.login.jump.is_empty() {
            settings.jumps.clone_from(&self.login.jump);
            settings.proxy_command = None;
        }
        self.settings.borrow_mut().push((place.clone(), settings.clone()));
        Ok(settings)
    }

    /// The keys of the playbook's administrators that can be signed with here.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    pub fn held(&self) -> Result<Vec<(UserName, PublicKey)>> {
        let mut found = Vec::new();
        for Declared { user, key, .. } in &self.declared {
            let place = Destination { user: Some(user.text()), ..self.place.clone() };
            let settings = self.settings(&place)?;
            let keys = held(std::slice::from_ref(key), &settings, &self.around, &self.login.login_key)?;
            for (key, locked) in keys {
                // Nobody is here to unlock it.
                if locked.is_some() && !terminal::can_ask() {
                    continue;
                }
                self.locked.borrow_mut().extend(locked);
                found.push((user.clone(), key));
            }
        }
        Ok(found)
    }

    /// Connects as it was typed; where that is shut, as the playbook says: an earlier run may have moved the door.
    ///
    /// # Errors
    /// Why the door that was typed does not open.
    pub fn open(&mut self, sink: &mut dyn Sink) -> Outcome<Link> {
        let typed = Way { place: self.place.clone(), keys: None, pin: None, key_port: None };
        let settings = self.settings(&self.place)?;
        let may_have_moved = self.port.is_some_and(|port| port != settings.port);
        let limit = if may_have_moved { HASTE } else { CONNECT_LIMIT };
        let first = match self.within(limit, &typed) {
            Ok(link) => return Ok(self.opened(link, sink)),
            Err(setback) => setback,
        };
        let elsewhere = match first.trouble {
            Trouble::Refused | Trouble::Filtered | Trouble::Timeout | Trouble::Reset { .. } => true,
            Trouble::Credentials { .. } => false,
            _ => return Err(self.why(first)),
        };
        for way in self.others(elsewhere, &settings)? {
            if let Ok(link) = self.through(&way) {
                let shut = first.failure.what.split(':').next().unwrap_or_default();
                let text = format!(
                    "{} does not open ({shut}); found at {}, where the playbook puts it",
                    self.place, way.place
                );
                let note = Note::info("ssh", text);
                sink.event(Event::Note { note });
                self.place = way.place;
                return Ok(self.opened(link, sink));
            }
        }
        if first.trouble == Trouble::Filtered && may_have_moved {
            // A far-away host may only have been slow.
            return self.through(&typed).map(|link| self.opened(link, sink)).map_err(|setback| self.why(setback));
        }
        Err(self.why(first))
    }

    /// A source of passwords that failed is the better reason.
    fn why(&self, setback: Setback) -> Setback {
        self.keychain.trouble().map_or(setback, Setback::from)
    }

    fn opened(&self, link: Link, sink: &mut dyn Sink) -> Link {
        for note in link.notes() {
            sink.event(Event::Note { note: Note::info("ssh", note.clone()) });
        }
        link
    }

    /// Other ways in, by the playbook: another port (`elsewhere`), and the administrators where root is shut out.
    fn others(&self, elsewhere: bool, settings: &Settings) -> Result<Vec<Way>> {
        let port = self.port.filter(|port| *port != settings.port);
        if elsewhere && port.is_none() {
            return Ok(Vec::new());
        }
        let place = Destination { port: if elsewhere { port } else { self.place.port }, ..self.place.clone() };
        let key_port = elsewhere.then_some(settings.port);
        let mut ways = Vec::new();
        if elsewhere && !(settings.user == "root" && self.without_root) {
            ways.push(Way { place: place.clone(), keys: None, pin: None, key_port });
        }
        for (user, key) in self.held()? {
            let place = Destination { user: Some(user.text()), ..place.clone() };
            let same = |way: &&mut Way| way.place == place && way.keys.is_some();
            match ways.iter_mut().find(same).and_then(|way| way.keys.as_mut()) {
                Some(keys) => keys.push(key),
                None if user.as_str() == settings.user && !elsewhere => {}
                None => ways.push(Way { place, keys: Some(vec![key]), pin: None, key_port }),
            }
        }
        Ok(ways)
    }

    /// Logs in on one way.
    ///
    /// # Errors
    /// What the connection met.
    pub fn through(&self, way: &Way) -> Outcome<Link> {
        self.within(CONNECT_LIMIT, way)
    }

    /// Logs in on one way; the connection itself may take no longer than `connect_limit`.
    ///
    /// # Errors
    /// What the connection met.
    pub fn within(&self, connect_limit: Duration, way: &Way) -> Outcome<Link> {
        let mut settings = self.settings(&way.place)?;
        settings.key_port = way.key_port;
        let ask = |question: &Question| self.keychain.answer(question);
        let mut wishes = Wishes::new(&self.probe, &self.around, &ask);
        wishes.keys.clone_from(&self.login.login_key);
        wishes.connect_limit = connect_limit.min(CONNECT_LIMIT);
        wishes.trust = match &way.pin {
            Some(pin) => Trust::Pinned(vec![pin.clone()]),
            None if !self.login.host_key.is_empty() => Trust::Pinned(self.login.host_key.clone()),
            None if self.login.accept_new => Trust::AcceptNew,
            None => Trust::KnownHosts,
        };
        wishes.passwords = way.keys.is_none() && self.keychain.has_passwords();
        wishes.only.clone_from(&way.keys);
        if way.pin.is_some() {
            // Somebody waits, and a run is pending.
            wishes.login_limit = Duration::from_secs(20);
        }
        Link::open(&way.place, &settings, &wishes)
    }

    /// Starts the program there with these words, putting it there first where it is not.
    ///
    /// # Errors
    /// When root cannot be had, or the host does not keep or run it.
    pub fn start(&self, link: &Link, words: &[String]) -> Result<Started> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let limits = Limits { stdout: SAID, ..Limits::default() };
        let started = push::start(link, &self.root(link)?, self.programs()?, &words, limits);
        match started {
            // sudo asks: so is whoever is here.
            Err(failure) if push::wants_password(&failure) => {
                let password = self.keychain.sudo_asks(link.user(), &self.place.host).ok_or(failure)?;
                push::start(link, &Become::Sudo { password: Some(password) }, self.programs()?, &words, limits)
            }
            done => done,
        }
    }

    /// Shows that root can be had over this connection.
    ///
    /// # Errors
    /// When it cannot.
    pub fn root_is_had(&self, link: &Link) -> Result<()> {
        push::root(link, &self.root(link)?)
    }

    /// Takes the program off the host; that it stays is said, and stops nothing.
    pub fn clean(&self, link: &Link, sink: &mut dyn Sink) {
        if let Err(failure) = self.root(link).and_then(|root| push::remove(link, &root)) {
            sink.event(Event::Note {
                note: Note::warning("ssh", format!("keyward's program stays there: {}", failure.line())),
            });
        }
    }

    fn root(&self, link: &Link) -> Result<Become> {
        if link.user() == "root" {
            return Ok(Become::Already);
        }
        let typed = self.settings(&self.typed)?.user == link.user();
        Ok(Become::Sudo { password: self.keychain.for_sudo(link.user(), &self.place.host, typed)? })
    }

    fn programs(&self) -> Result<&Programs> {
        self.programs.get_or_init(|| read_programs(&self.login.agent_binary)).as_ref().map_err(Clone::clone)
    }
}

/// This program and those for other processors.
///
/// # Errors
/// When one cannot be read.
pub fn read_programs(others: &[(String, PathBuf)]) -> Result<Programs> {
    let with = |programs: Programs, architecture: &str, path: &Path| {
        let cannot = |error| Failure::input(path.display().to_string(), "cannot be read").why(error);
        File::open(path).and_then(|file| programs.with(architecture, file)).map_err(cannot)
    };
    let own = with(Programs::new(), std::env::consts::ARCH, Path::new("/proc/self/exe"))?;
    others.iter().try_fold(own, |programs, (architecture, path)| with(programs, architecture, path))
}

/// The fingerprint of a host key in its one-line form.
pub fn fingerprint(line: &str) -> Option<String> {
    Some(HostKey::from_openssh(line).ok()?.fingerprint(HashAlg::Sha256).to_string())
}
