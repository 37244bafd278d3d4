//! The machine and its twin do and refuse the same: random work on both, compared after every step.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use keyward::host::memory::{Entry, MemoryHost, Stuff, World};
use keyward::host::{AccountEdit, Actor, Database, Host, Image, Node, Owner, Probe};

use crate::bench::{inside, sh};
use crate::{at, machine, user};

/// xorshift64: the same sequence for the same seed, everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }
}

/// Where work happens. Everything that can be reached through one of these is compared.
const ROOTS: [&str; 3] = ["/etc/t", "/home", "/srv/t"];
const DATABASES: [&str; 4] = ["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow"];

fn load(path: &Path, world: &mut World) {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let stuff = match meta.file_type() {
        kind if kind.is_file() => Stuff::File(std::fs::read(path).unwrap()),
        kind if kind.is_dir() => Stuff::Dir,
        kind if kind.is_symlink() => Stuff::Link(std::fs::read_link(path).unwrap().to_str().unwrap().to_owned()),
        _ => Stuff::Other,
    };
    let xattrs = match stuff {
        Stuff::File(_) | Stuff::Dir => xattr::list(path)
            .unwrap()
            .map(|name| (name.to_str().unwrap().to_owned(), xattr::get(path, &name).unwrap().unwrap()))
            .collect(),
        _ => [].into(),
    };
    let links = if stuff == Stuff::Dir { 1 } else { meta.nlink() };
    let entry =
        Entry { stuff, mode: meta.permissions().mode() & 0o7777, uid: meta.uid(), gid: meta.gid(), xattrs, links };
    world.set(path.to_str().unwrap(), entry);
    if meta.is_dir() {
        for name in std::fs::read_dir(path).unwrap() {
            load(&name.unwrap().path(), world);
        }
    }
}

fn real() -> World {
    let mut world = World::default();
    for path in ROOTS.iter().chain(&DATABASES) {
        load(Path::new(path), &mut world);
    }
    world
}

const PATHS: [&str; 22] = [
    "/etc/t/a",
    "/etc/t/b",
    "/etc/t/d",
    "/etc/t/d/a",
    "/etc/t/d/b",
    "/etc/t/d/e",
    "/etc/t/d/e/f",
    "/etc/t/link",
    "/etc/t/link/a",
    "/etc/t/fifo",
    "/etc/t/hard",
    "/etc/t/none/a",
    "/srv/t/a",
    "/srv/t/open/a",
    "/srv/t/theirs/a",
    "/home/deploy/.ssh",
    "/home/deploy/.ssh/keys",
    "/home/deploy/.ssh/link",
    "/home/deploy/other/a",
    "/home/deploy/rooted/a",
    "/home/deploy/f",
    "/home/deploy",
];

fn node(dice: &mut Dice) -> Node {
    let mode = *dice.pick(&[0o600, 0o644, 0o640, 0o700, 0o755, 0o2755]);
    let owner = *dice.pick(&[Owner::Actor, Owner::Actor, Owner::Ids { uid: 0, gid: 3 }]);
    if dice.roll(3) == 0 {
        // The twin does not know that a directory without x cannot be entered.
        return Node::Dir { mode: mode | 0o700, owner };
    }
    let content = dice.pick(&["", "one\n", "two", "\u{e9}\n"]).as_bytes().to_vec();
    Node::File { content, mode, owner }
}

fn edit(dice: &mut Dice) -> AccountEdit {
    let db = *dice.pick(&[Database::Passwd, Database::Shadow, Database::Group, Database::Gshadow, Database::Subuid]);
    let key = *dice.pick(&["x", "y", "deploy2", "sudo", "nobody-here"]);
    match dice.roll(6) {
        0 | 1 => {
            let line = match db {
                Database::Passwd => format!("{key}:x:1700:1700::/home/{key}:/bin/sh"),
                Database::Shadow => format!("{key}:*:1:0:99999:7:::"),
                Database::Group => format!("{key}:x:1700:"),
                Database::Gshadow => format!("{key}:!::"),
                _ => format!("{key}:1:2"),
            };
            AccountEdit::Add { db, line }
        }
        // The accounts that the work itself runs as stay.
        2 => AccountEdit::Remove { db, key: (*dice.pick(&["x", "y", "deploy2", "nobody-here"])).to_owned() },
        3 | 4 => {
            let (user, present) = ((*dice.pick(&["x", "y", "a,b"])).to_owned(), dice.roll(2) == 0);
            AccountEdit::Member { db, group: key.to_owned(), user, present }
        }
        _ => {
            let value = (*dice.pick(&["*", "1", "a:b", ""])).to_owned();
            AccountEdit::Field { db, key: key.to_owned(), index: 1 + dice.roll(4), value }
        }
    }
}

