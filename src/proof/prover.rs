//! Turns promises into logins and connections through a [`Worker`], and what comes back into evidence.
//!
//! Failed authentications are spent sparingly (OpenSSH 9.8 and later shut out a source that collects 15 s of penalties;
//! a refused key costs 5 s, an unknown user 5 s, a connection without login 1 s): one of each a run and address at most,
//! from source addresses of their own where there are some.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;

use super::doors::Knocks;
use super::judge;
use super::route::{Place, Route};
use super::scaffold::{self, Pass};
use super::wanted::Wanted;
use super::wire::{Door, Line, Reply, Request, Stage};
use super::word::{self, Effective};
use super::worker::Worker;
use crate::change::{Change, Promise};
use crate::error::{Failure, Result};
use crate::facts::{Facts, SshdMode};
use crate::host::Probe;
use crate::outcome::{Evidence, Moment, Proven};
use crate::resource::Prover;
use crate::types::{Port, UserName, Word};

/// After this many milliseconds a login is given up.
const LOGIN_MS: u64 = 10_000;
/// Waits between tries of a login that met a reset or a closed port: sshd may be between two sockets.
const PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(900)];
/// An account name that no system has.
const NOBODY: &str = "keyward-no-such-user";

/// Whether a proof may put a temporary key into root's key file too. Only with it can "root is refused" be shown by a
/// real login that fails; without it sshd's own word counts (L0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootKey {
    /// Into the copy of a machine.
    Add,
    /// On the machine itself.
    Leave,
}

/// A [`Prover`] over any worker.
pub struct OutsideProver {
    worker: Box<dyn Worker>,
    route: Route,
    root_key: RootKey,
    passes: Vec<Pass>,
    host_keys: Vec<String>,
    /// Those of the route's addresses at which sshd is meant to answer.
    live: Vec<IpAddr>,
    /// Whether root's temporary key was let in before the doors closed.
    root_before: Option<bool>,
    /// Counts the uses of further source addresses.
    turn: Cell<usize>,
}

/// What a reply means.
type Judge = Box<dyn Fn(&Reply) -> Vec<Evidence>>;
/// A request and what its reply means.
type Try = (Request, Judge);

impl OutsideProver {
    /// A prover that reaches the host through `worker` by `route`.
    pub fn new(worker: Box<dyn Worker>, route: Route, root_key: RootKey) -> Self {
        Self {
            worker,
            route,
            root_key,
            passes: Vec::new(),
            host_keys: Vec::new(),
            live: Vec::new(),
            root_before: None,
            turn: Cell::new(0),
        }
    }

    fn line(&self, place: &Place, source: Option<IpAddr>) -> Line {
        let address = SocketAddr::new(place.address, place.port.get());
        Line { address, source, host_keys: self.host_keys.clone(), deadline_ms: LOGIN_MS }
    }

    /// The next of the worker's further addresses of this family; `None`, when there is none, leaves the choice to the
    /// kernel.
    fn next_source(&self, place: &Place) -> Option<IpAddr> {
        let same = |source: &&IpAddr| source.is_ipv4() == place.address.is_ipv4();
        let count = self.route.sources.iter().filter(same).count();
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        self.route.sources.iter().filter(same).nth(turn.checked_rem(count)?).copied()
    }

    fn places(&self, ports: &[Port]) -> Vec<Place> {
        self.route.places(ports).into_iter().filter(|place| self.live.contains(&place.address)).collect()
    }

    fn unknown(&self, what: &str, seen: &str) -> Evidence {
        let (what, seen) = (what.to_owned(), seen.to_owned());
        Evidence { what, proven: Proven::Unknown, reach: self.route.reach, seen, millis: 0 }
    }

    fn pass(&self, user: &str) -> Option<&Pass> {
        self.passes.iter().find(|pass| pass.user.as_str() == user)
    }

    fn login(&self, place: &Place, pass: &Pass, source: Option<IpAddr>) -> Request {
        Request::Login {
            line: self.line(place, source),
            user: pass.user.as_str().to_owned(),
            private_key: pass.private.clone(),
            command: pass.command(),
        }
    }

    fn methods(&self, place: &Place, user: &str, source: Option<IpAddr>) -> Request {
        Request::Methods { line: self.line(place, source), user: user.to_owned() }
    }

    /// Logins of every administrator on every wanted port; their methods tell about passwords on the way.
    fn logins(&self, wanted: &Wanted, passwords: bool) -> Vec<Try> {
        let mut tries = Vec::new();
        for place in self.places(&wanted.ports) {
            for pass in wanted.admins.iter().filter_map(|(user, _)| self.pass(user.as_str())).cloned() {
                let request = self.login(&place, &pass, None);
                tries.push(when(request, move |reply| {
                    let mut evidence = vec![judge::login(&place, &pass, reply)];
                    if passwords {
                        evidence.push(judge::no_passwords(&place, pass.user.as_str(), reply));
                    }
                    evidence
                }));
            }
            if wanted.admins.is_empty() {
                tries.push(when(self.methods(&place, "root", None), move |reply| vec![judge::answers(&place, reply)]));
            }
        }
        tries
    }

