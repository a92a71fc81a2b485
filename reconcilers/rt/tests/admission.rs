//! Placement, kernel ceilings, what runs already, and the reasons.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use pullpiri_crds::schedule::TaskProof;
use pullpiri_rt::{
    Budget, Ceilings, CpuSet, CpuTask, Load, Node, Placed, Placement, Policy, PriorityAssignment, Proof, Request, Task,
    admit, admit_within, edf, fp, kernel,
};

const MS: u64 = 1_000_000;

fn task(name: &str, wcet_ns: u64, period_ns: u64) -> Task {
    Task {
        name: name.to_owned(),
        wcet_ns,
        period_ns,
        deadline_ns: period_ns,
        jitter_ns: 0,
        offset_ns: 0,
        blocking_ns: 0,
        priority: None,
        policy: Policy::Fifo,
        affinity: None,
        node: None,
        group: name.to_owned(),
    }
}

fn on(cpu: u32, task: Task) -> Task {
    Task { affinity: Some(CpuSet::from_iter([cpu])), ..task }
}

fn placed(cpu: u32, priority: u8, task: Task) -> Placed {
    Placed { task: Task { priority: Some(priority), ..task }, node: "ecu".to_owned(), cpu }
}

fn request(tasks: Vec<Task>, cpus: u32) -> Request {
    Request {
        tasks,
        priority_assignment: PriorityAssignment::DeadlineMonotonic,
        placement: Placement::FirstFit,
        nodes: vec![Node::ideal("ecu", cpus)],
        existing: Vec::new(),
    }
}

fn kernel_node(cpus: u32, group_ppm: Option<u32>) -> Node {
    let ceilings = Ceilings {
        policies: vec![Policy::Fifo, Policy::RoundRobin, Policy::Deadline],
        fixed_priority_ppm: 950_000,
        fixed_priority_window_ns: 1_000_000_000,
        group_ppm,
        deadline_ppm: 900_000,
        exclusive_cpusets: true,
        exclusive_per_group: false,
    };
    Node { ceilings: Some(ceilings), ..Node::ideal("ecu", cpus) }
}

