//! A container, or one made of an image, by the command line of docker or podman. It is named once and goes by its full id
//! from then on; this program gets in through the standard input of `exec`, never by `cp` (threats I1, I3). Whatever runs in
//! there is hostile: what it says is counted, cut, and heeded elsewhere.

use std::process::Command;
use std::time::Duration;

use super::exec::Exec;
use super::put::{self, BOOT, Programs, READY, last_words};
use super::talk::{Heard, Limits, Talk as _};
use crate::error::{Failure, Kind, Result};
use crate::host::{self, Output, Probe};
use crate::proof::wire::plain;

/// The script that takes the program.
const SCRIPT: &str = include_str!("put.sh");
/// For an answer of the engine; a busy daemon may take seconds to start a container.
const ENGINE_LIMIT_MS: u64 = 60_000;
/// For a shell to start in a container.
const SHELL_LIMIT: Duration = Duration::from_secs(30);
/// How long a container of ours stays when nobody is left to remove it, in seconds.
const LIFE: u32 = 900;
/// How a container of an image is started: nothing of its own runs, nothing is written or kept, nobody is reached. sshd says
/// nothing about its configuration without its directory, which an init script makes.
const RUN: [&str; 22] = [
    "run",
    "--detach",
    "--rm",
    "--pull",
    "never",
    "--network",
    "none",
    "--log-driver",
    "none",
    "--no-healthcheck",
    "--read-only",
    "--tmpfs",
    "/run:exec,mode=0755,size=256m",
    "--tmpfs",
    "/run/sshd:mode=0755,size=64k",
    "--tmpfs",
    "/tmp:size=64m",
    "--user",
    "0:0",
    "--pids-limit=512",
    "--memory=1g",
    "--security-opt=no-new-privileges",
];
/// How the commands of the engine's that this side depends on end when they cannot run the program.
const CANNOT_RUN: [u32; 2] = [126, 127];

/// Who runs containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// docker(1)
    Docker,
    /// podman(1)
    Podman,
}

impl Engine {
    /// Its command.
    pub const fn command(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    /// The program, as the user's shell finds it.
    fn program(self) -> Result<String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let found = path.split(':').filter(|dir| dir.starts_with('/')).map(|dir| format!("{dir}/{}", self.command()));
        found.into_iter().find(|file| std::path::Path::new(file).is_file()).ok_or_else(|| {
            Failure::unknown(self.command(), "is not installed").hint(format!("which {}", self.command()))
        })
    }

    /// Asks it, with the user's own settings for it (DOCKER_HOST and the like).
    fn ask(self, probe: &dyn Probe, words: &[&str]) -> Result<Output> {
        let program = self.program()?;
        let mut question = host::Command::new(std::iter::once(program.as_str()).chain(words.iter().copied()));
        question.env = std::env::vars().collect();
        question.deadline_ms = ENGINE_LIMIT_MS;
        probe.ask(&question)
    }
}

/// A container, or an image, as it was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// One that runs.
    Container {
        /// By whom.
        engine: Engine,
        /// Its name or id.
        name: String,
    },
    /// One to be made of an image.
    Image {
        /// Its name, with a tag or a digest, or its id.
        reference: String,
    },
}

impl Named {
    /// `docker:NAME`, `podman:NAME` or `image:REF`; `None` for all else, and for a name that none of them has.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(':')?;
        let begins = |c: char| c.is_ascii_alphanumeric();
        let plain = |more: &str| {
            name.len() <= 300 && name.starts_with(begins) && name.chars().all(|c| begins(c) || more.contains(c))
        };
        let container = |engine| plain("_.-").then(|| Self::Container { engine, name: name.to_owned() });
        match kind {
            "docker" => container(Engine::Docker),
            "podman" => container(Engine::Podman),
            "image" => plain("_.-/:@").then(|| Self::Image { reference: name.to_owned() }),
            _ => None,
        }
    }
}

