//! An authenticated connection to a host, over jump hosts or a ProxyCommand where the configuration says so. Every hop
//! proves its host key before it is given any credential; every hop is hostile until then, and bounded afterwards.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, Handle};
use russh::keys::PublicKey;

use super::address::Destination;
use super::agent::Agent;
use super::auth::{self, Ask, End, Offer, Patience, Who};
use super::config::{Around, Settings};
use super::driver::{Driver, runtime};
use super::gate::{Eye, Gate, Trust, refusal};
use super::known_hosts::{self, Known, Verdict};
use super::stream::{Meter, Metered, Pipe};
use super::trouble::{Outcome, Setback, Trouble};
use super::{keys, proxy, resolve};
use crate::host::Probe;
use crate::proof::Quick;

/// Most bytes that a server may send until it has let us in; a login needs about 10 KiB.
const LOGIN_BYTES: usize = 1 << 20;
/// Longest chain of jump hosts.
const HOPS: usize = 8;
/// A silent peer is asked after this time, and given up after three questions without an answer.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// What the caller wants of a connection.
pub struct Wishes<'a> {
    /// Asks `ssh -G` and `getent`.
    pub probe: &'a dyn Probe,
    /// Whose keys and configuration.
    pub around: &'a Around,
    /// Answers for passphrases and passwords.
    pub ask: Ask<'a>,
    /// By what the host key is trusted. A pin is for the host itself; jump hosts then need known_hosts.
    pub trust: Trust,
    /// True when passwords may be asked for and sent.
    pub passwords: bool,
    /// Key files to offer first.
    pub keys: Vec<PathBuf>,
    /// Only these keys, whatever files and agent hold; `None`: all of them.
    pub only: Option<Vec<crate::types::PublicKey>>,
    /// Most keys that may be refused on one connection: OpenSSH hangs up after 6 failures (MaxAuthTries).
    pub keys_each: usize,
    /// Most connections for one login: OpenSSH 9.8 and later shuts an address out after the third that failed.
    pub connections: usize,
    /// How long a TCP connection may take.
    pub connect_limit: Duration,
    /// How long a hop may keep us waiting, the answers of people not counted.
    pub login_limit: Duration,
}

impl<'a> Wishes<'a> {
    /// Strict host keys, no passwords.
    pub fn new(probe: &'a dyn Probe, around: &'a Around, ask: Ask<'a>) -> Self {
        Self {
            probe,
            around,
            ask,
            trust: Trust::KnownHosts,
            passwords: false,
            keys: Vec::new(),
            only: None,
            keys_each: 5,
            connections: 3,
            connect_limit: Duration::from_secs(10),
            login_limit: Duration::from_secs(60),
        }
    }
}

/// An open connection. Its methods block; the connection itself is kept alive by a thread.
#[derive(Debug, Clone)]
pub struct Link {
    pub(super) driver: Arc<Driver>,
    place: String,
    user: String,
    host_key: String,
    peer: Option<SocketAddr>,
    notes: Vec<String>,
    by: Option<keys::Candidate>,
}

/// Where one hop goes.
struct Hop<'a> {
    settings: &'a Settings,
    place: String,
    trust: Trust,
}

/// What the hops before gave.
struct Way {
    chain: Vec<Arc<Handle<Gate>>>,
    proxy: Option<proxy::Running>,
    peer: Option<SocketAddr>,
    notes: Vec<String>,
    /// By which key the last of them let us in.
    by: Option<keys::Candidate>,
}

/// A connection whose host key was taken.
struct Opened {
    handle: Handle<Gate>,
    meter: Arc<Meter>,
    key: Option<PublicKey>,
    eye: Eye,
}

impl Link {
    /// Connects and logs in.
    ///
    /// # Errors
    /// A [`Setback`], whose trouble tells the cases apart.
    pub fn open(destination: &Destination, settings: &Settings, wishes: &Wishes<'_>) -> Outcome<Self> {
        let local = |error: std::io::Error| Setback::new(Trouble::Local, "ssh", "no runtime").why(error);
        let jumps = jumps(settings, wishes)?;
        let goal = destination.to_string();
        let runtime = runtime().map_err(local)?;
        let way = Way { chain: Vec::new(), proxy: None, peer: None, notes: Vec::new(), by: None };
        // Dropping the runtime ends whatever a failed attempt left behind.
        let (way, meter, key) = runtime.block_on(chain(way, &jumps, settings, &goal, wishes))?;
        let driver = Driver::start(runtime, way.chain, meter, way.proxy).map_err(local)?;
        let bare = key.map(|key| PublicKey::new(key.key_data().clone(), ""));
        Ok(Self {
            driver: Arc::new(driver),
            place: place_of(settings),
            user: settings.user.clone(),
            host_key: bare.and_then(|key| key.to_openssh().ok()).unwrap_or_default(),
            peer: way.peer,
            notes: way.notes,
            by: way.by,
        })
    }

