//! `keyward init`: writes a commented first playbook from what is found here. Never overwrites.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, fchown};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};

use crate::error::{Failure, Result};
use crate::facts::{Doors, Facts};
use crate::formats::accounts::Records;
use crate::host::real::RealHost;
use crate::host::{Actor, Probe};
use crate::outcome::Exit;
use crate::playbook::{Found, Listener, starter};
use crate::types::{AbsPath, Port, PublicKey, UserName, Word};

use super::args::InitArgs;
use super::terminal::{self, Terminal};
use super::{Ending, loader, state};

/// Asks or takes flags, looks, writes.
pub fn run(args: &InitArgs, terminal: &mut Terminal) -> Result<Ending> {
    let output = args.output.display().to_string();
    if args.output.symlink_metadata().is_ok() {
        return Err(Failure::refused(&output, "is there already, and init never overwrites")
            .hint("name another file: keyward init --output FILE"));
    }
    let ask = !args.yes && terminal::can_ask();
    let host = RealHost::new();
    let present = ssh_ports(&host);
    let keys = match &args.key {
        Some(file) => vec![key_file(file)?],
        None => callers_keys(&host),
    };
    let name = match &args.user {
        Some(name) => name.clone(),
        None if ask => answer("Administrator to create", &default_user()),
        None => default_user(),
    };
    let user = UserName::parse(&name).map_err(|bad| Failure::input("--user", bad.why).hint(bad.hint))?;
    if user.is_root() {
        return Err(Failure::input("--user", "root is not an administrator to create")
            .hint("name another account, such as: keyward init --user deploy"));
    }
    let wanted = match args.port {
        Some(port) => Some(port),
        None if ask => asked_port(&present)?,
        None => None,
    };
    let wanted_port =
        wanted.map(Port::new).transpose().map_err(|bad| Failure::input("--port", bad.why).hint(bad.hint))?;
    let listening = listening(&host, &present);
    let found = Found { user, keys, ssh_ports: present, wanted_port, listening };
    write(&args.output, &starter(&found))?;
    if found.ssh_ports.is_empty() && found.wanted_port.is_none() {
        let hint = if nix::unistd::geteuid().is_root() { "" } else { " (as root it can)" };
        let text = format!("the present SSH port cannot be told{hint}, so the playbook leaves it as it is");
        terminal.warn("init", &text);
    }
    let rehearse = format!("keyward rehearse {}", state::quoted(&output));
    let next = if found.keys.is_empty() {
        terminal.warn("init", "no public key was found, so nobody could get in by one yet");
        format!("put a public key into {output}, where it says so; then: {rehearse}")
    } else {
        rehearse
    };
    Ok(Ending::new(Exit::AsAsked, format!("wrote {output}; read it before you use it"), next))
}

/// What the user types; nothing, or the present ports again, leaves them.
fn asked_port(present: &[Port]) -> Result<Option<u16>> {
    let list = present.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let default = if list.is_empty() { "as it is".to_owned() } else { list };
    let typed = answer("SSH port", &default);
    if typed == default {
        return Ok(None);
    }
    typed.parse().map(Some).map_err(|_| Failure::input("port", "not a number from 1 to 65535"))
}

fn answer(question: &str, default: &str) -> String {
    let typed = terminal::ask(&format!("{question} [{default}]: "));
    if typed.is_empty() { default.to_owned() } else { typed }
}

/// The caller behind sudo, unless that is root; else `deploy`.
fn default_user() -> String {
    caller().filter(|user| !user.is_root()).map_or_else(|| "deploy".to_owned(), |user| user.as_str().to_owned())
}

/// Who called: behind sudo its own word, which only root's environment can fake.
fn caller() -> Option<UserName> {
    let name = if nix::unistd::geteuid().is_root() { std::env::var("SUDO_USER") } else { std::env::var("USER") };
    UserName::parse(&name.ok()?).ok()
}

/// The ports through which sshd lets in now; none where that cannot be told, as without root.
fn ssh_ports(host: &RealHost) -> Vec<Port> {
    let doors = Facts::gather(host).and_then(|facts| Doors::look(&facts, host)).ok().flatten();
    let ports = doors.map(|doors| doors.ports).unwrap_or_default();
    ports.into_iter().filter_map(|port| Port::new(port).ok()).collect()
}

/// Ports on which DHCP clients get their answers; ufw's own rules let those in.
const DHCP_CLIENTS: [u16; 2] = [68, 546];

