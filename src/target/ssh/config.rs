//! The effective settings of the user's ssh client for a host: read by [`super::config_file`] where the files are plain, else
//! asked of `ssh -G` where a client is installed, since nothing reads its configuration better. Must not connect.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::{Destination, check_host, check_user};
use super::config_file;
use crate::error::{Failure, Result};
use crate::host::{Command, Probe};

/// A `Match exec` of the user's may take its time, not for ever.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// Largest configuration, known_hosts or key file that is read.
pub(super) const FILE_LIMIT: u64 = 4 << 20;
/// Names that ssh tries without being told; a key file of another name was meant.
const DEFAULT_KEYS: [&str; 5] = ["id_ed25519", "id_ecdsa", "id_rsa", "id_ed25519_sk", "id_ecdsa_sk"];

/// Whose configuration is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Around {
    /// Home of the user who runs keyward.
    pub home: PathBuf,
    /// Its name.
    pub user: String,
    /// Socket of its agent, SSH_AUTH_SOCK.
    pub agent: Option<PathBuf>,
    /// The client to be asked; `None`: the files are read by keyward itself.
    pub client: Option<PathBuf>,
    /// True when home and name are also what the client finds in the user database, and it need not read plain files for us.
    pub own_account: bool,
    /// A configuration file instead of the user's and the machine's.
    pub config: Option<PathBuf>,
}

impl Around {
    /// The user who runs this process. `HOME` and `USER` are taken as they are: whoever sets them is that user.
    pub fn here() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let client = PathBuf::from("/usr/bin/ssh");
        let home = text("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
        let user = text("USER").or_else(|| text("LOGNAME")).unwrap_or_else(|| "root".to_owned());
        Self {
            own_account: account(nix::unistd::getuid().as_raw()) == Some((user.clone(), home.clone())),
            home,
            user,
            agent: text("SSH_AUTH_SOCK").map(PathBuf::from),
            client: client.exists().then_some(client),
            config: None,
        }
    }

    /// The user's own configuration file.
    pub(super) fn config_file(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| self.home.join(".ssh/config"))
    }

    /// The names under which ssh looks for keys.
    pub(super) fn default_keys(&self) -> impl Iterator<Item = PathBuf> + '_ {
        DEFAULT_KEYS.iter().map(|name| self.home.join(".ssh").join(name))
    }

    fn default_known_hosts(&self) -> Vec<PathBuf> {
        ["known_hosts", "known_hosts2"].iter().map(|name| self.home.join(".ssh").join(name)).collect()
    }
}

/// What holds for one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name as it was typed.
    pub typed: String,
    /// The name or address to connect to.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The account.
    pub user: String,
    /// Key files, in order; the default names come last.
    pub identity_files: Vec<PathBuf>,
    /// True: only those keys, whatever the agent holds.
    pub identities_only: bool,
    /// Certificates for keys.
    pub certificate_files: Vec<PathBuf>,
    /// The agent's socket.
    pub agent: Option<PathBuf>,
    /// Hosts to go through, in order.
    pub jumps: Vec<Destination>,
    /// A program whose standard input and output are the connection.
    pub proxy_command: Option<String>,
    /// The user's known_hosts; what is accepted is added to the first.
    pub known_hosts: Vec<PathBuf>,
    /// The machine's known_hosts.
    pub global_known_hosts: Vec<PathBuf>,
    /// The name under which the host key is known.
    pub host_key_alias: Option<String>,
    /// The port under which it is known, where that is not the port itself: sshd has moved.
    pub key_port: Option<u16>,
}

