//! Many hosts at once: real sshd, sudo and ufw in a container each, without systemd, from one shared image. A rollout, a
//! second one, a port move, a failing canary, a failure in the middle of the second wave, and hosts that hang.
//!
//! `cargo test` uses eight; KEYWARD_FAULTS=all uses 300, or KEYWARD_HOSTS. So many want `--release`: 300 copies of a program for
//! debugging (88 MB) do not fit into the memory of a small machine, and every login then waits for its disk.

use std::time::{Duration, Instant};

use russh::keys::ssh_key::LineEnding;

use crate::container::{Machine, Mode, docker};
use crate::far::said;
use crate::support::{Done, KEYWARD, skipped};

/// What root may do without a guard that outlives a reboot, which no container has here.
const APPLY: &str = "apply --yes --without-boot-guard --confirm-within 60s";

struct Many {
    laptop: Machine,
    names: Vec<String>,
    addresses: Vec<String>,
}

impl Drop for Many {
    fn drop(&mut self) {
        for some in self.names.chunks(50) {
            let args: Vec<&str> = ["rm", "-f", "-v"].into_iter().chain(some.iter().map(String::as_str)).collect();
            docker(&args, b"");
        }
    }
}

impl Many {
    fn new(test: &str, count: usize) -> Option<Self> {
        let laptop = match Machine::start("bookworm", Mode::Service) {
            Ok(laptop) => laptop,
            Err(reason) => {
                skipped(test, &reason);
                return None;
            }
        };
        laptop.sh("install -d -m 700 /root/.ssh").ok();
        laptop.put("/root/.ssh/id_ed25519", laptop.key.to_openssh(LineEnding::LF).unwrap().as_bytes(), "600");
        let line = laptop.key.public_key().to_openssh().unwrap();
        let work = format!(
            "mkdir -p -m 755 /run/sshd; install -d -m 700 /root/.ssh; echo '{line}' >/root/.ssh/authorized_keys; \
             exec /usr/sbin/sshd -D"
        );
        let prefix = format!("keyward-many-{}", std::process::id());
        let mut many =
            Self { laptop, names: (0..count).map(|n| format!("{prefix}-{n}")).collect(), addresses: Vec::new() };
        for name in &many.names {
            // Nothing logs there, so a session is found by its descriptors.
            bare(name, &["--cap-add", "SYS_PTRACE"], &work);
        }
        for some in many.names.chunks(50) {
            let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
            let args: Vec<&str> =
                ["inspect", "-f", format].into_iter().chain(some.iter().map(String::as_str)).collect();
            many.addresses.extend(docker(&args, b"").ok().stdout.lines().map(str::to_owned));
        }
        let key =
            docker(&["exec", &many.names[0], "cut", "-d ", "-f1,2", "/etc/ssh/ssh_host_ed25519_key.pub"], b"").ok();
        many.laptop.put("/root/.ssh/known_hosts", format!("* {}", key.stdout).as_bytes(), "600");
        many.inventory("root.ini", "ansible_user=root");
        Some(many)
    }

    fn inventory(&self, name: &str, how: &str) {
        let line = |(index, address): (usize, &String)| format!("h{index:03} ansible_host={address} {how}\n");
        let text: String = self.addresses.iter().enumerate().map(line).collect();
        self.laptop.put(&format!("/root/play/{name}"), text.as_bytes(), "644");
    }

    /// A playbook with sshd at another port.
    fn playbook(&self, name: &str, port: u16) {
        self.laptop.sh(&format!("sed 's/port: 2222/port: {port}/' /root/play/first.yml >/root/play/{name}")).ok();
    }

    fn keyward(&self, words: &str) -> (Done, Duration) {
        let begun = Instant::now();
        let done = self.laptop.sh(&format!("cd /root/play && keyward {words} </dev/null"));
        (done, begun.elapsed())
    }

    /// How many runs a host has in its history.
    fn runs(&self, host: usize, port: u16) -> usize {
        let place = format!("deploy@{}:{port}", self.addresses[host]);
        let (done, _) = self.keyward(&format!("--host {place} history"));
        assert_eq!(done.code, 0, "{}", said(&done));
        done.stdout.matches("(exit ").count()
    }

    fn filter(&self, host: usize, port: u16) {
        let rule = format!("iptables -A OUTPUT -d {} -p tcp --dport {port} -j DROP", self.addresses[host]);
        self.laptop.sh(&rule).ok();
    }
}

/// A container without systemd.
fn bare(name: &str, more: &[&str], work: &str) {
    let mut args = vec!["run", "-d", "--init", "--tmpfs", "/run", "--name", name];
    for capability in ["SYS_ADMIN", "NET_ADMIN", "NET_RAW"] {
        args.extend(["--cap-add", capability]);
    }
    args.extend(["--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"]);
    args.extend(more);
    args.extend(["keyward-lab-bookworm", "/bin/sh", "-c", work]);
    docker(&args, b"").ok();
}

