//! `keyward rehearse --fault kill@N|reboot@N|drop@N`: a real guarded run in a copy of this machine, struck in the middle;
//! then it is shown who can still log in.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::change::{Note, Plan, Promise};
use crate::error::{Failure, Result};
use crate::outcome::{Event, Evidence, Exit, Proven, Reach, Sink};
use crate::proof::scaffold::Pass;
use crate::proof::{Line, PipeWorker, Request, WORKER_ARG, Worker as _};
use crate::target::sandbox::{INSIDE_V4, INSIDE_V6, Options, Sandbox};
use crate::types::{AbsPath, Port, UserName, Word as _};

use super::agent::{Act, Order};
use super::job::Job;
use super::strike::{Blow, Fault};
use super::talk::{absolute, talk};
use super::{Ending, fetch};

/// What notes of this verb are about.
pub const FAULT: &str = "fault";
/// The run's own window and the time of the undo, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Makes the copy's root account one that this rehearsal can log in to.
const LET_ROOT_IN: &str = "umask 077; mkdir -p /root/.ssh && cat >>/root/.ssh/authorized_keys";
/// Good for as long as any copy lives.
const EXPIRY: &str = "20991231";

/// Passes events on and keeps the last plan.
struct Keeping<'a> {
    plan: Option<Plan>,
    quiet: bool,
    /// When the fault was told.
    struck: Option<Instant>,
    sink: &'a mut dyn Sink,
}

impl Sink for Keeping<'_> {
    fn event(&mut self, event: Event) {
        if let Event::Planned { plan } = &event {
            self.plan = Some((**plan).clone());
        }
        if matches!(&event, Event::Note { note } if note.about == FAULT) {
            self.struck = Some(Instant::now());
        }
        if !self.quiet || matches!(event, Event::Failed { .. } | Event::Proof { .. }) {
            self.sink.event(event);
        }
    }
}

struct Trial<'a> {
    job: &'a Job,
    sandbox: Sandbox,
    sink: &'a mut dyn Sink,
    /// root's key in the copy.
    pass: Pass,
    /// When the fault struck.
    struck: Option<Instant>,
}

/// Rehearses a fault.
///
/// # Errors
/// When the copy cannot be made, or the run ended before the fault.
pub fn run(job: &Job, fault: Fault, root: &Path, leave_out: &[AbsPath], sink: &mut dyn Sink) -> Result<Ending> {
    let root = absolute(root)?;
    let mut sandbox = Sandbox::open(&Options { leave_out: leave_out.to_vec(), ..Options::new(root.clone()) })?;
    let mut notes: Vec<Note> = fetch::packages(&job.packages, &root, &mut sandbox)?.into_iter().collect();
    let booted = sandbox.boot()?;
    notes.extend(booted.notes.iter().map(|text| Note::info("copy", text)));
    let user = UserName::parse("root").map_err(|invalid| Failure::failed("root", invalid.why))?;
    let mut trial = Trial { job, sandbox, sink, pass: Pass::new(&user, false)?, struck: None };
    let ending = trial.run(fault, notes);
    trial.sandbox.close()?;
    ending
}

