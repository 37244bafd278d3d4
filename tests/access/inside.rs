//! What happens in the copy: plant, start sshd, ask keyward, log in for real, compare.

use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyward::outcome::ways::{Account, Method, Places, Ways};
use keyward::outcome::{Event, Proven};
use keyward::types::{Cidr, Word as _};

use super::case::{Case, Try};

fn sh(script: &str) -> String {
    let output = Command::new("/bin/sh").args(["-ec", script]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}: {}{said}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

fn filled(text: &str) -> String {
    let read = |name: &str| std::fs::read_to_string(name).unwrap().trim().to_owned();
    text.replace("@KEY@", &read("/tmp/key.pub")).replace("@OTHER@", &read("/tmp/other.pub"))
}

fn prepare(case: &Case) {
    sh("mkdir -p /run/sshd; ssh-keygen -A >/dev/null
        for k in key other; do ssh-keygen -q -t ed25519 -N '' -C $k@test -f /tmp/$k; done
        for a in 192.0.2.1 192.0.2.9 10.1.1.1 198.51.100.7; do ip addr add $a/32 dev lo; done
        for a in 2001:db8::1 2001:db8::9; do ip addr add $a/128 dev lo nodad; done
        printf '#!/bin/sh\\necho secret\\n' >/tmp/askpass; chmod 755 /tmp/askpass");
    let (first, last) = case.script.split_once("# files\n").unwrap_or(("", &case.script));
    sh(&filled(first));
    for (path, content) in &case.files {
        std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
        std::fs::write(path, filled(content)).unwrap();
    }
    sh(&filled(last));
    // Since 9.8 refused logins shut their address out for a while; each login here stands for itself.
    let single = "-o PerSourcePenalties=no";
    let knows = Command::new("/usr/sbin/sshd").args(["-t"]).args(single.split(' ')).output().unwrap().status.success();
    let options: Vec<&str> = if knows { single.split(' ').collect() } else { Vec::new() };
    let status = Command::new("/usr/sbin/sshd").args(options).stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "sshd does not start");
    let start = Instant::now();
    while !sh("ss -Hltn 'sport = :22'").contains("LISTEN") {
        assert!(start.elapsed() < Duration::from_secs(5), "sshd does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What `keyward access` says, both ways of saying it.
fn said() -> Ways {
    let run = |args: &[&str]| {
        let output = Command::new("/opt/keyward").args(args).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let human = run(&["access"]);
    println!("{human}");
    assert!(human.lines().all(|line| line.chars().count() <= 80), "a line is too long");
    let json = run(&["access", "--format", "json"]);
    json.lines()
        .find_map(|line| match serde_json::from_str(line).unwrap() {
            Event::Access { now, after: None } => Some(now),
            _ => None,
        })
        .unwrap()
}

/// Whether the model lets somebody in from an address.
fn includes(places: &Places, address: &str) -> bool {
    let ip: IpAddr = address.parse().unwrap();
    let holds = |label: &String| {
        Cidr::parse(label).map_or_else(|_| address.starts_with(label.trim_end_matches('*')), |cidr| cidr.contains(ip))
    };
    let family = places.family.as_deref().is_none_or(|family| (family == "IPv6") == ip.is_ipv6());
    let everywhere = places.everywhere == Proven::Yes && family;
    (places.only.iter().any(holds) || everywhere) && !places.but.iter().any(holds)
}

/// What the model says to one login: by the methods of the account, and those that hold at some places only.
fn modelled(account: &Account, one: &Try) -> bool {
    if account.ssh != Proven::Yes || !includes(&account.from, &one.address) {
        return false;
    }
    let fits = |method: &Method| match method {
        Method::Keys { .. } => one.method == "key",
        Method::Password | Method::KeyboardInteractive => one.method == "password",
        Method::Nothing => true,
        Method::Chain { chain } => one.method == "both" && chain == "publickey,password",
        Method::KeysOfOthers { .. } => false,
    };
    let word = if one.method == "key" { " key" } else { "by password" };
    let here = |warning: &String| {
        let place = warning.strip_prefix("from ").and_then(|rest| rest.split_once(" also by "));
        place.is_some_and(|(place, _)| {
            let from = Places { only: vec![place.to_owned()], ..Places::default() };
            warning.contains(word) && Cidr::parse(place).is_ok() && includes(&from, &one.address)
        })
    };
    account.methods.iter().any(fits) || account.warnings.iter().any(here)
}

/// A login by OpenSSH's client from the address; what it said when it failed.
fn logs_in(one: &Try, command: &str) -> Result<String, String> {
    let server = if one.address.contains(':') { "2001:db8::9" } else { "192.0.2.9" };
    let methods = match one.method.as_str() {
        "key" => "publickey",
        "password" => "password,keyboard-interactive",
        _ => "publickey,password,keyboard-interactive",
    };
    let output = Command::new("/usr/bin/ssh")
        .args(["-F", "/dev/null", "-b", &one.address, "-i", "/tmp/key", "-o", "IdentitiesOnly=yes"])
        .args(["-o", &format!("PreferredAuthentications={methods}"), "-o", "StrictHostKeyChecking=no"])
        .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=3", "-o", "NumberOfPasswordPrompts=1"])
        .args([&format!("{}@{server}", one.user), command])
        .envs([("SSH_ASKPASS", "/tmp/askpass"), ("SSH_ASKPASS_REQUIRE", "force"), ("DISPLAY", ":0")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Whether the real sudo makes the account root, with its password when it asks for one.
fn becomes_root(name: &str) -> bool {
    let script = format!("su -s /bin/sh {name} -c 'echo secret | sudo -S -p \"\" id -u' 2>/dev/null || true");
    name == "root" || sh(&format!("id -u {name}")).trim() == "0" || sh(&script).trim() == "0"
}

/// Runs the case.
pub fn run(case: &Case) {
    prepare(case);
    let ways = said();
    let mut wrong = Vec::new();
    for one in &case.tries {
        let model = ways.account(&one.user).is_some_and(|account| modelled(account, one));
        let real = logs_in(one, "echo in");
        if model != one.gets_in || real.is_ok() != one.gets_in {
            wrong.push(format!("{one:?}: the model says {model}, the login {real:?}; {:#?}", ways.account(&one.user)));
        }
    }
    for (name, wanted) in &case.root {
        let model = ways.account(name).is_some_and(|account| account.root == Proven::Yes);
        let real = becomes_root(name);
        if (model, real) != (*wanted, *wanted) {
            wrong.push(format!("root of {name}: the model says {model}, sudo {real}, wanted {wanted}"));
        }
    }
    let console = ways.console.join(" ");
    if case.console.as_ref().is_some_and(|wanted| *wanted != console) {
        wrong.push(format!("console: {console}, wanted {:?}", case.console));
    }
    for (name, text) in &case.says {
        let told =
            ways.account(name).map(|a| [a.because.clone(), a.soon.clone(), a.warnings.clone()].concat().join("\n"));
        if !told.as_ref().is_some_and(|told| told.contains(text)) {
            wrong.push(format!("of {name} '{text}' is not said: {told:?}"));
        }
    }
    for (session, text, wanted) in &case.told {
        let plan = logs_in(session, "/opt/keyward plan /srv/job.yml 2>&1; true").unwrap();
        let plan = plan.split_whitespace().collect::<Vec<_>>().join(" ");
        if plan.contains(text) != *wanted || !plan.contains("touching ways in") {
            wrong.push(format!(
                "from {}: '{text}' is {}said: {plan}",
                session.address,
                if *wanted { "not " } else { "" }
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
