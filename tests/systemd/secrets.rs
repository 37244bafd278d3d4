//! Twenty secrets, each of which goes through a run over SSH or stands beside it, with success and with each kind of
//! failure: none is found afterwards in any place of either machine but where it belongs, and none in the words or the
//! environment of any process meanwhile.

use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};

use crate::far::{Pair, said};
use crate::support::Done;

/// Lines that nobody has asked for are secrets as well.
const ROOT: &str = "canary-01-login";
const CLOUD: &str = "canary-02-account";
const WRONG_FILE: &str = "canary-03-wrong-login";
const WRONG_SUDO: &str = "canary-04-wrong-sudo";
const WRONG_ENV: &str = "canary-05-wrong-env";
const SECOND_LINE: &str = "canary-06-second-line";
const PASSPHRASE: &str = "canary-07-passphrase";
const WRONG_PASSPHRASE: &str = "canary-08-wrong-passphrase";
const STDERR: &str = "canary-09-printed-by-the-source";
const WRONG_FD: &str = "canary-10-wrong-fd";
const TYPED: &str = "canary-11-typed-by-mistake";
/// A part of a private key's text, by its file.
const KEYS: [&str; 3] = ["id_ed25519", "locked", "stranger"];
/// Accounts of the playbook with a hash each.
const HASHED: [&str; 6] = ["h14", "h15", "h16", "h17", "h18", "h19"];

fn hash(user: &str) -> String {
    format!("$6$saltsalt${}", format!("canaryhash{user}").repeat(7).chars().take(86).collect::<String>())
}

fn playbook() -> String {
    let user = |name: &&str| format!("  - name: {name}\n    password: {{ hash: \"{}\" }}\n", hash(name));
    let users: String = HASHED.iter().map(user).collect();
    format!(
        "# canary-20-comment of the playbook\nversion: 1\nusers:\n{users}  - name: deploy\n    admin: true\n    groups: [ sudo ]\n    \
         sudo: {{ nopasswd: true }}\n    authorized_keys:\n      - file: deploy.pub\nssh:\n  port: 2222\n  permit_root_login: \"no\"\n  \
         password_authentication: false\nfirewall:\n  incoming: deny\n  outgoing: allow\n"
    )
}

/// Looks for `$1` at the words and the environment of all processes, again and again.
const WATCH: &str = "while [ -e /watch ]; do sleep 0.05; grep -alE \"$1\" /proc/[0-9]*/cmdline 2>/dev/null >>/seen; \
                     for f in $(grep -alE \"$1\" /proc/[0-9]*/environ 2>/dev/null); do \
                     c=$(tr '\\0' ' ' <\"${f%environ}cmdline\" 2>/dev/null); [ -z \"$c\" ] || echo \"$c environ\" >>/seen; done; done";

struct Stage {
    pair: Pair,
    canaries: Vec<String>,
}

impl Stage {
    fn new() -> Option<Self> {
        let pair = Pair::new("no_secret_is_found_anywhere", "bookworm")?;
        let mut canaries: Vec<String> = [
            ROOT,
            CLOUD,
            WRONG_FILE,
            WRONG_SUDO,
            WRONG_ENV,
            SECOND_LINE,
            PASSPHRASE,
            WRONG_PASSPHRASE,
            STDERR,
            WRONG_FD,
            TYPED,
        ]
        .map(str::to_owned)
        .into();
        let mut rng = russh::keys::key::safe_rng();
        let fresh = || PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
        let locked = fresh().encrypt(&mut rng, PASSPHRASE).unwrap();
        for (name, key) in KEYS.into_iter().zip([pair.laptop.key.clone(), locked, fresh()]) {
            let text = key.to_openssh(LineEnding::LF).unwrap().to_string();
            // The first lines hold the public half, and so does the wrapping of the last.
            canaries.push(text.lines().nth(3).unwrap().chars().take(40).collect());
            pair.laptop.put(&format!("/root/.ssh/{name}"), text.as_bytes(), "600");
        }
        canaries.extend(HASHED.iter().map(|user| format!("canaryhash{user}")));
        assert_eq!(canaries.len(), 20);
        let (host, laptop) = (&pair.host, &pair.laptop);
        host.run(&["chpasswd", "-c", "SHA512"], format!("root:{ROOT}\n").as_bytes()).ok();
        host.sh("useradd -m -s /bin/bash -G sudo cloud; install -d -m 700 -o cloud -g cloud /home/cloud/.ssh").ok();
        host.run(&["chpasswd", "-c", "SHA512"], format!("cloud:{CLOUD}\n").as_bytes()).ok();
        host.put(
            "/home/cloud/.ssh/authorized_keys",
            format!("{}\n{}\n", laptop.key.public_key().to_openssh().unwrap(), {
                laptop
                    .sh(&format!("ssh-keygen -y -P '{PASSPHRASE}' -f /root/.ssh/locked"))
                    .ok()
                    .stdout
                    .trim()
                    .to_owned()
            })
            .as_bytes(),
            "644",
        );
        laptop.put("/root/play/first.yml", playbook().as_bytes(), "600");
        laptop.sh("install -d -m 700 /root/given; rm /root/pw").ok();
        let second = format!("{ROOT}\n{SECOND_LINE}\n");
        for (name, text) in [("root", second.as_str()), ("cloud", CLOUD), ("file", WRONG_FILE), ("sudo", WRONG_SUDO)] {
            laptop.put(&format!("/root/given/{name}"), text.as_bytes(), "600");
        }
        for (name, text) in [("fd", WRONG_FD), ("err", STDERR), ("env", WRONG_ENV), ("pass", PASSPHRASE)] {
            laptop.put(&format!("/root/given/{name}"), format!("{text}\n").as_bytes(), "600");
        }
        laptop.put("/root/given/typed", format!("{WRONG_PASSPHRASE}\n{PASSPHRASE}\n").as_bytes(), "600");
        Some(Self { pair, canaries })
    }

