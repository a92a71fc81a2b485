//! Content negotiation: which form a client wants (Accept) and which one it sent (Content-Type).

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};

use crate::rest::query::Query;
use crate::status::Status;

/// What bodies can be encoded as, in order of preference.
const SUPPORTED: [(&str, Format); 2] = [("application/json", Format::Json), ("application/yaml", Format::Yaml)];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    #[default]
    Json,
    Yaml,
}

/// How a request's body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Text(Format),
    Protobuf,
}

impl Format {
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Yaml => "application/yaml",
        }
    }
}

/// Which view of an object is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    #[default]
    Object,
    /// meta.k8s.io Table of this version.
    Table(&'static str),
    /// meta.k8s.io PartialObjectMetadata, or its List for a list.
    Partial(&'static str),
}

/// `includeObject` of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    #[default]
    Metadata,
    Object,
    Nothing,
}

/// The agreed form of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) format: Format,
    pub(crate) shape: Shape,
    pub(crate) pretty: bool,
    pub(crate) include_object: IncludeObject,
}

/// Whether a list or one object will be the answer: the shapes have different names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    One,
    List,
    Watch,
}

struct Clause<'a> {
    media: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    quality: u32,
}

fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut clauses: Vec<Clause<'_>> = header
        .split(',')
        .map(|clause| {
            let mut parts = clause.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let parameters: Vec<_> = parts
                .filter_map(|part| part.split_once('='))
                .map(|(k, v)| (k.trim(), v.trim().trim_matches('"')))
                .collect();
            let quality =
                parameters.iter().find(|(name, _)| *name == "q").map_or(1000, |(_, value)| thousandths(value));
            Clause { media, parameters, quality }
        })
        .filter(|clause| !clause.media.is_empty())
        .collect();
    // Stable: equal qualities keep the client's order.
    clauses.sort_by_key(|clause| std::cmp::Reverse(clause.quality));
    clauses
}

/// `0.8` → 800, without floating point.
fn thousandths(text: &str) -> u32 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    let whole: u32 = whole.parse().unwrap_or(1);
    whole.saturating_mul(1000).saturating_add(digits.parse().unwrap_or(0))
}

fn shape(clause: &Clause<'_>, answer: Answer) -> Option<Shape> {
    let mut kind = None;
    let mut group = "";
    let mut version = "";
    for (name, value) in &clause.parameters {
        match *name {
            "as" => kind = Some(*value),
            "g" => group = value,
            "v" => version = value,
            "stream" if !value.is_empty() && *value != "watch" => return None,
            "sv" if !value.is_empty() && *value != "v1" => return None,
            _ => {}
        }
    }
    let Some(kind) = kind else {
        return (group.is_empty() && version.is_empty()).then_some(Shape::Object);
    };
    let version = match (group, version) {
        ("meta.k8s.io", "v1") => "v1",
        ("meta.k8s.io", "v1beta1") => "v1beta1",
        _ => return None,
    };
    match (kind, answer) {
        ("Table", _) => Some(Shape::Table(version)),
        ("PartialObjectMetadata", Answer::One | Answer::Watch) | ("PartialObjectMetadataList", Answer::List) => {
            Some(Shape::Partial(version))
        }
        _ => None,
    }
}

/// Chooses the form of the answer.
///
/// # Errors
/// 406 when nothing that the client accepts can be had.
pub(crate) fn accept(headers: &HeaderMap, query: &Query, answer: Answer) -> Result<Accepted, Status> {
    let header = header_text(headers, ACCEPT);
    let pretty = pretty(headers, query);
    let include_object = match query.get("includeObject") {
        None | Some("" | "Metadata") => IncludeObject::Metadata,
        Some("Object") => IncludeObject::Object,
        Some("None") => IncludeObject::Nothing,
        Some(other) => {
            return Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: \"{other}\": must be 'Metadata', 'Object', \
                 'None', or empty"
            )));
        }
    };
    if header.is_empty() {
        return Ok(Accepted { pretty, include_object, ..Accepted::default() });
    }
    for clause in clauses(&header) {
        let format = SUPPORTED
            .iter()
            .find(|(media, _)| clause.media == *media || matches!(clause.media, "*/*" | "application/*"));
        let Some((_, format)) = format else { continue };
        if let Some(shape) = shape(&clause, answer) {
            if answer == Answer::Watch && *format != Format::Json {
                return Err(not_acceptable("application/json;stream=watch"));
            }
            let pretty = pretty || clause.parameters.contains(&("pretty", "1"));
            return Ok(Accepted { format: *format, shape, pretty, include_object });
        }
    }
    Err(not_acceptable("application/json, application/yaml"))
}

