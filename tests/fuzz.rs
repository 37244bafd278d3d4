//! A fuzzer that runs on the stable compiler: each target gets mutations of its corpus for a short time.
//!
//! `KEYWARD_FUZZ_SECONDS=60 cargo test --test fuzz` runs each target for a minute; `KEYWARD_FUZZ_SEED` repeats a run. A
//! failing input is printed as a Rust byte string.
//!
//! To add a format: a row in [`TARGETS`] with its corpus and the function that judges one input. It must hold for every
//! input: no panic, and what the format promises (`parse` then `render` gives the same bytes; reading again what was
//! written gives the same).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use keyward::error::Failure;
use keyward::fleet::{inventory, store};
use keyward::formats::{
    access_conf, accounts, authorized_keys, netfilter, pam, sshd_config, sshd_effective, sshd_match, sudoers,
    tcp_wrappers, ufw, unit,
};
use keyward::host::ledger::MemoryLedger;
use keyward::host::real::RealHost;
use keyward::host::shelf::{MemoryShelf, Shelf as _};
use keyward::outcome::Event;
use keyward::proof::word;
use keyward::report::plan::Detail;
use keyward::report::style::Style;
use keyward::report::{self, Report};
use keyward::resource::Loader;
use keyward::resources::REGISTRY;
use keyward::target::sandbox::layers;
use keyward::target::ssh;
use keyward::types::{AbsPath, Cidr, Mode, PasswordHash, PlainText, PublicKey, UserName, Word};
use keyward::{audit, facts, journal, playbook};
use sha2::{Digest as _, Sha256};

/// What a target is called (a module of `formats` first, or alone), what it starts from, how it judges one input.
struct Target {
    name: &'static str,
    corpus: &'static [&'static str],
    judge: fn(&[u8]),
}

const TARGETS: &[Target] = &[
    Target {
        name: "playbook",
        corpus: &[
            include_str!("cases/playbook/full.yml"),
            include_str!("cases/playbook/bad.txt"),
            include_str!("../playbooks/first-login.yml"),
            include_str!("../playbooks/baseline.yml"),
            include_str!("../playbooks/strict.yml"),
        ],
        judge: playbook_target,
    },
    Target { name: "sshd_config", corpus: SSHD, judge: sshd_target },
    Target {
        name: "sshd_effective",
        corpus: &["port 22\nlistenaddress 0.0.0.0:22\nlistenaddress [::]:22\nusepam yes\n"],
        judge: effective_target,
    },
    Target { name: "authorized_keys", corpus: KEYS, judge: keys_target },
    Target { name: "accounts", corpus: ACCOUNTS, judge: accounts_target },
    Target { name: "sudoers", corpus: SUDOERS, judge: sudoers_target },
    Target { name: "ufw: rules", corpus: UFW, judge: ufw_target },
    Target { name: "ufw: settings", corpus: SETTINGS, judge: settings_target },
    Target { name: "netfilter", corpus: UFW, judge: netfilter_target },
    Target { name: "sshd_match", corpus: SSHD_MATCH, judge: match_target },
    Target { name: "sudoers: sudo -l", corpus: SUDO_LISTS, judge: listed_target },
    Target { name: "access_conf", corpus: ACCESS, judge: access_target },
    Target { name: "tcp_wrappers", corpus: HOSTS, judge: hosts_target },
    Target { name: "pam", corpus: STACKS, judge: pam_target },
    Target { name: "unit", corpus: UNITS, judge: unit_target },
    Target { name: "mountinfo", corpus: MOUNTS, judge: mounts_target },
    Target { name: "journal", corpus: RECORDS, judge: journal_target },
    Target { name: "audit", corpus: ENTRIES, judge: audit_target },
    Target { name: "known_hosts", corpus: KNOWN_HOSTS, judge: known_hosts_target },
    Target { name: "ssh_config", corpus: CLIENT, judge: client_target },
    Target { name: "agent", corpus: AGENT, judge: agent_target },
    Target { name: "event", corpus: EVENTS, judge: event_target },
    Target { name: "sshd -T", corpus: SUMMED_UP, judge: summed_up_target },
    Target { name: "inventory", corpus: INVENTORIES, judge: inventory_target },
    Target { name: "rollout store", corpus: STORES, judge: store_target },
    Target { name: "words", corpus: WORDS, judge: words_target },
];

