//! Real machines with systemd as process 1, sshd as a service and by its socket: the whole job, judged from outside.
//!
//! Blank -> plan -> apply -> proven by this test's own logins -> a second apply that writes and reloads nothing ->
//! rollback that leaves the machine as it was. Needs root and docker; the images are the trees of `tests/lab`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

mod back;
mod container;
mod far;
mod far_v6;
mod fleet;
mod guard;
mod inside;
mod last_resort;
mod many;
mod poor;
mod scanned;
mod secrets;
mod sessions;
mod strikes;
mod struck;
mod typed;
mod unattended;

use std::time::Instant;

use keyward::proof::{Door, Stage};

use container::{Machine, Mode};
use support::{Done, plain_rules, skipped};

/// The whole job without a person who confirms; the guard has tests of its own.
const ACCEPT: &str = "--i-accept-that-this-host-may-lock-me-out";
/// What a rollback may leave, with the reason.
const EXCEPT: [(&str, &str); 8] = [
    ("/var/lib/keyward", "the journal of the run, until keyward is uninstalled"),
    ("/var/log", "logs of the system, and keyward's audit log"),
    ("/var/lib/systemd", "systemd's own timers"),
    ("/var/tmp", "systemd's private directories"),
    ("/tmp", "systemd's private directories"),
    ("/run", "gone with the next boot"),
    ("/etc/.pwd.lock", "the lock file of the user databases"),
    ("/var/cache", "caches of package tools that run by timer"),
];

/// Fails with the lines that are only in one of the two.
#[track_caller]
fn same(before: &[String], after: &[String], what: &str) {
    let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(gone.is_empty() && new.is_empty(), "{what}: gone {gone:#?}, new {new:#?}");
}

fn the_whole_job(test: &str, suite: &str, mode: Mode) {
    let begun = Instant::now();
    let machine = match Machine::start(suite, mode) {
        Ok(machine) => machine,
        Err(reason) => return skipped(test, &reason),
    };
    let except: Vec<&str> = EXCEPT.iter().map(|(path, _)| *path).collect();
    let (blank, rules) = (machine.files(&except, false), machine.rules());
    let said = |done: &Done| format!("{}\n{}", done.stdout, done.stderr);

    let plan = machine.keyward(&["plan", "/root/play/first.yml"]);
    assert_eq!(plan.code, 2, "{}", said(&plan));
    assert!(plan.stdout.contains("before  port 22: root by key (no key)"), "{}", plan.stdout);
    same(&blank, &machine.files(&except, false), "a plan changes nothing");
    // Whoever holds the socket, systemd or sshd itself.
    let init =
        machine.sh("cd /tmp; keyward init --yes --user ada --output now.yml && grep -w port: now.yml; rm -f now.yml");
    assert!(init.stdout.contains("  port: 22 ") && init.stdout.contains("# as it is now"), "{}", said(&init));

    let apply = machine.keyward(&["apply", "--yes", ACCEPT, "/root/play/first.yml"]);
    // 9: over loopback the firewall's openings cannot be shown.
    if ![0, 9].contains(&apply.code) {
        panic!(
            "exit {}: {}\n{}",
            apply.code,
            said(&apply),
            machine.sh("journalctl -b -u 'ssh*' -o short-precise").stdout
        );
    }
    assert!(said(&apply).contains("login as deploy and sudo, port 2222"), "{}", said(&apply));

    // The machine itself, from outside, with the declared key.
    let reply = machine.login("deploy", 2222);
    assert!(reply.ok && reply.stdout == "deploy\n0\n", "{reply:?}");
    assert_eq!(reply.methods, ["publickey"]);
    assert_eq!(machine.login("root", 2222).stage, Stage::Auth);
    assert_ne!(machine.door(22), Door::Open, "the old port answers");
    assert_eq!(
        (machine.door(80), machine.door(8080)),
        (Door::Refused, Door::Filtered),
        "open and closed by the firewall"
    );

    let (files, activity) = (machine.files(&[], true), machine.activity());
    let moving = |line: &String| {
        ["/proc", "/sys", "/dev", "/run", "/var/log/journal", "/tmp", "/var/tmp", "/var/lib/systemd"]
            .iter()
            .all(|path| !line.split_whitespace().any(|word| word.starts_with(path)))
    };
    let files: Vec<_> = files.into_iter().filter(|line| moving(line)).collect();
    let again = machine.keyward(&["apply", "--yes", ACCEPT, "/root/play/first.yml"]);
    assert_eq!(again.code, 0, "{}", said(&again));
    let after: Vec<_> = machine.files(&[], true).into_iter().filter(|line| moving(line)).collect();
    same(&files, &after, "a second apply writes nothing");
    assert_eq!(activity, machine.activity(), "a second apply reloads nothing");

    // The operator's own sudo (here: this test's login) left its mark in the home.
    machine.sh("rm -f /home/deploy/.sudo_as_admin_successful").ok();
    let back = machine.keyward(&["rollback", "--yes", ACCEPT]);
    assert_eq!(back.code, 0, "{}", said(&back));
    assert!(!said(&back).contains("kept:"), "{}", said(&back));
    same(&blank, &machine.files(&except, false), "rolled back");
    same(&plain_rules(&rules), &plain_rules(&machine.rules()), "the kernel's rules");
    assert_eq!(machine.door(22), Door::Open);
    assert_ne!(machine.door(2222), Door::Open);
    println!("{suite}, {mode:?}: {:?}", begun.elapsed());
}

#[test]
fn bookworm_with_a_service() {
    the_whole_job("bookworm_with_a_service", "bookworm", Mode::Service);
}

#[test]
fn bookworm_with_a_socket() {
    the_whole_job("bookworm_with_a_socket", "bookworm", Mode::Socket);
}

#[test]
fn trixie_with_a_service() {
    the_whole_job("trixie_with_a_service", "trixie", Mode::Service);
}

#[test]
fn trixie_with_a_socket() {
    the_whole_job("trixie_with_a_socket", "trixie", Mode::Socket);
}

#[test]
fn sid_with_a_service_and_with_a_socket() {
    for mode in [Mode::Service, Mode::Socket] {
        the_whole_job("sid_with_a_service_and_with_a_socket", "sid", mode);
    }
}

/// What breaks the way in after the first closing step is found before the second one.
#[test]
fn each_closing_step_is_proven_by_a_login() {
    let machine = match Machine::start("bookworm", Mode::Service) {
        Ok(machine) => machine,
        Err(reason) => return skipped("each_closing_step_is_proven_by_a_login", &reason),
    };
    // sshd takes no keys from a home that others can write (StrictModes).
    let saboteur = "until grep -qs 'PermitRootLogin no' /etc/ssh/sshd_config.d/00-keyward.conf; do :; done; chmod 777 /home/deploy";
    machine.sh(&format!("setsid -f sh -c \"{saboteur}\" >/dev/null 2>&1 </dev/null")).ok();
    let apply = machine.keyward(&["apply", "--yes", ACCEPT, "/root/play/first.yml"]);
    let said = format!("{}\n{}", apply.stdout, apply.stderr);
    assert_eq!(apply.code, 3, "{said}");
    assert!(said.contains("done     refuse root") && said.contains("REFUTED"), "{said}");
    assert!(!said.contains("done     close port 22"), "{said}");
    assert_eq!(machine.door(22), Door::Open);
    assert_eq!(machine.login("root", 22).stage, Stage::Auth);
}
