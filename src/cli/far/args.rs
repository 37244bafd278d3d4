//! How a host over SSH is reached, as it was typed.

use std::path::PathBuf;

use clap::Args;

use super::super::state::quoted;
use super::secret::Source;
use crate::target::ssh::Destination;

/// What the heading in the help says.
const HEADING: &str = "A host over SSH";

/// Options of every verb that works on a host over SSH.
#[derive(Debug, Clone, Default, Args)]
pub struct LoginArgs {
    /// Short for --target ssh://USER@HOST[:PORT]: the verb works on that host, which needs nothing but sshd and a shell;
    /// ~/.ssh/config, known_hosts and agent hold as for ssh
    #[arg(long, global = true, value_name = "HOST", value_parser = destination, conflicts_with_all = ["target", "root"], help_heading = HEADING)]
    pub host: Option<Destination>,
    /// A private key to log in with, tried before all others; may be given again
    #[arg(long, global = true, value_name = "FILE", help_heading = HEADING)]
    pub login_key: Vec<PathBuf>,
    /// The password of the account: ask, env:NAME, file:PATH, fd:NUMBER or command:COMMAND
    #[arg(long, global = true, value_name = "SOURCE", value_parser = Source::parse, help_heading = HEADING)]
    pub password: Option<Source>,
    /// What sudo asks for on the host; the login's password when left out
    #[arg(long, global = true, value_name = "SOURCE", value_parser = Source::parse, help_heading = HEADING)]
    pub sudo_password: Option<Source>,
    /// The fingerprint that the host key must have (SHA256:...), as the provider's console shows it; may be given again
    #[arg(long, global = true, value_name = "FINGERPRINT", value_parser = fingerprint, help_heading = HEADING)]
    pub host_key: Vec<String>,
    /// Take the key of a host that is not known yet, and write it to known_hosts; a changed key is refused all the same
    #[arg(long, global = true, conflicts_with = "host_key", help_heading = HEADING)]
    pub accept_new: bool,
    /// The program for hosts of another processor, such as aarch64=keyward-arm64; may be given again
    #[arg(long, global = true, value_name = "ARCH=PATH", value_parser = agent_binary, help_heading = HEADING)]
    pub agent_binary: Vec<(String, PathBuf)>,
    /// Take the program off the host again at the end; the next run sends it anew
    #[arg(long, global = true, help_heading = HEADING)]
    pub leave_nothing: bool,
    /// Hosts to go through, from an inventory; they win over the client's configuration
    #[arg(skip)]
    pub jump: Vec<Destination>,
}

impl LoginArgs {
    /// The descriptors that passwords come from.
    pub fn descriptors(&self) -> Vec<i32> {
        let number = |source: &Source| match source {
            Source::Fd(number) => Some(*number),
            _ => None,
        };
        self.password.iter().chain(&self.sudo_password).filter_map(number).collect()
    }

    /// What has to be typed again for the next command to get in, each with a blank before it; `passwords`: where the
    /// login's comes from, too.
    pub fn again(&self, passwords: bool) -> String {
        let keys = self.login_key.iter().map(|file| ("--login-key", file.display().to_string()));
        let password = self.password.iter().filter(|_| passwords).map(|source| ("--password", source.typed()));
        let sudo = self.sudo_password.iter().map(|source| ("--sudo-password", source.typed()));
        let pins = self.host_key.iter().map(|pin| ("--host-key", pin.clone()));
        let others =
            self.agent_binary.iter().map(|(arch, path)| ("--agent-binary", format!("{arch}={}", path.display())));
        // A password that was read for all hosts is had in no way that can be typed again.
        let typed = |(_, value): &(&str, String)| !value.is_empty();
        let all = keys.chain(password).chain(sudo).chain(pins).chain(others).filter(typed);
        all.map(|(option, value)| format!(" {option} {}", quoted(&value))).collect()
    }

    /// The first option that only makes sense with a host over SSH.
    pub fn given(&self) -> Option<&'static str> {
        let all = [
            (!self.login_key.is_empty(), "--login-key"),
            (self.password.is_some(), "--password"),
            (self.sudo_password.is_some(), "--sudo-password"),
            (!self.host_key.is_empty(), "--host-key"),
            (self.accept_new, "--accept-new"),
            (!self.agent_binary.is_empty(), "--agent-binary"),
            (self.leave_nothing, "--leave-nothing"),
        ];
        all.into_iter().find_map(|(given, name)| given.then_some(name))
    }
}

/// `user@host`, `ssh://user@host:port`.
pub fn destination(text: &str) -> Result<Destination, String> {
    Destination::parse(text).map_err(|failure| format!("{}; {}", failure.why, failure.hint))
}

fn fingerprint(text: &str) -> Result<String, String> {
    let body = text.strip_prefix("SHA256:").unwrap_or_default().trim_end_matches('=');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/');
    if body.len() == 43 && body.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("write SHA256: and 43 characters, as ssh-keygen -lf shows it".to_owned())
    }
}

fn agent_binary(text: &str) -> Result<(String, PathBuf), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match text.split_once('=') {
        Some((arch, path)) if !arch.is_empty() && arch.chars().all(plain) && !path.is_empty() => {
            Ok((arch.to_owned(), PathBuf::from(path)))
        }
        _ => Err("write ARCH=PATH, ARCH as uname -m says it there".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_command_gets_in_as_this_one_did() {
        let login = LoginArgs {
            login_key: vec!["/k 1".into()],
            sudo_password: Some(Source::Command("pass it".into())),
            accept_new: true,
            ..LoginArgs::default()
        };
        assert_eq!(login.again(true), " --login-key '/k 1' --sudo-password 'command:pass it'");
    }

    #[test]
    fn what_is_typed_is_checked() {
        assert!(fingerprint("SHA256:uNiVztksCsDhcc0u9e8BrFXDs86zwzt3bJ8pYyTWjXM").is_ok());
        for bad in ["", "SHA256:", "MD5:aa:bb", "SHA256:uNiVztksCsDhcc0u9e8BrFXDs86zwzt3bJ8pYyTWj X"] {
            assert!(fingerprint(bad).is_err(), "{bad}");
        }
        assert_eq!(agent_binary("aarch64=a=b"), Ok(("aarch64".to_owned(), PathBuf::from("a=b"))));
        for bad in ["aarch64", "=x", "a b=x", "x="] {
            assert!(agent_binary(bad).is_err(), "{bad}");
        }
        assert!(destination("-oProxyCommand=x").is_err() && destination("root@web").is_ok());
    }
}
