//! The undo is cut off at each of its own calls and asked for again: the same end.

use std::sync::OnceLock;
use std::time::Instant;

use crate::crash::{Clean, Cut, closed, enter, finish, halfway, look, once, run_until};
use crate::ground::{Ground, PROGRAM};
use crate::tally::{self, Findings};
use crate::tracer::{Call, Deed, Kind, Watch, follow};

/// Every `STRIDE`th call belongs to the sample.
const STRIDE: usize = 23;

/// The command that undoes, and whether it comes after a power cut.
const WAYS: [(&[&str], Cut); 4] = [
    (&[PROGRAM, "rollback", "--yes"], Cut::Agent),
    (&[PROGRAM, "cancel"], Cut::All),
    (&[PROGRAM, "__guard", "recover"], Cut::Power),
    (&[PROGRAM, "rollback", "--yes"], Cut::Power),
];

fn undo_calls(ground: &mut Ground) -> &'static Vec<Call> {
    static CALLS: OnceLock<Vec<Call>> = OnceLock::new();
    CALLS.get_or_init(|| {
        let mut calls = Vec::new();
        halfway(ground);
        let mut note = |call: &Call| {
            calls.push(call.clone());
            Deed::Pass
        };
        let end = follow(ground.shell(), WAYS[0].0, Watch::all(&mut note));
        assert_eq!(end.code, 0, "{}", end.said);
        assert_eq!(ground.blemishes(), Vec::<String>::new());
        ground.forget();
        calls.retain(|call| call.kind != Kind::Start);
        calls
    })
}

fn cut_off(ground: &mut Ground, clean: &Clean, target: &Call, (argv, cut): (&[&str], Cut)) -> Vec<String> {
    tally::point();
    halfway(ground);
    if argv.contains(&"recover") {
        ground.reboot();
    }
    let same = |call: &Call| call.kind == target.kind && call.number >= target.number;
    let (at, _) = run_until(ground, argv, target.kind == Kind::Foreign, cut, same);
    let mut found = Vec::new();
    look(ground, clean, &mut found);
    if cut == Cut::Power {
        ground.reboot();
        enter(ground, &mut found);
    }
    if closed(ground).is_none() {
        let again = ground.keyward(&argv[1..]);
        // A cancelled run is no longer pending; what is left of it is undone by hand.
        let again = if argv.contains(&"cancel") && again.code != 0 { ground.keyward(&WAYS[0].0[1..]) } else { again };
        if again.code != 0 {
            found.push(format!("the second time: {again:?}"));
        }
    } else if cut != Cut::Agent || at.is_some() {
        // The run is closed; what is left of its guard goes with a second rollback of that run, or after the boot.
        let run = ground.run().unwrap();
        let again: &[&str] = if argv.contains(&"recover") { &argv[1..] } else { &["rollback", "--yes", &run] };
        let _ = ground.keyward(again);
    }
    if argv.contains(&"recover") {
        ground.reboot();
    }
    finish(ground, &mut found);
    found
}

#[test]
fn the_undo_is_cut_off_and_asked_for_again() {
    let test = "the_undo_is_cut_off_and_asked_for_again";
    let Some(mut ground) = Ground::new(test) else { return };
    let (clean, calls) = (once(&mut ground), undo_calls(&mut ground));
    let mut findings = Findings::default();
    for (index, call) in calls.iter().enumerate() {
        let sampled = index % STRIDE == STRIDE / 2;
        for (number, way) in WAYS.iter().enumerate() {
            if tally::all() || (sampled && index / STRIDE % WAYS.len() == number) {
                let begun = Instant::now();
                let found = cut_off(&mut ground, clean, call, *way);
                findings.add(&format!("{way:?} cut off at {call} ({:?})", begun.elapsed()), &found);
            }
        }
    }
    findings.end();
}
