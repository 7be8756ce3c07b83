//! The node's CPU as a function of its calls, from the runs.

/// CPU by calls: a straight line, and its spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// CPU without calls, percent of a core.
    pub idle: f64,
    /// CPU of one call.
    pub per_call: f64,
    /// CPU of one call, idle included, by the run that says the least and the one that says the
    /// most. None for a single run: it has no spread.
    pub per_call_range: Option<[f64; 2]>,
}

impl Fit {
    /// Fits runs: calls, and CPU in percent of a core. Runs with different numbers of calls give a
    /// line. Others give the mean cost of a call, as if there were no cost without calls.
    pub fn new(points: &[(u64, f64)]) -> Result<Self, String> {
        if points.iter().any(|(calls, cpu)| *calls == 0 || *cpu <= 0.0) {
            return Err("plan: a run has no calls or used no CPU; play it longer".to_owned());
        }
        let costs: Vec<f64> = points.iter().map(|(calls, cpu)| cpu / *calls as f64).collect();
        let per_call_range = (costs.len() > 1).then(|| {
            let least = costs.iter().copied().fold(f64::MAX, f64::min);
            [least, costs.iter().copied().fold(0.0, f64::max)]
        });
        let Some((idle, per_call)) = line_through(points) else {
            let per_call = costs.iter().sum::<f64>() / costs.len().max(1) as f64;
            return Ok(Self { idle: 0.0, per_call, per_call_range });
        };
        if per_call <= 0.0 {
            return Err("plan: in these runs CPU does not grow with calls; give runs that are \
                        further apart"
                .to_owned());
        }
        Ok(Self { idle, per_call, per_call_range })
    }

    /// Calls that so much CPU carries, percent of a core.
    pub fn calls(&self, percent: f64) -> u64 {
        // A little more, so that rounding down keeps a whole number.
        ((percent - self.idle).max(0.0) / self.per_call + 1e-6) as u64
    }

    /// The least and the most calls that so much CPU carries: by the line, and by each run alone.
    pub fn calls_range(&self, percent: f64) -> Option<[u64; 2]> {
        let [least, most] = self.per_call_range?;
        let by_line = self.calls(percent);
        let by_run = |cost: f64| (percent / cost + 1e-6) as u64;
        Some([by_line.min(by_run(most)), by_line.max(by_run(least))])
    }
}

/// Least squares: the value at zero, and the slope. None if all points have the same x.
fn line_through(points: &[(u64, f64)]) -> Option<(f64, f64)> {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| *x as f64).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let spread: f64 = points.iter().map(|(x, _)| (*x as f64 - mean_x).powi(2)).sum();
    let slope =
        points.iter().map(|(x, y)| (*x as f64 - mean_x) * (y - mean_y)).sum::<f64>() / spread;
    (spread > 0.0).then_some((mean_y - slope * mean_x, slope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_needs_two_different_loads_and_a_range_two_runs() {
        let fit = Fit::new(&[(1_000, 12.0), (2_000, 22.0)]).unwrap();
        assert!((fit.idle - 2.0).abs() < 1e-9 && (fit.per_call - 0.01).abs() < 1e-9, "{fit:?}");
        assert_eq!(fit.calls(70.0), 6_800);
        // By the small run alone a call costs more, and by the large one it is between.
        assert_eq!(fit.calls_range(70.0), Some([5_833, 6_800]));
        let alone = Fit::new(&[(1_000, 12.0)]).unwrap();
        assert_eq!((alone.calls(60.0), alone.calls_range(60.0)), (5_000, None));
        let twice = Fit::new(&[(1_000, 10.0), (1_000, 12.5)]).unwrap();
        assert_eq!(twice.calls_range(100.0), Some([8_000, 10_000]));
        assert!(twice.idle == 0.0 && twice.calls(100.0) > 8_000 && twice.calls(100.0) < 10_000);
    }

    #[test]
    fn cpu_that_does_not_grow_is_no_answer() {
        assert!(Fit::new(&[(1_000, 12.0), (2_000, 11.0)]).unwrap_err().contains("does not grow"));
        assert!(Fit::new(&[(0, 12.0)]).is_err() && Fit::new(&[(5, 0.0)]).is_err());
    }
}
