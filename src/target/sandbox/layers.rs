//! Which mounts of a host its copy is made of, and how each is copied: an overlay per local file system, a read-only
//! bind where nothing could be written anyway, the bytes where a single file is mounted. Decides only; mounts nothing.

use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use crate::error::{Failure, Result};

/// One line of /proc/PID/mountinfo, see proc_pid_mountinfo(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    id: u32,
    parent: u32,
    /// Where it is mounted.
    pub point: PathBuf,
    options: String,
    /// File system type.
    pub kind: String,
}

/// How a mount gets into the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As the lower layer of an overlay.
    Overlay,
    /// Bound read-only: the file system is read-only by nature or cannot be a lower layer.
    Bind,
}

/// One part of the copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The directory on the machine.
    pub lower: PathBuf,
    /// Where it stands in the copy, relative; empty for the root.
    pub place: PathBuf,
    /// How it is copied.
    pub way: Way,
    /// Mount flags of the original (nosuid, nodev, noexec, read-only).
    pub flags: MsFlags,
}

/// File systems of this machine's own disks and memory.
const LOCAL: [&str; 16] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "tmpfs", "overlay", "jfs", "reiserfs", "bcachefs", "nilfs2",
    "ubifs", "virtiofs", "rootfs",
];
/// Read-only by nature, or (fat) refused by the kernel as a lower layer.
const BOUND: [&str; 7] = ["squashfs", "erofs", "iso9660", "udf", "vfat", "exfat", "msdos"];
/// Windows into the kernel or a session; the copy gets its own or none.
const WINDOWS: [&str; 28] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devpts",
    "devtmpfs",
    "mqueue",
    "hugetlbfs",
    "debugfs",
    "tracefs",
    "securityfs",
    "pstore",
    "bpf",
    "configfs",
    "fusectl",
    "binfmt_misc",
    "efivarfs",
    "nsfs",
    "rpc_pipefs",
    "autofs",
    "selinuxfs",
    "nfsd",
    "ramfs",
    "fuse.lxcfs",
    "fuse.gvfsd-fuse",
    "fuse.portal",
    "sysv",
    "smackfs",
];
/// The copy has its own of these.
const OWN: [&str; 4] = ["proc", "sys", "dev", "run"];
/// What is mounted below these belongs to containers, which are other machines.
const CONTAINERS: [&str; 8] = [
    "/var/lib/docker",
    "/var/lib/containers",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/lib/lxd",
    "/var/lib/incus",
    "/var/lib/machines",
    "/var/snap",
];
/// File systems that only container engines mount.
const ENGINES: [&str; 2] = ["fuse.fuse-overlayfs", "aufs"];

/// Reads /proc/PID/mountinfo.
///
/// # Errors
/// When a line is not as proc_pid_mountinfo(5) says.
pub fn parse(text: &str) -> Result<Vec<Mount>> {
    text.lines()
        .map(|line| {
            mount(line)
                .ok_or_else(|| Failure::unknown("/proc/self/mountinfo", format!("line {line:?} is not understood")))
        })
        .collect()
}

fn mount(line: &str) -> Option<Mount> {
    let (head, tail) = line.split_once(" - ")?;
    let mut fields = head.split(' ');
    let id = fields.next()?.parse().ok()?;
    let parent = fields.next()?.parse().ok()?;
    let point = unescape(fields.nth(2)?);
    let options = fields.next()?.to_owned();
    Some(Mount { id, parent, point, options, kind: tail.split(' ').next()?.to_owned() })
}

/// Undoes the octal escapes of blanks, tabs, line ends and backslashes.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|three| std::str::from_utf8(three).ok());
        let code = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (first, code) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// The layers of a copy of `root`, parents first. `leave_out` names mounts that the user does not want in the copy.
