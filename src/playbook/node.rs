//! A tree of what the user wrote, every node with its place, built from parser events so that nothing that YAML allows
//! and a playbook does not can slip by: duplicate keys, anchors, aliases, tags, merge keys, further documents.
//! Must not know the schema.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::source::{At, Report, escape};
use crate::types::is_forbidden;

/// Deepest nesting.
const MAX_DEPTH: usize = 64;
/// Most nodes in one playbook.
const MAX_NODES: usize = 100_000;
/// Most faults of structure before the rest of the file is left unread.
const MAX_FAULTS: usize = 1_000;
const FLATTEN: &str = "flatten it; no section goes deeper than 5";
const NO_ALIAS: &str =
    "write the value out, or put quotes around a text that begins with '*'; playbooks have vars instead";

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub at: At,
    pub data: Data,
}

#[derive(Debug, Clone)]
pub(crate) enum Data {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Already reported; nothing more is said about it.
    Broken,
}

/// Text as it stands, unescaped.
#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub text: String,
    /// Without quotes: the text decides the type.
    pub plain: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: String,
    pub key_at: At,
    pub value: Node,
}

impl Entry {
    /// Stands for keys that could not be read; no key of a playbook is empty.
    const fn lost(at: At) -> Self {
        Self { key: String::new(), key_at: at, value: Node { at, data: Data::Broken } }
    }

    /// True when it stands for keys that could not be read.
    pub const fn is_lost(&self) -> bool {
        self.key.is_empty()
    }
}

impl Node {
    /// True when a fault below was reported already, so that the value is not what the user wrote.
    pub fn is_broken(&self) -> bool {
        match &self.data {
            Data::Broken => true,
            Data::Scalar(_) => false,
            Data::List(items) => items.iter().any(Node::is_broken),
            Data::Map(entries) => entries.iter().any(|entry| entry.value.is_broken()),
        }
    }

    /// Marks the last part at each depth as one that may go on in what could not be read.
    fn fray(&mut self) {
        let at = self.at;
        match &mut self.data {
            Data::List(items) => {
                items.iter_mut().last().into_iter().for_each(Self::fray);
                items.push(Self { at, data: Data::Broken });
            }
            Data::Map(entries) => {
                entries.iter_mut().last().into_iter().for_each(|entry| entry.value.fray());
                entries.push(Entry::lost(at));
            }
            Data::Scalar(scalar) if scalar.plain && scalar.text.is_empty() => self.data = Data::Broken,
            Data::Scalar(_) | Data::Broken => {}
        }
    }

    /// How many values it holds, itself among them.
    pub fn size(&self) -> usize {
        1 + self.items().iter().chain(self.entries().iter().map(|entry| &entry.value)).map(Self::size).sum::<usize>()
    }

    /// The entries of a mapping.
    pub fn entries(&self) -> &[Entry] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list.
    pub fn items(&self) -> &[Node] {
        match &self.data {
            Data::List(items) => items,
            _ => &[],
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value)
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// The place of the deepest node on the dotted `path` that there is.
    pub fn find(&self, path: &str) -> At {
        let mut node = self;
        let mut at = self.at;
        for part in path.split('.').filter(|part| !part.is_empty()) {
            let next = match part.parse::<usize>() {
                Ok(index) if matches!(node.data, Data::List(_)) => node.items().get(index),
                _ => node.get(part),
            };
            let Some(next) = next else { break };
            (node, at) = (next, next.at);
        }
        at
    }
}

/// Where a list or mapping that is being read stands.
enum Frame {
    List { at: At, items: Vec<Node> },
    Map { at: At, entries: Vec<Entry>, seen: HashMap<String, usize>, key: Option<(Option<String>, At)> },
}

struct Builder<'r> {
    report: &'r mut Report,
    file: usize,
    stack: Vec<Frame>,
    root: Option<Node>,
    nodes: usize,
    most: usize,
    faults_before: usize,
}

/// Reads one file. `None` when there is no root mapping; the reason is in the report. After a fault of syntax the part
/// before it is given back, and the report says that keys may be missing.
pub(super) fn parse(report: &mut Report, file: usize, text: &str) -> Option<Node> {
    parse_up_to(report, file, text, MAX_NODES)
}

