//! Many hosts: an inventory, a canary, waves, a stop, a controller that dies and another one that goes on.

use keyward::proof::Door;
use russh::keys::ssh_key::LineEnding;

use crate::container::{Machine, Mode};
use crate::far::said;
use crate::support::{Done, skipped};

/// The machine that controls, and its hosts; all let root in by the same key.
struct Fleet {
    laptop: Machine,
    hosts: Vec<Machine>,
}

impl Fleet {
    fn new(test: &str, count: usize) -> Option<Self> {
        let started: Result<Vec<Machine>, String> =
            (0..=count).map(|_| Machine::start("bookworm", Mode::Service)).collect();
        let mut hosts = match started {
            Ok(machines) => machines,
            Err(reason) => {
                skipped(test, &reason);
                return None;
            }
        };
        let laptop = hosts.pop().unwrap();
        laptop.sh("install -d -m 700 /root/.ssh").ok();
        laptop.put("/root/.ssh/id_ed25519", laptop.key.to_openssh(LineEnding::LF).unwrap().as_bytes(), "600");
        let line = format!("{}\n", laptop.key.public_key().to_openssh().unwrap());
        let (mut known, mut inventory) = (String::new(), "[web]\n".to_owned());
        for (index, host) in hosts.iter_mut().enumerate() {
            host.key = laptop.key.clone();
            host.sh("rm -rf /usr/local/bin/keyward /root/play; install -d -m 700 /root/.ssh").ok();
            host.put("/root/.ssh/authorized_keys", line.as_bytes(), "600");
            let key = host.sh("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").ok().stdout;
            known.push_str(&format!("{0} {1}[{0}]:2222 {1}", host.address, key));
            inventory.push_str(&format!("web{} ansible_host={} ansible_user=root\n", index + 1, host.address));
        }
        laptop.put("/root/.ssh/known_hosts", known.as_bytes(), "600");
        laptop.put("/root/play/hosts.ini", inventory.as_bytes(), "644");
        Some(Self { laptop, hosts })
    }

    /// keyward over the inventory, as somebody types it.
    fn keyward(&self, words: &str) -> Done {
        self.laptop.sh(&format!("cd /root/play && keyward -i hosts.ini {words} </dev/null"))
    }

    /// Each host lets deploy in at the new port and nobody at the old one.
    #[track_caller]
    fn all_moved(&self) {
        for host in &self.hosts {
            assert_eq!(host.login("deploy", 2222).stdout, "deploy\n0\n", "{}", host.name);
            assert_ne!(host.door(22), Door::Open, "{}", host.name);
        }
    }

    /// Nothing of keyward's own has changed the host.
    fn is_untouched(host: &Machine) -> bool {
        host.sh("ls -d /var/lib/keyward /var/lib/keyward-agent /home/deploy 2>/dev/null").stdout.is_empty()
            && host.door(22) == Door::Open
    }

    /// How many runs of a host stand.
    fn standing(&self, host: usize) -> usize {
        let place = format!("deploy@{}:2222", self.hosts[host].address);
        let history = self.laptop.sh(&format!("keyward --host {place} history </dev/null"));
        history.stdout.matches("(exit 0)").count()
    }
}

#[test]
fn a_rollout_begins_with_its_canary_and_is_proven_everywhere() {
    let Some(fleet) = Fleet::new("a_rollout_begins_with_its_canary", 3) else { return };
    let plan = fleet.keyward("plan first.yml");
    assert_eq!(plan.code, 2, "{}", said(&plan));
    assert!(plan.stdout.starts_with("3 hosts: web1, web2, web3\n"), "one plan for all: {}", said(&plan));
    assert!(plan.stdout.contains("3 hosts: 3 differ from the playbook"), "{}", said(&plan));
    let unsaid = fleet.keyward("apply first.yml");
    assert!(unsaid.code == 5 && unsaid.stderr.contains("needs a yes"), "{}", said(&unsaid));

    let apply = fleet.keyward("--format json apply --yes first.yml");
    assert_eq!(apply.code, 0, "{}", said(&apply));
    let first_end = apply.stdout.lines().position(|line| line.starts_with("{\"event\":\"host_ended\""));
    let second = apply.stdout.lines().position(|line| line.contains("\"host\":\"web2\""));
    assert!(first_end.is_some() && first_end < second, "the canary is over first: {}", said(&apply));
    fleet.all_moved();

    let again = fleet.keyward("apply --yes first.yml");
    assert_eq!(again.code, 0, "{}", said(&again));
    assert!(again.stdout.starts_with("3 hosts: 3 unchanged\n"), "{}", said(&again));
    let some = fleet.keyward("--limit 'web*,!web2' plan first.yml");
    assert!(some.code == 0 && some.stdout.starts_with("2 hosts: 2 unchanged\n"), "{}", said(&some));
    for host in 0..3 {
        assert_eq!(fleet.standing(host), 1);
    }
    back(&fleet);
}

