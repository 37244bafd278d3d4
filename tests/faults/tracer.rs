//! Follows a program and all it starts, and stops each at every system call that changes something: there it can be
//! killed before the call happens, or the call can be made to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A system call that changes something, about to happen; or a program that has just been started.
#[derive(Debug, Clone)]
pub struct Call {
    /// Counted from 1 over all processes, each kind by itself.
    pub number: usize,
    pub kind: Kind,
    /// Its name.
    pub name: &'static str,
    /// The file it is about, as the process sees it; empty where it is about none.
    pub place: String,
    /// The name of the process.
    pub by: String,
}

impl Call {
    /// A write to the journal, or a record of the run.
    pub fn is_journal(&self) -> bool {
        self.place.starts_with("/var/lib/keyward/") && !self.place.contains("/guard-")
    }

    /// A record of the journal, or of the guard, is about to stand.
    pub fn is_boundary(&self) -> bool {
        let record = self.name == "write" && self.place.ends_with(".journal");
        record || (self.is_journal() && matches!(self.name, "linkat" | "rename" | "link"))
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} {} {}", self.number, self.by, self.name, self.place)
    }
}

/// Whose call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// keyward's: the agent's, or that of a copy of it under another user or as the guard.
    Own,
    /// That of another program which it started.
    Foreign,
    /// No call: the agent has started another program, which has done nothing yet; `place` is its file.
    Start,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// It happens.
    Pass,
    /// It does nothing and gives this error.
    Fail(Errno),
    /// The process dies.
    Die,
    /// The process ends with exit code 1 before it does anything.
    Exit,
    /// The process hangs for ever.
    Hang,
    /// The agent alone is killed; what it started goes on.
    KillAgent,
    /// The agent and all it started are killed, detached or not.
    KillAll,
}

/// How the program ended.
#[derive(Debug)]
pub struct End {
    /// Exit code, 128 and the signal for a signal.
    pub code: i32,
    /// What it said on both outputs.
    pub said: String,
}

/// What an argument of a call names.
#[derive(Debug, Clone, Copy)]
enum Arg {
    Path(usize),
    At(usize, usize),
    Fd(usize),
    None,
}

/// When a call of that number changes something.
#[derive(Debug, Clone, Copy)]
enum When {
    Always,
    /// This argument holds one of the flags that make or empty a file.
    Creates(usize),
    /// The descriptor is a file.
    ToFile,
    /// The descriptor is a socket to the kernel, and more than a question is sent: rules go by sendmsg, links by sendto.
    ToKernel,
    /// As [`When::ToKernel`], for the buffer in this argument.
    Links(usize),
    /// A rule set of the older firewall interface is replaced: level IP or IPv6, option 64.
    Rules,
    /// A signal that is not 0.
    Signal(usize),
}

