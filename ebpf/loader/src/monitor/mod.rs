//! The deadline monitor: which jobs of which threads missed their deadline, as the scheduler itself saw them.
//!
//! `ebpf/programs/monitor.bpf.c` counts in the kernel; this loads it, says which threads to watch, and reads. The job model, its limits and its cost are
//! in docs/ebpf.md. In short: a job begins when its sleeping thread is woken and ends when the thread blocks again; a timer per thread reports a job that
//! is still not done at its deadline, while it hangs.
//!
//! Nothing is pinned: the monitor ends with the process that loaded it, and counters begin anew with the next.
//!
//! Units: durations are nanoseconds; instants are nanoseconds of CLOCK_MONOTONIC. Thread ids are those of the initial PID namespace.

mod counters;
mod error;
mod event;
pub mod layout;
mod thread;

use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;

use aya::maps::{Array, HashMap, Map, MapData, MapError, RingBuf};
use aya::programs::{BtfTracePoint, Iter, ProgramError};
use aya::{Btf, BtfError, Ebpf, EbpfLoader};

pub use counters::{ActiveJob, Counters, Histogram, upper_bound_ns};
pub use error::{LoadError, WatchError};
pub use event::{Event, Events, JobReport, ThreadReport};

use crate::cost::{self, CostError, ProgramCost};
use crate::object;
use layout::{FILTER_WORDS, RawTask, RawWatch, SLOTS};
use thread::Thread;

/// The programs and their tracepoints, in the order in which they are attached: who ends is forgotten before who begins is counted.
const PROGRAMS: [(&str, &str); 7] = [
    ("on_exit", "sched_process_exit"),
    ("on_switch", "sched_switch"),
    ("on_wakeup", "sched_wakeup"),
    ("on_wakeup_new", "sched_wakeup_new"),
    ("on_fork", "sched_process_fork"),
    ("on_exec", "sched_process_exec"),
    ("on_rename", RENAME),
];
/// Names of threads are seen with Event::Rename where the kernel has this tracepoint.
const RENAME: &str = "task_rename";
const INIT_TIMERS: &str = "init_timers";
/// Of one program.
const LOADS: u32 = 5;

/// What is promised for one thread. 0 means "not promised".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Watch {
    /// From a job's release; a job that takes longer is a miss.
    pub deadline_ns: u64,
    /// A job that executes for longer is an overrun.
    pub wcet_ns: u64,
    /// For [`Counters::skipped_periods`].
    pub period_ns: u64,
    /// A wake-up sooner than this after a release continues its job: it had waited for a lock or I/O. Less than the period minus its jitter; half the
    /// period is a good choice. With 0 every wake-up is a release.
    pub min_interarrival_ns: u64,
    /// Comes back with every event.
    pub cookie: u64,
}

/// What this kernel has of what the monitor uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// [`Event::Rename`] is reported.
    pub renames: bool,
    /// As the verifier counts, by program.
    pub verified_instructions: BTreeMap<String, u32>,
}

/// A loaded and attached monitor. Dropping it detaches everything.
pub struct Monitor {
    ebpf: Ebpf,
    filter: Array<MapData, u64>,
    slots: HashMap<MapData, u32, u32>,
    watches: Array<MapData, RawWatch>,
    tasks: Array<MapData, RawTask>,
    followed: HashMap<MapData, u32, u64>,
    cgroups: HashMap<MapData, u64, u64>,
    counts: Array<MapData, u64>,
    jobs: Option<Events>,
    threads: Option<Events>,
    features: Features,
    watched: BTreeMap<u32, Watched>,
    /// Longest free first: a program on another CPU may still write to a slot that was just given up.
    free: VecDeque<u32>,
    /// The first so many places have a timer.
    ready: u32,
    capacity: u32,
}

#[derive(Debug, Clone, Copy)]
struct Watched {
    slot: u32,
    started_ticks: u64,
}

/// Event counts that were lost, since the monitor was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Misses and overruns that found their ring full: nobody drained it.
    pub jobs: u64,
    /// Events of threads that found theirs full.
    pub threads: u64,
    /// Processes whose threads go unseen, because too many are followed.
    pub follows: u64,
}

