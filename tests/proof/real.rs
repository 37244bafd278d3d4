//! The prover against the real sshd, sudo and ufw of four Debian releases (OpenSSH 8.4, 9.2, 10.0, 10.6).

use keyward::change::{Promise, Step};
use keyward::facts::Facts;
use keyward::host::Node;
use keyward::outcome::{Moment, Proven, Reach};
use keyward::proof::{Request, RootKey, Stage, WORKER_ARG, scaffold};
use keyward::resource::Prover as _;
use keyward::target::sandbox::{INSIDE_V4, INSIDE_V6};

use super::copy::{Host, Looks, about, admin, all, port, user};
use super::support::SUITES;
use super::{Outside, line};

/// No passwords at all, as keyward itself would say it.
const NO_PASSWORDS: &str = "PasswordAuthentication no\nKbdInteractiveAuthentication no\n";
/// The same for OpenSSH before 8.7, where keyboard-interactive has two names.
const NO_PASSWORDS_OLD: &str =
    "PasswordAuthentication no\nKbdInteractiveAuthentication no\nChallengeResponseAuthentication no\n";

#[test]
fn every_release_lets_the_administrator_in_from_outside() {
    for suite in SUITES {
        let Some(host) = Host::new("every_release_lets_the_administrator_in", suite) else { return };
        let key_file = "/home/deploy/.ssh/authorized_keys";
        host.bed.plant(key_file, b"# mine, no newline at the end", 0o600, (1000, 1000));
        host.sshd("Port 22\nPort 2222\n");
        let (mut prover, _child) = host.prover(RootKey::Leave);
        let promises = [admin(), Promise::SshPort { port: port(2222) }, Promise::SshPortClosed { port: port(22) }];
        let evidence = host.proves(&mut prover, Moment::BeforeClosing, &promises);
        assert_eq!(about(&evidence, "login as deploy and sudo, port 2222").len(), 2, "{suite}: both families");
        assert_eq!(about(&evidence, "old door: login as deploy and sudo, port 22").len(), 2, "{suite}");
        all(&evidence, "", Proven::Yes);
        assert!(evidence.iter().all(|piece| piece.reach == Reach::L2), "{suite}");
        assert_eq!(host.bed.read(key_file), "# mine, no newline at the end", "{suite}");
        let left = host.bed.sh("ls -A /home/deploy | grep -v -e '^[.]bash' -e '^[.]profile$'").ok().stdout;
        assert_eq!(left, ".ssh\n", "{suite}: the proof leaves something behind");
        // The old port is still open: nothing may call it closed.
        let evidence = host.proves(&mut prover, Moment::Final, &promises);
        all(&evidence, "closed, port 22", Proven::No);
        host.sshd("Port 2222\n");
        let evidence = host.proves(&mut prover, Moment::Final, &promises);
        all(&evidence, "", Proven::Yes);
        assert_eq!(about(&evidence, "closed, port 22").len(), 2, "{suite}");
    }
}

#[test]
fn a_missing_key_line_sudo_rule_or_port_is_seen() {
    let Some(host) = Host::new("a_missing_key_line", "bookworm") else { return };
    let (mut prover, _child) = host.prover(RootKey::Leave);
    let promises = [admin(), Promise::SshPort { port: port(22) }];
    let looks = Looks(&host.bed);
    let facts = Facts::gather(&looks).unwrap();
    // The change is made by nobody, so the key is refused.
    let changes = prover.scaffold(&promises, &facts, &looks).unwrap();
    assert_eq!(changes.len(), 1);
    let evidence = prover.prove(Moment::BeforeClosing, &promises, &looks).unwrap();
    all(&evidence, "login as deploy", Proven::No);
    assert!(evidence[0].seen.contains("refused"), "{evidence:#?}");
    // Without a scaffold at all nothing is claimed.
    let (mut bare, _child) = host.prover(RootKey::Leave);
    let evidence = bare.prove(Moment::BeforeClosing, &promises, &looks).unwrap();
    all(&evidence, "login as deploy", Proven::Unknown);
    // A login without sudo is no administrator.
    host.bed.sh("rm /etc/sudoers.d/deploy").ok();
    let evidence = host.proves(&mut prover, Moment::BeforeClosing, &promises);
    all(&evidence, "login as deploy", Proven::No);
    assert!(evidence[0].seen.contains("sudo"), "{evidence:#?}");
    // Nothing listens there.
    let closed = [admin(), Promise::SshPort { port: port(2222) }];
    all(&host.proves(&mut prover, Moment::BeforeClosing, &closed), "login as deploy", Proven::No);
}

