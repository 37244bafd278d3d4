//! `keyward lint PLAYBOOK`: every fault of a playbook in one run. Needs no root and looks at no host.

use crate::error::Result;
use crate::outcome::Exit;
use crate::report::style::count;

use super::args::PlaybookArg;
use super::terminal::Terminal;
use super::{Ending, state};

/// Checks the playbook.
pub fn run(args: &PlaybookArg, terminal: &mut Terminal) -> Result<Ending> {
    let job = match terminal.job(&args.playbook)? {
        Ok(job) => job,
        Err(ending) => return Ok(ending),
    };
    let tasks = job.tasks.len() - usize::from(!job.packages.is_empty());
    let name = &job.about.playbook;
    let verdict = format!("{name} is well formed: {}", count(tasks, "task"));
    Ok(Ending::new(Exit::AsAsked, verdict, format!("keyward rehearse {}", state::quoted(name))))
}
