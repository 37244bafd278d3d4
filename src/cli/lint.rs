//! `keyward lint PLAYBOOK`: every fault of a playbook in one run. Needs no root and looks at no host.

use crate::error::Result;
use crate::outcome::{Event, Exit, Sink as _};
use crate::report::style::count;

use super::args::PlaybookArg;
use super::terminal::Terminal;
use super::{Ending, example, state};

/// Checks the playbook.
pub fn run(args: &PlaybookArg, terminal: &mut Terminal) -> Result<Ending> {
    let job = match terminal.job(&args.playbook)? {
        Ok(job) => job,
        Err(ending) => return Ok(ending),
    };
    if let Some(note) = example::warning(&job) {
        terminal.event(Event::Note { note });
    }
    let tasks = job.tasks.len() - usize::from(!job.packages.is_empty());
    let name = &job.about.playbook;
    let verdict = format!("{name} is well formed: {}", count(tasks, "task"));
    Ok(Ending::new(Exit::AsAsked, verdict, format!("keyward rehearse {}", state::quoted(name))))
}
