//! Which rule a request is under. In: the matchers of a configuration, in the order of precedence; then a
//! request's route, cluster, host. Out: the index of the first rule that matches, found without going through
//! them: the cost does not grow with their number. Pure.

mod affixes;
mod envelope;
pub mod lenient;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use affixes::{Prefixes, Suffixes};
pub use envelope::{Envelope, EnvelopeError, Matcher};

/// A rule with routes and services goes into the table of pairs only if it makes at most this many of them: what
/// is kept stays proportional to the configuration.
const MAX_PAIRS: usize = 64;

/// What of a request the rules look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject<'a> {
    /// Property `route_name`.
    pub route: &'a [u8],
    /// Property `cluster_name`.
    pub cluster: &'a [u8],
    /// Header `:authority`.
    pub authority: &'a [u8],
    /// The first value of the identity header.
    pub consumer: &'a [u8],
}

/// Which parts of a [`Subject`] these rules look at; the others may be left empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub route: bool,
    pub cluster: bool,
    pub authority: bool,
    pub consumer: bool,
}

/// The matchers of a configuration, compiled.
#[derive(Debug, Default)]
pub struct Rules {
    routes: Table<u32>,
    pairs: Table<Table<u32>>,
    /// Rules with many routes and services, by route, in order.
    wide: Table<Vec<u32>>,
    wide_services: HashMap<u32, HashSet<Box<[u8]>, Fnv>, Fnv>,
    services: Table<u32>,
    domains: Table<u32>,
    domain_prefixes: Prefixes,
    domain_suffixes: Suffixes,
    route_prefixes: Prefixes,
    consumer_prefixes: Table<Prefixes>,
    needs: Needs,
}

impl Rules {
    /// Compiles matchers; the position of one is the index that [`Self::find`] answers.
    pub fn new<'a>(matchers: impl IntoIterator<Item = &'a Matcher>) -> Self {
        let mut rules = Self::default();
        let (mut prefixes, mut suffixes, mut route_prefixes) = (Vec::new(), Vec::new(), Vec::new());
        let mut consumer_prefixes: Table<Vec<(Vec<u8>, u32)>> = Table::default();
        for (index, matcher) in (0..).zip(matchers) {
            rules.needs.add(matcher);
            match matcher {
                Matcher::Routes(routes) => routes.iter().for_each(|route| first(&mut rules.routes, route, index)),
                Matcher::RoutesAndServices(routes, services) => rules.add_pairs(routes, services, index),
                Matcher::Services(names) => names.iter().for_each(|name| first(&mut rules.services, name, index)),
                Matcher::Domains(domains) => {
                    for domain in domains {
                        let domain = domain.to_ascii_lowercase();
                        if let Some(suffix) = domain.strip_prefix('*') {
                            suffixes.push((suffix.into(), index));
                        } else if let Some(prefix) = domain.strip_suffix('*') {
                            prefixes.push((prefix.into(), index));
                        } else {
                            first(&mut rules.domains, &domain, index);
                        }
                    }
                }
                Matcher::RoutePrefixes(names) => {
                    route_prefixes.extend(names.iter().map(|name| (name.clone().into_bytes(), index)));
                }
                Matcher::RoutePrefixesOfConsumers(names, consumers) => {
                    for consumer in consumers {
                        let of = consumer_prefixes.entry(consumer.as_bytes().into()).or_default();
                        of.extend(names.iter().map(|name| (name.clone().into_bytes(), index)));
                    }
                }
            }
        }
        rules.domain_prefixes = Prefixes::new(prefixes);
        rules.domain_suffixes = Suffixes::new(suffixes);
        rules.route_prefixes = Prefixes::new(route_prefixes);
        rules.consumer_prefixes =
            consumer_prefixes.into_iter().map(|(name, prefixes)| (name, Prefixes::new(prefixes))).collect();
        rules
    }

    /// What of a request must be known to find its rule.
    #[must_use]
    pub const fn needs(&self) -> Needs {
        self.needs
    }

    /// The first rule that matches.
    #[must_use]
    pub fn find(&self, subject: &Subject<'_>) -> Option<usize> {
        let Subject { route, cluster, authority, consumer } = *subject;
        let mut lowest = None;
        let mut see = |rule: Option<u32>| {
            lowest = match (lowest, rule) {
                (Some(known), Some(rule)) => Some(u32::min(known, rule)),
                (known, rule) => known.or(rule),
            };
        };
        see(self.routes.get(route).copied());
        see(self.route_prefixes.lowest(route));
        see(self.consumer_prefixes.get(consumer).and_then(|prefixes| prefixes.lowest(route)));
        if self.needs.authority {
            let host = without_port(authority).to_ascii_lowercase();
            see(self.domains.get(&*host).copied());
            see(self.domain_prefixes.lowest(&host));
            see(self.domain_suffixes.lowest(&host));
        }
        if self.needs.cluster
            && let Some((fqdn, with_port)) = service(cluster)
        {
            see(self.services.get(fqdn).copied());
            see(self.services.get(&*with_port).copied());
            if let Some(pairs) = self.pairs.get(route) {
                see(pairs.get(fqdn).copied());
                see(pairs.get(&*with_port).copied());
            }
            let has = |rule: &&u32| {
                let services = self.wide_services.get(*rule);
                services.is_some_and(|names| names.contains(fqdn) || names.contains(&*with_port))
            };
            see(self.wide.get(route).and_then(|rules| rules.iter().find(has)).copied());
        }
        lowest.and_then(|rule| usize::try_from(rule).ok())
    }

    fn add_pairs(&mut self, routes: &[String], services: &[String], index: u32) {
        if routes.len().saturating_mul(services.len()) <= MAX_PAIRS {
            for route in routes {
                let of = self.pairs.entry(route.as_bytes().into()).or_default();
                services.iter().for_each(|service| first(of, service, index));
            }
        } else {
            for route in routes {
                self.wide.entry(route.as_bytes().into()).or_default().push(index);
            }
            self.wide_services.insert(index, services.iter().map(|name| name.as_bytes().into()).collect());
        }
    }
}

