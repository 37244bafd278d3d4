//! Reads the playbook, what it extends and the key files that it names: from one directory, following no link, and as
//! root only what nobody else can write. Never looks into the working directory or the home of its own accord.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use crate::error::{Failure, Result};
use crate::playbook::{BUILTINS, MAX_BYTES, builtin, decode_up_to};
use crate::resource::Loader;
use crate::types::is_forbidden;

/// Who may own what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Not root: the process can do no more than its user, whoever wrote the file.
    Anyone,
    /// Root: files and all directories above them must belong to root, or to the user who called sudo, and be writable by
    /// their owner alone (threats: a playbook that others can write hands them root).
    Root {
        /// `SUDO_UID`, if any: that user runs keyward as root already.
        caller: Option<u32>,
    },
}

/// The [`Loader`] of the real file system.
pub struct FileLoader {
    trust: Trust,
    /// As typed, for messages.
    playbook: String,
    /// The playbook's directory; none for standard input and built-in playbooks.
    directory: Option<Directory>,
    /// Most bytes of one file.
    most: usize,
}

struct Directory {
    fd: OwnedFd,
    /// With a `/` at the end, or empty.
    shown: String,
    /// True when a directory above is writable by others but sticky, such as /tmp.
    shared: bool,
}

impl FileLoader {
    /// A loader for the playbook that the user named: a path, `-` or `builtin:NAME`.
    ///
    /// # Errors
    /// When its directory cannot be opened, or as root when others could change what it holds.
    pub fn open(playbook: &str) -> Result<Self> {
        let caller = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok());
        let trust = if nix::unistd::geteuid().is_root() { Trust::Root { caller } } else { Trust::Anyone };
        Self::open_as(playbook, trust)
    }

    /// As [`FileLoader::open`], with the trust given.
    ///
    /// # Errors
    /// As [`FileLoader::open`].
    pub fn open_as(playbook: &str, trust: Trust) -> Result<Self> {
        let playbook = playbook.to_owned();
        if playbook == "-" || playbook.starts_with("builtin:") {
            return Ok(Self { trust, playbook, directory: None, most: MAX_BYTES });
        }
        let shown = playbook.rsplit_once('/').map(|(head, _)| format!("{head}/")).unwrap_or_default();
        let typed = if shown.is_empty() { "./" } else { shown.as_str() };
        // Links above the playbook are resolved once; from there on no link is followed.
        let real = std::fs::canonicalize(typed).map_err(|error| {
            Failure::input(&playbook, "no such playbook").why(format!("{typed}: {error}")).hint("check the path")
        })?;
        let (fd, shared) = descend(&real, trust, &playbook)?;
        Ok(Self { trust, playbook, directory: Some(Directory { fd, shown, shared }), most: MAX_BYTES })
    }

    fn read_beneath(&self, directory: &Directory, name: &str) -> Result<String> {
        let place = format!("{}{name}", directory.shown);
        let mut parts: Vec<&str> = name.split('/').collect();
        if parts.iter().any(|part| part.is_empty() || *part == "." || *part == "..") || name.chars().any(is_forbidden) {
            let dir = if directory.shown.is_empty() { "the playbook's directory" } else { directory.shown.as_str() };
            return Err(Failure::input(name, "only files in the playbook's directory can be named")
                .hint(format!("copy it to {dir} and write its name alone")));
        }
        let file = parts.pop().unwrap_or_default();
        let mut above: Option<OwnedFd> = None;
        let mut shared = directory.shared;
        let mut path = directory.shown.clone();
        for part in parts {
            path.push_str(part);
            let base = above.as_ref().unwrap_or(&directory.fd);
            let next = openat(base, part, dir_flags(), Mode::empty()).map_err(|errno| refusal(&place, &path, errno))?;
            shared |= self.trust.judge(&stat(&next, &path)?, &path)?;
            path.push('/');
            above = Some(next);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let base = above.as_ref().unwrap_or(&directory.fd);
        let fd = openat(base, file, flags, Mode::empty()).map_err(|errno| refusal(&place, &place, errno))?;
        let meta = stat(&fd, &place)?;
        regular(&meta, &place, "name a file; keyward reads pipes only as '-'")?;
        self.trust.judge(&meta, &place)?;
        if shared && self.trust != Trust::Anyone && meta.st_nlink > 1 {
            return Err(Failure::input(&place, "a hard link in a directory that others can write")
                .hint(format!("copy it to a directory of root: cp {place} /root/")));
        }
        bounded(self.most, &place, File::from(fd))
    }
}