    /// The old ports, as long as sshd listens there: they must still let somebody in.
    fn old_doors(&self, wanted: &Wanted, probe: &dyn Probe) -> Result<Vec<Try>> {
        let listeners = probe.listeners()?;
        let places = self.places(&wanted.closed).into_iter();
        let open = places.filter(|place| listeners.iter().any(|listener| word::listens(listener, place)));
        let pass = wanted.admins.iter().find_map(|(user, _)| self.pass(user.as_str()));
        let attempt = |place: Place| match pass.cloned() {
            Some(pass) => when(self.login(&place, &pass, None), move |reply| {
                let login = judge::login(&place, &pass, reply);
                vec![Evidence { what: format!("old door: {}", login.what), ..login }]
            }),
            None => when(self.methods(&place, "root", None), move |reply| vec![judge::answers(&place, reply)]),
        };
        Ok(open.map(attempt).collect())
    }

    /// What must fail: root's login, and passwords for anybody.
    fn refusals(&self, wanted: &Wanted) -> Vec<Try> {
        let (root, passwords, before) = (wanted.root_refused, wanted.passwords_refused, self.root_before);
        let mut tries = Vec::new();
        for place in self.places(&wanted.ports) {
            if let (Some(true), Some(pass)) = (root, self.pass("root")) {
                let request = self.login(&place, pass, self.next_source(&place));
                tries.push(when(request, move |reply| {
                    let mut evidence = judge::refused(&place, "root", reply);
                    if before == Some(true) {
                        evidence.seen.push_str("; it was let in before");
                    }
                    vec![evidence, judge::no_passwords(&place, "root", reply)]
                }));
            } else if root.is_some() || passwords {
                // With passwords on, sshd offers them for root as well and refuses them afterwards: no evidence.
                tries.push(when(self.methods(&place, "root", self.next_source(&place)), move |reply| {
                    let telling = passwords || judge::offers_password(reply) == Some(false);
                    telling.then(|| judge::no_passwords(&place, "root", reply)).into_iter().collect()
                }));
            }
            // Loopback has no second IPv6 address to spread the penalty of an unknown user to.
            let nobody = self.next_source(&place);
            if passwords && (place.address.is_ipv4() || nobody.is_some()) {
                tries.push(when(self.methods(&place, NOBODY, nobody), move |reply| {
                    vec![judge::no_passwords(&place, "an unknown user", reply)]
                }));
            }
        }
        tries
    }

    /// Sends all requests at once; what met a reset or a closed port is tried again a little later.
    fn run(&mut self, requests: &[Request]) -> Result<Vec<Reply>> {
        let mut replies = self.worker.ask(requests)?;
        for pause in PAUSES {
            let logins = replies.iter().zip(requests).enumerate().filter(|(_, (_, request))| request.line().is_some());
            let again: Vec<usize> = logins.filter(|(_, (reply, _))| may_pass(reply)).map(|(index, _)| index).collect();
            if again.is_empty() {
                break;
            }
            std::thread::sleep(pause);
            let retried: Vec<Request> = again.iter().filter_map(|index| requests.get(*index).cloned()).collect();
            for (index, reply) in again.into_iter().zip(self.worker.ask(&retried)?) {
                if let Some(slot) = replies.get_mut(index) {
                    *slot = reply;
                }
            }
        }
        Ok(replies)
    }

    /// Runs all tries, and `knocks` at the same time, since a shut door takes its time to show; gives back the evidence.
    fn judge(&mut self, tries: &[Try], knocks: Option<&Knocks>) -> Result<(Vec<Evidence>, Vec<Evidence>)> {
        let knocking = knocks.and_then(Knocks::request);
        let count = usize::from(knocking.is_some());
        let requests: Vec<Request> =
            knocking.into_iter().chain(tries.iter().map(|(request, _)| request.clone())).collect();
        if requests.is_empty() {
            let shown = knocks.map(|knocks| knocks.judge(None, &BTreeSet::new())).transpose()?;
            return Ok((Vec::new(), shown.unwrap_or_default()));
        }
        let replies = self.run(&requests)?;
        let alive = requests.iter().zip(&replies).filter(|(_, reply)| reply.stage >= Stage::Auth);
        let alive = alive.filter_map(|(request, _)| request.line().map(|line| line.address.ip())).collect();
        let evidence = tries.iter().zip(replies.iter().skip(count)).flat_map(|((_, judge), reply)| judge(reply));
        let knocked = replies.first().filter(|_| count > 0);
        let shown = knocks.map(|knocks| knocks.judge(knocked, &alive)).transpose()?;
        Ok((evidence.collect(), shown.unwrap_or_default()))
    }

