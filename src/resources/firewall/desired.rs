//! The `firewall` section: its fields, their rules, and what they mean as ufw tuples.

use serde::Deserialize;
use serde_json::Value;

use crate::formats::ufw::{Family, LogLevel, Policy, Profile, Tuple, hex};
use crate::resource::Fault;
use crate::types::{Cidr, Invalid, PlainText, Port, Proto, Word as _};

/// What the firewall should be.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
pub struct Desired {
    /// What becomes of incoming connections that no rule allows.
    #[serde(default)]
    pub incoming: Incoming,
    /// What becomes of outgoing connections; `deny` also stops DNS and package updates of this host.
    #[serde(default)]
    pub outgoing: Outgoing,
    /// Openings. The SSH port is always open and need not be named.
    #[serde(default)]
    pub allow: Vec<Allowed>,
    /// True: rules that are not named here go. False: they stay and are listed.
    #[serde(default)]
    pub exclusive: bool,
    /// How much ufw logs; left as it is when not given.
    #[serde(default)]
    pub logging: Option<Logging>,
    /// `ssh.port` of the playbook; empty: the ports sshd has now.
    #[serde(skip)]
    pub ssh_ports: Vec<Port>,
}

/// Default for incoming connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Incoming {
    /// Dropped.
    #[default]
    Deny,
    /// Refused with an answer.
    Reject,
    /// Let in.
    Allow,
}

/// Default for outgoing connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outgoing {
    /// Let out.
    #[default]
    Allow,
    /// Dropped, but for answers.
    Deny,
}

/// How much ufw logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Logging {
    /// Nothing.
    Off,
    /// Blocked packets, at a limited rate.
    Low,
    /// Also new connections and invalid packets, at a limited rate.
    Medium,
    /// All packets, at a limited rate.
    High,
}

/// One opening: a port (`80/tcp`, `8080` for both protocols, `6000:6007/tcp`), the name of an application profile of
/// ufw (`Nginx Full`), or a mapping.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum Allowed {
    /// A port, TCP and UDP.
    Number(Port),
    /// A port with its protocol, a range, or a profile.
    Text(String),
    /// In full.
    Full(AllowedFull),
}

/// An opening in full.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
pub struct AllowedFull {
    /// A port or a range such as `6000:6007`.
    #[serde(default)]
    pub port: Option<PortField>,
    /// Protocol; both when not given (a range needs one).
    #[serde(default)]
    pub proto: Option<Proto>,
    /// Only from this address or range.
    #[serde(default)]
    pub from: Option<Cidr>,
    /// Only to this address of the host.
    #[serde(default)]
    pub to: Option<Cidr>,
    /// Shown by `ufw status`.
    #[serde(default)]
    pub comment: Option<PlainText>,
    /// An application profile instead of port and protocol.
    #[serde(default)]
    pub app: Option<String>,
}

/// A port or a range.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum PortField {
    /// A port.
    Number(Port),
    /// A range, or several joined by commas.
    Text(String),
}

/// An opening that has passed its rules.
#[derive(Debug, Clone)]
pub struct Opening {
    /// As the user wrote it, for messages.
    pub shown: String,
    target: Target,
    from: Option<Cidr>,
    to: Option<Cidr>,
    comment: String,
}

