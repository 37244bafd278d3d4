//! From what the user wrote to one host's tasks: parse with places, validate everything in one go, resolve variables,
//! parents and key files. Must not look at the host, and must not know a concrete resource: the registry is handed in.
//!
//! `text -> Node (places) -> joined with its parents -> Document (valid) -> Tasks`

mod beside;
mod builtin;
mod check;
mod explain;
mod extend;
mod fault;
mod nearest;
mod node;
mod rules;
mod scalar;
mod schema;
mod source;
mod starter;
mod vars;
mod wording;
mod words;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::change::Claim;
use crate::resource::{Document, Kind, LoadedFile, Loader, Section, Task};

pub use builtin::{BUILTINS, builtin};
pub use explain::explain;
pub(crate) use fault::mask;
pub use fault::{Faults, Located};
pub(crate) use nearest::nearest;
pub(crate) use node::{Data, Entry, Node as Written, parse_up_to, shown};
pub(crate) use scalar::{Reading, read as typed};
pub use schema::{conflicts, schema};
pub(crate) use source::{At, Report, escape};
pub use source::{MAX_BYTES, decode, decode_up_to};
pub use starter::{Found, Listener, starter};
pub(crate) use vars::is_name;

use check::Checker;
use extend::Family;
use node::Node;
use source::Spot;

/// Marks a part of the schema that was judged before the walk.
const JUDGED: &str = "x-judged";

/// A valid playbook.
pub struct Playbook {
    /// SHA-256 over every text read, with names and lengths, hexadecimal.
    pub digest: String,
    /// Every text read: the playbook, what it extends, key files.
    pub sources: Vec<LoadedFile>,
    /// The values.
    pub document: Document,
    /// One a mapping section and one a list item, in the order of the registry, then of the playbook.
    pub tasks: Vec<Box<dyn Task>>,
    /// Proven administrators that must remain.
    pub min_ways_in: u32,
    /// Names of the variables that it declares.
    pub vars: Vec<String>,
}

/// Loads, validates and resolves the playbook `name`: a path as the user typed it, `-`, or `builtin:NAME`. The loader is
/// asked for the last component of the path, and for names relative to its directory.
///
/// # Errors
/// Every fault of the playbook and of what it extends, sorted.
pub fn load(name: &str, registry: &'static [Kind], loader: &dyn Loader) -> Result<Playbook, Faults> {
    let mut family = Family::load(name, loader);
    let joined = family.join();
    let Family { mut report, texts, declared, .. } = family;
    let Some(root) = joined else { return Err(report.finish()) };
    let walked = walked(registry);
    let mut checker = Checker::new(loader);
    let values = checker.check(&root, &walked);
    report.spots.append(&mut checker.spots);
    let clean = report.spots.is_empty();
    let Value::Object(values) = values else { return Err(report.finish()) };
    let document = Document(values.into_iter().collect());
    // What is sound is judged even if something else is not, so that one run tells everything.
    report.spots.extend(rules::judge(&mut checker, &root, &walked));
    let walk = Walk { registry, document: &document, root: &root, schema: &walked, clean };
    let tasks = walk.tasks(&mut checker, &mut report);
    if !report.spots.is_empty() {
        return Err(report.finish());
    }
    let files = checker.files.into_iter().filter_map(|(name, text)| Some(LoadedFile { name, text: text.ok()? }));
    let sources: Vec<LoadedFile> = texts.into_iter().chain(files).collect();
    let min_ways_in = document.section("min_ways_in").as_u64().and_then(|ways| u32::try_from(ways).ok()).unwrap_or(1);
    Ok(Playbook { digest: digest(&sources), sources, document, tasks, min_ways_in, vars: declared })
}

