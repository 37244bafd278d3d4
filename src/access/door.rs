//! Where sshd can be reached: the ports on which it listens, and what the firewall of each family and hosts.deny let
//! through to them.

use std::net::IpAddr;

use crate::change::Promise;
use crate::error::Result;
use crate::facts::{SshdMode, socket_ports};
use crate::formats::netfilter::walk::{Fate, Packet, incoming, names_port};
use crate::formats::netfilter::{Ruleset, Table, foreign_chains, foreign_nat, terms};
use crate::formats::tcp_wrappers;
use crate::host::{Command, Listener};
use crate::outcome::Proven;

use super::look::Look;
use super::place::Place;

/// All doors of sshd.
pub struct Doors {
    /// Ports that listen for other hosts.
    pub ports: Vec<Port>,
    /// What could not be looked at.
    pub unknown: Vec<String>,
    v4: Firewall,
    v6: Firewall,
    allow: String,
    deny: String,
}

/// A port and the families it listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its number.
    pub number: u16,
    v4: bool,
    v6: bool,
}

/// All tables of a family, or why they are not known.
type Firewall = std::result::Result<Family, String>;

/// What one family has.
#[derive(Default)]
struct Family {
    rules: Ruleset,
    /// A table of nftables that may hand connections on, and is not read.
    unread: Option<String>,
}

/// A port of this host that is handed on to another address before the rules for this host are asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HandedOn {
    /// `tcp` or `udp`.
    pub proto: String,
    /// The port, or a range of them.
    pub port: String,
    /// Where to.
    pub to: String,
    /// True where rules of the user's own chain (DOCKER-USER) may keep some out.
    pub may_be_kept: bool,
}

impl Doors {
    /// Looks at sockets and rules.
    ///
    /// # Errors
    /// When the sockets or hosts.allow cannot be read.
    pub fn new(look: &Look<'_>) -> Result<Self> {
        let (v4, v6) = (firewall(look, "iptables"), firewall(look, "ip6tables"));
        let mut unknown: Vec<String> =
            [&v4, &v6].into_iter().filter_map(|table| table.as_ref().err().cloned()).collect();
        unknown.dedup();
        let (allow, deny) = (look.text("/etc/hosts.allow")?, look.text("/etc/hosts.deny")?);
        Ok(Self { ports: ports(look)?, unknown, v4, v6, allow, deny })
    }

    /// Ranges that rules of the firewall and of hosts.deny name.
    pub fn named(&self) -> Vec<String> {
        let mut named: Vec<String> =
            [&self.allow, &self.deny].into_iter().flat_map(|text| tcp_wrappers::clients(text, "sshd")).collect();
        for table in [&self.v4, &self.v6].into_iter().flatten().filter_map(|family| family.rules.filter()) {
            let rules = table.chains.values().flat_map(|chain| &chain.rules);
            let sources = rules.flat_map(|rule| terms(rule)).filter(|term| matches!(term.name.as_str(), "-s"));
            named.extend(sources.map(|term| term.value));
        }
        named
    }

    /// True when some door listens to IPv6.
    pub fn has_v6(&self) -> bool {
        self.ports.iter().any(|port| port.v6)
    }

    /// Whether somebody gets through to any port, or why not.
    pub fn passes(&self, place: &Place) -> (Proven, String) {
        let mut best = (Proven::No, "no sshd listens there for other hosts".to_owned());
        for port in &self.ports {
            let one = self.passes_to(*port, place);
            if one.0 == Proven::Yes {
                return one;
            }
            if best.0 == Proven::No {
                best = one;
            }
        }
        best
    }

