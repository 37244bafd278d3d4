//! Several hosts of an inventory, some of which mean harm: what one of them does must not decide for the others, and nobody
//! is asked about hosts that were not seen.

use std::time::Duration;

use keyward::outcome::Exit;

use super::liar::{Act, Host, Script, Told, User, armed, finished, hello, plan};

/// A user with an inventory of these hosts: h1, h2 and so on.
struct Many {
    user: User,
    words: Vec<String>,
}

impl Many {
    fn new(hosts: &[&Host]) -> Self {
        let user = User::new(hosts[0]);
        let line = |(index, host): (usize, &&Host)| {
            let at = host.address[0];
            format!("h{} ansible_host={} ansible_port={} ansible_user=root\n", index + 1, at.ip(), at.port())
        };
        let inventory: String = hosts.iter().enumerate().map(line).collect();
        user.home.write("hosts.ini", &inventory, 0o644);
        let keys = hosts.iter().flat_map(|host| ["--host-key".to_owned(), host.fingerprint.clone()]);
        let words = ["-i".to_owned(), "hosts.ini".to_owned()].into_iter().chain(keys).collect();
        Self { user, words }
    }

    fn keyward(&self, words: &str, interrupt: &[Duration]) -> Told {
        let words: Vec<&str> = self.words.iter().map(String::as_str).chain(words.split(' ')).collect();
        self.user.typed(&words, interrupt)
    }
}

/// A host that tells a plan with a change of access, and does what is given for an apply.
fn host(apply: fn() -> Vec<Act>) -> Host {
    let script: Script = std::sync::Arc::new(move |verb| match verb {
        "plan" => vec![hello(), differs(), finished(Exit::Differs, "1 change", "")],
        "apply" => apply(),
        _ => vec![hello()],
    });
    Host::new(script, false)
}

fn differs() -> Act {
    plan(Some(keyward::change::Risk::Access), "deploy", 22)
}

fn hangs() -> Host {
    Host::new(std::sync::Arc::new(|_| vec![hello(), Act::Hang]), false)
}

#[test]
fn nobody_is_asked_about_hosts_that_were_not_seen() {
    let (seen, hung) = (host(Vec::new), hangs());
    let many = Many::new(&[&seen, &hung]);
    let told = many.keyward("apply play.yml", &[Duration::from_secs(2)]);
    assert!(told.words().contains("interrupted at the keyboard"), "{}", told.out);
    assert!(told.code != 0 && !told.out.contains("needs a yes"), "{}: {}", told.code, told.out);
    // Where all were seen, somebody is asked; there is nobody here, and the hint asks about the same hosts.
    let told = many.keyward("--limit h1 apply play.yml", &[]);
    assert!(told.code == 5 && told.words().contains("needs a yes"), "{}: {}", told.code, told.out);
    let hint = "--limit h1 apply play.yml --yes";
    assert!(told.words().contains(hint), "{}", told.out);
    assert!(!seen.seen.lock().unwrap().started.iter().any(|words| words.contains("'apply'")));
}

#[test]
fn a_host_that_takes_too_long_is_left_before_it_is_armed_and_undone_afterwards() {
    let before = host(|| vec![hello(), differs(), Act::Hang]);
    let after = host(|| {
        let end = finished(Exit::RolledBack, "rolled back", "");
        vec![hello(), differs(), armed("r1", 60_000), Act::Wait(Duration::from_secs(6)), end]
    });
    let many = Many::new(&[&before, &after]);
    let limited =
        |name: &str| many.keyward(&format!("--host-limit 2s --anew --limit {name} apply --yes play.yml"), &[]);
    // Nobody here knows whether something was begun.
    let told = limited("h1");
    assert!(told.code == 7 && told.took < Duration::from_secs(60), "{:?}: {}", told.took, told.out);
    assert!(told.words().contains("it has not ended in time"), "{}", told.out);
    let told = limited("h2");
    assert!(told.code == 3 && told.words().contains("h2 rolled back"), "{}: {}", told.code, told.out);
    let seen = after.seen.lock().unwrap();
    let cancelled = seen.started.iter().find(|words| words.contains("'cancel'"));
    assert!(cancelled.is_some_and(|words| words.contains("this host took too long")), "{:?}", seen.started);
}
