//! The user databases: passwd(5), shadow(5), group(5), gshadow(5), subuid(5) and subgid(5).
//!
//! [`Records`] keeps every byte that no edit names: order, comments, NIS lines, odd lines and a missing final newline.
//! Edits touch one entry each. Must not open files and must not print what it holds, since shadow lines are secrets.

use crate::types::{Invalid, Secret};

/// A colon-separated database, line by line; nothing is interpreted until asked for.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Records {
    lines: Vec<Vec<u8>>,
    /// The last line has no newline; kept so, since undoing an edit must give back the same bytes.
    unterminated: bool,
}

/// A line of passwd(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswdEntry {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// The comment field.
    pub gecos: String,
    /// Home directory as written.
    pub home: String,
    /// Login shell as written; empty means /bin/sh.
    pub shell: String,
}

/// A line of shadow(5). Days count from 1970-01-01; an empty field is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShadowEntry {
    /// Login name.
    pub name: String,
    /// The password field: a crypt(5) hash, or `*`, `!...` or nothing.
    pub hash: Secret<String>,
    /// Day of the last password change; 0 demands a change at the next login.
    pub last_change: Option<i64>,
    /// Days before a password may be changed again.
    pub min: Option<i64>,
    /// Days after which it must be changed.
    pub max: Option<i64>,
    /// Days of warning before that.
    pub warn: Option<i64>,
    /// Days after which an aged password disables the account.
    pub inactive: Option<i64>,
    /// Day on which the account expires.
    pub expire: Option<i64>,
}

/// How a password field of shadow(5) can be used.
///
/// Only [`Hash::Usable`] is a way in to count on: an empty field lets in where PAM's `nullok` applies, which is Debian's
/// default at the console and depends on a line in /etc/pam.d. It is a danger to be told, not a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// Some password matches.
    Usable,
    /// No password is asked for.
    Empty,
    /// None ever matches.
    Locked,
}

impl Hash {
    /// What a field is. Anything that is no hash of crypt(5) matches nothing.
    pub fn of(field: &str) -> Self {
        match field {
            "" => Self::Empty,
            field if field.starts_with('$') => Self::Usable,
            field if field.starts_with(['!', '*']) || field.len() < 13 => Self::Locked,
            _ => Self::Usable,
        }
    }
}

/// A line of group(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupEntry {
    /// Group name.
    pub name: String,
    /// Group id.
    pub gid: u32,
    /// Names of the members, without those whose primary group it is.
    pub members: Vec<String>,
}

/// Index of the member list in group(5) and gshadow(5).
const MEMBERS: usize = 3;

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Records({} lines)", self.lines.len())
    }
}

