//! What the host's sshd would do: its configuration tree, its effective values, its accounts and how it is started.
//! Must not change anything: where sshd cannot even be asked without /run/sshd, it is asked in a private namespace.

use std::collections::BTreeMap;

use super::daemon::{self, Daemon};
use super::host_keys::{self, HostKeys};
use super::{DROP_IN, Desired, TOP, tree};
use crate::error::{Failure, Result};
use crate::facts::{Facts, SSHD, SshdMode};
use crate::formats::sshd_config::Tree;
use crate::formats::sshd_effective::Effective;
use crate::host::{Actor, Command, Listener, Meta, Output, Probe};
use crate::types::{AbsPath, Word as _};

/// The main file, unless the daemon is started with another.
pub const MAIN: &str = "/etc/ssh/sshd_config";
/// sshd's privilege separation directory on Debian.
pub const RUN_DIR: &str = "/run/sshd";
/// Addresses from which logins are judged: loopback, two documentation ranges and IPv6.
pub const ADDRESSES: [&str; 4] = ["127.0.0.1", "192.0.2.1", "198.51.100.7", "2001:db8::1"];

/// What sshd needs before it can judge a configuration; without it an error says nothing about the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Environment {
    /// /run/sshd is there.
    pub run_dir: bool,
    /// At least one host key is there.
    pub host_keys: bool,
}

/// A connection as `sshd -T -C` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Account.
    pub user: String,
    /// Where from.
    pub address: String,
    /// Which of the server's addresses.
    pub local: String,
    /// Which of the server's ports.
    pub port: u16,
}

/// An account of passwd(5) or of the playbook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Groups, those that the playbook adds too.
    pub groups: Vec<String>,
    /// True for an administrator of the playbook.
    pub admin: bool,
    /// True when its password field begins with `!` and the playbook does not set it.
    pub locked: bool,
    /// True when it is in passwd(5).
    pub exists: bool,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Observed {
    /// False when openssh-server is not installed: then nothing else is filled in.
    pub installed: bool,
    /// What sshd lacks to be asked.
    pub environment: Environment,
    /// The host keys, when sshd loads none.
    pub host_keys: HostKeys,
    /// Main file and Includes.
    pub tree: Tree,
    /// lstat of each file of the tree.
    pub metas: BTreeMap<String, Meta>,
    /// True when /etc/ssh/sshd_config.d is there.
    pub drop_in_dir: bool,
    /// The global section as `sshd -T` says.
    pub effective: Effective,
    /// Per connection; empty when the tree has no Match block, for then all are as the global section.
    pub by_connection: Vec<(Connection, Effective)>,
    /// What this sshd does without a configuration, when algorithms are asked for.
    pub defaults: Option<Effective>,
    /// Accounts that can log in.
    pub accounts: Vec<Account>,
    /// How sshd is started.
    pub daemon: Daemon,
    /// What listens now.
    pub listeners: Vec<Listener>,
    /// keyward's drop-in for ssh.socket, if there.
    pub socket_drop_in: Option<String>,
}

/// Looks at the host.
///
/// # Errors
/// `Refused` when sshd refuses its present configuration, `Unknown` when it cannot be asked.
pub fn observe(desired: &Desired, facts: &Facts, probe: &dyn Probe) -> Result<Observed> {
    if facts.sshd_mode == SshdMode::Missing {
        return Ok(absent());
    }
    let daemon = daemon::look(facts, probe)?;
    let main = daemon.config().unwrap_or(MAIN).to_owned();
    let mut tree = tree::load(probe, &main)?;
    read_own(probe, &mut tree)?;
    // Where both are missing, sshd names only the keys.
    let run_dir = probe.meta(&AbsPath::fixed(RUN_DIR), &Actor::Root)?.is_some();
    // With one sshd per connection, systemd makes and removes it as they come and go.
    let lasting = !daemon.socket.as_ref().is_some_and(|socket| socket.accept);
    let mut environment = Environment { run_dir: run_dir && lasting, host_keys: true };
    let effective = ask(probe, &mut environment, &main, None)?;
    let accounts = accounts(desired, probe)?;
    let port = desired.port.map(crate::types::Port::get);
    let mut by_connection = Vec::new();
    for connection in connections(&tree, &accounts, port.or(effective.ports().first().copied()).unwrap_or(22)) {
        let values = ask(probe, &mut environment, &main, Some(&connection))?;
        by_connection.push((connection, values));
    }
    let defaults = match desired.modern_algorithms {
        Some(true) => Some(ask(probe, &mut environment, "/dev/null", None)?),
        _ => None,
    };
    let host_keys = if environment.host_keys { HostKeys::default() } else { host_keys::look(probe, &tree)? };
    let mut metas = BTreeMap::new();
    for path in tree.files.keys() {
        let Ok(clean) = AbsPath::parse(path) else { continue };
        if let Some(meta) = probe.meta(&clean, &Actor::Root)? {
            metas.insert(path.clone(), meta);
        }
    }
    let drop_in_dir = AbsPath::fixed(DROP_IN).parent();
    let drop_in_dir = drop_in_dir.map(|dir| probe.meta(&dir, &Actor::Root)).transpose()?.flatten().is_some();
    let socket_path = AbsPath::fixed(super::socket::DROP_IN);
    let socket_drop_in = match probe.meta(&socket_path, &Actor::Root)? {
        Some(_) => probe.read(&socket_path, &Actor::Root)?,
        None => None,
    };
    Ok(Observed {
        installed: true,
        environment,
        host_keys,
        tree,
        metas,
        drop_in_dir,
        effective,
        by_connection,
        defaults,
        accounts,
        daemon,
        listeners: probe.listeners()?,
        socket_drop_in: socket_drop_in.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    })
}

