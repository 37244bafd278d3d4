//! Work in the name of a user: this program again, as a child that has become that user, asked over a pipe.
//!
//! root never touches what a user rules: whatever the user does to its own directories meanwhile, the child can reach
//! nothing that the user could not. The child follows no link either, so that it cannot be led out of the home.

use std::io::{BufRead, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Gid, Uid, getresgid, getresuid, setgroups, setresgid, setresuid, setsid};
use serde::{Deserialize, Serialize};

use super::act::{self, Done, Work};
use super::{tree, walk};
use crate::error::{Failure, Result};
use crate::formats::accounts::Records;
use crate::host::rules::{self, Who};
use crate::types::{AbsPath, UserName};

/// The hidden first argument that makes this program the child.
pub const AS_USER_ARG: &str = "__as-user";
/// A user can stop its own processes and hang its own file systems; after this long the child is given up.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest reply: a file of the read limit in hexadecimal, and some.
const REPLY_LIMIT: usize = 8 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    user: UserName,
    /// A group beyond the primary one, to put back a file that had it.
    group: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    path: AbsPath,
    work: Work,
}

/// A child that has become a user and waits for work.
#[derive(Debug)]
pub struct Session {
    child: Child,
    user: UserName,
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends by itself at the end of its input, unless the user stopped it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        tree::unregister(self.child.id());
    }
}

impl Session {
    /// Starts `program` as the child of `user`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path, user: &UserName, group: Option<u32>) -> Result<Self> {
        let mut command = std::process::Command::new(program);
        command
            .arg(AS_USER_ARG)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let child = tree::start(|| command.spawn()).map_err(|error| {
            Failure::unknown(program.to_string_lossy(), "cannot be started to work as a user")
                .why(error)
                .hint("mount /proc, and run keyward from a file system without noexec")
        })?;
        let mut session = Self { child, user: user.clone() };
        session.send(&Hello { user: user.clone(), group })?;
        Ok(session)
    }

    /// Does one piece of work.
    ///
    /// # Errors
    /// Those of the work, or the child ended or did not answer in time; then the session is of no more use.
    pub fn ask(&mut self, path: &AbsPath, work: &Work) -> std::result::Result<Result<Done>, Failure> {
        self.send(&Request { path: path.clone(), work: work.clone() })?;
        let line = self.receive()?;
        serde_json::from_slice(&line).map_err(|error| self.broken("answered nonsense", error))
    }

    fn broken(&self, what: &str, why: impl std::fmt::Display) -> Failure {
        let user = self.user.as_str();
        Failure::unknown(format!("work as '{user}'"), format!("the child {what}"))
            .why(why)
            .hint(format!("look for what stops processes of '{user}': ps -fu {user}"))
    }

    fn send<T: Serialize>(&mut self, message: &T) -> Result<()> {
        let mut line = serde_json::to_vec(message).map_err(|error| self.broken("cannot be asked", error))?;
        line.push(b'\n');
        let until = Instant::now() + DEADLINE;
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            let Some(pipe) = self.child.stdin.as_mut() else { return Err(self.broken("cannot be asked", "no pipe")) };
            if !ready(&*pipe, PollFlags::POLLOUT, until) {
                return Err(self.broken("takes no work", "its deadline of 10 s is over"));
            }
            // A pipe that polls as writable takes PIPE_BUF bytes (4096) without blocking.
            let part = rest.get(..rest.len().min(4096)).unwrap_or(rest);
            match pipe.write(part) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) => return Err(self.broken("ended before its work", error)),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Vec<u8>> {
        let until = Instant::now() + DEADLINE;
        let mut line = Vec::new();
        let mut part = [0; 65536];
        loop {
            let Some(pipe) = self.child.stdout.as_mut() else { return Err(self.broken("cannot be heard", "no pipe")) };
            if !ready(&*pipe, PollFlags::POLLIN, until) {
                return Err(self.broken("does not answer", "its deadline of 10 s is over"));
            }
            let count = pipe.read(&mut part).map_err(|error| self.broken("cannot be heard", error))?;
            line.extend_from_slice(part.get(..count).unwrap_or_default());
            if line.last() == Some(&b'\n') {
                return Ok(line);
            }
            if count == 0 || line.len() > REPLY_LIMIT {
                return Err(self.broken("ended before its work was done", "no whole answer"));
            }
        }
    }
}

