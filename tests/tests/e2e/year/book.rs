//! What every balance must be: an account kept by whoever reads docs/refresh.md, one boundary at a time. It shares
//! nothing with the Lua library.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Reset,
    Add,
    CarryOver(i64),
}

/// A refresh as it is declared or programmed: which schedule (by its index), and the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refresh {
    pub(super) schedule: usize,
    pub(super) mode: Mode,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    pub(super) balance: i64,
    pub(super) used: i64,
    grant: i64,
    /// The schedule and how many of its boundaries had passed.
    follows: Option<(usize, usize)>,
    token: Option<u32>,
    listed: bool,
}

impl Book {
    /// How many boundaries of this schedule it has seen pass, if it follows it.
    pub(super) fn period(&self, schedule: Option<usize>) -> Option<usize> {
        self.follows.filter(|(follows, _)| Some(*follows) == schedule).map(|(_, passed)| passed)
    }

    fn boundary(&mut self, mode: Mode) {
        self.balance = match mode {
            Mode::Reset => self.grant,
            Mode::Add => self.balance + self.grant,
            Mode::CarryOver(cap) => (self.balance.max(0) + self.grant).min(cap),
        };
        self.used = 0;
    }

    /// So many boundaries of the refresh's schedule have passed, as far as its table tells.
    pub(super) fn roll(&mut self, refresh: Option<Refresh>, passed: usize) {
        let Some(Refresh { schedule, mode }) = refresh else { return };
        let Some((follows, seen)) =
            self.follows.as_mut().filter(|(follows, seen)| *follows == schedule && *seen < passed)
        else {
            return;
        };
        let (_, missed) = (*follows, passed - *seen);
        *seen = passed;
        (0..missed).for_each(|_| self.boundary(mode));
    }

    /// The object is declared so, and rolled.
    pub(super) fn declare(&mut self, grant: i64, refresh: Option<Refresh>, passed: usize, token: Option<u32>) {
        if self.listed && token.is_some() && token != self.token {
            self.boundary(refresh.map_or(Mode::Reset, |refresh| refresh.mode));
        }
        self.token = token;
        self.balance += grant - if self.listed { self.grant } else { self.balance };
        (self.grant, self.listed) = (grant, true);
        match refresh {
            None => self.follows = None,
            Some(refresh) if self.period(Some(refresh.schedule)).is_none() => {
                self.follows = Some((refresh.schedule, passed));
            }
            Some(_) => {}
        }
    }

    /// `admitted`: the period in which it was admitted.
    pub(super) fn charge(&mut self, tokens: i64, admitted: Option<usize>, refresh: Option<Refresh>) {
        let period = self.period(refresh.map(|refresh| refresh.schedule));
        let forgiven = admitted.zip(period).is_some_and(|(admitted, now)| admitted < now)
            && refresh.is_some_and(|refresh| refresh.mode == Mode::Reset);
        if !forgiven {
            self.balance -= tokens;
            self.used += tokens;
        }
    }
}
