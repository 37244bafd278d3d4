//! The apply is cut off at each call that changes something, and undone; then the undo is cut off at each of its own.

use std::sync::OnceLock;
use std::time::Instant;

use crate::ground::{Ground, NEW, OLD, Versions, allow, torn};
use crate::tally::{self, Findings};
use crate::tracer::{Call, Deed, End, Kind, Watch, follow};

/// Longer than any case takes: nobody is to be saved by the deadline.
pub const LONG: &str = "300s";
pub const ACCEPT: &str = "--i-accept-that-this-host-may-lock-me-out";

/// How the run is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The agent is killed; its children and its watchdog go on.
    Agent,
    /// Agent, children and watchdog are killed.
    All,
    /// Every process of the machine is killed; the machine boots with the files as they are.
    Power,
}

/// How it is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    Rollback,
    Cancel,
    /// What the boot unit does.
    Recover,
}

/// A whole apply that is confirmed, call by call.
pub struct Clean {
    pub calls: Vec<Call>,
    pub versions: Versions,
    pub last: crate::ground::Tree,
}

/// One clean run serves all tests: the lab tree and the key are the same on each machine.
pub fn once(ground: &mut Ground) -> &'static Clean {
    static CLEAN: OnceLock<Clean> = OnceLock::new();
    CLEAN.get_or_init(|| clean(ground))
}

/// Runs the job once without a fault: its calls, and what stands at each path between its steps.
fn clean(ground: &mut Ground) -> Clean {
    let operator = ground.operator();
    let (mut calls, mut versions) = (Vec::new(), Versions::new());
    allow(&mut versions, &ground.blank.clone());
    let start = ground.shell();
    let mut note = |call: &Call| {
        // Between two steps nothing is being written, so all that stands there is whole.
        if call.is_journal() {
            let tree = ground.tree();
            allow(&mut versions, &tree);
        }
        calls.push(call.clone());
        Deed::Pass
    };
    let end = follow(start, &Ground::apply(LONG), Watch::all(&mut note));
    assert_eq!(end.code, 0, "the apply without a fault: {}", end.said);
    let reply = operator.heard();
    assert!(reply.as_ref().is_some_and(|reply| reply.exit == Some(0)), "{reply:?}");
    let last = ground.tree();
    allow(&mut versions, &last);
    assert!(ground.way(NEW).opens && !ground.way(OLD).opens, "applied");
    let done = ground.keyward(&["rollback", "--yes", ACCEPT]);
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(ground.blemishes(), Vec::<String>::new(), "applied and rolled back");
    ground.forget();
    Clean { calls, versions, last }
}

/// Runs a program until `when` and cuts it off there; `None` when that never came.
pub fn run_until(
    ground: &Ground,
    argv: &[&str],
    foreign: bool,
    cut: Cut,
    when: impl Fn(&Call) -> bool,
) -> (Option<Call>, End) {
    let mut at = None;
    let mut decide = |call: &Call| {
        if !when(call) {
            return Deed::Pass;
        }
        at = Some(call.clone());
        if cut == Cut::Agent { Deed::KillAgent } else { Deed::KillAll }
    };
    let watch = if foreign { Watch::all(&mut decide) } else { Watch::own(&mut decide) };
    let end = follow(ground.shell(), argv, watch);
    (at, end)
}

/// A machine on which both doors stand open and nobody watches over the run any more.
pub fn halfway(ground: &Ground) {
    halfway_within(ground, LONG, Cut::All);
}

/// As [`halfway`], with this window and this cut.
pub fn halfway_within(ground: &Ground, window: &str, cut: Cut) {
    let opened = |call: &Call| call.name == "linkat" && call.place.ends_with(".opened");
    let (at, end) = run_until(ground, &Ground::apply(window), false, cut, opened);
    assert!(at.is_some(), "exit {}: {}", end.code, end.said);
}

