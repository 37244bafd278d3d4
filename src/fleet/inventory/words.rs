//! A line cut into words as Ansible cuts it: by Python's shlex, with quotes, backslashes and comments (Python docs:
//! "shlex", POSIX mode). Must not know what the words mean.

/// A word with its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// From 1, in characters.
    pub column: usize,
    /// Without its quotes.
    pub text: String,
}

/// A line in words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    pub words: Vec<Word>,
    /// The column of a `#` that ends a word and begins a comment there, which few expect.
    pub cut: Option<usize>,
}

/// Cuts `line`. A `#` outside quotes begins a comment, also inside a word.
///
/// # Errors
/// The column of a quote that is not closed, or of a backslash with nothing behind it.
pub(super) fn split(line: &str) -> Result<Words, usize> {
    let mut found = Words::default();
    let mut word: Option<Word> = None;
    let mut chars = line.chars().enumerate();
    while let Some((index, c)) = chars.next() {
        let column = index + 1;
        if c.is_whitespace() {
            found.words.extend(word.take());
            continue;
        }
        if c == '#' {
            found.cut = word.as_ref().map(|_| column);
            break;
        }
        let text = &mut word.get_or_insert_with(|| Word { column, text: String::new() }).text;
        match c {
            '\\' => text.push(chars.next().ok_or(column)?.1),
            '\'' | '"' => loop {
                let (_, inner) = chars.next().ok_or(column)?;
                if inner == c {
                    break;
                }
                if inner == '\\' && c == '"' {
                    let (_, escaped) = chars.next().ok_or(column)?;
                    if !matches!(escaped, '"' | '\\') {
                        text.push('\\');
                    }
                    text.push(escaped);
                } else {
                    text.push(inner);
                }
            },
            _ => text.push(c),
        }
    }
    found.words.extend(word);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_as_python_cuts_them() {
        for (line, want) in [
            ("a b=1  c='x y'", &["a", "b=1", "c=x y"][..]),
            ("a b=\"x 'y' \\\" \\\\ \\n\"", &["a", "b=x 'y' \" \\ \\n"]),
            ("a b='x \\ y' c=d\\ e", &["a", "b=x \\ y", "c=d e"]),
            ("a b='' # c 'd", &["a", "b="]),
            ("a b='# no'x", &["a", "b=# nox"]),
            ("a ''", &["a", ""]),
            ("# only", &[]),
        ] {
            let found = split(line).unwrap();
            let texts: Vec<&str> = found.words.iter().map(|word| word.text.as_str()).collect();
            assert_eq!((texts.as_slice(), found.cut), (want, None), "{line}");
        }
        let cut = split("a  b=c#d e").unwrap();
        assert_eq!((cut.words.len(), cut.words[1].column, cut.words[1].text.as_str()), (2, 4, "b=c"));
        assert_eq!(cut.cut, Some(7));
        for (line, column) in [("a b='x", 5), ("a \"x\\\"", 3), ("a b\\", 4)] {
            assert_eq!(split(line), Err(column), "{line}");
        }
    }
}
