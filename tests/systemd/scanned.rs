//! A port on the Internet is never quiet: somebody connects to it at every moment, and where systemd holds the port
//! each connection starts the daemon, also in the middle of a change of the port.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use keyward::proof::Door;

use crate::container::{Machine, Mode};
use crate::support::skipped;
use crate::{ACCEPT, EXCEPT, same};

/// Connects to both ports all the time, says nothing and goes; counts what was answered. Not so often that sshd has no
/// time for anybody else: within its queue everybody would be lost.
fn scan(machine: &Machine, over: &AtomicBool, met: &AtomicUsize) {
    let patience = Duration::from_millis(20);
    while !over.load(Ordering::Relaxed) {
        for port in [22, 2222] {
            if TcpStream::connect_timeout(&SocketAddr::new(machine.address, port), patience).is_ok() {
                met.fetch_add(1, Ordering::Relaxed);
            }
        }
        std::thread::sleep(Duration::from_millis(40));
    }
}

fn moved_and_back(test: &str, suite: &str, mode: Mode) {
    let machine = match Machine::start(suite, mode) {
        Ok(machine) => machine,
        Err(reason) => return skipped(test, &reason),
    };
    let except: Vec<&str> = EXCEPT.iter().map(|(path, _)| *path).collect();
    let blank = machine.files(&except, false);
    let (over, met) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (apply, back) = std::thread::scope(|scope| {
        scope.spawn(|| scan(&machine, &over, &met));
        let apply = machine.keyward(&["apply", "--yes", ACCEPT, "/root/play/first.yml"]);
        let back = machine.keyward(&["rollback", "--yes", ACCEPT]);
        over.store(true, Ordering::Relaxed);
        (apply, back)
    });
    assert!(met.load(Ordering::Relaxed) > 20, "somebody was there: {met:?}");
    // 9: over loopback the firewall's openings cannot be shown.
    let units = || machine.sh("journalctl -b -u 'ssh*' -o short-precise --no-pager | grep -v sshd").stdout;
    assert!([0, 9].contains(&apply.code), "exit {}: {}\n{}\n{}", apply.code, apply.stdout, apply.stderr, units());
    assert_eq!(back.code, 0, "{}\n{}\n{}", back.stdout, back.stderr, units());
    same(&blank, &machine.files(&except, false), "rolled back");
    assert_eq!(machine.door(22), Door::Open);
    assert_ne!(machine.door(2222), Door::Open);
}

#[test]
fn a_scanned_socket_moves_and_comes_back() {
    moved_and_back("a_scanned_socket_moves_and_comes_back", "trixie", Mode::Socket);
}

#[test]
fn a_scanned_socket_moves_and_comes_back_on_bookworm() {
    moved_and_back("a_scanned_socket_moves_and_comes_back_on_bookworm", "bookworm", Mode::Socket);
}

/// Each reload shuts the listeners and opens them again.
#[test]
fn a_scanned_service_moves_and_comes_back() {
    for suite in ["bullseye", "bookworm", "trixie"] {
        moved_and_back("a_scanned_service_moves_and_comes_back", suite, Mode::Service);
    }
}
