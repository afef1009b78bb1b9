//! What every kind of enforcement has in common: a request gives a step, the store's answer the next one, an admitted
//! request a meter, and the meter at the end a charge. In: what the host shows of a request, replies, the response as
//! it passes. Out: effects as data. Steps consume themselves, so that none can be taken twice. Pure.
//!
//! A [`Kind`] says what is asked and what an answer means; how a question is repeated, what counts as the usage of an
//! answer and that it is booked once is the same for all and stands here.

mod booking;
mod count;
mod ends;
mod meter;
mod question;
mod saying;

use std::fmt::{Debug, Display};

pub use booking::{Booked, Booking};
pub use count::Count;
pub use meter::{Charge, Ending, Meter, Unbooked};
use question::Heard;
pub(crate) use question::Words;
pub use question::{Call, Failure, Question};
pub use saying::{Answered, Saying};

use crate::config::{Policy, Target};
use crate::models::Weights;
use crate::prompt::{Edit, Prompt};
use crate::redis::{Hold, Reply};
use crate::response::Response;
use crate::values::MAX_AMOUNT;

/// Why a request is refused that nobody announced: it cannot be held to anything.
pub const UNKNOWN: &str = "The request is unknown.";

/// Why a request is refused whose body the gateway would have to keep besides too much of others.
pub(crate) const NO_ROOM: &str = "Too many request bodies are awaited.";

/// Seconds after which a hold that nobody renews counts no more: what a module leaves behind that ended all at once.
pub const HOLD_SECONDS: u32 = 60;

/// How often the hold of a request that lives is renewed, in seconds.
pub const RENEWED_AFTER_SECONDS: u32 = 20;

/// What a module enforces.
pub trait Kind: Copy + Eq + Debug + 'static {
    /// What is enforced, in the plural, for the gateway's log.
    const ENFORCES: &'static str;

    /// What is enforced, in the singular and one word, for the names of the gateway's metrics.
    const KIND: &'static str;

    /// What requests are held to, as a configuration says it.
    type Policy: Policy;
    /// A request that is a form, which is awaited whole.
    type AwaitForm: Debug + Eq;
    /// A metered request over which its body decides.
    type AwaitBody: Debug + Eq;
    /// Why the store is asked.
    type Purpose: Debug + Eq;
    /// What an admitted request keeps until its charge.
    type Admission: Debug;
    /// What a charge keeps until it is booked; shown in the log as what the tokens are booked against.
    type Ticket: Debug + Display + Eq;

    /// Decides over a request that a rule or the default matches.
    fn begin(target: &Target<Self::Policy>, request: &dyn Request) -> Step<Self>;

    /// Goes on when the whole form has come; `now` in unix seconds.
    fn form(awaiting: Self::AwaitForm, form: &[u8], now: i64) -> Step<Self>;

    /// Goes on when the whole body has come, or more of it than is awaited. The request's headers are as they were.
    fn body(awaiting: Self::AwaitBody, body: Body, request: &dyn Request) -> Step<Self>;

    /// Whether who waits for this answer is a request to a model, whose response will be metered.
    fn is_metered(purpose: &Self::Purpose) -> bool;

    /// The declared model of who waits, or `other`; nothing where its policy declares none.
    fn model(purpose: &Self::Purpose) -> Option<&str>;

    /// Takes the store's reply, which may be an error, or the reason why there is none.
    fn decide(purpose: Self::Purpose, reply: Result<Reply<'_>, Failure>) -> Next<Self>;

    /// Whether an answer that tells no usage is booked with an estimate.
    fn estimates(admission: &Self::Admission) -> bool;

    /// What the tokens of its answer weigh.
    fn weights(admission: &Self::Admission) -> Weights;

    /// Whether something is held for it that only its charge drops, be it one of no tokens.
    fn holds(admission: &Self::Admission) -> bool;

    /// Lets what is held for it last longer; nothing where nothing is held.
    fn renew(admission: &Self::Admission) -> Option<(Question, Self::Ticket)>;

    /// Drops what the store may have held for who waits no more; `now` in unix seconds.
    fn release(purpose: &Self::Purpose, now: i64) -> Option<(Question, Self::Ticket)>;

    /// Books so many tokens, 0 to `MAX_AMOUNT`, and drops what is held.
    fn charge(admission: Self::Admission, tokens: i64, now: i64) -> (Question, Self::Ticket);

    /// If the reply says that the charge was booked, how often it made what is used reach the share at which somebody
    /// is to be warned; otherwise why not.
    ///
    /// # Errors
    /// What the log should say.
    fn booked(ticket: &Self::Ticket, reply: &Reply<'_>) -> Result<i64, String>;

    /// The answer to what cannot be enforced, with the reason.
    fn unenforceable(reason: &str) -> Response;
}

/// What the host shows of a request, on demand.
pub trait Request {
    /// Every value of a header, in order; its name in lower case.
    fn header(&self, name: &str) -> Vec<&[u8]>;

    /// The address of the connection's other end, with its port; property `source.address`.
    fn source(&self) -> Option<Vec<u8>>;

    /// Unix seconds.
    fn now(&self) -> i64;

    /// An id that no other request has had, none of the client's making.
    fn unique(&self) -> Vec<u8>;

    /// `:path`, with its query.
    fn path(&self) -> &[u8] {
        self.header(":path").first().copied().unwrap_or_default()
    }
}

/// What the store is asked to hold for a request in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) id: Vec<u8>,
    pub(crate) tokens: i64,
}

