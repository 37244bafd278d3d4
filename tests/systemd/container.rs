//! A machine with systemd as process 1: a container of a lab tree, and logins to it from outside.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use keyward::proof::{Door, Line, PipeWorker, PrivateHalf, Reply, Request, WORKER_ARG, Worker as _};
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};

use crate::support::{Done, KEYWARD, RULES, finish, tree};

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
/// For a systemd that knows version 2 of the control groups only, where the kernel gives version 1 to containers: its own
/// mount of version 2, which all such containers of a machine share, so there is one of them at a time.
const UNIFIED: &str =
    "umount -R /sys/fs/cgroup; mkdir -p /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && exec /sbin/init";
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
pub enum Mode {
    Service,
    Socket,
}

/// A machine; removed when dropped.
pub struct Machine {
    pub name: String,
    pub address: IpAddr,
    pub key: PrivateKey,
    _alone: Option<MutexGuard<'static, ()>>,
}

/// Held by the one machine that has a mount of control groups version 2 of its own.
static ALONE: Mutex<()> = Mutex::new(());

/// A network whose machines keep their addresses through a power cut, as real ones do: the engine's own network gives the
/// address of a machine that is off to the next one that starts. Removed when dropped.
pub struct Lan {
    name: String,
    prefix: [u8; 2],
    third: u8,
    given: AtomicUsize,
}

impl Lan {
    /// A part of 198.18.0.0/16 that is free (RFC 2544: for tests of network devices).
    pub fn new() -> Result<Self, String> {
        let name = format!("keyward-test-{}", std::process::id());
        let prefix = [198, 18];
        let mut said = String::new();
        for third in (0..=240).step_by(16) {
            let net = format!("{}.{}.{third}.0/20", prefix[0], prefix[1]);
            let done = docker(&["network", "create", "--subnet", &net, &name], b"");
            if done.code == 0 {
                return Ok(Self { name, prefix, third, given: AtomicUsize::new(0) });
            }
            said = done.stderr;
        }
        Err(format!("no network: {said}"))
    }

    /// A machine of this network.
    pub fn machine(&self, suite: &str) -> Result<Machine, String> {
        // The first two are the network's own and its router's.
        let given = u16::try_from(self.given.fetch_add(1, Ordering::Relaxed) + 2).unwrap();
        let [high, low] = given.to_be_bytes();
        let address = format!("{}.{}.{}.{low}", self.prefix[0], self.prefix[1], self.third + high);
        Machine::start_with(suite, Mode::Service, &["--network", &self.name, "--ip", &address])
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        docker(&["network", "rm", &self.name], b"");
    }
}

pub fn docker(args: &[&str], input: &[u8]) -> Done {
    let mut command = Command::new("docker");
    command.args(args);
    finish(command, input)
}

