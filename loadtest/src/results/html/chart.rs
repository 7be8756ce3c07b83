//! A chart as SVG: lines over a linear axis, with latencies on a logarithmic one. The template has
//! the elements; here is where they are.

use std::fmt;

use askama::Template;

use crate::duration::show;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 280.0;
const FRAME: Frame =
    Frame { left: Px(56.0), right: Px(WIDTH - 60.0), top: Px(18.0), bottom: Px(HEIGHT - 26.0) };

/// The least latency that is measured, nanoseconds.
const LATENCY_MIN: f64 = 1_000.0;

/// Classes of the style. The colours differ for people with a red-green deficiency too.
const COLOURS: [&str; 4] = ["c0", "c1", "c2", "c3"];

/// Least distance between the names of two lines.
const NAME_HEIGHT: f64 = 12.0;

/// One line.
pub struct Series {
    /// Name, shown at the end of the line.
    pub name: &'static str,
    /// x ascending; y in nanoseconds.
    pub points: Vec<(f64, f64)>,
}

/// What a chart shows.
pub struct Chart {
    /// Title for screen readers.
    pub title: &'static str,
    /// At most four.
    pub series: Vec<Series>,
    /// Places on the x axis with their labels. Those beyond the points are left out.
    pub ticks: Vec<(f64, String)>,
    /// Events on the x axis, each with a line and its name.
    pub marks: Vec<(f64, &'static str)>,
}

/// A length in the picture, with one decimal.
#[derive(Clone, Copy)]
struct Px(f64);

impl fmt::Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}", self.0)
    }
}

/// The edges of the area that lines are drawn in.
struct Frame {
    left: Px,
    right: Px,
    top: Px,
    bottom: Px,
}

/// A line of the grid or a mark, and its text.
struct Label {
    at: Px,
    text_x: Px,
    text_y: Px,
    text: String,
}

struct Line {
    colour: &'static str,
    /// `x,y x,y …`.
    points: String,
    name: &'static str,
    name_x: Px,
    name_y: Px,
}

#[derive(Template)]
#[template(path = "chart.svg")]
struct Picture {
    width: f64,
    height: f64,
    title: &'static str,
    frame: Frame,
    left: Vec<Label>,
    below: Vec<Label>,
    above: Vec<Label>,
    lines: Vec<Line>,
}

impl fmt::Display for Chart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.picture() {
            Some(picture) => f.write_str(&picture.render().map_err(|_| fmt::Error)?),
            None => f.write_str("<p>Nothing was measured.</p>"),
        }
    }
}

/// Where values are in the picture.
struct Axes {
    x_max: f64,
    /// Powers of ten at the lower and upper edge.
    low: f64,
    high: f64,
}

impl Axes {
    fn x(&self, x: f64) -> f64 {
        FRAME.left.0 + x / self.x_max * (FRAME.right.0 - FRAME.left.0)
    }

    fn y(&self, nanos: f64) -> f64 {
        let share = (self.high - decade(nanos)) / (self.high - self.low);
        FRAME.top.0 + share * (FRAME.bottom.0 - FRAME.top.0)
    }
}

fn decade(nanos: f64) -> f64 {
    nanos.max(LATENCY_MIN).log10()
}

impl Chart {
    /// None if there are no points.
    fn picture(&self) -> Option<Picture> {
        let axes = self.axes()?;
        let left = (axes.low as i32..=axes.high as i32).map(|power| {
            let value = 10f64.powi(power);
            let y = axes.y(value);
            Label {
                at: Px(y),
                text_x: Px(FRAME.left.0 - 6.0),
                text_y: Px(y + 4.0),
                text: show(value as u64),
            }
        });
        let label = |x: f64, text_y: f64, text: &str| {
            let at = Px(axes.x(x));
            Label { at, text_x: at, text_y: Px(text_y), text: text.to_owned() }
        };
        let ticks = self.ticks.iter().filter(|(x, _)| *x <= axes.x_max);
        Some(Picture {
            width: WIDTH,
            height: HEIGHT,
            title: self.title,
            frame: FRAME,
            left: left.collect(),
            below: ticks.map(|(x, text)| label(*x, FRAME.bottom.0 + 18.0, text)).collect(),
            above: self.marks.iter().map(|(x, text)| label(*x, FRAME.top.0 - 6.0, text)).collect(),
            lines: self.lines(&axes),
        })
    }

    fn axes(&self) -> Option<Axes> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        points().next()?;
        let marks = self.marks.iter().map(|(x, _)| *x);
        let low = points().map(|(_, y)| decade(*y).floor()).fold(f64::MAX, f64::min);
        Some(Axes {
            x_max: points().map(|(x, _)| *x).chain(marks).fold(f64::MIN_POSITIVE, f64::max),
            low,
            high: points().map(|(_, y)| decade(*y).ceil()).fold(low + 1.0, f64::max),
        })
    }

    fn lines(&self, axes: &Axes) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let Some((last_x, last_y)) = series.points.last().copied() else { continue };
            // The last point twice: a line of a single point would be invisible.
            let points = series.points.iter().copied().chain([(last_x, last_y)]);
            let points = points.map(|(x, y)| format!("{},{}", Px(axes.x(x)), Px(axes.y(y))));
            // Names of lines that end close together are placed one below the other.
            let mut name_y = axes.y(last_y) + 4.0;
            while lines.iter().any(|line| (line.name_y.0 - name_y).abs() < NAME_HEIGHT) {
                name_y += 1.0;
            }
            lines.push(Line {
                colour,
                points: points.collect::<Vec<_>>().join(" "),
                name: series.name,
                name_x: Px(axes.x(last_x) + 6.0),
                name_y: Px(name_y),
            });
        }
        lines
    }
}
