//! Draws the ratios as horizontal bars on a logarithmic axis, as SVG without any library.

use std::fmt::Write as _;

use crate::report::{Aim, Figure, number};

const ROW: f64 = 22.0;
const LEFT: f64 = 470.0;
const WIDTH: f64 = 1240.0;
const PLOT: f64 = 440.0;
const TOP: f64 = 58.0;

/// One bar per figure that both systems have: right of the line at 1 Springhead is better.
#[must_use]
pub fn ratios(figures: &[Figure]) -> String {
    let drawn: Vec<(&Figure, f64)> = figures
        .iter()
        .filter_map(|figure| Some((figure, figure.advantage()?)))
        .collect();
    let widest = drawn.iter().map(|(_, ratio)| ratio.log10().abs());
    let axis = Axis {
        decades: widest.fold(1.0, f64::max).ceil(),
        bottom: TOP + ROW * crate::stats::float(drawn.len() as u64),
    };
    let height = axis.bottom + 24.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n<text x=\"16\" y=\"22\" font-size=\"15\">Springhead beside PostgreSQL 15: how many times as good (log scale)</text>\n"
    );
    axis.draw(&mut out);
    let mut y = TOP;
    for (figure, ratio) in drawn {
        draw_bar(&mut out, &axis, figure, ratio, y);
        y += ROW;
    }
    let _ = writeln!(
        out,
        "<text x=\"16\" y=\"{:.1}\" fill=\"#1f4fa3\">blue marks: aims</text>\n</svg>",
        axis.bottom + 16.0
    );
    out
}

/// The logarithmic axis, the same number of decades to both sides of 1.
struct Axis {
    decades: f64,
    bottom: f64,
}

impl Axis {
    fn x(&self, ratio: f64) -> f64 {
        LEFT + PLOT * (ratio.log10() + self.decades) / (2.0 * self.decades)
    }

    fn draw(&self, out: &mut String) {
        let mut decade = -self.decades;
        while decade <= self.decades {
            let ratio = 10_f64.powf(decade);
            let line = self.x(ratio);
            let label = if ratio >= 1.0 {
                format!("{ratio:.0}×")
            } else {
                format!("1/{:.0}", 1.0 / ratio)
            };
            let stroke = if decade == 0.0 { "#222222" } else { "#dddddd" };
            let _ = writeln!(
                out,
                "<line x1=\"{line:.1}\" y1=\"{TOP}\" x2=\"{line:.1}\" y2=\"{}\" stroke=\"{stroke}\"/><text x=\"{line:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                self.bottom,
                TOP - 8.0
            );
            decade += 1.0;
        }
    }
}

fn draw_bar(out: &mut String, axis: &Axis, figure: &Figure, ratio: f64, y: f64) {
    let (one, end, text) = (axis.x(1.0), axis.x(ratio), y + 15.0);
    let (from, to) = (one.min(end), one.max(end));
    let fill = if ratio >= 1.0 { "#2b7a4b" } else { "#b5482f" };
    let label = escape(&format!(
        "{}: {}",
        figure.point.measurement, figure.point.what
    ));
    let value = |median: Option<f64>| number(median.unwrap_or(f64::NAN));
    let values = escape(&format!(
        "{ratio:.2}× ({} : {} {})",
        value(figure.springhead.median()),
        value(figure.postgres.median()),
        figure.point.unit
    ));
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{label}</text>",
        LEFT - 10.0
    );
    let _ = writeln!(
        out,
        "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>",
        y + 4.0,
        (to - from).max(1.0),
        ROW - 8.0
    );
    if let Some(Aim::Ratio(aim)) = figure.point.aim {
        let line = axis.x(aim);
        let _ = writeln!(
            out,
            "<line x1=\"{line:.1}\" y1=\"{:.1}\" x2=\"{line:.1}\" y2=\"{:.1}\" stroke=\"#1f4fa3\" stroke-width=\"2\"/>",
            y + 1.0,
            y + ROW - 1.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{text:.1}\">{values}</text>",
        LEFT + PLOT + 12.0
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Better, Point, Report};
    use crate::systems::Kind;

    #[test]
    fn one_bar_per_compared_figure() {
        let mut report = Report::default();
        for (what, ours, theirs) in [
            ("a < b", 20.0, Some(10.0)),
            ("c", 1.0, Some(300.0)),
            ("alone", 5.0, None),
        ] {
            let point = || Point::new("m", what, "u", Better::Higher).aim(Aim::Ratio(2.0));
            report.record(point(), Kind::Springhead, "", ours);
            if let Some(theirs) = theirs {
                report.record(point(), Kind::Postgres, "", theirs);
            }
        }
        let svg = ratios(&report.figures);
        assert_eq!(svg.matches("<rect x=").count(), 2);
        assert!(svg.contains("a &lt; b") && !svg.contains("alone"));
        assert!(svg.contains("1/1000") && svg.ends_with("</svg>\n"));
    }
}
