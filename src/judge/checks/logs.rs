//! How long the machine remembers who came.

use crate::error::Result;
use crate::facts::Init;
use crate::host::{Actor, FileKind};
use crate::judge::{CIS, Check, Depth, Scene, Seen};
use crate::outcome::audit::Severity;
use crate::types::AbsPath;

/// Logins can be looked up weeks later.
pub const RETENTION: Check = Check {
    id: "log-retention",
    title: "logins stay in the logs for 4 weeks at least, over reboots too",
    severity: Severity::Medium,
    depth: Depth::Shallow,
    references: &[(CIS, "6.1.2.4")],
    judge: retention,
};

/// Four weeks: Debian's own rule for /var/log/auth.log (rotate 4, weekly).
const DAYS: u64 = 28;
/// Where journald.conf(5) reads drop-ins, the later directory first: a name in it hides that of an earlier one.
const DROP_INS: [&str; 4] = [
    "/etc/systemd/journald.conf.d",
    "/run/systemd/journald.conf.d",
    "/usr/local/lib/systemd/journald.conf.d",
    "/usr/lib/systemd/journald.conf.d",
];
const JOURNALD: [&str; 2] = ["/usr/lib/systemd/systemd-journald", "/lib/systemd/systemd-journald"];

/// Levels of sshd_config(5) at which a login is not told; `sshd -T` calls QUIET by its old name.
const QUIET: [&str; 4] = ["QUIET", "SILENT", "FATAL", "ERROR"];
/// How systemd starts rsyslog.
const ENABLED: &str = "/etc/systemd/system/multi-user.target.wants/rsyslog.service";
/// Settings of journald.conf(5) by which it forgets sooner than by time, or does not hear all.
const SIZES: [&str; 5] = ["SystemMaxUse", "SystemMaxFiles", "SystemKeepFree", "MaxLevelStore", "MaxFileSec"];

/// A setting and where it stands.
type Set = Option<(String, String)>;

fn retention(scene: &Scene<'_>) -> Result<Vec<Seen>> {
    if let Some(sshd) = scene.sshd()?
        && let Some(level) =
            sshd.get("loglevel").filter(|level| QUIET.iter().any(|quiet| level.eq_ignore_ascii_case(quiet)))
    {
        return Ok(vec![
            Seen::fail(format!("sshd tells no log who came: LogLevel {level}"))
                .at(scene.place("loglevel"))
                .fix(format!("remove the line, then: {}", super::ssh::reload(scene))),
        ]);
    }
    if scene.facts.container && scene.facts.init == Init::Other {
        let why = "nothing in here starts journald or rsyslog: what is logged goes to the container's engine";
        return Ok(vec![Seen::not_applicable(why)]);
    }
    let journald = JOURNALD.iter().any(|path| scene.probe.has_program(path));
    // Installed is not enabled.
    let rsyslog = scene.probe.has_program("/usr/sbin/rsyslogd")
        && scene.probe.meta(&AbsPath::fixed(ENABLED), &Actor::Root)?.is_some();
    if !journald && !rsyslog {
        return Ok(vec![Seen::not_applicable("neither journald nor rsyslog is installed")]);
    }
    let journal = if journald { Some(of_journald(scene)?) } else { None };
    let files = if rsyslog { of_rsyslog(scene)? } else { None };
    // One of them is enough.
    Ok(vec![match (journal, files) {
        (Some(Kept::Long(saw)), _) | (_, Some(Kept::Long(saw))) => Seen::pass(saw),
        (_, Some(Kept::Short(saw, at, fix))) | (Some(Kept::Short(saw, at, fix)), None) => {
            Seen::fail(saw).at(at).fix(fix)
        }
        (Some(Kept::Short(..)), Some(Kept::Unclear(why, at))) => Seen::unknown(why).at(at),
        (Some(Kept::Unclear(why, at)), _) | (None, Some(Kept::Unclear(why, at))) => Seen::unknown(why).at(at),
        (None, None) => Seen::unknown("how long rsyslog's files are kept is not known: /etc/logrotate.d/rsyslog"),
    }])
}

/// How long something is kept.
enum Kept {
    Long(String),
    /// What was seen, where, and the fix.
    Short(String, String, String),
    /// Why that cannot be told, and where.
    Unclear(String, String),
}

