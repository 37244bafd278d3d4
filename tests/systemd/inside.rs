//! Containers and images judged and changed from within: bare ones, ones without rights, ones in which nothing can be
//! executed, and hostile ones. Nothing is left in any of them.

use std::process::Command;

use keyward::outcome::Event;
use keyward::outcome::audit::{Audit, Ruling};
use russh::keys::{Algorithm, PrivateKey};

use crate::container::{docker, image};
use crate::support::{Done, KEYWARD, finish, skipped};

/// A container, or an image, that is removed when dropped.
struct Thing {
    kind: &'static str,
    name: String,
}

impl Drop for Thing {
    fn drop(&mut self) {
        let words: &[&str] = if self.kind == "image" { &["rmi", "-f"] } else { &["rm", "-f", "-v"] };
        docker(&[words, &[&self.name]].concat(), b"");
    }
}

/// Starts sshd as an entry point would.
const SSHD: &str = "mkdir -p -m 755 /run/sshd; exec /usr/sbin/sshd -D";

impl Thing {
    fn of(image: &str, name: &str, more: &[&str], script: &str) -> Self {
        let name = format!("keyward-inside-{name}-{}", std::process::id());
        let begin = ["run", "-d", "--init", "--network", "none", "--name", &name];
        docker(&[&begin, more, &[image, "/bin/sh", "-c", script]].concat(), b"").ok();
        Self { kind: "docker", name }
    }

    /// Containers of this image: other tests have theirs.
    fn containers(&self) -> String {
        docker(&["ps", "-aq", "--filter", &format!("ancestor={}", self.name)], b"").ok().stdout
    }

    /// An image of what this container has become.
    fn commit(&self) -> Self {
        let name = format!("{}-image", self.name);
        docker(&["commit", &self.name, &name], b"").ok();
        Self { kind: "image", name }
    }

    fn sh(&self, script: &str) -> Done {
        docker(&["exec", &self.name, "/bin/sh", "-ec", script], b"")
    }

    fn keyward(&self, words: &[&str]) -> Done {
        keyward(&format!("{}:{}", self.kind, self.name), words)
    }

