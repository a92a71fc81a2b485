//! The loaded programs and their maps; how a generation gets in force.

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::lpm_trie::Key as PrefixKey;
use aya::maps::{
    Array, ArrayOfMaps, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues,
};
use aya::programs::{CgroupSkb, SchedClassifier};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use pullpiri_crds::slice::MAX_NAMES;

use super::compile::{CompileError, Counted, Tables, compile, counted};
use super::counters::{Counters, DropReason, RoundTrips, Traffic};
use super::error::{NetError, map_error, pin_error};
use super::layout::{
    BUCKETS, BucketKey, COUNTERS, Config, Connection, ConnectionKey, Counter, Identity, Key, LAYOUT, Port, PrefixBody,
    Range, STAT_DISPLACED, STAT_OPENED, STAT_PASS, STAT_REEVALUATED, STAT_UNCOUNTED, Slot, Value, fnv1a,
};
use super::pins::{Hook, Pins};
use super::policy::Compiled;
use crate::object;

/// Every map of the object: all are pinned.
const MAPS: [&str; 18] = [
    "pharos_config",
    "pharos_tables",
    "pharos_prefixes",
    "pharos_ranges",
    "pharos_ports",
    "pharos_bridges",
    "pharos_uplinks",
    "pharos_hosts",
    "pharos_guests",
    "pharos_conns",
    "pharos_opened",
    "pharos_slots",
    "pharos_frags",
    "pharos_counts",
    "pharos_stats",
    "pharos_names",
    "pharos_trips",
    "pharos_rtt",
];
/// BPF_F_NO_PREALLOC: tries have no other way.
const NO_PREALLOC: u32 = 1;
/// BPF_F_INNER_MAP: arrays of different lengths in one outer map (since 5.10).
const INNER_MAP: u32 = 1 << 12;

/// Whether every name of a generation has a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counting {
    All,
    Some,
}

type Exact = HashMap<MapData, Key, Value>;
type Prefixes = LpmTrie<MapData, PrefixBody, Identity>;
type Ranges = Array<MapData, Range>;
type Filled = (Exact, Prefixes, Ranges);

/// The network programs of one node.
pub struct Datapath {
    pub(super) ebpf: Ebpf,
    pub(super) pins: Pins,
    pub(super) ports: HashMap<MapData, u32, Port>,
    pub(super) bridges: HashMap<MapData, u32, u32>,
    pub(super) uplinks: HashMap<MapData, u32, u32>,
    pub(super) hosts: HashMap<MapData, u64, [u8; 16]>,
    pub(super) guests: HashMap<MapData, u32, [u8; 16]>,
    config: Array<MapData, Config>,
    tables: ArrayOfMaps<MapData, Exact>,
    prefixes: ArrayOfMaps<MapData, Prefixes>,
    ranges: ArrayOfMaps<MapData, Ranges>,
    connections: HashMap<MapData, ConnectionKey, Connection>,
    pub(super) opened: HashMap<MapData, u32, u32>,
    pub(super) slots: HashMap<MapData, Slot, ConnectionKey>,
    counts: PerCpuArray<MapData, Counter>,
    stats: PerCpuArray<MapData, u64>,
    names: HashMap<MapData, u64, u32>,
    round_trips: PerCpuHashMap<MapData, BucketKey, u64>,
    /// What this process applied last, and where each name is counted.
    counted: BTreeMap<Counted, u32>,
    /// Links from before these maps had a policy: they change over when there is one to enforce.
    pub(super) adopt_later: bool,
}

