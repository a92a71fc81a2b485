//! The published manifests as they are, and what people write wrong.

use std::path::{Path, PathBuf};

use super::{Converted, Guesses, convert};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/upstream").join(name)
}

/// The result as one text: resources, then findings with the fixtures' folder left out.
fn shown(converted: &Converted) -> String {
    let base = format!("{}/", Path::new(env!("CARGO_MANIFEST_DIR")).display());
    let mut text: String =
        converted.documents.iter().map(|document| format!("---\n{}\n", document.trim_end())).collect();
    text.push_str("### findings\n");
    for finding in &converted.findings {
        text.push_str(&format!("{finding}\n").replace(&base, ""));
    }
    text
}

#[test]
fn published_manifests_convert() {
    for name in [
        "2025-demo__scene-1.yaml",
        "2025-antipinch__antipinch-enable.yaml",
        "2025-bms__bms-eco.yaml",
        "2024-antipinch-enable",
        "2026-schedule-test.yaml",
        "2026-helloworld_policy.yaml",
        "2026-helloworld.yaml",
        "2026-helloworld_no_condition.yaml",
    ] {
        let converted = convert(&[fixture(name)], Guesses::Warn).unwrap();
        assert!(!converted.failed, "{name}: {:?}", converted.findings);
        insta::assert_snapshot!(name.replace(['.', '/'], "_"), shown(&converted));
    }
}

#[test]
fn what_is_no_resource_is_refused() {
    let converted = convert(&[fixture("2026-timpani__node_configurations.yaml")], Guesses::Warn).unwrap();
    assert!(converted.failed && converted.documents.is_empty());
    insta::assert_snapshot!(shown(&converted));
}

#[test]
fn published_tasks_are_read_as_timpani_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.yaml");
    let task = |name: &str, rest: &str| {
        format!("  - {{name: {name}, period: 10000, runtime: 1500, deadline: 10000, release_time: 0, {rest}}}\n")
    };
    let text = [
        "apiVersion: v1\nkind: Schedule\nmetadata: {name: Drive_Set}\nspec:\n".to_owned(),
        task("none", "cpu_affinity: 0"),
        task("all", "cpu_affinity: 18446744073709551615"),
        task("hex", "cpu_affinity: 0xf0000000, node_id: Perf_Node"),
        task("one", "cpu_affinity: 1, policy: RR, priority: 7, max_dmiss: 0"),
    ];
    std::fs::write(&path, text.concat()).unwrap();
    let converted = convert(std::slice::from_ref(&path), Guesses::Refuse).unwrap();
    assert!(!converted.failed, "{:?}", converted.findings);
    insta::assert_snapshot!(shown(&converted));
    std::fs::write(&path, text.concat().replace("period: 10000,", "period: 9223372036854776,")).unwrap();
    let refused = convert(&[path], Guesses::Warn).unwrap();
    assert!(refused.failed && refused.findings[0].to_string().contains("spec[0].period: 9223372036854776"));
}

#[test]
fn one_name_with_two_contents_is_an_error_of_the_second_file() {
    let files = [fixture("2026-helloworld.yaml"), fixture("2026-helloworld_no_condition.yaml")];
    let converted = convert(&files, Guesses::Warn).unwrap();
    assert!(converted.failed);
    assert_eq!(converted.documents.len(), 3, "the first file is printed, the second isn't");
    insta::assert_snapshot!(shown(&converted).split("### findings").nth(1).unwrap());
}

#[test]
fn the_same_content_twice_is_printed_once() {
    let file = fixture("2025-bms__bms-eco.yaml");
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.yaml");
    std::fs::copy(&file, &copy).unwrap();
    let once = convert(std::slice::from_ref(&file), Guesses::Warn).unwrap();
    let twice = convert(&[file, copy], Guesses::Warn).unwrap();
    assert_eq!(once.documents, twice.documents);
    assert!(!twice.failed);
}

#[test]
fn folders_without_manifests_are_passed_by_unless_they_were_named() {
    let folder = tempfile::tempdir().unwrap();
    for below in [".git", "images/old"] {
        std::fs::create_dir_all(folder.path().join(below)).unwrap();
        std::fs::write(folder.path().join(below).join("x"), "").unwrap();
    }
    std::fs::write(folder.path().join(".git/config.yaml"), "no: manifest").unwrap();
    std::fs::copy(fixture("2026-helloworld.yaml"), folder.path().join("a.yaml")).unwrap();
    let root = folder.path().to_path_buf();
    let converted = convert(&[root.clone(), root], Guesses::Refuse).unwrap();
    assert!(converted.findings.is_empty(), "{:?}", converted.findings);
    assert_eq!(converted.documents.len(), 3);
    let empty = convert(&[folder.path().join("images")], Guesses::Warn).unwrap();
    assert!(empty.failed);
    assert!(empty.findings[0].to_string().ends_with("images: error: no *.yaml or *.yml file in this folder"));
}

#[test]
fn names_that_are_cut_and_files_without_documents_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.yaml");
    let network =
        |name: &str| format!("apiVersion: v1\nkind: Network\nmetadata: {{name: {name}}}\nspec: {{mode: Host}}\n");
    std::fs::write(&path, network(&"n".repeat(253))).unwrap();
    assert!(convert(std::slice::from_ref(&path), Guesses::Refuse).unwrap().findings.is_empty());
    std::fs::write(&path, network(&"n".repeat(254))).unwrap();
    let converted = convert(std::slice::from_ref(&path), Guesses::Warn).unwrap();
    assert!(!converted.failed);
    let said = converted.findings[0].to_string();
    let expected = "line 3: warning: metadata.name: a name has at most 253 characters, not 254; cut to \"nnn";
    assert!(said.contains(expected), "{said}");
    assert!(convert(&[path], Guesses::Refuse).unwrap().failed);

    let empty = folder.path().join("empty.yaml");
    std::fs::write(&empty, "---\n# nothing\n").unwrap();
    let converted = convert(std::slice::from_ref(&empty), Guesses::Warn).unwrap();
    assert!(!converted.failed);
    assert!(converted.findings[0].to_string().ends_with("empty.yaml: warning: there is no document in it"));
    assert!(convert(&[empty], Guesses::Refuse).unwrap().failed);
}

