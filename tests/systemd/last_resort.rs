//! An undo after which sshd does not come back: the sshd of last resort lets in whom the old door let in, until the real
//! one is mended.

use keyward::proof::{Door, Stage};

use crate::container::{Machine, Mode, docker};
use crate::guard::Pending;
use crate::support::skipped;
use crate::{EXCEPT, same};

/// Refuses to start but for the configuration of last resort, as an sshd with a broken library would.
const BROKEN: &str = "#!/bin/sh\n\
    case \" $* \" in *last-resort.conf*) exec /usr/sbin/sshd.real \"$@\" ;; esac\n\
    echo 'sshd: broken by the test' >&2; exit 255\n";

#[test]
fn somebody_gets_in_when_sshd_does_not_come_back() {
    last_resort("somebody_gets_in_when_sshd_does_not_come_back", "bookworm", Mode::Service);
}

/// Behind its socket, which systemd holds open although nobody answers.
#[test]
fn somebody_gets_in_when_sshd_does_not_come_back_behind_its_socket() {
    last_resort("somebody_gets_in_when_sshd_does_not_come_back_behind_its_socket", "trixie", Mode::Socket);
}

/// OpenSSH 8.4 offers passwords by two names.
#[test]
fn the_last_resort_is_no_wider_than_the_door_was() {
    last_resort("the_last_resort_is_no_wider_than_the_door_was", "bullseye", Mode::Service);
}

/// Passwords are off, root's key is where only this configuration looks, and root and deploy alone may come.
const DOOR: &str = "PasswordAuthentication no\nChallengeResponseAuthentication no\n\
    AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/keys/%u\nAllowUsers root deploy\n";

fn last_resort(test: &str, suite: &str, mode: Mode) {
    let machine = Machine::start(suite, mode).inspect(|machine| {
        let line = format!("{} ops@laptop\n", machine.key.public_key().to_openssh().unwrap());
        machine.sh("mkdir -m 755 /etc/ssh/keys; useradd -m -s /bin/bash -p '*' other").ok();
        machine.put("/etc/ssh/keys/root", line.as_bytes(), "644");
        machine.put("/etc/ssh/keys/other", line.as_bytes(), "644");
        machine.put("/etc/ssh/sshd_config.d/10-door.conf", DOOR.as_bytes(), "600");
        machine.sh("systemctl try-reload-or-restart ssh.service").ok();
    });
    let Some(mut pending) = Pending::begin_on(test, "300s", machine) else { return };
    let machine = &pending.machine;
    break_sshd(machine);
    if mode == Mode::Service {
        assert_ne!(machine.door(22), Door::Open, "sshd is gone");
    }

    let cancelled = machine.keyward(&["cancel"]);
    assert_eq!(cancelled.code, 4, "{cancelled:?}");
    let status = machine.keyward(&["status"]);
    assert!(status.code == 4 && status.stdout.contains("keyward acknowledge"), "{status:?}");
    let reply = machine.login("root", 22);
    assert!(reply.stdout.starts_with("root\n"), "root gets in through the old port: {reply:?}");
    let other = machine.login("other", 22);
    assert!(other.stage == Stage::Auth && other.methods == ["publickey"], "no wider than the door was: {other:?}");
    reboot(&mut pending.machine);
    let machine = &pending.machine;
    let reply = machine.login("root", 22);
    assert!(reply.stdout.starts_with("root\n"), "a reboot does not end it: {reply:?}");
    let early = machine.keyward(&["acknowledge"]);
    assert!(early.code == 5 && early.stderr.contains("broken by the test"), "{early:?}");
    assert!(machine.login("root", 22).stdout.starts_with("root\n"), "it stays until sshd is mended");

    machine.sh("mv /usr/sbin/sshd.real /usr/sbin/sshd").ok();
    machine.keyward(&["acknowledge"]).ok();
    assert!(machine.login("root", 22).stdout.starts_with("root\n"), "the real one serves again");
    assert!(!pending.guarded(), "no boot looks any more");
    let unit = if mode == Mode::Socket { "ssh.socket" } else { "ssh.service" };
    assert_eq!(machine.sh(&format!("systemctl is-active {unit}")).stdout.trim(), "active");
    let left = machine
        .sh("systemctl is-active keyward-last-resort; ls /run/keyward/last-resort*; iptables-save | grep keyward");
    assert_eq!(left.stdout.trim(), "inactive", "{left:?}");
    let status = machine.keyward(&["status"]);
    assert!(status.code == 4 && status.stdout.contains("could not be undone whole"), "{status:?}");
    let refused = machine.keyward(&["apply", "--yes", "--confirm-within", "60s", "/root/play/first.yml"]);
    assert!(refused.code == 5 && refused.stderr.contains("keyward acknowledge"), "{refused:?}");
    assert_eq!(machine.keyward(&["uninstall", "--yes"]).code, 5, "its journal is still needed");
    // With sshd mended the rest of the undo goes through as well.
    machine.keyward(&["rollback", "--yes"]).ok();
    assert_eq!(machine.keyward(&["status"]).code, 0);
    machine.keyward(&["uninstall", "--yes"]).ok();
    assert!(machine.login("root", 22).stdout.starts_with("root\n"));
}

fn break_sshd(machine: &Machine) {
    machine.sh("cp -p /usr/sbin/sshd /usr/sbin/sshd.real").ok();
    machine.put("/usr/sbin/sshd.new", BROKEN.as_bytes(), "755");
    machine.sh("mv /usr/sbin/sshd.new /usr/sbin/sshd; systemctl kill -s KILL ssh.service; pkill -KILL sshd; true").ok();
}

