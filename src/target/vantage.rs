//! A point of view outside of a live host: the proof's worker in a network namespace of its own, joined to the host by a
//! veth pair with documentation addresses, so that what it sees has passed the firewall. It ends with its caller, and
//! the kernel takes namespace and pair away with it. Must not touch the host's own links, routes and rules.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, unshare};

use crate::error::{Failure, Result};
use crate::proof;

use super::netlink::Routing;

/// The hidden verb.
pub const ARG: &str = "__vantage";

/// The host's end of the pair.
const NEAR: &str = "keyward0";
/// The worker's end.
const FAR: &str = "keyward1";
/// RFC 5737 and RFC 3849, in networks of two hosts: the host's address, the worker's, prefix length. Not those of a
/// throw-away copy, in which a live run may be tried.
const V4: (IpAddr, IpAddr, u8) =
    (IpAddr::V4(Ipv4Addr::new(198, 51, 100, 253)), IpAddr::V4(Ipv4Addr::new(198, 51, 100, 254)), 30);
/// As [`V4`].
const V6: (IpAddr, IpAddr, u8) = (
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x5b, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x5b, 0, 0, 0, 0, 2)),
    126,
);

/// A worker outside of this host.
pub struct Vantage {
    worker: Child,
    addresses: Vec<IpAddr>,
    /// The pair is this one's own.
    joined: bool,
}

impl Vantage {
    /// Opens the point of view; the pipes speak the language of [`crate::proof::worker`].
    ///
    /// # Errors
    /// When the kernel gives no namespace or no veth pair (containers without NET_ADMIN or SYS_ADMIN).
    pub fn open() -> Result<(Self, ChildStdout, ChildStdin)> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(ARG).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped());
        // Of its own, so that neither Ctrl-C nor the end of the terminal reaches it.
        command.process_group(0);
        let mut worker = command.spawn().map_err(|error| lost().why(error))?;
        let (to, from) = worker.stdin.take().zip(worker.stdout.take()).ok_or_else(lost)?;
        let mut vantage = Self { worker, addresses: Vec::new(), joined: false };
        let (from, to) = vantage.join(from, to)?;
        Ok((vantage, from, to))
    }

    /// The host's addresses as the worker reaches them.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Hands the far end over and gives both ends their addresses. The worker speaks one line at a time until it is
    /// asked, so nothing is lost between this reader and the next.
    fn join(&mut self, from: ChildStdout, mut to: ChildStdin) -> Result<(ChildStdout, ChildStdin)> {
        let mut reader = BufReader::with_capacity(16, from);
        expect(&mut reader, "alone")?;
        let mut routing = Routing::open()?;
        routing.veth(NEAR, FAR, self.worker.id())?;
        self.joined = true;
        routing.address(NEAR, V4.0, V4.2)?;
        self.addresses.push(V4.0);
        // A host without IPv6 has nothing to prove there.
        let six = routing.address(NEAR, V6.0, V6.2).is_ok();
        if six {
            self.addresses.push(V6.0);
        }
        routing.up(NEAR)?;
        to.write_all(if six { b"both\n" } else { b"four\n" }).map_err(|error| lost().why(error))?;
        expect(&mut reader, "joined")?;
        Ok((reader.into_inner(), to))
    }
}

impl Drop for Vantage {
    fn drop(&mut self) {
        let _ = self.worker.kill();
        let _ = self.worker.wait();
        // The kernel removes the pair with the namespace, but not at once.
        if self.joined
            && let Ok(mut routing) = Routing::open()
        {
            let _ = routing.remove(NEAR);
        }
    }
}

fn expect(reader: &mut BufReader<ChildStdout>, word: &str) -> Result<()> {
    let mut line = String::new();
    reader.read_line(&mut line).map_err(|error| lost().why(error))?;
    if line.trim() == word { Ok(()) } else { Err(lost().why(line.trim())) }
}

fn lost() -> Failure {
    Failure::unknown("proof", "there is no point of view outside of this host")
}

/// The hidden verb: alone in a new network, then joined, then the worker.
pub fn main() -> ExitCode {
    match alone() {
        Ok(()) => proof::worker::main(),
        Err(failure) => {
            let _ = writeln!(std::io::stdout(), "{}", failure.line());
            ExitCode::FAILURE
        }
    }
}

fn alone() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| lost().why(errno.desc()))?;
    say("alone")?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|error| lost().why(error))?;
    let mut routing = Routing::open()?;
    routing.up("lo")?;
    routing.address(FAR, V4.1, V4.2)?;
    if line.trim() == "both" {
        routing.address(FAR, V6.1, V6.2)?;
    }
    routing.up(FAR)?;
    say("joined")
}

fn say(word: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word}").and_then(|()| out.flush()).map_err(|error| lost().why(error))
}
