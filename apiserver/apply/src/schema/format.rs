//! `format` of strings: the ones that kube-apiserver 1.37 checks, as its parsers (Go's net, net/url, net/mail, time) accept them.
//! Names are compared without dashes (`date-time` is `datetime`). A format that isn't listed means nothing.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine as _;
use regex::Regex;

/// The formats, without dashes.
const KNOWN: [&str; 28] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
    // Registered for strings too, by the decoder of numbers in text; never reached, since types rule them out.
    "k8s-short-name",
    "k8s-long-name",
];

/// The canonical name, if the format is known.
fn canonical(form: &str) -> Option<&'static str> {
    let plain: String;
    let form = if form.contains('-') {
        plain = form.replace('-', "");
        plain.as_str()
    } else {
        form
    };
    KNOWN.iter().find(|known| **known == form).copied()
}

pub(super) fn is_known(form: &str) -> bool {
    canonical(form).is_some()
}

/// Whether a text is of a format. Anything is of an unknown one.
pub(super) fn matches(form: &str, text: &str) -> bool {
    match canonical(form).unwrap_or_default() {
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "uri" => is_request_uri(text),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "ipv4" => is_ipv4(text),
        "ipv6" => is_ipv6(text),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => text.len() == 11 && search(&SSN, text),
        "hexcolor" => search(&HEX_COLOR, text),
        "rgbcolor" => search(&RGB_COLOR, text),
        "byte" => !text.is_empty() && base64::engine::general_purpose::STANDARD.decode(text).is_ok_and(|_| true),
        "date" => is_date(text),
        "duration" => is_duration(text),
        "datetime" => is_date_time(text),
        "k8sshortname" => text.len() <= 63 && is_dns_label(text),
        "k8slongname" => text.len() <= 253 && text.split('.').all(is_dns_label),
        _ => true,
    }
}

type Lazy = LazyLock<Result<Regex, regex::Error>>;

fn search(regex: &Lazy, text: &str) -> bool {
    regex.as_ref().is_ok_and(|r| r.is_match(text))
}

static HOSTNAME: Lazy = Lazy::new(|| {
    Regex::new(concat!(
        r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|",
        r"([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$"
    ))
});
static SSN: Lazy = Lazy::new(|| Regex::new(r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$"));
static HEX_COLOR: Lazy = Lazy::new(|| Regex::new("^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"));
static RGB_COLOR: Lazy = Lazy::new(|| {
    let part = r"[\t\n\f\r ]*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])[\t\n\f\r ]*";
    Regex::new(&format!(r"^rgb\({part},{part},{part}\)$"))
});
static DURATION_PART: Lazy = Lazy::new(|| Regex::new(r"([0-9]+)[\t\n\f\r ]*([A-Za-zµ]+)"));
static CREDIT_CARD: Lazy = Lazy::new(|| {
    Regex::new(concat!(
        "^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|",
        "3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$"
    ))
});

fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => inner(*first) && inner(*last) && bytes.iter().all(|b| inner(*b) || *b == b'-'),
        _ => false,
    }
}

fn is_hostname(text: &str) -> bool {
    text.len() <= 255 && text.split('.').all(|label| label.len() <= 63) && search(&HOSTNAME, text)
}

/// Leading zeros are let through, for what was accepted long ago.
fn is_ipv4(text: &str) -> bool {
    if text.contains(':') {
        // An IPv4 address in IPv6 clothes has dots as well.
        return text.contains('.') && is_ipv6(text);
    }
    sloppy_ipv4(text).is_some()
}

fn sloppy_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut parts = [0u8; 4];
    let mut given = text.split('.');
    for part in &mut parts {
        let digits = given.next()?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *part = digits.parse().ok()?;
    }
    given.next().is_none().then(|| Ipv4Addr::from(parts))
}

fn is_ipv6(text: &str) -> bool {
    text.contains(':') && text.parse::<Ipv6Addr>().is_ok()
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let bits = if sloppy_ipv4(address).is_some() {
        32
    } else if is_ipv6(address) {
        128
    } else {
        return false;
    };
    !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) && length.parse::<u32>().is_ok_and(|n| n <= bits)
}