#[track_caller]
fn same(one: &World, two: &World, say: &str) {
    for path in one.nodes().keys().chain(two.nodes().keys()) {
        assert_eq!(one.entry(path), two.entry(path), "{say}: {path}");
    }
}

fn prepare() {
    sh("useradd -m -u 1500 -U deploy; rm -f /etc/subuid /etc/subgid; mkdir /etc/t /srv/t; cd /etc/t
        echo x >plain; ln plain hard; ln -s /srv/t link; mkfifo fifo; mkdir d
        install -d -m 777 /srv/t/open; install -d -o 7 /srv/t/theirs
        cd /home/deploy; install -d -o deploy -g root -m 700 .ssh; install -d other rooted; chown 7 other
        ln -s /etc/shadow .ssh/link; echo k >.ssh/keys; chown deploy:root .ssh/keys");
    xattr::set("/home/deploy/.ssh/keys", "user.note", b"n").unwrap();
    xattr::set("/etc/t/d", "trusted.note", b"d").unwrap();
}

#[test]
fn the_machine_and_its_twin_agree() {
    inside("twins::the_machine_and_its_twin_agree", || {
        prepare();
        let (host, twin) = (machine(), MemoryHost::new(real()));
        let begin = real();
        let mut undo: Vec<(Actor, &str, Image)> = Vec::new();
        let mut back: Vec<Vec<AccountEdit>> = Vec::new();
        let (mut done, mut refused) = (0, 0);
        let mut dice = Dice(0x6b65_7977_6172_6421);
        for round in 0..600 {
            let path = *dice.pick(&PATHS);
            let actor =
                if path.starts_with("/home") && dice.roll(4) > 0 { Actor::User(user("deploy")) } else { Actor::Root };
            let (place, what) = (at(path), dice.roll(10));
            let say = format!("round {round}: {what} {path} {actor:?}");
            let outcome = match what {
                0..=3 => {
                    let node = node(&mut dice);
                    let images = (host.capture(&place, &actor), twin.capture(&place, &actor));
                    assert_eq!(images.0, images.1, "{say}");
                    let outcome = (host.put(&place, &actor, &node), twin.put(&place, &actor, &node));
                    if let (Ok(image), Ok(())) = (images.0, &outcome.0) {
                        undo.push((actor, path, image));
                    }
                    outcome
                }
                4 => {
                    let image = host.capture(&place, &actor);
                    let outcome = (host.remove(&place, &actor), twin.remove(&place, &actor));
                    if let (Ok(image), Ok(())) = (image, &outcome.0) {
                        undo.push((actor, path, image));
                    }
                    outcome
                }
                5 => match undo.pop() {
                    Some((actor, path, image)) => {
                        (host.restore(&at(path), &actor, &image), twin.restore(&at(path), &actor, &image))
                    }
                    None => continue,
                },
                6 | 7 => {
                    let edits: Vec<_> = (0..=dice.roll(3)).map(|_| edit(&mut dice)).collect();
                    let undone = (host.account_undo(&edits), twin.account_undo(&edits));
                    assert_eq!(undone.0, undone.1, "{say}");
                    let outcome = (host.account(&edits), twin.account(&edits));
                    assert_eq!(outcome.0, outcome.1, "{say}");
                    back.extend(outcome.0.clone());
                    (outcome.0.map(|_| ()), outcome.1.map(|_| ()))
                }
                8 => {
                    assert_eq!(host.read(&place, &actor), twin.read(&place, &actor), "{say}");
                    assert_eq!(host.list(&place, &actor), twin.list(&place, &actor), "{say}");
                    continue;
                }
                _ => {
                    let seen = (host.meta(&place, &actor), twin.meta(&place, &actor));
                    let plain = |meta: keyward::error::Result<Option<keyward::host::Meta>>| {
                        // Sizes and links of directories are the file system's own.
                        meta.map(|meta| meta.map(|meta| (meta.kind, meta.mode, meta.uid, meta.gid)))
                    };
                    assert_eq!(plain(seen.0), plain(seen.1), "{say}");
                    assert_eq!(host.link(&place), twin.link(&place), "{say}");
                    continue;
                }
            };
            assert_eq!(outcome.0, outcome.1, "{say}");
            *(if outcome.0.is_ok() { &mut done } else { &mut refused }) += 1;
            same(&real(), &twin.snapshot(), &say);
        }
        assert!(done > 100 && refused > 100, "{done} done, {refused} refused");
        println!("SEEN {done} done, {refused} refused, all alike");
        for edits in back.iter().rev() {
            host.account(edits).unwrap();
        }
        for (actor, path, image) in undo.iter().rev() {
            host.restore(&at(path), actor, image).unwrap();
        }
        let trees = |world: World| {
            let nodes = world.nodes().clone();
            nodes.into_iter().filter(|(path, _)| !DATABASES.contains(&path.as_str())).collect::<Vec<_>>()
        };
        assert_eq!(trees(real()), trees(begin));
    });
}
