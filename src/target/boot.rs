//! What a boot of the copied host would start and keyward cares about: firewall rules and sshd. Runs as process 1 of
//! the copy, after everything is mounted. There is no systemd in there; of a unit only its command line is looked at.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const LOG: &str = "/run/keyward-boot.log";
const DEADLINE: Duration = Duration::from_secs(30);
const LISTEN_DEADLINE: Duration = Duration::from_secs(5);
const SSHD: &str = "/usr/sbin/sshd";
/// Where units live, strongest first (systemd.unit(5)).
const UNIT_DIRS: [&str; 4] =
    ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// Starts the services of the copy; names go to `started`, what did not work to `notes`.
pub fn start(ssh_runs: bool, started: &mut Vec<String>, notes: &mut Vec<String>) {
    for (name, argv) in rules() {
        note(name, run(&argv), started, notes);
    }
    if !Path::new(SSHD).exists() {
        return;
    }
    let socket = enabled("sockets.target.wants/ssh.socket");
    let service = ["ssh", "sshd"].iter().any(|unit| enabled(&format!("multi-user.target.wants/{unit}.service")));
    if !(socket || service || ssh_runs || sysv_enabled()) {
        notes.push("sshd is not enabled on this host and was not started".to_owned());
        return;
    }
    if socket && !service {
        notes.push("ssh.socket hands sshd its sockets on this host; in the copy sshd opens them itself".to_owned());
    }
    note("sshd", run(&sshd_line()).and_then(|()| listens()), started, notes);
}

/// Waits until something listens: sshd's first process ends before it opens its sockets.
fn listens() -> Result<(), String> {
    let begun = Instant::now();
    while begun.elapsed() < LISTEN_DEADLINE {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|file| std::fs::read_to_string(file).unwrap_or_default());
        // Field 3 is the state, 0A is LISTEN; see proc_pid_net(5).
        if tables.iter().flat_map(|table| table.lines()).any(|line| line.split_whitespace().nth(3) == Some("0A")) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(format!("it opens no port within {} s", LISTEN_DEADLINE.as_secs()))
}

/// Programs that load firewall rules, where the host uses them.
fn rules() -> Vec<(&'static str, Vec<String>)> {
    let mut found = Vec::new();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    if enabled("sysinit.target.wants/nftables.service") {
        found.push(("nftables", words(&["/usr/sbin/nft", "-f", "/etc/nftables.conf"])));
    }
    if enabled("multi-user.target.wants/netfilter-persistent.service") {
        found.push(("netfilter-persistent", words(&["/usr/sbin/netfilter-persistent", "start"])));
    }
    let ufw = std::fs::read_to_string("/etc/ufw/ufw.conf").unwrap_or_default();
    if ufw.lines().any(|line| line.trim().eq_ignore_ascii_case("ENABLED=yes")) {
        let program = ["/usr/lib/ufw/ufw-init", "/lib/ufw/ufw-init"].into_iter().find(|path| Path::new(path).exists());
        found.extend(program.map(|program| ("ufw", words(&[program, "start", "quiet"]))));
    }
    found
}

fn enabled(link: &str) -> bool {
    std::fs::symlink_metadata(format!("/etc/systemd/system/{link}")).is_ok()
}

fn sysv_enabled() -> bool {
    let systemd = Path::new("/usr/lib/systemd/systemd").exists() || Path::new("/lib/systemd/systemd").exists();
    let links = std::fs::read_dir("/etc/rc2.d").into_iter().flatten().flatten();
    !systemd
        && links
            .map(|entry| entry.file_name())
            .any(|name| name.to_str().is_some_and(|name| name.starts_with('S') && name.ends_with("ssh")))
}

/// sshd with the options of its unit, as a daemon.
fn sshd_line() -> Vec<String> {
    let environment = std::fs::read_to_string("/etc/default/ssh").unwrap_or_default();
    let line = exec_start().unwrap_or_else(|| format!("{SSHD} -D $SSHD_OPTS"));
    daemon_words(&line, &environment)
}

/// The last `ExecStart=` of ssh.service and its drop-ins, as systemd would take it.
fn exec_start() -> Option<String> {
    let mut files = Vec::new();
    files.extend(UNIT_DIRS.iter().map(|dir| format!("{dir}/ssh.service")).find(|path| Path::new(path).exists()));
    for dir in UNIT_DIRS {
        let entries = std::fs::read_dir(format!("{dir}/ssh.service.d")).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.path().display().to_string()).collect();
        names.sort();
        files.extend(names.into_iter().filter(|name| name.ends_with(".conf")));
    }
    let texts: Vec<String> = files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
    texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.trim().strip_prefix("ExecStart=")).fold(
        None,
        |last, line| match line.trim_start_matches(['-', '@', ':', '+', '!']).trim() {
            "" => None,
            line => last.or_else(|| Some(line.to_owned())),
        },
    )
}

/// Words of `line` with `$SSHD_OPTS` from `environment` (environment file of systemd.exec(5)) in its place, and without
/// `-D`, so that sshd becomes a daemon.
fn daemon_words(line: &str, environment: &str) -> Vec<String> {
    let options = environment.lines().rev().find_map(|line| line.trim().strip_prefix("SSHD_OPTS=")).unwrap_or_default();
    let options = options.trim().trim_matches(['"', '\'']);
    line.split_whitespace()
        .flat_map(|word| match word {
            "$SSHD_OPTS" | "${SSHD_OPTS}" => options.split_whitespace().collect::<Vec<_>>(),
            _ => vec![word],
        })
        .filter(|word| *word != "-D")
        .map(str::to_owned)
        .collect()
}

fn note(name: &str, outcome: Result<(), String>, started: &mut Vec<String>, notes: &mut Vec<String>) {
    match outcome {
        Ok(()) => started.push(name.to_owned()),
        Err(why) => notes.push(format!("{name} does not start: {why}")),
    }
}

/// Runs a program to its end, which must come within [`DEADLINE`]; a daemon's end is that of its first process. Its
/// messages go through a file, since a daemon may keep a pipe open.
fn run(argv: &[String]) -> Result<(), String> {
    let (program, arguments) = argv.split_first().ok_or("no program")?;
    let text = |error: std::io::Error| error.to_string();
    let log = std::fs::File::create(LOG).map_err(text)?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs([("PATH", PATH), ("LC_ALL", "C.UTF-8")])
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(text)?)
        .stderr(log)
        .spawn()
        .map_err(text)?;
    let begun = Instant::now();
    let outcome = loop {
        if let Some(status) = child.try_wait().map_err(text)? {
            let said = std::fs::read_to_string(LOG).unwrap_or_default();
            break if status.success() {
                Ok(())
            } else {
                Err(format!("{status}: {}", said.trim().replace('\n', "; ")))
            };
        }
        if begun.elapsed() > DEADLINE {
            let _ = child.kill();
            let _ = child.wait();
            break Err(format!("no end within {} s", DEADLINE.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let _ = std::fs::remove_file(LOG);
    outcome
}

#[cfg(test)]
mod tests {
    use super::daemon_words;

    #[test]
    fn the_units_options_are_kept() {
        let words = |line, environment| daemon_words(line, environment).join(" ");
        assert_eq!(words("/usr/sbin/sshd -D $SSHD_OPTS", "# none\nSSHD_OPTS=\n"), "/usr/sbin/sshd");
        assert_eq!(
            words("/usr/sbin/sshd -D $SSHD_OPTS -p 2200", "SSHD_OPTS=\"-o Banner=none -4\"\n"),
            "/usr/sbin/sshd -o Banner=none -4 -p 2200"
        );
    }
}
