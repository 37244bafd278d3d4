//! sudoers(5): as much of the grammar as is needed to tell which rule decides for an account, and the one line keyward
//! writes. Must not open files; who follows the includes hands over one text after the other.
//!
//! What this reader does not understand is [`Item::Unclear`], which may match anybody: never a pass.

use crate::types::{Invalid, UserName, Word, word_serde};

/// A logical line with the number of its first physical line, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it begins.
    pub number: usize,
    /// What it says.
    pub item: Item,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// `@include`, `#include`, `@includedir`, `#includedir`.
    Include {
        /// As written, without quotes.
        path: String,
        /// True for a directory.
        dir: bool,
    },
    /// `Defaults`.
    Defaults {
        /// Users it is bound to by `Defaults:USERS`; `None` for everybody. Bound to hosts, commands or runas users it is
        /// not for everybody, and is left out.
        users: Option<Vec<String>>,
        /// `name`, `!name` or `name=value`, in order.
        settings: Vec<String>,
    },
    /// `User_Alias NAME = ...`; other kinds of alias are [`Item::Other`].
    UserAlias {
        /// Name.
        name: String,
        /// Members.
        members: Vec<String>,
    },
    /// A rule: who may run what.
    Rule {
        /// User list.
        users: Vec<String>,
        /// Commands in order, tags made explicit.
        commands: Vec<Allowed>,
    },
    /// Understood, and of no interest here.
    Other,
    /// Not understood.
    Unclear,
}

/// One command of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// Users as whom it may run; empty means root.
    pub run_as: Vec<String>,
    /// True when no password is asked: the tag NOPASSWD, which holds for the commands after it too.
    pub nopasswd: bool,
    /// The command with its arguments, unescaped; `ALL` for any.
    pub command: String,
    /// True for `!command`.
    pub forbidden: bool,
}

/// The account that rules are judged for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Login name.
    pub name: String,
    /// User id, when it has one already.
    pub uid: Option<u32>,
    /// Names and ids of its groups, the primary one among them.
    pub groups: Vec<(String, Option<u32>)>,
}

/// Whether a user list names somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Matching {
    /// It does not.
    No,
    /// It depends on something not known here, such as a netgroup.
    Maybe,
    /// It does.
    Yes,
}

/// A command for a sudo rule: an absolute program and fixed arguments. Without arguments any may be given, as
/// sudoers(5) has it; a lone `""` allows none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SudoCommand(String);

impl SudoCommand {
    /// The program.
    pub fn program(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }

    /// Program and arguments, as they are typed.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split(' ').filter(|word| *word != "\"\"")
    }

    /// True when any argument may be given.
    pub fn takes_any_arguments(&self) -> bool {
        !self.0.contains(' ')
    }

    /// As it stands in a rule: `,`, `:`, `=` and `\` escaped (sudoers(5), "Other special characters").
    pub fn rendered(&self) -> String {
        let escape = |c: char| if matches!(c, ',' | ':' | '=') { format!("\\{c}") } else { c.to_string() };
        self.0.chars().map(escape).collect()
    }
}

