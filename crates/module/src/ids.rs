//! Ids that no other request has had: a number drawn for each VM, and one that counts up. In: the host's randomness. Out:
//! bytes. Nothing of a client's request is in them: who can guess or repeat an id could drop another's hold.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

pub(crate) struct Ids {
    vm: u64,
    next: Cell<u64>,
}

impl Default for Ids {
    fn default() -> Self {
        // Its keys are random.
        Self { vm: RandomState::new().hash_one(0_u8), next: Cell::new(0) }
    }
}

impl Ids {
    pub(crate) fn next(&self) -> Vec<u8> {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        [hexadecimal(self.vm), hexadecimal(number)].concat()
    }

    /// What no other VM is called.
    pub(crate) fn worker(&self) -> [u8; 16] {
        hexadecimal(self.vm)
    }
}

fn hexadecimal(number: u64) -> [u8; 16] {
    std::array::from_fn(|at| b"0123456789abcdef"[(number >> (4 * (15 - at)) & 0xf) as usize])
}
