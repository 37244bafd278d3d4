//! The way to another host over SSH, against the real sshd and sudo of four Debian releases (OpenSSH 8.4, 9.2, 10.0,
//! 10.6) and against servers that mean harm. All traffic stays in the copies' own networks and on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "ssh/agent.rs"]
mod agent;
#[path = "ssh/config.rs"]
mod config;
#[path = "ssh/doors.rs"]
mod doors;
#[path = "ssh/hostile.rs"]
mod hostile;
#[path = "ssh/keys.rs"]
mod keys;
#[path = "ssh/liar.rs"]
mod liar;
#[path = "ssh/liars.rs"]
mod liars;
#[path = "ssh/logins.rs"]
mod logins;
#[path = "ssh/push.rs"]
mod push;
mod support;
#[path = "ssh/world.rs"]
mod world;
