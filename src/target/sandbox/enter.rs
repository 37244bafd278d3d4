//! Starts a program inside the copy, or at its outside end, with the caller's standard input and output: the hidden
//! verb joins the namespaces of a process and then runs the rest of its arguments. Decides nothing.

use std::fs::File;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitCode};

use nix::sched::{CloneFlags, setns};

use super::os;
use crate::error::{Failure, Result};

/// Which namespaces of a process a program joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// All: the copy.
    Copy,
    /// All but the network: the copy's files with the machine's network.
    CopyOnline,
    /// The network only: the outside end.
    Outside,
}

impl Into {
    /// The word on the hidden verb's command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::CopyOnline => "online",
            Self::Outside => "outside",
        }
    }

    /// Files below /proc/PID/ns, in the order in which they are joined: the user namespace gives the right to the rest.
    fn spaces(self) -> &'static [(&'static str, CloneFlags)] {
        const USER: (&str, CloneFlags) = ("user", CloneFlags::CLONE_NEWUSER);
        const NET: (&str, CloneFlags) = ("net", CloneFlags::CLONE_NEWNET);
        const MNT: (&str, CloneFlags) = ("mnt", CloneFlags::CLONE_NEWNS);
        const PID: (&str, CloneFlags) = ("pid", CloneFlags::CLONE_NEWPID);
        const UTS: (&str, CloneFlags) = ("uts", CloneFlags::CLONE_NEWUTS);
        const IPC: (&str, CloneFlags) = ("ipc", CloneFlags::CLONE_NEWIPC);
        match self {
            Self::Copy => &[USER, NET, UTS, IPC, PID, MNT],
            Self::CopyOnline => &[USER, UTS, IPC, PID, MNT],
            Self::Outside => &[USER, NET],
        }
    }
}

/// The hidden verb: `WORD PID PROGRAM [ARGUMENT...]`; its exit code is the program's, 128 and the signal for a signal.
pub fn main(arguments: &[String]) -> ExitCode {
    match run(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "{failure}");
            ExitCode::from(127)
        }
    }
}

fn run(arguments: &[String]) -> Result<u8> {
    let wrong = || Failure::unknown("sandbox", "it was not told where to go");
    let [word, pid, program, rest @ ..] = arguments else { return Err(wrong()) };
    let into = [Into::Copy, Into::CopyOnline, Into::Outside].into_iter().find(|into| into.word() == word.as_str());
    let into = into.ok_or_else(wrong)?;
    // Opened first: /proc is another one once the mount namespace is joined.
    let mut spaces = Vec::new();
    for (name, flag) in into.spaces() {
        let file = format!("/proc/{pid}/ns/{name}");
        let gone = |error: std::io::Error| Failure::unknown("sandbox", "the copy does not run").why(error);
        let here = std::fs::read_link(format!("/proc/self/ns/{name}")).map_err(gone)?;
        if std::fs::read_link(&file).map_err(gone)? != here {
            spaces.push((File::open(&file).map_err(gone)?, *flag));
        }
    }
    for (space, flag) in &spaces {
        setns(space, *flag).map_err(os("no way into the copy"))?;
    }
    let mut command = Command::new(program);
    command.args(rest);
    if into == Into::Outside {
        return Err(Failure::unknown(program.clone(), "cannot be started").why(command.exec()));
    }
    // The working directory and the umask of the caller mean nothing in there.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    command.current_dir("/");
    let status = command
        .status()
        .map_err(|error| Failure::unknown(program.clone(), "cannot be started in the copy").why(error))?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
    Ok(u8::try_from(code).unwrap_or(255))
}
