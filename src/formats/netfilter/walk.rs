//! What becomes of a new connection: a walk through the filter table.
//!
//! The packet is that of an outsider: first of a connection, from an address, over an interface and to a local address
//! that no rule names. What a rule asks beyond that (interfaces, rates, sets) is `Sometimes`. Must not guess: both
//! fates stay possible then.

use std::net::IpAddr;

use super::{Table, Term, terms};
use crate::types::{Cidr, Word as _};

/// The first packet of a connection from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// `tcp` or `udp`.
    pub proto: &'static str,
    /// Destination port.
    pub port: u16,
    /// Where it comes from; `None`: an address that no rule names.
    pub from: Option<IpAddr>,
}

/// What can become of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fate {
    /// It may be let in.
    pub in_: bool,
    /// It may be dropped or rejected.
    pub out: bool,
}

impl Fate {
    /// Let in for certain.
    pub const fn is_open(self) -> bool {
        self.in_ && !self.out
    }

    /// Kept out for certain.
    pub const fn is_shut(self) -> bool {
        self.out && !self.in_
    }
}

/// The options by which a rule names the port that is asked for.
const PORTS: [&str; 4] = ["--dport", "--dports", "--destination-port", "--destination-ports"];

/// True when some rule of the table names this port.
pub fn names_port(table: &Table, port: u16) -> bool {
    let names = |term: &Term| PORTS.contains(&term.name.as_str()) && ports(&term.value, port);
    table.chains.values().flat_map(|chain| &chain.rules).any(|rule| terms(rule).iter().any(names))
}

/// Built-in chains jump at most this deep before a loop is assumed.
const DEPTH: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    Never,
    Sometimes,
    Always,
}

/// Where `packet` ends when it enters at `INPUT`.
pub fn incoming(table: &Table, packet: Packet) -> Fate {
    let mut fate = Fate::default();
    if chain(table, "INPUT", packet, &mut fate, 0) {
        if table.policy("INPUT") == "ACCEPT" {
            fate.in_ = true;
        } else {
            fate.out = true;
        }
    }
    fate
}

/// Walks one chain; true when the packet may come out at its end.
fn chain(table: &Table, name: &str, packet: Packet, fate: &mut Fate, depth: usize) -> bool {
    if depth > DEPTH {
        *fate = Fate { in_: true, out: true };
        return true;
    }
    let mut returned = false;
    for rule in table.rules(name) {
        let terms = terms(rule);
        let hit = terms.iter().map(|term| matches(term, packet)).min().unwrap_or(Match::Always);
        let Some(target) = terms.iter().find(|term| matches!(term.name.as_str(), "-j" | "-g")) else { continue };
        if hit == Match::Never {
            continue;
        }
        let verdict = target.value.split(' ').next().unwrap_or_default();
        let ends = match verdict {
            "ACCEPT" => {
                fate.in_ = true;
                true
            }
            "DROP" | "REJECT" | "TARPIT" => {
                fate.out = true;
                true
            }
            "RETURN" => {
                returned = true;
                true
            }
            own if table.chains.contains_key(own) => {
                let through = chain(table, own, packet, fate, depth + 1);
                if target.name == "-g" {
                    returned |= through;
                    true
                } else {
                    !through
                }
            }
            "QUEUE" | "NFQUEUE" => {
                *fate = Fate { in_: true, out: true };
                true
            }
            _ => false,
        };
        if ends && hit == Match::Always {
            return returned;
        }
    }
    true
}

/// Whether one option of a rule lets the packet through to its target.
fn matches(term: &Term, packet: Packet) -> Match {
    let value = term.value.as_str();
    let sure = |yes: bool| if yes == term.not { Match::Never } else { Match::Always };
    match term.name.as_str() {
        "-j" | "-g" | "--comment" | "--reject-with" | "--set" | "--name" | "--rsource" | "--rdest" | "--mask" => {
            Match::Always
        }
        name if name.starts_with("--log-") || name.starts_with("--nflog-") || name.starts_with("--set-") => {
            Match::Always
        }
        "-p" | "--protocol" => sure(value == packet.proto || value == "all"),
        name if PORTS.contains(&name) => sure(ports(value, packet.port)),
        // An outsider's address and source port are none that a rule names.
        "-s" | "--source" if !matches!(value, "0.0.0.0/0" | "::/0" | "") => match (packet.from, Cidr::parse(value)) {
            (None, _) => sure(false),
            (Some(from), Ok(range)) => sure(range.contains(from)),
            (Some(_), Err(_)) => Match::Sometimes,
        },
        "-s" | "--source" => sure(true),
        "-i" | "--in-interface" if value == "lo" => sure(false),
        "-o" | "--out-interface" => sure(false),
        "--ctstate" | "--state" => sure(value.split(',').any(|state| state == "NEW")),
        "--dst-type" if value == "LOCAL" => sure(true),
        "--dst-type" if matches!(value, "BROADCAST" | "MULTICAST" | "ANYCAST") => sure(false),
        "--sport" | "--sports" | "--source-port" | "--source-ports" => sure(false),
        "--icmp-type" | "--icmpv6-type" => sure(false),
        "--rt-type" => sure(false),
        "--syn" => sure(packet.proto == "tcp"),
        _ => Match::Sometimes,
    }
}

/// Whether a rule's list of ports and ranges holds a port.
fn ports(list: &str, port: u16) -> bool {
    list.split(',').any(|part| match part.split_once(':') {
        Some((low, high)) => {
            let (low, high) = (low.parse().unwrap_or(0), high.parse().unwrap_or(u16::MAX));
            (low..=high).contains(&port)
        }
        None => part.parse() == Ok(port),
    })
}
