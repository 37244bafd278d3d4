//! `keyward man`: manual pages made from the command's definition, with the one exit table.

use std::fs::{OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;

use crate::error::{Failure, Result};
use crate::outcome::Exit;

use super::args::{Format, ManArgs, command};
use super::{Ending, print_file};

/// Prints `keyward.1`, or writes it and a page for each verb into a directory, which is made when missing.
pub fn run(args: &ManArgs, format: Format) -> Result<Ending> {
    let Some(dir) = &args.dir else {
        return print_file("keyward.1", &page(command())?, format);
    };
    directories(dir).map_err(|error| Failure::input(dir.display().to_string(), "cannot be made").why(error))?;
    let mut main = command();
    main.build();
    write(dir, "keyward.1", &page(main.clone())?)?;
    let mut pages = 1;
    for verb in main.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        write(dir, &format!("keyward-{}.1", verb.get_name()), &page(verb.clone())?)?;
        pages += 1;
    }
    let place = dir.display();
    Ok(Ending::new(Exit::AsAsked, format!("{pages} pages are in {place}"), format!("man {place}/keyward.1")))
}

fn page(command: clap::Command) -> Result<String> {
    let mut bytes = Vec::new();
    let rendered = clap_mangen::Man::new(command).render(&mut bytes);
    rendered.map_err(|error| Failure::failed("manual page", "cannot be rendered").why(error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes what is missing of a path, for everybody to read: the process has the umask 077.
fn directories(dir: &Path) -> std::io::Result<()> {
    let missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    let new: Vec<&Path> = dir.ancestors().take_while(missing).collect();
    for dir in new.into_iter().rev() {
        std::fs::create_dir(dir)?;
        let options = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let made = OpenOptions::new().read(true).custom_flags(options.bits()).open(dir)?;
        made.set_permissions(Permissions::from_mode(0o755))?;
    }
    // One that is there may be a file.
    std::fs::read_dir(dir).map(drop)
}

/// Replaces older pages of keyward; a link in the place of one is not followed.
fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    let failed = |error| Failure::input(path.display().to_string(), "cannot be written").why(error);
    if path.symlink_metadata().is_ok() {
        std::fs::remove_file(&path).map_err(failed)?;
    }
    let made = OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = made.map_err(failed)?;
    let readable = file.set_permissions(Permissions::from_mode(0o644));
    readable.and_then(|()| file.write_all(text.as_bytes())).map_err(failed)
}
