//! Where a proof goes: the addresses of the host as the worker reaches them, and one port on one of them.

use std::net::IpAddr;

use crate::outcome::{Evidence, Proven, Reach};
use crate::types::Port;

/// Where the host can be reached from the worker, and how far that reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Addresses of the host to prove; one of each family that is in use.
    pub addresses: Vec<IpAddr>,
    /// More addresses of the worker, to spread penalties over; may be empty.
    pub sources: Vec<IpAddr>,
    /// L1 for loopback, L2 for a namespace outside.
    pub reach: Reach,
}

impl Route {
    /// Every port at every address.
    pub(super) fn places(&self, ports: &[Port]) -> Vec<Place> {
        let at = |port: &Port, address: &IpAddr| Place { address: *address, port: *port, reach: self.reach };
        ports.iter().flat_map(|port| self.addresses.iter().map(move |address| at(port, address))).collect()
    }
}

/// A port on one of the host's addresses, as evidence names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: Port,
    /// How far evidence from there reaches.
    pub reach: Reach,
}

impl Place {
    fn family(&self) -> &'static str {
        if self.address.is_ipv4() { "IPv4" } else { "IPv6" }
    }

    /// `port 2222, IPv6`
    pub fn text(&self) -> String {
        format!("port {}, {}", self.port.get(), self.family())
    }

    /// Evidence about this place.
    pub fn evidence(&self, what: &str, proven: Proven, seen: impl Into<String>, millis: u64) -> Evidence {
        Evidence { what: format!("{what}, {}", self.text()), proven, reach: self.reach, seen: seen.into(), millis }
    }
}
