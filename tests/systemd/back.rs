//! Taking a closed run back on a machine with systemd: guarded and decided like an apply, by a login through the door
//! that was there before.

use keyward::proof::Door;
use russh::keys::ssh_key::LineEnding;

use crate::container::{Machine, Mode};
use crate::guard::Pending;
use crate::{EXCEPT, same};

/// A machine on which root has the test's key, and the reference job was applied and confirmed.
fn hardened(test: &str) -> Option<(Pending, String)> {
    let machine = Machine::start("bookworm", Mode::Service).inspect(|machine| {
        let line = format!("{} ops@laptop\n", machine.key.public_key().to_openssh().unwrap());
        machine.sh("mkdir -p -m 700 /root/.ssh").ok();
        machine.put("/root/.ssh/authorized_keys", line.as_bytes(), "600");
    });
    let pending = Pending::begin_on(test, "120s", machine)?;
    let (confirmed, said) = pending.confirm(2222);
    assert!(confirmed, "{said}");
    pending.until("over", || pending.machine.keyward(&["status"]).code == 0 && !pending.guarded());
    pending.machine.sh("rm -f /home/deploy/.sudo_as_admin_successful").ok();
    let history = pending.machine.keyward(&["history"]).ok().stdout;
    let run = history.split_whitespace().next().unwrap().to_owned();
    Some((pending, run))
}

fn files(machine: &Machine) -> Vec<String> {
    let except: Vec<&str> = EXCEPT.iter().map(|(path, _)| *path).collect();
    machine.files(&except, false)
}

fn roll_back(pending: &Pending, run: &str, window: &str) {
    let line = format!("setsid -f keyward rollback --yes --confirm-within {window} {run} >/tmp/said 2>&1 </dev/null");
    pending.machine.sh(&line).ok();
    pending.until("the old door is open again", || {
        let status = pending.machine.keyward(&["status"]);
        status.code == 8 && format!("{}{}", status.stdout, status.stderr).contains("the new door is open")
    });
    assert_eq!(pending.machine.door(22), Door::Open, "the door of before the run is open first");
    assert!(pending.machine.login("deploy", 2222).ok, "the door in use stays open until the decision");
    pending.machine.sh("rm -f /home/deploy/.sudo_as_admin_successful").ok();
}

#[test]
fn a_closed_run_is_taken_back_by_a_confirmed_run() {
    let Some((pending, run)) = hardened("a_closed_run_is_taken_back_by_a_confirmed_run") else { return };
    let machine = &pending.machine;
    roll_back(&pending, &run, "120s");
    let (confirmed, said) = pending.confirm(2222);
    assert!(!confirmed && said.contains("a door that closes"), "{said}");
    let reply = machine.run_as("deploy", 22, "sudo keyward confirm");
    assert!(reply.stdout.contains("takes away") || reply.text.contains("takes away"), "{reply:?}");
    // The mark of Debian's sudo came only now; it goes with the home.
    assert!(machine.sh("ls /home/deploy/.sudo_as_admin_successful").code == 0);
    let reply = machine.run_as("root", 22, "keyward confirm");
    assert_eq!(reply.exit, Some(0), "{reply:?}");
    pending.until("over", || machine.keyward(&["status"]).code == 0 && !pending.guarded());
    same(&pending.blank, &files(machine), "taken back");
    assert_eq!(machine.door(22), Door::Open);
    assert_ne!(machine.door(2222), Door::Open);
    assert!(!machine.rules().contains("DROP"), "{}", machine.rules());
    let history = machine.keyward(&["history"]).ok().stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(history.contains(&format!("rollback of {run}")), "{history}");
    assert!(history.contains("rolled back by run"), "{history}");
    let again = machine.keyward(&["rollback", "--yes"]);
    assert!(again.code == 1 && again.stderr.contains("no run to roll back"), "{again:?}");
}

