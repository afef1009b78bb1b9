//! From the host's callbacks to the methods of a module. In: context numbers and sizes. Out: calls of [`Module`],
//! actions. What the host asks while a callback still runs is not answered, and a request then waits: never a panic,
//! and nothing passes unseen.

use std::cell::RefCell;

use crate::host::{self, Buffer};

/// What the host is to do with the part of a stream that it has just shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Continue,
    /// Headers wait, the body's callbacks still come; a body waits and is collected.
    StopIteration,
    /// All waits, and the client is slowed down: no body callback until the stream is continued.
    StopAllAndWatermark,
}

impl Action {
    const fn code(self) -> u32 {
        match self {
            Self::Continue => 0,
            Self::StopIteration => 1,
            Self::StopAllAndWatermark => 4,
        }
    }
}

/// A module in one VM. It may have several root contexts at a time: one per version of its configuration that still
/// serves streams.
pub trait Module: Default {
    fn create_root(&mut self, root: u32);

    fn create_stream(&mut self, stream: u32, root: u32);

    /// Takes a root's configuration, the first or another one. `false`: it does not start on it.
    fn configure(&mut self, root: u32, configuration: &[u8]) -> bool;

    fn tick(&mut self, root: u32);

    /// The answer to a call; `Err`: there is none.
    fn redis_reply(&mut self, root: u32, token: u32, reply: Result<&[u8], Unanswered>);

    fn request_headers(&mut self, stream: u32, end: bool) -> Action;

    /// So many bytes of the request's body: all that are held, or those that come where none are. Trailers come as an
    /// empty end.
    fn request_body(&mut self, stream: u32, size: usize, end: bool) -> Action;

    fn response_headers(&mut self, stream: u32);

    /// So many bytes more of the response's body.
    fn response_body(&mut self, stream: u32, size: usize, end: bool);

    /// A root or stream is over, whoever ended it. May come more than once.
    fn done(&mut self, context: u32);

    fn delete(&mut self, context: u32);
}

/// A call failed on its way; the host does not say why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unanswered;

/// Where the exports find the module.
#[derive(Default)]
pub struct Cell<M>(RefCell<M>);

impl<M: Module> Cell<M> {
    /// The host may call while it is being called; there is nothing to do for it then.
    fn with<T>(&self, otherwise: T, run: impl FnOnce(&mut M) -> T) -> T {
        match self.0.try_borrow_mut() {
            Ok(mut module) => run(&mut module),
            Err(_) => otherwise,
        }
    }

    pub fn create(&self, context: u32, root: u32) {
        self.with((), |module| match root {
            0 => module.create_root(context),
            root => module.create_stream(context, root),
        });
    }

    pub fn configure(&self, root: u32, size: usize) -> u32 {
        let configuration = host::buffer(Buffer::PluginConfiguration, size);
        self.with(false, |module| module.configure(root, &configuration)).into()
    }

    pub fn tick(&self, root: u32) {
        self.with((), |module| module.tick(root));
    }

    pub fn redis_reply(&self, root: u32, token: u32, status: u32, size: usize) {
        let reply = (status == 0).then(|| host::buffer(Buffer::RedisReply, size));
        self.with((), |module| module.redis_reply(root, token, reply.as_deref().ok_or(Unanswered)));
    }

    pub fn request_headers(&self, stream: u32, end: bool) -> u32 {
        self.with(Action::StopIteration, |module| module.request_headers(stream, end)).code()
    }

    pub fn request_body(&self, stream: u32, size: usize, end: bool) -> u32 {
        self.with(Action::StopIteration, |module| module.request_body(stream, size, end)).code()
    }

    pub fn response_headers(&self, stream: u32) -> u32 {
        self.with((), |module| module.response_headers(stream));
        Action::Continue.code()
    }

    pub fn response_body(&self, stream: u32, size: usize, end: bool) -> u32 {
        self.with((), |module| module.response_body(stream, size, end));
        Action::Continue.code()
    }

    pub fn done(&self, context: u32) {
        self.with((), |module| module.done(context));
    }

    pub fn delete(&self, context: u32) {
        self.with((), |module| module.delete(context));
    }
}

/// Memory for the host to write into; null if there is none.
#[must_use]
pub fn allocate(size: usize) -> *mut u8 {
    let mut bytes: Vec<u8> = Vec::new();
    if size == 0 || bytes.try_reserve_exact(size).is_err() {
        return std::ptr::null_mut();
    }
    // Whoever takes it back says how long it is: the capacity must be just that.
    if bytes.capacity() != size {
        bytes.shrink_to(size);
    }
    std::mem::ManuallyDrop::new(bytes).as_mut_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_is_null() {
        assert!(allocate(0).is_null());
        assert!(allocate(usize::MAX).is_null());
        let place = allocate(7);
        assert!(!place.is_null());
        // SAFETY: allocated just so.
        drop(unsafe { Vec::from_raw_parts(place, 0, 7) });
    }
}