/// The same for other files of ours, of `most` nodes.
pub(crate) fn parse_up_to(report: &mut Report, file: usize, text: &str, most: usize) -> Option<Node> {
    let first = text.lines().enumerate().find(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    if let Some((number, line)) = first.filter(|(_, line)| line.starts_with('%')) {
        let at = At { file, line: number + 1, column: 1, length: line.chars().count() };
        report.add(at, "YAML directive", "remove the line; playbooks are YAML 1.2 without tags");
        return None;
    }
    let root = read(report, file, text, most);
    let whole = At { file, line: 1, column: 1, length: 1 };
    match root {
        None if report.partial => {}
        None => report.add(whole, "the playbook is empty", "begin with: version: 1"),
        Some(Node { data: Data::Scalar(ref scalar), .. }) if scalar.plain && scalar.text.is_empty() => {
            report.add(whole, "the playbook is empty", "begin with: version: 1");
        }
        Some(Node { at, data: Data::List(_) | Data::Scalar(_) }) => {
            report.add(at, "a playbook is a mapping of sections", "begin with: version: 1");
        }
        Some(Node { data: Data::Broken, .. }) => {}
        Some(root) => return Some(root),
    }
    None
}

/// Most aliases to nowhere that are reported one by one.
const MAX_LOST: usize = 20;

/// An alias without an anchor ends the parser; it is reported here and blanked out, so that the rest is judged as well.
fn read(report: &mut Report, file: usize, text: &str, most: usize) -> Option<Node> {
    let (mut text, mut lost) = (text.to_owned(), Vec::new());
    loop {
        let (before, partial) = (report.spots.len(), report.partial);
        let (root, error) = read_events(report, file, &text, most);
        let star = error.filter(|error| error.info().contains("unknown anchor") && lost.len() < MAX_LOST);
        let Some(mark) = star.map(|error| *error.marker()) else {
            lost.into_iter().for_each(|at| report.add(at, "alias", NO_ALIAS));
            return root;
        };
        let byte = text.char_indices().nth(mark.index()).filter(|(_, c)| *c == '*').map(|(byte, _)| byte);
        let Some(byte) = byte else { return root };
        text.replace_range(byte..=byte, "\u{fffd}");
        report.spots.truncate(before);
        report.partial = partial;
        lost.push(At { file, line: mark.line(), column: mark.col() + 1, length: 1 });
    }
}

fn read_events(report: &mut Report, file: usize, text: &str, most: usize) -> (Option<Node>, Option<ScanError>) {
    let faults_before = report.spots.len();
    let mut builder = Builder { report, file, stack: Vec::new(), root: None, nodes: 0, most, faults_before };
    let (mut documents, mut failed) = (0, None);
    for event in Parser::new_from_str(text) {
        match event {
            Ok((Event::DocumentStart(_), span)) => {
                documents += 1;
                if documents > 1 {
                    let at = builder.at(span);
                    builder.report.add(at, "a second document", "keep one document a file: remove the '---'");
                    break;
                }
            }
            Ok((event, span)) => {
                // Beyond the limits nothing is looked at: that is what they are for.
                if !builder.take(event, span) {
                    builder.report.partial = true;
                    return (None, None);
                }
            }
            Err(error) => {
                builder.syntax(&error);
                builder.close();
                failed = Some(error);
                break;
            }
        }
    }
    (builder.root.take(), failed)
}

impl Builder<'_> {
    fn at(&self, span: Span) -> At {
        let (start, end) = (span.start, span.end);
        let length = if start.line() == end.line() { end.col().saturating_sub(start.col()) } else { usize::MAX };
        At { file: self.file, line: start.line(), column: start.col() + 1, length: length.max(1) }
    }

    /// Takes one event; false when reading has to stop.
    fn take(&mut self, event: Event<'_>, span: Span) -> bool {
        let mut at = self.at(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let marked = self.marked(at, anchor, tag.is_some());
                let node = self.scalar(at, text.into_owned(), style, marked && tag.is_some());
                self.value(node);
            }
            Event::Alias(_) => {
                self.report.add(at, "alias", NO_ALIAS);
                self.value(Node { at, data: Data::Broken });
            }
            Event::SequenceStart(anchor, tag) => {
                self.marked(at, anchor, tag.is_some());
                at.length = 1;
                self.stack.push(Frame::List { at, items: Vec::new() });
            }
            Event::MappingStart(anchor, tag) => {
                self.marked(at, anchor, tag.is_some());
                at.length = 1;
                self.stack.push(Frame::Map { at, entries: Vec::new(), seen: HashMap::new(), key: None });
            }
            Event::SequenceEnd | Event::MappingEnd => match self.stack.pop() {
                Some(Frame::List { at, items }) => self.value(Node { at, data: Data::List(items) }),
                Some(Frame::Map { at, entries, .. }) => {
                    // A block mapping begins with its first key, which the caret then underlines.
                    let first = entries.first().map(|entry| entry.key_at);
                    let at = first.filter(|key| (key.line, key.column) == (at.line, at.column)).unwrap_or(at);
                    self.value(Node { at, data: Data::Map(entries) });
                }
                None => {}
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {}
        }
        self.within_limits(at)
    }

    fn within_limits(&mut self, at: At) -> bool {
        self.nodes += 1;
        if self.stack.len() > MAX_DEPTH {
            self.report.add(at, format!("nested deeper than {MAX_DEPTH}"), FLATTEN);
            return false;
        }
        if self.nodes > self.most {
            self.report.add(at, format!("more than {} values", self.most), "split the file");
            return false;
        }
        self.report.spots.len() - self.faults_before < MAX_FAULTS
    }

    /// Reports an anchor or a tag; true if there was one.
    fn marked(&mut self, at: At, anchor: usize, tag: bool) -> bool {
        if anchor != 0 {
            self.report.add(at, "anchor", "remove the '&name'; playbooks have vars instead of anchors and aliases");
        }
        if tag {
            self.report.add(at, "tag", "remove the '!'; quotes make a text, no quotes a number or true and false");
        }
        anchor != 0 || tag
    }

    fn scalar(&mut self, at: At, text: String, style: ScalarStyle, broken: bool) -> Node {
        if broken || text.contains('\u{fffd}') {
            return Node { at, data: Data::Broken };
        }
        if let Some(c) = text.chars().find(|c| is_forbidden(*c)) {
            let (what, hint) = if c == '\n' {
                ("line break inside a value".to_owned(), "write the value on one line, in quotes")
            } else {
                (format!("control character {} inside a value", escape(c)), "remove it")
            };
            self.report.add(at, what, hint);
            return Node { at, data: Data::Broken };
        }
        Node { at, data: Data::Scalar(Scalar { text, plain: style == ScalarStyle::Plain }) }
    }

    /// Puts a finished node where it belongs: root, list item, key or value.
    fn value(&mut self, node: Node) {
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::List { items, .. }) => items.push(node),
            Some(Frame::Map { key, entries, seen, .. }) => match key.take() {
                None => {
                    let at = node.at;
                    let name = key_name(self.report, node);
                    *key = Some((name, at));
                }
                Some((None, at)) => entries.push(Entry::lost(at)),
                Some((Some(name), key_at)) => {
                    if let Some(line) = seen.get(&name) {
                        let what = format!("'{}' is here twice, first on line {line}", shown(&name));
                        self.report.add(key_at, what, "keep one of the two");
                    } else {
                        seen.insert(name.clone(), key_at.line);
                        entries.push(Entry { key: name, key_at, value: node });
                    }
                }
            },
        }
    }

    /// Ends what is open, so that the part that could be read is judged; that something is missing stays known. Also of
    /// what had ended just before: a slip of indentation ends a mapping, and its other keys are in the rest.
    fn close(&mut self) {
        self.report.partial = true;
        while let Some(frame) = self.stack.pop() {
            let node = match frame {
                Frame::List { at, items } => Node { at, data: Data::List(items) },
                Frame::Map { at, entries, .. } => Node { at, data: Data::Map(entries) },
            };
            self.value(node);
        }
        if let Some(root) = &mut self.root {
            root.fray();
        }
    }

    fn syntax(&mut self, error: &ScanError) {
        let mark = error.marker();
        let at = At { file: self.file, line: mark.line().max(1), column: mark.col() + 1, length: 1 };
        let info = error.info();
        if info.contains("recursion limit") {
            self.report.add(at, format!("nested deeper than {MAX_DEPTH}"), FLATTEN);
            return;
        }
        let mut hint = if info.contains("mapping values are not allowed") || info.contains("simple key") {
            "check the indentation, and put text that holds ': ' or begins with a special character in quotes"
                .to_owned()
        } else if info.contains("quoted") || info.contains("escape") {
            "close the quote on the same line; in double quotes a backslash is written \\\\".to_owned()
        } else if info.contains("anchor") || info.contains("alias") {
            NO_ALIAS.to_owned()
        } else {
            "check indentation, brackets and quotes from here upwards".to_owned()
        };
        if let Some(Frame::List { at: open, .. } | Frame::Map { at: open, .. }) = self.stack.last() {
            hint.push_str(&format!("; inside what begins on line {}", open.line));
        }
        self.report.add(at, format!("not YAML: {}", info.to_lowercase()), hint);
    }
}

/// The name of a key, or `None` after a report.
fn key_name(report: &mut Report, node: Node) -> Option<String> {
    let at = node.at;
    match node.data {
        Data::Scalar(Scalar { text, plain }) => {
            if plain && text == "<<" {
                report.add(at, "merge key", "write the keys out; use extends to build on another playbook");
            } else if text.is_empty() {
                report.add(at, "empty key", "write a name before the ':'");
            } else {
                return Some(text);
            }
            None
        }
        Data::Map(entries) => {
            let inner = entries.first().map_or("name", |entry| entry.key.as_str());
            let hint = format!("put quotes around it: \"{{{{ {} }}}}\"", shown(inner));
            report.add(at, "a mapping as a key", hint);
            None
        }
        Data::List(_) => {
            report.add(at, "a list as a key", "write a name before the ':'");
            None
        }
        Data::Broken => None,
    }
}

/// A user's word as it may stand in a message: short and printable.
pub(crate) fn shown(word: &str) -> String {
    let mut text: String = word.chars().take(40).map(|c| if is_forbidden(c) { '?' } else { c }).collect();
    if word.chars().count() > 40 {
        text.push_str("...");
    }
    text
}
