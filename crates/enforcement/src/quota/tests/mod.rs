//! The steps of a request against scripted replies of Redis: upstream's answers byte for byte, the native form's, what
//! failures come to, what is charged, and that nothing hostile makes a step panic.

mod charges;
mod ends;
mod hostile;
mod models;
mod native;
mod reserving;
mod upstream;

use serde_json::{Value, json};

use super::*;
use crate::config::{Config, Policies};
use crate::rules::Subject;
use crate::steps::{Booked, Unbooked};

type Ask = crate::steps::Ask<Quotas>;
type Booking = crate::steps::Booking<Quotas>;
type Charge = crate::steps::Charge<Quotas>;
type Ending = crate::steps::Ending<Quotas>;
type Meter = crate::steps::Meter<Quotas>;
type Next = crate::steps::Next<Quotas>;
type Step = crate::steps::Step<Quotas>;

const NOW: i64 = 1_500;

fn upstream_config() -> Value {
    json!({"admin_consumer": "admin", "redis": {"service_name": "redis.static"}})
}

fn native_config(open: bool) -> Value {
    json!({
        "aiquota": {
            "version": 1,
            "stores": {"s": {"service": "redis.static", "port": 80, "timeoutMs": 1000}},
            "schedules": {"daily": {"first": 7, "at": [1000, 2000]}},
            "policies": {"p": {
                "store": "s", "keyPrefix": "k:", "owner": "uid/ns/p", "paths": ["/v1/chat/completions"],
                "admin": {"consumer": "admin", "path": "/quota"}, "defaultQuota": 1000,
                "refresh": {"schedule": "daily", "mode": "Reset"}
            }}
        },
        "_rules_": [{"_match_domain_": ["*"], "policy": "p", "open": open}]
    })
}

/// A request to `path` with these values of the identity header.
struct Asked<'a> {
    identity: &'a [&'a [u8]],
    path: &'a [u8],
    upgrade: &'a [&'a [u8]],
    now: i64,
}

impl Request for Asked<'_> {
    fn header(&self, name: &str) -> Vec<&[u8]> {
        match name {
            ":path" => vec![self.path],
            identity::HEADER => self.identity.to_vec(),
            "upgrade" => self.upgrade.to_vec(),
            _ => vec![],
        }
    }

    fn source(&self) -> Option<Vec<u8>> {
        None
    }

    fn now(&self) -> i64 {
        self.now
    }

    fn unique(&self) -> Vec<u8> {
        b"7-1".to_vec()
    }
}

fn quota(config: &Value) -> Policies<Policy> {
    match Config::parse(config.to_string().as_bytes()).unwrap() {
        Config::Policies(quota) => *quota,
        Config::Guard => panic!(),
    }
}

fn start(config: &Value, identity: &[&str], path: &str) -> Step {
    let quota = quota(config);
    let identity: Vec<&[u8]> = identity.iter().map(|value| value.as_bytes()).collect();
    let request = Asked { identity: &identity, path: path.as_bytes(), upgrade: &[], now: NOW };
    begin(quota.target(&Subject::default()).unwrap(), &request)
}

fn ask(step: Step) -> Ask {
    match step {
        Step::Ask(ask) => ask,
        other => panic!("{other:?}"),
    }
}

fn refusal(next: Next) -> Response {
    match next {
        Next::Refuse(response) => response,
        other => panic!("{other:?}"),
    }
}

fn admitted(config: &Value) -> Meter {
    let reply: &[u8] =
        if config.get("aiquota").is_some() { b"*3\r\n$8\r\nadmitted\r\n:5\r\n:7\r\n" } else { b"$1\r\n5\r\n" };
    match ask(start(config, &["user"], "/v1/chat/completions")).pending.answer(Ok(reply)) {
        Next::Admit(admitted) => *admitted.meter,
        other => panic!("{other:?}"),
    }
}

/// The words of an encoded command.
fn words(command: &[u8]) -> Vec<String> {
    let Ok(Reply::Array(words)) = Reply::parse(command) else { panic!("{}", command.escape_ascii()) };
    words
        .iter()
        .map(|word| match word {
            Reply::Bulk(word) => String::from_utf8_lossy(word).into_owned(),
            other => panic!("{other:?}"),
        })
        .collect()
}

fn charge(ending: Ending) -> Charge {
    match ending {
        Ending::Charge(charge) => charge,
        other => panic!("{other:?}"),
    }
}
