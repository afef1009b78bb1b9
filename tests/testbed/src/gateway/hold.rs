//! What one filter holds back of one stream, each way. Pure.

use std::rc::Rc;

use super::abi::Way;
use super::plugin::Plugin;

/// One filter's place in the stream.
pub(super) struct Slot {
    pub(super) plugin: Rc<Plugin>,
    pub(super) state: Seat,
    pub(super) request: Hold,
    pub(super) response: Hold,
}

pub(super) enum Seat {
    /// Did not see the request yet.
    Fresh,
    Open(u32),
    /// Has failed, or has nothing to say: passed by.
    Gone,
}

/// What a filter holds back one way.
#[derive(Default)]
pub(super) struct Hold {
    pub(super) stopped: Stopped,
    /// Its headers went on.
    pub(super) passed: bool,
    pub(super) headers_end: bool,
    pub(super) body: Vec<u8>,
    pub(super) has_body: bool,
    pub(super) body_end: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Stopped {
    #[default]
    No,
    /// Headers wait, body callbacks run.
    Headers,
    /// All waits, the filter has not seen the body.
    All { watermark: bool },
    /// The filter saw the body and keeps it.
    Body { watermark: bool },
}

impl Slot {
    pub(super) const fn hold(&self, way: Way) -> &Hold {
        match way {
            Way::Request => &self.request,
            Way::Response => &self.response,
        }
    }

    pub(super) const fn hold_mut(&mut self, way: Way) -> &mut Hold {
        match way {
            Way::Request => &mut self.request,
            Way::Response => &mut self.response,
        }
    }
}

impl Hold {
    pub(super) fn keep(&mut self, bytes: &[u8], end: bool) {
        self.body.extend_from_slice(bytes);
        self.has_body = true;
        self.body_end |= end;
    }
}
