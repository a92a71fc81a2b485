//! Networks over the API server in process: what is refused, and what controllers make of the rest, with nodes played by the test.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should stop")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::{Api, Client, Resource, ResourceExt};
use prometheus_client::registry::Registry;
use pullpiri_apiserver::auth::UserInfo;
use pullpiri_apiserver::{ApiServer, Config as ServerConfig};
use pullpiri_controllers::{Config, Controllers, Metrics};
use pullpiri_crds::{Model, ModelInstance, Network, NetworkSlice, NodeRuntime, Schedule};
use pullpiri_e2e::process::{self, Pullpiri, free_address};
use pullpiri_e2e::wait_for;
use pullpiri_store::memory::MemoryStore;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(30);
const NS: &str = "default";

struct Bed {
    /// In this process; else it is reached over its socket.
    server: Option<ApiServer>,
    client: Client,
    shutdown: CancellationToken,
}

impl Bed {
    async fn start() -> Self {
        let mut config = ServerConfig::new(Arc::new(MemoryStore::default()));
        config.virtual_resources = vec![serde_json::to_value(pullpiri_crds::signal::definition().unwrap()).unwrap()];
        config.roles = pullpiri_crds::access::roles();
        let server = ApiServer::open(config).await.unwrap();
        let crds = pullpiri_crds::all().into_iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
        server.install(crds).await.unwrap();
        let client = server.client(UserInfo::new("test", ["system:masters".to_owned()]));
        Self { server: Some(server), client, shutdown: CancellationToken::new() }
    }

    fn controllers(&self) -> JoinHandle<()> {
        let config = Config::new("test", Metrics::register(&mut Registry::default()));
        let user = UserInfo::new(pullpiri_crds::access::CONTROLLERS_USER, []);
        let client = self.server.as_ref().map_or_else(|| self.client.clone(), |server| server.client(user));
        tokio::spawn(Controllers::run(client, config, self.shutdown.clone()))
    }

    /// Applies an object of any of our kinds as a person does.
    async fn apply(&self, object: &Value) -> Result<DynamicObject, String> {
        let kind = object["kind"].as_str().unwrap();
        let resource = match kind {
            "Network" => ApiResource::erase::<Network>(&()),
            "Schedule" => ApiResource::erase::<Schedule>(&()),
            "Model" => ApiResource::erase::<Model>(&()),
            "ModelInstance" => ApiResource::erase::<ModelInstance>(&()),
            "NodeRuntime" => ApiResource::erase::<NodeRuntime>(&()),
            other => panic!("{other}"),
        };
        let name = object["metadata"]["name"].as_str().unwrap();
        let api: Api<DynamicObject> = match kind {
            "NodeRuntime" => Api::all_with(self.client.clone(), &resource),
            _ => Api::namespaced_with(self.client.clone(), NS, &resource),
        };
        let applied = api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await;
        applied.map_err(|error| match error {
            kube::Error::Api(status) => format!("{} {}", status.code, status.message),
            other => other.to_string(),
        })
    }

    async fn slices(&self) -> Vec<NetworkSlice> {
        let api: Api<NetworkSlice> = Api::all(self.client.clone());
        api.list(&ListParams::default()).await.unwrap().items
    }

    async fn until_slices(&self, what: &str, accept: impl Fn(&[NetworkSlice]) -> bool) -> Vec<NetworkSlice> {
        wait_for(what, LIMIT, || async {
            let slices = self.slices().await;
            if accept(&slices) { Ok(slices) } else { Err(format!("{slices:#?}")) }
        })
        .await
        .unwrap()
    }

    async fn until_condition(&self, network: &str, kind: &str, status: &str, reason: &str) -> String {
        let api: Api<Network> = Api::namespaced(self.client.clone(), NS);
        wait_for(&format!("{network} is {kind}={status} {reason}"), LIMIT, || async {
            let network = api.get(network).await.unwrap();
            let conditions = network.status.map(|s| s.conditions).unwrap_or_default();
            let found = conditions.iter().find(|c| c.type_ == kind && c.status == status && c.reason == reason);
            found.map(|c| c.message.clone()).ok_or_else(|| format!("{conditions:#?}"))
        })
        .await
        .unwrap()
    }

