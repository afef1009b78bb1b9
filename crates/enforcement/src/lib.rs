//! The pure core of aiquota: what a policy means and what happens to a request under it. No I/O, no clock, no
//! environment; the same code runs in the controller, in the command line and in the wasm modules.
//!
//! A request gives a step (pass, refuse, ask Redis); an answer turns what is pending into an admission with a
//! meter, or a refusal; the meter watches the response and ends in a charge or a named reason for none.

mod announce;
pub mod config;
mod errors;
pub mod guard;
pub mod identity;
pub mod limit;
pub mod models;
pub mod paths;
pub mod prompt;
pub mod quota;
#[cfg(test)]
mod random;
pub mod redis;
pub mod response;
pub mod rules;
pub mod steps;
mod unasked;
pub mod usage;
pub mod values;
pub mod wire;
