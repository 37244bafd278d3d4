//! The firewall resource on real systems: real ufw, real iptables, a real kernel, connections from another network.
//!
//! Each file in `tests/cases/firewall` is one awkward host. Its outcome is `hardened` (opened, closed, converged, as ufw
//! itself sees it, and undone to the byte) or `refused` before the first change.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use keyward::change::{Action, Change, Expect, Note, Promise, Stage, Step};
use keyward::error::{Failure, Kind as Fault, Result};
use keyward::facts::Facts;
use keyward::host::{Actor, Command, FileKind, Listener, Meta, Node, Output, Owner, Probe, Staged};
use keyward::resource::{Document, Kind, Planned, Task};
use keyward::resources::firewall::Firewall;
use keyward::target::sandbox::{INSIDE_V4, INSIDE_V6};
use keyward::types::{AbsPath, Proto};
use support::{Bed, SUITES, again};

/// The copy of a host, read by ordinary programs inside of it.
struct Inside<'a>(&'a Bed);

impl Inside<'_> {
    fn stat(&self, path: &str, format: &str) -> Option<String> {
        let done = self.0.run(&["/usr/bin/stat", "-c", format, path]);
        (done.code == 0).then(|| done.stdout.trim().to_owned())
    }

    fn output(&self, command: &Command) -> Output {
        let argv: Vec<&str> = command.argv.iter().map(String::as_str).collect();
        let done = self.0.run_with(&argv, &command.stdin);
        Output { code: done.code, stdout: done.stdout, stderr: done.stderr }
    }
}

impl Probe for Inside<'_> {
    fn meta(&self, path: &AbsPath, _actor: &Actor) -> Result<Option<Meta>> {
        let Some(line) = self.stat(path.as_str(), "%F|%a|%u|%g|%s|%h") else { return Ok(None) };
        let fields: Vec<&str> = line.split('|').collect();
        let kind = match fields[0] {
            "regular file" | "regular empty file" => FileKind::File,
            "directory" => FileKind::Dir,
            "symbolic link" => FileKind::Link,
            _ => FileKind::Other,
        };
        let number = |at: usize| fields[at].parse::<u32>().unwrap();
        Ok(Some(Meta {
            kind,
            mode: u32::from_str_radix(fields[1], 8).unwrap(),
            uid: number(2),
            gid: number(3),
            size: number(4).into(),
            links: number(5).into(),
        }))
    }

    fn read(&self, path: &AbsPath, _actor: &Actor) -> Result<Option<Vec<u8>>> {
        let done = self.0.run(&["/bin/cat", path.as_str()]);
        Ok((done.code == 0).then(|| done.stdout.into_bytes()))
    }

    fn list(&self, path: &AbsPath, _actor: &Actor) -> Result<Option<Vec<String>>> {
        let done = self.0.run(&["/bin/ls", "-A", path.as_str()]);
        Ok((done.code == 0).then(|| done.stdout.lines().map(str::to_owned).collect()))
    }

    fn link(&self, path: &AbsPath) -> Result<Option<String>> {
        let done = self.0.run(&["/bin/readlink", path.as_str()]);
        Ok((done.code == 0).then(|| done.stdout.trim().to_owned()))
    }

    fn ask(&self, command: &Command) -> Result<Output> {
        assert!(!command.program().ends_with("/ufw"), "reading state must start no ufw");
        Ok(self.output(command))
    }

    fn has_program(&self, path: &str) -> bool {
        self.0.run(&["/usr/bin/test", "-x", path]).code == 0
    }

    fn listeners(&self) -> Result<Vec<Listener>> {
        Ok(self.sockets("-Hltnp", Proto::Tcp))
    }

    fn datagram_sockets(&self) -> Result<Vec<Listener>> {
        Ok(self.sockets("-Hlunp", Proto::Udp))
    }

    fn ask_staged(&self, files: &[Staged], command: &Command) -> Result<Output> {
        assert!(files.is_empty());
        self.ask(command)
    }
}

/// What a change replaced.
type Images = Vec<(AbsPath, Option<(Vec<u8>, Meta)>)>;

