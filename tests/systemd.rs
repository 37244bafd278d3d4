//! Real machines with systemd as process 1, sshd as a service and by its socket: the whole job, judged from outside.
//!
//! Blank -> plan -> apply -> proven by this test's own logins -> a second apply that writes and reloads nothing ->
//! rollback that leaves the machine as it was. Needs root and docker; the images are the trees of `tests/lab`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Instant;

use keyward::proof::{Door, Line, PipeWorker, PrivateHalf, Reply, Request, Stage, WORKER_ARG, Worker as _};
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};
use support::{Done, KEYWARD, finish, skipped, tree};

/// What a container needs to run systemd.
const RUN: [&str; 16] = [
    "run",
    "-d",
    "--cap-add",
    "SYS_ADMIN",
    "--cap-add",
    "NET_ADMIN",
    "--cap-add",
    "NET_RAW",
    "--security-opt",
    "seccomp=unconfined",
    "--security-opt",
    "apparmor=unconfined",
    "--tmpfs",
    "/run",
    "--tmpfs",
    "/run/lock",
];
/// There is no guard that outlives the agent in these machines' runs; they are made for tests.
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
const PLAYBOOK: &str = r#"version: 1
min_ways_in: 1
users:
  - name: deploy
    admin: true
    groups: [ sudo ]
    password: locked
    sudo: { nopasswd: true }
    authorized_keys:
      - file: deploy.pub
ssh:
  port: 2222
  permit_root_login: "no"
  password_authentication: false
  max_auth_tries: 3
firewall:
  incoming: deny
  outgoing: allow
  allow: [ 80/tcp, 443/tcp ]
"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Service,
    Socket,
}

/// A machine; removed when dropped.
struct Machine {
    name: String,
    address: IpAddr,
    key: PrivateKey,
}

fn docker(args: &[&str], input: &[u8]) -> Done {
    let mut command = Command::new("docker");
    command.args(args);
    finish(command, input)
}

/// The image of a suite, made from its tree when it is not there or older than the tree's packages.
fn image(suite: &str) -> Result<String, String> {
    let tree = tree(suite)?;
    if docker(&["version"], b"").code != 0 {
        return Err("docker does not run".to_owned());
    }
    let name = format!("keyward-lab-{suite}");
    if docker(&["image", "inspect", &name], b"").code == 0 {
        return Ok(name);
    }
    let mut tar = Command::new("tar").arg("-C").arg(tree).args(["-c", "."]).stdout(Stdio::piped()).spawn().unwrap();
    let mut import = Command::new("docker");
    import.args(["import", "-", &name]).stdin(tar.stdout.take().unwrap()).stdout(Stdio::null());
    let made = import.status().is_ok_and(|status| status.success()) && tar.wait().is_ok_and(|status| status.success());
    made.then_some(name).ok_or_else(|| format!("no image of {suite}"))
}

