//! A server over a memory store, reached without a socket: requests in, status codes and JSON out.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use pullpiri_apiserver::auth::UserInfo;
use pullpiri_apiserver::authz::AllowAuthenticated;
use pullpiri_apiserver::{ApiServer, Config};
use pullpiri_store::memory::MemoryStore;
use serde_json::{Value, json};

/// How long anything in a test may take before it counts as stuck.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Answer {
    pub code: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{error}: {}", String::from_utf8_lossy(&self.body)),
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn warnings(&self) -> Vec<String> {
        self.headers.get_all("warning").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code.as_u16(), code, "{}", self.text());
        self.json()
    }

    /// A failure by its code, reason and message.
    #[track_caller]
    pub fn failure(&self) -> (u16, String, String) {
        let status = self.json();
        assert_eq!(status["kind"], "Status", "{status}");
        assert_eq!(status["status"], "Failure", "{status}");
        assert_eq!(status["code"], self.code.as_u16(), "{status}");
        let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
        (self.code.as_u16(), text("reason"), text("message"))
    }
}

#[derive(Clone, Debug)]
pub struct Api {
    pub server: ApiServer,
    user: Option<Arc<UserInfo>>,
    token: Option<String>,
}

pub async fn api() -> Api {
    api_with(|_| {}).await
}

pub async fn api_with(adjust: impl FnOnce(&mut Config)) -> Api {
    let mut config = Config::new(Arc::new(MemoryStore::new()));
    config.authorizer = Some(Arc::new(AllowAuthenticated));
    adjust(&mut config);
    let server = ApiServer::open(config).await.unwrap();
    let user = UserInfo::new("tester", ["testers".to_owned()]);
    Api { server, user: Some(Arc::new(user)), token: None }
}

impl Api {
    pub fn anonymous(&self) -> Self {
        Self { server: self.server.clone(), user: None, token: None }
    }

    pub fn as_user(&self, name: &str, groups: &[&str]) -> Self {
        let user = UserInfo::new(name, groups.iter().map(|group| (*group).to_owned()));
        Self { server: self.server.clone(), user: Some(Arc::new(user)), token: None }
    }

    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The object, once it is as wished.
    pub async fn until(&self, path: &str, wish: impl Fn(&Value) -> bool) -> Value {
        let seen = async {
            loop {
                let object = self.get(path).await.json();
                if wish(&object) {
                    return object;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.expect("it becomes so")
    }

    pub async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let response = self.open(method, path, headers, body).await;
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect()).await.expect("an answer").unwrap().to_bytes();
        Answer { code: head.status, headers: head.headers, body }
    }

    pub async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<pullpiri_apiserver::http::Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut request = request.body(Full::new(body.into())).unwrap();
        if let Some(user) = &self.user {
            request.extensions_mut().insert(Arc::clone(user));
        }
        tokio::time::timeout(PATIENCE, self.server.service().respond(request)).await.expect("an answer")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.raw("GET", path, &[], "").await
    }

    pub async fn post(&self, path: &str, object: &Value) -> Answer {
        self.raw("POST", path, &[("content-type", "application/json")], object.to_string()).await
    }

    pub async fn put(&self, path: &str, object: &Value) -> Answer {
        self.raw("PUT", path, &[("content-type", "application/json")], object.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.raw("DELETE", path, &[], "").await
    }

    pub async fn patch(&self, kind: &str, path: &str, patch: &Value) -> Answer {
        let content = match kind {
            "apply" => "application/apply-patch+yaml".to_owned(),
            kind => format!("application/{kind}+json"),
        };
        self.raw("PATCH", path, &[("content-type", &content)], patch.to_string()).await
    }

    /// Opens a watch.
    pub async fn watch(&self, path: &str) -> Watch {
        let response = self.open("GET", path, &[], "").await;
        assert_eq!(response.status(), 200);
        Watch { body: response.into_body(), buffer: Vec::new() }
    }

    /// Installs the CRD that tests use and waits until it is served.
    pub async fn with_widgets(self) -> Self {
        self.server.install(vec![widgets()]).await.unwrap();
        self
    }
}

/// An open watch, read event by event.
pub struct Watch {
    body: pullpiri_apiserver::http::Body,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event; `None` when the watch ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event")?;
            self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// The next event as `TYPE name` or `TYPE rv` for bookmarks.
    pub async fn line(&mut self) -> String {
        let event = self.next().await.expect("an event, not the end");
        let metadata = &event["object"]["metadata"];
        let name = metadata["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap())
    }
}

pub fn config_map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

pub fn widget(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "test.pullpiri.io/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const WIDGETS: &str = "/apis/test.pullpiri.io/v1/namespaces/default/widgets";

/// A namespaced CRD with status, scale, defaults, rules and a selectable field.
pub fn widgets() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.test.pullpiri.io"},
        "spec": {
            "group": "test.pullpiri.io",
            "scope": "Namespaced",
            "names": {
                "plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList",
                "shortNames": ["wd"], "categories": ["all"]
            },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
                },
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "additionalPrinterColumns": [
                    {"name": "Color", "type": "string", "jsonPath": ".spec.color"},
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size", "priority": 1}
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "required": ["spec"],
                    "properties": {
                        "spec": {
                            "type": "object",
                            "properties": {
                                "color": {"type": "string", "enum": ["red", "green", "blue"], "default": "red"},
                                "size": {"type": "integer", "minimum": 1, "maximum": 100},
                                "replicas": {"type": "integer"},
                                "parts": {
                                    "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                                    "items": {"type": "object", "required": ["name"], "properties": {
                                        "name": {"type": "string"}, "count": {"type": "integer"}}}
                                }
                            },
                            "x-kubernetes-validations": [
                                {"rule": "!has(self.size) || self.size != 13", "message": "13 brings bad luck"}
                            ]
                        },
                        "status": {"type": "object", "properties": {
                            "replicas": {"type": "integer"}, "phase": {"type": "string"}}}
                    }
                }}
            }]
        }
    })
}
