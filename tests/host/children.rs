//! Programs: what they are given, what they may do, and that nothing of them is left after the deadline.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use keyward::error::Kind;
use keyward::host::{Actor, Command, Host, OUTPUT_LIMIT, Probe, Staged};
use keyward::types::Proto;

use crate::bench::{inside, sh};
use crate::{at, machine};

fn shell(script: &str) -> Command {
    Command::new(["/bin/sh", "-c", script])
}

/// Waits for what a program of the test's own does.
#[track_caller]
fn until(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "it never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_program_gets_a_clean_world() {
    inside("children::a_program_gets_a_clean_world", || {
        let host = machine();
        let lines = |command: Command| {
            let output = host.ask(&command).unwrap();
            assert!(output.ok(), "{output:?}");
            let mut lines: Vec<_> = output.stdout.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        // Ours is hostile: see the marks below that must not come through.
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "children::hostile_environment", "--nocapture"])
            .env("LD_PRELOAD", "/evil.so")
            .env("IFS", "x")
            .env("PATH", "/evil")
            .env("LC_ALL", "tr_TR.UTF-8")
            .env("HOSTILE", "1")
            .current_dir("/tmp")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("SEEN clean"), "{text}");
        let fixed = ["HOME=/root", "LC_ALL=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TZ=UTC"];
        assert_eq!(lines(Command::new(["/usr/bin/env"])), fixed);
        assert_eq!(lines(Command::new(["/usr/bin/env"]).env("A", "b"))[0], "A=b");
        assert_eq!(lines(shell("readlink /proc/self/cwd /proc/self/fd/0")), ["/", "/dev/null"]);
        assert_eq!(lines(shell("[ $(ps -o pgid= -p $$) = $$ ] && echo own"))[0], "own");
        assert_eq!(lines(shell("echo $#; echo $0")), ["/bin/sh", "0"]);
        let output = host.ask(&shell("echo out; echo err >&2; exit 7")).unwrap();
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (7, "out\n", "err\n"));
        assert_eq!(host.ask(&shell("kill -9 $$")).unwrap().code, 137);
        for program in ["/usr/bin/nothing", "/etc/passwd", "sh", ""] {
            assert_eq!(host.ask(&Command::new([program])).unwrap_err().kind, Kind::Unknown, "{program}");
            assert_eq!(host.run(&Command::new([program])).unwrap_err().kind, Kind::Failed, "{program}");
        }
        assert!(host.has_program("/bin/sh") && !host.has_program("/etc/passwd") && !host.has_program("/etc"));
    });
}

/// Runs only inside the test above.
#[test]
fn hostile_environment() {
    if std::env::var_os("HOSTILE").is_none() {
        return;
    }
    let output = machine().ask(&shell("/usr/bin/env | /usr/bin/sort | /usr/bin/tr '\\n' ' '; pwd")).unwrap();
    assert_eq!(output.stdout, "HOME=/root LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin PWD=/ TZ=UTC /\n");
    println!("SEEN clean");
}

#[test]
fn input_and_output_flow_at_the_same_time() {
    inside("children::input_and_output_flow_at_the_same_time", || {
        let host = machine();
        let input: String = (0..100_000).map(|number| format!("{number:07}\n")).collect();
        let output = host.ask(&Command::new(["/bin/cat"]).stdin(input.clone())).unwrap();
        assert_eq!(output.stdout, input);
        // Programs that do not read, or close their output long before they end.
        assert!(host.ask(&Command::new(["/bin/true"]).stdin(input.clone())).unwrap().ok());
        assert_eq!(host.ask(&shell("exec >&- 2>&-; sleep 0.2; exit 3").stdin(input)).unwrap().code, 3);
        let mut times: Vec<Duration> = (0..50)
            .map(|_| {
                let began = Instant::now();
                host.ask(&Command::new(["/bin/true"])).unwrap();
                began.elapsed()
            })
            .collect();
        times.sort();
        println!("SEEN a program that does nothing takes {:?} (median of 50)", times[25]);
    });
}