///
/// # Errors
/// When a mount cannot be copied (a network file system, one of unknown kind); all of them are named.
pub fn choose(mounts: &[Mount], root: &Path, leave_out: &[PathBuf]) -> Result<Vec<Layer>> {
    let visible: Vec<&Mount> = mounts.iter().filter(|mount| is_visible(mounts, mount)).collect();
    let base = visible
        .iter()
        .filter(|mount| root.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
        .ok_or_else(|| Failure::unknown(root.display().to_string(), "no mount holds this directory"))?;
    let mut refused = Vec::new();
    let mut layers = Vec::new();
    let inner = visible.iter().filter(|mount| mount.point != root && mount.point.starts_with(root));
    let all = std::iter::once((root, *base)).chain(inner.map(|mount| (mount.point.as_path(), *mount)));
    for (point, mount) in all {
        let place = point.strip_prefix(root).unwrap_or(point);
        let own = place.components().next().is_some_and(|first| OWN.iter().any(|own| first.as_os_str() == *own));
        let below = |dir: &&str| point != Path::new(dir) && point.starts_with(dir);
        let container =
            !place.as_os_str().is_empty() && (CONTAINERS.iter().any(below) || ENGINES.contains(&mount.kind.as_str()));
        if own || container || leave_out.iter().any(|out| point.starts_with(out)) {
            continue;
        }
        let kind = mount.kind.as_str();
        let way = match () {
            // Of an engine's file systems only the root is left by now: this host is itself a container.
            () if LOCAL.contains(&kind) || ENGINES.contains(&kind) => Way::Overlay,
            () if BOUND.contains(&kind) => Way::Bind,
            () if WINDOWS.contains(&kind) && !place.as_os_str().is_empty() => continue,
            () => {
                refused.push(format!("{} ({kind})", point.display()));
                continue;
            }
        };
        layers.push(Layer { lower: point.to_owned(), place: place.to_owned(), way, flags: flags(&mount.options) });
    }
    if !refused.is_empty() {
        let first = refused.first().and_then(|text| text.split(" (").next()).unwrap_or_default().to_owned();
        return Err(Failure::refused("sandbox", format!("no safe copy can be made of {}", refused.join(", ")))
            .why("only file systems of this machine's own disks and memory are copied")
            .hint(format!("rehearse without it: --leave-out {first}")));
    }
    layers.sort_by_key(|layer| layer.place.components().count());
    Ok(layers)
}

/// False for a mount that another one covers, and for one of a table that goes in circles.
fn is_visible<'a>(all: &'a [Mount], mut mount: &'a Mount) -> bool {
    let covers = |other: &Mount, mount: &Mount| {
        other.id != mount.id
            && (other.parent == mount.id && other.point == mount.point
                || other.parent == mount.parent && mount.point != other.point && mount.point.starts_with(&other.point))
    };
    let mut above = all.iter();
    while !all.iter().any(|other| covers(other, mount)) {
        // A mount stacked right on its parent is seen though the parent is not; the grandparent decides.
        let point = &mount.point;
        while mount.point == *point {
            let parent = all.iter().find(|other| other.id == mount.parent && other.id != mount.id);
            let Some(parent) = parent else { return true };
            if above.next().is_none() {
                return false;
            }
            mount = parent;
        }
    }
    false
}

fn flags(options: &str) -> MsFlags {
    options.split(',').fold(MsFlags::empty(), |flags, option| {
        flags
            | match option {
                "ro" => MsFlags::MS_RDONLY,
                "nosuid" => MsFlags::MS_NOSUID,
                "nodev" => MsFlags::MS_NODEV,
                "noexec" => MsFlags::MS_NOEXEC,
                _ => MsFlags::empty(),
            }
    })
}

