//! YAML as Ansible reads it: 1.1 types, anchors, merge keys, vault and unsafe tags, the last of two equal keys. Every node
//! has its place. Aliases are bounded by what they make (a billion laughs), and so is the depth. Must not know an inventory.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Number, Value};

use super::connection::{Odd, Read, judge};
use super::notes::{Mark, Notes};
use crate::playbook::shown;

/// Deepest nesting, aliases filled in.
const MAX_DEPTH: usize = 64;
/// Most bytes of all nodes, aliases filled in.
const MAX_WEIGHT: usize = 128 * 1024 * 1024;
/// What a node counts beside its text.
const NODE: usize = 16;

/// A value with its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub at: Mark,
    pub data: Data,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(super) enum Data {
    /// Without quotes: the text decides the type.
    Plain(String),
    Text(String),
    /// With a tag that makes it unreadable.
    Odd(Odd),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub at: Mark,
    pub value: Node,
}

impl Node {
    /// True for nothing, `~` and `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.data, Data::Plain(text) if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The value as JSON, if all in it stands for itself.
    pub fn value(&self) -> Read {
        judge(self.convert()?)
    }

    fn convert(&self) -> Read {
        Ok(match &self.data {
            Data::Plain(text) => typed(text),
            Data::Text(text) => Value::String(text.clone()),
            Data::Odd(odd) => return Err(*odd),
            Data::List(items) => Value::Array(items.iter().map(Self::convert).collect::<Result<_, _>>()?),
            Data::Map(entries) => {
                let pairs = entries.iter().map(|entry| Ok((entry.key.clone(), entry.value.convert()?)));
                Value::Object(pairs.collect::<Result<Map<_, _>, _>>()?)
            }
        })
    }

    /// Weight and depth.
    fn measure(&self) -> (usize, usize) {
        match &self.data {
            Data::Plain(text) | Data::Text(text) => (NODE + text.len(), 1),
            Data::Odd(_) => (NODE, 1),
            Data::List(items) => {
                items.iter().map(Self::measure).fold((NODE, 1), |all, one| (all.0 + one.0, all.1.max(one.1 + 1)))
            }
            Data::Map(entries) => entries.iter().fold((NODE, 1), |all, entry| {
                let one = entry.value.measure();
                (all.0 + NODE + entry.key.len() + one.0, all.1.max(one.1 + 1))
            }),
        }
    }
}

enum Frame {
    List {
        at: Mark,
        anchor: usize,
        items: Vec<Node>,
    },
    Map {
        at: Mark,
        anchor: usize,
        entries: Vec<Entry>,
        seen: HashMap<String, usize>,
        merges: Vec<Node>,
        key: Option<Key>,
    },
}

/// A key that waits for its value.
enum Key {
    Named(String, Mark),
    Merge,
    /// Noted already.
    Lost,
}

struct Builder<'n> {
    notes: &'n mut Notes,
    source: Mark,
    stack: Vec<Frame>,
    anchors: HashMap<usize, (Node, usize, usize)>,
    root: Option<Node>,
    weight: usize,
}

/// Reads one document; `None` with the fault noted, or when there is nothing.
pub(super) fn parse(notes: &mut Notes, source: Mark, text: &str) -> Option<Node> {
    let mut builder = Builder { notes, source, stack: Vec::new(), anchors: HashMap::new(), root: None, weight: 0 };
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        match event {
            Ok((Event::DocumentStart(_), span)) => {
                documents += 1;
                if documents > 1 {
                    let at = builder.at(span);
                    builder.notes.fault(at, "a second document", "keep one document a file: remove the '---'");
                    return None;
                }
            }
            Ok((event, span)) => builder.take(event, span)?,
            Err(error) => {
                let at = source.to(error.marker().line().max(1), error.marker().col() + 1);
                let (what, hint) = if error.info().contains("recursion") {
                    (format!("nested deeper than {MAX_DEPTH}"), "flatten it")
                } else {
                    (
                        format!("not YAML: {}", shown(error.info())),
                        "check indentation, brackets and quotes from here upwards",
                    )
                };
                builder.notes.fault(at, what, hint);
                return None;
            }
        }
    }
    builder.root
}

