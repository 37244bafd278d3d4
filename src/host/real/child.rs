//! Runs programs: clean environment, no terminal input, bounded output, a deadline after which nothing of it is left.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek as _, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::{c_char, c_int, posix_spawn_file_actions_addchdir_np, posix_spawn_file_actions_t};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::tree;
use crate::error::{Failure, Kind, Result};
use crate::host::{Command, OUTPUT_LIMIT, Output};

/// After the program ended, a daemon it left behind may hold its output open; that is no reason to wait longer.
const GRACE: Duration = Duration::from_millis(20);

/// The standard library starts a child by posix_spawn(3), which copies no memory of ours, if that can set the child's
/// directory too. In a static program it can only when somebody names the function.
#[used]
static SPAWN_WITH_DIRECTORY: unsafe extern "C" fn(*mut posix_spawn_file_actions_t, *const c_char) -> c_int =
    posix_spawn_file_actions_addchdir_np;

/// What flows to and from a child.
struct Flow<'a> {
    input: &'a [u8],
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
    out: Vec<u8>,
    err: Vec<u8>,
}

/// How the conversation ended.
enum End {
    Exit(std::process::ExitStatus),
    Deadline,
    Flood,
}

/// Runs `command`; failures are of `kind`.
///
/// # Errors
/// When it cannot be started, outlives its deadline or floods its output.
pub fn run(command: &Command, kind: Kind) -> Result<Output> {
    let program = command.program();
    let fail = |what: String| Failure::new(kind, program, what);
    if !program.starts_with('/') {
        return Err(fail("programs are named by absolute path".to_owned()).hint("report this as a defect of keyward"));
    }
    let cannot = |error: std::io::Error| {
        fail("cannot be started".to_owned()).why(&error).hint(format!("look for it: ls -l {program}"))
    };
    if command.never_killed {
        return patient(command, kind).map_err(cannot)?;
    }
    let mut child = tree::start(|| spawn(command)).map_err(cannot)?;
    let began = tree::Began::of(&child);
    let end = converse(&mut child, command);
    let result = match end {
        Ok((End::Exit(status), flow)) => Ok(Output {
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&flow.out).into_owned(),
            stderr: String::from_utf8_lossy(&flow.err).into_owned(),
        }),
        Ok((End::Deadline, _)) => {
            let gone = tree::kill(&mut child, began);
            let why = format!("its deadline of {} ms is over{}", command.deadline_ms, left(&gone));
            Err(fail("did not end".to_owned()).why(why).hint(format!("see why it hangs: {}", command.argv.join(" "))))
        }
        Ok((End::Flood, _)) => {
            let gone = tree::kill(&mut child, began);
            let why = format!("more than {OUTPUT_LIMIT} bytes{}", left(&gone));
            Err(fail("wrote too much".to_owned())
                .why(why)
                .hint(format!("see what it writes: {}", command.argv.join(" "))))
        }
        Err(error) => {
            let gone = tree::kill(&mut child, began);
            Err(fail("cannot be followed".to_owned()).why(format!("{error}{}", left(&gone))).hint("run again"))
        }
    };
    tree::unregister(child.id());
    result
}

fn left(gone: &BTreeSet<i32>) -> String {
    if gone.is_empty() {
        return "; it and all it started were killed".to_owned();
    }
    let pids: Vec<String> = gone.iter().map(ToString::to_string).collect();
    format!("; it was killed, but these processes of it are still there: {}", pids.join(" "))
}