impl Settings {
    /// The settings of `destination`; what it says itself wins.
    ///
    /// # Errors
    /// When the configuration cannot be trusted or read, or names what cannot be a host or a user.
    pub fn of(destination: &Destination, around: &Around, probe: &dyn Probe) -> Result<Self> {
        let file = around.config_file();
        check_owner(&file)?;
        let pairs = match &around.client {
            Some(client) => {
                let plain = around.own_account.then(|| config_file::of_plain_files(destination, around)).flatten();
                plain.map_or_else(|| ask_client(client, destination, around, probe), Ok)?
            }
            None => config_file::effective(destination, around)?,
        };
        Self::from_pairs(destination, around, &pairs)
    }

    /// Nothing but what was typed and ssh's defaults.
    pub fn plain(destination: &Destination, around: &Around) -> Self {
        Self {
            typed: destination.host.clone(),
            host: destination.host.clone(),
            port: destination.port.unwrap_or(22),
            user: destination.user.clone().unwrap_or_else(|| around.user.clone()),
            identity_files: around.default_keys().collect(),
            identities_only: false,
            certificate_files: Vec::new(),
            agent: around.agent.clone(),
            jumps: Vec::new(),
            proxy_command: None,
            known_hosts: around.default_known_hosts(),
            global_known_hosts: vec!["/etc/ssh/ssh_known_hosts".into(), "/etc/ssh/ssh_known_hosts2".into()],
            host_key_alias: None,
            key_port: None,
        }
    }

    /// From `name value` pairs with names in lower case, the first of a name first.
    fn from_pairs(destination: &Destination, around: &Around, pairs: &[(String, String)]) -> Result<Self> {
        let mut settings = Self::plain(destination, around);
        let first = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let all = |name: &str| {
            let named = pairs.iter().filter(|(key, value)| key == name && value != "none");
            named.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
        };
        let bad = |name: &str, why: &str| {
            Failure::input(
                around.config_file().display().to_string(),
                format!("{name} of {destination} cannot be used"),
            )
            .why(why)
            .hint(format!("see what your client makes of it: ssh -G {}", destination.host))
        };
        if let Some(host) = first("hostname") {
            let host = host.replace("%h", &destination.host).replace("%%", "%").to_ascii_lowercase();
            check_host(&host).map_err(|why| bad("HostName", why))?;
            settings.host = host;
        }
        if let (None, Some(port)) = (destination.port, first("port")) {
            settings.port = port.parse().ok().filter(|port| *port != 0).ok_or_else(|| bad("Port", "no port"))?;
        }
        if let (None, Some(user)) = (&destination.user, first("user")) {
            user.clone_into(&mut settings.user);
        }
        check_user(&settings.user).map_err(|why| bad("User", why))?;
        let path = |text: &str| expand(text, around, &settings);
        let files = all("identityfile").into_iter().filter_map(path).collect::<Vec<_>>();
        let certificates = all("certificatefile").into_iter().filter_map(path).collect();
        let agent = match first("identityagent") {
            None | Some("SSH_AUTH_SOCK" | "$SSH_AUTH_SOCK") => around.agent.clone(),
            Some("none") => None,
            Some(text) => match text.strip_prefix('$') {
                Some(name) => std::env::var(name).ok().map(PathBuf::from),
                None => expand(text, around, &settings),
            },
        };
        // A file that is left out could be the one that revokes the key, or knows another.
        let list = |name: &str, default: &[PathBuf]| -> Result<Vec<PathBuf>> {
            let Some(value) = first(name) else { return Ok(default.to_vec()) };
            let one = |word: &str| {
                let odd = word.contains(['$', '"']) || (word.starts_with('~') && !word.starts_with("~/"));
                path(word).filter(|_| !odd).ok_or_else(|| bad(name, "a path that keyward does not resolve"))
            };
            value.split_whitespace().filter(|word| *word != "none").map(one).collect()
        };
        let known_hosts = list("userknownhostsfile", &settings.known_hosts)?;
        let global_known_hosts = list("globalknownhostsfile", &settings.global_known_hosts)?;
        if first("revokedhostkeys").is_some_and(|file| file != "none") {
            return Err(bad("RevokedHostKeys", "keyward does not read such files")
                .hint("put those keys into known_hosts, each as: @revoked * TYPE KEY"));
        }
        if let Some(alias) = first("hostkeyalias").filter(|alias| *alias != "none") {
            check_host(alias).map_err(|why| bad("HostKeyAlias", why))?;
            settings.host_key_alias = Some(alias.to_ascii_lowercase());
        }
        // The first of the two that is named wins, as in ssh_config(5); ssh -G prints only that one.
        let proxy = pairs.iter().find(|(key, _)| key == "proxyjump" || key == "proxycommand");
        match proxy.filter(|(_, value)| value != "none") {
            Some((key, value)) if key == "proxyjump" => {
                settings.jumps = value.split(',').map(|hop| Destination::parse(hop.trim())).collect::<Result<_>>()?;
            }
            Some((_, value)) => settings.proxy_command = Some(value.clone()),
            None => {}
        }
        if !files.is_empty() {
            let (mut named, defaults): (Vec<_>, Vec<_>) =
                files.into_iter().partition(|file| !around.default_keys().any(|default| default == *file));
            named.extend(defaults);
            settings.identity_files = named;
        }
        settings.identities_only = first("identitiesonly") == Some("yes");
        Ok(Self { certificate_files: certificates, agent, known_hosts, global_known_hosts, ..settings })
    }

