//! The program from outside: exit codes, streams, help and manual, and the whole life of a run on a real Debian in a
//! throw-away copy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyward::change::{Level, Step};
use keyward::host::Node;
use keyward::outcome::{Event, Exit, Proven, Reach};
use support::{Bed, Done, KEYWARD, finish};

const ACCEPT: &str = "--i-accept-that-this-host-may-lock-me-out";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDug6wWrmfFXhsagNlHJL9Ua4x7AgSpmbBfCTl3dAgl/ ops@laptop\n";
const JOB: &str = "version: 1
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
  permit_root_login: \"no\"
  password_authentication: false
  max_auth_tries: 3
firewall:
  incoming: deny
  allow: [ 80/tcp, 443/tcp ]
";

fn keyward(words: &[&str]) -> Done {
    let mut command = Command::new(KEYWARD);
    command.args(words);
    finish(command, b"")
}

/// A fresh directory that only this test uses.
fn place(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// The events of a run, after checks that hold for all: every line is one, and the last tells the exit code.
#[track_caller]
fn events(done: &Done) -> Vec<Event> {
    let events: Vec<Event> =
        done.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let documented = include_str!("../ARCHITECTURE.md");
    for line in done.stdout.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = value["event"].as_str().unwrap();
        assert!(documented.contains(&format!("| `{name}` |")), "{name} is not in ARCHITECTURE.md");
    }
    let ends = events.iter().filter(|event| matches!(event, Event::Finished { .. })).count();
    assert_eq!(ends, 1, "{}", done.stdout);
    match events.last() {
        Some(Event::Finished { code, exit, .. }) => {
            assert_eq!((i32::from(*code), exit.code()), (done.code, *code), "{}", done.stdout);
        }
        other => panic!("last event is {other:?}"),
    }
    events
}

#[test]
fn clap_and_the_table_agree() {
    for (words, code) in [
        (&["--help"][..], Exit::AsAsked),
        (&["--version"], Exit::AsAsked),
        (&["plan", "--help"], Exit::AsAsked),
        (&[], Exit::Usage),
        (&["nonsense"], Exit::Usage),
        (&["plan"], Exit::Usage),
        (&["plan", "x", "--format", "xml"], Exit::Usage),
        (&["plan", "/nonexistent/p.yml"], Exit::Usage),
        (&["explain", "nonsense"], Exit::Usage),
        (&["history", "--target", "sandbox"], Exit::Usage),
    ] {
        let done = keyward(words);
        assert_eq!(done.code, i32::from(code.code()), "{words:?}: {done:?}");
        let (full, empty) =
            if code == Exit::AsAsked { (&done.stdout, &done.stderr) } else { (&done.stderr, &done.stdout) };
        assert!(!full.is_empty(), "{words:?}");
        assert!(empty.lines().count() <= 3, "{words:?}: {empty}");
    }
}

#[test]
fn help_manual_and_readme_hold_the_one_table() {
    let help = keyward(&["--help"]).stdout;
    let manual = keyward(&["man"]).stdout.replace("\\-", "-");
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for (exit, meaning) in Exit::TABLE {
        assert!(help.contains(&format!("  {}  {meaning}\n", exit.code())), "help: {meaning}");
        assert!(manual.contains(&format!("{}  {meaning}", exit.code())), "manual: {meaning}");
        assert!(readme.contains(&format!("| {} | {meaning} |", exit.code())), "README: {meaning}");
    }
}

#[test]
fn json_speaks_in_events_even_about_a_wrong_command_line() {
    for words in [&["plan", "--format", "json"][..], &["--format=json", "nonsense"]] {
        let done = keyward(words);
        let events = events(&done);
        assert!(matches!(&events[0], Event::Failed { .. }), "{events:?}");
        assert_eq!((done.code, done.stderr.as_str()), (1, ""), "{words:?}");
    }
    let events = events(&keyward(&["schema", "--format", "json"]));
    assert!(matches!(&events[0], Event::Text { name, text } if name == "schema" && text.contains("\"users\"")));
}

#[test]
fn a_playbook_shows_all_its_faults_with_places() {
    let dir = place("faults");
    let path = dir.join("bad.yml");
    std::fs::write(&path, "version: 1\nusers:\n  - name: \"a b\"\nsshh:\n  port: 99999\n").unwrap();
    let path = path.to_str().unwrap();
    let done = keyward(&["lint", path]);
    assert_eq!(done.code, 1);
    for place in [":3:", ":4:"] {
        assert!(done.stderr.contains(&format!("bad.yml{place}")), "{place}: {}", done.stderr);
    }
    assert!(done.stderr.contains("^^") && done.stderr.contains("help:"), "{}", done.stderr);
    // A number that is out of range hides no other.
    let ranges = dir.join("ranges.yml");
    std::fs::write(&ranges, "version: 1\nssh:\n  port: 0\n  max_auth_tries: 0\n").unwrap();
    let said = keyward(&["lint", ranges.to_str().unwrap()]).stderr;
    assert!(said.contains("ranges.yml:3:") && said.contains("ranges.yml:4:"), "{said}");
    let events = events(&keyward(&["lint", path, "--format", "json"]));
    assert!(events.iter().filter(|event| matches!(event, Event::Failed { .. })).count() >= 2, "{events:?}");
}

