//! Accounts that are root by another name, or that anybody can be.

use crate::access::{STRONG, hash_of, is_closed, keys_of};
use crate::error::Result;
use crate::formats::accounts::{Hash, PasswdEntry};
use crate::judge::{CIS, Check, Depth, NIST, STIG, Scene, Seen};
use crate::outcome::Proven;
use crate::outcome::audit::Severity;
use crate::types::quoted;

/// root is the only one with uid 0.
pub const UID_0: Check = Check {
    id: "account-uid-0",
    title: "root is the only account with uid 0",
    severity: Severity::Critical,
    depth: Depth::Deep,
    references: &[(CIS, "5.4.2.1"), (NIST, "IA-2"), (NIST, "IA-4(b)"), (NIST, "AC-6(5)")],
    judge: uid_0,
};

/// No account with a shell has an empty password.
pub const EMPTY_PASSWORD: Check = Check {
    id: "account-empty-password",
    title: "no account that can log in has an empty password",
    severity: Severity::Critical,
    depth: Depth::Shallow,
    references: &[(CIS, "7.2.2"), (STIG, "UBTU-24-300027"), (NIST, "CM-6(b)")],
    judge: empty_password,
};

/// Nobody becomes root by a group without sudo's knowledge.
pub const AS_GOOD_AS_ROOT: Check = Check {
    id: "account-root-by-group",
    title: "nobody is as good as root by a group alone",
    severity: Severity::Medium,
    depth: Depth::Deep,
    references: &[],
    judge: as_good_as_root,
};

/// Accounts of services are nobody's to log in with.
pub const OF_SERVICES: Check = Check {
    id: "account-of-service",
    title: "no account of a service has a shell and a password or a key",
    severity: Severity::Medium,
    depth: Depth::Deep,
    references: &[(CIS, "5.4.2.7"), (NIST, "AC-6"), (NIST, "CM-6(a)"), (NIST, "CM-6(b)")],
    judge: of_services,
};

/// Below this uid accounts are the system's (Debian policy 9.2.2).
const FIRST_USER: u32 = 1000;

/// With what could not be read, or a pass where there is nothing at all.
pub(super) fn or_pass(scene: &Scene<'_>, mut seen: Vec<Seen>, saw: &str) -> Result<Vec<Seen>> {
    seen.extend(scene.unread_accounts()?.into_iter().map(|(place, why)| Seen::unknown(why).at(place)));
    if seen.is_empty() {
        seen.push(Seen::pass(saw));
    }
    Ok(seen)
}

fn uid_0(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    let others = scene.look.passwd.iter().filter(|account| account.uid == 0 && account.name != "root");
    let seen: Vec<Seen> = others
        .map(|account| {
            Seen::fail(format!("{} has uid 0", account.name))
                .about(account.name.as_str())
                .at("/etc/passwd")
                .fix(format!("usermod -u UID {}, with a uid that is free: getent passwd UID", quoted(&account.name)))
        })
        .collect();
    or_pass(scene, seen, "root has it alone")
}

fn empty_password(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    let open = scene.look.passwd.iter().filter(|account| !is_closed(&account.shell));
    let empty = open
        .filter(|account| scene.look.shadow(&account.name).is_some_and(|entry| hash_of(Some(&entry)) == Hash::Empty));
    let mut seen: Vec<Seen> = empty
        .map(|account| {
            Seen::fail("its password is empty")
                .about(account.name.as_str())
                .at("/etc/shadow")
                .fix(format!("passwd -l {}", quoted(&account.name)))
        })
        .collect();
    // pam_unix(8) takes the field of /etc/passwd unless it is an x.
    for line in scene.look.text("/etc/passwd")?.lines() {
        let mut fields = line.split(':');
        match (fields.next(), fields.next()) {
            (Some(name), Some("")) if !name.is_empty() && !name.starts_with('#') => seen.push(
                Seen::fail("its password is empty in /etc/passwd itself").about(name).at("/etc/passwd").fix("pwconv"),
            ),
            (Some(name), Some(field)) if !matches!(field, "x" | "*" | "!") && !name.starts_with(['#', '+', '-']) => {
                seen.push(Seen::unknown("its password stands in /etc/passwd itself").about(name).at("/etc/passwd"));
            }
            _ => {}
        }
    }
    or_pass(scene, seen, "every account that has a shell has a password, or a lock")
}

/// Also those that cannot log in: a service that is broken into has its groups.
fn as_good_as_root(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    let ways = scene.ways()?;
    let is_root = |name: &str| ways.accounts.iter().any(|one| one.name == name && one.root == Proven::Yes);
    let mut seen = Vec::new();
    for account in scene.look.passwd.iter().filter(|account| account.uid != 0 && !is_root(&account.name)) {
        let groups: Vec<String> = scene
            .look
            .groups(account)
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| STRONG.contains(&name.as_str()))
            .collect();
        if let Some(first) = groups.first() {
            seen.push(
                Seen::fail(format!("is in {}, and sudo does not make it root", groups.join(", ")))
                    .about(account.name.as_str())
                    .at("/etc/group")
                    .fix(format!("gpasswd -d {} {first}", quoted(&account.name))),
            );
        }
    }
    or_pass(scene, seen, "who is in docker, lxd or disk is root by sudo as well, or nobody is")
}

fn of_services(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    let (sshd, ways) = (scene.sshd()?, scene.ways()?);
    let is_root = |name: &str| ways.accounts.iter().any(|one| one.name == name && one.root == Proven::Yes);
    let mut seen = Vec::new();
    let of_service =
        |account: &&PasswdEntry| account.uid != 0 && account.uid < FIRST_USER && !is_closed(&account.shell);
    for account in scene.look.passwd.iter().filter(of_service) {
        let hash = hash_of(scene.look.shadow(&account.name).as_ref());
        let keys = sshd.as_ref().map(|sshd| keys_of(&scene.look, account, sshd)).unwrap_or_default();
        seen.extend(keys.unknown.into_iter().map(|why| Seen::unknown(why).about(account.name.as_str())));
        let key = keys.lines.into_iter().next();
        let with = match (hash, key) {
            (Hash::Usable | Hash::Empty, _) => "a password".to_owned(),
            (Hash::Locked, Some(line)) => format!("the key of {}", line.place),
            (Hash::Locked, None) => continue,
        };
        seen.push(
            Seen::fail(format!("has the shell {} and {with}", account.shell))
                .about(account.name.as_str())
                .at("/etc/passwd")
                .fix(if is_root(&account.name) {
                    format!(
                        "{} becomes root by sudo: give it a uid of its own kind, and look at: keyward access",
                        account.name
                    )
                } else {
                    format!("usermod -s /usr/sbin/nologin {}", quoted(&account.name))
                }),
        );
    }
    if let Some(sshd) = &sshd {
        seen.extend(super::keys::elsewhere(scene, sshd).map(Seen::unknown));
    }
    or_pass(scene, seen, "those with a shell have neither a password nor a key")
}
