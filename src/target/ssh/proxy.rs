//! ProxyCommand: a program of the user's whose standard input and output are the connection, started as ssh starts it.
//! What is put into its command line has passed the rules of [`super::address`], which leave a shell nothing to expand.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::config::Settings;
use super::trouble::{Outcome, Setback, Trouble};

/// The command line for `settings`: `%h`, `%p`, `%r`, `%n` and `%%`.
fn expand(command: &str, settings: &Settings) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('%') => out.push('%'),
            Some('h') => out.push_str(&settings.host),
            Some('n') => out.push_str(&settings.typed),
            Some('p') => out.push_str(&settings.port.to_string()),
            Some('r') => out.push_str(&settings.user),
            Some(other) => return Err(format!("%{other} is not known here")),
            None => return Err("it ends with %".to_owned()),
        }
    }
    Ok(out)
}

/// The program while it runs; it and what it started are killed with this value.
#[derive(Debug)]
pub(super) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(group) = i32::try_from(self.0.id()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = self.0.wait();
    }
}

/// Starts it; the stream is the other end of its standard input and output.
///
/// # Errors
/// When it cannot be started.
pub(super) fn start(command: &str, settings: &Settings, place: &str) -> Outcome<(tokio::net::UnixStream, Running)> {
    let cannot = |why: String| {
        Setback::new(Trouble::Proxy, place, "the ProxyCommand cannot be started").why(why).hint("see ~/.ssh/config")
    };
    let line = expand(command, settings).map_err(cannot)?;
    let io = |error: std::io::Error| cannot(error.to_string());
    let (ours, theirs) = UnixStream::pair().map_err(io)?;
    ours.set_nonblocking(true).map_err(io)?;
    let input = theirs.try_clone().map_err(io)?;
    // Of its own process group: Ctrl-C is for keyward, which then ends it.
    let child = Command::new("/bin/sh")
        .args(["-c", &format!("exec {line}")])
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(input)))
        .stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map(Running)
        .map_err(io)?;
    let stream = tokio::net::UnixStream::from_std(ours).map_err(io)?;
    Ok((stream, child))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::ssh::{Around, Destination};

    #[test]
    fn tokens() {
        let around =
            Around { home: "/".into(), user: "me".into(), agent: None, client: None, own_account: false, config: None };
        let settings = Settings::plain(&Destination::parse("root@web:24").unwrap(), &around);
        assert_eq!(expand("nc %h %p # %r %n 100%%", &settings).unwrap(), "nc web 24 # root web 100%");
        assert!(expand("nc %C", &settings).is_err() && expand("nc %", &settings).is_err());
    }
}