/// What can be reached from other machines, without SSH.
fn listening(host: &RealHost, ssh: &[Port]) -> Vec<Listener> {
    let mut listeners = host.listeners().unwrap_or_default();
    listeners.retain(|listener| ssh.iter().all(|port| listener.port != port.get()));
    let datagrams = host.datagram_sockets().unwrap_or_default();
    listeners.extend(datagrams.into_iter().filter(|socket| !DHCP_CLIENTS.contains(&socket.port)));
    let mut seen = BTreeSet::new();
    listeners
        .into_iter()
        .filter(|listener| !listener.address.is_loopback() && seen.insert((listener.proto, listener.port)))
        .filter_map(|listener| {
            let program = listener.programs.first().cloned().unwrap_or_default();
            Some(Listener { port: Port::new(listener.port).ok()?, proto: listener.proto, program })
        })
        .collect()
}

fn key_file(path: &Path) -> Result<PublicKey> {
    let shown = path.display().to_string();
    let text = loader::read_named(path)?;
    PublicKey::parse(text.trim_end()).map_err(|bad| Failure::input(shown, bad.why).hint(bad.hint))
}

/// Public keys of whoever called: `~/.ssh/*.pub`, then `authorized_keys`. What cannot be read or is no usable key is
/// passed over. As root the home is read as its owner, so that no link in it leads anywhere else.
fn callers_keys(host: &RealHost) -> Vec<PublicKey> {
    let Some((home, actor)) = home(host) else { return Vec::new() };
    let Ok(dir) = home.join(".ssh") else { return Vec::new() };
    let names = host.list(&dir, &actor).ok().flatten().unwrap_or_default();
    let mut files: Vec<String> =
        names.into_iter().filter(|name| Path::new(name).extension().is_some_and(|ext| ext == "pub")).collect();
    files.push("authorized_keys".to_owned());
    let mut keys: Vec<PublicKey> = Vec::new();
    for file in files {
        let Ok(path) = dir.join(&file) else { continue };
        let bytes = host.read(&path, &actor).ok().flatten().unwrap_or_default();
        for line in String::from_utf8_lossy(&bytes).lines() {
            if let Ok(key) = PublicKey::parse(line)
                && !keys.iter().any(|known| known.blob() == key.blob())
            {
                keys.push(key);
            }
        }
    }
    keys
}

/// The caller's home by the user database, and in whose name it is read.
fn home(host: &RealHost) -> Option<(AbsPath, Actor)> {
    let root = nix::unistd::geteuid().is_root();
    let passwd = host.read(&AbsPath::fixed("/etc/passwd"), &Actor::Root).ok().flatten()?;
    let passwd = Records::parse(&passwd).passwd();
    let entry = match caller() {
        Some(user) => passwd.into_iter().find(|entry| entry.name == user.as_str())?,
        None => passwd.into_iter().find(|entry| entry.uid == nix::unistd::geteuid().as_raw())?,
    };
    let home = AbsPath::parse(&entry.home).ok()?;
    // Without root the process can only read what its user can.
    let actor = if root && entry.uid != 0 { Actor::User(UserName::parse(&entry.name).ok()?) } else { Actor::Root };
    Some((home, actor))
}

/// Makes a file that was not there, for everybody to read, and behind sudo for the caller to edit.
fn write(path: &Path, text: &str) -> Result<()> {
    make(path, text).map_err(|error| Failure::input(path.display().to_string(), "cannot be written").why(error))
}

fn make(path: &Path, text: &str) -> std::io::Result<()> {
    let name = path.file_name().ok_or(Errno::EISDIR)?;
    let above = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let dir = open(above, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(&dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    file.write_all(text.as_bytes())?;
    // The process has the umask 077; a playbook holds no secret.
    file.set_permissions(Permissions::from_mode(0o644))?;
    // In somebody else's directory root keeps it: who called sudo could not put a file of theirs there either.
    if let Some((uid, gid)) = caller_ids().filter(|(uid, _)| fstat(&dir).is_ok_and(|dir| dir.st_uid == *uid)) {
        fchown(&file, Some(uid), Some(gid))?;
    }
    file.sync_all()
}

/// Uid and gid of whoever called sudo.
fn caller_ids() -> Option<(u32, u32)> {
    let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    nix::unistd::geteuid().is_root().then_some(())?;
    id("SUDO_UID").zip(id("SUDO_GID"))
}

#[cfg(test)]
mod tests {
    use super::write;

    #[test]
    fn what_came_up_meanwhile_is_neither_overwritten_nor_followed() {
        let dir = std::env::temp_dir().join(format!("keyward-init-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (file, link, target) = (dir.join("site.yml"), dir.join("link.yml"), dir.join("target.yml"));
        std::fs::write(&file, "mine").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(write(&file, "new").is_err() && write(&link, "new").is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
        assert!(!target.exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
