//! Ansible's YAML (Ansible docs: "How to build your inventory", "yaml inventory"): groups with `hosts`, `children` and
//! `vars`, at any depth; also what `ansible-inventory --list --yaml` writes. Must not resolve anything.

use super::connection::{self, Layer};
use super::draft::{ALL, Draft, Ports};
use super::notes::Mark;
use super::tree::{self, Data, Entry, Node};
use crate::playbook::shown;

const SHAPE: &str = "write all: with hosts:, children: and vars: below it, and each host as a key: web1.example:";

/// Reads `text` into `draft`.
pub(super) fn read(draft: &mut Draft, source: Mark, text: &str) {
    let Some(root) = tree::parse(&mut draft.notes, source, text) else { return };
    if root.is_null() {
        return;
    }
    let Data::Map(entries) = &root.data else {
        return draft.notes.fault(root.at, "an inventory in YAML is a mapping of groups", SHAPE);
    };
    for entry in entries {
        match entry.key.as_str() {
            "_meta" => {
                let hint = "have it written as YAML: ansible-inventory -i INVENTORY --list --yaml > hosts.yml";
                return draft.notes.fault(entry.at, "what an inventory program prints, not an inventory", hint);
            }
            "hosts" | "children" | "vars" => {
                draft.notes.fault(entry.at, format!("'{}' stands outside a group", entry.key), SHAPE);
            }
            _ => group(draft, entry, ALL),
        }
    }
}

/// One group; the depth of the tree bounds the recursion.
fn group(draft: &mut Draft, entry: &Entry, parent: usize) {
    let Some(index) = draft.declare(&entry.key, entry.at) else { return };
    if (index, parent) != (ALL, ALL) {
        draft.child(parent, index, entry.at);
    }
    let Data::Map(sections) = &entry.value.data else {
        if !entry.value.is_null() {
            let what = format!("group '{}' is no mapping, and passed over as by Ansible", shown(&entry.key));
            draft.notes.unread(entry.value.at, what, SHAPE);
        }
        return;
    };
    for section in sections {
        match section.key.as_str() {
            "hosts" => hosts(draft, section, index),
            "children" => each(draft, section, |draft, child| group(draft, child, index)),
            "vars" => each(draft, section, |draft, var| {
                if let Some(group) = draft.groups.get_mut(index) {
                    connection::take(&mut group.layer, &mut draft.notes, var.at, &var.key, var.value.value());
                }
            }),
            other => {
                let what = format!("'{}' in a group, and passed over as by Ansible", shown(other));
                draft.notes.unread(section.at, what, "a group has hosts, children and vars");
            }
        }
    }
}

fn hosts(draft: &mut Draft, section: &Entry, group: usize) {
    each(draft, section, |draft, host| {
        let named = draft.hosts(&host.key, host.at, group, Ports::Allowed);
        let mut layer = Layer::default();
        if let Some(port) = named.port {
            layer.link().port = [Some(Some(port)), None];
        }
        match &host.value.data {
            Data::Map(vars) => {
                for var in vars {
                    connection::take(&mut layer, &mut draft.notes, var.at, &var.key, var.value.value());
                }
            }
            _ if host.value.is_null() => {}
            _ => draft.notes.fault(
                host.value.at,
                "the variables of a host are a mapping",
                "write name: value below the host",
            ),
        }
        draft.say(&named.hosts, layer);
    });
}

