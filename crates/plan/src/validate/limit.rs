//! Token rate limits: an AITokenRateLimit in, refusals by field out. Pure.

use std::{collections::HashSet, net::IpAddr};

use api::{
    AiTokenRateLimit, AiTokenRateLimitSpec, By, ByConsumer, ByIp, LIMITS_MAX, Limit, LimitedModel, MESSAGE_MAX_LENGTH,
    Match, OVERRIDES_FROM_MAX, OverridesFrom, OverridesKind, RULE_NAME_CHOICE_MAX_LENGTH, Rate, Rejection, Rule,
    SOURCE_MAX_LENGTH, VALUE_MAX_LENGTH,
};
use enforcement::{
    limit::pattern::Pattern,
    values::{
        MAX_AMOUNT, PATTERNS_SIZE_MAX, REJECTION_CODE_MAX, REJECTION_CODE_MIN, RULES_MAX, SAME_MATCH_MAX,
        WINDOW_SECONDS_MAX, is_rule_name,
    },
};

use super::{Check, Refusal, Refused};

/// # Errors
/// Every field that is refused, in the order of the spec.
pub fn validate_limit(object: &AiTokenRateLimit) -> Result<(), Vec<Refusal>> {
    let AiTokenRateLimitSpec {
        target_refs,
        allow_narrower,
        store_ref,
        rule_name,
        global,
        rules,
        models,
        rejection,
        paths,
        admission,
        reservation,
        mode: _,
        on_store_failure: _,
        on_missing_usage: _,
        unlisted_paths: _,
        rate_limit_headers: _,
        errors: _,
        include_usage: _,
        warn_at,
    } = &object.spec;
    let mut check = Check::default();
    check.metadata(&object.metadata);
    check.targets(target_refs);
    check.narrower(*allow_narrower, target_refs);
    if let Some(store) = store_ref {
        check.name("spec.storeRef.name", &store.name);
    }
    if let Some(name) = rule_name {
        check.text(
            "spec.ruleName",
            name,
            RULE_NAME_CHOICE_MAX_LENGTH,
            |name| is_rule_name(name.as_bytes()) && !name.contains('.'),
            "must be visible ASCII characters without braces and dots",
        );
    }
    let limits_nothing = |model: &LimitedModel| model.global.is_empty() && model.rules.is_empty();
    if global.is_empty() && rules.is_empty() && models.iter().all(limits_nothing) {
        let message = "at least one of global and rules must be given, here or for a model";
        check.refuse("spec.rules", Refused::Required, message);
    }
    check.global("spec.global", global);
    check.rules("spec.rules", rules);
    check.limited_models(models);
    check.patterns(rules.iter().chain(models.iter().flat_map(|model| &model.rules)));
    if let Some(Rejection { code, message }) = rejection {
        if code.is_some_and(|code| !(REJECTION_CODE_MIN..=REJECTION_CODE_MAX).contains(&code)) {
            let message = format!("must be {REJECTION_CODE_MIN} to {REJECTION_CODE_MAX}");
            check.refuse("spec.rejection.code", Refused::OutOfRange, message);
        }
        if let Some(message) = message.as_deref().filter(|message| !message.is_empty()) {
            check.free("spec.rejection.message", message, MESSAGE_MAX_LENGTH);
        }
    }
    if let Some(paths) = paths {
        check.paths(paths);
    }
    check.warn_at(*warn_at);
    check.admission(*admission, *reservation);
    check.done()
}

/// The seconds of `30s`, `1m`, `2h` or `1d`; nothing for what is none of these, or longer than a month.
pub(crate) fn seconds(window: &str) -> Option<u32> {
    written(window)?.filter(|seconds| (1..=WINDOW_SECONDS_MAX).contains(seconds))
}

/// Nothing inside where it is too long to be counted.
fn written(window: &str) -> Option<Option<u32>> {
    let unit = match window.bytes().last()? {
        b's' => 1,
        b'm' => 60,
        b'h' => 3_600,
        b'd' => 86_400,
        _ => return None,
    };
    let digits = &window[..window.len() - 1];
    let plain =
        (1..=7).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    plain.then(|| digits.parse::<u32>().ok()?.checked_mul(unit))
}

