//! Ansible's INI (Ansible docs: "How to build your inventory", "ini inventory"): sections of hosts, of variables and of
//! children. A line of hosts is cut as a shell would cut it, and a `#` outside quotes ends it; in a section of variables all
//! behind the `=` is the value. Values are typed as Python literals in both. Must not resolve anything.

use serde_json::Value;

use super::connection::{self, Layer, Odd, Read};
use super::draft::{Draft, Ports, UNGROUPED};
use super::notes::Mark;
use super::{literal, words};
use crate::playbook::shown;

const HEADER: &str = "write [GROUP], [GROUP:vars] or [GROUP:children]";

/// What the lines of a section are.
#[derive(Clone, Copy)]
enum Section {
    Hosts(usize),
    Vars(usize),
    Children(usize),
    /// Its header is a fault, so its lines are not looked at.
    Lost,
}

/// Reads `text` into `draft`.
pub(super) fn read(draft: &mut Draft, source: Mark, text: &str) {
    let mut section = Section::Hosts(UNGROUPED);
    for (row, whole) in text.lines().enumerate() {
        let line = whole.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let indent = whole.chars().take_while(|c| c.is_whitespace()).count();
        let at = source.to(row + 1, indent + 1);
        if let Some(inner) = header(line) {
            section = open(draft, inner, at);
            continue;
        }
        match section {
            Section::Hosts(group) => hosts(draft, line, at, group),
            Section::Vars(group) => variable(draft, line, at, group),
            Section::Children(group) => child(draft, line, at, group),
            Section::Lost => {}
        }
    }
}

/// What stands between the brackets of a section's header. An IPv6 address alone in brackets is a host, and so is a name
/// that begins with a range.
fn header(line: &str) -> Option<&str> {
    let (inner, rest) = line.strip_prefix('[')?.split_once(']')?;
    let rest = rest.trim_start();
    let alone = rest.is_empty() || rest.starts_with('#');
    (alone && inner.parse::<std::net::Ipv6Addr>().is_err()).then_some(inner)
}

fn open(draft: &mut Draft, inner: &str, at: Mark) -> Section {
    let at = at.to(at.line as usize, at.column as usize + 1);
    let (name, kind) = inner.split_once(':').map_or((inner, "hosts"), |(name, kind)| (name, kind));
    if name.is_empty() || name.contains(char::is_whitespace) {
        draft.notes.fault(at, "a section without the name of a group", HEADER);
        return Section::Lost;
    }
    let section = match kind {
        "hosts" => draft.declare(name, at).map(Section::Hosts),
        "children" => draft.declare(name, at).map(Section::Children),
        "vars" => draft.refer(name, at).map(Section::Vars),
        _ => {
            draft.notes.fault(at, format!("'{}' is no kind of section", shown(kind)), HEADER);
            None
        }
    };
    section.unwrap_or(Section::Lost)
}

fn hosts(draft: &mut Draft, line: &str, at: Mark, group: usize) {
    let place = |column: usize| at.to(at.line as usize, at.column as usize + column - 1);
    let found = match words::split(line) {
        Ok(found) => found,
        Err(column) => {
            let hint = "close the quote on the same line; outside quotes write a backslash twice";
            return draft.notes.fault(place(column), "a quote is not closed, or a backslash ends the line", hint);
        }
    };
    if let Some(column) = found.cut {
        let hint = "put quotes around a value that holds '#', or a space before a comment";
        draft.notes.unread(place(column), "what follows '#' is a comment, as Ansible reads it", hint);
    }
    let mut words = found.words.into_iter();
    let Some(name) = words.next() else { return };
    let named = draft.hosts(&name.text, place(name.column), group, Ports::Allowed);
    let mut layer = Layer::default();
    if let Some(port) = named.port {
        layer.link().port = [Some(Some(port)), None];
    }
    for word in words {
        let at = place(word.column);
        match word.text.split_once('=') {
            Some((key, value)) => connection::take(&mut layer, &mut draft.notes, at, key, typed(value)),
            // The word is not repeated: it may be the rest of a password with a space in it.
            None => draft.notes.fault(
                at,
                "a word behind a host that is no name=value",
                "put quotes around a value with spaces",
            ),
        }
    }
    draft.say(&named.hosts, layer);
}

fn variable(draft: &mut Draft, line: &str, at: Mark, group: usize) {
    let Some((key, value)) = line.split_once('=') else {
        return draft.notes.fault(at, "a line of a section of variables that is no name=value", "write name=value");
    };
    let text = value.trim();
    let value = typed(text);
    if text.contains(" #") && value.as_ref().is_ok_and(|value| value.as_str() == Some(text)) {
        let hint = "put a comment on a line of its own";
        draft.notes.unread(at, "' #' in a section of variables is part of the value, as Ansible reads it", hint);
    }
    if let Some(group) = draft.groups.get_mut(group) {
        connection::take(&mut group.layer, &mut draft.notes, at, key.trim(), value);
    }
}

