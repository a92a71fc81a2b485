//! Leader election: a table of decisions, and a simulation in which clocks run at different rates and messages are late, lost or answered
//! after they were done.

use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use pullpiri_reconcilers::lease::{
    Candidate, Decision, Monotonic, Record, Seen, Sight, Term, Timing, TimingError, evaluate,
};

fn at(ms: u64) -> Monotonic {
    Monotonic(Duration::from_millis(ms))
}

fn record(holder: Option<&str>, transitions: i64) -> Record {
    Record { holder: holder.map(str::to_owned), duration: Duration::from_secs(15), transitions, ..Record::default() }
}

fn present(holder: Option<&str>, transitions: i64, since: u64) -> Sight {
    Sight::Present(Seen { record: record(holder, transitions), since: at(since) })
}

#[test]
fn decisions() {
    let absent_after = |since| Sight::Absent { last: Some(Seen { record: record(Some("b"), 4), since: at(since) }) };
    let term = |renewed| Some(Term { transitions: 5, renewed: at(renewed) });
    let wait = |ms| Decision::Wait { until: at(ms) };
    let cases = [
        ("nothing is known", Sight::Unread, None, None, 100, Decision::Read),
        ("nothing is known, and a write failed just now", Sight::Unread, None, Some(50), 100, Decision::Read),
        ("there is none", Sight::Absent { last: None }, None, None, 100, Decision::Create { transitions: 1 }),
        ("it was removed under a holder", absent_after(1_000), None, None, 15_999, wait(16_000)),
        ("…whose time is over", absent_after(1_000), None, None, 16_000, Decision::Create { transitions: 5 }),
        ("it was given back", present(None, 4, 99), None, None, 100, Decision::Take { transitions: 5 }),
        ("given back, but just tried", present(None, 4, 99), None, Some(90), 100, wait(2_090)),
        ("another holds it", present(Some("b"), 4, 100), None, None, 15_099, wait(15_100)),
        ("another held it", present(Some("b"), 4, 100), None, None, 15_100, Decision::Take { transitions: 5 }),
        ("our answer was lost", present(Some("a"), 4, 100), None, None, 101, Decision::Take { transitions: 5 }),
        ("we lead", present(Some("a"), 5, 100), term(100), Some(100), 2_099, wait(2_100)),
        ("it is time to renew", present(Some("a"), 5, 100), term(100), Some(100), 2_100, Decision::Renew),
        ("renewals aren't answered", present(Some("a"), 5, 100), term(100), Some(9_000), 10_000, wait(10_100)),
        ("the deadline has passed", present(Some("a"), 5, 100), term(100), Some(10_099), 10_100, Decision::StepDown),
    ];
    for (what, sight, term, tried, now, expected) in cases {
        let me = Candidate { identity: "a", timing: Timing::default(), term, tried: tried.map(at) };
        assert_eq!(evaluate(&sight, &me, at(now)), expected, "{what}");
    }
}

#[test]
fn only_a_change_is_a_sign_of_life() {
    let mut sight = Sight::Unread;
    sight.take_in(Some(record(Some("b"), 1)), at(10));
    sight.take_in(Some(record(Some("b"), 1)), at(20));
    assert_eq!(sight, present(Some("b"), 1, 10));
    sight.take_in(Some(Record { renewed: Some(Timestamp::UNIX_EPOCH), ..record(Some("b"), 1) }), at(30));
    let Sight::Present(seen) = &sight else { panic!("{sight:?}") };
    assert_eq!(seen.since, at(30));
    sight.take_in(None, at(40));
    sight.take_in(None, at(50));
    let Sight::Absent { last: Some(last) } = &sight else { panic!("{sight:?}") };
    assert_eq!(last.since, at(30));
}