/// A power cut. Whether sshd runs is looked at a moment after it should.
fn reboot(machine: &mut Machine) {
    docker(&["kill", &machine.name], b"").ok();
    docker(&["start", &machine.name], b"").ok();
    machine.booted().unwrap();
    let over = "i=0; while systemctl list-units --all --plain --no-legend 'keyward-doors-*' | grep -q . && [ $i -lt 300 ]; \
         do i=$((i+1)); sleep 0.1; done; [ $i -lt 300 ]";
    machine.sh(over).ok();
}

/// The undo of a boot happens before sshd could run.
#[test]
fn somebody_gets_in_after_a_boot_that_brings_no_sshd_up() {
    for (suite, mode) in [("bookworm", Mode::Service), ("trixie", Mode::Socket)] {
        let test = "somebody_gets_in_after_a_boot_that_brings_no_sshd_up";
        let machine = Machine::start(suite, mode).inspect(|machine| {
            let line = format!("{} ops@laptop\n", machine.key.public_key().to_openssh().unwrap());
            machine.sh("mkdir -p -m 700 /root/.ssh").ok();
            machine.put("/root/.ssh/authorized_keys", line.as_bytes(), "600");
        });
        let Some(mut pending) = Pending::begin_on(test, "300s", machine) else { return };
        break_sshd(&pending.machine);
        reboot(&mut pending.machine);
        let machine = &pending.machine;
        let reply = machine.login("root", 22);
        assert!(reply.stdout.starts_with("root\n"), "{suite}: root gets in through the old port: {reply:?}");
        assert_ne!(machine.door(2222), Door::Open, "{suite}: the new door");
        let status = machine.keyward(&["status"]);
        assert!(status.code == 4 && status.stdout.contains("keyward acknowledge"), "{suite}: {status:?}");
        let told = machine.sh("cat /run/motd.d/keyward").stdout;
        assert!(told.contains("did not come back") && told.contains("keyward status"), "{suite}: {told}");

        reboot(&mut pending.machine);
        let machine = &pending.machine;
        assert!(machine.login("root", 22).stdout.starts_with("root\n"), "{suite}: the next boot looks again");
        machine.sh("mv /usr/sbin/sshd.real /usr/sbin/sshd").ok();
        let port = if mode == Mode::Service {
            // As somebody would do whose port 22 was the trouble.
            machine.put("/etc/ssh/sshd_config.d/10-other.conf", b"Port 2200\n", "600");
            2200
        } else {
            22
        };
        machine.keyward(&["acknowledge"]).ok();
        assert!(machine.login("root", port).stdout.starts_with("root\n"), "{suite}: the real one serves again");
        assert_eq!(machine.keyward(&["status"]).code, 0, "{suite}");
        assert!(!pending.guarded(), "{suite}: no boot looks any more");
    }
}

/// Somebody writes nonsense into sshd's configuration after keyward's check of it and before the hangup, of which sshd
/// then dies: Debian's unit does not start it again.
#[test]
fn a_configuration_spoiled_after_the_check_is_undone() {
    let test = "a_configuration_spoiled_after_the_check_is_undone";
    let machine = match Machine::start("bookworm", Mode::Service) {
        Ok(machine) => machine,
        Err(reason) => return skipped(test, &reason),
    };
    let line = format!("{} ops@laptop\n", machine.key.public_key().to_openssh().unwrap());
    machine.sh("mkdir -p -m 700 /root/.ssh").ok();
    machine.put("/root/.ssh/authorized_keys", line.as_bytes(), "600");
    let other = "/etc/ssh/sshd_config.d/50-other.conf";
    machine.put(other, b"# somebody's own\n", "644");
    let except: Vec<&str> = EXCEPT.iter().map(|(path, _)| *path).chain([other]).collect();
    let blank = machine.files(&except, false);
    // The account is made after all checks and before sshd's own change.
    let saboteur = format!("until id -u deploy >/dev/null 2>&1; do :; done; echo Nonsense yes >>{other}");
    machine.sh(&format!("setsid -f sh -c '{saboteur}' >/dev/null 2>&1 </dev/null")).ok();
    let apply = machine.keyward(&["apply", "--yes", "--confirm-within", "60s", "/root/play/first.yml"]);
    let said = format!("{}\n{}", apply.stdout, apply.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(apply.code, 4, "{said}");
    assert!(said.contains("did not come back after the hangup"), "{said}");
    assert!(said.contains("an sshd of last resort listens meanwhile"), "{said}");
    assert_eq!(machine.sh("systemctl is-failed ssh.service").stdout.trim(), "failed", "it died of the hangup");
    let reply = machine.login("root", 22);
    assert!(reply.stdout.starts_with("root\n"), "root gets in through the old port: {reply:?}");
    assert_ne!(machine.door(2222), Door::Open, "the new door");
    let mut left = machine.files(&except, false);
    assert!(left.iter().any(|line| line.contains("keyward-recover-")), "a boot would look again");
    left.retain(|line| !line.contains("keyward-recover-"));
    same(&blank, &left, "only what somebody wrote is left");

    machine.sh(&format!("sed -i /Nonsense/d {other}")).ok();
    machine.keyward(&["acknowledge"]).ok();
    assert_eq!(machine.sh("systemctl is-active ssh.service").stdout.trim(), "active");
    same(&blank, &machine.files(&except, false), "only what somebody wrote is left");
    machine.keyward(&["rollback", "--yes"]).ok();
    assert_eq!(machine.keyward(&["status"]).code, 0);
    assert!(machine.login("root", 22).stdout.starts_with("root\n"), "the real one serves again");
}
