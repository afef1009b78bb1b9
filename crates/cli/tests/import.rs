//! `aiquota import`: what was written by hand means the same when it is rendered. For every configuration of
//! tests/imports the original and what is rendered are read by the core that enforces both, and a table of requests is
//! decided by each: what is refused, which keys are asked for, which limits they are held to.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::golden;
use enforcement::config::{Config, Policies, Policy, Target};
use enforcement::limit::Limits;
use enforcement::quota::Quotas;
use enforcement::redis::Reply;
use enforcement::rules::Subject;
use enforcement::steps::{Kind, Request, Step};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/imports")
}

/// Exit code, standard output and standard error.
fn aiquota(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    common::aiquota(&folder(), arguments, input)
}

/// What Higress makes of a WasmPlugin for its module.
fn flat(spec: &Value, dialect: Option<&str>) -> Vec<u8> {
    let mut flat = spec.get("defaultConfig").cloned().unwrap_or_else(|| json!({}));
    let rules = spec.get("matchRules").and_then(Value::as_array).into_iter().flatten().map(|rule| {
        let mut config = rule["config"].clone();
        for (from, to) in [("ingress", "_match_route_"), ("service", "_match_service_"), ("domain", "_match_domain_")] {
            if let Some(names) = rule.get(from) {
                config[to] = names.clone();
            }
        }
        config
    });
    flat["_rules_"] = rules.collect();
    if let Some(dialect) = dialect {
        flat["aiquota"] = json!({"version": 1, "dialect": dialect});
    }
    flat.to_string().into_bytes()
}

fn policies<P: Policy>(flat: &[u8]) -> Policies<P> {
    match Config::parse(flat) {
        Ok(Config::Policies(policies)) => *policies,
        Ok(Config::Guard) => panic!("it is a guard"),
        Err(error) => panic!("{error}: {}", String::from_utf8_lossy(flat)),
    }
}

struct Asked {
    route: &'static str,
    cluster: &'static str,
    host: &'static str,
    headers: Vec<(&'static str, String)>,
    source: &'static str,
}

impl Request for Asked {
    fn header(&self, name: &str) -> Vec<&[u8]> {
        let named = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_bytes()).collect()
    }

    fn source(&self) -> Option<Vec<u8>> {
        Some(self.source.as_bytes().to_vec())
    }

    fn now(&self) -> i64 {
        1_800_000_000
    }

    fn unique(&self) -> Vec<u8> {
        b"1".to_vec()
    }
}

/// Every combination that a limiter of the configurations could look at.
fn requests() -> Vec<Asked> {
    let mut all = Vec::new();
    let places = [
        ("qwen", "outbound|80||x", "a.example"),
        ("team/chat", "outbound|80||x", "a.example"),
        ("other", "outbound|80||x", "a.example"),
        ("third", "outbound|80||model.default.svc.cluster.local", "a.example"),
        ("third", "outbound|80||x", "chat.example"),
        ("third", "outbound|80||x", "b.chat.example:8080"),
        ("third", "outbound|80||x", "nowhere.example"),
    ];
    let paths = [
        "/v1/chat/completions",
        "/v1/chat/completions?apikey=k1",
        "/v1/messages",
        "/v1/chat/completions/quota?consumer=user1",
        "/v1/chat/completions/tokens?consumer=user1",
        "/v1/chat/completions/tokens/refresh",
    ];
    for (route, cluster, host) in places {
        for path in paths {
            for consumer in ["", "user1", "other", "root", "7"] {
                for key in ["", "vip", "basic", "abc", "b1", "b42", "zzz"] {
                    let mut headers = vec![(":path", path.to_owned()), (":authority", host.to_owned())];
                    if !consumer.is_empty() {
                        headers.push(("x-mse-consumer", consumer.to_owned()));
                    }
                    if !key.is_empty() {
                        headers.push(("x-api-key", key.to_owned()));
                        headers.push(("cookie", format!("a=b; session=s=1; k={key}")));
                    }
                    if key == "vip" {
                        headers.push(("x-forwarded-for", "10.0.0.7, 1.1.1.1".to_owned()));
                    } else if key == "abc" {
                        headers.push(("x-forwarded-for", "10.9.9.9".to_owned()));
                    }
                    let source = if key == "basic" { "[2001:db8::7]:99" } else { "192.0.2.9:99" };
                    all.push(Asked { route, cluster, host, headers, source });
                }
            }
        }
    }
    all
}