/// Its number must not go to the next account while somebody works under it.
#[test]
fn an_account_in_use_is_shut_when_its_run_is_taken_back() {
    let Some((pending, run)) = hardened("an_account_in_use_is_shut_when_its_run_is_taken_back") else { return };
    let machine = &pending.machine;
    machine.put("/root/id", machine.key.to_openssh(LineEnding::LF).unwrap().as_bytes(), "600");
    let session = "setsid -f ssh -i /root/id -p 2222 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
         deploy@127.0.0.1 sleep 120 >/dev/null 2>&1 </dev/null";
    machine.sh(session).ok();
    pending.until("logged in", || machine.sh("pgrep -u deploy sleep").code == 0);
    roll_back(&pending, &run, "120s");
    let reply = machine.run_as("root", 22, "keyward confirm");
    assert_eq!(reply.exit, Some(0), "{reply:?}");
    pending.until("over", || machine.keyward(&["status"]).code == 0 && !pending.guarded());
    let said = machine.sh("tr -s '[:space:]' ' ' </tmp/said").stdout;
    assert!(said.contains("account deploy is shut but still there"), "{said}");
    assert_eq!(machine.sh("pgrep -u deploy sleep").code, 0, "the session goes on");
    let shadow = machine.sh("getent shadow deploy").ok().stdout;
    assert_eq!(shadow.trim().split(':').nth(7), Some("1"), "{shadow}");
    assert!(!machine.sh("id -nG deploy").ok().stdout.contains("sudo"));
    assert_eq!(machine.door(22), Door::Open);
    assert_ne!(machine.door(2222), Door::Open);
    let history = machine.keyward(&["history"]).ok().stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(history.contains("rolled back by run"), "{history}");
}

#[test]
fn a_rollback_that_closes_nothing_is_confirmed_by_whoever_is_left() {
    let test = "a_rollback_that_closes_nothing_is_confirmed_by_whoever_is_left";
    let Some((pending, _)) = hardened(test) else { return };
    let machine = &pending.machine;
    // A socket that systemd holds for another daemon is no door of sshd, and neither is one that only bears the name.
    machine.put("/etc/systemd/system/other.socket", b"[Socket]\nListenStream=7777\nAccept=yes\n", "644");
    machine.put("/etc/systemd/system/other@.service", b"[Service]\nExecStart=/bin/true\n", "644");
    machine.sh("systemctl daemon-reload && systemctl start other.socket").ok();
    machine.sh("sed -i 's/max_auth_tries: 3/max_auth_tries: 4/' /root/play/first.yml").ok();
    let hardened = files(machine);
    pending.apply("60s");
    let (confirmed, said) = pending.confirm(2222);
    assert!(confirmed, "{said}");
    pending.until("over", || machine.keyward(&["status"]).code == 0 && !pending.guarded());
    machine.sh("setsid -f keyward rollback --yes --confirm-within 60s >/tmp/said 2>&1 </dev/null").ok();
    pending.until("it waits", || {
        let status = machine.keyward(&["status"]);
        status.code == 8 && format!("{}{}", status.stdout, status.stderr).contains("the new door is open")
    });
    let (confirmed, said) = pending.confirm(2222);
    assert!(confirmed, "{said}");
    pending.until("over", || machine.keyward(&["status"]).code == 0 && !pending.guarded());
    machine.sh("rm -f /home/deploy/.sudo_as_admin_successful").ok();
    same(&hardened, &files(machine), "taken back");
    assert!(machine.login("deploy", 2222).ok);
}

#[test]
fn a_rollback_that_nobody_confirms_leaves_the_host_hardened() {
    let Some((pending, run)) = hardened("a_rollback_that_nobody_confirms_leaves_the_host_hardened") else { return };
    let machine = &pending.machine;
    let hardened = files(machine);
    roll_back(&pending, &run, "20s");
    machine.sh("pkill -KILL -x keyward").ok();
    pending.until("over", || machine.keyward(&["status"]).code == 0 && !pending.guarded());
    same(&hardened, &files(machine), "the rollback was rolled back");
    assert_ne!(machine.door(22), Door::Open, "the old door is shut again");
    assert!(machine.login("deploy", 2222).ok);
    assert_eq!(machine.keyward(&["plan", "/root/play/first.yml"]).code, 0, "as the playbook says");
}

