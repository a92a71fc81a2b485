//! Published sets with published response times.

use pullpiri_rt::{Budget, Load, Wcrt, edf, fp, spuri};

fn load(wcet_ns: u64, period_ns: u64, deadline_ns: u64) -> Load {
    Load { wcet_ns, period_ns, deadline_ns, jitter_ns: 0, blocking_ns: 0 }
}

fn fixed(loads: &[Load], priorities: &[u8]) -> Vec<Option<u64>> {
    responses(fp::response_times(loads, priorities, &mut Budget::default()))
}

fn responses(answers: Vec<Option<Wcrt>>) -> Vec<Option<u64>> {
    assert!(answers.iter().flatten().all(|answer| answer.exact));
    answers.into_iter().map(|answer| answer.map(|answer| answer.response_ns)).collect()
}

/// Burns, Wellings, "Real-Time Systems and Programming Languages", 3rd edition, section 13.5, table 13.4: R = 3, 6, 20; utilisation 0.75 + 0.25 = 1 is not
/// provable by Liu and Layland's bound.
#[test]
fn burns_and_wellings_response_times() {
    let set = [load(3, 7, 7), load(3, 12, 12), load(5, 20, 20)];
    assert_eq!(fixed(&set, &[3, 2, 1]), [Some(3), Some(6), Some(20)]);
}

/// The same book, table 13.3 (task set C): 80/40, 40/10, 20/5 has a utilisation of exactly 1 and is schedulable: R = 80, 15, 5.
#[test]
fn burns_and_wellings_task_set_c() {
    let set = [load(40, 80, 80), load(10, 40, 40), load(5, 20, 20)];
    assert_eq!(fixed(&set, &[1, 2, 3]), [Some(80), Some(15), Some(5)]);
}

/// The same book, table 13.1 (task set A): 50/12, 40/10, 30/10 misses with rate-monotonic priorities: the least urgent one's first job ends after 50.
#[test]
fn burns_and_wellings_task_set_a() {
    let set = [load(12, 50, 50), load(10, 40, 40), load(10, 30, 30)];
    let answers = fixed(&set, &[1, 2, 3]);
    assert_eq!(answers[1..], [Some(20), Some(10)]);
    assert!(answers[0].is_some_and(|ns| ns > 50), "{answers:?}");
}

/// Lehoczky, RTSS 1990, example: C = 26, T = 70 over C = 62, T = 100. The first job's response of 114 isn't the longest: that is 118, of the fifth.
/// (The seven jobs of the busy window take 114, 102, 116, 104, 118, 106, 94.)
#[test]
fn lehoczky_arbitrary_deadlines() {
    let set = [load(26, 70, 70), load(62, 100, 1000)];
    let answers = fp::response_times(&set, &[2, 1], &mut Budget::default());
    let worst = answers[1].unwrap();
    assert_eq!((worst.response_ns, worst.job, worst.end_ns), (118, 4, 518));
}

/// Audsley, Burns, Richardson, Tindell, Wellings 1993: release jitter delays what is below by whole jobs, and the task itself by the jitter.
/// With the set of Burns and Wellings' table 13.4 and a jitter of 1 of the most urgent: w(2) = 3 + ⌈(w + 1)/7⌉·3 = 6, R = 6 still; with a jitter of 2 of the
/// second one, R = 8.
#[test]
fn audsley_jitter() {
    let mut set = [load(3, 7, 7), load(3, 12, 12), load(5, 20, 20)];
    set[0].jitter_ns = 1;
    set[1].jitter_ns = 2;
    let answers = fixed(&set, &[3, 2, 1]);
    assert_eq!(answers[..2], [Some(4), Some(8)]);
}

/// Liu, "Real-Time Systems", 2000, section 6.5: (3, 1), (5, 1.5), (7, 1.25), (9, 0.5) under rate-monotonic priorities: the fourth ends at 9 exactly.
#[test]
fn liu_time_demand_analysis() {
    let set = [load(100, 300, 300), load(150, 500, 500), load(125, 700, 700), load(50, 900, 900)];
    assert_eq!(fixed(&set, &[4, 3, 2, 1]), [Some(100), Some(250), Some(475), Some(900)]);
}

/// Buttazzo, "Hard Real-Time Computing Systems", 3rd edition, section 4.5 (the example of its response-time analysis): C = 1, 1, 2, 1; T = 4, 5, 6, 11; D = 3, 4, 5, 10: R = 1, 2, 4, 10.
#[test]
fn buttazzo_deadline_monotonic() {
    let set = [load(1, 4, 3), load(1, 5, 4), load(2, 6, 5), load(1, 11, 10)];
    assert_eq!(fixed(&set, &[4, 3, 2, 1]), [Some(1), Some(2), Some(4), Some(10)]);
}

/// Buttazzo, section 4.6 (the example of the processor demand criterion): C = 2, 2, 2; D = 4, 5, 7; T = 6, 8, 9 is schedulable under EDF.
#[test]
fn buttazzo_processor_demand() {
    let set = [load(2, 6, 4), load(2, 8, 5), load(2, 9, 7)];
    assert_eq!(edf::check(&set, &mut Budget::default()), edf::Demand::Met);
    // With 4 units every 12 of the third, 8 are due within 7.
    let set = [load(2, 6, 4), load(2, 8, 5), load(4, 12, 7)];
    assert_eq!(
        edf::check(&set, &mut Budget::default()),
        edf::Demand::Exceeded { interval_ns: 7, demand_ns: 8, blocking_ns: 0 }
    );
}

/// Liu, Layland, JACM 1973, section 7: EDF uses the CPU up to 1 where rate-monotonic priorities miss: C = 2, 4; T = 5, 7.
#[test]
fn edf_where_fixed_priorities_miss() {
    let set = [load(2, 5, 5), load(4, 7, 7)];
    assert_eq!(fixed(&set, &[2, 1])[1], Some(8));
    let answers = responses(spuri::response_times(&set, &mut Budget::default()));
    assert!(answers[0].is_some_and(|ns| ns <= 5) && answers[1].is_some_and(|ns| ns <= 7), "{answers:?}");
}

/// Spuri's observation (RR-2772): under EDF the synchronous release isn't the worst case. Here the second task's first job ends 1 after a common release,
/// but one that arrives 1 after it has the deadline of the first task's and may wait for that one's end.
#[test]
fn spuri_worst_case_is_not_synchronous() {
    let set = [load(2, 4, 4), load(1, 8, 3)];
    assert_eq!(responses(spuri::response_times(&set, &mut Budget::default())), [Some(3), Some(2)]);
}
