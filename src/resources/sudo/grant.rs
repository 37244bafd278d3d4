//! keyward's own file: its name, its text, and the changes that put it in force.

use sha2::{Digest, Sha256};

use crate::change::{Change, Difference, Expect, Gate, Note, Promise, Risk, Stage, Step, TextDiff};
use crate::error::{Failure, Result};
use crate::formats::sudoers::{self, SudoCommand};
use crate::host::{Actor, Command, FileKind, Node, Owner, Probe};
use crate::resource::Planned;
use crate::types::{AbsPath, UserName, Word};

use super::{Desired, Grant, Observed, Program};
use crate::facts::sudo_policy::{DIRECTORY, Deciding, File, MAIN, Policy};

/// Beginnings of the file's name, in the order in which they are tried: it must be read after what would cancel it.
const PREFIXES: [&str; 3] = ["90", "99", "zz"];
/// Permission bits that sudo expects of a drop-in.
const MODE: u32 = 0o440;

/// What is to be put down.
#[derive(Debug)]
pub struct Candidate {
    pub path: AbsPath,
    pub text: String,
    /// The new text of the main file, when it does not read the directory yet.
    pub main: Option<String>,
    /// Own files of another name that go.
    pub stale: Vec<AbsPath>,
}

/// The files that keyward may own for an account. sudo ignores names with a dot, so a dotted login name is spelled with
/// dashes and part of its digest, which keeps `a.b` and `a-b` apart.
pub fn paths(name: &UserName) -> Vec<AbsPath> {
    let name = name.as_str();
    let stem = if name.contains('.') {
        let digest = Sha256::digest(name.as_bytes());
        let hex: String = digest.iter().take(3).map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{hex}", name.replace('.', "-"))
    } else {
        name.to_owned()
    };
    let directory = AbsPath::fixed(DIRECTORY);
    PREFIXES.iter().filter_map(|prefix| directory.join(&format!("{prefix}-keyward-{stem}")).ok()).collect()
}

/// The changes, or none when all is as asked.
pub fn plan(desired: &Desired, observed: &Observed) -> Result<Planned> {
    let mut planned = Planned::default();
    let promise = |nopasswd| Promise::Admin { user: desired.name.clone(), nopasswd };
    if desired.name.is_root() {
        planned.promises.push(promise(true));
        return Ok(planned);
    }
    if !observed.installed {
        planned.deferred = Some("package sudo".to_owned());
        return Ok(planned);
    }
    let Some(grant) = &desired.sudo else {
        let nopasswd = by_others(desired, observed)?;
        planned.promises.push(promise(nopasswd));
        return Ok(planned);
    };
    judge(desired, grant, observed, &mut planned.notes)?;
    match candidate(desired, observed)? {
        Some(candidate) => planned.changes = changes(desired, grant, observed, &candidate),
        None => effective(desired, grant, observed)?,
    }
    if desired.admin {
        planned.promises.push(promise(grant.nopasswd));
    }
    Ok(planned)
}

/// An administrator without a rule of keyward's: some other rule must allow everything. Gives back whether it asks for a
/// password.
fn by_others(desired: &Desired, observed: &Observed) -> Result<bool> {
    let name = desired.name.as_str();
    let rules = observed.policy.rules_for(&observed.subject);
    let Some(allowed) = rules.iter().rev().find_map(Deciding::allows_all) else {
        return Err(Failure::refused(format!("users.{name}"), "no sudo rule lets this account become root")
            .hint("add sudo: { nopasswd: true }"));
    };
    if !allowed.nopasswd && !password_is_there(desired, observed) {
        return Err(no_password(name));
    }
    Ok(allowed.nopasswd)
}

fn password_is_there(desired: &Desired, observed: &Observed) -> bool {
    match &desired.password {
        Some(password) if password.is_hash() => true,
        Some(crate::types::Password::Locked) => false,
        _ => observed.has_password,
    }
}

fn no_password(name: &str) -> Failure {
    Failure::refused(format!("users.{name}.sudo"), format!("sudo would ask {name} for a password, and it has none"))
        .hint("write sudo: { nopasswd: true }, or password: { hash: ... }")
}

