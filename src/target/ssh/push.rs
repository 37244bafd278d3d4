//! Puts this program on a host and starts it there as root. The host needs a shell, coreutils and, for a plain account,
//! sudo; no sftp, no writable or executable /tmp. What is executed is the open file whose hash was checked, in a directory
//! that only root can enter, so nobody on the host can put another program in its place (threat H7).

use std::time::{Duration, Instant};

use super::link::Link;
use super::talk::{Conversation, Next};
use crate::error::{Failure, Result};
use crate::facts;
use crate::proof::wire::plain;
use crate::target::put::{self, ANSWER_LIMIT, BOOT, Programs, Put, READY, last_words};
use crate::target::talk::{Limits, Talk as _};
use crate::types::Secret;

/// Where agents are kept, by their hash.
pub const DIRECTORY: &str = facts::AGENTS;
/// The script that the host's shell runs as root; it reads its orders from standard input.
const SCRIPT: &str = include_str!("push.sh");
const PROMPT: &str = facts::SUDO_PROMPT;
/// For PAM and sudo; a wrong password takes two seconds, a directory server more.
const SUDO_LIMIT: Duration = Duration::from_secs(60);
/// For sudo to end once it was told that no password comes.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Most lines that a login shell's start-up files may print before the script speaks.
const NOISE: usize = 200;

/// How to become root on the host.
#[derive(Debug, Clone)]
pub enum Become {
    /// The account that logged in is root.
    Already,
    /// By sudo. The password is sent only when sudo asks for it, and once.
    Sudo {
        /// The account's password; `None`: sudo must not ask for one.
        password: Option<Secret<String>>,
    },
}

/// A program that runs on the host as root.
#[derive(Debug)]
pub struct Started {
    /// Its standard input and output.
    pub talk: Conversation,
    /// What was put there.
    pub put: Put,
}

/// Puts the right one of `programs` on the host, unless it is there, and starts it with `arguments`. `limits` are those of
/// the program's own output.
///
/// # Errors
/// When root cannot be had, there is no program for the architecture, or the host does not keep or run it; each says so.
pub fn start(link: &Link, root: &Become, programs: &Programs, arguments: &[&str], limits: Limits) -> Result<Started> {
    let script = put::prepared(SCRIPT, arguments, programs)?;
    let mut talk = shell(link, root, limits)?;
    let put = put::put(&mut talk, link.place(), &script, programs, reason)?;
    Ok(Started { talk, put })
}

/// Shows that root can be had, with nothing but a shell of root's.
///
/// # Errors
/// When it cannot.
pub fn root(link: &Link, root: &Become) -> Result<()> {
    let script = "[ \"$(id -u)\" = 0 ]\n";
    let mut talk = shell(link, root, Limits::default())?;
    talk.send(format!("{}\n{script}", script.len()).into_bytes(), ANSWER_LIMIT)?;
    match talk.finish(ANSWER_LIMIT)? {
        0 => Ok(()),
        _ => Err(Failure::failed(link.place(), "the shell there is not root's")),
    }
}

/// Takes the programs off the host again; one that runs goes on.
///
/// # Errors
/// When root cannot be had, or they stay.
pub fn remove(link: &Link, root: &Become) -> Result<()> {
    let mut talk = shell(link, root, Limits::default())?;
    let script = format!("rm -rf {DIRECTORY}\n");
    talk.send(format!("{}\n{script}", script.len()).into_bytes(), ANSWER_LIMIT)?;
    match talk.finish(ANSWER_LIMIT)? {
        0 => Ok(()),
        _ => {
            Err(Failure::failed(link.place(), format!("{DIRECTORY} could not be removed"))
                .why(last_words(&talk.stderr())))
        }
    }
}

