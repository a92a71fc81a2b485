//! What every adapter promises.

mod confinement;
mod lives;
mod networks;
mod processes;
mod reach;
mod refusals;

use futures::future::BoxFuture;

use super::Case;

macro_rules! cases {
    ($($group:ident: $($name:ident),*;)*) => {
        pub const ALL: &[Case] = &[$($((stringify!($name), |c| -> BoxFuture<'_, ()> { Box::pin($group::$name(c)) })),*),*];
    };
}

cases![
    processes:
        runs_logs_and_reports_the_exit,
        environment_arguments_directory_and_host_name,
        signals_and_descriptors_are_clean,
        restarts_in_the_same_sandbox,
        a_death_is_noticed_by_event,
        stops_with_the_stop_signal,
        stops_by_force_after_the_grace,
        the_grace_is_as_long_as_it_was_given;
    confinement:
        limits_are_set_in_cgroups,
        the_process_limit_holds,
        the_memory_limit_kills,
        mounts_of_every_kind,
        a_missing_mount_source_is_refused,
        a_sub_path_never_leads_out_of_its_volume,
        users_and_capabilities,
        a_bad_capability_is_refused,
        a_read_only_root_is,
        privileged_sees_the_devices;
    networks:
        containers_share_a_network_of_their_own,
        a_port_is_published_from_a_network_of_its_own,
        a_pod_joins_a_network_namespace_that_is_there,
        the_host_network_is_the_nodes;
    refusals:
        every_operation_may_be_repeated,
        a_missing_image_is_named,
        a_missing_program_is_refused_and_nothing_stays,
        a_missing_working_directory_is_refused,
        too_little_memory_is_refused,
        a_failing_second_container_takes_the_first_with_it,
        a_start_that_cannot_be_recorded_spares_the_others,
        a_damaged_archive_is_refused;
    lives:
        many_pods_at_once,
        a_reopened_adapter_finds_its_pods,
        a_pod_that_cannot_be_cleared_keeps_no_other,
        a_killed_sandbox_takes_its_containers_with_it,
        an_agent_that_was_killed_loses_nothing,
        what_runs_from_another_data_directory_runs_once,
        removal_leaves_nothing,
        logs_of_removed_pods_are_kept_for_a_while,
        a_flood_of_output_leaves_a_bounded_log,
        a_frozen_sandbox_holds_nothing_up,
        a_sandbox_without_descriptors_goes_on;
    reach:
        a_sandbox_that_cannot_be_reached_is_taken_over_later;
];
