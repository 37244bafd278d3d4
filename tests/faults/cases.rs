//! The fault and edge cases that a safe apply has to survive, each with the test that holds it, as `CASES.md`: written by
//! the whole campaign (KEYWARD_FAULTS=all), compared by every other run.

use std::path::Path;

use crate::tally;

/// How far a case is held.
enum Held {
    /// By these: `file::test`, or a file of cases that a test reads.
    By(&'static [&'static str]),
    /// As above; what is missing.
    Partly(&'static [&'static str], &'static str),
    /// It cannot run in these labs; why.
    Never(&'static str),
}

use Held::{By, Never, Partly};

const ODD: &str = "tests/faults/crash.rs::the_apply_is_cut_off_at_odd_calls";
const EVEN: &str = "tests/faults/crash.rs::the_apply_is_cut_off_at_even_calls";
const UNDO: &str = "tests/faults/undo.rs::the_undo_is_cut_off_and_asked_for_again";
const FAIL: &str = "tests/faults/fail.rs::calls_fail";
const DISK: &str = "tests/faults/fail.rs::the_disk_is_really_full";
const PROGRAMS: &str = "tests/faults/fail.rs::programs_end_badly";
const CALLER: &str = "tests/faults/race.rs::the_caller_goes_away";
const DEADLINE: &str = "tests/faults/race.rs::the_deadline_comes";
const SSHD: &str = "tests/sshd.rs::awkward_hosts";
const ACCOUNTS: &str = "tests/accounts.rs::awkward_hosts";
const FIREWALL: &str = "tests/firewall.rs::every_awkward_host_is_hardened_or_refused";
const STRUCK: &str = "tests/systemd/struck.rs::struck_after_a_change_somebody_gets_in";
const LAST_RESORT: &str = "tests/systemd/last_resort.rs::somebody_gets_in_when_sshd_does_not_come_back";
const SPOILED: &str = "tests/systemd/last_resort.rs::a_configuration_spoiled_after_the_check_is_undone";
const GUARD_CONFIRM: &str = "tests/systemd/guard.rs::only_a_new_login_through_the_new_door_confirms";

