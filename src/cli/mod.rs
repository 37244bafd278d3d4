//! The command line: arguments, one file a verb, and the wiring of registry, loader, prover and access check.

use std::process::ExitCode;

/// Runs the program.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
