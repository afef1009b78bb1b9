//! Counters among the gateway's metrics. In: names. Out: each is made known once, since the host would keep one more for
//! each time. I/O through the host.

use std::collections::BTreeMap;

use guest_abi::host::{self, Counter};

/// So many are kept: names have consumers in them.
const MAX_COUNTERS: usize = 10_000;

#[derive(Default)]
pub(crate) struct Counters(BTreeMap<String, Counter>);

impl Counters {
    pub(crate) fn add_one(&mut self, name: &str) {
        let counter = match self.0.get(name) {
            Some(counter) => *counter,
            None if self.0.len() >= MAX_COUNTERS => return,
            None => {
                let Ok(counter) = host::define_counter(name) else { return };
                self.0.insert(name.to_owned(), counter);
                counter
            }
        };
        let _ = host::count(counter, 1);
    }
}
