//! Moving the port in two stages. Port and ListenAddress add up over all files (sshd_config(5)), so a port of another
//! file goes only by taking that line out of force. Must not decide when: the plan does.

use std::collections::BTreeSet;

use super::observe::Observed;
use super::{DROP_IN, TOP};
use crate::formats::sshd_config::Item;

/// What a port move writes and takes out of force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports {
    /// Ports of the configuration now.
    pub present: Vec<u16>,
    /// Port and ListenAddress lines of keyward's file while both doors are open.
    pub both: Vec<String>,
    /// Those lines at the end.
    pub last: Vec<String>,
    /// Lines of other files that go at the end: file and line number.
    pub close: Vec<(String, usize)>,
    /// True when the configuration's ports change at all.
    pub moves: bool,
}

/// A ListenAddress with a port of its own.
struct Listen {
    host: String,
    port: u16,
    rest: String,
}

/// Works out the move to `want`; `None` leaves the ports as they are.
pub fn ports(observed: &Observed, want: Option<u16>) -> Ports {
    let items = observed.tree.flatten();
    let mine = |item: &&Item| item.file == DROP_IN || item.file == TOP;
    let present = observed.effective.ports();
    let kept: Vec<String> = items.iter().filter(mine).filter_map(port_line).collect();
    let Some(want) = want.filter(|want| present != [*want]) else {
        return Ports { present, both: kept.clone(), last: kept, ..Ports::default() };
    };
    let others: Vec<&Item> = items.iter().filter(|item| !mine(item)).collect();
    let other_ports: BTreeSet<u16> = others.iter().filter_map(|item| port(item)).collect();
    let mut both: BTreeSet<u16> = observed.effective.all("port").filter_map(|value| value.parse().ok()).collect();
    both.insert(want);
    let mut lines: Vec<String> =
        both.iter().filter(|port| !other_ports.contains(port)).map(|port| format!("Port {port}")).collect();
    let mut last: Vec<String> = if other_ports.contains(&want) { vec![] } else { vec![format!("Port {want}")] };
    let listens: Vec<Listen> = items.iter().filter_map(listen).collect();
    let there = |host: &str| others.iter().filter_map(|item| listen(item)).any(|l| l.host == host && l.port == want);
    let mut hosts = BTreeSet::new();
    for entry in &listens {
        if !there(&entry.host) && hosts.insert(entry.host.clone()) {
            let line = format!("ListenAddress {}:{want}{}", entry.host, entry.rest);
            lines.push(line.clone());
            last.push(line);
        }
    }
    // keyward's own old addresses stay open until the end.
    for line in kept.iter().filter(|line| line.starts_with("ListenAddress")) {
        if !lines.contains(line) {
            lines.push(line.clone());
        }
    }
    let goes = |item: &&&Item| port(item).or_else(|| listen(item).map(|l| l.port)).is_some_and(|port| port != want);
    let close = others.iter().filter(goes).map(|item| (item.file.clone(), item.line)).collect();
    Ports { present, both: lines, last, close, moves: true }
}

/// A Port or ListenAddress line as text.
fn port_line(item: &Item) -> Option<String> {
    let keyword = match item.directive.keyword.as_str() {
        "port" => "Port",
        "listenaddress" => "ListenAddress",
        _ => return None,
    };
    Some(format!("{keyword} {}", item.directive.args.join(" ")))
}

fn port(item: &Item) -> Option<u16> {
    if item.directive.keyword != "port" {
        return None;
    }
    item.directive.args.first()?.parse().ok()
}

fn listen(item: &Item) -> Option<Listen> {
    if item.directive.keyword != "listenaddress" {
        return None;
    }
    let (first, rest) = item.directive.args.split_first()?;
    // A bare IPv6 address has more than one colon and no port.
    let (host, port) = first.rsplit_once(':')?;
    if host.contains(':') && !host.starts_with('[') {
        return None;
    }
    let rest = if rest.is_empty() { String::new() } else { format!(" {}", rest.join(" ")) };
    Some(Listen { host: host.to_owned(), port: port.parse().ok()?, rest })
}
