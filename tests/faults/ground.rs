//! The machine that everything happens to: a booted copy of a lab tree in which root can log in through the old door,
//! the playbook that closes it, and what must hold after every case.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use keyward::host::real::AS_USER_ARG;
use keyward::proof::{Line, PipeWorker, PrivateHalf, Reply, Request, WORKER_ARG, Worker as _};
use keyward::target::sandbox::{INSIDE_V4, INSIDE_V6, sources};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};
use sha2::Digest as _;

use crate::support::{Bed, Done, KEYWARD, mark};

pub const PLAYBOOK: &str = r#"version: 1
min_ways_in: 1
users:
  - name: deploy
    admin: true
    groups: [ sudo ]
    password: locked
    sudo: { nopasswd: true }
    authorized_keys:
      - file: deploy.pub
root: { password: locked }
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
pub const APPLY: &str = "/root/play/first.yml";
pub const PROGRAM: &str = "/usr/local/bin/keyward";
const STATE: &str = "/var/lib/keyward/runs";
pub const OLD: (&str, u16) = ("root", 22);
pub const NEW: (&str, u16) = ("deploy", 2222);

/// Everything below these is compared: bytes, mode, owner, group, extended attributes.
const ROOTS: [&str; 6] = ["/etc", "/home", "/root", "/usr/local/etc", "/var/mail", "/var/spool"];
/// The lock of lckpwdf(3), an empty file that every account tool leaves.
const LOCK_FILE: &str = "/etc/.pwd.lock";

/// What stands at each path: kind, mode, owner, attributes, digest of the bytes.
pub type Tree = BTreeMap<String, String>;

/// What a run may leave at each path at any moment: old, new, or a whole step in between.
pub type Versions = BTreeMap<String, BTreeSet<String>>;

type Known = HashMap<PathBuf, ((u64, i64, i64, u64), String)>;

pub struct Ground {
    pub bed: Bed,
    key: PrivateKey,
    host_key: String,
    worker: (PipeWorker, Child),
    known: Known,
    pub blank: Tree,
    rules: String,
}

/// A way in, tried over both families.
#[derive(Debug)]
pub struct Way {
    pub opens: bool,
    #[allow(dead_code, reason = "shown when it does not open")]
    replies: Vec<Reply>,
}

/// The program under test without its symbols: a run puts a copy of it down.
fn program() -> Vec<u8> {
    static STRIPPED: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let strip = || {
        let path = std::env::temp_dir().join(format!("keyward-faults-{}", std::process::id()));
        let done = Command::new("strip").arg("-o").arg(&path).arg(KEYWARD).status();
        let stripped = done.is_ok_and(|status| status.success());
        let bytes = std::fs::read(if stripped { path.as_path() } else { Path::new(KEYWARD) }).unwrap();
        let _ = std::fs::remove_file(&path);
        bytes
    };
    STRIPPED.get_or_init(strip).clone()
}

impl Ground {
    /// `None` where there is no lab and that is allowed.
    pub fn new(test: &str) -> Option<Self> {
        let bed = Bed::new(test, "bookworm")?;
        // One key for all: what stands in a tree must be the same on the next machine.
        static KEY: std::sync::OnceLock<PrivateKey> = std::sync::OnceLock::new();
        let fresh = || PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
        let key = KEY.get_or_init(fresh).clone();
        let line = format!("{} ops@laptop\n", key.public_key().to_openssh().unwrap());
        bed.plant(PROGRAM, &program(), 0o755, (0, 0));
        bed.plant(APPLY, PLAYBOOK.as_bytes(), 0o644, (0, 0));
        bed.plant("/root/play/deploy.pub", line.as_bytes(), 0o644, (0, 0));
        bed.plant("/root/.ssh/authorized_keys", line.as_bytes(), 0o600, (0, 0));
        bed.sh("chmod 700 /root/.ssh").ok();
        mark(&PathBuf::from(format!("/proc/{}/root/", bed.booted.pid)));
        let host_key = bed.read("/etc/ssh/ssh_host_ed25519_key.pub").trim().to_owned();
        let worker = worker(&mut bed.sandbox.outside().unwrap());
        let mut ground =
            Self { bed, key, host_key, worker, known: Known::new(), blank: Tree::new(), rules: String::new() };
        ground.log();
        assert!(ground.way(OLD).opens, "the old door of the blank copy: {:?}", ground.way(OLD));
        ground.blank = ground.tree();
        ground.rules = ground.rules();
        Some(ground)
    }