impl Needs {
    const fn add(&mut self, matcher: &Matcher) {
        match matcher {
            Matcher::Routes(_) | Matcher::RoutePrefixes(_) => self.route = true,
            Matcher::RoutesAndServices(..) => {
                self.route = true;
                self.cluster = true;
            }
            Matcher::Domains(_) => self.authority = true,
            Matcher::Services(_) => self.cluster = true,
            Matcher::RoutePrefixesOfConsumers(..) => {
                self.route = true;
                self.consumer = true;
            }
        }
    }
}

/// Enters a rule unless an earlier one is there.
fn first(table: &mut Table<u32>, name: &str, rule: u32) {
    table.entry(name.as_bytes().into()).or_insert(rule);
}

/// The host of an authority: the port goes, an IPv6 address in brackets stays whole.
fn without_port(authority: &[u8]) -> &[u8] {
    match memchr::memrchr(b':', authority) {
        Some(colon) if memchr::memrchr(b']', authority).is_none_or(|bracket| bracket < colon) => &authority[..colon],
        _ => authority,
    }
}

/// The service of a cluster name `direction|port|subset|fqdn`: `fqdn` and `fqdn:port`.
fn service(cluster: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let mut parts = cluster.split(|byte| *byte == b'|');
    let (_, port, _, fqdn) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let with_port = if port.contains(&b':') { fqdn.to_vec() } else { [fqdn, b":", port].concat() };
    Some((fqdn, with_port))
}

pub(crate) type Table<T> = HashMap<Box<[u8]>, T, Fnv>;
pub(crate) type Fnv = BuildHasherDefault<Fnv1a>;

/// Keys come from the configuration only, so nobody can choose them to collide; and the standard hasher would ask
/// the host for random numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fnv1a(u64);

impl Default for Fnv1a {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv1a {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
