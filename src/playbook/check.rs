//! Walks what the user wrote along the schema, notes every fault with its place, and gives back the values. Files that
//! the playbook names are read here, through the [`Loader`]. Must not look at the host.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::nearest::nearest;
use super::node::{Data, Node, Scalar, shown};
use super::scalar::{Reading, read};
use super::schema::is_open;
use super::source::{At, Spot};
use super::wording::{describe, odd_hint, quoted, sample, shape_hint, takes, text_hint, width};
use super::words;
use crate::error::Failure;
use crate::resource::{LoadedFile, Loader};

/// The walk over one playbook.
pub(super) struct Checker<'l> {
    loader: &'l dyn Loader,
    /// What was found.
    pub spots: Vec<Spot>,
    /// Files read, by name, so that none is read twice.
    pub files: BTreeMap<String, Result<String, Failure>>,
}

impl<'l> Checker<'l> {
    pub fn new(loader: &'l dyn Loader) -> Self {
        Self { loader, spots: Vec::new(), files: BTreeMap::new() }
    }

    /// The value of `node` when it has no fault. What it has is reported elsewhere, and not here.
    pub fn alone(&mut self, node: &Node, schema: &Value) -> Option<Value> {
        if node.is_broken() {
            return None;
        }
        let before = std::mem::take(&mut self.spots);
        let value = self.check(node, schema);
        std::mem::replace(&mut self.spots, before).is_empty().then_some(value)
    }

    fn add(&mut self, at: At, what: impl Into<String>, hint: impl Into<String>) {
        self.spots.push(Spot { at, what: what.into(), hint: hint.into() });
    }

