//! Puts this program on a host and starts it there as root. The host needs a shell, coreutils and, for a plain account,
//! sudo; no sftp, no writable or executable /tmp. What is executed is the open file whose hash was checked, in a directory
//! that only root can enter, so nobody on the host can put another program in its place (threat H7).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use blake2::{Blake2b256, Digest as _};

use super::link::Link;
use super::talk::{Conversation, Limits, Next};
use crate::error::{Failure, Result};
use crate::facts;
use crate::proof::wire::plain;
use crate::types::Secret;

/// Where agents are kept, by their hash.
pub const DIRECTORY: &str = facts::AGENTS;
/// The script that the host's shell runs as root; it reads its orders from standard input.
const SCRIPT: &str = include_str!("push.sh");
const PROMPT: &str = facts::SUDO_PROMPT;
/// Longest wait for one answer of the script.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// For PAM and sudo; a wrong password takes two seconds, a directory server more.
const SUDO_LIMIT: Duration = Duration::from_secs(60);
/// For sudo to end once it was told that no password comes.
const END_LIMIT: Duration = Duration::from_secs(10);
/// A whole upload, over a slow link.
const UPLOAD_LIMIT: Duration = Duration::from_secs(900);
/// In such pieces a program is read and sent.
const PIECE: usize = 256 << 10;
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

/// A program, read where it lies when a host needs it: many hosts may. Its BLAKE2b-256 in hex is asked for at each start and
/// counted once; by that sum, since the host's b2sum takes half the time of a sha256sum that knows no instruction for it.
#[derive(Debug)]
struct Program {
    file: File,
    size: u64,
    hash: String,
}

impl Program {
    fn of(file: File) -> std::io::Result<Self> {
        let (mut sum, mut size) = (Blake2b256::new(), 0);
        let mut buffer = vec![0; PIECE];
        loop {
            let read = file.read_at(&mut buffer, size)?;
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
            sum.update(piece);
            size += piece.len() as u64;
        }
        let hash = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { file, size, hash })
    }

    /// Hands all of it over in pieces. What has changed meanwhile does not have its hash, which the host counts.
    fn each_piece(&self, mut take: impl FnMut(Vec<u8>) -> Result<()>) -> Result<()> {
        let mut at = 0;
        while at < self.size {
            let left = usize::try_from(self.size - at).unwrap_or(PIECE);
            let mut piece = vec![0; left.min(PIECE)];
            let failed = |error| Failure::unknown("keyward", "its own program cannot be read").why(error);
            self.file.read_exact_at(&mut piece, at).map_err(failed)?;
            at += piece.len() as u64;
            take(piece)?;
        }
        Ok(())
    }
}

/// The programs that can be put on a host, by the name that `uname -m` gives its processor.
#[derive(Debug, Default)]
pub struct Programs(BTreeMap<String, Program>);

impl Programs {
    /// None at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the program for an architecture; this one's is `std::env::consts::ARCH`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn with(mut self, architecture: &str, program: File) -> std::io::Result<Self> {
        self.0.insert(architecture.to_owned(), Program::of(program)?);
        Ok(self)
    }
}

/// A program that runs on the host as root.
#[derive(Debug)]
pub struct Started {
    /// Its standard input and output.
    pub talk: Conversation,
    /// BLAKE2b-256 of it, in hex.
    pub hash: String,
    /// False when the host had it already.
    pub uploaded: bool,
    /// What `uname -m` says there.
    pub architecture: String,
}

/// Puts the right one of `programs` on the host, unless it is there, and starts it with `arguments`. `limits` are those of
/// the program's own output.
///
/// # Errors
/// When root cannot be had, there is no program for the architecture, or the host does not keep or run it; each says so.
pub fn start(link: &Link, root: &Become, programs: &Programs, arguments: &[&str], limits: Limits) -> Result<Started> {
    if let Some(bad) = arguments.iter().find(|word| word.chars().any(char::is_control)) {
        return Err(Failure::input(plain(bad), "an argument holds a control character")
            .hint("report this as a defect of keyward"));
    }
    let mut push = Push { link, talk: shell(link, root, limits)?, said: String::new() };
    let script = prepared(arguments, programs);
    push.send(format!("{}\n{script}", script.len()).into_bytes(), ANSWER_LIMIT)?;
    let architecture = push.word("arch")?;
    let program = programs.0.get(&architecture).ok_or_else(|| other_architecture(link, &architecture, programs))?;
    let uploaded = match push.word("file")?.as_str() {
        "have" => false,
        _ => {
            // Why it did not take them all is what it says, not that it stopped listening.
            let until = Instant::now().checked_add(UPLOAD_LIMIT);
            let left = || until.map_or(UPLOAD_LIMIT, |until| until.saturating_duration_since(Instant::now()));
            let sent = program.each_piece(|piece| push.send(piece, left()));
            push.word("file")
                .or_else(|failure| if push.said.is_empty() { sent.and(Err(failure)) } else { Err(failure) })?;
            true
        }
    };
    push.word("start")?;
    Ok(Started { talk: push.talk, hash: program.hash.clone(), uploaded, architecture })
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
        _ => Err(Failure::failed(link.place(), format!("{DIRECTORY} could not be removed"))
            .why(plain(&String::from_utf8_lossy(&talk.stderr())))),
    }
}

