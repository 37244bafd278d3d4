//! Subordinate ids: how a plain user gets a user namespace with more identities than one, by the helpers newuidmap(1)
//! and newgidmap(1). Changes nothing on the machine.

use crate::error::{Failure, Result};
use crate::host::real::RealHost;
use crate::host::{Command, Host as _, Probe as _};

/// Identities that the copy needs: system accounts, users from 1000 on, nobody at 65534.
const NEEDED: u64 = 65_536;

/// Maps root of the user namespace of `pid` to the caller, and the rest to the caller's subordinate ids.
///
/// # Errors
/// Refused, with the fix, when the caller has too few subordinate ids or a helper is missing or fails.
pub fn map(pid: u32) -> Result<()> {
    let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    let (user, host) = (user_name(uid), RealHost::new());
    for (file, helper, own) in [("/etc/subuid", "/usr/bin/newuidmap", uid), ("/etc/subgid", "/usr/bin/newgidmap", gid)]
    {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let Some((first, count)) = range(&text, &user, uid) else {
            return Err(Failure::refused(
                "sandbox",
                format!("{file} gives {user} fewer than {NEEDED} subordinate ids"),
            )
            .hint(format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}")));
        };
        if !host.has_program(helper) {
            return Err(Failure::refused(helper, "is not there").hint("sudo apt-get install uidmap"));
        }
        let words = [
            helper.to_owned(),
            pid.to_string(),
            "0".into(),
            own.to_string(),
            "1".into(),
            "1".into(),
            first.to_string(),
            count.to_string(),
        ];
        let output = host.run(&Command::new(words))?;
        if !output.ok() {
            return Err(Failure::refused(helper, "maps no ids")
                .why(output.last_line())
                .hint("allow user namespaces (sysctl user.max_user_namespaces), or run it with sudo"));
        }
    }
    Ok(())
}

/// The first range of enough ids in subuid(5), which names users or numbers.
fn range(text: &str, user: &str, uid: u32) -> Option<(u64, u64)> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        ((name == user || name == uid.to_string()) && count >= NEEDED).then_some((first, count))
    })
}

/// The caller's name in /etc/passwd, else its number.
fn user_name(uid: u32) -> String {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = uid.to_string();
    text.lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == number).then(|| name.to_owned())
        })
        .unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn a_range_by_name_or_number_that_is_large_enough() {
        let text = "small:1:10\nops:100000:65536\n1001:200000:70000\n";
        assert_eq!(range(text, "ops", 1000), Some((100_000, 65_536)));
        assert_eq!(range(text, "eve", 1001), Some((200_000, 70_000)));
        assert_eq!(range(text, "small", 5), None);
    }
}