/// What becomes of a request, in words that both forms have in common.
fn decided<K: Kind>(policies: &Policies<K::Policy>, asked: &Asked, said: fn(&[String]) -> String) -> String {
    let subject = Subject {
        route: asked.route.as_bytes(),
        cluster: asked.cluster.as_bytes(),
        authority: asked.host.as_bytes(),
        consumer: asked.header("x-mse-consumer").first().copied().unwrap_or_default(),
    };
    let Some(target) = policies.target(&subject) else { return "pass".to_owned() };
    assert!(matches!(target, Target::Enforce { .. }), "it can be enforced");
    match K::begin(target, asked) {
        Step::Pass => "pass".to_owned(),
        Step::Refuse(response) => format!("{} {}", response.status, response.body),
        Step::Ask(ask) => match Reply::parse(&ask.call.command) {
            Ok(Reply::Array(words)) => {
                let text = |word: &Reply<'_>| match word {
                    Reply::Bulk(word) => String::from_utf8_lossy(word).into_owned(),
                    other => panic!("{other:?}"),
                };
                format!("ask {} {}", ask.call.store.with_options, said(&words.iter().map(text).collect::<Vec<_>>()))
            }
            other => panic!("{other:?}"),
        },
        Step::Spare => "would be refused".to_owned(),
        _ => "its body decides".to_owned(),
    }
}

/// The key of the balance: of upstream's GET, or the script's first.
fn balance(words: &[String]) -> String {
    match words[0].as_str() {
        "GET" => words[1].clone(),
        _ => words[3].clone(),
    }
}

/// Counters and what they are held to, the smallest where there are two.
fn counters(words: &[String]) -> String {
    let count: usize = words[2].parse().expect("the number of keys");
    let (keys, rest) = words[3..].split_at(count);
    let mut found: BTreeMap<&String, (i64, &str)> = BTreeMap::new();
    for (key, pair) in keys.iter().zip(rest[1..].chunks(2)) {
        let tokens: i64 = pair[0].parse().expect("tokens");
        found.entry(key).and_modify(|known| known.0 = known.0.min(tokens)).or_insert((tokens, &pair[1]));
    }
    format!("{found:?}")
}

/// The same where counters are told to get other names.
fn counters_by_any_name(words: &[String]) -> String {
    let words: Vec<String> =
        words.iter().map(|word| word.replace(['{', '}'], "").replace("limit_by_per_", "limit_by_")).collect();
    counters(&words)
}

/// The WasmPlugins of a file, and of what is rendered of its import.
fn both(file: &str, flags: &[&str]) -> (Vec<Value>, Vec<Value>) {
    let text = fs::read_to_string(folder().join(file)).expect("it is there");
    let read = |text: &str| serde_yaml::from_str::<Value>(text).expect("it is YAML");
    let (code, objects, said) = aiquota(&[&["import", "-f", file, "--trusted-namespace=team"], flags].concat(), "");
    assert_eq!(code, Some(0), "{file}: {said}");
    golden(&file.replace(".yaml", ".import.yaml"), &objects);
    golden(&file.replace(".yaml", ".import.txt"), &said);
    let (code, rendered, said) = aiquota(&["render", "-f", "-", "--trusted-namespace=team", "-o", "json"], &objects);
    assert_eq!(code, Some(0), "{file}: {said}");
    let rendered: Value = serde_json::from_str(&rendered).expect("it is JSON");
    let rendered = rendered["plugins"].as_array().expect("a list").clone();
    (text.split("---\n").map(read).collect(), rendered)
}

fn named<'a>(plugins: &'a [Value], name: &str) -> Option<&'a Value> {
    plugins.iter().find(|plugin| plugin["metadata"]["name"] == name).map(|plugin| &plugin["spec"])
}

/// Paths and places where the two are told to differ: who asks without identity where a Domain or the whole gateway is
/// the target, and paths that nothing meters.
fn is_told_otherwise(before: &str, after: &str, asked: &Asked) -> bool {
    let wide = asked.route == "third" && asked.cluster == "outbound|80||x";
    wide && before.starts_with("401") && after == "pass"
}

#[test]
fn what_an_import_renders_decides_as_what_was_imported() {
    let mut files: Vec<String> = fs::read_dir(folder())
        .expect("the folder is there")
        .map(|entry| entry.expect("it is listed").file_name().to_string_lossy().into_owned())
        .filter(|name| name != "lost.yaml" && !name.contains("stricter"))
        .collect();
    files.sort();
    assert!(files.len() >= 10, "{files:?}");
    for file in files {
        let dialect = file.starts_with("v1-").then_some("v1");
        let flags: &[&str] = if dialect.is_some() { &["--dialect=v1"] } else { &[] };
        let (before, after) = both(&file, flags);
        let mut asked_for = 0;
        if let Some(spec) = named(&before, "ai-quota") {
            let old = policies(&flat(spec, None));
            let new = policies(&flat(named(&after, "aiquota-ai-quota").expect("it is rendered"), None));
            for asked in requests() {
                let (was, is) = (decided::<Quotas>(&old, &asked, balance), decided::<Quotas>(&new, &asked, balance));
                let same = was == is || is_told_otherwise(&was, &is, &asked);
                assert!(same, "{file} {} {} {:?}: {was}; now {is}", asked.route, asked.host, asked.headers);
                asked_for += usize::from(was.starts_with("ask"));
            }
        }
        if let Some(spec) = named(&before, "ai-token-ratelimit") {
            let renames = file.contains("renames") || dialect.is_some();
            let said = if renames { counters_by_any_name } else { counters };
            let old = policies(&flat(spec, dialect));
            let new = policies(&flat(named(&after, "aiquota-ai-token-ratelimit").expect("it is rendered"), None));
            for asked in requests().into_iter().filter(|asked| !asked.headers[0].1.contains("completions/")) {
                let (was, is) = (decided::<Limits>(&old, &asked, said), decided::<Limits>(&new, &asked, said));
                assert_eq!(was, is, "{file} {} {} {:?}", asked.route, asked.host, asked.headers);
                asked_for += usize::from(was.starts_with("ask"));
            }
        }
        assert!(asked_for > 50, "{file}: requests are under it ({asked_for})");
    }
}

