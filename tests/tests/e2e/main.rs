//! The whole system on real components: one module per topic, sorted, one per line.

mod answers;
mod behaviours;
mod components;
mod concurrency;
mod crash;
mod disturbances;
mod ends;
mod faults;
mod flavor_upstream;
mod gateway;
mod hostile;
mod life;
mod limits;
mod module;
mod ownership;
mod proxies;
mod refresh;
mod refusals;
mod scale;
mod scenario_a;
mod scenario_b;
mod stage;
mod tenants;
mod two_controllers;
mod warnings;
mod year;
