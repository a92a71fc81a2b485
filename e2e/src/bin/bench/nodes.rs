//! Two nodes in network namespaces: packets between their models while node runtimes and controllers end and begin.

use pullpiri_e2e::E2eError;
use pullpiri_e2e::pair::{self, Ending};

use crate::Bench;
use crate::table::to_f64;

/// How often each process ends each way.
const ROUNDS: u16 = 5;

/// Blocks its thread: nothing else is measured meanwhile.
pub(crate) fn measure(bench: &mut Bench) -> Result<(), E2eError> {
    let folder = bench.path("pair");
    std::fs::create_dir_all(&folder).map_err(|error| E2eError::failed("making a folder", error))?;
    let outcomes = match pair::run(&folder, |pair| pair::restarts(pair, ROUNDS))? {
        Ok(outcomes) => outcomes,
        Err(reason) => {
            eprintln!("skipped: {reason}");
            return Ok(());
        }
    };
    for (ending, what) in [
        (Ending::Killed, "kill -9 of a node runtime"),
        (Ending::Graceful, "SIGTERM of a node runtime"),
        (Ending::ControllersKilled, "kill -9 of the controllers"),
    ] {
        let flows = || outcomes.iter().filter(|(how, _)| *how == ending).map(|(_, traffic)| traffic);
        let lost = flows().map(|traffic| traffic.lost).sum();
        let sent: u64 = flows().map(|traffic| traffic.sent).sum();
        bench.table.at_most(&format!("nodes: packets lost over {what}"), to_f64(lost), "packets", 0.0);
        bench.table.report(&format!("nodes: packets sent meanwhile, {what}"), to_f64(sent), "packets");
    }
    Ok(())
}
