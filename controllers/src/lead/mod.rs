//! Who acts: the IO around `pullpiri_reconcilers::lease`, and the gate that keeps everybody else's writes in.
//!
//! ```text
//! watch of the Lease ─┐
//! answers to writes ──┴→ Sight → evaluate(lease, me, now) → create · take · renew · wait · step down
//!                                                             └→ Term → Gate (open until the renew deadline) → client of the controllers
//! ```
//!
//! Renewals are JSON patches that test holder and transitions, so that several may be under way: an API server that answers after five seconds
//! delays them, but doesn't make them fewer. Taking is an update with the version that was seen: of several who try, one succeeds.
//!
//! Invariants:
//! * The gate is open only while a term is, and closes by itself: nobody has to notice anything.
//! * A write that is under way when the gate closes is dropped; the API server is told to give it up before the lease can pass on.
//! * On the way out writes are finished first, then the lease is given back, so that the next one needn't wait.

mod client;
mod election;
mod gate;
mod keep;

pub use client::{Busy, GateClosed, guarded};
pub(crate) use client::{asked_to_wait, is_gate_closed};
pub use election::{Election, Standing, run};
pub use gate::{Gate, Keeper};
pub use keep::{PROBLEMS, RaiseError, Reign};