#[track_caller]
fn gone(mark: &str) {
    let left = sh(&format!("grep -alF '{mark}' /proc/[0-9]*/cmdline 2>/dev/null | grep -v /self/ || true"));
    let left: Vec<_> = left.lines().filter(|line| !line.contains(&format!("/{}/", std::process::id()))).collect();
    for path in &left {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        assert!(!text.contains(mark) || text.contains("grep"), "{path} is left: {text:?}");
    }
}

#[test]
fn after_the_deadline_nothing_is_left() {
    inside("children::after_the_deadline_nothing_is_left", || {
        let host = machine();
        for script in [
            "sleep 4711",
            "trap '' TERM HUP INT; sleep 4711; sleep 4711",
            "sleep 4711 & sleep 4711 & wait",
            "(setsid sleep 4711 &) ; sleep 4711",
            "setsid sh -c 'setsid sh -c \"sleep 4711 & sleep 4711\" & sleep 4711' & sleep 4711",
            "(setsid sh -c '(setsid sleep 4711 >/dev/null 2>&1 </dev/null &)' &); exec sleep 4711",
            "exec >&- 2>&-; sleep 4711",
            "f() { setsid sleep 4711 & sleep 0.01; f; }; f",
            "kill -STOP $$",
        ] {
            let began = Instant::now();
            let failure = host.run(&shell(script).deadline(Duration::from_millis(150))).unwrap_err();
            assert_eq!(failure.kind, Kind::Failed, "{failure}");
            assert!(failure.line().contains("/bin/sh") && failure.why.contains("150 ms"), "{failure}");
            assert!(failure.why.ends_with("it and all it started were killed"), "{failure}");
            assert!(began.elapsed() < Duration::from_secs(3), "{script}: {:?}", began.elapsed());
            gone("4711");
        }
        // A daemon that was left on purpose stays, and does not hold up the answer.
        let began = Instant::now();
        let output = host.run(&shell("sleep 4712 & echo started")).unwrap();
        assert_eq!(output.stdout, "started\n");
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        let failure = host.run(&shell("sleep 4711").deadline(Duration::from_millis(100))).unwrap_err();
        assert_eq!(failure.kind, Kind::Failed);
        assert_eq!(sh("pgrep -cx sleep || true").trim(), "1", "a stranger was killed");
    });
}

#[test]
fn a_flood_is_cut() {
    inside("children::a_flood_is_cut", || {
        let host = machine();
        let exactly = host.ask(&Command::new(["/usr/bin/head", "-c", &OUTPUT_LIMIT.to_string(), "/dev/zero"])).unwrap();
        assert_eq!(exactly.stdout.len(), OUTPUT_LIMIT);
        for script in ["yes 4713", "yes 4713 >&2", "(setsid yes 4713 &); sleep 60"] {
            let began = Instant::now();
            let failure = host.ask(&shell(script)).unwrap_err();
            assert_eq!((failure.kind, failure.what.as_str()), (Kind::Unknown, "wrote too much"), "{failure}");
            assert!(began.elapsed() < Duration::from_secs(3), "{script}");
            gone("4713");
        }
    });
}

#[test]
fn candidates_are_staged_and_gone() {
    inside("children::candidates_are_staged_and_gone", || {
        let host = machine();
        let staged = |name: &str, text: &str, mode| Staged { name: name.to_owned(), content: text.into(), mode };
        let files = [staged("a", "I am {stage}/a, {stage}", 0o440), staged("d/e/b", "\u{e9}{stage", 0o600)];
        let script =
            "cat {stage}/a; stat -c ' %a %u' {stage}/a {stage}/d/e/b {stage}/d {stage}; cat {stage}/d/e/b -; pwd";
        let output = host.ask_staged(&files, &shell(script).stdin("in {stage}")).unwrap();
        let stage = output.stdout.split('/').take(4).collect::<Vec<_>>().join("/").replace("I am ", "");
        assert!(stage.starts_with("/run/keyward/stage-"), "{output:?}");
        let wanted = format!("I am {stage}/a, {stage} 440 0\n 600 0\n 700 0\n 700 0\n\u{e9}{{stagein {stage}/\n");
        assert_eq!(output.stdout, wanted);
        assert!(host.ask_staged(&files, &shell("sleep 9").deadline(Duration::from_millis(50))).is_err());
        for name in ["../x", "/x", "a/../../x", "", "a//b"] {
            assert!(host.ask_staged(&[staged(name, "", 0o600)], &shell("true")).is_err(), "{name}");
        }
        assert!(!std::fs::exists("/run/keyward").unwrap(), "a look leaves nothing");
        // What else is in there stays.
        sh("mkdir -m 700 /run/keyward; touch /run/keyward/lock");
        host.ask_staged(&files, &shell("true")).unwrap();
        assert_eq!(std::fs::read_dir("/run/keyward").unwrap().count(), 1);
        assert!(!std::fs::exists("/run/x").unwrap());
        // Where /run cannot be written, the disk serves; a place of somebody else's is not used.
        sh("rm -r /run/keyward; ln -s /tmp /run/keyward");
        let output = host.ask_staged(&files, &shell("echo {stage}")).unwrap();
        assert!(output.stdout.starts_with("/var/lib/keyward/stage-"), "{output:?}");
        assert_eq!(std::fs::read_dir("/tmp").unwrap().count(), 0);
    });
}

