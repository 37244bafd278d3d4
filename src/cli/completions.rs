//! `keyward completions SHELL`: a completion script made from the command's definition.

use crate::error::Result;

use super::args::{CompletionsArgs, Format, command};
use super::{Ending, print_file};

/// Prints the script.
pub fn run(args: &CompletionsArgs, format: Format) -> Result<Ending> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "keyward", &mut script);
    print_file(&format!("completions for {}", args.shell), &String::from_utf8_lossy(&script), format)
}
