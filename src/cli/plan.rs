//! `keyward plan PLAYBOOK`: what an apply would change. Changes nothing.

use std::time::Duration;

use crate::engine::guard;
use crate::error::Result;
use crate::host::real::RealHost;
use crate::outcome::{Event, Exit, Sink as _};

use super::agent::Act;
use super::args::{Global, PlanArgs};
use super::target::TargetArg;
use super::terminal::Terminal;
use super::{Ending, evidence, example, rehearse, state};

/// Shows the plan. Exit 0 when the host is as the playbook says, 2 when it differs.
pub fn run(args: &PlanArgs, global: &Global, terminal: &mut Terminal) -> Result<Ending> {
    let job = match terminal.job(&args.playbook)? {
        Ok(job) => job,
        Err(ending) => return Ok(ending),
    };
    match global.target() {
        TargetArg::Sandbox => return rehearse::run(&job, Act::Plan, "/".as_ref(), &global.leave_out, terminal),
        TargetArg::Rootfs(dir) => return rehearse::run(&job, Act::Plan, &dir, &global.leave_out, terminal),
        TargetArg::Local | TargetArg::Ssh(_) | TargetArg::Container(_) => {}
    }
    state::need_root("to look at this host")?;
    let host = RealHost::new();
    let job = job.for_operator();
    let (_, plan) = match job.assess(&host, Duration::ZERO, terminal) {
        Ok(found) => found,
        Err(ending) => return Ok(ending),
    };
    let mut ending = Ending::of_plan(&plan);
    let converged = plan.is_converged();
    terminal.event(Event::Planned { plan: Box::new(plan) });
    let pending = state::shelf_if_any()?.map(|shelf| guard::pending(&shelf, None)).transpose()?.flatten();
    if let Some(pending) = pending {
        terminal
            .warn(&pending.run, "is pending: this plan is of the host in the middle of that run; see: keyward status");
    }
    if let Some(note) = example::warning(&job) {
        terminal.event(Event::Note { note });
    }
    if converged {
        evidence::tell_last(terminal)?;
    }
    if ending.exit == Exit::Differs {
        ending.next = format!("keyward rehearse {}", state::quoted(&job.about.playbook));
    }
    Ok(ending)
}