    /// The host key that the host proved to have, in its one-line OpenSSH form.
    pub fn host_key(&self) -> &str {
        &self.host_key
    }

    /// The address it was reached at; `None` behind a jump host or a ProxyCommand.
    pub const fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The account that is logged in.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// `user@host:port`, for failures.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// True when one of these keys, and nothing else, let us in.
    pub fn is_by(&self, keys: &[crate::types::PublicKey]) -> bool {
        self.by.as_ref().is_some_and(|by| keys.iter().any(|key| by.is(key)))
    }

    /// What happened on the way and the reader should know: a host key that was written down.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// True while the connection stands.
    pub fn is_alive(&self) -> bool {
        self.driver.client().is_some_and(|client| !client.is_closed())
    }
}

fn place_of(settings: &Settings) -> String {
    let shown = Destination {
        user: Some(settings.user.clone()),
        host: settings.host.clone(),
        port: (settings.port != 22).then_some(settings.port),
    };
    shown.to_string()
}

/// The settings of the jump hosts, in order. As with ssh, the first one may have jump hosts of its own.
fn jumps(settings: &Settings, wishes: &Wishes<'_>) -> Outcome<Vec<Settings>> {
    let of = |hop: &Destination| Settings::of(hop, wishes.around, wishes.probe);
    let mut hops: Vec<Settings> = settings.jumps.iter().map(of).collect::<Result<_, _>>()?;
    while let Some(before) = hops.first().map(|first| first.jumps.clone()).filter(|before| !before.is_empty()) {
        if let Some(first) = hops.first_mut() {
            first.jumps.clear();
        }
        let mut longer: Vec<Settings> = before.iter().map(of).collect::<Result<_, _>>()?;
        longer.append(&mut hops);
        hops = longer;
        if hops.len() > HOPS {
            let what = "the chain of jump hosts is longer than 8, or leads back to itself";
            return Err(Setback::new(Trouble::Local, &place_of(settings), what).hint("see ProxyJump in ~/.ssh/config"));
        }
    }
    Ok(hops)
}

async fn chain(
    mut way: Way,
    jumps: &[Settings],
    settings: &Settings,
    goal: &str,
    wishes: &Wishes<'_>,
) -> Outcome<(Way, Arc<Meter>, Option<PublicKey>)> {
    // Only the host itself is what a pin was given for.
    let trust = if matches!(wishes.trust, Trust::Pinned(_)) { Trust::KnownHosts } else { wishes.trust.clone() };
    for jump in jumps {
        let hop = Hop { settings: jump, place: place_of(jump), trust: trust.clone() };
        let opened = log_in(&mut way, &hop, wishes).await.map_err(|setback| setback.on_the_way_to(goal))?;
        // All that the hops behind it send comes through this one.
        opened.meter.allow(usize::MAX);
        way.chain.push(Arc::new(opened.handle));
    }
    let hop = Hop { settings, place: place_of(settings), trust: wishes.trust.clone() };
    let opened = log_in(&mut way, &hop, wishes).await?;
    way.chain.push(Arc::new(opened.handle));
    // What is seen behind a jump host is its address, not the host's.
    way.peer = way.peer.filter(|_| jumps.is_empty());
    Ok((way, opened.meter, opened.key))
}

