//! Evidence from real logins and connections.
//!
//! [`worker`] makes connections from where they have to come from; nothing here changes the host: the temporary key of
//! a proof is a [`crate::change::Change`] that the engine makes and undoes.

mod budget;
mod doors;
pub mod held;
mod judge;
mod login;
pub mod prover;
mod quick;
mod route;
pub mod scaffold;
pub mod session;
mod wanted;
pub mod wire;
pub mod word;
pub mod worker;

pub use login::KEX;
pub use prover::{OutsideProver, RootKey};
pub use quick::Quick;
pub use route::Route;
pub use wire::{Door, Line, PrivateHalf, Reply, Request, Stage};
pub use worker::{PipeWorker, WORKER_ARG, Worker};