fn not_acceptable(accepted: &str) -> Status {
    Status::not_acceptable(format!("only the following media types are accepted: {accepted}"))
}

/// `?pretty`, or a person at the other end.
fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    match query.get("pretty") {
        Some("") | None => {
            let agent = header_text(headers, USER_AGENT);
            ["curl", "Wget", "Mozilla/5.0"].iter().any(|prefix| agent.starts_with(prefix))
        }
        Some(value) => matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"),
    }
}

/// The four patch types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// The form of a request body.
///
/// # Errors
/// 415 for anything but JSON and YAML.
pub(crate) fn content_format(headers: &HeaderMap) -> Result<Content, Status> {
    let media = media_type(headers);
    match media.as_str() {
        "" | "application/json" => Ok(Content::Text(Format::Json)),
        "application/yaml" => Ok(Content::Text(Format::Yaml)),
        "application/vnd.kubernetes.protobuf" => Ok(Content::Protobuf),
        _ => Err(unsupported("application/json, application/yaml, application/vnd.kubernetes.protobuf")),
    }
}

/// The patch type of a PATCH. Custom resources have no strategic merge patch.
///
/// # Errors
/// 415 when the Content-Type names none.
pub(crate) fn patch_type(headers: &HeaderMap, strategic: bool) -> Result<PatchType, Status> {
    let media = media_type(headers);
    match media.as_str() {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" if strategic => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        _ if strategic => Err(unsupported(
            "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
             application/apply-patch+yaml",
        )),
        _ => {
            Err(unsupported("application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"))
        }
    }
}

pub(crate) fn unsupported(accepted: &str) -> Status {
    Status::unsupported_media_type(format!(
        "the body of the request was in an unknown format - accepted media types include: {accepted}"
    ))
}

fn media_type(headers: &HeaderMap) -> String {
    header_text(headers, CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A header's values, joined; empty if it isn't there.
pub(crate) fn header_text(headers: &HeaderMap, name: http::HeaderName) -> String {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn ask(header: &str, answer: Answer) -> Result<Accepted, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_str(header).unwrap());
        accept(&headers, &Query::default(), answer)
    }

    #[test]
    fn kubectl_gets_a_table() {
        let header = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(ask(header, Answer::List).unwrap().shape, Shape::Table("v1"));
    }

    #[test]
    fn protobuf_falls_back_or_is_refused() {
        let both = ask("application/vnd.kubernetes.protobuf,application/json", Answer::One).unwrap();
        assert_eq!((both.format, both.shape), (Format::Json, Shape::Object));
        let status = ask("application/vnd.kubernetes.protobuf", Answer::One).unwrap_err();
        assert_eq!(
            (status.code().as_u16(), status.message()),
            (406, "only the following media types are accepted: application/json, application/yaml")
        );
    }

    #[test]
    fn quality_and_partial_metadata() {
        assert_eq!(ask("application/json;q=0.5, application/yaml;q=0.9", Answer::One).unwrap().format, Format::Yaml);
        let header = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(ask(header, Answer::List).unwrap().shape, Shape::Partial("v1"));
        assert!(ask(header, Answer::One).is_err());
        assert_eq!(ask("*/*", Answer::One).unwrap(), Accepted::default());
    }

    #[test]
    fn content_types() {
        let mut headers = HeaderMap::new();
        assert_eq!(content_format(&headers).unwrap(), Content::Text(Format::Json));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/vnd.kubernetes.cbor"));
        assert_eq!(content_format(&headers).unwrap_err().code().as_u16(), 415);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/strategic-merge-patch+json; charset=utf-8"));
        assert_eq!(patch_type(&headers, true).unwrap(), PatchType::Strategic);
        assert_eq!(patch_type(&headers, false).unwrap_err().code().as_u16(), 415);
    }
}
