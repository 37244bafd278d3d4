//! The agent is killed, or the machine loses its power, after each change of a real run under systemd's own keeper. After
//! each strike somebody logs in afresh, and all is as before the run, or as applied. A sample by default; every change
//! with KEYWARD_FAULTS=all.

use std::time::Instant;

use keyward::proof::{Door, Stage};

use crate::container::{Machine, Mode, docker};
use crate::guard::Pending;
use crate::support::skipped;
use crate::{EXCEPT, same};

/// Changes of the reference job: five that open, three that close.
const CHANGES: usize = 8;
/// Of those, how many open.
const OPENING: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// SIGKILL of every process of the agent.
    Kill,
    /// The machine stops without a word, and boots again.
    Power,
}

/// Strikes after this change, and shows who gets in afterwards.
fn strike(pending: &mut Pending, blow: Blow, after: usize) {
    let what = format!("{blow:?} after change {after}");
    let machine = &pending.machine;
    // The shell that watches is as near to the change as can be.
    let blow_words = match blow {
        Blow::Kill => "pkill -KILL -x keyward; touch /tmp/now",
        Blow::Power => "touch /tmp/now",
    };
    let watch = format!(
        "rm -f /tmp/said /tmp/now; cd /root/play; setsid -f keyward --format json apply --yes --confirm-within 14s first.yml \
         >/tmp/said 2>&1 </dev/null; setsid -f sh -c 'until [ \"$(grep -c event.:.changed /tmp/said)\" -ge {after} ]; do :; done; {blow_words}' \
         >/dev/null 2>&1 </dev/null"
    );
    machine.sh(&watch).ok();
    if after > OPENING {
        pending.until("both doors open", || machine.sh("grep -q event.:.opened /tmp/said").code == 0);
        // The login stays until the run is over, or its machine is gone.
        let (request, key) = (machine.line(2222), machine.key.clone());
        std::thread::spawn(move || Machine::confirm(request, &key));
    }
    // A run that has not begun yet looks like one that is over.
    pending.until(&what, || machine.sh("test -e /tmp/now").code == 0);
    if blow == Blow::Power {
        docker(&["kill", &machine.name], b"").ok();
        docker(&["start", &machine.name], b"").ok();
        pending.machine.settle().unwrap();
    }
    let machine = &pending.machine;
    let over = || [0, 4].contains(&machine.keyward(&["status"]).code) && !pending.guarded();
    pending.until(&what, over);
    let history = machine.keyward(&["history"]).ok().stdout;
    let last = history.lines().rev().find(|line| line.contains("(exit ")).unwrap_or_default().to_owned();
    if last.contains("(exit 3)") {
        // The container engine writes some files anew at each start.
        let own = |line: &String| {
            let marks = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/.updated", "/var/.updated"];
            !marks.iter().any(|path| line.ends_with(path) || line.starts_with(path))
        };
        let only = |lines: Vec<String>| lines.into_iter().filter(own).collect::<Vec<_>>();
        let except: Vec<&str> = EXCEPT.iter().map(|(path, _)| *path).collect();
        same(&only(pending.blank.clone()), &only(machine.files(&except, false)), &what);
        assert_eq!(machine.login("root", 22).stage, Stage::Auth, "{what}: the old door");
    } else {
        assert!(last.contains("(exit 0)"), "{what}: {history}");
        assert!(machine.login("deploy", 2222).ok, "{what}: the new door");
        assert_ne!(machine.door(22), Door::Open, "{what}");
        machine.sh("echo y | keyward rollback --yes --i-accept-that-this-host-may-lock-me-out").ok();
    }
    println!("{what}: {last}");
}

#[test]
fn struck_after_a_change_somebody_gets_in() {
    let begun = Instant::now();
    let machine = match Machine::start("bookworm", Mode::Service) {
        Ok(machine) => machine,
        Err(reason) => return skipped("struck_after_a_change_somebody_gets_in", &reason),
    };
    let except: Vec<&str> = EXCEPT.iter().map(|(path, _)| *path).collect();
    let blank = machine.files(&except, false);
    let mut pending = Pending { machine, blank };
    let all = std::env::var("KEYWARD_FAULTS").as_deref() == Ok("all");
    let mut strikes = 0;
    for after in (1..=CHANGES).filter(|after| all || [4, 6].contains(after)) {
        for blow in [Blow::Kill, Blow::Power].into_iter().filter(|blow| all || (*blow == Blow::Kill) == (after == 4)) {
            strike(&mut pending, blow, after);
            strikes += 1;
        }
    }
    // Whoever was locked out has failed the test by now.
    println!("{strikes} strikes under systemd, somebody got in after each, {:?}", begun.elapsed());
    assert!(strikes >= 2);
}
