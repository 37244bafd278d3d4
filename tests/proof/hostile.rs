//! Servers that mean harm: every one is given up in bounded time and memory (threats H2, H3).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyward::proof::{Door, Reply, Request, Stage};
use russh::keys::PrivateKey;
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Session};
use russh::{Channel, ChannelId};

use super::{Outside, fresh_key, line, private, public};

/// What the worker may hold at most, whatever the server does; an idle worker holds about 6 MiB in a debug build.
const PEAK_KIB: u64 = 40 << 10;

/// A TCP server that treats every connection with `talk`.
fn tcp(talk: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let talk = Arc::new(talk);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let talk = Arc::clone(&talk);
            std::thread::spawn(move || talk(stream));
        }
    });
    address
}

/// Asks for a login with a deadline, and checks that the answer comes in time and without much memory.
fn login(address: SocketAddr, host: &PrivateKey, deadline_ms: u64) -> Reply {
    let mut outside = Outside::here();
    let started = Instant::now();
    let reply = outside.one(Request::Login {
        line: line(address, &public(host), deadline_ms),
        user: "deploy".to_owned(),
        private_key: private(&fresh_key()),
        command: "true".to_owned(),
    });
    let limit = Duration::from_millis(deadline_ms + 1500);
    assert!(started.elapsed() < limit, "took {:?}: {reply:?}", started.elapsed());
    assert!(outside.peak_kib() < PEAK_KIB, "held {} KiB", outside.peak_kib());
    assert!(!reply.ok, "{reply:?}");
    reply
}

fn flood(mut stream: TcpStream, first: &[u8], then: &[u8]) {
    let _ = stream.write_all(first);
    while stream.write_all(then).is_ok() {}
}

#[test]
fn a_banner_that_is_not_ssh() {
    let address = tcp(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 \x1b[31mBad Request\r\n\r\n");
    });
    let reply = login(address, &fresh_key(), 3000);
    assert_eq!(reply.stage, Stage::Kex);
    assert!(reply.millis < 1000, "a closed connection needs no deadline: {reply:?}");
}

#[test]
fn lines_without_end_before_the_banner() {
    let address = tcp(|stream| flood(stream, b"", &b"still thinking\r\n".repeat(512)));
    let reply = login(address, &fresh_key(), 3000);
    assert_eq!(reply.stage, Stage::Kex);
    assert!(reply.millis < 2000, "{reply:?}");
}

#[test]
fn a_banner_without_end() {
    let address = tcp(|stream| flood(stream, b"SSH-2.0-", &[b'A'; 8192]));
    let reply = login(address, &fresh_key(), 3000);
    assert_eq!(reply.stage, Stage::Kex);
    assert!(reply.millis < 2000, "{reply:?}");
}

#[test]
fn slow_loris() {
    let address = tcp(|mut stream| {
        for byte in b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u10".iter().cycle() {
            std::thread::sleep(Duration::from_millis(50));
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
        }
    });
    let reply = login(address, &fresh_key(), 1000);
    assert_eq!(reply.stage, Stage::Kex);
    assert!(reply.text.contains("1000 ms"), "{reply:?}");
}

#[test]
fn silence() {
    let address = tcp(|mut stream| while stream.read(&mut [0; 512]).is_ok_and(|count| count > 0) {});
    let reply = login(address, &fresh_key(), 1000);
    assert_eq!(reply.stage, Stage::Kex);
}

#[test]
fn packets_of_absurd_length() {
    for length in [u32::MAX, 0x7fff_ffff, 1 << 28, 300_000, 0, 1] {
        let address = tcp(move |stream| {
            let first = [b"SSH-2.0-OpenSSH_9.2p1\r\n".as_slice(), &length.to_be_bytes()].concat();
            flood(stream, &first, &[0x14; 4096]);
        });
        let reply = login(address, &fresh_key(), 3000);
        assert_eq!(reply.stage, Stage::Kex, "length {length}");
    }
}

#[test]
fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let reply = login(address, &fresh_key(), 1000);
    assert_eq!((reply.stage, reply.doors), (Stage::Connect, vec![Door::Refused]));
}

/// A real SSH server with bad manners.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    /// Lets anybody in by `none`.
    NoneWillDo,
    /// Refuses every key.
    Refuses,
    /// Prints without end.
    Floods,
    /// Lets the command run for ever.
    Hangs,
    /// Ends the command with this code.
    Ends(u32),
}

struct Peer(Manner);

