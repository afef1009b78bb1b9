//! The ai-quota module: token balances per consumer. In: the host's callbacks. Out: see the crate `module`, which does
//! the same for every kind of enforcement.

use enforcement::quota::Quotas;

guest_abi::module!(module::Enforcer<Quotas>);
