//! When nothing of sshd's listens any more after an undo: an sshd of last resort on the old ports, with the rules that
//! held before the run, until somebody has mended the real one and says so.

use std::time::{Duration, Instant};

use crate::error::{Failure, Result};
use crate::facts::{self, Doors, Facts, Init, SSHD};
use crate::host::{Actor, Command, Host, Listener, Node, Owner, Probe};
use crate::journal::Record;
use crate::types::AbsPath;

use super::step;

/// Its configuration; there while it runs, gone with a reboot.
const CONFIG: &str = "/run/keyward/last-resort.conf";
const PID_FILE: &str = "/run/keyward/last-resort.pid";
const UNIT: &str = "keyward-last-resort.service";
const SYSTEMCTL: &str = "/usr/bin/systemctl";
/// How long the real one may take to come back.
const WAIT: Duration = Duration::from_secs(5);

/// After an undo: `None` when a door that was open before the run is open again, or none was. Otherwise the sshd of last
/// resort is started, and the failure tells of it. Where the undo was not `just` now, somebody may have mended sshd onto
/// another port, which is as good.
pub fn keep_a_door(records: &[Record], just: bool, host: &dyn Host) -> Option<Failure> {
    let doors = records.iter().find_map(|record| match record {
        Record::Doors { doors } => Some(doors),
        _ => None,
    })?;
    if doors.ports.is_empty() {
        return None;
    }
    let mended = if just { Vec::new() } else { configured(host) };
    match listens(&[doors.ports.as_slice(), &mended].concat(), host) {
        Ok(true) => return None,
        Ok(false) => {}
        // No reason to start a second one, and none to call the door open.
        Err(failure) => return Some(failure),
    }
    let ports = doors.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let gone = Failure::failed(format!("port {ports}"), "sshd did not come back there");
    Some(match open(doors, host).and_then(|()| listens(&doors.ports, host)) {
        Ok(true) => gone
            .why("an sshd of last resort listens meanwhile")
            .hint("mend sshd (sshd -t; journalctl -u ssh), then: keyward acknowledge"),
        Ok(false) => gone
            .why("and the sshd of last resort does not listen either")
            .hint("start it by hand: /usr/sbin/sshd; see why: journalctl -u keyward-last-resort"),
        Err(failure) => gone.why(failure.line()).hint("start it by hand: /usr/sbin/sshd"),
    })
}

