//! Who gets in over SSH, by what, and what the daemon offers.

use crate::error::Result;
use crate::facts::{Init, serves_ssh};
use crate::formats::sshd_effective::Effective;
use crate::host::Listener;
use crate::judge::{ANSSI, CIS, Check, Depth, NIST, STIG, Scene, Seen, Stale};
use crate::outcome::Proven;
use crate::outcome::audit::Severity;
use crate::outcome::ways::{Account, Method};
use crate::types::quoted;

/// No account gets in by nothing at all.
pub const WITHOUT_PROOF: Check = Check {
    id: "ssh-login-without-proof",
    title: "nobody gets in over SSH without a key or a password",
    severity: Severity::Critical,
    depth: Depth::Deep,
    references: &[
        (CIS, "5.1.19"),
        (STIG, "UBTU-24-300031"),
        (NIST, "AC-17(a)"),
        (NIST, "CM-6(a)"),
        (NIST, "CM-7(a)"),
        (NIST, "CM-7(b)"),
    ],
    judge: without_proof,
};

/// root does not get in.
pub const ROOT: Check = Check {
    id: "ssh-root-login",
    title: "root does not get in over SSH",
    severity: Severity::High,
    depth: Depth::Deep,
    references: &[
        (CIS, "5.1.20"),
        (ANSSI, "R33"),
        (NIST, "AC-6(2)"),
        (NIST, "AC-17(a)"),
        (NIST, "IA-2"),
        (NIST, "IA-2(5)"),
        (NIST, "CM-6(a)"),
        (NIST, "CM-7(a)"),
        (NIST, "CM-7(b)"),
    ],
    judge: root,
};

/// A password opens no account.
pub const PASSWORDS: Check = Check {
    id: "ssh-password-login",
    title: "a password alone opens no account over SSH",
    severity: Severity::High,
    depth: Depth::Deep,
    references: &[],
    judge: passwords,
};

/// What runs is what the files say.
pub const CURRENT: Check = Check {
    id: "ssh-daemon-current",
    title: "the running sshd has read its files since they changed last",
    severity: Severity::High,
    depth: Depth::Deep,
    references: &[],
    judge: current,
};

/// One sshd, at the ports of its files.
pub const OTHER_DAEMON: Check = Check {
    id: "ssh-other-daemon",
    title: "no other SSH server listens beside the configured one",
    severity: Severity::High,
    depth: Depth::Deep,
    references: &[],
    judge: other_daemon,
};

/// Nothing weak is offered.
pub const ALGORITHMS: Check = Check {
    id: "ssh-algorithms",
    title: "sshd offers no broken or outdated algorithm",
    severity: Severity::Medium,
    depth: Depth::Deep,
    references: &[
        (CIS, "5.1.6"),
        (CIS, "5.1.12"),
        (CIS, "5.1.15"),
        (NIST, "AC-17(2)"),
        (NIST, "SC-12(2)"),
        (NIST, "SC-12(3)"),
        (NIST, "SC-13"),
    ],
    judge: algorithms,
};

/// Few tries on one connection.
pub const TRIES: Check = Check {
    id: "ssh-max-auth-tries",
    title: "sshd hangs up after at most 4 failed tries",
    severity: Severity::Medium,
    depth: Depth::Deep,
    references: &[(CIS, "5.1.16")],
    judge: tries,
};

/// Trust in other hosts is off.
pub const HOST_BASED: Check = Check {
    id: "ssh-host-based",
    title: "no host is trusted instead of its users",
    severity: Severity::Medium,
    depth: Depth::Deep,
    references: &[
        (CIS, "5.1.10"),
        (NIST, "AC-3"),
        (NIST, "AC-17(a)"),
        (NIST, "CM-6(a)"),
        (NIST, "CM-7(a)"),
        (NIST, "CM-7(b)"),
    ],
    judge: host_based,
};

/// Users do not set the environment of their sessions.
pub const ENVIRONMENT: Check = Check {
    id: "ssh-user-environment",
    title: "users cannot set variables that their sessions start with",
    severity: Severity::Low,
    depth: Depth::Deep,
    references: &[
        (CIS, "5.1.21"),
        (STIG, "UBTU-24-300031"),
        (NIST, "AC-17(a)"),
        (NIST, "CM-6(a)"),
        (NIST, "CM-7(a)"),
        (NIST, "CM-7(b)"),
    ],
    judge: environment,
};