impl Check {
    pub(super) fn global(&mut self, field: &str, rates: &[Rate]) {
        if rates.len() > RULES_MAX {
            let message = format!("has {} limits, at most {RULES_MAX} may be", rates.len());
            self.refuse(field, Refused::TooMany, message);
        }
        let mut seen = HashSet::new();
        for (index, Rate { tokens, window }) in rates.iter().enumerate() {
            self.rate(&format!("{field}[{index}]"), *tokens, window);
            if let Some(seconds) = seconds(window)
                && !seen.insert(seconds)
            {
                self.refuse(field, Refused::Duplicate, format!("the window {window} is there already"));
            }
        }
    }

    pub(super) fn rules(&mut self, all: &str, rules: &[Rule]) {
        if rules.len() > RULES_MAX {
            let message = format!("has {} rules, at most {RULES_MAX} may be", rules.len());
            self.refuse(all, Refused::TooMany, message);
        }
        for (index, Rule { by, limits, overrides_from }) in rules.iter().enumerate() {
            let field = format!("{all}[{index}]");
            self.by(&format!("{field}.by"), by);
            if rules[..index].iter().any(|other| other.by == *by) {
                let message = "there is a rule by this already: put its limits there";
                self.refuse(all, Refused::Duplicate, message);
            }
            self.limits(&format!("{field}.limits"), by, (limits, overrides_from.is_empty()));
            self.overrides(&format!("{field}.overridesFrom"), by, overrides_from);
        }
        let sources = rules.iter().map(|rule| rule.overrides_from.len()).sum::<usize>();
        if sources > OVERRIDES_FROM_MAX {
            let message = format!("have {sources} overridesFrom, at most {OVERRIDES_FROM_MAX} may be");
            self.refuse("spec.rules", Refused::TooMany, message);
        }
    }

    fn overrides(&mut self, field: &str, by: &By, sources: &[OverridesFrom]) {
        let credentials = by.header.is_some() || by.param.is_some() || by.cookie.is_some();
        if credentials && sources.iter().any(|source| source.kind != OverridesKind::Secret) {
            let message = "values of headers, parameters and cookies may be credentials, which come from Secrets only";
            self.refuse(field, Refused::Excluded, message);
        }
        for (index, source) in sources.iter().enumerate() {
            self.name(&format!("{field}[{index}].name"), &source.name);
            if sources[..index].contains(source) {
                self.refuse(format!("{field}[{index}]"), Refused::Duplicate, "is there already");
            }
        }
    }

