//! The process that makes connections from wherever it runs, and the pipe to it.
//!
//! It reads a JSON list of [`Request`]s a line from standard input and answers a JSON list of [`Reply`]s a line on
//! standard output, until its input ends. Every request has a deadline. A process of its own also for loopback: whatever a hostile server
//! does to the SSH library ends here and not in the run. It opens no file and must not judge.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
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
/// Most requests answered side by side.
const AT_ONCE: usize = 6;

/// Something that answers requests.
pub trait Worker {
    /// Answers all `requests` side by side, in their order.
    ///
    /// # Errors
    /// When the worker cannot be reached any more; a failed login is a reply.
    fn ask(&mut self, requests: &[Request]) -> Result<Vec<Reply>>;
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
        let replies = match serde_json::from_slice::<Vec<Request>>(&line) {
            Ok(requests) => runtime.block_on(answer_all(requests)),
            Err(error) => vec![Reply::at(Stage::Request, error.to_string())],
        };
        let mut text = serde_json::to_vec(&replies)?;
        text.push(b'\n');
        output.write_all(&text)?;
        output.flush()?;
    }
}

/// Answers side by side, a few at a time: sshd drops connections beyond `MaxStartups` (10:30:100) that have not
/// authenticated yet.
async fn answer_all(requests: Vec<Request>) -> Vec<Reply> {
    let mut replies = Vec::new();
    let mut rest = requests.into_iter();
    loop {
        let batch: Vec<_> = rest.by_ref().take(AT_ONCE).map(|request| tokio::spawn(answer(request))).collect();
        if batch.is_empty() {
            return replies;
        }
        for task in batch {
            replies.push(task.await.unwrap_or_else(|error| Reply::at(Stage::Request, error.to_string())));
        }
    }
}

async fn answer(request: Request) -> Reply {
    let started = Instant::now();
    let progress = Progress::new();
    let limit = Duration::from_millis(request.deadline_ms().min(DEADLINE_LIMIT_MS));
    let work = async {
        match &request {
            Request::Login { line, user, private_key, command } => {
                login::login(line, user, private_key, command, &progress).await
            }
            Request::Methods { line, user } => login::methods(line, user, &progress).await,
            Request::Connect { addresses, .. } => doors(addresses, limit).await,
        }
    };
    // Doors keep the deadline themselves: one that does not answer is an answer, and no answer at all would end the run. So
    // a machine that stands still for a moment must not cut them off.
    let slack = match request {
        Request::Connect { .. } => Duration::from_secs(3),
        _ => Duration::from_millis(200),
    };
    let mut reply = match tokio::time::timeout(limit + slack, work).await {
        Ok(reply) => reply,
        Err(_) => Reply::at(progress.seen().0, format!("no end after {} ms", limit.as_millis())),
    };
    reply.millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    reply
}

/// Tries all addresses at once.
async fn doors(addresses: &[std::net::SocketAddr], limit: Duration) -> Reply {
    if addresses.len() > DOORS_LIMIT {
        return Reply::at(Stage::Request, format!("more than {DOORS_LIMIT} addresses"));
    }
    let tries: Vec<_> = addresses
        .iter()
        .map(|address| {
            let address = *address;
            tokio::spawn(async move {
                let knock = || async {
                    login::tcp(address, None, limit / 2).await.map_or_else(|(door, _)| door, |_| Door::Open)
                };
                // A packet that was lost comes again only after a second, so one connection tells no more for waiting.
                match knock().await {
                    Door::Filtered => knock().await,
                    door => door,
                }
            })
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
    replies: Receiver<std::io::Result<Vec<Reply>>>,
    broken: bool,
}

/// What a worker may take beyond a request's own deadline before it counts as hung.
const GRACE: Duration = Duration::from_secs(5);

impl PipeWorker {
    /// Talks to the worker whose standard output is `from` and whose standard input is `to`.
    pub fn new(from: impl Read + Send + 'static, to: impl Write + 'static) -> Self {
        let (sender, replies) = mpsc::channel();
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

fn read_reply(from: &mut impl BufRead) -> std::io::Result<Vec<Reply>> {
    let mut line = Vec::new();
    from.take(LINE_LIMIT).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(std::io::Error::other("it ended"));
    }
    Ok(serde_json::from_slice(&line)?)
}

impl PipeWorker {
    fn exchange(&mut self, requests: &[Request]) -> std::result::Result<Vec<Reply>, String> {
        // Batches follow each other, so their deadlines add up at worst.
        let limit = requests.iter().map(|request| request.deadline_ms().min(DEADLINE_LIMIT_MS)).sum();
        let mut text = serde_json::to_vec(requests).map_err(|error| error.to_string())?;
        text.push(b'\n');
        self.output.write_all(&text).and_then(|()| self.output.flush()).map_err(|error| error.to_string())?;
        let replies = self.replies.recv_timeout(Duration::from_millis(limit) + GRACE);
        let replies = replies.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        if replies.len() == requests.len() { Ok(replies) } else { Err("it answers something else".to_owned()) }
    }
}

impl Worker for PipeWorker {
    fn ask(&mut self, requests: &[Request]) -> Result<Vec<Reply>> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let outcome = if self.broken { Err("it failed before".to_owned()) } else { self.exchange(requests) };
        outcome.map_err(|why| {
            // An answer that comes later would be taken for the answer to the next question.
            self.broken = true;
            Failure::unknown("proof", "the process that connects from outside does not answer").why(why)
        })
    }
}
