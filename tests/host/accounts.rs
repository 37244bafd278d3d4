//! The user databases: the same bytes as the shadow tools make, under the lock that they take.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keyward::error::Kind;
use keyward::host::{AccountEdit, Database, Host};

use crate::bench::{digest, inside, sh};
use crate::machine;

const FILES: [&str; 6] = ["passwd", "shadow", "group", "gshadow", "subuid", "subgid"];

fn files() -> Vec<String> {
    FILES.iter().flat_map(|name| digest(&format!("/etc/{name}"))).collect()
}

fn keep() {
    sh("mkdir -p /kept; cd /etc; cp -p passwd shadow group gshadow subuid subgid /kept/");
}

fn add(db: Database, line: &str) -> AccountEdit {
    AccountEdit::Add { db, line: line.to_owned() }
}

fn field(db: Database, key: &str, index: usize, value: &str) -> AccountEdit {
    AccountEdit::Field { db, key: key.to_owned(), index, value: value.to_owned() }
}

fn member(db: Database, group: &str, user: &str, present: bool) -> AccountEdit {
    AccountEdit::Member { db, group: group.to_owned(), user: user.to_owned(), present }
}

/// What `useradd -u 1600 -U -c 'A B' -s /bin/bash x` and `usermod -aG sudo x` do.
fn new_account(day: &str) -> Vec<AccountEdit> {
    vec![
        add(Database::Passwd, "x:x:1600:1600:A B:/home/x:/bin/bash"),
        add(Database::Shadow, &format!("x:!:{day}:0:99999:7:::")),
        add(Database::Group, "x:x:1600:"),
        add(Database::Gshadow, "x:!::"),
        member(Database::Group, "sudo", "x", true),
        member(Database::Gshadow, "sudo", "x", true),
    ]
}

#[test]
fn edits_give_the_bytes_of_the_shadow_tools() {
    inside("accounts::edits_give_the_bytes_of_the_shadow_tools", || {
        keep();
        let before = files();
        sh("useradd -M -u 1600 -U -c 'A B' -s /bin/bash -K SUB_UID_COUNT=0 -K SUB_GID_COUNT=0 x; usermod -aG sudo x");
        let day = sh("getent shadow x | cut -d: -f3");
        let theirs = files();
        sh("cp -p /kept/* /etc/");
        assert_eq!(files(), before);

        let host = machine();
        let edits = new_account(day.trim());
        let undo = host.account_undo(&edits).unwrap();
        assert_eq!(files(), before, "computing the undo changed something");
        assert_eq!(host.account(&edits).unwrap(), undo);
        assert_eq!(files(), theirs);
        sh("pwck -rq; grpck -r");
        // Done already: nothing to do, nothing to undo, nothing written.
        let inode = sh("stat -c %i /etc/passwd /etc/shadow");
        assert_eq!(host.account(&edits).unwrap(), []);
        assert_eq!(sh("stat -c %i /etc/passwd /etc/shadow"), inode);

        sh("usermod -s /bin/sh -c C x; chage -E 20000 -M 90 x; gpasswd -d x sudo >/dev/null");
        let theirs = files();
        sh("usermod -s /bin/bash -c 'A B' x; chage -E -1 -M 99999 x; usermod -aG sudo x");
        let mid = files();
        let edits = [
            field(Database::Passwd, "x", 6, "/bin/sh"),
            field(Database::Passwd, "x", 4, "C"),
            field(Database::Shadow, "x", 4, "90"),
            field(Database::Shadow, "x", 7, "20000"),
            member(Database::Group, "sudo", "x", false),
            member(Database::Gshadow, "sudo", "x", false),
        ];
        let back = host.account(&edits).unwrap();
        assert_eq!(files(), theirs);
        host.account(&back).unwrap();
        assert_eq!(files(), mid);
        host.account(&undo).unwrap();
        assert_eq!(files(), before);
        // A second undo, as after a crash in the first.
        host.account(&undo).unwrap();
        assert_eq!(files(), before);
    });
}

