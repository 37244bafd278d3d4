//! The warden: the process that holds the copy. Its mount namespace keeps the overlays from boot to boot, its network
//! namespace is the outside world, and when its standard input ends everything ends with it.
//!
//! It never enters the copy and runs nothing from it.

use std::io::{BufReader, Stdin};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::layers::{self, Layer, Way};
use super::power::Power;
use super::tree::{self, Tree};
use super::wire::{Answer, Boot, Booted, Build, Order, Purpose, Root, hear, say};
use super::{OUTSIDE_V4, OUTSIDE_V6, PREFIX_V4, PREFIX_V6, os, sources};
use crate::error::{Failure, Result};
use crate::target::netlink::Routing;

/// Empty directories that nearly every system has; the first that holds nothing of interest is the work place, hidden
/// under a memory file system in the warden's own mount namespace only.
const PLACES: [&str; 6] = ["/mnt", "/media", "/srv", "/opt", "/home", "/tmp"];
/// The outside end of the veth pair.
const OUTSIDE_LINK: &str = "copy";

/// The hidden verb: takes [`Order`]s on standard input until it ends.
pub fn main() -> ExitCode {
    let mut orders = BufReader::new(std::io::stdin());
    let mut warden = match build(&mut orders) {
        Ok(Some(warden)) => warden,
        Ok(None) => return ExitCode::SUCCESS,
        Err(failure) => {
            let _ = say(std::io::stdout(), &Answer::Failed(failure));
            return ExitCode::FAILURE;
        }
    };
    while let Ok(Some(order)) = hear::<Order>(&mut orders) {
        let answer = match order {
            Order::Boot(purpose) => warden.boot(purpose).map(Answer::Booted),
            Order::Halt => warden.halt().map(|()| Answer::Halted),
            Order::Build(_) | Order::Mapped => Err(Failure::unknown("sandbox", "the copy is built already")),
        };
        if say(std::io::stdout(), &answer.unwrap_or_else(Answer::Failed)).is_err() {
            break;
        }
    }
    let _ = warden.halt();
    ExitCode::SUCCESS
}

struct Warden {
    boot: Boot,
    tree: Option<Tree>,
    power: Option<Power>,
}

fn build(orders: &mut BufReader<Stdin>) -> Result<Option<Warden>> {
    let Some(Order::Build(build)) = hear(orders)? else { return Ok(None) };
    if build.plain_user {
        unshare(CloneFlags::CLONE_NEWUSER).map_err(os("no user namespace"))?;
        say(std::io::stdout(), &Answer::MapMe)?;
        let Some(Order::Mapped) = hear(orders)? else { return Ok(None) };
        nix::unistd::setgroups(&[]).map_err(os("groups stay"))?;
        owned_by_root(&build.root)?;
    }
    let spaces =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    // What the resolver file says has to be read while the machine's /run is in sight.
    let resolver = std::fs::read_to_string("/etc/resolv.conf").ok();
    let ssh_runs = build.root == Path::new("/") && sshd_runs();
    unshare(spaces).map_err(|errno| {
        Failure::refused("sandbox", "no namespaces can be made").why(errno.desc()).hint(
            "in a container, run it on the host instead, or start the container with --cap-add SYS_ADMIN, \
             --cap-add NET_ADMIN and without a seccomp or AppArmor profile that forbids mounts",
        )
    })?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(os("mounts stay shared"))?;
    whole_proc();
    refuse_at_once()?;
    let tree = build.with_tree.then(|| tree::lock(&build.root)).transpose()?;
    let (copy, tree, notes) = overlay(&build, tree)?;
    let hostname = (build.root != Path::new("/"))
        .then(|| std::fs::read_to_string(copy.join("etc/hostname")).ok())
        .flatten()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty());
    let root = if build.plain_user { Root::Plain } else { Root::Own };
    let boot = Boot { copy, lender: None, purpose: Purpose::Run, root, hostname, resolver, ssh_runs };
    say(std::io::stdout(), &Answer::Built { notes })?;
    Ok(Some(Warden { boot, tree, power: None }))
}

/// In a container the engine hides parts of /proc under other mounts. The kernel then gives the copy none of its own
/// and the network settings cannot be written, so the warden takes a whole one, in its own mount namespace. Best effort.
fn whole_proc() {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let covers = |line: &&str| line.split(' ').nth(4).is_some_and(|point| point.starts_with("/proc/"));
    if table.lines().filter(|line| !line.contains("binfmt_misc")).any(|line| covers(&line)) {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let _ = mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>);
    }
}