impl Builder<'_> {
    fn at(&self, span: Span) -> Mark {
        self.source.to(span.start.line(), span.start.col() + 1)
    }

    /// Takes one event; `None` when a bound is passed, which is noted.
    fn take(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let at = self.at(span);
        self.weight += NODE;
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.weight += text.len();
                self.value(Node { at, data: scalar(text.into_owned(), style, tag.as_deref()) }, anchor);
            }
            Event::Alias(anchor) => {
                let Some((node, weight, depth)) = self.anchors.get(&anchor) else {
                    self.notes.fault(at, "an alias of what has not ended yet", "write the value out");
                    return None;
                };
                self.weight = self.weight.saturating_add(*weight);
                if self.weight > MAX_WEIGHT || self.stack.len() + depth > MAX_DEPTH {
                    self.notes.fault(at, "aliases make too much of this file", "write the values out");
                    return None;
                }
                let node = Node { at, data: node.data.clone() };
                self.value(node, 0);
            }
            Event::SequenceStart(anchor, _) => self.stack.push(Frame::List { at, anchor, items: Vec::new() }),
            Event::MappingStart(anchor, _) => self.stack.push(Frame::Map {
                at,
                anchor,
                entries: Vec::new(),
                seen: HashMap::new(),
                merges: Vec::new(),
                key: None,
            }),
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame::List { at, anchor, items }) => self.value(Node { at, data: Data::List(items) }, anchor),
                Some(Frame::Map { at, anchor, mut entries, seen, merges, .. }) => {
                    self.merge(&mut entries, seen, merges);
                    self.value(Node { at, data: Data::Map(entries) }, anchor);
                }
                None => {}
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {}
        }
        if self.stack.len() > MAX_DEPTH || self.weight > MAX_WEIGHT {
            self.notes.fault(
                at,
                format!("nested deeper than {MAX_DEPTH}, or too much for one file"),
                "flatten it, or split it",
            );
            return None;
        }
        Some(())
    }

    /// Puts a finished node where it belongs.
    fn value(&mut self, node: Node, anchor: usize) {
        if anchor != 0 {
            let (weight, depth) = node.measure();
            self.anchors.insert(anchor, (node.clone(), weight, depth));
            self.weight = self.weight.saturating_add(weight);
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { key, entries, seen, merges, .. }) => match key.take() {
                None => {
                    *key = Some(match node.data {
                        Data::Plain(text) if text == "<<" => Key::Merge,
                        Data::Plain(text) | Data::Text(text) => Key::Named(text, node.at),
                        Data::Odd(_) | Data::List(_) | Data::Map(_) => {
                            let hint = "write a name before the ':', and a text that begins with '{' in quotes";
                            self.notes.fault(node.at, "a list, a mapping or a tag as a key", hint);
                            Key::Lost
                        }
                    });
                }
                Some(Key::Lost) => {}
                Some(Key::Merge) => merges.push(node),
                Some(Key::Named(name, at)) => {
                    if let Some(old) = seen.get(&name).and_then(|index| entries.get_mut(*index)) {
                        let what = format!("'{}' is here twice, and the last one holds, as in Ansible", shown(&name));
                        self.notes.unread(at, what, "keep one of the two");
                        (old.at, old.value) = (at, node);
                    } else {
                        seen.insert(name.clone(), entries.len());
                        entries.push(Entry { key: name, at, value: node });
                    }
                }
            },
        }
    }

    /// Adds what `<<` names and the mapping does not say itself; of a list the first one wins.
    fn merge(&mut self, entries: &mut Vec<Entry>, mut seen: HashMap<String, usize>, merges: Vec<Node>) {
        let maps = merges.into_iter().flat_map(|node| match node.data {
            Data::List(items) => items,
            _ => vec![node],
        });
        for map in maps {
            let Data::Map(more) = map.data else {
                self.notes.fault(map.at, "'<<' takes a mapping or a list of mappings", "write the keys out");
                continue;
            };
            for entry in more {
                if !seen.contains_key(&entry.key) {
                    seen.insert(entry.key.clone(), entries.len());
                    entries.push(entry);
                }
            }
        }
    }
}

fn scalar(text: String, style: ScalarStyle, tag: Option<&Tag>) -> Data {
    let Some(tag) = tag else {
        return if style == ScalarStyle::Plain { Data::Plain(text) } else { Data::Text(text) };
    };
    let core = tag.handle.starts_with("tag:yaml.org,2002") || tag.handle == "!!";
    match tag.suffix.as_str() {
        "vault" | "vault-encrypted" => Data::Odd(Odd::Vault),
        "unsafe" => Data::Text(text),
        "str" if core => Data::Text(text),
        "int" | "bool" | "float" | "null" if core => Data::Plain(text),
        _ => Data::Odd(Odd::Tag),
    }
}

