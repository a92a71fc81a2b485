//! Network: a virtual network that Models join: addresses, who may talk to whom, and how the link between nodes is shared.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::{Message, Rule};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::quantity::Quantity;

/// `10.20.0.0/24`.
const CIDR_V4: &str = r"^([0-9]{1,3}\.){3}[0-9]{1,3}/[0-9]{1,2}$";
/// `fd00:20::/64`.
const CIDR_V6: &str = r"^[0-9a-fA-F:.]+/[0-9]{1,3}$";
/// `80` or `8000-8100`.
const PORT_RANGE: &str = r"^[0-9]{1,5}(-[0-9]{1,5})?$";
const NAME: &str = crate::names::SUBDOMAIN;

/// A virtual network that Models join.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "pullpiri.io",
    version = "v1alpha1",
    kind = "Network",
    plural = "networks",
    shortname = "net",
    category = "pullpiri",
    namespaced,
    status = "NetworkStatus",
    derive = "PartialEq",
    doc = "A virtual network that Models join: addresses, rules and shares of the link.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".status.mode"),
    printcolumn(name = "Subnet", type_ = "string", json_path = ".spec.subnet.v4"),
    printcolumn(name = "Used", type_ = "integer", json_path = ".status.addresses"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("!has(self.mode) || self.mode != 'Bridge' || has(self.subnet)").message("mode Bridge needs a subnet").field_path(".subnet"))]
#[x_kube(validation = Rule::new("!has(self.mode) || self.mode != 'Host' || !has(self.subnet)").message("mode Host uses the node's addresses: it has no subnet").field_path(".subnet"))]
#[x_kube(validation = outside_of_itself("v4"))]
#[x_kube(validation = outside_of_itself("v6"))]
#[serde(rename_all = "camelCase")]
pub struct NetworkSpec {
    /// Default: Bridge with a subnet, else Host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<NetworkMode>,
    /// Where addresses are taken from, under Bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Subnet>,
    /// Models that join beside those to which their package gives this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<LabelSelector>,
    /// Ports of the nodes that lead to models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ports: Vec<PublishedPort>,
    /// What leaves the network for elsewhere. Default: nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// What is allowed between its models without a rule. Default Allow. Between networks everything needs a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal: Option<Verdict>,
    /// Who else may talk to models of this network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub allow: Vec<AllowRule>,
    /// How the link between nodes is shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<Qos>,
}

/// A rule for addresses of the network itself would never match: a model of it is known by what it is, and others' packets from there are dropped.
fn outside_of_itself(family: &str) -> Rule {
    let given =
        format!("has(self.subnet) && has(self.subnet.{family}) && isCIDR(self.subnet.{family}) && has(self.allow)");
    let inside =
        format!("has(r.from.cidr) && isCIDR(r.from.cidr) && cidr(self.subnet.{family}).containsCIDR(r.from.cidr)");
    let expected = "'cidr is for addresses outside of all networks, and models of this one are chosen by model or matchLabels; got one within '";
    Rule::new(format!("!({given} && self.allow.exists(r, {inside}))"))
        .message(Message::Expression(format!("{expected} + self.subnet.{family}")))
        .field_path(".allow")
}

/// `1500m` is 1.5 bits per second: whoever wrote it meant something else.
fn whole(rate: &str) -> Rule {
    Rule::new(format!("!has(self.{rate}) || !string(self.{rate}).matches('[num]$')"))
        .message(Message::Expression(format!(
            "'must be bits per second, as in 20M or 1500k, where m, u and n are fractions of one; got ' + string(self.{rate})"
        )))
        .field_path(format!(".{rate}"))
}

/// Kubernetes reads whatever is larger as this, too.
fn countable(rate: &str) -> Rule {
    Rule::new(format!(
        "!has(self.{rate}) || quantity(string(self.{rate})).compareTo(quantity('9223372036854775807')) < 0"
    ))
    .message(Message::Expression(format!(
        "'must be less than 9223372036854775807 bits per second; got ' + string(self.{rate})"
    )))
    .field_path(format!(".{rate}"))
}

/// Where the addresses of the models come from.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// An address for each model, behind a bridge on each node.
    Bridge,
    /// The node's own network.
    #[default]
    Host,
}