impl Records {
    /// Splits a file into lines; never fails, so that `parse` then [`Records::render`] is the identity.
    pub fn parse(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::default();
        }
        let (body, unterminated) = bytes.strip_suffix(b"\n").map_or((bytes, true), |body| (body, false));
        Self { lines: body.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect(), unterminated }
    }

    /// The file.
    pub fn render(&self) -> Vec<u8> {
        let mut bytes = self.lines.join(&b'\n');
        if !self.lines.is_empty() && !self.unterminated {
            bytes.push(b'\n');
        }
        bytes
    }

    /// The keys (first fields) of all entries, in order; comments, blank and colonless lines have none.
    pub fn keys(&self) -> impl Iterator<Item = String> + '_ {
        self.lines.iter().filter_map(|line| key_of(line)).map(lossy)
    }

    /// How many lines have this key; more than one is ambiguous and no edit accepts it.
    pub fn count(&self, key: &str) -> usize {
        self.positions(key).count()
    }

    /// The first line with this key, without its newline.
    pub fn line(&self, key: &str) -> Option<&[u8]> {
        self.positions(key).next().and_then(|at| self.lines.get(at)).map(Vec::as_slice)
    }

    /// The fields of the first line with this key; bytes that are not UTF-8 are replaced.
    pub fn fields(&self, key: &str) -> Option<Vec<String>> {
        self.line(key).map(split)
    }

    /// Adds a line at the end, before a closing block of NIS lines (`+...`, `-...`), which ends a lookup.
    ///
    /// # Errors
    /// When the key is there already, or the text is not one line with a key.
    pub fn add(&mut self, line: &str) -> Result<(), Invalid> {
        check_text(line)?;
        let key = key_of(line.as_bytes()).map(lossy).ok_or_else(|| {
            Invalid::new("the line is not an entry", "an entry is a name, a colon, and the other fields")
        })?;
        if self.count(&key) > 0 {
            return Err(Invalid::new(
                format!("there is an entry for '{key}' already"),
                format!("look at it with: getent passwd {key}"),
            ));
        }
        let nis = self.lines.iter().rev().take_while(|line| matches!(line.first(), Some(b'+' | b'-'))).count();
        self.lines.insert(self.lines.len() - nis, line.as_bytes().to_vec());
        Ok(())
    }

    /// Removes the entry with this key and gives it back; `None` when there is none.
    ///
    /// # Errors
    /// When several lines have the key, or the line is not UTF-8 and so could not be put back.
    pub fn remove(&mut self, key: &str) -> Result<Option<String>, Invalid> {
        let Some(at) = self.only(key)? else { return Ok(None) };
        let text = self.lines.get(at).map(|line| exact(line, key)).transpose()?;
        self.lines.remove(at);
        Ok(text)
    }

    /// Sets field `index` (the key being 0) of the entry and gives back the old value.
    ///
    /// # Errors
    /// When there is no such entry or field, several lines have the key, the index is 0, or the value holds a colon or
    /// control character.
    pub fn set_field(&mut self, key: &str, index: usize, value: &str) -> Result<String, Invalid> {
        check_text(value)?;
        if value.contains(':') {
            return Err(Invalid::new("a field cannot hold ':'", "leave the colon out"));
        }
        let line = self.entry(key)?;
        let mut fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let field = fields.get_mut(index).filter(|_| index > 0).ok_or_else(|| {
            Invalid::new(
                format!("the entry for '{key}' has no field {index} to set"),
                "repair the line with: vipw or vigr",
            )
        })?;
        let old = exact(field, key)?;
        *field = value.as_bytes();
        let line = fields.join(&b':');
        self.replace(key, line)?;
        Ok(old)
    }

    /// True when `user` is in the member list of `group`.
    pub fn is_member(&self, group: &str, user: &str) -> bool {
        self.fields(group).is_some_and(|fields| {
            fields.get(MEMBERS).is_some_and(|members| members.split(',').any(|member| member == user))
        })
    }

    /// Adds `user` to the member list of `group` (at its end) or takes it out, and tells whether that changed anything.
    ///
    /// # Errors
    /// When the group is to get a member and is not there, its line has no member list, or several lines have the key.
    pub fn set_member(&mut self, group: &str, user: &str, present: bool) -> Result<bool, Invalid> {
        check_text(user)?;
        if user.is_empty() || user.contains([':', ',']) {
            return Err(Invalid::new(format!("'{user}' cannot be a member of a group"), "give a plain user name"));
        }
        if !present && self.count(group) == 0 || self.is_member(group, user) == present {
            return Ok(false);
        }
        let old = self.members(group);
        let mut members: Vec<&str> = old.split(',').filter(|member| *member != user).collect();
        if old.is_empty() {
            members.clear();
        }
        if present {
            members.push(user);
        }
        self.set_field(group, MEMBERS, &members.join(","))?;
        Ok(true)
    }

    /// The member that stands behind `user` in the list of `group`.
    pub fn member_after(&self, group: &str, user: &str) -> Option<String> {
        let members = self.members(group);
        let mut behind = members.split(',').skip_while(|member| *member != user).skip(1);
        behind.find(|member| !member.is_empty()).map(str::to_owned)
    }

    /// Adds `user` to the member list of `group` in front of `before` (at the end when that one is not there), and tells
    /// whether that changed anything.
    ///
    /// # Errors
    /// As [`Records::set_member`] for a new member.
    pub fn rejoin(&mut self, group: &str, user: &str, before: &str) -> Result<bool, Invalid> {
        if !self.set_member(group, user, true)? {
            return Ok(false);
        }
        let list = self.members(group);
        let mut members: Vec<&str> = list.split(',').collect();
        if let Some(at) = members.iter().position(|member| *member == before) {
            members.pop();
            members.insert(at, user);
            self.set_field(group, MEMBERS, &members.join(","))?;
        }
        Ok(true)
    }

    fn members(&self, group: &str) -> String {
        self.fields(group).and_then(|fields| fields.get(MEMBERS).cloned()).unwrap_or_default()
    }

    /// All lines that are passwd(5) entries.
    pub fn passwd(&self) -> Vec<PasswdEntry> {
        self.entries().filter_map(|fields| passwd_entry(&fields)).collect()
    }

    /// All lines that are shadow(5) entries.
    pub fn shadow(&self) -> Vec<ShadowEntry> {
        self.entries().filter_map(|fields| shadow_entry(&fields)).collect()
    }

    /// All lines that are group(5) entries.
    pub fn group(&self) -> Vec<GroupEntry> {
        self.entries().filter_map(|fields| group_entry(&fields)).collect()
    }

    /// The passwd(5) entry of this name; the first one, as for getpwnam(3).
    pub fn passwd_entry(&self, name: &str) -> Option<PasswdEntry> {
        self.fields(name).and_then(|fields| passwd_entry(&fields))
    }

    /// The shadow(5) entry of this name; the first one, as for getspnam(3).
    pub fn shadow_entry(&self, name: &str) -> Option<ShadowEntry> {
        self.fields(name).and_then(|fields| shadow_entry(&fields))
    }

    /// The group(5) entry of this name; the first one, as for getgrnam(3).
    pub fn group_entry(&self, name: &str) -> Option<GroupEntry> {
        self.fields(name).and_then(|fields| group_entry(&fields))
    }

    fn entries(&self) -> impl Iterator<Item = Vec<String>> + '_ {
        self.lines.iter().filter(|line| key_of(line).is_some()).map(|line| split(line))
    }

    fn positions<'a>(&'a self, key: &'a str) -> impl Iterator<Item = usize> + 'a {
        self.lines.iter().enumerate().filter(move |(_, line)| key_of(line) == Some(key.as_bytes())).map(|(at, _)| at)
    }

    /// The one line with this key: which of two equal names counts differs from program to program, so two are refused.
    fn only(&self, key: &str) -> Result<Option<usize>, Invalid> {
        let mut positions = self.positions(key);
        let first = positions.next();
        if positions.next().is_some() {
            return Err(Invalid::new(
                format!("there are several entries for '{key}'"),
                "leave one of them, with: vipw or vigr (or edit /etc/subuid and /etc/subgid)",
            ));
        }
        Ok(first)
    }

    fn entry(&self, key: &str) -> Result<&[u8], Invalid> {
        let at = self.only(key)?;
        at.and_then(|at| self.lines.get(at))
            .map(Vec::as_slice)
            .ok_or_else(|| Invalid::new(format!("there is no entry for '{key}'"), "plan again: the entry went away"))
    }

    fn replace(&mut self, key: &str, line: Vec<u8>) -> Result<(), Invalid> {
        if let Some(place) = self.only(key)?.and_then(|at| self.lines.get_mut(at)) {
            *place = line;
        }
        Ok(())
    }
}

