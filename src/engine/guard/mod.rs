//! The dead-man switch of a live run: deadline, decision, rollback by somebody who outlives the agent, boot recovery.

pub mod clock;