    /// Whether somebody gets through to this port, or why not.
    pub fn passes_to(&self, port: Port, place: &Place) -> (Proven, String) {
        let (listens, table) = if place.address.is_ipv6() { (port.v6, &self.v6) } else { (port.v4, &self.v4) };
        if !listens {
            return (Proven::No, format!("port {} does not listen to that family", port.number));
        }
        let (through, line) = tcp_wrappers::lets_in(&self.allow, &self.deny, "sshd", place.address);
        if through == Some(false) {
            return (Proven::No, format!("{line} turns the client away"));
        }
        let from = place.label.as_ref().map(|_| place.address);
        match table {
            Err(why) => (Proven::Unknown, why.clone()),
            Ok(family) => match (fate(&family.rules, port.number, from), through) {
                (fate, _) if fate.is_shut() => (Proven::No, format!("the firewall shuts port {}", port.number)),
                (fate, _) if !fate.is_open() => {
                    (Proven::Unknown, format!("a rule for port {} depends on more than the address", port.number))
                }
                (_, None) => (Proven::Unknown, format!("{line} depends on more than the address")),
                _ => (Proven::Yes, String::new()),
            },
        }
    }

    /// Whether the firewall of a family lets a stranger's first packet through to a port, and the reason where that cannot
    /// be told.
    pub fn to_strangers(&self, proto: &'static str, port: u16, is_v6: bool) -> (Proven, String) {
        match if is_v6 { &self.v6 } else { &self.v4 } {
            Err(why) => (Proven::Unknown, why.clone()),
            Ok(family) => match fate_of(&family.rules, Packet { proto, port, from: None }) {
                fate if fate.is_open() => (Proven::Yes, String::new()),
                fate if fate.is_shut() => (Proven::No, String::new()),
                _ => (Proven::Unknown, format!("a rule for port {port} depends on more than the address")),
            },
        }
    }

    /// True when a rule of either family names this port.
    pub fn names_port(&self, port: u16) -> bool {
        [&self.v4, &self.v6]
            .into_iter()
            .flatten()
            .filter_map(|family| family.rules.filter())
            .any(|table| names_port(table, port))
    }