    async fn node(&self, name: &str, address: &str, link_bps: i64) {
        self.apply(&json!({"apiVersion": "pullpiri.io/v1alpha1", "kind": "NodeRuntime", "metadata": {"name": name}, "spec": {}}))
            .await
            .unwrap();
        self.says(name, address, link_bps, None).await;
    }

    /// What a node reports of its network.
    async fn says(&self, name: &str, address: &str, link_bps: i64, generation: Option<i64>) {
        let api: Api<NodeRuntime> = Api::all(self.client.clone());
        let mut network = json!({"backend": "tcx+htb", "uplink": "eth0", "linkBps": link_bps, "addresses": [address]});
        if let Some(generation) = generation {
            network["generation"] = generation.into();
        }
        let body = json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "NodeRuntime", "metadata": {"name": name}, "status": {"network": network},
        });
        api.patch_status(name, &PatchParams::apply("agent").force(), &Patch::Apply(body)).await.unwrap();
    }
}

fn network(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "pullpiri.io/v1alpha1", "kind": "Network", "metadata": {"name": name}, "spec": spec})
}

fn instance(name: &str, model: &str, labels: &Value, network: &str, address: &str, node: &str) -> Value {
    json!({
        "apiVersion": "pullpiri.io/v1alpha1", "kind": "ModelInstance", "metadata": {"name": name},
        "spec": {
            "package": "p", "model": model, "nodeName": node, "run": true,
            "template": {"labels": labels, "spec": {"containers": [{"name": "c", "image": "localhost/c:1"}]}},
            "network": {"name": network, "addresses": [address], "gateways": ["10.20.0.1"]},
        },
    })
}

fn chassis() -> Value {
    json!({
        "mode": "Bridge", "subnet": {"v4": "10.20.0.0/24", "v6": "fd00:20::/64"}, "internal": "Deny",
        "egress": {"masquerade": true},
        "allow": [
            {"name": "readings", "from": {"matchLabels": {"role": "sensor"}}, "to": {"model": "brake"}, "protocol": "UDP", "ports": ["7001"]},
            {"from": {"cidr": "192.0.2.0/24"}},
            {"from": {}, "protocol": "ICMP"},
        ],
        "ports": [{"hostPort": 8080, "to": {"matchLabels": {"role": "brake"}}}],
        "qos": {"classes": [
            {"name": "control", "priority": 0, "guarantee": "20M", "ceiling": "20M", "dscp": 46, "selectors": [{"protocol": "UDP", "port": 7001}]},
            {"name": "bulk", "priority": 7, "guarantee": "999k", "ceiling": "1M", "selectors": [{"model": "video"}, {"matchLabels": {"a": "b"}}, {"dscp": 10}]},
            {"name": "number", "priority": 7, "guarantee": 1000, "ceiling": 2000, "selectors": [{"port": 80}]},
        ]},
    })
}

/// `base` with a value at a JSON pointer; null removes.
fn with(base: &Value, pointer: &str, value: Value) -> Value {
    let mut changed = base.clone();
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let parent = changed.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"));
    match (parent, value) {
        (Value::Object(map), Value::Null) => {
            map.remove(last).unwrap();
        }
        (Value::Object(map), value) => {
            map.insert(last.to_owned(), value);
        }
        (Value::Array(list), value) => list[last.parse::<usize>().unwrap()] = value,
        (other, _) => panic!("{pointer}: {other}"),
    }
    changed
}

