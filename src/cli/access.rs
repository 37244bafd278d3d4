//! `keyward access [PLAYBOOK]`: who can get into this host, and who could after the playbook. Changes nothing.

use std::time::Duration;

use crate::access::{After, ways};
use crate::error::{Failure, Result};
use crate::facts::Facts;
use crate::host::real::RealHost;
use crate::outcome::{Event, Exit, Proven, Sink as _};
use crate::report::access::verdict;

use super::args::{AccessArgs, Global};
use super::terminal::Terminal;
use super::{Ending, state};

/// Says it. Exit 0 when it could be told, 7 when sshd or the rules keep it back for every account.
pub fn run(args: &AccessArgs, global: &Global, terminal: &mut Terminal) -> Result<Ending> {
    state::only_local(global)?;
    state::need_root("to see who can get into this host")?;
    let host = RealHost::new();
    let Some(playbook) = &args.playbook else {
        let facts = Facts::gather(&host)?;
        let now = ways(&facts, &host, None, &[])?;
        let (exit, told) = (exit(&now), verdict(&now));
        terminal.event(Event::Access { now, after: None });
        return Ok(Ending::new(exit, told, "keyward access PLAYBOOK"));
    };
    let job = match terminal.job(playbook)? {
        Ok(job) => job,
        Err(ending) => return Ok(ending),
    };
    let (facts, plan) = match job.assess(&host, Duration::ZERO, terminal) {
        Ok(found) => found,
        Err(ending) => return Ok(ending),
    };
    let now = ways(&facts, &host, None, &[])?;
    let after = After::new(&host, &plan.changes, &plan.promises)?;
    let then = ways(&facts, &host, Some(&after), &[])?;
    let (exit, told) = (exit(&then), verdict(&then));
    terminal.event(Event::Access { now, after: Some(then) });
    for (task, on) in &plan.deferred {
        terminal
            .event(Event::Failed { failure: Failure::unknown(task, format!("is not judged before {on} is there")) });
    }
    Ok(Ending::new(exit, told, format!("keyward rehearse {}", state::quoted(&job.about.playbook))))
}

/// Nothing could be told of anybody: no answer rather than a good one.
fn exit(ways: &crate::outcome::ways::Ways) -> Exit {
    let told = ways.accounts.iter().any(|account| account.ssh != Proven::Unknown);
    if told || ways.accounts.is_empty() { Exit::AsAsked } else { Exit::CannotJudge }
}
