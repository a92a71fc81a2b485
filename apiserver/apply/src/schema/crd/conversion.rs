//! `spec.conversion`: None, or a webhook at a URL or a Service.

use serde_json::{Value, json};

use super::Rules;
use crate::error::{FieldError, Path};
use crate::metadata::name;
use crate::schema::structural::{get, list, text};

const RECOGNISED: [&str; 2] = ["v1", "v1beta1"];

fn review_versions(conversion: &Value) -> &[Value] {
    get(conversion, "webhook").map(|w| list(w, "conversionReviewVersions")).unwrap_or_default()
}

fn is_recognised(version: &Value) -> bool {
    version.as_str().is_some_and(|v| RECOGNISED.contains(&v))
}

/// Whether an old CRD named no review version, or one that this server speaks.
pub(super) fn was_recognised(old: &Value) -> bool {
    let conversion = get(old, "spec").and_then(|s| get(s, "conversion"));
    conversion.is_none_or(|c| review_versions(c).is_empty() || review_versions(c).iter().any(is_recognised))
}

pub(super) fn check(spec: &Value, rules: &Rules, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let Some(conversion) = get(spec, "conversion") else { return };
    let strategy = text(conversion, "strategy");
    match strategy {
        "" => errors.push(FieldError::required(path.child("strategy"), "")),
        "None" | "Webhook" => {}
        other => errors.push(FieldError::not_supported(path.child("strategy"), other, &["None", "Webhook"])),
    }
    let config_path = path.child("webhookClientConfig");
    let versions_path = path.child("conversionReviewVersions");
    let config = get(conversion, "webhook").and_then(|w| get(w, "clientConfig"));
    let versions = review_versions(conversion);
    if strategy != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if config.is_some() {
            errors.push(FieldError::forbidden(config_path, detail));
        }
        if !versions.is_empty() {
            errors.push(FieldError::forbidden(versions_path, detail));
        }
        return;
    }
    match config {
        None => errors.push(FieldError::required(config_path, "required when strategy is set to Webhook")),
        Some(config) => match (get(config, "url"), get(config, "service")) {
            (Some(url), None) => check_url(url.as_str().unwrap_or_default(), &config_path.child("url"), errors),
            (None, Some(service)) => check_service(service, &config_path.child("service"), errors),
            _ => errors.push(FieldError::required(config_path, "exactly one of url or service is required")),
        },
    }
    check_review_versions(versions, rules, &versions_path, errors);
}

fn check_review_versions(versions: &[Value], rules: &Rules, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if versions.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    for (i, version) in versions.iter().enumerate() {
        let given = version.as_str().unwrap_or_default();
        if versions[..i].contains(version) {
            errors.push(FieldError::invalid(path.index(i), given, "duplicate version"));
            continue;
        }
        for complaint in name::dns_1035_label(given) {
            errors.push(FieldError::invalid(path.index(i), given, complaint));
        }
    }
    if rules.recognised_review_version && !versions.iter().any(is_recognised) {
        let detail = format!("must include at least one of {}", RECOGNISED.join(", "));
        errors.push(FieldError::invalid(path, json!(versions), detail));
    }
}

fn check_url(url: &str, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (url, query) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, rest) = url.split_once(':').unwrap_or(("", url));
    let authority = rest.strip_prefix("//").map(|r| r.split('/').next().unwrap_or_default()).unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{FORM}");
        errors.push(FieldError::invalid(path, scheme, detail));
    }
    if host.is_empty() {
        errors.push(FieldError::invalid(path, host, format!("host must be specified{FORM}")));
    }
    for (part, detail) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            errors.push(FieldError::invalid(path, part, detail));
        }
    }
}

fn check_service(service: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for key in ["name", "namespace"] {
        if text(service, key).is_empty() {
            errors.push(FieldError::required(path.child(key), ""));
        }
    }
    let port = get(service, "port").and_then(Value::as_i64).unwrap_or(443);
    if !(1..=65535).contains(&port) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        errors.push(FieldError::invalid(path.child("port"), port, detail));
    }
    let given = text(service, "path");
    let place = &path.child("path");
    if given.is_empty() || given == "/" {
        return;
    }
    if given == "//" {
        errors.push(FieldError::invalid(place, given, "segment[0] may not be empty"));
        return;
    }
    if !given.starts_with('/') {
        errors.push(FieldError::invalid(place, given, "must start with a '/'"));
    }
    let mut inner = given.chars();
    inner.next();
    let inner = inner.as_str().strip_suffix('/').unwrap_or(inner.as_str());
    for (i, segment) in inner.split('/').enumerate() {
        if segment.is_empty() {
            errors.push(FieldError::invalid(place, given, format!("segment[{i}] may not be empty")));
            continue;
        }
        for complaint in name::dns_subdomain(segment) {
            errors.push(FieldError::invalid(place, given, format!("segment[{i}]: {complaint}")));
        }
    }
}
