//! Who can get in, for a tired reader: the verdict first, a line or two an account, the worst first.

use crate::outcome::Proven;
use crate::outcome::ways::{Account, Door, Method, Places, Sudo, Ways};

use super::escape;
use super::style::{HEIGHT, Style, Tone, count, wrap};

/// The whole answer; with a plan, what it would change.
pub fn text(now: &Ways, after: Option<&Ways>, style: Style) -> String {
    let room = HEIGHT - 2;
    let whole = lines(now, after, false, style);
    let shown = if whole.len() <= room { whole } else { lines(now, after, true, style) };
    let mut text = shown.join("\n");
    text.push('\n');
    text
}

/// One line: how many get in, how many of them become root, and who has the console.
pub fn verdict(ways: &Ways) -> String {
    let inside = ways.in_by_ssh().count();
    let root = ways.in_by_ssh().filter(|account| account.root == Proven::Yes).count();
    let unsure = ways.accounts.iter().filter(|account| account.ssh == Proven::Unknown).count();
    let mut text = match inside {
        0 => "no account is sure to get in over SSH".to_owned(),
        some => format!("{} can get in over SSH, {root} of them can become root", count(some, "account")),
    };
    if unsure > 0 {
        text.push_str(&format!("; {unsure} more cannot be told"));
    }
    let console = if ways.console.is_empty() { "nobody".to_owned() } else { ways.console.join(", ") };
    escape::line(&format!("{text}; console: {console}"))
}

fn lines(now: &Ways, after: Option<&Ways>, folded: bool, style: Style) -> Vec<String> {
    let mut out = Vec::new();
    match after {
        None => {
            out.extend(strong(&verdict(now), style));
            out.extend(wrap("", &doors(&now.doors)));
            out.extend(accounts(now, folded, style));
        }
        Some(after) => {
            out.extend(strong(&format!("now    {}", verdict(now)), style));
            out.extend(strong(&format!("after  {}", verdict(after)), style));
            out.extend(change("", Some(&doors(&now.doors)), Some(&doors(&after.doors)), style));
            out.extend(changes(now, after, folded, style));
        }
    }
    let mut unknown: Vec<&String> = now.unknown.iter().chain(after.iter().flat_map(|after| &after.unknown)).collect();
    unknown.dedup();
    unknown.sort();
    unknown.dedup();
    for why in unknown {
        out.extend(warned(&format!("unknown: {}", escape::line(why)), style));
    }
    out
}

fn strong(text: &str, style: Style) -> Vec<String> {
    wrap("", text).iter().map(|line| style.paint(Tone::Strong, line)).collect()
}

fn warned(text: &str, style: Style) -> Vec<String> {
    wrap("", text).iter().map(|line| style.paint(Tone::Warn, line)).collect()
}