    /// Kills all and boots again.
    pub fn reboot(&mut self) {
        self.bed.reboot();
        self.log();
    }

    /// What a system logger does: sshd's words go to /var/log/auth.log, where a confirmation looks for its login.
    /// Ends with the boot.
    fn log(&self) {
        let (socket, file) = (self.path("/dev/log"), self.path("/var/log/auth.log"));
        let listener = UnixDatagram::bind(&socket).unwrap();
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
        listener.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 2048];
            while socket.exists() {
                let Ok(length) = listener.recv(&mut bytes) else { continue };
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                let line = text.trim_end_matches(['\0', '\n']).split_once('>').map_or("", |(_, rest)| rest);
                let log = std::fs::OpenOptions::new().append(true).create(true).open(&file);
                let _ = log.and_then(|mut log| writeln!(log, "{line}"));
            }
        });
    }

    /// A path of the copy as this process reaches it.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.bed.booted.pid))
    }

    fn line(&self, address: IpAddr, port: u16) -> Line {
        // The agent's own point of view has the addresses of the copy's pair; from elsewhere replies find their way.
        let source = sources().find(|source| source.is_ipv4() == address.is_ipv4());
        let address = SocketAddr::new(address, port);
        Line { address, source, host_keys: vec![self.host_key.clone()], deadline_ms: 3000 }
    }

    fn request(&self, address: IpAddr, way: (&str, u16), command: &str) -> Request {
        Request::Login {
            line: self.line(address, way.1),
            user: way.0.to_owned(),
            private_key: PrivateHalf::new(self.key.to_openssh(LineEnding::LF).unwrap().to_string()),
            command: command.to_owned(),
        }
    }

    /// A fresh login from the outside world, over IPv4 and IPv6. Not by sudo, which marks its first use in the home.
    pub fn way(&mut self, way: (&str, u16)) -> Way {
        self.ways(&[way]).remove(0)
    }

    fn ways(&mut self, ways: &[(&str, u16)]) -> Vec<Way> {
        let addresses: [IpAddr; 2] = [INSIDE_V4.into(), INSIDE_V6.into()];
        let requests: Vec<Request> =
            ways.iter().flat_map(|way| addresses.map(|address| self.request(address, *way, "id -un"))).collect();
        let replies = self.worker.0.ask(&requests).unwrap_or_else(|failure| panic!("{failure}"));
        let whole =
            |way: &(&str, u16), replies: &[Reply]| replies.iter().all(|reply| reply.ok && reply.stdout.trim() == way.0);
        let pairs = ways.iter().zip(replies.chunks(2));
        pairs.map(|(way, replies)| Way { opens: whole(way, replies), replies: replies.to_vec() }).collect()
    }

    /// True when one whole way in, old or new, opens; a daemon in the middle of a reload gets a moment.
    pub fn lets_in(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let ways = self.ways(&[OLD, NEW]);
            if ways.iter().any(|way| way.opens) {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_secs(3) {
                return Err(format!("no way in: {ways:?}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The new way in opens and the old one does not.
    pub fn ways_new_only(&mut self) -> bool {
        let ways = self.ways(&[OLD, NEW]);
        !ways[0].opens && ways[1].opens
    }

    /// Everything below [`ROOTS`].
    pub fn tree(&mut self) -> Tree {
        let root = self.path("");
        let mut found = Tree::new();
        for start in ROOTS {
            walk(&root, &root.join(&start[1..]), &mut self.known, &mut found);
        }
        found
    }

    /// Rules and policies of both families, without counters and without tables that let everything in.
    pub fn rules(&self) -> String {
        let all = self.bed.sh("iptables-save; ip6tables-save").ok().stdout;
        let lines = all.lines().filter(|line| line.starts_with("-A") || line.starts_with(':'));
        let plain = lines.map(|line| line.split(" [").next().unwrap_or_default());
        plain.filter(|line| line.starts_with("-A") || !line.ends_with(" ACCEPT")).collect::<Vec<_>>().join("\n")
    }

    /// Processes of the copy: the machine's pid of each, and its command line.
    pub fn processes(&self) -> Vec<(i32, Vec<String>)> {
        let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let here = space(&self.bed.booted.pid.to_string());
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
        pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()) && space(pid) == here)
            .filter_map(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
                Some((pid.parse().ok()?, words.filter(|word| !word.is_empty()).collect()))
            })
            .collect()
    }

    /// Processes of keyward in the copy; the copy's own process 1 is one, too.
    pub fn own_processes(&self) -> Vec<(i32, Vec<String>)> {
        let mut found = self.processes();
        found.retain(|(_, words)| {
            let own = words.iter().any(|word| word == PROGRAM || word.contains("/guard-") || word == WORKER_ARG);
            own || words.iter().any(|word| word == "__vantage" || word == "__guard" || word == AS_USER_ARG)
        });
        found
    }

    /// Ends what an operator's session left: a `confirm` that waits for the end.
    pub fn end_confirmers(&self) {
        for (pid, words) in self.processes() {
            if words.iter().any(|word| word == "confirm") {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// The newest run.
    pub fn run(&self) -> Option<String> {
        let names = std::fs::read_dir(self.path(STATE)).ok()?.flatten();
        let runs = names.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".journal").map(str::to_owned));
        runs.max()
    }

    /// A record of the newest run.
    pub fn record(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(&format!("{STATE}/{}.{name}", self.run()?))).ok()
    }

    /// True once there is something of the newest run to undo: a change, or a guard that waits for its end.
    pub fn has_begun(&self) -> bool {
        let guard = format!("guard-{}", self.run().unwrap_or_default());
        self.names("/var/lib/keyward").contains(&guard)
            || self.record("journal").is_some_and(|journal| {
                let mut whole = journal.split_inclusive('\n').filter(|line| line.ends_with('\n'));
                whole.any(|line| line.contains("\"record\":\"change\""))
            })
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(dir)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// What is wrong with the copy after an undo; empty when it is as it was.
    pub fn blemishes(&mut self) -> Vec<String> {
        let begun = Instant::now();
        // A watchdog looks twice a second whether its run is over.
        while !self.own_processes().is_empty() && begun.elapsed() < Duration::from_secs(3) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut found: Vec<String> =
            self.own_processes().iter().map(|process| format!("a process is left: {process:?}")).collect();
        let tree = self.tree();
        found.extend(differences(&self.blank, &tree));
        let rules = self.rules();
        if rules != self.rules {
            found.push(format!("rules: {rules:?} instead of {:?}", self.rules));
        }
        let names = self.names("/var/lib/keyward");
        found.extend(names.iter().filter(|name| name.starts_with("guard-")).map(|name| format!("left: {name}")));
        let made = [names, self.names("/var/lib/keyward/runs")].concat().into_iter();
        found.extend(made.filter(|name| name.ends_with(".tmp")).map(|name| format!("left: {name}")));
        let staged = || self.names("/run/keyward").into_iter().filter(|name| name.starts_with("stage-"));
        if self.run().is_none() && staged().next().is_some() {
            // Nothing was undone that could have taken it away; whoever looks next does.
            self.keyward(&["plan", APPLY]);
        }
        found.extend(staged().map(|name| format!("left: {name}")));
        if let Ok(links) = std::fs::read_dir(self.path("/sys/class/net")) {
            let links = links.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            found
                .extend(links.filter(|name| name.starts_with("keyward")).map(|name| format!("a link is left: {name}")));
        }
        let ports = self.ports();
        if ports != [22] {
            found.push(format!("listening ports: {ports:?}"));
        }
        let way = self.way(OLD);
        if !way.opens {
            found.push(format!("LOCKED OUT: {way:?}"));
        }
        found
    }

    /// Listening TCP ports of the copy, both families.
    pub fn ports(&self) -> Vec<u16> {
        let tables = ["tcp", "tcp6"].map(|name| {
            std::fs::read_to_string(format!("/proc/{}/net/{name}", self.bed.booted.pid)).unwrap_or_default()
        });
        let lines = tables.iter().flat_map(|table| table.lines());
        let listening = lines.filter(|line| line.split_whitespace().nth(3) == Some("0A"));
        let port = |line: &str| u16::from_str_radix(line.split_whitespace().nth(1)?.rsplit_once(':')?.1, 16).ok();
        let found: BTreeSet<u16> = listening.filter_map(port).collect();
        found.into_iter().collect()
    }

    pub fn keyward(&self, args: &[&str]) -> Done {
        let argv: Vec<&str> = std::iter::once(PROGRAM).chain(args.iter().copied()).collect();
        self.bed.run(&argv)
    }

    /// The command of an apply with this window, for a tracer; PID 1 of a copy is not systemd.
    pub fn apply(window: &str) -> Vec<&str> {
        vec![PROGRAM, "apply", "--yes", "--without-boot-guard", "--confirm-within", window, APPLY]
    }

    pub fn shell(&self) -> Command {
        self.bed.sandbox.command("/bin/sh").unwrap()
    }

    /// Takes the runs away, once they were looked at: each case begins with none. The audit log stays.
    pub fn forget(&self) {
        for entry in std::fs::read_dir(self.path(STATE)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with('2') || name.starts_with('.')) {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }

    /// A login from the outside world that runs this command until it is killed.
    pub fn session(&self, way: (&str, u16), command: &str) -> Session {
        let mut request = self.request(INSIDE_V4.into(), way, command);
        if let Request::Login { line, .. } = &mut request {
            line.deadline_ms = 60_000;
        }
        let mut start = self.bed.sandbox.outside().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (mut pipe, child) = worker(&mut start);
            sender.send(child).unwrap();
            let _ = pipe.ask(&[request]);
        });
        Session(receiver.recv().unwrap())
    }

    /// An operator outside, who confirms through the new door once it is open and the host's own proof is through: beside it
    /// the calls of the agent would be others each time. Ends with the value.
    pub fn operator(&self) -> Operator {
        let state = self.path(STATE);
        let mut request = self.request(INSIDE_V4.into(), NEW, CONFIRM);
        if let Request::Login { line, .. } = &mut request {
            line.deadline_ms = 30_000;
        }
        let mut command = self.bed.sandbox.outside().unwrap();
        let over = std::sync::Arc::new(AtomicBool::new(false));
        let pid = std::sync::Arc::new(AtomicU32::new(0));
        let (stop, session) = (std::sync::Arc::clone(&over), std::sync::Arc::clone(&pid));
        let thread = std::thread::spawn(move || {
            let proven = |state: &Path| {
                let names = std::fs::read_dir(state).into_iter().flatten().flatten();
                let opened = |path: &PathBuf| path.extension().is_some_and(|end| end == "opened");
                let seen = |path: PathBuf| {
                    let journal = std::fs::read_to_string(path.with_extension("journal")).unwrap_or_default();
                    journal.contains("\"record\":\"evidence\"")
                };
                names.map(|entry| entry.path()).filter(opened).any(seen)
            };
            while !proven(&state) {
                if stop.load(Ordering::Relaxed) {
                    return None;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            // The start of a session is known to 10 ms.
            std::thread::sleep(Duration::from_millis(30));
            let (mut pipe, mut child) = worker(&mut command);
            session.store(child.id(), Ordering::Relaxed);
            let asked = pipe.ask(&[request]);
            let _ = child.kill();
            let _ = child.wait();
            session.store(0, Ordering::Relaxed);
            asked.ok().map(|mut replies| replies.remove(0))
        });
        Operator { over, pid, thread: Some(thread) }
    }
}

/// sudo marks its first use in the home, which is not the run's doing.
const CONFIRM: &str =
    "sudo -n /bin/sh -c 'rm -f /home/deploy/.sudo_as_admin_successful; exec /usr/local/bin/keyward confirm'";

/// The process that holds a login.
pub struct Session(Child);

impl Session {
    /// The connection ends without a word.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Operator {
    over: std::sync::Arc<AtomicBool>,
    /// The process that holds the session, 0 for none.
    pid: std::sync::Arc<AtomicU32>,
    thread: Option<std::thread::JoinHandle<Option<Reply>>>,
}

impl Operator {
    /// What became of a confirmation that was made.
    pub fn heard(mut self) -> Option<Reply> {
        self.thread.take().and_then(|thread| thread.join().unwrap())
    }

    /// What became of the confirmation; ends a session that still waits.
    pub fn end(mut self) -> Option<Reply> {
        self.over.store(true, Ordering::Relaxed);
        if let Ok(pid @ 1..) = i32::try_from(self.pid.load(Ordering::Relaxed)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.thread.take().and_then(|thread| thread.join().unwrap())
    }
}

fn worker(command: &mut Command) -> (PipeWorker, Child) {
    let mut child = command.arg(WORKER_ARG).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    (PipeWorker::new(child.stdout.take().unwrap(), child.stdin.take().unwrap()), child)
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = self.worker.1.kill();
        let _ = self.worker.1.wait();
    }
}

fn walk(root: &Path, path: &Path, known: &mut Known, found: &mut Tree) {
    let shown = format!("/{}", path.strip_prefix(root).unwrap().display());
    if shown == LOCK_FILE {
        return;
    }
    let Ok(meta) = std::fs::symlink_metadata(path) else { return };
    let mut told = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
    if meta.is_file() {
        let stamp = (meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.size());
        let (seen, digest) = known.entry(path.to_owned()).or_default();
        if *seen != stamp {
            let Ok(mut bytes) = std::fs::read(path) else { return };
            if shown.ends_with("/authorized_keys") {
                bytes = without_proof(&bytes);
            }
            let sum: String = sha2::Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            (*seen, *digest) = (stamp, format!("{} bytes {sum}", bytes.len()));
        }
        told += &format!(" {digest}");
    } else if meta.is_symlink() {
        told += &format!(" -> {}", std::fs::read_link(path).unwrap_or_default().display());
    }
    for name in xattr::list(path).into_iter().flatten() {
        told += &format!(" {}={:?}", name.display(), xattr::get(path, &name).ok().flatten());
    }
    found.insert(shown, told);
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            walk(root, &entry.path(), known, found);
        }
    }
}

/// A list of keys without the whole lines of the proof's own key, which is another one in each run.
fn without_proof(bytes: &[u8]) -> Vec<u8> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let temporary = |line: &[u8]| line.starts_with(b"restrict") && line.ends_with(b"\n");
    lines.filter(|line| !temporary(line)).flatten().copied().collect()
}

/// One line for each path that differs.
pub fn differences(before: &Tree, after: &Tree) -> Vec<String> {
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differing = paths.into_iter().filter(|path| before.get(*path) != after.get(*path));
    differing.map(|path| format!("{path}: {:?} became {:?}", before.get(path), after.get(path))).collect()
}

/// Adds what stands in `tree` to what may stand there.
pub fn allow(versions: &mut Versions, tree: &Tree) {
    for (path, told) in tree {
        versions.entry(path.clone()).or_default().insert(told.clone());
    }
}

/// Paths that hold neither an old nor a new version. A file in the making under its temporary name is none that anybody
/// reads; an absent file was absent before or after.
pub fn torn(versions: &Versions, tree: &Tree) -> Vec<String> {
    let making = |path: &str| path.rsplit('/').next().is_some_and(|name| name.starts_with(".keyward-"));
    tree.iter()
        .filter(|(path, told)| !making(path) && !versions.get(*path).is_some_and(|known| known.contains(*told)))
        .map(|(path, told)| format!("{path}: {told}, known {:?}", versions.get(path)))
        .collect()
}
