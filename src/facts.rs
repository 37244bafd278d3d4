//! What kind of host this is, gathered once per run: distribution, init, sshd's version and mode.

mod between;
pub mod sudo_policy;

use std::io::BufRead as _;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::formats::sshd_config::{ConfigText, Directive};
use crate::formats::sshd_effective::Effective;
use crate::host::{Actor, Command, Listener, Output, Probe};
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

/// How somebody gets in over SSH.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doors {
    /// Ports of sshd that listen.
    pub ports: Vec<u16>,
    /// `PermitRootLogin`.
    pub root: String,
    /// True when passwords are taken.
    pub passwords: bool,
    /// What else decides who gets in, in sshd's own words (`sshd -T`), each a line of a configuration; see [`KEPT`].
    #[serde(default)]
    pub also: Vec<String>,
}

/// Keywords of [`Doors::also`]: where keys are, which count, who may come, and by which host keys the client knows it.
const KEPT: [&str; 16] = [
    "authorizedkeysfile",
    "authorizedkeyscommand",
    "authorizedkeyscommanduser",
    "authorizedprincipalsfile",
    "trustedusercakeys",
    "revokedkeys",
    "strictmodes",
    "pubkeyacceptedalgorithms",
    "pubkeyacceptedkeytypes",
    "allowusers",
    "denyusers",
    "allowgroups",
    "denygroups",
    "usepam",
    "hostkey",
    "addressfamily",
];

/// True when this listener is sshd's, or systemd's for it; also when the kernel does not show whose it is.
pub fn serves_ssh(listener: &Listener) -> bool {
    let serves = |name: &String| name.starts_with("sshd") || name == "systemd" || name == "init";
    listener.programs.is_empty() || listener.programs.iter().any(serves)
}

impl Doors {
    /// Looks; `None` when no sshd listens, or it does not tell.
    ///
    /// # Errors
    /// When the listening sockets cannot be read.
    pub fn look(facts: &Facts, probe: &dyn Probe) -> Result<Option<Self>> {
        if !probe.has_program(SSHD) {
            return Ok(None);
        }
        let all = probe.listeners()?;
        let listening =
            |port: &u16| all.iter().any(|one| one.port == *port && !one.programs.is_empty() && serves_ssh(one));
        let Some(output) = ask_sshd(probe, &["-T"]).ok().filter(Output::ok) else { return Ok(None) };
        let effective = Effective::parse(&output.stdout);
        // Wherever it is said: in its files, by its socket, or on its command line.
        let mut ports = effective.ports();
        ports.extend(ssh_ports(facts, probe, &all)?);
        ports.push(22);
        ports.retain(listening);
        ports.sort_unstable();
        ports.dedup();
        let yes = |keyword| effective.is(keyword, "yes");
        Ok((!ports.is_empty()).then(|| Self {
            ports,
            root: effective.get("permitrootlogin").unwrap_or("prohibit-password").to_owned(),
            passwords: yes("passwordauthentication") || yes("kbdinteractiveauthentication"),
            also: kept(&output.stdout),
        }))
    }
}

/// The lines that [`KEPT`] names. What is not set is left to the default.
fn kept(effective: &str) -> Vec<String> {
    let wanted = |line: &&str| {
        let (keyword, value) = line.split_once(' ').unwrap_or((line, ""));
        KEPT.contains(&keyword.to_ascii_lowercase().as_str()) && !value.is_empty() && value != "none"
    };
    effective.lines().filter(wanted).map(str::to_owned).collect()
}

/// sshd's executable.
pub const SSHD: &str = "/usr/sbin/sshd";
/// Where a controller keeps keyward's programs on a host, by their hash.
pub const AGENTS: &str = "/var/lib/keyward-agent";
/// How a controller has sudo ask: nothing else on standard error, or among the arguments of a process, looks like it.
pub const SUDO_PROMPT: &str = "keyward-password:";

/// sshd's own configuration file.
pub const SSHD_CONFIG: &str = "/etc/ssh/sshd_config";
/// keyward's part of it where it has to stand before all others: included by its first line.
pub const SSHD_TOP: &str = "/etc/ssh/keyward.conf";

/// Where sshd writes its pid.
pub const SSHD_PID: &str = "/run/sshd.pid";