fn absent() -> Observed {
    Observed {
        installed: false,
        environment: Environment { run_dir: true, host_keys: true },
        host_keys: HostKeys::default(),
        tree: Tree::default(),
        metas: BTreeMap::new(),
        drop_in_dir: false,
        effective: Effective::default(),
        by_connection: Vec::new(),
        defaults: None,
        accounts: Vec::new(),
        daemon: Daemon::default(),
        listeners: Vec::new(),
        socket_drop_in: None,
    }
}

/// keyward's own files count even when nothing includes them (any more).
fn read_own(probe: &dyn Probe, tree: &mut Tree) -> Result<()> {
    for path in [DROP_IN, TOP] {
        let clean = AbsPath::fixed(path);
        if tree.files.contains_key(path) || probe.meta(&clean, &Actor::Root)?.is_none() {
            continue;
        }
        if let Some(bytes) = probe.read(&clean, &Actor::Root)? {
            tree.files.insert(path.to_owned(), crate::formats::sshd_config::ConfigText::parse(&bytes));
        }
    }
    Ok(())
}

/// Asks in a private mount namespace that has what the host lacks; the host itself stays as it is.
const LENT: &str = "set -e\n\
mount --bind /run /mnt\n\
mount -t tmpfs -o mode=755 tmpfs /run\n\
for entry in /mnt/*; do ln -s \"$entry\" /run/; done\n\
rm -f /run/sshd\n\
mkdir -m 0755 /run/sshd\n\
[ \"$1\" = keys ] || { shift; exec /usr/sbin/sshd \"$@\"; }\n\
shift\n\
ssh-keygen -q -t ed25519 -N '' -f /run/sshd/key\n\
exec /usr/sbin/sshd -h /run/sshd/key \"$@\"\n";

/// The command that runs sshd with `args`, in a private namespace when `environment` lacks something.
pub fn command(environment: Environment, args: &[&str]) -> Command {
    if environment.run_dir && environment.host_keys {
        return Command::new(std::iter::once(SSHD).chain(args.iter().copied()));
    }
    let keys = if environment.host_keys { "present" } else { "keys" };
    let lent = ["/usr/bin/unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", LENT, "sshd", keys];
    Command::new(lent.into_iter().chain(args.iter().copied()))
}

/// What is asked first on a host in good order.
pub fn question() -> Command {
    command(Environment { run_dir: true, host_keys: true }, &["-T"])
}

/// `sshd -T` for one connection, or for the global section.
fn ask(
    probe: &dyn Probe,
    environment: &mut Environment,
    main: &str,
    connection: Option<&Connection>,
) -> Result<Effective> {
    let criteria = connection.map(Connection::criteria);
    let mut args = vec!["-T"];
    if main != MAIN {
        args.extend(["-f", main]);
    }
    if let Some(criteria) = &criteria {
        args.extend(["-C", criteria]);
    }
    loop {
        let output = probe.ask(&command(*environment, &args))?;
        if output.ok() {
            return Ok(Effective::parse(&output.stdout));
        }
        let before = *environment;
        environment.run_dir &= !output.stderr.contains("Missing privilege separation directory");
        environment.host_keys &= !output.stderr.contains("no hostkeys available");
        if before == *environment {
            return Err(refusal(&output, *environment, main));
        }
    }
}

fn refusal(output: &Output, environment: Environment, main: &str) -> Failure {
    let line = output.last_line();
    if !(environment.run_dir && environment.host_keys) && (line.contains("unshare") || line.contains("mount")) {
        let missing = if environment.run_dir { "/etc/ssh/ssh_host_*_key" } else { RUN_DIR };
        return Failure::unknown(missing, "missing, and sshd cannot be asked without it")
            .why(line)
            .hint("make what is missing with: mkdir -p -m 0755 /run/sshd && ssh-keygen -A");
    }
    let said = output.stderr.lines().find(|line| line.contains("line ")).map_or(line, str::to_owned);
    Failure::refused(place_of(&said).unwrap_or_else(|| main.to_owned()), "sshd refuses its present configuration")
        .why(said)
        .hint("mend that line, then check with: sshd -t")
}

/// Finds the file and line in what sshd says: `/etc/ssh/sshd_config: line 3: ...` or `FILE line 3: ...`.
fn place_of(said: &str) -> Option<String> {
    let (head, tail) = said.split_once("line ")?;
    let number: String = tail.chars().take_while(char::is_ascii_digit).collect();
    let path = head.trim().trim_end_matches(':');
    let path = path.rsplit(' ').next().unwrap_or(path);
    (path.starts_with('/') && !number.is_empty()).then(|| format!("{path}:{number}"))
}

