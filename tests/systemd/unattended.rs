//! A run without a person at a terminal: detached, or decided by evidence that was accepted beforehand.

use keyward::proof::Door;

use crate::ACCEPT;
use crate::container::{Machine, Mode};
use crate::guard::{self, Pending};
use crate::support::{Done, skipped};

fn blank(test: &str, suite: &str) -> Option<Machine> {
    match Machine::start(suite, Mode::Service) {
        Ok(machine) => Some(machine),
        Err(reason) => {
            skipped(test, &reason);
            None
        }
    }
}

#[test]
fn nobody_there_is_refused() {
    let Some(machine) = blank("nobody_there_is_refused", "bookworm") else { return };
    let done = machine.keyward(&["apply", "--yes", "/root/play/first.yml"]);
    assert_eq!(done.code, 5, "{done:?}");
    // What others have written into the logs is no login.
    let fingerprint = machine.key.public_key().fingerprint(russh::keys::HashAlg::Sha256);
    let forged = format!("Accepted publickey for deploy from 192.0.2.1 port 5 ssh2: ED25519 {fingerprint}");
    machine.sh(&format!("logger -t sshd '{forged}'; echo 'Nov 22 h sshd[1]: {forged}' >/var/log/auth.log")).ok();
    machine.sh("journalctl --sync").ok();
    let done = machine.keyward(&["apply", "--yes", "--accept-evidence", "l2", "/root/play/first.yml"]);
    assert!(done.code == 5 && done.stderr.contains("nobody is known to hold a key"), "{done:?}");
    // A key that counts from elsewhere only is not shown by a proof on this host, whoever holds it.
    let text = machine.key.to_openssh(russh::keys::ssh_key::LineEnding::LF).unwrap();
    machine.put("/root/identity", text.as_bytes(), "600");
    let narrow = "sed 's/- file: deploy.pub/- { file: deploy.pub, from: [ 203.0.113.7 ] }/' /root/play/first.yml >/root/play/from.yml";
    machine.sh(narrow).ok();
    let args = ["apply", "--yes", "--accept-evidence", "l2", "--identity", "/root/identity", "/root/play/from.yml"];
    let done = machine.keyward(&args);
    assert!(done.code == 5 && done.stderr.contains("nobody is known to hold a key"), "{done:?}");
    // A journal that is gone after a reboot undoes nothing.
    machine.sh("mkdir -m 700 -p /var/lib/keyward; mount -t tmpfs -o mode=700 tmpfs /var/lib/keyward").ok();
    let done = machine.keyward(&["apply", "--yes", "--confirm-within", "30s", "/root/play/first.yml"]);
    assert!(done.code == 5 && done.stderr.contains("does not outlive a reboot"), "{done:?}");
    machine.sh("umount /var/lib/keyward").ok();
    assert_eq!(machine.sh("id deploy").code, 1, "nothing was changed");
}

/// A run that decides by itself does not stop half way: who wanted it to reads so.
#[test]
fn an_interrupt_that_comes_too_late_is_told() {
    let Some(machine) = blank("an_interrupt_that_comes_too_late_is_told", "bookworm") else { return };
    let script = format!(
        "cd /root/play; setsid -f keyward apply --yes {ACCEPT} first.yml >/tmp/said 2>&1 </dev/null
         i=0; until grep -q 'closing and taking' /tmp/said || [ $i -gt 600 ]; do i=$((i+1)); sleep 0.02; done
         pkill -INT -o -x keyward; until ! pgrep -x keyward >/dev/null; do sleep 0.1; done; cat /tmp/said; keyward status"
    );
    let said = machine.sh(&script).ok().stdout;
    assert!(said.contains("Ctrl-C came when this run was no more to be stopped"), "{said}");
    assert!(said.contains("applied 8 changes"), "{said}");
}

#[test]
fn a_detached_run_waits_by_itself() {
    let Some(machine) = blank("a_detached_run_waits_by_itself", "trixie") else { return };
    let done = machine.keyward(&["apply", "--yes", "--detach", "--confirm-within", "90s", "/root/play/first.yml"]);
    assert_eq!(done.code, 8, "{done:?}");
    assert!(done.stderr.contains("sudo keyward confirm"), "{done:?}");
    assert_eq!(machine.door(22), Door::Open);
    let pending = Pending { blank: Vec::new(), machine };
    let (confirmed, said) = pending.confirm(2222);
    assert!(confirmed, "{said}");
    pending.until("over", || pending.machine.keyward(&["status"]).code == 0 && !pending.guarded());
    assert_ne!(pending.machine.door(22), Door::Open);
    assert_eq!(pending.machine.sh("ls -A /run/keyward | grep -v '^lock$'").stdout, "", "nothing is left of it");
}

#[test]
fn accepted_evidence_decides_when_a_declared_key_is_held() {
    let Some(machine) = blank("accepted_evidence_decides_when_a_declared_key_is_held", "bookworm") else { return };
    guard::terminal(&machine);
    let text = machine.key.to_openssh(russh::keys::ssh_key::LineEnding::LF).unwrap();
    machine.put("/root/identity", text.as_bytes(), "600");
    // An agent with another key shows nothing; one with the right key would do.
    let agent = |key: &str, words: &str| {
        machine.sh(&format!(
            "eval $(ssh-agent) >/dev/null; ssh-add -q {key}; keyward {words}; code=$?; kill $SSH_AGENT_PID; exit $code"
        ))
    };
    machine.sh("ssh-keygen -q -t ed25519 -N '' -f /root/other").ok();
    let words = "apply --yes --accept-evidence l2 /root/play/first.yml";
    let done = agent("/root/other", words);
    assert!(done.code == 5 && done.stderr.contains("nobody is known to hold a key"), "{done:?}");
    let port = "sed -e 's/port: 2222/port: 2223/' /root/play/first.yml >/root/play/agent.yml";
    machine.sh(port).ok();
    let done = agent("/root/identity", "apply --yes --accept-evidence l2 /root/play/agent.yml");
    assert_eq!(done.code, 0, "{done:?}");
    let read = guard::read(&machine);
    assert!(read.contains("both doors are open"), "nobody confirms, and yet who is logged in is told: {read}");
    assert!(
        done.stdout.split_whitespace().collect::<Vec<_>>().join(" ").contains("ssh-agent signed a challenge"),
        "{done:?}"
    );
    let args = ["apply", "--yes", "--accept-evidence", "l2", "--identity", "/root/identity", "/root/play/first.yml"];
    let done = machine.keyward(&args);
    assert_eq!(done.code, 0, "{done:?}");
    let decided = |done: &Done| done.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(decided(&done).contains("proven at L2, which was accepted; deploy's key"), "{done:?}");
    assert!(decided(&done).contains("signed a challenge"), "{done:?}");
    assert_ne!(machine.door(22), Door::Open);
    assert!(machine.login("deploy", 2222).ok);
    // The login above is in sshd's log, so the next unattended run needs no private key.
    machine.sh("sed -i 's/max_auth_tries: 3/max_auth_tries: 4/' /root/play/first.yml").ok();
    let done = machine.keyward(&["apply", "--yes", "--accept-evidence", "l2", "/root/play/first.yml"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(decided(&done).contains("has logged in before"), "{done:?}");
}
