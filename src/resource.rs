//! The contract of a resource, its erased form for the registry, and the traits that the engine is handed as values.
//!
//! A resource says what differs; only the engine acts. Adding one touches its own file and one registry line.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::change::{Change, Claim, Note, Promise};
use crate::error::{Failure, Result};
use crate::facts::Facts;
use crate::host::{Command, Probe};
use crate::outcome::{Evidence, Moment};
use crate::types::UserName;

/// Where in the playbook a resource finds its desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// A mapping at the top level, such as `ssh`; one task when it is there.
    Map(&'static str),
    /// Each item of a list at the top level, such as `users`; one task an item. The item's name is its `name` field.
    Each(&'static str),
}

/// A resolved playbook: the values a resource reads. Spans stay with the playbook layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Document(pub BTreeMap<String, Value>);

impl Document {
    /// A section of the playbook, `null` when absent.
    pub fn section(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }
}

/// A file named by the playbook, already read by its [`Loader`]. Its schema is a string with the format `loaded-file`;
/// the playbook layer puts name and text in the string's place before a resource sees the value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct LoadedFile {
    /// As written in the playbook.
    pub name: String,
    /// The whole text.
    pub text: String,
}

impl LoadedFile {
    /// The `format` that marks such a field in the schema.
    pub const FORMAT: &'static str = "loaded-file";
}

impl schemars::JsonSchema for LoadedFile {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LoadedFile".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": Self::FORMAT,
            "description": "a file beside the playbook, or below its directory",
        })
    }
    fn inline_schema() -> bool {
        true
    }
}

/// What a resource found and wants changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Planned {
    /// In no particular order; the engine orders by stage, then by registry, then as given.
    pub changes: Vec<Change>,
    /// For the reader.
    pub notes: Vec<Note>,
    /// Set when the changes cannot be known yet: what has to happen first, such as `package ufw`.
    pub deferred: Option<String>,
    /// What the prover is to show.
    pub promises: Vec<Promise>,
}

/// A fault of a desired state: a path below the section (`authorized_keys.0.from`) and the failure; the playbook layer
/// adds file, line and column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Dotted path of keys and list indices below the item.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// The fix.
    pub hint: String,
}

impl Fault {
    /// A fault.
    pub fn new(path: impl Into<String>, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { path: path.into(), what: what.into(), hint: hint.into() }
    }
}

/// A kind of thing that keyward can bring into a desired state.
pub trait Resource {
    /// Name in plans and `explain`, such as `sshd`.
    const NAME: &'static str;
    /// One line.
    const SUMMARY: &'static str;
    /// A piece of playbook that shows it.
    const EXAMPLE: &'static str;
    /// Where it reads from.
    const SECTION: Section;

    /// What the user asks for. Unknown keys are refused by the playbook layer, which knows all resources' fields.
    type Desired: Send + Sync + DeserializeOwned + schemars::JsonSchema;
    /// What was found.
    type Observed;

    /// Completes `desired` from other sections, such as the firewall from `ssh.port`. `None`: nothing to do here.
    fn select(desired: Self::Desired, _document: &Document) -> Option<Self::Desired> {
        Some(desired)
    }

    /// Rules beyond the types. Pure.
    fn validate(_desired: &Self::Desired) -> Vec<Fault> {
        Vec::new()
    }

    /// What this task owns. Pure.
    fn claims(desired: &Self::Desired) -> Vec<Claim>;

    /// Packages that must be there before this task can be judged, as Debian names.
    fn packages(_desired: &Self::Desired) -> &'static [&'static str] {
        &[]
    }

    /// What [`Resource::observe`] will surely ask, so that all tasks' answers can be fetched side by side.
    fn questions(_desired: &Self::Desired, _probe: &dyn Probe) -> Vec<Command> {
        Vec::new()
    }

    /// The account as which [`Resource::observe`] will surely look, so that its child starts meanwhile.
    fn looks_as(_desired: &Self::Desired, _probe: &dyn Probe) -> Option<UserName> {
        None
    }

    /// Looks at the host.
    ///
    /// # Errors
    /// `Unknown` when it cannot be looked at, `Refused` when keyward must not touch what it found.
    fn observe(desired: &Self::Desired, facts: &Facts, probe: &dyn Probe) -> Result<Self::Observed>;

    /// What has to change, and what follows from it. Pure.
    ///
    /// # Errors
    /// `Refused` when the desired state cannot be reached safely from the observed one.
    fn plan(desired: &Self::Desired, facts: &Facts, observed: &Self::Observed) -> Result<Planned>;
}