    /// A request may be tried on all of them.
    fn patterns<'a>(&mut self, rules: impl Iterator<Item = &'a Rule>) {
        let patterns = rules.flat_map(|rule| &rule.limits).filter_map(|limit| limit.matches.pattern.as_deref());
        let size: usize = patterns.filter_map(|pattern| Pattern::new(pattern).ok()).map(|pattern| pattern.size()).sum();
        if size > PATTERNS_SIZE_MAX {
            let message = format!(
                "the patterns take {size} bytes when they are compiled, with those of models, and at most \
                 {PATTERNS_SIZE_MAX} may be: use fewer, or fewer repetitions and classes in them"
            );
            self.refuse("spec.rules", Refused::TooMany, message);
        }
    }

    fn by(&mut self, field: &str, by: &By) {
        let By { header, param, cookie, consumer, ip } = by;
        let given = [header.is_some(), param.is_some(), cookie.is_some(), consumer.is_some(), ip.is_some()];
        if given.into_iter().filter(|given| *given).count() != 1 {
            let message = "exactly one of header, param, cookie, consumer and ip must be given";
            self.refuse(field, Refused::Excluded, message);
        }
        let from_header = ip.as_ref().and_then(|ByIp { from_header }| from_header.as_ref());
        let (Some(ByConsumer {}) | None) = consumer;
        for (name, text) in [("header", header), ("param", param), ("cookie", cookie)] {
            if let Some(text) = text {
                self.source(&format!("{field}.{name}"), text);
            }
        }
        if let Some(text) = from_header {
            self.source(&format!("{field}.ip.fromHeader"), text);
        }
    }

    fn source(&mut self, field: &str, text: &str) {
        let message = "must be visible ASCII characters without braces";
        self.text(field, text, SOURCE_MAX_LENGTH, |text| is_rule_name(text.as_bytes()), message);
    }

    fn limits(&mut self, field: &str, by: &By, (limits, alone): (&[Limit], bool)) {
        if limits.is_empty() && alone {
            self.refuse(field, Refused::Required, "must have at least one limit where there is no overridesFrom");
        } else if limits.len() > LIMITS_MAX {
            let message = format!("has {} limits, at most {LIMITS_MAX} may be", limits.len());
            self.refuse(field, Refused::TooMany, message);
        }
        if limits.iter().any(|limit| limit.matches.cidr.is_some() != by.ip.is_some()) {
            let message = "addresses are matched by cidr, and by nothing else; cidr matches nothing but addresses";
            self.refuse(field, Refused::Excluded, message);
        }
        if limits
            .iter()
            .any(|limit| limits.iter().filter(|other| other.matches == limit.matches).count() > SAME_MATCH_MAX)
        {
            let message = format!(
                "a match has more than {SAME_MATCH_MAX} limits: each request that it matches would ask for all"
            );
            self.refuse(field, Refused::TooMany, message);
        }
        let mut seen = HashSet::new();
        for (index, Limit { matches, tokens, window }) in limits.iter().enumerate() {
            let at = format!("{field}[{index}]");
            self.rate(&at, *tokens, window);
            self.matches(&format!("{at}.match"), matches);
            let Match { exact, pattern, any, cidr } = matches;
            if let Some(seconds) = seconds(window)
                && !seen.insert((exact, pattern, any, cidr, seconds))
            {
                self.refuse(at, Refused::Duplicate, "this match has a limit of that window already");
            }
        }
    }

    fn matches(&mut self, field: &str, matches: &Match) {
        let Match { exact, pattern, any, cidr } = matches;
        let given = [exact.is_some(), pattern.is_some(), any.is_some(), cidr.is_some()];
        if given.into_iter().filter(|given| *given).count() != 1 {
            self.refuse(field, Refused::Excluded, "exactly one of exact, pattern, any and cidr must be given");
        }
        if let Some(value) = exact {
            self.free(&format!("{field}.exact"), value, VALUE_MAX_LENGTH);
        }
        if let Some(pattern) = pattern
            && self.free(&format!("{field}.pattern"), pattern, VALUE_MAX_LENGTH)
            && let Err(error) = Pattern::new(pattern)
        {
            self.refuse(format!("{field}.pattern"), Refused::Characters, error.problem());
        }
        if *any == Some(false) {
            self.refuse(format!("{field}.any"), Refused::Excluded, "must be true, or left out");
        }
        if let Some(cidr) = cidr
            && !is_network(cidr)
        {
            let message = "must be an address or a network, as 10.0.0.0/8";
            self.refuse(format!("{field}.cidr"), Refused::Characters, message);
        }
    }

    fn rate(&mut self, field: &str, tokens: i64, window: &str) {
        if !(1..=MAX_AMOUNT).contains(&tokens) {
            self.refuse(format!("{field}.tokens"), Refused::OutOfRange, format!("must be 1 to {MAX_AMOUNT} tokens"));
        }
        let field = format!("{field}.window");
        match written(window) {
            None => {
                self.refuse(field, Refused::Characters, "must be a number and s, m, h or d, as in 30s or 1m");
            }
            Some(Some(1..=WINDOW_SECONDS_MAX)) => {}
            Some(_) => self.refuse(field, Refused::OutOfRange, "must be 1s to 31d"),
        }
    }

    /// Text that may be anything but what the gateway would replace, or what breaks a line. Whether it is.
    fn free(&mut self, field: &str, text: &str, max: usize) -> bool {
        let length = text.chars().count();
        if !(1..=max).contains(&length) {
            self.length(field, length, max);
        } else if text.bytes().any(|byte| byte.is_ascii_control()) {
            self.refuse(field, Refused::Characters, "must not have control characters");
        } else if text.contains("${") {
            self.refuse(field, Refused::Characters, "must not have ${, which the gateway would replace");
        } else {
            return true;
        }
        false
    }
}

/// `10.0.0.0/8` or `10.0.0.1`, of either family; without bits behind the network's length, and no IPv4 address as IPv6
/// writes it: the API server takes neither.
fn is_network(text: &str) -> bool {
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let plain =
        |length: &str| length.bytes().all(|byte| byte.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
    address.to_canonical() == address
        && length.is_none_or(|length| plain(length) && length.parse::<u32>().is_ok_and(|length| length <= whole))
}
