//! `keyward audit [PLAYBOOK]`: is this host, in effect, what the checks and the playbook say? Changes nothing.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::access::ways;
use crate::change::{Change, Note, Plan, Promise, Risk};
use crate::engine;
use crate::error::{Failure, Result};
use crate::facts::Facts;
use crate::host::Probe;
use crate::host::real::RealHost;
use crate::judge::{self, CHECKS, Depth, HIDDEN_RULES, SOURCES, Scene, hides_rules};
use crate::outcome::audit::{Audit, Finding, Grade, Ruling, Score, Severity, VERSION};
use crate::outcome::ways::Account;
use crate::outcome::{Event, Exit, Proven, Sink};
use crate::report::audit::verdict;
use crate::report::{html, junit, sarif};
use crate::resource::AccessCheck;
use crate::resources::audit::Waiver;
use crate::types::{Day, Word as _};

use super::args::{AuditArgs, Global};
use super::job::Job;
use super::state::quoted;
use super::target::TargetArg;
use super::terminal::Terminal;
use super::{Ending, print_file, rehearse, state};

/// The check by which a host is held against its playbook.
const PLAYBOOK: &str = "playbook";
/// The resource that needs a say over the network.
const FIREWALL: &str = "firewall";
/// The resource whose daemon does not run where nothing does.
const SSHD: &str = "sshd";
/// What a finding about administrators is about.
const WAYS_IN: &str = "ways in";

/// A form of report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JUnit XML.
    Junit,
    /// SARIF 2.1.0.
    Sarif,
    /// One page of HTML.
    Html,
}

/// `junit=FILE`, `sarif=FILE` or `html=FILE`.
///
/// # Errors
/// What is wrong with it, with the fix.
pub fn report(text: &str) -> std::result::Result<(Form, PathBuf), String> {
    let named = text.split_once('=').filter(|(_, file)| !file.is_empty());
    match named {
        Some(("junit", file)) => Ok((Form::Junit, file.into())),
        Some(("sarif", file)) => Ok((Form::Sarif, file.into())),
        Some(("html", file)) => Ok((Form::Html, file.into())),
        _ => Err("not a form and a file: write junit=FILE, sarif=FILE or html=FILE".to_owned()),
    }
}

/// What is asked of an audit, wherever it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Fail only below this grade.
    fail_under: Option<Grade>,
    /// Fail only for findings of at least this severity.
    severity: Option<Severity>,
    /// Nothing runs there: what would is judged.
    at_rest: bool,
}

impl Asked {
    /// As it was typed.
    pub const fn of(args: &AuditArgs) -> Self {
        Self { fail_under: args.fail_under, severity: args.severity, at_rest: args.at_rest }
    }
}

/// Judges. Exit 0 when all that counts has passed, 2 when something failed, 7 when it could not be told.
pub fn run(args: &AuditArgs, global: &Global, terminal: &mut Terminal) -> Result<Ending> {
    if args.list {
        return print_file("checks", &list(), global.format);
    }
    let root = match global.target() {
        TargetArg::Local | TargetArg::Ssh(_) | TargetArg::Container(_) => None,
        TargetArg::Sandbox => Some(PathBuf::from("/")),
        TargetArg::Rootfs(dir) => Some(dir),
    };
    if root.is_none() {
        state::need_root("to judge this host")?;
    }
    let job = match &args.playbook {
        None => None,
        Some(playbook) => match terminal.job(playbook)? {
            Ok(job) => Some(job),
            Err(ending) => return Ok(ending),
        },
    };
    check_names(job.as_ref().map(|job| job.waivers.as_slice()).unwrap_or_default())?;
    match root {
        None => judged(Asked::of(args), job, &RealHost::new(), terminal),
        Some(root) => {
            let sources = job.map(|job| (job.about.playbook, job.sources)).unwrap_or_default();
            rehearse::audit(args, sources, &root, &global.leave_out, terminal)
        }
    }
}

/// Judges the host that this process is on.
///
/// # Errors
/// When nothing could be said of it.
pub fn judged(asked: Asked, job: Option<Job>, host: &RealHost, sink: &mut dyn Sink) -> Result<Ending> {
    host.look_ahead(&Facts::questions(host));
    let facts = Facts::gather(host)?;
    let (playbook, waivers) =
        job.as_ref().map(|job| (job.about.playbook.clone(), job.waivers.clone())).unwrap_or_default();
    let mut findings = job.map(|job| held_against(job, &facts, asked, host)).unwrap_or_default();
    findings.extend(judge::judge(&Scene::new(&facts, host)?));
    host.end_look();
    bear(&mut findings, &waivers, Day::today());
    findings.sort_by_key(|one| (one.ruling, std::cmp::Reverse(one.severity)));
    let score = Score::of(&findings);
    let at = jiff::Timestamp::now().to_string();
    let audit = Audit { version: VERSION, host: facts.hostname, playbook, at, score, findings };
    let exit = exit(&audit, asked);
    let next = next(&audit, exit);
    let told = verdict(&audit);
    sink.event(Event::Audited { audit: Box::new(audit) });
    Ok(Ending::new(exit, told, next))
}

/// What an audit asks is whether the host is as the playbook says, not whether keyward would bring it there.
struct NoRule;

impl AccessCheck for NoRule {
    fn check(&self, _: &[Promise], _: &[Change], _: &Facts, _: &dyn Probe) -> Result<Vec<Note>> {
        Ok(Vec::new())
    }
}

