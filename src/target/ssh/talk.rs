//! Commands on an open connection: one that runs to its end, and one that is talked with line by line.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use tokio::sync::watch;

use super::link::Link;
use crate::error::{Failure, Result};
use crate::proof::wire::plain;
use crate::target::talk::{Heard, Limits, Lines, Talk};

/// For a channel to be opened and a command to be taken.
const OPEN_LIMIT: Duration = Duration::from_secs(20);

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code; 128 for a signal, as nothing tells its number.
    pub code: u32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, cut at the limit.
    pub stderr: Vec<u8>,
}

/// What the reading task tells.
enum Event {
    Line(Vec<u8>),
    Stderr,
}

/// What the reading task found, besides lines.
#[derive(Debug, Default)]
struct State {
    code: Option<u32>,
    stderr: Vec<u8>,
    refused: bool,
    /// What the host did wrong.
    fault: Option<&'static str>,
}

/// A command that runs, with its standard input and output.
#[derive(Debug)]
pub struct Conversation {
    link: Link,
    write: Arc<ChannelWriteHalf<Msg>>,
    events: Receiver<Event>,
    state: Arc<Mutex<State>>,
    ended: watch::Receiver<bool>,
}

struct Reader {
    read: ChannelReadHalf,
    write: Arc<ChannelWriteHalf<Msg>>,
    events: Sender<Event>,
    state: Arc<Mutex<State>>,
    ended: watch::Sender<bool>,
    limits: Limits,
    /// False: what comes is handed on as it is.
    by_lines: bool,
}

impl Reader {
    async fn run(mut self) {
        let mut lines = Lines::new(self.limits.stdout, self.limits.line);
        while let Some(message) = self.read.wait().await {
            match message {
                ChannelMsg::Data { data } => {
                    let tell = |line| drop(self.events.send(Event::Line(line)));
                    let told = if self.by_lines {
                        lines.cut(&data, tell)
                    } else {
                        lines.count(&data).map(|()| tell(data.to_vec()))
                    };
                    if let Err(fault) = told {
                        self.fault(fault);
                        break;
                    }
                }
                ChannelMsg::ExtendedData { data, .. } => {
                    let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                    let room = self.limits.stderr.saturating_sub(state.stderr.len());
                    state.stderr.extend(data.iter().take(room));
                    drop(state);
                    if room > 0 && !data.is_empty() {
                        let _ = self.events.send(Event::Stderr);
                    }
                }
                ChannelMsg::ExitStatus { exit_status } => self.code(exit_status),
                ChannelMsg::ExitSignal { .. } => self.code(128),
                ChannelMsg::Failure => {
                    self.state.lock().unwrap_or_else(PoisonError::into_inner).refused = true;
                    break;
                }
                ChannelMsg::Close => break,
                _ => {}
            }
        }
        if let Some(line) = lines.rest().filter(|_| self.state.lock().is_ok_and(|state| state.fault.is_none())) {
            let _ = self.events.send(Event::Line(line));
        }
        let _ = self.write.close().await;
        let _ = self.ended.send(true);
    }

    fn code(&self, code: u32) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).code = Some(code);
    }

    fn fault(&self, what: &'static str) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).fault = Some(what);
    }
}

