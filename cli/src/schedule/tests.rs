//! Golden output and bad input.

use super::*;

const BRAKE: &str = include_str!("../../../examples/brake-and-video/schedule.yaml");
const BROKEN: &str = include_str!("../../../examples/brake-and-video/broken.yaml");

fn manifest(spec: &str) -> String {
    format!("apiVersion: pullpiri.io/v1alpha1\nkind: Schedule\nmetadata:\n  name: test\nspec:\n{spec}")
}

fn checked(text: &str) -> Checked {
    check_text("test.yaml", text, None, Vec::new()).unwrap()
}

fn refused(text: &str) -> String {
    match check_text("test.yaml", text, Some(2), Vec::new()) {
        Err(BadInput(lines)) => lines.join("\n"),
        Ok(checked) => panic!("accepted: {:?}", checked.proof),
    }
}

const NODE: &str = "
apiVersion: pullpiri.io/v1alpha1
kind: NodeRuntime
metadata:
  name: zone
spec: {}
status:
  realtime:
    cpus: 0-1
    policies: [FIFO, RR, DEADLINE]
    fixedPriorityPpm: 950000
    fixedPriorityWindowNs: 1000000000
    groupPpm: 900000
    deadlinePpm: 900000
    exclusiveCpusets: false
    monitor: true
";

#[test]
fn a_schedulable_set() {
    let checked = checked(BRAKE);
    assert!(checked.proof.schedulable);
    insta::assert_snapshot!("brake_table", print::table(&checked));
    insta::assert_snapshot!("brake_json", print::json(&checked));
}

#[test]
fn a_set_that_misses_with_its_witness() {
    let checked = checked(BROKEN);
    assert!(!checked.proof.schedulable);
    insta::assert_snapshot!("broken_table", print::table(&checked));
    insta::assert_snapshot!("broken_json", print::json(&checked));
    insta::assert_snapshot!("broken_svg", chart::svg(&checked));
}

#[test]
fn edf_ignores_priorities_and_lists_what_has_no_place() {
    let text = manifest(
        "  algorithm: EarliestDeadlineFirst
  tasks:
    - { name: a, wcet: 2ms, period: 5ms, priority: 1, jitter: 500us }
    - { name: b, wcet: 4ms, period: 8ms, priority: 99 }
    - { name: c, wcet: 3ms, period: 10ms }
",
    );
    let checked = checked(&text);
    assert!(!checked.proof.schedulable);
    insta::assert_snapshot!("edf_table", print::table(&checked));
    insta::assert_snapshot!("edf_json", print::json(&checked));
    insta::assert_snapshot!("edf_svg", chart::svg(&checked));
}

#[test]
fn every_task_is_listed_once() {
    let text = manifest(
        "  tasks:
    - { name: pinned, wcet: 9ms, period: 10ms, cpus: \"0\" }
    - { name: overload, wcet: 9ms, period: 10ms, cpus: \"0\" }
    - { name: free, wcet: 1ms, period: 10ms }
    - { name: too-much, wcet: 11ms, period: 10ms }
",
    );
    let checked = check_text("test.yaml", &text, Some(2), Vec::new()).unwrap();
    let json: serde_json::Value = serde_json::from_str(&print::json(&checked)).unwrap();
    let names = |value: &serde_json::Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|task| task["name"].as_str().unwrap().to_owned()).collect()
    };
    let mut listed: Vec<String> =
        json["cpus"].as_array().unwrap().iter().flat_map(|cpu| names(&cpu["tasks"])).collect();
    assert_eq!(names(&json["unplaced"]), ["too-much"]);
    listed.extend(names(&json["unplaced"]));
    listed.sort();
    assert_eq!(listed, ["free", "overload", "pinned", "too-much"]);
    // Two pinned ones need 1.8 of their CPU: the less urgent one has no bound, the other one has.
    let overloaded = &json["cpus"][0]["tasks"];
    assert_eq!(overloaded[0]["responseTimeNs"], 9_000_000);
    assert_eq!(overloaded[1]["responseTimeNs"], serde_json::Value::Null);
    assert_eq!(json["cpus"][1]["tasks"][0]["name"], "free");
    assert_eq!(json["schedulable"], false);
}

