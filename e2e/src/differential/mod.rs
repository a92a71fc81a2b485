//! Two API servers, one list of requests: whatever they answer differently is either mended or listed in the data with a reason.
//!
//! [`script`] is the data's form, [`normal`] takes out what can't be the same on two servers (times, uids, revisions), [`run`] sends.

pub mod normal;
pub mod run;
pub mod script;

pub use run::{Outcome, compare};
pub use script::{Script, Step, load};