fn child(draft: &mut Draft, line: &str, at: Mark, group: usize) {
    let name = line.split('#').next().unwrap_or_default().trim();
    if name.contains([':', '=']) || name.contains(char::is_whitespace) {
        return draft.notes.fault(at, "a section of children holds one name of a group a line", "write the name alone");
    }
    if let Some(child) = draft.refer(name, at) {
        draft.child(group, child, at);
    }
}

/// The value of `text`, which stands for itself unless it is a template or encrypted.
fn typed(text: &str) -> Read {
    // A template may look like a dictionary with a dictionary in it.
    match connection::judge(Value::String(text.to_owned())) {
        Err(odd @ (Odd::Template | Odd::Vault)) => Err(odd),
        _ => connection::judge(literal::read(text)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{faults, read};

    #[test]
    fn an_inventory_as_people_write_it() {
        let text = "\
# comment
; comment
lone ansible_host=192.0.2.9   # comment
[web]   # comment
web[01:03].example:2222 role=front n=1 on=True list='[1, \"a\"]' text='\"1\"' q=\"a b\"
[2001:db8::1]
[db]
db-[a:b] ansible_user=ops ansible_ssh_private_key_file=~/.ssh/db
  db-b  extra=1
[dc:children]
web
db   # comment
[dc:vars]
ntp = ntp.example
level=3
note='a # b'
[all:vars]
ansible_ssh_common_args=-J ops@bastion
";
        let inventory = read(&[("etc/hosts", text)]);
        let places: Vec<String> = inventory.hosts.iter().map(|host| host.place.to_string()).collect();
        let want = "192.0.2.9 web01.example:2222 web02.example:2222 web03.example:2222 [2001:db8::1] ops@db-a ops@db-b";
        assert_eq!(places.join(" "), want);
        let [lone, web, .., db] = inventory.hosts.as_slice() else { panic!() };
        assert_eq!((lone.at.as_str(), db.at.as_str()), ("etc/hosts:3:1", "etc/hosts:8:1"));
        assert_eq!(
            (lone.groups.as_slice(), web.groups.as_slice()),
            (&["ungrouped".to_owned()][..], &["dc".to_owned(), "web".into()][..])
        );
        let vars = json!({"role": "front", "n": 1, "on": true, "list": [1, "a"], "text": "1", "q": "a b", "ntp": "ntp.example", "level": 3,
            "note": "a # b"});
        assert_eq!(
            json!(web.vars),
            json!(vars.as_object().unwrap().iter().collect::<std::collections::BTreeMap<_, _>>())
        );
        assert_eq!((db.vars["extra"].as_i64(), db.keys[0].to_str()), (Some(1), Some("~/.ssh/db")));
        assert_eq!(db.jump[0].to_string(), "ops@bastion");
        assert_eq!(inventory.unread, []);
    }

    #[test]
    fn all_faults_are_found_at_once_and_no_value_is_repeated() {
        let text = "\
web1 ansible_password=hunter2 hunter3
web2 a='hunter2
web3 ansible_port=hunter2
../x
[web:vrs]
ignored here
[]
[db:vars]
hunter2
[a:children]
b
x=y
[b:children]
a
web4:99999
n[1:99999999999]
";
        let found = faults(&[("hosts", text)]);
        assert_eq!(
            found,
            [
                "hosts:1:31: a word behind a host that is no name=value",
                "hosts:2:8: a quote is not closed, or a backslash ends the line",
                "hosts:3:6: 'ansible_port' cannot be used: the port must be 1 to 65535",
                "hosts:4:1: '../x' cannot be a host: the name would read as a path",
                "hosts:5:2: 'vrs' is no kind of section",
                "hosts:7:2: a section without the name of a group",
                "hosts:8:2: there is no group 'db'",
                "hosts:9:1: a line of a section of variables that is no name=value",
                "hosts:12:1: a section of children holds one name of a group a line",
                "hosts:14:1: groups go in a circle: a in b in a",
                "hosts:15:1: a section of children holds one name of a group a line",
                "hosts:16:1: a section of children holds one name of a group a line",
            ]
        );
        assert!(!found.concat().contains("hunter"));
    }

    #[test]
    fn what_ansible_cuts_or_keeps_is_told() {
        let inventory = read(&[("hosts", "web a=b#c\n[all:vars]\nx=y # z\nt={{ a }}\nv=!vault |\n")]);
        assert_eq!(
            (inventory.hosts[0].vars["a"].as_str(), inventory.hosts[0].vars["x"].as_str()),
            (Some("b"), Some("y # z"))
        );
        let places: Vec<&str> = inventory.unread.iter().map(|unread| unread.at.as_str()).collect();
        assert_eq!(places, ["hosts:1:8", "hosts:3:1", "hosts:4:1", "hosts:5:1"]);
    }
}