/// A file that the command line names, and those beside it, under the rules of a playbook and its files.
pub struct Beside(FileLoader);

impl Beside {
    /// For the file `name` and others of at most so many bytes each; `-` is standard input, with nothing beside it.
    ///
    /// # Errors
    /// As [`FileLoader::open`].
    pub fn open(name: &str, most: usize) -> Result<Self> {
        FileLoader::open(name).map(|loader| Self(FileLoader { most, ..loader }))
    }

    /// The text of the named file, or of one that [`Beside::names`] gave.
    ///
    /// # Errors
    /// When it cannot be read, or as root when others could change it.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        self.0.load(name).map(Some)
    }

    /// The names in a directory beside the file, or in one below it that was given before; `None` where there is none.
    ///
    /// # Errors
    /// When it cannot be listed, or as root when others could change it.
    pub fn names(&self, directory: &str) -> Result<Option<Vec<String>>> {
        let Some(base) = &self.0.directory else { return Ok(None) };
        let place = format!("{}{directory}", base.shown);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut at: Option<OwnedFd> = None;
        for part in directory.split('/') {
            if part.is_empty() || part == "." || part == ".." {
                return Err(Failure::input(&place, "not a directory beside the file"));
            }
            at = match openat(at.as_ref().unwrap_or(&base.fd), part, flags, Mode::empty()) {
                Ok(fd) => Some(fd),
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
                Err(errno) => return Err(refusal(&place, &place, errno)),
            };
            if let Some(fd) = &at {
                self.0.trust.judge(&stat(fd, &place)?, &place)?;
            }
        }
        let Some(fd) = at else { return Ok(None) };
        let failed = |errno: Errno| refusal(&place, &place, errno);
        let mut names = Vec::new();
        for entry in Dir::from_fd(fd).map_err(failed)?.iter() {
            let entry = entry.map_err(failed)?;
            let name =
                entry.file_name().to_str().map_err(|_| Failure::input(&place, "holds a name that is not UTF-8"))?;
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        Ok(Some(names))
    }
}

/// The text of a file that the command line names. Links are followed, as for every program's arguments; but only a
/// regular file is read, without waiting for anybody, and no more of it than a playbook may have.
///
/// # Errors
/// When there is none, or it is large or not UTF-8.
pub fn read_named(path: &Path) -> Result<String> {
    let place = path.display().to_string();
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let fd = open(path, flags, Mode::empty()).map_err(|errno| refusal(&place, &place, errno))?;
    regular(&stat(&fd, &place)?, &place, "name a file that is one")?;
    bounded(MAX_BYTES, &place, File::from(fd))
}

