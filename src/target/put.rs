//! Programs that can be put where they are to run, and the dialogue with the script there that takes one and becomes it.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use blake2::{Blake2b256, Digest as _};

use super::talk::{Heard, Talk};
use crate::error::{Failure, Result};
use crate::proof::wire::plain;

/// Longest wait for one answer of the script.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// A whole upload, over a slow link.
const UPLOAD_LIMIT: Duration = Duration::from_secs(900);
/// In such pieces a program is read and sent.
const PIECE: usize = 256 << 10;

/// What a shell there is given to run, between single quotes: no quote, line end, `!` or backslash is in it. It says that it
/// is there before anything is sent, and reads its script from standard input.
pub const BOOT: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin; LC_ALL=C; export PATH LC_ALL; umask 077; cd /; \
                        echo keyward-ready; read -r n; eval \"$(dd bs=\"$n\" count=1 iflag=fullblock 2>/dev/null)\"";
/// What it says.
pub const READY: &str = "keyward-ready";

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

/// A program that was put somewhere and has started there.
#[derive(Debug)]
pub struct Put {
    /// BLAKE2b-256 of it, in hex.
    pub hash: String,
    /// False when it was there already.
    pub uploaded: bool,
    /// What `uname -m` says there.
    pub architecture: String,
}

/// What a reason of the script means: what happened, and the fix.
pub type Reasons = fn(&str) -> (&'static str, &'static str);

/// A script with its arguments set, and the programs to choose from. It says one line for each step: `arch MACHINE`; `file
/// have` or `file need`, then reads the program and says `file got`; `start now`; or `no REASON`. Its own shell reads it, so
/// the quotes are understood whatever the login shell is.
///
/// # Errors
/// When an argument cannot be one.
pub fn prepared(script: &str, arguments: &[&str], programs: &Programs) -> Result<String> {
    if let Some(bad) = arguments.iter().find(|word| word.chars().any(char::is_control)) {
        return Err(Failure::input(plain(bad), "an argument holds a control character")
            .hint("report this as a defect of keyward"));
    }
    let quoted = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
    let words: Vec<String> = arguments.iter().map(|word| quoted(word)).collect();
    let each = programs.0.iter().map(|(architecture, Program { size, hash, .. })| {
        format!("\"$1\" {} {hash} {size} && return\n", quoted(architecture))
    });
    Ok(format!("set -- {}\neach() {{\n{}return 1; }}\n{script}", words.join(" "), each.collect::<String>()))
}

/// Gives a shell that is ready its [`prepared`] script, and the program that it asks for.
///
/// # Errors
/// When there is no program for the architecture, or it is not kept or run there; each says so.
pub fn put(talk: &mut dyn Talk, place: &str, script: &str, programs: &Programs, reasons: Reasons) -> Result<Put> {
    let mut dialogue = Dialogue { talk, place, reasons, said: String::new() };
    dialogue.send(format!("{}\n{script}", script.len()).into_bytes(), ANSWER_LIMIT)?;
    let architecture = dialogue.word("arch")?;
    let program = programs.0.get(&architecture).ok_or_else(|| other_architecture(place, &architecture, programs))?;
    let uploaded = match dialogue.word("file")?.as_str() {
        "have" => false,
        _ => {
            // Why it did not take them all is what it says, not that it stopped listening.
            let until = Instant::now().checked_add(UPLOAD_LIMIT);
            let left = || until.map_or(UPLOAD_LIMIT, |until| until.saturating_duration_since(Instant::now()));
            let sent = program.each_piece(|piece| dialogue.send(piece, left()));
            dialogue
                .word("file")
                .or_else(|failure| if dialogue.said.is_empty() { sent.and(Err(failure)) } else { Err(failure) })?;
            true
        }
    };
    dialogue.word("start")?;
    Ok(Put { hash: program.hash.clone(), uploaded, architecture })
}

fn other_architecture(place: &str, architecture: &str, programs: &Programs) -> Failure {
    let have: Vec<&str> = programs.0.keys().map(String::as_str).collect();
    Failure::refused(
        place,
        format!("the host's processor is {}, and this program is for {}", plain(architecture), have.join(", ")),
    )
    .why("nothing was put on the host")
    .hint(format!("give one that was built for it: --agent-binary {}=PATH", plain(architecture)))
}

/// The dialogue with the script.
struct Dialogue<'a> {
    talk: &'a mut dyn Talk,
    place: &'a str,
    reasons: Reasons,
    /// Its last refusal.
    said: String,
}

impl Dialogue<'_> {
    fn send(&mut self, bytes: Vec<u8>, limit: Duration) -> Result<()> {
        self.talk.send(bytes, limit)
    }

    /// The word after `name`; a refusal of the script is a failure with its reason.
    fn word(&mut self, name: &str) -> Result<String> {
        let unclear = |why: &str| {
            Failure::unknown(self.place, "the host does not answer as it should")
                .why(plain(why))
                .hint("look at the host by its console")
        };
        match self.talk.next_line(ANSWER_LIMIT)? {
            Heard::Line(line) => match line.split_once(' ') {
                Some((first, rest)) if first == name => Ok(rest.to_owned()),
                Some(("no", why)) => {
                    why.clone_into(&mut self.said);
                    let _ = self.talk.finish(ANSWER_LIMIT);
                    let (what, hint) = (self.reasons)(why);
                    Err(Failure::failed(self.place, what).why(last_words(&self.talk.stderr())).hint(hint))
                }
                _ => Err(unclear(&line)),
            },
            Heard::Silence => Err(unclear("nothing in time")),
            Heard::End => match last_words(&self.talk.stderr()) {
                last if last.is_empty() => Err(unclear("it ended")),
                last => Err(unclear(&last)),
            },
        }
    }
}

/// The last line that is not empty.
pub fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    plain(text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_plain_to_every_shell() {
        assert!(!BOOT.contains(['\'', '\n', '!', '\\']), "{BOOT}");
    }

    #[test]
    fn arguments_stay_words() {
        let script = prepared("", &["a b", "it's", "$(id)", "", "-n", "`id`;", "\\"], &Programs::new()).unwrap();
        let line = format!("{}\nprintf '<%s>' \"$@\"", script.lines().next().unwrap());
        let output = std::process::Command::new("/bin/sh").args(["-c", &line]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "<a b><it's><$(id)><><-n><`id`;><\\>");
        assert!(prepared("", &["a\nb"], &Programs::new()).is_err());
    }
}