/// Runs a program that must not be killed. Its output goes to memory that outlives us: a broken pipe would kill it too.
fn patient(command: &Command, kind: Kind) -> std::io::Result<Result<Output>> {
    let memory = || memfd_create("keyward", MFdFlags::MFD_CLOEXEC).map(File::from);
    let (mut stdout, mut stderr) = (memory()?, memory()?);
    let (out, err) = (stdout.try_clone()?, stderr.try_clone()?);
    let mut child = tree::start(|| prepared(command).stdin(Stdio::null()).stdout(out).stderr(err).spawn())?;
    let until = Instant::now() + Duration::from_millis(command.deadline_ms);
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() >= until => {
                let why =
                    format!("process {} goes on after {} ms: a kill would do harm", child.id(), command.deadline_ms);
                let failure = Failure::new(kind, command.program(), "did not end").why(why);
                return Ok(Err(failure.hint(format!("wait for it: tail --pid={} -f /dev/null", child.id()))));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    tree::unregister(child.id());
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(Ok(Output { code, stdout: remembered(&mut stdout)?, stderr: remembered(&mut stderr)? }))
}

fn remembered(memory: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    memory.rewind()?;
    memory.take(OUTPUT_LIMIT as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn spawn(command: &Command) -> std::io::Result<Child> {
    prepared(command)
        .stdin(if command.stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

fn prepared(command: &Command) -> std::process::Command {
    let mut prepared = std::process::Command::new(command.program());
    prepared
        .args(command.argv.iter().skip(1))
        .env_clear()
        .envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C.UTF-8"), ("TZ", "UTC"), ("HOME", "/root")])
        .envs(&command.env)
        .current_dir("/")
        .process_group(0);
    prepared
}

fn converse<'a>(child: &mut Child, command: &'a Command) -> std::io::Result<(End, Flow<'a>)> {
    let until = Instant::now().checked_add(Duration::from_millis(command.deadline_ms));
    let mut flow = Flow {
        input: &command.stdin,
        stdin: child.stdin.take().map(|pipe| unblocked(pipe.into())).transpose()?,
        stdout: child.stdout.take().map(|pipe| unblocked(pipe.into())).transpose()?,
        stderr: child.stderr.take().map(|pipe| unblocked(pipe.into())).transpose()?,
        out: Vec::new(),
        err: Vec::new(),
    };
    let mut pause = Duration::from_micros(50);
    let mut ended: Option<(std::process::ExitStatus, Instant)> = None;
    loop {
        if flow.out.len() > OUTPUT_LIMIT || flow.err.len() > OUTPUT_LIMIT {
            return Ok((End::Flood, flow));
        }
        let silent = flow.stdout.is_none() && flow.stderr.is_none();
        if ended.is_none() {
            ended = child.try_wait()?.map(|status| (status, Instant::now()));
        }
        if let Some((status, when)) = ended
            && (silent || when.elapsed() > GRACE)
        {
            return Ok((End::Exit(status), flow));
        }
        let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
        if left.is_zero() && ended.is_none() {
            return Ok((End::Deadline, flow));
        }
        if silent {
            // It closed its output, so it is ending just now, or goes on in silence.
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(10));
        } else {
            // While output is open nothing tells of the end but its closing; a daemon left behind may keep it open.
            flow.exchange(left.min(Duration::from_millis(20)))?;
        }
    }
}

fn unblocked(fd: OwnedFd) -> std::io::Result<File> {
    let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(File::from(fd))
}

impl Flow<'_> {
    /// Waits for one of the pipes, and moves what can be moved.
    fn exchange(&mut self, limit: Duration) -> std::io::Result<()> {
        let wanted = [
            (self.stdin.as_ref(), PollFlags::POLLOUT),
            (self.stdout.as_ref(), PollFlags::POLLIN),
            (self.stderr.as_ref(), PollFlags::POLLIN),
        ];
        let mut fds: Vec<PollFd<'_>> =
            wanted.iter().filter_map(|(file, flags)| file.map(|file| PollFd::new(file.as_fd(), *flags))).collect();
        match poll(&mut fds, PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.feed();
        drain(&mut self.stdout, &mut self.out)?;
        drain(&mut self.stderr, &mut self.err)
    }

    /// A program that does not read its input to the end is free not to.
    fn feed(&mut self) {
        let Some(pipe) = self.stdin.as_mut() else { return };
        while !self.input.is_empty() {
            match pipe.write(self.input) {
                Ok(count) => self.input = self.input.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.stdin = None;
    }
}

fn drain(pipe: &mut Option<File>, into: &mut Vec<u8>) -> std::io::Result<()> {
    let Some(file) = pipe.as_mut() else { return Ok(()) };
    let mut part = [0; 16384];
    while into.len() <= OUTPUT_LIMIT {
        match file.read(&mut part) {
            Ok(0) => {
                *pipe = None;
                return Ok(());
            }
            Ok(count) => into.extend_from_slice(part.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