/// A container that runs.
#[derive(Debug)]
pub struct Container {
    engine: Engine,
    /// 64 hexadecimal digits.
    id: String,
    /// As it was named, for messages.
    place: String,
    /// Made for this, and removed with this value.
    own: bool,
}

impl Container {
    /// Finds the container, or makes one of the image.
    ///
    /// # Errors
    /// When there is none, it does not run, or the engine does not say.
    pub fn open(named: &Named, probe: &dyn Probe) -> Result<Self> {
        match named {
            Named::Container { engine, name } => Self::named(*engine, name, probe),
            Named::Image { reference } => {
                let engine = if Engine::Docker.program().is_ok() { Engine::Docker } else { Engine::Podman };
                Self::of_image(engine, reference, probe)
            }
        }
    }

    fn named(engine: Engine, name: &str, probe: &dyn Probe) -> Result<Self> {
        let place = format!("{}:{name}", engine.command());
        let format = "{{.Id}} {{.State.Status}}";
        let said = engine.ask(probe, &["container", "inspect", "--format", format, "--", name])?;
        if !said.ok() {
            return Err(Failure::input(place, "there is no such container, or the engine does not tell")
                .why(last_words(said.stderr.as_bytes()))
                .hint(format!("{} ps", engine.command())));
        }
        let (id, state) = said.stdout.trim().split_once(' ').unwrap_or_default();
        let id = full_id(id).ok_or_else(|| strange(&place, &said.stdout))?;
        if state != "running" {
            return Err(Failure::refused(place, format!("the container does not run: it is {}", plain(state)))
                .hint(format!("{} start {name}", engine.command())));
        }
        Ok(Self { engine, id, place, own: false })
    }

    /// A container of an image that is here already: without network and without any more rights than others have, and its
    /// own program not started. It is removed with this value, and by itself after a while.
    fn of_image(engine: Engine, reference: &str, probe: &dyn Probe) -> Result<Self> {
        let place = format!("image:{reference}");
        let said = engine.ask(probe, &["image", "inspect", "--format", "{{.Id}}", "--", reference])?;
        if !said.ok() {
            return Err(Failure::input(place, "there is no such image here, or the engine does not tell")
                .why(last_words(said.stderr.as_bytes()))
                .hint(format!("{} pull {reference}", engine.command())));
        }
        let told = said.stdout.trim();
        let image = full_id(told.strip_prefix("sha256:").unwrap_or(told)).ok_or_else(|| strange(&place, told))?;
        let life = format!("sleep {LIFE}");
        // By a name it can be removed even when the engine took too long to tell its id.
        let name = format!("keyward-look-{}-{}", std::process::id(), jiff::Timestamp::now().as_nanosecond());
        let words = [&RUN[..], &["--name", &name, "--entrypoint", "/bin/sh", "--", &image, "-c", &life]].concat();
        let started = engine.ask(probe, &words);
        let made = match &started {
            Ok(said) if said.ok() => full_id(said.stdout.trim()),
            _ => None,
        };
        if let Some(id) = made {
            return Ok(Self { engine, id, place, own: true });
        }
        let _ = engine.ask(probe, &["rm", "--force", "--volumes", "--", &name]);
        let said = started?;
        Err(Failure::unknown(place, "nothing in it can be executed, so it cannot be looked at")
            .why(last_words(said.stderr.as_bytes()))
            .hint("an image without a shell cannot be judged from inside; judge its tree: --target rootfs:DIR"))
    }

    /// As it was named: `docker:NAME`, `podman:NAME` or `image:REF`.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Puts the right one of `programs` into it and starts it there as root with `arguments`.
    ///
    /// # Errors
    /// Unknown where nothing in there can be executed.
    pub fn start(&self, programs: &Programs, arguments: &[&str], limits: Limits) -> Result<Exec> {
        let script = put::prepared(SCRIPT, arguments, programs)?;
        let mut talk = self.shell(limits)?;
        // A container that takes no program has not been looked at.
        let unknown = |failure: Failure| match failure.kind {
            Kind::Failed => Failure { kind: Kind::Unknown, ..failure },
            _ => failure,
        };
        put::put(&mut talk, &self.place, &script, programs, reason).map_err(unknown)?;
        Ok(talk)
    }

