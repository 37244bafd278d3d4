//! The sandbox on the real kernel: what runs in it, what it is cut off from, and that it leaves nothing behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyward::target::sandbox::{INSIDE_V4, INSIDE_V6, Options, Sandbox, sources};
use support::machine::machine;
use support::{Bed, KEYWARD, SUITES, finish, options, skipped};

#[test]
fn every_suite_boots_with_sshd_and_answers_from_outside() {
    for suite in SUITES {
        let Some(bed) = Bed::new("every_suite_boots", suite) else { return };
        assert_eq!(bed.booted.started, ["sshd"], "{suite}: {:?}", bed.booted);
        assert!(bed.reaches(22), "{suite}: sshd does not answer from outside");
        assert!(!bed.reaches(23), "{suite}: nothing listens there");
        let banner = format!("exec 3<>/dev/tcp/{INSIDE_V6}/22; head -c 4 <&3");
        assert_eq!(bed.outside(&["/bin/bash", "-c", &banner]).ok().stdout, "SSH-", "{suite}: IPv6");
        assert_eq!(bed.run(&["/usr/bin/id", "-u"]).ok().stdout, "0\n");
    }
}

#[test]
fn ufw_and_sshds_options_come_up_at_boot() {
    let Some(mut bed) = Bed::new("ufw_and_sshds_options", "trixie") else { return };
    bed.sh("ufw allow 2200/tcp; ufw --force enable; echo 'SSHD_OPTS=\"-p 2200 -p 2201\"' >/etc/default/ssh").ok();
    bed.reboot();
    assert_eq!(bed.booted.started, ["ufw", "sshd"], "{:?}", bed.booted);
    assert!(bed.reaches(2200), "allowed and listening");
    assert!(!bed.reaches(2201), "listening and not allowed");
    assert!(!bed.reaches(22), "not listening");
}

#[test]
fn a_service_that_does_not_start_is_told_with_its_own_words() {
    let Some(mut bed) = Bed::new("a_service_that_does_not_start", "bookworm") else { return };
    bed.plant("/etc/ssh/sshd_config", b"Port 22\nNonsense yes\n", 0o644, (0, 0));
    bed.reboot();
    assert_eq!(bed.booted.started, Vec::<String>::new());
    assert!(bed.booted.notes.concat().contains("Bad configuration option: Nonsense"), "{:?}", bed.booted);
}

#[test]
fn a_silent_name_server_does_not_hold_the_copy_up() {
    let Some(bed) = Bed::new("a_silent_name_server", "bookworm") else { return };
    bed.plant("/etc/resolv.conf", b"nameserver 10.255.255.53\nnameserver 2001:db8:ffff::53\n", 0o644, (0, 0));
    // Silence costs each question 5 s or more. A refusal is one datagram, and on a busy machine one may be lost.
    let waited = (0..10).filter(|_| {
        let begun = Instant::now();
        assert_ne!(bed.run(&["/usr/bin/getent", "hosts", "keyward.invalid"]).code, 0);
        begun.elapsed().as_secs() >= 4
    });
    let waited = waited.count();
    assert!(waited <= 3, "{waited} of ten refused questions waited for an answer");
}

#[test]
fn files_survive_a_reboot_and_processes_do_not() {
    let Some(mut bed) = Bed::new("files_survive_a_reboot", "bookworm") else { return };
    bed.plant("/etc/planted", b"kept\n", 0o640, (0, 4));
    bed.sh("sleep 1000 >/dev/null 2>&1 & touch /run/gone; iptables -A INPUT -p tcp --dport 22 -j DROP").ok();
    assert!(!bed.reaches(22));
    bed.reboot();
    assert_eq!(bed.read("/etc/planted"), "kept\n");
    assert_eq!(bed.sh("stat -c %a:%u:%g /etc/planted").ok().stdout, "640:0:4\n");
    assert_ne!(bed.run(&["/usr/bin/pgrep", "-x", "sleep"]).code, 0, "a process lived on");
    assert_ne!(bed.run(&["/usr/bin/test", "-e", "/run/gone"]).code, 0);
    assert!(bed.reaches(22), "rules lived on");
}

