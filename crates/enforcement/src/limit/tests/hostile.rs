//! Bytes from clients and Redis that nobody meant, 10,000 cases: a panic fails the test by itself; what is asserted
//! besides is that something was decided, and that keys stay under their rule.

use super::*;
use crate::random::Random;

fn config(random: &mut Random) -> Value {
    let item = |limiter: &str, name: &str, key: &str| json!({limiter: name, "limit_keys": [{"key": key, "token_per_minute": 5}]});
    let items = json!({"rule_items": [
        item("limit_by_per_header", "k", "regexp:^(a|b)*.?$"),
        item("limit_by_header", "k", "a"),
        item("limit_by_per_param", "p", "*"),
        item("limit_by_per_cookie", "c", "*"),
        item("limit_by_per_ip", "from-header-ip", "::/0"),
        item("limit_by_per_ip", "from-header-ip", "0.0.0.0/0"),
        item("limit_by_per_consumer", "", "*"),
    ]});
    if random.one_in(2) { upstream(items) } else { v1(items) }
}

fn mutated(random: &mut Random, seeds: &[&[u8]]) -> Vec<u8> {
    let mut bytes = random.pick(seeds).to_vec();
    for _ in 0..random.below(5) {
        let at = random.below(bytes.len() + 1);
        match random.below(4) {
            0 => bytes.truncate(at),
            1 => drop(bytes.splice(at..at, random.pick(seeds).iter().copied())),
            2 => drop(bytes.splice(at..at, random.next().to_le_bytes())),
            _ => drop(
                bytes.splice(at..at, std::iter::repeat_n(*random.pick(b"[]:;=&%,. \r\n*$-0{}"), random.below(300))),
            ),
        }
    }
    bytes
}

#[test]
fn no_request_and_no_reply_makes_a_step_panic() {
    const REPLIES: &[&[u8]] = &[
        b"*1\r\n*3\r\n:5\r\n:6\r\n:60\r\n",
        b"*3\r\n:5\r\n:5\r\n:60\r\n",
        b"*2\r\n*3\r\n:5\r\n:0\r\n:60\r\n*3\r\n:5\r\n$1\r\n9\r\n:60\r\n",
        b"*3\r\n*3\r\n:5\r\n:0\r\n:60\r\n*3\r\n:5\r\n:0\r\n:60\r\n*3\r\n:5\r\n:0\r\n:60\r\n",
        b"-NOSCRIPT x\r\n",
        b"-NOAUTH x\r\n",
        b"-ERR x\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
    ];
    let mut random = Random(21);
    let configs: Vec<Policies<Policy>> = (0..8).map(|_| policies(&config(&mut random))).collect();
    let (mut passed, mut refused, mut went_on) = (0, 0, 0);
    for _ in 0..10_000 {
        let path = mutated(&mut random, &[b"/v1/chat/completions?p=%41&x", b"/?p=a;b&p=%zz&p=+", b"%2"]);
        let mut headers = vec![(":path".to_owned(), path)];
        for (name, seeds) in [
            ("k", &[&b"a"[..], b"abab\xff", b""][..]),
            ("cookie", &[b"c=1; c=2", b"x=1;c==", b";"]),
            ("ip", &[b"10.0.0.1:80", b"[::1]:80, x", b"::ffff:1.2.3.4", b"]"]),
            ("x-mse-consumer", &[b"user", b"", b"{x}"]),
        ] {
            for _ in 0..random.below(3) {
                headers.push((name.to_owned(), mutated(&mut random, seeds)));
            }
        }
        let target = random.pick(&configs);
        let step = Limits::begin(target.target(&Subject::default()).unwrap(), &Asked { headers, source: None });
        let ask = match step {
            Step::Pass | Step::Spare => {
                passed += 1;
                continue;
            }
            Step::Refuse(_) => {
                refused += 1;
                continue;
            }
            Step::Ask(ask) => ask,
            Step::AwaitForm(never) => match never {},
            Step::AwaitBody(_) => panic!("nothing wants a body"),
        };
        let mut next = Next::Ask(ask);
        let mut asked = 0;
        loop {
            next = match next {
                Next::Ask(ask) | Next::Reauthenticate(ask) => {
                    asked += 1;
                    assert!(asked <= 3);
                    ask.pending.answer(Ok(&mutated(&mut random, REPLIES)))
                }
                Next::Admit(admitted) => {
                    went_on += 1;
                    let mut meter = admitted.meter;
                    meter.response_body(br#"{"usage":{"total_tokens":7}}"#);
                    if let Ending::Charge(charge) = meter.end(NOW) {
                        let _ = charge.booking.answer(Ok(&mutated(&mut random, REPLIES)));
                    }
                    break;
                }
                Next::Refuse(_) => {
                    refused += 1;
                    break;
                }
            };
        }
    }
    assert!(passed > 100 && refused > 500 && went_on > 1_000, "{passed} {refused} {went_on}");
}