/// What OpenSSH itself has left out of its defaults: broken, or too weak by now.
const WEAK: [(&str, &[&str]); 4] = [
    (
        "ciphers",
        &[
            "3des-cbc",
            "aes128-cbc",
            "aes192-cbc",
            "aes256-cbc",
            "arcfour",
            "arcfour128",
            "arcfour256",
            "blowfish-cbc",
            "cast128-cbc",
            "rijndael-cbc",
        ],
    ),
    ("macs", &["hmac-md5", "hmac-md5-96", "hmac-ripemd160", "hmac-sha1-96", "umac-32"]),
    (
        "kexalgorithms",
        &["diffie-hellman-group1-sha1", "diffie-hellman-group14-sha1", "diffie-hellman-group-exchange-sha1"],
    ),
    ("hostkeyalgorithms", &["ssh-dss", "ssh-rsa", "ssh-dss-cert-v01", "ssh-rsa-cert-v01"]),
];

const NONE: &str = "no sshd is installed";
/// Programs that serve SSH.
const SERVERS: [&str; 5] = ["sshd", "sshd-session", "dropbear", "tinysshd", "lsh"];

/// One finding for each account that `fault` is said of, or one that says that there is none.
fn of_accounts(scene: &Scene<'_>, none: &str, fault: impl Fn(&Account) -> Vec<Seen>) -> Result<Vec<Seen>> {
    let Some(sshd) = scene.sshd()? else { return Ok(vec![Seen::not_applicable(NONE)]) };
    let mut seen: Vec<Seen> = scene.ways()?.accounts.iter().flat_map(fault).collect();
    // An account that is not looked at may be one, and so may one on a port that is not asked about.
    seen.extend(scene.unread_accounts()?.into_iter().map(|(place, why)| Seen::unknown(why).at(place)));
    seen.extend(scene.by_socket().map(Seen::unknown));
    if seen.is_empty() {
        seen.push(Seen::pass(none));
    }
    as_it_runs(scene, &sshd, seen)
}

/// What the files say has not passed before the daemon has read them.
pub(super) fn as_it_runs(scene: &Scene<'_>, sshd: &Effective, seen: Vec<Seen>) -> Result<Vec<Seen>> {
    let seen: Vec<Seen> = if scene.supposes_sshd() { seen.into_iter().map(Seen::once_it_runs).collect() } else { seen };
    let why = match scene.stale(sshd)? {
        None => return Ok(seen),
        Some(Stale::Since(file)) => format!("so its files say; the running sshd has not read {file} since it changed"),
        Some(Stale::Unknown(why)) => format!("so its files say; {why}"),
    };
    Ok(seen.into_iter().map(|one| one.not_proven(&why)).collect())
}

fn current(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    let Some(sshd) = scene.sshd()? else { return Ok(vec![Seen::not_applicable(NONE)]) };
    if scene.daemon()?.is_none() {
        return Ok(vec![Seen::not_applicable("no sshd runs just now")]);
    }
    Ok(vec![match scene.stale(&sshd)? {
        None => Seen::pass("no file of its configuration has changed since"),
        Some(Stale::Since(file)) => {
            Seen::fail("it has not read this file since it changed").at(file).fix(reload(scene))
        }
        Some(Stale::Unknown(why)) => Seen::unknown(why),
    }])
}

/// The command that makes sshd read its files.
pub(super) fn reload(scene: &Scene<'_>) -> String {
    let reload =
        if scene.facts.init == Init::Systemd { "systemctl reload ssh" } else { "kill -HUP $(cat /run/sshd.pid)" };
    format!("/usr/sbin/sshd -t && {reload}")
}

/// From wherever it opens.
fn by(account: &Account, wanted: impl Fn(&Method) -> bool) -> Option<&Method> {
    account.methods.iter().chain(&account.others).find(|method| wanted(method))
}

