//! The caller's side of the sandbox: builds, boots and ends it, and starts programs in it.

use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use super::enter::Into;
use super::wire::{Answer, Booted, Build, Order, Purpose, hear, say};
use super::{ENTER, WARDEN};
use crate::error::{Failure, Result};
use crate::types::AbsPath;

/// Most bytes that are kept of what a program says on standard error.
const SAID_LIMIT: u64 = 4096;

/// What to copy and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// This program, which is started again with hidden verbs: `/proc/self/exe` but in tests.
    pub program: PathBuf,
    /// The host to copy: `/`, or a directory that holds one.
    pub root: AbsPath,
    /// Cap for all that is written in the copy, in bytes; it is memory.
    pub size: u64,
    /// Mounts that stay out of the copy.
    pub leave_out: Vec<AbsPath>,
    /// True to hold the tree itself as well, locked against others, for [`Sandbox::enter_tree`]. Only for root, and not
    /// for the machine itself.
    pub with_tree: bool,
}

impl Options {
    /// A copy of `root` with 512 MiB to write.
    pub fn new(root: AbsPath) -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            root,
            size: 512 << 20,
            leave_out: Vec::new(),
            with_tree: false,
        }
    }
}

/// A throw-away copy of a host; gone with this value.
#[derive(Debug)]
pub struct Sandbox {
    program: PathBuf,
    warden: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    running: Option<u32>,
    notes: Vec<String>,
    modules: Vec<String>,
}

