//! Which targets lie in which: what the whole gateway and domains hold, by the hosts of routes. What other namespaces
//! want in there is for the ceiling's object to say. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::{
    gateway::Matcher,
    merge::{self, Narrower, Settings},
};

/// The ceilings among what was decided so far.
pub(crate) struct Ceilings<'a, S> {
    settings: &'a [S],
    context: &'a dyn Context<'a>,
    gateway: Option<Ceiling>,
    exact: HashMap<String, Ceiling>,
    /// By what follows the asterisk.
    wild: HashMap<String, Ceiling>,
    /// All domains by the namespace of their object, `*` first.
    domains: BTreeMap<&'a str, Vec<(String, Ceiling)>>,
}

/// What the world says about what is claimed.
pub(crate) trait Context<'a> {
    /// The hosts of a route, `*` for all; nothing for one that does not exist.
    fn hosts(&self, route: &str) -> Option<Vec<&'a str>>;

    /// Whether the gateway holds this to the object's settings now.
    fn is_in_force(&self, what: &Matcher, by: usize) -> bool;

    fn trusts(&self, namespace: &str) -> bool;

    /// Whether it is the gateway's namespace, whose objects are the administrator's: no other namespace's ceiling
    /// holds them.
    fn is_gateways(&self, namespace: &str) -> bool;
}

#[derive(Clone, Copy)]
struct Ceiling {
    slot: usize,
    by: usize,
}

impl<'a, S: Settings> Ceilings<'a, S> {
    pub(crate) fn new(settings: &'a [S], context: &'a dyn Context<'a>) -> Self {
        Self { settings, context, gateway: None, exact: HashMap::new(), wild: HashMap::new(), domains: BTreeMap::new() }
    }

    fn restricts(&self, ceiling: &Ceiling, what: &Matcher, by: usize) -> bool {
        let (owner, namespace) = (&self.settings[ceiling.by], self.settings[by].namespace());
        owner.namespace() != namespace
            && !self.context.is_gateways(namespace)
            && match owner.narrower() {
                Narrower::Allowed => false,
                Narrower::Refused => true,
                Narrower::AsItIs => !self.context.is_in_force(what, by),
            }
    }

    /// The first domain that holds some of a host's requests and restricts.
    fn over_host(&self, host: &str, restricts: &impl Fn(&&Ceiling) -> bool, namespace: &str) -> Option<usize> {
        let Some(inner) = host.strip_prefix('*') else {
            let exact = self.exact.get(host);
            return self.wildcards(host).chain(exact).find(restricts).map(|ceiling| ceiling.slot);
        };
        // It has a part of every domain below it, and of all if it is for every host.
        let below = self.domains.iter().filter(|(owner, _)| **owner != namespace).flat_map(|(_, domains)| domains);
        let below = below.filter(|(domain, _)| domain.ends_with(inner)).map(|(_, ceiling)| ceiling);
        self.wildcards(host).chain(below).find(restricts).map(|ceiling| ceiling.slot)
    }

    /// The wildcards over a name other than itself, the shortest first: `*.x` and `*.b.x` over `a.b.x` and `*.a.b.x`.
    fn wildcards(&self, name: &str) -> impl Iterator<Item = &Ceiling> {
        let bare = name.strip_prefix('*').map_or(name, |rest| rest.get(1..).unwrap_or_default());
        let dots = name.rmatch_indices('.').map(move |(at, _)| &name[at..]);
        dots.filter(move |suffix| suffix.len() <= bare.len()).filter_map(|suffix| self.wild.get(suffix))
    }
}

impl<S: Settings> merge::Ceilings<Matcher> for Ceilings<'_, S> {
    fn narrowness(&self, what: &Matcher) -> usize {
        match what {
            Matcher::Gateway => 0,
            Matcher::Domain(name) if name.starts_with('*') => name.len(),
            Matcher::Domain(_) => usize::MAX - 1,
            Matcher::Route(_) | Matcher::Service(_) => usize::MAX,
        }
    }

    fn is_wide(&self, what: &Matcher) -> bool {
        matches!(what, Matcher::Gateway | Matcher::Domain(_))
    }

    fn decided(&mut self, slot: usize, what: &Matcher, by: usize) {
        let namespace = self.settings[by].namespace();
        if !self.context.trusts(namespace) {
            return;
        }
        let ceiling = Ceiling { slot, by };
        match what {
            Matcher::Gateway => self.gateway = Some(ceiling),
            Matcher::Domain(name) => {
                match name.strip_prefix('*') {
                    Some(suffix) => self.wild.insert(suffix.to_owned(), ceiling),
                    None => self.exact.insert(name.clone(), ceiling),
                };
                self.domains.entry(namespace).or_default().push((name.clone(), ceiling));
            }
            Matcher::Route(_) | Matcher::Service(_) => {}
        }
    }

    fn over(&self, what: &Matcher, by: usize) -> Option<usize> {
        let restricts = |ceiling: &&Ceiling| self.restricts(ceiling, what, by);
        if *what == Matcher::Gateway {
            return None;
        }
        if let Some(gateway) = self.gateway.as_ref().filter(restricts) {
            return Some(gateway.slot);
        }
        if self.domains.is_empty() {
            return None;
        }
        match what {
            Matcher::Domain(name) => self.wildcards(name).find(restricts).map(|ceiling| ceiling.slot),
            Matcher::Route(route) => {
                let hosts = self.context.hosts(route)?;
                let namespace = self.settings[by].namespace();
                hosts.into_iter().find_map(|host| self.over_host(host, &restricts, namespace))
            }
            // Which hosts lead to a Service is not known.
            Matcher::Service(_) | Matcher::Gateway => None,
        }
    }
}
