//! A store that fails in every way while requests flow through the built module: only documented answers, nothing
//! stuck, nothing booked twice. Outcomes and counts; `cargo xtask bench --faults` has the times.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::bench::faults::{
    FULL, Fault, HEAD, HEAD_RESERVING, Kind, Overshoot, REQUESTS, Size, measure, overshoot, play,
};

const SMALL: Size =
    Size { timeout: Duration::from_millis(300), loops: 20, answers: 40, streams: 10, lasts: Duration::ZERO, ..FULL };

async fn play_all(kinds: &[Kind], faults: &[Fault]) -> Result<()> {
    for kind in kinds {
        for fault in faults {
            let played = play(kind, *fault, SMALL).await?;
            let (name, books) = (fault.name(), &played.books);
            ensure!(played.traps == 0 && played.stuck == 0, "{name}: {played:?}");
            ensure!((books.twice, books.unreported, books.refused) == (0, 0, 0), "{name}: {books:?}");
            ensure!(played.holds.leaked == 0, "{name}: {:?}", played.holds);
            let charged = books.booked + books.unknown;
            let answers = &played.counts.answers;
            ensure!(Some(&charged) == answers.get(kind.admitted()), "{name}: {books:?}, {answers:?}");
            let documented = |answer: &&str| [kind.admitted(), kind.failing()].contains(answer);
            ensure!(answers.keys().all(documented), "{name}: {answers:?}");
            // What reached Redis is booked, though its answer never came.
            let reached = matches!(fault, Fault::Stopped | Fault::Stuck | Fault::Late);
            ensure!(books.unknown_booked > 0 || !reached, "{name}: {books:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_store_that_goes_away_stops_no_request_for_longer_and_books_nothing_twice() -> Result<()> {
    play_all(&Kind::ALL, &[Fault::Nothing, Fault::Killed, Fault::Stopped, Fault::Blackholed, Fault::NewPassword]).await
}

#[tokio::test]
async fn a_store_whose_replies_break_books_nothing_twice() -> Result<()> {
    play_all(&Kind::ALL, &[Fault::Cut, Fault::Stuck, Fault::Lost, Fault::Late]).await
}

#[tokio::test]
async fn a_store_that_says_no_books_nothing_twice() -> Result<()> {
    play_all(&Kind::ALL, &[Fault::ReadOnly, Fault::Loading, Fault::Full, Fault::CannotSave, Fault::Flushed]).await
}

#[tokio::test]
async fn a_store_that_fails_keeps_nothing_held_for_longer_than_a_hold_lasts() -> Result<()> {
    play_all(&Kind::RESERVING, &[Fault::Killed, Fault::Late]).await
}

#[tokio::test]
async fn check_admits_all_that_come_before_the_first_charge_and_reserve_what_suffices() -> Result<()> {
    for measured in overshoot().await? {
        let Overshoot { kind, decided_first, admitted, refused, over } = measured;
        ensure!(admitted + refused == REQUESTS, "{measured:?}");
        if kind.admission() == "Reserve" {
            // Each costs what it was estimated at: exactly as many as there are tokens for, whenever they are charged.
            ensure!((admitted, over) == (50, 0), "{measured:?}");
            continue;
        }
        // Who was decided over before anybody was charged was admitted.
        ensure!(!decided_first || (refused, over) == (0, 45_000), "{measured:?}");
        // Who is refused has seen that nothing is left.
        ensure!(refused == 0 || admitted >= 50, "{measured:?}");
    }
    Ok(())
}

#[tokio::test]
async fn with_reserve_no_more_is_overspent_than_what_the_admitted_cost_beyond_their_estimates() -> Result<()> {
    for kind in Kind::RESERVING {
        let Overshoot { admitted, over, .. } = measure(kind, true, 130).await?;
        ensure!((admitted, over) == (50, 50 * 30), "{}: {admitted} admitted, {over} tokens over", kind.name);
    }
    Ok(())
}

#[test]
fn the_documented_table_has_every_fault_with_its_answers() -> Result<()> {
    let document = std::fs::read_to_string(testbed::workspace().join("docs/reliability.md"))?;
    let cells =
        |line: &str| -> Vec<String> { line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect() };
    let kinds = Kind::ALL.map(|kind| (kind, HEAD.as_slice())).into_iter();
    for (kind, head) in kinds.chain(Kind::RESERVING.map(|kind| (kind, HEAD_RESERVING.as_slice()))) {
        let (_, table) = document.split_once(&format!("\n### {}\n", kind.title())).context("no such section")?;
        let mut rows = table.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
        ensure!(rows.next().map(cells).is_some_and(|cells| cells == head), "{}", kind.title());
        let found: Vec<Vec<String>> = rows.skip(1).map(|row| cells(row)[..2].to_vec()).collect();
        let played = Fault::ALL.map(|fault| vec![fault.name().to_owned(), fault.answered(&kind).to_owned()]);
        ensure!(found == played, "{}: {found:#?}", kind.title());
    }
    Ok(())
}
