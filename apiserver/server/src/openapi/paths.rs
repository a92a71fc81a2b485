//! Paths: which operations a group version has, with the query parameters that clients look for before they use them
//! (`fieldValidation`, `dryRun`), in both document forms.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::schemas::{Form, META, definition_name, list_definition_name};
use crate::builtin::set;
use crate::registry::Resource;

const JSON: &[&str] = &["application/json", "application/yaml"];
const PATCHES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
const BUILT_IN_PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// A query or path parameter: name, type, description.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "If 'true', the answer is indented.");
const DRY_RUN: Parameter = ("dryRun", "string", "'All' runs every stage of the request and stores nothing.");
const FIELD_MANAGER: Parameter =
    ("fieldManager", "string", "Who makes the change: at most 128 printable characters. An apply patch must say it.");
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What to do about unknown and repeated fields: Ignore, Warn (the default) or Strict, which refuses the request.",
);
const FORCE: Parameter = ("force", "boolean", "Take over fields that others own. For apply patches only.");
const GRACE: Parameter =
    ("gracePeriodSeconds", "integer", "Seconds until the object goes; zero is at once. The kind's default otherwise.");
const ORPHAN: Parameter = ("orphanDependents", "boolean", "Deprecated: use propagationPolicy.");
const PROPAGATION: Parameter = (
    "propagationPolicy",
    "string",
    "What becomes of dependents: 'Orphan' leaves them, 'Background' deletes them afterwards, 'Foreground' deletes them first.",
);
const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean", "Send BOOKMARK events. For watches only."),
    ("continue", "string", "Where the previous page of the list ended, as it said in metadata.continue."),
    ("fieldSelector", "string", "Only objects whose fields match, e.g. metadata.name=a."),
    ("labelSelector", "string", "Only objects whose labels match."),
    ("limit", "integer", "The most objects to answer with; more come with continue."),
    ("resourceVersion", "string", "As of which version to answer, or after which to watch."),
    ("resourceVersionMatch", "string", "How resourceVersion applies to a list: Exact or NotOlderThan."),
    ("sendInitialEvents", "boolean", "Begin a watch with the objects that exist, then a bookmark."),
    ("timeoutSeconds", "integer", "How long a list or watch may take."),
    ("watch", "boolean", "Answer with a stream of changes instead of a list."),
];

/// One operation of a path, before it takes a document's form.
struct Operation<'a> {
    method: &'static str,
    action: &'static str,
    id: String,
    description: String,
    parameters: Vec<Parameter>,
    /// The media types taken, and the definition of what is sent.
    body: Option<(&'a [&'static str], String, Required)>,
    /// The definition of the answer.
    answer: String,
    codes: &'static [(&'static str, &'static str)],
    kind: Value,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Required {
    Yes,
    No,
}

const OK: &[(&str, &str)] = &[("200", "OK")];
const CREATED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created"), ("202", "Accepted")];
const REPLACED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created")];
const DELETED: &[(&str, &str)] = &[("200", "OK"), ("202", "Accepted")];

