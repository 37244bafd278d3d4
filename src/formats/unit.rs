//! Unit files of systemd.unit(5), and the files of shell variables beside them. Must not open files.

/// A setting: where it stands (`file:line`), key, value.
pub type Setting = (String, String, String);

/// The settings of a unit file, after those of the files read before it; a line that ends in a backslash goes on.
pub fn read(path: &str, text: &str, out: &mut Vec<Setting>) {
    let mut joined = String::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(head) = line.strip_suffix('\\') {
            joined.push_str(head);
            joined.push(' ');
            continue;
        }
        joined.push_str(line);
        let whole = std::mem::take(&mut joined);
        let whole = whole.trim();
        if whole.starts_with(['#', ';', '[']) {
            continue;
        }
        if let Some((key, value)) = whole.split_once('=') {
            out.push((format!("{path}:{}", index + 1), key.trim().to_owned(), value.trim().to_owned()));
        }
    }
}

/// The values of a list setting, an empty assignment emptying it.
pub fn list(lines: &[Setting], key: &str) -> Vec<(String, String)> {
    let mut values = Vec::new();
    for (place, _, value) in lines.iter().filter(|(_, name, _)| name == key) {
        if value.is_empty() {
            values.clear();
        } else {
            values.push((place.clone(), value.clone()));
        }
    }
    values
}

/// `NAME=value` lines of a file that a shell reads.
pub fn shell_variables(path: &str, text: &str) -> Vec<Setting> {
    let variable = |(index, line): (usize, &str)| {
        let line = line.trim().strip_prefix("export ").unwrap_or(line.trim());
        let (name, value) = line.split_once('=')?;
        if name.starts_with('#') || name.contains(' ') {
            return None;
        }
        Some((format!("{path}:{}", index + 1), name.to_owned(), words(value).join(" ")))
    };
    text.lines().enumerate().filter_map(variable).collect()
}

/// Words in shell-like quotes.
pub fn words(text: &str) -> Vec<String> {
    let (mut out, mut word, mut quote, mut open) = (Vec::new(), String::new(), None, false);
    for c in text.chars() {
        match (c, quote) {
            ('"' | '\'', None) => (quote, open) = (Some(c), true),
            (_, Some(mark)) if c == mark => quote = None,
            (c, None) if c.is_whitespace() => {
                if open || !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
                open = false;
            }
            _ => word.push(c),
        }
    }
    if open || !word.is_empty() {
        out.push(word);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_can_be_emptied() {
        let mut lines = Vec::new();
        read("u", "[Socket]\nListenStream=22\nListenStream=10.0.0.1:23\n", &mut lines);
        read("d", "ListenStream=\n# x\nListenStream=\\\n 2222\n", &mut lines);
        assert_eq!(list(&lines, "ListenStream"), [("d:4".to_owned(), "2222".to_owned())]);
    }
}
