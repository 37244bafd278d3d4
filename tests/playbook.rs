//! The playbook language: what is refused, with which place and fix, and what is made of a good playbook.

use std::collections::BTreeMap;

use keyward::error::Failure;
use keyward::playbook::{self, Faults, Playbook};
use keyward::resource::Loader;

mod playbook_shape;

use playbook_shape::REGISTRY;

/// Texts by name.
#[derive(Default)]
struct Texts(BTreeMap<String, String>);

impl Texts {
    fn of(playbook: &str) -> Self {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdDqYh0qVfB9x5v0vWJ3lq9yQWw0c8mZr0g0p0m3H2k ops@laptop";
        Self(BTreeMap::from([("p.yml".to_owned(), playbook.to_owned()), ("deploy.pub".to_owned(), key.to_owned())]))
    }
}

impl Loader for Texts {
    fn load(&self, name: &str) -> Result<String, Failure> {
        if let Some(text) = playbook::builtin(name) {
            return Ok(text.to_owned());
        }
        self.0.get(name).cloned().ok_or_else(|| Failure::input(name, "no such file").hint("check the name"))
    }
}

fn load(text: &str) -> Result<Playbook, Faults> {
    playbook::load("p.yml", REGISTRY, &Texts::of(text))
}

const GOOD: &str = r#"
version: 1
vars: { admin: deploy, port: 2222 }
min_ways_in: 1
users:
  - name: "{{ admin }}"
    admin: true
    groups: [ sudo ]
    password: locked
    sudo: { nopasswd: true }
    authorized_keys:
      - file: "{{ admin }}.pub"
        from: [ 198.51.100.0/24 ]
    exclusive_keys: false
root: { password: keep }
ssh:
  port: "{{ port }}"
  permit_root_login: "no"
  password_authentication: false
  max_auth_tries: 3
firewall:
  incoming: deny
  outgoing: allow
  allow: [ 80/tcp, 443/tcp, "Nginx Full", { port: 5432, proto: tcp, from: 10.0.0.0/8, comment: db } ]
  exclusive: false
"#;

#[test]
fn a_good_playbook_loads() {
    let playbook = load(GOOD).map_err(|faults| println!("{faults}")).unwrap();
    assert_eq!(playbook.document.section("ssh")["port"], 2222);
    assert_eq!(playbook.document.section("users")[0]["name"], "deploy");
}

#[test]
fn every_fault_in_one_run() {
    let text = "version: 1\nusers:\n  - nmae: deploy\n    admin: no\n    authorized_keys:\n    - file: x.pub\n    groups: [sudo, 10]\nssh:\n  prot: 22\n  port: 022\n  permit_root_login: no\n  port: 22\nfirewall: *x\n";
    let faults = load(text).err().unwrap();
    println!("{faults}");
    assert!(faults.items.len() > 5);
}