impl Monitor {
    /// Whether this kernel takes the programs: loads them and attaches none.
    ///
    /// # Errors
    /// What is missing: clang at build time, BTF, a tracepoint, bpf_timer, or the right to load BPF.
    pub fn probe() -> Result<Features, LoadError> {
        let (mut ebpf, btf) = open(1)?;
        load_programs(&mut ebpf, &btf)
    }

    /// Loads and attaches, with room for [`SLOTS`] threads, or fewer while the kernel finds no memory for their timers.
    ///
    /// # Errors
    /// As [`Monitor::probe`].
    pub fn load() -> Result<Self, LoadError> {
        Self::with_capacity(SLOTS)
    }

    /// Loads and attaches, with room for so many threads (at least 1; 2.5 KiB each).
    ///
    /// # Errors
    /// As [`Monitor::probe`].
    pub fn with_capacity(capacity: u32) -> Result<Self, LoadError> {
        Self::attaching(capacity, |_| true)
    }

    /// Attaches only the programs that are wanted: what a kernel hides can be tested.
    #[doc(hidden)]
    pub fn attaching(capacity: u32, wanted: impl Fn(&str) -> bool) -> Result<Self, LoadError> {
        let capacity = capacity.max(1);
        let (mut ebpf, btf) = open(capacity)?;
        let features = load_programs(&mut ebpf, &btf)?;
        let counts = Array::try_from(take(&mut ebpf, "COUNTS")?).map_err(opening("COUNTS"))?;
        let ready = prepare_timers(&mut ebpf, &counts, capacity)?;
        let mut ring = |name| RingBuf::try_from(take(&mut ebpf, name)?).map_err(opening(name)).map(Events::new);
        let (jobs, threads) = (ring("JOBS")?, ring("EVENTS")?);
        let mut monitor = Self {
            filter: Array::try_from(take(&mut ebpf, "FILTER")?).map_err(opening("FILTER"))?,
            slots: HashMap::try_from(take(&mut ebpf, "SLOTS")?).map_err(opening("SLOTS"))?,
            watches: Array::try_from(take(&mut ebpf, "WATCHES")?).map_err(opening("WATCHES"))?,
            tasks: Array::try_from(take(&mut ebpf, "TASKS")?).map_err(opening("TASKS"))?,
            followed: HashMap::try_from(take(&mut ebpf, "FOLLOWED")?).map_err(opening("FOLLOWED"))?,
            cgroups: HashMap::try_from(take(&mut ebpf, "CGROUPS")?).map_err(opening("CGROUPS"))?,
            counts,
            jobs: Some(jobs),
            threads: Some(threads),
            features,
            watched: BTreeMap::new(),
            free: (0..ready).collect(),
            ready,
            capacity,
            ebpf,
        };
        for (program, _) in PROGRAMS {
            if wanted(program) && (program != "on_rename" || monitor.features.renames) {
                attach(&mut monitor.ebpf, program)?;
            }
        }
        Ok(monitor)
    }

    #[must_use]
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Threads that can be watched at once.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The consumer's end of [`Event::Miss`] and [`Event::Overrun`]: once, as there can be only one consumer.
    pub fn take_jobs(&mut self) -> Option<Events> {
        self.jobs.take()
    }

    /// The consumer's end of all other events, which have a ring of their own: a process that makes threads all the time drowns no miss.
    pub fn take_threads(&mut self) -> Option<Events> {
        self.threads.take()
    }

    /// Watches a thread from its next release on; the job under way isn't counted. A thread that ended under the same id is forgotten.
    ///
    /// # Errors
    /// When there is no such thread, it is the kernel's, it is watched already, or all places are taken.
    pub fn watch(&mut self, pid: u32, watch: Watch) -> Result<(), WatchError> {
        let thread = thread::find(pid).ok_or(WatchError::NoThread { pid })?;
        if thread.kernel {
            return Err(WatchError::KernelThread { pid });
        }
        if let Some(known) = self.watched.get(&pid) {
            // By executing a program another thread of a process takes the id of the first one, and the time at which that one started.
            if known.started_ticks == thread.started_ticks && self.is_counted(pid)? {
                return Err(WatchError::Watched { pid });
            }
            self.unwatch(pid)?;
        }
        let slot = self.place().ok_or(WatchError::Full { pid, capacity: self.ready })?;
        self.watched.insert(pid, Watched { slot, started_ticks: thread.started_ticks });
        let watching = self.begin(pid, slot, watch, thread);
        if watching.is_err() {
            // The first error is the one to tell.
            let _ = self.unwatch(pid);
        }
        watching
    }

