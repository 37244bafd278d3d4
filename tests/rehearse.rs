//! The main job on real systems of four releases: rehearsed on a copy that leaves the original alone; then on a host of
//! its own: applied, applied again without a write, rolled back byte for byte.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::path::Path;
use std::process::Command;

use support::machine::machine;
use support::{Bed, Done, KEYWARD, SUITES, finish, skipped, snapshot};

const PLAYBOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/playbooks/first-login.yml");
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/playbooks/first-login.pub");
/// Lets an apply without a guard change ways in: these hosts are thrown away.
const UNGUARDED: &str = "--i-accept-that-this-host-may-lock-me-out";

#[test]
fn a_rehearsal_proves_the_playbook_and_leaves_the_original_alone() {
    for suite in SUITES {
        let tree = match support::tree(suite) {
            Ok(tree) => tree,
            Err(reason) => return skipped("a_rehearsal_proves_the_playbook", &reason),
        };
        let before = snapshot(&tree);
        let mut command = Command::new(KEYWARD);
        command.args(["rehearse", PLAYBOOK, "--format", "json", "--root"]).arg(&tree);
        let done = finish(command, b"");
        assert_eq!(done.code, 0, "{suite}: {}\n{}", done.stdout, done.stderr);
        let proven = |text: &str| {
            let found = done.stdout.lines().any(|line| line.contains("\"proven\"") && line.contains(text));
            assert!(found, "{suite}: not proven: {text}\n{}", done.stdout);
        };
        proven("login as deploy and sudo");
        proven("login as root is refused");
        proven("passwords are not offered to deploy");
        proven("closed");
        proven("the firewall lets in");
        let told = done.stdout.contains("nobody has its private half");
        assert!(told, "{suite}: the example's key is not told:\n{}", done.stdout);
        assert_eq!(before, snapshot(&tree), "{suite}: the original changed");
    }
}

#[test]
fn a_run_that_is_struck_in_the_middle_lets_somebody_in_afterwards() {
    let tree = match support::tree("trixie") {
        Ok(tree) => tree,
        Err(reason) => return skipped("a_run_that_is_struck_in_the_middle", &reason),
    };
    let struck = |fault: &str| {
        let mut command = Command::new(KEYWARD);
        command.args(["rehearse", PLAYBOOK, "--fault", fault, "--root"]).arg(&tree);
        let mut done = finish(command, b"");
        done.stdout = done.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        done
    };
    for (fault, how) in [
        ("kill@4", &["rolled back: the deadline passed without a confirmation (exit 3)"][..]),
        // The agent lives, and sees the end of its time as soon as the watchdog does.
        ("drop@5", &["the deadline passed without a confirmation (exit 3)", "was not confirmed in time (exit 3)"]),
        ("reboot@7", &["rolled back: the machine rebooted before the run was over (exit 3)"]),
    ] {
        let done = struck(fault);
        assert_eq!(done.code, 0, "{fault}: {done:?}");
        let told = format!("{}{}", done.stdout, done.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(how.iter().any(|how| told.contains(how)), "{fault}: {told}");
        for family in ["IPv4", "IPv6"] {
            let login = format!("proven L2 old door: login as root, port 22, {family}: in");
            assert!(done.stdout.contains(&login), "{fault}: {told}");
        }
    }
    let done = struck("drop@7");
    assert!(done.code == 0 && done.stdout.contains("the run went on to its end"), "{done:?}");
    let done = struck("kill@99");
    assert!(done.code == 1 && done.stderr.contains("the run ended before the fault could strike"), "{done:?}");
}

/// keyward's own processes at a terminal are nobody who is logged in by the new account, which has to go.
#[test]
fn a_run_at_a_terminal_is_undone_whole() {
    let test = "a_run_at_a_terminal_is_undone_whole";
    let tree = match support::tree("bookworm") {
        Ok(tree) => tree,
        Err(reason) => return skipped(test, &reason),
    };
    let line = format!("exec {KEYWARD} rehearse {PLAYBOOK} --fault drop@5 --root {}", tree.display());
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", &line, "/dev/null"]);
    let done = finish(command, b"");
    let told = done.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(done.code == 0 && told.contains("survived drop@5: rolled back"), "{} {told}", done.code);
}

/// The first day of a server: nothing is installed, so packages are fetched into the copy and sshd is started.
#[test]
fn a_rehearsal_of_a_bare_machine_fetches_what_is_missing() {
    let tree = match support::tree("bookworm-bare") {
        Ok(tree) => tree,
        Err(reason) => return skipped("a_rehearsal_of_a_bare_machine", &reason),
    };
    assert!(!tree.join("usr/sbin/sshd").exists(), "the bare tree has an sshd");
    let before = snapshot(&tree);
    let mut command = Command::new(KEYWARD);
    command.args(["rehearse", PLAYBOOK, "--root"]).arg(&tree);
    let done = finish(command, b"");
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("login as deploy and sudo, port 2222"), "{}", done.stdout);
    assert_eq!(before, snapshot(&tree), "the original changed");
}