#[tokio::test(flavor = "multi_thread")]
async fn good_networks_pass_and_bad_ones_are_refused_by_field() {
    let bed = Bed::start().await;
    for (name, spec) in [
        ("chassis", chassis()),
        ("host", json!({"mode": "Host"})),
        ("empty", json!({})),
        ("six", json!({"subnet": {"v6": "fd00:20::/126"}})),
        ("large", json!({"subnet": {"v4": "10.0.0.0/8"}})),
        ("port", with(&chassis(), "/ports/0/to", json!({"model": "brake"}))),
        ("around", with(&chassis(), "/allow/1/from/cidr", json!("10.0.0.0/8"))),
        ("beside", with(&chassis(), "/allow/1/from/cidr", json!("fd00:21::/64"))),
        (
            "half",
            with(&with(&chassis(), "/qos/classes/2/guarantee", Value::Null), "/qos/classes/2/ceiling", json!("0.5")),
        ),
        ("most", with(&chassis(), "/qos/classes/0/ceiling", json!("9E"))),
        ("fractions", with(&chassis(), "/qos/classes/0/guarantee", json!("0.02G"))),
    ] {
        let applied = bed.apply(&network(name, spec)).await;
        assert!(applied.is_ok(), "{name}: {applied:?}");
    }
    let mut wrong = Vec::new();
    for (pointer, value, said) in [
        ("/mode", json!("Host"), vec!["spec.subnet", "mode Host uses the node's addresses"]),
        ("/subnet", Value::Null, vec!["spec.subnet", "mode Bridge needs a subnet"]),
        ("/subnet", json!({}), vec!["spec.subnet", "v4 or v6 must be set"]),
        ("/subnet/v4", json!("10.20.0.1/24"), vec!["spec.subnet.v4", "without host bits", "10.20.0.1/24"]),
        ("/subnet/v4", json!("10.20.0.0/31"), vec!["spec.subnet.v4", "/8 to /30", "10.20.0.0/31"]),
        ("/subnet/v4", json!("10.0.0.0/7"), vec!["spec.subnet.v4"]),
        ("/subnet/v4", json!("300.0.0.0/24"), vec!["spec.subnet.v4", "300.0.0.0/24"]),
        ("/subnet/v4", json!("fd00::/64"), vec!["spec.subnet.v4"]),
        ("/subnet/v4", json!("127.1.0.0/16"), vec!["spec.subnet.v4", "127.0.0.0/8", "got 127.1.0.0/16"]),
        ("/subnet/v4", json!("0.1.0.0/16"), vec!["spec.subnet.v4", "0.0.0.0/8"]),
        ("/subnet/v4", json!("169.0.0.0/8"), vec!["spec.subnet.v4", "169.254.0.0/16"]),
        ("/subnet/v4", json!("239.1.0.0/24"), vec!["spec.subnet.v4", "224.0.0.0/4"]),
        ("/subnet/v4", json!("250.0.0.0/8"), vec!["spec.subnet.v4", "240.0.0.0/4"]),
        ("/subnet/v6", json!("fe80::/64"), vec!["spec.subnet.v6", "fe80::/10"]),
        ("/subnet/v6", json!("ff05::/64"), vec!["spec.subnet.v6", "ff00::/8"]),
        ("/subnet/v6", json!("::/64"), vec!["spec.subnet.v6", "::/96"]),
        ("/subnet/v6", json!("100::/64"), vec!["spec.subnet.v6", "100::/64"]),
        ("/subnet/v6", json!("10.20.0.0/24"), vec!["spec.subnet.v6", "IPv6 network", "10.20.0.0/24"]),
        ("/subnet/v6", json!("fd00:20::1/64"), vec!["spec.subnet.v6", "without host bits"]),
        ("/subnet/v6", json!("fd00:20::/127"), vec!["spec.subnet.v6", "/48 to /126"]),
        ("/qos/classes/0/guarantee", json!("21M"), vec!["spec.qos.classes[0].guarantee", "21M", "exceeds ceiling 20M"]),
        (
            "/qos/classes/1/guarantee",
            json!("1001k"),
            vec!["spec.qos.classes[1].guarantee", "1001k", "exceeds ceiling 1M"],
        ),
        (
            "/qos/classes/2/guarantee",
            json!(2001),
            vec!["spec.qos.classes[2].guarantee", "2001", "exceeds ceiling 2000"],
        ),
        ("/qos/classes/0/ceiling", json!("0M"), vec!["spec.qos.classes[0].ceiling", "more than 0", "got 0M"]),
        ("/qos/classes/2/ceiling", json!(0), vec!["spec.qos.classes[2].ceiling", "more than 0", "got 0"]),
        (
            "/qos/classes/0/guarantee",
            json!("10E"),
            vec!["spec.qos.classes[0].guarantee", "less than 9223372036854775807"],
        ),
        ("/qos/classes/0/ceiling", json!("9.3e18"), vec!["spec.qos.classes[0].ceiling", "got 9.3e18"]),
        (
            "/qos/classes/0/guarantee",
            json!("1500m"),
            vec!["spec.qos.classes[0].guarantee", "20M or 1500k", "got 1500m"],
        ),
        ("/qos/classes/0/ceiling", json!("20000000000u"), vec!["spec.qos.classes[0].ceiling", "got 20000000000u"]),
        ("/allow/1/from/cidr", json!("10.20.0.128/25"), vec!["spec.allow:", "outside of all networks", "10.20.0.0/24"]),
        ("/allow/1/from/cidr", json!("10.20.0.0/24"), vec!["spec.allow:", "within 10.20.0.0/24"]),
        ("/allow/1/from/cidr", json!("fd00:20::8/128"), vec!["spec.allow:", "within fd00:20::/64"]),
        ("/qos/classes/0/guarantee", json!("-1M"), vec!["spec.qos.classes[0].guarantee"]),
        ("/qos/classes/0/guarantee", json!("fast"), vec!["spec.qos.classes[0].guarantee"]),
        ("/qos/classes/0/priority", json!(8), vec!["spec.qos.classes[0].priority", "7"]),
        ("/qos/classes/0/dscp", json!(64), vec!["spec.qos.classes[0].dscp", "63"]),
        ("/qos/classes/0/selectors", json!([{}]), vec!["spec.qos.classes[0].selectors[0]", "at least one of"]),
        ("/qos/classes/0/selectors", json!([]), vec!["spec.qos.classes[0].selectors"]),
        ("/qos/classes/1/name", json!("control"), vec!["spec.qos.classes", "control"]),
        ("/allow/0/protocol", Value::Null, vec!["spec.allow[0].ports", "ports need protocol TCP or UDP"]),
        ("/allow/0/protocol", json!("ICMP"), vec!["spec.allow[0].ports", "ports need protocol TCP or UDP"]),
        ("/allow/0/ports/0", json!("http"), vec!["spec.allow[0].ports[0]"]),
        ("/allow/0/ports/0", json!("90-80"), vec!["spec.allow[0].ports", "90-80"]),
        ("/allow/0/ports/0", json!("0"), vec!["spec.allow[0].ports", "65535"]),
        ("/allow/0/ports/0", json!("65536"), vec!["spec.allow[0].ports", "65536"]),
        ("/allow/1/from/model", json!("x"), vec!["spec.allow[1].from", "cidr"]),
        ("/allow/1/from/cidr", json!("192.0.2.0"), vec!["spec.allow[1].from.cidr", "192.0.2.0"]),
        ("/allow/1/from/cidr", json!("192.0.2.1/24"), vec!["spec.allow[1].from.cidr", "192.0.2.1/24"]),
        ("/ports/0/hostPort", json!(0), vec!["spec.ports[0].hostPort", "1"]),
        ("/ports/0/hostPort", json!(65536), vec!["spec.ports[0].hostPort", "65535"]),
        ("/ports/0/to", json!({"matchLabels": {}}), vec!["spec.ports[0].to", "model or matchLabels"]),
        ("/ports/0/to", json!({}), vec!["spec.ports[0].to", "model or matchLabels"]),
        ("/ports/0/protocol", json!("ICMP"), vec!["spec.ports[0].protocol", "ICMP", "TCP"]),
        (
            "/qos/classes/1/selectors/0/model",
            json!("Video_1"),
            vec!["spec.qos.classes[1].selectors[0].model", "Video_1"],
        ),
        ("/qos/classes/1/selectors/0/model", json!("a..b"), vec!["spec.qos.classes[1].selectors[0].model", "a..b"]),
        (
            "/qos/classes/0/selectors/0/protocol",
            json!("SCTP"),
            vec!["spec.qos.classes[0].selectors[0].protocol", "SCTP", "UDP"],
        ),
        (
            "/qos/classes/0/selectors/0/protocol",
            json!("ICMP"),
            vec!["spec.qos.classes[0].selectors[0].port", "ICMP has no ports"],
        ),
        ("/allow/0/from/model", json!("a b"), vec!["spec.allow[0].from.model", "a b"]),
        ("/allow/0/from/network", json!("-x"), vec!["spec.allow[0].from.network", "-x"]),
        ("/allow/0/to/model", json!("brake_1"), vec!["spec.allow[0].to.model", "brake_1"]),
        ("/allow/0/protocol", json!("tcp"), vec!["spec.allow[0].protocol", "tcp", "TCP"]),
    ] {
        let Err(message) = bed.apply(&network("bad", with(&chassis(), pointer, value.clone()))).await else {
            wrong.push(format!("{pointer} = {value} was accepted"));
            continue;
        };
        // Two of one key can't be applied at all, which isn't a matter of validation.
        if !message.starts_with("422 ") && !message.contains("duplicate entries for key") {
            wrong.push(format!("{pointer} = {value}: {message}"));
        }
        if let Some(part) = said.iter().find(|part| !message.contains(**part)) {
            wrong.push(format!("{pointer} = {value}: expected {part:?} in {message}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn times_of_tasks_are_refused_by_field() {
    let bed = Bed::start().await;
    let schedule = |task: Value| json!({"apiVersion": "pullpiri.io/v1alpha1", "kind": "Schedule", "metadata": {"name": "s"}, "spec": {"tasks": [task]}});
    let task = json!({"name": "t", "wcet": "1ms", "period": "10ms", "deadline": "20ms", "jitter": "0ns"});
    let applied = bed.apply(&schedule(task.clone())).await;
    assert!(applied.is_ok(), "{applied:?}");
    for (field, value) in [
        ("wcet", "0ms"),
        ("wcet", "0s0ns"),
        ("wcet", "-1ms"),
        ("wcet", "1"),
        ("period", "0us"),
        ("period", "-10ms"),
        ("deadline", "0.0s"),
        ("deadline", "-20ms"),
        ("jitter", "-1ns"),
        ("offset", "-1ns"),
        ("blocking", "-1ms"),
    ] {
        let message = bed.apply(&schedule(with(&task, &format!("/{field}"), json!(value)))).await.err();
        let message = message.unwrap_or_else(|| panic!("{field} {value} was accepted"));
        let named = message.contains(&format!("spec.tasks[0].{field}")) && message.contains(value);
        assert!(named, "{field} {value}: {message}");
    }
    // A server applies no two items of one key; creating them is another way in.
    let twice = json!({"apiVersion": "pullpiri.io/v1alpha1", "kind": "Schedule", "metadata": {"name": "twice"}, "spec": {"tasks": [task, task]}});
    let schedules: Api<DynamicObject> =
        Api::namespaced_with(bed.client.clone(), NS, &ApiResource::erase::<Schedule>(&()));
    let created = schedules.create(&PostParams::default(), &serde_json::from_value(twice).unwrap()).await;
    let message = created.map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("spec.tasks[1]") && message.contains("\"t\""), "{message}");
    let many: Vec<Value> = (0..10_000).map(|n| with(&task, "/name", json!(format!("t{n}")))).collect();
    let many = json!({"apiVersion": "pullpiri.io/v1alpha1", "kind": "Schedule", "metadata": {"name": "many"}, "spec": {"tasks": many}});
    let message = bed.apply(&many).await.err().unwrap();
    assert!(message.contains("spec.tasks") && message.contains("10000") && message.contains("1024"), "{message}");
    let model = |realtime: Value| {
        json!({
            "apiVersion": "pullpiri.io/v1alpha1", "kind": "Model", "metadata": {"name": "m"},
            "spec": {"containers": [{"name": "c", "image": "localhost/c:1"}], "realtime": realtime},
        })
    };
    let realtime = json!({"wcet": "1ms", "period": "10ms"});
    let applied = bed.apply(&model(realtime.clone())).await;
    assert!(applied.is_ok(), "{applied:?}");
    for (field, value) in [("wcet", "0ms"), ("period", "0s"), ("wcet", "-1ms"), ("deadline", "0ns")] {
        let message = bed.apply(&model(with(&realtime, &format!("/{field}"), json!(value)))).await.err();
        let message = message.unwrap_or_else(|| panic!("realtime.{field} {value} was accepted"));
        assert!(message.contains(&format!("spec.realtime.{field}")), "{field} {value}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_become_slices_and_slices_follow() {
    let bed = Bed::start().await;
    let controllers = bed.controllers();
    bed.node("hpc", "192.0.2.1", 100_000_000).await;
    bed.node("zone", "192.0.2.2", 100_000_000).await;
    bed.apply(&network("chassis", chassis())).await.unwrap();
    bed.until_condition("chassis", "Ready", "True", "AsDeclared").await;
    bed.until_condition("chassis", "Resolved", "False", "SelectorUnknown").await;
    for (name, model, role, address, node) in [
        ("brake-1", "brake", "brake", "10.20.0.2", "hpc"),
        ("sensor-1", "sensor", "sensor", "10.20.0.3", "zone"),
        ("video-1", "video", "video", "10.20.0.4", "zone"),
    ] {
        bed.apply(&instance(name, model, &json!({"role": role}), "chassis", address, node)).await.unwrap();
    }
    let slices = bed
        .until_slices("both nodes know all", |slices| {
            slices.len() == 2 && slices.iter().all(|s| s.spec.endpoints.len() == 3)
        })
        .await;
    let hpc = slices.iter().find(|s| s.name_any() == "hpc-0").unwrap();
    assert_eq!(hpc.labels()["pullpiri.io/node"], "hpc");
    assert_eq!(hpc.labels()["app.kubernetes.io/managed-by"], "pullpiri-network");
    assert_eq!(hpc.spec.ports[0].address, "10.20.0.2");
    assert!(hpc.spec.networks[0].egress && hpc.spec.networks[0].masquerade);
    assert!(hpc.spec.rules.iter().any(|r| r.name == "default/chassis/readings" && r.first_port == 7001));
    // The models have instances now.
    bed.until_condition("chassis", "Resolved", "True", "AllResolved").await;
    bed.until_condition("chassis", "Ready", "False", "Starting").await;
    for slice in &slices {
        let address = if slice.spec.node_name == "hpc" { "192.0.2.1" } else { "192.0.2.2" };
        bed.says(&slice.spec.node_name, address, 100_000_000, Some(slice.spec.generation)).await;
    }
    bed.until_condition("chassis", "Progressing", "False", "AsDeclared").await;
    bed.until_condition("chassis", "Ready", "True", "AsDeclared").await;

    // One that overlaps is refused and changes nothing.
    bed.apply(&network("late", json!({"subnet": {"v4": "10.20.0.128/25"}}))).await.unwrap();
    let said = bed.until_condition("late", "Ready", "False", "SubnetOverlaps").await;
    assert!(said.contains("10.20.0.128/25") && said.contains("default/chassis"), "{said}");
    let now = bed.slices().await;
    assert_eq!(
        now.iter().map(|s| s.spec.generation).collect::<Vec<_>>(),
        slices.iter().map(|s| s.spec.generation).collect::<Vec<_>>()
    );

    // More than the link carries.
    bed.apply(&network(
        "chassis",
        with(
            &chassis(),
            "/qos/classes/0",
            json!(
                {"name": "control", "priority": 0, "guarantee": "200M", "selectors": [{"port": 7001}]}
            ),
        ),
    ))
    .await
    .unwrap();
    let said = bed.until_condition("chassis", "Ready", "False", "GuaranteeExceedsLink").await;
    assert!(
        said.contains("200999000")
            || said.contains("201000000")
            || said.contains("200000000") && said.contains("100000000"),
        "{said}"
    );
    bed.until_slices("no class is applied", |slices| {
        slices.len() == 2 && slices.iter().all(|s| s.spec.classes.is_empty())
    })
    .await;
    bed.apply(&network("chassis", chassis())).await.unwrap();
    let before = bed.until_slices("classes are back", |slices| slices.iter().all(|s| s.spec.classes.len() == 3)).await;

    // Somebody removes a slice: it comes back, above what there was.
    let api: Api<NetworkSlice> = Api::all(bed.client.clone());
    api.delete("hpc-0", &DeleteParams::default()).await.unwrap();
    bed.until_slices("the slice is back", |slices| slices.len() == 2).await;

    // A node without models needs no slice.
    let instances: Api<ModelInstance> = Api::namespaced(bed.client.clone(), NS);
    instances.delete("brake-1", &DeleteParams::default()).await.unwrap();
    bed.until_slices("hpc needs none", |slices| slices.len() == 1 && slices[0].spec.endpoints.len() == 2).await;
    assert!(
        bed.slices().await[0].spec.generation
            > before.iter().find(|s| s.spec.node_name == "zone").unwrap().spec.generation
    );
    bed.shutdown.cancel();
    controllers.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_instances_ends_in_few_generations() {
    const COUNT: usize = 100;
    const LAST_GAP_MS: u128 = 160;
    let bed = Bed::start().await;
    let controllers = bed.controllers();
    bed.node("hpc", "192.0.2.1", 100_000_000).await;
    bed.apply(&network("chassis", chassis())).await.unwrap();
    bed.until_condition("chassis", "Ready", "True", "AsDeclared").await;
    let began = Instant::now();
    for i in 0..COUNT {
        let address = format!("10.20.0.{}", i + 2);
        let object = instance(&format!("video-{i}"), "video", &json!({}), "chassis", &address, "hpc");
        bed.apply(&object).await.unwrap();
    }
    let slices =
        bed.until_slices("all are known", |s| s.iter().map(|s| s.spec.endpoints.len()).sum::<usize>() == COUNT).await;
    let generation = usize::try_from(slices[0].spec.generation).unwrap();
    // Where the burst takes long it is none: then no more than fit into the time that it took, at the gap that lasting change leaves.
    let fit = usize::try_from(began.elapsed().as_millis() / LAST_GAP_MS).unwrap();
    assert!(generation < (COUNT / 2).max(fit + 10), "{generation} generations for {COUNT} instances");
    println!("{generation} generations for {COUNT} instances");
    bed.shutdown.cancel();
    controllers.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_with_unknown_fields_are_refused_by_field() {
    let bed = Bed::start().await;
    let api: Api<DynamicObject> = Api::namespaced_with(bed.client.clone(), NS, &ApiResource::erase::<Network>(&()));
    let operator = json!({"matchExpressions": [{"key": "role", "operator": "Like", "values": ["brake"]}]});
    for (pointer, value, field) in [
        ("/allow/0/from", json!({"podSelector": {}}), "spec.allow[0].from.podSelector"),
        ("/allow/0/from", operator.clone(), "spec.allow[0].from.matchExpressions"),
        ("/allow/0/to", json!({"modle": "brake"}), "spec.allow[0].to.modle"),
        ("/ports/0/to", operator.clone(), "spec.ports[0].to.matchExpressions"),
        ("/qos/classes/0/selectors/0", json!({"modle": "brake", "port": 1}), "spec.qos.classes[0].selectors[0].modle"),
        ("/attach", operator, "spec.attach.matchExpressions"),
    ] {
        let spec = with(&chassis(), pointer, value);
        let applied = bed.apply(&network("bad", spec.clone())).await.map(|_| ()).unwrap_err();
        let last = field.rsplit('.').next().unwrap();
        assert!(applied.contains(last), "{pointer}: {applied}");
        // As `kubectl create` asks.
        let strict = PostParams { field_manager: None, ..PostParams::default() };
        let object: DynamicObject = serde_json::from_value(network("bad", spec)).unwrap();
        let request = kube::core::Request::new(Network::url_path(&(), Some(NS)));
        let mut request = request.create(&strict, serde_json::to_vec(&object).unwrap()).unwrap();
        let uri = format!("{}fieldValidation=Strict", request.uri()).parse().unwrap();
        *request.uri_mut() = uri;
        let created = bed.client.request::<DynamicObject>(request).await.map(|_| ()).unwrap_err().to_string();
        assert!(created.contains(&format!("unknown field \"{field}\"")), "{pointer}: {created}");
    }
    assert!(api.list(&ListParams::default()).await.unwrap().items.is_empty());
}

/// Waits until the API server serves a kind.
async fn served<K>(client: &Client)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let listed = || async { api.list(&ListParams::default()).await.map_err(|error| error.to_string()) };
    wait_for(&format!("{} is served", K::kind(&())), LIMIT, listed).await.unwrap();
}

/// The command as people run it, against an API server of its own.
#[tokio::test(flavor = "multi_thread")]
async fn explain_answers_with_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Pullpiri::start("apiserver", &folder.path().join("data"), free_address().unwrap(), &[]).unwrap();
    process.ready().await.unwrap();
    let kubeconfig = process.kubeconfig();
    let options = kube::config::KubeConfigOptions::default();
    let file = kube::config::Kubeconfig::read_from(&kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(file, &options).await.unwrap();
    let bed = Bed { server: None, client: Client::try_from(config).unwrap(), shutdown: CancellationToken::new() };
    let crds: Api<CustomResourceDefinition> = Api::all(bed.client.clone());
    for crd in pullpiri_crds::all() {
        crds.create(&PostParams::default(), &crd).await.unwrap();
    }
    tokio::join!(
        served::<Network>(&bed.client),
        served::<ModelInstance>(&bed.client),
        served::<NodeRuntime>(&bed.client),
        served::<NetworkSlice>(&bed.client),
    );
    let controllers = bed.controllers();
    bed.node("hpc", "192.0.2.1", 100_000_000).await;
    bed.apply(&network("chassis", chassis())).await.unwrap();
    for (name, role, address) in [("brake", "brake", "10.20.0.2"), ("sensor", "sensor", "10.20.0.3")] {
        bed.apply(&instance(&format!("{name}-1"), name, &json!({"role": role}), "chassis", address, "hpc"))
            .await
            .unwrap();
    }
    bed.until_slices("both are known", |s| s.iter().map(|s| s.spec.endpoints.len()).sum::<usize>() == 2).await;
    let explain = |arguments: &[&str]| {
        let mut command = std::process::Command::new(process::binary().unwrap());
        command.args(["net", "explain", "--kubeconfig"]).arg(&kubeconfig).args(arguments);
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, said, _) = explain(&["sensor", "brake", "7001/UDP"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("rule default/chassis/readings") && said.contains("class default/chassis/control"), "{said}");
    let (code, said, _) = explain(&["brake-1", "sensor-1", "7001/UDP", "-o", "json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &said[0]["allowed"], &said[0]["reason"]), (Some(1), &json!(false), &json!("NoRule")));
    let (code, _, error) = explain(&["ghost", "brake", "7001/UDP"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("namespace default has no ModelInstance ghost"), "{error}");
    bed.shutdown.cancel();
    controllers.await.unwrap();
    assert_eq!(process.stop(), Some(0));
    let (code, _, error) = explain(&["sensor", "brake", "7001/UDP"]);
    assert_eq!(code, Some(2), "{error}");
}

/// The kind's name, so that a renamed resource is noticed here.
#[test]
fn slices_are_cluster_scoped() {
    assert_eq!(NetworkSlice::url_path(&(), None), "/apis/pullpiri.io/v1alpha1/networkslices");
}
