//! /etc/default/ufw and /etc/ufw/ufw.conf as they should be.

use crate::change::Difference;
use crate::error::{Failure, Result};
use crate::formats::ufw::{Family, LogLevel, Policies, Policy, setting, with_setting};

use super::DEFAULTS;
use super::desired::Desired;
use super::observe::Found;

/// The two key=value files as they should be.
pub struct Settings {
    pub defaults: String,
    pub conf: String,
    /// As wanted.
    pub policies: Policies,
    /// As the files have them now.
    pub had: Policies,
    pub level: LogLevel,
    pub had_level: Option<LogLevel>,
    pub was_enabled: bool,
    pub differences: Vec<Difference>,
}

impl Settings {
    pub fn new(desired: &Desired, found: &Found) -> Result<Self> {
        let (mut defaults, mut conf) = (found.defaults.text.clone(), found.conf.text.clone());
        let mut differences = Vec::new();
        let policy = |chain: &str| {
            let key = format!("DEFAULT_{chain}_POLICY");
            let value = setting(&found.defaults.text, &key).unwrap_or_default();
            Policy::parse(&value).ok_or_else(|| {
                Failure::refused(DEFAULTS, format!("{key} is '{value}'"))
                    .hint(format!("set {key} to \"ACCEPT\", \"DROP\" or \"REJECT\" in {DEFAULTS}"))
            })
        };
        let had = Policies { input: policy("INPUT")?, output: policy("OUTPUT")?, forward: policy("FORWARD")? };
        let policies = Policies { input: desired.input(), output: desired.output(), forward: had.forward };
        for (path, chain, have, want) in [
            ("firewall.incoming", "INPUT", had.input, policies.input),
            ("firewall.outgoing", "OUTPUT", had.output, policies.output),
        ] {
            if have != want {
                defaults =
                    with_setting(&defaults, &format!("DEFAULT_{chain}_POLICY"), &format!("\"{}\"", want.as_str()));
                differences.push(Difference::new(path, word(want), word(have)));
            }
        }
        let has_v6 = found.families.iter().any(|rules| rules.family == Family::V6);
        let ipv6 = setting(&defaults, "IPV6").unwrap_or_default();
        if has_v6 && !ipv6.eq_ignore_ascii_case("yes") {
            defaults = with_setting(&defaults, "IPV6", "yes");
            differences.push(Difference::new("firewall.ipv6", "filtered as IPv4 is", "everything dropped (IPV6=no)"));
        }
        let was_enabled = setting(&conf, "ENABLED").is_some_and(|value| value.eq_ignore_ascii_case("yes"));
        let had_level = setting(&conf, "LOGLEVEL").and_then(|value| LogLevel::parse(&value));
        let level = desired.level().or(had_level).unwrap_or(LogLevel::Low);
        if had_level != Some(level) {
            conf = with_setting(&conf, "LOGLEVEL", level.as_str());
            let have = had_level.map_or("not set", LogLevel::as_str);
            differences.push(Difference::new("firewall.logging", level.as_str(), have));
        }
        if !was_enabled {
            conf = with_setting(&conf, "ENABLED", "yes");
            differences.push(Difference::new("firewall.enabled", "yes", "no"));
        }
        Ok(Self { defaults, conf, policies, had, level, had_level, was_enabled, differences })
    }

    /// True when user.rules has to be written anew whatever its entries are.
    pub fn rewrites(&self) -> bool {
        !self.was_enabled || self.had_level != Some(self.level) || self.had != self.policies
    }
}

pub const fn word(policy: Policy) -> &'static str {
    match policy {
        Policy::Accept => "allow",
        Policy::Drop => "deny",
        Policy::Reject => "reject",
    }
}
