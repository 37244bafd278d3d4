//! The dead-man switch on machines with systemd: nobody confirms, the agent is killed, the agent hangs, the machine
//! loses power, somebody cancels, somebody confirms from the old door and from the new one. After each the way in is
//! tried by a real login from outside.

use std::time::{Duration, Instant};

use keyward::proof::{Door, Stage};

use crate::container::{Machine, Mode, docker};
use crate::support::skipped;
use crate::{EXCEPT, same};

/// A guarded apply, running in the machine.
pub struct Pending {
    pub machine: Machine,
    pub blank: Vec<String>,
}

impl Pending {
    /// A blank machine, and an apply that has opened both doors and waits.
    pub fn begin(test: &str, suite: &str, window: &str) -> Option<Self> {
        Self::begin_on(test, window, Machine::start(suite, Mode::Service))
    }

    pub fn begin_on(test: &str, window: &str, machine: Result<Machine, String>) -> Option<Self> {
        let machine = match machine {
            Ok(machine) => machine,
            Err(reason) => {
                skipped(test, &reason);
                return None;
            }
        };
        let except: Vec<&str> = EXCEPT.iter().map(|(path, _)| *path).collect();
        let blank = machine.files(&except, false);
        let pending = Self { machine, blank };
        pending.apply(window);
        assert_eq!(pending.machine.door(22), Door::Open, "the old door is open while a run is pending");
        let reply = pending.machine.login("deploy", 2222);
        assert!(reply.ok, "the new door is open while a run is pending: {reply:?}");
        // Debian's sudo marks the first use; the mark is this test's doing and not the run's.
        pending.machine.sh("rm -f /home/deploy/.sudo_as_admin_successful").ok();
        Some(pending)
    }

    pub fn apply(&self, window: &str) {
        let line = format!(
            "cd /root/play; setsid -f keyward apply --yes --confirm-within {window} first.yml >/tmp/said 2>&1 </dev/null"
        );
        self.machine.sh(&line).ok();
        self.until("both doors open", || {
            let status = self.machine.keyward(&["status"]);
            status.code == 8 && format!("{}{}", status.stdout, status.stderr).contains("the new door is open")
        });
    }