/// One case: cut off at a call, looked at, undone, looked at.
fn cut_off(ground: &mut Ground, clean: &Clean, target: &Call, cut: Cut, undo: Undo) -> Vec<String> {
    tally::point();
    let operator = ground.operator();
    let foreign = target.kind == Kind::Foreign;
    let same = |call: &Call| call.kind == target.kind && call.number >= target.number;
    let (at, end) = run_until(ground, &Ground::apply(LONG), foreign, cut, same);
    operator.end();
    ground.end_confirmers();
    let mut found = Vec::new();
    let Some(at) = at else {
        // A run may do a few calls less than the one that was counted, such as waiting for a listener.
        let of_kind = clean.calls.iter().filter(|call| call.kind == target.kind).count();
        if target.number + 10 < of_kind || end.code != 0 {
            found.push(format!("ended before {target}: exit {}: {}", end.code, end.said));
        }
        let _ = ground.keyward(&["rollback", "--yes", ACCEPT]);
        finish(ground, &mut found);
        return found;
    };
    look(ground, clean, &mut found);
    if cut == Cut::Power {
        tear(ground, &at);
        ground.reboot();
        enter(ground, &mut found);
    }
    if found.is_empty() {
        take_back(ground, clean, undo, &mut found);
    }
    finish(ground, &mut found);
    found
}

/// A way in opens, and no file is torn or gone.
pub fn look(ground: &mut Ground, clean: &Clean, found: &mut Vec<String>) {
    let tree = ground.tree();
    let mut torn = torn(&clean.versions, &tree);
    // What stands before a run and after it is there at every moment.
    let lasting = ground.blank.keys().filter(|path| clean.last.contains_key(*path));
    torn.extend(lasting.filter(|path| !tree.contains_key(*path)).map(|path| format!("{path}: gone")));
    tally::torn(torn.len());
    found.extend(torn.into_iter().map(|what| format!("TORN {what}")));
    enter(ground, found);
}

/// A way in opens.
pub fn enter(ground: &mut Ground, found: &mut Vec<String>) {
    if let Err(what) = ground.lets_in() {
        tally::lock_out();
        found.push(what);
    }
}

/// A power cut may lose half of what was written and not yet made durable.
fn tear(ground: &Ground, at: &Call) {
    if at.name != "fdatasync" || !at.place.ends_with(".journal") {
        return;
    }
    let path = ground.path(&at.place);
    let text = std::fs::read(&path).unwrap();
    let last = text[..text.len() - 1].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    std::fs::write(&path, &text[..last + (text.len() - last) / 2]).unwrap();
}

/// How the newest run stands in its journal.
pub fn closed(ground: &Ground) -> Option<String> {
    let journal = ground.record("journal")?;
    journal.lines().last().filter(|line| line.contains("\"record\":\"closed\"")).map(str::to_owned)
}

fn take_back(ground: &mut Ground, clean: &Clean, undo: Undo, found: &mut Vec<String>) {
    if ground.run().is_none() {
        return;
    }
    match undo {
        Undo::Recover => {
            let done = ground.keyward(&["__guard", "recover"]);
            if done.code != 0 {
                found.push(format!("recover: {done:?}"));
            }
            ground.reboot();
        }
        Undo::Cancel if closed(ground).is_none() => {
            let done = ground.keyward(&["cancel"]);
            // Not armed yet, or confirmed: there is nothing to cancel, and it says so.
            if done.code != 0
                && (done.code != 5 || (ground.record("pending").is_some() && ground.record("decision").is_none()))
            {
                found.push(format!("cancel: {done:?}"));
            }
        }
        _ => {}
    }
    if !ground.has_begun() {
        return nothing_to_undo(ground, found);
    }
    let before = closed(ground);
    let holds = ground.record("end").as_deref() == Some("committed");
    match before {
        None if !holds => {
            let done = ground.keyward(&["rollback", "--yes"]);
            if done.code != 0 {
                found.push(format!("rollback: {done:?}"));
            }
        }
        // Committed by an agent that died before it could say so: it is taken back like any other, and not at once.
        None => {
            let done = ground.keyward(&["rollback", "--yes"]);
            if done.code != 5 || closed(ground).is_none() {
                found.push(format!("rollback of a run that holds, with nobody to confirm: {done:?}"));
            }
            stands(ground, clean, "committed", found);
        }
        Some(line) if line.contains("\"exit\":\"as_asked\"") && undo != Undo::Rollback || committed(ground) => {
            stands(ground, clean, &line, found);
        }
        Some(_) => {}
    }
}

/// Before its guard and its first change there is nothing to undo, and that is what is said.
pub fn nothing_to_undo(ground: &Ground, found: &mut Vec<String>) {
    let done = ground.keyward(&["rollback", "--yes"]);
    if done.code != 1 || !done.stderr.contains("there is no run to roll back") {
        found.push(format!("rollback of a run that has not begun: {done:?}"));
    }
}