/// The whole rollout is taken back: nobody here can prove somebody's key, so a person confirms, on all of them at once.
fn back(fleet: &Fleet) {
    // They are elsewhere by now.
    let moved = "cd /root/play; sed 's/ansible_user=root/ansible_user=deploy ansible_port=2222/' hosts.ini >moved.ini";
    fleet.laptop.sh(moved).ok();
    let back = |words: &str| fleet.laptop.sh(&format!("cd /root/play && keyward -i moved.ini {words} </dev/null"));
    let alone = back("rollback --yes");
    assert!(alone.code == 5 && alone.stdout.starts_with("stopped at web1 (refused): "), "{}", said(&alone));
    let begin = "cd /root/play; setsid -f sh -c 'keyward -i moved.ini rollback --yes --confirm-within 60s >/tmp/back 2>&1; \
                 echo code $? >>/tmp/back' </dev/null";
    fleet.laptop.sh(begin).ok();
    let confirm = "cd /root/play; i=0; until grep -q '^code' /tmp/back || [ $i -gt 60 ]; do i=$((i+1)); \
                   keyward -i hosts.ini confirm >/tmp/confirm 2>&1 </dev/null; sleep 1; done; cat /tmp/back /tmp/confirm";
    let done = fleet.laptop.sh(confirm);
    assert!(done.stdout.contains("code 0") && done.stdout.contains("3 hosts: 3 as asked"), "{}", said(&done));
    for host in &fleet.hosts {
        assert_eq!(host.door(22), Door::Open);
        assert_ne!(host.door(2222), Door::Open);
        assert!(host.sh("id deploy").code != 0, "{}", host.name);
    }
}

#[test]
fn a_failing_canary_stops_and_the_rollout_goes_on_once_it_is_mended() {
    let Some(fleet) = Fleet::new("a_failing_canary_stops", 3) else { return };
    // A provider's firewall before the canary.
    let filter = format!("iptables -A OUTPUT -d {} -p tcp --dport 2222 -j DROP", fleet.hosts[0].address);
    fleet.laptop.sh(&filter).ok();
    let apply = fleet.keyward("apply --yes --confirm-within 10s first.yml");
    assert_eq!(apply.code, 3, "{}", said(&apply));
    assert!(apply.stdout.starts_with("stopped at web1 (rolled back): 3 hosts: "), "{}", said(&apply));
    assert!(apply.stdout.contains("first.yml --resume"), "{}", said(&apply));
    assert!(fleet.hosts[1..].iter().all(Fleet::is_untouched), "no second host was touched");
    assert_eq!(fleet.hosts[0].door(22), Door::Open);

    let anew = fleet.keyward("apply --yes first.yml");
    assert!(anew.code == 5 && anew.stderr.contains("--resume"), "{}", said(&anew));
    fleet.laptop.sh("iptables -F OUTPUT").ok();
    let resumed = fleet.keyward("apply --resume --yes first.yml");
    assert_eq!(resumed.code, 0, "{}", said(&resumed));
    assert!(resumed.stdout.starts_with("3 hosts: 3 as asked\n"), "{}", said(&resumed));
    fleet.all_moved();
    let none = fleet.keyward("apply --resume --yes first.yml");
    assert!(none.code == 5 && none.stderr.contains("was cut off"), "{}", said(&none));
}

/// Where the controller dies: at an event of a host.
const STRIKES: [(&str, &str); 1] = [("web2", "armed")];

/// Events of an apply, in their order.
const EVENTS: [&str; 9] = ["planned", "gate", "started", "armed", "stage", "changed", "opened", "proof", "decided"];

#[test]
fn a_controller_that_died_is_followed_by_one_that_does_nothing_twice() {
    let all = std::env::var("KEYWARD_FAULTS").is_ok_and(|value| value == "all");
    let every = ["web1", "web2", "web3"].into_iter().flat_map(|host| EVENTS.map(|event| (host, event)));
    let strikes: Vec<(&str, &str)> = if all { every.collect() } else { STRIKES.to_vec() };
    for (host, event) in strikes {
        let Some(fleet) = Fleet::new("a_controller_that_died", 3) else { return };
        let begin = "cd /root/play; setsid -f keyward -i hosts.ini --format json apply --yes --confirm-within 20s first.yml \
                     >/tmp/said 2>&1 </dev/null";
        fleet.laptop.sh(begin).ok();
        let kill = format!(
            "i=0; until grep -q '\"host\":\"{host}\".*\"event\":\"{event}\"' /tmp/said || ! pgrep -x keyward >/dev/null || \
             [ $i -gt 3000 ]; do i=$((i+1)); sleep 0.02; done; pkill -KILL -x keyward; tail -n 5 /tmp/said"
        );
        let heard = fleet.laptop.sh(&kill);
        let resumed = fleet.keyward("apply --resume --yes first.yml");
        let told = format!("{host} {event}: {} {}", heard.stdout, said(&resumed));
        if heard.stdout.contains("{\"event\":\"finished\"") {
            // The event came so late that the first one had ended.
            assert!(all && resumed.code == 5 && resumed.stderr.contains("was cut off"), "{told}");
        } else {
            // A host that had decided goes on by itself: the second controller then finds it done.
            let all = ["3 as asked", "2 as asked, 1 unchanged", "1 as asked, 2 unchanged", "3 unchanged"];
            let verdict = resumed.stdout.lines().next().unwrap_or_default();
            assert!(resumed.code == 0 && all.iter().any(|all| verdict == format!("3 hosts: {all}")), "{told}");
        }
        fleet.all_moved();
        for host in 0..3 {
            assert_eq!(fleet.standing(host), 1, "{told}");
        }
        println!("{host} {event}: {}", resumed.stdout.lines().next().unwrap_or_default());
    }
}

