//! What the store holds for requests in flight. In: streams that were admitted, ticks, answers that nobody waits for any
//! more. Out: calls that renew a hold while its stream lives, and that drop one whose stream is gone. I/O through the
//! host.

use std::collections::VecDeque;

use enforcement::steps::{Ending, Failure, Kind, Meter, Pending, RENEWED_AFTER_SECONDS};
use guest_abi::host;

use crate::stores::{TICK_MS, Ticks};
use crate::{Enforcer, Root, State, Stream, Waiter, now};

const RENEWED_AFTER: u64 = (RENEWED_AFTER_SECONDS * 1000 / TICK_MS) as u64;

/// So many are renewed with one tick: those of 25,000 streams before they count no more. Streams that ended do not count.
const RENEWED_PER_TICK: usize = 64;

/// Streams with a hold and the tick at which it is renewed next, the first first. A stream that ended stays until then.
/// Each root has ticks: with several, as while a configuration changes, it is renewed more often.
#[derive(Default)]
pub(crate) struct Renewals {
    ticks: u64,
    due: VecDeque<(u64, u32)>,
}

impl<K: Kind> Enforcer<K> {
    /// The stream goes on, metered.
    pub(super) fn admit(&mut self, stream: u32, meter: Box<Meter<K>>) {
        if meter.holds() {
            self.renewals.due.push_back((self.renewals.ticks + RENEWED_AFTER, stream));
        }
        self.enter(stream, State::Metered(meter));
    }

    /// The stream was admitted and is gone: nothing is left of it.
    pub(super) fn forget(&mut self, root: u32, mut meter: Meter<K>) {
        if meter.holds() {
            meter.redirected();
            if let Ending::Charge(charge) = meter.end(now()) {
                self.charge(root, None, charge);
            }
        }
    }

    pub(super) fn renew(&mut self, acting: u32) {
        self.renewals.ticks += 1;
        let now = self.renewals.ticks;
        let mut renewed = 0;
        while renewed < RENEWED_PER_TICK {
            let Some((_, stream)) = self.renewals.due.pop_front_if(|(due, _)| *due <= now) else { return };
            let Some(Stream { root, state: State::Metered(meter), .. }) = self.streams.get(&stream) else { continue };
            let (root, Some(renewal)) = (*root, meter.renewal()) else { continue };
            renewed += 1;
            self.renewals.due.push_back((now + RENEWED_AFTER, stream));
            // Its answer is for the root that calls.
            let _ = host::set_effective_context(root);
            self.charge(root, None, renewal);
            let _ = host::set_effective_context(acting);
        }
    }

    /// A deadline passed: what the store still does is undone when its answer comes.
    pub(super) fn overdue(&mut self, root: u32, token: u32, waiter: Waiter<K>) {
        if let Waiter::Stream(_, pending) = &waiter
            && let (Some(release), Some(Root { calls, .. })) = (pending.release(now()), self.roots.get_mut(&root))
        {
            calls.wait(token, Ticks::of_a_hold(), Waiter::Late(release));
        }
        self.answer(root, waiter, None, Err(Failure::Deadline));
    }

    /// An answer came for a stream that is gone, or the connection was lost.
    pub(super) fn unwanted(&mut self, root: u32, pending: &Pending<K>, answer: Result<&[u8], Failure>) {
        if matches!(answer, Ok(_) | Err(Failure::Network)) {
            self.drop_held(root, pending);
        }
    }

    /// Drops what the store may hold for who waits no more: this call comes behind the one that it has heard.
    pub(super) fn drop_held(&mut self, root: u32, pending: &Pending<K>) {
        if let Some(release) = pending.release(now()) {
            self.charge(root, None, release);
        }
    }
}
