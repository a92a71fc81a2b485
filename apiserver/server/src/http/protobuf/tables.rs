//! Field numbers of what says how objects must be: CustomResourceDefinitions, admission policies, quotas.
//!
//! Source: `generated.proto` of k8s.io/apiextensions-apiserver, k8s.io/api/admissionregistration/v1 and k8s.io/api/core/v1, Kubernetes 1.37.

use super::{Field, LABEL_SELECTOR, Message, OBJECT_META};

/// A schema refers to itself, which a static may and a constant may not.
static JSON_SCHEMA: [(u64, &str, Field); 44] = [
    (1, "id", Field::Text),
    (2, "$schema", Field::Text),
    (3, "$ref", Field::OptionalText),
    (4, "description", Field::Text),
    (5, "type", Field::Text),
    (6, "format", Field::Text),
    (7, "title", Field::Text),
    (8, "default", Field::RawJson),
    (9, "maximum", Field::Float),
    (10, "exclusiveMaximum", Field::Flag),
    (11, "minimum", Field::Float),
    (12, "exclusiveMinimum", Field::Flag),
    (13, "maxLength", Field::OptionalNumber),
    (14, "minLength", Field::OptionalNumber),
    (15, "pattern", Field::Text),
    (16, "maxItems", Field::OptionalNumber),
    (17, "minItems", Field::OptionalNumber),
    (18, "uniqueItems", Field::Flag),
    (19, "multipleOf", Field::Float),
    (20, "enum", Field::RawJsons),
    (21, "maxProperties", Field::OptionalNumber),
    (22, "minProperties", Field::OptionalNumber),
    (23, "required", Field::Texts),
    // A schema or a list of them.
    (24, "items", Field::OneOf(&[(1, "", Field::Pointer(&JSON_SCHEMA)), (2, "", Field::Messages(&JSON_SCHEMA))])),
    (25, "allOf", Field::Messages(&JSON_SCHEMA)),
    (26, "oneOf", Field::Messages(&JSON_SCHEMA)),
    (27, "anyOf", Field::Messages(&JSON_SCHEMA)),
    (28, "not", Field::Pointer(&JSON_SCHEMA)),
    (29, "properties", Field::MessageMap(&JSON_SCHEMA)),
    (30, "additionalProperties", Field::OneOf(&SCHEMA_OR_BOOL)),
    (31, "patternProperties", Field::MessageMap(&JSON_SCHEMA)),
    (32, "dependencies", Field::Ignored),
    (33, "additionalItems", Field::OneOf(&SCHEMA_OR_BOOL)),
    (34, "definitions", Field::MessageMap(&JSON_SCHEMA)),
    (35, "externalDocs", Field::Pointer(&[(1, "description", Field::Text), (2, "url", Field::Text)])),
    (36, "example", Field::RawJson),
    (37, "nullable", Field::Flag),
    (38, "x-kubernetes-preserve-unknown-fields", Field::Boolean),
    (39, "x-kubernetes-embedded-resource", Field::Flag),
    (40, "x-kubernetes-int-or-string", Field::Flag),
    (41, "x-kubernetes-list-map-keys", Field::Texts),
    (42, "x-kubernetes-list-type", Field::OptionalText),
    (43, "x-kubernetes-map-type", Field::OptionalText),
    (44, "x-kubernetes-validations", Field::Messages(RULE)),
];
static SCHEMA_OR_BOOL: [(u64, &str, Field); 2] = [(1, "", Field::Boolean), (2, "", Field::Pointer(&JSON_SCHEMA))];
const RULE: &Message = &[
    (1, "rule", Field::Text),
    (2, "message", Field::Text),
    (3, "messageExpression", Field::Text),
    (4, "reason", Field::OptionalText),
    (5, "fieldPath", Field::Text),
    (6, "optionalOldSelf", Field::Boolean),
];
const NAMES: &Message = &[
    (1, "plural", Field::Text),
    (2, "singular", Field::Text),
    (3, "shortNames", Field::Texts),
    (4, "kind", Field::Text),
    (5, "listKind", Field::Text),
    (6, "categories", Field::Texts),
];
const COLUMN: &Message = &[
    (1, "name", Field::Text),
    (2, "type", Field::Text),
    (3, "format", Field::Text),
    (4, "description", Field::Text),
    (5, "priority", Field::Number),
    (6, "jsonPath", Field::Text),
];
const SCALE: &Message = &[
    (1, "specReplicasPath", Field::Text),
    (2, "statusReplicasPath", Field::Text),
    (3, "labelSelectorPath", Field::OptionalText),
];
const VERSION: &Message = &[
    (1, "name", Field::Text),
    (2, "served", Field::Boolean),
    (3, "storage", Field::Boolean),
    (7, "deprecated", Field::Flag),
    (8, "deprecationWarning", Field::OptionalText),
    (4, "schema", Field::Pointer(&[(1, "openAPIV3Schema", Field::Pointer(&JSON_SCHEMA))])),
    (5, "subresources", Field::Pointer(&[(1, "status", Field::Pointer(&[])), (2, "scale", Field::Pointer(SCALE))])),
    (6, "additionalPrinterColumns", Field::Messages(COLUMN)),
    (9, "selectableFields", Field::Messages(&[(1, "jsonPath", Field::Text)])),
];
const SERVICE: &Message = &[
    (1, "namespace", Field::Text),
    (2, "name", Field::Text),
    (3, "path", Field::OptionalText),
    (4, "port", Field::OptionalNumber),
];
const CLIENT: &Message =
    &[(3, "url", Field::OptionalText), (1, "service", Field::Pointer(SERVICE)), (2, "caBundle", Field::Binary)];
