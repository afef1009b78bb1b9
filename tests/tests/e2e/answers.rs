//! The recorded answers of real APIs through the built module: cut at every byte, and with the client leaving behind
//! every event. What counts is the balance in real Redis. What it must be comes from the recordings, or, where a client
//! leaves early, from a few lines here that share nothing with the scanner.

mod bed;
mod host;
mod recorded;

use anyhow::{Result, ensure};
use bytes::Bytes;
use testbed::gateway::VmModule;
use testbed::{After, Answer, Redis, RedisOptions};

use bed::{Bed, Case};
use host::Host;
use recorded::{FLAVORS, Flavor, documents, recorded, total};

/// More than all exchanges together that share a balance use.
const BALANCE: i64 = 1_000_000_000;

#[test]
fn the_expectation_of_a_whole_answer_is_what_its_recording_states() -> Result<()> {
    for answer in recorded()? {
        let found = total(&documents(&answer.body, &answer.content_type));
        ensure!(found == answer.total.filter(|total| *total > 0), "{}: {found:?}", answer.name);
    }
    Ok(())
}

async fn every_byte(flavor: Flavor) -> Result<()> {
    let (answers, redis) = (recorded()?, Redis::start(RedisOptions::default()).await?);
    let module = VmModule::load(&testbed::module("ai-quota")?)?;
    let mut host = Host::new(&module, flavor, &answers, &redis).await?;
    let mut cases = 0;
    for (number, answer) in answers.iter().enumerate() {
        cases += host.take_apart(answer, &number.to_string()).await?;
    }
    let bytes: usize = answers.iter().map(|answer| answer.body.len()).sum();
    ensure!(cases == bytes + 2 * answers.len(), "{cases} cases");
    Ok(())
}

#[tokio::test]
async fn every_answer_costs_a_native_policy_the_same_with_a_border_at_every_byte() -> Result<()> {
    every_byte(Flavor::Native).await
}

#[tokio::test]
async fn every_answer_costs_upstream_configuration_the_same_with_a_border_at_every_byte() -> Result<()> {
    every_byte(Flavor::Upstream).await
}

#[tokio::test]
async fn every_answer_costs_the_same_over_http_however_it_is_cut() -> Result<()> {
    let answers = recorded()?;
    let mut cases = Vec::new();
    for (flavor, recorded) in FLAVORS.iter().flat_map(|flavor| answers.iter().map(|recorded| (*flavor, recorded))) {
        let whole = Bytes::from(recorded.body.clone());
        let mut add = |how: String, chunks: Vec<Bytes>| {
            let answer = Answer { status: recorded.status, ..Answer::ok(&recorded.content_type, chunks) };
            let what = format!("{flavor:?}, {:?}, {how}", recorded.name);
            let cost = recorded.cost(flavor);
            cases.push(Case {
                consumer: String::new(),
                what,
                flavor,
                path: recorded.path.clone(),
                answer,
                leaves: None,
                cost,
            });
        };
        add("whole".to_owned(), vec![whole.clone()]);
        add("byte by byte".to_owned(), whole.chunks(1).map(|byte| whole.slice_ref(byte)).collect());
        // Each byte has a border before it in one of the seven.
        for offset in 0..7.min(whole.len()) {
            let (head, tail) = whole.split_at(offset);
            let chunks = [head].into_iter().chain(tail.chunks(7)).map(|chunk| whole.slice_ref(chunk));
            add(format!("by seven from {offset}"), chunks.collect());
        }
    }
    Bed::new(&answers).await?.play(cases).await
}

#[tokio::test]
async fn a_client_that_leaves_behind_any_event_owes_the_last_usage_or_the_estimate() -> Result<()> {
    let answers = recorded()?;
    let mut cases = Vec::new();
    for (flavor, recorded) in FLAVORS.iter().flat_map(|flavor| answers.iter().map(|recorded| (*flavor, recorded))) {
        let events = recorded.events();
        for leaves in events.iter().copied() {
            let sent = &recorded.body[..leaves];
            let borders = events.windows(2).filter(|pair| pair[1] <= leaves);
            let chunks = borders.map(|pair| Bytes::from(recorded.body[pair[0]..pair[1]].to_owned()));
            let answer = Answer { status: recorded.status, ..Answer::ok(&recorded.content_type, chunks) };
            let seen = total(&documents(sent, &recorded.content_type));
            cases.push(Case {
                consumer: String::new(),
                what: format!("{flavor:?}, {:?}, left after {leaves} of {} bytes", recorded.name, recorded.body.len()),
                flavor,
                path: recorded.path.clone(),
                answer: answer.then(After::Stall),
                leaves: Some(leaves),
                cost: flavor.cost(recorded.status, seen, sent, &recorded.content_type),
            });
        }
    }
    Bed::new(&answers).await?.play(cases).await
}