const TABLE: &[(libc::c_long, &str, Arg, When)] = &[
    (libc::SYS_open, "open", Arg::Path(0), When::Creates(1)),
    (libc::SYS_openat, "openat", Arg::At(0, 1), When::Creates(2)),
    (libc::SYS_creat, "creat", Arg::Path(0), When::Always),
    (libc::SYS_write, "write", Arg::Fd(0), When::ToFile),
    (libc::SYS_pwrite64, "pwrite", Arg::Fd(0), When::ToFile),
    (libc::SYS_writev, "writev", Arg::Fd(0), When::ToFile),
    (libc::SYS_copy_file_range, "copy_file_range", Arg::Fd(2), When::ToFile),
    (libc::SYS_sendfile, "sendfile", Arg::Fd(0), When::ToFile),
    (libc::SYS_ftruncate, "ftruncate", Arg::Fd(0), When::Always),
    (libc::SYS_truncate, "truncate", Arg::Path(0), When::Always),
    (libc::SYS_fallocate, "fallocate", Arg::Fd(0), When::Always),
    (libc::SYS_rename, "rename", Arg::Path(1), When::Always),
    (libc::SYS_renameat, "renameat", Arg::At(2, 3), When::Always),
    (libc::SYS_renameat2, "renameat2", Arg::At(2, 3), When::Always),
    (libc::SYS_unlink, "unlink", Arg::Path(0), When::Always),
    (libc::SYS_unlinkat, "unlinkat", Arg::At(0, 1), When::Always),
    (libc::SYS_rmdir, "rmdir", Arg::Path(0), When::Always),
    (libc::SYS_mkdir, "mkdir", Arg::Path(0), When::Always),
    (libc::SYS_mkdirat, "mkdirat", Arg::At(0, 1), When::Always),
    (libc::SYS_mknod, "mknod", Arg::Path(0), When::Always),
    (libc::SYS_mknodat, "mknodat", Arg::At(0, 1), When::Always),
    (libc::SYS_link, "link", Arg::Path(1), When::Always),
    (libc::SYS_linkat, "linkat", Arg::At(2, 3), When::Always),
    (libc::SYS_symlink, "symlink", Arg::Path(1), When::Always),
    (libc::SYS_symlinkat, "symlinkat", Arg::At(1, 2), When::Always),
    (libc::SYS_chmod, "chmod", Arg::Path(0), When::Always),
    (libc::SYS_fchmod, "fchmod", Arg::Fd(0), When::Always),
    (libc::SYS_fchmodat, "fchmodat", Arg::At(0, 1), When::Always),
    (libc::SYS_chown, "chown", Arg::Path(0), When::Always),
    (libc::SYS_lchown, "lchown", Arg::Path(0), When::Always),
    (libc::SYS_fchown, "fchown", Arg::Fd(0), When::Always),
    (libc::SYS_fchownat, "fchownat", Arg::At(0, 1), When::Always),
    (libc::SYS_setxattr, "setxattr", Arg::Path(0), When::Always),
    (libc::SYS_lsetxattr, "lsetxattr", Arg::Path(0), When::Always),
    (libc::SYS_fsetxattr, "fsetxattr", Arg::Fd(0), When::Always),
    (libc::SYS_removexattr, "removexattr", Arg::Path(0), When::Always),
    (libc::SYS_fremovexattr, "fremovexattr", Arg::Fd(0), When::Always),
    (libc::SYS_utimensat, "utimensat", Arg::At(0, 1), When::Always),
    (libc::SYS_fsync, "fsync", Arg::Fd(0), When::Always),
    (libc::SYS_fdatasync, "fdatasync", Arg::Fd(0), When::Always),
    (libc::SYS_sync, "sync", Arg::None, When::Always),
    (libc::SYS_syncfs, "syncfs", Arg::Fd(0), When::Always),
    (libc::SYS_mount, "mount", Arg::Path(1), When::Always),
    (libc::SYS_umount2, "umount", Arg::Path(0), When::Always),
    (libc::SYS_kill, "kill", Arg::None, When::Signal(1)),
    (libc::SYS_sendto, "sendto", Arg::Fd(0), When::Links(1)),
    (libc::SYS_sendmsg, "sendmsg", Arg::Fd(0), When::ToKernel),
    (libc::SYS_setsockopt, "setsockopt", Arg::None, When::Rules),
];

struct Tracee {
    /// Between the entry and the exit of a call.
    inside: bool,
    /// What the call is to give instead.
    fail: Option<Errno>,
    /// The last file that was written to: a copy of many writes is one call.
    last: String,
    /// A program other than keyward.
    foreign: bool,
    /// Its next call becomes the end of it.
    exit: bool,
}

/// What is counted, and what is done at each of it.
pub struct Watch<'a> {
    /// Foreign calls are looked at, too; without them it is much faster.
    pub foreign: bool,
    pub decide: &'a mut dyn FnMut(&Call) -> Deed,
    own: usize,
    others: usize,
    starts: usize,
}

impl<'a> Watch<'a> {
    pub fn own(decide: &'a mut dyn FnMut(&Call) -> Deed) -> Self {
        Self { foreign: false, decide, own: 0, others: 0, starts: 0 }
    }

    pub fn all(decide: &'a mut dyn FnMut(&Call) -> Deed) -> Self {
        Self { foreign: true, ..Self::own(decide) }
    }

    fn ask(&mut self, kind: Kind, name: &'static str, place: String, by: String) -> Deed {
        let counter = match kind {
            Kind::Own => &mut self.own,
            Kind::Foreign => &mut self.others,
            Kind::Start => &mut self.starts,
        };
        *counter += 1;
        (self.decide)(&Call { number: *counter, kind, name, place, by })
    }
}

impl Tracee {
    fn new(foreign: bool) -> Self {
        Self { inside: false, fail: None, last: String::new(), foreign, exit: false }
    }
}

/// Runs `argv` by `start` (a command that runs /bin/sh in the copy) and asks about every call.
pub fn follow(mut start: Command, argv: &[&str], mut watch: Watch<'_>) -> End {
    // It waits for the tracer before it becomes the program.
    start.args(["-c", "kill -STOP $$; exec \"$@\" 2>&1", "sh"]).args(argv);
    let mut child = start.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        let _ = pipe.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    });
    let agent = stopped_child(child.id());
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
        | ptrace::Options::PTRACE_O_TRACEFORK
        | ptrace::Options::PTRACE_O_TRACEVFORK
        | ptrace::Options::PTRACE_O_TRACECLONE
        | ptrace::Options::PTRACE_O_TRACEEXEC
        | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::seize(agent, options).unwrap();
    kill(agent, Signal::SIGCONT).unwrap();
    let door = Pid::from_raw(child.id().cast_signed());
    let code = trace(agent, door, &mut watch);
    let code = code.unwrap_or_else(|| child.wait().unwrap().code().unwrap_or(-1));
    End { code, said: reader.join().unwrap() }
}

