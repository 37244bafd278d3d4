//! Files in the name of root.

use std::collections::BTreeMap;

use keyward::error::Kind;
use keyward::host::{Actor, FileKind, Host, Image, Node, Owner, Probe};

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
