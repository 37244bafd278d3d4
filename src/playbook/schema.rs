//! One JSON Schema for the whole playbook: the core keys and every resource of the registry at its section. The
//! validator, `explain` and editors read the same schema, so they cannot drift apart.

use serde_json::{Map, Value, json};

use crate::resource::{Kind, Section};

/// The name of a variable.
pub(super) const VAR_PATTERN: &str = "^[a-z_][a-z0-9_]*$";

/// The schema of a playbook (JSON Schema 2020-12), for editors and for `keyward schema`.
pub fn schema(registry: &[Kind]) -> Value {
    compose(registry).0
}

/// Where two resources disagree about a property they share; empty unless the source is wrong.
pub fn conflicts(registry: &[Kind]) -> Vec<String> {
    compose(registry).1
}

fn compose(registry: &[Kind]) -> (Value, Vec<String>) {
    let mut conflicts = Vec::new();
    let mut properties = core();
    for kind in registry {
        let item = tidy((kind.schema)().to_value());
        let name = match kind.section {
            Section::Map(name) | Section::Each(name) => name,
        };
        let is_list = matches!(kind.section, Section::Each(_));
        let fresh = if is_list { json!({ "type": "array", "items": closed() }) } else { closed() };
        let slot = properties.entry(name.to_owned()).or_insert(fresh);
        let target = if is_list { slot.get_mut("items") } else { Some(slot) };
        match target {
            Some(target) if target.get("properties").is_some() => join(target, &item, name, kind.name, &mut conflicts),
            _ => conflicts.push(format!("{name}: both a list and a mapping ({})", kind.name)),
        }
    }
    let root = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "keyward playbook",
        "type": "object",
        "properties": properties,
        "required": ["version"],
        "additionalProperties": false,
    });
    (root, conflicts)
}

fn core() -> Map<String, Value> {
    let core = json!({
        "version": {
            "type": "integer", "enum": [1],
            "description": "version of the playbook language",
        },
        "vars": {
            "type": "object",
            "propertyNames": { "pattern": VAR_PATTERN },
            "additionalProperties": { "type": ["string", "integer", "boolean"] },
            "description": "values used as \"{{ name }}\" in texts below; a text that is nothing else keeps the type",
        },
        "extends": {
            "type": "array", "items": { "type": "string" },
            "description": "playbooks to build on, builtin:NAME or a file in the playbook's directory; later ones and this playbook win, users are joined by name, other lists replace",
        },
        "min_ways_in": {
            "type": "integer", "minimum": 1, "maximum": 64, "default": 1,
            "description": "administrators who must still be able to log in and use sudo after every step, proven",
        },
    });
    match core {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn closed() -> Value {
    json!({ "type": "object", "properties": {}, "required": [], "additionalProperties": false })
}

/// Adds the properties of a resource to its section.
fn join(target: &mut Value, item: &Value, section: &str, resource: &str, conflicts: &mut Vec<String>) {
    if let Some(text) = item.get("description").cloned()
        && let Some(map) = target.as_object_mut()
        && !map.contains_key("description")
    {
        map.insert("description".to_owned(), text);
    }
    if let Some(have) = target.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, wanted) in item.get("properties").and_then(Value::as_object).into_iter().flatten() {
            match have.get(name) {
                Some(present) if is_open(present) => {
                    have.insert(name.clone(), wanted.clone());
                }
                Some(present) if !is_open(wanted) && bare(present) != bare(wanted) => {
                    conflicts.push(format!("{section}.{name}: {resource} reads it differently"));
                }
                Some(_) => {}
                None => {
                    have.insert(name.clone(), wanted.clone());
                }
            }
        }
    }
    if let Some(have) = target.get_mut("required").and_then(Value::as_array_mut) {
        for name in item.get("required").and_then(Value::as_array).into_iter().flatten() {
            if !have.contains(name) {
                have.push(name.clone());
            }
        }
    }
}

/// True when a schema says nothing about the value.
pub(super) fn is_open(schema: &Value) -> bool {
    match schema {
        Value::Bool(allowed) => *allowed,
        Value::Object(map) => {
            !["type", "enum", "const", "anyOf", "oneOf", "properties"].iter().any(|k| map.contains_key(*k))
        }
        _ => false,
    }
}