/// What stands against the rule.
fn judge(desired: &Desired, grant: &Grant, observed: &Observed, notes: &mut Vec<Note>) -> Result<()> {
    let name = desired.name.as_str();
    if !grant.nopasswd {
        if !password_is_there(desired, observed) {
            return Err(no_password(name));
        }
        let others = observed.policy.without(&paths(&desired.name));
        for flag in ["targetpw", "rootpw", "runaspw"] {
            if let Some((place, _)) = others.flag_on(flag, &observed.subject) {
                return Err(Failure::refused(
                    place,
                    format!("Defaults {flag}: sudo asks for another account's password than {name}'s"),
                )
                .hint(format!("write sudo: {{ nopasswd: true }}, or add there: Defaults:{name} !{flag}")));
            }
        }
    }
    for (program, trouble) in &observed.programs {
        match trouble {
            Program::Open(place) => {
                return Err(Failure::refused(program.as_str(), format!("{place} can be changed by others than root"))
                    .why("whoever changes it becomes root through this rule")
                    .hint(format!("give it to root: chown root:root {place} && chmod go-w {place}")));
            }
            Program::Missing => {
                notes.push(Note::warning(format!("users.{name}.sudo"), format!("{program} is not there (yet)")));
            }
        }
    }
    let free: Vec<&str> =
        grant.commands.iter().flatten().filter(|c| c.takes_any_arguments()).map(SudoCommand::program).collect();
    if !free.is_empty() {
        let text = format!("any arguments may be given to {} (a lone \"\" after it allows none)", free.join(", "));
        notes.push(Note::info(format!("users.{name}.sudo"), text));
    }
    if grant.commands.is_some() {
        let others = observed.policy.without(&paths(&desired.name)).rules_for(&observed.subject);
        if let Some(wider) = others.iter().find(|rule| rule.allows_all().is_some()) {
            let text = format!("{} allows {name} everything anyway", wider.place);
            notes.push(Note::warning(format!("users.{name}.sudo"), text));
        }
    }
    Ok(())
}

/// The text of keyward's file.
fn text(desired: &Desired, grant: &Grant, observed: &Observed, file: &str) -> Result<String> {
    let name = desired.name.as_str();
    let mut text = String::new();
    let others = observed.policy.without(&paths(&desired.name));
    if let Some((place, order)) = others.flag_on("requiretty", &observed.subject).filter(|_| !observed.policy.rewrite) {
        if order.is_after(file) {
            return Err(Failure::refused(place, "Defaults requiretty: sudo refuses to work without a terminal")
                .why("it stands after keyward's file, so it cannot be lifted there")
                .hint(format!("add behind it: Defaults:{name} !requiretty")));
        }
        text.push_str(&format!("Defaults:{name} !requiretty\n"));
    }
    let commands = grant.commands.as_deref().unwrap_or_default();
    text.push_str(&sudoers::rule(&desired.name, grant.run_as.as_ref(), grant.nopasswd, commands));
    text.push('\n');
    Ok(text)
}

/// What is to be put down; `None` when it is there already.
pub fn candidate(desired: &Desired, observed: &Observed) -> Result<Option<Candidate>> {
    let Some(grant) = &desired.sudo else { return Ok(None) };
    let path = choose(desired, grant, observed)?;
    let text = text(desired, grant, observed, path.file_name())?;
    let main = main_text(desired, observed)?;
    let stale: Vec<AbsPath> = observed.own.iter().map(|(own, ..)| own).filter(|own| **own != path).cloned().collect();
    let kept = observed.own.iter().any(|(own, meta, content)| {
        let fit = meta.kind == FileKind::File && meta.mode == MODE && (meta.uid, meta.gid) == (0, 0);
        *own == path && fit && *content == text.as_bytes()
    });
    Ok((!kept || main.is_some() || !stale.is_empty()).then_some(Candidate { path, text, main, stale }))
}

/// The first name that is read after every rule that would cancel ours; one that is there already is kept if it does.
fn choose(desired: &Desired, grant: &Grant, observed: &Observed) -> Result<AbsPath> {
    let own = paths(&desired.name);
    let commands: Vec<String> = grant.commands.iter().flatten().map(Word::text).collect();
    let target = grant.run_as.as_ref().map_or("root", UserName::as_str);
    let others = observed.policy.without(&own).rules_for(&observed.subject);
    let against: Vec<&Deciding> =
        others.iter().filter(|rule| rule.cancels(target, &commands, grant.nopasswd)).collect();
    let wins = |path: &&AbsPath| !against.iter().any(|rule| rule.order.is_after(path.file_name()));
    let there = |path: &&AbsPath| observed.own.iter().any(|(own, ..)| own == *path);
    if let Some(path) = own.iter().filter(there).find(wins).or_else(|| own.iter().find(wins)) {
        return Ok(path.clone());
    }
    let last = against.iter().rev().find(|rule| own.last().is_some_and(|path| rule.order.is_after(path.file_name())));
    let main = observed.policy.main();
    let (place, understood) = last.map_or((main.as_str(), true), |rule| (rule.place.as_str(), rule.commands.is_some()));
    let what = if understood {
        format!("this rule comes last and cancels what {} is to get", desired.name.as_str())
    } else {
        "this line comes last and cannot be judged".to_owned()
    };
    Err(Failure::refused(place, what)
        .why("the last rule that matches decides")
        .hint(format!("move it before the line '@includedir {DIRECTORY}' of {main}, with: visudo")))
}

