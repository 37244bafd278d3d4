//! What one place says about a host or group: variables, and how to connect. Sorts Ansible's connection variables into
//! those that keyward understands, those that change nothing for it, and the rest, which is listed as unread (Ansible docs:
//! "Connecting to hosts: behavioral inventory parameters"). Must never repeat a value that may be a password.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::notes::{Mark, Notes};
use crate::playbook::shown;
use crate::target::ssh::{Destination, check_host, check_user};
use crate::types::is_forbidden;

/// `None`: not said here. `Some(None)`: said, but empty or not understood, so that what lies below does not hold either.
pub(super) type Said<T> = Option<Option<T>>;

/// How to connect. Where there are two, the second one wins wherever it is said: in Ansible `ansible_ssh_user` does over
/// `ansible_user`.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Link {
    pub host: [Said<String>; 2],
    pub port: [Said<u16>; 2],
    pub user: [Said<String>; 2],
    pub keys: [Said<Vec<PathBuf>>; 2],
    pub jump: [Said<Vec<Destination>>; 2],
}

/// What one place says.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Layer {
    /// `None` for a value that is not understood.
    pub vars: BTreeMap<String, Option<Value>>,
    pub link: Option<Box<Link>>,
    /// Orders groups of one depth.
    pub priority: i64,
}

impl Layer {
    /// True when it says nothing.
    pub fn is_empty(&self) -> bool {
        self.vars.is_empty() && self.link.is_none()
    }

    pub fn link(&mut self) -> &mut Link {
        self.link.get_or_insert_default()
    }
}

/// Why a value is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Odd {
    /// Encrypted by ansible-vault.
    Vault,
    /// A Jinja template.
    Template,
    /// A YAML tag that only some program knows.
    Tag,
    /// Holds a control character.
    Control,
}

impl Odd {
    const fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Vault => {
                ("is encrypted by ansible-vault", "keyward has no vault: give secrets when running, as env:NAME")
            }
            Self::Template => ("is a template, which keyward does not fill in", "write the value itself"),
            Self::Tag => ("has a YAML tag that keyward does not know", "write the value itself"),
            Self::Control => ("holds a control character", "remove it"),
        }
    }
}

/// A value, or why there is none.
pub(super) type Read = Result<Value, Odd>;

/// The value, if all texts in it stand for themselves.
pub(super) fn judge(value: Value) -> Read {
    fn odd(value: &Value) -> Option<Odd> {
        match value {
            Value::String(text) => odd_text(text),
            Value::Array(items) => items.iter().find_map(odd),
            Value::Object(map) => map.iter().find_map(|(key, value)| odd_text(key).or_else(|| odd(value))),
            Value::Null | Value::Bool(_) | Value::Number(_) => None,
        }
    }
    odd(&value).map_or(Ok(value), Err)
}

fn odd_text(text: &str) -> Option<Odd> {
    if text.starts_with("$ANSIBLE_VAULT") || text.starts_with("!vault") {
        Some(Odd::Vault)
    } else if text.contains("{{") || text.contains("{%") {
        Some(Odd::Template)
    } else if text.contains(|c| is_forbidden(c) && !matches!(c, '\n' | '\t')) {
        Some(Odd::Control)
    } else {
        None
    }
}

/// Notes `name: value` in `layer`. A value that is not understood hides those of the layers below.
pub(super) fn take(layer: &mut Layer, notes: &mut Notes, at: Mark, name: &str, value: Read) {
    if name.starts_with("ansible_") {
        return take_ansible(layer, notes, at, name, value);
    }
    if name.is_empty() || name.contains(is_forbidden) {
        return notes.fault(at, "not the name of a variable", "write name=value, the name of letters, digits and '_'");
    }
    if let Err(odd) = value {
        let (why, hint) = odd.text();
        notes.unread(at, format!("'{}' {why}", shown(name)), hint);
    }
    layer.vars.insert(name.to_owned(), value.ok());
}