/// What a program of the host says is text from the host: bounded and escaped, whoever reads it.
#[test]
fn what_apt_says_reaches_no_terminal_as_it_is() {
    let name = "what_apt_says_reaches_no_terminal_as_it_is";
    let tree = match support::tree("bookworm-bare") {
        Ok(tree) => tree,
        Err(reason) => return skipped(name, &reason),
    };
    let script = r#"
        set -e
        mount -t tmpfs -o mode=755 keyward-test /mnt
        mkdir /mnt/upper /mnt/work /mnt/root
        mount -t overlay -o lowerdir="$1",upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
        rm /mnt/root/usr/bin/apt-get
        printf '#!/bin/sh\nprintf "E: \033[2Jno archive %%01000d\\n" 0 >&2\nexit 100\n' >/mnt/root/usr/bin/apt-get
        chmod 755 /mnt/root/usr/bin/apt-get
        exec "$2" rehearse "$3" --format "$4" --root /mnt/root
    "#;
    for format in ["human", "json"] {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.arg(&tree).args([KEYWARD, PLAYBOOK, format]);
        let done = finish(command, b"");
        let told = format!("{}{}", done.stdout, done.stderr);
        assert!(told.contains("could not be fetched into the copy") && told.contains("no archive"), "{told}");
        assert!(!told.contains('\u{1b}'), "{format}: {told:?}");
        assert!(!told.contains(&"0".repeat(500)), "{format}: not bounded: {told}");
        assert!(format == "human" || !done.stderr.contains("archive"), "beside the events: {}", done.stderr);
    }
}

#[test]
fn a_rehearsal_of_this_machine_leaves_it_alone() {
    let name = "a_rehearsal_of_this_machine";
    if !nix::unistd::geteuid().is_root() {
        return skipped(name, "not root");
    }
    let before = machine();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "one_rehearsal_of_this_machine", "--ignored", "--nocapture"])
        .env(support::again::CASE, "x");
    let done = finish(command, b"").ok();
    assert!(done.stdout.contains("1 passed"), "{}", done.stdout);
    support::machine::same(&before, &machine());
}

/// In a container without an init, orphans fall to a process 1 that waits for none of them: it may be keyward itself.
#[test]
fn a_rehearsal_ends_where_nobody_waits_for_orphans() {
    let name = "a_rehearsal_ends_where_nobody_waits_for_orphans";
    let tree = match support::tree("bookworm") {
        Ok(tree) => tree,
        Err(reason) => return skipped(name, &reason),
    };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "one_rehearsal_without_an_init", "--ignored", "--nocapture"]);
    command.env(support::again::CASE, tree);
    assert!(finish(command, b"").ok().stdout.contains("1 passed"));
}

#[test]
#[ignore = "runs inside the process that a_rehearsal_ends_where_nobody_waits_for_orphans starts"]
fn one_rehearsal_without_an_init() {
    let Some(tree) = std::env::var_os(support::again::CASE) else { return };
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "60", KEYWARD, "rehearse", PLAYBOOK, "--root"]).arg(tree);
    let done = finish(command, b"");
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
}

/// The inner half, in a process of its own: no other test's children are among what is left running.
#[test]
#[ignore = "runs inside the process that a_rehearsal_of_this_machine_leaves_it_alone starts"]
fn one_rehearsal_of_this_machine() {
    if std::env::var_os(support::again::CASE).is_none() {
        return;
    }
    let mut command = Command::new(KEYWARD);
    command.args(["rehearse", PLAYBOOK]);
    let (done, left) = support::machine::with_leftovers(command);
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("login as deploy and sudo, port 2222"), "{}", done.stdout);
    assert_eq!(left, Vec::<String>::new(), "left running");
}

/// Applied and proven as far as a login on the host itself can: its firewall lets loopback through, so what the
/// firewall lets in stays unknown, exit 9; the tests look from outside.
#[track_caller]
fn applied(done: &Done) {
    let unknown: Vec<&str> = done.stdout.lines().filter(|line| line.trim_start().starts_with("UNKNOWN")).collect();
    let expected = if unknown.is_empty() { 0 } else { 9 };
    assert_eq!(done.code, expected, "{}\n{}", done.stdout, done.stderr);
    assert!(unknown.iter().all(|line| line.contains("the firewall's openings")), "{unknown:?}");
}

