//! Lines over a linear axis, latencies on a logarithmic one: a few dozen lines of SVG, so that a report needs no library.

use std::fmt::Write as _;

use crate::duration::show;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 60.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 26.0;

/// Classes of the style, told apart by people who do not tell red from green, too.
const COLOURS: [&str; 4] = ["c0", "c1", "c2", "c3"];

/// One line.
pub struct Series {
    /// Stands at its end.
    pub name: &'static str,
    /// x ascending; y in nanoseconds.
    pub points: Vec<(f64, f64)>,
}

/// Lines in one frame.
pub struct Chart {
    /// What it shows, for those who cannot see it.
    pub title: &'static str,
    /// At most four.
    pub series: Vec<Series>,
    /// Places on the x axis and what they are called; those beyond the points are left out.
    pub ticks: Vec<(f64, String)>,
    /// Moments on the x axis, each with a line and what happens there.
    pub marks: Vec<(f64, &'static str)>,
}

impl Chart {
    /// As an `svg` element.
    pub fn to_svg(&self) -> String {
        let mut svg = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut svg);
        svg
    }

    fn write(&self, svg: &mut String) -> std::fmt::Result {
        let points = || self.series.iter().flat_map(|series| &series.points);
        if points().count() == 0 {
            return write!(svg, "<p>Nothing was measured.</p>");
        }
        let marks = self.marks.iter().map(|(x, _)| *x);
        let x_max = points().map(|(x, _)| *x).chain(marks).fold(f64::MIN_POSITIVE, f64::max);
        // A microsecond is the least that is measured.
        let decade = |y: f64| y.max(1_000.0).log10();
        let low = points().map(|(_, y)| decade(*y).floor()).fold(f64::MAX, f64::min);
        let high = points().map(|(_, y)| decade(*y).ceil()).fold(low + 1.0, f64::max);
        let place_x = |x: f64| LEFT + x / x_max * (WIDTH - LEFT - RIGHT);
        let place_y = |y: f64| TOP + (high - decade(y)) / (high - low) * (HEIGHT - TOP - BOTTOM);

        let title = self.title;
        writeln!(svg, "<div class=\"wide\"><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">")?;
        for power in low as i32..=high as i32 {
            let (value, y) = (10f64.powi(power), place_y(10f64.powi(power)));
            writeln!(svg, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>", WIDTH - RIGHT)?;
            let label = show(value as u64);
            writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 6.0, y + 4.0)?;
        }
        for (x, label) in self.ticks.iter().filter(|(x, _)| *x <= x_max) {
            let x = place_x(*x);
            let (bottom, below) = (HEIGHT - BOTTOM, HEIGHT - BOTTOM + 18.0);
            writeln!(svg, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>")?;
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{below}\" text-anchor=\"middle\">{label}</text>")?;
        }
        for (x, label) in &self.marks {
            let (x, bottom) = (place_x(*x), HEIGHT - BOTTOM);
            writeln!(svg, "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>")?;
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>", TOP - 6.0)?;
        }
        let mut labels: Vec<f64> = Vec::new();
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let Some((x, y)) = series.points.last() else { continue };
            write!(svg, "<polyline class=\"{colour}\" points=\"")?;
            series.points.iter().try_for_each(|(x, y)| write!(svg, "{:.1},{:.1} ", place_x(*x), place_y(*y)))?;
            // The last one again: of a single point there would be nothing to see.
            writeln!(svg, "{:.1},{:.1}\"/>", place_x(*x), place_y(*y))?;
            // Names of lines that end close together stand one below the other.
            let mut label_y = place_y(*y) + 4.0;
            while labels.iter().any(|taken: &f64| (taken - label_y).abs() < 12.0) {
                label_y += 1.0;
            }
            labels.push(label_y);
            let name_x = place_x(*x) + 6.0;
            writeln!(svg, "<text class=\"{colour}\" x=\"{name_x:.1}\" y=\"{label_y:.1}\">{}</text>", series.name)?;
        }
        write!(svg, "</svg></div>")
    }
}
