//! Keys in the files that sshd really reads for an account.
//!
//! sshd itself is asked where that is. All work inside a home happens in the name of its owner and follows no link, so
//! nothing here needs to trust what stands there. Lines that the playbook does not speak of stay byte for byte.

mod merge;
mod place;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::change::{Change, Claim, Difference, Note, Promise, Risk, Stage, Step, TextDiff};
use crate::error::Result;
use crate::facts::{self, Facts, SSHD};
use crate::formats::authorized_keys::{Grant, KeyFile, Meaning};
use crate::host::{Actor, Command, Node, Owner, Probe};
use crate::resource::{Fault, LoadedFile, Planned, Resource, Section};
use crate::types::{AbsPath, Cidr, PlainText, PublicKey, UserName, Word};

use merge::Merged;
use place::Place;

/// The resource.
pub struct AuthorizedKeys;

/// An account's keys as they should be.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Desired {
    /// Login name.
    pub name: UserName,
    /// Counts as a way in: must be able to log in by key and to become root.
    #[serde(default)]
    pub admin: bool,
    /// Home directory; by default /home/NAME, or as it is. A home is never moved.
    #[serde(default)]
    pub home: Option<AbsPath>,
    /// Keys that let this account in.
    #[serde(default)]
    pub authorized_keys: Vec<Source>,
    /// True: all other keys are removed, from every file that sshd reads for this account.
    #[serde(default)]
    pub exclusive_keys: bool,
}

/// One key, or the keys of one file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Source {
    /// A file beside the playbook with one key a line, such as a .pub file.
    #[serde(default)]
    pub file: Option<LoadedFile>,
    /// The key itself.
    #[serde(default)]
    pub key: Option<PublicKey>,
    /// Addresses from which it counts; by default all.
    #[serde(default)]
    pub from: Vec<Cidr>,
    /// True: no forwarding, no terminal, no user rc.
    #[serde(default)]
    pub restrict: bool,
    /// The one command it runs, whatever the client asks for.
    #[serde(default)]
    pub command: Option<PlainText>,
    /// Accepts an RSA key of 2048 to 3071 bits.
    #[serde(default)]
    pub allow_short_rsa: bool,
}

/// What was found; `None` without sshd.
pub struct Observed(Option<Vec<Place>>, Vec<Note>);

impl Resource for AuthorizedKeys {
    const NAME: &'static str = "authorized_keys";
    const SUMMARY: &'static str = "SSH keys of accounts, in the files that sshd reads";
    const EXAMPLE: &'static str = "users:\n  - name: deploy\n    authorized_keys:\n      - file: deploy.pub\n      \
        - key: ssh-ed25519 AAAA... ops@laptop\n        from: [ 198.51.100.0/24 ]\n";
    const SECTION: Section = Section::Each("users");

    type Desired = Desired;
    type Observed = Observed;

    fn select(desired: Desired, _document: &crate::resource::Document) -> Option<Desired> {
        (desired.admin || desired.exclusive_keys || !desired.authorized_keys.is_empty()).then_some(desired)
    }

