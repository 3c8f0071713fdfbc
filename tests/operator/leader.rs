//! Several operators: one writes, the others are warm; whoever stops, dies or freezes, nothing is lost and the order is kept.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, ResourceExt as _};
use rustix::process::Signal;
use serde_json::json;
use tallylight_crds::Reason;
use tests::{
    apiserver::{ControlPlane, Parts},
    http, identity,
    install::{self, Tenant},
    node::Node,
    receiver::Receiver,
    repository,
    service::{Launch, Service},
    wait,
};

use crate::stage::{SOON, Stage};

/// A lost leader's Lease runs out after 15 s of being seen unchanged; a busy machine is slow.
const TAKE_OVER: Duration = Duration::from_secs(60);

async fn contender(stage: &Stage, name: &str) -> Result<Service> {
    stage.launch().named(name).args(["--identity", name]).start().await
}

/// Waits until the operator says that it leads.
async fn leads(operator: &Service, deadline: Duration) -> Result<()> {
    wait::until("the operator to lead", deadline, async || {
        let log = operator.process.log();
        if log.contains(" leading") { Ok(()) } else { Err(log) }
    })
    .await
}

/// Whether an operator's metric says that it leads.
async fn leading(operator: &Service) -> Result<bool> {
    let text = http::get(operator.address("metrics")?, "/metrics").await?.body;
    Ok(http::metric(&text, "tallylight_leading").context("no metric tallylight_leading")? > 0.0)
}

/// How many hooks an operator has sent, by its own log.
fn sent(operator: &Service) -> usize {
    operator.process.log().matches("delivery.attempted").count()
}

#[tokio::test]
async fn one_of_several_operators_writes_and_hands_over_when_it_stops() -> Result<()> {
    let stage = Stage::without_operator("handover", json!({})).await?;
    stage.broadcast("show").await?;
    let first = contender(&stage, "operator-a").await?;
    leads(&first, SOON).await?;
    let second = contender(&stage, "operator-b").await?;
    stage.node.session("show").await?;
    stage.tenant.settled("show", 2, SOON).await?;
    ensure!((sent(&first), sent(&second)) == (2, 0), "only the leader sends");
    let lease =
        Api::<Lease>::namespaced(stage.tenant.admin.clone(), &stage.tenant.namespace).get(identity::OPERATOR).await?;
    let owners: Vec<_> = lease.owner_references().iter().map(|owner| (&*owner.kind, &*owner.name)).collect();
    ensure!(owners == [("ServiceAccount", identity::OPERATOR)], "it is left behind by an uninstallation: {owners:?}");
    ensure!(leading(&first).await? && !leading(&second).await?);

    ensure!(first.stop().await?.success(), "SIGTERM ends it with 0");
    // Long before its Lease would have run out.
    leads(&second, Duration::from_secs(10)).await?;
    stage.node.session("show").await?;
    stage.tenant.settled("show", 4, SOON).await?;
    ensure!(sent(&second) == 2);
    stage.receiver.check_promises()
}

#[tokio::test]
async fn a_leader_that_is_killed_is_followed_by_another_that_sends_what_it_left() -> Result<()> {
    let stage = Stage::without_operator("successor", json!({})).await?;
    stage.broadcast("show").await?;
    let mut first = contender(&stage, "operator-a").await?;
    leads(&first, SOON).await?;
    let second = contender(&stage, "operator-b").await?;

    first.process.kill()?;
    stage.node.session("show").await?;
    leads(&second, TAKE_OVER).await?;
    stage.tenant.settled("show", 2, SOON).await?;
    ensure!(sent(&second) == 2);
    stage.receiver.check_promises()
}

#[tokio::test]
async fn a_leader_that_was_frozen_ends_itself_and_changes_nothing() -> Result<()> {
    let stage = Stage::without_operator("frozen", json!({})).await?;
    stage.broadcast("show").await?;
    let mut first = contender(&stage, "operator-a").await?;
    leads(&first, SOON).await?;
    let second = contender(&stage, "operator-b").await?;

    first.process.signal(Signal::STOP)?;
    stage.node.session("show").await?;
    leads(&second, TAKE_OVER).await?;
    stage.tenant.settled("show", 2, SOON).await?;
    stage.node.session("show").await?;
    first.process.signal(Signal::CONT)?;

    let status = first.process.wait(SOON).await.context("the old leader ends")?;
    ensure!(!status.success(), "it did not end in good order");
    stage.tenant.settled("show", 4, SOON).await?;
    stage.receiver.check_promises()
}

#[tokio::test]
async fn a_leader_without_an_api_server_ends_itself_and_its_next_life_ends_no_session() -> Result<()> {
    let plane = ControlPlane::start(Parts::ApiServer).await?;
    let (admin, namespace) = install::install(&plane, "leaderless").await?;
    // The other tests never see this plane; it lives until the process ends.
    let tenant = Tenant { plane: Box::leak(Box::new(plane)), admin, namespace };
    let folder = repository::folder("leaderless")?;
    tenant.pool(&json!({})).await?;
    let receiver = Receiver::start().await?;
    tenant.broadcast("show", &json!({"listenerHookURL": receiver.url("hook")})).await?;
    let node = Node::start(&tenant, "live", "media-live-1").await?;
    let kubeconfig = tenant.operator_kubeconfig(folder.path()).await?;
    let launch = Launch::operator(folder.path(), &kubeconfig, &tenant.namespace).args(["--lease-seconds=5"]);
    let mut operator = launch.start().await?;
    let owner = node.open("show").await?;
    receiver.wait_for(1, SOON).await?;

    tenant.plane.kill_api()?;
    let status = operator.process.wait(TAKE_OVER).await?;
    ensure!(!status.success(), "it did not end in good order");
    tenant.plane.start_api().await?;
    let _next_life = launch.start().await?;

    node.end("show", owner, Reason::PublisherClosed).await?;
    let requests = receiver.wait_for(2, SOON).await?;
    ensure!(requests.iter().any(|request| request.field("reason").as_deref() == Some("PublisherClosed")));
    receiver.check_promises()
}