impl Inside<'_> {
    /// As ss(8) tells them.
    fn sockets(&self, flags: &str, proto: Proto) -> Vec<Listener> {
        let text = self.0.run(&["/usr/bin/ss", flags]).ok().stdout;
        let listener = |line: &str| {
            let local = line.split_whitespace().nth(3)?;
            let (address, port) = local.rsplit_once(':')?;
            let address = address.split('%').next()?.trim_matches(['[', ']']);
            let address = if address == "*" { "::" } else { address };
            let programs = line.split("((\"").nth(1).and_then(|rest| rest.split('"').next());
            Some(Listener {
                address: address.parse().ok()?,
                port: port.parse().ok()?,
                proto,
                programs: programs.into_iter().map(str::to_owned).collect(),
            })
        };
        text.lines().map(|line| listener(line).unwrap_or_else(|| panic!("{line}"))).collect()
    }

    /// Gates of all changes first, as the engine does it.
    fn gates(&self, changes: &[Change]) {
        for gate in changes.iter().flat_map(|change| &change.gates) {
            assert_eq!(gate.expect, Expect::Success);
            let output = self.ask_staged(&gate.staged, &gate.command).unwrap();
            assert!(output.ok(), "{}: {}", gate.what, output.stderr);
        }
    }

    fn make(&self, change: &Change) -> Images {
        let mut images = Images::new();
        for step in &change.steps {
            let Step::Put { path, actor, node: Node::File { content, mode, owner } } = step else { panic!("{step:?}") };
            let before = self.read(path, actor).unwrap().map(|bytes| (bytes, self.meta(path, actor).unwrap().unwrap()));
            images.push((path.clone(), before));
            let Owner::Ids { uid, gid } = owner else { panic!("{owner:?}") };
            self.0.plant(path.as_str(), content, *mode, (*uid, *gid));
        }
        self.act(&change.activation.forward);
        images
    }

    fn undo(&self, change: &Change, images: &Images) {
        for (path, before) in images.iter().rev() {
            match before {
                Some((bytes, meta)) => self.0.plant(path.as_str(), bytes, meta.mode, (meta.uid, meta.gid)),
                None => drop(self.0.run(&["/bin/rm", path.as_str()]).ok()),
            }
        }
        self.act(&change.activation.backward);
    }

    fn act(&self, actions: &[Action]) {
        for action in actions {
            let run = match action {
                Action::Run(command) => command,
                Action::When { check, codes, run } if codes.contains(&self.output(check).code) => run,
                Action::When { .. } => continue,
                // tests/systemd/sessions.rs has real ones.
                Action::KeepSessions { .. } => continue,
                other => panic!("{other:?}"),
            };
            let output = self.output(run);
            let input = String::from_utf8_lossy(&run.stdin);
            assert!(output.ok(), "{:?}: {}\n{input}", run.argv, output.stderr);
        }
    }

    /// ufw's files and the kernel's rules, in a form that can be compared.
    fn state(&self) -> String {
        let files = self
            .0
            .sh("cd /etc; stat -c '%n %a %u %g' ufw/* default/ufw; sha256sum ufw/*.rules ufw/ufw.conf default/ufw");
        format!("{}\n{}", files.ok().stdout, self.kernel())
    }

    /// Both families' rules without counters and dates; empty tables count as none.
    fn kernel(&self) -> String {
        let mut out = String::new();
        for program in ["/etc/alternatives/iptables-save", "/etc/alternatives/ip6tables-save"] {
            let text = self.0.run(&[program]).ok().stdout;
            out.push_str(&format!("{program}\n"));
            for table in text.split_inclusive("COMMIT\n") {
                let lines = table.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
                let lines: Vec<&str> = lines.map(|line| line.split(" [").next().unwrap()).collect();
                let bare = |line: &&str| line.starts_with(['*', ':']) && !line.ends_with(" DROP") || *line == "COMMIT";
                if !lines.iter().all(bare) || lines.iter().any(|line| line.ends_with(" -")) {
                    out.push_str(&lines.join("\n"));
                    out.push('\n');
                }
            }
        }
        out
    }
}

/// Compares two long texts and shows only the lines that differ.
#[track_caller]
fn same(what: &str, have: &str, want: &str) {
    let only = |a: &str, b: &str| {
        a.lines().filter(|line| !b.lines().any(|other| other == *line)).collect::<Vec<_>>().join("\n")
    };
    assert!(have == want, "{what}\nnew or moved:\n{}\nmissing:\n{}", only(have, want), only(want, have));
}