/// The playbook to try things with, beside a key that nobody can use.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/playbooks/first-login.yml");
const NOBODY: &str = "this is the example's public key, and nobody has its private half";

#[test]
fn the_example_key_is_told_before_anything_is_applied() {
    let lint = events(&keyward(&["lint", EXAMPLE, "--format", "json"]).ok());
    let told = |event: &Event| matches!(event, Event::Note { note } if note.level == Level::Warning && note.text.contains(NOBODY));
    assert!(lint.iter().any(told), "{lint:?}");
    let dir = place("own-key");
    std::fs::copy(EXAMPLE, dir.join("first-login.yml")).unwrap();
    std::fs::write(dir.join("first-login.pub"), KEY).unwrap();
    let own = events(&keyward(&["lint", dir.join("first-login.yml").to_str().unwrap(), "--format", "json"]).ok());
    assert!(!own.iter().any(told), "{own:?}");

    let Some(bed) = Bed::new("the_example_key_is_told", "bookworm") else { return };
    for name in ["first-login.yml", "first-login.pub"] {
        bed.plant(
            &format!("/root/{name}"),
            &std::fs::read(Path::new(EXAMPLE).with_file_name(name)).unwrap(),
            0o600,
            (0, 0),
        );
    }
    // With the warning, the blank line and the next command it is one screen, and names every change.
    let shown = bed.keyward(&["plan", "/root/first-login.yml"]).stdout;
    assert!(shown.contains(NOBODY.split(',').next().unwrap()) && shown.contains("\n\nnext: "), "{shown}");
    assert!((1..=8).all(|number| shown.contains(&format!("\n  {number} "))), "{shown}");
    assert!(shown.lines().count() <= 24 && shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
    let plan = bed.keyward(&["plan", "/root/first-login.yml", "--format", "json"]);
    assert_eq!(plan.code, 2, "{plan:?}");
    let plan = events(&plan);
    assert!(matches!(plan[0], Event::Planned { .. }) && plan.iter().any(told), "{plan:?}");
    let words = ["--yes", "--without-boot-guard", "--confirm-within", "300s"];
    let apply = bed.keyward(&[&["apply", "/root/first-login.yml"][..], &words].concat());
    assert_eq!(apply.code, 5, "{apply:?}");
    assert!(apply.stderr.contains(NOBODY), "{}", apply.stderr);
}

#[test]
fn a_closed_standard_output_is_no_panic() {
    for words in [&["schema"][..], &["--help"], &["schema", "--format", "json"]] {
        let script = "exec 2>\"$ERR\"; { \"$@\"; echo $? >\"$CODE\"; } | :";
        let dir = place("closed");
        let done = Command::new("sh")
            .args(["-c", script, "sh", KEYWARD])
            .args(words)
            .env("ERR", dir.join("err"))
            .env("CODE", dir.join("code"))
            .status()
            .unwrap();
        assert!(done.success());
        assert_eq!(std::fs::read_to_string(dir.join("code")).unwrap().trim(), "0", "{words:?}");
        assert_eq!(std::fs::read_to_string(dir.join("err")).unwrap(), "", "{words:?}");
    }
    // A stream that was never open.
    let done = Command::new("sh").args(["-c", "\"$0\" schema >&- 2>&- <&-", KEYWARD]).status().unwrap();
    assert!(done.success());
}

/// A file that was cut short must not pass for a whole one: what is printed here gets installed.
#[test]
fn a_full_standard_output_is_an_error() {
    for words in [
        &["schema"][..],
        &["explain"],
        &["explain", "sshd"],
        &["man"],
        &["completions", "bash"],
        &["schema", "--format", "json"],
        &["--help"],
        &["lint", "playbooks/first-login.yml"],
        &["lint", "playbooks/first-login.yml", "--format", "json"],
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let done = Command::new(KEYWARD).args(words).stdin(Stdio::null()).stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(i32::from(Exit::CannotJudge.code())), "{words:?}: {said}");
        assert!(said.contains("error: standard output: cannot be written: No space left"), "{words:?}: {said}");
    }
}

