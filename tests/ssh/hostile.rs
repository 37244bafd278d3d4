//! Servers that mean harm: each is given up in bounded time and memory (threats H2, H3).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyward::target::ssh::Trust;
use keyward::target::talk::Limits;
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Session};
use russh::{Channel, ChannelId, Preferred, kex};

use super::support::finish;
use super::world::{Home, fresh, mute, public};

/// What a connection may cost at most; the test program alone takes about 15 MiB in a debug build.
const PEAK_KIB: u64 = 64 << 10;
/// How long a server may keep us waiting in these tests.
const LIMIT: Duration = Duration::from_millis(1500);

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

fn flood(mut stream: TcpStream, first: &[u8], then: &[u8]) {
    let _ = stream.write_all(first);
    while stream.write_all(then).is_ok() {}
}

/// What this very program, in a process of its own, says of the server.
#[track_caller]
fn verdict(address: SocketAddr, known: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "hostile::one_server_inner", "--ignored", "--nocapture"]);
    command.env("KEYWARD_HOSTILE", address.to_string()).env("KEYWARD_HOSTILE_KEY", known);
    let begun = Instant::now();
    let done = finish(command, b"");
    assert!(begun.elapsed() < LIMIT + Duration::from_secs(4), "took {:?}", begun.elapsed());
    let line =
        done.stdout.lines().find_map(|line| line.split_once("verdict: ")).unwrap_or_else(|| panic!("{done:?}")).1;
    let (peak, text) = line.split_once(' ').unwrap();
    let peak: u64 = peak.parse().unwrap();
    assert!(peak < PEAK_KIB, "held {peak} KiB: {text}");
    text.to_owned()
}

#[test]
#[ignore = "runs inside the others"]
fn one_server_inner() {
    let Ok(address) = std::env::var("KEYWARD_HOSTILE") else { return };
    let home = Home::new();
    let key = std::env::var("KEYWARD_HOSTILE_KEY").unwrap();
    let port = address.rsplit_once(':').unwrap().1;
    if !key.is_empty() {
        home.write("known_hosts", &format!("[127.0.0.1]:{port} {key}\n"), 0o600);
    }
    home.key("id_ed25519", None);
    let opened = home.open(&format!("ssh://root@{address}"), mute, |wishes| {
        wishes.login_limit = LIMIT;
        wishes.trust = Trust::KnownHosts;
    });
    let said = match opened {
        Err(setback) => format!("{:?} | {}", setback.trouble, setback.failure.line()),
        Ok(link) => match link.exec("true", b"", Limits { deadline: LIMIT, ..Limits::default() }) {
            Ok(output) => format!("Ran | {output:?}"),
            Err(failure) => format!("Exec | {}", failure.line()),
        },
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap().split_whitespace().nth(1).unwrap();
    println!("verdict: {peak} {said}");
}

#[test]
fn what_is_no_ssh() {
    let said = verdict(tcp(|mut stream| drop(stream.write_all(b"HTTP/1.1 400 \x1b[31mBad Request\r\n\r\n"))), "");
    assert!(said.starts_with("Reset { before_banner: true }"), "{said}");
    let said = verdict(tcp(|stream| flood(stream, b"", &b"still \x1b[31mthinking\r\n".repeat(512))), "");
    assert!(said.starts_with("NotSsh") && !said.contains('\u{1b}'), "{said}");
    let said = verdict(tcp(|stream| flood(stream, b"SSH-2.0-", &[b'A'; 8192])), "");
    assert!(said.starts_with("NotSsh"), "{said}");
}

#[test]
fn what_hangs_up_or_says_nothing() {
    let said = verdict(tcp(drop), "");
    assert!(said.starts_with("Reset { before_banner: true }") && said.contains("before it says anything"), "{said}");
    let said = verdict(tcp(|mut stream| while stream.read(&mut [0; 512]).is_ok_and(|count| count > 0) {}), "");
    assert!(said.starts_with("Timeout"), "{said}");
    let loris = tcp(|mut stream| {
        for byte in b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u10".iter().cycle() {
            std::thread::sleep(Duration::from_millis(50));
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
        }
    });
    let said = verdict(loris, "");
    assert!(said.starts_with("Timeout"), "{said}");
}

