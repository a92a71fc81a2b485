//! Schedulability: proves, before anything is placed, that every task of a set meets its deadline.
//!
//! Times are whole nanoseconds (`u64`), shares parts per million of one CPU.
