//! keyward's own inventory: `version: 1`, defaults, `groups` and `hosts`. Strict as a playbook: read by the same parser, an
//! unknown key, a key twice, a wrong type and a word that readers of YAML disagree about are faults with their place. There
//! are no templates in it. Must not resolve anything.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::connection::{Layer, check_port};
use super::draft::{ALL, Draft, Ports, UNGROUPED};
use super::notes::Mark;
use crate::playbook::{At, Data, Entry, Reading, Report, Written, is_name, nearest, parse_up_to, shown, typed};
use crate::target::ssh::{Destination, check_host, check_user};

/// Most values in the file.
const MAX_NODES: usize = 1_000_000;

/// Keys that hold for the host, the group, or all.
const SETTINGS: [&str; 5] = ["user", "port", "key", "jump", "vars"];
const TOP: [&str; 3] = ["version", "groups", "hosts"];
const OF_GROUP: [&str; 2] = ["hosts", "groups"];
const OF_HOST: [&str; 2] = ["address", "groups"];

/// Reads `text`, the inventory `name`, into `draft`.
pub(super) fn read(draft: &mut Draft, name: &str, text: &str) {
    draft.strict = true;
    let mut report = Report::default();
    let (file, clean) = report.open(name, text);
    let root = parse_up_to(&mut report, file, &clean, MAX_NODES);
    let mut own = Own { draft, report };
    if let Some(root) = &root {
        own.root(root);
    }
    let Own { report, .. } = own;
    for spot in &report.spots {
        draft.notes.long_fault(mark(spot.at), spot.at.length, spot.what.as_str(), spot.hint.as_str());
    }
    if report.partial {
        // Where the rest could not be read, groups may stand in it.
        draft.groups.iter_mut().for_each(|group| group.declared = true);
    }
    draft.notes.lines = Some(report);
}

fn mark(at: At) -> Mark {
    Mark::default().to(at.line, at.column)
}

struct Own<'d> {
    draft: &'d mut Draft,
    report: Report,
}

