//! The command line as data: what was typed, nothing resolved. Help, manual and completions are made from it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use super::far::args::LoginArgs;
use super::fleet::args::FleetArgs;
use super::target::TargetArg;
use crate::outcome::Exit;
use crate::outcome::audit::{Grade, Severity};
use crate::target::ssh::Destination;
use crate::types::{AbsPath, Word as _};

/// Everything that was typed.
#[derive(Debug, Parser)]
#[command(
    name = "keyward",
    version,
    about = "Provision accounts and harden servers from YAML playbooks, without locking yourself out",
    long_about = "Provision accounts and harden Debian and Ubuntu servers from YAML playbooks, without locking yourself \
                  out. Start with: keyward init, then keyward rehearse PLAYBOOK, which tries the playbook on a \
                  throw-away copy of this very machine.",
    disable_help_subcommand = true,
    max_term_width = 80
)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Text for people, or one JSON event a line
    #[arg(long, global = true, value_enum, default_value_t = Format::Human)]
    pub format: Format,
    /// Which host: local, sandbox (a throw-away copy of it), rootfs:DIR, docker:NAME, podman:NAME, image:REF (a container
    /// of it, made for this and removed), or ssh://USER@HOST[:PORT]
    #[arg(long, global = true, value_name = "TARGET", value_parser = TargetArg::parse, conflicts_with = "root")]
    pub target: Option<TargetArg>,
    /// Short for --target rootfs:DIR: a tree that is not running, such as an image; for rehearse and plan, the tree to
    /// copy. apply changes its files only, proven on booted copies; rollback, history, show and log work on its runs
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// A mount that a copy does without, such as a network file system; may be given again
    #[arg(long, global = true, value_name = "DIR", value_parser = plain_path)]
    pub leave_out: Vec<AbsPath>,
    /// How a host over SSH is reached.
    #[command(flatten)]
    pub login: LoginArgs,
    /// Which hosts, where there are many.
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// In a program that a controller started: where it reads what the controller has read, and that it is asked by events
    #[arg(long, global = true, hide = true, value_name = "WHERE")]
    pub handed: Option<String>,
    /// Colour: auto is on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, default_value_t = Colour::Auto, value_name = "WHEN")]
    pub color: Colour,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Human,
    /// One event a line.
    Json,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The verbs.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Show what an apply would change; changes nothing
    Plan(PlanArgs),
    /// Bring the host into the playbook's state; shows the plan and asks first
    Apply(ApplyArgs),
    /// Apply on a throw-away copy of this machine, with proof by real logins
    Rehearse(RehearseArgs),
    /// Say who can get into this host, and who could after a playbook
    Access(AccessArgs),
    /// Judge what is in effect on this host, and hold it against a playbook
    Audit(AuditArgs),
    /// Show what moved between two audits that were kept; looks at no host
    Diff(DiffArgs),
    /// Undo a run, byte for byte
    Rollback(RollbackArgs),
    /// Keep a pending run, from a new login through the new door
    Confirm(ConfirmArgs),
    /// Undo a pending run at once
    Cancel(CancelArgs),
    /// Say whether a run is pending, and until when
    Status,
    /// End the sshd of last resort once sshd is mended, or say that what a run could not undo was mended by hand
    Acknowledge(AcknowledgeArgs),
    /// List the runs on this host
    History,
    /// Show one run: plan, steps, proof and result
    Show(ShowArgs),
    /// Print the audit log, or check that nobody edited it
    Log(LogArgs),
    /// Check a playbook; needs no root and no host
    Lint(PlaybookArg),
    /// Print the JSON Schema of playbooks, for editors
    Schema,
    /// Explain the resources, or one of them with all its fields
    Explain(ExplainArgs),
    /// Write a commented first playbook; never overwrites
    Init(InitArgs),
    /// Remove keyward's own state from this host; the audit log stays
    Uninstall(UninstallArgs),
    /// Print a completion script
    Completions(CompletionsArgs),
    /// Print the manual page, or write all of them
    Man(ManArgs),
}

/// A playbook.
#[derive(Debug, Clone, Args)]
pub struct PlaybookArg {
    /// The playbook
    pub playbook: PathBuf,
}

/// Arguments of `plan`.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// The playbook
    pub playbook: PathBuf,
    /// Show whole diffs, however long
    #[arg(long)]
    pub diff: bool,
}

/// Arguments of `access`.
#[derive(Debug, Clone, Args)]
pub struct AccessArgs {
    /// A playbook: shows who could get in after it, too
    pub playbook: Option<PathBuf>,
}