/// A finding about the playbook.
fn of_playbook(ruling: Ruling, severity: Severity, about: &str) -> Finding {
    let holds = match ruling {
        Ruling::Pass => Proven::Yes,
        Ruling::Fail => Proven::No,
        Ruling::Unknown | Ruling::Waived | Ruling::NotApplicable => Proven::Unknown,
    };
    Finding {
        check: PLAYBOOK.to_owned(),
        title: "the host is as the playbook says".to_owned(),
        severity,
        about: about.to_owned(),
        ruling,
        why: String::new(),
        saw: String::new(),
        place: String::new(),
        now: holds,
        after_reboot: holds,
        fix: String::new(),
        references: Vec::new(),
    }
}

/// What differs from the playbook, a finding a change; and what cannot hold there.
fn held_against(mut job: Job, facts: &Facts, asked: Asked, host: &dyn Probe) -> Vec<Finding> {
    let mut found = Vec::new();
    let cannot = |about: &str, why: &str| Finding {
        why: why.to_owned(),
        ..of_playbook(Ruling::NotApplicable, Severity::High, about)
    };
    if hides_rules(facts, host) {
        let before = job.tasks.len();
        job.tasks.retain(|task| task.resource() != FIREWALL);
        found.extend((job.tasks.len() < before).then(|| cannot(FIREWALL, HIDDEN_RULES)));
    }
    let plan = match engine::look(&job.tasks, &job.about, host, &NoRule) {
        Ok((_, plan)) => plan,
        Err(failures) => {
            found.extend(failures.into_iter().map(|failure| {
                Finding {
                    why: [failure.what, failure.why]
                        .into_iter()
                        .filter(|text| !text.is_empty())
                        .collect::<Vec<_>>()
                        .join(": "),
                    fix: failure.hint,
                    ..of_playbook(Ruling::Unknown, Severity::High, &failure.place)
                }
            }));
            return found;
        }
    };
    let only_starts = |change: &&Change| asked.at_rest && change.resource == SSHD && change.steps.is_empty();
    let (rests, differ): (Vec<&Change>, Vec<&Change>) = plan.changes.iter().partition(only_starts);
    found.extend(rests.iter().map(|change| cannot(&change.key, "nothing is started in an image that is looked at")));
    found.extend(differ.iter().map(|change| differs(change, &job.about.playbook)));
    found.extend(deferred(&plan));
    if plan.is_converged() && !hides_rules(facts, host) {
        found.extend(kept_out(&plan, &job, facts, host));
    }
    if !found.iter().any(|one| matches!(one.ruling, Ruling::Fail | Ruling::Unknown)) {
        let saw = "nothing differs".to_owned();
        found.push(Finding { saw, ..of_playbook(Ruling::Pass, Severity::High, "") });
    }
    found
}

/// Administrators whom the playbook promises a way in, and who have none although nothing differs: a DenyUsers of somebody
/// else's, a home that others can write.
fn kept_out(plan: &Plan, job: &Job, facts: &Facts, host: &dyn Probe) -> Option<Finding> {
    let names: Vec<String> = plan
        .promises
        .iter()
        .filter_map(|promise| match promise {
            Promise::Admin { user, .. } => Some(user.text()),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        return None;
    }
    let found = match ways(facts, host, None, &names) {
        Ok(found) => found,
        Err(failure) => {
            let why = failure.line();
            return Some(Finding { why, ..of_playbook(Ruling::Unknown, Severity::High, WAYS_IN) });
        }
    };
    let gets_in = |one: &&Account| one.ssh != Proven::No && one.root != Proven::No;
    if found.accounts.iter().filter(gets_in).count() >= job.access.at_least.min(names.len()) {
        return None;
    }
    let out = found.accounts.iter().filter(|one| !gets_in(one));
    let told: Vec<String> =
        out.map(|one| format!("{} does not get in: {}", one.name, one.because.join("; "))).collect();
    let saw = if told.is_empty() { "no administrator of the playbook gets in".to_owned() } else { told.join("; ") };
    let fix = "see who gets in, and why others do not: keyward access".to_owned();
    Some(Finding { saw, fix, ..of_playbook(Ruling::Fail, Severity::High, WAYS_IN) })
}

fn differs(change: &Change, playbook: &str) -> Finding {
    let severity = match change.risk {
        Risk::Access => Severity::High,
        Risk::Service => Severity::Medium,
        Risk::None => Severity::Low,
    };
    let differences: Vec<String> =
        change.differences.iter().map(|one| format!("{} is {}, not {}", one.path, one.have, one.want)).collect();
    let saw = if differences.is_empty() { format!("not done: {}", change.summary) } else { differences.join("; ") };
    let fix = format!("keyward apply {}", quoted(playbook));
    Finding { saw, fix, ..of_playbook(Ruling::Fail, severity, &change.key) }
}

fn deferred(plan: &Plan) -> impl Iterator<Item = Finding> {
    plan.deferred.iter().map(|(task, on)| Finding {
        why: format!("is not judged before {on} is there"),
        ..of_playbook(Ruling::Unknown, Severity::High, task)
    })
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
pub fn exit(audit: &Audit, asked: Asked) -> Exit {
    if asked.fail_under.is_some_and(|grade| audit.score.grade < grade) {
        return Exit::Differs;
    }
    // A grade alone counts what could not be told against the host already.
    let least = match (asked.severity, asked.fail_under) {
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
                Form::Html => html::text(audit),
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
            exit(&audit, Asked { fail_under, severity, at_rest: false })
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