/// One host of `tests/cases/firewall`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What is awkward about it.
    #[allow(dead_code)]
    about: String,
    /// Where it runs; bookworm when not given.
    #[serde(default)]
    suites: Vec<String>,
    /// Shell script that makes the host so.
    #[serde(default)]
    setup: String,
    /// The section `firewall`.
    firewall: serde_json::Value,
    /// The section `ssh`.
    #[serde(default)]
    ssh: serde_json::Value,
    /// Ports on which something listens, besides sshd.
    #[serde(default)]
    listen: Vec<u16>,
    /// The same for UDP.
    #[serde(default)]
    datagrams: Vec<u16>,
    /// Pieces that no note may have.
    #[serde(default)]
    silent: Vec<String>,
    /// `hardened`, `refused` or `unknown`.
    expect: String,
    /// Pieces of notes or of the failure.
    #[serde(default)]
    says: Vec<String>,
    /// Reachable from outside in both families at the end (something must listen).
    #[serde(default)]
    open: Vec<u16>,
    /// Not reachable in either.
    #[serde(default)]
    shut: Vec<u16>,
    /// Lines that `ufw show added` must have at the end.
    #[serde(default)]
    shows: Vec<String>,
    /// Lines that it must not have.
    #[serde(default)]
    hides: Vec<String>,
}

fn task(case: &Case) -> Box<dyn Task> {
    let sections = [("firewall", &case.firewall), ("ssh", &case.ssh)];
    let document = Document(BTreeMap::from(sections.map(|(name, value)| (name.to_owned(), value.clone()))));
    match (Kind::of::<Firewall>().task)(&case.firewall, &document) {
        Ok(task) => task.unwrap(),
        Err(faults) => panic!("{faults:?}"),
    }
}

fn assess(case: &Case, inside: &Inside<'_>) -> Result<Planned> {
    let facts = Facts::gather(inside).unwrap();
    task(case).assess(&facts, inside)
}

fn reaches(bed: &Bed, port: u16) -> (bool, bool) {
    let try_one = |address: String| {
        let script = format!("exec 3<>/dev/tcp/{address}/{port}");
        bed.outside(&["/usr/bin/timeout", "1", "/bin/bash", "-c", &script]).code == 0
    };
    (try_one(INSIDE_V4.to_string()), try_one(INSIDE_V6.to_string()))
}

fn listen(bed: &Bed, port: u16) {
    serve(bed, port, "SOCK_STREAM", "s.listen(9)");
}

fn serve(bed: &Bed, port: u16, kind: &str, last: &str) {
    let script = format!(
        "import socket,time\ns=socket.socket(socket.AF_INET6,socket.{kind})\ns.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\ns.bind(('::',{port}))\n{last}\nprint('up',flush=True)\ntime.sleep(600)"
    );
    bed.plant("/run/listen.py", script.as_bytes(), 0o644, (0, 0));
    let wait = format!(
        "rm -f /run/up.{port}; python3 /run/listen.py >/run/up.{port} 2>&1 & until grep -q up /run/up.{port}; do sleep 0.02; done"
    );
    bed.sh(&wait).ok();
}

#[track_caller]
fn says(name: &str, wanted: &[String], texts: &[String]) {
    for text in wanted {
        assert!(texts.iter().any(|have| have.contains(text.as_str())), "{name}: nothing says {text:?}: {texts:#?}");
    }
}

fn host(name: &str, case: &Case, suite: &str) {
    let name = &format!("{name} on {suite}");
    let Some(bed) = Bed::new(name, suite) else { return };
    let inside = Inside(&bed);
    bed.sh(&case.setup).ok();
    for port in &case.listen {
        listen(&bed, *port);
    }
    for port in &case.datagrams {
        serve(&bed, *port, "SOCK_DGRAM", "pass");
    }
    let before = inside.state();
    match assess(case, &inside) {
        Err(failure) => refused(name, case, &failure),
        Ok(planned) => hardened(name, case, &inside, &planned, &before),
    }
    same(&format!("{name}: not as before"), &inside.state(), &before);
}

fn refused(name: &str, case: &Case, failure: &Failure) {
    let kind = match case.expect.as_str() {
        "refused" => Fault::Refused,
        "unknown" => Fault::Unknown,
        _ => panic!("{name}: {failure}"),
    };
    assert_eq!(failure.kind, kind, "{name}: {failure}");
    assert!(!failure.hint.is_empty(), "{name}: no way out: {failure}");
    says(name, &case.says, &[failure.to_string()]);
}