#[test]
fn a_nodes_ceilings_count_where_it_is_given() {
    let task = "  tasks:\n    - { name: greedy, wcet: 92ms, period: 100ms }\n";
    assert!(checked(&manifest(task)).proof.schedulable);
    let nodes = || input::nodes_of("node.yaml", NODE).unwrap();
    let limited = check_text("test.yaml", &manifest(task), None, nodes()).unwrap();
    assert!(!limited.proof.schedulable);
    insta::assert_snapshot!("ceiling_table", print::table(&limited));
    // DEADLINE needs a CPU set apart: with an affinity that is bad input, without one there is no place.
    let deadline = |cpus: &str| {
        manifest(&format!(
            "  algorithm: EarliestDeadlineFirst\n  tasks:\n    - {{ name: d, wcet: 1ms, period: 10ms{cpus} }}\n"
        ))
    };
    let Err(BadInput(lines)) = check_text("test.yaml", &deadline(", cpus: \"1\""), None, nodes()) else {
        panic!("accepted")
    };
    insta::assert_snapshot!("deadline_affinity", lines.join("\n"));
    let nowhere = check_text("test.yaml", &deadline(""), None, nodes()).unwrap();
    insta::assert_snapshot!("deadline_nowhere", print::table(&nowhere));
}

#[test]
fn bad_input_names_file_field_given_and_expected() {
    let task = |fields: &str| manifest(&format!("  tasks:\n    - {{ name: a, {fields} }}\n"));
    let inputs = [
        task("wcet: 0ms, period: 10ms"),
        task("wcet: 1ms, period: 0s"),
        task("wcet: 1ms, period: 10ms, deadline: 0ms"),
        task("wcet: -1ms, period: 10ms"),
        task("wcet: 1ms, period: -10ms"),
        task("wcet: 1ms, period: 10ms, jitter: -1us"),
        task("wcet: 1ms, period: 10ms, offset: -1us"),
        task("wcet: 1ms, period: 10ms, blocking: -1us"),
        task("wcet: 1, period: 10ms"),
        task("wcet: fast, period: 10ms"),
        task("wcet: 1ms"),
        task("wcet: 1ms, period: 10ms, priority: 100"),
        task("wcet: 1ms, period: 10ms, policy: IDLE"),
        task("wcet: 1ms, period: 10ms, policy: DEADLINE"),
        task("wcet: 1ms, period: 10ms, cpus: \"3-1\""),
        task("wcet: 1ms, period: 10ms, cpus: \"7\""),
        task("wcet: 1ms, period: 10ms, cpus: \"1-7\""),
        task("wcet: 1ms, period: 10ms, speed: 3"),
        manifest("  tasks:\n    - { name: a, wcet: 1ms, period: 10ms }\n    - { name: a, wcet: 1ms, period: 10ms }\n"),
        manifest("  priorityAssignment: Explicit\n  tasks:\n    - { name: a, wcet: 1ms, period: 10ms }\n"),
        manifest("  algorithm: Lottery\n  tasks:\n    - { name: a, wcet: 1ms, period: 10ms }\n"),
        manifest("  tasks: []\n"),
        "kind: Pod\n".to_owned(),
        "apiVersion: v1\nkind: Schedule\nmetadata: { name: x }\nspec: []\n".to_owned(),
        "a: [".to_owned(),
        String::new(),
    ];
    let lines: Vec<String> = inputs.iter().map(|text| refused(text)).collect();
    insta::assert_snapshot!("bad_input", lines.join("\n--\n"));
}

#[test]
fn ten_thousand_tasks_are_refused_by_their_number() {
    let tasks: String = (0..10_000).map(|at| format!("    - {{ name: t{at}, wcet: 1us, period: 1s }}\n")).collect();
    let lines = refused(&manifest(&format!("  tasks:\n{tasks}")));
    assert_eq!(lines, "test.yaml: spec.tasks: given 10000 tasks, expected 1 to 1024 tasks");
}

#[test]
fn a_wcet_above_its_deadline_is_a_verdict() {
    let checked =
        checked(&manifest("  tasks:\n    - { name: a, wcet: 5ms, period: 10ms, deadline: 4ms, cpus: \"0\" }\n"));
    assert!(!checked.proof.schedulable);
    assert_eq!(checked.proof.tasks[0].response_time_ns, Some(5_000_000));
}

#[test]
fn names_cant_break_the_chart() {
    let text = manifest("  tasks:\n    - { name: \"<a href='x'>&\\\"\", wcet: 1ms, period: 10ms }\n");
    let svg = chart::svg(&checked(&text));
    assert!(svg.contains("&lt;a href='x'&gt;&amp;&quot;"));
    assert!(!svg.contains("<a "));
}

#[test]
fn a_node_that_is_given_twice_is_refused() {
    let node = input::nodes_of("node.yaml", NODE).unwrap().remove(0);
    let mut nodes = Vec::new();
    add(&mut nodes, node.clone()).unwrap();
    let error = add(&mut nodes, node).unwrap_err();
    assert_eq!(error.to_string(), "metadata.name: given \"zone\" twice, expected each NodeRuntime once");
}
