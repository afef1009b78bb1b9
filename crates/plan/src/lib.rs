//! The control plane without hands: the world as found becomes Redis endpoints, balances, WasmPlugins and one
//! verdict per object. No I/O, no clock, no environment.
//!
//! ```text
//! let plan = plan::build(&world);                        // balances to seed, one verdict per object
//! let (seeded, figures) = ...                            // I/O: each plan.seeds[i].apply(false) against its store
//! let overridden = ...                                   // I/O: each plan.overrides[i].set() against its store
//! let program = plan::program(&plan, &seeded);           // WasmPlugins: rules whose balances are there
//! let writes = ...                                       // I/O: each of program.plugins that differs()
//! let deletions = ...                                    // I/O: each of plan.departures()
//! let loaded = ...                                       // I/O: what the modules say, compared by plan::Rollouts
//! let notes = ...                                        // I/O: what the gateway noted of each verdict's `watched`
//! let answers = plan::Answers { .. };                   // what all those answered
//! let status = plan::status(&plan, n, answers, &program, &writes, &deletions, now);
//! ```

mod abandoned;
mod age;
mod auth;
mod build;
mod ceiling;
mod conditions;
mod cron;
mod days;
mod decode;
mod ends;
mod existing;
mod figures;
mod foreign;
mod form;
mod gateway;
mod kind;
mod leftovers;
mod life;
mod loaded;
mod manual;
mod merge;
mod models;
mod near_limits;
mod nearly;
mod overrides;
mod plan;
mod prefix;
mod program;
mod reason;
mod room;
mod schedule;
mod settings;
mod shared;
mod status;
mod stores;
mod tables;
mod targets;
mod templates;
mod validate;
mod warn;
mod world;

pub use build::build;
use build::owner_name;
pub use decode::decode;
pub use figures::{Figures, Spending, spendings};
pub use foreign::is_plugin;
pub use form::POLICIES;
pub use leftovers::{Deletion, Deletions, Departure, Fate, Leftovers, Recorded};
pub use life::{Finalizer, Leaving, Life};
pub use loaded::{Counts, HOW, Loaded, MODULES, Rollouts, Words};
pub use near_limits::{Notes, Watched};
pub use nearly::Told;
pub use overrides::{OverridesProblem, overrides_problems};
pub use plan::{Access, Object, OverrideSet, Owner, Plan, Seed, Seeded, StorePlan, StoreWarning, Verdict, Warning};
pub use program::{AI_QUOTA, AI_TOKEN_RATELIMIT, GUARD, PluginWrite, Program, program};
pub use reason::{PASSING, Reason, WaitsFor};
pub use settings::{FailStrategy, Flavor, Guard, GuardModule, LimitModule, Module, Phase, PullPolicy, Settings};
pub use status::{Answers, Seen, Write, Writes, limit_status, newly_exhausted, status, store_status};
pub use tables::Turn;
pub use validate::{Refusal, Refused, validate, validate_limit, validate_store};
pub use world::{Database, Key, ObjectKind, Undecodable, World};
