//! Whether PAM asks for anything at all: stacks are read, never run.

use crate::access::{PamRule, stack_of};
use crate::error::Result;
use crate::formats::pam::{Ends, Rule, Says, ends};
use crate::host::Actor;
use crate::judge::{Check, Depth, Scene, Seen};
use crate::outcome::audit::Severity;
use crate::types::AbsPath;

/// Whoever shows nothing is let in nowhere.
pub const ASKS: Check = Check {
    id: "pam-asks",
    title: "PAM lets nobody in who has shown nothing",
    severity: Severity::Critical,
    depth: Depth::Shallow,
    references: &[],
    judge: asks,
};

/// By which somebody gets in, or becomes another: told first where several share a line.
const FIRST: [&str; 6] = ["sshd", "login", "su", "su-l", "sudo", "sudo-i"];

/// Parts of other stacks, and those that let in an account of the screen's own, or whom the machine's owner has let in
/// without asking.
fn is_left_out(service: &str) -> bool {
    let has = |part: &&str| service.contains(*part);
    service.starts_with("common-") || [".dpkg-", ".ucf-", "-greeter", "launch-environment", "autologin"].iter().any(has)
}

/// Modules that say yes only to who has shown something. pam_rootok(8) knows root, who needs none.
const PROVING: [&str; 7] = ["pam_unix", "pam_deny", "pam_sss", "pam_ldap", "pam_krb5", "pam_winbind", "pam_rootok"];
/// Modules that say nothing about who somebody is.
const NEUTRAL: [&str; 6] = ["pam_env", "pam_faildelay", "pam_nologin", "pam_cap", "pam_group", "pam_warn"];

fn says(rule: &Rule) -> Says {
    let given = |word: &str| rule.args.iter().any(|arg| arg == word);
    match rule.module.as_str() {
        "pam_permit" => Says::Yes,
        name if PROVING.contains(&name) => Says::No,
        name if NEUTRAL.contains(&name) => Says::Ignore,
        // It counts failures: before them it has nothing against anybody (pam_faillock(8)).
        "pam_faillock" if given("authfail") => Says::Ignore,
        "pam_faillock" => Says::Yes,
        // Asked after it by whoever has none (nouserok, nullok, alwaysok), they say yes.
        "pam_google_authenticator" if !given("nullok") => Says::No,
        "pam_u2f" if !given("nouserok") && !given("alwaysok") => Says::No,
        _ => Says::Anything,
    }
}

fn asks(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    let mut names = scene.probe.list(&AbsPath::fixed("/etc/pam.d"), &Actor::Root)?.unwrap_or_default();
    names.sort_by_key(|name| FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()));
    let (mut seen, mut told): (Vec<Seen>, Vec<String>) = (Vec::new(), Vec::new());
    let mut judged = 0;
    for service in names.iter().filter(|name| !is_left_out(name)) {
        let stack = stack_of(&scene.look, service)?;
        let auth: Vec<&PamRule> = stack.iter().filter(|rule| rule.kind == "auth").collect();
        if auth.is_empty() {
            // libpam asks /etc/pam.d/other then, which is judged by its own name.
            continue;
        }
        judged += 1;
        let rules: Vec<&Rule> = auth.iter().map(|one| &one.rule).collect();
        let said = ends(&rules, says);
        // The first line without which nobody gets through.
        let without = |gone: usize| {
            let rest: Vec<&Rule> =
                rules.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, rule)| *rule).collect();
            !ends(&rest, says).yes
        };
        let line = (0..rules.len()).find(|at| without(*at)).and_then(|at| auth.get(at));
        let place = line.map_or("", |one| one.place.as_str());
        let finding = match said {
            Ends { yes: false, unclear: false, .. } => continue,
            Ends { yes: true, no: false, unclear: false } => Seen::fail("its stack says yes to anybody").at(place).fix(
                "mend that line in an editor, with another root shell kept open until a login and sudo were tried",
            ),
            Ends { unclear: true, .. } => Seen::unknown(
                "its stack cannot be followed: a substack, an include that is not \
                                                         there, or a jump out of it",
            ),
            Ends { .. } => Seen::unknown("its stack says yes when a module does that is not known here").at(place),
        };
        // What several services include is told once.
        let finding = finding.about(service.as_str());
        let key = if place.starts_with("/etc/pam.d/common-") { finding.key() } else { service.clone() };
        if !told.contains(&key) {
            told.push(key);
            seen.push(finding);
        }
    }
    if seen.is_empty() {
        seen.push(match judged {
            0 => Seen::not_applicable("PAM is not installed"),
            count => Seen::pass(format!("{count} services ask")),
        });
    }
    Ok(seen)
}
