//! Networks as decisions: addresses, rules and shares of links, compiled to what one node needs.
//!
//! Rates are bits per second of layer-2 bytes.
