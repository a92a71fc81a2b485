//! The names that a pod of a bridged Network knows its peers by: an `/etc/hosts` of its own, which follows the NetworkSlices.
//!
//! A model of its network is called by its name, by `<model>.<network>` and by its instance's name; a model of another network that rules let
//! it talk to or hear of, by `<model>.<network>` and its instance's name. There is no name server: an ECU may lack the memory for one, and a file is there
//! before the first packet.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use pullpiri_crds::slice::SliceEndpoint;

use super::{Attachment, Generation};
use crate::runtime::PodId;

/// Where a pod finds it.
pub const TARGET: &str = "/etc/hosts";

/// Where a pod's file is kept, given the directory of network namespaces.
#[must_use]
pub fn path(namespaces: &Path, pod: &PodId) -> PathBuf {
    namespaces.with_file_name("hosts").join(&pod.0)
}

/// The file's text.
#[must_use]
pub fn text(attachment: &Attachment, generation: Option<&Generation>) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n");
    let parts = generation.map(|generation| generation.parts.as_slice()).unwrap_or_default();
    let networks: BTreeMap<i32, &str> =
        parts.iter().flat_map(|part| &part.networks).map(|network| (network.id, network.name.as_str())).collect();
    let mut endpoints: Vec<(&SliceEndpoint, &str)> = parts
        .iter()
        .flat_map(|part| &part.endpoints)
        .filter_map(|endpoint| Some((endpoint, *networks.get(&endpoint.network)?)))
        .collect();
    endpoints.sort_by(|(a, _), (b, _)| (&a.model, &a.instance).cmp(&(&b.model, &b.instance)));
    for (endpoint, network) in endpoints {
        let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        let own = if network == attachment.network { format!("{} ", endpoint.model) } else { String::new() };
        for address in &endpoint.addresses {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{address}\t{own}{}.{} {}", endpoint.model, last(network), last(&endpoint.instance));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use pullpiri_crds::network::{NetworkMode, Verdict};
    use pullpiri_crds::slice::{NetworkSliceSpec, SliceNetwork};

    use super::*;

    #[test]
    fn peers_are_known_by_model_network_and_instance() {
        let network = |id, name: &str| SliceNetwork {
            id,
            name: name.to_owned(),
            mode: NetworkMode::Bridge,
            v4: None,
            v6: None,
            gateways: Vec::new(),
            internal: Verdict::Allow,
            masquerade: false,
            egress: false,
        };
        let endpoint = |model: &str, network, addresses: &[&str]| SliceEndpoint {
            instance: format!("default/p-{model}-zone-1"),
            uid: model.to_owned(),
            model: model.to_owned(),
            network,
            identity: 1,
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
            node: "zone".to_owned(),
            via: Vec::new(),
        };
        let part = NetworkSliceSpec {
            networks: vec![network(1, "default/chassis"), network(2, "default/cabin")],
            endpoints: vec![
                endpoint("sensor", 1, &["10.20.0.3"]),
                endpoint("brake", 1, &["10.20.0.2", "fd00:20::2"]),
                endpoint("screen", 2, &["10.30.0.2"]),
            ],
            ..NetworkSliceSpec::default()
        };
        let generation = Generation { number: 1, parts: vec![part] };
        let attachment = Attachment {
            network: "default/chassis".to_owned(),
            addresses: Vec::new(),
            gateways: Vec::new(),
            ports: Vec::new(),
        };
        assert_eq!(
            text(&attachment, Some(&generation)),
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n\
             10.20.0.2\tbrake brake.chassis p-brake-zone-1\n\
             fd00:20::2\tbrake brake.chassis p-brake-zone-1\n\
             10.30.0.2\tscreen.cabin p-screen-zone-1\n\
             10.20.0.3\tsensor sensor.chassis p-sensor-zone-1\n"
        );
        assert_eq!(text(&attachment, None).lines().count(), 2);
        assert_eq!(path(Path::new("/data/netns"), &PodId("u".into())), Path::new("/data/hosts/u"));
    }
}
