//! The reference of the playbook language, made from the schema: every field with type, default, meaning and an example.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::nearest::nearest;
use super::schema::schema;
use super::wording::describe;
use crate::error::{Failure, Result};
use crate::resource::{Kind, Section};

/// Widest line.
const WIDTH: usize = 80;

/// All sections and resources, or one of them (by resource or section name) with every field.
///
/// # Errors
/// `Input` when nothing has that name.
pub fn explain(registry: &[Kind], name: Option<&str>) -> Result<String> {
    let root = schema(registry);
    let empty = Map::new();
    let properties = root.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let Some(name) = name else { return Ok(overview(registry, properties)) };
    let kinds: Vec<&Kind> = registry.iter().filter(|kind| kind.name == name || section(kind) == name).collect();
    let key = kinds.first().map_or(name, |kind| section(kind));
    let Some(entry) = properties.get(key) else {
        let known =
            registry.iter().flat_map(|kind| [kind.name, section(kind)]).chain(properties.keys().map(String::as_str));
        let hint =
            nearest(name, known).map_or_else(|| "keyward explain".to_owned(), |word| format!("keyward explain {word}"));
        return Err(Failure::input("explain", format!("there is no section or resource '{name}'")).hint(hint));
    };
    let mut out = String::new();
    let shape = if entry.get("type").is_some_and(|kind| kind == "array") && !kinds.is_empty() {
        "a list; each item:"
    } else {
        ""
    };
    let _ = writeln!(out, "{key}: {}", if shape.is_empty() { describe(entry) } else { shape.to_owned() });
    for kind in &kinds {
        wrap(&format!("{}: {}", kind.name, kind.summary), 2, &mut out);
    }
    match kinds.as_slice() {
        [] => meaning(entry, 2, &mut out),
        // A resource that shares its section shows its own fields; the section shows all of them.
        [one] if one.name == name && name != key => {
            let own = (one.schema)().to_value();
            fields(entry, own.get("properties").and_then(Value::as_object), 2, &mut out);
        }
        _ => fields(entry, None, 2, &mut out),
    }
    for kind in kinds.iter().filter(|kind| !kind.example.is_empty()) {
        let _ = write!(out, "\nexample:\n\n");
        for line in kind.example.trim_matches('\n').lines() {
            let _ = writeln!(out, "    {line}");
        }
    }
    Ok(out)
}

fn section(kind: &Kind) -> &'static str {
    match kind.section {
        Section::Map(name) | Section::Each(name) => name,
    }
}

fn overview(registry: &[Kind], properties: &Map<String, Value>) -> String {
    let mut out = String::from("a playbook is a YAML mapping of these sections:\n\n");
    for (name, entry) in properties {
        let kinds: Vec<&Kind> = registry.iter().filter(|kind| section(kind) == name).collect();
        let text = if kinds.is_empty() {
            entry.get("description").and_then(Value::as_str).unwrap_or_default().to_owned()
        } else {
            kinds.iter().map(|kind| format!("{} ({})", kind.summary, kind.name)).collect::<Vec<_>>().join("; ")
        };
        let _ = writeln!(out, "  {name}");
        wrap(&text, 6, &mut out);
    }
    out.push_str("\nall fields of one: keyward explain NAME\n");
    out
}

/// The fields of a section, list item or branch.
fn fields(schema: &Value, only: Option<&Map<String, Value>>, indent: usize, out: &mut String) {
    let branches = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)).and_then(Value::as_array);
    for branch in branches.into_iter().flatten() {
        fields(branch, None, indent, out);
    }
    if let Some(items) = schema.get("items") {
        fields(items, only, indent, out);
    }
    let required: Vec<&Value> = schema.get("required").and_then(Value::as_array).into_iter().flatten().collect();
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        if only.is_some_and(|only| !only.contains_key(name)) {
            continue;
        }
        let mut head = format!("{name}: {}", of_items(field));
        match field.get("default") {
            Some(Value::Array(items)) if items.is_empty() => {}
            Some(value) => {
                let _ = write!(head, ", default {value}");
            }
            None if required.iter().any(|word| *word == name) => head.push_str(", required"),
            None => {}
        }
        out.push('\n');
        wrap(&head, indent, out);
        meaning(field, indent + 4, out);
        fields(field, None, indent + 4, out);
    }
}

fn of_items(field: &Value) -> String {
    match field.get("items") {
        Some(items) if items.get("properties").is_none() => format!("a list; each item {}", describe(items)),
        _ => describe(field),
    }
}

fn meaning(field: &Value, indent: usize, out: &mut String) {
    if let Some(text) = field.get("description").and_then(Value::as_str) {
        wrap(text, indent, out);
    }
    for (word, text) in field.get("x-meanings").and_then(Value::as_object).into_iter().flatten() {
        wrap(&format!("{word}: {}", text.as_str().unwrap_or_default()), indent + 2, out);
    }
}

/// Writes `text` in lines of at most [`WIDTH`] columns, indented; continuation lines four columns further.
fn wrap(text: &str, indent: usize, out: &mut String) {
    let mut line = " ".repeat(indent);
    let mut filled = false;
    for word in text.split_whitespace() {
        if filled && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{line}");
            line = " ".repeat(indent + 2);
            filled = false;
        }
        if filled {
            line.push(' ');
        }
        line.push_str(word);
        filled = true;
    }
    if filled {
        let _ = writeln!(out, "{line}");
    }
}
