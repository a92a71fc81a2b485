//! The command line.

use std::time::Duration;

/// What this process is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Brake { period: Duration, work: Duration, overrun: Duration, port: u16 },
    Sensor { to: String, period: Duration },
    Video { to: String, flows: usize },
    Screen { port: u16 },
    Hog { threads: usize },
}

pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Role, String> {
    let name = arguments.next().ok_or("expected brake, sensor, video, screen or hog")?;
    let mut given: Vec<(String, String)> = Vec::new();
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{option}: expected a value"))?;
        given.push((option, value));
    }
    let mut take = |option: &str| given.iter().position(|(known, _)| known == option).map(|at| given.swap_remove(at).1);
    let role = match name.as_str() {
        "brake" => Role::Brake {
            period: duration("--period", take("--period"), Duration::from_millis(10))?,
            work: duration("--work", take("--work"), Duration::from_millis(2))?,
            overrun: duration("--overrun", take("--overrun"), Duration::from_millis(30))?,
            port: number("--port", take("--port"), 7001)?,
        },
        "sensor" => Role::Sensor {
            to: take("--to").ok_or("sensor: expected --to HOST:PORT")?,
            period: duration("--period", take("--period"), Duration::from_millis(10))?,
        },
        "video" => Role::Video {
            to: take("--to").ok_or("video: expected --to HOST:PORT")?,
            flows: number("--flows", take("--flows"), 4)?,
        },
        "screen" => Role::Screen { port: number("--port", take("--port"), 7002)? },
        "hog" => Role::Hog { threads: number("--threads", take("--threads"), 2)? },
        other => return Err(format!("unknown role {other:?}: expected brake, sensor, video, screen or hog")),
    };
    match given.first() {
        Some((option, _)) => Err(format!("{name} has no option {option:?}")),
        None => Ok(role),
    }
}

fn number<T: std::str::FromStr>(option: &str, given: Option<String>, default: T) -> Result<T, String> {
    match given {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| format!("{option}: expected a whole number, given {text:?}")),
    }
}

/// `250us`, `10ms` or `1s`, above 0.
fn duration(option: &str, given: Option<String>, default: Duration) -> Result<Duration, String> {
    let Some(text) = given else { return Ok(default) };
    let error = || format!("{option}: expected a duration such as 250us or 10ms, given {text:?}");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let value: u64 = digits.parse().map_err(|_| error())?;
    let parsed = match &text[digits.len()..] {
        "us" => Duration::from_micros(value),
        "ms" => Duration::from_millis(value),
        "s" => Duration::from_secs(value),
        _ => return Err(error()),
    };
    if parsed.is_zero() { Err(error()) } else { Ok(parsed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> impl Iterator<Item = String> {
        text.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        assert_eq!(
            parse(words("sensor --to brake:7001 --period 5ms")),
            Ok(Role::Sensor { to: "brake:7001".to_owned(), period: Duration::from_millis(5) })
        );
        for (bad, about) in [
            ("", "expected brake"),
            ("radio", "radio"),
            ("sensor", "--to"),
            ("brake --period", "--period"),
            ("brake --period 0ms", "0ms"),
            ("brake --period 10", "10"),
            ("brake --speed 3", "--speed"),
            ("hog --threads many", "many"),
        ] {
            let message = parse(words(bad)).unwrap_err();
            assert!(message.contains(about), "{bad}: {message}");
        }
    }
}
