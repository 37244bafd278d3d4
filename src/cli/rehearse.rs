//! `keyward rehearse PLAYBOOK`: the whole transaction on a throw-away copy of this machine, or of a tree. Also the way
//! in which `plan` judges a copy.

use std::path::Path;

use crate::change::Note;
use crate::error::Result;
use crate::outcome::{Event, Exit, Sink};
use crate::resource::LoadedFile;
use crate::target::sandbox::{Options, Sandbox};
use crate::types::AbsPath;

use super::agent::{Act, Order};
use super::args::{AuditArgs, Verb};
use super::audit::Asked;
use super::far::{Heed, short};
use super::job::Job;
use super::talk::{absolute, talk};
use super::{Ending, example, fetch, state};

/// A rehearsal that is only that.
pub const REHEARSE: Act = Act::Rehearse { ask: false };

/// Rehearses on a copy of `root`.
pub fn run(job: &Job, act: Act, root: &Path, leave_out: &[AbsPath], sink: &mut dyn Sink) -> Result<Ending> {
    let root = absolute(root)?;
    let mut sandbox = Sandbox::open(&Options { leave_out: leave_out.to_vec(), ..Options::new(root.clone()) })?;
    let mut notes: Vec<Note> = example::warning(job).into_iter().collect();
    notes.extend(sandbox.notes().iter().map(|text| Note::info("copy", text)));
    if act == REHEARSE {
        notes.extend(fetch::packages(&job.packages, &root, &mut sandbox)?);
    }
    let booted = sandbox.boot()?;
    notes.extend(booted.notes.iter().map(|text| Note::info("copy", text)));
    let order = Order { act: act.clone(), playbook: job.about.playbook.clone(), sources: job.sources.clone() };
    let ending = talk(&sandbox, &order, notes, &mut |_| Ok(()), None, sink);
    let modules = sandbox.modules_loaded();
    // The copy's end is the end of everything in it, whatever was said.
    let closed = sandbox.close();
    let ending = ending?;
    closed?;
    Ok(told(ending, &act, job, &root, &modules, sink))
}

/// Judges a booted copy of `root`. What is in there may be anybody's: it is heeded as a host over SSH is. `sources` are the
/// playbook's name and texts, if there is one.
pub fn audit(
    args: &AuditArgs,
    sources: (String, Vec<LoadedFile>),
    root: &Path,
    leave_out: &[AbsPath],
    sink: &mut dyn Sink,
) -> Result<Ending> {
    let root = absolute(root)?;
    let mut sandbox = Sandbox::open(&Options { leave_out: leave_out.to_vec(), ..Options::new(root.clone()) })?;
    let mut notes: Vec<Note> = sandbox.notes().iter().map(|text| Note::info("copy", text)).collect();
    // They may quote programs of the tree.
    notes.extend(sandbox.boot()?.notes.iter().map(|text| Note::info("copy", short(text))));
    let of = if root.as_str() == "/" { "this machine".to_owned() } else { root.to_string() };
    notes.push(Note::info("copy", format!("judged on a booted copy of {of}, gone now; PID 1 in there is not systemd")));
    let (playbook, sources) = sources;
    let order = Order { act: Act::Audit(Asked::of(args)), playbook, sources };
    let target = if root.as_str() == "/" { "sandbox".to_owned() } else { format!("rootfs:{root}") };
    let mut heed = Heed::new(&Verb::Audit(args.clone()), format!("keyward --target {}", state::quoted(&target)));
    let ending = talk(&sandbox, &order, Vec::new(), &mut |_| Ok(()), Some(&mut heed), sink);
    let closed = sandbox.close();
    let ending = ending?;
    closed?;
    notes.into_iter().for_each(|note| sink.event(Event::Note { note }));
    Ok(ending)
}

/// What the reader must know about a rehearsal, and what to type next.
fn told(mut ending: Ending, act: &Act, job: &Job, root: &AbsPath, modules: &[String], sink: &mut dyn Sink) -> Ending {
    if !modules.is_empty() {
        let text = format!(
            "the kernel loaded modules for the copy, which stay until they are unloaded: {}",
            modules.join(", ")
        );
        sink.event(Event::Note { note: Note::info("copy", text) });
    }
    let of = if root.as_str() == "/" { "this machine".to_owned() } else { root.to_string() };
    let text = format!("nothing on {of} was changed: this was a copy of it, gone now; PID 1 in there is not systemd");
    sink.event(Event::Note { note: Note::info("copy", text) });
    ending.run = None;
    let on = if root.as_str() == "/" { String::new() } else { format!(" --root {}", state::quoted(root.as_str())) };
    let next = |verb: &str| format!("keyward {verb} {}{on}", state::quoted(&job.about.playbook));
    // A tree is changed by root alone.
    let may_apply = on.is_empty() || nix::unistd::geteuid().is_root();
    ending.next = match (act, ending.exit) {
        (Act::Plan, _) => next("rehearse"),
        (Act::Rehearse { .. }, Exit::AsAsked | Exit::Unverified) if may_apply => next("apply"),
        _ => String::new(),
    };
    if *act == REHEARSE && !ending.verdict.is_empty() {
        ending.verdict = format!("rehearsed: {}", ending.verdict);
    }
    ending
}
