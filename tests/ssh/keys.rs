//! Host keys: known, unknown, accepted, changed, revoked, pinned, hashed, certified.

use keyward::target::sandbox::{INSIDE_V4, INSIDE_V6};
use keyward::target::ssh::{Trouble, Trust};

use super::world::{World, mute, passwords, said};

#[test]
fn a_host_key_is_known_or_the_host_gets_nothing() {
    let Some(world) = World::new("a_host_key_is_known", "bookworm") else { return };
    let target = format!("ssh://root@{INSIDE_V4}");
    let by = |trust: Trust| {
        world.open(&target, passwords, |wishes| {
            wishes.passwords = true;
            wishes.trust = trust;
        })
    };
    let good = world.home.read("known_hosts");
    let fingerprint = world.bed.sh("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub | cut -d' ' -f2").ok().stdout;
    let fingerprint = fingerprint.trim().to_owned();
    // Unknown: the fingerprint is told. Accepted once it is known, by a line of its own.
    std::fs::remove_file(world.home.path.join(".ssh/known_hosts")).unwrap();
    assert_eq!(
        by(Trust::KnownHosts).unwrap_err().trouble,
        Trouble::HostKeyUnknown { fingerprint: fingerprint.clone() }
    );
    let link = by(Trust::AcceptNew).unwrap();
    assert!(link.notes().concat().contains(&fingerprint), "{:?}", link.notes());
    assert!(by(Trust::KnownHosts).unwrap().notes().is_empty());
    assert!(by(Trust::AcceptNew).unwrap().notes().is_empty(), "it is known by now");
    assert_eq!(world.home.read("known_hosts").lines().count(), 1);
    // Pinned: known_hosts does not matter, but a revocation does.
    std::fs::remove_file(world.home.path.join(".ssh/known_hosts")).unwrap();
    by(Trust::Pinned(vec!["SHA256:AAAA".to_owned(), fingerprint.clone()])).unwrap();
    // Whichever of its keys the console shows.
    for kind in ["ecdsa", "rsa"] {
        let other =
            world.bed.sh(&format!("ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub | cut -d' ' -f2")).ok().stdout;
        let link =
            by(Trust::Pinned(vec![other.trim().to_owned()])).unwrap_or_else(|setback| panic!("{kind}: {setback}"));
        assert!(link.host_key().contains(kind), "{}", link.host_key());
    }
    let wrong = by(Trust::Pinned(vec!["SHA256:AAAA".to_owned()])).unwrap_err();
    assert!(matches!(wrong.trouble, Trouble::HostKeyChanged { line: 0, .. }), "{wrong:?}");
    let key = good.split_once(' ').unwrap().1;
    world.home.write("known_hosts", &format!("@revoked * {key}"), 0o600);
    for trust in [Trust::KnownHosts, Trust::AcceptNew, Trust::Pinned(vec![fingerprint])] {
        let setback = by(trust).unwrap_err();
        assert!(matches!(setback.trouble, Trouble::HostKeyRevoked { line: 1, .. }), "{setback:?}");
    }
    // Hashed by OpenSSH itself.
    world.bed.plant("/run/hashed", good.as_bytes(), 0o600, (0, 0));
    world.bed.sh("ssh-keygen -q -H -f /run/hashed").ok();
    let hashed = world.bed.read("/run/hashed");
    assert!(hashed.starts_with("|1|") && !hashed.contains(&INSIDE_V4.to_string()));
    world.home.write("known_hosts", &hashed, 0o600);
    by(Trust::KnownHosts).unwrap();
    // Unreadable is not empty.
    std::fs::remove_file(world.home.path.join(".ssh/known_hosts")).unwrap();
    std::fs::create_dir(world.home.path.join(".ssh/known_hosts")).unwrap();
    for trust in [Trust::KnownHosts, Trust::AcceptNew] {
        let setback = by(trust).unwrap_err();
        assert!(setback.to_string().contains("cannot be read"), "{setback}");
    }
    std::fs::remove_dir(world.home.path.join(".ssh/known_hosts")).unwrap();
}

#[test]
fn a_changed_key_is_refused_whatever_is_wished() {
    for suite in ["bullseye", "sid"] {
        let Some(world) = World::new("a_changed_key", suite) else { return };
        world
            .bed
            .sh("cd /etc/ssh; rm ssh_host_ed25519_key*; ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key")
            .ok();
        world.sshd("");
        for (target, trust) in [
            (format!("ssh://root@{INSIDE_V4}"), Trust::KnownHosts),
            (format!("ssh://root@{INSIDE_V4}"), Trust::AcceptNew),
            (format!("ssh://root@[{INSIDE_V6}]"), Trust::AcceptNew),
        ] {
            let before = world.home.read("known_hosts");
            let setback = world.open(&target, passwords, |wishes| {
                wishes.passwords = true;
                wishes.trust = trust;
            });
            let setback = setback.unwrap_err();
            assert!(
                matches!(&setback.trouble, Trouble::HostKeyChanged { line: 1, file } if file.ends_with("known_hosts")),
                "{setback:?}"
            );
            let text = setback.to_string();
            assert!(
                text.contains("known_hosts:1") && text.contains("ssh-keygen -f") && text.contains(" -R "),
                "{text}"
            );
            assert_eq!(world.home.read("known_hosts"), before);
        }
        // Another type than the known one is no new key either: only the known type is asked for, and it is gone.
        world.bed.sh("rm /etc/ssh/ssh_host_ed25519_key*").ok();
        world.sshd("");
        let setback = world
            .open(&format!("ssh://root@{INSIDE_V4}"), passwords, |wishes| wishes.trust = Trust::AcceptNew)
            .unwrap_err();
        assert_eq!(setback.trouble, Trouble::NoCommonAlgorithm, "{suite}: {setback}");
    }
}

#[test]
fn a_host_certificate_is_taken_from_the_known_authority_only() {
    for suite in ["bookworm", "sid"] {
        let Some(world) = World::new("a_host_certificate", suite) else { return };
        world.bed.sh(&format!("mkdir /run/ca; cd /run/ca; ssh-keygen -q -t ed25519 -N '' -f ca; ssh-keygen -q -t ed25519 -N '' -f other
             ssh-keygen -q -s ca -I host -h -n {INSIDE_V4} /etc/ssh/ssh_host_ed25519_key.pub")).ok();
        world.sshd("HostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub\n");
        world.authorize("root", &world.home.key("id_ed25519", None));
        let plain = world.home.read("known_hosts");
        let authority = |file: &str| format!("@cert-authority 203.0.113.* {}", world.bed.read(file));
        let open = |known: &str, host: String| {
            world.home.write("known_hosts", known, 0o600);
            world.open(&format!("ssh://root@{host}"), mute, |_| {})
        };
        let link = open(&authority("/run/ca/ca.pub"), INSIDE_V4.to_string())
            .unwrap_or_else(|setback| panic!("{suite}: {setback}"));
        assert_eq!(said(&link, "id -un"), "root\n");
        open(&plain, INSIDE_V4.to_string()).unwrap();
        let setback = open(&authority("/run/ca/other.pub"), INSIDE_V4.to_string()).unwrap_err();
        assert!(matches!(setback.trouble, Trouble::HostKeyChanged { .. }), "{suite}: {setback:?}");
        // The certificate does not name the IPv6 address.
        let six = format!("@cert-authority * {}", world.bed.read("/run/ca/ca.pub"));
        assert!(open(&six, format!("[{INSIDE_V6}]")).is_err(), "{suite}");
    }
}
