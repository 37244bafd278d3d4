//! What the checks look at, read once.

use std::cell::OnceCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::access::{DROP_INS, Doors, Look, Supposed, is_read, ways_of};
use crate::error::{Failure, Result};
use crate::facts::{Facts, SSHD, SSHD_PID, SshdMode, socket_ports};
use crate::formats::sshd_effective::Effective;
use crate::host::{Actor, Command, Listener, Probe};
use crate::outcome::ways::Ways;
use crate::types::{AbsPath, Word as _};

/// One look at a host.
pub struct Scene<'a> {
    /// Reads.
    pub probe: &'a dyn Probe,
    /// What kind of host it is.
    pub facts: &'a Facts,
    /// Account databases and sshd's files.
    pub look: Look<'a>,
    ways: Result<Ways>,
    doors: Result<Doors>,
    listeners: Result<Vec<Listener>>,
    stale: OnceCell<Result<Option<Stale>>>,
}

/// How the running sshd may be another one than its files say.
#[derive(Debug, Clone)]
pub enum Stale {
    /// It has not read this file since it changed.
    Since(String),
    /// That cannot be told.
    Unknown(String),
}

/// An option of sshd(8) that changes what its files say: another file, a directive, a port, an address family.
fn said_at_start(line: &str) -> Option<String> {
    let line = line.trim().strip_prefix("sshd: ").unwrap_or(line.trim());
    let words = line.split_whitespace().take_while(|word| *word != "[listener]");
    let changes = |word: &&str| {
        word.strip_prefix('-')
            .is_some_and(|rest| rest.starts_with(|c: char| !"-DdeiqRtTGV".contains(c)) || rest.contains('o'))
    };
    words.into_iter().find(changes).map(str::to_owned)
}

/// Seconds with nine digits after the point, as stat(1) prints them.
fn nanos(text: &str) -> Option<i128> {
    let (seconds, rest) = text.split_once('.')?;
    let (seconds, rest): (i128, i128) = (seconds.parse().ok()?, rest.parse().ok().filter(|_| rest.len() == 9)?);
    Some(seconds * 1_000_000_000 + rest)
}

/// Bit of CAP_NET_ADMIN in the sets of proc_pid_status(5); without it the kernel shows no rules (capabilities(7)).
const NET_ADMIN: u32 = 12;

/// True in a container that has no say over its own network.
pub fn hides_rules(facts: &Facts, probe: &dyn Probe) -> bool {
    let status = probe.read(&AbsPath::fixed("/proc/self/status"), &Actor::Root).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&status);
    let effective = text.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    facts.container && effective.is_some_and(|set| set >> NET_ADMIN & 1 == 0)
}

impl<'a> Scene<'a> {
    /// Looks. What cannot be read is unknown to the checks that need it.
    ///
    /// # Errors
    /// When the account databases or sshd's files cannot be read: nothing could be said then.
    pub fn new(facts: &'a Facts, probe: &'a dyn Probe) -> Result<Self> {
        let mut look = Look::new(facts, probe, None)?;
        // What is not proven to be kept out counts as let in.
        let sshd_runs = facts.sshd_mode == SshdMode::Stopped;
        look.supposed = Supposed { sshd_runs, no_firewall: hides_rules(facts, probe), lasting: true };
        let (ways, doors) = (ways_of(&look, &[]), Doors::new(&look));
        Ok(Self { probe, facts, look, ways, doors, listeners: probe.listeners(), stale: OnceCell::new() })
    }

    /// True where sshd is judged by its files as if it ran.
    pub const fn supposes_sshd(&self) -> bool {
        self.look.supposed.sshd_runs
    }

    /// True where the kernel's rules cannot be seen, since whoever runs the container keeps them to himself.
    pub const fn has_hidden_rules(&self) -> bool {
        self.look.supposed.no_firewall
    }