fn other_architecture(link: &Link, architecture: &str, programs: &Programs) -> Failure {
    let have: Vec<&str> = programs.0.keys().map(String::as_str).collect();
    Failure::refused(
        link.place(),
        format!("the host's processor is {}, and this program is for {}", plain(architecture), have.join(", ")),
    )
    .why("nothing was put on the host")
    .hint(format!("give one that was built for it: --agent-binary {}=PATH", plain(architecture)))
}

/// The script with its arguments set, and the programs to choose from. Its own shell reads it, so these quotes are
/// understood whatever the login shell is.
fn prepared(arguments: &[&str], programs: &Programs) -> String {
    let quoted = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
    let words: Vec<String> = arguments.iter().map(|word| quoted(word)).collect();
    let each = programs.0.iter().map(|(architecture, Program { size, hash, .. })| {
        format!("\"$1\" {} {hash} {size} && return\n", quoted(architecture))
    });
    format!("set -- {}\neach() {{\n{}return 1; }}\n{SCRIPT}", words.join(" "), each.collect::<String>())
}

/// One line for any login shell: no quote, line end, `!` or backslash within the quotes. It says that it is there before
/// anything is sent, so that a password that sudo did not want is never taken for a command.
const BOOT: &str = "sh -c 'PATH=/usr/sbin:/usr/bin:/sbin:/bin; LC_ALL=C; export PATH LC_ALL; umask 077; cd /; \
                    echo keyward-ready; read -r n; eval \"$(dd bs=\"$n\" count=1 iflag=fullblock 2>/dev/null)\"'";

/// A shell of root's that waits for its script.
fn shell(link: &Link, root: &Become, limits: Limits) -> Result<Conversation> {
    let stdout = limits.stdout.saturating_add(256 << 10);
    let limits = Limits { stdout, stderr: limits.stderr.max(16 << 10), ..limits };
    let mut talk = match root {
        Become::Already => link.start(BOOT, limits)?,
        // -k: a ticket of another session decides nothing here.
        Become::Sudo { .. } => link.start(&format!("sudo -k -S -p {PROMPT} {BOOT}"), limits)?,
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
            Next::Line(line) if line == "keyward-ready" => return Ok(talk),
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

/// The dialogue with the script.
struct Push<'a> {
    link: &'a Link,
    talk: Conversation,
    /// Its last refusal.
    said: String,
}

impl Push<'_> {
    fn send(&mut self, bytes: Vec<u8>, limit: Duration) -> Result<()> {
        self.talk.send(bytes, limit)
    }

    /// The word after `name`; a refusal of the script is a failure with its reason.
    fn word(&mut self, name: &str) -> Result<String> {
        let unclear = |why: &str| {
            Failure::unknown(self.link.place(), "the host does not answer as it should")
                .why(plain(why))
                .hint("look at the host by its console")
        };
        match self.talk.next_line(ANSWER_LIMIT)? {
            super::Heard::Line(line) => match line.split_once(' ') {
                Some((first, rest)) if first == name => Ok(rest.to_owned()),
                Some(("no", why)) => {
                    why.clone_into(&mut self.said);
                    let _ = self.talk.finish(ANSWER_LIMIT);
                    Err(self.refused(why))
                }
                _ => Err(unclear(&line)),
            },
            super::Heard::Silence => Err(unclear("nothing in time")),
            super::Heard::End => {
                let last = String::from_utf8_lossy(&self.talk.stderr()).into_owned();
                Err(unclear(last.lines().last().unwrap_or("it ended")))
            }
        }
    }

    fn refused(&self, why: &str) -> Failure {
        let stderr = self.talk.stderr();
        let stderr = String::from_utf8_lossy(&stderr);
        let last = plain(stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default());
        let (what, hint) = match why {
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
        };
        Failure::failed(self.link.place(), what).why(last).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_plain_to_every_shell() {
        let inner = BOOT.strip_prefix("sh -c '").and_then(|rest| rest.strip_suffix('\'')).unwrap();
        assert!(!inner.contains(['\'', '\n', '!', '\\']), "{inner}");
    }

    #[test]
    fn arguments_stay_words() {
        let script = prepared(&["a b", "it's", "$(id)", "", "-n", "`id`;", "\\"], &Programs::new());
        let line = format!("{}\nprintf '<%s>' \"$@\"", script.lines().next().unwrap());
        let output = std::process::Command::new("/bin/sh").args(["-c", &line]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "<a b><it's><$(id)><><-n><`id`;><\\>");
    }
}
