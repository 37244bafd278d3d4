//! Who can get into a host, as data: what `keyward access` prints.

use serde::{Deserialize, Serialize};

use super::Proven;

/// All ways into a host at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ways {
    /// Where sshd can be reached.
    pub doors: Vec<Door>,
    /// Accounts that could be a way in, the worst first.
    pub accounts: Vec<Account>,
    /// Accounts that the console lets in, by a password that matches or without any.
    pub console: Vec<String>,
    /// What could not be looked at and may hide a way in.
    pub unknown: Vec<String>,
}

/// A port on which sshd listens for other hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    /// The port.
    pub port: u16,
    /// From where the firewall and hosts.deny let somebody through to it.
    pub from: Places,
}

/// From where something is possible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// From an address that no rule names.
    pub everywhere: Proven,
    /// Set when that holds for one family of addresses only: `IPv4` or `IPv6`.
    pub family: Option<String>,
    /// Addresses and ranges that are let in although `everywhere` is not.
    pub only: Vec<String>,
    /// Addresses and ranges that are kept out although `everywhere`, or a wider one of `only`, is let in.
    pub but: Vec<String>,
    /// Addresses and ranges of which it cannot be told.
    #[serde(default)]
    pub unsure: Vec<String>,
}

/// One account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Whether it can get in over SSH from anywhere at all.
    pub ssh: Proven,
    /// Why not, or why that cannot be told; with file and line where there is one.
    pub because: Vec<String>,
    /// Ports and places.
    pub from: Places,
    /// What opens the door.
    pub methods: Vec<Method>,
    /// What opens it, or may, at some other places only.
    #[serde(default)]
    pub others: Vec<Method>,
    /// Methods of which it could not be told whether they open it, and why.
    #[serde(default)]
    pub doubts: Vec<String>,
    /// All that a session may do, when it is not a shell: a forced command.
    pub limited_to: Option<String>,
    /// What sudo allows.
    pub sudo: Sudo,
    /// Whether a session can become root, by any of these ways.
    pub root: Proven,
    /// Groups that are as good as root, such as `docker`.
    pub strong_groups: Vec<String>,
    /// What will shut it out within 30 days, or asks for something at the next login.
    pub soon: Vec<String>,
    /// What else a reader should know, such as key lines that sshd passes over.
    pub warnings: Vec<String>,
}

/// A method by which an account gets in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "method")]
pub enum Method {
    /// `publickey`
    Keys {
        /// Different keys that are accepted.
        count: usize,
        /// Their kinds, such as `ed25519`.
        kinds: Vec<String>,
    },
    /// `publickey` by a program or an authority, which cannot be counted.
    KeysOfOthers {
        /// The keyword of sshd_config(5) and its value.
        source: String,
    },
    /// `password`
    Password,
    /// `keyboard-interactive`
    KeyboardInteractive,
    /// No proof at all: an empty password that sshd accepts.
    Nothing,
    /// Several of them, one after the other (AuthenticationMethods).
    Chain {
        /// As sshd has it, such as `publickey,password`.
        chain: String,
    },
}

/// What sudo allows an account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sudo {
    /// No rule.
    #[default]
    Nothing,
    /// Some commands only, or not as root.
    Some,
    /// Everything, with a password.
    WithPassword,
    /// Everything, without one.
    WithoutPassword,
    /// A rule was not understood, or sudo's files cannot be read.
    Unknown,
}

impl Default for Places {
    fn default() -> Self {
        Self { everywhere: Proven::No, family: None, only: Vec::new(), but: Vec::new(), unsure: Vec::new() }
    }
}

impl Method {
    /// In words, such as `2 keys (ed25519, rsa)`.
    pub fn words(&self) -> String {
        match self {
            Self::Keys { count: 1, kinds } => format!("1 key ({})", kinds.join(", ")),
            Self::Keys { count, kinds } => format!("{count} keys ({})", kinds.join(", ")),
            Self::KeysOfOthers { source } => source.clone(),
            Self::Password => "password".to_owned(),
            Self::KeyboardInteractive => "keyboard-interactive".to_owned(),
            Self::Nothing => "NOTHING: its password is empty".to_owned(),
            Self::Chain { chain } => chain.replace(',', " and then "),
        }
    }
}

impl Places {
    /// True when nobody gets through.
    pub fn nobody(&self) -> bool {
        self.everywhere == Proven::No && self.only.is_empty()
    }
}

impl Ways {
    /// The accounts that get in over SSH for certain.
    pub fn in_by_ssh(&self) -> impl Iterator<Item = &Account> {
        self.accounts.iter().filter(|account| account.ssh == Proven::Yes)
    }

    /// An account by its name.
    pub fn account(&self, name: &str) -> Option<&Account> {
        self.accounts.iter().find(|account| account.name == name)
    }
}
