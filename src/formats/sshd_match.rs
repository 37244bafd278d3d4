//! A model of how sshd evaluates its configuration: the global section, then Match blocks for one connection. It serves
//! the in-memory twin of a host, which has no sshd to ask; on a real host sshd itself is asked. It is compared with the
//! real sshd of several releases by the tests.
//!
//! The rules are those of servconf.c: one pass for the global section, in which only `Match all` is active; one pass
//! for the connection, in which the first value of each keyword inside matching blocks wins over the global one.

use super::sshd_config::{Directive, MAX_DEPTH, Tree, component};
use super::sshd_effective::Effective;
use std::net::IpAddr;

/// What Match conditions look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connection {
    /// Account.
    pub user: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// Where from.
    pub address: String,
    /// The client's name; without UseDNS its address.
    pub host: String,
    /// The server's address.
    pub local_address: String,
    /// The server's port.
    pub local_port: u16,
}

/// Defaults of the keywords that keyward sets (sshd_config(5)).
const DEFAULTS: [(&str, &str); 15] = [
    ("usepam", "no"),
    ("permitrootlogin", "prohibit-password"),
    ("pubkeyauthentication", "yes"),
    ("passwordauthentication", "yes"),
    ("kbdinteractiveauthentication", "yes"),
    ("x11forwarding", "no"),
    ("allowtcpforwarding", "yes"),
    ("allowagentforwarding", "yes"),
    ("maxauthtries", "6"),
    ("logingracetime", "120"),
    ("clientaliveinterval", "0"),
    ("clientalivecountmax", "3"),
    ("maxstartups", "10:30:100"),
    ("authorizedkeysfile", ".ssh/authorized_keys .ssh/authorized_keys2"),
    ("authenticationmethods", "any"),
];
/// Keywords of which every line counts (a Match block replaces the whole list).
const LISTS: [&str; 8] =
    ["port", "listenaddress", "hostkey", "acceptenv", "allowusers", "denyusers", "allowgroups", "denygroups"];
/// Keywords that a Match block may not hold.
const GLOBAL_ONLY: [&str; 7] =
    ["port", "listenaddress", "hostkey", "usepam", "logingracetime", "maxstartups", "addressfamily"];

/// Values in the order in which they were read.
type Values = Vec<(String, String)>;

struct Pass<'a> {
    tree: &'a Tree,
    connection: Option<&'a Connection>,
    old_questions: bool,
    values: Values,
}

/// How a file is read, by the state of the Includes above it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// What stands there counts while the block is active.
    Plain,
    /// The global section of a connection's pass: nothing counts up to the first Match.
    MatchOnly,
    /// Included from a block that does not match: nothing counts.
    Never,
}

/// What `sshd -T` would print for the global section, or with `-C` for a connection: the keywords that the tree sets
/// and [`DEFAULTS`]. `old_questions`: to 8.6, ChallengeResponseAuthentication is a switch of its own.
pub fn effective(tree: &Tree, connection: Option<&Connection>, old_questions: bool) -> Effective {
    let mut pass = Pass { tree, connection: None, old_questions, values: Vec::new() };
    let mut active = true;
    pass.file(&tree.main, Mode::Plain, &mut active, 0);
    let mut values = pass.values;
    if connection.is_some() {
        let mut pass = Pass { tree, connection, old_questions, values: Vec::new() };
        let mut active = false;
        pass.file(&tree.main, Mode::MatchOnly, &mut active, 0);
        values.retain(|(keyword, _)| !pass.values.iter().any(|(other, _)| other == keyword));
        values.extend(pass.values);
    }
    complete(values, old_questions)
}

fn complete(mut values: Values, old_questions: bool) -> Effective {
    let has = |values: &Values, keyword: &str| values.iter().any(|(name, _)| name == keyword);
    if old_questions {
        // Unset, the new switch follows the old one, whose default is yes.
        let old =
            values.iter().find(|(name, _)| name == "challengeresponseauthentication").map(|(_, value)| value.clone());
        let old = old.unwrap_or_else(|| "yes".to_owned());
        for keyword in ["challengeresponseauthentication", "kbdinteractiveauthentication"] {
            if !has(&values, keyword) {
                values.push((keyword.to_owned(), old.clone()));
            }
        }
    }
    for (keyword, value) in DEFAULTS {
        if !has(&values, keyword) {
            values.push((keyword.to_owned(), value.to_owned()));
        }
    }
    if !has(&values, "port") {
        values.push(("port".to_owned(), "22".to_owned()));
    }
    let ports: Vec<String> = values.iter().filter(|(name, _)| name == "port").map(|(_, value)| value.clone()).collect();
    let mut listens: Vec<String> = Vec::new();
    for (_, value) in values.iter().filter(|(name, _)| name == "listenaddress") {
        listens.extend(addresses(value, &ports));
    }
    if !has(&values, "listenaddress") {
        listens = ports.iter().flat_map(|port| [format!("[::]:{port}"), format!("0.0.0.0:{port}")]).collect();
    }
    values.retain(|(name, _)| name != "listenaddress");
    values.extend(listens.into_iter().map(|listen| ("listenaddress".to_owned(), listen)));
    Effective::from_pairs(values)
}

