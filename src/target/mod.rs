//! Where a session runs: on this host, in a throw-away copy of one, on another host over SSH, or in a container.

mod boot;
pub mod container;
pub mod exec;
mod netlink;
pub mod put;
pub mod sandbox;
pub mod ssh;
pub mod talk;
pub mod vantage;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs a hidden verb of the sandbox when `arguments` (without the program's own name) begin with one. To be asked
/// before anything else, while the process has one thread and has opened nothing.
pub fn hidden(arguments: &[OsString]) -> Option<ExitCode> {
    let (verb, rest) = arguments.split_first()?;
    if verb == vantage::ARG {
        return Some(vantage::main());
    }
    let rest: Option<Vec<String>> = rest.iter().map(|word| word.to_str().map(str::to_owned)).collect();
    let rest = rest?;
    match verb.to_str()? {
        sandbox::WARDEN => Some(sandbox::warden::main()),
        sandbox::BOOT => Some(sandbox::power::main(&rest)),
        sandbox::INIT => Some(sandbox::init::main(&rest)),
        sandbox::ENTER => Some(sandbox::enter::main(&rest)),
        _ => None,
    }
}