#[test]
fn root_in_the_copy_has_no_power_over_the_machine() {
    let Some(bed) = Bed::new("root_in_the_copy", "bookworm") else { return };
    let refused = |script: &str| assert_ne!(bed.sh(script).code, 0, "possible in the copy: {script}");
    refused("echo 7 >/proc/sys/kernel/panic");
    refused("test -w /proc/sysrq-trigger && echo h >/proc/sysrq-trigger");
    refused("date -s @0");
    refused("dmesg -C");
    refused("mknod /disk b 254 0");
    refused("mount -o remount,rw /sys && echo 1 >/sys/kernel/profiling");
    refused("ls /dev/mem /dev/kmsg /dev/vda /dev/sda");
    refused("exec 3<>/dev/tcp/127.0.0.1/1");
    bed.sh("echo 1 >/proc/sys/net/ipv4/ip_forward").ok();
    assert_ne!(std::fs::read_to_string("/proc/sys/kernel/panic").unwrap(), "7\n");
    // setuid programs work: sudo to another user and back.
    assert_eq!(
        bed.sh("setpriv --reuid 33 --clear-groups /usr/bin/passwd -S www-data | cut -d' ' -f1").stdout,
        "www-data\n"
    );
}

#[test]
fn a_worker_outside_finds_the_doors_from_every_source() {
    use keyward::proof::{Door, Line, PipeWorker, Request, WORKER_ARG, Worker as _};
    let Some(bed) = Bed::new("a_worker_outside", "sid") else { return };
    let mut process = bed.sandbox.outside().unwrap();
    let mut process = process.arg(WORKER_ARG).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut worker = PipeWorker::new(process.stdout.take().unwrap(), process.stdin.take().unwrap());
    let addresses = vec![(INSIDE_V4, 22).into(), (INSIDE_V6, 22).into(), (INSIDE_V4, 23).into()];
    let replies = worker.ask(&[Request::Connect { addresses, deadline_ms: 2000 }]).unwrap();
    assert_eq!(replies[0].doors, [Door::Open, Door::Open, Door::Refused]);
    let host_key = bed.sh("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").ok().stdout.trim().to_owned();
    let methods = |source: std::net::IpAddr| {
        let address = if source.is_ipv4() { INSIDE_V4.into() } else { INSIDE_V6.into() };
        let address = std::net::SocketAddr::new(address, 22);
        let line = Line { address, source: Some(source), host_keys: vec![host_key.clone()], deadline_ms: 5000 };
        Request::Methods { line, user: "root".to_owned() }
    };
    // sshd drops some of more than ten that have not logged in yet (MaxStartups in sshd_config(5)).
    let requests: Vec<Request> = sources().map(methods).collect();
    for few in requests.chunks(6) {
        for (request, reply) in few.iter().zip(worker.ask(few).unwrap()) {
            assert!(reply.ok && reply.methods.contains(&"publickey".to_owned()), "{request:?}: {reply:?}");
        }
    }
    drop(worker);
    process.wait().unwrap();
}

