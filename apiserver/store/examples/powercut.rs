//! Cuts the power under a store again and again (simulated): `powercut [cuts] [seed]` prints one JSON line, or says what was lost.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = |index: usize, default: u64| std::env::args().nth(index).map_or(Ok(default), |value| value.parse());
    let summary = pullpiri_store::powercut::run(argument(1, 1000)?, argument(2, 1)?)?;
    println!(
        "{{\"name\":\"store_power_cuts_without_loss\",\"value\":{},\"acknowledged_writes\":{},\"unacknowledged_kept\":{}}}",
        summary.cuts, summary.acknowledged, summary.unacknowledged_kept
    );
    Ok(())
}
