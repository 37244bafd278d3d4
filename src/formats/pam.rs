//! Lines of pam.conf(5) stacks below /etc/pam.d. Must not open files.

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// All lines of another service, or those of one kind.
    Include(Option<String>, String),
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

/// What a module says to somebody who has shown nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// PAM_SUCCESS
    Yes,
    /// PAM_AUTH_ERR and the like.
    No,
    /// PAM_IGNORE
    Ignore,
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
}

impl Rule {
    fn act(&self, says: Says) -> Act {
        match (self.control.to_ascii_lowercase().as_str(), says) {
            ("required" | "requisite" | "sufficient" | "optional", Says::Ignore) => Act::Ignore,
            ("required" | "requisite" | "optional", Says::Yes) => Act::Ok,
            ("sufficient", Says::Yes) => Act::Done,
            ("required", Says::No) => Act::Bad,
            ("requisite", Says::No) => Act::Die,
            ("sufficient" | "optional", Says::No) => Act::Ignore,
            (pairs, says) => {
                let name = match says {
                    Says::Yes => "success",
                    Says::No => "auth_err",
                    Says::Ignore => "ignore",
                };
                let find = |wanted: &str| {
                    let mut pairs = pairs.split_whitespace().filter_map(|pair| pair.split_once('='));
                    pairs.find_map(|(value, act)| (value == wanted).then(|| act.to_owned()))
                };
                match find(name).or_else(|| find("default")).as_deref() {
                    Some("ok") => Act::Ok,
                    Some("bad") => Act::Bad,
                    Some("die") => Act::Die,
                    Some("done") => Act::Done,
                    Some("reset") => Act::Reset,
                    Some(number) => number.parse().map_or(Act::Ignore, Act::Jump),
                    None => Act::Ignore,
                }
            }
        }
    }
}

/// Whether a stack ends with success when its modules say this; `None` for a jump that leaves it. The rules are those of
/// Linux-PAM's _pam_dispatch_aux().
pub fn succeeds<'a>(rules: &[&'a Rule], says: impl Fn(&'a Rule) -> Says) -> Option<bool> {
    // What was decided so far: nothing, success or failure.
    let mut held: Option<bool> = None;
    let mut at = 0;
    while let Some(rule) = rules.get(at) {
        at += 1;
        let said = says(rule);
        match rule.act(said) {
            Act::Ignore => {}
            Act::Ok => held = held.or(Some(said == Says::Yes)),
            Act::Done => return Some(held.unwrap_or(said == Says::Yes)),
            Act::Bad => held = Some(false),
            Act::Die => return Some(false),
            Act::Reset => held = None,
            Act::Jump(over) => {
                if held.is_none() && said == Says::Yes {
                    held = Some(true);
                }
                at += over;
                if at > rules.len() {
                    return None;
                }
            }
        }
    }
    Some(held == Some(true))
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
    if matches!(control, "include" | "substack") {
        return Some(Line::Include(Some(kind), module.to_owned()));
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
            None => String::new(),
        };
        assert_eq!(rule("account [success=1 default=ignore]\tpam_unix.so  nullok # x"), "account pam_unix nullok");
        assert_eq!(rule("-session optional /lib/security/pam_x.so"), "session pam_x ");
        assert_eq!(rule("@include common-account"), "include None common-account");
        assert_eq!(rule("auth substack other"), "include Some(\"auth\") other");
        assert_eq!(rule("# account required pam_access.so"), "");
    }

    #[test]
    fn stacks_end_as_linux_pam_ends_them() {
        let ends = |stack: &str| {
            let rules: Vec<Rule> = stack
                .lines()
                .filter_map(|line| match parse(line) {
                    Some(Line::Rule(rule)) => Some(rule),
                    _ => None,
                })
                .collect();
            let all: Vec<&Rule> = rules.iter().collect();
            succeeds(&all, |rule| match rule.module.as_str() {
                "pam_permit" => Says::Yes,
                "pam_env" => Says::Ignore,
                _ => Says::No,
            })
        };
        let debian =
            "auth [success=1 default=ignore] pam_unix.so\nauth requisite pam_deny.so\nauth required pam_permit.so";
        assert_eq!(ends(debian), Some(false));
        assert_eq!(ends(&format!("auth sufficient pam_permit.so\n{debian}")), Some(true));
        assert_eq!(ends(&format!("auth [success=done default=ignore] pam_permit.so\n{debian}")), Some(true));
        assert_eq!(ends(&format!("auth required pam_unix.so\nauth sufficient pam_permit.so\n{debian}")), Some(false));
        assert_eq!(ends(&format!("auth optional pam_permit.so\n{debian}")), Some(false));
        // Over the line that refuses.
        assert_eq!(ends(&debian.replace("default=ignore", "default=1")), Some(true));
        assert_eq!(ends(&debian.replace("requisite", "optional")), Some(true));
        assert_eq!(ends("auth [success=9 default=ignore] pam_permit.so"), None);
        assert_eq!(ends("auth required pam_env.so"), Some(false), "nobody said yes");
        assert_eq!(ends(""), Some(false));
    }
}