/// Does `take` for each entry of a section: a mapping, nothing, or one name.
fn each(draft: &mut Draft, section: &Entry, mut take: impl FnMut(&mut Draft, &Entry)) {
    match &section.value.data {
        Data::Map(entries) => entries.iter().for_each(|entry| take(draft, entry)),
        _ if section.value.is_null() => {}
        Data::Plain(name) | Data::Text(name) if section.key != "vars" => {
            let at = section.value.at;
            let nothing = Node { at, data: Data::Plain(String::new()) };
            take(draft, &Entry { key: name.clone(), at, value: nothing });
        }
        _ => draft.notes.fault(section.value.at, format!("'{}' of a group is a mapping", section.key), SHAPE),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{faults, read};

    #[test]
    fn an_inventory_as_people_write_it() {
        let text = "\
---
all:
  hosts:
    lone:
    web[01:02].example:2222: { role: front, n: 1 }
  vars: { site: here, on: yes }
  children:
    dc:
      children:
        web:
          hosts:
            web01.example: { ansible_host: 192.0.2.1, tags: [ a, { b: 2 } ] }
        empty:
      vars:
        ansible_user: ops
    ungrouped:
      hosts: other
";
        let inventory = read(&[("hosts.yml", text)]);
        let told: Vec<String> = inventory
            .hosts
            .iter()
            .map(|host| format!("{} {} {}", host.name, host.place, host.groups.join(",")))
            .collect();
        assert_eq!(
            told,
            [
                "lone lone ungrouped",
                "web01.example ops@192.0.2.1:2222 dc,web",
                "web02.example web02.example:2222 ungrouped",
                "other other ungrouped"
            ]
        );
        let vars = json!({"n": 1, "on": true, "role": "front", "site": "here", "tags": ["a", {"b": 2}]});
        assert_eq!(json!(inventory.hosts[1].vars), vars);
        assert_eq!((inventory.hosts[1].at.as_str(), inventory.unread.len()), ("hosts.yml:5:5", 0));
    }

    #[test]
    fn what_ansible_inventory_prints_is_read() {
        let text = "\
all:
  children:
    ungrouped: {}
    web:
      hosts:
        a: {ansible_connection: ssh, x: 1}
    db:
      hosts:
        a: {}
        b: {x: 2}
";
        let inventory = read(&[("listed", text)]);
        assert_eq!((inventory.hosts.len(), inventory.hosts[0].groups.join(" ")), (2, "db web".into()));
        let json = "{\"_meta\": {\"hostvars\": {}}, \"all\": {\"children\": [\"web\"]}}";
        assert_eq!(faults(&[("l.json", json)]), ["l.json:1:2: what an inventory program prints, not an inventory"]);
    }

    #[test]
    fn all_faults_are_found_at_once_and_what_ansible_passes_over_is_told() {
        let text = "\
hosts: { a: }
web:
  hosts:
    - a
    - b
db:
  hosts:
    ../x: { ansible_password: hunter2 }
    c: text
    d: { ansible_host: '{{ x }}', ansible_become_password: !vault 'hunter2' }
  children:
    all:
    db:
  vars: [ 1 ]
";
        assert_eq!(
            faults(&[("h.yml", text)]),
            [
                "h.yml:1:1: 'hosts' stands outside a group",
                "h.yml:4:5: 'hosts' of a group is a mapping",
                "h.yml:8:5: '../x' cannot be a host: the name would read as a path",
                "h.yml:9:8: the variables of a host are a mapping",
                "h.yml:10:10: 'ansible_host' cannot be used: is a template, which keyward does not fill in",
                "h.yml:12:5: 'all' cannot be the child of a group",
                "h.yml:13:5: groups go in a circle: db in db",
                "h.yml:14:9: 'vars' of a group is a mapping",
            ]
        );
        let text = "all:\n  host: { a: }\n  hosts: { a: { k: 1, k: 2, s: !vault x } }\nweb: 3\n";
        let inventory = read(&[("h.yml", text)]);
        let places: Vec<&str> = inventory.unread.iter().map(|unread| unread.at.as_str()).collect();
        assert_eq!(places, ["h.yml:2:3", "h.yml:3:23", "h.yml:3:29", "h.yml:4:6"]);
        assert_eq!(json!(inventory.hosts[0].vars), json!({"k": 2}));
    }

    #[test]
    fn nesting_and_lists_at_the_top_are_refused() {
        let deep: String =
            (0..40).map(|n| format!("{}g{n}:\n{} children:\n", "  ".repeat(n), "  ".repeat(n))).collect();
        assert_eq!(faults(&[("h.yml", &deep)]).len(), 1);
        assert_eq!(faults(&[("h.yml", "- a\n")]), ["h.yml:1:1: an inventory in YAML is a mapping of groups"]);
        assert_eq!(read(&[("h.yml", "# nothing\n")]).hosts.len(), 0);
    }
}