/// Arguments of `audit`.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// A playbook: the host is held against it, too, and its waivers count
    pub playbook: Option<PathBuf>,
    /// Fail only below this grade: A, B, C, D or E
    #[arg(long, value_name = "GRADE")]
    pub fail_under: Option<Grade>,
    /// Fail only for findings of at least this severity: low, medium, high or critical
    #[arg(long, value_name = "SEVERITY")]
    pub severity: Option<Severity>,
    /// Write a report, too: junit=FILE, sarif=FILE or html=FILE (one page that needs nothing else); may be given several
    /// times
    #[arg(long, value_name = "FORM=FILE", value_parser = super::audit::report)]
    pub report: Vec<(super::audit::Form, PathBuf)>,
    /// Show what moved since an audit that was kept (see diff), too
    #[arg(long, value_name = "FILE")]
    pub since: Option<PathBuf>,
    /// List the checks with what they see; looks at no host
    #[arg(long, conflicts_with_all = ["playbook", "fail_under", "severity", "report", "since"])]
    pub list: bool,
    /// Nothing runs there: what would is judged
    #[arg(long, hide = true)]
    pub at_rest: bool,
}

/// Arguments of `diff`.
#[derive(Debug, Clone, Args)]
pub struct DiffArgs {
    /// What `keyward audit --format json` printed, of one host or many
    pub before: PathBuf,
    /// The same, later
    pub after: PathBuf,
}

/// Arguments of `apply`.
#[derive(Debug, Clone, Args)]
pub struct ApplyArgs {
    /// The playbook
    pub playbook: PathBuf,
    /// Show whole diffs, however long
    #[arg(long)]
    pub diff: bool,
    /// How the run is agreed to, guarded and decided.
    #[command(flatten)]
    pub live: LiveArgs,
    /// Let proof from another network namespace decide instead of a person; only when a key of the playbook has logged
    /// in before, or --identity or an ssh-agent (SSH_AUTH_SOCK) signs with it
    #[arg(long, value_name = "LEVEL", value_enum)]
    pub accept_evidence: Option<Level>,
    /// A private key file of an administrator of the playbook, to show that somebody holds it
    #[arg(long, value_name = "FILE", requires = "accept_evidence")]
    pub identity: Option<PathBuf>,
    /// Log in for real even when nothing has to change
    #[arg(long)]
    pub prove: bool,
    /// Wait up to this many seconds for the package manager and cloud-init
    #[arg(long, value_name = "SECS", default_value_t = 0)]
    pub wait: u64,
}

/// Evidence that may decide instead of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// A login from another network namespace of this host.
    L2,
}

/// Arguments of verbs that change this host.
#[derive(Debug, Clone, Args)]
pub struct LiveArgs {
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Undo the run unless it is confirmed within this time, such as 90s or 5m
    #[arg(long, value_name = "TIME", value_parser = window)]
    pub confirm_within: Option<std::time::Duration>,
    /// The plan that was shown and agreed to before the apply moved into a unit of its own
    #[arg(long, hide = true, value_name = "DIGEST")]
    pub as_agreed: Option<String>,
    /// Go on although nothing would undo the run after a reboot (hosts without systemd)
    #[arg(long)]
    pub without_boot_guard: bool,
    /// Come back with exit code 8 once both doors are open, while the run waits for its confirmation
    #[arg(long)]
    pub detach: bool,
    /// For hosts made for tests: change ways in although no guard stands by
    #[arg(long, hide = true)]
    pub i_accept_that_this_host_may_lock_me_out: bool,
}

/// Arguments of `rehearse`.
#[derive(Debug, Clone, Args)]
pub struct RehearseArgs {
    /// The playbook
    pub playbook: PathBuf,
    /// Strike the run right after change N of the plan, and show who can still log in: kill@N (the agent dies), reboot@N
    /// (the power is cut), drop@N (the operator's link is lost)
    #[arg(long, value_name = "FAULT")]
    pub fault: Option<super::strike::Fault>,
    /// Show whole diffs, however long
    #[arg(long)]
    pub diff: bool,
}

/// Arguments of `rollback`.
#[derive(Debug, Clone, Args)]
pub struct RollbackArgs {
    /// The run; the last one when left out
    pub run: Option<String>,
    /// Show whole diffs, however long
    #[arg(long)]
    pub diff: bool,
    /// How the run is agreed to, guarded and decided.
    #[command(flatten)]
    pub live: LiveArgs,
    /// Restore also what others changed since
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `confirm`.
#[derive(Debug, Clone, Args)]
pub struct ConfirmArgs {
    /// The run; the pending one when left out
    pub run: Option<String>,
    /// The nonce of the run, as keyward status shows it
    #[arg(long)]
    pub nonce: Option<String>,
    /// Set by a controller, which has logged in by itself
    #[arg(long, hide = true)]
    pub from_controller: bool,
}

/// Arguments of `acknowledge`.
#[derive(Debug, Clone, Args)]
pub struct AcknowledgeArgs {
    /// The run whose undo was incomplete and was mended by hand
    pub run: Option<String>,
}

/// Arguments of `cancel`.
#[derive(Debug, Clone, Args)]
pub struct CancelArgs {
    /// The run; the pending one when left out
    pub run: Option<String>,
    /// Why, from a controller
    #[arg(long, hide = true, value_name = "TEXT")]
    pub because: Option<String>,
}

/// Arguments of `show`.
#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    /// The run, as history names it
    pub run: String,
    /// Show whole diffs, however long
    #[arg(long)]
    pub diff: bool,
}