/// EUI-48, EUI-64 or 20 octets of InfiniBand, in pairs by `:` or `-`, in fours by `.`, or without anything between.
fn is_mac(text: &str) -> bool {
    let by = |separator: char, width: usize, counts: &[usize]| {
        let parts: Vec<&str> = text.split(separator).collect();
        counts.contains(&parts.len())
            && parts.iter().all(|p| p.len() == width && p.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let plain = matches!(text.len(), 12 | 16 | 40) && text.bytes().all(|b| b.is_ascii_hexdigit());
    plain || by(':', 2, &[6, 8, 20]) || by('-', 2, &[6, 8, 20]) || by('.', 4, &[3, 4, 10])
}

/// Dashes may be missing. Versions 4 and 5 also have a variant digit.
fn is_uuid(text: &str, version: Option<char>) -> bool {
    let digits: Vec<char> = text.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    if digits.len() != 32 || !digits.iter().all(char::is_ascii_hexdigit) || !dashes_fit(text) {
        return false;
    }
    match version {
        None => true,
        Some('3') => digits.get(12) == Some(&'3'),
        Some(v) => digits.get(12) == Some(&v) && matches!(digits.get(16), Some('8' | '9' | 'a' | 'b')),
    }
}

/// Every dash stands behind 8, 12, 16 or 20 digits, and none twice.
fn dashes_fit(text: &str) -> bool {
    let mut digits = 0;
    let mut last_dash = None;
    for c in text.chars() {
        if c == '-' {
            if !matches!(digits, 8 | 12 | 16 | 20) || last_dash == Some(digits) {
                return false;
            }
            last_dash = Some(digits);
        } else {
            digits += 1;
        }
    }
    true
}

fn digits_of(text: &str) -> Vec<u32> {
    text.chars().filter_map(|c| c.to_digit(10)).collect()
}

fn without_spaces(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '\t' | '\n' | '\u{c}' | '\r' | ' ' | '-')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let text = without_spaces(text);
    let Some((body, check)) = text.split_at_checked(9) else { return false };
    if check.len() != 1 || !body.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let last = match check {
        "X" => 10,
        digit => match digit.parse::<u32>() {
            Ok(digit) => digit,
            Err(_) => return false,
        },
    };
    let sum: u32 = (1..).zip(digits_of(body)).map(|(weight, digit)| weight * digit).sum();
    (sum + 10 * last).is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let text = without_spaces(text);
    if text.len() != 13 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let sum: u32 = [1, 3].into_iter().cycle().zip(digits_of(&text)).map(|(weight, digit)| weight * digit).sum();
    sum.is_multiple_of(10)
}

fn is_credit_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    if !search(&CREDIT_CARD, &digits) {
        return false;
    }
    let sum: u32 = digits_of(&digits)
        .into_iter()
        .rev()
        .enumerate()
        .map(|(i, digit)| match i % 2 {
            0 => digit,
            _ if digit >= 5 => digit * 2 - 9,
            _ => digit * 2,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// `2006-01-02`.
fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = bytes.len() == 10
        && bytes.iter().enumerate().all(|(i, b)| if matches!(i, 4 | 7) { *b == b'-' } else { b.is_ascii_digit() });
    shape && text.parse::<jiff::civil::Date>().is_ok()
}

/// A date, `t`, a time with an optional fraction, and `z` or an offset. Seconds up to 59; the offset isn't checked.
fn is_date_time(text: &str) -> bool {
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else { return false };
    if !is_date(date) {
        return false;
    }
    let bytes = time.as_bytes();
    let two = |at: usize, max: u8| {
        let digits = bytes.get(at..at + 2).filter(|d| d.iter().all(u8::is_ascii_digit));
        digits.is_some_and(|d| (d[0] - b'0') * 10 + (d[1] - b'0') <= max)
    };
    let colons = bytes.get(2) == Some(&b':') && bytes.get(5) == Some(&b':');
    if !(colons && two(0, 23) && two(3, 59) && two(6, 59)) {
        return false;
    }
    let Some(rest) = time.get(8..) else { return false };
    is_zone(rest) || fraction(rest).is_some_and(is_zone)
}

/// What follows a fraction, whose point may be any character in the pattern that Kubernetes uses.
fn fraction(rest: &str) -> Option<&str> {
    let mut chars = rest.chars();
    chars.next()?;
    let digits = chars.as_str();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    (end > 0).then(|| &digits[end..])
}

fn is_zone(text: &str) -> bool {
    match text.as_bytes() {
        b"z" => true,
        [b'+' | b'-', a, b, b':', c, d] => [a, b, c, d].iter().all(|digit| digit.is_ascii_digit()),
        _ => false,
    }
}

/// Go's durations (`1h30m`, `-1.5s`, `0`), or any text with a number and a unit (`3 days`).
fn is_duration(text: &str) -> bool {
    if is_go_duration(text) {
        return true;
    }
    const UNITS: [&[&str]; 8] = [
        &["ns", "nano"],
        &["us", "µs", "micro"],
        &["ms", "milli"],
        &["s", "sec"],
        &["m", "min"],
        &["h", "hr", "hour"],
        &["d", "day"],
        &["w", "wk", "week"],
    ];
    let Ok(part) = DURATION_PART.as_ref() else { return false };
    let mut found = false;
    for captures in part.captures_iter(text) {
        let digits = captures.get(1).map_or("", |m| m.as_str());
        if digits.parse::<i64>().is_err() {
            return false;
        }
        let unit = captures.get(2).map_or("", |m| m.as_str()).to_lowercase();
        found |= UNITS.iter().any(|names| {
            names.contains(&unit.as_str()) || names.last().is_some_and(|longest| unit.starts_with(longest))
        });
    }
    found
}

fn is_go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    let mut nanoseconds: f64 = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, behind) = rest.split_at(end);
        let digits = number.bytes().filter(u8::is_ascii_digit).count();
        if digits == 0 || number.matches('.').count() > 1 {
            return false;
        }
        let end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return false,
        };
        // Only the size matters here: beyond int64 Go refuses.
        nanoseconds += format!("0{number}").parse::<f64>().unwrap_or(f64::INFINITY) * scale;
        rest = behind;
    }
    nanoseconds < 9_223_372_036_854_775_808.0
}

