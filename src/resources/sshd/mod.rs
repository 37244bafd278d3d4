//! The SSH daemon: what its playbook section asks for, held in a file that sshd reads before all others.
//!
//! What counts is what `sshd -T` says, for every account that can log in and from several addresses. First value wins
//! in sshd_config(5), but a Match block wins over the global section: so keyward's file is read first and, where others
//! loosen a setting in a Match block, repeats it under `Match all`. Must not restart sshd, and must not touch what it
//! cannot put back: those places are refused by file and line.

mod activation;
mod candidate;
mod daemon;
mod gates;
mod host_keys;
mod observe;
mod plan;
mod ports;
mod safety;
mod socket;
pub mod tree;
mod wanted;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::change::Claim;
use crate::error::Result;
use crate::facts::Facts;
use crate::host::{Command, Probe};
use crate::resource::{Document, Fault, Planned, Resource, Section};
use crate::types::{AbsPath, Port, UserName, Word as _};

pub use observe::Observed;

/// keyward's drop-in, where the main file reads the directory early enough.
pub const DROP_IN: &str = "/etc/ssh/sshd_config.d/00-keyward.conf";
/// keyward's file where an Include at the top of the main file is needed; outside every usual Include pattern, since
/// a file read twice would open each of its ports twice.
pub const TOP: &str = crate::facts::SSHD_TOP;

/// The resource.
pub struct Sshd;

/// sshd_config(5) in snake_case. What is absent is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Desired {
    /// The one port sshd listens on; the old ones are closed once a login on this one is proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// Whether root may log in: "no", prohibit-password, forced-commands-only or "yes".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit_root_login: Option<RootLogin>,
    /// Whether passwords are accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_authentication: Option<bool>,
    /// Whether keyboard-interactive (PAM's questions) is accepted; off when passwords are off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kbd_interactive_authentication: Option<bool>,
    /// Whether keys are accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pubkey_authentication: Option<bool>,
    /// Tries per connection, 1 to 100; each key that a client offers counts as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_auth_tries: Option<u32>,
    /// Time to log in: seconds, or a text such as "30s" or "2m".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_grace_time: Option<Duration>,
    /// Whether X11 may be forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x11_forwarding: Option<bool>,
    /// Whether TCP ports may be forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_tcp_forwarding: Option<bool>,
    /// Whether the client's agent may be forwarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_agent_forwarding: Option<bool>,
    /// Time after which a silent client is asked for a sign of life: seconds, or a text such as "5m".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_alive_interval: Option<Duration>,
    /// How many such questions may stay unanswered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub client_alive_count_max: Option<u32>,
    /// Unauthenticated connections at a time: "10" or "10:30:100".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_startups: Option<String>,
    /// Whether only modern key exchanges, ciphers, MACs and host keys are offered, of those this sshd has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modern_algorithms: Option<bool>,
    /// The accounts of the playbook's `users` section, for the gates.
    #[serde(skip)]
    pub users: Vec<PlaybookUser>,
}

/// PermitRootLogin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RootLogin {
    /// By no method.
    No,
    /// By keys with a forced command.
    ForcedCommandsOnly,
    /// By keys.
    ProhibitPassword,
    /// By any method.
    Yes,
}

/// A time of sshd_config(5): seconds, or a text with units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Duration {
    /// Seconds.
    Seconds(u32),
    /// Such as `30s`, `2m` or `1h30m`.
    Text(String),
}

/// What the gates need to know of an account of the playbook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaybookUser {
    /// Its name.
    pub name: UserName,
    /// True when it counts as a way in.
    pub admin: bool,
    /// Groups it will be in, beside those it is in.
    pub groups: Vec<String>,
    /// True when the playbook sets the password field, so that a `!` there will go.
    pub sets_password: bool,
}

impl RootLogin {
    /// The word in sshd_config(5).
    pub const fn word(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::ForcedCommandsOnly => "forced-commands-only",
            Self::ProhibitPassword => "prohibit-password",
            Self::Yes => "yes",
        }
    }
}

impl Duration {
    /// In seconds; `None` when the text is no time of sshd_config(5).
    pub fn seconds(&self) -> Option<u32> {
        let text = match self {
            Self::Seconds(seconds) => return Some(*seconds),
            Self::Text(text) => text,
        };
        let (mut total, mut number) = (0_u32, None::<u32>);
        for c in text.chars() {
            if let Some(digit) = c.to_digit(10) {
                number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(digit)?);
                continue;
            }
            let unit = match c.to_ascii_lowercase() {
                's' => 1,
                'm' => 60,
                'h' => 3600,
                'd' => 86_400,
                'w' => 604_800,
                _ => return None,
            };
            total = total.checked_add(number.take()?.checked_mul(unit)?)?;
        }
        (!text.is_empty()).then_some(())?;
        total.checked_add(number.unwrap_or(0))
    }
}

impl Resource for Sshd {
    const NAME: &'static str = "sshd";
    const SUMMARY: &'static str = "the SSH daemon: who may log in by what, and on which port";
    const EXAMPLE: &'static str = "ssh:\n  port: 2222\n  permit_root_login: \"no\"\n  password_authentication: false\n  \
                                   max_auth_tries: 3\n  login_grace_time: 30s\n  x11_forwarding: false\n";
    const SECTION: Section = Section::Map("ssh");

    type Desired = Desired;
    type Observed = Observed;

    fn select(mut desired: Desired, document: &Document) -> Option<Desired> {
        let users = document.section("users").as_array().map(Vec::as_slice).unwrap_or_default();
        desired.users = users.iter().filter_map(playbook_user).collect();
        Some(desired)
    }

