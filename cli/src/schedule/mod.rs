//! `pullpiri schedule check`: the proof of a Schedule, without a cluster.
//!
//! Exit 0: schedulable; 1: not; 2: bad input, with file, field, what was given and what was expected on stderr.

mod chart;
mod input;
mod print;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use pullpiri_rt::{CpuSet, FieldError, Node, Policy, Proof, Request, Task, TaskSet, admit};

use crate::args::{ScheduleOutput, ScheduleVerb};
use crate::fail::Failure;
use crate::out;

/// Not schedulable.
const REFUSED: u8 = 1;
/// Input that can't be used.
const BAD_INPUT: u8 = 2;
/// What the node is called where nobody named one.
const UNNAMED_NODE: &str = "local";

/// Why there is no verdict; each line stands on its own.
#[derive(Debug)]
pub(crate) struct BadInput(Vec<String>);

impl BadInput {
    fn new(file: &str, message: impl fmt::Display) -> Self {
        Self(vec![format!("{file}: {message}")])
    }

    fn fields(file: &str, errors: &[FieldError]) -> Self {
        Self(errors.iter().map(|error| format!("{file}: {error}")).collect())
    }
}

pub(crate) fn run(verb: &ScheduleVerb) -> Result<ExitCode, Failure> {
    let ScheduleVerb::Check { file, node_cpus, nodes, output } = verb;
    match check(file, *node_cpus, nodes) {
        Err(BadInput(lines)) => {
            for line in lines {
                eprintln!("pullpiri: {line}");
            }
            Ok(ExitCode::from(BAD_INPUT))
        }
        Ok(checked) => {
            let text = match output {
                ScheduleOutput::Table => print::table(&checked),
                ScheduleOutput::Json => print::json(&checked),
                ScheduleOutput::Svg => chart::svg(&checked),
            };
            out::line(text.trim_end())?;
            Ok(if checked.proof.schedulable { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
        }
    }
}

/// A question and its answer.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The Schedule's `metadata.name`.
    pub(crate) name: String,
    pub(crate) request: Request,
    pub(crate) proof: Proof,
}

fn check(file: &Path, node_cpus: Option<u32>, node_files: &[std::path::PathBuf]) -> Result<Checked, BadInput> {
    let (label, text) = input::read(file)?;
    let mut nodes = Vec::new();
    for file in node_files {
        for node in input::nodes(file)? {
            add(&mut nodes, node).map_err(|error| BadInput::fields(&file.display().to_string(), &[error]))?;
        }
    }
    check_text(&label, &text, node_cpus, nodes)
}

/// A node that is there twice would have its CPUs twice.
fn add(nodes: &mut Vec<Node>, node: Node) -> Result<(), FieldError> {
    if nodes.iter().any(|known| known.name == node.name) {
        let given = format!("{:?} twice", node.name);
        return Err(FieldError::new("metadata.name", given, "each NodeRuntime once"));
    }
    nodes.push(node);
    Ok(())
}

/// The same for texts; without `nodes` the analysis is pure.
fn check_text(file: &str, text: &str, node_cpus: Option<u32>, nodes: Vec<Node>) -> Result<Checked, BadInput> {
    let (name, set) = input::schedule(file, text)?;
    let nodes = if nodes.is_empty() { ideal_nodes(&set, node_cpus) } else { nodes };
    let errors: Vec<FieldError> =
        set.tasks.iter().enumerate().filter_map(|(at, task)| impossible_cpus(at, task, &nodes)).collect();
    if !errors.is_empty() {
        return Err(BadInput::fields(file, &errors));
    }
    let request = Request {
        tasks: set.tasks,
        priority_assignment: set.priority_assignment,
        placement: set.placement,
        nodes,
        existing: Vec::new(),
    };
    let proof = admit(&request);
    Ok(Checked { name, request, proof })
}

/// The nodes that the tasks name, each with `cpus` CPUs, or as many as the tasks name.
fn ideal_nodes(set: &TaskSet, cpus: Option<u32>) -> Vec<Node> {
    let named = set.tasks.iter().filter_map(|task| task.affinity.as_ref().and_then(CpuSet::last)).max();
    let cpus = cpus.unwrap_or_else(|| named.map_or(1, |last| last.saturating_add(1)));
    let mut names: Vec<&str> = Vec::new();
    for name in set.tasks.iter().filter_map(|task| task.node.as_deref()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        names.push(UNNAMED_NODE);
    }
    names.into_iter().map(|name| Node::ideal(name, cpus)).collect()
}

/// CPUs that none of the task's nodes has, or that no DEADLINE task can be pinned to.
fn impossible_cpus(at: usize, task: &Task, nodes: &[Node]) -> Option<FieldError> {
    let cpus = task.affinity.as_ref()?;
    let mine: Vec<&Node> =
        nodes.iter().filter(|node| task.node.as_ref().is_none_or(|name| *name == node.name)).collect();
    let first = mine.first()?;
    let path = format!("spec.tasks[{at}].cpus");
    let given = format!("\"{cpus}\"");
    if mine.iter().all(|node| !cpus.is_within(&node.cpus)) {
        let lacks =
            |node: &&Node| format!("{} of node {}, which lacks {}", node.cpus, node.name, cpus.difference(&node.cpus));
        let offered: Vec<String> = mine.iter().map(lacks).collect();
        return Some(FieldError::new(path, given, format!("CPUs that are there: {}", offered.join(", "))));
    }
    // One CPU that is all there is needn't be set apart.
    let takes = |node: &&Node| node.ceilings.is_none() || node.sets_apart() || node.cpus.len() == 1;
    if task.policy == Policy::Deadline && !mine.iter().any(takes) {
        let expected = format!(
            "none: node {} has no exclusive cpuset, and without one a DEADLINE task can't be pinned to a CPU",
            first.name
        );
        return Some(FieldError::new(path, given, expected));
    }
    None
}

#[cfg(test)]
mod tests;
