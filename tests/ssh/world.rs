//! A copy of a lab tree with two accounts, and a user outside of it with a home, keys and a configuration of its own.

use std::fs::{File, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keyward::host::real::RealHost;
use keyward::target::sandbox::{INSIDE_V4, INSIDE_V6};
use keyward::target::ssh::{Around, Destination, Link, Outcome, Output, Question, Settings, Wishes};
use keyward::target::talk::Limits;
use keyward::types::Secret;
use nix::sched::{CloneFlags, setns};
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey, PublicKey};

use super::support::Bed;

pub const ROOT_PASSWORD: &str = "canary root: it's \"$(1)\" long";
pub const DEPLOY_PASSWORD: &str = "canary deploy `2` \\ !";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The user outside.
pub struct Home {
    pub path: PathBuf,
    pub agent: Option<PathBuf>,
    pub client: Option<PathBuf>,
}

/// The copy and the user outside of it.
pub struct World {
    pub bed: Bed,
    pub home: Home,
    holder: Child,
}

pub fn fresh() -> PrivateKey {
    PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).unwrap()
}

/// One line without a comment.
pub fn public(key: &PrivateKey) -> String {
    PublicKey::new(key.public_key().key_data().clone(), "").to_openssh().unwrap()
}

impl Home {
    pub fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("keyward-ssh-{}-{number}", std::process::id()));
        std::fs::create_dir_all(path.join(".ssh")).unwrap();
        let home = Self { path, agent: None, client: None };
        home.write("config", "", 0o600);
        home
    }

    /// A file in `.ssh`.
    pub fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let file = self.path.join(".ssh").join(name);
        let _ = std::fs::remove_file(&file);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        file
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path.join(".ssh").join(name)).unwrap_or_default()
    }

    /// A private key file; its public half is given back.
    pub fn key(&self, name: &str, passphrase: Option<&str>) -> String {
        let key = fresh();
        let line = public(&key);
        let key = match passphrase {
            Some(words) => key.encrypt(&mut russh::keys::key::safe_rng(), words).unwrap(),
            None => key,
        };
        self.write(name, &key.to_openssh(LineEnding::LF).unwrap(), 0o600);
        line
    }

    pub fn around(&self) -> Around {
        Around {
            home: self.path.clone(),
            user: "tester".to_owned(),
            agent: self.agent.clone(),
            client: self.client.clone(),
            own_account: false,
            config: Some(self.path.join(".ssh/config")),
        }
    }

    /// Connects from this thread's network.
    pub fn open(&self, target: &str, answers: Answers, tweak: impl FnOnce(&mut Wishes<'_>)) -> Outcome<Link> {
        let (probe, around) = (RealHost::new(), self.around());
        let destination = Destination::parse(target)?;
        let settings = Settings::of(&destination, &around, &probe)?;
        let ask = |question: &Question| answers(question).map(|answer| Secret::new(answer.to_owned()));
        let mut wishes = Wishes::new(&probe, &around, &ask);
        wishes.login_limit = Duration::from_secs(20);
        tweak(&mut wishes);
        Link::open(&destination, &settings, &wishes)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// What the user answers.
pub type Answers = fn(&Question) -> Option<&'static str>;

/// Nothing is known.
pub fn mute(_: &Question) -> Option<&'static str> {
    None
}

/// The accounts' passwords, once each, and the passphrase of key files.
pub fn passwords(question: &Question) -> Option<&'static str> {
    match question {
        Question::Passphrase { attempt: 0, .. } => Some("wrong passphrase"),
        Question::Passphrase { .. } => Some("canary passphrase"),
        Question::Password { user, attempt: 0, .. } | Question::Prompt { user, attempt: 0, echo: false, .. } => {
            Some(if user == "root" { ROOT_PASSWORD } else { DEPLOY_PASSWORD })
        }
        _ => None,
    }
}

