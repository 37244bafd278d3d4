//! `keyward audit [PLAYBOOK]`: is this host, in effect, what the checks and the playbook say? Changes nothing.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::change::Risk;
use crate::error::{Failure, Result};
use crate::facts::Facts;
use crate::host::Probe;
use crate::host::real::RealHost;
use crate::judge::{self, CHECKS, Depth, SOURCES, Scene};
use crate::outcome::audit::{Audit, Finding, Ruling, Score, Severity, VERSION};
use crate::outcome::{Event, Exit, Proven, Sink as _};
use crate::report::audit::verdict;
use crate::report::{junit, sarif};
use crate::resources::audit::Waiver;
use crate::types::{Day, Word as _};

use super::args::{AuditArgs, Global};
use super::job::Job;
use super::state::quoted;
use super::terminal::Terminal;
use super::{Ending, print_file, state};

/// The check by which a host is held against its playbook.
const PLAYBOOK: &str = "playbook";

/// A form of report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JUnit XML.
    Junit,
    /// SARIF 2.1.0.
    Sarif,
}

/// `junit=FILE` or `sarif=FILE`.
///
/// # Errors
/// What is wrong with it, with the fix.
pub fn report(text: &str) -> std::result::Result<(Form, PathBuf), String> {
    let named = text.split_once('=').filter(|(_, file)| !file.is_empty());
    match named {
        Some(("junit", file)) => Ok((Form::Junit, file.into())),
        Some(("sarif", file)) => Ok((Form::Sarif, file.into())),
        _ => Err("not a form and a file: write junit=FILE or sarif=FILE".to_owned()),
    }
}

/// Judges. Exit 0 when all that counts has passed, 2 when something failed, 7 when it could not be told.
pub fn run(args: &AuditArgs, global: &Global, terminal: &mut Terminal) -> Result<Ending> {
    if args.list {
        return print_file("checks", &list(), global.format);
    }
    state::only_local(global)?;
    state::need_root("to judge this host")?;
    let job = match &args.playbook {
        None => None,
        Some(playbook) => match terminal.job(playbook)? {
            Ok(job) => Some(job),
            Err(ending) => return Ok(ending),
        },
    };
    let waivers = job.as_ref().map(|job| job.waivers.as_slice()).unwrap_or_default();
    check_names(waivers)?;
    let host = RealHost::new();
    host.look_ahead(&Facts::questions(&host));
    let facts = Facts::gather(&host)?;
    let mut findings = job.as_ref().map(|job| held_against(job, &host)).unwrap_or_default();
    findings.extend(judge::judge(&Scene::new(&facts, &host)?));
    host.end_look();
    bear(&mut findings, waivers, Day::today());
    findings.sort_by_key(|one| (one.ruling, std::cmp::Reverse(one.severity)));
    let playbook = job.map(|job| job.about.playbook).unwrap_or_default();
    let score = Score::of(&findings);
    let at = jiff::Timestamp::now().to_string();
    let audit = Audit { version: VERSION, host: facts.hostname, playbook, at, score, findings };
    let exit = exit(&audit, args);
    let next = next(&audit, exit);
    let told = verdict(&audit);
    terminal.event(Event::Audited { audit: Box::new(audit) });
    Ok(Ending::new(exit, told, next))
}

/// What differs from the playbook, a finding a change. A host on which keyward would refuse to work cannot be told.
fn held_against(job: &Job, host: &RealHost) -> Vec<Finding> {
    let mut said: Vec<Event> = Vec::new();
    let assessed = job.assess(host, Duration::ZERO, &mut said);
    let playbook = &job.about.playbook;
    let apply = format!("keyward apply {}", quoted(playbook));
    let new = |ruling, severity, about: &str, saw: &str| Finding {
        check: PLAYBOOK.to_owned(),
        title: "the host is as the playbook says".to_owned(),
        severity,
        about: about.to_owned(),
        ruling,
        why: String::new(),
        saw: saw.to_owned(),
        place: String::new(),
        now: if ruling == Ruling::Fail { Proven::No } else { Proven::Unknown },
        after_reboot: if ruling == Ruling::Fail { Proven::No } else { Proven::Unknown },
        fix: if ruling == Ruling::Fail { apply.clone() } else { String::new() },
        references: Vec::new(),
    };
    let plan = match assessed {
        Ok((_, plan)) => plan,
        Err(ending) => {
            let failures = said.into_iter().filter_map(|event| match event {
                Event::Failed { failure } => Some(failure),
                _ => None,
            });
            let told = |failure: Failure| Finding {
                why: [failure.what.as_str(), &failure.why]
                    .into_iter()
                    .filter(|text| !text.is_empty())
                    .collect::<Vec<_>>()
                    .join(": "),
                fix: failure.hint,
                ..new(Ruling::Unknown, Severity::High, &failure.place, "")
            };
            let mut found: Vec<Finding> = failures.map(told).collect();
            if found.is_empty() {
                found.push(Finding { why: ending.verdict, ..new(Ruling::Unknown, Severity::High, "", "") });
            }
            return found;
        }
    };
    let mut found: Vec<Finding> = plan
        .changes
        .iter()
        .map(|change| {
            let severity = match change.risk {
                Risk::Access => Severity::High,
                Risk::Service => Severity::Medium,
                Risk::None => Severity::Low,
            };
            let differs: Vec<String> = change
                .differences
                .iter()
                .map(|one| format!("{} is {}, not {}", one.path, one.have, one.want))
                .collect();
            let saw = if differs.is_empty() { format!("not done: {}", change.summary) } else { differs.join("; ") };
            new(Ruling::Fail, severity, &change.key, &saw)
        })
        .collect();
    found.extend(plan.deferred.iter().map(|(task, on)| Finding {
        why: format!("is not judged before {on} is there"),
        ..new(Ruling::Unknown, Severity::High, task, "")
    }));
    if found.is_empty() {
        let (now, after_reboot) = (Proven::Yes, Proven::Yes);
        found.push(Finding { now, after_reboot, ..new(Ruling::Pass, Severity::High, "", "nothing differs") });
    }
    found
}

