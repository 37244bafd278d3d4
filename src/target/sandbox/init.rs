//! Process 1 of the copy: mounts what a boot mounts, moves into the copy, starts its services, and reaps. It is not
//! systemd and knows no units. Must not touch anything outside the copy.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::power::Report;
use super::wire::{Boot, Booted, Purpose, say};
use super::{INSIDE_LINK, INSIDE_V4, INSIDE_V6, OUTSIDE_V4, OUTSIDE_V6, PREFIX_V4, PREFIX_V6, os};
use crate::error::{Failure, Result};
use crate::target::boot;
use crate::target::netlink::Routing;

const NO: Option<&str> = None;
/// Files through which root could reach the kernel of the machine; the list is the one of the OCI runtimes.
const READ_ONLY: [&str; 5] = ["sys", "sysrq-trigger", "irq", "bus", "fs"];

/// The hidden verb: never ends by itself.
pub fn main(arguments: &[String]) -> ExitCode {
    // No program of the copy shares a terminal with whoever looks at it.
    let _ = nix::unistd::setsid();
    let report = match start(arguments) {
        Ok(booted) => Report::Ready(booted),
        Err(failure) => Report::Failed(failure),
    };
    let failed = matches!(report, Report::Failed(_));
    if say(std::io::stdout(), &report).is_err() || failed {
        return ExitCode::FAILURE;
    }
    reap()
}

/// Waits for the orphans of the copy.
fn reap() -> ExitCode {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    if signals.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => drop(signals.wait()),
            _ => {}
        }
    }
}