/// Variables that decide how a host is reached; the index is that of the pairs in [`Link`].
const HOST: [&str; 2] = ["ansible_host", "ansible_ssh_host"];
const PORT: [&str; 2] = ["ansible_port", "ansible_ssh_port"];
const USER: [&str; 2] = ["ansible_user", "ansible_ssh_user"];
const KEY: [&str; 2] = ["ansible_private_key_file", "ansible_ssh_private_key_file"];
const ARGS: [&str; 2] = ["ansible_ssh_common_args", "ansible_ssh_extra_args"];
/// Variables that change nothing for keyward: how Ansible runs its modules there.
const HARMLESS: [&str; 13] = [
    "ansible_become",
    "ansible_become_exe",
    "ansible_sudo",
    "ansible_pipelining",
    "ansible_ssh_pipelining",
    "ansible_ssh_retries",
    "ansible_ssh_transfer_method",
    "ansible_scp_if_ssh",
    "ansible_remote_tmp",
    "ansible_shell_type",
    "ansible_shell_executable",
    "ansible_facts",
    "ansible_check_mode",
];

fn take_ansible(layer: &mut Layer, notes: &mut Notes, at: Mark, name: &str, value: Read) {
    let pair = |names: [&str; 2]| names.iter().position(|known| *known == name);
    if let Some(index) = pair(HOST) {
        let host = text_of(notes, at, name, value, check_host, "write an address or a name; the port is ansible_port");
        set(&mut layer.link().host, index, host);
    } else if let Some(index) = pair(PORT) {
        let port = text_of(notes, at, name, value, check_port, "write a number from 1 to 65535");
        set(&mut layer.link().port, index, port.and_then(|port| port.parse().ok()));
    } else if let Some(index) = pair(USER) {
        let user = text_of(notes, at, name, value, check_user, "write the name of an account");
        set(&mut layer.link().user, index, user);
    } else if let Some(index) = pair(KEY) {
        let key = match value {
            Ok(Value::String(path)) if !path.contains('\n') => Some(path).filter(|path| !path.is_empty()),
            Ok(Value::Null) => None,
            other => {
                let (why, hint) = other.err().map_or(("is no path", "write the path of a private key"), Odd::text);
                notes.unread(at, format!("'{name}' {why}"), hint);
                None
            }
        };
        set(&mut layer.link().keys, index, key.map(|path| vec![PathBuf::from(path)]));
    } else if let Some(index) = pair(ARGS) {
        let args = value.as_ref().ok().and_then(Value::as_str);
        let jump = args.and_then(jump);
        if jump.is_none() && args != Some("") {
            let hint = "write such options for these hosts into ~/.ssh/config, which keyward reads";
            notes.unread(at, format!("'{name}' holds more than one jump host (-J or ProxyJump)"), hint);
        }
        set(&mut layer.link().jump, index, jump);
    } else if name == "ansible_group_priority" {
        match value.ok().and_then(|value| value.as_i64().or_else(|| value.as_str()?.parse().ok())) {
            Some(priority) => layer.priority = priority,
            None => {
                notes.fault(at, format!("'{name}' is no number"), "write a number; groups have 1 unless they say more")
            }
        }
    } else {
        rest(notes, at, name, &value);
    }
}

/// Sets one of a pair.
fn set<T>(pair: &mut [Said<T>; 2], index: usize, value: Option<T>) {
    if let Some(slot) = pair.get_mut(index) {
        *slot = Some(value);
    }
}

/// What keyward does not act by: silent where it is the same for keyward, else listed.
fn rest(notes: &mut Notes, at: Mark, name: &str, value: &Read) {
    let text = value.as_ref().ok().and_then(Value::as_str).unwrap_or_default();
    let local = text.strip_prefix("ansible.builtin.").unwrap_or(text);
    let same = match name {
        "ansible_connection" => matches!(local, "ssh" | "paramiko" | "paramiko_ssh" | "smart"),
        "ansible_become_method" => local == "sudo",
        "ansible_become_user" => text == "root",
        _ => HARMLESS.contains(&name) || name.ends_with("_interpreter"),
    };
    if same {
        return;
    }
    let secret = ["pass", "secret", "token"].iter().any(|word| name.to_ascii_lowercase().contains(word));
    let (what, hint) = if secret {
        ("is not read: keyward takes no password from a file", "give it when running: --password env:NAME")
    } else if name == "ansible_connection" {
        (
            "is not ssh, and keyward reaches every host over SSH",
            "leave the host out, as with a pattern like 'all,!NAME'",
        )
    } else if name.starts_with("ansible_become") {
        ("is not used: keyward becomes root by sudo", "let the account become root by sudo")
    } else if name.contains("host_key_checking") {
        ("is not used: keyward checks every host key", "add the host's key to ~/.ssh/known_hosts")
    } else {
        ("is not used by keyward", "what matters for the connection can stand in ~/.ssh/config, which keyward reads")
    };
    notes.unread(at, format!("'{}' {what}", shown(name)), hint);
}

