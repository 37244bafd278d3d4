//! Bad playbooks: those of `bad.txt`, and those generated from `full.yml` by putting into each field what must not stand
//! there.

use std::collections::BTreeMap;

/// A playbook that must be refused.
pub struct Case {
    pub class: String,
    pub text: String,
    /// A fault must be on this line; 0 when the table does not say.
    pub line: usize,
    /// A fault must say this.
    pub says: String,
}

/// Blocks of a case file: head line without the `==`, and text.
pub fn blocks(file: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(dir().join(file)).unwrap();
    let mut out: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("== ") {
            out.push((head.to_owned(), String::new()));
        } else if let Some((_, body)) = out.last_mut() {
            body.push_str(&unmark(line));
            body.push('\n');
        }
    }
    out
}

pub fn dir() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/playbook")
}

/// The playbook with every field.
pub fn full() -> String {
    std::fs::read_to_string(dir().join("full.yml")).unwrap()
}

/// Files that the cases name.
pub fn files() -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> = blocks("files.txt").into_iter().collect();
    for entry in std::fs::read_dir(dir().join("keys")).unwrap() {
        let path = entry.unwrap().path();
        files.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap());
    }
    files
}

fn unmark(line: &str) -> String {
    let mut out = line.replace("{TAB}", "\t").replace("{CR}", "\r").replace("{NUL}", "\0").replace("{BOM}", "\u{feff}");
    while let Some(at) = out.find("{U+") {
        let end = at + out[at..].find('}').unwrap();
        let c = char::from_u32(u32::from_str_radix(&out[at + 3..end], 16).unwrap()).unwrap();
        out.replace_range(at..=end, &c.to_string());
    }
    out
}

/// The table.
pub fn table() -> Vec<Case> {
    let cases = blocks("bad.txt").into_iter().map(|(head, text)| {
        let mut parts = head.splitn(3, '|').map(str::trim);
        let class = parts.next().unwrap().to_owned();
        let line = parts.next().unwrap().parse().unwrap();
        Case { class, text, line, says: parts.next().unwrap().to_owned() }
    });
    cases.collect()
}

/// A field of the full playbook: its line, what is before its value, the value, its mark.
struct Field {
    line: usize,
    head: String,
    value: String,
    mark: String,
}

fn fields() -> Vec<Field> {
    let mut out = Vec::new();
    for (index, line) in full().lines().enumerate() {
        let Some((body, mark)) = line.split_once("  # ") else { continue };
        let cut = body.rfind(": ").or_else(|| body.rfind("- ")).unwrap() + 2;
        let (head, value) = body.split_at(cut);
        let (head, value, mark) = (head.to_owned(), value.trim_matches('"').to_owned(), mark.to_owned());
        out.push(Field { line: index + 1, head, value, mark });
    }
    out
}

/// The full playbook with `value` in the place of a field, as it stands.
fn with(field: &Field, value: &str) -> String {
    let full = full();
    let lines = full.lines().enumerate();
    let texts =
        lines.map(
            |(index, line)| {
                if index + 1 == field.line { format!("{}{value}\n", field.head) } else { format!("{line}\n") }
            },
        );
    texts.collect()
}

/// Every character that no field may hold.
fn forbidden() -> Vec<char> {
    let ranges = [0..=0x1f, 0x7f..=0x7f, 0x85..=0x85, 0x9b..=0x9b, 0x2028..=0x202e, 0x2066..=0x2069, 0xfeff..=0xfeff];
    ranges.into_iter().flatten().filter_map(char::from_u32).collect()
}

/// Each field with each forbidden character: as an escape, and as it is.
pub fn control_characters() -> Vec<Case> {
    let mut out = Vec::new();
    for field in fields() {
        for c in forbidden() {
            let half = field.value.len() / 2;
            let (before, after) = field.value.split_at(half);
            let escaped = format!("\"{before}\\u{:04x}{after}\"", u32::from(c));
            out.push(case("escaped character", &field, with(&field, &escaped)));
            // One of each sort as it is; a line break would end the value, which other rows try.
            if ['\0', '\t', '\x1b', '\x7f', '\u{85}', '\u{2028}', '\u{202e}', '\u{2066}', '\u{feff}'].contains(&c) {
                let raw = format!("\"{before}{c}{after}\"");
                out.push(case("raw character", &field, with(&field, &raw)));
            }
        }
    }
    out
}

fn case(class: &str, field: &Field, text: String) -> Case {
    let class = format!("{class} in {}", field.head.trim());
    Case { class, text, line: field.line, says: String::new() }
}