#[test]
fn items_of_the_first_generation_that_enforce_together_now_are_told() {
    let (code, objects, said) = aiquota(&["import", "-f", "v1-limit-stricter.yaml", "--dialect=v1"], "");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the first only") && said.contains("begin anew"), "{said}");
    assert_eq!(objects.matches("- by:").count(), 2, "{objects}");
}

#[test]
fn what_has_no_equivalent_is_told_with_its_line_and_all_else_is_imported() {
    let (code, objects, said) = aiquota(&["import", "-f", "lost.yaml"], "");
    assert_eq!(code, Some(1), "{said}");
    golden("lost.import.txt", &said);
    golden("lost.import.yaml", &objects);
    assert!(!objects.contains("planted") && !said.contains("planted"), "no password is shown: {objects}{said}");
    let (_, json, _) = aiquota(&["import", "-f", "lost.yaml", "-o", "json"], "");
    let json: Value = serde_json::from_str(&json).expect("it is JSON");
    let kinds: Vec<&Value> =
        json["report"].as_array().expect("a list").iter().map(|finding| &finding["kind"]).collect();
    assert!(kinds.contains(&&json!("lost")) && kinds.contains(&&json!("differs")), "{json}");
    assert!(!json.to_string().contains("planted"));
}

/// A WasmPlugin with rules and other lines of its spec.
fn plugin(spec: &str) -> String {
    format!(
        "apiVersion: extensions.higress.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{name: ai-quota, namespace: \
         higress-system}}\nspec:\n{spec}"
    )
}

fn rule(over: &str, rest: &str) -> String {
    format!("  - {over}\n    config: {{admin_consumer: x, redis: {{service_name: a.static{rest}}}}}\n")
}

#[test]
fn objects_have_names_of_their_own_that_kubernetes_takes() {
    let over = ["domain: [qwen]", "ingress: [qwen]", "ingress: [qwen-2]", "domain: [\"a..b\"]", "domain: [a.-b]"];
    let rules: String = (1..).zip(over).map(|(at, over)| rule(over, "").replace("x,", &format!("x{at},"))).collect();
    let (code, objects, said) = aiquota(&["import", "-f", "-"], &plugin(&format!("  matchRules:\n{rules}")));
    let quotas = objects.split("---\n").filter(|object| object.contains("kind: AIQuota\n"));
    let names: Vec<&str> =
        quotas.filter_map(|object| object.lines().find_map(|line| line.strip_prefix("  name: "))).collect();
    assert_eq!((code, names), (Some(0), vec!["qwen", "qwen-2", "qwen-2-2", "a.b", "a.b-2"]), "{said}");
}

#[test]
fn a_target_that_cannot_be_is_told_at_its_rule_and_in_no_others_way() {
    let rules = [rule("ingress: [good-one]", ""), rule("ingress: [bad_Name, good-two, good-two]", "")].concat();
    let (code, objects, said) = aiquota(&["import", "-f", "-"], &plugin(&format!("  matchRules:\n{rules}")));
    assert_eq!(code, Some(1), "{said}");
    assert!(objects.contains("name: good-one") && objects.contains("name: good-two"), "{objects}");
    let lost: Vec<&str> = said.lines().filter(|line| line.contains("not imported")).collect();
    assert!(lost.len() == 1 && lost[0].contains("input:9") && lost[0].contains("bad_Name"), "{said}");
}

