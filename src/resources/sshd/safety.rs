//! What `sshd -t` calls fine and nobody can log in with: no method left, an administrator outside AllowUsers, methods
//! that cannot be met, a `!` password without PAM. Judged from effective values; must not judge keys or homes.

use super::observe::{Account, Observed};
use super::wanted::Setting;
use crate::error::Failure;
use crate::formats::sshd_effective::Effective;
use crate::formats::sshd_match::pattern_names;

/// Everything deadly that the settings would lead to, or that stands already.
pub fn faults(observed: &Observed, settings: &[Setting]) -> Vec<Failure> {
    let mut faults = Vec::new();
    let admins: Vec<&Account> = observed.accounts.iter().filter(|account| account.admin).collect();
    for admin in &admins {
        for effective in views(observed, &admin.name) {
            faults.extend(methods(observed, settings, effective, &admin.name));
            faults.extend(lists(observed, effective, admin));
            faults.extend(pam(observed, effective, admin));
        }
    }
    if admins.is_empty() {
        faults.extend(methods(observed, settings, &observed.effective, "anyone"));
    }
    faults.dedup();
    faults
}

/// The values that hold for `user`.
fn views<'a>(observed: &'a Observed, user: &str) -> Vec<&'a Effective> {
    let own: Vec<&Effective> =
        observed.by_connection.iter().filter(|(c, _)| c.user == user).map(|(_, effective)| effective).collect();
    if own.is_empty() { vec![&observed.effective] } else { own }
}

/// `file:line` of the first directive of a keyword, else the main file.
fn place(observed: &Observed, keyword: &str) -> String {
    let items = observed.tree.flatten();
    let found = items.iter().find(|item| item.directive.keyword == keyword);
    found.map_or_else(|| observed.tree.main.clone(), crate::formats::sshd_config::Item::place)
}

/// Whether a switch is on once the settings are in force: as asked, unless a Match block of somebody is stricter.
fn on(observed: &Observed, settings: &[Setting], effective: &Effective, keyword: &str) -> bool {
    let have = effective.get(keyword).unwrap_or("no");
    let value = match settings.iter().find(|setting| setting.key() == keyword) {
        Some(wish) if !wish.allows(have) => &wish.value,
        // The global section says no and gets the wanted yes; an exception that differs from it stays.
        Some(wish) if observed.effective.get(keyword) == Some(have) => &wish.value,
        _ => have,
    };
    !value.eq_ignore_ascii_case("no")
}

fn methods(observed: &Observed, settings: &[Setting], effective: &Effective, who: &str) -> Option<Failure> {
    let keys = on(observed, settings, effective, "pubkeyauthentication");
    let passwords = on(observed, settings, effective, "passwordauthentication");
    let questions = on(observed, settings, effective, "kbdinteractiveauthentication");
    if !(keys || passwords || questions) {
        return Some(
            Failure::refused(
                place(observed, "pubkeyauthentication"),
                format!("no way to log in would be left for {who}"),
            )
            .why("keys, passwords and keyboard-interactive are all off")
            .hint("set in the playbook: ssh: { pubkey_authentication: true }"),
        );
    }
    // 10.6 prints no line at all for none.
    let no_keys = effective.get("authorizedkeysfile").is_none_or(|files| files.eq_ignore_ascii_case("none"))
        && effective.get("authorizedkeyscommand").is_none_or(|command| command.eq_ignore_ascii_case("none"));
    if no_keys && !passwords && !questions {
        return Some(
            Failure::refused(
                place(observed, "authorizedkeysfile"),
                format!("no way to log in would be left for {who}"),
            )
            .why("sshd reads no authorized keys (AuthorizedKeysFile none), and passwords go")
            .hint("take that line out, then run keyward again"),
        );
    }
    let chains = effective.get("authenticationmethods").unwrap_or("any");
    let possible = |chain: &str| {
        chain.split(',').all(|method| match method.split(':').next().unwrap_or_default() {
            "publickey" => keys,
            "password" => passwords,
            "keyboard-interactive" => questions,
            "any" => true,
            _ => false,
        })
    };
    if chains.split_whitespace().any(possible) {
        return None;
    }
    Some(
        Failure::refused(place(observed, "authenticationmethods"), format!("no way to log in would be left for {who}"))
            .why(format!("AuthenticationMethods {chains} cannot be met"))
            .hint("write there: AuthenticationMethods publickey"),
    )
}

/// AllowUsers, DenyUsers, AllowGroups and DenyGroups of sshd_config(5).
fn lists(observed: &Observed, effective: &Effective, admin: &Account) -> Option<Failure> {
    let words = |keyword: &'static str| -> Vec<String> {
        effective.all(keyword).flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    let cut = |keyword: &'static str, what: &str, hint: String| {
        Some(
            Failure::refused(place(observed, keyword), format!("the administrator {} could not log in", admin.name))
                .why(what)
                .hint(hint),
        )
    };
    let name = &admin.name;
    let user = |pattern: &String| pattern_names(pattern.split('@').next().unwrap_or(pattern), name);
    let group = |pattern: &String| admin.groups.iter().any(|group| pattern_names(pattern, group));
    if words("denyusers").iter().any(user) {
        return cut("denyusers", "DenyUsers names it", format!("take {name} out of that line"));
    }
    let allowed = words("allowusers");
    if !allowed.is_empty() && !allowed.iter().any(user) {
        return cut("allowusers", "AllowUsers does not name it", format!("add {name} to that line"));
    }
    if words("denygroups").iter().any(group) {
        return cut("denygroups", "DenyGroups names one of its groups", format!("take {name} out of that group"));
    }
    let allowed = words("allowgroups");
    if !allowed.is_empty() && !allowed.iter().any(group) {
        let first = allowed.first().cloned().unwrap_or_default();
        let hint = format!("add to the user in the playbook: groups: [ {first} ]");
        return cut("allowgroups", "AllowGroups names none of its groups", hint);
    }
    None
}

/// Without PAM, sshd itself takes a password field that begins with `!` for a locked account, keys or not.
fn pam(observed: &Observed, effective: &Effective, admin: &Account) -> Option<Failure> {
    if !admin.locked || !effective.is("usepam", "no") {
        return None;
    }
    let name = &admin.name;
    Some(
        Failure::refused(place(observed, "usepam"), format!("the administrator {name} could not log in"))
            .why("with UsePAM no, sshd refuses an account whose password field begins with '!'")
            .hint(format!("usermod -p '*' {name}, or in the playbook: password: locked")),
    )
}