#[test]
fn socket_activation_keeps_no_run_directory_and_is_asked_all_the_same() {
    let Some(host) = Host::new("socket_activation_keeps_no_run_directory", "trixie") else { return };
    host.bed.sh("rmdir /run/sshd; ! sshd -T").ok();
    let (mut prover, _child) = host.prover(RootKey::Leave);
    let looks = Looks(&host.bed);
    let facts = Facts::gather(&looks).unwrap();
    assert_eq!(prover.scaffold(&[admin()], &facts, &looks).unwrap().len(), 1);
    assert_ne!(host.bed.run(&["/usr/bin/test", "-e", "/run/sshd"]).code, 0, "the host stays as it is");
}

#[test]
fn an_account_that_sshd_does_not_let_in_is_seen() {
    let Some(host) = Host::new("an_account_that_sshd_does_not_let_in", "bookworm") else { return };
    let promises = [admin(), Promise::SshPort { port: port(22) }];
    let (mut prover, _child) = host.prover(RootKey::Leave);
    let mut judge = |what: &str, prepare: &str, undo: &str| {
        host.bed.sh(prepare).ok();
        let evidence = host.proves(&mut prover, Moment::BeforeClosing, &promises);
        for piece in about(&evidence, "login as deploy") {
            assert_eq!(piece.proven, Proven::No, "{what}: {piece:#?}");
        }
        host.bed.sh(undo).ok();
    };
    judge("shell", "usermod -s /usr/sbin/nologin deploy", "usermod -s /bin/bash deploy");
    judge("home that all can write", "chmod o+w /home/deploy", "chmod o-w /home/deploy");
    judge("sudo asks a password", "echo 'deploy ALL=(ALL) ALL' >/etc/sudoers.d/z", "rm /etc/sudoers.d/z");
    let evidence = host.proves(&mut prover, Moment::BeforeClosing, &promises);
    all(&evidence, "login as deploy", Proven::Yes);
}

#[test]
fn another_server_on_the_port_is_no_login() {
    let Some(host) = Host::new("another_server_on_the_port", "bookworm") else { return };
    host.bed
        .sh("for t in ed25519 rsa ecdsa; do rm /etc/ssh/ssh_host_${t}_key.pub; ssh-keygen -q -t $t -N '' -f /run/k_$t;
        cp /run/k_$t.pub /etc/ssh/ssh_host_${t}_key.pub; done")
        .ok();
    let (mut prover, _child) = host.prover(RootKey::Leave);
    let evidence = host.proves(&mut prover, Moment::BeforeClosing, &[admin(), Promise::SshPort { port: port(22) }]);
    all(&evidence, "login as deploy", Proven::No);
    assert!(evidence[0].seen.starts_with("host key:"), "{evidence:#?}");
}

#[test]
fn the_temporary_key_opens_nothing_but_its_command() {
    for suite in SUITES {
        let Some(host) = Host::new("the_temporary_key", suite) else { return };
        let looks = Looks(&host.bed);
        let facts = Facts::gather(&looks).unwrap();
        let pass = scaffold::Pass::new(&user("deploy"), true).unwrap();
        let host_key = host.bed.read("/etc/ssh/ssh_host_ed25519_key.pub");
        let mut outside = Outside::of(host.bed.sandbox.outside().unwrap().arg(WORKER_ARG));
        let mut try_line = |text: &str, address: std::net::IpAddr| {
            host.bed.plant("/home/deploy/.ssh/authorized_keys", text.as_bytes(), 0o600, (1000, 1000));
            outside.one(Request::Login {
                line: line((address, 22).into(), host_key.trim(), 10_000),
                user: "deploy".to_owned(),
                private_key: pass.private.clone(),
                command: "cat /etc/sudoers; touch /home/deploy/planted".to_owned(),
            })
        };
        let now = jiff::Timestamp::now();
        let expiry = scaffold::expiry(now, &facts, &looks).unwrap();
        let reply = try_line(&pass.line(&expiry), INSIDE_V4.into());
        assert!(reply.ok && reply.stdout.starts_with(&format!("keyward-{}\n", pass.nonce)), "{suite}: {reply:?}");
        assert!(reply.stdout.lines().count() == 4 && !reply.stdout.contains("Defaults"), "{suite}: {reply:?}");
        assert_ne!(host.bed.run(&["/usr/bin/test", "-e", "/home/deploy/planted"]).code, 0, "{suite}");
        // Over: the same line an hour ago.
        let past = scaffold::expiry(now - jiff::SignedDuration::from_hours(1), &facts, &looks).unwrap();
        let reply = try_line(&pass.line(&past), INSIDE_V6.into());
        assert_eq!(reply.stage, Stage::Auth, "{suite}: an expired key opens: {reply:?}");
        // From elsewhere: without the outside world's network in the list.
        let narrow = pass.line(&expiry).replace("203.0.113.0/24,198.51.100.0/24,", "");
        assert_eq!(try_line(&narrow, INSIDE_V4.into()).stage, Stage::Auth, "{suite}: from= is not kept");
    }
}

#[test]
fn the_expiry_of_old_releases_is_in_the_hosts_own_time() {
    let Some(host) = Host::new("the_expiry_of_old_releases", "bullseye") else { return };
    let promises = [admin(), Promise::SshPort { port: port(22) }];
    for zone in ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Etc/UTC"] {
        // sshd reads the zone when it starts.
        host.bed
            .sh(&format!("[ -e /usr/share/zoneinfo/{zone} ]; ln -sf /usr/share/zoneinfo/{zone} /etc/localtime"))
            .ok();
        host.sshd("UseDNS no\n");
        let (mut prover, _child) = host.prover(RootKey::Leave);
        let evidence = host.proves(&mut prover, Moment::BeforeClosing, &promises);
        all(&evidence, "login as deploy", Proven::Yes);
    }
}

