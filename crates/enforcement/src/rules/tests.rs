//! The compiled rules against a scan written from the facts alone, one rule after the other.

use serde_json::{Value, json};

use super::*;
use crate::random::Random;

/// What upstream does: every rule in turn. Shares no code with the compiled form but the matcher's type.
fn scan(matchers: &[Matcher], subject: &Subject<'_>) -> Option<usize> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (route, consumer) = (text(subject.route), text(subject.consumer));
    let authority = text(subject.authority).to_lowercase();
    let host = match authority.rsplit_once(':') {
        Some((host, after)) if !after.contains(']') => host.to_owned(),
        _ => authority,
    };
    let cluster = text(subject.cluster);
    let parts: Vec<&str> = cluster.split('|').collect();
    let served = |services: &[String]| {
        parts.len() == 4
            && services.iter().any(|service| {
                service == parts[3]
                    || service.rsplit_once(':').is_some_and(|(fqdn, port)| fqdn == parts[3] && port == parts[1])
            })
    };
    matchers.iter().position(|matcher| match matcher {
        Matcher::Routes(routes) => routes.contains(&route),
        Matcher::RoutesAndServices(routes, services) => routes.contains(&route) && served(services),
        Matcher::Services(services) => served(services),
        Matcher::RoutePrefixes(prefixes) => prefixes.iter().any(|prefix| route.starts_with(prefix)),
        Matcher::RoutePrefixesOfConsumers(prefixes, consumers) => {
            consumers.contains(&consumer) && prefixes.iter().any(|prefix| route.starts_with(prefix))
        }
        Matcher::Domains(domains) => domains.iter().any(|domain| {
            let domain = domain.to_lowercase();
            if let Some(suffix) = domain.strip_prefix('*') {
                host.ends_with(suffix)
            } else if let Some(prefix) = domain.strip_suffix('*') {
                host.starts_with(prefix)
            } else {
                host == domain
            }
        }),
    })
}

fn names(random: &mut Random, pool: &[&str], most: usize) -> Vec<String> {
    (0..=random.below(most)).map(|_| (*random.pick(pool)).to_owned()).collect()
}

const ROUTES: &[&str] = &["a", "ab", "abc", "abcd", "b", "ns/a", "ns/ab", "n", "abx", "ac"];
const SERVICES: &[&str] = &["x.static", "x.static:80", "x.static:81", "y.dns", "y.dns:443", "z", "z:80:81", "z:"];
const DOMAINS: &[&str] =
    &["a.com", "*.a.com", "*", "A.com", "b.*", "b.a*", "*a.com", "x.b.a.com", "", "a.com:80", "*.com", "[::1]", "b*"];
const HOSTS: &[&str] =
    &["a.com", "x.a.com", "A.COM:8080", "b.a.com", "b.org", "xa.com", "", "[::1]:80", "[::1]", "x.b.a.com", "*", "b"];
const CLUSTERS: &[&str] = &[
    "outbound|80||x.static",
    "outbound|81||x.static",
    "outbound|443||y.dns",
    "outbound|80||z",
    "",
    "x.static",
    "outbound|80|x.static",
    "outbound|80||x.static|",
    "outbound|80:81||z",
    "outbound|||z",
];
const CONSUMERS: &[&str] = &["", "u", "v"];

#[test]
fn compiled_rules_find_what_a_scan_finds() {
    let mut random = Random(1);
    for case in 0..3_000 {
        let matchers: Vec<Matcher> = (0..random.below(12))
            .map(|_| match random.below(6) {
                0 => Matcher::Routes(names(&mut random, ROUTES, 3)),
                1 => {
                    let most = if random.one_in(4) { 20 } else { 3 };
                    Matcher::RoutesAndServices(names(&mut random, ROUTES, most), names(&mut random, SERVICES, most))
                }
                2 => Matcher::Services(names(&mut random, SERVICES, 2)),
                3 => Matcher::Domains(names(&mut random, DOMAINS, 2)),
                4 => Matcher::RoutePrefixes(names(&mut random, ROUTES, 3)),
                _ => Matcher::RoutePrefixesOfConsumers(
                    names(&mut random, ROUTES, 3),
                    names(&mut random, &CONSUMERS[1..], 1),
                ),
            })
            .collect();
        let rules = Rules::new(&matchers);
        for _ in 0..30 {
            let subject = Subject {
                route: random.pick(ROUTES).as_bytes(),
                cluster: random.pick(CLUSTERS).as_bytes(),
                authority: random.pick(HOSTS).as_bytes(),
                consumer: random.pick(CONSUMERS).as_bytes(),
            };
            assert_eq!(rules.find(&subject), scan(&matchers, &subject), "case {case}: {subject:?} in {matchers:?}");
        }
    }
}

