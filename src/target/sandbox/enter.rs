//! Starts a program inside the copy, or at its outside end, with the caller's standard input and output: the hidden
//! verb joins the namespaces of a process and then runs the rest of its arguments. Decides nothing.

use std::fs::File;
use std::os::fd::IntoRawFd as _;
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
            // Names from the command line and words of the system stand in it.
            let _ = writeln!(std::io::stderr(), "{}", failure.line().escape_debug());
            ExitCode::from(127)
        }
    }
}

fn run(arguments: &[String]) -> Result<u8> {
    let wrong = || Failure::unknown("sandbox", "it was not told where to go");
    let [word, pid, program, rest @ ..] = arguments else { return Err(wrong()) };
    let into = [Into::Copy, Into::CopyOnline, Into::Outside].into_iter().find(|into| into.word() == word.as_str());
    let into = into.ok_or_else(wrong)?;
    let own = own_file()?;
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
    let joined_user = spaces.iter().any(|(_, flag)| *flag == CloneFlags::CLONE_NEWUSER);
    let mut command =
        if into == Into::Outside || joined_user { Command::new(program) } else { without_powers(program, &own)? };
    command.args(rest);
    if into == Into::Outside {
        return Err(Failure::unknown(program.clone(), "cannot be started").why(command.exec()));
    }
    // Programs of the copy run as its root, too: they must have no terminal of the caller's to write to, or to type on.
    let _ = nix::unistd::setsid();
    // The working directory and the umask of the caller mean nothing in there.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    command.current_dir("/");
    let status = command
        .status()
        .map_err(|error| Failure::unknown(program.clone(), "cannot be started in the copy").why(error))?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
    Ok(u8::try_from(code).unwrap_or(255))
}

/// This program's own file.
///
/// # Errors
/// When it cannot be opened.
pub fn own_file() -> Result<File> {
    File::open("/proc/self/exe").map_err(|error| Failure::unknown("/proc/self/exe", "cannot be opened").why(error))
}

/// Powers over the machine's kernel, in the words of setpriv(1), that nothing in a copy without a user namespace keeps.
const POWERS: &str = "-sys_module,-sys_time,-sys_boot,-sys_rawio,-syslog,-mac_admin,-mac_override,-wake_alarm,\
                      -audit_control,-sys_tty_config,-mknod";

/// A command that runs `program` without [`POWERS`], by setpriv(1) of the same file tree.
///
/// `own` is this program's own file, which /proc/self/exe no longer is once setpriv runs.
///
/// # Errors
/// When `own` cannot be handed on.
pub fn without_powers(program: &str, own: &File) -> Result<Command> {
    let mut command = Command::new("/usr/bin/setpriv");
    command.arg(format!("--bounding-set={POWERS}")).arg("--");
    if program == "/proc/self/exe" {
        let number = nix::unistd::dup(own).map_err(os("no program"))?.into_raw_fd();
        command.arg(format!("/proc/self/fd/{number}"));
    } else {
        command.arg(program);
    }
    Ok(command)
}
