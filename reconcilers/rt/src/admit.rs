//! From a request to a proof.

use crate::proof::{CpuLoad, CpuTask, Proof, TaskVerdict};
use crate::reason::Reason;
use crate::task::Request;

/// Places the tasks of a request and proves that all deadlines are met, those of what runs already included.
#[must_use]
pub fn admit(request: &Request) -> Proof {
    // Nothing is admitted that isn't proven.
    let tasks = request.tasks.iter().map(|task| TaskVerdict {
        name: task.name.clone(),
        node: None,
        cpu: None,
        priority: task.priority,
        policy: task.policy,
        response_time_ns: None,
        deadline_ns: task.deadline_ns,
        schedulable: false,
    });
    let cpus = request.nodes.iter().flat_map(|node| {
        node.cpus.iter().map(|cpu| CpuLoad {
            node: node.name.clone(),
            cpu,
            utilisation_ppm: 0,
            tasks: Vec::<CpuTask>::new(),
        })
    });
    Proof {
        schedulable: request.tasks.is_empty(),
        tasks: tasks.collect(),
        existing: Vec::new(),
        cpus: cpus.collect(),
        unplaced: request.tasks.iter().map(|task| task.name.clone()).collect(),
        groups: Vec::new(),
        reasons: request
            .tasks
            .iter()
            .map(|task| Reason::Unplaced { task: task.name.clone(), tried: 0, best: None })
            .collect(),
    }
}