/// A shell of root's that waits for its script.
fn shell(link: &Link, root: &Become, limits: Limits) -> Result<Conversation> {
    let stdout = limits.stdout.saturating_add(256 << 10);
    let limits = Limits { stdout, stderr: limits.stderr.max(16 << 10), ..limits };
    // One line for any login shell.
    let boot = format!("sh -c '{BOOT}'");
    let mut talk = match root {
        Become::Already => link.start(&boot, limits)?,
        // -k: a ticket of another session decides nothing here. A password that sudo did not want is never taken for a
        // command, since nothing is sent before the shell says that it is there.
        Become::Sudo { .. } => link.start(&format!("sudo -k -S -p {PROMPT} {boot}"), limits)?,
    };
    let mut password = match root {
        Become::Already => None,
        Become::Sudo { password } => password.as_ref(),
    };
    let until = Instant::now().checked_add(SUDO_LIMIT);
    let (mut noise, mut sent) = (Vec::new(), false);
    loop {
        let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        match talk.next(left) {
            Next::Line(line) if line == READY => return Ok(talk),
            Next::Line(line) => {
                noise.push(plain(&line));
                if noise.len() > NOISE {
                    return Err(elsewhere(link, &noise, ""));
                }
            }
            Next::Stderr => {
                let asked = String::from_utf8_lossy(&talk.stderr()).matches(PROMPT).count();
                if asked > usize::from(sent) {
                    let Some(password) = password.take() else {
                        // Sudo must not wait for what never comes, and must not ask a third time.
                        talk.close_stdin();
                        let _ = talk.finish(END_LIMIT);
                        return Err(no_password(link, sent));
                    };
                    talk.send_line(password.reveal(), ANSWER_LIMIT)?;
                    sent = true;
                }
            }
            Next::Silence => {
                return Err(Failure::unknown(link.place(), "no shell of root's in time")
                    .hint("does sudo hang? Try it by hand: sudo -k true"));
            }
            Next::End => {
                let code = talk.finish(ANSWER_LIMIT)?;
                return Err(no_shell(link, root, code, &noise, &String::from_utf8_lossy(&talk.stderr())));
            }
        }
    }
}

/// What is said when sudo asks and there is no answer.
const NONE_GIVEN: &str = "sudo asks for a password, and none was given";

/// True for the failure of a sudo that asks although no password was given.
pub fn wants_password(failure: &Failure) -> bool {
    failure.what.starts_with(NONE_GIVEN)
}

fn no_password(link: &Link, sent: bool) -> Failure {
    let what = if sent { "sudo does not take the password" } else { NONE_GIVEN };
    Failure::refused(link.place(), format!("{what} of {}", link.user()))
        .hint("give it: --sudo-password ask (or env:NAME, file:PATH ...); or a sudo rule with NOPASSWD")
}

/// Why there was no shell.
fn no_shell(link: &Link, root: &Become, code: u32, noise: &[String], stderr: &str) -> Failure {
    let last = stderr.replace(PROMPT, " ");
    let last = plain(last.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default());
    let sudo = matches!(root, Become::Sudo { .. });
    let lower = stderr.to_lowercase();
    if lower.contains("password change required") || lower.contains("password has expired") {
        return Failure::refused(
            link.place(),
            format!("the password of {} has expired, so no command runs", link.user()),
        )
        .why(last)
        .hint("log in once by hand with a terminal and set a new one");
    }
    if sudo && code == 127 {
        return Failure::refused(link.place(), "there is no sudo on the host")
            .why(last)
            .hint("log in as root, or install it: apt-get install sudo");
    }
    if sudo && lower.contains("sudo") {
        return Failure::refused(link.place(), format!("{} cannot become root by sudo", link.user()))
            .why(last)
            .hint("log in as an account that may, or as root");
    }
    elsewhere(link, noise, &last)
}

fn elsewhere(link: &Link, noise: &[String], stderr: &str) -> Failure {
    let said = noise.last().filter(|line| !line.is_empty()).cloned().unwrap_or_else(|| stderr.to_owned());
    Failure::refused(link.place(), "the server runs something else than it was asked to")
        .why(if said.is_empty() { "it says nothing".to_owned() } else { format!("it says: {said}") })
        .hint("see ForceCommand in its sshd_config, command= of the key, and the login shell of the account")
}

/// What a reason of the script means.
fn reason(why: &str) -> (&'static str, &'static str) {
    match why {
        "root" => ("the shell there is not root's", "log in as root, or become root by sudo"),
        "directory" => (
            "its directory /var/lib/keyward-agent is not root's own, or a link",
            "look at it: ls -ld /var/lib/keyward-agent; move it away",
        ),
        "space" => ("the program could not be written: the disk is full", "df -h /var/lib; df -i /var/lib"),
        "write" => ("the program could not be written", "ls -ld /var/lib/keyward-agent; df -h /var/lib"),
        "short" | "hash" => ("the program did not arrive whole", "try again"),
        "tools" => ("b2sum, stat or uname is missing", "apt-get install coreutils"),
        "proc" => ("/proc is not mounted on the host", "mount -t proc proc /proc"),
        "exec" => (
            "the program cannot be executed where it was put",
            "is /var/lib mounted noexec? findmnt -T /var/lib/keyward-agent",
        ),
        _ => ("the host refuses", "look at the host by its console"),
    }
}
