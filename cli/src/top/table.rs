//! Rows as text.

/// A table: columns as wide as their widest cell, two spaces apart.
pub(super) fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut header.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// `2.345ms`, with the unit that leaves at most three digits before the point.
pub(super) fn nanoseconds(ns: i64) -> String {
    let (scale, unit) = match ns.unsigned_abs() {
        0..1_000 => return format!("{ns}ns"),
        1_000..1_000_000 => (1_000, "us"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let sign = if ns < 0 { "-" } else { "" };
    let magnitude = ns.unsigned_abs();
    let thousandths = magnitude % scale * 1000 / scale;
    let fraction = format!("{thousandths:03}");
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{}{point}{fraction}{unit}", magnitude / scale)
}

/// `20.5M`, as a rate in bits per second is written in a Network.
pub(super) fn bits_per_second(rate: f64) -> String {
    if rate >= 1e9 {
        format!("{:.2}G", rate / 1e9)
    } else if rate >= 1e6 {
        format!("{:.1}M", rate / 1e6)
    } else if rate >= 1e3 {
        format!("{:.1}k", rate / 1e3)
    } else {
        format!("{rate:.0}")
    }
}

/// `<1.024ms`: all that a histogram's bucket tells.
pub(super) fn at_most_seconds(bound: f64) -> String {
    if bound.is_infinite() {
        return ">max".to_owned();
    }
    if bound >= 1.0 {
        format!("<{bound:.1}s")
    } else if bound >= 1e-3 {
        format!("<{:.1}ms", bound * 1e3)
    } else {
        format!("<{:.0}us", bound * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(nanoseconds(2_345_678), "2.345ms");
        assert_eq!(nanoseconds(10_000_000), "10ms");
        assert_eq!(nanoseconds(-1_500), "-1.5us");
        assert_eq!(nanoseconds(0), "0ns");
        assert_eq!(nanoseconds(i64::MIN), "-9223372036.854s");
        assert_eq!(bits_per_second(20_500_000.0), "20.5M");
        assert_eq!(at_most_seconds(0.001_024), "<1.0ms");
        assert_eq!(at_most_seconds(f64::INFINITY), ">max");
    }

    #[test]
    fn columns_line_up() {
        let text = render(&["A", "LONG"], &[vec!["wide".into(), "x".into()], vec!["é".into(), "yy".into()]]);
        assert_eq!(text, "A     LONG\nwide  x\né     yy");
    }
}