const CONVERSION: &Message = &[
    (1, "strategy", Field::Text),
    (
        2,
        "webhook",
        Field::Pointer(&[(2, "clientConfig", Field::Pointer(CLIENT)), (3, "conversionReviewVersions", Field::Texts)]),
    ),
];
const DEFINITION_SPEC: &Message = &[
    (1, "group", Field::Text),
    (3, "names", Field::Pointer(NAMES)),
    (4, "scope", Field::Text),
    (7, "versions", Field::Messages(VERSION)),
    (9, "conversion", Field::Pointer(CONVERSION)),
    (10, "preserveUnknownFields", Field::Flag),
];
const DEFINITION_CONDITION: &Message = &[
    (1, "type", Field::Text),
    (2, "status", Field::Text),
    (3, "lastTransitionTime", Field::Time),
    (4, "reason", Field::Text),
    (5, "message", Field::Text),
    (6, "observedGeneration", Field::Number),
];
const DEFINITION_STATUS: &Message = &[
    (1, "conditions", Field::Messages(DEFINITION_CONDITION)),
    (2, "acceptedNames", Field::Message(NAMES)),
    (3, "storedVersions", Field::Texts),
    (4, "observedGeneration", Field::Number),
];
pub(super) const CUSTOM_RESOURCE_DEFINITION: &Message = &[
    (1, "metadata", Field::Message(OBJECT_META)),
    (2, "spec", Field::Pointer(DEFINITION_SPEC)),
    (3, "status", Field::Message(DEFINITION_STATUS)),
];

