//! Gates: the composed tree, laid into a private directory, judged by the host's own sshd before anything goes live.

use std::collections::BTreeMap;

use super::candidate::stricter;
use super::observe::{Connection, Observed, command, connections};
use super::wanted::Setting;
use crate::change::{Expect, Gate};
use crate::facts::Facts;
use crate::formats::sshd_config::{ConfigText, Tree};
use crate::host::Staged;

/// What the composed tree must say.
pub struct Wish<'a> {
    /// Settings that must hold.
    pub settings: &'a [Setting],
    /// Ports that the Port lines give, when they change.
    pub ports: Option<Vec<u16>>,
    /// A port for `-C`.
    pub port: u16,
}

/// The gates of a tree: its syntax, its global section, and each connection that it can tell apart.
pub fn gates(observed: &Observed, tree: &Tree, wish: &Wish, facts: &Facts) -> Vec<Gate> {
    let staged = stage(tree);
    let main = format!("{{stage}}/{}", names(tree).get(&tree.main).cloned().unwrap_or_default());
    let gate = |what: String, args: &[&str], expect| {
        let all: Vec<&str> = ["-T", "-f", main.as_str()].into_iter().chain(args.iter().copied()).collect();
        Gate { what, staged: staged.clone(), command: command(observed.environment, &all), expect }
    };
    let mut lines: Vec<(String, Vec<String>)> =
        wish.settings.iter().map(|setting| (setting.key(), setting.spellings())).collect();
    if let Some(ports) = &wish.ports {
        lines.push(("port".to_owned(), ports.iter().map(u16::to_string).collect()));
    }
    // It checks all that `sshd -t` does before it prints.
    let mut out = vec![gate("sshd -T of the whole configuration".to_owned(), &[], Expect::Lines(lines))];
    for connection in connections(tree, &observed.accounts, wish.port) {
        let what = format!("sshd -T for {} from {}", connection.user, connection.address);
        let criteria = Connection::criteria(&connection);
        let expect = Expect::Lines(allowed(tree, wish.settings, facts));
        out.push(gate(what, &["-C", &criteria], expect));
    }
    out
}

/// For one connection a stricter exception of somebody's Match block is right too.
fn allowed(tree: &Tree, settings: &[Setting], facts: &Facts) -> Vec<(String, Vec<String>)> {
    let values = |setting: &Setting| {
        let mut values = setting.spellings();
        for item in stricter(tree, setting, facts) {
            let value = item.directive.args.join(" ");
            if value == "prohibit-password" {
                values.push("without-password".to_owned());
            }
            values.push(value);
        }
        (setting.key(), values)
    };
    settings.iter().map(values).collect()
}

/// A name below the stage for each file.
fn names(tree: &Tree) -> BTreeMap<String, String> {
    let name = |(index, path): (usize, &String)| {
        let last = path.rsplit('/').next().unwrap_or_default();
        (path.clone(), format!("{index:02}-{last}"))
    };
    tree.files.keys().enumerate().map(name).collect()
}

/// All files, each Include naming the staged copies one by one in the order in which sshd would read them.
pub fn stage(tree: &Tree) -> Vec<Staged> {
    let names = names(tree);
    let copy = |(path, text): (&String, &ConfigText)| {
        let mut text = text.clone();
        let includes: Vec<(usize, Vec<String>)> = text
            .directives()
            .filter(|(_, directive)| directive.keyword == "include")
            .map(|(line, directive)| (line, tree.included(directive)))
            .collect();
        for (line, files) in includes {
            let staged: Vec<String> =
                files.iter().filter_map(|file| names.get(file)).map(|name| format!("\"{{stage}}/{name}\"")).collect();
            let line_text = if staged.is_empty() {
                "# nothing to include".to_owned()
            } else {
                format!("Include {}", staged.join(" "))
            };
            text.replace(line, &line_text);
        }
        let name = names.get(path).cloned().unwrap_or_default();
        Staged { name, content: text.render(), mode: 0o600 }
    };
    tree.files.iter().map(copy).collect()
}
