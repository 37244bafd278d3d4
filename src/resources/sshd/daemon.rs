//! How the daemon is started: options that beat its configuration file, and the socket unit. Read from unit files
//! (systemd.unit(5)), /etc/default/ssh and the running daemon; must not ask systemd, which costs more than all the rest.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::facts::{Facts, Init, SSHD_PID, SshdMode};
use crate::formats::unit::{self, Setting, list, shell_variables, words};
use crate::host::{Actor, Probe};
use crate::types::{AbsPath, Word as _};

/// Where unit files are, the first with a file of a name wins (systemd.unit(5)).
const UNIT_DIRS: [&str; 9] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// Debian's options for the daemon.
const DEFAULTS: &str = "/etc/default/ssh";
/// Ubuntu's generator, which makes the socket's addresses from sshd_config at each daemon-reload.
const GENERATORS: [&str; 2] = [
    "/usr/lib/systemd/system-generators/sshd-socket-generator",
    "/lib/systemd/system-generators/sshd-socket-generator",
];

/// An option of the daemon's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// `p`, `o`, `f` and so on.
    pub letter: char,
    /// Its value.
    pub value: String,
    /// File and line that set it.
    pub place: String,
}

/// ssh.socket as its unit files say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Socket {
    /// `ListenStream=` values in force, in order.
    pub streams: Vec<String>,
    /// True when each connection starts an sshd of its own.
    pub accept: bool,
    /// True when the addresses are generated from sshd_config.
    pub generated: bool,
    /// True when stopping the service would end the sessions of everybody (KillMode= other than `process`).
    pub kills_sessions: bool,
}

/// How the daemon is started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Daemon {
    /// Options with a value.
    pub flags: Vec<Flag>,
    /// The socket, when it is the one that listens.
    pub socket: Option<Socket>,
}

/// Looks at how the daemon is started.
///
/// # Errors
/// When a unit file or /etc/default/ssh cannot be read.
pub fn look(facts: &Facts, probe: &dyn Probe) -> Result<Daemon> {
    let socket = match facts.sshd_mode {
        SshdMode::Socket => Some(socket(probe)?),
        _ => None,
    };
    let flags = match facts.init {
        Init::Systemd => {
            let accept = socket.as_ref().is_some_and(|socket| socket.accept);
            unit_flags(probe, if accept { "ssh@.service" } else { "ssh.service" })?
        }
        Init::Other => match running(probe)? {
            Some(flags) => flags,
            None => default_flags(probe)?,
        },
    };
    Ok(Daemon { flags, socket })
}