fn doors(doors: &[Door]) -> String {
    if doors.is_empty() {
        return "no sshd listens for other hosts".to_owned();
    }
    let one = |door: &Door| format!("port {} open {}", door.port, places(&door.from));
    doors.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn places(from: &Places) -> String {
    let few = |list: &[String]| {
        let head = list.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
        if list.len() > 3 { format!("{head} and {} more", list.len() - 3) } else { head }
    };
    let over = from.family.as_ref().map(|family| format!(" over {family}")).unwrap_or_default();
    let mut text = match (from.everywhere, from.only.is_empty()) {
        (Proven::Yes, _) => format!("from everywhere{over}"),
        (_, false) => format!("from {}", few(&from.only)),
        (Proven::No, true) => "from nowhere".to_owned(),
        (Proven::Unknown, true) => "from where cannot be told".to_owned(),
    };
    if !from.but.is_empty() {
        text.push_str(&format!(" but {}", few(&from.but)));
    }
    if !from.unsure.is_empty() {
        text.push_str(&format!(" (of {} it cannot be told)", few(&from.unsure)));
    }
    escape::line(&text)
}

/// Methods, places and rights in one text.
fn summary(account: &Account) -> String {
    let mut parts = match account.ssh {
        Proven::Yes => vec![format!("by {}, {}", methods(&account.methods), places(&account.from))],
        Proven::Unknown => vec![format!("cannot be told: {}", account.because.join("; "))],
        Proven::No => vec![format!("no: {}", account.because.join("; "))],
    };
    if account.ssh != Proven::No {
        parts.extend(account.limited_to.as_ref().map(|command| format!("only {command}")));
        parts.extend(rights(account));
    }
    escape::line(&parts.join("; "))
}

fn methods(methods: &[Method]) -> String {
    methods.iter().map(Method::words).collect::<Vec<_>>().join(" or ")
}

fn rights(account: &Account) -> Option<String> {
    let sudo = match account.sudo {
        _ if account.uid == 0 => Some("is root"),
        Sudo::Nothing => None,
        Sudo::Some => Some("sudo for some commands"),
        Sudo::WithPassword => Some("sudo with password"),
        Sudo::WithoutPassword => Some("sudo without password"),
        Sudo::Unknown => Some("sudo cannot be told"),
    };
    let strong = account.strong_groups.iter().map(|group| format!("group {group} is as good as root"));
    let parts: Vec<String> = sudo.map(str::to_owned).into_iter().chain(strong).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn accounts(ways: &Ways, folded: bool, style: Style) -> Vec<String> {
    let wide = width(ways.accounts.iter());
    let mut out = Vec::new();
    let mut shut = Vec::new();
    for account in &ways.accounts {
        if account.ssh == Proven::No && folded {
            shut.push(account.name.clone());
            continue;
        }
        out.extend(lead("  ", account, wide, tone(account), style));
        if account.ssh != Proven::No {
            out.extend(warnings(account, wide, folded, style));
        }
    }
    if !shut.is_empty() {
        out.extend(wrap("  ", &escape::line(&format!("cannot get in: {}", shut.join(", ")))));
    }
    out
}

/// Before and after, account by account; those that stay as they are come last.
fn changes(now: &Ways, after: &Ways, folded: bool, style: Style) -> Vec<String> {
    let wide = width(now.accounts.iter().chain(&after.accounts));
    let (mut out, mut same, mut shut) = (Vec::new(), Vec::new(), Vec::new());
    let gone = now.accounts.iter().filter(|account| after.account(&account.name).is_none());
    for account in after.accounts.iter().chain(gone) {
        let (before, then) = (now.account(&account.name), after.account(&account.name));
        if before.map(summary) != then.map(summary) {
            out.extend(before.iter().flat_map(|one| lead("- ", one, wide, Tone::Bad, style)));
            out.extend(then.iter().flat_map(|one| lead("+ ", one, wide, Tone::Good, style)));
            out.extend(then.iter().flat_map(|one| warnings(one, wide, folded, style)));
        } else if account.ssh == Proven::No && folded {
            shut.push(account.name.clone());
        } else {
            same.extend(lead("  ", account, wide, Tone::Faint, style));
        }
    }
    out.extend(same);
    if !shut.is_empty() {
        out.extend(wrap("  ", &escape::line(&format!("as before cannot get in: {}", shut.join(", ")))));
    }
    out
}

fn change(name: &str, before: Option<&str>, after: Option<&str>, style: Style) -> Vec<String> {
    let side = |mark: &str, text: Option<&str>, tone: Tone| -> Vec<String> {
        text.iter().flat_map(|text| wrap(mark, &format!("{name}{text}"))).map(|l| style.paint(tone, &l)).collect()
    };
    if before == after {
        return side("  ", after, Tone::Faint);
    }
    let mut out = side("- ", before, Tone::Bad);
    out.extend(side("+ ", after, Tone::Good));
    out
}

fn width<'a>(accounts: impl Iterator<Item = &'a Account>) -> usize {
    accounts.map(|account| account.name.chars().count()).max().unwrap_or(0).min(16)
}

fn lead(mark: &str, account: &Account, wide: usize, tone: Tone, style: Style) -> Vec<String> {
    let name = escape::line(&account.name);
    wrap(&format!("{mark}{name:<wide$}  "), &summary(account)).iter().map(|line| style.paint(tone, line)).collect()
}

const fn tone(account: &Account) -> Tone {
    match (account.ssh, account.root) {
        (Proven::Yes, Proven::Yes) => Tone::Warn,
        (Proven::Yes | Proven::Unknown, _) => Tone::Strong,
        (Proven::No, _) => Tone::Faint,
    }
}

fn warnings(account: &Account, wide: usize, folded: bool, style: Style) -> Vec<String> {
    let most = if folded { 1 } else { 3 };
    let indent = " ".repeat(wide + 4);
    let mut out = Vec::new();
    let all: Vec<&String> = account.soon.iter().chain(&account.warnings).collect();
    for warning in all.iter().take(most) {
        out.extend(wrap(&format!("{indent}! "), &escape::line(warning)));
    }
    if all.len() > most {
        out.push(format!("{indent}! {} more; --format json shows them", all.len() - most));
    }
    out.iter().map(|line| style.paint(Tone::Warn, line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str, ssh: Proven) -> Account {
        Account {
            name: name.into(),
            uid: 1000,
            ssh,
            because: vec!["its shell is /bin/false\u{1b}[2J".into()],
            from: Places { everywhere: Proven::Yes, ..Places::default() },
            methods: vec![Method::Keys { count: 2, kinds: vec!["ed25519".into(), "rsa".into()] }],
            others: Vec::new(),
            doubts: Vec::new(),
            limited_to: None,
            sudo: Sudo::WithoutPassword,
            root: Proven::Yes,
            strong_groups: Vec::new(),
            soon: Vec::new(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn the_verdict_comes_first_and_everything_fits() {
        let mut ways = Ways { console: vec!["root".into()], ..Ways::default() };
        ways.accounts.push(account("deploy", Proven::Yes));
        ways.accounts.extend((0..40).map(|n| account(&format!("user{n}"), Proven::No)));
        let text = text(&ways, None, Style::Plain);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "1 account can get in over SSH, 1 of them can become root; console: root");
        assert_eq!(lines[2], "  deploy  by 2 keys (ed25519, rsa), from everywhere; sudo without password");
        assert!(lines.len() <= HEIGHT - 2 && lines.iter().all(|line| line.chars().count() <= 80), "{text}");
        assert!(lines.last().unwrap().contains("user39") && !text.contains('\u{1b}'));
    }

    #[test]
    fn before_and_after_stand_one_above_the_other() {
        let ways = |account: Account| Ways { accounts: vec![account], ..Ways::default() };
        let (now, after) = (ways(account("root", Proven::Yes)), ways(account("root", Proven::No)));
        let text = text(&now, Some(&after), Style::Plain);
        assert!(text.contains("\n- root  by 2 keys") && text.contains("\n+ root  no: its shell"), "{text}");
        assert!(text.starts_with("now    1 account") && text.contains("\nafter  no account is sure"), "{text}");
    }
}
