//! What happens in the copy: plant, start sshd, plan, apply, log in and become root, undo, compare.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyward::change::{Change, Note, Plan, Promise};
use keyward::engine::{About, Apply, LaterEdits, Rollback, apply, assess, rollback};
use keyward::error::{Failure, Kind};
use keyward::facts::Facts;
use keyward::host::Probe;
use keyward::host::ledger::MemoryLedger;
use keyward::host::real::RealHost;
use keyward::host::shelf::{DirShelf, MemoryShelf};
use keyward::outcome::{Event, Evidence, Exit, Moment, Proven, Reach};
use keyward::proof::{Line, PrivateHalf, Reply, Request, WORKER_ARG};
use keyward::resource::{AccessCheck, Document, Prover, Section, Task, Unguarded};
use keyward::resources::REGISTRY;
use keyward::types::{AbsPath, Word as _};

use super::case::{Case, Wanted};

/// Shows that administrators get in, by the first test key.
struct Doors;

impl Prover for Doors {
    fn scaffold(&mut self, _: &[Promise], _: &Facts, _: &dyn Probe) -> Result<Vec<Change>, Failure> {
        Ok(Vec::new())
    }

    fn prove(&mut self, _: Moment, promises: &[Promise], _: &dyn Probe) -> Result<Vec<Evidence>, Failure> {
        let one = |promise: &Promise| match promise {
            Promise::Admin { user, nopasswd } => {
                let become_root = if *nopasswd && !user.is_root() { "sudo -n " } else { "" };
                let wanted = if *nopasswd { "= 0" } else { "!= 0" };
                let said = login(user.as_str(), &format!("test \"$({become_root}id -u)\" {wanted}"));
                let good = said.is_ok();
                Some(Evidence {
                    what: format!("login as {}", user.as_str()),
                    proven: if good { Proven::Yes } else { Proven::No },
                    reach: Reach::L1,
                    seen: format!("{said:?}"),
                    millis: 0,
                })
            }
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

/// Logs in by key with keyward's own client, since not every tree has one, and runs a command that must succeed.
fn login(user: &str, command: &str) -> Result<String, String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let host_keys =
        ["rsa", "ecdsa", "ed25519"].map(|kind| read(&format!("/etc/ssh/ssh_host_{kind}_key.pub")).trim().to_owned());
    let line =
        Line { address: ([127, 0, 0, 1], 22).into(), source: None, host_keys: host_keys.to_vec(), deadline_ms: 10_000 };
    let request = Request::Login {
        line,
        user: user.to_owned(),
        private_key: PrivateHalf::new(read("/tmp/key")),
        command: command.to_owned(),
    };
    let mut child = Command::new("/opt/keyward")
        .arg(WORKER_ARG)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = format!("{}\n", serde_json::to_string(&[request]).unwrap());
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let replies: Vec<Reply> = serde_json::from_slice(&output.stdout).unwrap();
    if replies[0].ok { Ok(replies[0].text.clone()) } else { Err(format!("{:?}", replies[0])) }
}

/// A plan and what came of it, short enough to read.
fn told(changes: &[Change], events: &[Event]) -> String {
    let mut out = String::new();
    for change in changes {
        out += &format!("{} ({}) {:?}: {:?}\n", change.key, change.summary, change.stage, change.differences);
        for diff in &change.diffs {
            out += &format!("--- {}\n{}+++\n{}", diff.path, diff.before, diff.after);
        }
    }
    for event in events {
        match event {
            Event::Failed { failure } => out += &format!("failed: {failure}\n"),
            Event::RollingBack { reason } => out += &format!("rolling back: {reason}\n"),
            Event::Undone { change, failure: Some(failure) } => out += &format!("not undone: {change}: {failure}\n"),
            Event::Proof { evidence } => out += &format!("{} {:?} {}\n", evidence.what, evidence.proven, evidence.seen),
            _ => {}
        }
    }
    out
}

fn sh(script: &str) -> String {
    let output = Command::new("/bin/sh").args(["-ec", script]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}: {}{said}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

/// A closed run keeps no password fields, so its rollback leaves them as they are.
fn without_hashes(shadow: &str) -> String {
    let line = |line: &str| {
        line.split(':').enumerate().map(|(at, field)| if at == 1 { "-" } else { field }).collect::<Vec<_>>().join(":")
    };
    shadow.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// Kind, mode, owner and content of everything that an account task could touch. Lock files are not looked at.
fn digest() -> BTreeMap<String, String> {
    fn walk(path: &Path, out: &mut BTreeMap<String, String>) {
        let Ok(meta) = path.symlink_metadata() else { return };
        let body = if path == Path::new("/etc/shadow") || path == Path::new("/etc/shadow-") {
            without_hashes(&std::fs::read_to_string(path).unwrap())
        } else if meta.is_symlink() {
            format!("{:?}", std::fs::read_link(path).unwrap())
        } else if meta.is_file() {
            format!("{:?}", String::from_utf8_lossy(&std::fs::read(path).unwrap()))
        } else {
            String::new()
        };
        if path != Path::new("/etc/.pwd.lock") {
            out.insert(path.display().to_string(), format!("{:o} {}:{} {body}", meta.mode(), meta.uid(), meta.gid()));
        }
        if meta.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                walk(&entry.unwrap().path(), out);
            }
        }
    }
    let mut out = BTreeMap::new();
    for place in ["/etc", "/home", "/srv", "/root", "/var/mail", "/var/spool"] {
        walk(Path::new(place), &mut out);
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

/// The two public keys, without their newline.
fn keys() -> (String, String) {
    let read = |name: &str| std::fs::read_to_string(name).unwrap().trim().to_owned();
    (read("/tmp/key.pub"), read("/tmp/other.pub"))
}

fn filled(text: &str) -> String {
    let (key, other) = keys();
    text.replace("@KEY@", &key).replace("@OTHER@", &other)
}

fn prepare(case: &Case) {
    sh(
        "mkdir -p /run/sshd; ssh-keygen -A >/dev/null; for k in key other; do ssh-keygen -q -t ed25519 -N '' -C $k@test -f /tmp/$k; done",
    );
    // The files of a case may lie in a home that its script makes, so the script comes in two halves around them.
    let (first, last) = case.script.split_once("# files\n").unwrap_or(("", &case.script));
    sh(&filled(first));
    for (path, content) in &case.files {
        std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        let content = String::from_utf8(content.clone()).unwrap();
        std::fs::write(path, filled(&content)).unwrap();
        sh(&format!("case {path} in /etc/sudoers*) chmod 0440 {path};; esac"));
    }
    sh(&filled(last));
    let status = Command::new("/usr/sbin/sshd").stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "sshd does not start");
    let start = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", 22)).is_err() {
        assert!(start.elapsed() < Duration::from_secs(5), "sshd does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The tasks of a playbook, in registry order, as the playbook layer makes them.
fn tasks(playbook: &str) -> Vec<Box<dyn Task>> {
    let values: serde_json::Value = serde_yaml::from_str(&filled(playbook)).unwrap();
    let document = Document(serde_json::from_value(values).unwrap());
    let mut tasks = Vec::new();
    for kind in REGISTRY {
        let items = match kind.section {
            Section::Map(name) if document.section(name).is_null() => Vec::new(),
            Section::Map(name) => vec![document.section(name).clone()],
            Section::Each(name) => document.section(name).as_array().cloned().unwrap_or_default(),
        };
        for item in items {
            let made = (kind.task)(&item, &document).unwrap_or_else(|faults| panic!("{}: {faults:?}", kind.name));
            tasks.extend(made);
        }
    }
    tasks
}

fn about() -> About {
    About { playbook: "case.yml".to_owned(), digest: String::new() }
}

/// Runs the case.
pub fn run(case: &Case) {
    prepare(case);
    let before = digest();
    let host = RealHost::with_program("/opt/keyward");
    let facts = Facts::gather(&host).unwrap();
    let tasks = tasks(&case.playbook);
    let first = assess(&tasks, &about(), &facts, &host, &Anyone);
    let kind = |wanted: &Wanted| if matches!(wanted, Wanted::Busy(_)) { Kind::Busy } else { Kind::Refused };
    match (&case.outcome, first) {
        (wanted @ (Wanted::Refused(place) | Wanted::Busy(place)), Err(failures)) => {
            let failure = &failures[0];
            assert_eq!((failure.kind, failure.place.as_str()), (kind(wanted), place.as_str()), "{failure}");
            assert!(!failure.hint.is_empty(), "{failure}");
            for part in &case.says {
                assert!(failure.to_string().contains(part), "'{part}' is not said: {failure}");
            }
            println!("{failure}");
            same(&before, "refused");
        }
        (Wanted::Refused(place) | Wanted::Busy(place), Ok(plan)) => {
            panic!("should be refused at {place}: {}", told(&plan.changes, &[]))
        }
        (_, Err(failures)) => panic!("should not be refused: {}", failures[0]),
        (wanted, Ok(plan)) => {
            for note in &case.notes {
                assert!(plan.notes.iter().any(|seen| seen.text.contains(note)), "no note '{note}': {:?}", plan.notes);
            }
            println!("{}", told(&plan.changes, &[]));
            if *wanted == Wanted::Nothing {
                assert!(plan.changes.is_empty(), "{}", told(&plan.changes, &[]));
                return;
            }
            hardened(case, &host, &facts, &tasks, plan, &before);
        }
    }
}

fn hardened(
    case: &Case,
    host: &RealHost,
    facts: &Facts,
    tasks: &[Box<dyn Task>],
    plan: Plan,
    before: &BTreeMap<String, String>,
) {
    let again = assess(tasks, &about(), facts, host, &Anyone).unwrap();
    assert_eq!(plan, again, "planning twice differs");
    assert!(!plan.changes.is_empty(), "nothing planned, but the host is not as asked");
    let (shelf, audit) = (MemoryShelf::default(), MemoryLedger::default());
    let mut events: Vec<Event> = Vec::new();
    let about = about();
    let outcome = apply(
        Apply {
            host,
            shelf: &shelf,
            audit: &audit,
            tasks,
            about: &about,
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
    assert_eq!(outcome.exit, Exit::AsAsked, "{outcome:?} {}", told(&plan.changes, &events));
    for check in &case.checks {
        sh(&filled(check));
    }
    let after = digest();
    for path in &case.untouched {
        assert_eq!(before.get(path), after.get(path), "{path} changed");
    }
    let left = assess(tasks, &about, &Facts::gather(host).unwrap(), host, &Anyone).unwrap();
    assert!(left.changes.is_empty(), "not converged: {}", told(&left.changes, &[]));
    // sudo itself marks the homes of administrators it met (sudo 1.9, "admin_flag").
    sh("rm -f /home/*/.sudo_as_admin_successful /srv/*/*/.sudo_as_admin_successful");
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
    println!("{}", told(&[], &events));
    same(before, "rolled back");
}

/// The lines of one account in all databases, and its home.
fn account(name: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for file in ["passwd", "shadow", "group", "gshadow", "subuid", "subgid"] {
        let text = std::fs::read_to_string(format!("/etc/{file}")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| line.split([':', ',']).any(|word| word == name)).collect();
        found.insert(file.to_owned(), lines.join("\n"));
    }
    let home = format!("/home/{name}");
    found.extend(digest().into_iter().filter(|(path, _)| path.starts_with(&home)));
    found
}

/// Makes the same account by keyward and by useradd, and compares everything; only the password field differs.
pub fn beside_useradd() {
    let case = Case::parse("");
    prepare(&case);
    sh("useradd -m first; userdel -r first 2>/dev/null || true; useradd -m -s /bin/bash neighbour");
    let host = RealHost::with_program("/opt/keyward");
    let facts = Facts::gather(&host).unwrap();
    let playbook = "users:\n- { name: deploy, groups: [ sudo, adm ] }\n";
    let tasks = tasks(playbook);
    let plan = assess(&tasks, &about(), &facts, &host, &Anyone).unwrap();
    let (shelf, audit, about) = (MemoryShelf::default(), MemoryLedger::default(), about());
    let mut events: Vec<Event> = Vec::new();
    let request = Apply {
        host: &host,
        shelf: &shelf,
        audit: &audit,
        tasks: &tasks,
        about: &about,
        facts: &facts,
        plan: plan.clone(),
        held: None,
        access: &Anyone,
        prover: Some(&mut Doors),
        prove: keyward::engine::Prove::Changes,
        guard: &mut Unguarded,
        approve: &mut |_| true,
    };
    let outcome = apply(request, &mut events);
    assert_eq!(outcome.exit, Exit::AsAsked, "{outcome:?} {}", told(&plan.changes, &events));
    let ours = account("deploy");
    sh("pwck -r >/dev/null || true; grpck -r");
    // The child that worked as the user would keep userdel from it.
    drop(host);
    sh("userdel -r deploy 2>/dev/null || true; useradd -m -s /bin/bash -G sudo,adm deploy");
    let mut theirs = account("deploy");
    let shadow = theirs.get_mut("shadow").unwrap();
    // shadow 4.18 gave up the least age of a password (PASS_MIN_DAYS); none and 0 mean the same.
    *shadow = shadow.replacen(":!:", ":*:", 1).replacen("::99999:", ":0:99999:", 1);
    for key in ours.keys().chain(theirs.keys()) {
        assert_eq!(ours.get(key), theirs.get(key), "{key}: keyward's, then useradd's");
    }
    assert!(ours["passwd"].starts_with("deploy:x:1001:1001::/home/deploy:/bin/bash"), "{}", ours["passwd"]);
}

/// Installs a real package from a repository in the copy by apt, after dpkg's lock made it wait.
pub fn packages() {
    sh("mkdir -p /run/sshd /srv/repo/ufw/DEBIAN /srv/repo/ufw/usr/sbin
        dpkg --force-all --purge ufw >/dev/null 2>&1
        cd /srv/repo
        printf 'Package: ufw\\nVersion: 99\\nArchitecture: all\\nMaintainer: x <x@x>\\nDescription: test\\n' >ufw/DEBIAN/control
        printf '#!/bin/sh\\n/usr/sbin/policy-rc.d ufw start; echo $? >/srv/policy\\nenv >/srv/env\\n' >ufw/DEBIAN/postinst
        chmod 755 ufw/DEBIAN/postinst
        printf '#!/bin/sh\\n' >ufw/usr/sbin/ufw; chmod 755 ufw/usr/sbin/ufw
        dpkg-deb -b ufw ufw.deb >/dev/null
        ( cat ufw/DEBIAN/control; echo Filename: ./ufw.deb; echo Size: $(stat -c %s ufw.deb); echo SHA256: $(sha256sum ufw.deb | cut -d' ' -f1); echo ) >Packages
        rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
        echo 'deb [trusted=yes] file:/srv/repo ./' >/etc/apt/sources.list
        chmod -R a+rX /srv");
    let host = RealHost::with_program("/opt/keyward");
    let facts = Facts::gather(&host).unwrap();
    let tasks = vec![keyward::resources::packages::task(&["sudo", "ufw", "ufw"])];
    // As dpkg does: a record lock of fcntl(2).
    let mut holder = Command::new("/usr/bin/perl")
        .args(["-e", "use Fcntl; open(F, '>>', '/var/lib/dpkg/lock-frontend'); my $l = pack('ssqql', F_WRLCK, 0, 0, 0, 0); fcntl(F, F_SETLK, $l) or die; close STDOUT; sleep 60"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_to_end(holder.stdout.as_mut().unwrap(), &mut Vec::new()).unwrap();
    let failures = assess(&tasks, &about(), &facts, &host, &Anyone).unwrap_err();
    assert_eq!((failures[0].kind, failures[0].place.as_str()), (Kind::Busy, "dpkg"), "{}", failures[0]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    let plan = assess(&tasks, &about(), &facts, &host, &Anyone).unwrap();
    assert_eq!(plan.changes.len(), 1, "{}", told(&plan.changes, &[]));
    assert!(plan.changes[0].summary.starts_with("install ufw (after fetching"), "{}", plan.changes[0].summary);
    assert!(plan.changes[0].irreversible().is_some());
    // The real lock: the policy that holds services back asks for it.
    let place = |path: &str| AbsPath::parse(path).unwrap();
    let shelf = DirShelf::open(&place("/var/lib/keyward"), &place("/run/keyward/lock")).unwrap();
    let (audit, about) = (MemoryLedger::default(), about());
    let mut events: Vec<Event> = Vec::new();
    let request = Apply {
        host: &host,
        shelf: &shelf,
        audit: &audit,
        tasks: &tasks,
        about: &about,
        facts: &facts,
        plan: plan.clone(),
        held: None,
        access: &Anyone,
        prover: Some(&mut Doors),
        prove: keyward::engine::Prove::Changes,
        guard: &mut Unguarded,
        approve: &mut |_| true,
    };
    let outcome = apply(request, &mut events);
    assert_eq!(outcome.exit, Exit::AsAsked, "{outcome:?} {}", told(&plan.changes, &events));
    // The package's script asked, and was told not to start anything.
    assert_eq!(std::fs::read_to_string("/srv/policy").unwrap().trim(), "101");
    assert!(std::fs::read_to_string("/srv/env").unwrap().contains("DEBIAN_FRONTEND=noninteractive"));
    assert!(!Path::new("/usr/sbin/policy-rc.d").exists());
    assert_eq!(sh("dpkg-query -W -f '${db:Status-Status} ${Version}' ufw"), "installed 99");
    assert!(assess(&tasks, &about, &facts, &host, &Anyone).unwrap().changes.is_empty());
}