/// Go's `url.ParseRequestURI`: an absolute URI or a path from the root; a fragment is part of the path.
fn is_request_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return false;
    }
    if text == "*" {
        return true;
    }
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))).unwrap_or(text.len());
    let (scheme, rest) = match text[end..].strip_prefix(':') {
        Some(rest) if text.starts_with(|c: char| c.is_ascii_alphabetic()) => (true, rest),
        // A colon first, or behind what can't be a scheme.
        Some(_) => return false,
        None => (false, text),
    };
    let path = rest.split('?').next().unwrap_or_default();
    if !path.starts_with('/') {
        // `mailto:a@b` is opaque, and fine with a scheme only.
        return scheme;
    }
    let Some(authority) = path.strip_prefix("//").filter(|_| scheme || !path.starts_with("///")) else {
        return escapes_fit(path);
    };
    let (authority, path) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    escapes_fit(path) && is_url_host(host)
}

fn escapes_fit(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes
        .iter()
        .enumerate()
        .filter(|(_, b)| **b == b'%')
        .all(|(i, _)| bytes.get(i + 1..i + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)))
}

fn is_url_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                return is_ipv6(address.split('%').next().unwrap_or_default()) && is_port(port);
            }
            None => return false,
        },
        None => match host.find(':') {
            Some(at) => host.split_at(at),
            None => (host, ""),
        },
    };
    is_port(port)
        && !name.chars().any(|c| {
            matches!(c, ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}' | '#' | '[' | ']') || c == '%'
        })
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()))
}

/// RFC 5322, as far as people write it: an optional display name and angle brackets around `local@domain`.
fn is_email(text: &str) -> bool {
    let text = text.trim_matches([' ', '\t']);
    let address = match text.strip_suffix('>').and_then(|t| t.rsplit_once('<')) {
        Some((_, address)) => address,
        None => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let quoted = local.len() >= 2 && local.starts_with('"') && local.ends_with('"');
    let literal = domain.strip_prefix('[').and_then(|d| d.strip_suffix(']'));
    let domain_fits = match literal {
        Some(address) => sloppy_ipv4(address).is_some() || is_ipv6(address.trim_start_matches("IPv6:")),
        None => is_dot_atom(domain),
    };
    (quoted || is_dot_atom(local)) && domain_fits
}

fn is_dot_atom(text: &str) -> bool {
    let atom = |c: char| c.is_alphanumeric() || !c.is_ascii() || "!#$%&'*+-/=?^_`{|}~".contains(c);
    !text.is_empty() && text.split('.').all(|part| !part.is_empty() && part.chars().all(atom))
}