#[test]
fn a_watchdog_is_seen_where_what_it_executes_is_hidden() {
    // The image, and the files of the job.
    let machine = match Machine::start("bookworm", Mode::Service) {
        Ok(machine) => machine,
        Err(reason) => return skipped("a_watchdog_is_seen_where_what_it_executes_is_hidden", &reason),
    };
    let mut many =
        Many { laptop: machine, names: vec![format!("keyward-bare-{}", std::process::id())], addresses: Vec::new() };
    let name = many.names[0].clone();
    bare(&name, &[], "mkdir -p -m 755 /run/sshd; exec /usr/sbin/sshd -D");
    many.addresses.push(String::new());
    let put = |path: &str, bytes: &[u8], mode: &str| {
        docker(&["exec", "-i", &name, "/bin/sh", "-ec", "cat >\"$1\"; chmod \"$2\" \"$1\"", "sh", path, mode], bytes)
            .ok();
    };
    put("/usr/local/bin/keyward", &std::fs::read(KEYWARD).unwrap(), "755");
    for file in ["first.yml", "deploy.pub"] {
        let text = many.laptop.sh(&format!("cat /root/play/{file}")).ok().stdout;
        put(&format!("/root/{file}"), text.as_bytes(), "644");
    }
    let apply = "keyward apply --yes --without-boot-guard --detach --confirm-within 6s /root/first.yml";
    let done = docker(&["exec", &name, "/bin/sh", "-c", apply], b"");
    assert_eq!(done.code, 8, "{}", said(&done));
    let ended = docker(&["exec", &name, "/bin/sh", "-c", "sleep 12; keyward history; id deploy"], b"");
    assert!(ended.stdout.contains("was not confirmed in time") && ended.code != 0, "{}", said(&ended));
}

/// The verdict, without what follows.
#[track_caller]
fn begins(done: &Done, code: i32, words: &str) {
    assert!(done.code == code && done.stdout.starts_with(words), "{words}: {}", said(done));
}

#[test]
fn many_hosts_at_once() {
    let all = std::env::var("KEYWARD_FAULTS").is_ok_and(|value| value == "all");
    let count = std::env::var("KEYWARD_HOSTS").ok().and_then(|text| text.parse().ok());
    let count: usize = count.unwrap_or(if all { 300 } else { 8 });
    let begun = Instant::now();
    let Some(many) = Many::new("many_hosts_at_once", count) else { return };
    println!("{count} hosts stand after {:?}", begun.elapsed());

    let (first, took) = many.keyward(&format!("-i root.ini {APPLY} first.yml"));
    begins(&first, 0, &format!("{count} hosts: {count} as asked\n"));
    println!("rollout: {took:?}");
    many.inventory("deploy.ini", "ansible_user=deploy ansible_port=2222");
    let (second, took) = many.keyward(&format!("-i deploy.ini {APPLY} first.yml"));
    begins(&second, 0, &format!("{count} hosts: {count} unchanged\n"));
    println!("second: {took:?}");
    let (plan, alone) = many.keyward("-i deploy.ini plan first.yml");
    begins(&plan, 0, &format!("{count} hosts: {count} unchanged\n"));
    println!("check: {alone:?}");

    // A canary whose new port stays shut: nobody else is touched.
    many.playbook("moved.yml", 2022);
    many.filter(0, 2022);
    let (canary, took) = many
        .keyward(&format!("-i deploy.ini {APPLY} --confirm-within 10s moved.yml").replace("--confirm-within 60s ", ""));
    begins(
        &canary,
        3,
        &format!("stopped at h000 (rolled back): {count} hosts: 1 rolled back, {} not started", count - 1),
    );
    println!("a failing canary: {took:?}");
    assert_eq!((many.runs(0, 2222), many.runs(1, 2222)), (2, 1));

    // The same in the middle of the second wave; then mended, and gone on with.
    many.laptop.sh("iptables -F OUTPUT").ok();
    let middle = 1.max(count / 20);
    many.filter(middle, 2022);
    let (stopped, took) =
        many.keyward(&format!("-i deploy.ini {APPLY} --waves 1,25%,100% --resume moved.yml").replace("60s", "20s"));
    assert_eq!(stopped.code, 3, "{}", said(&stopped));
    assert!(stopped.stdout.starts_with(&format!("stopped at h{middle:03} (rolled back): ")), "{}", said(&stopped));
    println!("a failure in the second wave: {took:?}: {}", stopped.stdout.lines().next().unwrap_or_default());
    assert_eq!(many.runs(count - 1, 2222), 1, "the third wave was not begun");
    many.laptop.sh("iptables -F OUTPUT").ok();
    let (moved, took) = many.keyward(&format!("-i deploy.ini {APPLY} --resume moved.yml"));
    begins(&moved, 0, &format!("{count} hosts: {count} as asked\n"));
    println!("the port move goes on: {took:?}");
    many.inventory("moved.ini", "ansible_user=deploy ansible_port=2022");
    // Nothing was done twice: a host has a run of the first rollout, one of the second, and those that were undone.
    assert_eq!((many.runs(0, 2022), many.runs(count - 1, 2022)), (3, 2));

    // A tenth hangs.
    for name in many.names.iter().step_by(10) {
        docker(&["pause", name], b"").ok();
    }
    let hung = count.div_ceil(10);
    let (plan, _) = many.keyward("--format json -i moved.ini plan moved.yml");
    for name in many.names.iter().step_by(10) {
        docker(&["unpause", name], b"").ok();
    }
    let honest =
        plan.stdout.lines().filter(|line| line.contains("\"host_ended\"") && line.contains("\"unchanged\"")).count();
    assert_eq!((plan.code, honest), (7, count - hung), "{}", plan.stdout.lines().last().unwrap_or_default());
    println!("{count} hosts in {:?}", begun.elapsed());
}
