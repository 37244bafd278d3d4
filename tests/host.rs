//! The machine and its in-memory twin: files, homes, user databases and programs, in throw-away copies of a Debian.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "host/accounts.rs"]
mod accounts;
#[path = "host/bench.rs"]
mod bench;
#[path = "host/children.rs"]
mod children;
#[path = "host/files.rs"]
mod files;
#[path = "host/homes.rs"]
mod homes;
mod support;
#[path = "host/twins.rs"]
mod twins;

use keyward::host::real::RealHost;
use keyward::types::{AbsPath, UserName, Word};

/// A path.
#[track_caller]
pub fn at(path: &str) -> AbsPath {
    AbsPath::parse(path).unwrap()
}

/// A user.
#[track_caller]
pub fn user(name: &str) -> UserName {
    UserName::parse(name).unwrap()
}

/// The machine, with the built program for the children.
pub fn machine() -> RealHost {
    RealHost::with_program(bench::PROGRAM)
}
