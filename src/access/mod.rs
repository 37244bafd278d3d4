//! Who can get in, before and after a plan: every account that could log in, from where, by which method, and what it can
//! become. Reads the host, changes nothing. What cannot be told is unknown, never a pass.

mod account;
mod after;
mod check;
mod door;
mod keys;
mod look;
mod model;
mod pam;
mod place;
mod stays;
mod sudo;

pub use account::{hash as hash_of, is_closed};
pub use after::After;
pub use check::{ABOUT, Present, Restored, WaysIn};
pub use door::{Doors, HandedOn};
pub use keys::{Keys, Line as KeyLine, look as keys_of};
pub use look::{DROP_INS, Look, Supposed, is_read};
pub use model::{STRONG, ways, ways_of};
pub use pam::{Rule as PamRule, stack_of};
