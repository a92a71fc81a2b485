//! Times of built-in kinds with exactly six digits of a second, as Go reads them: `2006-01-02T15:04:05.000000Z07:00`.

use jiff::Timestamp;
use serde_json::Value;

const LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";

/// Reads the times at these places of an object, and writes them in UTC.
///
/// # Errors
/// A text that is no such time, in Go's words.
pub(super) fn canonical(places: &[&str], object: &mut Value) -> Result<(), String> {
    for place in places {
        let Some(Value::String(text)) = object.pointer_mut(place) else { continue };
        check(text)?;
        if !text.ends_with('Z')
            && let Ok(time) = text.parse::<Timestamp>()
        {
            *text = time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
        }
    }
    Ok(())
}

/// What is still to be read.
struct Reader<'t> {
    text: &'t str,
    rest: &'t str,
}

impl Reader<'_> {
    /// Why the rest isn't this part of the layout.
    fn not(&self, part: &str) -> String {
        format!("parsing time {:?} as {LAYOUT:?}: cannot parse {:?} as {part:?}", self.text, self.rest)
    }

    fn literal(&mut self, part: &str) -> Result<(), String> {
        self.rest = self.rest.strip_prefix(part).ok_or_else(|| self.not(part))?;
        Ok(())
    }

    fn digits(&mut self, part: &str, count: usize) -> Result<u32, String> {
        let digits = self.rest.get(..count).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let digits = digits.ok_or_else(|| self.not(part))?;
        self.rest = &self.rest[count..];
        digits.parse().map_err(|_| self.not(part))
    }

    fn range(&self, what: &str, value: u32, most: u32, least: u32) -> Result<(), String> {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        Err(format!("parsing time {:?}: {what} out of range", self.text))
    }

    fn zone(&mut self) -> Result<(), String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(());
        }
        let zone = self.rest.get(..6).filter(|zone| {
            zone.bytes().enumerate().all(|(at, byte)| match at {
                0 => matches!(byte, b'+' | b'-'),
                3 => byte == b':',
                _ => byte.is_ascii_digit(),
            })
        });
        if zone.is_none() {
            return Err(self.not("Z07:00"));
        }
        self.rest = &self.rest[6..];
        Ok(())
    }
}

fn check(text: &str) -> Result<(), String> {
    let mut reader = Reader { text, rest: text };
    let year = reader.digits("2006", 4)?;
    reader.literal("-")?;
    let month = reader.digits("01", 2)?;
    reader.range("month", month, 12, 1)?;
    reader.literal("-")?;
    let day = reader.digits("02", 2)?;
    reader.literal("T")?;
    for (what, part, most, then) in [("hour", "15", 23, ":"), ("minute", "04", 59, ":"), ("second", "05", 59, "")] {
        let value = reader.digits(part, 2)?;
        reader.range(what, value, most, 0)?;
        reader.literal(then)?;
    }
    let is_fraction = reader.rest.starts_with(['.', ','])
        && reader.rest.get(1..7).is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_fraction {
        return Err(reader.not(".000000"));
    }
    reader.rest = &reader.rest[7..];
    reader.zone()?;
    if !reader.rest.is_empty() {
        return Err(format!("parsing time {text:?}: extra text: {:?}", reader.rest));
    }
    reader.range("day", day, days(year, month), 1)
}

const fn days(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::canonical;

    #[test]
    fn times_have_six_digits_of_a_second() {
        let read = |text: &str| {
            let mut object = json!({"spec": {"renewTime": text}});
            canonical(&["/spec/renewTime", "/spec/acquireTime"], &mut object)?;
            Ok::<_, String>(object["spec"]["renewTime"].as_str().unwrap_or_default().to_owned())
        };
        assert_eq!(read("2001-01-01T00:00:00.123456Z"), Ok("2001-01-01T00:00:00.123456Z".to_owned()));
        assert_eq!(read("2001-01-01T00:30:00.120000+01:00"), Ok("2000-12-31T23:30:00.120000Z".to_owned()));
        let as_layout = "as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse";
        for (text, why) in [
            ("2001-01-01T00:00:00Z", format!(" {as_layout} \"Z\" as \".000000\"")),
            ("2001-01-01T00:00:00.1Z", format!(" {as_layout} \".1Z\" as \".000000\"")),
            ("2001-01-01T00:00:00.1234567Z", format!(" {as_layout} \"7Z\" as \"Z07:00\"")),
            ("2001-01-01 00:00:00.123456Z", format!(" {as_layout} \" 00:00:00.123456Z\" as \"T\"")),
            ("", format!(" {as_layout} \"\" as \"2006\"")),
            ("x", format!(" {as_layout} \"x\" as \"2006\"")),
            ("2001-13-01T00:00:00.000000Z", ": month out of range".to_owned()),
            ("2001-02-29T00:00:00.000000Z", ": day out of range".to_owned()),
            ("2001-01-01T00:00:60.000000Z", ": second out of range".to_owned()),
            ("2001-01-01T00:00:00.123456Zz", ": extra text: \"z\"".to_owned()),
        ] {
            assert_eq!(read(text), Err(format!("parsing time {text:?}{why}")), "{text}");
        }
    }
}
