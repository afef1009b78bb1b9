//! The flattened configuration: one JSON object with the default's keys and a list of rules, each with its
//! matchers and its own keys. In: JSON. Out: matchers in list order and what each rule configures. Pure.

use serde_json::{Map, Value};

use super::lenient;
use crate::wire;

const RULES: &str = "_rules_";
const ROUTE: &str = "_match_route_";
const ROUTE_PREFIX: &str = "_match_route_prefix_";
const SERVICE: &str = "_match_service_";
const DOMAIN: &str = "_match_domain_";
const CONSUMER: &str = "_match_consumer_";
/// Names the plugin in upstream's log; no key of the default's own.
const PLUGIN_ID: &str = "_plugin_id_";

/// Why a configuration as a whole cannot be used: the module must not start on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the configuration is not JSON (line {line}, column {column})")]
    NotJson { line: usize, column: usize },
    #[error("rule {0} of the configuration matches nothing: it has no ingress, domain, service or route prefix")]
    NoMatcher(usize),
    #[error("the configuration has too many rules")]
    TooMany,
}

/// One configuration, split into its parts.
#[derive(Debug)]
pub struct Envelope {
    /// In the order of precedence.
    pub rules: Vec<(Matcher, Map<String, Value>)>,
    /// The keys of the default, if it counts as one.
    pub default: Option<Map<String, Value>>,
    /// What stands under our own key of the default.
    pub native: Option<Value>,
}

/// What a rule matches. Of several kinds only one decides, as upstream has it: routes (with services, if there are
/// any, in the same request), else domains, else services, else prefixes of routes (for certain consumers only, if
/// there are any).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matcher {
    Routes(Vec<String>),
    RoutesAndServices(Vec<String>, Vec<String>),
    Domains(Vec<String>),
    Services(Vec<String>),
    RoutePrefixes(Vec<String>),
    RoutePrefixesOfConsumers(Vec<String>, Vec<String>),
}

impl Envelope {
    /// Reads a flattened configuration. An empty one counts as `{}`.
    ///
    /// # Errors
    /// If it is not JSON or a rule has no matcher.
    pub fn parse(json: &[u8]) -> Result<Self, EnvelopeError> {
        let value = if json.is_empty() {
            Value::Object(Map::new())
        } else {
            serde_json::from_slice(json)
                .map_err(|error| EnvelopeError::NotJson { line: error.line(), column: error.column() })?
        };
        // Upstream reads what is no object as an empty one.
        let Value::Object(mut default) = value else {
            return Ok(Self { rules: Vec::new(), default: Some(Map::new()), native: None });
        };
        let empty = default.is_empty();
        let native = default.remove(wire::KEY);
        default.remove(PLUGIN_ID);
        let rules = lenient::into_list(default.remove(RULES));
        if u32::try_from(rules.len()).is_err() {
            return Err(EnvelopeError::TooMany);
        }
        let rules = rules
            .into_iter()
            .enumerate()
            .map(|(index, rule)| {
                let mut rule = if let Value::Object(rule) = rule { rule } else { Map::new() };
                let matcher = Matcher::take(&mut rule).ok_or(EnvelopeError::NoMatcher(index))?;
                Ok((matcher, rule))
            })
            .collect::<Result<_, _>>()?;
        let default = (empty || !default.is_empty()).then_some(default);
        Ok(Self { rules, default, native })
    }
}

impl Matcher {
    /// Takes the matchers out of a rule's keys; none if it has none.
    fn take(rule: &mut Map<String, Value>) -> Option<Self> {
        let mut names = |key: &str| -> Vec<String> {
            let list = rule.remove(key);
            lenient::list(list.as_ref()).iter().map(|name| lenient::text(Some(name))).collect()
        };
        let filled = |mut names: Vec<String>| {
            names.retain(|name| !name.is_empty());
            names
        };
        let routes = filled(names(ROUTE));
        let services = filled(names(SERVICE));
        let prefixes = filled(names(ROUTE_PREFIX));
        let consumers = filled(names(CONSUMER));
        let domains = names(DOMAIN);
        Some(match (routes.is_empty(), services.is_empty(), domains.is_empty(), prefixes.is_empty()) {
            (false, true, _, _) => Self::Routes(routes),
            (false, false, _, _) => Self::RoutesAndServices(routes, services),
            (true, _, false, _) => Self::Domains(domains),
            (true, false, true, _) => Self::Services(services),
            (true, true, true, false) if consumers.is_empty() => Self::RoutePrefixes(prefixes),
            (true, true, true, false) => Self::RoutePrefixesOfConsumers(prefixes, consumers),
            (true, true, true, true) => return None,
        })
    }
}