/// `apps` → `Apps`, `coordination.k8s.io` → `Coordination`, `example.com` → `ExampleCom`, `` → `Core`.
fn camel(group: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    group.split(['.', '-']).map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn tag(group: &str, version: &str) -> String {
    let camel = camel(group);
    let mut chars = camel.chars();
    let lower: String = chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default();
    format!("{lower}_{version}")
}

/// `/api/v1` or `/apis/GROUP/VERSION`.
pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// Every path of one group version.
pub(super) fn all(resources: &[&Arc<Resource>], form: Form) -> Map<String, Value> {
    let mut paths = Map::new();
    if let Some(first) = resources.first() {
        let (group, version) = (&first.group, &first.version);
        let operation = Operation {
            method: "get",
            action: "",
            id: format!("get{}{}APIResources", camel(group), capital(version)),
            description: "get available resources".to_owned(),
            parameters: Vec::new(),
            body: None,
            answer: format!("{META}.APIResourceList"),
            codes: OK,
            kind: Value::Null,
        };
        paths.insert(format!("{}/", root(group, version)), item(&[operation], &[], &tag(group, version), form));
    }
    for resource in resources {
        of_resource(resource, form, &mut paths);
    }
    paths
}

fn of_resource(resource: &Arc<Resource>, form: Form, paths: &mut Map<String, Value>) {
    let root = root(&resource.group, &resource.version);
    let plural = &resource.plural;
    let tag = tag(&resource.group, &resource.version);
    let builder = Builder::new(resource);
    if resource.strategy.review().is_some() {
        let collection = if resource.is_namespaced() {
            format!("{root}/namespaces/{{namespace}}/{plural}")
        } else {
            format!("{root}/{plural}")
        };
        let mut parameters = vec![PRETTY];
        if resource.is_namespaced() {
            parameters.push(("namespace", "path", "The namespace of the objects."));
        }
        paths.insert(collection, item(&[builder.create()], &parameters, &tag, form));
        return;
    }
    let mut parameters = Vec::new();
    let collection = if resource.is_namespaced() {
        let list = builder.list("ForAllNamespaces");
        paths.insert(format!("{root}/{plural}"), item(&[list], &[PRETTY], &tag, form));
        parameters.push(("namespace", "path", "The namespace of the objects."));
        format!("{root}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("{root}/{plural}")
    };
    parameters.push(PRETTY);
    let mut operations = vec![builder.list(""), builder.create()];
    // Namespaces are deleted one by one.
    if !resource.strategy.has_finalize() {
        operations.push(builder.delete_collection());
    }
    paths.insert(collection.clone(), item(&operations, &parameters, &tag, form));
    parameters.insert(0, ("name", "path", "The name of the object."));
    let operations = [builder.read(""), builder.replace(""), builder.patch(""), builder.delete()];
    paths.insert(format!("{collection}/{{name}}"), item(&operations, &parameters, &tag, form));
    let mut subresources = Vec::new();
    if resource.has_status {
        subresources.push("Status");
    }
    if resource.scale.is_some() {
        subresources.push("Scale");
    }
    for name in subresources {
        let operations = [builder.read(name), builder.replace(name), builder.patch(name)];
        let path = format!("{collection}/{{name}}/{}", name.to_lowercase());
        paths.insert(path, item(&operations, &parameters, &tag, form));
    }
    if resource.strategy.has_token() {
        let path = format!("{collection}/{{name}}/token");
        paths.insert(path, item(&[builder.create_token()], &parameters, &tag, form));
    }
    if resource.strategy.has_finalize() {
        let path = format!("{collection}/{{name}}/finalize");
        paths.insert(path, item(&[builder.replace("Finalize")], &parameters, &tag, form));
    }
}

/// Makes the operations of one resource.
struct Builder<'a> {
    resource: &'a Resource,
    /// Between verb and subresource in operation ids: `CoreV1NamespacedConfigMap`.
    stem: String,
    plain_stem: String,
    kind: Value,
}

impl<'a> Builder<'a> {
    fn new(resource: &'a Resource) -> Self {
        let prefix = format!("{}{}", camel(&resource.group), capital(&resource.version));
        let scope = if resource.is_namespaced() { "Namespaced" } else { "" };
        Self {
            resource,
            stem: format!("{prefix}{scope}{}", resource.kind),
            plain_stem: format!("{prefix}{}", resource.kind),
            kind: json!({"group": resource.group, "version": resource.version, "kind": resource.kind}),
        }
    }

    /// What a subresource's objects are.
    fn object(&self, subresource: &str) -> (String, Value) {
        if subresource == "Scale" {
            let kind = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
            ("io.k8s.api.autoscaling.v1.Scale".to_owned(), kind)
        } else {
            (definition_name(self.resource), self.kind.clone())
        }
    }

    fn describe(verb: &str, subresource: &str, rest: &str) -> String {
        if subresource.is_empty() {
            format!("{verb} {rest}")
        } else {
            format!("{verb} {} of {rest}", subresource.to_lowercase())
        }
    }

    fn list(&self, suffix: &str) -> Operation<'a> {
        let id =
            if suffix.is_empty() { format!("list{}", self.stem) } else { format!("list{}{suffix}", self.plain_stem) };
        Operation {
            method: "get",
            action: "list",
            id,
            description: format!("list or watch objects of kind {}", self.resource.kind),
            parameters: LIST.to_vec(),
            body: None,
            answer: list_definition_name(self.resource),
            codes: OK,
            kind: self.kind.clone(),
        }
    }

    fn create(&self) -> Operation<'a> {
        let definition = definition_name(self.resource);
        Operation {
            method: "post",
            action: "post",
            id: format!("create{}", self.stem),
            description: format!("create a {}", self.resource.kind),
            parameters: vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION],
            body: Some((JSON, definition.clone(), Required::Yes)),
            answer: definition,
            codes: CREATED,
            kind: self.kind.clone(),
        }
    }

    fn create_token(&self) -> Operation<'a> {
        let definition = "io.k8s.api.authentication.v1.TokenRequest".to_owned();
        Operation {
            id: format!("create{}Token", self.stem),
            description: format!("create token of a {}", self.resource.kind),
            body: Some((JSON, definition.clone(), Required::Yes)),
            answer: definition,
            kind: json!({"group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest"}),
            ..self.create()
        }
    }

    fn delete_collection(&self) -> Operation<'a> {
        let scope = if self.resource.is_namespaced() { "Namespaced" } else { "" };
        let prefix = self.plain_stem.strip_suffix(self.resource.kind.as_str()).unwrap_or_default();
        let collection = format!("delete{prefix}Collection{scope}{}", self.resource.kind);
        Operation {
            method: "delete",
            action: "deletecollection",
            id: collection,
            description: format!("delete collection of {}", self.resource.kind),
            parameters: LIST.iter().copied().chain([DRY_RUN, GRACE, ORPHAN, PROPAGATION]).collect(),
            body: Some((JSON, format!("{META}.DeleteOptions"), Required::No)),
            answer: format!("{META}.Status"),
            codes: OK,
            kind: self.kind.clone(),
        }
    }

    fn read(&self, subresource: &str) -> Operation<'a> {
        let (answer, kind) = self.object(subresource);
        Operation {
            method: "get",
            action: "get",
            id: format!("read{}{subresource}", self.stem),
            description: Self::describe("read", subresource, &format!("the specified {}", self.resource.kind)),
            parameters: Vec::new(),
            body: None,
            answer,
            codes: OK,
            kind,
        }
    }

    fn replace(&self, subresource: &str) -> Operation<'a> {
        let (answer, kind) = self.object(subresource);
        Operation {
            method: "put",
            action: "put",
            id: format!("replace{}{subresource}", self.stem),
            description: Self::describe("replace", subresource, &format!("the specified {}", self.resource.kind)),
            parameters: vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION],
            body: Some((JSON, answer.clone(), Required::Yes)),
            answer,
            codes: REPLACED,
            kind,
        }
    }

    fn patch(&self, subresource: &str) -> Operation<'a> {
        let (answer, kind) = self.object(subresource);
        let built_in = self.resource.origin == crate::registry::Origin::BuiltIn;
        Operation {
            method: "patch",
            action: "patch",
            id: format!("patch{}{subresource}", self.stem),
            description: Self::describe(
                "partially update",
                subresource,
                &format!("the specified {}", self.resource.kind),
            ),
            parameters: vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE],
            body: Some((if built_in { BUILT_IN_PATCHES } else { PATCHES }, format!("{META}.Patch"), Required::Yes)),
            answer,
            codes: REPLACED,
            kind,
        }
    }

    fn delete(&self) -> Operation<'a> {
        Operation {
            method: "delete",
            action: "delete",
            id: format!("delete{}", self.stem),
            description: format!("delete a {}", self.resource.kind),
            parameters: vec![DRY_RUN, GRACE, ORPHAN, PROPAGATION],
            body: Some((JSON, format!("{META}.DeleteOptions"), Required::No)),
            answer: format!("{META}.Status"),
            codes: DELETED,
            kind: self.kind.clone(),
        }
    }
}

