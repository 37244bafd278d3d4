//! The keys that open accounts.

use crate::access::{KeyLine as Line, keys_of};
use crate::error::Result;
use crate::formats::sshd_effective::Effective;
use crate::judge::{Check, Depth, NIST, Scene, Seen};
use crate::outcome::audit::Severity;
use crate::types::quoted;

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
        let others = keys.lines.iter().any(|line| line.weakness().is_none() && !line.is_bound());
        for line in &keys.lines {
            let Some(weak) = line.weakness() else { continue };
            let fix = if others { without(line) } else { format!("give {} a better key first", account.name) };
            seen.push(Seen::fail(weak).about(account.name.as_str()).at(line.place.as_str()).fix(fix));
        }
        seen.extend(keys.unknown.into_iter().map(|why| Seen::unknown(why).about(account.name.as_str())));
    }
    seen.extend(elsewhere(scene, &sshd).map(Seen::unknown));
    let seen = or_pass(scene, seen, "no key of fewer than 112 bits of strength")?;
    super::ssh::as_it_runs(scene, &sshd, seen)
}

/// Takes a key out by what it is, since lines move; a file that is a link stays one.
fn without(line: &Line) -> String {
    let file = line.place.rsplit_once(':').map_or(line.place.as_str(), |(file, _)| file);
    let end: String = line.blob().chars().rev().take(40).collect::<Vec<_>>().into_iter().rev().collect();
    format!("sed -i --follow-symlinks '\\|{end}|d' {}", quoted(file))
}

/// Keys that are not looked at: those that a program names, and files that hold for some accounts only.
pub(super) fn elsewhere(scene: &Scene<'_>, sshd: &Effective) -> Option<String> {
    if let Some(place) = scene.in_a_condition("authorizedkeysfile") {
        return Some(format!("{place} names other key files for some, which are not looked at"));
    }
    let command = sshd.get("authorizedkeyscommand").filter(|command| *command != "none")?;
    Some(format!("AuthorizedKeysCommand {command} gives keys, which are not looked at"))
}

fn strict_modes(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    super::ssh::by_word(scene, "strictmodes", |sshd| match sshd.get("strictmodes") {
        Some("yes") => Seen::pass("StrictModes yes"),
        Some(value) => Seen::fail(format!("StrictModes {value}: a key file that anybody can write opens the account"))
            .fix("remove the line, then: /usr/sbin/sshd -t && systemctl reload ssh"),
        None => Seen::unknown("sshd -T does not name StrictModes"),
    })
}