/// The image of a suite, made from its tree when it is not there or older than the tree's packages.
pub fn image(suite: &str) -> Result<String, String> {
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
    pub fn start(suite: &str, mode: Mode) -> Result<Self, String> {
        Self::start_with(suite, mode, &[])
    }

    /// With more options for the container.
    pub fn start_with(suite: &str, mode: Mode, more: &[&str]) -> Result<Self, String> {
        let image = image(suite)?;
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keyward-test-{suite}-{mode:?}-{}-{count}", std::process::id()).to_lowercase();
        let unified = suite == "sid" && !Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let alone = unified.then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner));
        let groups: &[&str] = if unified { &[] } else { &["-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw"] };
        let init: &[&str] = if unified { &["/bin/sh", "-c", UNIFIED] } else { &["/sbin/init"] };
        let args = [&RUN, more, groups, &["--name", &name, &image], init].concat();
        let done = docker(&args, b"");
        if done.code != 0 {
            return Err(format!("no container: {}", done.stderr));
        }
        let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
        let mut machine = Self { name, address: IpAddr::from([0, 0, 0, 0]), key, _alone: alone };
        machine.settle()?;
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

    /// Waits until it is up, and finds its address.
    pub fn settle(&mut self) -> Result<(), String> {
        self.booted()?;
        self.sh("systemctl is-active -q ssh.service || systemctl is-active -q ssh.socket").ok();
        Ok(())
    }

    /// The same, whether or not sshd comes up.
    pub fn booted(&mut self) -> Result<(), String> {
        let up = "i=0; until [ -S /run/dbus/system_bus_socket ] || [ $i -gt 300 ]; do i=$((i+1)); sleep 0.1; done
                 systemctl is-system-running --wait || [ $? -lt 128 ]";
        // A systemd that starts under load may kill what was begun in its group.
        let up = std::iter::repeat_with(|| self.sh(up)).take(3).find(|done| done.code != 137);
        up.ok_or("the container does not come up")?.ok();
        let shown =
            docker(&["inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", &self.name], b"")
                .ok();
        self.address = shown.stdout.trim().parse().map_err(|_| "the container has no address".to_owned())?;
        Ok(())
    }

    pub fn run(&self, argv: &[&str], input: &[u8]) -> Done {
        let args: Vec<&str> = ["exec", "-i", &self.name].into_iter().chain(argv.iter().copied()).collect();
        docker(&args, input)
    }

    pub fn sh(&self, script: &str) -> Done {
        self.run(&["/bin/sh", "-c", script], b"")
    }

    pub fn put(&self, path: &str, bytes: &[u8], mode: &str) {
        self.run(&["/bin/sh", "-ec", "cat >\"$1\"; chmod \"$2\" \"$1\"", "sh", path, mode], bytes).ok();
    }

    pub fn keyward(&self, args: &[&str]) -> Done {
        let argv: Vec<&str> = std::iter::once("/usr/local/bin/keyward").chain(args.iter().copied()).collect();
        self.run(&argv, b"")
    }

    /// Kind, mode, owner, size, content and link target of everything but [`EXCEPT`]; with `times` inode and time too.
    pub fn files(&self, except: &[&str], times: bool) -> Vec<String> {
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

    /// Policies and rules of both families.
    pub fn rules(&self) -> String {
        self.sh(RULES).ok().stdout
    }

    /// What a reload, restart or daemon-reload would move.
    pub fn activity(&self) -> String {
        let units = "systemctl show ssh.service ssh.socket ufw.service -p ActiveEnterTimestampMonotonic \
             -p InactiveExitTimestampMonotonic -p StateChangeTimestampMonotonic -p NRestarts";
        let words = "journalctl -b -o cat | grep -c -E 'Reloaded|Reloading|Received SIGHUP|Restarting'; iptables-save -c | wc -l";
        self.sh(&format!("{units}; {words}")).stdout
    }

    /// Confirms from a login of deploy's, which lasts until the run is over.
    pub fn confirm(line: Line, key: &PrivateKey) {
        let private_key = PrivateHalf::new(key.to_openssh(LineEnding::LF).unwrap().to_string());
        let command = "sudo keyward confirm".to_owned();
        Self::asked(Request::Login { line, user: "deploy".to_owned(), private_key, command });
    }

    pub fn ask(&self, request: Request) -> Reply {
        Self::asked(request)
    }

    fn asked(request: Request) -> Reply {
        let mut child =
            Command::new(KEYWARD).arg(WORKER_ARG).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut pipe = PipeWorker::new(child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let reply = pipe.ask(&[request]).unwrap().remove(0);
        drop(pipe);
        let _ = child.wait();
        reply
    }

    pub fn line(&self, port: u16) -> Line {
        let host_key = self.sh("cat /etc/ssh/ssh_host_ed25519_key.pub").ok().stdout.trim().to_owned();
        let address = SocketAddr::new(self.address, port);
        Line { address, source: None, host_keys: vec![host_key], deadline_ms: 30_000 }
    }

    /// A login from outside of the machine with the key that the playbook declares.
    pub fn login(&self, user: &str, port: u16) -> Reply {
        self.run_as(user, port, "id -un; sudo -n id -u")
    }

    /// Runs a command over a login with the playbook's key.
    pub fn run_as(&self, user: &str, port: u16, command: &str) -> Reply {
        self.ask(Request::Login {
            line: self.line(port),
            user: user.to_owned(),
            private_key: PrivateHalf::new(self.key.to_openssh(LineEnding::LF).unwrap().to_string()),
            command: command.to_owned(),
        })
    }

    pub fn door(&self, port: u16) -> Door {
        let addresses = vec![SocketAddr::new(self.address, port)];
        self.ask(Request::Connect { addresses, deadline_ms: 1000 }).doors[0]
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        docker(&["rm", "-f", "-v", &self.name], b"");
    }
}
