//! A store that fails in every way while requests flow through the built module: only documented answers, nothing
//! stuck, nothing booked twice. Outcomes and counts; `cargo xtask bench --faults` has the times.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::bench::faults::{Fault, Kind, Overshoot, Size, overshoot, play};

const SMALL: Size =
    Size { timeout: Duration::from_millis(300), loops: 20, answers: 40, streams: 10, lasts: Duration::ZERO };

async fn play_all(faults: &[Fault]) -> Result<()> {
    for kind in Kind::ALL {
        for fault in faults {
            let played = play(&kind, *fault, SMALL).await?;
            let (name, books) = (fault.name(), &played.books);
            ensure!(played.traps == 0 && played.stuck == 0, "{name}: {played:?}");
            ensure!((books.twice, books.unreported, books.refused) == (0, 0, 0), "{name}: {books:?}");
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
    play_all(&[Fault::Nothing, Fault::Killed, Fault::Stopped, Fault::Blackholed, Fault::NewPassword]).await
}

#[tokio::test]
async fn a_store_whose_replies_break_books_nothing_twice() -> Result<()> {
    play_all(&[Fault::Cut, Fault::Stuck, Fault::Lost, Fault::Late]).await
}

#[tokio::test]
async fn a_store_that_says_no_books_nothing_twice() -> Result<()> {
    play_all(&[Fault::ReadOnly, Fault::Loading, Fault::Full, Fault::CannotSave, Fault::Flushed]).await
}

#[tokio::test]
async fn check_admits_all_that_come_before_the_first_charge() -> Result<()> {
    for (when, measured) in overshoot().await? {
        let Overshoot { admission, admitted, refused, left } = measured;
        ensure!(admission == "Check" && admitted + refused == 500, "{measured:?}");
        ensure!(left == 100 * (50 - i64::try_from(admitted)?), "{measured:?}");
        // Who was decided over before anybody was charged was admitted.
        ensure!(when == "at once" || refused == 0, "{measured:?}");
        // One that is refused has seen a balance that is spent.
        ensure!(refused == 0 || left <= 0, "{measured:?}");
    }
    Ok(())
}
