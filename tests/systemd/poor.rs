//! Hosts and links in a poor state: one command still ends applied, or it is refused before the first change with the
//! right words.

use std::time::Instant;

use crate::far::{Pair, said};

/// Carries bytes with 300 ms of delay each way; each twentieth piece comes a second late, as a lost one does.
/// In a process of its own, as not every kernel has sch_netem.
const SLOW: &str = r#"
import os, select, socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
queue, count, ends = [], 0, 0
while ends < 2 or queue:
    now = time.monotonic()
    wait = max(0, queue[0][0] - now) if queue else 5
    ready, _, _ = select.select([fd for fd in ([0] if ends & 1 == 0 else []) + ([s.fileno()] if ends & 2 == 0 else [])], [], [], wait)
    for fd in ready:
        data = os.read(fd, 65536) if fd == 0 else s.recv(65536)
        count += 1
        late = 0.3 + (1.0 if count % 20 == 0 else 0)
        due = max(time.monotonic() + late, queue[-1][0] if queue else 0)
        queue.append((due, fd == 0, data))
        if not data:
            ends |= 1 if fd == 0 else 2
    while queue and queue[0][0] <= time.monotonic():
        _, out, data = queue.pop(0)
        if out:
            s.sendall(data) if data else s.shutdown(socket.SHUT_WR)
        else:
            view = memoryview(data)
            while view:
                view = view[os.write(1, view):]
            if not data:
                sys.exit(0)
"#;

#[test]
fn a_slow_and_lossy_link_still_ends_applied() {
    let Some(pair) = Pair::new("a_slow_and_lossy_link", "bookworm") else { return };
    println!("delay and loss come from a ProxyCommand: no module of the kernel is needed");
    pair.laptop.put("/root/slow.py", SLOW.as_bytes(), "600");
    pair.laptop.put("/root/.ssh/config", b"Host *\n  ProxyCommand python3 /root/slow.py %h %p\n", "600");
    let begun = Instant::now();
    let apply = pair.first("apply --yes first.yml");
    assert_eq!(apply.code, 0, "{}", said(&apply));
    println!("applied over a slow link in {:?}", begun.elapsed());
    assert!(apply.stdout.matches("proven   L3 login as deploy@").count() == 2, "{}", said(&apply));
}

#[test]
fn a_host_that_is_strict_and_full() {
    let Some(pair) = Pair::new("a_host_that_is_strict_and_full", "trixie") else { return };
    let blank = pair.files();
    let sshd = "PermitRootLogin yes\nPasswordAuthentication yes\nMaxStartups 2:100:2\nLoginGraceTime 20\n\
                PerSourcePenalties authfail:5s noauth:1s crash:90s min:15s\n";
    pair.host.put("/etc/ssh/sshd_config.d/50-cloud-init.conf", sshd.as_bytes(), "600");
    pair.host
        .sh("sed -i '/^Subsystem/d' /etc/ssh/sshd_config; mount -t tmpfs -o noexec,size=1m tmpfs /tmp; systemctl reload ssh")
        .ok();
    // Others wait at the door; they come from elsewhere, so that nobody punishes the laptop for it.
    pair.host.sh("for i in 1 2; do setsid -f bash -c 'exec 3<>/dev/tcp/127.0.0.1/22; sleep 30' </dev/null >/dev/null 2>&1; done; sleep 1").ok();
    let crowded = pair.first("plan first.yml");
    assert_eq!(crowded.code, 7, "{}", said(&crowded));
    assert!(crowded.stderr.contains("MaxStartups"), "{}", said(&crowded));
    pair.host.sh("pkill -x sleep; sleep 2").ok();
    // No room for the program, and none for the journal: each on a file system of a size of its own.
    let full =
        "install -d -m 700 /var/lib/keyward-agent; mount -t tmpfs -o size=64k,mode=700 tmpfs /var/lib/keyward-agent";
    pair.host.sh(full).ok();
    let apply = pair.first("apply --yes first.yml");
    assert!(apply.code == 5 && apply.stderr.contains("the disk is full"), "{}", said(&apply));
    pair.host.sh("umount /var/lib/keyward-agent; rmdir /var/lib/keyward-agent").ok();
    pair.host.sh("install -d -m 700 /var/lib/keyward; mount -t tmpfs -o size=64k,mode=700 tmpfs /var/lib/keyward").ok();
    let apply = pair.first("apply --yes first.yml");
    assert!(apply.code == 5 && apply.stderr.contains("does not outlive a reboot"), "{}", said(&apply));
    let apply = pair.first("apply --yes --without-boot-guard first.yml");
    assert!(apply.code == 5 && apply.stderr.contains("space"), "{}", said(&apply));
    pair.host.sh("umount /var/lib/keyward; rmdir /var/lib/keyward").ok();
    let changed = ["sshd_config", "/tmp"];
    let after: Vec<_> = pair.files().into_iter().filter(|line| !changed.iter().any(|one| line.contains(one))).collect();
    let before: Vec<_> = blank.into_iter().filter(|line| !changed.iter().any(|one| line.contains(one))).collect();
    crate::same(&before, &after, "refused before the first change");
    let apply = pair.first("apply --yes first.yml");
    assert_eq!(apply.code, 0, "{}", said(&apply));
}
