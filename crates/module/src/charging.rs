//! What a stream used, from its end until it is booked. In: streams that are over, answers of Redis. Out: calls of the
//! host, counts, lines in the log where a charge may be lost. I/O through the host.

use enforcement::steps::{Booked, Charge, Count, Ending, Kind};
use guest_abi::host::{self, Level};

use crate::policies::PolicyCounters;
use crate::stores::Ticks;
use crate::{Enforcer, Root, State, Stream, Waiter, now};

/// The response code details of a stream whose request the gateway began anew as another one.
const REDIRECTED: &[u8] = b"internal_redirect";

impl<K: Kind> Enforcer<K> {
    /// Books what a stream used, once, when it is over.
    pub(super) fn settle(&mut self, stream: u32) {
        let Some(Stream { root, state, awaited: _, counters }) = self.streams.get_mut(&stream) else { return };
        let (root, counters) = (*root, counters.clone());
        // Whatever it was, it is over: an answer that still comes for it is dropped.
        let State::Metered(mut meter) = std::mem::replace(state, State::Passing) else { return };
        // The router redirects without showing the answer for which it does.
        if meter.is_unanswered()
            && host::property(&["response", "code_details"]).is_some_and(|details| details == REDIRECTED)
        {
            meter.redirected();
        }
        if let Ending::Charge(charge) = meter.end(now()) {
            // The call belongs to the root: it is to outlive the stream.
            let _ = host::set_effective_context(root);
            self.charge(root, counters, charge);
            let _ = host::set_effective_context(stream);
        }
    }

    pub(super) fn charge(&mut self, root: u32, counters: Option<PolicyCounters>, Charge { call, booking }: Charge<K>) {
        let Some(Root { calls, .. }) = self.roots.get_mut(&root) else { return };
        let (left, waiter) = (Ticks::of(&call.store), Waiter::Charge(booking, counters));
        if let Err((Waiter::Charge(booking, counters), failure)) = calls.send(&mut self.clients, &call, left, waiter) {
            self.booked(root, counters, booking.answer(Err(failure)));
        }
    }

    pub(super) fn booked(&mut self, root: u32, counters: Option<PolicyCounters>, booked: Booked<K>) {
        match booked {
            Booked::Done { tokens, estimated, warned } => {
                if let Some(counters) = counters {
                    counters.add(Count::Tokens, tokens);
                    if estimated {
                        counters.add(Count::Estimated, 1);
                    }
                    if warned > 0 {
                        counters.add(Count::Warned, warned);
                    }
                }
            }
            Booked::Again(charge) => self.charge(root, counters, charge),
            Booked::Reauthenticate(charge) => match self.clients.reauthenticate(&charge.call.store) {
                Ok(()) => self.charge(root, counters, charge),
                Err(failure) => self.booked(root, counters, charge.booking.answer(Err(failure))),
            },
            Booked::Unknown(what) => {
                if let Some(counters) = counters {
                    counters.add(Count::UnknownCharge, 1);
                }
                host::log(Level::Warn, &what);
            }
        }
    }
}