/// Words that no field takes, in each field.
pub fn odd_words() -> Vec<Case> {
    let words = [
        "no",
        "No",
        "off",
        "y",
        "Yes",
        "ON",
        "True",
        "0600",
        "0644",
        "022",
        "0x1F",
        "0o17",
        "+5",
        "1_000",
        "1e3",
        "1.5",
        ".inf",
        "22:22",
        "2026-01-01",
        "~",
        "null",
        "",
        "=",
        "&a x",
        "*a",
        "!!str x",
        "!x y",
        "[ x ]",
        "{ x: y }",
        "<<",
        "'",
        "\"",
        "%x",
        "@x",
        "`x`",
        "| x",
        "{{ x }}",
        "\"{{ nobody }}\"",
        "\"{{\"",
        "99999999999999999999",
        "\"\\q\"",
    ];
    let (mut out, mut seen) = (Vec::new(), BTreeMap::<String, usize>::new());
    for field in fields() {
        // Two fields of each sort: what a bare word means is decided before its field is known.
        let count = seen.entry(field.mark.clone()).or_default();
        *count += 1;
        if *count <= 2 {
            out.extend(words.iter().map(|word| case(&format!("'{word}'"), &field, with(&field, word))));
        }
    }
    out
}

/// Values of the wrong kind for the mark of each field.
pub fn wrong_values() -> Vec<Case> {
    let long = "a".repeat(33);
    let key = full();
    assert!(key.contains("good.pub"));
    let wrong: &[(&str, &[&str])] = &[
        (
            "name",
            &[
                "ALL",
                "All",
                "all",
                "1000",
                "a..b",
                "..",
                "../x",
                "alice$",
                "é",
                "\"a b\"",
                "-x",
                "\"a:b\"",
                "a.",
                "\"%x\"",
                "\"#1\"",
                "\"#-1\"",
                "\"+net\"",
                "\"!x\"",
                "\"a,b\"",
                "\"\"",
                "\" x\"",
                "\"x \"",
                "a/b",
                "\"*\"",
                "\"a;b\"",
                "Deploy",
                "true",
                "0",
                "\"0\"",
                "\"a=b\"",
                "\"a(b\"",
                "\"a\\\\b\"",
                &long,
            ],
        ),
        (
            "path",
            &["home", "./x", "/a/../b", "//a", "/a/", "/a//b", "\"~/x\"", "\"/a:b\"", "\"\"", "0", "true", "/a/./b"],
        ),
        ("bool", &["\"true\"", "\"false\"", "0", "1", "maybe", "\"\"", "tru"]),
        ("int", &["\"1\"", "0", "-1", "true", "two", "\"\"", "70000000000", "1.0"]),
        ("word", &["nonsense", "1", "true", "\"\"", "lockd", "\"deny allow\"", "NO_"]),
        (
            "cidr",
            &[
                "10.0.0.1/8",
                "10.0.0.0/33",
                "256.0.0.0",
                "example.com",
                "10.0.0.0/",
                "10.0.0.0/-1",
                "::/129",
                "1",
                "\"\"",
                "10.0.0.0/8/8",
                "\"10.0.0.0/ 8\"",
            ],
        ),
        ("hash", &["locked", "\"!\"", "\"*\"", "\"\"", "\"$1$a$b\"", "\"$6$short$x\"", "\"$6$a:b$x\"", "secret", "1"]),
        (
            "file",
            &["missing.pub", "\"\"", "1", "true", "private.pub", "cert.pub", "dsa.pub", "empty.pub", "rsa1024.pub"],
        ),
        ("key", &["missing", "\"\"", "1", "ssh-rsa", "ssh-ed25519 AAAA", "\"command=x ssh-ed25519 AAAA\""]),
        (
            "command",
            &[
                "ls",
                "\"\"",
                "/bin/cat /var/log/*",
                "\"/bin/a, /bin/b\"",
                "\"!/bin/ls\"",
                "../ls",
                "1",
                "\"/bin/a=b\"",
                "ALL",
                "sudoedit /etc/x",
            ],
        ),
        ("time", &["\"\"", "\"1x\"", "true", "-1", "[ 1 ]"]),
        ("port", &["0", "70000", "true", "\"\"", "\"6000:5000\"", "\"6000:6007/tcp\"", "[ 80 ]", "ssh"]),
        ("app", &["\"\"", "\"a/b\"", "1", "true", "all", "\"x;y\""]),
        (
            "rule",
            &[
                "0",
                "70000",
                "true",
                "[ 80 ]",
                "\"\"",
                "80/icmp",
                "0/tcp",
                "65536/tcp",
                "/tcp",
                "80/",
                "\"x;y\"",
                "6007:6000/tcp",
            ],
        ),
        ("text", &["1", "true", "[ x ]"]),
    ];
    let mut out = Vec::new();
    for field in fields() {
        for (_, values) in wrong.iter().filter(|(mark, _)| *mark == field.mark) {
            out.extend(
                values.iter().map(|value| case(&format!("{} '{value}'", field.mark), &field, with(&field, value))),
            );
        }
    }
    let good = |class: &str| class.contains("'0'") && class.contains("count_max");
    out.retain(|case| !good(&case.class));
    out
}

