//! A day of the calendar.

use super::{Invalid, Word, word_serde};

/// A day, `YYYY-MM-DD` (RFC 3339, full-date).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(jiff::civil::Date);

impl Day {
    /// Today in UTC.
    pub fn today() -> Self {
        Self(jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date())
    }
}

impl Word for Day {
    const FORMAT: &'static str = "day";
    const PATTERN: &'static str = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$";
    const ABOUT: &'static str = "a day, such as 2027-03-31";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let has_shape = text.len() == 10 && text.bytes().all(|c| c.is_ascii_digit() || c == b'-');
        let day = has_shape.then(|| text.parse().ok()).flatten();
        day.map(Self)
            .ok_or_else(|| Invalid::new(format!("not a day: {text}"), "write it as YYYY-MM-DD, such as 2027-03-31"))
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

word_serde!(Day);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_the_calendar_only() {
        assert_eq!(Day::parse("2027-02-28").unwrap().text(), "2027-02-28");
        assert!(Day::parse("2027-01-31").unwrap() < Day::parse("2027-02-01").unwrap());
        for bad in ["2027-02-29", "2027-2-1", "27-02-01", "2027-02-01T00", "tomorrow", "", "2027-02-01 ", "+027-02-01"]
        {
            assert!(Day::parse(bad).is_err(), "{bad}");
        }
    }
}
