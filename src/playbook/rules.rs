//! Rules across sections that need no host: one user once, enough administrators, and no closing of the last way in.

use serde_json::Value;

use super::node::Node;
use super::source::Spot;
use crate::resource::Document;

/// The faults of a document; `root` gives the places. Of one that is not `clean` only what cannot follow from its other
/// faults.
pub(super) fn judge(document: &Document, root: &Node, schema: &Value, clean: bool) -> Vec<Spot> {
    let mut spots = Vec::new();
    twins(root, &mut spots);
    if !clean {
        return spots;
    }
    ways_in(document, root, &mut spots);
    passwords_off(document, root, schema, &mut spots);
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

fn ways_in(document: &Document, root: &Node, spots: &mut Vec<Spot>) {
    let (Some(wanted), Some(node)) = (document.section("min_ways_in").as_u64(), root.get("min_ways_in")) else {
        return;
    };
    let have = admins(document).len();
    if wanted > have as u64 {
        spots.push(Spot {
            at: node.at,
            what: format!("{wanted} ways in are asked for, the playbook has {have} users with admin: true"),
            hint: "lower min_ways_in, or give more users admin: true and authorized_keys".to_owned(),
        });
    }
}

fn passwords_off(document: &Document, root: &Node, schema: &Value, spots: &mut Vec<Spot>) {
    let Some(ssh) = root.get("ssh") else { return };
    let given = document.section("ssh").get("password_authentication");
    let usual = schema.pointer("/properties/ssh/properties/password_authentication/default");
    if given.or(usual) != Some(&Value::Bool(false)) || admins(document).iter().any(|user| has_keys(user)) {
        return;
    }
    let hint = match admins(document).first().and_then(|user| user.get("name")).and_then(Value::as_str) {
        Some(name) => format!("give {name} a key: authorized_keys: [ {{ file: {name}.pub }} ]"),
        None => "add a user with admin: true and authorized_keys".to_owned(),
    };
    spots.push(Spot {
        at: ssh.find("password_authentication"),
        what: "passwords are turned off, and no user with admin: true has a key: nobody could log in".to_owned(),
        hint,
    });
}
