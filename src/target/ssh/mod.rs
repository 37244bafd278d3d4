//! A host over SSH: where it is, how it proves itself, how we do, and what is said over the connection. The user's own
//! ssh configuration, agent and known_hosts hold here as they do for ssh. The host is hostile until its key is checked,
//! and bounded in bytes and time afterwards (a jump host in time only: all that the hosts behind it say comes through it).
//! Must not judge what a host says, and never forwards an agent.

mod address;
mod agent;
mod auth;
mod config;
mod config_file;
mod driver;
mod gate;
mod keys;
mod known_hosts;
mod link;
mod proxy;
pub mod push;
mod resolve;
mod stream;
mod talk;
mod trouble;

pub use address::Destination;
pub(crate) use address::{check_host, check_user};
pub use agent::{read_list as agent_list, signs};
pub use auth::{Ask, Question};
pub use config::{Around, Settings};
pub use gate::Trust;
pub use keys::held;
pub use known_hosts::{Known, Verdict};
pub use link::{Link, Wishes};
pub use talk::{Conversation, Output};
pub use trouble::{Outcome, Setback, Trouble};