fn hardened(name: &str, case: &Case, inside: &Inside<'_>, planned: &Planned, before: &str) {
    assert_eq!(case.expect, "hardened", "{name}: {:#?}", planned.notes);
    assert_eq!(planned.deferred, None, "{name}");
    let notes: Vec<String> = planned.notes.iter().map(|note: &Note| note.text.clone()).collect();
    says(name, &case.says, &notes);
    let loud = |text: &&String| notes.iter().any(|note| note.contains(text.as_str()));
    assert_eq!(case.silent.iter().find(loud), None, "{name}: {notes:#?}");
    assert!(assess(case, inside).unwrap() == *planned, "{name}: two plans of one host differ");
    inside.gates(&planned.changes);
    same(&format!("{name}: a gate changed something"), &inside.state(), before);

    let mut made = Vec::new();
    let stage = |stage: Stage| planned.changes.iter().filter(move |change| change.stage == stage);
    for change in stage(Stage::Additive) {
        made.push((change, inside.make(change)));
    }
    // Whatever happens next, the way in that was there is there.
    assert_eq!(reaches(inside.0, 22), (true, true), "{name}: SSH after the additive stage");
    let moved = case.ssh["port"].as_u64().map(|port| u16::try_from(port).unwrap()).filter(|port| *port != 22);
    if let Some(port) = moved {
        listen(inside.0, port);
        assert_eq!(reaches(inside.0, port), (true, true), "{name}: the new SSH port after the additive stage");
    }
    let between = inside.state();
    let last: Vec<&Change> = stage(Stage::Subtractive).collect();
    for change in &last {
        made.push((change, inside.make(change)));
    }
    outcome(name, case, inside, planned);
    let again = assess(case, inside).unwrap();
    // Rules carry no mark: when the playbook names no SSH port, nobody can tell who let the present ones in.
    let unnamed: &[&str] = if case.ssh["port"].is_null() { &["allow 22/tcp", "allow 2022/tcp"] } else { &[] };
    let (first, second) = (others(planned), others(&again));
    let told = second.difference(&first).filter(|rule| !unnamed.iter().any(|ssh| rule.ends_with(ssh)));
    let own: Vec<_> = told.collect();
    assert!(own.is_empty(), "{name}: keyward's own rules are said to be of others: {own:?}");
    if moved.is_none() {
        let left: Vec<_> = again.changes.iter().map(|change| (&change.summary, &change.differences)).collect();
        assert!(left.is_empty(), "{name}: not converged: {left:?}");
    }
    ufw_agrees(name, case, inside);

    for (at, (change, images)) in made.iter().enumerate().rev() {
        inside.undo(change, images);
        if at + 1 == made.len() && !last.is_empty() {
            same(&format!("{name}: the subtractive change is not undone"), &inside.state(), &between);
        }
        // An activation may run again at any time.
        inside.act(&change.activation.backward);
    }
}

/// The rules that a plan calls those of others, each with its family.
fn others(planned: &Planned) -> BTreeSet<String> {
    let told = planned.notes.iter().filter_map(|note| note.text.split_once(": rules of others that stay: "));
    told.flat_map(|(family, list)| list.split("; ").map(move |rule| format!("{family} {rule}"))).collect()
}

fn outcome(name: &str, case: &Case, inside: &Inside<'_>, planned: &Planned) {
    for port in &case.open {
        assert_eq!(reaches(inside.0, *port), (true, true), "{name}: port {port}");
    }
    for port in &case.shut {
        assert_eq!(reaches(inside.0, *port), (false, false), "{name}: port {port}");
    }
    let [Promise::Firewall { open }] = planned.promises.as_slice() else { panic!("{name}: {:?}", planned.promises) };
    for port in &case.open {
        assert!(
            open.iter().any(|promised| promised.get() == *port),
            "{name}: {port} is open and not promised: {open:?}"
        );
    }
    for port in &case.shut {
        assert!(open.iter().all(|promised| promised.get() != *port), "{name}: {port} is shut and promised: {open:?}");
    }
}

/// ufw reads what was written as its own, would write it to the same bytes, and loads it to the same rules at boot.
fn ufw_agrees(name: &str, case: &Case, inside: &Inside<'_>) {
    let bed = inside.0;
    let status = bed.run(&["/usr/bin/env", "LC_ALL=C", "/usr/sbin/ufw", "status", "verbose"]).ok();
    assert!(status.stdout.starts_with("Status: active\n"), "{name}: {}", status.stdout);
    assert_eq!(status.stderr, "", "{name}: ufw complains");
    let added = bed.run(&["/usr/bin/env", "LC_ALL=C.UTF-8", "/usr/sbin/ufw", "show", "added"]).ok().stdout;
    let shown = |line: &String| added.lines().any(|have| have == line);
    assert!(case.shows.iter().all(shown), "{name}: not all of {:?} in:\n{added}", case.shows);
    assert!(!case.hides.iter().any(shown), "{name}: some of {:?} in:\n{added}", case.hides);
    let files = "sha256sum /etc/ufw/user.rules /etc/ufw/user6.rules; cat /etc/ufw/user.rules /etc/ufw/user6.rules";
    let (ours, kernel) = (bed.sh(files).ok().stdout, inside.kernel());
    let level = bed.sh(". /etc/ufw/ufw.conf; echo $LOGLEVEL").ok().stdout;
    // Makes ufw write both files from what it read, with the firewall switched off in its eyes.
    bed.sh("cp -a /etc/ufw/ufw.conf /run/ufw.conf; sed -i s/^ENABLED=.*/ENABLED=no/ /etc/ufw/ufw.conf").ok();
    bed.run(&["/usr/sbin/ufw", "logging", level.trim()]).ok();
    bed.sh("cp -a /run/ufw.conf /etc/ufw/ufw.conf").ok();
    same(&format!("{name}: ufw writes other bytes"), &bed.sh(files).ok().stdout, &ours);
    // ufw appends a nat table of before.rules once more at each reload, but not at a boot.
    bed.sh("if grep -q '^[*]nat' /etc/ufw/before.rules; then iptables -t nat -F; fi").ok();
    bed.run(&["/lib/ufw/ufw-init", "force-reload"]).ok();
    same(&format!("{name}: a boot gives other rules"), &inside.kernel(), &kernel);
}