    /// keyward on the laptop; what it is given is read from files there, so that this line holds no secret itself.
    fn keyward(&self, before: &str, words: &str) -> Done {
        self.pair.laptop.sh(&format!("cd /root/play && {before} keyward --accept-new {words}"))
    }

    /// What any canary was found in, but for the places where it belongs.
    fn found(&self) -> Vec<String> {
        let pattern = self.canaries.join("\\|").replace('+', "[+]");
        let look = |belongs: &str| {
            format!(
                "journalctl -b -o export >/dev/shm/journal 2>/dev/null; \
                 grep -rla '{pattern}' / --exclude-dir=proc --exclude-dir=sys --exclude-dir=usr {belongs} 2>/dev/null; rm -f /dev/shm/journal"
            )
        };
        let mut found = Vec::new();
        for (machine, name, belongs) in [
            (&self.pair.host, "host", "--exclude=shadow --exclude=shadow-"),
            (&self.pair.laptop, "laptop", "--exclude-dir=given --exclude-dir=.ssh --exclude-dir=play"),
        ] {
            let lines = machine.sh(&look(belongs)).stdout;
            found.extend(lines.lines().map(|line| format!("{name}: {line}")));
        }
        found
    }
}

#[test]
fn no_secret_is_found_anywhere() {
    let Some(stage) = Stage::new() else { return };
    let (host, laptop) = (&stage.pair.host, &stage.pair.laptop);
    let pattern = stage.canaries.join("|").replace('+', "[+]");
    // The pattern comes from a file: it must not be found in the words of who looks for it.
    for machine in [host, laptop] {
        machine.sh("mkdir -p /usr/lib/canary; touch /watch; : >/seen").ok();
        machine.put("/usr/lib/canary/pattern", format!("{}\n", pattern.replace('|', "\n")).as_bytes(), "600");
        machine.put(
            "/usr/lib/canary/watch",
            WATCH.replace("-alE \"$1\"", "-alFf /usr/lib/canary/pattern").as_bytes(),
            "700",
        );
        machine.sh("setsid -f sh /usr/lib/canary/watch >/dev/null 2>&1 </dev/null").ok();
    }
    let (root, cloud) = (stage.pair.place("root"), stage.pair.place("cloud"));
    let given = "/root/given";
    let mut all = Vec::new();
    let mut run = |code: i32, before: &str, words: String| {
        let done = stage.keyward(before, &words);
        assert_eq!(done.code, code, "{words}: {}", said(&done));
        all.push((words, done));
    };
    // Each kind of failure before the first change.
    run(7, "", format!("--host {root} --password file:{given}/file plan first.yml"));
    run(7, &format!("PW=$(cat {given}/env)"), format!("--host {root} --password env:PW plan first.yml"));
    run(7, "", format!("--host {root} --password fd:3 plan first.yml 3<{given}/fd"));
    run(1, "", format!("--host {root} --password 'command:cat {given}/err >&2; false' plan first.yml"));
    run(5, "", format!("--host {cloud} --sudo-password file:{given}/sudo plan first.yml"));
    run(2, "", format!("--host {cloud} --sudo-password 'command:cat {given}/cloud' plan --diff first.yml"));
    run(7, "", format!("--host {root} --login-key /root/.ssh/stranger plan first.yml"));
    // A passphrase is typed, first a wrong one.
    let typed = format!(
        "(sleep 2; head -n 1 {given}/typed; sleep 2; tail -n 1 {given}/typed; sleep 3) | script -qec \"keyward --accept-new --host {cloud} \
         --login-key /root/.ssh/locked --sudo-password file:{given}/cloud plan --diff first.yml\" /dev/null"
    );
    laptop.sh("mv /root/.ssh/id_ed25519 /root/.ssh/away").ok();
    let done = laptop.sh(&format!("cd /root/play && {typed}"));
    laptop.sh("mv /root/.ssh/away /root/.ssh/id_ed25519").ok();
    assert!(done.code == 2 && done.stdout.contains("Passphrase of"), "{}", said(&done));
    all.push(("passphrase".to_owned(), done));
    // What was handed over for a process that never came to be.
    host.sh("mount --bind /bin/false /usr/bin/systemd-run").ok();
    let cut = stage.keyward("", &format!("--host {root} --password file:{given}/root apply --yes first.yml"));
    assert_eq!(cut.code, 7, "{}", said(&cut));
    all.push(("without systemd-run".to_owned(), cut));
    host.sh("umount /usr/bin/systemd-run; ls /run/keyward/handed-*").ok();
    // A run that is undone, and one that holds.
    let mut run = |code: i32, words: String| {
        let done = stage.keyward("", &words);
        assert_eq!(done.code, code, "{words}: {}", said(&done));
        all.push((words, done));
    };
    laptop.sh("iptables -A OUTPUT -p tcp --dport 2222 -j DROP").ok();
    run(3, format!("--host {root} --password file:{given}/root apply --diff --yes --confirm-within 10s first.yml"));
    laptop.sh("iptables -F").ok();
    run(0, format!("--format json --host {root} --password file:{given}/root apply --diff --yes first.yml"));
    run(0, format!("--format json --host deploy@{}:2222 history", host.address));
    for machine in [host, laptop] {
        machine.sh("rm /watch; sleep 0.5").ok();
    }
    let typed = stage.keyward("", &format!("--host {root} --password {TYPED} plan first.yml"));
    assert_eq!(typed.code, 1, "{}", said(&typed));
    all.push(("a password for a source".to_owned(), typed));
    for (words, done) in &all {
        let shown = stage.canaries.iter().find(|canary| said(done).contains(canary.as_str()));
        assert!(shown.is_none(), "{words} shows {shown:?}: {}", said(done));
    }
    assert_eq!(host.sh("cat /seen").stdout, "", "in the words or the environment of a process of the host");
    // A variable is in the environment of who was given it, and of nobody else.
    let seen = laptop.sh("cat /seen").stdout;
    assert!(seen.contains("--password env:PW"), "the watch has seen nothing");
    let other: Vec<_> =
        seen.lines().filter(|line| !(line.contains("--password env:PW") && line.ends_with(" environ"))).collect();
    assert!(other.is_empty(), "{other:#?}");
    assert_eq!(host.sh("ls /run/keyward/ | grep handed").stdout, "", "what was handed over stays");
    let found = stage.found();
    println!("{} canaries, {} runs, {} found", stage.canaries.len(), all.len(), found.len());
    assert!(found.is_empty(), "{found:#?}");
}