/// Arguments of `log`.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// What to do with the log; print it when left out
    #[command(subcommand)]
    pub verb: Option<LogVerb>,
}

/// What to do with the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "snake_case")]
pub enum LogVerb {
    /// Check every record, the links between them, and the head
    Verify,
    /// Print the records as they are, one JSON object a line, after the same check
    Export,
}

/// Arguments of `explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// A resource, such as sshd
    pub resource: Option<String>,
}

/// Arguments of `init`.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// The administrator to create
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// A public key file; found beside your private keys when left out
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The SSH port to move to; the present one when left out
    #[arg(long)]
    pub port: Option<u16>,
    /// Where to write
    #[arg(long, short, value_name = "FILE", default_value = "playbook.yml")]
    pub output: PathBuf,
    /// Take the defaults and do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Arguments of `uninstall`.
#[derive(Debug, Clone, Args)]
pub struct UninstallArgs {
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// Arguments of `completions`.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Write keyward.1 and one page a verb into this directory, which is made when missing
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

impl Global {
    /// The host over SSH that is meant, if one is.
    pub fn far(&self) -> Option<&Destination> {
        match &self.target {
            Some(TargetArg::Ssh(destination)) => Some(destination),
            _ => self.login.host.as_ref(),
        }
    }

    /// The target, `--root` resolved.
    pub fn target(&self) -> TargetArg {
        match (&self.root, &self.target) {
            (Some(dir), _) => TargetArg::Rootfs(dir.clone()),
            (None, Some(target)) => target.clone(),
            (None, None) => TargetArg::Local,
        }
    }
}

fn plain_path(text: &str) -> Result<AbsPath, String> {
    AbsPath::parse(text).map_err(|invalid| invalid.why)
}

pub fn window(text: &str) -> Result<std::time::Duration, String> {
    let (digits, scale) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    match seconds {
        Some(seconds @ 2..=86_400) => Ok(std::time::Duration::from_secs(seconds)),
        _ => Err("write a time from 2s to 24h, such as 90s or 5m".to_owned()),
    }
}

/// The exit codes as they stand in help and manual.
pub fn exit_table() -> String {
    let mut out = String::from("Exit codes:\n");
    for (exit, meaning) in Exit::TABLE {
        out.push_str(&format!("  {}  {meaning}\n", exit.code()));
    }
    out
}

/// The command as clap knows it.
pub fn command() -> clap::Command {
    Cli::command().after_help(exit_table())
}

/// Parses a command line.
///
/// # Errors
/// clap's own, help and version among them.
pub fn parse<I: IntoIterator<Item = std::ffi::OsString>>(words: I) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command().try_get_matches_from(words)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<std::ffi::OsString> {
        line.split(' ').map(Into::into).collect()
    }

    #[test]
    fn clap_finds_no_fault_in_the_definitions() {
        command().debug_assert();
    }

    #[test]
    fn targets() {
        let cli = |line| parse(words(line)).map(|cli| cli.global.target());
        assert_eq!(cli("keyward plan x").unwrap(), TargetArg::Local);
        assert_eq!(cli("keyward plan x --target sandbox").unwrap(), TargetArg::Sandbox);
        assert_eq!(cli("keyward --root /t plan x").unwrap(), TargetArg::Rootfs("/t".into()));
        assert_eq!(cli("keyward plan x --target rootfs:/t").unwrap(), TargetArg::Rootfs("/t".into()));
        for bad in [
            "keyward plan x --target rootfs:",
            "keyward plan x --target host",
            "keyward plan x --root a --target local",
        ] {
            assert!(cli(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_dangerous_flag_is_hidden_and_loudly_named() {
        let flag = "--i-accept-that-this-host-may-lock-me-out";
        assert!(parse(words(&format!("keyward apply x {flag}"))).is_ok());
        let mut apply = command().find_subcommand("apply").unwrap().clone();
        assert!(!apply.render_long_help().to_string().contains("lock-me-out"));
    }

    #[test]
    fn help_prints_the_one_exit_table() {
        let help = command().render_long_help().to_string();
        for (exit, meaning) in Exit::TABLE {
            assert!(help.contains(&format!("  {}  {meaning}", exit.code())), "{meaning}");
        }
    }
}