/// One ListenAddress as `sshd -T` prints it: with its own port, or once for every Port.
fn addresses(value: &str, ports: &[String]) -> Vec<String> {
    let (first, rest) =
        value.split_once(' ').map_or((value, String::new()), |(first, rest)| (first, format!(" {rest}")));
    let bare_v6 = first.parse::<std::net::Ipv6Addr>().is_ok();
    if first.contains(':') && !bare_v6 && !first.ends_with(']') {
        return vec![value.to_owned()];
    }
    let host = if bare_v6 { format!("[{first}]") } else { first.to_owned() };
    ports.iter().map(|port| format!("{host}:{port}{rest}")).collect()
}

impl Pass<'_> {
    fn file(&mut self, path: &str, mut mode: Mode, active: &mut bool, depth: usize) {
        let tree = self.tree;
        let Some(text) = tree.files.get(path).filter(|_| depth <= MAX_DEPTH) else { return };
        for (_, directive) in text.directives() {
            match directive.keyword.as_str() {
                "match" => {
                    let matched = mode != Mode::Never && matches(&directive.args, self.connection);
                    *active = matched;
                    if mode == Mode::MatchOnly {
                        mode = Mode::Plain;
                    }
                }
                "include" => {
                    let outer = *active;
                    let inner = match (mode, outer) {
                        (Mode::MatchOnly, _) => Mode::MatchOnly,
                        (_, true) => Mode::Plain,
                        (_, false) => Mode::Never,
                    };
                    for file in tree.included(directive) {
                        self.file(&file, inner, active, depth + 1);
                        *active = outer;
                    }
                }
                _ if *active && mode != Mode::Never => self.take(directive),
                _ => {}
            }
        }
    }

    fn take(&mut self, directive: &Directive) {
        let keyword = match directive.keyword.as_str() {
            "challengeresponseauthentication" if !self.old_questions => "kbdinteractiveauthentication",
            other => other,
        };
        if self.connection.is_some() && GLOBAL_ONLY.contains(&keyword) {
            return;
        }
        if LISTS.contains(&keyword) {
            let whole = matches!(keyword, "listenaddress");
            let parts = if whole { vec![directive.args.join(" ")] } else { directive.args.clone() };
            self.values.extend(parts.into_iter().map(|part| (keyword.to_owned(), part)));
        } else if !self.values.iter().any(|(name, _)| name == keyword) {
            self.values.push((keyword.to_owned(), shown(keyword, &directive.args.join(" "))));
        }
    }
}

/// A value as `sshd -T` prints it.
fn shown(keyword: &str, value: &str) -> String {
    match keyword {
        "logingracetime" | "clientaliveinterval" => seconds(value).map_or_else(|| value.to_owned(), |s| s.to_string()),
        "maxstartups" if !value.contains(':') => format!("{value}:100:{value}"),
        _ => value.to_owned(),
    }
}

/// A time of sshd_config(5) in seconds.
fn seconds(text: &str) -> Option<u64> {
    let (mut total, mut number) = (0_u64, None::<u64>);
    for c in text.chars() {
        match (c.to_digit(10), c.to_ascii_lowercase()) {
            (Some(digit), _) => number = Some(number.unwrap_or(0).checked_mul(10)?.checked_add(digit.into())?),
            (None, unit) => {
                let seconds = match unit {
                    's' => 1,
                    'm' => 60,
                    'h' => 3600,
                    'd' => 86_400,
                    'w' => 604_800,
                    _ => return None,
                };
                total = total.checked_add(number.take()?.checked_mul(seconds)?)?;
            }
        }
    }
    total.checked_add(number.unwrap_or(0))
}

/// True when every criterion of a Match line holds. Without a connection only `all` does.
pub fn matches(args: &[String], connection: Option<&Connection>) -> bool {
    // Criteria and their values are words of their own, or joined by `=`.
    let mut words = args.iter().flat_map(|arg| arg.splitn(2, '=')).filter(|word| !word.is_empty());
    let mut all = true;
    let mut seen = false;
    while let Some(criterion) = words.next() {
        let criterion = criterion.to_ascii_lowercase();
        if criterion == "all" {
            return !seen && words.next().is_none();
        }
        seen = true;
        let value = words.next().unwrap_or_default();
        all &= connection.is_some_and(|connection| holds(&criterion, value, connection));
    }
    seen && all
}