#[test]
fn periods_have_to_fit() {
    let timing = |lease: u64, deadline: u64, retry: u64| {
        let ms = Duration::from_millis;
        Timing::new(ms(lease), ms(deadline), ms(retry))
    };
    assert_eq!(timing(15_000, 10_000, 2_000), Ok(Timing::default()));
    assert!(timing(2_000, 1_500, 300).is_ok());
    assert!(matches!(timing(15_500, 10_000, 2_000), Err(TimingError::Lease(_))));
    assert!(matches!(timing(0, 10_000, 2_000), Err(TimingError::Lease(_))));
    assert!(matches!(timing(15_000, 15_000, 2_000), Err(TimingError::Deadline { .. })));
    assert!(matches!(timing(15_000, 10_000, 8_400), Err(TimingError::Retry { .. })));
    assert!(matches!(timing(15_000, 10_000, 0), Err(TimingError::Retry { .. })));
    let message = timing(10_000, 10_000, 2_000).unwrap_err().to_string();
    assert_eq!(message, "the renew deadline (10s) must be shorter than the lease duration (10s)");
    for entropy in [0, 1, 77, u64::MAX] {
        let drawn = Timing::jittered(Duration::from_secs(2), entropy);
        assert!(drawn >= Duration::from_secs(2) && drawn <= Duration::from_millis(2_400), "{drawn:?}");
    }
}

#[test]
fn a_record_survives_the_wire() {
    let begun = Record::begun("a", Duration::from_secs(15), 7, Timestamp::UNIX_EPOCH);
    assert_eq!(Record::read(Some(&begun.spec())), begun);
    let back = Record { holder: None, ..begun };
    assert_eq!(back.spec().holder_identity.as_deref(), Some(""));
    assert_eq!(Record::read(Some(&back.spec())), back);
    assert_eq!(Record::read(None), Record::default());
}

/// A message between a process and the API server.
#[derive(Clone, Debug)]
struct Message {
    /// When the server does it, and when the process hears of it, in real milliseconds; `None`: lost.
    arrives: Option<u64>,
    answered: Option<u64>,
    sent_local: Monotonic,
    what: Request,
    done: Option<Result<(), ()>>,
    saw: Option<(u64, Option<Record>)>,
}

#[derive(Clone, Debug)]
enum Request {
    Read,
    Create(Record),
    /// With the version that was seen.
    Take(u64, Record),
    /// If the holder and the transitions are still these.
    Renew(i64),
    Release(i64),
}

/// What befalls a message.
#[derive(Clone, Debug)]
struct Fate {
    there_ms: u64,
    back_ms: u64,
    lost: u8,
}

#[derive(Clone, Debug)]
struct Process {
    name: String,
    /// Local milliseconds per 1,000 real ones, and the local clock at the beginning.
    rate: u64,
    offset: u64,
    sight: Sight,
    version: u64,
    term: Option<Term>,
    tried: Option<Monotonic>,
    looked: Option<Monotonic>,
    under_way: Vec<Message>,
    /// It does nothing in these real milliseconds (SIGSTOP).
    frozen: std::ops::Range<u64>,
    /// At this real millisecond it gives the Lease back and ends.
    stops: u64,
    stopped: bool,
    terms: Vec<i64>,
}

impl Process {
    fn now(&self, real: u64) -> Monotonic {
        at(self.offset + real * self.rate / 1_000)
    }

    /// Whether it would act.
    fn acts(&self, real: u64, timing: &Timing) -> bool {
        self.term.is_some_and(|term| self.now(real) < term.acts_until(timing))
    }
}

#[derive(Clone, Debug, Default)]
struct Server {
    lease: Option<Record>,
    version: u64,
    /// The largest transitions that ever were.
    highest: i64,
}

impl Server {
    fn put(&mut self, record: Record) {
        assert!(record.transitions >= self.highest, "transitions never fall");
        self.highest = record.transitions;
        self.version += 1;
        self.lease = Some(record);
    }

    fn serve(&mut self, who: &str, request: &Request, real: u64) -> Result<(), ()> {
        let now = Timestamp::from_millisecond(i64::try_from(real).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX);
        match request {
            Request::Read => {}
            Request::Create(record) if self.lease.is_none() => self.put(record.clone()),
            Request::Take(version, record) if *version == self.version => self.put(record.clone()),
            Request::Create(_) | Request::Take(..) => return Err(()),
            Request::Renew(transitions) | Request::Release(transitions) => {
                let mine = self
                    .lease
                    .clone()
                    .filter(|lease| lease.holder.as_deref() == Some(who) && lease.transitions == *transitions);
                let mut record = mine.ok_or(())?;
                record.renewed = Some(now);
                if matches!(request, Request::Release(_)) {
                    record.holder = None;
                }
                self.put(record);
            }
        }
        Ok(())
    }
}