/// Connects to one hop and logs in, with as many connections as that may take.
async fn log_in(way: &mut Way, hop: &Hop<'_>, wishes: &Wishes<'_>) -> Outcome<Opened> {
    let settings = hop.settings;
    let mut patience = Patience::new(wishes.login_limit, &hop.place);
    let mut agent = None;
    if let Some(socket) = &settings.agent {
        // No agent is no error: there are files and passwords.
        agent = Agent::connect(socket).await.ok();
    }
    let (mut keys, notes) = keys::gather(&wishes.keys, settings, wishes.around, agent.as_mut()).await;
    if let Some(only) = &wishes.only {
        keys.retain(|key| only.iter().any(|one| key.is(one)));
    }
    let mut offer = Offer::new(keys, notes, wishes.keys_each, wishes.passwords);
    let mut bound = false;
    for number in 1..=wishes.connections.max(1) {
        let mut opened = open(way, hop, wishes, &mut patience).await?;
        if number > 1 && bound {
            // An agent takes one binding a connection.
            agent = match &settings.agent {
                Some(socket) => Agent::connect(socket).await.ok(),
                None => None,
            };
        }
        if let (Some(agent), Some(binding)) = (agent.as_mut(), opened.handle.agent_session_binding()) {
            agent.bind(binding).await;
            bound = true;
        }
        let (place, eye) = (hop.place.as_str(), &opened.eye);
        let who = Who { user: &settings.user, host: &settings.host, place, ask: wishes.ask, eye };
        let last = number == wishes.connections.max(1);
        let end = auth::log_in(&mut opened.handle, &mut offer, &who, agent.as_mut(), &mut patience, last).await;
        match end {
            Ok(End::In) => {
                way.by = offer.by;
                return Ok(opened);
            }
            Ok(End::Again) => {
                let _ = opened.handle.disconnect(russh::Disconnect::ByApplication, "", "").await;
            }
            Err(setback) if setback.trouble == Trouble::Broken => {
                let told = judge(&russh::Error::Disconnect, &opened.eye, &opened.meter, hop).unwrap_or(setback);
                return Err(told.after(&way.notes));
            }
            Err(setback) => return Err(setback.after(&way.notes)),
        }
    }
    Err(Setback::new(Trouble::Credentials { offered: Vec::new() }, &hop.place, "no key was taken"))
}

/// Connects to one hop, as far as its host key. A pinned fingerprint does not say of which type its key is, and a server
/// shows one key only: the types are asked for one after the other.
async fn open(way: &mut Way, hop: &Hop<'_>, wishes: &Wishes<'_>, patience: &mut Patience) -> Outcome<Opened> {
    let rounds = if matches!(hop.trust, Trust::Pinned(_)) { 3 } else { 1 };
    let mut first: Option<Setback> = None;
    for round in 0..rounds {
        match open_once(way, hop, wishes, patience, round).await {
            Err(setback) if matches!(setback.trouble, Trouble::HostKeyChanged { line: 0, .. }) => {
                first.get_or_insert(setback);
            }
            Err(setback) if setback.trouble == Trouble::NoCommonAlgorithm && first.is_some() => {}
            done => return done,
        }
    }
    Err(first.unwrap_or_else(|| Setback::new(Trouble::NoCommonAlgorithm, &hop.place, "no host key was shown")))
}

async fn open_once(
    way: &mut Way,
    hop: &Hop<'_>,
    wishes: &Wishes<'_>,
    patience: &mut Patience,
    round: usize,
) -> Outcome<Opened> {
    let settings = hop.settings;
    let name = settings.key_name();
    let files: Vec<PathBuf> = settings.known_hosts.iter().chain(&settings.global_known_hosts).cloned().collect();
    let known = Known::read(&files, name.0, name.1)?;
    let pipe = carrier(way, hop, wishes, patience).await?;
    let meter = Meter::new(LOGIN_BYTES);
    let eye = Eye::default();
    let gate = Gate::new(hop.trust.clone(), known, eye.clone());
    let config = client::Config {
        preferred: gate.preferred(round),
        window_size: 1 << 20,
        maximum_packet_size: 32 << 10,
        channel_buffer_size: 16,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        ..client::Config::default()
    };
    let connecting = client::connect_stream(Arc::new(config), Metered::new(pipe, meter.clone()), gate);
    let connected = patience.wait(connecting).await?;
    let handle = match connected {
        Ok(handle) => handle,
        Err(error) => {
            let unclear = || Setback::new(Trouble::Broken, &hop.place, "the connection ended").why(&error);
            return Err(judge(&error, &eye, &meter, hop).unwrap_or_else(unclear));
        }
    };
    let seen = eye.seen();
    if seen.verdict == Some(Verdict::Unknown)
        && let Some(key) = &seen.key
    {
        let file = settings.known_hosts.first().ok_or_else(|| {
            Setback::new(Trouble::Local, &hop.place, "there is no known_hosts file to write its key to")
                .hint("UserKnownHostsFile is none for it; see: ssh -G HOST")
        })?;
        // Written down before a credential is sent, so that the second connection is held to it.
        way.notes.push(known_hosts::accept(file, name.0, name.1, key)?);
    }
    Ok(Opened { handle, meter, key: seen.key, eye })
}