impl Machine {
    fn start(suite: &str, mode: Mode) -> Result<Self, String> {
        let image = image(suite)?;
        let name = format!("keyward-test-{suite}-{mode:?}-{}", std::process::id()).to_lowercase();
        let tail = ["-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--name", &name, &image, "/sbin/init"];
        let args: Vec<&str> = RUN.into_iter().chain(tail).collect();
        let done = docker(&args, b"");
        if done.code != 0 {
            return Err(format!("no container: {}", done.stderr));
        }
        let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
        let mut machine = Self { name, address: IpAddr::from([0, 0, 0, 0]), key };
        machine
            .sh("i=0; until [ -S /run/dbus/system_bus_socket ] || [ $i -gt 300 ]; do i=$((i+1)); sleep 0.1; done
                 systemctl is-system-running --wait; systemctl is-active -q ssh")
            .ok();
        let shown = docker(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", &machine.name], b"").ok();
        machine.address = shown.stdout.trim().parse().map_err(|_| "the container has no address".to_owned())?;
        if mode == Mode::Socket {
            machine.sh("systemctl disable --now ssh.service; systemctl enable --now ssh.socket").ok();
        }
        machine.put("/usr/local/bin/keyward", &std::fs::read(KEYWARD).unwrap(), "755");
        machine.sh("mkdir -m 755 /root/play").ok();
        machine.put("/root/play/first.yml", PLAYBOOK.as_bytes(), "644");
        let line = format!("{} ops@laptop\n", machine.key.public_key().to_openssh().unwrap());
        machine.put("/root/play/deploy.pub", line.as_bytes(), "644");
        Ok(machine)
    }

    fn run(&self, argv: &[&str], input: &[u8]) -> Done {
        let args: Vec<&str> = ["exec", "-i", &self.name].into_iter().chain(argv.iter().copied()).collect();
        docker(&args, input)
    }

    fn sh(&self, script: &str) -> Done {
        self.run(&["/bin/sh", "-c", script], b"")
    }

    fn put(&self, path: &str, bytes: &[u8], mode: &str) {
        self.run(&["/bin/sh", "-ec", "cat >\"$1\"; chmod \"$2\" \"$1\"", "sh", path, mode], bytes).ok();
    }

    fn keyward(&self, args: &[&str]) -> Done {
        let argv: Vec<&str> = std::iter::once("/usr/local/bin/keyward").chain(args.iter().copied()).collect();
        self.run(&argv, b"")
    }

    /// Kind, mode, owner, size, content and link target of everything but [`EXCEPT`]; with `times` inode and time too.
    fn files(&self, except: &[&str], times: bool) -> Vec<String> {
        let prune: String = except.iter().map(|path| format!("-path {path} -o ")).collect();
        let more = if times { " %i %T@" } else { "" };
        // A directory's size is not its content, and overlayfs moves its times when a file in it is first copied up.
        let script = format!(
            "find / -xdev \\( {prune}-false \\) -prune -o -type d -printf '%p %y %m %U:%G\\n' \
             -o -printf '%p %y %m %U:%G %s %l{more}\\n' | sort; \
             find / -xdev \\( {prune}-false \\) -prune -o -type f -not -path '/usr/*' -exec sha256sum {{}} + | sort"
        );
        self.sh(&script).ok().stdout.lines().map(str::to_owned).collect()
    }

    /// Policies and rules of both families, without counters.
    fn rules(&self) -> String {
        self.sh("{ iptables-save; ip6tables-save; } | sed -e '/^#/d' -e 's/ *\\[[0-9:]*\\]//'").ok().stdout
    }

    /// What a reload, restart or daemon-reload would move.
    fn activity(&self) -> String {
        let units = "systemctl show ssh.service ssh.socket ufw.service -p ActiveEnterTimestampMonotonic \
             -p InactiveExitTimestampMonotonic -p StateChangeTimestampMonotonic -p NRestarts";
        let words = "journalctl -b -o cat | grep -c -E 'Reloaded|Reloading|Received SIGHUP|Restarting'; iptables-save -c | wc -l";
        self.sh(&format!("{units}; {words}")).stdout
    }

    fn ask(&self, request: Request) -> Reply {
        let mut child =
            Command::new(KEYWARD).arg(WORKER_ARG).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut pipe = PipeWorker::new(child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let reply = pipe.ask(&[request]).unwrap().remove(0);
        drop(pipe);
        let _ = child.wait();
        reply
    }

    fn line(&self, port: u16) -> Line {
        let host_key = self.sh("cat /etc/ssh/ssh_host_ed25519_key.pub").ok().stdout.trim().to_owned();
        let address = SocketAddr::new(self.address, port);
        Line { address, source: None, host_keys: vec![host_key], deadline_ms: 10_000 }
    }

    /// A login from outside of the machine with the key that the playbook declares.
    fn login(&self, user: &str, port: u16) -> Reply {
        self.ask(Request::Login {
            line: self.line(port),
            user: user.to_owned(),
            private_key: PrivateHalf::new(self.key.to_openssh(LineEnding::LF).unwrap().to_string()),
            command: "id -un; sudo -n id -u".to_owned(),
        })
    }

    fn door(&self, port: u16) -> Door {
        let addresses = vec![SocketAddr::new(self.address, port)];
        self.ask(Request::Connect { addresses, deadline_ms: 1000 }).doors[0]
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        docker(&["rm", "-f", "-v", &self.name], b"");
    }
}

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
    same(&blank, &machine.files(&except, false), "a plan changes nothing");

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
    let plain = |rules: &str| rules.lines().filter(|line| line.starts_with('-') || line.contains("DROP")).count();
    assert_eq!(plain(&rules), plain(&machine.rules()), "rules: {}", machine.rules());
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
