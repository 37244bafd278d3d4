//! Several sides at once: confirmation against expiry, twenty runs, callers that go away, and deadlines that come.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keyward::change::Plan;
use keyward::engine::guard::{self, Decision, Keeper, LiveGuard, Pending, Said, Terms, Wanted};
use keyward::error::Result;
use keyward::host::Host;
use keyward::host::ledger::MemoryLedger;
use keyward::host::real::RealHost;
use keyward::host::shelf::{DirShelf, Shelf as _};
use keyward::journal::Journal;
use keyward::outcome::{Event, Exit};
use keyward::resource::Guard as _;
use keyward::types::{AbsPath, Word as _};

use crate::crash::{LONG, finish, halfway_within};
use crate::ground::{Ground, OLD};
use crate::tally::{self, Findings};

/// How many confirmations race with their deadline.
const ROUNDS: usize = 200;
const ALL_ROUNDS: usize = 1000;
const AT_ONCE: usize = 20;

/// The keeper is a thread of the race.
struct Nobody;

impl Keeper for Nobody {
    fn arm(&mut self, _: &Pending, _: &dyn Host) -> Result<()> {
        Ok(())
    }
    fn disarm(&mut self, _: &Pending, _: &dyn Host) -> Result<()> {
        Ok(())
    }
}

fn empty_plan() -> Plan {
    let text = serde_json::json!({"version": 1, "host": "", "playbook": "", "playbook_digest": "", "observation_digest": "",
        "changes": [], "notes": [], "deferred": [], "promises": [], "met": []});
    serde_json::from_value(text).unwrap()
}

/// One run without changes: the agent decides and commits, the operator confirms, the guard expires it. Gives back
/// whether it was committed.
fn round(shelf: impl Fn() -> DirShelf + Sync, number: usize) -> bool {
    let run = format!("r{number:05}");
    let (made, host) = (shelf(), RealHost::new());
    let journal = Journal::begin(&made, &run, "now", &empty_plan()).unwrap();
    let mut keeper = Nobody;
    let terms = Terms {
        keeper: &mut keeper,
        wanted: Wanted::Confirmation,
        window_ms: 120,
        unit: String::new(),
        announce: &mut |_| {},
        tell: &mut |_| {},
        opened: &mut |_| {},
        interrupted: &|| false,
    };
    let mut agent = LiveGuard::new(&host, &made, terms);
    agent.arm(&run).unwrap();
    let (confirmed, committed) = std::thread::scope(|scope| {
        let operator = scope.spawn(|| {
            // Around the deadline, which has a grain of 10 ms, and the agent's look every 50 ms.
            std::thread::sleep(Duration::from_millis(60 + (number as u64 * 7) % 70));
            let said = Said { confirmed: true, because: "a login".to_owned() };
            guard::decide(&RealHost::new(), &shelf(), &run, None, &said).unwrap()
        });
        let watchdog = scope.spawn(|| {
            let mut events: Vec<Event> = Vec::new();
            let begun = Instant::now();
            // The lock is the host's, one for all rounds; here many runs are under way at once.
            while let Err(failure) =
                guard::expire(&RealHost::new(), &shelf(), &MemoryLedger::default(), &run, &mut events)
            {
                assert!(begun.elapsed() < Duration::from_secs(60), "{failure}");
            }
        });
        let held = made.lock().unwrap();
        let committed = agent.decide(&run, &[]).and_then(|_| agent.commit(&run)).is_ok();
        if committed {
            journal.close(Exit::AsAsked, "kept", "now").unwrap();
        } else if agent.roll_back(&run) {
            journal.close(Exit::RolledBack, "undone", "now").unwrap();
        }
        drop(held);
        watchdog.join().unwrap();
        (operator.join().unwrap(), committed)
    });
    let (exit, verdict) = guard::ending(&made, &run).unwrap().expect("an end");
    let end = made.settled(&run, "end").unwrap().unwrap();
    let said = format!("round {number}: {confirmed:?}, committed {committed}, end '{end}', {exit:?} {verdict}");
    assert_eq!(committed, end == "committed", "{said}");
    assert_eq!(committed, exit == Exit::AsAsked, "{said}");
    assert!(!committed || confirmed == Decision::Made, "{said}");
    committed
}

