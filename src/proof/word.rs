//! The host's own word: what sshd and sudo say of themselves, and what listens. Asks, and changes nothing.

use std::net::IpAddr;

use super::route::Place;
use crate::error::{Failure, Result};
use crate::facts::ask_sshd;
use crate::host::{Actor, Command, Listener, Probe};
use crate::outcome::{Evidence, Proven, Reach};
use crate::types::{AbsPath, UserName, Word as _};

/// What sshd would do for one account, as far as a proof has to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effective(Vec<(String, String)>);

impl Effective {
    /// Asks sshd for its effective configuration for `user`, coming from the outside namespace (sshd(8), -T and -C).
    ///
    /// # Errors
    /// When sshd refuses its configuration.
    pub fn ask(user: &str, probe: &dyn Probe) -> Result<Self> {
        let from = format!("user={user},host=203.0.113.2,addr=203.0.113.2,laddr=203.0.113.1,lport=22");
        let args = ["-T", "-C", &from];
        let output = ask_sshd(probe, &args)?;
        if !output.ok() {
            return Err(Failure::unknown("proof", "sshd does not tell its configuration")
                .why(output.last_line())
                .hint("run: sshd -t"));
        }
        Ok(Self::parse(&output.stdout))
    }

    /// Reads the output of `sshd -T`; OpenSSH 10.6 spells the keywords in mixed case, earlier ones in lower case.
    pub fn parse(text: &str) -> Self {
        let pair = |line: &str| {
            let (keyword, value) = line.split_once(' ')?;
            Some((keyword.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Self(text.lines().filter_map(pair).collect())
    }

    /// All values of a keyword given in lower case.
    pub fn all<'a>(&'a self, keyword: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == keyword).map(|(_, value)| value.as_str())
    }

    /// The first value of a keyword, or empty.
    pub fn first(&self, keyword: &str) -> &str {
        self.0.iter().find(|(name, _)| name == keyword).map_or("", |(_, value)| value)
    }
}

/// The public host keys that sshd may show: those of its configuration, `.pub` beside each.
///
/// # Errors
/// When none can be read: without one a login could be with anybody.
pub fn host_keys(effective: &Effective, probe: &dyn Probe) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for private in effective.all("hostkey") {
        let Ok(public) = AbsPath::parse(&format!("{private}.pub")) else { continue };
        let bytes = probe.read(&public, &Actor::Root)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        keys.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    if keys.is_empty() {
        return Err(Failure::unknown("proof", "no public host key can be read, so no login can be trusted")
            .hint("make them with: ssh-keygen -A"));
    }
    Ok(keys)
}

/// True when `listener` takes connections to `place`.
pub(super) fn listens(listener: &Listener, place: &Place) -> bool {
    // `::` takes IPv4 too, unless bindv6only is set; then a second listener shows the truth for IPv4.
    let any = listener.address.is_unspecified() && (listener.address.is_ipv6() || place.address.is_ipv4());
    listener.port == place.port.get() && (any || listener.address == place.address)
}

/// True when sshd's configuration lets it listen at `address`: `ListenAddress` and `AddressFamily` as `sshd -T` sums
/// them up, such as `[::]:22`.
pub(super) fn is_served(address: IpAddr, effective: &Effective) -> bool {
    let mut listens = effective.all("listenaddress").peekable();
    let same = |text: &str| {
        let host = text.rsplit_once(':').map_or(text, |(host, _)| host).trim_matches(['[', ']']);
        let host = host.split_once('%').map_or(host, |(host, _)| host).parse::<IpAddr>();
        host.is_ok_and(|host| host == address || (host.is_unspecified() && host.is_ipv4() == address.is_ipv4()))
    };
    listens.peek().is_none() || listens.any(same)
}

/// True when this host has any IPv6 address (proc(5): /proc/net/if_inet6 lists them).
pub(super) fn has_ipv6(probe: &dyn Probe) -> Result<bool> {
    let table = probe.read(&AbsPath::fixed("/proc/net/if_inet6"), &Actor::Root)?;
    Ok(table.is_some_and(|table| !table.is_empty()))
}

/// What sshd itself says about root (L0).
pub(super) fn root_by_configuration(entirely: bool, probe: &dyn Probe) -> Evidence {
    let what = if entirely { "sshd refuses root" } else { "sshd refuses root's password" };
    let (proven, seen) = match Effective::ask("root", probe) {
        Err(failure) => (Proven::Unknown, failure.line()),
        Ok(effective) => {
            let value = effective.first("permitrootlogin").to_owned();
            let shut: &[&str] = &["no", "without-password", "prohibit-password", "forced-commands-only"];
            let passwords = ["passwordauthentication", "kbdinteractiveauthentication"];
            let none = passwords.iter().all(|keyword| effective.first(keyword) == "no");
            let fine = if entirely { value == "no" } else { shut.contains(&value.as_str()) || none };
            (if fine { Proven::Yes } else { Proven::No }, format!("sshd -T for root: PermitRootLogin {value}"))
        }
    };
    Evidence { what: what.to_owned(), proven, reach: Reach::L0, seen, millis: 0 }
}

/// Whether an administrator whose sudo asks a password may become root, by sudo's own word (L0).
pub(super) fn sudo_by_policy(user: &UserName, probe: &dyn Probe) -> Evidence {
    let asked = probe.ask(&Command::new(["/usr/bin/sudo", "-n", "-l", "-U", user.as_str()]));
    let (proven, seen) = match asked {
        Err(failure) => (Proven::Unknown, failure.line()),
        Ok(output) if output.ok() && output.stdout.contains("may run the following") => {
            (Proven::Yes, "policy only: sudo asks a password, which was not tried".to_owned())
        }
        Ok(output) => (Proven::No, output.last_line()),
    };
    let what = format!("sudo's policy for {}", user.as_str());
    Evidence { what, proven, reach: Reach::L0, seen, millis: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_sshd_serves_are_tried() {
        let served = |text: &str, address: &str| is_served(address.parse().unwrap(), &Effective::parse(text));
        let both = "ListenAddress [::]:22\nListenAddress 0.0.0.0:22\n";
        assert!(served(both, "127.0.0.1") && served(both, "::1"));
        let inet = "listenaddress 0.0.0.0:22\n";
        assert!(served(inet, "127.0.0.1") && !served(inet, "::1"), "AddressFamily inet");
        let one = "listenaddress 203.0.113.1:22\nlistenaddress [2001:db8::1]:2222\n";
        assert!(served(one, "203.0.113.1") && served(one, "2001:db8::1") && !served(one, "127.0.0.1"));
        assert!(served("port 22\n", "::1"), "socket activation may leave it out");
    }
}