/// The main file with the directory read at its end, when it is not yet.
fn main_text(desired: &Desired, observed: &Observed) -> Result<Option<String>> {
    if observed.policy.reads_directory {
        return Ok(None);
    }
    let (own, path) = (paths(&desired.name), observed.policy.main());
    let main = path.as_str();
    if let Some(sleeping) = observed.dormant.iter().find(|path| !own.contains(path)) {
        return Err(Failure::refused(main, format!("it does not read {DIRECTORY}"))
            .why(format!("reading it would put {sleeping} in force, which sudo passes over today"))
            .hint(format!("move that file away, or add at the end of {main}, with visudo: @includedir {DIRECTORY}")));
    }
    let Some(file) = observed.policy.files.first() else {
        return Err(Failure::refused(main, "the file is missing")
            .hint("get it back: apt-get install --reinstall -o Dpkg::Options::=--force-confmiss sudo"));
    };
    let Ok(text) = String::from_utf8(file.content.clone()) else {
        return Err(Failure::refused(
            main,
            "it does not read /etc/sudoers.d, and it is not UTF-8, so no line is added",
        )
        .hint(format!("add at its end, with visudo: @includedir {DIRECTORY}")));
    };
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    Ok(Some(format!("{text}{newline}@includedir {DIRECTORY}\n")))
}

fn files(candidate: &Candidate, policy: &Policy) -> Vec<File> {
    let mut files = vec![File { path: candidate.path.clone(), content: candidate.text.clone().into_bytes() }];
    if let Some(main) = &candidate.main {
        files.push(File { path: policy.main(), content: main.clone().into_bytes() });
    }
    files
}

fn gate(candidate: &Candidate, observed: &Observed) -> Gate {
    let mut rest = observed.policy.clone();
    rest.files.retain(|file| !candidate.stale.contains(&file.path));
    Gate {
        what: "visudo -c on the whole set".to_owned(),
        staged: rest.staged(&files(candidate, &rest)),
        command: Command::new([observed.visudo, "-c", "-f", &format!("{{stage}}{}", rest.main())]),
        expect: Expect::Success,
    }
}

/// Asks visudo about the candidate while nothing is changed yet.
pub fn check(candidate: &Candidate, observed: &Observed, probe: &dyn Probe) -> Result<()> {
    let gate = gate(candidate, observed);
    let answer = probe.ask_staged(&gate.staged, &gate.command)?;
    if answer.ok() {
        return Ok(());
    }
    let before = probe.ask(&Command::new([observed.visudo, "-c"]))?;
    if before.ok() {
        return Err(Failure::refused(observed.policy.main().as_str(), "visudo refuses the set with keyward's rule")
            .why(answer.last_line())
            .hint("see what clashes: visudo -c"));
    }
    let what = "the sudoers set is broken already";
    let Some((file, line, why)) = complaint(&before.stderr).or_else(|| complaint(&before.stdout)) else {
        return Err(Failure::refused(MAIN, what).why(before.last_line()).hint("repair it with: visudo"));
    };
    let what = if observed.policy.rewrite { "sudo-rs does not understand this line" } else { what };
    Err(Failure::refused(format!("{file}:{line}"), what).why(why).hint(format!("repair it with: visudo -f {file}")))
}

/// The first place that visudo names, and what it says of it: `FILE:LINE:COLUMN: TEXT`.
fn complaint(said: &str) -> Option<(&str, &str, &str)> {
    said.lines().find_map(|line| {
        let (place, text) = line.split_once(": ").filter(|(place, _)| place.starts_with('/'))?;
        let mut parts = place.split(':');
        let (file, number) = (parts.next()?, parts.next()?);
        number.parse::<u32>().is_ok().then_some((file, number, text.strip_prefix("syntax error: ").unwrap_or(text)))
    })
}

