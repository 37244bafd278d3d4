//! ssh.socket: where systemd listens for sshd, Port in sshd_config(5) opens nothing, and only the unit moves the port.

use super::daemon::{Socket, split};
use crate::change::Action;
use crate::host::Command;

/// keyward's drop-in; drop-ins are read in the order of their names and the last word counts, so it sorts last.
pub const DROP_IN: &str = "/etc/systemd/system/ssh.socket.d/zz-keyward.conf";
const SYSTEMCTL: &str = "/usr/bin/systemctl";

/// The drop-in that listens on `ports` at every address at which the socket listens now.
pub fn text(socket: &Socket, ports: &[u16]) -> String {
    let mut heads: Vec<&str> = Vec::new();
    for (head, _) in socket.streams.iter().filter_map(|stream| split(stream)) {
        // `[::]:22` and `22` are the same socket.
        let head = if head == "[::]:" { "" } else { head };
        if !heads.contains(&head) {
            heads.push(head);
        }
    }
    if heads.is_empty() {
        heads.push("");
    }
    let mut out = "# Written by keyward.\n[Socket]\nListenStream=\n".to_owned();
    for head in heads {
        for port in ports {
            out.push_str(&format!("ListenStream={head}{port}\n"));
        }
    }
    out
}

/// Makes systemd listen as the unit says.
pub fn restart(socket: &Socket) -> Vec<Action> {
    let service = (!socket.accept).then(|| "ssh.service".to_owned());
    vec![
        Action::Run(Command::new([SYSTEMCTL, "daemon-reload"])),
        Action::RestartSocket { socket: "ssh.socket".to_owned(), service },
    ]
}

/// Makes the next connection meet the new configuration: the daemon that the socket has started goes, the socket stays
/// and starts another. A reload is no way: from OpenSSH 10 on, the daemon finds no socket after it and dies.
pub fn renew(socket: &Socket) -> Vec<Action> {
    if socket.accept {
        return Vec::new();
    }
    ["stop", "reset-failed"].map(|verb| Action::Run(Command::new([SYSTEMCTL, verb, "ssh.service"]))).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_gets_every_port() {
        let socket = Socket { streams: vec!["22".into(), "[::]:22".into(), "10.0.0.1:22".into()], ..Socket::default() };
        let want = "# Written by keyward.\n[Socket]\nListenStream=\nListenStream=22\nListenStream=2222\n\
                    ListenStream=10.0.0.1:22\nListenStream=10.0.0.1:2222\n";
        assert_eq!(text(&socket, &[22, 2222]), want);
    }
}
