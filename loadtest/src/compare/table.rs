//! What was compared, as JSON, CSV and text.

use std::fmt::{self, Write as _};
use std::path::Path;

use super::{Bounds, Comparison, Comparisons, Unit, Verdict};
use crate::report::{ReportError, quoted};

impl Comparisons {
    /// Writes it as JSON, or as CSV by the file's ending.
    ///
    /// # Errors
    /// [`ReportError::File`].
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        let text = match path.extension().and_then(|it| it.to_str()) {
            Some("csv") => self.to_csv(),
            _ => serde_json::to_string(self).unwrap_or_default() + "\n",
        };
        std::fs::write(path, text).map_err(|reason| ReportError::File {
            path: path.display().to_string(),
            reason,
        })
    }

    /// A line for each comparison.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let mut text =
            "name,unit,a,b,ratio,low,high,low_together,high_together,is_judged,verdict,why\n"
                .to_owned();
        let number = |value: Option<f64>| value.map_or_else(String::new, |it| format!("{it:.6}"));
        for it in &self.comparisons {
            let ends = |bounds: Option<Bounds>| {
                let (low, high) = (bounds.map(|it| it.low), bounds.map(|it| it.high));
                format!("{},{}", number(low), number(high))
            };
            let _ = writeln!(
                text,
                "{},{},{},{},{},{},{},{},{},{}",
                it.name,
                match it.unit {
                    Unit::Ms => "ms",
                    Unit::Share => "share",
                },
                number(it.a),
                number(it.b),
                number(it.ratio),
                ends(it.bounds),
                ends(it.bounds_together),
                it.is_judged,
                it.verdict.name(),
                quoted(it.why.as_deref().unwrap_or_default()),
            );
        }
        text
    }

    /// A table, and what its words mean.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{:<22}{:>12}{:>12}    second to first [95 % bounds]\n",
            "", "first", "second"
        );
        let (not_compared, compared): (Vec<_>, Vec<_>) = self
            .comparisons
            .iter()
            .partition(|it| it.verdict == Verdict::NotCompared);
        for it in compared {
            let _ = writeln!(text, "{it}");
        }
        for it in not_compared {
            let why = it.why.as_deref().unwrap_or_default();
            let _ = writeln!(text, "{:<22}not compared: {why}", it.name);
        }
        let _ = writeln!(
            text,
            "worse, better: by bounds that hold for all {} judged comparisons together; perhaps: by those of one alone",
            self.n_judged
        );
        text
    }
}

impl Verdict {
    /// Its name in JSON and CSV.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worse => "worse",
            Self::PerhapsWorse => "perhaps_worse",
            Self::NotShown => "not_shown",
            Self::PerhapsBetter => "perhaps_better",
            Self::Better => "better",
            Self::NotCompared => "not_compared",
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = (self.a.unwrap_or_default(), self.b.unwrap_or_default());
        write!(f, "{:<22}", self.name)?;
        let bounds = self.bounds.unwrap_or(Bounds {
            low: 0.0,
            high: 0.0,
        });
        match self.unit {
            Unit::Ms => {
                let ratio = self.ratio.map_or("-".to_owned(), |it| format!("{it:.3}"));
                let Bounds { low, high } = bounds;
                write!(f, "{a:>9.1} ms{b:>9.1} ms    {ratio} [{low:.3}, {high:.3}]")?;
            }
            Unit::Share => {
                let Bounds { low, high } = bounds;
                let [a, b, low, high] = [a, b, low, high].map(|share| share * 100.0);
                let difference = b - a;
                write!(
                    f,
                    "{a:>10.2} %{b:>10.2} %    {difference:+.2} points [{low:+.2}, {high:+.2}]"
                )?;
            }
        }
        let verdict = match self.verdict {
            Verdict::NotShown => "no difference shown".to_owned(),
            verdict => verdict.name().replace('_', " "),
        };
        write!(f, "  {verdict}")?;
        match self.a {
            Some(0.0) if b > 0.0 => write!(f, ", none in the first"),
            _ => Ok(()),
        }
    }
}
