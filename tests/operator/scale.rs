//! Many nodes, many Broadcasts and a steady rate of sessions, at a size that any machine carries: what must hold at every size.
//! `tests/bench.sh scale` measures the same at the size that is promised.

use anyhow::{Result, ensure};
use kube::Api;
use serde_json::json;
use tallylight_crds::MediaPool;
use tests::{
    fleet::{self, Fleet},
    install,
    kubelet::Kubelet,
    receiver::Receiver,
    repository,
    service::Launch,
    wait,
};

use crate::stage::SOON;

const NODES: i64 = 50;
const BROADCASTS: usize = 500;
/// Sessions, of as many Broadcasts.
const SESSIONS: usize = 150;
/// Starts, and then ends, a second.
const RATE: u32 = 15;

#[tokio::test]
async fn hundreds_of_sessions_on_many_nodes_reach_the_receiver_once_and_in_order() -> Result<()> {
    let tenant = install::tenant("scale").await?;
    let folder = repository::folder("scale")?;
    let receiver = Receiver::start().await?;
    let kubeconfig = tenant.operator_kubeconfig(folder.path()).await?;
    let launch = Launch::operator(folder.path(), &kubeconfig, &tenant.namespace)
        .args(["--media-node-image=localhost/tallylight/media-node:test"]);
    let operator = launch.start().await?;
    let _kubelet = Kubelet::start(tenant.admin.clone(), &tenant.namespace);
    tenant.pool(&json!({"nodes": {"minNodes": NODES, "maxNodes": NODES}})).await?;
    fleet::broadcasts(&tenant, BROADCASTS, &json!({"listenerHookURL": receiver.url("hook")})).await?;
    let pools = Api::<MediaPool>::namespaced(tenant.admin.clone(), &tenant.namespace);
    wait::until("all nodes to serve", SOON * 2, async || {
        let pool = pools.get("live").await.map_err(|error| error.to_string())?;
        let ready = pool.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
        if i64::from(ready) == NODES { Ok(()) } else { Err(format!("{:?}", pool.status)) }
    })
    .await?;

    let fleet = Fleet::start(&tenant).await?;
    let live = fleet.open((0..SESSIONS).map(fleet::name), RATE).await?;
    // Half of the sessions end before an operator that has forgotten everything, half after it.
    let (before, after) = live.split_at(SESSIONS / 2);
    fleet.end(before.to_vec(), RATE).await?;
    operator.stop().await?;
    let _operator = launch.named("again").start().await?;
    fleet.end(after.to_vec(), RATE).await?;

    receiver.wait_for(2 * SESSIONS, SOON * 2).await?;
    for index in 0..SESSIONS {
        tenant.settled(&fleet::name(index), 2, SOON).await?;
    }
    receiver.check_promises()?;
    let came = receiver.accepted().len();
    ensure!(came == 2 * SESSIONS, "{came} events came of {}", 2 * SESSIONS);
    let refused: Vec<_> =
        tenant.plane.calls(&tenant.namespace)?.into_iter().filter(|call| call.status == 403).collect();
    assert_eq!(refused, []);
    Ok(())
}
