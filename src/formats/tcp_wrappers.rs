//! hosts_access(5): the rules by which sshd of Debian (built with libwrap) turns clients away before any login. Must not
//! open files.

use std::net::IpAddr;

use super::sshd_match::{address_in, pattern_names};

/// Whether hosts.allow and hosts.deny let a client through to the daemon; `None` when that depends on a name of a host
/// or on a program that a rule runs. The line that decides is told by its file and number.
pub fn lets_in(allow: &str, deny: &str, daemon: &str, from: IpAddr) -> (Option<bool>, String) {
    for (file, text, verdict) in [("/etc/hosts.allow", allow, true), ("/etc/hosts.deny", deny, false)] {
        for (number, line) in lines(text) {
            let Some(rule) = Rule::parse(&line) else { continue };
            let place = format!("{file}:{number}");
            match rule.matches(daemon, from) {
                Some(false) => {}
                None => return (None, place),
                Some(true) => {
                    // Options of hosts_options(5) can turn a rule around.
                    let verdict = match rule.option.as_str() {
                        "" => Some(verdict),
                        "allow" => Some(true),
                        "deny" => Some(false),
                        _ => None,
                    };
                    return (verdict, place);
                }
            }
        }
    }
    (Some(true), String::new())
}

/// Every client that the rules for `daemon` name, as written.
pub fn clients(text: &str, daemon: &str) -> Vec<String> {
    let rules = lines(text).into_iter().filter_map(|(_, line)| Rule::parse(&line));
    rules.filter(|rule| rule.is_for(daemon) != Some(false)).flat_map(|rule| rule.clients).collect()
}

struct Rule {
    daemons: Vec<String>,
    clients: Vec<String>,
    option: String,
}

/// Logical lines with the number of their first one.
fn lines(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (at, line) in text.lines().enumerate() {
        let (body, goes_on) = line.strip_suffix('\\').map_or((line, false), |body| (body, true));
        match found.last_mut().filter(|_| open) {
            Some((_, whole)) => whole.push_str(body),
            None => found.push((at + 1, body.to_owned())),
        }
        open = goes_on;
    }
    found.retain(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    found
}

impl Rule {
    /// `daemons : clients [: option]`; colons of IPv6 addresses stand in brackets.
    fn parse(line: &str) -> Option<Self> {
        let mut parts = vec![String::new()];
        let mut bracket = false;
        for c in line.chars() {
            match c {
                '[' => bracket = true,
                ']' => bracket = false,
                ':' if !bracket => parts.push(String::new()),
                c => parts.last_mut()?.push(c),
            }
        }
        let words = |text: &str| -> Vec<String> {
            text.split([' ', '\t', '\r', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
        };
        let [daemons, clients, rest @ ..] = parts.as_slice() else { return None };
        Some(Self { daemons: words(daemons), clients: words(clients), option: rest.join(":").trim().to_lowercase() })
    }

    /// Whether it is for a daemon; `None` when that depends on which of the host's addresses was called.
    fn is_for(&self, daemon: &str) -> Option<bool> {
        listed(&self.daemons, |word| {
            let (name, host) = word.split_once('@').map_or((word, None), |(name, host)| (name, Some(host)));
            let named = is(name, "ALL") || is(name, "KNOWN") || is(name, daemon);
            if named && host.is_some() { None } else { Some(named) }
        })
    }

    fn matches(&self, daemon: &str, from: IpAddr) -> Option<bool> {
        match (self.is_for(daemon), listed(&self.clients, |word| client(word, from))) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), client) => client,
            (None, _) => None,
        }
    }
}

/// libwrap compares all words and names by strcasecmp(3).
const fn is(word: &str, other: &str) -> bool {
    word.eq_ignore_ascii_case(other)
}

/// `A B EXCEPT C`: one of the first, and none of what follows.
fn listed(words: &[String], hit: impl Fn(&str) -> Option<bool> + Copy) -> Option<bool> {
    let split = words.iter().position(|word| is(word, "EXCEPT")).unwrap_or(words.len());
    let (head, tail) = (words.get(..split).unwrap_or_default(), words.get(split + 1..).unwrap_or_default());
    let mut named = Some(false);
    for word in head {
        match hit(word) {
            Some(true) => {
                named = Some(true);
                break;
            }
            Some(false) => {}
            None => named = None,
        }
    }
    match (named, if tail.is_empty() { Some(false) } else { listed(tail, hit) }) {
        (Some(false), _) | (_, Some(true)) => Some(false),
        (named, Some(false)) => named,
        (_, None) => None,
    }
}

