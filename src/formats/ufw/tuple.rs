//! The `### tuple ###` lines of user.rules and the iptables-restore(8) lines they stand for.

use std::fmt::Write as _;

use super::Family;

/// What a rule does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Lets it in.
    Allow,
    /// Drops it.
    Deny,
    /// Refuses it.
    Reject,
    /// Lets it in, but for six connections within 30 s from one address.
    Limit,
}

impl Verb {
    const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Reject => "reject",
            Self::Limit => "limit",
        }
    }

    /// True for allow and limit.
    pub const fn opens(self) -> bool {
        matches!(self, Self::Allow | Self::Limit)
    }
}

/// The `### tuple ###` line: a rule in ufw's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuple {
    /// What it does.
    pub verb: Verb,
    /// `log`, `log-all` or empty.
    pub log: String,
    /// True for `ufw route`.
    pub route: bool,
    /// `tcp`, `udp`, `any` or a portless protocol.
    pub proto: String,
    /// Destination ports: `any`, or numbers and ranges joined by commas.
    pub dport: String,
    /// Destination address.
    pub dst: String,
    /// Source ports.
    pub sport: String,
    /// Source address.
    pub src: String,
    /// Application profile of the destination, or empty.
    pub dapp: String,
    /// Application profile of the source, or empty.
    pub sapp: String,
    /// Direction and interfaces: `in`, `out`, `in_eth0`, `in_eth0!out_eth1`.
    pub way: String,
    /// The comment, hexadecimal, or empty.
    pub comment: String,
}

pub(super) const MARK: &str = "### tuple ###";

impl Tuple {
    /// An incoming `allow` from anywhere to anywhere.
    pub fn allow(family: Family, proto: &str, dport: &str) -> Self {
        Self {
            verb: Verb::Allow,
            log: String::new(),
            route: false,
            proto: proto.to_owned(),
            dport: dport.to_owned(),
            dst: family.anywhere().to_owned(),
            sport: "any".to_owned(),
            src: family.anywhere().to_owned(),
            dapp: String::new(),
            sapp: String::new(),
            way: "in".to_owned(),
            comment: String::new(),
        }
    }

