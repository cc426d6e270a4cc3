//! Numbers as a person reads them.

/// Digits in groups of three: `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest decimal unit that leaves at least one digit before the point: `4.1 GB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.5 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Seconds with a unit that fits: `740 ns`, `12.3 µs`, `4.56 ms`, `7.9 s`, `2 min 05 s`.
pub(crate) fn seconds(value: f64) -> String {
    if !value.is_finite() || value < 0.0 {
        "unknown".to_owned()
    } else if value < 1e-6 {
        format!("{:.0} ns", value * 1e9)
    } else if value < 1e-3 {
        format!("{:.1} µs", value * 1e6)
    } else if value < 1.0 {
        format!("{:.2} ms", value * 1e3)
    } else if value < 99.95 {
        format!("{value:.1} s")
    } else {
        let whole = value.round() as u64;
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

/// A share in whole percent; one digit more where rounding would claim all or nothing, and never so close that it would
/// then.
pub(crate) fn percent(share: f64) -> String {
    let value = share * 100.0;
    if (value > 0.0 && value < 1.0) || (value > 99.0 && value < 100.0) {
        format!("{:.1} %", value.clamp(0.1, 99.9))
    } else {
        format!("{value:.0} %")
    }
}

/// Middle value; the mean of the two middle ones for an even count, NaN for none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n.is_multiple_of(2) => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        n => sorted[n / 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_from_the_right() {
        assert_eq!(["0", "999", "1,000", "131,072", "1,234,567"], [0, 999, 1000, 131_072, 1_234_567].map(grouped)[..]);
    }

    #[test]
    fn units_change_where_four_digits_would_begin() {
        assert_eq!(
            ["0 B", "999 B", "1.0 kB", "100 kB", "1.0 MB", "4.1 GB"],
            [0, 999, 1000, 99_999, 999_999, 4_100_000_000].map(bytes)[..]
        );
        assert_eq!(
            ["740 ns", "12.3 µs", "4.56 ms", "7.9 s", "2 min 05 s"],
            [7.4e-7, 1.23e-5, 4.56e-3, 7.9, 125.0].map(seconds)[..]
        );
        assert_eq!(seconds(f64::NAN), "unknown");
    }

    #[test]
    fn percent_never_rounds_to_all_or_nothing() {
        assert_eq!(["0 %", "0.4 %", "50 %", "99.6 %", "100 %"], [0.0, 0.004, 0.5, 0.996, 1.0].map(percent)[..]);
        assert_eq!(["0.1 %", "99.9 %"], [0.000_02, 0.999_98].map(percent)[..]);
    }

    #[test]
    fn the_median_ignores_an_outlier() {
        assert_eq!(median(&[3.0, 1.0, 1000.0]), 3.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert!(median(&[]).is_nan());
    }
}