    /// Who can get in.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub fn ways(&self) -> Result<&Ways> {
        self.ways.as_ref().map_err(Clone::clone)
    }

    /// sshd's doors and the firewall of both families.
    ///
    /// # Errors
    /// Why they cannot be told.
    pub fn doors(&self) -> Result<&Doors> {
        self.doors.as_ref().map_err(Clone::clone)
    }

    /// All TCP sockets that listen.
    ///
    /// # Errors
    /// Why they cannot be told.
    pub fn listeners(&self) -> Result<&[Listener]> {
        self.listeners.as_deref().map_err(Clone::clone)
    }

    /// `file:line` of the first directive of a keyword of sshd; empty where the default holds.
    pub fn place(&self, keyword: &str) -> String {
        Some(self.look.place(keyword)).filter(|place| place.starts_with('/')).unwrap_or_default()
    }

    /// Where a condition of sshd asks for what is not asked about: anything but the account and the address that somebody
    /// comes from.
    pub fn by_socket(&self) -> Option<String> {
        let mut conditions =
            self.look.directives().filter(|(_, directive)| directive.keyword.eq_ignore_ascii_case("match"));
        let is_asked =
            |word: &str| ["user", "group", "address", "all"].iter().any(|name| word.eq_ignore_ascii_case(name));
        let asks = |args: &[String]| {
            // A criterion, and its patterns as the next word or after an equals sign.
            let mut words = args.iter();
            let mut other = false;
            while let Some(word) = words.next() {
                let (name, joined) = word.split_once('=').map_or((word.as_str(), false), |(name, _)| (name, true));
                other |= !is_asked(name);
                if !joined && !name.eq_ignore_ascii_case("all") {
                    words.next();
                }
            }
            other
        };
        let (place, _) = conditions.find(|(_, directive)| asks(&directive.args))?;
        Some(format!("{place}: a Match on more than account and address (such as Host or LocalPort) is not judged"))
    }

    /// Where a keyword of sshd is set for some only: below a Match, or in a file that is read from elsewhere.
    pub fn in_a_condition(&self, keyword: &str) -> Option<String> {
        let mut below = None;
        for (place, directive) in self.look.directives() {
            let file = place.rsplit_once(':').map(|(file, _)| file.to_owned()).unwrap_or_default();
            match directive.keyword.to_ascii_lowercase().as_str() {
                "match" => below = Some(file),
                "include" if below.as_ref() == Some(&file) || !is_read(directive) => return Some(place),
                name if name.eq_ignore_ascii_case(keyword) && below.as_ref() == Some(&file) => return Some(place),
                _ => {}
            }
        }
        None
    }

    /// Lines of /etc/passwd that are no plain account, each as `file:line` and what it is, and where accounts come from
    /// besides: any of them may be what is looked for.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn unread_accounts(&self) -> Result<Vec<(String, String)>> {
        let odd = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let uid = fields.get(2).copied().unwrap_or_default();
            let is_number = uid.bytes().all(|c| c.is_ascii_digit()) && uid.parse::<u32>().is_ok();
            !line.trim().is_empty() && !line.starts_with('#') && (fields.len() != 7 || !is_number)
        };
        let text = self.look.text("/etc/passwd")?;
        let lines = text.lines().enumerate().filter(|(_, line)| odd(line));
        let mut found: Vec<(String, String)> = lines
            .map(|(index, _)| (format!("/etc/passwd:{}", index + 1), "a line that is no plain account".to_owned()))
            .collect();
        let doors = &self.doors()?.unknown;
        let others = self.ways()?.unknown.iter().filter(|why| !doors.contains(why));
        found.extend(others.map(|why| (String::new(), why.clone())));
        Ok(found)
    }

    /// The ports that sshd has by its configuration, or by its socket.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn ssh_ports(&self, sshd: &Effective) -> Result<Vec<u16>> {
        let mut ports = sshd.ports();
        if self.facts.sshd_mode == SshdMode::Socket {
            ports = socket_ports(self.probe)?;
        }
        Ok(ports)
    }

    /// Why the running sshd may not be as its files say, if it may not. It writes its pid anew when it starts and when it is
    /// told to read its files (sshd(8), SIGHUP), so no file may have changed since.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn stale(&self, sshd: &Effective) -> Result<Option<Stale>> {
        self.stale.get_or_init(|| self.changed_since(sshd)).clone()
    }

    /// The command line of the daemon that runs. One that systemd's socket has started stays, and reads nothing anew, unless
    /// each connection has a daemon of its own.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn daemon(&self) -> Result<Option<String>> {
        if !matches!(self.facts.sshd_mode, SshdMode::Service | SshdMode::Socket) {
            return Ok(None);
        }
        let pid = self.look.text(SSHD_PID)?;
        let title = |pid: &str| {
            let path = AbsPath::parse(&format!("/proc/{pid}/cmdline")).ok()?;
            let bytes = self.probe.read(&path, &Actor::Root).ok()??;
            Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
        };
        let found = title(pid.trim()).filter(|title| title.contains("sshd"));
        Ok(match self.facts.sshd_mode {
            SshdMode::Service => Some(found.unwrap_or_default()),
            _ => found,
        })
    }

    /// What an sshd that does not run would be started with, where that changes its configuration.
    fn options_at_start(&self) -> Result<Option<String>> {
        let text = self.look.text("/etc/default/ssh")?;
        let set = text.lines().rev().find_map(|line| line.trim().strip_prefix("SSHD_OPTS="));
        Ok(set
            .and_then(|value| said_at_start(value.trim_matches(['"', '\''])))
            .map(|option| format!("/etc/default/ssh starts sshd with {option}, and what that changes is not judged")))
    }

    fn changed_since(&self, sshd: &Effective) -> Result<Option<Stale>> {
        let Some(title) = self.daemon()? else {
            // Each start reads them, and there will be one before anybody comes in.
            return Ok(self.options_at_start()?.map(Stale::Unknown));
        };
        if let Some(option) = said_at_start(&title) {
            return Ok(Some(Stale::Unknown(format!("sshd runs with {option}, and what that changes is not judged"))));
        }
        if let Some((place, _)) = self.look.directives().find(|(_, one)| one.keyword == "include" && !is_read(one)) {
            return Ok(Some(Stale::Unknown(format!("{place} includes a file that is not looked at"))));
        }
        let pid = sshd.get("pidfile").filter(|path| *path != "none").unwrap_or(SSHD_PID);
        let files = self.look.files().map(|path| path.as_str());
        let argv = ["/usr/bin/stat", "-L", "-c", "%.9Y %.9Z %n", pid, DROP_INS].into_iter().chain(files);
        let question = Command::new(argv);
        let mut said = self.probe.ask(&question)?.stdout;
        // It writes its pid when it listens already.
        let end = Instant::now() + Duration::from_secs(1);
        while !said.lines().any(|line| line.ends_with(pid)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
            said = self.probe.ask(&question)?.stdout;
        }
        let times = |line: &str| {
            let mut words = line.splitn(3, ' ');
            Some((nanos(words.next()?)?, nanos(words.next()?)?, words.next()?.to_owned()))
        };
        let all: Vec<(i128, i128, String)> = said.lines().filter_map(times).collect();
        let Some((read, ..)) = all.iter().find(|(.., name)| name == pid) else {
            return Ok(Some(Stale::Unknown(format!("{pid} does not tell when sshd read its files"))));
        };
        let newer = all.iter().find(|(_, changed, name)| name != pid && changed > read);
        Ok(newer.map(|(.., name)| Stale::Since(name.clone())))
    }

    /// What sshd says of its configuration; `None` where none is installed.
    ///
    /// # Errors
    /// Why it does not say.
    pub fn sshd(&self) -> Result<Option<Rc<Effective>>> {
        if !self.probe.has_program(SSHD) {
            return Ok(None);
        }
        let said = self.look.everybody();
        said.map(Some).map_err(|why| Failure::unknown("sshd -T", "does not say its configuration").why(why))
    }
}
