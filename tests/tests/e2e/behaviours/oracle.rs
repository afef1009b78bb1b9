//! What a balance should be, told once more in memory: boundary by boundary, in wide integers, without Redis, Lua
//! or the code under test. Only the generated sequences of `comparing` use it.

use std::collections::BTreeMap;

use enforcement::wire::RefreshMode;

const MOST: i128 = (1 << 53) - 1;

/// The period it is, as a caller says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) schedule: &'static str,
    pub(super) ordinal: i128,
    pub(super) mode: RefreshMode,
    pub(super) cap: i128,
}

/// One consumer.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    pub(super) tokens: Option<i128>,
    pub(super) book: Option<Book>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Book {
    pub(super) owner: &'static str,
    pub(super) fence: (i128, &'static str, i128),
    pub(super) grant: Option<i128>,
    pub(super) unlimited: bool,
    pub(super) follows: Option<(&'static str, i128)>,
    pub(super) used: i128,
    pub(super) aside: Option<i128>,
    pub(super) lazy: bool,
    pub(super) holds: BTreeMap<u32, i128>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Passed { left: Option<i128>, period: Option<i128> },
    Refused(Option<i128>),
    Booked(Option<i128>),
    Forgiven,
    Absent,
    Applied { changed: bool, tokens: Option<i128>, used: i128 },
    Conflict { owner: String, lazy: bool },
    Stale,
    Balance(i128),
    OutOfRange,
}

fn bounded(amount: i128) -> i128 {
    amount.clamp(-MOST, MOST)
}

impl Account {
    /// The consumer was removed: its tokens are kept aside.
    fn is_parked(&self) -> bool {
        self.tokens.is_none() && self.book.as_ref().is_some_and(|book| book.aside.is_some() && !book.lazy)
    }

    fn roll(&mut self, now: Option<Now>) {
        let parked = self.is_parked();
        let (Some(now), Some(book)) = (now, &mut self.book) else { return };
        while let Some((schedule, ordinal)) = book.follows {
            if schedule != now.schedule || ordinal >= now.ordinal {
                return;
            }
            book.follows = Some((schedule, ordinal + 1));
            book.used = 0;
            if let (Some(grant), false) = (book.grant, parked) {
                let had = self.tokens.unwrap_or(0);
                self.tokens = Some(match now.mode {
                    RefreshMode::Reset => grant,
                    RefreshMode::Add => bounded(had + grant),
                    RefreshMode::CarryOver => now.cap.min(had.max(0) + grant),
                });
            }
            if now.mode == RefreshMode::Reset {
                book.holds.clear();
                book.aside = parked.then(|| book.grant.unwrap_or(0));
            }
        }
    }

    pub(super) fn check(
        &mut self,
        need: i128,
        hold: Option<u32>,
        default: Option<(i128, &'static str)>,
        now: Option<Now>,
    ) -> Said {
        let here = now.map(|now| (now.schedule, now.ordinal));
        let edited = match (&mut self.book, default) {
            (Some(book), Some((default, owner))) if book.lazy && book.owner == owner => {
                if book.follows.map(|(name, _)| name) != here.map(|(name, _)| name) {
                    book.follows = here;
                }
                Some(default)
            }
            _ => None,
        };
        self.roll(now);
        let period = |book: &Option<Book>| match (book.as_ref().and_then(|book| book.follows), here) {
            (Some((followed, ordinal)), Some((asked, _))) if followed == asked => Some(ordinal),
            _ => None,
        };
        if self.book.as_ref().is_some_and(|book| book.unlimited) {
            return Said::Passed { left: None, period: period(&self.book) };
        }
        if let (Some(book), Some(default)) = (&mut self.book, edited)
            && let Some(grant) = book.grant.replace(default)
        {
            self.tokens = self.tokens.map(|had| bounded(had + default - grant));
        }
        let parked = self.is_parked();
        let had = match (self.tokens, default) {
            (Some(had), _) => had,
            (None, None) => return Said::Refused(None),
            (None, Some((default, owner))) => match &mut self.book {
                None => {
                    let fence = (0, "", 0);
                    let (grant, holds) = (Some(default), BTreeMap::new());
                    let (unlimited, lazy) = (false, true);
                    self.book =
                        Some(Book { owner, fence, grant, unlimited, follows: here, used: 0, aside: None, lazy, holds });
                    default
                }
                Some(book) if parked => {
                    let kept = book.aside.unwrap_or(0);
                    let start = kept.min(default);
                    // Spent before, and to be remembered when the consumer is listed again.
                    let older = book.grant.map_or(0, |grant| (grant - kept) - (default - start));
                    (book.aside, book.grant) = (Some(bounded(-older)), Some(default));
                    (book.lazy, book.owner) = (true, owner);
                    if book.follows.map(|(name, _)| name) != here.map(|(name, _)| name) {
                        book.follows = here;
                    }
                    start
                }
                Some(book) => book.grant.map_or(default, |grant| default.min(grant - book.used)),
            },
        };
        self.tokens = Some(had);
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

    pub(super) fn charge(&mut self, spent: i128, hold: u32, admitted_in: Option<i128>, now: Option<Now>) -> Said {
        self.roll(now);
        let parked = self.is_parked();
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
            if parked {
                book.aside = book.aside.map(|kept| bounded(kept - spent));
            }
        } else if self.tokens.is_none() {
            return Said::Absent;
        }
        self.tokens = self.tokens.map(|had| bounded(had - spent));
        Said::Booked(self.tokens)
    }

    pub(super) fn apply(
        &mut self,
        owner: &'static str,
        fence: (i128, &'static str, i128),
        grant: Option<i128>,
        takeover: bool,
        now: Option<Now>,
    ) -> Said {
        let here = now.map(|now| (now.schedule, now.ordinal));
        if let Some(book) = &self.book {
            let older = book.fence;
            if fence.0 < older.0
                || (book.owner == owner && (fence.0, fence.1) == (older.0, older.1) && fence.2 < older.2)
            {
                return Said::Stale;
            }
            if book.owner != owner && !takeover {
                return Said::Conflict { owner: book.owner.into(), lazy: book.lazy };
            }
        }
        let before = (self.tokens, self.book.clone());
        self.roll(now);
        let former = self.book.as_ref().and_then(|book| book.grant);
        let used = self.book.as_ref().map_or(0, |book| book.used);
        if let Some(kept) = self.book.as_mut().and_then(|book| book.aside.take()) {
            self.tokens = Some(bounded(self.tokens.unwrap_or(0) + kept));
        }
        if let Some(grant) = grant {
            let had = match (self.tokens, former) {
                (Some(had), Some(former)) => bounded(had + grant - former),
                (Some(had), None) => had,
                (None, Some(_)) => bounded(grant - used),
                (None, None) => grant,
            };
            self.tokens = Some(if grant == 0 && former != Some(0) { had.min(0) } else { had });
        }
        let same =
            self.book.as_ref().is_some_and(|book| book.follows.map(|(name, _)| name) == here.map(|(name, _)| name));
        let follows = if same { self.book.as_ref().and_then(|book| book.follows) } else { here };
        let holds = self.book.take().map(|book| book.holds).unwrap_or_default();
        let unlimited = grant.is_none();
        let grant = grant.or(former);
        let mut book = Book { owner, fence, grant, unlimited, follows, used, aside: None, lazy: false, holds };
        // A newer term alone is not remembered.
        let term = before.1.as_ref().map_or(fence.0, |book| book.fence.0);
        let newer = std::mem::replace(&mut book.fence.0, term);
        let changed = before != (self.tokens, Some(book.clone()));
        if changed {
            book.fence.0 = newer;
        }
        self.book = Some(book);
        Said::Applied { changed, tokens: self.tokens, used }
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
            && !book.lazy
        {
            book.aside = None;
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

    /// What the controller does when the consumer is not listed any more.
    pub(super) fn park(&mut self) {
        if let Some(book) = &mut self.book
            && let Some(had) = self.tokens.take()
        {
            book.aside = Some(had);
        }
    }
}
