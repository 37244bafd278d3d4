//! `keyward apply --root DIR`: files only, rehearsed and proven on booted copies, journaled inside the tree, and taken
//! back byte for byte. Each test works on its own copy of a lab tree.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::machine::machine;
use support::{Bed, Done, KEYWARD, finish, skipped};

/// Somebody's key: the example's is refused.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDug6wWrmfFXhsagNlHJL9Ua4x7AgSpmbBfCTl3dAgl/ ops@laptop\n";
const JOB: &str = include_str!("../playbooks/first-login.yml");
/// Lets a rollback without a guard change ways in: for hosts that are thrown away.
const UNGUARDED: &str = "--i-accept-that-this-host-may-lock-me-out";
/// All that the reference job and keyward's own state may change in a tree. Directories with all below them.
const PLANNED: [&str; 16] = [
    "etc/default/ufw",
    "etc/group",
    "etc/gshadow",
    "etc/passwd",
    "etc/shadow",
    "etc/ssh/sshd_config",
    "etc/ssh/sshd_config.d/00-keyward.conf",
    "etc/subgid",
    "etc/subuid",
    "etc/sudoers.d/90-keyward-deploy",
    "etc/systemd/system/multi-user.target.wants/ufw.service",
    "etc/ufw/ufw.conf",
    "etc/ufw/user.rules",
    "etc/ufw/user6.rules",
    "home/deploy",
    OWN_STATE[0],
];
const OWN_STATE: [&str; 2] = ["var/lib/keyward", "var/log/keyward"];

/// A tree of its own, and the playbook beside it; gone with this value.
struct Site {
    dir: PathBuf,
    tree: PathBuf,
    playbook: String,
}

impl Site {
    fn new(name: &str, suite: &str) -> Option<Self> {
        let lab = match support::tree(suite) {
            Ok(lab) => lab,
            Err(reason) => {
                skipped(name, &reason);
                return None;
            }
        };
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tree-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let tree = dir.join("tree");
        let mut copy = Command::new("/bin/cp");
        copy.args(["-a", "--reflink=auto"]).args([&lab, &tree]);
        finish(copy, b"").ok();
        std::fs::write(dir.join("first-login.yml"), JOB).unwrap();
        std::fs::write(dir.join("first-login.pub"), KEY).unwrap();
        let playbook = dir.join("first-login.yml").to_str().unwrap().to_owned();
        Some(Self { dir, tree, playbook })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(KEYWARD);
        command.args(words).arg("--root").arg(&self.tree);
        command
    }

    fn keyward(&self, words: &[&str]) -> Done {
        finish(self.command(words), b"")
    }

    fn apply(&self) -> Done {
        self.keyward(&["apply", &self.playbook, "--yes"])
    }

