//! `x-kubernetes-validations` of a new schema: rules that compile, use `oldSelf` where there is one, and can't cost more than a server has
//! to give. A rule counts as often as its value may occur in one object.

use serde_json::{Number, Value};

use crate::error::{FieldError, FieldErrorKind, Path, print};
use crate::schema::cel::{self, Report};
use crate::schema::{Additional, ListType, Rule, Schema, Type};

/// What a rule or a `messageExpression` may cost on one object (apiextensions, `validation.go`).
const MAX_COST: u64 = 10_000_000;
/// What all of a schema together may.
const MAX_TOTAL: u64 = 100_000_000;
/// Rules below this aren't named when all together are too much.
const WORTH_NAMING: u64 = MAX_TOTAL / 100;
const NAMED: usize = 4;

/// Whether each rule's costs are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Costs {
    Judged,
    /// The schema was there before, when rules may have been judged otherwise.
    Known,
}

/// What is known of a schema from above.
#[derive(Clone, Copy)]
struct Above<'a> {
    /// It is the root of a resource.
    resource: bool,
    /// The list above whose elements have no old values.
    uncorrelatable: Option<&'a str>,
    /// How often a value of the schema may occur. `None` where a list or a map above has no bound.
    occurrences: Option<u64>,
}

struct Walk<'e> {
    costs: Costs,
    total: u64,
    most_expensive: Vec<(u64, String)>,
    errors: &'e mut Vec<FieldError>,
}

/// The errors of all rules of a schema.
pub(super) fn validate(schema: &Schema, costs: Costs, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut walk = Walk { costs, total: 0, most_expensive: Vec::new(), errors };
    walk.node(schema, path, Above { resource: true, uncorrelatable: None, occurrences: Some(1) });
    if walk.total > MAX_TOTAL {
        let detail = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        walk.errors.extend(walk.most_expensive.into_iter().map(|(_, place)| FieldError::forbidden(place, detail)));
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        walk.errors.push(FieldError::forbidden(path, exceeds(what, walk.total, MAX_TOTAL)));
    }
}

impl Walk<'_> {
    /// What is below comes first, as there.
    fn node(&mut self, schema: &Schema, path: &Path<'_>, above: Above<'_>) {
        if !schema.has_rules {
            return;
        }
        let occurrences = above.occurrences.zip(elements(schema)).map(|(here, each)| here.saturating_mul(each));
        let below = Above { resource: false, uncorrelatable: above.uncorrelatable, occurrences };
        if let Some(Additional::Of(of)) = &schema.additional {
            self.node(of, &path.child("additionalProperties"), below);
        }
        let properties = path.child("properties");
        for (name, property) in &schema.properties {
            self.node(property, &properties.key(name), below);
        }
        if let Some(items) = &schema.items {
            let here = path.to_string();
            let correlates = matches!(schema.list_type, ListType::Map(_));
            let uncorrelatable = above.uncorrelatable.or((!correlates).then_some(here.as_str()));
            self.node(items, &path.child("items"), Above { uncorrelatable, ..below });
        }
        self.own(schema, path, above);
    }

    fn own(&mut self, schema: &Schema, path: &Path<'_>, above: Above<'_>) {
        if schema.rules.is_empty() {
            return;
        }
        let place = if above.resource || schema.embedded_resource { cel::Place::Resource } else { cel::Place::Part };
        let occurrences = above.occurrences.unwrap_or_else(|| cel::cardinality(schema, place));
        let reports = cel::check(schema, place);
        let below = path.child("x-kubernetes-validations");
        for (i, (rule, report)) in schema.rules.iter().zip(reports).enumerate() {
            self.rule(rule, report, occurrences, above.uncorrelatable, &below.index(i));
        }
    }

    fn rule(&mut self, rule: &Rule, report: Report, occurrences: u64, uncorrelatable: Option<&str>, path: &Path<'_>) {
        self.cost("estimated rule cost", report.cost.saturating_mul(occurrences), path.child("rule").to_string());
        if let Some(error) = report.rule {
            self.invalid(rule, &path.child("rule"), &error);
        }
        match report.message_expression {
            Some(error) => self.invalid(rule, &path.child("messageExpression"), &error),
            None => {
                let place = path.child("messageExpression").to_string();
                self.cost("estimated messageExpression cost", report.message_cost, place);
            }
        }
        match (report.uses_old_self, uncorrelatable, rule.optional_old_self) {
            (true, Some(list), _) => {
                let detail =
                    format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {list}");
                self.errors.push(FieldError::invalid(path.child("rule"), rule.rule.as_str(), detail));
            }
            (false, _, Some(given)) => {
                let detail = "may not be set if oldSelf is not used in rule";
                self.errors.push(FieldError::invalid(path.child("optionalOldSelf"), given, detail));
            }
            _ => {}
        }
    }

    fn invalid(&mut self, rule: &Rule, path: &Path<'_>, detail: &str) {
        let detail = format!("{}: {detail}", shown_rule(rule));
        self.errors.push(FieldError::new(FieldErrorKind::Invalid, path.to_string(), None, detail));
    }

    fn cost(&mut self, what: &str, cost: u64, place: String) {
        if self.costs == Costs::Judged && cost > MAX_COST {
            self.errors.push(FieldError::forbidden(&place, exceeds(what, cost, MAX_COST)));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= WORTH_NAMING {
            self.most_expensive.push((cost, place));
            self.most_expensive.sort_by(|(one, _), (other, _)| other.cmp(one));
            self.most_expensive.truncate(NAMED);
        }
    }
}

/// How many values a value has below, of each schema.
fn elements(schema: &Schema) -> Option<u64> {
    let bounds = schema.validation.as_deref();
    match schema.kind {
        Some(Type::Array) => bounds.and_then(|v| v.max_items),
        Some(Type::Object) if schema.additional.is_some() => bounds.and_then(|v| v.max_properties),
        _ => Some(1),
    }
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let float = |number: u64| Number::from(number).as_f64().unwrap_or(f64::INFINITY);
    let factor = float(cost) / float(limit);
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where \
         arrays, maps, and strings are declared)"
    )
}

/// A rule in an error, in the form and the order of Kubernetes' internal type.
fn shown_rule(rule: &Rule) -> String {
    let text = |text: &str| print::json(&Value::from(text));
    format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
        text(&rule.rule),
        text(&rule.message),
        text(&rule.message_expression),
        rule.reason.as_deref().map_or_else(|| "null".to_owned(), text),
        text(&rule.field_path),
        print::json(&Value::from(rule.optional_old_self)),
    )
}
