//! `group_vars` and `host_vars` beside an inventory of Ansible (Ansible docs: "Organizing host and group variables"). The
//! directories are listed and their names compared with those of the inventory; no name of a host or group ever becomes
//! part of a path (CVE-2019-3828). Must not read what no host or group of the inventory has the name of.

use std::collections::BTreeMap;

use super::Files;
use super::connection::{self, Layer};
use super::draft::Draft;
use super::tree::{self, Data};
use crate::playbook::shown;

/// Endings in the order in which Ansible looks for them.
const ENDINGS: [&str; 4] = ["", ".yml", ".yaml", ".json"];
/// Deepest directory below `group_vars/NAME`.
const MAX_DEPTH: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Group,
    Host,
}

/// Reads both directories into `draft`.
pub(super) fn read(draft: &mut Draft, files: &dyn Files) {
    directory(draft, files, "group_vars", Whose::Group);
    directory(draft, files, "host_vars", Whose::Host);
}

fn directory(draft: &mut Draft, files: &dyn Files, directory: &str, whose: Whose) {
    let Some(names) = list(draft, files, directory) else { return };
    let mut found: BTreeMap<usize, Vec<(usize, String)>> = BTreeMap::new();
    let mut strangers = Vec::new();
    for name in names {
        let matches = ENDINGS.iter().enumerate().filter_map(|(rank, ending)| {
            let stem = name.strip_suffix(ending)?;
            let index = match whose {
                Whose::Group => draft.group_named(stem),
                Whose::Host => draft.host_named(stem),
            };
            index.map(|index| (index, rank))
        });
        let owner = matches.min_by_key(|(_, rank)| *rank);
        match owner {
            Some((index, rank)) => found.entry(index).or_default().push((rank, name)),
            None => strangers.push(name),
        }
    }
    if let Some(first) = strangers.first() {
        let what =
            format!("{} entries belong to no name in this inventory, such as '{}'", strangers.len(), shown(first));
        let source = draft.notes.open(directory, 0);
        draft.notes.unread(source.unwrap_or_default(), what, "nothing is to be done if another inventory has them");
    }
    for (index, mut named) in found {
        named.sort();
        let mut layer = Layer::default();
        for (place, (rank, name)) in named.iter().enumerate() {
            let path = format!("{directory}/{name}");
            if place > 0 {
                let source = draft.notes.open(&path, 0).unwrap_or_default();
                draft.notes.unread(
                    source,
                    "not read: another file of this name comes first, as in Ansible",
                    "join the two",
                );
            } else if *rank > 0 || !below(draft, files, &path, &mut layer, 1) {
                file(draft, files, &path, &mut layer);
            }
        }
        match whose {
            Whose::Group => {
                draft.groups.get_mut(index).into_iter().for_each(|group| group.beside = std::mem::take(&mut layer))
            }
            Whose::Host => {
                draft.hosts.get_mut(index).into_iter().for_each(|host| host.beside = std::mem::take(&mut layer))
            }
        }
    }
}

/// Names in a directory, sorted, without hidden ones and backups, which Ansible passes over; names that are no plain part
/// of a path are noted and left out.
fn list(draft: &mut Draft, files: &dyn Files, directory: &str) -> Option<Vec<String>> {
    let mut names = match files.list(directory) {
        Ok(names) => names?,
        Err(failure) => {
            let source = draft.notes.open(directory, 0).unwrap_or_default();
            draft.notes.fault(source, failure.line(), failure.hint);
            return None;
        }
    };
    names.sort();
    names.retain(|name| {
        let plain = !name.contains(['/', '\\', '\0']) && name != "..";
        if !plain {
            let source = draft.notes.open(directory, 0).unwrap_or_default();
            draft.notes.unread(source, format!("'{}' is no name of a file", shown(name)), "");
        }
        plain && !name.is_empty() && !name.starts_with('.') && !name.ends_with('~')
    });
    Some(names)
}

/// Reads the files in `directory`, in order of their names; false when it is none.
fn below(draft: &mut Draft, files: &dyn Files, directory: &str, layer: &mut Layer, depth: usize) -> bool {
    let Some(names) = list(draft, files, directory) else { return false };
    for name in names {
        let path = format!("{directory}/{name}");
        if !ENDINGS.iter().skip(1).any(|ending| name.ends_with(ending)) {
            if depth >= MAX_DEPTH {
                let source = draft.notes.open(&path, 0).unwrap_or_default();
                draft.notes.fault(source, format!("directories deeper than {MAX_DEPTH}"), "move the file up");
                continue;
            }
            if below(draft, files, &path, layer, depth + 1) {
                continue;
            }
            if name.contains('.') {
                let source = draft.notes.open(&path, 0).unwrap_or_default();
                draft.notes.unread(source, "neither .yml, .yaml nor .json, and passed over as by Ansible", "");
                continue;
            }
        }
        file(draft, files, &path, layer);
    }
    true
}