/// The key of an entry. The C library skips blank lines and those that begin with `#`.
fn key_of(line: &[u8]) -> Option<&[u8]> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    line.get(..colon).filter(|key| !key.is_empty() && !key.starts_with(b"#"))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn split(line: &[u8]) -> Vec<String> {
    line.split(|byte| *byte == b':').map(lossy).collect()
}

/// Text that can be put back exactly as it was.
fn exact(bytes: &[u8], key: &str) -> Result<String, Invalid> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| {
        Invalid::new(format!("the entry for '{key}' is not UTF-8"), "write it as UTF-8 with: vipw, vipw -s or vigr")
    })
}

/// No value may begin a second line or end the file for C programs.
fn check_text(text: &str) -> Result<(), Invalid> {
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(Invalid::new(
            format!("control character {} in an entry", c.escape_unicode()),
            "write one line of plain text",
        )),
        None => Ok(()),
    }
}

fn passwd_entry(fields: &[String]) -> Option<PasswdEntry> {
    let [name, _, uid, gid, gecos, home, shell] = fields else { return None };
    Some(PasswdEntry {
        name: name.clone(),
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        gecos: gecos.clone(),
        home: home.clone(),
        shell: shell.clone(),
    })
}

fn shadow_entry(fields: &[String]) -> Option<ShadowEntry> {
    let [name, hash, days @ ..] = fields else { return None };
    let day = |at: usize| days.get(at).and_then(|text| text.parse().ok());
    Some(ShadowEntry {
        name: name.clone(),
        hash: Secret::new(hash.clone()),
        last_change: day(0),
        min: day(1),
        max: day(2),
        warn: day(3),
        inactive: day(4),
        expire: day(5),
    })
}

