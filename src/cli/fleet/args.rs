//! Many hosts, as they were named on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::error::Result;
use crate::fleet::schedule::{Policy, Size};
use crate::types::Invalid;

/// What the heading in the help says.
const HEADING: &str = "Many hosts";

/// Options of every verb that works on many hosts.
#[derive(Debug, Clone, Default, Args)]
pub struct FleetArgs {
    /// The hosts of an inventory: keyward's own YAML, or Ansible's INI or YAML as it is
    #[arg(short, long, global = true, value_name = "FILE", conflicts_with_all = ["host", "target", "root"], help_heading = HEADING)]
    pub inventory: Option<PathBuf>,
    /// Only these of them: names, groups and globs, such as web*,!web3
    #[arg(long, global = true, value_name = "PATTERN", help_heading = HEADING)]
    pub limit: Option<String>,
    /// At most so many at once (20)
    #[arg(long, global = true, value_name = "N", help_heading = HEADING)]
    pub parallel: Option<usize>,
    /// How far an apply or a rollback goes before it looks back: by number or share, the first one being the canary
    /// (1,10%,100%)
    #[arg(long, global = true, value_name = "SIZES", help_heading = HEADING)]
    pub waves: Option<String>,
    /// Go on in spite of so many hosts, or such a share, that did not end as asked (0); never past the canary
    #[arg(long, global = true, value_name = "N|N%", value_parser = size, help_heading = HEADING)]
    pub max_fail: Option<Size>,
    /// Interrupt a host that takes longer, such as 90s or 30m (30m)
    #[arg(long, global = true, value_name = "TIME", value_parser = super::super::args::window, help_heading = HEADING)]
    pub host_limit: Option<Duration>,
    /// Stop when a wave takes longer
    #[arg(long, global = true, value_name = "TIME", value_parser = super::super::args::window, help_heading = HEADING)]
    pub wave_limit: Option<Duration>,
    /// Go on with the rollout that was cut off or stopped; hosts that ended as asked are not touched again
    #[arg(long, global = true, conflicts_with = "anew", help_heading = HEADING)]
    pub resume: bool,
    /// Leave the rollout that was cut off as it is, and begin a new one
    #[arg(long, global = true, help_heading = HEADING)]
    pub anew: bool,
}

impl FleetArgs {
    /// The option that was given although no inventory was.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            (self.limit.is_some(), "--limit"),
            (self.parallel.is_some(), "--parallel"),
            (self.waves.is_some(), "--waves"),
            (self.max_fail.is_some(), "--max-fail"),
            (self.host_limit.is_some(), "--host-limit"),
            (self.wave_limit.is_some(), "--wave-limit"),
            (self.resume, "--resume"),
            (self.anew, "--anew"),
        ];
        given.into_iter().find_map(|(is_given, name)| is_given.then_some(name))
    }

    /// How a rollout goes.
    ///
    /// # Errors
    /// Input when nobody can go by it.
    pub fn rollout(&self) -> Result<Policy> {
        let usual = Policy::default();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let policy = Policy {
            waves: self.waves.as_deref().map_or(Ok(usual.waves), Policy::waves_from)?,
            parallel: self.parallel.unwrap_or(usual.parallel),
            max_fail: self.max_fail.unwrap_or(usual.max_fail),
            host_limit_ms: self.host_limit.map_or(usual.host_limit_ms, millis),
            wave_limit_ms: self.wave_limit.map(millis),
            ..usual
        };
        policy.check().map(|()| policy)
    }

    /// How a verb goes over the hosts that changes nothing: all of them, whatever happens.
    ///
    /// # Errors
    /// As [`FleetArgs::rollout`].
    pub fn survey(&self) -> Result<Policy> {
        let all =
            Self { waves: Some(Size::ALL.to_string()), max_fail: Some(Size::ALL), wave_limit: None, ..self.clone() };
        all.rollout()
    }
}

fn size(text: &str) -> std::result::Result<Size, String> {
    text.parse().map_err(|Invalid { why, hint }| format!("{why}: {hint}"))
}
