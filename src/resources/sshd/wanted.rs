//! What the playbook asks for, as settings of sshd_config(5) with what counts as stricter. Must not look at the host.

use super::{Desired, RootLogin};
use crate::facts::Facts;
use crate::formats::sshd_effective::{Effective, same};

/// One setting that the playbook owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Field of the playbook.
    pub field: &'static str,
    /// Keyword in the spelling of the manual.
    pub keyword: &'static str,
    /// Value as it is written.
    pub value: String,
    /// What else may stand.
    pub rule: Rule,
}

/// Which values other than the wanted one keep the promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `no` is stricter than anything; a wanted `yes` says that it is allowed, not that nobody may be exempt.
    Switch,
    /// `no` < `forced-commands-only` < `prohibit-password` < `yes`.
    Root,
    /// A smaller number above zero is stricter.
    AtMost,
    /// Only this value.
    Exact,
    /// A list of names: a part of it is stricter.
    Subset,
}

impl Setting {
    /// True when `have` keeps the promise: it is the wanted value or, as an exception, a stricter one.
    pub fn allows(&self, have: &str) -> bool {
        same(have, &self.value)
            || match self.rule {
                Rule::Switch => have.eq_ignore_ascii_case("no"),
                Rule::Root => root_rank(have) <= root_rank(&self.value),
                Rule::AtMost => match (have.parse::<u64>(), self.value.parse::<u64>()) {
                    (Ok(have), Ok(want)) => have > 0 && have <= want,
                    _ => false,
                },
                Rule::Exact => false,
                Rule::Subset => {
                    let plain = !have.starts_with(['+', '-', '^']) && !have.is_empty();
                    plain && have.split(',').all(|name| self.value.split(',').any(|want| want == name))
                }
            }
    }

    /// True when the global section has the setting: the wanted value itself, or a part of a wanted list.
    pub fn is_met(&self, have: &str) -> bool {
        same(have, &self.value) || (self.rule == Rule::Subset && self.allows(have))
    }

    /// Spellings under which `sshd -T` shows the wanted value.
    pub fn spellings(&self) -> Vec<String> {
        if same(&self.value, "prohibit-password") {
            vec!["prohibit-password".to_owned(), "without-password".to_owned()]
        } else {
            vec![self.value.clone()]
        }
    }

    /// The keyword in lower case.
    pub fn key(&self) -> String {
        self.keyword.to_ascii_lowercase()
    }
}

fn root_rank(value: &str) -> u8 {
    match value.to_ascii_lowercase().as_str() {
        "no" => 0,
        "forced-commands-only" => 1,
        "prohibit-password" | "without-password" => 2,
        _ => 3,
    }
}

/// Keywords that sshd takes in a Match block, of those that keyward sets (servconf.c).
pub fn matchable(keyword: &str) -> bool {
    !["logingracetime", "maxstartups", "challengeresponseauthentication", "kexalgorithms", "ciphers", "macs"]
        .contains(&keyword)
        && keyword != "hostkeyalgorithms"
}

/// The name under which this sshd knows a keyword: ChallengeResponseAuthentication became an alias in 8.7.
pub fn known_as<'a>(keyword: &'a str, facts: &Facts) -> &'a str {
    if keyword == "challengeresponseauthentication" && facts.sshd_at_least(8, 7) {
        "kbdinteractiveauthentication"
    } else {
        keyword
    }
}

