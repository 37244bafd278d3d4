//! The worker that proves a live host from outside: in a network namespace behind a veth pair (L2) where the kernel
//! gives one, else over loopback (L1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use crate::change::Note;
use crate::error::{Failure, Result};
use crate::outcome::{Event, Reach, Sink};
use crate::proof::{OutsideProver, PipeWorker, RootKey, Route, WORKER_ARG};
use crate::target::vantage::Vantage;

/// Keeps the worker alive; it ends when this is dropped.
pub enum Outside {
    /// Behind a veth pair.
    Beyond {
        /// Held, not read.
        _vantage: Vantage,
    },
    /// On this host's own loopback.
    Loopback(Child),
}

/// A prover for this host, as far out as it can be had.
///
/// # Errors
/// When no worker can be started at all.
pub fn prover(sink: &mut dyn Sink) -> Result<(Outside, OutsideProver)> {
    match Vantage::open() {
        Ok((vantage, from, to)) => {
            let route = Route { addresses: vantage.addresses().to_vec(), sources: Vec::new(), reach: Reach::L2 };
            let prover = OutsideProver::new(Box::new(PipeWorker::new(from, to)), route, RootKey::Leave);
            Ok((Outside::Beyond { _vantage: vantage }, prover))
        }
        Err(failure) => {
            let text = format!("proof reaches loopback only: {}", failure.line());
            sink.event(Event::Note { note: Note::info("proof", text) });
            loopback()
        }
    }
}

/// Proves the door (L1), not the firewall.
fn loopback() -> Result<(Outside, OutsideProver)> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(WORKER_ARG).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped());
    // Of its own, so that neither Ctrl-C nor the end of the terminal reaches it.
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| Failure::unknown("proof", "no worker").why(error))?;
    let pipes = child.stdout.take().zip(child.stdin.take());
    let (from, to) = pipes.ok_or_else(|| Failure::unknown("proof", "its worker has no pipes"))?;
    let addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let route = Route { addresses, sources: Vec::new(), reach: Reach::L1 };
    Ok((Outside::Loopback(child), OutsideProver::new(Box::new(PipeWorker::new(from, to)), route, RootKey::Leave)))
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Self::Loopback(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
