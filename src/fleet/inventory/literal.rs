//! Values of an INI inventory: a Python literal where the text is one, and the text itself otherwise, as Ansible types
//! them (Ansible docs: "ini inventory"). Numbers, texts, True, False, None, lists, tuples and dictionaries are read; sets,
//! complex numbers, byte strings and prefixes are not and stay text.

use serde_json::{Map, Number, Value};

/// Deepest nesting; what is deeper stays text.
const MAX_DEPTH: usize = 32;

/// The value of `text`.
pub(super) fn read(text: &str) -> Value {
    Literal { rest: text.trim_start_matches([' ', '\t']) }.whole().unwrap_or_else(|| Value::String(text.to_owned()))
}

struct Literal<'t> {
    rest: &'t str,
}

impl Literal<'_> {
    /// A value, or several with commas between, which Python reads as a tuple; then the end or a comment.
    fn whole(mut self) -> Option<Value> {
        let first = self.value(0)?;
        let value = if self.eat(',') { Value::Array(self.items(vec![first], None, 0)?) } else { first };
        self.space();
        (self.rest.is_empty() || self.rest.starts_with('#')).then_some(value)
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn eat(&mut self, c: char) -> bool {
        self.space();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.space();
        if depth > MAX_DEPTH {
            return None;
        }
        match self.rest.chars().next()? {
            '\'' | '"' => self.text().map(Value::String),
            '[' => {
                self.eat('[');
                self.items(Vec::new(), Some(']'), depth).map(Value::Array)
            }
            '(' => self.tuple(depth),
            '{' => self.dictionary(depth),
            _ => self.word(),
        }
    }

    /// The items up to `close`, or up to the end of the text.
    fn items(&mut self, mut items: Vec<Value>, close: Option<char>, depth: usize) -> Option<Vec<Value>> {
        loop {
            if close.is_some_and(|close| self.eat(close)) {
                return Some(items);
            }
            self.space();
            if close.is_none() && (self.rest.is_empty() || self.rest.starts_with('#')) {
                return Some(items);
            }
            items.push(self.value(depth + 1)?);
            if !self.eat(',') {
                return match close {
                    Some(close) => self.eat(close).then_some(items),
                    None => Some(items),
                };
            }
        }
    }

    /// `(1, 2)` is a list here, `(1)` is 1.
    fn tuple(&mut self, depth: usize) -> Option<Value> {
        self.eat('(');
        if self.eat(')') {
            return Some(Value::Array(Vec::new()));
        }
        let first = self.value(depth + 1)?;
        if self.eat(',') {
            return self.items(vec![first], Some(')'), depth).map(Value::Array);
        }
        self.eat(')').then_some(first)
    }

    fn dictionary(&mut self, depth: usize) -> Option<Value> {
        self.eat('{');
        let mut map = Map::new();
        loop {
            if self.eat('}') {
                return Some(Value::Object(map));
            }
            let key = match self.value(depth + 1)? {
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                _ => return None,
            };
            if !self.eat(':') {
                return None;
            }
            map.insert(key, self.value(depth + 1)?);
            if !self.eat(',') {
                return self.eat('}').then_some(Value::Object(map));
            }
        }
    }

    fn text(&mut self) -> Option<String> {
        let mut chars = self.rest.chars();
        let quote = chars.next()?;
        if chars.as_str().starts_with(&format!("{quote}{quote}")) {
            return None;
        }
        let mut text = String::new();
        loop {
            match chars.next()? {
                c if c == quote => break,
                '\\' => match chars.next()? {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    c @ ('\\' | '\'' | '"') => text.push(c),
                    'x' => text.push(code(&mut chars, 2)?),
                    'u' => text.push(code(&mut chars, 4)?),
                    'a' | 'b' | 'f' | 'v' | 'N' | 'U' | '0'..='7' => return None,
                    c => text.extend(['\\', c]),
                },
                c => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Some(text)
    }

    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-')));
        let (word, rest) = self.rest.split_at_checked(end.unwrap_or(self.rest.len()))?;
        self.rest = rest;
        match word {
            "True" => Some(Value::Bool(true)),
            "False" => Some(Value::Bool(false)),
            "None" => Some(Value::Null),
            _ => number(word),
        }
    }
}

fn code(chars: &mut std::str::Chars<'_>, digits: usize) -> Option<char> {
    let hex = chars.as_str().get(..digits)?;
    let number = hex.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(hex, 16).ok())??;
    *chars = chars.as_str().get(digits..)?.chars();
    char::from_u32(number)
}

/// A number as Python writes it; `None` also where JSON cannot hold it exactly (beyond 64 bits, infinite).
fn number(word: &str) -> Option<Value> {
    let (minus, body) = match word.strip_prefix('-') {
        Some(body) => (true, body),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let single = |s: &str| !s.is_empty() && !s.starts_with('_') && !s.ends_with('_') && !s.contains("__");
    if !single(body) {
        return None;
    }
    let lower = body.to_ascii_lowercase();
    let based = [("0x", 16), ("0o", 8), ("0b", 2)]
        .iter()
        .find_map(|(prefix, base)| Some((lower.strip_prefix(prefix)?.trim_start_matches('_').to_owned(), *base)));
    let (digits, base) = based.unwrap_or_else(|| (lower.clone(), 10));
    let digits = digits.replace('_', "");
    if !digits.is_empty() && digits.chars().all(|c| c.is_digit(base)) {
        // Python refuses 012, but not 0 or 00.
        if base == 10 && digits.starts_with('0') && digits.bytes().any(|b| b != b'0') {
            return None;
        }
        let number = i64::from_str_radix(&format!("{}{digits}", if minus { "-" } else { "" }), base).ok()?;
        return Some(Value::Number(number.into()));
    }
    let shape = body.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && body.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-' | b'_'))
        && body.bytes().any(|b| b.is_ascii_digit());
    let value: f64 = shape.then(|| body.replace('_', "").parse().ok())??;
    Number::from_f64(if minus { -value } else { value }).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn literals_are_typed_and_all_else_is_text() {
        for (text, want) in [
            ("1", json!(1)),
            ("-22", json!(-22)),
            ("1_000", json!(1000)),
            ("0x1F", json!(31)),
            ("00", json!(0)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            ("True", json!(true)),
            ("None", json!(null)),
            ("'x y'", json!("x y")),
            ("\"a\\tb\\x41\\u00e9\\q\"", json!("a\tbA\u{e9}\\q")),
            ("[1, 'a', [True,],]", json!([1, "a", [true]])),
            ("(1)", json!(1)),
            ("(1,)", json!([1])),
            ("1, 2", json!([1, 2])),
            ("{'a': {1: None}, }", json!({"a": {"1": null}})),
            ("7 # seven", json!(7)),
        ] {
            assert_eq!(read(text), want, "{text}");
        }
        for text in [
            "",
            "true",
            "yes",
            "012",
            "1.2.3.4",
            "1-2",
            "1+2",
            "192.0.2.1",
            "99999999999999999999",
            "1e999",
            "abc",
            "a,b",
            "'x",
            "'x' y",
            "[1, 2",
            "{'a'}",
            "{'a': }",
            "1__0",
            "_1",
            "0x",
            "b'x'",
            "'''x'''",
            "#fff",
            "x # y",
            "~",
            "-",
            "+",
            ".",
            "e3",
            "2001:db8::1",
            "'\\xzz'",
            "'\\x+1'",
        ] {
            assert_eq!(read(text), json!(text), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(read(&deep), json!(deep));
    }
}