impl std::fmt::Debug for Datapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datapath").field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl Datapath {
    /// Loads the programs; maps and links that an earlier process pinned in `pin_dir` (in a bpffs) are adopted: links get these programs by one
    /// atomic update each, so not a packet passes unjudged. Links of another layout of maps keep their programs until the first `apply`.
    ///
    /// # Errors
    /// When there is no object, the kernel refuses it, or pins can't be made.
    pub fn open_or_load(pin_dir: &Path) -> Result<Self, NetError> {
        let bytes = object::bytes("pharos", object::PHAROS)?;
        let pins = Pins::open(pin_dir).map_err(pin_error("making the pin directory", pin_dir))?;
        let mut loader = EbpfLoader::new();
        for name in MAPS {
            loader.map_pin_path(name, pins.maps().join(name));
        }
        let mut ebpf = loader.load(bytes).map_err(|source| NetError::Load(Box::new(source)))?;
        for hook in Hook::ALL.into_iter().filter(|hook| *hook != Hook::HostEgress) {
            load::<SchedClassifier>(&mut ebpf, hook, SchedClassifier::load)?;
        }
        load::<CgroupSkb>(&mut ebpf, Hook::HostEgress, CgroupSkb::load)?;
        let mut datapath = Self {
            ports: typed(&mut ebpf, "pharos_ports")?,
            bridges: typed(&mut ebpf, "pharos_bridges")?,
            uplinks: typed(&mut ebpf, "pharos_uplinks")?,
            hosts: typed(&mut ebpf, "pharos_hosts")?,
            guests: typed(&mut ebpf, "pharos_guests")?,
            config: typed(&mut ebpf, "pharos_config")?,
            tables: typed(&mut ebpf, "pharos_tables")?,
            prefixes: typed(&mut ebpf, "pharos_prefixes")?,
            ranges: typed(&mut ebpf, "pharos_ranges")?,
            connections: typed(&mut ebpf, "pharos_conns")?,
            opened: typed(&mut ebpf, "pharos_opened")?,
            slots: typed(&mut ebpf, "pharos_slots")?,
            counts: typed(&mut ebpf, "pharos_counts")?,
            stats: typed(&mut ebpf, "pharos_stats")?,
            names: typed(&mut ebpf, "pharos_names")?,
            round_trips: typed(&mut ebpf, "pharos_rtt")?,
            ebpf,
            pins,
            counted: BTreeMap::new(),
            adopt_later: false,
        };
        // Links and no generation: another layout's, or this one's that never got a policy. Over empty maps these programs would drop everything.
        if datapath.generation()?.is_none() && !datapath.links()?.is_empty() {
            datapath.adopt_later = true;
        } else {
            datapath.adopt()?;
        }
        Ok(datapath)
    }

    /// The generation in force; `None` before the first.
    ///
    /// # Errors
    /// When the kernel doesn't answer.
    pub fn generation(&self) -> Result<Option<u64>, NetError> {
        let config = self.read_config()?;
        Ok((config.epoch != 0).then_some(config.generation))
    }

    /// Puts a policy in force: writes it beside the one before, switches by one word, waits until no packet is under way with the old one, and
    /// frees that. Connections that it denies stop with their next packet, the others go on.
    ///
    /// # Errors
    /// When it doesn't fit or the kernel refuses an entry; then the one before is still in force, whole.
    pub fn apply(&mut self, policy: &Compiled) -> Result<(), NetError> {
        match self.switch_to(policy)? {
            Counting::All => Ok(()),
            // The places of the names that went are free now.
            Counting::Some => self.switch_to(policy).map(|_| ()),
        }
    }

    fn switch_to(&mut self, policy: &Compiled) -> Result<Counting, NetError> {
        let (places, fresh) = self.place_names(policy)?;
        let counting = if places.len() == counted(policy).len() { Counting::All } else { Counting::Some };
        let tables = compile(policy, &places)?;
        let before = self.read_config()?;
        // 0 means none, also after 2^32 generations.
        let epoch = before.epoch.checked_add(1).unwrap_or(2);
        let slot = epoch & 1;
        let zero = PerCpuValues::try_from(vec![Counter::default(); cpus()?]).map_err(|source| NetError::Map {
            doing: "clearing",
            map: "pharos_counts",
            source: Box::new(MapError::IoError(source)),
        })?;
        for (name, place) in &fresh {
            self.counts.set(*place, clone_values(&zero)?, 0).map_err(map_error("clearing", "pharos_counts"))?;
            for bucket in 0..BUCKETS {
                absent(self.round_trips.remove(&BucketKey { counter: *place, bucket }))
                    .map_err(map_error("clearing", "pharos_rtt"))?;
            }
            self.names.insert(name, place, 0).map_err(map_error("writing", "pharos_names"))?;
        }
        let filled = fill(&tables)?;
        self.put(slot, &filled, "writing")?;
        let config = Config { generation: policy.generation, epoch, layout: LAYOUT };
        self.config.set(0, config, 0).map_err(map_error("switching", "pharos_config"))?;
        if self.adopt_later {
            self.adopt()?;
            self.adopt_later = false;
            for maps in self.pins.other_maps().map_err(pin_error("listing", self.pins.maps()))? {
                Pins::remove_maps(&maps).map_err(pin_error("removing maps of another layout in", &maps))?;
            }
        }
        // An update of a map of maps returns when every program that ran before it is done (maybe_wait_bpf_programs in kernel/bpf/syscall.c):
        // writing the same entry again is the grace period of the switch.
        self.tables.set(slot, &filled.0, 0).map_err(map_error("waiting for", "pharos_tables"))?;
        // A map of maps keeps what it holds: empty ones free the old.
        self.put(slot ^ 1, &fill(&Tables::default())?, "clearing")?;
        self.forget_names(&places)?;
        self.counted = places;
        Ok(counting)
    }

    /// What was counted, by the names of the generation that this process applied.
    ///
    /// # Errors
    /// When the kernel doesn't answer.
    pub fn counters(&self) -> Result<Counters, NetError> {
        let mut counters = Counters { other: self.traffic(0)?, ..Counters::default() };
        for (what, place) in &self.counted {
            let traffic = self.traffic(*place)?;
            match what {
                Counted::Rule(name) => counters.rules.insert(name.clone(), traffic),
                Counted::Class(name) => {
                    counters.round_trips.insert(name.clone(), self.round_trips(*place)?);
                    counters.classes.insert(name.clone(), traffic)
                }
                Counted::Internal(name) => counters.internal.insert(name.clone(), traffic),
                Counted::Port { .. } => counters.ports.insert(what.label(), traffic),
            };
        }
        for reason in DropReason::ALL {
            counters.drops.insert(reason, self.stat(reason.number())?);
        }
        counters.passed = self.stat(STAT_PASS)?;
        counters.connections_opened = self.stat(STAT_OPENED)?;
        counters.connections_reevaluated = self.stat(STAT_REEVALUATED)?;
        counters.connections_displaced = self.stat(STAT_DISPLACED)?;
        counters.uncounted = self.stat(STAT_UNCOUNTED)?;
        Ok(counters)
    }

    /// How many connections are remembered, closed ones that nothing displaced included. Walks the map: not for every scrape.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.keys().filter(Result::is_ok).count()
    }

    /// Forgets every connection: the next packet of each is its first. What is on its way under a policy that still allows it goes on; answers to
    /// what was asked before don't.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget_connections(&mut self) -> Result<(), NetError> {
        let keys: Result<Vec<ConnectionKey>, MapError> = self.connections.keys().collect();
        for key in keys.map_err(map_error("reading", "pharos_conns"))? {
            absent(self.connections.remove(&key)).map_err(map_error("clearing", "pharos_conns"))?;
        }
        Ok(())
    }

    /// Instructions that the verifier walked for each program.
    ///
    /// # Errors
    /// When the kernel doesn't say (before 5.16).
    pub fn verified_instructions(&self) -> Result<BTreeMap<&'static str, u32>, NetError> {
        let mut counts = BTreeMap::new();
        for hook in Hook::ALL {
            let program = self.ebpf.program(hook.program()).ok_or(NetError::Missing(hook.program()))?;
            let info = program
                .info()
                .map_err(|source| NetError::Program { program: hook.program(), source: Box::new(source) })?;
            counts.insert(hook.program(), info.verified_instruction_count().unwrap_or(0));
        }
        Ok(counts)
    }

    /// Detaches every program and removes every map of this node, and nothing else. The kernel is done some milliseconds later (RCU); until then the
    /// policy holds.
    ///
    /// # Errors
    /// When a pin can't be removed.
    pub fn remove(self) -> Result<(), NetError> {
        let dir = self.pins.maps();
        self.pins.remove().map_err(pin_error("removing the pins beside", dir))
    }

    fn read_config(&self) -> Result<Config, NetError> {
        self.config.get(&0, 0).map_err(map_error("reading", "pharos_config"))
    }

    fn traffic(&self, place: u32) -> Result<Traffic, NetError> {
        let values = self.counts.get(&place, 0).map_err(map_error("reading", "pharos_counts"))?;
        Ok(Traffic::sum(values.iter()))
    }

    fn round_trips(&self, place: u32) -> Result<RoundTrips, NetError> {
        let mut trips = RoundTrips::default();
        for (bucket, count) in (0..).zip(&mut trips.buckets) {
            match self.round_trips.get(&BucketKey { counter: place, bucket }, 0) {
                Ok(values) => *count = values.iter().fold(0, |sum, value| sum.wrapping_add(*value)),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(map_error("reading", "pharos_rtt")(error)),
            }
        }
        Ok(trips)
    }

    fn stat(&self, number: u32) -> Result<u64, NetError> {
        let values = self.stats.get(&number, 0).map_err(map_error("reading", "pharos_stats"))?;
        Ok(values.iter().fold(0, |sum, value| sum.wrapping_add(*value)))
    }

    /// Where each name is counted: where it was, or a free place. The second are those that are new, by hash. While names of the generation in force have
    /// all places, new ones have none.
    #[expect(clippy::type_complexity, reason = "two plain maps")]
    fn place_names(&self, policy: &Compiled) -> Result<(BTreeMap<Counted, u32>, BTreeMap<u64, u32>), NetError> {
        let mut known: BTreeMap<u64, u32> = BTreeMap::new();
        for entry in self.names.iter() {
            let (hash, place) = entry.map_err(map_error("reading", "pharos_names"))?;
            known.insert(hash, place);
        }
        let taken: std::collections::BTreeSet<u32> = known.values().copied().collect();
        let mut free = (1..COUNTERS).filter(|place| !taken.contains(place));
        let wanted = counted(policy);
        if wanted.len() > MAX_NAMES {
            return Err(CompileError::Names { generation: policy.generation, count: wanted.len() }.into());
        }
        let (mut fresh, mut places) = (BTreeMap::new(), BTreeMap::new());
        for what in wanted {
            let hash = name_hash(&what);
            let known = known.get(&hash).copied();
            let Some(place) = known.or_else(|| fresh.get(&hash).copied()).or_else(|| free.next()) else { continue };
            if known.is_none() {
                fresh.insert(hash, place);
            }
            places.insert(what, place);
        }
        Ok((places, fresh))
    }

    fn forget_names(&mut self, places: &BTreeMap<Counted, u32>) -> Result<(), NetError> {
        let wanted: std::collections::BTreeSet<u64> = places.keys().map(name_hash).collect();
        let known: Result<Vec<u64>, MapError> = self.names.keys().collect();
        for hash in known.map_err(map_error("reading", "pharos_names"))? {
            if !wanted.contains(&hash) {
                self.names.remove(&hash).map_err(map_error("clearing", "pharos_names"))?;
            }
        }
        Ok(())
    }

    /// Puts tables into a slot that no packet reads. Each update waits until running programs are done: together they wait once.
    fn put(&mut self, slot: u32, (exact, prefixes, ranges): &Filled, doing: &'static str) -> Result<(), NetError> {
        let (into_tables, into_prefixes, into_ranges) = (&mut self.tables, &mut self.prefixes, &mut self.ranges);
        std::thread::scope(|scope| {
            let tables = scope.spawn(move || into_tables.set(slot, exact, 0));
            let prefixes = scope.spawn(move || into_prefixes.set(slot, prefixes, 0));
            into_ranges.set(slot, ranges, 0).map_err(map_error(doing, "pharos_ranges"))?;
            let panicked = |_| Err(MapError::IoError(std::io::Error::other("a thread panicked")));
            prefixes.join().unwrap_or_else(panicked).map_err(map_error(doing, "pharos_prefixes"))?;
            tables.join().unwrap_or_else(panicked).map_err(map_error(doing, "pharos_tables"))
        })
    }
}