impl Sandbox {
    /// Builds the copy; nothing runs in it yet.
    ///
    /// # Errors
    /// Refused when a mount cannot be copied or rights are missing; the hint says how to get them.
    pub fn open(options: &Options) -> Result<Self> {
        let root = std::fs::canonicalize(options.root.as_path())
            .map_err(|error| Failure::input(options.root.as_str(), "no host to copy").why(error))?;
        for dir in ["etc", "usr"] {
            if !root.join(dir).is_dir() {
                return Err(Failure::input(options.root.as_str(), format!("no host: there is no {dir} in it"))
                    .hint("name the root directory of a Debian or Ubuntu system"));
            }
        }
        let plain_user = !nix::unistd::geteuid().is_root();
        if plain_user && root == Path::new("/") {
            return Err(Failure::refused("sandbox", "only root can copy the machine itself")
                .hint("run it with sudo, or name a directory that holds a host: --root DIR"));
        }
        let mut warden = Command::new(&options.program)
            .arg(WARDEN)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| lost().why(error))?;
        let orders = warden.stdin.take();
        let answers = BufReader::new(warden.stdout.take().ok_or_else(lost)?);
        let program = options.program.clone();
        let mut sandbox =
            Self { program, warden, orders, answers, running: None, notes: Vec::new(), modules: modules() };
        let leave_out = options.leave_out.iter().map(|path| path.as_path().to_owned()).collect();
        let (size, with_tree) = (options.size, options.with_tree);
        let mut answer = sandbox.ask(&Order::Build(Build { root, size, leave_out, plain_user, with_tree }))?;
        if matches!(answer, Answer::MapMe) {
            super::subordinate::map(sandbox.warden.id())?;
            answer = sandbox.ask(&Order::Mapped)?;
        }
        let Answer::Built { notes } = answer else { return Err(lost()) };
        sandbox.notes = notes;
        Ok(sandbox)
    }

    /// What is different from the machine, for the reader.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Runs a program in the copy with the machine's own network and name resolution, to fetch packages, and kills
    /// whatever it leaves running. No service runs meanwhile, and the copy is halted afterwards.
    ///
    /// `prepare` sets standard input, output and environment, see [`Sandbox::command`]. What the program writes to its
    /// standard error comes back, as far as it is short: it is text of the host, and not for a terminal as it is.
    ///
    /// # Errors
    /// When the copy does not boot or the program cannot be started.
    pub fn fetch(&mut self, program: &str, prepare: impl FnOnce(&mut Command)) -> Result<(ExitStatus, String)> {
        self.power(Purpose::Fetch)?;
        let mut command = self.enter(Into::CopyOnline, program)?;
        prepare(&mut command);
        let mut child = command.stderr(Stdio::piped()).spawn().map_err(|error| lost().why(error))?;
        let said = child.stderr.take().map(|pipe| std::thread::spawn(|| heard(pipe)));
        let status = child.wait().map_err(|error| lost().why(error));
        // What the program left running may hold the pipe open; this ends it.
        self.halt()?;
        let said = said.and_then(|said| said.join().ok()).unwrap_or_default();
        Ok((status?, said))
    }

    /// Boots the copy with its own network and services. What ran before is killed; what was written stays, but for
    /// /run, /dev and the like.
    ///
    /// # Errors
    /// When it does not come up. A service that does not start is a note, no error.
    pub fn boot(&mut self) -> Result<Booted> {
        self.power(Purpose::Run)
    }

    /// Makes [`Sandbox::command`] and [`Sandbox::agent`] run on the tree itself: what they write there stays. The same
    /// walls as around the copy, no service, no network; packages fetched into the copy can be installed.
    ///
    /// # Errors
    /// Refused when it was not asked for in [`Options::with_tree`].
    pub fn enter_tree(&mut self) -> Result<()> {
        self.power(Purpose::Tree).map(drop)
    }

    /// Kills every process in the copy; its files stay for the next boot.
    ///
    /// # Errors
    /// When they do not die.
    pub fn halt(&mut self) -> Result<()> {
        self.running = None;
        match self.ask(&Order::Halt)? {
            Answer::Halted => Ok(()),
            _ => Err(lost()),
        }
    }

    /// A command that runs `program` (absolute, a path in the copy) in the copy, in a clean environment: add arguments
    /// and standard input and output as usual. Its exit code is the program's.
    ///
    /// # Errors
    /// When the copy does not run.
    pub fn command(&self, program: &str) -> Result<Command> {
        self.enter(Into::Copy, program)
    }

    /// A command that runs this very program, with a verb to be added, in the copy.
    ///
    /// # Errors
    /// When the copy does not run.
    pub fn agent(&self) -> Result<Command> {
        self.enter(Into::Copy, "/proc/self/exe")
    }

    /// A command that runs this very program, with a verb to be added, on the machine's files but in the outside
    /// world's network, from where the copy is [`super::INSIDE_V4`] and [`super::INSIDE_V6`].
    ///
    /// # Errors
    /// When the copy does not run.
    pub fn outside(&self) -> Result<Command> {
        self.outside_program("/proc/self/exe")
    }

    /// As [`Sandbox::outside`], for any program of the machine.
    ///
    /// # Errors
    /// When the copy does not run.
    pub fn outside_program(&self, program: &str) -> Result<Command> {
        Ok(self.enter_process(Into::Outside, self.warden.id(), program))
    }

    /// Kernel modules that were not loaded when the copy was built. The kernel loads those of a firewall or a veth pair
    /// by itself when a namespace first uses them; that is the one trace a rehearsal can leave until the next boot.
    pub fn modules_loaded(&self) -> Vec<String> {
        modules().into_iter().filter(|name| !self.modules.contains(name)).collect()
    }

    /// Ends the copy and waits until nothing of it is left.
    ///
    /// # Errors
    /// When its processes do not die.
    pub fn close(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.orders = None;
        self.running = None;
        self.warden.wait().map(drop).map_err(|error| lost().why(error))
    }

    fn power(&mut self, purpose: Purpose) -> Result<Booted> {
        self.running = None;
        let Answer::Booted(booted) = self.ask(&Order::Boot(purpose))? else { return Err(lost()) };
        self.running = Some(booted.pid);
        Ok(booted)
    }

    fn enter(&self, into: Into, program: &str) -> Result<Command> {
        let pid = self.running.ok_or_else(|| Failure::unknown("sandbox", "the copy does not run"))?;
        Ok(self.enter_process(into, pid, program))
    }

    fn enter_process(&self, into: Into, pid: u32, program: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args([ENTER, into.word(), &pid.to_string(), program]);
        command.env_clear().envs(ENVIRONMENT);
        command
    }

    fn ask(&mut self, order: &Order) -> Result<Answer> {
        say(self.orders.as_mut().ok_or_else(lost)?, order)?;
        match hear(&mut self.answers)? {
            Some(Answer::Failed(failure)) => Err(failure),
            Some(answer) => Ok(answer),
            None => Err(lost()),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// What comes through a pipe, up to [`SAID_LIMIT`]; then it is closed, which ends a program that floods it.
fn heard(pipe: impl std::io::Read) -> String {
    let mut said = Vec::new();
    let _ = pipe.take(SAID_LIMIT).read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

/// The clean environment of every program in the copy.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("LC_ALL", "C.UTF-8"),
    ("TZ", "UTC"),
    ("HOME", "/root"),
];

fn modules() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/modules").unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

fn lost() -> Failure {
    Failure::unknown("sandbox", "its warden ended").hint("look for its last words above, or run it again")
}