/// The text of a connection variable; a fault where it cannot be one, as nobody may guess where a connection goes.
fn text_of(
    notes: &mut Notes,
    at: Mark,
    name: &str,
    value: Read,
    check: impl Fn(&str) -> Result<(), &'static str>,
    hint: &str,
) -> Option<String> {
    let (why, hint) = match value {
        Ok(Value::Null) => return None,
        Ok(Value::String(text)) if text.is_empty() => return None,
        Ok(value @ (Value::String(_) | Value::Number(_))) => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            match check(&text) {
                Ok(()) => return Some(text),
                Err(why) => (why, hint),
            }
        }
        Ok(_) => ("neither a text nor a number", hint),
        Err(odd) => odd.text(),
    };
    notes.fault(at, format!("'{name}' cannot be used: {why}"), hint);
    None
}

pub(super) fn check_port(text: &str) -> Result<(), &'static str> {
    let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let fine = digits && text.parse::<u16>().is_ok_and(|port| port != 0);
    if fine { Ok(()) } else { Err("the port must be 1 to 65535") }
}

/// The jump hosts of arguments of ssh that say nothing else: `-J a,b`, `-o ProxyJump=a`.
fn jump(args: &str) -> Option<Vec<Destination>> {
    let words = super::words::split(args).ok()?.words;
    let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let option = |text: &str| {
        let (key, value) = text.split_once(['=', ' '])?;
        key.trim().eq_ignore_ascii_case("ProxyJump").then(|| value.trim().to_owned())
    };
    let list = match words.as_slice() {
        ["-J", list] => (*list).to_owned(),
        ["-o", text] => option(text)?,
        [word] => match word.strip_prefix("-J") {
            Some(list) => list.to_owned(),
            None => option(word.strip_prefix("-o")?)?,
        },
        _ => return None,
    };
    if list.eq_ignore_ascii_case("none") {
        return Some(Vec::new());
    }
    list.split(',').map(|place| Destination::parse(place).ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn taken(name: &str, value: Read) -> (Layer, Vec<String>, Vec<String>) {
        let (mut layer, mut other) = (Layer::default(), Layer::default());
        let (mut notes, mut twin) = (Notes::default(), Notes::default());
        let at = notes.open("hosts", 0).unwrap().to(1, 2);
        twin.open("hosts", 0);
        take(&mut layer, &mut notes, at, name, value.clone());
        take(&mut other, &mut twin, at, name, value);
        let faults = notes.into_faults().iter().map(ToString::to_string).collect();
        let unread =
            twin.into_unread().into_iter().map(|unread| format!("{}: {} {}", unread.at, unread.what, unread.hint));
        (layer, faults, unread.collect())
    }

    #[test]
    fn connection_variables_are_understood_silent_or_unread() {
        for (name, value) in [
            ("ansible_host", json!("192.0.2.1")),
            ("ansible_ssh_host", json!("2001:db8::1")),
            ("ansible_port", json!(22)),
            ("ansible_ssh_port", json!("2222")),
            ("ansible_user", json!("deploy")),
            ("ansible_user", json!(1000)),
            ("ansible_user", json!(null)),
            ("ansible_private_key_file", json!("~/.ssh/a b")),
            ("ansible_ssh_common_args", json!("-J ops@bastion:2222,second")),
            ("ansible_ssh_extra_args", json!("-o \"ProxyJump bastion\"")),
            ("ansible_ssh_common_args", json!("-oProxyJump=bastion")),
            ("ansible_ssh_common_args", json!("-J none")),
            ("ansible_python_interpreter", json!("/usr/bin/python3")),
            ("ansible_become", json!(true)),
            ("ansible_become_method", json!("sudo")),
            ("ansible_become_user", json!("root")),
            ("ansible_connection", json!("ansible.builtin.ssh")),
            ("ansible_group_priority", json!("10")),
        ] {
            let (layer, faults, unread) = taken(name, Ok(value));
            assert_eq!((faults.len(), unread.len(), layer.vars.len()), (0, 0, 0), "{name}: {faults:?} {unread:?}");
        }
        for (name, value) in [
            ("ansible_connection", json!("local")),
            ("ansible_connection", json!("docker")),
            ("ansible_become_method", json!("su")),
            ("ansible_become_user", json!("admin")),
            ("ansible_ssh_common_args", json!("-o ProxyCommand='nc %h %p'")),
            ("ansible_ssh_common_args", json!("-J a -o StrictHostKeyChecking=no")),
            ("ansible_ssh_common_args", json!("-J $(id)")),
            ("ansible_host_key_checking", json!(false)),
            ("ansible_winrm_transport", json!("ntlm")),
            ("ansible_ssh_private_key_file", json!(["a"])),
        ] {
            let (_, faults, unread) = taken(name, Ok(value));
            assert_eq!((faults.len(), unread.len()), (0, 1), "{name}: {faults:?} {unread:?}");
            assert!(unread[0].starts_with(&format!("hosts:1:2: '{name}' ")), "{unread:?}");
        }
    }

    #[test]
    fn where_a_connection_goes_is_never_guessed() {
        for (name, value) in [
            ("ansible_host", Ok(json!("-oProxyCommand=id"))),
            ("ansible_host", Ok(json!("a b"))),
            ("ansible_host", Ok(json!("192.0.2.1:22"))),
            ("ansible_host", Ok(json!(["a"]))),
            ("ansible_host", Ok(json!(true))),
            ("ansible_host", Err(Odd::Template)),
            ("ansible_ssh_user", Err(Odd::Vault)),
            ("ansible_user", Ok(json!("$(id)"))),
            ("ansible_port", Ok(json!(0))),
            ("ansible_port", Ok(json!(65536))),
            ("ansible_port", Ok(json!(22.5))),
            ("ansible_port", Ok(json!("+22"))),
            ("ansible_port", Err(Odd::Template)),
            ("ansible_group_priority", Ok(json!("high"))),
        ] {
            let (_, faults, unread) = taken(name, value.clone());
            assert_eq!((faults.len(), unread.len()), (1, 0), "{name} {value:?}");
            assert!(faults[0].contains("help: "), "{faults:?}");
        }
    }

    #[test]
    fn passwords_are_not_repeated() {
        for name in [
            "ansible_password",
            "ansible_ssh_pass",
            "ansible_become_pass",
            "ansible_sudo_password",
            "ansible_net_token",
        ] {
            for value in [Ok(json!("hunter2")), Ok(json!({ "a": "hunter2" })), judge(json!("{{ hunter2 }}"))] {
                let (layer, faults, unread) = taken(name, value);
                let all = format!("{layer:?}{faults:?}{unread:?}");
                assert!(!all.contains("hunter2") && unread.len() == 1 && all.contains("--password env:NAME"), "{all}");
            }
        }
    }

    #[test]
    fn values_that_do_not_stand_for_themselves_hide_what_lies_below() {
        for (value, odd) in [
            (json!("a {{ b }}"), Odd::Template),
            (json!(["a", { "b": "{% if x %}" }]), Odd::Template),
            (json!({ "{{ a }}": 1 }), Odd::Template),
            (json!("$ANSIBLE_VAULT;1.1;AES256\n61"), Odd::Vault),
            (json!("a\u{1b}[2J"), Odd::Control),
        ] {
            assert_eq!(judge(value.clone()), Err(odd), "{value}");
            let (layer, faults, unread) = taken("site", judge(value));
            assert_eq!((layer.vars.get("site"), faults.len(), unread.len()), (Some(&None), 0, 1));
        }
        assert_eq!(judge(json!(["a\tb\n", 1, null])), Ok(json!(["a\tb\n", 1, null])));
    }
}
