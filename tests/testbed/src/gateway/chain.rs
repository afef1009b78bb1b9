//! The filter chain of one stream, as Envoy iterates it: headers and body pieces go in, what may leave comes out on
//! two queues. Filters may hold either way; replies they make go back through the filters that saw the request.
//! Synchronous: callbacks run, nothing is awaited.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::abi::{BodyAction, HeaderAction, Headers, Way};
use super::auth::{CONSUMER_HEADER, Verdict};
use super::config::Code;
use super::hold::{Hold, Seat, Slot, Stopped};
use super::host::{Effect, LocalReply, StreamState};
use super::plugin::{Event, Inbox, Plugin};

/// What leaves the chain.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Head { end: bool },
    Body { bytes: Bytes, end: bool },
}

pub(super) struct Chain {
    pub(super) stream: Rc<RefCell<StreamState>>,
    slots: Vec<Slot>,
    inbox: UnboundedReceiver<(usize, Event)>,
    /// Also keeps the inbox open.
    sender: Inbox,
    pub(super) to_upstream: VecDeque<Piece>,
    pub(super) to_client: VecDeque<Piece>,
    /// Grows with every local reply and reset: iterations that began before are over.
    epoch: u32,
    /// A reply was made here; the upstream, if there is one, is let go.
    pub(super) replied: bool,
    response_begun: bool,
    head_left: bool,
    /// The stream is to be torn down.
    pub(super) reset: bool,
}

impl Chain {
    pub(super) fn new(stream: Rc<RefCell<StreamState>>, plugins: Vec<Rc<Plugin>>) -> Self {
        let (sender, inbox) = unbounded_channel();
        let slots = plugins
            .into_iter()
            .map(|plugin| Slot { plugin, state: Seat::Fresh, request: Hold::default(), response: Hold::default() })
            .collect();
        Self {
            stream,
            slots,
            inbox,
            sender,
            to_upstream: VecDeque::new(),
            to_client: VecDeque::new(),
            epoch: 0,
            replied: false,
            response_begun: false,
            head_left: false,
            reset: false,
        }
    }

    pub(super) fn request_headers(&mut self, end: bool) {
        self.headers(Way::Request, 0, end);
        self.drain();
    }

    pub(super) fn request_body(&mut self, bytes: Bytes, end: bool) {
        if !self.replied && !self.reset {
            self.body(Way::Request, 0, bytes, end);
            self.drain();
        }
    }

    pub(super) fn response_headers(&mut self, headers: Headers, end: bool) {
        if !self.response_begun && !self.reset {
            self.response_begun = true;
            let mut stream = self.stream.borrow_mut();
            stream.response = Some(headers);
            stream.details = "via_upstream".to_owned();
            drop(stream);
            self.headers(Way::Response, 0, end);
            self.drain();
        }
    }

    pub(super) fn response_body(&mut self, bytes: Bytes, end: bool) {
        if !self.replied && !self.reset {
            self.body(Way::Response, 0, bytes, end);
            self.drain();
        }
    }

    /// The next event for a filter of this stream.
    pub(super) async fn next_event(&mut self) -> Option<(usize, Event)> {
        self.inbox.recv().await
    }

    pub(super) fn handle(&mut self, (filter, event): (usize, Event)) {
        self.event(filter, event);
        self.drain();
    }

    /// A filter holds so much that nothing more is to be read this way.
    pub(super) fn paused(&self, way: Way) -> bool {
        let limit = self.limit(way);
        self.slots.iter().any(|slot| {
            let hold = slot.hold(way);
            let watermark =
                matches!(hold.stopped, Stopped::All { watermark: true } | Stopped::Body { watermark: true });
            watermark && hold.body.len() > limit
        })
    }

    /// An answer made here, through the filters that saw the request; or, when one is on its way already, past them.
    pub(super) fn reply(&mut self, reply: LocalReply) {
        self.epoch += 1;
        self.replied = true;
        self.to_upstream.clear();
        if self.head_left {
            self.reset = true;
            return;
        }
        let LocalReply { status, details, body, headers: extra } = reply;
        let mut headers = Headers::default();
        headers.add(":status", status.to_string());
        headers.0.extend(extra.0);
        if !body.is_empty() && headers.get("content-type").is_none() {
            headers.add("content-type", "text/plain");
        }
        headers.set("content-length", body.len().to_string());
        let mut stream = self.stream.borrow_mut();
        stream.response = Some(headers);
        stream.details = details;
        drop(stream);
        self.to_client.clear();
        let end = body.is_empty();
        if std::mem::replace(&mut self.response_begun, true) {
            self.emit(Way::Response, Piece::Head { end });
            if !end {
                self.emit(Way::Response, Piece::Body { bytes: body.into(), end: true });
            }
            return;
        }
        let epoch = self.epoch;
        self.headers(Way::Response, 0, end);
        if !end && self.epoch == epoch {
            self.body(Way::Response, 0, body.into(), true);
        }
    }

