//! `keyward confirm [RUN]`: keeps a pending run. Counts only from a login that could not have been without the new
//! door: a planned administrator, by a method that stays allowed, through a port that stays open, after it opened.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use crate::change::{Plan, Promise};
use crate::engine::guard::{self, Decision, Pending, Said};
use crate::error::{Failure, Result};
use crate::formats::sshd_match::{address_in, pattern_list};
use crate::host::real::RealHost;
use crate::host::shelf::{DirShelf, Shelf};
use crate::journal::{self, Record};
use crate::outcome::Exit;
use crate::proof::session::{self, Session};
use crate::types::Word as _;

use super::args::ConfirmArgs;
use super::terminal::progress;
use super::{Ending, state};

/// Confirms.
pub fn run(args: &ConfirmArgs) -> Result<Ending> {
    state::need_root("to confirm a run")?;
    let (host, shelf) = (RealHost::new(), shelf()?);
    let pending = find(&shelf, "confirm", args.run.as_deref())?;
    let run = &pending.run;
    if let Some(ending) = over(&shelf, run)? {
        return Ok(ending);
    }
    if pending.agent.is_some_and(|agent| !agent.lives(&host)) {
        return Err(Failure::refused(
            format!("run {run}"),
            "cannot be kept: the process that would close the old doors is gone",
        )
        .why("the run is undone at its deadline")
        .hint(format!("undo it now: keyward cancel {run}")));
    }
    let session = session::around(std::process::id(), &host)?;
    let opened = guard::opened(&shelf, run)?;
    let session = session.map(|session| if args.from_controller { by_controller(session) } else { session });
    let shown = judge(session.as_ref(), &plan(&shelf, run)?, opened.map(|now| now.at_ms))?;
    let because = if args.from_controller { format!("L3: {shown}") } else { format!("L4: {shown}") };
    let said = Said { confirmed: true, because };
    match guard::decide(&host, &shelf, run, args.nonce.as_deref(), &said)? {
        Decision::Made => progress(&format!("confirmed: {}; closing the old doors\n", said.because)),
        Decision::Already => progress("confirmed before; waiting for the end\n"),
        Decision::Against(because) => {
            return Err(Failure::refused(format!("run {run}"), "was decided the other way").why(because));
        }
        Decision::Late => {
            return Err(Failure::refused(format!("run {run}"), "the deadline has passed: it is rolled back"));
        }
    }
    wait(&shelf, &pending)
}

/// A controller logs in by key only (see `far::proof`), so sshd's log need not tell. It is root here, so this flag gives
/// nothing to anybody who could not write the decision himself.
fn by_controller(session: Session) -> Session {
    Session { method: session.method.or_else(|| Some("publickey".to_owned())), ..session }
}

/// The journals, where something may wait.
pub fn shelf() -> Result<DirShelf> {
    state::shelf_if_any()?.ok_or_else(nothing_waits)
}

fn nothing_waits() -> Failure {
    Failure::refused("keyward", "no run waits for a confirmation").hint("keyward history")
}

/// The pending run that is meant; `verb` is for the way out.
pub fn find(shelf: &dyn Shelf, verb: &str, wanted: Option<&str>) -> Result<Pending> {
    if let Some(pending) = guard::pending(shelf, wanted)? {
        return Ok(pending);
    }
    let Some(run) = wanted else { return Err(nothing_waits()) };
    let place = format!("run {run}");
    let failure = match shelf.read(run)? {
        None => Failure::input(place, "there is no such run"),
        Some(_) => Failure::refused(place, "was never armed, so nothing of it waits"),
    };
    Err(match guard::pending(shelf, None)? {
        Some(Pending { run, .. }) => failure.why(format!("run {run} is pending")).hint(format!("keyward {verb} {run}")),
        None => failure.why("no run is pending").hint("keyward history"),
    })
}

/// The plan in force: the last one that was shown.
pub fn plan(shelf: &dyn Shelf, run: &str) -> Result<Plan> {
    journal::read(shelf, run)?
        .into_iter()
        .rev()
        .find_map(|record| match record {
            Record::Begin { plan, .. } | Record::Replanned { plan } => Some(*plan),
            _ => None,
        })
        .ok_or_else(|| Failure::unknown(format!("run {run}"), "its journal has no beginning"))
}

