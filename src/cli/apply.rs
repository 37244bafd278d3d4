//! `keyward apply PLAYBOOK`: shows the plan, asks, and hands it to the engine.

use std::path::Path;
use std::time::Duration;

use crate::change::{Promise, Risk};
use crate::engine::{Prove, guard};
use crate::error::{Failure, Result};
use crate::host::real::RealHost;
use crate::host::shelf::Held;
use crate::outcome::{Event, Sink as _};
use crate::proof::held;
use crate::types::{PublicKey, UserName};

use super::args::{ApplyArgs, Global};
use super::job::{Declared, Job};
use super::live::Live;
use super::target::TargetArg;
use super::terminal::Terminal;
use super::{Ending, evidence, example, loader, rehearse, state, tree};

/// What is asked before the first change.
pub const QUESTION: &str = "Apply this plan? Type yes: ";

/// Applies a playbook.
pub fn run(args: &ApplyArgs, global: &Global, terminal: &mut Terminal) -> Result<Ending> {
    let job = match terminal.job(&args.playbook)? {
        Ok(job) => job,
        Err(ending) => return Ok(ending),
    };
    match global.target() {
        TargetArg::Sandbox => {
            return rehearse::run(&job, rehearse::REHEARSE, "/".as_ref(), &global.leave_out, terminal);
        }
        TargetArg::Rootfs(dir) => return tree::apply(&job, args, &dir, &global.leave_out, terminal),
        TargetArg::Local | TargetArg::Ssh(_) | TargetArg::Container(_) => {}
    }
    state::need_root("to change this host")?;
    let host = RealHost::new();
    let lock = locked(args, &host)?;
    let job = job.for_operator();
    let (facts, plan) = match job.assess(&host, Duration::from_secs(args.wait), terminal) {
        Ok(found) => found,
        Err(ending) => return Ok(ending),
    };
    let command = format!("keyward plan {}", state::quoted(&job.about.playbook));
    if !Live::still_agreed(&args.live, &plan, &command)? {
        terminal.event(Event::Planned { plan: Box::new(plan.clone()) });
    }
    if plan.is_converged() && !args.prove {
        evidence::tell_last(terminal)?;
        return Ok(Ending::of_plan(&plan));
    }
    let risky = plan.risk() == Risk::Access || !plan.deferred.is_empty();
    if risky && !args.live.i_accept_that_this_host_may_lock_me_out {
        example::refuse(&job)?;
    }
    if args.accept_evidence.is_some()
        && let Some(user) = plan.promises.iter().find_map(|promise| match promise {
            Promise::Admin { user, nopasswd: false } => Some(user),
            _ => None,
        })
    {
        return Err(Failure::refused("--accept-evidence", format!("sudo asks {} for a password", user.as_str()))
            .why("keyward types none, so nobody would have shown that sudo works")
            .hint("confirm from a login instead, or let sudo work without a password"));
    }
    let accepted = if risky && args.accept_evidence.is_some() { Some(held(args, &job, &host)?) } else { None };
    let live = Live {
        verb: "apply",
        object: job.about.playbook.clone(),
        question: QUESTION,
        args: &args.live,
        host: &host,
        facts: &facts,
        plan,
        held: lock,
        tasks: &job.tasks,
        about: &job.about,
        access: &job.access,
        prove: if args.prove { Prove::Always } else { Prove::Changes },
        accepted,
    };
    live.run(terminal)
}

/// A plan of a host in the middle of another run would mislead. One that was agreed to before this process took another's
/// place is made under the lock, and then need not be made once more.
fn locked(args: &ApplyArgs, host: &RealHost) -> Result<Option<Box<dyn Held>>> {
    if args.live.as_agreed.is_some() {
        let shelf = state::shelf()?;
        // What a killed run left is no reason to stop; the next boot sweeps, too.
        let _ = super::guard::sweep(host, &shelf);
        return guard::lock(&shelf).map(Some);
    }
    if let Some(shelf) = state::shelf_if_any()? {
        drop(guard::lock(&shelf)?);
    }
    Ok(None)
}

/// That an ssh-agent of whoever started this signs with the key. One that does not answer is no error: sshd's log may
/// tell as well.
fn by_agent(user: &UserName, key: &PublicKey, challenge: &[u8]) -> Option<String> {
    let socket = std::env::var_os("SSH_AUTH_SOCK")?;
    let signed = crate::target::ssh::signs(Path::new(&socket), key, challenge).unwrap_or(false);
    signed.then(|| format!("the ssh-agent signed a challenge with {}'s key {}", user.as_str(), key.fingerprint()))
}

/// How somebody was shown to hold a key of an administrator; without it no evidence of this host's own may decide.
fn held(args: &ApplyArgs, job: &Job, host: &RealHost) -> Result<String> {
    let identity = match &args.identity {
        None => None,
        Some(file) => Some(loader::read_named(file)?),
    };
    let challenge = job.about.digest.as_bytes();
    // This host's own proof comes from none of the addresses that a key may be bound to.
    for Declared { user, key, .. } in job.declared.iter().filter(|one| one.everywhere) {
        let found = match &identity {
            Some(text) => held::signed(text, user, key, challenge)?,
            None => match by_agent(user, key, challenge) {
                Some(how) => Some(how),
                None => held::logged_in(user, key, host)?,
            },
        };
        if let Some(how) = found {
            return Ok(how);
        }
    }
    let why = "no key of an administrator of the playbook was seen to log in here, or to sign; one with 'from' or 'command' \
               does not count, since this host's own proof comes from elsewhere";
    Err(Failure::refused("--accept-evidence", "nobody is known to hold a key that the playbook declares")
        .why(why)
        .hint("log in once with such a key, name its private half with --identity FILE, or hand on the agent: sudo -E"))
}