    /// Ends the stream for every filter that knows it.
    pub(super) fn close(&mut self) {
        self.epoch += 1;
        self.reset = true;
        for slot in &mut self.slots {
            if let Seat::Open(id) = std::mem::replace(&mut slot.state, Seat::Gone) {
                slot.plugin.close(id);
            }
        }
    }

    fn headers(&mut self, way: Way, from: usize, mut end: bool) {
        let epoch = self.epoch;
        for position in from..self.slots.len() {
            let filter = self.filter(way, position);
            let action = self.call_headers(filter, way, end);
            self.drain();
            if self.epoch != epoch {
                return;
            }
            let hold = self.slots[filter].hold_mut(way);
            hold.stopped = match action {
                HeaderAction::Continue => Stopped::No,
                HeaderAction::ContinueAndEnd => {
                    end = true;
                    Stopped::No
                }
                HeaderAction::StopIteration => Stopped::Headers,
                HeaderAction::StopAllAndBuffer => Stopped::All { watermark: false },
                HeaderAction::StopAllAndWatermark => Stopped::All { watermark: true },
            };
            hold.passed = hold.stopped == Stopped::No;
            hold.headers_end = end;
            if !hold.passed {
                return;
            }
        }
        self.emit(way, Piece::Head { end });
    }

    fn body(&mut self, way: Way, from: usize, bytes: Bytes, end: bool) {
        let epoch = self.epoch;
        let mut bytes = bytes;
        for position in from..self.slots.len() {
            let filter = self.filter(way, position);
            let hold = self.slots[filter].hold_mut(way);
            if let Stopped::All { .. } = hold.stopped {
                hold.keep(&bytes, end);
                return self.enforce_limit(way, filter);
            }
            if !hold.body.is_empty() {
                hold.body.extend_from_slice(&bytes);
                // What is collected is looked at before the filter is.
                self.enforce_limit(way, filter);
                if self.epoch != epoch {
                    return;
                }
                bytes = std::mem::take(&mut self.slots[filter].hold_mut(way).body).into();
            }
            let (action, seen) = self.call_body(filter, way, bytes, end);
            self.drain();
            if self.epoch != epoch {
                return;
            }
            bytes = seen;
            let hold = self.slots[filter].hold_mut(way);
            match action {
                BodyAction::Continue => {
                    hold.stopped = Stopped::No;
                    if !std::mem::replace(&mut hold.passed, true) {
                        self.headers(way, position + 1, false);
                        if self.epoch != epoch {
                            return;
                        }
                    }
                }
                BodyAction::StopAndBuffer | BodyAction::StopAndWatermark => {
                    hold.stopped = Stopped::Body { watermark: action == BodyAction::StopAndWatermark };
                    hold.keep(&bytes, end);
                    return self.enforce_limit(way, filter);
                }
                BodyAction::StopNoBuffer => {
                    hold.stopped = Stopped::Body { watermark: false };
                    hold.keep(&[], end);
                    return;
                }
            }
        }
        self.emit(way, Piece::Body { bytes, end });
    }

    /// Releases what a filter holds. Nothing is held: nothing happens, as when it continues before it has stopped.
    fn release(&mut self, way: Way, filter: usize) {
        if way == Way::Request && self.replied {
            return;
        }
        let epoch = self.epoch;
        let hold = self.slots[filter].hold_mut(way);
        let stopped = std::mem::take(&mut hold.stopped);
        if stopped == Stopped::No {
            return;
        }
        let first = !std::mem::replace(&mut hold.passed, true);
        let (body, has_body) = (std::mem::take(&mut hold.body), std::mem::take(&mut hold.has_body));
        let (headers_end, body_end) = (hold.headers_end, hold.body_end);
        let position = self.filter(way, filter);
        if first {
            self.headers(way, position + 1, headers_end);
        }
        if has_body && self.epoch == epoch {
            // Who stopped everything has yet to see the body itself.
            let from = if matches!(stopped, Stopped::All { .. }) { position } else { position + 1 };
            self.body(way, from, body.into(), body_end);
        }
    }