/// A waiver for what is no check would bear nothing, unnoticed.
fn check_names(waivers: &[Waiver]) -> Result<()> {
    let known = |name: &str| name == PLAYBOOK || CHECKS.iter().any(|check| check.id == name);
    match waivers.iter().find(|waiver| !known(&waiver.check.text())) {
        None => Ok(()),
        Some(waiver) => Err(Failure::input("audit.waive", format!("{} is no check", waiver.check.text()))
            .hint("see their names: keyward audit --list")),
    }
}

/// Failures that the playbook bears today. What could not be told is not borne.
fn bear(findings: &mut [Finding], waivers: &[Waiver], today: Day) {
    for one in findings.iter_mut().filter(|one| one.ruling == Ruling::Fail) {
        let is_about = |waiver: &&Waiver| {
            waiver.check.text() == one.check && waiver.about.as_ref().is_none_or(|about| about.text() == one.about)
        };
        let Some(waiver) = waivers.iter().filter(is_about).max_by_key(|waiver| waiver.until) else { continue };
        let (until, reason) = (waiver.until.text(), waiver.reason.text());
        if waiver.until < today {
            one.why = format!("was waived until {until}: {reason}");
        } else {
            one.ruling = Ruling::Waived;
            one.why = format!("until {until}: {reason}");
        }
    }
}

/// How an audit ends by what was asked for.
pub fn exit(audit: &Audit, args: &AuditArgs) -> Exit {
    if args.fail_under.is_some_and(|grade| audit.score.grade < grade) {
        return Exit::Differs;
    }
    // A grade alone counts what could not be told against the host already.
    let least = match (args.severity, args.fail_under) {
        (None, Some(_)) => return Exit::AsAsked,
        (severity, _) => severity.unwrap_or(Severity::Low),
    };
    let counts = |ruling| audit.findings.iter().any(|one| one.ruling == ruling && one.severity >= least);
    match (counts(Ruling::Fail), counts(Ruling::Unknown)) {
        (true, _) => Exit::Differs,
        (false, true) => Exit::CannotJudge,
        (false, false) => Exit::AsAsked,
    }
}

/// What mends most, where it is one command.
fn next(audit: &Audit, exit: Exit) -> String {
    let playbook = audit.findings.iter().any(|one| one.check == PLAYBOOK && one.ruling == Ruling::Fail);
    if exit == Exit::Differs && playbook { format!("keyward plan {}", quoted(&audit.playbook)) } else { String::new() }
}

/// Files that reports go to. Each is emptied before the audit: that of an earlier one must not pass for this one's.
#[derive(Default)]
pub struct Reports(Vec<(Form, PathBuf, File)>);

impl Reports {
    /// Opens them.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn open(wanted: &[(Form, PathBuf)]) -> Result<Self> {
        let open = |(form, path): &(Form, PathBuf)| {
            File::create(path).map(|file| (*form, path.clone(), file)).map_err(|error| unwritten(path, &error))
        };
        wanted.iter().map(open).collect::<Result<_>>().map(Self)
    }

    /// Writes them.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write(&mut self, audit: &Audit) -> Result<()> {
        for (form, path, file) in &mut self.0 {
            let text = match form {
                Form::Junit => junit::text(audit),
                Form::Sarif => sarif::text(audit),
            };
            file.write_all(text.as_bytes()).map_err(|error| unwritten(path, &error))?;
        }
        Ok(())
    }
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    Failure::unknown(path.display().to_string(), "the report cannot be written").why(error).hint("name a file that can")
}

