//! The terminal, or what stands in its place: streams that may close at any time, colour, and the one question.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::change::Note;
use crate::error::{Failure, Result};
use crate::outcome::audit::Audit;
use crate::outcome::drift::Drift;
use crate::outcome::{Event, Exit, Sink};
use crate::playbook::Faults;
use crate::report::style::{Style, count};
use crate::report::{Channel, Report, escape};
use crate::resource::LoadedFile;

use super::args::{Colour, Format, Global};
use super::audit::Reports;
use super::handed;
use super::job::{Handed, Job, NoJob};
use super::state::quoted;
use super::{Ending, diff};

/// Writes events as they come. A closed or full stream never stops a run: what cannot be written is dropped, and known.
pub struct Terminal {
    report: Report,
    /// What a controller read of the playbook; files here are then nobody's business.
    handed: Option<Handed>,
    /// What is told is long over: not progress, but the result.
    past: bool,
    /// Why a part of the result was lost, if it was.
    lost: Option<Failure>,
    /// Where reports of an audit go.
    reports: Reports,
    /// What an audit is compared with.
    earlier: Vec<(String, Audit)>,
}

impl Terminal {
    /// For these options; `whole_diffs` unfolds every diff, and `past` says that what will be told is long over.
    pub fn new(global: &Global, whole_diffs: bool, past: bool) -> Self {
        let detail = if whole_diffs { crate::report::plan::Detail::Full } else { crate::report::plan::Detail::Fitting };
        let report = match global.format {
            Format::Json => Report::Json,
            Format::Human => Report::human(style(global.color), detail),
        };
        Self { report, handed: None, past, lost: None, reports: Reports::default(), earlier: Vec::new() }
    }

    /// Whether there is colour.
    pub const fn style(&self) -> Style {
        match &self.report {
            Report::Human { style, .. } => *style,
            Report::Json => Style::Plain,
        }
    }

    /// True when programs read the results.
    pub const fn is_json(&self) -> bool {
        matches!(self.report, Report::Json)
    }

    /// From now on playbooks are what was handed over.
    pub fn hand(&mut self, sources: Vec<LoadedFile>) {
        self.handed = Some(Handed(sources));
    }

    /// Writes these reports of an audit, too.
    pub fn report_to(&mut self, reports: Reports) {
        self.reports = reports;
    }

    /// Shows what moved since these, too.
    pub fn compare_with(&mut self, earlier: Vec<(String, Audit)>) {
        self.earlier = earlier;
    }

    /// Why a part of the result did not reach standard output; none also when its reader had seen enough.
    pub const fn lost(&self) -> Option<&Failure> {
        self.lost.as_ref()
    }

    /// Reads and checks a playbook; tells every fault of it. The inner error is how the verb then ends.
    ///
    /// # Errors
    /// When the playbook's place cannot be trusted or opened.
    pub fn job(&mut self, playbook: &Path) -> Result<std::result::Result<Job, Ending>> {
        let name = playbook.to_str().ok_or_else(|| Failure::input("playbook", "the path is not UTF-8"))?;
        let read = self.handed.as_ref().map_or_else(|| Job::open(name), |handed| Job::load(name, handed));
        match read {
            Ok(job) => Ok(Ok(job)),
            Err(NoJob::Place(failure)) => Err(failure),
            Err(NoJob::Faults(faults)) => {
                self.faults(&faults);
                let verdict = format!("{name}: {}", count(faults.items.len(), "fault"));
                Ok(Err(Ending::new(Exit::Usage, verdict, format!("mend it, then: keyward lint {}", quoted(name)))))
            }
        }
    }

    /// People see the line and a caret; programs get an event each.
    fn faults(&mut self, faults: &Faults) {
        if !matches!(self.report, Report::Json) {
            progress(&format!("{}\n\n", escape::text(&faults.to_string())));
            return;
        }
        for item in &faults.items {
            let place = match item.line {
                0 => item.file.clone(),
                line => format!("{}:{line}:{}", item.file, item.column),
            };
            let failure = Failure::input(place, &item.what).hint(&item.hint);
            self.event(Event::Failed { failure });
        }
    }

    /// A warning that belongs to no plan.
    pub fn warn(&mut self, about: &str, text: &str) {
        self.event(Event::Note { note: Note::warning(about, text) });
    }
}

impl Sink for Terminal {
    fn event(&mut self, event: Event) {
        if let Event::Audited { audit } = &event
            && let Err(failure) = self.reports.write(audit)
        {
            self.lost.get_or_insert(failure);
        }
        let moved = match &event {
            Event::Audited { audit } => diff::earlier(&self.earlier, &audit.host, 1)
                .map(|old| Event::Drifted { drift: Box::new(Drift::between(&audit.host, old, audit)) }),
            _ => None,
        };
        let (channel, text) = self.report.event(&event);
        let is_result = channel == Channel::Result || self.past && !matches!(event, Event::Failed { .. });
        if !is_result {
            progress(&text);
        } else if let Err(failure) = print(&text) {
            self.lost.get_or_insert(failure);
        }
        if let Some(moved) = moved {
            if !self.is_json() {
                result("\n");
            }
            self.event(moved);
        }
    }
}

/// Colour is for terminals (both streams, since a report uses both), and NO_COLOR, set to anything, turns it off.
fn style(colour: Colour) -> Style {
    let wanted = match colour {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => {
            let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
            let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
            std::io::stdout().is_terminal() && std::io::stderr().is_terminal() && !set("NO_COLOR") && !dumb
        }
    };
    if wanted { Style::Colour } else { Style::Plain }
}

/// Writes to standard output; EPIPE and all other errors are swallowed on purpose.
pub fn result(text: &str) {
    let _ = print(text);
}

/// Writes to standard output what somebody will use as a file. A reader that is gone has seen enough.
///
/// # Errors
/// Unknown when it cannot be written: half a file must not pass for a whole one.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::unknown("standard output", "cannot be written").why(error))
        }
        _ => Ok(()),
    }
}

/// Writes to standard error; errors are swallowed on purpose.
pub fn progress(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Set once many hosts are being worked on: nobody could tell their questions apart.
static ASKS_NO_MORE: AtomicBool = AtomicBool::new(false);

/// From now on nobody is asked.
pub fn ask_no_more() {
    ASKS_NO_MORE.store(true, Ordering::Relaxed);
}

/// True when a question can be asked and its answer be read by a person.
pub fn can_ask() -> bool {
    if ASKS_NO_MORE.load(Ordering::Relaxed) {
        return false;
    }
    handed::is_far() || std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// True when somebody may be looking at standard error.
pub fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Asks on standard error and reads one line; empty at the end of input. A controller is asked by an event.
pub fn ask(question: &str) -> String {
    if handed::is_far() {
        return handed::ask(question);
    }
    progress(question);
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
    line.trim().to_owned()
}