impl Init {
    /// What runs as PID 1.
    ///
    /// # Errors
    /// When that cannot be looked at.
    pub fn of(probe: &dyn Probe) -> Result<Self> {
        let booted = probe.meta(&AbsPath::fixed("/run/systemd/system"), &Actor::Root)?;
        Ok(if booted.is_some() { Self::Systemd } else { Self::Other })
    }
}

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
        let init = Init::of(probe)?;
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

    /// What [`Facts::gather`] will ask, see [`Probe::look_ahead`].
    pub fn questions(probe: &dyn Probe) -> Vec<Command> {
        if !probe.has_program(SSHD) {
            return Vec::new();
        }
        let systemd = matches!(Init::of(probe), Ok(Init::Systemd));
        let socket = systemd && probe.listeners().is_ok_and(|all| all.iter().any(may_be_of_systemd));
        socket.then(socket_question).into_iter().collect()
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

fn socket_question() -> Command {
    Command::new(["/usr/bin/systemctl", "is-active", "ssh.socket"])
}

/// Asks for sshd's settings for an account (sshd(8), `-T` with `-C`). Without conditions in its files they are the same
/// for all, and one answer does for everybody who asks.
pub fn sshd_for(user: &str, probe: &dyn Probe) -> Command {
    if has_conditions(probe).unwrap_or(true) {
        return Command::new([SSHD, "-T", "-C", &format!("user={user},host=client,addr=192.0.2.1")]);
    }
    Command::new([SSHD, "-T"])
}

/// True when sshd's usual files hold a Match block, or include files from elsewhere that may.
fn has_conditions(probe: &dyn Probe) -> Result<bool> {
    let drop_ins = AbsPath::fixed("/etc/ssh/sshd_config.d");
    let mut files = vec![AbsPath::fixed("/etc/ssh/sshd_config")];
    for name in probe.list(&drop_ins, &Actor::Root)?.unwrap_or_default() {
        files.extend(drop_ins.join(&name).ok());
    }
    let conditional = |directive: &Directive| match directive.keyword.as_str() {
        "match" => true,
        "include" => directive.args != ["/etc/ssh/sshd_config.d/*.conf"],
        _ => false,
    };
    for path in files {
        let config = ConfigText::parse(&probe.read(&path, &Actor::Root)?.unwrap_or_default());
        if config.directives().any(|(_, directive)| conditional(directive)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The version that sshd carries in its bytes, where it prints it from; else sshd is asked: `-V` since 9.2, an unknown
/// option before (it prints its version with the usage).
fn ssh_version(probe: &dyn Probe) -> Result<Option<SshVersion>> {
    if let Some(version) = probe.program(&AbsPath::fixed(SSHD)).and_then(|bytes| version_in_program(&bytes)) {
        return Ok(Some(version));
    }
    let output = probe.ask(&Command::new([SSHD, "-V"]))?;
    Ok(parse_ssh_version(&format!("{}\n{}", output.stdout, output.stderr)))
}

/// Finds `OpenSSH_9.2p1` in a program. `None` for anything but a program in machine code (a script starts another one),
/// and when it names two versions or none. The patterns for clients with known defects (`OpenSSH_7.0*`) are no version.
fn version_in_program(bytes: &[u8]) -> Option<SshVersion> {
    if !bytes.starts_with(b"\x7fELF") {
        return None;
    }
    let mut found: Option<SshVersion> = None;
    let mut rest = bytes;
    // By its first letter, which the standard library finds many bytes at a time.
    while !rest.is_empty() {
        rest.skip_until(b'O').ok()?;
        let Some(version) = rest.strip_prefix(b"penSSH_").and_then(version_at) else { continue };
        if found.is_some_and(|before| before != version) {
            return None;
        }
        found = Some(version);
    }
    found
}

/// `9.2p1` at the beginning, up to the end of the text or a blank.
fn version_at(bytes: &[u8]) -> Option<SshVersion> {
    let end = bytes.iter().take(16).position(|byte| matches!(byte, 0 | b' '))?;
    let text = std::str::from_utf8(bytes.get(..end)?).ok()?;
    let (major, rest) = text.split_once('.')?;
    let (minor, patch) = rest.split_once('p')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number(patch)?;
    Some(SshVersion { major: number(major)?, minor: number(minor)? })
}

/// Finds `OpenSSH_9.2p1` in a text.
pub fn parse_ssh_version(text: &str) -> Option<SshVersion> {
    let rest = text.split("OpenSSH_").nth(1)?;
    let (major, tail) = rest.split_once('.')?;
    let minor: String = tail.chars().take_while(char::is_ascii_digit).collect();
    Some(SshVersion { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// Held by process 1, or by nobody knows whom: only then a socket unit may be behind it.
fn may_be_of_systemd(listener: &Listener) -> bool {
    listener.programs.is_empty() || listener.programs.iter().any(|name| name == "systemd" || name == "init")
}

fn sshd_mode(probe: &dyn Probe, init: Init) -> Result<SshdMode> {
    if !probe.has_program(SSHD) {
        return Ok(SshdMode::Missing);
    }
    let listeners = probe.listeners()?;
    if init == Init::Systemd && listeners.iter().any(may_be_of_systemd) {
        let state = probe.ask(&socket_question())?;
        if state.stdout.trim() == "active" {
            return Ok(SshdMode::Socket);
        }
    }
    let serves = between::listens(probe, &listeners)?;
    Ok(if serves { SshdMode::Service } else { SshdMode::Stopped })
}

/// Socket activation makes /run/sshd only while a connection is served, and without it sshd says nothing: it is lent
/// one in a private mount namespace, and the host stays as it is.
const LENT: &str = "mount -t tmpfs -o mode=755 tmpfs /run && mkdir -m 0755 /run/sshd && exec /usr/sbin/sshd \"$@\"";

/// Asks sshd with these arguments, on a host where it is started by a socket too.
///
/// # Errors
/// When a program does not start.
pub fn ask_sshd(probe: &dyn Probe, args: &[&str]) -> Result<Output> {
    answer_of_sshd(probe, &Command::new([SSHD].into_iter().chain(args.iter().copied())))
}

/// The answer of sshd to a question, such as that of [`sshd_for`].
///
/// # Errors
/// As [`ask_sshd`].
pub fn answer_of_sshd(probe: &dyn Probe, question: &Command) -> Result<Output> {
    let output = probe.ask(question)?;
    if !output.stderr.contains("Missing privilege separation directory") {
        return Ok(output);
    }
    let lent = ["/usr/bin/unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", LENT, "sshd"];
    let mut output =
        probe.ask(&Command::new(lent.into_iter().chain(question.argv.iter().skip(1).map(String::as_str))))?;
    if !output.ok() && output.stderr.starts_with("unshare: ") {
        // In a container, without the right to mount.
        let why = "there is no /run/sshd, which its init script makes, and no right to lend it one";
        why.clone_into(&mut output.stderr);
    }
    Ok(output)
}

/// The ports on which systemd listens for sshd, sorted.
///
/// # Errors
/// When systemctl does not start.
pub fn socket_ports(probe: &dyn Probe) -> Result<Vec<u16>> {
    let command = Command::new(["/usr/bin/systemctl", "show", "--property=Listen", "--value", "ssh.socket"]);
    // `[::]:22 (Stream)` or `0.0.0.0:22 (Stream)`, one a line.
    let port = |line: &str| line.split(" (").next()?.trim().rsplit_once(':')?.1.parse().ok();
    let mut ports: Vec<u16> = probe.ask(&command)?.stdout.lines().filter_map(port).collect();
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

/// The ports through which sshd lets in, sorted: where it listens, or would when nothing does. Never those that one of its
/// sessions forwards, nor another daemon's that happens to be systemd's socket.
///
/// # Errors
/// When a program does not start.
pub fn ssh_ports(facts: &Facts, probe: &dyn Probe, listeners: &[Listener]) -> Result<Vec<u16>> {
    let of_sshd =
        |listener: &&Listener| !listener.address.is_loopback() && listener.programs.iter().any(|name| name == "sshd");
    let mut ports: Vec<u16> = listeners.iter().filter(of_sshd).map(|listener| listener.port).collect();
    if facts.sshd_mode == SshdMode::Socket {
        ports.extend(socket_ports(probe)?);
    }
    ports.sort_unstable();
    ports.dedup();
    if ports.len() == 1 || !probe.has_program(SSHD) {
        return Ok(ports);
    }
    let configured = configured_ports(probe)?;
    // Sessions of sshd before 9.8 hold forwarded ports under the same name: those are no doors of sshd.
    if ports.iter().any(|port| configured.contains(port)) && facts.sshd_mode != SshdMode::Socket {
        ports.retain(|port| configured.contains(port));
    }
    Ok(if ports.is_empty() { configured } else { ports })
}

/// The ports of sshd's configuration; 22 when it cannot be read.
fn configured_ports(probe: &dyn Probe) -> Result<Vec<u16>> {
    let output = probe.ask(&Command::new([SSHD, "-T"]))?;
    let ports = Effective::parse(&output.stdout).ports();
    Ok(if ports.is_empty() { vec![22] } else { ports })
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

    #[test]
    fn versions_in_programs() {
        let version = |texts: &[&str]| {
            let bytes = format!("\x7fELF\u{1}\0{}\0", texts.join("\0"));
            version_in_program(bytes.as_bytes()).map(|v| (v.major, v.minor))
        };
        // The texts of Debian's 9.2, in their order.
        let patterns = "OpenSSH_2.*,OpenSSH_3.0*,OpenSSH_3.1*\0OpenSSH_5*\0OpenSSH_6.6.1*\0OpenSSH_6.5*,OpenSSH_6.6*";
        let debian = ["OpenSSH_9.2", "OpenSSH_9.2p1 Debian-2+deb12u10", "%s, %s", patterns, "OpenSSH_9.2p1"];
        assert_eq!(version(&debian), Some((9, 2)));
        assert_eq!(version(&["OpenSSH_10.0p2 Debian-7"]), Some((10, 0)));
        assert_eq!(version(&[patterns]), None);
        assert_eq!(version(&["OpenSSH_9.2p1", "OpenSSH_9.3p1"]), None, "two versions");
        for odd in [
            "OpenSSH_9.2",
            "OpenSSH_9.2p",
            "OpenSSH_9.p1",
            "OpenSSH_+9.2p1",
            "OpenSSH_9.2p1*",
            "OpenSSH_99999999999.2p1",
        ] {
            assert_eq!(version(&[odd]), None, "{odd}");
        }
        assert_eq!(version_in_program(b"#!/bin/sh\nexec /opt/sshd # OpenSSH_9.2p1 \n"), None, "a script");
        assert_eq!(version_in_program(b"\x7fELF OpenSSH_9.2p1"), None, "cut off");
    }
}
