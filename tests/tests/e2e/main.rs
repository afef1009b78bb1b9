//! The whole system on real components: one module per topic, sorted, one per line.

mod behaviours;
mod components;
mod hostile;
mod module;
mod refusals;
