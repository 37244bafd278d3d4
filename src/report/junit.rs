//! An audit as JUnit XML, for CI systems: a test case a finding. A failure fails, what could not be told is an error, what
//! does not apply or is waived is skipped.

use crate::outcome::audit::{Audit, Finding, Ruling};

use super::escape;

/// The file.
pub fn text(audit: &Audit) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let skipped = audit.count(Ruling::NotApplicable) + audit.count(Ruling::Waived);
    out.push_str(&format!(
        "<testsuites>\n<testsuite name=\"keyward audit\" hostname=\"{}\" timestamp=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" \
         skipped=\"{skipped}\">\n",
        xml(&audit.host),
        xml(&audit.at),
        audit.findings.len(),
        audit.count(Ruling::Fail),
        audit.count(Ruling::Unknown),
    ));
    audit.findings.iter().for_each(|one| out.push_str(&case(one)));
    out.push_str("</testsuite>\n</testsuites>\n");
    out
}

fn case(one: &Finding) -> String {
    let name = if one.about.is_empty() { one.title.clone() } else { format!("{}: {}", one.title, one.about) };
    let head = format!("<testcase classname=\"{}\" name=\"{}\"", xml(&one.check), xml(&name));
    let told = [&one.saw, &one.why].into_iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>().join("; ");
    let mut body = told.clone();
    for (word, text) in [("at", &one.place), ("fix", &one.fix)] {
        if !text.is_empty() {
            body.push_str(&format!("\n{word}: {text}"));
        }
    }
    let of = |tag: &str| {
        format!(
            "{head}><{tag} type=\"{}\" message=\"{}\">{}</{tag}></testcase>\n",
            one.severity.word(),
            xml(&told),
            xml(&body)
        )
    };
    match one.ruling {
        Ruling::Pass => format!("{head}/>\n"),
        Ruling::Fail => of("failure"),
        Ruling::Unknown => of("error"),
        Ruling::NotApplicable | Ruling::Waived => {
            format!("{head}><skipped message=\"{}\"/></testcase>\n", xml(&one.why))
        }
    }
}

/// Text of an element or an attribute. What XML 1.0 cannot hold (section 2.2) is left out.
fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\u{fffe}' | '\u{ffff}' => {}
            c if escape::is_hostile(c) => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_says_stays_text() {
        assert_eq!(xml("a<b>&\"c\"\u{1b}[2J\n\u{ffff}\u{202e}"), "a&lt;b&gt;&amp;&quot;c&quot;[2J&#10;");
    }
}
