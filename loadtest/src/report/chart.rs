//! Lines over an axis, as SVG.

use std::fmt;

use super::html::escaped;

/// One line of a chart.
pub(super) struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// How the horizontal axis is spread.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scale {
    Even,
    /// 0 to 1, the last parts drawn out: each nine has the same width.
    Quantile,
}

/// Up to three lines over one axis.
pub(super) struct Chart {
    x_unit: &'static str,
    y_unit: &'static str,
    lines: Vec<Line>,
    scale: Scale,
    x_to: f64,
}

impl Line {
    pub(super) fn new(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self {
            name: name.to_owned(),
            points,
        }
    }
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 22.0;

/// More points than this are thinned out: a screen shows no more.
const MAX_POINTS: usize = 600;

/// Quantiles are drawn up to this.
const LAST_QUANTILE: f64 = 0.9999;

impl Chart {
    pub(super) fn new(x_unit: &'static str, y_unit: &'static str, lines: Vec<Line>) -> Self {
        let lines: Vec<_> = lines
            .into_iter()
            .filter(|line| !line.points.is_empty())
            .collect();
        let last = lines.iter().flat_map(|line| &line.points).map(|(x, _)| *x);
        Self {
            x_unit,
            y_unit,
            x_to: last.fold(0.0, f64::max),
            lines,
            scale: Scale::Even,
        }
    }

    pub(super) fn x_to(mut self, x_to: f64) -> Self {
        self.x_to = self.x_to.max(x_to);
        self
    }

    pub(super) fn x_scale(mut self, scale: Scale) -> Self {
        self.scale = scale;
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn x(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Even => value / self.x_to.max(f64::MIN_POSITIVE),
            Scale::Quantile => {
                let nines = |q: f64| -(1.0 - q).log10();
                nines(value.min(LAST_QUANTILE)) / nines(LAST_QUANTILE)
            }
        };
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Even => {
                let step = round_step(self.x_to / 8.0);
                (0..)
                    .map(|n| f64::from(n) * step)
                    .take_while(|x| *x <= self.x_to)
                    .map(|x| (x, format!("{} {}", short(x), self.x_unit)))
                    .collect()
            }
            Scale::Quantile => [0.0, 0.5, 0.9, 0.95, 0.99, 0.999]
                .map(|q: f64| (q, format!("p{}", short(q * 100.0))))
                .into(),
        }
    }
}

impl fmt::Display for Chart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let highest = self
            .lines
            .iter()
            .flat_map(|line| &line.points)
            .map(|(_, y)| *y);
        let highest = highest.fold(0.0, f64::max).max(1e-3);
        let step = round_step(highest / 4.0);
        let n_steps = (highest / step).ceil() as u32;
        let top = f64::from(n_steps) * step;
        let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
        write!(f, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">")?;
        for n in 0..=n_steps {
            let value = f64::from(n) * step;
            let at = y(value);
            write!(
                f,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                short(value)
            )?;
        }
        write!(f, "<text x=\"2\" y=\"12\">{}</text>", escaped(self.y_unit))?;
        for (value, name) in self.ticks() {
            let (x, at) = (self.x(value), HEIGHT - 6.0);
            write!(
                f,
                "<text x=\"{x:.1}\" y=\"{at}\" text-anchor=\"middle\">{}</text>",
                escaped(name.trim())
            )?;
        }
        for (n, line) in self.lines.iter().enumerate() {
            let every = line.points.len().div_ceil(MAX_POINTS).max(1);
            let last = line.points.len() - 1;
            write!(f, "<polyline class=\"line c{}\" points=\"", n % 3)?;
            for (index, (at, value)) in line.points.iter().enumerate() {
                if index % every == 0 || index == last {
                    write!(f, "{:.1},{:.1} ", self.x(*at), y(*value))?;
                }
            }
            let (x, below) = (LEFT + 40.0 + 160.0 * n as f64, 12.0);
            write!(
                f,
                "\"/><line class=\"line c{}\" x1=\"{x}\" x2=\"{}\" y1=\"8\" y2=\"8\"/>\
                 <text x=\"{}\" y=\"{below}\">{}</text>",
                n % 3,
                x + 18.0,
                x + 24.0,
                escaped(&line.name)
            )?;
        }
        f.write_str("</svg>")
    }
}

/// The next larger of 1, 2 and 5 times a power of ten.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1e-6).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|n| n * power);
    steps
        .into_iter()
        .find(|step| *step >= least * 0.999)
        .unwrap_or(10.0 * power)
}

fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        let check = |least, expected: f64| {
            let step = round_step(least);
            assert!((step / expected - 1.0).abs() < 1e-9, "{least}: {step}");
        };
        check(1.0, 1.0);
        check(1.1, 2.0);
        check(30.0, 50.0);
        check(0.07, 0.1);
        assert_eq!(
            (short(99.9), short(100.0), short(0.25)),
            ("99.9".into(), "100".into(), "0.25".into())
        );
    }

    #[test]
    fn each_nine_has_the_same_width() {
        let chart =
            Chart::new("", "ms", vec![Line::new("a", vec![(1.0, 1.0)])]).x_scale(Scale::Quantile);
        let width = |from, to| chart.x(to) - chart.x(from);
        assert!((width(0.0, 0.9) - width(0.9, 0.99)).abs() < 1e-6);
        assert!(chart.x(1.0) <= WIDTH);
    }
}
