//! What a balance should be, told once more in memory: boundary by boundary, in wide integers, without Redis, Lua
//! or the code under test. Only the generated sequences of `comparing` use it.

use std::collections::BTreeMap;

use enforcement::wire::RefreshMode;

/// How many tokens of manual refreshes a ledger tells apart.
pub(super) const KNOWN_TOKENS: usize = 5;
const MOST: i128 = (1 << 53) - 1;

/// The period it is, as a caller says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) schedule: &'static str,
    pub(super) ordinal: i128,
    pub(super) mode: RefreshMode,
    pub(super) cap: i128,
}

/// Who writes, and when in the order of writes: owner, term, uid, generation.
pub(super) type Writer = (&'static str, i128, &'static str, i128);

/// One consumer.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) tokens: Option<i128>,
    pub(super) book: Option<Book>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Book {
    pub(super) owner: Option<&'static str>,
    pub(super) fence: (i128, &'static str, i128),
    pub(super) place: Place,
    pub(super) grant: Option<i128>,
    pub(super) unlimited: bool,
    pub(super) follows: Option<(&'static str, i128)>,
    pub(super) used: i128,
    /// The last first.
    pub(super) tokens: Vec<&'static str>,
    /// What being listed again adds.
    pub(super) aside: Option<i128>,
    pub(super) holds: BTreeMap<u32, i128>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An object lists the consumer.
    Listed,
    /// None does any more.
    Away,
    /// None does, and a request made the balance from a default.
    OnDefault,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Passed { left: Option<i128>, period: Option<i128> },
    Refused(Option<i128>),
    Booked(Option<i128>),
    Forgiven,
    Absent,
    Applied { changed: bool, tokens: Option<i128>, used: i128 },
    Conflict { owner: String, lazy: bool },
    Left { changed: bool },
    Foreign { owner: String },
    Stale { term: i128 },
    Balance(i128),
    OutOfRange,
}

fn bounded(amount: i128) -> i128 {
    amount.clamp(-MOST, MOST)
}

fn cluster(owner: &str) -> Option<&str> {
    owner.split('/').next()
}

fn same_schedule(followed: Option<(&str, i128)>, asked: Option<(&str, i128)>) -> bool {
    followed.map(|(name, _)| name) == asked.map(|(name, _)| name)
}

impl Account {
    /// What one boundary does, or what somebody who refreshes by hand wants it to do.
    fn boundary(&mut self, mode: RefreshMode, cap: i128) {
        let Some(book) = &mut self.book else { return };
        book.used = 0;
        let gives = book.grant.filter(|_| book.place != Place::Away);
        if let Some(grant) = gives {
            let had = self.tokens.unwrap_or(0);
            self.tokens = Some(match mode {
                RefreshMode::Reset => grant,
                RefreshMode::Add => bounded(had + grant),
                RefreshMode::CarryOver => cap.min(had.max(0) + grant),
            });
        }
        if mode == RefreshMode::Reset {
            // All in all the grant, wherever it is.
            let due = book.grant.filter(|_| book.place == Place::Away);
            book.aside = due.map(|grant| bounded(grant - self.tokens.unwrap_or(0)));
        }
    }

    fn roll(&mut self, now: Option<Now>) {
        let Some(now) = now else { return };
        while let Some(book) = &mut self.book
            && let Some((schedule, ordinal)) = book.follows
            && schedule == now.schedule
            && ordinal < now.ordinal
        {
            book.follows = Some((schedule, ordinal + 1));
            if now.mode == RefreshMode::Reset {
                book.holds.clear();
            }
            self.boundary(now.mode, now.cap);
        }
    }

    pub(super) fn check(
        &mut self,
        need: i128,
        hold: Option<u32>,
        default: Option<i128>,
        (owner, yields): (&'static str, bool),
        now: Option<Now>,
    ) -> Said {
        let here = now.map(|now| (now.schedule, now.ordinal));
        let mut edited = false;
        if let Some(book) = &mut self.book
            && book.place == Place::OnDefault
            && book.owner.is_none_or(|of| of == owner || !yields && cluster(of) == cluster(owner))
        {
            edited = true;
            book.owner = Some(owner);
            if !same_schedule(book.follows, here) {
                book.follows = here;
            }
        }
        self.roll(now);
        let period = |book: &Option<Book>| match (book.as_ref().and_then(|book| book.follows), here) {
            (Some((followed, ordinal)), Some((asked, _))) if followed == asked => Some(ordinal),
            _ => None,
        };
        if self.book.as_ref().is_some_and(|book| book.unlimited) {
            return Said::Passed { left: None, period: period(&self.book) };
        }
        match (&mut self.book, default) {
            (Some(book), Some(default)) if edited => {
                if let Some(grant) = book.grant.replace(default) {
                    self.tokens = self.tokens.map(|had| bounded(had + default - grant));
                }
            }
            (Some(book), None) if edited => {
                // What it has stays what it has; what it is worth when it is listed again stays, too.
                let (grant, difference) = (book.grant.unwrap_or(0), book.aside.unwrap_or(0));
                book.aside = Some(self.tokens.take().unwrap_or(bounded(grant - book.used)));
                (book.place, book.grant) = (Place::Away, Some(bounded(grant - difference)));
                return Said::Refused(None);
            }
            _ => {}
        }
        if let Some(default) = default {
            self.start(default, owner, here);
        }
        let Some(had) = self.tokens else { return Said::Refused(None) };
        let others = |book: &Book| book.holds.iter().filter(|(id, _)| Some(**id) != hold).map(|(_, held)| held).sum();
        let available = bounded(had - self.book.as_ref().map_or(0, others));
        if available < need {
            return Said::Refused(Some(available));
        }
        if let (Some(book), Some(id)) = (&mut self.book, hold) {
            book.holds.insert(id, need);
        }
        Said::Passed { left: Some(available), period: period(&self.book) }
    }

    /// Gives a default to who has neither balance nor object.
    fn start(&mut self, default: i128, owner: &'static str, here: Option<(&'static str, i128)>) {
        let Some(book) = &mut self.book else {
            if self.tokens.is_none() {
                self.tokens = Some(default);
                self.book = Some(Book {
                    owner: Some(owner),
                    fence: (0, "", 0),
                    place: Place::OnDefault,
                    grant: Some(default),
                    unlimited: false,
                    follows: here,
                    used: 0,
                    tokens: Vec::new(),
                    aside: None,
                    holds: BTreeMap::new(),
                });
            }
            return;
        };
        if book.place != Place::Away {
            // Its key was lost: what was spent is spent.
            let rest = book.grant.map_or(default, |grant| default.min(grant - book.used));
            self.tokens.get_or_insert(rest);
            return;
        }
        // What listing it again under its old grant would have come to, and still shall.
        let worth = self.tokens.unwrap_or(0) + book.aside.unwrap_or(0);
        let start = *self.tokens.get_or_insert_with(|| book.aside.map_or(default, |kept| kept.min(default)));
        let spent = book.grant.map_or(default - start, |grant| grant - worth);
        book.aside = Some(bounded(default - start - spent));
        (book.place, book.grant, book.owner) = (Place::OnDefault, Some(default), Some(owner));
        if !same_schedule(book.follows, here) {
            book.follows = here;
        }
    }

    pub(super) fn charge(&mut self, spent: i128, hold: u32, admitted_in: Option<i128>, now: Option<Now>) -> Said {
        self.roll(now);
        if let Some(book) = &mut self.book {
            book.holds.remove(&hold);
            if let (Some((followed, ordinal)), Some(now), Some(then)) = (book.follows, now, admitted_in)
                && (followed, now.mode) == (now.schedule, RefreshMode::Reset)
                && then < ordinal
            {
                return Said::Forgiven;
            }
            book.used = bounded(book.used + spent);
            if book.unlimited {
                return Said::Booked(None);
            }
            if book.place == Place::Away && self.tokens.is_none() {
                book.aside = book.aside.map(|kept| bounded(kept - spent));
            }
        } else if self.tokens.is_none() {
            return Said::Absent;
        }
        self.tokens = self.tokens.map(|had| bounded(had - spent));
        Said::Booked(self.tokens)
    }

    /// Why a write comes too late; nothing if it does not.
    fn late(&self, (owner, term, uid, generation): Writer) -> Option<Said> {
        let book = self.book.as_ref()?;
        let (last, of, newest) = book.fence;
        let late = term < last || (book.owner == Some(owner) && (term, uid) == (last, of) && generation < newest);
        late.then_some(Said::Stale { term: last })
    }

    /// Whose the balance is, if it is not `owner`'s.
    fn stranger(&self, owner: &str) -> Option<Said> {
        match &self.book {
            None => Some(Said::Absent),
            Some(Book { owner: Some(of), .. }) if *of == owner => None,
            Some(book) => Some(Said::Foreign { owner: book.owner.unwrap_or_default().into() }),
        }
    }

    /// Signs what was done since `before` and says whether it was anything; a newer term alone is nothing.
    fn sign(&mut self, (owner, term, uid, generation): Writer, before: &Self) -> bool {
        let Some(book) = &mut self.book else { return false };
        (book.owner, book.fence.1, book.fence.2) = (Some(owner), uid, generation);
        let changed = (self.tokens, &self.book) != (before.tokens, &before.book);
        if let (Some(book), true) = (&mut self.book, changed) {
            book.fence.0 = term;
        }
        changed
    }

    pub(super) fn apply(
        &mut self,
        writer: Writer,
        grant: Option<i128>,
        takeover: bool,
        token: Option<&'static str>,
        now: Option<Now>,
    ) -> Said {
        let here = now.map(|now| (now.schedule, now.ordinal));
        let (owner, _, uid, _) = writer;
        if let Some(late) = self.late(writer) {
            return late;
        }
        if let Some(Book { owner: Some(of), place, .. }) = &self.book
            && (*of != owner && !takeover)
        {
            return Said::Conflict { owner: (*of).into(), lazy: *place == Place::OnDefault };
        }
        let before = self.clone();
        self.roll(now);
        let own = before.book.as_ref().filter(|book| (book.owner, book.fence.1) == (Some(owner), uid));
        let known = own.map(|book| book.tokens.clone()).unwrap_or_default();
        let new = token.filter(|token| !known.iter().take(KNOWN_TOKENS).any(|known| known == token));
        if new.is_some() && own.is_some_and(|book| book.place == Place::Listed) {
            self.boundary(now.map_or(RefreshMode::Reset, |now| now.mode), now.map_or(0, |now| now.cap));
        }
        let book = self.book.get_or_insert_with(|| Book {
            owner: None,
            fence: (writer.1, "", 0),
            place: Place::Listed,
            grant: None,
            unlimited: false,
            follows: here,
            used: 0,
            tokens: Vec::new(),
            aside: None,
            holds: BTreeMap::new(),
        });
        book.tokens = new.into_iter().chain(known).collect();
        if let Some(kept) = book.aside.take() {
            self.tokens = Some(bounded(self.tokens.unwrap_or(0) + kept));
        }
        if let Some(grant) = grant {
            let had = match (self.tokens, book.grant) {
                (Some(had), Some(former)) => bounded(had + grant - former),
                (Some(had), None) => had,
                (None, Some(_)) => bounded(grant - book.used),
                (None, None) => grant,
            };
            self.tokens = Some(if grant == 0 && book.grant != Some(0) { had.min(0) } else { had });
            book.grant = Some(grant);
        }
        book.unlimited = grant.is_none();
        book.place = Place::Listed;
        if !same_schedule(book.follows, here) {
            book.follows = here;
        }
        let used = book.used;
        Said::Applied { changed: self.sign(writer, &before), tokens: self.tokens, used }
    }

    pub(super) fn park(&mut self, writer: Writer, now: Option<Now>) -> Said {
        if let Some(other) = self.late(writer).or_else(|| self.stranger(writer.0)) {
            return other;
        }
        let before = self.clone();
        self.roll(now);
        if let Some(book) = &mut self.book
            && book.place == Place::Listed
        {
            book.place = Place::Away;
            book.unlimited = false;
            book.aside = self.tokens.take().or_else(|| book.grant.map(|grant| bounded(grant - book.used)));
        }
        Said::Left { changed: self.sign(writer, &before) }
    }

    pub(super) fn release(&mut self, owner: &'static str, term: i128) -> Said {
        // No uid and no generation come with it.
        if let Some(late) = self.late((owner, term, "none", 0)) {
            return late;
        }
        match &mut self.book {
            Some(book) if book.owner.is_none() => Said::Left { changed: false },
            Some(book) if book.owner == Some(owner) => {
                (book.owner, book.fence.0) = (None, term);
                Said::Left { changed: true }
            }
            _ => self.stranger(owner).unwrap_or(Said::Absent),
        }
    }

    pub(super) fn delete(&mut self, writer: Writer) -> Said {
        if let Some(other) = self.late(writer).or_else(|| self.stranger(writer.0)) {
            return other;
        }
        *self = Self::default();
        Said::Left { changed: true }
    }

    pub(super) fn query(&mut self, now: Option<Now>) -> Said {
        self.roll(now);
        Said::Balance(self.tokens.unwrap_or(0))
    }

    pub(super) fn set(&mut self, value: i128, now: Option<Now>) -> Said {
        if value != bounded(value) {
            return Said::OutOfRange;
        }
        self.roll(now);
        if let Some(book) = &mut self.book
            && book.place == Place::Away
        {
            book.aside = book.aside.map(|_| 0);
        }
        self.tokens = Some(value);
        Said::Balance(value)
    }

    pub(super) fn add(&mut self, value: i128, now: Option<Now>) -> Said {
        if value != bounded(value) {
            return Said::OutOfRange;
        }
        self.roll(now);
        let sum = self.tokens.unwrap_or(0) + value;
        if sum != bounded(sum) {
            return Said::OutOfRange;
        }
        self.tokens = Some(sum);
        Said::Balance(sum)
    }
}