/// A schema without what is only for the reader.
fn bare(schema: &Value) -> Value {
    match schema {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, value)| {
                // A property may have such a name; then its schema stands there.
                value.is_object() || !["description", "title", "default", "examples"].contains(&key.as_str())
            });
            Value::Object(kept.map(|(key, value)| (key.clone(), bare(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(bare).collect()),
        other => other.clone(),
    }
}

/// Brings a generated schema into the shape that a playbook has: nothing is null (a key is there or not), nothing but the
/// known keys is allowed, choices among fixed words are one `enum`.
fn tidy(schema: Value) -> Value {
    let Value::Object(map) = schema else { return schema };
    let mut out = Map::new();
    for (key, value) in map {
        match key.as_str() {
            "$schema" | "title" | "unevaluatedProperties" => {}
            "properties" => {
                let inner = value.as_object().cloned().unwrap_or_default();
                out.insert(key, Value::Object(inner.into_iter().map(|(name, sub)| (name, tidy(sub))).collect()));
            }
            "anyOf" | "oneOf" | "allOf" | "prefixItems" => {
                let branches = value.as_array().cloned().unwrap_or_default();
                let kept = branches.into_iter().filter(|sub| sub.get("type") != Some(&json!("null"))).map(tidy);
                out.insert(key, Value::Array(kept.collect()));
            }
            "items" | "additionalProperties" => {
                out.insert(key, tidy(value));
            }
            "type" => {
                let types =
                    value.as_array().map(|all| all.iter().filter(|t| **t != "null").cloned().collect::<Vec<_>>());
                out.insert(
                    key,
                    match types.as_deref() {
                        Some([one]) => one.clone(),
                        Some(many) => Value::Array(many.to_vec()),
                        None => value,
                    },
                );
            }
            "default" if value.is_null() => {}
            "enum" => {
                let kept = value.as_array().map(|all| all.iter().filter(|word| !word.is_null()).cloned().collect());
                out.insert(key, Value::Array(kept.unwrap_or_default()));
            }
            _ => {
                out.insert(key, value);
            }
        }
    }
    flatten(&mut out);
    if out.contains_key("properties") && !out.contains_key("additionalProperties") {
        out.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    Value::Object(out)
}

/// Single branches are drawn in, `allOf` is joined, fixed words become one `enum` with their meanings beside it.
fn flatten(out: &mut Map<String, Value>) {
    for word in ["anyOf", "oneOf", "allOf"] {
        let Some(Value::Array(branches)) = out.get(word).cloned() else { continue };
        if word == "allOf" || branches.len() == 1 {
            out.remove(word);
            for branch in branches {
                absorb(out, branch);
            }
            continue;
        }
        let (fixed, rest): (Vec<Value>, Vec<Value>) = branches.into_iter().partition(|b| fixed_words(b).is_some());
        if fixed.is_empty() {
            continue;
        }
        let words: Vec<Value> = fixed.iter().filter_map(fixed_words).flatten().collect();
        let about: Map<String, Value> = fixed.iter().flat_map(meanings).collect();
        let mut choice = json!({ "type": "string", "enum": words });
        if let (false, Some(map)) = (about.is_empty(), choice.as_object_mut()) {
            map.insert("x-meanings".to_owned(), Value::Object(about));
        }
        out.remove(word);
        if rest.is_empty() {
            absorb(out, choice);
        } else {
            out.insert("anyOf".to_owned(), Value::Array([vec![choice], rest].concat()));
        }
    }
}

/// Adds the keys of `branch` that are not there; properties and required names are joined.
fn absorb(out: &mut Map<String, Value>, branch: Value) {
    let Value::Object(branch) = branch else { return };
    for (key, value) in branch {
        match (out.get_mut(&key), value) {
            (Some(Value::Object(have)), Value::Object(more)) if key == "properties" => have.extend(more),
            (Some(Value::Array(have)), Value::Array(more)) if key == "required" => have.extend(more),
            (Some(_), _) => {}
            (None, value) => {
                out.insert(key, value);
            }
        }
    }
}

/// The words of a branch that allows fixed texts only.
fn fixed_words(branch: &Value) -> Option<Vec<Value>> {
    if let Some(word) = branch.get("const").filter(|word| word.is_string()) {
        return Some(vec![word.clone()]);
    }
    let words = branch.get("enum")?.as_array()?;
    words.iter().all(Value::is_string).then(|| words.clone())
}

fn meanings(branch: &Value) -> Vec<(String, Value)> {
    if let Some(Value::Object(known)) = branch.get("x-meanings") {
        return known.clone().into_iter().collect();
    }
    let (Some(word), Some(text)) = (branch.get("const").and_then(Value::as_str), branch.get("description")) else {
        return Vec::new();
    };
    vec![(word.to_owned(), text.clone())]
}