impl Link {
    /// Runs `command` with `input` and waits for its end.
    ///
    /// # Errors
    /// When the host refuses to run it, breaks a limit, or the connection ends first.
    pub fn exec(&self, command: &str, input: &[u8], limits: Limits) -> Result<Output> {
        let until = Instant::now().checked_add(limits.deadline);
        let left = || until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
        let mut talk = self.begin(command, limits, false)?;
        // A command is free not to read its input; what counts is how it ends.
        if !input.is_empty() {
            let _ = talk.send(input.to_vec(), left());
        }
        talk.close_stdin();
        let mut stdout = Vec::new();
        loop {
            match talk.events.recv_timeout(left()) {
                Ok(Event::Line(bytes)) => stdout.extend_from_slice(&bytes),
                Ok(Event::Stderr) => {}
                Err(RecvTimeoutError::Timeout) => return Err(self.late(limits.deadline)),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let code = talk.finish(left())?;
        Ok(Output { code, stdout, stderr: talk.stderr() })
    }

    /// Starts `command` to be talked with.
    ///
    /// # Errors
    /// When no channel can be opened. A command that the host refuses to run ends at once; see [`Conversation::finish`].
    pub fn start(&self, command: &str, limits: Limits) -> Result<Conversation> {
        self.begin(command, limits, true)
    }

    fn begin(&self, command: &str, limits: Limits, by_lines: bool) -> Result<Conversation> {
        let lost = || {
            Failure::unknown(self.place(), "the connection is gone")
                .hint("connect again; the host's log says why: journalctl -u ssh")
        };
        let client = self.driver.client().ok_or_else(lost)?;
        // Each message has a frame around it, and small messages are mostly frame.
        self.driver.meter.allow(limits.stdout.saturating_add(limits.stderr).saturating_mul(4).saturating_add(1 << 20));
        let command = command.to_owned();
        let opening = async move {
            let channel = client.channel_open_session().await?;
            channel.exec(true, command).await?;
            Ok::<_, russh::Error>(channel)
        };
        let limit = OPEN_LIMIT.min(limits.deadline);
        let channel = match self.driver.run(limit, opening) {
            Some(Ok(channel)) => channel,
            Some(Err(russh::Error::ChannelOpenFailure(reason))) => {
                return Err(Failure::unknown(self.place(), "the host opens no session")
                    .why(plain(&format!("{reason:?}")))
                    .hint("see MaxSessions in its sshd_config"));
            }
            Some(Err(error)) => return Err(lost().why(plain(&error.to_string()))),
            None => return Err(self.late(limit)),
        };
        let (read, write) = channel.split();
        let write = Arc::new(write);
        let (send, events) = channel_of_events();
        let state = Arc::new(Mutex::new(State::default()));
        let (ended, has_ended) = watch::channel(false);
        let reader = Reader { read, write: write.clone(), events: send, state: state.clone(), ended, limits, by_lines };
        self.driver.spawn(reader.run());
        Ok(Conversation { link: self.clone(), write, events, state, ended: has_ended })
    }

    fn late(&self, limit: Duration) -> Failure {
        Failure::unknown(self.place(), "no answer in time")
            .why(format!("{} s are over", limit.as_secs()))
            .hint("is the host overloaded, or the network down? Try again")
    }
}

fn channel_of_events() -> (Sender<Event>, Receiver<Event>) {
    channel()
}

impl Conversation {
    /// The next thing of any kind.
    pub(super) fn next(&mut self, limit: Duration) -> Next {
        match self.events.recv_timeout(limit) {
            Ok(Event::Line(bytes)) => Next::Line(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(Event::Stderr) => Next::Stderr,
            Err(RecvTimeoutError::Timeout) => Next::Silence,
            Err(RecvTimeoutError::Disconnected) => Next::End,
        }
    }

    /// Tells the command that nothing more comes.
    pub fn close_stdin(&mut self) {
        let write = self.write.clone();
        let _ = self.link.driver.run(Duration::from_secs(5), async move { write.eof().await.is_ok() });
    }

    /// What an ended command comes to.
    fn judge(&self) -> Result<u32> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.link.place();
        if let Some(fault) = state.fault {
            return Err(Failure::unknown(place, "the host's answer is refused")
                .why(fault)
                .hint("look at the host by its console"));
        }
        if state.refused {
            return Err(Failure::refused(place, "the server refuses to run a command")
                .hint("see ForceCommand, PermitTTY and the command= of the key in its configuration"));
        }
        state.code.ok_or_else(|| {
            Failure::unknown(place, "the connection ended before the command did")
                .hint("connect again; nothing is known of how it went")
        })
    }
}

impl Talk for Conversation {
    fn send(&mut self, bytes: Vec<u8>, limit: Duration) -> Result<()> {
        let (write, mut ended) = (self.write.clone(), self.ended.clone());
        let sending = async move {
            tokio::select! {
                // A command that ended reads no more, and the window stays shut for ever.
                _ = ended.wait_for(|ended| *ended) => false,
                sent = write.data_bytes(bytes) => sent.is_ok(),
            }
        };
        match self.link.driver.run(limit, sending) {
            Some(true) => Ok(()),
            Some(false) => Err(Failure::unknown(self.link.place(), "the command does not listen any more")
                .hint("see what it said last")),
            None => Err(self.link.late(limit)),
        }
    }

    fn next_line(&mut self, limit: Duration) -> Result<Heard> {
        let until = Instant::now().checked_add(limit);
        loop {
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            match self.next(left) {
                Next::Line(line) => return Ok(Heard::Line(line)),
                Next::Stderr => {}
                Next::Silence => return Ok(Heard::Silence),
                Next::End => {
                    self.judge()?;
                    return Ok(Heard::End);
                }
            }
        }
    }

    fn stderr(&self) -> Vec<u8> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stderr.clone()
    }

    fn finish(&mut self, limit: Duration) -> Result<u32> {
        let until = Instant::now().checked_add(limit);
        loop {
            let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            match self.next(left) {
                Next::End => return self.judge(),
                Next::Silence => return Err(self.link.late(limit)),
                Next::Line(_) | Next::Stderr => {}
            }
        }
    }
}

/// A command that nobody listens to any more is told so: it would keep its place among the host's sessions.
impl Drop for Conversation {
    fn drop(&mut self) {
        if !*self.ended.borrow() {
            let write = self.write.clone();
            self.link.driver.spawn(async move {
                // The end of its channel alone ends no program (RFC 4254, 6.9). One that must go on minds no hang-up; and
                // sshd passes none on in a session of root's, where a program without input or output stays.
                drop(write.signal(Sig::HUP).await);
                drop(write.close().await);
            });
        }
    }
}

/// What [`Conversation::next`] found.
pub(super) enum Next {
    Line(String),
    Stderr,
    Silence,
    End,
}
