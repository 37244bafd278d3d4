//! Which verbs go over SSH, and in which words the program there is told. Must not pass on anything that names a file of
//! this side but the playbook's name, which is only shown.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Failure, Result};
use crate::types::AbsPath;

use super::super::args::{LiveArgs, LogVerb, Verb};
use super::super::handed;

/// The verbs of the host's commands that hints name.
pub const VERBS: [&str; 14] = [
    "plan",
    "apply",
    "rehearse",
    "access",
    "audit",
    "rollback",
    "confirm",
    "cancel",
    "acknowledge",
    "status",
    "history",
    "show",
    "log",
    "uninstall",
];

/// Verbs that need no host.
///
/// # Errors
/// Input for those, and for options that are about this side's own machine.
pub fn refuse(verb: &Verb) -> Result<()> {
    let name = match verb {
        Verb::Lint(_) => "lint",
        Verb::Diff(_) => "diff",
        Verb::Audit(args) if args.list => "audit --list",
        Verb::Schema => "schema",
        Verb::Explain(_) => "explain",
        Verb::Init(_) => "init",
        Verb::Completions(_) => "completions",
        Verb::Man(_) => "man",
        Verb::Apply(args) if args.accept_evidence.is_some() => {
            return Err(Failure::input("--accept-evidence", "is for a run that nobody watches from outside")
                .why("over SSH keyward itself logs in from here, which shows more")
                .hint("leave it out"));
        }
        _ => return Ok(()),
    };
    Err(Failure::input(name, "works on this machine, not on a host").hint("leave --host out, or --target"))
}

/// The playbook of a verb.
pub fn playbook(verb: &Verb) -> Option<&PathBuf> {
    match verb {
        Verb::Plan(args) => Some(&args.playbook),
        Verb::Apply(args) => Some(&args.playbook),
        Verb::Rehearse(args) => Some(&args.playbook),
        Verb::Access(args) => args.playbook.as_ref(),
        Verb::Audit(args) => args.playbook.as_ref(),
        _ => None,
    }
}

/// How a run is agreed to, for verbs that change the host.
pub const fn live(verb: &Verb) -> Option<&LiveArgs> {
    match verb {
        Verb::Apply(args) => Some(&args.live),
        Verb::Rollback(args) => Some(&args.live),
        _ => None,
    }
}

/// The verb, about this run where it is about one.
pub fn of_run(verb: &Verb, run: Option<String>) -> Verb {
    let mut verb = verb.clone();
    if let (Verb::Rollback(args), Some(run)) = (&mut verb, run) {
        args.run = Some(run);
    }
    verb
}

/// The verb, with the yes that was given for all hosts.
pub fn agreed_to(verb: &Verb) -> Verb {
    let mut verb = verb.clone();
    match &mut verb {
        Verb::Apply(args) => args.live.yes = true,
        Verb::Rollback(args) => args.live.yes = true,
        _ => {}
    }
    verb
}