#[test]
fn what_the_rules_do_not_need_decides_nothing() {
    let mut random = Random(2);
    for _ in 0..500 {
        let matchers = [
            Matcher::Routes(names(&mut random, ROUTES, 2)),
            match random.below(3) {
                0 => Matcher::Services(names(&mut random, SERVICES, 2)),
                1 => Matcher::Domains(names(&mut random, DOMAINS, 2)),
                _ => Matcher::RoutesAndServices(names(&mut random, ROUTES, 2), names(&mut random, SERVICES, 2)),
            },
        ];
        let rules = Rules::new(&matchers);
        let needs = rules.needs();
        let whole = Subject {
            route: random.pick(ROUTES).as_bytes(),
            cluster: random.pick(CLUSTERS).as_bytes(),
            authority: random.pick(HOSTS).as_bytes(),
            consumer: random.pick(CONSUMERS).as_bytes(),
        };
        let needed = Subject {
            route: if needs.route { whole.route } else { b"" },
            cluster: if needs.cluster { whole.cluster } else { b"" },
            authority: if needs.authority { whole.authority } else { b"" },
            consumer: if needs.consumer { whole.consumer } else { b"" },
        };
        assert_eq!(rules.find(&needed), rules.find(&whole));
    }
}

#[test]
fn ten_thousand_rules_of_each_kind_are_told_apart() {
    let matchers: Vec<Matcher> = (0..10_000)
        .map(|n| match n % 4 {
            0 => Matcher::Routes(vec![format!("ns/route-{n}")]),
            1 => Matcher::Services(vec![format!("service-{n}.dns:80")]),
            2 => Matcher::Domains(vec![format!("*.host-{n}.example")]),
            _ => Matcher::RoutesAndServices(vec!["shared".into()], vec![format!("service-{n}.static")]),
        })
        .collect();
    let rules = Rules::new(&matchers);
    for n in 0..10_000 {
        let (route, cluster, authority) = match n % 4 {
            0 => (format!("ns/route-{n}"), String::new(), String::new()),
            1 => (String::new(), format!("outbound|80||service-{n}.dns"), String::new()),
            2 => (String::new(), String::new(), format!("api.host-{n}.example:443")),
            _ => ("shared".into(), format!("outbound|80||service-{n}.static"), String::new()),
        };
        let (route, cluster, authority) = (route.as_bytes(), cluster.as_bytes(), authority.as_bytes());
        assert_eq!(rules.find(&Subject { route, cluster, authority, consumer: b"" }), Some(n));
    }
    assert_eq!(rules.find(&Subject { route: b"ns/route-1", ..Subject::default() }), None);
}

fn matcher_of(rule: &Value) -> Option<Matcher> {
    let envelope = Envelope::parse(json!({"_rules_": [rule]}).to_string().as_bytes()).ok()?;
    envelope.rules.into_iter().next().map(|(matcher, _)| matcher)
}

#[test]
fn of_several_kinds_of_matchers_in_a_rule_only_one_decides() {
    let some = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        matcher_of(&json!({"_match_route_": ["r"], "_match_domain_": ["d"], "_match_route_prefix_": ["p"]})),
        Some(Matcher::Routes(some(&["r"])))
    );
    assert_eq!(
        matcher_of(&json!({"_match_route_": ["r"], "_match_service_": ["s"], "_match_domain_": ["d"]})),
        Some(Matcher::RoutesAndServices(some(&["r"]), some(&["s"])))
    );
    assert_eq!(
        matcher_of(&json!({"_match_service_": ["s"], "_match_domain_": ["d"], "_match_route_": [""]})),
        Some(Matcher::Domains(some(&["d"])))
    );
    assert_eq!(
        matcher_of(&json!({"_match_service_": ["s", ""], "_match_route_prefix_": ["p"]})),
        Some(Matcher::Services(some(&["s"])))
    );
    assert_eq!(
        matcher_of(&json!({"_match_route_prefix_": "p", "_match_consumer_": ["c"]})),
        Some(Matcher::RoutePrefixesOfConsumers(some(&["p"]), some(&["c"])))
    );
    assert_eq!(matcher_of(&json!({"_match_consumer_": ["c"]})), None);
    assert_eq!(matcher_of(&json!({"_match_route_": []})), None);
    assert_eq!(matcher_of(&json!(7)), None);
}

#[test]
fn the_default_counts_if_it_has_a_key_of_its_own_or_nothing_at_all() {
    let default = |json: Value| Envelope::parse(json.to_string().as_bytes()).unwrap().default.is_some();
    let rule = json!({"_match_route_": ["r"]});
    assert!(default(json!({})));
    assert!(default(json!({"admin_consumer": "a"})));
    assert!(default(json!({"admin_consumer": "a", "_rules_": [rule]})));
    assert!(!default(json!({"_rules_": [rule]})));
    assert!(!default(json!({"_rules_": []})));
    assert!(!default(json!({"aiquota": {"version": 1}})));
    assert!(!default(json!({"aiquota": {"version": 1}, "_rules_": [rule], "_plugin_id_": "x"})));
    assert!(Envelope::parse(b"").unwrap().default.is_some());
    assert!(Envelope::parse(b"[]").unwrap().default.is_some());
}

#[test]
fn a_broken_envelope_says_where() {
    let error = |json: &str| Envelope::parse(json.as_bytes()).unwrap_err();
    assert!(matches!(error("{\"a\":\n x}"), EnvelopeError::NotJson { line: 2, .. }));
    assert_eq!(error(r#"{"_rules_":[{"_match_route_":["r"]},{"policy":"p"}]}"#), EnvelopeError::NoMatcher(1));
}
