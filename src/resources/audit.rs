//! What an audit of this host bears, until when and why. Changes nothing, and owns nothing.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::change::Claim;
use crate::error::Result;
use crate::facts::Facts;
use crate::host::Probe;
use crate::resource::{Document, Planned, Resource, Section};
use crate::types::{Day, PlainText};

/// The section.
pub struct Audit;

/// What `keyward audit` is told.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Desired {
    /// Failures that are borne for a while; afterwards they count again.
    #[serde(default)]
    pub waive: Vec<Waiver>,
}

/// A failure that is borne.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Waiver {
    /// The check, such as ssh-root-login; keyward audit --list names all of them.
    pub check: PlainText,
    /// The account, port or file that it is about, as the audit shows it. Default: all of them.
    #[serde(default)]
    pub about: Option<PlainText>,
    /// The last day on which it is borne.
    pub until: Day,
    /// Why it is.
    pub reason: PlainText,
}

impl Resource for Audit {
    const NAME: &'static str = "audit";
    const SUMMARY: &'static str = "what an audit bears, until when and why; changes nothing";
    const EXAMPLE: &'static str = "audit:\n  waive:\n    - check: ssh-root-login\n      until: \"2027-03-31\"\n      reason: the \
                                   backup logs in as root until it is moved\n";
    const SECTION: Section = Section::Map("audit");

    type Desired = Desired;
    type Observed = ();

    fn select(_desired: Desired, _document: &Document) -> Option<Desired> {
        // Nothing of the host follows from it.
        None
    }

    fn claims(_desired: &Desired) -> Vec<Claim> {
        Vec::new()
    }

    fn observe(_desired: &Desired, _facts: &Facts, _probe: &dyn Probe) -> Result<()> {
        Ok(())
    }

    fn plan(_desired: &Desired, _facts: &Facts, _observed: &()) -> Result<Planned> {
        Ok(Planned::default())
    }
}