/// Lets the outside world refuse at once whatever the copy asks of it. A name server that only keeps silent would hold
/// up every sudo and every login for seconds, as nothing leaves the sandbox.
fn refuse_at_once() -> Result<()> {
    let mut routing = Routing::open()?;
    routing.up("lo")?;
    // Best effort: without IPv6 only its half fails, and a refusal that comes late is no wrong one.
    let _ = routing.answer_for_all();
    for file in ["/proc/sys/net/ipv4/icmp_ratelimit", "/proc/sys/net/ipv6/icmp/ratelimit"] {
        let _ = std::fs::write(file, "0");
    }
    Ok(())
}

/// Refuses a tree whose root is not the caller: the kernel shows owners without an identity here as nobody, and lets
/// nobody change their files.
fn owned_by_root(tree: &Path) -> Result<()> {
    let meta = std::fs::metadata(tree.join("etc"))
        .map_err(|error| Failure::unknown(tree.display().to_string(), "cannot be looked at").why(error))?;
    if meta.uid() == 0 {
        return Ok(());
    }
    Err(Failure::refused(tree.display().to_string(), "a plain user cannot copy a tree of somebody else's")
        .why("its files must belong to you and to your subordinate ids")
        .hint("run it with sudo, or make the tree by mmdebstrap --mode=unshare"))
}

/// True when a process called sshd runs on this machine.
fn sshd_runs() -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else { return false };
    entries.flatten().any(|entry| {
        entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit)
            && std::fs::read(entry.path().join("comm")).is_ok_and(|comm| comm == b"sshd\n")
    })
}

/// Mounts the copy and gives back where it stands, the tree itself if it is wanted, and notes.
fn overlay(build: &Build, lock: Option<tree::Lock>) -> Result<(PathBuf, Option<Tree>, Vec<String>)> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| Failure::unknown("/proc/self/mountinfo", "cannot be read").why(error))?;
    let mounts = layers::parse(&table)?;
    let plan = layers::choose(&mounts, &build.root, &build.leave_out)?;
    let taken = |place: &Path| {
        build.root.starts_with(place) || plan.iter().any(|layer| layer.lower.starts_with(place)) || !place.is_dir()
    };
    let place = PLACES.iter().map(Path::new).find(|place| !taken(place)).ok_or_else(|| {
        Failure::refused("sandbox", format!("none of {} can hold the copy", PLACES.join(", ")))
            .hint("make an empty directory /mnt")
    })?;
    let options = format!("mode=0755,size={}", build.size);
    mount(Some("keyward"), place, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .map_err(os("no memory file system"))?;
    let copy = place.join("copy");
    make_dir(&copy)?;
    let user_attributes = !in_first_user_namespace();
    let mut notes = Vec::new();
    for (number, layer) in plan.iter().enumerate() {
        let target = copy.join(&layer.place);
        let at = std::fs::symlink_metadata(&target);
        let original = std::fs::metadata(&layer.lower)
            .map_err(|error| Failure::unknown(layer.lower.display().to_string(), "cannot be looked at").why(error))?;
        match at {
            Ok(meta) if meta.is_dir() && original.is_dir() => {
                lay(layer, &original, &place.join(number.to_string()), &target, user_attributes)?;
            }
            // A file mounted over a file, as container engines do with /etc/resolv.conf.
            Ok(meta) if meta.is_file() && original.is_file() => copy_file(&layer.lower, &original, &target)?,
            _ => notes.push(format!("{} is not in the copy: nothing to mount it on", layer.lower.display())),
        }
    }
    let tree = lock.map(|lock| tree::mount_at(&place.join("tree"), &plan, lock)).transpose()?;
    Ok((copy, tree, notes))
}