    /// The name under which the host key is looked for, and the port that goes with it: an alias stands for itself.
    pub fn key_name(&self) -> (&str, u16) {
        let port = self.key_port.unwrap_or(self.port);
        self.host_key_alias.as_deref().map_or((self.host.as_str(), port), |alias| (alias, 22))
    }
}

/// `~` and the tokens that a path of ssh_config(5) may hold; `None` for one with others, which is not looked for.
fn expand(text: &str, around: &Around, settings: &Settings) -> Option<PathBuf> {
    let text = text.trim_matches('"');
    let text = text.strip_prefix("~/").map_or_else(|| text.to_owned(), |rest| format!("%d/{rest}"));
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next()? {
            '%' => out.push('%'),
            'd' => out.push_str(around.home.to_str()?),
            'h' => out.push_str(&settings.host),
            'n' => out.push_str(&settings.typed),
            'p' => out.push_str(&settings.port.to_string()),
            'r' => out.push_str(&settings.user),
            'u' => out.push_str(&around.user),
            _ => return None,
        }
    }
    let path = PathBuf::from(out);
    Some(if path.is_absolute() { path } else { around.home.join(".ssh").join(path) })
}

/// Name and home of a user of this machine; `None` where /etc/passwd does not name it.
fn account(uid: u32) -> Option<(String, PathBuf)> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    let of = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid))
            .then(|| Some((fields.first()?.to_string(), fields.get(5)?.into())))
            .flatten()
    };
    text.lines().find_map(of)
}

/// A configuration that others can write makes this user run their programs (ProxyCommand, `Match exec`).
///
/// # Errors
/// Refused when somebody else owns it or can write it.
fn check_owner(file: &Path) -> Result<()> {
    let Ok(meta) = std::fs::metadata(file) else { return Ok(()) };
    let ours = meta.uid() == 0 || meta.uid() == nix::unistd::geteuid().as_raw();
    if ours && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    let name = file.display();
    Err(Failure::refused(name.to_string(), "others can write this configuration, and it can name programs to run")
        .why(format!("mode {:o}, owner {}", meta.mode() & 0o7777, meta.uid()))
        .hint(format!("ls -l {name}; chmod go-w {name}")))
}