    fn call_headers(&mut self, filter: usize, way: Way, end: bool) -> HeaderAction {
        let slot = &mut self.slots[filter];
        if way == Way::Request {
            match &slot.plugin.loaded.code {
                Ok(Code::KeyAuth(_)) => {
                    slot.state = Seat::Gone;
                    return self.authenticate(filter);
                }
                Ok(Code::Module(_)) => {
                    match slot.plugin.open(&self.stream, &self.sender, filter) {
                        Some(id) => slot.state = Seat::Open(id),
                        None => return self.fail(filter),
                    };
                }
                Err(_) => return self.fail(filter),
            }
        }
        let Seat::Open(id) = slot.state else { return HeaderAction::Continue };
        let stream = self.stream.borrow();
        let count = match way {
            Way::Request => stream.request.0.len(),
            Way::Response => stream.response.as_ref().map_or(0, |headers| headers.0.len()),
        };
        drop(stream);
        // After a trap the inbox says what becomes of the stream.
        slot.plugin.headers(id, way, count, end).unwrap_or(HeaderAction::Continue)
    }

    fn call_body(&mut self, filter: usize, way: Way, bytes: Bytes, end: bool) -> (BodyAction, Bytes) {
        let slot = &self.slots[filter];
        let Seat::Open(id) = slot.state else { return (BodyAction::Continue, bytes) };
        let size = bytes.len();
        *self.stream.borrow_mut().body(way) = Some(bytes.into());
        let action = slot.plugin.body(id, way, size, end).unwrap_or(BodyAction::Continue);
        let seen = self.stream.borrow_mut().body(way).take().unwrap_or_default();
        (action, seen.into())
    }

    fn authenticate(&mut self, filter: usize) -> HeaderAction {
        let Ok(Code::KeyAuth(auth)) = &self.slots[filter].plugin.loaded.code else { return HeaderAction::Continue };
        let mut stream = self.stream.borrow_mut();
        let route = stream.route();
        match auth.check(&stream.request, route.as_deref()) {
            Verdict::Pass => HeaderAction::Continue,
            Verdict::Known(name) => {
                stream.request.add(CONSUMER_HEADER, name);
                HeaderAction::Continue
            }
            Verdict::Refuse(reply) => {
                drop(stream);
                self.reply(reply);
                HeaderAction::StopAllAndWatermark
            }
        }
    }

    /// A filter that cannot run: passed by, or the stream fails, as its plugin says.
    fn fail(&mut self, filter: usize) -> HeaderAction {
        let slot = &mut self.slots[filter];
        slot.state = Seat::Gone;
        if slot.plugin.loaded.spec.fail_open {
            return HeaderAction::Continue;
        }
        self.reply(LocalReply { status: 503, details: "wasm_fail_stream".to_owned(), ..LocalReply::default() });
        HeaderAction::StopAllAndWatermark
    }

    fn drain(&mut self) {
        while let Ok((filter, event)) = self.inbox.try_recv() {
            self.event(filter, event);
        }
    }

    fn event(&mut self, filter: usize, event: Event) {
        if self.reset {
            return;
        }
        match event {
            Event::Effect(Effect::Continue(way)) => self.release(way, filter),
            Event::Effect(Effect::Reply(reply)) => self.reply(reply),
            Event::Effect(Effect::Close) => {
                self.epoch += 1;
                self.reset = true;
            }
            Event::Failed => {
                if matches!(self.slots[filter].state, Seat::Open(_)) && self.fail(filter) == HeaderAction::Continue {
                    self.release(Way::Request, filter);
                    self.release(Way::Response, filter);
                }
            }
        }
    }

    /// A body held for longer than the limit: the client waits, or is refused, as the filter chose.
    fn enforce_limit(&mut self, way: Way, filter: usize) {
        let hold = self.slots[filter].hold(way);
        let waits = matches!(hold.stopped, Stopped::All { watermark: true } | Stopped::Body { watermark: true });
        if waits || hold.body.len() <= self.limit(way) {
            return;
        }
        let (status, details, body) = match way {
            Way::Request => (413, "request_payload_too_large", "Payload Too Large"),
            Way::Response => (500, "response_payload_too_large", "Internal Server Error"),
        };
        let (details, body) = (details.to_owned(), body.as_bytes().to_vec());
        self.reply(LocalReply { status, details, body, ..LocalReply::default() });
    }

    fn limit(&self, way: Way) -> usize {
        let stream = self.stream.borrow();
        match way {
            Way::Request => stream.request_limit,
            Way::Response => stream.response_limit,
        }
    }

    fn emit(&mut self, way: Way, piece: Piece) {
        match way {
            Way::Request => self.to_upstream.push_back(piece),
            Way::Response => {
                self.head_left = true;
                self.to_client.push_back(piece);
            }
        }
    }

    /// Positions count from where a way begins; both conversions are the same.
    fn filter(&self, way: Way, position: usize) -> usize {
        match way {
            Way::Request => position,
            Way::Response => self.slots.len() - 1 - position,
        }
    }
}
