//! One rule of a limit: whose value it looks at, and which rates that value is under. In: a request. Out: the value and
//! its rates; exact values and networks are looked up, only patterns are tried one by one. Pure.

use std::borrow::Cow;
use std::net::IpAddr;

use super::network::{self, Networks};
use super::pattern::{Pattern, PatternError};
use crate::identity;
use crate::paths;
use crate::redis::overrides::Overrides;
use crate::rules::Table;
use crate::steps::Request;
use crate::wire::limit::{By, Consumer, Ip, Match, Rate};

/// A rule, ready to be asked.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(super) source: Source,
    choices: Choices,
    /// The longest value that patterns are tried on; upstream tries any.
    pub(super) tries: usize,
    /// Where values may have limits of their own.
    pub(super) overrides: Option<Overridden>,
}

/// Limits of single values, in the store.
#[derive(Clone, Debug)]
pub(super) struct Overridden {
    pub(super) key: Overrides,
    /// As keys spell it.
    pub(super) source: (&'static str, Box<str>),
}

/// That a value is too long for the patterns it would have to be tried on. It must not pass for one that none matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Where a value is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Header(String),
    Param(String),
    Cookie(String),
    Consumer,
    /// The connection's address.
    Connection,
    AddressIn(String),
}

/// Values and their rates, in order.
#[derive(Clone, Debug, Default)]
struct Choices {
    exact: Table<usize>,
    /// In order, each with its place among all.
    patterns: Vec<(usize, Option<Pattern>)>,
    networks: Networks,
    rates: Vec<Vec<Rate>>,
}

/// Why a match cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    Empty,
    NoNetwork,
    NotForAddresses,
    OnlyForAddresses,
    Pattern(PatternError),
}

/// What a rule found in a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hit<'a> {
    pub(super) value: Vec<u8>,
    pub(super) rates: &'a [Rate],
}

impl Rule {
    pub(super) fn new(source: Source) -> Self {
        Self { source, choices: Choices::default(), overrides: None, tries: usize::MAX }
    }

    /// Adds a limit behind those that are there, at whose place further rates of the same match can be added. One with a
    /// match that is there already is never reached.
    pub(super) fn add(&mut self, matches: &Match, rate: Rate) -> Result<usize, Unusable> {
        let Choices { exact, patterns, networks, rates } = &mut self.choices;
        let place = rates.len();
        let address = matches!(self.source, Source::Connection | Source::AddressIn(_));
        match matches {
            Match::Exact(text) | Match::Cidr(text) if text.is_empty() => return Err(Unusable::Empty),
            Match::Cidr(_) if !address => return Err(Unusable::OnlyForAddresses),
            Match::Cidr(text) if networks.add(text, place) => {}
            Match::Cidr(_) => return Err(Unusable::NoNetwork),
            _ if address => return Err(Unusable::NotForAddresses),
            Match::Exact(text) => {
                exact.entry(text.as_bytes().into()).or_insert(place);
            }
            Match::Pattern(text) => patterns.push((place, Some(Pattern::new(text).map_err(Unusable::Pattern)?))),
            Match::Any => patterns.push((place, None)),
        }
        rates.push(vec![rate]);
        Ok(place)
    }

    /// Adds a rate to those of a match that is there: they apply together.
    pub(super) fn add_rate(&mut self, place: usize, rate: Rate) {
        if let Some(rates) = self.choices.rates.get_mut(place) {
            rates.push(rate);
        }
    }

    /// What its patterns take, compiled.
    pub(super) fn size(&self) -> usize {
        self.choices.patterns.iter().filter_map(|(_, pattern)| pattern.as_ref()).map(Pattern::size).sum()
    }

    /// Whether so many rates have one match.
    pub(super) fn has_more_of_a_match_than(&self, most: usize) -> bool {
        self.choices.rates.iter().any(|rates| rates.len() > most)
    }

    /// Whether there is no limit in it.
    pub(super) fn is_empty(&self) -> bool {
        self.choices.rates.is_empty()
    }

    /// Upstream's name of such a rule.
    pub(super) fn limiter(&self) -> &'static str {
        self.source.limiter(self.choices.patterns.is_empty())
    }

    /// The value of the request and the rates it is under; nothing if it has none, or one without limits.
    pub(super) fn hit(&self, request: &dyn Request) -> Result<Option<Hit<'_>>, TooLong> {
        let value = match &self.source {
            Source::Header(name) => first(request, name).map(Cow::Borrowed),
            Source::Consumer => first(request, identity::HEADER).map(Cow::Borrowed),
            Source::Param(name) => paths::field(paths::split(request.path()).1, name),
            Source::Cookie(name) => cookie(&request.header("cookie"), name).map(Cow::Borrowed),
            Source::Connection => return Ok(request.source().and_then(|source| self.of_address(&source))),
            Source::AddressIn(name) => {
                let list = first(request, name).map(<[u8]>::trim_ascii);
                let address = list.and_then(|list| list.split(|byte| *byte == b',').next());
                return Ok(address.and_then(|address| self.of_address(address)));
            }
        };
        let Some(value) = value else { return Ok(None) };
        let place = self.choices.place(&value, self.tries)?;
        Ok(self.rates(place).map(|rates| Hit { rates, value: value.into_owned() }))
    }

    fn of_address(&self, address: &[u8]) -> Option<Hit<'_>> {
        let address: IpAddr = network::address(address)?;
        let rates = self.rates(self.choices.networks.find(address))?;
        Some(Hit { rates, value: address.to_string().into_bytes() })
    }

    /// Where values may have limits of their own, all are asked for.
    fn rates(&self, place: Option<usize>) -> Option<&[Rate]> {
        match place {
            Some(place) => self.choices.rates.get(place).map(Vec::as_slice),
            None => self.overrides.as_ref().map(|_| &[][..]),
        }
    }
}

