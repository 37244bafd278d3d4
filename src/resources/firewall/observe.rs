//! Looks at ufw's files, the kernel's rules, the listening sockets and other firewalls.

use crate::error::{Failure, Result};
use crate::facts::{Facts, Init, ssh_ports};
use crate::formats::netfilter::{Ruleset, Table, foreign_chains};
use crate::formats::ufw::{Family, Profile, UserRules, profiles};
use crate::host::{Actor, Command, FileKind, Listener, Owner, Probe};
use crate::types::AbsPath;

use super::{Desired, compose};

const PLACE: &str = "firewall";
const UFW: &str = "/usr/sbin/ufw";
const APPS: &str = "/etc/ufw/applications.d";

/// What was found; `None` when ufw is not installed.
pub struct Observed(pub Option<Found>);

/// ufw as it is.
pub struct Found {
    /// /etc/default/ufw
    pub defaults: File,
    /// /etc/ufw/ufw.conf
    pub conf: File,
    /// IPv4, and IPv6 when the kernel has it.
    pub families: Vec<Rules>,
    /// Application profiles, when the playbook names one.
    pub profiles: Vec<Profile>,
    /// TCP sockets in state LISTEN.
    pub listeners: Vec<Listener>,
    /// Ports that sshd has now; those of its configuration when it does not run.
    pub ssh_ports: Vec<u16>,
    /// Whether ufw comes up at boot.
    pub boot: Boot,
    /// Other firewalls and things that ufw runs besides its rules, for the reader.
    pub warnings: Vec<String>,
}

/// One family.
pub struct Rules {
    /// Which.
    pub family: Family,
    /// user.rules as it stands.
    pub file: File,
    /// The same, read.
    pub user: UserRules,
    /// before.rules
    pub before: String,
    /// after.rules
    pub after: String,
    /// What the kernel holds.
    pub kernel: Ruleset,
}

impl Rules {
    /// The kernel's filter table; empty when it has none.
    pub fn filter(&self) -> Table {
        self.kernel.filter().cloned().unwrap_or_default()
    }
}

/// A text with what a rewrite must keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Content; empty when absent.
    pub text: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub owner: Owner,
}

/// ufw.service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// Enabled, or there is no systemd to tell.
    Fine,
    /// Not enabled.
    Off,
    /// Linked to /dev/null.
    Masked,
}

/// Looks at the host.
pub fn observe(desired: &Desired, facts: &Facts, probe: &dyn Probe) -> Result<Observed> {
    if !probe.has_program(UFW) {
        return Ok(Observed(None));
    }
    let named = desired.openings().iter().any(|opening| opening.app().is_some());
    let mut warnings = Vec::new();
    let mut families = vec![rules(Family::V4, probe, &mut warnings)?];
    if probe.read(&AbsPath::fixed("/proc/net/if_inet6"), &Actor::Root)?.is_some() {
        families.push(rules(Family::V6, probe, &mut warnings)?);
    } else {
        warnings.push("the kernel has no IPv6, so only IPv4 is filtered".to_owned());
    }
    let mut listeners = probe.listeners()?;
    let ssh_ports = ssh_ports(facts, probe, &listeners)?;
    listeners.extend(probe.datagram_sockets()?);
    others(facts, probe, &mut warnings)?;
    Ok(Observed(Some(Found {
        defaults: needed(probe, super::DEFAULTS)?,
        conf: needed(probe, super::CONF)?,
        families,
        profiles: if named { known_profiles(probe)? } else { Vec::new() },
        listeners,
        ssh_ports,
        boot: boot(facts, probe)?,
        warnings,
    })))
}

fn file(probe: &dyn Probe, path: &'static str) -> Result<Option<File>> {
    let place = AbsPath::fixed(path);
    let Some(bytes) = probe.read(&place, &Actor::Root)? else { return Ok(None) };
    let Some(meta) = probe.meta(&place, &Actor::Root)? else { return Ok(None) };
    if meta.kind != FileKind::File {
        return Err(Failure::refused(path, "is not a plain file").hint(format!("put a plain file at {path}")));
    }
    let text = String::from_utf8(bytes).map_err(|_| Failure::refused(path, "is not UTF-8 text"))?;
    Ok(Some(File { text, mode: meta.mode, owner: Owner::Ids { uid: meta.uid, gid: meta.gid } }))
}

/// A file without which ufw itself refuses to work.
fn needed(probe: &dyn Probe, path: &'static str) -> Result<File> {
    file(probe, path)?.filter(|file| !file.text.trim().is_empty()).ok_or_else(|| {
        Failure::refused(path, "is missing or empty, so ufw cannot start").hint(
            "put it back: apt-get install --reinstall -o Dpkg::Options::=--force-confmiss ufw, or copy it from /usr/share/ufw",
        )
    })
}