impl server::Handler for Peer {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Auth, Self::Error> {
        Ok(if self.0 == Manner::NoneWillDo { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, _: &str, _: server::VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Ok(if self.0 == Manner::Refuses { Auth::reject() } else { Auth::Accept })
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(&mut self, id: ChannelId, _: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        session.channel_success(id)?;
        match self.0 {
            Manner::Floods => {
                let handle = session.handle();
                tokio::spawn(async move { while handle.data(id, vec![b'x'; 16 << 10]).await.is_ok() {} });
            }
            Manner::Ends(code) => {
                session.data(id, b"done\n".to_vec())?;
                session.exit_status_request(id, code)?;
                session.close(id)?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// A server with these manners and its host key.
fn peer(manner: Manner) -> (SocketAddr, PrivateKey) {
    let host = fresh_key();
    let quick = Duration::from_millis(1);
    let config = Arc::new(server::Config {
        keys: vec![host.clone()],
        auth_rejection_time: quick,
        auth_rejection_time_initial: Some(quick),
        ..server::Config::default()
    });
    let address = tcp(move |stream| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = Arc::clone(&config);
        runtime.block_on(async move {
            stream.set_nonblocking(true).unwrap();
            let stream = tokio::net::TcpStream::from_std(stream).unwrap();
            if let Ok(session) = server::run_stream(config, stream, Peer(manner)).await {
                let _ = session.await;
            }
        });
    });
    (address, host)
}

#[test]
fn another_host_key_is_refused_before_any_authentication() {
    let (address, _) = peer(Manner::Ends(0));
    let reply = login(address, &fresh_key(), 5000);
    assert_eq!(reply.stage, Stage::Hostkey);
    assert!(reply.text.contains("SHA256:"), "{reply:?}");
}

#[test]
fn a_server_that_lets_anybody_in_is_no_login() {
    let (address, host) = peer(Manner::NoneWillDo);
    let reply = login(address, &host, 5000);
    assert_eq!((reply.stage, reply.text.as_str()), (Stage::Auth, "the server lets this user in without any proof"));
}

#[test]
fn a_refused_key_shows_the_methods() {
    let (address, host) = peer(Manner::Refuses);
    let reply = login(address, &host, 5000);
    assert_eq!(reply.stage, Stage::Auth);
    assert!(reply.methods.iter().any(|name| name == "publickey"), "{reply:?}");
}

#[test]
fn output_without_end() {
    let (address, host) = peer(Manner::Floods);
    let reply = login(address, &host, 5000);
    assert_eq!(reply.stage, Stage::Exec);
    assert!(reply.stdout.len() <= 64 << 10 && reply.text.contains("64 KiB"), "{reply:?}");
}

#[test]
fn a_command_without_end() {
    let (address, host) = peer(Manner::Hangs);
    let reply = login(address, &host, 1500);
    assert_eq!(reply.stage, Stage::Exec);
}

#[test]
fn a_command_that_fails() {
    let (address, host) = peer(Manner::Ends(3));
    let reply = login(address, &host, 5000);
    assert_eq!((reply.stage, reply.exit, reply.stdout.as_str()), (Stage::Exec, Some(3), "done\n"));
}

#[test]
fn the_good_server_for_contrast() {
    let (address, host) = peer(Manner::Ends(0));
    let mut outside = Outside::here();
    let reply = outside.one(Request::Login {
        line: line(address, &public(&host), 5000),
        user: "deploy".to_owned(),
        private_key: private(&fresh_key()),
        command: "true".to_owned(),
    });
    assert!(reply.ok, "{reply:?}");
}

#[test]
fn a_worker_that_is_gone_is_an_error_and_not_a_refusal() {
    use keyward::proof::Worker as _;
    let mut outside = Outside::here();
    outside.child.kill().unwrap();
    outside.child.wait().unwrap();
    let ask = Request::Connect { addresses: vec!["127.0.0.1:1".parse().unwrap()], deadline_ms: 100 };
    let failure = outside.pipe.ask(std::slice::from_ref(&ask)).unwrap_err();
    assert_eq!(failure.kind, keyward::error::Kind::Unknown);
    assert!(outside.pipe.ask(std::slice::from_ref(&ask)).is_err());
}

#[test]
fn nonsense_on_the_pipe_is_answered_and_survived() {
    let mut output = Vec::new();
    let input = b"[{\"ask\":\"format disk\"}]\nnot json\n[]\n".as_slice();
    keyward::proof::worker::serve(input, &mut output).unwrap();
    let text = String::from_utf8(output).unwrap();
    assert_eq!(text.lines().count(), 3);
    assert_eq!(text.matches("\"stage\":\"request\"").count(), 2, "{text}");
    assert!(keyward::proof::worker::serve(b"[] and no newline".as_slice(), Vec::new()).is_err());
}
