//! Lines of pam.conf(5) stacks below /etc/pam.d. Must not open files.

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// All lines of another service, or those of one kind.
    Include(Option<String>, String),
    /// The same of one kind, which ends by itself.
    Substack(String, String),
    /// A module.
    Rule(Rule),
}

/// A line that names a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `auth`, `account`, `session` or `password`.
    pub kind: String,
    /// A keyword such as `required`, or `value=action ...` without its brackets.
    pub control: String,
    /// Without its path and ending.
    pub module: String,
    /// Its arguments.
    pub args: Vec<String>,
}

/// What a module may say to somebody who has shown nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// PAM_SUCCESS
    Yes,
    /// Any of the codes of a failure, such as PAM_AUTH_ERR or PAM_USER_UNKNOWN.
    No,
    /// PAM_IGNORE
    Ignore,
    /// Any of these.
    Anything,
}

/// How a stack may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ends {
    /// With success, for certain where nothing else is set.
    pub yes: bool,
    /// Without.
    pub no: bool,
    /// By a jump that leaves it, or a control that is not known.
    pub unclear: bool,
}

/// What a control does with an answer (pam.conf(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Ignore,
    Ok,
    Bad,
    Die,
    Done,
    Reset,
    Jump(usize),
    Unclear,
}

/// Codes with which a module says no.
const FAILURES: [&str; 8] = [
    "auth_err",
    "user_unknown",
    "authinfo_unavail",
    "cred_insufficient",
    "maxtries",
    "perm_denied",
    "acct_expired",
    "service_err",
];

impl Rule {
    /// What the control does with each of these answers, with the answer.
    fn acts(&self, says: Says) -> Vec<(Says, Act)> {
        let codes: Vec<(Says, &str)> = [(Says::Yes, "success"), (Says::Ignore, "ignore")]
            .into_iter()
            .chain(FAILURES.map(|code| (Says::No, code)))
            .filter(|(kind, _)| says == Says::Anything || *kind == says)
            .collect();
        let mut acts: Vec<(Says, Act)> = codes.into_iter().map(|(kind, code)| (kind, self.act(kind, code))).collect();
        acts.dedup();
        acts
    }

    fn act(&self, says: Says, code: &str) -> Act {
        match (self.control.to_ascii_lowercase().as_str(), says) {
            ("required" | "requisite" | "sufficient" | "optional", Says::Ignore) => Act::Ignore,
            ("required" | "requisite" | "optional", Says::Yes) => Act::Ok,
            ("sufficient", Says::Yes) => Act::Done,
            ("required", _) => Act::Bad,
            ("requisite", _) => Act::Die,
            ("sufficient" | "optional", _) => Act::Ignore,
            (pairs, _) if pairs.contains('=') => {
                // The last one counts; without a default the rest is bad, but PAM_IGNORE (_pam_parse_control).
                let find = |wanted: &str| {
                    let mut pairs = pairs.split_whitespace().filter_map(|pair| pair.split_once('='));
                    pairs.rfind(|(value, _)| *value == wanted).map(|(_, act)| act.to_owned())
                };
                match find(code).or_else(|| find("default")).as_deref() {
                    Some("ignore") => Act::Ignore,
                    Some("ok") => Act::Ok,
                    Some("bad") => Act::Bad,
                    Some("die") => Act::Die,
                    Some("done") => Act::Done,
                    Some("reset") => Act::Reset,
                    Some(number) => number.parse().map_or(Act::Unclear, Act::Jump),
                    None if says == Says::Ignore => Act::Ignore,
                    None => Act::Bad,
                }
            }
            _ => Act::Unclear,
        }
    }
}

/// How a stack may end when its modules say this. The rules are those of Linux-PAM's _pam_dispatch_aux(); what a module that
/// may say anything says is tried in all ways.
pub fn ends<'a>(rules: &[&'a Rule], says: impl Fn(&'a Rule) -> Says) -> Ends {
    let mut ends = Ends::default();
    // Where to go on, with what was decided so far: nothing, success or failure. Each is gone on from once.
    let mut open: Vec<(usize, Option<bool>)> = vec![(0, None)];
    let mut seen: Vec<(usize, Option<bool>)> = Vec::new();
    while let Some((at, held)) = open.pop() {
        if seen.contains(&(at, held)) {
            continue;
        }
        seen.push((at, held));
        let Some(rule) = rules.get(at) else {
            if held == Some(true) {
                ends.yes = true
            } else {
                ends.no = true
            }
            continue;
        };
        let next = at + 1;
        for (said, act) in rule.acts(says(rule)) {
            let succeeded = said == Says::Yes;
            match act {
                Act::Ignore => open.push((next, held)),
                Act::Ok => open.push((next, held.or(Some(succeeded)))),
                // After a failure it goes on as ok does.
                Act::Done if held == Some(false) => open.push((next, held)),
                Act::Done if held.unwrap_or(succeeded) => ends.yes = true,
                Act::Done => ends.no = true,
                Act::Bad => open.push((next, Some(false))),
                Act::Die => ends.no = true,
                Act::Reset => open.push((next, None)),
                Act::Jump(over) if next + over > rules.len() => ends.unclear = true,
                Act::Jump(over) => open.push((next + over, if succeeded { held.or(Some(true)) } else { held })),
                Act::Unclear => ends.unclear = true,
            }
        }
    }
    ends
}

