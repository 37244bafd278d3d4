//! Many hosts (`-i INVENTORY`): the same verb on each, as `--host` does it on one. A verb that changes nothing goes over all
//! of them; an apply and a rollback go canary first, in waves, and stop at the first host that does not end as asked.
//! What it must remember to go on after its own death is written down before it happens.

pub mod args;
mod ask;
mod board;
mod crew;
mod gather;
mod kept;
mod past;
mod told;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::change::{Level, Plan};
use crate::error::{Failure, Result};
use crate::fleet::schedule::{Known, Schedule, Summary, Verdict};
use crate::fleet::store::Record;
use crate::fleet::table::{self, Row};
use crate::outcome::{Event, Exit, Sink as _};
use crate::report::style::count;

use super::Ending;
use super::args::{Cli, LogVerb, Verb};
use super::far;
use super::job::{Job, all_failed};
use super::state::quoted;
use super::terminal::{self, Terminal};

use board::Board;
use crew::Came;
use gather::{Crew, Shared};
use kept::Kept;
use told::Told;

/// Longest reason that is kept, in characters.
const WHY: usize = 300;
/// Most names of hosts that share a plan.
const NAMES: usize = 6;

/// A reason as it may be kept and shown.
fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WHY).collect()
}

/// Does a verb on the hosts of an inventory.
///
/// # Errors
/// What stops it before any host was asked.
pub fn run(cli: &Cli, terminal: &mut Terminal) -> Result<Ending> {
    far::prepare(cli)?;
    refuse(&cli.verb)?;
    let job = match far::playbook(&cli.verb) {
        None => None,
        Some(path) => match terminal.job(path)? {
            Ok(job) => Some(job),
            Err(ending) => return Ok(ending),
        },
    };
    let mut crew = match Crew::gather(cli, job.as_ref()) {
        Ok(crew) => crew,
        Err(failures) => return Ok(all_failed(failures, terminal)),
    };
    for (what, hint) in &crew.unread {
        let text = if hint.is_empty() { "is not used".to_owned() } else { format!("is not used: {hint}") };
        terminal.warn(what, &text);
    }
    // What only a person or a descriptor gives is asked for once, for all of them.
    let login = &cli.global.login;
    let once = |source: &Option<far::secret::Source>, prompt: &str| {
        source.clone().map(|source| source.once(prompt)).transpose()
    };
    let (password, sudo) =
        (once(&login.password, "Password of the hosts: ")?, once(&login.sudo_password, "Password for sudo: ")?);
    for host in &mut crew.hosts {
        host.login.password.clone_from(&password);
        host.login.sudo_password.clone_from(&sudo);
    }
    let crew: Shared = Arc::new(crew);
    match &cli.verb {
        Verb::Apply(_) | Verb::Rollback(_) => rollout(cli, &crew, job.as_ref(), terminal),
        _ => survey(cli, &crew, terminal),
    }
}

/// Verbs that are about one host, or none.
fn refuse(verb: &Verb) -> Result<()> {
    let (name, hint) = match verb {
        Verb::Rehearse(_) => ("rehearse", "rehearse on one of them: --host HOST"),
        Verb::Show(_) => ("show", "a run is one host's: --host HOST"),
        Verb::Uninstall(_) => ("uninstall", "one host at a time: --host HOST"),
        Verb::Log(args) if args.verb != Some(LogVerb::Verify) => {
            ("log", "a log is one host's: --host HOST; log verify looks at all of them")
        }
        Verb::Audit(args) if !args.report.is_empty() => {
            ("--report", "a report is of one host: --host HOST; here --format json tells all of them")
        }
        Verb::Audit(args) if args.since.is_some() => {
            ("--since", "keep both of them with --format json, then: keyward diff BEFORE AFTER")
        }
        Verb::Acknowledge(_) => ("acknowledge", "look at that host first, and acknowledge there: --host HOST"),
        _ => return Ok(()),
    };
    Err(Failure::input(name, "is not done on many hosts at once").hint(hint))
}

