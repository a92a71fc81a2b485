//! Linux capabilities by name: the set a container gets, from what it asks for and what this node can give.

use pullpiri_node_core::runtime::Security;

/// By number, without `CAP_`. Source: linux/capability.h.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has unless it says otherwise: podman's default set.
const DEFAULT: [&str; 11] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

const ALL: &str = "ALL";

/// A container's capabilities, as `CAP_…` names in order of their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// Bounding, permitted and effective.
    pub granted: Vec<String>,
    /// Those that were added by name: ambient too if the container doesn't run as root, who would lose them at exec otherwise.
    pub added: Vec<String>,
}

/// The capabilities of a container on a node whose bounding set is `available` (bit n is capability n).
pub(super) fn resolve(security: &Security, available: u64) -> Result<Capabilities, String> {
    let has = |number: usize| available.checked_shr(u32::try_from(number).unwrap_or(u32::MAX)).unwrap_or(0) & 1 == 1;
    let mut granted = [false; NAMES.len()];
    let mut added = [false; NAMES.len()];
    if security.privileged {
        for (number, slot) in granted.iter_mut().enumerate() {
            *slot = has(number);
        }
    } else {
        for name in DEFAULT {
            if let Some(number) = number(name) {
                set(&mut granted, number, has(number));
            }
        }
    }
    // ALL first, so that names can make exceptions of it whichever list they are in.
    if security.drop_capabilities.iter().any(|n| plain(n) == ALL) {
        granted = [false; NAMES.len()];
    }
    if security.add_capabilities.iter().any(|n| plain(n) == ALL) {
        for number in 0..NAMES.len() {
            set(&mut granted, number, has(number));
            set(&mut added, number, has(number));
        }
    }
    for name in security.drop_capabilities.iter().filter(|n| plain(n) != ALL) {
        let number = number(&plain(name)).ok_or_else(|| unknown("dropped", name))?;
        set(&mut granted, number, false);
        set(&mut added, number, false);
    }
    for name in security.add_capabilities.iter().filter(|n| plain(n) != ALL) {
        let number = number(&plain(name)).ok_or_else(|| unknown("added", name))?;
        if !has(number) {
            return Err(format!("capability {name} can't be added: it is not in this node's bounding set"));
        }
        set(&mut granted, number, true);
        set(&mut added, number, true);
    }
    let names = |slots: &[bool]| -> Vec<String> {
        NAMES.iter().zip(slots).filter(|(_, on)| **on).map(|(name, _)| format!("CAP_{name}")).collect()
    };
    Ok(Capabilities { granted: names(&granted), added: names(&added) })
}

fn plain(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").map(str::to_owned).unwrap_or(upper)
}

fn number(name: &str) -> Option<usize> {
    NAMES.iter().position(|n| *n == name)
}

fn set(slots: &mut [bool], number: usize, on: bool) {
    if let Some(slot) = slots.get_mut(number) {
        *slot = on;
    }
}

fn unknown(what: &str, name: &str) -> String {
    format!("{name:?} is {what}, which is no capability; expected a name such as SYS_NICE, or ALL")
}

/// What making namespaces, mounts, devices and cgroups, becoming another user and bounding capabilities takes (capabilities(7)): bit and name.
const NEEDED: [(u32, &str); 10] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (3, "CAP_FOWNER"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (8, "CAP_SETPCAP"),
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (27, "CAP_MKNOD"),
];

/// Which of [`NEEDED`] the set (a mask) lacks.
pub(super) fn missing(held: u64) -> Vec<&'static str> {
    NEEDED.iter().filter(|(bit, _)| held & (1 << bit) == 0).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: u64 = (1 << 41) - 1;

    fn security(privileged: bool, add: &[&str], drop: &[&str]) -> Security {
        Security {
            privileged,
            add_capabilities: add.iter().map(|s| (*s).to_owned()).collect(),
            drop_capabilities: drop.iter().map(|s| (*s).to_owned()).collect(),
            ..Security::default()
        }
    }

    #[test]
    fn a_process_that_may_not_bound_capabilities_lacks_something() {
        assert_eq!(missing(u64::MAX), Vec::<&str>::new());
        assert_eq!(missing(!(1 << 8)), ["CAP_SETPCAP"]);
        assert_eq!(missing(0).len(), NEEDED.len());
    }

    #[test]
    fn sets_follow_the_lists() {
        let granted = |p, add: &[&str], drop: &[&str], available| {
            resolve(&security(p, add, drop), available).map(|c| c.granted.len())
        };
        assert_eq!(granted(false, &[], &[], EVERYTHING), Ok(11));
        assert_eq!(granted(true, &[], &[], EVERYTHING), Ok(41));
        assert_eq!(granted(true, &[], &[], 0b101), Ok(2));
        assert_eq!(granted(false, &["ALL"], &[], EVERYTHING), Ok(41));
        assert_eq!(granted(false, &["all"], &["NET_RAW"], EVERYTHING), Ok(40));
        assert_eq!(granted(false, &["SYS_NICE"], &["ALL"], EVERYTHING), Ok(1));
        assert_eq!(granted(false, &["CAP_SYS_NICE", "sys_nice"], &["KILL"], EVERYTHING), Ok(11));
        let both = resolve(&security(false, &["SYS_NICE"], &[]), EVERYTHING).unwrap();
        assert_eq!(both.added, ["CAP_SYS_NICE"]);
        assert!(both.granted.contains(&"CAP_KILL".to_owned()));
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_name() {
        let error = resolve(&security(false, &["FLY"], &[]), EVERYTHING).unwrap_err();
        assert!(error.contains("FLY") && error.contains("expected"), "{error}");
        assert!(resolve(&security(false, &[], &["CAP_"]), EVERYTHING).is_err());
        let error = resolve(&security(false, &["SYS_RESOURCE"], &[]), EVERYTHING & !(1 << 24)).unwrap_err();
        assert!(error.contains("bounding set"), "{error}");
    }
}