/// Removing what is gone is done.
pub(super) fn absent(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}

fn name_hash(what: &Counted) -> u64 {
    let kind = match what {
        Counted::Rule(_) => "rule",
        Counted::Class(_) => "class",
        Counted::Internal(_) => "internal",
        Counted::Port { .. } => "port",
    };
    fnv1a(format!("{kind}:{}", what.label()).as_bytes())
}

fn cpus() -> Result<usize, NetError> {
    nr_cpus().map_err(|(path, source)| NetError::Pin { doing: "counting CPUs in", path: path.into(), source })
}

fn clone_values(values: &PerCpuValues<Counter>) -> Result<PerCpuValues<Counter>, NetError> {
    PerCpuValues::try_from(values.to_vec()).map_err(|source| NetError::Map {
        doing: "clearing",
        map: "pharos_counts",
        source: Box::new(MapError::IoError(source)),
    })
}

/// New maps with these entries.
fn fill(tables: &Tables) -> Result<Filled, NetError> {
    let entries = |n: usize| u32::try_from(n.max(1)).unwrap_or(u32::MAX);
    let mut exact = Exact::create(entries(tables.exact.len()), 0).map_err(map_error("making", "pharos_tables"))?;
    for (key, value) in &tables.exact {
        exact.insert(key, value, 0).map_err(map_error("filling", "pharos_tables"))?;
    }
    let mut prefixes = Prefixes::create(entries(tables.prefixes.len()), NO_PREALLOC)
        .map_err(map_error("making", "pharos_prefixes"))?;
    for (bits, body, identity) in &tables.prefixes {
        prefixes.insert(&PrefixKey::new(*bits, *body), identity, 0).map_err(map_error("filling", "pharos_prefixes"))?;
    }
    let mut ranges =
        Ranges::create(entries(tables.ranges.len()), INNER_MAP).map_err(map_error("making", "pharos_ranges"))?;
    for (i, range) in (0..).zip(&tables.ranges) {
        ranges.set(i, range, 0).map_err(map_error("filling", "pharos_ranges"))?;
    }
    Ok((exact, prefixes, ranges))
}

fn typed<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, NetError> {
    T::try_from(ebpf.take_map(name).ok_or(NetError::Missing(name))?).map_err(map_error("opening", name))
}

fn load<'a, P>(
    ebpf: &'a mut Ebpf,
    hook: Hook,
    load: impl FnOnce(&mut P) -> Result<(), aya::programs::ProgramError>,
) -> Result<(), NetError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
    P: 'a,
{
    let program = hook.program();
    let failed = |source| NetError::Program { program, source: Box::new(source) };
    let found = ebpf.program_mut(program).ok_or(NetError::Missing(program))?;
    load(found.try_into().map_err(failed)?).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datapath_may_be_used_from_any_thread() {
        fn sent<T: Send + Sync>() {}
        sent::<Datapath>();
    }

    #[test]
    fn every_name_that_a_policy_may_have_has_a_counter() {
        assert_eq!(usize::try_from(COUNTERS), Ok(MAX_NAMES + 1));
    }

    #[test]
    fn counters_belong_to_names_of_a_kind() {
        let name = || "a/b/c".to_owned();
        let hashes =
            [Counted::Rule(name()), Counted::Class(name()), Counted::Internal(name())].map(|what| name_hash(&what));
        assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2] && hashes[0] != hashes[2]);
    }
}
