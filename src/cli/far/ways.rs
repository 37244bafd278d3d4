//! Through which doors of a plan somebody comes: this side, by keys of the playbook, or a person.

use crate::change::{Note, Promise, Stage};
use crate::target::ssh::{Destination, Link};
use crate::types::{PublicKey, Word as _};

use super::door::{Way, fingerprint};
use super::heed::short;
use super::proof::{Armed, Proof};

impl Proof<'_> {
    /// The planned administrators that the playbook names, at the playbook's port, each with the keys that are here. The
    /// plan comes from the host, which could name a port of another machine behind the same address.
    pub(super) fn ways(&self, link: &Link) -> Vec<Way> {
        let Some(plan) = &self.plan else { return Vec::new() };
        let port = self.door.port();
        let pin = fingerprint(link.host_key());
        let planned = plan.promises.iter().filter_map(|promise| match promise {
            Promise::Admin { user, .. } => Some(user),
            _ => None,
        });
        let mut ways: Vec<Way> = Vec::new();
        for user in planned {
            let keys: Vec<PublicKey> =
                self.held.iter().filter(|(one, _)| one == user).map(|(_, key)| key.clone()).collect();
            if keys.is_empty() || pin.is_none() {
                continue;
            }
            let typed = self.door.place();
            let place = Destination { user: Some(user.text()), host: typed.host.clone(), port: port.or(typed.port) };
            ways.push(Way { place, keys: Some(keys), pin: pin.clone(), key_port: None });
        }
        ways
    }

    /// What the operator reads before the first change: until when and what is undone, and how it is kept or undone.
    pub(super) fn announcement(&self, armed: &Armed) -> [Note; 2] {
        let until = jiff::Zoned::now().saturating_add(armed.left()).strftime("%Y-%m-%d %H:%M:%S %Z");
        let changes = self.plan.as_ref().map(|plan| plan.changes.as_slice()).unwrap_or_default();
        let undone: Vec<&str> =
            changes.iter().filter(|one| one.stage != Stage::Packages).map(|one| one.summary.as_str()).collect();
        let place = self.confirms_from().unwrap_or_else(|| self.door.place().clone());
        let keep = if self.held.is_empty() { "to keep it" } else { "kept by a new login from here; by hand" };
        let (confirm, cancel, run) = (self.door.command(&place), &self.heed.command, &armed.run);
        [
            format!("undone at {until} by this clock unless confirmed: {}", short(&undone.join("; "))),
            format!("{keep}: {confirm} confirm {run}; to undo it at once, Ctrl-C here, or: {cancel} cancel {run}"),
        ]
        .map(|text| Note::info("armed", text))
    }

    /// What a person types to confirm.
    pub(super) fn by_hand(&self, armed: &Armed) -> String {
        let place = self.confirms_from().unwrap_or_else(|| self.door.place().clone());
        format!(
            "both doors are open; to keep the change, within {} s, in a second terminal: {} confirm {}",
            armed.left().as_secs(),
            self.door.command(&place),
            armed.run
        )
    }

    /// Through which door a person confirms the run of the plan that was shown; `None` without a plan.
    pub fn confirms_from(&self) -> Option<Destination> {
        self.plan.as_ref()?;
        let promises = self.plan.as_ref().map(|plan| plan.promises.as_slice()).unwrap_or_default();
        // A rollback is confirmed by an account that it leaves, by a key that it leaves where it takes any.
        let leaves = promises.iter().any(|promise| matches!(promise, Promise::SomebodyElse { .. }));
        let user = promises.iter().find_map(|promise| match promise {
            Promise::Admin { user, .. } if !leaves => Some(user.text()),
            Promise::Key { user, .. } if leaves => Some(user.text()),
            _ => None,
        });
        let user = user.or_else(|| leaves.then(|| "root".to_owned()));
        let port = promises.iter().find_map(|promise| match promise {
            Promise::SshPort { port } => Some(port.get()),
            _ => None,
        });
        let typed = self.door.place();
        let user = user.or_else(|| typed.user.clone()).unwrap_or_else(|| "ADMIN".to_owned());
        Some(Destination { user: Some(user), host: typed.host.clone(), port: self.door.port().or(port).or(typed.port) })
    }
}