fn ready(pipe: impl AsFd, flags: PollFlags, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pipe.as_fd(), flags)], timeout) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// The child's whole life: hears who it is to be, becomes that user for good, works until its input ends.
/// Not for people; needs root and a pipe.
pub fn as_user_main() -> ExitCode {
    // A process of the account that has a terminal would be somebody who is logged in, and Ctrl-C there is not for this one.
    if setsid().is_err() {
        return ExitCode::FAILURE;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let mut lines = std::io::stdin().lock().split(b'\n');
    let Some(Ok(hello)) = lines.next() else { return ExitCode::FAILURE };
    let Ok(hello) = serde_json::from_slice::<Hello>(&hello) else { return ExitCode::FAILURE };
    let account = become_user(&hello);
    let mut out = std::io::stdout().lock();
    for line in lines {
        let Ok(line) = line else { return ExitCode::FAILURE };
        let Ok(Request { path, work }) = serde_json::from_slice(&line) else { return ExitCode::FAILURE };
        let answer: Result<Done> = match &account {
            Ok(Some((who, home))) => act::as_user(home, &path, who, &work),
            Ok(None) => without_account(&hello.user, &path, &work),
            Err(failure) => Err(failure.clone()),
        };
        let Ok(mut line) = serde_json::to_vec(&answer) else { return ExitCode::FAILURE };
        line.push(b'\n');
        if out.write_all(&line).and_then(|()| out.flush()).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// There is no such account yet: nothing is there, unless something stands at the very path.
fn without_account(user: &UserName, path: &AbsPath, work: &Work) -> Result<Done> {
    if walk::stands(path)? {
        return Err(rules::no_account(user, path));
    }
    act::without_parent(path, work)
}

/// Drops to the account as /etc/passwd has it, for good; `None` when it is not there.
fn become_user(hello: &Hello) -> Result<Option<(Who, AbsPath)>> {
    let user = &hello.user;
    let bytes = super::databases::read_database(crate::host::Database::Passwd)?.unwrap_or_default();
    let Some(entry) = Records::parse(&bytes).passwd_entry(user.as_str()) else { return Ok(None) };
    let home = rules::home_path(user, &entry.home)?;
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    let refused = |what: &str, why: String| {
        Failure::refused(format!("work as '{}'", user.as_str()), what).why(why).hint("run keyward as root")
    };
    let groups: Vec<Gid> = std::iter::once(gid).chain(hello.group.map(Gid::from_raw)).collect();
    setgroups(&groups)
        .and_then(|()| setresgid(gid, gid, gid))
        .and_then(|()| setresuid(uid, uid, uid))
        .and_then(|()| nix::sys::prctl::set_no_new_privs())
        .and_then(|()| nix::sys::prctl::set_dumpable(false))
        .map_err(|errno| refused("this process cannot become the user", errno.desc().to_owned()))?;
    let became = getresuid().is_ok_and(|ids| ids.real == uid && ids.effective == uid && ids.saved == uid)
        && getresgid().is_ok_and(|ids| ids.real == gid && ids.effective == gid && ids.saved == gid);
    let root = Uid::from_raw(0);
    if !became || (uid != root && setresuid(root, root, root).is_ok()) {
        return Err(refused("this process did not become the user for good", "the kernel let it back".to_owned()));
    }
    Ok(Some((Who::User { name: user.clone(), uid: entry.uid, gid: entry.gid }, home)))
}