/// The schema that a playbook is walked along, composed once for a registry: a fleet has a playbook for each host.
///
/// `vars` and `extends` were judged while they were resolved; judging them again would repeat their faults.
fn walked(registry: &'static [Kind]) -> Arc<Value> {
    static KNOWN: Mutex<Vec<(&[Kind], Arc<Value>)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, schema)) = known.iter().find(|(of, _)| std::ptr::eq(*of, registry)) {
        return schema.clone();
    }
    let mut schema = schema(registry);
    for key in ["vars", "extends"] {
        if let Some(slot) = schema.pointer_mut(&format!("/properties/{key}")) {
            *slot = serde_json::json!({ JUDGED: true });
        }
    }
    let schema = Arc::new(schema);
    known.push((registry, schema.clone()));
    schema
}

fn digest(sources: &[LoadedFile]) -> String {
    let mut sum = Sha256::new();
    for source in sources {
        for part in [&source.name, &source.text] {
            sum.update((part.len() as u64).to_be_bytes());
            sum.update(part.as_bytes());
        }
    }
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A playbook that was walked along the schema.
struct Walk<'w> {
    registry: &'static [Kind],
    document: &'w Document,
    root: &'w Node,
    schema: &'w Value,
    /// No fault was found.
    clean: bool,
}

impl Walk<'_> {
    /// Makes the tasks; faults of resources and double claims go to the report.
    fn tasks(&self, checker: &mut Checker<'_>, report: &mut Report) -> Vec<Box<dyn Task>> {
        let mut made: Vec<Box<dyn Task>> = Vec::new();
        let mut owners: BTreeMap<Claim, (At, &'static str)> = BTreeMap::new();
        for kind in self.registry {
            let shape = shape(kind, self.schema);
            for (value, node) in wishes(kind, self.document, self.root) {
                if !self.clean && checker.alone(node, shape).is_none() {
                    let faults = |value: &Value| (kind.task)(value, self.document).err().unwrap_or_default();
                    report.spots.extend(beside::judge(checker, node, shape, &faults));
                    continue;
                }
                match (kind.task)(value, self.document) {
                    Ok(None) => {}
                    Ok(Some(task)) => {
                        claim(task.as_ref(), node.at, &mut owners, report);
                        made.push(task);
                    }
                    Err(faults) => report.spots.extend(faults.into_iter().map(|fault| Spot {
                        at: node.find(&fault.path),
                        what: fault.what,
                        hint: fault.hint,
                    })),
                }
            }
        }
        made
    }
}

/// The schema of one wish of a kind.
fn shape<'s>(kind: &Kind, schema: &'s Value) -> &'s Value {
    let path = match kind.section {
        Section::Map(name) => format!("/properties/{name}"),
        Section::Each(name) => format!("/properties/{name}/items"),
    };
    schema.pointer(&path).unwrap_or(&Value::Null)
}

/// The values of a kind's section with their places.
fn wishes<'a>(kind: &Kind, document: &'a Document, root: &'a Node) -> Vec<(&'a Value, &'a Node)> {
    match kind.section {
        Section::Map(name) => root.get(name).map(|node| (document.section(name), node)).into_iter().collect(),
        Section::Each(name) => {
            let nodes = root.get(name).map(Node::items).unwrap_or_default();
            let values = document.section(name).as_array().map(Vec::as_slice).unwrap_or_default();
            values.iter().zip(nodes).collect()
        }
    }
}

fn claim(task: &dyn Task, at: At, owners: &mut BTreeMap<Claim, (At, &'static str)>, report: &mut Report) {
    for claim in task.claims() {
        if let Some((first, resource)) = owners.get(&claim) {
            let what = match &claim {
                Claim::Path(path) => format!("file {path}"),
                Claim::Account(user) => format!("account {}", crate::types::Word::text(user)),
                Claim::Service(name) => format!("service {name}"),
            };
            let what = format!("{what} belongs to {resource} already, at {}", report.place(*first));
            report.add(at, what, "one place of a playbook owns a thing: join the two");
        } else {
            owners.insert(claim, (at, task.resource()));
        }
    }
}