    /// A free place; if those that are ready are taken, more are made ready.
    fn place(&mut self) -> Option<u32> {
        if self.free.is_empty() && self.ready < self.capacity {
            let ready = prepare_timers(&mut self.ebpf, &self.counts, self.capacity).unwrap_or(self.ready);
            self.free.extend(self.ready..ready);
            self.ready = self.ready.max(ready);
        }
        self.free.pop_front()
    }

    /// Everything that the programs read is there before they can find the slot.
    fn begin(&mut self, pid: u32, slot: u32, watch: Watch, thread: Thread) -> Result<(), WatchError> {
        let watching = || format!("watching thread {pid}");
        self.tasks.set(slot, RawTask::ZERO, 0).map_err(map_error(watching))?;
        self.watches.set(slot, raw_watch(pid, watch), 0).map_err(map_error(watching))?;
        let (word, bit) = filter_bit(pid);
        let old = self.filter.get(&word, 0).map_err(map_error(watching))?;
        self.filter.set(word, old | bit, 0).map_err(map_error(watching))?;
        self.slots.insert(pid, slot, 0).map_err(map_error(watching))?;
        // Had it ended before, nobody would take the entry away, and the id's next owner would be watched.
        match thread::find(pid) {
            Some(now) if now == thread => Ok(()),
            _ => Err(WatchError::NoThread { pid }),
        }
    }

    /// Changes what is promised, from the next release on. Counters go on.
    ///
    /// # Errors
    /// When the thread isn't watched.
    pub fn update(&mut self, pid: u32, watch: Watch) -> Result<(), WatchError> {
        let slot = self.slot(pid)?;
        self.watches
            .set(slot, raw_watch(pid, watch), 0)
            .map_err(map_error(|| format!("updating the watch of thread {pid}")))
    }