fn work<'a>(cli: &Cli, crew: &'a Shared, verb: Verb) -> crew::Job<'a> {
    let leave_out = Arc::new(cli.global.leave_out.clone());
    let window = far::live(&verb).and_then(|live| live.confirm_within).unwrap_or(far::BY_ITSELF);
    crew::Job { crew, verb: Arc::new(verb), agreed: None, runs: BTreeMap::new(), window, leave_out }
}

fn names(crew: &Crew) -> Vec<String> {
    crew.hosts.iter().map(|host| host.name.clone()).collect()
}

/// Asks all of them.
fn look(cli: &Cli, crew: &Shared, verb: Verb, terminal: &mut Terminal) -> Result<Came> {
    let mut schedule = Schedule::new(&crew.lanes, cli.global.fleet.survey()?, &[])?;
    let shows = matches!(verb, Verb::History | Verb::Access(_) | Verb::Audit(_) | Verb::Log(_));
    let mut board = Board::new(terminal, names(crew), None, Box::new(|_| None));
    board.shows = shows;
    let came = crew::work(&work(cli, crew, verb), &mut schedule, &mut board);
    board.done();
    Ok(came)
}

fn survey(cli: &Cli, crew: &Shared, terminal: &mut Terminal) -> Result<Ending> {
    terminal::ask_no_more();
    let came = look(cli, crew, cli.verb.clone(), terminal)?;
    let rows = rows(crew, &came.told);
    if matches!(cli.verb, Verb::Plan(_)) && !terminal.is_json() {
        show_plans(crew, &came.told, terminal);
    }
    Ok(end(&rows, &came.summary, terminal, ""))
}

fn rows(crew: &Crew, told: &[Told]) -> Vec<Row> {
    crew.hosts.iter().zip(told).map(|(host, told)| told.row(&host.name)).collect()
}

/// Hosts on which the same is to be done, by the digest of that, in the order of the first of each.
fn groups(told: &[Told]) -> Vec<(&Plan, Vec<usize>)> {
    let mut order: Vec<(&Plan, Vec<usize>)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (host, told) in told.iter().enumerate() {
        let Some(plan) = told.plan.as_deref().filter(|plan| !plan.is_converged()) else { continue };
        // Warnings may differ where the changes do not.
        let warnings: Vec<&str> =
            plan.notes.iter().filter(|note| note.level == Level::Warning).map(|note| note.text.as_str()).collect();
        let key = plan.digest().map_or_else(|| host.to_string(), |digest| format!("{digest}{}", warnings.join("\n")));
        let place = *places.entry(key).or_insert(order.len());
        match order.get_mut(place) {
            Some((_, hosts)) => hosts.push(host),
            None => order.push((plan, vec![host])),
        }
    }
    order
}

fn show_plans(crew: &Crew, told: &[Told], terminal: &mut Terminal) {
    for (plan, hosts) in groups(told) {
        let mut named: Vec<&str> =
            hosts.iter().take(NAMES).filter_map(|host| Some(crew.hosts.get(*host)?.name.as_str())).collect();
        let more = hosts.len().saturating_sub(NAMES);
        let rest = format!("and {more} more");
        if more > 0 {
            named.push(&rest);
        }
        terminal::result(&format!(
            "{}: {}\n",
            count(hosts.len(), "host"),
            crate::report::escape::line(&named.join(", "))
        ));
        terminal.event(Event::Planned { plan: Box::new(plan.clone()) });
        terminal::result("\n");
    }
}

/// The verdict, the table, and what is typed next; the exit code is that of the worst host.
fn end(rows: &[Row], summary: &Summary, terminal: &mut Terminal, next: &str) -> Ending {
    let verdict = table::verdict(rows, summary);
    if !terminal.is_json() {
        terminal::result(&format!("{verdict}\n\n{}", table::table(rows, terminal.style())));
    }
    Ending::new(exit(rows, summary), verdict, next)
}

