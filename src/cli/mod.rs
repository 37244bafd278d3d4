//! The command line: arguments, one file a verb, and the wiring of registry, loader, prover and access check.

pub mod loader;

use std::process::ExitCode;

/// Runs the program.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|verb| verb == crate::proof::WORKER_ARG) {
        return crate::proof::worker::main();
    }
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some(code) = crate::target::hidden(&arguments) {
        return code;
    }
    ExitCode::SUCCESS
}
