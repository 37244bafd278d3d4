//! What a reader of the plan should know about the firewall: what closes, what stays open, what ufw does not see.

use std::collections::BTreeSet;

use crate::change::Note;
use crate::formats::netfilter::walk::{Fate, Packet, incoming};
use crate::formats::netfilter::{Ruleset, Table, terms};
use crate::formats::ufw::Family;

use super::observe::Found;
use crate::types::Proto;

const ABOUT: &str = "firewall";
/// A port that nothing should open: when it is let in, everything is.
const CANARY: Packet = Packet { proto: "tcp", port: 1, from: None };

/// One family before and after.
pub struct Sight {
    /// Which.
    pub family: Family,
    /// The kernel's filter table now.
    pub before: Table,
    /// The same after all changes.
    pub after: Table,
}

impl Sight {
    /// What becomes of a new connection afterwards.
    pub fn fate(&self, proto: Proto, port: u16) -> Fate {
        incoming(&self.after, Packet { proto: proto.as_str(), port, from: None })
    }

    fn was(&self, proto: Proto, port: u16) -> Fate {
        incoming(&self.before, Packet { proto: proto.as_str(), port, from: None })
    }
}

/// Ports on which something listens for other hosts.
fn reachable(found: &Found, proto: Proto) -> BTreeSet<u16> {
    let outward = found.listeners.iter().filter(|listener| listener.proto == proto && !listener.address.is_loopback());
    outward.map(|listener| listener.port).collect()
}

/// TCP ports that are open to everybody afterwards, of those that listen and those named in `wanted`.
pub fn open_ports(found: &Found, sights: &[Sight], wanted: &[u16]) -> Vec<u16> {
    let ports: BTreeSet<u16> = reachable(found, Proto::Tcp).into_iter().chain(wanted.iter().copied()).collect();
    ports.into_iter().filter(|port| sights.iter().any(|sight| sight.fate(Proto::Tcp, *port).in_)).collect()
}

/// Listeners that lose their way in, and everything that stays open beyond what was asked for. `old`: SSH ports that
/// close once the new one is proven.
pub fn notes(found: &Found, sights: &[Sight], asked: &dyn Fn(Proto, u16) -> bool, old: &[u16]) -> Vec<Note> {
    let mut notes = Vec::new();
    let over = |chosen: &dyn Fn(&Sight) -> bool| {
        let names: Vec<&str> = sights.iter().filter(|sight| chosen(sight)).map(|sight| sight.family.name()).collect();
        if names.len() == sights.len() { String::new() } else { format!(" over {}", names.join(" and ")) }
    };
    let mut all: Vec<(Proto, u16)> = reachable(found, Proto::Tcp).into_iter().map(|port| (Proto::Tcp, port)).collect();
    all.retain(|(_, port)| !old.contains(port));
    all.extend(reachable(found, Proto::Udp).into_iter().map(|port| (Proto::Udp, port)));
    for (proto, port) in all {
        let what = format!("port {port}/{}{}", proto.as_str(), programs(found, proto, port));
        let closes = |sight: &Sight| !sight.was(proto, port).is_shut() && sight.fate(proto, port).is_shut();
        let stays = |sight: &Sight| !sight.fate(proto, port).is_shut();
        if sights.iter().any(closes) {
            notes.push(Note::warning(ABOUT, format!("{what}: listening now, will be closed{}", over(&closes))));
        }
        if sights.iter().any(stays) && !asked(proto, port) {
            notes.push(Note::info(ABOUT, format!("{what}: stays open{}", over(&stays))));
        }
    }
    for sight in sights {
        if sight.fate(Proto::Tcp, CANARY.port).in_ && sight.after.policy("INPUT") != "ACCEPT" {
            let file = if sight.family == Family::V6 { "before6.rules" } else { "before.rules" };
            let text = format!(
                "{}: a rule before ufw's own lets everything in (see /etc/ufw/{file} and the INPUT chain), so the default does not count",
                sight.family.name()
            );
            notes.push(Note::warning(ABOUT, text));
        }
    }
    notes.extend(found.families.iter().flat_map(|rules| published(&rules.kernel, rules.family)));
    notes.extend(found.warnings.iter().map(|text| Note::warning(ABOUT, text.clone())));
    notes
}

fn programs(found: &Found, proto: Proto, port: u16) -> String {
    let names: BTreeSet<&str> = found
        .listeners
        .iter()
        .filter(|listener| (listener.proto, listener.port) == (proto, port))
        .flat_map(|listener| listener.programs.iter().map(String::as_str))
        .collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.into_iter().collect::<Vec<_>>().join(", ")) }
}

/// Ports that containers publish: their packets are redirected before ufw's chains see them.
fn published(kernel: &Ruleset, family: Family) -> Vec<Note> {
    let mut ports = BTreeSet::new();
    for chain in kernel.tables.get("nat").into_iter().flat_map(|table| table.chains.values()) {
        for rule in &chain.rules {
            let terms = terms(rule);
            let value = |name: &str| terms.iter().find(|term| term.name == name).map(|term| term.value.as_str());
            if value("-j") == Some("DNAT")
                && let Some(port) = value("--dport").or_else(|| value("--dports"))
            {
                ports.insert(format!("{port}/{}", value("-p").unwrap_or("any")));
            }
        }
    }
    if ports.is_empty() {
        return Vec::new();
    }
    let list = ports.into_iter().collect::<Vec<_>>().join(", ");
    let text = format!("{}: published by containers or redirected, past ufw: {list}", family.name());
    vec![Note::warning(ABOUT, text)]
}