#[test]
fn packets_of_absurd_length() {
    for length in [u32::MAX, 1 << 28, 300_000, 0] {
        let address = tcp(move |stream| {
            let first = [b"SSH-2.0-OpenSSH_9.2p1\r\n".as_slice(), &length.to_be_bytes()].concat();
            flood(stream, &first, &[0x14; 4096]);
        });
        let said = verdict(address, "");
        assert!(
            said.starts_with("NotSsh") || said.starts_with("Flood") || said.starts_with("Reset"),
            "length {length}: {said}"
        );
    }
    // Small messages that mean nothing, without end.
    let ignored = [0, 0, 0, 12, 6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].repeat(256);
    let address = tcp(move |stream| flood(stream, b"SSH-2.0-OpenSSH_9.2p1\r\n", &ignored));
    let said = verdict(address, "");
    assert!(["NotSsh", "Flood", "Reset", "Broken"].iter().any(|word| said.starts_with(word)), "{said}");
}

/// A real SSH server with bad manners.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Manner {
    /// Prints without end.
    Floods,
    /// Lets the command run for ever.
    Hangs,
    /// Ends it well.
    Behaves,
    /// Takes no key.
    Refuses,
    /// Hangs up when a key is offered.
    Leaves,
    /// Does not exchange keys strictly (CVE-2023-48795).
    Cuttable,
}

struct Peer(Manner);

impl server::Handler for Peer {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, _: server::VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        match self.0 {
            Manner::Leaves => Err(russh::Error::Disconnect),
            Manner::Refuses => Ok(Auth::reject()),
            _ => Ok(Auth::Accept),
        }
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
            Manner::Behaves => {
                session.data(id, b"done\n".to_vec())?;
                session.exit_status_request(id, 0)?;
                session.close(id)?;
            }
            _ => {}
        }
        Ok(())
    }
}

fn peer(manner: Manner) -> (SocketAddr, String) {
    let host = fresh();
    let known = public(&host);
    let quick = Duration::from_millis(1);
    let mut preferred = Preferred::DEFAULT;
    if manner == Manner::Cuttable {
        preferred.kex = vec![kex::CURVE25519].into();
    }
    let config = Arc::new(server::Config {
        preferred,
        keys: vec![host],
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
    (address, known)
}

#[test]
fn servers_that_let_us_in() {
    let (address, known) = peer(Manner::Behaves);
    let said = verdict(address, &known);
    assert!(said.starts_with("Ran |"), "the good one, for contrast: {said}");
    let said = verdict(address, "");
    assert!(said.starts_with("HostKeyUnknown"), "{said}");
    let said = verdict(address, &public(&fresh()));
    assert!(said.starts_with("HostKeyChanged"), "{said}");
    let (address, known) = peer(Manner::Floods);
    let said = verdict(address, &known);
    assert!(said.starts_with("Exec |") && said.contains("more than it may"), "{said}");
    let (address, known) = peer(Manner::Hangs);
    let said = verdict(address, &known);
    assert!(said.starts_with("Exec |") && said.contains("no answer in time"), "{said}");
    let (address, known) = peer(Manner::Refuses);
    let said = verdict(address, &known);
    assert!(said.starts_with("Credentials"), "{said}");
    let (address, known) = peer(Manner::Leaves);
    let said = verdict(address, &known);
    assert!(!said.starts_with("Credentials") && !said.starts_with("Ran"), "a lost connection refuses no key: {said}");
    let (address, known) = peer(Manner::Cuttable);
    let said = verdict(address, &known);
    assert!(said.starts_with("NoCommonAlgorithm") && said.contains("CVE-2023-48795"), "{said}");
}
