//! What sudo lets people do.

use crate::access::hash_of;
use crate::error::Result;
use crate::facts::sudo_policy::SUDO;
use crate::formats::accounts::Hash;
use crate::judge::{CIS, Check, Depth, NIST, STIG, Scene, Seen};
use crate::outcome::audit::Severity;
use crate::outcome::ways::{Account, Sudo};

use super::accounts::or_pass;

/// Every rule is understood.
pub const UNDERSTOOD: Check = Check {
    id: "sudo-rules-known",
    title: "it is known what sudo allows to whom",
    severity: Severity::High,
    depth: Depth::Deep,
    references: &[],
    judge: understood,
};

/// Who has a password is asked for it.
pub const PASSWORD_ASKED: Check = Check {
    id: "sudo-asks-for-password",
    title: "sudo asks whoever has a password for it",
    severity: Severity::Low,
    depth: Depth::Deep,
    references: &[(CIS, "5.2.4"), (STIG, "UBTU-24-300020"), (NIST, "IA-11"), (NIST, "CM-6(a)")],
    judge: password_asked,
};

const NOT_UNDERSTOOD: &str = "a rule of sudo was not understood, or its files cannot be read";

fn understood(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    if !scene.probe.has_program(SUDO) {
        return Ok(vec![Seen::not_applicable("sudo is not installed")]);
    }
    let accounts = &scene.ways()?.accounts;
    let doubtful = accounts.iter().filter(|account| account.sudo == Sudo::Unknown);
    let seen: Vec<Seen> = doubtful.map(|account| Seen::unknown(NOT_UNDERSTOOD).about(account.name.as_str())).collect();
    let may = accounts
        .iter()
        .filter(|account| account.uid != 0 && matches!(account.sudo, Sudo::WithPassword | Sudo::WithoutPassword));
    let names: Vec<&str> = may.map(|account| account.name.as_str()).collect();
    let told = if names.is_empty() {
        "sudo gives nobody everything".to_owned()
    } else {
        format!("sudo gives everything to {}", names.join(", "))
    };
    or_pass(scene, seen, &told)
}

fn password_asked(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    if !scene.probe.has_program(SUDO) {
        return Ok(vec![Seen::not_applicable("sudo is not installed")]);
    }
    let has_password =
        |account: &&Account| account.uid != 0 && hash_of(scene.look.shadow(&account.name).as_ref()) == Hash::Usable;
    let judge = |account: &Account| match account.sudo {
        Sudo::WithoutPassword => Some(
            Seen::fail("has a password, and sudo does not ask for it")
                .fix("take NOPASSWD out of its rule with visudo, or lock its password: keyward apply PLAYBOOK"),
        ),
        Sudo::Unknown => Some(Seen::unknown(NOT_UNDERSTOOD)),
        Sudo::Some => Some(Seen::unknown(
            "sudo gives it some commands; whether it asks for those, and what they allow, is not judged",
        )),
        Sudo::Nothing | Sudo::WithPassword => None,
    };
    let accounts = scene.ways()?.accounts.iter().filter(has_password);
    let seen = accounts.filter_map(|account| Some(judge(account)?.about(account.name.as_str()))).collect();
    or_pass(scene, seen, "no account with a password is given everything without it")
}