fn words(proof: &Proof) -> String {
    proof.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn cpus_of(proof: &Proof) -> Vec<Option<u32>> {
    proof.tasks.iter().map(|task| task.cpu).collect()
}

/// What a proof says, checked without the code that placed it.
fn verify(request: &Request, proof: &Proof) {
    let mut seen: Vec<CpuTask> = proof.cpus.iter().flat_map(|cpu| cpu.tasks.iter().copied()).collect();
    seen.sort();
    let before = seen.len();
    seen.dedup();
    assert_eq!(seen.len(), before, "a task is on two CPUs");
    for (at, verdict) in proof.tasks.iter().enumerate() {
        assert_eq!(seen.contains(&CpuTask::New(at)), verdict.node.is_some());
        assert_eq!(proof.unplaced.contains(&verdict.name), verdict.node.is_none());
        if let (Some(cpus), Some(cpu)) = (&request.tasks[at].affinity, verdict.cpu) {
            assert!(cpus.contains(cpu));
        }
    }
    for (placed, verdict) in request.existing.iter().zip(&proof.existing) {
        assert_eq!((verdict.cpu, verdict.priority), (Some(placed.cpu), placed.task.priority));
    }
    for cpu in &proof.cpus {
        let members: Vec<(&Task, &pullpiri_rt::TaskVerdict)> = cpu
            .tasks
            .iter()
            .map(|task| match task {
                CpuTask::New(at) => (&request.tasks[*at], &proof.tasks[*at]),
                CpuTask::Existing(at) => (&request.existing[*at].task, &proof.existing[*at]),
            })
            .collect();
        let loads: Vec<Load> = members.iter().map(|(task, _)| task.load()).collect();
        if members.iter().all(|(task, _)| task.policy != Policy::Deadline) {
            let priorities: Vec<u8> = members.iter().map(|(_, verdict)| verdict.priority.unwrap()).collect();
            assert!(priorities.iter().all(|priority| (1..=99).contains(priority)));
            assert!(priorities.is_sorted_by(|left, right| left >= right));
            let again = fp::response_times(&loads, &priorities, &mut Budget::default());
            for (answer, (_, verdict)) in again.iter().zip(&members) {
                assert_eq!(answer.map(|answer| answer.response_ns), verdict.response_time_ns);
            }
        } else {
            assert!(members.iter().all(|(task, _)| task.policy == Policy::Deadline));
            if proof.schedulable {
                assert_eq!(edf::check(&loads, &mut Budget::default()), edf::Demand::Met);
            }
        }
    }
    assert_eq!(proof.schedulable, proof.reasons.is_empty());
    if proof.schedulable {
        assert!(proof.tasks.iter().all(|task| task.schedulable && task.slack_ns().is_some_and(|ns| ns >= 0)));
    }
}

fn proven(request: &Request) -> Proof {
    let proof = admit(request);
    verify(request, &proof);
    proof
}

#[test]
fn first_best_and_worst_fit() {
    let set = || {
        vec![
            task("a", 5 * MS, 10 * MS),
            task("b", 4 * MS, 10 * MS),
            task("c", 3 * MS, 10 * MS),
            task("d", 2 * MS, 10 * MS),
        ]
    };
    let with = |placement| cpus_of(&proven(&Request { placement, ..request(set(), 3) }));
    assert_eq!(with(Placement::FirstFit), [Some(0), Some(0), Some(1), Some(1)]);
    assert_eq!(with(Placement::BestFit), [Some(0), Some(0), Some(1), Some(1)]);
    assert_eq!(with(Placement::WorstFit), [Some(0), Some(1), Some(2), Some(2)]);
    // Best fit takes the fullest that still fits: e (10 %) goes to CPU 0, at 90 %; so does first fit, but f (5 %) then shows nothing new; on a third CPU
    // at 95 % best fit prefers that one.
    let mut more = vec![on(0, task("a", 5 * MS, 10 * MS)), on(1, task("b", 9 * MS, 10 * MS)), task("c", MS, 10 * MS)];
    let best = proven(&Request { placement: Placement::BestFit, ..request(more.clone(), 2) });
    assert_eq!(best.tasks[2].cpu, Some(1));
    more.rotate_left(1);
    assert!(proven(&request(more, 2)).schedulable);
}

#[test]
fn utilisation_alone_admits_what_misses() {
    // 90 % and less of the CPU, but the fixed priorities miss: the flat bound of 90 % would take it.
    let mut set = vec![on(0, task("fast", 2 * MS, 5 * MS)), on(0, task("slow", 4 * MS, 9 * MS))];
    set[1].deadline_ns = 5 * MS;
    set[0].deadline_ns = 5 * MS;
    let proof = proven(&request(set, 1));
    assert!(!proof.schedulable);
    assert_eq!(
        words(&proof),
        "task slow misses its deadline of 5ms by 3ms on node ecu CPU 0 (FIFO): its job ends 8ms after the critical instant: \
         slow 4ms, fast 4ms (2 jobs)"
    );
}

#[test]
fn edf_says_in_which_interval_too_much_is_due() {
    let deadline = |task: Task, ns| Task { policy: Policy::Deadline, deadline_ns: ns, ..on(0, task) };
    let set = vec![deadline(task("a", 3 * MS, 10 * MS), 4 * MS), deadline(task("b", 3 * MS, 12 * MS), 5 * MS)];
    let proof = proven(&request(set, 1));
    assert!(!proof.schedulable);
    assert!(
        words(&proof).starts_with(
            "node ecu CPU 0: in the 5ms after a common release 6ms of work are due, 1ms too much: a 3ms, b 3ms\n"
        ),
        "{}",
        words(&proof)
    );
    assert!(proof.tasks.iter().all(|task| task.priority.is_none()));
}

#[test]
fn overload_has_no_bound() {
    let proof = proven(&request(vec![on(0, task("a", 6 * MS, 10 * MS)), on(0, task("b", 8 * MS, 16 * MS))], 1));
    assert_eq!(proof.tasks[0].response_time_ns, Some(6 * MS));
    assert_eq!(proof.tasks[1].response_time_ns, None);
    assert_eq!(
        words(&proof),
        "node ecu CPU 0: its tasks need 110 % of the CPU, so that the response time of b has no bound: a 60 %, b 50 %"
    );
    assert_eq!(proof.cpus[0].utilisation_ppm, 1_100_000);
}

#[test]
fn what_runs_already_stays_and_goes_on_meeting_its_deadlines() {
    let existing = vec![placed(0, 50, task("old", 4 * MS, 10 * MS))];
    // By its deadline above the old one, which still ends in time.
    let fits = Request { existing: existing.clone(), ..request(vec![task("new", 2 * MS, 8 * MS)], 1) };
    let proof = proven(&fits);
    assert!(proof.schedulable);
    assert!(proof.tasks[0].priority > Some(50));
    assert_eq!(proof.existing[0].response_time_ns, Some(6 * MS));
    // Pinned there and too much: the old one would miss, and the reason says so.
    let evicts = Request { existing: existing.clone(), ..request(vec![on(0, task("new", 3_200_000, 7 * MS))], 1) };
    let proof = proven(&evicts);
    assert!(!proof.schedulable);
    assert!(words(&proof).contains("task old, which runs already, would no longer be proven"), "{}", words(&proof));
    // Not pinned: it goes elsewhere.
    let elsewhere = Request { existing, ..request(vec![task("new", 4 * MS, 6 * MS)], 2) };
    assert_eq!(proven(&elsewhere).tasks[0].cpu, Some(1));
}

#[test]
fn priorities_between_fixed_ones_are_shared_when_none_is_free() {
    let existing = vec![placed(0, 51, task("above", MS, 10 * MS)), placed(0, 50, task("below", MS, 40 * MS))];
    let proof = proven(&Request { existing, ..request(vec![task("new", MS, 20 * MS)], 1) });
    assert!(proof.schedulable);
    assert_eq!(proof.tasks[0].priority, Some(50));
}

#[test]
fn more_tasks_than_priorities() {
    let set: Vec<Task> = (0..300).map(|at| task(&format!("t{at}"), 20_000, 10 * MS + at * MS)).collect();
    for how in [PriorityAssignment::DeadlineMonotonic, PriorityAssignment::RateMonotonic, PriorityAssignment::Optimal] {
        let proof = proven(&Request { priority_assignment: how, ..request(set.clone(), 1) });
        assert!(proof.schedulable, "{how:?}: {}", words(&proof));
    }
}

#[test]
fn ten_thousand_tasks_end() {
    let set: Vec<Task> = (0..10_000).map(|at| task(&format!("t{at}"), 50_000 + at, 10 * MS + at * 7919)).collect();
    let request = request(set, 8);
    let proof = admit_within(&request, &mut Budget::new(20_000_000));
    // However it ends, nothing is lost and nothing accepted that isn't proven.
    assert_eq!(proof.tasks.len(), 10_000);
    assert!(!proof.schedulable);
    assert_eq!(proof.tasks.iter().filter(|task| task.node.is_none()).count(), proof.unplaced.len());
}

#[test]
fn the_kernels_ceilings_are_part_of_the_model() {
    let with = |tasks: Vec<Task>, node: Node| proven(&Request { nodes: vec![node], ..request(tasks, 1) });
    // FIFO: 95 % of any second.
    assert!(with(vec![on(0, task("a", 94 * MS, 100 * MS))], kernel_node(1, None)).schedulable);
    let proof = with(vec![on(0, task("a", 96 * MS, 100 * MS))], kernel_node(1, None));
    assert_eq!(
        words(&proof),
        "node ecu CPU 0: FIFO and RR tasks need 96 % of the CPU, its kernel admits 95 % in any 1s: a 960ms (10 jobs)"
    );
    // A third of the CPU on average, but all of it for more than 950 ms at once.
    let burst = with(vec![on(0, task("burst", 960 * MS, 3000 * MS))], kernel_node(1, None));
    assert!(words(&burst).contains("need 96 % of the CPU"), "{}", words(&burst));
    // DEADLINE: 90 % as the kernel counts it, ⌊runtime·2²⁰/period⌋.
    let deadline = |wcet, period| Task { policy: Policy::Deadline, ..on(0, task("d", wcet, period)) };
    assert!(with(vec![deadline(899_999, MS)], kernel_node(2, None)).schedulable);
    let proof = with(vec![deadline(900_002, MS)], kernel_node(2, None));
    assert!(
        words(&proof).contains("DEADLINE tasks need 90.0002 % of the CPU, its kernel admits 90 %"),
        "{}",
        words(&proof)
    );
    // What sched_setattr refuses of the task itself.
    assert!(words(&with(vec![deadline(1000, MS)], kernel_node(2, None))).contains("below the least runtime"));
    assert!(
        words(&with(vec![deadline(5000, 50_000)], kernel_node(2, None)))
            .contains("outside of what SCHED_DEADLINE takes")
    );
    // No exclusive cpuset, or not the policy.
    let mut node = kernel_node(2, None);
    node.ceilings.as_mut().unwrap().exclusive_cpusets = false;
    assert!(words(&with(vec![deadline(MS, 10 * MS)], node)).contains("no exclusive cpuset"));
    let mut node = kernel_node(1, None);
    node.ceilings.as_mut().unwrap().policies.clear();
    assert!(
        words(&with(vec![task("f", MS, 10 * MS)], node))
            .contains("can't be given policy FIFO (they can be given: none)")
    );
}

#[test]
fn groups_count_wherever_they_run() {
    // Each alone on its CPU with 60 %: no CPU is over its ceiling, but two groups need 120 % of one CPU together.
    let set = vec![on(0, task("a", 6 * MS, 10 * MS)), on(1, task("b", 6 * MS, 10 * MS))];
    let with =
        |set: &Vec<Task>, ppm| proven(&Request { nodes: vec![kernel_node(2, Some(ppm))], ..request(set.clone(), 2) });
    let proof = with(&set, 950_000);
    assert!(!proof.schedulable);
    assert_eq!(
        words(&proof),
        "node ecu: the groups of its containers need 120 % of a CPU together, its kernel admits 95 % (RT_GROUP_SCHED): a 600ms, b 600ms"
    );
    // One group with threads on both CPUs needs 60 %: its runtime holds on each.
    let one: Vec<Task> = set.into_iter().map(|task| Task { group: "one".to_owned(), ..task }).collect();
    let proof = with(&one, 950_000);
    assert!(proof.schedulable, "{}", words(&proof));
    assert_eq!(proof.groups.len(), 1);
    assert_eq!((proof.groups[0].runtime_ns, proof.groups[0].period_ns), (600 * MS, 1000 * MS));
}

#[test]
fn a_cpu_has_one_class() {
    let edf = Task { policy: Policy::Deadline, ..on(0, task("edf", MS, 10 * MS)) };
    let proof = proven(&request(vec![on(0, task("fixed", 2 * MS, 10 * MS)), edf.clone()], 2));
    assert_eq!(proof.unplaced, ["edf"]);
    assert!(words(&proof).contains("CPU 0 has FIFO and RR tasks"), "{}", words(&proof));
    let free = Task { affinity: None, ..edf };
    assert!(proven(&request(vec![on(0, task("fixed", 2 * MS, 10 * MS)), free], 2)).schedulable);
}

fn edf(task: Task) -> Task {
    Task { policy: Policy::Deadline, ..task }
}

#[test]
fn one_cpu_is_left_to_what_isnt_real_time() {
    let with = |tasks: Vec<Task>, cpus| proven(&Request { nodes: vec![kernel_node(cpus, None)], ..request(tasks, 1) });
    let pinned = |cpu, name| on(cpu, edf(task(name, 5 * MS, 10 * MS)));
    let proof = with(vec![pinned(0, "a"), pinned(1, "b")], 2);
    assert_eq!(proof.unplaced, ["b"]);
    assert_eq!(
        words(&proof),
        "task b can't be on node ecu: it sets at most 1 of its 2 CPUs apart for DEADLINE tasks, as one is left to all else, \
         and CPU 0 has some already"
    );
    assert!(with(vec![pinned(0, "a"), pinned(1, "b")], 3).schedulable);
    assert!(proven(&request(vec![pinned(0, "a"), pinned(1, "b")], 2)).schedulable, "an ideal kernel sets none apart");
    // By themselves they go together; what doesn't fit together is refused with both numbers.
    let set = |wcet| vec![edf(task("a", wcet, 10 * MS)), edf(task("b", wcet, 10 * MS))];
    assert_eq!(cpus_of(&with(set(4 * MS), 2)), [Some(0), Some(0)]);
    assert_eq!(
        words(&with(set(6 * MS), 2)),
        "task b has no place on any of 2 CPUs; with it, node ecu CPU 0: its tasks need 120 % of the CPU, so that the response time \
         of a, b has no bound: a 60 %, b 60 %; node ecu sets at most 1 of its 2 CPUs apart for DEADLINE tasks, as one is left to all else"
    );
    // They had all of them before: nothing new comes onto that node.
    let old = |cpu| Placed { task: edf(task(&format!("old{cpu}"), MS, 10 * MS)), node: "ecu".to_owned(), cpu };
    let old = [0, 1].map(old);
    let more = Request { nodes: vec![kernel_node(2, None)], existing: old.into(), ..request(set(MS), 1) };
    assert!(words(&proven(&more)).contains("task a can't be on node ecu: it sets at most 1 of its 2 CPUs apart"));
    // A node with one CPU needs none set apart, and one that offers a single one of several has none for them.
    let mut single = kernel_node(1, None);
    assert!(words(&with(set(MS), 1)).contains("node ecu sets at most 0 of its 1 CPUs apart"));
    single.ceilings.as_mut().unwrap().exclusive_cpusets = false;
    let alone = proven(&Request { nodes: vec![single], ..request(set(MS), 1) });
    assert!(alone.schedulable, "{}", words(&alone));
}

#[test]
fn where_a_cpu_is_set_apart_for_one_container_others_go_elsewhere() {
    let mut node = kernel_node(3, None);
    node.ceilings.as_mut().unwrap().exclusive_per_group = true;
    let with = |tasks: Vec<Task>| proven(&Request { nodes: vec![node.clone()], ..request(tasks, 1) });
    let of = |group: &str, task: Task| edf(Task { group: group.to_owned(), ..task });
    let (a, b, c) = (task("a", MS, 10 * MS), task("b", MS, 10 * MS), task("c", MS, 10 * MS));
    let proof = with(vec![of("x", a.clone()), of("y", b.clone()), of("x", c.clone())]);
    assert!(proof.schedulable, "{}", words(&proof));
    assert_eq!(cpus_of(&proof), [Some(0), Some(1), Some(0)]);
    let proof = with(vec![of("x", on(0, a.clone())), of("y", on(0, b.clone()))]);
    assert_eq!(
        words(&proof),
        "task b can't be on node ecu: CPU 0 has DEADLINE tasks of another container, and with cgroup version 2 a CPU is set apart for one"
    );
    // Three containers, and two CPUs for them.
    let proof = with(vec![of("x", a), of("y", b), of("z", c)]);
    assert_eq!(proof.unplaced, ["c"]);
    assert!(words(&proof).contains("sets at most 2 of its 3 CPUs apart"), "{}", words(&proof));
}

#[test]
fn deadline_tasks_are_packed_where_spreading_them_leaves_no_place() {
    let with = |tasks: Vec<Task>, cpus, placement| {
        proven(&Request { nodes: vec![kernel_node(cpus, None)], placement, ..request(tasks, 1) })
    };
    // First fit decreasing has 40 and 35 together, then 30, 25 and 25, and no place for the last; 40, 25, 25 and 35, 30, 25 do it.
    let shares = [40, 35, 30, 25, 25, 25];
    let set =
        || shares.iter().enumerate().map(|(at, share)| edf(task(&format!("t{at}"), share * MS, 100 * MS))).collect();
    for placement in [Placement::FirstFit, Placement::BestFit, Placement::WorstFit] {
        let proof = with(set(), 3, placement);
        assert!(proof.schedulable, "{placement:?}: {}", words(&proof));
    }
    // Worst fit puts a FIFO task on every CPU, and none is left for the other class.
    let mut mixed: Vec<Task> = (0..3).map(|at| task(&format!("f{at}"), 3 * MS, 10 * MS)).collect();
    mixed.push(edf(task("d", 2 * MS, 10 * MS)));
    let proof = with(mixed, 3, Placement::WorstFit);
    assert!(proof.schedulable, "{}", words(&proof));
    // One CPU for FIFO and RR tasks that need two: the DEADLINE tasks move together.
    let mut mixed: Vec<Task> = (0..2).map(|at| edf(task(&format!("d{at}"), 4 * MS, 10 * MS))).collect();
    mixed.extend((0..2).map(|at| task(&format!("f{at}"), 6 * MS, 10 * MS)));
    let proof = with(mixed, 3, Placement::WorstFit);
    assert!(proof.schedulable, "{}", words(&proof));
}

#[test]
fn nodes_that_arent_there_and_cpus_that_arent_offered() {
    let elsewhere = Task { node: Some("moon".to_owned()), ..task("a", MS, 10 * MS) };
    assert_eq!(
        words(&proven(&request(vec![elsewhere], 1))),
        "task a must be on node moon, which isn't there: there is ecu"
    );
    let affinity = on(28, task("a", MS, 10 * MS));
    assert_eq!(
        words(&proven(&request(vec![affinity], 2))),
        "task a can't be on node ecu: it may run on CPU 28, real-time tasks get CPU 0-1 there"
    );
}

#[test]
fn sched_deadline_takes_no_deadline_beyond_the_period() {
    let mut late = Task { policy: Policy::Deadline, ..on(0, task("late", 2 * MS, 10 * MS)) };
    late.deadline_ns = 30 * MS;
    let other = Task { policy: Policy::Deadline, deadline_ns: 9 * MS, ..on(0, task("other", 6 * MS, 10 * MS)) };
    let proof = admit(&Request { nodes: vec![kernel_node(2, None)], ..request(vec![late.clone(), other], 1) });
    assert!(proof.schedulable, "{}", words(&proof));
    assert_eq!(kernel::sched_deadline_ns(late.deadline_ns, late.jitter_ns, late.period_ns), 10 * MS);
}

#[test]
fn verdicts_become_the_status() {
    let proof = proven(&request(vec![on(0, task("a", 6 * MS, 10 * MS))], 1));
    let status = TaskProof::from(&proof.tasks[0]);
    assert_eq!((status.cpu, status.response_time_ns, status.slack_ns), (Some(0), Some(6_000_000), Some(4_000_000)));
}

fn any_task(name: usize, edf: bool, numbers: (u64, u64, u64, u64, u64, u8), pin: Option<u32>) -> Task {
    let (period, share, deadline, jitter, blocking, priority) = numbers;
    let period_ns = period * MS;
    Task {
        deadline_ns: (period_ns * deadline / 100).max(1),
        jitter_ns: if jitter > 20 { 0 } else { period_ns * jitter / 100 },
        blocking_ns: if blocking > 10 { 0 } else { period_ns * blocking / 100 },
        priority: (priority > 0).then_some(priority),
        policy: if edf { Policy::Deadline } else { Policy::Fifo },
        affinity: pin.map(|cpu| CpuSet::from_iter([cpu])),
        group: format!("g{}", name % 3),
        ..task(&format!("t{name}"), (period_ns * share / 1000).max(2000), period_ns)
    }
}

proptest! {
    /// Whatever is asked: every task once, every verdict as an independent analysis has it, what was there untouched, ceilings kept.
    #[test]
    fn any_request_is_answered(
        numbers in prop::collection::vec(((1_u64..200, 1_u64..500, 30_u64..250, 0_u64..60, 0_u64..40, 0_u8..99), 0_u32..8, any::<bool>()), 1..14),
        old in prop::collection::vec(((1_u64..200, 1_u64..200, 80_u64..250, 0_u64..60, 0_u64..40, 1_u8..99), 0_u32..3), 0..4),
        how in prop::sample::select(vec![
            PriorityAssignment::Explicit, PriorityAssignment::RateMonotonic, PriorityAssignment::DeadlineMonotonic, PriorityAssignment::Optimal,
        ]),
        placement in prop::sample::select(vec![Placement::FirstFit, Placement::BestFit, Placement::WorstFit]),
        real in any::<bool>(),
        mixed in any::<bool>(),
    ) {
        let tasks: Vec<Task> = numbers
            .into_iter()
            .enumerate()
            .map(|(at, (numbers, pin, edf))| any_task(at, mixed && edf, numbers, (pin < 3).then_some(pin)))
            .collect();
        let existing: Vec<Placed> = old
            .into_iter()
            .enumerate()
            .map(|(at, (numbers, cpu))| Placed { task: any_task(100 + at, false, numbers, None), node: "ecu".to_owned(), cpu })
            .collect();
        let node = if real { kernel_node(3, Some(900_000)) } else { Node::ideal("ecu", 3) };
        let request = Request { tasks, priority_assignment: how, placement, nodes: vec![node], existing };
        let proof = admit(&request);
        verify(&request, &proof);
        prop_assert_eq!(&proof, &admit(&request));
        if proof.schedulable && real {
            let shares: u64 = proof.groups.iter().map(|group| kernel::share_ppm(group.runtime_ns, group.period_ns)).sum();
            let fixed = request.tasks.iter().any(|task| task.policy == Policy::Fifo);
            prop_assert!(!fixed || shares <= 900_000, "{shares}");
            let apart = proof.cpus.iter().filter(|cpu| cpu.tasks.iter().any(|task| match task {
                CpuTask::New(at) => request.tasks[*at].policy == Policy::Deadline,
                CpuTask::Existing(_) => false,
            }));
            prop_assert!(apart.count() < 3, "one of three CPUs is left to all else");
            for cpu in &proof.cpus {
                let sum: u64 = cpu.tasks.iter().filter_map(|task| match task {
                    CpuTask::New(at) => request.tasks.get(*at).filter(|task| task.policy == Policy::Deadline),
                    CpuTask::Existing(_) => None,
                }).map(|task| kernel::to_ratio(task.period_ns, task.wcet_ns)).sum();
                prop_assert!(sum <= kernel::ratio_limit(900_000));
            }
        }
    }

    /// DEADLINE tasks whose deadlines are their periods meet them where their shares fit: they are admitted exactly if some way of seating them leaves a
    /// CPU, whatever the placement.
    #[test]
    fn what_fits_on_all_but_one_cpu_is_admitted_and_nothing_else(
        shares in prop::collection::vec(10_u64..90, 1..7),
        cpus in 1_u32..5,
        placement in prop::sample::select(vec![Placement::FirstFit, Placement::BestFit, Placement::WorstFit]),
    ) {
        let tasks: Vec<Task> =
            shares.iter().enumerate().map(|(at, share)| edf(task(&format!("t{at}"), share * MS, 100 * MS))).collect();
        let request = Request { nodes: vec![kernel_node(cpus, None)], placement, ..request(tasks, 1) };
        let proof = admit(&request);
        verify(&request, &proof);
        let ratios: Vec<u64> = shares.iter().map(|share| kernel::to_ratio(100 * MS, share * MS)).collect();
        let bins = usize::try_from(cpus - 1).unwrap();
        prop_assert_eq!(proof.schedulable, fits(&ratios, &mut vec![0; bins]), "{}", words(&proof));
        let used: std::collections::BTreeSet<u32> = proof.tasks.iter().filter_map(|task| task.cpu).collect();
        prop_assert!(used.len() <= bins, "{used:?}");
    }
}

/// Whether items fit into what is left of bins of 90 %, by trying all ways.
fn fits(items: &[u64], bins: &mut Vec<u64>) -> bool {
    let Some((item, rest)) = items.split_first() else { return true };
    (0..bins.len()).any(|at| {
        bins[at] += item;
        let good = bins[at] <= kernel::ratio_limit(900_000) && fits(rest, bins);
        bins[at] -= item;
        good
    })
}
