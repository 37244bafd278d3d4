//! Sudoers.