#[derive(Debug, Clone)]
enum Target {
    Ports { ports: String, proto: &'static str },
    App(String),
}

/// The ports that `ssh.port` names: a number or a list of numbers.
pub fn ssh_ports(section: &Value) -> Vec<Port> {
    let one = |value: &Value| Port::new(u16::try_from(value.as_u64()?).ok()?).ok();
    match section.get("port") {
        Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}

impl Desired {
    /// Every fault of the section.
    pub fn validate(&self) -> Vec<Fault> {
        let fault = |(at, allowed): (usize, &Allowed)| {
            let (field, invalid) = allowed.opening().err()?;
            let path = if field.is_empty() { format!("allow.{at}") } else { format!("allow.{at}.{field}") };
            Some(Fault::new(path, invalid.why, invalid.hint))
        };
        self.allow.iter().enumerate().filter_map(fault).collect()
    }

    /// The openings; those with faults are left out ([`Desired::validate`] tells them).
    pub fn openings(&self) -> Vec<Opening> {
        self.allow.iter().filter_map(|allowed| allowed.opening().ok()).collect()
    }

    /// The default for incoming connections in ufw's words.
    pub const fn input(&self) -> Policy {
        match self.incoming {
            Incoming::Deny => Policy::Drop,
            Incoming::Reject => Policy::Reject,
            Incoming::Allow => Policy::Accept,
        }
    }

    /// The default for outgoing connections in ufw's words.
    pub const fn output(&self) -> Policy {
        match self.outgoing {
            Outgoing::Allow => Policy::Accept,
            Outgoing::Deny => Policy::Drop,
        }
    }

    /// The log level, when one is asked for.
    pub fn level(&self) -> Option<LogLevel> {
        self.logging.map(|logging| match logging {
            Logging::Off => LogLevel::Off,
            Logging::Low => LogLevel::Low,
            Logging::Medium => LogLevel::Medium,
            Logging::High => LogLevel::High,
        })
    }
}

const PORT_HINT: &str = "write a port such as 80/tcp, 8080, 6000:6007/tcp, or the name of a profile of ufw";

impl Allowed {
    /// Checks one opening; the fault's field is empty for the whole.
    fn opening(&self) -> Result<Opening, (&'static str, Invalid)> {
        match self {
            Self::Number(port) => Ok(Opening::new(port.to_string(), ports(&port.to_string(), "any").map_err(whole)?)),
            Self::Text(text) => Ok(Opening::new(text.clone(), target(text).map_err(whole)?)),
            Self::Full(full) => full.opening(),
        }
    }
}

fn whole(invalid: Invalid) -> (&'static str, Invalid) {
    ("", invalid)
}

impl AllowedFull {
    fn opening(&self) -> Result<Opening, (&'static str, Invalid)> {
        let proto = self.proto.map_or("any", Proto::as_str);
        let target = match (&self.port, &self.app) {
            (Some(_), Some(_)) => {
                return Err(("app", Invalid::new("port and app together", "a profile has its own ports: drop one")));
            }
            (None, Some(_)) if self.proto.is_some() => {
                return Err(("proto", Invalid::new("proto and app together", "a profile has its own protocols")));
            }
            (None, Some(app)) => Target::App(profile_name(app).map_err(|invalid| ("app", invalid))?),
            (Some(PortField::Number(port)), None) => {
                ports(&port.to_string(), proto).map_err(|fault| ("port", fault))?
            }
            (Some(PortField::Text(text)), None) => ports(text, proto).map_err(|fault| ("port", fault))?,
            (None, None) if self.from.is_some() => Target::Ports { ports: "any".to_owned(), proto },
            (None, None) => {
                return Err(("", Invalid::new("neither port, app nor from", "say what to let in")));
            }
        };
        if let (Some(from), Some(to)) = (&self.from, &self.to)
            && from.is_v6() != to.is_v6()
        {
            return Err(("to", Invalid::new("from and to are of different families", "give both as IPv4 or as IPv6")));
        }
        let comment = self.comment.as_ref().map_or("", PlainText::as_str);
        if comment.contains('\'') {
            return Err(("comment", Invalid::new("ufw refuses ' in a comment", "leave the ' out")));
        }
        let mut opening = Opening::new(String::new(), target);
        (opening.from, opening.to, opening.comment) = (self.from, self.to, hex(comment));
        opening.shown = opening.describe();
        Ok(opening)
    }
}

/// `80/tcp`, `8080`, `6000:6007/tcp`, or a profile.
fn target(text: &str) -> Result<Target, Invalid> {
    let starts_with_digit = text.starts_with(|c: char| c.is_ascii_digit());
    match text.split_once('/') {
        Some((list, proto)) if starts_with_digit => match proto {
            "tcp" => ports(list, "tcp"),
            "udp" => ports(list, "udp"),
            _ => Err(Invalid::new(format!("'{proto}' is not tcp or udp"), PORT_HINT)),
        },
        None if starts_with_digit && text.chars().all(|c| c.is_ascii_digit() || matches!(c, ':' | ',')) => {
            ports(text, "any")
        }
        _ => profile_name(text).map(Target::App),
    }
}

/// A list of ports and ranges in ufw's order.
fn ports(list: &str, proto: &'static str) -> Result<Target, Invalid> {
    let invalid = |why: String| Invalid::new(why, PORT_HINT);
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let port = text.parse::<u16>().ok().filter(|port| plain && *port > 0);
        port.ok_or_else(|| invalid(format!("'{text}' is not a port from 1 to 65535")))
    };
    let mut found = Vec::new();
    for part in list.split(',') {
        found.push(match part.split_once(':') {
            Some((low, high)) => {
                let (low, high) = (number(low)?, number(high)?);
                if low >= high {
                    return Err(invalid(format!("the range {low}:{high} does not go up")));
                }
                (low, Some(high))
            }
            None => (number(part)?, None),
        });
    }
    found.sort_unstable();
    found.dedup();
    let multi = found.len() > 1 || found.iter().any(|(_, high)| high.is_some());
    if multi && proto == "any" {
        return Err(invalid("ufw wants a protocol with a range or several ports".to_owned()));
    }
    if found.iter().map(|(_, high)| 1 + usize::from(high.is_some())).sum::<usize>() > 15 {
        return Err(invalid("more than 15 ports in one rule".to_owned()));
    }
    let texts = found.iter().map(|(low, high)| high.map_or(low.to_string(), |high| format!("{low}:{high}")));
    Ok(Target::Ports { ports: texts.collect::<Vec<_>>().join(","), proto })
}

/// The characters that ufw accepts in a profile's name.
fn profile_name(text: &str) -> Result<String, Invalid> {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.' | '+'));
    let numeric = text.bytes().all(|byte| byte.is_ascii_digit());
    if plain && !numeric && text != "all" && text.len() <= 64 && text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Ok(text.to_owned());
    }
    let shown: String = text.chars().filter(|c| !c.is_control()).take(40).collect();
    Err(Invalid::new(format!("'{shown}' is neither a port nor the name of a profile"), PORT_HINT))
}

