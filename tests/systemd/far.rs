//! A host over SSH, from another machine: the provider's root password first, a proven administrator at the end. The
//! machine that controls is a container of its own, so that its keys, its known_hosts and its firewall are nobody else's.

use std::time::{Duration, Instant};

use keyward::proof::{Door, Stage};
use russh::keys::ssh_key::LineEnding;

use crate::container::{Lan, Machine, Mode};
use crate::support::{Done, skipped};
use crate::{EXCEPT, same};

const PASSWORD: &str = "canary of root's: `1` \\ it's";
const CLOUD_PASSWORD: &str = "canary of cloud: $(2)";

/// A blank host as a provider hands it over, and the machine from which it is controlled.
pub struct Pair {
    pub host: Machine,
    pub laptop: Machine,
}

pub fn said(done: &Done) -> String {
    format!("exit {}\n{}\n{}", done.code, done.stdout, done.stderr)
}

/// Without the line ends of the report.
pub fn words(done: &Done) -> String {
    done.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Pair {
    pub fn new(test: &str, suite: &str) -> Option<Self> {
        Self::of(test, Machine::start(suite, Mode::Service))
    }

    pub fn of(test: &str, host: Result<Machine, String>) -> Option<Self> {
        Self::made(test, host, || Machine::start("bookworm", Mode::Service))
    }

    /// Both in a network in which they keep their addresses.
    pub fn on(test: &str, lan: &Lan) -> Option<Self> {
        Self::made(test, lan.machine("bookworm"), || lan.machine("bookworm"))
    }

    fn made(
        test: &str,
        host: Result<Machine, String>,
        laptop: impl FnOnce() -> Result<Machine, String>,
    ) -> Option<Self> {
        let started = host.and_then(|host| Ok((host, laptop()?)));
        let (mut host, laptop) = match started {
            Ok(pair) => pair,
            Err(reason) => {
                skipped(test, &reason);
                return None;
            }
        };
        host.run(&["chpasswd", "-c", "SHA512"], format!("root:{PASSWORD}\n").as_bytes()).ok();
        host.put(
            "/etc/ssh/sshd_config.d/50-cloud-init.conf",
            b"PermitRootLogin yes\nPasswordAuthentication yes\n",
            "600",
        );
        host.sh("rm -rf /usr/local/bin/keyward /root/play; systemctl reload ssh").ok();
        laptop.sh("install -d -m 700 /root/.ssh").ok();
        laptop.put("/root/.ssh/id_ed25519", laptop.key.to_openssh(LineEnding::LF).unwrap().as_bytes(), "600");
        laptop.put("/root/pw", format!("{PASSWORD}\n").as_bytes(), "600");
        // This test's own logins are by the same key.
        host.key = laptop.key.clone();
        Some(Self { host, laptop })
    }

    pub fn place(&self, user: &str) -> String {
        format!("{user}@{}", self.host.address)
    }

    /// keyward on the laptop, as somebody types it there.
    pub fn keyward(&self, words: &str) -> Done {
        self.laptop.sh(&format!("cd /root/play && keyward {words} </dev/null"))
    }

    /// The first command: a host that is not known, by its password.
    pub fn first(&self, words: &str) -> Done {
        self.keyward(&format!("--host {} --accept-new --password file:/root/pw {words}", self.place("root")))
    }

    /// Like [`Pair::first`], going on by itself; what it says is in /tmp/said.
    pub fn begin(&self, words: &str) {
        let place = self.place("root");
        let line = format!(
            "cd /root/play; setsid -f keyward --format json --host {place} --accept-new --password file:/root/pw {words} \
             >/tmp/said 2>&1 </dev/null"
        );
        self.laptop.sh(&line).ok();
    }

    pub fn heard(&self) -> String {
        self.laptop.sh("grep -v '^{\"event\":\"planned\"' /tmp/said").stdout
    }

    #[track_caller]
    pub fn until(&self, what: &str, limit: u64, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(limit), "{what}: {}", self.heard());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn hears(&self, event: &str, limit: u64) {
        self.until(event, limit, || self.heard().contains(&format!("\"event\":\"{event}\"")));
    }

    /// All files of the host but logs, journals and the program that was sent.
    pub fn files(&self) -> Vec<String> {
        let except: Vec<&str> = EXCEPT.iter().map(|(path, _)| *path).chain(["/var/lib/keyward-agent"]).collect();
        self.host.files(&except, false)
    }

    /// No run is pending on the host, and no guard stands there.
    pub fn is_quiet(&self) -> bool {
        let found = self
            .host
            .sh("ls /etc/systemd/system/*/keyward* /etc/systemd/system/keyward* /run/systemd/system/keyward* \
             /var/lib/keyward/guard-* /sys/class/net/keyward0 2>/dev/null; pgrep -f '[k]eyward-agent'");
        found.stdout.trim().is_empty()
    }

    /// Nothing of the run is left, and root gets in as before.
    #[track_caller]
    pub fn as_before(&self, blank: &[String]) {
        self.until("the host is quiet", 60, || self.is_quiet());
        same(blank, &self.files(), "as before the run");
        assert_eq!(self.host.door(22), Door::Open);
        let plan = self.first("plan first.yml");
        assert_eq!(plan.code, 2, "{}", said(&plan));
    }
}

fn one_command(suite: &str) {
    let Some(pair) = Pair::new(&format!("one_command on {suite}"), suite) else { return };
    let blank = pair.files();
    let unknown = pair.keyward(&format!("--host {} --password file:/root/pw plan first.yml", pair.place("root")));
    assert_eq!(unknown.code, 5, "{}", said(&unknown));
    assert!(unknown.stderr.contains("--accept-new"), "{}", said(&unknown));
    let plan = pair.first("plan first.yml");
    assert_eq!(plan.code, 2, "{}", said(&plan));
    same(&blank, &pair.files(), "a plan changes nothing");

    let apply = pair.first("apply --yes first.yml 2>&1");
    assert_eq!(apply.code, 0, "{suite}: {}", said(&apply));
    let place = format!("deploy@{}:2222", pair.host.address);
    let (before, _) = apply.stdout.split_once("\n  done ").unwrap_or_else(|| panic!("{}", said(&apply)));
    let before = before.split_whitespace().collect::<Vec<_>>().join(" ");
    let run = before.split_once("armed: run ").and_then(|(_, rest)| rest.split(' ').next()).unwrap().to_owned();
    for told in [
        "by this clock unless confirmed: create account deploy".to_owned(),
        format!("keyward --host {} --password file:/root/pw cancel {run}", pair.place("root")),
        format!("keyward --host deploy@{}:2222 confirm {run}", pair.host.address),
    ] {
        assert!(before.contains(&told), "{told}: {}", said(&apply));
    }
    assert_eq!(apply.stdout.matches(&format!("proven   L3 login as {place}")).count(), 2, "{}", said(&apply));
    assert!(words(&apply).contains("the host says: L3: deploy by publickey through port 2222"), "{}", said(&apply));
    assert!(words(&apply).contains(&format!("next: keyward --host {place} show")), "{}", said(&apply));
    let reply = pair.host.login("deploy", 2222);
    assert!(reply.ok && reply.stdout == "deploy\n0\n", "{reply:?}");
    assert_eq!(pair.host.login("root", 2222).stage, Stage::Auth);
    assert_ne!(pair.host.door(22), Door::Open);
    pair.until("the host is quiet", 30, || pair.is_quiet());

    // The same words again: root is out and the port has moved. Nothing is sent, and nothing is written.
    let look = "ls -i --time-style=full-iso -l /var/lib/keyward-agent; find /var/lib/keyward /etc -type f -printf '%p %i %T@\\n' | sort";
    let before = pair.host.sh(look).stdout;
    let again = pair.first("apply --yes first.yml");
    assert_eq!(again.code, 0, "{}", said(&again));
    assert!(
        words(&again).contains(&format!("found at {place}")) && again.stdout.contains("nothing to do"),
        "{}",
        said(&again)
    );
    assert_eq!(before, pair.host.sh(look).stdout);
    let history = pair.keyward(&format!("--host {place} history"));
    assert!(history.code == 0 && words(&history).contains("(exit 0)"), "{}", said(&history));
    // An audit writes nothing there, and its report here.
    let audit = pair.keyward(&format!("--host {place} audit --report junit=/root/audit.xml first.yml"));
    // OpenSSH 8.4 offers SHA-1 by itself.
    let told =
        if suite == "bullseye" { (2, "hostkeyalgorithms: offers ssh-rsa") } else { (0, "A, 100 of 100 points: ") };
    assert!(audit.code == told.0 && audit.stdout.contains(told.1), "{suite}: {}", said(&audit));
    assert_eq!(before, pair.host.sh(look).stdout);
    pair.laptop.sh("grep -q '<testcase classname=\"playbook\"' /root/audit.xml").ok();

    // No sink shows a password.
    let script = "! grep -rlF -e 'canary of root' /var/log /var/lib/keyward /var/lib/keyward-agent /run/keyward /etc 2>/dev/null \
                  && ! journalctl -b --no-pager | grep -F 'canary of root'";
    pair.host.sh(script).ok();
    for done in [&plan, &apply, &again] {
        assert!(!said(done).contains("canary of root"), "{}", said(done));
    }

    // An audit log of years comes whole, also where its chain is broken.
    let years = "cd /var/log/keyward && cp -p audit.jsonl kept && for i in $(seq 2000); do tail -n 2 kept; done >>audit.jsonl \
                 && stat -c %s audit.jsonl";
    let long = pair.host.sh(years).ok().stdout;
    assert!(long.trim().parse::<usize>().unwrap() > 1 << 20, "{long}");
    let export = pair.keyward(&format!("--host {place} log export"));
    let kept = pair.host.sh("cd /var/log/keyward && cat audit.jsonl && mv kept audit.jsonl").ok().stdout;
    assert!(export.stdout == kept && export.code == 7, "{} of {long}: {}", export.stdout.len(), export.stderr);

    // Taken back from here: a person confirms through the door that returns.
    let words = format!(
        "cd /root/play; setsid -f keyward --host {place} rollback --yes --confirm-within 60s >/tmp/said 2>&1 </dev/null"
    );
    pair.laptop.sh(&words).ok();
    pair.until("the old door is back", 60, || {
        let heard = pair.heard().split_whitespace().collect::<Vec<_>>().join(" ");
        heard.contains(&format!("in a second terminal: keyward --host {}:22 confirm", pair.place("root")))
    });
    let confirm = pair.first("confirm");
    assert_eq!(confirm.code, 0, "{}\n{}", said(&confirm), pair.heard());
    pair.until("the rollback has ended", 30, || pair.heard().contains("rolled back run"));
    pair.as_before(&blank);
    let end = pair.first("--leave-nothing status");
    assert_eq!(end.code, 0, "{}", said(&end));
    assert_eq!(pair.host.sh("ls -d /var/lib/keyward-agent").code, 2, "the program stays there");
}

#[test]
fn from_a_password_to_a_proven_administrator() {
    one_command("bookworm");
}

#[test]
fn from_a_password_to_a_proven_administrator_on_an_old_and_a_new_release() {
    one_command("bullseye");
    one_command("trixie");
}

#[test]
fn a_firewall_upstream_keeps_the_new_port_shut() {
    let Some(pair) = Pair::new("a_firewall_upstream_keeps_the_new_port_shut", "bookworm") else { return };
    let blank = pair.files();
    pair.laptop.sh("iptables -A OUTPUT -p tcp --dport 2222 -j DROP").ok();
    let begun = Instant::now();
    let apply = pair.first("apply --yes --confirm-within 60s first.yml");
    assert_eq!(apply.code, 3, "{}", said(&apply));
    assert!(apply.stdout.contains("REFUTED  L3 login as deploy@"), "{}", said(&apply));
    assert!(begun.elapsed() < Duration::from_secs(55), "it gives up before the host does");
    pair.as_before(&blank);
    let history = words(&pair.first("history"));
    assert!(history.contains("was cancelled: the new door does not open from here"), "{history}");
}

#[test]
fn nobody_could_confirm_or_say_yes() {
    let Some(pair) = Pair::new("nobody_could_confirm_or_say_yes", "bookworm") else { return };
    let blank = pair.files();
    let ask = pair.first("apply first.yml");
    assert_eq!(ask.code, 5, "{}", said(&ask));
    assert!(ask.stderr.contains("apply --yes first.yml"), "{}", said(&ask));
    pair.laptop.sh("mv /root/.ssh/id_ed25519 /root/key").ok();
    let apply = pair.first("apply --yes first.yml");
    assert_eq!(apply.code, 5, "{}", said(&apply));
    assert!(
        apply.stderr.contains("nobody could confirm it") && apply.stderr.contains("--login-key"),
        "{}",
        said(&apply)
    );
    // What the host waits for to be answered ends with the connection.
    pair.until("the host is quiet", 30, || pair.is_quiet());
    same(&blank, &pair.files(), "refused before the first change");
    // A key that is named is one that is here.
    let apply = pair.first("apply --yes --login-key /root/key first.yml");
    assert_eq!(apply.code, 0, "{}", said(&apply));
}

#[test]
fn the_controller_is_killed_or_cut_off() {
    let Some(pair) = Pair::new("the_controller_is_killed_or_cut_off", "bookworm") else { return };
    let blank = pair.files();
    // The new port stays shut, so that the run waits.
    pair.laptop.sh("iptables -A OUTPUT -p tcp --dport 2222 -j DROP").ok();
    for (event, strike) in [
        ("armed", "pkill -KILL -x keyward"),
        ("opened", "pkill -KILL -x keyward"),
        ("opened", "iptables -I OUTPUT -p tcp -d HOST -j REJECT --reject-with tcp-reset"),
    ] {
        pair.begin("apply --yes --confirm-within 12s first.yml");
        pair.hears(event, 60);
        pair.laptop.sh(&strike.replace("HOST", &pair.host.address.to_string())).ok();
        pair.until("the host has undone it", 60, || pair.is_quiet());
        if strike.starts_with("iptables") {
            pair.laptop.sh("iptables -D OUTPUT 1").ok();
            // It asks for the end by itself, and says it.
            pair.hears("finished", 90);
            let heard = pair.heard();
            assert!(heard.lines().last().unwrap().contains("\"code\":3"), "{heard}");
        }
        pair.as_before(&blank);
        let history = pair.first("history");
        assert!(words(&history).contains("(exit 3)"), "{}", said(&history));
    }
    // Killed once the decision was sent, the run holds.
    pair.laptop.sh("iptables -F OUTPUT").ok();
    pair.begin("apply --yes --confirm-within 60s first.yml");
    pair.hears("decided", 60);
    pair.laptop.sh("pkill -KILL -x keyward").ok();
    pair.until("the run has ended", 60, || pair.is_quiet());
    let history = pair.keyward(&format!("--host deploy@{}:2222 history", pair.host.address));
    assert!(words(&history).contains("(exit 0)"), "{}", said(&history));
    assert_ne!(pair.host.door(22), Door::Open);
}

#[test]
fn a_host_whose_sshd_logs_nothing() {
    let host = Machine::start_with("bookworm", Mode::Service, &["--cap-add", "SYS_PTRACE"]);
    let Some(pair) = Pair::of("a_host_whose_sshd_logs_nothing", host) else { return };
    pair.host.sh("echo 'LogLevel QUIET' >/etc/ssh/sshd_config.d/10-quiet.conf; systemctl reload ssh").ok();
    let apply = pair.first("apply --yes first.yml");
    assert_eq!(apply.code, 0, "{}", said(&apply));
    assert!(words(&apply).contains("L3: deploy by publickey through port 2222"), "{}", said(&apply));
}

/// The host's own proof comes from no address that is let in; this side does.
#[test]
fn a_host_that_lets_in_from_some_addresses_only() {
    let Some(pair) = Pair::new("a_host_that_lets_in_from_some_addresses_only", "bookworm") else { return };
    let text = pair.laptop.address.to_string();
    let range = format!("{}.0/24", text.rsplit_once('.').unwrap().0);
    let lines = format!("AllowUsers deploy@{range} root@{range}\n");
    pair.host.put("/etc/ssh/sshd_config.d/10-allow.conf", lines.as_bytes(), "600");
    pair.host.sh("systemctl reload ssh").ok();
    let apply = pair.first("apply --yes first.yml");
    assert_eq!(apply.code, 9, "{}", said(&apply));
    let told = words(&apply);
    assert!(
        told.contains("UNKNOWN L2 login as deploy") && told.contains("it is let in from some addresses only"),
        "{told}"
    );
    assert!(told.contains("proven L3 login as deploy@") && told.contains("L3: deploy by publickey"), "{told}");
    assert!(pair.host.login("deploy", 2222).ok);
}

#[test]
fn what_keeps_us_out_is_told_apart() {
    let Some(pair) = Pair::new("what_keeps_us_out_is_told_apart", "trixie") else { return };
    let told = |done: Done, code: i32, words: &str| {
        assert_eq!(done.code, code, "{words}: {}", said(&done));
        assert!(done.stderr.contains(words), "{words}: {}", said(&done));
        assert!(!said(&done).contains("canary of"), "{}", said(&done));
    };
    assert_eq!(pair.first("plan first.yml").code, 2);
    let root = pair.place("root");
    told(
        pair.keyward(&format!("--host {root} --password '{CLOUD_PASSWORD}' plan first.yml")),
        1,
        "never given on a command line",
    );
    told(pair.keyward(&format!("--host {root} --password env:NOT_SET plan first.yml")), 1, "env:NOT_SET");
    told(pair.keyward(&format!("--host {root} plan first.yml")), 7, "none may be asked for");
    told(pair.keyward(&format!("--host {root}:2223 plan first.yml")), 7, "the connection is refused");
    told(
        pair.keyward(&format!("--host {root} --host-key SHA256:{} plan first.yml", "a".repeat(43))),
        5,
        "another key than the pinned one",
    );
    told(pair.keyward(&format!("--host {root} lint first.yml")), 1, "leave --host out");
    told(pair.keyward("--password ask plan first.yml"), 1, "add --host");
    // A cloud account: a key, and a password for sudo.
    pair.host.sh("useradd -m -s /bin/bash -G sudo cloud; install -d -m 700 -o cloud -g cloud /home/cloud/.ssh").ok();
    pair.host.run(&["chpasswd", "-c", "SHA512"], format!("cloud:{CLOUD_PASSWORD}\n").as_bytes()).ok();
    let line = format!("{}\n", pair.laptop.key.public_key().to_openssh().unwrap());
    pair.host.put("/home/cloud/.ssh/authorized_keys", line.as_bytes(), "644");
    let cloud = pair.place("cloud");
    told(pair.keyward(&format!("--host {cloud} plan first.yml")), 5, "sudo asks for a password, and none was given");
    told(
        pair.keyward(&format!("--host {cloud} --sudo-password file:/root/pw plan first.yml")),
        5,
        "sudo does not take the password",
    );
    pair.laptop.put("/root/cloud", format!("{CLOUD_PASSWORD}\n").as_bytes(), "600");
    let plan = pair.keyward(&format!("--host {cloud} --sudo-password 'command:cat /root/cloud' plan first.yml"));
    assert_eq!(plan.code, 2, "{}", said(&plan));
    pair.host.sh("gpasswd -d cloud sudo").ok();
    told(
        pair.keyward(&format!("--host {cloud} --sudo-password file:/root/cloud plan first.yml")),
        5,
        "cannot become root by sudo",
    );
    // Another machine at the same address.
    pair.laptop.sh("ssh-keygen -q -t ed25519 -N '' -f /root/other; sed -i \"s|ssh-ed25519 .*|$(cut -d' ' -f1,2 /root/other.pub)|\" /root/.ssh/known_hosts").ok();
    told(pair.first("plan first.yml"), 5, "the host key has changed");
}