#[test]
fn rules_are_compared_by_what_they_say() {
    let plain = |text: &str| support::plain_rules(text);
    let one = "4 *filter\n4 :INPUT ACCEPT [1:2]\n4 :own - [0:0]\n4 -A INPUT -p tcp -j own\n4 COMMIT\n";
    assert_eq!(plain(one), ["IPv4 filter -A INPUT -p tcp -j own", "IPv4 filter :own -"]);
    assert_eq!(plain(one), plain(&one.replace("[1:2]", "[7:9]")), "counters");
    assert_eq!(plain("6 *nat\n6 :OUTPUT ACCEPT [0:0]\n6 COMMIT\n"), plain(""), "an empty table");
    for other in [
        one.replace("tcp", "udp"),
        one.replace("4 ", "6 "),
        one.replace("ACCEPT", "DROP"),
        one.replace("filter", "nat"),
    ] {
        assert_ne!(plain(one), plain(&other), "{other}");
    }
}

fn kernel_rules(bed: &Bed) -> Vec<String> {
    support::plain_rules(&bed.sh(support::RULES).ok().stdout)
}

#[test]
fn applied_then_converged_then_rolled_back_byte_for_byte() {
    for suite in SUITES {
        let Some(bed) = Bed::new("applied_then_converged", suite) else { return };
        bed.plant("/root/first-login.yml", &std::fs::read(PLAYBOOK).unwrap(), 0o600, (0, 0));
        bed.plant("/root/first-login.pub", &std::fs::read(KEY).unwrap(), 0o600, (0, 0));
        let (before, rules) = (bed.snapshot(), kernel_rules(&bed));
        let apply = || bed.keyward(&["apply", "/root/first-login.yml", "--yes", UNGUARDED]);
        let first = apply();
        applied(&first);
        assert!(bed.reaches(2222) && !bed.reaches(22), "{suite}: the port did not move");
        let applied = bed.snapshot();
        assert_ne!(before, applied, "{suite}: nothing was done");

        let daemon = |bed: &Bed| bed.sh("pid=$(cat /run/sshd.pid); echo $pid; stat -c %Y /run/sshd.pid").ok().stdout;
        // A reload sets the packet counters back.
        let counted = |bed: &Bed| -> u64 {
            let rules = bed.sh("iptables-save -c; ip6tables-save -c").ok().stdout;
            let counts = rules.lines().filter_map(|line| line.strip_prefix('[')?.split_once(':'));
            counts.map(|(packets, _)| packets.parse::<u64>().unwrap()).sum()
        };
        let (running, loaded) = (daemon(&bed), counted(&bed));
        let second = apply();
        assert_eq!(second.code, 0, "{suite}: {}\n{}", second.stdout, second.stderr);
        assert_eq!(applied, bed.snapshot(), "{suite}: the second apply wrote");
        assert_eq!(running, daemon(&bed), "{suite}: the second apply reloaded sshd");
        assert!(loaded > 0 && counted(&bed) >= loaded, "{suite}: the second apply reloaded the firewall");
        assert_eq!(bed.keyward(&["plan", "/root/first-login.yml"]).code, 0, "{suite}: not converged");

        let back = bed.keyward(&["rollback", "--yes", UNGUARDED]);
        assert_eq!(back.code, 0, "{suite}: {}\n{}", back.stdout, back.stderr);
        let after = bed.snapshot();
        assert_eq!(before, after, "{suite}: rolled back to something else:\n{}", support::difference(&before, &after));
        assert_eq!(rules, kernel_rules(&bed), "{suite}: the kernel's rules are others than before");
        assert!(bed.reaches(22) && !bed.reaches(2222), "{suite}: the port did not move back");
    }
}

#[test]
fn an_applied_host_boots_into_the_same_state() {
    let Some(mut bed) = Bed::new("an_applied_host_boots", "trixie") else { return };
    bed.plant("/root/first-login.yml", &std::fs::read(PLAYBOOK).unwrap(), 0o600, (0, 0));
    bed.plant("/root/first-login.pub", &std::fs::read(KEY).unwrap(), 0o600, (0, 0));
    applied(&bed.keyward(&["apply", "/root/first-login.yml", "--yes", UNGUARDED]));
    bed.reboot();
    assert_eq!(bed.booted.started, ["ufw", "sshd"], "{:?}", bed.booted);
    assert!(bed.reaches(2222) && !bed.reaches(22));
    let prove = bed.keyward(&["apply", "/root/first-login.yml", "--yes", "--prove", UNGUARDED]);
    applied(&prove);
    assert!(Path::new(PLAYBOOK).exists());
}
