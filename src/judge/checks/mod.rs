//! The registry of checks: one file a subject, one line here a check.

mod accounts;
mod firewall;
mod keys;
mod logs;
mod pam;
mod ssh;
mod sudo;

use super::Check;

/// All checks, the worst first within their subject.
pub const CHECKS: &[Check] = &[
    ssh::WITHOUT_PROOF,
    ssh::ROOT,
    ssh::PASSWORDS,
    ssh::CURRENT,
    ssh::OTHER_DAEMON,
    ssh::ALGORITHMS,
    ssh::TRIES,
    ssh::HOST_BASED,
    ssh::ENVIRONMENT,
    keys::STRENGTH,
    keys::STRICT_MODES,
    accounts::UID_0,
    accounts::EMPTY_PASSWORD,
    accounts::AS_GOOD_AS_ROOT,
    accounts::OF_SERVICES,
    pam::ASKS,
    sudo::UNDERSTOOD,
    sudo::PASSWORD_ASKED,
    firewall::DEFAULT_DENY,
    firewall::OPEN_PORTS,
    firewall::HANDED_ON,
    logs::RETENTION,
];
