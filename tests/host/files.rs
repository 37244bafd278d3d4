//! Files in the name of root.

use std::collections::BTreeMap;

use keyward::error::Kind;
use keyward::host::{AccountEdit, Actor, Database, FileKind, Host, Image, Node, Owner, Probe};

use crate::bench::{digest, inside, sh};
use crate::{at, machine};

fn file(text: &str, mode: u32) -> Node {
    Node::File { content: text.into(), mode, owner: Owner::Actor }
}

#[test]
fn what_is_put_can_be_taken_back() {
    inside("files::what_is_put_can_be_taken_back", || {
        let host = machine();
        sh(
            "umask 0; mkdir -m 755 /etc/t; echo old >/etc/t/old; chmod 641 /etc/t/old; chown 7:9 /etc/t/old; ln -s /nowhere /etc/t/link",
        );
        xattr::set("/etc/t/old", "trusted.note", b"\x00\xff kept").unwrap();
        xattr::set("/etc/t/old", "user.note", b"u").unwrap();
        let before = digest("/etc");
        let mut images = Vec::new();
        let mut put = |path: &str, node: Node| {
            images.push((path.to_owned(), host.capture(&at(path), &Actor::Root).unwrap()));
            host.put(&at(path), &Actor::Root, &node).unwrap();
        };
        put("/etc/t/old", file("new", 0o440));
        put("/etc/t/fresh", file("", 0o4755));
        put("/etc/t/dir", Node::Dir { mode: 0o2750, owner: Owner::Ids { uid: 0, gid: 4 } });
        put("/etc/t/dir/in", Node::File { content: vec![0, 255], mode: 0o600, owner: Owner::Ids { uid: 5, gid: 6 } });
        put("/etc/t", Node::Dir { mode: 0o711, owner: Owner::Actor });
        let old = host.capture(&at("/etc/t/old"), &Actor::Root).unwrap();
        let xattrs = BTreeMap::from([
            ("trusted.note".to_owned(), b"\x00\xff kept".to_vec()),
            ("user.note".to_owned(), b"u".to_vec()),
        ]);
        assert_eq!(old, Image::File { content: b"new".to_vec(), mode: 0o440, uid: 0, gid: 0, xattrs });
        let meta = host.meta(&at("/etc/t/fresh"), &Actor::Root).unwrap().unwrap();
        assert_eq!((meta.kind, meta.mode, meta.uid, meta.size, meta.links), (FileKind::File, 0o4755, 0, 0, 1));
        let meta = host.meta(&at("/etc/t/dir"), &Actor::Root).unwrap().unwrap();
        assert_eq!((meta.kind, meta.mode, meta.uid, meta.gid), (FileKind::Dir, 0o2750, 0, 4));
        images.push(("/etc/t/link".to_owned(), host.capture(&at("/etc/t/link"), &Actor::Root).unwrap()));
        host.remove(&at("/etc/t/link"), &Actor::Root).unwrap();
        assert_ne!(digest("/etc"), before);
        for (path, image) in images.iter().rev() {
            host.restore(&at(path), &Actor::Root, image).unwrap();
        }
        assert_eq!(digest("/etc"), before);
    });
}