#[test]
fn nothing_hostile_reaches_the_terminal() {
    let done = keyward(&["lint", "/nonexistent/\u{1b}[2J\u{9b}31m\u{202e}.yml"]);
    assert_eq!(done.code, 1);
    let shown = format!("{}{}", done.stdout, done.stderr);
    assert!(!shown.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{shown:?}");
    assert!(shown.contains("\\u{1b}") || shown.contains('?'), "{shown:?}");
}

#[test]
fn without_root_it_says_so_with_the_command() {
    use std::os::unix::process::CommandExt as _;
    let dir = std::env::temp_dir().join(format!("keyward-cli-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir(&dir).unwrap();
    let (program, playbook) = (dir.join("keyward"), dir.join("p.yml"));
    std::fs::copy(KEYWARD, &program).unwrap();
    std::fs::write(&playbook, "version: 1\nssh: { max_auth_tries: 3 }\n").unwrap();
    for path in [&dir, &program, &playbook] {
        let mode = if path == &playbook { 0o644 } else { 0o755 };
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    for verb in ["plan", "apply"] {
        let mut command = Command::new(&program);
        command.arg(verb).arg(&playbook);
        if nix::unistd::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        let done = finish(command, b"");
        assert_eq!(done.code, 5, "{done:?}");
        let wanted = format!("sudo keyward {verb} {}", playbook.display());
        assert!(done.stderr.contains("must be root") && done.stderr.contains(&wanted), "{}", done.stderr);
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn init_writes_a_playbook_that_passes_and_never_overwrites() {
    let dir = place("init");
    let (key, out) = (dir.join("me.pub"), dir.join("site.yml"));
    std::fs::write(&key, KEY).unwrap();
    let words = ["init", "--yes", "--user", "ada", "--port", "2200"];
    let paths = ["--key", key.to_str().unwrap(), "--output", out.to_str().unwrap()];
    let first = keyward(&[&words[..], &paths[..]].concat());
    assert_eq!(first.code, 0, "{first:?}");
    assert!(first.stdout.contains("next: keyward rehearse"), "{first:?}");
    let text = std::fs::read_to_string(&out).unwrap();
    assert!(text.contains("ada") && text.contains("2200") && text.contains("AAAAC3NzaC1lZDI1NTE5"), "{text}");
    let lint = keyward(&["lint", out.to_str().unwrap()]);
    assert_eq!(lint.code, 0, "{lint:?}");
    let second = keyward(&[&words[..], &paths[..]].concat());
    assert_eq!(second.code, 5, "{second:?}");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), text);
    let link = dir.join("link.yml");
    std::os::unix::fs::symlink(dir.join("elsewhere.yml"), &link).unwrap();
    let through = keyward(&["init", "--yes", "--output", link.to_str().unwrap()]);
    assert_eq!(through.code, 5, "{through:?}");
    assert!(!dir.join("elsewhere.yml").exists());
    assert_eq!(mode(&out), 0o644, "whoever is to use it cannot read it");
}

/// Says `{number}/tcp listens` once it does.
const LISTENS: &str = "n=0; until grep -q \"$(printf ':%04X 00000000:0000 0A' \"$1\")\" /proc/net/tcp; \
                       do n=$((n+1)); test $n -lt 100; sleep 0.05; done";

/// Behind a single address, and beside a port that one of sshd's sessions forwards to this host.
#[test]
fn init_writes_the_present_port_or_none() {
    let Some(bed) = Bed::new("init_writes_the_present_port_or_none", "bookworm") else { return };
    bed.plant("/usr/local/bin/keyward", &std::fs::read(KEYWARD).unwrap(), 0o755, (0, 0));
    let init = |before: &[&str], out: &str| {
        let words = ["/usr/local/bin/keyward", "init", "--yes", "--user", "ada", "--output", out];
        let done = bed.run(&[before, &words].concat()).ok();
        (bed.read(out), done)
    };
    let forward = "cp /usr/bin/perl /tmp/sshd; setsid -f /tmp/sshd -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(\
                   LocalAddr => \"127.0.0.1\", LocalPort => 6010, Listen => 5) or die; sleep 60' >/dev/null 2>&1 </dev/null";
    let address = keyward::target::sandbox::INSIDE_V4;
    let moved = format!(
        "printf 'Port 2022\\nListenAddress {address}\\n' >/etc/ssh/sshd_config.d/here.conf; kill -HUP \"$(cat /run/sshd.pid)\""
    );
    for (script, port) in [(forward, "6010"), (&*moved, "2022")] {
        bed.sh(script).ok();
        bed.run(&["/bin/sh", "-ec", LISTENS, "sh", port]).ok();
    }
    let (text, _) = init(&[], "/root/as-root.yml");
    assert!(text.contains("\n  port: 2022 ") && text.contains("# as it is now"), "{text}");
    assert!(!text.contains("2022/tcp"), "{text}");
    // Whoever may not see whose a socket is does not guess.
    let nobody = ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let (text, done) = init(&nobody, "/tmp/as-nobody.yml");
    assert!(!text.contains("\n  port:") && done.stdout.contains("SSH port cannot be told"), "{text}\n{done:?}");

    // Without a key nothing may shut root out, and the next thing is a key.
    assert!(text.contains("\n  # permit_root_login: \"no\""), "{text}");
    let plan = bed.keyward(&["plan", "/root/as-root.yml"]);
    assert_eq!(plan.code, 2, "{plan:?}");
    assert!(!done.stdout.contains("next: keyward") && done.stdout.contains("public key"), "{done:?}");
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

/// Behind sudo the new file is the caller's, where the directory is; else it stays with root.
#[test]
fn init_gives_the_playbook_to_whoever_called_sudo() {
    if !nix::unistd::geteuid().is_root() {
        return support::skipped("init_gives_the_playbook_to_whoever_called_sudo", "not root");
    }
    let (dir, other) = (place("init-sudo"), 12_345);
    for (owner, wanted) in [(other, (other, 12_346)), (0, (0, 0)), (54_321, (0, 0))] {
        let (home, file) = (dir.join(owner.to_string()), dir.join(owner.to_string()).join("site.yml"));
        std::fs::create_dir(&home).unwrap();
        std::os::unix::fs::chown(&home, Some(owner), Some(owner)).unwrap();
        let mut command = Command::new(KEYWARD);
        command.args(["init", "--yes", "--user", "ada", "--output"]).arg(&file);
        command.env("SUDO_UID", other.to_string()).env("SUDO_GID", "12346");
        finish(command, b"").ok();
        let meta = file.metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), wanted, "in a directory of uid {owner}");
        assert_eq!(mode(&file), 0o644);
    }
}

/// A pipe would be waited for without end, a device read until the memory is full.
#[test]
fn named_files_are_regular_ones_and_small() {
    let dir = place("named");
    let (pipe, big) = (dir.join("pipe"), dir.join("big"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::File::create(&big).unwrap().set_len(1 << 33).unwrap();
    for file in [&pipe, &big, &PathBuf::from("/dev/zero"), &dir] {
        let mut command = Command::new("/usr/bin/timeout");
        command.args(["5", "/usr/bin/prlimit", "--as=1000000000", KEYWARD, "init", "--yes", "--key"]).arg(file);
        command.arg("--output").arg(dir.join("site.yml"));
        let done = finish(command, b"");
        let why = if *file == big { "larger than" } else { "not a regular file" };
        assert!(done.code == 1 && done.stderr.contains(why), "{}: {done:?}", file.display());
    }
}

#[test]
fn completions_and_manual_pages_name_every_verb() {
    let verbs = [
        "plan",
        "apply",
        "rehearse",
        "access",
        "rollback",
        "history",
        "show",
        "lint",
        "schema",
        "explain",
        "init",
        "uninstall",
    ];
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = keyward(&["completions", shell]).ok().stdout;
        assert!(verbs.iter().all(|verb| script.contains(verb)), "{shell}");
    }
    let dir = place("man").join("missing/man1");
    keyward(&["man", "--dir", dir.to_str().unwrap()]).ok();
    for verb in verbs {
        let page = std::fs::read_to_string(dir.join(format!("keyward-{verb}.1"))).unwrap();
        assert!(page.contains(".SH NAME") && page.contains(verb), "{verb}");
    }
    assert!(dir.join("keyward.1").exists());
    // They are for everybody, like all manual pages.
    assert_eq!((mode(&dir.join("keyward.1")), mode(&dir)), (0o644, 0o755));
    assert_eq!(mode(dir.parent().unwrap()), 0o755);
}

/// Lays the job and its key into a copy.
fn lay(bed: &Bed) {
    bed.plant("/root/job/job.yml", JOB.as_bytes(), 0o600, (0, 0));
    bed.plant("/root/job/deploy.pub", KEY.as_bytes(), 0o600, (0, 0));
}

/// Lines of one listing that are not in the other.
fn moved(before: &str, after: &str) -> Vec<String> {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    lines(before).symmetric_difference(&lines(after)).cloned().collect()
}

const PLAYBOOK: &str = "/root/job/job.yml";

/// Bytes, modes and owners of everything that a run touches, but for lock files. A login leaves files of its own in a
/// home (the motd's stamp), which are not keyward's to remove.
const CONTENT: &str = "cd /; find etc root -xdev ! -name '*.lock' -printf '%p %y %m %U %G %l\\n' | sort; \
                       find etc root -xdev -type f ! -name '*.lock' -exec sha256sum {} + | sort";

/// The whole life of a run on one release: nothing before the yes, exit codes of every turn, and nothing left at the end.
fn life(suite: &str) {
    let Some(bed) = Bed::new("a_run_from_plan_to_uninstall", suite) else { return };
    lay(&bed);
    let files = "find /etc /home /root /var/lib /var/log/keyward -xdev -not -path '/var/lib/ufw/*' \
                 -printf '%p %y %m %U %G %s %T@\\n' 2>/dev/null | grep -v '^/etc dir' | sort";
    let before = bed.sh(&format!("{files} || true")).stdout;
    let blank = bed.sh(CONTENT).ok().stdout;

    let plan = bed.keyward(&["plan", PLAYBOOK]);
    assert_eq!(plan.code, 2, "{suite}: {plan:?}");
    let lines: Vec<&str> = plan.stdout.lines().collect();
    assert!(lines[0].contains("differs from /root/job/job.yml"), "{}", plan.stdout);
    assert!(lines.last().unwrap().starts_with("next: keyward rehearse /root/job/job.yml"), "{}", plan.stdout);
    assert!(lines.len() <= 24 && lines.iter().all(|line| line.chars().count() <= 80), "{}", plan.stdout);

    assert!(plan.stdout.contains("may keep port 2222 shut"), "{suite}: {}", plan.stdout);
    let made = bed.sh("ls -d /run/keyward /var/lib/keyward /var/log/keyward 2>/dev/null || true").stdout;
    assert_eq!(made, "", "{suite}: a plan left something");

    let unasked = bed.keyward(&["apply", PLAYBOOK]);
    assert_eq!(unasked.code, 5, "{suite}: {unasked:?}");
    let unguarded = bed.keyward(&["apply", PLAYBOOK, "--yes"]);
    assert_eq!(unguarded.code, 5, "{suite}: {unguarded:?}");
    let touched = moved(&before, &bed.sh(&format!("{files} || true")).stdout);
    assert!(touched.is_empty(), "{suite}: changed before the yes: {touched:?}");

    let applied = bed.keyward(&["apply", PLAYBOOK, "--yes", ACCEPT, "--format", "json"]);
    assert_eq!(applied.code, 0, "{suite}: {}", applied.stderr);
    let seen = events(&applied);
    let Event::Planned { plan } = &seen[0] else { panic!("{seen:?}") };
    let contents = plan.changes.iter().flat_map(|change| &change.steps).filter_map(|step| match step {
        Step::Put { node: Node::File { content, .. }, .. } => Some(String::from_utf8_lossy(content)),
        _ => None,
    });
    let contents: Vec<_> = contents.collect();
    assert!(contents.len() >= 4 && contents.iter().all(|text| text.is_empty()), "{suite}: {contents:?}");
    let proven = |event: &&Event| matches!(event, Event::Proof { evidence } if evidence.proven == Proven::Yes);
    let logged_in =
        |event: &Event| matches!(event, Event::Proof { evidence } if evidence.what.contains("login as deploy"));
    assert!(seen.iter().filter(proven).filter(|event| logged_in(event)).count() >= 2, "{suite}: {seen:?}");
    assert!(!applied.stdout.contains("$y$") && !applied.stdout.contains("PRIVATE KEY"), "{suite}");

    let state = "find /etc /home /root -xdev -printf '%p %i %m %s %T@\\n' | sort";
    let applied_state = bed.sh(state).ok().stdout;
    let again = bed.keyward(&["apply", PLAYBOOK, "--yes", ACCEPT]);
    assert_eq!(again.code, 0, "{suite}: {again:?}");
    assert!(again.stdout.contains("nothing to do") && again.stdout.contains("last proven"), "{}", again.stdout);
    let touched = moved(&applied_state, &bed.sh(state).ok().stdout);
    assert!(touched.is_empty(), "{suite}: a second apply wrote: {touched:?}");
    assert_eq!(bed.keyward(&["plan", PLAYBOOK]).code, 0, "{suite}");
    // What only shows says when it could not; how a run ended stays its exit code.
    for (words, code) in [
        (&["plan", PLAYBOOK][..], 7),
        (&["plan", PLAYBOOK, "--format", "json"], 7),
        (&["access"], 7),
        (&["history"], 7),
        (&["apply", PLAYBOOK, "--yes", ACCEPT], 0),
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let done = bed.sandbox.agent().unwrap().args(words).stdin(Stdio::null()).stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{suite}: {words:?}: {said}");
        let told = said.contains("error: standard output: cannot be written");
        assert_eq!(told, code == 7, "{suite}: {words:?}: {said}");
    }

    let history = events(&bed.keyward(&["history", "--format", "json"]));
    let Event::Run { run, exit: Some(Exit::AsAsked), .. } = &history[0] else { panic!("{suite}: {history:?}") };
    let shown = bed.keyward(&["show", run]).ok();
    assert!(shown.stdout.contains("proven") && shown.stdout.contains("listen on port 2222"), "{}", shown.stdout);
    assert_eq!(bed.keyward(&["show", "20000101-000000-0000"]).code, 1);
    bed.keyward(&["log", "verify"]).ok();
    let log = bed.read("/var/log/keyward/audit.jsonl");
    assert_eq!(bed.keyward(&["log", "export"]).ok().stdout, log, "{suite}: the records to the byte");

    assert_eq!(bed.keyward(&["rollback", "--yes"]).code, 5, "{suite}: a live door was closed without a guard");
    let undone = bed.keyward(&["rollback", run, "--yes", ACCEPT]);
    assert_eq!(undone.code, 0, "{suite}: {undone:?}");
    let touched = moved(&blank, &bed.sh(CONTENT).ok().stdout);
    assert!(touched.is_empty(), "{suite}: not as before: {touched:?}");
    // What was undone is long over: it is what was asked for, and no progress.
    let shown = bed.keyward(&["show", run]).ok();
    assert!(shown.stdout.contains("  undone   ") && shown.stderr.is_empty(), "{suite}: {shown:?}");

    assert_eq!(bed.keyward(&["uninstall"]).code, 5, "{suite}: no yes");
    // What a controller put there is keyward's as well, also where nothing else is.
    let pushed = || bed.plant("/var/lib/keyward-agent/0123", b"a program", 0o700, (0, 0));
    pushed();
    bed.keyward(&["uninstall", "--yes"]).ok();
    let left = || {
        let found =
            bed.sh("find / -xdev -path /proc -prune -o -iname '*keyward*' -print; find /run -iname '*keyward*'");
        let paths: Vec<String> = found.stdout.lines().map(str::to_owned).collect();
        paths.into_iter().filter(|path| !path.starts_with("/var/log/keyward")).collect::<Vec<_>>()
    };
    assert!(left().is_empty(), "{suite}: {:?}", left());
    pushed();
    bed.keyward(&["uninstall", "--yes"]).ok();
    assert!(left().is_empty(), "{suite}: {:?}", left());
    // Looking at what is left makes nothing new.
    let verified = bed.keyward(&["log", "verify"]).ok();
    assert!(left().is_empty(), "{suite}: {:?}", left());
    assert!(verified.stdout.contains("tells of the uninstall"), "{}", verified.stdout);
    for verb in [&["log"][..], &["status"], &["history"], &["plan", PLAYBOOK], &["confirm"], &["cancel", "nonsense"]] {
        bed.keyward(verb);
        assert!(left().is_empty(), "{suite}: {verb:?} made {:?}", left());
    }
    assert_eq!(bed.sh("stat -c %a /var/log/keyward/audit.jsonl").ok().stdout.trim(), "600");

    bed.sh("cd /var/log/keyward; cp audit.jsonl kept; sed -i '$d' audit.jsonl").ok();
    assert_eq!(bed.keyward(&["log", "verify"]).code, 7, "{suite}: a cut end");
    let export = bed.keyward(&["log", "export"]);
    assert_eq!(
        (export.code, export.stdout),
        (7, bed.read("/var/log/keyward/audit.jsonl")),
        "{suite}: exported, and said"
    );
    bed.sh("cd /var/log/keyward; mv kept audit.jsonl").ok();
    assert_eq!(bed.keyward(&["apply", PLAYBOOK, "--yes", ACCEPT]).code, 0, "{suite}: after an uninstall");
    let verified = bed.keyward(&["log", "verify"]).ok();
    assert!(!verified.stdout.contains("uninstall"), "{suite}: {}", verified.stdout);
    // A log that is gone is no host on which nothing was done; what comes after it does not hide that.
    bed.sh("rm /var/log/keyward/audit.jsonl").ok();
    assert_eq!(bed.keyward(&["log", "verify"]).code, 7, "{suite}: the log is gone");
    assert_eq!(bed.keyward(&["rollback", "--yes", ACCEPT]).code, 0, "{suite}");
    let gone = bed.keyward(&["log", "verify"]);
    assert_eq!(gone.code, 7, "{suite}: {}", gone.stdout);
    let said = gone.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    let (_, typed) = said.split_once("to begin a new chain: ").unwrap();
    bed.sh(typed).ok();
    assert_eq!(bed.keyward(&["log", "verify"]).code, 0, "{suite}");
}

#[test]
fn a_run_from_plan_to_uninstall() {
    support::SUITES.iter().for_each(|suite| life(suite));
}

/// A guarded apply of [`JOB`] in the copy, until both doors are open; its run. The caller ends the child.
fn pending(bed: &Bed, window: &str) -> (std::process::Child, String) {
    lay(bed);
    // The guard is a copy of the program, so that has to stand in there.
    bed.plant("/usr/local/bin/keyward", &std::fs::read(KEYWARD).unwrap(), 0o755, (0, 0));
    let mut command = bed.sandbox.command("/usr/local/bin/keyward").unwrap();
    command.args(["apply", PLAYBOOK, "--yes", "--without-boot-guard", "--confirm-within", window]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !bed.keyward(&["status"]).stdout.contains("undone in")
        || !bed.sh("ls /var/lib/keyward/runs").stdout.contains("opened")
    {
        let said = || bed.keyward(&["history"]).stdout;
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", said());
        std::thread::sleep(Duration::from_millis(50));
    }
    let history = events(&bed.keyward(&["history", "--format", "json"]));
    let Some(Event::Run { run, exit: None, .. }) = history.first() else { panic!("{history:?}") };
    (child, run.clone())
}

#[test]
fn whoever_asks_while_a_run_is_pending_is_told_which_and_what_to_do() {
    let Some(bed) = Bed::new("whoever_asks_while_a_run_is_pending", "bookworm") else { return };
    let (mut child, run) = pending(&bed, "300s");
    for verb in ["confirm", "cancel"] {
        let done = bed.keyward(&[verb, "nonsense"]);
        assert_eq!(done.code, 1, "{verb}: {done:?}");
        assert!(done.stderr.contains("run nonsense: there is no such run"), "{verb}: {}", done.stderr);
        assert!(done.stderr.contains(&format!("keyward {verb} {run}")), "{verb}: {}", done.stderr);
    }
    for verb in [&["rollback", &run, "--yes"][..], &["uninstall", "--yes"]] {
        let busy = bed.keyward(verb);
        assert_eq!(busy.code, 6, "{verb:?}: {busy:?}");
        for way in ["keyward status".to_owned(), format!("keyward confirm {run}"), format!("keyward cancel {run}")] {
            assert!(busy.stderr.contains(&way), "{verb:?}: {way}: {}", busy.stderr);
        }
    }
    // Without its journal nobody could undo it: an agent that is gone changes nothing.
    signal(&bed, "KILL");
    child.wait().unwrap();
    let kept = bed.keyward(&["uninstall", "--yes"]);
    assert_eq!(kept.code, 5, "{kept:?}");
    assert!(kept.stderr.contains(&run), "{}", kept.stderr);
    bed.keyward(&["cancel"]).ok();
    for verb in ["confirm", "cancel"] {
        let none = bed.keyward(&[verb]);
        assert_eq!(none.code, 5, "{verb}: {none:?}");
        assert!(none.stderr.contains("no run waits"), "{verb}: {}", none.stderr);
    }
}

#[test]
fn a_guard_that_cannot_start_is_found_before_the_first_change() {
    let Some(bed) = Bed::new("a_guard_that_cannot_start", "bookworm") else { return };
    lay(&bed);
    bed.plant("/usr/local/bin/keyward", &std::fs::read(KEYWARD).unwrap(), 0o755, (0, 0));
    bed.sh("mkdir -m 700 /var/lib/keyward; mount -t tmpfs -o noexec,mode=700 tmpfs /var/lib/keyward").ok();
    let before = bed.sh(CONTENT).ok().stdout;
    let words = ["apply", PLAYBOOK, "--yes", "--without-boot-guard", "--confirm-within", "60s"];
    let done = bed.run(&[&["/usr/local/bin/keyward"][..], &words].concat());
    assert_eq!(done.code, 5, "{done:?}");
    let said = format!("{}{}", done.stdout, done.stderr);
    for wanted in ["nothing was changed", "would undo the run does not start", "findmnt -T /var/lib/keyward"] {
        assert!(said.contains(wanted) || said.replace("\n", " ").contains(wanted), "{wanted}: {said}");
    }
    let touched = moved(&before, &bed.sh(CONTENT).ok().stdout);
    assert!(touched.is_empty(), "{touched:?}");
    assert_eq!(bed.sh("ls /var/lib/keyward | grep guard || true").stdout, "", "the copy stays");
}

/// Sends a signal to the agent in the copy.
fn signal(bed: &Bed, signal: &str) {
    let script = "for p in /proc/[0-9]*; do if [ \"$(tr '\\0' '\\n' <$p/cmdline | sed -n 2p)\" = apply ]; then \
                  kill -\"$1\" ${p#/proc/}; exit; fi; done; exit 1";
    bed.run(&["/bin/sh", "-c", script, "sh", signal]).ok();
}

#[test]
fn a_run_that_is_being_undone_is_not_said_to_wait() {
    let Some(bed) = Bed::new("a_run_that_is_being_undone", "bookworm") else { return };
    let (mut child, run) = pending(&bed, "5s");
    // A stuck agent holds the keeper up, so that what is said meanwhile can be read.
    signal(&bed, "STOP");
    let begun = Instant::now();
    while bed.keyward(&["status"]).stdout.contains("is pending: undone in") {
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", bed.keyward(&["status"]));
        std::thread::sleep(Duration::from_millis(20));
    }
    for _ in 0..5 {
        let status = bed.keyward(&["status"]);
        assert_eq!(status.code, 8, "{status:?}");
        assert!(status.stdout.contains(&format!("run {run} is being rolled back now")), "{}", status.stdout);
        std::thread::sleep(Duration::from_millis(100));
    }
    signal(&bed, "KILL");
    child.wait().unwrap();
    let begun = Instant::now();
    loop {
        let status = bed.keyward(&["status"]);
        if status.code == 0 {
            break;
        }
        assert!(status.code == 8 && begun.elapsed() < Duration::from_secs(30), "{status:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(bed.keyward(&["history"]).stdout.contains("(exit 3)"));
}

#[test]
fn a_rehearsal_proves_from_outside_and_changes_nothing() {
    let name = "a_rehearsal_proves_from_outside_and_changes_nothing";
    let tree = match support::tree("bookworm") {
        Ok(tree) => tree,
        Err(reason) => return support::skipped(name, &reason),
    };
    let dir = place("rehearse");
    std::fs::write(dir.join("job.yml"), JOB).unwrap();
    std::fs::write(dir.join("deploy.pub"), KEY).unwrap();
    let playbook = dir.join("job.yml");
    let root = tree.to_str().unwrap();
    let words = ["rehearse", playbook.to_str().unwrap(), "--root", root];
    let before = keyward_tree(&tree);
    let done = keyward(&[&words[..], &["--format", "json"][..]].concat());
    assert_eq!(done.code, 0, "{done:?}");
    let touched = moved(&before, &keyward_tree(&tree));
    assert!(touched.is_empty(), "the tree was written to: {touched:?}");
    let outside = |event: &&Event| matches!(event, Event::Proof { evidence } if evidence.proven == Proven::Yes && evidence.reach == Reach::L2);
    let events = events(&done);
    assert!(events.iter().filter(outside).count() >= 6, "{events:?}");
    let human = keyward(&words).ok();
    assert!(human.stdout.contains("was changed: this was a copy"), "{}", human.stdout);
    assert!(human.stdout.contains("PID 1") && human.stdout.contains("not systemd"), "{}", human.stdout);
    let next = format!("next: keyward apply {} --root {root}", playbook.display());
    assert!(human.stdout.contains(&next), "{}", human.stdout);
}

/// Names, sizes and times of a tree's configuration.
fn keyward_tree(tree: &Path) -> String {
    let mut find = Command::new("find");
    find.args(["etc", "home", "root", "var", "-printf", "%p %i %m %U %s %T@\\n"])
        .current_dir(tree)
        .stdin(Stdio::null());
    finish(find, b"").ok().stdout
}

/// Debian's sudo leaves an empty file in the home of who uses it first. A rollback takes it away with the home, and the
/// same playbook applies again; what the account wrote itself stays, and the home with it.
#[test]
fn a_home_with_the_mark_of_sudo_goes_with_its_account() {
    let Some(bed) = Bed::new("a_home_with_the_mark_of_sudo_goes_with_its_account", "bookworm") else { return };
    let job = "version: 1\nusers:\n  - { name: ops, groups: [ sudo ], password: locked, sudo: { nopasswd: true } }\n";
    bed.plant("/root/ops.yml", job.as_bytes(), 0o600, (0, 0));
    let apply = || {
        let applied = bed.keyward(&["apply", "--yes", ACCEPT, "/root/ops.yml", "--format", "json"]);
        assert_eq!(applied.code, 0, "{applied:?}");
        bed.sh("su ops -c 'sudo -n true' && test -f /home/ops/.sudo_as_admin_successful").ok();
        let run = |event: &Event| if let Event::Started { run } = event { Some(run.clone()) } else { None };
        events(&applied).iter().find_map(run).unwrap()
    };
    for _ in 0..2 {
        let undone = bed.keyward(&["rollback", &apply(), "--yes", ACCEPT]);
        assert_eq!(undone.code, 0, "{undone:?}");
        assert!(!undone.stderr.contains("somebody else edited"), "{undone:?}");
        assert_eq!(bed.sh("getent passwd ops; ls -d /home/ops").stdout, "");
    }
    let run = apply();
    bed.sh("su ops -c 'echo mine >/home/ops/.sudo_as_admin_successful'").ok();
    let refused = bed.keyward(&["rollback", &run, "--yes", ACCEPT]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(refused.stderr.contains("/home/ops/.sudo_as_admin_successful: edited since"), "{refused:?}");
    bed.sh("su ops -c ': >/home/ops/.sudo_as_admin_successful; touch /home/ops/work'").ok();
    bed.keyward(&["rollback", &run, "--yes", ACCEPT]).ok();
    bed.sh("test -f /home/ops/work").ok();
}

/// A host without sshd is asked nothing about SSH, and its accounts and sudo are set up all the same.
#[test]
fn accounts_and_sudo_need_no_sshd() {
    let Some(bed) = Bed::new("accounts_and_sudo_need_no_sshd", "bookworm") else { return };
    bed.sh("pkill -x sshd; rm /usr/sbin/sshd; mkdir -p /root/play").ok();
    let job =
        "version: 1\nusers:\n  - name: ops\n    groups: [ sudo ]\n    password: locked\n    sudo: { nopasswd: true }\n";
    bed.plant("/root/play/ops.yml", job.as_bytes(), 0o644, (0, 0));
    assert_eq!(bed.keyward(&["plan", "/root/play/ops.yml"]).code, 2);
    let applied = bed.keyward(&["apply", "--yes", "/root/play/ops.yml"]);
    assert_eq!(applied.code, 0, "{applied:?}");
    assert!(bed.sh("sudo -l -U ops").ok().stdout.contains("NOPASSWD: ALL"));
    assert_eq!(bed.keyward(&["plan", "/root/play/ops.yml"]).code, 0);
    bed.keyward(&["rollback", "--yes"]).ok();
    assert_ne!(bed.sh("getent passwd ops").code, 0);
}
