//! The command line: arguments, one file a verb, and the wiring of registry, loader, prover and access check.

mod access;
mod acknowledge;
mod agent;
mod apply;
mod args;
mod audit;
mod cancel;
mod completions;
mod confirm;
mod detach;
mod diff;
mod evidence;
mod example;
mod explain;
mod far;
mod fault;
mod fetch;
mod fleet;
mod guard;
mod handed;
mod history;
mod init;
mod inside;
mod job;
mod lint;
mod live;
pub mod loader;
mod log;
mod man;
mod motd;
mod outside;
mod plan;
mod rehearse;
mod rollback;
mod schema;
mod show;
mod signals;
mod state;
mod status;
mod strike;
mod talk;
mod target;
mod terminal;
mod tree;
mod uninstall;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use crate::change::Plan;
use crate::engine::Outcome;
use crate::error::{Failure, Result};
use crate::host::real::prepare_process_with;
use crate::outcome::{Event, Exit, Sink};

use args::{Cli, Format, Verb};
use target::TargetArg;
use terminal::Terminal;

/// How a verb ended: exit, verdict, next command and the run's id.
pub struct Ending {
    exit: Exit,
    verdict: String,
    next: String,
    run: Option<String>,
}

impl Ending {
    /// An ending without a run.
    pub fn new(exit: Exit, verdict: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, verdict: verdict.into(), next: next.into(), run: None }
    }

    /// How a verb ends that only showed this plan.
    pub fn of_plan(plan: &Plan) -> Self {
        let exit = if plan.is_converged() { Exit::AsAsked } else { Exit::Differs };
        Self::new(exit, crate::report::plan::verdict(plan), "")
    }

    /// The last event of a verb.
    pub fn finished(self, began: Instant) -> Event {
        let Self { exit, verdict, next, run } = self;
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Event::Finished { code: exit.code(), exit, verdict, next, run, millis }
    }
}

impl From<Outcome> for Ending {
    fn from(outcome: Outcome) -> Self {
        let Outcome { exit, verdict, next, run } = outcome;
        Self { exit, verdict, next, run }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    // Hidden verbs first: they are this program's own children and must find the process untouched.
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(code) = hidden(&words) {
        return code;
    }
    match args::parse(std::env::args_os()) {
        Ok(cli) => run(&cli),
        Err(error) => usage(&error),
    }
}

fn hidden(words: &[OsString]) -> Option<ExitCode> {
    match words.first()?.to_str()? {
        crate::proof::WORKER_ARG => Some(crate::proof::worker::main()),
        crate::host::real::AS_USER_ARG => Some(crate::host::real::as_user_main()),
        agent::ARG => Some(agent::main()),
        fetch::ARG => Some(fetch::main()),
        guard::ARG => Some(guard::main(words.get(1..).unwrap_or_default())),
        _ => crate::target::hidden(words),
    }
}

fn run(cli: &Cli) -> ExitCode {
    let began = Instant::now();
    let mut terminal = Terminal::new(&cli.global, whole_diffs(&cli.verb), matches!(cli.verb, Verb::Show(_)));
    let ended = prepare_process_with(&cli.global.login.descriptors()).and_then(|()| {
        if let Some(from) = &cli.global.handed {
            terminal.hand(handed::take(from)?);
        }
        if let Verb::Audit(args) = &cli.verb {
            // Read first: a report may be meant to take its place.
            terminal.compare_with(args.since.as_deref().map(diff::audits).transpose()?.unwrap_or_default());
            terminal.report_to(audit::Reports::open(&args.report)?);
        }
        if cli.global.fleet.inventory.is_some() {
            return fleet::run(cli, &mut terminal);
        }
        if let Some(option) = cli.global.fleet.given() {
            return Err(Failure::input(option, "is about many hosts, and no inventory was named").hint("add -i FILE"));
        }
        match (cli.global.far(), &cli.global.target) {
            (Some(destination), _) => far::run(cli, destination, &mut terminal),
            (None, Some(TargetArg::Container(named))) => far::container::run(cli, named, &mut terminal),
            (None, _) => near(cli, &mut terminal),
        }
    });
    let ending = ended.unwrap_or_else(|failure| {
        let exit = Exit::before_any_change(failure.kind);
        terminal.event(Event::Failed { failure });
        Ending::new(exit, "", "")
    });
    let exit = ending.exit;
    terminal.event(ending.finished(began));
    // What a verb was asked to show must not pass for shown when it was cut short.
    if let Some(failure) = terminal.lost().filter(|_| shows(&cli.verb) && matches!(exit, Exit::AsAsked | Exit::Differs))
    {
        terminal::progress(&format!("error: {}\n", failure.line()));
        return ExitCode::from(Exit::before_any_change(failure.kind).code());
    }
    ExitCode::from(exit.code())
}

/// True for the verbs whose only result is what they print. How a run that changed something ended stays its exit code.
const fn shows(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::Plan(_)
            | Verb::Access(_)
            | Verb::Audit(_)
            | Verb::Diff(_)
            | Verb::Lint(_)
            | Verb::Rehearse(_)
            | Verb::Status
            | Verb::Show(_)
            | Verb::Log(_)
            | Verb::History
    )
}