impl Source {
    /// Upstream's name of a rule that looks there: it tells rules of exact values from those of all others.
    pub(super) const fn limiter(&self, only_exact: bool) -> &'static str {
        match (self, only_exact) {
            (Self::Header(_), true) => "limit_by_header",
            (Self::Header(_), false) => "limit_by_per_header",
            (Self::Param(_), true) => "limit_by_param",
            (Self::Param(_), false) => "limit_by_per_param",
            (Self::Cookie(_), true) => "limit_by_cookie",
            (Self::Cookie(_), false) => "limit_by_per_cookie",
            (Self::Consumer, true) => "limit_by_consumer",
            (Self::Consumer, false) => "limit_by_per_consumer",
            (Self::Connection | Self::AddressIn(_), _) => "limit_by_per_ip",
        }
    }

    /// What stands in keys for whose value it is.
    pub(super) fn key(&self) -> Cow<'_, str> {
        match self {
            Self::Header(name) | Self::Param(name) | Self::Cookie(name) => Cow::Borrowed(name),
            Self::Consumer => Cow::Borrowed(identity::HEADER),
            Self::Connection => Cow::Borrowed("from-remote-addr"),
            Self::AddressIn(header) => Cow::Owned(format!("from-header-{header}")),
        }
    }

    /// Whether the values may be credentials.
    pub(super) fn is_secret(&self) -> bool {
        !self.is_identity() && !matches!(self, Self::Connection | Self::AddressIn(_))
    }

    /// The name in it, if it needs one.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Header(name) | Self::Param(name) | Self::Cookie(name) | Self::AddressIn(name) => Some(name),
            Self::Consumer | Self::Connection => None,
        }
    }

    /// Whether it is who calls, under whichever name.
    pub(super) fn is_identity(&self) -> bool {
        match self {
            Self::Consumer => true,
            Self::Header(name) => name.eq_ignore_ascii_case(identity::HEADER),
            Self::Param(_) | Self::Cookie(_) | Self::Connection | Self::AddressIn(_) => false,
        }
    }
}

impl From<By> for Source {
    fn from(by: By) -> Self {
        match by {
            By::Header(name) => Self::Header(name),
            By::Param(name) => Self::Param(name),
            By::Cookie(name) => Self::Cookie(name),
            By::Consumer(Consumer {}) => Self::Consumer,
            By::Ip(Ip { from_header: None }) => Self::Connection,
            By::Ip(Ip { from_header: Some(name) }) => Self::AddressIn(name),
        }
    }
}

impl Choices {
    fn place(&self, value: &[u8], tries: usize) -> Result<Option<usize>, TooLong> {
        let exact = self.exact.get(value).copied();
        for (place, pattern) in &self.patterns {
            if exact.is_some_and(|exact| exact < *place) {
                break;
            }
            match pattern {
                Some(_) if value.len() > tries => return Err(TooLong),
                Some(pattern) if !pattern.matches(value) => {}
                Some(_) | None => return Ok(Some(*place)),
            }
        }
        Ok(exact)
    }
}

/// The first value of a header.
fn first<'a>(request: &'a dyn Request, name: &str) -> Option<&'a [u8]> {
    request.header(name).first().copied()
}

/// The value of the first cookie of a name; one that is empty counts as none.
fn cookie<'a>(headers: &[&'a [u8]], name: &str) -> Option<&'a [u8]> {
    let mut pairs = headers.iter().flat_map(|header| header.split(|byte| *byte == b';'));
    let value = pairs.find_map(|pair| {
        let pair = pair.trim_ascii();
        let at = memchr::memchr(b'=', pair)?;
        (&pair[..at] == name.as_bytes()).then(|| &pair[at + 1..])
    });
    value.filter(|value| !value.is_empty())
}

impl Unusable {
    pub(super) const fn problem(self) -> &'static str {
        match self {
            Self::Empty => "is empty",
            Self::NoNetwork => "is neither an address nor a network",
            Self::NotForAddresses => "is not for addresses: they are matched by network",
            Self::OnlyForAddresses => "is only for addresses",
            Self::Pattern(error) => error.problem(),
        }
    }
}
