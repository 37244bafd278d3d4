//! What an unquoted word means: YAML 1.2 core types, and the words that other readers of YAML take for something else.
//! Those are refused, because two readers of one playbook must not see two playbooks.

use super::node::Scalar;

/// The type of a scalar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reading {
    Null,
    Bool(bool),
    Int(i64),
    Text,
    /// A word that readers disagree about.
    Odd(Odd),
}

/// Why a word is refused, and what it may have been meant to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Odd {
    pub why: &'static str,
    pub as_bool: Option<bool>,
    pub as_int: Option<i64>,
}

/// Reads `scalar`.
pub(crate) fn read(scalar: &Scalar) -> Reading {
    let text = scalar.text.as_str();
    if !scalar.plain {
        return Reading::Text;
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Reading::Null,
        "true" => return Reading::Bool(true),
        "false" => return Reading::Bool(false),
        _ => {}
    }
    if is_decimal(text) {
        if let Ok(number) = text.parse() {
            return Reading::Int(number);
        }
        return odd("a number beyond 64 bits", None, None);
    }
    odd_bool(text).or_else(|| odd_number(text)).unwrap_or(Reading::Text)
}

/// `0`, `-1`, `2222`: one way to write each number.
fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let clean = !digits.starts_with('0') || digits == "0";
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && clean && text != "-0"
}

fn odd(why: &'static str, as_bool: Option<bool>, as_int: Option<i64>) -> Reading {
    Reading::Odd(Odd { why, as_bool, as_int })
}

fn odd_bool(text: &str) -> Option<Reading> {
    let lower = text.to_ascii_lowercase();
    let value = match lower.as_str() {
        "yes" | "on" | "y" | "true" => true,
        "no" | "off" | "n" | "false" => false,
        _ => return None,
    };
    Some(odd("text to some YAML readers and true or false to others", Some(value), None))
}

fn odd_number(text: &str) -> Option<Reading> {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let first = body.chars().next()?;
    if matches!(body.to_ascii_lowercase().as_str(), ".inf" | ".nan") {
        return Some(odd("a floating point number", None, None));
    }
    if text == "=" || text == "<<" {
        return Some(odd("a special value to some YAML readers", None, None));
    }
    if !first.is_ascii_digit() && first != '.' {
        return None;
    }
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    if let Some(hex) = body.strip_prefix("0x") {
        let number = i64::from_str_radix(hex, 16).ok();
        return number.map(|number| odd("a hexadecimal number", None, Some(number)));
    }
    if let Some(octal) = body.strip_prefix("0o") {
        return i64::from_str_radix(octal, 8).ok().map(|number| odd("an octal number", None, Some(number)));
    }
    if digits(body) {
        let number = body.replace('_', "").parse().ok();
        return Some(if body.starts_with('0') && body.len() > 1 {
            odd("an octal number to some YAML readers and a decimal one to others", None, number)
        } else {
            odd("a number to some YAML readers and text to others", None, number)
        });
    }
    if body.contains(':') && body.split(':').all(digits) {
        return Some(odd("a number to base 60 for some YAML readers", None, None));
    }
    if is_date(body) {
        return Some(odd("a date to some YAML readers and text to others", None, None));
    }
    let float = body.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-' | b'_'));
    let value: f64 = body.replace('_', "").parse().ok().filter(|_| float)?;
    // A playbook has no fractions; a whole value can be offered as the fix.
    let whole = value.fract() == 0.0 && value.abs() < 1e15;
    let number = if whole { format!("{value:.0}").parse().ok() } else { None };
    Some(odd("a floating point number", None, number))
}

fn is_date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let numeric = |part: Option<&str>, most: usize| {
        part.is_some_and(|p| (1..=most).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
    };
    let year = text.split('-').next().is_some_and(|y| y.len() == 4);
    year && numeric(parts.next(), 4)
        && numeric(parts.next(), 2)
        && parts.next().is_some_and(|day| {
            let digits = day.bytes().take_while(u8::is_ascii_digit).count();
            let rest = day.get(digits..).unwrap_or_default();
            (1..=2).contains(&digits) && (rest.is_empty() || rest.starts_with(['T', 't', ' ']))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Reading {
        read(&Scalar { text: text.into(), plain: true })
    }

    #[test]
    fn words_that_readers_disagree_about_are_odd() {
        for word in [
            "no",
            "No",
            "YES",
            "on",
            "off",
            "y",
            "N",
            "True",
            "FALSE",
            "0600",
            "022",
            "0x16",
            "0o600",
            "+22",
            "1_000",
            "1e3",
            "1.5",
            ".5",
            ".inf",
            "-.INF",
            ".nan",
            "22:22",
            "12:30:45",
            "2026-01-01",
            "2026-1-2T03:04:05Z",
            "=",
            "-0",
            "99999999999999999999",
        ] {
            assert!(matches!(plain(word), Reading::Odd(_)), "{word}: {:?}", plain(word));
        }
        for word in ["80/tcp", "2001:db8::1", "10.0.0.0/8", "deploy", "prohibit-password", "1.2.3.4", "a:b", "2m", "-"]
        {
            assert_eq!(plain(word), Reading::Text, "{word}");
        }
        assert_eq!(plain("2222"), Reading::Int(2222));
        assert_eq!(plain("-1"), Reading::Int(-1));
        assert_eq!(plain("~"), Reading::Null);
        assert_eq!(plain(""), Reading::Null);
        assert_eq!(plain("true"), Reading::Bool(true));
        assert_eq!(read(&Scalar { text: "no".into(), plain: false }), Reading::Text);
    }
}
