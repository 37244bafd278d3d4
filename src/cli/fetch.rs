//! Fetches the packages that a rehearsal will need into the copy, while it still has the machine's network. Installs
//! nothing: that is the rehearsal's own first stage.

use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use crate::change::Note;
use crate::error::{Failure, Result};
use crate::host::real::RealHost;
use crate::host::{Command, Host as _};
use crate::target::sandbox::Sandbox;
use crate::types::AbsPath;

/// The hidden verb that runs in the copy.
pub const ARG: &str = "__fetch";

const APT: &str = "/usr/bin/apt-get";
/// One call of apt-get takes no longer.
const LONGEST: Duration = Duration::from_secs(600);

/// Downloads those of `needed` that the copied host does not have.
///
/// # Errors
/// When the copy cannot be booted for it. An archive that does not answer is a note: the rehearsal then says what lacks.
pub fn packages(needed: &[&str], root: &AbsPath, sandbox: &mut Sandbox) -> Result<Option<Note>> {
    let status = std::fs::read_to_string(root.as_path().join("var/lib/dpkg/status"))
        .map_err(|error| Failure::unknown(format!("{root}/var/lib/dpkg/status"), "cannot be read").why(error))?;
    let missing: Vec<&str> = needed.iter().filter(|name| !is_installed(&status, name)).copied().collect();
    if missing.is_empty() {
        return Ok(None);
    }
    let (code, said) = sandbox.fetch("/proc/self/exe", |command| {
        command.arg(ARG).args(&missing).stdin(Stdio::null()).stdout(Stdio::null());
    })?;
    let list = missing.join(", ");
    let why = said.lines().rev().find(|line| !line.trim().is_empty()).map(|line| format!(": {}", short(line)));
    Ok(Some(if code.success() {
        Note::info("copy", format!("fetched into the copy: {list}"))
    } else {
        Note::warning("copy", format!("could not be fetched into the copy: {list}{}", why.unwrap_or_default()))
    }))
}

/// As much of apt's last words as a note can hold.
fn short(line: &str) -> String {
    line.trim().chars().take(200).collect()
}

/// dpkg's own word (dpkg-query(1), the status file): `Status: install ok installed`, or on hold.
fn is_installed(status: &str, name: &str) -> bool {
    status.split("\n\n").any(|entry| {
        let mut lines = entry.lines();
        lines.next().is_some_and(|line| line.strip_prefix("Package: ") == Some(name))
            && lines.any(|line| line.starts_with("Status: ") && line.ends_with(" ok installed"))
    })
}

/// The hidden verb: the archive's lists when there are none, then the packages with what they depend on.
pub fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(2).collect();
    let host = RealHost::new();
    let apt = |words: &[&str], names: &[String]| {
        let fixed = [APT, "-qq", "-o", "Acquire::Retries=2", "-o", "Acquire::http::Timeout=20"];
        let words = fixed.iter().chain(words).map(|word| (*word).to_owned());
        let command = Command::new(words.chain(names.iter().cloned()));
        // It downloads, and nothing else: an archive that trickles may be given up.
        let output = host.run(&command.env("DEBIAN_FRONTEND", "noninteractive").deadline(LONGEST));
        match output {
            Ok(output) if output.ok() => Ok(()),
            Ok(output) => Err(output.last_line()),
            Err(failure) => Err(failure.line()),
        }
    };
    let download = ["install", "--download-only", "--no-install-recommends", "--yes"];
    let with_lists = || apt(&["update"], &[]).and_then(|()| apt(&download, &names));
    let fetched = if has_lists() { apt(&download, &names).or_else(|_| with_lists()) } else { with_lists() };
    match fetched {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "{}", short(&why));
            ExitCode::FAILURE
        }
    }
}

fn has_lists() -> bool {
    let names = std::fs::read_dir(Path::new("/var/lib/apt/lists"));
    names.is_ok_and(|names| {
        names.flatten().any(|entry| {
            entry.file_name().to_string_lossy().ends_with("Packages")
                || entry.file_name().to_string_lossy().contains("_Packages.")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::is_installed;

    #[test]
    fn only_what_dpkg_calls_installed() {
        let status = "Package: ufw\nStatus: deinstall ok config-files\n\nPackage: sudo\nStatus: install ok installed\n\n\
                      Package: sudo-ldap\nStatus: hold ok installed\n";
        assert!(is_installed(status, "sudo") && is_installed(status, "sudo-ldap"));
        assert!(!is_installed(status, "ufw") && !is_installed(status, "su") && !is_installed("", "sudo"));
    }
}
