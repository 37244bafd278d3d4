//! The proof's worker and prover against real sshds of four Debian releases, and against servers that mean harm.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod copy;
mod hostile;
mod real;
#[path = "../support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use keyward::proof::{Line, PipeWorker, PrivateHalf, Reply, Request, WORKER_ARG, Worker};
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};

/// The program under test.
const KEYWARD: &str = env!("CARGO_BIN_EXE_keyward");

/// A worker process. It ends with its pipe.
struct Outside {
    pipe: PipeWorker,
    child: Child,
}

impl Outside {
    /// A worker on this machine's loopback.
    fn here() -> Self {
        Self::of(Command::new(KEYWARD).arg(WORKER_ARG))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let pipe = PipeWorker::new(child.stdout.take().unwrap(), child.stdin.take().unwrap());
        Self { pipe, child }
    }

    fn part(self) -> (PipeWorker, Child) {
        (self.pipe, self.child)
    }

    fn one(&mut self, request: Request) -> Reply {
        self.pipe.ask(&[request]).unwrap().remove(0)
    }

    /// Most memory that the worker ever held, in KiB (proc(5), VmHWM).
    fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

fn fresh_key() -> PrivateKey {
    PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap()
}

fn private(key: &PrivateKey) -> PrivateHalf {
    PrivateHalf::new(key.to_openssh(LineEnding::LF).unwrap().to_string())
}

fn public(key: &PrivateKey) -> String {
    key.public_key().to_openssh().unwrap()
}

fn line(address: SocketAddr, host_key: &str, deadline_ms: u64) -> Line {
    Line { address, source: None, host_keys: vec![host_key.to_owned()], deadline_ms }
}
