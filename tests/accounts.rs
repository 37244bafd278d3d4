//! Accounts, keys and sudo on real trees: each awkward host of `tests/cases/accounts` is laid over lab trees, planned,
//! applied by the engine, proven by logins at the real sshd and the real sudo, and rolled back byte for byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "accounts/case.rs"]
mod case;
#[path = "accounts/inside.rs"]
mod inside;
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use case::Case;

/// Least number of awkward hosts; fewer means that some were lost.
const LEAST: usize = 55;

fn cases() -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/accounts");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let only = std::env::var("KEYWARD_CASE").unwrap_or_default();
    let name = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    files
        .iter()
        .filter(|path| name(path).contains(&only))
        .map(|path| (name(path), std::fs::read_to_string(path).unwrap()))
        .collect()
}

/// Runs an ignored test of this program again, in namespaces of its own and a throw-away copy of a tree.
fn enter(tree: &Path, test: &str, text: &str) -> Result<String, String> {
    let script = r#"
        set -e
        mount -t tmpfs -o size=64m,mode=755 keyward-test /mnt
        mkdir /mnt/upper /mnt/work /mnt/root
        mount -t overlay -o lowerdir="$1",upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
        mount -t proc proc /mnt/root/proc
        mount --rbind /dev /mnt/root/dev
        mount -t tmpfs -o mode=755 run /mnt/root/run
        mount -t tmpfs -o mode=1777 tmp /mnt/root/tmp
        mkdir -p /mnt/root/opt
        for pair in "$2:/opt/test" "$3:/opt/keyward"; do
            touch "/mnt/root${pair#*:}"
            mount --bind "${pair%%:*}" "/mnt/root${pair#*:}"
        done
        ip link set lo up
        exec chroot /mnt/root /opt/test --exact "$4" --nocapture --test-threads 1 --ignored
    "#;
    let output = Command::new("unshare")
        .args([
            "-m",
            "-p",
            "-f",
            "-n",
            "-u",
            "-i",
            "--kill-child",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .args([tree, &std::env::current_exe().unwrap(), Path::new(support::KEYWARD), Path::new(test)])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("KEYWARD_TEST_CASE", text)
        .output()
        .map_err(|error| error.to_string())?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() && said.contains("1 passed") { Ok(said) } else { Err(said) }
}

/// The inner half of [`awkward_hosts`]; it runs in the copy only.
#[test]
#[ignore = "runs inside the copy that awkward_hosts makes"]
fn one_awkward_host() {
    let Ok(text) = std::env::var("KEYWARD_TEST_CASE") else { return };
    inside::run(&Case::parse(&text));
}

/// The inner half of [`an_account_is_what_useradd_makes`]; it runs in the copy only.
#[test]
#[ignore = "runs inside the copy that an_account_is_what_useradd_makes makes"]
fn one_account_beside_useradd() {
    if std::env::var_os("KEYWARD_TEST_CASE").is_some() {
        inside::beside_useradd();
    }
}

/// The inner half of [`missing_packages_come_from_apt`]; it runs in the copy only.
#[test]
#[ignore = "runs inside the copy that missing_packages_come_from_apt makes"]
fn one_missing_package() {
    if std::env::var_os("KEYWARD_TEST_CASE").is_some() {
        inside::packages();
    }
}

/// Runs an inner test on all suites.
fn on_all_suites(name: &str, inner: &str) {
    for suite in support::SUITES {
        match support::tree(suite) {
            Ok(tree) => {
                if let Err(said) = enter(&tree, inner, "x") {
                    panic!("{suite}: {said}");
                }
            }
            Err(reason) => support::skipped(name, &reason),
        }
    }
}

#[test]
fn an_account_is_what_useradd_makes() {
    on_all_suites("an_account_is_what_useradd_makes", "one_account_beside_useradd");
}

#[test]
fn missing_packages_come_from_apt() {
    on_all_suites("missing_packages_come_from_apt", "one_missing_package");
}

#[test]
fn awkward_hosts() {
    let cases = cases();
    let filtered = std::env::var_os("KEYWARD_CASE").is_some();
    assert!(filtered || cases.len() >= LEAST, "{} cases, {LEAST} expected", cases.len());
    let mut failures = Vec::new();
    let mut ran = 0;
    for (name, text) in &cases {
        for suite in Case::parse(text).suites {
            let tree = match support::tree(&suite) {
                Ok(tree) => tree,
                Err(reason) => {
                    support::skipped("awkward_hosts", &reason);
                    continue;
                }
            };
            ran += 1;
            match enter(&tree, "one_awkward_host", text) {
                Ok(said) if filtered => println!("== {name} on {suite}\n{said}"),
                Ok(_) => {}
                Err(said) => failures.push(format!("== {name} on {suite}\n{said}")),
            }
        }
    }
    println!("{ran} runs of {} awkward hosts", cases.len());
    assert!(failures.is_empty(), "{} failed\n{}", failures.len(), failures.join("\n"));
}
