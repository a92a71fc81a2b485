//! Condition types and reasons: constants, so that status writers, tests and docs agree.
//!
//! Types are few and positive. Reasons are CamelCase and listed in docs/conditions.md.

/// Condition types.
pub mod kind {
    /// The object does what it is for.
    pub const READY: &str = "Ready";
    /// Something is under way.
    pub const PROGRESSING: &str = "Progressing";
    /// Something works less well than declared; the message says what.
    pub const DEGRADED: &str = "Degraded";
    /// Package: every model has a node.
    pub const PLACED: &str = "Placed";
    /// Package: everything it names exists.
    pub const RESOLVED: &str = "Resolved";
    /// ModelInstance: the node accepted the newest generation.
    pub const ACCEPTED: &str = "Accepted";
    /// Package and Schedule: every real-time task is proven to meet its deadline.
    pub const SCHEDULABLE: &str = "Schedulable";
    /// ModelInstance: its threads have the settings that were proven. NodeRuntime: what it can do in real time.
    pub const REALTIME: &str = "RealTime";
    /// ModelInstance: its real-time tasks meet their deadlines, within their budgets.
    pub const DEADLINES_MET: &str = "DeadlinesMet";
    /// ModelInstance: its real-time tasks execute no longer than declared.
    pub const WITHIN_WCET: &str = "WithinWcet";
    /// ModelInstance: it is attached to its Network. NodeRuntime: what it can do for Networks.
    pub const NETWORK: &str = "Network";
}

/// Reasons, by the condition they stand on.
pub mod reason {
    pub const AS_DECLARED: &str = "AsDeclared";
    pub const STOPPED: &str = "Stopped";
    pub const STARTING: &str = "Starting";
    pub const STOPPING: &str = "Stopping";
    pub const UPDATING: &str = "Updating";
    pub const CONTAINER_FAILED: &str = "ContainerFailed";
    pub const CONTAINER_EXITED: &str = "ContainerExited";
    pub const CRASH_LOOP_BACK_OFF: &str = "CrashLoopBackOff";
    pub const IMAGE_MISSING: &str = "ImageMissing";
    pub const RUNTIME_MISSING: &str = "RuntimeMissing";
    pub const RUNTIME_ERROR: &str = "RuntimeError";
    pub const VOLUME_MISSING: &str = "VolumeMissing";
    pub const CONFIG_MISSING: &str = "ConfigMissing";
    pub const INVALID_TEMPLATE: &str = "InvalidTemplate";
    pub const CANNOT_HONOUR: &str = "CannotHonour";
    pub const STALE_EPOCH: &str = "StaleEpoch";

    pub const MODEL_NOT_FOUND: &str = "ModelNotFound";
    pub const VOLUME_NOT_FOUND: &str = "VolumeNotFound";
    pub const NETWORK_NOT_FOUND: &str = "NetworkNotFound";
    pub const NODE_NOT_FOUND: &str = "NodeNotFound";
    pub const NODE_NOT_READY: &str = "NodeNotReady";
    pub const NO_NODE_MATCHES: &str = "NoNodeMatches";
    pub const POLICY_NOT_FOUND: &str = "PolicyNotFound";
    pub const POLICY_UNSUPPORTED: &str = "PolicyUnsupported";
    pub const NO_CLAIM: &str = "NoClaim";
    pub const ALL_RESOLVED: &str = "AllResolved";
    pub const ALL_PLACED: &str = "AllPlaced";
    pub const VOLUME_CONFLICT: &str = "VolumeConflict";
    pub const NAME_TAKEN: &str = "NameTaken";
    pub const INSTANCE_REFUSED: &str = "InstanceRefused";
    pub const NODE_UNSCHEDULABLE: &str = "NodeUnschedulable";
    pub const MODELS_EXITED: &str = "ModelsExited";
    pub const NOT_PLACED: &str = "NotPlaced";
    pub const REPLACING: &str = "Replacing";

    pub const WAITING_FOR_SIGNAL: &str = "WaitingForSignal";
    pub const CONDITION_NOT_MET: &str = "ConditionNotMet";
    pub const CONDITION_INVALID: &str = "ConditionInvalid";
    pub const CLAIMED: &str = "Claimed";
    pub const TARGET_NOT_FOUND: &str = "TargetNotFound";
    pub const COMPLETED: &str = "Completed";
    pub const CONDITION_MET: &str = "ConditionMet";
    pub const NOT_COMPARABLE: &str = "NotComparable";
    pub const CLAIM_NAME_TAKEN: &str = "ClaimNameTaken";
    pub const CLAIM_WITHDRAWN: &str = "ClaimWithdrawn";
    pub const OVERRIDDEN: &str = "Overridden";
    pub const POLICY_DENIED: &str = "PolicyDenied";

    pub const PROVEN: &str = "Proven";
    pub const DEADLINE_MISSED: &str = "DeadlineMissed";
    pub const MISS_BUDGET_SPENT: &str = "MissBudgetSpent";
    pub const WCET_EXCEEDED: &str = "WcetExceeded";
    pub const NO_REAL_TIME: &str = "NoRealTime";
    pub const SCHEDULE_NOT_FOUND: &str = "ScheduleNotFound";
    pub const SCHEDULE_INVALID: &str = "ScheduleInvalid";
    pub const NOT_SCHEDULABLE: &str = "NotSchedulable";
    pub const CPU_MISSING: &str = "CpuMissing";
    pub const KERNEL_CEILING: &str = "KernelCeiling";
    pub const APPLIED: &str = "Applied";
    pub const THREAD_NOT_FOUND: &str = "ThreadNotFound";
    pub const DRIFT_REPAIRED: &str = "DriftRepaired";

    pub const SUBNET_OVERLAPS: &str = "SubnetOverlaps";
    pub const POOL_EXHAUSTED: &str = "PoolExhausted";
    pub const GUARANTEE_EXCEEDS_LINK: &str = "GuaranteeExceedsLink";
    pub const HOST_PORT_TAKEN: &str = "HostPortTaken";
    pub const SELECTOR_UNKNOWN: &str = "SelectorUnknown";
    pub const NETWORK_INVALID: &str = "NetworkInvalid";
    pub const NO_NETWORKING: &str = "NoNetworking";
    pub const NO_QOS: &str = "NoQos";
    pub const FAMILY_MISSING: &str = "FamilyMissing";
    pub const ATTACHED: &str = "Attached";

    pub const HEARTBEAT: &str = "Heartbeat";
    pub const HEARTBEAT_LOST: &str = "HeartbeatLost";
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_documentation_lists_every_constant() {
        let page = include_str!("../../docs/conditions.md");
        let source = include_str!("condition.rs");
        for line in source.lines().filter(|line| line.trim_start().starts_with("pub const")) {
            let value = line.split('"').nth(1).unwrap();
            assert!(page.contains(&format!("| {value} |")), "docs/conditions.md lacks {value}");
        }
    }
}