fn changes(desired: &Desired, grant: &Grant, observed: &Observed, candidate: &Candidate) -> Vec<Change> {
    let name = desired.name.as_str();
    let before = observed.own.iter().find(|(path, ..)| *path == candidate.path).or_else(|| observed.own.first());
    let old = before.map(|(.., content)| String::from_utf8_lossy(content).into_owned()).unwrap_or_default();
    // What an account has today is taken away only after the new door is proven.
    let stage = if narrows(&old, grant) { Stage::Subtractive } else { Stage::Additive };
    let what = match &grant.commands {
        None => "everything".to_owned(),
        Some(commands) if commands.len() == 1 => "one command".to_owned(),
        Some(commands) => format!("{} commands", commands.len()),
    };
    let asking = if grant.nopasswd { "without a password" } else { "with its password" };
    let summary = format!("let {name} run {what} by sudo {asking}");
    let mut change = Change::new("sudo", format!("sudo:{name}:rule"), summary, stage, Risk::Access);
    let last = |text: &str| text.lines().last().unwrap_or("no rule").to_owned();
    change.differences.push(Difference::new(format!("users.{name}.sudo"), last(&candidate.text), last(&old)));
    change.gates.push(gate(candidate, observed));
    let put = |path: &AbsPath, text: &str, mode| Step::Put {
        path: path.clone(),
        actor: Actor::Root,
        node: Node::File { content: text.as_bytes().to_vec(), mode, owner: Owner::Actor },
    };
    if !observed.directory {
        let node = Node::Dir { mode: 0o750, owner: Owner::Actor };
        change.steps.push(Step::Put { path: AbsPath::fixed(DIRECTORY), actor: Actor::Root, node });
    }
    change.steps.push(put(&candidate.path, &candidate.text, MODE));
    change.diffs.push(TextDiff { path: candidate.path.clone(), before: old, after: candidate.text.clone() });
    if let Some(main) = &candidate.main {
        let path = observed.policy.main();
        change.differences.push(Difference::new(path.as_str(), format!("reads {DIRECTORY}"), "does not"));
        change.steps.push(put(&path, main, observed.main_mode));
        let before = observed.policy.files.first().map(|file| String::from_utf8_lossy(&file.content).into_owned());
        change.diffs.push(TextDiff { path, before: before.unwrap_or_default(), after: main.clone() });
    }
    for path in &candidate.stale {
        change.steps.push(Step::Remove { path: path.clone(), actor: Actor::Root });
    }
    vec![change]
}

/// True when keyward's old rule allowed something that the new one does not.
fn narrows(old: &str, grant: &Grant) -> bool {
    let everything = old.lines().any(|line| line.ends_with(" ALL"));
    let free = old.contains("NOPASSWD:");
    !old.is_empty() && (everything && grant.commands.is_some() || free && !grant.nopasswd)
}

