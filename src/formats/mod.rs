//! Text to structure and back for the system's files: pure and lossless, one file each. Must not open files.

pub mod access_conf;
pub mod accounts;
pub mod authorized_keys;
pub mod netfilter;
pub mod pam;
pub mod sshd_config;
pub mod sshd_effective;
pub mod sshd_match;
pub mod sudoers;
pub mod tcp_wrappers;
pub mod ufw;
pub mod unit;
