//! The dead-man switch where systemd is not process 1: a watchdog of keyward's own holds the deadline.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use support::{Bed, difference};

const PLAYBOOK: &str = include_str!("bench/first.yml");

/// A run that has opened both doors and waits.
fn waiting(bed: &Bed, window: &str) -> Child {
    let key = include_str!("laws/ops.pub");
    bed.plant("/root/play/first.yml", PLAYBOOK.as_bytes(), 0o644, (0, 0));
    bed.plant("/root/play/deploy.pub", key.as_bytes(), 0o644, (0, 0));
    let mut command = bed.sandbox.agent().unwrap();
    command.args(["apply", "--yes", "--without-boot-guard", "--confirm-within", window, "/root/play/first.yml"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until(bed, "both doors are open", |bed| {
        let status = bed.keyward(&["status"]);
        status.code == 8 && format!("{}{}", status.stdout, status.stderr).contains("the new door is open")
    });
    child
}

#[track_caller]
fn until(bed: &Bed, what: &str, done: impl Fn(&Bed) -> bool) {
    let begun = Instant::now();
    while !done(bed) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {:?}", bed.keyward(&["status"]));
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn ends_as_before(test: &str, signal: &str) {
    let Some(bed) = Bed::new(test, "bookworm") else { return };
    bed.sh("mkdir /root/play").ok();
    let before = bed.snapshot();
    let mut child = waiting(&bed, "8s");
    assert!(bed.reaches(2222) && bed.reaches(22));
    bed.sh(&format!("pkill -{signal} -f '[a]pply --yes'")).ok();
    until(&bed, "rolled back", |bed| bed.keyward(&["status"]).code == 0);
    until(&bed, "nothing of it runs", |bed| bed.sh("pgrep -f '[g]uard-'").code != 0);
    let history = bed.keyward(&["history"]).ok().stdout;
    assert!(history.contains("the deadline passed without a confirmation"), "{history}");
    bed.sh("rm -r /root/play/*").ok();
    assert_eq!(difference(&before, &bed.snapshot()), "", "{test}");
    assert!(bed.reaches(22) && !bed.reaches(2222));
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn the_watchdog_undoes_what_a_killed_agent_left() {
    ends_as_before("the_watchdog_undoes_what_a_killed_agent_left", "KILL");
}

#[test]
fn the_watchdog_outlives_what_fails_for_a_while() {
    let Some(bed) = Bed::new("the_watchdog_outlives_what_fails_for_a_while", "bookworm") else { return };
    bed.sh("mkdir /root/play").ok();
    let before = bed.snapshot();
    let mut child = waiting(&bed, "8s");
    bed.sh("pkill -KILL -f '[a]pply --yes'").ok();
    // A journal that cannot be read for a moment, as with a failing disk or too many open files.
    let spoil =
        "cd /var/lib/keyward/runs; j=$(echo *.journal); mv $j /run/away; mkdir $j; sleep 2; rmdir $j; mv /run/away $j";
    bed.sh(spoil).ok();
    until(&bed, "rolled back", |bed| bed.keyward(&["status"]).code == 0);
    until(&bed, "nothing of it runs", |bed| bed.sh("pgrep -f '[g]uard-'").code != 0);
    bed.sh("rm -r /root/play/*").ok();
    assert_eq!(difference(&before, &bed.snapshot()), "");
    assert!(bed.reaches(22) && !bed.reaches(2222));
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn the_watchdog_ends_an_agent_that_hangs() {
    ends_as_before("the_watchdog_ends_an_agent_that_hangs", "STOP");
}
