//! Accounts, keys and sudo on real trees: each awkward host of `tests/cases/accounts` is laid over lab trees, planned,
//! applied by the engine, proven by logins at the real sshd and the real sudo, and rolled back byte for byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "accounts/case.rs"]
mod case;
#[path = "accounts/inside.rs"]
mod inside;
mod support;

use case::Case;
use support::again;

/// Least number of awkward hosts; fewer means that some were lost.
const LEAST: usize = 79;

/// The inner half of [`awkward_hosts`]; it runs in the copy only.
#[test]
#[ignore = "runs inside the copy that awkward_hosts makes"]
fn one_awkward_host() {
    let Ok(text) = std::env::var(again::CASE) else { return };
    inside::run(&Case::parse(&text));
}

/// The inner half of [`an_account_is_what_useradd_makes`]; it runs in the copy only.
#[test]
#[ignore = "runs inside the copy that an_account_is_what_useradd_makes makes"]
fn one_account_beside_useradd() {
    if std::env::var_os(again::CASE).is_some() {
        inside::beside_useradd();
    }
}

/// The inner half of [`missing_packages_come_from_apt`]; it runs in the copy only.
#[test]
#[ignore = "runs inside the copy that missing_packages_come_from_apt makes"]
fn one_missing_package() {
    if std::env::var_os(again::CASE).is_some() {
        inside::packages();
    }
}

/// Runs an inner test on all suites.
fn on_all_suites(name: &str, inner: &str) {
    for suite in support::SUITES {
        match support::tree(suite) {
            Ok(tree) => {
                if let Err(said) = again::run(&tree, inner, "x") {
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
    let cases = again::cases("accounts");
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
            match again::run(&tree, "one_awkward_host", text) {
                Ok(said) if filtered => println!("== {name} on {suite}\n{said}"),
                Ok(_) => {}
                Err(said) => failures.push(format!("== {name} on {suite}\n{said}")),
            }
        }
    }
    println!("{ran} runs of {} awkward hosts", cases.len());
    assert!(failures.is_empty(), "{} failed\n{}", failures.len(), failures.join("\n"));
}
