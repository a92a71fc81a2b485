//! Conditions: the published comparisons as a table, and the laws that hold for all of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on should stop")]

use std::cmp::Ordering;
use std::collections::BTreeMap;

use proptest::prelude::*;
use pullpiri_condition::{Decimal, Truth, Why, and, evaluate, fields, invalid_terms};
use pullpiri_crds::scenario::{Express, Operands, ScenarioCondition, Term};

fn term(express: Express, value: &str, field: &str) -> Term {
    Term {
        express,
        value: value.to_owned(),
        operands: Operands { source_type: Some("DDS".to_owned()), name: field.to_owned(), value: "Topic".to_owned() },
    }
}

fn values(pairs: &[(&str, &str)]) -> BTreeMap<(String, String), String> {
    pairs.iter().map(|(field, value)| (("Topic".to_owned(), (*field).to_owned()), (*value).to_owned())).collect()
}

#[test]
fn one_comparison() {
    use Express::{Eq, Ge, Gt, Le, Lt, Ne};
    use Truth::{False, True, Unknown};
    for (signal, express, value, expected) in [
        ("P", Eq, "P", True),
        ("D", Eq, "P", False),
        ("D", Ne, "P", True),
        ("p", Eq, "P", False),
        ("", Eq, "", True),
        // numbers
        ("10", Gt, "9", True),
        ("10", Lt, "9", False),
        ("0.10", Eq, "0.1", True),
        ("+7", Eq, "007", True),
        ("-0", Eq, "0", True),
        ("-1", Lt, "-0.5", True),
        ("-1.5", Lt, "-1.25", True),
        ("9007199254740993", Gt, "9007199254740992", True),
        ("0.1", Le, "0.1", True),
        ("0.3", Ge, "0.30000000000000000001", False),
        // what looks like a number to some parsers is text
        ("1e3", Eq, "1000", False),
        ("1e3", Gt, "1", Unknown),
        ("0x10", Eq, "16", False),
        ("NaN", Ne, "NaN", False),
        ("inf", Gt, "1", Unknown),
        (" 1", Eq, "1", False),
        (".5", Lt, "1", Unknown),
        ("5.", Lt, "6", Unknown),
        ("1_000", Gt, "1", Unknown),
        ("-", Lt, "1", Unknown),
        ("١", Eq, "1", False),
        // booleans
        ("True", Eq, "true", True),
        ("FALSE", Ne, "true", True),
        ("true", Gt, "0", Unknown),
        ("1", Eq, "true", False),
        // text has no order, on either side
        ("a", Lt, "b", Unknown),
        ("1", Lt, "b", Unknown),
    ] {
        let condition = ScenarioCondition::One(term(express, value, "f"));
        let evaluation = evaluate(&condition, &values(&[("f", signal)]));
        assert_eq!(evaluation.truth, expected, "{signal:?} {express:?} {value:?}");
        assert_eq!(evaluation.undecided.is_empty(), expected != Unknown, "{signal:?} {express:?} {value:?}");
        assert_eq!(evaluation.values[0].value.as_deref(), Some(signal));
    }
}

#[test]
fn a_field_without_a_value_is_unknown_and_says_so() {
    let condition = ScenarioCondition::One(term(Express::Eq, "P", "gear"));
    let evaluation = evaluate(&condition, &values(&[]));
    assert_eq!(evaluation.truth, Truth::Unknown);
    assert_eq!(evaluation.undecided[0].to_string(), "signal Topic has no value for field gear yet");
    assert_eq!(evaluation.values[0].value, None);
}

#[test]
fn an_order_over_text_in_the_condition_is_invalid_whatever_the_signal_says() {
    let condition = ScenarioCondition::All(vec![term(Express::Lt, "fast", "speed"), term(Express::Eq, "x", "speed")]);
    let invalid = invalid_terms(&condition);
    assert_eq!(invalid.len(), 1);
    assert_eq!(invalid[0].why, Why::ConditionHasNoOrder);
    assert_eq!(evaluate(&condition, &values(&[("speed", "x")])).undecided, invalid);
}

#[test]
fn a_list_is_a_conjunction_and_reads_each_field_once() {
    let condition = ScenarioCondition::All(vec![
        term(Express::Ge, "10", "speed"),
        term(Express::Lt, "20", "speed"),
        term(Express::Eq, "D", "gear"),
    ]);
    let names: Vec<_> = fields(&condition).into_iter().map(|f| f.field).collect();
    assert_eq!(names, ["gear", "speed"]);
    let truth = |pairs: &[(&str, &str)]| evaluate(&condition, &values(pairs)).truth;
    assert_eq!(truth(&[("speed", "15"), ("gear", "D")]), Truth::True);
    assert_eq!(truth(&[("speed", "20"), ("gear", "D")]), Truth::False);
    assert_eq!(truth(&[("speed", "15")]), Truth::Unknown);
    // A term that can't hold decides, whatever the others turn out to be.
    assert_eq!(truth(&[("speed", "5")]), Truth::False);
}

