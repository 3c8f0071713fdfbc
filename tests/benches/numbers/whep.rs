//! Viewers over WHEP: what a packet costs beside other stacks that send the same clip to the same viewers, and what many cost.

mod stack;

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    repository,
    webrtc::{self, Loss, Options},
};

pub(crate) use self::stack::alone;
use self::stack::{Running, Stack};
use crate::{
    load::{self, HD_CLIP, SMALL_CLIP, number},
    machine, say,
    spread::Spread,
};

const ROUNDS: usize = 3;

/// 4 Mbit/s to a hundred, beside the high-level crate.
pub(crate) async fn fan_out() -> Result<()> {
    let case = Case { clip: HD_CLIP, viewers: 100, more: &[] };
    let rounds = in_turn(&[Stack::OURS, Stack::Webrtc], &case).await?;
    table("WHEP, 4 Mbit/s to 100 viewers, pictures alone", &rounds);
    let with_sound = case.measure(Stack::OURS, &["--sound"]).await?;
    say(&format!("\nWith sound, of which each packet is a call: {:.2} µs a packet", us(&with_sound)?));
    ratios("µs a packet, `webrtc` to ours", "≥ 4.5", &rounds, 1, |theirs, ours| Ok(us(theirs)? / us(ours)?))
}

/// 600 kbit/s to three hundred, beside `rtc` and Janus.
pub(crate) async fn small() -> Result<()> {
    let case = Case { clip: SMALL_CLIP, viewers: 300, more: &[] };
    let mut stacks = vec![Stack::OURS, Stack::Rtc];
    match stack::janus() {
        Ok(()) => stacks.push(Stack::Janus),
        Err(error) => say(&format!("\nWithout Janus: {error:#}")),
    }
    let rounds = in_turn(&stacks, &case).await?;
    table("WHEP, 600 kbit/s to 300 viewers, pictures alone", &rounds);
    let per_core = |report: &Value| number(report, "/server_mbits_a_core");
    for (index, stack) in stacks.iter().enumerate().skip(1) {
        let must = if *stack == Stack::Janus { "≥ 8" } else { "≥ 3" };
        let title = format!("Mbit/s a core, ours to {}", stack.name());
        ratios(&title, must, &rounds, index, |theirs, ours| Ok(per_core(ours)? / per_core(theirs)?))?;
    }
    Ok(())
}

/// One worker, and two of half the viewers each. The second has the load client's core, so throughput is what the same time would do.
pub(crate) async fn workers() -> Result<()> {
    let case = Case { clip: HD_CLIP, viewers: 100, more: &["--light"] };
    let rounds = in_turn(&[Stack::Ours { workers: 1 }, Stack::Ours { workers: 2 }], &case).await?;
    table("Workers, 4 Mbit/s to 100 viewers", &rounds);
    ratios("throughput of two at the same time each", "≥ 1.8", &rounds, 1, |two, one| Ok(2.0 * us(one)? / us(two)?))
}

/// The slope between few viewers and many.
pub(crate) async fn memory() -> Result<()> {
    const STEPS: [usize; 2] = [100, 500];
    let mut resident = Vec::new();
    for viewers in STEPS {
        let case = Case { clip: SMALL_CLIP, viewers, more: &["--light", "--rate", "200"] };
        resident.push(number(&case.measure(Stack::OURS, &[]).await?, "/server_resident_kib")?);
    }
    let [least, most] = [resident.first(), resident.last()].map(|value| value.copied().unwrap_or(f64::NAN));
    let slope = (most - least) * 1.024 / (STEPS[1] - STEPS[0]) as f64;
    say(&format!(
        "\n### Memory a viewer\n\n{:.1} MiB at {}, {:.1} MiB at {}: {slope:.1} kB a viewer (must be ≤ 60)",
        least / 1024.0,
        STEPS[0],
        most / 1024.0,
        STEPS[1]
    ));
    Ok(())
}

/// A thousand who come within 10 s, while the publisher goes on.
pub(crate) async fn joins() -> Result<()> {
    // the publisher's report begins 7 s after it, and lasts until all have come
    let running = Running::start_for(Stack::OURS, SMALL_CLIP, 20).await?;
    machine::rest(Duration::from_secs(6)).await;
    let arguments = ["--viewers", "1000", "--rate", "100", "--light", "--warm-up", "1", "--seconds", "5"];
    let report = view(&running, &arguments).await?;
    let field = |pointer: &str| number(&report, pointer);
    let publisher = running.publisher().await?;
    say(&format!(
        "\n### 1,000 viewers join within 10 s\n\n| | | must |\n| --- | --- | --- |\n\
         | viewers who have media | {} | 1,000 |\n\
         | from the offer to the first packet, ms, p50 / p99 / most | {:.0} / {:.0} / {:.0} | p99 ≤ 1,000 |\n\
         | received of what was sent, % | {:.3} | |\n\
         | server, cores | {:.2} | |\n\
         | the publisher: latest message, ms / writes that were not taken | {:.0} / {} | 0 taken late |",
        field("/viewers")?,
        field("/join_ms/p50")?,
        field("/join_ms/p99")?,
        field("/join_ms/most")?,
        100.0 * (1.0 - field("/lost")?),
        field("/server_cores")?,
        number(&publisher, "/sent/latest_ms")?,
        number(&publisher, "/sent/blocked")?,
    ));
    Ok(())
}

/// With nobody there, a worker sleeps.
pub(crate) async fn idle() -> Result<()> {
    const REST: Duration = Duration::from_secs(5);
    let folder = repository::folder("idle")?;
    let server = alone(folder.path(), 2).await?;
    let process = server.process.id();
    machine::rest(Duration::from_secs(1)).await;
    let before = wakeups(process)?;
    machine::rest(REST).await;
    let woken = wakeups(process)? - before;
    say(&format!("\n### Idle\n\n{woken} wake-ups of 2 workers in {} s (must be 0)", REST.as_secs()));
    Ok(())
}