    fn validate(desired: &Desired) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (at, source) in desired.authorized_keys.iter().enumerate() {
            if let Err(fault) = source.grants() {
                faults.push(Fault { path: format!("authorized_keys.{at}{}", fault.path), ..fault });
            }
        }
        faults.extend(twice(&desired.authorized_keys));
        if desired.admin && desired.authorized_keys.iter().all(|source| source.command.is_some()) {
            let what = if desired.authorized_keys.is_empty() {
                "an administrator needs a key to log in with"
            } else {
                "every key has a command of its own, so none opens a session"
            };
            faults.push(Fault::new("authorized_keys", what, "add one: authorized_keys: [ { file: NAME.pub } ]"));
        }
        if desired.exclusive_keys && desired.authorized_keys.is_empty() {
            let hint = "list the keys that stay, or remove exclusive_keys";
            faults.push(Fault::new("exclusive_keys", "this would remove every key and add none", hint));
        }
        faults
    }

    fn claims(desired: &Desired) -> Vec<Claim> {
        let home = desired.home.clone().or_else(|| AbsPath::parse(&format!("/home/{}", desired.name.as_str())).ok());
        home.and_then(|home| home.join(".ssh/authorized_keys").ok()).map(Claim::Path).into_iter().collect()
    }

    fn packages(_desired: &Desired) -> &'static [&'static str] {
        &["openssh-server"]
    }

    fn questions(desired: &Desired, probe: &dyn Probe) -> Vec<Command> {
        let asks = probe.has_program(SSHD);
        asks.then(|| facts::sshd_for(desired.name.as_str(), probe)).into_iter().collect()
    }

    fn looks_as(desired: &Desired, probe: &dyn Probe) -> Option<UserName> {
        let asks = !desired.name.is_root() && probe.has_program(SSHD);
        (asks && place::is_known(&desired.name, probe)).then(|| desired.name.clone())
    }

    fn observe(desired: &Desired, _facts: &Facts, probe: &dyn Probe) -> Result<Observed> {
        if !probe.has_program(SSHD) {
            return Ok(Observed(None, Vec::new()));
        }
        let mut notes = Vec::new();
        let places = place::look(desired, probe, &mut notes)?;
        Ok(Observed(Some(places), notes))
    }

    fn plan(desired: &Desired, _facts: &Facts, observed: &Observed) -> Result<Planned> {
        let Observed(Some(places), notes) = observed else {
            return Ok(Planned { deferred: Some("package openssh-server".to_owned()), ..Planned::default() });
        };
        let mut planned = Planned { notes: notes.clone(), ..Planned::default() };
        let grants: Vec<Grant> = desired.authorized_keys.iter().flat_map(|s| s.grants().unwrap_or_default()).collect();
        let files: Vec<(AbsPath, KeyFile)> = places
            .iter()
            .map(|place| (place.path.clone(), KeyFile::parse(place.content.as_deref().unwrap_or_default())))
            .collect();
        let merged = merge::merge(&grants, &files, desired.exclusive_keys)?;
        if merged.dead_first_line {
            planned.notes.push(Note::info(
                format!("users.{}.authorized_keys", desired.name.as_str()),
                "a byte order mark makes sshd pass over the file's first line; it stays as it is",
            ));
        }
        if desired.admin && !grants.is_empty() && grants.iter().all(|grant| !grant.from.is_empty()) {
            planned.notes.push(Note::warning(
                format!("users.{}.authorized_keys", desired.name.as_str()),
                "every key counts only from the addresses named: from elsewhere there is no way in",
            ));
        }
        planned.changes.extend(additive(desired, places, &files, &merged));
        let closing = subtractive(desired, places, &merged);
        if closing.is_some() {
            planned.promises.extend(merged.closed.iter().flat_map(|file| keys_that_count(&desired.name, file)));
        }
        planned.changes.extend(closing);
        Ok(planned)
    }
}

impl Source {
    /// The lines that this source asks for.
    fn grants(&self) -> std::result::Result<Vec<Grant>, Fault> {
        let keys = match (&self.key, &self.file) {
            (Some(key), None) => vec![key.clone()],
            (None, Some(file)) => keys_of(file)?,
            _ => return Err(Fault::new("", "a key is either 'key' or 'file'", "write one of the two")),
        };
        if let Some(short) = keys.iter().find(|key| key.is_short_rsa() && !self.allow_short_rsa) {
            let bits = short.rsa_bits().unwrap_or_default();
            let hint = "make a new key with: ssh-keygen -t ed25519, or accept this one with allow_short_rsa: true";
            return Err(Fault::new("", format!("RSA key of {bits} bits, 3072 is the least"), hint));
        }
        // sshd takes `\"` in a value for a quote and knows no other escape, so a backslash could end the value early.
        if self.command.as_ref().is_some_and(|command| command.as_str().contains('\\')) {
            return Err(Fault::new(".command", "a backslash in the command", "put the command into a script"));
        }
        let grant =
            |key| Grant { key, from: self.from.clone(), restrict: self.restrict, command: self.command.clone() };
        Ok(keys.into_iter().map(grant).collect())
    }
}