/// A task, nothing to do, or every fault of the section.
pub type MadeTask = std::result::Result<Option<Box<dyn Task>>, Vec<Fault>>;

/// A [`Resource`] without its types: a row of the registry.
pub struct Kind {
    /// [`Resource::NAME`]
    pub name: &'static str,
    /// [`Resource::SUMMARY`]
    pub summary: &'static str,
    /// [`Resource::EXAMPLE`]
    pub example: &'static str,
    /// [`Resource::SECTION`]
    pub section: Section,
    /// JSON Schema of the desired state.
    pub schema: fn() -> schemars::Schema,
    /// Makes a task from the section's value.
    pub task: fn(&Value, &Document) -> MadeTask,
}

/// One host's wish for one object, ready to be assessed.
pub trait Task: Send + Sync {
    /// Name of the resource.
    fn resource(&self) -> &'static str;
    /// What it owns.
    fn claims(&self) -> Vec<Claim>;
    /// Packages it needs.
    fn packages(&self) -> &'static [&'static str];
    /// As [`Resource::questions`].
    fn questions(&self, _probe: &dyn Probe) -> Vec<Command> {
        Vec::new()
    }
    /// As [`Resource::looks_as`].
    fn looks_as(&self, _probe: &dyn Probe) -> Option<UserName> {
        None
    }
    /// Observes and plans.
    ///
    /// # Errors
    /// As [`Resource::observe`] and [`Resource::plan`].
    fn assess(&self, facts: &Facts, probe: &dyn Probe) -> Result<Planned>;
}

struct Typed<R: Resource>(R::Desired);

impl<R: Resource> Task for Typed<R> {
    fn resource(&self) -> &'static str {
        R::NAME
    }

    fn claims(&self) -> Vec<Claim> {
        R::claims(&self.0)
    }

    fn packages(&self) -> &'static [&'static str] {
        R::packages(&self.0)
    }

    fn questions(&self, probe: &dyn Probe) -> Vec<Command> {
        R::questions(&self.0, probe)
    }

    fn looks_as(&self, probe: &dyn Probe) -> Option<UserName> {
        R::looks_as(&self.0, probe)
    }

    fn assess(&self, facts: &Facts, probe: &dyn Probe) -> Result<Planned> {
        let observed = R::observe(&self.0, facts, probe)?;
        R::plan(&self.0, facts, &observed)
    }
}

impl Kind {
    /// The registry row of `R`.
    pub const fn of<R: Resource + 'static>() -> Self {
        Self {
            name: R::NAME,
            summary: R::SUMMARY,
            example: R::EXAMPLE,
            section: R::SECTION,
            schema: schemars::SchemaGenerator::root_schema_of::<R>,
            task: task::<R>,
        }
    }
}

fn task<R: Resource + 'static>(
    value: &Value,
    document: &Document,
) -> std::result::Result<Option<Box<dyn Task>>, Vec<Fault>> {
    let desired: R::Desired = serde_json::from_value(value.clone())
        .map_err(|error| vec![Fault::new("", error.to_string(), format!("see: keyward explain {}", R::NAME))])?;
    let Some(desired) = R::select(desired, document) else { return Ok(None) };
    let faults = R::validate(&desired);
    if faults.is_empty() { Ok(Some(Box::new(Typed::<R>(desired)))) } else { Err(faults) }
}

/// Gives the registry a plain function pointer for a resource's schema.
trait RootSchema {
    fn root_schema_of<R: Resource>() -> schemars::Schema;
}

impl RootSchema for schemars::SchemaGenerator {
    fn root_schema_of<R: Resource>() -> schemars::Schema {
        schemars::generate::SchemaSettings::draft2020_12()
            .with(|settings| settings.inline_subschemas = true)
            .into_generator()
            .into_root_schema_for::<R::Desired>()
    }
}