/// The value of a word without quotes by YAML 1.1, as PyYAML reads it (yaml.org: "YAML 1.1 types"); dates, infinite numbers
/// and numbers beyond 64 bits stay text.
fn typed(text: &str) -> Value {
    let lower = text.to_ascii_lowercase();
    let cased = text == lower || text.bytes().all(|b| b.is_ascii_uppercase()) || text.get(1..) == lower.get(1..);
    match lower.as_str() {
        "" | "~" => return Value::Null,
        "null" if cased => return Value::Null,
        "yes" | "true" | "on" if cased => return Value::Bool(true),
        "no" | "false" | "off" if cased => return Value::Bool(false),
        _ => {}
    }
    number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    let (minus, body) = match text.strip_prefix('-') {
        Some(body) => (true, body),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !body.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let sign = if minus { -1 } else { 1 };
    let plain = body.replace('_', "");
    let based = |digits: &str, base: u32| {
        let fine = !digits.is_empty() && digits.chars().all(|c| c.is_digit(base));
        let number = i64::from_str_radix(digits, base).ok().filter(|_| fine)?;
        Some(Number::from(sign * number))
    };
    if let Some(digits) = plain.strip_prefix("0x") {
        return based(digits, 16);
    }
    if let Some(digits) = plain.strip_prefix("0b") {
        return based(digits, 2);
    }
    if plain.bytes().all(|b| b.is_ascii_digit()) {
        return if plain.len() > 1 && plain.starts_with('0') { based(&plain, 8) } else { based(&plain, 10) };
    }
    if plain.contains(':') {
        return base_sixty(&plain).map(|number| Number::from(sign * number));
    }
    let (mantissa, exponent) = plain.split_once(['e', 'E']).map_or((plain.as_str(), None), |(m, e)| (m, Some(e)));
    let signed =
        |e: &str| e.strip_prefix(['+', '-']).is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
    let (whole, part) = mantissa.split_once('.')?;
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let fine = digits(whole) && digits(part) && !(whole.is_empty() && part.is_empty()) && exponent.is_none_or(signed);
    let value: f64 = plain.parse().ok().filter(|_| fine)?;
    Number::from_f64(if minus { -value } else { value })
}

/// `190:20:30` in YAML 1.1 is a number to base 60, which surprises, but is what Ansible sees.
fn base_sixty(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let first = parts.next().filter(|first| !first.is_empty() && !first.starts_with('0'))?;
    parts.try_fold(first.parse().ok()?, |all: i64, part| {
        let fine = (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        let number: i64 = part.parse().ok().filter(|number| fine && *number < 60)?;
        all.checked_mul(60)?.checked_add(number)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(text: &str) -> (Option<Node>, Vec<String>) {
        let mut notes = Notes::default();
        let source = notes.open("f", 0).unwrap();
        let node = parse(&mut notes, source, text);
        (node, notes.into_faults().iter().map(crate::error::Failure::line).collect())
    }

    #[test]
    fn words_have_the_types_that_ansible_sees() {
        for (text, want) in [
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("TRUE", json!(true)),
            ("y", json!("y")),
            ("yEs", json!("yEs")),
            ("~", json!(null)),
            ("NULL", json!(null)),
            ("0644", json!(420)),
            ("0o644", json!("0o644")),
            ("089", json!("089")),
            ("0x1f", json!(31)),
            ("0b11", json!(3)),
            ("-1_000", json!(-1000)),
            ("1.5", json!(1.5)),
            ("1.", json!(1.0)),
            ("1e3", json!("1e3")),
            ("1.0e+3", json!(1000.0)),
            ("12:30", json!(750)),
            ("2001:db8::1", json!("2001:db8::1")),
            ("1.2.3.4", json!("1.2.3.4")),
            ("2026-01-01", json!("2026-01-01")),
            ("99999999999999999999", json!("99999999999999999999")),
            (".", json!(".")),
            (".inf", json!(".inf")),
        ] {
            assert_eq!(typed(text), want, "{text}");
        }
    }

    #[test]
    fn anchors_merges_tags_and_blocks_are_read() {
        let text = "a: &a { x: 1, y: 2 }\nb: { <<: *a, y: 3 }\nc: [ *a, !!str 1, !unsafe plain ]\nd: |\n  one\n  two\n";
        let (node, faults) = parsed(text);
        let want = json!({"a": {"x": 1, "y": 2}, "b": {"y": 3, "x": 1}, "c": [{"x": 1, "y": 2}, "1", "plain"], "d": "one\ntwo\n"});
        assert_eq!((node.unwrap().value(), faults), (Ok(want), vec![]));
        for (text, odd) in [
            ("a: !vault |\n  $ANSIBLE_VAULT;1\n", Odd::Vault),
            ("a: [ !thing x ]", Odd::Tag),
            ("a: '{{ b }}'", Odd::Template),
        ] {
            assert_eq!(parsed(text).0.unwrap().value(), Err(odd), "{text}");
        }
    }

    #[test]
    fn what_grows_or_nests_without_end_is_refused() {
        let mut laughs = String::from("a0: &a0 [ lol, lol, lol, lol, lol, lol, lol, lol, lol, lol ]\n");
        for n in 1..30 {
            let alias = vec![format!("*a{}", n - 1); 10].join(", ");
            laughs.push_str(&format!("a{n}: &a{n} [ {alias} ]\n"));
        }
        let mut tower = String::from("a0: &a0 [ x ]\n");
        for n in 1..20_000 {
            tower.push_str(&format!("a{n}: &a{n} [[[ *a{} ]]]\n", n - 1));
        }
        let large = format!("a: &a {}\nb: [ {} ]\n", "x".repeat(1_000_000), vec!["*a"; 1000].join(", "));
        let start = std::time::Instant::now();
        for text in [
            &laughs,
            &tower,
            &large,
            &"[".repeat(200_000),
            &"- ".repeat(200_000),
            &"{a: ".repeat(100_000),
            "a: &a [ *a ]",
            "a: *b",
            "a: [",
            "a: 1\n---\nb: 2\n",
            "[a]: 1",
            "a: { <<: 1 }",
        ] {
            let (_, faults) = parsed(text);
            assert_eq!(faults.len(), 1, "{}: {faults:?}", text.chars().take(60).collect::<String>());
        }
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
