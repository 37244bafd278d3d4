//! ufw's own files: user.rules and user6.rules with their tuples, the key=value files and application profiles.
//!
//! Renders what `ufw allow` of 0.36 and 0.36.2 would write, byte for byte, and keeps entries it did not make as they
//! stand. Sources: ufw(8), ufw-framework(8), observed files. Must not open files.

mod settings;
mod tuple;

use std::fmt::Write as _;

pub use settings::{Profile, hex, profiles, setting, with_setting};
use tuple::MARK;
pub use tuple::{Tuple, Verb};

/// An address family, as ufw splits its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4: user.rules, chains `ufw-*`.
    V4,
    /// IPv6: user6.rules, chains `ufw6-*`.
    V6,
}

impl Family {
    /// Prefix of the chains, without the dash.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::V4 => "ufw",
            Self::V6 => "ufw6",
        }
    }

    /// How ufw writes "any address".
    pub const fn anywhere(self) -> &'static str {
        match self {
            Self::V4 => "0.0.0.0/0",
            Self::V6 => "::/0",
        }
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// One rule with the lines that ufw or keyward made for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The tuple.
    pub tuple: Tuple,
    /// The tuple line as it stands.
    head: String,
    /// The lines of iptables-restore(8) below it, without newlines.
    lines: Vec<String>,
}

impl Entry {
    /// The entry that `ufw allow` would write.
    pub fn allow(tuple: Tuple, family: Family) -> Self {
        Self { head: tuple.line(), lines: tuple.allow_lines(family), tuple }
    }

    /// True when tuple and lines say the same (a hand-edited file may lie); only told for plain incoming `allow`.
    pub fn is_true_allow(&self, family: Family) -> bool {
        self.tuple.verb == Verb::Allow && self.lines == self.tuple.allow_lines(family)
    }
}

/// The `LOGLEVEL` of ufw.conf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Blocked packets, limited.
    Low,
    /// Also new connections and invalid packets, limited.
    Medium,
    /// All packets, limited.
    High,
    /// All packets.
    Full,
}

impl LogLevel {
    /// Reads the value, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "off" => Self::Off,
            "low" => Self::Low,
            "medium" => Self::Medium,
            "high" => Self::High,
            "full" => Self::Full,
            _ => return None,
        })
    }

    /// The value as ufw writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Full => "full",
        }
    }
}

/// A default policy of /etc/default/ufw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// ACCEPT
    Accept,
    /// DROP
    Drop,
    /// REJECT
    Reject,
}

impl Policy {
    /// Reads the value, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_uppercase().as_str() {
            "ACCEPT" => Self::Accept,
            "DROP" => Self::Drop,
            "REJECT" => Self::Reject,
            _ => return None,
        })
    }

    /// The value as ufw writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "ACCEPT",
            Self::Drop => "DROP",
            Self::Reject => "REJECT",
        }
    }
}

/// Default policies of input, output and forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policies {
    /// DEFAULT_INPUT_POLICY
    pub input: Policy,
    /// DEFAULT_OUTPUT_POLICY
    pub output: Policy,
    /// DEFAULT_FORWARD_POLICY
    pub forward: Policy,
}

/// user.rules or user6.rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserRules {
    /// In the order of the file; the first that matches a packet wins.
    pub entries: Vec<Entry>,
}

