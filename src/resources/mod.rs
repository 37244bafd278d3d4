//! The registry: one file a resource, one line here.

pub mod audit;
pub mod authorized_keys;
pub mod firewall;
pub mod packages;
pub mod root;
pub mod sshd;
pub mod sudo;
pub mod user;

use crate::resource::Kind;

/// All resources, in the order in which their additive changes run: the firewall opens a port before sshd listens on
/// it. Subtractive changes run in the reverse order.
pub const REGISTRY: &[Kind] = &[
    Kind::of::<user::User>(),
    Kind::of::<root::Root>(),
    Kind::of::<authorized_keys::AuthorizedKeys>(),
    Kind::of::<sudo::Sudo>(),
    Kind::of::<firewall::Firewall>(),
    Kind::of::<sshd::Sshd>(),
    Kind::of::<audit::Audit>(),
];