/// Runs one verb on this machine, or a copy or tree on it.
fn near(cli: &Cli, terminal: &mut Terminal) -> Result<Ending> {
    if let Some(option) = cli.global.login.given() {
        return Err(Failure::input(option, "is about a host over SSH, and none was named").hint("add --host USER@HOST"));
    }
    verb(cli, terminal)
}

/// Runs one verb.
fn verb(cli: &Cli, terminal: &mut Terminal) -> Result<Ending> {
    let (global, format) = (&cli.global, cli.global.format);
    match &cli.verb {
        Verb::Plan(args) => plan::run(args, global, terminal),
        Verb::Access(args) => access::run(args, global, terminal),
        Verb::Audit(args) => audit::run(args, global, terminal),
        Verb::Apply(args) => apply::run(args, global, terminal),
        Verb::Rehearse(args) => rehearse(args, global, terminal),
        Verb::Lint(args) => lint::run(args, terminal),
        Verb::Diff(args) => diff::run(args, terminal),
        Verb::Schema => schema::run(format),
        Verb::Init(args) => init::run(args, terminal),
        Verb::Explain(args) => explain::run(args, format),
        Verb::Completions(args) => completions::run(args, format),
        Verb::Man(args) => man::run(args, format),
        records => {
            if let TargetArg::Rootfs(dir) = global.target()
                && let Some(ending) = tree::records(records, &dir, &global.leave_out, terminal)?
            {
                return Ok(ending);
            }
            state::only_local(global)?;
            match records {
                Verb::Rollback(args) => rollback::run(args, terminal),
                Verb::Confirm(args) => confirm::run(args),
                Verb::Cancel(args) => cancel::run(args),
                Verb::Acknowledge(args) => acknowledge::run(args),
                Verb::Status => status::run(terminal),
                Verb::Show(args) => show::run(args, terminal),
                Verb::Log(args) => log::run(args.verb, Some(format), terminal),
                Verb::Uninstall(args) => uninstall::run(args, terminal),
                _ => history::run(terminal),
            }
        }
    }
}

fn rehearse(args: &args::RehearseArgs, global: &args::Global, terminal: &mut Terminal) -> Result<Ending> {
    let job = match terminal.job(&args.playbook)? {
        Ok(job) => job,
        Err(ending) => return Ok(ending),
    };
    let root = match global.target() {
        TargetArg::Rootfs(dir) => dir,
        TargetArg::Local | TargetArg::Sandbox | TargetArg::Ssh(_) | TargetArg::Container(_) => PathBuf::from("/"),
    };
    if let Some(fault) = args.fault {
        return fault::run(&job, fault, &root, &global.leave_out, terminal);
    }
    rehearse::run(&job, rehearse::REHEARSE, &root, &global.leave_out, terminal)
}

const fn whole_diffs(verb: &Verb) -> bool {
    match verb {
        Verb::Plan(args) => args.diff,
        Verb::Apply(args) => args.diff,
        Verb::Rehearse(args) => args.diff,
        Verb::Rollback(args) => args.diff,
        Verb::Show(args) => args.diff,
        _ => false,
    }
}

/// clap's own endings: help and version are results, everything else is a usage error.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let printed = terminal::print(&error.to_string());
        return ExitCode::from(printed.map_or_else(
            |failure| {
                terminal::progress(&format!("error: {}\n", failure.line()));
                Exit::before_any_change(failure.kind).code()
            },
            |()| Exit::AsAsked.code(),
        ));
    }
    let words: Vec<_> = std::env::args_os().collect();
    let json = words.iter().any(|word| word == "--format=json")
        || words
            .windows(2)
            .any(|pair| pair.first().is_some_and(|w| w == "--format") && pair.last().is_some_and(|w| w == "json"));
    let text = error.to_string();
    if json {
        let mut report = crate::report::Report::Json;
        let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let failure = Failure::input("command line", what).hint("keyward --help");
        terminal::result(&report.event(&Event::Failed { failure }).1);
        let (exit, none) = (Exit::Usage, String::new());
        let end = Event::Finished { code: exit.code(), exit, verdict: none.clone(), next: none, run: None, millis: 0 };
        terminal::result(&report.event(&end).1);
    } else {
        terminal::progress(&crate::report::escape::text(&text));
    }
    ExitCode::from(Exit::Usage.code())
}

/// Prints a whole file (schema, manual, completions): as it is for people, as one event for programs.
fn print_file(name: &str, text: &str, format: Format) -> Result<Ending> {
    let printed = match format {
        Format::Human => terminal::print(text),
        Format::Json => {
            let event = Event::Text { name: name.to_owned(), text: text.to_owned() };
            terminal::print(&crate::report::Report::Json.event(&event).1)
        }
    };
    // As an event it would get lost with the rest of the stream.
    if let (Format::Json, Err(failure)) = (format, &printed) {
        terminal::progress(&format!("error: {}\n", failure.line()));
    }
    printed.map(|()| Ending::new(Exit::AsAsked, "", ""))
}