/// The lines of a file, those that end with a backslash joined with what follows; each with its number, from 1.
pub fn lines(text: &str) -> Vec<(usize, String)> {
    let mut whole: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (at, line) in text.lines().enumerate() {
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match whole.last_mut().filter(|_| goes_on) {
            Some((_, begun)) => {
                begun.push(' ');
                begun.push_str(part);
            }
            None => whole.push((at + 1, part.to_owned())),
        }
        goes_on = more;
    }
    whole
}

/// Reads one line; `None` for blank ones, comments, and what is none.
pub fn parse(line: &str) -> Option<Line> {
    let line = line.split('#').next().unwrap_or_default().trim();
    if let Some(other) = line.strip_prefix("@include") {
        return Some(Line::Include(None, other.trim().to_owned()));
    }
    let (kind, rest) = line.split_once([' ', '\t'])?;
    let kind = kind.trim_start_matches('-').to_ascii_lowercase();
    let rest = rest.trim_start();
    // `[success=1 default=ignore]` holds blanks.
    let (control, rest) = match rest.strip_prefix('[') {
        Some(open) => open.split_once(']')?,
        None => rest.split_once([' ', '\t'])?,
    };
    let mut words = rest.split_whitespace();
    let module = words.next()?;
    if control.eq_ignore_ascii_case("include") {
        return Some(Line::Include(Some(kind), module.to_owned()));
    }
    if control.eq_ignore_ascii_case("substack") {
        return Some(Line::Substack(kind, module.to_owned()));
    }
    let name = module.rsplit('/').next().unwrap_or(module).trim_end_matches(".so").to_owned();
    let args = words.map(str::to_owned).collect();
    Some(Line::Rule(Rule { kind, control: control.trim().to_owned(), module: name, args }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_stacks() {
        let rule = |line: &str| match parse(line) {
            Some(Line::Rule(Rule { kind, module, args, .. })) => format!("{kind} {module} {}", args.join(" ")),
            Some(Line::Include(kind, other)) => format!("include {kind:?} {other}"),
            Some(Line::Substack(kind, other)) => format!("substack {kind} {other}"),
            None => String::new(),
        };
        assert_eq!(rule("account [success=1 default=ignore]\tpam_unix.so  nullok # x"), "account pam_unix nullok");
        assert_eq!(rule("-session optional /lib/security/pam_x.so"), "session pam_x ");
        assert_eq!(rule("@include common-account"), "include None common-account");
        assert_eq!(rule("auth SUBSTACK other"), "substack auth other");
        assert_eq!(rule("# account required pam_access.so"), "");
    }

    #[test]
    fn stacks_end_as_linux_pam_ends_them() {
        let said = |stack: &str| {
            let parsed = |(_, line): (usize, String)| match parse(&line) {
                Some(Line::Rule(rule)) => Some(rule),
                _ => None,
            };
            let rules: Vec<Rule> = lines(stack).into_iter().filter_map(parsed).collect();
            let all: Vec<&Rule> = rules.iter().collect();
            ends(&all, |rule| match rule.module.as_str() {
                "pam_permit" => Says::Yes,
                "pam_env" => Says::Ignore,
                "pam_exec" => Says::Anything,
                _ => Says::No,
            })
        };
        let (yes, no) = (Ends { yes: true, ..Ends::default() }, Ends { no: true, ..Ends::default() });
        let (either, unclear) =
            (Ends { yes: true, no: true, unclear: false }, Ends { unclear: true, ..Ends::default() });
        let debian =
            "auth [success=1 default=ignore] pam_unix.so\nauth requisite pam_deny.so\nauth required pam_permit.so";
        for (stack, wanted) in [
            (debian.to_owned(), no),
            (format!("auth sufficient pam_permit.so\n{debian}"), yes),
            (format!("auth \\\n sufficient pam_permit.so\n{debian}"), yes),
            (format!("auth [success=done default=ignore] pam_permit.so\n{debian}"), yes),
            (format!("auth required pam_unix.so\nauth sufficient pam_permit.so\n{debian}"), no),
            (format!("auth optional pam_permit.so\n{debian}"), no),
            // Over the line that refuses.
            (debian.replace("default=ignore", "default=1"), yes),
            (debian.replace("default=ignore", "user_unknown=1 default=ignore"), either),
            (debian.replace("requisite", "optional"), yes),
            ("auth [success=9 default=ignore] pam_permit.so".to_owned(), unclear),
            ("auth required pam_env.so".to_owned(), no),
            (String::new(), no),
            // A module that may say anything: both ways, and mixed with another one.
            (format!("auth sufficient pam_exec.so /x\n{debian}"), either),
            (
                format!("auth [success=1 default=ignore] pam_exec.so /a\nauth sufficient pam_exec.so /b\n{debian}"),
                either,
            ),
            (format!("auth required pam_exec.so /x\n{debian}"), no),
            // Without a default the rest is bad.
            ("auth [success=ok] pam_unix.so\nauth required pam_permit.so".to_owned(), no),
        ] {
            assert_eq!(said(&stack), wanted, "{stack}");
        }
    }
}
