//! The date for templates that print it, without a calendar crate.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A moment in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    days: u64,
    seconds: u64,
}

impl Moment {
    pub(super) fn now() -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Self { days: seconds / 86_400, seconds: seconds % 86_400 }
    }

    /// Year, month 1..=12, day 1..=31 of the proleptic Gregorian calendar.
    fn date(self) -> (u64, usize, u64) {
        let (mut year, mut left) = (1970, self.days);
        loop {
            let length = if leap(year) { 366 } else { 365 };
            if left < length {
                break;
            }
            left -= length;
            year += 1;
        }
        let mut month = 0;
        loop {
            let length = match month {
                1 => 28 + u64::from(leap(year)),
                3 | 5 | 8 | 10 => 30,
                _ => 31,
            };
            if left < length {
                return (year, month + 1, left + 1);
            }
            left -= length;
            month += 1;
        }
    }

    /// The directives that templates use; others stay as they are.
    pub(super) fn strftime(self, format: &str) -> String {
        let (year, month, day) = self.date();
        // 1970-01-01 was a Thursday.
        let weekday = WEEKDAYS[((self.days + 3) % 7) as usize];
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let _ = match chars.next() {
                Some('Y') => write!(out, "{year:04}"),
                Some('y') => write!(out, "{:02}", year % 100),
                Some('m') => write!(out, "{month:02}"),
                Some('d') => write!(out, "{day:02}"),
                Some('B') => write!(out, "{}", MONTHS[month - 1]),
                Some('b') => write!(out, "{}", &MONTHS[month - 1][..3]),
                Some('A') => write!(out, "{weekday}"),
                Some('a') => write!(out, "{}", &weekday[..3]),
                Some('H') => write!(out, "{:02}", self.seconds / 3600),
                Some('M') => write!(out, "{:02}", self.seconds / 60 % 60),
                Some('S') => write!(out, "{:02}", self.seconds % 60),
                Some('%') | None => write!(out, "%"),
                Some(other) => write!(out, "%{other}"),
            };
        }
        out
    }
}

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days_have_their_names() {
        let at = |days| Moment { days, seconds: 3_661 };
        assert_eq!(at(0).strftime("%a %d %b %Y %H:%M:%S"), "Thu 01 Jan 1970 01:01:01");
        assert_eq!(at(19_782).strftime("%A %d %B %y"), "Thursday 29 February 24");
        assert_eq!(at(20_783).strftime("%Y-%m-%d %% %q"), "2026-11-26 % %q");
    }
}
