//! Erlang B: how many calls at once a given traffic needs, so that at most a given share of the
//! attempts finds no place.
//!
//! It assumes that attempts come at random, that a blocked one is gone, and that the length of
//! calls does not matter beyond its mean.

/// The share of attempts that `lines` places turn away under a traffic of `erlangs`.
#[cfg(test)]
pub fn blocking(erlangs: f64, lines: u64) -> f64 {
    (1..=lines).fold(1.0, |inverse, line| next(inverse, erlangs, line)).recip()
}

/// The fewest places that turn away at most `blocking_max` of the attempts. Both are above zero.
pub fn lines(erlangs: f64, blocking_max: f64) -> u64 {
    let enough = blocking_max.recip();
    let (mut inverse, mut line) = (1.0, 0);
    while inverse < enough {
        line += 1;
        inverse = next(inverse, erlangs, line);
    }
    line
}

/// The inverse of the blocking with one more line. The textbook's powers and factorials overflow
/// beyond 150 lines; this recursion does not, and rounding errors shrink in it.
fn next(inverse: f64, erlangs: f64, line: u64) -> f64 {
    1.0 + inverse * line as f64 / erlangs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of the published Erlang B table (ITU, Teletraffic Engineering Handbook): lines, and the
    /// traffic that they carry at a blocking.
    #[test]
    fn lines_are_those_of_the_published_tables() {
        for (blocking_max, lines_of, erlangs) in [
            (0.001, 1, 0.001),
            (0.001, 10, 3.09),
            (0.001, 50, 32.5),
            (0.001, 100, 75.2),
            (0.01, 1, 0.0101),
            (0.01, 5, 1.36),
            (0.01, 10, 4.46),
            (0.01, 20, 12.0),
            (0.01, 50, 37.9),
            (0.01, 100, 84.1),
            (0.02, 10, 5.08),
            (0.02, 30, 21.9),
            (0.02, 100, 88.0),
            (0.05, 10, 6.22),
            (0.05, 20, 15.2),
        ] {
            // The tables are rounded to three digits: a little less fits, a little more does not.
            assert_eq!(lines(erlangs * 0.995, blocking_max), lines_of, "{erlangs} E");
            let more = lines(erlangs * 1.01, blocking_max);
            assert!(more == lines_of + 1, "{erlangs} E: {more} lines");
        }
        assert_eq!(lines(100.0, 0.01), 117);
    }

    #[test]
    fn the_fewest_lines_that_are_enough_are_found() {
        for erlangs in [0.2, 7.5, 100.0, 5_000.0, 200_000.0] {
            for blocking_max in [0.5, 0.01, 0.000_1] {
                let lines = lines(erlangs, blocking_max);
                assert!(blocking(erlangs, lines) <= blocking_max, "{erlangs} {blocking_max}");
                assert!(blocking(erlangs, lines - 1) > blocking_max, "{erlangs} {blocking_max}");
            }
        }
        assert_eq!(lines(1.0, 1.0), 0, "without a place all attempts are blocked");
    }
}