/// What could not be told of an account, which may be what is looked for.
fn doubts(account: &Account) -> Vec<Seen> {
    let whole = (account.ssh == Proven::Unknown).then(|| account.because.join("; "));
    let all = whole.into_iter().chain(account.doubts.iter().cloned());
    all.map(|why| Seen::unknown(why).about(account.name.as_str())).collect()
}

fn without_proof(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    of_accounts(scene, "every account needs a key or a password", |account| {
        if by(account, |method| *method == Method::Nothing).is_none() {
            return doubts(account);
        }
        let fix = format!("passwd -l {}", quoted(&account.name));
        let seen = Seen::by(against(account.ssh), "its password is empty, and sshd takes that");
        vec![seen.about(account.name.as_str()).at(scene.place("permitemptypasswords")).fix(fix)]
    })
}

/// What holds of a check when this opens the door.
const fn against(opens: Proven) -> Proven {
    match opens {
        Proven::Yes => Proven::No,
        Proven::No => Proven::Yes,
        Proven::Unknown => Proven::Unknown,
    }
}

fn root(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    of_accounts(scene, "no way in for an account with uid 0", |account| {
        let words = || account.methods.iter().chain(&account.others).map(Method::words).collect::<Vec<_>>().join(", ");
        let only_keys = || by(account, |method| !matches!(method, Method::Keys { .. })).is_none();
        match (account.ssh, &account.limited_to) {
            _ if account.uid != 0 => Vec::new(),
            (Proven::No, _) => Vec::new(),
            (Proven::Unknown, _) => doubts(account),
            // What the command lets it do nobody has looked at.
            (Proven::Yes, Some(limit)) if only_keys() => {
                vec![Seen::unknown(format!("gets in, limited to: {limit}")).about(account.name.as_str())]
            }
            (Proven::Yes, _) => vec![
                Seen::fail(format!("gets in by {}", words()))
                    .about(account.name.as_str())
                    .at(scene.place("permitrootlogin"))
                    .fix("keyward apply PLAYBOOK, with ssh: { permit_root_login: \"no\" }"),
            ],
        }
    })
}

fn passwords(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    let is_password = |method: &Method| match method {
        Method::Password | Method::KeyboardInteractive => true,
        Method::Chain { chain } => !chain.contains("publickey") && !chain.contains("hostbased"),
        Method::Keys { .. } | Method::KeysOfOthers { .. } | Method::Nothing => false,
    };
    of_accounts(scene, "no account gets in by a password", |account| {
        let Some(method) = by(account, is_password) else { return doubts(account) };
        let keyword =
            if *method == Method::Password { "passwordauthentication" } else { "kbdinteractiveauthentication" };
        vec![
            Seen::by(against(account.ssh), format!("gets in by {}", method.words()))
                .about(account.name.as_str())
                .at(scene.place(keyword))
                .fix("keyward apply PLAYBOOK, with ssh: { password_authentication: false }"),
        ]
    })
}

fn other_daemon(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    let own = scene.sshd()?.map(|sshd| scene.ssh_ports(&sshd)).transpose()?.unwrap_or_default();
    // Where sshd does not run, whatever listens on its ports is another one.
    let own = if scene.supposes_sshd() { Vec::new() } else { own };
    let mut seen = Vec::new();
    let (mut ports, mut hidden) = (Vec::new(), false);
    for one in scene.listeners()?.iter().filter(|one| !one.address.is_loopback()) {
        hidden |= one.programs.is_empty();
        let is_server = one.programs.iter().any(|name| SERVERS.contains(&name.as_str()));
        let is_own = own.contains(&one.port) && (serves_ssh(one) || one.programs.is_empty());
        let is_other = !is_own && (is_server || one.port == 22 || own.contains(&one.port));
        if is_other && !ports.contains(&one.port) {
            ports.push(one.port);
            let what = format!(
                "{} listens on port {}, which the configuration does not name",
                one.programs.join(", "),
                one.port
            );
            let fix = format!("ss -tlnp sport = :{}", one.port);
            seen.push(Seen::fail(what).about(format!("port {}", one.port)).fix(fix));
        }
    }
    let by_init = |one: &&Listener| {
        let names = ["systemd", "init", "inetd", "xinetd"];
        !one.address.is_loopback()
            && !own.contains(&one.port)
            && one.programs.iter().any(|name| names.contains(&name.as_str()))
    };
    if let Some(one) = scene.listeners()?.iter().find(by_init).filter(|_| seen.is_empty()) {
        let why = format!("{} listens on port {} for somebody else", one.programs.join(", "), one.port);
        return Ok(vec![Seen::unknown(why).about(format!("port {}", one.port))]);
    }
    if seen.is_empty() && hidden {
        return Ok(vec![Seen::unknown("the kernel does not show whose the listening sockets are")]);
    }
    if scene.sshd()?.is_none() {
        return Ok(if seen.is_empty() { vec![Seen::not_applicable(NONE)] } else { seen });
    }
    let listed: Vec<String> = own.iter().map(u16::to_string).collect();
    if seen.is_empty() {
        seen.push(Seen::pass(match listed.as_slice() {
            [] => "no SSH server runs".to_owned(),
            ports => format!("sshd listens on port {} only", ports.join(", ")),
        }));
    }
    Ok(seen)
}