#[test]
fn an_administrator_who_stays_confirms_and_runs_are_taken_back_newest_first() {
    let test = "an_administrator_who_stays_confirms_and_runs_are_taken_back_newest_first";
    let Some((pending, first)) = hardened(test) else { return };
    let machine = &pending.machine;
    let before = files(machine);
    machine.sh("sed 's/port: 2222/port: 2022/' /root/play/first.yml >/root/play/second.yml").ok();
    let applied = machine.keyward(&["apply", "--yes", crate::ACCEPT, "/root/play/second.yml"]);
    assert!([0, 9].contains(&applied.code), "{applied:?}");
    machine.sh("rm /root/play/second.yml").ok();
    let earlier = machine.keyward(&["rollback", "--yes", "--force", "--confirm-within", "30s", &first]);
    assert!(earlier.code == 5 && earlier.stderr.contains("came after it"), "{earlier:?}");
    assert!(machine.login("deploy", 2022).ok, "the door in use is still open");
    let line = "setsid -f keyward rollback --yes --confirm-within 120s >/tmp/said 2>&1 </dev/null";
    machine.sh(line).ok();
    pending.until("the door of before is open again", || {
        machine.keyward(&["status"]).code == 8 && machine.login("deploy", 2222).ok
    });
    pending.until("it may be confirmed", || pending.confirm(2222).0);
    pending.until("over", || machine.keyward(&["status"]).code == 0 && !pending.guarded());
    machine.sh("rm -f /home/deploy/.sudo_as_admin_successful").ok();
    same(&before, &files(machine), "as after the first run");
    assert_ne!(machine.door(2022), Door::Open);
}

/// Whoever confirms by a key that goes would be out afterwards; the way back is confirmed by the key that returns.
#[test]
fn a_key_that_goes_confirms_neither_the_run_nor_its_way_back() {
    let test = "a_key_that_goes_confirms_neither_the_run_nor_its_way_back";
    let Some((mut pending, _)) = hardened(test) else { return };
    let text = pending.machine.sh("cd /root/play; ssh-keygen -q -t ed25519 -N '' -f other; cat other").ok().stdout;
    let other = russh::keys::PrivateKey::from_openssh(&text).unwrap();
    let swap = "version: 1\nusers:\n  - name: deploy\n    admin: true\n    groups: [ sudo ]\n    password: locked\n    \
                sudo: { nopasswd: true }\n    authorized_keys: [ { file: other.pub } ]\n    exclusive_keys: true\n";
    pending.machine.put("/root/play/swap.yml", swap.as_bytes(), "644");
    let open = |pending: &Pending, words: &str| {
        let line = format!("cd /root/play; setsid -f keyward {words} >/tmp/said 2>&1 </dev/null");
        pending.machine.sh(&line).ok();
        pending.until("both keys count", || {
            let status = pending.machine.keyward(&["status"]);
            status.code == 8 && format!("{}{}", status.stdout, status.stderr).contains("the new door is open")
        });
    };
    open(&pending, "apply --yes --confirm-within 120s swap.yml");
    let said = pending.machine.sh("cat /tmp/said").ok().stdout;
    assert!(said.contains("ssh -p 2222 "), "the port that is open: {said}");
    let (confirmed, said) = pending.confirm(2222);
    assert!(!confirmed && said.contains("a key that the run takes away"), "{said}");
    let first = std::mem::replace(&mut pending.machine.key, other);
    let (confirmed, said) = pending.confirm(2222);
    assert!(confirmed, "{said}");
    pending.until("over", || pending.machine.keyward(&["status"]).code == 0 && !pending.guarded());

    open(&pending, "rollback --yes --confirm-within 120s");
    let (confirmed, said) = pending.confirm(2222);
    assert!(!confirmed && said.contains("a key that the run takes away"), "{said}");
    pending.machine.key = first;
    let (confirmed, said) = pending.confirm(2222);
    assert!(confirmed, "{said}");
    pending.until("over", || pending.machine.keyward(&["status"]).code == 0 && !pending.guarded());
    assert!(pending.machine.login("deploy", 2222).ok);
}
