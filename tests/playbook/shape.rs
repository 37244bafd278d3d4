//! Resources in the shape of the real ones, so that the playbook layer is tested alone.

use keyward::change::Claim;
use keyward::error::Result;
use keyward::facts::Facts;
use keyward::host::Probe;
use keyward::resource::{Fault, Kind, LoadedFile, Planned, Resource, Section};
use keyward::types::{AbsPath, Cidr, GroupName, PasswordHash, PlainText, Port, Proto, PublicKey, UserName, Word};
use schemars::JsonSchema;
use serde::Deserialize;

pub const REGISTRY: &[Kind] = &[
    Kind::of::<User>(),
    Kind::of::<Keys>(),
    Kind::of::<Sudo>(),
    Kind::of::<Root>(),
    Kind::of::<Ssh>(),
    Kind::of::<Firewall>(),
];

macro_rules! resource {
    ($type:ident, $name:literal, $section:expr, $desired:ident, |$d:ident| $claims:expr) => {
        resource!($type, $name, $section, $desired, |$d| $claims, |_d| Vec::new());
    };
    ($type:ident, $name:literal, $section:expr, $desired:ident, |$d:ident| $claims:expr, |$v:ident| $validate:expr) => {
        pub struct $type;
        impl Resource for $type {
            const NAME: &'static str = $name;
            const SUMMARY: &'static str = "for tests";
            const EXAMPLE: &'static str = "";
            const SECTION: Section = $section;
            type Desired = $desired;
            type Observed = ();
            fn validate($v: &$desired) -> Vec<Fault> {
                $validate
            }
            fn claims($d: &$desired) -> Vec<Claim> {
                $claims
            }
            fn observe(_: &$desired, _: &Facts, _: &dyn Probe) -> Result<()> {
                Ok(())
            }
            fn plan(_: &$desired, _: &Facts, _: &()) -> Result<Planned> {
                Ok(Planned::default())
            }
        }
    };
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(dead_code)]
pub enum Password {
    /// nobody can use it
    Locked,
    /// as it is
    Keep,
    /// a crypt(5) hash
    #[serde(untagged)]
    Hash { hash: PasswordHash },
}

/// An account.
#[derive(Deserialize, JsonSchema)]
#[allow(dead_code)]
pub struct WantedUser {
    /// login name
    name: UserName,
    /// counts as a way in
    #[serde(default)]
    admin: bool,
    /// appended
    #[serde(default)]
    groups: Vec<GroupName>,
    #[serde(default)]
    exclusive_groups: bool,
    password: Option<Password>,
    home: Option<AbsPath>,
    shell: Option<AbsPath>,
    comment: Option<PlainText>,
    uid: Option<u32>,
}
resource!(User, "user", Section::Each("users"), WantedUser, |d| vec![Claim::Account(d.name.clone())]);

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)]
pub enum KeyFrom {
    File {
        file: LoadedFile,
        #[serde(default)]
        from: Vec<Cidr>,
        #[serde(default)]
        allow_short_rsa: bool,
    },
    Key {
        key: PublicKey,
        #[serde(default)]
        from: Vec<Cidr>,
        #[serde(default)]
        allow_short_rsa: bool,
    },
}

#[derive(Deserialize, JsonSchema)]
#[allow(dead_code)]
pub struct WantedKeys {
    name: UserName,
    #[serde(default)]
    authorized_keys: Vec<KeyFrom>,
    #[serde(default)]
    exclusive_keys: bool,
}

fn bad_keys(wanted: &WantedKeys) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (index, key) in wanted.authorized_keys.iter().enumerate() {
        match key {
            KeyFrom::File { file, allow_short_rsa, .. } => {
                let path = format!("authorized_keys.{index}.file");
                match PublicKey::parse(file.text.trim_end()) {
                    Err(invalid) => faults.push(Fault::new(path, invalid.why, invalid.hint)),
                    Ok(key) if key.is_short_rsa() && !allow_short_rsa => {
                        faults.push(Fault::new(path, "short RSA key", "make a new key"));
                    }
                    Ok(_) => {}
                }
            }
            KeyFrom::Key { key, allow_short_rsa, .. } => {
                if key.is_short_rsa() && !allow_short_rsa {
                    faults.push(Fault::new(format!("authorized_keys.{index}.key"), "short RSA key", "make a new key"));
                }
            }
        }
    }
    faults
}
resource!(Keys, "authorized_keys", Section::Each("users"), WantedKeys, |_d| Vec::new(), |d| bad_keys(d));

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
pub struct SudoRule {
    nopasswd: Option<bool>,
    commands: Option<Vec<PlainText>>,
    run_as: Option<UserName>,
}

#[derive(Deserialize, JsonSchema)]
#[allow(dead_code)]
pub struct WantedSudo {
    name: UserName,
    sudo: Option<SudoRule>,
}
resource!(Sudo, "sudo", Section::Each("users"), WantedSudo, |_d| Vec::new());

#[derive(Deserialize, JsonSchema)]
#[allow(dead_code)]
pub struct WantedRoot {
    password: Password,
}
resource!(Root, "root", Section::Map("root"), WantedRoot, |_d| Vec::new());

#[derive(Deserialize, JsonSchema)]
#[allow(dead_code)]
pub enum RootLogin {
    #[serde(rename = "no")]
    No,
    #[serde(rename = "yes")]
    Yes,
    #[serde(rename = "prohibit-password")]
    ProhibitPassword,
}

#[derive(Deserialize, JsonSchema)]
#[allow(dead_code)]
pub struct WantedSsh {
    port: Option<Port>,
    permit_root_login: Option<RootLogin>,
    password_authentication: Option<bool>,
    /// 1 to 10
    #[schemars(range(min = 1, max = 10))]
    max_auth_tries: Option<u8>,
    x11_forwarding: Option<bool>,
    pubkey_authentication: Option<bool>,
    kbd_interactive_authentication: Option<bool>,
    login_grace_time: Option<PlainText>,
    file_mode: Option<keyward::types::Mode>,
}
resource!(Ssh, "sshd", Section::Map("ssh"), WantedSsh, |_d| vec![Claim::Service("sshd".into())]);

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    Deny,
    Allow,
    Reject,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)]
pub enum Rule {
    Word(PlainText),
    Full { port: Port, proto: Option<Proto>, from: Option<Cidr>, comment: Option<PlainText> },
}

#[derive(Deserialize, JsonSchema)]
#[allow(dead_code)]
pub struct WantedFirewall {
    incoming: Policy,
    outgoing: Option<Policy>,
    #[serde(default)]
    allow: Vec<Rule>,
    #[serde(default)]
    exclusive: bool,
}
resource!(Firewall, "firewall", Section::Map("firewall"), WantedFirewall, |_d| vec![Claim::Service("firewall".into())]);