/// The worst comes first.
fn exit(rows: &[Row], summary: &Summary) -> Exit {
    const WORST: [(Verdict, Exit); 9] = [
        (Verdict::Incomplete, Exit::RollbackIncomplete),
        (Verdict::Unknown, Exit::CannotJudge),
        (Verdict::Unreachable, Exit::CannotJudge),
        (Verdict::Unverified, Exit::Unverified),
        (Verdict::Pending, Exit::Pending),
        (Verdict::RolledBack, Exit::RolledBack),
        (Verdict::Cancelled, Exit::RolledBack),
        (Verdict::Busy, Exit::Busy),
        (Verdict::Refused, Exit::Refused),
    ];
    if let Some((_, exit)) = WORST.iter().find(|(verdict, _)| summary.count(*verdict) > 0) {
        // These say that nothing was changed, which is true of all hosts or not at all.
        let changed = summary.count(Verdict::Done) > 0 && rows.iter().any(|row| row.changes > 0);
        let nothing = [Exit::Busy, Exit::Refused].contains(exit);
        return if nothing && changed { Exit::CannotJudge } else { *exit };
    }
    if summary.stopped.is_some() || summary.never_started > 0 {
        return if summary.started == 0 { Exit::Refused } else { Exit::CannotJudge };
    }
    if rows.iter().any(|row| row.exit == Some(Exit::Differs)) { Exit::Differs } else { Exit::AsAsked }
}

/// An apply or a rollback, in waves.
fn rollout(cli: &Cli, crew: &Shared, job: Option<&Job>, terminal: &mut Terminal) -> Result<Ending> {
    let policy = cli.global.fleet.rollout()?;
    let digest = (crew.digest.clone(), job.map(|job| job.about.digest.clone()).unwrap_or_default());
    let live = far::live(&cli.verb);
    if live.is_some_and(|live| live.detach) {
        return Err(Failure::input("--detach", "is for one host: a rollout waits for each to end")
            .hint("leave it out; a rollout that is cut off goes on with --resume"));
    }
    let mut task = work(cli, crew, far::agreed_to(&cli.verb));
    let (mut earlier, mut known) = (None, Vec::new());
    if let Verb::Rollback(args) = &cli.verb {
        (task.runs, known) = past::to_undo(crew, args.run.as_deref(), terminal)?;
    } else {
        earlier = past::earlier(cli, &digest, terminal)?;
    }
    if !live.is_some_and(|live| live.yes) {
        match asked(cli, crew, terminal)? {
            Ok(agreed) => task.agreed = agreed,
            Err(ending) => {
                if let Some((kept, remembered)) = earlier.filter(|_| ending.exit == Exit::AsAsked) {
                    past::close(kept, &remembered)?;
                }
                return Ok(ending);
            }
        }
    }
    terminal::ask_no_more();
    let (store, before) = past::opened(crew, job, &policy, &digest, earlier)?;
    if let Some((hosts, runs)) = before {
        (known, task.runs) = (hosts, runs);
    }
    let mut schedule = Schedule::new(&crew.lanes, policy, &known)?;
    let logs = store.path;
    let mut board = Board::new(terminal, names(crew), Some(store.writer), Kept::logs(&logs));
    let Came { told, summary, broken } = crew::work(&task, &mut schedule, &mut board);
    let store = board.done();
    let mut rows = rows(crew, &told);
    for (host, known) in &known {
        if let (Known::Ended(verdict), Some(row)) = (known, rows.get_mut(*host))
            && row.verdict.is_none()
        {
            row.verdict = Some(*verdict);
            "before this one".clone_into(&mut row.text);
        }
    }
    let is_apply = matches!(cli.verb, Verb::Apply(_));
    let open = is_apply && summary.stopped.is_some() && summary.never_started + summary.count(Verdict::Cancelled) > 0;
    let closed = store.filter(|_| !open).map(|mut store| store.write(&Record::Closed));
    let next = if open { format!("mend what failed, then: {}", again("--resume")) } else { String::new() };
    let mut ending = end(&rows, &summary, terminal, &next);
    if let Some(failure) = broken.or(closed.and_then(Result::err)) {
        terminal.event(Event::Failed { failure });
        if ending.exit == Exit::AsAsked {
            ending.exit = Exit::Unverified;
        }
    }
    if !terminal.is_json() {
        terminal::progress(&format!("logs: {}\n", logs.display()));
    }
    Ok(ending)
}