/// What the session proves, in words; refused with the reason when it proves nothing.
fn judge(session: Option<&Session>, plan: &Plan, opened_ms: Option<u64>) -> Result<String> {
    let refused = |what: &str| Failure::refused("confirm", what.to_owned());
    let ports: Vec<u16> = plan
        .promises
        .iter()
        .filter_map(|promise| match promise {
            Promise::SshPort { port } => Some(port.get()),
            _ => None,
        })
        .collect();
    let admins: Vec<String> = plan
        .promises
        .iter()
        .filter_map(|promise| match promise {
            Promise::Admin { user, .. } => Some(user.text()),
            _ => None,
        })
        .collect();
    let taken = plan.promises.iter().find_map(|promise| match promise {
        Promise::SomebodyElse { than } => Some(than),
        _ => None,
    });
    let who = match taken {
        Some(than) if than.is_empty() => "any account".to_owned(),
        Some(than) => format!("an account other than {}", than.join(", ")),
        None => admins.join(" or "),
    };
    let how = format!("log in anew, as {who} through port {}, and confirm from there", list(&ports));
    let opened_ms =
        opened_ms.ok_or_else(|| refused("the new door is not open yet").hint("wait until it is said to be open"))?;
    let session =
        session.ok_or_else(|| refused("this is not an SSH login, so it proves no door").hint(how.as_str()))?;
    if !ports.is_empty() && !ports.contains(&session.port) {
        return Err(refused("this login came through a door that closes")
            .why(format!("port {}", session.port))
            .hint(how));
    }
    if session.from.is_some_and(is_here) {
        return Err(refused("this login came from the host itself, so it proves nothing about the network").hint(how));
    }
    // The session's start has a grain of 10 ms; an equal moment is too early.
    if session.began_ms <= opened_ms {
        return Err(refused("this login began before the new door was open, so it proves nothing about it").hint(how));
    }
    match taken {
        Some(than) if than.contains(&session.user) => {
            return Err(refused("this login is by an account that the rollback takes away")
                .why(&session.user)
                .hint(how));
        }
        None if !admins.contains(&session.user) => {
            return Err(refused("this login is not an administrator of the playbook").why(&session.user).hint(how));
        }
        _ => {}
    }
    if taken.is_none() && session.user != "root" && !session.by_sudo {
        return Err(refused("this command does not run by sudo, so it does not show that sudo works")
            .why(&session.user)
            .hint(how));
    }
    may_come_back(session, plan, &how)?;
    let closes_passwords = plan.promises.contains(&Promise::PasswordsRefused);
    match session.method.as_deref() {
        Some("publickey") => {}
        Some(method) if closes_passwords => {
            return Err(refused("this login used a method that the playbook turns off").why(method).hint(how));
        }
        Some(_) => {}
        None if closes_passwords => {
            return Err(refused("sshd's log does not tell how this login was made")
                .why("passwords are about to be refused, so a login by password would prove nothing")
                .hint("let sshd log to the journal or to /var/log/auth.log; the run is rolled back meanwhile"));
        }
        None => {}
    }
    let method = session.method.as_deref().unwrap_or("an unknown method");
    Ok(format!("{} by {method} through port {}", session.user, session.port))
}

/// Where the run takes keys away, this login must have been by one that stays, from where it counts.
fn may_come_back(session: &Session, plan: &Plan, how: &str) -> Result<()> {
    let kept: Vec<(&str, &str)> = plan
        .promises
        .iter()
        .filter_map(|promise| match promise {
            Promise::Key { user, fingerprint, from } if user.as_str() == session.user => {
                Some((&**fingerprint, &**from))
            }
            _ => None,
        })
        .collect();
    if kept.is_empty() || !matches!(session.method.as_deref(), None | Some("publickey")) {
        return Ok(());
    }
    let stay = kept.iter().map(|(fingerprint, _)| *fingerprint).collect::<Vec<_>>().join(" or ");
    let how = format!("{how}, by a key that stays: {stay}");
    let refused = |what: &str, why: &str| Err(Failure::refused("confirm", what.to_owned()).why(why).hint(&*how));
    let Some(key) = &session.key else {
        return refused(
            "sshd's log does not tell which key this login used",
            "keys are about to be taken away, and this one may be among them",
        );
    };
    let Some((_, from)) = kept.iter().find(|(fingerprint, _)| fingerprint == key) else {
        return refused("this login used a key that the run takes away", key);
    };
    let here = session.from.map(|from| from.to_string()).unwrap_or_default();
    if from.is_empty() || pattern_list(from, false, |pattern| address_in(pattern, &here)) {
        return Ok(());
    }
    refused("this login came from where its key does not count any more", &format!("{here}; it counts from {from}"))
}

