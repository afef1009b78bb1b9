//! The guard's whole work: nothing that a client says about its identity passes the door. Out: the names of request
//! headers to remove, and what is answered where that is impossible. Pure.

use crate::identity;
use crate::response::Response;

/// Removed from every request, with all their values, before any auth plugin runs.
pub const REMOVED: &[&str] = &[identity::HEADER];

/// The answer to a request whose headers the gateway would not remove: it must not pass with them.
#[must_use]
pub fn failed() -> Response {
    Response::unenforceable("The identity header could not be removed.")
}