    /// Applies, and does something when a line of the events has `mark` in it.
    fn apply_and_at(&self, mark: &str, act: impl FnOnce(&mut std::process::Child)) -> Done {
        let mut command = self.command(&["apply", &self.playbook, "--yes", "--format", "json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut stdout = String::new();
        for line in lines.by_ref() {
            stdout.push_str(&line);
            stdout.push('\n');
            if line.contains(mark) {
                act(&mut child);
                break;
            }
        }
        lines.for_each(|line| stdout.push_str(&format!("{line}\n")));
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Done { code: output.status.code().unwrap_or(-1), stdout, stderr }
    }

    /// Every path with kind, mode, owner, link target, extended attributes, and the digest of every file.
    fn digest(&self) -> Vec<String> {
        let script = "cd \"$1\" && find . -printf '%P|%y %m %U:%G %l\\n'; find . -type f -print0 | xargs -0 sha256sum | \
                      sed 's,^\\([0-9a-f]*\\)  \\./\\(.*\\),\\2|\\1,'";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh"]).arg(&self.tree);
        let mut lines: Vec<String> = finish(command, b"").ok().stdout.lines().map(str::to_owned).collect();
        attributes(&self.tree, &self.tree, &mut lines);
        lines.sort();
        lines
    }

    fn runs(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.tree.join("var/lib/keyward/runs")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter_map(|name| name.strip_suffix(".journal").map(str::to_owned)).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn attributes(root: &Path, path: &Path, lines: &mut Vec<String>) {
    for name in xattr::list(path).unwrap() {
        let shown = path.strip_prefix(root).unwrap().display();
        lines.push(format!("{shown}|{} = {:?}", name.display(), xattr::get(path, &name).unwrap()));
    }
    if path.symlink_metadata().unwrap().is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            attributes(root, &entry.unwrap().path(), lines);
        }
    }
}

/// Paths that differ, without those below `allowed`.
fn differs(before: &[String], after: &[String], allowed: &[&str]) -> Vec<String> {
    let old: std::collections::BTreeSet<_> = before.iter().collect();
    let new: std::collections::BTreeSet<_> = after.iter().collect();
    let path = |line: &str| line.split('|').next().unwrap().to_owned();
    let below = |line: &str| allowed.iter().any(|allowed| Path::new(&path(line)).starts_with(allowed));
    old.symmetric_difference(&new).filter(|line| !below(line)).map(|line| (*line).clone()).collect()
}

fn nothing() -> Vec<String> {
    Vec::new()
}

#[test]
fn applied_proven_on_a_copy_and_rolled_back() {
    for suite in ["bullseye", "trixie"] {
        let Some(site) = Site::new("applied_proven", suite) else { return };
        let (before, kernel) = (site.digest(), machine());
        let done = site.apply();
        assert_eq!(done.code, 0, "{suite}: {}\n{}", done.stdout, done.stderr);
        assert!(
            done.stdout.contains("applied 8 changes to the tree, proven on a booted copy of it"),
            "{}",
            done.stdout
        );
        assert!(done.stdout.contains("login as deploy and sudo, port 2222"), "{}", done.stdout);
        let applied = site.digest();
        let allowed: Vec<&str> = PLANNED.iter().chain(&OWN_STATE).copied().collect();
        assert_eq!(differs(&before, &applied, &allowed), nothing(), "{suite}: other paths changed");
        assert_ne!(differs(&before, &applied, &OWN_STATE), nothing(), "{suite}: nothing was done");

        assert_eq!(site.apply().code, 0, "{suite}");
        assert_eq!(differs(&applied, &site.digest(), &[]), nothing(), "{suite}: the second apply wrote");
        let run = &site.runs()[0];
        let history = site.keyward(&["history"]).ok().stdout;
        assert!(history.contains(run) && history.contains("(exit 0)"), "{history}");
        let shown = site.keyward(&["show", run]).ok().stdout;
        assert!(shown.contains("login as deploy and sudo, port 2222"), "{shown}");
        site.keyward(&["log", "verify"]).ok();
        assert_eq!(differs(&applied, &site.digest(), &[]), nothing(), "{suite}: looking wrote");

        // The image runs, and what was done to it can be undone there.
        let bed = Bed::over(&site.tree);
        assert!(bed.reaches(2222) && !bed.reaches(22), "{suite}: {:?}", bed.booted);
        let back = bed.keyward(&["rollback", "--yes", UNGUARDED]);
        assert_eq!(back.code, 0, "{suite}: {}\n{}", back.stdout, back.stderr);
        assert!(bed.reaches(22) && !bed.reaches(2222), "{suite}: the running image did not follow");
        drop(bed);

        let back = site.keyward(&["rollback", "--yes"]);
        assert_eq!(back.code, 0, "{suite}: {}\n{}", back.stdout, back.stderr);
        assert_eq!(differs(&before, &site.digest(), &OWN_STATE), nothing(), "{suite}: rolled back to something else");
        support::machine::same(&kernel, &machine());
    }
}

#[test]
fn what_is_missing_is_installed_into_the_tree() {
    let Some(site) = Site::new("what_is_missing", "bookworm-bare") else { return };
    assert!(!site.tree.join("usr/sbin/sshd").exists(), "the bare tree has an sshd");
    let before = site.digest();
    let done = site.apply();
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("login as deploy and sudo, port 2222"), "{}", done.stdout);
    let lent = ["var/cache/apt", "var/lib/apt/lists", "etc/resolv.conf", "run", "dev", "usr/sbin/policy-rc.d"];
    let changed = differs(&before, &site.digest(), &[]);
    let left: Vec<_> = changed.iter().filter(|line| lent.iter().any(|path| line.starts_with(path))).collect();
    assert!(left.is_empty(), "left in the tree: {left:?}");
    let bed = Bed::over(&site.tree);
    assert!(bed.reaches(2222) && !bed.reaches(22), "{:?}", bed.booted);
}

#[test]
fn a_kill_leaves_a_journal_that_rollback_undoes() {
    let Some(site) = Site::new("a_kill", "bookworm") else { return };
    let before = site.digest();
    for mark in ["\"event\":\"started\"", "\"change\":\"sshd:open\"", "\"event\":\"proof\""] {
        let done = site.apply_and_at(mark, |child| child.kill().unwrap());
        assert_eq!(done.code, -1, "at {mark}: {}\n{}", done.stdout, done.stderr);
        // What the warden still ends holds the tree a moment longer.
        let begun = Instant::now();
        let next = loop {
            let next = site.apply();
            if next.code != 6 || begun.elapsed() > Duration::from_secs(10) {
                break next;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(next.code, 5, "at {mark}: {}\n{}", next.stdout, next.stderr);
        let run = site.runs().into_iter().max().unwrap();
        let command = format!("keyward rollback {run} --root {}", site.tree.display());
        assert!(next.stderr.contains(&command), "at {mark}: {}", next.stderr);
        site.keyward(&["rollback", &run, "--yes"]).ok();
        assert_eq!(differs(&before, &site.digest(), &OWN_STATE), nothing(), "at {mark}");
    }
}

/// The tree is spoilt by somebody else after the rehearsal: the last proof notices, and what keyward did goes.
#[test]
fn a_last_proof_that_fails_takes_it_back() {
    let Some(site) = Site::new("a_last_proof", "bookworm") else { return };
    let spoilt = "etc/ssh/sshd_config.d/zz-others.conf";
    let before = site.digest();
    let done = site.apply_and_at("\"event\":\"started\"", |_| {
        std::fs::write(site.tree.join(spoilt), "Nonsense yes\n").unwrap();
    });
    assert_eq!(done.code, 3, "{}\n{}", done.stdout, done.stderr);
    let allowed: Vec<&str> = OWN_STATE.iter().copied().chain([spoilt]).collect();
    assert_eq!(differs(&before, &site.digest(), &allowed), nothing());
    std::fs::remove_file(site.tree.join(spoilt)).unwrap();
    let next = site.apply();
    assert_eq!(next.code, 0, "{}\n{}", next.stdout, next.stderr);
}

#[test]
fn refusals_leave_the_tree_alone() {
    let Some(site) = Site::new("refusals", "bookworm") else { return };
    let before = site.digest();
    #[track_caller]
    fn refused(done: &Done, code: i32, words: &str) {
        assert_eq!(done.code, code, "{}\n{}", done.stdout, done.stderr);
        assert!(done.stderr.contains(words), "{words}: {}", done.stderr);
    }
    // Nobody says yes.
    refused(&site.keyward(&["apply", &site.playbook]), 5, "keyward apply --yes");
    refused(&site.keyward(&["apply", "playbooks/first-login.yml", "--yes"]), 5, "example's public key");
    refused(&site.keyward(&["status"]), 1, "own records");
    refused(&site.keyward(&["apply", &site.playbook, "--yes", "--detach"]), 1, "no confirmation");
    refused(&site.keyward(&["rollback", "--yes", "--confirm-within", "9s"]), 1, "no confirmation");
    let at = |root: &str| {
        let mut command = Command::new(KEYWARD);
        command.args(["apply", &site.playbook, "--yes", "--root", root]);
        finish(command, b"")
    };
    refused(&at("/"), 5, "running machine");
    let dir = std::fs::File::open(&site.tree).unwrap();
    let held = nix::fcntl::Flock::lock(dir, nix::fcntl::FlockArg::LockSharedNonblock).unwrap();
    refused(&site.apply(), 6, "another run");
    drop(held);
    assert_eq!(differs(&before, &site.digest(), &[]), nothing());

    // Ports that only systemd would open, in a place where no copy can see them.
    let wants = site.tree.join("etc/systemd/system/sockets.target.wants");
    std::fs::create_dir_all(&wants).unwrap();
    std::os::unix::fs::symlink("/lib/systemd/system/ssh.socket", wants.join("ssh.socket")).unwrap();
    refused(&site.apply(), 5, "ssh.socket");
    std::fs::remove_file(wants.join("ssh.socket")).unwrap();
    // sshd would not run once the tree boots.
    let enabled = site.tree.join("etc/systemd/system/multi-user.target.wants/ssh.service");
    let unit = std::fs::read_link(&enabled).unwrap();
    std::fs::remove_file(&enabled).unwrap();
    refused(&site.apply(), 5, "sshd:start");
    std::os::unix::fs::symlink(unit, &enabled).unwrap();
    // A tree without the directories that are covered while it is worked on.
    std::fs::rename(site.tree.join("run"), site.tree.join("walk")).unwrap();
    refused(&site.apply(), 5, "mkdir");
    std::fs::rename(site.tree.join("walk"), site.tree.join("run")).unwrap();
    let wants = ["etc/systemd/system/sockets.target.wants"];
    assert_eq!(differs(&before, &site.digest(), &wants), nothing());
}

/// Links in a tree lead nowhere but into it.
#[test]
fn a_hostile_tree_writes_nothing_outside() {
    let Some(site) = Site::new("a_hostile_tree", "bookworm") else { return };
    let outside = site.dir.join("outside");
    std::fs::create_dir(&outside).unwrap();
    let climbing = Path::new("../../../../../../../../../..").join(outside.strip_prefix("/").unwrap());
    // The last is no hindrance: nothing is lent through a link.
    for (path, target) in [
        ("home", &outside),
        ("var/log", &climbing),
        ("var/lib/keyward", &outside),
        ("etc/sudoers.d", &climbing),
        ("var/cache/apt", &outside),
    ] {
        let (path, aside) = (site.tree.join(path), site.dir.join("aside"));
        let there = path.exists();
        if there {
            std::fs::rename(&path, &aside).unwrap();
        }
        std::os::unix::fs::symlink(target, &path).unwrap();
        let done = site.apply();
        assert_eq!(done.code == 0, path.ends_with("apt"), "{}: {}", path.display(), done.stdout);
        // The tree itself is entered without a rehearsal before it.
        for words in [&["history"][..], &["log"], &["rollback", "--yes"]] {
            site.keyward(words);
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{}: written outside", path.display());
        std::fs::remove_file(&path).unwrap();
        if there {
            std::fs::rename(&aside, &path).unwrap();
        }
    }
}

#[test]
fn only_root_changes_a_tree() {
    let Some(bed) = Bed::new("only_root", "bookworm") else { return };
    let program = "/usr/local/bin/keyward";
    bed.plant(program, &std::fs::read(KEYWARD).unwrap(), 0o755, (0, 0));
    bed.plant("/srv/first-login.yml", JOB.as_bytes(), 0o644, (0, 0));
    bed.plant("/srv/first-login.pub", KEY.as_bytes(), 0o644, (0, 0));
    for verb in [&["apply", "/srv/first-login.yml", "--yes"][..], &["history"], &["rollback", "--yes"]] {
        let plain = ["/usr/bin/setpriv", "--reuid=4000", "--regid=4000", "--clear-groups", program, "--root", "/srv"];
        let done = bed.run(&[&plain[..], verb].concat());
        assert_eq!(done.code, 5, "{verb:?}: {}", done.stderr);
        assert!(done.stderr.contains("must be root"), "{}", done.stderr);
    }
}

/// On a copy, as it is once it has booted; the tree itself is not touched, and what is in it is not believed.
#[test]
fn a_tree_is_judged_on_a_copy() {
    for suite in support::SUITES {
        let Some(site) = Site::new(&format!("judged-{suite}"), suite) else { return };
        let before = site.digest();
        let blank = site.keyward(&["audit", &site.playbook]);
        assert!(blank.code == 2 && blank.stdout.contains("firewall-default-deny"), "{suite}: {blank:?}");
        assert_eq!(differs(&before, &site.digest(), &[]), Vec::<String>::new(), "{suite}");
        site.apply().ok();
        let before = site.digest();
        let hardened = site.keyward(&["audit", "--severity", "high", &site.playbook]);
        assert_eq!(hardened.code, 0, "{suite}: {hardened:?}");
        assert_eq!(differs(&before, &site.digest(), &[]), Vec::<String>::new(), "{suite}");
        std::fs::write(site.tree.join("etc/ssh/sshd_config.d/00-a.conf"), "PermitRootLogin yes\n").unwrap();
        let spoiled = site.keyward(&["audit", "--severity", "high", &site.playbook]);
        assert!(spoiled.code == 2 && spoiled.stdout.contains("permit_root_login"), "{suite}: {spoiled:?}");
    }
}
