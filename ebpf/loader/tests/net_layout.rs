//! The Rust side of pharos.h against what a C compiler makes of it. (Sizes of keys and values are compared once more when maps are opened.)

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::mem::{offset_of, size_of};
use std::process::Command;

use pullpiri_ebpf::net::DropReason;
use pullpiri_ebpf::net::layout::{
    self, BucketKey, ClassValue, Config, Connection, ConnectionKey, Counter, Half, Identity, Key, Pair, Port,
    PrefixBody, Range, Slot, Value,
};

#[test]
fn rust_and_c_agree() {
    let mut lines: Vec<(String, u64)> = Vec::new();
    let wide = |n: usize| u64::try_from(n).unwrap();
    macro_rules! layout {
        ($rust:ty, $c:literal, $($field:ident),+) => {
            lines.push((format!("sizeof({})", $c), wide(size_of::<$rust>())));
            $(lines.push((format!("__builtin_offsetof({}, {})", $c, stringify!($field)), wide(offset_of!($rust, $field))));)+
        };
    }
    layout!(Config, "struct pharos_config", generation, epoch, layout);
    layout!(Key, "struct pharos_key", kind);
    layout!(Identity, "struct pharos_identity", identity, network, flags, shapes, counter);
    layout!(Pair, "struct pharos_pair", first, count, unused);
    layout!(ClassValue, "struct pharos_class", id, dscp, counter);
    layout!(Range, "struct pharos_range", first, last, counter);
    layout!(Port, "struct pharos_port", v4, v6, mac, has, share);
    layout!(ConnectionKey, "struct pharos_connection_key", address, port, protocol);
    layout!(Half, "struct pharos_half", egress_epoch, ingress_epoch, counter);
    layout!(Connection, "struct pharos_connection", seen_ns, half, closed, timed, timed_ms, opener, slot);
    layout!(Slot, "struct pharos_slot", opener, slot);
    layout!(BucketKey, "struct pharos_bucket_key", counter, bucket);
    layout!(Counter, "struct pharos_counter", packets, bytes);
    lines.push(("sizeof(union pharos_value)".into(), wide(size_of::<Value>())));
    lines.push(("sizeof(struct pharos_selector_key)".into(), 16));
    lines.push(("__builtin_offsetof(struct pharos_key, address)".into(), wide(offset_of!(Key, body))));
    // aya's key is the length in bits and ours.
    lines.push(("sizeof(struct pharos_prefix)".into(), 4 + wide(size_of::<PrefixBody>())));
    lines.push(("__builtin_offsetof(struct pharos_prefix, address)".into(), 4 + wide(offset_of!(PrefixBody, address))));
    for (field, offset) in [("identity", 0), ("network", 4), ("port", 6), ("protocol", 8), ("dscp", 9)] {
        lines.push((format!("__builtin_offsetof(struct pharos_selector_key, {field})"), offset));
    }
    for (name, value) in [
        ("PHAROS_LAYOUT", layout::LAYOUT),
        ("PHAROS_CIDR_IDENTITY", layout::CIDR_IDENTITY),
        ("PHAROS_ENDPOINT", layout::ENDPOINT.into()),
        ("PHAROS_LOCAL", layout::LOCAL.into()),
        ("PHAROS_INTERNAL", layout::INTERNAL.into()),
        ("PHAROS_EGRESS", layout::EGRESS.into()),
        ("PHAROS_GATEWAY", layout::GATEWAY.into()),
        ("PHAROS_SUBNET", layout::SUBNET.into()),
        ("PHAROS_HAS_V4", layout::HAS_V4.into()),
        ("PHAROS_HAS_V6", layout::HAS_V6.into()),
        ("PHAROS_HAS_MAC", layout::HAS_MAC.into()),
        ("PHAROS_ANY_DSCP", layout::ANY_DSCP.into()),
        ("PHAROS_PRIORITY", layout::PRIORITY),
        ("PHAROS_PASS", layout::STAT_PASS),
        ("PHAROS_OPENED", layout::STAT_OPENED),
        ("PHAROS_REEVALUATED", layout::STAT_REEVALUATED),
        ("PHAROS_DISPLACED", layout::STAT_DISPLACED),
        ("PHAROS_UNCOUNTED", layout::STAT_UNCOUNTED),
        ("PHAROS_STATS", layout::STATS),
        ("PHAROS_BUDGET", layout::BUDGET),
        ("PHAROS_MAX_SHARE", layout::MAX_SHARE.into()),
        ("PHAROS_BUCKETS", layout::BUCKETS),
    ] {
        lines.push((name.to_owned(), value.into()));
    }
    for reason in DropReason::ALL {
        lines.push((format!("PHAROS_{}", reason.label().to_uppercase().replace('-', "_")), reason.number().into()));
    }
    let header = concat!(env!("CARGO_MANIFEST_DIR"), "/../programs/pharos.h");
    let mut source = format!("#include <linux/types.h>\n#include \"{header}\"\n");
    for (expression, value) in &lines {
        writeln!(source, "_Static_assert({expression} == {value}ull, \"{expression}\");").unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("layout.c");
    std::fs::write(&file, source).unwrap();
    let Ok(output) = Command::new("clang").args(["-fsyntax-only", "-Wno-gnu-statement-expression"]).arg(&file).output()
    else {
        println!("skipped: no clang");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