#[test]
fn our_own_resources_pass_through() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first.yaml");
    let converted = convert(&[fixture("2024-antipinch-enable")], Guesses::Warn).unwrap();
    std::fs::write(&first, converted.documents.iter().map(|document| format!("---\n{document}")).collect::<String>())
        .unwrap();
    let again = convert(&[first], Guesses::Refuse).unwrap();
    assert_eq!(again.documents, converted.documents);
    assert!(again.findings.is_empty(), "{:?}", again.findings);
}

#[test]
fn guesses_are_errors_when_strict() {
    let converted = convert(&[fixture("2025-bms__bms-eco.yaml")], Guesses::Refuse).unwrap();
    assert!(converted.failed && converted.documents.is_empty());
    assert!(convert(&[fixture("2026-helloworld.yaml")], Guesses::Refuse).unwrap().findings.is_empty());
}

#[test]
fn wrong_manifests_name_file_document_and_line() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text, expected) in [
        (
            "kind",
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n",
            "kind.yaml: document 1, line 2: error: kind: \"Service\"",
        ),
        (
            "version",
            "apiVersion: apps/v1\nkind: Model\nmetadata: {name: a}\n",
            "version.yaml: document 1, line 1: error: apiVersion: given \"apps/v1\"",
        ),
        (
            "noname",
            "apiVersion: v1\nkind: Volume\nmetadata:\n  name:\n",
            "noname.yaml: document 1, line 4: error: metadata.name",
        ),
        (
            "text",
            "root:x:0:0:secret\ndaemon:x:1:1\n",
            "text.yaml: document 1, line 1: error: not a Pullpiri resource: it has no kind, but text without fields; this",
        ),
        ("syntax", "a: [1,\n", "syntax.yaml, line"),
        ("twice", "a: 1\na: 2\n", "twice.yaml, line 2: error: duplicate key \"a\""),
        (
            "unknown",
            "apiVersion: v1\nkind: Model\nmetadata: {name: a}\nspec:\n  containers:\n    - name: c\n      image: i\n      lifecycle: {}\n",
            "unknown.yaml: document 1, line 8: error: spec.containers[0].lifecycle",
        ),
        (
            "number",
            "---\n---\napiVersion: v1\nkind: Scenario\nmetadata: {name: a}\nspec:\n  action: update\n  target: a\n  condition: {express: eq, value: 3, operands: {name: b, value: c}}\n",
            "number.yaml: document 2, line 9: warning: spec.condition.value: 3 is written without quotes",
        ),
        (
            "action",
            "apiVersion: v1\nkind: Scenario\nmetadata: {name: a}\nspec:\n  action: explode\n  target: a\n",
            "action.yaml: document 1, line 5: error: spec.action",
        ),
        (
            "task",
            "apiVersion: v1\nkind: Schedule\nmetadata: {name: a}\nspec:\n  - name: t\n    period: -1\n",
            "task.yaml: document 1, line 6: error: spec[0].period",
        ),
    ] {
        let path = folder.path().join(format!("{name}.yaml"));
        std::fs::write(&path, text).unwrap();
        let converted = convert(&[path], Guesses::Warn).unwrap();
        let findings: Vec<String> = converted.findings.iter().map(ToString::to_string).collect();
        assert!(
            findings.iter().any(|finding| finding.contains(expected)),
            "{name}: expected {expected:?} in {findings:#?}"
        );
    }
    let missing = convert(&[folder.path().join("missing.yaml")], Guesses::Warn).unwrap();
    assert!(missing.failed && missing.findings[0].to_string().contains("missing.yaml: error: reading it"));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[-a-z0-9:{}\\[\\]\"'&*|>#!%@, \n]{0,200}") {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("any.yaml");
        std::fs::write(&path, text).unwrap();
        drop(convert(&[path], Guesses::Warn).unwrap());
    }
}

#[test]
fn names_that_are_guessed_or_meet_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("names.yaml");
    let model = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Model\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: 'a:1'}}]}}\n"
        )
    };
    let package = |models: &str| {
        format!(
            "---\napiVersion: v1\nkind: Package\nmetadata: {{name: p}}\nspec: {{pattern: [{{type: plain}}], models: [{models}]}}\n"
        )
    };
    std::fs::write(&path, model("'a b!'") + &package("{name: 'a b!', node: HPC}")).unwrap();
    let guessed = convert(std::slice::from_ref(&path), Guesses::Warn).unwrap();
    assert!(!guessed.failed, "{:?}", guessed.findings);
    let told: Vec<String> = guessed.findings.iter().map(ToString::to_string).collect();
    assert!(
        told.iter().any(|text| text.contains("metadata.name: \"a b!\" can't be a name; read as \"a-b\"")),
        "{told:?}"
    );
    assert!(convert(std::slice::from_ref(&path), Guesses::Refuse).unwrap().failed);

    std::fs::write(&path, model("A_b") + &package("{name: A_b, node: HPC}, {name: a-b, node: HPC}")).unwrap();
    let met = convert(&[path], Guesses::Warn).unwrap();
    let told: Vec<String> = met.findings.iter().map(ToString::to_string).collect();
    assert!(
        met.failed && told.iter().any(|text| text.contains("\"a-b\" and \"A_b\" are both \"a-b\" here")),
        "{told:?}"
    );
}