/// Whether a pattern names an address; `None` for names of hosts (`LOCAL` is one without a dot), files and netgroups.
fn client(word: &str, from: IpAddr) -> Option<bool> {
    let (word, from) = (word.to_ascii_lowercase(), from.to_string());
    let word = word.as_str();
    let starts = word.contains(':') || word.starts_with(|c: char| c.is_ascii_digit() || "*?".contains(c));
    let numeric = starts && word.chars().all(|c| c.is_ascii_hexdigit() || ".:/*?".contains(c));
    match word {
        "all" => Some(true),
        _ if word.ends_with('.') && numeric => Some(from.starts_with(word)),
        _ if word.contains(['*', '?']) && numeric => Some(pattern_names(word, &from)),
        _ if numeric => {
            // The older form gives a mask: 10.0.0.0/255.0.0.0.
            let bits = word.split_once('/').and_then(|(head, mask)| {
                let mask: std::net::Ipv4Addr = mask.parse().ok()?;
                Some(format!("{head}/{}", u32::from(mask).count_ones()))
            });
            Some(address_in(bits.as_deref().unwrap_or(word), &from))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_of_allow_then_of_deny() {
        let says = |allow: &str, deny: &str, from: &str| lets_in(allow, deny, "sshd", from.parse().unwrap());
        for (allow, deny, from, verdict, place) in [
            ("", "", "192.0.2.1", Some(true), ""),
            ("", "# x\nALL: ALL\n", "192.0.2.1", Some(false), "/etc/hosts.deny:2"),
            ("sshd: 10.0.0.0/8 [2001:db8::]/32\n", "ALL: ALL", "10.1.1.1", Some(true), "/etc/hosts.allow:1"),
            ("sshd: 10.0.0.0/8 [2001:db8::]/32\n", "ALL: ALL", "2001:db8::5", Some(true), "/etc/hosts.allow:1"),
            ("sshd: 10.0.0.0/255.0.0.0\n", "ALL: ALL", "10.1.1.1", Some(true), "/etc/hosts.allow:1"),
            ("sshd: 10.\n", "sshd: ALL", "11.1.1.1", Some(false), "/etc/hosts.deny:1"),
            ("vsftpd: ALL\n", "sshd: ALL EXCEPT 11.", "11.1.1.1", Some(true), ""),
            ("", "ALL EXCEPT sshd: ALL", "11.1.1.1", Some(true), ""),
            ("sshd: ALL : deny\n", "", "11.1.1.1", Some(false), "/etc/hosts.allow:1"),
            ("sshd: ALL : spawn /bin/x\n", "", "11.1.1.1", None, "/etc/hosts.allow:1"),
            ("sshd: .example.org\n", "ALL: ALL", "11.1.1.1", None, "/etc/hosts.allow:1"),
            // libwrap compares words and names without case.
            ("", "all: all", "192.0.2.1", Some(false), "/etc/hosts.deny:1"),
            ("SSHD: 10.\n", "All: All", "10.1.1.1", Some(true), "/etc/hosts.allow:1"),
            ("", "Sshd: ALL except 11.", "11.1.1.1", Some(true), ""),
            ("", "Sshd: ALL except 11.", "12.1.1.1", Some(false), "/etc/hosts.deny:1"),
            ("", "all except SSHD: all", "11.1.1.1", Some(true), ""),
            ("sshd: ALL : DENY\n", "", "11.1.1.1", Some(false), "/etc/hosts.allow:1"),
            ("sshd: [FE80::]/10\n", "ALL: ALL", "fe80::1", Some(true), "/etc/hosts.allow:1"),
            // Names: of hosts (also such as look like numbers), of the daemon's own address.
            ("sshd: local\n", "ALL: ALL", "11.1.1.1", None, "/etc/hosts.allow:1"),
            ("sshd: cafe.de\n", "ALL: ALL", "11.1.1.1", None, "/etc/hosts.allow:1"),
            ("sshd@10.0.0.1: ALL\n", "ALL: ALL", "11.1.1.1", None, "/etc/hosts.allow:1"),
            ("known: ALL\n", "ALL: ALL", "11.1.1.1", Some(true), "/etc/hosts.allow:1"),
            // A '#' is a comment at the start of a line only.
            ("", " # sshd: ALL", "11.1.1.1", Some(false), "/etc/hosts.deny:1"),
        ] {
            assert_eq!(says(allow, deny, from), (verdict, place.to_owned()), "{allow:?} {deny:?} {from}");
        }
        assert_eq!(clients("sshd: 10. 11.0.0.0/8\nx: 12.\nALL: 1.2.3.4", "sshd"), ["10.", "11.0.0.0/8", "1.2.3.4"]);
    }
}
