//! From what was said to the hosts: parents, precedence, where to connect. Precedence is that of Ansible ("Using variables:
//! Understanding variable precedence"): what the inventory says of `all`, then of groups, parents before children, groups of
//! one depth by priority and name; then the files of `all` and of groups, in the same order; then what the inventory says
//! of the host; then the host's files. Must not know a form.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use serde_json::Value;

use super::connection::{Layer, Link, Said};
use super::draft::{ALL, Draft, GroupDraft, HostDraft, UNGROUPED};
use super::graph::{self, Ranks};
use super::notes::{Mark, Notes};
use super::{Host, Inventory};
use crate::error::Failure;
use crate::playbook::shown;
use crate::target::ssh::{Destination, check_host};

/// Most bytes of the variables and groups of all hosts together: one large value for all of many hosts is that many values.
const MAX_VALUES: usize = 256 * 1024 * 1024;

/// The groups of hosts that are in the same ones.
struct Family {
    /// In order of precedence, lowest first.
    groups: Vec<usize>,
    /// Sorted.
    names: Vec<String>,
    weight: usize,
}

/// Resolves `draft`.
///
/// # Errors
/// All faults, those of reading among them.
pub(super) fn resolve(mut draft: Draft) -> Result<Inventory, Vec<Failure>> {
    draft.undeclared();
    same_names(&mut draft);
    let Draft { mut notes, hosts, groups, .. } = draft;
    // Without ranks there is a fault already; the hosts are judged all the same.
    let ranks = graph::rank(&groups, &mut notes).unwrap_or_default();
    let mut families: HashMap<Vec<usize>, Rc<Family>> = HashMap::new();
    let (mut made, mut weight) = (Vec::with_capacity(hosts.len()), 0_usize);
    for mut host in hosts {
        let mut direct = std::mem::take(&mut host.groups);
        direct.retain(|group| *group != ALL && *group != UNGROUPED);
        direct.sort_unstable();
        direct.dedup();
        let family = match families.get(&direct) {
            Some(family) => Rc::clone(family),
            None => {
                let family = Rc::new(family(&direct, &groups, &ranks));
                families.insert(direct, Rc::clone(&family));
                family
            }
        };
        weight = weight.saturating_add(family.weight);
        made.extend(finish(&host, &family, &groups, &mut weight, &mut notes));
        if weight > MAX_VALUES {
            let what = format!("the variables and groups of all hosts are more than {MAX_VALUES} bytes");
            notes.fault(host.at, what, "move large values out of what holds for many hosts");
            break;
        }
    }
    if notes.is_faulty() {
        Err(notes.into_faults())
    } else {
        Ok(Inventory { hosts: made, unread: notes.into_unread() })
    }
}

/// A pattern could mean either.
fn same_names(draft: &mut Draft) {
    let twin = |group: &GroupDraft| {
        let host = draft.hosts.get(draft.host_named(&group.name)?)?;
        Some((host.at, format!("'{}' is a group and a host", shown(&group.name))))
    };
    let twins: Vec<(Mark, String)> = draft.groups.iter().filter_map(twin).collect();
    for (at, what) in twins {
        if draft.strict {
            draft.notes.fault(at, what, "give one of the two another name");
        } else {
            draft.notes.unread(at, what, "a pattern with this name means the group, as in Ansible");
        }
    }
}

fn family(direct: &[usize], groups: &[GroupDraft], ranks: &Ranks) -> Family {
    let mut all: Vec<usize> = direct.to_vec();
    all.extend(direct.iter().filter_map(|group| ranks.parents.get(*group)).flatten());
    if all.is_empty() {
        all.push(UNGROUPED);
    }
    let key = |index: &usize| {
        let group = groups.get(*index);
        let priority = group.map_or(0, |group| group.layer.priority);
        (ranks.depth.get(*index).copied(), priority, group.map(|group| group.name.as_str()))
    };
    all.sort_by(|a, b| key(a).cmp(&key(b)));
    all.dedup();
    let mut names: Vec<String> =
        all.iter().filter_map(|group| groups.get(*group)).map(|group| group.name.clone()).collect();
    names.sort();
    let weight = names.iter().map(|name| name.len() + 24).sum();
    Family { groups: all, names, weight }
}

/// One host; `None` with a fault noted when it cannot be connected to.
fn finish(
    host: &HostDraft,
    family: &Family,
    groups: &[GroupDraft],
    weight: &mut usize,
    notes: &mut Notes,
) -> Option<Host> {
    let of_groups = || groups.get(ALL).into_iter().chain(family.groups.iter().filter_map(|group| groups.get(*group)));
    let layers: Vec<&Layer> = of_groups()
        .map(|group| &group.layer)
        .chain(of_groups().map(|group| &group.beside))
        .chain(host.layers.iter().map(Rc::as_ref))
        .chain([&host.beside])
        .filter(|layer| !layer.is_empty())
        .collect();
    let address = said(&layers, |link| &link.host);
    if let Err(why) = check_host(address.unwrap_or(&host.name)) {
        let named =
            layers.iter().filter_map(|layer| layer.link.as_deref()).any(|link| link.host.iter().any(Option::is_some));
        if !(named && notes.is_faulty()) {
            let what = format!("'{}' cannot be connected to: {why}", shown(&host.name));
            notes.fault(host.at, what, "give its address (address, or ansible_host in an inventory of Ansible)");
        }
        return None;
    }
    let place = Destination {
        user: said(&layers, |link| &link.user).cloned(),
        host: address.unwrap_or(&host.name).to_ascii_lowercase(),
        port: said(&layers, |link| &link.port).copied(),
    };
    let mut values: BTreeMap<&str, Option<&Value>> = BTreeMap::new();
    for layer in &layers {
        values.extend(layer.vars.iter().map(|(name, value)| (name.as_str(), value.as_ref())));
    }
    let values = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let mut vars = BTreeMap::new();
    for (name, value) in values {
        *weight = weight.saturating_add(name.len() + weigh(value));
        if *weight > MAX_VALUES {
            return None;
        }
        vars.insert(name.to_owned(), value.clone());
    }
    Some(Host {
        name: host.name.clone(),
        place,
        groups: family.names.clone(),
        keys: said(&layers, |link| &link.keys).cloned().unwrap_or_default(),
        jump: said(&layers, |link| &link.jump).cloned().unwrap_or_default(),
        vars,
        at: notes.place(host.at),
    })
}