/// One key listed twice with different limits: which of the two was meant cannot be told.
fn twice(sources: &[Source]) -> Vec<Fault> {
    let mut seen: Vec<Grant> = Vec::new();
    let mut faults = Vec::new();
    for (at, source) in sources.iter().enumerate() {
        for grant in source.grants().unwrap_or_default() {
            let clash = seen.iter().any(|other| {
                other.key.blob() == grant.key.blob() && Grant { key: grant.key.clone(), ..other.clone() } != grant
            });
            if clash {
                let what = format!("{} is listed before, with other limits", grant.key.fingerprint());
                faults.push(Fault::new(format!("authorized_keys.{at}"), what, "list each key once"));
            }
            seen.push(grant);
        }
    }
    faults
}

/// The keys of a file as ssh-keygen(1) writes it: one a line, blank lines and comments between them.
fn keys_of(file: &LoadedFile) -> std::result::Result<Vec<PublicKey>, Fault> {
    let mut keys = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = PublicKey::parse(line).map_err(|invalid| {
            Fault::new(".file", format!("{}:{}: {}", file.name, at + 1, invalid.why), invalid.hint)
        })?;
        keys.push(key);
    }
    if keys.is_empty() {
        return Err(Fault::new(".file", format!("{} holds no key", file.name), "give a .pub file"));
    }
    Ok(keys)
}

/// New keys, and the modes sshd asks for.
fn additive(desired: &Desired, places: &[Place], files: &[(AbsPath, KeyFile)], merged: &Merged) -> Option<Change> {
    let name = desired.name.as_str();
    let place = places.first()?;
    let mut steps = Vec::new();
    let mut differences = merged.added.clone();
    if let Some((path, mode, have)) = place.directory_to_mend() {
        if have != "absent" {
            differences.push(Difference::new(format!("{path} mode"), format!("{mode:04o}"), have));
        }
        steps.push(Step::Put { path, actor: place.actor.clone(), node: Node::Dir { mode, owner: Owner::Actor } });
    }
    let mut diffs = Vec::new();
    for (at, (path, was)) in files.iter().enumerate() {
        let Some(now) = merged.opened.get(at) else { continue };
        let mode_off = at == 0 && place.content.is_some() && place.mode_to_mend();
        let Some(place) = places.get(at) else { continue };
        if now == was && !mode_off {
            continue;
        }
        if mode_off {
            let want = format!("{:04o}", place.wanted_mode());
            differences.push(Difference::new(format!("{path} mode"), want, format!("{:04o}", place.mode)));
        }
        steps.push(put(place, now));
        if now != was {
            diffs.push(diff(path, was, now));
        }
    }
    // An empty set of keys makes no directory.
    if steps.is_empty() || differences.is_empty() {
        return None;
    }
    let summary = match merged.added.len() {
        0 => format!("give the key files of {name} the modes sshd asks for"),
        1 => format!("let a key in as {name}"),
        n => format!("let {n} keys in as {name}"),
    };
    let risk = if merged.added.is_empty() { Risk::None } else { Risk::Access };
    let mut change =
        Change::new("authorized_keys", format!("authorized_keys:{name}:add"), summary, Stage::Additive, risk);
    change.differences = differences;
    change.steps = steps;
    change.diffs = diffs;
    Some(change)
}

/// Keys that go, and keys that get narrower.
fn subtractive(desired: &Desired, places: &[Place], merged: &Merged) -> Option<Change> {
    let name = desired.name.as_str();
    let summary = match merged.removed.len() {
        1 => format!("remove or narrow a key line of {name}"),
        n => format!("remove or narrow {n} key lines of {name}"),
    };
    let key = format!("authorized_keys:{name}:remove");
    let mut change = Change::new("authorized_keys", key, summary, Stage::Subtractive, Risk::Access);
    change.differences.clone_from(&merged.removed);
    for ((place, opened), closed) in places.iter().zip(&merged.opened).zip(&merged.closed) {
        if opened != closed {
            change.steps.push(put(place, closed));
            change.diffs.push(diff(&place.path, opened, closed));
        }
    }
    (!change.steps.is_empty()).then_some(change)
}