impl Own<'_> {
    fn root(&mut self, root: &Written) {
        let version = root.get("version").map(|node| (node.at, node.text() == Some("1")));
        if let Some((at, false)) = version {
            self.report.add(at, "this version of an inventory is not known", "write version: 1");
        }
        let mut layer = Layer::default();
        for entry in root.entries().iter().filter(|entry| !entry.is_lost()) {
            match entry.key.as_str() {
                "version" => {}
                "groups" => self.each(&entry.value, "groups", |own, entry| own.group(entry)),
                "hosts" => self.each(&entry.value, "hosts", |own, entry| own.host(entry)),
                _ => self.setting(&mut layer, entry, &TOP),
            }
        }
        if let Some(all) = self.draft.groups.get_mut(ALL) {
            all.layer = layer;
        }
    }

    /// Does `take` for each entry of a mapping, or of nothing.
    fn each(&mut self, node: &Written, what: &str, mut take: impl FnMut(&mut Self, &Entry)) {
        match &node.data {
            Data::Map(entries) => entries.iter().filter(|entry| !entry.is_lost()).for_each(|entry| take(self, entry)),
            Data::Scalar(scalar) if typed(scalar) == Reading::Null => {}
            Data::Broken => {}
            Data::Scalar(_) | Data::List(_) => {
                self.report.add(node.at, format!("{what} is a mapping"), format!("write {what}: {{ name: {{ }} }}"));
            }
        }
    }

    fn group(&mut self, entry: &Entry) {
        if ["all", "ungrouped"].contains(&entry.key.as_str()) {
            let hint = "what holds for all hosts stands at the top of the file";
            return self.report.add(entry.key_at, format!("'{}' is no group to declare", entry.key), hint);
        }
        let Some(index) = self.draft.declare(&entry.key, mark(entry.key_at)) else { return };
        let mut layer = Layer::default();
        self.each(&entry.value, "a group", |own, entry| match entry.key.as_str() {
            "hosts" => {
                for (name, at) in own.names(&entry.value, "hosts") {
                    own.draft.hosts(&name, mark(at), index, Ports::Refused);
                }
            }
            "groups" => {
                for (name, at) in own.names(&entry.value, "groups") {
                    if let Some(child) = own.draft.refer(&name, mark(at)) {
                        own.draft.child(index, child, mark(at));
                    }
                }
            }
            _ => own.setting(&mut layer, entry, &OF_GROUP),
        });
        if let Some(group) = self.draft.groups.get_mut(index) {
            group.layer = layer;
        }
    }

    fn host(&mut self, entry: &Entry) {
        let at = mark(entry.key_at);
        let named = self.draft.hosts(&entry.key, at, UNGROUPED, Ports::Refused);
        let mut layer = Layer::default();
        self.each(&entry.value, "a host", |own, entry| match entry.key.as_str() {
            "address" if named.hosts.len() > 1 => {
                own.report.add(entry.value.at, "one address for several hosts", "write an entry for each host");
            }
            "address" => {
                let address = own.checked(&entry.value, check_host, "write a name or an IP address, without brackets");
                layer.link().host = [Some(address), None];
            }
            "groups" => {
                for (name, at) in own.names(&entry.value, "groups") {
                    if ["all", "ungrouped"].contains(&name.as_str()) {
                        own.report.add(at, format!("'{name}' is no group to join"), "remove it");
                        continue;
                    }
                    let Some(group) = own.draft.declare(&name, mark(at)) else { continue };
                    for host in &named.hosts {
                        own.draft.join(*host, group, mark(at));
                    }
                }
            }
            _ => own.setting(&mut layer, entry, &OF_HOST),
        });
        self.draft.say(&named.hosts, layer);
    }

    /// One of the keys that stand at the top, in groups and in hosts; `others` are those of this place alone.
    fn setting(&mut self, layer: &mut Layer, entry: &Entry, others: &[&'static str]) {
        let node = &entry.value;
        match entry.key.as_str() {
            "user" => layer.link().user = [Some(self.checked(node, check_user, "write the name of an account")), None],
            "port" => layer.link().port = [Some(self.port(node)), None],
            "key" => {
                let keys = self.one_or_more(node, "key").into_iter().map(|(key, _)| PathBuf::from(key)).collect();
                layer.link().keys = [Some(Some(keys)), None];
            }
            "jump" => {
                let mut places = Vec::new();
                for (place, at) in self.one_or_more(node, "jump") {
                    match Destination::parse(&place) {
                        Ok(place) => places.push(place),
                        Err(failure) => self.report.add(at, format!("{}: {}", failure.what, failure.why), failure.hint),
                    }
                }
                layer.link().jump = [Some(Some(places)), None];
            }
            "vars" => self.each(node, "vars", |own, entry| {
                if !is_name(&entry.key) {
                    let hint = "a name is a-z or '_', then a-z, 0-9 and '_'";
                    let what = format!("'{}' cannot be the name of a variable", shown(&entry.key));
                    return own.report.add(entry.key_at, what, hint);
                }
                let value = own.value(&entry.value);
                layer.vars.insert(entry.key.clone(), value);
            }),
            unknown => {
                let known = others.iter().chain(&SETTINGS).copied();
                let hint = match nearest(unknown, known.clone()) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
                };
                self.report.add(entry.key_at, format!("unknown key '{}'", shown(unknown)), hint);
            }
        }
    }

    fn port(&mut self, node: &Written) -> Option<u16> {
        let hint = "write a number from 1 to 65535";
        match &node.data {
            Data::Broken => return None,
            Data::Scalar(scalar) if matches!(typed(scalar), Reading::Int(_)) && check_port(&scalar.text).is_ok() => {
                return scalar.text.parse().ok();
            }
            _ => self.report.add(node.at, "not a port", hint),
        }
        None
    }

    /// A text that `check` takes.
    fn checked(
        &mut self,
        node: &Written,
        check: impl Fn(&str) -> Result<(), &'static str>,
        hint: &str,
    ) -> Option<String> {
        let text = self.text(node)?;
        match check(&text) {
            Ok(()) => Some(text),
            Err(why) => {
                self.report.add(node.at, why, hint);
                None
            }
        }
    }

    /// One text, or a list of texts.
    fn one_or_more(&mut self, node: &Written, what: &str) -> Vec<(String, At)> {
        match &node.data {
            Data::List(_) => self.names(node, what),
            _ => self.text(node).map(|text| (text, node.at)).into_iter().collect(),
        }
    }

    /// The texts of a list; nothing is an empty one.
    fn names(&mut self, node: &Written, what: &str) -> Vec<(String, At)> {
        match &node.data {
            Data::List(items) => items.iter().filter_map(|item| Some((self.text(item)?, item.at))).collect(),
            Data::Scalar(scalar) if typed(scalar) == Reading::Null => Vec::new(),
            Data::Broken => Vec::new(),
            Data::Scalar(_) | Data::Map(_) => {
                self.report.add(node.at, format!("{what} is a list here"), format!("write {what}: [ one, two ]"));
                Vec::new()
            }
        }
    }

    fn text(&mut self, node: &Written) -> Option<String> {
        match &node.data {
            Data::Broken => None,
            Data::Scalar(scalar) => match typed(scalar) {
                Reading::Text if scalar.text.is_empty() => {
                    self.report.add(node.at, "an empty text", "write the value");
                    None
                }
                Reading::Text if scalar.text.contains("{{") => self.template(node.at),
                Reading::Text => Some(scalar.text.clone()),
                Reading::Null => {
                    self.report.add(node.at, "a value is missing", "write it, or remove the key");
                    None
                }
                Reading::Odd(_) | Reading::Bool(_) | Reading::Int(_) => {
                    let hint = format!("write \"{}\", in quotes", shown(&scalar.text));
                    self.report.add(node.at, "a text is expected here", hint);
                    None
                }
            },
            Data::List(_) | Data::Map(_) => {
                self.report.add(node.at, "a text is expected here", "write one value");
                None
            }
        }
    }

    fn template<T>(&mut self, at: At) -> Option<T> {
        self.report.add(at, "an inventory has no variables to fill in", "write the text out");
        None
    }

    /// A value as it is typed, whatever it is; the parser bounds its depth.
    fn value(&mut self, node: &Written) -> Option<Value> {
        match &node.data {
            Data::Broken => None,
            Data::List(items) => {
                let values: Vec<Option<Value>> = items.iter().map(|item| self.value(item)).collect();
                values.into_iter().collect::<Option<Vec<_>>>().map(Value::Array)
            }
            Data::Map(entries) => {
                let pairs: Vec<Option<(String, Value)>> =
                    entries.iter().map(|entry| Some((entry.key.clone(), self.value(&entry.value)?))).collect();
                pairs.into_iter().collect::<Option<Map<_, _>>>().map(Value::Object)
            }
            Data::Scalar(scalar) => match typed(scalar) {
                Reading::Text if scalar.text.contains("{{") => self.template(node.at),
                Reading::Text => Some(Value::String(scalar.text.clone())),
                Reading::Bool(value) => Some(Value::Bool(value)),
                Reading::Int(value) => Some(Value::Number(value.into())),
                Reading::Null => {
                    self.report.add(node.at, "a variable without a value", "write \"\" for an empty text");
                    None
                }
                Reading::Odd(odd) => {
                    let text = shown(&scalar.text);
                    self.report.add(
                        node.at,
                        format!("'{text}' without quotes is {}", odd.why),
                        format!("write \"{text}\", in quotes"),
                    );
                    None
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{Memory, faults, read};
    use super::super::{Inventory, MAX_HOSTS};

    const GOOD: &str = "\
version: 1
user: root
port: 22
key: ~/.ssh/id_ed25519
vars: { admin: deploy, site: top, deep: { list: [ 1, true, \"no\" ] } }
groups:
  web:
    hosts: [ \"web[01:03].example.org\", db1 ]
    groups: [ other ]
    vars: { site: a }
    user: admin
  other: { hosts: [ \"2001:db8::1\" ], port: 2022, jump: ops@bastion }
hosts:
  web03.example.org: { address: 192.0.2.7, port: 2222, user: ops, key: [ ~/.ssh/ops ], vars: { site: b }, groups: [ canary ] }
  lone:
";

    #[test]
    fn an_inventory_as_people_write_it() {
        let inventory = read(&[("hosts.yml", GOOD), ("group_vars/web.yml", "site: ansible\n")]);
        let told: Vec<String> = inventory
            .hosts
            .iter()
            .map(|host| format!("{} {} {}", host.name, host.place, host.groups.join(",")))
            .collect();
        assert_eq!(
            told,
            [
                "web01.example.org admin@web01.example.org:22 web",
                "web02.example.org admin@web02.example.org:22 web",
                "web03.example.org ops@192.0.2.7:2222 canary,web",
                "db1 admin@db1:22 web",
                "2001:db8::1 admin@[2001:db8::1]:2022 other,web",
                "lone root@lone:22 ungrouped",
            ]
        );
        let [first, _, third, _, v6, lone] = inventory.hosts.as_slice() else { panic!() };
        let deep = json!({"list": [1, true, "no"]});
        assert_eq!(json!(first.vars), json!({"admin": "deploy", "deep": deep, "site": "a"}));
        assert_eq!((third.vars["site"].as_str(), lone.vars["site"].as_str()), (Some("b"), Some("top")));
        assert_eq!((third.keys[0].to_str(), lone.keys[0].to_str()), (Some("~/.ssh/ops"), Some("~/.ssh/id_ed25519")));
        assert_eq!((v6.jump[0].to_string(), lone.jump.len()), ("ops@bastion".to_owned(), 0));
        assert_eq!((first.at.as_str(), lone.at.as_str()), ("hosts.yml:8:14", "hosts.yml:15:3"));
        assert_eq!(inventory.unread, []);
    }

    #[test]
    fn all_faults_are_found_at_once() {
        let text = "\
version: 1
usr: root
port: no
user: '-x'
groups:
  all: {}
  web:
    hosts: [ a:22, ../x, 12, ok, \"n[1:99999999999]\", b@c ]
    groups: [ dbb, web ]
    user: [ x ]
  db: { groups: [ web2 ] }
  web2: { groups: [ db ], hosts: x }
hosts:
  ok: { adress: x, address: a;b, port: 70000, vars: { Bad: 1, a: 1.5, b: \"{{ c }}\", d: } }
  \"m[1:2]\": { address: x, groups: [ all ], jump: a b }
  ok: {}
";
        let want = [
            "2:1: unknown key 'usr'",
            "3:7: not a port",
            "4:7: a user name that begins with - is read as an option",
            "6:3: 'all' is no group to declare",
            "8:14: 'a:22' cannot be a host: the port does not belong into the name",
            "8:20: '../x' cannot be a host: the name would read as a path",
            "8:26: a text is expected here",
            "8:34: 'n[1:99999999999]': the range makes more than 100000 hosts",
            "8:54: 'b@c' cannot be connected to: the host name holds a character other than letters, digits and . _ -",
            "9:15: there is no group 'dbb'",
            "9:20: groups go in a circle: web in web",
            "10:11: a text is expected here",
            "12:21: groups go in a circle: db in web2 in db",
            "12:34: hosts is a list here",
            "14:9: unknown key 'adress'",
            "14:29: the host name holds a character other than letters, digits and . _ -",
            "14:40: not a port",
            "14:55: 'Bad' cannot be the name of a variable",
            "14:66: '1.5' without quotes is a floating point number",
            "14:74: an inventory has no variables to fill in",
            "14:86: a variable without a value",
            "15:24: one address for several hosts",
            "15:37: 'all' is no group to join",
            "15:50: not a destination: the host name holds a character other than letters, digits and . _ -",
            "16:3: 'ok' is here twice, first on line 14",
        ];
        let found = faults(&[("h", text)]);
        for (found, want) in found.iter().zip(want) {
            assert_eq!(found, &format!("h:{want}"));
        }
        assert_eq!(found.len(), want.len(), "{found:#?}");
    }

    #[test]
    fn a_fault_shows_its_line_but_no_password() {
        let text = "version: 1\nhosts:\n  web: { usr: x }\n  db: { ansible_pass: hunter2 }\n";
        let found = Inventory::read("h", &Memory::new(&[("h", text)])).unwrap_err();
        assert_eq!(
            found[0].to_string(),
            "h:3:10: unknown key 'usr': \n  3 |   web: { usr: x }\n    |          ^^^\n  help: did you mean 'user'?"
        );
        let all: String = found.iter().map(ToString::to_string).collect();
        assert!(found.len() == 2 && !all.contains("hunter2"), "{all}");
    }

    #[test]
    fn hostile_text_is_a_fault() {
        for (text, count) in [
            ("version: 2\n", 1),
            ("version: 1\nhosts: { \"a\\u001b[2J\": }\n", 1),
            ("version: 1\nhosts: { a\u{202e}b: }\n", 1),
            ("version: 1\nvars: &a { a: 1 }\nhosts: *a\n", 2),
            ("version: 1\nvars: { <<: 1, a: !vault x }\n", 2),
            ("version: 1\n---\nversion: 1\n", 1),
            ("version: 1\ngroups: { web: { groups: [ db ] } }\nhosts: {\n", 1),
        ] {
            assert_eq!(faults(&[("h", text)]).len(), count, "{text:?}: {:?}", faults(&[("h", text)]));
        }
        let deep = format!("version: 1\nvars: {{ a: {} }}\n", "[".repeat(100_000));
        assert_eq!(faults(&[("h", &deep)]).len(), 1);
        let most = format!("version: 1\ngroups: {{ a: {{ hosts: [ \"n[1:{MAX_HOSTS}]\" ] }} }}\n");
        assert_eq!(read(&[("h", &most)]).hosts.len(), MAX_HOSTS);
    }
}