/// The one child of `parent`, once it has stopped itself.
fn stopped_child(parent: u32) -> Pid {
    let begun = Instant::now();
    loop {
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        if let Some(pid) = children.split_whitespace().next().and_then(|pid| pid.parse::<i32>().ok()) {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T')) {
                return Pid::from_raw(pid);
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "the program does not start");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The loop; gives back how `door` ended (the process that entered the copy) if it did. Ends with the last tracee, or once
/// the agent was killed: what is left then runs on by itself.
fn trace(agent: Pid, door: Pid, watch: &mut Watch<'_>) -> Option<i32> {
    let mut tracees = BTreeMap::from([(agent, Tracee::new(true))]);
    let (mut leaving, mut code, mut over) = (false, None, BTreeSet::new());
    // Only this thread's own: other tests start programs at the same time.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    while !tracees.is_empty() {
        let status = match waitpid(None, Some(flags)) {
            Ok(status) => status,
            Err(Errno::EINTR) => continue,
            Err(_) => break,
        };
        let Some(pid) = status.pid() else { continue };
        if matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
            tracees.remove(&pid);
            over.insert(pid);
            if let WaitStatus::Exited(_, exit) = status
                && pid == door
            {
                code = Some(exit);
            }
            if pid == agent && !leaving {
                leaving = true;
                leave(&tracees);
            }
            continue;
        }
        let tracee = tracees.entry(pid).or_insert_with(|| Tracee::new(false));
        if leaving {
            // A pending signal of its own goes along.
            let signal = if let WaitStatus::Stopped(_, signal) = status { Some(signal) } else { None };
            let _ = ptrace::detach(pid, signal);
            tracees.remove(&pid);
            continue;
        }
        let (mut signal, mut deed) = (None, Deed::Pass);
        match status {
            WaitStatus::PtraceSyscall(_) => deed = at_call(pid, tracee, watch),
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC) => deed = at_start(pid, agent, tracee, watch),
            WaitStatus::PtraceEvent(
                _,
                _,
                libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE,
            ) => {
                let foreign = tracee.foreign;
                if let Ok(child) = ptrace::getevent(pid) {
                    let child = Pid::from_raw(i32::try_from(child).unwrap_or(0));
                    // The child may have told of itself first, and may be over by now.
                    if !over.contains(&child) {
                        tracees.entry(child).or_insert_with(|| Tracee::new(foreign)).foreign = foreign;
                    }
                }
            }
            WaitStatus::Stopped(_, delivered) => signal = Some(delivered),
            _ => {}
        }
        match deed {
            Deed::KillAgent | Deed::KillAll => {
                leaving = true;
                let all = deed == Deed::KillAll;
                for pid in tracees.keys().filter(|pid| all || **pid == agent) {
                    let _ = kill(*pid, Signal::SIGKILL);
                }
                leave(&tracees);
                if pid != agent && !all {
                    let _ = ptrace::detach(pid, None);
                    tracees.remove(&pid);
                }
                continue;
            }
            Deed::Die => {
                let _ = kill(pid, Signal::SIGKILL);
                continue;
            }
            Deed::Hang => {
                // Left alone with a stop: whoever waits for it waits until its own deadline.
                let _ = ptrace::detach(pid, Signal::SIGSTOP);
                tracees.remove(&pid);
                continue;
            }
            Deed::Pass | Deed::Fail(_) | Deed::Exit => {}
        }
        let foreign = tracees.get(&pid).is_some_and(|tracee| tracee.foreign && !tracee.exit);
        let _ = if foreign && !watch.foreign { ptrace::cont(pid, signal) } else { ptrace::syscall(pid, signal) };
    }
    code
}

/// A program has taken the place of another in a process.
fn at_start(pid: Pid, agent: Pid, tracee: &mut Tracee, watch: &mut Watch<'_>) -> Deed {
    let file =
        std::fs::read_link(format!("/proc/{pid}/exe")).map(|path| path.display().to_string()).unwrap_or_default();
    let before = tracee.foreign;
    tracee.foreign = !(file.ends_with("/keyward") || file.contains("/guard-"));
    // Programs that a foreign program starts are its own business.
    if pid == agent || before || !tracee.foreign {
        return Deed::Pass;
    }
    let deed = watch.ask(Kind::Start, "start", file, String::new());
    tracee.exit = deed == Deed::Exit;
    deed
}

