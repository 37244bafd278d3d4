//! Why there is no connection, told apart.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use keyward::target::sandbox::INSIDE_V4;
use keyward::target::ssh::{Setback, Trouble};

use super::support::SUITES;
use super::world::{World, mute, passwords};

fn trouble(world: &World, target: &str) -> Setback {
    world.open(target, mute, |wishes| wishes.connect_limit = Duration::from_millis(700)).unwrap_err()
}

#[test]
fn refused_filtered_unreachable_and_nameless() {
    let Some(world) = World::new("refused_filtered_unreachable", "bookworm") else { return };
    assert_eq!(trouble(&world, &format!("{INSIDE_V4}:23")).trouble, Trouble::Refused);
    world.bed.sh("iptables -A INPUT -p tcp --dport 24 -j DROP; iptables -A INPUT -p tcp --dport 25 -j REJECT --reject-with icmp-port-unreachable").ok();
    let setback = trouble(&world, &format!("{INSIDE_V4}:24"));
    assert_eq!(setback.trouble, Trouble::Filtered);
    assert!(setback.to_string().contains("security group"), "{setback}");
    assert_eq!(trouble(&world, &format!("{INSIDE_V4}:25")).trouble, Trouble::Refused);
    world.bed.outside(&["/usr/sbin/ip", "route", "add", "unreachable", "192.0.2.9"]).ok();
    assert_eq!(trouble(&world, "192.0.2.9").trouble, Trouble::Unreachable);
    let begun = Instant::now();
    assert_eq!(trouble(&world, "keyward-test.invalid").trouble, Trouble::Resolve);
    assert!(begun.elapsed() < Duration::from_secs(12));
    // The way over one link only, with its name; the key is not known by that name.
    let link = world.bed.outside(&["/usr/sbin/ip", "-o", "link", "show", "type", "veth"]).ok().stdout;
    let link = link.split([':', '@']).nth(1).unwrap().trim().to_owned();
    let local = world.bed.sh("ip -6 -o addr show scope link | sed -n 's|.*inet6 \\([^/]*\\)/.*|\\1|p'").ok().stdout;
    let local = local.trim();
    let mut setback = trouble(&world, &format!("[{local}%{link}]"));
    for _ in 0..8 {
        // The kernel makes sure of a new address for a second or two.
        if setback.trouble == Trouble::Filtered {
            setback = trouble(&world, &format!("[{local}%{link}]"));
        }
    }
    assert!(matches!(setback.trouble, Trouble::HostKeyUnknown { .. }), "{link} {local}: {setback:?}");
    assert_eq!(trouble(&world, &format!("[{local}%nowhere]")).trouble, Trouble::Resolve);
    // A name of this machine's own files.
    assert_eq!(trouble(&world, "localhost").trouble, Trouble::Refused);
}

#[test]
fn weak_servers_are_refused_by_name() {
    let Some(world) = World::new("weak_servers", "bookworm") else { return };
    for (text, word) in [
        ("KexAlgorithms diffie-hellman-group14-sha1\n", "key exchange"),
        ("Ciphers aes128-cbc\n", "cipher"),
        ("Ciphers aes128-ctr\nMACs hmac-sha1\n", "checksum"),
    ] {
        world.sshd(text);
        let setback = trouble(&world, &INSIDE_V4.to_string());
        assert_eq!(setback.trouble, Trouble::NoCommonAlgorithm, "{text}: {setback}");
        assert!(setback.to_string().contains(word), "{setback}");
    }
}

#[test]
fn a_full_door_is_no_closed_one() {
    for suite in SUITES {
        let Some(world) = World::new("a_full_door", suite) else { return };
        world.sshd("MaxStartups 1:100:1\n");
        let waiting = world.outside(|| {
            let mut stream = TcpStream::connect((INSIDE_V4, 22)).unwrap();
            let mut banner = [0; 4];
            stream.read_exact(&mut banner).unwrap();
            stream.write_all(b"SSH-2.0-Waiting\r\n").unwrap();
            stream
        });
        let setback = trouble(&world, &INSIDE_V4.to_string());
        let told =
            matches!(setback.trouble, Trouble::Crowded | Trouble::Banned | Trouble::Reset { before_banner: true });
        assert!(told && setback.to_string().contains("MaxStartups"), "{suite}: {setback:?}");
        println!("{suite}: {setback}");
        drop(waiting);
    }
}

#[test]
fn a_penalty_is_told_from_a_refusal() {
    for suite in ["trixie", "sid"] {
        let Some(world) = World::new("a_penalty", suite) else { return };
        world.sshd("PerSourcePenalties authfail:10 min:5\n");
        let target = format!("ssh://root@{INSIDE_V4}");
        fn wrong(question: &keyward::target::ssh::Question) -> Option<&'static str> {
            matches!(question, keyward::target::ssh::Question::Password { attempt: 0, .. }).then_some("wrong")
        }
        let first = world.open(&target, wrong, |wishes| wishes.passwords = true).unwrap_err();
        assert!(matches!(first.trouble, Trouble::Credentials { .. }), "{suite}: {first:?}");
        let mut last = first;
        for _ in 0..3 {
            last = world.open(&target, wrong, |wishes| wishes.passwords = true).unwrap_err();
            if last.trouble == Trouble::Banned {
                break;
            }
        }
        assert_eq!(last.trouble, Trouble::Banned, "{suite}: {last}");
        assert!(last.to_string().contains("wait a minute"), "{suite}: {last}");
    }
}

#[test]
fn a_login_that_is_let_in_earns_no_penalty() {
    let Some(world) = World::new("a_login_earns_no_penalty", "trixie") else { return };
    world.sshd("PerSourcePenalties authfail:100 noauth:100 refuseconnection:100 min:1\n");
    for _ in 0..6 {
        let link = world.open(&format!("ssh://root@{INSIDE_V4}"), passwords, |wishes| wishes.passwords = true);
        drop(link.unwrap_or_else(|setback| panic!("{setback}")));
    }
}
