//! A host that is named by its IPv6 address: from the provider's password to a login that is proven from outside.

use keyward::proof::Door;
use russh::keys::ssh_key::LineEnding;

use crate::container::{Machine, Mode};
use crate::support::skipped;

const PASSWORD: &str = "canary of root's";
/// Unique local addresses (RFC 4193). The proof's own addresses are those for documentation, so these are others.
const HOST: &str = "fd00:6b77:6431::2";
const LAPTOP: &str = "fd00:6b77:6431::3";

/// A machine with this address beside the one that the container engine gives, which is IPv4 only.
fn machine(address: &str) -> Result<Machine, String> {
    let machine = Machine::start_with("bookworm", Mode::Service, &["--sysctl", "net.ipv6.conf.all.disable_ipv6=0"])?;
    machine.sh(&format!("ip -6 addr add {address}/64 dev eth0 nodad")).ok();
    Ok(machine)
}

#[test]
fn a_host_by_its_ipv6_address() {
    let started = machine(HOST).and_then(|host| Ok((host, machine(LAPTOP)?)));
    let (mut host, laptop) = match started {
        Ok(pair) => pair,
        Err(reason) => return skipped("a_host_by_its_ipv6_address", &reason),
    };
    host.run(&["chpasswd", "-c", "SHA512"], format!("root:{PASSWORD}\n").as_bytes()).ok();
    let cloud = "/etc/ssh/sshd_config.d/50-cloud-init.conf";
    host.put(cloud, b"PermitRootLogin yes\nPasswordAuthentication yes\n", "600");
    host.sh("rm -rf /usr/local/bin/keyward /root/play; systemctl reload ssh").ok();
    laptop.sh("install -d -m 700 /root/.ssh").ok();
    laptop.put("/root/.ssh/id_ed25519", laptop.key.to_openssh(LineEnding::LF).unwrap().as_bytes(), "600");
    laptop.put("/root/pw", format!("{PASSWORD}\n").as_bytes(), "600");
    host.key = laptop.key.clone();
    let keyward = |place: &str, words: &str| {
        let done = laptop.sh(&format!("cd /root/play && keyward --host '{place}' {words} </dev/null"));
        let said = format!("exit {}\n{}\n{}", done.code, done.stdout, done.stderr);
        let all = said.split_whitespace().collect::<Vec<_>>().join(" ");
        (done.code, all)
    };

    // As ssh takes it, and with brackets.
    let by_password = "--accept-new --password file:/root/pw";
    for place in [format!("root@{HOST}"), format!("root@[{HOST}]:22"), format!("ssh://root@[{HOST}]")] {
        let (code, said) = keyward(&place, &format!("{by_password} plan first.yml"));
        assert_eq!(code, 2, "{place}: {said}");
    }
    let (code, said) = keyward(&format!("root@{HOST}"), &format!("{by_password} apply --yes first.yml"));
    assert_eq!(code, 0, "{said}");
    let new = format!("deploy@[{HOST}]:2222");
    assert!(said.contains(&format!("L3 login as {new}")), "{said}");
    assert!(said.contains("L3: deploy by publickey through port 2222"), "{said}");
    assert!(said.contains(&format!("next: keyward --host '{new}' show")), "{said}");

    // What was printed works as it was printed, and the first words find the door that has moved.
    let (code, said) = keyward(&new, "history");
    assert!(code == 0 && said.contains("(exit 0)"), "{said}");
    let (code, said) = keyward(&format!("root@{HOST}"), &format!("{by_password} apply --yes first.yml"));
    assert!(code == 0 && said.contains("nothing to do") && said.contains(&format!("found at {new}")), "{said}");

    // Old and new port are as shut and as open over the one family as over the other.
    let open = |port: u16| {
        let script = format!("exec 3<>/dev/tcp/{HOST}/{port}");
        laptop.run(&["/usr/bin/timeout", "2", "/bin/bash", "-c", &script], b"").code == 0
    };
    assert!(open(2222) && !open(22), "over IPv6");
    assert_eq!((host.door(2222), host.door(22) == Door::Open), (Door::Open, false), "over IPv4");
    assert_eq!(host.login("deploy", 2222).stdout, "deploy\n0\n");
}
