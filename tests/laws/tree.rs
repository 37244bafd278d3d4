//! What must be byte for byte the same before a run and after its rollback, on the copy the test runs in.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

/// Everything below these is compared: bytes, mode, owner, group, extended attributes.
const ROOTS: [&str; 7] = ["/etc", "/home", "/root", "/usr/local/etc", "/var/lib", "/var/mail", "/var/spool"];
/// Not compared, each with its reason.
const LEFT_OUT: [(&str, &str); 3] = [
    ("/etc/.pwd.lock", "the lock file of lckpwdf(3), made by the first tool that takes the lock"),
    ("/var/lib/ufw", "counters and logs of ufw"),
    ("/var/lib/keyward", "keyward's own journals"),
];

pub type Digest = BTreeMap<String, String>;

/// Path to what stands there, and the loaded rules of both families.
pub fn digest() -> Digest {
    let mut found = Digest::new();
    for root in ROOTS {
        walk(Path::new(root), &mut found);
    }
    for program in ["/usr/sbin/iptables-save", "/usr/sbin/ip6tables-save"] {
        let output = Command::new(program).output().expect("iptables");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // A table that was only looked at appears empty; its absence and its emptiness let the same in.
        let rules: Vec<&str> = text.lines().filter(|line| line.starts_with("-A") || line.starts_with(':')).collect();
        let plain = rules.iter().map(|line| line.split(" [").next().unwrap_or_default());
        let told =
            plain.filter(|line| !line.ends_with(" ACCEPT") || line.starts_with("-A")).collect::<Vec<_>>().join("\n");
        found.insert(program.to_owned(), told);
    }
    found.insert("listening ports".to_owned(), ports());
    found
}

fn ports() -> String {
    let mut ports: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|path| {
            std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .filter(|line| line.split_whitespace().nth(3) == Some("0A"))
        .filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned))
        .collect();
    ports.sort();
    ports.join(" ")
}

fn walk(path: &Path, found: &mut Digest) {
    let shown = path.display().to_string();
    if LEFT_OUT.iter().any(|(left_out, _)| *left_out == shown) {
        return;
    }
    let Ok(meta) = std::fs::symlink_metadata(path) else { return };
    let mut told = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
    if meta.is_file() {
        told += &format!(" {:?}", String::from_utf8_lossy(&std::fs::read(path).unwrap()));
    } else if meta.is_symlink() {
        told += &format!(" -> {}", std::fs::read_link(path).unwrap().display());
    }
    for name in xattr::list(path).into_iter().flatten() {
        told += &format!(" {}={:?}", name.display(), xattr::get(path, &name).ok().flatten());
    }
    found.insert(shown, told);
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            walk(&entry.unwrap().path(), found);
        }
    }
}

/// One line for each path that differs.
pub fn differences(before: &Digest, after: &Digest) -> Vec<String> {
    let paths: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let differing = paths.into_iter().filter(|path| before.get(*path) != after.get(*path));
    differing.map(|path| format!("{path}: {:?} became {:?}", before.get(path), after.get(path))).collect()
}