/// The keys that count again when this change, if it is one of keys, is undone to this file.
pub fn keys_again(change: &str, file: &[u8]) -> Vec<Promise> {
    match change.split(':').collect::<Vec<_>>().as_slice() {
        [AuthorizedKeys::NAME, user, _] => {
            UserName::parse(user).map(|user| keys_that_count(&user, &KeyFile::parse(file))).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// The keys of a file that let their holder do what an administrator must.
fn keys_that_count(user: &UserName, file: &KeyFile) -> Vec<Promise> {
    let counts = |meaning: Meaning| {
        let Meaning::Key(entry) = meaning else { return None };
        if entry.options.iter().any(|option| matches!(option.name.as_str(), "command" | "cert-authority")) {
            return None;
        }
        let fingerprint = PublicKey::parse(&format!("{} {}", entry.algorithm, entry.blob)).ok()?.fingerprint();
        let from = entry.options.iter().find(|option| option.name == "from");
        let from = from.and_then(|option| option.value.clone()).unwrap_or_default();
        Some(Promise::Key { user: user.clone(), fingerprint, from })
    };
    file.meanings().filter_map(|(_, meaning)| counts(meaning)).collect()
}

fn put(place: &Place, file: &KeyFile) -> Step {
    let node = Node::File { content: file.render(), mode: place.wanted_mode(), owner: Owner::Actor };
    Step::Put { path: place.path.clone(), actor: place.actor.clone(), node }
}

fn diff(path: &AbsPath, before: &KeyFile, after: &KeyFile) -> TextDiff {
    let text = |file: &KeyFile| String::from_utf8_lossy(&file.render()).into_owned();
    TextDiff { path: path.clone(), before: text(before), after: text(after) }
}

/// In whose name the files of this account are written: root's are in root's own home.
fn actor_of(name: &UserName) -> Actor {
    if name.is_root() { Actor::Root } else { Actor::User(name.clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMVnF1RyJk2sVq1ZzNmL6xk0eHk9mQ8b0V6z1uJr0a1b";

    fn faults(yaml: &str) -> Vec<String> {
        let desired: Desired = serde_yaml::from_str(&yaml.replace("KEY", KEY)).unwrap();
        AuthorizedKeys::validate(&desired).into_iter().map(|fault| format!("{}: {}", fault.path, fault.what)).collect()
    }

    #[test]
    fn what_a_playbook_cannot_mean() {
        assert_eq!(faults("{name: a, admin: true, authorized_keys: [{key: KEY}]}"), Vec::<String>::new());
        assert_eq!(faults("{name: a, admin: true}"), ["authorized_keys: an administrator needs a key to log in with"]);
        assert_eq!(faults("{name: a, authorized_keys: [{key: KEY, file: {name: x, text: KEY}}]}").len(), 1);
        assert_eq!(faults("{name: a, authorized_keys: [{}]}").len(), 1);
        assert_eq!(faults("{name: a, exclusive_keys: true}").len(), 1);
        assert_eq!(faults("{name: a, admin: true, authorized_keys: [{key: KEY, command: ls}]}").len(), 1);
        assert_eq!(faults("{name: a, authorized_keys: [{key: KEY, command: 'a\\b'}]}").len(), 1);
        let twice = "{name: a, authorized_keys: [{key: KEY}, {key: KEY, from: [10.0.0.0/8]}]}";
        assert_eq!(faults(twice).len(), 1);
        assert!(faults(twice)[0].starts_with("authorized_keys.1: "));
        let file = |text: &str| {
            faults(&format!("{{name: a, authorized_keys: [{{file: {{name: k.pub, text: \"{text}\"}}}}]}}"))
        };
        assert_eq!(file("# x\\n\\nKEY ops\\n"), Vec::<String>::new());
        assert_eq!(file("\\n"), ["authorized_keys.0.file: k.pub holds no key"]);
        assert!(file("KEY\\nno-pty KEY\\n")[0].contains("k.pub:2: "));
    }
}