/// In the order of the numbers, from 1.
const CASES: [(&str, Held); 53] = [
    ("The agent is killed before it is armed", By(&[ODD, EVEN])),
    (
        "The agent is killed before or after any step",
        By(&[ODD, EVEN, STRUCK, "tests/laws/main.rs::reference_job_on_bookworm"]),
    ),
    (
        "Agent and caller are killed while a confirmation is awaited",
        By(&["tests/systemd/guard.rs::the_agent_is_killed", DEADLINE]),
    ),
    (
        "Power is cut at any record of the journal",
        Partly(
            &[ODD, EVEN, STRUCK, "tests/systemd/guard.rs::the_power_is_cut"],
            "what the page cache loses is imitated for the last record only",
        ),
    ),
    ("Power is cut during an undo", By(&[UNDO])),
    ("The last record is torn", By(&["src/journal.rs::a_torn_tail_is_ignored_and_a_broken_middle_is_not", ODD, EVEN])),
    (
        "A before-image does not match its checksum",
        Partly(
            &["src/engine/guard/expire.rs::what_stands_before_a_damaged_line_is_undone"],
            "what a damaged line held is not undone, which is said; an sshd of last resort is started when none listens",
        ),
    ),
    (
        "The SSH connection is reset, or its terminal closed, in the middle",
        By(&[CALLER, "tests/systemd/guard.rs::a_run_whose_terminal_hung_up_can_be_confirmed"]),
    ),
    (
        "Both outputs are closed, or a pipe is full",
        Partly(
            &[
                CALLER,
                "tests/cli.rs::a_closed_standard_output_is_no_panic",
                "tests/cli.rs::a_full_standard_output_is_an_error",
            ],
            "a reader that stops reading and stays is not tried",
        ),
    ),
    (
        "Processes of a user are killed at logout while a run is pending",
        Partly(
            &["tests/systemd/unattended.rs::a_detached_run_waits_by_itself"],
            "KillUserProcesses=yes itself is not set",
        ),
    ),
    (
        "systemd reads its units again and again while a run is pending",
        By(&["tests/systemd/guard.rs::daemon_reloads_do_not_move_the_deadline"]),
    ),
    (
        "The machine sleeps for longer than the window",
        Never("neither a copy nor a container can be suspended; src/engine/guard/clock.rs counts by CLOCK_BOOTTIME"),
    ),
    (
        "The guard cannot be armed",
        By(&["tests/cli.rs::a_guard_that_cannot_start_is_found_before_the_first_change", PROGRAMS, DISK]),
    ),
    (
        "The apply hangs in a program that it started",
        By(&[
            "tests/systemd/guard.rs::the_agent_hangs",
            "tests/host/children.rs::after_the_deadline_nothing_is_left",
            "tests/host/accounts.rs::a_held_lock_is_waited_for",
            PROGRAMS,
        ]),
    ),
    (
        "A confirmation comes late, with another nonce, or for another run",
        Partly(
            &[
                "tests/faults/race.rs::a_confirmation_races_with_the_deadline",
                "tests/cli.rs::whoever_asks_while_a_run_is_pending_is_told_which_and_what_to_do",
            ],
            "another run's nonce is not tried",
        ),
    ),
    (
        "A second apply while one is pending",
        By(&[
            "tests/faults/race.rs::twenty_runs_at_once",
            "tests/cli.rs::whoever_asks_while_a_run_is_pending_is_told_which_and_what_to_do",
        ]),
    ),
    ("The disk, or its inodes, are used up during the apply or the undo", By(&[DISK, FAIL])),
    (
        "The file system turns read-only in the middle",
        Partly(&[FAIL], "by calls that fail; a real remount is not made"),
    ),
    (
        "A target is a link, hard link, mount point, immutable, or elsewhere",
        By(&[
            "tests/host/files.rs::what_is_no_plain_file_is_refused",
            "tests/host/files.rs::what_cannot_be_changed_stays_and_leaves_nothing_behind",
        ]),
    ),
    (
        "A user swaps a link into ~/.ssh between check and write",
        By(&["tests/host/homes.rs::nobody_wins_the_race_against_a_put"]),
    ),
    ("SELinux is enforcing and the new port has no label", Never("the kernel of the labs has no SELinux")),
    ("The new sshd configuration has a syntax error", By(&[SSHD, "tests/cases/sshd/broken-config.txt"])),
    (
        "It is valid alone and broken by an Include or Match that is there",
        By(&[SSHD, "tests/cases/sshd/methods-in-match.txt", "tests/cases/sshd/include-in-match.txt"]),
    ),
    (
        "An earlier drop-in overrides a setting",
        By(&[SSHD, "tests/cases/sshd/cloud-init.txt", "tests/cases/sshd/earlier-drop-in.txt"]),
    ),
    (
        "sshd opens one of two ports only",
        Partly(
            &[SSHD, "tests/cases/sshd/port-taken.txt"],
            "a port that is taken is refused before; one taken between plan and reload is not tried",
        ),
    ),
    ("sshd dies of the hangup", By(&[SPOILED, LAST_RESORT])),
    (
        "Socket activation, and only a reload",
        By(&[
            "tests/systemd/main.rs::bookworm_with_a_socket",
            "tests/systemd/main.rs::trixie_with_a_socket",
            "tests/systemd/main.rs::sid_with_a_service_and_with_a_socket",
        ]),
    ),
    (
        "The socket reached its start or trigger limit",
        By(&["tests/systemd/guard.rs::a_socket_at_its_start_limit_is_undone_all_the_same"]),
    ),
    (
        "The socket generator is missing or crashes",
        Never("Debian writes no generated sockets; this is Ubuntu's, and there is no Ubuntu lab"),
    ),
    (
        "A port on sshd's command line, or in ListenAddress",
        By(&[SSHD, "tests/cases/sshd/daemon-port.txt", "tests/cases/sshd/listen-address.txt"]),
    ),
    (
        "OpenSSH is upgraded while a run is pending",
        Never(
            "an archive holds one version of a package for each release, and the labs are made from that one; what an upgrade \
             does to sshd, a restart with other files, is in case 26",
        ),
    ),
    (
        "fail2ban or sshguard bans the controller",
        Partly(
            &[
                FIREWALL,
                "tests/cases/firewall/fail2ban_like.yaml",
                "tests/proof/real.rs::penalties_spare_the_proof_and_are_told_from_refusals",
            ],
            "a ban that comes while the proof runs is not tried",
        ),
    ),
    (
        "The new account cannot log in: locked without PAM, expired, no shell, nologin, no home",
        By(&[
            ACCOUNTS,
            "tests/cases/accounts/bang-without-pam.txt",
            "tests/cases/accounts/expired.txt",
            "tests/cases/accounts/shell-nologin.txt",
            "tests/cases/accounts/nologin-file.txt",
            "tests/cases/accounts/home-missing.txt",
        ]),
    ),
    (
        "authorized_keys or the home has the wrong owner, mode or place",
        By(&[
            ACCOUNTS,
            "tests/cases/accounts/home-group-writable.txt",
            "tests/cases/accounts/keys-nowhere.txt",
            "tests/host/homes.rs::a_hostile_home_is_refused",
        ]),
    ),
    (
        "sudoers: syntax error, alias clash, missing newline, mode, dotted name, requiretty",
        By(&[
            ACCOUNTS,
            "tests/cases/accounts/sudo-broken-set.txt",
            "tests/cases/accounts/sudo-alias-neighbour.txt",
            "tests/cases/accounts/sudo-last-line.txt",
            "tests/cases/accounts/sudo-requiretty.txt",
            "tests/cases/accounts/sudo-rs-requiretty.txt",
            "tests/cases/accounts/sudo-rs-netgroup.txt",
            "tests/cases/accounts/sudo-rs-commands.txt",
            "tests/cases/accounts/dotted-name.txt",
        ]),
    ),
    (
        "root is refused before the new administrator is proven",
        By(&[
            "src/access/check.rs::a_door_that_closes_needs_an_administrator",
            "tests/proof/real.rs::root_is_refused_by_a_login_that_worked_before",
        ]),
    ),
    ("The firewall fails halfway", By(&["tests/firewall.rs::a_load_that_fails_changes_nothing", PROGRAMS, ODD, EVEN])),
    (
        "An idle session from before the firewall had connection tracking",
        By(&[
            "tests/systemd/sessions.rs::sessions_of_a_service_stay",
            "tests/systemd/sessions.rs::sessions_of_a_socket_stay",
        ]),
    ),
    (
        "`limit` on the new port, or outgoing connections denied",
        By(&[FIREWALL, "tests/cases/firewall/limit_on_ssh.yaml"]),
    ),
    (
        "The controller dies while a run is pending",
        By(&[
            "tests/systemd/guard.rs::nobody_confirms",
            CALLER,
            "tests/systemd/unattended.rs::a_detached_run_waits_by_itself",
        ]),
    ),
    (
        "Something upstream blocks the new port",
        By(&[
            "tests/systemd/far.rs::a_firewall_upstream_keeps_the_new_port_shut",
            GUARD_CONFIRM,
            "tests/proof/real.rs::a_filtered_port_is_not_open",
        ]),
    ),
    (
        "A container without systemd",
        Partly(
            &[ODD, EVEN, DEADLINE],
            "there is no boot hook, so such a run must be asked for by --without-boot-guard",
        ),
    ),
    (
        "/run/sshd, host keys or programs are missing",
        By(&[
            SSHD,
            "tests/cases/sshd/bare-container.txt",
            "tests/cases/sshd/no-keys.txt",
            "tests/proof/real.rs::socket_activation_keeps_no_run_directory_and_is_asked_all_the_same",
        ]),
    ),
    (
        "A reboot after the commit",
        Partly(
            &[
                "tests/rehearse.rs::an_applied_host_boots_into_the_same_state",
                "tests/firewall.rs::a_reboot_brings_the_same_firewall_up",
            ],
            "an address that comes and goes, or a kernel without modules, is not tried",
        ),
    ),
    ("The undo's own reload fails", By(&[UNDO, FAIL, LAST_RESORT, SPOILED])),
    (
        "The only administrator has a password, and passwords go",
        By(&["src/access/check.rs::a_door_that_closes_needs_an_administrator"]),
    ),
    (
        "The same playbook again, after a commit and after an undo",
        By(&[
            "tests/laws/main.rs::reference_job_on_bookworm",
            "tests/rehearse.rs::applied_then_converged_then_rolled_back_byte_for_byte",
            ODD,
            EVEN,
        ]),
    ),
    (
        "systemd drops the undo because the machine is shutting down",
        Partly(&["tests/systemd/guard.rs::the_power_is_cut"], "a shutdown that is already queued is not tried"),
    ),
    (
        "cron, syslog, D-Bus or /tmp are not there",
        Partly(&[ODD, EVEN], "the copies have neither cron nor D-Bus; /tmp is there"),
    ),
    ("Only accounts and sudo, on a host without sshd", By(&["tests/cli.rs::accounts_and_sudo_need_no_sshd"])),
    (
        "The wall clock is set while a run is pending",
        Partly(
            &["src/engine/guard/clock.rs::another_boot_has_no_time_left"],
            "the deadline is counted by the boot's own clock; no clock is set, since the labs share the machine's",
        ),
    ),
    (
        "The wall clock is set back, or far ahead, between two runs",
        Partly(
            &["src/engine/apply.rs::a_run_is_the_newest_whatever_the_clock_says"],
            "the order of runs; deadlines are counted since the boot, and no lab sets its machine's clock",
        ),
    ),
    (
        "Somebody connects at the moment in which a socket is restarted",
        By(&[
            "tests/systemd/scanned.rs::a_scanned_socket_moves_and_comes_back",
            "tests/systemd/scanned.rs::a_scanned_socket_moves_and_comes_back_on_bookworm",
        ]),
    ),
];