    /// The paths that differ from the image: none of them may be keyward's.
    fn changed(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            docker(&["diff", &self.name], b"").ok().stdout.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

fn keyward(target: &str, words: &[&str]) -> Done {
    let mut command = Command::new(KEYWARD);
    command.args(["--target", target]).args(words);
    finish(command, b"")
}

#[track_caller]
fn audit(thing: &Thing, words: &[&str]) -> (i32, Audit) {
    let words = [&["audit", "--format", "json"], words].concat();
    let done = thing.keyward(&words);
    let found = done.stdout.lines().find_map(|line| match serde_json::from_str(line) {
        Ok(Event::Audited { audit }) => Some(*audit),
        _ => None,
    });
    (done.code, found.unwrap_or_else(|| panic!("{done:?}")))
}

fn ruled(audit: &Audit, check: &str, ruling: Ruling) -> usize {
    audit.findings.iter().filter(|one| one.check == check && one.ruling == ruling).count()
}

/// A playbook beside its key, in a directory of the test's.
struct Play(std::path::PathBuf);

impl Play {
    fn new(name: &str) -> Self {
        let dir =
            std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("inside-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap();
        std::fs::write(dir.join("deploy.pub"), format!("{} ops@laptop\n", key.public_key().to_openssh().unwrap()))
            .unwrap();
        Self(dir)
    }

    fn write(&self, name: &str, more: &str) -> String {
        let text = format!(
            "version: 1\nmin_ways_in: 1\nusers:\n  - {{ name: deploy, admin: true, groups: [ sudo ], password: locked, sudo: {{ \
             nopasswd: true }}, authorized_keys: [ {{ file: deploy.pub }} ] }}\nssh: {{ port: 2222, permit_root_login: \"no\", \
             password_authentication: false, max_auth_tries: 3, modern_algorithms: true }}\n{more}"
        );
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The image of a suite; the test ends where there is none.
macro_rules! image_or_skip {
    ($test:expr, $suite:expr) => {
        match image($suite) {
            Ok(name) => name,
            Err(reason) => return skipped($test, &reason),
        }
    };
}

const ACCEPT: [&str; 3] = ["apply", "--yes", "--i-accept-that-this-host-may-lock-me-out"];

#[test]
fn a_container_is_judged_hardened_and_judged_again_from_within() {
    for suite in ["bookworm", "trixie"] {
        let image = image_or_skip!("a_container_is_judged_hardened_and_judged_again_from_within", suite);
        let play = Play::new(suite);
        let (job, with_firewall) = (play.write("job.yml", ""), play.write("all.yml", "firewall: { incoming: deny }\n"));
        let web = Thing::of(&image, suite, &[], SSHD);
        web.sh("until [ -s /run/sshd.pid ]; do sleep 0.1; done").ok();
        let before = web.changed();
        let (code, found) = audit(&web, &[&job]);
        assert_eq!(code, 2, "{found:?}");
        assert!(ruled(&found, "playbook", Ruling::Fail) > 2 && ruled(&found, "ssh-max-auth-tries", Ruling::Fail) == 1);
        for check in ["firewall-default-deny", "firewall-open-ports"] {
            assert_eq!(ruled(&found, check, Ruling::NotApplicable), 1, "{found:?}");
        }
        let (_, found) = audit(&web, &[&with_firewall]);
        assert_eq!(ruled(&found, "playbook", Ruling::NotApplicable), 1, "{found:?}");
        assert_eq!(web.changed(), before, "a look leaves nothing");

        let plan = web.keyward(&["plan", &job]);
        assert!(plan.code == 2 && plan.stdout.contains("next: keyward --target docker:"), "{plan:?}");
        web.keyward(&[&ACCEPT[..], &[&job]].concat()).ok();
        assert!(web.sh("ls /tmp/.keyward* /root/.keyward* /var/lib/keyward-agent").stdout.is_empty());
        let before = web.changed();
        let (code, found) = audit(&web, &[&with_firewall]);
        assert_eq!((code, found.score.points), (0, 100), "{found:?}");
        assert_eq!(web.changed(), before);

        let image = web.commit();
        let (code, found) = audit(&image, &[&job]);
        assert_eq!(image.containers(), "", "the container that was made for it stays");
        assert_eq!(code, 0, "{found:?}");
        let rests = found.findings.iter().filter(|one| one.why.starts_with("nothing is started in an image"));
        assert_eq!(rests.count(), 1, "{found:?}");
        assert!(
            found.findings.iter().any(|one| one.check == "ssh-root-login" && one.saw.starts_with("once sshd runs"))
        );
        let refused = image.keyward(&[&ACCEPT[..], &[&job]].concat());
        assert!(refused.code == 1 && refused.stderr.contains("looked at, not changed"), "{refused:?}");

        web.sh("echo 'PasswordAuthentication yes' >/etc/ssh/sshd_config.d/00-a.conf; echo bob:x | chpasswd -c SHA512 2>/dev/null \
                || { useradd -m -s /bin/sh bob; echo bob:x | chpasswd -c SHA512; }; kill -HUP $(cat /run/sshd.pid)")
            .ok();
        let (code, found) = audit(&web, &[&job]);
        assert!(code == 2 && ruled(&found, "ssh-password-login", Ruling::Fail) == 1, "{found:?}");
        let spoiled = web.commit();
        let (code, found) = audit(&spoiled, &[&job]);
        assert!(code == 2 && ruled(&found, "ssh-password-login", Ruling::Fail) == 1, "nothing runs in it: {found:?}");
        assert_eq!(spoiled.containers(), "", "the container that was made for it stays");
    }
}

#[test]
fn a_container_that_cannot_be_looked_at_is_unknown() {
    let image = image_or_skip!("a_container_that_cannot_be_looked_at_is_unknown", "bookworm");
    let unknown = |done: &Done, why: &str| {
        assert!(done.code == 7 && done.stderr.contains(why), "{why}: {done:?}");
    };
    // Its disk cannot be written, and its memory not executed from.
    let locked = Thing::of(&image, "read-only", &["--read-only", "--tmpfs", "/run"], "exec sleep 600");
    unknown(&locked.keyward(&["audit"]), "no directory in it can be written and executed from");
    let open = Thing::of(&image, "executable", &["--read-only", "--tmpfs", "/run:exec"], SSHD);
    assert_eq!(open.keyward(&["audit"]).code, 2);
    // Without a shell.
    let name = format!("keyward-inside-empty-{}", std::process::id());
    let mut tar = Command::new("tar");
    tar.args(["-C", "/usr/bin", "-c", "--dereference", "sleep"]);
    let mut archive = Vec::new();
    std::io::Read::read_to_end(
        &mut tar.stdout(std::process::Stdio::piped()).spawn().unwrap().stdout.unwrap(),
        &mut archive,
    )
    .unwrap();
    docker(&["import", "-", &name], &archive).ok();
    let empty = Thing { kind: "image", name };
    unknown(&empty.keyward(&["audit"]), "nothing in it can be executed");
    assert_eq!(empty.containers(), "", "what could not be started stays");
    let bare = Thing::of(&image, "no-shell", &[], "mv /bin/sh /bin/shell; exec sleep 600");
    while bare.sh("true").code == 0 {}
    unknown(&bare.keyward(&["audit"]), "nothing in it can be executed");
    // Not there, not running, and no name at all.
    docker(&["kill", &bare.name], b"").ok();
    let stopped = bare.keyward(&["audit"]);
    assert!(stopped.code == 5 && stopped.stderr.contains("docker start"), "{stopped:?}");
    for (target, words) in [("docker:keyward-nobody", "docker ps"), ("image:keyward-nobody", "docker pull")] {
        let done = keyward(target, &["audit"]);
        assert!(done.code == 1 && done.stderr.contains(words), "{done:?}");
    }
    for target in ["docker:-v", "docker:/etc", "image:--privileged", "docker:"] {
        let done = keyward(target, &["audit"]);
        assert!(done.code == 1 && done.stderr.contains("write local, sandbox"), "{done:?}");
    }
    let done = keyward("docker:web", &["audit", "--login-key", "/k"]);
    assert!(done.code == 1 && done.stderr.contains("not about a container"), "{done:?}");
}

/// What the shell of a hostile container does, and what is said of it.
const HOSTILE: [(&str, &str, &str); 5] = [
    (
        "floods",
        "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done",
        "no shell starts",
    ),
    ("floods-later", "echo keyward-ready; exec /bin/yes", "the host does not answer as it should"),
    ("one-line", "exec tr '\\0' x </dev/zero", "a line of more than 1 MiB"),
    (
        "lies",
        "echo keyward-ready; echo arch $(uname -m); echo file have; echo start now; \
         echo '{\"event\":\"hello\",\"protocol\":1,\"version\":\"9\"}'; \
         echo '{\"event\":\"finished\",\"code\":0,\"exit\":\"as_asked\",\"verdict\":\"fine\",\"next\":\"\",\"run\":null,\"millis\":1}'",
        "it tells no audit",
    ),
    ("leaves", "exit 0", "no shell starts"),
];

#[test]
fn a_hostile_container_can_only_lie() {
    let image = image_or_skip!("a_hostile_container_can_only_lie", "bookworm");
    for (name, script, said) in HOSTILE {
        let thing = Thing::of(&image, name, &[], "exec sleep 600");
        let script = format!("#!/bin/bash\n{script}\n");
        let put = [
            "exec",
            "-i",
            &thing.name,
            "/bin/bash",
            "-c",
            "cat >/root/evil; chmod 755 /root/evil; ln -sf /root/evil /bin/sh",
        ];
        docker(&put, script.as_bytes()).ok();
        let begun = std::time::Instant::now();
        let done = thing.keyward(&["audit"]);
        assert!(done.code == 7 && done.stderr.contains(said), "{name}: {done:?}");
        println!("{name}: {:?}", begun.elapsed());
    }
    // What it names is no path of this machine.
    let thing = Thing::of(&image, "links", &[], "exec sleep 600");
    thing.sh("rm -rf /tmp /run /var/tmp; ln -s /etc /tmp; ln -s /etc /run; ln -s /etc /var/tmp").ok();
    let before = thing.changed();
    let done = thing.keyward(&["audit"]);
    assert!(done.code == 7 && done.stdout.contains("there is no /run/sshd"), "{done:?}");
    assert_eq!(thing.changed(), before);
}