/// The byte stream to a hop.
async fn carrier(way: &mut Way, hop: &Hop<'_>, wishes: &Wishes<'_>, patience: &mut Patience) -> Outcome<Pipe> {
    let settings = hop.settings;
    if let Some(before) = way.chain.last() {
        let opening = before.channel_open_direct_tcpip(settings.host.clone(), settings.port.into(), "127.0.0.1", 0);
        let channel = patience.wait(opening).await?.map_err(|error| {
            Setback::new(Trouble::Proxy, &hop.place, "the jump host does not lead there")
                .why(error)
                .hint("does it allow forwarding (AllowTcpForwarding), and can it reach the host and port?")
        })?;
        return Ok(Box::new(channel.into_stream()));
    }
    if let Some(command) = &settings.proxy_command {
        let (stream, child) = proxy::start(command, settings, &hop.place)?;
        way.proxy = Some(child);
        return Ok(Box::new(stream));
    }
    let addresses = resolve::addresses(&settings.host, settings.port, wishes.probe)?;
    let (stream, peer) = resolve::connect(&hop.place, &addresses, wishes.connect_limit).await?;
    way.peer = Some(peer);
    Ok(Box::new(Quick::new(stream)))
}

/// Why a connection ended before we were in, as far as that can be told.
fn judge(error: &russh::Error, eye: &Eye, meter: &Meter, hop: &Hop<'_>) -> Option<Setback> {
    let seen = eye.seen();
    let place = hop.place.as_str();
    let accepted = hop.trust == Trust::AcceptNew && seen.verdict == Some(Verdict::Unknown);
    if let Some(setback) = refusal(&seen, place, hop.settings.key_name()).filter(|_| !accepted) {
        return Some(setback);
    }
    if seen.weak {
        return Some(
            Setback::new(Trouble::NoCommonAlgorithm, place, "the server does not exchange keys strictly")
                .why("the beginning of the connection could be cut (CVE-2023-48795)")
                .hint("update openssh-server on the host"),
        );
    }
    if meter.is_spent() {
        return Some(Setback::new(Trouble::Flood, place, "the server sends without end"));
    }
    let head = meter.head();
    let before_banner = !head.contains("SSH-2.0-") && !head.contains("SSH-1.99-");
    if before_banner && head.contains("Not allowed at this time") {
        return Some(
            Setback::new(Trouble::Banned, place, "sshd lets nobody in from this address for now")
                .why("a penalty for logins that failed (PerSourcePenalties), or too many that wait (MaxStartups)")
                .hint("wait a minute and try again; each try during a penalty makes it longer"),
        );
    }
    if before_banner && head.contains("Exceeded MaxStartups") {
        return Some(
            Setback::new(Trouble::Crowded, place, "too many connections wait to log in there (MaxStartups)")
                .hint("try again in a moment; if it stays so, somebody is guessing passwords"),
        );
    }
    match error {
        russh::Error::NoCommonAlgo { kind, theirs, .. } => Some(
            Setback::new(Trouble::NoCommonAlgorithm, place, format!("the server offers no safe {} algorithm", word(kind)))
                .why(format!("it offers {}", theirs.join(", ")))
                .hint("update openssh-server on the host, or mend its algorithm settings"),
        ),
        russh::Error::Version => Some(
            Setback::new(Trouble::NotSsh, place, "what answers there does not speak SSH")
                .why(format!("it says {:?}", head.chars().take(80).collect::<String>()))
                .hint("is it the right port?"),
        ),
        russh::Error::PacketSize(_) | russh::Error::Inconsistent | russh::Error::SshEncoding(_) | russh::Error::WrongServerSig
        | russh::Error::StrictKeyExchangeViolation { .. } | russh::Error::PacketAuth | russh::Error::KexInit => {
            Some(Setback::new(Trouble::NotSsh, place, "the server breaks the rules of SSH").why(error))
        }
        russh::Error::IO(_) | russh::Error::Disconnect | russh::Error::HUP if before_banner => Some(
            Setback::new(Trouble::Reset { before_banner }, place, "the server hangs up before it says anything")
                .why(error)
                .hint("too many connections (MaxStartups), a penalty or fail2ban for earlier failures, or no sshd: wait a minute and try once more"),
        ),
        russh::Error::IO(_) | russh::Error::Disconnect | russh::Error::HUP | russh::Error::RecvError | russh::Error::SendError => Some(
            Setback::new(Trouble::Reset { before_banner }, place, "the server hangs up")
                .why(seen.goodbye.unwrap_or_else(|| error.to_string()))
                .hint("its log says why: journalctl -u ssh"),
        ),
        _ => None,
    }
}

const fn word(kind: &russh::AlgorithmKind) -> &'static str {
    match kind {
        russh::AlgorithmKind::Kex => "key exchange",
        russh::AlgorithmKind::Key => "host key",
        russh::AlgorithmKind::Cipher => "cipher",
        russh::AlgorithmKind::Compression => "compression",
        russh::AlgorithmKind::Mac => "checksum",
    }
}