/// The command again, as it was typed, with one more option.
fn again(option: &str) -> String {
    let words = std::env::args().skip(1).filter(|word| !["--resume", "--anew", option].contains(&word.as_str()));
    let words: Vec<String> = words.map(|word| quoted(&word)).collect();
    format!("keyward {} {option}", words.join(" "))
}

type Agreed = Option<BTreeMap<usize, String>>;

/// Shows what would be done everywhere, and asks once. Each host is then held to the plan that was seen.
fn asked(cli: &Cli, crew: &Shared, terminal: &mut Terminal) -> Result<std::result::Result<Agreed, Ending>> {
    let Verb::Apply(args) = &cli.verb else {
        return Err(Failure::refused("rollback", "needs a yes for many hosts")
            .hint("look at each with --host, then: rollback --yes"));
    };
    let plan = Verb::Plan(super::args::PlanArgs { playbook: args.playbook.clone(), diff: args.diff });
    let can_ask = terminal::can_ask();
    // From here on nobody could tell the hosts' questions apart.
    terminal::ask_no_more();
    let Came { told, summary, .. } = look(cli, crew, plan, terminal)?;
    if !terminal.is_json() {
        show_plans(crew, &told, terminal);
    }
    let rows = rows(crew, &told);
    let seen = told.iter().all(|told| told.plan.is_some()) && summary.stopped.is_none();
    let fine = rows.iter().all(|row| matches!(row.verdict, Some(Verdict::Done | Verdict::Unchanged)));
    let converged = exit(&rows, &summary) == Exit::AsAsked && seen;
    if !seen || !fine || converged {
        let next = if converged { "" } else { "mend what failed, or leave it out: --limit 'all,!HOST'" };
        return Ok(Err(end(&rows, &summary, terminal, next)));
    }
    if !can_ask {
        return Err(Failure::refused("apply", "needs a yes and there is no terminal to ask on")
            .hint(format!("read the plans above; then: {}", again("--yes"))));
    }
    let differ = rows.iter().filter(|row| row.exit == Some(Exit::Differs)).count();
    let canary = rows.first().map_or("", |row| row.host.as_str());
    let question = format!("Apply to {}, canary {canary} first? Type yes: ", count(differ, "host"));
    if terminal::ask(&crate::report::escape::line(&question)) != "yes" {
        return Err(Failure::refused("apply", "declined, nothing changed"));
    }
    let agreed =
        told.iter().enumerate().filter_map(|(host, told)| Some((host, told.plan.as_ref()?.agreement()?))).collect();
    Ok(Ok(Some(agreed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(verdicts: &[(Verdict, usize)], never_started: usize) -> Exit {
        let mut told = Vec::new();
        for (verdict, changes) in verdicts {
            let over = told::Over { verdict: *verdict, exit: None, text: String::new(), next: String::new() };
            let mut one = Told::default();
            (one.end, one.changes) = (Some(over), *changes);
            told.push(one.row("host"));
        }
        let mut counts = BTreeMap::new();
        verdicts.iter().for_each(|(verdict, _)| *counts.entry(*verdict).or_insert(0) += 1);
        exit(&told, &Summary { counts, started: verdicts.len(), never_started, stopped: None })
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst_host_and_never_says_too_little() {
        use Verdict::{Cancelled, Done, Incomplete, Refused, RolledBack, Unchanged, Unreachable};
        assert_eq!(code(&[(Done, 8), (Unchanged, 0)], 0), Exit::AsAsked);
        assert_eq!(code(&[(Done, 8), (RolledBack, 0), (Unreachable, 0)], 0), Exit::CannotJudge);
        assert_eq!(code(&[(Done, 8), (RolledBack, 0), (Cancelled, 0)], 3), Exit::RolledBack);
        assert_eq!(code(&[(Incomplete, 0), (Unreachable, 0)], 0), Exit::RollbackIncomplete);
        assert_eq!(code(&[(Refused, 0)], 9), Exit::Refused);
        assert_eq!(code(&[(Done, 8), (Refused, 0)], 9), Exit::CannotJudge, "something was changed");
        assert_eq!(code(&[(Done, 8)], 1), Exit::CannotJudge, "and not all were begun");
    }
}