fn leave(tracees: &BTreeMap<Pid, Tracee>) {
    for pid in tracees.keys() {
        let _ = ptrace::interrupt(*pid);
    }
}

fn at_call(pid: Pid, tracee: &mut Tracee, watch: &mut Watch<'_>) -> Deed {
    let Ok(mut registers) = ptrace::getregs(pid) else { return Deed::Pass };
    let enosys = -i64::from(libc::ENOSYS);
    if tracee.inside || registers.rax.cast_signed() != enosys {
        tracee.inside = false;
        if let Some(errno) = tracee.fail.take() {
            registers.rax = (-i64::from(errno as i32)).cast_unsigned();
            let _ = ptrace::setregs(pid, registers);
        }
        return Deed::Pass;
    }
    tracee.inside = true;
    if tracee.exit {
        registers.orig_rax = libc::SYS_exit_group.cast_unsigned();
        registers.rdi = 1;
        let _ = ptrace::setregs(pid, registers);
        return Deed::Pass;
    }
    let Some((name, place)) = changing(pid, &registers) else { return Deed::Pass };
    // The copy of the program is made of many writes; one stands for all.
    let many = place.contains("/guard-") && name != "openat" && place == tracee.last;
    tracee.last.clone_from(&place);
    if many {
        return Deed::Pass;
    }
    let by = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
    let kind = if tracee.foreign { Kind::Foreign } else { Kind::Own };
    let deed = watch.ask(kind, name, place, by);
    if let Deed::Fail(errno) = deed {
        tracee.fail = Some(errno);
        registers.orig_rax = u64::MAX;
        let _ = ptrace::setregs(pid, registers);
    }
    deed
}

/// Name and place of a call that changes something.
fn changing(pid: Pid, registers: &user_regs_struct) -> Option<(&'static str, String)> {
    let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8];
    let number = registers.orig_rax.cast_signed();
    let (_, name, arg, when) = TABLE.iter().find(|(row, ..)| *row == number)?;
    let fd = |at: usize| {
        let link = std::fs::read_link(format!("/proc/{pid}/fd/{}", arguments[at]));
        link.map(|path| path.display().to_string()).unwrap_or_default()
    };
    let place = match *arg {
        Arg::Path(at) => text(pid, arguments[at]),
        Arg::At(dir, at) => {
            let (name, cwd) = (text(pid, arguments[at]), arguments[dir] as u32 == libc::AT_FDCWD as u32);
            if name.starts_with('/') || cwd { name } else { format!("{}/{name}", fd(dir)) }
        }
        Arg::Fd(at) => fd(at),
        Arg::None => String::new(),
    };
    let changes = match *when {
        When::Always => true,
        When::Creates(at) => arguments[at] & (libc::O_CREAT | libc::O_TRUNC) as u64 != 0,
        When::ToFile => true,
        When::ToKernel => place.starts_with("socket:") && is_netlink(pid, &place),
        When::Links(at) => {
            // Types of rtnetlink(7) come in fours: new, delete, get, set. A firewall's types are larger.
            let kind = u16::from_ne_bytes(bytes(pid, arguments[at] + 4));
            place.starts_with("socket:") && kind < 256 && kind % 4 != 2 && is_netlink(pid, &place)
        }
        When::Rules => matches!(arguments[1], 0 | 41) && arguments[2] == 64,
        When::Signal(at) => arguments[at] != 0,
    };
    let about_files =
        !matches!(*when, When::ToKernel | When::Links(_) | When::Rules | When::Signal(_)) && !matches!(arg, Arg::None);
    let elsewhere = ["/dev/", "/proc/", "pipe:", "socket:", "anon_inode:", "/memfd:"];
    if !changes || (about_files && elsewhere.iter().any(|start| place.starts_with(start))) {
        return None;
    }
    Some((name, place))
}

fn bytes<const N: usize>(pid: Pid, address: u64) -> [u8; N] {
    let mut bytes = [0; N];
    let _ = File::open(format!("/proc/{pid}/mem")).and_then(|memory| memory.read_exact_at(&mut bytes, address));
    bytes
}

/// A string in the memory of a process.
fn text(pid: Pid, address: u64) -> String {
    let mut bytes = [0; 512];
    let read = File::open(format!("/proc/{pid}/mem")).and_then(|memory| memory.read_at(&mut bytes, address));
    let bytes = &bytes[..read.unwrap_or(0)];
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

fn is_netlink(pid: Pid, link: &str) -> bool {
    let inode = link.trim_start_matches("socket:[").trim_end_matches(']');
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/netlink")).unwrap_or_default();
    table.lines().any(|line| line.split_whitespace().last() == Some(inode))
}