/// False where the overlay cannot keep its marks in attributes of the trusted class (overlayfs documentation, "userxattr").
fn in_first_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Mounts one layer at `target`, with its upper layer below `work`.
fn lay(layer: &Layer, original: &std::fs::Metadata, work: &Path, target: &Path, user_attributes: bool) -> Result<()> {
    if layer.way == Way::Bind {
        mount(Some(&layer.lower), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(os("no bind mount"))?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | layer.flags;
        return mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(os("a mount stays writable"));
    }
    let (upper, scratch) = (work.join("upper"), work.join("work"));
    for dir in [work, &upper, &scratch] {
        make_dir(dir)?;
    }
    // The root of an overlay shows the upper directory's own mode and owner.
    let place = || Failure::unknown(layer.lower.display().to_string(), "its owner and mode cannot be copied");
    std::os::unix::fs::chown(&upper, Some(original.uid()), Some(original.gid())).map_err(|error| place().why(error))?;
    std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(original.mode() & 0o7777))
        .map_err(|error| place().why(error))?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={},metacopy=off,{}",
        layers::escape(&layer.lower),
        upper.display(),
        scratch.display(),
        if user_attributes { "userxattr" } else { "redirect_dir=on" },
    );
    mount(Some("keyward"), target, Some("overlay"), layer.flags, Some(options.as_str())).map_err(|errno| {
        Failure::refused("sandbox", format!("no overlay over {}", layer.lower.display())).why(errno.desc()).hint(
            "the kernel needs overlayfs, 5.11 or later for a plain user; in a container run it on the host instead",
        )
    })
}

fn copy_file(from: &Path, original: &std::fs::Metadata, to: &Path) -> Result<()> {
    let failed = |error: std::io::Error| Failure::unknown(from.display().to_string(), "cannot be copied").why(error);
    std::fs::write(to, std::fs::read(from).map_err(failed)?).map_err(failed)?;
    std::os::unix::fs::chown(to, Some(original.uid()), Some(original.gid())).map_err(failed)?;
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(original.mode() & 0o7777)).map_err(failed)
}

pub(super) fn make_dir(path: &Path) -> Result<()> {
    std::fs::create_dir(path).map_err(|error| Failure::unknown(path.display().to_string(), "cannot be made").why(error))
}

impl Warden {
    fn boot(&mut self, purpose: Purpose) -> Result<Booted> {
        self.halt()?;
        match self.try_boot(purpose) {
            // Where user namespaces are switched off, or a container hides parts of /proc from them.
            // Never once programs of the copy have run: any of them could say that it failed.
            Err(failure)
                if self.boot.root == Root::Own
                    && failure.place == "sandbox"
                    && self.power.as_ref().is_none_or(|power| !power.is_mounted()) =>
            {
                self.halt()?;
                self.boot.root = Root::Machine;
                let mut booted = self.try_boot(purpose).map_err(|_| failure.clone())?;
                booted
                    .notes
                    .push(format!("root in the copy is the machine's root, with less power ({})", failure.line()));
                Ok(booted)
            }
            other => other,
        }
    }

    fn try_boot(&mut self, purpose: Purpose) -> Result<Booted> {
        let mut boot = Boot { purpose, ..self.boot.clone() };
        if purpose == Purpose::Tree {
            let tree = self.tree.as_ref().ok_or_else(|| Failure::refused("sandbox", "it has a copy only"))?;
            boot.lender = Some(std::mem::replace(&mut boot.copy, tree.place.clone()));
        }
        let mut power = Power::on(&boot)?;
        if purpose == Purpose::Run {
            wire_up(power.pid())?;
        }
        let booted = power.start();
        self.power = Some(power);
        booted
    }

    fn halt(&mut self) -> Result<()> {
        if let Some(power) = self.power.take() {
            power.off()?;
            // The pair vanishes with the copy's namespace, but some time later; the next one takes its addresses.
            Routing::open()?.remove(OUTSIDE_LINK)?;
        }
        Ok(())
    }
}

/// Joins the outside world (this process' network) to the network of process `pid`.
fn wire_up(pid: u32) -> Result<()> {
    let mut routing = Routing::open()?;
    routing.veth(OUTSIDE_LINK, super::INSIDE_LINK, pid)?;
    routing.address(OUTSIDE_LINK, OUTSIDE_V4.into(), PREFIX_V4)?;
    routing.up(OUTSIDE_LINK)?;
    // A machine without IPv6 rehearses without it.
    let _ = routing.address(OUTSIDE_LINK, OUTSIDE_V6.into(), PREFIX_V6);
    for source in sources() {
        let added = routing.address(OUTSIDE_LINK, source, if source.is_ipv4() { 32 } else { 128 });
        if source.is_ipv4() {
            added?;
        }
    }
    Ok(())
}