#[test]
fn a_confirmation_races_with_the_deadline() {
    let base = std::env::temp_dir().join(format!("keyward-race-{}", std::process::id()));
    if !nix::unistd::geteuid().is_root() {
        return crate::support::skipped("a_confirmation_races_with_the_deadline", "not root");
    }
    std::fs::create_dir(&base).unwrap();
    let rounds = if tally::all() { ALL_ROUNDS } else { ROUNDS };
    let (next, kept) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for lane in 0..AT_ONCE {
            let (base, next, kept) = (&base, &next, &kept);
            scope.spawn(move || {
                let dir = AbsPath::parse(base.join(format!("lane{lane}")).to_str().unwrap()).unwrap();
                let lock = dir.join("run").unwrap().join("lock").unwrap();
                std::fs::DirBuilder::new().create(dir.as_path()).unwrap();
                let open = || DirShelf::open(&dir.join("state").unwrap(), &lock).unwrap();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= rounds {
                        return;
                    }
                    kept.fetch_add(usize::from(round(open, number)), Ordering::Relaxed);
                }
            });
        }
    });
    std::fs::remove_dir_all(&base).unwrap();
    let kept = kept.into_inner();
    println!("of {rounds} runs {kept} were kept");
    assert!(kept > rounds / 10 && kept < rounds * 9 / 10, "{kept} of {rounds}: this is no race");
    Findings::default().end();
}

#[test]
fn twenty_runs_at_once() {
    let test = "twenty_runs_at_once";
    let Some(mut ground) = Ground::new(test) else { return };
    let mut findings = Findings::default();
    let mut found = Vec::new();
    tally::fault();
    let begin = |_| {
        let argv = Ground::apply(LONG);
        let mut command = ground.bed.sandbox.command(argv[0]).unwrap();
        command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let mut runs: Vec<std::process::Child> = (0..AT_ONCE).map(begin).collect();
    let begun = Instant::now();
    let mut codes = Vec::new();
    while codes.len() + 1 < AT_ONCE || ground.record("opened").is_none() {
        runs.retain_mut(|run| match run.try_wait().unwrap() {
            Some(status) => {
                codes.push(status.code().unwrap_or(-1));
                false
            }
            None => true,
        });
        assert!(begun.elapsed() < Duration::from_secs(60), "{codes:?}, {} still run", runs.len());
        std::thread::sleep(Duration::from_millis(20));
    }
    if codes.iter().any(|code| ![5, 6].contains(code)) {
        found.push(format!("exit codes of those that came too late: {codes:?}"));
    }
    let done = ground.keyward(&["cancel"]);
    if done.code != 0 {
        found.push(format!("cancel: {done:?}"));
    }
    let winner = runs.remove(0).wait().unwrap().code();
    if winner != Some(3) {
        found.push(format!("the one that ran, once cancelled: {winner:?}"));
    }
    finish(&mut ground, &mut found);
    findings.add(test, &found);
    findings.end();
}

/// Waits until both doors stand open.
fn opened(ground: &Ground) {
    let begun = Instant::now();
    while ground.record("opened").is_none() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the apply did not go on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_caller_goes_away() {
    let test = "the_caller_goes_away";
    let Some(mut ground) = Ground::new(test) else { return };
    let mut findings = Findings::default();
    let argv = Ground::apply(LONG);
    // Its outputs are closed while it runs.
    tally::fault();
    let mut command = ground.bed.sandbox.command(argv[0]).unwrap();
    let mut run =
        command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((run.stdout.take(), run.stderr.take()));
    opened(&ground);
    let done = ground.keyward(&["cancel"]);
    let mut found = if done.code == 0 { Vec::new() } else { vec![format!("cancel: {done:?}")] };
    if run.wait().unwrap().code() != Some(3) {
        found.push("the run without outputs did not end as one that was cancelled".to_owned());
    }
    finish(&mut ground, &mut found);
    findings.add("outputs closed", &found);
    // Its SSH session is torn down once the run is armed.
    tally::fault();
    let mut session = ground.session(OLD, &argv.join(" "));
    let begun = Instant::now();
    while ground.record("pending").is_none() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the apply over SSH is not armed");
        std::thread::sleep(Duration::from_millis(5));
    }
    session.kill();
    opened(&ground);
    let done = ground.keyward(&["cancel"]);
    let mut found = if done.code == 0 { Vec::new() } else { vec![format!("cancel: {done:?}")] };
    finish(&mut ground, &mut found);
    findings.add("connection reset", &found);
    findings.end();
}

#[test]
fn the_deadline_comes() {
    let test = "the_deadline_comes";
    let Some(mut ground) = Ground::new(test) else { return };
    let mut findings = Findings::default();
    // The agent is dead and only the watchdog is left; then both live.
    tally::fault();
    halfway_within(&ground, "5s", crate::crash::Cut::Agent);
    let mut found = Vec::new();
    let begun = Instant::now();
    while !ground.own_processes().is_empty() && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
    }
    finish(&mut ground, &mut found);
    findings.add("the agent is dead", &found);
    tally::fault();
    let done = ground.keyward(&Ground::apply("3s")[1..]);
    let mut found = if done.code == 3 { Vec::new() } else { vec![format!("{done:?}")] };
    while !ground.own_processes().is_empty() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(50));
    }
    finish(&mut ground, &mut found);
    findings.add("agent and watchdog", &found);
    findings.end();
}
