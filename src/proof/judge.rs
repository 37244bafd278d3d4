//! What a reply proves: from what was seen to one piece of evidence, never more than was seen. Pure.

use super::route::Place;
use super::scaffold::Pass;
use super::wire::{Door, Reply, Stage};
use crate::outcome::{Evidence, Proven};

/// A login that should succeed, with what its command said.
pub fn login(place: &Place, pass: &Pass, reply: &Reply) -> Evidence {
    let user = pass.user.as_str();
    let what = if pass.sudo { format!("login as {user} and sudo") } else { format!("login as {user}") };
    let (proven, seen) = said(place, pass, reply);
    place.evidence(&what, proven, seen, reply.millis)
}

fn said(place: &Place, pass: &Pass, reply: &Reply) -> (Proven, String) {
    let user = pass.user.as_str();
    if reply.stage != Stage::Exec {
        return (not_in(reply), failed(reply));
    }
    // A login shell may print its own lines before the command's.
    let marker = format!("keyward-{}", pass.nonce);
    let mut lines = reply.stdout.lines().skip_while(|line| line.trim() != marker).skip(1).map(str::trim);
    let (name, connection, root) = (lines.next(), lines.next(), lines.next());
    let ports: Vec<&str> = connection.unwrap_or_default().split_whitespace().collect();
    if name != Some(user) {
        return (Proven::No, format!("logged in, but the command did not run as {user}: {}", failed(reply)));
    }
    let [client, _, _, server_port] = ports.as_slice() else {
        return (Proven::Unknown, "logged in, but the session does not tell its connection".to_owned());
    };
    if *server_port != place.port.get().to_string() {
        return (Proven::No, format!("another server answers here: its port is {server_port}"));
    }
    match (pass.sudo, root) {
        (true, Some("0")) => (Proven::Yes, format!("in from {client}, sudo gives user id 0")),
        (true, _) => (Proven::No, format!("logged in, but sudo fails: {}", failed(reply))),
        (false, _) => (Proven::Yes, format!("in from {client}; sudo asks a password and was not tried")),
    }
}

/// A login that failed before the command: a refusal is a no; a reset or silence can have reasons that pass.
fn not_in(reply: &Reply) -> Proven {
    match reply.stage {
        Stage::Connect => match reply.doors.first() {
            Some(Door::Refused | Door::Filtered) => Proven::No,
            _ => Proven::Unknown,
        },
        Stage::Hostkey => Proven::No,
        Stage::Auth if reply.text.starts_with(super::login::REFUSED) => Proven::No,
        Stage::Auth | Stage::Kex | Stage::Request | Stage::Exec => Proven::Unknown,
    }
}

fn failed(reply: &Reply) -> String {
    let stage = match reply.stage {
        Stage::Request => "request",
        Stage::Connect => "connection",
        Stage::Kex => "key exchange",
        Stage::Hostkey => "host key",
        Stage::Auth => "authentication",
        Stage::Exec => "command",
    };
    format!("{stage}: {}", reply.text)
}

/// A login that must fail although its key stands in the account's key file.
pub fn refused(place: &Place, user: &str, reply: &Reply) -> Evidence {
    let (proven, seen) = match reply.stage {
        Stage::Exec => (Proven::No, "logged in".to_owned()),
        Stage::Auth if reply.text.starts_with(super::login::REFUSED) => {
            (Proven::Yes, format!("a key of its own key file is refused; offered: {}", list(&reply.methods)))
        }
        _ => (Proven::Unknown, failed(reply)),
    };
    place.evidence(&format!("login as {user} is refused"), proven, seen, reply.millis)
}

/// sshd answers, with a host key that this machine has.
pub fn answers(place: &Place, reply: &Reply) -> Evidence {
    let (proven, seen) = match reply.stage {
        Stage::Auth | Stage::Exec => (Proven::Yes, format!("own host key; offered: {}", list(&reply.methods))),
        _ => (not_in(reply), failed(reply)),
    };
    place.evidence("sshd answers", proven, seen, reply.millis)
}

/// Neither `password` nor `keyboard-interactive` is offered.
pub fn no_passwords(place: &Place, whom: &str, reply: &Reply) -> Evidence {
    let what = format!("passwords are not offered to {whom}");
    let (proven, seen) = match offers_password(reply) {
        Some(true) => (Proven::No, format!("offered: {}", list(&reply.methods))),
        Some(false) => (Proven::Yes, format!("offered: {}", list(&reply.methods))),
        None => (Proven::Unknown, failed(reply)),
    };
    place.evidence(&what, proven, seen, reply.millis)
}

/// Whether a password could be tried; `None` when the methods were not learnt.
pub fn offers_password(reply: &Reply) -> Option<bool> {
    let known = reply.stage >= Stage::Auth && (!reply.methods.is_empty() || reply.ok);
    known.then(|| reply.methods.iter().any(|name| name == "password" || name == "keyboard-interactive"))
}

fn list(methods: &[String]) -> String {
    if methods.is_empty() { "nothing".to_owned() } else { methods.join(", ") }
}

/// A port that must be shut. `alive`: the same address answered on another port, so silence is not a missing route.
pub fn shut(place: &Place, what: &str, door: Door, alive: bool, millis: u64) -> Evidence {
    let (proven, seen) = match door {
        Door::Open => (Proven::No, "it answers"),
        Door::Refused if alive => (Proven::Yes, "refused"),
        Door::Filtered if alive => (Proven::Yes, "no answer"),
        _ => (Proven::Unknown, "nothing at this address answers at all"),
    };
    place.evidence(what, proven, seen, millis)
}

