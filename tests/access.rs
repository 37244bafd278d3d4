//! Who can get in, on real trees: each awkward host of `tests/cases/access` is laid over lab trees, asked with
//! `keyward access`, and every answer is held against a real login by OpenSSH's own client from that very address.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "access/case.rs"]
mod case;
#[path = "access/inside.rs"]
mod inside;
mod support;

use case::Case;
use keyward::outcome::ways::Ways;
use keyward::outcome::{Event, Proven};
use support::again;

/// Least number of awkward hosts; fewer means that some were lost.
const LEAST: usize = 20;

/// The inner half of [`awkward_hosts`]; it runs in the copy only.
#[test]
#[ignore = "runs inside the copy that awkward_hosts makes"]
fn one_awkward_host() {
    let Ok(text) = std::env::var(again::CASE) else { return };
    inside::run(&Case::parse(&text));
}

/// The playbook of [`what_a_plan_would_leave_is_what_it_leaves`].
const PLAYBOOK: &str = "version: 1
users:
  - { name: deploy, admin: true, groups: [ sudo ], password: locked, sudo: { nopasswd: true },
      authorized_keys: [ { key: \"@KEY@\" } ] }
ssh: { port: 2222, permit_root_login: \"no\", password_authentication: false }
firewall: { incoming: deny, allow: [ 80/tcp ] }
";

/// What `keyward access` said, as data.
fn said(done: &support::Done) -> (Ways, Option<Ways>) {
    let event = |line: &str| match serde_json::from_str(line).unwrap() {
        Event::Access { now, after } => Some((now, after)),
        _ => None,
    };
    done.stdout.lines().find_map(event).unwrap_or_else(|| panic!("{done:?}"))
}

#[test]
fn what_a_plan_would_leave_is_what_it_leaves() {
    for suite in support::SUITES {
        let Some(bed) = support::Bed::new("what_a_plan_would_leave_is_what_it_leaves", suite) else { continue };
        bed.sh("useradd -m -s /bin/bash -G sudo bob; echo bob:secret | chpasswd; ssh-keygen -q -t ed25519 -N '' -f /srv/key")
            .ok();
        let playbook = PLAYBOOK.replace("@KEY@", bed.read("/srv/key.pub").trim());
        bed.plant("/root/job.yml", playbook.as_bytes(), 0o600, (0, 0));
        let human = bed.keyward(&["access", "/root/job.yml"]).ok().stdout;
        println!("{human}");
        assert!(human.lines().count() <= 24 && human.lines().all(|line| line.chars().count() <= 80), "{human}");
        assert!(human.lines().last().unwrap().starts_with("next: keyward rehearse /root/job.yml"), "{human}");
        let (before, after) = said(&bed.keyward(&["access", "/root/job.yml", "--format", "json"]).ok());
        bed.keyward(&["apply", "--yes", "--i-accept-that-this-host-may-lock-me-out", "/root/job.yml"]).ok();
        let (now, none) = said(&bed.keyward(&["access", "--format", "json"]).ok());
        assert_eq!((Some(&now), &none), (after.as_ref(), &None), "{suite}");
        assert_ne!(before, now, "{suite}");
        let deploy = now.account("deploy").unwrap();
        assert_eq!(
            (deploy.ssh, deploy.root, now.in_by_ssh().count()),
            (Proven::Yes, Proven::Yes, 1),
            "{suite}: {now:#?}"
        );
        assert_eq!(now.doors.iter().map(|door| door.port).collect::<Vec<_>>(), [2222], "{suite}");
    }
}

/// Hosts on which the playbook of [`PLAYBOOK`] would shut its only administrator out: a script, and what is said.
const SHUT_OUT: [(&str, &str); 4] = [
    ("echo 'ALL: ALL' >>/etc/hosts.deny", "/etc/hosts.deny"),
    ("echo 'PubkeyAcceptedAlgorithms rsa-sha2-512' >/etc/ssh/sshd_config.d/50-x.conf", "PubkeyAcceptedAlgorithms"),
    (
        "sed -i 's/^account.*pam_nologin.so/&\\naccount required pam_access.so/' /etc/pam.d/sshd
      echo '-:ALL EXCEPT root:192.0.2.0/24 203.0.113.0/24 198.18.0.0/15 100.64.0.0/10 0.0.0.0/0 ::/0' \
          >>/etc/security/access.conf",
        "access.conf",
    ),
    ("iptables -I INPUT -p tcp --dport 2222 -j DROP; ip6tables -I INPUT -p tcp --dport 2222 -j DROP", "firewall"),
];

#[test]
fn a_plan_that_shuts_its_administrators_out_is_refused() {
    for (script, said) in SHUT_OUT {
        let Some(bed) = support::Bed::new("a_plan_that_shuts_its_administrators_out_is_refused", "bookworm") else {
            return;
        };
        bed.sh("ssh-keygen -q -t ed25519 -N '' -f /srv/key").ok();
        bed.sh(script).ok();
        let mut playbook = PLAYBOOK.replace("@KEY@", bed.read("/srv/key.pub").trim());
        // The firewall resource refuses what shuts its own ports; here somebody else's rules do.
        playbook.truncate(playbook.find("firewall").unwrap());
        bed.plant("/root/job.yml", playbook.as_bytes(), 0o600, (0, 0));
        let before = bed.snapshot();
        let plan = bed.keyward(&["plan", "/root/job.yml"]);
        println!("{}", plan.stderr);
        assert_eq!(plan.code, 5, "{script}: {plan:?}");
        assert!(plan.stderr.contains("0 of 1 administrators would get in") && plan.stderr.contains(said), "{plan:?}");
        assert!(plan.stderr.contains("deploy"), "{plan:?}");
        assert_eq!(support::difference(&before, &bed.snapshot()), "", "{script}");
    }
}

/// A host on which one key and sudo are all that lets anybody in.
const ONE_WAY: &str = "ssh-keygen -q -t ed25519 -N '' -f /srv/key; ssh-keygen -q -t ed25519 -N '' -f /srv/other
    for user in deploy ops; do
        useradd -m -s /bin/bash -p '*' $user; install -d -m 700 -o $user -g $user /home/$user/.ssh
        install -m 440 /dev/null /etc/sudoers.d/90-$user; echo \"$user ALL=(ALL:ALL) NOPASSWD: ALL\" >/etc/sudoers.d/90-$user
    done
    install -m 600 -o deploy -g deploy /srv/key.pub /home/deploy/.ssh/authorized_keys
    printf 'PermitRootLogin no\\nPasswordAuthentication no\\nKbdInteractiveAuthentication no\\n' >/etc/ssh/sshd_config.d/10-x.conf";

#[test]
fn a_plan_that_takes_the_last_key_away_is_refused() {
    let name = "a_plan_that_takes_the_last_key_away_is_refused";
    let Some(bed) = support::Bed::new(name, "bookworm") else { return };
    bed.sh(ONE_WAY).ok();
    let plan = |user: &str, options: &str| {
        let key = bed.read("/srv/other.pub").trim().to_owned();
        let playbook = format!(
            "version: 1\nusers:\n  - {{ name: {user}, exclusive_keys: true, authorized_keys: [ {{ key: \"{key}\"{options} }} ] }}\n"
        );
        bed.plant("/root/job.yml", playbook.as_bytes(), 0o600, (0, 0));
        bed.keyward(&["plan", "/root/job.yml"])
    };
    let command = ", command: /bin/true";
    let refused = plan("deploy", command);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(
        refused.stderr.contains("leaves 0 of 1 administrators") && refused.stderr.contains("deploy"),
        "{refused:?}"
    );
    // Another key that opens a shell, or another administrator, and the plan stands.
    assert_eq!(plan("deploy", "").code, 2);
    bed.sh("install -m 600 -o ops -g ops /srv/key.pub /home/ops/.ssh/authorized_keys").ok();
    assert_eq!(plan("deploy", command).code, 2);
    // Whoever could not get in before loses nothing.
    bed.sh("rm /etc/sudoers.d/90-deploy /etc/sudoers.d/90-ops").ok();
    assert_eq!(plan("deploy", command).code, 2);
}

/// What a plan warns of: an account that ends soon, few tries.
#[test]
fn a_plan_tells_what_will_surprise_its_administrators() {
    let name = "a_plan_tells_what_will_surprise_its_administrators";
    let Some(bed) = support::Bed::new(name, "bookworm") else { return };
    bed.sh("ssh-keygen -q -t ed25519 -N '' -f /srv/key; useradd -m -s /bin/bash -p '*' deploy
            usermod -e \"$(date -d '+9 days' +%F)\" deploy")
        .ok();
    let playbook = PLAYBOOK
        .replace("@KEY@", bed.read("/srv/key.pub").trim())
        .replace("port: 2222", "port: 2222, max_auth_tries: 2");
    bed.plant("/root/job.yml", playbook.as_bytes(), 0o600, (0, 0));
    let plan = bed.keyward(&["plan", "/root/job.yml"]);
    let told = plan.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(plan.code, 2, "{plan:?}");
    assert!(told.contains("deploy: the account expires in"), "{told}");
    assert!(told.contains("MaxAuthTries 2: a client that offers more keys"), "{told}");
}

/// A hardened host with an account of its own beside root; both have keys, and passwords that sshd refuses.
const HARDENED: &str = "ssh-keygen -q -t ed25519 -N '' -f /srv/key; useradd -m -s /bin/bash -G sudo cloud
    echo 'cloud:secret' | chpasswd; echo 'root:secret' | chpasswd
    for home in /root /home/cloud; do install -d -m 700 $home/.ssh; install -m 600 /srv/key.pub $home/.ssh/authorized_keys; done
    chown -R cloud:cloud /home/cloud/.ssh
    printf 'Port 2022\\nPermitRootLogin no\\nPasswordAuthentication no\\nKbdInteractiveAuthentication no\\n' \\
        >/etc/ssh/sshd_config.d/10-x.conf";

/// The text of a plan of `ssh` on [`HARDENED`], as one line.
fn plan_on_a_hardened_host(name: &str, ssh: &str) -> Option<String> {
    let bed = support::Bed::new(name, "bookworm")?;
    bed.sh(HARDENED).ok();
    let (head, tail) = (PLAYBOOK.find("ssh:").unwrap(), PLAYBOOK.find("firewall:").unwrap());
    let playbook = format!("{}ssh: {{ {ssh} }}\n{}", &PLAYBOOK[..head], &PLAYBOOK[tail..]);
    bed.plant("/root/job.yml", playbook.replace("@KEY@", bed.read("/srv/key.pub").trim()).as_bytes(), 0o600, (0, 0));
    let plan = bed.keyward(&["plan", "/root/job.yml"]);
    println!("{}", plan.stdout);
    assert_eq!(plan.code, 2, "{plan:?}");
    assert!(plan.stdout.lines().count() <= 24, "{plan:?}");
    Some(plan.stdout.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What a playbook opens is said as such, and no step that closes.
#[test]
fn a_plan_says_what_it_opens() {
    let name = "a_plan_says_what_it_opens";
    let open = "port: 2022, permit_root_login: \"yes\", password_authentication: true";
    let Some(told) = plan_on_a_hardened_host(name, open) else { return };
    let closing = told.split_once("Closes and takes away").unwrap().1.split_once("Folded").unwrap().0;
    assert!(closing.ends_with("proven 6 take away: allow 22/tcp [way in] "), "only the firewall's: {told}");
    let said = "PermitRootLogin yes, PasswordAuthentication yes";
    assert!(told.contains("5 allow root login, passwords [way in]"), "{told}");
    assert!(told.contains(&format!("! sshd: opens what is shut: {said}")), "{told}");
    assert!(told.contains("before port 2022: root refused; other accounts by key"), "{told}");
    let after = "after port 2022: deploy by key, sudo without password; root by key or password (1 key); \
                 other accounts by key or password";
    assert!(told.contains(after), "{told}");
    // Root by key is more than no root at all, and a new port is said beside it.
    let some = "port: 2222, permit_root_login: prohibit-password";
    let Some(told) = plan_on_a_hardened_host(name, some) else { return };
    assert!(!told.contains("refuse root"), "{told}");
    assert!(told.contains("listen on port 2222 beside 2022, allow root by key [way in]"), "{told}");
    assert!(told.contains("! sshd: opens what is shut: PermitRootLogin prohibit-password"), "{told}");
}

/// Who stays is told as well as who comes.
#[test]
fn a_plan_says_who_else_still_gets_in() {
    let name = "a_plan_says_who_else_still_gets_in";
    let shut = "port: 2222, permit_root_login: \"no\", password_authentication: false";
    let Some(told) = plan_on_a_hardened_host(name, shut) else { return };
    let after = "after port 2222: deploy by key, sudo without password; other accounts by key; root refused; \
                 passwords refused";
    assert!(told.contains(after), "{told}");
}

#[test]
fn awkward_hosts() {
    let cases = again::cases("access");
    let filtered = std::env::var_os("KEYWARD_CASE").is_some();
    assert!(filtered || cases.len() >= LEAST, "{} cases, {LEAST} expected", cases.len());
    let (mut failures, mut ran) = (Vec::new(), 0);
    for (name, text) in &cases {
        for suite in Case::parse(text).suites {
            let tree = match support::tree(&suite) {
                Ok(tree) => tree,
                Err(reason) => {
                    support::skipped("awkward_hosts", &reason);
                    continue;
                }
            };
            ran += 1;
            match again::run(&tree, "one_awkward_host", text) {
                Ok(said) if filtered => println!("== {name} on {suite}\n{said}"),
                Ok(_) => {}
                Err(said) => failures.push(format!("== {name} on {suite}\n{said}")),
            }
        }
    }
    println!("{ran} runs of {} awkward hosts", cases.len());
    assert!(failures.is_empty(), "{} failed\n{}", failures.len(), failures.join("\n"));
}