#[test]
fn packages_are_fetched_over_the_machines_network_and_then_it_is_cut() {
    let Some(tree) = lab("packages_are_fetched", "bookworm") else { return };
    let mut sandbox = Sandbox::open(&options(&tree)).unwrap();
    let out = |sandbox: &mut Sandbox, script: &str| {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let (status, _) = sandbox
            .fetch("/bin/sh", |command| {
                command.args(["-c", script]).stdout(writer);
            })
            .unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        (status.code(), text)
    };
    let here = std::fs::read_link("/proc/self/ns/net").unwrap();
    let (code, text) =
        out(&mut sandbox, "readlink /proc/self/ns/net; cat /etc/resolv.conf; touch /etc/fetched; exit 3");
    assert_eq!(code, Some(3));
    let (space, resolver) = text.split_once('\n').unwrap();
    assert_eq!(Path::new(space), here, "not the machine's network");
    assert_eq!(resolver, std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    // It may use that network and not change it.
    for change in ["ip link set lo down", "iptables -A INPUT -j ACCEPT", "echo 1 >/proc/sys/net/ipv4/ip_forward"] {
        assert_ne!(out(&mut sandbox, change).0, Some(0), "{change}");
    }
    out(&mut sandbox, "sleep 1000 & exit 0");
    let booted = sandbox.boot().unwrap();
    assert_eq!(booted.started, ["sshd"]);
    let bed = Bed { sandbox, booted };
    assert_ne!(bed.sh("readlink /proc/self/ns/net").stdout.trim(), here.to_str().unwrap());
    assert_ne!(bed.run(&["/usr/bin/pgrep", "-x", "sleep"]).code, 0, "a process of the fetch lives");
    bed.sh("test -e /etc/fetched").ok();
}

#[test]
fn everything_ends_with_the_warden() {
    let Some(bed) = Bed::new("everything_ends_with_the_warden", "bookworm") else { return };
    let parent = |pid: u32| -> u32 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        text.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
    };
    let first = bed.booted.pid;
    let warden = parent(parent(first));
    assert_eq!(parent(warden), std::process::id());
    let mut sleeper = bed.sandbox.command("/bin/sh").unwrap();
    let mut sleeper = sleeper.args(["-c", "echo up; exec sleep 1000"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut up = [0; 3];
    std::io::Read::read_exact(sleeper.stdout.as_mut().unwrap(), &mut up).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(warden.cast_signed()), nix::sys::signal::SIGKILL).unwrap();
    let begun = Instant::now();
    while Path::new(&format!("/proc/{first}/ns")).read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        assert!(begun.elapsed() < Duration::from_secs(5), "process 1 of the copy lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(sleeper.wait().unwrap().code(), Some(137));
}

#[test]
fn the_machine_stays_untouched() {
    let name = "the_machine_stays_untouched";
    if !nix::unistd::geteuid().is_root() {
        return skipped(name, "not root");
    }
    let before = machine();
    let pid;
    {
        let mut bed = Bed::over(Path::new("/"));
        pid = bed.booted.pid;
        let here = std::fs::read_to_string("/etc/passwd").unwrap();
        assert_eq!(bed.read("/etc/passwd"), here, "not a copy of this machine");
        bed.sh("echo 'deploy:x:4242:4242::/home/deploy:/bin/sh' >>/etc/passwd").ok();
        bed.sh("mkdir -p /home/deploy/.ssh; echo key >/home/deploy/.ssh/authorized_keys; chown -R 4242 /home/deploy")
            .ok();
        bed.sh("rm -rf /etc/cron.d /root/.profile /var/lib/dpkg/info; mv /etc/apt /etc/tap; echo x >/usr/local/bin/x")
            .ok();
        bed.sh("echo 1 >/proc/sys/net/ipv4/ip_forward; hostname elsewhere; sleep 1000 >/dev/null 2>&1 &").ok();
        bed.sh("touch /run/x /dev/shm/x /tmp/keyward-sandbox-test; ip link add d0 type dummy; ip netns add n0 || true");
        if bed.run(&["/usr/sbin/iptables", "-V"]).code == 0 {
            bed.sh("iptables -P INPUT DROP; ip6tables -P INPUT DROP").ok();
        }
        assert!(bed.read("/etc/passwd").ends_with("deploy:x:4242:4242::/home/deploy:/bin/sh\n"));
        bed.reboot();
        assert_eq!(bed.sandbox.modules_loaded(), Vec::<String>::new());
    }
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(!Path::new("/tmp/keyward-sandbox-test").exists());
    support::machine::same(&before, &machine());
    let left = finish(shell_command("ps -eo args | grep '[_]_sandbox' | grep -c keyward.*elsewhere; true"), b"");
    assert_eq!(left.stdout.trim(), "0");
}

#[test]
fn without_user_namespaces_it_still_works_and_says_so() {
    let name = "without_user_namespaces";
    let Some(tree) = lab(name, "bookworm") else { return };
    // In a copy of this machine, which has a user namespace, and where its own children may have none.
    let bed = Bed::over(Path::new("/"));
    let script = format!(
        "{OPEN_PROC}; echo 0 >/proc/sys/user/max_user_namespaces; KEYWARD_TREE={} exec {} --ignored --exact {} --nocapture",
        tree.display(),
        std::env::current_exe().unwrap().display(),
        "without_user_namespaces_inner"
    );
    let done = bed.sh(&script);
    let told = format!("{} {} {:?}", done.stdout, done.stderr, bed.booted);
    assert!(done.code == 0 && done.stdout.contains("1 passed"), "{told}");
}

#[test]
#[ignore = "runs inside without_user_namespaces_it_still_works_and_says_so"]
fn without_user_namespaces_inner() {
    let bed = Bed::over(Path::new(&std::env::var("KEYWARD_TREE").unwrap()));
    assert_eq!(bed.booted.started, ["sshd"]);
    assert!(bed.booted.notes.concat().contains("root in the copy is the machine's root"), "{:?}", bed.booted);
    assert_ne!(bed.sh("mknod /disk b 254 0").code, 0);
    let bounding = bed.sh("grep CapBnd /proc/self/status /proc/1/status").ok().stdout;
    for line in bounding.lines() {
        let bits = u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap();
        // CAP_SYS_MODULE is 16, CAP_SYS_BOOT 22, CAP_SYS_TIME 25, CAP_SYSLOG 34; CAP_NET_ADMIN 12 stays.
        assert_eq!(bits & (1 << 16 | 1 << 22 | 1 << 25 | 1 << 34), 0, "{line}");
        assert_ne!(bits & 1 << 12, 0, "{line}");
    }
    let mut agent = bed.sandbox.agent().unwrap();
    agent.arg("--version");
    finish(agent, b"").ok();
}

#[test]
fn a_plain_user_with_subordinate_ids_copies_a_directory() {
    let name = "a_plain_user";
    let Some(tree) = lab(name, "bookworm") else { return };
    if !Path::new("/usr/bin/newuidmap").exists() {
        return skipped(name, "no newuidmap");
    }
    // A user of a copy of this machine, so that the machine's own users stay as they are.
    let mut sandbox = Sandbox::open(&Options { size: 1 << 30, ..options(Path::new("/")) }).unwrap();
    let booted = sandbox.boot().unwrap();
    let bed = Bed { sandbox, booted };
    let script = format!(
        "{OPEN_PROC}; echo tester:x:4000:4000::/home/tester:/bin/sh >>/etc/passwd; echo tester:x:4000: >>/etc/group
        mkdir -p /home/tester/tree/usr/lib /home/tester/tree/var/lib /home/tester/bare/etc /home/tester/bare/usr
        cd {tree}; cp -a bin sbin lib* etc root /home/tester/tree
        cp -a usr/bin usr/sbin usr/lib64 /home/tester/tree/usr; cp -a usr/lib/*linux-gnu* usr/lib/openssh /home/tester/tree/usr/lib
        chown -hR 4000:4000 /home/tester; chmod 4755 /home/tester/tree/usr/bin/su
        echo 0 >/proc/sys/kernel/apparmor_restrict_unprivileged_userns || true
        for d in {own} {keyward}; do while [ \"$d\" != / ]; do d=$(dirname \"$d\"); chmod a+x \"$d\"; done; done",
        tree = tree.display(),
        own = std::env::current_exe().unwrap().display(),
        keyward = support::KEYWARD,
    );
    bed.sh(&script).ok();
    let inner = |test: &str| {
        let program = std::env::current_exe().unwrap();
        let program = program.to_str().unwrap();
        let switch =
            ["/usr/bin/setpriv", "--reuid=4000", "--regid=4000", "--clear-groups", program, "--ignored", "--exact"];
        let done = bed.run(&[&switch[..], &[test, "--nocapture"]].concat());
        assert!(done.code == 0 && done.stdout.contains("1 passed"), "{} {}", done.stdout, done.stderr);
    };
    inner("a_plain_user_without_subordinate_ids_inner");
    bed.sh("echo tester:100000:65536 | tee -a /etc/subuid >>/etc/subgid").ok();
    inner("a_plain_user_inner");
}

#[test]
#[ignore = "runs inside a_plain_user_with_subordinate_ids_copies_a_directory"]
fn a_plain_user_without_subordinate_ids_inner() {
    let refused = Sandbox::open(&options(Path::new("/home/tester/tree"))).err().unwrap();
    assert!(refused.what.contains("/etc/subuid gives tester fewer than 65536"), "{refused}");
    assert!(refused.hint.contains("usermod --add-subuids"), "{refused}");
    let refused = Sandbox::open(&options(Path::new("/"))).err().unwrap();
    assert!(refused.what.contains("only root"), "{refused}");
}

#[test]
#[ignore = "runs inside a_plain_user_with_subordinate_ids_copies_a_directory"]
fn a_plain_user_inner() {
    let bed = Bed::over(Path::new("/home/tester/tree"));
    assert_eq!(bed.booted.started, ["sshd"], "{:?}", bed.booted);
    assert!(bed.reaches(22));
    bed.sh("echo x:x:1234:1234::/:/bin/sh >>/etc/passwd; iptables -A INPUT -p tcp --dport 22 -j DROP").ok();
    assert!(!bed.reaches(22));
    bed.sh(
        "chown 1234 /etc/hosts; test $(stat -c %u /etc/hosts) = 1234; rm -r /etc/ssh; mkdir /etc/ssh; rmdir /etc/ssh",
    )
    .ok();
    assert!(Path::new("/home/tester/tree/etc/ssh/sshd_config").exists());
    // Root's files are nobody's to a plain user.
    let refused = Sandbox::open(&options(Path::new("/var/cache/keyward-lab/bookworm"))).err().unwrap();
    assert!(refused.what.contains("somebody else's"), "{refused}");
}

#[test]
fn what_cannot_be_copied_is_named() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("what_cannot_be_copied_is_named", "not root");
    }
    let open = |path: &str| Sandbox::open(&options(Path::new(path))).err().map(|failure| failure.to_string());
    assert!(open("/var/empty-no").unwrap().contains("no host to copy"));
    assert!(open("/var/lib").unwrap().contains("there is no etc in it"));
    // As in a container without rights.
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--bounding-set=-sys_admin", KEYWARD, "rehearse", "--root", "/"]);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/playbooks/first-login.yml"));
    let done = finish(command, b"");
    assert_eq!(done.code, 5, "{}", done.stderr);
    assert!(done.stderr.contains("no namespaces can be made") && done.stderr.contains("--cap-add SYS_ADMIN"));
}

/// Takes the lids off the copy's /proc: the kernel gives a nested copy a /proc only where the present one is whole.
const OPEN_PROC: &str =
    "for point in $(awk '$2 ~ \"^/proc/\" {print $2}' /proc/mounts | tac); do umount -l $point; done";

/// Printed, not asserted: a loaded machine is no defect.
#[test]
fn time_to_ready() {
    let Some(tree) = lab("time_to_ready", "bookworm") else { return };
    let begun = Instant::now();
    let mut sandbox = Sandbox::open(&options(&tree)).unwrap();
    let opened = begun.elapsed();
    sandbox.boot().unwrap();
    let booted = begun.elapsed();
    sandbox.command("/bin/true").unwrap().status().unwrap();
    let ran = begun.elapsed();
    sandbox.close().unwrap();
    println!("opened {opened:?}, booted with sshd {booted:?}, ran a program {ran:?}, closed {:?}", begun.elapsed());
}

fn lab(name: &str, suite: &str) -> Option<std::path::PathBuf> {
    support::tree(suite).map_err(|reason| skipped(name, &reason)).ok()
}

fn shell_command(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}

#[test]
fn the_program_under_test_is_there() {
    assert!(Path::new(KEYWARD).exists());
}