impl UserRules {
    /// Reads a file. An empty text is a file without rules.
    ///
    /// # Errors
    /// The line number (from 1) and what is wrong with it: rules that ufw would silently drop at its next write, and
    /// files that were cut off.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let (mut entries, mut section, mut open) = (Vec::<Entry>::new(), "head", false);
        for (at, line) in text.lines().enumerate() {
            let fault = |what: &str| Err((at + 1, what.to_owned()));
            match line.trim_end() {
                _ if section == "end" && !line.trim().is_empty() => return fault("text after COMMIT"),
                "" => open = false,
                "*filter" if section == "head" => {}
                "### RULES ###" => section = "rules",
                "### END RULES ###" => section = "tail",
                "### LOGGING ###" | "### RATE LIMITING ###" => section = "made",
                "### END LOGGING ###" | "### END RATE LIMITING ###" => section = "tail",
                "COMMIT" => section = "end",
                tuple if tuple.starts_with(MARK) => {
                    let parsed = Tuple::parse(tuple).map_err(|why| (at + 1, why))?;
                    entries.push(Entry { tuple: parsed, head: tuple.to_owned(), lines: Vec::new() });
                    open = true;
                }
                comment if comment.starts_with('#') => {}
                chain if chain.starts_with(':') && section == "head" => {}
                rule if rule.starts_with('-') => match (section, open, entries.last_mut()) {
                    ("made", ..) => {}
                    ("rules", true, Some(entry)) => entry.lines.push(rule.to_owned()),
                    ("rules", ..) if rule.contains("-user-limit") => {}
                    _ => return fault("a rule without a tuple, which ufw would drop"),
                },
                _ => return fault("not a line of ufw"),
            }
        }
        if section != "end" {
            return Err((text.lines().count(), "the file ends before COMMIT".to_owned()));
        }
        Ok(Self { entries })
    }

    /// The whole file as ufw writes it.
    pub fn render(&self, family: Family, level: LogLevel, policies: Policies) -> String {
        let prefix = family.prefix();
        let mut out = String::from("*filter\n");
        for chain in USER_FILE_CHAINS {
            let _ = writeln!(out, ":{prefix}-{chain} - [0:0]");
        }
        out.push_str("### RULES ###\n");
        for entry in &self.entries {
            let _ = writeln!(out, "\n{}", entry.head);
            for line in &entry.lines {
                let _ = writeln!(out, "{line}");
            }
        }
        out.push_str("\n### END RULES ###\n\n### LOGGING ###\n");
        logging(&mut out, prefix, level, policies);
        out.push_str("### END LOGGING ###\n\n### RATE LIMITING ###\n");
        if level != LogLevel::Off {
            let _ = writeln!(
                out,
                "-A {prefix}-user-limit -m limit --limit 3/minute -j LOG --log-prefix \"[UFW LIMIT BLOCK] \""
            );
        }
        let _ = writeln!(out, "-A {prefix}-user-limit -j REJECT\n-A {prefix}-user-limit-accept -j ACCEPT");
        out.push_str("### END RATE LIMITING ###\nCOMMIT\n");
        out
    }
}

/// The chains that user.rules declares and so replaces, without prefix, in ufw's order.
const USER_FILE_CHAINS: [&str; 16] = [
    "user-input",
    "user-output",
    "user-forward",
    "before-logging-input",
    "before-logging-output",
    "before-logging-forward",
    "user-logging-input",
    "user-logging-output",
    "user-logging-forward",
    "after-logging-input",
    "after-logging-output",
    "after-logging-forward",
    "logging-deny",
    "logging-allow",
    "user-limit",
    "user-limit-accept",
];

const LIMITED: &str = " -m limit --limit 3/min --limit-burst 10";

