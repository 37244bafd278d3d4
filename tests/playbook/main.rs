//! The playbook language: what is refused, with which place and fix, and what is made of a good playbook.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use keyward::error::Failure;
use keyward::playbook::{self, Faults, Playbook};
use keyward::resource::Loader;

mod cases;
mod shape;

use cases::Case;
use shape::REGISTRY;

/// Texts by name.
struct Texts(BTreeMap<String, String>);

impl Loader for Texts {
    fn load(&self, name: &str) -> Result<String, Failure> {
        if let Some(text) = playbook::builtin(name) {
            return Ok(text.to_owned());
        }
        self.0.get(name).cloned().ok_or_else(|| Failure::input(name, "no such file").hint("check the name"))
    }
}

fn load_with(text: &str, files: &BTreeMap<String, String>) -> Result<Playbook, Faults> {
    let mut files = files.clone();
    files.insert("p.yml".to_owned(), text.to_owned());
    playbook::load("p.yml", REGISTRY, &Texts(files))
}

fn load(text: &str) -> Result<Playbook, Faults> {
    load_with(text, &cases::files())
}

fn faults(text: &str) -> Faults {
    load(text).err().unwrap_or_else(|| panic!("accepted:\n{text}"))
}

#[test]
fn the_playbook_with_every_field_is_good() {
    let playbook = load(&cases::full()).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(playbook.document.section("ssh")["port"], 2222);
    assert_eq!(playbook.document.section("users")[0]["authorized_keys"][0]["file"]["name"], "good.pub");
    assert!(
        playbook.document.section("users")[0]["authorized_keys"][0]["file"]["text"]
            .as_str()
            .unwrap()
            .starts_with("ssh-ed25519 ")
    );
    assert_eq!(playbook.min_ways_in, 1);
    assert_eq!(playbook.digest.len(), 64);
    assert_eq!(playbook.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>(), ["p.yml", "good.pub"]);
}

/// What is wrong with the refusal of `case`, if anything.
fn judge(case: &Case, files: &BTreeMap<String, String>, slowest: &mut Duration) -> Option<String> {
    let begun = Instant::now();
    let outcome = load_with(&case.text, files);
    let took = begun.elapsed();
    *slowest = took.max(*slowest);
    let Err(faults) = outcome else { return Some("accepted".into()) };
    let shown = faults.to_string();
    if faults.items.is_empty() {
        return Some("no fault".into());
    }
    if let Some(item) = faults.items.iter().find(|item| item.hint.is_empty() || item.what.is_empty()) {
        return Some(format!("no fix: {item}"));
    }
    if case.line > 0 && !faults.items.iter().any(|item| item.line == case.line) {
        return Some(format!("no fault on line {}:\n{shown}", case.line));
    }
    if !faults.items.iter().any(|item| item.what.contains(&case.says)) {
        return Some(format!("nothing says '{}':\n{shown}", case.says));
    }
    if shown.chars().any(|c| c != '\n' && keyward::types::is_forbidden(c)) {
        return Some("a control character reaches the terminal".into());
    }
    // A second for the program as shipped; the unoptimised one on a busy machine gets more.
    if took > Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 }) {
        return Some(format!("took {took:?}"));
    }
    None
}

#[test]
fn five_hundred_bad_playbooks_are_refused_with_place_and_fix() {
    let groups = [
        ("table", cases::table(), 120),
        ("control characters", cases::control_characters(), 500),
        ("odd words", cases::odd_words(), 500),
        ("wrong values", cases::wrong_values(), 150),
        ("keys", cases::keys(), 100),
        ("bombs", cases::bombs(), 20),
    ];
    let files = cases::files();
    let (mut count, mut slowest, mut wrong) = (0, Duration::ZERO, Vec::new());
    for (name, group, least) in groups {
        println!("{name}: {}", group.len());
        assert!(group.len() >= least, "{name}: only {}", group.len());
        count += group.len();
        for case in &group {
            if let Some(why) = judge(case, &files, &mut slowest) {
                wrong.push(format!("{name}: {}: {why}", case.class));
            }
        }
    }
    println!("{count} bad playbooks, slowest {slowest:?}");
    let shown: Vec<String> = wrong.iter().take(40).map(|text| text.chars().take(600).collect()).collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), shown.join("\n"));
    assert!(count >= 500);
}

#[test]
fn every_fault_in_one_run_sorted() {
    let text = "version: 1\nusers:\n  - nmae: deploy\n    admin: no\n    authorized_keys:\n    - file: x.pub\n    groups: [sudo, 10]\nssh:\n  prot: 22\n  port: 022\n  permit_root_login: no\n  port: 22\nfirewall: *x\n";
    let faults = faults(text);
    let places: Vec<(usize, usize)> = faults.items.iter().map(|item| (item.line, item.column)).collect();
    assert_eq!(places, [(3, 5), (4, 12), (6, 13), (7, 20), (9, 3), (10, 9), (11, 22), (12, 3), (13, 11)], "{faults}");
    let first =
        "p.yml:3:5: error: unknown key 'nmae'\n  3 |   - nmae: deploy\n    |     ^^^^\n  help: did you mean 'name'?";
    assert!(faults.to_string().starts_with(first), "{faults}");
    let json = serde_json::to_value(&faults).unwrap();
    assert_eq!(json["items"][0]["line"], 3);
    assert_eq!(json["items"][0]["length"], 4);
}

#[test]
fn many_faults_are_counted_not_poured_out() {
    let text = (0..80).fold("version: 1\n".to_owned(), |text, n| format!("{text}key{n}: 1\n"));
    let faults = faults(&text);
    assert_eq!(faults.items.len(), 80);
    let shown = faults.to_string();
    assert_eq!(shown.matches("error: unknown key").count(), 50);
    assert!(shown.ends_with("and 30 more"), "{shown}");
}
