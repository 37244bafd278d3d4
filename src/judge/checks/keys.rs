//! The keys that open accounts.

use crate::access::keys_of;
use crate::error::Result;
use crate::judge::{Check, Depth, NIST, Scene, Seen};
use crate::outcome::audit::Severity;

use super::accounts::or_pass;

/// No key is weak by itself.
pub const STRENGTH: Check = Check {
    id: "ssh-key-strength",
    title: "no key that opens an account is weak",
    severity: Severity::High,
    depth: Depth::Deep,
    references: &[],
    judge: strength,
};

/// sshd minds who could have written key files.
pub const STRICT_MODES: Check = Check {
    id: "ssh-strict-modes",
    title: "sshd takes no key from a file that others can write",
    severity: Severity::High,
    depth: Depth::Deep,
    references: &[(NIST, "AC-6"), (NIST, "AC-17(a)"), (NIST, "CM-6(a)")],
    judge: strict_modes,
};

fn strength(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    let Some(sshd) = scene.sshd()? else { return Ok(vec![Seen::not_applicable("no sshd is installed")]) };
    let mut seen = Vec::new();
    for account in &scene.look.passwd {
        let keys = keys_of(&scene.look, account, &sshd);
        for line in &keys.lines {
            if let Some(weak) = line.weakness() {
                let (file, number) = line.place.rsplit_once(':').unwrap_or((&line.place, ""));
                seen.push(
                    Seen::fail(weak)
                        .about(account.name.as_str())
                        .at(line.place.as_str())
                        .fix(format!("sed -i '{number}d' {file}")),
                );
            }
        }
        seen.extend(keys.unknown.into_iter().map(|why| Seen::unknown(why).about(account.name.as_str())));
    }
    or_pass(scene, seen, "no key of fewer than 112 bits of strength")
}

fn strict_modes(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    super::ssh::by_word(scene, "strictmodes", |sshd| match sshd.get("strictmodes") {
        Some("yes") => Seen::pass("StrictModes yes"),
        Some(value) => Seen::fail(format!("StrictModes {value}: a key file that anybody can write opens the account"))
            .fix("remove the line, then: /usr/sbin/sshd -t && systemctl reload ssh"),
        None => Seen::unknown("sshd -T does not name StrictModes"),
    })
}