/// True for an address of this host: a connection from one passes neither its firewall nor the network. Only those can be
/// bound to (ip(7)).
fn is_here(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

fn list(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ")
}

/// How a run that is over ended.
fn over(shelf: &dyn Shelf, run: &str) -> Result<Option<Ending>> {
    Ok(guard::ending(shelf, run)?.map(|(exit, verdict)| {
        let ending = Ending::new(exit, format!("run {run} is over: {verdict}"), format!("keyward show {run}"));
        Ending { run: Some(run.to_owned()), ..ending }
    }))
}

/// Waits until the run is over; at most its window and a little.
pub fn wait(shelf: &dyn Shelf, pending: &Pending) -> Result<Ending> {
    let rounds = pending.window_ms / 100 + 300;
    for _ in 0..rounds {
        if let Some(ending) = over(shelf, &pending.run)? {
            return Ok(ending);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(Ending::new(Exit::Pending, format!("run {} is still not over", pending.run), "keyward status"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Port, UserName};

    fn plan() -> Plan {
        let text = serde_json::json!({"version": 1, "host": "", "playbook": "", "playbook_digest": "", "observation_digest": "",
            "changes": [], "notes": [], "deferred": [], "promises": [], "met": []});
        let mut plan: Plan = serde_json::from_value(text).unwrap();
        plan.promises = vec![
            Promise::Admin { user: UserName::parse("deploy").unwrap(), nopasswd: true },
            Promise::SshPort { port: Port::new(2222).unwrap() },
            Promise::PasswordsRefused,
        ];
        plan
    }

    fn session() -> Session {
        Session {
            pid: 1,
            user: "deploy".into(),
            port: 2222,
            began_ms: 2000,
            method: Some("publickey".into()),
            from: "198.51.100.9".parse().ok(),
            key: Some("SHA256:mine".into()),
            by_sudo: true,
        }
    }

    #[test]
    fn a_rollback_is_confirmed_by_somebody_whom_it_leaves() {
        let mut plan = plan();
        plan.promises = vec![
            Promise::SomebodyElse { than: vec!["deploy".into()] },
            Promise::SshPort { port: Port::new(22).unwrap() },
        ];
        let root = Session { user: "root".into(), port: 22, method: Some("password".into()), ..session() };
        assert!(super::judge(Some(&root), &plan, Some(1000)).is_ok());
        assert!(super::judge(Some(&Session { port: 2222, ..root.clone() }), &plan, Some(1000)).is_err());
        let deploy = Session { user: "deploy".into(), ..root };
        assert!(super::judge(Some(&deploy), &plan, Some(1000)).is_err());
        plan.promises[0] = Promise::SomebodyElse { than: Vec::new() };
        assert!(super::judge(Some(&deploy), &plan, Some(1000)).is_ok(), "nothing closes after the decision");
    }

    #[test]
    fn a_key_that_goes_does_not_confirm() {
        let judge = |fingerprint: &str, from: &str, session: Session| {
            let (user, fingerprint, from) =
                (UserName::parse("deploy").unwrap(), fingerprint.to_owned(), from.to_owned());
            let mut plan = plan();
            plan.promises.push(Promise::Key { user, fingerprint, from });
            super::judge(Some(&session), &plan, Some(1000)).is_ok()
        };
        assert!(judge("SHA256:mine", "", session()));
        assert!(!judge("SHA256:other", "", session()), "the only key that stays is another one");
        assert!(judge("SHA256:mine", "198.51.100.0/24,10.0.0.1", session()));
        assert!(!judge("SHA256:mine", "10.99.0.0/16", session()), "from elsewhere");
        assert!(!judge("SHA256:mine", "", Session { key: None, ..session() }), "nobody knows which");
    }

    #[test]
    fn only_a_new_login_through_the_new_door_counts() {
        let judge = |session: Session, opened| judge(Some(&session), &plan(), opened);
        assert!(judge(session(), Some(1000)).is_ok());
        assert!(judge(session(), Some(2000)).is_err(), "not newer than the door");
        assert!(judge(session(), None).is_err(), "no door yet");
        assert!(judge(Session { from: "127.0.0.1".parse().ok(), ..session() }, Some(1000)).is_err());
        assert!(judge(Session { from: "127.8.9.1".parse().ok(), ..session() }, Some(1000)).is_err(), "of this host");
        assert!(judge(Session { by_sudo: false, ..session() }, Some(1000)).is_err(), "root by su");
        assert!(judge(Session { port: 22, ..session() }, Some(1000)).is_err());
        assert!(judge(Session { user: "root".into(), ..session() }, Some(1000)).is_err());
        assert!(judge(Session { method: Some("password".into()), ..session() }, Some(1000)).is_err());
        assert!(judge(Session { method: None, ..session() }, Some(1000)).is_err());
        assert!(super::judge(None, &plan(), Some(1000)).is_err());
    }
}
