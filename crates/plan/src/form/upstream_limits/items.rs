//! Which items of upstream's limits are in each generation of its module, and which limits no items can say there: a value
//! must come under the same limits as natively. Pure.

use enforcement::{
    limit::pattern::Pattern,
    values::RULES_MAX,
    wire::{
        limit::{By, Consumer, Dialect, Ip, Limit as WireLimit, Match, Rule as WireRule},
        upstream_limit::{Item, Key, Limiter, Rate},
    },
};

/// What a generation cannot say; rules and their limits by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsayable {
    /// A match has more limits than one before it that may match the same value: in later items that value would fall to
    /// the later match.
    Widened { rule: usize },
    /// So many items.
    Items(usize),
    /// Limits for all requests beside rules.
    Beside,
    /// Several rules, of which only the first that finds a value of its own would be enforced.
    Rules,
    /// A second limit of a match.
    Second { rule: usize, limit: usize },
    /// A value behind a match that it has itself: it would be looked up before.
    Behind { rule: usize, limit: usize },
}

/// What of these matches, by rule, one generation cannot say. `global`: whether there are limits for all requests, too.
pub(super) fn unsayable(dialect: Dialect, global: bool, rules: &[Vec<&Match>]) -> Vec<Unsayable> {
    match dialect {
        Dialect::V1 => {
            let beside = (global && !rules.is_empty()).then_some(Unsayable::Beside);
            let several = (rules.len() > 1).then_some(Unsayable::Rules);
            let limits = rules.iter().enumerate().flat_map(|(rule, matches)| one_by_one(rule, matches));
            beside.into_iter().chain(several).chain(limits).collect()
        }
        Dialect::V2 => {
            let groups: Vec<_> = rules.iter().map(|matches| groups(matches, |matches| matches)).collect();
            let widened = groups.iter().enumerate().filter(|(_, groups)| is_widened(groups));
            let widened = widened.map(|(rule, _)| Unsayable::Widened { rule });
            let items = groups.iter().map(|groups| longest(groups)).sum();
            widened.chain((items > RULES_MAX).then_some(Unsayable::Items(items))).collect()
        }
    }
}

/// Where there is one item for values and one for everything else.
fn one_by_one<'a>(rule: usize, matches: &'a [&Match]) -> impl Iterator<Item = Unsayable> + 'a {
    matches.iter().enumerate().filter_map(move |(limit, one)| {
        let before = &matches[..limit];
        if before.contains(one) {
            return Some(Unsayable::Second { rule, limit });
        }
        let Match::Exact(value) = one else { return None };
        let is_behind = before.iter().any(|before| may_match(before, value));
        is_behind.then_some(Unsayable::Behind { rule, limit })
    })
}

fn may_match(matches: &Match, value: &str) -> bool {
    match matches {
        Match::Pattern(pattern) => Pattern::new(pattern).map_or(true, |pattern| pattern.matches(value.as_bytes())),
        Match::Any => true,
        Match::Exact(_) | Match::Cidr(_) => false,
    }
}

/// In the first generation, which enforces the first item that has a limit for a request, values before all else; in the
/// second, which enforces all of them, the first limits of each match make one item, the second ones another.
pub(super) fn items(dialect: Dialect, rule: &WireRule) -> Vec<Item> {
    match dialect {
        Dialect::V1 => {
            let item = |values: bool| {
                let limits = rule.limits.iter().filter(|limit| is_exact(&limit.matches) == values);
                let limit_keys = limits.filter_map(|limit| key(limit, values)).collect();
                Item { limiter: limiter(&rule.by, values), limit_keys }
            };
            [true, false].map(item).into_iter().filter(|item| !item.limit_keys.is_empty()).collect()
        }
        Dialect::V2 => {
            let groups = groups(&rule.limits, |limit| &limit.matches);
            let values = rule.limits.iter().all(|limit| is_exact(&limit.matches));
            let limiter = limiter(&rule.by, values);
            let item = |nth: usize| {
                let keys = groups.iter().filter_map(|group| key(group.get(nth)?, values));
                Item { limiter: limiter.clone(), limit_keys: keys.collect() }
            };
            (0..longest(&groups)).map(item).filter(|item| !item.limit_keys.is_empty()).collect()
        }
    }
}

/// The limits of each match, in the order in which matches are tried.
fn groups<T>(limits: &[T], of: impl Fn(&T) -> &Match) -> Vec<Vec<&T>> {
    let mut groups: Vec<Vec<&T>> = Vec::new();
    for limit in limits {
        match groups.iter_mut().find(|group| of(group[0]) == of(limit)) {
            Some(group) => group.push(limit),
            None => groups.push(vec![limit]),
        }
    }
    groups
}

/// How many items they make: one for each limit that the same value has.
fn longest<T>(groups: &[Vec<&T>]) -> usize {
    groups.iter().map(Vec::len).max().unwrap_or(0)
}

fn is_widened(groups: &[Vec<&&Match>]) -> bool {
    let is_exact = |group: &[&&Match]| group.first().is_some_and(|first| is_exact(first));
    groups.iter().enumerate().any(|(later, group)| {
        let mut before = groups[..later].iter().filter(|earlier| !(is_exact(earlier) && is_exact(group)));
        before.any(|earlier| earlier.len() < group.len())
    })
}

const fn is_exact(matches: &Match) -> bool {
    matches!(matches, Match::Exact(_))
}

fn limiter(by: &By, values: bool) -> Limiter {
    match (by, values) {
        (By::Header(name), true) => Limiter::Header(name.clone()),
        (By::Header(name), false) => Limiter::PerHeader(name.clone()),
        (By::Param(name), true) => Limiter::Param(name.clone()),
        (By::Param(name), false) => Limiter::PerParam(name.clone()),
        (By::Cookie(name), true) => Limiter::Cookie(name.clone()),
        (By::Cookie(name), false) => Limiter::PerCookie(name.clone()),
        (By::Consumer(Consumer {}), true) => Limiter::Consumer(String::new()),
        (By::Consumer(Consumer {}), false) => Limiter::PerConsumer(String::new()),
        (By::Ip(Ip { from_header: None }), _) => Limiter::PerIp("from-remote-addr".to_owned()),
        (By::Ip(Ip { from_header: Some(name) }), _) => Limiter::PerIp(format!("from-header-{name}")),
    }
}

/// Nothing for a window that upstream has not. `values`: whether keys are values; otherwise they are patterns.
fn key(limit: &WireLimit, values: bool) -> Option<Key> {
    let rate = Rate::new(limit.tokens, limit.window_seconds)?;
    let key = match &limit.matches {
        Match::Exact(value) if values => value.clone(),
        // What ends a quotation is said outside of it.
        Match::Exact(value) => format!(r"regexp:^\Q{}\E$", value.replace(r"\E", r"\E\\E\Q")),
        Match::Pattern(pattern) => format!("regexp:{pattern}"),
        Match::Any => "*".to_owned(),
        Match::Cidr(network) => network.clone(),
    };
    Some(Key { key, rate })
}