/// The file is as wanted: sudo itself must agree, since it ignores what it does not trust without telling anyone.
fn effective(desired: &Desired, grant: &Grant, observed: &Observed) -> Result<()> {
    let Some(listed) = &observed.listed else { return Ok(()) };
    let name = desired.name.as_str();
    let wanted: Vec<String> = match &grant.commands {
        None => vec!["ALL".to_owned()],
        Some(_) if observed.policy.rewrite => observed.denied.clone(),
        Some(commands) => commands.iter().map(Word::text).collect(),
    };
    for command in &wanted {
        let last = listed.iter().rev().find(|allowed| allowed.command == *command || allowed.command == "ALL");
        let holds = last.is_some_and(|allowed| !allowed.forbidden && (allowed.nopasswd || !grant.nopasswd));
        if observed.denied.contains(command) || !holds {
            return Err(Failure::refused(
                format!("users.{name}.sudo"),
                format!("sudo does not grant '{command}' although the rule is there"),
            )
            .hint(format!("see what it grants: sudo -l -U {name}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::sudo_policy::of;
    use crate::formats::sudoers::Subject;

    fn desired(json: &str) -> Desired {
        serde_json::from_str(json).unwrap()
    }

    fn observed(files: &[(&'static str, &str)]) -> Observed {
        let mut policy = of(files);
        policy.reads_directory = files.iter().any(|(_, text)| text.contains("@includedir"));
        Observed {
            installed: true,
            directory: true,
            main_mode: 0o440,
            policy,
            subject: Subject { name: "deploy".to_owned(), uid: Some(1000), groups: vec![("sudo".to_owned(), None)] },
            ..Observed::default()
        }
    }

    const MAIN_TEXT: &str = "%sudo ALL=(ALL:ALL) ALL\n@includedir /etc/sudoers.d\n";
    const ADMIN: &str = "{\"name\":\"deploy\",\"sudo\":{\"nopasswd\":true}}";

    #[test]
    fn names_without_dots() {
        let name = |text| paths(&UserName::parse(text).unwrap())[0].as_str().to_owned();
        assert_eq!(name("deploy"), "/etc/sudoers.d/90-keyward-deploy");
        assert_ne!(name("a.b"), name("a-b"));
        assert!(!name("a.b").ends_with("a.b"), "{}", name("a.b"));
        assert!(name("a.b").starts_with("/etc/sudoers.d/90-keyward-a-b-"));
    }

    #[test]
    fn the_name_sorts_after_what_would_cancel_it() {
        let path = |files: &[(&'static str, &str)]| {
            candidate(&desired(ADMIN), &observed(files)).map(|candidate| candidate.unwrap().path.as_str().to_owned())
        };
        assert_eq!(path(&[(MAIN, MAIN_TEXT)]).unwrap(), "/etc/sudoers.d/90-keyward-deploy");
        let late = ("/etc/sudoers.d/95-ops", "deploy ALL=(ALL) ALL\n");
        assert_eq!(path(&[(MAIN, MAIN_TEXT), late]).unwrap(), "/etc/sudoers.d/99-keyward-deploy");
        let other = ("/etc/sudoers.d/95-ops", "alice ALL=(ALL) ALL\n");
        assert_eq!(path(&[(MAIN, MAIN_TEXT), other]).unwrap(), "/etc/sudoers.d/90-keyward-deploy");
        let last = ("/etc/sudoers.d/zzz", "%sudo ALL=(ALL) ALL\n");
        assert!(path(&[(MAIN, MAIN_TEXT), last]).unwrap_err().line().starts_with("/etc/sudoers.d/zzz:1: "));
    }

    #[test]
    fn a_rule_behind_the_directory_is_refused_with_its_place() {
        let text = "@includedir /etc/sudoers.d\n\n%sudo ALL=(ALL:ALL) ALL\n";
        let mut found = observed(&[(MAIN, text)]);
        for placed in &mut found.policy.lines {
            placed.order = crate::facts::sudo_policy::Order::After;
        }
        let failure = candidate(&desired(ADMIN), &found).unwrap_err();
        assert!(failure.line().starts_with("/etc/sudoers:3: "), "{}", failure.line());
    }

    #[test]
    fn a_missing_includedir_is_added() {
        let found = observed(&[(MAIN, "root ALL=(ALL) ALL")]);
        let candidate = candidate(&desired(ADMIN), &found).unwrap().unwrap();
        assert_eq!(candidate.main.unwrap(), "root ALL=(ALL) ALL\n@includedir /etc/sudoers.d\n");
    }

    #[test]
    fn a_password_that_nobody_has_satisfies_nothing() {
        let with_password = desired("{\"name\":\"deploy\",\"sudo\":{}}");
        let mut found = observed(&[(MAIN, MAIN_TEXT)]);
        assert!(plan(&with_password, &found).is_err());
        found.has_password = true;
        assert!(plan(&with_password, &found).is_ok());
        found.policy = of(&[(MAIN, &format!("Defaults rootpw\n{MAIN_TEXT}"))]);
        found.policy.reads_directory = true;
        assert!(plan(&with_password, &found).unwrap_err().line().starts_with("/etc/sudoers:1: Defaults rootpw"));
    }

    #[test]
    fn what_visudo_complains_of() {
        let said =
            "/etc/sudoers.d/10-x:2:10: syntax error: unknown setting: 'requiretty'\nDefaults requiretty\n  ^~~\n";
        assert_eq!(complaint(said), Some(("/etc/sudoers.d/10-x", "2", "unknown setting: 'requiretty'")));
        assert_eq!(
            complaint("/etc/sudoers.d/10-x:1:16: syntax error\n"),
            Some(("/etc/sudoers.d/10-x", "1", "syntax error"))
        );
        assert_eq!(complaint("/etc/sudoers: parsed OK\nvisudo: invalid sudoers file\n"), None);
    }

    #[test]
    fn requiretty_is_lifted_for_the_account_alone() {
        let found = observed(&[(MAIN, &format!("Defaults requiretty\n{MAIN_TEXT}"))]);
        let text = candidate(&desired(ADMIN), &found).unwrap().unwrap().text;
        assert_eq!(text, "Defaults:deploy !requiretty\ndeploy ALL=(ALL:ALL) NOPASSWD: ALL\n");
    }
}