    fn shell(&self, limits: Limits) -> Result<Exec> {
        let mut command = Command::new(self.engine.program()?);
        command.args(["exec", "--interactive", "--user", "0:0", &self.id, "/bin/sh", "-c", BOOT]);
        let mut talk = Exec::start(command, &self.place, limits)?;
        let said = match talk.next_line(SHELL_LIMIT)? {
            Heard::Line(line) if line == READY => return Ok(talk),
            // The engine tells on standard output what it could not start.
            Heard::Line(line) => plain(&line),
            Heard::Silence | Heard::End => last_words(&talk.stderr()),
        };
        if talk.code().is_some_and(|code| CANNOT_RUN.contains(&code)) {
            return Err(Failure::unknown(&self.place, "nothing in it can be executed, so it cannot be looked at")
                .why(said)
                .hint("a container without a shell cannot be judged from inside"));
        }
        Err(Failure::unknown(&self.place, "no shell starts in it").why(said).hint(format!(
            "try it: {} exec {} /bin/sh -c id",
            self.engine.command(),
            self.id
        )))
    }

    fn remove(&self) -> Result<()> {
        let probe = host::real::RealHost::new();
        let said = self.engine.ask(&probe, &["rm", "--force", "--volumes", &self.id])?;
        if said.ok() {
            return Ok(());
        }
        Err(Failure::failed(&self.place, "the container that was made for it stays")
            .why(last_words(said.stderr.as_bytes()))
            .hint(format!("{} rm --force {}", self.engine.command(), self.id)))
    }

    /// Ends it where it was made for this.
    ///
    /// # Errors
    /// When it stays; it then ends by itself after a while.
    pub fn close(mut self) -> Result<()> {
        if std::mem::take(&mut self.own) { self.remove() } else { Ok(()) }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.own {
            let _ = self.remove();
        }
    }
}

fn full_id(text: &str) -> Option<String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    (text.len() == 64 && digits).then(|| text.to_owned())
}

fn strange(place: &str, said: &str) -> Failure {
    Failure::unknown(place, "the engine names no id")
        .why(plain(said.lines().next().unwrap_or_default()))
        .hint("is it docker or podman that answers?")
}

/// What a reason of the script means.
fn reason(why: &str) -> (&'static str, &'static str) {
    match why {
        "root" => ("its exec does not give root", "is it a rootless container with another user map?"),
        "tools" => ("uname, mktemp, head, stat, chmod or rm is missing in it", "install coreutils in it"),
        "proc" => ("/proc is not mounted in it", "start it with /proc"),
        "nowhere" => (
            "no directory in it can be written and executed from",
            "give it one: --tmpfs /run:exec, or judge the image that it is of",
        ),
        "write" | "short" => ("the program could not be written in it", "is its disk full? df -h"),
        "exec" => ("the program cannot be executed in it", "is it of the same architecture?"),
        _ => ("the container refuses", "look at it by its console"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_an_option_or_a_path_of_this_side() {
        for good in ["docker:web", "podman:a_b.c-1", "image:debian", "image:registry:5000/a/b@sha256:00", "docker:0aF"]
        {
            assert!(Named::parse(good).is_some(), "{good}");
        }
        for bad in
            ["docker:", "docker:-v", "docker:/etc", "docker:a b", "docker:a/b", "image:--rm", "image:", "image:../x"]
        {
            assert!(Named::parse(bad).is_none(), "{bad}");
        }
        assert!(full_id(&"0a".repeat(32)).is_some());
        assert!(full_id(&"0A".repeat(32)).is_none() && full_id("0a").is_none());
    }
}
