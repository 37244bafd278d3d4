//! The playbook language: what is refused, with which place and fix, and what is made of a good playbook.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use keyward::error::Failure;
use keyward::playbook::{self, Faults, Playbook};
use keyward::resource::Loader;
use keyward::resources::REGISTRY;

mod cases;

use cases::Case;

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
        let part = |part: &[Case]| {
            let mut slowest = Duration::ZERO;
            let faulty = |case: &Case| Some(format!("{name}: {}: {}", case.class, judge(case, &files, &mut slowest)?));
            let wrong: Vec<String> = part.iter().filter_map(faulty).collect();
            (wrong, slowest)
        };
        let parts = std::thread::scope(|scope| {
            let running: Vec<_> =
                group.chunks(group.len().div_ceil(4)).map(|chunk| scope.spawn(|| part(chunk))).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        for (faulty, slow) in parts {
            wrong.extend(faulty);
            slowest = slow.max(slowest);
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

#[test]
fn what_is_sound_is_judged_by_its_resource_even_beside_other_faults() {
    let text = "version: 1\nfrewall: {}\nssh: { max_auth_tries: 1000 }\n";
    let lines: Vec<usize> = faults(text).items.iter().map(|item| item.line).collect();
    assert_eq!(lines, [2, 3]);
}

/// Each block of `together.txt`: exactly the faults that it names.
#[test]
fn all_faults_of_a_section_are_told_and_none_that_only_follows() {
    let blocks = cases::blocks("together.txt");
    assert!(blocks.len() >= 25, "only {}", blocks.len());
    let mut wrong = Vec::new();
    for (head, text) in blocks {
        let (_, wanted) = head.split_once(" | ").unwrap();
        let wanted: Vec<(usize, &str)> = wanted
            .split("; ")
            .map(|one| one.split_once(": ").map(|(line, words)| (line.parse().unwrap(), words)).unwrap())
            .collect();
        let faults = faults(&text);
        let told = |(item, (line, words)): (&playbook::Located, &(usize, &str))| {
            item.line == *line && item.what.contains(words) && !item.hint.is_empty()
        };
        if faults.items.len() != wanted.len() || !faults.items.iter().zip(&wanted).all(told) {
            wrong.push(format!("== {head}\n{faults}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// A playbook with one fault, made from the one without: nothing else may be said to be wrong with it.
#[test]
fn one_fault_brings_no_others_with_it() {
    let files = cases::files();
    let mut wrong = Vec::new();
    let cases = [cases::odd_words(), cases::wrong_values(), cases::keys()];
    for case in cases.iter().flatten().filter(|case| case.line > 0) {
        let Err(faults) = load_with(&case.text, &files) else { continue };
        // The parser notices a slip of indentation a line later.
        if faults.items.iter().any(|item| item.line != case.line && !item.what.starts_with("not YAML: ")) {
            wrong.push(format!("== {} (line {}):\n{faults}", case.class, case.line));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn crlf_and_a_byte_order_mark_change_nothing() {
    let plain = load(&cases::full()).unwrap_or_else(|faults| panic!("{faults}"));
    let windows = load(&format!("\u{feff}{}", cases::full().replace('\n', "\r\n"))).unwrap_or_else(|f| panic!("{f}"));
    assert_eq!(plain.document, windows.document);
    assert_ne!(plain.digest, windows.digest);
}

#[test]
fn bytes_that_are_no_text_are_refused_by_number() {
    let failure = playbook::decode("p.yml", b"version: 1\n# \xff\n".to_vec()).unwrap_err();
    assert!(failure.what.contains("byte 13 (line 2)"), "{failure}");
    assert!(playbook::decode("p.yml", vec![b' '; playbook::MAX_BYTES + 1]).is_err());
    assert!(playbook::decode("p.yml", vec![b' '; playbook::MAX_BYTES]).is_ok());
}

#[test]
fn variables_keep_their_type_and_go_into_texts() {
    let text = "version: 1\nvars: { a: dep, port: 2222, no_x11: false, n: 5 }\nusers:\n  - { name: \"{{ a }}loy\", comment: \"{{n}} of {{ a }}\" }\nssh: { port: \"{{ port }}\", x11_forwarding: \"{{ no_x11 }}\" }\n";
    let document = load(text).unwrap_or_else(|faults| panic!("{faults}")).document;
    assert_eq!(document.section("users")[0]["name"], "deploy");
    assert_eq!(document.section("users")[0]["comment"], "5 of dep");
    assert_eq!(document.section("ssh")["port"], 2222);
    assert_eq!(document.section("ssh")["x11_forwarding"], false);
    let strange = faults("version: 1\nvars: { admin: deploy }\nusers: [ { name: \"x-{{ admn }}\" } ]\n");
    assert_eq!((strange.items[0].column, strange.items[0].length), (21, 10), "{strange}");
    assert!(strange.items[0].hint.contains("did you mean 'admin'?"));
}

#[test]
fn parents_are_joined_and_their_faults_name_their_file() {
    let mut files = cases::files();
    let base = "version: 1\nvars: { port: 22, who: ann }\nusers:\n  - { name: \"{{ who }}\", shell: /bin/sh, groups: [ adm ] }\n  - { name: zoe }\nssh: { port: \"{{ port }}\", max_auth_tries: 5 }\nfirewall: { incoming: deny, allow: [ 80/tcp, 443/tcp ] }\n";
    files.insert("base.yml".into(), base.into());
    let text = "version: 1\nextends: [ base.yml ]\nvars: { port: 2222 }\nusers:\n  - { name: ann, groups: [ sudo ] }\n  - { name: bob }\nssh: { x11_forwarding: false }\nfirewall: { allow: [ 25/tcp ] }\n";
    let playbook = load_with(text, &files).unwrap_or_else(|faults| panic!("{faults}"));
    let document = &playbook.document;
    let names: Vec<&str> =
        document.section("users").as_array().unwrap().iter().map(|u| u["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ann", "zoe", "bob"]);
    assert_eq!(document.section("users")[0]["shell"], "/bin/sh");
    assert_eq!(document.section("users")[0]["groups"], serde_json::json!(["sudo"]));
    assert_eq!(
        document.section("ssh"),
        &serde_json::json!({ "port": 2222, "max_auth_tries": 5, "x11_forwarding": false })
    );
    assert_eq!(document.section("firewall")["allow"], serde_json::json!(["25/tcp"]));
    assert_eq!(playbook.sources.len(), 2);
    files.insert("base.yml".into(), base.replace("max_auth_tries: 5", "max_auth_tries: five"));
    let faults = load_with(text, &files).err().unwrap();
    assert_eq!((faults.items[0].file.as_str(), faults.items[0].line), ("base.yml", 6), "{faults}");
}

#[test]
fn names_are_shown_as_the_user_typed_them() {
    let files = BTreeMap::from([
        ("p.yml".to_owned(), "version: 1\nextends: [ q.yml ]\n".to_owned()),
        ("q.yml".to_owned(), "version: 1\nx: 1\n".to_owned()),
    ]);
    let faults = playbook::load("some/where/p.yml", REGISTRY, &Texts(files)).err().unwrap();
    assert_eq!(faults.items[0].file, "some/where/q.yml");
    let missing = playbook::load("some/where/p.yml", REGISTRY, &Texts(BTreeMap::new())).err().unwrap();
    assert_eq!((missing.items[0].file.as_str(), missing.items[0].line), ("some/where/p.yml", 0));
    assert!(missing.to_string().starts_with("some/where/p.yml: error: "), "{missing}");
}

#[test]
fn no_fault_shows_a_secret() {
    let hash = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7";
    let texts = [
        format!("version: 1\nusers:\n  - {{ name: deploy, passwrd: {{ hash: \"{hash}\" }} }}\n"),
        format!("version: 1\nusers:\n  - {{ name: deploy, password: \"{hash}\" }}\n"),
        format!("version: 1\nvars: {{ Pw: \"{hash}\" }}\n"),
        "version: 1\nusers:\n  - { name: deploy, password: F5Jx5fExrKuPp53xLKQ }\n".to_owned(),
        "version: 1\nusers:\n  - { name: deploy, password: { hash: F5Jx5fExrKuPp53xLKQ } }\n".to_owned(),
    ];
    for text in texts {
        let faults = faults(&text);
        let shown = format!("{faults}\n{}", serde_json::to_string(&faults).unwrap());
        assert!(!shown.contains("F5Jx5f"), "{shown}");
    }
}

/// The directory of the playbooks that come with keyward.
struct Shipped;

impl Loader for Shipped {
    fn load(&self, name: &str) -> Result<String, Failure> {
        if let Some(text) = playbook::builtin(name) {
            return Ok(text.to_owned());
        }
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks").join(name);
        std::fs::read_to_string(path).map_err(|error| Failure::input(name, error.to_string()))
    }
}

#[test]
fn the_shipped_playbooks_are_good() {
    let playbook = playbook::load("playbooks/first-login.yml", REGISTRY, &Shipped).unwrap_or_else(|f| panic!("{f}"));
    assert_eq!(playbook.document.section("ssh")["port"], 2222);
    let resources: Vec<&str> = playbook.tasks.iter().map(|task| task.resource()).collect();
    assert_eq!(resources, ["user", "root", "authorized_keys", "sudo", "firewall", "sshd"]);
    for (name, modern) in [("baseline", None), ("strict", Some(true))] {
        let text = format!(
            "version: 1\nextends: [ builtin:{name} ]\nusers:\n  - {{ name: ann, admin: true, sudo: {{ nopasswd: true }}, \
             authorized_keys: [ {{ file: good.pub }} ] }}\n"
        );
        let extended = load(&text).unwrap_or_else(|faults| panic!("{name}: {faults}"));
        let ssh = extended.document.section("ssh");
        assert_eq!(
            (&ssh["password_authentication"], ssh["modern_algorithms"].as_bool()),
            (&false.into(), modern),
            "{name}"
        );
    }
}

#[test]
fn a_started_playbook_passes_lint() {
    use keyward::playbook::{Found, Listener, starter};
    use keyward::types::{Port, Proto, PublicKey, UserName, Word};
    let files = cases::files();
    let key = |name: &str| PublicKey::parse(files[name].trim_end()).unwrap();
    let odd = PublicKey::parse(&format!(
        "{} \"{{{{ x }}}}: # ' \\\\",
        files["good.pub"].trim_end().rsplit_once(' ').unwrap().0
    ))
    .unwrap();
    let port = |number| Port::new(number).unwrap();
    let listener = |number, program: &str| Listener { port: port(number), proto: Proto::Tcp, program: program.into() };
    for keys in [vec![], vec![key("good.pub")], vec![key("rsa2048.pub"), odd, key("ecdsa521.pub")]] {
        for (present, wanted) in [
            (vec![22], Some(22)),
            (vec![22], Some(2222)),
            (vec![22], None),
            (vec![], Some(2222)),
            (vec![], None),
            (vec![22, 2200], None),
            (vec![22, 2200], Some(2222)),
        ] {
            for listening in [
                vec![],
                vec![listener(443, "nginx"), listener(22, "sshd"), listener(443, "nginx"), listener(9, "a\n- b: {")],
            ] {
                let keyless = keys.is_empty();
                let found = Found {
                    user: UserName::parse("deploy").unwrap(),
                    keys: keys.clone(),
                    ssh_ports: present.iter().map(|number| port(*number)).collect(),
                    wanted_port: wanted.map(port),
                    listening,
                };
                let text = starter(&found);
                let playbook = load(&text).unwrap_or_else(|faults| panic!("{text}\n{faults}"));
                let document = playbook.document;
                let only = present.first().copied().filter(|_| present.len() == 1);
                let written = wanted.or(only).map(|port| serde_json::json!(port));
                assert_eq!(document.section("ssh").get("port").cloned(), written, "{text}");
                assert_eq!(document.section("ssh").get("permit_root_login").is_none(), keyless);
                assert_eq!(document.section("users")[0].get("admin").is_none(), keyless);
                assert_eq!(document.section("ssh").get("password_authentication").is_none(), keyless);
                assert_eq!(
                    document.section("firewall")["allow"].as_array().unwrap().len(),
                    if found.listening.is_empty() { 0 } else { 2 + usize::from(present.is_empty()) }
                );
                assert!(text.lines().all(|line| line.len() <= 110 || line.contains("- key:")), "{text}");
            }
        }
    }
}

#[test]
fn the_reference_tells_every_field_and_fits_a_terminal() {
    let all = playbook::explain(REGISTRY, None).unwrap();
    let schema = playbook::schema(REGISTRY);
    for (section, entry) in schema["properties"].as_object().unwrap() {
        assert!(all.contains(&format!("\n  {section}\n")), "{section} in\n{all}");
        let text = playbook::explain(REGISTRY, Some(section)).unwrap();
        println!("{text}");
        let fields = entry.get("items").unwrap_or(entry)["properties"].as_object().cloned().unwrap_or_default();
        for (field, shape) in fields {
            assert!(text.contains(&format!("\n  {field}: ")), "{section}.{field} in\n{text}");
            assert!(shape["description"].is_string(), "{section}.{field} has no description");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
    for kind in REGISTRY {
        let text = playbook::explain(REGISTRY, Some(kind.name)).unwrap();
        assert!(text.contains(kind.summary.split(' ').next().unwrap()), "{text}");
    }
    let failure = playbook::explain(REGISTRY, Some("shhd")).unwrap_err();
    assert_eq!(failure.hint, "keyward explain sshd");
}

#[test]
fn the_resources_agree_on_what_they_share() {
    assert_eq!(playbook::conflicts(REGISTRY), Vec::<String>::new());
    let schema = playbook::schema(REGISTRY);
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["properties"]["users"]["items"]["additionalProperties"], false);
    let text = schema.to_string();
    assert!(!text.contains("\"null\""), "a playbook has no null");
}

mod shape;

#[test]
fn two_owners_of_one_thing_are_told_of_each_other() {
    let text = "version: 1\nfirst: { path: /etc/x }\nsecond: { path: /etc/x }\n";
    let files = BTreeMap::from([("p.yml".to_owned(), text.to_owned())]);
    let faults = playbook::load("p.yml", shape::TWO, &Texts(files)).err().unwrap();
    assert_eq!(faults.items.len(), 1);
    assert_eq!(faults.items[0].line, 3);
    assert!(faults.items[0].what.contains("belongs to first already, at p.yml:2:8"), "{faults}");
    assert_eq!(playbook::conflicts(shape::QUARREL).len(), 1);
}