    #[track_caller]
    pub fn until(&self, what: &str, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            let said = || self.machine.sh("cat /tmp/said; keyward status; keyward history").stdout;
            assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {}", said());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The run ended rolled back for this reason, every byte is as it was, and the old door lets in.
    #[track_caller]
    fn rolled_back(&self, reason: &str) {
        self.until("rolled back", || self.machine.keyward(&["status"]).code == 0);
        let history = self.machine.keyward(&["history"]).ok().stdout;
        let history = history.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(history.contains(reason) && history.contains("(exit 3)"), "{history}");
        self.until("the guard has gone", || {
            self.machine.sh("systemctl is-system-running --wait").code == 0 && !self.guarded()
        });
        let except: Vec<&str> = EXCEPT.iter().map(|(path, _)| *path).collect();
        // The container engine writes these anew at each start, systemd the marks of systemd-update-done.service(8).
        let own = |line: &String| {
            !["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/.updated", "/var/.updated"]
                .iter()
                .any(|path| line.ends_with(path) || line.starts_with(path))
        };
        let only = |lines: Vec<String>| lines.into_iter().filter(own).collect::<Vec<_>>();
        same(&only(self.blank.clone()), &only(self.machine.files(&except, false)), "rolled back");
        assert_eq!(self.machine.door(22), Door::Open, "the old door");
        assert_ne!(self.machine.door(2222), Door::Open, "the new door");
        assert!(!self.machine.rules().contains("DROP"), "{}", self.machine.rules());
        // The old door leads to a login, not only to a listener: sshd asks for a method.
        assert_eq!(self.machine.login("root", 22).stage, Stage::Auth);
        assert_eq!(self.machine.keyward(&["log", "verify"]).code, 0);
    }

    /// True while units, the copy of the program or the veth pair are there.
    pub fn guarded(&self) -> bool {
        let found = self
            .machine
            .sh("ls /etc/systemd/system/*/keyward* /etc/systemd/system/keyward* /run/systemd/system/keyward* \
             /var/lib/keyward/guard-* /sys/class/net/keyward0 2>/dev/null; pgrep -x keyward");
        !found.stdout.trim().is_empty()
    }

    pub fn confirm(&self, port: u16) -> (bool, String) {
        let reply = self.machine.run_as("deploy", port, "sudo keyward confirm");
        (reply.exit == Some(0), format!("{}{}", reply.stdout, reply.text))
    }
}

#[test]
fn nobody_confirms() {
    let Some(pending) = Pending::begin("nobody_confirms", "bookworm", "25s") else { return };
    let notice = || pending.machine.sh("cat /run/motd.d/keyward").stdout;
    assert!(notice().contains("is undone at"), "{}", notice());
    // The agent and systemd both watch the deadline; whoever comes first undoes.
    pending.rolled_back("confirm");
    assert!(notice().contains("rolled back") && notice().contains("confirm"), "{}", notice());
}

/// A login to the machine from itself, at a terminal; what is needed for it stands there before the run.
pub fn terminal(machine: &Machine) {
    let login = "ssh-keygen -q -t ed25519 -N '' -f /root/terminal; install -d -m 700 /root/.ssh; \
         cp /root/terminal.pub /root/.ssh/authorized_keys; mkfifo /tmp/typed; \
         setsid -f sh -c 'exec 3<>/tmp/typed; exec ssh -tt -i /root/terminal -o StrictHostKeyChecking=accept-new \
         root@127.0.0.1 \"echo ready; exec cat\" <&3 >/tmp/terminal 2>&1' >/dev/null 2>&1 </dev/null; \
         i=0; until grep -q ready /tmp/terminal || [ $i -gt 100 ]; do i=$((i+1)); sleep 0.1; done; grep ready /tmp/terminal";
    machine.sh(login).ok();
}

/// What was to be read there.
pub fn read(machine: &Machine) -> String {
    machine.sh("tr -s '[:space:]' ' ' </tmp/terminal").stdout
}

/// Who is logged in at a terminal reads of it, too: that the run waits, and that it was taken back.
#[test]
fn the_agent_is_killed() {
    let test = "the_agent_is_killed";
    let machine = Machine::start("bookworm", Mode::Service).inspect(terminal);
    let Some(pending) = Pending::begin_on(test, "25s", machine) else { return };
    let read = || read(&pending.machine);
    assert!(read().contains("changes ways in and is undone at"), "{}", read());
    assert!(read().contains("both doors are open"), "{}", read());
    pending.machine.sh("pkill -KILL -x keyward").ok();
    let status = pending.machine.keyward(&["status"]);
    assert_eq!(status.code, 8, "systemd still holds the deadline");
    assert!(status.stdout.contains("lost the process that carried it out"), "{}", status.stdout);
    pending.rolled_back("the deadline passed without a confirmation");
    assert!(read().contains("was not confirmed and is rolled back"), "{}", read());
}

#[test]
fn the_agent_hangs() {
    let Some(pending) = Pending::begin("the_agent_hangs", "trixie", "25s") else { return };
    pending.machine.sh("pkill -STOP -x keyward").ok();
    pending.rolled_back("the deadline passed without a confirmation");
}

/// systemd 252, 257 and the newest keep a timer over a reload and over an exec of themselves, each by its own code.
#[test]
fn daemon_reloads_do_not_move_the_deadline() {
    let test = "daemon_reloads_do_not_move_the_deadline";
    // Side by side: each waits for its deadline and does nothing else.
    std::thread::scope(|scope| {
        for (suite, version) in [("bookworm", "252"), ("trixie", "257"), ("sid", "2")] {
            scope.spawn(move || {
                let Some(pending) = Pending::begin(test, suite, "25s") else { return };
                let shown = pending.machine.sh("systemctl --version").ok().stdout;
                assert!(shown.starts_with(&format!("systemd {version}")), "{suite}: {shown}");
                pending.machine.sh("pkill -KILL -x keyward").ok();
                let begun = Instant::now();
                while pending.machine.keyward(&["status"]).code == 8 {
                    pending.machine.sh("systemctl daemon-reload; systemctl daemon-reexec").ok();
                    assert!(begun.elapsed() < Duration::from_secs(40), "{suite}: the deadline moved");
                    std::thread::sleep(Duration::from_secs(1));
                }
                pending.rolled_back("the deadline passed without a confirmation");
            });
        }
    });
}

#[test]
fn the_power_is_cut() {
    for suite in ["bookworm", "sid"] {
        let Some(mut pending) = Pending::begin("the_power_is_cut", suite, "300s") else { return };
        docker(&["kill", &pending.machine.name], b"").ok();
        docker(&["start", &pending.machine.name], b"").ok();
        pending.machine.settle().unwrap();
        pending.rolled_back("the machine rebooted before the run was over");
    }
}

/// systemd has read the drop-in of ssh.socket by the time that the undo takes it away.
#[test]
fn the_power_is_cut_where_a_socket_holds_the_port() {
    let test = "the_power_is_cut_where_a_socket_holds_the_port";
    let Some(mut pending) = Pending::begin_on(test, "300s", Machine::start("trixie", Mode::Socket)) else { return };
    docker(&["kill", &pending.machine.name], b"").ok();
    docker(&["start", &pending.machine.name], b"").ok();
    pending.machine.settle().unwrap();
    pending.rolled_back("the machine rebooted before the run was over");
    assert!(pending.machine.sh("cat /run/motd.d/keyward").stdout.contains("the machine rebooted"));
}

/// So many starts that systemd refuses more: the undo lets it start again.
#[test]
fn a_socket_at_its_start_limit_is_undone_all_the_same() {
    let test = "a_socket_at_its_start_limit_is_undone_all_the_same";
    let Some(pending) = Pending::begin_on(test, "300s", Machine::start("trixie", Mode::Socket)) else { return };
    let machine = &pending.machine;
    let limit = "d=/run/systemd/system/ssh.service.d; mkdir -p $d; printf '[Unit]\\nStartLimitIntervalSec=600\\n' >$d/limit.conf; \
         systemctl daemon-reload; for turn in 1 2 3 4 5 6 7 8; do systemctl stop ssh.service; systemctl start ssh.service; done";
    machine.sh(limit);
    assert_eq!(machine.sh("systemctl is-failed ssh.service").stdout.trim(), "failed", "the limit is reached");
    machine.keyward(&["cancel"]).ok();
    pending.rolled_back("was cancelled");
}

#[test]
fn somebody_cancels() {
    let Some(pending) = Pending::begin("somebody_cancels", "bookworm", "300s") else { return };
    pending.machine.keyward(&["cancel"]).ok();
    pending.rolled_back("cancelled");
}

/// The account of a session that goes on is shut; the operator's own ways are as before.
#[test]
fn an_account_in_use_is_shut_and_not_removed() {
    let test = "an_account_in_use_is_shut_and_not_removed";
    let Some(pending) = Pending::begin(test, "bookworm", "300s") else { return };
    let machine = &pending.machine;
    std::thread::scope(|scope| {
        let session = scope.spawn(|| machine.run_as("deploy", 2222, "sleep 8"));
        pending.until("logged in", || machine.sh("pgrep -u deploy sleep").code == 0);
        let cancelled = machine.keyward(&["cancel"]).ok();
        let said = format!("{}{}", cancelled.stdout, cancelled.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("account deploy is shut but still there"), "{said}");
        drop(session.join());
    });
    pending.until("over", || machine.keyward(&["status"]).code == 0 && !pending.guarded());
    let shadow = machine.sh("getent shadow deploy").ok().stdout;
    assert_eq!(shadow.trim().split(':').nth(7), Some("1"), "{shadow}");
    assert!(!machine.sh("id -nG deploy").ok().stdout.contains("sudo"));
    assert!(!machine.login("deploy", 22).ok);
    assert_eq!(machine.login("root", 22).stage, Stage::Auth);
    let history = machine.keyward(&["history"]).ok();
    assert!(history.stdout.contains("userdel deploy"), "{}", history.stdout);
}

#[test]
fn a_killed_run_is_rolled_back_by_hand() {
    let Some(pending) = Pending::begin("a_killed_run_is_rolled_back_by_hand", "bookworm", "300s") else { return };
    pending.machine.sh("pkill -KILL -x keyward").ok();
    let done = pending.machine.keyward(&["rollback", "--yes"]);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    pending.until("the guard has gone", || !pending.guarded());
    let except: Vec<&str> = EXCEPT.iter().map(|(path, _)| *path).collect();
    same(&pending.blank, &pending.machine.files(&except, false), "rolled back");
    assert_eq!(pending.machine.keyward(&["status"]).code, 0, "nothing is pending");
    assert_eq!(pending.machine.door(22), Door::Open);
}

/// The laptop's lid closes while both doors are open; the operator comes back through the new one.
#[test]
fn a_run_whose_terminal_hung_up_can_be_confirmed() {
    let test = "a_run_whose_terminal_hung_up_can_be_confirmed";
    let machine = match Machine::start("bookworm", Mode::Service) {
        Ok(machine) => machine,
        Err(reason) => return skipped(test, &reason),
    };
    let pending = Pending { machine, blank: Vec::new() };
    let line = "cd /root/play; setsid -f script -qec 'keyward apply --yes --confirm-within 120s first.yml' /tmp/said >/dev/null 2>&1 </dev/null";
    pending.machine.sh(line).ok();
    pending.until("both doors open", || {
        let status = pending.machine.keyward(&["status"]);
        status.code == 8 && format!("{}{}", status.stdout, status.stderr).contains("the new door is open")
    });
    pending.machine.sh("pkill -KILL -x script").ok();
    let (confirmed, said) = pending.confirm(2222);
    assert!(confirmed, "{said}");
    pending.until("over", || pending.machine.keyward(&["status"]).code == 0 && !pending.guarded());
    assert_ne!(pending.machine.door(22), Door::Open);
    assert!(pending.machine.login("deploy", 2222).ok);
}

#[test]
fn a_run_whose_agent_is_gone_cannot_be_confirmed() {
    let test = "a_run_whose_agent_is_gone_cannot_be_confirmed";
    let Some(pending) = Pending::begin(test, "bookworm", "25s") else { return };
    pending.machine.sh("pkill -KILL -x keyward").ok();
    let (confirmed, said) = pending.confirm(2222);
    assert!(!confirmed && said.contains("the process that would close the old doors is gone"), "{said}");
    pending.machine.sh("rm -f /home/deploy/.sudo_as_admin_successful").ok();
    pending.rolled_back("the deadline passed without a confirmation");
}

#[test]
fn only_a_new_login_through_the_new_door_confirms() {
    let test = "only_a_new_login_through_the_new_door_confirms";
    // A container hides the descriptors of other accounts' processes even from root; a real machine does not.
    for more in [&[][..], &["--cap-add", "SYS_PTRACE"][..]] {
        let Some(pending) = Pending::begin_on(test, "120s", Machine::start_with("bookworm", Mode::Service, more))
        else {
            return;
        };
        confirm_from_each_door(&pending);
    }
}

fn confirm_from_each_door(pending: &Pending) {
    let machine = &pending.machine;
    let console = machine.keyward(&["confirm"]);
    assert_eq!(console.code, 5, "no SSH login: {}", console.stderr);
    let (confirmed, said) = pending.confirm(22);
    assert!(!confirmed && said.contains("a door that closes"), "{said}");
    assert_eq!(machine.door(22), Door::Open);
    let (confirmed, said) = pending.confirm(2222);
    assert!(confirmed, "{said}");
    pending.until("over", || machine.keyward(&["status"]).code == 0);
    let history = machine.keyward(&["history"]).ok();
    assert!(history.stdout.contains("the host proves it"), "{}", history.stdout);
    assert_ne!(machine.door(22), Door::Open, "the old door");
    assert!(machine.login("deploy", 2222).ok);
    pending.until("the guard has gone", || !pending.guarded());
    assert_ne!(machine.sh("test -e /run/motd.d/keyward").code, 0, "the notice has gone");
    assert_eq!(machine.keyward(&["plan", "/root/play/first.yml"]).code, 0, "converged");
    assert_eq!(machine.keyward(&["confirm"]).code, 5, "nothing is pending any more");
}