fn of_journald(scene: &Scene<'_>) -> Result<Kept> {
    let text = scene.look.text("/etc/systemd/journald.conf")?;
    let mut texts = vec![("/etc/systemd/journald.conf".to_owned(), text)];
    let mut named: Vec<(String, AbsPath)> = Vec::new();
    for dir in DROP_INS.map(AbsPath::fixed) {
        for name in scene.probe.list(&dir, &Actor::Root)?.unwrap_or_default() {
            if name.ends_with(".conf") && !named.iter().any(|(known, _)| *known == name) {
                named.extend(dir.join(&name).ok().map(|path| (name, path)));
            }
        }
    }
    named.sort();
    for (_, path) in named {
        let bytes = scene.probe.read(&path, &Actor::Root)?.unwrap_or_default();
        texts.push((path.to_string(), String::from_utf8_lossy(&bytes).into_owned()));
    }
    let value = |key: &str| -> Set {
        let mut last = None;
        for (file, text) in &texts {
            // What stands in no section, or in another one, is passed over.
            let mut section = "";
            for (number, line) in text.lines().enumerate() {
                if line.trim().starts_with('[') {
                    section = line.trim();
                }
                let is_set = |(name, _): &(&str, &str)| section == "[Journal]" && name.trim() == key;
                let set = line.trim().split_once('=').filter(is_set);
                last = set.map(|(_, value)| (value.trim().to_owned(), format!("{file}:{}", number + 1))).or(last);
            }
        }
        last
    };
    let (storage, place) = value("Storage").unwrap_or_else(|| ("auto".to_owned(), String::new()));
    let journal = scene.probe.meta(&AbsPath::fixed("/var/log/journal"), &Actor::Root)?;
    let restart = "systemctl restart systemd-journald";
    let short = |saw: &str, at: String, fix: String| Ok(Kept::Short(saw.to_owned(), at, fix));
    match storage.as_str() {
        "persistent" => {}
        "auto" if journal.is_some_and(|meta| meta.kind == FileKind::Dir) => {}
        "auto" => {
            let fix = format!("mkdir -p /var/log/journal && {restart}");
            return short("the journal is kept in memory, and gone with a reboot", "/var/log/journal".to_owned(), fix);
        }
        _ => {
            let fix = format!("remove the line, then: {restart}");
            return short(&format!("the journal is not kept on disk: Storage={storage}"), place, fix);
        }
    }
    let retention = value("MaxRetentionSec").filter(|(text, _)| !matches!(text.as_str(), "" | "0" | "0s" | "infinity"));
    if retention.is_none()
        && let Some((name, (text, place))) = SIZES.iter().find_map(|name| Some((name, value(name)?)))
    {
        let why = format!("how long the journal is kept depends on how much is logged: {name}={text}");
        return Ok(Kept::Unclear(why, place));
    }
    match retention {
        Some((text, place)) => match days(&text) {
            Some(kept) if kept >= DAYS => Ok(Kept::Long(format!("the journal is kept for {kept} days"))),
            kept => {
                let kept = kept.map_or(text, |days| format!("{days} days"));
                let fix = format!("remove the line, then: {restart}");
                short(&format!("the journal is kept for {kept} only"), place, fix)
            }
        },
        _ => Ok(Kept::Long("the journal is kept on disk, and no time ends it".to_owned())),
    }
}

/// A time span of systemd.time(7) in whole days; `None` when it makes no sense.
fn days(text: &str) -> Option<u64> {
    let mut seconds = 0_u64;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at_checked(end)?;
        let after = after.trim_start();
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(end)?;
        let scale = match unit {
            "" | "s" | "sec" | "second" | "seconds" => 1,
            "m" | "min" | "minute" | "minutes" => 60,
            "h" | "hr" | "hour" | "hours" => 3600,
            "d" | "day" | "days" => 86_400,
            "w" | "week" | "weeks" => 604_800,
            "M" | "month" | "months" => 2_629_800,
            "y" | "year" | "years" => 31_557_600,
            _ => return None,
        };
        seconds = seconds.checked_add(number.parse::<u64>().ok()?.checked_mul(scale)?)?;
        rest = after.trim_start();
    }
    Some(seconds / 86_400)
}

/// By the block of logrotate(8) that names auth.log; `None` where none does.
fn of_rsyslog(scene: &Scene<'_>) -> Result<Option<Kept>> {
    const FILE: &str = "/etc/logrotate.d/rsyslog";
    let text = scene.look.text(FILE)?;
    let Some(at) = text.lines().position(|line| line.trim().trim_end_matches('{').trim() == "/var/log/auth.log") else {
        return Ok(None);
    };
    let block = text.lines().enumerate().skip(at).take_while(|(_, line)| line.trim() != "}");
    let (mut period, mut count, mut place) = (7, 0, format!("{FILE}:{}", at + 1));
    for (number, line) in block {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("hourly" | "size" | "maxsize" | "maxage" | "minsize"), _) => {
                let why = "how long auth.log is kept depends on more than days".to_owned();
                return Ok(Some(Kept::Unclear(why, format!("{FILE}:{}", number + 1))));
            }
            (Some("daily"), None) => period = 1,
            (Some("weekly"), _) => period = 7,
            (Some("monthly"), _) => period = 30,
            (Some("yearly"), _) => period = 365,
            (Some("rotate"), Some(times)) => {
                count = times.parse::<u64>().unwrap_or(0);
                place = format!("{FILE}:{}", number + 1);
            }
            _ => {}
        }
    }
    let kept = period * count;
    Ok(Some(if kept >= DAYS {
        Kept::Long(format!("auth.log is kept for {kept} days"))
    } else {
        let (line, fix) = (place.rsplit_once(':').map_or("", |(_, line)| line), DAYS.div_ceil(period));
        Kept::Short(
            format!("auth.log is kept for {kept} days only"),
            place.clone(),
            format!("sed -i '{line}s/rotate.*/rotate {fix}/' {FILE}"),
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::days;

    #[test]
    fn spans_of_systemd() {
        for (text, wanted) in [
            ("1month", Some(30)),
            ("2w", Some(14)),
            ("1d 12h", Some(1)),
            ("86400", Some(1)),
            ("1 day", Some(1)),
            ("x", None),
        ] {
            assert_eq!(days(text), wanted, "{text}");
        }
    }
}
