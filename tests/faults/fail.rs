//! Calls of the agent fail, programs that it starts end badly, its disk is full: it stops or undoes, says so, and leaves
//! a way in and whole files.

use std::time::Instant;

use nix::errno::Errno;

use crate::crash::{ACCEPT, Clean, LONG, closed, finish, halfway, look, nothing_to_undo, once};
use crate::ground::{Ground, NEW, differences};
use crate::tally::{self, Findings};
use crate::tracer::{Call, Deed, End, Kind, Watch, follow};

/// Every `STRIDE`th call that can fail, and every `STARTS`th program, belongs to the sample.
const STRIDE: usize = 53;
const STARTS: usize = 19;

/// What happens at the call, and whether it lasts.
const ERRORS: [(Errno, bool); 5] =
    [(Errno::ENOSPC, false), (Errno::EIO, false), (Errno::EROFS, false), (Errno::ENOSPC, true), (Errno::EROFS, true)];

/// What a full or failing disk refuses.
fn can_fail(call: &Call) -> bool {
    let names =
        ["write", "openat", "fsync", "fdatasync", "rename", "renameat", "mkdir", "mkdirat", "linkat", "symlinkat"];
    call.kind == Kind::Own && names.contains(&call.name) && !call.by.starts_with("guard-")
}

/// What a file system that turned read-only refuses besides.
fn is_read_only(call: &Call) -> bool {
    let names = ["unlink", "unlinkat", "rmdir", "fchmod", "fchown", "ftruncate", "fsetxattr", "fremovexattr"];
    can_fail(call) || (call.kind == Kind::Own && names.contains(&call.name))
}

/// Applies with this fault, and looks at what it did.
fn apply_with(ground: &mut Ground, clean: &Clean, mut deed: impl FnMut(&Call) -> Deed, lasting: bool) -> Vec<String> {
    let operator = ground.operator();
    let mut struck = false;
    let mut deed = |call: &Call| {
        let deed = deed(call);
        struck |= deed != Deed::Pass;
        deed
    };
    let end = follow(ground.shell(), &Ground::apply(LONG), Watch::own(&mut deed));
    // A run may do a few calls less than the one that was counted; what never struck is no fault.
    if struck {
        tally::fault();
    }
    operator.end();
    ground.end_confirmers();
    let mut found = Vec::new();
    look(ground, clean, &mut found);
    judge(ground, clean, &end, lasting, &mut found);
    finish(ground, &mut found);
    found
}

/// The exit code says what became of the host.
fn judge(ground: &mut Ground, clean: &Clean, end: &End, lasting: bool, found: &mut Vec<String>) {
    match end.code {
        // Harmless: applied whole.
        0 | 9 => {
            let tree = ground.tree();
            found.extend(differences(&clean.last, &tree));
            if !ground.way(NEW).opens {
                tally::lock_out();
                found.push("applied, and the new way in does not open".to_owned());
            }
            let done = ground.keyward(&["rollback", "--yes", ACCEPT]);
            if done.code != 0 {
                found.push(format!("rollback of a committed run: {done:?}"));
            }
        }
        3 | 5 | 6 | 7 => {
            let tree = ground.tree();
            if !lasting {
                found.extend(differences(&ground.blank, &tree));
            }
        }
        // Only where the undo met the same fault; once that is over it goes on.
        4 | 8 if lasting => {}
        code => found.push(format!("exit {code}: {}", end.said)),
    }
    if ground.run().is_none() {
        return;
    }
    // Its file stays where nothing can be removed.
    if !ground.has_begun() {
        return nothing_to_undo(ground, found);
    }
    if closed(ground).is_none() || end.code == 4 {
        let done = ground.keyward(&["rollback", "--yes"]);
        if done.code != 0 {
            found.push(format!("rollback once the fault is over: {done:?} after exit {}", end.code));
        }
    }
}

#[test]
fn calls_fail() {
    let test = "calls_fail";
    let Some(mut ground) = Ground::new(test) else { return };
    let clean = once(&mut ground);
    let mut findings = Findings::default();
    for (index, target) in clean.calls.iter().filter(|call| can_fail(call)).enumerate() {
        let sampled = index % STRIDE == STRIDE / 2;
        for (which, (errno, lasting)) in ERRORS.iter().enumerate() {
            // A disk that is full from the moment on in which the commit is written: it stands, or everything is undone.
            let commit = target.name == "linkat" && target.place.ends_with(".end");
            let commit = commit && *lasting && *errno == Errno::ENOSPC;
            if tally::all() || commit || (sampled && index / STRIDE % ERRORS.len() == which) {
                let begun = Instant::now();
                let deed = |call: &Call| {
                    let hit = call.kind == Kind::Own && call.number == target.number;
                    let refused = if *errno == Errno::EROFS { is_read_only(call) } else { can_fail(call) };
                    let goes_on = *lasting && call.number > target.number && refused;
                    if hit || goes_on { Deed::Fail(*errno) } else { Deed::Pass }
                };
                let found = apply_with(&mut ground, clean, deed, *lasting);
                let lasts = if *lasting { " from then on" } else { "" };
                findings.add(&format!("{errno:?}{lasts} at {target} ({:?})", begun.elapsed()), &found);
            }
        }
    }
    findings.end();
}

