//! What the kernel's rules let in, of both families.

use crate::error::Result;
use crate::host::{Actor, Listener};
use crate::judge::{CIS, Check, Depth, Scene, Seen};
use crate::outcome::Proven;
use crate::outcome::audit::Severity;
use crate::types::AbsPath;

/// What no rule names is kept out.
pub const DEFAULT_DENY: Check = Check {
    id: "firewall-default-deny",
    title: "the firewall keeps out what no rule lets in, now and after a reboot",
    severity: Severity::High,
    depth: Depth::Deep,
    references: &[(CIS, "4.2.3"), (CIS, "4.2.7")],
    judge: default_deny,
};

/// What listens and can be reached is named by a rule.
pub const OPEN_PORTS: Check = Check {
    id: "firewall-open-ports",
    title: "what listens and can be reached from everywhere was let in by a rule",
    severity: Severity::Medium,
    depth: Depth::Deep,
    references: &[(CIS, "4.2.6")],
    judge: open_ports,
};

/// Ports that hardly any rule names.
const PROBES: [u16; 4] = [47_123, 9, 1, 60_999];
const FIX: &str = "keyward apply PLAYBOOK, with firewall: { incoming: deny }";

fn default_deny(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    let doors = scene.doors()?;
    let Some(port) = PROBES.into_iter().find(|port| !doors.names_port(*port)) else {
        return Ok(vec![Seen::unknown("every port that is tried is named by a rule")]);
    };
    let (after, why) = after_reboot(scene)?;
    let mut seen = Vec::new();
    for (family, is_v6) in [("IPv4", false), ("IPv6", true)] {
        let (open, doubt) = doors.to_strangers("tcp", port, is_v6);
        seen.push(
            match open {
                Proven::No => Seen::pass("the kernel drops what no rule names").after_reboot(after, why),
                Proven::Yes => Seen::fail("the kernel lets in what no rule names").fix(FIX),
                Proven::Unknown => Seen::unknown(doubt),
            }
            .about(family),
        );
    }
    Ok(seen)
}

/// Whether ufw will load its rules at the next boot.
fn after_reboot(scene: &Scene<'_>) -> Result<(Proven, &'static str)> {
    let bytes = scene.probe.read(&AbsPath::fixed("/etc/ufw/ufw.conf"), &Actor::Root)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let enabled =
        text.lines().rev().find_map(|line| line.trim().strip_prefix("ENABLED=")).map(|value| value.trim_matches('"'));
    if enabled.is_some_and(|value| value.eq_ignore_ascii_case("yes")) {
        return Ok((Proven::Yes, ""));
    }
    Ok((
        Proven::Unknown,
        "the rules are there now; ufw is off in /etc/ufw/ufw.conf, and keyward does not know who will load them",
    ))
}

fn open_ports(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    let doors = scene.doors()?;
    let ssh = doors.ports.iter().map(|port| port.number).collect::<Vec<_>>();
    let outward = |one: &&Listener| !one.address.is_loopback() && !ssh.contains(&one.port);
    let mut told: Vec<(u16, bool)> = Vec::new();
    let mut seen = Vec::new();
    for one in scene.listeners()?.iter().filter(outward) {
        let is_v6 = one.address.is_ipv6();
        if told.contains(&(one.port, is_v6)) {
            continue;
        }
        told.push((one.port, is_v6));
        let owner = if one.programs.is_empty() { "somebody".to_owned() } else { one.programs.join(", ") };
        let about = format!("port {}, {}", one.port, if is_v6 { "IPv6" } else { "IPv4" });
        let (open, doubt) = doors.to_strangers("tcp", one.port, is_v6);
        seen.push(match open {
            Proven::No => continue,
            Proven::Unknown => Seen::unknown(doubt).about(about),
            Proven::Yes if doors.names_port(one.port) => {
                Seen::pass(format!("{owner} is let in by a rule")).about(about)
            }
            Proven::Yes => Seen::fail(format!("{owner} can be reached from everywhere, and no rule names it"))
                .about(about)
                .fix(FIX),
        });
    }
    Ok(if seen.is_empty() { vec![Seen::pass("nothing but sshd can be reached from everywhere")] } else { seen })
}
