//! Ports from outside: the closed ones shut, the firewall's openings open, nothing else that listens reachable.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::judge;
use super::route::{Place, Route};
use super::wanted::Wanted;
use super::wire::{Door, Reply, Request};
use super::word::listens;
use crate::error::{Failure, Result};
use crate::host::{Listener, Probe};
use crate::outcome::{Evidence, Proven, Reach};
use crate::types::Port;

/// A port on this machine that answers neither of two connections in so many milliseconds is dropped by a rule: the kernel
/// itself answers in well under one.
const DOOR_MS: u64 = 150;
/// Ports of services that nobody runs any more (RFC 862 to 868), for the contrast: one of them is neither listened on nor
/// allowed.
const UNUSED: [u16; 6] = [9, 7, 13, 17, 19, 37];

/// Why a port is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// sshd must not answer here any more.
    Closed,
    /// The firewall must let it in.
    LetIn,
    /// It listens, and the firewall must not let it in.
    Other,
    /// Nothing listens and nothing allows it: shows what "closed" looks like.
    Contrast,
}

/// The ports of interest, to be tried all at the same time.
pub(super) struct Knocks {
    reach: Reach,
    wanted_open: bool,
    asked: Vec<(Place, Why)>,
    listeners: Vec<Listener>,
}

impl Knocks {
    /// What is to be tried for `wanted` by `route`.
    ///
    /// # Errors
    /// When the listening sockets cannot be read.
    pub(super) fn of(route: &Route, wanted: &Wanted, probe: &dyn Probe) -> Result<Self> {
        let listeners = probe.listeners()?;
        let asked = questions(route, wanted, &listeners);
        Ok(Self { reach: route.reach, wanted_open: wanted.open.is_some(), asked, listeners })
    }

    /// The request for a worker; `None` when there is nothing to try.
    pub(super) fn request(&self) -> Option<Request> {
        let addresses: Vec<SocketAddr> =
            self.asked.iter().map(|(place, _)| SocketAddr::new(place.address, place.port.get())).collect();
        (!addresses.is_empty()).then_some(Request::Connect { addresses, deadline_ms: DOOR_MS })
    }

    /// What the reply to it shows. `alive`: addresses at which sshd answered just now.
    ///
    /// # Errors
    /// When the ports could not be tried.
    pub(super) fn judge(&self, reply: Option<&Reply>, alive: &BTreeSet<IpAddr>) -> Result<Vec<Evidence>> {
        let mut evidence = Vec::new();
        if self.wanted_open && self.reach < Reach::L2 {
            evidence.push(Evidence {
                what: "the firewall's openings".to_owned(),
                proven: Proven::Unknown,
                reach: self.reach,
                seen: "loopback does not pass the firewall's rules".to_owned(),
                millis: 0,
            });
        }
        if self.asked.is_empty() {
            return Ok(evidence);
        }
        let Some(reply) = reply.filter(|reply| reply.doors.len() == self.asked.len()) else {
            return Err(Failure::unknown("proof", "the ports could not be tried"));
        };
        let met: Vec<(&Place, Why, Door)> =
            self.asked.iter().zip(&reply.doors).map(|((place, why), door)| (place, *why, *door)).collect();
        for (place, why, door) in &met {
            let here = || met.iter().filter(|(other, ..)| other.address == place.address);
            let alive = alive.contains(&place.address) || here().any(|(.., door)| *door == Door::Open);
            let contrast = here().find(|(_, why, _)| *why == Why::Contrast).map(|(.., door)| *door);
            let listened = self.listeners.iter().any(|listener| listens(listener, place));
            evidence.extend(match why {
                Why::Closed => Some(judge::shut(place, "closed", *door, alive, reply.millis)),
                Why::Other => Some(judge::shut(place, "listens, but is shut", *door, alive, reply.millis)),
                Why::LetIn => Some(judge::let_in(place, *door, listened, contrast, reply.millis)),
                Why::Contrast => None,
            });
        }
        Ok(evidence)
    }
}

/// The ports to try. sshd's own wanted ports are proven by logins and cost a penalty when only knocked at.
fn questions(route: &Route, wanted: &Wanted, listeners: &[Listener]) -> Vec<(Place, Why)> {
    let all =
        |ports: &[Port], why: Why| route.places(ports).into_iter().map(move |place| (place, why)).collect::<Vec<_>>();
    let mut asked = all(&wanted.closed, Why::Closed);
    let Some(open) = wanted.open.as_ref().filter(|_| route.reach >= Reach::L2) else { return asked };
    let known: BTreeSet<Port> = open.iter().chain(&wanted.ports).chain(&wanted.closed).copied().collect();
    let let_in: Vec<Port> =
        open.iter().filter(|port| !wanted.ports.contains(port) && !wanted.closed.contains(port)).copied().collect();
    let others: BTreeSet<Port> = listeners
        .iter()
        .filter(|listener| !listener.address.is_loopback())
        .filter_map(|listener| Port::new(listener.port).ok())
        .filter(|port| !known.contains(port))
        .collect();
    let others: Vec<Port> = others.into_iter().collect();
    let unused = UNUSED.into_iter().filter_map(|port| Port::new(port).ok());
    let contrast = unused
        .filter(|port| !known.contains(port))
        .find(|port| !listeners.iter().any(|listener| listener.port == port.get()));
    asked.extend(all(&let_in, Why::LetIn));
    let reachable = |(place, _): &(Place, Why)| listeners.iter().any(|listener| listens(listener, place));
    asked.extend(all(&others, Why::Other).into_iter().filter(reachable));
    asked.extend(all(contrast.as_slice(), Why::Contrast));
    asked
}
