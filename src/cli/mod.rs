//! The command line: arguments, one file a verb, and the wiring of registry, loader, prover and access check.

mod args;
mod completions;
mod history;
pub mod loader;
mod log;
mod man;
mod schema;
mod show;
mod state;
mod terminal;
mod uninstall;

use std::process::ExitCode;
use std::time::Instant;

use crate::error::{Failure, Result};
use crate::outcome::{Event, Exit, Sink};

use args::{Cli, Format, Verb};
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
}

/// Runs the program.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|verb| verb == crate::proof::WORKER_ARG) {
        return crate::proof::worker::main();
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == crate::host::real::AS_USER_ARG) {
        return crate::host::real::as_user_main();
    }
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(code) = crate::target::hidden(&arguments) {
        return code;
    }
    match args::parse(std::env::args_os()) {
        Ok(cli) => run(&cli),
        Err(error) => usage(&error),
    }
}

fn run(cli: &Cli) -> ExitCode {
    let began = Instant::now();
    let mut terminal = Terminal::new(&cli.global, whole_diffs(&cli.verb));
    let ending = match verb(cli, &mut terminal) {
        Ok(Some(ending)) => ending,
        Ok(None) => return ExitCode::from(terminal.code().unwrap_or_default()),
        Err(failure) => {
            let exit = Exit::from(failure.kind);
            terminal.event(Event::Failed { failure });
            Ending::new(exit, "", "")
        }
    };
    let code = ending.exit.code();
    terminal.event(Event::Finished {
        code,
        exit: ending.exit,
        verdict: ending.verdict,
        next: ending.next,
        run: ending.run,
        millis: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    });
    ExitCode::from(code)
}

/// Runs one verb. `None` when a far end has sent the last event already.
fn verb(cli: &Cli, terminal: &mut Terminal) -> Result<Option<Ending>> {
    let ending = match &cli.verb {
        Verb::Completions(completions) => completions::run(completions, cli.global.format, terminal),
        Verb::Schema => schema::run(cli.global.format, terminal)?,
        Verb::History => {
            state::only_local(&cli.global, "history")?;
            history::run(terminal)?
        }
        Verb::Show(args) => {
            state::only_local(&cli.global, "show")?;
            show::run(args, terminal)?
        }
        Verb::Log(args) => {
            state::only_local(&cli.global, "log")?;
            log::run(args, terminal)?
        }
        Verb::Uninstall(args) => {
            state::only_local(&cli.global, "uninstall")?;
            uninstall::run(args, terminal)?
        }
        Verb::Man(man) => man::run(man, cli.global.format, terminal)?,
        _ => return Err(Failure::refused("keyward", "this verb is not built yet")),
    };
    Ok(Some(ending))
}

const fn whole_diffs(verb: &Verb) -> bool {
    match verb {
        Verb::Plan(args) => args.diff,
        Verb::Apply(args) => args.diff,
        Verb::Rehearse(args) => args.diff,
        Verb::Show(args) => args.diff,
        _ => false,
    }
}

/// clap's own endings: help and version are results, everything else is a usage error.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        terminal::result(&error.to_string());
        return ExitCode::from(Exit::AsAsked.code());
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
fn print_file(name: &str, text: &str, format: Format, sink: &mut dyn Sink) {
    match format {
        Format::Human => terminal::result(text),
        Format::Json => sink.event(Event::Text { name: name.to_owned(), text: text.to_owned() }),
    }
}