#[test]
fn what_a_plugin_has_besides_its_rules_is_not_dropped_in_silence() {
    let valid = format!("  matchRules:\n{}", rule("ingress: [a]", ""));
    assert_eq!(aiquota(&["import", "-f", "-"], &plugin(&valid)).0, Some(0));
    for (besides, code, says) in [
        ("  defaultConfig: {_rules_: [{_match_route_: [b]}]}\n", 1, "spec.defaultConfig._rules_"),
        ("  pluginConfig: {admin_consumer: x}\n", 1, "spec.pluginConfig"),
        ("  phase: AUTHZ\n", 0, "--phase=AUTHZ"),
        ("  priority: 300\n", 0, "--priority=300"),
        ("  failStrategy: FAIL_OPEN\n", 0, "--fail-strategy=FAIL_OPEN"),
        ("  selector: {matchLabels: {a: b}}\n", 0, "spec.selector"),
    ] {
        let (found, _, said) = aiquota(&["import", "-f", "-"], &plugin(&format!("{valid}{besides}")));
        assert!(found == Some(code) && said.contains(says), "{besides}: {said}");
    }
    let elsewhere = plugin(&valid).replace("namespace: higress-system", "namespace: other");
    let (_, _, said) = aiquota(&["import", "-f", "-"], &elsewhere);
    assert!(said.contains("metadata.namespace: it is in other"), "{said}");
}

#[test]
fn objects_that_cannot_be_together_are_told_as_not_imported() {
    let one = format!("  matchRules:\n{}", rule("ingress: [a]", ""));
    let twice = |other: &str| {
        let other = plugin(other).replace("name: ai-quota", "name: ai-quota-1.0.0");
        aiquota(&["import", "-f", "-"], &format!("{}---\n{other}", plugin(&one)))
    };
    let (code, _, said) = twice(&one.replace("[a]", "[b]"));
    assert_eq!(code, Some(0), "{said}");
    for (other, says) in [
        (one.replace("x, redis", "y, redis"), "AIQuota higress-system/a"),
        (
            one.replace("[a]", "[b]").replace("a.static", "a.static, timeout: 5000"),
            "AIQuotaStore higress-system/redis-2",
        ),
    ] {
        let (code, _, said) = twice(&other);
        assert_eq!(code, Some(1), "{said}");
        let refused = said.lines().find(|line| line.contains("would be refused beside the others"));
        assert!(refused.is_some_and(|line| line.contains("not imported") && line.contains(says)), "{said}");
    }
}

#[test]
fn a_password_is_no_argument_and_a_source_is_needed() {
    for (arguments, says) in [
        (&["import"][..], "--filename"),
        (&["import", "-f", "quota-least.yaml", "--from-cluster"], "cannot be used with"),
        (
            &["import", "-f", "quota-least.yaml", "--consumers-from-redis=redis://:x@127.0.0.1"],
            "AIQUOTA_REDIS_PASSWORD",
        ),
        (&["import", "-f", "quota-least.yaml", "--consumers-from-redis=127.0.0.1:6379"], "redis://"),
        (&["import", "-f", "quota-rules.yaml", "--consumers-from-redis=redis://127.0.0.1"], "several stores"),
        (&["import", "-f", "quota-least.yaml", "--consumers-from-redis=defualt=redis://127.0.0.1"], "no store defualt"),
        (
            &["import", "-f", "quota-rules.yaml", "--consumers-from-redis=redis://:hunter2@127.0.0.1"],
            "AIQUOTA_REDIS_PASSWORD",
        ),
    ] {
        let (code, _, said) = aiquota(arguments, "");
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn files_without_a_plugin_to_import_are_an_error_that_says_what_is_there_and_what_to_do() {
    let bare = "redis:\n  service_name: redis.static\n  password: planted-secret\nadmin_consumer: root\n";
    let limit = "rule_name: a\nglobal_threshold: {token_per_minute: 5}\nredis: {service_name: redis.static}\n";
    let other = "apiVersion: extensions.higress.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: key-auth}\nspec: {url: \
                 oci://r/key-auth:1}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
    for (input, says) in [
        (
            bare,
            "1 document without apiVersion and kind (standard input:1, with the fields of a configuration of ai-quota)",
        ),
        (bare, "metadata.name: ai-quota, and the configuration in spec.defaultConfig"),
        (limit, "metadata.name: ai-token-ratelimit"),
        (other, "there is Secret (default/s); WasmPlugin (default/key-auth)\n"),
        ("# empty\n", "there is nothing\n"),
    ] {
        let (code, written, said) = aiquota(&["import", "-f", "-"], input);
        assert_eq!((code, written.as_str()), (Some(1), ""), "{said}");
        assert!(said.contains(says) && !said.contains("planted-secret"), "{says}: {said}");
    }
    let wrapped = "apiVersion: extensions.higress.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: ai-quota}\nspec:\n  \
                   defaultConfig: {redis: {service_name: redis.static}, admin_consumer: root}\n";
    let (code, written, said) = aiquota(&["import", "-f", "-"], wrapped);
    assert!(code == Some(0) && written.contains("kind: AIQuota\n"), "the remedy helps: {written}{said}");
}