    fn validate(desired: &Desired) -> Vec<Fault> {
        validate(desired)
    }

    fn claims(_desired: &Desired) -> Vec<Claim> {
        vec![
            Claim::Service("sshd".to_owned()),
            Claim::Path(AbsPath::fixed(DROP_IN)),
            Claim::Path(AbsPath::fixed(TOP)),
            Claim::Path(AbsPath::fixed(socket::DROP_IN)),
        ]
    }

    fn packages(_desired: &Desired) -> &'static [&'static str] {
        &["openssh-server"]
    }

    fn questions(_desired: &Desired, probe: &dyn Probe) -> Vec<Command> {
        let asks = probe.has_program(crate::facts::SSHD);
        asks.then(observe::question).into_iter().collect()
    }

    fn observe(desired: &Desired, facts: &Facts, probe: &dyn Probe) -> Result<Observed> {
        observe::observe(desired, facts, probe)
    }

    fn plan(desired: &Desired, facts: &Facts, observed: &Observed) -> Result<Planned> {
        plan::plan(desired, facts, observed)
    }
}

/// Reads one item of `users`; what is wrong with it is for its own resource to say.
fn playbook_user(item: &Value) -> Option<PlaybookUser> {
    let name = UserName::parse(item.get("name")?.as_str()?).ok()?;
    let groups = item.get("groups").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Some(PlaybookUser {
        name,
        admin: item.get("admin").and_then(Value::as_bool).unwrap_or(false),
        groups: groups.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        sets_password: item.get("password").is_some_and(|value| value.as_str() != Some("keep")),
    })
}

fn validate(desired: &Desired) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut check = |path: &str, good: bool, what: &str, hint: &str| {
        if !good {
            faults.push(Fault::new(path, what, hint));
        }
    };
    let times = [
        ("login_grace_time", &desired.login_grace_time, 5..=3600),
        ("client_alive_interval", &desired.client_alive_interval, 0..=86_400),
    ];
    for (path, time, range) in times {
        let Some(time) = time else { continue };
        let hint = format!("write seconds or a text such as \"30s\" or \"2m\", {} to {} s", range.start(), range.end());
        check(path, time.seconds().is_some_and(|seconds| range.contains(&seconds)), "not a usable time", &hint);
    }
    check(
        "max_auth_tries",
        desired.max_auth_tries.is_none_or(|tries| (1..=100).contains(&tries)),
        "out of range",
        "write 1 to 100; 3 is usual, and a client with many keys in its agent needs as many tries",
    );
    check(
        "client_alive_count_max",
        desired.client_alive_count_max.is_none_or(|count| count <= 100),
        "out of range",
        "write 0 to 100",
    );
    check(
        "max_startups",
        desired.max_startups.as_deref().is_none_or(startups),
        "not START:RATE:FULL",
        "write one number, or three such as \"10:30:100\"",
    );
    let all_off = desired.password_authentication == Some(false)
        && desired.pubkey_authentication == Some(false)
        && desired.kbd_interactive_authentication != Some(true);
    check("pubkey_authentication", !all_off, "no way to log in is left", "leave keys on: pubkey_authentication: true");
    faults
}

/// MaxStartups: one number, or START:RATE:FULL with RATE a percentage.
fn startups(text: &str) -> bool {
    let numbers: Option<Vec<u32>> = text.split(':').map(|part| part.parse().ok()).collect();
    match numbers.as_deref() {
        Some([full]) => *full >= 1,
        Some([start, rate, full]) => *start >= 1 && (1..=100).contains(rate) && full >= start,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(yaml: &str) -> Desired {
        serde_yaml::from_str(yaml).unwrap()
    }

    #[test]
    fn times() {
        for (text, want) in [("30", Some(30)), ("2m", Some(120)), ("1h30m", Some(5400)), ("1m5", Some(65))] {
            assert_eq!(Duration::Text(text.to_owned()).seconds(), want, "{text}");
        }
        for bad in ["", "m", "1x", "-1", "99999999999", "1w 2d"] {
            assert_eq!(Duration::Text(bad.to_owned()).seconds(), None, "{bad}");
        }
    }

    #[test]
    fn wishes_that_cannot_be() {
        for (yaml, path) in [
            ("login_grace_time: 1", "login_grace_time"),
            ("login_grace_time: soon", "login_grace_time"),
            ("max_auth_tries: 0", "max_auth_tries"),
            ("max_startups: '1:2'", "max_startups"),
            ("max_startups: '10:30:5'", "max_startups"),
            ("{password_authentication: false, pubkey_authentication: false}", "pubkey_authentication"),
        ] {
            let faults = validate(&desired(yaml));
            assert_eq!(faults.first().map(|fault| fault.path.as_str()), Some(path), "{yaml}");
        }
        let good = "{port: 2222, permit_root_login: 'no', login_grace_time: 2m, max_startups: '10:30:100'}";
        assert!(validate(&desired(good)).is_empty());
        assert!(serde_yaml::from_str::<Desired>("prot: 1").is_err());
    }

    #[test]
    fn users_of_the_playbook() {
        let users = serde_json::json!([
            { "name": "deploy", "admin": true, "groups": ["sudo"], "password": "locked" },
            { "name": "x", "password": "keep" },
            { "name": "../bad" },
        ]);
        let document = Document([("users".to_owned(), users)].into());
        let users = Sshd::select(Desired::default(), &document).unwrap().users;
        let seen: Vec<_> = users.iter().map(|user| (user.name.as_str(), user.admin, user.sets_password)).collect();
        assert_eq!(seen, [("deploy", true, true), ("x", false, false)]);
    }
}
