//! Whether PAM asks for anything at all: stacks are read, never run.

use crate::access::{PamRule, stack_of};
use crate::error::Result;
use crate::formats::pam::{Rule, Says, succeeds};
use crate::judge::{Check, Depth, Scene, Seen};
use crate::outcome::audit::Severity;

/// Whoever shows nothing is let in nowhere.
pub const ASKS: Check = Check {
    id: "pam-asks",
    title: "PAM lets nobody in who has shown nothing",
    severity: Severity::Critical,
    depth: Depth::Shallow,
    references: &[],
    judge: asks,
};

/// Services by which somebody gets in, or becomes another.
const SERVICES: [&str; 6] = ["sshd", "login", "su", "su-l", "sudo", "sudo-i"];
/// Modules that say yes only to who has shown something. pam_rootok(8) knows root, who needs none.
const PROVING: [&str; 9] = [
    "pam_unix",
    "pam_deny",
    "pam_sss",
    "pam_ldap",
    "pam_krb5",
    "pam_winbind",
    "pam_rootok",
    "pam_google_authenticator",
    "pam_u2f",
];
/// Modules that say nothing about who somebody is.
const NEUTRAL: [&str; 6] = ["pam_env", "pam_faildelay", "pam_nologin", "pam_cap", "pam_group", "pam_warn"];

fn says(rule: &Rule, others: Says) -> Says {
    match rule.module.as_str() {
        "pam_permit" => Says::Yes,
        name if PROVING.contains(&name) => Says::No,
        name if NEUTRAL.contains(&name) => Says::Ignore,
        // It counts failures: before them it has nothing against anybody.
        "pam_faillock" if rule.args.iter().any(|arg| arg == "preauth") => Says::Yes,
        "pam_faillock" => Says::No,
        _ => others,
    }
}

fn asks(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    let mut seen: Vec<Seen> = Vec::new();
    let mut told: Vec<String> = Vec::new();
    for service in SERVICES {
        let stack = stack_of(&scene.look, service)?;
        let auth: Vec<&PamRule> = stack.iter().filter(|rule| rule.kind == "auth").collect();
        let rules: Vec<&Rule> = auth.iter().map(|one| &one.rule).collect();
        let ends = |others| succeeds(&rules, |rule| says(rule, others));
        let place = |others| {
            // The first line without which it would not be so.
            let without = |gone: usize| {
                let rest: Vec<&Rule> =
                    rules.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, rule)| *rule).collect();
                succeeds(&rest, |rule| says(rule, others)) == Some(false)
            };
            (0..rules.len()).find(|at| without(*at)).and_then(|at| auth.get(at)).map_or("", |one| one.place.as_str())
        };
        let finding = match (ends(Says::No), ends(Says::Yes)) {
            (Some(false), Some(false)) => continue,
            (Some(true), _) => {
                let at = place(Says::No);
                // Debian's own, with what the packages add to it; see pam-auth-update(8).
                let common = at.starts_with("/etc/pam.d/common-auth:");
                let fix = "cp /usr/share/pam/common-auth /etc/pam.d/common-auth && pam-auth-update --force --package";
                let fix = if common { fix } else { "" };
                Seen::fail("its stack says yes to anybody").at(at).fix(fix)
            }
            (None, _) | (_, None) => Seen::unknown("a jump leaves its stack"),
            (Some(false), Some(true)) => {
                let why = "its stack says yes when a module does that is not known here";
                Seen::unknown(why).at(place(Says::Yes))
            }
        };
        let finding = finding.about(service);
        if !told.contains(&finding.key()) {
            told.push(finding.key());
            seen.push(finding);
        }
    }
    if seen.is_empty() {
        seen.push(Seen::pass(format!("{} ask", SERVICES.join(", "))));
    }
    Ok(seen)
}