impl World {
    /// `None` where the copy cannot be had and that is allowed.
    #[track_caller]
    pub fn new(name: &str, suite: &str) -> Option<Self> {
        let bed = Bed::new(name, suite)?;
        bed.sh("useradd -m -s /bin/bash deploy; install -d -m 700 -o deploy -g deploy /home/deploy/.ssh; install -d -m 700 /root/.ssh")
            .ok();
        let accounts = format!("root:{ROOT_PASSWORD}\ndeploy:{DEPLOY_PASSWORD}\n");
        bed.run_with(&["/usr/sbin/chpasswd", "-c", "SHA512"], accounts.as_bytes()).ok();
        let mut command = bed.sandbox.outside_program("/bin/sh").unwrap();
        command.args(["-c", "echo ready; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let world = Self { bed, home: Home::new(), holder };
        world.sshd("");
        let key = world.bed.read("/etc/ssh/ssh_host_ed25519_key.pub");
        let key = key.rsplit_once(' ').unwrap().0.to_owned();
        world.home.write("known_hosts", &format!("{INSIDE_V4},{INSIDE_V6} {key}\n"), 0o600);
        Some(world)
    }

    /// Lays a drop-in before all others and reloads sshd. Failed logins cost nothing unless the text says so.
    #[track_caller]
    pub fn sshd(&self, text: &str) {
        let new = self.bed.run(&["/usr/bin/test", "-e", "/usr/lib/openssh/sshd-session"]).code == 0;
        let penalties = if new && !text.contains("PerSourcePenalties") { "PerSourcePenalties no\n" } else { "" };
        let root = if text.contains("PermitRootLogin") { "" } else { "PermitRootLogin yes\n" };
        let text = format!("{text}{penalties}{root}");
        self.bed.plant("/etc/ssh/sshd_config.d/00-test.conf", text.as_bytes(), 0o600, (0, 0));
        let reload = "sshd -t; old=$(cat /run/sshd.pid); rm /run/sshd.pid; kill -HUP $old
             i=0; until [ -s /run/sshd.pid ] || [ $i -gt 200 ]; do i=$((i+1)); sleep 0.02; done; [ -s /run/sshd.pid ]";
        self.bed.sh(reload).ok();
    }

    /// Puts lines into an account's authorized_keys.
    pub fn authorize(&self, user: &str, lines: &str) {
        let (home, owner) = if user == "root" { ("/root", (0, 0)) } else { ("/home/deploy", (1000, 1000)) };
        self.bed.plant(&format!("{home}/.ssh/authorized_keys"), lines.as_bytes(), 0o600, owner);
    }

    /// Runs `work` in the network outside of the copy, in a thread of its own.
    pub fn outside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let net = File::open(format!("/proc/{}/ns/net", self.holder.id())).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(net, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    pub fn open(&self, target: &str, answers: Answers, tweak: impl FnOnce(&mut Wishes<'_>) + Send) -> Outcome<Link> {
        self.outside(|| self.home.open(target, answers, tweak))
    }

    /// Logs in as root by password.
    #[track_caller]
    pub fn root(&self) -> Link {
        let link = self.open(&format!("ssh://root@{INSIDE_V4}"), passwords, |wishes| wishes.passwords = true);
        link.unwrap_or_else(|setback| panic!("{setback}"))
    }

    /// Logs in as deploy by password.
    #[track_caller]
    pub fn deploy(&self) -> Link {
        let link = self.open(&format!("ssh://deploy@{INSIDE_V4}"), passwords, |wishes| wishes.passwords = true);
        link.unwrap_or_else(|setback| panic!("{setback}"))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Runs a command and gives its output as text.
#[track_caller]
pub fn said(link: &Link, command: &str) -> String {
    let Output { code, stdout, stderr } = link.exec(command, b"", Limits::default()).unwrap();
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// A client whose `ssh -G` is asked: the copy's own tree has one, whatever this machine has.
pub fn client(home: &Home, tree: &Path) -> PathBuf {
    let arch = std::env::consts::ARCH;
    let script = format!(
        "#!/bin/sh\nt={}\nexec $t/usr/lib/{arch}-linux-gnu/ld-linux-*.so.* --library-path $t/usr/lib/{arch}-linux-gnu $t/usr/bin/ssh \"$@\"\n",
        tree.display()
    );
    home.write("client", &script, 0o700)
}