    /// Reads a tuple line; `Err` says what is malformed.
    pub(super) fn parse(line: &str) -> Result<Self, String> {
        let body = line.strip_prefix(MARK).ok_or("not a tuple")?;
        let (body, comment) = body.split_once(" comment=").map_or((body, ""), |(head, tail)| (head, tail.trim()));
        if !comment.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("its comment is not hexadecimal".to_owned());
        }
        let fields: Vec<&str> = body.split_whitespace().collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or_default().to_owned();
        if !(6..=9).contains(&fields.len()) {
            return Err(format!("it has {} fields instead of 6 to 9", fields.len()));
        }
        let has_apps = fields.len() >= 8;
        let app = |at: usize| match fields.get(at).copied() {
            Some("-") | None => String::new(),
            Some(name) => name.replace("%20", " "),
        };
        let way = if fields.len() % 2 == 1 { field(fields.len() - 1) } else { "in".to_owned() };
        if !(way.starts_with("in") || way.starts_with("out")) {
            return Err(format!("'{way}' is not a direction"));
        }
        let action = field(0);
        let (route, action) = action.strip_prefix("route:").map_or((false, action.as_str()), |rest| (true, rest));
        let (verb, log) = action.split_once('_').unwrap_or((action, ""));
        let verb = match verb {
            "allow" => Verb::Allow,
            "deny" => Verb::Deny,
            "reject" => Verb::Reject,
            "limit" => Verb::Limit,
            other => return Err(format!("'{other}' is not an action")),
        };
        Ok(Self {
            verb,
            log: log.to_owned(),
            route,
            proto: field(1),
            dport: field(2),
            dst: field(3),
            sport: field(4),
            src: field(5),
            dapp: if has_apps { app(6) } else { String::new() },
            sapp: if has_apps { app(7) } else { String::new() },
            way,
            comment: comment.to_owned(),
        })
    }

    /// The line as ufw writes it.
    pub(super) fn line(&self) -> String {
        let route = if self.route { "route:" } else { "" };
        let log = if self.log.is_empty() { String::new() } else { format!("_{}", self.log) };
        let mut line = format!(
            "{MARK} {route}{}{log} {} {} {} {} {}",
            self.verb.word(),
            self.proto,
            self.dport,
            self.dst,
            self.sport,
            self.src
        );
        if !(self.dapp.is_empty() && self.sapp.is_empty()) {
            let app = |name: &str| if name.is_empty() { "-".to_owned() } else { name.replace(' ', "%20") };
            let _ = write!(line, " {} {}", app(&self.dapp), app(&self.sapp));
        }
        let _ = write!(line, " {}", self.way);
        if !self.comment.is_empty() {
            let _ = write!(line, " comment={}", self.comment);
        }
        line
    }

    /// True when both select the same packets, whatever they do with them.
    pub fn selects_same(&self, other: &Self) -> bool {
        (&self.proto, &self.dport, &self.dst, &self.sport, &self.src, &self.dapp, &self.sapp, &self.way, self.route)
            == (
                &other.proto,
                &other.dport,
                &other.dst,
                &other.sport,
                &other.src,
                &other.dapp,
                &other.sapp,
                &other.way,
                other.route,
            )
    }

    /// True for an incoming rule for every source, destination, source port and interface.
    pub fn is_for_all(&self, family: Family) -> bool {
        let any = family.anywhere();
        self.way == "in" && !self.route && self.src == any && self.dst == any && self.sport == "any"
    }

    /// True when the destination ports take in `port` of `proto` (`tcp` or `udp`).
    pub fn covers(&self, proto: &str, port: u16) -> bool {
        (self.proto == proto || self.proto == "any") && port_in(&self.dport, port)
    }

    /// True when the destination is this one port and nothing else.
    pub fn is_only(&self, port: u16) -> bool {
        matches!(self.proto.as_str(), "tcp" | "any") && self.dport == port.to_string()
    }

    /// In the words of `ufw show added`, for people; never has control characters.
    pub fn describe(&self, family: Family) -> String {
        let target = if self.dapp.is_empty() {
            match (self.dport.as_str(), self.proto.as_str()) {
                ("any", "any") => "everything".to_owned(),
                ("any", proto) => format!("all {proto}"),
                (port, "any") => port.to_owned(),
                (port, proto) => format!("{port}/{proto}"),
            }
        } else {
            self.dapp.clone()
        };
        let route = if self.route { "route " } else { "" };
        let mut text = format!("{route}{} {target}", self.verb.word());
        if self.way != "in" {
            let _ = write!(text, " {}", self.way.replace(['_', '!'], " "));
        }
        if self.src != family.anywhere() {
            let _ = write!(text, " from {}", self.src);
        }
        if self.dst != family.anywhere() {
            let _ = write!(text, " to {}", self.dst);
        }
        text.chars().filter(|c| !c.is_control()).collect()
    }

    /// The rules of an incoming `allow` without logging, as iptables-restore(8) lines.
    pub(super) fn allow_lines(&self, family: Family) -> Vec<String> {
        let multi = self.dport.contains([',', ':']);
        let any = family.anywhere();
        let lines = |proto: &str| {
            let mut line = format!("-A {}-user-input", family.prefix());
            if proto != "any" {
                let _ = write!(line, " -p {proto}");
            }
            if multi {
                let _ = write!(line, " -m multiport --dports {}", self.dport);
            }
            if self.dst != any {
                let _ = write!(line, " -d {}", self.dst);
            }
            if !multi && self.dport != "any" {
                let _ = write!(line, " --dport {}", self.dport);
            }
            if self.src != any {
                let _ = write!(line, " -s {}", self.src);
            }
            line.push_str(" -j ACCEPT");
            if !self.dapp.is_empty() {
                let _ = write!(line, " -m comment --comment 'dapp_{}'", self.dapp.replace(' ', "%20"));
            }
            line
        };
        if self.proto == "any" && self.dport != "any" {
            vec![lines("tcp"), lines("udp")]
        } else {
            vec![lines(&self.proto)]
        }
    }
}

fn port_in(list: &str, port: u16) -> bool {
    list == "any"
        || list.split(',').any(|part| match part.split_once(':') {
            Some((low, high)) => {
                matches!((low.parse(), high.parse()), (Ok(low), Ok(high)) if (low..=high).contains(&port))
            }
            None => part.parse() == Ok(port),
        })
}
