//! What a rehearsal must leave as it was: the machine that the tests run on, as text by topic.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use super::Done;

/// All of the machine that a rehearsal could touch, as lines by topic.
pub fn machine() -> BTreeMap<&'static str, String> {
    let shell = |script: &str| {
        let output = Command::new("/bin/sh").args(["-c", script]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // Other programs of the machine write logs, caches and hidden files of their own meanwhile; keys count.
    let tree = "find /etc /root /home /usr/local /boot /opt /srv /var/lib/dpkg /var/lib/ufw /var/lib/systemd /var/spool \
                /mnt /media -xdev \\( -path '/root/.*' ! -path '/root/.ssh*' -o -name target \\) -prune -o \
                -printf '%p %y %m %U:%G %s %T@ %l\\n' 2>/dev/null | sort";
    BTreeMap::from([
        ("tree", shell(tree)),
        ("bytes of /etc", shell("find /etc -xdev -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum")),
        (
            "iptables",
            shell(
                "iptables-save | grep -v '^#' | sed 's/\\[.*\\]//'; ip6tables-save | grep -v '^#' | sed 's/\\[.*\\]//'",
            ),
        ),
        ("nft", shell("nft -s list ruleset 2>/dev/null")),
        (
            "sysctl",
            shell(
                "sysctl -a 2>/dev/null | grep -vE '^(fs.(dentry|inode|file|quota|aio|dqstats)|kernel.(random|ns_last_pid|pty)|\
             net.netfilter.nf_conntrack_count|net.*(neigh|conf)[.](docker|veth|br-))'",
            ),
        ),
        ("modules", shell("cut -d' ' -f1 /proc/modules | sort")),
        ("mounts", shell("cut -d' ' -f3- /proc/1/mountinfo | grep -vE 'docker|keyward' | sort")),
        (
            "links",
            shell(
                "ls /sys/class/net | grep -v '^veth'; ip route; ip -6 route | grep -v veth; ls /run/netns 2>/dev/null",
            ),
        ),
        ("hostname", shell("hostname; cat /proc/sys/kernel/hostname")),
        ("units", shell("ls -lR /etc/systemd /run/systemd 2>/dev/null")),
        (DAEMONS, daemons()),
    ])
}

/// The topic of what runs: what was there must still be there; what others start meanwhile is their own business.
const DAEMONS: &str = "daemons";
/// Programs of process 1's that run longer than this do not end by themselves just now, in seconds.
const SETTLED: f64 = 300.0;

/// A process, as far as proc_pid_stat(5) tells it.
struct Process {
    pid: u32,
    parent: u32,
    /// Seconds after the boot.
    started: f64,
    zombie: bool,
    argv: String,
}

fn processes() -> Vec<Process> {
    let one = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let argv = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let started = fields.get(19)?.parse::<f64>().ok()? / 100.0;
        let argv = String::from_utf8_lossy(&argv).replace('\0', " ");
        Some(Process { pid, parent: fields.get(1)?.parse().ok()?, started, zombie: fields[0] == "Z", argv })
    };
    let names = std::fs::read_dir("/proc").unwrap().flatten();
    names.filter_map(|entry| one(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// Long-lived children of process 1 and itself, by number and command line. A container's shim goes with its container.
fn daemons() -> String {
    static SINCE: OnceLock<f64> = OnceLock::new();
    let uptime = || std::fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse::<f64>().unwrap();
    let since = *SINCE.get_or_init(|| uptime() - SETTLED);
    // Process 1 itself stands for a machine that has just booted.
    let settled = |one: &Process| one.pid == 1 || one.parent <= 1 && one.started < since && !one.zombie;
    let lines = processes().into_iter().filter(|one| settled(one) && !one.argv.contains("containerd-shim"));
    let mut lines: Vec<String> = lines.map(|one| format!("{} {} {}", one.pid, one.started, one.argv)).collect();
    lines.sort();
    lines.join("\n")
}

/// Runs a program to its end; second what it left running. All that falls to this process meanwhile (prctl(2)), so no
/// other test may start anything in it.
pub fn with_leftovers(mut command: Command) -> (Done, Vec<String>) {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let own = std::process::id();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        // What ended and is not waited for would hold up the end of its namespace.
        for one in processes().into_iter().filter(|one| one.parent == own && one.zombie && one.pid != child.id()) {
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(one.pid.try_into().unwrap()), None);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let left = processes().into_iter().filter(|one| one.parent == own && !one.zombie);
    let left = left.map(|one| format!("{} {}", one.pid, one.argv)).collect();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let code = child.wait().unwrap().code().unwrap_or(-1);
    child.stdout.unwrap().read_to_string(&mut stdout).unwrap();
    child.stderr.unwrap().read_to_string(&mut stderr).unwrap();
    (Done { code, stdout, stderr }, left)
}

/// Checks that nothing changed, and that something was looked at.
#[track_caller]
pub fn same(before: &BTreeMap<&'static str, String>, after: &BTreeMap<&'static str, String>) {
    for (topic, text) in before {
        if *topic == DAEMONS {
            let gone: Vec<&str> =
                text.lines().filter(|line| !after[topic].lines().any(|other| other == *line)).collect();
            assert!(!text.is_empty() && gone.is_empty(), "daemons of the machine are gone: {gone:#?}");
            continue;
        }
        assert!(text == &after[topic], "{topic} of the machine changed:\n{}", super::difference(text, &after[topic]));
        let may_be_empty = ["modules", "nft", "iptables", "units"].contains(topic);
        assert!(!text.is_empty() || may_be_empty, "{topic}: nothing was looked at");
    }
}