/// What viewers see who lose a packet in twenty each way.
pub(crate) async fn loss() -> Result<()> {
    const VIEWERS: usize = 8;
    const WATCH: Duration = Duration::from_secs(20);
    let running = Running::start(Stack::OURS, HD_CLIP).await?;
    let options = Options { loss: Loss { received: 0.05, sent: 0.05 }, ..Options::default() };
    let mut viewers = Vec::new();
    for _ in 0..VIEWERS {
        let mut viewer = webrtc::play(&running.url, &options).await?;
        viewer.connected().await?;
        viewers.push(viewer);
    }
    machine::rest(Duration::from_secs(3)).await;
    let before: Vec<_> = viewers.iter().map(|viewer| viewer.seen().video).collect();
    machine::rest(WATCH).await;
    let (mut frozen, mut lost, mut recovered, mut packets) = (Vec::new(), 0, 0, 0);
    for (viewer, before) in viewers.iter().zip(before) {
        let now = viewer.seen().video;
        frozen.push((now.frozen - before.frozen).as_secs_f64() / WATCH.as_secs_f64() * 100.0);
        lost += now.lost - before.lost;
        recovered += now.recovered - before.recovered;
        packets += now.packets - before.packets;
    }
    say(&format!(
        "\n### 5 % loss both ways, 4 Mbit/s\n\n{VIEWERS} viewers for {} s: frozen {} % of the time (must be ≤ 1); of {packets} packets {recovered} \
         came late or again, {lost} not at all",
        WATCH.as_secs(),
        Spread::of(frozen)
    ));
    Ok(())
}

struct Case {
    clip: &'static str,
    viewers: usize,
    /// Of the load client.
    more: &'static [&'static str],
}

impl Case {
    async fn measure(&self, stack: Stack, more: &[&str]) -> Result<Value> {
        let running = Running::start(stack, self.clip).await?;
        let viewers = self.viewers.to_string();
        let arguments: Vec<_> = ["--viewers", &viewers].iter().chain(self.more).chain(more).copied().collect();
        let report = view(&running, &arguments).await?;
        let lost = number(&report, "/lost")?;
        // who loses packets looks cheap
        ensure!(lost < 0.02, "{} lost {:.1} % of the packets: {report}", stack.name(), lost * 100.0);
        Ok(report)
    }
}

/// Rounds of the same for each, one after the other.
async fn in_turn(stacks: &[Stack], case: &Case) -> Result<Vec<Vec<(Stack, Value)>>> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let mut round = Vec::new();
        for stack in stacks {
            round.push((*stack, case.measure(*stack, &[]).await?));
        }
        rounds.push(round);
    }
    Ok(rounds)
}

fn table(title: &str, rounds: &[Vec<(Stack, Value)>]) {
    say(&format!(
        "\n### {title}\n\n{ROUNDS} rounds in turn; median (least–greatest)\n\n\
         | | µs a packet | Mbit/s a core | core % | MiB | join ms p50 | p99 | packets/s | lost % | load client % |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    ));
    for index in 0..rounds.first().map_or(0, Vec::len) {
        let of = |pointer: &str, factor: f64| {
            let entries = rounds.iter().filter_map(|round| round.get(index));
            Spread::of(entries.map(|(_, report)| number(report, pointer).map_or(f64::NAN, |value| value * factor)))
        };
        let name = rounds.first().and_then(|round| round.get(index)).map(|(stack, _)| stack.name());
        say(&format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            name.unwrap_or_default(),
            of("/server_us_a_packet", 1.0),
            of("/server_mbits_a_core", 1.0),
            of("/server_cores", 100.0),
            of("/server_resident_kib", 1.0 / 1024.0),
            of("/join_ms/p50", 1.0),
            of("/join_ms/p99", 1.0),
            of("/packets_per_second", 1.0),
            of("/lost", 100.0),
            of("/client_cores", 100.0),
        ));
    }
}

/// One ratio a round, of the stack at an index and the first.
fn ratios(
    title: &str,
    must: &str,
    rounds: &[Vec<(Stack, Value)>],
    index: usize,
    of: impl Fn(&Value, &Value) -> Result<f64>,
) -> Result<()> {
    let mut ratios = Vec::new();
    for round in rounds {
        let (Some((_, first)), Some((_, other))) = (round.first(), round.get(index)) else { continue };
        ratios.push(of(other, first)?);
    }
    say(&format!("\nRatio of each round, {title}: {} (must be {must})", Spread::of(ratios)));
    Ok(())
}

fn us(report: &Value) -> Result<f64> {
    number(report, "/server_us_a_packet")
}

/// Runs the load client on the core that the server does not have.
async fn view(running: &Running, arguments: &[&str]) -> Result<Value> {
    let mut command = std::process::Command::new("taskset");
    command.args(["--cpu-list", "1"]).arg(repository::binary("webrtc-load")?).arg("view");
    command.args(["--url", &running.url, "--pid", &running.pid().to_string()]).args(running.arguments());
    command.args(arguments);
    load::report(running.folder(), command).await
}

/// Times that the workers of a process have been woken.
fn wakeups(process: u32) -> Result<u64> {
    let (mut sum, mut workers) = (0, 0);
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        if !fs::read_to_string(task.join("comm"))?.starts_with("webrtc-") {
            continue;
        }
        let status = fs::read_to_string(task.join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.context("no count of switches")?.trim().parse::<u64>()?;
        workers += 1;
    }
    ensure!(workers > 0, "there are no workers");
    Ok(sum)
}