impl Connection {
    /// The value of `-C`.
    pub fn criteria(&self) -> String {
        let Self { user, address, local, port } = self;
        format!("user={user},host={address},addr={address},laddr={local},lport={port}")
    }
}

/// The connections that a tree can tell apart: nothing without Match blocks, else every account that can log in and
/// every address, as far as conditions look at them.
pub fn connections(tree: &Tree, accounts: &[Account], port: u16) -> Vec<Connection> {
    let mut words: Vec<String> = Vec::new();
    for item in tree.flatten().iter().filter(|item| item.directive.keyword == "match") {
        words.extend(item.directive.args.iter().map(|arg| arg.to_ascii_lowercase()));
    }
    if words.is_empty() {
        return Vec::new();
    }
    let names = |heads: &[&str]| {
        words.iter().any(|word| heads.iter().any(|head| word == head || word.starts_with(&format!("{head}="))))
    };
    let everyone = names(&["user", "group", "invalid-user"]);
    let everywhere = names(&["address", "host", "localaddress", "localnetwork", "localport", "rdomain"]);
    let mut out = Vec::new();
    for account in accounts.iter().filter(|account| everyone || account.name == "root") {
        for address in ADDRESSES.iter().take(if everywhere { ADDRESSES.len() } else { 1 }) {
            out.push(connection(account, address, port));
        }
    }
    out
}

fn connection(account: &Account, address: &str, port: u16) -> Connection {
    let local = match address {
        "127.0.0.1" => "127.0.0.1",
        v6 if v6.contains(':') => "2001:db8::2",
        _ => "192.0.2.2",
    };
    Connection { user: account.name.clone(), address: address.to_owned(), local: local.to_owned(), port }
}

/// root, the playbook's users, and every account of passwd(5) with a shell that lets it in.
fn accounts(desired: &Desired, probe: &dyn Probe) -> Result<Vec<Account>> {
    let read = |path: &'static str| -> Result<String> {
        let bytes = probe.read(&AbsPath::fixed(path), &Actor::Root)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    let mut names: Vec<String> = vec!["root".to_owned()];
    names.extend(desired.users.iter().map(|user| user.name.as_str().to_owned()));
    names.extend(passwd.lines().filter_map(login_name).map(str::to_owned));
    let shadow = if desired.users.is_empty() { String::new() } else { read("/etc/shadow")? };
    let mut out: Vec<Account> = Vec::new();
    for name in names {
        if out.iter().any(|account| account.name == name) {
            continue;
        }
        let wish = desired.users.iter().find(|user| user.name.as_str() == name);
        let entry = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.first() == Some(&name.as_str()));
        let mut groups = entry.as_ref().map(|fields| groups_of(&name, fields.get(3), &group)).unwrap_or_default();
        groups.extend(wish.iter().flat_map(|wish| wish.groups.iter().cloned()));
        let locked = shadow.lines().any(|line| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(":!")));
        out.push(Account {
            groups,
            admin: wish.is_some_and(|wish| wish.admin),
            locked: locked && wish.is_some_and(|wish| !wish.sets_password),
            exists: entry.is_some(),
            name,
        });
    }
    Ok(out)
}

/// The name in a passwd(5) line whose shell lets in; one that `-C` cannot carry is left out.
fn login_name(line: &str) -> Option<&str> {
    let fields: Vec<&str> = line.split(':').collect();
    let (name, shell) = (fields.first()?, fields.get(6)?);
    let shut = ["nologin", "false", "sync", "halt", "shutdown"].iter().any(|end| shell.rsplit('/').next() == Some(end));
    (!shut && !name.is_empty() && !name.contains([',', ' ', '='])).then_some(*name)
}

fn groups_of(name: &str, gid: Option<&&str>, group: &str) -> Vec<String> {
    let mut groups = Vec::new();
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let member = fields.get(3).is_some_and(|list| list.split(',').any(|member| member == name));
        if member || (gid.is_some() && fields.get(2) == gid) {
            groups.extend(fields.first().map(|group| (*group).to_owned()));
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sshd_names_file_and_line() {
        for (said, want) in [
            ("/etc/ssh/sshd_config: line 3: Bad configuration option: x", Some("/etc/ssh/sshd_config:3")),
            ("/etc/ssh/sshd_config line 12: Bad yes/no argument: x", Some("/etc/ssh/sshd_config:12")),
            ("no such thing", None),
        ] {
            assert_eq!(place_of(said).as_deref(), want);
        }
    }

    #[test]
    fn accounts_that_can_log_in() {
        assert_eq!(login_name("a:x:1:1::/:/bin/bash"), Some("a"));
        assert_eq!(login_name("a:x:1:1::/:"), Some("a"));
        assert_eq!(login_name("a:x:1:1::/:/usr/sbin/nologin"), None);
        assert_eq!(groups_of("a", Some(&"5"), "x:x:5:\ny:x:6:b,a\nz:x:7:ab"), ["x", "y"]);
    }
}