/// It was through when it was cut off: the new state stands whole, and can be taken back.
fn stands(ground: &mut Ground, clean: &Clean, line: &str, found: &mut Vec<String>) {
    if ground.ways_new_only() {
        let tree = ground.tree();
        found.extend(crate::ground::differences(&clean.last, &tree));
    } else {
        tally::lock_out();
        found.push(format!("committed, and the new way in does not open: {line}"));
    }
    let done = ground.keyward(&["rollback", "--yes", ACCEPT]);
    if done.code != 0 {
        found.push(format!("rollback of a committed run: {done:?}"));
    }
}

pub fn committed(ground: &Ground) -> bool {
    closed(ground).is_some_and(|line| line.contains("\"exit\":\"as_asked\""))
        && ground.record("end").as_deref() == Some("committed")
}

/// Nothing is left of it; if it is, the next case gets a fresh machine.
pub fn finish(ground: &mut Ground, found: &mut Vec<String>) {
    let blemishes = ground.blemishes();
    if blemishes.iter().any(|what| what.starts_with("LOCKED OUT")) {
        tally::lock_out();
    }
    found.extend(blemishes);
    if found.is_empty() {
        ground.forget();
        return;
    }
    let done = ground.keyward(&["history"]);
    found.push(format!("history: {}", done.stdout));
    *ground = Ground::new("a fresh machine").unwrap();
}

const CUTS: [(Cut, Undo); 6] = [
    (Cut::Agent, Undo::Rollback),
    (Cut::All, Undo::Cancel),
    (Cut::Power, Undo::Recover),
    (Cut::All, Undo::Rollback),
    (Cut::Agent, Undo::Cancel),
    (Cut::Power, Undo::Rollback),
];

/// Every `STRIDE`th call belongs to the sample.
const STRIDE: usize = 40;

/// The cases of this part: half of the calls, with all cuts; or half of the sample, with one cut each. The sample is where
/// the journal has grown since the host last changed, right after the commit, while the guard is made, and some in between.
fn cases(clean: &Clean, part: usize) -> Vec<(&Call, Cut, Undo)> {
    let calls: Vec<&Call> = clean.calls.iter().filter(|call| call.kind != Kind::Start).collect();
    if tally::all() {
        let half = calls.iter().enumerate().filter(|(at, _)| at % 2 == part);
        return half.flat_map(|(_, call)| CUTS.map(|(cut, undo)| (*call, cut, undo))).collect();
    }
    let boundary = |at: usize| calls[at].is_boundary() && (at == 0 || !calls[at - 1].is_journal());
    let commit = |at: usize| at > 0 && calls[at - 1].name == "linkat" && calls[at - 1].place.ends_with(".end");
    // The guard's program in the making: 8 MB that nobody else would take away.
    let guard = |at: usize| calls[at].name == "fsync" && calls[at].place.starts_with("/var/lib/keyward/.keyward-");
    let chosen = |at: &usize| boundary(*at) || commit(*at) || guard(*at) || at % STRIDE == STRIDE / 2;
    let chosen = (0..calls.len()).filter(chosen);
    let half = chosen.enumerate().filter(|(index, _)| index % 2 == part);
    half.map(|(index, at)| (calls[at], CUTS[index / 2 % CUTS.len()].0, CUTS[index / 2 % CUTS.len()].1)).collect()
}

fn part(test: &str, part: usize) {
    let Some(mut ground) = Ground::new(test) else { return };
    let clean = once(&mut ground);
    let mut findings = Findings::default();
    for (call, cut, undo) in cases(clean, part) {
        let begun = Instant::now();
        let found = cut_off(&mut ground, clean, call, cut, undo);
        findings.add(&format!("{cut:?} at {call}, then {undo:?} ({:?})", begun.elapsed()), &found);
    }
    let verified = ground.keyward(&["log", "verify"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    findings.end();
}

#[test]
fn the_apply_is_cut_off_at_odd_calls() {
    part("the_apply_is_cut_off_at_odd_calls", 1);
}

#[test]
fn the_apply_is_cut_off_at_even_calls() {
    part("the_apply_is_cut_off_at_even_calls", 0);
}
