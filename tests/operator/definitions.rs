//! What the operator watches comes late, goes and comes back, or is forgotten by the API server: it says what is missing, asks
//! little, and goes on by itself.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    apiserver::{ControlPlane, Parts},
    http::{self, Answer},
    install::{self, Tenant},
    node::Node,
    ports,
    proxy::{Ask, Fault, Proxy},
    receiver::Receiver,
    repository,
    service::Launch,
    wait,
};

use crate::stage::SOON;

/// First pause of a watch that fails, and the least of those that follow soon.
const PAUSES: [Duration; 2] = [Duration::from_millis(800), Duration::from_millis(1600)];

struct Scene {
    // Dropped in this order: who talks before whom it talks to.
    proxy: Proxy,
    receiver: Receiver,
    tenant: Tenant,
    definitions: Vec<Value>,
    health: String,
    _folder: TempDir,
}

#[tokio::test]
async fn definitions_that_come_late_or_go_are_named_and_waited_for() -> Result<()> {
    let (scene, launch) = Scene::new().await?;
    let process = launch.spawn()?;
    scene.says_what_is_missing(&["broadcasts.tallylight.dev", "mediapools.tallylight.dev"]).await?;
    scene.is_asked_little().await?;

    for definition in &scene.definitions {
        scene.define(definition).await?;
    }
    let mut operator = launch.ready(process).await?;
    ensure!(scene.readyz().await?.status == 200);
    scene.tenant.pool(&json!({})).await?;
    let node = Node::start(&scene.tenant, "live", "media-live-1").await?;
    scene.begin(&node, 2).await?;

    let broadcasts = &scene.definitions[0];
    install::remove_definition(&scene.tenant.admin, "broadcasts.tallylight.dev").await?;
    scene.says_what_is_missing(&["broadcasts.tallylight.dev"]).await?;
    scene.define(broadcasts).await?;
    scene.is_ready().await?;
    scene.begin(&node, 4).await?;

    scene.outlives_compaction(&node).await?;
    operator.process.must_run()
}

impl Scene {
    /// A cluster with everything but the definitions, of which the operator hears through a proxy.
    async fn new() -> Result<(Self, Launch)> {
        // Definitions are of the whole cluster, so it is the test's own. As the shared one it is never dropped: the watchdog ends it.
        let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start(Parts::ApiServer).await?));
        let (admin, namespace) = install::install(plane, "restart-definitions").await?;
        let tenant = Tenant { plane, admin, namespace };
        let mut definitions = Vec::new();
        for kind in ["broadcasts", "mediapools"] {
            let text = fs::read_to_string(repository::root().join(format!("crds/{kind}.yaml")))?;
            definitions.extend(install::documents(&text)?);
            install::remove_definition(&tenant.admin, &format!("{kind}.tallylight.dev")).await?;
        }
        let (folder, proxy) = (repository::folder("definitions")?, Proxy::start(plane).await?);
        let kubeconfig = proxy.kubeconfig(&tenant.operator_kubeconfig(folder.path()).await?)?;
        let health = format!("127.0.0.1:{}", ports::free()?);
        let launch = Launch::operator(folder.path(), &kubeconfig, &tenant.namespace)
            .metrics_at(&health)
            // One that elects ends when its API server is away for long.
            .args(["--leader-elect=false"]);
        let receiver = Receiver::start().await?;
        Ok((Self { proxy, receiver, tenant, definitions, health, _folder: folder }, launch))
    }

    async fn define(&self, definition: &Value) -> Result<()> {
        install::apply(&self.tenant.admin, "default", definition).await?;
        install::effective(&self.tenant.admin, std::slice::from_ref(definition)).await
    }

    async fn readyz(&self) -> Result<Answer> {
        http::get(&self.health, "/readyz").await
    }

    async fn is_ready(&self) -> Result<()> {
        wait::until("the operator to be ready", SOON, async || match self.readyz().await {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    async fn says_what_is_missing(&self, definitions: &[&str]) -> Result<()> {
        wait::until("the operator to name what is missing", SOON, async || match self.readyz().await {
            Ok(answer) if answer.status == 503 && definitions.iter().all(|name| answer.body.contains(name)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// What is not there is looked for again and again, after pauses that grow.
    async fn is_asked_little(&self) -> Result<()> {
        for kind in ["/broadcasts", "/mediapools"] {
            let lists = |ask: &Ask| ask.path.ends_with(kind);
            let asked = wait::until("four looks", SOON, async || {
                let asked: Vec<_> = self.proxy.asked().into_iter().filter(lists).collect();
                if asked.len() >= 4 { Ok(asked) } else { Err(format!("{asked:?}")) }
            })
            .await?;
            let pauses: Vec<_> = asked.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
            ensure!(
                pauses[0] >= PAUSES[0] && pauses[1..].iter().all(|pause| *pause >= PAUSES[1]),
                "{kind}: {pauses:?}"
            );
        }
        Ok(())
    }

    /// Makes a Broadcast and has a session of it.
    async fn begin(&self, node: &Node, events: usize) -> Result<()> {
        self.tenant.broadcast("show", &json!({"listenerHookURL": self.receiver.url("hook")})).await?;
        node.session("show").await?;
        self.receiver.wait_for(events, SOON).await?;
        self.tenant.settled("show", 2, SOON).await?;
        self.receiver.check_promises()
    }

    /// What happened while the operator did not watch is in no one's memory any more when it does: a real 410.
    async fn outlives_compaction(&self, node: &Node) -> Result<()> {
        let is_watch = |ask: &Ask| ask.is_watch && ask.path.ends_with("/broadcasts");
        self.proxy.script(move |ask| if is_watch(ask) { Fault::Status(503) } else { Fault::None });
        wait::until("the watch to be away", SOON, async || {
            let asked = self.proxy.asked();
            asked.iter().any(|ask| is_watch(ask) && ask.fault != Fault::None).then_some(()).context("it is there")
        })
        .await?;
        node.session("show").await?;
        self.tenant.plane.compact().await?;
        self.tenant.plane.kill_api()?;
        self.tenant.plane.start_api().await?;
        self.proxy.heal();

        let requests = self.receiver.wait_for(6, SOON).await?;
        ensure!(self.proxy.asked().iter().any(|ask| ask.is_gone), "the API server answered 410 to no watch");
        ensure!(requests.len() == 6, "{requests:#?}");
        self.tenant.settled("show", 4, SOON).await?;
        self.receiver.check_promises()
    }
}
