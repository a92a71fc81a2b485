//! The table of results: name, value, unit, bar, whether it holds.

use std::path::Path;

use pullpiri_e2e::E2eError;
use serde::Serialize;

#[derive(Serialize, Debug)]
struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    /// Absent: reported, not promised.
    bar: Option<f64>,
    op: Option<&'static str>,
    ok: bool,
    /// Why it wasn't measured; `value` means nothing then.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

#[derive(Default, Debug)]
pub(crate) struct Table(Vec<Row>);

impl Table {
    pub(crate) fn at_most(&mut self, name: &str, value: f64, unit: &'static str, bar: f64) {
        self.add(name, value, unit, Some(bar), Some("<="), value <= bar);
    }

    pub(crate) fn at_least(&mut self, name: &str, value: f64, unit: &'static str, bar: f64) {
        self.add(name, value, unit, Some(bar), Some(">="), value >= bar);
    }

    pub(crate) fn report(&mut self, name: &str, value: f64, unit: &'static str) {
        self.add(name, value, unit, None, None, true);
    }

    /// What can't be measured on this machine.
    pub(crate) fn skipped(&mut self, name: &str, reason: &str) {
        let skipped = Some(reason.to_owned());
        let row = Row { name: name.to_owned(), value: 0.0, unit: "", bar: None, op: None, ok: true, skipped };
        eprintln!("  {}", line(&row));
        self.0.push(row);
    }

    fn add(
        &mut self,
        name: &str,
        value: f64,
        unit: &'static str,
        bar: Option<f64>,
        op: Option<&'static str>,
        ok: bool,
    ) {
        let row = Row { name: name.to_owned(), value, unit, bar, op, ok, skipped: None };
        eprintln!("  {}", line(&row));
        self.0.push(row);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn ok(&self) -> bool {
        self.0.iter().all(|row| row.ok)
    }

    pub(crate) fn print(&self) {
        println!("{:<70} {:>12} {:<10} {:>14}  ok", "what", "measured", "unit", "bar");
        for row in &self.0 {
            println!("{}", line(row));
        }
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), E2eError> {
        let what = format!("writing {}", path.display());
        let text = serde_json::to_string_pretty(&self.0).map_err(|error| E2eError::failed(what.clone(), error))?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| E2eError::failed(what.clone(), error))?;
        }
        std::fs::write(path, text).map_err(|error| E2eError::failed(what, error))
    }
}

fn line(row: &Row) -> String {
    if let Some(reason) = &row.skipped {
        return format!("{:<70} skipped: {reason}", row.name);
    }
    let bar = match (row.op, row.bar) {
        (Some(op), Some(bar)) => format!("{op} {}", (bar * 1e4).round() / 1e4),
        _ => "-".to_owned(),
    };
    let ok = if row.bar.is_none() {
        ""
    } else if row.ok {
        "yes"
    } else {
        "NO"
    };
    format!("{:<70} {:>12.3} {:<10} {bar:>14}  {ok}", row.name, row.value, row.unit)
}

/// The median; NaN without samples, which no bar accepts.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The value that so many per cent of the samples don't exceed; NaN without samples, which no bar accepts.
pub(crate) fn percentile(samples: &[f64], per_cent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() * per_cent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// Counts and bytes as a measurement; exact below 2^53.
#[expect(clippy::cast_precision_loss, reason = "measured values are shown with three digits")]
pub(crate) fn to_f64(value: u64) -> f64 {
    value as f64
}
