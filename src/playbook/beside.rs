//! What can still be judged of a value that has faults, so that one run tells everything. The faulty parts are cut out,
//! and what right values could stand in their place is tried: a fault that is found whatever stands there does not
//! follow from them. Must not report a fault that the reader's next correction could make go away by itself.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::check::Checker;
use super::node::{Data, Node};
use super::schema::is_open;
use super::source::Spot;
use super::wording::{takes, width};
use super::{JUDGED, words};
use crate::resource::{Fault, LoadedFile};

/// Most values that are judged again: each part that is missing costs a few judgements of all the rest. Beyond that
/// nothing is tried, since nobody asks what else is wrong with such a text.
const MAX_JUDGED: usize = 30_000;

/// A part that is missing, and what could stand there.
struct Cut {
    /// JSON pointer to the mapping or list that it is missing from.
    within: String,
    /// The key; none for one more item of a list.
    key: Option<String>,
    /// What is tried, one after the other; `None` is nothing at all.
    tries: Vec<Option<Value>>,
}

/// The faults that `judge` finds in what is sound of `node`, with their places.
pub(super) fn judge(
    checker: &mut Checker<'_>,
    node: &Node,
    schema: &Value,
    judge: &dyn Fn(&Value) -> Vec<Fault>,
) -> Vec<Spot> {
    let mut cuts = Vec::new();
    let Some((sound, value)) = whittle(checker, node, schema, "", &mut cuts) else { return Vec::new() };
    let count: usize = 1 + cuts.iter().map(|cut| cut.tries.len()).sum::<usize>();
    if count.saturating_mul(count.max(sound.size())) > MAX_JUDGED {
        return Vec::new();
    }
    let mut variants = variants(&cuts).into_iter().map(|picked| judge(&filled(&value, &cuts, &picked)));
    let mut faults = variants.next().unwrap_or_default();
    // A fault of the value as a whole hangs on all of its parts.
    faults.retain(|fault| !fault.path.is_empty());
    for other in variants {
        if faults.is_empty() {
            break;
        }
        let found: BTreeSet<_> = other.iter().map(|fault| (&fault.path, &fault.what, &fault.hint)).collect();
        faults.retain(|fault| found.contains(&(&fault.path, &fault.what, &fault.hint)));
    }
    let place = |fault: Fault| Spot { at: sound.find(&fault.path), what: fault.what, hint: fault.hint };
    faults.into_iter().map(place).collect()
}

/// `node` and its value without the parts that have a fault; `None` when nothing is left of it.
fn whittle(
    checker: &mut Checker<'_>,
    node: &Node,
    schema: &Value,
    here: &str,
    cuts: &mut Vec<Cut>,
) -> Option<(Node, Value)> {
    if let Some(value) = checker.alone(node, schema) {
        return Some((node.clone(), value));
    }
    // Of a choice between shapes nobody knows which one was meant.
    if schema.get("anyOf").or_else(|| schema.get("oneOf")).is_some() || is_open(schema) {
        return None;
    }
    match &node.data {
        Data::Map(_) if takes(schema, "object") => Some(map(checker, node, schema, here, cuts)),
        Data::List(items) if takes(schema, "array") => {
            let sub = schema.get("items").unwrap_or(&Value::Null);
            let (mut kept, mut values) = (Vec::new(), Vec::new());
            for item in items {
                if let Some((node, value)) = whittle(checker, item, sub, &format!("{here}/{}", kept.len()), cuts) {
                    kept.push(node);
                    values.push(value);
                }
            }
            if kept.len() < items.len() {
                cuts.push(Cut { within: here.to_owned(), key: None, tries: tries(sub, true) });
            }
            Some((Node { at: node.at, data: Data::List(kept) }, Value::Array(values)))
        }
        _ => None,
    }
}