fn text() -> String {
    let mut text = String::from(
        "# Fault and edge cases\n\nWritten by `KEYWARD_FAULTS=all cargo test --test faults`; a run compares it. Each case with the tests that hold \
         it.\n\n| | case | held by |\n|---|---|---|\n",
    );
    for (index, (what, held)) in CASES.iter().enumerate() {
        let list = |tests: &[&str]| tests.iter().map(|test| format!("`{test}`")).collect::<Vec<_>>().join(", ");
        let held = match held {
            By(tests) => list(tests),
            Partly(tests, but) => format!("{}; in part: {but}", list(tests)),
            Never(why) => format!("cannot run here: {why}"),
        };
        text.push_str(&format!("| {} | {what} | {held} |\n", index + 1));
    }
    text
}

/// Tests that are named and are not there any more.
fn missing() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = CASES.iter().flat_map(|(_, held)| match held {
        By(tests) | Partly(tests, _) => *tests,
        Never(_) => &[],
    });
    named
        .filter(|name| {
            let (file, test) = name.split_once("::").unwrap_or((name, ""));
            let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            let there = text.contains(&format!("fn {test}(")) && text.contains("#[test]");
            text.is_empty() || !(test.is_empty() || there)
        })
        .map(|name| (*name).to_owned())
        .collect()
}

#[test]
fn every_case_names_tests_that_exist() {
    assert_eq!(missing(), Vec::<String>::new(), "named in tests/faults/cases.rs, and not there");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/CASES.md");
    if tally::all() {
        std::fs::write(&path, text()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text(), "{} is not what the table says; write it with KEYWARD_FAULTS=all", path.display());
}