    /// Ends a watch and gives its place back; also of a thread that has ended.
    ///
    /// # Errors
    /// When the thread isn't watched.
    pub fn unwatch(&mut self, pid: u32) -> Result<(), WatchError> {
        let slot = self.slot(pid)?;
        let ending = || format!("ending the watch of thread {pid}");
        match self.slots.remove(&pid) {
            // The thread ended: the programs have taken it out themselves.
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) if is_not_found(&error) => {}
            Err(source) => return Err(WatchError::Map { attempted: ending(), source }),
        }
        self.watched.remove(&pid);
        self.free.push_back(slot);
        let (word, bit) = filter_bit(pid);
        if !self.watched.keys().any(|other| filter_bit(*other) == (word, bit)) {
            let old = self.filter.get(&word, 0).map_err(map_error(ending))?;
            self.filter.set(word, old & !bit, 0).map_err(map_error(ending))?;
        }
        Ok(())
    }

    /// What a watched thread has done so far; also of one that has ended, until [`Monitor::unwatch`].
    ///
    /// # Errors
    /// When the thread isn't watched.
    pub fn read(&self, pid: u32) -> Result<Counters, WatchError> {
        let slot = self.slot(pid)?;
        let raw = self.tasks.get(&slot, 0).map_err(map_error(|| format!("reading the counters of thread {pid}")))?;
        Ok(Counters::from_raw(&raw))
    }

    /// Whether a watched thread's jobs are still counted: not once it has ended, or another one of its process has taken its id.
    ///
    /// # Errors
    /// When the thread isn't watched, or the kernel refuses the read.
    pub fn is_counted(&self, pid: u32) -> Result<bool, WatchError> {
        let slot = self.slot(pid)?;
        match self.slots.get(&pid, 0) {
            Ok(found) => Ok(found == slot),
            Err(MapError::KeyNotFound) => Ok(false),
            Err(source) => Err(WatchError::Map { attempted: format!("looking up the place of thread {pid}"), source }),
        }
    }

    /// The threads that are watched, those included that have ended and weren't given up.
    pub fn watched(&self) -> impl Iterator<Item = u32> + '_ {
        self.watched.keys().copied()
    }

    /// Tells of new threads, programs, names and ends of a process and of all it forks from now on. Threads that are there already aren't told: follow
    /// first, then read /proc/PID/task, and none is missed.
    ///
    /// # Errors
    /// When too many are followed.
    pub fn follow(&mut self, tgid: u32, cookie: u64) -> Result<(), WatchError> {
        self.followed.insert(tgid, cookie, 0).map_err(map_error(|| format!("following process {tgid}")))
    }

    /// Ends [`Monitor::follow`] of this process alone, not of its children. No error when it isn't followed: a process that ends is forgotten by itself.
    ///
    /// # Errors
    /// When the kernel refuses the change.
    pub fn unfollow(&mut self, tgid: u32) -> Result<(), WatchError> {
        ignore_missing(self.followed.remove(&tgid)).map_err(map_error(|| format!("no longer following process {tgid}")))
    }

    /// As [`Monitor::follow`], for the processes of one cgroup (not of its children) of the unified hierarchy, by its id (the inode of its directory).
    ///
    /// # Errors
    /// When too many are followed.
    pub fn follow_cgroup(&mut self, id: u64, cookie: u64) -> Result<(), WatchError> {
        self.cgroups.insert(id, cookie, 0).map_err(map_error(|| format!("following cgroup {id}")))
    }

    /// Ends [`Monitor::follow_cgroup`].
    ///
    /// # Errors
    /// When the kernel refuses the change.
    pub fn unfollow_cgroup(&mut self, id: u64) -> Result<(), WatchError> {
        ignore_missing(self.cgroups.remove(&id)).map_err(map_error(|| format!("no longer following cgroup {id}")))
    }

    /// What was lost since the monitor was loaded.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn lost(&self) -> Result<Lost, WatchError> {
        let read = |index| self.counts.get(&index, 0).map_err(map_error(|| "reading what was lost".to_owned()));
        Ok(Lost {
            jobs: read(layout::COUNT_JOBS_LOST)?,
            threads: read(layout::COUNT_EVENTS_LOST)?,
            follows: read(layout::COUNT_FOLLOWS_LOST)?,
        })
    }

    /// What each program costs.
    ///
    /// # Errors
    /// When the kernel doesn't tell.
    pub fn cost(&self) -> Result<Vec<ProgramCost>, CostError> {
        cost::of(&self.ebpf)
    }

    fn slot(&self, pid: u32) -> Result<u32, WatchError> {
        self.watched.get(&pid).map(|watched| watched.slot).ok_or(WatchError::NotWatched { pid })
    }
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor")
            .field("features", &self.features)
            .field("watched", &self.watched)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

fn raw_watch(pid: u32, watch: Watch) -> RawWatch {
    RawWatch {
        cookie: watch.cookie,
        deadline_ns: watch.deadline_ns,
        wcet_ns: watch.wcet_ns,
        period_ns: watch.period_ns,
        min_interarrival_ns: watch.min_interarrival_ns,
        pid,
        reserved: 0,
    }
}

/// The word and bit of a pid's low 16 bits.
fn filter_bit(pid: u32) -> (u32, u64) {
    ((pid / 64) % FILTER_WORDS, 1 << (pid % 64))
}

fn open(capacity: u32) -> Result<(Ebpf, Btf), LoadError> {
    let bytes = object::bytes("monitor", object::MONITOR)?;
    let btf = Btf::from_sys_fs().map_err(LoadError::NoBtf)?;
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&btf));
    for map in ["SLOTS", "WATCHES", "TASKS", "TIMERS"] {
        loader.map_max_entries(map, capacity);
    }
    let ebpf = loader.load(bytes).map_err(|error| LoadError::Object(Box::new(error)))?;
    Ok((ebpf, btf))
}

