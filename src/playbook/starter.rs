//! A commented first playbook from what was found on the host. Pure: looking is the caller's part.

use std::fmt::Write as _;

use crate::types::{Port, Proto, PublicKey, UserName};

/// What `init` found or was told.
#[derive(Debug, Clone)]
pub struct Found {
    /// The administrator to make.
    pub user: UserName,
    /// Their public keys.
    pub keys: Vec<PublicKey>,
    /// Where sshd lets in now; empty where that cannot be told.
    pub ssh_ports: Vec<Port>,
    /// Where it shall listen; `None` to leave it.
    pub wanted_port: Option<Port>,
    /// What else can be reached from outside now.
    pub listening: Vec<Listener>,
}

/// A port that something listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The port.
    pub port: Port,
    /// Its protocol.
    pub proto: Proto,
    /// The program, or empty when unknown.
    pub program: String,
}

const ADMIN: &str = "admin: true                # must log in by key and use sudo, proven before doors close";

/// The text of a first playbook. It passes `lint`; without a key passwords and root stay as they are, since nobody could
/// log in otherwise.
pub fn starter(found: &Found) -> String {
    let mut out = String::new();
    let user = found.user.as_str();
    out.push_str(
        "# What this server should look like. keyward shows what would change and asks before it does:\n\
         #   keyward lint FILE       check this file\n\
         #   keyward rehearse FILE   try it on a throw-away copy of this machine\n\
         #   keyward plan FILE       show what would change\n\
         #   keyward apply FILE      do it\n\
         # All fields: keyward explain\n\
         version: 1\n\n",
    );
    let admin =
        if found.keys.is_empty() { "# admin: true              # turn on when there is a key below" } else { ADMIN };
    let _ = write!(
        out,
        "users:\n  - name: {user}\n    {admin}\n    groups: [ sudo ]           # added to the groups it has\n    \
         password: locked           # nobody can log in with a password; sudo asks for none\n    \
         sudo: {{ nopasswd: true }}\n",
    );
    keys(&found.keys, &mut out);
    let _ = write!(out, "\nroot:\n  password: keep             # locked: no login at the console either\n\nssh:\n");
    port(found, &mut out);
    if found.keys.is_empty() {
        out.push_str(
            "  # Turn these on when there is a key above:\n  # permit_root_login: \"no\"\n  # password_authentication: false\n",
        );
    } else {
        out.push_str("  permit_root_login: \"no\"    # in quotes: a bare no means false to some YAML readers\n");
        out.push_str("  password_authentication: false\n");
    }
    out.push_str("  max_auth_tries: 3\n\nfirewall:\n  incoming: deny             # the SSH port is always let in\n  outgoing: allow\n");
    openings(found, &mut out);
    out.push_str("  exclusive: false           # rules that others made stay, and are listed\n");
    out
}

/// The line of the SSH port. What is not known is not written: a wrong one would move the port.
fn port(found: &Found, out: &mut String) {
    let list = found.ssh_ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let (value, remark) = match (found.wanted_port, found.ssh_ports.as_slice()) {
        (None, []) => {
            out.push_str("  # The present port could not be told, and stays. To move it: port: 2222\n");
            return;
        }
        (None, [only]) => (*only, "as it is now".to_owned()),
        (None, _) => {
            let _ = writeln!(out, "  # Ports {list} stay as they are. For one instead of them: port: 2222");
            return;
        }
        (Some(new), [only]) if new == *only => (new, "as it is now".to_owned()),
        (Some(new), []) => (new, format!("the present one stays open until a login on {new} is proven")),
        (Some(new), [_]) => (new, format!("{list} stays open until a login on {new} is proven")),
        (Some(new), _) => (new, format!("{list} stay open until a login on {new} is proven")),
    };
    let _ = writeln!(out, "{:<28} # {remark}", format!("  port: {value}"));
}

fn keys(keys: &[PublicKey], out: &mut String) {
    if keys.is_empty() {
        out.push_str(
            "    # No public key was found. Make one where you work, with: ssh-keygen -t ed25519\n    \
             # then put the line of its .pub file here:\n    \
             # authorized_keys:\n    #   - key: \"ssh-ed25519 AAAA... you@laptop\"\n",
        );
        return;
    }
    out.push_str("    authorized_keys:\n");
    for key in keys {
        // A comment is free text; one that YAML or the variables could misread is left out.
        let plain = key.comment().chars().all(|c| c.is_alphanumeric() || " @._-+:()".contains(c));
        let comment = if plain && !key.comment().is_empty() { format!(" {}", key.comment()) } else { String::new() };
        let _ = writeln!(out, "      - key: \"{} {}{comment}\"", key.algorithm(), key.blob());
        if key.is_short_rsa() {
            out.push_str(
                "        # This RSA key is short; better: ssh-keygen -t ed25519\n        allow_short_rsa: true\n",
            );
        }
    }
}

fn openings(found: &Found, out: &mut String) {
    let of_ssh = |one: &&Listener| {
        one.proto == Proto::Tcp && found.ssh_ports.iter().chain(&found.wanted_port).any(|port| *port == one.port)
    };
    let mut listening: Vec<&Listener> = found.listening.iter().filter(|one| !of_ssh(one)).collect();
    listening.sort_by_key(|one| (one.port, one.proto));
    listening.dedup_by_key(|one| (one.port, one.proto));
    if listening.is_empty() {
        out.push_str("  allow: []                  # such as [ 80/tcp, 443/tcp, \"Nginx Full\" ]\n");
        return;
    }
    out.push_str("  allow:                     # what listens now; delete the line of what nobody outside needs\n");
    for one in listening {
        let program: String =
            one.program.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.+".contains(*c)).take(32).collect();
        let remark = if program.is_empty() { "unknown program" } else { program.as_str() };
        let text = format!("    - {}/{}", one.port, one.proto.as_str());
        let _ = writeln!(out, "{text:<28} # {remark}");
    }
}