fn regular(meta: &FileStat, place: &str, hint: &str) -> Result<()> {
    if SFlag::from_bits_truncate(meta.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG {
        return Ok(());
    }
    Err(Failure::input(place, "not a regular file").hint(hint))
}

impl Loader for FileLoader {
    fn load(&self, name: &str) -> Result<String> {
        if name.starts_with("builtin:") {
            return builtin(name).map(str::to_owned).ok_or_else(|| {
                let known: Vec<String> = BUILTINS.iter().map(|(known, _)| format!("builtin:{known}")).collect();
                Failure::input(name, "no such built-in playbook").hint(format!("there are: {}", known.join(", ")))
            });
        }
        match &self.directory {
            Some(directory) => self.read_beneath(directory, name),
            None if name == "-" && self.playbook == "-" => {
                bounded(self.most, "(standard input)", std::io::stdin().lock())
            }
            None => Err(Failure::input(name, "a playbook without a directory cannot name files")
                .hint("write it to a file and put the other one beside it")),
        }
    }
}

impl Trust {
    /// Refuses what others could change; true for a sticky directory that they can add to.
    fn judge(self, meta: &FileStat, path: &str) -> Result<bool> {
        let Self::Root { caller } = self else { return Ok(false) };
        let is_dir = SFlag::from_bits_truncate(meta.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
        if meta.st_uid != 0 && Some(meta.st_uid) != caller {
            let what = format!("belongs to uid {}, who could change what root is about to do", meta.st_uid);
            return Err(Failure::input(path, what).hint(format!("chown root: {path}")));
        }
        let writable = meta.st_mode & 0o022 != 0;
        let sticky = is_dir && meta.st_mode & 0o1000 != 0;
        if writable && !sticky {
            let what = format!("is writable by others (mode {:04o})", meta.st_mode & 0o7777);
            return Err(Failure::input(path, what).hint(format!("chmod go-w {path}")));
        }
        Ok(writable)
    }
}

/// Opens `path`, a canonical one, from the root downwards, judging each directory.
fn descend(path: &Path, trust: Trust, playbook: &str) -> Result<(OwnedFd, bool)> {
    let fail = |shown: &str, errno: Errno| Failure::input(playbook, format!("{shown}: {}", errno.desc()));
    if trust == Trust::Anyone {
        // Directories above may be unreadable for this user; only the last one is needed.
        let fd = open(path, dir_flags(), Mode::empty()).map_err(|errno| fail(&path.to_string_lossy(), errno))?;
        return Ok((fd, false));
    }
    let mut fd = openat(AT_FDCWD, "/", dir_flags(), Mode::empty()).map_err(|errno| fail("/", errno))?;
    let mut shared = trust.judge(&stat(&fd, "/")?, "/")?;
    let mut shown = String::new();
    for part in path.iter().skip(1) {
        shown = format!("{shown}/{}", part.to_string_lossy());
        fd = openat(&fd, part, dir_flags(), Mode::empty()).map_err(|errno| fail(&shown, errno))?;
        shared |= trust.judge(&stat(&fd, &shown)?, &shown)?;
    }
    Ok((fd, shared))
}

fn dir_flags() -> OFlag {
    OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn stat(fd: &OwnedFd, path: &str) -> Result<FileStat> {
    fstat(fd).map_err(|errno| Failure::input(path, errno.desc()))
}

fn refusal(place: &str, at: &str, errno: Errno) -> Failure {
    match errno {
        Errno::ENOENT => Failure::input(place, "no such file").hint(format!("check the name: ls -l {at}")),
        Errno::ELOOP | Errno::ENOTDIR => Failure::input(place, format!("{at} is a link, or not a directory"))
            .hint("name the real file; links are not followed"),
        Errno::ENXIO => {
            Failure::input(place, "not a regular file").hint("name a file; keyward reads pipes only as '-'")
        }
        other => Failure::input(place, other.desc()).hint(format!("look at it: ls -ld {at}")),
    }
}

fn bounded(most: usize, place: &str, input: impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    let one_more = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    input.take(one_more).read_to_end(&mut bytes).map_err(|error| Failure::input(place, error.to_string()))?;
    decode_up_to(most, place, bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A directory of this test's own below the build directory, which belongs to whoever runs the tests.
    struct Place(std::path::PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("keyward-loader-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(path.join("sub")).unwrap();
            let place = Self(path);
            for (file, text) in [("p.yml", "version: 1\n"), ("a.pub", "key"), ("sub/b.pub", "other")] {
                std::fs::write(place.at(file), text).unwrap();
                place.mode(file, 0o644);
            }
            place.mode("", 0o755);
            place.mode("sub", 0o755);
            place
        }
        fn at(&self, name: &str) -> std::path::PathBuf {
            self.0.join(name)
        }
        fn mode(&self, name: &str, mode: u32) {
            std::fs::set_permissions(self.at(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        fn load(&self, name: &str) -> Result<String> {
            FileLoader::open(self.at("p.yml").to_str().unwrap())?.load(name)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn reads_only_beneath_and_follows_no_link() {
        let place = Place::new("beneath");
        assert_eq!(place.load("p.yml").unwrap(), "version: 1\n");
        assert_eq!(place.load("sub/b.pub").unwrap(), "other");
        symlink("/etc/hostname", place.at("link.pub")).unwrap();
        symlink("a.pub", place.at("inner.pub")).unwrap();
        symlink("/etc", place.at("dir")).unwrap();
        nix::unistd::mkfifo(&place.at("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        symlink("/dev/zero", place.at("zero")).unwrap();
        for bad in [
            "../x",
            "/etc/hostname",
            "sub/../a.pub",
            "./a.pub",
            "",
            "sub",
            "sub/",
            "link.pub",
            "inner.pub",
            "dir/hostname",
            "pipe",
            "zero",
            "missing",
            "a.pub\n",
            "~/.ssh/id.pub",
        ] {
            let failure = place.load(bad).unwrap_err();
            assert!(!failure.hint.is_empty(), "{bad:?}: {failure}");
        }
    }

    #[test]
    fn large_and_broken_files_are_refused() {
        let place = Place::new("large");
        std::fs::write(place.at("big"), vec![b'a'; MAX_BYTES + 1]).unwrap();
        File::create(place.at("sparse")).unwrap().set_len(1 << 33).unwrap();
        std::fs::write(place.at("latin"), b"version: 1\n# caf\xe9\n").unwrap();
        assert!(place.load("big").unwrap_err().what.contains("larger"));
        assert!(place.load("sparse").unwrap_err().what.contains("larger"));
        // An inventory may be larger than a playbook.
        let beside = |most| Beside::open(place.at("big").to_str().unwrap(), most).unwrap().text("big");
        assert!(beside(MAX_BYTES).unwrap_err().what.contains("larger"));
        assert!(beside(2 * MAX_BYTES).unwrap().is_some());
        let latin = place.load("latin").unwrap_err();
        assert!(latin.what.contains("byte 16 (line 2)"), "{latin}");
    }

    #[test]
    fn root_reads_nothing_that_others_can_write() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED root_reads_nothing_that_others_can_write: needs root");
            assert!(std::env::var("KEYWARD_LAB").as_deref() != Ok("required"), "needs root");
            return;
        }
        let place = Place::new("trust");
        let open = |caller| FileLoader::open_as(place.at("p.yml").to_str().unwrap(), Trust::Root { caller });
        assert!(open(None).unwrap().load("p.yml").is_ok());
        for (name, mode) in [("p.yml", 0o666), ("p.yml", 0o664), ("sub", 0o777), ("", 0o777), ("", 0o775)] {
            place.mode(name, mode);
            let asked = if name == "sub" { "sub/b.pub" } else { "p.yml" };
            let failure = open(None).and_then(|loader| loader.load(asked)).unwrap_err();
            assert_eq!(
                failure.hint,
                format!("chmod go-w {}", place.at(name).display().to_string().trim_end_matches('/'))
            );
            place.mode(name, if asked == name { 0o644 } else { 0o755 });
        }
        let other = nix::unistd::Uid::from_raw(12345);
        nix::unistd::chown(&place.at("a.pub"), Some(other), None).unwrap();
        assert!(open(None).unwrap().load("a.pub").unwrap_err().hint.starts_with("chown root: "));
        assert!(open(Some(12345)).unwrap().load("a.pub").is_ok(), "the caller of sudo may own it");
        std::fs::hard_link(place.at("p.yml"), place.at("sub/hard.yml")).unwrap();
        place.mode("sub", 0o1777);
        assert!(open(None).unwrap().load("sub/hard.yml").unwrap_err().what.contains("hard link"));
        assert!(open(None).unwrap().load("sub/b.pub").is_ok(), "sticky, and the file is root's alone");
    }

    #[test]
    fn a_playbook_without_a_directory_names_no_files() {
        for playbook in ["-", "builtin:baseline"] {
            let loader = FileLoader::open(playbook).unwrap();
            assert!(loader.load("builtin:baseline").is_ok());
            assert!(loader.load("a.pub").unwrap_err().what.contains("without a directory"));
            assert!(loader.load("builtin:nothing").unwrap_err().hint.contains("builtin:baseline"));
        }
    }
}
