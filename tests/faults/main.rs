//! The fault campaign: a real apply of the reference job is cut off at each system call that changes something, by the
//! death of the agent, of all its processes, or of the machine; calls and children fail; races are run. After each case
//! a way in must open by a fresh login over both families, every file be old or new, and an undo leave nothing.
//!
//! `cargo test` runs a bounded sample, KEYWARD_FAULTS=all all of it. The last line printed counts what was tried.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "../support/mod.rs"]
mod support;

mod cases;
mod crash;
mod fail;
mod ground;
mod race;
mod tally;
mod tracer;
mod undo;
