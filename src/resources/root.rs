//! root's password: as it is, locked, or a given hash. How root may log in over SSH is sshd's section.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::change::{Change, Claim, Difference, Note, Risk, Stage, Step};
use crate::error::{Failure, Result};
use crate::facts::Facts;
use crate::formats::accounts::{Hash, Records};
use crate::host::{AccountEdit, Actor, Database, Probe};
use crate::resource::{Planned, Resource, Section};
use crate::types::{AbsPath, Password};

/// The resource.
pub struct Root;

/// root as it should be.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Desired {
    /// `keep` (the default), `locked` or `{ hash: ... }`.
    #[serde(default)]
    pub password: Option<Password>,
}

/// What was found.
pub struct Observed {
    shadow: Records,
}

/// Field index in shadow(5).
const HASH: usize = 1;

impl Resource for Root {
    const NAME: &'static str = "root";
    const SUMMARY: &'static str = "root's password: kept, locked or a given hash";
    const EXAMPLE: &'static str = "root:\n  password: locked\n";
    const SECTION: Section = Section::Map("root");

    type Desired = Desired;
    type Observed = Observed;

    fn claims(_desired: &Desired) -> Vec<Claim> {
        // A `users` item may speak of root's keys beside this, so not the whole account is claimed.
        vec![Claim::Service("root's password".to_owned())]
    }

    fn observe(_desired: &Desired, _facts: &Facts, probe: &dyn Probe) -> Result<Observed> {
        let shadow = probe
            .read(&AbsPath::fixed("/etc/shadow"), &Actor::Root)?
            .ok_or_else(|| Failure::refused("/etc/shadow", "the file is missing").hint("make it with: pwconv"))?;
        Ok(Observed { shadow: Records::parse(&shadow) })
    }

    fn plan(desired: &Desired, _facts: &Facts, observed: &Observed) -> Result<Planned> {
        let Some(entry) = observed.shadow.shadow_entry("root") else {
            return Err(Failure::refused("/etc/shadow", "there is no entry for root").hint("make one with: pwconv"));
        };
        let have = entry.hash.reveal().as_str();
        let (value, want) = match &desired.password {
            Some(Password::Locked) => ("*", "locked (*)"),
            Some(Password::Hash(hash)) => (hash.reveal().as_str(), "(hash set)"),
            Some(Password::Keep) | None => (have, ""),
        };
        let mut planned = Planned::default();
        let locked = desired.password == Some(Password::Locked);
        if value != have && !(locked && have.starts_with('*')) {
            let words = if locked { "lock root's password" } else { "set root's password hash" };
            // The old password goes either way, so this waits for the proof of the new door.
            let mut change = Change::new("root", "root:password", words, Stage::Subtractive, Risk::Access);
            change.differences.push(Difference::new("root.password", want, describe(have)));
            let edit = AccountEdit::Field {
                db: Database::Shadow,
                key: "root".to_owned(),
                index: HASH,
                value: value.to_owned(),
            };
            change.steps.push(Step::Account { edits: vec![edit] });
            planned.changes.push(change);
        }
        if !console_login(&observed.shadow, value) {
            planned
                .notes
                .push(Note::warning("root.password", "no account has a usable password for the provider's console"));
        }
        if value.is_empty() {
            planned.notes.push(Note::warning(
                "root.password",
                "root's password is empty: anyone at the console is root, where PAM has nullok",
            ));
        }
        Ok(planned)
    }
}

const fn describe(hash: &str) -> &'static str {
    match hash.as_bytes() {
        [] => "empty: no password is asked for",
        [b'*' | b'!', ..] => "locked",
        _ => "(a hash)",
    }
}

/// True when a password is left that some account could log in with, root's being `root`.
fn console_login(shadow: &Records, root: &str) -> bool {
    let usable = |hash: &str| Hash::of(hash) == Hash::Usable;
    usable(root) || shadow.shadow().iter().any(|entry| entry.name != "root" && usable(entry.hash.reveal()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Init, SshdMode};

    fn planned(shadow: &str, password: Option<Password>) -> Planned {
        let facts = Facts {
            distribution: String::new(),
            release: String::new(),
            hostname: String::new(),
            init: Init::Other,
            container: false,
            sshd: None,
            sshd_mode: SshdMode::Missing,
        };
        Root::plan(&Desired { password }, &facts, &Observed { shadow: Records::parse(shadow.as_bytes()) }).unwrap()
    }

    #[test]
    fn only_what_is_asked() {
        let keep = planned("root:$6$canary:1::::::\n", Some(Password::Keep));
        assert!(keep.changes.is_empty() && keep.notes.is_empty());
        assert!(planned("root:*:1::::::\n", Some(Password::Locked)).changes.is_empty());
        let lock = planned("root:$6$canary:1::::::\na:$6$x:1::::::\n", Some(Password::Locked));
        assert_eq!((lock.changes.len(), lock.notes.len()), (1, 0));
        assert!(!format!("{lock:?}").contains("canary"));
        // `!` shuts root's keys out where UsePAM is no; locked means `*`.
        assert_eq!(planned("root:!:1::::::\n", Some(Password::Locked)).changes.len(), 1);
    }

    #[test]
    fn a_host_without_any_password_is_pointed_out() {
        assert_eq!(planned("root:$6$x:1::::::\na:*:1::::::\n", Some(Password::Locked)).notes.len(), 1);
        assert_eq!(planned("root:!:1::::::\n", None).notes.len(), 1);
        // An empty field is no password to count on, and neither is what no password matches.
        assert_eq!(planned("root:!:1::::::\na::1::::::\n", None).notes.len(), 1);
        assert_eq!(planned("root:!:1::::::\na:NP:1::::::\n", None).notes.len(), 1);
        assert_eq!(planned("root:!:1::::::\na:ab0123456789.:1::::::\n", None).notes.len(), 0);
        let empty = planned("root::1::::::\n", None).notes;
        assert!(empty.len() == 2 && empty.iter().any(|note| note.text.contains("is empty")), "{empty:?}");
    }
}