struct World {
    timing: Timing,
    server: Server,
    processes: Vec<Process>,
    fates: Vec<Fate>,
    sent: usize,
}

impl World {
    fn send(&mut self, i: usize, what: Request, real: u64) {
        let fate = self.fates[self.sent % self.fates.len()].clone();
        self.sent += 1;
        let arrives = (fate.lost != 0).then_some(real + fate.there_ms);
        let answered = arrives.filter(|_| fate.lost > 1).map(|arrives| arrives + fate.back_ms);
        let process = &mut self.processes[i];
        let sent_local = process.now(real);
        match what {
            Request::Read => process.looked = Some(sent_local),
            _ => process.tried = Some(sent_local),
        }
        process.under_way.push(Message { arrives, answered, sent_local, what, done: None, saw: None });
    }

    fn step(&mut self, real: u64) {
        for i in 0..self.processes.len() {
            let who = self.processes[i].name.clone();
            let mut under_way = std::mem::take(&mut self.processes[i].under_way);
            for message in &mut under_way {
                if message.arrives == Some(real) {
                    message.done = Some(self.server.serve(&who, &message.what, real));
                    message.saw = Some((self.server.version, self.server.lease.clone()));
                }
            }
            let process = &mut self.processes[i];
            process.under_way = under_way;
            if process.stopped || process.frozen.contains(&real) {
                continue;
            }
            self.hear(i, real);
            self.act(i, real);
        }
    }

    /// Takes in answers that have come by now.
    fn hear(&mut self, i: usize, real: u64) {
        let process = &mut self.processes[i];
        let now = process.now(real);
        let (heard, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut process.under_way).into_iter().partition(|m| m.answered.is_some_and(|at| at <= real));
        process.under_way = rest;
        for message in heard {
            if let Some((version, lease)) = message.saw
                && version >= process.version
            {
                process.version = version;
                process.sight.take_in(lease, now);
            }
            if message.done != Some(Ok(())) {
                continue;
            }
            match message.what {
                Request::Create(record) | Request::Take(_, record) if process.term.is_none() => {
                    process.term = Some(Term { transitions: record.transitions, renewed: message.sent_local });
                    process.terms.push(record.transitions);
                }
                Request::Renew(transitions) => {
                    if let Some(term) = process.term.as_mut().filter(|term| term.transitions == transitions) {
                        term.renewed = term.renewed.max(message.sent_local);
                    }
                }
                _ => {}
            }
        }
    }

