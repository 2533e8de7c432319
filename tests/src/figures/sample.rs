//! Many values as a few: the middle, the ends, and percentiles of a distribution.

/// The middle of many values and how far apart they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// A tenth is below.
    pub p10: f64,
    /// A tenth is above.
    pub p90: f64,
}

impl Spread {
    /// Of these; of none there is none.
    pub fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            median: percentile(values, 50.0)?,
            p10: percentile(values, 10.0)?,
            p90: percentile(values, 90.0)?,
        })
    }
}

/// The value that so many percent are not above (nearest rank).
pub fn percentile(values: &[f64], percent: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    of_sorted(&sorted, percent)
}

/// The same of values that are in order already.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rank of fewer values than an f64 counts exactly"
)]
pub fn of_sorted(sorted: &[f64], percent: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * percent / 100.0).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied()
}

/// Three digits that matter.
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || size == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_there() {
        let values: Vec<f64> = (1..=100).map(f64::from).rev().collect();
        assert_eq!(percentile(&values, 50.0), Some(50.0));
        assert_eq!(percentile(&values, 99.0), Some(99.0));
        assert_eq!(percentile(&values, 99.9), Some(100.0));
        assert_eq!(percentile(&[7.0], 10.0), Some(7.0));
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn the_middle_of_a_few() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]).expect("there are some");
        assert_eq!((spread.p10, spread.median, spread.p90), (1.0, 2.0, 3.0));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn digits_that_matter() {
        let texts = [1234.5, 99.44, 1.0, 0.25, 0.0].map(short);
        assert_eq!(texts, ["1234", "99.4", "1.00", "0.250", "0"]);
    }
}