fn logging(out: &mut String, prefix: &str, level: LogLevel, policies: Policies) {
    if level == LogLevel::Off {
        for way in ["input", "output", "forward"] {
            let _ = writeln!(out, "-I {prefix}-user-logging-{way} -j RETURN");
        }
        return;
    }
    let limit = if level < LogLevel::High { LIMITED } else { "" };
    for (way, policy) in [("input", policies.input), ("output", policies.output), ("forward", policies.forward)] {
        let word = match policy {
            Policy::Drop | Policy::Reject => "BLOCK",
            Policy::Accept if level >= LogLevel::Medium => "ALLOW",
            Policy::Accept => continue,
        };
        let _ = writeln!(out, "-A {prefix}-after-logging-{way} -j LOG --log-prefix \"[UFW {word}] \"{limit}");
    }
    if level < LogLevel::Medium {
        let _ = writeln!(out, "-I {prefix}-logging-deny -m conntrack --ctstate INVALID -j RETURN{limit}");
    } else {
        let _ = writeln!(
            out,
            "-A {prefix}-logging-deny -m conntrack --ctstate INVALID -j LOG --log-prefix \"[UFW AUDIT INVALID] \"{limit}"
        );
    }
    let _ = writeln!(out, "-A {prefix}-logging-deny -j LOG --log-prefix \"[UFW BLOCK] \"{limit}");
    let _ = writeln!(out, "-A {prefix}-logging-allow -j LOG --log-prefix \"[UFW ALLOW] \"{limit}");
    if level >= LogLevel::Medium {
        let limit = match level {
            LogLevel::Medium => format!(" -m conntrack --ctstate NEW{LIMITED}"),
            LogLevel::High => LIMITED.to_owned(),
            _ => String::new(),
        };
        for way in ["input", "output", "forward"] {
            let _ = writeln!(out, "-I {prefix}-before-logging-{way} -j LOG --log-prefix \"[UFW AUDIT] \"{limit}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ufw/user.rules"));
    const USER6: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ufw/user6.rules"));
    const POLICIES: Policies = Policies { input: Policy::Drop, output: Policy::Accept, forward: Policy::Drop };

    #[test]
    fn what_ufw_wrote_is_written_again() {
        for (family, text, count) in [(Family::V4, USER, 23), (Family::V6, USER6, 17)] {
            let rules = UserRules::parse(text).unwrap();
            assert_eq!(rules.entries.len(), count);
            assert_eq!(rules.render(family, LogLevel::Low, POLICIES), text);
        }
    }

    #[test]
    fn what_we_write_is_what_ufw_allow_wrote() {
        for (family, text) in [(Family::V4, USER), (Family::V6, USER6)] {
            for entry in UserRules::parse(text).unwrap().entries {
                let plain = entry.tuple.verb == Verb::Allow && entry.tuple.log.is_empty() && entry.tuple.way == "in";
                if plain && !entry.tuple.route {
                    assert_eq!(Entry::allow(entry.tuple.clone(), family), entry);
                    assert!(entry.is_true_allow(family));
                }
                assert_eq!(entry.tuple.line(), entry.head);
            }
        }
    }

    #[test]
    fn damage_is_told_with_its_line() {
        let cut = USER.replace("COMMIT\n", "");
        let bare = USER.replace("### RULES ###\n", "### RULES ###\n-A ufw-user-input -j ACCEPT\n");
        let after = format!("{USER}-A ufw-user-input -j ACCEPT\n");
        let fields = USER.replace("allow tcp 80 0.0.0.0/0 any 0.0.0.0/0 in\n", "allow tcp\n");
        let comment = USER.replace("comment=6462", "comment=zz");
        let action = USER.replace("### tuple ### reject tcp", "### tuple ### eject tcp");
        let junk = USER.replace("### RULES ###", "### RULES ###\nhello");
        for (text, line) in [(&cut, 120), (&bare, 19), (&after, 122), (&fields, 20), (&comment, 49), (&junk, 19)] {
            assert_eq!(UserRules::parse(text).unwrap_err().0, line);
        }
        assert!(UserRules::parse(&action).unwrap_err().1.contains("eject"));
        assert_eq!(UserRules::parse("\n").unwrap(), UserRules::default());
    }

    #[test]
    fn ports_are_found_in_lists_and_ranges() {
        let tuple = Tuple::allow(Family::V4, "tcp", "22,80,1000:1010");
        let covered = [22, 80, 1000, 1005, 1010].map(|port| tuple.covers("tcp", port));
        assert_eq!(covered, [true; 5]);
        assert_eq!([23, 999, 1011].map(|port| tuple.covers("tcp", port)), [false; 3]);
        assert!(!tuple.covers("udp", 22) && !tuple.is_only(22));
        assert!(Tuple::allow(Family::V4, "any", "22").is_only(22));
        assert!(!Tuple::allow(Family::V4, "udp", "22").is_only(22));
    }

    #[test]
    fn settings_are_read_as_the_shell_reads_them() {
        let text = "# ENABLED=yes\nENABLED=no\nIPV6=\"yes\" # both\nX='a b'\nENABLED=yes;\nEMPTY=\n";
        let get = |key| setting(text, key);
        assert_eq!(get("ENABLED").as_deref(), Some("yes"));
        assert_eq!(get("IPV6").as_deref(), Some("yes"));
        assert_eq!(get("X").as_deref(), Some("a b"));
        assert_eq!(get("EMPTY").as_deref(), Some(""));
        assert_eq!(get("ENABLE"), None);
        assert_eq!(with_setting("A=1\nB=2\nA=3", "A", "4"), "A=4\nB=2\nA=4\n");
        assert_eq!(with_setting("B=2", "A", "4"), "B=2\nA=4\n");
    }

    #[test]
    fn profiles_as_ufw_accepts_them() {
        let text = "[Web]\ntitle=T\ndescription: D\nports=80,443/tcp|53\n# c\n[Half]\ntitle=T\nports=1\n[No]\ntitle=\ndescription=d\nports=1\n";
        let found = profiles(text);
        assert_eq!(found, [Profile { name: "Web".to_owned(), ports: vec!["80,443/tcp".to_owned(), "53".to_owned()] }]);
    }
}