impl Opening {
    fn new(shown: String, target: Target) -> Self {
        Self { shown, target, from: None, to: None, comment: String::new() }
    }

    fn describe(&self) -> String {
        let mut text = match &self.target {
            Target::App(name) => name.clone(),
            Target::Ports { ports, proto: "any" } => ports.clone(),
            Target::Ports { ports, proto } => format!("{ports}/{proto}"),
        };
        for (word, address) in [("from", self.from), ("to", self.to)] {
            if let Some(address) = address {
                text = format!("{text} {word} {address}");
            }
        }
        text
    }

    /// The profile it needs.
    pub fn app(&self) -> Option<&str> {
        match &self.target {
            Target::App(name) => Some(name),
            Target::Ports { .. } => None,
        }
    }

    /// The tuples that `ufw allow` would make in `family`; none when its addresses are of the other one.
    ///
    /// # Errors
    /// When the profile has a port that is not a number.
    pub fn tuples(&self, family: Family, profiles: &[Profile]) -> Result<Vec<Tuple>, Invalid> {
        let other = |address: &Cidr| address.is_v6() != (family == Family::V6);
        if self.from.iter().chain(&self.to).any(other) {
            return Ok(Vec::new());
        }
        let mut tuples = match &self.target {
            Target::Ports { ports, proto } => vec![Tuple::allow(family, proto, ports)],
            Target::App(name) => {
                let profile = profiles.iter().rev().find(|profile| profile.name == *name);
                app_tuples(family, name, profile.map_or(&[], |profile| &profile.ports))?
            }
        };
        for tuple in &mut tuples {
            for (address, place) in [(self.from, &mut tuple.src), (self.to, &mut tuple.dst)] {
                if let Some(address) = address.filter(|address| address.prefix() > 0) {
                    *place = address.text();
                }
            }
            tuple.comment.clone_from(&self.comment);
        }
        Ok(tuples)
    }
}

