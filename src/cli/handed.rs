//! The far end of a host over SSH: the controller hands over what it has read of the playbook as the first line of
//! standard input, reads events from standard output, and answers questions by one line each.

use std::fs;
use std::io::{BufRead as _, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::error::{Failure, Result};
use crate::host::shelf::{Parents, private_dir};
use crate::outcome::Event;
use crate::report::Report;
use crate::resource::LoadedFile;
use crate::types::AbsPath;

use super::state;

/// Version of what is said over the connection.
pub const PROTOCOL: u32 = 1;
/// The hidden option.
pub const OPTION: &str = "--handed";
/// Its value: from standard input. Otherwise it is the name of a file in [`state::RUN`], which is removed once it was read.
pub const STDIN: &str = "-";
/// How files begin that hold what was handed over; the id of who wrote it follows.
const PREFIX: &str = "handed-";
/// Longest line that is read: a playbook has 1 MiB at most, and so has each file that it names.
const LONGEST: u64 = 32 << 20;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    /// [`PROTOCOL`] of whoever wrote it.
    pub protocol: u32,
    /// All that the playbook is made of.
    pub sources: Vec<LoadedFile>,
}

/// The line that this process was handed; a process is handed one.
static LINE: OnceLock<String> = OnceLock::new();

/// Takes what is handed over, and says hello.
///
/// # Errors
/// When it does not come, or is of another version.
pub fn take(from: &str) -> Result<Vec<LoadedFile>> {
    let broken = || Failure::unknown("controller", "did not say what to do");
    let mut line = String::new();
    if from == STDIN {
        sweep();
        let mut first = std::io::stdin().lock().take(LONGEST);
        first.read_line(&mut line).map_err(|error| broken().why(error))?;
    } else {
        // No other file is read, let alone removed, whoever may give words to keyward.
        let path = kept(owner(from).ok_or_else(broken)?);
        line = fs::read_to_string(&path).map_err(|error| broken().why(error))?;
        let _ = fs::remove_file(&path);
    }
    let order: Order = serde_json::from_str(&line).map_err(|error| broken().why(error))?;
    if order.protocol != PROTOCOL {
        return Err(Failure::input("controller", format!("speaks version {} of the protocol", order.protocol))
            .why(format!("this program speaks {PROTOCOL}"))
            .hint("use the same version of keyward on both sides"));
    }
    if from == STDIN {
        say(&Event::Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned() });
    }
    LINE.get_or_init(|| line);
    Ok(order.sources)
}

/// Removes what processes left that are no more: it holds the password hashes of their playbooks.
fn sweep() {
    for entry in fs::read_dir(state::RUN).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().and_then(owner).is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// No process takes this one's place: what was kept for it goes.
pub fn forget() {
    let _ = fs::remove_file(kept(std::process::id()));
}

/// Who wrote the file of this name.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

fn kept(pid: u32) -> String {
    format!("{}/{PREFIX}{pid}", state::RUN)
}

/// True in a process that a controller listens to.
pub fn is_far() -> bool {
    LINE.get().is_some()
}

/// An event for the controller, or for whoever else reads JSON lines.
pub fn say(event: &Event) {
    super::terminal::result(&Report::Json.event(event).1);
}

/// Asks the controller; empty when nobody answers.
pub fn ask(question: &str) -> String {
    say(&Event::Asked { question: question.to_owned() });
    let mut line = String::new();
    let _ = std::io::stdin().lock().take(64).read_line(&mut line);
    line.trim().to_owned()
}

/// The words of this command line for a process that takes this one's place: what was handed over goes with it.
///
/// # Errors
/// When it cannot be kept meanwhile.
pub fn words() -> Result<Vec<std::ffi::OsString>> {
    let mut words: Vec<_> = std::env::args_os().skip(1).collect();
    let Some(line) = LINE.get() else { return Ok(words) };
    let pid = std::process::id();
    let path = kept(pid);
    let failed = |error: std::io::Error| Failure::refused(&path, "cannot be written").why(error);
    private_dir(&AbsPath::fixed(state::RUN), Parents::RootAlone)?;
    let _ = fs::remove_file(&path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    file.write_all(line.as_bytes()).map_err(failed)?;
    let at = words.iter().position(|word| word == OPTION);
    if let Some(value) = at.and_then(|at| words.get_mut(at + 1)) {
        *value = format!("{PREFIX}{pid}").into();
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_file_is_taken_for_what_was_handed_over() {
        let other = std::env::temp_dir().join(format!("keyward-handed-{}", std::process::id()));
        std::fs::write(&other, "{\"protocol\":1,\"sources\":[]}").unwrap();
        let path = other.to_str().unwrap();
        let up = format!("../..{path}");
        for from in [path, up.as_str(), "", "handed-", "handed-x", "handed-1/../../../etc/passwd"] {
            assert!(take(from).is_err(), "{from}");
        }
        assert!(other.exists(), "it was removed");
        std::fs::remove_file(other).unwrap();
    }
}