/// Where addresses are taken from; the first usable one is the gateway's.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(validation = Rule::new("has(self.v4) || has(self.v6)").message("v4 or v6 must be set"))]
#[x_kube(validation = Rule::new("!has(self.v4) || (isCIDR(self.v4) && cidr(self.v4).ip().family() == 4 && cidr(self.v4).masked() == cidr(self.v4) && cidr(self.v4).prefixLength() >= 8 && cidr(self.v4).prefixLength() <= 30)").message(Message::Expression("\"must be an IPv4 network of /8 to /30 without host bits, as 10.20.0.0/24; got \" + self.v4".into())).field_path(".v4"))]
#[x_kube(validation = Rule::new("!has(self.v6) || (isCIDR(self.v6) && cidr(self.v6).ip().family() == 6 && cidr(self.v6).masked() == cidr(self.v6) && cidr(self.v6).prefixLength() >= 48 && cidr(self.v6).prefixLength() <= 126)").message(Message::Expression("\"must be an IPv6 network of /48 to /126 without host bits, as fd00:20::/64; got \" + self.v6".into())).field_path(".v6"))]
#[x_kube(validation = Rule::new("!has(self.v4) || !isCIDR(self.v4) || cidr(self.v4).ip().family() != 4 || !['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/4', '240.0.0.0/4'].exists(r, cidr(r).containsCIDR(cidr(self.v4).masked()) || cidr(self.v4).masked().containsCIDR(r))").message(Message::Expression("\"must hold addresses that models can have: none of 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4, 240.0.0.0/4; got \" + self.v4".into())).field_path(".v4"))]
#[x_kube(validation = Rule::new("!has(self.v6) || !isCIDR(self.v6) || cidr(self.v6).ip().family() != 6 || !['::/96', '100::/64', 'fe80::/10', 'ff00::/8'].exists(r, cidr(r).containsCIDR(cidr(self.v6).masked()) || cidr(self.v6).masked().containsCIDR(r))").message(Message::Expression("\"must hold addresses that models can have: none of ::/96, 100::/64, fe80::/10, ff00::/8; got \" + self.v6".into())).field_path(".v6"))]
#[serde(rename_all = "camelCase")]
pub struct Subnet {
    /// An IPv4 network: `10.20.0.0/24`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 18), regex(pattern = CIDR_V4))]
    pub v4: Option<String>,
    /// An IPv6 network: `fd00:20::/64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43), regex(pattern = CIDR_V6))]
    pub v6: Option<String>,
}

/// Models whose labels have all of these.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// The labels, by key.
    #[schemars(extend("maxProperties" = 16, "minProperties" = 1))]
    pub match_labels: BTreeMap<String, String>,
}

/// A port of the nodes on which a selected model runs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PublishedPort {
    /// The port of the node, 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub host_port: i32,
    /// Default: hostPort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub target_port: Option<i32>,
    /// TCP (the default) or UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<crate::model::Protocol>,
    /// By the model's name, its labels, or both.
    #[x_kube(validation = Rule::new("has(self.model) || has(self.matchLabels) && size(self.matchLabels) > 0").message("model or matchLabels must be set"))]
    pub to: Target,
}

/// What leaves the network.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Egress {
    /// Whether what leaves the node gets the node's address.
    pub masquerade: bool,
}

/// Whether a connection is let through.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    #[default]
    Allow,
    Deny,
}

/// One direction of new connections; what answers them passes by itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(validation = Rule::new("!has(self.ports) || self.ports.all(p, !p.matches('^[0-9]{1,5}(-[0-9]{1,5})?$') || (int(p.split('-')[0]) >= 1 && int(p.split('-')[0]) <= int(p.split('-')[size(p.split('-')) - 1]) && int(p.split('-')[size(p.split('-')) - 1]) <= 65535))").message(Message::Expression("\"ports are from 1 to 65535, the first of a range not above its last, as 80 or 8000-8100; got \" + self.ports.join(\", \")".into())).field_path(".ports"))]
#[x_kube(validation = Rule::new("!has(self.ports) || size(self.ports) == 0 || (has(self.protocol) && self.protocol in ['TCP', 'UDP'])").message(Message::Expression("'ports need protocol TCP or UDP; got ' + (has(self.protocol) ? self.protocol : 'none')".into())).field_path(".ports"))]
#[serde(rename_all = "camelCase")]
pub struct AllowRule {
    /// For people. Default: its position, as `allow[0]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    pub from: Peer,
    /// Models of this network. Default: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Target>,
    /// `80` or `8000-8100`. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 11), regex(pattern = PORT_RANGE)))]
    pub ports: Vec<String>,
    /// Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<RuleProtocol>,
}