/// Each key twice, misspelt, and beside a merge key.
pub fn keys() -> Vec<Case> {
    let full = full();
    let lines: Vec<&str> = full.lines().collect();
    let mut out = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some((key, _)) = line.split_once(':').filter(|(key, _)| !key.contains('#')) else { continue };
        let name = key.trim_start_matches([' ', '-']);
        let indent = " ".repeat(key.len() - name.len());
        let build = |added: &str, replaced: Option<&str>| {
            let text: String = lines
                .iter()
                .enumerate()
                .map(|(at, line)| match replaced {
                    Some(new) if at == index => format!("{new}\n"),
                    None if at == index => format!("{line}\n"),
                    _ => format!("{line}\n"),
                })
                .collect();
            // What is added goes in front, at the head of the block, so that it is in the same mapping.
            if added.is_empty() { text } else { insert(&text, index, added) }
        };
        let misspelt = line.replacen(name, &format!("{name}x"), 1);
        let case = |class: &str, text: String, line: usize| Case {
            class: format!("{class} {name}"),
            text,
            line,
            says: String::new(),
        };
        out.push(case("misspelt", build("", Some(&misspelt)), index + 1));
        out.push(case("in capitals", build("", Some(&line.replacen(name, &name.to_uppercase(), 1))), index + 1));
        if !line.contains("- ") {
            out.push(case("merge key before", build(&format!("{indent}<<: {{}}"), None), index + 1));
            out.push(case("twice", build(&format!("{indent}{name}: x"), None), 0));
            out.push(case("unknown key before", build(&format!("{indent}zzzzzz: x"), None), index + 1));
            out.push(case("tab before", build("", Some(&format!("\t{}", line.trim_start()))), index + 1));
            out.push(case("tagged", build("", Some(&line.replacen(": ", ": !x ", 1).replacen(":\n", ": !x", 1))), 0));
        }
    }
    out.retain(|case| !case.class.starts_with("tagged") || case.text.contains("!x"));
    out
}

fn insert(text: &str, index: usize, added: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.insert(index, added);
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Texts that would take a careless reader's time or memory.
pub fn bombs() -> Vec<Case> {
    let mut laughs = String::from("version: 1\na: &a [ x, x, x, x, x, x, x, x, x ]\n");
    for (name, before) in ('b'..='i').zip('a'..='h') {
        laughs.push_str(&format!("{name}: &{name} [ {} ]\n", vec![format!("*{before}"); 9].join(", ")));
    }
    let wide = |item: &str, count: usize| {
        format!("version: 1\nfirewall: {{ incoming: deny, allow: [ {} ] }}\n", vec![item; count].join(", "))
    };
    let rows = [
        ("alias bomb", laughs, "anchor"),
        ("depth 65", format!("version: 1\nroot: {}{}\n", "[".repeat(65), "]".repeat(65)), "nested deeper"),
        ("depth 100000", format!("version: 1\nroot: {}\n", "[".repeat(100_000)), "nested deeper"),
        ("open mappings", format!("version: 1\nroot: {}\n", "{a: ".repeat(100_000)), "nested deeper"),
        (
            "block depth",
            (0..200).fold("version: 1\n".to_owned(), |t, n| format!("{t}{}a:\n", " ".repeat(n))),
            "nested deeper",
        ),
        ("too many nodes", wide("x", 100_001), "more than"),
        ("over 1 MiB", format!("version: 1\n# {}\n", "x".repeat(1024 * 1024)), "larger than"),
        ("one long line", format!("version: 1\nx: {}\n", "y".repeat(1_000_000)), "unknown key"),
        (
            "many unknown keys",
            (0..49_000).fold("version: 1\n".to_owned(), |t, n| format!("{t}k{n}: x\n")),
            "unknown key",
        ),
        ("many questions", format!("version: 1\n{}\n", "? ".repeat(300_000)), ""),
        ("many dashes", format!("version: 1\na: {}\n", "- ".repeat(300_000)), ""),
        ("many quotes", format!("version: 1\na: {}\n", "\"".repeat(500_001)), ""),
        ("many anchors", (0..30_000).fold("version: 1\n".to_owned(), |t, n| format!("{t}k{n}: &a{n} x\n")), "anchor"),
        ("many lost aliases", (0..50_000).fold("version: 1\n".to_owned(), |t, n| format!("{t}k{n}: *a{n}\n")), "alias"),
        ("many tabs", format!("version: 1\n{}x: 1\n", "\t".repeat(1_000_000)), "tab"),
        (
            "many variables",
            format!(
                "version: 1\nvars: {{ a: {} }}\nusers: [ {{ name: x, comment: \"{}\" }} ]\n",
                "y".repeat(1000),
                "{{ a }}".repeat(100_000)
            ),
            "",
        ),
        (
            "many open braces",
            format!("version: 1\nusers: [ {{ name: x, comment: \"{}\" }} ]\n", "{{".repeat(400_000)),
            "'{{' without",
        ),
        ("many comments", format!("version: 2\n{}\n", "#\n".repeat(500_000)), "2 is not 1"),
        ("spaces", format!("version: 2{}", " ".repeat(1_000_000)), "2 is not 1"),
        (
            "folded text",
            format!("version: 1\nusers:\n  - name: x\n    comment: >\n{}", "      a\n".repeat(100_000)),
            "line break",
        ),
    ];
    rows.into_iter().map(|(class, text, says)| Case { class: class.into(), text, line: 0, says: says.into() }).collect()
}