impl Trial<'_> {
    fn run(&mut self, fault: Fault, notes: Vec<Note>) -> Result<Ending> {
        self.let_root_in()?;
        let Some(before) = self.order(Act::Fault(fault), notes)? else {
            return Err(Failure::unknown(FAULT, "the run ended before anything was planned"));
        };
        let doors = old_doors(&before);
        if fault.blow == Blow::Reboot {
            // As the boot unit does it, before firewall and sshd read their files: hence a second boot.
            self.sandbox.boot()?;
            self.keyward(&["__guard", "recover"])?;
            self.sandbox.boot()?;
        }
        self.wait()?;
        let after = self.order(Act::Plan, Vec::new())?;
        let after = after.ok_or_else(|| Failure::unknown(FAULT, "the copy cannot be looked at any more"))?;
        let struck = format!("{:?}@{}", fault.blow, fault.after).to_lowercase();
        if after.is_converged() {
            let proven = self.order(Act::Prove, Vec::new()).is_ok();
            return Ok(ended(
                proven,
                format!("survived {struck}: the run went on to its end, and its ways in are open"),
            ));
        }
        let same = after.observation_digest == before.observation_digest;
        let mut open = !doors.is_empty();
        for port in doors {
            open &= self.logs_in(port)?;
        }
        if !same {
            let text = "the copy is not as it was before the run: the plan of now differs from the first one";
            self.sink.event(Event::Note { note: Note::warning(FAULT, text) });
        }
        Ok(ended(
            same && open,
            format!("survived {struck}: rolled back, the copy is as before, and the old door is open"),
        ))
    }

    /// Gives an order to an agent; one that is killed says nothing more. Gives back the plan that it told.
    fn order(&mut self, act: Act, notes: Vec<Note>) -> Result<Option<Plan>> {
        let struck = matches!(act, Act::Fault(_));
        let order =
            Order { act: act.clone(), playbook: self.job.about.playbook.clone(), sources: self.job.sources.clone() };
        let mut keeping = Keeping { plan: None, quiet: !struck, struck: None, sink: self.sink };
        let said = talk(&self.sandbox, &order, notes, &mut |_| Ok(()), None, &mut keeping);
        self.struck = keeping.struck.or(self.struck);
        match said {
            Ok(ending) if struck && self.struck.is_none() => {
                Err(Failure::input("--fault", "the run ended before the fault could strike")
                    .why(ending.verdict)
                    .hint("name a change that the plan has"))
            }
            Ok(ending) if act == Act::Prove && ending.exit != Exit::AsAsked => {
                Err(Failure::failed("proof", ending.verdict))
            }
            Err(failure) if !struck => Err(failure),
            _ => Ok(keeping.plan),
        }
    }

    fn let_root_in(&self) -> Result<()> {
        let lost = |error: std::io::Error| Failure::unknown("copy", "root's key cannot be put there").why(error);
        let mut command = self.sandbox.command("/bin/sh")?;
        let mut child = command.args(["-c", LET_ROOT_IN]).stdin(Stdio::piped()).spawn().map_err(lost)?;
        if let Some(mut input) = child.stdin.take() {
            std::io::Write::write_all(&mut input, format!("{}\n", self.pass.line(EXPIRY)).as_bytes()).map_err(lost)?;
        }
        child.wait().map(drop).map_err(lost)
    }

    fn keyward(&self, words: &[&str]) -> Result<(i32, String)> {
        let output = self.sandbox.agent()?.args(words).stdin(Stdio::null()).output();
        let output = output.map_err(|error| Failure::unknown("copy", "nothing starts in it").why(error))?;
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Until the run is over, by whoever ends it.
    fn wait(&mut self) -> Result<()> {
        let begun = self.struck.unwrap_or_else(Instant::now);
        loop {
            let (code, said) = self.keyward(&["status"])?;
            if code == i32::from(Exit::AsAsked.code()) {
                break;
            }
            if begun.elapsed() > PATIENCE {
                return Err(Failure::failed(FAULT, "the run is still not over").why(said.trim()));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let (_, history) = self.keyward(&["history"])?;
        // The run's own line, then how it ended, then the next command.
        let words: Vec<&str> = history.lines().skip(1).take_while(|line| !line.starts_with("next:")).collect();
        let how = words.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        let text = format!("{} s later, without anybody: {how}", begun.elapsed().as_secs());
        self.sink.event(Event::Note { note: Note::info(FAULT, text) });
        Ok(())
    }

    /// A fresh login of root from the outside world, in both families.
    fn logs_in(&mut self, port: Port) -> Result<bool> {
        let lost = |error: std::io::Error| Failure::unknown(FAULT, "no worker").why(error);
        let keys = "for key in /etc/ssh/ssh_host_*_key.pub; do cut -d' ' -f1,2 \"$key\"; done";
        let output = self.sandbox.command("/bin/sh")?.args(["-c", keys]).output().map_err(lost)?;
        let host_keys: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
        let mut command = self.sandbox.outside()?;
        let mut child = command.arg(WORKER_ARG).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(lost)?;
        let pipes = child.stdout.take().zip(child.stdin.take());
        let (from, to) = pipes.ok_or_else(|| Failure::unknown(FAULT, "no worker"))?;
        let addresses = [IpAddr::V4(INSIDE_V4), IpAddr::V6(INSIDE_V6)];
        let requests = addresses.map(|address| Request::Login {
            line: Line {
                address: SocketAddr::new(address, port.get()),
                source: None,
                host_keys: host_keys.clone(),
                deadline_ms: 10_000,
            },
            user: "root".to_owned(),
            private_key: self.pass.private.clone(),
            command: self.pass.command(),
        });
        let mut worker = PipeWorker::new(from, to);
        let replies = worker.ask(&requests);
        drop(worker);
        let _ = (child.kill(), child.wait());
        let mut all = true;
        for (reply, address) in replies?.into_iter().zip(addresses) {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            all &= reply.ok;
            let proven = if reply.ok { Proven::Yes } else { Proven::No };
            let what = format!("old door: login as root, port {port}, {family}");
            let seen = if reply.ok { "in".to_owned() } else { reply.text };
            let evidence = Evidence { what, proven, reach: Reach::L2, seen, millis: reply.millis };
            self.sink.event(Event::Proof { evidence });
        }
        Ok(all)
    }
}

/// The ports that the plan would close, else those that it keeps.
fn old_doors(plan: &Plan) -> Vec<Port> {
    let closed = plan.promises.iter().filter_map(|promise| match promise {
        Promise::SshPortClosed { port } => Some(*port),
        _ => None,
    });
    let closed: Vec<Port> = closed.collect();
    if !closed.is_empty() {
        return closed;
    }
    let kept = plan.promises.iter().filter_map(|promise| match promise {
        Promise::SshPort { port } => Some(*port),
        _ => None,
    });
    kept.collect()
}

fn ended(survived: bool, verdict: String) -> Ending {
    if survived {
        return Ending::new(Exit::AsAsked, verdict, "");
    }
    Ending::new(Exit::RollbackIncomplete, "NOT survived: see what is refuted above", "")
}