/// `path` as a value of the overlay's `lowerdir` option, where `:` separates layers, `,` options, and `\` protects.
pub fn escape(path: &Path) -> String {
    path.display().to_string().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:25 / /tmp rw,nosuid,nodev shared:9 - tmpfs tmpfs rw
31 27 8:1 / /boot/efi rw - vfat /dev/sda1 rw
32 27 0:44 / /snap/core rw shared:1 - squashfs /dev/loop0 ro
33 27 8:2 / /home rw,nosuid - xfs /dev/sdb rw
34 33 8:3 / /home/big\\040disk rw - ext4 /dev/sdc rw
35 27 0:50 / /run rw - tmpfs tmpfs rw
36 27 8:4 / /srv rw - ext4 /dev/sdd rw
37 36 0:51 / /srv rw - tmpfs cover rw
38 36 8:5 / /srv/hidden rw - ext4 /dev/sde rw
";

    fn places(text: &str, root: &str) -> Vec<(String, Way)> {
        let layers = choose(&parse(text).unwrap(), Path::new(root), &[]).unwrap();
        layers.iter().map(|layer| (layer.place.display().to_string(), layer.way)).collect()
    }

    #[test]
    fn one_layer_per_local_mount_parents_first() {
        let want = [
            ("", Way::Overlay),
            ("tmp", Way::Overlay),
            ("home", Way::Overlay),
            ("srv", Way::Overlay),
            ("boot/efi", Way::Bind),
            ("snap/core", Way::Bind),
            ("home/big disk", Way::Overlay),
        ];
        let want: Vec<_> = want.iter().map(|(place, way)| ((*place).to_owned(), *way)).collect();
        assert_eq!(places(HOST, "/"), want);
    }

    #[test]
    fn flags_of_the_original_are_kept() {
        let layers = choose(&parse(HOST).unwrap(), Path::new("/"), &[]).unwrap();
        let tmp = layers.iter().find(|layer| layer.place == Path::new("tmp")).unwrap();
        assert_eq!(tmp.flags, MsFlags::MS_NOSUID | MsFlags::MS_NODEV);
    }

    #[test]
    fn a_directory_takes_the_mounts_below_it() {
        let want = [(String::new(), Way::Overlay), ("big disk".to_owned(), Way::Overlay)];
        assert_eq!(places(HOST, "/home"), want);
        assert_eq!(places(HOST, "/home/big disk/tree"), [(String::new(), Way::Overlay)]);
    }

    #[test]
    fn network_mounts_are_refused_by_name_unless_left_out() {
        let text =
            format!("{HOST}40 27 0:60 / /mnt/nas rw - nfs4 nas:/x rw\n41 27 0:61 / /mnt/s rw - fuse.sshfs s rw\n");
        let mounts = parse(&text).unwrap();
        let refused = choose(&mounts, Path::new("/"), &[]).unwrap_err();
        assert!(refused.what.contains("/mnt/nas (nfs4), /mnt/s (fuse.sshfs)"), "{refused}");
        assert!(choose(&mounts, Path::new("/"), &["/mnt".into()]).is_ok());
        assert!(choose(&mounts, Path::new("/mnt/nas/tree"), &[]).is_err());
    }

    #[test]
    fn containers_are_other_machines() {
        let text = format!(
            "{HOST}40 27 254:0 /d /var/lib/docker rw - ext4 /dev/vda rw\n\
             41 40 0:60 / /var/lib/docker/fuse-overlayfs/1/merged rw - fuse.fuse-overlayfs f rw\n\
             42 40 0:61 / /var/lib/docker/overlay2/2/merged rw - overlay overlay rw\n\
             43 27 0:62 / /home/ops/.local/share/containers/storage/overlay/3/merged rw - fuse.fuse-overlayfs f rw\n"
        );
        let inner: Vec<_> = places(&text, "/").into_iter().filter(|(place, _)| place.contains("lib/")).collect();
        assert_eq!(inner, [("var/lib/docker".to_owned(), Way::Overlay)]);
        assert!(!places(&text, "/").iter().any(|(place, _)| place.contains("containers")));
    }

    #[test]
    fn separators_in_paths_are_protected() {
        assert_eq!(escape(Path::new("/a:b,c\\d")), "/a\\:b\\,c\\\\d");
    }
}
