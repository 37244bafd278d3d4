//! What kind of host this is, gathered once per run: distribution, init, sshd's version and mode.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::host::{Actor, Command, Probe};
use crate::types::AbsPath;

/// The service manager that PID 1 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// systemd runs as PID 1 (sd_booted(3): /run/systemd/system exists).
    Systemd,
    /// Something else, or a container's entry point: daemons are signalled directly.
    Other,
}

/// How sshd gets its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SshdMode {
    /// It opens them itself; reload changes ports.
    Service,
    /// ssh.socket is active and hands them over; only the socket unit changes ports.
    Socket,
    /// It is not running.
    Stopped,
    /// The package is not installed.
    Missing,
}

/// OpenSSH's version, such as 9.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SshVersion {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
}

/// Facts of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `ID` of os-release(5), such as `debian`.
    pub distribution: String,
    /// `VERSION_ID` of os-release(5); empty on sid.
    pub release: String,
    /// Host name of uname(2) or /etc/hostname.
    pub hostname: String,
    /// Service manager.
    pub init: Init,
    /// True inside a container (the usual marks of docker, podman and systemd-nspawn).
    pub container: bool,
    /// OpenSSH server's version, when installed.
    pub sshd: Option<SshVersion>,
    /// How sshd gets its sockets.
    pub sshd_mode: SshdMode,
}

/// sshd's executable.
pub const SSHD: &str = "/usr/sbin/sshd";
/// Where sshd writes its pid.
pub const SSHD_PID: &str = "/run/sshd.pid";

impl Facts {
    /// Looks at the host once.
    ///
    /// # Errors
    /// When os-release or the listening sockets cannot be read.
    pub fn gather(probe: &dyn Probe) -> Result<Self> {
        let release_file = text(probe, "/etc/os-release")?.or(text(probe, "/usr/lib/os-release")?).unwrap_or_default();
        let field = |name: &str| {
            release_file
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .map(|value| value.trim_matches(['"', '\'']).to_owned())
                .unwrap_or_default()
        };
        let init = match probe.meta(&AbsPath::fixed("/run/systemd/system"), &Actor::Root)? {
            Some(_) => Init::Systemd,
            None => Init::Other,
        };
        let container = ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"]
            .iter()
            .any(|mark| matches!(probe.meta(&AbsPath::fixed(mark), &Actor::Root), Ok(Some(_))));
        let sshd = if probe.has_program(SSHD) { ssh_version(probe)? } else { None };
        let hostname = text(probe, "/proc/sys/kernel/hostname")?.or(text(probe, "/etc/hostname")?).unwrap_or_default();
        Ok(Self {
            distribution: field("ID"),
            release: field("VERSION_ID"),
            hostname: hostname.trim().to_owned(),
            init,
            container,
            sshd,
            sshd_mode: sshd_mode(probe, init)?,
        })
    }

    /// True when OpenSSH is at least this version; false when it is not installed.
    pub fn sshd_at_least(&self, major: u32, minor: u32) -> bool {
        self.sshd.is_some_and(|version| version >= SshVersion { major, minor })
    }
}

fn text(probe: &dyn Probe, path: &'static str) -> Result<Option<String>> {
    let bytes = probe.read(&AbsPath::fixed(path), &Actor::Root)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Asks sshd itself: `-V` since 9.2, an unknown option before (it prints its version with the usage).
fn ssh_version(probe: &dyn Probe) -> Result<Option<SshVersion>> {
    let output = probe.ask(&Command::new([SSHD, "-V"]))?;
    Ok(parse_ssh_version(&format!("{}\n{}", output.stdout, output.stderr)))
}

/// Finds `OpenSSH_9.2p1` in a text.
pub fn parse_ssh_version(text: &str) -> Option<SshVersion> {
    let rest = text.split("OpenSSH_").nth(1)?;
    let (major, tail) = rest.split_once('.')?;
    let minor: String = tail.chars().take_while(char::is_ascii_digit).collect();
    Some(SshVersion { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

fn sshd_mode(probe: &dyn Probe, init: Init) -> Result<SshdMode> {
    if !probe.has_program(SSHD) {
        return Ok(SshdMode::Missing);
    }
    if init == Init::Systemd {
        let state = probe.ask(&Command::new(["/usr/bin/systemctl", "is-active", "ssh.socket"]))?;
        if state.stdout.trim() == "active" {
            return Ok(SshdMode::Socket);
        }
    }
    let serves = probe.listeners()?.iter().any(|listener| listener.programs.iter().any(|name| name == "sshd"));
    Ok(if serves { SshdMode::Service } else { SshdMode::Stopped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let version = |text| parse_ssh_version(text).map(|v| (v.major, v.minor));
        assert_eq!(version("OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0"), Some((9, 2)));
        assert_eq!(version("unknown option -- V\nOpenSSH_8.4p1 Debian-5"), Some((8, 4)));
        assert_eq!(version("OpenSSH_10.6p1"), Some((10, 6)));
        assert_eq!(version("dropbear"), None);
    }
}
