//! One SSH connection, made the strict way: pinned host keys, one key, no agent, no configuration file, bounded in time
//! and bytes. The server is treated as hostile (threats H2, H3). Must not judge what the outcome means.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use russh::client::{self, AuthResult, Handle};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{ChannelMsg, Disconnect, Preferred, kex};
use tokio::net::{TcpSocket, TcpStream};

use super::budget::Budget;
use super::quick::Quick;
use super::wire::{Door, Line, PrivateHalf, Reply, Stage, plain};

/// An address that does not answer TCP within this time is filtered, whatever time there is left for the login.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Most bytes that a server may send in one connection; a login needs about 10 KiB.
const WIRE_LIMIT: usize = 1 << 20;
/// How a refused key is reported.
pub(super) const REFUSED: &str = "the key is refused";
/// Most bytes of the command's output that are kept.
const STDOUT_LIMIT: usize = 64 << 10;
/// Most bytes of the command's error output that are kept.
const STDERR_LIMIT: usize = 4 << 10;

/// How far the connection came, as seen when a deadline cuts it off.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<Mutex<(Stage, String)>>);

impl Progress {
    /// At the beginning.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new((Stage::Connect, String::new()))))
    }

    fn enter(&self, stage: Stage) {
        if let Ok(mut seen) = self.0.lock() {
            seen.0 = stage;
        }
    }

    fn refuse(&self, stage: Stage, why: String) {
        if let Ok(mut seen) = self.0.lock() {
            *seen = (stage, why);
        }
    }

    /// The stage, and the reason when one was noted.
    pub(super) fn seen(&self) -> (Stage, String) {
        self.0.lock().map_or((Stage::Connect, String::new()), |seen| seen.clone())
    }

    fn reply(&self, error: &str) -> Reply {
        let (stage, why) = self.seen();
        Reply::at(stage, if why.is_empty() { error.to_owned() } else { why })
    }
}

struct Pinned {
    keys: Vec<PublicKey>,
    progress: Progress,
}

impl client::Handler for Pinned {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let (known, fingerprint) = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => (
                self.keys.iter().any(|pinned| pinned.key_data() == key.key_data()),
                key.fingerprint(HashAlg::Sha256).to_string(),
            ),
            PublicKeyOrCertificate::Certificate(_) => (false, "a certificate".to_owned()),
        };
        if !known {
            self.progress.refuse(Stage::Hostkey, format!("the server shows another host key: {fingerprint}"));
        }
        Ok(known)
    }
}

/// Opens a TCP connection; the door is known even when it fails.
pub(super) async fn tcp(
    address: SocketAddr,
    source: Option<IpAddr>,
    limit: Duration,
) -> Result<TcpStream, (Door, String)> {
    let attempt = async {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.connect(address).await
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err((door(&error), error.to_string())),
        Err(_) => Err((Door::Filtered, format!("no answer in {} ms", limit.as_millis()))),
    }
}

fn door(error: &std::io::Error) -> Door {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::ConnectionRefused | Io::ConnectionReset => Door::Refused,
        Io::TimedOut => Door::Filtered,
        _ => Door::Unreachable,
    }
}

/// Key exchanges without the weak groups: what OpenSSH 8.4 to 10.6 offers by default.
pub const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::DH_G18_SHA512,
    kex::DH_G16_SHA512,
    kex::DH_G14_SHA256,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];

/// Asks only for host keys that can be checked against the pinned ones.
fn host_algorithms(keys: &[PublicKey]) -> Vec<Algorithm> {
    let mut algorithms = Vec::new();
    for key in keys {
        let names = match key.algorithm() {
            Algorithm::Rsa { .. } => {
                vec![Algorithm::Rsa { hash: Some(HashAlg::Sha512) }, Algorithm::Rsa { hash: Some(HashAlg::Sha256) }]
            }
            other => vec![other],
        };
        algorithms.extend(names.into_iter().filter(|name| !algorithms.contains(name)).collect::<Vec<_>>());
    }
    algorithms
}

/// A connection whose server has shown a pinned host key.
async fn open(line: &Line, progress: &Progress) -> Result<Handle<Pinned>, Reply> {
    let keys: Vec<PublicKey> = line.host_keys.iter().filter_map(|text| PublicKey::from_openssh(text).ok()).collect();
    if keys.is_empty() {
        return Err(Reply::at(Stage::Request, "no host key to expect"));
    }
    let limit = Duration::from_millis(line.deadline_ms);
    let stream = tcp(line.address, line.source, limit.min(CONNECT_LIMIT)).await.map_err(|(door, why)| {
        let mut reply = Reply::at(Stage::Connect, why);
        reply.doors.push(door);
        reply
    })?;
    progress.enter(Stage::Kex);
    // Without TCP_NODELAY each small packet of the dialogue waits for the other side's delayed acknowledgement.
    stream.set_nodelay(true).map_err(|error| progress.reply(&error.to_string()))?;
    let preferred = Preferred { kex: KEX.into(), key: host_algorithms(&keys).into(), ..Preferred::default() };
    let config = client::Config {
        preferred,
        window_size: 64 << 10,
        maximum_packet_size: 16 << 10,
        channel_buffer_size: 16,
        inactivity_timeout: Some(limit),
        nodelay: true,
        ..client::Config::default()
    };
    let handler = Pinned { keys, progress: progress.clone() };
    let handle = client::connect_stream(Arc::new(config), Budget::new(Quick::new(stream), WIRE_LIMIT), handler).await;
    let handle = handle.map_err(|error| progress.reply(&error.to_string()))?;
    progress.enter(Stage::Auth);
    Ok(handle)
}