/// One finding by what sshd says of its configuration.
pub(super) fn by_word(scene: &Scene<'_>, keyword: &str, judge: impl Fn(&Effective) -> Seen) -> Result<Vec<Seen>> {
    let Some(sshd) = scene.sshd()? else { return Ok(vec![Seen::not_applicable(NONE)]) };
    if let Some(place) = scene.in_a_condition(keyword) {
        return Ok(vec![Seen::unknown(format!("{place} sets it for some only, which is not judged"))]);
    }
    as_it_runs(scene, &sshd, vec![judge(&sshd).at(scene.place(keyword))])
}

fn algorithms(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    let Some(sshd) = scene.sshd()? else { return Ok(vec![Seen::not_applicable(NONE)]) };
    let mut seen = Vec::new();
    for (keyword, weak) in WEAK {
        let Some(offered) = sshd.get(keyword) else {
            seen.push(Seen::unknown(format!("sshd -T does not name its {keyword}")).about(keyword));
            continue;
        };
        let is_weak = |name: &&str| weak.contains(&name.split('@').next().unwrap_or(name).trim_end_matches("-etm"));
        let found: Vec<&str> = offered.split(',').filter(is_weak).collect();
        if !found.is_empty() {
            let fix = "keyward apply PLAYBOOK, with ssh: { modern_algorithms: true }";
            seen.push(
                Seen::fail(format!("offers {}", found.join(", "))).about(keyword).at(scene.place(keyword)).fix(fix),
            );
        }
    }
    if seen.is_empty() {
        seen.push(Seen::pass("ciphers, MACs, key exchanges and host keys are of today"));
    }
    as_it_runs(scene, &sshd, seen)
}

fn tries(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    by_word(scene, "maxauthtries", |sshd| match sshd.get("maxauthtries").and_then(|value| value.parse::<u32>().ok()) {
        None => Seen::unknown("sshd -T does not name MaxAuthTries"),
        Some(tries) if tries <= 4 => Seen::pass(format!("MaxAuthTries {tries}")),
        Some(tries) => {
            Seen::fail(format!("MaxAuthTries {tries}")).fix("keyward apply PLAYBOOK, with ssh: { max_auth_tries: 3 }")
        }
    })
}

/// A keyword that has to be off.
fn off(scene: &Scene<'_>, keyword: &'static str, name: &str) -> Result<Vec<Seen>> {
    let place = scene.place(keyword);
    by_word(scene, keyword, |sshd| match sshd.get(keyword) {
        None => Seen::unknown(format!("sshd -T does not name {name}")),
        Some(value) if value.eq_ignore_ascii_case("no") => Seen::pass(format!("{name} no")),
        Some(value) => Seen::fail(format!("{name} {value}")).fix(match place.rsplit_once(':') {
            Some((file, line)) => {
                format!("sed -i '{line}s/.*/{name} no/' {file} && {}", reload(scene))
            }
            None => format!("write into /etc/ssh/sshd_config: {name} no"),
        }),
    })
}

fn host_based(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    off(scene, "hostbasedauthentication", "HostbasedAuthentication")
}

fn environment(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    off(scene, "permituserenvironment", "PermitUserEnvironment")
}