fn app_tuples(family: Family, name: &str, parts: &[String]) -> Result<Vec<Tuple>, Invalid> {
    let tuple = |part: &String| {
        let (list, proto) = part.split_once('/').unwrap_or((part, "any"));
        let proto = match proto {
            "tcp" => "tcp",
            "udp" => "udp",
            "any" => "any",
            other => return Err(Invalid::new(format!("profile '{name}' has protocol '{other}'"), PORT_HINT)),
        };
        let Target::Ports { ports, .. } = ports(list, proto)? else { return Err(Invalid::new("not ports", PORT_HINT)) };
        let mut tuple = Tuple::allow(family, proto, &ports);
        name.clone_into(&mut tuple.dapp);
        Ok(tuple)
    };
    parts.iter().map(tuple).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(allow: Value) -> Desired {
        serde_json::from_value(serde_json::json!({ "allow": allow })).unwrap()
    }

    #[test]
    fn openings_that_are_refused() {
        let bad = serde_json::json!([
            "0/tcp", "80/icmp", "70000", "6000:6007", "6007:6000/tcp", "80,443", "80/", "/tcp", "all", "'x'", "", "+80",
            "80 /tcp", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16/tcp", "-A INPUT", "x\ny",
            {}, { "proto": "tcp" }, { "port": 80, "app": "WWW" }, { "app": "WWW", "proto": "tcp" },
            { "port": 80, "comment": "it's" }, { "port": "80:90" }, { "app": "a;b" },
            { "port": 80, "from": "10.0.0.0/8", "to": "2001:db8::1" }
        ]);
        let desired = desired(bad.clone());
        let faults = desired.validate();
        for (at, value) in bad.as_array().unwrap().iter().enumerate() {
            let path = format!("allow.{at}");
            let fault = faults.iter().find(|fault| fault.path == path || fault.path.starts_with(&format!("{path}.")));
            assert!(fault.is_some_and(|fault| !fault.hint.is_empty()), "{value} was accepted");
        }
        assert!(desired.openings().is_empty());
    }

    #[test]
    fn openings_as_ufw_writes_them() {
        let desired = desired(serde_json::json!([
            8080, "443/udp", "443,80/tcp", "6000:6007/tcp", "WWW Full",
            { "port": 5432, "proto": "tcp", "from": "10.0.0.0/8", "comment": "db" },
            { "from": "2001:db8::/32" }, { "port": 22, "from": "0.0.0.0/0" }
        ]));
        assert_eq!(desired.validate(), []);
        let profiles = [Profile { name: "WWW Full".to_owned(), ports: vec!["80,443/tcp".to_owned()] }];
        let told = |family| -> Vec<String> {
            let tuples =
                desired.openings().iter().flat_map(|one| one.tuples(family, &profiles).unwrap()).collect::<Vec<_>>();
            tuples.iter().map(|tuple| tuple.describe(family)).collect()
        };
        let both = ["allow 8080", "allow 443/udp", "allow 80,443/tcp", "allow 6000:6007/tcp", "allow WWW Full"];
        let v4 = [both.as_slice(), &["allow 5432/tcp from 10.0.0.0/8", "allow 22"]].concat();
        let v6 = [both.as_slice(), &["allow everything from 2001:db8::/32"]].concat();
        assert_eq!(
            (told(Family::V4), told(Family::V6)),
            (v4.iter().map(ToString::to_string).collect(), v6.iter().map(ToString::to_string).collect())
        );
    }

    #[test]
    fn ssh_ports_of_the_playbook() {
        let ports = |value| ssh_ports(&value).into_iter().map(Port::get).collect::<Vec<_>>();
        assert_eq!(ports(serde_json::json!({ "port": 2222 })), [2222]);
        assert_eq!(ports(serde_json::json!({ "port": [22, 2222] })), [22, 2222]);
        assert_eq!(ports(serde_json::json!({ "port": 0 })), [0u16; 0]);
        assert_eq!(ports(Value::Null), [0u16; 0]);
    }
}
