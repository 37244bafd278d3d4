//! `{{ name }}` in texts. Values only: no expressions, and what a variable holds is never read for variables again.

use std::collections::BTreeMap;

use super::nearest::nearest;
use super::node::{Data, Node, Scalar, shown};
use super::scalar::{Reading, read};
use super::source::{At, Report};

/// Longest text with variables filled in.
const MAX_TEXT: usize = 64 * 1024;

/// The variables of a playbook and of what it extends.
#[derive(Default)]
pub(super) struct Vars(BTreeMap<String, Option<Scalar>>);

impl Vars {
    /// Takes the `vars` of one file in; they win over those taken before.
    pub fn take(&mut self, root: &Node, report: &mut Report) {
        let Some(vars) = root.get("vars") else { return };
        if matches!(vars.data, Data::Scalar(_) | Data::List(_)) {
            report.add(vars.at, "vars is a mapping of names to values", "write vars: { admin: deploy }");
        }
        for entry in vars.entries().iter().filter(|entry| !entry.is_lost()) {
            if !is_name(&entry.key) {
                let hint = "a name is a-z or '_', then a-z, 0-9 and '_'";
                report.add(entry.key_at, format!("'{}' cannot be the name of a variable", shown(&entry.key)), hint);
                continue;
            }
            let value = self.value(&entry.value, report);
            self.0.insert(entry.key.clone(), value);
        }
    }

    /// The names that are declared.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// Takes over what an inventory says of the variables that the playbook declares; others are no business of its.
    pub fn take_over(&mut self, root: &Node, report: &mut Report) {
        let entries = root.get("vars").map(Node::entries).unwrap_or_default();
        for entry in entries {
            if !self.0.contains_key(&entry.key) {
                continue;
            }
            let value = self.value(&entry.value, report);
            self.0.insert(entry.key.clone(), value);
        }
    }

    /// `None` stands for a value that was reported: its uses are not reported again.
    fn value(&self, node: &Node, report: &mut Report) -> Option<Scalar> {
        let (what, hint) = match &node.data {
            Data::Broken => return None,
            Data::Map(_) if node.get("env").is_some() || node.get("command").is_some() => {
                ("values from elsewhere are not read by this version".to_owned(), "write the value itself".to_owned())
            }
            Data::Map(_) | Data::List(_) => (
                "a variable holds one text, number, true or false".to_owned(),
                "write the list or mapping where it is used".to_owned(),
            ),
            Data::Scalar(scalar) if scalar.text.contains("{{") => {
                ("a variable inside a variable".to_owned(), "write the text out".to_owned())
            }
            Data::Scalar(scalar) => match read(scalar) {
                Reading::Null => ("a variable without a value".to_owned(), "write \"\" for an empty text".to_owned()),
                Reading::Odd(odd) => {
                    let text = shown(&scalar.text);
                    let typed = odd.as_bool.map(|b| b.to_string()).or(odd.as_int.map(|n| n.to_string()));
                    let hint = typed.map_or_else(String::new, |typed| format!(", or {typed}"));
                    (format!("'{text}' without quotes is {}", odd.why), format!("write \"{text}\", in quotes{hint}"))
                }
                _ => return Some(scalar.clone()),
            },
        };
        report.add(node.at, what, hint);
        None
    }

    /// Puts the values in the place of their names, everywhere below `node`.
    pub fn fill(&self, node: &mut Node, report: &mut Report) {
        let at = node.at;
        match &mut node.data {
            Data::Map(entries) => entries.iter_mut().for_each(|entry| self.fill(&mut entry.value, report)),
            Data::List(items) => items.iter_mut().for_each(|item| self.fill(item, report)),
            Data::Broken => {}
            Data::Scalar(scalar) if scalar.text.contains("{{") => {
                node.data = self.filled(at, &scalar.text, report).map_or(Data::Broken, Data::Scalar);
            }
            Data::Scalar(_) => {}
        }
    }

    fn filled(&self, at: At, text: &str, report: &mut Report) -> Option<Scalar> {
        let (mut out, mut rest, mut whole, mut fine) = (String::new(), text, None, true);
        while let Some((before, after)) = rest.split_once("{{") {
            out.push_str(before);
            let Some((inner, after)) = after.split_once("}}") else {
                report.add(narrow(at, "{{", report), "'{{' without '}}'", "write \"{{ name }}\"");
                return None;
            };
            let name = inner.trim();
            match self.0.get(name) {
                Some(Some(value)) => {
                    out.push_str(&value.text);
                    whole = Some(value);
                }
                Some(None) => fine = false,
                None => {
                    fine = false;
                    let (what, hint) = self.missing(name);
                    report.add(narrow(at, &format!("{{{{{inner}}}}}"), report), what, hint);
                }
            }
            if out.len() > MAX_TEXT {
                report.add(at, format!("the text grows beyond {MAX_TEXT} bytes"), "write less");
                return None;
            }
            rest = after;
            if !(before.is_empty() && after.is_empty() && out.len() == whole.map_or(0, |value| value.text.len())) {
                whole = None;
            }
        }
        out.push_str(rest);
        if !fine {
            return None;
        }
        Some(whole.cloned().unwrap_or(Scalar { text: out, plain: false }))
    }

    fn missing(&self, name: &str) -> (String, String) {
        if !is_name(name) {
            let hint = "only a name can stand there, such as \"{{ admin }}\"; there are no expressions";
            return (format!("'{}' is not the name of a variable", shown(name)), hint.to_owned());
        }
        let hint = match nearest(name, self.0.keys().map(String::as_str)) {
            Some(known) => format!("did you mean '{known}'?"),
            None => format!("add it to the vars section: vars: {{ {name}: ... }}"),
        };
        (format!("unknown variable '{}'", shown(name)), hint)
    }
}

pub(crate) fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && text.len() <= 64
}

/// The place of `part` inside the scalar at `at`, when it stands there literally.
fn narrow(at: At, part: &str, report: &Report) -> At {
    let skipped = at.column.saturating_sub(1);
    let line: String = report.line(at).chars().skip(skipped).take(at.length).collect();
    match line.find(part) {
        Some(byte) => {
            let before = line.get(..byte).map_or(0, |head| head.chars().count());
            At { column: at.column + before, length: part.chars().count(), ..at }
        }
        None => at,
    }
}