fn rules(family: Family, probe: &dyn Probe, warnings: &mut Vec<String>) -> Result<Rules> {
    let (user, before, after) = match family {
        Family::V4 => (super::USER, "/etc/ufw/before.rules", "/etc/ufw/after.rules"),
        Family::V6 => (super::USER6, "/etc/ufw/before6.rules", "/etc/ufw/after6.rules"),
    };
    let file = file(probe, user)?.unwrap_or_else(|| File {
        text: String::new(),
        mode: 0o640,
        owner: Owner::Ids { uid: 0, gid: 0 },
    });
    let parsed = UserRules::parse(&file.text).map_err(|(line, why)| {
        Failure::refused(format!("{user}:{line}"), "is damaged or edited by hand")
            .why(why)
            .hint(format!("mend line {line} of {user}, or move it aside and allow its rules again"))
    })?;
    Ok(Rules {
        family,
        file,
        user: parsed,
        before: needed(probe, before)?.text,
        after: needed(probe, after)?.text,
        kernel: kernel(family, probe, warnings)?,
    })
}

fn kernel(family: Family, probe: &dyn Probe, warnings: &mut Vec<String>) -> Result<Ruleset> {
    let command = compose::save(family);
    if !probe.has_program(command.program()) {
        return Err(Failure::unknown(PLACE, format!("{} is not there", command.program()))
            .hint("install it: apt-get install iptables"));
    }
    let output = probe.ask(&command)?;
    if !output.ok() {
        return Err(Failure::unknown(PLACE, format!("the kernel does not show its {} rules", family.name()))
            .why(output.last_line())
            .hint("run as root; a container needs the capability NET_ADMIN"));
    }
    if output.stderr.contains("legacy tables present") {
        warnings.push(format!(
            "{} rules of iptables-legacy exist beside those of nf_tables and are not judged here",
            family.name()
        ));
    }
    Ruleset::parse(&output.stdout)
        .map_err(|line| Failure::unknown(PLACE, format!("a line of {} makes no sense", command.program())).why(line))
}

fn known_profiles(probe: &dyn Probe) -> Result<Vec<Profile>> {
    let dir = AbsPath::fixed(APPS);
    let mut found = Vec::new();
    for name in probe.list(&dir, &Actor::Root)?.unwrap_or_default() {
        let left_out = [".dpkg-new", ".dpkg-old", ".dpkg-dist", ".rpmnew", ".rpmsave", "~"];
        let Ok(path) = dir.join(&name) else { continue };
        if name.starts_with('.') || left_out.iter().any(|end| name.ends_with(end)) {
            continue;
        }
        if let Ok(Some(bytes)) = probe.read(&path, &Actor::Root) {
            found.extend(profiles(&String::from_utf8_lossy(&bytes)));
        }
    }
    Ok(found)
}

fn boot(facts: &Facts, probe: &dyn Probe) -> Result<Boot> {
    if facts.init != Init::Systemd {
        return Ok(Boot::Fine);
    }
    if probe.link(&AbsPath::fixed("/etc/systemd/system/ufw.service"))?.as_deref() == Some("/dev/null") {
        return Ok(Boot::Masked);
    }
    for target in [
        "/etc/systemd/system/multi-user.target.wants/ufw.service",
        "/etc/systemd/system/sysinit.target.wants/ufw.service",
    ] {
        if probe.link(&AbsPath::fixed(target))?.is_some() {
            return Ok(Boot::Fine);
        }
    }
    Ok(Boot::Off)
}

/// Other firewalls, and what ufw does besides its rules.
fn others(facts: &Facts, probe: &dyn Probe, warnings: &mut Vec<String>) -> Result<()> {
    if probe.meta(&AbsPath::fixed("/run/firewalld.pid"), &Actor::Root)?.is_some()
        || probe.meta(&AbsPath::fixed("/run/firewalld"), &Actor::Root)?.is_some()
    {
        warnings.push("firewalld runs beside ufw: each may close what the other opens".to_owned());
    }
    if probe.has_program("/usr/sbin/nft") {
        let output = probe.ask(&Command::new(["/usr/sbin/nft", "list", "chains"]))?;
        for (table, policy) in foreign_chains(&output.stdout) {
            warnings.push(format!(
                "nftables has its own input chain in table {table} (policy {policy}), which ufw does not see"
            ));
        }
    }
    if facts.init == Init::Systemd
        && probe.link(&AbsPath::fixed("/etc/systemd/system/sysinit.target.wants/nftables.service"))?.is_some()
    {
        warnings.push("nftables.service is enabled and replaces all rules at boot".to_owned());
    }
    for name in ["before.init", "after.init"] {
        let path = AbsPath::fixed("/etc/ufw").join(name).unwrap_or_else(|_| AbsPath::fixed("/"));
        if probe.meta(&path, &Actor::Root)?.is_some_and(|meta| meta.mode & 0o111 != 0) {
            warnings.push(format!("{path} is executable: ufw runs it at boot, keyward does not run it"));
        }
    }
    Ok(())
}