    /// Learns whether root's temporary key is let in while root's door is still open, for contrast.
    fn try_root(&mut self, wanted: &Wanted) -> Result<()> {
        let Some(place) = self.places(&wanted.ports).into_iter().next() else { return Ok(()) };
        let Some(pass) = self.pass("root").filter(|_| wanted.root_refused == Some(true)) else { return Ok(()) };
        let request = self.login(&place, pass, self.next_source(&place));
        self.root_before = self.worker.ask(&[request])?.first().map(|reply| reply.stage == Stage::Exec);
        Ok(())
    }
}

fn when(request: Request, judge: impl Fn(&Reply) -> Vec<Evidence> + 'static) -> Try {
    (request, Box::new(judge))
}

/// True when trying again a little later can help: sshd between two sockets, or busy.
fn may_pass(reply: &Reply) -> bool {
    match reply.stage {
        Stage::Connect => reply.doors == [Door::Refused],
        Stage::Kex => true,
        _ => false,
    }
}

impl Prover for OutsideProver {
    fn scaffold(&mut self, promises: &[Promise], facts: &Facts, probe: &dyn Probe) -> Result<Vec<Change>> {
        let wanted = Wanted::of(promises);
        self.passes.clear();
        if !wanted.needs_sshd() || matches!(facts.sshd_mode, SshdMode::Missing | SshdMode::Stopped) {
            return Ok(Vec::new());
        }
        let mut users = wanted.admins;
        if self.root_key == RootKey::Add && wanted.root_refused == Some(true) {
            let root = UserName::parse("root").map_err(|invalid| Failure::unknown("proof", "root").why(invalid))?;
            users.push((root, false));
        }
        let expiry = scaffold::expiry(Timestamp::now(), facts, probe)?;
        let mut changes = Vec::new();
        for (user, sudo) in &users {
            let effective = Effective::ask(user.as_str(), probe)?;
            let pass = Pass::new(user, *sudo)?;
            changes.push(scaffold::change(&pass, &effective, &expiry, probe)?);
            self.passes.push(pass);
        }
        Ok(changes)
    }

    fn prove(&mut self, moment: Moment, promises: &[Promise], probe: &dyn Probe) -> Result<Vec<Evidence>> {
        let mut wanted = Wanted::of(promises);
        let mut evidence = Vec::new();
        let mut tries = Vec::new();
        let mut present = self.route.clone();
        if !word::has_ipv6(probe)? {
            present.addresses.retain(IpAddr::is_ipv4);
        }
        if wanted.needs_sshd() {
            let effective = Effective::ask("root", probe)?;
            self.host_keys = word::host_keys(&effective, probe)?;
            self.live =
                present.addresses.iter().copied().filter(|address| word::is_served(*address, &effective)).collect();
            if self.live.is_empty() {
                evidence.push(self.unknown("sshd's ports", "sshd listens at no address that can be tried from here"));
            }
            if wanted.ports.is_empty() {
                let ports = effective.all("port").filter_map(|port| port.parse().ok());
                wanted.ports = ports.filter_map(|port| Port::new(port).ok()).collect();
            }
            for (user, _) in wanted.admins.iter().filter(|(user, _)| self.pass(user.as_str()).is_none()) {
                evidence.push(self.unknown(&format!("login as {}", user.as_str()), "no temporary key was made"));
            }
            tries = match moment {
                Moment::BeforeClosing => {
                    self.try_root(&wanted)?;
                    let mut tries = self.logins(&wanted, false);
                    tries.extend(self.old_doors(&wanted, probe)?);
                    tries
                }
                Moment::WhileClosing => self.logins(&wanted, false),
                Moment::Final => {
                    let mut tries = self.logins(&wanted, wanted.passwords_refused);
                    tries.extend(self.refusals(&wanted));
                    tries
                }
            };
        }
        let is_final = moment == Moment::Final;
        let knocks = is_final.then(|| Knocks::of(&present, &wanted, probe)).transpose()?;
        let (seen, shown) = self.judge(&tries, knocks.as_ref())?;
        evidence.extend(seen);
        let policy = wanted.admins.iter().filter(|(_, nopasswd)| !nopasswd);
        evidence.extend(policy.map(|(user, _)| word::sudo_by_policy(user, probe)));
        if is_final {
            evidence.extend(wanted.root_refused.map(|entirely| word::root_by_configuration(entirely, probe)));
        }
        evidence.extend(shown);
        Ok(evidence)
    }
}