fn text(probe: &dyn Probe, path: &str) -> Result<Option<String>> {
    let Ok(path) = AbsPath::parse(path) else { return Ok(None) };
    if probe.meta(&path, &Actor::Root)?.is_none() {
        return Ok(None);
    }
    Ok(probe.read(&path, &Actor::Root)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The lines of a unit and its drop-ins in the order in which systemd reads them.
fn unit(probe: &dyn Probe, names: &[&str]) -> Result<Vec<Setting>> {
    let mut lines = Vec::new();
    if let Some(name) = names.first() {
        for dir in UNIT_DIRS {
            let path = format!("{dir}/{name}");
            if let Some(text) = text(probe, &path)? {
                unit::read(&path, &text, &mut lines);
                break;
            }
        }
    }
    let mut drop_ins = BTreeMap::new();
    for dir in UNIT_DIRS {
        for name in names {
            let Ok(dir) = AbsPath::parse(&format!("{dir}/{name}.d")) else { continue };
            if probe.meta(&dir, &Actor::Root)?.is_none() {
                continue;
            }
            let files = probe.list(&dir, &Actor::Root)?.unwrap_or_default();
            for file in files.into_iter().filter(|file| file.ends_with(".conf")) {
                drop_ins.entry(file.clone()).or_insert_with(|| format!("{dir}/{file}"));
            }
        }
    }
    for path in drop_ins.values() {
        unit::read(path, &text(probe, path)?.unwrap_or_default(), &mut lines);
    }
    Ok(lines)
}

fn socket(probe: &dyn Probe) -> Result<Socket> {
    let lines = unit(probe, &["ssh.socket", "sshd.socket"])?;
    let accept = lines.iter().rev().find(|(_, key, _)| key == "Accept").is_some_and(|(_, _, value)| {
        ["yes", "true", "on", "1", "y", "t"].iter().any(|word| value.eq_ignore_ascii_case(word))
    });
    let mut generated = false;
    for path in GENERATORS {
        generated |= probe.has_program(path);
    }
    let streams = list(&lines, "ListenStream").into_iter().map(|(_, value)| value).collect();
    let service = unit(probe, &["ssh.service", "sshd.service"])?;
    let kill_mode = service.iter().rev().find(|(_, key, _)| key == "KillMode").map(|(_, _, value)| value.as_str());
    Ok(Socket { streams, accept, generated, kills_sessions: !accept && kill_mode != Some("process") })
}

fn unit_flags(probe: &dyn Probe, name: &str) -> Result<Vec<Flag>> {
    let alias = if name == "ssh.service" { "sshd.service" } else { "sshd@.service" };
    let lines = unit(probe, &[name, alias])?;
    let mut environment: BTreeMap<String, (String, String)> = BTreeMap::new();
    for (place, value) in list(&lines, "Environment") {
        for word in words(&value) {
            if let Some((name, value)) = word.split_once('=') {
                environment.insert(name.to_owned(), (place.clone(), value.to_owned()));
            }
        }
    }
    for (_, file) in list(&lines, "EnvironmentFile") {
        let file = file.trim_start_matches('-');
        for (place, name, value) in shell_variables(file, &text(probe, file)?.unwrap_or_default()) {
            environment.insert(name, (place, value));
        }
    }
    let mut argv = Vec::new();
    for (place, command) in list(&lines, "ExecStart") {
        for word in words(&command) {
            let variable = word.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).or(word.strip_prefix('$'));
            match variable {
                None => argv.push((place.clone(), word)),
                Some(name) => {
                    let Some((place, value)) = environment.get(name) else { continue };
                    argv.extend(words(value).into_iter().map(|word| (place.clone(), word)));
                }
            }
        }
    }
    Ok(flags(argv.into_iter().skip(1)))
}

/// /etc/default/ssh, as the init script reads it.
fn default_flags(probe: &dyn Probe) -> Result<Vec<Flag>> {
    let text = text(probe, DEFAULTS)?.unwrap_or_default();
    let options = shell_variables(DEFAULTS, &text).into_iter().rev().find(|(_, name, _)| name == "SSHD_OPTS");
    Ok(options
        .map_or_else(Vec::new, |(place, _, value)| flags(words(&value).into_iter().map(|word| (place.clone(), word)))))
}

/// The command line of the daemon that runs, from its title; `None` when none is found.
fn running(probe: &dyn Probe) -> Result<Option<Vec<Flag>>> {
    let Some(pid) = text(probe, SSHD_PID)?.and_then(|text| text.trim().parse::<u32>().ok()) else { return Ok(None) };
    let name = text(probe, &format!("/proc/{pid}/comm"))?.unwrap_or_default();
    if name.trim() != "sshd" {
        return Ok(None);
    }
    let place = format!("/proc/{pid}/cmdline");
    let line = text(probe, &place)?.unwrap_or_default().replace('\0', " ");
    let line = line.trim().strip_prefix("sshd: ").unwrap_or(line.trim()).to_owned();
    let argv = words(&line).into_iter().take_while(|word| word != "[listener]");
    Ok(Some(flags(argv.skip(1).map(|word| (place.clone(), word)))))
}

/// Options with values of sshd(8).
const WITH_VALUE: &str = "CEbcfghkopu";

/// Reads options as getopt(3) does.
fn flags(argv: impl Iterator<Item = (String, String)>) -> Vec<Flag> {
    let mut out = Vec::new();
    let mut argv = argv.peekable();
    while let Some((place, word)) = argv.next() {
        let Some(cluster) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else { continue };
        for (at, letter) in cluster.char_indices() {
            if !WITH_VALUE.contains(letter) {
                continue;
            }
            let rest = cluster.get(at + letter.len_utf8()..).unwrap_or_default();
            let value =
                if rest.is_empty() { argv.next().map(|(_, word)| word).unwrap_or_default() } else { rest.to_owned() };
            out.push(Flag { letter, value, place: place.clone() });
            break;
        }
    }
    out
}

impl Daemon {
    /// The configuration file that `-f` names, if any.
    pub fn config(&self) -> Option<&str> {
        self.flags.iter().rev().find(|flag| flag.letter == 'f').map(|flag| flag.value.as_str())
    }

    /// `-o` options: place, keyword in lower case, value.
    pub fn options(&self) -> Vec<(String, String, String)> {
        let option = |flag: &Flag| {
            let (keyword, value) = flag.value.split_once(['=', ' ', '\t'])?;
            Some((flag.place.clone(), keyword.trim().to_ascii_lowercase(), value.trim().to_owned()))
        };
        self.flags.iter().filter(|flag| flag.letter == 'o').filter_map(option).collect()
    }

    /// Ports that the command line sets, with their places.
    pub fn ports(&self) -> Vec<(String, String)> {
        let by_p =
            self.flags.iter().filter(|flag| flag.letter == 'p').map(|flag| (flag.place.clone(), flag.value.clone()));
        let by_o = self.options().into_iter().filter(|(_, keyword, _)| keyword == "port" || keyword == "listenaddress");
        by_p.chain(by_o.map(|(place, _, value)| (place, value))).collect()
    }
}

impl Socket {
    /// The ports of its streams, sorted, each once.
    pub fn ports(&self) -> Vec<u16> {
        let ports: BTreeSet<u16> =
            self.streams.iter().filter_map(|stream| split(stream)).map(|(_, port)| port).collect();
        ports.into_iter().collect()
    }
}

/// Splits a `ListenStream=` value into its address with a colon (empty for all) and its port.
pub fn split(stream: &str) -> Option<(&str, u16)> {
    match stream.rsplit_once(':') {
        Some((address, port)) => Some((stream.get(..address.len() + 1)?, port.parse().ok()?)),
        None => Some(("", stream.parse().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> Vec<(char, String)> {
        flags(words(text).into_iter().map(|word| (String::new(), word)))
            .into_iter()
            .map(|f| (f.letter, f.value))
            .collect()
    }

    #[test]
    fn options_of_the_daemon() {
        let want = |pairs: &[(char, &str)]| pairs.iter().map(|(c, v)| (*c, (*v).to_owned())).collect::<Vec<_>>();
        assert_eq!(seen("-D -p 22 -oPort=23"), want(&[('p', "22"), ('o', "Port=23")]));
        assert_eq!(seen("-Dp2222 -o 'PermitRootLogin yes'"), want(&[('p', "2222"), ('o', "PermitRootLogin yes")]));
        assert_eq!(seen("-D -e"), want(&[]));
        let daemon =
            Daemon { flags: flags(words("-oPort=23 -f /x").into_iter().map(|w| ("a:1".into(), w))), socket: None };
        assert_eq!(daemon.ports(), [("a:1".to_owned(), "23".to_owned())]);
        assert_eq!(daemon.config(), Some("/x"));
    }

    #[test]
    fn streams() {
        assert_eq!(split("22"), Some(("", 22)));
        assert_eq!(split("[::]:22"), Some(("[::]:", 22)));
        assert_eq!(split("10.0.0.1:2022"), Some(("10.0.0.1:", 2022)));
        assert_eq!(split("/run/x"), None);
    }
}
