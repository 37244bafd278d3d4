//! What happens in the copy: plant, start sshd, plan, apply with gates and journal, ask the real sshd, connect, undo.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyward::change::{Change, Note, Plan, Promise};
use keyward::engine::{About, Apply, LaterEdits, Rollback, apply, assess, rollback};
use keyward::error::{Failure, Kind};
use keyward::facts::Facts;
use keyward::formats::sshd_match;
use keyward::host::Probe;
use keyward::host::ledger::MemoryLedger;
use keyward::host::real::RealHost;
use keyward::host::shelf::MemoryShelf;
use keyward::outcome::{Event, Evidence, Exit, Moment, Proven, Reach};
use keyward::resource::{AccessCheck, Document, Prover, Task, Unguarded};
use keyward::resources::REGISTRY;

use super::case::{Case, Wanted};

/// Shows ports by connecting and reading the server's greeting; the methods are shown by [`offers`] at the end.
struct Doors;

impl Prover for Doors {
    fn scaffold(&mut self, _: &[Promise], _: &Facts, _: &dyn Probe) -> Result<Vec<Change>, Failure> {
        Ok(Vec::new())
    }

    fn prove(&mut self, moment: Moment, promises: &[Promise], _: &dyn Probe) -> Result<Vec<Evidence>, Failure> {
        let evidence = |what: String, good: bool| Evidence {
            what,
            proven: if good { Proven::Yes } else { Proven::No },
            reach: Reach::L1,
            seen: String::new(),
            millis: 0,
        };
        let one = |promise: &Promise| match promise {
            Promise::SshPort { port } => Some(evidence(format!("open {port}"), greets(port.get()))),
            Promise::SshPortClosed { port } if moment == Moment::Final => {
                Some(evidence(format!("closed {port}"), !greets(port.get())))
            }
            // Both doors must be open until the decision.
            Promise::SshPortClosed { port } => Some(evidence(format!("still open {port}"), greets(port.get()))),
            _ => None,
        };
        Ok(promises.iter().filter_map(one).collect())
    }
}

struct Anyone;

impl AccessCheck for Anyone {
    fn check(&self, _: &[Promise], _: &[Change], _: &Facts, _: &dyn Probe) -> Result<Vec<Note>, Failure> {
        Ok(Vec::new())
    }
}

/// A plan and what came of it, short enough to read.
fn told(changes: &[Change], events: &[Event]) -> String {
    let mut out = String::new();
    for change in changes {
        out += &format!("{} ({}): {:?}\n", change.key, change.summary, change.differences);
        for diff in &change.diffs {
            out += &format!("--- {}\n{}+++\n{}", diff.path, diff.before, diff.after);
        }
    }
    for event in events {
        match event {
            Event::Failed { failure } => out += &format!("failed: {failure}\n"),
            Event::RollingBack { reason } => out += &format!("rolling back: {reason}\n"),
            Event::Undone { change, failure: Some(failure) } => out += &format!("not undone: {change}: {failure}\n"),
            Event::Proof { evidence } => out += &format!("{} {:?}\n", evidence.what, evidence.proven),
            _ => {}
        }
    }
    out
}

/// True when an SSH server greets on this port of loopback.
fn greets(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(2)) else {
        return false;
    };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).is_ok() && &greeting == b"SSH-"
}