#[test]
fn edits_are_applied_all_or_none() {
    inside("accounts::edits_are_applied_all_or_none", || {
        let host = machine();
        sh("cp -p /etc/passwd /etc/passwd-; setfacl -m u:7:r /etc/shadow 2>/dev/null || true");
        xattr::set("/etc/shadow", "user.note", b"kept").unwrap();
        let before = digest("/etc");
        let good = new_account("1");
        for bad in [
            add(Database::Passwd, "root:x:0:0::/:/bin/sh"),
            add(Database::Passwd, "y:x:1601:1601::/home/y"),
            add(Database::Passwd, "y:x:0:0::/:/bin/sh\nz:x:0:0::/:/bin/sh"),
            field(Database::Shadow, "nobody-here", 1, "*"),
            field(Database::Shadow, "root", 1, "*:0"),
            field(Database::Passwd, "root", 0, "toor"),
            field(Database::Passwd, "root", 7, "x"),
            member(Database::Group, "no-group", "x", true),
            member(Database::Group, "sudo", "x,root", true),
            member(Database::Passwd, "root", "x", true),
        ] {
            let edits: Vec<_> = good.iter().cloned().chain([bad.clone()]).collect();
            let failure = host.account(&edits).unwrap_err();
            assert!(!failure.hint.is_empty() && failure.place.starts_with("/etc/"), "{bad:?}: {failure}");
            assert!(!failure.to_string().contains("!:1:0"), "{failure} shows a shadow line");
            sh("rm -f /etc/.pwd.lock");
            assert_eq!(
                before.iter().filter(|line| !line.contains(".pwd.lock")).collect::<Vec<_>>(),
                digest("/etc").iter().collect::<Vec<_>>(),
                "{bad:?}"
            );
        }
        // The last file to be written cannot be: the others go back.
        sh("ln /etc/passwd /etc/second");
        let before = digest("/etc");
        let failure = host.account(&good).unwrap_err();
        assert_eq!(failure.kind, Kind::Refused, "{failure}");
        sh("rm -f /etc/.pwd.lock");
        assert_eq!(digest("/etc"), before);
        sh("rm /etc/second");
        host.account(&good).unwrap();
        assert_eq!(xattr::get("/etc/shadow", "user.note").unwrap().unwrap(), b"kept");
    });
}

/// Holds the lock of lckpwdf(3) until killed or for so many seconds.
fn holder(seconds: u32) -> Child {
    let script = format!(
        "use Fcntl; open(F, '+>>', '/etc/.pwd.lock'); my $l = pack('s s x4 l! l! i', F_WRLCK, 0, 0, 0, 0); fcntl(F, F_SETLKW, $l) or die;
         $| = 1; print qq(held\\n); sleep {seconds};"
    );
    let mut child = Command::new("/usr/bin/perl").args(["-e", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut held = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut held).unwrap();
    child
}

#[test]
fn a_held_lock_is_waited_for() {
    inside("accounts::a_held_lock_is_waited_for", || {
        let mut child = holder(1);
        let began = Instant::now();
        machine().account(&new_account("1")).unwrap();
        assert!(began.elapsed() > Duration::from_millis(800), "{:?}", began.elapsed());
        child.wait().unwrap();
    });
}

#[test]
fn a_lock_held_for_too_long_names_its_holder() {
    inside("accounts::a_lock_held_for_too_long_names_its_holder", || {
        let before = files();
        let mut child = holder(60);
        let failure = machine().account(&new_account("1")).unwrap_err();
        assert_eq!(failure.kind, Kind::Busy);
        assert!(failure.why.contains(&format!("process {} (perl)", child.id())), "{failure}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(files(), before);
    });
}

#[test]
fn lock_files_of_the_shadow_tools_are_respected() {
    inside("accounts::lock_files_of_the_shadow_tools_are_respected", || {
        let (host, before) = (machine(), files());
        sh("touch /etc/shadow.lock");
        assert!(Command::new("/usr/sbin/useradd").arg("y").output().is_ok_and(|output| !output.status.success()));
        let failure = host.account(&new_account("1")).unwrap_err();
        assert_eq!((failure.kind, failure.hint.as_str()), (Kind::Refused, "rm /etc/shadow.lock"), "{failure}");
        std::fs::write("/etc/shadow.lock", format!("{}\0", std::process::id())).unwrap();
        assert_eq!(host.account(&new_account("1")).unwrap_err().kind, Kind::Busy);
        assert_eq!(files(), before);
        std::fs::write("/etc/shadow.lock", "999999\0").unwrap();
        host.account(&new_account("1")).unwrap();
        assert!(std::fs::exists("/etc/shadow.lock").unwrap());
    });
}

#[test]
fn nothing_is_lost_beside_a_running_useradd() {
    inside("accounts::nothing_is_lost_beside_a_running_useradd", || {
        let host = machine();
        let mut other = Command::new("/bin/sh")
            .args(["-ec", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do useradd -M -u 170$i -U other$i; done"])
            .spawn()
            .unwrap();
        for id in 1800..1840 {
            let edits = [
                add(Database::Shadow, &format!("our{id}:*:1:0:99999:7:::")),
                add(Database::Group, &format!("our{id}:x:{id}:")),
                add(Database::Passwd, &format!("our{id}:x:{id}:{id}::/:/bin/sh")),
            ];
            host.account(&edits).unwrap();
        }
        assert!(other.wait().unwrap().success());
        for (name, wanted) in [("passwd", 52), ("shadow", 52), ("group", 52)] {
            let count = sh(&format!("grep -cE '^(our|other)[0-9]+:' /etc/{name}"));
            assert_eq!(count.trim(), wanted.to_string(), "{name}");
        }
    });
}
