//! What the kernel's rules let in, of both families.

use crate::access::Doors;
use crate::error::Result;
use crate::facts::Init;
use crate::formats::ufw::setting;
use crate::host::{Actor, Listener};
use crate::judge::{CIS, Check, Depth, HIDDEN_RULES, STIG, Scene, Seen};
use crate::outcome::Proven;
use crate::outcome::audit::Severity;
use crate::types::{AbsPath, Proto};

/// What no rule names is kept out.
pub const DEFAULT_DENY: Check = Check {
    id: "firewall-default-deny",
    title: "the firewall keeps out what no rule lets in, now and after a reboot",
    severity: Severity::High,
    depth: Depth::Deep,
    references: &[(CIS, "4.2.3"), (CIS, "4.2.7"), (STIG, "UBTU-24-100310")],
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

/// Nothing is handed on behind the back of the rules for this host.
pub const HANDED_ON: Check = Check {
    id: "firewall-published-ports",
    title: "no port is handed on to a container, or elsewhere, past the firewall's rules",
    severity: Severity::Medium,
    depth: Depth::Deep,
    references: &[],
    judge: handed_on,
};

/// Ports that hardly any rule names.
const PROBES: [u16; 4] = [47_123, 9, 1, 60_999];
const FIX: &str = "keyward apply PLAYBOOK, with firewall: { incoming: deny }";

fn default_deny(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    if scene.has_hidden_rules() {
        return Ok(vec![Seen::not_applicable(HIDDEN_RULES)]);
    }
    let doors = scene.doors()?;
    let Some(port) = PROBES.into_iter().find(|port| !doors.names_port(*port)) else {
        return Ok(vec![Seen::unknown("every port that is tried is named by a rule")]);
    };
    let (after, why) = after_reboot(scene)?;
    let mut seen = Vec::new();
    for (family, is_v6) in [("IPv4", false), ("IPv6", true)] {
        let (open, doubt) = default(doors, port, is_v6);
        seen.push(
            match open {
                Proven::No => Seen::pass("the kernel drops what no rule names").after_reboot(after, why).fix(FIX),
                Proven::Yes => Seen::fail("the kernel lets in what no rule names").fix(FIX),
                Proven::Unknown => Seen::unknown(doubt),
            }
            .about(family),
        );
    }
    Ok(seen)
}

/// What docker publishes never meets the rules of ufw (moby/moby#4737): it is handed on before.
fn handed_on(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    if scene.has_hidden_rules() {
        return Ok(vec![Seen::not_applicable(HIDDEN_RULES)]);
    }
    let ports = match scene.doors()?.handed_on() {
        Ok(ports) if ports.is_empty() => return Ok(vec![Seen::pass("nothing is handed on for strangers")]),
        Ok(ports) => ports,
        Err(why) => return Ok(vec![Seen::unknown(why)]),
    };
    Ok(ports
        .into_iter()
        .map(|one| {
            let about = format!("port {}/{}", one.port, one.proto);
            if one.may_be_kept {
                return Seen::unknown(format!(
                    "is handed on to {}, and rules of DOCKER-USER may keep some out",
                    one.to
                ))
                .about(about);
            }
            Seen::fail(format!("is handed on to {} for anybody, whatever ufw says", one.to))
                .about(about)
                .fix("publish it on one address: docker run --publish 127.0.0.1:PORT:PORT ...")
        })
        .collect())
}

/// Whether a stranger gets through to a port that no rule names, by TCP or UDP: the worse counts.
fn default(doors: &Doors, port: u16, is_v6: bool) -> (Proven, String) {
    let (tcp, udp) = (doors.to_strangers("tcp", port, is_v6), doors.to_strangers("udp", port, is_v6));
    if tcp.0 == Proven::Yes || udp.0 == Proven::No { tcp } else { udp }
}

/// Whether ufw will load a firewall that keeps out at the next boot. With IPV6=no it drops all of IPv6.
fn after_reboot(scene: &Scene<'_>) -> Result<(Proven, &'static str)> {
    let read = |path: &'static str| scene.look.text(path);
    let (conf, defaults) = (read("/etc/ufw/ufw.conf")?, read("/etc/default/ufw")?);
    let is = |text: &str, key: &str, wanted: &[&str]| {
        setting(text, key).is_some_and(|value| wanted.iter().any(|word| value.eq_ignore_ascii_case(word)))
    };
    if !is(&conf, "ENABLED", &["yes"]) {
        return Ok((
            Proven::Unknown,
            "ufw is off in /etc/ufw/ufw.conf, and who else will load these rules is not known",
        ));
    }
    if !is(&defaults, "DEFAULT_INPUT_POLICY", &["DROP", "REJECT"]) {
        return Ok((Proven::No, "DEFAULT_INPUT_POLICY of /etc/default/ufw lets in what no rule names"));
    }
    let (started, why) = match scene.facts.init {
        Init::Systemd => ("/etc/systemd/system/multi-user.target.wants/ufw.service", "systemd does not start ufw"),
        Init::Other => ("/etc/rcS.d/S01ufw", "no init script starts ufw"),
    };
    if scene.probe.meta(&AbsPath::fixed(started), &Actor::Root)?.is_none() {
        return Ok((Proven::No, why));
    }
    // systemctl mask leaves the link that enables it.
    let unit = AbsPath::fixed("/etc/systemd/system/ufw.service");
    if scene.facts.init == Init::Systemd && scene.probe.link(&unit)?.as_deref() == Some("/dev/null") {
        return Ok((Proven::No, "ufw.service is masked"));
    }
    Ok((Proven::Yes, ""))
}

fn open_ports(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    if scene.has_hidden_rules() {
        return Ok(vec![Seen::not_applicable(HIDDEN_RULES)]);
    }
    let doors = scene.doors()?;
    let Some(unnamed) = PROBES.into_iter().find(|port| !doors.names_port(*port)) else {
        return Ok(vec![Seen::unknown("every port that is tried is named by a rule")]);
    };
    let ssh = doors.ports.iter().map(|port| port.number).collect::<Vec<_>>();
    let outward = |one: &&Listener| !(one.address.is_loopback() || one.proto == Proto::Tcp && ssh.contains(&one.port));
    let datagrams = scene.probe.datagram_sockets()?;
    let mut told: Vec<(Proto, u16, bool)> = Vec::new();
    let mut seen = Vec::new();
    for one in scene.listeners()?.iter().chain(&datagrams).filter(outward) {
        // A socket of all IPv6 addresses takes IPv4 too, unless it says otherwise, which the kernel does not show.
        let families = if one.address.is_ipv4() {
            vec![false]
        } else if one.address.is_unspecified() {
            vec![true, false]
        } else {
            vec![true]
        };
        for is_v6 in families {
            if told.contains(&(one.proto, one.port, is_v6)) {
                continue;
            }
            told.push((one.proto, one.port, is_v6));
            let owner = if one.programs.is_empty() { "somebody".to_owned() } else { one.programs.join(", ") };
            let about = format!("port {}/{}, {}", one.port, one.proto.as_str(), if is_v6 { "IPv6" } else { "IPv4" });
            let (open, doubt) = doors.to_strangers(one.proto.as_str(), one.port, is_v6);
            let by_rule = doors.to_strangers(one.proto.as_str(), unnamed, is_v6).0 == Proven::No;
            seen.push(match open {
                Proven::No => continue,
                Proven::Unknown => Seen::unknown(doubt).about(about),
                Proven::Yes if by_rule => Seen::pass(format!("{owner} is let in by a rule")).about(about),
                Proven::Yes => Seen::fail(format!("{owner} can be reached from everywhere, and no rule lets it in"))
                    .about(about)
                    .fix(FIX),
            });
        }
    }
    Ok(if seen.is_empty() { vec![Seen::pass("nothing but sshd can be reached from everywhere")] } else { seen })
}
