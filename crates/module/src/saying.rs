//! What the module says of itself in the stores it uses: its version, and which configuration it runs. In: that
//! configuration, ticks, answers. Out: now and then a small call, for which no request waits, and one line in the log
//! where it is in vain. I/O through the host.

use std::sync::Arc;

use enforcement::config::{Policies, Store};
use enforcement::redis::loaded::{SAID_EVERY_SECONDS, Say};
use enforcement::steps::{Answered, Kind, Saying};
use enforcement::wire::Report;
use guest_abi::host::{self, Level};

use crate::stores::{TICK_MS, Ticks};
use crate::{Enforcer, Root, VERSION, Waiter};

const EVERY: u32 = SAID_EVERY_SECONDS * 1000 / TICK_MS;
/// How soon it is said again that was not heard.
const AGAIN: u32 = 10_000 / TICK_MS;

/// Who says it: of several roots of this VM the one that was configured last.
pub(crate) struct Speaker {
    root: u32,
    report: Report,
    stores: Vec<Arc<Store>>,
    gateway: Vec<u8>,
    /// Ticks until it is said again.
    left: u32,
    logged: bool,
}

impl<K: Kind> Enforcer<K> {
    pub(super) fn speak_for(&mut self, root: u32, policies: &Policies<K::Policy>) {
        match policies.report() {
            // With the next tick: a root that is made only to see whether it starts has none.
            Some(report) => {
                let gateway = host::property(&["node", "id"]).unwrap_or_default();
                let (report, stores) = (report.clone(), policies.stores().to_vec());
                self.speaker = Some(Speaker { root, report, stores, gateway, left: 1, logged: false });
            }
            None => self.hush(root),
        }
    }

    /// The root has nothing to say any more.
    pub(super) fn hush(&mut self, root: u32) {
        self.speaker.take_if(|speaker| speaker.root == root);
    }

    pub(super) fn say(&mut self, root: u32) {
        let Some(Speaker { report, stores, gateway, left, .. }) =
            self.speaker.as_mut().filter(|speaker| speaker.root == root)
        else {
            return;
        };
        *left -= 1;
        if *left > 0 {
            return;
        }
        *left = EVERY;
        let say = Say { report, kind: K::KIND, worker: &self.ids.worker(), version: VERSION, gateway };
        let before = std::mem::replace(&mut self.said, say.words());
        let all: Vec<Saying> = stores.iter().map(|store| Saying::new(store, &say, &before)).collect();
        all.into_iter().for_each(|saying| self.send(root, saying));
    }

    fn send(&mut self, root: u32, saying: Saying) {
        let Some(Root { calls, .. }) = self.roots.get_mut(&root) else { return };
        let call = saying.call();
        let left = Ticks::of(&call.store);
        if let Err((Waiter::Saying(saying), failure)) =
            calls.send(&mut self.clients, &call, left, Waiter::Saying(saying))
        {
            self.answered(root, saying.answer(Err(failure)));
        }
    }

    pub(super) fn answered(&mut self, root: u32, answered: Answered) {
        match answered {
            Answered::Heard => {}
            Answered::Again(saying) => self.send(root, saying),
            Answered::Reauthenticate(saying) => match self.clients.reauthenticate(&saying.call().store) {
                Ok(()) => self.send(root, saying),
                Err(failure) => self.answered(root, saying.answer(Err(failure))),
            },
            Answered::Unheard(why) => {
                let Some(speaker) = self.speaker.as_mut().filter(|speaker| speaker.root == root) else { return };
                speaker.left = speaker.left.min(AGAIN);
                if !std::mem::replace(&mut speaker.logged, true) {
                    host::log(Level::Warn, &format!("the store was not told which module runs here: {why}"));
                }
            }
        }
    }
}
