//! The sandbox on the real kernel: what runs in it, what it is cut off from, and that it leaves nothing behind.

mod support;

use std::time::Instant;

use support::{Bed, SUITES};

#[test]
fn every_suite_boots_with_sshd_and_answers_from_outside() {
    for suite in SUITES {
        let Some(bed) = Bed::new("every_suite_boots", suite) else { return };
        assert_eq!(bed.booted.started, ["sshd"], "{suite}: {:?}", bed.booted);
        assert!(bed.reaches(22), "{suite}: sshd does not answer from outside");
        assert!(!bed.reaches(23), "{suite}: nothing listens there");
        let banner = format!("exec 3<>/dev/tcp/{}/22; head -c 4 <&3", keyward::target::sandbox::INSIDE_V6);
        assert_eq!(bed.outside(&["/bin/bash", "-c", &banner]).ok().stdout, "SSH-", "{suite}: IPv6");
        assert_eq!(bed.run(&["/usr/bin/id", "-u"]).ok().stdout, "0\n");
    }
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
fn ready_in_a_tenth_of_a_second() {
    let Some(bed) = Bed::new("ready_in_a_tenth_of_a_second", "bookworm") else { return };
    drop(bed);
    let tree = support::tree("bookworm").unwrap();
    let begun = Instant::now();
    let bed = Bed::over(&tree);
    println!("open and boot with sshd: {:?}", begun.elapsed());
    drop(bed);
    println!("open, boot and close: {:?}", begun.elapsed());
}