fn group_entry(fields: &[String]) -> Option<GroupEntry> {
    let [name, _, gid, members] = fields else { return None };
    let members = members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect();
    Some(GroupEntry { name: name.clone(), gid: gid.parse().ok()?, members })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n# note: kept\n\nodd line\nj\xf6rg:x:7:7:J\xf6rg:/h:/s\n\
        a:x:1:1:A,,,:/home/a:/bin/sh\n+::::::";

    #[test]
    fn parse_then_render_is_the_identity() {
        for bytes in [b"".as_slice(), b"\n", b"\n\n", b"a", b"a\n", b"a\n\n", b"\r\n:\n", ODD, b"a:b\nc:d"] {
            assert_eq!(Records::parse(bytes).render(), bytes);
        }
    }

    #[test]
    fn adding_then_removing_gives_the_same_bytes() {
        for bytes in [b"".as_slice(), ODD, b"a:x\n", b"a:x", b"a:x\n+\n-b\n"] {
            let mut records = Records::parse(bytes);
            records.add("new:x:5:5::/:/bin/sh").unwrap();
            assert_eq!(records.count("new"), 1);
            assert_ne!(records.render(), bytes);
            assert_eq!(records.remove("new").unwrap().unwrap(), "new:x:5:5::/:/bin/sh");
            assert_eq!(records.render(), bytes);
            assert_eq!(records.remove("new").unwrap(), None);
        }
    }

    #[test]
    fn a_new_entry_stands_before_the_nis_lines() {
        let mut records = Records::parse(b"a:x\n+x::\n+\n");
        records.add("b:x").unwrap();
        assert_eq!(records.render(), b"a:x\nb:x\n+x::\n+\n");
    }

    #[test]
    fn fields_are_set_one_by_one() {
        let mut records = Records::parse(ODD);
        assert_eq!(records.set_field("a", 6, "/bin/bash").unwrap(), "/bin/sh");
        assert_eq!(records.line("a").unwrap(), b"a:x:1:1:A,,,:/home/a:/bin/bash");
        assert_eq!(records.set_field("a", 6, "/bin/sh").unwrap(), "/bin/bash");
        assert_eq!(records.render(), ODD);
        for (key, index, value) in
            [("a", 0, "b"), ("a", 7, "x"), ("nobody", 1, "x"), ("a", 4, "x:y"), ("a", 4, "x\ny"), ("a", 4, "\0")]
        {
            assert!(records.set_field(key, index, value).is_err(), "{key} {index} {value:?}");
            assert_eq!(records.render(), ODD);
        }
    }

    #[test]
    fn members_come_and_go() {
        let mut records = Records::parse(b"sudo:x:27:a,b\nempty:x:9:\nshort:x\n");
        assert!(records.set_member("sudo", "c", true).unwrap());
        assert!(!records.set_member("sudo", "c", true).unwrap());
        assert!(records.set_member("sudo", "a", false).unwrap());
        assert!(records.set_member("empty", "a", true).unwrap());
        assert!(!records.set_member("gone", "a", false).unwrap());
        assert_eq!(records.render(), b"sudo:x:27:b,c\nempty:x:9:a\nshort:x\n");
        for (group, user) in [("gone", "a"), ("short", "a"), ("sudo", ""), ("sudo", "a,b"), ("sudo", "a\nroot:x:0:")] {
            assert!(records.set_member(group, user, true).is_err(), "{group} {user:?}");
        }
        assert!(!records.is_member("sudo", "")); // an empty list has no member called nothing
    }

    #[test]
    fn a_member_comes_back_where_it_stood() {
        for list in ["a,b,c", "b,a", "a", ""] {
            for user in ["a", "b", "c"] {
                let mut records = Records::parse(format!("g:x:1:{list}\n").as_bytes());
                let (before, was) = (records.member_after("g", user), records.is_member("g", user));
                assert_eq!(records.set_member("g", user, false).unwrap(), was);
                match before {
                    Some(before) => assert!(records.rejoin("g", user, &before).unwrap()),
                    None => assert!(records.set_member("g", user, true).unwrap()),
                }
                let wanted = match (was, list) {
                    (true, list) => list.to_owned(),
                    (false, "") => user.to_owned(),
                    (false, list) => format!("{list},{user}"),
                };
                assert_eq!(records.render(), format!("g:x:1:{wanted}\n").as_bytes(), "{list:?} {user}");
            }
        }
        let mut records = Records::parse(b"g:x:1:b,d\n");
        assert!(records.rejoin("g", "a", "c").unwrap());
        assert!(!records.rejoin("g", "a", "b").unwrap());
        assert_eq!(records.render(), b"g:x:1:b,d,a\n");
    }

    #[test]
    fn two_entries_of_one_name_are_refused() {
        let mut records = Records::parse(b"a:x:1\na:x:2\n");
        assert!(records.remove("a").is_err());
        assert!(records.set_field("a", 1, "y").is_err());
        assert!(records.add("a:x:3").is_err());
        assert_eq!(records.render(), b"a:x:1\na:x:2\n");
    }

    #[test]
    fn what_cannot_be_put_back_is_not_removed() {
        let mut records = Records::parse(b"a:\xff:1\n");
        assert!(records.remove("a").is_err());
        assert!(records.set_field("a", 1, "y").is_err());
        assert_eq!(records.set_field("a", 2, "2").unwrap(), "1");
        assert_eq!(records.render(), b"a:\xff:2\n");
    }

    #[test]
    fn no_line_can_be_smuggled_in() {
        let mut records = Records::parse(b"root:x:0\n");
        for bad in ["", "a", ":x", "#a:x", "a:x\nb:x", "a:x\0", "a:x\r", "root:y:0"] {
            assert!(records.add(bad).is_err(), "{bad:?}");
        }
        assert_eq!(records.render(), b"root:x:0\n");
    }

    #[test]
    fn typed_views() {
        let records = Records::parse(ODD);
        let names: Vec<_> = records.passwd().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["root", "j\u{fffd}rg", "a"]);
        let entry = records.passwd_entry("a").unwrap();
        assert_eq!((entry.uid, entry.home.as_str(), entry.shell.as_str()), (1, "/home/a", "/bin/sh"));
        let shadow = Records::parse(b"a:$y$canary:19000:0:99999:7:::\nb:*:0:::::1:\n");
        let a = shadow.shadow_entry("a").unwrap();
        assert_eq!((a.last_change, a.max, a.inactive, a.expire), (Some(19000), Some(99999), None, None));
        assert_eq!(shadow.shadow_entry("b").unwrap().expire, Some(1));
        assert!(!format!("{a:?} {shadow:?}").contains("canary"));
        let group = Records::parse(b"sudo:x:27:a,b\nnone:x:28:\nbad:x:y:\n");
        assert_eq!(group.group().len(), 2);
        assert_eq!(group.group_entry("sudo").unwrap().members, ["a", "b"]);
        assert!(group.group_entry("none").unwrap().members.is_empty());
    }
}
