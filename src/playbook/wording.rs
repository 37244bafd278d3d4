//! What a schema asks for, in words, and how to write it: the texts of faults and of the reference.

use serde_json::Value;

use super::node::{Scalar, shown};
use super::scalar::{Odd, Reading, read};
use super::schema::is_open;
use super::words;

/// True when `schema` (or one of its branches) allows values of `wanted`.
pub(super) fn takes(schema: &Value, wanted: &str) -> bool {
    if let Some(branches) = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)).and_then(Value::as_array) {
        return branches.iter().any(|branch| takes(branch, wanted));
    }
    match schema.get("type") {
        Some(Value::String(one)) => one == wanted || (wanted == "integer" && one == "number"),
        Some(Value::Array(many)) => many.iter().any(|one| one == wanted),
        _ => match schema.get("const").or_else(|| schema.get("enum")?.get(0)) {
            Some(word) => word.is_string() && wanted == "string",
            None => is_open(schema) || (wanted == "object" && schema.get("properties").is_some()),
        },
    }
}

pub(super) fn odd_hint(odd: &Odd, scalar: &Scalar, schema: &Value) -> String {
    let mut ways = Vec::new();
    if let Some(value) = odd.as_bool.filter(|_| takes(schema, "boolean")) {
        ways.push(format!("write {value}"));
    }
    if let Some(number) = odd.as_int.filter(|_| takes(schema, "integer")) {
        ways.push(format!("write {number}"));
    }
    if takes(schema, "string") {
        ways.push(text_hint(&scalar.text, schema));
    }
    if ways.is_empty() { shape_hint(schema) } else { ways.join(", or ") }
}

/// How to write `text` where text is expected.
pub(super) fn text_hint(text: &str, schema: &Value) -> String {
    let octal = text.len() < 5 && !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    if schema.get("format").and_then(Value::as_str) == Some(words::MODE) && octal {
        return format!("write \"{text:0>4}\", in quotes");
    }
    format!("write \"{}\", in quotes", shown(text))
}

pub(super) fn shape_hint(schema: &Value) -> String {
    format!("write {}", sample(schema))
}

/// The range of an integer type, which schemars names as the format.
pub(super) fn width(schema: &Value) -> (Option<i64>, Option<i64>) {
    match schema.get("format").and_then(Value::as_str) {
        Some("uint8") => (Some(0), Some(i64::from(u8::MAX))),
        Some("uint16") => (Some(0), Some(i64::from(u16::MAX))),
        Some("uint32") => (Some(0), Some(i64::from(u32::MAX))),
        Some("int32") => (Some(i64::from(i32::MIN)), Some(i64::from(i32::MAX))),
        Some("uint64" | "uint") => (Some(0), None),
        _ => (None, None),
    }
}

/// Words as they are written in a playbook: those that need quotes have them.
pub(super) fn quoted(words: &[&str]) -> String {
    let quote = |word: &&str| match read(&Scalar { text: (*word).to_owned(), plain: true }) {
        Reading::Text => (*word).to_owned(),
        _ => format!("\"{word}\""),
    };
    words.iter().map(quote).collect::<Vec<_>>().join(", ")
}

/// What a schema asks for, in words.
pub(super) fn describe(schema: &Value) -> String {
    if let Some(branches) = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)).and_then(Value::as_array) {
        return branches.iter().map(describe).collect::<Vec<_>>().join(" or ");
    }
    if let Some(all) = schema.get("enum").and_then(Value::as_array) {
        let words: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
        return match (words.as_slice(), all.as_slice()) {
            ([], [one]) => one.to_string(),
            ([one], _) => quoted(&[one]),
            (many, _) => format!("one of {}", quoted(many)),
        };
    }
    if let Some(word) = schema.get("const").and_then(Value::as_str) {
        return quoted(&[word]);
    }
    let (low, high) = width(schema);
    let limit = |key: &str, usual: Option<i64>| {
        let given = schema.get(key).and_then(Value::as_f64).map(|number| format!("{number:.0}"));
        given.or_else(|| usual.map(|number| number.to_string()))
    };
    let kind = |name: &str| match name {
        "boolean" => "true or false".to_owned(),
        "integer" | "number" => match (limit("minimum", low), limit("maximum", high)) {
            (Some(least), Some(most)) => format!("a number from {least} to {most}"),
            (Some(least), None) => format!("a number from {least}"),
            _ => "a number".to_owned(),
        },
        "array" => "a list".to_owned(),
        "object" => "a mapping".to_owned(),
        _ => words::about(schema).unwrap_or_else(|| "text".to_owned()),
    };
    match schema.get("type") {
        Some(Value::String(one)) => kind(one),
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).map(kind).collect::<Vec<_>>().join(" or "),
        _ => "a value".to_owned(),
    }
}

/// One right value, as it is written.
pub(super) fn sample(schema: &Value) -> String {
    if let Some(branch) = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)?.get(0)) {
        return sample(branch);
    }
    let given = schema.get("examples").and_then(|all| all.get(0)).or_else(|| schema.get("default"));
    let first = given.or_else(|| schema.get("enum")?.get(0)).or_else(|| schema.get("const"));
    match first {
        Some(Value::String(word)) => return quoted(&[word]),
        Some(Value::Number(number)) => return number.to_string(),
        Some(Value::Bool(value)) => return value.to_string(),
        _ => {}
    }
    if takes(schema, "boolean") {
        "true or false".to_owned()
    } else if takes(schema, "integer") {
        describe(schema)
    } else if takes(schema, "array") {
        format!("[ {} ]", sample(schema.get("items").unwrap_or(&Value::Null)))
    } else if takes(schema, "object") {
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let names =
            schema.get("properties").and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name.as_str());
        let first = required.chain(names).next().unwrap_or("key");
        format!("{{ {first}: ... }}")
    } else {
        words::sample(schema)
    }
}