/// The methods offered to `user` by the `none` method. A server that lets `none` in gives an empty list and a reason.
async fn offered(handle: &mut Handle<Pinned>, user: &str, progress: &Progress) -> Result<Vec<String>, Reply> {
    match handle.authenticate_none(user).await {
        Ok(AuthResult::Failure { remaining_methods, .. }) => Ok(remaining_methods.iter().map(String::from).collect()),
        Ok(AuthResult::Success) => Err(Reply::at(Stage::Auth, "the server lets this user in without any proof")),
        Err(error) => Err(progress.reply(&error.to_string())),
    }
}

/// Says goodbye, so that sshd does not log a broken connection. A failure to do so changes nothing.
async fn leave(handle: Handle<Pinned>) {
    if handle.disconnect(Disconnect::ByApplication, "", "").await.is_ok() {
        let _ = tokio::time::timeout(Duration::from_millis(50), handle).await;
    }
}

/// Which methods are offered to `user`.
pub(super) async fn methods(line: &Line, user: &str, progress: &Progress) -> Reply {
    let mut handle = match open(line, progress).await {
        Ok(handle) => handle,
        Err(reply) => return reply,
    };
    let reply = match offered(&mut handle, user, progress).await {
        Ok(methods) => Reply { ok: true, methods, ..Reply::at(Stage::Auth, "") },
        Err(reply) => reply,
    };
    leave(handle).await;
    reply
}

/// Logs in by key and runs `command`.
pub(super) async fn login(line: &Line, user: &str, key: &PrivateHalf, command: &str, progress: &Progress) -> Reply {
    let Ok(key) = PrivateKey::from_openssh(key.reveal()) else {
        return Reply::at(Stage::Request, "the private key does not decode");
    };
    let mut handle = match open(line, progress).await {
        Ok(handle) => handle,
        Err(reply) => return reply,
    };
    let reply = converse(&mut handle, user, key, command, progress).await;
    leave(handle).await;
    reply
}

async fn converse(
    handle: &mut Handle<Pinned>,
    user: &str,
    key: PrivateKey,
    command: &str,
    progress: &Progress,
) -> Reply {
    let methods = match offered(handle, user, progress).await {
        Ok(methods) => methods,
        Err(reply) => return reply,
    };
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), Some(HashAlg::Sha512));
    let reply = match handle.authenticate_publickey(user, key).await {
        Ok(AuthResult::Success) => {
            progress.enter(Stage::Exec);
            run(handle, command, progress).await
        }
        Ok(AuthResult::Failure { partial_success: true, remaining_methods }) => {
            let more = remaining_methods.iter().map(String::from).collect::<Vec<_>>().join(", ");
            Reply::at(Stage::Auth, format!("the key is accepted, but the server asks for more: {more}"))
        }
        Ok(AuthResult::Failure { .. }) => Reply::at(Stage::Auth, REFUSED),
        Err(error) => progress.reply(&error.to_string()),
    };
    Reply { methods, ..reply }
}

/// Runs `command` and takes its output up to the limit.
async fn run(handle: &Handle<Pinned>, command: &str, progress: &Progress) -> Reply {
    let channel = match handle.channel_open_session().await {
        Ok(channel) => channel,
        Err(error) => return progress.reply(&error.to_string()),
    };
    if let Err(error) = channel.exec(true, command).await {
        return progress.reply(&error.to_string());
    }
    let (mut stdout, mut stderr, mut exit) = (Vec::new(), Vec::new(), None);
    let (mut read, _write) = channel.split();
    while let Some(message) = read.wait().await {
        match message {
            ChannelMsg::Data { data } => stdout.extend_from_slice(&data),
            ChannelMsg::ExtendedData { data, .. } => {
                stderr.extend(data.iter().take(STDERR_LIMIT.saturating_sub(stderr.len())));
            }
            ChannelMsg::ExitStatus { exit_status } => exit = Some(exit_status),
            ChannelMsg::Failure => return Reply::at(Stage::Exec, "the server refuses to run a command"),
            ChannelMsg::Close => break,
            _ => {}
        }
        if stdout.len() > STDOUT_LIMIT {
            return Reply::at(Stage::Exec, "the command prints more than 64 KiB");
        }
    }
    let text = match exit {
        Some(0) => String::new(),
        Some(code) => format!("exit code {code}: {}", plain(&String::from_utf8_lossy(&stderr))),
        None => "the connection ended before the command did".to_owned(),
    };
    Reply {
        ok: exit == Some(0),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        exit,
        ..Reply::at(Stage::Exec, text)
    }
}