#[test]
fn programs_end_badly() {
    let test = "programs_end_badly";
    let Some(mut ground) = Ground::new(test) else { return };
    let clean = once(&mut ground);
    let mut findings = Findings::default();
    let starts = || clean.calls.iter().filter(|call| call.kind == Kind::Start);
    for (index, target) in starts().enumerate() {
        let sampled = index % STARTS == STARTS / 2;
        for (which, deed) in [Deed::Exit, Deed::Die, Deed::Hang].into_iter().enumerate() {
            // One that hangs is waited for until its deadline of 20 s, so it is left to the whole campaign.
            if tally::all() || (sampled && deed != Deed::Hang && index / STARTS % 2 == which) {
                let begun = Instant::now();
                let at = |call: &Call| {
                    if call.kind == Kind::Start && call.number == target.number { deed } else { Deed::Pass }
                };
                let found = apply_with(&mut ground, clean, at, false);
                findings.add(&format!("{deed:?} of {target} ({:?})", begun.elapsed()), &found);
            }
        }
    }
    findings.end();
}

/// Lays a file system of that size over keyward's own state.
/// What a run sets aside for its undo, in KiB.
const ROOM: u64 = 256;

fn small_disk(ground: &Ground, options: &str) {
    let script =
        format!("mkdir -p -m 700 /var/lib/keyward; mount -t tmpfs -o mode=700,{options} tmpfs /var/lib/keyward");
    ground.bed.sh(&script).ok();
}

#[test]
fn the_disk_is_really_full() {
    let test = "the_disk_is_really_full";
    let Some(mut ground) = Ground::new(test) else { return };
    let clean = once(&mut ground);
    let mut findings = Findings::default();
    let program = std::fs::metadata(ground.path("/usr/local/bin/keyward")).unwrap().len().div_ceil(4096) * 4;
    let mut sizes = vec!["size=8k".to_owned(), "size=40k".to_owned(), "size=1m".to_owned(), "nr_inodes=7".to_owned()];
    sizes.extend((0..20).map(|step| format!("size={}k", program + ROOM + 8 + step * 8)));
    sizes.extend((3..12).map(|inodes| format!("nr_inodes={inodes}")));
    if !tally::all() {
        sizes = vec![sizes[1].clone(), sizes[6].clone(), sizes[3].clone()];
    }
    for options in sizes {
        tally::fault();
        let mut found = Vec::new();
        small_disk(&ground, &options);
        let end = follow(ground.shell(), &Ground::apply("4s"), Watch::own(&mut |_| Deed::Pass));
        look(&mut ground, clean, &mut found);
        // Nobody confirms; whoever undoes has no room for a record either.
        if !matches!(end.code, 3 | 5 | 7 | 8) {
            found.push(format!("exit {}: {}", end.code, end.said));
        }
        if closed(&ground).is_none() && ground.run().is_some() {
            let _ = ground.keyward(&["rollback", "--yes"]);
        }
        let tree = ground.tree();
        found.extend(differences(&ground.blank, &tree));
        ground.reboot();
        finish(&mut ground, &mut found);
        findings.add(&format!("state on a disk with {options}"), &found);
    }
    // Full once everything was done: the way back needs no room.
    tally::fault();
    let mut found = Vec::new();
    small_disk(&ground, "size=64m");
    halfway(&ground);
    // And the last record is torn.
    let journal = ground.path(&format!("/var/lib/keyward/runs/{}.journal", ground.run().unwrap()));
    let mut text = std::fs::read(&journal).unwrap();
    text.extend(b"{\"seq\":99,\"su");
    std::fs::write(&journal, text).unwrap();
    let _ = ground.bed.sh("dd if=/dev/zero of=/var/lib/keyward/fill bs=4k 2>/dev/null || true");
    let done = ground.keyward(&["rollback", "--yes"]);
    let tree = ground.tree();
    if done.code != 0 {
        found.push(format!("{done:?}"));
    }
    found.extend(differences(&ground.blank, &tree));
    look(&mut ground, clean, &mut found);
    ground.reboot();
    finish(&mut ground, &mut found);
    findings.add("the disk is full when the run is undone", &found);
    // The same where there is one file system for everything: user databases and files are written anew.
    tally::fault();
    let mut found = Vec::new();
    halfway(&ground);
    let _ = ground.bed.sh("dd if=/dev/zero of=/fill bs=4k 2>/dev/null || true");
    let done = ground.keyward(&["rollback", "--yes"]);
    let _ = ground.bed.sh("rm -f /fill");
    if done.code != 0 {
        found.push(format!("{done:?}"));
    }
    let tree = ground.tree();
    found.extend(differences(&ground.blank, &tree));
    look(&mut ground, clean, &mut found);
    ground.reboot();
    finish(&mut ground, &mut found);
    findings.add("the root file system is full when the run is undone", &found);
    findings.end();
}
