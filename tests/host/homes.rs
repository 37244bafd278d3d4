//! Work in the name of a user, in homes that the user rules (threat table A).

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use keyward::error::Kind;
use keyward::host::{Actor, FileKind, Host, Image, Node, Owner, Probe};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::bench::{digest, inside, sh};
use crate::{at, machine, user};

const KEYS: &str = "/home/deploy/.ssh/authorized_keys";

fn keys(text: &str) -> Node {
    Node::File { content: text.into(), mode: 0o600, owner: Owner::Actor }
}

fn deploy() -> Actor {
    Actor::User(user("deploy"))
}

fn new_user() {
    sh("useradd -m -u 1500 -U -s /bin/bash deploy; rm -rf /home/deploy/.ssh");
}

#[test]
fn a_child_that_was_expected_is_the_one_that_works() {
    inside("homes::a_child_that_was_expected_is_the_one_that_works", || {
        new_user();
        let (host, actor) = (machine(), deploy());
        let children = || {
            let all = std::fs::read_to_string("/proc/thread-self/children").unwrap();
            all.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(children(), Vec::<String>::new());
        host.expect(&user("deploy"));
        host.expect(&user("deploy"));
        let expected = children();
        assert_eq!(expected.len(), 1);
        assert_eq!(host.meta(&at("/home/deploy"), &actor).unwrap().unwrap().uid, 1500);
        assert_eq!(children(), expected);
        // Nobody of that name: that is for the work to say.
        host.expect(&user("nobody-here"));
        assert_eq!(host.meta(&at("/home/nobody-here/x"), &Actor::User(user("nobody-here"))).unwrap(), None);
    });
}

#[test]
fn what_a_user_gets_can_be_taken_back() {
    inside("homes::what_a_user_gets_can_be_taken_back", || {
        new_user();
        let (host, actor) = (machine(), deploy());
        let before = digest("/home");
        assert_eq!(host.read(&at(KEYS), &actor).unwrap(), None);
        assert_eq!(host.capture(&at(KEYS), &actor).unwrap(), Image::Absent);
        let failure = host.put(&at(KEYS), &actor, &keys("x")).unwrap_err();
        assert!(failure.what.contains("directory is not there"), "{failure}");
        let dir = at("/home/deploy/.ssh");
        host.put(&dir, &actor, &Node::Dir { mode: 0o700, owner: Owner::Actor }).unwrap();
        host.put(&at(KEYS), &actor, &keys("one\n")).unwrap();
        let meta = host.meta(&at(KEYS), &actor).unwrap().unwrap();
        assert_eq!((meta.kind, meta.mode, meta.uid, meta.gid, meta.links), (FileKind::File, 0o600, 1500, 1500, 1));
        let meta = host.meta(&dir, &actor).unwrap().unwrap();
        assert_eq!((meta.kind, meta.mode, meta.uid, meta.gid), (FileKind::Dir, 0o700, 1500, 1500));
        assert_eq!(host.read(&at(KEYS), &actor).unwrap().unwrap(), b"one\n");
        assert_eq!(host.list(&dir, &actor).unwrap().unwrap(), ["authorized_keys"]);

        // A file with another group and attributes, made by root for the user: taken over and put back as it was.
        sh(
            "chown deploy:root /home/deploy/.ssh /home/deploy/.ssh/authorized_keys; chmod 644 /home/deploy/.ssh/authorized_keys",
        );
        xattr::set(KEYS, "user.note", b"\x00kept").unwrap();
        let mid = digest("/home");
        let image = host.capture(&at(KEYS), &actor).unwrap();
        host.put(&at(KEYS), &actor, &keys("two\n")).unwrap();
        assert_eq!(xattr::get(KEYS, "user.note").unwrap().unwrap(), b"\x00kept");
        assert_ne!(digest("/home"), mid);
        host.restore(&at(KEYS), &actor, &image).unwrap();
        assert_eq!(digest("/home"), mid);

        host.restore(&at(KEYS), &actor, &Image::Absent).unwrap();
        host.restore(&dir, &actor, &Image::Absent).unwrap();
        assert_eq!(digest("/home"), before);
        host.remove(&at(KEYS), &actor).unwrap();
    });
}

/// What somebody prepared, and why nothing may be written then.
const HOSTILE: [(&str, &str, &str); 23] = [
    ("A1 file is a link to a root file", "ln -s /etc/shadow .ssh/authorized_keys", "symbolic link"),
    ("A1 file is a dangling link", "ln -s /etc/nothing .ssh/authorized_keys", "symbolic link"),
    ("A1 chain of links", "ln -s b .ssh/authorized_keys; ln -s /srv/open/f .ssh/b", "symbolic link"),
    ("A1 .ssh is a link to a directory", "rmdir .ssh; ln -s /srv/open .ssh", "symbolic link"),
    ("A1 .ssh is a link inside the home", "mv .ssh real; ln -s real .ssh", "symbolic link"),
    ("A1 .ssh is a dangling link", "rmdir .ssh; ln -s /nowhere .ssh", "symbolic link"),
    ("A3 hard link to a root file", "ln /etc/hard .ssh/authorized_keys", "hard link"),
    ("A3 hard link to an own file", "echo x >f; chown deploy f; ln f .ssh/authorized_keys", "hard link"),
    ("A4 fifo", "mkfifo .ssh/authorized_keys; chown deploy .ssh/authorized_keys", "fifo"),
    ("A4 device", "mknod .ssh/authorized_keys c 1 5; chown deploy .ssh/authorized_keys", "device"),
    ("A4 directory", "mkdir .ssh/authorized_keys; chown deploy .ssh/authorized_keys", "directory"),
    (".ssh is a file", "rmdir .ssh; echo x >.ssh", "regular file"),
    ("file of somebody else", "echo x >.ssh/authorized_keys; chown 7 .ssh/authorized_keys", "uid 7"),
    ("file of root", "echo x >.ssh/authorized_keys", "root"),
    (".ssh of somebody else", "chown 7 .ssh", "uid 7"),
    (".ssh of root", "chown root .ssh", "root"),
    ("A7 home of root, as in an sftp chroot", "chown root /home/deploy", "belongs to uid 0"),
    ("A7 home of somebody else", "chown 7 /home/deploy", "belongs to uid 7"),
    ("A7 parent others can write to", "chmod 777 /home", "mode 0777"),
    ("A7 sticky parent others can write to", "chmod 1777 /home", "mode 1777"),
    ("A7 parent of somebody else", "chown 7 /home", "uid 7"),
    ("A7 home is a link", "mv /home/deploy /home/real; ln -s real /home/deploy", "symbolic link"),
    ("A7 parent is a link", "mv /home /real; ln -s real /home", "symbolic link"),
];

#[test]
fn a_hostile_home_is_refused() {
    inside("homes::a_hostile_home_is_refused", || {
        new_user();
        sh("mkdir -m 777 /srv/open; echo x >/etc/hard; cp -a /home /home.kept");
        let image = Image::File { content: b"z".into(), mode: 0o600, uid: 1500, gid: 1500, xattrs: [].into() };
        for (name, prepare, expected) in HOSTILE {
            sh("rm -rf /home /real; cp -a /home.kept /home; install -d -o deploy -g deploy -m 700 /home/deploy/.ssh");
            sh(&format!("cd /home/deploy; {prepare}"));
            let before = digest_all();
            let (host, actor) = (machine(), deploy());
            for failure in [
                host.put(&at(KEYS), &actor, &keys("ssh-ed25519 AAAA attacker\n")).unwrap_err(),
                host.restore(&at(KEYS), &actor, &image).unwrap_err(),
            ] {
                assert_eq!(failure.kind, Kind::Refused, "{name}: {failure}");
                assert!(failure.line().contains(expected) && !failure.hint.is_empty(), "{name}: {failure}");
            }
            // What cannot be put back is not captured; a link can be, and is not changed either.
            match host.capture(&at(KEYS), &actor) {
                Ok(Image::Link { .. }) => assert!(name.starts_with("A1"), "{name}"),
                Ok(Image::Dir { .. }) => assert_eq!(name, "A4 directory"),
                Ok(other) => panic!("{name}: {other:?}"),
                Err(failure) => assert_eq!(failure.kind, Kind::Refused, "{name}: {failure}"),
            }
            assert_eq!(digest_all(), before, "{name}");
        }
    });
}

fn digest_all() -> Vec<String> {
    ["/etc", "/home", "/srv", "/root"].iter().flat_map(|root| digest(root)).collect()
}

#[test]
fn odd_homes_in_passwd_are_refused() {
    inside("homes::odd_homes_in_passwd_are_refused", || {
        new_user();
        sh("useradd -m -u 1501 other; install -d -o deploy -m 755 /home/other/deploy; cp /etc/passwd /etc/passwd.kept");
        for (home, path) in [
            ("/", "/keys"),
            ("/etc", "/etc/keys"),
            ("", "/keys"),
            ("home/deploy", "/home/deploy/keys"),
            ("/home/deploy/../../etc", "/etc/keys"),
            ("/home/deploy/", "/home/deploy/keys"),
            ("/home/other/deploy", "/home/other/deploy/keys"),
            ("/home/deploy", "/home/other/keys"),
            ("/home/deploy", "/home/deployment/keys"),
            ("/home/deploy", "/home/deploy"),
        ] {
            sh(&format!("sed 's#:/home/deploy:#:{home}:#' /etc/passwd.kept >/etc/passwd"));
            let before = digest_all();
            let failure = machine().put(&at(path), &deploy(), &keys("x")).unwrap_err();
            assert_eq!(failure.kind, Kind::Refused, "{home}: {failure}");
            assert!(!failure.hint.is_empty(), "{home}: {failure}");
            assert_eq!(digest_all(), before, "{home}");
        }
    });
}

#[test]
fn reading_in_a_home_neither_blocks_nor_follows() {
    inside("homes::reading_in_a_home_neither_blocks_nor_follows", || {
        new_user();
        sh("cd /home/deploy; mkdir d; chown deploy d; mkfifo d/fifo; ln -s /etc/shadow d/link; ln -s /dev/zero d/zero;
            truncate -s 8G d/sparse; chown deploy d/sparse; ln -s d e; echo root >d/root; chmod 644 d/root");
        let host = machine();
        for name in ["d/fifo", "d/link", "d/zero", "d/sparse", "e/root"] {
            let path = at(&format!("/home/deploy/{name}"));
            assert!(host.read(&path, &deploy()).is_err(), "{name}");
        }
        assert_eq!(host.read(&at("/home/deploy/d/root"), &deploy()).unwrap().unwrap(), b"root\n");
        assert_eq!(host.list(&at("/home/deploy/d"), &deploy()).unwrap().unwrap().len(), 5);
        assert!(host.list(&at("/home/deploy/e"), &deploy()).is_err());
        assert_eq!(host.list(&at("/home/deploy/none"), &deploy()).unwrap(), None);
    });
}

#[test]
fn an_account_that_is_not_there_has_nothing() {
    inside("homes::an_account_that_is_not_there_has_nothing", || {
        let host = machine();
        assert_eq!(host.read(&at(KEYS), &deploy()).unwrap(), None);
        assert_eq!(host.meta(&at(KEYS), &deploy()).unwrap(), None);
        assert_eq!(host.capture(&at(KEYS), &deploy()).unwrap(), Image::Absent);
        assert_eq!(host.put(&at(KEYS), &deploy(), &keys("x")).unwrap_err().kind, Kind::Failed);
        sh("mkdir -p /home/deploy/.ssh; echo left >/home/deploy/.ssh/authorized_keys");
        let host = machine();
        assert_eq!(host.read(&at(KEYS), &deploy()).unwrap_err().kind, Kind::Unknown);
        assert_eq!(host.capture(&at(KEYS), &deploy()).unwrap_err().kind, Kind::Unknown);
    });
}

/// Does `work` while another thread swaps `.ssh` and a link to an open directory as fast as the kernel can; gives back
/// what came of it and the number of swaps.
fn racing<T>(work: impl FnOnce() -> T) -> (T, u32) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let racer = scope.spawn(|| {
            let (one, two) = ("/home/deploy/.ssh", "/home/deploy/trap");
            let swap = || renameat2(AT_FDCWD, one, AT_FDCWD, two, RenameFlags::RENAME_EXCHANGE).is_ok();
            let mut swaps = 0;
            while !stop.load(Ordering::Relaxed) {
                swaps += u32::from(swap());
            }
            swaps
        });
        let result = work();
        stop.store(true, Ordering::Relaxed);
        (result, racer.join().unwrap())
    })
}