impl Held {
    /// What a request may cost: what its body says, weighed.
    pub(crate) fn of(prompt: &Prompt, otherwise: i64, weights: Weights, request: &dyn Request) -> Self {
        let usage = prompt.at_most(request.path(), otherwise);
        let tokens = i64::try_from(weights.dearest().charge(&usage)).unwrap_or(MAX_AMOUNT);
        Self { id: request.unique(), tokens: tokens.max(1) }
    }

    pub(crate) fn hold(&self) -> Hold<'_> {
        Hold { id: &self.id, expires_in: HOLD_SECONDS }
    }
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<K: Kind> {
    Pass,
    Refuse(Response),
    /// Let it pass, unmetered, that would be refused if its policy did not only observe.
    Spare,
    /// Hold the request until the store has answered.
    Ask(Ask<K>),
    /// Hold the request and give its whole body to [`Kind::form`].
    AwaitForm(K::AwaitForm),
    /// Hold the request, which is metered, and give what its body says to [`Kind::body`].
    AwaitBody(K::AwaitBody),
}

/// The body of a metered request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Read(Prompt),
    /// It is longer than [`crate::prompt::BODY_MAX`].
    TooLong,
    /// Too much is held already of the bodies of other requests.
    NoRoom,
}

/// A call to make, and who waits for its answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Ask<K: Kind> {
    pub call: Call,
    pub pending: Pending<K>,
    /// What makes the request ask for its usage. It goes on without where that fails.
    pub edit: Option<Edit>,
}

/// A request that waits for the store.
#[derive(Debug, PartialEq, Eq)]
pub struct Pending<K: Kind> {
    question: Question,
    purpose: K::Purpose,
    read: Read,
}

/// What is known of a request's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Read {
    /// How much of it was read before.
    bytes: u64,
    /// Whether we made it ask for its usage.
    edited: bool,
}

/// What to do after an answer.
#[derive(Debug)]
pub enum Next<K: Kind> {
    /// Ask once more.
    Ask(Ask<K>),
    /// The store wants authentication: initialise it again, then ask once more.
    Reauthenticate(Ask<K>),
    Admit(Admitted<K>),
    Refuse(Response),
}