#[test]
fn passwords_offered_or_not() {
    let promises = [admin(), Promise::SshPort { port: port(22) }, Promise::PasswordsRefused];
    for suite in SUITES {
        let Some(host) = Host::new("passwords_offered_or_not", suite) else { return };
        let judge = |text: &str, proven: Proven| {
            host.sshd(text);
            let (mut prover, _child) = host.prover(RootKey::Leave);
            let evidence = host.proves(&mut prover, Moment::Final, &promises);
            for whom in ["deploy", "root", "an unknown user"] {
                all(&evidence, &format!("passwords are not offered to {whom}"), proven);
            }
            all(&evidence, "login as deploy", Proven::Yes);
        };
        judge("", Proven::No);
        judge(if suite == "bullseye" { NO_PASSWORDS_OLD } else { NO_PASSWORDS }, Proven::Yes);
        // A penalty must not have shut us out on the way.
        judge("PasswordAuthentication no\nKbdInteractiveAuthentication yes\n", Proven::No);
        if suite == "bullseye" {
            let half = "PasswordAuthentication no\nChallengeResponseAuthentication yes\n";
            judge(half, Proven::No);
        }
    }
}

#[test]
fn root_is_refused_by_a_login_that_worked_before() {
    let promises = [admin(), Promise::SshPort { port: port(22) }, Promise::RootRefused { entirely: true }];
    for suite in SUITES {
        let Some(host) = Host::new("root_is_refused", suite) else { return };
        let (mut prover, _child) = host.prover(RootKey::Add);
        let evidence = host.proves(&mut prover, Moment::BeforeClosing, &promises);
        all(&evidence, "", Proven::Yes);
        let evidence = host.proves(&mut prover, Moment::Final, &promises);
        all(&evidence, "login as root is refused", Proven::No);
        all(&evidence, "sshd refuses root", Proven::No);
        host.sshd("PermitRootLogin no\nPasswordAuthentication no\n");
        let evidence = host.proves(&mut prover, Moment::Final, &promises);
        all(&evidence, "login as root is refused", Proven::Yes);
        all(&evidence, "sshd refuses root", Proven::Yes);
        assert!(about(&evidence, "login as root")[0].seen.contains("let in before"), "{evidence:#?}");
        assert_ne!(host.bed.run(&["/usr/bin/test", "-e", "/root/.ssh/authorized_keys"]).code, 0, "{suite}");
    }
}

#[test]
fn penalties_spare_the_proof_and_are_told_from_refusals() {
    let promises = [
        admin(),
        Promise::SshPort { port: port(22) },
        Promise::RootRefused { entirely: true },
        Promise::PasswordsRefused,
    ];
    for suite in ["trixie", "sid"] {
        let Some(host) = Host::new("penalties_spare_the_proof", suite) else { return };
        host.sshd("PermitRootLogin no\nPasswordAuthentication no\n");
        // From one address alone, the third proof in a row would find the budget spent.
        for _ in 0..4 {
            let (mut prover, _child) = host.prover(RootKey::Leave);
            let evidence = host.proves(&mut prover, Moment::Final, &promises);
            all(&evidence, "", Proven::Yes);
        }
        // Now spend the budget of the default address: refused keys, as no proof of keyward makes them.
        let looks = Looks(&host.bed);
        let facts = Facts::gather(&looks).unwrap();
        let mut last = Proven::No;
        for _ in 0..6 {
            let (mut prover, _child) = host.prover(RootKey::Leave);
            prover.scaffold(&promises, &facts, &looks).unwrap();
            let evidence = prover.prove(Moment::BeforeClosing, &promises, &looks).unwrap();
            last = about(&evidence, "login as deploy")[0].proven;
        }
        assert_eq!(last, Proven::Unknown, "{suite}: a source that is shut out is not a refused key");
    }
}

