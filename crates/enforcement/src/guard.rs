//! The guard's whole work: nothing that a client says about its identity passes the door. Out: the names of request
//! headers to remove, and what is said where that is impossible. Pure.

use crate::identity;

/// Removed from every request, with all their values, before any auth plugin runs.
pub const REMOVED: &[&str] = &[identity::HEADER];

/// Why a request is refused whose headers the gateway would not remove: it must not pass with them.
pub const FAILED: &str = "The identity header could not be removed.";