/// A path item with its operations and shared parameters.
fn item(operations: &[Operation<'_>], shared: &[Parameter], tag: &str, form: Form) -> Value {
    let mut item = Map::new();
    for operation in operations {
        item.insert(operation.method.to_owned(), operation.emit(tag, form));
    }
    if !shared.is_empty() {
        item.insert("parameters".to_owned(), shared.iter().map(|one| parameter(*one, form)).collect());
    }
    Value::Object(item)
}

/// Parameters of type `path` are texts in the path; all others are in the query.
fn parameter((name, kind, description): Parameter, form: Form) -> Value {
    let in_path = kind == "path";
    let kind = if in_path { "string" } else { kind };
    let mut out = json!({"name": name, "in": if in_path { "path" } else { "query" }, "description": description});
    match form {
        Form::V2 => {
            set(&mut out, &["type"], json!(kind));
            set(&mut out, &["uniqueItems"], json!(true));
        }
        Form::V3 => set(&mut out, &["schema"], json!({"type": kind, "uniqueItems": true})),
    }
    if in_path {
        set(&mut out, &["required"], json!(true));
    }
    out
}

impl Operation<'_> {
    fn emit(&self, tag: &str, form: Form) -> Value {
        let reference = |name: &str| match form {
            Form::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Form::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        };
        let content = |types: &[&str], name: &str| -> Value {
            types
                .iter()
                .map(|media| ((*media).to_owned(), json!({"schema": reference(name)})))
                .collect::<Map<_, _>>()
                .into()
        };
        let mut parameters: Vec<Value> = self.parameters.iter().map(|one| parameter(*one, form)).collect();
        let mut responses: Map<String, Value> = self
            .codes
            .iter()
            .map(|(code, text)| {
                let response = match form {
                    Form::V2 => json!({"description": text, "schema": reference(&self.answer)}),
                    Form::V3 => json!({"description": text, "content": content(JSON, &self.answer)}),
                };
                ((*code).to_owned(), response)
            })
            .collect();
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        let mut out = json!({
            "description": self.description,
            "operationId": self.id,
            "responses": responses,
            "tags": [tag],
        });
        if let Some((types, name, required)) = &self.body {
            match form {
                Form::V2 => {
                    let consumes: &[&str] = if self.method == "patch" { types } else { &["*/*"] };
                    set(&mut out, &["consumes"], json!(consumes));
                    let mut body = json!({"in": "body", "name": "body", "schema": reference(name)});
                    if *required == Required::Yes {
                        set(&mut body, &["required"], json!(true));
                    }
                    parameters.insert(0, body);
                }
                Form::V3 => {
                    let types: &[&str] = if self.method == "patch" { types } else { &["*/*"] };
                    set(&mut out, &["requestBody"], json!({"content": content(types, name)}));
                    if *required == Required::Yes {
                        set(&mut out, &["requestBody", "required"], json!(true));
                    }
                }
            }
        }
        if form == Form::V2 {
            set(&mut out, &["produces"], json!(JSON));
            set(&mut out, &["schemes"], json!(["https"]));
        }
        if !parameters.is_empty() {
            set(&mut out, &["parameters"], Value::Array(parameters));
        }
        if !self.action.is_empty() {
            set(&mut out, &["x-kubernetes-action"], json!(self.action));
            set(&mut out, &["x-kubernetes-group-version-kind"], self.kind.clone());
        }
        out
    }
}