fn start(arguments: &[String]) -> Result<Booted> {
    // Its parent tells of its birth first.
    let _ = std::io::stdin().read(&mut [0]);
    let words = arguments.first().ok_or_else(|| Failure::unknown("sandbox", "process 1 was told nothing"))?;
    let spec: Boot =
        serde_json::from_str(words).map_err(|error| Failure::unknown("sandbox", "process 1").why(error))?;
    set_pdeathsig(Signal::SIGKILL).map_err(os("no signal at the boot's end"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    if let Some(name) = &spec.hostname {
        nix::unistd::sethostname(name).map_err(os("no host name"))?;
    }
    let copy = spec.copy.as_path();
    // The mount as it came from the warden is locked to its place; a fresh one of the same tree is not.
    mount(Some(copy), copy, NO, MsFlags::MS_BIND | MsFlags::MS_REC, NO).map_err(os("no way into the copy"))?;
    devices(&copy.join("dev"))?;
    run_dir(copy)?;
    kernel_windows(copy, spec.purpose)?;
    if spec.purpose == Purpose::Fetch {
        resolver(copy, spec.resolver.as_deref().unwrap_or_default())?;
    }
    if let Some(lender) = &spec.lender {
        lend(lender, copy)?;
    }
    std::env::set_current_dir(copy).map_err(|error| Failure::unknown("sandbox", "no way into the copy").why(error))?;
    nix::unistd::pivot_root(".", ".").map_err(os("no way into the copy"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(os("no way out of the machine"))?;
    std::env::set_current_dir("/").map_err(|error| Failure::unknown("sandbox", "no way into the copy").why(error))?;
    if spec.purpose != Purpose::Run {
        say(std::io::stdout(), &Report::Mounted)?;
        return Ok(Booted::default());
    }
    let notes = network()?;
    say(std::io::stdout(), &Report::Mounted)?;
    let mut booted = Booted { notes, ..Booted::default() };
    boot::start(spec.ssh_runs, &mut booted.started, &mut booted.notes);
    Ok(booted)
}

/// A /dev of its own, with the nodes every program expects, bound from the machine's.
fn devices(dev: &Path) -> Result<()> {
    memory(dev, "mode=755,size=4m", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC)?;
    for node in ["null", "zero", "full", "random", "urandom", "tty"] {
        let place = dev.join(node);
        write(&place, b"")?;
        mount(Some(&Path::new("/dev").join(node)), &place, NO, MsFlags::MS_BIND, NO).map_err(os("no device nodes"))?;
    }
    for dir in ["pts", "shm"] {
        make_dir(&dev.join(dir), 0o755)?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let with_group = Some("newinstance,ptmxmode=0666,mode=0620,gid=5");
    let terminals = |options| mount(Some("devpts"), &dev.join("pts"), Some("devpts"), flags, options);
    terminals(with_group)
        .or_else(|_| terminals(Some("newinstance,ptmxmode=0666,mode=0620")))
        .map_err(os("no terminals"))?;
    memory(&dev.join("shm"), "mode=1777,size=64m", MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
    let links = [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ];
    for (name, target) in links {
        std::os::unix::fs::symlink(target, dev.join(name)).map_err(|error| unmade(&dev.join(name), &error))?;
    }
    Ok(())
}

/// An empty /run with what a boot of Debian leaves there (tmpfiles.d(5)) that sshd, sudo and ufw look at.
fn run_dir(copy: &Path) -> Result<()> {
    let run = copy.join("run");
    memory(&run, "mode=755,size=64m", MsFlags::MS_NOSUID | MsFlags::MS_NODEV)?;
    make_dir(&run.join("lock"), 0o1777)?;
    make_dir(&run.join("user"), 0o755)?;
    if copy.join("usr/sbin/sshd").exists() {
        make_dir(&run.join("sshd"), 0o755)?;
    }
    write(&run.join("utmp"), b"")
}

/// /proc of the copy's own processes and /sys of its own links, closed where they reach the machine's kernel.
fn kernel_windows(copy: &Path, purpose: Purpose) -> Result<()> {
    let closed = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let (proc, sys) = (copy.join("proc"), copy.join("sys"));
    for dir in [&proc, &sys] {
        if !dir.is_dir() {
            make_dir(dir, 0o555)?;
        }
    }
    mount(Some("proc"), &proc, Some("proc"), closed, NO).map_err(|errno| {
        Failure::refused("sandbox", "no /proc for the copy")
            .why(errno.desc())
            .hint("in a container, run it on the host instead, or give the container an unmasked /proc")
    })?;
    let own_network = proc.join("sys/net");
    if purpose == Purpose::Run {
        mount(Some(&own_network), &own_network, NO, MsFlags::MS_BIND, NO).map_err(os("no network settings"))?;
    }
    for name in READ_ONLY {
        let path = proc.join(name);
        if path.exists() {
            mount(Some(&path), &path, NO, MsFlags::MS_BIND | MsFlags::MS_REC, NO).map_err(os("/proc stays open"))?;
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | closed;
            mount(NO, &path, NO, flags, NO).map_err(os("/proc stays open"))?;
        }
    }
    // Where the kernel gives no /sys of its own (a container's is masked), an empty one is as safe.
    mount(Some("sysfs"), &sys, Some("sysfs"), closed | MsFlags::MS_RDONLY, NO)
        .or_else(|_| mount(Some("tmpfs"), &sys, Some("tmpfs"), closed | MsFlags::MS_RDONLY, Some("mode=755,size=4k")))
        .map_err(os("no /sys"))
}

/// Makes names resolve while packages are fetched: in the copy, /etc/resolv.conf may point into a /run that is not
/// there. Nothing of it is left in the copy's files but an empty file where there was none.
fn resolver(copy: &Path, text: &str) -> Result<()> {
    let own = copy.join("run/resolver");
    write(&own, text.as_bytes())?;
    let file = copy.join("etc/resolv.conf");
    let inside = match std::fs::read_link(&file) {
        Ok(target) if target.is_absolute() => copy.join(target.strip_prefix("/").unwrap_or(&target)),
        Ok(target) => copy.join("etc").join(target),
        Err(_) => file,
    };
    if !inside.exists() {
        if let Some(parent) = inside.parent() {
            std::fs::create_dir_all(parent).map_err(|error| unmade(parent, &error))?;
        }
        write(&inside, b"")?;
    }
    mount(Some(&own), &inside, NO, MsFlags::MS_BIND, NO).map_err(os("names do not resolve"))
}

/// Lets the tree see the packages and lists that were fetched into the copy, without a byte of them in the tree.
fn lend(copy: &Path, tree: &Path) -> Result<()> {
    for dir in ["var/cache/apt", "var/lib/apt/lists"] {
        let (from, to) = (copy.join(dir), tree.join(dir));
        // A tree without apt installs nothing, and one where this is a link gets nothing lent.
        let plain = |path: &Path| std::fs::canonicalize(path).is_ok_and(|found| found == path && found.is_dir());
        if plain(&from) && plain(&to) {
            mount(Some(&from), &to, NO, MsFlags::MS_BIND | MsFlags::MS_REC, NO).map_err(os("no packages lent"))?;
        }
    }
    Ok(())
}

/// Addresses on the copy's end of the veth pair, and the outside as the way to everywhere.
fn network() -> Result<Vec<String>> {
    let mut routing = Routing::open()?;
    routing.up("lo")?;
    routing.address(INSIDE_LINK, INSIDE_V4.into(), PREFIX_V4)?;
    routing.up(INSIDE_LINK)?;
    routing.default_route(INSIDE_LINK, OUTSIDE_V4.into())?;
    let v6 = routing
        .address(INSIDE_LINK, INSIDE_V6.into(), PREFIX_V6)
        .and_then(|()| routing.default_route(INSIDE_LINK, OUTSIDE_V6.into()));
    Ok(v6.err().map(|failure| format!("the copy has no IPv6: {}", failure.line())).into_iter().collect())
}

fn memory(place: &Path, options: &str, flags: MsFlags) -> Result<()> {
    if !place.is_dir() {
        make_dir(place, 0o755)?;
    }
    mount(Some("tmpfs"), place, Some("tmpfs"), flags, Some(options)).map_err(os("no memory file system"))
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    std::fs::create_dir(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)))
        .map_err(|error| unmade(path, &error))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|error| unmade(path, &error))
}

fn unmade(path: &Path, error: &std::io::Error) -> Failure {
    Failure::unknown(path.display().to_string(), "cannot be made in the copy").why(error)
}