const PLAIN_RULE: &Message = &[
    (1, "apiGroups", Field::Texts),
    (2, "apiVersions", Field::Texts),
    (3, "resources", Field::Texts),
    (4, "scope", Field::OptionalText),
];
const OPERATIONS: &Message = &[(1, "operations", Field::Texts), (2, "", Field::Inline(PLAIN_RULE))];
const NAMED_RULE: &Message = &[(1, "resourceNames", Field::Texts), (2, "", Field::Inline(OPERATIONS))];
const MATCH_RESOURCES: &Message = &[
    (1, "namespaceSelector", Field::Pointer(LABEL_SELECTOR)),
    (2, "objectSelector", Field::Pointer(LABEL_SELECTOR)),
    (3, "resourceRules", Field::Messages(NAMED_RULE)),
    (4, "excludeResourceRules", Field::Messages(NAMED_RULE)),
    (7, "matchPolicy", Field::OptionalText),
];
const NAME_AND_EXPRESSION: &Message = &[(1, "name", Field::Text), (2, "expression", Field::Text)];
const VALIDATION: &Message = &[
    (1, "expression", Field::Text),
    (2, "message", Field::Text),
    (3, "reason", Field::OptionalText),
    (4, "messageExpression", Field::Text),
];
const POLICY_SPEC: &Message = &[
    (1, "paramKind", Field::Pointer(&[(1, "apiVersion", Field::Text), (2, "kind", Field::Text)])),
    (2, "matchConstraints", Field::Pointer(MATCH_RESOURCES)),
    (3, "validations", Field::Messages(VALIDATION)),
    (4, "failurePolicy", Field::OptionalText),
    (5, "auditAnnotations", Field::Messages(&[(1, "key", Field::Text), (2, "valueExpression", Field::Text)])),
    (6, "matchConditions", Field::Messages(NAME_AND_EXPRESSION)),
    (7, "variables", Field::Messages(NAME_AND_EXPRESSION)),
];
const WARNINGS: &Message =
    &[(1, "expressionWarnings", Field::Messages(&[(2, "fieldRef", Field::Text), (3, "warning", Field::Text)]))];
const CONDITION: &Message = &[
    (1, "type", Field::Text),
    (2, "status", Field::Text),
    (3, "observedGeneration", Field::Number),
    (4, "lastTransitionTime", Field::Time),
    (5, "reason", Field::Text),
    (6, "message", Field::Text),
];
const POLICY_STATUS: &Message = &[
    (1, "observedGeneration", Field::Number),
    (2, "typeChecking", Field::Pointer(WARNINGS)),
    (3, "conditions", Field::Messages(CONDITION)),
];
pub(super) const POLICY: &Message = &[
    (1, "metadata", Field::Message(OBJECT_META)),
    (2, "spec", Field::Pointer(POLICY_SPEC)),
    (3, "status", Field::Message(POLICY_STATUS)),
];
const PARAM_REF: &Message = &[
    (1, "name", Field::Text),
    (2, "namespace", Field::Text),
    (3, "selector", Field::Pointer(LABEL_SELECTOR)),
    (4, "parameterNotFoundAction", Field::OptionalText),
];
const POLICY_BINDING_SPEC: &Message = &[
    (1, "policyName", Field::Text),
    (2, "paramRef", Field::Pointer(PARAM_REF)),
    (3, "matchResources", Field::Pointer(MATCH_RESOURCES)),
    (4, "validationActions", Field::Texts),
];
pub(super) const POLICY_BINDING: &Message =
    &[(1, "metadata", Field::Message(OBJECT_META)), (2, "spec", Field::Pointer(POLICY_BINDING_SPEC))];

const SCOPE_REQUIREMENT: &Message =
    &[(1, "scopeName", Field::Text), (2, "operator", Field::Text), (3, "values", Field::Texts)];
const QUOTA_SPEC: &Message = &[
    (1, "hard", Field::QuantityMap),
    (2, "scopes", Field::Texts),
    (3, "scopeSelector", Field::Pointer(&[(1, "matchExpressions", Field::Messages(SCOPE_REQUIREMENT))])),
];
const QUOTA_STATUS: &Message = &[(1, "hard", Field::QuantityMap), (2, "used", Field::QuantityMap)];
pub(super) const RESOURCE_QUOTA: &Message = &[
    (1, "metadata", Field::Message(OBJECT_META)),
    (2, "spec", Field::Message(QUOTA_SPEC)),
    (3, "status", Field::Message(QUOTA_STATUS)),
];