/// The value that holds: the second name of a pair over the first one, and of each the highest layer that says it.
fn said<'l, T>(layers: &[&'l Layer], pick: impl Fn(&'l Link) -> &'l [Said<T>; 2]) -> Option<&'l T> {
    let last = |index: usize| {
        let links = layers.iter().rev().filter_map(|layer| layer.link.as_deref());
        links.filter_map(|link| pick(link).get(index)?.as_ref()).next().and_then(Option::as_ref)
    };
    last(1).or_else(|| last(0))
}

/// About how many bytes a value takes.
fn weigh(value: &Value) -> usize {
    32 + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weigh).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| 32 + key.len() + weigh(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{faults, read};

    #[test]
    fn the_nearest_layer_wins() {
        let text = "\
[all:vars]\na=all\nb=all\nc=all\nd=all\ne=all\nf=all\ng=all\nansible_user=u-all\n\
[top:children]\nmid\n[top:vars]\nb=top\nc=top\nd=top\ne=top\nf=top\ng=top\nansible_port=1\n\
[mid:vars]\nc=mid\nd=mid\ne=mid\nf=mid\ng=mid\nansible_user=u-mid\n\
[mid]\nweb f=host g=host ansible_port=4\n[other]\nweb\n[other:vars]\nc=other\n";
        let files = [
            ("hosts", text),
            ("group_vars/all.yml", "d: files of all\ne: files of all\n"),
            ("group_vars/top", "e: files of top\nansible_port: 3\n"),
            ("host_vars/web.yml", "g: files of host\n"),
        ];
        let inventory = read(&files);
        let host = &inventory.hosts[0];
        let vars: Vec<String> =
            host.vars.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap())).collect();
        assert_eq!(
            vars,
            ["a=all", "b=top", "c=mid", "d=files of all", "e=files of top", "f=host", "g=files of host"],
            "a child group over a shallower one, files over the inventory"
        );
        assert_eq!(host.place.to_string(), "u-mid@web:4");
        assert_eq!(host.groups, ["mid", "other", "top"]);
        assert_eq!(inventory.unread, []);
    }

    #[test]
    fn groups_of_one_depth_go_by_priority_then_name() {
        let text = "[a]\nweb\n[b]\nweb\n[a:vars]\nx=a\ny=a\n[b:vars]\nx=b\n";
        assert_eq!(read(&[("hosts", text)]).hosts[0].vars["x"], "b");
        let text = text.replace("y=a", "ansible_group_priority=5");
        assert_eq!(read(&[("hosts", &text)]).hosts[0].vars["x"], "a");
    }

    #[test]
    fn names_for_one_thing_are_weighed_as_in_ansible() {
        let text =
            "web ansible_host=192.0.2.2 ansible_ssh_port=5 ansible_port=6\n[all:vars]\nansible_ssh_host=192.0.2.1\n";
        assert_eq!(read(&[("hosts", text)]).hosts[0].place.to_string(), "192.0.2.1:5");
        let text = "web:7 a=1\nweb ansible_user=\n[all:vars]\nansible_user=x\n";
        assert_eq!(read(&[("hosts", text)]).hosts[0].place.to_string(), "web:7", "an empty value hides the one below");
    }

    #[test]
    fn what_is_not_understood_hides_what_lies_below() {
        let text = "web site='{{ other }}'\n[all:vars]\nsite=plain\n";
        let inventory = read(&[("hosts", text)]);
        assert!(inventory.hosts[0].vars.is_empty());
        assert_eq!(inventory.unread[0].at, "hosts:1:5");
    }

    #[test]
    fn a_name_that_is_no_address_needs_one() {
        let text = "\"my server\" ansible_host=192.0.2.1\nd\u{f6}rte\n\"an other\" ansible_host=a;b\n";
        assert_eq!(
            faults(&[("hosts", text)]),
            [
                "hosts:2:1: 'd\u{f6}rte' cannot be connected to: the host name holds a character other than letters, digits and . _ -",
                "hosts:3:12: 'ansible_host' cannot be used: the host name holds a character other than letters, digits and . _ -",
            ]
        );
        let inventory = read(&[("hosts", "\"my server\" ansible_host=Server.Example\n")]);
        assert_eq!(
            (inventory.hosts[0].name.as_str(), inventory.hosts[0].place.host.as_str()),
            ("my server", "server.example")
        );
    }

    #[test]
    fn one_large_value_for_many_hosts_is_refused() {
        let text = format!("n[1:100000]\n[all:vars]\nx={}\n", "y".repeat(100_000));
        let found = faults(&[("hosts", &text)]);
        assert!(found.len() == 1 && found[0].contains("are more than"), "{found:?}");
    }

    #[test]
    fn a_group_with_the_name_of_a_host_is_told() {
        assert_eq!(read(&[("hosts", "[web]\nweb\n")]).unread[0].what, "'web' is a group and a host");
        let own = "version: 1\ngroups:\n  web: { hosts: [ web ] }\n";
        assert_eq!(faults(&[("hosts", own)]), ["hosts:3:19: 'web' is a group and a host"]);
    }
}
