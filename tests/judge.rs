//! Audits of real trees: blank, hardened by keyward itself, and spoiled afterwards, a data file of `tests/cases/judge` each.
//! What the audit says is held against what was done, and each fix that is a command must mend it.
//!
//! A data file: head lines `fails: CHECK ABOUT`, `unknown: CHECK ABOUT`, `passes: CHECK`, and `fix: apply` where the
//! playbook mends it, or `fix: run` where the printed command does; then `== run` and a script.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod support;

use std::path::Path;

use keyward::outcome::audit::{Audit, Finding, Grade, Ruling};
use keyward::outcome::{Event, Proven};
use support::{Bed, Done, SUITES};

const PLAYBOOK: &str = "version: 1
users:
  - { name: deploy, admin: true, groups: [ sudo ], password: locked, sudo: { nopasswd: true },
      authorized_keys: [ { key: \"@KEY@\" } ] }
ssh: { port: 2222, permit_root_login: \"no\", password_authentication: false, max_auth_tries: 3, modern_algorithms: true }
firewall: { incoming: deny, allow: [ 80/tcp ] }
";
const APPLY: [&str; 4] = ["apply", "--yes", "--i-accept-that-this-host-may-lock-me-out", "/root/job.yml"];

/// What the audit said; the codes of both forms agree.
#[track_caller]
fn audit(bed: &Bed, words: &[&str]) -> (Audit, Done) {
    let words: Vec<&str> = ["audit"].iter().chain(words).copied().collect();
    let human = bed.keyward(&words);
    // A line is longer only where one word is: a command or a list is not broken.
    let fits = |line: &str| line.chars().count() <= 80 || line.split_whitespace().any(|word| word.len() > 40);
    assert!(human.stdout.lines().all(fits), "{}", human.stdout);
    let json = bed.keyward(&[&words[..], &["--format", "json"]].concat());
    assert_eq!(human.code, json.code, "{human:?}");
    let found = json.stdout.lines().find_map(|line| match serde_json::from_str(line).unwrap() {
        Event::Audited { audit } => Some(*audit),
        _ => None,
    });
    (found.unwrap_or_else(|| panic!("{json:?}")), human)
}

fn ruled<'a>(audit: &'a Audit, check: &str, ruling: Ruling) -> Vec<&'a Finding> {
    audit.findings.iter().filter(|one| one.check == check && one.ruling == ruling).collect()
}

fn blank(test: &str, suite: &str) -> Option<Bed> {
    let bed = Bed::new(test, suite)?;
    bed.sh("mkdir -p /run/sshd /srv; ssh-keygen -q -t ed25519 -N '' -f /srv/key").ok();
    let playbook = PLAYBOOK.replace("@KEY@", bed.read("/srv/key.pub").trim());
    bed.plant("/root/job.yml", playbook.as_bytes(), 0o600, (0, 0));
    Some(bed)
}

#[test]
fn a_blank_host_fails_and_a_hardened_one_passes_without_a_write() {
    for suite in SUITES {
        let Some(bed) = blank("a_blank_host_fails_and_a_hardened_one_passes", suite) else { return };
        let before = bed.snapshot();
        let (found, said) = audit(&bed, &["/root/job.yml"]);
        assert_eq!(support::difference(&before, &bed.snapshot()), "", "{suite}");
        assert_eq!(said.code, 2, "{suite}: {said:?}");
        assert!(
            !ruled(&found, "playbook", Ruling::Fail).is_empty() && found.score.grade < Grade::A,
            "{suite}: {said:?}"
        );
        assert_eq!(ruled(&found, "firewall-default-deny", Ruling::Fail).len(), 2, "{suite}: {said:?}");
        bed.keyward(&APPLY).ok();
        let before = bed.snapshot();
        let (found, said) = audit(&bed, &["/root/job.yml"]);
        assert_eq!(support::difference(&before, &bed.snapshot()), "", "{suite}");
        println!("{}", said.stdout);
        assert_eq!((said.code, found.score.points, found.score.grade), (0, 100, Grade::A), "{suite}: {said:?}");
        assert!(found.findings.iter().all(|one| matches!(one.ruling, Ruling::Pass | Ruling::NotApplicable)), "{suite}");
        assert!(found.findings.iter().filter(|one| one.ruling == Ruling::Pass).all(|one| one.now == Proven::Yes));
    }
}

struct Case {
    fails: Vec<(String, String)>,
    unknown: Vec<(String, String)>,
    passes: Vec<String>,
    fix: String,
    script: String,
}

impl Case {
    fn parse(text: &str) -> Self {
        let (head, script) = text.split_once("== run\n").unwrap();
        let (mut fails, mut unknown, mut passes, mut fix) = (Vec::new(), Vec::new(), Vec::new(), String::new());
        for line in head.lines() {
            let (word, rest) = line.split_once(": ").unwrap();
            let (check, about) = rest.split_once(' ').unwrap_or((rest, ""));
            match word {
                "fails" => fails.push((check.to_owned(), about.to_owned())),
                "unknown" => unknown.push((check.to_owned(), about.to_owned())),
                "passes" => passes.push(check.to_owned()),
                "fix" => fix = rest.to_owned(),
                _ => panic!("not a head line: {line}"),
            }
        }
        Self { fails, unknown, passes, fix, script: script.to_owned() }
    }

    fn try_it(&self, name: &str) -> Result<(), String> {
        let Some(bed) = blank("what_was_spoiled_is_found", "bookworm") else { return Ok(()) };
        bed.keyward(&APPLY).ok();
        let (found, said) = audit(&bed, &["/root/job.yml"]);
        let clean = said.code == 0 && found.score.points == 100;
        bed.sh(&self.script).ok();
        let (found, said) = audit(&bed, &["/root/job.yml"]);
        let is = |(check, about): &(String, String), ruling| {
            ruled(&found, check, ruling).iter().any(|one| &one.about == about)
        };
        let told = |what: &str| Err(format!("{name}: {what}\n{}{}", said.stdout, said.stderr));
        if !clean {
            return told("was not clean before");
        }
        if let Some(missed) = self.fails.iter().find(|one| !is(one, Ruling::Fail)) {
            return told(&format!("{missed:?} does not fail"));
        }
        if let Some(missed) = self.unknown.iter().find(|one| !is(one, Ruling::Unknown)) {
            return told(&format!("{missed:?} is not unknown"));
        }
        if let Some(missed) = self.passes.iter().find(|check| ruled(&found, check, Ruling::Pass).is_empty()) {
            return told(&format!("{missed} does not pass"));
        }
        let worst = found.findings.iter().map(|one| one.ruling).min();
        let code = match worst {
            Some(Ruling::Fail) => 2,
            Some(Ruling::Unknown) => 7,
            _ => 0,
        };
        if said.code != code {
            return told(&format!("ends with {}", said.code));
        }
        match self.fix.as_str() {
            "apply" => drop(bed.keyward(&APPLY)),
            "run" => found.findings.iter().filter(|one| !one.fix.is_empty()).for_each(|one| drop(bed.sh(&one.fix))),
            _ => return Ok(()),
        }
        let (after, again) = audit(&bed, &["/root/job.yml"]);
        let left = self.fails.iter().chain(&self.unknown).find(|(check, about)| {
            after.findings.iter().any(|one| {
                &one.check == check && &one.about == about && matches!(one.ruling, Ruling::Fail | Ruling::Unknown)
            })
        });
        left.map_or(Ok(()), |left| Err(format!("{name}: {left:?} is not mended\n{}{}", said.stdout, again.stdout)))
    }
}

#[test]
fn what_was_spoiled_is_found_and_its_fix_mends_it() {
    if blank("what_was_spoiled_is_found", "bookworm").is_none() {
        return;
    }
    let mut files: Vec<_> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/judge"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 109, "some were lost");
    let next = std::sync::atomic::AtomicUsize::new(0);
    let faults: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let take = || files.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            let one = |path: &std::path::PathBuf| {
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                Case::parse(&std::fs::read_to_string(path).unwrap()).try_it(&name).err()
            };
            std::iter::from_fn(take).filter_map(one).collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    println!("{} spoiled hosts, {} misjudged", files.len(), faults.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// It has no socket for a moment then, and no pid file for a moment more.
#[test]
fn a_daemon_that_is_reading_its_files_runs() {
    let Some(bed) = blank("a_daemon_that_is_reading_its_files_runs", "bookworm") else { return };
    bed.keyward(&APPLY).ok();
    let read_anew = |pause: u32| {
        bed.sh(&format!(
            "until [ -s /run/sshd.pid ]; do sleep 0.01; done; sleep 0.{pause:03}; kill -HUP $(cat /run/sshd.pid)"
        ))
        .ok();
    };
    for pause in 0..40 {
        for verb in ["plan", "audit"] {
            let said = std::thread::scope(|scope| {
                scope.spawn(|| read_anew(pause));
                bed.keyward(&[verb, "/root/job.yml"])
            });
            assert_eq!(said.code, 0, "{verb}, {pause} ms before: {said:?}");
        }
    }
}

#[test]
fn waivers_grades_and_reports() {
    let Some(bed) = blank("waivers_grades_and_reports", "bookworm") else { return };
    bed.keyward(&APPLY).ok();
    let file = "/etc/ssh/sshd_config.d/00-a.conf";
    bed.sh(&format!(
        "echo 'MaxAuthTries 10' >{file}; kill -HUP $(cat /run/sshd.pid); until [ /run/sshd.pid -nt {file} ]; do sleep 0.1; done"
    ))
    .ok();
    let (found, said) = audit(&bed, &[]);
    assert_eq!((said.code, ruled(&found, "ssh-max-auth-tries", Ruling::Fail).len()), (2, 1), "{said:?}");
    let one = ruled(&found, "ssh-max-auth-tries", Ruling::Fail)[0];
    assert_eq!(one.place, "/etc/ssh/sshd_config.d/00-a.conf:1", "{one:?}");
    assert_eq!(audit(&bed, &["--severity", "high"]).1.code, 0);
    assert_eq!(audit(&bed, &["--fail-under", "B"]).1.code, 0);
    let waive = |until: &str, check: &str| {
        let text = format!(
            "version: 1\naudit: {{ waive: [ {{ check: {check}, until: \"{until}\", reason: \"<tests> & \\\"more\\\"\" }} ] }}\n"
        );
        bed.plant("/root/waive.yml", text.as_bytes(), 0o600, (0, 0));
        bed.keyward(&["audit", "--report", "junit=/root/a.xml", "--report", "sarif=/root/a.sarif", "/root/waive.yml"])
    };
    let over = waive("2000-01-01", "ssh-max-auth-tries");
    assert_eq!(over.code, 2, "{over:?}");
    assert!(
        bed.read("/root/a.xml").contains("<failure type=\"medium\" message=\"MaxAuthTries 10; was waived until 2000")
    );
    let wrong = waive("2999-01-01", "ssh-max-tries");
    assert!(wrong.code == 1 && wrong.stderr.contains("keyward audit --list"), "{wrong:?}");
    assert_eq!(bed.read("/root/a.xml"), "", "the report of an earlier audit is gone");
    let wrong = waive("tomorrow", "ssh-max-auth-tries");
    assert!(wrong.code == 1 && wrong.stderr.contains("waive.yml:2:"), "{wrong:?}");
    assert_eq!(waive("2999-01-01", "ssh-max-auth-tries").code, 0);
    let (junit, sarif) = (bed.read("/root/a.xml"), bed.read("/root/a.sarif"));
    assert!(junit.contains("<skipped message=\"until 2999-01-01: &lt;tests&gt; &amp; &quot;more&quot;\"/>"), "{junit}");
    let sarif: serde_json::Value = serde_json::from_str(&sarif).unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    let tries = results.iter().find(|one| one["ruleId"] == "ssh-max-auth-tries").unwrap();
    assert_eq!(tries["suppressions"][0]["kind"], "external");
    let place = &tries["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "file:///etc/ssh/sshd_config.d/00-a.conf");
    assert_eq!(place["region"]["startLine"], 1);
    let unwritable = bed.keyward(&["audit", "--severity", "high", "--report", "junit=/nowhere/a.xml"]);
    assert!(unwritable.code == 7 && unwritable.stderr.contains("cannot be written"), "{unwritable:?}");
    bed.sh("iptables -P INPUT ACCEPT; iptables -F").ok();
    assert_eq!(audit(&bed, &["--fail-under", "A"]).1.code, 2);
    assert_eq!(audit(&bed, &["--fail-under", "C"]).1.code, 0);
}

/// Two audits of a host, and what is between them; kept as it was printed.
#[test]
fn what_moved_between_two_audits() {
    let Some(bed) = blank("what_moved_between_two_audits", "bookworm") else { return };
    bed.keyward(&APPLY).ok();
    let keep = |name: &str| {
        let done = bed.keyward(&["audit", "/root/job.yml", "--format", "json"]);
        bed.plant(name, done.stdout.as_bytes(), 0o600, (0, 0));
    };
    keep("/root/before");
    let same = bed.keyward(&["diff", "/root/before", "/root/before"]);
    assert!(same.code == 0 && same.stdout.contains("nothing moved (A 100)"), "{same:?}");
    bed.sh("useradd -r -m -s /bin/bash svc; echo svc:secret | chpasswd; iptables -P INPUT ACCEPT; iptables -F").ok();
    keep("/root/after");
    let worse = bed.keyward(&["diff", "/root/before", "/root/after"]);
    assert_eq!(worse.code, 2, "{worse:?}");
    for line in
        ["WORSE   high firewall-default-deny: pass -> fail", "WORSE   medium account-of-service: not found -> fail"]
    {
        assert!(worse.stdout.contains(line), "{worse:?}");
    }
    let better = bed.keyward(&["diff", "/root/after", "/root/before"]);
    assert!(
        better.code == 0 && better.stdout.contains("0 worse") && better.stdout.contains("(B 90 -> A 100)"),
        "{better:?}"
    );
    let since = bed.keyward(&["audit", "--since", "/root/before", "/root/job.yml"]);
    assert!(since.code == 2 && since.stdout.contains("WORSE   medium account-of-service"), "{since:?}");
    for (file, why) in [("/root/job.yml", "line 1 is no event of keyward"), ("/root/none", "cannot be read")] {
        let wrong = bed.keyward(&["diff", file, "/root/after"]);
        assert!(wrong.code == 1 && wrong.stderr.contains(why), "{wrong:?}");
    }
    bed.plant("/root/empty", b"", 0o600, (0, 0));
    assert!(bed.keyward(&["audit", "--since", "/root/empty"]).stderr.contains("there is no audit in it"));
    let page = bed.keyward(&["audit", "--report", "html=/root/a.html", "/root/job.yml"]);
    let text = bed.read("/root/a.html");
    assert!(page.code == 2 && text.starts_with("<!doctype html>") && text.ends_with("</html>\n"), "{page:?}");
    assert!(
        text.contains("<article class=\"fail\">") && !text.contains("<script") && !text.contains("http://"),
        "{text}"
    );
}