const SSHD: &[&str] = &[
    "Include /etc/ssh/sshd_config.d/*.conf\n# x\nPort 22\nPermitRootLogin=no\n\tpasswordauthentication \"no\"\nMatch User a,b Address 10.0.0.0/8\n  X11Forwarding yes\nMatch all\n",
    "port 22\r\nListenAddress [::1]:2222\r\nSubsystem sftp /usr/lib/openssh/sftp-server\r\nAcceptEnv LANG LC_*",
    "AuthorizedKeysFile .ssh/authorized_keys .ssh/authorized_keys2\n   Banner none # x\n\"Port\" 22\n",
];
const KEYS: &[&str] = &[
    "# x\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJsw2mOqLOL5jOX4/ZnkapE4+Pd0X4kGPXhbC5YZtRrI ops@laptop\n",
    "command=\"echo \\\"x\\\"\",from=\"10.0.0.0/8,!10.1.0.0/16\",restrict,pty ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJsw2mOqLOL5jOX4/ZnkapE4+Pd0X4kGPXhbC5YZtRrI x",
    "cert-authority,principals=\"a,b\" ssh-rsa AAAA\r\n\n@revoked x\n\u{feff}ssh-dss AAAA\n",
];
const ACCOUNTS: &[&str] = &[
    "root:x:0:0:root:/root:/bin/bash\ndeploy:x:1000:1000:Deploy,,,:/home/deploy:/bin/sh\n+::::::\n# x\n\nbroken\n",
    "root:*:19000:0:99999:7:::\ndeploy:$6$salt$hash:19000:0:99999:7:::\nx:!:::::::",
    "sudo:x:27:deploy,ops\nroot:x:0:\nx:x:y:z\n",
];
const SUDOERS: &[&str] = &[
    "Defaults env_reset\nDefaults:deploy targetpw, !authenticate\nroot ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL:ALL) NOPASSWD: ALL\n@includedir /etc/sudoers.d\n",
    "User_Alias OPS = a, b, !c\nCmnd_Alias X = /bin/ls, /bin/cat /a\\,b\nOPS ALL=(root) \\\n  NOPASSWD: X\n#include /etc/x\n#1000 ALL=ALL\n",
];
const UFW: &[&str] = &[
    "*filter\n:ufw-user-input - [0:0]\n### RULES ###\n\n### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in comment=6462\n-A ufw-user-input -p tcp --dport 22 -j ACCEPT\n\n### END RULES ###\nCOMMIT\n",
    "*filter\n:INPUT DROP [0:0]\n:ufw6-user-input - [0:0]\n-A INPUT -j ufw6-user-input\n-A INPUT -p tcp -m multiport --dports 80,443 -j ACCEPT\n-I INPUT 1 -j DROP\nCOMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n",
];
const SETTINGS: &[&str] = &[
    "# x\nENABLED=no\nLOGLEVEL=low\nIPV6=\"yes\" # x\nDEFAULT_INPUT_POLICY='DROP'\n",
    "[Nginx Full]\ntitle=Web\ndescription=x\nports=80,443/tcp|53\n\n[b]\nports=x\n",
];
const SSHD_MATCH: &[&str] = &[
    "Port 22\nListenAddress [::1]:2222\nLoginGraceTime 1m30s\nUsePAM yes\nMatch User deploy,!root Address 10.0.0.0/8,*.1\n  PasswordAuthentication no\nMatch all\nAllowUsers a b@10.*\n",
    "Include d/*.conf\nMatch Group=sudo Host ?.example LocalPort 22\n  MaxSessions 99999999999999999999\nClientAliveInterval 5w4d3h\nLoginGraceTime 18446744073709551615s1\nMatch LocalAddress ::/0\nAuthenticationMethods publickey,password any\n",
];
const SUDO_LISTS: &[&str] = &[
    "Matching Defaults entries for deploy on host:\n    env_reset, mail_badpass\n\nUser deploy may run the following commands on host:\n    (ALL : ALL) ALL\n    (root) NOPASSWD: /bin/ls, !/bin/cat /a\\,b, sha224:0 /x\n",
    "    (ALL) NOPASSWD: SETENV: ALL\n    (www-data : www-data) /usr/bin/x \"\"\n",
];
const ACCESS: &[&str] = &[
    "# x\n+:root deploy:LOCAL 10.0.0.0/8 2001:db8::/32\n-:ALL EXCEPT (sudo) @net:ALL EXCEPT .example.org\n",
    "+ : deploy,ops : tty1, 192.168.\n-:all except deploy except ops:all\n",
];
const HOSTS: &[&str] = &[
    "sshd, vsftpd: 10. 11.0.0.0/255.0.0.0 [2001:db8::]/32 : allow\nALL EXCEPT sshd@10.0.0.1: LOCAL, .example.org EXCEPT x.example.org\n",
    "# x\nALL: \\\n  PARANOID\nsshd: 192.0.2.* /etc/list @net user@host : spawn /bin/x %a : deny\n",
];
const STACKS: &[&str] = &[
    "# x\n@include common-auth\nauth [success=1 default=ignore]\tpam_unix.so nullok # y\n-session optional /lib/security/pam_x.so a=[b c]\naccount substack other\n",
];
const UNITS: &[&str] = &[
    "[Service]\n; x\nEnvironment=\"A=b c\" D=e\nEnvironmentFile=-/etc/default/ssh\nExecStart=/usr/sbin/sshd -D $SSHD_OPTS \\\n  ${A}\n[Socket]\nListenStream=\nListenStream=[::]:22\n",
    "# x\nexport SSHD_OPTS='-p 22 -o \"Banner none\"'\nA=\"b\n",
];
const MOUNTS: &[&str] = &[
    "22 27 0:21 / /proc rw,relatime - proc proc rw\n27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n30 27 0:25 / /tmp rw,nosuid shared:9 - tmpfs tmpfs rw\n34 27 8:3 / /home/big\\040disk rw - xfs /dev/sdc rw\n36 27 8:4 / /srv rw - ext4 /dev/sdd rw\n37 36 0:51 / /srv rw - tmpfs cover rw\n",
    "1 1 0:1 / / rw - rootfs rootfs rw\n2 1 0:2 / / rw - overlay overlay rw\n1 2 0:1 / / rw - tmpfs t rw\n",
];
const RECORDS: &[&str] = &[
    "{\"record\":\"begin\",\"version\":1,\"run\":\"r\",\"at\":\"now\",\"plan\":{\"version\":1,\"host\":\"h\",\"playbook\":\"p.yml\",\"playbook_digest\":\"\",\"observation_digest\":\"\",\"changes\":[],\"notes\":[],\"deferred\":[],\"promises\":[],\"met\":[]}}\n{\"record\":\"intent\",\"key\":\"k\",\"step\":0,\"undo\":{\"undo\":\"account\",\"edits\":[{\"edit\":\"field\",\"db\":\"shadow\",\"key\":\"u\",\"index\":1,\"value\":\"x\"},{\"edit\":\"add\",\"db\":\"shadow\",\"line\":\"u:x:1:0:::::\"}]}}\n{\"record\":\"intent\",\"key\":\"k\",\"step\":1,\"undo\":{\"undo\":\"restore\",\"path\":\"/etc/x\",\"actor\":{\"user\":\"deploy\"},\"image\":{\"file\":{\"content\":{\"hex\":\"ff00\"},\"mode\":384,\"uid\":0,\"gid\":0,\"xattrs\":{}}},\"left\":null}}\n{\"record\":\"done\",\"key\":\"k\"}\n",
    "{\"record\":\"closed\",\"exit\":\"refused\",\"verdict\":\"never began\",\"at\":\"now\"}\n",
];
const ENTRIES: &[&str] = &[
    "{\"seq\":0,\"at\":\"now\",\"run\":\"r\",\"what\":\"begin\",\"text\":\"x\",\"prev\":\"\"\n{\"seq\":1,\"at\":\"now\",\"run\":\"r\",\"what\":\"uninstalled\",\"text\":\"\\u0001\",\"prev\":\"0\"\n{\"seq\":1,\"hash\":\"0\"}",
    "{\"seq\":18446744073709551615,\"hash\":\"\"}",
];
const KNOWN_HOSTS: &[&str] = &[
    "# x\nhost.example,192.0.2.1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJsw2mOqLOL5jOX4/ZnkapE4+Pd0X4kGPXhbC5YZtRrI x\n[*.example]:2222,!bad.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJsw2mOqLOL5jOX4/ZnkapE4+Pd0X4kGPXhbC5YZtRrI\n",
    "|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJsw2mOqLOL5jOX4/ZnkapE4+Pd0X4kGPXhbC5YZtRrI\n@revoked * ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJsw2mOqLOL5jOX4/ZnkapE4+Pd0X4kGPXhbC5YZtRrI\n@cert-authority *.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJsw2mOqLOL5jOX4/ZnkapE4+Pd0X4kGPXhbC5YZtRrI\n",
];
/// A key of that file, and one that is not in it.
const SHOWN: [&str; 2] = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJsw2mOqLOL5jOX4/ZnkapE4+Pd0X4kGPXhbC5YZtRrI",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB",
];
const CLIENT: &[&str] = &[
    "Host host.example !bad.example *.lan\n  HostName %h.lan\n  User deploy\n  Port=2222\n  IdentityFile ~/.ssh/%r@%h\n  IdentitiesOnly yes\n  ProxyJump a@b:22,c\n  UserKnownHostsFile ~/k /dev/null\nHost *\n  HostKeyAlias x\n",
    "# x\nHostname \"192.0.2.1\"\nuser root\nProxyCommand nc %h %p\nIdentityAgent none\nRevokedHostKeys none\nCertificateFile %d/c\nMatch all\nInclude x\n",
];
/// A key and a certificate, each with its comment; what could be any bytes is letters here.
const AGENT: &[&str] = &[
    "\x0c\0\0\0\x02\0\0\0\x33\0\0\0\x0bssh-ed25519\0\0\0\x20AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\0\0\0\x01c\0\0\0\x0cother format\0\0\0\0",
    "\x0c\0\0\0\x01\0\0\x01\x1a\0\0\0\x20ssh-ed25519-cert-v01@openssh.com\0\0\0\x04NNNN\0\0\0\x20AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0\x02id\0\0\0\x0a\0\0\0\x06deploy\0\0\0\0\0\0\0\0\0\0\0\0\x7f\x7f\x7f\x7f\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x33\0\0\0\x0bssh-ed25519\0\0\0\x20AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\0\0\0\x53\0\0\0\x0bssh-ed25519\0\0\0\x40BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB\0\0\0\0",
];
/// One a line, as a host says them.
const EVENTS: &[&str] = &[
    "{\"event\":\"hello\",\"protocol\":1,\"version\":\"0.1.0\"}\n{\"event\":\"armed\",\"run\":\"r\",\"nonce\":\"n\",\"until\":\"2026-11-27T07:18:28Z\",\"window_ms\":60000}\n{\"event\":\"changed\",\"change\":\"k\",\"summary\":\"s\",\"millis\":1}\n{\"event\":\"proof\",\"evidence\":{\"what\":\"w\",\"proven\":\"yes\",\"reach\":\"L2\",\"seen\":\"x\",\"millis\":2}}\n{\"event\":\"failed\",\"failure\":{\"kind\":\"refused\",\"place\":\"p\",\"what\":\"w\",\"why\":\"y\",\"hint\":\"h\"}}\n{\"event\":\"finished\",\"code\":0,\"exit\":\"as_asked\",\"verdict\":\"v\",\"next\":\"keyward show\",\"run\":null,\"millis\":3}",
    "{\"event\":\"planned\",\"plan\":{\"version\":1,\"host\":\"h\",\"playbook\":\"p.yml\",\"playbook_digest\":\"\",\"observation_digest\":\"\",\"changes\":[],\"notes\":[{\"level\":\"warning\",\"about\":\"sshd\",\"text\":\"t\"}],\"deferred\":[],\"promises\":[],\"met\":[[\"packages\",1]]}}\n{\"event\":\"text\",\"name\":\"schema\",\"text\":\"a\\u001b\\n\"}\n{\"event\":\"run\",\"run\":\"r\",\"began\":\"now\",\"playbook\":\"p\",\"changes\":1,\"exit\":null,\"verdict\":\"\"}\n{\"event\":\"stage\",\"stage\":\"additive\",\"changes\":2}\n{\"event\":\"undone\",\"change\":\"k\",\"failure\":null}",
    "{\"event\":\"access\",\"now\":{\"doors\":[{\"port\":22,\"from\":{\"everywhere\":\"yes\",\"family\":\"IPv4\",\"only\":[\"10.0.0.0/8\"],\"but\":[],\"unsure\":[]}}],\"accounts\":[{\"name\":\"deploy\",\"uid\":1000,\"ssh\":\"unknown\",\"because\":[\"x\"],\"from\":{\"everywhere\":\"no\",\"family\":null,\"only\":[],\"but\":[]},\"methods\":[{\"method\":\"keys\",\"count\":2,\"kinds\":[\"ed25519\"]},{\"method\":\"chain\",\"chain\":\"publickey,password\"}],\"limited_to\":null,\"sudo\":\"nothing\",\"root\":\"no\",\"strong_groups\":[\"docker\"],\"soon\":[],\"warnings\":[]}],\"console\":[],\"unknown\":[\"y\"]},\"after\":null}",
];
const SUMMED_UP: &[&str] = &[
    "port 22\nPermitRootLogin prohibit-password\nlistenaddress [::]:22\nlistenaddress 0.0.0.0:22\nhostkey /etc/ssh/ssh_host_ed25519_key\nlistenaddress fe80::1%eth0:22\npermitrootlogin yes\nbanner\n",
];
const WORDS: &[&str] = &[
    "deploy",
    "/home/deploy",
    "0600",
    "10.0.0.0/8",
    "2001:db8::/32",
    "/usr/bin/systemctl restart nginx",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJsw2mOqLOL5jOX4/ZnkapE4+Pd0X4kGPXhbC5YZtRrI ops@laptop",
    "$6$salt$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19",
];

