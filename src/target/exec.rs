//! A program that is talked with through the pipes of a process of this side's: that of an engine for a container, or one in
//! a copy. What it says is counted and cut.

use std::io::{Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Failure, Result};
use crate::target::talk::{Heard, Limits, Lines, Talk};

/// What the reading threads found, besides lines.
#[derive(Debug, Default)]
struct State {
    stderr: Vec<u8>,
    fault: Option<&'static str>,
}

/// A program behind a process of this side's.
#[derive(Debug)]
pub struct Exec {
    child: Child,
    stdin: Option<std::fs::File>,
    lines: Receiver<Vec<u8>>,
    state: Arc<Mutex<State>>,
    place: String,
}

impl Exec {
    /// Starts it; `place` is for messages.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, place: &str, limits: Limits) -> Result<Self> {
        let cannot = |error: std::io::Error| Failure::unknown(place, "cannot be started").why(error);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(cannot)?;
        let stdin = child.stdin.take().map(|pipe| unblocked(pipe.into())).transpose().map_err(cannot)?;
        let (send, lines) = channel();
        let state = Arc::new(Mutex::new(State::default()));
        if let Some(stdout) = child.stdout.take() {
            let state = state.clone();
            std::thread::Builder::new().spawn(move || read_lines(stdout, limits, &send, &state)).map_err(cannot)?;
        }
        if let Some(stderr) = child.stderr.take() {
            let state = state.clone();
            std::thread::Builder::new().spawn(move || read_all(stderr, limits.stderr, &state)).map_err(cannot)?;
        }
        Ok(Self { child, stdin, lines, state, place: place.to_owned() })
    }

    /// The exit code, once there is one; 128 and the signal for a signal.
    pub fn code(&mut self) -> Option<u32> {
        self.stdin = None;
        let until = Instant::now() + Duration::from_secs(2);
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    let code = status.code().or(status.signal().map(|signal| 128 + signal));
                    return code.and_then(|code| u32::try_from(code).ok());
                }
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
                _ => return None,
            }
        }
    }

    fn fault(&self) -> Result<()> {
        match self.state.lock().unwrap_or_else(PoisonError::into_inner).fault {
            None => Ok(()),
            Some(fault) => {
                Err(Failure::unknown(&self.place, "its answer is refused").why(fault).hint("look at it by hand"))
            }
        }
    }

    fn late(&self) -> Failure {
        Failure::unknown(&self.place, "no answer in time").hint("is it paused, or the machine overloaded?")
    }
}

impl Talk for Exec {
    fn send(&mut self, bytes: Vec<u8>, limit: Duration) -> Result<()> {
        let gone = || {
            Failure::unknown(&self.place, "the program there does not listen any more").hint("see what it said last")
        };
        let until = Instant::now() + limit;
        let Some(mut pipe) = self.stdin.as_ref() else { return Err(gone()) };
        let mut left = bytes.as_slice();
        while !left.is_empty() {
            match pipe.write(left) {
                Ok(written) => left = left.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let wait = until.saturating_duration_since(Instant::now());
                    if wait.is_zero() {
                        return Err(self.late());
                    }
                    let wait = PollTimeout::try_from(wait.min(Duration::from_secs(1))).unwrap_or(PollTimeout::ZERO);
                    let _ = poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)], wait);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Err(gone()),
            }
        }
        Ok(())
    }

    fn next_line(&mut self, limit: Duration) -> Result<Heard> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(Heard::Line(String::from_utf8_lossy(&line).into_owned())),
            Err(RecvTimeoutError::Timeout) => Ok(Heard::Silence),
            Err(RecvTimeoutError::Disconnected) => self.fault().map(|()| Heard::End),
        }
    }

    fn stderr(&self) -> Vec<u8> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stderr.clone()
    }

    fn finish(&mut self, limit: Duration) -> Result<u32> {
        self.stdin = None;
        let until = Instant::now() + limit;
        loop {
            match self.next_line(until.saturating_duration_since(Instant::now()))? {
                Heard::Line(_) => {}
                Heard::Silence => return Err(self.late()),
                Heard::End => return self.code().ok_or_else(|| self.late()),
            }
        }
    }
}

/// Its input ends with this value, which ends a program of ours in there; the engine's process goes at once.
impl Drop for Exec {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unblocked(fd: OwnedFd) -> std::io::Result<std::fs::File> {
    let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(std::fs::File::from(fd))
}

fn read_lines(mut from: impl Read, limits: Limits, to: &Sender<Vec<u8>>, state: &Mutex<State>) {
    let mut lines = Lines::new(limits.stdout, limits.line);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        let piece = buffer.get(..read).unwrap_or_default();
        if let Err(fault) = lines.cut(piece, |line| drop(to.send(line))) {
            state.lock().unwrap_or_else(PoisonError::into_inner).fault = Some(fault);
            return;
        }
    }
    lines.rest().into_iter().for_each(|line| drop(to.send(line)));
}

/// Keeps the first bytes, and lets the rest go by.
fn read_all(mut from: impl Read, most: usize, state: &Mutex<State>) {
    let mut buffer = vec![0; 4 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let room = most.saturating_sub(state.stderr.len());
        state.stderr.extend(buffer.iter().take(read.min(room)));
    }
}