fn file(draft: &mut Draft, files: &dyn Files, path: &str, layer: &mut Layer) {
    let notes = &mut draft.notes;
    let text = match files.read(path) {
        Ok(Some(text)) => text,
        Ok(None) => {
            let source = notes.open(path, 0).unwrap_or_default();
            return notes.fault(source, "listed, but not there to be read", "look at the file, and try again");
        }
        Err(failure) => {
            let source = notes.open(path, 0).unwrap_or_default();
            return notes.fault(source, failure.line(), failure.hint);
        }
    };
    let Some(source) = notes.open(path, text.len()) else { return };
    if text.starts_with("$ANSIBLE_VAULT") {
        let hint = "keyward has no vault: give secrets when running, as env:NAME";
        return notes.unread(source.to(1, 0), "a file that is encrypted by ansible-vault", hint);
    }
    let text = notes.clean(source, &text);
    let Some(root) = tree::parse(notes, source, &text) else { return };
    match root.data {
        Data::Map(entries) => {
            for entry in entries {
                connection::take(layer, notes, entry.at, &entry.key, entry.value.value());
            }
        }
        _ if root.is_null() => {}
        _ => notes.fault(root.at, "a file of variables is a mapping", "write name: value"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{Memory, faults, read};
    use super::super::{Files, Inventory};

    #[test]
    fn files_are_found_by_all_their_names() {
        let files = [
            ("hosts", "[web]\nweb1\ndb.example\n[db]\ndb2\n[lone]\n"),
            ("group_vars/all/b.yml", "a: b\n"),
            ("group_vars/all/a.yaml", "a: a\nin_a: 1\n"),
            ("group_vars/all/deep/c", "deep: yes\n"),
            ("group_vars/all/.hidden.yml", "a: hidden\n"),
            ("group_vars/all/notes.txt", "a: text\n"),
            ("group_vars/web.yml", "web: yml\n"),
            ("group_vars/web.yaml", "web: yaml\n"),
            ("group_vars/db.json", "{\"db\": 1}"),
            ("group_vars/ungrouped", "no: no\n"),
            ("group_vars/other.yml", "no: no\n"),
            ("host_vars/db.example", "---\nansible_host: 192.0.2.7\n"),
            ("host_vars/web1.yml~", "no: no\n"),
            ("host_vars/db2/x.yml", "$ANSIBLE_VAULT;1.1;AES256\n6161\n"),
        ];
        let inventory = read(&files);
        let [web, example, db] = inventory.hosts.as_slice() else { panic!() };
        assert_eq!(json!(web.vars), json!({"a": "b", "deep": true, "in_a": 1, "web": "yml"}));
        assert_eq!(json!(db.vars), json!({"a": "b", "db": 1, "deep": true, "in_a": 1}));
        assert_eq!(example.place.host, "192.0.2.7");
        let mut places: Vec<&str> = inventory.unread.iter().map(|unread| unread.at.as_str()).collect();
        places.sort_unstable();
        assert_eq!(places, ["group_vars", "group_vars/all/notes.txt", "group_vars/web.yaml", "host_vars/db2/x.yml:1"]);
    }

    #[test]
    fn the_name_of_a_host_or_group_is_never_part_of_a_path() {
        for inventory in ["../x\n..\n[../g]\na/b\n[..:vars]\nx=1\n", "a\n[g]\nb\n"] {
            let files =
                Memory::new(&[("hosts", inventory), ("host_vars/a.yml", "x: 1\n"), ("../x.yml", "x: stolen\n")]);
            let _ = Inventory::read("dir/hosts", &files);
            let asked = files.asked.borrow();
            let allowed = ["hosts", "group_vars", "host_vars", "host_vars/a.yml", "host_vars/a"];
            assert!(asked.iter().all(|name| allowed.contains(&name.as_str())), "{asked:?}");
        }
        assert_eq!(faults(&[("hosts", "../x\n")]).len(), 1);
    }

    /// A lister that gives names which lead elsewhere.
    struct Liar;

    impl Files for Liar {
        fn read(&self, name: &str) -> crate::error::Result<Option<String>> {
            assert_eq!(name, "hosts");
            Ok(Some("a\n".into()))
        }

        fn list(&self, directory: &str) -> crate::error::Result<Option<Vec<String>>> {
            assert!(matches!(directory, "group_vars" | "host_vars"), "{directory}");
            Ok(Some(vec!["../a".into(), "..".into(), "a\\..".into(), ".".into()]))
        }
    }

    #[test]
    fn listed_names_that_lead_elsewhere_are_left_out() {
        let inventory = Inventory::read("hosts", &Liar).unwrap();
        assert_eq!((inventory.hosts.len(), inventory.unread.len()), (1, 6));
    }

    #[test]
    fn faults_in_files_have_their_places() {
        let files = [
            ("dir/hosts", "web\n"),
            ("hosts", "web\n"),
            ("group_vars/all.yml", "a: [\n"),
            ("host_vars/web.yml", "ok: 1\nansible_port: x\n"),
            ("group_vars/ungrouped.yml", "- a\n"),
        ];
        let found = Inventory::read("dir/hosts", &Memory::new(&files)).unwrap_err();
        let places: Vec<&str> = found.iter().map(|fault| fault.place.as_str()).collect();
        assert_eq!(places.len(), 3, "{places:?}");
        assert!(places[0].starts_with("dir/group_vars/all.yml:"), "{places:?}");
        assert_eq!(places[1..], ["dir/group_vars/ungrouped.yml:1:1", "dir/host_vars/web.yml:2:1"]);
    }
}
