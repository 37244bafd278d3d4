//! `keyward diff BEFORE AFTER`: what moved between two audits that were kept (`audit --format json`). Looks at no host.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::error::{Failure, Result};
use crate::outcome::audit::{Audit, VERSION};
use crate::outcome::drift::Drift;
use crate::outcome::{Event, Exit, Sink};

use super::Ending;
use super::args::DiffArgs;

/// Most bytes that are read of a file: some 10,000 hosts.
const LIMIT: u64 = 256 << 20;

/// Shows it. Exit 0 when nothing is worse, 2 when something is.
pub fn run(args: &DiffArgs, sink: &mut dyn Sink) -> Result<Ending> {
    let (before, after) = (audits(&args.before)?, audits(&args.after)?);
    let single = before.len() == 1 && after.len() == 1;
    let mut drifts = Vec::new();
    for (host, audit) in &after {
        match earlier(&before, host, after.len()) {
            Some(old) => drifts.push(Drift::between(host, old, audit)),
            None => sink.event(Event::Failed { failure: missing(host, &args.before) }),
        }
    }
    let gone: Vec<&String> = before
        .iter()
        .map(|(name, _)| name)
        .filter(|name| !single && !after.iter().any(|(host, _)| host == *name))
        .collect();
    gone.iter().for_each(|host| sink.event(Event::Failed { failure: missing(host, &args.after) }));
    let unjudged = after.len() - drifts.len() + gone.len();
    let worse = drifts.iter().any(|drift| !drift.worse.is_empty());
    drifts.into_iter().for_each(|drift| sink.event(Event::Drifted { drift: Box::new(drift) }));
    let exit = match (worse, unjudged) {
        (true, _) => Exit::Differs,
        (false, 0) => Exit::AsAsked,
        (false, _) => Exit::CannotJudge,
    };
    Ok(Ending::new(exit, "", ""))
}

/// The audit of a host among earlier ones. Two single hosts are compared whatever they are called: an image has a new name
/// each time.
pub fn earlier<'a>(before: &'a [(String, Audit)], host: &str, hosts: usize) -> Option<&'a Audit> {
    let single = before.len() == 1 && hosts == 1;
    before.iter().find(|(name, _)| single || name == host).map(|(_, audit)| audit)
}

fn missing(host: &str, file: &Path) -> Failure {
    Failure::unknown(host, format!("was not judged in {}", file.display()))
        .hint("audit the same hosts twice; a host that could not be reached has no audit")
}

/// The audits in a file: a line of `--format json` each, one a host.
///
/// # Errors
/// Input when there is none, or the file is something else.
pub fn audits(file: &Path) -> Result<Vec<(String, Audit)>> {
    let place = file.display().to_string();
    let wrong = |what: &str| Failure::input(&place, what).hint("keep one with: keyward audit --format json > FILE");
    let mut text = String::new();
    let opened = File::open(file).map_err(|error| wrong("cannot be read").why(error))?;
    opened.take(LIMIT).read_to_string(&mut text).map_err(|error| wrong("cannot be read").why(error))?;
    let mut found: Vec<(String, Audit)> = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let event = serde_json::from_str::<Event>(line)
            .map_err(|error| wrong(&format!("line {} is no event of keyward", number + 1)).why(error))?;
        let (host, audit) = match event {
            Event::Audited { audit } => (audit.host.clone(), audit),
            Event::Host { host, said } => match *said {
                Event::Audited { audit } => (host, audit),
                _ => continue,
            },
            _ => continue,
        };
        if audit.version > VERSION {
            return Err(wrong(&format!("line {} is of a later version of keyward", number + 1)));
        }
        if found.iter().any(|(name, _)| *name == host) {
            return Err(wrong(&format!("line {}: {host} was judged before in it", number + 1))
                .why("two hosts of one name, or two audits of one host, cannot be told apart"));
        }
        found.push((host, *audit));
    }
    if found.is_empty() {
        return Err(wrong("there is no audit in it"));
    }
    Ok(found)
}
