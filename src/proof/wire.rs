//! What a prover and its worker say to each other: a JSON list of requests a line, a JSON list of replies a line.
//!
//! A worker runs where the connections have to come from (loopback, or a network namespace outside), so both sides
//! speak only text. Must not connect or judge.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The private half of an ephemeral key in OpenSSH's text form. Lives in memory and in the pipe to the worker only;
/// prints as `(secret)`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrivateHalf(String);

impl PrivateHalf {
    /// Wraps the text.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for PrivateHalf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// Where and how to connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// sshd's address.
    pub address: SocketAddr,
    /// Local address to connect from; `None`: the kernel chooses. Spreads the penalties of OpenSSH 9.8 and later.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// Host keys in their one-line OpenSSH form; the server must show one of them.
    pub host_keys: Vec<String>,
    /// The whole request is given up after this many milliseconds.
    pub deadline_ms: u64,
}

/// What a worker can be asked for. The requests of one line are answered side by side, the replies keep their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub enum Request {
    /// Logs in by key and runs one command.
    Login {
        /// Where.
        line: Line,
        /// The account.
        user: String,
        /// The key.
        private_key: PrivateHalf,
        /// What to run; a forced command of the key line wins over it.
        command: String,
    },
    /// Asks which methods are offered, by the `none` method (RFC 4252, 5.2): no password is ever tried.
    Methods {
        /// Where.
        line: Line,
        /// The account; need not exist.
        user: String,
    },
    /// Opens TCP connections and closes them, all at once; where nothing answers in half the time, once more.
    Connect {
        /// Where.
        addresses: Vec<SocketAddr>,
        /// No answer in this many milliseconds counts as [`Door::Filtered`].
        deadline_ms: u64,
    },
}

impl Request {
    /// Where to, for requests that speak SSH.
    pub const fn line(&self) -> Option<&Line> {
        match self {
            Self::Login { line, .. } | Self::Methods { line, .. } => Some(line),
            Self::Connect { .. } => None,
        }
    }

    /// The deadline asked for, in milliseconds.
    pub const fn deadline_ms(&self) -> u64 {
        match self {
            Self::Login { line, .. } | Self::Methods { line, .. } => line.deadline_ms,
            Self::Connect { deadline_ms, .. } => *deadline_ms,
        }
    }
}

/// How far a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The request itself is wrong.
    Request,
    /// TCP.
    Connect,
    /// Protocol version and key exchange.
    Kex,
    /// The host key.
    Hostkey,
    /// Authentication.
    Auth,
    /// The command.
    Exec,
}

/// What a TCP connection met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// Accepted.
    Open,
    /// Reset: no listener, or a rule that rejects.
    Refused,
    /// No answer: a rule that drops.
    Filtered,
    /// No route, or the network said so by ICMP.
    Unreachable,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// True: logged in and the command ended with exit code 0; or the methods, or all doors, are known.
    pub ok: bool,
    /// The last stage entered.
    pub stage: Stage,
    /// Why it ended there, for people; from the other side, so already stripped of control characters.
    pub text: String,
    /// Methods that the server offered before any other method was tried.
    #[serde(default)]
    pub methods: Vec<String>,
    /// What the command printed, 64 KiB at most.
    #[serde(default)]
    pub stdout: String,
    /// The command's exit code.
    #[serde(default)]
    pub exit: Option<u32>,
    /// One for each address of [`Request::Connect`].
    #[serde(default)]
    pub doors: Vec<Door>,
    /// How long it took.
    pub millis: u64,
}

impl Reply {
    /// A reply that ends at `stage`.
    pub fn at(stage: Stage, text: impl Into<String>) -> Self {
        Self {
            ok: false,
            stage,
            text: plain(&text.into()),
            methods: Vec::new(),
            stdout: String::new(),
            exit: None,
            doors: Vec::new(),
            millis: 0,
        }
    }
}

/// Text of the other side made safe to show: one line, no control or direction characters, 300 characters at most.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if crate::types::is_forbidden(c) { ' ' } else { c })
        .take(300)
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_private_half_does_not_print() {
        let line = Line { address: "127.0.0.1:22".parse().unwrap(), source: None, host_keys: vec![], deadline_ms: 1 };
        let request = Request::Login {
            line,
            user: "deploy".into(),
            private_key: PrivateHalf::new("canary".into()),
            command: "true".into(),
        };
        assert!(!format!("{request:?}").contains("canary"));
        let text = serde_json::to_string(&request).unwrap();
        assert!(!text.contains('\n'));
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }

    #[test]
    fn text_of_the_other_side_is_tamed() {
        assert_eq!(plain("a\u{1b}[31mb\r\n\u{202e}c"), "a [31mb   c");
        assert_eq!(plain(&"x".repeat(10_000)).len(), 300);
    }
}
