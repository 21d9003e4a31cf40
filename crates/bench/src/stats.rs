//! Percentiles and medians of what was measured, and the clock it was measured with.

use std::time::Duration;

/// Nanoseconds of the monotonic clock, which all threads and processes of a machine share.
#[must_use]
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).expect("the monotonic clock starts at 0");
    let nanos = u64::try_from(now.tv_nsec).expect("nanoseconds are 0 to 999999999");
    seconds * 1_000_000_000 + nanos
}

/// Latencies in nanoseconds, all of them kept: no bucket rounds a tail away.
#[derive(Debug, Default, Clone)]
pub struct Samples {
    nanos: Vec<u64>,
    sorted: bool,
}

impl Samples {
    pub fn add(&mut self, nanos: u64) {
        self.nanos.push(nanos);
        self.sorted = false;
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.nanos.len()
    }

    /// The smallest sample that at least `per_mille` thousandths of all samples do not exceed, in
    /// milliseconds (nearest rank); NaN when there is none.
    pub fn per_mille_ms(&mut self, per_mille: usize) -> f64 {
        if self.nanos.is_empty() {
            return f64::NAN;
        }
        if !self.sorted {
            self.nanos.sort_unstable();
            self.sorted = true;
        }
        let rank = (self.nanos.len() * per_mille).div_ceil(1000).max(1);
        millis(Duration::from_nanos(self.nanos[rank - 1]))
    }
}

/// The median of the rounds; the mean of the middle two when they are even in number.
#[must_use]
pub fn median(rounds: &[f64]) -> f64 {
    quantile(rounds, 0.5)
}

/// The value below which `share` (0 to 1) of the rounds lie, between the two nearest of them in
/// proportion; not a number without any.
#[must_use]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
pub fn quantile(rounds: &[f64], share: f64) -> f64 {
    if rounds.is_empty() {
        return f64::NAN;
    }
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor(), place.ceil());
    let (low, high) = (sorted[below as usize], sorted[above as usize]);
    low + (high - low) * (place - below)
}

#[must_use]
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A count as a number to divide by. Exact up to 2^53, far beyond anything counted here.
#[must_use]
#[allow(clippy::cast_precision_loss)]
pub fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut samples = Samples::default();
        for ms in (1..=1000_u64).rev() {
            samples.add(ms * 1_000_000);
        }
        let got = [500, 990, 999, 1000].map(|per_mille| samples.per_mille_ms(per_mille));
        assert_eq!(got, [500.0, 990.0, 999.0, 1000.0]);
        assert!(Samples::default().per_mille_ms(500).is_nan());
    }

    #[test]
    fn a_single_sample_is_every_percentile() {
        let mut samples = Samples::default();
        samples.add(7_000_000);
        assert_eq!([1, 500, 999].map(|p| samples.per_mille_ms(p)), [7.0; 3]);
    }

    #[test]
    fn medians_of_odd_and_even_rounds() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn quantiles_lie_between_the_nearest_rounds() {
        let rounds = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!(
            [0.0, 0.25, 0.375, 1.0].map(|share| quantile(&rounds, share)),
            [1.0, 2.0, 2.5, 5.0]
        );
    }
}