    fn act(&mut self, i: usize, real: u64) {
        let process = &mut self.processes[i];
        let now = process.now(real);
        if real >= process.stops {
            process.stopped = true;
            if let Some(term) = process.term.take() {
                self.send(i, Request::Release(term.transitions), real);
            }
            return;
        }
        // One question at a time while it doesn't lead; renewals may overtake each other.
        let me = Candidate { identity: &process.name, timing: self.timing, term: process.term, tried: process.tried };
        let begin = |transitions| {
            Record::begun(&process.name, self.timing.lease_duration(), transitions, Timestamp::UNIX_EPOCH)
        };
        let request = match evaluate(&process.sight, &me, now) {
            // Followers look every retry period (or watch, which is the same sooner).
            Decision::Wait { .. } | Decision::Read if process.term.is_none() => {
                let due = process.looked.is_none_or(|tried| tried.after(self.timing.retry_period()) <= now);
                if due { Some(Request::Read) } else { None }
            }
            Decision::Wait { .. } | Decision::Read => None,
            Decision::Create { transitions } => Some(Request::Create(begin(transitions))),
            Decision::Take { transitions } => Some(Request::Take(process.version, begin(transitions))),
            Decision::Renew => process.term.map(|term| Request::Renew(term.transitions)),
            Decision::StepDown => {
                process.term = None;
                None
            }
        };
        if let Some(request) = request {
            self.send(i, request, real);
        }
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    // Mostly quick; sometimes as slow as a lease lasts, sometimes lost on either way.
    let delay = prop_oneof![6 => 0_u64..3, 2 => 0_u64..40, 1 => 0_u64..400];
    (delay.clone(), delay, prop_oneof![1 => Just(0_u8), 1 => Just(1_u8), 12 => Just(2_u8)])
        .prop_map(|(there_ms, back_ms, lost)| Fate { there_ms, back_ms: back_ms + 1, lost })
}

fn process(horizon: u64) -> impl Strategy<Value = Process> {
    let frozen = prop_oneof![2 => Just(0..0), 1 => (0..horizon, 1..horizon).prop_map(|(from, long)| from..from + long)];
    let stops = prop_oneof![3 => Just(u64::MAX), 1 => 0..horizon];
    // Rates that differ by less than lease / deadline = 1.5; the steps of the simulation cost some of it.
    (800_u64..=1_150, 0_u64..100_000, frozen, stops).prop_map(|(rate, offset, frozen, stops)| Process {
        name: String::new(),
        rate,
        offset,
        sight: Sight::Unread,
        version: 0,
        term: None,
        tried: None,
        looked: None,
        under_way: Vec::new(),
        frozen,
        stops,
        stopped: false,
        terms: Vec::new(),
    })
}

const HORIZON: u64 = 9_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn at_most_one_acts(
        processes in proptest::collection::vec(process(HORIZON), 2..5),
        fates in proptest::collection::vec(fate(), 8..200),
    ) {
        let ms = Duration::from_millis;
        let timing = Timing::new(ms(1_000), ms(666), ms(130)).unwrap();
        let mut world = World { timing, server: Server::default(), processes, fates, sent: 0 };
        for (i, process) in world.processes.iter_mut().enumerate() {
            process.name = format!("p{i}");
        }
        for real in 0..HORIZON {
            world.step(real);
            let acting: Vec<&str> =
                world.processes.iter().filter(|p| p.acts(real, &timing)).map(|p| p.name.as_str()).collect();
            prop_assert!(acting.len() <= 1, "{acting:?} act at {real} ms");
        }
        let mut terms: Vec<i64> = world.processes.iter().flat_map(|p| p.terms.clone()).collect();
        let all = terms.len();
        terms.sort_unstable();
        terms.dedup();
        prop_assert_eq!(terms.len(), all, "an epoch belongs to one term");
    }

    /// With messages that arrive, somebody leads; and again soon after the leader is gone.
    #[test]
    fn somebody_leads(rates in proptest::collection::vec(900_u64..1_100, 2..4), ends in 2_000_u64..3_000, kill in any::<bool>()) {
        let ms = Duration::from_millis;
        let timing = Timing::new(ms(1_000), ms(666), ms(130)).unwrap();
        let fates = vec![Fate { there_ms: 1, back_ms: 1, lost: 2 }];
        let processes = rates.iter().enumerate().map(|(i, rate)| Process {
            name: format!("p{i}"), rate: *rate, offset: 7, sight: Sight::Unread, version: 0, term: None, tried: None, looked: None,
            under_way: Vec::new(), frozen: 0..0, stops: u64::MAX, stopped: false, terms: Vec::new(),
        }).collect();
        let mut world = World { timing, server: Server::default(), processes, fates, sent: 0 };
        let mut first = None;
        let mut second = None;
        for real in 0..ends + 3_000 {
            world.step(real);
            let leader = world.processes.iter().position(|p| !p.stopped && p.acts(real, &timing));
            match (leader, first) {
                (Some(leader), None) => first = Some((leader, real)),
                (None, Some(_)) if real < ends => prop_assert!(false, "nobody leads at {}", real),
                (Some(leader), Some((gone, _))) if leader != gone && second.is_none() => second = Some(real),
                _ => {}
            }
            if real == ends && let Some((leader, _)) = first {
                let process = &mut world.processes[leader];
                if kill { process.stopped = true } else { process.stops = real }
            }
        }
        prop_assert!(first.is_some_and(|(_, at)| at < 50), "{first:?}");
        let took = second.map(|at| at - ends);
        // Given back, the next look finds it; else the lease has to run out.
        let limit = if kill { 1_000 * 10 / 9 + 400 } else { 400 };
        prop_assert!(took.is_some_and(|ms| ms <= limit), "{took:?} of {limit}");
    }
}