#[test]
fn a_host_that_is_down_stops_a_rollout_unless_it_may_fail() {
    let Some(fleet) = Fleet::new("a_host_that_is_down", 3) else { return };
    fleet.hosts[1].sh("systemctl stop ssh").ok();
    let apply = fleet.keyward("apply --yes first.yml");
    assert_eq!(apply.code, 7, "{}", said(&apply));
    assert!(apply.stdout.starts_with("stopped at web2 (not reached): 3 hosts: "), "{}", said(&apply));
    let borne = fleet.keyward("apply --anew --yes --max-fail 1 first.yml");
    assert_eq!(borne.code, 7, "{}", said(&borne));
    assert!(borne.stdout.contains("1 not reached"), "{}", said(&borne));
    for host in [0, 2] {
        assert_eq!(fleet.hosts[host].login("deploy", 2222).stdout, "deploy\n0\n", "{}", said(&borne));
    }
    fleet.hosts[1].sh("systemctl start ssh").ok();
    held_to_what_was_seen(&fleet);
}

/// A host that changes while the question waits is not what was agreed to.
fn held_to_what_was_seen(fleet: &Fleet) {
    let asked = "cd /root/play; rm -f /tmp/go; (i=0; until [ -e /tmp/go ] || [ $i -gt 600 ]; do i=$((i+1)); sleep 0.1; done; \
                 echo yes; sleep 30) | setsid -f script -qefc 'keyward -i hosts.ini --anew apply first.yml' /tmp/asked >/dev/null 2>&1";
    fleet.laptop.sh(&format!("({asked}) >/dev/null 2>&1 &")).ok();
    let until = |what: &str| {
        let wait = format!("i=0; until grep -q '{what}' /tmp/asked || [ $i -gt 600 ]; do i=$((i+1)); sleep 0.1; done");
        fleet.laptop.sh(&wait).ok();
    };
    until("Type yes");
    fleet.hosts[1].sh("useradd -m deploy").ok();
    fleet.laptop.sh("touch /tmp/go").ok();
    until("logs: ");
    let told = fleet.laptop.sh("cat /tmp/asked").ok().stdout;
    assert!(told.contains("Apply to 1 host, canary web1 first?"), "{told}");
    assert!(told.contains("the host's plan is not the one that was agreed to"), "{told}");
    assert!(fleet.hosts[1].door(22) == Door::Open && fleet.hosts[1].door(2222) != Door::Open, "{told}");
}

#[test]
fn a_pause_holds_a_rollout_until_it_is_over() {
    let Some(fleet) = Fleet::new("a_pause_holds_a_rollout", 2) else { return };
    let begin =
        "cd /root/play; setsid -f keyward -i hosts.ini --format json apply --yes first.yml >/tmp/said 2>&1 </dev/null";
    fleet.laptop.sh(begin).ok();
    let until = |what: &str| {
        let wait = format!(
            "i=0; until grep -q '{what}' /tmp/said || [ $i -gt 1200 ]; do i=$((i+1)); sleep 0.05; done; cat /tmp/said"
        );
        fleet.laptop.sh(&wait).ok().stdout
    };
    until("\"host\":\"web1\".*\"event\":\"planned\"");
    fleet.laptop.sh("pkill -USR1 -x keyward").ok();
    until("\"event\":\"host_ended\",\"host\":\"web1\"");
    std::thread::sleep(std::time::Duration::from_secs(3));
    let look = "cat /tmp/said; grep -c '\"record\":\"paused\"' /root/.local/state/keyward/rollouts/*/store.jsonl";
    let paused = fleet.laptop.sh(look).stdout;
    assert!(!paused.contains("\"web2\"") && !paused.contains("finished") && paused.ends_with("1\n"), "{paused}");
    assert!(Fleet::is_untouched(&fleet.hosts[1]));
    fleet.laptop.sh("pkill -USR2 -x keyward").ok();
    let told = until("{\"event\":\"finished\"");
    assert!(told.lines().last().is_some_and(|end| end.contains("\"exit\":\"as_asked\"")), "{told}");
    fleet.all_moved();
}