/// Let the request go on and meter its response.
#[derive(Debug)]
pub struct Admitted<K: Kind> {
    pub meter: Box<Meter<K>>,
    /// What it adds up to.
    pub counts: &'static [Count],
    /// Why nobody knows whether it should have been, for the gateway's log.
    pub log: Option<String>,
}

impl<K: Kind> Ask<K> {
    pub(crate) fn new(question: Question, purpose: K::Purpose) -> Self {
        Self::with(question, purpose, Read::default())
    }

    fn with(question: Question, purpose: K::Purpose, read: Read) -> Self {
        Self { call: question.call(), pending: Pending { question, purpose, read }, edit: None }
    }

    /// After its body, if that was read, which may have to ask for its usage.
    pub(crate) fn after(mut self, body: Option<&Prompt>, asks_for_usage: bool) -> Self {
        if let Some(body) = body {
            self.pending.read.bytes = body.bytes;
            self.edit = body.edit.filter(|_| asks_for_usage);
        }
        self
    }
}

impl<K: Kind> Pending<K> {
    /// Its body was made to ask for usage that the client does not want.
    pub const fn was_edited(&mut self) {
        self.read.edited = true;
    }

    /// Whether the request is a metered one.
    #[must_use]
    pub fn is_metered(&self) -> bool {
        K::is_metered(&self.purpose)
    }

    /// What drops a hold that the store may make though nobody waits for it any more; to be sent behind its answer.
    #[must_use]
    pub fn release(&self, now: i64) -> Option<Charge<K>> {
        K::release(&self.purpose, now).map(Charge::of_nothing)
    }

    /// What is counted for its model: the name as declared, or `other`; nothing where its policy declares none.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        K::model(&self.purpose)
    }

    /// Takes the store's answer, or the reason why there is none.
    #[must_use]
    pub fn answer(self, answer: Result<&[u8], Failure>) -> Next<K> {
        let Self { question, purpose, read } = self;
        let mut next = match question.hear(answer) {
            Heard::Again(question) => Next::Ask(Ask::with(question, purpose, read)),
            Heard::Unauthenticated(question) => Next::Reauthenticate(Ask::with(question, purpose, read)),
            Heard::Reply(reply) => K::decide(purpose, Ok(reply)),
            Heard::Failure(failure) => K::decide(purpose, Err(failure)),
        };
        if let Next::Admit(admitted) = &mut next {
            admitted.meter.request_body(read.bytes);
            if read.edited {
                admitted.meter.hide_usage();
            }
        }
        next
    }
}

impl<K: Kind> Next<K> {
    pub(crate) fn admit(admission: K::Admission) -> Self {
        Self::admit_counting(admission, &[Count::Admitted], None)
    }

    /// Admits although the store did not say that it may.
    pub(crate) fn admit_unchecked(admission: K::Admission, why: &dyn Display) -> Self {
        Self::admit_counting(admission, &[Count::Admitted, Count::StoreFailure], Some(why.to_string()))
    }

    /// Admits though its policy would refuse it if it did not only observe.
    pub(crate) fn spare(admission: K::Admission, log: Option<String>) -> Self {
        Self::admit_counting(admission, &[Count::Admitted, Count::WouldRefuse], log)
    }

    /// The same, for the store's failure.
    pub(crate) fn spare_unchecked(admission: K::Admission, why: &dyn Display) -> Self {
        let counts = &[Count::Admitted, Count::WouldRefuse, Count::StoreFailure];
        Self::admit_counting(admission, counts, Some(why.to_string()))
    }

    fn admit_counting(admission: K::Admission, counts: &'static [Count], log: Option<String>) -> Self {
        Self::Admit(Admitted { meter: Box::new(Meter::new(admission)), counts, log })
    }
}

/// Whether a request asks to become a WebSocket.
pub(crate) fn wants_websocket(request: &dyn Request) -> bool {
    let upgrade = request.header("upgrade");
    let mut protocols = upgrade.iter().flat_map(|value| value.split(|byte| *byte == b','));
    protocols.any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"websocket"))
}
