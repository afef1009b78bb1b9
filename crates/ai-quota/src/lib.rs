//! The ai-quota module: token balances per consumer. In: the host's callbacks. Out: see the crate `module`, which does
//! the same for every kind of enforcement.

guest_abi::module!(module::Enforcer<enforcement::quota::Quotas>);