/// What a plain user's controller holds is not for that user's other programs, nor for a core file.
#[test]
fn a_controller_leaves_no_core_and_lets_nobody_look() {
    let Some(pair) = Pair::new("a_controller_leaves_no_core", "bookworm") else { return };
    let laptop = &pair.laptop;
    laptop.sh("useradd -m ops; cp -r /root/play /home/ops/play; cp /root/pw /home/ops/pw; chown -R ops /home/ops; mkfifo -m 666 /tmp/slow").ok();
    let line = format!(
        "cd /home/ops/play; ulimit -c unlimited; setsid -f setpriv --reuid ops --regid ops --clear-groups env HOME=/home/ops USER=ops \
         keyward --host {} --accept-new --password 'command:cat /tmp/slow' plan first.yml >/tmp/ops 2>&1 </dev/null",
        pair.place("root")
    );
    laptop.sh(&line).ok();
    let look = "i=0; until pgrep -x cat >/dev/null || [ $i -gt 100 ]; do i=$((i+1)); sleep 0.1; done; p=$(pgrep -x keyward | head -n 1); \
                stat -c %U /proc/$p/environ; grep 'Max core' /proc/$p/limits";
    let seen = laptop.sh(look).stdout;
    laptop.sh("cat /home/ops/pw >/tmp/slow").ok();
    let core = seen.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(core.starts_with("root Max core file size 0 "), "{core}: {}", laptop.sh("cat /tmp/ops").stdout);
    let end = laptop
        .sh("i=0; while pgrep -x keyward >/dev/null && [ $i -lt 200 ]; do i=$((i+1)); sleep 0.1; done; cat /tmp/ops")
        .stdout;
    assert!(end.contains("differs from first.yml"), "{end}");
}
