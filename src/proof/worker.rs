//! The process that makes connections from wherever it runs, and the pipe to it.
//!
//! It reads one JSON [`Request`] a line from standard input and answers one JSON [`Reply`] a line on standard output,
//! until its input ends. Every request has a deadline. A process of its own also for loopback: whatever a hostile server
//! does to the SSH library ends here and not in the run. It opens no file and must not judge.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::login::{self, Progress};
use super::wire::{Door, Reply, Request, Stage};
use crate::error::{Failure, Result};

/// The hidden verb that runs [`main`].
pub const WORKER_ARG: &str = "__outside";

/// Longest line in either direction.
const LINE_LIMIT: u64 = 1 << 20;
/// Longest deadline that a worker accepts.
const DEADLINE_LIMIT_MS: u64 = 60_000;
/// Most addresses of one [`Request::Connect`].
const DOORS_LIMIT: usize = 256;

/// Something that answers requests.
pub trait Worker {
    /// Answers one request.
    ///
    /// # Errors
    /// When the worker cannot be reached any more; a failed login is a reply.
    fn request(&mut self, request: &Request) -> Result<Reply>;
}

/// Runs the worker on standard input and output.
pub fn main() -> ExitCode {
    match serve(BufReader::new(std::io::stdin()), std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Answers requests from `input` on `output` until `input` ends.
///
/// # Errors
/// When a line is too long, or reading or writing fails.
pub fn serve(mut input: impl BufRead, mut output: impl Write) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    loop {
        let mut line = Vec::new();
        (&mut input).take(LINE_LIMIT).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            return Err(std::io::Error::other("a request line is too long or cut off"));
        }
        let started = Instant::now();
        let mut reply = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => runtime.block_on(answer(&request)),
            Err(error) => Reply::at(Stage::Request, error.to_string()),
        };
        reply.millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        output.write_all(&text)?;
        output.flush()?;
    }
}

async fn answer(request: &Request) -> Reply {
    let progress = Progress::new();
    let (limit, work): (u64, std::pin::Pin<Box<dyn Future<Output = Reply>>>) = match request {
        Request::Login { line, user, private_key, command } => {
            (line.deadline_ms, Box::pin(login::login(line, user, private_key, command, &progress)))
        }
        Request::Methods { line, user } => (line.deadline_ms, Box::pin(login::methods(line, user, &progress))),
        Request::Connect { addresses, deadline_ms } => return doors(addresses, *deadline_ms).await,
    };
    let limit = Duration::from_millis(limit.min(DEADLINE_LIMIT_MS));
    match tokio::time::timeout(limit, work).await {
        Ok(reply) => reply,
        Err(_) => Reply::at(progress.seen().0, format!("no end after {} ms", limit.as_millis())),
    }
}

/// Tries all addresses at once.
async fn doors(addresses: &[std::net::SocketAddr], deadline_ms: u64) -> Reply {
    let limit = Duration::from_millis(deadline_ms.min(DEADLINE_LIMIT_MS));
    if addresses.len() > DOORS_LIMIT {
        return Reply::at(Stage::Request, format!("more than {DOORS_LIMIT} addresses"));
    }
    let tries: Vec<_> = addresses
        .iter()
        .map(|address| {
            let address = *address;
            tokio::spawn(
                async move { login::tcp(address, None, limit).await.map_or_else(|(door, _)| door, |_| Door::Open) },
            )
        })
        .collect();
    let mut doors = Vec::new();
    for attempt in tries {
        doors.push(attempt.await.unwrap_or(Door::Unreachable));
    }
    Reply { ok: true, doors, ..Reply::at(Stage::Connect, "") }
}

/// A worker behind a pair of pipes. Each request waits for its own deadline and a little more, then gives the worker up.
pub struct PipeWorker {
    output: Box<dyn Write>,
    replies: std::sync::mpsc::Receiver<std::io::Result<Reply>>,
    broken: bool,
}

/// What a worker may take beyond a request's own deadline before it counts as hung.
const GRACE: Duration = Duration::from_secs(5);

impl PipeWorker {
    /// Talks to the worker whose standard output is `from` and whose standard input is `to`.
    pub fn new(from: impl Read + Send + 'static, to: impl Write + 'static) -> Self {
        let (sender, replies) = std::sync::mpsc::channel();
        // A thread of its own, as a pipe cannot be read with a deadline; it ends with the pipe.
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            loop {
                let reply = read_reply(&mut from);
                let last = reply.is_err();
                if sender.send(reply).is_err() || last {
                    return;
                }
            }
        });
        Self { output: Box::new(to), replies, broken: false }
    }
}

fn read_reply(from: &mut impl BufRead) -> std::io::Result<Reply> {
    let mut line = Vec::new();
    from.take(LINE_LIMIT).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(std::io::Error::other("it ended"));
    }
    Ok(serde_json::from_slice(&line)?)
}

impl Worker for PipeWorker {
    fn request(&mut self, request: &Request) -> Result<Reply> {
        let gone =
            |why: String| Failure::unknown("proof", "the process that connects from outside does not answer").why(why);
        if self.broken {
            return Err(gone("it failed before".to_owned()));
        }
        let limit = match request {
            Request::Login { line, .. } | Request::Methods { line, .. } => line.deadline_ms,
            Request::Connect { deadline_ms, .. } => *deadline_ms,
        };
        let mut text = serde_json::to_vec(request).map_err(|error| gone(error.to_string()))?;
        text.push(b'\n');
        let sent = self.output.write_all(&text).and_then(|()| self.output.flush());
        let reply = match sent {
            Err(error) => Err(error.to_string()),
            Ok(()) => match self.replies.recv_timeout(Duration::from_millis(limit.min(DEADLINE_LIMIT_MS)) + GRACE) {
                Ok(reply) => reply.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            },
        };
        reply.map_err(|why| {
            // An answer that comes later would be taken for the answer to the next question.
            self.broken = true;
            gone(why)
        })
    }
}
