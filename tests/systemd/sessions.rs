//! Who is logged in stays logged in: sessions through the old door from before a run go on while the firewall comes up,
//! while the port moves and root is refused, and while all that is taken back.

use std::time::{Duration, Instant};

use keyward::proof::Door;
use russh::keys::ssh_key::LineEnding;

use crate::ACCEPT;
use crate::container::{Machine, Mode};
use crate::guard::Pending;
use crate::support::skipped;

/// A login from another machine by its own ssh, held open; what is typed into it goes through its standard input.
struct Session<'a> {
    laptop: &'a Machine,
    name: &'static str,
}

impl<'a> Session<'a> {
    /// Logs in as root through port 22 and runs `command`, which has to say "ready".
    fn open(laptop: &'a Machine, host: &Machine, name: &'static str, option: &str, command: &str) -> Self {
        // No keep-alive: what says nothing must look idle to the host. The pipe is held open at both ends, or ssh would
        // see its end.
        let script = format!(
            "mkfifo /tmp/{name}.in; setsid -f sh -c 'exec 3<>/tmp/{name}.in; exec ssh -o BatchMode=yes \\
             -o StrictHostKeyChecking=accept-new -o TCPKeepAlive=no -o ServerAliveInterval=0 {option} root@{} \"{command}\" \\
             <&3 >/tmp/{name}.out 2>&1' >/dev/null 2>&1 </dev/null",
            host.address
        );
        laptop.sh(&script).ok();
        let session = Self { laptop, name };
        session.until("logged in", |heard| heard.contains("ready"));
        session
    }

    fn heard(&self) -> String {
        self.laptop.sh(&format!("cat /tmp/{}.out", self.name)).stdout
    }

    #[track_caller]
    fn until(&self, what: &str, done: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !done(&self.heard()) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{}: {what}: {}", self.name, self.heard());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Types a line and hears its answer, which the shell there has to work out.
    #[track_caller]
    fn answers(&self, when: &str, number: u32) {
        self.laptop.sh(&format!("echo 'echo answer $(({number} * 1000 + 7))' >/tmp/{}.in", self.name)).ok();
        self.until(when, |heard| heard.contains(&format!("answer {number}007")));
    }

    /// How often a session that talks by itself has been heard.
    fn beats(&self) -> usize {
        self.heard().matches("beat").count()
    }
}

/// The idle one is no terminal and says nothing from before the run until after it, as a tunnel does.
fn stay(test: &str, suite: &str, mode: Mode) {
    let begun = Instant::now();
    let started = Machine::start(suite, mode).and_then(|host| Ok((host, Machine::start("bookworm", Mode::Service)?)));
    let (host, laptop) = match started {
        Ok(pair) => pair,
        Err(reason) => return skipped(test, &reason),
    };
    let line = format!("{} ops@laptop\n", laptop.key.public_key().to_openssh().unwrap());
    host.sh("mkdir -p -m 700 /root/.ssh").ok();
    host.put("/root/.ssh/authorized_keys", line.as_bytes(), "600");
    laptop.sh("install -d -m 700 /root/.ssh").ok();
    laptop.put("/root/.ssh/id_ed25519", laptop.key.to_openssh(LineEnding::LF).unwrap().as_bytes(), "600");

    let idle = Session::open(&laptop, &host, "idle", "-T", "echo ready; exec sh");
    let talks = "(while sleep 0.2; do echo beat; done) & echo ready; exec sh";
    let busy = Session::open(&laptop, &host, "busy", "-T", talks);
    // The kernel follows no connection yet: it has never seen these begin.
    assert_eq!(host.sh("cat /proc/sys/net/netfilter/nf_conntrack_count").stdout.trim(), "0", "{suite}");

    let pending = Pending { machine: host, blank: Vec::new() };
    pending.apply("120s");
    let machine = &pending.machine;
    busy.answers("while both doors are open", 1);
    let (request, key) = (machine.line(2222), machine.key.clone());
    std::thread::scope(|scope| {
        scope.spawn(|| Machine::confirm(request, &key));
        pending.until("applied", || machine.keyward(&["status"]).code == 0 && !pending.guarded());
    });
    assert_ne!(machine.door(22), Door::Open, "the old door");
    assert!(!machine.login("root", 2222).ok, "root is refused");
    let beats = busy.beats();
    busy.answers("after the run", 2);
    busy.until("goes on", |_| busy.beats() > beats);
    // Its first word since before the run.
    idle.answers("after the run", 2);

    let back = machine.keyward(&["rollback", "--yes", ACCEPT]);
    assert_eq!(back.code, 0, "{}\n{}", back.stdout, back.stderr);
    idle.answers("after the rollback", 3);
    busy.answers("after the rollback", 3);
    println!("{suite}, {mode:?}: sessions stay, {:?}", begun.elapsed());
}

#[test]
fn sessions_of_a_service_stay() {
    stay("sessions_of_a_service_stay", "bookworm", Mode::Service);
}

#[test]
fn sessions_of_a_socket_stay() {
    stay("sessions_of_a_socket_stay", "trixie", Mode::Socket);
}