/// Where a connection comes from: every field that is set must match. Empty: any model of this network.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(validation = Rule::new("!has(self.cidr) || (!has(self.model) && !has(self.matchLabels) && !has(self.network))").message(Message::Expression("'cidr is for addresses outside of all networks: it excludes model, matchLabels and network; got cidr ' + self.cidr + ' beside one of them'".into())))]
#[x_kube(validation = Rule::new("!has(self.cidr) || (isCIDR(self.cidr) && cidr(self.cidr).masked() == cidr(self.cidr))").message(Message::Expression("\"must be a network without host bits, as 192.0.2.0/24; got \" + self.cidr".into())).field_path(".cidr"))]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// A Model's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub model: Option<String>,
    /// Labels of the model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub match_labels: BTreeMap<String, String>,
    /// Another Network of this namespace. Default: this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub network: Option<String>,
    /// Addresses outside of all networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43))]
    pub cidr: Option<String>,
}

/// Models of this network: every field that is set must match.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// A Model's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub model: Option<String>,
    /// Labels of the model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub match_labels: BTreeMap<String, String>,
}

/// A protocol that a rule or a selector asks for.
#[derive(schemars::JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleProtocol {
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
    /// ICMP and ICMPv6.
    #[serde(rename = "ICMP")]
    Icmp,
}

/// How the link between nodes is shared. Rates are bits per second of layer-2 bytes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Qos {
    /// The shares of the link, tried in this order.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub classes: Vec<QosClass>,
}

/// A share of the link.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = Rule::new("!has(self.guarantee) || !has(self.ceiling) || quantity(string(self.guarantee)).compareTo(quantity(string(self.ceiling))) <= 0").message(Message::Expression("\"guarantee \" + string(self.guarantee) + \" exceeds ceiling \" + string(self.ceiling)".into())).field_path(".guarantee"))]
#[x_kube(validation = whole("guarantee"))]
#[x_kube(validation = whole("ceiling"))]
#[x_kube(validation = countable("guarantee"))]
#[x_kube(validation = countable("ceiling"))]
#[x_kube(validation = Rule::new("!has(self.ceiling) || quantity(string(self.ceiling)).compareTo(quantity('0')) > 0").message(Message::Expression("'must be more than 0 bits per second, and is left out for the rate of the link; got ' + string(self.ceiling)".into())).field_path(".ceiling"))]
#[serde(rename_all = "camelCase")]
pub struct QosClass {
    /// The class' name, unique in the network.
    #[schemars(length(min = 1, max = 63), regex(pattern = NAME))]
    pub name: String,
    /// Who is served first when the link is full: 0 before 7.
    #[schemars(range(min = 0, max = 7))]
    pub priority: i32,
    /// Bits per second that it gets whatever others do: `20M`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guarantee: Option<Quantity>,
    /// Bits per second that it never exceeds. Default: the link's rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Quantity>,
    /// The code point that its packets get (RFC 2474).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 63))]
    pub dscp: Option<i32>,
    /// What belongs to it: any of these. The first class that matches takes a packet; what none takes shares what is left.
    #[schemars(length(min = 1, max = 32))]
    pub selectors: Vec<QosSelector>,
}

/// Every field that is set must match.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(validation = Rule::new("has(self.model) || has(self.matchLabels) || has(self.port) || has(self.protocol) || has(self.dscp)").message("a selector needs at least one of model, matchLabels, port, protocol and dscp"))]
#[x_kube(validation = Rule::new("!has(self.port) || !has(self.protocol) || self.protocol != 'ICMP'").message("ICMP has no ports: expected TCP or UDP beside a port").field_path(".port"))]
#[serde(rename_all = "camelCase")]
pub struct QosSelector {
    /// The sending Model's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME))]
    pub model: Option<String>,
    /// Labels of the sending model.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub match_labels: BTreeMap<String, String>,
    /// Source or destination port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// TCP, UDP or ICMP. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<RuleProtocol>,
    /// The code point that the sender set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 63))]
    pub dscp: Option<i32>,
}

/// Where a network stands.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// As the spec says or implies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<NetworkMode>,
    /// Models that have an address of it, or one of each family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<i64>,
    /// Nodes on which models of this network run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub nodes: Vec<NetworkNodeStatus>,
    /// What holds and what does not, one condition per type; see docs/conditions.md.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A node's part of a network.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NetworkNodeStatus {
    /// The NodeRuntime's name.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Models of this network there.
    pub models: i32,
    /// As the node says: `tcx+htb`, `tcx` (no QoS) or `none`.
    #[schemars(length(max = 63))]
    pub backend: String,
    /// Whether its kernel holds the newest rules.
    pub current: bool,
}
