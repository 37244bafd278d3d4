//! pam_access(8): whether access.conf(5) keeps an administrator from sshd. The rules are judged by `formats`.

use crate::error::{Failure, Result};
use crate::formats::access_conf::{Verdict, judge};
use crate::host::{Actor, Probe};
use crate::types::AbsPath;

const RULES: &str = "/etc/security/access.conf";

/// Reads and judges, when sshd's stack asks pam_access at all; refuses with the line that shuts the account out.
/// Gives back a remark when it depends on the address.
pub fn check(probe: &dyn Probe, name: &str, groups: &[&str]) -> Result<Option<String>> {
    let text = |path: &'static str| -> Result<String> {
        let bytes = probe.read(&AbsPath::fixed(path), &Actor::Root)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let stacks = [text("/etc/pam.d/sshd")?, text("/etc/pam.d/common-account")?];
    let asks = |line: &str| !line.trim_start().starts_with('#') && line.contains("pam_access.so");
    let Some(line) = stacks.iter().flat_map(|stack| stack.lines()).find(|line| asks(line)) else { return Ok(None) };
    if ["accessfile=", "fieldsep=", "listsep="].iter().any(|word| line.contains(word)) {
        return Ok(Some("pam_access asks a file of its own choice; it may refuse this account".to_owned()));
    }
    match judge(&text(RULES)?, name, groups) {
        Verdict::Open => Ok(None),
        Verdict::Depends(at) => Ok(Some(format!("{RULES}:{at} lets it in from some places only"))),
        Verdict::Refused(at) => Err(Failure::refused(format!("{RULES}:{at}"), format!("pam_access keeps {name} out"))
            .why("the first rule that matches decides")
            .hint(format!("add before that line: +:{name}:ALL"))),
    }
}
