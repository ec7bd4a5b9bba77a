//! placeholder
use super::RunReport;

/// placeholder
#[must_use]
pub fn to_html(report: &RunReport) -> String {
    format!("<pre>{}</pre>", super::to_text(report))
}
