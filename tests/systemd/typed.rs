//! What somebody types at a laptop, and what is printed to be typed next: it has to work as it stands.

use std::time::{Duration, Instant};

use keyward::proof::Door;

use crate::far::{Pair, said, words};

const CLOUD_PASSWORD: &str = "secret of cloud";

/// The command behind `next:`, on one line.
fn next(text: &str) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    flat.rsplit_once("next: ").map(|(_, command)| command.to_owned()).unwrap_or_default()
}

#[test]
fn a_detached_run_is_confirmed_by_the_command_that_is_printed() {
    let Some(pair) = Pair::new("a_detached_run_is_confirmed_by_the_command_that_is_printed", "bookworm") else {
        return;
    };
    let first = pair.first("apply --yes first.yml");
    assert_eq!(first.code, 0, "{}", said(&first));
    pair.laptop.sh("sed 's/port: 2222/port: 2022/' /root/play/first.yml >/root/play/second.yml").ok();
    let place = format!("deploy@{}", pair.host.address);
    // A key that is named comes with the next command, too.
    pair.laptop.sh("mv /root/.ssh/id_ed25519 /root/named").ok();
    let detached =
        pair.keyward(&format!("--host {place}:2222 --login-key /root/named apply --yes --detach second.yml"));
    assert_eq!(detached.code, 8, "{}", said(&detached));
    let typed = next(&detached.stdout);
    let expected = format!("keyward --host {place}:2022 --login-key /root/named confirm ");
    assert!(typed.starts_with(&expected), "{typed}\n{}", said(&detached));
    let confirm = pair.laptop.sh(&typed);
    assert_eq!(confirm.code, 0, "{}", said(&confirm));
    assert_ne!(pair.host.door(2222), Door::Open);
}

#[test]
fn an_interrupt_undoes_the_run_and_nobody_waits_for_the_new_door() {
    let Some(pair) = Pair::new("an_interrupt_undoes_the_run_and_nobody_waits_for_the_new_door", "bookworm") else {
        return;
    };
    let blank = pair.files();
    pair.laptop.sh("iptables -A OUTPUT -p tcp --dport 2222 -j DROP").ok();
    for event in ["armed", "opened"] {
        pair.begin("apply --yes --confirm-within 120s first.yml");
        pair.hears(event, 60);
        let begun = Instant::now();
        pair.laptop.sh("pkill -INT -x keyward").ok();
        pair.hears("finished", 60);
        assert!(begun.elapsed() < Duration::from_secs(45), "{event}: {:?}", begun.elapsed());
        let heard = pair.heard();
        assert!(heard.lines().last().unwrap().contains("\"code\":3"), "{event}: {heard}");
        assert!(heard.contains("interrupted"), "{event}: {heard}");
        pair.as_before(&blank);
    }
}

#[test]
fn a_key_that_nobody_can_unlock_is_no_key() {
    let Some(pair) = Pair::new("a_key_that_nobody_can_unlock_is_no_key", "bookworm") else { return };
    let blank = pair.files();
    pair.laptop.sh("ssh-keygen -q -p -P '' -N 'a passphrase' -f /root/.ssh/id_ed25519").ok();
    let apply = pair.first("apply --yes first.yml");
    assert_eq!(apply.code, 5, "{}", said(&apply));
    assert!(apply.stderr.contains("nobody could confirm it"), "{}", said(&apply));
    same_soon(&pair, &blank);
    // The command that is offered instead runs as it is printed, but for the way in.
    let flat = words(&apply) + &apply.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("apply --yes --confirm-within 300s first.yml"), "{flat}");
}

fn same_soon(pair: &Pair, blank: &[String]) {
    pair.until("the host is quiet", 30, || pair.is_quiet());
    crate::same(blank, &pair.files(), "refused before the first change");
}

#[test]
fn the_password_of_the_account_is_for_its_sudo_too() {
    let Some(pair) = Pair::new("the_password_of_the_account_is_for_its_sudo_too", "bookworm") else { return };
    pair.host.sh("useradd -m -s /bin/bash -G sudo cloud; install -d -m 700 -o cloud -g cloud /home/cloud/.ssh").ok();
    pair.host.run(&["chpasswd", "-c", "SHA512"], format!("cloud:{CLOUD_PASSWORD}\n").as_bytes()).ok();
    let line = format!("{}\n", pair.laptop.key.public_key().to_openssh().unwrap());
    pair.host.put("/home/cloud/.ssh/authorized_keys", line.as_bytes(), "644");
    pair.laptop.put("/root/cloud", format!("{CLOUD_PASSWORD}\n").as_bytes(), "600");
    assert_eq!(pair.first("plan first.yml").code, 2);
    let cloud = pair.place("cloud");
    // The key lets it in; sudo asks.
    let plan = pair.keyward(&format!("--host {cloud} --password file:/root/cloud plan first.yml"));
    assert_eq!(plan.code, 2, "{}", said(&plan));
    let bare = pair.keyward(&format!("--host {cloud} plan first.yml"));
    assert!(bare.code == 5 && bare.stderr.contains("--sudo-password ask"), "{}", said(&bare));
}
