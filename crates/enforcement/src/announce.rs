//! What clients are told of their budget, in the headers in which OpenAI tells of rate limits. In: tokens and seconds.
//! Out: names and values. Pure.

/// A budget as a request found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Announcement {
    /// Tokens of a whole period, where that is known.
    pub(crate) limit: Option<i64>,
    /// Tokens that are left.
    pub(crate) remaining: i64,
    /// Seconds until the next period, where there is one.
    pub(crate) reset: Option<i64>,
}

impl Announcement {
    pub(crate) fn headers(self) -> Vec<(&'static str, String)> {
        let Self { limit, remaining, reset } = self;
        let limit = limit.map(|limit| ("x-ratelimit-limit-tokens", limit.to_string()));
        let remaining = Some(("x-ratelimit-remaining-tokens", remaining.max(0).to_string()));
        let reset = reset.map(|reset| ("x-ratelimit-reset-tokens", duration(reset)));
        [limit, remaining, reset].into_iter().flatten().collect()
    }

    /// When a refused client may try again.
    pub(crate) fn retry_after(self) -> Option<(&'static str, String)> {
        self.reset.map(|reset| ("retry-after", reset.to_string()))
    }
}

/// Seconds as OpenAI writes durations, which is as Go does: `45s`, `6m0s`, `24h0m0s`.
fn duration(seconds: i64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_told_as_openai_tells_it() {
        let told = |limit, remaining, reset| {
            let announcement = Announcement { limit, remaining, reset };
            let headers = announcement.headers().into_iter().chain(announcement.retry_after());
            headers.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
        };
        assert_eq!(
            told(Some(150_000), 149_984, Some(360)),
            [
                "x-ratelimit-limit-tokens: 150000",
                "x-ratelimit-remaining-tokens: 149984",
                "x-ratelimit-reset-tokens: 6m0s",
                "retry-after: 360",
            ]
        );
        assert_eq!(told(None, -5, None), ["x-ratelimit-remaining-tokens: 0"]);
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m0s"), (3599, "59m59s"), (3600, "1h0m0s"), (90_061, "25h1m1s")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