/// The checks with what they see, and where identifiers come from.
fn list() -> String {
    let mut text = String::new();
    for check in CHECKS {
        let depth = match check.depth {
            Depth::Deep => "in effect",
            Depth::Shallow => "files only",
        };
        text.push_str(&format!("{:<26} {:<8} {:<10} {}\n", check.id, check.severity.word(), depth, check.title));
        let ids: Vec<String> = check.references.iter().map(|(source, id)| format!("{source} {id}")).collect();
        if !ids.is_empty() {
            text.push_str(&format!("{:<26} see {}\n", "", ids.join(", ")));
        }
    }
    text.push_str(&format!("{PLAYBOOK:<26} {:<8} {:<10} the host is as the playbook says\n", "", "in effect"));
    for (source, from) in SOURCES {
        text.push_str(&format!("\n{source}: cross-references by {from}; no claim that the checks are the same\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::audit::Grade;

    fn finding(check: &str, about: &str, severity: Severity, ruling: Ruling) -> Finding {
        let text = String::new;
        Finding {
            check: check.to_owned(),
            title: text(),
            severity,
            about: about.to_owned(),
            ruling,
            why: text(),
            saw: text(),
            place: text(),
            now: Proven::No,
            after_reboot: Proven::No,
            fix: text(),
            references: Vec::new(),
        }
    }

    fn waiver(check: &str, about: Option<&str>, until: &str) -> Waiver {
        let about = about.map_or(serde_json::Value::Null, Into::into);
        let value = serde_json::json!({ "check": check, "about": about, "until": until, "reason": "because" });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_waived_is_borne_until_its_day_and_unknown_never() {
        let today = Day::parse("2027-01-10").unwrap();
        let after = |ruling, waiver: Waiver| {
            let mut found = [finding("a", "x", Severity::High, ruling)];
            bear(&mut found, &[waiver], today);
            let [one] = found;
            (one.ruling, one.why)
        };
        let borne = after(Ruling::Fail, waiver("a", None, "2027-01-10"));
        assert_eq!(borne, (Ruling::Waived, "until 2027-01-10: because".to_owned()));
        assert_eq!(after(Ruling::Fail, waiver("a", Some("x"), "2028-01-01")).0, Ruling::Waived);
        assert_eq!(after(Ruling::Fail, waiver("a", Some("y"), "2028-01-01")).0, Ruling::Fail);
        assert_eq!(after(Ruling::Fail, waiver("b", None, "2028-01-01")).0, Ruling::Fail);
        let over = after(Ruling::Fail, waiver("a", None, "2027-01-09"));
        assert_eq!(over, (Ruling::Fail, "was waived until 2027-01-09: because".to_owned()));
        assert_eq!(after(Ruling::Unknown, waiver("a", None, "2028-01-01")).0, Ruling::Unknown);
        assert!(check_names(&[waiver("ssh-root-login", None, "2028-01-01")]).is_ok());
        assert!(check_names(&[waiver("ssh-rot-login", None, "2028-01-01")]).is_err());
    }

    #[test]
    fn the_exit_code_says_failed_before_unknown_and_counts_what_was_asked_for() {
        let code = |findings: &[(Severity, Ruling)], fail_under: Option<Grade>, severity: Option<Severity>| {
            let findings: Vec<Finding> = findings
                .iter()
                .enumerate()
                .map(|(n, (severity, ruling))| finding(&format!("c{n}"), "", *severity, *ruling))
                .collect();
            let score = Score::of(&findings);
            let text = String::new;
            let audit = Audit { version: VERSION, host: text(), playbook: text(), at: text(), score, findings };
            exit(&audit, &AuditArgs { playbook: None, fail_under, severity, report: Vec::new(), list: false })
        };
        use Ruling::{Fail, Pass, Unknown, Waived};
        use Severity::{Critical, High, Low};
        assert_eq!(code(&[(High, Pass), (High, Waived)], None, None), Exit::AsAsked);
        assert_eq!(code(&[(High, Pass), (Low, Fail), (High, Unknown)], None, None), Exit::Differs);
        assert_eq!(code(&[(High, Pass), (Low, Unknown)], None, None), Exit::CannotJudge);
        assert_eq!(code(&[(High, Pass), (Low, Fail)], None, Some(High)), Exit::AsAsked);
        assert_eq!(code(&[(Critical, Pass), (Low, Fail)], Some(Grade::A), None), Exit::AsAsked);
        assert_eq!(code(&[(Critical, Pass), (High, Unknown)], Some(Grade::B), None), Exit::Differs);
        assert_eq!(code(&[], Some(Grade::D), None), Exit::Differs, "nothing judged is nothing passed");
    }
}