/// A port that the firewall must let in. `listens`: something on the host listens there; `control`: how a port that
/// nothing listens on and nothing allows behaves, which tells a dropping firewall from none.
pub fn let_in(place: &Place, door: Door, listens: bool, control: Option<Door>, millis: u64) -> Evidence {
    let (proven, seen) = match (door, listens) {
        (Door::Open, _) => (Proven::Yes, "it answers"),
        (Door::Refused, false) if control == Some(Door::Filtered) => {
            (Proven::Yes, "let through (nothing listens yet); other ports are dropped")
        }
        (Door::Refused, false) => (Proven::Unknown, "nothing listens, so an open port looks like a closed one"),
        (Door::Refused | Door::Filtered, true) => (Proven::No, "something listens, but nothing gets through"),
        (Door::Filtered, false) => (Proven::No, "no answer: dropped"),
        (Door::Unreachable, _) => (Proven::Unknown, "no route"),
    };
    place.evidence("the firewall lets in", proven, seen, millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Reach;
    use crate::types::{Port, UserName, Word};

    fn place() -> Place {
        Place { address: "203.0.113.1".parse().unwrap(), port: Port::new(2222).unwrap(), reach: Reach::L2 }
    }

    fn pass(sudo: bool) -> Pass {
        Pass::new(&UserName::parse("deploy").unwrap(), sudo).unwrap()
    }

    fn exec(stdout: String) -> Reply {
        Reply { ok: true, stdout, exit: Some(0), ..Reply::at(Stage::Exec, "") }
    }

    #[test]
    fn only_the_whole_answer_is_a_login() {
        let pass = pass(true);
        let judge = |text: String| login(&place(), &pass, &exec(text)).proven;
        let good = format!("Welcome!\nkeyward-{}\ndeploy\n203.0.113.2 40000 203.0.113.1 2222\n0\n", pass.nonce);
        assert_eq!(judge(good.clone()), Proven::Yes);
        assert_eq!(judge(good.replace("\n0\n", "\n1000\n")), Proven::No, "sudo gives another user");
        assert_eq!(judge(good.replace("\n0\n", "\n")), Proven::No, "sudo fails");
        assert_eq!(judge(good.replace("\ndeploy\n", "\nroot\n")), Proven::No, "another account");
        assert_eq!(judge(good.replace(" 2222\n", " 22\n")), Proven::No, "another server");
        assert_eq!(judge(good.replace("keyward-", "other-")), Proven::No, "another command");
        assert_eq!(judge(String::new()), Proven::No);
    }

    #[test]
    fn a_reset_is_not_a_refusal() {
        let pass = pass(true);
        let judge = |reply: Reply| login(&place(), &pass, &reply).proven;
        assert_eq!(judge(Reply::at(Stage::Kex, "Connection reset")), Proven::Unknown);
        assert_eq!(judge(Reply::at(Stage::Hostkey, "another host key")), Proven::No);
        assert_eq!(judge(Reply::at(Stage::Auth, "the key is refused")), Proven::No);
        assert_eq!(judge(Reply::at(Stage::Auth, "the key is accepted, but the server asks for more")), Proven::Unknown);
        let door = |door| Reply { doors: vec![door], ..Reply::at(Stage::Connect, "") };
        assert_eq!(judge(door(Door::Filtered)), Proven::No);
        assert_eq!(judge(door(Door::Unreachable)), Proven::Unknown);
    }

    #[test]
    fn a_closed_port_is_claimed_only_beside_an_open_one() {
        let shut = |door, alive| shut(&place(), "closed", door, alive, 0).proven;
        assert_eq!(shut(Door::Refused, true), Proven::Yes);
        assert_eq!(shut(Door::Filtered, true), Proven::Yes);
        assert_eq!(shut(Door::Filtered, false), Proven::Unknown);
        assert_eq!(shut(Door::Unreachable, true), Proven::Unknown);
        assert_eq!(shut(Door::Open, true), Proven::No);
    }

    #[test]
    fn an_open_port_without_listener_needs_a_contrast() {
        let open = |door, listens, control| let_in(&place(), door, listens, control, 0).proven;
        assert_eq!(open(Door::Open, true, None), Proven::Yes);
        assert_eq!(open(Door::Refused, false, Some(Door::Filtered)), Proven::Yes);
        assert_eq!(open(Door::Refused, false, Some(Door::Refused)), Proven::Unknown);
        assert_eq!(open(Door::Refused, false, None), Proven::Unknown);
        assert_eq!(open(Door::Refused, true, Some(Door::Filtered)), Proven::No);
        assert_eq!(open(Door::Filtered, false, Some(Door::Filtered)), Proven::No);
    }

    #[test]
    fn passwords_are_known_only_from_an_answer() {
        let reply = |methods: &[&str]| Reply {
            ok: true,
            methods: methods.iter().map(ToString::to_string).collect(),
            ..Reply::at(Stage::Auth, "")
        };
        assert_eq!(offers_password(&reply(&["publickey"])), Some(false));
        assert_eq!(offers_password(&reply(&["publickey", "keyboard-interactive"])), Some(true));
        assert_eq!(offers_password(&reply(&["password"])), Some(true));
        assert_eq!(offers_password(&Reply::at(Stage::Kex, "reset")), None);
        assert_eq!(offers_password(&Reply::at(Stage::Auth, "disconnected")), None);
    }
}