fn map(checker: &mut Checker<'_>, node: &Node, schema: &Value, here: &str, cuts: &mut Vec<Cut>) -> (Node, Value) {
    let empty = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let required = |name: &str| {
        schema.get("required").and_then(Value::as_array).is_some_and(|all| all.iter().any(|one| one == name))
    };
    let cut = |key: &str, sub: &Value, cuts: &mut Vec<Cut>| {
        cuts.push(Cut { within: here.to_owned(), key: Some(key.to_owned()), tries: tries(sub, !required(key)) });
    };
    let (mut kept, mut out) = (Vec::new(), Map::new());
    // A key that is not known may have been meant for any that is not there, and so may what could not be read.
    let open = node.entries().iter().any(|entry| !properties.contains_key(&entry.key));
    for entry in node.entries() {
        let Some(sub) = properties.get(&entry.key).filter(|sub| sub.get(JUDGED).is_none()) else { continue };
        match whittle(checker, &entry.value, sub, &format!("{here}/{}", entry.key), cuts) {
            None => cut(&entry.key, sub, cuts),
            Some((node, value)) => {
                out.insert(entry.key.clone(), value);
                kept.push(super::node::Entry { value: node, ..entry.clone() });
            }
        }
    }
    for (name, sub) in properties.iter().filter(|(name, sub)| node.get(name).is_none() && sub.get(JUDGED).is_none()) {
        if open || required(name) {
            cut(name, sub, cuts);
        }
    }
    (Node { at: node.at, data: Data::Map(kept) }, Value::Object(out))
}

/// What could stand where `schema` is asked for.
fn tries(schema: &Value, may_be_absent: bool) -> Vec<Option<Value>> {
    let nothing = may_be_absent.then_some(None);
    nothing.into_iter().chain(right_values(schema).into_iter().map(Some)).collect()
}

/// Right values that differ in what they mean: each word of a choice, both ends of a range, with and without what may be
/// left out.
fn right_values(schema: &Value) -> Vec<Value> {
    if let Some(branches) = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)).and_then(Value::as_array) {
        return branches.iter().flat_map(right_values).collect();
    }
    if let Some(all) = schema.get("enum").and_then(Value::as_array) {
        return all.clone();
    }
    if let Some(word) = schema.get("const") {
        return vec![word.clone()];
    }
    if takes(schema, "boolean") {
        vec![Value::Bool(true), Value::Bool(false)]
    } else if takes(schema, "integer") {
        let limit = |key: &str| schema.get(key).and_then(Value::as_i64);
        let (low, high) = width(schema);
        let (least, most) = (limit("minimum").or(low).unwrap_or(0), limit("maximum").or(high).unwrap_or(1_000_000));
        vec![json!(least), json!(least.saturating_add(1000).min(most)), json!(most)]
    } else if takes(schema, "array") {
        let items = schema.get("items").map(right_values).unwrap_or_default();
        std::iter::once(json!([])).chain(items.into_iter().map(|item| json!([item]))).collect()
    } else if takes(schema, "object") {
        let (mut least, mut most) = (Map::new(), Map::new());
        for (name, sub) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let Some(value) = right_values(sub).into_iter().next() else { continue };
            if schema.get("required").and_then(Value::as_array).is_some_and(|all| all.iter().any(|one| one == name)) {
                least.insert(name.clone(), value.clone());
            }
            most.insert(name.clone(), value);
        }
        vec![Value::Object(least), Value::Object(most)]
    } else {
        match schema.get("format").and_then(Value::as_str) {
            Some(LoadedFile::FORMAT) => vec![json!({ "name": "deploy.pub", "text": words::KEY })],
            Some(format) => words::right(format).iter().map(|text| json!(text)).collect(),
            None => vec![json!("22")],
        }
    }
}

/// Which try each part gets: the first ones, then each part's others while the rest keeps its first, then all parts'
/// second ones together, and so on. Not each combination: there are too many, and two parts that only together undo a
/// fault are met when all go on.
fn variants(cuts: &[Cut]) -> Vec<Vec<usize>> {
    let first = vec![0; cuts.len()];
    let mut variants = vec![first.clone()];
    for (at, cut) in cuts.iter().enumerate() {
        for pick in 1..cut.tries.len() {
            let mut one = first.clone();
            if let Some(slot) = one.get_mut(at) {
                *slot = pick;
            }
            variants.push(one);
        }
    }
    let most = cuts.iter().map(|cut| cut.tries.len()).max().unwrap_or(0);
    variants.extend((1..most).map(|pick| cuts.iter().map(|cut| pick.min(cut.tries.len() - 1)).collect()));
    variants
}

fn filled(value: &Value, cuts: &[Cut], picked: &[usize]) -> Value {
    let mut value = value.clone();
    for (cut, pick) in cuts.iter().zip(picked) {
        let Some(Some(tried)) = cut.tries.get(*pick) else { continue };
        match (value.pointer_mut(&cut.within), &cut.key) {
            (Some(Value::Object(map)), Some(key)) => {
                map.insert(key.clone(), tried.clone());
            }
            (Some(Value::Array(items)), None) => items.push(tried.clone()),
            _ => {}
        }
    }
    value
}