    /// Ports that the nat table hands on to somewhere else (DNAT) for anybody, such as those that docker publishes; or why
    /// that cannot be told.
    ///
    /// # Errors
    /// The reason.
    pub fn handed_on(&self) -> std::result::Result<Vec<HandedOn>, String> {
        let mut found = Vec::new();
        for rules in [&self.v4, &self.v6] {
            let Family { rules, unread } = rules.as_ref().map_err(Clone::clone)?;
            if let Some(table) = unread {
                return Err(format!("nftables table {table} may hand connections on, and is not read"));
            }
            let Some(nat) = rules.tables.get("nat") else { continue };
            let own = rules.filter().and_then(|table| table.chains.get("DOCKER-USER"));
            let may_be_kept = own.is_some_and(|chain| chain.rules.iter().any(|rule| rule != "-j RETURN"));
            let of_strangers =
                nat.chains.iter().filter(|(name, _)| *name != "OUTPUT").flat_map(|(_, chain)| &chain.rules);
            for rule in of_strangers.filter(|rule| rule.contains("-j DNAT")) {
                let terms = terms(rule);
                let value = |name: &str| {
                    terms.iter().find(|term| term.name == name && !term.not).map(|term| term.value.clone())
                };
                let is_own = |value: Option<String>| {
                    value.is_some_and(|text| text.starts_with("127.") || text.starts_with("::1") || text == "lo")
                };
                if is_own(value("-d")) || is_own(value("-i")) || value("-s").is_some() {
                    continue;
                }
                let port = value("--dport").or_else(|| value("--dports")).unwrap_or_else(|| "all".to_owned());
                let to = value("--to-destination").unwrap_or_default();
                found.push(HandedOn { proto: value("-p").unwrap_or_else(|| "all".to_owned()), port, to, may_be_kept });
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }
}

/// What becomes of a first connection. A rule that counts connections does not stop the first one.
fn fate(rules: &Ruleset, port: u16, from: Option<IpAddr>) -> Fate {
    fate_of(rules, Packet { proto: "tcp", port, from })
}

fn fate_of(rules: &Ruleset, packet: Packet) -> Fate {
    let none = Table::default();
    let table = rules.filter().unwrap_or(&none);
    let fate = incoming(table, packet);
    if fate.is_open() || fate.is_shut() {
        return fate;
    }
    let mut calm = table.clone();
    for chain in calm.chains.values_mut() {
        chain.rules.retain(|rule| !rule.contains("--hitcount"));
    }
    incoming(&calm, packet)
}

fn ports(look: &Look<'_>) -> Result<Vec<Port>> {
    let listeners = look.probe.listeners()?;
    let configured = look.everybody().map(|effective| effective.ports()).unwrap_or_default();
    let outward = |listener: &&Listener| !listener.address.is_loopback();
    let mut found: Vec<&Listener> = listeners
        .iter()
        .filter(outward)
        .filter(|listener| match listener.programs.as_slice() {
            // Whose socket it is may be hidden in a container.
            [] => configured.contains(&listener.port),
            programs => programs.iter().any(|name| name == "sshd"),
        })
        .collect();
    // Sessions of sshd before 9.8 hold forwarded ports under the same name.
    if look.facts.sshd_mode == SshdMode::Service && found.iter().any(|one| configured.contains(&one.port)) {
        found.retain(|one| configured.contains(&one.port));
    }
    let mut ports: Vec<Port> = Vec::new();
    let mut add = |number: u16, v4: bool, v6: bool| match ports.iter_mut().find(|port| port.number == number) {
        Some(port) => (port.v4, port.v6) = (port.v4 || v4, port.v6 || v6),
        None => ports.push(Port { number, v4, v6 }),
    };
    for one in found {
        add(one.port, one.address.is_ipv4(), one.address.is_ipv6());
    }
    if look.supposed.sshd_runs {
        configured.iter().for_each(|number| add(*number, true, true));
    }
    if look.facts.sshd_mode == SshdMode::Socket {
        for number in socket_ports(look.probe)? {
            // `[::]` of a socket unit takes both families.
            add(number, true, true);
        }
    }
    if let Some(after) = look.after {
        let (v4, v6) = (ports.iter().any(|port| port.v4), ports.iter().any(|port| port.v6));
        let neither = !v4 && !v6;
        for promise in after.promises {
            match promise {
                Promise::SshPort { port } if !ports.iter().any(|have| have.number == port.get()) => {
                    ports.push(Port { number: port.get(), v4: v4 || neither, v6: v6 || neither });
                }
                Promise::SshPortClosed { port } => ports.retain(|have| have.number != port.get()),
                _ => {}
            }
        }
    }
    ports.sort_unstable();
    Ok(ports)
}

/// The rules that the kernel has, or will have.
fn firewall(look: &Look<'_>, name: &str) -> Firewall {
    if look.supposed.no_firewall {
        return Ok(Family::default());
    }
    let save = format!("/usr/sbin/{name}-save");
    if !look.probe.has_program(&save) {
        return Err(format!("{save} is not there, so the firewall cannot be read"));
    }
    let output = look.probe.ask(&Command::new([save])).map_err(|failure| failure.line())?;
    if !output.ok() {
        return Err(format!("the kernel does not show its {name} rules: {}", output.last_line()));
    }
    let mut rules =
        Ruleset::parse(&output.stdout).map_err(|line| format!("a rule of {name} makes no sense: {line}"))?;
    if let Some(after) = look.after {
        after.replay(name, &mut rules).map_err(|line| format!("a planned rule of {name} makes no sense: {line}"))?;
    }
    let mut unread = None;
    if look.probe.has_program("/usr/sbin/nft") {
        let chains = look.probe.ask(&Command::new(["/usr/sbin/nft", "list", "chains"])).map_err(|f| f.line())?;
        if !chains.ok() {
            return Err(format!("nftables does not show its chains: {}", chains.last_line()));
        }
        let family = if name == "iptables" { "ip " } else { "ip6 " };
        let is_ours = |table: &String| table.starts_with("inet ") || table.starts_with(family);
        unread = foreign_nat(&chains.stdout).into_iter().find(is_ours);
        for (table, _) in foreign_chains(&chains.stdout) {
            if is_ours(&table) {
                return Err(format!("nftables table {table} has rules for incoming connections, which are not read"));
            }
        }
    }
    Ok(Family { rules, unread })
}
