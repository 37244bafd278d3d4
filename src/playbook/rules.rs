//! Rules across sections that need no host: one user once, enough administrators, and no closing of the last way in.

use serde_json::Value;

use super::beside;
use super::check::Checker;
use super::node::Node;
use super::source::Spot;
use crate::resource::{Document, Fault};

/// The faults of the playbook as a whole, by what is sound of it.
pub(super) fn judge(checker: &mut Checker<'_>, root: &Node, schema: &Value) -> Vec<Spot> {
    let mut spots = Vec::new();
    twins(root, &mut spots);
    spots.extend(beside::judge(checker, root, schema, &|value| {
        let sections = value.as_object().cloned().unwrap_or_default();
        let document = Document(sections.into_iter().collect());
        ways_in(&document).into_iter().chain(passwords_off(&document, schema)).collect()
    }));
    spots
}

fn twins(root: &Node, spots: &mut Vec<Spot>) {
    let names: Vec<&Node> =
        root.get("users").map(Node::items).unwrap_or_default().iter().filter_map(|u| u.get("name")).collect();
    for (index, name) in names.iter().enumerate() {
        let Some(text) = name.text() else { continue };
        if let Some(first) = names.iter().take(index).find(|other| other.text() == Some(text)) {
            spots.push(Spot {
                at: name.at,
                what: format!("user '{text}' is here twice, first on line {}", first.at.line),
                hint: "keep one of the two, with the keys of both".to_owned(),
            });
        }
    }
}

fn admins(document: &Document) -> Vec<&Value> {
    let users = document.section("users").as_array().map(Vec::as_slice).unwrap_or_default();
    users.iter().filter(|user| user.get("admin") == Some(&Value::Bool(true))).collect()
}

fn has_keys(user: &Value) -> bool {
    user.get("authorized_keys").and_then(Value::as_array).is_some_and(|keys| !keys.is_empty())
}

fn ways_in(document: &Document) -> Option<Fault> {
    let wanted = document.section("min_ways_in").as_u64()?;
    let have = admins(document).len();
    (wanted > have as u64).then(|| {
        Fault::new(
            "min_ways_in",
            format!("{wanted} ways in are asked for, the playbook has {have} users with admin: true"),
            "lower min_ways_in, or give more users admin: true and authorized_keys",
        )
    })
}

fn passwords_off(document: &Document, schema: &Value) -> Option<Fault> {
    let ssh = document.section("ssh");
    let usual = schema.pointer("/properties/ssh/properties/password_authentication/default");
    let off = ssh.get("password_authentication").or(usual) == Some(&Value::Bool(false));
    if ssh.is_null() || !off || admins(document).iter().any(|user| has_keys(user)) {
        return None;
    }
    let hint = match admins(document).first().and_then(|user| user.get("name")).and_then(Value::as_str) {
        Some(name) => format!("give {name} a key: authorized_keys: [ {{ file: {name}.pub }} ]"),
        None => "add a user with admin: true and authorized_keys".to_owned(),
    };
    let what = "passwords are turned off, and no user with admin: true has a key: nobody could log in";
    Some(Fault::new("ssh.password_authentication", what, hint))
}
