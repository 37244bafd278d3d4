//! Test bed: a real Debian in a throw-away copy of a lab tree, with its own processes, network, sshd and firewall.
//!
//! Needs root, overlayfs and the trees of `tests/lab/suite.sh`. Where it cannot run, a test says so and passes, unless
//! KEYWARD_LAB=required.
#![allow(dead_code)] // Each test file uses its own part.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

pub mod again;
pub mod machine;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyward::target::sandbox::{Booted, Options, Sandbox};
use keyward::types::{AbsPath, Word as _};

/// The suites every test over all of them uses.
pub const SUITES: [&str; 4] = ["bullseye", "bookworm", "trixie", "sid"];
/// The program under test.
pub const KEYWARD: &str = env!("CARGO_BIN_EXE_keyward");

/// A running copy of a lab tree.
pub struct Bed {
    /// The copy, for what the methods below do not do.
    pub sandbox: Sandbox,
    /// What the last boot said.
    pub booted: Booted,
}

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Done {
    /// Exit code; 128 and the signal for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Done {
    /// Itself, after a check that the exit code is 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

/// Says that a test cannot run here; fails instead when KEYWARD_LAB=required.
#[track_caller]
pub fn skipped(name: &str, reason: &str) {
    assert!(std::env::var("KEYWARD_LAB").as_deref() != Ok("required"), "{name} cannot run here: {reason}");
    println!("SKIPPED {name}: {reason}");
}

/// The lab tree of a suite, or why there is none. Builds it where debootstrap is at hand.
pub fn tree(suite: &str) -> Result<PathBuf, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("not root".to_owned());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/suite.sh");
    let output = Command::new("sh").arg(script).arg(suite).output().map_err(|error| error.to_string())?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !path.is_empty() {
        Ok(PathBuf::from(path))
    } else {
        Err(format!("no lab tree {suite}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// Options for a copy of `root` made by the program under test.
pub fn options(root: &Path) -> Options {
    let root = AbsPath::parse(root.to_str().unwrap()).unwrap();
    Options { program: PathBuf::from(KEYWARD), ..Options::new(root) }
}

/// A shell script that prints the kernel's rules of both families, each line with its family, for [`plain_rules`].
pub const RULES: &str = "iptables-save | sed -e '/^#/d' -e 's/^/4 /'; ip6tables-save | sed -e '/^#/d' -e 's/^/6 /'";

/// What [`RULES`] prints, in a form that can be compared: family, table and rule, sorted, without counters. A chain of the
/// kernel's own that is empty and lets through is as good as a table that is not there.
pub fn plain_rules(text: &str) -> Vec<String> {
    let (mut rules, mut table) = (Vec::new(), "");
    for (family, line) in text.lines().filter_map(|line| line.split_once(' ')) {
        let line = line.split(" [").next().unwrap_or_default().trim();
        let open = line.starts_with(':') && line.ends_with(" ACCEPT");
        match line.strip_prefix('*') {
            Some(name) => table = name,
            None if open || line.is_empty() || line == "COMMIT" => {}
            None => rules.push(format!("IPv{family} {table} {line}")),
        }
    }
    rules.sort();
    rules
}

/// Files of every host that a whole job puts anew or edits, where it has to.
pub const REPLACED: [&str; 9] = [
    "/etc/ssh/sshd_config",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/group",
    "/etc/gshadow",
    "/etc/ufw/user.rules",
    "/etc/ufw/user6.rules",
    "/etc/ufw/ufw.conf",
    "/etc/default/ufw",
];
/// The attributes that [`mark`] gives: one of somebody's own, and an access control list.
pub const MARKS: [&str; 2] = ["user.keyward-test", "system.posix_acl_access"];

/// Gives those of [`REPLACED`] that are there below `root` attributes beside their mode, which a run has to keep.
pub fn mark(root: &Path) {
    for path in REPLACED.map(|path| root.join(&path[1..])).into_iter().filter(|path| path.exists()) {
        let mode = std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap());
        // Version 2, then tag, permissions and id of each entry: owner, user 7, group, mask, others (acl(5)).
        let mut list = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in [
            (1u16, mode >> 6 & 7, u32::MAX),
            (2, 4, 7),
            (4, mode >> 3 & 7, u32::MAX),
            (0x10, mode >> 3 & 7, u32::MAX),
            (0x20, mode & 7, u32::MAX),
        ] {
            list.extend(tag.to_le_bytes());
            list.extend(u16::try_from(permissions).unwrap().to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        for (name, value) in MARKS.into_iter().zip([&b"\0kept"[..], &list]) {
            xattr::set(&path, name, value).unwrap_or_else(|error| panic!("{}: {name}: {error}", path.display()));
        }
    }
}

/// Which of [`REPLACED`] below `root` have lost what [`mark`] gave.
pub fn unmarked(root: &Path) -> Vec<String> {
    let lost = |path: &PathBuf, name: &str| path.exists() && xattr::get(path, name).ok().flatten().is_none();
    let paths = REPLACED.map(|path| root.join(&path[1..]));
    let lost = paths.iter().flat_map(|path| MARKS.iter().filter(|name| lost(path, name)).map(move |name| (path, name)));
    lost.map(|(path, name)| format!("{} has lost {name}", path.display())).collect()
}

/// Runs a prepared command with `input` as its standard input.
pub fn finish(mut command: Command, input: &[u8]) -> Done {
    use std::os::unix::process::ExitStatusExt as _;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A program that does not read its input is no error.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    Done {
        code: output.status.code().or(output.status.signal().map(|signal| 128 + signal)).unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Bed {
    /// A booted copy of `suite`; `None` where it cannot be had and that is allowed. `name` is the test's.
    #[track_caller]
    pub fn new(name: &str, suite: &str) -> Option<Self> {
        match tree(suite) {
            Ok(tree) => Some(Self::over(&tree)),
            Err(reason) => {
                skipped(name, &reason);
                None
            }
        }
    }

    /// A booted copy of the host in `root`.
    #[track_caller]
    pub fn over(root: &Path) -> Self {
        let mut sandbox = Sandbox::open(&options(root)).unwrap_or_else(|failure| panic!("{failure}"));
        let booted = sandbox.boot().unwrap_or_else(|failure| panic!("{failure}"));
        Self { sandbox, booted }
    }

    /// Runs a program (absolute path) in the copy.
    pub fn run(&self, argv: &[&str]) -> Done {
        self.run_with(argv, b"")
    }

    /// Runs a program in the copy with standard input.
    pub fn run_with(&self, argv: &[&str], input: &[u8]) -> Done {
        let mut command = self.sandbox.command(argv[0]).unwrap();
        command.args(&argv[1..]);
        finish(command, input)
    }

    /// Runs a shell script in the copy.
    pub fn sh(&self, script: &str) -> Done {
        self.run(&["/bin/sh", "-ec", script])
    }

    /// Runs keyward in the copy.
    pub fn keyward(&self, args: &[&str]) -> Done {
        let mut command = self.sandbox.agent().unwrap();
        command.args(args);
        finish(command, b"")
    }

    /// Runs one of this machine's programs in the outside world's network.
    pub fn outside(&self, argv: &[&str]) -> Done {
        let mut command = self.sandbox.outside_program(argv[0]).unwrap();
        command.args(&argv[1..]);
        finish(command, b"")
    }

    /// Puts a file into the copy, with its directories; `owner` is uid and gid.
    #[track_caller]
    pub fn plant(&self, path: &str, bytes: &[u8], mode: u32, owner: (u32, u32)) {
        let script = "mkdir -p \"$(dirname \"$1\")\"; cat >\"$1\"; chown \"$2\" \"$1\"; chmod \"$3\" \"$1\"";
        let (owner, mode) = (format!("{}:{}", owner.0, owner.1), format!("{mode:o}"));
        self.run_with(&["/bin/sh", "-ec", script, "sh", path, &owner, &mode], bytes).ok();
    }

    /// The text of a file in the copy.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        self.run(&["/bin/cat", path]).ok().stdout
    }

    /// Kills every process in the copy and boots its files again.
    #[track_caller]
    pub fn reboot(&mut self) {
        self.booted = self.sandbox.boot().unwrap_or_else(|failure| panic!("{failure}"));
    }

    /// True when a TCP connection from the outside world to the copy's IPv4 address gets through.
    pub fn reaches(&self, port: u16) -> bool {
        let script = format!("exec 3<>/dev/tcp/{}/{port}", keyward::target::sandbox::INSIDE_V4);
        self.outside(&["/usr/bin/timeout", "1", "/bin/bash", "-c", &script]).code == 0
    }
}

/// What [`snapshot`] leaves out, see the file.
const LEFT_BEHIND: &str = include_str!("left-behind.txt");

/// Every path below `root` with kind, mode, owner, link target, and SHA-256 of its bytes, but
/// for what tests/support/left-behind.txt names. Times are not compared: undo makes new files.
pub fn snapshot(root: &Path) -> String {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &snapshot_script(root.to_str().unwrap())]);
    finish(command, b"").ok().stdout
}

fn snapshot_script(root: &str) -> String {
    let root = root.trim_end_matches('/');
    let left =
        LEFT_BEHIND.lines().filter(|line| line.starts_with('/')).filter_map(|line| line.split_whitespace().next());
    let left: Vec<String> = left.map(|path| format!("-path '{root}{path}'")).collect();
    let (start, left) = (if root.is_empty() { "/" } else { root }, left.join(" -o "));
    format!(
        "find {start} -xdev \\( -path '{root}/proc' -o -path '{root}/sys' -o -path '{root}/dev' -o {left} \\) -prune -o \
         -printf '%p %y %m %U:%G %l\\n' | sort
         find {start} -xdev \\( -path '{root}/proc' -o -path '{root}/sys' -o -path '{root}/dev' -o -path '{root}/usr' \
         -o {left} \\) -prune -o -type f -print0 | sort -z | xargs -0 sha256sum"
    )
}

/// Lines that only one of two snapshots has.
pub fn difference(before: &str, after: &str) -> String {
    let (old, new): (std::collections::BTreeSet<_>, std::collections::BTreeSet<_>) =
        (before.lines().collect(), after.lines().collect());
    let gone = old.difference(&new).map(|line| format!("- {line}\n"));
    gone.chain(new.difference(&old).map(|line| format!("+ {line}\n"))).collect()
}

impl Bed {
    /// [`snapshot`] of the copy.
    pub fn snapshot(&self) -> String {
        self.run(&["/bin/sh", "-c", &snapshot_script("/")]).ok().stdout
    }
}