struct NoFiles;

impl Loader for NoFiles {
    fn load(&self, name: &str) -> Result<String, Failure> {
        match playbook::builtin(name) {
            Some(text) => Ok(text.to_owned()),
            None => FILES.with_borrow(|text| {
                if name == "p.yml" { Ok(text.clone()) } else { Err(Failure::input(name, "none").hint("none")) }
            }),
        }
    }
}

thread_local! {
    static FILES: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

/// Refused with places, fixes and nothing that a terminal obeys; or good, and good again when read twice.
fn playbook_target(input: &[u8]) {
    let Ok(text) = playbook::decode("p.yml", input.to_vec()) else { return };
    FILES.set(text);
    match playbook::load("p.yml", REGISTRY, &NoFiles) {
        Ok(first) => {
            let second = playbook::load("p.yml", REGISTRY, &NoFiles).unwrap_or_else(|faults| panic!("{faults}"));
            assert_eq!((first.digest, first.document), (second.digest, second.document));
        }
        Err(faults) => {
            assert!(!faults.items.is_empty());
            assert!(faults.items.iter().all(|item| !item.hint.is_empty() && !item.what.is_empty()), "{faults}");
            assert!(!faults.to_string().chars().any(|c| c != '\n' && keyward::types::is_forbidden(c)), "{faults:?}");
        }
    }
}

fn sshd_target(input: &[u8]) {
    let config = sshd_config::ConfigText::parse(input);
    assert_eq!(config.render(), input);
    let lines = config.lines().len();
    assert!(config.directives().all(|(line, _)| (1..=lines).contains(&line)));
    let mut edited = config.clone();
    if let Some((line, _)) = config.directives().next() {
        edited.comment_out(line);
        let count = edited.directives().count();
        assert_eq!(count + 1, config.directives().count());
        assert_eq!(sshd_config::ConfigText::parse(&edited.render()).directives().count(), count);
    }
}

fn effective_target(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let first = sshd_effective::Effective::parse(&text);
    let again = sshd_effective::Effective::parse(&first.text());
    assert_eq!(again.text(), first.text());
}

fn keys_target(input: &[u8]) {
    let file = authorized_keys::KeyFile::parse(input);
    assert_eq!(file.render(), input);
    let count = file.meanings().count();
    assert_eq!(authorized_keys::KeyFile::parse(&file.render()).meanings().count(), count);
}

fn accounts_target(input: &[u8]) {
    let records = accounts::Records::parse(input);
    assert_eq!(records.render(), input);
    for key in records.keys().take(20) {
        let _ = records.shadow_entry(&key).is_some();
    }
}

fn sudoers_target(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let lines = sudoers::parse(&text);
    let most = text.split('\n').count();
    assert!(lines.iter().all(|line| (1..=most).contains(&line.number)));
}

fn ufw_target(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(rules) = ufw::UserRules::parse(&text) else { return };
    let policies = ufw::Policies { input: ufw::Policy::Drop, output: ufw::Policy::Accept, forward: ufw::Policy::Drop };
    for family in [ufw::Family::V4, ufw::Family::V6] {
        for level in [ufw::LogLevel::Off, ufw::LogLevel::Low] {
            let written = rules.render(family, level, policies);
            let again = ufw::UserRules::parse(&written).unwrap_or_else(|why| panic!("{why:?} in\n{written}"));
            assert_eq!(again, rules);
        }
    }
}

fn settings_target(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = ufw::profiles(&text);
    for key in ["ENABLED", "IPV6"] {
        let set = ufw::with_setting(&text, key, "yes");
        assert_eq!(ufw::setting(&set, key).as_deref(), Some("yes"));
        assert_eq!(ufw::with_setting(&set, key, "yes"), set);
    }
}

fn netfilter_target(input: &[u8]) {
    let _ = netfilter::Ruleset::parse(&String::from_utf8_lossy(input));
}

/// The model decides for everybody, and its answer can be read again.
fn match_target(input: &[u8]) {
    let mut tree = sshd_config::Tree { main: "/etc/ssh/sshd_config".to_owned(), ..Default::default() };
    tree.globs.insert("/etc/ssh/d/*.conf".to_owned(), vec!["/etc/ssh/sshd_config".to_owned()]);
    tree.put("/etc/ssh/sshd_config", sshd_config::ConfigText::parse(input));
    let deploy = sshd_match::Connection {
        user: "deploy".to_owned(),
        groups: vec!["deploy".to_owned(), "sudo".to_owned()],
        address: "10.0.0.1".to_owned(),
        host: "h.example".to_owned(),
        local_address: "2001:db8::2".to_owned(),
        local_port: 22,
    };
    for connection in [None, Some(&deploy)] {
        let said = sshd_match::effective(&tree, connection, false);
        assert!(said.get("passwordauthentication").is_some());
    }
}

fn listed_target(input: &[u8]) {
    let _ = sudoers::listed(&String::from_utf8_lossy(input));
}

/// A line that decides is a line of the text.
fn access_target(input: &[u8]) {
    use access_conf::Verdict;
    let text = String::from_utf8_lossy(input);
    let mut verdicts = vec![access_conf::judge(&text, "deploy", &["sudo"])];
    for from in [None, "10.0.0.1".parse().ok(), "2001:db8::1".parse().ok()] {
        verdicts.push(access_conf::judge_from(&text, "deploy", &["sudo"], from));
    }
    for verdict in verdicts {
        if let Verdict::Depends(line) | Verdict::Refused(line) = verdict {
            assert!((1..=text.lines().count()).contains(&line), "{verdict:?}");
        }
    }
}

/// Without rules everybody is let through, and a verdict tells its line.
fn hosts_target(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = tcp_wrappers::clients(&text, "sshd");
    for from in ["10.0.0.1", "2001:db8::1"] {
        for (allow, deny) in [(text.as_ref(), ""), ("", text.as_ref())] {
            let (verdict, place) = tcp_wrappers::lets_in(allow, deny, "sshd", from.parse().unwrap());
            assert!(verdict == Some(true) || !place.is_empty(), "{verdict:?} by no line");
        }
    }
}

fn pam_target(input: &[u8]) {
    for line in String::from_utf8_lossy(input).lines() {
        if let Some(pam::Line::Rule(pam::Rule { kind, module, .. })) = pam::parse(line) {
            assert!(!kind.contains([' ', '\t']) && !module.contains('/'), "{kind} {module}");
        }
    }
}

/// Each setting stands on a line of the file, and a list holds no more than was set.
fn unit_target(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (mut lines, most) = (Vec::new(), text.lines().count());
    unit::read("u", &text, &mut lines);
    lines.extend(unit::shell_variables("u", &text));
    for (place, key, value) in &lines {
        let number: usize = place.strip_prefix("u:").unwrap().parse().unwrap();
        assert!((1..=most).contains(&number), "{place} of {most} lines");
        assert!(unit::list(&lines, key).len() <= lines.len());
        let _ = unit::words(value);
    }
}

/// Read or refused; every layer of a copy is one of the mounts, or the root.
fn mounts_target(input: &[u8]) {
    let Ok(mounts) = layers::parse(&String::from_utf8_lossy(input)) else { return };
    for root in ["/", "/srv"].map(std::path::Path::new) {
        let Ok(layers) = layers::choose(&mounts, root, &[]) else { continue };
        let is_mount = |lower: &std::path::Path| mounts.iter().any(|mount| mount.point == lower);
        assert!(layers.iter().all(|layer| layer.lower == root || is_mount(&layer.lower)));
    }
}

/// The lines are records, to which the journal's own frame is put: else every mutation would end at the checksum.
fn journal_target(input: &[u8]) {
    let text = String::from_utf8_lossy(input).into_owned();
    let frame = |(seq, record): (usize, &str)| {
        let sum = Sha256::digest(format!("{seq}\n{record}").as_bytes());
        let sum: String = sum.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("{{\"seq\":{seq},\"sum\":\"{sum}\",\"rec\":{record}}}\n")
    };
    let framed: String = text.lines().enumerate().map(frame).collect();
    for text in [text, framed] {
        let shelf = MemoryShelf::default();
        shelf.create("r").unwrap();
        shelf.replace("r", &text).unwrap();
        let Ok(records) = journal::read(&shelf, "r") else { continue };
        let open = journal::Journal::reopen(&shelf, "r").unwrap();
        assert_eq!(open.records(), records);
        assert_eq!(journal::read(&shelf, "r").unwrap(), records);
        open.close(keyward::outcome::Exit::Refused, "x", "now").unwrap();
        assert!(journal::is_over(&journal::read(&shelf, "r").unwrap()));
    }
}

/// All lines but the last are records without their hash, which is put to them; the last one is the head.
fn audit_target(input: &[u8]) {
    let text = String::from_utf8_lossy(input).into_owned();
    let (log, head) = text.rsplit_once('\n').unwrap_or(("", &text));
    let hashed = |body: &str| {
        let hash: String = Sha256::digest(body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{body},\"hash\":\"{hash}\"}}\n")
    };
    for log in [format!("{log}\n"), log.lines().map(hashed).collect()] {
        let ledger = MemoryLedger::default();
        *ledger.log.borrow_mut() = log;
        *ledger.head.borrow_mut() = Some(head.to_owned());
        let _ = audit::verify(&ledger).unwrap();
        let before = audit::entries(&ledger).unwrap().len();
        if audit::record(&ledger, "r", "what", "text").is_ok() {
            assert_eq!(audit::entries(&ledger).unwrap().len(), before + 1);
        }
    }
}

thread_local! {
    /// A file that only its own user can write, for what is read from files.
    static PLACE: Place = {
        // In memory where there is such a place: it is written for each input.
        let memory = std::path::PathBuf::from("/dev/shm");
        let directory = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let path = directory.join(format!("keyward-fuzz-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        Place(path)
    };
}

struct Place(std::path::PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Nothing is known of a host by a file that names no key of it, and a verdict tells a line of the file.
fn known_hosts_target(input: &[u8]) {
    PLACE.with(|place| {
        std::fs::write(&place.0, input).unwrap();
        let most = String::from_utf8_lossy(input).lines().count();
        for (name, port) in [("host.example", 22), ("a.example", 2222), ("2001:db8::1", 22)] {
            let Ok(known) = ssh::Known::read(std::slice::from_ref(&place.0), name, port) else { continue };
            for line in SHOWN {
                match known.judge(&russh::keys::PublicKey::from_openssh(line).unwrap().into(), 1_700_000_000) {
                    ssh::Verdict::Known => assert!(!known.is_empty()),
                    ssh::Verdict::Unknown => assert!(known.is_empty()),
                    ssh::Verdict::Changed { line, .. } | ssh::Verdict::Revoked { line, .. } => {
                        assert!((1..=most).contains(&line), "line {line} of {most}");
                    }
                }
            }
        }
    });
}

const INVENTORIES: &[&str] = &[
    "[web]\nweb[01:20:3].example ansible_host=192.0.2.1 ansible_port=2222 # x\n[all:vars]\nansible_user=root\na='b c'\n[x:children]\nweb\n",
    "all:\n  children:\n    web:\n      hosts:\n        web[1:3]: {ansible_host: 192.0.2.1}\n      vars: &v {a: 1}\n    db: {hosts: {db1: *v}}\n",
    "version: 1\nuser: root\ngroups:\n  web:\n    hosts: [ \"web[01:20].example.org\", db1 ]\n    vars: { site: a }\nhosts:\n  db1: { address: 192.0.2.7, port: 2222, key: ~/.ssh/k, groups: [ canary ], jump: a@b:22 }\n",
    "{\"_meta\": {\"hostvars\": {\"a\": {\"ansible_host\": \"::1\"}}}, \"all\": {\"hosts\": [\"a\"]}}",
];

/// An inventory, with the same text beside it as variables of every group and host.
struct Around(String);

impl inventory::Files for Around {
    fn read(&self, _: &str) -> keyward::error::Result<Option<String>> {
        Ok(Some(self.0.clone()))
    }

    fn list(&self, directory: &str) -> keyward::error::Result<Option<Vec<String>>> {
        let names = ["all", "web.yml", "../x", "db1"].map(str::to_owned).to_vec();
        Ok((!directory.contains('/')).then_some(names))
    }
}

/// Each host is a place to connect to, and none has a name that could be more than a name.
fn inventory_target(input: &[u8]) {
    let text = String::from_utf8_lossy(input).into_owned();
    for name in ["hosts", "dir/hosts.yml"] {
        let Ok(found) = inventory::Inventory::read(name, &Around(text.clone())) else { continue };
        for host in &found.hosts {
            assert!(
                !host.name.contains('/') && !host.name.chars().any(char::is_control) && host.name != "..",
                "{host:?}"
            );
            assert_eq!(ssh::Destination::parse(&host.place.to_string()).unwrap(), host.place);
        }
        let chosen = found.limit("all").unwrap_or_default();
        assert_eq!(chosen.len(), found.hosts.len());
        let _ = found.limit(&text);
    }
}

const STORES: &[&str] = &[
    "{\"seq\":0,\"sum\":\"x\",\"rec\":{\"record\":\"begin\",\"version\":1,\"rollout\":\"r\",\"at\":\"\",\"inventory\":\"\",\"playbook\":{\"name\":\"\",\"digest\":\"\"},\"hosts\":[\"a\",\"b\"],\"policy\":{\"waves\":[\"1\",\"100%\"],\"parallel\":2,\"per_lane\":1,\"max_fail\":\"0\",\"host_limit_ms\":1,\"wave_limit_ms\":null,\"tries\":1}}}\n",
    "{\"record\":\"started\",\"host\":0,\"tries\":1}\n{\"record\":\"run\",\"host\":0,\"run\":\"x\"}\n{\"record\":\"ended\",\"host\":0,\"verdict\":\"done\",\"evidence\":\"L3\",\"changes\":1,\"millis\":1,\"why\":null}\n{\"record\":\"closed\"}\n",
];

/// Records with right sums, and the input as it is: read, refused with its line, or ignored as a torn tail.
fn store_target(input: &[u8]) {
    let text = String::from_utf8_lossy(input).into_owned();
    let sealed = |(seq, line): (usize, &str)| {
        let rec = line.split_once("\"rec\":").map_or(line, |(_, rest)| rest.strip_suffix('}').unwrap_or(rest));
        let sum: String = Sha256::digest(format!("{seq}\n{rec}")).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{{\"seq\":{seq},\"sum\":\"{}\",\"rec\":{rec}}}\n", &sum[..16])
    };
    let whole: String = STORES[0].lines().chain(text.lines()).enumerate().map(sealed).collect();
    for text in [text, whole] {
        if let Ok(Some(read)) = store::Remembered::read(&text) {
            assert!(read.bytes <= text.len() && read.hosts.len() == read.begin.hosts.len());
            let lanes = vec![None; read.hosts.len()];
            let _ = keyward::fleet::schedule::Schedule::new(&lanes, read.begin.policy.clone(), &read.known());
        }
    }
}

/// What a configuration says of where to go is a destination again: nothing that a shell or ssh could read as more.
fn client_target(input: &[u8]) {
    PLACE.with(|place| {
        std::fs::write(&place.0, input).unwrap();
        let around = ssh::Around {
            home: "/home/ops".into(),
            user: "ops".to_owned(),
            agent: None,
            client: None,
            own_account: false,
            config: Some(place.0.clone()),
        };
        for typed in ["host.example", "deploy@192.0.2.1:2222"] {
            let destination = ssh::Destination::parse(typed).unwrap();
            let Ok(settings) = ssh::Settings::of(&destination, &around, &RealHost::new()) else { continue };
            assert!(settings.port != 0 && (destination.port.is_none() || destination.port == Some(settings.port)));
            let (user, host) = (Some(settings.user.clone()), settings.host.clone());
            let again = ssh::Destination { user, host, port: Some(settings.port) };
            assert_eq!(ssh::Destination::parse(&again.to_string()).unwrap(), again);
            let files = settings.known_hosts.iter().chain(&settings.identity_files);
            assert!(files.clone().all(|file| file.is_absolute()), "{settings:?}");
        }
    });
}

/// No more keys than the frame has room for.
fn agent_target(input: &[u8]) {
    let mut frame = input.to_vec();
    // Else most mutations of the first byte would be all that is tried.
    if let Some(first) = frame.first_mut() {
        *first = 12;
    }
    for frame in [input, &frame] {
        let Some(keys) = ssh::agent_list(frame) else { continue };
        assert!(keys.len() <= frame.len() / 8, "{} keys in {} bytes", keys.len(), frame.len());
        for (key, certificate) in keys {
            assert!(certificate.is_none_or(|certificate| certificate.public_key() == key.key_data()));
        }
    }
}

/// An event is the same when it is said again, and what people read of it moves no cursor.
fn event_target(input: &[u8]) {
    for line in String::from_utf8_lossy(input).lines() {
        let Ok(event) = serde_json::from_str::<Event>(line) else { continue };
        let said = report::json::line(&event);
        let again: Event = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        assert_eq!(report::json::line(&again), said);
        assert!(said.ends_with('\n') && said.matches('\n').count() == 1, "{said:?}");
        let (_, text) = Report::human(Style::Plain, Detail::Full).event(&event);
        let odd = text.chars().find(|c| !matches!(c, '\n' | '\t') && keyward::types::is_forbidden(*c));
        assert_eq!(odd, None, "{text:?}");
    }
}

/// Both readers of `sshd -T` say the same of a keyword that has a value.
fn summed_up_target(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (one, other) = (word::Effective::parse(&text), sshd_effective::Effective::parse(&text));
    for keyword in ["port", "permitrootlogin", "listenaddress", "hostkey"] {
        let said: Vec<&str> = one.all(keyword).filter(|value| !value.is_empty()).collect();
        let summed: Vec<&str> = other.all(keyword).filter(|value| !value.is_empty()).collect();
        assert_eq!(said, summed, "{keyword}");
        assert_eq!(one.first(keyword), one.all(keyword).next().unwrap_or_default());
    }
}

fn word<W: Word>(text: &str) {
    if let Ok(word) = W::parse(text) {
        let canonical = word.text();
        let again = W::parse(&canonical).unwrap_or_else(|why| panic!("{canonical:?}: {why}"));
        assert_eq!(again.text(), canonical);
        assert!(!canonical.chars().any(keyward::types::is_forbidden), "{canonical:?}");
    }
}

fn words_target(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    word::<UserName>(&text);
    word::<PlainText>(&text);
    word::<AbsPath>(&text);
    word::<Mode>(&text);
    word::<Cidr>(&text);
    word::<PublicKey>(&text);
    word::<sudoers::SudoCommand>(&text);
    let _ = PasswordHash::parse(&text).map(|hash| assert_eq!(hash.reveal(), text.as_ref()));
    let _ = facts::parse_ssh_version(&text);
}

/// xorshift64*: small, seeded, good enough to choose mutations.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() >> 1).unwrap_or(0) % most.max(1)
    }
}

/// Pieces on which parsers stumble.
const PIECES: &[&[u8]] = &[
    b"\n",
    b"\r\n",
    b"\r",
    b"\0",
    b"\t",
    b" ",
    b"\\",
    b"\"",
    b"'",
    b"#",
    b":",
    b": ",
    b"- ",
    b"{{",
    b"}}",
    b"[",
    b"]",
    b"{",
    b"}",
    b"&a",
    b"*a",
    b"!",
    b"!!str ",
    b"<<: ",
    b"---\n",
    b"...\n",
    b"|",
    b">",
    b"%",
    b"? ",
    b"~",
    b"null",
    b"no",
    b"0600",
    b"1e3",
    b"22:22",
    b"99999999999999999999",
    b"-1",
    b"\xff",
    b"\xc3",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xae",
    b"\x1b[2J",
    b"\x7f",
    b",",
    b"=",
    b"/",
    b"..",
    b"@include /x\n",
    b"Match all\n",
    b"ALL",
    b"$",
    b"\\\n",
    b"*",
    b"?",
    b" EXCEPT ",
    b"18446744073709551615",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
];

fn mutate(dice: &mut Dice, corpus: &[&str]) -> Vec<u8> {
    let mut bytes = corpus[dice.below(corpus.len())].as_bytes().to_vec();
    for _ in 0..=dice.below(6) {
        let (from, to) = (dice.below(bytes.len() + 1), dice.below(bytes.len() + 1));
        let (from, to) = (from.min(to), from.max(to));
        match dice.below(8) {
            0 => drop(bytes.drain(from..to.min(from + 40))),
            1 => bytes.truncate(from),
            2 if from < bytes.len() => bytes[from] = dice.next().to_le_bytes()[0],
            3 if from < bytes.len() => bytes[from] ^= 1 << dice.below(8),
            4 => {
                let copy = bytes[from..to.min(from + 200)].to_vec();
                let at = dice.below(bytes.len() + 1);
                bytes.splice(at..at, copy);
            }
            5 => {
                let other = corpus[dice.below(corpus.len())].as_bytes();
                let start = dice.below(other.len() + 1);
                let end = (start + dice.below(200)).min(other.len());
                bytes.splice(from..from, other[start..end].iter().copied());
            }
            6 => {
                let piece = PIECES[dice.below(PIECES.len())];
                let many = if dice.below(50) == 0 { 1 + dice.below(300) } else { 1 };
                bytes.splice(from..from, piece.repeat(many));
            }
            _ => {
                let piece = PIECES[dice.below(PIECES.len())];
                bytes.splice(from..from, piece.iter().copied());
            }
        }
    }
    bytes
}

/// A format without a target is a parser that nobody tries to break.
#[test]
fn every_format_is_a_target() {
    let modules = include_str!("../src/formats/mod.rs").lines().filter_map(|line| line.strip_prefix("pub mod "));
    let modules: Vec<&str> = modules.map(|name| name.trim_end_matches(';')).collect();
    assert!(modules.len() >= 12, "{modules:?}");
    for module in modules {
        let of_module = |target: &Target| target.name.split(':').next() == Some(module);
        assert!(TARGETS.iter().any(of_module), "no target for formats::{module}: add a row to TARGETS");
    }
}

/// What is mutated must be read to begin with, or nothing behind the first check is tried.
#[test]
fn the_corpora_of_what_hosts_and_agents_say_are_read() {
    let read = |frame: &str| ssh::agent_list(frame.as_bytes()).unwrap();
    assert_eq!(read(AGENT[0]).len(), 1, "a key, and one of a kind that is not known");
    assert!(matches!(read(AGENT[1]).as_slice(), [(_, Some(_))]), "{:?}", read(AGENT[1]));
    for line in EVENTS.iter().flat_map(|text| text.lines()) {
        let event: Event = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(report::json::line(&event).contains("\"event\""));
    }
}

#[test]
fn no_input_breaks_a_parser() {
    let time = std::env::var("KEYWARD_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let time = time.map_or(Duration::from_millis(300), Duration::from_secs);
    let seed =
        std::env::var("KEYWARD_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x006b_6579_7761_7264);
    let mut broken = Vec::new();
    std::panic::set_hook(Box::new(|_| {}));
    for target in TARGETS {
        let mut dice = Dice(seed);
        let (begun, mut count) = (Instant::now(), 0);
        for text in target.corpus {
            try_one(target, text.as_bytes(), &mut broken);
        }
        while begun.elapsed() < time {
            try_one(target, &mutate(&mut dice, target.corpus), &mut broken);
            count += 1;
        }
        println!("{}: {count} inputs", target.name);
        assert!(count > 0, "{} did not run", target.name);
    }
    drop(std::panic::take_hook());
    assert!(broken.is_empty(), "seed {seed}: {} inputs\n{}", broken.len(), broken.join("\n"));
}

fn try_one(target: &Target, input: &[u8], broken: &mut Vec<String>) {
    let of_target = |text: &&String| text.starts_with(&format!("{}: ", target.name));
    if broken.iter().filter(of_target).count() >= 3 {
        return;
    }
    let begun = Instant::now();
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.judge)(input))) {
        let text =
            panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let text: String = text.unwrap_or_default().chars().take(400).collect();
        let input: String = input.escape_ascii().to_string().chars().take(1500).collect();
        broken.push(format!("{}: {text}\n  b\"{input}\"", target.name));
    } else if begun.elapsed() > Duration::from_secs(5) {
        broken.push(format!("{}: took {:?} for {} bytes", target.name, begun.elapsed(), input.len()));
    }
}