impl Word for SudoCommand {
    const FORMAT: &'static str = "sudo-command";
    const PATTERN: &'static str = "^/[^*?\\[\\]!]+$";
    const ABOUT: &'static str = "an absolute program with fixed arguments, without wildcards";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let hint = "write the whole command, such as /usr/bin/systemctl restart nginx";
        let mut words = text.split(' ');
        let program = words.next().unwrap_or_default();
        if !program.starts_with('/') {
            return Err(Invalid::new("the command does not begin with an absolute path", hint));
        }
        // Wildcards in sudoers match '/' and blanks in arguments, so `cat /var/log/*` reads any file; sudo-rs has none.
        if let Some(c) = text.chars().find(|c| matches!(c, '*' | '?' | '[' | ']')) {
            return Err(Invalid::new(format!("wildcard '{c}' in a command"), "list each command with its arguments"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '+' | '-');
        if let Some(c) = program.chars().find(|c| !plain(*c)) {
            return Err(Invalid::new(format!("character {} in the program's path", c.escape_default()), hint));
        }
        if program.ends_with('/') || program.split('/').skip(1).any(|part| matches!(part, "" | "." | "..")) {
            return Err(Invalid::new("the program's path is not plain", hint));
        }
        let arguments: Vec<&str> = words.collect();
        let none = arguments.as_slice() == ["\"\""];
        let fine = |c: char| plain(c) || matches!(c, '@' | '%' | ',' | ':' | '=');
        if let Some(c) = arguments.concat().chars().find(|c| !none && !fine(*c)) {
            return Err(Invalid::new(
                format!("character {} in the arguments", c.escape_default()),
                "put what needs it into a script that only root can write, and allow that",
            ));
        }
        if arguments.iter().any(|word| word.is_empty()) {
            return Err(Invalid::new("two blanks in a row, or one at the end", "write single blanks"));
        }
        Ok(Self(text.to_owned()))
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

word_serde!(SudoCommand);

/// The rule line, without newline: `USER ALL=(RUNAS) [NOPASSWD: ]COMMANDS`. No command means all of them, as any user
/// and group; made of typed values alone.
pub fn rule(user: &UserName, run_as: Option<&UserName>, nopasswd: bool, commands: &[SudoCommand]) -> String {
    let who = match run_as {
        Some(user) => user.as_str(),
        None if commands.is_empty() => "ALL:ALL",
        None => "root",
    };
    let tag = if nopasswd { "NOPASSWD: " } else { "" };
    let what = match commands {
        [] => "ALL".to_owned(),
        some => some.iter().map(SudoCommand::rendered).collect::<Vec<_>>().join(", "),
    };
    format!("{} ALL=({who}) {tag}{what}", user.as_str())
}

/// True when sudo reads a file of this name in an include directory.
pub fn is_read(name: &str) -> bool {
    !name.contains('.') && !name.ends_with('~')
}

/// All logical lines of one file.
pub fn parse(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let (mut joined, mut start) = (String::new(), 0);
    for (at, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if joined.is_empty() {
            start = at + 1;
        }
        // A directive in the place of a comment is looked for before comments are cut.
        let cut = if joined.is_empty() && directive(line).is_some() { line } else { uncommented(line) };
        match cut.strip_suffix('\\') {
            Some(head) => {
                joined.push_str(head);
                joined.push(' ');
            }
            None => {
                joined.push_str(cut);
                if !joined.trim().is_empty() {
                    lines.push(Line { number: start, item: item(joined.trim()) });
                }
                joined.clear();
            }
        }
    }
    if !joined.trim().is_empty() {
        lines.push(Line { number: start, item: item(joined.trim()) });
    }
    lines
}

/// Cuts a comment off. `#` before a digit is a uid, not a comment; in quotes and behind a backslash it is itself.
fn uncommented(line: &str) -> &str {
    let (mut quoted, mut last) = (false, ' ');
    for (at, c) in line.char_indices() {
        match c {
            '"' if last != '\\' => quoted = !quoted,
            '#' if !quoted && last != '\\' => {
                let rest = line.get(at + 1..).unwrap_or_default();
                let number = rest.strip_prefix('-').unwrap_or(rest).starts_with(|c: char| c.is_ascii_digit());
                if !number {
                    return line.get(..at).unwrap_or_default();
                }
            }
            _ => {}
        }
        last = c;
    }
    line
}

/// The word and the rest of an include line.
fn directive(line: &str) -> Option<(bool, &str)> {
    let rest = line.trim_start().strip_prefix(['@', '#'])?.strip_prefix("include")?;
    let (dir, rest) = rest.strip_prefix("dir").map_or((false, rest), |rest| (true, rest));
    rest.starts_with([' ', '\t']).then(|| (dir, rest.trim()))
}

fn item(text: &str) -> Item {
    if let Some((dir, rest)) = directive(text) {
        let path = rest.trim_matches('"').replace("\\ ", " ");
        return Item::Include { path, dir };
    }
    let (head, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    match head {
        "User_Alias" => user_alias(rest),
        "Runas_Alias" | "Host_Alias" | "Cmnd_Alias" | "Cmd_Alias" => Item::Other,
        "Defaults" => Item::Defaults { users: None, settings: list(rest) },
        _ if head.starts_with("Defaults:") => bound_defaults(text),
        _ if ["Defaults@", "Defaults!", "Defaults>"].iter().any(|kind| head.starts_with(kind)) => Item::Other,
        _ => parse_rule(text).unwrap_or(Item::Unclear),
    }
}

/// Several aliases on one line, joined by `:`, are taken as not understood.
fn user_alias(rest: &str) -> Item {
    match rest.split_once('=') {
        Some((name, members)) if !members.contains('=') => {
            Item::UserAlias { name: name.trim().to_owned(), members: list(members) }
        }
        _ => Item::Unclear,
    }
}

fn bound_defaults(text: &str) -> Item {
    let rest = tight(text.strip_prefix("Defaults:").unwrap_or_default().trim_start());
    match rest.split_once([' ', '\t']) {
        Some((users, settings)) => Item::Defaults { users: Some(list(users)), settings: list(settings) },
        None => Item::Unclear,
    }
}

/// Takes the blanks around commas away, outside quotes.
fn tight(text: &str) -> String {
    let mut out = String::new();
    let mut quoted = false;
    for c in text.chars() {
        if c == '"' && !out.ends_with('\\') {
            quoted = !quoted;
        }
        if c == ',' && !quoted && !out.ends_with('\\') {
            out.truncate(out.trim_end().len());
            out.push(',');
        } else if quoted || !(c.is_whitespace() && out.ends_with(',') && !out.ends_with("\\,")) {
            out.push(c);
        }
    }
    out
}

/// Splits at commas outside quotes and parentheses, and trims.
fn list(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let (mut quoted, mut depth, mut last) = (false, 0_u32, ' ');
    for c in text.chars() {
        match c {
            '"' if last != '\\' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if c == ',' && !quoted && depth == 0 && last != '\\' {
            items.push(String::new());
        } else if let Some(item) = items.last_mut() {
            item.push(c);
        }
        last = c;
    }
    items.into_iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

fn parse_rule(text: &str) -> Option<Item> {
    let (left, right) = split_unescaped(text, '=')?;
    let left = tight(left);
    let mut words = left.split_whitespace();
    let (users, _hosts) = (words.next()?, words.next()?);
    if words.next().is_some() || users.is_empty() {
        return None;
    }
    let users = list(users).into_iter().map(|user| user.trim_matches('"').to_owned()).collect();
    Some(Item::Rule { users, commands: commands(right)? })
}

fn split_unescaped(text: &str, mark: char) -> Option<(&str, &str)> {
    let mut last = ' ';
    for (at, c) in text.char_indices() {
        if c == mark && last != '\\' {
            return Some((text.get(..at)?, text.get(at + c.len_utf8()..)?));
        }
        last = c;
    }
    None
}

/// The commands after `HOST =`. `None` for what is not understood: options such as CWD= and a second host list.
fn commands(text: &str) -> Option<Vec<Allowed>> {
    let mut allowed = Vec::new();
    let (mut run_as, mut nopasswd) = (Vec::new(), false);
    for part in list(text) {
        let mut rest = part.as_str();
        if let Some(open) = rest.strip_prefix('(') {
            let (who, tail) = open.split_once(')')?;
            run_as = list(who.split(':').next().unwrap_or_default());
            rest = tail.trim_start();
        }
        while let Some((tag, tail)) = rest.split_once(':') {
            if !tag.trim().chars().all(|c| c.is_ascii_uppercase() || c == '_') || tag.trim().is_empty() {
                break;
            }
            match tag.trim() {
                "NOPASSWD" => nopasswd = true,
                "PASSWD" => nopasswd = false,
                _ => {}
            }
            rest = tail.trim_start();
        }
        if split_unescaped(rest, '=').is_some() || split_unescaped(rest, ':').is_some() {
            return None;
        }
        let (forbidden, command) = rest.strip_prefix('!').map_or((false, rest), |tail| (true, tail.trim_start()));
        let command = command.replace('\\', "");
        allowed.push(Allowed { run_as: run_as.clone(), nopasswd, command, forbidden });
    }
    (!allowed.is_empty()).then_some(allowed)
}

impl Subject {
    /// Whether `users` names this account, `aliases` giving the members of a User_Alias.
    pub fn matched(&self, users: &[String], aliases: &dyn Fn(&str) -> Option<Vec<String>>) -> Matching {
        self.matched_within(users, aliases, 0)
    }

    fn matched_within(
        &self,
        users: &[String],
        aliases: &dyn Fn(&str) -> Option<Vec<String>>,
        depth: usize,
    ) -> Matching {
        let mut best = Matching::No;
        for user in users {
            // The last one that matches decides, so what is left out may have been named before.
            let (negated, user) = user.strip_prefix('!').map_or((false, user.as_str()), |rest| (true, rest.trim()));
            let one = self.matched_one(user, aliases, depth);
            best = match (one, negated) {
                (Matching::No, _) => best,
                (Matching::Yes, true) => Matching::No,
                (Matching::Maybe, true) => best.min(Matching::Maybe),
                (found, false) => best.max(found),
            };
        }
        best
    }

    fn matched_one(&self, user: &str, aliases: &dyn Fn(&str) -> Option<Vec<String>>, depth: usize) -> Matching {
        let sure = |yes: bool| if yes { Matching::Yes } else { Matching::No };
        let id = |text: &str| text.parse::<u32>().ok();
        if user == "ALL" {
            return Matching::Yes;
        }
        if let Some(group) = user.strip_prefix('%') {
            return match group.strip_prefix('#') {
                Some(gid) => sure(self.groups.iter().any(|(_, own)| own.is_some() && *own == id(gid))),
                None if group.starts_with(':') => Matching::Maybe,
                None => sure(self.groups.iter().any(|(name, _)| name == group.trim_matches('"'))),
            };
        }
        if let Some(uid) = user.strip_prefix('#') {
            return sure(self.uid.is_some() && self.uid == id(uid));
        }
        if user.starts_with('+') {
            return Matching::Maybe;
        }
        if user == self.name {
            return Matching::Yes;
        }
        match aliases(user) {
            Some(members) if depth < 8 => self.matched_within(&members, aliases, depth + 1),
            Some(_) => Matching::Maybe,
            None => Matching::No,
        }
    }
}

/// The commands of `sudo -l -U USER`, in the order of the rules. Long entries are wrapped with a deeper indent.
pub fn listed(text: &str) -> Vec<Allowed> {
    let mut entries: Vec<String> = Vec::new();
    for line in text.lines().skip_while(|line| !line.contains("may run the following commands")).skip(1) {
        match line.strip_prefix("    (") {
            Some(rest) => entries.push(format!("({rest}")),
            None => {
                if let Some(entry) = entries.last_mut() {
                    entry.push(' ');
                    entry.push_str(line.trim());
                }
            }
        }
    }
    entries.iter().filter_map(|entry| commands(entry)).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Vec<Item> {
        parse(text).into_iter().map(|line| line.item).collect()
    }

    fn subject() -> Subject {
        let groups = vec![("deploy".to_owned(), Some(1000)), ("sudo".to_owned(), Some(27))];
        Subject { name: "deploy".to_owned(), uid: Some(1000), groups }
    }

    #[test]
    fn lines_comments_and_includes() {
        let text = "# note\n#1000 ALL=ALL\n#includedir /etc/sudoers.d\n@include /etc/x # y\n\
            Defaults env_keep += \"A B\", !requiretty # z\ndeploy ALL = \\\n  (ALL) ALL\n";
        let lines = parse(text);
        assert_eq!(lines.iter().map(|line| line.number).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
        assert!(matches!(&lines[0].item, Item::Rule { users, .. } if users == &["#1000"]));
        assert!(matches!(&lines[1].item, Item::Include { path, dir: true } if path == "/etc/sudoers.d"));
        assert!(matches!(&lines[3].item, Item::Defaults { users: None, settings } if settings[1] == "!requiretty"));
        assert!(matches!(&lines[4].item, Item::Rule { commands, .. } if commands[0].command == "ALL"));
        assert_eq!(items("#include\n#included x\n"), []);
    }

    #[test]
    fn rules_and_tags() {
        let parsed = items("a, b , %c ALL=(root : adm) NOPASSWD: /bin/a x\\,y, SETENV: PASSWD: /bin/b, !/bin/c\n");
        let [Item::Rule { users, commands }] = parsed.as_slice() else { panic!("{parsed:?}") };
        assert_eq!(users, &["a", "b", "%c"]);
        let flags: Vec<_> = commands.iter().map(|c| (c.nopasswd, c.forbidden, c.command.as_str())).collect();
        assert_eq!(flags, [(true, false, "/bin/a x,y"), (false, false, "/bin/b"), (false, true, "/bin/c")]);
        assert_eq!(commands[2].run_as, ["root"]);
        for odd in ["deploy", "deploy ALL", "deploy ALL=CWD=/ ALL", "deploy a=ALL : b=ALL", "a b c=ALL", "x y="] {
            assert_eq!(items(odd), [Item::Unclear], "{odd}");
        }
    }

    #[test]
    fn who_is_meant() {
        let alias = |name: &str| (name == "OPS").then(|| vec!["alice".to_owned(), "deploy".to_owned()]);
        let says = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|user| (*user).to_owned()).collect();
            subject().matched(&list, &alias)
        };
        for yes in [["deploy"], ["ALL"], ["#1000"], ["%sudo"], ["%#27"], ["OPS"]] {
            assert_eq!(says(&yes), Matching::Yes, "{yes:?}");
        }
        for no in [["alice"], ["#0"], ["%adm"], ["OTHER"], ["!deploy"]] {
            assert_eq!(says(&no), Matching::No, "{no:?}");
        }
        assert_eq!(says(&["ALL", "!OPS"]), Matching::No);
        assert_eq!(says(&["+net"]), Matching::Maybe);
        assert_eq!(says(&["%:domain"]), Matching::Maybe);
    }

    #[test]
    fn a_written_rule_reads_back() {
        let user = UserName::parse("a.b-c").unwrap();
        let commands: Vec<SudoCommand> =
            ["/usr/bin/systemctl restart nginx", "/bin/x a=b,c:d", "/bin/y \"\"", "/bin/z"]
                .iter()
                .map(|text| SudoCommand::parse(text).unwrap())
                .collect();
        let parsed = items(&rule(&user, None, true, &commands));
        let [Item::Rule { users, commands: read }] = parsed.as_slice() else { panic!("{parsed:?}") };
        assert_eq!(users, &["a.b-c"]);
        assert_eq!(
            read.iter().map(|c| c.command.clone()).collect::<Vec<_>>(),
            commands.iter().map(Word::text).collect::<Vec<_>>()
        );
        assert!(read.iter().all(|c| c.nopasswd && c.run_as == ["root"]));
        assert_eq!(rule(&user, None, true, &[]), "a.b-c ALL=(ALL:ALL) NOPASSWD: ALL");
    }

    #[test]
    fn commands_that_could_mean_more_are_refused() {
        for bad in [
            "",
            "ls",
            "sudoedit /etc/x",
            "/bin/cat /var/log/*",
            "/bin/a ?",
            "/bin/a [x]",
            "/bin/a !b",
            "/bin/a;b",
            "/bin/../x",
            "/bin/",
            "/bin/a  b",
            "/bin/a ",
            "/bin/a \"b",
            "/bin/a #b",
            "/bin/a ^b$",
            "/bin/a \\b",
            "/bin/a b\nc",
            "/bin/a $x",
            "ALL",
            "!/bin/a",
            "/bin/a \"\" b",
        ] {
            assert!(SudoCommand::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_sudo_lists() {
        let text = "Matching Defaults entries for deploy on h:\n    env_reset, mail_badpass\n\n\
            User deploy may run the following commands on h:\n    (ALL : ALL) ALL\n    (root) NOPASSWD: /bin/a x,\n        /bin/b\n";
        let entries = listed(text);
        assert_eq!(entries.iter().map(|e| e.command.as_str()).collect::<Vec<_>>(), ["ALL", "/bin/a x", "/bin/b"]);
        assert_eq!(entries.iter().map(|e| e.nopasswd).collect::<Vec<_>>(), [false, true, true]);
        assert!(listed("User deploy is not allowed to run sudo on h.\n").is_empty());
    }
}
