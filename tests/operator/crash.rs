//! kill -9 at every step between an event and its acknowledgement loses nothing, keeps the order, and what comes twice comes
//! under the id that was seen.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tests::{process::Process, receiver::Reply, wait};

use crate::stage::{SOON, Stage};

/// The steps at which the operator can be told to die, with the receiver's answers that lead there. Those that leave a lane
/// waiting come last of a group of three, which has a Broadcast of its own.
const POINTS: [(&str, Reply); 6] = [
    ("before-post", Reply::Status(200)),
    ("after-post", Reply::Status(200)),
    ("before-lane", Reply::Status(503)),
    ("before-ack", Reply::Status(200)),
    ("after-ack", Reply::Status(200)),
    ("after-lane", Reply::Status(503)),
];

/// Deaths, over all points, by two operators side by side.
const ROUNDS: usize = 500;

#[tokio::test]
async fn an_operator_that_is_killed_at_any_step_loses_nothing() -> Result<()> {
    let (one, two) =
        tokio::try_join!(die_again_and_again("crash-1", ROUNDS / 2), die_again_and_again("crash-2", ROUNDS / 2))?;
    assert_eq!(one + two, ROUNDS);
    Ok(())
}

async fn die_again_and_again(tenant: &str, rounds: usize) -> Result<usize> {
    let mut stage = Stage::without_operator(tenant, json!({})).await?;
    let mut sessions = 0;
    for round in 0..rounds {
        let name = format!("show-{}", round / 3);
        if round % 3 == 0 {
            stage.broadcast(&name).await?;
        }
        let (point, reply) = &POINTS[round % POINTS.len()];
        // Other lanes get through, so that none is put off for minutes.
        let (current, reply) = (name.clone(), reply.clone());
        stage.receiver.script(move |request| {
            if request.field("id").as_deref() == Some(&current) { reply.clone() } else { Reply::Status(200) }
        });
        // Every other time at the second passing.
        let plan = format!("{point}:{}", 1 + (round / POINTS.len()) % 2);
        let mut operator = stage.launch().var("TALLYLIGHT_CRASH_AT", &plan).spawn()?;
        sessions +=
            feed_until_death(&stage, &name, &mut operator).await.with_context(|| format!("round {round}: {plan}"))?;
    }
    stage.receiver.always(Reply::Status(200));
    stage.start_operator().await?;
    for group in 0..rounds.div_ceil(3) {
        stage.tenant.settled(&format!("show-{group}"), 2, SOON).await?;
    }
    let accepted = stage.receiver.accepted().len();
    ensure!(accepted == 2 * sessions, "{accepted} of {} events arrived", 2 * sessions);
    stage.receiver.check_promises()?;
    Ok(rounds)
}

/// Opens and ends sessions until the operator has died of its plan, and returns how many. One is enough for most steps;
/// acknowledgements that are written together pass theirs once.
async fn feed_until_death(stage: &Stage, name: &str, operator: &mut Process) -> Result<usize> {
    const PATIENCE: Duration = Duration::from_secs(3);
    for sessions in 1..=20 {
        stage.node.session(name).await?;
        if let Ok(status) = operator.wait(PATIENCE).await {
            ensure!(!status.success(), "it ended by itself: {}", operator.log());
            return Ok(sessions);
        }
    }
    bail!("it goes on; is it built with the feature crash-points?")
}

#[tokio::test]
async fn an_operator_that_is_killed_at_any_moment_loses_nothing() -> Result<()> {
    let mut stage = Stage::without_operator("kill", json!({})).await?;
    stage.broadcast("show").await?;
    stage.receiver.always(Reply::Delay(Duration::from_millis(5)));
    for round in 0..20_u64 {
        let mut operator = stage.launch().start().await?;
        stage.node.session("show").await?;
        // Not a sleep: the moments at which a process is killed are what is tested.
        let moment = tokio::time::Instant::now() + Duration::from_millis(round * 3);
        wait::until(
            "the moment",
            SOON,
            async || {
                if tokio::time::Instant::now() >= moment { Ok(()) } else { Err("not yet") }
            },
        )
        .await?;
        operator.process.kill()?;
    }
    stage.start_operator().await?;

    stage.tenant.settled("show", 40, SOON).await?;
    assert_eq!(stage.receiver.accepted().len(), 40);
    stage.receiver.check_promises()
}