#[test]
fn an_empty_list_holds() {
    assert_eq!(evaluate(&ScenarioCondition::All(Vec::new()), &values(&[])).truth, Truth::True);
}

fn truth() -> impl Strategy<Value = Truth> {
    prop_oneof![Just(Truth::True), Just(Truth::False), Just(Truth::Unknown)]
}

fn express() -> impl Strategy<Value = Express> {
    prop_oneof![
        Just(Express::Eq),
        Just(Express::Ne),
        Just(Express::Lt),
        Just(Express::Le),
        Just(Express::Gt),
        Just(Express::Ge)
    ]
}

proptest! {
    #[test]
    fn conjunction_is_a_lattice_meet(a in truth(), b in truth(), c in truth()) {
        prop_assert_eq!(and(a, b), and(b, a));
        prop_assert_eq!(and(a, and(b, c)), and(and(a, b), c));
        prop_assert_eq!(and(a, a), a);
        prop_assert_eq!(and(a, Truth::True), a);
    }

    #[test]
    fn decimals_order_as_integers_do(a in any::<i64>(), b in any::<i64>(), zeros in 0_usize..4) {
        let padded = |n: i64| format!("{}{}{}.{}", if n < 0 { "-" } else { "" }, "0".repeat(zeros), n.unsigned_abs(), "0".repeat(zeros + 1));
        let (left, right) = (padded(a), b.to_string());
        let order = Decimal::parse(&left).unwrap().cmp(&Decimal::parse(&right).unwrap());
        prop_assert_eq!(order, a.cmp(&b));
    }

    #[test]
    fn decimals_order_as_scaled_integers_do(a in -10_000_i64..10_000, b in -10_000_i64..10_000) {
        let text = |n: i64| format!("{}{}.{:03}", if n < 0 { "-" } else { "" }, n.abs() / 1000, n.abs() % 1000);
        let (left, right) = (text(a), text(b));
        prop_assert_eq!(Decimal::parse(&left).unwrap().cmp(&Decimal::parse(&right).unwrap()), a.cmp(&b));
    }

    #[test]
    fn parsing_never_panics_and_accepts_only_the_grammar(text in "\\PC{0,12}") {
        let number = Decimal::parse(&text).is_some();
        let body = text.strip_prefix(['+', '-']).unwrap_or(&text);
        let mut parts = body.splitn(2, '.');
        let digits = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
        let expected = digits(parts.next().unwrap_or("")) && parts.next().is_none_or(digits);
        prop_assert_eq!(number, expected);
    }

    #[test]
    fn each_comparison_is_the_opposite_of_its_complement(signal in "[-+0-9.a-cA-C]{0,6}", value in "[-+0-9.a-cA-C]{0,6}", e in express()) {
        let complement = match e {
            Express::Eq => Express::Ne,
            Express::Ne => Express::Eq,
            Express::Lt => Express::Ge,
            Express::Le => Express::Gt,
            Express::Gt => Express::Le,
            Express::Ge => Express::Lt,
        };
        let known = values(&[("f", &signal)]);
        let a = evaluate(&ScenarioCondition::One(term(e, &value, "f")), &known).truth;
        let b = evaluate(&ScenarioCondition::One(term(complement, &value, "f")), &known).truth;
        let expected = match a {
            Truth::True => Truth::False,
            Truth::False => Truth::True,
            Truth::Unknown => Truth::Unknown,
        };
        prop_assert_eq!(b, expected);
    }

    #[test]
    fn exactly_one_order_holds_between_numbers(a in "-?[0-9]{1,30}(\\.[0-9]{1,30})?", b in "-?[0-9]{1,30}(\\.[0-9]{1,30})?") {
        let known = values(&[("f", &a)]);
        let holds = |e| evaluate(&ScenarioCondition::One(term(e, &b, "f")), &known).truth == Truth::True;
        let order = [(Express::Lt, Ordering::Less), (Express::Eq, Ordering::Equal), (Express::Gt, Ordering::Greater)];
        let held: Vec<_> = order.into_iter().filter(|(e, _)| holds(*e)).map(|(_, o)| o).collect();
        prop_assert_eq!(held.len(), 1);
        prop_assert_eq!(held[0].reverse(), Decimal::parse(&b).unwrap().cmp(&Decimal::parse(&a).unwrap()));
    }

    #[test]
    fn the_order_of_terms_does_not_matter(signal in proptest::option::of("[0-9a]{1,2}"), mut terms in proptest::collection::vec((express(), "[0-9a]{1,2}"), 1..5)) {
        let known = signal.map(|s| values(&[("f", &s)])).unwrap_or_default();
        let all = |ts: &[(Express, String)]| evaluate(&ScenarioCondition::All(ts.iter().map(|(e, v)| term(*e, v, "f")).collect()), &known);
        let forward = all(&terms);
        terms.reverse();
        prop_assert_eq!(forward, all(&terms));
    }
}
