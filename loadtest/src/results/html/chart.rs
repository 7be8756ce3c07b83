//! A chart as SVG: lines or dots over a linear axis. Upwards, latencies are on a logarithmic axis,
//! and other values on a linear one. The template has the elements; here is where they are.

use std::fmt;

use askama::Template;

use crate::duration::show;
use crate::results::summary::short;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 280.0;
const FRAME: Frame =
    Frame { left: Px(56.0), right: Px(WIDTH - 60.0), top: Px(18.0), bottom: Px(HEIGHT - 26.0) };

/// The least latency that is measured, nanoseconds.
const LATENCY_MIN: f64 = 1_000.0;

/// Classes of the style. The colours differ for people with a red-green deficiency too.
const COLOURS: [&str; 4] = ["c0", "c1", "c2", "c3"];

/// Least distance between the names of two lines, upwards or sideways.
const NAME_HEIGHT: f64 = 12.0;
const NAME_WIDTH: f64 = 60.0;

/// About so many steps on a linear axis.
const STEPS: f64 = 4.0;

/// The axis upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Nanoseconds, logarithmic.
    Latency,
    /// From zero, with this unit after each number.
    Linear(&'static str),
}

/// One line.
pub struct Series {
    /// Name, shown at the end of the line.
    pub name: &'static str,
    /// x ascending; y on the scale of the chart.
    pub points: Vec<(f64, f64)>,
    /// Dots, and no line through them.
    pub is_dotted: bool,
}

/// What a chart shows.
pub struct Chart {
    /// Title for screen readers.
    pub title: &'static str,
    /// The axis upwards.
    pub scale: Scale,
    /// At most four.
    pub series: Vec<Series>,
    /// Places on the x axis with their labels. Those beyond the points are left out.
    pub ticks: Vec<(f64, String)>,
    /// Events on the x axis, each with a line and its name.
    pub marks: Vec<(f64, &'static str)>,
    /// Levels on the y axis that are asked for, each with a line and its name.
    pub bounds: Vec<(f64, String)>,
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
    /// Places of dots instead of the line.
    dots: Vec<(Px, Px)>,
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
    bounds: Vec<Label>,
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
    scale: Scale,
    /// The lower and upper edge: powers of ten of a latency, else values.
    low: f64,
    high: f64,
}

impl Axes {
    fn x(&self, x: f64) -> f64 {
        FRAME.left.0 + x / self.x_max * (FRAME.right.0 - FRAME.left.0)
    }

    fn y(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Latency => decade(value),
            Scale::Linear(_) => value,
        };
        let share = (self.high - place) / (self.high - self.low);
        FRAME.top.0 + share * (FRAME.bottom.0 - FRAME.top.0)
    }

    /// The values of the grid, with their labels.
    fn grid(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Latency => {
                let powers = self.low as i32..=self.high as i32;
                powers.map(|power| 10f64.powi(power)).map(|it| (it, show(it as u64))).collect()
            }
            Scale::Linear(unit) => {
                let step = step_of(self.high);
                let count = (self.high / step).round() as u32;
                let values = (0..=count).map(|index| f64::from(index) * step);
                values.map(|value| (value, format!("{}{unit}", short(value)))).collect()
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, so that an axis up to `high` has a few steps.
fn step_of(high: f64) -> f64 {
    let raw = high.max(f64::MIN_POSITIVE) / STEPS;
    let power = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| raw <= factor * power * 1.001);
    factor.unwrap_or(10.0) * power
}

fn decade(nanos: f64) -> f64 {
    nanos.max(LATENCY_MIN).log10()
}

impl Chart {
    /// None if there are no points.
    fn picture(&self) -> Option<Picture> {
        let axes = self.axes()?;
        let level = |value: f64, text_x: f64, text_y: f64, text: String| {
            let y = axes.y(value);
            Label { at: Px(y), text_x: Px(text_x), text_y: Px(y + text_y), text }
        };
        let left = axes.grid().into_iter();
        let left = left.map(|(value, text)| level(value, FRAME.left.0 - 6.0, 4.0, text));
        let bounds = self.bounds.iter();
        let bounds =
            bounds.map(|(value, text)| level(*value, FRAME.right.0 - 4.0, -4.0, text.clone()));
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
            bounds: bounds.collect(),
            lines: self.lines(&axes),
        })
    }

    fn axes(&self) -> Option<Axes> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        points().next()?;
        let marks = self.marks.iter().map(|(x, _)| *x);
        let values = || points().map(|(_, y)| *y).chain(self.bounds.iter().map(|(y, _)| *y));
        let [low, high] = match self.scale {
            Scale::Latency => {
                let low = values().map(|y| decade(y).floor()).fold(f64::MAX, f64::min);
                [low, values().map(|y| decade(y).ceil()).fold(low + 1.0, f64::max)]
            }
            Scale::Linear(_) => {
                let most = values().fold(1.0, f64::max);
                let step = step_of(most);
                [0.0, (most / step).ceil() * step]
            }
        };
        let x_max = points().map(|(x, _)| *x).chain(marks).fold(f64::MIN_POSITIVE, f64::max);
        Some(Axes { x_max, scale: self.scale, low, high })
    }

    fn lines(&self, axes: &Axes) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let Some((last_x, last_y)) = series.points.last().copied() else { continue };
            let places = series.points.iter().map(|(x, y)| (Px(axes.x(*x)), Px(axes.y(*y))));
            let places: Vec<(Px, Px)> = places.collect();
            // The last point twice: a line of a single point would be invisible.
            let points = places.iter().chain(places.last()).map(|(x, y)| format!("{x},{y}"));
            // Names of lines that end close together are placed one below the other.
            let (name_x, mut name_y) = (axes.x(last_x) + 6.0, axes.y(last_y) + 4.0);
            let is_covered = |line: &Line, name_y: f64| {
                (line.name_x.0 - name_x).abs() < NAME_WIDTH
                    && (line.name_y.0 - name_y).abs() < NAME_HEIGHT
            };
            while lines.iter().any(|line| is_covered(line, name_y)) {
                name_y += 1.0;
            }
            lines.push(Line {
                colour,
                points: points.collect::<Vec<_>>().join(" "),
                name: series.name,
                name_x: Px(name_x),
                name_y: Px(name_y),
                dots: if series.is_dotted { places.clone() } else { Vec::new() },
            });
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_move_apart_only_where_they_would_cover_each_other() {
        let series = |name, end| Series { name, points: vec![(end, 1e6)], is_dotted: false };
        let chart = Chart {
            title: "x",
            scale: Scale::Latency,
            series: vec![series("a", 100.0), series("b", 99.0), series("c", 10.0)],
            ticks: Vec::new(),
            marks: Vec::new(),
            bounds: Vec::new(),
        };
        let lines = chart.picture().expect("points").lines;
        let [a, b, c] = [0, 1, 2].map(|index| lines[index].name_y.0);
        assert!(b - a >= NAME_HEIGHT && (c - a).abs() < 1e-9, "{a} {b} {c}");
    }
}
