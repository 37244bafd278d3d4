//! The throw-away copy of a host: overlays over its own file systems, its own processes, /dev, /run and network, a real
//! sshd and a real firewall inside, and an outside world at the far end of a veth pair.
//!
//! Four kinds of process, all the same program: the caller's [`Sandbox`]; the *warden*, which holds the copy's file
//! systems and is the outside world; per boot one process that makes the copy's namespaces; and process 1 in there.
//! When the caller ends, however it ends, all of it ends, and nothing is left on the machine.
//!
//! Must not judge what happens in the copy, and must not write outside of it.

mod client;
pub(super) mod enter;
pub(super) mod init;
pub mod layers;
pub(super) mod power;
mod subordinate;
mod tree;
pub(super) mod warden;
pub(super) mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use client::{Options, Sandbox};
pub use wire::Booted;

use crate::error::Failure;

/// Hidden verb of the warden.
pub const WARDEN: &str = "__sandbox-warden";
/// Hidden verb of one boot.
pub const BOOT: &str = "__sandbox-boot";
/// Hidden verb of process 1.
pub const INIT: &str = "__sandbox-init";
/// Hidden verb that starts a program in the copy.
pub const ENTER: &str = "__sandbox-enter";

/// The copy's address (RFC 5737).
pub const INSIDE_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The outside world's address.
pub const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// The copy's address (RFC 3849).
pub const INSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x5a, 0, 0, 0, 0, 1);
/// The outside world's address.
pub const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x5a, 0, 0, 0, 0, 2);
const PREFIX_V4: u8 = 24;
const PREFIX_V6: u8 = 64;
/// The copy's end of the veth pair.
pub const INSIDE_LINK: &str = "outside0";

/// The first of [`sources`].
pub const VISITOR_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// More addresses of the outside world, in networks that are not the copy's: sshd judges each by itself. Six of each
/// family, 198.51.100.7 and 2001:db8:51::7 first.
pub fn sources() -> impl Iterator<Item = IpAddr> {
    let v4 = (7..13).map(|last| IpAddr::from([198, 51, 100, last]));
    v4.chain((7..13).map(|last| IpAddr::from([0x2001, 0xdb8, 0x51, 0, 0, 0, 0, last])))
}

/// Turns an error number into a failure of the sandbox.
fn os(what: &'static str) -> impl Fn(nix::errno::Errno) -> Failure {
    move |errno| Failure::unknown("sandbox", what).why(errno.desc())
}
