//! Who else gets in after a plan, beside the administrators that it promises. For the reader only: what cannot be told
//! is said so, and refuses nothing.

use crate::change::Promise;
use crate::facts::Facts;
use crate::formats::accounts::Records;
use crate::host::{Actor, Database, Probe as _};
use crate::outcome::Proven;
use crate::outcome::ways::{Account, Method};

use super::after::After;
use super::check::{Door, root_text};
use super::model::ways;

/// Root where no promise speaks of it, then the other accounts that have a way; `door` is that of the end.
pub(super) fn stay(admins: &[String], door: Option<&Door>, facts: &Facts, after: &After<'_>) -> Vec<String> {
    let mut parts = Vec::new();
    let promised = after.promises.iter().any(|promise| matches!(promise, Promise::RootRefused { .. }));
    if let Some(door) = door
        && !promised
        && !admins.iter().any(|name| name == "root")
    {
        parts.push(root_text(door, after));
    }
    parts.extend(others(admins, facts, after));
    parts
}

fn others(admins: &[String], facts: &Facts, after: &After<'_>) -> Option<String> {
    let unknown = || Some("other accounts cannot be told".to_owned());
    let Ok(Some(bytes)) = after.read(&Database::Passwd.path(), &Actor::Root) else { return unknown() };
    let passwd = Records::parse(&bytes).passwd();
    let other = passwd.into_iter().filter(|entry| entry.uid != 0 && !admins.contains(&entry.name));
    let names: Vec<String> = other.map(|entry| entry.name).collect();
    // No names would mean every account.
    if names.is_empty() {
        return None;
    }
    let Ok(found) = ways(facts, after.now(), Some(after), &names) else { return unknown() };
    if found.doors.is_empty() {
        return None;
    }
    by(&found.accounts).map(|by| format!("other accounts {by}"))
}

/// By which methods some of them get in; `None` when none does.
fn by(accounts: &[Account]) -> Option<String> {
    let mut kinds: Vec<String> = Vec::new();
    for method in accounts.iter().filter(|account| account.ssh == Proven::Yes).flat_map(|account| &account.methods) {
        let kind = match method {
            Method::Keys { .. } | Method::KeysOfOthers { .. } => "key".to_owned(),
            Method::Password | Method::KeyboardInteractive => "password".to_owned(),
            Method::Nothing | Method::Chain { .. } => method.words(),
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds.sort();
    let unsure = accounts.iter().any(|account| account.ssh == Proven::Unknown);
    match (kinds.is_empty(), unsure) {
        (true, false) => None,
        (true, true) => Some("cannot be told".to_owned()),
        (false, false) => Some(format!("by {}", kinds.join(" or "))),
        (false, true) => Some(format!("by {}, some cannot be told", kinds.join(" or "))),
    }
}