#[test]
fn a_filtered_port_is_not_open() {
    let Some(host) = Host::new("a_filtered_port", "bookworm") else { return };
    host.sshd("Port 22\nPort 2222\n");
    host.bed.sh("iptables -A INPUT -p tcp --dport 2222 -j DROP; ip6tables -A INPUT -p tcp --dport 2222 -j REJECT").ok();
    let (mut prover, _child) = host.prover(RootKey::Leave);
    let promises = [admin(), Promise::SshPort { port: port(2222) }, Promise::SshPortClosed { port: port(22) }];
    let evidence = host.proves(&mut prover, Moment::BeforeClosing, &promises);
    all(&evidence, "login as deploy and sudo, port 2222", Proven::No);
    all(&evidence, "old door: ", Proven::Yes);
}

#[test]
fn the_firewalls_openings_and_nothing_else() {
    for suite in ["bullseye", "sid"] {
        let Some(host) = Host::new("the_firewalls_openings", suite) else { return };
        // 5432 listens and is not allowed; 80 and 443 are allowed and nothing listens on 443.
        host.bed.sh("/usr/sbin/sshd -p 80 -o PidFile=none; /usr/sbin/sshd -p 5432 -o PidFile=none").ok();
        host.bed
            .sh("ufw default deny incoming; ufw allow 22/tcp; ufw allow 80/tcp; ufw allow 443/tcp; ufw --force enable")
            .ok();
        let promises = [
            admin(),
            Promise::SshPort { port: port(22) },
            Promise::Firewall { open: vec![port(22), port(80), port(443)] },
        ];
        let prove = || {
            let (mut prover, _child) = host.prover(RootKey::Leave);
            host.proves(&mut prover, Moment::Final, &promises)
        };
        let evidence = prove();
        all(&evidence, "", Proven::Yes);
        assert_eq!(about(&evidence, "the firewall lets in").len(), 4, "{suite}");
        assert_eq!(about(&evidence, "listens, but is shut, port 5432").len(), 2, "{suite}");
        host.bed.sh("ufw allow 5432/tcp; ufw delete allow 443/tcp; ufw deny 80/tcp; ufw delete allow 80/tcp").ok();
        let evidence = prove();
        all(&evidence, "listens, but is shut, port 5432", Proven::No);
        all(&evidence, "the firewall lets in, port 443", Proven::No);
        all(&evidence, "the firewall lets in, port 80", Proven::No);
        // Without a firewall an open port without listener looks like a closed one.
        host.bed.sh("ufw disable").ok();
        all(&prove(), "the firewall lets in, port 443", Proven::Unknown);
    }
}

#[test]
fn the_key_goes_where_sshd_reads() {
    let Some(host) = Host::new("the_key_goes_where_sshd_reads", "bookworm") else { return };
    let promises = [admin(), Promise::SshPort { port: port(22) }];
    let looks = Looks(&host.bed);
    for (setting, want) in [
        ("AuthorizedKeysFile %h/.keys/%u .ssh/authorized_keys", "/home/deploy/.keys/deploy"),
        ("AuthorizedKeysFile /etc/ssh/keys-%u", "/etc/ssh/keys-deploy"),
    ] {
        host.sshd(&format!("{setting}\n"));
        let (mut prover, _child) = host.prover(RootKey::Leave);
        let facts = Facts::gather(&looks).unwrap();
        let changes = prover.scaffold(&promises, &facts, &looks).unwrap();
        let files: Vec<_> = changes[0]
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Put { path, node: Node::File { content, .. }, .. } => {
                    (!content.is_empty()).then_some(path.as_str())
                }
                _ => None,
            })
            .collect();
        let (keys, flags): (Vec<_>, Vec<_>) =
            files.iter().partition(|path| !path.ends_with("/.sudo_as_admin_successful"));
        assert_eq!((keys, flags.len() <= 1), (vec![&want], true), "{files:?}");
        host.bed.sh("install -d -m 700 -o deploy -g deploy /home/deploy/.keys").ok();
        all(&host.proves(&mut prover, Moment::BeforeClosing, &promises), "login as deploy", Proven::Yes);
    }
}
