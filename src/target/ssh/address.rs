//! Where to connect, as it is typed: `ssh://user@host[:port]`, `user@host:port` or `host`. Names reach command lines of
//! other programs (`ssh -G`, ProxyCommand), so whatever a shell could read as more than a word is refused here
//! (CVE-2025-61984: control characters; CVE-2023-51385: metacharacters). Must not look anything up.

use std::fmt;
use std::net::IpAddr;

use crate::error::{Failure, Result};

/// A place to log in to. Made by [`Destination::parse`], and by the inventory by the same rules, so its words have
/// passed them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The account; `None`: what the configuration says.
    pub user: Option<String>,
    /// A name or an address without brackets, in lower case.
    pub host: String,
    /// The port; `None`: what the configuration says.
    pub port: Option<u16>,
}

/// Longest name that is looked at: DNS allows 253.
const LONGEST: usize = 255;

impl Destination {
    /// Reads `text`.
    ///
    /// # Errors
    /// When it is no destination, or holds characters that a shell or a configuration file would read as more.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Failure::input(shown(text), "not a destination")
                .why(why)
                .hint("write ssh://user@host or ssh://user@host:port; an IPv6 address in brackets: ssh://user@[2001:db8::1]:22")
        };
        let (rest, url) = match text.strip_prefix("ssh://") {
            Some(rest) => (rest.strip_suffix('/').unwrap_or(rest), true),
            None => (text, false),
        };
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        if let Some(user) = user {
            check_user(user).map_err(bad)?;
        }
        let (host, port) = split(place, url).map_err(bad)?;
        check_host(host).map_err(bad)?;
        let port = port.map(|port| parse_port(port).ok_or_else(|| bad("the port must be 1 to 65535"))).transpose()?;
        Ok(Self { user: user.map(str::to_owned), host: host.to_ascii_lowercase(), port })
    }

    /// The address, where the host is one and not a name.
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match (self.host.contains(':'), self.port) {
            (true, Some(port)) => write!(f, "[{}]:{port}", self.host),
            (true, None) => write!(f, "[{}]", self.host),
            (false, Some(port)) => write!(f, "{}:{port}", self.host),
            (false, None) => f.write_str(&self.host),
        }
    }
}

/// What a user typed, made safe to show.
fn shown(text: &str) -> String {
    crate::proof::wire::plain(text)
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

/// Host and port. Without `ssh://`, several colons are an IPv6 address, as ssh reads it.
fn split(place: &str, url: bool) -> std::result::Result<(&str, Option<&str>), &'static str> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("a bracket is not closed")?;
        if !host.contains(':') {
            return Err("brackets are for IPv6 addresses");
        }
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err("something follows the bracket that is no port"),
        };
    }
    match place.matches(':').count() {
        0 => Ok((place, None)),
        1 => place.split_once(':').map(|(host, port)| (host, Some(port))).ok_or("no host"),
        _ if url => Err("an IPv6 address stands in brackets"),
        _ => Ok((place, None)),
    }
}

/// The rule for account names: what no shell, no ssh and no log reads as anything but a word.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_user(user: &str) -> std::result::Result<(), &'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '@');
    if user.is_empty() || user.len() > LONGEST {
        return Err("the user name is empty or too long");
    }
    if user.starts_with('-') {
        return Err("a user name that begins with - is read as an option");
    }
    if !user.chars().all(plain) {
        return Err("the user name holds a character other than letters, digits and . _ - + @");
    }
    Ok(())
}

/// The rule for host names and addresses.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_host(host: &str) -> std::result::Result<(), &'static str> {
    if host.is_empty() || host.len() > LONGEST {
        return Err("the host name is empty or too long");
    }
    if host.starts_with('-') {
        return Err("a host name that begins with - is read as an option");
    }
    if host.contains(':') {
        let (address, zone) = host.split_once('%').unwrap_or((host, "0"));
        let zone_fine =
            !zone.is_empty() && zone.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        let fine = address.parse::<std::net::Ipv6Addr>().is_ok() && zone_fine;
        return if fine { Ok(()) } else { Err("not an IPv6 address") };
    }
    if !host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')) {
        return Err("the host name holds a character other than letters, digits and . _ -");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_destination() {
        for (text, user, host, port) in [
            ("ssh://root@server.example", Some("root"), "server.example", None),
            ("ssh://root@server.example:2222", Some("root"), "server.example", Some(2222)),
            ("ssh://root@server.example:2222/", Some("root"), "server.example", Some(2222)),
            ("deploy@Server:22", Some("deploy"), "server", Some(22)),
            ("server", None, "server", None),
            ("203.0.113.1:22", None, "203.0.113.1", Some(22)),
            ("root@[2001:db8::1]:22", Some("root"), "2001:db8::1", Some(22)),
            ("ssh://root@[2001:DB8::1]", Some("root"), "2001:db8::1", None),
            ("root@2001:db8::1", Some("root"), "2001:db8::1", None),
            ("ssh://[fe80::1%eth0]:22", None, "fe80::1%eth0", Some(22)),
            ("ssh://a@corp.example@host", Some("a@corp.example"), "host", None),
        ] {
            let found = Destination::parse(text).unwrap();
            assert_eq!((found.user.as_deref(), found.host.as_str(), found.port), (user, host, port), "{text}");
            assert_eq!(Destination::parse(&format!("ssh://{found}")).unwrap(), found, "{text}: shown and read again");
        }
    }

    #[test]
    fn what_is_none() {
        for text in [
            "",
            "ssh://",
            "@host",
            "root@",
            "ssh://root@:22",
            "host:",
            "host:0",
            "host:65536",
            "host:22x",
            "host:+22",
            "host:-1",
            "-oProxyCommand=x",
            "root@-oProxyCommand=x",
            "-root@host",
            "a b@host",
            "a\n@host",
            "a\0@host",
            "a\u{1b}[1m@host",
            "$(id)@host",
            "a$b@host",
            "`id`@host",
            "a;b@host",
            "a'@host",
            "a\"@host",
            "a\\@host",
            "root@ho$st",
            "root@ho`st",
            "root@h;id",
            "root@h|id",
            "root@h&id",
            "root@h>x",
            "root@(h)",
            "root@{h}",
            "root@h*",
            "root@h%h",
            "root@h\u{202e}x",
            "root@h\u{e9}",
            "root@[h]",
            "root@[::1",
            "root@[::1]22",
            "root@[::1]:",
            "root@[fe80::1%e;x]",
            "root@1:2:3",
            "ssh://::1",
            "ssh://root@host/path",
            "ssh://root:secret@host",
            "ftp://root@host",
            "root@host:22:23",
        ] {
            assert!(Destination::parse(text).is_err(), "{text:?} is taken: {:?}", Destination::parse(text));
        }
        let long = "h".repeat(300);
        assert!(Destination::parse(&long).is_err());
        assert!(!Destination::parse("\u{1b}[31mx@y").unwrap_err().to_string().contains('\u{1b}'));
    }
}