fn load_programs(ebpf: &mut Ebpf, btf: &Btf) -> Result<Features, LoadError> {
    let mut renames = true;
    let refused = |program| move |source| LoadError::Refused { program, source: Box::new(source) };
    for (name, tracepoint) in PROGRAMS {
        let program = tracepoint_program(ebpf, name)?;
        match undisturbed(|| program.load(tracepoint, btf)) {
            Err(ProgramError::Btf(BtfError::UnknownBtfTypeName { .. })) if tracepoint == RENAME => renames = false,
            loaded => loaded.map_err(refused(name))?,
        }
    }
    let program = iterator(ebpf)?;
    undisturbed(|| program.load("task", btf)).map_err(refused(INIT_TIMERS))?;
    let mut verified_instructions = BTreeMap::new();
    // Only a number for people: a kernel that doesn't tell it isn't refused.
    for cost in cost::of(ebpf).unwrap_or_default() {
        verified_instructions.insert(cost.name, cost.verified_instructions);
    }
    Ok(Features { renames, verified_instructions })
}

fn tracepoint_program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut BtfTracePoint, LoadError> {
    let missing = LoadError::Missing { what: "program", name };
    ebpf.program_mut(name).and_then(|program| program.try_into().ok()).ok_or(missing)
}

fn iterator(ebpf: &mut Ebpf) -> Result<&mut Iter, LoadError> {
    let missing = LoadError::Missing { what: "program", name: INIT_TIMERS };
    ebpf.program_mut(INIT_TIMERS).and_then(|program| program.try_into().ok()).ok_or(missing)
}

fn attach(ebpf: &mut Ebpf, name: &'static str) -> Result<(), LoadError> {
    let program = tracepoint_program(ebpf, name)?;
    program.attach().map(|_| ()).map_err(|source| LoadError::Attach { program: name, source: Box::new(source) })
}

/// The verifier gives up with EAGAIN when its thread gets a signal: asked again, as often as libbpf does.
fn undisturbed(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    let is_disturbed = |error: &ProgramError| match error {
        ProgramError::LoadError { io_error, .. } => io_error.kind() == std::io::ErrorKind::WouldBlock,
        _ => false,
    };
    for _ in 1..LOADS {
        match load() {
            Err(error) if is_disturbed(&error) => {}
            loaded => return loaded,
        }
    }
    load()
}

/// Reads the iterator, whose first step makes all timers that aren't there, or as many as the kernel finds memory for without waiting; how many there are.
fn prepare_timers(ebpf: &mut Ebpf, counts: &Array<MapData, u64>, capacity: u32) -> Result<u32, LoadError> {
    read_iterator(ebpf)?;
    let ready = counts.get(&layout::COUNT_TIMERS, 0).map_err(opening("COUNTS"))?;
    match u32::try_from(ready).unwrap_or(capacity) {
        0 => Err(LoadError::Timers { wanted: capacity }),
        ready => Ok(ready.min(capacity)),
    }
}

fn read_iterator(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let attaching = |source| LoadError::Attach { program: INIT_TIMERS, source: Box::new(source) };
    let program = iterator(ebpf)?;
    let id = program.attach().map_err(attaching)?;
    let link = program.take_link(id).map_err(attaching)?;
    let mut file = link.into_file().map_err(LoadError::Iterator)?;
    let mut output = Vec::new();
    file.read_to_end(&mut output).map_err(LoadError::IteratorRead)?;
    Ok(())
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    ebpf.take_map(name).ok_or(LoadError::Missing { what: "map", name })
}

fn opening(map: &'static str) -> impl Fn(MapError) -> LoadError {
    move |source| LoadError::Map { map, source }
}

fn map_error(attempted: impl Fn() -> String) -> impl Fn(MapError) -> WatchError {
    move |source| WatchError::Map { attempted: attempted(), source }
}

fn ignore_missing(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        other => other,
    }
}

fn is_not_found(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.kind() == std::io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monitor_may_move_between_threads() {
        fn movable<T: Send + 'static>() {}
        movable::<Monitor>();
        movable::<Events>();
    }

    #[test]
    fn the_filter_has_a_bit_for_each_value_of_a_pids_low_sixteen_bits() {
        assert_eq!(filter_bit(0), (0, 1));
        assert_eq!(filter_bit(65), (1, 2));
        assert_eq!(filter_bit(65_535), (1_023, 1 << 63));
        assert_eq!(filter_bit(65_536 + 65), filter_bit(65));
    }
}