fn listens(ports: &[u16], host: &dyn Host) -> Result<bool> {
    let end = Instant::now() + WAIT;
    loop {
        let ours = |listener: &&Listener| ports.contains(&listener.port) && facts::serves_ssh(listener);
        let listeners = host.listeners()?;
        let found: Vec<&Listener> = listeners.iter().filter(ours).collect();
        // A socket of systemd's takes connections also while sshd cannot start.
        let sshd = |one: &&Listener| one.programs.iter().any(|name| name.starts_with("sshd"));
        if found.iter().any(sshd) || !found.is_empty() && facts::ask_sshd(host, &["-t"])?.ok() {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The ports of sshd's files as they are now; none where it does not take them.
fn configured(host: &dyn Host) -> Vec<u16> {
    let asked = facts::ask_sshd(host, &["-T"]).ok().filter(crate::host::Output::ok);
    let text = asked.map(|output| output.stdout).unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("port ")?.trim().parse().ok()).collect()
}

fn config(doors: &Doors) -> String {
    let mut text = "# Written by keyward: the sshd of last resort. Ends with: keyward acknowledge\n".to_owned();
    for port in &doors.ports {
        text.push_str(&format!("Port {port}\n"));
    }
    let passwords = if doors.passwords { "yes" } else { "no" };
    // Below OpenSSH 8.7 the second of the two keywords counts; later it is another name of the first.
    text.push_str(&format!(
        "PidFile {PID_FILE}\nPermitRootLogin {}\nPasswordAuthentication {passwords}\n\
         KbdInteractiveAuthentication {passwords}\nChallengeResponseAuthentication {passwords}\n\
         PubkeyAuthentication yes\n",
        doors.root
    ));
    for line in &doors.also {
        text.push_str(&format!("{line}\n"));
    }
    // The first value counts; without PAM an account with a locked password would be shut.
    text.push_str("UsePAM yes\n");
    text
}

fn open(doors: &Doors, host: &dyn Host) -> Result<()> {
    for (dir, mode) in [("/run/sshd", 0o755), ("/run/keyward", 0o700)] {
        let dir = AbsPath::fixed(dir);
        if host.meta(&dir, &Actor::Root)?.is_none() {
            host.put(&dir, &Actor::Root, &Node::Dir { mode, owner: Owner::Actor })?;
        }
    }
    let node = Node::File { content: config(doors).into_bytes(), mode: 0o600, owner: Owner::Actor };
    host.put(&AbsPath::fixed(CONFIG), &Actor::Root, &node)?;
    if Facts::gather(host)?.init == Init::Systemd {
        // It holds the port; who is logged in through it stays.
        drop(host.run(&Command::new([SYSTEMCTL, "stop", "ssh.socket"])));
    }
    for port in &doors.ports {
        // A firewall that could not be undone must not be what keeps everybody out.
        rules("-I", *port, host);
    }
    start(host)
}

fn rules(what: &str, port: u16, host: &dyn Host) {
    for program in ["/usr/sbin/iptables", "/usr/sbin/ip6tables"] {
        if host.has_program(program) {
            let port = port.to_string();
            let comment = ["-m", "comment", "--comment", "keyward last resort", "-j", "ACCEPT"];
            let words = [program, "-w", "5", what, "INPUT", "-p", "tcp", "--dport", &port];
            drop(host.run(&Command::new(words.into_iter().chain(comment))));
        }
    }
}

fn start(host: &dyn Host) -> Result<()> {
    let command = match Facts::gather(host)?.init {
        // Of its own, since systemd ends whatever the unit of an undo leaves running.
        Init::Systemd => {
            // Whoever is logged in by it stays when it is stopped.
            let unit = ["/usr/bin/systemd-run", "--quiet", "--collect", "-p", "KillMode=process", "--unit", UNIT];
            Command::new(unit.into_iter().chain([SSHD, "-D", "-f", CONFIG]))
        }
        Init::Other => Command::new([SSHD, "-f", CONFIG]),
    };
    must(&command, host)
}

fn must(command: &Command, host: &dyn Host) -> Result<()> {
    let output = host.run(command)?;
    if output.ok() {
        return Ok(());
    }
    Err(Failure::failed(command.argv.join(" "), format!("exit code {}", output.code)).why(output.last_line()))
}

/// True while the sshd of last resort is asked for.
///
/// # Errors
/// When /run cannot be looked at.
pub fn is_open(probe: &dyn Probe) -> Result<bool> {
    Ok(probe.meta(&AbsPath::fixed(CONFIG), &Actor::Root)?.is_some())
}

/// Ends the sshd of last resort once the real one serves again; otherwise it stays.
///
/// # Errors
/// Refused while sshd does not accept its configuration; failed when it does not come back, and then the one of last
/// resort listens again.
pub fn acknowledge(host: &dyn Host) -> Result<()> {
    let test = host.ask(&Command::new([SSHD, "-t"]))?;
    if !test.ok() {
        return Err(Failure::refused("sshd", "still does not accept its configuration")
            .why(test.last_line())
            .hint("mend what it names, check with: sshd -t"));
    }
    let config = AbsPath::fixed(CONFIG);
    let text = host.read(&config, &Actor::Root)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let ports: Vec<u16> = text.lines().filter_map(|line| line.strip_prefix("Port ")?.trim().parse().ok()).collect();
    let systemd = Facts::gather(host)?.init == Init::Systemd;
    if systemd {
        // Its sessions go on (KillMode=process), the one that this is said from among them.
        drop(host.run(&Command::new([SYSTEMCTL, "stop", UNIT])));
        let by_socket = host.ask(&Command::new([SYSTEMCTL, "is-enabled", "--quiet", "ssh.socket"]))?.ok();
        if by_socket {
            drop(step::restart_socket("ssh.socket", Some("ssh.service"), host));
        } else {
            drop(host.run(&Command::new([SYSTEMCTL, "reset-failed", "ssh.service"])));
            drop(host.run(&Command::new([SYSTEMCTL, "restart", "ssh.service"])));
        }
    } else {
        let pid = host.read(&AbsPath::fixed(PID_FILE), &Actor::Root)?.unwrap_or_default();
        let pid = String::from_utf8_lossy(&pid).trim().to_owned();
        drop(host.run(&Command::new(["/bin/sh", "-c", "kill \"$1\"", "sh", &pid])));
        std::thread::sleep(Duration::from_millis(200));
        drop(host.run(&Command::new([SSHD])));
    }
    // Perhaps it was mended onto another port.
    if !listens(&[ports.as_slice(), &configured(host)].concat(), host)? {
        start(host)?;
        return Err(Failure::failed("sshd", "did not come back, so the one of last resort listens again")
            .hint("see why: journalctl -u ssh"));
    }
    for port in &ports {
        rules("-D", *port, host);
    }
    host.remove(&AbsPath::fixed(PID_FILE), &Actor::Root)?;
    host.remove(&config, &Actor::Root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_allows_what_was_allowed_before_and_no_more() {
        let also = vec!["allowusers ops".to_owned(), "authorizedkeysfile /etc/ssh/keys/%u".to_owned()];
        let doors = Doors { ports: vec![22, 2200], root: "prohibit-password".into(), passwords: false, also };
        let text = config(&doors);
        for line in [
            "Port 22",
            "Port 2200",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "ChallengeResponseAuthentication no",
            "allowusers ops",
            "authorizedkeysfile /etc/ssh/keys/%u",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
