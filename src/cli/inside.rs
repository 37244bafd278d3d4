//! The agent's work on a tree itself: nothing runs there, so files only.

use crate::change::Note;
use crate::engine::{self, Agreed, Machine, Settle, Tree};
use crate::error::{Failure, Result};
use crate::host::real::RealHost;
use crate::host::{Actor, Probe as _};
use crate::outcome::{Event, Exit, Sink};
use crate::types::AbsPath;

use super::agent::{Question, Records};
use super::args::ShowArgs;
use super::{Ending, history, log, rollback, show, state};

/// systemd would hand sshd its sockets at boot.
const SOCKET: &str = "/etc/systemd/system/sockets.target.wants/ssh.socket";
const HOST_KEYS: &str = "/etc/ssh";

/// What stands in the way of a proof in a copy: a run that was cut off, and sockets that only systemd opens.
///
/// # Errors
/// Refused, with the way out.
pub fn refuse_unprovable(host: &RealHost) -> Result<()> {
    if let Some(shelf) = state::shelf_if_any()? {
        engine::refuse_unfinished(&shelf)?;
    }
    match host.meta(&AbsPath::fixed(SOCKET), &Actor::Root)? {
        None => Ok(()),
        Some(_) => Err(Failure::refused("ssh.socket", "opens sshd's ports when this tree boots")
            .why("there is no systemd in a copy, so which ports those will be cannot be proven")
            .hint("let sshd open them: systemctl --root DIR disable ssh.socket && systemctl --root DIR enable ssh.service")),
    }
}

/// Makes the plans; the run is then pending.
pub fn make(host: &RealHost, plans: &[Agreed], sink: &mut dyn Sink) -> Result<Ending> {
    let (shelf, ledger) = (state::shelf()?, state::ledger()?);
    let tree = Tree { host, shelf: &shelf, audit: &ledger };
    let outcome = engine::make(tree, plans, sink);
    if outcome.exit == Exit::Pending {
        warn_of_host_keys(host, sink);
    }
    Ok(Ending::from(outcome))
}

/// A key that many machines share proves none of them.
fn warn_of_host_keys(host: &RealHost, sink: &mut dyn Sink) {
    let names = host.list(&AbsPath::fixed(HOST_KEYS), &Actor::Root).ok().flatten().unwrap_or_default();
    let key = |name: &String| name.starts_with("ssh_host_") && name.ends_with("_key");
    if names.iter().any(key) {
        let text = "the tree holds SSH host keys: machines made from it share them, unless each makes its own at boot";
        sink.event(Event::Note { note: Note::warning("sshd", text) });
    }
}

/// Ends the pending run.
pub fn settle(host: &RealHost, run: &str, how: Settle, sink: &mut dyn Sink) -> Result<Ending> {
    let (shelf, ledger) = (state::shelf()?, state::ledger()?);
    let tree = Tree { host, shelf: &shelf, audit: &ledger };
    engine::settle(tree, run, how, sink).map(Ending::from)
}

/// What was done on this tree.
pub fn records(
    host: &RealHost,
    records: &Records,
    ask: &mut dyn FnMut(Question) -> bool,
    sink: &mut dyn Sink,
) -> Result<Ending> {
    match records {
        Records::History => history::run(sink),
        Records::Show(run) => show::run(&ShowArgs { run: run.clone(), diff: false }, sink),
        Records::Log(verb) => log::run(*verb, None, sink),
        Records::Rollback { run, force } => {
            let mut agree = |run: &str, summaries: &[String]| match ask(Question::Undo {
                run: run.to_owned(),
                summaries: summaries.to_vec(),
            }) {
                true => Ok(()),
                false => Err(Failure::refused("rollback", "declined, nothing changed")),
            };
            let (shelf, run) = rollback::named(run.as_deref())?;
            rollback::at_once(&run, *force, Machine::Down, &shelf, host, &mut agree, sink)
        }
    }
}
