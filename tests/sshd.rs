//! The sshd resource against real daemons: each awkward host of `tests/cases/sshd` is laid over lab trees, planned,
//! applied by the engine, judged by the sshd of that tree and by real connections, and rolled back byte for byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "sshd/case.rs"]
mod case;
#[path = "sshd/inside.rs"]
mod inside;
mod support;

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use case::Case;
use support::again;

/// Least number of awkward hosts; fewer means that some were lost.
const LEAST: usize = 47;
/// How many run at a time.
const WORKERS: usize = 2;

/// The inner half of [`awkward_hosts`]; it runs in the copy only.
#[test]
#[ignore = "runs inside the copy that awkward_hosts makes"]
fn one_awkward_host() {
    let Ok(text) = std::env::var(again::CASE) else { return };
    inside::run(&Case::parse(&text));
}

#[test]
fn awkward_hosts() {
    let cases = again::cases("sshd");
    let filtered = std::env::var_os("KEYWARD_CASE").is_some();
    assert!(filtered || cases.len() >= LEAST, "{} cases, {LEAST} expected", cases.len());
    let mut runs = Vec::new();
    for (name, text) in &cases {
        for suite in Case::parse(text).suites {
            match support::tree(&suite) {
                Ok(tree) => runs.push((name, text, suite, tree)),
                Err(reason) => support::skipped("awkward_hosts", &reason),
            }
        }
    }
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((name, text, suite, tree)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(said) = again::run(tree, "one_awkward_host", text) {
                        failures.lock().unwrap().push(format!("== {name} on {suite}\n{said}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    println!("{} runs of {} awkward hosts", runs.len(), cases.len());
    assert!(failures.is_empty(), "{} failed\n{}", failures.len(), failures.join("\n"));
}

/// Hosts with systemd as PID 1, in containers: sshd as a service, and behind ssh.socket.
#[test]
fn hosts_with_systemd() {
    if Command::new("docker").arg("info").output().is_ok_and(|output| output.status.success()) {
        let failures: Vec<String> = CONTAINERS.iter().filter_map(|suite| container(suite).err()).collect();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    } else {
        support::skipped("hosts_with_systemd", "no docker");
    }
}

/// systemd of sid does not start in a container of a host with cgroup v1.
const CONTAINERS: [&str; 3] = ["bullseye", "bookworm", "trixie"];

fn container(suite: &str) -> Result<(), String> {
    let tree = match support::tree(suite) {
        Ok(tree) => tree,
        Err(reason) => {
            support::skipped("hosts_with_systemd", &reason);
            return Ok(());
        }
    };
    let image = format!("keyward-lab-{suite}-sshd-{}", std::process::id());
    let script = r#"
        set -eu
        trap 'docker rm -f "$image" >/dev/null 2>&1 || true; docker rmi -f "$image" >/dev/null 2>&1 || true' EXIT
        tar -C "$tree" -c . | docker import - "$image" >/dev/null
        for unit in ssh.service ssh.socket; do
            docker run -d --name "$image" --network none --cap-add SYS_ADMIN --cap-add NET_ADMIN --cap-add NET_RAW \
                --security-opt seccomp=unconfined --security-opt apparmor=unconfined --tmpfs /run --tmpfs /run/lock \
                -v /sys/fs/cgroup:/sys/fs/cgroup:rw -v "$test:/opt/test:ro" -v "$keyward:/opt/keyward:ro" \
                "$image" /sbin/init >/dev/null
            tries=0
            until docker exec "$image" systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded'; do
                tries=$((tries + 1))
                [ $tries -lt 150 ] || { echo "systemd does not start"; exit 1; }
                sleep 0.2
            done
            echo "== $unit"
            docker exec -e KEYWARD_TEST_CASE="outcome: hardened
daemon: $unit
want: port 2222" "$image" /opt/test --exact one_awkward_host --nocapture --test-threads 1 --ignored 2>&1
            docker rm -f "$image" >/dev/null
        done
    "#;
    let output = Command::new("bash")
        .args(["-c", script])
        .envs([("image", image.as_str()), ("keyward", support::KEYWARD), ("tree", tree.to_str().unwrap())])
        .env("test", std::env::current_exe().unwrap())
        .output()
        .map_err(|error| error.to_string())?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let passed = said.matches("1 passed").count() == 2;
    if output.status.success() && passed { Ok(()) } else { Err(format!("== {suite}\n{said}")) }
}