/// Shows by real logins and connections that promises hold; handed to the engine by the caller.
pub trait Prover {
    /// Temporary changes that the proof needs, such as an ephemeral key: applied through the journal before the proof
    /// and undone after it.
    ///
    /// # Errors
    /// When the door to prove cannot be found.
    fn scaffold(&mut self, promises: &[Promise], facts: &Facts, probe: &dyn Probe) -> Result<Vec<Change>>;

    /// Proves what can be proven of `promises` at this `moment`. The probe tells what listens and what sshd says of
    /// itself, which outside evidence is set against.
    ///
    /// # Errors
    /// When the proof could not be tried at all; a promise that does not hold is evidence, not an error.
    fn prove(&mut self, moment: Moment, promises: &[Promise], probe: &dyn Probe) -> Result<Vec<Evidence>>;
}

/// Judges who can get in before and after a plan; handed to the engine by the caller.
pub trait AccessCheck {
    /// Refuses a plan that would leave too few ways in; gives back notes for the reader otherwise.
    ///
    /// # Errors
    /// `Refused` with the reasons.
    fn check(&self, promises: &[Promise], changes: &[Change], facts: &Facts, probe: &dyn Probe) -> Result<Vec<Note>>;

    /// From where this account is let in, in words, when that is not everywhere; `None` also when it cannot be told.
    fn limited(&self, _user: &str, _facts: &Facts, _probe: &dyn Probe) -> Option<String> {
        None
    }
}

/// Keeps the way back open while a run is on; handed to the engine by the caller.
pub trait Guard {
    /// Arms the rollback and proves that it is armed. Called after packages, before the first other change.
    ///
    /// # Errors
    /// When it cannot be armed: nothing is changed then.
    fn arm(&mut self, run: &str) -> Result<()>;

    /// Old and new doors stand open from here on: whoever is to confirm may come, while this host makes its own proof.
    ///
    /// # Errors
    /// When that cannot be recorded: the run is then rolled back.
    fn opened(&mut self, _run: &str) -> Result<()> {
        Ok(())
    }

    /// Gives the one decision, which may take until the deadline: old doors may close. Gives back why.
    ///
    /// # Errors
    /// When the deadline passes, or somebody cancels: the run is then rolled back.
    fn decide(&mut self, run: &str, evidence: &[Evidence]) -> Result<String>;

    /// True when the decision is a confirmation by somebody who has come in through the new door.
    fn confirms(&self) -> bool {
        false
    }

    /// Settles that the run holds; first writer wins against the deadline.
    ///
    /// # Errors
    /// When the deadline or a cancel won: the run is then rolled back.
    fn commit(&mut self, run: &str) -> Result<()>;

    /// Tells that this process undoes the run itself. False: somebody else does already, keep out.
    fn roll_back(&mut self, run: &str) -> bool;

    /// Takes away what arming put down, once the run is closed.
    ///
    /// # Errors
    /// When something of it stays.
    fn disarm(&mut self, run: &str) -> Result<()>;
}

/// For a throw-away copy, where the proof decides and nothing can be lost.
#[derive(Debug, Default)]
pub struct Unguarded;

impl Guard for Unguarded {
    fn arm(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    fn decide(&mut self, _: &str, evidence: &[Evidence]) -> Result<String> {
        let reach = evidence.iter().map(|piece| piece.reach).max();
        let reach = reach.map_or_else(String::new, |reach| format!(", proven at {reach:?}"));
        Ok(format!("every planned way in is open{reach}"))
    }

    fn commit(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    fn roll_back(&mut self, _: &str) -> bool {
        true
    }

    fn disarm(&mut self, _: &str) -> Result<()> {
        Ok(())
    }
}

/// Reads files that a playbook names (key files, parents); handed to the playbook by the caller.
pub trait Loader {
    /// The text of `name`, relative to the playbook's directory and confined to it; `builtin:NAME` for built-ins.
    ///
    /// # Errors
    /// When it is missing, escapes the directory, is writable by others when run as root, or is too large.
    fn load(&self, name: &str) -> std::result::Result<String, Failure>;

    /// What an inventory says for one host: a playbook whose `vars` are laid over those that the playbook declares.
    fn overlay(&self) -> Option<String> {
        None
    }
}

/// The name under which an overlay is handed on.
pub const OVERLAY: &str = "(inventory)";