#[test]
fn listeners_are_found_with_their_programs() {
    inside("children::listeners_are_found_with_their_programs", || {
        sh("ip link set lo up");
        let host = machine();
        assert_eq!(host.listeners().unwrap(), []);
        let one = TcpListener::bind("127.0.0.1:0").unwrap();
        let two = TcpListener::bind("[::1]:0").unwrap();
        let three = TcpListener::bind("0.0.0.0:0").unwrap();
        let _client = std::net::TcpStream::connect(one.local_addr().unwrap()).unwrap();
        let name = std::fs::read_to_string("/proc/self/comm").unwrap().trim().to_owned();
        let mut wanted: Vec<_> = [&one, &two, &three].iter().map(|socket| socket.local_addr().unwrap()).collect();
        wanted.sort_by_key(|addr| (addr.ip(), addr.port()));
        let seen = host.listeners().unwrap();
        assert_eq!(
            seen.iter().map(|l| (l.address, l.port)).collect::<Vec<_>>(),
            wanted.iter().map(|a| (a.ip(), a.port())).collect::<Vec<_>>()
        );
        assert!(seen.iter().all(|listener| listener.programs == [name.clone()]), "{seen:?} {name}");
        // UDP is a list of its own, and what has a peer is nobody's service.
        let service = UdpSocket::bind("0.0.0.0:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect("127.0.0.1:9").unwrap();
        let datagrams = host.datagram_sockets().unwrap();
        assert_eq!(datagrams.len(), 1, "{datagrams:?}");
        assert_eq!((datagrams[0].port, datagrams[0].proto), (service.local_addr().unwrap().port(), Proto::Udp));
        assert_eq!(datagrams[0].programs, [name]);
        assert_eq!(host.listeners().unwrap(), seen);
    });
}

#[test]
fn one_look_gets_one_answer() {
    inside("children::one_look_gets_one_answer", || {
        sh("ip link set lo up; echo old >/etc/looked-at; mkdir /etc/looked-in");
        let (host, file, names) = (machine(), at("/etc/looked-at"), at("/etc/looked-in"));
        let (one, other) = (shell("cat /proc/sys/kernel/random/uuid"), shell("echo; cat /proc/sys/kernel/random/uuid"));
        let ask = |question: &Command| host.ask(question).unwrap().stdout;
        let read = || String::from_utf8(host.read(&file, &Actor::Root).unwrap().unwrap()).unwrap();
        let list = || host.list(&names, &Actor::Root).unwrap().unwrap();
        assert_ne!(ask(&one), ask(&one), "outside of a look everything is asked anew");
        host.look_ahead(std::slice::from_ref(&one));
        let first = ask(&one);
        host.look_ahead(&[other.clone(), one.clone()]);
        assert_eq!(ask(&one), first, "a question that was added ends no look");
        assert_eq!(ask(&other), ask(&other));
        assert_eq!((read(), list(), host.listeners().unwrap().len()), ("old\n".to_owned(), Vec::new(), 0));
        sh("echo new >/etc/looked-at; touch /etc/looked-in/x");
        let _open = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!((read(), list(), host.listeners().unwrap().len()), ("old\n".to_owned(), Vec::new(), 0));
        // What was not there may not be made up either, and what failed is tried again.
        assert_eq!(host.read(&at("/etc/absent"), &Actor::Root).unwrap(), None);
        host.read(&names, &Actor::Root).unwrap_err();
        host.end_look();
        assert_eq!((read(), list(), host.listeners().unwrap().len()), ("new\n".to_owned(), vec!["x".to_owned()], 1));
        assert_ne!(ask(&one), first);
    });
}

#[test]
fn a_program_is_read_or_has_to_be_asked() {
    inside("children::a_program_is_read_or_has_to_be_asked", || {
        let host = machine();
        let bytes = host.program(&at("/usr/sbin/sshd")).unwrap();
        assert!(bytes.starts_with(b"\x7fELF"));
        assert_eq!(bytes, std::fs::read("/usr/sbin/sshd").unwrap());
        assert_eq!(host.program(&at("/usr/sbin/absent")), None);
        assert_eq!(host.program(&at("/usr/sbin")), None);
        sh("truncate -s 17M /usr/sbin/large");
        assert_eq!(host.program(&at("/usr/sbin/large")), None);
        // What it says of itself is what sshd says when it is asked.
        let said = host.ask(&Command::new(["/usr/sbin/sshd", "-V"])).unwrap();
        let said = keyward::facts::parse_ssh_version(&format!("{}\n{}", said.stdout, said.stderr));
        assert!(said.is_some());
        let facts = keyward::facts::Facts::gather(&host).unwrap();
        assert_eq!(facts.sshd, said);
        sh(
            "printf '#!/bin/sh\\nexec /usr/sbin/real \"$@\"\\n' >/tmp/sshd; chmod 755 /tmp/sshd; mv /usr/sbin/sshd /usr/sbin/real; mv /tmp/sshd /usr/sbin/sshd",
        );
        assert_eq!(keyward::facts::Facts::gather(&host).unwrap().sshd, said);
    });
}

#[test]
fn a_hangup_reaches_the_right_process() {
    inside("children::a_hangup_reaches_the_right_process", || {
        let (host, pid_file) = (machine(), at("/run/d.pid"));
        let program = at("/usr/local/bin/daemon");
        // As sshd does: the pid file goes while it starts over, and comes anew.
        let script = "trap 'rm /run/d.pid; echo seen >>/run/seen; sleep 0.1; echo $$ >/run/d.pid' HUP; echo $$ >/run/d.pid; while :; do sleep 0.02; done";
        // Who runs the tests under nohup hands down an ignored hangup, which a shell may not trap again.
        let start = |args: &[&str]| {
            let mut daemon = std::process::Command::new("/usr/bin/env");
            daemon.args(["--default-signal=HUP", program.as_str()]).args(args).spawn().unwrap()
        };
        for text in ["", "0", "-1", "junk", "999999", "1"] {
            std::fs::write("/run/d.pid", text).unwrap();
            assert_eq!(host.hangup(&pid_file, &program, None).unwrap_err().kind, Kind::Failed, "{text}");
        }
        for upgrade in [false, true] {
            sh("rm -f /usr/local/bin/daemon /run/seen /run/d.pid; cp /bin/dash /usr/local/bin/daemon");
            let mut daemon = start(&["-c", script]);
            until(|| std::fs::read_to_string("/run/d.pid").is_ok_and(|text| text.ends_with('\n')));
            assert_eq!(host.hangup(&pid_file, &at("/usr/sbin/sshd"), None).unwrap_err().kind, Kind::Failed);
            if upgrade {
                sh("rm /usr/local/bin/daemon; cp /bin/true /usr/local/bin/daemon");
            }
            assert!(!std::fs::exists("/run/seen").unwrap());
            host.hangup(&pid_file, &program, None).unwrap();
            // On return it has started over, so that the next one counts.
            host.hangup(&pid_file, &program, None).unwrap();
            let by = Command::new(["/bin/kill", "-HUP", &daemon.id().to_string()]);
            host.hangup(&pid_file, &program, Some(&by)).unwrap();
            assert_eq!(std::fs::read_to_string("/run/seen").unwrap(), "seen\nseen\nseen\n");
            assert!(host.hangup(&pid_file, &program, Some(&Command::new(["/bin/false"]))).is_err());
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
        // One that dies of it does not come back.
        sh("rm /usr/local/bin/daemon; cp /bin/sleep /usr/local/bin/daemon");
        let mut daemon = start(&["60"]);
        let runs = format!("/proc/{}/exe", daemon.id());
        until(|| std::fs::read_link(&runs).is_ok_and(|runs| runs.as_os_str() == program.as_str()));
        std::fs::write("/run/d.pid", format!("{}\n", daemon.id())).unwrap();
        assert_eq!(host.hangup(&pid_file, &program, None).unwrap_err().kind, Kind::Failed);
        assert_eq!(daemon.wait().unwrap().signal(), Some(1));
    });
}

#[test]
fn what_was_inherited_is_put_right() {
    inside("children::what_was_inherited_is_put_right", || {
        let run = |before: &str| {
            let script =
                format!("{before}; exec /opt/test --exact children::prepared --nocapture 7</etc/passwd 9>/tmp/nine");
            let output =
                std::process::Command::new("/bin/bash").args(["-c", &script]).env("PREPARE", "1").output().unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let good = "SEEN umask 77 core 0 fsize unlimited fds 0,1,2 ign 1000 blk 0 dumpable false child 0 fds 0,1,2,3";
        for before in
            ["umask 0", "umask 777; trap '' HUP INT TERM QUIT PIPE; ulimit -Sc unlimited; ulimit -Sf 0", "exec 0<&-"]
        {
            let text = run(before);
            assert!(text.contains(good), "{before}: {text}");
        }
        let text = run("ulimit -f 100");
        assert!(text.contains("SEEN refused keyward: runs under a hard file-size limit"), "{text}");
    });
}

/// Runs only inside the test above: says what is left of a bad inheritance.
#[test]
fn prepared() {
    if std::env::var_os("PREPARE").is_none() {
        return;
    }
    if let Err(failure) = keyward::host::real::prepare_process() {
        assert_eq!(failure.kind, Kind::Refused);
        println!("SEEN refused {}", failure.line());
        return;
    }
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let limit = |name: &str| {
        limits.lines().find_map(|line| line.strip_prefix(name)).unwrap().split_whitespace().next().unwrap().to_owned()
    };
    let mut open: Vec<String> = (0..20)
        .filter(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok())
        .map(|fd| fd.to_string())
        .collect();
    open.sort();
    // The C library keeps signals 32 and 33 for itself.
    let mask = |text: &str| u64::from_str_radix(text.trim(), 16).unwrap() & 0x7fff_ffff;
    let ask = |script: &str| machine().ask(&shell(script)).unwrap().stdout;
    println!(
        "SEEN umask {:o} core {} fsize {} fds {} ign {:x} blk {:x} dumpable {} child {:x} fds {}",
        u32::from_str_radix(&line("Umask:"), 8).unwrap(),
        limit("Max core file size"),
        limit("Max file size"),
        open.join(","),
        mask(&line("SigIgn:")),
        mask(&line("SigBlk:")),
        nix::sys::prctl::get_dumpable().unwrap(),
        mask(&ask("grep ^SigIgn /proc/self/status | cut -f2")),
        ask("ls /proc/self/fd").trim().replace('\n', ","),
    );
}

#[test]
fn a_program_that_must_not_be_killed_goes_on_after_its_deadline() {
    inside("children::a_program_that_must_not_be_killed_goes_on_after_its_deadline", || {
        let mark = std::path::Path::new("/tmp/went-on");
        let script = "sleep 1; echo out; echo err >&2; echo through >/tmp/went-on";
        let command = shell(script).deadline(Duration::from_millis(100)).never_killed();
        let failure = machine().run(&command).unwrap_err();
        assert!(failure.kind == Kind::Failed && failure.why.contains("goes on"), "{failure:?}");
        assert!(!mark.exists());
        let begun = Instant::now();
        while !mark.exists() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(mark.exists(), "it was killed, or died of its output");
        let output = machine().run(&shell("echo out; echo err >&2; exit 3").never_killed()).unwrap();
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (3, "out\n", "err\n"));
    });
}