fn sh(script: &str) -> String {
    let output = Command::new("/bin/sh").args(["-ec", script]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Kind, mode, owner and content of everything below /etc, and of /run/sshd.
fn digest() -> BTreeMap<String, String> {
    fn walk(path: &Path, out: &mut BTreeMap<String, String>) {
        let Ok(meta) = path.symlink_metadata() else { return };
        let body = if meta.is_symlink() {
            format!("{:?}", std::fs::read_link(path).unwrap())
        } else if meta.is_file() {
            format!("{:?}", std::fs::read(path).unwrap())
        } else {
            String::new()
        };
        let line = format!("{:o} {}:{} {body}", meta.mode(), meta.uid(), meta.gid());
        out.insert(path.display().to_string(), line);
        if meta.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                walk(&entry.unwrap().path(), out);
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(Path::new("/etc"), &mut out);
    if !Path::new("/run/systemd/system").exists() {
        walk(Path::new("/run/sshd"), &mut out);
    }
    out
}

#[track_caller]
fn same(before: &BTreeMap<String, String>, when: &str) {
    let after = digest();
    for path in before.keys().chain(after.keys()) {
        assert_eq!(before.get(path), after.get(path), "{when}: {path}");
    }
}

fn prepare(case: &Case) {
    std::fs::create_dir_all("/run/sshd").unwrap();
    sh("groupadd staff2 2>/dev/null || true; for u in bob deploy; do useradd -m -s /bin/bash $u; done; \
        usermod -p '*' deploy; usermod -aG staff2 bob; adduser deploy sudo >/dev/null 2>&1 || usermod -aG sudo deploy");
    for (path, content) in &case.files {
        std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    sh(&case.script);
    let Some(arguments) = &case.daemon else { return };
    if let [unit] = arguments.as_slice()
        && unit.starts_with("ssh.")
    {
        sh(&format!("systemctl daemon-reload; systemctl stop ssh.service ssh.socket; systemctl start {unit}"));
        return;
    }
    let status = Command::new("/usr/sbin/sshd").args(arguments).stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "the case's sshd does not start");
    let start = Instant::now();
    while !Path::new("/run/sshd.pid").exists() {
        assert!(start.elapsed() < Duration::from_secs(5), "sshd wrote no pid file");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn task(case: &Case) -> Box<dyn Task> {
    let values: serde_json::Value = serde_yaml::from_str(&case.playbook).unwrap();
    let document = Document(serde_json::from_value(values).unwrap());
    let kind = REGISTRY.iter().find(|kind| kind.name == "sshd").unwrap();
    (kind.task)(document.section("ssh"), &document).unwrap().unwrap()
}

/// Runs the case.
pub fn run(case: &Case) {
    prepare(case);
    let before = digest();
    let host = RealHost::with_program("/opt/keyward");
    let facts = Facts::gather(&host).unwrap();
    model_agrees(&host, &facts, "before");
    let tasks = vec![task(case)];
    let about = About { playbook: "case.yml".to_owned(), digest: String::new() };
    let first = assess(&tasks, &about, &facts, &host, &Anyone);
    match (&case.outcome, first) {
        (Wanted::Refused(place), Err(failures)) => {
            let failure = &failures[0];
            assert_eq!((failure.kind, failure.place.as_str()), (Kind::Refused, place.as_str()), "{failure}");
            assert!(!failure.hint.is_empty() && !failure.why.is_empty(), "{failure}");
            println!("{failure}");
            same(&before, "refused");
        }
        (Wanted::Refused(place), Ok(plan)) => panic!("should be refused at {place}: {}", told(&plan.changes, &[])),
        (_, Err(failures)) => panic!("should not be refused: {}", failures[0]),
        (wanted, Ok(plan)) => {
            for note in &case.notes {
                assert!(plan.notes.iter().any(|seen| seen.text.contains(note)), "no note '{note}': {:?}", plan.notes);
            }
            if *wanted == Wanted::Nothing {
                assert!(plan.changes.is_empty(), "{}", told(&plan.changes, &[]));
                wants(case);
                return;
            }
            hardened(case, &host, &facts, &tasks, &about, plan, &before);
        }
    }
}

fn hardened(
    case: &Case,
    host: &RealHost,
    facts: &Facts,
    tasks: &[Box<dyn Task>],
    about: &About,
    plan: Plan,
    before: &BTreeMap<String, String>,
) {
    let again = assess(tasks, about, facts, host, &Anyone).unwrap();
    assert_eq!(plan, again, "planning twice differs");
    assert!(!plan.changes.is_empty(), "nothing planned, but the host is not as asked");
    let (shelf, audit) = (MemoryShelf::default(), MemoryLedger::default());
    let mut events: Vec<Event> = Vec::new();
    let outcome = apply(
        Apply {
            host,
            shelf: &shelf,
            audit: &audit,
            tasks,
            about,
            facts,
            plan: plan.clone(),
            held: None,
            access: &Anyone,
            prover: Some(&mut Doors),
            prove: keyward::engine::Prove::Changes,
            guard: &mut Unguarded,
            approve: &mut |_| true,
        },
        &mut events,
    );
    assert!(plan.changes.iter().any(|change| !change.gates.is_empty()), "no gate");
    if case.daemon.is_some() {
        assert_eq!(outcome.exit, Exit::AsAsked, "{outcome:?} {}", told(&plan.changes, &events));
    }
    assert!(matches!(outcome.exit, Exit::AsAsked | Exit::Unverified), "{outcome:?}");
    wants(case);
    model_agrees(host, facts, "after");
    let after = digest();
    for path in &case.untouched {
        assert_eq!(before.get(path), after.get(path), "{path} changed");
    }
    let left = assess(tasks, about, &Facts::gather(host).unwrap(), host, &Anyone).unwrap();
    assert!(left.changes.is_empty(), "not converged: {}", told(&left.changes, &[]));
    let undone = rollback(
        Rollback {
            host,
            shelf: &shelf,
            audit: &audit,
            run: None,
            later_edits: LaterEdits::Respect,
            machine: keyward::engine::Machine::Running,
            approve: &mut |_, _| true,
        },
        &mut events,
    );
    assert_eq!(undone.exit, Exit::AsAsked, "{undone:?} {}", told(&[], &events));
    same(before, "rolled back");
}

/// What the real sshd says, from every account and address, and what it offers on the wire.
fn wants(case: &Case) {
    let document: serde_json::Value = serde_yaml::from_str(&case.playbook).unwrap();
    let ssh = &document["ssh"];
    let mut always: Vec<(&str, &str)> = Vec::new();
    if ssh["permit_root_login"] == "no" {
        always.push(("permitrootlogin", "no"));
    }
    if ssh["password_authentication"] == false {
        always.extend([("passwordauthentication", "no"), ("kbdinteractiveauthentication", "no")]);
    }
    if ssh["x11_forwarding"] == false {
        always.push(("x11forwarding", "no"));
    }
    for user in ["", "root", "bob", "deploy"] {
        for address in ["127.0.0.1", "192.0.2.1", "198.51.100.7", "2001:db8::1", "10.1.2.3"] {
            let said = effective(user, address);
            for (keyword, value) in &always {
                assert_eq!(
                    said.get(*keyword).map(Vec::as_slice),
                    Some(&[(*value).to_owned()][..]),
                    "{keyword} {user}@{address}"
                );
            }
        }
    }
    for (who, keyword, value) in &case.wants {
        let (user, address) = who.split_once('@').unwrap_or_default();
        let said = effective(user, address);
        let seen = said.get(keyword).map(|values| values.join(" "));
        assert_eq!(seen.as_ref(), Some(value), "{keyword} for '{who}'");
    }
    if let (Some(port), Some(_)) = (ssh["port"].as_u64(), &case.daemon) {
        let port = u16::try_from(port).unwrap();
        assert!(greets(port), "nothing greets on {port}");
        assert!(port == 22 || !greets(22), "port 22 still greets");
        if Path::new("/usr/bin/ssh").exists() && ssh["password_authentication"] == false {
            assert_eq!(offers(port, "bob"), "publickey");
            assert_eq!(offers(port, "root"), "publickey");
        }
    }
}

/// Keywords that the model knows.
const MODELLED: [&str; 16] = [
    "port",
    "listenaddress",
    "permitrootlogin",
    "pubkeyauthentication",
    "passwordauthentication",
    "kbdinteractiveauthentication",
    "x11forwarding",
    "allowtcpforwarding",
    "allowagentforwarding",
    "maxauthtries",
    "logingracetime",
    "clientaliveinterval",
    "maxstartups",
    "authenticationmethods",
    "usepam",
    "allowusers",
];

/// The model of `formats::sshd_match` says of every account and address what the real sshd says.
fn model_agrees(host: &RealHost, facts: &Facts, when: &str) {
    let runs = |args: &[&str]| Command::new("/usr/sbin/sshd").args(args).output().unwrap().status.success();
    if !runs(&["-T"]) {
        return;
    }
    let tree = keyward::resources::sshd::tree::load(host, "/etc/ssh/sshd_config").unwrap();
    for user in ["", "root", "bob", "deploy"] {
        for address in ["127.0.0.1", "192.0.2.1", "2001:db8::1", "10.1.2.3"] {
            let connection = (!user.is_empty()).then(|| sshd_match::Connection {
                user: user.to_owned(),
                groups: sh(&format!("id -Gn {user}")).split_whitespace().map(str::to_owned).collect(),
                address: address.to_owned(),
                host: address.to_owned(),
                local_address: "192.0.2.9".to_owned(),
                local_port: 2222,
            });
            let model = sshd_match::effective(&tree, connection.as_ref(), !facts.sshd_at_least(8, 7));
            let real = effective(user, address);
            for keyword in MODELLED {
                let sorted = |mut values: Vec<String>| {
                    values.sort();
                    values
                };
                let said = sorted(real.get(keyword).cloned().unwrap_or_default());
                let told = model
                    .all(keyword)
                    .map(|value| value.to_lowercase().replace("without-password", "prohibit-password"));
                assert_eq!(
                    sorted(told.collect()),
                    said,
                    "{when}: the model and sshd differ: {keyword} {user}@{address}"
                );
            }
        }
    }
}

/// `sshd -T`, keyword (lower case) to values in lower case.
fn effective(user: &str, address: &str) -> BTreeMap<String, Vec<String>> {
    let mut command = Command::new("/usr/sbin/sshd");
    command.arg("-T");
    if !user.is_empty() {
        command.args(["-C", &format!("user={user},host={address},addr={address},laddr=192.0.2.9,lport=2222")]);
    }
    // Where each connection starts its own sshd, systemd makes and removes the directory as they come and go.
    let missing = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).contains("Missing privilege");
    let mut output = command.stdin(Stdio::null()).output().unwrap();
    for _ in 0..50 {
        if !missing(&output) {
            break;
        }
        let lent = std::fs::create_dir("/run/sshd").is_ok();
        output = command.output().unwrap();
        if lent {
            let _ = std::fs::remove_dir("/run/sshd");
        }
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (keyword, value) = line.split_once(' ').unwrap_or((line, ""));
        let value = value.to_lowercase().replace("without-password", "prohibit-password");
        said.entry(keyword.to_lowercase()).or_default().push(value);
    }
    said
}

/// The methods that the running server offers to a user, on the wire.
fn offers(port: u16, user: &str) -> String {
    let output = Command::new("/usr/bin/ssh")
        .args(["-F", "/dev/null", "-o", "PreferredAuthentications=none", "-o", "StrictHostKeyChecking=no"])
        .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"])
        .args(["-p", &port.to_string(), &format!("{user}@127.0.0.1"), "true"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let start = said.find("Permission denied (").unwrap_or_else(|| panic!("{said}"));
    said[start..].trim_start_matches("Permission denied (").split(')').next().unwrap().to_owned()
}