fn holds(criterion: &str, value: &str, connection: &Connection) -> bool {
    let listed = |name: &str, lower: bool| pattern_list(value, lower, |pattern| pattern_names(pattern, name));
    match criterion {
        "user" => listed(&connection.user, false),
        "group" => {
            // A negated group that the account is in refuses, whatever else it is in.
            pattern_list(value, false, |pattern| connection.groups.iter().any(|group| pattern_names(pattern, group)))
        }
        "host" => listed(&connection.host.to_ascii_lowercase(), true),
        "address" => pattern_list(value, false, |pattern| address_in(pattern, &connection.address)),
        "localaddress" => pattern_list(value, false, |pattern| address_in(pattern, &connection.local_address)),
        "localport" => value.parse() == Ok(connection.local_port),
        _ => false,
    }
}

/// A comma-separated list in which `!` negates: one hit, and no negated hit.
pub fn pattern_list(list: &str, lower: bool, hit: impl Fn(&str) -> bool) -> bool {
    let mut found = false;
    for pattern in list.split(',') {
        let pattern = if lower { pattern.to_ascii_lowercase() } else { pattern.to_owned() };
        match pattern.strip_prefix('!') {
            Some(negated) if hit(negated) => return false,
            Some(_) => {}
            None => found |= hit(&pattern),
        }
    }
    found
}

/// Patterns of ssh_config(5): `*` and `?`, nothing else is special.
pub fn pattern_names(pattern: &str, name: &str) -> bool {
    let mut escaped = String::new();
    for c in pattern.chars() {
        if matches!(c, '[' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    // In path patterns a leading dot is special; here it is not.
    component(&format!("x{escaped}"), &format!("x{name}"))
}

/// A CIDR range, an address, or a pattern over the address as text.
pub fn address_in(pattern: &str, address: &str) -> bool {
    let Ok(ip) = address.parse::<IpAddr>() else { return pattern_names(pattern, address) };
    let (head, bits) = pattern.split_once('/').map_or((pattern, None), |(head, bits)| (head, bits.parse::<u32>().ok()));
    match (head.parse::<IpAddr>(), ip) {
        (Ok(IpAddr::V4(range)), IpAddr::V4(ip)) => same_head(u32::from(range).into(), u32::from(ip).into(), bits, 32),
        (Ok(IpAddr::V6(range)), IpAddr::V6(ip)) => same_head(u128::from(range), u128::from(ip), bits, 128),
        (Ok(_), _) => false,
        (Err(_), _) => pattern_names(pattern, address),
    }
}

fn same_head(range: u128, ip: u128, bits: Option<u32>, width: u32) -> bool {
    let bits = bits.unwrap_or(width).min(width);
    bits == 0 || (range ^ ip) >> (width - bits) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::sshd_config::ConfigText;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree { main: files[0].0.to_owned(), ..Tree::default() };
        tree.globs.insert("/etc/ssh/d/*.conf".into(), vec![]);
        for (path, text) in files {
            tree.put(path, ConfigText::parse(text.as_bytes()));
        }
        tree
    }

    #[test]
    fn first_value_wins_and_a_match_beats_the_global_section() {
        let tree = tree(&[
            ("/m", "Include d/*.conf\nPasswordAuthentication yes\nMatch User bob,!al*\nPasswordAuthentication yes\n"),
            ("/etc/ssh/d/0.conf", "PasswordAuthentication no\nMatch Address 10.0.0.0/8\nPermitRootLogin no\n"),
        ]);
        let bob = Connection { user: "bob".into(), address: "10.1.1.1".into(), ..Connection::default() };
        assert!(effective(&tree, None, false).is("PasswordAuthentication", "no"));
        let seen = effective(&tree, Some(&bob), false);
        assert!(seen.is("PasswordAuthentication", "yes"));
        assert!(seen.is("PermitRootLogin", "no"));
        let alice = Connection { user: "alice".into(), address: "11.1.1.1".into(), ..Connection::default() };
        let seen = effective(&tree, Some(&alice), false);
        assert!(seen.is("PasswordAuthentication", "no"));
        assert!(seen.is("PermitRootLogin", "prohibit-password"));
    }

    #[test]
    fn conditions() {
        let who = Connection {
            user: "bob".into(),
            groups: vec!["sudo".into(), "x".into()],
            address: "2001:db8::5".into(),
            local_port: 22,
            ..Connection::default()
        };
        for (line, want) in [
            ("all", true),
            ("user bob", true),
            ("User=bo?", true),
            ("user *,!bob", false),
            ("group sudo", true),
            ("group *,!x", false),
            ("address 2001:db8::/32", true),
            ("address 10.0.0.0/8", false),
            ("address 2001:db8:*", true),
            ("user bob localport 23", false),
            ("localport 22 user bob", true),
            ("rdomain x", false),
        ] {
            let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(matches(&args, Some(&who)), want, "{line}");
            assert_eq!(matches(&args, None), line == "all", "{line}");
        }
    }
}
