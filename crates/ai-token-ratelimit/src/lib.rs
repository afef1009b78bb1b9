//! The ai-token-ratelimit module: tokens in a window, per consumer, header, parameter, cookie, address or together. In:
//! the host's callbacks. Out: see the crate `module`, which does the same for every kind of enforcement.

guest_abi::module!(module::Enforcer<enforcement::limit::Limits>);
