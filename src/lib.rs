//! keyward provisions accounts and hardens servers from YAML playbooks, and never locks the administrator out.
//!
//! Modules stand in layers; imports go only downwards (ARCHITECTURE.md, held by `tests/layers.rs`):
//! `types`, `error`, `formats` < `host`, `facts`, `change`, `outcome` < `resource`, `journal`, `audit` <
//! `playbook`, `engine`, `access` < `resources`, `proof` < `target`, `report` < `fleet` < `cli`.

pub mod access;
pub mod audit;
pub mod change;
pub mod cli;
pub mod engine;
pub mod error;
pub mod facts;
pub mod fleet;
pub mod formats;
pub mod host;
pub mod journal;
pub mod judge;
pub mod outcome;
pub mod playbook;
pub mod proof;
pub mod report;
pub mod resource;
pub mod resources;
pub mod target;
pub mod types;
