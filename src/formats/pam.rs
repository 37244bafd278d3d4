//! Lines of pam.conf(5) stacks below /etc/pam.d. Must not open files.

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// All lines of another service, or those of one kind.
    Include(Option<String>, String),
    /// Kind, module without its path and ending, arguments.
    Rule(String, String, Vec<String>),
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
    Some(Line::Rule(kind, name, words.map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_stacks() {
        let rule = |line: &str| match parse(line) {
            Some(Line::Rule(kind, module, args)) => format!("{kind} {module} {}", args.join(" ")),
            Some(Line::Include(kind, other)) => format!("include {kind:?} {other}"),
            None => String::new(),
        };
        assert_eq!(rule("account [success=1 default=ignore]\tpam_unix.so  nullok # x"), "account pam_unix nullok");
        assert_eq!(rule("-session optional /lib/security/pam_x.so"), "session pam_x ");
        assert_eq!(rule("@include common-account"), "include None common-account");
        assert_eq!(rule("auth substack other"), "include Some(\"auth\") other");
        assert_eq!(rule("# account required pam_access.so"), "");
    }
}