/// Every case with its suites.
fn cases() -> Vec<(String, Case, &'static str)> {
    let found = again::cases("firewall");
    assert!(found.len() >= 42 || std::env::var_os("KEYWARD_CASE").is_some(), "{} hosts", found.len());
    let mut cases = Vec::new();
    for (name, text) in found {
        let read = || serde_yaml::from_str::<Case>(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let wanted = read().suites;
        for suite in SUITES {
            let default = wanted.is_empty() && suite == "bookworm";
            let named = wanted.iter().any(|one| one == suite || one == "all");
            if default || named {
                cases.push((name.clone(), read(), suite));
            }
        }
    }
    cases
}

#[test]
fn every_awkward_host_is_hardened_or_refused() {
    let cases = cases();
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || {
        while let Some((name, case, suite)) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
            let begun = Instant::now();
            if let Err(fault) = catch_unwind(AssertUnwindSafe(|| host(name, case, suite))) {
                let text = fault.downcast_ref::<String>().cloned().unwrap_or_default();
                faults.lock().unwrap().push(format!("{name} on {suite}: {text}"));
            }
            println!("{name} on {suite}: {:?}", begun.elapsed());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(worker);
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{} of {} runs failed:\n\n{}", faults.len(), cases.len(), faults.join("\n\n"));
}

#[test]
fn a_reboot_brings_the_same_firewall_up() {
    let Some(mut bed) = Bed::new("a_reboot_brings_the_same_firewall_up", "bookworm") else { return };
    let case: Case = serde_yaml::from_str("{ about: boot, firewall: { allow: [80/tcp] }, expect: hardened }").unwrap();
    listen(&bed, 81);
    let inside = Inside(&bed);
    let planned = assess(&case, &inside).unwrap();
    for change in &planned.changes {
        inside.make(change);
    }
    let kernel = inside.kernel();
    assert_eq!(reaches(&bed, 81), (false, false));
    bed.reboot();
    let inside = Inside(&bed);
    bed.run(&["/lib/ufw/ufw-init", "start", "quiet"]).ok();
    same("after a boot", &inside.kernel(), &kernel);
    listen(&bed, 81);
    assert_eq!((reaches(&bed, 22), reaches(&bed, 81)), ((true, true), (false, false)));
    assert!(assess(&case, &inside).unwrap().changes.is_empty());
}

#[test]
fn a_load_that_fails_changes_nothing() {
    let Some(bed) = Bed::new("a_load_that_fails_changes_nothing", "bookworm") else { return };
    let inside = Inside(&bed);
    // Parses, passes --test, and fails in the kernel: the set does not exist.
    bed.sh("sed -i 's/^COMMIT/-A ufw-before-input -p tcp -m set --match-set nosuch src -j DROP\\nCOMMIT/' /etc/ufw/before.rules").ok();
    let case: Case = serde_yaml::from_str("{ about: set, firewall: {}, expect: hardened }").unwrap();
    let before = inside.kernel();
    let planned = assess(&case, &inside).unwrap();
    let [change] = planned.changes.as_slice() else { panic!("{:?}", planned.notes) };
    let Some(Action::When { run, .. }) = change.activation.forward.first() else { panic!("nothing to load") };
    let output = inside.output(run);
    assert!(!output.ok(), "the load should have failed");
    same("after a failed load", &inside.kernel(), &before);
    assert_eq!(reaches(&bed, 22), (true, true));
    inside.act(&change.activation.backward);
    same("after its undo", &inside.kernel(), &before);
}
