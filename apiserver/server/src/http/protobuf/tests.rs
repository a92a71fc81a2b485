use serde_json::json;

use super::*;

fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
    field.extend_from_slice(content);
    field
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let type_meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes(1, &type_meta), bytes(2, raw)].concat()
}

#[test]
fn schemas_nest_and_say_what_is_there() {
    let property = [bytes(5, b"integer"), vec![0x49], 3.0_f64.to_le_bytes().to_vec(), vec![0x50, 0]].concat();
    let entry = [bytes(1, b"n"), bytes(2, &property)].concat();
    // properties is field 29, additionalProperties 30: their tags take two bytes.
    let long = |number: u64, content: &[u8]| {
        let tag = number << 3 | 2;
        let mut field = vec![u8::try_from(tag & 0x7f).unwrap() | 0x80, u8::try_from(tag >> 7).unwrap()];
        field.push(u8::try_from(content.len()).unwrap());
        field.extend_from_slice(content);
        field
    };
    let schema = [bytes(5, b"object"), long(29, &entry), long(30, &[0x08, 0])].concat();
    let version =
        [bytes(1, b"v1"), vec![0x10, 1, 0x18, 0], bytes(4, &bytes(1, &schema)), bytes(5, &bytes(1, &[]))].concat();
    let raw = bytes(2, &bytes(7, &version));
    let decoded = decode(&body("apiextensions.k8s.io/v1", "CustomResourceDefinition", &raw)).unwrap();
    assert_eq!(
        decoded["spec"]["versions"][0],
        json!({
            "name": "v1", "served": true, "storage": false, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {
                "type": "object", "additionalProperties": false, "properties": {"n": {"type": "integer", "maximum": 3}},
            }},
        })
    );
}

#[test]
fn a_config_map_as_kubectl_sends_it() {
    let metadata =
        [bytes(1, b"a"), bytes(2, b""), bytes(8, b""), bytes(11, &[bytes(1, b"k"), bytes(2, b"v")].concat())].concat();
    let entry = |key: &[u8], value: &[u8]| [bytes(1, key), bytes(2, value)].concat();
    let raw =
        [bytes(1, &metadata), bytes(2, &entry(b"x", b"y")), bytes(3, &entry(b"b", &[0xff])), vec![4 << 3, 0]].concat();
    let expected = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"k": "v"}},
        "data": {"x": "y"}, "binaryData": {"b": "/w=="}, "immutable": false,
    });
    assert_eq!(decode(&body("v1", "ConfigMap", &raw)).unwrap(), expected);
}

#[test]
fn times_and_options() {
    let time = [vec![1 << 3, 10], vec![2 << 3, 0xc0, 0x84, 0x3d]].concat();
    let raw = bytes(2, &[bytes(1, b"me"), vec![2 << 3, 15], bytes(4, &time)].concat());
    let lease = decode(&body("coordination.k8s.io/v1", "Lease", &raw)).unwrap();
    let spec = json!({"holderIdentity": "me", "leaseDurationSeconds": 15, "renewTime": "1970-01-01T00:00:10.001000Z"});
    assert_eq!(lease["spec"], spec);
    let options =
        decode(&body("meta.k8s.io/v1", "DeleteOptions", &[vec![1 << 3, 0], bytes(4, b"Orphan")].concat())).unwrap();
    assert_eq!(options["gracePeriodSeconds"], 0);
    assert_eq!(options["propagationPolicy"], "Orphan");
}

#[test]
fn what_is_no_message_is_refused() {
    assert!(decode(b"{}").unwrap_err().contains("does not appear to be a protobuf message"));
    assert!(decode(&body("v1", "Pod", b"")).unwrap_err().contains("send JSON"));
    assert!(decode(&[MAGIC, &[0x0a, 0x7f]].concat()).unwrap_err().contains("ends within"));
    assert!(decode(&body("v1", "Secret", &[0xff; 12])).is_err());
}

proptest::proptest! {
    #[test]
    fn no_body_panics(raw in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120)) {
        for (version, kind) in [("v1", "ConfigMap"), ("v1", "Event"), ("v1", "DeleteOptions")] {
            drop(decode(&body(version, kind, &raw)));
        }
        drop(decode(&raw));
    }
}