    /// Judges `node` by `schema`; the value is of use only when no fault was found.
    pub fn check(&mut self, node: &Node, schema: &Value) -> Value {
        if matches!(node.data, Data::Broken) {
            return Value::Null;
        }
        if let Some(branches) = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)).and_then(Value::as_array) {
            return self.choose(node, schema, branches);
        }
        if is_open(schema) {
            return self.free(node);
        }
        match &node.data {
            Data::Map(_) if takes(schema, "object") => self.map(node, schema),
            Data::List(items) if takes(schema, "array") => self.list(node, items, schema),
            Data::Scalar(scalar) => self.scalar(node.at, scalar, schema),
            _ => {
                let hint = shape_hint(schema);
                self.add(node.at, format!("expected {}, found {}", describe(schema), found(node)), hint);
                Value::Null
            }
        }
    }

    /// A value that no resource describes: only its scalars can be judged.
    fn free(&mut self, node: &Node) -> Value {
        match &node.data {
            Data::Map(entries) => {
                Value::Object(entries.iter().map(|entry| (entry.key.clone(), self.free(&entry.value))).collect())
            }
            Data::List(items) => Value::Array(items.iter().map(|item| self.free(item)).collect()),
            Data::Scalar(scalar) => self.scalar(node.at, scalar, &json!({ "type": ["string", "integer", "boolean"] })),
            Data::Broken => Value::Null,
        }
    }

    fn map(&mut self, node: &Node, schema: &Value) -> Value {
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let extra =
            schema.get("additionalProperties").filter(|extra| extra.is_object() || **extra == Value::Bool(true));
        let absent: Vec<&str> = properties.keys().map(String::as_str).filter(|name| node.get(name).is_none()).collect();
        let (mut out, mut meant) = (Map::new(), Vec::new());
        // What is missing may stand where the text could not be read.
        let whole = node.entries().iter().all(|entry| !entry.is_lost());
        for entry in node.entries().iter().filter(|entry| !entry.is_lost()) {
            match properties.get(&entry.key).or(extra) {
                Some(sub) if sub.get(super::JUDGED).is_some() => {}
                Some(sub) => {
                    let value = self.valued(&entry.key, entry.key_at, &entry.value, sub);
                    out.insert(entry.key.clone(), value);
                }
                None => meant.extend(self.unknown(entry.key_at, &entry.key, properties, &absent)),
            }
        }
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            // A misspelt key is one fault, not two.
            if absent.contains(&name) && !meant.iter().any(|word| word == name) && whole {
                let sub = properties.get(name).unwrap_or(&Value::Null);
                self.add(node.at, format!("'{name}' is missing"), format!("add {name}: {}", sample(sub)));
            }
        }
        Value::Object(out)
    }

    /// A key without a value is its own fault: the reader forgot something, or meant to leave the key out.
    fn valued(&mut self, key: &str, key_at: At, node: &Node, schema: &Value) -> Value {
        if let Data::Scalar(scalar) = &node.data
            && read(scalar) == Reading::Null
        {
            let at = if scalar.text.is_empty() { key_at } else { node.at };
            let hint = format!("write {key}: {}, or leave the key out", sample(schema));
            self.add(at, format!("'{}' has no value", shown(key)), hint);
            return Value::Null;
        }
        self.check(node, schema)
    }

    /// Reports a key that is not known here; gives back the key that was meant, when one is near.
    fn unknown(&mut self, at: At, key: &str, properties: &Map<String, Value>, absent: &[&str]) -> Option<String> {
        let known = properties.keys().map(String::as_str);
        // Among hundreds of faults nobody looks for slips of the pen.
        let close = if self.spots.len() > 200 {
            None
        } else {
            nearest(key, absent.iter().copied()).or_else(|| nearest(key, known.clone()))
        };
        let near = close.map(str::to_owned);
        let hint = match &near {
            _ if ["hosts", "profiles"].contains(&key) => {
                "kept for a later version; write one playbook a host, with extends for what they share".to_owned()
            }
            Some(word) => format!("did you mean '{word}'?"),
            None => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
        };
        self.add(at, format!("unknown key '{}'", shown(key)), hint);
        near
    }

    fn list(&mut self, node: &Node, items: &[Node], schema: &Value) -> Value {
        let open = Value::Bool(true);
        let sub = schema.get("items").unwrap_or(&open);
        let values: Vec<Value> = items.iter().map(|item| self.check(item, sub)).collect();
        let count = |key: &str| schema.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        if let Some(least) = count("minItems").filter(|least| items.len() < *least) {
            self.add(node.at, format!("{} items, {least} is the least", items.len()), format!("add {}", sample(sub)));
        }
        if let Some(most) = count("maxItems").filter(|most| items.len() > *most) {
            self.add(node.at, format!("{} items, {most} is the most", items.len()), "remove some");
        }
        if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
            for (index, (value, item)) in values.iter().zip(items).enumerate() {
                if !value.is_null() && values.iter().take(index).any(|earlier| earlier == value) {
                    self.add(item.at, "the same item twice", "remove one of the two");
                }
            }
        }
        Value::Array(values)
    }

    /// Of several allowed shapes the one that the user most likely meant decides which faults are shown.
    fn choose(&mut self, node: &Node, schema: &Value, branches: &[Value]) -> Value {
        let fitting: Vec<&Value> = branches.iter().filter(|branch| fits(node, branch)).collect();
        let mut best: Option<((usize, usize), Vec<Spot>, Value)> = None;
        for branch in &fitting {
            let before = std::mem::take(&mut self.spots);
            let value = self.check(node, branch);
            let spots = std::mem::replace(&mut self.spots, before);
            if spots.is_empty() {
                return value;
            }
            let known = branch.get("properties").and_then(Value::as_object);
            let strange = node.entries().iter().filter(|e| !known.is_some_and(|k| k.contains_key(&e.key))).count();
            let rank = (strange, spots.len() + usize::from(spots.iter().all(|s| !s.hint.contains("did you mean"))));
            if best.as_ref().is_none_or(|(lowest, ..)| rank < *lowest) {
                best = Some((rank, spots, value));
            }
        }
        let wide = fitting.len() > 1 && matches!(node.data, Data::Scalar(_));
        match best {
            Some((_, spots, value)) if !wide || spots.iter().any(|s| s.hint.contains("did you mean")) => {
                self.spots.extend(spots);
                value
            }
            Some((_, spots, value)) => {
                // Several texts would do: say all of them, with the most precise reason.
                let what = spots.last().map_or_else(String::new, |spot| spot.what.clone());
                let wanted: Vec<String> = fitting.iter().map(|branch| describe(branch)).collect();
                self.add(node.at, what, format!("write {}", wanted.join(", or ")));
                value
            }
            None => match &node.data {
                Data::Scalar(scalar) if !matches!(read(scalar), Reading::Text) => {
                    self.mismatch(node.at, scalar, schema);
                    Value::Null
                }
                _ => {
                    self.add(
                        node.at,
                        format!("expected {}, found {}", describe(schema), found(node)),
                        shape_hint(schema),
                    );
                    Value::Null
                }
            },
        }
    }

    fn scalar(&mut self, at: At, scalar: &Scalar, schema: &Value) -> Value {
        match read(scalar) {
            Reading::Text if takes(schema, "string") => self.text(at, &scalar.text, schema),
            Reading::Bool(value) if takes(schema, "boolean") => Value::Bool(value),
            Reading::Int(number) if takes(schema, "integer") => {
                self.number(at, number, schema);
                Value::from(number)
            }
            _ => {
                self.mismatch(at, scalar, schema);
                Value::Null
            }
        }
    }

    fn number(&mut self, at: At, number: i64, schema: &Value) {
        let limit = |key: &str| schema.get(key).and_then(|v| v.as_i64().or_else(|| v.as_f64().map(|f| f as i64)));
        let (low, high) = width(schema);
        let (least, most) = (limit("minimum").or(low), limit("maximum").or(high));
        let allowed = schema.get("enum").and_then(Value::as_array);
        let listed = allowed.is_none_or(|all| all.contains(&Value::from(number)));
        if !listed || least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
            self.add(at, format!("{number} is not {}", describe(schema)), format!("write {}", sample(schema)));
        }
    }

    fn text(&mut self, at: At, text: &str, schema: &Value) -> Value {
        let allowed =
            schema.get("enum").and_then(Value::as_array).cloned().or_else(|| Some(vec![schema.get("const")?.clone()]));
        if let Some(allowed) = allowed {
            let words: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            if !words.contains(&text) {
                let hint = nearest(text, words.iter().copied()).map_or_else(
                    || format!("write one of: {}", quoted(&words)),
                    |word| format!("did you mean {}?", quoted(&[word])),
                );
                self.add(at, format!("not {}", describe(schema)), hint);
            }
            return Value::from(text);
        }
        match schema.get("format").and_then(Value::as_str) {
            Some(LoadedFile::FORMAT) => return self.load(at, text),
            Some(format) => {
                if let Some(Err(invalid)) = words::check(format, text) {
                    self.add(at, invalid.why, invalid.hint);
                }
            }
            None => {}
        }
        let length = text.chars().count();
        let count = |key: &str| schema.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        if count("minLength").is_some_and(|least| length < least)
            || count("maxLength").is_some_and(|most| length > most)
        {
            self.add(at, format!("{length} characters"), format!("write {}", describe(schema)));
        }
        Value::from(text)
    }

    fn load(&mut self, at: At, name: &str) -> Value {
        let loaded = match self.files.get(name) {
            Some(known) => known.clone(),
            None => {
                let fresh = self.loader.load(name);
                self.files.insert(name.to_owned(), fresh.clone());
                fresh
            }
        };
        match loaded {
            Ok(text) => json!({ "name": name, "text": text }),
            Err(failure) => {
                self.add(at, failure.line(), failure.hint);
                Value::Null
            }
        }
    }

    /// A scalar of the wrong type, with the way to write the right one.
    fn mismatch(&mut self, at: At, scalar: &Scalar, schema: &Value) {
        let text = shown(&scalar.text);
        let (what, hint) = match read(scalar) {
            Reading::Odd(odd) => (format!("'{text}' without quotes is {}", odd.why), odd_hint(&odd, scalar, schema)),
            Reading::Null => ("no value".to_owned(), format!("write {}", sample(schema))),
            Reading::Text => {
                let hint = match read(&Scalar { text: scalar.text.clone(), plain: true }) {
                    Reading::Int(number) if takes(schema, "integer") => format!("write {number}, without quotes"),
                    Reading::Bool(value) if takes(schema, "boolean") => format!("write {value}, without quotes"),
                    Reading::Odd(odd) => odd_hint(&odd, scalar, schema),
                    _ => shape_hint(schema),
                };
                (format!("expected {}, found text", describe(schema)), hint)
            }
            Reading::Int(_) | Reading::Bool(_) if takes(schema, "string") => {
                let kind = if matches!(read(scalar), Reading::Int(_)) { "a number" } else { "true or false" };
                (format!("expected {}, found {kind}", describe(schema)), text_hint(&scalar.text, schema))
            }
            Reading::Int(_) => (format!("expected {}, found a number", describe(schema)), shape_hint(schema)),
            Reading::Bool(_) => (format!("expected {}, found {text}", describe(schema)), shape_hint(schema)),
        };
        self.add(at, what, hint);
    }
}

fn fits(node: &Node, branch: &Value) -> bool {
    match &node.data {
        Data::Map(_) => takes(branch, "object"),
        Data::List(_) => takes(branch, "array"),
        Data::Broken => true,
        Data::Scalar(scalar) => match read(scalar) {
            Reading::Text => takes(branch, "string"),
            Reading::Bool(_) => takes(branch, "boolean"),
            Reading::Int(_) => takes(branch, "integer"),
            Reading::Null | Reading::Odd(_) => false,
        },
    }
}

fn found(node: &Node) -> &'static str {
    match &node.data {
        Data::Map(_) => "a mapping",
        Data::List(_) => "a list",
        Data::Broken => "nothing",
        Data::Scalar(scalar) => match read(scalar) {
            Reading::Null => "nothing",
            Reading::Bool(_) => "true or false",
            Reading::Int(_) => "a number",
            Reading::Text | Reading::Odd(_) => "text",
        },
    }
}