/// All settings but the port, in the order in which they are written. `defaults` are those of this sshd, for the names
/// of algorithms.
pub fn settings(desired: &Desired, facts: &Facts, defaults: Option<&Effective>) -> Vec<Setting> {
    let mut all = Vec::new();
    let mut push = |field, keyword, value: Option<String>, rule| {
        if let Some(value) = value {
            all.push(Setting { field, keyword, value, rule });
        }
    };
    let switch = |value: Option<bool>| value.map(|on| if on { "yes" } else { "no" }.to_owned());
    let seconds = |time: &Option<super::Duration>| time.as_ref()?.seconds().map(|seconds| seconds.to_string());
    let number = |value: Option<u32>| value.map(|value| value.to_string());
    push("permit_root_login", "PermitRootLogin", desired.permit_root_login.map(|v| v.word().to_owned()), Rule::Root);
    push("password_authentication", "PasswordAuthentication", switch(desired.password_authentication), Rule::Switch);
    let questions = switch(questions(desired));
    if !facts.sshd_at_least(8, 7) {
        // To 8.6 the two are separate switches, and with one alone the server still offers keyboard-interactive.
        let (field, keyword) = ("kbd_interactive_authentication", "ChallengeResponseAuthentication");
        push(field, keyword, questions.clone(), Rule::Switch);
    }
    push("kbd_interactive_authentication", "KbdInteractiveAuthentication", questions, Rule::Switch);
    push("pubkey_authentication", "PubkeyAuthentication", switch(desired.pubkey_authentication), Rule::Switch);
    push("max_auth_tries", "MaxAuthTries", number(desired.max_auth_tries), Rule::AtMost);
    push("login_grace_time", "LoginGraceTime", seconds(&desired.login_grace_time), Rule::Exact);
    push("x11_forwarding", "X11Forwarding", switch(desired.x11_forwarding), Rule::Switch);
    push("allow_tcp_forwarding", "AllowTcpForwarding", switch(desired.allow_tcp_forwarding), Rule::Switch);
    push("allow_agent_forwarding", "AllowAgentForwarding", switch(desired.allow_agent_forwarding), Rule::Switch);
    push("client_alive_interval", "ClientAliveInterval", seconds(&desired.client_alive_interval), Rule::AtMost);
    push("client_alive_count_max", "ClientAliveCountMax", number(desired.client_alive_count_max), Rule::AtMost);
    push("max_startups", "MaxStartups", desired.max_startups.as_deref().map(full_startups), Rule::Exact);
    if desired.modern_algorithms == Some(true) {
        for (keyword, modern) in ALGORITHMS {
            let offered = defaults.and_then(|defaults| defaults.get(keyword)).unwrap_or_default();
            let names: Vec<&str> = offered.split(',').filter(|name| modern(name)).collect();
            push("modern_algorithms", keyword, (!names.is_empty()).then(|| names.join(",")), Rule::Subset);
        }
    }
    all
}

/// Whether keyboard-interactive is asked for: as said, else off with passwords.
pub fn questions(desired: &Desired) -> Option<bool> {
    desired.kbd_interactive_authentication.or((desired.password_authentication == Some(false)).then_some(false))
}

/// `sshd -T` prints one number as three.
fn full_startups(text: &str) -> String {
    if text.contains(':') { text.to_owned() } else { format!("{text}:100:{text}") }
}

/// Whether a name of an algorithm is modern.
type IsModern = fn(&str) -> bool;

/// A choice among the defaults of the sshd at hand, so that every name is known to it (8.4 to 10.6 differ).
const ALGORITHMS: [(&str, IsModern); 4] = [
    ("KexAlgorithms", |name| {
        ["mlkem", "sntrup", "curve25519-"].iter().any(|head| name.starts_with(head))
            || matches!(name, "diffie-hellman-group16-sha512" | "diffie-hellman-group18-sha512")
    }),
    ("Ciphers", |name| name.starts_with("chacha20-") || name.ends_with("-ctr") || name.contains("-gcm@")),
    ("MACs", |name| {
        name.ends_with("-etm@openssh.com") && (name.starts_with("hmac-sha2-") || name.starts_with("umac-128-"))
    }),
    ("HostKeyAlgorithms", |name| {
        ["ssh-ed25519", "sk-ssh-ed25519", "rsa-sha2-", "ssh-mldsa"].iter().any(|head| name.starts_with(head))
    }),
];

/// True when root is refused more strictly than before, so that promises follow.
pub const fn refuses_root(root: RootLogin) -> Option<bool> {
    match root {
        RootLogin::No => Some(true),
        RootLogin::ForcedCommandsOnly | RootLogin::ProhibitPassword => Some(false),
        RootLogin::Yes => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(value: &str, rule: Rule) -> Setting {
        Setting { field: "x", keyword: "X", value: value.to_owned(), rule }
    }

    #[test]
    fn stricter_exceptions_stand() {
        for (want, rule, have, allowed) in [
            ("no", Rule::Switch, "yes", false),
            ("yes", Rule::Switch, "no", true),
            ("no", Rule::Switch, "local", false),
            ("prohibit-password", Rule::Root, "without-password", true),
            ("prohibit-password", Rule::Root, "no", true),
            ("prohibit-password", Rule::Root, "yes", false),
            ("no", Rule::Root, "forced-commands-only", false),
            ("3", Rule::AtMost, "2", true),
            ("3", Rule::AtMost, "6", false),
            ("300", Rule::AtMost, "0", false),
            ("a,b", Rule::Subset, "b", true),
            ("a,b", Rule::Subset, "b,c", false),
            ("a,b", Rule::Subset, "-c", false),
        ] {
            assert_eq!(setting(want, rule).allows(have), allowed, "{want} {rule:?} {have}");
        }
    }
}
