//! Bytes from Redis, clients and models that nobody meant: 10,000 cases each. A panic fails the test by itself; what
//! is asserted besides is that something was decided.

use super::*;
use crate::random::Random;

const REPLIES: &[&[u8]] = &[
    b"$1\r\n5\r\n",
    b"$-1\r\n",
    b":5\r\n",
    b"+OK\r\n",
    b"-ERR x\r\n",
    b"-NOSCRIPT x\r\n",
    b"-NOAUTH x\r\n",
    b"*3\r\n$8\r\nadmitted\r\n:5\r\n:7\r\n",
    b"*2\r\n$7\r\nrefused\r\n:0\r\n",
    b"*2\r\n$7\r\nbalance\r\n:150\r\n",
    b"*2\r\n$6\r\nbooked\r\n:5\r\n",
    b"*2\r\n$9\r\nmalformed\r\n$1\r\nx\r\n",
    b"*-1\r\n",
    b"$9223372036854775807\r\nx\r\n",
];

const BODIES: &[&[u8]] = &[
    br#"{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}"#,
    b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\ndata: {\"usage\":{\"total_tokens\":7}}\n\ndata: [DONE]\n\n",
    br#"[{"candidates":[{"content":{"parts":[{"text":"x"}]}}],"usageMetadata":{"totalTokenCount":9}}]"#,
    b"event: message_delta\r\ndata: {\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}\r\n\r\n",
];

fn mutated(random: &mut Random, seeds: &[&[u8]]) -> Vec<u8> {
    let mut bytes = random.pick(seeds).to_vec();
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(5) {
            0 => bytes.truncate(at),
            1 => drop(bytes.splice(at..at, random.pick(seeds).iter().copied())),
            2 => drop(bytes.splice(at..at, random.next().to_le_bytes())),
            3 => drop(bytes.splice(at..at, random.next().to_string().bytes())),
            _ => drop(bytes.splice(at..at, std::iter::repeat_n(*random.pick(b"[{\"\\*$-:\r\n0"), random.below(300)))),
        }
    }
    bytes
}

#[test]
fn no_reply_of_redis_makes_a_step_panic() {
    let mut random = Random(4);
    let (mut admitted_count, mut refused) = (0, 0);
    for _ in 0..10_000 {
        let config = if random.one_in(2) { upstream_config() } else { native_config(false) };
        let (identity, path) =
            *random.pick(&[("user", "/v1/chat/completions"), ("admin", "/v1/chat/completions/quota?consumer=c")]);
        let mut next = Next::Ask(ask(start(&config, &[identity], path)));
        let mut asked = 0;
        loop {
            next = match next {
                Next::Ask(ask) | Next::Reauthenticate(ask) => {
                    asked += 1;
                    let reply = mutated(&mut random, REPLIES);
                    ask.pending.answer(Ok(&reply))
                }
                Next::Admit(_) => break admitted_count += 1,
                Next::Refuse(_) => break refused += 1,
            };
        }
        assert!(asked <= 3, "asked {asked} times");
    }
    assert!(admitted_count > 100 && refused > 1_000, "{admitted_count} admitted, {refused} refused");
}

#[test]
fn no_body_makes_a_meter_or_a_form_panic() {
    let mut random = Random(5);
    let mut charged = 0;
    for _ in 0..10_000 {
        let mut meter = admitted(&native_config(false));
        let types: &[Option<&[u8]>] = &[
            None,
            Some(b"application/json"),
            Some(b"text/event-stream"),
            Some(b"\xff;="),
            Some(b"application/x-ndjson"),
        ];
        if !random.one_in(8) {
            meter.response_headers(Some(200), *random.pick(types), None);
        }
        let body = mutated(&mut random, BODIES);
        let size = 1 + random.below(40);
        body.chunks(size).for_each(|chunk| meter.response_body(chunk));
        if let Ending::Charge(charge) = meter.end(NOW) {
            assert!((1..=values::MAX_AMOUNT).contains(&charge.booking.tokens));
            charged += 1;
        }
        let Step::AwaitForm(form) = start(&upstream_config(), &["admin"], "/v1/chat/completions/quota/delta") else {
            panic!()
        };
        let step = form.form(&mutated(&mut random, &[b"consumer=c&value=5", b"%", b"&=+;%2"]), NOW);
        assert!(matches!(step, Step::Ask(_) | Step::Refuse(_)));
    }
    assert!(charged > 1_000, "{charged}");
}

#[test]
fn no_path_or_identity_makes_the_beginning_panic() {
    let mut random = Random(6);
    let quota = quota(&native_config(true));
    for _ in 0..10_000 {
        let path =
            mutated(&mut random, &[b"/v1/chat/completions?consumer=%41&x", b"/v1/chat/completions/quota#%", b"%2"]);
        let identity = mutated(&mut random, &[b"user", b"", b"admin"]);
        let authority = mutated(&mut random, &[b"a.com:80", b"[::1]:80", b":", b"]"]);
        let subject = Subject { authority: &authority, cluster: &path, route: &identity, consumer: b"" };
        let request = Asked { identity: &[&identity], path: &path, upgrade: &[], now: random.next().cast_signed() };
        let _ = begin(quota.target(&subject).unwrap(), &request);
    }
}