/// The command line for the host. Questions are answered from here, so no yes is passed on.
///
/// # Errors
/// Input when a word is not UTF-8.
pub fn of(verb: &Verb, leave_out: &[AbsPath], window: Option<Duration>) -> Result<Vec<String>> {
    let mut words: Vec<String> = ["--format", "json", handed::OPTION, handed::STDIN].map(str::to_owned).to_vec();
    for mount in leave_out {
        words.extend(["--leave-out".to_owned(), mount.as_str().to_owned()]);
    }
    let path = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| Failure::input("playbook", "the path is not UTF-8"))
    };
    let mut add = |word: &str| words.push(word.to_owned());
    match verb {
        Verb::Plan(args) => {
            add("plan");
            add(&path(&args.playbook)?);
        }
        Verb::Apply(args) => {
            add("apply");
            if args.prove {
                add("--prove");
            }
            add("--wait");
            add(&args.wait.to_string());
            add(&path(&args.playbook)?);
        }
        Verb::Rehearse(args) => {
            add("rehearse");
            if let Some(fault) = args.fault {
                add("--fault");
                add(&fault.to_string());
            }
            add(&path(&args.playbook)?);
        }
        Verb::Access(args) => {
            add("access");
            if let Some(playbook) = &args.playbook {
                add(&path(playbook)?);
            }
        }
        Verb::Audit(args) => {
            add("audit");
            if args.at_rest {
                add("--at-rest");
            }
            if let Some(grade) = args.fail_under {
                add("--fail-under");
                add(&grade.to_string());
            }
            if let Some(severity) = args.severity {
                add("--severity");
                add(severity.word());
            }
            if let Some(playbook) = &args.playbook {
                add(&path(playbook)?);
            }
        }
        Verb::Rollback(args) => {
            add("rollback");
            if args.force {
                add("--force");
            }
            args.run.iter().for_each(|run| add(run));
        }
        Verb::Confirm(args) => {
            add("confirm");
            if let Some(nonce) = &args.nonce {
                add("--nonce");
                add(nonce);
            }
            args.run.iter().for_each(|run| add(run));
        }
        Verb::Cancel(args) => {
            add("cancel");
            args.run.iter().for_each(|run| add(run));
        }
        Verb::Acknowledge(args) => {
            add("acknowledge");
            args.run.iter().for_each(|run| add(run));
        }
        Verb::Show(args) => {
            add("show");
            add(&args.run);
        }
        Verb::Log(args) => {
            add("log");
            match args.verb {
                Some(LogVerb::Verify) => add("verify"),
                Some(LogVerb::Export) => add("export"),
                None => {}
            }
        }
        Verb::Uninstall(args) => {
            add("uninstall");
            if args.yes {
                add("--yes");
            }
        }
        Verb::Status => add("status"),
        Verb::History => add("history"),
        Verb::Lint(_)
        | Verb::Diff(_)
        | Verb::Schema
        | Verb::Explain(_)
        | Verb::Init(_)
        | Verb::Completions(_)
        | Verb::Man(_) => {
            refuse(verb)?;
        }
    }
    if let Some(live) = live(verb) {
        words.extend(asked(live, window));
    }
    Ok(words)
}

fn asked(live: &LiveArgs, window: Option<Duration>) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(window) = window {
        words.extend(["--confirm-within".to_owned(), format!("{}s", window.as_secs())]);
    }
    let flags = [
        (live.without_boot_guard, "--without-boot-guard"),
        (live.detach, "--detach"),
        // A detached run can ask nobody once packages are there.
        (live.detach && live.yes, "--yes"),
        (live.i_accept_that_this_host_may_lock_me_out, "--i-accept-that-this-host-may-lock-me-out"),
    ];
    words.extend(flags.iter().filter(|(given, _)| *given).map(|(_, flag)| (*flag).to_owned()));
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::parse;

    fn words(line: &str) -> Result<Vec<String>> {
        let cli = parse(line.split(' ').map(std::ffi::OsString::from)).unwrap();
        refuse(&cli.verb)?;
        of(&cli.verb, &cli.global.leave_out, live(&cli.verb).map(|_| Duration::from_secs(9)))
    }

    #[test]
    fn every_word_that_matters_is_said_there() {
        let said = |line: &str| words(line).unwrap().split_off(4).join(" ");
        assert_eq!(said("keyward plan a.yml --diff --host h --login-key /k"), "plan a.yml");
        assert_eq!(
            said("keyward apply a.yml --prove --yes --wait 3 --host h"),
            "apply --prove --wait 3 a.yml --confirm-within 9s"
        );
        assert_eq!(
            said("keyward apply a.yml --detach -y --host h"),
            "apply --wait 0 a.yml --confirm-within 9s --detach --yes"
        );
        assert_eq!(said("keyward rollback r1 --force --host h"), "rollback --force r1 --confirm-within 9s");
        assert_eq!(said("keyward rehearse a.yml --fault kill@2 --host h"), "rehearse --fault kill@2 a.yml");
        assert_eq!(said("keyward confirm r1 --nonce 0a --host h"), "confirm --nonce 0a r1");
        assert_eq!(said("keyward log verify --host h"), "log verify");
        assert_eq!(words("keyward status --host h").unwrap(), ["--format", "json", "--handed", "-", "status"]);
        // What is said is understood there.
        for line in ["keyward apply a.yml --host h", "keyward uninstall --yes --host h", "keyward access --host h"] {
            let all = std::iter::once("keyward".to_owned()).chain(words(line).unwrap());
            parse(all.map(std::ffi::OsString::from)).unwrap();
        }
    }

    #[test]
    fn verbs_without_a_host_stay_here() {
        for line in ["keyward lint a.yml --host h", "keyward schema --host h", "keyward init --host h"] {
            assert!(words(line).is_err(), "{line}");
        }
        assert!(words("keyward apply a.yml --accept-evidence l2 --host h").is_err());
    }
}
