//! The host's firewall through ufw: defaults, openings, and the SSH port kept open in both families at every moment.
//!
//! State is read from ufw's files and from the kernel (iptables-save), never from `ufw status`; reading starts no ufw.
//! Rule files are written as `ufw allow` would write them, and the kernel gets each family's rules in one commit of
//! iptables-restore, so that there is no moment with half a firewall. Must not touch chains that are not ufw's.

mod compose;
mod desired;
mod family;
mod observe;
mod plan;
mod rules;
mod settings;
mod survey;

pub use desired::{Allowed, Desired, Incoming, Logging, Outgoing};
pub use observe::Observed;

use crate::change::Claim;
use crate::error::Result;
use crate::facts::Facts;
use crate::formats::ufw::Family;
use crate::host::{Command, Probe};
use crate::resource::{Document, Fault, Planned, Resource, Section};
use crate::types::AbsPath;

/// ufw(8).
pub struct Firewall;

/// The files that this resource owns, in the order in which they are written: the switch comes last.
const USER: &str = "/etc/ufw/user.rules";
const USER6: &str = "/etc/ufw/user6.rules";
const DEFAULTS: &str = "/etc/default/ufw";
const CONF: &str = "/etc/ufw/ufw.conf";

impl Resource for Firewall {
    const NAME: &'static str = "firewall";
    const SUMMARY: &'static str = "default policies and openings of ufw, for IPv4 and IPv6";
    const EXAMPLE: &'static str = "\
firewall:
  incoming: deny
  outgoing: allow
  allow:
    - 80/tcp
    - 443/tcp
    - { port: 5432, proto: tcp, from: 10.0.0.0/8, comment: db }
  exclusive: false
";
    const SECTION: Section = Section::Map("firewall");

    type Desired = Desired;
    type Observed = Observed;

    fn select(mut desired: Desired, document: &Document) -> Option<Desired> {
        desired.ssh_ports = desired::ssh_ports(document.section("ssh"));
        Some(desired)
    }

    fn validate(desired: &Desired) -> Vec<Fault> {
        desired.validate()
    }

    fn claims(_desired: &Desired) -> Vec<Claim> {
        let files = [USER, USER6, DEFAULTS, CONF].map(|path| Claim::Path(AbsPath::fixed(path)));
        files.into_iter().chain([Claim::Service("firewall".to_owned())]).collect()
    }

    fn packages(_desired: &Desired) -> &'static [&'static str] {
        &["ufw"]
    }

    fn questions(_desired: &Desired, probe: &dyn Probe) -> Vec<Command> {
        let saves = [Family::V4, Family::V6].map(compose::save);
        saves.into_iter().filter(|save| probe.has_program(save.program())).collect()
    }

    fn observe(desired: &Desired, facts: &Facts, probe: &dyn Probe) -> Result<Observed> {
        observe::observe(desired, facts, probe)
    }

    fn plan(desired: &Desired, facts: &Facts, observed: &Observed) -> Result<Planned> {
        plan::plan(desired, facts, observed)
    }
}