fn ask_client(
    client: &Path,
    destination: &Destination,
    around: &Around,
    probe: &dyn Probe,
) -> Result<Vec<(String, String)>> {
    let mut argv = vec![client.display().to_string(), "-G".to_owned()];
    if let Some(config) = &around.config {
        argv.extend(["-F".to_owned(), config.display().to_string()]);
    }
    if let Some(user) = &destination.user {
        argv.extend(["-l".to_owned(), user.clone()]);
    }
    if let Some(port) = destination.port {
        argv.extend(["-p".to_owned(), port.to_string()]);
    }
    argv.extend(["--".to_owned(), destination.host.clone()]);
    let command = Command::new(argv)
        .env("HOME", around.home.display().to_string())
        .env("USER", around.user.clone())
        .deadline(ASK_LIMIT);
    let output = probe.ask(&command)?;
    if !output.ok() {
        return Err(Failure::input(
            client.display().to_string(),
            format!("does not read its configuration for {destination}"),
        )
        .why(crate::proof::wire::plain(&output.last_line()))
        .hint(format!("ssh -G {}", destination.host)));
    }
    let pairs = output.stdout.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around() -> Around {
        Around {
            home: "/home/me".into(),
            user: "me".into(),
            agent: Some("/run/agent".into()),
            client: None,
            own_account: false,
            config: None,
        }
    }

    fn settings(destination: &str, text: &str) -> Result<Settings> {
        let pairs: Vec<_> = text.lines().filter_map(|line| line.split_once(' ')).collect();
        let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Settings::from_pairs(&Destination::parse(destination).unwrap(), &around(), &pairs)
    }

    #[test]
    fn what_is_typed_wins() {
        let found = settings("root@web:2222", "user deploy\nport 22\nhostname %h.example").unwrap();
        assert_eq!((found.user.as_str(), found.port, found.host.as_str()), ("root", 2222, "web.example"));
        let found = settings("web", "user deploy\nport 24").unwrap();
        assert_eq!((found.user.as_str(), found.port, found.host.as_str()), ("deploy", 24, "web"));
    }

    #[test]
    fn files_are_expanded_and_named_ones_come_first() {
        let text = "identityfile ~/.ssh/id_ed25519\nidentityfile ~/keys/%h-%r\nidentityfile %k\nidentityagent none\n\
                    userknownhostsfile ~/.ssh/a /b\nproxyjump a@one:22,two\nproxycommand never\nidentitiesonly yes";
        let found = settings("root@web", text).unwrap();
        assert_eq!(found.identity_files, [Path::new("/home/me/keys/web-root"), Path::new("/home/me/.ssh/id_ed25519")]);
        assert_eq!(found.known_hosts, [Path::new("/home/me/.ssh/a"), Path::new("/b")]);
        assert_eq!((found.agent, found.proxy_command, found.identities_only), (None, None, true));
        let hops: Vec<String> = found.jumps.iter().map(ToString::to_string).collect();
        assert_eq!(hops, ["a@one:22", "two"]);
        let direct = settings("root@web", "proxycommand none\nproxyjump bastion").unwrap();
        assert!(direct.jumps.is_empty() && direct.proxy_command.is_none());
        assert_eq!(settings("web", "identityagent SSH_AUTH_SOCK").unwrap().agent, Some("/run/agent".into()));
    }

    #[test]
    fn no_file_that_may_revoke_a_key_is_left_out() {
        for bad in [
            "revokedhostkeys /etc/ssh/revoked",
            "userknownhostsfile ~/.ssh/a ~/.ssh/%k",
            "userknownhostsfile ${HOME}/known",
            "globalknownhostsfile ~root/known",
            "userknownhostsfile \"/a b\"",
        ] {
            assert!(settings("web", bad).is_err(), "{bad}");
        }
        assert!(settings("web", "userknownhostsfile none\nrevokedhostkeys none").unwrap().known_hosts.is_empty());
    }

    #[test]
    fn words_of_the_configuration_pass_the_same_rules() {
        for bad in [
            "hostname -oProxyCommand=x",
            "hostname a;b",
            "user $(id)",
            "port 0",
            "port x",
            "proxyjump a;b",
            "hostkeyalias a b",
        ] {
            assert!(settings("web", bad).is_err(), "{bad}");
        }
    }
}