#[test]
fn what_is_no_plain_file_is_refused() {
    inside("files::what_is_no_plain_file_is_refused", || {
        let host = machine();
        sh("mkdir /etc/t; cd /etc/t; echo x >plain; ln plain hard; ln -s plain soft; ln -s /nowhere dangling; mkfifo fifo;
            mkdir dir; touch dir/in; mknod null c 1 3; mkdir real; ln -s real linked; echo y >real/f; ln -s /proc/self/root/etc/t/real magic");
        let before = digest("/etc/t");
        for name in ["hard", "plain", "soft", "dangling", "fifo", "null", "dir", "linked/f", "linked/new", "magic/f"] {
            let path = at(&format!("/etc/t/{name}"));
            let failure = host.put(&path, &Actor::Root, &file("z", 0o600)).unwrap_err();
            assert_eq!(failure.kind, Kind::Refused, "{failure}");
            assert!(!failure.hint.is_empty() && failure.place.starts_with("/etc/t/"), "{failure}");
            let image = Image::File { content: b"z".to_vec(), mode: 0o600, uid: 0, gid: 0, xattrs: BTreeMap::new() };
            assert_eq!(host.restore(&path, &Actor::Root, &image).unwrap_err().kind, Kind::Refused, "{name}");
            assert_eq!(digest("/etc/t"), before, "{name}");
        }
        for name in ["hard", "fifo", "null", "linked/f"] {
            let path = at(&format!("/etc/t/{name}"));
            assert_eq!(host.capture(&path, &Actor::Root).unwrap_err().kind, Kind::Refused, "{name}");
        }
        for name in ["fifo", "null", "dir"] {
            assert_eq!(
                host.read(&at(&format!("/etc/t/{name}")), &Actor::Root).unwrap_err().kind,
                Kind::Unknown,
                "{name}"
            );
        }
        for name in ["soft", "linked/f"] {
            assert!(host.read(&at(&format!("/etc/t/{name}")), &Actor::Root).unwrap().is_some(), "{name}");
        }
        for name in ["dangling", "none", "plain/below", "none/below"] {
            assert_eq!(host.read(&at(&format!("/etc/t/{name}")), &Actor::Root).unwrap(), None, "{name}");
        }
        for name in ["fifo", "null", "dir"] {
            assert!(host.remove(&at(&format!("/etc/t/{name}")), &Actor::Root).is_err(), "{name}");
        }
        assert_eq!(digest("/etc/t"), before);
        sh("chmod 775 /etc/t/real; install -d -o 7 /etc/t/theirs");
        for name in ["real/f", "theirs/f"] {
            let failure = host.put(&at(&format!("/etc/t/{name}")), &Actor::Root, &file("z", 0o600)).unwrap_err();
            assert_eq!(failure.kind, Kind::Refused, "{failure}");
        }
    });
}

/// A file system of this size and number of files over a fresh directory, with one old file.
fn small(options: &str) {
    sh(&format!(
        "umount /etc/t 2>/dev/null || true; mkdir -p /etc/t; mount -t tmpfs -o mode=755,{options} small /etc/t; echo old >/etc/t/old"
    ));
}

#[test]
fn what_cannot_be_changed_stays_and_leaves_nothing_behind() {
    inside("files::what_cannot_be_changed_stays_and_leaves_nothing_behind", || {
        let host = machine();
        let old = at("/etc/t/old");
        let big = file(&"x".repeat(200_000), 0o600);
        let cases: [(&str, &str, &str, &str, Kind, bool); 7] = [
            ("full disk", "size=64k", "true", "true", Kind::Failed, false),
            ("no inodes", "nr_inodes=3", "touch /etc/t/b", "true", Kind::Failed, false),
            ("read-only", "size=1m", "mount -o remount,ro /etc/t", "true", Kind::Refused, true),
            (
                "mount point",
                "size=1m",
                "mount --bind /etc/hostname /etc/t/old",
                "umount /etc/t/old",
                Kind::Refused,
                false,
            ),
            ("immutable", "size=1m", "chattr +i /etc/t/old", "chattr -i /etc/t/old", Kind::Refused, true),
            ("append-only", "size=1m", "chattr +a /etc/t/old", "chattr -a /etc/t/old", Kind::Refused, false),
            ("immutable directory", "size=1m", "chattr +i /etc/t", "chattr -i /etc/t", Kind::Refused, true),
        ];
        for (name, options, prepare, release, kind, at_capture) in cases {
            small(options);
            let image = host.capture(&old, &Actor::Root).unwrap();
            sh(prepare);
            let before = digest("/etc/t");
            let failure = host.put(&old, &Actor::Root, &big).unwrap_err();
            assert_eq!(failure.kind, kind, "{name}: {failure}");
            assert!(!failure.why.is_empty() && !failure.hint.is_empty(), "{name}: {failure}");
            println!("SEEN {name}: {}", failure.line());
            assert_eq!(digest("/etc/t"), before, "{name}");
            assert!(
                host.put(&at("/etc/t/new"), &Actor::Root, &big).is_err() || !matches!(name, "full disk" | "no inodes")
            );
            let _ = host.remove(&at("/etc/t/new"), &Actor::Root);
            assert_eq!(digest("/etc/t"), before, "{name}");
            // Before the first change: what the kernel would refuse for sure is not captured.
            let captured = host.capture(&old, &Actor::Root);
            assert_eq!(captured.is_err(), at_capture, "{name}: {captured:?}");
            sh(release);
            if name == "no inodes" {
                // The way back works on a full disk, also where the content shrank or grew within a block.
                std::fs::write("/etc/t/old", "changed meanwhile").unwrap();
                sh("chmod 4711 /etc/t/old; chown 3:4 /etc/t/old");
                host.restore(&old, &Actor::Root, &image).unwrap();
                assert_eq!(digest("/etc/t"), before, "{name}");
                assert!(host.restore(&at("/etc/t/new"), &Actor::Root, &image).is_err());
            }
            if name != "read-only" {
                host.restore(&old, &Actor::Root, &image).unwrap();
            }
        }
    });
}

/// An access list that lets uid 7 read (acl(5); the kernel's form is version 2, then tag, bits and id of each entry).
fn acl(mask: u16) -> Vec<u8> {
    let none = u32::MAX;
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, bits, id) in [(1u16, 6u16, none), (2, 4, 7), (4, 4, none), (16, mask, none), (32, 0, none)] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(bits.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[test]
fn access_lists_survive() {
    inside("files::access_lists_survive", || {
        let host = machine();
        sh("mkdir /etc/t; echo a >/etc/t/plain; echo b >/etc/t/listed");
        xattr::set("/etc/t/listed", "system.posix_acl_access", &acl(4)).unwrap();
        // From now on new files inherit a list, also those in the making.
        xattr::set("/etc/t", "system.posix_acl_default", &acl(6)).unwrap();
        let before = digest("/etc/t");
        let mode = |name: &str| host.meta(&at(name), &Actor::Root).unwrap().unwrap().mode;
        for (name, bits) in [("/etc/t/plain", 0o644), ("/etc/t/listed", 0o640)] {
            let image = host.capture(&at(name), &Actor::Root).unwrap();
            host.put(&at(name), &Actor::Root, &file("new", bits)).unwrap();
            assert_eq!(mode(name), bits);
            assert_eq!(
                xattr::get(name, "system.posix_acl_access").unwrap().is_some(),
                name.ends_with("listed"),
                "{name}"
            );
            host.restore(&at(name), &Actor::Root, &image).unwrap();
        }
        assert_eq!(digest("/etc/t"), before);
        host.put(&at("/etc/t/fresh"), &Actor::Root, &file("", 0o600)).unwrap();
        assert_eq!(mode("/etc/t/fresh"), 0o600);
        host.restore(&at("/etc/t/fresh"), &Actor::Root, &Image::Absent).unwrap();
        assert_eq!(digest("/etc/t"), before);
    });
}

#[test]
fn what_a_killed_run_left_is_swept_on_the_way_back() {
    inside("files::what_a_killed_run_left_is_swept_on_the_way_back", || {
        let host = machine();
        sh("mkdir /etc/t; echo x >/etc/t/f");
        let before = digest("/etc/t");
        let image = host.capture(&at("/etc/t/f"), &Actor::Root).unwrap();
        sh(&format!(
            "cd /etc/t; echo y >.keyward-999999-0.tmp; mkdir .keyward-999999-1.tmp; touch .keyward-{}-0.tmp",
            std::process::id()
        ));
        host.put(&at("/etc/t/f"), &Actor::Root, &file("y", 0o600)).unwrap();
        host.restore(&at("/etc/t/f"), &Actor::Root, &image).unwrap();
        // One in the making by a living process is not ours to remove, and not overwritten either.
        sh(&format!("rm /etc/t/.keyward-{}-0.tmp", std::process::id()));
        assert_eq!(digest("/etc/t"), before);
        sh("echo z >/etc/t/g; echo y >/etc/t/.keyward-999999-0.tmp");
        host.remove(&at("/etc/t/g"), &Actor::Root).unwrap();
        assert_eq!(digest("/etc/t"), before);
    });
}

#[test]
fn what_a_killed_run_left_is_swept_although_its_number_was_given_out_again() {
    inside("files::what_a_killed_run_left_is_swept_although_its_number_was_given_out_again", || {
        let host = machine();
        sh("mkdir /etc/t; echo x >/etc/t/f");
        let before = digest("/etc/t");
        let image = host.capture(&at("/etc/t/f"), &Actor::Root).unwrap();
        // Whoever starts next gets one of these numbers, as after a reboot.
        let last: u32 = std::fs::read_to_string("/proc/sys/kernel/ns_last_pid").unwrap().trim().parse().unwrap();
        for pid in last + 1..last + 300 {
            std::fs::write(format!("/etc/t/.keyward-{pid}-0.tmp"), "y").unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(60));
        let mut later = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        assert!((last + 1..last + 300).contains(&later.id()), "{} after {last}", later.id());
        host.restore(&at("/etc/t/f"), &Actor::Root, &image).unwrap();
        later.kill().unwrap();
        later.wait().unwrap();
        assert_eq!(digest("/etc/t"), before);
    });
}

#[test]
fn what_a_killed_run_left_beside_the_user_databases_is_swept() {
    inside("files::what_a_killed_run_left_beside_the_user_databases_is_swept", || {
        let host = machine();
        sh("echo y >/etc/.keyward-999999-0.tmp");
        // The entry of a run that was killed before it stood; taking it back changes no file.
        let edit = AccountEdit::Remove { db: Database::Subuid, key: "nobody-yet".to_owned() };
        assert_eq!(host.account(&[edit]).unwrap(), Vec::new());
        assert!(!std::path::Path::new("/etc/.keyward-999999-0.tmp").exists());
    });
}