#[test]
fn nobody_wins_the_race_against_a_put() {
    inside("homes::nobody_wins_the_race_against_a_put", || {
        new_user();
        // The place outside is open to the user, so that only the refusal to follow links keeps it clean.
        sh("mkdir -m 777 /srv/open; install -d -o deploy -g deploy -m 700 /home/deploy/.ssh; cd /home/deploy;
            ln -s /srv/open trap; chown -h deploy trap");
        // The racer works: a naive writer lands outside.
        let lost = racing(|| {
            (0..5000).any(|_| {
                let _ = std::fs::write(KEYS, "naive");
                std::fs::remove_file("/srv/open/authorized_keys").is_ok()
            })
        });
        assert!(lost.0, "the racer never won against a naive writer");
        sh("rm -f /home/deploy/.ssh/* /home/deploy/trap/* /srv/open/*");
        let (host, actor) = (machine(), deploy());
        let all = std::env::var("KEYWARD_FAULTS").as_deref() == Ok("all");
        let puts = if all { 10_000 } else { 300 };
        let ((done, refused), flips) = racing(|| {
            let (mut done, mut refused) = (0, 0);
            for _ in 0..puts {
                match host.put(&at(KEYS), &actor, &keys("ssh-ed25519 AAAA\n")) {
                    Ok(()) => done += 1,
                    Err(failure) if matches!(failure.kind, Kind::Refused | Kind::Unknown) => refused += 1,
                    Err(failure) => panic!("{failure}"),
                }
            }
            (done, refused)
        });
        println!("SEEN {done} puts done, {refused} refused, {flips} flips");
        assert_eq!(std::fs::read_dir("/srv/open").unwrap().count(), 0);
        assert_eq!(done + refused, puts);
        assert!(done > 0 && refused > 0 && flips > 1000, "{done} {refused} {flips}");
        let real = if std::fs::symlink_metadata("/home/deploy/.ssh").unwrap().is_dir() { ".ssh" } else { "trap" };
        let names: Vec<_> =
            std::fs::read_dir(format!("/home/deploy/{real}")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["authorized_keys"]);
        assert_eq!(std::fs::metadata(format!("/home/deploy/{real}/authorized_keys")).unwrap().uid(), 1500);
    });
}

#[test]
fn a_killed_child_is_replaced() {
    inside("homes::a_killed_child_is_replaced", || {
        new_user();
        let (host, actor) = (machine(), deploy());
        let home = at("/home/deploy");
        assert!(host.meta(&home, &actor).unwrap().is_some());
        let status = sh("grep -l '^Name:.keyward' /proc/[0-9]*/status | head -1");
        let text = std::fs::read_to_string(status.trim()).unwrap();
        let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        assert_eq!(line("Uid:"), "1500\t1500\t1500\t1500");
        assert_eq!(line("Gid:"), "1500\t1500\t1500\t1500");
        assert_eq!(line("Groups:"), "1500");
        assert_eq!(line("NoNewPrivs:"), "1");
        assert_eq!(line("Umask:"), "0077");
        for caps in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(line(caps), "0000000000000000", "{caps}");
        }
        let pid = line("Pid:");
        let owner = std::fs::metadata(format!("/proc/{pid}/mem")).unwrap().uid();
        assert_eq!(owner, 0, "the user could trace the child");
        sh(&format!("kill -9 {pid}; sleep 0.05"));
        let failure = host.meta(&home, &actor).unwrap_err();
        assert_eq!(failure.kind, Kind::Unknown, "{failure}");
        assert!(host.meta(&home, &actor).unwrap().is_some());
    });
}

#[test]
fn a_user_that_stops_the_child_gains_nothing() {
    inside("homes::a_user_that_stops_the_child_gains_nothing", || {
        new_user();
        let (host, actor) = (machine(), deploy());
        let home = at("/home/deploy");
        assert!(host.meta(&home, &actor).unwrap().is_some());
        sh(
            "/bin/su deploy -s /bin/sh -c 'for d in /proc/[0-9]*; do [ \"$(cat $d/comm)\" = keyward ] && kill -STOP ${d#/proc/}; done; true'",
        );
        let began = std::time::Instant::now();
        let failure = host.meta(&home, &actor).unwrap_err();
        assert_eq!(failure.kind, Kind::Unknown, "{failure}");
        assert!(failure.why.contains("10 s") && began.elapsed().as_secs() >= 9, "{failure}");
        let mut times: Vec<_> = (0..20)
            .map(|_| {
                let (host, began) = (machine(), std::time::Instant::now());
                assert!(host.meta(&home, &actor).unwrap().is_some());
                began.elapsed()
            })
            .collect();
        times.sort();
        println!("SEEN the first look as a user takes {:?} (median of 20)", times[10]);
    });
}
